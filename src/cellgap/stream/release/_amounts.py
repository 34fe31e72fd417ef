"""Privacy losses as exact fractions."""

import math
from fractions import Fraction

from cellgap.errors import ConfigError
from cellgap.stream.release._accounting import rho_for

Amount = float | int | str | Fraction


def exact(amount: Amount, what: str) -> Fraction:
    """Return an amount as the fraction that its decimal digits say, so that ten times 0.1 is 1.

    Parameters
    ----------
    amount
        Positive; strings may be fractions ("1/3").
    what
        Name for the message.

    Raises
    ------
    ConfigError
        It is not a positive, finite number.
    """
    try:
        value = Fraction(amount) if isinstance(amount, int | Fraction | str) else Fraction(repr(float(amount)))
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if value <= 0:
        raise ConfigError(f"{what} has to be a positive, finite number, found {amount!r}.")
    return value


def one_of(total: Fraction | None, delta: float | None, **amounts: Amount | None) -> Fraction:
    """Return the rho of exactly one of ``rho=``, ``epsilon=`` and ``share=``.

    Parameters
    ----------
    total
        What a share is a share of.
    delta
        Of the guarantee that an epsilon is a part of.
    **amounts
        By name; all but one None.

    Raises
    ------
    ConfigError
        None or several are given, one is not positive, or an epsilon comes without a delta.
    """
    given = {name: amount for name, amount in amounts.items() if amount is not None}
    if len(given) != 1:
        raise ConfigError(f"exactly one of {', '.join(amounts)} is needed, found {', '.join(given) or 'none'}.")
    ((name, amount),) = given.items()
    value = exact(amount, name)
    if name == "rho":
        return value
    if name == "share":
        assert total is not None
        return value * total
    if delta is None:
        raise ConfigError("an epsilon is meant with a delta: give the budget delta=..., or give rho.")
    return rho_for(float(value), delta)


def check_delta(delta: float | None) -> None:
    """Raise where a delta is given that is none.

    Raises
    ------
    ConfigError
        It is not between 0 and 1.
    """
    if delta is not None and not (math.isfinite(delta) and 0 < delta < 1):
        raise ConfigError(f"delta has to lie between 0 and 1, found {delta!r}.")
