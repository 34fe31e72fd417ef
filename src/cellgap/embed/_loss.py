"""Contrastive losses on the sphere: InfoNCE, its support-corrected form, and the mixture of both.

Embeddings are rows of unit length, ``tau`` is the temperature. Every loss counts the positive in its denominator, so a
loss with ``M`` negatives is compared with asymptotic values after ``log M`` is taken off.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_LOWEST = -1e30
_SMALL = 1e-12
_SAFE = 80.0  # the exponential of minus this is far from the smallest float32
# Entries of the matrix of a batch: up to the first it is computed at once, beyond by blocks of the second, which stay
# in a core's cache. An accelerator wants large blocks, and blocks only to save its memory.
_WHOLE_CPU, _BLOCK_CPU, _BLOCK = 2**22, 2**19, 2**28


def normalized(x: Float[Array, "*n k"]) -> Float[Array, "*n k"]:
    """Return rows of unit length; a row of zeros stays one, with gradient 0."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    far = square > _SMALL
    return jnp.where(far, x * jax.lax.rsqrt(jnp.where(far, square, 1.0)), 0.0)


def info_nce(
    anchor: Float[Array, "n k"],
    partner: Float[Array, "n k"],
    negatives: Float[Array, "m k"] | Float[Array, "n m k"],
    *,
    tau: float,
    mask: Bool[Array, "n m"] | None = None,
) -> Float[Array, " n"]:
    """Return the loss of every anchor, with the positive in the denominator.

    ``-h.h~/tau + log(exp(h.h~/tau) + sum_j exp(h.h_j/tau))``, by ``logsumexp``, in float32.

    Parameters
    ----------
    anchor, partner
        Embeddings of unit length.
    negatives
        The same for all anchors, or each anchor's own: drawn from the support of the pair sampler at the anchor they
        make the support-corrected loss.
    tau
        Temperature.
    mask
        Negatives that count; None counts all. Leaving some out changes the law of negatives, and with it the theorem.

    Source
    ------
    Oord et al. 2018 (arXiv 1807.03748); Zaliaduonis et al. 2026 (arXiv 2606.04280) for negatives from the support.
    """
    positive = jnp.sum(anchor * partner, axis=-1) / tau
    others = _cosines(anchor, negatives) / tau
    if mask is not None:
        others = jnp.where(mask, others, _LOWEST)
    return jax.nn.logsumexp(jnp.concatenate([positive[:, None], others], axis=1), axis=1) - positive


def mixed_info_nce(
    anchor: Float[Array, "n k"],
    partner: Float[Array, "n k"],
    support: Float[Array, "n s k"],
    marginal: Float[Array, "m k"] | Float[Array, "n m k"],
    *,
    tau: float,
    rho: float,
    mask: Bool[Array, "n m"] | None = None,
) -> Float[Array, " n"]:
    """Return the loss with a share `rho` of its negatives from the support of the pair sampler, the rest from all.

    Both kinds count by their mean: with ``M = s + m`` negatives the denominator is the positive and
    ``M (rho mean_s + (1 - rho) mean_m)``, so the share does not depend on how many of each were drawn.

    Parameters
    ----------
    anchor, partner
        Embeddings of unit length.
    support
        Each anchor's own negatives.
    marginal
        Negatives from the marginal.
    tau
        Temperature.
    rho
        Between 0 (InfoNCE) and 1 (support-corrected).
    mask
        Negatives from the marginal that count, the same number for every anchor up to chance; None counts all.

    Source
    ------
    Zaliaduonis et al. 2026 (arXiv 2606.04280), mixed negatives.
    """
    positive = jnp.sum(anchor * partner, axis=-1) / tau
    near, far = _cosines(anchor, support) / tau, _cosines(anchor, marginal) / tau
    n_far = jnp.float32(far.shape[1])
    if mask is not None:
        far, n_far = jnp.where(mask, far, _LOWEST), jnp.sum(mask, axis=1)
    total = jnp.log(near.shape[1] + n_far)
    parts = [positive]
    if rho > 0:
        parts.append(jax.nn.logsumexp(near, axis=1) + jnp.log(rho / near.shape[1]) + total)
    if rho < 1:
        parts.append(jax.nn.logsumexp(far, axis=1) + jnp.log((1 - rho) / n_far) + total)
    return jax.nn.logsumexp(jnp.stack(parts), axis=0) - positive


def _cosines(
    anchor: Float[Array, "n k"], negatives: Float[Array, "m k"] | Float[Array, "n m k"]
) -> Float[Array, "n m"]:
    if negatives.ndim == 2:
        return anchor @ negatives.T
    return jnp.einsum("nk,nmk->nm", anchor, negatives)


