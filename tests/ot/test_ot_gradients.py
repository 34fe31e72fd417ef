"""Every gradient against finite differences in double precision, coincident points included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ot_reference import weights

from cellgap import ot

COSTS = ("euclidean", "sqeuclidean")
# Powers of two, a grid of 1/64 and a step of 2^-14: sums, means and squared distances are exact in double precision, so
# that points that coincide are 0 apart in the matrix product too. (In general it leaves about 1e-8 times |x| there.)
N, M, D = 8, 4, 2
STEP = 2.0**-14
NAMES = ("divergence", "two-batch", "gap", "gap weighted")


def values(points: jax.Array, cost: str) -> jax.Array:
    """All functions with a gradient, of four clouds stacked in one array.

    The divergence holds the general and the symmetric cost with weights, the two-batch form the general one without.
    """
    x, t, y, y2 = jnp.split(points, (N, 2 * N, 2 * N + M))
    a, b = jnp.asarray(weights(N)), jnp.asarray(weights(M, seed=1))
    solver = {"cost": cost, "epsilon": 0.7, "tol": 1e-13, "max_iterations": 5000}
    return jnp.stack(
        [
            ot.sinkhorn_divergence(x, y, a=a, b=b, **solver),
            ot.two_batch_divergence(x, t, y, y2, **solver),
            ot.monge_gap(x, t, **solver).value,
            ot.monge_gap(x, t, a=a, **solver).value,
        ]
    )


@functools.cache
def compiled(cost: str):
    """All values, and the gradient of the sum that `chosen` picks; one program for both."""

    def values_and_gradient(points, chosen):
        found, pullback = jax.vjp(functools.partial(values, cost=cost), points)
        return found, pullback(chosen)[0]

    return jax.jit(values_and_gradient)


def gradients(points: np.ndarray, cost: str) -> np.ndarray:
    return np.stack([compiled(cost)(points, chosen)[1] for chosen in np.eye(len(NAMES))])


def differences(points: np.ndarray, cost: str, step: float) -> np.ndarray:
    """Central differences in every coordinate, shape (functions, points, D)."""
    moves = step * np.eye(points.size).reshape(points.size, *points.shape)
    ahead, behind = (
        np.stack([compiled(cost)(points + sign * move, np.zeros(len(NAMES)))[0] for move in moves]) for sign in (1, -1)
    )
    return ((ahead - behind) / (2 * step)).T.reshape(-1, *points.shape)


def cells(case: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    x, t, y, y2 = (np.round(64 * rng.normal(size=(size, D))) / 64 for size in (N, N, M, M))
    if case == "coincident":
        # Two cells of one cloud, cells of both clouds, cells that the map leaves alone.
        x[1], y[:2], t[2:4], y2[0] = x[0], x[3:5], x[2:4], y[0]
    elif case == "identity":
        t = x.copy()
    elif case == "far from the origin":
        x, t, y, y2 = (cloud + 256.0 for cloud in (x, t, y, y2))
    return np.concatenate([x, t, y, y2])


@pytest.mark.parametrize("case", ["generic", "coincident", "identity", "far from the origin"])
@pytest.mark.parametrize("cost", COSTS)
def test_gradients_are_the_finite_differences(x64, cost, case):
    """At a coincidence ``|x - y|`` has a kink: the two-sided difference of the kink is 0, as the gradient is defined.

    Beside a kink the two-sided difference has an error of first order in the step, which two steps take out.
    """
    points = cells(case)
    found = gradients(points, cost)
    expected = 2 * differences(points, cost, STEP) - differences(points, cost, 2 * STEP)
    for name, one, other in zip(NAMES, found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6 * np.abs(other).max(), err_msg=name)


def test_cells_that_stay_have_no_gradient_of_the_euclidean_gap():
    """At T = identity and a small epsilon nothing pulls: exactly 0 in single precision, and not NaN."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 10)), jnp.float32)
    run = jax.jit(jax.grad(lambda x, t: ot.monge_gap(x, t, epsilon=0.01).value, argnums=(0, 1)))
    for gradient in run(x, x):
        np.testing.assert_array_equal(gradient, jnp.zeros_like(x))
    # Nor does anything pull back a step of a few units in the last place, whose direction a matrix product loses.
    gradient = run(x, x + 3e-7)[1]
    assert np.abs(np.asarray(gradient) * 64).max() < 0.01


def test_gradients_in_single_precision_survive_an_offset():
    """Costs are centered; what is left is the resolution of the coordinates themselves."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(64, 10)) + s, jnp.float32) for s in (0.0, 0.5))
    run = jax.jit(jax.grad(lambda x, y: ot.entropic_cost(x, y, epsilon=1.0, tol=1e-5).value))
    near = run(x, y)
    # A multiple of 2^-13, so that the offset itself loses nothing that matters.
    far = run(x + 1024.0, y + 1024.0)
    np.testing.assert_allclose(far, near, atol=2e-3 * float(jnp.abs(near).max()))


def test_epsilon_weights_and_starts_have_no_gradient():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)), jnp.float32)

    def value(epsilon, a, f0):
        return ot.entropic_cost(x, x + 1, epsilon=epsilon, a=a, b=a, f0=f0).value

    for gradient in jax.grad(value, argnums=(0, 1, 2))(jnp.float32(1.0), jnp.full(8, 1 / 8), jnp.zeros(8)):
        np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))
