"""Fits of laws in a folder: killed and started again is as never killed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellgap.cli._dynamics_files import Parts, read_parts
from cellgap.cli._dynamics_run import DynamicsRun
from cellgap.cli._say import note
from cellgap.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from cellgap.dynamics import FittedLaw

PATH, TABLE = "path", "path.csv"


def fit_law(run: DynamicsRun, *, quiet: bool = False) -> "tuple[FittedLaw, Parts] | None":
    """Return the law of a run, fitted or loaded where it was already, and its data; None where Ctrl-C stopped it.

    Raises
    ------
    CellgapError
        Anything the user got wrong.
    """
    import jax.random as jr

    from cellgap.cli._run_folder import MODEL, claim
    from cellgap.settings import from_dict
    from cellgap.storage import load

    law = from_dict(run.model)
    claim(run)
    try:
        fitted = load(run.folder) if (run.folder / MODEL).exists() else None
        parts = read_parts(run, law, fitted)
        if fitted is not None:
            if not quiet:
                note(f"{run.folder} holds this run, finished.")
            return fitted, parts
        if not quiet:
            note(divided(parts))
        fitted = law.fit(
            parts.train,
            key=jr.key(run.seed),
            valid=parts.valid,
            space=parts.space,
            folder=run.folder,
            progress=not quiet,
        )
    except KeyboardInterrupt:
        return None
    if fitted.stopped == "interrupted":
        return None
    fitted.save(run.folder, header={"run": run.to_dict()})
    return fitted, parts


def fit_strengths(
    run: DynamicsRun, strengths: Sequence[float], regulators: Sequence[str] | None, *, quiet: bool = False
) -> "pd.DataFrame | None":
    """Return the table of a path over strengths, also written into the run's folder; None where Ctrl-C stopped it.

    Raises
    ------
    CellgapError
        Anything the user got wrong.
    """
    import jax.random as jr

    from cellgap.cli._run_folder import claim
    from cellgap.settings import from_dict

    law: Any = from_dict(run.model)
    if run.model["penalty"]["kind"] == "NoPenalty":
        raise ConfigError("[model] penalty NoPenalty has no strength: choose another penalty for a path.")
    if min(strengths) < 0 or len(set(strengths)) < len(strengths):
        raise ConfigError(f"--strengths are different numbers of 0 or more, found {', '.join(map(str, strengths))}.")
    claim(PathClaim(run.folder / PATH, run, tuple(strengths)))
    try:
        parts = read_parts(run, law)
        if not quiet:
            note(divided(parts))
        found = law.fit_path(
            parts.train, strengths, key=jr.key(run.seed), valid=parts.valid, test=parts.test, regulators=regulators,
            folder=run.folder / PATH, progress=not quiet,
        )  # fmt: skip
    except KeyboardInterrupt:
        return None
    if found.laws[0].stopped == "interrupted":
        return None
    found.table.to_csv(run.folder / TABLE, index=False)
    return found.table


@dataclass(frozen=True)
class PathClaim:
    """The folder of a path, inside that of its run.

    Parameters
    ----------
    folder
        Where its settings and checkpoints are kept.
    run
        The run file.
    strengths
        Lambdas.
    """

    folder: Path
    run: DynamicsRun
    strengths: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all that decides the numbers."""
        return {**without_strength(self.run.to_dict()), PATH: {"strengths": list(self.strengths)}}


def without_strength(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run without the strength of its penalty, which a path goes through."""
    penalty = dict(settings["model"]["penalty"])
    if "gate_strength" not in penalty:
        penalty.pop("strength", None)
    return {**settings, "model": {**settings["model"], "penalty": penalty}}


def divided(parts: Parts) -> str:
    """Return what is trained on and what is held out, in words."""
    held = [f"{name}: {part!r}" for name, part in (("valid", parts.valid), ("test", parts.test)) if part is not None]
    return "; ".join([f"train: {parts.train!r}", *held])
