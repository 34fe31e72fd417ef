"""Edges that are believed before anything is learnt."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from cellgap.errors import DataError


def prior_weights(prior: pd.DataFrame, variables: Sequence[str]) -> Float[np.ndarray, "source target"]:
    """Return how far each edge is believed, between 0 and 1.

    Raises
    ------
    DataError
        The table names no edge between the variables, or holds a weight outside [0, 1].
    """
    d = len(variables)
    believed = np.zeros((d, d))
    place = {name: i for i, name in enumerate(variables)}
    if {"regulator", "target"} <= set(prior.columns):
        weight = prior["weight"].to_numpy(float) if "weight" in prior else np.ones(len(prior))
        rows = zip(prior["regulator"].astype(str), prior["target"].astype(str), weight, strict=True)
        found = [(place[a], place[b], w) for a, b, w in rows if a in place and b in place]
    else:
        known = prior.loc[[i for i in prior.index if i in place], [c for c in prior.columns if c in place]]
        found = [(place[a], place[b], float(known.loc[a, b])) for a in known.index for b in known.columns]
    if not found or not all(0 <= w <= 1 for *_, w in found):
        raise DataError("a prior names regulators and targets among the variables, with weights between 0 and 1.")
    for a, b, w in found:
        believed[a, b] = max(believed[a, b], w)
    return believed
