"""What an evaluation found: one tidy table, its summary, paired comparisons, and how it prints."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellgap.errors import ConfigError, MissingExtraError
from cellgap.evaluate._bootstrap import Resamples, interval, paired_bootstrap
from cellgap.evaluate._catalog import CAPTURED
from cellgap.evaluate._comparison import Comparison
from cellgap.evaluate._populations import Populations
from cellgap.evaluate._predictors import CONTROL, MEAN_EFFECT, REPLICATE
from cellgap.evaluate._scale import merit, scale
from cellgap.evaluate._table import Key, Series, aligned, scale_of, series_of, with_scale

if TYPE_CHECKING:
    from rich.console import RenderableType


_SUMMARY = (
    *("predictor", "metric", "space", "mean", "low", "high"),
    *("scaled", "scaled_low", "scaled_high", "n_conditions", "kind"),
)
_COMPARISONS = (
    *("a", "b", "metric", "space", "n_conditions", "difference", "low", "high"),
    *("gain", "gain_low", "gain_high", "share", "beats"),
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of models and baselines on the held-out conditions of a split; made by `evaluate`.

    Parameters
    ----------
    table
        One row a predictor, condition, space, metric and draw: ``predictor, condition, space, metric, value, scaled,
        n_pred, n_true, seed, note``. A value that is undefined or could not be computed is NaN, with the reason in
        ``note`` where there is one. ``scaled`` is `cellgap.evaluate.scale` against the mean over draws of the two
        anchors of the condition.
    conditions
        One row a scored condition and space: number of cells drawn and available, kernel bandwidth, mean cost, and
        the absolute epsilon (a share of the mean cost).
    kinds
        ``"model"``, ``"baseline"`` or ``"anchor"`` by predictor, in the order of the table.
    unscored
        Reason by test condition that was not scored.
    settings
        Arguments and split of the evaluation.
    populations
        Cells of each scored condition in gene space, by condition, for figures.
    """

    table: pd.DataFrame
    conditions: pd.DataFrame
    kinds: Mapping[str, str]
    unscored: Mapping[str, str]
    settings: Mapping[str, Any]
    populations: Populations

    @property
    def predictors(self) -> tuple[str, ...]:
        """All predictors, models first."""
        return tuple(self.kinds)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that were evaluated."""
        return tuple(name for name, kind in self.kinds.items() if kind == "model")

    @property
    def spaces(self) -> tuple[str, ...]:
        """Spaces in which was measured, genes first."""
        return tuple(sorted(self.table["space"].unique()))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics in the table, in its order."""
        return tuple(self.table["metric"].unique())

    @functools.cached_property
    def _series(self) -> dict[Key, Series]:
        return series_of(self.table)

    def values(self, predictor: str, metric: str, space: str | None = None) -> pd.DataFrame:
        """Return the values of one predictor and metric, conditions by seeds of the draws.

        Conditions without a value in every draw are left out.

        Parameters
        ----------
        predictor, metric
            Names as in the table.
        space
            ``"latent"`` or ``"genes"``; by default genes where measured there.

        Raises
        ------
        ConfigError
            There is no such predictor, metric or space.
        """
        space = self.spaces[0] if space is None else space
        self._refuse_unknown(predictor, space, metric)
        series = self._series[predictor, space, metric]
        index, columns = pd.Index(series.conditions, name="condition"), pd.Index(series.seeds, name="seed")
        return pd.DataFrame(series.values, index=index, columns=columns)

    def _refuse_unknown(self, *key: str) -> None:
        if key in self._series:
            return
        for i, (what, value) in enumerate(zip(("predictor", "space", "metric"), key, strict=True)):
            known = list(dict.fromkeys(other[i] for other in self._series))
            if value not in known:
                raise ConfigError(f"the evaluation has no {what} {value!r}: choose from {', '.join(known)}.")
        raise ConfigError(f"{key[2]!r} was not computed for {key[0]!r} in the space {key[1]!r}.")

    @functools.cached_property
    def _summary(self) -> pd.DataFrame:
        rows = []
        for predictor, space, metric in self._series:
            (values,) = self._common((predictor,), space, metric)
            mean, low, high = _mean_and_interval(values)
            scaled = self._scaled(predictor, space, metric)
            row = (predictor, metric, space, mean, low, high, *scaled, len(values), self.kinds[predictor])
            rows.append(dict(zip(_SUMMARY, row, strict=True)))
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """Return the mean over conditions of each predictor, space and metric, with 95 % intervals.

        Columns ``predictor, metric, space, mean, low, high, scaled, scaled_low, scaled_high, n_conditions, kind``.
        Intervals are bootstrapped over conditions and draws, NaN for a single condition. ``scaled`` compares means
        over conditions, ``(mean value - mean of the mean effect) / (mean of the replicate - mean of the mean
        effect)``, because single conditions whose anchors nearly agree would dominate a mean of ratios. For the same
        reason a captured share is ``1 - mean D(P, Q) / mean D(C, Q)``.
        """
        return self._summary.copy()

    def _common(self, names: Sequence[str], space: str, metric: str) -> list[np.ndarray]:
        """Return the values of predictors on the conditions and draws that all have, conditions by draws.

        Their mean over conditions is the summary. A captured share is therefore taken of the distance of the controls
        averaged over these conditions.
        """
        distance = CAPTURED.get(metric, metric)
        every = [*names, CONTROL] if metric in CAPTURED else list(names)
        series = [self._series.get((name, space, distance)) for name in every]
        found = aligned([one for one in series if one is not None])
        if len(found) < len(every) or not found[0].size:
            return [np.zeros((0, 1)) for _ in names]
        if metric not in CAPTURED:
            return found
        control = float(found[-1].mean())
        return [1.0 - values / (control if control > 0 else float("nan")) for values in found[:-1]]

    def _scaled(self, predictor: str, space: str, metric: str) -> tuple[float, float, float]:
        found = self._common((predictor, MEAN_EFFECT, REPLICATE), space, metric)
        value, zero, one = (merit(values, metric) for values in found)
        if not len(value):
            return float("nan"), float("nan"), float("nan")
        resamples = Resamples.of(*value.shape)
        resampled = scale_of(*(resamples.means(x) for x in (value, zero, one)))
        point = scale(float(value.mean()), float(zero.mean()), float(one.mean()))
        return (point, *interval(resampled, n_conditions=len(value)))

    def compare(self, a: str, b: str, metric: str, space: str | None = None) -> Comparison:
        """Return whether predictor `a` beats `b` on a metric, by a bootstrap over the conditions that both answered.

        Parameters
        ----------
        a, b, metric
            Names as in the table.
        space
            ``"latent"`` or ``"genes"``; by default genes where measured there.

        Raises
        ------
        ConfigError
            There is no such predictor, metric or space.
        """
        space = self.spaces[0] if space is None else space
        for name in (a, b):
            self._refuse_unknown(name, space, metric)
        first, second = (merit(values, metric) for values in self._common((a, b), space, metric))
        _, _, zero, one = (
            merit(values, metric) for values in self._common((a, b, MEAN_EFFECT, REPLICATE), space, metric)
        )
        unit = float(one.mean() - zero.mean()) if len(one) else float("nan")
        unit = unit if unit > 0 else float("nan")
        return Comparison(a, b, metric, space, paired_bootstrap(first, second), unit)

    @functools.cached_property
    def comparisons(self) -> pd.DataFrame:
        """Every model against every other predictor, on every metric and space.

        Columns ``a, b, metric, space, n_conditions, difference, low, high`` (on the scale), ``gain, gain_low,
        gain_high`` (in the unit of the metric, positive where `a` is better), ``share`` and ``beats``.
        """
        rows = []
        pairs = [(a, b) for a in self.models for b in self.predictors if a != b]
        for (a, b), space, metric in itertools.product(pairs, self.spaces, self.metrics):
            if (a, space, metric) in self._series and (b, space, metric) in self._series:
                found = self.compare(a, b, metric, space)
                if found.n_conditions:
                    gain = found.gain
                    row = (a, b, metric, space, found.n_conditions, found.difference, found.low, found.high)
                    row = (*row, gain.difference, gain.low, gain.high, found.share, found.beats)
                    rows.append(dict(zip(_COMPARISONS, row, strict=True)))
        return pd.DataFrame(rows, columns=pd.Index(_COMPARISONS))

    def rescaled(self, zero: str = CONTROL, one: str = REPLICATE) -> pd.DataFrame:
        """Return the table with ``scaled`` measured between two other predictors.

        With the defaults it is the normalized score ``(control - model) / (control - floor)`` of the transport
        literature: 0 = controls unchanged, 1 = the noise floor.

        Raises
        ------
        ConfigError
            There is no such predictor.
        """
        for name in (zero, one):
            if name not in self.kinds:
                raise ConfigError(f"the evaluation has no predictor {name!r}: choose from {', '.join(self.kinds)}.")
        return with_scale(self.table, zero, one)

    def to_csv(self, path: str | Path) -> None:
        """Write the table as CSV."""
        self.table.to_csv(path, index=False)

    def to_parquet(self, path: str | Path) -> None:
        """Write the table as Parquet.

        Raises
        ------
        MissingExtraError
            Neither pyarrow nor fastparquet is installed.
        """
        try:
            self.table.to_parquet(path, index=False)
        except ImportError:
            raise MissingExtraError(
                "writing Parquet needs pyarrow, which is not installed: run `pip install pyarrow`, or use to_csv."
            ) from None

    def __rich__(self) -> "RenderableType":
        from cellgap.evaluate._printing import rendered

        return rendered(self)

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=120, no_color=True)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    def __repr__(self) -> str:
        n = len(set(self.table["condition"]))
        return f"Evaluation of {', '.join(self.models)} on {n} conditions ({len(self.table):,} scores)"


def _mean_and_interval(values: np.ndarray) -> tuple[float, float, float]:
    if not values.size:
        return float("nan"), float("nan"), float("nan")
    return (float(values.mean()), *interval(Resamples.of(*values.shape).means(values), n_conditions=len(values)))
