"""Cells of a type that was not among the labels: how far from all types is too far, and how unsure is too unsure."""

from dataclasses import dataclass

import equinox as eqx
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from cellgap.storage import storable

_GRID = 40
_SAMPLE = 20_000
# Where all known cells are told with certainty, a cell is not unsure for a rounding error.
_SURE = 1.0 - 1e-9


@storable
class Prototypes(eqx.Module):
    """Means of classes, and a distance to them in units of the spread within classes.

    Parameters
    ----------
    means
        Of every class; NaN for one without cells.
    whitening
        Takes coordinates to ones with unit variance within classes.
    """

    means: Float[np.ndarray, "classes dim"]
    whitening: Float[np.ndarray, "dim dim"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "cells dim"], y: Int[np.ndarray, " cells"], n_classes: int) -> "Prototypes":
        """Return the means of classes; the common covariance within classes is shrunk as Ledoit and Wolf do."""
        x = np.asarray(x, np.float64)
        means = np.full((n_classes, x.shape[1]), np.nan)
        for c in np.unique(y):
            means[c] = x[y == c].mean(axis=0)
        rows = np.random.default_rng(0).permutation(len(x))[:_SAMPLE]
        covariance, _ = ledoit_wolf(x[rows] - means[y[rows]], assume_centered=True)
        values, vectors = np.linalg.eigh(covariance)
        return cls(means, vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1])))

    def distance(self, x: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, " cells"]:
        """Return the distance of cells to the nearest mean, 1 being that of a typical cell of a class."""
        z = np.asarray(x, np.float64) @ np.asarray(self.whitening)
        means = np.asarray(self.means) @ np.asarray(self.whitening)
        means = means[np.isfinite(means).all(axis=1)]
        squares = (z**2).sum(axis=1)[:, None] - 2 * z @ means.T + (means**2).sum(axis=1)
        return np.sqrt(np.maximum(squares.min(axis=1), 0.0) / z.shape[1])


@storable
@dataclass(frozen=True)
class Thresholds:
    """Where a cell is left unassigned.

    Parameters
    ----------
    probability
        Below it.
    distance
        Above it.
    unassigned
        Share of known cells of domains that were left out which the thresholds leave unassigned.
    false_assignment
        Share of the cells of a type that was left out of the labels which still get one, meaned over types; NaN where
        no type could be left out.
    reached
        Whether `false_assignment` is as low as was asked for.
    """

    probability: float
    distance: float
    unassigned: float
    false_assignment: float
    reached: bool

    def novelty(
        self, probability: Float[np.ndarray, " cells"], distance: Float[np.ndarray, " cells"]
    ) -> Float[np.ndarray, " cells"]:
        """Return how new cells look: above 1 they are left unassigned."""
        unsure = (1.0 - probability) / max(1.0 - self.probability, 1e-9)
        return np.maximum(distance / self.distance, unsure)


@dataclass(frozen=True)
class Seen:
    """Largest probability and distance of some cells.

    Parameters
    ----------
    probability, distance
        See there.
    """

    probability: Float[np.ndarray, " cells"]
    distance: Float[np.ndarray, " cells"]

    def kept(self, known: Bool[np.ndarray, " cells"]) -> "Seen":
        """Return these cells alone."""
        return Seen(self.probability[known], self.distance[known])


def thresholds_of(
    known: Seen, unseen: dict[str, Seen], *, false_assignment: float, most_unassigned: float
) -> tuple[Thresholds, pd.DataFrame]:
    """Return the thresholds, and a table of the types that were left out.

    Both thresholds take the same share of known cells. It is the smallest that brings the false assignments down to
    what is asked for, and at most `most_unassigned`.

    Parameters
    ----------
    known
        Cells of domains that were left out, of types that were not.
    unseen
        Cells of types that were left out, by type.
    false_assignment
        Share of unseen cells that may get a label, meaned over types.
    most_unassigned
        Most known cells that may be left unassigned.

    Returns
    -------
    thresholds, table
        The table has the columns ``class, n_cells, labelled`` (share that still gets a label) and ``auroc`` (of the
        novelty against known cells).
    """
    best = None
    for share in np.linspace(0.0, most_unassigned, _GRID + 1)[1:]:
        p = min(float(np.quantile(known.probability, share / 2)), _SURE)
        d = float(np.quantile(known.distance, 1 - share / 2))
        rates = [float(((u.probability >= p) & (u.distance <= d)).mean()) for u in unseen.values()]
        rate = float(np.mean(rates)) if rates else float("nan")
        out = float(((known.probability < p) | (known.distance > d)).mean())
        best = Thresholds(p, d, out, rate, bool(rate <= false_assignment))
        if best.reached or not rates:
            break
    assert best is not None
    familiar = best.novelty(known.probability, known.distance)
    rows = []
    for name, cells in unseen.items():
        new = best.novelty(cells.probability, cells.distance)
        truth = np.r_[np.zeros(len(familiar)), np.ones(len(new))]
        rows.append(
            {
                "class": name,
                "n_cells": len(new),
                "labelled": float((new <= 1).mean()),
                "auroc": float(roc_auc_score(truth, np.r_[familiar, new])),
            }
        )
    return best, pd.DataFrame(rows, columns=pd.Index(["class", "n_cells", "labelled", "auroc"]))
