"""Cosine, elastic and other costs in every function: definitions, finite differences, optimal maps, settings."""

import functools
import inspect
import tomllib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ot_reference import clouds, log_domain, log_domain_self, plan_of, primal_kl, weights
from scipy.spatial.distance import cdist

from cellgap import ot
from cellgap import settings as cellgap_settings
from cellgap.errors import ConfigError
from cellgap.ot import _cost
from cellgap.ot._double import double_cost_matrix

ELASTIC = ot.ElasticNet(l1=0.3, l2=0.5)


class Stretched(eqx.Module):
    """Squared distance with one axis longer than the others, as a user writes it."""

    factor: float

    def __call__(self, x, y):
        return jnp.sum((x - y) ** 2) + self.factor * (x[0] - y[0]) ** 2


def squared(x, y):
    return jnp.sum((x - y) ** 2)


def reference(cost, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The cost of all pairs, through numpy alone."""
    if isinstance(cost, str):
        return cdist(x, y, cost)
    if isinstance(cost, Stretched):
        return cdist(x, y, "sqeuclidean") + cost.factor * (x[:, None, 0] - y[None, :, 0]) ** 2
    return cost.l2 * cdist(x, y, "sqeuclidean") + cost.l1 * cdist(x, y, "cityblock")


GENERAL = ("cosine", ELASTIC, Stretched(3.0))
ids = [str(cost) if isinstance(cost, str) else type(cost).__name__ for cost in GENERAL]
every_cost = pytest.mark.parametrize("cost", GENERAL, ids=ids)


@every_cost
def test_costs_are_those_of_their_definition(cost):
    x, y = clouds(48)
    expected = reference(cost, x, y)
    x32, y32 = jnp.float32(x), jnp.float32(y)
    np.testing.assert_allclose(ot.cost_matrix(x32, y32, cost), expected, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(ot.paired_cost(x32[:40], y32, cost), np.diagonal(expected), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(double_cost_matrix(x, y, cost), expected, atol=1e-12)
    np.testing.assert_allclose(ot.double_paired_cost(x[:40], y, cost), np.diagonal(expected), atol=1e-12)


@pytest.mark.parametrize("cost", [ELASTIC, Stretched(3.0)], ids=["ElasticNet", "Stretched"])
def test_blocks_of_pairs_change_nothing(x64, monkeypatch, cost):
    """Values and derivatives, with blocks of 1, 3 and all rows."""
    x, y = map(jnp.asarray, clouds(10, 7, 3))
    plan = jnp.abs(jnp.sin(jnp.arange(70.0))).reshape(10, 7)

    def both():
        def run(x, y, plan):
            slope = jax.grad(lambda x: jnp.sum(plan * ot.cost_matrix(x, y, cost)))(x)
            return ot.cost_matrix(x, y, cost), slope, *_cost.pair_gradients(x, y, plan, cost)

        return jax.jit(run)(x, y, plan)  # a new function each time, traced with the blocks of now

    whole = both()
    np.testing.assert_allclose(whole[1], whole[2], atol=1e-12)
    for elements in (21, 63):
        monkeypatch.setattr(_cost, "_ELEMENTS", elements)
        for one, other in zip(both(), whole, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12)


def values(points: jax.Array, cost) -> jax.Array:
    """All functions with a gradient, of three clouds stacked in one array."""
    x, t, y = jnp.split(points, (8, 16))
    a, b = jnp.asarray(weights(8)), jnp.asarray(weights(4, seed=1))
    solver = {"cost": cost, "epsilon": 0.4, "tol": 1e-13, "max_iterations": 5000}
    return jnp.stack(
        [
            ot.entropic_cost(x, y, **solver).value,
            ot.sinkhorn_divergence(x, y, a=a, b=b, **solver),
            ot.monge_gap(x, t, a=a, **solver).value,
        ]
    )


@functools.cache
def compiled(cost):
    def run(points, chosen):
        found, pullback = jax.vjp(functools.partial(values, cost=cost), points)
        return found, pullback(chosen)[0]

    return jax.jit(run)


@every_cost
def test_gradients_are_the_finite_differences(x64, cost):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 2)) + 0.5
    gradients = np.stack([compiled(cost)(points, chosen)[1] for chosen in np.eye(3)])
    step = 1e-5
    for index in np.ndindex(points.shape):
        move = np.zeros_like(points)
        move[index] = step
        ahead, behind = (np.asarray(compiled(cost)(points + s * move, np.zeros(3))[0]) for s in (1, -1))
        np.testing.assert_allclose(gradients[:, *index], (ahead - behind) / (2 * step), atol=1e-7)


@every_cost
def test_values_are_those_of_the_plain_iteration(x64, cost):
    x, y, _ = np.split(np.random.default_rng(0).normal(size=(20, 2)) + 0.5, (8, 12))
    a, b = weights(8), weights(4, seed=1)
    c = reference(cost, x, y)
    f, g = log_domain(c, 0.4)
    found = compiled(cost)(np.concatenate([x, x + 0.1, y]), np.zeros(3))[0]
    assert float(found[0]) == pytest.approx(primal_kl(c, plan_of(c, f, g, 0.4), 0.4), rel=1e-9)
    f, g = log_domain(c, 0.4, a, b)
    own = [2 * w @ log_domain_self(reference(cost, z, z), 0.4, w) for z, w in ((x, a), (y, b))]
    cross = primal_kl(c, plan_of(c, f, g, 0.4, a, b), 0.4)
    assert float(found[1]) == pytest.approx(cross - 0.5 * sum(own), rel=1e-8)


def test_the_squared_distance_as_a_function_gives_the_numbers_of_the_named_cost(x64):
    points = np.random.default_rng(0).normal(size=(20, 2))
    for chosen in np.eye(3):
        for one, other in zip(compiled(squared)(points, chosen), compiled("sqeuclidean")(points, chosen), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-9)


def test_optimal_maps_have_no_gap_and_others_have():
    """Elastic: maps monotone in every coordinate. Cosine: each cell takes its best direction, prices included."""
    x = np.random.default_rng(0).normal(size=(60, 3))
    monotone = x + np.array([2.0, 0.0, -1.0]) + np.tanh(x)
    assert ot.exact_monge_gap(x, monotone, cost=ELASTIC) < 1e-12
    assert ot.exact_monge_gap(x, -monotone, cost=ELASTIC) > 0.1
    directions = np.random.default_rng(1).normal(size=(7, 3))
    prices = np.linspace(0.0, 0.3, 7)
    chosen = directions[np.argmin(cdist(x, directions, "cosine") + prices, axis=1)]
    assert ot.exact_monge_gap(x, chosen, cost="cosine") < 1e-12
    assert ot.exact_monge_gap(x, 5 * x, cost="cosine") < 1e-12
    assert ot.exact_monge_gap(x, chosen[::-1], cost="cosine") > 0.05
    assert ot.exact_monge_gap(x, monotone * 0 + x[:, ::-1], cost=Stretched(3.0)) > 0.1


def test_the_entropic_gap_of_a_translation_is_small_for_the_elastic_cost():
    x = jnp.float32(np.random.default_rng(0).normal(size=(64, 2)))
    kept, turned = (
        float(ot.monge_gap(x, t, epsilon=0.01, cost=ELASTIC, max_iterations=5000).value) for t in (x + 1.0, -x)
    )
    assert 0.0 <= kept < 0.05 < turned


def test_a_cell_at_the_origin_has_no_direction_and_no_gradient():
    x = jnp.zeros((2, 3)).at[1].set(jnp.asarray([0.0, 3.0, 4.0]))
    np.testing.assert_allclose(ot.cost_matrix(x, x, "cosine"), [[0.0, 0.5], [0.5, 0.0]], atol=1e-6)
    slope = jax.jit(jax.grad(lambda x: ot.cost_matrix(x, x[1:], "cosine").sum()))(x)
    np.testing.assert_allclose(slope, np.zeros((2, 3)), atol=1e-6)


def test_what_is_no_cost_is_refused_in_one_sentence():
    x = jnp.ones((4, 3))
    entropic_self_cost, entropic_cost = map(inspect.unwrap, (ot.entropic_self_cost, ot.entropic_cost))
    with pytest.raises(ConfigError, match="c\\(x, y\\) = c\\(y, x\\)"):
        entropic_self_cost(x, epsilon=1.0, cost=lambda x, y: jnp.sum(x * (x - y)))
    with pytest.raises(ConfigError, match="one number"):
        entropic_self_cost(x, epsilon=1.0, cost=lambda x, y: x - y)
    with pytest.raises(ConfigError, match="hashable"):
        entropic_cost(x, x, epsilon=1.0, cost=Stretched(np.ones(2)))
    with pytest.raises(ConfigError, match="function of two points"):
        entropic_cost(x, x, epsilon=1.0, cost=3)
    for wrong in ({"l1": -1.0}, {"l1": 1.0, "l2": 0.0}, {"l1": float("nan")}):
        with pytest.raises(ConfigError, match="ElasticNet"):
            ot.ElasticNet(**wrong)


@cellgap_settings.settings
class Holder:
    """Settings with a cost, as estimators have them."""

    cost: ot.Cost = "euclidean"


def test_costs_are_settings_that_a_text_file_holds():
    for cost in ("euclidean", "cosine", ELASTIC):
        written = cellgap_settings.to_dict(Holder(cost=cost))
        assert cellgap_settings.from_dict(written) == Holder(cost=cost)
    assert written["cost"] == {"kind": "ElasticNet", "l1": 0.3, "l2": 0.5}
    read = tomllib.loads('kind = "Holder"\n[cost]\nkind = "ElasticNet"\nl1 = 0.3\nl2 = 0.5')
    assert cellgap_settings.from_dict(read).cost == ELASTIC and hash(ELASTIC) == hash(ot.ElasticNet(0.3, 0.5))
    assert Holder(cost=squared).cost is squared
    with pytest.raises(ConfigError, match="\"cosine\", or a function of two points, found 'manhattan'"):
        Holder(cost="manhattan")
    with pytest.raises(ConfigError, match="given in memory"):
        cellgap_settings.to_dict(Holder(cost=squared))
