"""The space in which pairs are looked at before anything is trained: whitened principal components of the inputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cellgap.embed._cells import Cells
from cellgap.storage import storable

_MOST = 20_000
_SMALL = 1e-6  # of the first axis' variance: smaller ones are rounding


@storable
class Reference(eqx.Module):
    """Axes of the inputs of training cells.

    Parameters
    ----------
    name
        What it is, in words.
    center
        Mean input.
    axes
        Columns are orthonormal, or the identity's.
    spread
        Standard deviation along each.
    """

    name: str = eqx.field(static=True)
    center: Float[Array, " genes"]
    axes: Float[Array, "genes d"]
    spread: Float[Array, " d"]

    @property
    def dim(self) -> int:
        """Number of axes."""
        return len(self.spread)

    def __call__(self, x: Float[Array, "n genes"]) -> Float[Array, "n d"]:
        """Return inputs along the axes, not whitened."""
        return (x - self.center) @ self.axes

    @classmethod
    def of(cls, cells: Cells, dim: int, n: int) -> "Reference":
        """Return the first principal components of the inputs of (at most 20,000 of) the first `n` cells.

        Axes with less than 1e-6 of the variance of the first are left out.
        """
        rows = np.unique(np.linspace(0, n - 1, min(n, _MOST)).astype(int))
        x = np.concatenate([np.asarray(_inputs(cells, jnp.asarray(part))) for part in _blocks(rows)])[: len(rows)]
        center = x.mean(axis=0, dtype=np.float64)
        centered = x - center.astype(np.float32)
        covariance = (centered.T @ centered).astype(np.float64) / max(len(x) - 1, 1)
        values, vectors = np.linalg.eigh(covariance)
        kept = np.flatnonzero(values[::-1] > _SMALL * max(values[-1], 1e-30))[: min(dim, len(x) - 1)]
        values, vectors = values[::-1][kept], vectors[:, ::-1][:, kept]
        signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(kept))])
        return cls(
            f"{len(kept)} principal components of the inputs",
            jnp.asarray(center, jnp.float32),
            jnp.asarray(vectors * signs, jnp.float32),
            jnp.asarray(np.sqrt(values), jnp.float32),
        )


def _blocks(rows: np.ndarray, size: int = 2048) -> list[np.ndarray]:
    """Return rows in blocks of one size, the last one filled up."""
    size = min(size, len(rows))
    filled = np.resize(rows, -(-len(rows) // size) * size)
    filled[len(rows) :] = rows[0]
    return list(filled.reshape(-1, size))


@eqx.filter_jit
def _inputs(cells: Cells, rows: jax.Array) -> jax.Array:
    return cells.inputs(rows)
