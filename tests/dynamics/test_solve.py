"""Solutions of laws against matrix exponentials and another solver; fields that are functions; laws that are stiff."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from cellgap.dynamics import Law, Solver, solve
from cellgap.dynamics._law import NOTHING_DONE, Acting, slope
from cellgap.errors import ConfigError
from cellgap.nn import MLP, PerTargetNet, SharedNet

D, N, T = 3, 4, 6
A = np.array([[-1.0, 0.5, 0.0], [0.0, -0.4, -0.8], [0.3, 0.8, -0.6]])
TIMES = jnp.sort(jr.uniform(jr.key(0), (N, T), maxval=3.0), axis=1).at[:, 0].set(jnp.arange(N) / 4)
TIMES = jnp.sort(TIMES, axis=1)
START = jr.normal(jr.key(1), (N, D))
NONE = jnp.zeros((N, 0))


def linear(matrix, *, rest=None, order: int = 1) -> Law:
    """Return the law ``dx/dt = matrix x``: the linear way around a network whose last weights are zero."""
    matrix = np.asarray(matrix, np.float64)
    net = PerTargetNet(matrix.shape[1], len(matrix), hidden=2, skip=True, key=jr.key(0))
    net = eqx.tree_at(lambda n: (n.last, n.skip), net, (jnp.zeros_like(net.last), jnp.asarray(matrix.T, jnp.float32)))
    d = len(matrix)
    still = MLP((2 * d, 4, d), key=jr.key(0), last_scale=0.0) if order == 2 else None
    return Law(net, rest, still)


def random_law(seed: int = 0, **how) -> Law:
    net = PerTargetNet(D, D, hidden=5, key=jr.key(seed), **how)
    net = eqx.tree_at(lambda n: n.last, net, 5 * net.last)
    return Law(net, jnp.zeros(D), None)


def exact(law: Law, start, times, inputs=None):
    """Return the solution of one trajectory, by another solver in tight tolerances."""
    field = eqx.filter_jit(law)
    told = jnp.zeros((1, 0)) if inputs is None else inputs[None]
    return solve_ivp(
        lambda _, x: np.asarray(field(jnp.asarray(x, jnp.float32)[None], told)[0], np.float64),
        (float(times[0]), float(times[-1])), np.asarray(start, np.float64), t_eval=np.asarray(times, np.float64),
        rtol=1e-6, atol=1e-7, method="DOP853",
    ).y.T  # fmt: skip


@eqx.filter_jit
def run(law, start, times, inputs, method, substeps, tolerance, max_steps, acting):
    return solve(
        law, start, times, inputs,
        method=method, substeps=substeps, tolerance=tolerance, max_steps=max_steps, acting=acting,
    )  # fmt: skip


def solved(
    law,
    start=START,
    times=TIMES,
    inputs=NONE,
    *,
    method,
    substeps=1,
    tolerance=1e-3,
    max_steps=512,
    acting=NOTHING_DONE,
):
    # What a method does not read is no reason to compile another program.
    if method in ("heun", "rk4"):
        tolerance, max_steps = 1e-3, 512
    else:
        substeps = 1
    return run(law, start, times, inputs, method, substeps, tolerance, max_steps, acting)


# Fixed steps are of second and fourth order, 1/40 of an interval. Between its steps kvaerno5 interpolates by cubics.
@pytest.mark.parametrize(("method", "error"), [("heun", 2e-3), ("rk4", 2e-6), ("tsit5", 2e-5), ("kvaerno5", 4e-4)])
def test_linear_laws_are_matrix_exponentials(method, error):
    found = solved(linear(A), method=method, substeps=40, tolerance=1e-5)
    assert not bool(found.stiff.any()) and found.states.shape == (N, T, D)
    expected = np.stack([[expm(A * float(t - ts[0])) @ x for t in ts] for ts, x in zip(TIMES, START, strict=True)])
    assert np.abs(np.asarray(found.states) - expected).max() < error
    np.testing.assert_array_equal(found.states[:, 0], START)


def test_decay_is_subtracted_from_production():
    raw = jnp.array([-1.0, 0.0, 2.0])
    matrix = A - np.diag(np.log1p(np.exp(np.asarray(raw))))
    found = solved(linear(A, rest=raw), method="rk4", substeps=20)
    expected = np.stack([[expm(matrix * float(t - ts[0])) @ x for t in ts] for ts, x in zip(TIMES, START, strict=True)])
    np.testing.assert_allclose(found.states, expected, atol=1e-5)


@pytest.mark.parametrize("method", ["heun", "rk4", "tsit5"])
def test_nonlinear_laws_agree_with_another_solver(method):
    law = random_law()
    found = solved(law, method=method, substeps=200 if method == "heun" else 20, tolerance=1e-5)
    for i in range(N):
        np.testing.assert_allclose(found.states[i], exact(law, START[i], TIMES[i]), atol=3e-5)


@pytest.mark.parametrize(("method", "order"), [("heun", 2), ("rk4", 4)])
def test_errors_fall_with_the_order_of_the_method(method, order):
    law = linear(A)
    times = jnp.broadcast_to(jnp.linspace(0, 4, 3), (N, 3))
    expected = np.stack([[expm(A * float(t)) @ x for t in times[0]] for x in np.asarray(START)])
    coarse, fine = (
        np.abs(np.asarray(solved(law, times=times, method=method, substeps=k).states) - expected).max() for k in (3, 6)
    )
    assert coarse / fine == pytest.approx(2.0**order, rel=0.5)


def test_a_swing_of_second_order_is_a_cosine_that_fades():
    k, c = 4.0, 0.3
    raw = jnp.log(jnp.expm1(jnp.array([c])))
    law = linear(np.array([[-k, 0.0]]), rest=raw, order=2)
    x0 = jnp.array([[1.5], [-0.4]])
    start = law.start(x0[:, None], jnp.zeros((2, 1)))
    np.testing.assert_allclose(start, [[1.5, 0.0], [-0.4, 0.0]], atol=1e-6)  # nothing seen of the velocity: at rest
    times = jnp.broadcast_to(jnp.linspace(0, 5, 21), (2, 21))
    found = solved(law, start=start, times=times, inputs=jnp.zeros((2, 0)), method="rk4", substeps=20)
    w, t = np.sqrt(k - c**2 / 4), np.linspace(0, 5, 21)
    course = np.exp(-c * t / 2) * (np.cos(w * t) + c / (2 * w) * np.sin(w * t))
    np.testing.assert_allclose(found.states[:, :, 0], np.asarray(x0) * course, atol=2e-5)
    speed = -np.exp(-c * t / 2) * np.sin(w * t) * (w + c**2 / (4 * w))
    np.testing.assert_allclose(found.states[:, :, 1], np.asarray(x0) * speed, atol=5e-5)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_first_velocities_are_those_of_a_line_and_of_a_parabola(k):
    t = jnp.broadcast_to(-0.3 * jnp.arange(k)[::-1] - 0.1 * (jnp.arange(k)[::-1] > 0), (2, k))
    v, bend = jnp.array([[2.0, -1.0], [0.5, 0.0]]), 3.0 if k > 3 else 0.0
    seen = 7.0 + v[:, None] * t[..., None] + bend * t[..., None] ** 2
    np.testing.assert_allclose(slope(seen, t + 11.0), v, atol=2e-3)  # of a fit with a ridge, in single precision
    np.testing.assert_array_equal(slope(seen[:, -1:], t[:, -1:]), 0.0)


@pytest.mark.parametrize("method", ["heun", "rk4", "tsit5"])
def test_every_trajectory_has_its_own_times_and_stands_still_where_they_repeat(method):
    law = random_law()
    whole = solved(law, method=method, substeps=4, tolerance=1e-4).states
    padded = TIMES.at[1, 3:].set(TIMES[1, 2]).at[2, 1].set(TIMES[2, 0])
    found = solved(law, times=padded, method=method, substeps=4, tolerance=1e-4)
    assert not bool(found.stiff.any())
    # Adaptive methods choose other steps where the end is another.
    atol = 1e-6 if method in ("heun", "rk4") else 1e-3
    np.testing.assert_allclose(found.states[1, :3], whole[1, :3], atol=atol)
    for later in range(3, T):
        np.testing.assert_array_equal(found.states[1, later], found.states[1, 2])
    np.testing.assert_array_equal(found.states[2, 1], START[2])
    np.testing.assert_allclose(found.states[0], whole[0], atol=1e-6)


@pytest.mark.parametrize("method", ["heun", "rk4", "tsit5"])
def test_no_time_passes_where_all_times_are_one(method):
    found = solved(random_law(), times=jnp.full((N, T), 2.0), method=method, substeps=4, tolerance=1e-4)
    np.testing.assert_array_equal(found.states, jnp.broadcast_to(START[:, None], (N, T, D)))
    assert not bool(found.stiff.any())


@pytest.mark.slow
def test_adaptive_steps_agree_with_fine_fixed_ones():
    law = random_law(3)
    fixed = solved(law, method="rk4", substeps=40).states
    evaluations = []
    for method, tolerance in (("kvaerno5", 1e-4), ("tsit5", 1e-4), ("tsit5", 1e-5)):
        found = solved(law, method=method, tolerance=tolerance)
        # Errors per step are controlled; over a handful of steps they add up to a few times that.
        assert float(jnp.abs(found.states - fixed).max()) < 10 * tolerance
        evaluations.append(int(found.evaluations))
    assert 0 < evaluations[1] < evaluations[2]


def test_evaluations_of_fixed_steps_are_counted():
    assert int(solved(random_law(), method="heun", substeps=3).evaluations) == 2 * 3 * (T - 1)
    assert int(solved(random_law(), method="rk4", substeps=2).evaluations) == 4 * 2 * (T - 1)


def test_the_field_of_a_law_with_gates_is_a_function():
    law = random_law(gated=True)
    law = eqx.tree_at(lambda w: w.net.log_alpha[0], law, jnp.zeros_like(law.net.log_alpha[0]))
    own, gates = law.sampled(jr.key(5), None)
    assert 0 < float(jnp.mean(gates[0] == 0)) < 1
    np.testing.assert_array_equal(own(START, NONE), own(START, NONE))
    states = solved(own, method="rk4", substeps=20).states
    np.testing.assert_array_equal(states, solved(own, method="rk4", substeps=20).states)
    # The gates are the same from the first step to the last: the solution is that of one autonomous field.
    for i in range(N):
        np.testing.assert_allclose(states[i], exact(own, START[i], TIMES[i]), atol=3e-5)
    half = solved(own, start=states[:, 2], times=TIMES[:, 2:], method="rk4", substeps=20).states
    np.testing.assert_array_equal(half, states[:, 2:])
    other, _ = law.sampled(jr.key(6), None)
    assert float(jnp.abs(solved(other, method="rk4").states - states).max()) > 1e-3
    # The trained law has no chance left.
    np.testing.assert_array_equal(law.settled(None)(START, NONE), law.settled(None)(START, NONE))


def test_few_steps_cost_no_more_evaluations_with_gates_than_without():
    """Gates that are drawn at every evaluation would look like noise to the error control."""
    plain, gated = random_law(), random_law(gated=True)
    own, _ = gated.sampled(jr.key(0), None)
    counts = [int(solved(law, method="tsit5", tolerance=1e-4).evaluations) for law in (plain, own)]
    assert counts[1] <= 1.5 * counts[0]


def test_stiff_laws_are_flagged_and_not_raised():
    fast = linear(np.diag([-1.0, -1.0, -3000.0]))
    found = solved(fast, method="tsit5", max_steps=32)
    assert bool(found.stiff.all())
    enough = solved(fast, method="kvaerno5", max_steps=512)
    assert not bool(enough.stiff.any())
    np.testing.assert_allclose(enough.states[:, -1, 2], 0.0, atol=2e-3)
    # One stiff trajectory does not spoil the others: the first has no time to be stiff in.
    times = TIMES.at[0].set(jnp.linspace(0, 1e-3, T))
    np.testing.assert_array_equal(solved(fast, times=times, method="tsit5", max_steps=32).stiff, [False] + [True] * 3)


def test_states_that_leave_the_numbers_are_flagged():
    growing = linear(200.0 * np.eye(D))
    found = solved(growing, times=jnp.broadcast_to(jnp.linspace(0, 50, T), (N, T)), method="heun", substeps=10)
    assert bool(found.stiff.all())
    still = solved(growing, start=START.at[0].set(0.0), times=50 * TIMES, method="heun", substeps=10)
    np.testing.assert_array_equal(still.stiff, [False, True, True, True])


@pytest.mark.parametrize("method", ["heun", "tsit5"])
def test_gradients_are_finite_and_those_of_finite_differences(method):
    law, padded = random_law(), TIMES.at[1, 3:].set(TIMES[1, 2])

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(at):
        start, scale = at
        own = eqx.tree_at(lambda w: w.net.first, law, scale * law.net.first)
        found = solve(own, start, padded, NONE, method=method, substeps=4, tolerance=1e-5, max_steps=64)
        return jnp.mean(found.states**2)

    grads = loss((START, jnp.float32(1.0)))[1]
    assert all(bool(jnp.isfinite(g).all()) for g in grads)
    more, less = (float(loss((START, jnp.float32(scale)))[0]) for scale in (1.02, 0.98))
    # A difference of single precision numbers, and of steps that adapt.
    assert float(grads[1]) == pytest.approx((more - less) / 0.04, rel=2e-2, abs=2e-4)


@pytest.mark.parametrize("method", ["rk4", "tsit5"])
def test_constants_enter_the_law(method):
    matrix = np.c_[A, [[1.0], [0.0], [0.0]]]
    u = jnp.array([[0.0], [1.0], [2.0], [-1.0]])
    found = solved(linear(matrix), inputs=u, method=method, substeps=20, tolerance=1e-6).states
    whole = np.zeros((4, 4))
    whole[:3] = matrix
    for i in range(N):
        expected = [(expm(whole * float(t - TIMES[i, 0])) @ np.r_[START[i], u[i]])[:3] for t in TIMES[i]]
        np.testing.assert_allclose(found[i], expected, atol=1e-4)


@pytest.mark.parametrize("method", ["rk4", "tsit5"])
def test_what_is_held_stays_and_what_is_dosed_is_made_at_another_rate(method):
    raw = jnp.zeros(D)
    moving = jnp.ones((N, D)).at[:, 1].set(0.0).at[0].set(1.0)
    dose = jnp.ones((N, D)).at[2].set(0.5)
    found = solved(
        linear(A, rest=raw), method=method, substeps=20, tolerance=1e-6, acting=Acting(moving=moving, dose=dose)
    ).states
    for i in range(N):
        matrix = np.asarray(dose[i])[:, None] * A - np.log(2.0) * np.eye(D)
        matrix = np.asarray(moving[i])[:, None] * matrix
        expected = [expm(matrix * float(t - TIMES[i, 0])) @ np.asarray(START[i]) for t in TIMES[i]]
        np.testing.assert_allclose(found[i], expected, atol=1e-4)
    np.testing.assert_array_equal(found[1:, :, 1], jnp.broadcast_to(START[1:, 1:2], (N - 1, T)))


def test_shared_networks_are_solved_as_well():
    law = Law(SharedNet(D, D, hidden=6, key=jr.key(2)), None, None)
    found = solved(law, method="rk4", substeps=20).states
    np.testing.assert_allclose(found[3], exact(law, START[3], TIMES[3]), atol=3e-5)


def test_steps_between_samples_are_at_most_as_long_as_asked():
    times = np.array([[0.0, 1.0, 3.5], [0.0, 0.5, 0.5]])
    assert Solver().substeps(times) == 1
    assert Solver(max_step=0.5).substeps(times) == 5
    assert Solver(max_step=2.5).substeps(times) == 1
    assert Solver(max_step=0.6).substeps(times) == 5
    assert Solver(max_step=1e-9).substeps(times) == 256
    assert Solver(max_step=0.1).substeps(times[:, :1]) == 1
    for wrong in ({"max_step": 0.0}, {"tolerance": 1e-8}, {"max_steps": 4}, {"method": "euler"}):
        with pytest.raises(ConfigError):
            Solver(**wrong)
