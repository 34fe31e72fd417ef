"""The forward pass of MiniLM-L6: fast with numpy, and as one function of arrays for any array library.

BERT with 6 layers, 12 heads and 384 dimensions (Wang et al. 2020, arXiv 2002.10957), the mean of the last layer over
the word pieces of a text, scaled to length 1 (Reimers and Gurevych 2019, arXiv 1908.10084).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

LAYERS, HEADS, DIM = 6, 12, 384
_EPS = 1e-12
# erf(x / sqrt 2) = tanh(x p(x²)); coefficients of p, fitted so that gelu is off by at most 7e-8 before rounding
# (scipy's erf costs 14 ns a number, this 3.5). Beyond x² = 31, where p was not fitted, x p(x²) stays above 9.4, and the
# tanh is 1.
_TANH_OF = (
    0.7978842159904191,
    0.036334283852005114,
    -3.31302652907856e-05,
    -5.524006800402993e-05,
    3.969095591226275e-06,
    -1.3344544955886977e-07,
    1.8055923945139292e-09,
)
# Numbers that gelu works on at a time: they stay in the fast cache of a core over its 16 operations.
_BLOCK = 49_152
# Largest exponent that is taken as it is; a text's sum of 256 of them is far from the end of single precision.
_SAFE = 60.0


class Layer(NamedTuple):
    """Weights of one layer; matrices take rows of a text on their left."""

    qkv: Any
    qkv_bias: Any
    out: Any
    out_bias: Any
    norm1: Any
    norm1_bias: Any
    up: Any
    up_bias: Any
    down: Any
    down_bias: Any
    norm2: Any
    norm2_bias: Any


class Weights(NamedTuple):
    """All weights: embeddings of words (mapped into memory) and of places, and the layers."""

    words: Any
    places: Any
    norm: Any
    norm_bias: Any
    layers: tuple[Layer, ...]


def arranged(arrays: Mapping[str, np.ndarray]) -> Weights:
    """Return the weights of a file as the passes want them.

    Query, key and value are one matrix; the query is divided by the square root of the head's dimension in advance.
    """
    layers = []
    for number in range(LAYERS):
        at = f"encoder.layer.{number}."
        matrices = [arrays[f"{at}attention.self.{name}.weight"] for name in ("query", "key", "value")]
        biases = [arrays[f"{at}attention.self.{name}.bias"] for name in ("query", "key", "value")]
        scale = np.float32((DIM // HEADS) ** -0.5)
        qkv, bias = np.concatenate(matrices).T.copy(), np.concatenate(biases)
        qkv[:, :DIM] *= scale
        bias[:DIM] *= scale
        rest = []
        for name in ("attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense"):
            rest += [np.array(arrays[f"{at}{name}.weight"].T, order="C"), np.array(arrays[f"{at}{name}.bias"])]
        last = [np.array(arrays[f"{at}output.LayerNorm.{name}"]) for name in ("weight", "bias")]
        layers.append(Layer(qkv, bias, *rest, *last))
    places = arrays["embeddings.position_embeddings.weight"] + arrays["embeddings.token_type_embeddings.weight"][0]
    scale, bias = (np.array(arrays[f"embeddings.LayerNorm.{name}"]) for name in ("weight", "bias"))
    return Weights(arrays["embeddings.word_embeddings.weight"], places, scale, bias, tuple(layers))


def forward(xp: Any, erf: Any, weights: Weights, ids: Any, mask: Any) -> Any:
    """Return the embeddings of padded texts, written for any array library.

    Parameters
    ----------
    xp
        ``numpy`` or ``jax.numpy``.
    erf
        Its error function.
    weights
        See ``arranged``.
    ids, mask
        Word pieces of texts, and 1 where one is, 0 where the row is only filled up: ``[texts, length]``.
    """

    def norm(x: Any, scale: Any, bias: Any) -> Any:
        x = x - x.mean(axis=-1, keepdims=True)
        return x / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + _EPS) * scale + bias

    n, length = ids.shape
    x = norm(weights.words[ids] + weights.places[:length], weights.norm, weights.norm_bias)
    hidden = (1 - mask[:, None, None, :]).astype(x.dtype) * -1e9
    for w in weights.layers:
        qkv = (x @ w.qkv + w.qkv_bias).reshape(n, length, 3, HEADS, DIM // HEADS)
        q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        logits = q @ k.transpose(0, 1, 3, 2) + hidden
        shares = xp.exp(logits - logits.max(axis=-1, keepdims=True))
        mixed = (shares / shares.sum(axis=-1, keepdims=True)) @ v
        mixed = mixed.transpose(0, 2, 1, 3).reshape(n, length, DIM)
        x = norm(x + mixed @ w.out + w.out_bias, w.norm1, w.norm1_bias)
        wide = x @ w.up + w.up_bias
        wide = 0.5 * wide * (1 + erf(wide * 0.5**0.5))
        x = norm(x + wide @ w.down + w.down_bias, w.norm2, w.norm2_bias)
    seen = mask[:, :, None].astype(x.dtype)
    mean = (x * seen).sum(axis=1) / seen.sum(axis=1)
    return mean / xp.sqrt((mean * mean).sum(axis=-1, keepdims=True))


def forward_packed(weights: Weights, texts: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, "n 384"]:
    """Return the embeddings of texts in single precision: numpy's pass.

    The word pieces of all texts stand below one another in one matrix, without filling up, and every text attends to
    itself alone: no time goes into padding, and what stands beside a text does not change its embedding.
    """
    ends = np.cumsum([len(text) for text in texts])
    spans = [slice(int(end) - len(text), int(end)) for end, text in zip(ends, texts, strict=True)]
    x = weights.words[np.concatenate(texts)]
    for span in spans:
        x[span] += weights.places[: span.stop - span.start]
    _norm(x, weights.norm, weights.norm_bias)
    rows = len(x)
    qkv = np.empty((rows, 3 * DIM), np.float32)
    mixed, change = np.empty((rows, DIM), np.float32), np.empty((rows, DIM), np.float32)
    wide = np.empty((rows, 4 * DIM), np.float32)
    half = np.float32(0.5)
    for w in weights.layers:
        np.matmul(x, w.qkv, out=qkv)
        qkv += w.qkv_bias
        for span in spans:
            _attend(qkv[span], mixed[span])
        np.matmul(mixed, w.out, out=change)
        change += w.out_bias
        x += change
        _norm(x, w.norm1, w.norm1_bias)
        np.matmul(x, w.up, out=wide)
        _gelu_twice(wide, w.up_bias)
        np.matmul(wide, w.down, out=change)
        change *= half
        change += w.down_bias
        x += change
        _norm(x, w.norm2, w.norm2_bias)
    means = np.stack([x[span].mean(axis=0) for span in spans])
    return means / np.sqrt(np.einsum("nd,nd->n", means, means))[:, None]


def _norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> None:
    x -= x.mean(axis=1, keepdims=True)
    spread = np.einsum("nd,nd->n", x, x)
    x *= (1.0 / np.sqrt(spread / np.float32(DIM) + np.float32(_EPS)))[:, None]
    x *= scale
    x += bias


def _attend(qkv: np.ndarray, out: np.ndarray) -> None:
    length = len(qkv)
    q, k, v = np.transpose(qkv.reshape(length, 3, HEADS, DIM // HEADS), (1, 2, 0, 3))
    shares = q @ k.transpose(0, 2, 1)
    if max(shares.max(), -shares.min()) > _SAFE:
        shares -= shares.max(axis=-1, keepdims=True)
    np.exp(shares, out=shares)
    mixed = shares @ v
    mixed /= shares.sum(axis=-1, keepdims=True)
    out.reshape(length, HEADS, DIM // HEADS)[:] = mixed.transpose(1, 0, 2)


def _gelu_twice(x: np.ndarray, bias: np.ndarray) -> None:
    """Overwrite x with 2 gelu(x + bias)."""
    step = max(1, _BLOCK // x.shape[1])
    square, p = np.empty((2, step, x.shape[1]), np.float32)
    for first in range(0, len(x), step):
        part = x[first : first + step]
        s, t = square[: len(part)], p[: len(part)]
        part += bias
        np.multiply(part, part, out=s)
        np.multiply(s, np.float32(_TANH_OF[-1]), out=t)
        for coefficient in _TANH_OF[-2:0:-1]:
            t += np.float32(coefficient)
            t *= s
        t += np.float32(_TANH_OF[0])
        t *= part
        np.tanh(t, out=t)
        t += np.float32(1.0)
        part *= t
