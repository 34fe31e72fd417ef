"""Entropic transport: potentials, values, conventions, symmetries, stopping, precision, memory."""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ot_reference import clouds, entropic_value, log_domain, plan_of, primal_kl, weights
from scipy.spatial.distance import cdist

from cellgap import ot
from cellgap.errors import ConfigError
from cellgap.ot._solve import solve, solve_symmetric

COSTS = ("euclidean", "sqeuclidean")


@functools.cache
def compiled(cost: str, tol: float, max_iterations: int, *, anneal: bool):
    static = {"cost": cost, "tol": tol, "max_iterations": max_iterations, "anneal": anneal}
    return jax.jit(lambda x, y, epsilon, a, b, f0: ot.entropic_cost(x, y, epsilon=epsilon, a=a, b=b, f0=f0, **static))


def solved(cost: str = "euclidean", tol: float = 1e-3, max_iterations: int = 2000, *, anneal: bool = False):
    """A compiled solve; epsilon, weights and start are arguments, so that one compilation serves many tests."""
    run = compiled(cost, tol, max_iterations, anneal=anneal)
    return lambda x, y, epsilon, a=None, b=None, f0=None: run(x, y, epsilon, a, b, f0)


@functools.cache
def compiled_self(cost: str, tol: float, max_iterations: int):
    static = {"cost": cost, "tol": tol, "max_iterations": max_iterations}
    return jax.jit(lambda x, epsilon, a: ot.entropic_self_cost(x, epsilon=epsilon, a=a, **static))


def solved_self(cost: str = "euclidean", tol: float = 1e-3, max_iterations: int = 2000):
    run = compiled_self(cost, tol, max_iterations)
    return lambda x, epsilon, a=None: run(x, epsilon, a)


def single(*arrays: np.ndarray) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(array, jnp.float32) for array in arrays)


def test_potentials_agree_with_the_log_domain_in_single_precision():
    x, y = single(*clouds(256, 256, 50))
    c = np.asarray(ot.cost_matrix(x, y), np.float64)
    f, g = log_domain(c, 1.0)
    found = solved(tol=1e-6)(x, y, jnp.float32(1.0))
    # Potentials are known up to a constant that moves from one to the other.
    gauge = np.mean(np.asarray(found.f) - f)
    np.testing.assert_allclose(np.asarray(found.f) - gauge, f, atol=1e-5)
    np.testing.assert_allclose(np.asarray(found.g) + gauge, g, atol=1e-5)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_values_and_potentials_agree_with_the_log_domain_in_double_precision(x64, cost, weighted):
    x, y = clouds(48) if weighted else clouds()
    a, b = (weights(48), weights(40, seed=1)) if weighted else (None, None)
    for relative in (0.1, 1.0, 30.0):
        epsilon = relative * cdist(x, y, cost).mean()
        f, g = log_domain(cdist(x, y, cost), epsilon, a, b)
        found = solved(cost, 1e-12)(x, y, np.float64(epsilon), a, b)
        assert bool(found.converged)
        gauge = np.mean(np.asarray(found.f) - f)
        np.testing.assert_allclose(np.asarray(found.f) - gauge, f, atol=1e-9 * max(1, epsilon))
        np.testing.assert_allclose(np.asarray(found.g) + gauge, g, atol=1e-9 * max(1, epsilon))
        assert float(found.value) == pytest.approx(entropic_value(x, y, epsilon, cost, a, b), rel=1e-9)


@pytest.mark.parametrize("cost", COSTS)
def test_the_two_conventions_differ_by_2_epsilon_log_n(x64, cost):
    """``OT_ent = min <P, C> - eps H(P) = OT_kl - 2 eps log n``, and ``OT_ent <= OT <= OT_kl``."""
    n, epsilon = 40, 0.5
    x, y = clouds()
    found = solved(cost, 1e-12)(x, y, np.float64(epsilon))
    c = cdist(x, y, cost)
    p = plan_of(c, np.asarray(found.f), np.asarray(found.g), epsilon)
    entropy_form = float((p * c).sum() + epsilon * (p * np.log(p)).sum())
    assert entropy_form == pytest.approx(float(found.value) - 2 * epsilon * math.log(n), abs=1e-9)
    exact = ot.assignment_cost(x, y, cost=cost)
    assert entropy_form <= exact <= float(found.value)
    assert exact < float((p * c).sum()) < float(found.value)


