"""Right-hand sides of differential equations: one network for all targets, or one small network a target."""

from abc import abstractmethod
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from cellgap.nn._hard_concrete import LOG_ALPHA_RANGE, draw_gates, expected_gates, initial_log_alpha
from cellgap.storage import storable

GateUnit = Literal["unit", "weight", "edge"]
_FIRST_CLOSED, _OTHER_CLOSED = 0.2, 0.5


def elu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the exponential linear unit."""
    # exp(x) - 1 is half the work of expm1, and as good where it is added to numbers of order one.
    return jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0.0)) - 1.0)


def _slope(x: Array) -> Array:
    """Return the derivative of `elu`."""
    return jnp.where(x > 0, 1.0, jnp.exp(jnp.minimum(x, 0.0)))


class AbstractLawNet(eqx.Module):
    """The production ``g`` of a law; what decays is another matter.

    Parameters
    ----------
    log_alpha
        Logarithms of the odds of the gates, an array a layer that has some; None: there are no gates.
    skip
        Weights of a linear way around the network, (sources, targets); None: there is none.
    """

    log_alpha: eqx.AbstractVar[tuple[Array, ...] | None]
    skip: eqx.AbstractVar[Array | None]

    @abstractmethod
    def __call__(self, s: Float[Array, "n source"]) -> Float[Array, "n target"]:
        """Return the production of every target from the sources of every row."""

    @abstractmethod
    def masked(
        self, gates: tuple[Array, ...] | None, allowed: Float[Array, "target source"] | None
    ) -> "AbstractLawNet":
        """Return the network with its weights multiplied by gates, and without the edges that are not allowed."""

    @abstractmethod
    def paths(self, *, gates: tuple[Array, ...] | None = None) -> Float[Array, "source target"]:
        """Return ``|W_1| ... |W_L|``, divided by the widths of the hidden layers; of gates alone where given.

        A linear way around is one more path.
        """

    @abstractmethod
    def groups(self) -> Float[Array, "source target"]:
        """Return the norm of the first weights of every source, by target where targets have their own.

        The weight of a linear way around is added: what enters linearly enters.
        """

    @abstractmethod
    def jacobian(self, s: Float[Array, "n source"]) -> Float[Array, "n source target"]:
        """Return the derivative of the production of every target by every source, at every row."""


@storable
class PerTargetNet(AbstractLawNet):
    """A multilayer perceptron with two hidden layers for every target, so that every edge has weights of its own.

    Parameters
    ----------
    n_sources, n_targets
        Sizes of what is read and returned.
    hidden
        Units of each hidden layer of each target.
    activations
        2: a non-linearity after both hidden layers; 1: after the first only, as published.
    gated
        Whether every edge has a gate.
    skip
        Whether there is a linear way around.
    key
        Random key of the weights.
    """

    first: Float[Array, "target source hidden"]
    first_bias: Float[Array, "target hidden"]
    middle: Float[Array, "target hidden hidden"]
    middle_bias: Float[Array, "target hidden"]
    last: Float[Array, "target hidden"]
    last_bias: Float[Array, " target"]
    log_alpha: tuple[Array, ...] | None
    skip: Array | None
    activations: int = eqx.field(static=True)

    def __init__(
        self,
        n_sources: int,
        n_targets: int,
        *,
        hidden: int,
        activations: int = 2,
        gated: bool = False,
        skip: bool = False,
        key: PRNGKeyArray,
    ):
        key_first, key_middle, key_last, key_gates = jr.split(key, 4)
        self.first = jr.normal(key_first, (n_targets, n_sources, hidden)) / jnp.sqrt(n_sources)
        self.middle = jr.normal(key_middle, (n_targets, hidden, hidden)) / jnp.sqrt(hidden)
        self.last = 0.3 * jr.normal(key_last, (n_targets, hidden)) / jnp.sqrt(hidden)
        self.first_bias, self.middle_bias = jnp.zeros((2, n_targets, hidden))
        self.last_bias = jnp.zeros(n_targets)
        self.log_alpha = (initial_log_alpha((n_targets, n_sources), _FIRST_CLOSED, key_gates),) if gated else None
        self.skip = jnp.zeros((n_sources, n_targets)) if skip else None
        self.activations = activations

    def __call__(self, s: Float[Array, "n source"]) -> Float[Array, "n target"]:
        """Return the production of every target."""
        # Targets lead: batched products of whole matrices, half the time of rows leading.
        y = elu(jnp.einsum("nj,ijh->inh", s, self.first) + self.first_bias[:, None])
        y = jnp.einsum("inh,ihk->ink", y, self.middle) + self.middle_bias[:, None]
        y = elu(y) if self.activations == 2 else y
        out = jnp.einsum("ink,ik->in", y, self.last).T + self.last_bias
        return out if self.skip is None else out + s @ self.skip

    def masked(self, gates: tuple[Array, ...] | None, allowed: Float[Array, "target source"] | None) -> "PerTargetNet":
        """Return the network with gated edges."""
        factor = None if gates is None else gates[0]
        if allowed is not None:
            factor = allowed if factor is None else factor * allowed
        if factor is None:
            return self
        net = eqx.tree_at(lambda n: n.first, self, self.first * factor[..., None])
        return net if self.skip is None else eqx.tree_at(lambda n: n.skip, net, self.skip * factor.T)

    def paths(self, *, gates: tuple[Array, ...] | None = None) -> Float[Array, "source target"]:
        """Return the products of weights along paths."""
        if gates is not None:
            return gates[0].T
        width = self.last.shape[1]
        after = jnp.einsum("ihk,ik->ih", jnp.abs(self.middle), jnp.abs(self.last))
        return _with_skip(jnp.einsum("ijh,ih->ji", jnp.abs(self.first), after) / width**2, self.skip)

    def gain(self) -> Float[Array, " target"]:
        """Return how much the later layers of each target make of what the first one gives them.

        The root mean square over its hidden units of ``|W_2| |W_3|``. Without it in a penalty, first weights could be
        made small at no cost by making later ones large.
        """
        after = jnp.einsum("ihk,ik->ih", jnp.abs(self.middle), jnp.abs(self.last))
        return jnp.sqrt(jnp.mean(after**2, axis=1) + 1e-12)

    def groups(self) -> Float[Array, "source target"]:
        """Return ``|W_1[i, :, j]|_2`` times the gain of the later layers."""
        return _with_skip((jnp.linalg.norm(self.first, axis=2) * self.gain()[:, None]).T, self.skip)

    def jacobian(self, s: Float[Array, "n source"]) -> Float[Array, "n source target"]:
        """Return the derivatives; one way back for all targets, as none reads the units of another."""
        a = jnp.einsum("nj,ijh->inh", s, self.first) + self.first_bias[:, None]
        b = jnp.einsum("inh,ihk->ink", elu(a), self.middle) + self.middle_bias[:, None]
        back = jnp.broadcast_to(self.last[:, None], b.shape) * (_slope(b) if self.activations == 2 else 1.0)
        back = jnp.einsum("ink,ihk->inh", back, self.middle) * _slope(a)
        out = jnp.einsum("inh,ijh->nji", back, self.first)
        return out if self.skip is None else out + self.skip


@storable
class SharedNet(AbstractLawNet):
    """One multilayer perceptron with two hidden layers for all targets.

    Parameters
    ----------
    n_sources, n_targets, hidden, activations, skip, key
        As in `PerTargetNet`; `hidden` units are shared by all targets.
    gates
        ``"unit"`` (one for each input of each layer, as published), ``"weight"`` (one a weight), or None.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    log_alpha: tuple[Array, ...] | None
    skip: Array | None
    activations: int = eqx.field(static=True)

    def __init__(
        self,
        n_sources: int,
        n_targets: int,
        *,
        hidden: int,
        activations: int = 2,
        gates: Literal["unit", "weight"] | None = None,
        skip: bool = False,
        key: PRNGKeyArray,
    ):
        sizes = ((n_sources, hidden), (hidden, hidden), (hidden, n_targets))
        scales = (1.0, 1.0, 0.3)
        keys, key_gates = jr.split(key, 3), jr.split(jr.fold_in(key, 1), 3)
        self.weights = tuple(
            c * jr.normal(k, size) / jnp.sqrt(size[0]) for c, k, size in zip(scales, keys, sizes, strict=True)
        )
        self.biases = tuple(jnp.zeros(size[1]) for size in sizes)
        closed = (_FIRST_CLOSED, _OTHER_CLOSED, _OTHER_CLOSED)
        shapes = [size if gates == "weight" else (size[0], 1) for size in sizes]
        self.log_alpha = (
            None
            if gates is None
            else tuple(initial_log_alpha(s, c, k) for s, c, k in zip(shapes, closed, key_gates, strict=True))
        )
        self.skip = jnp.zeros((n_sources, n_targets)) if skip else None
        self.activations = activations

    def __call__(self, s: Float[Array, "n source"]) -> Float[Array, "n target"]:
        """Return the production of every target."""
        y = elu(s @ self.weights[0] + self.biases[0])
        y = y @ self.weights[1] + self.biases[1]
        y = elu(y) if self.activations == 2 else y
        out = y @ self.weights[2] + self.biases[2]
        return out if self.skip is None else out + s @ self.skip

    def masked(self, gates: tuple[Array, ...] | None, allowed: Float[Array, "target source"] | None) -> "SharedNet":
        """Return the network with gated weights; a source is left out where no target may read it."""
        weights = self.weights if gates is None else tuple(z * w for z, w in zip(gates, self.weights, strict=True))
        skip = self.skip
        if allowed is not None:
            read = jnp.max(allowed, axis=0)[:, None]
            weights = (weights[0] * read, *weights[1:])
            skip = None if skip is None else skip * allowed.T
        net = eqx.tree_at(lambda n: n.weights, self, weights)
        return net if skip is None else eqx.tree_at(lambda n: n.skip, net, skip)

    def paths(self, *, gates: tuple[Array, ...] | None = None) -> Float[Array, "source target"]:
        """Return the products of weights (or of gates) along paths."""
        width = self.weights[1].shape[0]
        if gates is not None:
            z = [jnp.broadcast_to(z, w.shape) for z, w in zip(gates, self.weights, strict=True)]
            return z[0] @ z[1] @ z[2] / width**2
        w = [jnp.abs(w) for w in self.weights]
        return _with_skip(w[0] @ w[1] @ w[2] / width**2, self.skip)

    def groups(self) -> Float[Array, "source target"]:
        """Return ``|W_1[j, :]|_2``, the same for every target but for what enters linearly."""
        norms = jnp.linalg.norm(self.weights[0], axis=1)
        return _with_skip(jnp.broadcast_to(norms[:, None], (len(norms), self.weights[2].shape[1])), self.skip)

    def jacobian(self, s: Float[Array, "n source"]) -> Float[Array, "n source target"]:
        """Return the derivatives."""
        a = s @ self.weights[0] + self.biases[0]
        b = elu(a) @ self.weights[1] + self.biases[1]
        slope_b = _slope(b) if self.activations == 2 else jnp.ones_like(b)
        out = jnp.einsum("jh,nh,hk,nk,ki->nji", self.weights[0], _slope(a), self.weights[1], slope_b, self.weights[2])
        return out if self.skip is None else out + self.skip


