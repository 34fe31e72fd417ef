"""A donor's vector, rounded to a lattice and clipped so that its bounds hold exactly."""

import numpy as np
from jaxtyping import Float, Int

from cellgap.errors import ConfigError
from cellgap.stream.release._bounds import DonorBounds

_FINEST = 2**50


def to_lattice(vector: Float[np.ndarray, " features"], bounds: DonorBounds) -> Int[np.ndarray, " features"]:
    """Return a donor's vector in lattice units: see `to_lattice_many`."""
    return to_lattice_many(np.asarray(vector)[None], bounds)[0]


def to_lattice_many(
    vectors: Float[np.ndarray, "donors features"], bounds: DonorBounds
) -> Int[np.ndarray, "donors features"]:
    """Return the vectors of donors in lattice units, within the bounds in exact integers.

    Coordinates are clipped to `linf` (where it is given), the vector is shortened to `l2` and `l1`, divided by the
    lattice step and truncated toward zero, which raises no norm. That happens in floats and may miss by a unit;
    afterward the sums of squares and sizes are checked in integers, and the largest coordinate moves toward zero, one
    unit at a time, until they hold.

    Coordinates that are not finite, and negative ones where the bounds say that there are none, become 0: an error
    would tell who is in the data.

    Parameters
    ----------
    vectors
        One vector a donor, in the unit of the bounds, (donors, features).
    bounds
        Bounds and lattice.

    Returns
    -------
    Int[np.ndarray, "donors features"]
        int64, each row u with ``sum u^2 <= k2^2``, ``|u_j| <= kinf`` and, where `l1` is given, ``sum |u_j| <= k1``.

    Raises
    ------
    ConfigError
        The lattice is so fine that 64-bit integers and doubles cannot hold it (more than 2^50 steps to the bound).
    """
    if bounds.k2 > _FINEST:
        raise ConfigError("The lattice is too fine for its bound: choose one with l2 / lattice below 2^50.")
    found = np.array(vectors, np.float64)
    found[~np.isfinite(found)] = 0.0
    if not bounds.signed:
        np.maximum(found, 0.0, out=found)
    if bounds.linf is not None:
        np.clip(found, -bounds.linf, bounds.linf, out=found)
    if found.size == 0:
        return np.zeros(found.shape, np.int64)

    # Divided by its largest coordinate, no vector's norm can overflow.
    largest = np.abs(found).max(axis=1, keepdims=True)
    shape = found / np.where(largest > 0.0, largest, 1.0)
    with np.errstate(over="ignore"):
        length = largest / float(bounds.step)
        plain = found / float(bounds.step)
    allowed = bounds.k2 / _at_least_one(np.sqrt((shape**2).sum(axis=1, keepdims=True)))
    if bounds.k1 is not None:
        allowed = np.minimum(allowed, bounds.k1 / _at_least_one(np.abs(shape).sum(axis=1, keepdims=True)))
    # What fits is not scaled, so that rounding takes no unit from vectors that lie on the bound.
    scaled = np.where(length <= allowed * (1.0 + 1e-12), plain, shape * np.minimum(length, allowed))
    units = np.clip(np.trunc(scaled).astype(np.int64), -bounds.kinf, bounds.kinf)

    # Squares add up to hardly more than k2^2 here; where int64 might not hold that, Python integers do.
    wide = bounds.k2 >= 2**30
    squares = _squares(units, wide)
    sizes = np.abs(units).sum(axis=1)
    for row in np.flatnonzero(_too_long(squares, sizes, bounds)):
        _shrink(units[row], int(squares[row]), int(sizes[row]), bounds)
    return units


def _at_least_one(norm: np.ndarray) -> np.ndarray:
    # A vector whose largest coordinate is 1 has no smaller norm; that of a vector of zeros does not matter.
    return np.maximum(norm, 1.0)


def _squares(units: Int[np.ndarray, "donors features"], wide: bool) -> np.ndarray:
    if wide:
        return np.array([sum(x * x for x in row) for row in units.tolist()], object)
    return (units * units).sum(axis=1)


def _too_long(squares: np.ndarray, sizes: np.ndarray, bounds: DonorBounds) -> np.ndarray:
    long = (squares > bounds.k2**2).astype(bool)
    return long if bounds.k1 is None else long | (sizes > bounds.k1)


def _shrink(row: Int[np.ndarray, " features"], square: int, size: int, bounds: DonorBounds) -> None:
    while square > bounds.k2**2 or (bounds.k1 is not None and size > bounds.k1):
        j = int(np.argmax(np.abs(row)))
        value = int(row[j])
        row[j] = value - (1 if value > 0 else -1)
        square -= 2 * abs(value) - 1
        size -= 1
