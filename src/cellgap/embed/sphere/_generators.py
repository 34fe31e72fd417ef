"""Generators of the synthetic experiment: injective maps from the sphere to observations, with their inverses."""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pydantic import Field

from cellgap.errors import DataError
from cellgap.settings import settings

# Matrices that are drawn to tell a small condition number from a large one, and the part of them that counts as small.
_POOL, _KEPT = 10_000, 0.25


class AbstractGenerator(ABC):
    """An injective map from latents on a sphere to observations.

    Maps work on rows and are pure functions of arrays; whatever is random in them comes from a seed in the settings, so
    that all runs of an experiment see the same map.
    """

    @abstractmethod
    def __call__(self, z: Float[Array, "n k"]) -> Float[Array, "n p"]:
        """Return the observation of every latent."""

    @abstractmethod
    def inverse(self, x: Float[Array, "n p"], k: int) -> Float[Array, "n k"]:
        """Return the latent of every observation.

        Parameters
        ----------
        x
            Observations that this generator made.
        k
            Coordinates of a latent.
        """

    def width(self, k: int) -> int:
        """Return the number of coordinates of an observation."""
        return k


@settings
class IdentityGenerator(AbstractGenerator):
    """Observations are the latents.

    Source
    ------
    Zaliaduonis et al. 2026 (arXiv 2606.04280), synthetic experiments.
    """

    def __call__(self, z: Float[Array, "n k"]) -> Float[Array, "n p"]:
        """Return the latents."""
        return z

    def inverse(self, x: Float[Array, "n p"], k: int) -> Float[Array, "n k"]:
        """Return the observations."""
        return x


@settings
class LinearGenerator(AbstractGenerator):
    """A linear map of full rank to more coordinates.

    The first k rows of the matrix are diagonal with entries uniform on (0, 1), the others are standard normal, as in
    the public code of the source, which adds a random offset; here there is none.

    Parameters
    ----------
    n_out
        Coordinates of an observation, at least those of a latent.
    seed
        Of the matrix.

    Source
    ------
    Zaliaduonis et al. 2026 (arXiv 2606.04280), synthetic experiments: from the sphere in R^3 to R^7.
    """

    n_out: Annotated[int, Field(ge=1)] = 7
    seed: Annotated[int, Field(ge=0)] = 0

    def __call__(self, z: Float[Array, "n k"]) -> Float[Array, "n p"]:
        """Return ``W z``.

        Raises
        ------
        DataError
            The latents have more coordinates than the observations.
        """
        return z @ jnp.asarray(_full_rank(z.shape[-1], self.n_out, self.seed).T, z.dtype)

    def inverse(self, x: Float[Array, "n p"], k: int) -> Float[Array, "n k"]:
        """Return the pseudoinverse of W times x."""
        return x @ jnp.asarray(np.linalg.pinv(_full_rank(k, self.n_out, self.seed)).T, x.dtype)

    def width(self, k: int) -> int:
        """Return the number of coordinates of an observation."""
        return self.n_out


@settings
class SpiralGenerator(AbstractGenerator):
    """The sphere in R^3 twisted about its third axis by an angle in proportion to the third coordinate.

    ``(z_1, z_2)`` turn by ``half_turns pi z_3``; ``z_3`` stays. The two as in the public code of the source.

    Parameters
    ----------
    half_turns
        Half turns from the equator to a pole.

    Source
    ------
    Zaliaduonis et al. 2026 (arXiv 2606.04280), synthetic experiments.
    """

    half_turns: float = 2.0

    def __call__(self, z: Float[Array, "n k"]) -> Float[Array, "n p"]:
        """Return the twisted sphere.

        Raises
        ------
        DataError
            Latents do not have 3 coordinates.
        """
        _need_three(z.shape[-1], "SpiralGenerator")
        return _turned(z, self.half_turns * jnp.pi * z[:, 2])

    def inverse(self, x: Float[Array, "n p"], k: int) -> Float[Array, "n k"]:
        """Return the sphere twisted back."""
        return _turned(x, -self.half_turns * jnp.pi * x[:, 2])


