"""One total for all that is released of a data set, and the running statistics that it pays for."""

import itertools
import json
import os
import re
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np

from cellgap.errors import BudgetExhausted, ConfigError, PrivacyError, UnboundedContribution, UnsafeNoise
from cellgap.stream.release._accounting import epsilon_tight
from cellgap.stream.release._amounts import Amount, check_delta, one_of
from cellgap.stream.release._anchor import AbstractAnchor
from cellgap.stream.release._bounds import DonorBounds, Unit
from cellgap.stream.release._interface import AbstractMechanism
from cellgap.stream.release._journal import Journal
from cellgap.stream.release._mechanisms import mechanism_of
from cellgap.stream.release._randomness import AbstractRandomness, SystemRandomness
from cellgap.stream.release._release import NOT_PRIVATE, PROTECTS
from cellgap.stream.release._requests import requested
from cellgap.stream.release._running_max import choose_max
from cellgap.stream.release._running_quantile import KroneckerQuantile
from cellgap.stream.release._running_select import choose_select
from cellgap.stream.release._running_sum import FactorSum, TreeSum, choose_sum
from cellgap.stream.release._statistic import RunningStatistic

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NOT_COVERED = (
    "axes, means and everything else computed outside of these statistics; quality reports; running time and memory; "
    "error messages; bounds, features, bins or horizons that were chosen by looking at the data"
)


