"""From what a caller asks of a budget to a mechanism: what is missing is refused, never inferred from data."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeVar

from cellgap.errors import ConfigError, UnboundedContribution
from cellgap.stream.release._amounts import Amount, exact, one_of
from cellgap.stream.release._bounds import DonorBounds
from cellgap.stream.release._interface import AbstractMechanism

_Made = TypeVar("_Made", bound=AbstractMechanism)


def requested(
    build: Callable[..., _Made],
    name: str,
    features: Sequence[str] | None,
    steps: int | None,
    bounds: DonorBounds | None,
    total: Fraction,
    *,
    share: Amount | None,
    rho: Amount | None,
    epsilon: Amount | None = None,
    **more: Any,
) -> _Made:
    """Return the mechanism that is asked for.

    Parameters
    ----------
    build
        Makes it from keyword arguments.
    name, features, steps, bounds
        See `AbstractMechanism`; all are needed.
    total
        The whole budget, rho.
    share, rho, epsilon
        What it may cost, one of the three: a part of the total, a rho, or the epsilon of pure differential privacy.
    **more
        Further arguments of `build`.

    Raises
    ------
    UnboundedContribution
        Features, steps or bounds are not given.
    ConfigError
        Features are one string, or the cost is given twice or not at all.
    """
    given = {"features": features, "steps": steps, "bounds": bounds}
    # The truth of an array of names is not defined; its length is.
    missing = [key for key, value in given.items() if value is None]
    if features is not None and len(features) == 0:
        missing = ["features", *missing]
    if missing:
        raise UnboundedContribution(
            f"{name!r} needs {', '.join(missing)}, fixed before the stream begins: nothing is inferred from the data."
        )
    if isinstance(features, str):
        raise ConfigError(f"features of {name!r} is the string {features!r}: give a list of names.")
    if epsilon is None:
        loss = {"rho": one_of(total, None, share=share, rho=rho)}
    elif share is None and rho is None:
        loss = {"epsilon": exact(epsilon, "epsilon")}
    else:
        raise ConfigError("exactly one of share, rho, epsilon is needed, found several.")
    return build(
        name=name, features=[str(feature) for feature in features or ()], steps=steps, bounds=bounds, **loss, **more
    )
