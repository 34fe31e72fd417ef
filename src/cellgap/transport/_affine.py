"""Affine maps of conditions, measured and unmeasured: Gaussian optimal transport, regressed on condition features."""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial.distance import cdist

from cellgap.encode import FittedEncoder
from cellgap.ot import bures_map
from cellgap.storage import storable
from cellgap.study import Condition
from cellgap.transport._codes import Codes, Moments
from cellgap.transport._ridge import feature_scale, fit_ridge, groups_of, members_of, residuals_without

Start = Literal["identity", "shift", "gaussian"]
# Kernel lengths tried, in units of the median distance between neighboring training conditions.
_LENGTHS = (0.2, 0.5, 1.0, 2.0, 4.0)
_NUGGET = 1e-3
# Noise of effects, and spread of the mean effect, in units of the kernel's variance.
_NOISES = (0.01, 0.1, 0.3, 1.0, 3.0)
_LINEAR_SHARES = (0.0, 1.0, 10.0)
_MEAN_VARIANCE = 100.0


def condition_features(encoder: FittedEncoder, condition: Condition) -> Float[np.ndarray, " p"]:
    """Return the features that effects are regressed on: the encoder's flat vector, number of treatments first.

    All are 0 for a control (its context too), so a linear function of them has no effect there.
    """
    vector = np.asarray(encoder.vector(condition), np.float64)
    return np.zeros_like(vector) if condition.is_control else vector


def shrunk_covariance(moments: Moments) -> Float[np.ndarray, "d d"]:
    """Return the treated covariance, shrunk towards that of the matched controls as far as its noise demands.

    ``(1 - w) S_y + w S_x`` with ``w = E|noise of S_y - S_x|^2 / |S_y - S_x|^2`` (Ledoit and Wolf 2004 with the controls
    as target; the noise of a Gaussian sample covariance). Few treated cells give the controls' covariance: a shift.
    """
    if moments.n < 2:
        # One cell has no covariance, and none that would show how uncertain it is.
        return moments.control_cov
    difference = ((moments.cov - moments.control_cov) ** 2).sum()
    noise = sum(
        (np.trace(s) ** 2 + (s**2).sum()) / max(n - 1, 1)
        for s, n in ((moments.cov, moments.n), (moments.control_cov, moments.n_control))
    )
    w = 1.0 if difference <= 0 else min(1.0, noise / difference)
    return (1.0 - w) * moments.cov + w * moments.control_cov


def displacement(moments: Moments, center: np.ndarray, start: Start) -> tuple[np.ndarray, np.ndarray]:
    """Return ``shift, linear`` of a condition, whose map is ``x + shift + (x - center) linear``."""
    d = len(center)
    if start == "identity":
        return np.zeros(d), np.zeros((d, d))
    linear = np.zeros((d, d))
    if start == "gaussian":
        # A ridge keeps directions without variance in the controls from being stretched without bound; few controls
        # seem to lack variance where they have it, because sample eigenvalues spread with dimensions a cell.
        few = 0.1 * (d / max(moments.n_control - 1, 1)) ** 2
        ridge = (1e-6 + few) * np.trace(moments.control_cov) / d * np.eye(d)
        a, _ = bures_map(
            moments.control_mean, moments.control_cov + ridge, moments.mean, shrunk_covariance(moments) + ridge
        )
        linear = a - np.eye(d)
    return moments.shift + (center - moments.control_mean) @ linear, linear


