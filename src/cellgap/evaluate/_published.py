"""The published protocol of the Monge-gap line, for comparing with published tables and with nothing else.

Its distances are biased by finite samples and by the decoded target, so that a contracted population may score better
than the truth: rank models with `cellgap.evaluate.evaluate`. Here are its numbers under names that say what they are.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float

from cellgap.errors import ConfigError, ConvergenceError
from cellgap.evaluate import _distances as distances
from cellgap.evaluate import _moments as moments
from cellgap.evaluate._plan import generator
from cellgap.evaluate._predictors import Predictor, models_of
from cellgap.ot import entropic_self_cost, sinkhorn
from cellgap.space import AbstractFittedSpace
from cellgap.study import Condition, Role, Split

PUBLISHED_METRICS = ("r2_mean", "wasserstein_kl", "sinkhorn_euclidean", "mmd", "drug_signature")
"""What `published_metrics` returns, in order."""

EPSILON = 0.1
"""Entropic regularization of both transport distances, absolute, Euclidean cost."""

_TOLERANCE = 1e-3
_MOST_ITERATIONS = 2000


def published_metrics(
    target: Float[np.ndarray, "n features"], predicted: Float[np.ndarray, "n features"]
) -> dict[str, float]:
    """Return the published metrics of one batch of measured and one of predicted cells.

    Parameters
    ----------
    target, predicted
        Cells over the same features (published: 50 marker genes), one batch each.

    Returns
    -------
    metrics
        ``r2_mean``: squared correlation of the feature means; ``wasserstein_kl``: regularized transport cost ``OT_kl``,
        Euclidean, epsilon 0.1, not debiased; ``sinkhorn_euclidean``: the divergence of the same cells there; ``mmd``:
        squared kernel discrepancy over six bandwidths (V-statistic); ``drug_signature``: distance of the means.

    Raises
    ------
    ConvergenceError
        A transport problem was not solved, or the cells are not finite.

    Source
    ------
    Conditional Monge Gap (arXiv 2504.08328), evaluation; Bunne et al. 2023 for the kernel discrepancy.
    """
    return _metrics(np.asarray(target), np.asarray(predicted), _self_cost(np.asarray(target)))


def published_protocol(
    fitted: Predictor | Mapping[str, Predictor],
    split: Split,
    *,
    n_batches: int = 11,
    n_cells: int = 512,
    n_markers: int | None = 50,
    decode_target: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the published metrics of fitted models on the test cells of a split, averaged over batches.

    Every batch draws SOURCE controls and TEST cells with replacement, as published.

    Parameters
    ----------
    fitted
        A fitted model, or several by name.
    split
        The split they were fitted on.
    n_batches, n_cells
        Batches of a condition, and cells of a batch on either side.
    n_markers
        Genes to compare: those of each condition with the largest ``|t|`` between its test cells and the REFERENCE
        controls (published: 50 of the ranking of the *first* drug, for every drug); None takes all genes.
    decode_target
        Whether measured cells are encoded and decoded, as published, so that the reconstruction error cancels; False
        compares with the cells as measured.
    seed
        Of the draws.

    Returns
    -------
    table
        One row a model and condition: ``model, condition, n_batches`` and `PUBLISHED_METRICS`.

    Raises
    ------
    ConfigError
        A number is out of range.
    SplitError
        A model was trained on what the split holds out.
    ConvergenceError
        A transport problem was not solved.
    """
    for name, value in (("n_batches", n_batches), ("n_cells", n_cells), ("n_markers", n_markers or 1)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1, found {value!r}.")
    models = models_of(fitted, split)
    sources: dict[tuple[int, Condition], np.ndarray] = {}
    rows = []
    for condition in split.scored_conditions:
        source = split.rows(condition.control, Role.SOURCE)
        test = split.rows(condition, Role.TEST)
        rng = generator(seed, repr(condition), "published")
        batches = [(rng.choice(len(source), n_cells), rng.choice(len(test), n_cells)) for _ in range(n_batches)]
        targets: dict[int, tuple[np.ndarray, list[tuple[np.ndarray, float]]]] = {}
        for name, model in models.items():
            space = model.space
            # Every cell is encoded, moved and decoded once: batches draw the same cells over and over.
            here = (id(space), condition.control)
            if here not in sources:
                sources[here] = np.asarray(space.encode(split.study.adata, source))
            if id(space) not in targets:
                keep = _markers(space, split, condition, n_markers)
                target = _target(space, split, test, coded=decode_target)[:, keep]
                targets[id(space)] = keep, [(target[y], _self_cost(target[y])) for _, y in batches]
            keep, measured = targets[id(space)]
            moved = np.asarray(space.decode(np.asarray(model.transport(sources[here], condition))))[:, keep]
            found = [_metrics(target, moved[x], own) for (x, _), (target, own) in zip(batches, measured, strict=True)]
            means = {metric: float(np.mean([one[metric] for one in found])) for metric in PUBLISHED_METRICS}
            rows.append({"model": name, "condition": str(condition), "n_batches": n_batches} | means)
    return pd.DataFrame(rows)


def _markers(space: AbstractFittedSpace, split: Split, condition: Condition, n_markers: int | None) -> np.ndarray:
    """Return the columns of the marker genes of a condition, increasing."""
    columns = np.arange(len(space.genes))
    if n_markers is None or n_markers >= len(columns):
        return columns
    treated = np.asarray(space.measured(split.study.values(split.rows(condition, Role.TEST))), np.float64)
    control = np.asarray(space.measured(split.study.values(split.rows(condition.control, Role.REFERENCE))), np.float64)
    noise = np.sqrt(treated.var(0) / len(treated) + control.var(0) / len(control))
    t = np.abs(treated.mean(0) - control.mean(0)) / np.where(noise > 0, noise, np.inf)
    return np.sort(np.argsort(-t, kind="stable")[:n_markers])


def _target(space: AbstractFittedSpace, split: Split, rows: np.ndarray, *, coded: bool) -> np.ndarray:
    """Return measured cells in gene space: through the code and back, or as they are."""
    if coded:
        return np.asarray(space.decode(np.asarray(space.encode(split.study.adata, rows))))
    return np.asarray(space.measured(split.study.values(rows)))


def _metrics(target: np.ndarray, predicted: np.ndarray, own: float) -> dict[str, float]:
    cross, within, error = (float(v) for v in _costs(jnp.asarray(target), jnp.asarray(predicted)))
    if not (np.isfinite(cross) and np.isfinite(within)):
        raise ConvergenceError("the transport cost of a batch is not finite: look at the predicted cells.")
    if error > 10 * _TOLERANCE:
        raise ConvergenceError(
            f"a transport problem at epsilon {EPSILON} still violates its marginals by {error:.3g} after "
            f"{_MOST_ITERATIONS} iterations: the published protocol suits log-normalized expression."
        )
    across = distances.pair_sums(predicted, target, gammas=distances.GAMMAS)
    of_target, of_predicted = (distances.pair_sums(c, gammas=distances.GAMMAS) for c in (target, predicted))
    means = target.mean(0), predicted.mean(0)
    return {
        "r2_mean": moments.pearson(means[1], means[0]) ** 2,
        "wasserstein_kl": cross,
        "sinkhorn_euclidean": cross - 0.5 * within - 0.5 * own,
        "mmd": distances.mmd_from(across, of_predicted, of_target),
        "drug_signature": float(np.linalg.norm(means[0] - means[1])),
    }


_SOLVER: dict[str, Any] = {"epsilon": EPSILON, "tol": _TOLERANCE, "max_iterations": _MOST_ITERATIONS}


@jax.jit
def _costs(target: Float[Array, "n g"], predicted: Float[Array, "n g"]) -> tuple[Array, Array, Array]:
    cross = sinkhorn(target, predicted, **_SOLVER)
    within = entropic_self_cost(predicted, **_SOLVER)
    return cross.value, within.value, jnp.maximum(cross.error, within.error)


@jax.jit
def _own(target: Float[Array, "n g"]) -> Array:
    return entropic_self_cost(target, **_SOLVER).value


def _self_cost(target: np.ndarray) -> float:
    return float(_own(jnp.asarray(target)))
