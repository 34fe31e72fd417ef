"""Values, gradients and potentials against two independent implementations: ott-jax and POT."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ot_reference import clouds, weights
from scipy.spatial.distance import cdist

from cellgap import ot

COSTS = ("euclidean", "sqeuclidean")
EPSILON = {"euclidean": 0.5, "sqeuclidean": 3.0}
N, M, D = 40, 32, 8


@functools.cache
def ours(cost: str):
    def value(x, y, a, b):
        found = ot.entropic_cost(x, y, a=a, b=b, epsilon=EPSILON[cost], cost=cost, tol=1e-6)
        return found.value, found

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))


def problem() -> tuple[jax.Array, ...]:
    x, y = clouds(N, M, D)
    return tuple(jnp.asarray(array, jnp.float32) for array in (x, y, weights(N), weights(M, seed=1)))


@pytest.mark.parametrize("cost", COSTS)
def test_value_and_gradient_are_those_of_ott(cost):
    pytest.importorskip("ott")
    from ott.geometry import costs, pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    x, y, a, b = problem()
    cost_fn = costs.Euclidean() if cost == "euclidean" else costs.SqEuclidean()

    def value(x, y):
        geometry = pointcloud.PointCloud(x, y, cost_fn=cost_fn, epsilon=EPSILON[cost])
        solved = sinkhorn.Sinkhorn(threshold=1e-5, max_iterations=5000)(
            linear_problem.LinearProblem(geometry, a=a, b=b)
        )
        return solved.reg_ot_cost, solved.converged

    (theirs, converged), gradients = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))(x, y)
    (found, result), own = ours(cost)(x, y, a, b)
    assert bool(converged) and bool(result.converged)
    assert float(found) == pytest.approx(float(theirs), rel=1e-4)
    for one, two in zip(own, gradients, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3 * float(jnp.abs(two).max()))


@pytest.mark.parametrize("cost", COSTS)
def test_plan_and_value_are_those_of_pot(cost):
    pot = pytest.importorskip("ot")
    x, y, a, b = (np.asarray(array, np.float64) for array in problem())
    a, b = a / a.sum(), b / b.sum()
    c = cdist(x, y, cost)
    plan = pot.sinkhorn(a, b, c, EPSILON[cost], method="sinkhorn_log", stopThr=1e-12, numItermax=20000)
    (value, result), _ = ours(cost)(*problem())
    single = problem()
    found = ot.transport_plan(*single[:2], result, epsilon=EPSILON[cost], cost=cost, a=single[2], b=single[3])
    np.testing.assert_allclose(found, plan, atol=1e-5 * plan.max() * 10)
    relative_entropy = (plan * np.log(plan / (a[:, None] * b))).sum()
    assert float(value) == pytest.approx((plan * c).sum() + EPSILON[cost] * relative_entropy, rel=1e-4)


@pytest.mark.parametrize("cost", ["sqeuclidean"])
def test_divergence_is_that_of_pot(cost):
    pot = pytest.importorskip("ot")
    x, y, *_ = problem()
    solve = functools.partial(pot.solve_sample, reg=EPSILON[cost], reg_type="KL", metric=cost, tol=1e-9, max_iter=20000)
    x64, y64 = np.asarray(x, np.float64), np.asarray(y, np.float64)
    theirs = solve(x64, y64).value - 0.5 * solve(x64, x64).value - 0.5 * solve(y64, y64).value
    found = ot.sinkhorn_divergence(x, y, epsilon=EPSILON[cost], cost=cost, tol=1e-5)
    assert float(found) == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("cost", COSTS)
def test_assignment_is_the_linear_program_of_pot(cost):
    pot = pytest.importorskip("ot")
    x, y = clouds(50, 50, 5)
    expected = pot.emd2([], [], cdist(x, y, cost))
    assert ot.assignment_cost(x, y, cost=cost) == pytest.approx(expected, rel=1e-9)


def test_bures_map_is_that_of_pot():
    pot = pytest.importorskip("ot")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(200, 4)) @ rng.normal(size=(4, 4)) + 1
    moments = [(cloud.mean(0), np.cov(cloud.T, bias=True)) for cloud in (x, y)]
    a, b = ot.bures_map(*moments[0], *moments[1])
    theirs, offset = pot.gaussian.bures_wasserstein_mapping(*(m for m, _ in moments), *(s for _, s in moments))
    np.testing.assert_allclose(a, theirs, atol=1e-8)
    np.testing.assert_allclose(b, np.ravel(offset), atol=1e-8)
    distance = pot.gaussian.bures_wasserstein_distance(*(m for m, _ in moments), *(s for _, s in moments))
    assert ot.bures_distance2(*moments[0], *moments[1]) == pytest.approx(float(distance) ** 2, rel=1e-8)
