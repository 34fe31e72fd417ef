"""A study: an AnnData and its design, as populations of cells by condition."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from cellgap.errors import ConditionError, DataError
from cellgap.study._check import Findings, examine
from cellgap.study._condition import Condition
from cellgap.study._design import Design
from cellgap.study._measurements import matrix_of, row_bytes, take
from cellgap.study._modalities import is_mudata, joined
from cellgap.study._read import open_study_file
from cellgap.study._treatment import Treatment
from cellgap.study._wording import close_to

if TYPE_CHECKING:
    from mudata import MuData


class Study:
    """The populations of a data set, by condition, each with its controls.

    The AnnData is kept as it is: in memory or on disk, dense or sparse, never copied and never made dense. Build a new
    study after changing it.

    Parameters
    ----------
    adata
        Cells by genes. A MuData, several modalities of the same cells, becomes one table: ``var["modality"]`` says
        which one each feature is of.
    design
        Which columns mean what.

    Raises
    ------
    DesignError, DataError
        The first error that ``check`` finds.

    Attributes
    ----------
    conditions
        The treated conditions, sorted.
    controls
        The control conditions, sorted, one a context.
    populations
        Row indices (int64, increasing) of every condition, treated and control.
    codes
        Index of each cell's condition in ``all_conditions``, (n_obs,) int32.
    findings
        What ``check`` found, with the warnings.
    """

    adata: AnnData
    design: Design
    conditions: tuple[Condition, ...]
    controls: tuple[Condition, ...]
    populations: Mapping[Condition, np.ndarray]
    codes: np.ndarray
    findings: Findings

    def __init__(self, adata: "AnnData | MuData", design: Design) -> None:
        if is_mudata(adata):
            adata = joined(adata)
        if not isinstance(adata, AnnData):
            raise DataError(f"Study needs an AnnData, found {type(adata).__name__}; use Study.read(path, design).")
        findings, labels, matrix = examine(adata, design)
        findings.raise_first()
        self.adata, self.design, self.findings = adata, design, findings
        self.controls = labels.conditions[: labels.n_controls]
        self.conditions = labels.conditions[labels.n_controls :]
        self.codes = labels.codes
        self.codes.setflags(write=False)
        self._matrix = matrix
        self._file: Path | None = None
        # A stable sort by code lists the rows of each population in increasing order.
        order = np.argsort(labels.codes, kind="stable")
        edges = np.searchsorted(labels.codes[order], np.arange(len(labels.conditions) + 1))
        order.setflags(write=False)
        self.populations = MappingProxyType(
            {c: order[edges[i] : edges[i + 1]] for i, c in enumerate(labels.conditions)}
        )

    @classmethod
    def read(cls, path: str | Path, design: Design, *, backed: bool = False) -> "Study":
        """Return the study of an h5ad, h5mu or zarr file.

        Parameters
        ----------
        path
            File (``.h5ad``, ``.h5mu`` for several modalities) or folder (``.zarr``).
        design
            Which columns mean what.
        backed
            Whether the matrices stay on disk; cells are then read as they are asked for.

        Raises
        ------
        DataError
            The file is missing, empty, or not an AnnData.
        """
        study = cls(open_study_file(path, backed=backed), design)
        study._file = Path(path).resolve() if backed else None
        return study

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to another process: the path of a file instead of what is left on disk."""
        state = {k: dict(v) if isinstance(v, MappingProxyType) else v for k, v in self.__dict__.items()}
        return state if self._file is None else state | {"adata": None, "_matrix": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({k: MappingProxyType(v) if isinstance(v, dict) else v for k, v in state.items()})
        if self._file is not None:
            self.adata = open_study_file(self._file, backed=True)
            self._matrix = matrix_of(self.adata, self.design.counts)

    @property
    def all_conditions(self) -> tuple[Condition, ...]:
        """The control conditions, then the treated ones: what ``codes`` indexes."""
        return self.controls + self.conditions

    @property
    def obs(self) -> pd.DataFrame:
        """Annotation of the cells, one row each."""
        return cast("pd.DataFrame", self.adata.obs)

    @property
    def genes(self) -> np.ndarray:
        """Names of the genes (or channels, features), (n_vars,)."""
        return np.asarray(self.adata.var_names.astype(str), dtype=object)

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return self.adata.n_obs

    @property
    def n_vars(self) -> int:
        """Number of genes."""
        return self.adata.n_vars

    @property
    def is_counts(self) -> bool:
        """Whether the measurements are raw counts, as the design says."""
        return self.design.counts is not None

    @property
    def context_names(self) -> tuple[str, ...]:
        """Names of the context, in order."""
        return self.design.context_names

    @functools.cached_property
    def treatments(self) -> Mapping[str, tuple[Treatment, ...]]:
        """Every treatment name with the treatments (doses) measured, sorted."""
        found: dict[str, set[Treatment]] = {}
        for condition in self.conditions:
            for treatment in condition.treatments:
                found.setdefault(treatment.name, set()).add(treatment)
        return MappingProxyType({name: tuple(sorted(found[name])) for name in sorted(found)})

    @functools.cached_property
    def context_values(self) -> Mapping[str, tuple[str, ...]]:
        """Every context name with the values that cells have, sorted."""
        columns = list(zip(*([value for _, value in c.context] for c in self.all_conditions), strict=True))
        pairs = zip(self.context_names, columns, strict=True) if columns else ()
        return MappingProxyType({name: tuple(sorted(set(values))) for name, values in pairs})

    def rows(self, condition: Condition | str) -> np.ndarray:
        """Return the row indices of the cells measured under a condition, increasing.

        Raises
        ------
        ConditionError
            The condition is unknown, or no cell was measured under it.
        """
        known = self.resolve(condition)
        if known not in self.populations:
            names = set(known.names)
            same = [str(c) for c in self.all_conditions if set(c.names) == names] or [str(c) for c in self.conditions]
            raise ConditionError(f"No cell was measured under {str(known)!r}: measured are {_some(same)}.")
        return self.populations[known]

    def control_of(self, condition: Condition | str) -> Condition:
        """Return the control condition of the same context.

        Raises
        ------
        ConditionError
            The context has no control cells, or the condition is unknown.
        """
        control = self.resolve(condition, new=True).control
        if control not in self.populations:
            raise ConditionError(
                f"There are no control cells for {str(condition)!r}: "
                f"controls are {_some([repr(c) for c in self.controls])}."
            )
        return control

    def resolve(self, condition: Condition | str, *, new: bool = False) -> Condition:
        """Return a condition in the words and units of this study.

        A text is parsed. A dose without a unit gets the unit of the study, another unit is converted, and a dose left
        out is filled in where only one was measured. A context name left out is filled in where it has only one value.
        The dose need not have been measured.

        Parameters
        ----------
        condition
            A condition, or its text.
        new
            Whether treatments and context values that the study does not hold are let through.

        Raises
        ------
        ConditionError
            A treatment, context name or context value is unknown (with what is close to it), or a dose is unclear.
        """
        if not isinstance(condition, Condition):
            condition = Condition.parse(condition, self.context_names)
        treatments = [self._resolve_treatment(t, new) for t in condition.treatments]
        return Condition.of(treatments, self._resolve_context(condition, new))

    def _resolve_treatment(self, treatment: Treatment, new: bool) -> Treatment:
        name, measured = treatment.name, self.treatments.get(treatment.name)
        if measured is None:
            units = {s.unit for s in self.design.slots if s.unit is not None}
            if new:
                return treatment.to_unit(units.pop()) if len(units) == 1 else treatment
            if any(name == slot.control for slot in self.design.slots):
                raise ConditionError(f"{name!r} is the control: write a condition without treatments for it.")
            if any(mark in name for mark in "@+|") and '"' not in name:
                hint = f" To read it as a condition, use Condition.parse({name!r})."
            else:
                hint = ""
            raise ConditionError(f"Unknown treatment {name!r}: {close_to(name, list(self.treatments))}{hint}")
        unit, doses = measured[0].unit, [t.dose for t in measured if t.dose is not None]
        if treatment.dose is None:
            if not doses:
                return treatment
            if len(measured) == 1:
                return measured[0]
            raise ConditionError(f"Which dose of {name!r}? Measured are {_some([str(t) for t in measured])}.")
        if unit is None:
            raise ConditionError(f"{str(treatment)!r} has a dose, but {name!r} has none in this study: leave it out.")
        treatment = treatment.to_unit(unit)
        for other in measured:  # conversion may be off in the last digit; a measured dose is that dose
            if other.dose is not None and np.isclose(other.dose, treatment.dose or 0, rtol=1e-9, atol=0):
                return other
        return treatment

    def _resolve_context(self, condition: Condition, new: bool) -> list[tuple[str, str]]:
        given = dict(condition.context)
        for name in given:
            if name not in self.context_names:
                raise ConditionError(f"Unknown context name {name!r}: {close_to(name, self.context_names)}")
        pairs = []
        for name in self.context_names:
            values = self.context_values[name]
            if name not in given:
                if len(values) != 1:
                    raise ConditionError(f"{str(condition)!r} lacks {name!r}: give one of {_some(values)}.")
                pairs.append((name, values[0]))
            elif given[name] in values or new:
                pairs.append((name, given[name]))
            else:
                raise ConditionError(f"Unknown {name} {given[name]!r}: {close_to(given[name], values)}")
        return pairs

    def values(self, rows: np.ndarray | Sequence[int], genes: Sequence[str] | None = None) -> Any:
        """Return the measurements of cells, in the order given: CSR where they are stored sparse, else an array.

        Parameters
        ----------
        rows
            Row indices, or a boolean mask of all cells; repeats are allowed.
        genes
            Names of genes, in the order wanted; None takes all.

        Returns
        -------
        values
            ``(len(rows), n_vars or len(genes))``, of the type they are stored in.

        Raises
        ------
        DataError
            A row is out of range, or a gene is unknown.
        """
        index = np.asarray(rows)
        if index.dtype == bool:
            if index.shape != (self.n_obs,):
                raise DataError(f"A mask of cells must have the shape ({self.n_obs},), found {index.shape}.")
            index = np.flatnonzero(index)
        index = index.astype(np.int64)
        if index.ndim != 1 or (index.size and (index.min() < 0 or index.max() >= self.n_obs)):
            raise DataError(f"Rows must be a list of numbers from 0 to {self.n_obs - 1}, found {rows!r}.")
        part = take(self._matrix, index)
        if genes is None:
            return part
        columns = self.adata.var_names.get_indexer(list(genes))
        if (columns < 0).any():
            name = list(genes)[int(np.argmin(columns))]
            raise DataError(f"Unknown gene {name!r}: {close_to(str(name), list(self.genes))}")
        return part[:, columns].tocsr() if sp.issparse(part) else part[:, columns]

    def row_bytes(self) -> np.ndarray:
        """Return the memory of every cell when it is read, in bytes, (n_obs,)."""
        return row_bytes(self._matrix)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the shape, the condition of every cell, and the names of cells and genes."""
        digest = hashlib.sha256()
        digest.update(repr((self.n_obs, self.n_vars, [repr(c) for c in self.all_conditions])).encode())
        digest.update(np.ascontiguousarray(self.codes, dtype="<i4").tobytes())
        for names in (self.adata.obs_names, self.adata.var_names):
            digest.update("\0".join(names.astype(str)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def __repr__(self) -> str:
        kind = "raw counts" if self.is_counts else "measurements"
        return (
            f"Study of {self.n_obs:,} cells x {self.n_vars:,} genes ({kind}); "
            f"treated conditions: {len(self.conditions)}, contexts with controls: {len(self.controls)}"
        )


def _some(names: Sequence[str], shown: int = 5) -> str:
    return ", ".join(repr(n) for n in names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
