"""Samplers that treat all directions alike, seen through their eigenvalues on spherical harmonics."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cellgap.embed.sphere._asymptotic import refuse_cold
from cellgap.embed.sphere._polar import polar_rule
from cellgap.embed.sphere._samplers import AbstractZonalSampler, VonMisesFisher
from cellgap.errors import ConfigError, DataError

_TIE = 1e-12


def zonal_eigenvalues(
    density_or_sampler: AbstractZonalSampler | Callable[[Any], Any], k: int, degrees: int | Sequence[int]
) -> Float[np.ndarray, " l"]:
    """Return what the sampler multiplies spherical harmonics of each degree by, when they are averaged over partners.

    Degree 0 has 1, degree 1 the mean cosine.

    Parameters
    ----------
    density_or_sampler
        A zonal sampler, or the density of a partner at cosines, relative to the surface measure; smooth, and scaled
        here to integrate to 1.
    k
        Dimension of the space around the sphere, at least 2.
    degrees
        Degrees; a number n stands for 0 to n. They should stay below about 500, where the quadrature ends.

    Raises
    ------
    ConfigError
        k is below 2.
    DataError
        The density is negative somewhere, or zero everywhere.

    Source
    ------
    Funk-Hecke formula with Gegenbauer polynomials scaled to 1 at 1; Müller 1966 (Spherical Harmonics), theorem 6.
    """
    if k < 2:
        raise ConfigError(f"zonal laws need a sphere of R^2 or more, found k={k}.")
    wanted = list(range(degrees + 1)) if isinstance(degrees, int) else [int(d) for d in degrees]
    if isinstance(density_or_sampler, AbstractZonalSampler):
        cosines, weights = polar_rule(k, density_or_sampler.least)
        density = np.exp(density_or_sampler.log_density(cosines, k))
    else:
        cosines, weights = polar_rule(k)
        density = np.asarray(density_or_sampler(cosines), np.float64)
        if not (np.isfinite(density).all() and (density >= 0).all() and density.any()):
            raise DataError("a density is finite, nowhere negative and somewhere positive.")
        density = density / np.sum(weights * density)
    mass, found = weights * density, {0: 1.0}
    before, now = np.ones_like(cosines), cosines
    for degree in range(1, max(wanted, default=0) + 1):
        found[degree] = float(mass @ now)
        after = ((2 * degree + k - 2) * cosines * now - degree * before) / (degree + k - 2)
        before, now = now, after
    return np.array([found[degree] for degree in wanted])


def prefers_isometries(
    sampler: AbstractZonalSampler | Callable[[Any], Any], k: int, tau: float, max_degree: int = 60
) -> tuple[bool, Float[np.ndarray, " l"]]:
    """Return whether orthogonal maps are shown to be global minimisers of the asymptotic loss under a zonal sampler.

    They are if ``d_l``, the eigenvalue of the sampler less that of the von Mises-Fisher law of concentration
    ``1/tau``, is largest at l = 1; no other map is one if it is so strictly. The condition is sufficient only: where it
    fails nothing is said. Missing support does not matter to it.

    Parameters
    ----------
    sampler
        A zonal sampler, or a density as for `zonal_eigenvalues`.
    k
        Dimension of the space around the sphere, at least 2.
    tau
        Temperature.
    max_degree
        Last degree looked at; eigenvalues of a density tend to 0, and so do the differences.

    Returns
    -------
    verdict
        True if no difference exceeds that of degree 1.
    differences
        ``d_0, d_1, ...``; the first is 0.

    Raises
    ------
    ConfigError
        The temperature is not positive, or k is below 2.
    DataError
        The density is negative somewhere, or zero everywhere.

    Source
    ------
    Derived for this library: the cross-entropy with the von Mises-Fisher law is least at the identity, and the rest of
    the loss is ``-(1/tau) sum_l d_l |h_l|^2`` with the degree-l parts of h, whose squared norms sum to 1.
    """
    refuse_cold(tau)
    found = zonal_eigenvalues(sampler, k, max_degree) - zonal_eigenvalues(VonMisesFisher(1.0 / tau), k, max_degree)
    return bool(found[1] >= found.max() - _TIE), found
