"""Solutions of laws: on the grid of the samples in one compiled scan, or with adaptive steps."""

import math
from typing import Annotated, Literal

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from pydantic import Field

from cellgap.dynamics._law import NOTHING_DONE, Acting, Law
from cellgap.settings import settings

Method = Literal["heun", "rk4", "tsit5", "kvaerno5"]
_ADAPTIVE = {"tsit5": dfx.Tsit5, "kvaerno5": dfx.Kvaerno5}
_MOST_SUBSTEPS = 256


@settings
class Solver:
    """How a law is solved.

    Parameters
    ----------
    method
        ``"heun"`` and ``"rk4"`` take equal steps between samples, each trajectory its own; ``"tsit5"`` and
        ``"kvaerno5"`` (for stiff laws) choose them.
    max_step
        Longest step of the fixed methods, in the time of the data; None: one step a sample.
    tolerance
        Relative and absolute, of the adaptive methods.
    max_steps
        Of the adaptive methods; where they do not suffice, the law has become stiff.
    """

    method: Method = "heun"
    max_step: Annotated[float, Field(gt=0)] | None = None
    tolerance: Annotated[float, Field(gt=1e-7)] = 1e-3
    max_steps: Annotated[int, Field(ge=16)] = 4096

    def substeps(self, times: Float[np.ndarray, "n t"]) -> int:
        """Return the number of steps between two samples."""
        longest = float(np.diff(times, axis=1).max(initial=0.0))
        if self.max_step is None or longest == 0:
            return 1
        return min(max(1, math.ceil(longest / self.max_step - 1e-6)), _MOST_SUBSTEPS)


class Solution(eqx.Module):
    """States of trajectories.

    Parameters
    ----------
    states
        At every time, the first included.
    stiff
        Whether the solver gave up on a trajectory: its later states are not finite.
    evaluations
        Evaluations of the law, for all trajectories together.
    """

    states: Float[Array, "n t s"]
    stiff: Bool[Array, " n"]
    evaluations: Array


def solve(
    law: Law,
    start: Float[Array, "n s"],
    times: Float[Array, "n t"],
    inputs: Float[Array, "n c"],
    *,
    method: Method = "heun",
    substeps: int = 1,
    tolerance: float = 1e-3,
    max_steps: int = 4096,
    acting: Acting = NOTHING_DONE,
) -> Solution:
    """Return the solutions of a law from their starts.

    Parameters
    ----------
    law
        With its gates drawn or settled: one function from the first step to the last.
    start
        State at the first time.
    times
        Of every trajectory, ascending, in standardized units; equal times are allowed.
    inputs
        Constants.
    method, substeps, tolerance, max_steps
        See `Solver`.
    acting
        An intervention.
    """
    if method in _ADAPTIVE:
        return _adaptive(law, start, times, inputs, method, tolerance, max_steps, acting)

    def one(x: Array, dt: Array) -> Array:
        if method == "heun":
            k1 = law(x, inputs, acting)
            return x + 0.5 * dt * (k1 + law(x + dt * k1, inputs, acting))
        k1 = law(x, inputs, acting)
        k2 = law(x + 0.5 * dt * k1, inputs, acting)
        k3 = law(x + 0.5 * dt * k2, inputs, acting)
        k4 = law(x + dt * k3, inputs, acting)
        return x + dt / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)

    def interval(x: Array, dt: Array) -> tuple[Array, Array]:
        step = dt[:, None] / substeps
        x = one(x, step) if substeps == 1 else jax.lax.fori_loop(0, substeps, lambda _, y: one(y, step), x)
        return x, x

    _, later = jax.lax.scan(interval, start, jnp.diff(times, axis=1).T)
    states = jnp.concatenate([start[:, None], jnp.moveaxis(later, 0, 1)], 1)
    stages = 2 if method == "heun" else 4
    evaluations = jnp.asarray(stages * substeps * (times.shape[1] - 1))
    return Solution(states, ~jnp.all(jnp.isfinite(states), (1, 2)), evaluations)


def _adaptive(law, start, times, inputs, method, tolerance, max_steps, acting) -> Solution:
    """Return solutions with steps that are chosen for every trajectory by itself."""

    def alone(x, t, u, act) -> tuple[Array, Array, Array]:
        def field(_, y, args):
            u, act = args
            return law(y[None], u[None], jax.tree.map(lambda a: a[None], act))[0]

        found = dfx.diffeqsolve(
            dfx.ODETerm(field),
            _ADAPTIVE[method](),
            t0=t[0],
            t1=t[-1],
            dt0=None,
            y0=x,
            args=(u, act),
            saveat=dfx.SaveAt(ts=t),
            stepsize_controller=dfx.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=max_steps,
            throw=False,
        )
        assert found.ys is not None
        return found.ys, found.result != dfx.RESULTS.successful, found.stats["num_steps"]

    ys, stiff, steps = jax.vmap(alone)(start, times, inputs, acting)
    stages = 6 if method == "tsit5" else 7
    return Solution(ys, stiff | ~jnp.all(jnp.isfinite(ys), (1, 2)), stages * jnp.sum(steps))
