"""What a run's report shows, gathered from run, split, model and scores."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from cellgap.cli._run_folder import Run
from cellgap.cli._scores import Scores

if TYPE_CHECKING:
    import pandas as pd

    from cellgap.report import DoseCurve, PopulationView, ReportData
    from cellgap.space import AbstractFittedSpace
    from cellgap.study import Condition, Split
    from cellgap.transport import AbstractMap

HEADLINE = "r2_delta"
MAX_FIGURES = 12
MAX_CURVES = 6
_UNITS = {
    "lognorm": "log-normalized expression",
    "log1p": "log(1 + measurement)",
    "arcsinh": "arcsinh of the measurement",
    "none": "measurement",
}
QUESTIONS = {
    "in_distribution": "cells held out of every condition",
    "unseen_dose": "doses it never saw",
    "unseen_treatment": "treatments it never saw",
    "unseen_combination": "combinations it never saw",
    "unseen_conditions": "conditions it never saw",
    "unseen_context": "treatments in a context where it never saw them",
    "leave_one_domain_out": "a domain it never saw",
}


def report_data(run: Run, scores: Scores, *, title: str = "", command: str = "") -> "ReportData":
    """Return everything that the page of a run shows.

    Parameters
    ----------
    run, scores
        The run and its scores.
    title
        First line; by default the model and what was held out.
    command
        What makes the page again.
    """
    from cellgap.report import ReportData
    from cellgap.storage import read_document

    fitted, split = run.fitted, run.split
    name = fitted.name
    if f"{name} (fitted)" in set(scores.table["predictor"]):
        name = f"{name} (fitted)"
    question = QUESTIONS[split.kind]
    n_scored = scores.table["condition"].nunique()
    return ReportData(
        title=title or f"{name}: {question}",
        subtitle=f"{run.data.name}: {len(split.train_conditions)} conditions trained on, {n_scored} scored",
        command=command,
        model=name,
        scored_on="held-out conditions" if split.kind != "in_distribution" else "conditions, on cells held out",
        headline=HEADLINE,
        expression=expression_of(fitted.space),
        history=history_table(getattr(fitted, "history", ())),
        table=scores.table,
        summary=scores.summary,
        comparisons=scores.comparisons,
        populations=tuple(_views(run, scores, name)),
        dose_curves=tuple(_curves(fitted, split)),
        gaps=fitted.gaps(),
        study=study_table(split),
        settings=readable(run.settings),
        versions=read_document(run.folder)["versions"],
        notes=tuple(_notes(fitted, split, scores)),
        max_figures=MAX_FIGURES,
    )


def expression_of(space: "AbstractFittedSpace") -> str:
    """Return what values in a space's gene space are, as an axis label."""
    from cellgap.space import AutoencoderSpace, GeneSpace, PCASpace

    genes = space.gene_space if isinstance(space, PCASpace | AutoencoderSpace) else space
    return _UNITS[genes.transform] if isinstance(genes, GeneSpace) else "expression"


def _views(run: Run, scores: Scores, name: str) -> Iterator["PopulationView"]:
    """Yield the cells of the worst, the median, the best and some more conditions."""
    from cellgap.evaluate import Populations
    from cellgap.report import PopulationView, shown_conditions

    known = {str(c): c for c in run.split.test_conditions}
    shown = shown_conditions(scores.table, name, HEADLINE, max_figures=MAX_FIGURES)
    chosen = tuple(known[text] for text in shown)
    populations = Populations(run.split, {name: run.fitted}, chosen, int(scores.settings["seed"]))
    for condition in chosen:
        cells = populations[condition]
        yield PopulationView(
            condition=str(condition),
            control=cells.control,
            measured=cells.measured,
            predicted=_floored(run.fitted.space, cells.predicted[name]),
            genes=cells.genes,
            warnings="; ".join(run.fitted.nearness(condition).extrapolates),
        )


def _floored(space: "AbstractFittedSpace", values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0.0) if space.nonnegative else values


def _curves(fitted: "AbstractMap", split: "Split") -> Iterator["DoseCurve"]:
    """Yield, for treatments with held-out doses, the gene that the treatment moves most along its doses."""
    from cellgap.study import Role

    series: dict[tuple[str, Condition], list[Condition]] = {}
    for condition in split.study.conditions:
        if len(condition.treatments) == 1 and condition.treatments[0].dose is not None:
            series.setdefault((condition.names[0], condition.control), []).append(condition)
    held = {c for c in split.test_conditions if not len(split.rows(c, Role.TRAIN))}
    asked = [key for key, members in series.items() if len(members) > 1 and held.intersection(members)]
    # Treatments first, contexts second: six curves show six treatments rather than one in six contexts.
    turn = {key: sum(other[0] == key[0] for other in asked[:i]) for i, key in enumerate(asked)}
    for name, control in sorted(asked, key=turn.__getitem__)[:MAX_CURVES]:
        source = split.rows(control, Role.SOURCE)
        source = source if len(source) else split.rows(control)
        members = {float(c.treatments[0].dose or 0): c for c in series[name, control]}
        yield _curve(fitted, split, control, members, held, source)


