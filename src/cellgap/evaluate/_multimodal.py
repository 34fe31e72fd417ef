"""Generated cells of two modalities beside held-out ones: accessibility, and whether both are of one cell."""

from collections.abc import Callable
from typing import Any

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
        over theirs. ``category_correlation``: over categories and the same pairs, correlation of the products of the
        standardized means of gene and peak with those of the held-out cells; NaN for fewer than three categories.

    Raises
    ------
    DataError
        Genes or peaks do not match, or cells of a pair are not the same.
    """
    names = [list(map(str, a.var_names)) for a in generated]
    for gene_cells, peak_cells in (generated, real, train):
        if gene_cells.n_obs != peak_cells.n_obs:
            raise DataError(f"both modalities need the same cells, found {gene_cells.n_obs} and {peak_cells.n_obs}.")
    labels = [np.asarray(pair[0].obs[by].astype(str)) for pair in (generated, real, train)]
    pairs = [(_logs(x, names[0]), _open(y, names[1]).astype(np.float32)) for x, y in (generated, real, train)]
    rng = np.random.default_rng(0)
    first, second = halves_of(labels[2], rng)
    chooses = (pairs[2][0][first], pairs[2][1][first])
    chooses = (_centred(chooses[0], labels[2][first]), _centred(chooses[1], labels[2][first]))
    pairs[2], labels[2] = (pairs[2][0][second], pairs[2][1][second]), labels[2][second]
    within = [(_centred(x, of), _centred(y, of)) for (x, y), of in zip(pairs, labels, strict=True)]
    axes = tuple(principal_axes(values - values.mean(0))[:, :_COMPONENTS] for values in chooses)
    chosen = _strongest(*chooses)
    shuffled = _shuffled(labels[0], rng)
    apart = (within[0][0], within[0][1][shuffled])
    reference = _cross(within[1], axes)
    own = _coefficients(within[1], chosen)
    by_category = _category_products(pairs[1], labels[1], chosen)
    columns = {
        "generated": (within[0], pairs[0], labels[0]),
        "floor": (within[2], pairs[2], labels[2]),
        "apart": (apart, (pairs[0][0], pairs[0][1][shuffled]), labels[0]),
    }
    out = {}
    for name, (values, raw, of) in columns.items():
        cross, coefficients = _cross(values, axes), _coefficients(values, chosen)
        products = _category_products(raw, of, chosen)
        norms = np.linalg.norm(cross) * np.linalg.norm(reference)
        out[name] = {
            "cross_correlation": float((cross * reference).sum() / max(norms, 1e-30)),
            "cross_strength": float(np.linalg.norm(cross) / max(np.linalg.norm(reference), 1e-30)),
            "pair_correlation": _correlation(coefficients, own),
            "pair_slope": float(coefficients.mean() / own.mean()) if own.mean() != 0 else np.nan,
            "category_correlation": np.nan
            if products is None or by_category is None
            else _correlation(products.ravel(), by_category.ravel()),
        }
    return pd.DataFrame(out).loc[list(PAIRED_METRICS)]


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


def _cross(values: tuple[np.ndarray, np.ndarray], axes: tuple[np.ndarray, ...]) -> np.ndarray:
    a, b = (x @ v for x, v in zip(values, axes, strict=True))
    a, b = ((z - z.mean(0)) / np.maximum(z.std(0), 1e-12) for z in (a, b))
    return a.T @ b / len(a)


def _scaled(values: np.ndarray) -> np.ndarray:
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 0, spread, np.inf)


def _strongest(genes: np.ndarray, peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs that correlate most, among the 1,000 most variable features of each modality."""
    a, b = _scaled(genes), _scaled(peaks)
    common = [np.sort(np.argsort(-v.std(0))[:_VARIABLE]) for v in (genes, peaks)]
    matrix = a[:, common[0]].T @ b[:, common[1]] / len(a)
    best = np.argsort(-np.abs(matrix), axis=None)[:_PAIRS]
    rows, columns = np.unravel_index(best, matrix.shape)
    return common[0][rows], common[1][columns]


def _coefficients(values: tuple[np.ndarray, np.ndarray], chosen: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    a, b = _scaled(values[0][:, chosen[0]]), _scaled(values[1][:, chosen[1]])
    return (a * b).mean(0)


def _category_products(
    values: tuple[np.ndarray, np.ndarray], labels: np.ndarray, chosen: tuple[np.ndarray, np.ndarray]
) -> np.ndarray | None:
    known = np.unique(labels)
    if len(known) < 3:
        return None
    means = [np.stack([v[labels == t][:, c].mean(0) for t in known]) for v, c in zip(values, chosen, strict=True)]
    return _scaled(means[0]) * _scaled(means[1])
