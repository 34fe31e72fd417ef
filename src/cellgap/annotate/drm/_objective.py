"""The loss of domain-specific risk minimisation."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cellgap.annotate._comp_sum import comp_sum
from cellgap.annotate._labelled import Labelled
from cellgap.annotate._train_classifier import AbstractObjective
from cellgap.train import Logs


class DRMObjective(AbstractObjective):
    """Own head and shared head in equal parts, on as many cells of every domain.

    ``loss = (1/K) sum_i (1/2) [l(c_i(phi(x_i)), y_i) + l(c_0(phi(x_i)), y_i)] + penalty (1/K) sum_i |d_i|^2``, the last
    part for offsets only.

    Parameters
    ----------
    data
        Training cells, which are drawn equally of each domain.
    per_domain
        Cells of a domain in a batch.
    tau
        Comp-sum loss ``l``; 1 is the cross-entropy, as published.
    penalty
        Weight of the squared offsets; with a large one all heads are the shared head. Independent heads have none.

    Source
    ------
    Zhang et al. 2023 (arXiv 2208.08661), by its published code; the comp-sum loss is of Mao, Mohri, Zhong 2023
    (arXiv 2304.07288); the penalty is ours.
    """

    data: Labelled
    per_domain: int = eqx.field(static=True, default=32)
    tau: float = eqx.field(static=True, default=1.0)
    penalty: float = eqx.field(static=True, default=0.0)

    def __call__(self, net: Any, key: PRNGKeyArray, step: Int[Array, ""]) -> tuple[Float[Array, ""], tuple[Any, Logs]]:
        """Return the loss on a random batch, the moved network, and the parts of the loss."""
        batch = self.data.batch(key, self.per_domain * self.data.n_domains, "domains")
        scores, moved = net.training_heads(batch.x)
        own = jnp.take_along_axis(scores.own, batch.domain[:, None, None], 1)[:, 0]
        own_loss = jnp.mean(comp_sum(own, batch.y, self.tau))
        shared_loss = jnp.mean(comp_sum(scores.shared, batch.y, self.tau))
        loss = (own_loss + shared_loss) / 2
        logs = {"own": own_loss, "shared": shared_loss}
        if net.pooled and self.penalty > 0:
            loss = loss + self.penalty * (jnp.sum(net.weight**2) + jnp.sum(net.bias**2)) / net.n_domains
        if net.discriminator is not None:
            logs["domain"] = jnp.mean(comp_sum(net.domains_of(scores.features), batch.domain, 1.0))
            loss = loss + logs["domain"]  # it shares no parameter with the rest
        return loss, (moved, logs)
