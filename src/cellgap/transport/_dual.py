"""The dual of optimal transport with convex potentials: settings, losses, the training step."""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field

from cellgap.nn import ICNN, PICNN, Quadratic, potential_gradient
from cellgap.ot import symmetric_root
from cellgap.settings import settings
from cellgap.storage import storable
from cellgap.train import Loop, draw_without_replacement
from cellgap.transport._affine import Start, displacement
from cellgap.transport._codes import Codes, Moments
from cellgap.transport._held_out import energy_of_folds
from cellgap.transport._problem import Problem

DualStart = Literal["gaussian", "shift", "identity", "random"]
_Positive = Annotated[float, Field(gt=0)]
_Beta = Annotated[float, Field(ge=0, lt=1)]


@settings
class DualOptimization:
    """How a pair of convex potentials is optimized.

    Parameters
    ----------
    loop
        Number and cadence of steps; a step is one update of `f` after `inner_steps` updates of `g`.
    batch_size
        Control and treated cells a batch.
    inner_steps
        Updates of the map's potential `g` for one of `f`.
    learning_rate
        Of Adam, at the start.
    decay
        Whether it falls along a cosine to 1 %; else it stays.
    betas
        Of Adam.
    ema
        Decay of the exponential moving average of the weights, which is the map; 0 for none.
    penalty
        None: negative weights between hidden layers of `g` are set to 0 after every step, as those of `f`, and the map
        is the gradient of a convex function. A number: they are allowed, and penalized by that weight, as published.
    """

    loop: Loop = Loop(n_steps=1000)
    batch_size: Annotated[int, Field(ge=2)] = 256
    inner_steps: Annotated[int, Field(ge=1)] = 10
    learning_rate: _Positive = 1e-3
    decay: bool = True
    betas: tuple[_Beta, _Beta] = (0.5, 0.9)
    ema: _Beta = 0.99
    penalty: Annotated[float, Field(gt=0)] | None = None


@storable
class Potential(eqx.Module):
    """What is learnt of a potential; the whole is ``q(x) + unit^2 net((x - center) / unit)``.

    `q` is a given quadratic function whose root is multiplied by ``I + stretch``: curvature can be taken away as well
    as added, and the whole stays convex. ``stretch = 0`` and a flat `net` give `q`.
    """

    net: ICNN | PICNN
    stretch: Float[Array, "d d"]

    def at(self, base: Quadratic, unit: Float[Array, ""], condition: Float[Array, " p"]):
        """Return the function of cells under a condition, given its quadratic start and its vector."""
        net = self.net.at(condition)
        quadratic = Quadratic(base.center, base.root + base.root @ self.stretch, base.slope)

        def value(x: Float[Array, "n d"]) -> Float[Array, " n"]:
            return quadratic(x) + unit**2 * net((x - base.center) / unit)

        return value

    def clamped(self) -> "Potential":
        """Return the potential with negative weights between hidden layers set to 0."""
        return Potential(self.net.clamped(), self.stretch)


@storable
class Pair(eqx.Module):
    """The two potentials: the gradient of `g` moves control cells, that of `f` moves treated cells back."""

    f: Potential
    g: Potential


def pair_of(draw: Callable[[PRNGKeyArray], Potential], key: PRNGKeyArray) -> Pair:
    """Return two potentials that `draw` makes of keys of their own, in one program."""
    both = eqx.filter_vmap(draw)(jr.split(key))
    return Pair(_row(both, 0), _row(both, 1))


