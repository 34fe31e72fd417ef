"""Known laws that are linear: sparse and stable, and springs of which only the positions are seen."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from cellgap.dynamics._systems import Starts, System, names_of, refuse_small
from cellgap.errors import ConfigError

_SLOWEST = 0.3  # rate at which the slowest mode of a sparse linear law decays


def sparse_linear(dim: int = 10, density: float = 0.1, seed: int = 0) -> System:
    """Return a sparse linear law ``dx/dt = A x`` that comes to rest at 0.

    Parameters
    ----------
    dim
        Number of variables, at least 2.
    density
        Share of the pairs of two different variables that are edges, rounded; weights are 0.5 to 1.5, of either sign.
    seed
        Of the network and its weights.

    Returns
    -------
    system
        The diagonal of A, the same everywhere, is such that the slowest mode decays at rate 0.3. Starts are standard
        normal; outside the distribution, uniform on [2, 3].

    Raises
    ------
    ConfigError
        A number is out of range.
    """
    refuse_small("A linear law", dim, 2)
    if not 0 <= density <= 1:
        raise ConfigError(f"a density lies in [0, 1], found {density!r}.")
    rng = np.random.default_rng(seed)
    weights = np.zeros((dim, dim))  # (regulator, target), as the adjacency
    regulators, targets = np.nonzero(~np.eye(dim, dtype=bool))
    at = rng.choice(len(targets), round(density * len(targets)), replace=False)
    size, sign = rng.uniform(0.5, 1.5, len(at)), rng.choice([-1.0, 1.0], len(at))
    weights[regulators[at], targets[at]] = size * sign
    signs = np.sign(weights).astype(np.int64)
    weights -= (max(np.linalg.eigvals(weights).real.max(), 0.0) + _SLOWEST) * np.eye(dim)

    def rhs(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        return x @ weights

    def draw(rng: np.random.Generator, n: int, starts: Starts) -> Float[np.ndarray, "n d"]:
        return rng.standard_normal((n, dim)) if starts == "in" else rng.uniform(2.0, 3.0, (n, dim))

    return System("sparse_linear", rhs, signs != 0, names_of(dim), draw, signs=signs)


def second_order(
    dim: int = 4,
    kind: Literal["chain", "random"] = "chain",
    seed: int = 0,
    *,
    damping: float = 0.1,
    at_rest: bool = True,
) -> System:
    """Return masses on springs, ``x'' = -K x - c x'``, of which only the positions are seen.

    A law of first order in the positions cannot describe them: their paths cross.

    Parameters
    ----------
    dim
        Number of masses, at least 2.
    kind
        Springs between neighbours in a chain, or between pairs drawn at random (a tree, and dim / 2 more at most). Each
        mass is also tied to its place.
    seed
        Of the springs and their stiffness, 0.5 to 1.5.
    damping
        The c, not negative.
    at_rest
        Whether masses are let go at rest. Otherwise velocities are drawn like positions, and no method can tell them
        from the first position alone.

    Returns
    -------
    system
        States are positions, then velocities; ``adjacency`` is that of K, which is symmetric. Positions start standard
        normal; outside the distribution, at 2 to 3 on either side.

    Raises
    ------
    ConfigError
        A number or the kind is out of range.
    """
    refuse_small("A law of second order", dim, 2)
    if kind not in ("chain", "random"):
        raise ConfigError(f'springs are a "chain" or "random", found {kind!r}.')
    if not damping >= 0:
        raise ConfigError(f"a damping is not negative, found {damping!r}.")
    rng = np.random.default_rng(seed)
    pairs = [(i, i + 1) for i in range(dim - 1)]
    if kind == "random":
        order = rng.permutation(dim)
        pairs = [(int(order[rng.integers(i)]), int(order[i])) for i in range(1, dim)]
        pairs += [(int(i), int(j)) for i, j in rng.integers(dim, size=(dim // 2, 2)) if i != j]
    stiffness = np.zeros((dim, dim))
    for i, j in pairs:
        stiffness[i, j] = stiffness[j, i] = -rng.uniform(0.5, 1.5)
    adjacency = stiffness != 0
    np.fill_diagonal(stiffness, -stiffness.sum(1) + rng.uniform(0.5, 1.5, dim))

    def rhs(x: Float[np.ndarray, "n s"]) -> Float[np.ndarray, "n s"]:
        position, velocity = x[:, :dim], x[:, dim:]
        return np.concatenate([velocity, -position @ stiffness - damping * velocity], axis=1)

    def draw(rng: np.random.Generator, n: int, starts: Starts) -> Float[np.ndarray, "n s"]:
        position, velocity = rng.standard_normal((2, n, dim))
        if starts == "out":
            position = np.sign(position) * rng.uniform(2.0, 3.0, (n, dim))
        return np.concatenate([position, np.zeros_like(velocity) if at_rest else velocity], axis=1)

    signs = adjacency.astype(np.int64)  # a spring pulls a mass after its neighbour
    return System(f"second_order_{kind}", rhs, adjacency, names_of(dim), draw, order=2, signs=signs)
