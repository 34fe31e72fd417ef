"""The asymptotic loss: its floor, its value at isometries, and how finite numbers of negatives come near."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from cellgap.embed._loss import info_nce, normalized
from cellgap.embed.sphere import (
    Frozen,
    VonMisesFisher,
    asymptotic_loss,
    fibre_isometry,
    folded,
    frozen_only,
    log_partition,
    loss_floor,
    matched_value,
    mean_cosine,
    orthogonal,
    uniform,
)
from cellgap.errors import ConfigError, DataError

TAU = 0.3
KAPPA = 1 / TAU
MATCHED = matched_value(3, TAU, float(mean_cosine(3, KAPPA)))


def network(seed: int, width: int = 32):
    """A random map of S^2 to itself with two layers, of random smoothness."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.5, 6.0)
    first, shift = scale * rng.normal(size=(3, width)), rng.normal(size=width)
    second, offset = rng.normal(size=(width, 3)), rng.normal(size=3) * rng.uniform(0, 2)
    return lambda z: normalized(jnp.tanh(z @ first + shift) @ second + offset)


def test_reference_values_on_s2():
    assert loss_floor(3, TAU) == pytest.approx(-1.8984, abs=5e-5)
    assert pytest.approx(-0.9069, abs=5e-5) == MATCHED


def test_every_orthogonal_map_has_the_matched_value():
    z = uniform(jr.key(0), 1_000_000, 3)
    partner = VonMisesFisher(KAPPA).partner(jr.key(1), z)
    negatives = uniform(jr.key(2), 4000, 3)
    # Alignment over a million pairs, uniformity over a million cosines.
    cosines = jnp.sum(z * partner, axis=1)
    aligned = float(jnp.mean(cosines))
    assert matched_value(3, TAU, aligned) == pytest.approx(MATCHED, abs=5e-3)
    for key in jr.split(jr.key(3), 20):
        h = orthogonal(key, 3)
        np.testing.assert_allclose(h(jnp.eye(3)) @ h(jnp.eye(3)).T, np.eye(3), atol=1e-6)
        np.testing.assert_allclose(jnp.sum(h(z[:1000]) * h(partner[:1000]), axis=1), cosines[:1000], atol=1e-6)
        spread = asymptotic_loss(h, z[:250], partner[:250], negatives, TAU).uniformity
        assert spread - aligned / TAU == pytest.approx(MATCHED, abs=5e-3)


def test_no_map_spreads_better_than_evenly():
    z, negatives = uniform(jr.key(4), 1000, 3), uniform(jr.key(5), 1000, 3)
    least = float(log_partition(3, KAPPA))
    gaps = [asymptotic_loss(network(seed), z, z, negatives, TAU).uniformity - least for seed in range(50)]
    assert min(gaps) >= -1e-3
    # The bound is tight at isometries, and far at a map to a point.
    assert asymptotic_loss(None, z, z, negatives, TAU).uniformity == pytest.approx(least, abs=5e-3)
    point = asymptotic_loss(lambda x: x * 0 + np.array([1.0, 0, 0]), z, z, negatives, TAU)
    assert point.uniformity == pytest.approx(1 / TAU)
    assert point.value == pytest.approx(0.0, abs=1e-12)


def test_parts_add_up_and_both_kinds_of_negatives_agree():
    z, negatives = uniform(jr.key(6), 40, 4), uniform(jr.key(7), 60, 4)
    partner = VonMisesFisher(5.0).partner(jr.key(8), z)
    shared = asymptotic_loss(None, z, partner, negatives, 0.2)
    own = asymptotic_loss(None, z, partner, jnp.broadcast_to(negatives, (40, 60, 4)), 0.2)
    a, p, n = (np.asarray(x, np.float64) for x in (z, partner, negatives))
    expected = np.log(np.exp(a @ n.T / 0.2).mean(1)).mean() - (a * p).sum(1).mean() / 0.2
    assert shared.value == pytest.approx(expected, rel=1e-12)
    assert own.value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("k", "n_frozen"), [(3, 1), (5, 2)])
