"""What a sampler needs of a velocity field: it can be told some attributes of a cell and not others."""

from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class AbstractField(eqx.Module):
    """The velocity ``v(z, t, y)`` that carries noise at time 0 to cells at time 1."""

    @property
    @abstractmethod
    def n_attributes(self) -> int:
        """Number of attributes a cell has."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Dimension of cells."""

    @abstractmethod
    def __call__(
        self,
        z: Float[Array, "n d"],
        t: Float[Array, "#n"],
        labels: Int[Array, "n k"],
        known: Bool[Array, "n k"],
        depth: Float[Array, " n"] | None = None,
    ) -> Float[Array, "n d"]:
        """Return the velocity of every cell.

        Parameters
        ----------
        z
            Cells on their way.
        t
            Time, 0 at the noise and 1 at the cells: one for all, or one a cell.
        labels
            Value of every attribute, as a number.
        known
            Which attributes are told; the others are averaged over.
        depth
            Logarithm of the library of a cell, 0 to 1 over the training cells; None where the field does not read it.
        """


class Told(eqx.Module):
    """Cells with their attributes: what a field is asked about, once or for several sets of known attributes.

    Parameters
    ----------
    field
        The velocity field.
    labels, depth
        See `AbstractField`.
    """

    field: AbstractField
    labels: Int[Array, "n k"]
    depth: Float[Array, " n"] | None = None

    def __call__(
        self, z: Float[Array, "n d"], t: Float[Array, ""], known: Bool[Array, "fields k"]
    ) -> Float[Array, "fields n d"]:
        """Return the velocities for every set of known attributes, in one call of the field.

        Parameters
        ----------
        z, t
            Cells, and one time for all.
        known
            A row a field: the attributes it is told.
        """
        m, n = len(known), len(z)
        if m == 1:
            told = jnp.broadcast_to(known[0], self.labels.shape)
            return self.field(z, t[None], self.labels, told, self.depth)[None]

        def repeated(rows):
            return jnp.concatenate([rows] * m)

        told = jnp.repeat(known, n, axis=0)
        depth = None if self.depth is None else repeated(self.depth)
        out = self.field(repeated(z), t[None], repeated(self.labels), told, depth)
        return out.reshape(m, n, -1)
