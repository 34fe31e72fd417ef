"""Sums of a few outer products in many dimensions: their axes without a matrix of all dimensions squared."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_RANK = 1e-13  # of the largest eigenvalue: below it a factor holds rounding only


class Axes(NamedTuple):
    """Eigenpairs, the largest first.

    Parameters
    ----------
    values
        Eigenvalues, (axes,).
    vectors
        Unit vectors as columns, (dimensions, axes).
    """

    values: Float[np.ndarray, " axes"]
    vectors: Float[np.ndarray, "dimensions axes"]


def axes_of(factor: Float[np.ndarray, "dimensions columns"], most: int | None = None) -> Axes:
    """Return the eigenpairs of ``B B'`` that are not rounding; at most so many.

    From the small matrix ``B'B``: eigenvalues are good to 1e-16 of the largest.
    """
    small = factor.T @ factor
    values, turned = np.linalg.eigh((small + small.T) / 2)
    values, turned = values[::-1], turned[:, ::-1]
    keep = values > max(_RANK * max(values[0], 0.0), np.finfo(float).tiny) if len(values) else np.zeros(0, bool)
    if most is not None:
        keep[most:] = False
    values, turned = values[keep], turned[:, keep]
    return Axes(values, factor @ (turned / np.sqrt(values)))


def best_part(factor: Float[np.ndarray, "dimensions columns"], rank: int) -> Float[np.ndarray, "dimensions rank"]:
    """Return a factor of the best part of ``B B'`` of a rank."""
    if factor.shape[1] <= rank:
        return factor
    found = axes_of(factor, rank)
    return found.vectors * np.sqrt(found.values)


def nystrom(product: Float[np.ndarray, "dimensions r"], basis: Float[np.ndarray, "dimensions r"]) -> np.ndarray:
    """Return a factor of ``M G^-1 M'`` with ``M = A Z`` and ``G = Z'M``: never above A, and A where Z spans it."""
    inner = basis.T @ product
    values, turned = np.linalg.eigh((inner + inner.T) / 2)
    keep = values > 1e-10 * max(values[-1], 0.0)
    return product @ (turned[:, keep] / np.sqrt(values[keep]))


def orthonormal(*parts: Float[np.ndarray, "dimensions _"]) -> Float[np.ndarray, "dimensions r"]:
    """Return an orthonormal basis of all that some columns of unit length span."""
    columns = parts[0] if len(parts) == 1 else axes_of(np.concatenate(parts, axis=1)).vectors
    return np.linalg.qr(columns)[0]


def with_heavy(light: Axes, heavy: Float[np.ndarray, "heavy dimensions"], energy: float, most: int) -> Axes:
    """Return the axes of light rows, known by a few axes, together with heavy rows, known as they are.

    What of the energy is in neither is spread evenly over the other directions, so that a heavy row does not win
    because the light rows are known in part only.

    Parameters
    ----------
    light
        Of the light rows.
    heavy
        Heavy rows, less the mean.
    energy
        Sum of squares of all rows, light and heavy.
    most
        How many axes.
    """
    if not len(heavy):
        return Axes(light.values[:most], light.vectors[:, :most])
    dimensions = heavy.shape[1]
    missing = max(energy - float(light.values.sum()) - float(np.vdot(heavy, heavy)), 0.0)
    level = missing / max(1, dimensions - len(light.values))
    above = np.sqrt(np.maximum(light.values - level, 0.0))
    factor = np.concatenate([light.vectors * above, heavy.T], axis=1)
    found = axes_of(factor, most)
    return Axes(found.values + level, found.vectors)


def signed(components: Float[np.ndarray, "axes dimensions"]) -> Float[np.ndarray, "axes dimensions"]:
    """Return axes whose entry of largest size, the first of equals, is positive."""
    size = np.abs(components)
    # Equal up to rounding counts as equal, so that the sign does not depend on the order of a sum.
    largest = (size >= size.max(axis=1, keepdims=True) * (1 - 1e-9)).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    return components * np.where(signs == 0, 1.0, signs)[:, None]
