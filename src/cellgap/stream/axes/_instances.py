"""Rows whose first axis is known, of the kinds on which one-pass methods differ."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

Kind = Literal["spikes", "few", "both", "mixed"]


class Instance(NamedTuple):
    """Rows in random order.

    Parameters
    ----------
    rows
        (rows, genes).
    axis
        The first right singular vector, computed from the rows, (genes,).
    gap
        First eigenvalue over the second, computed from the rows.
    """

    rows: Float[np.ndarray, "rows genes"]
    axis: Float[np.ndarray, " genes"]
    gap: float


def known_axis(
    kind: Kind, gap: float, seed: int, *, n: int = 4000, d: int = 400, heavy: int = 40, tilt: float = 0.3,
    noise: float = 0.01,
) -> Instance:  # fmt: skip
    """Return rows with a known first axis.

    Parameters
    ----------
    kind
        "spikes": the axis is in light rows, beside heavy rows that are orthogonal to one another. "few": it is one
        heavy row, light rows share another direction. "both": it is in six heavy rows, beside orthogonal heavy rows
        and a light direction. "mixed": half in ten heavy rows, half in light rows, the halves tilted against each
        other.
    gap
        First eigenvalue over the second, about.
    seed
        Of directions, coefficients, noise and order.
    n, d, heavy
        Rows, genes, and orthogonal heavy rows.
    tilt
        Of the halves of "mixed".
    noise
        Standard deviation of the entries of every light row.
    """
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(d, heavy + 3)))[0].T
    axis, other, third, spikes = basis[0], basis[1], basis[2], basis[3:]
    energy = float(n)

    def along(direction: np.ndarray, amount: float, count: int) -> np.ndarray:
        x = rng.normal(size=count)
        return np.outer(x * np.sqrt(amount / (x @ x)), direction)

    def equal(direction: np.ndarray, amount: float, count: int) -> np.ndarray:
        return np.outer(rng.choice([-1.0, 1.0], count) * np.sqrt(amount / count), direction)

    if kind == "spikes":
        large = spikes * np.sqrt(energy / gap)
        light = along(axis, energy, n - len(large))
    elif kind == "few":
        large = equal(axis, energy, 1)
        light = along(other, energy / gap, n - 1)
    elif kind == "both":
        large = np.concatenate([equal(axis, energy, 6), spikes * np.sqrt(energy / gap)])
        light = along(other, energy / gap, n - len(large))
    else:
        half = 0.5 * energy * (1 + tilt**2)
        one, two = (axis + tilt * other) / np.hypot(1, tilt), (axis - tilt * other) / np.hypot(1, tilt)
        large = equal(two, half, 10)
        light = along(one, half, n - len(large)) + along(third, energy / gap, n - len(large))
    light = light + noise * rng.normal(size=light.shape)
    rows = rng.permutation(np.concatenate([large, light]))
    _, values, turned = np.linalg.svd(rows, full_matrices=False)
    return Instance(rows, turned[0], float((values[0] / values[1]) ** 2))
