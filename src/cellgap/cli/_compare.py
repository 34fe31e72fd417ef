"""``cellgap compare``: several models under one split, space and encoder, scored in one table."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from cellgap.cli._compare_file import SHARED, ComparisonFile, innermost, read_comparison
from cellgap.cli._run_file import RunFile
from cellgap.cli._say import note, show
from cellgap.errors import ConditionError

if TYPE_CHECKING:
    from cellgap.evaluate import Evaluation
    from cellgap.study import Split
    from cellgap.transport import AbstractMap, Codes

MEASURED_ONLY = ("Monge", "CellOT", "EntropicMap", "QuantileMap", "PerCondition")
"""Kinds that answer for conditions they were trained on, and for no others."""


def compare(
    run_file: Path,
    /,
    *,
    folder: Path | None = None,
    changes: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    n_cells: Annotated[int, Parameter(validator=Number(gte=1))] = 1000,
    n_draws: Annotated[int, Parameter(validator=Number(gte=1))] = 5,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Fit several models under one split and score them in one table; the same command continues what was stopped.

    Parameters
    ----------
    run_file
        TOML file as of `cellgap fit`; [compare] models = ["ConditionalMonge", "FlowMatching"] says which models.
    folder
        Where to keep everything; replaces the folder of the file.
    changes
        Replace values of the file: --set run.seed=1.
    n_cells
        Most cells of each population in a draw.
    n_draws
        Draws of cells.
    quiet
        Show no progress.
    """
    comparison = read_comparison(run_file, changes, folder)
    try:
        split, models, left_out = fit_models(comparison, quiet=quiet)
    except KeyboardInterrupt:
        if not quiet:
            note(f"interrupted; the work is kept in {comparison.folder}: run the same command again to continue.")
        return 130
    found = _scored(comparison, split, models, left_out, n_cells=n_cells, n_draws=n_draws, progress=not quiet)
    page = _page(comparison, split, models, left_out, found)
    show(found)
    for name, reason in left_out.items():
        show(f"* {name}: not in the table ({reason.rstrip('.')})")
    show(
        f"scores: {comparison.folder}/table.csv, summary.csv, comparisons.csv, gaps.csv",
        f"report: {page}",
        f"next:   cellgap predict {comparison.folder}/models/{next(iter(models))}",
    )
    return 0


def fit_models(
    comparison: ComparisonFile, *, quiet: bool = False
) -> "tuple[Split, dict[str, AbstractMap], dict[str, str]]":
    """Return the split, the models by name, and the reason for every model that has no answer.

    Cells are encoded once for all models. A model that is in its folder already is loaded; one that was stopped is
    continued.

    Raises
    ------
    CellgapError
        Anything the user got wrong; ConditionError where no model has an answer.
    KeyboardInterrupt
        Ctrl-C: what was done so far is kept.
    """
    from cellgap.cli._run_folder import MODEL, claim, split_of
    from cellgap.settings import from_dict
    from cellgap.study import Design, Study
    from cellgap.transport import Codes, load

    # Before the data are read; what may have no answer gets a folder when that is known.
    for run in comparison.runs.values():
        if innermost(run.model)["kind"] not in MEASURED_ONLY:
            claim(run)
    shared = comparison.shared
    claim(shared)
    study = Study.read(shared.data, Design.from_dict(shared.design), backed=shared.backed)
    split = split_of(shared, study)
    if not quiet:
        n_train, n_scored = len(split.train_conditions), len(split.scored_conditions)
        note(f"{study!r}")
        note(f"{split.kind}: {n_train} conditions to train on, {n_scored} to score")
    models: dict[str, AbstractMap] = {}
    left_out: dict[str, str] = {}
    codes: Codes | None = None
    for name, run in comparison.runs.items():
        if reason := _no_answer(innermost(run.model)["kind"], split):
            left_out[name] = reason
            continue
        claim(run)
        if (run.folder / MODEL).exists():
            models[name] = load(run.folder)
            continue
        split_of(run, study)
        if not quiet:
            note(f"fitting {name}")
        if codes is None:
            codes = Codes.of(split, *(from_dict(shared.model[key]) for key in SHARED), progress=not quiet)
        try:
            models[name] = _fitted(run, codes, quiet)
        except ConditionError as error:
            left_out[name] = str(error)
    if not models:
        raise ConditionError(f"no model has an answer: {'; '.join(f'{k}: {v}' for k, v in left_out.items())}")
    return split, models, left_out


