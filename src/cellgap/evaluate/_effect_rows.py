"""Effects as a table: one row a condition and readout, measured where cells were, predicted where a model answers."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from cellgap.errors import ConditionError, ConfigError, DataError
from cellgap.evaluate._predictors import Predictor, decoded
from cellgap.space import AbstractFittedSpace
from cellgap.study import Condition, Role, Split
from cellgap.train import progress_bar
from cellgap.transport import AbstractMap

EFFECT_COLUMNS = (
    "treatment",
    "dose",
    "unit",
    "readout",
    "effect",
    "se",
    "q",
    "n_cells",
    "n_control",
    "source",
    "dataset",
    "model",
    "seen",
    "extrapolates",
)
"""Columns of an effect table; the context names of the study stand after ``unit``."""

FEWEST = 3
"""Cells below which a mean has no error."""


@dataclass(frozen=True)
class _Group:
    """Mean, variance and number of cells by readout."""

    mean: np.ndarray
    var: np.ndarray
    n: int

    @classmethod
    def of(cls, values: np.ndarray) -> "_Group":
        n = len(values)
        var = values.var(0, ddof=1, dtype=np.float64) if n > 1 else np.full(values.shape[1], np.nan)
        return cls(values.mean(0, dtype=np.float64), var, n)


def effect_table(
    split: Split,
    fitted: Predictor,
    *,
    conditions: Sequence[Condition | str] | None = None,
    measured: bool = True,
    gene_sets: Mapping[str, Sequence[str]] | None = None,
    dataset: str = "",
    model: str = "",
    progress: bool = False,
) -> pd.DataFrame:
    """Return measured and predicted effects of conditions on every readout, beside the controls of their context.

    A readout is a gene of the model's space, or the mean of the standardized genes of a set. An effect is the
    difference of means in units of the standard deviation of the control cells. `q` is the false discovery rate
    (Benjamini and Hochberg over the readouts of a condition) of Welch's t test. Of a predicted row it says whether
    predicted cells differ from the controls they were moved from: it holds no error of the model, of which
    ``extrapolates`` and the model's own scores speak. With fewer than 3 cells on a side there is no test, and q is 1.

    Measured rows are those of all measured conditions, whatever the split says of them. Predicted rows are those of
    conditions that the model never saw: the held-out ones, and all treatments of the study in every context with
    controls where they were not measured.

    Parameters
    ----------
    split
        The split that the model was fitted on.
    fitted
        The model, with the space in whose genes effects are given.
    conditions
        Conditions to predict instead of these; ConditionError where the model has no answer for one.
    measured
        Whether rows of measured conditions are made too.
    gene_sets
        Sets of genes by name, added to the readouts. Genes outside of the space are left out.
    dataset, model
        Written into the rows: which data, which model and version.
    progress
        Show a bar on standard error.

    Returns
    -------
    pandas.DataFrame
        Columns ``EFFECT_COLUMNS`` and the context names. ``dose`` is NaN where a condition has none, and in
        combinations, whose ``treatment`` is ``a@10nM + b@5nM``. ``seen``: whether the model was trained on the
        condition. Readouts that are constant in controls have no row, as they have no unit.

    Raises
    ------
    ConfigError
        A gene set holds no gene of the space.
    DataError
        Nothing could be compared.
    """
    study, space = split.study, fitted.space
    readouts = _Readouts(space, gene_sets or {})
    asked, strict = _asked(split, fitted, conditions)
    trained = set(split.train_conditions)
    source = _Source(split, fitted, readouts)
    rows: list[pd.DataFrame] = []
    there = study.conditions if measured else ()
    with progress_bar("effects", len(there) + len(asked), 0, shown=progress) as show:
        for condition in there:
            if condition.control in study.populations:
                before, scale = source.control(condition)
                cells = np.asarray(space.measured(study.values(study.rows(condition))))
                about = {"source": "measured", "dataset": dataset, "model": "", "seen": condition in trained}
                rows.append(_rows(condition, readouts.names, before, _Group.of(readouts.of(cells, scale)), about))
            show(len(rows), {}, 0.0)
        for done, condition in enumerate(asked, len(there) + 1):
            try:
                before, after = source.predicted(condition)
            except ConditionError:
                if strict:
                    raise
                continue
            why = "; ".join(fitted.nearness(condition).extrapolates) if isinstance(fitted, AbstractMap) else ""
            about = {"source": "predicted", "dataset": dataset, "model": model or fitted.name}
            about |= {"seen": condition in trained, "extrapolates": why}
            unit, _ = source.control(condition)
            rows.append(_rows(condition, readouts.names, before, after, about, unit=unit))
            show(done, {}, 0.0)
    if not rows:
        raise DataError("No condition has cells and controls in its context: there is no effect to table.")
    columns = [*EFFECT_COLUMNS[:3], *study.context_names, *EFFECT_COLUMNS[3:]]
    return pd.concat(rows, ignore_index=True).loc[:, columns]


class _Readouts:
    """Genes of a space and sets of them, as columns."""

    def __init__(self, space: AbstractFittedSpace, gene_sets: Mapping[str, Sequence[str]]) -> None:
        genes = [str(gene) for gene in space.genes]
        place = {gene: i for i, gene in enumerate(genes)}
        self._sets: list[np.ndarray] = []
        for name, members in gene_sets.items():
            found = np.array([place[g] for g in dict.fromkeys(map(str, members)) if g in place], np.int64)
            if not len(found):
                raise ConfigError(
                    f"The gene set {name!r} has none of the {len(genes):,} genes of the model: leave it out, or use "
                    "the names that the data use."
                )
            self._sets.append(found)
        self.names = [*genes, *gene_sets]

    def scale(self, control: np.ndarray) -> Float[np.ndarray, " genes"]:
        """Return one over the standard deviation of each gene in control cells, 0 where it is constant."""
        spread = control.std(0, ddof=1, dtype=np.float64) if len(control) > 1 else np.zeros(control.shape[1])
        return np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-9)

    def of(self, values: np.ndarray, scale: np.ndarray) -> Float[np.ndarray, "cells readouts"]:
        """Return the readouts of cells."""
        if not self._sets:
            return values
        standard = values * scale
        parts = [standard[:, members].mean(1, keepdims=True) for members in self._sets]
        return np.concatenate([values, *parts], axis=1)


class _Source:
    """Controls of each context, as measured and as moved."""

    def __init__(self, split: Split, fitted: Predictor, readouts: _Readouts) -> None:
        self._split, self._fitted, self._readouts = split, fitted, readouts
        self._known: dict[Condition, tuple[_Group, np.ndarray]] = {}

    def control(self, condition: Condition) -> tuple[_Group, np.ndarray]:
        """Return the measured controls of a condition's context, and the scale of each gene in them."""
        control, study = condition.control, self._split.study
        if control not in self._known:
            values = np.asarray(self._fitted.space.measured(study.values(study.rows(control))))
            scale = self._readouts.scale(values)
            self._known[control] = _Group.of(self._readouts.of(values, scale)), scale
        return self._known[control]

    def predicted(self, condition: Condition) -> tuple[_Group, _Group]:
        """Return controls, and what becomes of them; both pass through the space, whose losses are no effect."""
        _, scale = self.control(condition)
        space, study = self._fitted.space, self._split.study
        rows = self._split.rows(condition.control, Role.SOURCE)
        codes = np.asarray(space.encode(study.adata, rows if len(rows) else study.rows(condition.control)))
        moved = np.asarray(self._fitted.transport(codes, condition))
        before, after = (_Group.of(self._readouts.of(decoded(space, z), scale)) for z in (codes, moved))
        return before, after


