"""Penalties that make laws sparse: in weights, in paths from source to target, in edges."""

from abc import ABC, abstractmethod
from typing import Annotated, Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field, model_validator

from cellgap.dynamics._proximal import group_threshold, hierarchical, soft_threshold
from cellgap.errors import ConfigError
from cellgap.nn import AbstractLawNet, GateUnit, PerTargetNet, SharedNet, open_probability
from cellgap.settings import settings

_Strength = Annotated[float, Field(ge=0)]
Steps = Any
"""A tree like the network: how long the last step of the optimizer was for every weight, per unit of gradient."""


class AbstractPenalty(ABC):
    """A penalty on the network of a law: a differentiable part, and a step after the optimizer's that makes zeros.

    Strengths are in the unit of the standardized squared error, mean over targets.
    """

    @property
    @abstractmethod
    def size(self) -> float:
        """Its strength, lambda."""

    @property
    def gates(self) -> GateUnit | None:
        """What has gates of its own; None: nothing."""
        return None

    @property
    def skip(self) -> bool:
        """Whether the network needs a linear way around."""
        return False

    def loss(
        self,
        net: AbstractLawNet,
        gates: tuple[Array, ...] | None,
        strength: Float[Array, ""],
        factors: Float[Array, "target source"],
    ) -> Float[Array, ""]:
        """Return what is added to the error.

        Parameters
        ----------
        net
            The network, its weights without gates.
        gates
            The gates that were drawn for this step.
        strength
            Lambda.
        factors
            On the penalty of every edge: 0 for what is free, below 1 for what is known.
        """
        return jnp.float32(0.0)

    def proximal(
        self,
        net: AbstractLawNet,
        steps: Steps,
        strength: Float[Array, ""],
        factors: Float[Array, "target source"],
    ) -> AbstractLawNet:
        """Return the network after the proximal step.

        Parameters
        ----------
        net
            After the step of the optimizer.
        steps
            Length of that step for every weight, per unit of gradient.
        strength, factors
            As in `loss`.
        """
        return net


@settings
class NoPenalty(AbstractPenalty):
    """Nothing is penalized."""

    @property
    def size(self) -> float:
        """0."""
        return 0.0


@settings
class L1(AbstractPenalty):
    """``lambda`` times the mean absolute weight, mean over layers.

    Factors on edges act on the first layer; later ones belong to no edge.

    Parameters
    ----------
    strength
        Lambda.
    proximal_step
        Soft-threshold after every step, which gives zeros, instead of a subgradient, which gives none.
    """

    strength: _Strength = 0.01
    proximal_step: bool = False

    @property
    def size(self) -> float:
        """Lambda."""
        return self.strength

    def loss(self, net, gates, strength, factors) -> Float[Array, ""]:
        """Return ``lambda mean_l mean |W_l|``."""
        if self.proximal_step:
            return jnp.float32(0.0)
        free = [_on_first(net, factors), 1.0, 1.0]
        sizes = [jnp.mean(jnp.abs(w) * f) for w, f in zip(_matrices(net), free, strict=True)]
        return strength * jnp.mean(jnp.stack(sizes))

    def proximal(self, net, steps, strength, factors) -> AbstractLawNet:
        """Return the network with all weights soft-thresholded."""
        if not self.proximal_step:
            return net
        matrices, free = _matrices(net), [_on_first(net, factors), 1.0, 1.0]
        shrunk = [
            soft_threshold(w, eta * strength * f / (len(matrices) * w.size))
            for w, eta, f in zip(matrices, _matrices(steps), free, strict=True)
        ]
        return _with_matrices(net, shrunk)