def two_view_info_nce(first: Float[Array, "n k"], second: Float[Array, "n k"], *, tau: float) -> Float[Array, ""]:
    """Return the mean loss over both views of a batch: each is an anchor, the other ``2n - 2`` views are negatives.

    The value and gradient of NT-Xent, with work shared that automatic differentiation repeats: the cosines form one
    symmetric matrix, so one exponential of it serves all anchors, and the gradient is one more product with it. Where
    ``2 / tau`` would leave the range of float32 the largest cosine is taken off row by row instead.

    Parameters
    ----------
    first, second
        Embeddings of unit length; row i of one is the partner of row i of the other.
    tau
        Temperature.

    Source
    ------
    Chen et al. 2020 (arXiv 2002.05709).
    """
    if 2.0 / tau > _SAFE:
        both, partners = jnp.concatenate([first, second]), jnp.concatenate([second, first])
        itself = jnp.eye(len(both), dtype=bool)
        cosines = jnp.where(itself, _LOWEST, both @ both.T / tau)
        return jnp.mean(jax.nn.logsumexp(cosines, axis=1) - jnp.sum(both * partners, axis=1) / tau)
    return _symmetric(first, second, tau)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _symmetric(first: Float[Array, "n k"], second: Float[Array, "n k"], tau: float) -> Float[Array, ""]:
    both = jnp.concatenate([first, second])
    rows = _block_rows(len(both))
    if rows < len(both):
        total, _ = _by_blocks(both, tau, rows, gradient=False)
    else:
        total = jnp.sum(_shares(both, both, 0, tau), axis=1)
    return _value(first, second, total, tau)


def _symmetric_forward(first: Float[Array, "n k"], second: Float[Array, "n k"], tau: float):
    both = jnp.concatenate([first, second])
    rows = _block_rows(len(both))
    if rows < len(both):
        total, pull = _by_blocks(both, tau, rows, gradient=True)
    else:
        shares = _shares(both, both, 0, tau)
        total = jnp.sum(shares, axis=1)
        weighted = both / total[:, None]
        # One product for both parts of the gradient, see `_by_blocks`.
        sums = shares @ jnp.concatenate([both, weighted], axis=1)
        k = both.shape[1]
        pull = sums[:, :k] / total[:, None] + sums[:, k:]
    # The gradient costs one product more than the value and frees the matrix; what is kept is as small as the input.
    return _value(first, second, total, tau), (pull, first, second)


def _symmetric_backward(tau: float, kept, slope: Float[Array, ""]):
    pull, first, second = kept
    n = len(first)
    scale = slope / (tau * 2 * n)
    return (pull[:n] - 2.0 * second) * scale, (pull[n:] - 2.0 * first) * scale


_symmetric.defvjp(_symmetric_forward, _symmetric_backward)


def _value(
    first: Float[Array, "n k"], second: Float[Array, "n k"], total: Float[Array, " both"], tau: float
) -> Float[Array, ""]:
    return jnp.mean(jnp.log(total)) + (1.0 - jnp.mean(jnp.sum(first * second, axis=1))) / tau


def _shares(rows: Float[Array, "r k"], both: Float[Array, "n k"], start, tau: float) -> Float[Array, "r n"]:
    """Return ``exp((cosine - 1) / tau)`` of rows `start`, `start` + 1, ... with all, and 0 of each with itself.

    Cosines are at most 1, so every exponential is at most 1, and none is lost.
    """
    itself = (start + jnp.arange(len(rows)))[:, None] == jnp.arange(len(both))[None, :]
    if both.shape[1] <= 4:  # few terms are added in the loop of the exponential: the product would be a pass of its own
        cosines = sum(rows[:, i, None] * both[None, :, i] for i in range(both.shape[1]))
    else:
        cosines = rows @ both.T
    return jnp.where(itself, 0.0, jnp.exp((cosines - 1.0) / tau))


def _block_rows(n: int) -> int:
    """Return how many rows of the matrix are computed at a time: all, where it is small for the machine's memory."""
    whole, block = (_WHOLE_CPU, _BLOCK_CPU) if jax.default_backend() == "cpu" else (_BLOCK, _BLOCK)
    return n if n * n <= whole else max(block // n, 1)


def _by_blocks(
    both: Float[Array, "n k"], tau: float, rows: int, *, gradient: bool
) -> tuple[Float[Array, " n"], Float[Array, "n k"]]:
    """Return each row's sum of exponentials and its pull, without ever holding the whole matrix.

    The pull of row i is ``sum_j s_ij (1 / t_i + 1 / t_j) x_j`` with ``t`` the sums: it moves as an anchor, by its own
    softmax, and as a negative of the others, by theirs. The matrix is symmetric, so a block of rows, once it is summed,
    serves its own rows for the first part and all rows for the second: one pass, and the block stays in the cache.
    """
    n, k = both.shape
    blocks = -(-n // rows)
    padded = jnp.pad(both, ((0, blocks * rows - n), (0, 0))).reshape(blocks, rows, k)

    def one(as_negative, given):
        x, start = given
        shares = _shares(x, both, start, tau)
        total = jnp.sum(shares, axis=1)
        if not gradient:
            return as_negative, (total, x)
        real = start + jnp.arange(rows) < n
        inverse = jnp.where(real, 1.0 / total, 0.0)[:, None]
        return as_negative + shares.T @ (x * inverse), (total, shares @ both * inverse)

    as_negative, (total, as_anchor) = jax.lax.scan(one, jnp.zeros_like(both), (padded, jnp.arange(blocks) * rows))
    return total.reshape(-1)[:n], as_anchor.reshape(-1, k)[:n] + as_negative
