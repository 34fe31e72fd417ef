"""Online retraining of heads on the cells of a target, with guards; off unless asked for."""

from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from pydantic import Field

from cellgap.annotate._comp_sum import comp_sum
from cellgap.annotate.drm._network import DomainHeadsNet
from cellgap.annotate.drm._weights import combined, mean_weights
from cellgap.nn import trainable
from cellgap.settings import settings

Triple = tuple[Float[Array, "n features"], Int[Array, " n"], Float[Array, " n"]]


@settings
class Online:
    """Settings of online retraining.

    Parameters
    ----------
    confidence
        Least probability of a pseudo-label.
    n_steps
        Steps of Adam.
    learning_rate
        Its step size; published grids are 0.1, 1 and 10 times that of training.
    full
        Also the featuriser is adapted, not only the heads.
    least_cells
        Below so many target cells nothing is done; 200 or more.
    most
        No class may be more frequent among pseudo-labels than so many times its frequency in the sources.
    """

    confidence: Annotated[float, Field(ge=0, le=1)] = 0.75
    n_steps: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    full: bool = False
    least_cells: Annotated[int, Field(ge=200)] = 200
    most: Annotated[float, Field(ge=1)] = 2.0


class OnlineResult(eqx.Module):
    """A network after online retraining, or the one before.

    Parameters
    ----------
    net
        The network to use.
    adapted
        Whether it is a new one.
    sentence
        What was done, or why nothing was.
    """

    net: DomainHeadsNet
    adapted: bool
    sentence: str


def adapt_online(
    net: DomainHeadsNet,
    x: Float[Array, "n features"],
    log_probability: Float[Array, "n classes"],
    valid_x: Float[Array, "m features"],
    valid_y: Int[Array, " m"],
    frequencies: Float[np.ndarray, " classes"],
    settings: Online,
) -> OnlineResult:
    """Return the network after a few steps on confident pseudo-labels, or the old one where a guard objects.

    All heads learn the same pseudo-labels, with the sum of their cross-entropies as loss.

    Parameters
    ----------
    net
        The trained network.
    x
        Cells of the target.
    log_probability
        Of their classes, by the rule in use; the most probable one is the pseudo-label.
    valid_x, valid_y
        Labelled cells of source domains that `net` did not learn from: the old network is kept where the accuracy on
        them falls, of the shared head or of the mean of heads.
    frequencies
        Of the classes in the sources, with sum 1.
    settings
        Steps and guards.

    Source
    ------
    Zhang et al. 2023 (arXiv 2208.08661), by its published code, where confidence is that of a softmax of the
    probabilities; here it is that of the probabilities. Guards and rollback are ours.
    """
    n, n_classes = log_probability.shape
    if n < settings.least_cells:
        return OnlineResult(net, False, f"Not adapted: {n} target cells are fewer than {settings.least_cells}.")
    pseudo = jnp.argmax(log_probability, 1)
    sure = jnp.max(log_probability, 1) >= jnp.log(settings.confidence)
    share = np.bincount(np.asarray(pseudo)[np.asarray(sure)], minlength=n_classes)
    if share.sum() == 0:
        return OnlineResult(net, False, f"Not adapted: no target cell reaches confidence {settings.confidence:g}.")
    share = share / share.sum()
    crowded = np.flatnonzero(share > settings.most * frequencies + 1e-9)
    if len(crowded):
        c = int(crowded[0])
        return OnlineResult(
            net,
            False,
            f"Not adapted: class {c} has a share of {share[c]:.2f} of the pseudo-labels, more than {settings.most:g} "
            f"times its share of {frequencies[c]:.2f} in the sources.",
        )
    adapted = _adapted(net, (x, pseudo, sure.astype(jnp.float32)), settings)
    before, after = (np.asarray(_valid(one, valid_x, valid_y)) for one in (net, adapted))
    if np.any(after < before):
        worst = int(np.argmin(after - before))
        return OnlineResult(
            net,
            False,
            f"Rolled back: the accuracy of the {('shared head', 'mean of heads')[worst]} on source cells fell from "
            f"{before[worst]:.3f} to {after[worst]:.3f}.",
        )
    return OnlineResult(adapted, True, f"Adapted on {int(sure.sum())} of {n} target cells, {settings.n_steps} steps.")


@eqx.filter_jit
def _adapted(net: DomainHeadsNet, cells: Triple, settings: Online) -> DomainHeadsNet:
    parameters = trainable(net) if settings.full else _heads(net)
    learnt, kept = eqx.partition(net, parameters)
    optimizer = optax.adam(settings.learning_rate)
    x, pseudo, weight = cells

    def loss_of(learnt: Any) -> Float[Array, ""]:
        scores = eqx.combine(learnt, kept).head_scores(x)
        losses = jax.vmap(comp_sum, (1, None, None), 1)(scores, pseudo, 1.0)
        return jnp.sum(weight @ losses) / jnp.sum(weight)

    def step(_: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        learnt, slots = state
        updates, slots = optimizer.update(eqx.filter_grad(loss_of)(learnt), slots, learnt)
        return optax.apply_updates(learnt, updates), slots

    learnt, _ = jax.lax.fori_loop(0, settings.n_steps, step, (learnt, optimizer.init(learnt)))
    return eqx.combine(learnt, kept)


@eqx.filter_jit
def _valid(net: DomainHeadsNet, x: Float[Array, "n features"], y: Int[Array, " n"]) -> Float[Array, "2"]:
    log_p = jax.nn.log_softmax(net.head_scores(x), -1)
    both = (log_p[:, -1], combined(log_p, mean_weights(log_p)))
    return jnp.stack([jnp.mean(jnp.argmax(p, 1) == y) for p in both])


def _heads(net: DomainHeadsNet) -> Any:
    """Return which leaves are parameters of heads."""
    nothing = jax.tree.map(lambda _: False, net)
    head = jax.tree.map(lambda _: True, net.tower.layers[-1])
    return eqx.tree_at(lambda n: (n.tower.layers[-1], n.weight, n.bias), nothing, (head, True, True))
