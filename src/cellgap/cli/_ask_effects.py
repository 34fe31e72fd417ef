"""The effect table of a run: made once, kept in its folder, and made again where model, data or sets are others."""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellgap import __version__
from cellgap.cli._run_folder import Run
from cellgap.cli._say import note
from cellgap.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from cellgap.ask import EffectTable
    from cellgap.study import Condition

TABLE, ABOUT = "effects.csv.gz", "effects.json"


def effects_of(
    run: Run, *, conditions: tuple[str, ...] = (), gene_sets: Path | None = None, quiet: bool = False
) -> Path:
    """Return the path of the effect table in a run's folder, after making it unless it is there already.

    Parameters
    ----------
    run
        A finished run of a map.
    conditions
        Conditions to predict instead of those that the model never saw.
    gene_sets
        A GMT file whose sets become readouts too.
    quiet
        Show no progress.

    Raises
    ------
    DataError
        The gene sets cannot be read.
    ConditionError
        The model has no answer for a condition.
    """
    from cellgap.evaluate import effect_table, read_gene_sets

    sets = None if gene_sets is None else read_gene_sets(str(gene_sets))
    about = _about(run, conditions, gene_sets)
    table = run.folder / TABLE
    if table.exists() and _kept(run.folder / ABOUT) == about:
        return table
    if not quiet:
        note(f"effects of {run.folder}: measured and predicted, once; they are kept in {table}")
    frame = effect_table(
        run.split,
        run.fitted,
        conditions=conditions or None,
        gene_sets=sets,
        dataset=run.data.stem,
        model=_model(run),
        progress=not quiet,
    )
    _write(frame, table)
    part = run.folder / f".{ABOUT}.{os.getpid()}.part"
    part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    os.replace(part, run.folder / ABOUT)
    return table


def predicting(run: Run, gene_sets: Path | None = None) -> "Callable[[Sequence[Condition]], EffectTable]":
    """Return a function that predicts the effects of conditions that a question asks about, while it is asked."""

    def predict(asked: "Sequence[Condition]") -> "EffectTable":
        from cellgap.ask import EffectTable
        from cellgap.evaluate import effect_table, read_gene_sets

        frame = effect_table(
            run.split,
            run.fitted,
            conditions=asked,
            measured=False,
            gene_sets=None if gene_sets is None else read_gene_sets(str(gene_sets)),
            dataset=run.data.stem,
            model=_model(run),
        )
        return EffectTable.of(frame, name="predicted", source_file=str(run.folder), version=run.model_digest[:12])

    return predict


def _model(run: Run) -> str:
    return f"{run.fitted.name} {run.model_digest[:12]}"


def _about(run: Run, conditions: tuple[str, ...], gene_sets: Path | None) -> dict[str, Any]:
    """Return what decides the table."""
    digest = None if gene_sets is None else hashlib.sha256(gene_sets.read_bytes()).hexdigest()
    return {
        "cellgap": __version__,
        "model": run.model_digest,
        "study": run.study.fingerprint,
        "gene_sets": digest,
        "conditions": list(conditions),
    }


def _kept(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise StorageError(f"{path} is damaged ({error}): delete it, and the table is made again.") from None


def _write(frame: "pd.DataFrame", path: Path) -> None:
    part = path.with_name(f".{os.getpid()}.part.{path.name}")
    # No time in the header of the archive: equal tables are equal files.
    frame.to_csv(part, index=False, float_format="%.6g", compression={"method": "gzip", "mtime": 0})
    os.replace(part, path)
