"""The least comp-sum risk that any scores have where the class probabilities are known, and who reaches it."""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import entr, logsumexp

from cellgap.errors import ConfigError, DataError

_NEAR_ONE = 0.1
_SUM = 1e-4


def conditional_minimum(p: Any, tau: float) -> Float[np.ndarray, " n"]:
    """Return ``C*_tau``, the least conditional risk ``sum_y p_y l_tau(h, y)`` over all scores ``h``.

    ``((sum_y p_y^(1/(2-tau)))^(2-tau) - 1) / (1 - tau)`` below 2, the entropy at 1, and ``(1 - max p) / (tau - 1)``
    from 2 on.

    Parameters
    ----------
    p
        Class probabilities, (n, classes).
    tau
        Of the loss, not negative.

    Raises
    ------
    DataError
        Rows of `p` are no probabilities.
    ConfigError
        `tau` is negative or not finite.

    Source
    ------
    Mao, Mohri, Zhong 2023 (arXiv 2304.07288), written so that nothing cancels near ``tau = 1``.
    """
    p = probabilities(p)
    check_tau(tau)
    if tau == 1.0:
        return np.asarray(entr(p).sum(axis=1))
    if tau >= 2.0:
        return (1.0 - p.max(axis=1)) / (tau - 1.0)
    return np.expm1((2.0 - tau) * _log_power_sum(p, tau)) / (1.0 - tau)


def minimizing_distribution(p: Any, tau: float) -> Float[np.ndarray, "n classes"]:
    """Return the softmax at which the conditional risk is least.

    Below ``tau = 2`` it is ``p^(1/(2-tau))``, scaled: ``p`` itself at ``tau = 1``, flatter below, sharper above. From 2
    on it is 1 at the most probable class (the first of several), which no finite scores reach; nor do they where some
    ``p`` is 0.

    Parameters, Raises
    ------------------
    As `conditional_minimum`.
    """
    p = probabilities(p)
    check_tau(tau)
    if tau >= 2.0:
        return np.eye(p.shape[1])[np.argmax(p, axis=1)]
    with np.errstate(divide="ignore"):
        powers = np.log(p) / (2.0 - tau)
    powers = np.exp(powers - powers.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def probabilities(p: Any) -> Float[np.ndarray, "n classes"]:
    """Return class probabilities in double precision, each row with sum 1; raise DataError where they are none.

    Rows whose sum is 1 up to 1e-4, as single precision leaves them, are scaled.
    """
    p = np.asarray(p, float)
    if p.ndim != 2 or p.shape[1] < 2 or len(p) == 0:
        raise DataError(f"Class probabilities are a table of (n, 2 or more classes), found the shape {p.shape}.")
    sums = p.sum(axis=1, keepdims=True)
    if not (p >= 0).all() or not (abs(sums - 1.0) <= _SUM).all():
        raise DataError("Class probabilities are not negative and have sum 1 in every row.")
    return p / sums


def check_tau(tau: float) -> None:
    """Raise ConfigError where `tau` is negative or not finite."""
    if not 0 <= tau < np.inf:
        raise ConfigError(f"tau of a comp-sum loss is a number from 0 on, found {tau}.")


def _log_power_sum(p: Float[np.ndarray, "n classes"], tau: float) -> Float[np.ndarray, " n"]:
    """Return ``log sum_y p_y^(1/(2-tau))``."""
    with np.errstate(divide="ignore"):
        logs = np.log(p)
    if abs(1.0 - tau) > _NEAR_ONE:
        return np.asarray(logsumexp(logs / (2.0 - tau), axis=1))
    # The sum is close to that of p, which is 1: what it differs by is summed.
    change = np.expm1((tau - 1.0) / (2.0 - tau) * np.where(p > 0, logs, 0.0))
    return np.log1p((p * change).sum(axis=1))
