"""Losses of maps of S^2 that commute with, or undo, turns around the frozen axis: one-dimensional integrals.

The frozen coordinate is ``c``, the first, and ``s = sqrt(1 - c^2)``; a point is ``(c, s e^{i phi})``. A map takes it to
``(a(c), b(c) e^{i (psi(c) + phi)})``, or without ``phi`` where it drops what varies. Everything is float64 quadrature.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from scipy.special import i0e, logsumexp

from cellgap.embed.sphere._asymptotic import refuse_cold
from cellgap.embed.sphere._bessel import mean_cosine
from cellgap.embed.sphere._samplers import Concentration
from cellgap.errors import ConfigError

_TIE = 1e-13  # losses closer than this differ by rounding

Profile = Callable[[Float[np.ndarray, " q"]], Any]
"""A function of the frozen coordinate."""


def _zero(c: Float[np.ndarray, " q"]) -> Float[np.ndarray, " q"]:
    return np.zeros_like(c)


@dataclass(frozen=True)
class AxialMap:
    """The map ``(c, s e^{i phi}) -> (a(c), b(c) e^{i (psi(c) + phi)})`` of S^2, with ``a^2 + b^2 = 1``.

    Parameters
    ----------
    height
        The function a.
    radius
        The function b.
    phase
        The function psi; it matters only where `turns` is False.
    turns
        Whether the angle phi is kept; False: the image depends on c alone.
    """

    height: Profile
    radius: Profile
    phase: Profile = _zero
    turns: bool = True


@dataclass(frozen=True)
class Stretch:
    """The best map among ``(u, lam v) / |(u, lam v)|``, and what it makes of distances.

    Parameters
    ----------
    rho
        Share of negatives from the support of the pair sampler.
    lam
        The stretch; 1 is the identity, infinity drops the frozen coordinate, 0 all but its sign.
    loss
        Asymptotic, less ``log M``.
    r2
        Of the linear map from embeddings back to latents, pooled over coordinates.
    angle_error
        Mean of ``|z.z' - h.h'|`` over independent pairs; published values are half of it.
    """

    rho: float
    lam: float
    loss: float
    r2: float
    angle_error: float


def stretch_map(lam: float) -> AxialMap:
    """Return ``(u, lam v) / |(u, lam v)|``; an infinite `lam` drops u, 0 keeps its sign only.

    Parameters
    ----------
    lam
        The stretch, from 0 to infinity.

    Raises
    ------
    ConfigError
        The stretch is negative or not a number.
    """
    if not lam >= 0:
        raise ConfigError(f"a stretch is at least 0, found lam={lam}.")
    # Weights of u and v with sum 1, so that both ends are plain numbers.
    weight = 1.0 if np.isinf(lam) else lam / (1.0 + lam)

    def length(c):
        return np.hypot((1.0 - weight) * c, weight * _sine(c))

    return AxialMap(lambda c: (1.0 - weight) * c / length(c), lambda c: weight * _sine(c) / length(c))


def spiral_map(turns: float) -> AxialMap:
    """Return ``(u, s cos(N u), s sin(N u))``: what varies is dropped, and yet the image covers the sphere evenly.

    Parameters
    ----------
    turns
        N, the angle by which the spiral turns over a unit of u.
    """
    return AxialMap(lambda c: c, _sine, lambda c: turns * c, turns=False)


def axial_loss(
    h: AxialMap,
    *,
    tau: float,
    kappa: float,
    concentration: Concentration = "ambient",
    rho: float = 0.0,
    nodes: int = 100,
) -> float:
    """Return the asymptotic loss of a map of S^2 under the sampler `Frozen`, whose frozen coordinate is the first.

    ``-(1/tau) E[h.h~] + E log( rho E_K e^{h.h'/tau} + (1 - rho) E e^{h.h'/tau} )``, where E_K is over the circle that
    shares the coordinate of the anchor.

    Parameters
    ----------
    h
        The map.
    tau
        Temperature.
    kappa, concentration
        Of the sampler, see `Frozen`.
    rho
        Share of negatives from the support: 0 is InfoNCE, 1 the support-corrected loss.
    nodes
        Of the quadrature, on each half of the axis; spirals need about 5 per turn.

    Raises
    ------
    ConfigError
        The temperature is not positive, or `rho` is outside [0, 1].

    Source
    ------
    Zaliaduonis et al. 2026 (arXiv 2606.04280) for the losses; the integrals are derived for this library.
    """
    refuse_cold(tau)
    if not 0 <= rho <= 1:
        raise ConfigError(f"a share of negatives is from 0 to 1, found rho={rho}.")
    c, weights = axis_rule(nodes)
    a, b, psi = (np.asarray(f(c), np.float64) * np.ones_like(c) for f in (h.height, h.radius, h.phase))
    alignment = weights @ (a**2 + b**2 * (_fibre_cosine(c, kappa, concentration) if h.turns else 1.0))
    parts = []
    if rho > 0:
        own = a**2 / tau + (_log_i0(b**2 / tau) if h.turns else b**2 / tau)
        parts.append(np.log(rho) + own)
    if rho < 1:
        heights, radii = np.outer(a, a) / tau, np.outer(b, b) / tau
        exponent = heights + (_log_i0(radii) if h.turns else radii * np.cos(psi[:, None] - psi))
        parts.append(np.log1p(-rho) + logsumexp(exponent, axis=1, b=weights))
    return float(weights @ logsumexp(np.stack(parts), axis=0) - alignment / tau)


def best_stretch(
    *, tau: float, kappa: float, concentration: Concentration = "ambient", rho: float = 0.0, nodes: int = 32
) -> Stretch:
    """Return the stretch with the least loss, its ends included.

    Parameters
    ----------
    tau, kappa, concentration, rho, nodes
        See `axial_loss`.

    Raises
    ------
    ConfigError
        See `axial_loss`.
    """

    def loss(weight: float) -> float:
        found = stretch_map(np.inf if weight == 1.0 else weight / (1.0 - weight))
        return axial_loss(found, tau=tau, kappa=kappa, concentration=concentration, rho=rho, nodes=nodes)

    grid = np.linspace(0.0, 1.0, 41)
    values = [loss(weight) for weight in grid]
    i = int(np.argmin(values))
    bounds = (grid[max(i - 1, 0)], grid[min(i + 1, 40)])
    inner: Any = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    weight, least = (float(inner.x), float(inner.fun)) if inner.fun < values[i] - _TIE else (float(grid[i]), values[i])
    lam = float(np.inf) if weight == 1.0 else weight / (1.0 - weight)
    return Stretch(float(rho), lam, least, stretch_r2(lam), stretch_angle_error(lam))


def stretch_table(
    rhos: Iterable[float], *, tau: float, kappa: float, concentration: Concentration = "ambient"
) -> tuple[Stretch, ...]:
    """Return the best stretch for every share of negatives from the support.

    Parameters
    ----------
    rhos
        Shares.
    tau, kappa, concentration
        See `axial_loss`.

    Raises
    ------
    ConfigError
        See `axial_loss`.
    """
    return tuple(best_stretch(tau=tau, kappa=kappa, concentration=concentration, rho=rho) for rho in rhos)


def stretch_r2(lam: float) -> float:
    """Return the share of the variance of latents that the best linear map of a stretched embedding explains.

    Parameters
    ----------
    lam
        The stretch, from 0 to infinity.
    """
    c, weights = axis_rule(400)
    h = stretch_map(lam)
    explained = 0.0
    for latent, image in ((c, h.height(c)), (_sine(c), h.radius(c))):
        energy = weights @ image**2
        # Means are 0 by symmetry, and the three energies of the latents sum to 1.
        explained += (weights @ (latent * image)) ** 2 / energy if energy > 0 else 0.0
    return float(explained)


def stretch_angle_error(lam: float) -> float:
    """Return the mean of ``|z.z' - h.h'|`` over independent pairs for a stretched embedding.

    Parameters
    ----------
    lam
        The stretch, from 0 to infinity.
    """
    c, weights = axis_rule(400)
    h = stretch_map(lam)
    a, b = h.height(c), h.radius(c)
    offset = np.abs(np.outer(c, c) - np.outer(a, a))
    swing = np.abs(np.outer(_sine(c), _sine(c)) - np.outer(b, b))
    # Mean of |p + q cos delta| over delta.
    beyond = offset >= swing
    ratio = np.where(beyond, 0.0, offset / np.where(beyond, 1.0, swing))
    within = (2.0 / np.pi) * (offset * np.arcsin(ratio) + swing * np.sqrt(1.0 - ratio**2))
    return float(weights @ np.where(beyond, offset, within) @ weights)


def axis_rule(nodes: int) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " q"]]:
    """Return cosines and weights for the mean over one coordinate of S^2, which is uniform on [-1, 1].

    Gauss-Legendre in the angle, where square roots at the poles are smooth, on each half, so that folds are too.

    Parameters
    ----------
    nodes
        On each half.
    """
    x, w = np.polynomial.legendre.leggauss(nodes)
    angles = 0.25 * np.pi * (1.0 + x)
    cosines, weights = np.cos(angles), 0.125 * np.pi * w * np.sin(angles)
    return np.concatenate([cosines, -cosines]), np.concatenate([weights, weights])


def _sine(c: Float[np.ndarray, " q"]) -> Float[np.ndarray, " q"]:
    return np.sqrt((1.0 - c) * (1.0 + c))


def _fibre_cosine(c: Float[np.ndarray, " q"], kappa: float, concentration: Concentration) -> Any:
    return mean_cosine(2, kappa * (1.0 - c) * (1.0 + c) if concentration == "ambient" else np.full_like(c, kappa))


def _log_i0(x: np.ndarray) -> np.ndarray:
    return x + np.log(i0e(x))
