"""Which column of an effect table is what."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cellgap.errors import ConfigError, DataError
from cellgap.study._dose import unit_of_column
from cellgap.study._wording import listed


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# In order of preference, without case, spaces and signs.
_NAMES: dict[str, tuple[str, ...]] = {
    "treatment": _split(
        """
        treatment perturbation drug compound drug_name compound_name treatment_name gene_ko knockout ko
        perturbed_gene agent cytokine ligand pert pert_iname
        """
    ),
    "dose": ("dose", "concentration", "conc", "dose_value", "pert_dose"),
    "unit": ("unit", "dose_unit", "dose_units", "units", "concentration_unit", "conc_unit", "pert_dose_unit"),
    "time_h": _split(
        """
        time_h time_hours time_hour hours time_hr time_hrs duration_h time_min time_minutes minutes time_d
        time_days days day time timepoint time_point duration exposure_time treatment_time
        """
    ),
    "readout": _split("readout feature gene gene_set geneset pathway program signature phenotype marker endpoint"),
    "effect": _split(
        """
        effect score effect_size lfc log2fc logfc log_fc log_fold_change log2_fold_change log2foldchange
        logfoldchange logfoldchanges z zscore z_score estimate delta beta
        """
    ),
    "se": ("se", "stderr", "std_err", "std_error", "standard_error", "lfcse"),
    "q": _split(
        """
        q q_value qvalue qval q_val fdr padj p_adj adjusted_p adj_p adj_p_value adj_pval adj_p_val pval_adj
        pvals_adj p_val_adj pvalue_adj p_value_adj adjusted_p_value adjusted_pvalue
        """
    ),
    "n_cells": ("n_cells", "ncells", "num_cells", "number_of_cells", "cell_count", "cells_n"),
    "n_control": ("n_control", "n_controls", "n_ctrl", "n_control_cells", "ncontrol"),
    "source": ("source", "evidence", "origin"),
    "dataset": ("dataset", "data_set", "study", "experiment"),
    "model": ("model", "model_id", "model_version", "model_name"),
    "extrapolates": ("extrapolates", "extrapolation", "unseen"),
}
_CONTEXT = _split(
    """
        cell_line cellline cell_type celltype cell cells cell_name tissue organ donor patient individual
        subject strain species organism genotype population medium media disease stage batch plate
        """
)
REQUIRED = ("treatment", "readout", "effect", "q")
_DONE = {"gene_ko": "knock-out", "knockout": "knock-out", "ko": "knock-out", "perturbed_gene": "perturbation"}
_WORD = {"score": "score", "effect": "score", "effect_size": "score", "z": "z-score", "zscore": "z-score"}


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what.

    Parameters
    ----------
    named
        Canonical name to column.
    context
        Name of a context and its column.
    unit
        Unit that the name of the column of doses ends with.
    time
        ``"h"``, ``"m"``, ``"d"``: what plain numbers of the column of times are.
    time_assumed
        Whether hours are assumed for want of any word about it.
    effect_word
        What an effect is called in a sentence.
    treatment_word
        What was done to what the treatments name, as the name of their column says: ``"knock-out"`` or nothing.
    unused
        Columns that say nothing to an answer.
    """

    named: Mapping[str, str]
    context: tuple[tuple[str, str], ...]
    unit: str | None
    time: str
    time_assumed: bool
    effect_word: str
    treatment_word: str
    unused: tuple[str, ...]


def find_columns(header: Sequence[object], where: str, given: Mapping[str, str], context: Sequence[str]) -> Columns:
    """Return what the columns of a table are.

    Parameters
    ----------
    header
        Names of all columns.
    where
        File or table, for errors.
    given
        Canonical name to column, for names that are not known.
    context
        Columns that are context; those of known names are without being named.

    Raises
    ------
    ConfigError
        `given` has an unknown name, or names a column that is not there.
    DataError
        A required column is missing, or a name stands twice.
    """
    names = [str(name) for name in header]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where} has the column {listed(twice)} more than once: keep one of each.")
    for canonical, column in given.items():
        if canonical not in _NAMES:
            raise ConfigError(f"columns= has the name {canonical!r}: expected one of {', '.join(_NAMES)}.")
        if column not in names:
            raise ConfigError(f"columns= says that {canonical} is {column!r}, but {where} has {listed(names, 12)}.")
    for column in context:
        if column not in names:
            raise ConfigError(f"context= names {column!r}, but {where} has {listed(names, 12)}.")
    taken = set(given.values()) | set(context)
    free = {_folded(name): name for name in reversed(names) if name not in taken}
    named = dict(given)
    for canonical, known in _NAMES.items():
        hit = next((word for word in known if canonical not in named and word in free), None)
        if hit is not None:
            named[canonical] = free.pop(hit)
    if "dose" not in named:
        for name in names:
            if name in free.values() and unit_of_column(name) and re.match(r"(?i)(?:dose|conc)", name.strip()):
                named["dose"] = name
                break
    unit = unit_of_column(named["dose"]) if "dose" in named else None
    for canonical in REQUIRED:
        if canonical not in named:
            raise DataError(
                f"{where} has no column of the {_SAID[canonical]}: expected one named {listed(_NAMES[canonical])}, or "
                f'columns={{"{canonical}": ...}}; it has {listed(names, 12)}.'
            )
    used = set(named.values()) | set(context)
    found = tuple((_folded(n), n) for n in names if n in context or (n not in used and _folded(n) in _CONTEXT))
    folded = [name for name, _ in found]
    if len(set(folded)) < len(folded):
        raise DataError(f"{where} has two columns of one context, {listed([c for _, c in found])}: keep one of each.")
    reserved = sorted(set(folded) & {*_NAMES, "row_id"})
    if reserved:
        raise ConfigError(f"context= names {listed(reserved)}, which is no context: leave it out.")
    used |= {column for _, column in found}
    time = _folded(named["time_h"]) if "time_h" in named else ""
    kind = "m" if "min" in time else "d" if re.search(r"day|_d$", time) else "h"
    return Columns(
        named,
        found,
        unit,
        kind,
        bool(time) and kind == "h" and not re.search(r"hour|_hr?s?$", time),
        _effect_word(_folded(named["effect"])),
        _DONE.get(_folded(named["treatment"]), ""),
        tuple(n for n in names if n not in used),
    )


_SAID = {"treatment": "treatments", "readout": "readouts", "effect": "effects", "q": "q values (adjusted p values)"}


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name.strip()).lower()).strip("_")


def _effect_word(column: str) -> str:
    if re.fullmatch(r"lfc|log2?_?f(?:old_?)?c(?:hanges?)?|log2?_?fold_?changes?", column):
        return "log fold change"
    return _WORD.get(column, "z-score" if column.startswith("z_") else column.replace("_", " "))