@settings
class PatchesGenerator(AbstractGenerator):
    """The sphere in R^3 cut into slices that turn by different angles, twice, about two axes: it is not continuous.

    Slice ``i = 0, 1, ...`` holds the points with ``|z_3|`` between ``i / slices`` and ``(i + 1) / slices``; it turns
    by ``pi / (slices - i)`` about the third axis. Then the first and third axes change places,
    ``(z_1, z_2, z_3) -> (z_3, z_2, -z_1)``, and slices turn again. As in the public code of the source.

    Parameters
    ----------
    slices
        Number of slices of a half.

    Source
    ------
    Zaliaduonis et al. 2026 (arXiv 2606.04280), synthetic experiments.
    """

    slices: Annotated[int, Field(ge=1)] = 4

    def __call__(self, z: Float[Array, "n k"]) -> Float[Array, "n p"]:
        """Return the cut sphere.

        Raises
        ------
        DataError
            Latents do not have 3 coordinates.
        """
        _need_three(z.shape[-1], "PatchesGenerator")
        once = _turned(z, self._angle(z))
        quarter = jnp.stack([once[:, 2], once[:, 1], -once[:, 0]], axis=1)
        return _turned(quarter, self._angle(quarter))

    def inverse(self, x: Float[Array, "n p"], k: int) -> Float[Array, "n k"]:
        """Return the sphere put together again."""
        # Turns leave the third coordinate as it is, bit for bit, so every point is found in the slice it was in.
        quarter = _turned(x, -self._angle(x))
        once = jnp.stack([-quarter[:, 2], quarter[:, 1], quarter[:, 0]], axis=1)
        return _turned(once, -self._angle(once))

    def _angle(self, z: Float[Array, "n 3"]) -> Float[Array, " n"]:
        slot = jnp.clip(jnp.floor(jnp.abs(z[:, 2]) * self.slices), 0, self.slices - 1)
        return jnp.pi / (self.slices - slot)


@settings
class MLPGenerator(AbstractGenerator):
    """An invertible network: square matrices without offsets, leaky ReLU between them.

    Entries are uniform on (-1, 1), columns have length 1, and of such matrices those with a condition number in the
    lowest quarter are taken.

    Parameters
    ----------
    n_layers
        Number of matrices.
    slope
        Of the leaky ReLU below 0.
    seed
        Of the matrices.

    Source
    ------
    Zimmermann et al. 2021 (arXiv 2102.08850), after Hyvarinen & Morioka 2017, with 3 layers as in the public code of
    Zaliaduonis et al. 2026 (arXiv 2606.04280).
    """

    n_layers: Annotated[int, Field(ge=1)] = 3
    slope: Annotated[float, Field(gt=0, le=1)] = 0.2
    seed: Annotated[int, Field(ge=0)] = 0

    def __call__(self, z: Float[Array, "n k"]) -> Float[Array, "n p"]:
        """Return the network's output."""
        x = z
        for i, weight in enumerate(_well_conditioned(z.shape[-1], self.n_layers, self.seed)):
            if i > 0:
                x = jnp.where(x > 0, x, self.slope * x)
            x = x @ jnp.asarray(weight.T, z.dtype)
        return x

    def inverse(self, x: Float[Array, "n p"], k: int) -> Float[Array, "n k"]:
        """Return the input of the network, layer by layer."""
        z = x
        for i, weight in enumerate(reversed(_well_conditioned(k, self.n_layers, self.seed))):
            if i > 0:
                z = jnp.where(z > 0, z, z / self.slope)
            z = z @ jnp.asarray(np.linalg.inv(weight).T, x.dtype)
        return z


def _turned(z: Float[Array, "n 3"], angle: Float[Array, " n"]) -> Float[Array, "n 3"]:
    """Return points turned about the third axis."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([c * z[:, 0] - s * z[:, 1], s * z[:, 0] + c * z[:, 1], z[:, 2]], axis=1)


def _need_three(k: int, name: str) -> None:
    if k != 3:
        raise DataError(f"{name} is defined on the sphere in R^3, found latents with {k} coordinates.")


@lru_cache(maxsize=32)
def _full_rank(k: int, n_out: int, seed: int) -> Float[np.ndarray, "p k"]:
    if n_out < k:
        raise DataError(f"LinearGenerator(n_out={n_out}) cannot be injective on latents with {k} coordinates.")
    rng = np.random.default_rng(seed)
    return np.concatenate([np.diag(rng.uniform(0.0, 1.0, k)), rng.normal(size=(n_out - k, k))])


@lru_cache(maxsize=32)
def _well_conditioned(k: int, n_layers: int, seed: int) -> tuple[Float[np.ndarray, "k k"], ...]:
    pool = np.random.default_rng(seed).uniform(-1.0, 1.0, (_POOL, k, k))
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    condition = np.linalg.cond(pool)
    kept = pool[condition <= np.quantile(condition, _KEPT)]
    return tuple(kept[:n_layers])