@settings
class L0(AbstractPenalty):
    """``lambda`` times the expected share of open weights (Louizos, Welling, Kingma, ICLR 2018).

    Parameters
    ----------
    strength
        Lambda.
    unit
        ``"weight"`` or ``"unit"`` for shared networks, ``"edge"`` for networks a target; None: the finest there is.
    """

    strength: _Strength = 0.1
    unit: GateUnit | None = None

    @property
    def size(self) -> float:
        """Lambda."""
        return self.strength

    @property
    def gates(self) -> GateUnit:
        """What has gates."""
        return self.unit or "edge"

    def loss(self, net, gates, strength, factors) -> Float[Array, ""]:
        """Return ``lambda sum_l P(z_l > 0) / number of weights``."""
        if isinstance(net, PerTargetNet):
            assert net.log_alpha is not None
            return strength * jnp.mean(open_probability(net.log_alpha[0]) * factors)
        assert isinstance(net, SharedNet) and net.log_alpha is not None
        shapes, free = [w.shape for w in net.weights], [_on_first(net, factors), 1.0, 1.0]
        expected = [
            jnp.sum(jnp.broadcast_to(open_probability(a) * f, s))
            for a, s, f in zip(net.log_alpha, shapes, free, strict=True)
        ]
        return strength * jnp.sum(jnp.stack(expected)) / sum(a * b for a, b in shapes)


@settings
class CNODE(AbstractPenalty):
    """``lambda mean(|W_1| |W_2| ... |W_L|)``: products of weights along paths, no gates.

    Parameters
    ----------
    strength
        Lambda; products are divided by the hidden widths, so that it means the same for every width.

    Notes
    -----
    Source: Aliee, Theis, Kilbertus, arXiv 2106.12430.
    """

    strength: _Strength = 1.0

    @property
    def size(self) -> float:
        """Lambda."""
        return self.strength

    def loss(self, net, gates, strength, factors) -> Float[Array, ""]:
        """Return the penalty of all paths."""
        return strength * jnp.mean(net.paths() * factors.T)


@settings
class PathReg(AbstractPenalty):
    """``lambda_1 mean(|W_1| ... |W_L|) + lambda_0 mean(Z_1 ... Z_L)``: weights and gates along paths.

    Parameters
    ----------
    strength
        Lambda_1, of the products of weights (without their gates).
    gate_strength
        Lambda_0, of the products of gates; None is a tenth of `strength`, as published.
    unit
        ``"edge"`` for networks a target, where the gates of a path are one gate; ``"weight"`` or ``"unit"`` for shared
        ones. With ``"unit"``, as published, gates can close a source for all targets at once, never one edge.
    expected
        Penalize the probability that gates are open instead of those that were drawn: less noise, the same minimum.

    Notes
    -----
    Source: Aliee et al., NeurIPS 2022 (arXiv 2210.14672) and its code. Ours: division by the hidden widths, edges,
    expected gates, one draw of gates for a whole solution.
    """

    strength: _Strength = 0.1
    gate_strength: _Strength | None = 0.3
    unit: GateUnit | None = None
    expected: bool = True

    @property
    def size(self) -> float:
        """Lambda_1; lambda_0 where there is none."""
        return self.strength or self.gate_strength or 0.0

    @property
    def gates(self) -> GateUnit:
        """What has gates."""
        return self.unit or "edge"

    @property
    def parts(self) -> tuple[float, float]:
        """Lambda_1 and lambda_0, by `size`."""
        if self.strength == 0 and self.gate_strength:
            return 0.0, 1.0
        return 1.0, 0.1 if self.gate_strength is None else self.gate_strength / max(self.strength, 1e-30)

    def loss(self, net, gates, strength, factors) -> Float[Array, ""]:
        """Return the penalty of all paths."""
        assert net.log_alpha is not None
        z = tuple(map(open_probability, net.log_alpha)) if self.expected else gates
        of_weights, of_gates = self.parts
        weights, opened = jnp.mean(net.paths() * factors.T), jnp.mean(net.paths(gates=z) * factors.T)
        return strength * (of_weights * weights + of_gates * opened)


