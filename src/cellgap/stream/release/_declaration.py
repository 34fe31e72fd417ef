"""What every mechanism is told before the stream begins, checked; and the words in which it is written down."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from cellgap.errors import BudgetExhausted, ConfigError, UnboundedContribution
from cellgap.settings import to_dict
from cellgap.stream.release._accounting import rho_of_pure
from cellgap.stream.release._bounds import DonorBounds

MOST_DONORS = 10**9
"""Donors a step where the bounds name no number."""


def declared_features(name: str, features: Sequence[str]) -> tuple[str, ...]:
    """Return the features of the statistic `name` as a tuple.

    Raises
    ------
    UnboundedContribution
        There are none.
    ConfigError
        One is named twice.
    """
    found = tuple(features)
    if not found:
        raise UnboundedContribution(f"The statistic {name!r} has no features: list them before the stream begins.")
    if len(set(found)) < len(found):
        raise ConfigError(f"The features of the statistic {name!r} are not all different: name each once.")
    return found


def declared_steps(name: str, steps: int) -> int:
    """Return the horizon of the statistic `name`.

    Raises
    ------
    UnboundedContribution
        It is not at least 1.
    """
    if steps < 1:
        raise UnboundedContribution(f"The statistic {name!r} has {steps} steps: fix at least 1 before the stream.")
    return steps


def declared_bounds(name: str, bounds: DonorBounds) -> DonorBounds:
    """Return the bounds of the statistic `name`.

    Raises
    ------
    ConfigError
        They are less than a lattice step: every contribution would be rounded to 0.
    """
    if bounds.kinf < 1:
        raise ConfigError(f"The lattice of the statistic {name!r} is coarser than its bounds: choose a smaller step.")
    return bounds


def declared_loss(name: str, rho: Fraction | None, epsilon: Fraction | None) -> Fraction:
    """Return the rho of the statistic `name`, from `rho` itself or from the epsilon of pure differential privacy.

    Raises
    ------
    ConfigError
        None or both are given, or the one is not positive.
    """
    given = [value for value in (rho, epsilon) if value is not None]
    if len(given) != 1 or given[0] <= 0:
        raise ConfigError(f"The statistic {name!r} needs a rho or an epsilon above 0, one of the two.")
    return rho_of_pure(epsilon) if epsilon is not None else given[0]


def check_horizon(name: str, t: int, steps: int) -> None:
    """Refuse steps that were not paid for.

    Raises
    ------
    BudgetExhausted
        Step `t` is not one of the horizon.
    """
    if not 1 <= t <= steps:
        raise BudgetExhausted(f"The statistic {name!r} was paid for {steps} steps and cannot draw for step {t}.")


def l1_bound(name: str, bounds: DonorBounds) -> int:
    """Return the bound of the sum of sizes in lattice units.

    Raises
    ------
    UnboundedContribution
        The bounds have none, or it is less than a lattice step.
    """
    if not bounds.k1:
        raise UnboundedContribution(f"The statistic {name!r} needs DonorBounds(l1=...), at least a lattice step.")
    return bounds.k1


def growth(bounds: DonorBounds) -> float:
    """Return by how much a coordinate's sum may grow in a step, in the unit of the contributions; inf where unknown."""
    if bounds.max_donors is None:
        return float("inf")
    return float(bounds.max_donors * bounds.kinf * bounds.step)


def integers_up_to(largest: int) -> type:
    """Return the type of array that holds sums of this size exactly: int64, or Python integers from 2^62 on."""
    return np.int64 if largest < 2**62 else object


def most_donors(bounds: DonorBounds) -> int:
    """Return the donors a step to be prepared for."""
    return bounds.max_donors or MOST_DONORS


def written(kind: str, name: str, features: Sequence[str], steps: int, bounds: DonorBounds) -> dict[str, Any]:
    """Return what all public configurations begin with."""
    return {
        "kind": kind,
        "name": name,
        "features": list(features),
        "steps": steps,
        "bounds": to_dict(bounds),
    }


def written_loss(rho: Fraction, epsilon: Fraction | None) -> Mapping[str, str]:
    """Return rho, or the epsilon it comes from, as an exact fraction in words."""
    return {"rho": str(rho)} if epsilon is None else {"epsilon": str(epsilon)}


def loss_in_words(rho: Fraction, epsilon: Fraction | None) -> str:
    """Return the guarantee for a line of text."""
    return f"{float(rho):.4g}-zCDP" if epsilon is None else f"{float(epsilon):.4g}-DP (rho = {float(rho):.4g})"
