"""The energy distance of mapped and measured held-out cells, by which models in training are judged."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cellgap.ot import cost_matrix
from cellgap.transport._problem import Problem

# Folds over all conditions together, and the fewest cells a fold may have on a side.
_FOLDS = 8
_CELLS_A_FOLD = 5


def fold_count(valid: Problem) -> int:
    """Return onto how many folds the cells of a condition are dealt: several where there are few conditions."""
    smallest = min(int(jnp.min(valid.sources.size)), int(jnp.min(valid.targets.size)))
    return max(1, min(_FOLDS // valid.n_conditions, smallest // _CELLS_A_FOLD))


def energy_of_folds(
    mapped: Callable[[Array], Array], valid: Problem, k: Int[Array, ""], n_folds: int
) -> Float[Array, " folds"]:
    """Return the unbiased energy distance of mapped and measured cells of condition `k`, for every fold.

    ``2 E|T(x) - y| - E|T(x) - T(x')| - E|y - y'|`` as a U-statistic: a cell is never compared with itself.

    Parameters
    ----------
    mapped
        Where control cells go under the condition.
    valid
        Held-out cells.
    k
        Number of the condition.
    n_folds
        See `fold_count`.
    """
    c = valid.source_of[k]
    x, y = valid.cells[valid.sources.index[c]], valid.cells[valid.targets.index[k]]
    w, v = _folds(x.shape[0], valid.sources.size[c], n_folds), _folds(y.shape[0], valid.targets.size[k], n_folds)
    t = mapped(x)
    cross = jnp.sum(w * (cost_matrix(t, y) @ v), 0) / (jnp.sum(w, 0) * jnp.sum(v, 0))
    return 2.0 * cross - _within(t, w) - _within(y, v)


def _folds(rows: int, size: Int[Array, ""], n_folds: int) -> Float[Array, "rows folds"]:
    i = jnp.arange(rows)
    return ((i[:, None] % n_folds == jnp.arange(n_folds)) & (i < size)[:, None]).astype(float)


def _within(cells: Float[Array, "n d"], folds: Float[Array, "n folds"]) -> Float[Array, " folds"]:
    """Return the mean distance between different cells of each fold."""
    distances = jnp.where(jnp.eye(cells.shape[0], dtype=bool), 0.0, cost_matrix(cells, cells))
    size = jnp.sum(folds, 0)
    return jnp.sum(folds * (distances @ folds), 0) / jnp.maximum(size * (size - 1.0), 1.0)
