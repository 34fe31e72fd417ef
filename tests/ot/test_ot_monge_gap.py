"""The Monge gap: its floor, its zeros, its batch bias, its gradient step."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ot_reference import clouds, log_domain, plan_of
from scipy.spatial.distance import cdist
from scipy.special import expit

from cellgap import ot


@functools.cache
def gap(cost: str = "euclidean", max_iterations: int = 2000):
    static = {"cost": cost, "max_iterations": max_iterations}
    return jax.jit(lambda x, t, epsilon, f0=None: ot.monge_gap(x, t, epsilon=epsilon, f0=f0, **static))


def cells(n: int, d: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)), jnp.float32)


@pytest.mark.parametrize(("epsilon", "floor"), [(0.1, 0.5545), (0.01, 0.05545)])
def test_gap_of_the_identity_is_the_known_floor_and_reported_as_0(epsilon, floor):
    """``eps log n`` for 256 distinct points in 10 dimensions."""
    x = cells(256, 10)
    found = gap()(x, x, jnp.float32(epsilon))
    assert float(found.entropic) == pytest.approx(epsilon * math.log(256), rel=1e-4) == pytest.approx(floor, rel=1e-3)
    assert float(found.value) == pytest.approx(0.0, abs=1e-6)
    assert bool(found.converged) and float(found.error) < 1e-6


def test_published_floor_of_the_published_settings():
    """Epsilon 0.01 and 512 cells: 0.0624 in the logs of a perfect map."""
    x = cells(512, 10)
    assert float(gap()(x, x, jnp.float32(0.01)).entropic) == pytest.approx(0.0624, abs=5e-5)


@pytest.mark.parametrize("cost", ["euclidean", "sqeuclidean"])
def test_gap_is_never_below_its_floor(cost):
    """Also for maps that are optimal, where it is nearly there."""
    x = cells(256, 10)
    maps = {"shift": x + 1.0, "stretch": 2.0 * x, "collapse": 0.01 * x, "swap": x[::-1], "constant": jnp.ones_like(x)}
    for epsilon in (0.01, 1.0):
        for name, t in maps.items():
            found = gap(cost)(x, t, jnp.float32(epsilon))
            assert float(found.value) > -2e-3 * epsilon, name
            assert float(found.entropic) == pytest.approx(float(found.value) + epsilon * math.log(256), rel=1e-5)
            if name == "swap":
                assert float(found.value) > 0.9 * float(jnp.mean(ot.paired_cost(x, t, cost)))


def test_entropic_gap_is_the_definition(x64):
    """``mean c(x_i, t_i) - (<P, C> - eps H(P))``."""
    x = clouds(32, 2, 3)[0]
    t = x[:, ::-1] + 0.2 * x**2
    found = ot.monge_gap(jnp.asarray(x), jnp.asarray(t), epsilon=2.0, cost="sqeuclidean", tol=1e-11)
    assert bool(found.converged)
    c = cdist(x, t, "sqeuclidean")
    p = plan_of(c, *log_domain(c, 2.0), 2.0)
    entropy_form = (p * c).sum() + 2.0 * (p * np.log(p)).sum()
    assert float(found.entropic) == pytest.approx(np.mean(((x - t) ** 2).sum(1)) - entropy_form, abs=1e-9)


def convex_gradients(d: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    root, w = rng.normal(size=(d, d)), rng.normal(size=(4 * d, d)) / np.sqrt(d)
    return {
        "translation": lambda x: x + rng.normal(size=d),
        "symmetric positive definite": lambda x: x @ (root @ root.T / d),
        "sum of ridge functions": lambda x: x + 0.5 + 0.8 * expit(x @ w.T) @ w,
        "coordinatewise": lambda x: np.sign(x) * x**2,
        "log-sum-exp": lambda x: np.exp(x @ w.T) / np.exp(x @ w.T).sum(1, keepdims=True) @ w,
    }  # fmt: skip


@pytest.mark.parametrize("n", [16, 256])
@pytest.mark.parametrize("name", convex_gradients(10))
def test_exact_gap_of_gradients_of_convex_functions_is_0(name, n):
    """At every batch size, for the squared cost: up to rounding of the two sums."""
    x = np.random.default_rng(0).normal(size=(n, 10))
    t = convex_gradients(10)[name](x)
    assert ot.exact_monge_gap(x, t, cost="sqeuclidean") < 1e-12 * ((x - t) ** 2).sum(1).mean()
    assert np.array_equal(ot.assignment(x, t, cost="sqeuclidean")[0], np.arange(n))


def test_exact_gap_sees_cells_that_cross():
    x = np.array([[0.0], [1.0]])
    assert ot.exact_monge_gap(x, x[::-1], cost="sqeuclidean") == 1.0
    assert ot.exact_monge_gap(x, x[::-1]) == 1.0
    # On a line the Euclidean cost does not care which cell ends where, as long as all go one way.
    assert ot.exact_monge_gap(x, x[::-1] + 2.0) == 0.0
    assert ot.exact_monge_gap(x, x[::-1] + 2.0, cost="sqeuclidean") == 1.0


def rotation(d: int, trace: float, seed: int) -> np.ndarray:
    """A rotation of d dimensions by one angle in d / 2 random planes, with the trace asked for."""
    cos = trace / d
    sin = math.sqrt(1 - cos**2)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    return basis @ np.kron(np.eye(d // 2), [[cos, -sin], [sin, cos]]) @ basis.T


# Batch size: published mean of batch gaps, and how many batches are drawn here.
ROTATED = {32: (14.7, 120), 64: (15.7, 60), 128: (17.3, 30), 256: (18.3, 10), 512: (19.6, 4), 1024: (19.8, 1)}


def test_batches_underestimate_the_gap_of_a_rotation():
    """Squared cost, N(0, I_10), population gap ``2 (d - tr Q) = 24.08``; the bias shrinks slowly with the batch.

    Single batches scatter by 1.1 (n = 32) to 0.2 (n = 1024), and the published means are of few batches of another
    rotation with that trace: 5 % is two of their standard errors.
    """
    d = 10
    q = rotation(d, d - 24.08 / 2, seed=0)
    assert 2 * (d - np.trace(q)) == pytest.approx(24.08) and np.allclose(q @ q.T, np.eye(d))
    rng = np.random.default_rng(0)
    means = []
    for n, (published, batches) in ROTATED.items():
        x = rng.normal(size=(batches, n, d))
        found = [ot.exact_monge_gap(batch, batch @ q.T, cost="sqeuclidean") for batch in x]
        means.append(np.mean(found))
        assert means[-1] == pytest.approx(published, rel=0.05)
    assert means == sorted(means) and means[-1] < 0.9 * 24.08


def test_entropic_gap_approaches_the_exact_gap():
    """Its value above the floor, for a rotation and a small epsilon: within the entropy of the plan."""
    x = cells(256, 10)
    t = x @ jnp.asarray(rotation(10, -2.04, seed=0), jnp.float32).T
    found = gap("sqeuclidean", 20000)(x, t, jnp.float32(0.05))
    exact = ot.exact_monge_gap(np.asarray(x), np.asarray(t), cost="sqeuclidean")
    assert bool(found.converged)
    assert exact - 0.05 * math.log(256) < float(found.value) < exact + 0.05 * math.log(256)


def test_unconverged_gap_says_so_and_is_not_below_the_converged_one():
    """The dual value is a lower bound of the transport cost, so stopping early overstates the gap."""
    x = cells(256, 10)
    t = x @ jnp.asarray(rotation(10, -2.04, seed=0), jnp.float32).T
    early, late = (gap("sqeuclidean", limit)(x, t, jnp.float32(0.05)) for limit in (3, 20000))
    assert not bool(early.converged) and float(early.error) > 1e-3 and bool(late.converged)
    assert float(early.value) > float(late.value)


def test_dual_memory_shortens_the_next_solve():
    """After a small step of the map, starting from the last dual potential needs far fewer iterations."""
    x = cells(256, 10)
    t = 1.5 * x + 1.0 + 0.3 * jnp.sin(3 * x)
    first = ot.entropic_cost(x, t, epsilon=0.01, cost="sqeuclidean", paired=True, max_iterations=5000)
    moved = t + 1e-3 * jnp.cos(5 * x)
    cold = ot.entropic_cost(x, moved, epsilon=0.01, cost="sqeuclidean", paired=True, max_iterations=5000)
    warm = ot.entropic_cost(x, moved, epsilon=0.01, cost="sqeuclidean", paired=True, max_iterations=5000, f0=first.f)
    assert bool(warm.converged) and int(warm.iterations) < 0.5 * int(cold.iterations)
    assert float(warm.value) == pytest.approx(float(cold.value), rel=1e-4)


def test_the_first_solve_at_the_identity_takes_no_iteration():
    """The start ``f = 0`` is the solution there, and nearly so beside it."""
    x = cells(256, 10)
    for t in (x, x + 1e-3 * cells(256, 10, seed=1)):
        found = ot.entropic_cost(x, t, epsilon=0.01, paired=True)
        assert bool(found.converged) and int(found.iterations) <= 1


def test_descending_the_gap_undoes_a_rotation(x64):
    """Gradient steps on the gap alone move images until no two cells cross, keeping the squared cost's optimality."""
    x = jnp.asarray(clouds(24, 2, 2)[0])
    t = x @ jnp.asarray(rotation(2, -1.0, seed=0)).T

    def descend(t, _):
        value, slope = jax.value_and_grad(lambda t: ot.monge_gap(x, t, epsilon=0.05, cost="sqeuclidean").value)(t)
        return t - 2.0 * slope, value

    moved, values = jax.jit(lambda t: jax.lax.scan(descend, t, length=200))(t)
    assert float(values[-1]) < 0.05 * float(values[0])
    before, after = (ot.exact_monge_gap(np.asarray(x), np.asarray(u), cost="sqeuclidean") for u in (t, moved))
    assert after < 0.05 * before
