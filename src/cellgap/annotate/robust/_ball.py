"""The threat model of a norm ball, cut to the values that features can have."""

from typing import Annotated, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field, model_validator

from cellgap.errors import ConfigError
from cellgap.settings import settings

Norm = Literal["linf", "l2"]
_TINY = 1e-12


@settings
class Ball:
    """All inputs within a distance of the clean one.

    Parameters
    ----------
    norm
        "linf": no feature moves by more than `radius`. "l2": the Euclidean length of the move is at most `radius`.
    radius
        In units of the features. 8/255 is 0.03137 and not the 0.031 of some published numbers.
    low, high
        Least and largest value that a feature can have; None has no bound. Clean inputs lie within.
    """

    norm: Norm
    radius: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _check(self) -> "Ball":
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ConfigError(f"Ball needs low < high, found low={self.low} and high={self.high}.")
        return self

    def region(self) -> "Region":
        """Return the ball as arrays."""
        low = -jnp.inf if self.low is None else self.low
        high = jnp.inf if self.high is None else self.high
        return Region(self.norm, jnp.asarray(self.radius, float), jnp.asarray(low, float), jnp.asarray(high, float))

    def __str__(self) -> str:
        """Return norm and radius in words."""
        return f"{'l_inf' if self.norm == 'linf' else 'l_2'} radius {self.radius:g}"


class Region(eqx.Module):
    """A ball whose numbers are arrays, so that programs are compiled once for all radii; see `Ball`."""

    norm: Norm = eqx.field(static=True)
    radius: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]

    def project(self, moved: Float[Array, "n d"], x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Return moved inputs brought back into the ball around `x` and into the valid domain.

        For l_inf this is the Euclidean projection. For l_2 it is the projection onto the ball, then onto the domain:
        the second only shortens the move, because `x` lies in the domain, so the result is in both.
        """
        if self.norm == "linf":
            return jnp.clip(jnp.clip(moved, x - self.radius, x + self.radius), self.low, self.high)
        move = moved - x
        length = jnp.sqrt(jnp.sum(move**2, -1, keepdims=True))
        return jnp.clip(x + move * jnp.minimum(1.0, self.radius / jnp.maximum(length, _TINY)), self.low, self.high)

    def steepest(self, gradient: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Return the direction of steepest ascent of length 1 in the norm: the sign, or the normalized gradient."""
        if self.norm == "linf":
            return jnp.sign(gradient)
        return gradient / jnp.maximum(jnp.sqrt(jnp.sum(gradient**2, -1, keepdims=True)), _TINY)

    def draw(self, key: PRNGKeyArray, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Return a random start in the ball and in the domain.

        l_inf: uniform. l_2: uniform in the ball; coordinates that would leave the domain are mirrored, then cut. The
        clean input itself has probability 0, where distances from it have no gradient.
        """
        if self.norm == "linf":
            least, most = jnp.maximum(x - self.radius, self.low), jnp.minimum(x + self.radius, self.high)
            return self.project(least + (most - least) * jr.uniform(key, x.shape, x.dtype), x)
        direction, length = jr.split(key)
        ray = self.steepest(jr.normal(direction, x.shape, x.dtype))
        move = ray * self.radius * jr.uniform(length, (len(x), 1), x.dtype) ** (1 / x.shape[-1])
        outside = (x + move < self.low) | (x + move > self.high)
        return self.project(x + jnp.where(outside, -move, move), x)