class PrivacyBudget:
    """The total privacy loss of a data set, kept in a journal on disk.

    A statistic reserves what all its steps cost when it is made; its releases cost nothing more, and what is reserved
    is never given back. Later statistics may be chosen after earlier releases were seen (a filter for
    zero-concentrated differential privacy). The folder of the journal is as sensitive as the cells.

    Parameters
    ----------
    rho, epsilon
        The total, one of the two; an epsilon together with `delta`.
    delta
        Of the guarantee (epsilon, delta) that is stated beside rho.
    unit
        Whose removal is hidden: "donor", or weaker "donor_plate" or "cell". Contributions are named by it.
    journal
        Folder; made where it does not exist. An existing one is continued, with the same total.
    anchor
        File outside of the folder (better: on another disk, never restored from backups), or an object that remembers
        the newest version; without one, a journal that was restored from a backup cannot be told.
    donors
        Public number of donors, to judge `delta` by.
    unsafe_testing
        Allow `randomness`; every release says for ever that it is not private.
    randomness
        Another source of noise than the operating system.

    Raises
    ------
    ConfigError
        The total, delta or unit is wrong.
    UnsafeNoise
        `randomness` is given without `unsafe_testing`.
    PrivacyError
        The journal is damaged, or its total, delta or unit is another.
    StaleState, ForkedState
        The journal is a restored backup, a copy, or in use.
    """

    def __init__(
        self,
        *,
        journal: str | os.PathLike[str],
        rho: Amount | None = None,
        epsilon: Amount | None = None,
        delta: float | None = None,
        unit: Unit = "donor",
        anchor: str | os.PathLike[str] | AbstractAnchor | None = None,
        donors: int | None = None,
        unsafe_testing: bool = False,
        randomness: AbstractRandomness | None = None,
    ) -> None:
        check_delta(delta)
        if unit not in get_args(Unit):
            raise ConfigError(f"unit has to be one of {', '.join(get_args(Unit))}, found {unit!r}.")
        self.total = one_of(None, delta, rho=rho, epsilon=epsilon)
        self.delta = delta
        self.unit: Unit = unit
        self._randomness = SystemRandomness() if randomness is None else randomness
        # A class of one's own may call itself safe: only the operating system's is.
        seeded = type(self._randomness) is not SystemRandomness
        if seeded and not unsafe_testing:
            raise UnsafeNoise(
                "noise from a generator of one's own protects nobody: leave out randomness=, or give "
                "unsafe_testing=True, which marks every release as not private."
            )
        if delta is not None and donors is not None and delta > 1 / (10 * donors):
            warnings.warn(
                f"delta = {delta:.2g} is large for {donors} donors: at most {1 / (10 * donors):.2g} is advised.",
                stacklevel=2,
            )
        self._journal = Journal(journal, anchor)
        self._statistics: dict[str, RunningStatistic] = {}
        try:
            self._check_total()
            self._journal.begin(rho=str(self.total), delta=delta, unit=unit, format=1)
            if (seeded or unsafe_testing) and self._journal.audit.safe:
                self._journal.append("UNSAFE")
        except BaseException:
            self._journal.close()
            raise

    def _check_total(self) -> None:
        if not self._journal.entries:
            return
        kept = self._journal.entries[0].body
        if (Fraction(kept["rho"]), kept["delta"], kept["unit"]) != (self.total, self.delta, self.unit):
            raise PrivacyError(
                f"the journal {self._journal.folder} was begun with rho = {kept['rho']}, delta = {kept['delta']} and "
                f"the unit {kept['unit']!r}: a total is set once. Give the same, or another journal for other data."
            )

    @property
    def spent(self) -> Fraction:
        """What is reserved, in rho."""
        return self._journal.audit.spent

    @property
    def remaining(self) -> Fraction:
        """What may still be reserved, in rho."""
        return self.total - self.spent

    @property
    def safe(self) -> bool:
        """Whether all noise ever drawn with this journal protects somebody."""
        return self._journal.audit.safe

    @property
    def names(self) -> tuple[str, ...]:
        """Statistics that have reserved, in that order."""
        return tuple(self._journal.audit.statistics)

    def add(self, mechanism: AbstractMechanism) -> RunningStatistic:
        """Return the running statistic of a mechanism after reserving what it costs.

        One that the journal knows, with the same configuration, is continued and costs nothing again; a step of it that
        was interrupted is finished.

        Parameters
        ----------
        mechanism
            Its name is unique in the budget.

        Raises
        ------
        BudgetExhausted
            Less is left than it costs.
        PrivacyError
            The name is taken by another configuration.
        UnboundedContribution
            It has no features or no steps.
        """
        name = mechanism.name
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"a statistic's name is of letters, digits, '_', '.' and '-', at most 64; found {name!r}."
            )
        if not mechanism.features or mechanism.steps < 1:
            raise UnboundedContribution(f"{name!r} needs a list of features and a number of steps.")
        public = json.loads(json.dumps(mechanism.public()))
        with self._journal.guard:
            self._journal.check()
            known = self._journal.audit.statistics
            if name in known:
                if (known[name].public, known[name].rho) != (public, mechanism.rho):
                    raise PrivacyError(
                        f"{name!r} is reserved with another configuration: give the same one, or another name "
                        "(and pay for it)."
                    )
            else:
                self._reserve(mechanism, public)
            if name not in self._statistics:
                self._statistics[name] = RunningStatistic(
                    mechanism, self._journal, self._randomness, self.unit, self.delta
                )
            return self._statistics[name]

    def _reserve(self, mechanism: AbstractMechanism, public: dict[str, Any]) -> None:
        name = mechanism.name
        # File systems may take two names that differ in case for one.
        if name.casefold() in {other.casefold() for other in self.names}:
            raise ConfigError(f"{name!r} differs from the name of another statistic in case alone: choose another.")
        if mechanism.rho > self.remaining:
            raise BudgetExhausted(
                f"{name!r} would cost rho = {float(mechanism.rho):.6g}, and {float(self.remaining):.6g} of "
                f"{float(self.total):.6g} is left: nothing was reserved."
            )
        self._journal.append("RESERVE", name=name, rho=str(mechanism.rho), steps=mechanism.steps, mechanism=public)
        self._journal.fix()

    def running_sum(
        self,
        name: str,
        features: Sequence[str] | None,
        steps: int | None,
        bounds: DonorBounds | None,
        *,
        mechanism: Literal["auto", "factor", "tree"] = "auto",
        share: Amount | None = None,
        rho: Amount | None = None,
        epsilon: Amount | None = None,
        count: bool = False,
    ) -> RunningStatistic:
        """Return a running sum of the donors' vectors, reserved or continued as by `add`.

        Parameters
        ----------
        name
            Unique in the budget.
        features
            Names of the coordinates.
        steps
            Steps to pay for.
        bounds
            Of a donor's contributions.
        mechanism
            "factor" (least noise), "tree" (any horizon, pure differential privacy), or by public numbers.
        share, rho, epsilon
            What it costs, one of the three: a part of the total, a rho, or the epsilon of pure differential privacy.
        count
            Also release the noisy number of donors, and means.

        Raises
        ------
        UnboundedContribution
            Features, steps or bounds are not given.
        BudgetExhausted
            Less is left than it costs.
        PrivacyError
            The name is taken by another configuration.
        """
        builders: dict[str, Callable[..., AbstractMechanism]]
        builders = {"auto": choose_sum, "factor": FactorSum, "tree": TreeSum}
        if mechanism not in builders or (mechanism == "factor" and epsilon is not None):
            raise ConfigError(
                f"mechanism has to be one of {', '.join(builders)}, and for pure differential privacy (epsilon=) not "
                f"factor; found {mechanism!r}."
            )
        loss = {"share": share, "rho": rho, "epsilon": epsilon}
        build = builders[mechanism]
        return self.add(requested(build, name, features, steps, bounds, self.total, count=count, **loss))

    def running_mean(
        self,
        name: str,
        features: Sequence[str] | None,
        steps: int | None,
        bounds: DonorBounds | None,
        *,
        mechanism: Literal["auto", "factor", "tree"] = "auto",
        share: Amount | None = None,
        rho: Amount | None = None,
        epsilon: Amount | None = None,
    ) -> RunningStatistic:
        """Return running sums together with the number of donors, so with means (in `Release.extra` and `frame`).

        Parameters are those of `running_sum`.
        """
        loss: dict[str, Any] = {"share": share, "rho": rho, "epsilon": epsilon}
        return self.running_sum(name, features, steps, bounds, mechanism=mechanism, count=True, **loss)

    def running_max(
        self,
        name: str,
        features: Sequence[str] | None,
        steps: int | None,
        bounds: DonorBounds | None,
        *,
        share: Amount | None = None,
        rho: Amount | None = None,
        epsilon: Amount | None = None,
    ) -> RunningStatistic:
        """Return the largest of the running sums, without its feature; parameters are those of `running_sum`."""
        loss = {"share": share, "rho": rho, "epsilon": epsilon}
        return self.add(requested(choose_max, name, features, steps, bounds, self.total, **loss))

    def running_select(
        self,
        name: str,
        features: Sequence[str] | None,
        steps: int | None,
        bounds: DonorBounds | None,
        *,
        q: int = 1,
        share: Amount | None = None,
        rho: Amount | None = None,
        epsilon: Amount | None = None,
    ) -> RunningStatistic:
        """Return the features of the `q` largest running sums, best first; parameters are those of `running_sum`."""
        loss = {"share": share, "rho": rho, "epsilon": epsilon}
        return self.add(requested(choose_select, name, features, steps, bounds, self.total, q=q, **loss))

    def running_quantile(
        self,
        name: str,
        steps: int | None,
        bounds: DonorBounds | None,
        *,
        bins: Sequence[float | int] | np.ndarray | None,
        quantiles: Sequence[float] = (0.5,),
        share: Amount | None = None,
        rho: Amount | None = None,
    ) -> RunningStatistic:
        """Return quantiles of a value over donors.

        Parameters
        ----------
        name, steps, bounds, share, rho
            See `running_sum`; the bounds need `l1`, of a donor's histogram.
        bins
            Edges, increasing and public; contributions are histograms, one weight a bin.
        quantiles
            Between 0 and 1.
        """
        edges = None if bins is None else [float(edge) for edge in bins]
        names = None if edges is None else [f"{low:g} to {high:g}" for low, high in itertools.pairwise(edges)]
        cost: dict[str, Any] = {"share": share, "rho": rho}
        cost |= {"edges": edges, "quantiles": [float(level) for level in quantiles]}
        return self.add(requested(KroneckerQuantile, name, names, steps, bounds, self.total, **cost))

    def statistic(self, name: str) -> RunningStatistic:
        """Return a statistic that has reserved before, rebuilt from the journal.

        Parameters
        ----------
        name
            One of `names`.

        Raises
        ------
        ConfigError
            There is none of that name.
        """
        if name in self._statistics:
            return self._statistics[name]
        if name not in self.names:
            raise ConfigError(f"no statistic {name!r} has reserved: known are {', '.join(self.names) or 'none'}.")
        return self.add(mechanism_of(dict(self._journal.audit.statistics[name].public)))

    def ranks(self, names: Sequence[str]) -> np.ndarray:
        """Return numbers that order cells (or anything with names) at random, the same way at every call, (names,).

        From a key of the journal: which cells of a donor are taken depends on their names alone, and nobody outside can
        tell which.
        """
        keyed = self._journal.secrets.digest
        return np.array([int(keyed("ranks", name.encode())[:16], 16) for name in names], np.uint64)

    def explain(self) -> str:
        """Return what was reserved by whom, what it guarantees, and what it does not."""
        rows = [("statistic", "steps", "rho", "epsilon", "mechanism")]
        for name, steps in self._journal.audit.statistics.items():
            done = f"{steps.published}/{steps.horizon}"
            rows.append((name, done, f"{float(steps.rho):.6g}", self._epsilon(steps.rho), str(steps.public["kind"])))
        rows.append(("all together", "", f"{float(self.spent):.6g}", self._epsilon(self.spent), ""))
        rows.append(("total", "", f"{float(self.total):.6g}", self._epsilon(self.total), ""))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        table = ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows]
        at = "" if self.delta is None else f" (epsilon at delta = {self.delta:.3g})"
        notes = [
            f"zero-concentrated differential privacy, rho{at}",
            f"protects {PROTECTS[self.unit]}",
            f"not covered: {NOT_COVERED}",
        ]
        if not self._journal.audit.anchored:
            notes.append("no anchor: a journal restored from a backup, or advanced as two copies, would go unnoticed")
        return "\n".join([*table, "", *notes] if self.safe else [NOT_PRIVATE, "", *table, "", *notes])

    def _epsilon(self, rho: Fraction) -> str:
        if self.delta is None or rho == 0:
            return "" if self.delta is None else "0"
        return f"{epsilon_tight(rho, self.delta):.4g}"

    def close(self) -> None:
        """Let go of the journal; may be called again."""
        self._journal.close()

    def __enter__(self) -> "PrivacyBudget":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"PrivacyBudget(rho spent {float(self.spent):.6g} of {float(self.total):.6g}, {len(self.names)} statistics)"
        )
