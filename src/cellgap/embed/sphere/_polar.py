"""Integrals over the sphere of functions of one cosine, and the law of that cosine."""

import numpy as np
from jaxtyping import Float
from scipy.special import betaln

_PANELS, _NODES = 64, 32
_CELLS = 8192
_LOST = 45.0  # below its largest value by this in log, a density holds less than 1e-16 of the mass


def polar_rule(
    k: int, lowest: float = -1.0, widest: float | None = None
) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " q"]]:
    """Return cosines and weights that integrate over the cap ``a.z >= lowest`` of S^{k-1}.

    Gauss-Legendre panels in the angle, where the integrand is smooth for every k; the surface measure is normalised, so
    that the weights of the whole sphere sum to 1.

    Parameters
    ----------
    k
        Dimension of the space around the sphere, at least 2.
    lowest
        Least cosine.
    widest
        Largest angle; None: the one of `lowest`.
    """
    x, w = np.polynomial.legendre.leggauss(_NODES)
    edges = np.linspace(0.0, np.arccos(lowest) if widest is None else widest, _PANELS + 1)
    half = np.diff(edges)[:, None] / 2.0
    angles = (edges[:-1, None] + half * (1.0 + x)).ravel()
    weights = (half * w).ravel()
    return np.cos(angles), weights * np.exp(log_surface(angles, k))


def log_surface(angles: Float[np.ndarray, "*n"], k: int) -> Float[np.ndarray, "*n"]:
    """Return the log density of the angle between a fixed direction and a uniform point of S^{k-1}."""
    power = (k - 2) * np.log(np.sin(angles)) if k > 2 else np.zeros_like(angles)
    return np.asarray(power - betaln(0.5, 0.5 * (k - 1)))


def angle_table(kappa: float, lowest: float, k: int) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " q"]]:
    """Return the distribution function of the angle of a von Mises-Fisher law cut off below `lowest`, and its angles.

    For drawing by linear interpolation between 8,192 cells, whose masses are exact to 1e-12; between them the
    distribution function is off by less than 1e-6.
    """
    end = float(np.arccos(lowest))

    def log_density(angles):
        with np.errstate(divide="ignore"):
            return kappa * (np.cos(angles) - 1.0) + log_surface(angles, k)

    coarse = np.linspace(0.0, end, 20_001)
    kept = np.nonzero(log_density(coarse) > log_density(coarse[1:]).max() - _LOST)[0]
    edges = np.linspace(coarse[max(kept[0] - 1, 0)], coarse[min(kept[-1] + 1, len(coarse) - 1)], _CELLS + 1)
    x, w = np.polynomial.legendre.leggauss(4)
    half = np.diff(edges)[:, None] / 2.0
    inside = log_density(edges[:-1, None] + half * (1.0 + x))
    mass = (half * w * np.exp(inside - inside.max())).sum(1)
    cumulated = np.concatenate([[0.0], np.cumsum(mass)])
    return cumulated / cumulated[-1], edges
