"""Error reduction for guided sampling, after the idea of DiffIER: a reconstruction, not the published method.

Of Chen, Ding and Xue (arXiv 2508.13628) only the abstract is public: guidance leaves a gap between training and
inference, which an optimization at every step of the sampler reduces. What is optimized here, and how, is our reading.
"""

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field

from cellgap.generate._guidance import Guided
from cellgap.settings import settings
from cellgap.storage import storable

Objective = Literal["G1", "G2", "implicit", "prediction"]
CorrectorSolver = Literal["gradient", "gauss_newton", "picard", "anderson"]
_Unit = Annotated[float, Field(ge=0, le=1)]


@storable
@settings
class Corrector:
    """Error reduction at every step of a guided sampler (reconstruction, after the idea of DiffIER).

    After a step from `z` at t to `z'` at s with velocity `u`, the state z' is moved to where the field agrees with the
    velocity that led there.

    Parameters
    ----------
    objective
        ``"G1"``: ``s^2 |v_c(z', s) - u|^2``, the training loss of the state, with the field of the attributes.
        ``"G2"``: the same with the guided field. ``"implicit"``: ``z' = z + h v_w(z', s)``, the implicit Euler step.
        ``"prediction"``: before the step, back along the unconditional field and forth along the conditional one (after
        CFG-MP, arXiv 2601.21892): each pass adds about one unit of guidance.
    solver
        ``"gradient"`` and ``"gauss_newton"`` (exact Jacobians, d evaluations each) for G1 and G2; ``"picard"`` and
        ``"anderson"`` (memory 1) for ``"implicit"``.
    iterations
        Passes a step, at most; a cell stops when its error no longer falls. 0 is the plain sampler.
    rate
        Step of the gradient.
    window
        Times between which steps are corrected.
    trust
        Largest displacement, in units of the length of the step.
    """

    objective: Objective = "G2"
    solver: CorrectorSolver = "gradient"
    iterations: Annotated[int, Field(ge=0)] = 3
    rate: Annotated[float, Field(gt=0)] = 0.3
    window: tuple[_Unit, _Unit] = (0.0, 1.0)
    trust: Annotated[float, Field(gt=0)] = 0.5


class Corrected(NamedTuple):
    """A corrected state and what it cost.

    Parameters
    ----------
    z
        The state.
    forward, reverse
        Evaluations of the field a cell, and of its reverse pass (each about two more).
    before, after
        The objective of every cell.
    """

    z: Float[Array, "n d"]
    forward: Int[Array, ""]
    reverse: Int[Array, ""]
    before: Float[Array, " n"]
    after: Float[Array, " n"]


def correct(
    corrector: Corrector,
    guided: Guided,
    z: Float[Array, "n d"],
    moved: Float[Array, "n d"],
    t: Float[Array, ""],
    s: Float[Array, ""],
) -> Corrected:
    """Return the state of time s after correction.

    Parameters
    ----------
    corrector
        How.
    guided
        The field.
    z, moved
        State at time `t`, and where a step of the sampler took it.
    t, s
        Times before and after.
    """
    u = (moved - z) / (s - t)
    most = corrector.trust * jnp.linalg.norm(moved - z, axis=1)
    if corrector.objective == "implicit":
        return _fixed_point(corrector, guided, z, moved, t, s, most)

    def field(x):
        return guided.base(x, s) if corrector.objective == "G1" else guided(x, s)[0]

    n_fields = guided.n_base if corrector.objective == "G1" else guided(moved, s)[1]
    if corrector.solver == "gauss_newton":
        return _gauss_newton(corrector, field, moved, u, s, most, n_fields)
    return _descend(corrector, field, moved, u, s, most, n_fields)


def _within(x: Array, center: Array, most: Array) -> Array:
    """Return states no further from where they were than the trust region allows."""
    away = x - center
    length = jnp.linalg.norm(away, axis=1)
    return center + away * jnp.minimum(1.0, most / jnp.maximum(length, 1e-12))[:, None]


class _Search(NamedTuple):
    best: Float[Array, "n d"]
    error: Float[Array, " n"]
    candidate: Float[Array, "n d"]
    going: Bool[Array, " n"]


