"""The two-view loss by blocks of rows is the loss of the whole matrix."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from cellgap.embed import _loss
from cellgap.embed._loss import normalized, two_view_info_nce


@pytest.mark.parametrize(("n", "k", "block"), [(30, 3, 7 * 60), (33, 16, 5 * 66), (20, 8, 1)], ids=str)
def test_blocks_give_value_and_gradient(monkeypatch: pytest.MonkeyPatch, n: int, k: int, block: int) -> None:
    """Against optax.losses.ntxent; blocks that do not divide the rows, and blocks of one row."""
    monkeypatch.setattr(_loss, "_WHOLE_CPU", 1)
    monkeypatch.setattr(_loss, "_BLOCK_CPU", block)
    assert _loss._block_rows(2 * n) < 2 * n
    first, second = jr.normal(jr.key(0), (2, n, k))

    def ours(a: jax.Array, b: jax.Array) -> jax.Array:
        return two_view_info_nce(normalized(a), normalized(b), tau=0.2)

    def theirs(a: jax.Array, b: jax.Array) -> jax.Array:
        both = normalized(jnp.concatenate([a, b]))
        return optax.losses.ntxent(both, jnp.tile(jnp.arange(n), 2), 0.2)

    # Without the derivative the value takes a way of its own.
    assert float(jax.jit(ours)(first, second)) == pytest.approx(float(theirs(first, second)), rel=2e-6)
    value, slopes = jax.jit(jax.value_and_grad(ours, (0, 1)))(first, second)
    expected, wanted = jax.value_and_grad(theirs, (0, 1))(first, second)
    assert float(value) == pytest.approx(float(expected), rel=2e-6)
    for slope, other in zip(slopes, wanted, strict=True):
        assert np.asarray(slope) == pytest.approx(np.asarray(other), rel=2e-6, abs=2e-7)  # float32