class DualProblem(eqx.Module):
    """What a training step reads.

    Parameters
    ----------
    rows
        Cells, and the populations as tables of their rows.
    vectors
        Vectors of the conditions.
    forward, backward
        Quadratic starts of `g` and `f` for every condition.
    unit
        Scale of the cells.
    """

    rows: Problem
    vectors: Float[Array, "k p"]
    forward: Quadratic
    backward: Quadratic
    unit: Float[Array, ""]

    def draw(self, k: Int[Array, ""], key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """Return control and treated cells of condition `k`, without replacement while there are enough."""
        key_x, key_y = jr.split(key)
        c = self.rows.source_of[k]
        x = self.rows.sources.index[c, draw_without_replacement(key_x, n, self.rows.sources.size[c])]
        y = self.rows.targets.index[k, draw_without_replacement(key_y, n, self.rows.targets.size[k])]
        return self.rows.cells[x], self.rows.cells[y]

    def g(self, pair: Pair, k: Int[Array, ""]):
        """Return the potential whose gradient moves control cells to condition `k`."""
        return pair.g.at(_row(self.forward, k), self.unit, self.vectors[k])

    def f(self, pair: Pair, k: Int[Array, ""]):
        """Return the potential whose gradient moves cells of condition `k` back."""
        return pair.f.at(_row(self.backward, k), self.unit, self.vectors[k])


def _row(stacked: Any, k: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[k], stacked)


class DualState(eqx.Module):
    """Everything that changes during training; a tree of arrays."""

    pair: Pair
    average: Pair
    f_moments: Any
    g_moments: Any
    count: Int[Array, ""]


def quadratic_starts(codes: Codes, start: DualStart) -> tuple[Quadratic, Quadratic]:
    """Return the quadratic starts of `g` and `f` for every training condition, stacked.

    The second is the convex conjugate of the first, so that their gradients are inverse to each other. ``"random"`` has
    none (zeros).
    """
    parts = [_quadratic_start(m, start) for m in codes.moments]
    forward, backward = ([np.stack(arrays) for arrays in zip(*one, strict=True)] for one in zip(*parts, strict=True))
    return _on_device(forward), _on_device(backward)


def _on_device(arrays: Sequence[np.ndarray]) -> Quadratic:
    center, root, slope = (jnp.asarray(a, jnp.float32) for a in arrays)
    return Quadratic(center, root, slope)


_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def _quadratic_start(moments: Moments, start: DualStart) -> tuple[_Arrays, _Arrays]:
    """Return center, root and slope of a condition's quadratic start, and of its convex conjugate."""
    mean = moments.control_mean
    if start == "random":
        nothing = (np.zeros_like(mean), np.zeros((len(mean), len(mean))), np.zeros_like(mean))
        return nothing, nothing
    known: Start = start
    shift, linear = displacement(moments, mean, known)
    a, moved = np.eye(len(mean)) + linear, mean + shift
    return (mean, symmetric_root(a), moved), (moved, symmetric_root(a, -0.5), mean)


def scale_of(codes: Codes, start: DualStart) -> float:
    """Return the standard deviation of control cells over all dimensions; 1 where it is 0 or nothing is scaled."""
    if start == "random":
        return 1.0
    variances = [np.trace(m.control_cov) / len(m.control_mean) for m in codes.moments]
    return float(np.sqrt(np.mean(variances))) or 1.0


def dual_start(pair: Pair) -> DualState:
    """Return the state that training starts from."""
    zeros = optax.scale_by_adam()
    f, g = (zeros.init(potential) for potential in (pair.f, pair.g))  # type: ignore[arg-type]
    # Buffers are donated step to step, so the average needs its own.
    return DualState(pair, jax.tree.map(jnp.array, pair), f, g, jnp.int32(0))


@functools.lru_cache(maxsize=16)
def dual_step(optimization: DualOptimization, n: int):
    """Return the function ``(problem, state, key, k) -> (state, logs)``: updates of `g`, then one of `f`.

    ``L_g = E[f(grad g(x)) - <x, grad g(x)>]`` and ``L_f = E[f(y)] - E[f(grad g(x))]`` (Makkuva et al. 2020). Every
    update has a batch of its own; its condition is `k`, or a random one where `k` is None.

    Parameters
    ----------
    optimization
        Settings.
    n
        Cells of a batch.
    """
    adam = optax.scale_by_adam(*optimization.betas)
    steps = optimization.loop.n_steps
    decaying = optax.cosine_decay_schedule(optimization.learning_rate, steps, alpha=0.01)
    penalty = optimization.penalty

    def batch(problem: DualProblem, key: PRNGKeyArray, k: Any):
        key_k, key_cells = jr.split(key)
        k = jr.randint(key_k, (), 0, problem.rows.n_conditions) if k is None else k
        return k, *problem.draw(k, key_cells, n)

    def loss_g(g: Potential, f: Potential, problem: DualProblem, k: Array, x: Array) -> Array:
        pair = Pair(f, g)
        t = potential_gradient(problem.g(pair, k), x)
        loss = jnp.mean(problem.f(pair, k)(t) - jnp.sum(x * t, 1))
        return loss if penalty is None else loss + penalty * g.net.negativity()

    def loss_f(f: Potential, g: Potential, problem: DualProblem, k: Array, x: Array, y: Array) -> Array:
        pair = Pair(f, g)
        t = potential_gradient(problem.g(pair, k), x)
        value = problem.f(pair, k)
        return jnp.mean(value(y)) - jnp.mean(value(t))

    def moved(potential: Any, grads: Any, moments: Any, rate: Array):
        updates, moments = adam.update(grads, moments)
        return jax.tree.map(lambda p, u: p - rate * u, potential, updates), moments

    def step(problem: DualProblem, state: DualState, key: PRNGKeyArray, k: Any = None):
        rate = jnp.asarray(decaying(state.count) if optimization.decay else optimization.learning_rate)
        key_g, key_f = jr.split(key)
        f = state.pair.f

        def inner(carry, key):
            g, moments = carry
            k_now, x, _ = batch(problem, key, k)
            loss, grads = jax.value_and_grad(loss_g)(g, f, problem, k_now, x)
            g, moments = moved(g, grads, moments, rate)
            return (g.clamped() if penalty is None else g, moments), loss

        start = (state.pair.g, state.g_moments)
        (g, g_moments), losses = jax.lax.scan(inner, start, jr.split(key_g, optimization.inner_steps))
        k_now, x, y = batch(problem, key_f, k)
        loss, grads = jax.value_and_grad(loss_f)(f, g, problem, k_now, x, y)
        f, f_moments = moved(f, grads, state.f_moments, rate)
        pair = Pair(f.clamped(), g)
        # Early on the average follows the weights closely, or it would remember the start.
        decay = jnp.minimum(optimization.ema, (1.0 + state.count) / (10.0 + state.count))
        average = jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, state.average, pair)
        logs = {"loss": loss, "loss_g": jnp.mean(losses), "learning_rate": rate}
        return DualState(pair, average, f_moments, g_moments, state.count + 1), logs

    return step


def dual_energy(pair: Pair, valid: DualProblem, k: Int[Array, ""], n_folds: int) -> Float[Array, " folds"]:
    """Return the energy distance of mapped and measured held-out cells of condition `k`, for every fold."""
    return energy_of_folds(lambda x: potential_gradient(valid.g(pair, k), x), valid.rows, k, n_folds)
