"""Labelled cells of a study: classes, domains, and the refusal of what cannot be learnt from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from cellgap.errors import DataError
from cellgap.study import Role, Split, Study
from cellgap.study._wording import close_to

UNASSIGNED = "unassigned"
_FEW_CELLS = 10
JOIN = " | "


@dataclass(frozen=True)
class Source:
    """Cells to learn from.

    Parameters
    ----------
    study
        Where they are.
    rows
        Their rows in it.
    y, domain
        Class and domain of every one, counted from 0.
    classes, domains
        Names.
    n_unlabelled
        Cells that were passed over because they have no label.
    """

    study: Study
    rows: Int[np.ndarray, " cells"]
    y: Int[np.ndarray, " cells"]
    domain: Int[np.ndarray, " cells"]
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    n_unlabelled: int

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.rows)

    @classmethod
    def of(cls, given: Study | Split, label: str, domains: Sequence[str]) -> "Source":
        """Return the labelled cells of a study, or those of a split that are not held out.

        Raises
        ------
        DataError
            A column is missing, a domain is not known for a labelled cell, there are too few cells or classes, or a
            class has the name of no class.
        """
        study = given if isinstance(given, Study) else given.study
        rows = np.arange(study.n_obs) if isinstance(given, Study) else given.cells(Role.TRAIN, Role.VALID)
        columns = [str(c) for c in study.obs.columns]
        for name in (label, *domains):
            if name not in columns:
                raise DataError(f"obs has no column {name!r}: {close_to(name, columns)}")
        if label in domains:
            raise DataError(f"{label!r} is the label: it cannot be a domain too.")
        values = study.obs[label].iloc[rows]
        if pd.api.types.is_float_dtype(values.dtype) and values.nunique() > values.notna().sum() / 2:
            raise DataError(
                f"obs[{label!r}] holds numbers that hardly repeat: a label is a class, such as a cell type."
            )
        there = values.notna().to_numpy()
        rows, texts = rows[there], values[there].astype(str).to_numpy()
        if len(rows) < _FEW_CELLS:
            raise DataError(
                f"obs[{label!r}] has {len(rows)} labelled cells to train on: at least {_FEW_CELLS} are needed."
            )
        classes, y = np.unique(texts, return_inverse=True)
        if len(classes) < 2:
            raise DataError(f"obs[{label!r}] has one class only, {classes[0]!r}: nothing can be told apart.")
        if UNASSIGNED in classes:
            raise DataError(
                f"obs[{label!r}] has a class named {UNASSIGNED!r}, which is what cells without a class are called: "
                "rename it, or make these labels missing."
            )
        names, domain = _domains(study.obs.iloc[rows], domains)
        return cls(study, rows, y.astype(int), domain, tuple(map(str, classes)), names, int((~there).sum()))


def _domains(obs: pd.DataFrame, columns: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    if not columns:
        return ("all cells",), np.zeros(len(obs), int)
    for name in columns:
        n = int(obs[name].isna().sum())
        if n:
            raise DataError(f"obs[{name!r}] is missing for {n:,} labelled cells: a domain must be known in training.")
    texts = obs[columns[0]].astype(str)
    for name in columns[1:]:
        texts = texts + JOIN + obs[name].astype(str)
    names, domain = np.unique(texts.to_numpy().astype(str), return_inverse=True)
    return tuple(map(str, names)), domain.astype(int)