def test_the_dual_value_is_the_primal_value_and_the_plan_has_the_marginals(x64):
    x, y = clouds(48)
    a, b = weights(48), weights(40, seed=1)
    found = solved(tol=1e-12)(x, y, np.float64(0.3), a, b)
    p = plan_of(cdist(x, y), np.asarray(found.f), np.asarray(found.g), 0.3, a, b)
    np.testing.assert_allclose(p.sum(1), a, atol=1e-12)
    np.testing.assert_allclose(p.sum(0), b, atol=1e-12)
    assert float(found.value) == pytest.approx(primal_kl(cdist(x, y), p, 0.3), abs=1e-10)


@pytest.mark.parametrize("cost", COSTS)
def test_permutations_change_nothing(x64, cost):
    x, y = clouds(48)
    i, j = np.random.default_rng(1).permutation(48), np.random.default_rng(2).permutation(40)
    a, b = weights(48), weights(40, seed=1)
    run = solved(cost, 1e-12)
    one, two = run(x, y, np.float64(0.5), a, b), run(x[i], y[j], np.float64(0.5), a[i], b[j])
    assert float(one.value) == pytest.approx(float(two.value), abs=1e-11)
    np.testing.assert_allclose(np.asarray(one.f)[i], two.f, atol=1e-9)


@pytest.mark.parametrize(("cost", "power"), [("euclidean", 1), ("sqeuclidean", 2)])
def test_units_of_length_scale_the_value(cost, power):
    """``OT(s^p C, s^p eps) = s^p OT(C, eps)``, in single precision and with one tolerance."""
    x, y = clouds()
    run = solved(cost, 1e-5)
    one = run(*single(x, y), jnp.float32(0.3))
    for s in (1e-3, 7.0, 1e4):
        two = run(*single(s * x, s * y), jnp.float32(s**power * 0.3))
        assert float(two.value) == pytest.approx(s**power * float(one.value), rel=1e-5)


@pytest.mark.parametrize(("cost", "weighted"), [("euclidean", False), ("sqeuclidean", False), ("euclidean", True)])
def test_symmetric_solver_is_the_general_solver(x64, cost, weighted):
    x = clouds()[0]
    a = weights(40) if weighted else None
    c = cdist(x, x, cost)
    general = solved(cost, 1e-12)
    for relative in (1e-3, 0.03, 0.5, 30.0):
        epsilon = relative * c.mean()
        own = solved_self(cost, 1e-12)(x, np.float64(epsilon), a)
        f = np.asarray(own.f)
        assert bool(own.converged) and int(own.iterations) < 60
        np.testing.assert_array_equal(f, own.g)
        # f = softmin(C - f) has one solution.
        p = plan_of(c, f, f, epsilon, a, a)
        np.testing.assert_allclose(p.sum(1), 1 / 40 if a is None else a, atol=1e-12)
        if relative > 0.1 and not weighted:
            # Against itself the two-vector iteration is slow when epsilon is small.
            found = general(x, x, np.float64(epsilon))
            assert float(own.value) == pytest.approx(float(found.value), rel=1e-8)
            # The one potential of the symmetric problem is the mean of the two of the general one.
            mean = 0.5 * (np.asarray(found.f) + np.asarray(found.g))
            np.testing.assert_allclose(f, mean, atol=1e-7 * max(1, epsilon))


