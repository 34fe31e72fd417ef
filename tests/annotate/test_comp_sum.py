"""The comp-sum family against its special cases, its gradient, its limits, and its settings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cellgap.annotate._comp_sum import (
    CompSum,
    comp_sum,
    comp_sum_of_log_loss,
    comp_sum_of_log_loss_traced,
    comp_sum_traced,
    log_loss,
    phi,
)
from cellgap.errors import ConfigError
from cellgap.settings import from_dict, to_dict

TAUS = (0.0, 0.5, 1.0, 1.3, 1.7, 2.0, 2.5)
N, CLASSES = 40, 6


def cells(dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(scale=2.0, size=(N, CLASSES)).astype(dtype), rng.integers(CLASSES, size=N)


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def identities(scores: np.ndarray, labels: np.ndarray) -> dict[float, np.ndarray]:
    """What each loss is called elsewhere, computed in double precision as it is written there."""
    mine = np.take_along_axis(scores, labels[:, None], 1)
    others = np.arange(scores.shape[1]) != labels[:, None]
    p = np.take_along_axis(softmax(scores), labels[:, None], 1)[:, 0]
    return {
        0.0: (np.exp(scores - mine) * others).sum(1),
        1.0: np.asarray(optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(scores), jnp.asarray(labels))),
        1.7: (1 - p**0.7) / 0.7,
        2.0: 1 - p,
        2.5: (1 - p**1.5) / 1.5,
    }


def test_named_losses_are_members_of_the_family():
    scores, labels = cells()
    with jax.enable_x64(True):
        for tau, named in identities(scores, labels).items():
            got = comp_sum(jnp.asarray(scores), jnp.asarray(labels), tau)
            assert got.dtype == jnp.float64
            np.testing.assert_allclose(got, named, rtol=1e-12, atol=1e-12, err_msg=f"tau={tau}")
        wanted = identities(scores, labels)
    single = jnp.asarray(scores, jnp.float32)
    for tau, named in wanted.items():
        got = comp_sum(single, jnp.asarray(labels), tau)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, named, rtol=1e-5, err_msg=f"tau={tau}")


@pytest.mark.parametrize("tau", TAUS)
def test_gradient_is_the_power_of_the_softmax_times_its_residual(tau):
    scores, labels = cells()
    p = softmax(scores)
    weight = np.take_along_axis(p, labels[:, None], 1) ** (tau - 1)
    with jax.enable_x64(True):
        slope = jax.grad(lambda s: comp_sum(s, jnp.asarray(labels), tau).sum())(jnp.asarray(scores))
    np.testing.assert_allclose(slope, weight * (p - np.eye(CLASSES)[labels]), rtol=1e-10, atol=1e-10)


def test_traced_tau_gives_the_loss_and_slope_of_a_static_one():
    scores, labels = cells(np.float32)
    scores[:3] *= 30.0  # where the loss below 1 is a tangent, and above 1 is flat
    x, y = jnp.asarray(scores), jnp.asarray(labels)
    assert float(log_loss(x, y).max()) > 60
    traced = jax.jit(jax.value_and_grad(lambda s, tau: comp_sum_traced(s, y, tau).sum()))
    for tau in (*TAUS, 1 - 2e-7, 1 + 2e-7, 1 - 1e-3, 1 + 1e-3):
        static = jax.value_and_grad(lambda s, tau=float(np.float32(tau)): comp_sum(s, y, tau).sum())
        (a, b), (c, d) = static(x), traced(x, jnp.float32(tau))
        np.testing.assert_allclose(a, c, rtol=1e-6, err_msg=f"tau={tau}")
        np.testing.assert_allclose(b, d, rtol=1e-5, atol=1e-6 * np.abs(b).max(), err_msg=f"tau={tau}")


def test_derivative_in_a_traced_tau_is_right_at_one_and_elsewhere():
    losses = jnp.asarray([1e-4, 0.3, 5.0])
    with jax.enable_x64(True):
        losses = jnp.asarray(np.asarray(losses, float))
        for tau in (0.3, 1.0, 1.0 + 1e-7, 1.8):
            total = jax.jit(lambda t: comp_sum_of_log_loss_traced(losses, t).sum())
            step = 1e-4
            by_difference = (total(jnp.float64(tau + step)) - total(jnp.float64(tau - step))) / (2 * step)
            np.testing.assert_allclose(jax.grad(total)(jnp.float64(tau)), by_difference, rtol=1e-6)
        np.testing.assert_allclose(jax.grad(total)(jnp.float64(1.0)), -(losses**2).sum() / 2, rtol=1e-12)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("distance", [20.0, 50.0, 1e3, 1e6])
def test_values_slopes_and_their_squares_stay_finite_at_extreme_scores(tau, distance):
    scores = jnp.asarray([[0.0, distance, -distance], [distance, 0.0, 0.0], [0.0, 0.0, distance]])
    labels = jnp.asarray([0, 0, 0])
    for loss in (partial(comp_sum, tau=tau), lambda s, y: comp_sum_traced(s, y, jnp.float32(tau))):
        value, slope = jax.value_and_grad(lambda s, loss=loss: loss(s, labels).sum())(scores)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
        assert np.isfinite(np.sum(np.square(slope)))
        if tau <= 1:  # a cell that is far from its label still pulls
            assert slope[0, 0] < -0.5


def test_a_class_left_out_changes_neither_the_loss_nor_the_slopes_of_the_others():
    scores, labels = cells(np.float32)
    labels = np.minimum(labels, CLASSES - 2)
    masked = scores.copy()
    masked[:, -1] = -1e9
    for tau in TAUS:
        a, da = jax.value_and_grad(lambda s, t=tau: comp_sum(s, jnp.asarray(labels), t).sum())(jnp.asarray(masked))
        b, db = jax.value_and_grad(lambda s, t=tau: comp_sum(s, jnp.asarray(labels), t).sum())(
            jnp.asarray(scores[:, :-1])
        )
        np.testing.assert_allclose(a, b, rtol=1e-6)
        np.testing.assert_allclose(da[:, :-1], db, rtol=1e-5, atol=1e-7)
        assert (np.asarray(da[:, -1]) == 0).all()


@jax.jit
def _both(scores, labels, first, second):
    return comp_sum_traced(scores, labels, first), comp_sum_traced(scores, labels, second)


SCORES = arrays(np.float64, (5, 4), elements=st.floats(-15, 15))
LABELS = arrays(np.int32, (5,), elements=st.integers(0, 3))


@given(scores=SCORES, labels=LABELS, low=st.floats(0, 2.5), more=st.floats(0, 1))
@examples(max_examples=80, deadline=None)
def test_loss_does_not_increase_in_tau_and_is_not_negative(scores, labels, low, more):
    with jax.enable_x64(True):
        a, b = (np.asarray(v) for v in _both(jnp.asarray(scores), jnp.asarray(labels), low, low + more))
    assert (b >= 0).all()
    assert (b <= a * (1 + 1e-12) + 1e-12).all()


@given(scores=SCORES, labels=LABELS, e=st.floats(1e-9, 1e-3), sign=st.sampled_from([-1, 1]))
@examples(max_examples=80, deadline=None)
def test_loss_leaves_cross_entropy_by_half_its_square(scores, labels, e, sign):
    with jax.enable_x64(True):
        near, at = (np.asarray(v) for v in _both(jnp.asarray(scores), jnp.asarray(labels), 1 + sign * e, 1.0))
        loss = np.asarray(log_loss(jnp.asarray(scores), jnp.asarray(labels)))
    # The next term of the series is e^2 L^3 / 6; the rest is rounding.
    np.testing.assert_array_less(np.abs(at - near - sign * e * loss**2 / 2), e**2 * loss**3 / 5 + 1e-14 * (1 + loss))


@given(u=st.floats(0, 1e6), v=st.floats(0, 1e6), tau=st.floats(0, 3))
@examples(max_examples=150, deadline=None)
def test_phi_increases_and_is_concave_and_one_lipschitz(u, v, tau):
    u, v = sorted((u, v))
    with jax.enable_x64(True):
        low, middle, high = (float(phi(jnp.float64(x), tau)) for x in (u, (u + v) / 2, v))
    rounding = 1e-12 * (1 + abs(high))
    assert low <= high + rounding
    assert high - low <= (v - u) + rounding
    assert middle >= (low + high) / 2 - rounding


def test_phi_at_one_is_the_constant_of_the_adversarial_bound():
    with jax.enable_x64(True):
        got = [float(phi(jnp.float64(1.0), tau)) for tau in (0.0, 0.5, 1.0, 1.5, 2.0)]
    np.testing.assert_allclose(got, [1, 2 * (np.sqrt(2) - 1), np.log(2), 2 - np.sqrt(2), 0.5], rtol=1e-14)


def test_double_precision_is_exponential_farther_than_single():
    with jax.enable_x64(True):
        np.testing.assert_allclose(comp_sum_of_log_loss(jnp.float64(200.0), 0.0), np.expm1(200.0), rtol=1e-12)


def test_settings_come_back_from_plain_values():
    for given_ in (CompSum(), CompSum(tau="auto", taus=(1.0, 2.0)), CompSum(tau=1.7, warm_start=0.0)):
        assert from_dict(to_dict(given_)) == given_
    assert CompSum(tau=1.7).candidates == (1.7,)
    assert CompSum(tau="auto", taus=(1.0, 2.0)).candidates == (1.0, 2.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tau": -0.1}, "between 0 and 2.5, found -0.1"),
        ({"tau": 2.6}, "between 0 and 2.5, found 2.6"),
        ({"tau": float("nan")}, "found nan"),
        ({"tau": "best"}, "a number or \"auto\", found 'best'"),
        ({"taus": (1.0, 3.0)}, "found 3.0"),
        ({"taus": ()}, "one or more"),
        ({"taus": (1.0, 1.0)}, "different"),
        ({"warm_start": 1.5}, "warm_start"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(wrong, words):
    with pytest.raises(ConfigError) as caught:
        CompSum(**wrong)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_tau_rises_from_one_over_the_warm_start():
    loss = CompSum(warm_start=0.2)
    at = jax.jit(jax.vmap(lambda tau, step: loss.tau_at(tau, step, 100)))
    got = at(jnp.asarray([2.0, 2.0, 2.0, 2.0, 0.5, 1.0]), jnp.asarray([0, 10, 20, 90, 0, 3]))
    np.testing.assert_allclose(got, [1.0, 1.5, 2.0, 2.0, 0.5, 1.0], rtol=1e-6)
    assert float(CompSum(warm_start=0.0).tau_at(2.0, 0, 100)) == 2.0
