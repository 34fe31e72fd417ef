"""The attack on counts: a few molecules more or fewer in a few genes, as ambient RNA or index hopping make them."""

from collections.abc import Callable
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field

from cellgap.annotate.robust._criteria import margin
from cellgap.settings import settings

ToFeatures = Callable[[Float[Array, "n genes"], Float[Array, " n"]], Float[Array, "n d"]]
_ALL_AMOUNTS = 8  # up to so many counts every amount is tried, above it powers of two
_AT_ONCE = 8  # cells


def log_cp10k(counts: Float[Array, "n genes"], rest: Float[Array, " n"]) -> Float[Array, "n genes"]:
    """Return ``log(1 + 10,000 counts / total)``.

    Parameters
    ----------
    counts
        Of the kept genes.
    rest
        What the other genes add to each cell's total.
    """
    total = jnp.maximum(jnp.sum(counts, 1) + rest, 1.0)
    return jnp.log1p(counts * (1e4 / total)[:, None])


class CountsAttacked(eqx.Module):
    """The worst counts found.

    Parameters
    ----------
    counts
        Attacked counts of the kept genes; the measured ones where nothing was worse.
    margin
        Score of the true class less the largest of the others, there.
    """

    counts: Int[Array, "n genes"]
    margin: Float[Array, " n"]

    @property
    def robust(self) -> Bool[Array, " n"]:
        """Whether a cell is still right."""
        return self.margin > 0


@settings
class CountAttack:
    """At most `max_counts` molecules of a cell are added or removed, in at most `max_genes` genes.

    A greedy search: gene after gene, those whose gradient promises most are tried with several amounts, each evaluated
    exactly after normalizing again, and the best is kept. It runs twice, once with the counts shared evenly between the
    genes to come and once with all of them for the first, and the worse result is kept. With one gene, `candidates`
    None and at most 8 counts it is exact. Genes outside those given are never changed.

    Parameters
    ----------
    max_counts
        Sum over genes of the absolute changes.
    max_genes
        Number of genes that change.
    candidates
        Genes tried at each step, half of them with more counts and half with fewer; None tries all.
    """

    max_counts: Annotated[int, Field(ge=1)] = 10
    max_genes: Annotated[int, Field(ge=1)] = 5
    candidates: Annotated[int, Field(ge=2)] | None = 32

    def __call__(
        self,
        net: Any,
        counts: Int[Array, "n genes"],
        rest: Float[Array, " n"] | Int[Array, " n"],
        y: Int[Array, " n"],
        to_features: ToFeatures = log_cp10k,
    ) -> CountsAttacked:
        """Return the worst counts found.

        Parameters
        ----------
        net
            ``net(features)`` returns scores (n, classes) at inference.
        counts
            Raw counts of the kept genes.
        rest
            Counts of the other genes of each cell, which stay.
        y
            Classes counted from 0.
        to_features
            Counts and rest to the network's input, differentiable; a function or a module.
        """
        counts = jnp.asarray(counts, jnp.int32)
        return _attacked(
            net, to_features, counts, jnp.asarray(rest, float), y, self._amounts(), self._tried(counts.shape[1]),
            jnp.int32(self.max_counts), jnp.int32(self.max_genes),
        )  # fmt: skip

    def _amounts(self) -> tuple[int, ...]:
        most = self.max_counts
        if most <= _ALL_AMOUNTS:
            return tuple(range(1, most + 1))
        return (*(2**i for i in range(most.bit_length()) if 2**i < most), most)

    def _tried(self, genes: int) -> int:
        """Return how many genes are tried upwards, and as many downwards."""
        return genes if self.candidates is None else min(genes, -(-self.candidates // 2))


@eqx.filter_jit
def _attacked(
    net: Any,
    to_features: ToFeatures,
    counts: Int[Array, "n genes"],
    rest: Float[Array, " n"],
    y: Int[Array, " n"],
    amounts: tuple[int, ...],
    tried: int,
    max_counts: Int[Array, ""],
    max_genes: Int[Array, ""],
) -> CountsAttacked:
    sizes = jnp.asarray(amounts)

    def one(cell: tuple[Int[Array, " genes"], Float[Array, ""], Int[Array, ""]]):
        measured, rest, label = cell

        def margins(rows: Float[Array, "m genes"]) -> Float[Array, " m"]:
            scores = net(to_features(rows, jnp.full(len(rows), rest)))
            return margin(scores, jnp.full(len(rows), label))

        def search(even: Bool[Array, ""]) -> tuple[Int[Array, " genes"], Float[Array, ""]]:
            def step(t: Int[Array, ""], carry: Any):
                now, left, best = carry
                shared = -(-left // jnp.maximum(max_genes - t, 1))
                allowance = jnp.where(even, shared, left)
                gradient = jax.grad(lambda c: margins(c[None])[0])(now.astype(float))
                changed = now != measured
                removable = jnp.where(changed, 0, jnp.minimum(now, allowance))
                up = jax.lax.top_k(jnp.where(changed, -jnp.inf, -gradient), tried)[1]
                down = jax.lax.top_k(jnp.where(removable == 0, -jnp.inf, gradient * removable), tried)[1]
                genes = jnp.repeat(jnp.concatenate([up, down]), len(amounts))
                size = jnp.tile(jnp.minimum(sizes, allowance), 2 * tried)
                added = jnp.where(changed[genes], 0, size)
                taken = -jnp.minimum(size, removable[genes])
                moves = jnp.where(jnp.arange(len(genes)) < tried * len(amounts), added, taken)
                rows = now + moves[:, None] * jax.nn.one_hot(genes, len(now), dtype=jnp.int32)
                found = margins(rows.astype(float))
                at = jnp.argmin(found)
                better = found[at] < best
                return (
                    jnp.where(better, rows[at], now),
                    left - jnp.where(better, jnp.abs(moves[at]), 0),
                    jnp.where(better, found[at], best),
                )

            start = (measured, max_counts, margins(measured[None].astype(float))[0])
            now, _, best = jax.lax.fori_loop(0, max_genes, step, start)
            return now, best

        rows, found = jax.lax.map(search, jnp.array([True, False]))
        at = jnp.argmin(found)
        return rows[at], found[at]

    return CountsAttacked(*jax.lax.map(one, (counts, rest, y), batch_size=_AT_ONCE))
