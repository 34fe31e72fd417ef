"""The order in which the lines of a journal may follow one another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Never

from cellgap.errors import BudgetExhausted, PrivacyError
from cellgap.stream.release._entries import Entry


@dataclass
class Steps:
    """How far a statistic has come.

    Parameters
    ----------
    public
        Configuration of its mechanism.
    rho
        What it reserved.
    horizon
        Steps that were paid for.
    intents, published, done
        The last step whose data are fixed, that was drawn, and that was finished.
    """

    public: Mapping[str, Any]
    rho: Fraction
    horizon: int
    intents: int = 0
    published: int = 0
    done: int = 0


@dataclass
class Audit:
    """Reads entry after entry and refuses the first that breaks a rule.

    One total, set once; reservations that never pass it; at each step of a statistic one fixing of the data, then one
    draw, then one end, in order and inside the horizon.

    Parameters
    ----------
    total
        The whole budget; None before the first line.
    safe
        Whether all noise came from the operating system.
    anchored
        Whether the journal has an anchor.
    opened
        How often it was opened.
    statistics
        By name.
    """

    total: Fraction | None = None
    safe: bool = True
    anchored: bool = False
    opened: int = 0
    statistics: dict[str, Steps] = field(default_factory=dict)

    @property
    def spent(self) -> Fraction:
        """Sum of all reservations."""
        return sum((steps.rho for steps in self.statistics.values()), Fraction(0))

    def follow(self, kind: str, body: Mapping[str, Any]) -> None:
        """Take in an entry.

        Raises
        ------
        PrivacyError
            It may not follow what came before; nothing is taken in.
        """
        if (self.total is None) != (kind == "BUDGET"):
            _refuse(kind)
        match kind:
            case "BUDGET":
                self.total = Fraction(body["rho"])
            case "OPEN":
                self.opened += 1
            case "ANCHORED":
                self.anchored = True
            case "UNSAFE":
                self.safe = False
            case "RESERVE":
                self._reserve(body)
            case "INTENT" | "VALUE" | "DONE":
                self._step(kind, body)
            case _:
                _refuse(kind)

    def _reserve(self, body: Mapping[str, Any]) -> None:
        rho = Fraction(body["rho"])
        if body["name"] in self.statistics or rho < 0:
            _refuse("RESERVE")
        if self.total is None or self.spent + rho > self.total:
            left = Fraction(0) if self.total is None else self.total - self.spent
            raise BudgetExhausted(
                f"the reservation of rho = {float(rho):.6g} passes what is left of the budget, {float(left):.6g}: "
                "nothing was reserved."
            )
        self.statistics[body["name"]] = Steps(body["mechanism"], rho, int(body["steps"]))

    def _step(self, kind: str, body: Mapping[str, Any]) -> None:
        steps = self.statistics.get(body["name"])
        t = body["t"]
        if steps is None or t > steps.horizon:
            _refuse(kind)
        if kind == "INTENT" and (steps.intents, steps.done) == (t - 1, t - 1):
            steps.intents = t
        elif kind == "VALUE" and (steps.intents, steps.published) == (t, t - 1):
            steps.published = t
        elif kind == "DONE" and (steps.published, steps.done) == (t, t - 1):
            steps.done = t
        else:
            _refuse(kind)


def audit(entries: list[Entry]) -> Audit:
    """Return where a journal stands.

    Raises
    ------
    PrivacyError
        A line breaks a rule; its number is in the message.
    """
    found = Audit()
    for entry in entries:
        try:
            found.follow(entry.kind, entry.body)
        except (PrivacyError, KeyError, ValueError, TypeError, ZeroDivisionError):
            raise PrivacyError(
                f"line {entry.mark.version} of the journal breaks the rules of release: it was not written by this "
                "version of cellgap, or changed by hand."
            ) from None
    return found


def _refuse(kind: str) -> Never:
    raise PrivacyError(f"a line {kind} may not follow what the journal holds: nothing was written.")
