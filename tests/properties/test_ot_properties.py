"""What holds for all clouds: values are drawn, shapes come from a short list, because every shape compiles."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellgap import ot

SHAPES = ((12, 12, 2), (16, 9, 5))
# Multiples of 1/8, so that points coincide often, and a few orders of magnitude.
VALUES = st.integers(-64, 64).map(lambda k: k / 8)
EPSILONS = st.sampled_from([0.03, 0.3, 3.0, 300.0])
COSTS = st.sampled_from(["euclidean", "sqeuclidean"])
few = settings(max_examples=25, deadline=None, derandomize=True)


@st.composite
def problems(draw):
    n, m, d = draw(st.sampled_from(SHAPES))
    x, y = (draw(hnp.arrays(np.float32, (size, d), elements=VALUES.map(np.float32))) for size in (n, m))
    return x, y, draw(EPSILONS), draw(COSTS)


@functools.cache
def compiled(cost: str):
    @jax.jit
    def solve(x, y, epsilon):
        cross = ot.entropic_cost(x, y, epsilon=epsilon, cost=cost, tol=1e-3, anneal=True)
        own = [ot.entropic_self_cost(cloud, epsilon=epsilon, cost=cost, tol=1e-4) for cloud in (x, y)]
        return cross, own

    return solve


def solved(x, y, epsilon, cost):
    return compiled(cost)(jnp.asarray(x), jnp.asarray(y), jnp.float32(epsilon))


def scale(x, y, cost) -> float:
    """The mean cost, from below by a number that single precision resolves at these coordinates."""
    c = np.linalg.norm(x[:, None].astype(float) - y[None], axis=2)
    return max(float((c if cost == "euclidean" else c**2).mean()), 0.1)


@few
@given(problems())
def test_value_lies_between_optimal_transport_and_the_mean_cost(problem):
    x, y, epsilon, cost = problem
    cross, _ = solved(*problem)
    mean = scale(x, y, cost)
    slack = 1e-3 * (mean + epsilon) + 0.01
    assert np.isfinite(float(cross.value)) and -slack <= float(cross.value) <= mean + slack
    if len(x) == len(y) and bool(cross.converged):
        exact = ot.assignment_cost(x, y, cost=cost)
        assert exact - slack <= float(cross.value) <= exact + epsilon * math.log(len(x)) + slack


@few
@given(problems())
def test_divergence_is_not_negative(problem):
    x, y, epsilon, cost = problem
    cross, own = solved(*problem)
    debiased = float(cross.value) - 0.5 * sum(float(o.value) for o in own)
    assert all(bool(o.converged) for o in own)
    if bool(cross.converged):
        # The tolerance of 1e-3 leaves about epsilon times its square, single precision 1e-3 at coincident points.
        assert debiased > -1e-4 * scale(x, y, cost) - 1e-5 * epsilon - 0.01


@few
@given(problems(), st.integers(0, 2**16))
def test_order_of_cells_and_translations_change_nothing(problem, seed):
    x, y, epsilon, cost = problem
    rng = np.random.default_rng(seed)
    offset = rng.integers(-20, 20, size=x.shape[1]).astype(np.float32)
    one = solved(*problem)[0]
    two = solved(x[rng.permutation(len(x))] + offset, y[rng.permutation(len(y))] + offset, epsilon, cost)[0]
    if bool(one.converged) and bool(two.converged):
        tolerance = 2e-3 * (scale(x, y, cost) + epsilon) + 0.01
        assert float(one.value) == pytest.approx(float(two.value), abs=tolerance)


@few
@given(problems())
def test_cost_matrix_is_symmetric_and_the_triangle_inequality_holds(problem):
    x, y, *_ = problem
    c = np.asarray(ot.cost_matrix(jnp.asarray(x), jnp.asarray(y)))
    np.testing.assert_allclose(c, np.asarray(ot.cost_matrix(jnp.asarray(y), jnp.asarray(x))).T, atol=0.02)
    np.testing.assert_allclose(c, np.linalg.norm(x[:, None] - y[None], axis=2), atol=0.02)
    assert (c >= 0).all()


@few
@given(problems())
def test_exact_gap_is_never_negative_and_0_for_the_best_matching(problem):
    x, y, _, cost = problem
    y = np.resize(y, x.shape)
    assert ot.exact_monge_gap(x, y, cost=cost) >= 0
    best = y[ot.assignment(x, y, cost=cost)[0]]
    assert ot.exact_monge_gap(x, best, cost=cost) == pytest.approx(0.0, abs=1e-9)


@few
@given(st.integers(1, 6), st.integers(0, 2**16), st.integers(1, 6), st.integers(1, 6))
def test_bures_map_is_optimal_for_any_ranks(d, seed, rank_x, rank_y):
    rng = np.random.default_rng(seed)
    root_x, root_y = rng.normal(size=(d, min(rank_x, d))), rng.normal(size=(d, min(rank_y, d)))
    s, t = root_x @ root_x.T, root_y @ root_y.T
    a, b = ot.bures_map(np.zeros(d), s, np.ones(d), t)
    np.testing.assert_array_equal(a, a.T)
    np.testing.assert_array_equal(b, np.ones(d))
    distance = ot.bures_distance2(np.zeros(d), s, np.ones(d), t)
    # The map reaches what the range of the source allows; where it reaches the target its cost is the distance.
    reached = np.abs(a @ s @ a - t).max() < 1e-6 * max(1.0, np.abs(t).max())
    if min(rank_x, d) == d:
        assert reached or np.linalg.cond(s) > 1e6
    if reached and np.linalg.cond(s) < 1e6:
        assert distance == pytest.approx(d + np.trace(s) + np.trace(t) - 2 * np.trace(a @ s), rel=1e-5, abs=1e-6)
    assert distance >= d - 1e-9
