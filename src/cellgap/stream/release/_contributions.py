"""From donors' vectors to exact integers, hashed names, and a digest of what was offered."""

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellgap.errors import DataError
from cellgap.stream.release._interface import AbstractMechanism, Integers
from cellgap.stream.release._lattice import to_lattice
from cellgap.stream.release._secrets import Secrets


@dataclass(frozen=True, eq=False)
class Contributions:
    """What is offered for a step, sorted by the hashes of the donors.

    Parameters
    ----------
    donors
        Keyed hashes, 16 bytes each; of another statistic they are others.
    vectors
        Integers of each donor, (width,).
    closes
        Keyed hashes of donors that are closed.
    digest
        Keyed, of all this and the step.
    width
        Length of a vector.
    """

    donors: Sequence[bytes]
    vectors: Sequence[Integers]
    closes: Sequence[bytes]
    digest: str
    width: int

    def total(self, admitted: Sequence[bool]) -> Integers:
        """Return the exact sum of the admitted vectors, (width,); Python integers where int64 could overflow."""
        chosen = [vector for vector, enters in zip(self.vectors, admitted, strict=True) if enters]
        if not chosen:
            return np.zeros(self.width, np.int64)
        largest = max(int(np.abs(vector).max(initial=0)) for vector in chosen)
        dtype = np.int64 if largest * len(chosen) < 2**62 else object
        total = np.zeros(self.width, dtype)
        for vector in chosen:
            total = total + vector.astype(dtype)
        return total


def read_contributions(
    mechanism: AbstractMechanism, secrets: Secrets, contributions: Mapping[Any, Any], closes: Collection[Any], t: int
) -> Contributions:
    """Return what is offered for a step, checked and in integers.

    Parameters
    ----------
    mechanism
        Says what a donor's integers are (its own ``contribution``, or else its bounds).
    secrets
        Holds the key of the hashes.
    contributions
        From donors to vectors, (features,).
    closes
        Donors that are closed.
    t
        The step.

    Raises
    ------
    DataError
        A vector has the wrong length or is not finite, or a donor has no name or is there twice. The message names no
        donor.
    """
    rows: dict[bytes, Integers] = {}
    for donor, vector in contributions.items():
        hashed = _hashed(secrets, mechanism.name, donor)
        if hashed in rows:
            raise DataError("a donor is offered twice in one step (as a string and as a number): join its cells first.")
        rows[hashed] = _integers(mechanism, vector)
    donors = sorted(rows)
    closed = sorted({_hashed(secrets, mechanism.name, donor) for donor in closes})
    parts = [donor + _bytes(rows[donor]) for donor in donors]
    content = b"".join([len(parts).to_bytes(8, "big"), *parts, *closed])
    digest = secrets.digest(f"data of {mechanism.name} at {t}", content)
    return Contributions(donors, [rows[donor] for donor in donors], closed, digest, mechanism.width)


def _bytes(vector: Integers) -> bytes:
    """Return the same bytes for the same integers, whatever their type; no two vectors of a length share them."""
    try:
        plain = vector.astype("<i8")
    except OverflowError:
        text = ",".join(map(str, vector.tolist())).encode()
        return b"t" + len(text).to_bytes(8, "big") + text
    return b"i" + plain.tobytes()


def _hashed(secrets: Secrets, name: str, donor: Any) -> bytes:
    if isinstance(donor, bool) or not isinstance(donor, str | int | np.integer) or donor == "":
        raise DataError("a donor has to be named by a string or a whole number that is the same at every step.")
    # One name may be written with composed or with combining characters.
    text = unicodedata.normalize("NFC", str(donor))
    return bytes.fromhex(secrets.digest(f"donors of {name}", text.encode()))[:16]


def _integers(mechanism: AbstractMechanism, vector: Any) -> Integers:
    try:
        vector = np.asarray(vector, np.float64)
    except (TypeError, ValueError):
        vector = np.zeros(())
        wrong = True
    else:
        wrong = vector.shape != (len(mechanism.features),)
    if wrong:
        raise DataError(f"a contribution is no vector of {len(mechanism.features)} numbers, one a feature.")
    if not np.isfinite(vector).all():
        raise DataError("a contribution holds values that are not finite: leave out the donor or repair its vector.")
    own = getattr(mechanism, "contribution", None)
    if own is not None:
        integers = own(vector)
    else:
        # Where donors are counted, each adds 1 beside its features.
        ones = np.ones(mechanism.width - len(mechanism.features), np.int64)
        integers = np.concatenate([to_lattice(vector, mechanism.bounds), ones])
    if integers.shape != (mechanism.width,) or integers.dtype.kind not in "iO":
        raise DataError(f"the mechanism {mechanism.describe()} made no {mechanism.width} integers of a contribution.")
    return integers
