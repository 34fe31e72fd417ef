"""The page of private releases: what is protected and what it cost, and released numbers with their bounds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from cellgap import __version__
from cellgap.errors import DataError, StorageError
from cellgap.report._draw import drawing
from cellgap.report._release_figures import RHO, budget_picture, courses_picture, last_picture
from cellgap.report._template import environment, style
from cellgap.report._verdict import Verdict
from cellgap.report._words import MINUS, count, flatten, number

NOTHING = np.zeros((0, 0))
_KINDS = {
    "sum": "running sums",
    "mean": "running means",
    "max": "running maximum",
    "select": "running selection",
    "quantile": "running quantiles",
}
_ROWS = 200  # rows of a table of values, or of selections
_WEAK = 10.0  # an epsilon above it promises little


@dataclass(frozen=True, eq=False)
class ReleasedStatistic:
    """What was released of one running statistic; released numbers only.

    Parameters
    ----------
    name
        Of the statistic.
    kind
        "sum", "mean", "max", "select" or "quantile".
    mechanism
        How the values were made, in a sentence.
    rho
        What all its steps cost together.
    epsilon
        The same as an epsilon at the delta of the page; nan where there is no delta.
    times
        Steps that were released.
    features
        Names of the columns of `values`; may be left out for quantiles, and for one maximum.
    values
        Released values, (steps, features); for quantiles (steps, quantiles); empty for selections.
    sd
        Standard deviations of the noise, nan where there is no single scale; empty: none.
    bound
        By how much values may be off, at all steps and features together with 95 %; one number, or one a step. For
        selections: by how much the sum of a selected feature may be below that of the one it stands for.
    low, high
        Ends of intervals in place of ``values ± bound`` (means, quantiles), as `values`; an end may be infinite.
    unit
        Of the values.
    selected
        Of selections: names chosen at each of `times`, the best first.
    quantiles
        Which, between 0 and 1.

    Raises
    ------
    DataError
        Shapes contradict one another.
    """

    name: str
    kind: Literal["sum", "mean", "max", "select", "quantile"]
    mechanism: str
    rho: float
    epsilon: float
    times: np.ndarray
    features: tuple[str, ...] = ()
    values: Float[np.ndarray, "steps columns"] = field(default_factory=lambda: NOTHING)
    sd: Float[np.ndarray, "steps columns"] = field(default_factory=lambda: NOTHING)
    bound: float | Float[np.ndarray, " steps"] = math.nan
    low: Float[np.ndarray, "steps columns"] = field(default_factory=lambda: NOTHING)
    high: Float[np.ndarray, "steps columns"] = field(default_factory=lambda: NOTHING)
    unit: str = ""
    selected: tuple[tuple[str, ...], ...] = ()
    quantiles: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise DataError(f"{self.name!r} is of the unknown kind {self.kind!r}: choose from {', '.join(_KINDS)}.")
        t = len(self.times)
        if self.kind == "select":
            fits = len(self.selected) == t
        else:
            shape = (t, len(self.columns)) if t else self.values.shape
            given = [array for array in (self.sd, self.low, self.high) if array.size]
            fits = self.values.shape == shape and all(array.shape == shape for array in given)
            fits = fits and bool(self.low.size) == bool(self.high.size) and np.size(self.bound) in (1, t)
        if not fits:
            raise DataError(f"Values of {self.name!r} do not fit its {count(t, 'step')} and its columns.")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `values`."""
        if self.kind == "quantile":
            return tuple(f"quantile {level:g}" for level in self.quantiles)
        if self.kind == "max" and len(self.features) != self.values.shape[-1]:
            return ("largest sum",)
        return self.features

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of the intervals of all values; nan where there are none."""
        if self.low.size:
            return self.low, self.high
        bound = np.broadcast_to(np.reshape(np.asarray(self.bound, float), (-1, 1)), self.values.shape)
        return self.values - bound, self.values + bound


@dataclass(frozen=True, eq=False)
class ReleaseData:
    """What the page of private releases shows: released numbers and public facts, nothing else.

    Parameters
    ----------
    title, subtitle
        At the head of the page.
    statistics
        What was released.
    rho_total, rho_spent
        Of the budget.
    delta, epsilon_total, epsilon_spent
        The same as a guarantee (epsilon, delta); nan: no delta was given.
    unit
        Whose removal is hidden: "donor", "donor_plate" or "cell".
    steps
        Steps that were declared in public.
    safe
        Whether the noise protects anybody; False for a seeded generator.
    settings
        What was declared in public before the stream.
    notes
        Sentences to know when reading the page.
    """

    title: str
    subtitle: str
    statistics: tuple[ReleasedStatistic, ...]
    rho_total: float
    rho_spent: float
    delta: float = math.nan
    epsilon_total: float = math.nan
    epsilon_spent: float = math.nan
    unit: str = "donor"
    steps: int = 0
    safe: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def write_release_report(data: ReleaseData, path: str | Path) -> Path:
    """Return the path of the page written from `data`: one HTML file that needs nothing else, not even a script.

    Parameters
    ----------
    data
        What to show.
    path
        Where to write; missing folders are made, an existing file is replaced.

    Raises
    ------
    StorageError
        `path` is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise StorageError(f"The report needs the name of a file, but {str(target)!r} is a folder. Add a name.")
    templates = environment()
    with drawing():
        budget = budget_picture(data)
        statistics = [_shown(statistic, f"s{place}") for place, statistic in enumerate(data.statistics)]
    page = templates.get_template("release.html").render(
        data=data,
        version=__version__,
        css=style(templates),
        verdict=release_verdict(data),
        protected=_protected(data.unit),
        budget=budget,
        costs=_costs(data),
        statistics=statistics,
        kinds={statistic.kind for statistic in data.statistics},
        settings=flatten(data.settings),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8", newline="\n")
    return target


def release_verdict(data: ReleaseData) -> Verdict:
    """Return what the guarantee of all releases is, in words."""
    spent = f"{number(data.rho_spent)} of {RHO} = {number(data.rho_total)} is reserved"
    if data.rho_spent < data.rho_total:
        spent += f"; {number(data.rho_total - data.rho_spent)} is left for further statistics"
    if not data.safe:
        return Verdict("worse", "These numbers protect nobody.", (
            "Their noise comes from a seeded generator. Make them again without unsafe_testing before they are shown.",
        ))  # fmt: skip
    if not data.statistics:
        return Verdict("unknown", "Nothing has been released.", (f"Of the budget {spent}.",))
    who = _protected(data.unit)
    if data.rho_spent > data.rho_total * (1 + 1e-9):
        lead, tone = "More is spent than the budget allows: what was promised does not hold.", "worse"
    elif not math.isfinite(data.epsilon_spent):
        lead, tone = f"Protected: {who}, with {RHO} = {number(data.rho_spent)}.", "better"
    else:
        lead = f"Protected: {who}, with ε = {number(data.epsilon_spent)} at δ = {_short(data.delta)}."
        tone = "better" if data.epsilon_spent <= _WEAK and data.unit == "donor" else "unclear"
    spent_on = f"{RHO} = {number(data.rho_spent)} (zero-concentrated differential privacy)"
    sentences = [
        f"It costs {spent_on} for all releases on this page, and all further steps of these statistics, together."
    ]
    if math.isfinite(data.epsilon_spent):
        factor = math.exp(min(data.epsilon_spent, 700.0))
        sentences.append(
            f"Whoever sees all of them can move the odds of “this {_noun(data.unit)} is in the data” by at most a "
            f"factor e^ε = {number(factor)}, up to a probability δ."
        )
        if data.epsilon_spent > _WEAK:
            sentences.append(f"An ε above {_WEAK:g} promises little in the worst case.")
    sentences.append(f"Of the budget {spent}.")
    return Verdict(tone, lead, tuple(sentences))


def _short(x: float) -> str:
    return number(x, 2).replace(".0e", "e")


def _noun(unit: str) -> str:
    return {"donor": "donor", "donor_plate": "donor on this plate", "cell": "cell"}.get(unit, unit)


def _protected(unit: str) -> str:
    return {
        "donor": "one donor, with all its cells at all steps",
        "donor_plate": "one donor on one plate; a donor on several plates is protected less",
        "cell": "one cell; a donor is hardly protected",
    }.get(unit, f"one {unit}")


def _costs(data: ReleaseData) -> list[dict[str, str]]:
    return [
        {
            "name": s.name,
            "kind": _KINDS[s.kind],
            "steps": f"{len(s.times):,}" + (f" of {data.steps:,}" if data.steps else ""),
            "rho": number(s.rho),
            "share": f"{100 * s.rho / data.rho_total:.1f} %" if data.rho_total > 0 else "n/a",
            "epsilon": number(s.epsilon),
        }
        for s in data.statistics
    ]


def _shown(statistic: ReleasedStatistic, name: str) -> dict[str, Any]:
    """Return what the page shows of one statistic."""
    shown: dict[str, Any] = {
        "name": statistic.name, "kind": _KINDS[statistic.kind], "mechanism": statistic.mechanism, "missing": "",
        "reading": "", "pictures": [], "rows": [], "selected": [], "more": "", "last": "", "what": "",
    }  # fmt: skip
    if not len(statistic.times):
        return shown | {"missing": "No step has been released."}
    shown["last"] = f"{int(statistic.times[-1]):,}"
    worst = number(np.max(statistic.bound))
    unit = f" {statistic.unit}" if statistic.unit else ""
    bounded = bool(np.isfinite(statistic.bound).all())
    if statistic.kind == "select":
        if bounded:
            below = f"at most {worst}{unit} below the i-th largest"
            shown["reading"] = f"The sum of the i-th selected is {below}, with 95 % at all steps together."
        runs, kept = _runs(statistic), _ROWS
        return shown | {"selected": runs[-kept:], "more": _left_out(len(runs), kept, "the last")}
    if statistic.kind == "quantile":
        shown["reading"] = "Intervals hold for all steps and quantiles together with 95 %."
    elif statistic.low.size:
        shown["reading"] = "Intervals hold for all steps and features together with 95 %."
    elif bounded:
        shown["reading"] = f"All values at all steps are right within ± {worst}{unit}, with 95 % for all together."
    pictures = [courses_picture(statistic, f"{name}-course"), last_picture(statistic, f"{name}-last")]
    shown["pictures"] = [picture for picture in pictures if picture]
    last = statistic.values[-1]
    low, high = (ends[-1] for ends in statistic.ends())
    sd = statistic.sd[-1] if statistic.sd.size else np.full(len(last), np.nan)
    order = np.arange(len(last))
    if statistic.kind in ("sum", "mean"):
        order = np.argsort(-np.abs(np.nan_to_num(last)), kind="stable")
    told = (last, sd, low, high) if np.isfinite(sd).any() else (last, low, high)
    what = {"quantile": "Quantile", "max": "Maximum"}.get(statistic.kind, "Feature")
    shown["rows"] = [(statistic.columns[i], *(number(x[i]).replace("n/a", MINUS) for x in told)) for i in order[:_ROWS]]
    return shown | {
        "what": what,
        "noisy": len(told) == 4,
        "more": _left_out(len(last), _ROWS, "those of the largest size"),
    }


def _left_out(n: int, kept: int, which: str) -> str:
    return f"{kept:,} of {n:,} rows are shown: {which}. All are in the releases." if n > kept else ""


def _runs(statistic: ReleasedStatistic) -> list[tuple[str, tuple[str, ...]]]:
    """Return the selected names, steps that follow one another with the same names as one row."""
    made = []
    for names, run in groupby(zip(statistic.times, statistic.selected, strict=True), key=lambda pair: pair[1]):
        steps = [int(t) for t, _ in run]
        made.append((f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}", names))
    return made