def _no_answer(kind: str, split: "Split") -> str:
    """Return why a kind of model cannot answer any condition that is scored; empty where it can."""
    trained = set(split.train_conditions)
    if kind not in MEASURED_ONLY or any(c in trained for c in split.scored_conditions):
        return ""
    return f"{kind} answers for conditions it was trained on, and the split scores only others."


def _fitted(run: RunFile, codes: "Codes", quiet: bool) -> "AbstractMap":
    import jax.random as jr

    from cellgap.settings import from_dict

    estimator = from_dict(run.model)
    options: dict[str, Any] = {"key": jr.key(run.seed)}
    if "folder" in inspect.signature(estimator.fit_codes).parameters:
        options |= {"folder": run.folder, "progress": not quiet}
    fitted = estimator.fit_codes(codes, **options)
    if getattr(fitted, "stopped", "") == "interrupted":
        raise KeyboardInterrupt
    fitted.save(run.folder, header={"run": run.to_dict()})
    return fitted


def _scored(
    comparison: ComparisonFile,
    split: "Split",
    models: "Mapping[str, AbstractMap]",
    left_out: Mapping[str, str],
    *,
    n_cells: int,
    n_draws: int,
    progress: bool,
) -> "Evaluation":
    """Return the scores of all models after writing them, the gaps and the settings into the folder."""
    import pandas as pd
    import tomli_w

    from cellgap.evaluate import evaluate
    from cellgap.storage import replace as write

    found = evaluate(models, split, n_cells=n_cells, n_draws=n_draws, progress=progress)
    gaps = [
        {"model": name, "gap": g.name, "value": g.value, "scale": g.scale, "meaning": g.meaning, "remedy": g.remedy}
        for name, model in models.items()
        for g in model.gaps()
    ]
    columns = pd.Index(["model", "gap", "value", "scale", "meaning", "remedy"])
    frames = {
        "table": found.table,
        "summary": found.summary(),
        "comparisons": found.comparisons,
        "gaps": pd.DataFrame(gaps, columns=columns),
    }
    about = {"settings": dict(found.settings), "unscored": dict(found.unscored), "left_out": dict(left_out)}
    texts = {f"{name}.csv": frame.to_csv(index=False) for name, frame in frames.items()}
    texts |= {"evaluation.json": json.dumps(about, indent=1), "compare.toml": tomli_w.dumps(comparison.to_dict())}
    for name, text in texts.items():
        write(comparison.folder / name, lambda handle, text=text: handle.write(text.encode()))
    return found


def _page(
    comparison: ComparisonFile,
    split: "Split",
    models: "Mapping[str, AbstractMap]",
    left_out: Mapping[str, str],
    found: "Evaluation",
) -> Path:
    """Return the path of the page of a comparison: the table of all models; its verdict is about the first one."""
    from cellgap.cli._report_data import QUESTIONS, expression_of, history_table, readable, study_table
    from cellgap.report import ReportData, write_report
    from cellgap.storage import versions

    name, model = next(iter(models.items()))
    name = next(known for known in found.models if known in (name, f"{name} (fitted)"))
    notes = [f"{other} is not in the table: {reason}" for other, reason in left_out.items()]
    notes += [f"{condition} was not scored: {reason}." for condition, reason in found.unscored.items()]
    data = ReportData(
        title=f"{len(models)} models on {QUESTIONS[split.kind]}".replace(" it ", " they "),
        subtitle=f"{len(split.train_conditions)} conditions trained on, {len(split.scored_conditions)} scored",
        command="cellgap compare",
        model=name,
        scored_on="held-out conditions" if split.kind != "in_distribution" else "conditions, on cells held out",
        expression=expression_of(model.space),
        history=history_table(getattr(model, "history", ())),
        table=found.table,
        summary=found.summary(),
        comparisons=found.comparisons,
        gaps=model.gaps(),
        study=study_table(split),
        settings=readable(comparison.to_dict()),
        versions=versions(),
        notes=tuple(notes),
    )
    return write_report(data, comparison.folder / "report.html")
