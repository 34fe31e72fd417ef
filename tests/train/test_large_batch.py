"""Runs with large batches: what is scaled, and how far weights move."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from cellgap.errors import ConfigError, DataError
from cellgap.settings import from_dict, to_dict
from cellgap.train import (
    DistanceLog,
    LargeBatch,
    Loop,
    fit,
    gradient_weights,
    record_distance,
    weight_distance_fit,
)

LOOP = Loop(n_steps=80, valid_every=10, chunk=20, patience=3)


@pytest.mark.parametrize(
    ("rule", "factor", "sigma"),
    [("sqrt", 32**0.5, 0), ("linear", 32, 0), ("none", 1, 0), ("noise", 1, 31**0.5)],
)
def test_learning_rate_by_rule(rule, factor, sigma):
    run = LargeBatch(rule=rule).scaled(4096, 0.1, LOOP)
    assert run.learning_rate == pytest.approx(0.1 * factor)
    assert run.sigma == pytest.approx(sigma)
    assert run.clip == 5.0


@pytest.mark.parametrize(
    ("batch", "adapt", "steps", "valid"),
    [(4096, True, 2560, 320), (4096, False, 80, 10), (4096, 8, 640, 80), (4097, True, 2640, 330), (128, True, 80, 10)],
)
def test_number_of_updates(batch, adapt, steps, valid):
    run = LargeBatch(adapt_regime=adapt).scaled(batch, 0.1, LOOP)
    assert run.loop == Loop(n_steps=steps, valid_every=valid, chunk=20, patience=3)


def test_smaller_batches_have_smaller_steps():
    run = LargeBatch().scaled(32, 0.1, LOOP)
    assert (run.learning_rate, run.loop) == (pytest.approx(0.05), LOOP)
    assert LargeBatch(clip=None).scaled(32, 0.1, LOOP).clip is None


def test_settings():
    made = LargeBatch(reference=64, rule="linear", adapt_regime=2.5, clip=None)
    assert from_dict(to_dict(made)) == made
    assert LargeBatch(adapt_regime=1).scaled(4096, 0.1, LOOP).loop == LOOP  # a factor, not True
    for wrong in ({"reference": 0}, {"rule": "cube"}, {"adapt_regime": 0.5}, {"clip": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            LargeBatch(**wrong)
    with pytest.raises(ConfigError, match="1 cell or more"):
        LargeBatch().scaled(0, 0.1, LOOP)
    with pytest.raises(ConfigError, match='use rule="sqrt"'):
        LargeBatch(rule="noise").scaled(64, 0.1, LOOP)


def test_noise_gives_the_covariance_of_small_batches():
    ratio, n, draws = 16, 64, 40_000
    sigma = LargeBatch(reference=4, rule="noise").scaled(n, 0.1, LOOP).sigma
    weights = jax.jit(jax.vmap(lambda key: gradient_weights(key, n, sigma)))(jr.split(jr.key(0), draws))
    np.testing.assert_allclose(jnp.mean(weights), 1, atol=0.02)
    np.testing.assert_allclose(jnp.std(weights), sigma, rtol=0.01)
    rng = np.random.default_rng(0)
    population = rng.normal(0, 1, (1000, 2)) @ np.array([[1.0, 0.5], [0.0, 2.0]])
    population -= population.mean(0)
    rows = rng.integers(0, 1000, (draws, n))
    steps = np.einsum("dn,dnk->dk", np.asarray(weights, float), population[rows]) / n
    expected = np.cov(population.T, ddof=0) / (n / ratio)
    np.testing.assert_allclose(np.cov(steps.T), expected, rtol=0.05, atol=0.01)


def test_distances_are_entered_on_the_grid():
    log = DistanceLog.of(1000, 20)
    grid = np.asarray(log.steps)
    assert grid[0] == 1 and grid[-1] == 1000 and np.all(np.diff(grid) > 0)
    ratios = grid[1:] / grid[:-1]
    assert ratios[10:].max() / ratios[10:].min() < 1.1
    start = {"a": jnp.ones((2, 3)), "n": jnp.int32(4)}

    def walk(log, step):
        now = {"a": start["a"] + jnp.sqrt(step + 0.0), "n": jnp.int32(9)}
        return log.update(start, now, step), None

    log, _ = jax.jit(lambda log: jax.lax.scan(walk, log, jnp.arange(1, 301)))(log)
    steps, distances = log.read()
    np.testing.assert_array_equal(steps, grid[grid <= 300])
    np.testing.assert_allclose(distances, np.sqrt(6 * steps), rtol=1e-5)
    with pytest.raises(ConfigError, match="2 points"):
        DistanceLog.of(10, 1)


def test_distances_of_an_optimizer_against_numpy():
    optimizer = optax.chain(optax.sgd(0.3), record_distance(DistanceLog.of(12, 100)))
    params = {"w": jnp.asarray([1.0, -2.0]), "b": jnp.asarray(0.5)}

    def step(state, key):
        params, slots = state
        grads = jax.tree.map(lambda p: p + jr.normal(key, p.shape), params)
        updates, slots = optimizer.update(grads, slots, params)
        params = optax.apply_updates(params, updates)
        return (params, slots), {"w": jnp.sum(params["w"])}

    result = fit(step, (params, optimizer.init(params)), key=jr.key(0), loop=Loop(n_steps=12, chunk=4))
    steps, distances = result.state[1][-1].log.read()
    np.testing.assert_array_equal(steps, np.arange(1, 13))
    now, expected = {name: np.asarray(p, float) for name, p in params.items()}, []
    for i in range(12):
        key = jr.fold_in(jr.key(0), i)
        now = {name: p - 0.3 * (p + np.asarray(jr.normal(key, p.shape))) for name, p in now.items()}
        expected.append(np.sqrt(sum(np.sum((now[name] - np.asarray(params[name])) ** 2) for name in now)))
    np.testing.assert_allclose(distances, expected, rtol=1e-5)
    with pytest.raises(ConfigError, match="needs the weights"):
        optimizer.update(params, optimizer.init(params))


@functools.cache
def grid() -> np.ndarray:
    return np.asarray(DistanceLog.of(2560).steps)


def test_logarithm_is_recognized():
    t = grid()
    found = weight_distance_fit(t, 0.5 + 2 * np.log(t), reference=0.5 + 2 * np.log(1e5))
    assert (found.verdict, found.decided, found.n) == ("log", True, int(np.sum(t >= 3)))
    assert found.r2_log == pytest.approx(1)
    assert found.log_line == (pytest.approx(0.5), pytest.approx(2))
    assert found.steps_to_reference == pytest.approx(1e5, rel=1e-6)
    assert found.slope < 0.4


def test_square_root_is_recognized():
    t = grid()
    found = weight_distance_fit(t, 0.1 * np.sqrt(t))
    assert (found.verdict, found.steps_to_reference) == ("sqrt", None)
    assert found.r2_sqrt == pytest.approx(1)
    assert found.slope == pytest.approx(0.5)
    assert found.sqrt_line == (pytest.approx(0, abs=1e-9), pytest.approx(0.1))


def test_the_first_steps_do_not_count():
    t = grid()
    d = 2 * np.log(t) + 1
    assert weight_distance_fit(t, np.where(t < 3, 50.0, d)) == weight_distance_fit(t, d)


def test_what_both_lines_explain_alike_is_undecided():
    t = grid()
    x, y = (line / line[t >= 3].std() for line in (np.log(t), np.sqrt(t)))
    found = weight_distance_fit(t, x + y)
    assert found.verdict == "undecided" and not found.decided
    assert abs(found.r2_log - found.r2_sqrt) <= 0.02


def test_a_distance_that_does_not_grow_reaches_nothing():
    t = np.arange(3, 30)
    assert weight_distance_fit(t, 1 / t, reference=3.0).steps_to_reference == np.inf
    assert weight_distance_fit(t, 1 + 1e-6 * np.log(t), reference=3.0).steps_to_reference == np.inf


def test_distances_that_no_line_fits_are_refused():
    t = np.arange(3, 9)
    for steps, distances in ((t - 4, t + 0.0), (t, t * np.nan), (t, t - 3.0), (t, np.ones(6))):
        with pytest.raises(DataError):
            weight_distance_fit(steps, distances)


def test_only_floating_point_arrays_are_weights():
    tree = eqx.filter({"w": jnp.zeros(2), "none": None}, eqx.is_array)
    log = DistanceLog.of(3, 3).update(tree, {"w": jnp.asarray([3.0, 4.0]), "none": None}, 3)
    assert log.read()[1].tolist() == [5.0]
