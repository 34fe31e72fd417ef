"""Affine maps of conditions, measured and unmeasured: Gaussian optimal transport, regressed on condition features."""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cellgap.encode import FittedEncoder
from cellgap.ot import bures_map
from cellgap.storage import storable
from cellgap.study import Condition
from cellgap.transport._codes import Codes, Moments
from cellgap.transport._ridge import fit_ridge, groups_of

Start = Literal["identity", "shift", "gaussian"]


def condition_features(encoder: FittedEncoder, condition: Condition) -> Float[np.ndarray, " p"]:
    """Return the features that effects are regressed on: the encoder's flat vector, number of treatments first.

    All are 0 for a control (its context too), so a linear function of them has no effect there.
    """
    vector = np.asarray(encoder.vector(condition), np.float64)
    return np.zeros_like(vector) if condition.is_control else vector


def shrunk_covariance(moments: Moments) -> Float[np.ndarray, "d d"]:
    """Return the treated covariance, shrunk towards that of the matched controls as far as its noise demands.

    ``(1 - w) S_y + w S_x`` with ``w = E|noise of S_y - S_x|^2 / |S_y - S_x|^2`` (Ledoit and Wolf 2004 with the controls as
    target; the noise of a Gaussian sample covariance). Few treated cells give the controls' covariance: a shift.
    """
    difference = ((moments.cov - moments.control_cov) ** 2).sum()
    noise = sum(
        (np.trace(s) ** 2 + (s**2).sum()) / max(n - 1, 1)
        for s, n in ((moments.cov, moments.n), (moments.control_cov, moments.n_control))
    )
    w = 1.0 if difference <= 0 else min(1.0, noise / difference)
    return (1.0 - w) * moments.cov + w * moments.control_cov


def displacement(moments: Moments, center: np.ndarray, start: Start) -> tuple[np.ndarray, np.ndarray]:
    """Return ``shift, linear`` such that the map is ``x + shift + (x - center) linear``, for the cells of a condition."""
    d = len(center)
    if start == "identity":
        return np.zeros(d), np.zeros((d, d))
    linear = np.zeros((d, d))
    if start == "gaussian":
        # A ridge keeps directions without variance in the controls from being stretched without bound.
        ridge = 1e-6 * np.trace(moments.control_cov) / d * np.eye(d)
        a, _ = bures_map(
            moments.control_mean, moments.control_cov + ridge, moments.mean, shrunk_covariance(moments) + ridge
        )
        linear = a - np.eye(d)
    return moments.shift + (center - moments.control_mean) @ linear, linear


@storable
class AffinePath(eqx.Module):
    """The map ``T(x, c) = x + s(c) + (x - center) L(c)`` with `s` and `L` linear in the condition's features.

    Exactly the identity for a control. Source: Gaussian optimal maps (Bures), conditioned as the initialization of
    CondOT (Bunne et al. 2022) but by ridge regression instead of a softmax of similarities.
    """

    center: Float[Array, " d"]
    shift: Float[Array, "p d"]
    linear: Float[Array, "p d d"] | None

    def __call__(self, features: Float[Array, " p"], x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Return the mapped cells."""
        moved = x + features @ self.shift
        if self.linear is None:
            return moved
        return moved + (x - self.center) @ jnp.tensordot(features, self.linear, 1)


def fit_affine_path(codes: Codes, start: Start) -> AffinePath:
    """Return the affine path of a split's training conditions, its penalties chosen by leaving treatments out."""
    moments = codes.moments
    d = codes.space.dim
    features = np.stack([condition_features(codes.encoder, m.condition) for m in moments])
    center = np.mean([m.control_mean for m in moments], axis=0)
    parts = [displacement(m, center, start) for m in moments]
    shifts = np.stack([s for s, _ in parts])
    groups = groups_of([m.condition for m in moments])
    shift = (
        fit_ridge(features, shifts, groups).coefficients if start != "identity" else np.zeros((features.shape[1], d))
    )
    linear = None
    if start == "gaussian":
        # Errors of the linear part count by the displacement they cause on control cells.
        root = np.linalg.cholesky(np.mean([m.control_cov for m in moments], axis=0) + 1e-9 * np.eye(d))
        flat = np.stack([(root.T @ part).ravel() for _, part in parts])
        ridge = fit_ridge(features, flat, groups).coefficients.reshape(-1, d, d)
        linear = jnp.asarray(np.linalg.solve(root.T, ridge), jnp.float32)
    return AffinePath(jnp.asarray(center, jnp.float32), jnp.asarray(shift, jnp.float32), linear)
