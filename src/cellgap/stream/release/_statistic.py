"""A running statistic: contributions in, releases out, each step fixed before it is drawn and drawn once."""

from collections.abc import Collection, Mapping
from typing import Any, get_args

import numpy as np

from cellgap.errors import BudgetExhausted, ConfigError, DataError, StepRewritten
from cellgap.gap import Gap
from cellgap.stream.release._bounds import Unit
from cellgap.stream.release._contributions import Contributions, read_contributions
from cellgap.stream.release._interface import AbstractMechanism, Integers, State
from cellgap.stream.release._journal import Journal
from cellgap.stream.release._ledger import Ledger, Policy
from cellgap.stream.release._price import price_of
from cellgap.stream.release._randomness import AbstractRandomness
from cellgap.stream.release._release import Release


class RunningStatistic:
    """A statistic that a budget has paid for; made by `PrivacyBudget`, not by hand.

    A step that was interrupted is finished when the statistic is opened again: where its data were fixed and nothing
    drawn, it is drawn from the data that were fixed; where it was drawn, the draw is published.

    Parameters
    ----------
    mechanism
        What is drawn and estimated.
    journal
        Where everything is written before it is acted on.
    randomness
        Source of the noise.
    unit
        Whose removal the guarantee is about; the keys of contributions are its names.
    delta
        Of the guarantee, or None.
    """

    def __init__(
        self,
        mechanism: AbstractMechanism,
        journal: Journal,
        randomness: AbstractRandomness,
        unit: Unit,
        delta: float | None,
    ) -> None:
        self.mechanism = mechanism
        self.unit: Unit = unit
        self._journal, self._randomness, self._delta = journal, randomness, delta
        self._state: State = mechanism.start()
        self._ledger = Ledger(mechanism.bounds)
        self._drawn: list[Integers] = []
        self._fixed: list[Mapping[str, Any]] = []
        self._releases: dict[int, Release] = {}
        with journal.guard:
            self._resume()

    @property
    def name(self) -> str:
        """Name of the statistic."""
        return self.mechanism.name

    @property
    def steps(self) -> int:
        """Steps that were paid for."""
        return self.mechanism.steps

    @property
    def published(self) -> int:
        """Steps published so far."""
        return len(self._drawn)

    @property
    def releases(self) -> tuple[Release, ...]:
        """All that was published, in the order of the steps."""
        return tuple(self._release(t) for t in range(1, self.published + 1))

    @property
    def latest(self) -> Release | None:
        """The last step's release, None before the first."""
        return self._release(self.published) if self._drawn else None

    @property
    def dropped(self) -> int:
        """Contributions dropped so far: for the holder of the data alone, not to be published.

        Forgotten with all else about donors when the last step is done.
        """
        return self._ledger.dropped

    def step(
        self,
        contributions: Mapping[Any, Any],
        t: int | None = None,
        *,
        policy: Policy = "raise",
        closes: Collection[Any] = (),
    ) -> Release:
        """Return the release of a step.

        Everything is checked before anything is written; a refusal leaves budget, journal and donors as they were. A
        finished step that is offered again with the same data returns the same release, so that a program that was
        killed may simply run again.

        Parameters
        ----------
        contributions
            From the name of a donor (a string or a whole number; of the privacy unit in general) to its vector,
            (features,), in the unit of the bounds. Vectors beyond the bounds are scaled down. May be empty.
        t
            The step; the next one where it is left out. Give it where the program may be started again.
        policy
            What happens to a donor that may not enter: "raise", or "drop" its contribution.
        closes
            Donors that may not enter later steps.

        Raises
        ------
        BudgetExhausted
            The step lies beyond the horizon.
        DonorOverContribution
            A donor may not enter, or there are too many.
        StepRewritten
            The step was fixed with other data.
        DataError
            A vector has the wrong length or is not finite, a donor has no name, or a step is left out.
        """
        with self._journal.guard:
            self._journal.check()
            if policy not in get_args(Policy):
                raise ConfigError(f"policy has to be one of {', '.join(get_args(Policy))}, found {policy!r}.")
            t = self._checked(t)
            offered = read_contributions(self.mechanism, self._journal.secrets, contributions, closes, t)
            if t <= self.published:
                if offered.digest != self._fixed[t - 1]["data"]:
                    raise StepRewritten(
                        f"step {t} of {self.name!r} is published, and other data are offered for it: a step is drawn "
                        "once. Offer new data at the next step."
                    )
                return self._release(t)
            admitted, ledger = self._ledger.admit(offered.donors, offered.closes, t, policy)
            total = offered.total(admitted)
            state = self.mechanism.absorb(self._state, t, total)
            try:
                self._fix(t, offered, total, state, ledger)
                self._publish(t)
            except BaseException:
                self._journal.spoil()
                raise
            return self._release(t)

    def _checked(self, t: int | None) -> int:
        t = self.published + 1 if t is None else t
        if t < 1:
            raise ConfigError(f"steps are counted from 1, found t={t}.")
        if t > self.steps:
            raise BudgetExhausted(
                f"step {t} of {self.name!r} lies beyond its horizon of {self.steps} steps: reserve another statistic."
            )
        if t > self.published + 1:
            raise DataError(
                f"step {t} of {self.name!r} is offered before step {self.published + 1}: a step without donors takes "
                "an empty mapping."
            )
        return t

    def _fix(self, t: int, offered: Contributions, total: Integers, state: State, ledger: Ledger) -> None:
        """Write what the step is drawn from, then that it is fixed."""
        if self.mechanism.small_state:
            arrays = {f"state.{i}": array for i, array in enumerate(state)} | ledger.arrays()
        else:
            arrays = {"total": total} | ledger.arrays(self._ledger)
        secret = self._journal.secrets.write(self.name, t, arrays)
        entry = self._journal.append("INTENT", name=self.name, t=t, data=offered.digest, secret=secret)
        self._fixed.append(entry.body)
        self._state, self._ledger = state, ledger

    def _publish(self, t: int) -> None:
        """Draw a step that is fixed."""
        integers = self.mechanism.draw(self._state, t, tuple(self._drawn), self._randomness)
        self._journal.append("VALUE", name=self.name, t=t, integers=integers)
        self._drawn.append(integers)
        self._finish(t)

    def _finish(self, t: int) -> None:
        """Make sure that a step that was drawn can never be drawn again, then forget what is not needed any more."""
        self._journal.fix()
        self._journal.append("DONE", name=self.name, t=t)
        if t == self.steps:
            self._journal.secrets.keep(self.name, 1, 0)
        elif self.mechanism.small_state:
            self._journal.secrets.forget(self.name, t - 1)

    def _resume(self) -> None:
        mine = [entry for entry in self._journal.entries if entry.body.get("name") == self.name]
        self._fixed = [entry.body for entry in mine if entry.kind == "INTENT"]
        self._drawn = [entry.body["integers"] for entry in mine if entry.kind == "VALUE"]
        done = sum(entry.kind == "DONE" for entry in mine)
        last = len(self._fixed)
        first = max(last, 1) if self.mechanism.small_state else 1
        if done == self.steps:
            # Nothing is drawn any more, and what it was drawn from is gone.
            first, last = 1, 0
        for t in range(first, last + 1):
            arrays = self._journal.secrets.read(self.name, t, self._fixed[t - 1]["secret"])
            self._ledger = self._ledger.restored(arrays)
            if self.mechanism.small_state:
                self._state = tuple(arrays[f"state.{i}"] for i in range(len(self._state)))
            else:
                self._state = self.mechanism.absorb(self._state, t, arrays["total"])
        # Also of a step that was killed before it was fixed.
        self._journal.secrets.keep(self.name, first, last)
        if last > len(self._drawn):
            self._publish(last)
        elif last > done:
            self._finish(last)

    def _release(self, t: int) -> Release:
        if t in self._releases:
            return self._releases[t]
        mechanism = self.mechanism
        estimate = mechanism.estimate(tuple(self._drawn[:t]))
        self._releases[t] = Release(
            name=self.name,
            t=t,
            features=tuple(mechanism.features),
            values=_closed(estimate.values),
            sd=_closed(estimate.sd),
            extra={key: _closed(value) for key, value in estimate.extra.items()},
            rho=mechanism.rho,
            delta=self._delta,
            unit=self.unit,
            mechanism=mechanism.describe(),
            safe=self._journal.audit.safe,
            _made_by=mechanism,
        )
        return self._releases[t]

    def gaps(self) -> list[Gap]:
        """Return what releasing after every step costs beside releasing once, from public numbers alone."""
        return price_of(self.mechanism)

    def __repr__(self) -> str:
        return f"RunningStatistic({self.name!r}: {self.published} of {self.steps} steps, {self.mechanism.describe()})"


def _closed(array: np.ndarray) -> np.ndarray:
    copy = np.array(array)
    copy.setflags(write=False)
    return copy
