"""Known laws: against another solver and stored simulations, and that each network says what truly enters what."""

import jaxtyping
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from cellgap.dynamics._chaotic import lorenz96, rossler
from cellgap.dynamics._hill import hill_from, hill_network
from cellgap.dynamics._linear_systems import second_order, sparse_linear
from cellgap.dynamics._systems import System
from cellgap.errors import CellgapError, ConditionError, ConfigError, ConvergenceError, DataError

SYSTEMS = (
    lorenz96(6),
    rossler(6, scale=10.0),
    sparse_linear(8, density=0.3),
    second_order(5),
    second_order(6, "random", seed=1),
    hill_network(12, seed=2),
)
TIMES = np.linspace(0.0, 2.0, 9)


def jacobian(system: System, x: np.ndarray) -> np.ndarray:
    """Return d rhs_target / d x_regulator, (regulator, target), by central differences."""
    step = 1e-5 * np.eye(len(x))
    return (system.rhs(x + step) - system.rhs(x - step)) / 2e-5


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_the_solver_agrees_with_scipy(system):
    starts = system.draw(np.random.default_rng(0), 2, "in")
    # Small steps: what leaves the resting point of a chaotic law magnifies every error.
    path = system.solve(starts, TIMES, substeps=160)
    for start, found in zip(starts, path, strict=True):
        exact = solve_ivp(
            lambda _, x: system.rhs(x[None])[0], (0, 2), start, t_eval=TIMES, rtol=1e-10, atol=1e-12, method="DOP853"
        )
        np.testing.assert_allclose(found, exact.y.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_the_network_is_what_enters_the_derivatives(system):
    rng, d = np.random.default_rng(1), system.dim
    slopes = np.stack([jacobian(system, x) for x in system.draw(rng, 20, "in")])
    # Of a law of second order, what positions do to velocities.
    slopes = slopes[:, :d, -d:]
    enters = np.abs(slopes).max(0) > 1e-7
    np.fill_diagonal(enters, False)
    np.testing.assert_array_equal(system.adjacency, enters)
    assert not np.diagonal(system.adjacency).any()
    if system.signs is not None:
        assert (np.sign(system.signs) == system.signs).all()
        np.testing.assert_array_equal(system.signs != 0, system.adjacency)
        at = system.adjacency & (np.abs(slopes).min(0) > 1e-7)
        np.testing.assert_array_equal(np.sign(slopes[0])[at], system.signs[at])


def test_a_ring_has_three_regulators_at_known_places():
    network = lorenz96(10).adjacency
    assert network.sum() == 30
    assert set(np.flatnonzero(network[:, 0])) == {8, 9, 1}


def test_the_chain_of_rossler_type_by_hand():
    x = np.arange(1.0, 6.0)[None] / 10
    expected = [-0.2, np.sin(0.1) - np.sin(0.3), np.sin(0.2) - np.sin(0.4), 0.3, 0.1 + 4 * 0.5 * (0.4 - 2)]
    np.testing.assert_allclose(rossler(5).rhs(x)[0], expected)
    np.testing.assert_allclose(rossler(5, scale=400.0).rhs(400 * x)[0], 400 * np.array(expected))


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_a_knocked_variable_stays_at_zero_and_the_others_follow_the_law(system):
    knocked = system.knock(system.variables[2])
    path = knocked.solve(system.draw(np.random.default_rng(0), 3, "in"), TIMES)
    assert (path[:, :, 2] == 0).all()
    rest = [i for i in range(system.dim * system.order) if i % system.dim != 2]
    np.testing.assert_array_equal(knocked.rhs(path[:, 3])[:, rest], system.rhs(path[:, 3])[:, rest])
    both = knocked.knock(0)
    assert both.held == (0, 2) and "x0, x2 held" in repr(both).replace("g", "x")
    assert system.held == ()


def test_the_same_seed_gives_the_same_starts_with_noise_thinning_and_knock_outs():
    system, times = hill_network(8), np.linspace(0, 3, 16)
    plain = system.simulate(5, times, seed=3)
    np.testing.assert_array_equal(plain.values, system.simulate(5, times, seed=3).values)
    assert not np.allclose(plain.values, system.simulate(5, times, seed=4).values)
    knocked = system.knock(1).simulate(5, times, seed=3)
    np.testing.assert_array_equal(np.delete(knocked.starts, 1, 1), np.delete(plain.starts, 1, 1))
    noisy = system.simulate(5, times, seed=3, noise=0.1)
    assert 0.08 < (noisy.values - plain.values).std() < 0.12 and (noisy.starts != plain.starts).all()
    thin = system.simulate(5, times, seed=3, keep=0.5)
    assert thin.lengths.min() >= 2 and 0.3 < thin.lengths.sum() / (5 * 16) < 0.7
    for (t, v), all_of_it in zip(thin.each(), plain.values, strict=True):
        np.testing.assert_array_equal(v, all_of_it[np.searchsorted(times, t)])
    assert list(knocked.about["held"]) == ["g1"] * 5 and set(plain.about["starts"]) == {"in"}


def test_starts_outside_the_distribution_lie_outside():
    system = hill_network(8)
    outside = system.simulate(20, TIMES, seed=0, starts="out").starts
    assert outside.min() >= 1.0 and outside.max() <= 1.5
    far = sparse_linear(5).simulate(20, TIMES, seed=0, starts="out").starts
    assert far.min() >= 2.0


def test_a_burn_in_leads_onto_the_attractor():
    system, times = lorenz96(8), 0.1 * np.arange(40)
    seen = system.simulate(2, times, seed=0, substeps=8)
    assert seen.values.shape == (2, 40, 8) and seen.times[0, 0] == 0
    assert np.abs(seen.starts).max() > 1  # from N(0, 0.01^2)
    assert system.simulate(2, times, seed=0, substeps=8, starts="out").starts.mean() > 6


def test_only_positions_of_a_law_of_second_order_are_seen():
    system = second_order(4)
    seen = system.simulate(3, TIMES, seed=0)
    assert seen.dim == 4 and system.draw(np.random.default_rng(0), 3, "in").shape == (3, 8)
    early = system.simulate(3, np.array([0.0, 1e-4]), seed=0)
    np.testing.assert_allclose(early.values[:, 1], early.values[:, 0], atol=1e-6)  # let go at rest
    moving = second_order(4, at_rest=False).simulate(3, np.array([0.0, 1e-4]), seed=0)
    assert np.abs(moving.values[:, 1] - moving.values[:, 0]).max() > 1e-5
    assert (system.adjacency == system.adjacency.T).all()


@pytest.mark.parametrize("seed", range(4))
def test_linear_laws_come_to_rest(seed):
    for system in (sparse_linear(20, density=0.1, seed=seed), second_order(6, "random", seed=seed, damping=0.5)):
        path = system.solve(
            system.draw(np.random.default_rng(seed), 2, "in"), np.array([0.0, 30.0, 60.0]), substeps=900
        )
        assert np.abs(path[:, -1]).max() < 1e-2
    assert sparse_linear(20, density=0.1, seed=seed).adjacency.sum() == 38


def test_hill_networks_have_the_promised_numbers_of_regulators():
    system = hill_network(40, seed=1)
    assert set(system.adjacency.sum(0)) <= {1, 2, 3, 4}
    assert 0.3 < (system.signs[system.adjacency] > 0).mean() < 0.7
    assert system.network.loc["g0"].shape == (40,)


def test_a_hill_network_by_hand():
    edges, c, n = np.zeros((3, 3)), np.full((3, 3), 0.5), np.full((3, 3), 2.0)
    edges[0, 1], edges[2, 1] = 1, -1
    system = hill_from(edges, c, n)
    up, down = 0.4**2 * 1.25 / (0.4**2 + 0.25), 1 - 0.9 * 0.8**2 * 1.25 / (0.8**2 + 0.25)
    np.testing.assert_allclose(system.rhs(np.array([[0.4, 0.1, 0.8]]))[0], [1 - 0.4, up * down - 0.1, 1 - 0.8])
    np.testing.assert_allclose(system.rhs(np.array([[-0.4, 0.1, 0.0]]))[0, 1], -0.1)


@pytest.mark.data
@pytest.mark.parametrize("seed", range(3))
def test_stored_hill_networks_are_reproduced(seed, data_dir):
    stored = np.load(data_dir / "grn_hill" / f"seed{seed}.npz")
    system = hill_from(stored["adjacency"], stored["ec50"], stored["hill"])
    for name, times in (("train", "t_train"), ("test", "t_test"), ("other_start", "t_test")):
        path = system.solve(stored[name][0], stored[times])
        np.testing.assert_allclose(path, stored[name].transpose(1, 0, 2), atol=3e-7)
    for g in (0, 7):
        path = system.knock(g).solve(stored["test"][0], stored["t_test"])
        np.testing.assert_allclose(path, stored["knock_out"][g].transpose(1, 0, 2), atol=1e-3)  # kept in 16 bits


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: lorenz96(3), ConfigError),
        (lambda: rossler(10, scale=0.0), ConfigError),
        (lambda: sparse_linear(10, density=1.5), ConfigError),
        (lambda: second_order(4, "ring"), ConfigError),  # pyright: ignore[reportArgumentType]
        (lambda: second_order(4, damping=-1.0), ConfigError),
        (lambda: hill_network(4), ConfigError),
        (lambda: hill_from(np.full((3, 3), 2), np.ones((3, 3)), np.ones((3, 3))), DataError),
        (lambda: hill_from(np.eye(3), np.ones((3, 3)), np.ones((3, 3))), DataError),
        (lambda: hill_from(np.eye(3, k=1), np.zeros((3, 3)), np.ones((3, 3))), DataError),
        (lambda: hill_from(np.eye(3, k=1), np.ones((2, 2)), np.ones((3, 3))), DataError),
        (lambda: lorenz96(5).knock("x9"), ConditionError),
        (lambda: lorenz96(5).knock(5), ConditionError),
        (lambda: lorenz96(5).solve(np.zeros((2, 4)), TIMES), ConfigError),
        (lambda: lorenz96(5).solve(np.zeros((2, 5)), TIMES[::-1]), ConfigError),
        (lambda: lorenz96(5).solve(np.zeros((2, 5)), TIMES, substeps=0), ConfigError),
        (lambda: lorenz96(5).solve(1e200 * np.eye(5), TIMES), ConvergenceError),
        (lambda: hill_network(5).simulate(0, TIMES, seed=0), ConfigError),
        (lambda: hill_network(5).simulate(2, TIMES, seed=0, keep=0.0), ConfigError),
        (lambda: hill_network(5).simulate(2, TIMES, seed=0, starts="far"), ConfigError),  # pyright: ignore
        (lambda: hill_network(5).simulate(9, TIMES[:3], seed=0, keep=0.01), DataError),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(call, error, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it, whose types nobody checks
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, CellgapError) and str(caught.value).count(". ") == 0
