"""Checking a journal from outside, with the journal alone."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from cellgap.errors import PrivacyError
from cellgap.stream.release._audit import Steps, audit
from cellgap.stream.release._entries import parse
from cellgap.stream.release._interface import Integers
from cellgap.stream.release._journal import NAME


@dataclass(frozen=True, eq=False)
class Verified:
    """Where an intact journal stands.

    Parameters
    ----------
    versions
        Lines.
    opened
        How often it was opened.
    torn
        Bytes of a last line that was never finished; the next opening cuts them off.
    safe
        Whether all noise came from the operating system.
    anchored
        Whether the journal has an anchor; whether it agrees cannot be told from the journal alone.
    total, spent
        The budget and its reservations, rho.
    statistics
        How far each has come, by name.
    drawn
        The integers that each published, by name and in the order of the steps.
    """

    versions: int
    opened: int
    torn: int
    safe: bool
    anchored: bool
    total: Fraction
    spent: Fraction
    statistics: Mapping[str, Steps]
    drawn: Mapping[str, list[Integers]]

    def __str__(self) -> str:
        lines = [
            f"intact: {self.versions} lines, opened {self.opened} times"
            + (f", {self.torn} bytes of an unfinished line" if self.torn else ""),
            f"rho spent {float(self.spent):.6g} of {float(self.total):.6g}; "
            + ("with an anchor" if self.anchored else "without an anchor"),
        ]
        lines += [
            f"{name}: {steps.published} of {steps.horizon} steps published, each drawn once"
            + (", one more fixed" if steps.intents > steps.published else "")
            for name, steps in self.statistics.items()
        ]
        return "\n".join([*lines] + ([] if self.safe else ["NOT PRIVATE: made with a seeded generator"]))


def verify(folder: str | os.PathLike[str]) -> Verified:
    """Return where a journal stands after checking its chain and its rules; nothing is locked or changed.

    Checked are the hash of every line, that reservations stay within the total, that each step of a statistic was fixed
    once, then drawn once, then finished, in order, none left out.

    Parameters
    ----------
    folder
        The journal's.

    Raises
    ------
    PrivacyError
        There is no journal, or one of these does not hold.
    """
    path = Path(folder) / NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise PrivacyError(f"{path} does not exist: give the folder of a budget's journal.") from None
    entries, used = parse(content)
    found = audit(entries)
    drawn: dict[str, list[Integers]] = {name: [] for name in found.statistics}
    for entry in entries:
        if entry.kind == "VALUE":
            drawn[entry.body["name"]].append(entry.body["integers"])
    return Verified(
        versions=len(entries),
        opened=found.opened,
        torn=len(content) - used,
        safe=found.safe,
        anchored=found.anchored,
        total=found.total or Fraction(0),
        spent=found.spent,
        statistics=found.statistics,
        drawn=drawn,
    )
