"""Another cell of the same condition, of another donor where asked."""

from typing import Annotated, Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from pydantic import BeforeValidator, Field

from cellgap.embed.pairs._interface import AbstractFittedPairs, AbstractPairs, PairCells, Pairs, Support
from cellgap.embed.pairs._whole import whole_pairs, whole_support
from cellgap.errors import ConfigError, DataError
from cellgap.settings import settings
from cellgap.study._column import factor, labels_in
from cellgap.study._wording import close_to


def _tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Columns = Annotated[tuple[str, ...], BeforeValidator(_tuple)]


@settings
class SameCondition(AbstractPairs):
    """A cell and another one that got the same treatment.

    Frozen: the condition, and the columns of `within`. Moved: the state of the cell inside its condition, and the
    columns of `across`, which is how an embedding loses batch and donor. Where conditions do not overlap, the best
    critic is of low rank, ``log sum_c p(c|z) p(c|z~) / p(c)``: classes collapse to points.

    Parameters
    ----------
    across
        Columns of ``obs``: the partner differs in their combination, such as "donor" or "batch".
    within
        Columns that are the same in both, such as "cell_type".
    by
        Columns that make a condition; None takes treatment and dose of the design.
    weight
        In a mixture.
    """

    across: Columns = ()
    within: Columns = ()
    by: Annotated[tuple[str, ...] | None, BeforeValidator(_tuple)] = None
    weight: Annotated[float, Field(gt=0)] = 1.0

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are the same in a pair, and those that differ."""
        return tuple(dict.fromkeys((*(self.by or ()), *self.within, *self.across)))

    def fit(self, cells: PairCells) -> "FittedGroups":
        """Return the law of partners; see `AbstractPairs.fit`."""
        if self.by is None and cells.treatment is None:
            raise ConfigError(
                "SameCondition needs to know what a condition is, and the design names no treatment: set "
                'SameCondition(by=("cell_type",)), or the like.'
            )
        named = [texts_of(cells.obs, name) for name in (*(self.by or ()), *self.within)]
        first = [] if cells.treatment is None or self.by is not None else [cells.treatment]
        group = numbered([*first, *named], len(cells.obs))
        inside = numbered([texts_of(cells.obs, name) for name in self.across], len(cells.obs)) if self.across else None
        fitted = FittedGroups.of(group, inside)
        if not fitted.able.any():
            raise DataError(
                f"{self} gives no cell a partner: "
                + (f"no condition was measured in two values of {', '.join(self.across)}." if self.across else
                   "every condition has a single cell.")
            )  # fmt: skip
        return fitted


class FittedGroups(AbstractFittedPairs):
    """Cells in groups, each group in blocks: a partner is any cell of the group outside the block.

    Parameters
    ----------
    order
        Cells sorted by group and block.
    place
        Where a cell is in `order`.
    group_start, block_start, block_end
        Of the group and the block of every cell, in places.
    reach
        Number of cells that the partner can be.
    """

    order: Int[Array, " cells"]
    place: Int[Array, " cells"]
    group_start: Int[Array, " cells"]
    block_start: Int[Array, " cells"]
    block_end: Int[Array, " cells"]
    reach: Int[Array, " cells"]
    able: Bool[np.ndarray, " cells"]
    sizes: Float[np.ndarray, " cells"]
    thins: bool = eqx.field(static=True)
    hides: bool = eqx.field(static=True)

    @classmethod
    def of(cls, group: Int[np.ndarray, " cells"], block: Int[np.ndarray, " cells"] | None) -> "FittedGroups":
        """Return the law for these groups; without blocks a cell is its own block."""
        n = len(group)
        if block is None:
            block = np.arange(n)
        order = np.lexsort((block, group))
        place = np.empty(n, np.int64)
        place[order] = np.arange(n)
        g, b = group[order], block[order]
        new_group = np.r_[True, g[1:] != g[:-1]]
        new_block = new_group | np.r_[True, b[1:] != b[:-1]]
        group_start, group_end = _bounds(new_group)
        block_start, block_end = _bounds(new_block)
        reach = ((group_end - group_start) - (block_end - block_start))[place]
        return cls(
            order=jnp.asarray(order, jnp.int32),
            place=jnp.asarray(place, jnp.int32),
            group_start=jnp.asarray(group_start[place], jnp.int32),
            block_start=jnp.asarray(block_start[place], jnp.int32),
            block_end=jnp.asarray(block_end[place], jnp.int32),
            reach=jnp.asarray(reach, jnp.int32),
            able=reach > 0,
            sizes=reach.astype(float),
            thins=False,
            hides=False,
        )

    def draw(self, key: PRNGKeyArray, rows: Int[Array, " n"]) -> Pairs:
        """Return each cell with another one of its group and of another block."""
        return whole_pairs(rows, self._others(key, rows[:, None])[:, 0])

    def support(self, key: PRNGKeyArray, rows: Int[Array, " n"], m: int) -> Support:
        """Return cells of the anchor's group and of other blocks."""
        return whole_support(self._others(key, jnp.broadcast_to(rows[:, None], (len(rows), m))))

    def surplus(self) -> Float[np.ndarray, " cells"]:
        """Partners are uniform on the group."""
        return np.zeros(len(self.able))

    def _others(self, key: PRNGKeyArray, rows: Int[Array, "n m"]) -> Int[Array, "n m"]:
        step = jr.randint(key, rows.shape, 0, jnp.maximum(self.reach[rows], 1))
        at = self.group_start[rows] + step
        return self.order[jnp.where(at >= self.block_start[rows], at + self.block_end[rows] - self.block_start[rows],
                                    at)]  # fmt: skip


def _bounds(new: Bool[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """Return start and end of every entry's run, given where runs begin."""
    starts = np.flatnonzero(new)
    run = np.cumsum(new) - 1
    ends = np.r_[starts[1:], len(new)]
    return starts[run], ends[run]


def texts_of(obs: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as texts.

    Raises
    ------
    DataError
        It is missing, or has no label in some cell.
    """
    if name not in obs.columns:
        raise DataError(f"obs has no column {name!r}: {close_to(name, list(map(str, obs.columns)))}")
    column = factor(labels_in(obs, name))
    if column.missing.any():
        raise DataError(f"obs[{name!r}] has no label in {int(column.missing.sum()):,} cells: fill them, or drop them.")
    return np.asarray(column.texts, dtype=object)[column.codes]


def numbered(columns: list[np.ndarray], n: int) -> Int[np.ndarray, " n"]:
    """Return the combinations of columns as numbers from 0."""
    code = np.zeros(n, np.int64)
    for column in columns:
        _, number = np.unique(column.astype(str), return_inverse=True)
        code = np.unique(code * (number.max() + 1) + number, return_inverse=True)[1]
    return code