@settings
class GroupLasso(AbstractPenalty):
    """``lambda`` times the norms of the first weights of every edge, summed over sources, mean over targets.

    Zeros come from a proximal step: an edge (in a shared network: a source) is there or not.

    Parameters
    ----------
    strength
        Lambda.
    adaptive
        Fit twice, the second time with ``lambda / norm`` of the first: what is weak is dropped, what is strong kept
        unbiased.

    Notes
    -----
    Source: Bellot, Branson, van der Schaar, ICLR 2022 (NGM). Ours: the proximal step in the metric of the optimizer,
    so that lambda is that of the objective.
    """

    strength: _Strength = 0.003
    adaptive: bool = False

    @property
    def size(self) -> float:
        """Lambda."""
        return self.strength

    def proximal(self, net, steps, strength, factors) -> AbstractLawNet:
        """Return the network with the weights of every edge (source) shrunk, to zero where they are small."""
        if isinstance(net, PerTargetNet):
            eta = _typical(steps.first)
            weights = factors * net.gain()[:, None] / net.first.shape[0]
            shrunk = group_threshold(net.first, eta * strength * weights)
            return eqx.tree_at(lambda n: n.first, net, shrunk)
        assert isinstance(net, SharedNet)
        eta = _typical(steps.weights[0])
        shrunk = group_threshold(net.weights[0], eta * strength * jnp.mean(factors, 0))
        return eqx.tree_at(lambda n: n.weights[0], net, shrunk)


@settings
class LassoNet(AbstractPenalty):
    """A linear way around the network, penalized; a source may enter the network only as far as it enters linearly.

    Parameters
    ----------
    strength
        Lambda, of the norms of the linear weights, mean over targets.
    bound
        M: first weights are at most this multiple of the linear weight.

    Notes
    -----
    Source: Lemhadri et al., JMLR 22 (2021).
    """

    strength: _Strength = 0.01
    bound: Annotated[float, Field(gt=0)] = 10.0

    @model_validator(mode="after")
    def _check(self) -> "LassoNet":
        if not self.bound < 1e6:
            raise ConfigError(f"LassoNet(bound=...) must be below 1e6, found {self.bound:g}.")
        return self

    @property
    def size(self) -> float:
        """Lambda."""
        return self.strength

    @property
    def skip(self) -> bool:
        """The linear way is needed."""
        return True

    def proximal(self, net, steps, strength, factors) -> AbstractLawNet:
        """Return the network after the hierarchical proximal step."""
        assert net.skip is not None
        if isinstance(net, PerTargetNet):
            eta = steps.skip.T * strength * factors / net.first.shape[0]
            linear, first = hierarchical(net.skip.T[..., None], net.first, eta, self.bound)
            return eqx.tree_at(lambda n: (n.skip, n.first), net, (linear[..., 0].T, first))
        assert isinstance(net, SharedNet)
        eta = _typical(steps.skip) * strength * jnp.mean(factors, 0)
        linear, first = hierarchical(net.skip, net.weights[0], eta, self.bound)
        return eqx.tree_at(lambda n: (n.skip, n.weights[0]), net, (linear, first))


Penalty = NoPenalty | L1 | L0 | CNODE | PathReg | GroupLasso | LassoNet


def _typical(steps: Float[Array, "*group k"]) -> Float[Array, "*group"]:
    """Return one step for a group: a proximal map of a norm has a closed form only where all steps are the same."""
    return 1.0 / jnp.sqrt(jnp.mean(1.0 / steps**2, axis=-1))


def _on_first(net: AbstractLawNet, factors: Float[Array, "target source"]) -> Array:
    """Return the factors on the first weights; of a source of a shared network, the mean over targets."""
    return factors[..., None] if isinstance(net, PerTargetNet) else jnp.mean(factors, 0)[:, None]


def _matrices(net: Any) -> list[Array]:
    return [net.first, net.middle, net.last] if isinstance(net, PerTargetNet) else list(net.weights)


def _with_matrices(net: AbstractLawNet, matrices: list[Array]) -> AbstractLawNet:
    if isinstance(net, PerTargetNet):
        return eqx.tree_at(lambda n: (n.first, n.middle, n.last), net, tuple(matrices))
    return eqx.tree_at(lambda n: n.weights, net, tuple(matrices))
