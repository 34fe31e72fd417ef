"""Generated cells beside held-out real ones: distances, what gives them away, and the floor of real against real."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance

from cellgap.errors import DataError
from cellgap.ot import energy_distance
from cellgap.space import normalized_dispersion

_GENES, _PCS, _TOTAL = 2000, 30, 1e4
_SIGMAS = (0.01, 0.1, 1.0, 10.0, 100.0)
_NEIGHBOURS = 10
_FOLDS = 5

GENERATED_METRICS = (
    "energy_type",
    "energy",
    "w2_type",
    "mmd_type",
    "rf_auc",
    "rf_auc_normalized",
    "knn_accuracy",
    "zeros_w1",
    "library_w1",
    "mean_rmse",
    "variance_rmse",
)
"""What `generated_scores` returns, in order."""


def generated_scores(
    generated: AnnData, real: AnnData, train: AnnData, *, by: str, layer: str | None = None, seed: int = 0
) -> pd.DataFrame:
    """Return how generated cells differ from held-out real ones, beside training cells in their place.

    Compare cell by cell: one generated cell for every held-out one, with its type.

    Parameters
    ----------
    generated
        Raw counts in ``X``, as many cells as `real`, of the same types in any order.
    real, train
        Held-out cells, and those that the generator was trained on: raw counts in `layer`.
    by
        Column of types in all three.
    layer
        Where the real counts are; None is ``X``.
    seed
        Of the training cells that stand in for generated ones, and of classifiers.

    Returns
    -------
    table
        Indexed by metric: ``generated``; ``floor``: training cells of the same types in their place; ``excess``: the
        difference. ``energy_type, energy``: unbiased energy distance, mean over types with more than one cell, and of
        all cells. ``w2_type, mmd_type``: as published (biased: narrow populations may look better than real ones).
        ``rf_auc``: a random forest telling both apart by log counts, ``rf_auc_normalized`` without their totals; 0.5 is
        ideal. ``knn_accuracy``: of types, by the nearest training cells; its floor is that of the real cells.
        ``zeros_w1, library_w1``: distances of the zero fractions and log totals of cells; ``mean_rmse, variance_rmse``:
        of the logarithms (base 10) of each gene's.

    Raises
    ------
    DataError
        Genes, types, or numbers of cells do not match.

    Notes
    -----
    Distances are taken in 30 principal components of the real cells (2,000 variable genes, totals 10,000,
    ``log(1 + x)``), from which generated cells are subtracted the same gene means. Held-out and training cells make the
    axes together: those of a few hundred held-out cells alone would follow their noise, which no other cell has.
    """
    genes = _common_genes(generated, real, train)
    made, there, before = (_dense(a, lay, genes) for a, lay in ((generated, None), (real, layer), (train, layer)))
    labels = [np.asarray(a.obs[by].astype(str)) for a in (generated, real, train)]
    if len(made) != len(there) or sorted(labels[0]) != sorted(labels[1]):
        raise DataError(
            f"generated_scores compares cell by cell: {len(made)} generated and {len(there)} real cells need the same "
            f"numbers of every {by}."
        )
    missing = sorted(set(labels[1]) - set(labels[2]))
    if missing:
        raise DataError(f"{by} {missing[0]!r} has no training cells to compare with.")
    rng = np.random.default_rng(seed)
    twins = _twins(labels[1], labels[2], rng)
    project = _projection(np.concatenate([there, before]))
    reference = (there, labels[1], project(there))
    classify = _classifier(project(before), labels[2])
    columns = {
        "generated": _scores(made, labels[0], project(made), reference, classify, seed),
        "floor": _scores(before[twins], labels[1], project(before[twins]), reference, classify, seed),
    }
    columns["floor"]["knn_accuracy"] = classify(reference[2], labels[1])
    table = pd.DataFrame(columns).loc[list(GENERATED_METRICS)]
    table["excess"] = table["generated"] - table["floor"]
    return table


def _twins(labels: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a training cell of the type of every cell; none twice where there are enough: it would be near itself."""
    rows = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        here, there = np.flatnonzero(labels == label), np.flatnonzero(known == label)
        rows[here] = rng.choice(there, len(here), replace=len(there) < len(here))
    return rows


