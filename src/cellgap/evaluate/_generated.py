"""Generated cells beside held-out real ones: distances, what gives them away, and the floor of real against real."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance

from cellgap.errors import ConfigError, DataError
from cellgap.ot import energy_distance
from cellgap.space import normalized_dispersion

_GENES, _PCS, _TOTAL = 2000, 30, 1e4
_SIGMAS = (0.01, 0.1, 1.0, 10.0, 100.0)
_NEIGHBOURS = 10
_FOLDS = 5
_HALVES = 4
_MOST = 2000

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


Axes = Literal["fresh", "all", "held_out"]


def generated_scores(
    generated: AnnData,
    real: AnnData,
    train: AnnData,
    *,
    by: str,
    layer: str | None = None,
    axes: Axes = "fresh",
    metrics: Sequence[str] = GENERATED_METRICS,
    seed: int = 0,
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
    axes
        Which real cells make the principal components. ``"fresh"``: half of the training cells, while the other half is
        the floor, so that all cells that are compared are new to the axes; the mean of four such halves.
        ``"all"``: all real cells. ``"held_out"``: the held-out cells, as published.
    metrics
        Which ones; forests are what takes long.
    seed
        Of the training cells that stand in for generated ones, of the halves, and of classifiers.

    Returns
    -------
    table
        Indexed by metric: ``generated``; ``floor``: training cells of the same types in their place; ``excess``: the
        difference. ``energy_type, energy``: unbiased energy distance, mean over types with two cells and more, and of
        all cells. ``w2_type, mmd_type``: as published (biased: narrow populations may look better than real ones).
        ``rf_auc``: a random forest telling both apart by log counts, ``rf_auc_normalized`` without their totals; 0.5 is
        ideal. ``knn_accuracy``: of types, by the nearest training cells; its floor is that of the real cells.
        ``zeros_w1, library_w1``: distances of the zero fractions and log totals of cells; ``mean_rmse, variance_rmse``:
        of the logarithms (base 10) of each gene's.

    Raises
    ------
    ConfigError
        The axes or a metric are unknown.
    DataError
        Genes, types, or numbers of cells do not match.

    Notes
    -----
    Distances are taken in 30 principal components (2,000 variable genes, totals 10,000, ``log(1 + x)``); the gene means
    of the cells that make them are subtracted from all cells alike. Components of a few hundred cells follow the noise
    of these cells, along which they lie wider than any others: where held-out or training cells make the axes, even new
    measurements of the same cells would look worse than real ones, and the floor is no floor.
    """
    unknown = sorted(set(metrics) - set(GENERATED_METRICS))
    if unknown:
        raise ConfigError(f"there is no metric {unknown[0]!r}: take some of {', '.join(GENERATED_METRICS)}.")
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
    total = {
        "generated": _without_axes(made, there, metrics, seed),
        "floor": _without_axes(before[twins], there, metrics, seed),
    }
    views = list(_views(axes, there, before, labels[2], rng))
    for project, rows in views:
        w, z, b = project(there), project(made), project(before)
        # Twins are of the cells that are new to the axes, too.
        twins = rows[_twins(labels[1], labels[2][rows], rng)]
        classify = _classifier(b, labels[2])
        found = {
            "generated": _along_axes((z, labels[0]), (z, labels[0]), (w, labels[1])),
            "floor": _along_axes((b[rows], labels[2][rows]), (b[twins], labels[1]), (w, labels[1])),
        }
        found["generated"]["knn_accuracy"] = classify(z, labels[0])
        found["floor"]["knn_accuracy"] = classify(w, labels[1])
        for column, values in found.items():
            for name, value in values.items():
                total[column][name] = total[column].get(name, 0.0) + value / len(views)
    table = pd.DataFrame(total).loc[[name for name in GENERATED_METRICS if name in metrics]]
    table["excess"] = table["generated"] - table["floor"]
    return table


def _views(
    axes: Axes, there: np.ndarray, before: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]]:
    """Yield projections, and the training cells that are compared in each."""
    if axes not in ("fresh", "all", "held_out"):
        raise ConfigError(f'axes are "fresh", "all" or "held_out", found {axes!r}.')
    if axes != "fresh":
        yield _projection(there if axes == "held_out" else np.concatenate([there, before])), np.arange(len(before))
        return
    for _ in range(_HALVES):
        first, second = halves_of(labels, rng)
        yield _projection(before[first]), second


def halves_of(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two halves of cells, type by type; the second has at least two cells of a type where there are two."""
    halves: tuple[list[int], list[int]] = ([], [])
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        n = min(max(2, -(-len(rows) // 2)), len(rows))
        halves[1].extend(rows[:n])
        halves[0].extend(rows[n:])
    if len(halves[0]) < 2:
        raise DataError("there are too few training cells to make axes of a half of them.")
    return np.sort(halves[0]), np.sort(halves[1])


def _twins(labels: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a training cell of the type of every cell; none twice where there are enough: it would be near itself."""
    rows = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        here, there = np.flatnonzero(labels == label), np.flatnonzero(known == label)
        rows[here] = rng.choice(there, len(here), replace=len(there) < len(here))
    return rows


Cloud = tuple[np.ndarray, np.ndarray]


def _along_axes(cells: Cloud, paired: Cloud, real: Cloud) -> dict[str, float]:
    """Return distances of cells to real ones; `paired` are as many as the real ones, for biased statistics."""
    (z, labels), (p, same), (w, types) = cells, paired, real
    shared = [t for t in np.unique(types) if min((types == t).sum(), (labels == t).sum()) > 1]
    distance = jax.jit(energy_distance)

    def energy(a: np.ndarray, b: np.ndarray) -> float:
        return float(distance(jnp.asarray(a), jnp.asarray(b)))

    return {
        "energy_type": float(np.mean([energy(z[labels == t], w[types == t]) for t in shared])),
        "energy": energy(p, w),
        "w2_type": float(np.mean([_w2(p[same == t], w[types == t]) for t in shared])),
        "mmd_type": float(np.mean([_mmd(p[same == t], w[types == t]) for t in shared])),
    }


def _without_axes(x: np.ndarray, y: np.ndarray, metrics: Sequence[str], seed: int) -> dict[str, float]:
    """Return what is compared of cells as they are."""

    def moments(cells: np.ndarray) -> np.ndarray:
        shares = cells / np.maximum(cells.sum(1, keepdims=True), 1) * _TOTAL
        return np.log10(np.stack([shares.mean(0), shares.var(0)]) + 1e-2)

    apart = np.sqrt(((moments(x) - moments(y)) ** 2).mean(1))
    forests = {}
    for name, function in (("rf_auc", np.log1p), ("rf_auc_normalized", _lognorm)):
        if name in metrics:
            forests[name] = _forest(function(x), function(y), seed)
    return forests | {
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
    axes = principal_axes(values - mean)
    return lambda x: ((_lognorm(x)[:, columns] - mean) @ axes).astype(np.float32)


def principal_axes(values: Float[np.ndarray, "n g"]) -> Float[np.ndarray, "g k"]:
    """Return the first axes of centred values, from at most 2,000 of the rows."""
    if len(values) > _MOST:
        values = values[np.random.default_rng(0).choice(len(values), _MOST, replace=False)]
    _, _, vt = np.linalg.svd(values, full_matrices=False)
    return vt[:_PCS].T


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
