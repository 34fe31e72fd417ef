"""From noise to cells along a guided field: fixed steps in one compiled loop, or adaptive ones; evaluations counted."""

from typing import Annotated, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import Field, model_validator

from cellgap.errors import ConfigError
from cellgap.generate._corrector import Corrector, correct, predicted
from cellgap.generate._guidance import Guided
from cellgap.settings import settings
from cellgap.storage import storable

Solver = Literal["euler", "heun", "midpoint", "rk4", "tsit5", "dopri5"]
_STAGES = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4}
_ADAPTIVE = ("tsit5", "dopri5")
_ONE_STEP = ("rectified", "plus_plus")


@storable
@settings
class Sampler:
    """How cells are integrated.

    Parameters
    ----------
    solver
        ``"heun"`` (default), ``"midpoint"``, ``"euler"``, ``"rk4"``: fixed steps. ``"tsit5"``, ``"dopri5"``: adaptive,
        every cell with its own steps.
    n_steps
        Fixed steps from 0 to 1: ten of Heun end within 1 to 2 % of a standard deviation of where hundreds do.
    tolerance
        Relative and absolute, of adaptive steps (published: 1e-5).
    corrector
        Error reduction at every fixed step; None for none.
    """

    solver: Solver = "heun"
    n_steps: Annotated[int, Field(ge=1)] = 10
    tolerance: Annotated[float, Field(gt=0)] = 1e-5
    corrector: Corrector | None = None

    @model_validator(mode="after")
    def _check(self) -> "Sampler":
        if self.solver in _ADAPTIVE and self.corrector is not None:
            raise ConfigError(f'Sampler(solver="{self.solver}") has no fixed steps to correct: take "heun" or "euler".')
        return self


class Path(NamedTuple):
    """Cells at the end of their way, and what it cost.

    Parameters
    ----------
    z
        Cells.
    evaluations
        Of the velocity field, a cell (the mean over cells where steps are adaptive).
    reverse
        Reverse passes through it, a cell.
    gap
        Accumulated readings G1, G2 and G3 of the training-inference gap of every cell, summed over steps (0 where steps
        are adaptive); see `gap_readings`.
    """

    z: Float[Array, "n d"]
    evaluations: Float[Array, ""]
    reverse: Int[Array, ""]
    gap: Float[Array, "n 3"]


@eqx.filter_jit
def flow(
    guided: Guided, z: Float[Array, "n d"], sampler: Sampler, *, backward: bool = False, measure: bool = False
) -> Path:
    """Return cells after following a guided field.

    Parameters
    ----------
    guided
        The field, with the attributes of every cell.
    z
        Where cells start: noise, or cells where `backward`.
    sampler
        How.
    backward
        From 1 to 0 instead.
    measure
        Sum up the training-inference gap on the way, for one guided evaluation more a step.

    Raises
    ------
    ConfigError
        The schedule of the guidance has steps of its own, and the solver is adaptive or the way is backward.
    """
    if guided.active and guided.schedule in _ONE_STEP and (sampler.solver in _ADAPTIVE or backward):
        raise ConfigError(
            f'Guidance(schedule="{guided.schedule}") has steps of its own: it goes forward, with fixed steps.'
        )
    if sampler.solver in _ADAPTIVE:
        return _adaptive(guided, z, sampler, backward=backward)
    h = jnp.asarray(1.0 / sampler.n_steps, z.dtype)
    if backward:
        h = -h
    start = jnp.asarray(1.0 if backward else 0.0, z.dtype)

    def advance(carry, i):
        path: Path = carry
        t, s = start + i * h, start + (i + 1) * h
        z, spent, reverse = path.z, path.evaluations, path.reverse
        corrector = sampler.corrector
        if corrector is not None and corrector.iterations > 0 and corrector.objective == "prediction":
            inside = _inside(corrector, t)
            z = jax.lax.cond(inside, lambda z: predicted(guided, z, t, h, corrector.iterations), lambda z: z, z)
            spent = spent + jnp.where(inside, corrector.iterations * (1 + guided.n_base), 0)
        moved, n = step(guided, z, t, h, sampler.solver)
        spent = spent + n
        if corrector is not None and corrector.iterations > 0 and corrector.objective != "prediction":
            # The last step ends at a cell: there is no later time at which its prediction could be made again.
            inside = _inside(corrector, s) & (i < sampler.n_steps - 1)
            moved, n, back = jax.lax.cond(
                inside,
                lambda a, b: correct(corrector, guided, a, b, t, s)[:3],
                lambda a, b: (b, jnp.int32(0), jnp.int32(0)),
                z,
                moved,
            )
            spent, reverse = spent + n, reverse + back
        gap = path.gap
        if measure:
            gap = gap + readings(guided, moved, s, (moved - z) / h)
        return Path(moved, spent, reverse, gap), None

    begin = Path(z, jnp.zeros(()), jnp.int32(0), jnp.zeros((len(z), 3), z.dtype))
    return jax.lax.scan(advance, begin, jnp.arange(sampler.n_steps, dtype=z.dtype))[0]


