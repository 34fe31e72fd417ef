"""What networks learn from: cells, and the same cells with fewer molecules, with weights of being drawn."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cellgap.annotate._comp_sum import CompSum, comp_sum_traced
from cellgap.annotate._train_classifier import AbstractObjective
from cellgap.annotate.robust import AbstractRobust
from cellgap.nn import GhostBatchNorm
from cellgap.train import Logs


class Views(eqx.Module):
    """Cells that are drawn with given weights; several views of a cell are several rows.

    Parameters
    ----------
    x
        Network inputs.
    y
        Classes.
    domain
        Domains.
    cumulative
        Running sum of the weights, its last entry 1; rows that only fill up have weight 0.
    """

    x: Float[Array, "rows features"]
    y: Int[Array, " rows"]
    domain: Int[Array, " rows"]
    cumulative: Float[Array, " rows"]

    @classmethod
    def of(
        cls,
        x: Float[np.ndarray, "rows features"],
        y: Int[np.ndarray, " rows"],
        domain: Int[np.ndarray, " rows"],
        weight: Float[np.ndarray, " rows"],
        length: int | None = None,
    ) -> "Views":
        """Return rows on the device, filled up to a length."""
        more = 0 if length is None else length - len(y)
        return cls(
            jnp.asarray(np.pad(x, ((0, more), (0, 0))), jnp.float32),
            jnp.asarray(np.pad(y, (0, more)), jnp.int32),
            jnp.asarray(np.pad(domain, (0, more)), jnp.int32),
            _cumulative(weight, len(y) + more),
        )

    def draw(self, key: PRNGKeyArray, size: int) -> Int[Array, " n"]:
        """Return random rows."""
        rows = jnp.searchsorted(self.cumulative, jr.uniform(key, (size,)), side="right")
        return jnp.minimum(rows, len(self.y) - 1).astype(jnp.int32)


def _cumulative(weight: Float[np.ndarray, " rows"], length: int) -> Float[Array, " length"]:
    total = np.cumsum(weight, dtype=np.float64)
    return jnp.asarray(np.pad(total / total[-1], (0, length - len(weight)), constant_values=1.0), jnp.float32)


class Projected(eqx.Module):
    """A network on coordinates as a network on gene space; axes are not learnt.

    Parameters
    ----------
    components, center
        Axes and center of gene space, the axes divided by the scale of inputs.
    tower
        The network.
    """

    components: Float[Array, "genes dim"]
    center: Float[Array, " genes"]
    tower: Any

    def __call__(self, x: Float[Array, "n genes"]) -> Float[Array, "n classes"]:
        """Return the scores of cells."""
        return self.tower(self._inputs(x))

    def training(self, x: Float[Array, "n genes"]) -> tuple[Float[Array, "n classes"], "Projected"]:
        """Return scores in training, and the network with its running averages moved."""
        scores, tower = self.tower.training(self._inputs(x))
        return scores, Projected(self.components, self.center, tower)

    def _inputs(self, x: Float[Array, "n genes"]) -> Float[Array, "n dim"]:
        return (x - self.center) @ self.components


class ViewsObjective(AbstractObjective):
    """Comp-sum loss, or that of a robust training, on random views.

    Parameters
    ----------
    views
        Cells.
    tau
        Of the end of training; see `CompSum.tau_at`.
    frame
        Axes and center, where `views` are in gene space; else None.
    loss
        Warm start of tau.
    n_steps
        Updates of the whole training.
    batch_size
        Of a batch.
    ghosts
        Which cells share a ghost; None where no ghosts are.
    robust
        Adversarial training; None is plain training.
    """

    views: Views
    tau: Float[Array, ""]
    frame: tuple[Float[Array, "genes dim"], Float[Array, " genes"]] | None
    loss: CompSum = eqx.field(static=True)
    n_steps: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    ghosts: GhostBatchNorm | None = eqx.field(static=True)
    robust: AbstractRobust | None = eqx.field(static=True)

    def __call__(self, net: Any, key: PRNGKeyArray, step: Int[Array, ""]) -> tuple[Float[Array, ""], tuple[Any, Logs]]:
        """Return the mean loss of a random batch, the moved network, and nothing more to log."""
        key_rows, key_ghosts, key_attack = jr.split(key, 3)
        rows = self.views.draw(key_rows, self.batch_size)
        if self.ghosts is not None and self.ghosts.ghosts != "shuffle":
            rows = rows[self.ghosts.order(self.views.domain[rows], key_ghosts)]
        x, y = self.views.x[rows], self.views.y[rows]
        tau = self.loss.tau_at(self.tau, step, self.n_steps)
        if self.robust is None:
            scores, moved = net.training(x)
            return jnp.mean(comp_sum_traced(scores, y, tau)), (moved, {})
        framed = net if self.frame is None else Projected(*self.frame, net)
        progress = jnp.asarray(step, jnp.float32) / self.n_steps
        loss, moved, _ = self.robust.loss(framed, x, y, key_attack, progress, tau)
        return loss, (moved if self.frame is None else moved.tower, {})
