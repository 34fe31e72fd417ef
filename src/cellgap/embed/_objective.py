"""One step of contrastive training: draw anchors, partners and negatives, and take the loss."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from cellgap.embed._cells import Cells
from cellgap.embed._encoders import SphereEncoder
from cellgap.embed._loss import info_nce, mixed_info_nce, two_view_info_nce
from cellgap.embed.pairs import AbstractFittedPairs, Pairs
from cellgap.train import draw_without_replacement

Kind = Literal["infonce", "corrected", "mixed"]
Mask = Literal["none", "cell"]


class Objective(eqx.Module):
    """Everything but the network.

    Parameters
    ----------
    cells, pairs
        Training cells and the law of partners.
    anchors
        Places of the cells that have a partner.
    kind
        Which negatives: of all cells, of the support of the sampler, or of both.
    tau
        Temperature.
    batch
        Anchors a step.
    rho
        Share of negatives from the support ("mixed").
    n_support
        Negatives from the support, for every anchor.
    mask
        "cell": views of the anchor's cell and of the partner's are no negatives.
    """

    cells: Cells
    pairs: AbstractFittedPairs
    anchors: Int[Array, " able"]
    kind: Kind = eqx.field(static=True)
    tau: float = eqx.field(static=True)
    batch: int = eqx.field(static=True)
    rho: float = eqx.field(static=True)
    n_support: int = eqx.field(static=True)
    mask: Mask = eqx.field(static=True)

    @property
    def n_negatives(self) -> int:
        """Negatives of an anchor, M."""
        both = 2 * self.batch - 2
        return {"infonce": both, "corrected": self.n_support, "mixed": both + self.n_support}[self.kind]

    def __call__(
        self, net: SphereEncoder, key: PRNGKeyArray, *, training: bool
    ) -> tuple[Float[Array, ""], tuple[SphereEncoder, Float[Array, ""]]]:
        """Return the mean loss of a batch less log M, the network with running averages moved, and the alignment."""
        key_rows, key_pairs, key_views, key_support, key_seen = jr.split(key, 5)
        rows = self.anchors[draw_without_replacement(key_rows, self.batch, len(self.anchors))]
        pairs = self.pairs.draw(key_pairs, rows)
        shown = {"thins": self.pairs.thins, "hides": self.pairs.hides}
        views = self.cells.views(key_views, pairs, **shown)
        inputs = jnp.concatenate([views.anchor, views.partner])
        if self.kind != "infonce":
            support = self.pairs.support(key_support, rows, self.n_support)
            inputs = jnp.concatenate([inputs, self.cells.seen(key_seen, support, **shown)])
        h, moved = net.training(inputs) if training else (net(inputs), net)
        n = self.batch
        anchor, partner = h[:n], h[n : 2 * n]
        own = h[2 * n :].reshape(n, -1, h.shape[1])
        if self.kind == "corrected":
            loss = jnp.mean(info_nce(anchor, partner, own, tau=self.tau))
        elif self.kind == "mixed":
            loss = jnp.mean(
                mixed_info_nce(
                    anchor, partner, own, h[: 2 * n], tau=self.tau, rho=self.rho, mask=self._others(pairs, n)[:n]
                )
            )
        elif self.mask == "none":
            loss = two_view_info_nce(anchor, partner, tau=self.tau)
        else:
            swapped = jnp.concatenate([partner, anchor])
            loss = jnp.mean(info_nce(h, swapped, h, tau=self.tau, mask=self._others(pairs, n)))
        alignment = jnp.mean(jnp.sum(anchor * partner, axis=1))
        return loss - jnp.log(self.n_negatives), (moved, alignment)

    def _others(self, pairs: Pairs, n: int) -> Bool[Array, "views views"]:
        """Return which views are negatives: not the anchor, not its partner, and with a mask no view of their cells."""
        place = jnp.tile(jnp.arange(n), 2)
        others = place[:, None] != place[None, :]
        if self.mask == "cell":
            cell = jnp.concatenate([pairs.anchor, pairs.partner])
            mate = jnp.concatenate([pairs.partner, pairs.anchor])
            others &= (cell[:, None] != cell[None, :]) & (mate[:, None] != cell[None, :])
        return others


class EmbeddingState(eqx.Module):
    """Everything that changes during training; a tree of arrays, every leaf with one row a run."""

    net: SphereEncoder
    optimizer: Any


def evaluated(objective: Objective, keys: Key[Array, " batches"], state: EmbeddingState) -> dict[str, Array]:
    """Return the mean loss of every run over fixed batches of held-out cells."""

    def of_run(net: SphereEncoder):
        return jnp.mean(jax.lax.map(lambda key: objective(net, key, training=False)[0], keys))

    return {"valid": jax.lax.map(of_run, state.net)}
