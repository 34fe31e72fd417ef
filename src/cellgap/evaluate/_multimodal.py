"""Generated cells of two modalities beside held-out ones: accessibility, and whether both are of one cell."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scipy.stats import wasserstein_distance

from cellgap.errors import DataError
from cellgap.evaluate._generated import halves_of, principal_axes
from cellgap.ot import energy_distance

_HALVES, _COMPONENTS, _PAIRS, _VARIABLE = 4, 10, 200, 1000

ACCESSIBILITY_METRICS = ("energy_type", "energy", "open_rate_rmse", "open_rate_correlation", "open_w1")
PAIRED_METRICS = ("cross_correlation", "cross_strength", "pair_correlation", "pair_slope", "category_correlation")

Pair = tuple[np.ndarray, np.ndarray]


def accessibility_scores(generated: AnnData, real: AnnData, train: AnnData, *, by: str, seed: int = 0) -> pd.DataFrame:
    """Return how generated accessibility differs from that of held-out cells, beside training cells in its place.

    Parameters
    ----------
    generated, real, train
        Open peaks in ``X`` (values above 0), the same peaks in all.
    by
        Column of types in all three.
    seed
        Of the halves of the training cells: one makes the axes, the other is the floor; see `generated_scores`.

    Returns
    -------
    table
        Indexed by metric: ``generated, floor, excess``. ``energy_type, energy``: unbiased energy distance in 30
        principal components of ``log(1 + 1e4 tf idf)``, mean over types and of all cells. ``open_rate_rmse,
        open_rate_correlation``: of the rates at which peaks are open. ``open_w1``: distance of the numbers of open
        peaks of cells, in natural logarithms.

    Raises
    ------
    DataError
        Peaks or types do not match.
    """
    peaks = list(map(str, generated.var_names))
    made, there, before = (_open(a, peaks) for a in (generated, real, train))
    labels = [np.asarray(a.obs[by].astype(str)) for a in (generated, real, train)]
    missing = sorted(set(labels[1]) - set(labels[2]))
    if missing:
        raise DataError(f"{by} {missing[0]!r} has no training cells to compare with.")
    rng = np.random.default_rng(seed)
    total: dict[str, dict[str, float]] = {"generated": {}, "floor": {}}
    for _ in range(_HALVES):
        first, second = halves_of(labels[2], rng)
        project = _latent_semantic(before[first])
        w = project(there)
        cells = {"generated": (made, labels[0]), "floor": (before[second], labels[2][second])}
        for column, (x, known) in cells.items():
            z = project(x)
            found = {
                "energy_type": _by_type(z, known, w, labels[1]),
                "energy": _energy(z, w),
                **_rates(x, there),
            }
            for name, value in found.items():
                total[column][name] = total[column].get(name, 0.0) + value / _HALVES
    table = pd.DataFrame(total).loc[list(ACCESSIBILITY_METRICS)]
    table["excess"] = table["generated"] - table["floor"]
    return table


def paired_scores(
    generated: "tuple[AnnData, AnnData]", real: "tuple[AnnData, AnnData]", train: "tuple[AnnData, AnnData]", *, by: str
) -> pd.DataFrame:
    """Return whether the two modalities of generated cells hang together as those of real cells do.

    Everything is within categories: what the means of categories have in common is taken out, so that modalities that
    were drawn apart, for the same category, score 0.

    Parameters
    ----------
    generated, real, train
        (counts of genes, open peaks) of generated, held-out and training cells. Half of the training cells choose axes
        and pairs, the other half is the floor.
    by
        Column of categories in the first of each.

    Returns
    -------
    table
        Indexed by metric, a column each for ``generated``, ``floor`` (training cells) and ``apart`` (the generated
        modalities, shuffled within categories). ``cross_correlation``: cosine of the matrices of correlations of 10
        components of expression with 10 of accessibility, to that of the held-out cells; ``cross_strength``: ratio of
        their norms. ``pair_correlation, pair_slope``: over the 200 pairs of a gene and a peak that correlate most in
        the training cells, correlation of their coefficients with those of the held-out cells, and the mean coefficient
        over theirs. ``category_correlation``: the same correlation of the covariances of the means of categories, over
        the 200 pairs whose means go together most in the training cells (shuffling leaves it); NaN for fewer than three
        categories. Pairs are of the 1,000 most variable features of each modality.

    Raises
    ------
    DataError
        Genes or peaks do not match, or cells of a pair are not the same.
    """
    names = [list(map(str, a.var_names)) for a in generated]
    for gene_cells, peak_cells in (generated, real, train):
        if gene_cells.n_obs != peak_cells.n_obs:
            raise DataError(f"both modalities need the same cells, found {gene_cells.n_obs} and {peak_cells.n_obs}.")
    made, there, before = (
        (_logs(x, names[0]), _open(y, names[1]).astype(np.float32)) for x, y in (generated, real, train)
    )
    labels = [np.asarray(pair[0].obs[by].astype(str)) for pair in (generated, real, train)]
    rng = np.random.default_rng(0)
    first, second = halves_of(labels[2], rng)
    chosen = _chosen(_rows(before, first), labels[2][first])
    shuffled = _shuffled(labels[0], rng)
    reference = _structure(there, labels[1], chosen)
    columns = {
        "generated": (made, labels[0]),
        "floor": (_rows(before, second), labels[2][second]),
        "apart": ((made[0], made[1][shuffled]), labels[0]),
    }
    out = {name: _compared(_structure(cells, of, chosen), reference) for name, (cells, of) in columns.items()}
    return pd.DataFrame(out).loc[list(PAIRED_METRICS)]


class _Chosen(NamedTuple):
    """What is looked at: axes of each modality, pairs of features that go together in cells, and in categories."""

    axes: Pair
    pairs: Pair
    markers: Pair | None


class _Structure(NamedTuple):
    """How two modalities of some cells go together: components, pairs of features, means of categories."""

    cross: np.ndarray
    pairs: np.ndarray
    markers: np.ndarray | None


def _chosen(cells: Pair, labels: np.ndarray) -> _Chosen:
    within = _within(cells, labels)
    axes = tuple(principal_axes(values - values.mean(0))[:, :_COMPONENTS] for values in within)
    common = [np.sort(np.argsort(-v.std(0))[:_VARIABLE]) for v in cells]
    a, b = (_scaled(v[:, columns]) for v, columns in zip(within, common, strict=True))
    means = [_category_means(v[:, columns], labels) for v, columns in zip(cells, common, strict=True)]
    markers = None if len(means[0]) < 3 else _largest(means[0].T @ means[1], common)
    return _Chosen((axes[0], axes[1]), _largest(a.T @ b, common), markers)


def _structure(cells: Pair, labels: np.ndarray, chosen: _Chosen) -> _Structure:
    within = _within(cells, labels)
    scores = [x @ v for x, v in zip(within, chosen.axes, strict=True)]
    a, b = ((z - z.mean(0)) / np.maximum(z.std(0), 1e-12) for z in scores)
    x, y = (_scaled(v[:, columns]) for v, columns in zip(within, chosen.pairs, strict=True))
    markers = None
    if chosen.markers is not None:
        p, q = (_category_means(v[:, columns], labels) for v, columns in zip(cells, chosen.markers, strict=True))
        markers = (p * q).mean(0)
    return _Structure(a.T @ b / len(a), (x * y).mean(0), markers)


def _compared(own: _Structure, reference: _Structure) -> dict[str, float]:
    norms = [max(float(np.linalg.norm(s.cross)), 1e-30) for s in (own, reference)]
    wanted = float(reference.pairs.mean())
    return {
        "cross_correlation": float((own.cross * reference.cross).sum() / (norms[0] * norms[1])),
        "cross_strength": norms[0] / norms[1],
        "pair_correlation": _correlation(own.pairs, reference.pairs),
        "pair_slope": float(own.pairs.mean()) / wanted if wanted != 0 else np.nan,
        "category_correlation": np.nan
        if own.markers is None or reference.markers is None
        else _correlation(own.markers, reference.markers),
    }


def _rows(cells: Pair, rows: np.ndarray) -> Pair:
    return cells[0][rows], cells[1][rows]


def _within(cells: Pair, labels: np.ndarray) -> Pair:
    return _centred(cells[0], labels), _centred(cells[1], labels)


def _dense(x: Any) -> np.ndarray:
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def _open(adata: AnnData, peaks: list[str]) -> np.ndarray:
    missing = sorted(set(peaks) - set(map(str, adata.var_names)))
    if missing:
        raise DataError(f"real cells have no feature {missing[0]!r}, which generated cells have.")
    return _dense(adata[:, peaks].X) > 0


def _logs(adata: AnnData, genes: list[str]) -> np.ndarray:
    missing = sorted(set(genes) - set(map(str, adata.var_names)))
    if missing:
        raise DataError(f"real cells have no gene {missing[0]!r}, which generated cells have.")
    x = _dense(adata[:, genes].X).astype(np.float32)
    return np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1) * 1e4)


def _latent_semantic(cells: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return principal components of ``log(1 + 1e4 tf idf)`` of some cells, as a function of open peaks."""
    idf = np.log1p(len(cells) / (1.0 + cells.sum(0))).astype(np.float32)

    def weighted(x: np.ndarray) -> np.ndarray:
        return np.log1p(1e4 * (x / np.maximum(x.sum(1, keepdims=True), 1)).astype(np.float32) * idf)

    values = weighted(cells)
    mean = values.mean(0)
    axes = principal_axes(values - mean)
    return lambda x: ((weighted(x) - mean) @ axes).astype(np.float32)


