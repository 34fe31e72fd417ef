"""The mechanisms by the name of their kind, and how one is built from what was written down."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from cellgap.errors import ConfigError
from cellgap.settings import from_dict
from cellgap.stream.release._interface import AbstractMechanism
from cellgap.stream.release._running_max import CounterMax, RecomputedMax, ZeroMax
from cellgap.stream.release._running_quantile import KroneckerQuantile
from cellgap.stream.release._running_select import CounterSelect, RecomputedSelect
from cellgap.stream.release._running_sum import FactorSum, TreeSum

MECHANISMS: Mapping[str, type[AbstractMechanism]] = {
    found.kind: found
    for found in (
        FactorSum,
        TreeSum,
        RecomputedMax,
        CounterMax,
        ZeroMax,
        RecomputedSelect,
        CounterSelect,
        KroneckerQuantile,
    )
}
"""Every mechanism by its kind."""


def mechanism_of(public: Mapping[str, Any]) -> AbstractMechanism:
    """Return the mechanism whose `AbstractMechanism.public` is `public`.

    Raises
    ------
    ConfigError
        The kind or a field is unknown, missing or of the wrong form.
    """
    kind = str(public.get("kind"))
    if kind not in MECHANISMS:
        raise ConfigError(f"A mechanism needs a known kind, found {kind!r}: expected one of {', '.join(MECHANISMS)}.")
    given = {key: _read(key, value) for key, value in public.items() if key != "kind"}
    try:
        return MECHANISMS[kind](**given)
    except TypeError as error:
        raise ConfigError(f"A mechanism of kind {kind!r} cannot be built from these fields: {error}.") from None


def _read(key: str, value: Any) -> Any:
    if key == "bounds":
        return from_dict(value)
    if key == "sums":
        return mechanism_of(value)
    if key in ("rho", "epsilon"):
        try:
            return Fraction(value)
        except (ValueError, ZeroDivisionError, TypeError):
            raise ConfigError(f"A mechanism has {key} = {value!r}: expected a fraction such as '1/2'.") from None
    return value