def test_symmetric_value_is_second_order_in_the_error(x64):
    """The plan keeps mass 1, so a violation of 1e-2 in the marginals leaves about 1e-4 in the value."""
    x = clouds(64, 2, 10)[0]
    c = cdist(x, x)

    def value(f: np.ndarray) -> float:
        return 2 * float(np.mean(f))

    f, g = log_domain(c, 2.0)
    exact = value(0.5 * (f + g))
    run = jax.jit(functools.partial(inspect.unwrap(solve_symmetric), tol=0.0))
    for iterations in (1, 2, 3, 4, 5):
        rough = run(jnp.asarray(c), np.float64(2.0), None, max_iterations=iterations)
        assert int(rough.iterations) == iterations
        p = plan_of(c, np.asarray(rough.f), np.asarray(rough.g), 2.0)
        violation = np.abs(p.sum(1) - 1 / 64).sum()
        assert p.sum() == pytest.approx(1.0, abs=1e-12)
        assert float(rough.error) == pytest.approx(violation, rel=1e-6)
        assert -1e-12 <= exact - value(rough.f) <= 4.0 * violation**2


def test_symmetric_solver_takes_few_iterations():
    """Two to five sweeps on the settings in use, and no more when epsilon is tiny against distances of 10."""
    x = single(clouds(256, 2, 50)[0])[0]
    for epsilon in (1e-3, 1e-2, 0.1, 1.0):
        found = solved_self()(x, jnp.float32(epsilon))
        assert bool(found.converged) and int(found.iterations) <= 5
        if epsilon <= 0.1:
            assert float(found.value) == pytest.approx(epsilon * math.log(256), rel=1e-4)


@pytest.mark.parametrize(("anneal", "limit"), [(True, 1), (False, 50)])
def test_iterations_stop_at_the_limit_and_say_so(anneal, limit):
    x, y = single(*clouds(64, 64, 10))
    found = solved(tol=1e-4, max_iterations=limit, anneal=anneal)(x, y, jnp.float32(0.002))
    assert int(found.iterations) == limit
    assert not bool(found.converged) and float(found.error) > 1e-4
    assert np.isfinite(found.f).all() and np.isfinite(found.g).all() and np.isfinite(float(found.value))


def test_unconverged_symmetric_solve_says_so():
    x = single(clouds(64, 2, 10)[0])[0]
    found = solved_self(max_iterations=1)(x, jnp.float32(3.0))
    assert int(found.iterations) == 1 and not bool(found.converged) and float(found.error) > 1e-3


def test_the_reported_error_is_the_violation_of_the_plan(x64):
    """Also when rows or columns of the kernel underflow: what is not transported counts as an error."""
    x, y = clouds()
    c = cdist(x, y)
    run = jax.jit(functools.partial(inspect.unwrap(solve), tol=0.0))
    drawn = np.random.default_rng(0).normal(size=40)
    lost_row, lost_columns = np.zeros(40), np.zeros(40)
    lost_row[0], lost_columns[0] = -1e3, 1e3
    for start in (np.zeros(40), drawn, lost_row, lost_columns, 1e5 * drawn):
        for iterations in (1, 2, 5, 45):
            found = run(c, np.float64(0.02), None, None, start, max_iterations=iterations)
            p = plan_of(c, np.asarray(found.f), np.asarray(found.g), 0.02)
            assert int(found.iterations) == iterations
            assert float(found.error) == pytest.approx(np.abs(p.sum(1) - 1 / 40).sum(), rel=1e-6)


def test_warm_start_at_the_solution_needs_no_iteration():
    x, y = single(*clouds(64, 64, 10))
    run = solved(tol=1e-4)
    cold = run(x, y, jnp.float32(0.05), None, None, jnp.zeros(64))
    warm = run(x, y, jnp.float32(0.05), None, None, cold.f)
    assert int(cold.iterations) > 10 and int(warm.iterations) <= 1
    assert float(warm.value) == pytest.approx(float(cold.value), rel=1e-6)


