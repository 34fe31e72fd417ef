"""The path over strengths of a penalty: error against sparsity, of laws that were learnt side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellgap.dynamics._trajectories import Trajectories

if TYPE_CHECKING:
    from cellgap.dynamics._fitted_law import FittedLaw


@dataclass(frozen=True, eq=False)
class LambdaPath:
    """Laws of many strengths.

    Parameters
    ----------
    table
        A row a strength: ``strength, train, valid, test`` (mean squared errors of forecasts, in the units of the
        data; nan where there are no such trajectories), ``weights, paths, gates, spurious`` (shares that are zero; see
        `sparsity`), ``edges`` (that are kept) and ``stability``.
    laws
        One a strength.
    """

    table: pd.DataFrame
    laws: "tuple[FittedLaw, ...]"

    def best(self, column: str = "valid", *, tolerance: float = 0.1) -> "FittedLaw":
        """Return the law of the largest strength whose error is close to the lowest one.

        Parameters
        ----------
        column
            Whose error; that of training where nothing was held out.
        tolerance
            How much higher than the lowest it may be, as a share: of laws that forecast alike, the sparsest.
        """
        errors = self.table[column].to_numpy(float)
        errors = errors if np.isfinite(errors).any() else self.table["train"].to_numpy(float)
        close = np.flatnonzero(errors <= (1.0 + tolerance) * np.nanmin(errors))
        return self.laws[int(close[np.argmax(self.table["strength"].to_numpy(float)[close])])]


def path_table(
    laws: "Sequence[FittedLaw]",
    strengths: Sequence[float],
    train: Trajectories,
    valid: Trajectories | None,
    test: Trajectories | None,
    regulators: Sequence[str] | None,
) -> pd.DataFrame:
    """Return the table of a path; see `LambdaPath`."""
    rows = []
    for law, strength in zip(laws, strengths, strict=True):
        network = law.network()
        rows.append(
            {"strength": float(strength)}
            | {name: law.error(of) for name, of in (("train", train), ("valid", valid), ("test", test))}
            | law.sparsity(regulators)
            | {"edges": int(network.kept.to_numpy().sum()), "stability": network.stability}
        )
    return pd.DataFrame(rows)