def _energy(a: np.ndarray, b: np.ndarray) -> float:
    return float(jax.jit(energy_distance)(jnp.asarray(a), jnp.asarray(b)))


def _by_type(z: np.ndarray, labels: np.ndarray, w: np.ndarray, types: np.ndarray) -> float:
    shared = [t for t in np.unique(types) if min((types == t).sum(), (labels == t).sum()) > 1]
    return float(np.mean([_energy(z[labels == t], w[types == t]) for t in shared])) if shared else np.nan


def _rates(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    a, b = x.mean(0), y.mean(0)
    return {
        "open_rate_rmse": float(np.sqrt(((a - b) ** 2).mean())),
        "open_rate_correlation": _correlation(a, b),
        "open_w1": float(wasserstein_distance(np.log1p(x.sum(1)), np.log1p(y.sum(1)))),
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else np.nan


def _centred(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    out = values.copy()
    for label in np.unique(labels):
        out[labels == label] -= values[labels == label].mean(0)
    return out


def _shuffled(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = np.arange(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        out[rows] = rng.permutation(rows)
    return out


def _scaled(values: np.ndarray) -> np.ndarray:
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 0, spread, np.inf)


def _category_means(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the means of categories, centred, in units of the spread over cells."""
    scaled = _scaled(values)
    means = np.stack([scaled[labels == t].mean(0) for t in np.unique(labels)])
    return means - means.mean(0)


def _largest(matrix: np.ndarray, columns: list[np.ndarray]) -> Pair:
    """Return the features of the largest entries of a matrix of genes by peaks."""
    best = np.argsort(-np.abs(matrix), axis=None)[:_PAIRS]
    rows, others = np.unravel_index(best, matrix.shape)
    return columns[0][rows], columns[1][others]
