"""Whether one predictor beats another."""

from dataclasses import dataclass

from cellgap.evaluate._bootstrap import PairedDifference


@dataclass(frozen=True)
class Comparison:
    """Whether one predictor beats another, paired over the conditions that both answered.

    Parameters
    ----------
    a, b, metric, space
        What is compared: positive differences mean that `a` is better.
    gain
        Difference in the unit of the metric (of its ``|log|`` where 1 is best), turned so that positive is better.
    unit
        What 1 on the scale is worth, in that unit: from the mean effect to the replicate, averaged over the same
        conditions. NaN where the replicate is not better than the mean effect, so that there is no scale.
    """

    a: str
    b: str
    metric: str
    space: str
    gain: PairedDifference
    unit: float

    @property
    def n_conditions(self) -> int:
        """Conditions compared."""
        return self.gain.n_conditions

    @property
    def difference(self) -> float:
        """Mean difference on the scale: 1 is from the mean effect to the replicate."""
        return self.gain.difference / self.unit

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of `difference`."""
        return self.gain.low / self.unit

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval of `difference`."""
        return self.gain.high / self.unit

    @property
    def share(self) -> float:
        """Share of the conditions in which `a` is better."""
        return self.gain.share

    @property
    def beats(self) -> bool:
        """Whether the 95 % interval of the difference lies above 0."""
        return self.gain.beats

    def __str__(self) -> str:
        verdict = "beats" if self.beats else "does not beat"
        return (
            f"{self.a} {verdict} {self.b} on {self.metric} ({self.space}): better in {self.share:.0%} of "
            f"{self.n_conditions} conditions, "
            f"gain {self.gain.difference:.3g} [{self.gain.low:.3g}, {self.gain.high:.3g}]"
        )
