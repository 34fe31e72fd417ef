"""Closed-form maps for measured and unmeasured conditions: what a learnt map may start from."""

from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float

from cellgap.storage import storable
from cellgap.study import Condition
from cellgap.transport._affine import AffinePath, affine_path, condition_features, displacement, kernel_path, root_of
from cellgap.transport._codes import Codes
from cellgap.transport._inner_folds import Novelty
from cellgap.transport._ridge import feature_scale, fit_ridge, groups_of
from cellgap.transport._shift_rule import NAMES, Known, Rule, shift_by_rule

_RULES: tuple[Rule, ...] = ("all", "nearest", "dose", "additive")
LARGEST_LINEAR = 256
"""Dimension of a space up to which linear parts are fitted: their memory grows with its square."""


class Effects(NamedTuple):
    """Affine effects of measured conditions.

    Parameters
    ----------
    conditions, features
        The conditions, and their features, shape (k, p).
    shifts
        Mean effects, shape (k, d).
    linears
        Of the Gaussian maps ``x + shift + (x - control mean) linear``, shape (k, d, d); None in large spaces.
    control_means
        Means of the matched controls, shape (k, d).
    center, root
        Mean of `control_means`, and a root of the controls' covariance.
    """

    conditions: tuple[Condition, ...]
    features: np.ndarray
    shifts: np.ndarray
    linears: np.ndarray | None
    control_means: np.ndarray
    center: np.ndarray
    root: np.ndarray

    @classmethod
    def of(cls, codes: Codes) -> "Effects":
        """Return the effects of a split's training conditions, from its training cells."""
        moments = codes.moments
        means = np.stack([m.control_mean for m in moments])
        center = means.mean(0)
        linears = None
        if codes.space.dim <= LARGEST_LINEAR:
            linears = np.stack([displacement(m, center, "gaussian")[1] for m in moments])
        features = np.stack([condition_features(codes.encoder, m.condition) for m in moments])
        conditions, shifts = tuple(m.condition for m in moments), np.stack([m.shift for m in moments])
        return cls(conditions, features, shifts, linears, means, center, root_of(moments))

    def without(self, left_out: np.ndarray) -> "Effects":
        """Return the effects of the other conditions."""
        kept = np.setdiff1d(np.arange(len(self.conditions)), left_out)
        return self._replace(
            conditions=tuple(self.conditions[i] for i in kept),
            features=self.features[kept],
            shifts=self.shifts[kept],
            linears=None if self.linears is None else self.linears[kept],
            control_means=self.control_means[kept],
        )

    @property
    def known(self) -> Known:
        """What rules read."""
        scale = feature_scale(self.features)
        return Known(self.conditions, self.features / scale, scale, self.shifts)

    @property
    def full_shifts(self) -> np.ndarray:
        """Shifts of the same maps with their linear parts about `center`, shape (k, d)."""
        if self.linears is None:
            return self.shifts
        return self.shifts + np.einsum("kd,kde->ke", self.center - self.control_means, self.linears)


@storable
class ClosedForm(eqx.Module):
    """One closed-form map ``x + shift(c) + (x - m) linear(c)`` for all conditions.

    Parameters
    ----------
    name
        What it is called in tables.
    rule
        A rule for the shift, or ``"none"`` (no shift).
    coefficients
        Shift by regression on the features; None otherwise.
    path
        Shift and linear part by a path; None otherwise.
    shape
        The path whose linear part goes with a rule or a regression, about the mean of the matched controls; None where
        all cells move alike.
    """

    name: str
    rule: str
    coefficients: Float[np.ndarray, "p d"] | None
    path: AffinePath | None
    shape: AffinePath | None

    def at(
        self, condition: Condition, features: Float[np.ndarray, " p"], known: Known, control_means: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return shift and linear part (about the center of the paths) for a condition.

        Parameters
        ----------
        condition, features
            The condition.
        known, control_means
            Training conditions, and the means of their controls.

        Raises
        ------
        ConditionError
            The rule has no answer for the condition.
        """
        if self.path is not None:
            shift, linear = self.path.at(features)
            return np.asarray(shift), None if linear is None else np.asarray(linear)
        if self.coefficients is not None:
            shift = features @ self.coefficients
        elif self.rule == "none":
            shift = np.zeros(known.shifts.shape[1])
        else:
            shift = shift_by_rule(self.rule, condition, features, known)
        if self.shape is None:
            return shift, None
        linear = np.asarray(self.shape.at(features)[1])
        same = [i for i, c in enumerate(known.conditions) if c.control == condition.control]
        if same:
            shift = shift + (np.asarray(self.shape.center) - control_means[same[0]]) @ linear
        return shift, linear


def identity() -> ClosedForm:
    """Return the map that leaves cells where they are."""
    return ClosedForm("identity", "none", None, None, None)


def of_path(name: str, path: AffinePath) -> ClosedForm:
    """Return the map along a path."""
    return ClosedForm(name, "none", None, path, None)


def paths(effects: Effects, groups: np.ndarray) -> list[ClosedForm]:
    """Return the maps that answer for measured conditions by what was measured, simplest first.

    Parameters
    ----------
    effects
        Of the training conditions.
    groups
        Which of them smoothing leaves out together.
    """
    features, center, root = effects.features, effects.center, effects.root
    own = groups_of(effects.conditions)
    found = [
        of_path("shift path", affine_path(features, own, center, root, effects.shifts, None)),
        of_path("smooth shift", kernel_path(features, groups, center, root, effects.shifts, None)),
    ]
    if effects.linears is not None:
        shifts, linears = effects.full_shifts, effects.linears
        found += [
            of_path("Gaussian path", affine_path(features, own, center, root, shifts, linears)),
            of_path("smooth Gaussian", kernel_path(features, groups, center, root, shifts, linears)),
        ]
    return found


def rules(effects: Effects, shape: AffinePath | None) -> list[ClosedForm]:
    """Return the simple rules, alone and with the linear part of a Gaussian map, simplest first."""
    ridge = fit_ridge(effects.features, effects.shifts, groups_of(effects.conditions)).coefficients
    plain = [ClosedForm(NAMES[rule], rule, None, None, None) for rule in _RULES]
    plain.append(ClosedForm(NAMES["ridge"], "ridge", ridge, None, None))
    if shape is None:
        return plain
    return plain + [ClosedForm(f"{f.name} + Gaussian", f.rule, f.coefficients, None, shape) for f in plain]


def left_out_together(conditions: tuple[Condition, ...], novelty: Novelty) -> np.ndarray:
    """Return group numbers of conditions such that leaving a group out makes what is new about test conditions."""
    if novelty == "dose":
        labels = [c.treatments for c in conditions]
    elif novelty == "context":
        labels = [c.context for c in conditions]
    elif novelty == "nothing":
        labels = list(conditions)
    else:
        return groups_of(conditions)
    distinct = list(dict.fromkeys(labels))
    return np.asarray([distinct.index(label) for label in labels])
