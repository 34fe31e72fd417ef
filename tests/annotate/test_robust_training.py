"""Adversarial comp-sum losses: the chain of bounds, and trainings that leave a classifier that is no constant."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from cellgap.annotate._comp_sum import phi
from cellgap.annotate._labelled import Labelled
from cellgap.annotate.robust import (
    TRADES,
    AbstractRobust,
    Ball,
    PGDTraining,
    SmoothAdversarial,
    adversarial_rho_margin,
    adversarial_zero_one,
    certified_nu,
    margin,
    pgd,
    rho_margin,
    smooth_adversarial,
    smooth_adversarial_loss,
    train_robust,
)
from cellgap.annotate.robust._training import attacked_batch
from cellgap.errors import ConfigError, ConvergenceError
from cellgap.nn import GhostBatchNorm, Tower
from cellgap.settings import from_dict, to_dict
from cellgap.train import Loop

TAUS = (0.0, 0.5, 1.0, 1.5, 2.0)
BALL = Ball("linf", 0.3)
SETTINGS = (
    PGDTraining(BALL, steps=3),
    TRADES(BALL, steps=3, beta=3.0),
    SmoothAdversarial(BALL, steps=3, rho=0.5, nu=0.3),
)


@pytest.fixture(scope="module")
def clouds():
    """Three clouds in the plane, far apart compared with the ball; a third of the cells each."""
    rng = np.random.default_rng(0)
    centers = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    y = np.arange(240) % 3
    return Labelled.of(centers[y] + 0.2 * rng.normal(size=(240, 2)), y, n_classes=3)


def network(key=0, norm: Any = "none"):
    return Tower((2, 16, 3), norm=norm, activation="elu", key=jr.key(key))


def chain(nu_of, n_classes=4, nets=200, rho=0.7):
    """Phi_tau(1) * 0-1, rho-margin loss, smooth loss of random nets on a grid of the square around random points."""
    with jax.enable_x64(True):
        side = jnp.linspace(-0.3, 0.3, 7)
        grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)

        def of_net(key):
            a, b, c, d, e = jr.split(key, 5)
            wide = 10.0 ** jr.uniform(d, (), minval=-1, maxval=1)
            first, last = 2 * jr.normal(a, (2, 12)), wide * jr.normal(b, (12, n_classes)) / 12**0.5
            x = jr.normal(c, (3, 2))
            inputs = x[:, None] + grid
            y = jr.randint(e, (3,), 0, n_classes)
            clean, scores = jnp.tanh(x @ first) @ last, jnp.tanh(inputs @ first) @ last
            wrong = adversarial_zero_one(scores, y)
            parts = []
            for tau in TAUS:
                low = phi(jnp.ones(()), tau) * wrong
                middle = adversarial_rho_margin(scores, y, tau, rho)
                parts.append((low, middle, smooth_adversarial(clean, scores, y, tau, rho, nu_of(n_classes, rho))))
            return jnp.asarray(parts)

        return np.asarray(jax.jit(jax.vmap(of_net))(jr.split(jr.key(0), nets)))


def test_chain_of_bounds():
    found = chain(certified_nu)
    low, middle, high = np.moveaxis(found, 2, 0)
    assert np.all(low <= middle + 1e-9)
    assert np.all(middle <= high + 1e-9)
    assert 0.1 < np.mean(low > 0) < 0.9
    # The first bound is reached: a sample with one wrong class and the others far below.
    assert np.min((middle - low)[low > 0]) < 0.02


def test_chain_breaks_with_a_smaller_weight():
    _, middle, high = np.moveaxis(chain(lambda _, rho: 1 / rho), 2, 0)
    assert np.any(middle > high + 1e-3)


def test_one_over_rho_is_no_bound():
    """Nine differences move alike: the sum of their moves is 3 times their length, which nu = 1/rho misses.

    Clean differences are rho, where the loss of the clean scores is small; both go to 0 under attack.
    """
    rho, y = 0.1, jnp.zeros(1, int)
    with jax.enable_x64(True):
        clean = jnp.array([[0.0, *[-rho] * 9]])
        scores = jnp.zeros((1, 1, 10))
        values = []
        for nu in (1 / rho, certified_nu(10, rho)):
            middle = adversarial_rho_margin(scores, y, 0.0, rho)
            values.append(float((smooth_adversarial(clean, scores, y, 0.0, rho, nu) - middle)[0]))
    # 9 exp(-1) + nu * 3 rho - 9
    np.testing.assert_allclose(values, [9 / np.e + 3 - 9, 9 / np.e], atol=1e-3)


def test_rho_margin_and_weight_by_hand():
    np.testing.assert_allclose(rho_margin(jnp.array([-1.0, 0.0, 0.25, 0.5, 3.0]), 0.5), [1, 1, 0.5, 0, 0])
    assert certified_nu(10, 0.5) == pytest.approx(6.0)


def test_smooth_loss_bounds_the_error_under_attack(clouds):
    """What PGD finds is less than the supremum, and the bound holds for it on every sample."""
    net = network()
    attacked = pgd(net, clouds.x, clouds.y, BALL, steps=10, key=jr.key(0))
    wrong = np.asarray(~attacked.robust, float)
    assert 0.2 < wrong.mean() < 1
    for tau in TAUS:
        loss = smooth_adversarial_loss(net, clouds.x, attacked.x, clouds.y, tau, 1.0, certified_nu(3, 1.0))
        assert np.all(np.asarray(loss) >= float(phi(jnp.ones(()), tau)) * wrong - 1e-6)


def test_attack_of_training_never_starts_at_the_clean_input(clouds):
    """At the clean input the move has no slope: an attack from there would stay there."""
    net, x, y = network(), clouds.x[:64], clouds.y[:64]

    def move(scores):
        return jnp.sum((scores - net(x)) ** 2, -1)

    stuck = jax.grad(lambda x: jnp.sum(move(net(x))))(x)
    np.testing.assert_array_equal(stuck, 0)
    attacked = attacked_batch(net, x, y, BALL, 3, lambda _: move, jr.key(0))
    assert np.all(np.abs(attacked - x).max(1) > 0.29)
    assert np.abs(attacked - x).max() <= 0.3 + 1e-6
    loss, grads = eqx.filter_value_and_grad(lambda net: jnp.mean(smooth_adversarial_loss(net, x, x, y, 1.0, 0.5, 1.0)))(
        net
    )
    assert np.isfinite(loss)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("robust", SETTINGS, ids=lambda robust: type(robust).__name__)
def test_training_keeps_cells_right_under_attack(robust, clouds):
    result = train_robust(network(), clouds, robust, optax.adamw(1e-2), Loop(n_steps=120, chunk=60), key=jr.key(0))
    net = result.best.net
    assert np.mean(np.asarray(margin(net(clouds.x), clouds.y)) > 0) > 0.97
    assert np.mean(pgd(net, clouds.x, clouds.y, BALL, steps=10, key=jr.key(0)).robust) > 0.9
    assert np.isfinite(result.history[-1]["loss"])


def test_nu_rises_over_the_first_half(clouds):
    net, x, y = network(), clouds.x[:16], clouds.y[:16]
    of = eqx.filter_jit(lambda p: SETTINGS[2].loss(net, x, y, jr.key(0), p, 1.0))
    losses, nus = [], []
    for progress in (0.0, 0.25, 0.5, 1.0):
        loss, moved, logs = of(jnp.float32(progress))
        assert jax.tree.structure(moved) == jax.tree.structure(net)
        losses.append(float(loss - logs["clean"]))
        nus.append(float(logs["nu"]))
    np.testing.assert_allclose(nus, [0, 0.15, 0.3, 0.3], rtol=1e-6)
    np.testing.assert_allclose(losses, np.array([0, 0.5, 1, 1]) * losses[2], atol=1e-5)
    assert losses[2] > 0.01


@pytest.mark.parametrize("robust", SETTINGS, ids=lambda robust: type(robust).__name__)
def test_tau_may_be_an_array(robust, clouds):
    net, x, y, progress = network(), clouds.x[:16], clouds.y[:16], jnp.float32(1.0)
    of = eqx.filter_jit(lambda tau: robust.loss(net, x, y, jr.key(0), progress, tau)[0])
    for tau in (0.5, 1.0, 2.0):
        np.testing.assert_allclose(of(jnp.float32(tau)), of(tau), rtol=1e-5)


def test_constant_classifier_is_refused_with_its_remedy(clouds):
    """Two thirds of the cells are of one class, which the offsets alone predict: nothing pulls against equal scores."""
    uneven = Labelled.of(np.asarray(clouds.x), np.where(np.arange(240) % 2, np.asarray(clouds.y), 0), n_classes=3)
    strong = dataclasses.replace(SETTINGS[2], nu=10.0, ramp=0.0)
    told = r"constant classifier.* 66\.7% of the training .* has 66\.7%; take a smaller nu than 10, or a longer ramp"
    with pytest.raises(ConvergenceError, match=told):
        train_robust(network(), uneven, strong, optax.adamw(1e-2), Loop(n_steps=120, chunk=60), key=jr.key(0))


@pytest.mark.parametrize("norm", ["batch", GhostBatchNorm()], ids=str)
def test_batch_statistics_are_refused(norm, clouds):
    with pytest.raises(ConfigError, match="without batch statistics"):
        train_robust(network(norm=norm), clouds, SETTINGS[0], optax.adamw(1e-2), Loop(n_steps=1), key=jr.key(0))


@pytest.mark.parametrize("robust", SETTINGS, ids=lambda robust: type(robust).__name__)
def test_settings_go_through_a_file(robust):
    assert isinstance(robust, AbstractRobust)
    assert from_dict(to_dict(robust)) == robust


@pytest.mark.parametrize("wrong", [{"rho": 0.0}, {"nu": -1.0}, {"ramp": 1.5}, {"steps": 0}])
def test_settings_out_of_bounds(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SmoothAdversarial(BALL, **wrong)
