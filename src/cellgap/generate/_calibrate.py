"""Which weight of guidance, and between which times: chosen by held-out real cells, in latent space."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax.random as jr
import numpy as np
import pandas as pd
from jaxtyping import Float, Int, PRNGKeyArray
from scipy.spatial.distance import cdist, pdist
from scipy.stats import t as student

from cellgap.errors import ConfigError, DataError
from cellgap.generate._asked import as_table
from cellgap.generate._guidance import Guidance
from cellgap.generate._sampler import Sampler

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

WEIGHTS = (1.25, 1.5, 2.0, 3.0, 5.0)
_EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
WINDOWS = tuple((lo, hi) for lo in _EDGES[:-1] for hi in _EDGES if hi - lo > 0.15)
FEW_WINDOWS = ((0.0, 1.0), (0.0, 0.3), (0.1, 0.5), (0.3, 0.7), (0.5, 1.0))
_FEWEST, _FEWEST_IN_ALL = 5, 30
_SURE = 0.95

Draw = Callable[[Guidance], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What guidance is best by held-out cells.

    Parameters
    ----------
    guidance
        The chosen one: weight 1 unless another is better, by a one-sided t test over categories at 5 % (of one
        category alone, the best).
    table
        A row a weight and window, the best first: ``weight, start, end, energy`` (mean over categories of the unbiased
        energy distance of generated to held-out cells), ``difference`` to weight 1 and its ``standard_error`` over
        categories.
    categories
        Held-out cells of those that were compared.
    """

    guidance: Guidance
    table: pd.DataFrame
    categories: dict[str, int]

    def at(self, weight: float) -> Guidance:
        """Return the best window for a weight of the table.

        Raises
        ------
        ConfigError
            The weight was not tried.
        """
        rows = self.table[np.isclose(self.table["weight"], weight)]
        if not len(rows):
            tried = ", ".join(f"{w:g}" for w in sorted(set(self.table["weight"])))
            raise ConfigError(f"the weight {weight:g} was not tried: {tried}.")
        best = rows.iloc[0]
        return interval(float(best["weight"]), (float(best["start"]), float(best["end"])))


def interval(weight: float, window: tuple[float, float] = (0.0, 1.0)) -> Guidance:
    """Return guidance between two times; all of these share one compiled program."""
    return Guidance(weight=weight, schedule="interval", window=window)


def calibrate_guidance(
    model: Any,
    adata: "AnnData | MuData",
    attribute: str | None = None,
    *,
    key: PRNGKeyArray,
    weights: Sequence[float] = WEIGHTS,
    windows: Sequence[tuple[float, float]] = WINDOWS,
    sampler: Sampler | None = None,
    n_cells: int = 4096,
) -> Calibration:
    """Return the weight and window of guidance whose cells are closest to held-out real ones; nothing is decoded.

    Parameters
    ----------
    model
        A fitted generator.
    adata
        Real cells that it was not trained on.
    attribute
        Whose weight is chosen, and whose categories are compared one by one; None takes the first. Other attributes are
        those of the cells, with weight 1.
    key
        Random key: all candidates start from the same noise.
    weights, windows
        Candidates: every weight with every window, and weight 1.
    sampler
        See `FittedCFGen.sample`.
    n_cells
        Real cells at most.

    Raises
    ------
    ConfigError
        The attribute is unknown.
    DataError
        There are too few held-out cells: 30 in categories of 5 and more.
    """
    names = model.attributes.names
    attribute = names[0] if attribute is None else attribute
    if attribute not in names:
        raise ConfigError(f"there is no attribute {attribute!r}: take one of {', '.join(names)}.")
    adata = as_table(adata)
    rows = np.arange(adata.n_obs)
    if len(rows) > n_cells:
        rows = np.sort(np.random.default_rng(0).choice(rows, n_cells, replace=False))
    cells = adata[rows]
    labels = model.attributes.labels(pd.DataFrame(cells.obs))
    return of_latents(
        model,
        model.encode(cells),
        labels,
        names.index(attribute),
        key,
        weights=weights,
        windows=windows,
        sampler=sampler,
    )


def of_latents(
    model: Any,
    z: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n k"],
    attribute: int,
    key: PRNGKeyArray,
    *,
    weights: Sequence[float],
    windows: Sequence[tuple[float, float]],
    sampler: Sampler | None = None,
) -> Calibration:
    """Return the calibration on standardized codes with these attributes; see `calibrate_guidance`."""
    noise = np.asarray(jr.normal(key, z.shape))
    totals = model.library.typical(labels)

    def draw(guidance: Guidance) -> np.ndarray:
        weight = np.ones(labels.shape, np.float32)
        weight[:, attribute] = guidance.weight
        return model.move(noise, labels, totals, guidance=guidance, weights=weight, sampler=sampler).z

    found = calibrate(draw, z, labels[:, attribute], weights=weights, windows=windows)
    known = model.attributes.categories[attribute]
    return dataclasses.replace(found, categories={known[int(c)]: n for c, n in found.categories.items()})


def calibrate(
    draw: Draw,
    real: Float[np.ndarray, "n d"],
    groups: Int[np.ndarray, " n"],
    *,
    weights: Sequence[float] = WEIGHTS,
    windows: Sequence[tuple[float, float]] = WINDOWS,
) -> Calibration:
    """Return the best guidance of any sampler; see `calibrate_guidance`.

    Parameters
    ----------
    draw
        Guidance to one cell for every real one, from the same noise each time.
    real, groups
        Real cells, and the category of each.
    weights, windows
        Candidates.
    """
    members = {int(c): np.flatnonzero(groups == c) for c in np.unique(groups)}
    members = {c: rows for c, rows in members.items() if len(rows) >= _FEWEST}
    if sum(map(len, members.values())) < _FEWEST_IN_ALL:
        raise DataError(
            f"guidance needs {_FEWEST_IN_ALL} held-out cells in categories of {_FEWEST} and more to be calibrated: "
            "hold out more, or choose a weight."
        )
    within = {c: _within(real[rows]) for c, rows in members.items()}

    def energies(guidance: Guidance) -> np.ndarray:
        z = np.asarray(draw(guidance), np.float64)
        return np.asarray(
            [2.0 * cdist(z[rows], real[rows]).mean() - _within(z[rows]) - within[c] for c, rows in members.items()]
        )

    plain = (1.0, 0.0, 1.0)
    found = {plain: energies(interval(1.0))}
    for weight in weights:
        for window in windows if weight != 1 else ():
            found[float(weight), *window] = energies(interval(float(weight), window))
    rows, better = [], {plain: float(found[plain].mean())}
    for at, values in found.items():
        difference = values - found[plain]
        error = float(difference.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
        rows.append((*at, float(values.mean()), float(difference.mean()), error))
        # Few categories say little about others, which Student's quantile knows; of one there is no spread to test.
        bound = float(student.ppf(_SURE, len(values) - 1)) * error if len(values) > 1 else 0.0
        if -difference.mean() > bound:
            better[at] = float(values.mean())
    best = min(better, key=lambda at: better[at])
    names = ["weight", "start", "end", "energy", "difference", "standard_error"]
    table = pd.DataFrame(rows, columns=pd.Index(names)).sort_values("energy", ignore_index=True)
    return Calibration(interval(best[0], best[1:]), table, {str(c): len(r) for c, r in members.items()})


def _within(x: Float[np.ndarray, "n d"]) -> float:
    """Return the mean distance of two different cells."""
    return float(pdist(x).mean())
