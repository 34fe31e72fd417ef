"""Everything that is wrong or suspicious about a design and its data, found before any long work."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellgap.errors import CellgapError, DataError
from cellgap.study._design import Design
from cellgap.study._labels import Labels, read_labels
from cellgap.study._measurements import check_values, is_sparse, matrix_of
from cellgap.study._wording import listed

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cellgap.study._study import Study

_FEW_CELLS = 50


@dataclass(frozen=True)
class Findings:
    """What ``check`` found; prints as a table with rich, and as text with ``str``.

    Attributes
    ----------
    errors
        What makes the data unusable with this design; ``Study`` raises the first.
    warnings
        What is suspicious and should be looked at.
    table
        One row a condition, controls first: ``condition``, ``n_cells``, ``n_controls`` (of its context).
    measured
        What the values are: shape, storage, counts or not.
    """

    errors: tuple[CellgapError, ...]
    warnings: tuple[str, ...]
    table: pd.DataFrame
    measured: str

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        if self.errors:
            raise self.errors[0]

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table()
        table.add_column("condition")
        table.add_column("cells", justify="right")
        table.add_column("controls", justify="right")
        for condition, cells, controls in self.table.itertuples(index=False):
            table.add_row(Text(str(condition)), f"{cells:,}", f"{controls:,}")
        lines = [Text(f"error: {e}", style="red") for e in self.errors]
        lines += [Text(f"warning: {w}", style="yellow") for w in self.warnings]
        if not lines:
            lines = [Text("No errors, no warnings.", style="green")]
        return Group(Text(self.measured), table, *lines)

    def __str__(self) -> str:
        return render(self)


def render(renderable: Any) -> str:
    """Return what rich would print, as plain text 120 columns wide."""
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=120, color_system=None, force_terminal=False).print(renderable)
    return stream.getvalue().rstrip("\n")


def check(adata: "AnnData | Study", design: Design | None = None) -> Findings:
    """Return all errors and warnings of a design against its data; never stops at the first.

    Parameters
    ----------
    adata
        The data, in memory or backed (read in chunks), or a study.
    design
        The design; may be left out for a study.

    Raises
    ------
    DataError
        ``adata`` is neither an AnnData nor a study, or an AnnData comes without a design.
    """
    if not isinstance(adata, AnnData):
        data, known = getattr(adata, "adata", None), getattr(adata, "design", None)
        if not isinstance(data, AnnData):
            raise DataError(f"check needs an AnnData or a Study, found {type(adata).__name__}: read the file first.")
        adata, design = data, design or known
    if design is None:
        raise DataError("check needs a design beside an AnnData: check(adata, Design(treatment=..., control=...)).")
    return examine(adata, design)[0]


def examine(adata: AnnData, design: Design) -> tuple[Findings, Labels, Any]:
    """Return the findings, the labels, and the matrix of measurements (None where there is none)."""
    errors: list[CellgapError] = []
    if adata.n_obs == 0:
        errors.append(DataError("The AnnData has no cells: expected at least one control and one treated cell."))
    if adata.n_vars == 0:
        errors.append(DataError("The AnnData has no genes: expected at least one."))
    for names, what, fix in (
        (adata.var_names, "gene", "var_names_make_unique()"),
        (adata.obs_names, "cell", "obs_names_make_unique()"),
    ):
        if not names.is_unique:
            twice = names[names.duplicated()].unique()
            errors.append(
                DataError(
                    f"{len(twice)} {what} names come more than once ({listed(list(twice))}): "
                    f"merge or rename them, for example with adata.{fix}."
                )
            )
    if not isinstance(adata.obs, pd.DataFrame):
        raise DataError("obs is read lazily: open the file with Study.read(path, design, backed=True) instead.")
    labels = read_labels(adata.obs, design)
    errors.extend(labels.errors)
    warnings = list(labels.warnings)
    matrix, measured = None, "no values"
    try:
        matrix = matrix_of(adata, design.counts)
    except CellgapError as error:
        errors.append(error)
    if matrix is not None:
        name = "X" if design.counts in (None, "X") else f"layers[{design.counts!r}]"
        wrong, whole = check_values(matrix, adata, name, counts=design.counts is not None)
        errors.extend(wrong)
        kind = "raw counts" if design.counts is not None else "measurements, not declared to be counts"
        storage = "sparse" if is_sparse(matrix) else "dense"
        measured = f"{adata.n_obs:,} cells x {adata.n_vars:,} genes, {storage} {matrix.dtype} in {name}: {kind}"
        if design.counts is None and whole and adata.n_obs > 0:
            warnings.append('X holds whole numbers of 0 or more: if these are raw counts, set Design(counts="X").')
        if getattr(matrix, "format", "csr") == "csc":
            warnings.append(f"{name} is stored by columns (CSC), which makes reading cells slow: store it as CSR.")
    table = _table(labels)
    few = list(table["condition"][table["n_cells"] < _FEW_CELLS])
    if few:
        warnings.append(f"{len(few)} of {len(table)} populations have fewer than {_FEW_CELLS} cells: {listed(few)}.")
    return Findings(tuple(errors), tuple(warnings), table, measured), labels, matrix


def _table(labels: Labels) -> pd.DataFrame:
    codes = labels.codes[labels.codes >= 0]
    cells = np.bincount(codes, minlength=len(labels.conditions))
    controls = dict(zip((c.context for c in labels.conditions[: labels.n_controls]), cells.tolist(), strict=False))
    n_controls = [controls.get(c.context, 0) for c in labels.conditions]
    names = pd.Series([str(c) for c in labels.conditions], dtype=object)
    return pd.DataFrame({"condition": names, "n_cells": cells[: len(names)], "n_controls": n_controls})