def _asked(
    split: Split, fitted: Predictor, conditions: Sequence[Condition | str] | None
) -> tuple[list[Condition], bool]:
    """Return the conditions to predict, and whether the model has to have an answer for each."""
    study = split.study
    if conditions is not None:
        asked = [study.resolve(c, new=True) for c in conditions]
        for condition in asked:
            study.control_of(condition)
        return asked, True
    trained = set(split.train_conditions)
    measured = [c for c in study.conditions if c.control in study.populations]
    kinds = dict.fromkeys(c.treatments for c in measured)
    grid = (c.with_treatments(t) for t, c in itertools.product(kinds, study.controls))
    unseen = dict.fromkeys(c for c in (*measured, *grid) if c not in trained)
    return sorted(unseen), False


def _rows(
    condition: Condition,
    names: Sequence[str],
    before: _Group,
    after: _Group,
    about: Mapping[str, object],
    unit: _Group | None = None,
) -> pd.DataFrame:
    """Return the rows of one condition; `unit` are the cells whose deviation is the unit, by default `before`."""
    spread = np.sqrt((before if unit is None else unit).var)
    usable = np.isfinite(spread) & (spread > 1e-9)
    effect = np.divide(after.mean - before.mean, spread, out=np.full(len(spread), np.nan), where=usable)
    q, error = np.ones(len(spread)), np.full(len(spread), np.nan)
    if min(before.n, after.n) >= FEWEST:
        noise = before.var / before.n + after.var / after.n
        error = np.divide(np.sqrt(noise), spread, out=error, where=usable)
        with np.errstate(all="ignore"):
            p = np.asarray(
                stats.ttest_ind_from_stats(
                    after.mean, np.sqrt(after.var), after.n, before.mean, np.sqrt(before.var), before.n, equal_var=False
                ).pvalue
            )
        # Without any noise a difference is certain, and none is none.
        p = np.where(np.isfinite(p), p, np.where(after.mean == before.mean, 1.0, 0.0))
        if usable.any():
            q[usable] = stats.false_discovery_control(p[usable])
    one = condition.treatments[0] if len(condition.treatments) == 1 else None
    text = " + ".join(str(t) for t in condition.treatments) if one is None else one.name
    frame = pd.DataFrame(
        {
            "treatment": text,
            "dose": np.nan if one is None or one.dose is None else one.dose,
            "unit": "" if one is None or one.unit is None else one.unit,
            **dict(condition.context),
            "readout": list(names),
            "effect": effect,
            "se": error,
            "q": q,
            "n_cells": after.n,
            "n_control": before.n,
            "extrapolates": "",
            **about,
        }
    )
    return frame.loc[usable]


def read_gene_sets(path: str) -> dict[str, tuple[str, ...]]:
    """Return gene sets by name from a GMT file: name, description and genes, separated by tabs.

    Raises
    ------
    DataError
        The file cannot be read, a line has no genes, or a name comes twice.
    """
    found: dict[str, tuple[str, ...]] = {}
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                name, *rest = line.rstrip("\r\n").split("\t")
                genes = tuple(g.strip() for g in rest[1:] if g.strip())
                if not genes:
                    raise DataError(
                        f"Line {number} of {path!r} has no genes: expected name, description, genes by tab."
                    )
                if name in found:
                    raise DataError(f"Line {number} of {path!r} gives the set {name!r} again: name it otherwise.")
                found[name] = genes
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read gene sets from {path!r}: {error}.") from None
    if not found:
        raise DataError(f"{path!r} holds no gene set.")
    return found
