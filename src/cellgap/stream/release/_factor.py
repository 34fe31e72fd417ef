"""The square root of summation: Toeplitz factors of the matrix of prefix sums, in floats and in integers.

Prefix sums are ``L R`` with ``L = R`` lower-triangular Toeplitz of coefficients ``f``. Noise is added to ``R x`` and
multiplied by ``L`` afterward.

Source: Fichtenberger, Henzinger & Upadhyay 2023; the integer form is derived in the specification, section 15.
"""

import math
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int

BITS = 10
"""Binary digits of the integer coefficients."""


def coefficients(n: int) -> Float[np.ndarray, " n"]:
    """Return ``f(j) = f(j - 1) (1 - 1 / (2 j))``, ``f(0) = 1``, for j below `n`: the power series of (1 - x)^(-1/2)."""
    return np.cumprod(np.concatenate([[1.0], 1.0 - 0.5 / np.arange(1, n)]))


def norm2(n: int) -> float:
    """Return ``S_n^2``, the sum of ``f(j)^2`` for j below `n`, to the last digits of a double.

    About ``(ln n + 0.5772 + ln 16) / pi``, and at most ``1 + ln(4 n - 3) / pi``.
    """
    return math.fsum(coefficients(n) ** 2)


def norm2_exact(n: int) -> Fraction:
    """Return ``S_n^2`` as a fraction: the sum of ``(C(2j, j) / 4^j)^2``; `n` digits long, so for small `n`."""
    central, total = 1, 0
    for j in range(n):
        total = 16 * total + central * central
        central = central * 2 * (2 * j + 1) // (j + 1)
    return Fraction(total, 16 ** (n - 1)) if n else Fraction(0)


def integer_coefficients(n: int, q: int = BITS) -> Int[np.ndarray, " n"]:
    """Return ``round(2^q f(j))`` for j below `n`: positive (for ``n < 4^q / 2``) and never increasing.

    Privacy asks of them only that they are public and never increase; how near they are to f decides about accuracy.
    """
    return np.rint(np.ldexp(coefficients(n), q)).astype(np.int64)


def inverse_series(coefs: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return g with ``g * coefs = 1, 1, 1, ...``: the power series of ``1 / ((1 - x) coefs(x))``.

    With ``y = coefs * x`` (convolution), the prefix sums of x are ``g * y``.
    """
    reverse = np.asarray(coefs, np.float64)[::-1]
    n = len(reverse)
    g = np.zeros(n)
    for j in range(n):
        g[j] = (1.0 - (reverse[n - 1 - j : n - 1] @ g[:j] if j else 0.0)) / reverse[n - 1]
    return g


def participation_norm(coefs: Int[np.ndarray, " n"], steps: int, k: int, b: int) -> int:
    """Return the squared sensitivity of ``R x`` to a donor of norm 1 in at most `k` steps at least `b` apart.

    ``|sum_(i < k) R[:, i b]|^2``, the earliest and tightest pattern: two columns of R overlap the less, the later and
    the farther apart they are, since coefficients are not negative and never increase; vectors of different directions
    overlap less than equal ones.

    Parameters
    ----------
    coefs
        Integer coefficients, at least `steps` of them.
    steps
        The horizon T.
    k
        Steps that a donor may enter.
    b
        Least distance of two of them.
    """
    column = np.asarray(coefs[:steps], np.int64)
    total = np.zeros(steps, np.int64)
    for start in range(0, min(steps, (k - 1) * b + 1), b):
        total[start:] += column[: steps - start]
    return sum(value * value for value in total.tolist())


def prefix_variances(g: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the variances of the prefixes 1 to n for noise of variance 1: running sums of ``g^2``."""
    return np.cumsum(np.asarray(g) ** 2)


def kronecker_norm(time: Int[np.ndarray, " steps"], bins: Int[np.ndarray, " bins"], k: int, b: int) -> int:
    """Return the squared sensitivity of ``(R_T x R_B)`` to a donor with a histogram of total weight 1 a step.

    A histogram is a mixture of single bins, and the first column of R_B is the longest: `participation_norm` over time
    times ``sum bins^2``.
    """
    return participation_norm(time, len(time), k, b) * sum(value * value for value in bins.tolist())


def simultaneous(sd: float, count: int, beta: float) -> float:
    """Return what `count` Gaussian (or sub-Gaussian) errors stay below together: ``sd sqrt(2 ln(2 count / beta))``.

    Discrete Gaussian noise is sub-Gaussian with its sigma (Canonne, Kamath & Steinke 2020, corollary 17), and so are
    its weighted sums.
    """
    return sd * math.sqrt(2.0 * math.log(2.0 * count / beta))
