"""What a user asks a generator for: checked, and in the form that it works with."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax.random as jr
import numpy as np
from anndata import AnnData
from jaxtyping import Float, PRNGKeyArray

from cellgap.errors import ConfigError, DataError
from cellgap.generate._guidance import Guidance
from cellgap.study import is_mudata, joined

if TYPE_CHECKING:
    from mudata import MuData

OUTPUTS = ("counts", "expression", "latent")


def asked_guidance(
    given: float | Mapping[str, float] | Guidance | str,
    weights: np.ndarray | None,
    n: int,
    names: tuple[str, ...],
    calibrated: Guidance | None,
) -> tuple[Guidance, np.ndarray | None]:
    """Return the guidance that was asked for, and its weights by cell and attribute where they are not all the same.

    Parameters
    ----------
    given, weights
        See `FittedCFGen.sample`.
    n
        Number of cells.
    names
        Of the attributes.
    calibrated
        What "calibrated" stands for, if anything.

    Raises
    ------
    ConfigError
        A name or number is wrong, or nothing was calibrated.
    """
    k = len(names)
    if weights is not None:
        weights = np.asarray(weights, np.float32)
        if weights.shape != (n, k) or not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ConfigError(
                f"weights must be finite numbers of at least 0 of shape ({n}, {k}), found {weights.shape}"
                + (f", smallest {weights.min():g}." if weights.size else ".")
            )
    if isinstance(given, str):
        if given != "calibrated":
            raise ConfigError(f'guidance is a weight, weights by name, Guidance, or "calibrated", found {given!r}.')
        if calibrated is None:
            raise ConfigError(
                "guidance was not calibrated at the fit, for which there were too few held-out cells: choose a "
                "weight, or calibrate_guidance on other cells."
            )
        given = calibrated
        if weights is None:
            # It was chosen for the first attribute, with the others as they are.
            weights = np.ones((n, k), np.float32)
            weights[:, 0] = given.weight
    if isinstance(given, Guidance):
        return given, weights
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise ConfigError(f"guidance names {unknown[0]!r}, which is none of {', '.join(names)}.")
        # Every weight is checked as one of its own would be.
        row = [Guidance(weight=float(given.get(name, 1.0))).weight for name in names]
        return Guidance(), np.broadcast_to(np.asarray(row, np.float32), (n, k)) if weights is None else weights
    return Guidance(weight=float(given)), weights


def asked_totals(
    library: float | Sequence[float | int] | np.ndarray, n: int, names: tuple[str, ...]
) -> Float[np.ndarray, "n m"]:
    """Return the totals that were asked for, a row a cell.

    Raises
    ------
    ConfigError
        There are not as many as cells and `names`, or one is negative or not finite.
    """
    given, m = np.asarray(library, np.float64), len(names)
    if given.ndim == 1 and (m == 1 or len(given) != m):
        given = given[:, None]
    if given.ndim > 2 or given.shape[-1:] not in ((), (1,), (m,)) or (given.ndim == 2 and len(given) not in (1, n)):
        raise ConfigError(f"library needs one total for each of {n} cells ({', '.join(names)}).")
    if not np.isfinite(given).all() or (given < 0).any():
        raise ConfigError("library must hold finite totals of at least 0.")
    return np.broadcast_to(given, (n, m))


def check_output(output: str) -> None:
    """Raise ``ConfigError`` where an output is unknown."""
    if output not in OUTPUTS:
        raise ConfigError(f"output must be one of {', '.join(map(repr, OUTPUTS))}, found {output!r}.")


def generator(key: PRNGKeyArray) -> np.random.Generator:
    """Return a NumPy generator that a random key determines."""
    return np.random.default_rng(seed_of(key))


def seed_of(key: PRNGKeyArray) -> int:
    """Return a seed that a random key determines."""
    return int(np.asarray(jr.key_data(key)).astype(np.uint64).ravel() @ np.asarray([1 << 20, 1], np.uint64)) % (1 << 32)


def as_table(cells: "AnnData | MuData") -> AnnData:
    """Return cells as one table: the modalities of a MuData side by side.

    Raises
    ------
    DataError
        They are of another kind, or the modalities have different cells.
    """
    if isinstance(cells, AnnData):
        return cells
    if not is_mudata(cells):
        raise DataError(f"cells are given as an AnnData or a MuData, found {type(cells).__name__}.")
    return joined(cells)
