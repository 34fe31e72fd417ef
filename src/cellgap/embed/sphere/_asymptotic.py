"""InfoNCE with infinitely many negatives, less ``log M``: its floor, its value at isometries, and at any map."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from cellgap.embed.sphere._bessel import log_partition
from cellgap.errors import ConfigError, DataError

_BLOCK = 1 << 22  # cosines at a time, 32 MB


@dataclass(frozen=True)
class AsymptoticLoss:
    """An asymptotic loss in its two parts.

    Parameters
    ----------
    alignment
        Mean cosine of the embeddings of an anchor and its partner.
    uniformity
        ``E log E exp(h.h'/tau)``, the inner mean over negatives; at least ``log Z_k(1/tau)`` where they are drawn from
        the law of the anchors.
    tau
        Temperature.
    """

    alignment: float
    uniformity: float
    tau: float

    @property
    def value(self) -> float:
        """``uniformity - alignment / tau``."""
        return self.uniformity - self.alignment / self.tau


def loss_floor(k: int, tau: float) -> float:
    """Return ``-1/tau + log Z_k(1/tau)``, which no map goes below: partners coincide and embeddings are uniform.

    Parameters
    ----------
    k
        Dimension of the space around the sphere, at least 2.
    tau
        Temperature.

    Raises
    ------
    ConfigError
        The temperature is not positive, or k is below 2.

    Source
    ------
    Wang & Isola 2020 (arXiv 2005.10242).
    """
    return matched_value(k, tau, 1.0)


def matched_value(k: int, tau: float, alignment: float) -> float:
    """Return the loss of every orthogonal map, ``-alignment/tau + log Z_k(1/tau)``, for uniform anchors.

    Parameters
    ----------
    k
        Dimension of the space around the sphere, at least 2.
    tau
        Temperature.
    alignment
        Mean cosine of an anchor and its partner under the sampler, such as ``mean_cosine(k, kappa)``.

    Raises
    ------
    ConfigError
        The temperature is not positive, or k is below 2.
    """
    refuse_cold(tau)
    return float(log_partition(k, 1.0 / tau)) - alignment / tau


def asymptotic_loss(
    h: Callable[[Any], Any] | None,
    z: Any,
    partner: Any,
    negatives: Any,
    tau: float,
) -> AsymptoticLoss:
    """Return the asymptotic loss of a map, estimated from samples.

    Sums are in float64. Negatives from the marginal give the plain loss, each anchor's own negatives from the support
    of the sampler the support-corrected one. The log of a mean over m negatives lies below its limit by ``O(1/m)``.

    Parameters
    ----------
    h
        The map of JAX arrays, from (n, k) to unit rows (n, d); None: the arrays are embeddings already.
    z, partner
        Anchors and their partners, (n, k).
    negatives
        (m, k) for all anchors, or (n, m, k).
    tau
        Temperature.

    Raises
    ------
    ConfigError
        The temperature is not positive.
    DataError
        The shapes do not match.

    Source
    ------
    Wang & Isola 2020 (arXiv 2005.10242), the limit of many negatives; Zaliaduonis et al. 2026 (arXiv 2606.04280) for
    negatives from the support.
    """
    refuse_cold(tau)
    z, partner, negatives = (jnp.asarray(a) for a in (z, partner, negatives))
    own = negatives.ndim == 3
    if z.shape != partner.shape or negatives.shape[-1] != z.shape[-1] or (own and len(negatives) != len(z)):
        raise DataError(
            f"anchors {z.shape}, partners {partner.shape} and negatives {negatives.shape} do not match: "
            "give (n, k), (n, k), and (m, k) or (n, m, k)."
        )
    mapped = (lambda a: a) if h is None else h
    anchors = np.asarray(mapped(z), np.float64)
    others = np.asarray(mapped(negatives.reshape(-1, negatives.shape[-1])), np.float64)
    others = others.reshape(*negatives.shape[:-1], others.shape[-1])
    alignment = np.mean(np.sum(anchors * np.asarray(mapped(partner), np.float64), axis=1))
    rows = max(1, _BLOCK // negatives.shape[-2])
    logs = [
        _log_mean(anchors[i : i + rows], others[i : i + rows] if own else others, tau)
        for i in range(0, len(anchors), rows)
    ]
    return AsymptoticLoss(float(alignment), float(np.concatenate(logs).mean()), tau)


def refuse_cold(tau: float) -> None:
    """Raise ``ConfigError`` where `tau` is not a temperature."""
    if not (np.isfinite(tau) and tau > 0):
        raise ConfigError(f"a temperature is positive, found tau={tau}.")


def _log_mean(anchors: Float[np.ndarray, "n d"], others: np.ndarray, tau: float) -> Float[np.ndarray, " n"]:
    cosines = anchors @ others.T if others.ndim == 2 else np.einsum("nd,nmd->nm", anchors, others)
    return logsumexp(cosines / tau, axis=1) - np.log(cosines.shape[1])
