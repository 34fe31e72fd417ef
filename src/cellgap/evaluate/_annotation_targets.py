"""Labels and domains of cells, and the division that leaves one domain out."""

from typing import Any

import numpy as np
import pandas as pd

from cellgap.errors import ConfigError, DataError
from cellgap.study import Role, Split, Study
from cellgap.study._column import factor, labels_in
from cellgap.study._split import count_roles
from cellgap.study._wording import close_to


def labels_of(study: Study, label: str) -> np.ndarray:
    """Return the labels of all cells as texts, (n_obs,) of objects; None where a cell has none.

    Raises
    ------
    ConfigError
        There is no such column.
    """
    values = _column(study, label, "the label")
    texts = values.astype(str).to_numpy().astype(object)
    texts[values.isna().to_numpy()] = None
    return texts


def domain_names(study: Study, domains: str) -> np.ndarray:
    """Return the domains of all cells.

    Raises
    ------
    ConfigError
        There is no such column.
    DataError
        A cell has no domain.
    """
    column = factor(_column(study, domains, "the domains"))
    if column.missing.any():
        first = study.obs.index[int(np.argmax(column.missing))]
        raise DataError(
            f'obs["{domains}"] has no value in {column.missing.sum()} of {study.n_obs} cells (first: "{first}"): fill '
            "it, or remove these cells."
        )
    return np.asarray(column.texts, dtype=object)[column.codes]


def without(study: Study, label: str, domains: str, target: str) -> Split:
    """Return the split that trains on the labelled cells of all domains but one; that one is held out.

    Treated cells of the target have the role TEST, its controls SOURCE; cells without a label have none.

    Raises
    ------
    ConfigError, DataError
        As `labels_of` and `domain_names`.
    """
    known = np.asarray([name is not None for name in labels_of(study, label)], bool)
    here = domain_names(study, domains) == target
    control = study.codes < len(study.controls)
    roles = np.zeros(study.n_obs, np.int8)
    roles[known & ~here] = Role.TRAIN
    roles[known & here] = np.where(control[known & here], Role.SOURCE, Role.TEST)
    treated = count_roles(study, roles)[len(study.controls) :]
    params: dict[str, Any] = {"column": domains, "held_out": [target], "valid": 0.0, "min_cells": 1, "unscored": {}}
    tested, trained = (
        tuple(study.conditions[i] for i in np.flatnonzero(treated[:, role])) for role in (Role.TEST, Role.TRAIN)
    )
    split = Split(study, "leave_one_domain_out", 0, roles, tested, (), trained, params)
    split.check_leaks()
    return split


def _column(study: Study, name: str, what: str) -> pd.Series:
    if name not in study.obs.columns:
        raise ConfigError(f"obs has no column {name!r} for {what}: {close_to(name, [str(c) for c in study.obs])}")
    return labels_in(study.obs, name)