def _descend(corrector, field, moved, u, s, most, n_fields) -> Corrected:
    """Return the state after gradient steps; a step that does not lower a cell's error is taken back and ends it."""

    def charged(x):
        v, back = jax.vjp(field, x)
        r = v - u
        return s**2 * jnp.sum(r**2, 1), back(r)[0]

    def one(search: _Search, _):
        error, slope = charged(search.candidate)
        better = search.going & (error < search.error)
        best = jnp.where(better[:, None], search.candidate, search.best)
        ahead = _within(search.candidate - corrector.rate * s**2 * slope, moved, most)
        candidate = jnp.where(better[:, None], ahead, search.candidate)
        return _Search(best, jnp.where(better, error, search.error), candidate, better), error

    n = corrector.iterations
    begin = _Search(moved, jnp.full(len(moved), jnp.inf), moved, jnp.ones(len(moved), bool))
    search, errors = jax.lax.scan(one, begin, None, length=n)
    # The last candidate has not been judged yet.
    last = s**2 * jnp.sum((field(search.candidate) - u) ** 2, 1)
    better = search.going & (last < search.error)
    z = jnp.where(better[:, None], search.candidate, search.best)
    return Corrected(z, (n + 1) * n_fields, n * n_fields, errors[0], jnp.where(better, last, search.error))


def _gauss_newton(corrector, field, moved, u, s, most, n_fields) -> Corrected:
    """Return the state after Gauss-Newton steps with exact Jacobians, damped until the error falls."""
    d = moved.shape[1]
    basis = jnp.eye(d)

    def charged(x):
        return s**2 * jnp.sum((field(x) - u) ** 2, 1)

    def jacobian(x):
        # Cells do not read one another, so one direction for all of them gives a column of every cell's Jacobian.
        v, push = jax.linearize(field, x)
        columns = jax.lax.map(lambda e: push(jnp.broadcast_to(e, x.shape)), basis)
        return v - u, jnp.moveaxis(columns, 0, 2)

    def one(carry, _):
        x, error, damping = carry
        r, j = jacobian(x)
        normal = jnp.einsum("nij,nik->njk", j, j)
        scale = jnp.trace(normal, axis1=1, axis2=2) / d
        system = normal + (damping * scale)[:, None, None] * basis
        step = jnp.linalg.solve(system, jnp.einsum("nij,ni->nj", j, r)[..., None])[..., 0]
        ahead = _within(x - step, moved, most)
        new = charged(ahead)
        better = new < error
        x = jnp.where(better[:, None], ahead, x)
        return (x, jnp.where(better, new, error), jnp.where(better, damping * 0.1, damping * 10.0)), None

    before = charged(moved)
    begin = (moved, before, jnp.full(len(moved), 1e-2))
    (z, after, _), _ = jax.lax.scan(one, begin, None, length=corrector.iterations)
    return Corrected(z, (1 + corrector.iterations * (d + 2)) * n_fields, jnp.int32(0), before, after)


def _fixed_point(corrector, guided, z, moved, t, s, most) -> Corrected:
    """Return the implicit Euler step by Picard iteration, or Anderson acceleration with memory 1."""
    h = s - t

    def image(x):
        v, n = guided(x, s)
        return z + h * v, n

    def one(carry, _):
        x, before, spent = carry
        g, n = image(x)
        residual = g - x
        ahead = g
        if corrector.solver == "anderson":
            old_g, old_residual, known = before
            change = residual - old_residual
            along = jnp.sum(residual * change, 1) / jnp.maximum(jnp.sum(change**2, 1), 1e-12)
            mixed = g - jnp.clip(along, -1.0, 1.0)[:, None] * (g - old_g)
            ahead = jnp.where(known, mixed, g)
        ahead = _within(ahead, moved, most)
        return (ahead, (g, residual, jnp.asarray(True)), spent + n), jnp.sum(residual**2, 1)

    start = (moved, (moved, jnp.zeros_like(moved), jnp.asarray(False)), jnp.int32(0))
    (x, _, spent), errors = jax.lax.scan(one, start, None, length=corrector.iterations)
    return Corrected(x, spent, jnp.int32(0), errors[0], errors[-1])


def predicted(guided: Guided, z: Float[Array, "n d"], t: Float[Array, ""], h: Array, passes: int) -> Array:
    """Return states that went back along the unconditional field and forth along the conditional one, some times."""

    def one(z, _):
        z = z - 0.5 * h * guided.null(z, t)
        return z + 0.5 * h * guided.base(z, t), None

    return jax.lax.scan(one, z, None, length=passes)[0]
