"""Random views of 28 x 28 images on the device: one warp for crop, rotation and shear, then contrast, blur, erasing.

What stays the same between two views of an image is what a contrastive loss keeps; each set of changes below is such
a choice. There is no mirroring, which would make one digit of another.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

Views = Literal["all", "crop only", "all but crop"]
SIDE = 28
AREA, ASPECT = (0.25, 1.0), 4 / 3  # of a crop
TURN, SHEAR = 20.0, 0.25  # largest rotation in degrees, and shear
CONTRAST, BRIGHTNESS = (0.4, 1.4), 0.3
BLUR = 1.5  # largest standard deviation, in pixels
ERASED = (0.1, 0.4)  # sides of the erased rectangle over those of the image; half of the images


def view(image: Float[Array, "28 28"], views: Views, key: PRNGKeyArray) -> Float[Array, "28 28"]:
    """Return one random view of an image with values between 0 and 1."""
    crop, turn, tone, blur, erase = jr.split(key, 5)
    linear, shift = jnp.eye(2), jnp.zeros(2)
    if views != "all but crop":
        linear, shift = _crop(crop)
    if views != "crop only":
        linear = linear @ _turn(turn)
    image = _warped(image, linear, shift)
    if views == "crop only":
        return image
    return _erased(_blurred(_toned(image, tone), blur), erase)


def batch_views(images: Float[Array, "n 28 28"], views: Views, key: PRNGKeyArray) -> Float[Array, "n 28 28"]:
    """Return one view of every image."""
    return jax.vmap(lambda image, key: view(image, views, key))(images, jr.split(key, len(images)))


def _crop(key: PRNGKeyArray) -> tuple[Float[Array, "2 2"], Float[Array, " 2"]]:
    """Return scales and shift of a random resized crop, in units of half a side."""
    area, aspect, place = jr.split(key, 3)
    a = jr.uniform(area, minval=AREA[0], maxval=AREA[1])
    ratio = jnp.exp(jr.uniform(aspect, minval=-1.0, maxval=1.0) * jnp.log(ASPECT))
    sides = jnp.minimum(jnp.sqrt(a * jnp.stack([ratio, 1 / ratio])), 1.0)
    return jnp.diag(sides), jr.uniform(place, (2,), minval=-1.0, maxval=1.0) * (1 - sides)


def _turn(key: PRNGKeyArray) -> Float[Array, "2 2"]:
    """Return a random rotation and shear."""
    first, second = jr.split(key)
    angle = jnp.deg2rad(jr.uniform(first, minval=-TURN, maxval=TURN))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    shear = jr.uniform(second, minval=-SHEAR, maxval=SHEAR)
    return jnp.array([[cos, -sin], [sin, cos]]) @ jnp.array([[1.0, 0.0], [shear, 1.0]])


def _warped(
    image: Float[Array, "28 28"], linear: Float[Array, "2 2"], shift: Float[Array, " 2"]
) -> Float[Array, "28 28"]:
    """Return the image read at ``linear p + shift`` for every place p, bilinearly; outside it is black."""
    half = (SIDE - 1) / 2
    axis = jnp.arange(SIDE) / half - 1
    places = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij")).reshape(2, -1)
    read = (linear @ places + shift[:, None] + 1) * half
    found = jax.scipy.ndimage.map_coordinates(image, list(read), order=1, mode="constant")
    return found.reshape(SIDE, SIDE)


def _toned(image: Float[Array, "28 28"], key: PRNGKeyArray) -> Float[Array, "28 28"]:
    first, second = jr.split(key)
    contrast = jr.uniform(first, minval=CONTRAST[0], maxval=CONTRAST[1])
    return jnp.clip(contrast * image + jr.uniform(second, minval=0.0, maxval=BRIGHTNESS), 0.0, 1.0)


def _blurred(image: Float[Array, "28 28"], key: PRNGKeyArray) -> Float[Array, "28 28"]:
    """Return the image after a Gaussian filter of random width: one matrix for rows and columns."""
    sigma = jr.uniform(key, minval=0.1, maxval=BLUR)
    apart = jnp.arange(SIDE)[:, None] - jnp.arange(SIDE)[None, :]
    weights = jnp.exp(-0.5 * (apart / sigma) ** 2)
    weights = weights / jnp.sum(weights, axis=1, keepdims=True)
    return weights @ image @ weights.T


def _erased(image: Float[Array, "28 28"], key: PRNGKeyArray) -> Float[Array, "28 28"]:
    """Return the image, in half of the cases with a black rectangle in it."""
    whether, sides, place = jr.split(key, 3)
    side = jr.uniform(sides, (2,), minval=ERASED[0], maxval=ERASED[1]) * SIDE
    corner = jr.uniform(place, (2,)) * (SIDE - side)
    at = jnp.arange(SIDE)
    rows, columns = ((at >= corner[i]) & (at < corner[i] + side[i]) for i in range(2))
    return jnp.where(jr.bernoulli(whether) & rows[:, None] & columns[None, :], 0.0, image)