def _scores(
    x: np.ndarray,
    labels: np.ndarray,
    z: np.ndarray,
    reference: tuple[np.ndarray, np.ndarray, np.ndarray],
    classify: Callable[[np.ndarray, np.ndarray], float],
    seed: int,
) -> dict[str, float]:
    y, types, w = reference
    shared = [t for t in np.unique(types) if (types == t).sum() > 1]
    pairs = [(z[labels == t], w[types == t]) for t in shared]
    distance = jax.jit(energy_distance)

    def mean(function: Callable[[np.ndarray, np.ndarray], float]) -> float:
        return float(np.mean([function(a, b) for a, b in pairs]))

    def moments(cells: np.ndarray) -> np.ndarray:
        shares = cells / np.maximum(cells.sum(1, keepdims=True), 1) * _TOTAL
        return np.log10(np.stack([shares.mean(0), shares.var(0)]) + 1e-2)

    apart = np.sqrt(((moments(x) - moments(y)) ** 2).mean(1))
    return {
        "energy_type": mean(lambda a, b: float(distance(jnp.asarray(a), jnp.asarray(b)))),
        "energy": float(distance(jnp.asarray(z), jnp.asarray(w))),
        "w2_type": mean(_w2),
        "mmd_type": mean(_mmd),
        "rf_auc": _forest(np.log1p(x), np.log1p(y), seed),
        "rf_auc_normalized": _forest(_lognorm(x), _lognorm(y), seed),
        "knn_accuracy": classify(z, labels),
        "zeros_w1": float(wasserstein_distance((x == 0).mean(1), (y == 0).mean(1))),
        "library_w1": float(wasserstein_distance(np.log1p(x.sum(1)), np.log1p(y.sum(1)))),
        "mean_rmse": float(apart[0]),
        "variance_rmse": float(apart[1]),
    }


def _common_genes(*cells: AnnData) -> list[str]:
    names = [list(map(str, a.var_names)) for a in cells]
    known = set(names[0])
    for other in names[1:]:
        if not known <= set(other):
            raise DataError(f"real cells have no gene {sorted(known - set(other))[0]!r}, which generated cells have.")
    return names[0]


def _dense(adata: AnnData, layer: str | None, genes: list[str]) -> Float[np.ndarray, "n g"]:
    x: Any = adata[:, genes].X if layer in (None, "X") else adata[:, genes].layers[layer]
    return (x.toarray() if sp.issparse(x) else np.asarray(x)).astype(np.float32)


def _lognorm(x: np.ndarray) -> np.ndarray:
    return np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1) * _TOTAL)


def _projection(real: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the principal components of real cells, with their gene means, as a function of counts."""
    columns = np.arange(real.shape[1])
    values = _lognorm(real)
    if len(columns) > _GENES:
        normalized = np.expm1(values)
        spread = normalized_dispersion(normalized.mean(0), normalized.var(0))
        columns = np.sort(np.argsort(-np.nan_to_num(spread, nan=-np.inf))[:_GENES])
    values = values[:, columns]
    mean = values.mean(0)
    _, _, vt = np.linalg.svd(values - mean, full_matrices=False)
    axes = vt[:_PCS].T
    return lambda x: ((_lognorm(x)[:, columns] - mean) @ axes).astype(np.float32)


def _w2(a: np.ndarray, b: np.ndarray) -> float:
    cost = ((a[:, None] - b[None]) ** 2).sum(-1)
    rows, columns = linear_sum_assignment(cost)
    return float(np.sqrt(cost[rows, columns].mean()))


def _mmd(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(p: np.ndarray, q: np.ndarray) -> float:
        squared = ((p[:, None] - q[None]) ** 2).sum(-1)
        return float(sum(np.exp(-squared / (2 * s**2)).mean() for s in _SIGMAS))

    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


def _forest(a: np.ndarray, b: np.ndarray, seed: int) -> float:
    """Return how well a random forest tells two sets of cells apart, cross-validated."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    x, y = np.concatenate([a, b]), np.repeat([1, 0], [len(a), len(b)])
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    forest = RandomForestClassifier(100, random_state=seed, n_jobs=1)
    told: Any = cross_val_predict(forest, x, y, cv=folds, method="predict_proba")
    return float(roc_auc_score(y, told[:, 1]))


def _classifier(z: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray, np.ndarray], float]:
    from sklearn.neighbors import KNeighborsClassifier

    fitted = KNeighborsClassifier(min(_NEIGHBOURS, len(z))).fit(z, labels)
    return lambda cells, truth: float((fitted.predict(cells) == truth).mean())