def _curve(
    fitted: "AbstractMap",
    split: "Split",
    control: "Condition",
    members: "dict[float, Condition]",
    held: "set[Condition]",
    source: np.ndarray,
) -> "DoseCurve":
    from cellgap.report import DoseCurve
    from cellgap.study import Treatment

    study, space = split.study, fitted.space
    treatment = members[max(members)].treatments[0]
    measured_doses = np.array(sorted(members))
    between = np.sqrt(measured_doses[1:] * measured_doses[:-1])
    doses = np.sort(np.concatenate([measured_doses, between]))
    cells = {dose: np.asarray(space.measured(study.values(study.rows(c)))) for dose, c in members.items()}
    before = np.asarray(space.measured(study.values(source)))
    gene = int(np.argmax(np.abs(cells[max(members)].mean(0) - before.mean(0))))
    codes = np.asarray(space.encode(study.adata, source))
    shape = len(doses)
    measured, low, high, predicted = (np.full(shape, np.nan) for _ in range(4))
    unseen = np.ones(shape, bool)
    for i, dose in enumerate(doses):
        condition = control.with_treatments([Treatment(treatment.name, float(dose), treatment.unit)])
        moved = _floored(space, np.asarray(space.decode(np.asarray(fitted.transport(codes, condition)))))
        predicted[i] = moved[:, gene].mean()
        if dose in members:
            values = cells[dose][:, gene]
            error = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            measured[i], low[i], high[i] = values.mean(), values.mean() - error, values.mean() + error
            unseen[i] = members[dose] in held
    return DoseCurve(
        treatment=treatment.name,
        unit=treatment.unit or "",
        gene=str(space.genes[gene]),
        doses=doses,
        control_mean=float(before[:, gene].mean()),
        measured=measured,
        measured_low=low,
        measured_high=high,
        predicted=predicted,
        held_out=unseen,
        context=", ".join(value for _, value in control.context),
    )


def history_table(rows: tuple[dict[str, float], ...]) -> "pd.DataFrame":
    """Return what was logged while training, under names that say what it is."""
    import pandas as pd

    frame = pd.DataFrame(list(rows))
    names = {"valid": "energy distance, held-out cells", "left_out": "energy distance, left out"}
    return frame.drop(columns="gap_error", errors="ignore").rename(columns=names)


def readable(value: Any) -> Any:
    """Return settings with joined encoders by name: a list of tables has no line of its own."""
    if isinstance(value, dict):
        return {key: readable(item) for key, item in value.items()}
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return {f"{i + 1}": readable(item) for i, item in enumerate(value)}
    return value


def study_table(split: "Split") -> "pd.DataFrame":
    """Return one row a condition and role: cells of it, and controls of its context that train or serve."""
    import pandas as pd

    from cellgap.study import Role

    columns = split.table()
    controls = {str(c): len(split.study.rows(c.control)) for c in split.study.all_conditions}
    rows = [
        {"condition": condition, "cells": n, "controls": controls[condition], "role": role.name.lower()}
        for role in Role
        for condition, n in zip(columns["condition"], columns[role.name], strict=True)
        if n
    ]
    return pd.DataFrame(rows)


def _notes(fitted: "AbstractMap", split: "Split", scores: Scores) -> Iterator[str]:
    from cellgap.transport import FittedEnsemble

    if fitted.encoder.saw_held_out:
        yield "Not zero-shot: the encoder placed held-out conditions by their own cells, for the baselines too."
    yield from (f"Encoder: {text}." if not text.endswith(".") else f"Encoder: {text}" for text in fitted.encoder.notes)
    if isinstance(fitted, FittedEnsemble) and fitted.calibration is not None:
        told = fitted.calibration
        yield (
            f"Uncertainty: bounds of the error hold for {told.attained:.0%} of {len(told.conditions)} {told.held_out}; "
            f"rank correlation of the members' spread with the error there: {told.rank_correlation():.2f}."
        )
    for condition, reason in scores.unscored.items():
        yield f"{condition} was not scored: {reason}."
    reasons: dict[str, list[str]] = {}
    for condition in split.scored_conditions:
        for reason in fitted.nearness(condition).extrapolates:
            reasons.setdefault(reason, []).append(str(condition))
    for reason, conditions in reasons.items():
        more = f" and {len(conditions) - 2} more" if len(conditions) > 2 else ""
        yield f"Extrapolation: {reason} ({', '.join(conditions[:2])}{more})."
