"""Coins that show heads with probability exp(-gamma), exactly, and uniform integers: what all noise is made of."""

from collections.abc import Callable
from fractions import Fraction
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Int

from cellgap.stream.release._randomness import AbstractRandomness

BAND = 2.0**-42
"""Draws nearer than this to the double that stands for a probability are decided with rational numbers."""


@final
class Bits:
    """Uniform Python integers of any size, cut from words that are fetched in bulk.

    Parameters
    ----------
    randomness
        Source of the words.
    fetch
        Words to fetch at a time.
    """

    def __init__(self, randomness: AbstractRandomness, fetch: int = 64) -> None:
        self._randomness = randomness
        self._fetch = fetch
        self._pool = 0
        self._left = 0

    def take(self, n: int) -> int:
        """Return `n` uniform bits as an integer."""
        while self._left < n:
            words = self._randomness.words(self._fetch)
            self._pool |= int.from_bytes(words.astype("<u8").tobytes(), "little") << self._left
            self._left += 64 * self._fetch
        bits = self._pool & ((1 << n) - 1)
        self._pool >>= n
        self._left -= n
        return bits

    def below(self, n: int) -> int:
        """Return a uniform integer from 0 to ``n - 1``; too large ones are drawn again, so there is no bias."""
        width = (n - 1).bit_length()
        while (drawn := self.take(width)) >= n:
            pass
        return drawn


def uniform_below(n: int, size: int, randomness: AbstractRandomness) -> Int[np.ndarray, " size"]:
    """Return `size` independent uniform integers from 0 to ``n - 1``, ``1 <= n <= 2^63``, without bias.

    The first bits of a word are taken, as many as ``n - 1`` has; what is not below `n` is drawn again.
    """
    width = (n - 1).bit_length()
    if width == 0:
        return np.zeros(size, np.int64)
    parts: list[np.ndarray] = []
    missing = size
    while missing > 0:
        wanted = missing * (1 << width) // n
        words = randomness.words(wanted + 16) >> np.uint64(64 - width)
        kept = words[words < np.uint64(n)][:missing].astype(np.int64)
        parts.append(kept)
        missing -= len(kept)
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def exponential_bounds(gamma: Fraction, bits: int) -> tuple[int, int]:
    """Return integers ``low <= 2^bits exp(-gamma) <= high``, for ``gamma >= 0``, at most a few units apart.

    ``x = gamma / 2^s <= 1/2`` enters the alternating series of ``exp(-x)``, whose partial sums enclose it; the
    enclosure is squared `s` times. Every division is rounded outward.
    """
    if gamma == 0:
        return 1 << bits, 1 << bits
    if gamma >= bits:
        return 0, 1  # exp(-gamma) < 2^-gamma
    halvings = max(0, (gamma.numerator // gamma.denominator).bit_length() + 1)
    work = bits + 2 * halvings + 16
    one = 1 << work
    divisor = gamma.denominator << halvings
    x_low = (gamma.numerator << work) // divisor
    x_high = x_low + 1
    term_low = term_high = low = high = one
    j = 0
    while term_high > 1:
        j += 1
        term_low = term_low * x_low // (j << work)
        term_high = -(-term_high * x_high // (j << work))
        if j % 2:
            low, high = low - term_high, high - term_low
        else:
            low, high = low + term_low, high + term_high
    low, high = max(low - 1, 0), min(high + 1, one)  # what is left out is less than the last term
    for _ in range(halvings):
        low, high = low * low >> work, -(-high * high >> work)
    shift = work - bits
    return low >> shift, -(-high >> shift)


def decide(gamma: Fraction, drawn: int, precision: int, bits: Bits) -> bool:
    """Return whether a uniform number that begins with `drawn` (`precision` bits) is below ``exp(-gamma)``.

    Further bits are drawn until the two are apart, which happens with probability 1.
    """
    while True:
        low, high = exponential_bounds(gamma, precision)
        if drawn + 1 <= low:
            return True
        if drawn >= high:
            return False
        drawn = drawn << 64 | bits.take(64)
        precision += 64


def bernoulli_exp(
    estimate: Float[np.ndarray, " n"],
    exact: Callable[[int], Fraction],
    randomness: AbstractRandomness,
    band: float = BAND,
) -> Bool[np.ndarray, " n"]:
    """Return independent coins, the i-th True with probability ``exp(-exact(i))`` exactly.

    53 random bits are compared with the double ``p = exp(-estimate[i])``. If they are farther from it than `band`,
    the true probability lies on the same side, and the coin is decided; else `decide` goes on with the same bits and
    rational bounds. The law of the coins is thus exact whatever `estimate` is, as long as
    ``|p - exp(-exact(i))| + 2^-53 < band``.

    Parameters
    ----------
    estimate
        Doubles near the exact exponents, (n,), not negative.
    exact
        The exponent of a coin by its index; asked for undecided coins only.
    randomness
        Source of uniform integers.
    band
        Width of the undecided zone; larger ones cost time and change nothing else.

    Notes
    -----
    With the default of 2^-42, an exponent with an absolute error ``e`` moves p by at most ``p e``, and `numpy.exp` errs
    by a few units in the last place (we allow 16: 2^-49). An estimate of relative error ``r`` moves p by at most
    ``r gamma exp(-gamma) <= r / e``; the callers stay below 2^-49.
    """
    probability = np.exp(-estimate)
    drawn = randomness.words(len(estimate)) >> np.uint64(11)
    uniform = drawn.astype(np.float64) * 2.0**-53  # exact: 53 bits
    heads = uniform < probability
    close = np.flatnonzero(np.abs(uniform - probability) <= band)
    if len(close):
        bits = Bits(randomness, fetch=4)
        for i in close.tolist():
            heads[i] = decide(exact(i), int(drawn[i]), 53, bits)
    return heads
