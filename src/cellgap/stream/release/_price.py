"""The price of privacy under continual release: the error of every step's answer over that of one answer at the end."""

import math

from cellgap.gap import Gap
from cellgap.stream.release._interface import AbstractMechanism
from cellgap.stream.release._mechanisms import mechanism_of

_BETA = 0.05


def price_of(mechanism: AbstractMechanism) -> list[Gap]:
    """Return the gap of a mechanism: its bound at the last step, against that of the same mechanism for one step.

    Both spend the same rho; known to be unavoidable up to logarithms for sums, and to a power of the horizon for
    largest sums and selections of dense rows (Jain et al., ICML 2023). Empty where either bound is not finite.

    Parameters
    ----------
    mechanism
        Any; only its public configuration is looked at.
    """
    once = mechanism_of(_for_one_step(mechanism.public()))
    continual, batch = mechanism.bound(mechanism.steps, _BETA), once.bound(1, _BETA)
    if not (math.isfinite(continual) and math.isfinite(batch) and batch > 0):
        return []
    return [
        Gap(
            "price of continual release",
            continual / batch - 1.0,
            f"bound of the error at step {mechanism.steps} over that of a single release, less 1: {continual:.4g} "
            f"against {batch:.4g} at 95 %, {mechanism.name}",
            "answers after every step cost this much accuracy at equal privacy",
            "fewer steps, tighter bounds of a donor, or a larger share of the budget",
        )
    ]


def _for_one_step(public: dict) -> dict:
    changed = {**public, "steps": 1}
    if "sums" in public:
        changed = {**public, "sums": _for_one_step(public["sums"])}
    return {key: value for key, value in changed.items() if key != "every"}
