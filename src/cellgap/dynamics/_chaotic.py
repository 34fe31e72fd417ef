"""Known laws of one long trajectory: Lorenz-96 and a chain of Rössler type."""

import numpy as np
from jaxtyping import Float

from cellgap.dynamics._systems import Starts, System, names_of, normal_draw, refuse_small
from cellgap.errors import ConfigError

_BURN_IN = 1000
_START_SD = 0.01


def lorenz96(dim: int = 10, forcing: float = 10.0) -> System:
    """Return Lorenz-96: ``dx_i = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F``, indices around a ring.

    To be seen as published: one trajectory of 1,000 points, after 1,000 points of burn-in, from near 0::

        lorenz96().simulate(1, 0.1 * np.arange(1000), seed=0, noise=0.1)

    Parameters
    ----------
    dim
        Number of variables, at least 4.
    forcing
        The F; chaotic above about 8, for the irregular sampling 5 is usual.

    Returns
    -------
    system
        Each variable has three regulators, at distances -2, -1 and +1, and decays. Starts outside the distribution lie
        around the resting point ``x = F``, far from the attractor, and have no burn-in.

    Raises
    ------
    ConfigError
        There are too few variables.

    Source
    ------
    E. N. Lorenz, Predictability: a problem partly solved (1996); sampling as in Bellot et al. (ICLR 2022).
    """
    refuse_small("Lorenz-96", dim, 4)
    i = np.arange(dim)
    after, before, second = (i + 1) % dim, (i - 1) % dim, (i - 2) % dim

    def rhs(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        return (x[:, after] - x[:, second]) * x[:, before] - x + forcing

    def draw(rng: np.random.Generator, n: int, starts: Starts) -> Float[np.ndarray, "n d"]:
        if starts == "in":
            return rng.normal(0.0, _START_SD, (n, dim))
        return rng.normal(forcing, 0.5 * abs(forcing), (n, dim))

    adjacency = np.zeros((dim, dim), bool)
    for regulator in (after, before, second):
        adjacency[regulator, i] = True
    return System("lorenz96", rhs, adjacency, names_of(dim), draw, burn_in=_BURN_IN)


def rossler(dim: int = 10, scale: float = 1.0) -> System:
    """Return the hyperchaotic chain of Rössler type.

    ``dx_1 = a x_1 - x_2``; ``dx_i = sin x_{i-1} - sin x_{i+1}``; ``dx_{p-1} = x_{p-2}``;
    ``dx_p = e + b x_p (x_{p-1} - c)`` with a = 0, e = 0.1, b = 4, c = 2.
    To be seen as published: one trajectory of 1,000 points, after 1,000 points of burn-in, from near 0::

        rossler(scale=400.0).simulate(1, 0.1 * np.arange(1000), seed=0)

    Parameters
    ----------
    dim
        Number of variables p, at least 4.
    scale
        Factor of all variables: the law is that of ``scale * x``. From near 0 the chain stays within a few 0.01,
        which is why the published data are multiplied by 400.

    Returns
    -------
    system
        Starts are normal with deviation ``0.01 scale``, ten times that outside the distribution, without burn-in.

    Raises
    ------
    ConfigError
        There are too few variables, or the scale is not positive.

    Notes
    -----
    Without the noise that the published simulator adds to the derivatives, a chain that starts near 0 swings nearly
    linearly: its network can be found by linear methods.

    Source
    ------
    O. E. Rössler (1979); chain, constants and sampling as in Bellot et al. (ICLR 2022).
    """
    refuse_small("The Rössler chain", dim, 4)
    if not scale > 0:
        raise ConfigError(f"the scale of a Rössler chain is positive, found {scale!r}.")
    a, e, b, c = 0.0, 0.1, 4.0, 2.0

    def rhs(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        x = x / scale
        dx = np.empty_like(x)
        wave = np.sin(x)
        dx[:, 0] = a * x[:, 0] - x[:, 1]
        dx[:, 1:-2] = wave[:, :-3] - wave[:, 2:-1]
        dx[:, -2] = x[:, -3]
        dx[:, -1] = e + b * x[:, -1] * (x[:, -2] - c)
        return scale * dx

    adjacency = np.zeros((dim, dim), bool)
    adjacency[1, 0] = adjacency[dim - 3, dim - 2] = adjacency[dim - 2, dim - 1] = True
    for i in range(1, dim - 2):
        adjacency[[i - 1, i + 1], i] = True
    draw = normal_draw(_START_SD * scale, 10 * _START_SD * scale, dim)
    return System("rossler", rhs, adjacency, names_of(dim), draw, burn_in=_BURN_IN)