def test_any_finite_start_leads_to_the_same_value():
    x, y = single(*clouds(64, 64, 10))
    run = solved(tol=1e-4)
    values = []
    for size in (0.0, 1e4, -1e4, 1e-30):
        start = jnp.where(jnp.arange(64) % 2 == 0, size, -size).astype(jnp.float32)
        found = run(x, y, jnp.float32(0.5), None, None, start)
        assert bool(found.converged)
        values.append(float(found.value))
    # A potential of 1e4 is known to 1e-3 in single precision.
    np.testing.assert_allclose(values, values[0], rtol=1e-3)


@pytest.mark.parametrize("cost", COSTS)
def test_every_epsilon_gives_finite_numbers_in_single_precision(cost):
    """From a thousandth to a thousand times the mean cost, the value grows from the assignment to the mean cost."""
    x, y = single(*clouds(256, 256, 50, shift=1.0))
    mean = float(ot.mean_cost(x, y, cost))
    exact = ot.assignment_cost(np.asarray(x), np.asarray(y), cost=cost)
    values = []
    for relative in (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3):
        epsilon = relative * mean
        found = solved(cost, max_iterations=5000, anneal=True)(x, y, jnp.float32(epsilon))
        own = solved_self(cost)(x, jnp.float32(epsilon))
        assert bool(found.converged) and bool(own.converged)
        for result in (found, own):
            assert all(np.isfinite(array).all() for array in (result.f, result.g, result.value, result.error))
        # In single precision a potential is known to about 1e-7 times epsilon and to 1e-6 times the cost.
        slack = 1e-5 * mean + 1e-6 * epsilon
        assert exact - slack <= float(found.value) <= min(exact + epsilon * math.log(256), mean) + slack
        values.append(float(found.value))
    assert values[:5] == sorted(values[:5])
    assert values[-1] == pytest.approx(mean, rel=1e-3)


def test_stiff_problem_converges_to_the_exact_cost():
    """Euclidean, epsilon 0.01 at distances of 10: annealed or not, within epsilon log n of the linear program."""
    pot = pytest.importorskip("ot")
    x, y = clouds(256, 256, 50, shift=1.0)
    exact = pot.emd2(np.full(256, 1 / 256), np.full(256, 1 / 256), cdist(x, y))
    assert exact == pytest.approx(ot.assignment_cost(x, y), rel=1e-9)
    for anneal in (False, True):
        found = solved(max_iterations=5000, anneal=anneal)(*single(x, y), jnp.float32(0.01))
        assert bool(found.converged) and int(found.iterations) > 50
        assert exact <= float(found.value) <= exact + 0.01 * math.log(256)


def test_many_problems_at_once_are_the_problems_one_by_one():
    """Their numbers of iterations differ widely."""
    pairs = [single(*clouds(32, 32, 4, seed=s, shift=0.3 * s)) for s in range(3)]
    epsilons = jnp.float32([0.02, 1.0, 30.0])
    x, y = (jnp.stack(cloud) for cloud in zip(*pairs, strict=True))

    def value(x, y, epsilon):
        found = ot.sinkhorn(x, y, epsilon=epsilon)
        return found.value, found

    run = jax.value_and_grad(value, has_aux=True)
    (values, found), gradients = jax.jit(jax.vmap(run))(x, y, epsilons)
    assert len(set(np.asarray(found.iterations).tolist())) == 3
    one_by_one = jax.jit(run)
    for k in range(3):
        (one, alone), gradient = one_by_one(x[k], y[k], epsilons[k])
        assert int(alone.iterations) == int(found.iterations[k])
        assert float(one) == pytest.approx(float(values[k]), rel=1e-5)
        np.testing.assert_allclose(gradients[k], gradient, atol=1e-5)


