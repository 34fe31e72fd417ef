"""Dispersions of their own for the categories of cells, as far as the cells of a category say."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from cellgap.space._count_noise import (
    SAMPLE_VALUES,
    THETA_MAX,
    THETA_MIN,
    CountNoise,
    counts_of,
    known_noise,
    residual_variance,
)
from cellgap.study import Split

_CELLS = 30.0
"""Cells whose worth the dispersion of all categories has."""


def noises_by(
    split: Split,
    space: Any,
    rates: Callable[[np.ndarray], Float[np.ndarray, "cells genes"]],
    rows: np.ndarray,
    labels: Int[np.ndarray, " cells"],
    n_categories: int,
) -> tuple[CountNoise, ...]:
    """Return the count noise of a space for every category.

    The residual variance of a gene in a category, beyond what codes carry, is averaged with what the space's own
    dispersion says there: n / (n + 30) is the weight of the n cells of the category.

    Parameters
    ----------
    split
        Whose study.
    space
        Fitted; it gives counts.
    rates
        Rows to the expected shares of these cells.
    rows, labels
        Training cells and their categories.
    n_categories
        How many there are; one without cells has the space's noise.
    """
    noise = known_noise(space.noise)
    theta, fresh = np.asarray(noise.theta, np.float64), np.asarray(noise.fresh, np.float64)
    rng = np.random.default_rng(0)
    out = []
    for category in range(n_categories):
        here = rows[labels == category]
        most = max(SAMPLE_VALUES // max(len(theta), 1), 200)
        if len(here) > most:
            here = np.sort(rng.choice(here, most, replace=False))
        if len(here) < 2:
            out.append(noise)
            continue
        x = counts_of(split, space.genes, here)
        mu = rates(here) * x.sum(axis=1, keepdims=True)
        left, first, second = residual_variance(x, mu, split.study.codes[here])
        weight = len(here) / (len(here) + _CELLS)
        excess = weight * np.maximum(left - first, 0.0) + (1 - weight) * second / theta
        own = np.clip(second / np.maximum(excess, second / THETA_MAX + 1e-30), THETA_MIN, THETA_MAX)
        kept = np.clip(left / np.maximum(first, 1e-30), 0.0, 1.0)
        kept = weight * kept + (1 - weight) * fresh
        pair = (own.astype(np.float32), kept.astype(np.float32))
        out.append(eqx.tree_at(lambda n: (n.theta, n.fresh), noise, pair))
    return tuple(out)
