"""Three encoders of 28 x 28 images with about as many parameters each: a residual CNN, a vision transformer, an MLP.

Each maps images (n, 28, 28) to features (n, 64), which are probed; a head of two layers on them makes the embedding.
Normalization is over channels or features of one image, so no image depends on its batch.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from cellgap.embed._loss import normalized
from cellgap.nn import MLP, Linear

Architecture = Literal["ResNet", "ViT", "MLP"]
SIDE, FEATURES, EMBEDDING = 28, 64, 32


class Norm(eqx.Module):
    """Mean 0 and variance 1 over the last axis, times a learnt scale, plus a learnt offset."""

    scale: Float[Array, " c"]
    offset: Float[Array, " c"]

    def __init__(self, width: int):
        self.scale, self.offset = jnp.ones(width), jnp.zeros(width)

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        centered = x - jnp.mean(x, -1, keepdims=True)
        return centered * jax.lax.rsqrt(jnp.mean(centered**2, -1, keepdims=True) + 1e-5) * self.scale + self.offset


class Convolution(eqx.Module):
    """3 x 3, with padding, as one product with the nine shifted inputs.

    The compiler's own convolution took ten times as long inside a loop on a CPU, gradient included.
    """

    kernel: Float[Array, "9*c_in c_out"]
    stride: int = eqx.field(static=True)

    def __init__(self, n_in: int, n_out: int, stride: int = 1, *, key: PRNGKeyArray):
        self.kernel = jr.normal(key, (9 * n_in, n_out)) * jnp.sqrt(2.0 / (9 * n_in))
        self.stride = stride

    def __call__(self, x: Float[Array, "n h w c_in"]) -> Float[Array, "n h2 w2 c_out"]:
        stride, (height, width) = self.stride, x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
        return jnp.concatenate(shifted, axis=-1) @ self.kernel


class ResidualBlock(eqx.Module):
    """Two convolutions, each after norm and ReLU, added to the input (strided and mixed where the shape changes)."""

    norms: tuple[Norm, Norm]
    convolutions: tuple[Convolution, Convolution]
    mix: Linear | None
    stride: int = eqx.field(static=True)

    def __init__(self, n_in: int, n_out: int, stride: int, *, key: PRNGKeyArray):
        first, second, third = jr.split(key, 3)
        self.norms = Norm(n_in), Norm(n_out)
        self.convolutions = Convolution(n_in, n_out, stride, key=first), Convolution(n_out, n_out, key=second)
        self.mix = Linear(n_in, n_out, key=third) if n_in != n_out else None
        self.stride = stride

    def __call__(self, x: Float[Array, "n h w c_in"]) -> Float[Array, "n h2 w2 c_out"]:
        short = x[:, :: self.stride, :: self.stride]
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            x = convolution(jax.nn.relu(norm(x)))
        return x + (short if self.mix is None else self.mix(short))


class ResNet(eqx.Module):
    """Three residual blocks of 16, 32 and 64 channels on 14 x 14, 7 x 7 and 4 x 4 places, then the mean over places."""

    first: Convolution
    blocks: tuple[ResidualBlock, ...]
    last: Norm

    def __init__(self, *, key: PRNGKeyArray):
        keys = jr.split(key, 4)
        self.first = Convolution(1, 16, 2, key=keys[0])
        sizes = ((16, 16, 1), (16, 32, 2), (32, FEATURES, 2))
        self.blocks = tuple(ResidualBlock(*size, key=k) for size, k in zip(sizes, keys[1:], strict=True))
        self.last = Norm(FEATURES)

    def __call__(self, x: Float[Array, "n 28 28"]) -> Float[Array, "n 64"]:
        x = self.first(x[..., None])
        for block in self.blocks:
            x = block(x)
        return jnp.mean(jax.nn.relu(self.last(x)), axis=(1, 2))


class TransformerBlock(eqx.Module):
    """Attention between patches, then a dense part, each after a norm and added to the input."""

    norms: tuple[Norm, Norm]
    mixed: Linear
    out: Linear
    dense: MLP
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, *, key: PRNGKeyArray):
        first, second, third = jr.split(key, 3)
        self.norms = Norm(width), Norm(width)
        self.mixed, self.out = Linear(width, 3 * width, key=first), Linear(width, width, key=second)
        self.dense = MLP((width, 2 * width, width), key=third)
        self.heads = heads

    def __call__(self, x: Float[Array, "n p c"]) -> Float[Array, "n p c"]:
        n, p, c = x.shape
        query, key, value = jnp.moveaxis(self.mixed(self.norms[0](x)).reshape(n, p, 3, self.heads, -1), 2, 0)
        x = x + self.out(jax.nn.dot_product_attention(query, key, value).reshape(n, p, c))
        return x + self.dense(self.norms[1](x))


class ViT(eqx.Module):
    """Sixteen patches of 7 x 7 with learnt positions, two transformer blocks, the mean over patches."""

    patches: Linear
    positions: Float[Array, "16 c"]
    blocks: tuple[TransformerBlock, ...]
    last: Norm

    def __init__(self, *, key: PRNGKeyArray):
        first, second, *keys = jr.split(key, 4)
        self.patches = Linear(49, FEATURES, key=first)
        self.positions = 0.5 * jr.normal(second, (16, FEATURES))
        self.blocks = tuple(TransformerBlock(FEATURES, 4, key=k) for k in keys)
        self.last = Norm(FEATURES)

    def __call__(self, x: Float[Array, "n 28 28"]) -> Float[Array, "n 64"]:
        cut = x.reshape(-1, 4, 7, 4, 7).swapaxes(2, 3).reshape(-1, 16, 49)
        x = self.patches(cut) + self.positions
        for block in self.blocks:
            x = block(x)
        return jnp.mean(self.last(x), axis=1)


class Dense(eqx.Module):
    """Pixels through one hidden layer."""

    layers: MLP

    def __init__(self, *, key: PRNGKeyArray):
        self.layers = MLP((SIDE * SIDE, 96, FEATURES), key=key)

    def __call__(self, x: Float[Array, "n 28 28"]) -> Float[Array, "n 64"]:
        return jax.nn.gelu(self.layers(x.reshape(len(x), -1)), approximate=True)


class ImageEncoder(eqx.Module):
    """Features of an architecture, and the head that training puts on them."""

    body: ResNet | ViT | Dense
    head: MLP

    def __init__(self, architecture: Architecture, *, key: PRNGKeyArray):
        first, second = jr.split(key)
        self.body = {"ResNet": ResNet, "ViT": ViT, "MLP": Dense}[architecture](key=first)
        self.head = MLP((FEATURES, FEATURES, EMBEDDING), key=second)

    def __call__(self, x: Float[Array, "n 28 28"]) -> Float[Array, "n 32"]:
        """Return embeddings of unit length."""
        return normalized(self.head(self.body(x)))


def parameters(encoder: eqx.Module) -> int:
    """Return how many numbers are learnt."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(encoder, eqx.is_inexact_array)))
