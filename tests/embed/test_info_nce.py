"""Contrastive losses: values and gradients against definitions and optax, masks, low temperatures, zero rows."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from cellgap.embed import _loss
from cellgap.embed._loss import info_nce, mixed_info_nce, normalized, two_view_info_nce
from cellgap.embed.sphere import uniform

seeds = st.integers(0, 10_000)


def embeddings(seed: int, n: int = 6, m: int = 9, k: int = 4):
    keys = jr.split(jr.key(seed), 4)
    own = uniform(keys[3], n * m, k).reshape(n, m, k)
    return uniform(keys[0], n, k), uniform(keys[1], n, k), uniform(keys[2], m, k), own


def definition(anchor, partner, negatives, tau, mask=None):
    """Return the losses in float64, negatives (n, m, k)."""
    a, p, n = (np.asarray(x, np.float64) for x in (anchor, partner, negatives))
    positive = (a * p).sum(1) / tau
    others = np.einsum("nk,nmk->nm", a, n) / tau
    weights = np.ones_like(others) if mask is None else np.asarray(mask, float)
    logs = np.concatenate([positive[:, None], others], axis=1)
    return logsumexp(logs, axis=1, b=np.column_stack([np.ones(len(a)), weights])) - positive


@pytest.mark.parametrize("tau", [0.005, 0.02, 0.1, 0.5, 3.0])
def test_values_follow_the_definition_at_every_temperature(tau):
    anchor, partner, shared, own = embeddings(0)
    expanded = jnp.broadcast_to(shared, (6, 9, 4))
    # Cosines are exact to 1e-7, and the loss divides that by the temperature.
    tell = {"rtol": 1e-5, "atol": 5e-7 / tau}
    np.testing.assert_allclose(
        info_nce(anchor, partner, shared, tau=tau), definition(anchor, partner, expanded, tau), **tell
    )
    np.testing.assert_allclose(info_nce(anchor, partner, own, tau=tau), definition(anchor, partner, own, tau), **tell)


def test_masked_negatives_do_not_count():
    anchor, partner, shared, own = embeddings(1)
    mask = jr.bernoulli(jr.key(2), 0.5, (6, 9))
    found = info_nce(anchor, partner, own, tau=0.2, mask=mask)
    np.testing.assert_allclose(found, definition(anchor, partner, own, 0.2, mask), rtol=1e-5)
    columns = jnp.arange(9) < 4
    np.testing.assert_allclose(
        info_nce(anchor, partner, shared, tau=0.2, mask=jnp.broadcast_to(columns, (6, 9))),
        info_nce(anchor, partner, shared[:4], tau=0.2),
        rtol=1e-6,
    )
    np.testing.assert_array_equal(info_nce(anchor, partner, shared, tau=0.2, mask=jnp.zeros((6, 9), bool)), 0)
    slope = jax.grad(lambda x: info_nce(anchor, partner, x, tau=0.2, mask=mask).sum())(own)
    assert (np.abs(slope).max(2) > 0).tolist() == mask.tolist()


@pytest.mark.parametrize("tau", [0.01, 0.3])
def test_turning_all_embeddings_changes_nothing(tau):
    anchor, partner, shared, own = embeddings(3)
    turn = jr.orthogonal(jr.key(4), 4)

    def losses(a, p, s, o):
        return (
            info_nce(a, p, s, tau=tau),
            mixed_info_nce(a, p, o, s, tau=tau, rho=0.4),
            two_view_info_nce(a, p, tau=tau),
        )

    before, after = losses(anchor, partner, shared, own), losses(*(x @ turn for x in (anchor, partner, shared, own)))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=3e-7 / tau)


@pytest.mark.parametrize("tau", [0.02, 0.03, 0.5])
def test_two_views_are_nt_xent(tau):
    # 2 / tau = 80 lies between the first and second: both forms of the product are covered.
    first, second, _, _ = embeddings(5, n=7)
    both, labels = jnp.concatenate([first, second]), jnp.tile(jnp.arange(7), 2)
    found, slope = jax.jit(jax.value_and_grad(lambda a, b: two_view_info_nce(a, b, tau=tau), (0, 1)))(first, second)
    expected, pull = jax.jit(
        jax.value_and_grad(lambda a, b: jnp.mean(optax.losses.ntxent(jnp.concatenate([a, b]), labels, tau)), (0, 1))
    )(first, second)
    assert found == pytest.approx(float(expected), rel=1e-5)
    # optax divides by norms, so its gradient is the part along the sphere.
    for s, p, x in zip(slope, pull, (first, second), strict=True):
        along = s - jnp.sum(s * x, axis=1, keepdims=True) * x
        np.testing.assert_allclose(along, p, atol=2e-6 / tau, rtol=1e-4)
    assert found == pytest.approx(float(jnp.mean(_by_info_nce(both, tau))), rel=1e-5)


def _by_info_nce(both, tau):
    n = len(both) // 2
    partner = jnp.concatenate([both[n:], both[:n]])
    itself, other = jnp.eye(2 * n, dtype=bool), jnp.roll(jnp.eye(2 * n, dtype=bool), n, axis=1)
    return info_nce(both, partner, both, tau=tau, mask=~(itself | other))


def test_blocks_of_the_matrix_give_what_the_whole_gives(monkeypatch):
    first, second, _, _ = embeddings(6, n=11, k=6)

    def both():
        loss = jax.jit(jax.value_and_grad(lambda a, b: 2.0 * two_view_info_nce(a, b, tau=0.05), (0, 1)))
        return loss(first, second)

    value, slope = both()
    monkeypatch.setattr(_loss, "_WHOLE_CPU", 0)
    for rows in (2, 7):  # 22 rows in all: blocks with and without a rest
        monkeypatch.setattr(_loss, "_BLOCK_CPU", 22 * rows)
        again, pull = both()
        assert float(again) == pytest.approx(float(value), rel=1e-6)
        assert 2 * float(two_view_info_nce(first, second, tau=0.05)) == pytest.approx(float(value), rel=1e-6)
        for s, p in zip(slope, pull, strict=True):
            np.testing.assert_allclose(p, s, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("k", "tau"), [(3, 0.3), (6, 0.01)])
def test_gradients_agree_with_finite_differences(k, tau):
    with jax.enable_x64(True):
        anchor, partner, shared, own = (x.astype(jnp.float64) for x in embeddings(7, k=k))
        mask = jr.bernoulli(jr.key(8), 0.7, (6, 9))

        @jax.jit
        def losses(x):
            return jnp.stack(
                [
                    info_nce(normalized(x), partner, shared, tau=tau).sum(),
                    info_nce(normalized(x), partner, own, tau=tau, mask=mask).sum(),
                    mixed_info_nce(normalized(x), partner, own, shared, tau=tau, rho=0.3).sum(),
                    two_view_info_nce(x, partner, tau=tau),
                    two_view_info_nce(partner, x, tau=tau),
                    two_view_info_nce(normalized(x), normalized(x[::-1] + 1.0), tau=tau),
                ]
            )

        way = jr.normal(jr.key(9), anchor.shape, jnp.float64)
        step = 1e-5
        found = (losses(anchor + step * way) - losses(anchor - step * way)) / (2 * step)
        expected = jnp.sum(jax.jit(jax.jacrev(losses))(anchor) * way, axis=(1, 2))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(seeds, st.sampled_from([0.02, 0.3]))
def test_the_order_of_negatives_and_of_anchors_does_not_matter(seed, tau):
    anchor, partner, _, own = embeddings(seed)
    order, rows = jr.permutation(jr.key(seed), 9), jr.permutation(jr.key(seed + 1), 6)
    found = info_nce(anchor, partner, own, tau=tau)
    np.testing.assert_allclose(info_nce(anchor, partner, own[:, order], tau=tau), found, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        info_nce(anchor[rows], partner[rows], own[rows], tau=tau), found[rows], rtol=1e-5, atol=1e-5
    )
    value = float(two_view_info_nce(anchor, partner, tau=tau))
    assert float(two_view_info_nce(partner[rows], anchor[rows], tau=tau)) == pytest.approx(value, rel=1e-5, abs=1e-5)


@settings(deadline=None, max_examples=25)
@given(seeds, st.sampled_from([0.02, 0.3]))
def test_a_further_negative_raises_the_loss_and_the_loss_is_bounded(seed, tau):
    anchor, partner, shared, _ = embeddings(seed)
    found = info_nce(anchor, partner, shared, tau=tau)
    assert (found >= 0).all()
    assert (info_nce(anchor, partner, shared[:-1], tau=tau) <= found + 1e-5).all()
    # Cosines differ by 2 at most.
    assert (found <= np.log1p(9 * np.exp(2 / tau)) + 1e-4).all()


@settings(deadline=None, max_examples=15)
@given(seeds, st.sampled_from([0.02, 0.3]))
def test_a_share_that_fits_the_numbers_is_plain_info_nce(seed, tau):
    anchor, partner, shared, own = embeddings(seed)
    together = jnp.concatenate([own[:, :3], jnp.broadcast_to(shared, (6, 9, 4))], axis=1)
    found = mixed_info_nce(anchor, partner, own[:, :3], shared, tau=tau, rho=0.25)
    np.testing.assert_allclose(found, info_nce(anchor, partner, together, tau=tau), rtol=1e-5, atol=1e-5)


def test_ends_of_a_mixture_drop_the_other_kind():
    anchor, partner, shared, own = embeddings(10)
    three = own[:, :3]
    # Twelve negatives in all, so that each of one kind counts as many.
    near = mixed_info_nce(anchor, partner, three, shared, tau=0.3, rho=1.0)
    np.testing.assert_allclose(near, info_nce(anchor, partner, jnp.tile(three, (1, 4, 1)), tau=0.3), rtol=1e-5)
    far = mixed_info_nce(anchor, partner, three, shared[:6], tau=0.3, rho=0.0)
    expected = definition(anchor, partner, jnp.broadcast_to(shared[:6], (6, 6, 4)), 0.3)
    positive = np.sum(anchor * partner, axis=1) / 0.3
    # Nine negatives in all, six drawn: the sum over them counts for nine.
    others = np.exp(expected + positive) - np.exp(positive)
    np.testing.assert_allclose(far, np.log(np.exp(positive) + 1.5 * others) - positive, rtol=1e-5)


def test_rows_of_zeros_stay_and_have_no_gradient():
    x = jnp.concatenate([jnp.zeros((2, 4)), uniform(jr.key(11), 4, 4)])
    np.testing.assert_array_equal(normalized(x)[:2], 0)
    _, partner, shared, own = embeddings(12)

    def loss(x):
        h = normalized(x)
        return (
            info_nce(h, partner, shared, tau=0.01).sum()
            + mixed_info_nce(h, partner, own, h, tau=0.3, rho=0.5).sum()
            + two_view_info_nce(h, partner, tau=0.01)
            + two_view_info_nce(h, partner, tau=0.3)
        )

    value, slope = jax.jit(jax.value_and_grad(loss))(x)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[:2], 0)
    assert (np.abs(slope[2:]).max(1) > 0).all()


def test_normalized_rows_are_units_whatever_their_scale():
    x = jr.normal(jr.key(13), (50, 7)) * jnp.logspace(-4, 8, 50)[:, None]
    np.testing.assert_allclose(np.linalg.norm(normalized(x), axis=1), 1, rtol=1e-6)


def test_perfect_and_opposite_pairs_at_a_low_temperature():
    # Two far points: 2 / tau = 1000 is beyond the exponential of float32.
    first = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    assert float(two_view_info_nce(first, first, tau=0.002)) == pytest.approx(0.0, abs=1e-6)
    # Each anchor has its partner at cosine -1, and a negative of cosine 1.
    expected = np.log(2) + 1000
    assert float(two_view_info_nce(first, first[::-1], tau=0.002)) == pytest.approx(expected, rel=1e-3)
    assert np.isfinite(jax.grad(lambda x: two_view_info_nce(x, first[::-1], tau=0.002))(first)).all()