@storable
class AffinePath(eqx.Module):
    """The map ``T(x, c) = x + s(c) + (x - center) L(c)``, with `s` and `L` regressed on the condition's features.

    A linear trend in the features, plus a Gaussian-kernel interpolation of what the trend leaves at the training
    conditions: where cells were measured the closed form (up to a nugget, which smooths what close conditions share
    under a long kernel), far from there the trend, and for a control the identity. Source: Gaussian optimal maps
    (Bures), conditioned in the spirit of CondOT's initialization (Bunne et al. 2022), by universal kriging.

    Parameters
    ----------
    center
        Mean of the controls, about which the linear parts act.
    scale
        Scale of every feature.
    anchors
        Scaled features of the training conditions.
    length
        Length of the kernel in scaled features.
    shift, linear
        Coefficients of trend features, then of anchors; `linear` is None for pure shifts.
    """

    center: Float[Array, " d"]
    scale: Float[np.ndarray, " p"]
    anchors: Float[np.ndarray, "k p"]
    length: float
    shift: Float[Array, "q d"]
    linear: Float[Array, "q d d"] | None

    def at(self, features: Float[np.ndarray, " p"]) -> tuple[Float[Array, " d"], Float[Array, "d d"] | None]:
        """Return shift and linear part for a condition with these features."""
        weights = _basis(np.asarray(features)[None], self.scale, self.anchors, self.length)[0]
        weights = jnp.asarray(weights, jnp.float32)
        return weights @ self.shift, None if self.linear is None else jnp.tensordot(weights, self.linear, 1)

    def __call__(self, features: Float[np.ndarray, " p"], x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Return the mapped cells."""
        shift, linear = self.at(features)
        return affine(x, self.center, shift, linear)


def affine(
    x: Float[Array, "n d"], center: Float[Array, " d"], shift: Float[Array, " d"], linear: Float[Array, "d d"] | None
) -> Float[Array, "n d"]:
    """Return ``x + shift + (x - center) linear``."""
    return x + shift if linear is None else x + shift + (x - center) @ linear


def fit_affine_path(codes: Codes, start: Start) -> AffinePath:
    """Return the affine path of a split's training conditions.

    Penalty and kernel are chosen by leaving treatments out.
    """
    moments = codes.moments
    features = np.stack([condition_features(codes.encoder, m.condition) for m in moments])
    center = np.mean([m.control_mean for m in moments], axis=0)
    parts = [displacement(m, center, start) for m in moments]
    shifts = np.stack([s for s, _ in parts])
    linears = np.stack([part for _, part in parts]) if start == "gaussian" else None
    return affine_path(features, groups_of([m.condition for m in moments]), center, root_of(moments), shifts, linears)


def root_of(moments: Sequence[Moments]) -> np.ndarray:
    """Return a root of the controls' mean covariance, by which errors of linear parts count as displacements."""
    spread = np.mean([m.control_cov for m in moments], axis=0)
    d = len(spread)
    # The ridge follows the unit of the data: rounding makes eigenvalues of large numbers negative by more than 1e-9.
    return np.linalg.cholesky(spread + max(1e-9 * np.trace(spread) / d, 1e-30) * np.eye(d)).T


def affine_path(
    features: np.ndarray,
    groups: np.ndarray,
    center: np.ndarray,
    root: np.ndarray,
    shifts: np.ndarray,
    linears: np.ndarray | None,
) -> AffinePath:
    """Return the path through the affine maps of conditions.

    Parameters
    ----------
    features, groups
        Features of the conditions, shape (k, p), and the groups to leave out.
    center, root
        Where linear parts act about, and the root of the controls' covariance.
    shifts, linears
        Of the conditions' maps, shapes (k, d) and (k, d, d).
    """
    d, scale = len(center), feature_scale(features)
    length = _best_length(features, shifts, groups, scale)
    linear = None
    if linears is not None:
        targets = np.stack([(root @ part).ravel() for part in linears])
        stacked = _kriged(features, targets, groups, scale, length).reshape(-1, d, d)
        linear = jnp.asarray(np.linalg.solve(root, stacked), jnp.float32)
    return AffinePath(
        jnp.asarray(center, jnp.float32),
        scale,
        features / scale,
        float(length),
        jnp.asarray(_kriged(features, shifts, groups, scale, length), jnp.float32),
        linear,
    )


def kernel_path(
    features: np.ndarray,
    groups: np.ndarray,
    center: np.ndarray,
    root: np.ndarray,
    shifts: np.ndarray,
    linears: np.ndarray | None,
) -> AffinePath:
    """Return the path of affine maps by kernel ridge regression around their mean.

    The kernel is Gaussian plus a share of a linear one. Unlike `affine_path` it does not run through the measured
    maps: they are smoothed. Length, share and noise are those that predict the shifts of left-out groups best, in
    closed form (block inversion); the noise of linear parts is their own. Parameters as in `affine_path`.
    """
    d, scale = len(center), feature_scale(features)
    length, share, noise = _best_kernel(features, groups, scale, shifts, _lengths(features / scale), _LINEAR_SHARES)
    linear = None
    if linears is not None:
        targets = np.stack([(root @ part).ravel() for part in linears])
        # Only the inner products of the targets matter for the choice: as many columns as conditions hold them.
        compact = np.linalg.svd(targets, full_matrices=False)
        _, _, own = _best_kernel(features, groups, scale, compact[0] * compact[1], [length], [share])
        stacked = _smoothed(features, scale, targets, length, share, own).reshape(-1, d, d)
        linear = jnp.asarray(np.linalg.solve(root, stacked), jnp.float32)
    smoothed = _smoothed(features, scale, shifts, length, share, noise)
    return AffinePath(
        jnp.asarray(center, jnp.float32),
        scale,
        features / scale,
        float(length),
        jnp.asarray(smoothed, jnp.float32),
        linear,
    )


def _kernel(features: np.ndarray, scale: np.ndarray, length: float, share: float) -> np.ndarray:
    """Return the covariance of effects between conditions: of the mean effect, the Gaussian kernel, the linear one."""
    scaled, count = features / scale, features[:, 0]
    near = _basis(features, scale, scaled, length)[:, features.shape[1] :]
    return _MEAN_VARIANCE * np.outer(count, count) + near + share * scaled @ scaled.T / scaled.shape[1]


def _best_kernel(
    features: np.ndarray,
    groups: np.ndarray,
    scale: np.ndarray,
    targets: np.ndarray,
    lengths: Sequence[float],
    shares: Sequence[float],
) -> tuple[float, float, float]:
    """Return length, linear share and noise that predict left-out groups best."""
    members = members_of(groups)
    # Groups of one size are solved together: one by one, most of the time would go into calls.
    stacks = [np.stack([m for m in members if len(m) == size]) for size in sorted({len(m) for m in members})]
    best, error = (lengths[-1], shares[0], _NOISES[-1]), np.inf
    for length in lengths:
        for share in shares:
            values, vectors = np.linalg.eigh(_kernel(features, scale, length, share))
            projected = vectors.T @ targets
            for noise in _NOISES:
                inverse = (vectors / (values + noise)) @ vectors.T
                weights = (vectors / (values + noise)) @ projected
                left_out = (np.linalg.solve(inverse[r[:, :, None], r[:, None, :]], weights[r]) for r in stacks)
                total = sum(float((residuals**2).sum()) for residuals in left_out)
                if total < error * (1.0 - 1e-6):
                    best, error = (length, share, noise), total
    return best


def _smoothed(
    features: np.ndarray, scale: np.ndarray, targets: np.ndarray, length: float, share: float, noise: float
) -> np.ndarray:
    """Return coefficients of trend and anchors, shape (p + k, targets)."""
    kernel = _kernel(features, scale, length, share)
    weights = np.linalg.solve(kernel + noise * np.eye(len(kernel)), targets)
    trend = share * (features / scale).T @ weights / len(scale) / scale[:, None]
    trend[0] += _MEAN_VARIANCE * features[:, 0] @ weights
    return np.concatenate([trend, weights])


def _basis(features: np.ndarray, scale: np.ndarray, anchors: np.ndarray, length: float) -> np.ndarray:
    """Return trend features and kernel weights to the anchors, both 0 for a control; shape (n, p + k)."""
    distances = cdist(features / scale, anchors, "sqeuclidean")
    treated = (features[:, :1] > 0).astype(float)
    return np.concatenate([features, treated * np.exp(-0.5 * distances / length**2)], axis=1)


def _kriged(
    features: np.ndarray, targets: np.ndarray, groups: np.ndarray, scale: np.ndarray, length: float
) -> np.ndarray:
    """Return coefficients of trend and anchors, shape (p + k, targets)."""
    trend = fit_ridge(features, targets, groups).coefficients
    kernel = _basis(features, scale, features / scale, length)[:, features.shape[1] :]
    rest = np.linalg.solve(kernel + _NUGGET * np.eye(len(kernel)), targets - features @ trend)
    return np.concatenate([trend, rest])


def _best_length(features: np.ndarray, targets: np.ndarray, groups: np.ndarray, scale: np.ndarray) -> float:
    """Return the kernel length that predicts left-out groups best; the shortest where there is nothing to leave out."""
    lengths = _lengths(features / scale)
    if len(members_of(groups)) < 3:
        return lengths[0]
    # The penalty of the trend is that of all conditions: it says little about one group, and choosing it anew without
    # each group would take hours for hundreds of treatments.
    penalty = fit_ridge(features, targets, groups).penalty
    left = list(residuals_without(features, targets, groups, penalty))
    errors = []
    for length in lengths:
        kernel = _basis(features, scale, features / scale, length)[:, features.shape[1] :]
        inverse = np.linalg.inv(kernel + _NUGGET * np.eye(len(kernel)))
        errors.append(sum(_unexplained(inverse, rows, rest) for rows, rest in left))
    errors = np.asarray(errors)
    # Within one per cent, the shorter kernel: it leaves unseen conditions to the trend.
    return lengths[int(np.flatnonzero(errors <= errors.min() * 1.01)[0])]


def _lengths(vectors: np.ndarray) -> list[float]:
    """Return the kernel lengths to try."""
    distances = cdist(vectors, vectors)
    apart = distances[distances > 1e-9]
    unit = float(np.median(np.where(distances > 1e-9, distances, np.inf).min(1))) if len(apart) else 1.0
    return [unit * factor for factor in _LENGTHS]


def _unexplained(inverse: np.ndarray, rows: np.ndarray, rest: np.ndarray) -> float:
    """Return the squared error of what the kernel predicts for a left-out group from the residuals of the others.

    By block inversion: with `M` the inverse of the whole kernel matrix, the prediction is ``-M_gg^(-1) M_go rest_o``,
    and so the error ``M_gg^(-1) (M rest)_g``.
    """
    error = np.linalg.solve(inverse[np.ix_(rows, rows)], inverse[rows] @ rest)
    return float((error**2).sum())
