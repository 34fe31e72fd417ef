"""A fitted annotator: classes of cells with calibrated probabilities, reasons, and how far the fit can be trusted."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Array, Float, Int
from scipy.special import log_softmax

from cellgap import storage
from cellgap.annotate._axes import Axes
from cellgap.annotate._choice import LogP, Mixture
from cellgap.annotate._networks import said_by
from cellgap.annotate._reasons import reasons
from cellgap.annotate._source import UNASSIGNED
from cellgap.annotate._unseen import Prototypes, Thresholds
from cellgap.annotate.drm import GuardedResult
from cellgap.gap import Gap
from cellgap.nn import Tower
from cellgap.space._reading import rows_of
from cellgap.storage import storable
from cellgap.train import WeightDistanceFit, weight_distance_fit

_BLOCK = 20_000
# The learning rate falls along a cosine: over this first part it hardly does.
_FLAT_PART = 0.3
# Dictionaries in trees of arrays are sorted by name.
_TRIALS = pd.Index(["candidate", "domain", "log_loss", "balanced_log_loss", "accuracy", "macro_f1", "chosen"])
_UNSEEN = pd.Index(["class", "n_cells", "labelled", "auroc"])


@storable
@dataclass(frozen=True)
class Accuracies:
    """Accuracies of the chosen mixture in the trials; NaN where nothing was held out inside.

    Parameters
    ----------
    train, inside, outside
        Of cells that were trained on, of held-out cells of the same domains, of cells of domains that were left out.
    outside_se
        Standard error of the latter over divisions.
    """

    train: float
    inside: float
    outside: float
    outside_se: float


@dataclass(frozen=True)
class WeightDistance:
    """How far weights moved in training.

    Parameters
    ----------
    t, d
        Numbers of updates, and Euclidean distances of weights from their start after them.
    fit
        Lines in ``log t`` and ``sqrt(t)`` through the first part; None where that has too few points.
    """

    t: Int[np.ndarray, " n"]
    d: Float[np.ndarray, " n"]
    fit: WeightDistanceFit | None


@storable
class FittedAnnotator(eqx.Module):
    """See `Annotator`.

    Parameters
    ----------
    name
        What it is called in tables.
    label, domain_columns
        Columns it was trained with.
    classes, domains
        Names.
    axes
        Genes and principal axes.
    weight, bias
        Of the linear classifier, on all axes.
    nets
        Networks, as one tree, on the first `n_axes` axes divided by `scale`.
    n_axes, scale
        See there.
    guarded
        Domain heads, where they were asked for; in use where their rule is not "erm".
    tau, tau_sentence
        Of the loss, and why.
    strength
        The C of the linear classifier.
    mixture
        Of both, with its temperatures.
    prototypes, thresholds
        When a cell is left unassigned.
    accuracies
        Of the trials.
    minimizability
        Gaps of the linear classifiers and of the networks, and the least loss that calibrated probabilities allow.
    trials_table, unseen_table
        Columns of `trials` and `unseen`.
    history
        Of training; see `cellgap.train.FitResult`.
    distance_steps, distances
        See `weight_distance`.
    n_unlabelled
        Cells that were passed over.
    stopped
        How training ended.
    """

    name: str
    label: str
    domain_columns: tuple[str, ...]
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    axes: Axes
    weight: Float[np.ndarray, "dim classes"]
    bias: Float[np.ndarray, " classes"]
    nets: Tower
    n_axes: int
    scale: float
    guarded: GuardedResult | None
    tau: float
    tau_sentence: str
    strength: float
    mixture: Mixture
    prototypes: Prototypes
    thresholds: Thresholds
    accuracies: Accuracies
    minimizability: tuple[float, float, float]
    trials_table: dict[str, list[Any]]
    unseen_table: dict[str, list[Any]]
    history: tuple[dict[str, float], ...]
    distance_steps: Int[np.ndarray, " n"]
    distances: Float[np.ndarray, " n"]
    n_unlabelled: int
    stopped: str

    @property
    def trials(self) -> pd.DataFrame:
        """The choice: one row a candidate and domain that was left out, with the columns ``candidate, domain``,
        ``log_loss, balanced_log_loss, accuracy, macro_f1, chosen``."""  # noqa: D205, D209
        return pd.DataFrame(self.trials_table, columns=_TRIALS)

    @property
    def unseen(self) -> pd.DataFrame:
        """Types left out of the labels in turn: ``class, n_cells, labelled`` (share that got a label), ``auroc``."""
        return pd.DataFrame(self.unseen_table, columns=_UNSEEN)

    @property
    def temperature(self) -> float:
        """Temperature of the mixture."""
        return self.mixture.temperature

    @property
    def weight_distance(self) -> WeightDistance:
        """How far the weights of the first network moved."""
        t, d = np.asarray(self.distance_steps), np.asarray(self.distances)
        early = t <= _FLAT_PART * t[-1] if len(t) else t.astype(bool)
        enough = int((early & (t >= 3)).sum()) >= 4 and float(np.ptp(d[early])) > 0
        return WeightDistance(t, d, weight_distance_fit(t[early], d[early]) if enough else None)

    def log_probability(self, codes: Float[np.ndarray, "cells dim"]) -> LogP:
        """Return calibrated log-probabilities of cells given by their coordinates."""
        line = log_softmax(codes @ np.asarray(self.weight) + np.asarray(self.bias), axis=1)
        return self.mixture(line.astype(np.float64), self._network(codes))

    def _network(self, codes: Float[np.ndarray, "cells dim"]) -> LogP:
        x = codes[:, : self.n_axes] / self.scale
        if self.guarded is not None and self.guarded.rule.kind != "erm":
            return np.asarray(self.guarded.log_probability(_array(x)), np.float64)
        return said_by(self.nets, x)

    def predict_proba(self, adata: AnnData, rows: Sequence[int] | np.ndarray | None = None) -> pd.DataFrame:
        """Return the calibrated probability of every class, (cells, classes), rows named as cells are.

        Parameters
        ----------
        adata
            Cells with the same values in the same layer as those of the fit; genes are found by name.
        rows
            Which of them; None: all.

        Raises
        ------
        DataError, DesignError
            Genes or the layer are missing, or the values cannot be transformed.
        """
        index = rows_of(adata, rows)
        parts = [p for p, _ in self._said(adata, index)]
        values = np.exp(np.concatenate(parts)) if parts else np.zeros((0, len(self.classes)))
        return pd.DataFrame(values, index=adata.obs_names[index].astype(str), columns=pd.Index(self.classes))

    def predict(self, adata: AnnData, rows: Sequence[int] | np.ndarray | None = None) -> pd.DataFrame:
        """Return one row a cell: what it is, how surely, and why not.

        Parameters
        ----------
        adata, rows
            As in `predict_proba`.

        Returns
        -------
        table
            Rows named as cells are, with the columns ``label`` (a class, or "unassigned"), ``best`` (the most probable
            class), ``probability`` (of it, calibrated), ``second``, ``second_probability``, ``novelty`` (above 1 a cell
            is left unassigned) and ``reason``.

        Raises
        ------
        DataError, DesignError
            As in `predict_proba`.
        """
        index = rows_of(adata, rows)
        log_p, distance = [], []
        for p, d in self._said(adata, index):
            log_p.append(p)
            distance.append(d)
        n = len(self.classes)
        p = np.exp(np.concatenate(log_p)) if log_p else np.zeros((0, n))
        d = np.concatenate(distance) if distance else np.zeros(0)
        order = np.argsort(-p, axis=1, kind="stable")[:, :2]
        cells = np.arange(len(p))
        first, second = p[cells, order[:, 0]], p[cells, order[:, 1]]
        novelty = self.thresholds.novelty(first, d)
        names = np.asarray(self.classes, dtype=object)
        best, other = names[order[:, 0]], names[order[:, 1]]
        return pd.DataFrame(
            {
                "label": np.where(novelty > 1, UNASSIGNED, best),
                "best": best,
                "probability": first,
                "second": other,
                "second_probability": second,
                "novelty": novelty,
                "reason": reasons(best, first, other, second, d, self.thresholds),
            },
            index=adata.obs_names[index].astype(str),
        )

    def _said(self, adata: AnnData, index: np.ndarray) -> Any:
        """Yield log-probabilities, and distances to the nearest prototype, a block of cells at a time."""
        width = np.asarray(self.prototypes.means).shape[1]
        for start in range(0, len(index), _BLOCK):
            codes = self.axes.encode(adata, index[start : start + _BLOCK])
            yield self.log_probability(codes), self.prototypes.distance(codes[:, :width])

    def gaps(self) -> tuple[Gap, ...]:
        """Return the generalisation, adaptivity and minimizability gap, and what unseen types do."""
        a = self.accuracies
        new = "cell" if len(self.domains) == 1 else "domain"
        found = []
        if np.isfinite(a.inside):
            found.append(
                Gap(
                    "generalisation gap",
                    a.train - a.inside,
                    f"0 = held-out cells are told as well as training cells; accuracies {a.train:.3f}, {a.inside:.3f}",
                    "The classifier knows its training cells by heart.",
                    "More cells, fewer n_axes, a smaller hidden, or more weight_decay.",
                )
            )
        linear, network, least = self.minimizability
        before = a.inside if np.isfinite(a.inside) else a.train
        found.append(
            Gap(
                "adaptivity gap" if len(self.domains) > 1 else "generalisation gap",
                before - a.outside,
                f"0 = a new {new} is told as well as a known one; accuracies {before:.3f} and {a.outside:.3f} "
                f"± {a.outside_se:.3f}",
                f"A new {new} differs from those that were trained on; read its labels with this accuracy in mind.",
                "More domains; genes that are measured alike in all of them; Annotator(guarded=Guarded()).",
            )
        )
        found.append(
            Gap(
                "minimizability gap",
                max(min(linear, network), 0.0),
                f"0 = no classifier has a lower loss (tau {self.tau:g}); at most: linear {linear:.3g}, networks "
                f"{network:.3g}, over a least loss of {least:.3g}",
                "Neither family alone expresses, or reached, what the calibrated mixture says is possible.",
                "More axes (n_axes, linear_axes), a larger hidden, or more steps.",
            )
        )
        return tuple(found)

    def robust_accuracy(
        self, adata: AnnData, truth: Sequence[str] | np.ndarray | pd.Series, **options: Any
    ) -> pd.DataFrame:
        """Return the accuracy under attacks of growing strength; see `cellgap.annotate.accuracy_under_attack`."""
        from cellgap.annotate._under_attack import accuracy_under_attack

        return accuracy_under_attack(self, adata, truth, **options)

    def save(self, folder: str | os.PathLike[str], *, header: dict[str, Any] | None = None) -> Path:
        """Return the folder after writing the annotator there, with further facts; `cellgap.load` reads it."""
        return storage.save(self, folder, header=header)

    def __str__(self) -> str:
        """Return the choice in sentences."""
        m, t = self.mixture, self.thresholds
        kind = f"{m.share:.0%} networks of {self.n_axes} axes, {1 - m.share:.0%} linear of C = {self.strength:g}"
        several = len(self.domains) > 1
        domains = f"{len(self.domains)} domains" if several else "one domain, so nothing is known about a new one"
        where = "domains that were left out" if several else "held-out cells"
        lines = [
            f"{len(self.classes)} classes of {self.label!r}, {domains}: {kind}.",
            f"Accuracy on {where} {self.accuracies.outside:.3f} ± {self.accuracies.outside_se:.3f}.",
            f"{t.unassigned:.1%} of their cells are left unassigned; of types without a label {t.false_assignment:.0%} "
            "are given one all the same." if np.isfinite(t.false_assignment) else
            f"{t.unassigned:.1%} of their cells are left unassigned.",
        ]  # fmt: skip
        if len(self.tau_sentence) and "only candidate" not in self.tau_sentence:
            lines.append(self.tau_sentence + ".")
        if self.guarded is not None:
            lines.append(self.guarded.sentence)
        if self.n_unlabelled:
            lines.append(f"{self.n_unlabelled:,} cells without a label were passed over.")
        return "\n".join(lines)


def _array(x: np.ndarray) -> Array:
    import jax.numpy as jnp

    return jnp.asarray(x, jnp.float32)