def test_fibre_isometries_tie_with_the_identity_under_the_corrected_loss(k, n_frozen):
    sampler = Frozen(KAPPA, n_frozen)
    z = uniform(jr.key(9), 300, k)
    partner, support = sampler.partner(jr.key(10), z), sampler.support(jr.key(11), z, 300)
    identity = asymptotic_loss(None, z, partner, support, TAU).value
    for key in jr.split(jr.key(12), 3):
        h = fibre_isometry(key, k, n_frozen)
        assert asymptotic_loss(h, z, partner, support, TAU).value == pytest.approx(identity, abs=1e-5)
        # It is no isometry: what lies on different fibres is moved.
        moved = h(z)
        np.testing.assert_allclose(jnp.linalg.norm(moved, axis=1), 1, atol=1e-5)
        assert float(jnp.mean(jnp.abs(moved @ moved.T - z @ z.T))) > 0.1
    assert asymptotic_loss(lambda x: folded(x, n_frozen), z, partner, support, TAU).value == pytest.approx(
        identity, abs=1e-5
    )
    assert asymptotic_loss(lambda x: frozen_only(x, n_frozen), z, partner, support, TAU).value > identity + 0.1


def test_finite_numbers_of_negatives_come_near_as_one_over_m():
    """Identity and von Mises-Fisher pairs on S^2: the error is known to first order.

    The positive adds ``r / M`` with ``r = Z(2b) / Z(b)^2``, the variance of the negatives takes ``(r - 1) / (2 M)``.
    """
    r = float(np.exp(log_partition(3, 2 * KAPPA) - 2 * log_partition(3, KAPPA)))
    expected = r - (r - 1) / 2
    scale = float(np.exp(log_partition(3, KAPPA)))

    @partial(jax.jit, static_argnums=(1, 2))
    def block(key, n, m):
        # Negatives are uniform whatever the anchor, so one pole serves all, and a meridian all cosines with it.
        first, second = jr.split(key)
        pole = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), (n, 3))
        partner = VonMisesFisher(KAPPA).partner(first, pole)
        heights = jr.uniform(second, (n, m), minval=-1.0, maxval=1.0)
        negatives = jnp.stack([jnp.sqrt(1 - heights**2), jnp.zeros_like(heights), heights], axis=2)
        log_ratio = info_nce(pole, partner, negatives, tau=TAU) + partner[:, 2] * KAPPA
        # The first-order effect of the negatives has mean 0 and is known: it is taken off.
        return log_ratio - (jnp.mean(jnp.exp(heights * KAPPA), axis=1) / scale - 1.0)

    errors = []
    for m, rounds in ((100, 20), (1000, 10), (10_000, 30)):
        found = [np.asarray(block(key, 500_000 // m, m), np.float64) for key in jr.split(jr.key(m), rounds)]
        errors.append(np.concatenate(found).mean() - np.log(m) - np.log(scale))
    assert errors[0] > errors[1] > errors[2] > 0
    scaled = np.array(errors) * [100, 1000, 10_000]
    np.testing.assert_allclose(scaled, expected, rtol=0.1)


def test_views_of_the_anchor_alone_as_negatives_reward_collapse():
    """Positives and negatives of one law are exchangeable: no map is below ``log(M + 1)``, and a collapse is at it."""
    m, n = 63, 400
    sampler = Frozen(KAPPA)
    z = uniform(jr.key(16), n, 3)
    views = sampler.partner(jr.key(17), jnp.repeat(z, m + 1, axis=0)).reshape(n, m + 1, 3)

    def loss(h):
        seen = h(views.reshape(-1, 3)).reshape(n, m + 1, 3)
        return float(jnp.mean(info_nce(h(z), seen[:, 0], seen[:, 1:], tau=TAU)))

    bound = np.log(m + 1)
    assert loss(frozen_only) == pytest.approx(bound, abs=1e-5)
    for h in (lambda x: x, network(0), network(1), fibre_isometry(jr.key(18))):
        assert loss(h) > bound + 1e-3


def test_wrong_temperatures_and_shapes_are_refused():
    z = uniform(jr.key(19), 4, 3)
    for tau in (0.0, -1.0, np.nan):
        with pytest.raises(ConfigError, match="temperature"):
            loss_floor(3, tau)
    with pytest.raises(DataError, match="do not match"):
        asymptotic_loss(None, z, z[:3], z, TAU)
    with pytest.raises(DataError, match="do not match"):
        asymptotic_loss(None, z, z, z[None], TAU)