def _with_skip(through: Array, skip: Array | None) -> Array:
    """Return what goes through the layers and what goes around them, together."""
    return through if skip is None else through + jnp.abs(skip)


def drawn(net: AbstractLawNet, key: PRNGKeyArray) -> tuple[Array, ...] | None:
    """Return random gates of a network, one draw for all that follows; None where it has none."""
    if net.log_alpha is None:
        return None
    keys = jr.split(key, len(net.log_alpha))
    return tuple(draw_gates(a, k) for a, k in zip(net.log_alpha, keys, strict=True))


def settled(net: AbstractLawNet) -> tuple[Array, ...] | None:
    """Return the gates of a trained network, without chance."""
    return None if net.log_alpha is None else tuple(map(expected_gates, net.log_alpha))


def clamped(net: AbstractLawNet) -> AbstractLawNet:
    """Return the network with the odds of its gates inside `LOG_ALPHA_RANGE`."""
    if net.log_alpha is None:
        return net
    return eqx.tree_at(lambda n: n.log_alpha, net, tuple(jax.lax.clamp(*_around(a)) for a in net.log_alpha))


def _around(log_alpha: Array) -> tuple[Array, Array, Array]:
    low, high = LOG_ALPHA_RANGE
    return jnp.float32(low), log_alpha, jnp.float32(high)
