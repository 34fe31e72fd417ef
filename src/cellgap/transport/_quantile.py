"""Quantile maps: one-dimensional optimal transport of every coordinate by itself."""

import dataclasses
from typing import Annotated

import numpy as np
from jaxtyping import Float
from pydantic import Field

from cellgap.encode import AbstractEncoder, FittedEncoder
from cellgap.gap import Gap
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace, AbstractSpace
from cellgap.storage import storable
from cellgap.study import Condition, Role, Split
from cellgap.transport._codes import Codes
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._gaps import map_gaps
from cellgap.transport._map import AbstractMap, vocabulary_of
from cellgap.transport._measured import trained_number


@settings
class QuantileMap:
    """One map for every condition that was trained on: each coordinate goes to the same quantile of treated cells.

    ``T_j(x) = F_yj^(-1)(F_xj(x_j))``, the optimal map between the marginals of coordinate `j`; how coordinates vary
    together stays as it is in the controls. Linear between knots; beyond the outermost ones a cell moves as they do
    (slope 1). Where several controls share a value, it goes to the mean of their images.

    Parameters
    ----------
    space, encoder
        Where cells live; the encoder describes conditions in reports only.
    knots
        Most quantiles of a marginal; fewer where there are fewer cells.
    """

    space: AbstractSpace
    encoder: AbstractEncoder
    knots: Annotated[int, Field(ge=1)] = 200

    def fit(self, split: Split, *, key=None) -> "FittedQuantileMap":
        """Return the maps of a split's training conditions."""
        return self.fit_codes(Codes.of(split, self.space, self.encoder))

    def fit_codes(self, codes: Codes, *, key=None) -> "FittedQuantileMap":
        """Return the maps of encoded training conditions."""
        pairs = []
        for condition in codes.split.train_conditions:
            x, y = (codes.cells(c, Role.TRAIN) for c in (condition.control, condition))
            n = min(self.knots, len(x), len(y))
            pairs.append((quantiles(x, n), quantiles(y, n)))
        fitted = FittedQuantileMap(
            "quantile",
            codes.space,
            codes.encoder,
            vocabulary_of(codes),
            (),
            tuple(x for x, _ in pairs),
            tuple(y for _, y in pairs),
        )
        # Each coordinate's map is increasing, so the whole is the gradient of a convex function: its Monge gap is 0.
        spread = tuple(gap for gap in map_gaps(fitted, codes) if gap.name == "spread gap")
        return dataclasses.replace(fitted, measured_gaps=spread)


@storable
class FittedQuantileMap(AbstractMap):
    """See `QuantileMap`.

    Parameters
    ----------
    source, target
        Quantiles of controls and treated cells of every condition, one table (quantiles, d) each.
    """

    name: str
    space: AbstractFittedSpace
    encoder: FittedEncoder
    vocabulary: Vocabulary
    measured_gaps: tuple[Gap, ...]
    source: tuple[Float[np.ndarray, "q d"], ...]
    target: tuple[Float[np.ndarray, "q d"], ...]

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return the mapped cells, for a condition that was trained on; see `AbstractMap.transport`."""
        if condition.is_control:
            return z
        k = trained_number(self.vocabulary, condition, self.name)
        moved = np.empty_like(z, np.float32)
        for j, (x, y) in enumerate(zip(self.source[k].T, self.target[k].T, strict=True)):
            moved[:, j] = monotone(z[:, j], x, y)
        return moved


def quantiles(cells: Float[np.ndarray, "n d"], count: int) -> Float[np.ndarray, "q d"]:
    """Return the quantiles at ``(i + 1/2) / count`` of every coordinate; with `count` cells, the sorted cells."""
    levels = (np.arange(count) + 0.5) / count
    return np.quantile(cells.astype(np.float64), levels, axis=0, method="hazen").astype(np.float32)


def monotone(
    z: Float[np.ndarray, " n"], x: Float[np.ndarray, " q"], y: Float[np.ndarray, " q"]
) -> Float[np.ndarray, " n"]:
    """Return the increasing piecewise linear function through sorted knots, with slope 1 beyond them, at `z`."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    knots, first = np.unique(x, return_index=True)
    values = np.add.reduceat(y, first) / np.diff(np.append(first, len(x)))
    inside = np.interp(z, knots, values)
    return inside + np.minimum(z - knots[0], 0.0) + np.maximum(z - knots[-1], 0.0)
