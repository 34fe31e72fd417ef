"""The choice among linear classifier, network, and mixtures of both, by cells of domains that were left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import f1_score

from cellgap.storage import storable

_LEAST = 1e-7
_TEMPERATURES = (0.1, 20.0)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the network in a mixture that are compared."""

Criterion = Literal["balanced_log_loss", "log_loss"]
LogP = Float[np.ndarray, "cells classes"]


@storable
@dataclass(frozen=True)
class Mixture:
    """How the log-probabilities of a linear classifier and of a network become those of the annotator.

    Each is divided by its temperature and normalized, their probabilities are mixed, and the result is calibrated again
    in the same way.

    Parameters
    ----------
    share
        Of the network.
    linear, network, temperature
        Temperatures of both and of the mixture.
    """

    share: float
    linear: float
    network: float
    temperature: float

    def __call__(self, linear: LogP, network: LogP) -> LogP:
        """Return calibrated log-probabilities of cells."""
        return tempered(
            mixed(tempered(linear, self.linear), tempered(network, self.network), self.share), self.temperature
        )


@dataclass(frozen=True)
class Judged:
    """Cells that judge, one division after the other.

    Parameters
    ----------
    names
        Of the divisions.
    division
        Of every cell.
    y
        Classes.
    known
        Whether the class was among those that were trained on; only such cells judge.
    """

    names: tuple[str, ...]
    division: Int[np.ndarray, " cells"]
    y: Int[np.ndarray, " cells"]
    known: Bool[np.ndarray, " cells"]

    def loss(self, log_p: LogP, criterion: Criterion) -> float:
        """Return the mean over divisions of a loss."""
        return float(np.mean([row[criterion] for row in self.rows(log_p, "", with_f1=False)]))

    def rows(self, log_p: LogP, candidate: str, *, with_f1: bool = True) -> list[dict[str, Any]]:
        """Return losses, accuracy and macro-F1 for every division."""
        rows: list[dict[str, Any]] = []
        for i, name in enumerate(self.names):
            here = (self.division == i) & self.known
            if not here.any():
                continue
            own, y = log_p[here], self.y[here]
            best = own.argmax(axis=1)
            loss = -np.maximum(own[np.arange(len(y)), y], np.log(_LEAST))
            count = np.bincount(y)
            by_class = np.bincount(y, weights=loss)[count > 0] / count[count > 0]
            row: dict[str, Any] = {
                "candidate": candidate, "domain": name, "log_loss": float(loss.mean()),
                "balanced_log_loss": float(by_class.mean()), "accuracy": float((best == y).mean()),
            }  # fmt: skip
            if with_f1:
                row["macro_f1"] = macro_f1(y, best)
            rows.append(row)
        return rows

    def temperature(self, log_p: LogP) -> float:
        """Return the temperature of least log loss over all judging cells, between 0.1 and 20.

        Labels are softened by one cell, so that cells which are all right do not make probabilities of 1.

        Source
        ------
        Guo et al. 2017 (arXiv 1706.04599); Platt 1999 for the labels.
        """
        own, y = log_p[self.known], self.y[self.known]
        rows = np.arange(len(y))
        soft = (len(y) + 1) / (len(y) + 2)

        def loss(log_t: float) -> float:
            log_p = log_softmax(own / np.exp(log_t), axis=1)
            true = log_p[rows, y]
            others = (log_p.sum(axis=1) - true) / max(own.shape[1] - 1, 1)
            return float(-(soft * true + (1 - soft) * others).mean())

        low, high = np.log(_TEMPERATURES)
        found: Any = minimize_scalar(loss, bounds=(low, high), method="bounded")
        return float(np.exp(found.x))


def macro_f1(y: Int[np.ndarray, " n"], found: Int[np.ndarray, " n"]) -> float:
    """Return the mean F1 of the classes that are there."""
    scored: Any = f1_score
    return float(scored(y, found, labels=np.unique(y), average="macro", zero_division=0))


def tempered(log_p: LogP, temperature: float) -> LogP:
    """Return log-probabilities divided by a temperature and normalized."""
    return log_softmax(log_p / temperature, axis=1)


def mixed(first: LogP, second: LogP, share: float) -> LogP:
    """Return the logarithm of ``(1 - share) p_first + share p_second``."""
    if share in (0.0, 1.0):
        return second if share else first
    return np.logaddexp(first + np.log1p(-share), second + np.log(share))


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Parameters
    ----------
    strength
        The C of the linear classifier.
    n_axes
        Axes that the network sees.
    mixture
        Of both.
    trials
        Table with the columns ``candidate, domain, log_loss, balanced_log_loss, accuracy, macro_f1, chosen``.
    """

    strength: float
    n_axes: int
    mixture: Mixture
    trials: pd.DataFrame


def choose(
    judged: Judged,
    linear: dict[float, LogP],
    network: dict[int, LogP],
    shares: Sequence[float] = SHARES,
    criterion: Criterion = "log_loss",
) -> Choice:
    """Return the strength, the number of axes and the mixture of least loss on domains that were left out.

    Parameters
    ----------
    judged
        The cells.
    linear
        Log-probabilities of linear classifiers by strength.
    network
        Log-probabilities of networks by number of axes.
    shares
        Shares of the network to compare.
    criterion
        Which loss: a mean over cells, or over classes.
    """
    rows: list[dict[str, Any]] = []
    lines = {c: (judged.temperature(p), p) for c, p in linear.items()}
    nets = {k: (judged.temperature(p), p) for k, p in network.items()}
    for c, (t, p) in lines.items():
        rows += [row | {"chosen": False} for row in judged.rows(tempered(p, t), f"linear, C = {c:g}")]
    for k, (t, p) in nets.items():
        rows += [row | {"chosen": False} for row in judged.rows(tempered(p, t), f"network, {k} axes")]
    strength = min(lines, key=lambda c: judged.loss(tempered(lines[c][1], lines[c][0]), criterion))
    n_axes = min(nets, key=lambda k: judged.loss(tempered(nets[k][1], nets[k][0]), criterion))
    (t_line, line), (t_net, net) = lines[strength], nets[n_axes]
    found = []
    for share in shares:
        both = mixed(tempered(line, t_line), tempered(net, t_net), share)
        mixture = Mixture(share, t_line, t_net, judged.temperature(both))
        name = f"{share:.0%} network of {n_axes} axes, {1 - share:.0%} linear of C = {strength:g}"
        calibrated = mixture(line, net)
        found.append((judged.loss(calibrated, criterion), mixture, judged.rows(calibrated, name)))
    best = min(found, key=lambda one: one[0])
    for one in found:
        rows += [row | {"chosen": one is best} for row in one[2]]
    return Choice(strength, n_axes, best[1], pd.DataFrame(rows))
