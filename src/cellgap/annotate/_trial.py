"""Trials: linear classifiers and networks without some domains, and what they say of every cell."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_softmax

from cellgap.annotate._axes import Axes
from cellgap.annotate._choice import Judged, LogP
from cellgap.annotate._folds import Division
from cellgap.annotate._linear import ridge_path
from cellgap.annotate._source import Source
from cellgap.annotate._unseen import Prototypes

_MOST_SEEN = 4000


@dataclass(frozen=True)
class Prepared:
    """One division, or all cells, in the coordinates of those that are trained on.

    Parameters
    ----------
    axes
        Coordinates.
    train
        Places of the cells that are trained on.
    codes
        Of all cells, also those that are not trained on.
    """

    axes: Axes
    train: Int[np.ndarray, " train"]
    codes: Float[np.ndarray, "cells dim"]

    def scale(self, n_axes: int) -> float:
        """Return the root mean square of a coordinate of the leading axes: networks see coordinates divided by it."""
        return float(np.sqrt(np.mean(np.asarray(self.axes.variance)[:n_axes])))

    def inputs(self, n_axes: int) -> Float[np.ndarray, "cells axes"]:
        """Return what networks see of all cells."""
        return self.codes[:, :n_axes] / self.scale(n_axes)


@dataclass(frozen=True)
class Said:
    """What the trials say of cells of one kind: left out, held out inside, or trained on.

    Parameters
    ----------
    judged
        The cells, with their classes.
    linear, network
        Log-probabilities by strength, and by number of axes.
    distance
        To the nearest prototype.
    place
        Of every cell among all.
    """

    judged: Judged
    linear: dict[float, LogP]
    network: dict[int, LogP]
    distance: Float[np.ndarray, " cells"]
    place: Int[np.ndarray, " cells"]


@dataclass(frozen=True)
class Trials:
    """All of them.

    Parameters
    ----------
    outside, inside, train
        Cells of domains that were left out, held-out cells of the other domains, and some that were trained on.
    """

    outside: Said
    inside: Said | None
    train: Said


def linear_said(source: Source, prepared: Prepared, strengths: tuple[float, ...], tau: float) -> dict[float, LogP]:
    """Return what linear classifiers of one division say of all cells, by strength."""
    x = prepared.codes
    path = ridge_path(x[prepared.train], source.y[prepared.train], len(source.classes), strengths, tau=tau)
    return {c: log_softmax(line.scores(x), axis=1) for c, line in zip(strengths, path, strict=True)}


def gathered(
    source: Source,
    divisions: list[Division],
    prepared: list[Prepared],
    linear: list[dict[float, LogP]],
    network: list[dict[int, LogP]],
    n_proto: int,
) -> Trials:
    """Return what all divisions say, put together by kinds of cells.

    Parameters
    ----------
    source
        Cells.
    divisions, prepared
        What was left out, and coordinates.
    linear, network
        Log-probabilities of all cells, for each division.
    n_proto
        Axes of the distances to prototypes.
    """
    n_classes = len(source.classes)
    prototypes = [Prototypes.of(p.codes[p.train][:, :n_proto], source.y[p.train], n_classes) for p in prepared]
    names = tuple(d.name for d in divisions)

    def said(places: list[np.ndarray]) -> Said:
        sizes = [len(p) for p in places]
        division = np.repeat(np.arange(len(places)), sizes)
        place = np.concatenate(places)
        known: list[Bool[np.ndarray, " n"]] = [
            np.isin(source.y[rows], source.y[p.train]) for rows, p in zip(places, prepared, strict=True)
        ]
        together: Callable[[list[Any]], Any] = np.concatenate
        return Said(
            Judged(names, division, source.y[place], together(known)),
            {c: together([one[c][rows] for one, rows in zip(linear, places, strict=True)]) for c in linear[0]},
            {k: together([one[k][rows] for one, rows in zip(network, places, strict=True)]) for k in network[0]},
            together(
                [
                    proto.distance(p.codes[rows][:, :n_proto])
                    for proto, p, rows in zip(prototypes, prepared, places, strict=True)
                ]
            ),
            place,
        )

    rng = np.random.default_rng(0)
    some = [rng.permutation(d.train)[:_MOST_SEEN] for d in divisions]
    inside = [d.inside for d in divisions]
    return Trials(said([d.outside for d in divisions]), said(inside) if sum(map(len, inside)) else None, said(some))
