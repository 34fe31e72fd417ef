"""What is published: noisy values with the size of their noise and the guarantee, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from cellgap.errors import ConfigError
from cellgap.stream.release._accounting import epsilon_tight
from cellgap.stream.release._bounds import Unit
from cellgap.stream.release._interface import AbstractMechanism

NOT_PRIVATE = "NOT PRIVATE: made with a seeded generator"
PROTECTS: Mapping[Unit, str] = {
    "donor": "one donor, with all its cells at all steps",
    "donor_plate": "one donor on one plate; a donor on several plates is protected less",
    "cell": "one cell; a donor is hardly protected",
}


@dataclass(frozen=True, eq=False)
class Release:
    """The state of a running statistic after a step, safe to publish.

    Parameters
    ----------
    name
        Of the statistic.
    t
        The step; the first is 1.
    features
        Names of the coordinates of a contribution.
    values
        Estimates in the unit of the contributions, (features,); for selections the indices of the chosen features, best
        first.
    sd
        Standard deviation of the noise of each value, nan where it has no single scale.
    extra
        Further public arrays by name.
    rho
        What all steps of this statistic cost together (zero-concentrated differential privacy), exactly.
    delta
        Of the guarantee (epsilon, delta); None where the budget was given in rho alone.
    unit
        Whose removal the guarantee is about.
    mechanism
        How the values were made, in one line.
    safe
        Whether the noise protects anybody.
    """

    name: str
    t: int
    features: tuple[str, ...]
    values: np.ndarray
    sd: np.ndarray
    extra: Mapping[str, np.ndarray]
    rho: Fraction
    delta: float | None
    unit: Unit
    mechanism: str
    safe: bool
    _made_by: AbstractMechanism = field(repr=False)

    def bound(self, beta: float = 0.05) -> float:
        """Return by how much values of any step may be off, with probability `beta` of more.

        Simultaneous over all steps and features; noise and waiting, not clipping.

        Parameters
        ----------
        beta
            Between 0 and 1.
        """
        return self._made_by.bound(self.t, beta)

    def epsilon(self, delta: float | None = None) -> float:
        """Return the epsilon of the guarantee (epsilon, delta) for all steps of this statistic.

        Parameters
        ----------
        delta
            The budget's where it is left out.

        Raises
        ------
        ConfigError
            Neither has a delta.
        """
        delta = self.delta if delta is None else delta
        if delta is None:
            raise ConfigError("an epsilon needs a delta: give epsilon(delta=...), or the budget a delta.")
        return epsilon_tight(self.rho, delta) if self.rho > 0 else 0.0

    @property
    def selects(self) -> bool:
        """Whether the values are indices of features."""
        return "select" in str(self._made_by.public()["kind"]).lower()

    @property
    def labels(self) -> list[str]:
        """What each value is: of a feature, a quantile, or the largest sum."""
        public = self._made_by.public()
        if self.selects:
            return [self.features[int(index)] for index in self.values]
        if "quantiles" in public:
            return [f"quantile {level:g}" for level in public["quantiles"]]
        return list(self.features) if len(self.values) == len(self.features) else ["largest sum"] * len(self.values)

    def top(self, q: int = 1, beta: float = 0.05) -> tuple[list[str], float]:
        """Return the features of the `q` largest sums, best first, and by how much the last may be too small.

        Post-processing of running sums that are released anyway: it costs nothing. With probability ``1 - beta`` each
        chosen sum is within the returned regret, twice the bound, of the one that belongs in its place.

        Raises
        ------
        ConfigError
            The release is none of running sums, or has fewer features.
        """
        if len(self.values) != len(self.features) or self.selects:
            raise ConfigError(f"{self.name!r} does not release running sums: its top features are not known.")
        if not 1 <= q <= len(self.features):
            raise ConfigError(f"q must be from 1 to {len(self.features)}, found {q}.")
        order = np.argsort(-self.values, kind="stable")[:q]
        return [self.features[int(j)] for j in order], 2 * self.bound(beta)

    def frame(self) -> pd.DataFrame:
        """Return a table: feature, value, sd and the bound at 95 %.

        With a count also mean and its own bounds at 95 %; for selections rank and feature; for quantiles the values
        between which they lie, since their bound is one of ranks.
        """
        if self.selects:
            return pd.DataFrame({"rank": np.arange(1, len(self.values) + 1), "feature": self.labels})
        table: dict[str, Any] = {"feature": self.labels, "value": self.values}
        if "quantiles" in self._made_by.public():
            return pd.DataFrame(table | {"low": self.extra["low"], "high": self.extra["high"]})
        table |= {"sd": self.sd, "bound": np.full(len(self.values), self.bound(0.05))}
        if "means" in self.extra:
            table |= {"mean": self.extra["means"]}
            table |= {"mean_low": self.extra["means_low"], "mean_high": self.extra["means_high"]}
        return pd.DataFrame(table)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values; nan as None, rho as an exact fraction."""
        return {
            "name": self.name,
            "t": self.t,
            "features": list(self.features),
            "values": _listed(self.values),
            "sd": _listed(self.sd),
            "extra": {key: _listed(value) for key, value in self.extra.items()},
            "bound": _listed(np.array([self.bound(0.05)]))[0],
            "rho": str(self.rho),
            "epsilon": None if self.delta is None else self.epsilon(),
            "delta": self.delta,
            "unit": self.unit,
            "mechanism": self.mechanism,
            "safe": self.safe,
        } | ({} if self.safe else {"warning": NOT_PRIVATE})

    def __repr__(self) -> str:
        noise = [f" ± {sd:.2g}" if np.isfinite(sd) else "" for sd in self.sd]
        shown = self.labels if self.selects else [f"{x:.6g}{sd}" for x, sd in zip(self.values, noise, strict=True)]
        more = f", ... ({len(shown)})" if len(shown) > 4 else ""
        cost = f"rho = {float(self.rho):.4g}"
        if self.delta is not None:
            cost += f", epsilon = {self.epsilon():.4g} at delta = {self.delta:.2g}"
        lines = [
            f"Release {self.name!r} at step {self.t}: {', '.join(shown[:4])}{more}",
            f"  {self.mechanism}",
            f"  {cost} for all steps; protects {PROTECTS[self.unit]}",
        ]
        return "\n".join(lines if self.safe else [*lines, f"  {NOT_PRIVATE}"])


def _listed(array: np.ndarray) -> Any:
    """Return nested lists of plain numbers, without nan and inf, which JSON does not have."""
    if array.dtype.kind != "f":
        return array.tolist()
    plain = array.astype(object)
    plain[~np.isfinite(array)] = None
    return plain.tolist()