def readings(
    guided: Guided, z: Float[Array, "n d"], s: Float[Array, ""], u: Float[Array, "n d"]
) -> Float[Array, "n 3"]:
    """Return what cells that came to `z` at time `s` with velocity `u` are charged.

    G1: ``s^2 |v_c(z, s) - u|^2``, the training loss with the noise that `u` predicted. G2: the same with the guided
    field. G3: ``|v_c - v_0|^2``.
    """
    parts = guided.parts(z, s)

    def charged(v: Array) -> Array:
        return s**2 * jnp.sum((v - u) ** 2, 1)

    apart = jnp.sum((parts.base - parts.null) ** 2, 1)
    return jnp.stack([charged(parts.base), charged(guided(z, s)[0]), apart], 1)


def step(
    guided: Guided, z: Float[Array, "n d"], t: Float[Array, ""], h: Float[Array, ""], solver: Solver
) -> tuple[Float[Array, "n d"], Int[Array, ""]]:
    """Return cells a step later, and how many evaluations of the field a cell it took.

    Parameters
    ----------
    guided, z, t
        The field, cells, and their time.
    h
        Length of the step; negative backward.
    solver
        Of fixed steps; schedules with steps of their own do not read it.
    """
    if guided.active and guided.schedule == "rectified":
        base = guided.base(z, t)
        probe = guided.parts(z + 0.5 * h * base, t + 0.5 * h)
        pull = jnp.einsum("nk,knd->nd", guided.weights - 1.0, probe.pulls)
        return z + h * (base + (1.0 - t) * pull), jnp.int32(guided.n_base + guided.n_fields)
    if guided.active and guided.schedule == "plus_plus":
        parts = guided.parts(z, t)
        if guided.combine == "joint":
            pull = jnp.mean(guided.weights, 1)[:, None] * (parts.base - parts.null)
        else:
            pull = jnp.einsum("nk,knd->nd", guided.weights, parts.pulls)
        clean = z + (1.0 - t) * (parts.null + pull)
        noise = z - t * parts.null
        return (t + h) * clean + (1.0 - t - h) * noise, jnp.int32(guided.n_fields)
    v, n = guided(z, t)
    if solver == "euler":
        return z + h * v, n
    if solver == "heun":
        w, m = guided(z + h * v, t + h)
        return z + 0.5 * h * (v + w), n + m
    w, m = guided(z + 0.5 * h * v, t + 0.5 * h)
    if solver == "midpoint":
        return z + h * w, n + m
    a, k = guided(z + 0.5 * h * w, t + 0.5 * h)
    b, j = guided(z + h * a, t + h)
    return z + h * (v + 2.0 * w + 2.0 * a + b) / 6.0, n + m + k + j


def evaluations(guided: Guided, sampler: Sampler, times: Literal["all", "none"] = "all") -> int:
    """Return how many evaluations of the field a cell takes with fixed steps, by counting: what `Path` must agree with.

    Parameters
    ----------
    guided
        The field.
    sampler
        Fixed steps, without a corrector.
    times
        Whether all steps of an interval are inside of the window, or none is.
    """
    n = guided.n_base if guided.schedule == "interval" and times == "none" else guided.n_fields
    if guided.active and guided.schedule == "rectified":
        return sampler.n_steps * (guided.n_base + guided.n_fields)
    if guided.active and guided.schedule == "plus_plus":
        return sampler.n_steps * guided.n_fields
    return sampler.n_steps * _STAGES[sampler.solver] * n


def _inside(corrector: Corrector, t: Float[Array, ""]) -> Array:
    return (t >= corrector.window[0]) & (t < corrector.window[1])


def _adaptive(guided: Guided, z: Float[Array, "n d"], sampler: Sampler, *, backward: bool) -> Path:
    """Return cells after adaptive steps, each cell with its own: what one needs does not change another."""
    import diffrax  # takes a second

    solver = diffrax.Tsit5() if sampler.solver == "tsit5" else diffrax.Dopri5()
    controller = diffrax.PIDController(rtol=sampler.tolerance, atol=sampler.tolerance)
    ends = (1.0, 0.0) if backward else (0.0, 1.0)

    def one(z, labels, depth, weights):
        told = eqx.tree_at(
            lambda g: (g.told.labels, g.told.depth, g.weights),
            guided,
            (labels[None], None if depth is None else depth[None], weights[None]),
            is_leaf=lambda x: x is None,
        )

        def velocity(t, z, args):
            return told(z[None], jnp.asarray(t, z.dtype))[0][0]

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            solver,
            *ends,
            dt0=None,
            y0=z,
            stepsize_controller=controller,
            saveat=diffrax.SaveAt(t1=True),
            max_steps=4096,
        )
        assert solution.ys is not None
        return solution.ys[0], solution.stats["num_steps"]

    moved, n = jax.vmap(one, in_axes=(0, 0, None if guided.told.depth is None else 0, 0))(
        z, guided.told.labels, guided.told.depth, guided.weights
    )
    # Both solvers evaluate six times a step; the last stage is the first of the next step.
    spent = jnp.mean(6.0 * n) * guided.n_fields
    return Path(moved, spent, jnp.int32(0), jnp.zeros((len(z), 3), z.dtype))