def test_calls_outside_of_jit_compile_once(caplog):
    x, y = single(*clouds(20, 24))
    first = ot.sinkhorn(x, y, epsilon=0.5)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        second = ot.sinkhorn(x, y, epsilon=0.4)
        assert not [record for record in caplog.records if "ompil" in record.getMessage()]
        jax.jit(lambda x: x + 3)(x)
        assert [record for record in caplog.records if "ompil" in record.getMessage()]
    assert float(second.value) < float(first.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_of_the_input_is_kept(x64, dtype):
    x, y = (jax.ShapeDtypeStruct((n, 5), dtype) for n in (48, 40))
    start = jax.ShapeDtypeStruct((48,), dtype)

    def everything(x, y, f0):
        return (
            ot.entropic_cost(x, y, epsilon=0.5, f0=f0),
            ot.sinkhorn(x, y, epsilon=0.5),
            ot.entropic_self_cost(x, epsilon=0.5),
            ot.monge_gap(x, x + 1, epsilon=0.5, f0=f0),
            ot.two_batch_divergence(x, x, y, y, epsilon=0.5),
            jax.grad(lambda x: ot.sinkhorn_divergence(x, y, epsilon=0.5))(x),
        )

    found = {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(everything, x, y, start))}
    assert found == {np.dtype(dtype), np.dtype(np.int32), np.dtype(bool)}


def _all_of_it(x, y, a):
    gap, slope = jax.value_and_grad(lambda t: ot.monge_gap(y, t, epsilon=1.0).value)(x)
    return (
        ot.entropic_cost(x, y, epsilon=1.0),
        ot.entropic_cost(x, y, epsilon=1.0, a=a, b=a),
        ot.entropic_self_cost(x, epsilon=1.0),
        gap,
        slope,
    )


everything_compiled = jax.jit(_all_of_it)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_cells_are_never_called_converged(broken):
    """Compiled, with gradient, at sizes where kernels are fused: NaN must not turn into a value of 0."""
    x, y = single(*clouds(128, 128, 50))
    *solves, gap, slope = everything_compiled(x.at[5, 3].set(broken), y, jnp.full(128, 1 / 128))
    for found in solves:
        assert not bool(found.converged) and not np.isfinite(float(found.value))
    assert not np.isfinite(float(gap)) and not np.isfinite(slope).all()


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf])
def test_epsilon_that_is_none_is_refused(epsilon):
    x, y = single(*clouds(8, 8))
    with pytest.raises(ConfigError, match="epsilon"):
        ot.entropic_cost(x, y, epsilon=epsilon)
    with pytest.raises(ConfigError, match="epsilon"):
        inspect.unwrap(ot.entropic_self_cost)(x, epsilon=epsilon)


def largest_array(jaxpr) -> int:
    """Return the number of elements of the largest array in a program and in the loops inside it."""
    largest = 0
    for equation in jaxpr.eqns:
        sizes = [math.prod(v.aval.shape) for v in equation.outvars]
        inner = [
            largest_array(leaf.jaxpr if hasattr(leaf, "consts") else leaf)
            for value in equation.params.values()
            for leaf in jax.tree.leaves(value, is_leaf=lambda item: hasattr(item, "eqns"))
            if hasattr(leaf, "eqns")
        ]
        largest = max(largest, *sizes, *inner, 0)
    return largest


@pytest.mark.parametrize("cost", COSTS)
def test_no_array_of_all_pairs_and_all_genes(cost):
    """Value and gradient at n = 512, d = 1000: one array of n * n * d floats would be 1 GB."""
    n, d = 512, 1000
    cells = jax.ShapeDtypeStruct((n, d), jnp.float32)

    def loss(x, t, t2, y):
        solver = {"epsilon": 1.0, "cost": cost}
        own = ot.entropic_cost(t, t2, **solver).value + ot.entropic_self_cost(t, **solver).value
        return ot.entropic_cost(t, y, **solver).value - 0.5 * own + ot.monge_gap(x, t, **solver).value

    program = jax.jit(jax.value_and_grad(loss, argnums=(1, 2))).trace(*[cells] * 4)
    assert largest_array(program.jaxpr.jaxpr) == n * d
    if cost == "euclidean":
        used = program.lower().compile().memory_analysis().temp_size_in_bytes
        # Four problems, each with a cost matrix, a kernel and a plan, and a few copies of the clouds.
        assert used < 4 * (4 * 4 * n * n + 8 * n * d)
