"""Cells of a file, transformed while they are read: what a pass over an atlas sees."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from pydantic import Field

from cellgap.errors import ConfigError, DataError, DesignError
from cellgap.settings import settings
from cellgap.space._transform import Transform, transform
from cellgap.study._measurements import matrix_of, row_bytes, take
from cellgap.study._read import open_study_file


@settings
class Atlas:
    """A file of cells, and how its values become rows.

    All steps are of one cell alone, so that one pass is enough.

    Parameters
    ----------
    path
        ``.h5ad`` or ``.zarr``; the matrix stays on disk.
    layer
        Where the values are: None or "X", or the name of a layer.
    genes
        Names of the genes to keep, fixed before the pass; empty: all. Totals are over all genes of the file.
    transform, target_sum, cofactor
        As in `cellgap.space.Genes`. The target must be a number: a median of totals would need a pass of its own.
    labels
        Column of obs with the plate or donor of each cell, whose spread over the stream is checked.
    """

    path: str
    layer: str | None = None
    genes: tuple[str, ...] = ()
    transform: Transform = "lognorm"
    target_sum: Annotated[float, Field(gt=0)] | str = 1e4
    cofactor: Annotated[float, Field(gt=0)] = 5.0
    labels: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.target_sum, str):
            raise ConfigError(
                f"target_sum={self.target_sum!r} needs all totals before the first cell is normalized, which one pass "
                "does not have: give a number, such as 1e4."
            )

    def open(self) -> "AtlasCells":
        """Return the cells; the file stays open.

        Raises
        ------
        DataError, DesignError
            There is no such file, layer, gene or column.
        """
        return AtlasCells(self, open_study_file(Path(self.path), backed=True))

    def size(self) -> tuple[int, int, int]:
        """Return cells, genes and bytes of the file: to tell whether it is the one that was read before."""
        cells = self.open()
        path = Path(self.path)
        files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
        return cells.n_obs, cells.n_vars, sum(f.stat().st_size for f in files)


class AtlasCells:
    """The cells of an `Atlas` as rows of chosen genes.

    Parameters
    ----------
    atlas
        What is read.
    adata
        The open file.

    Attributes
    ----------
    names
        All genes of the file.
    genes
        Those that are kept.
    """

    def __init__(self, atlas: Atlas, adata: AnnData) -> None:
        self._atlas, self._adata = atlas, adata
        if atlas.layer not in (None, "X") and atlas.layer not in adata.layers:
            # Of a design, which `matrix_of` speaks of, there is none here.
            layers = ", ".join(repr(name) for name in adata.layers if isinstance(name, str)) or "none"
            raise DesignError(f"{atlas.path} has no layer {atlas.layer!r}: found {layers}; X is the matrix itself.")
        self._matrix = matrix_of(adata, atlas.layer)
        self.names = tuple(map(str, adata.var_names))
        self.columns: np.ndarray | None = None
        if atlas.genes:
            if not adata.var_names.is_unique:
                raise DataError(f"{atlas.path} has genes of one name: make var_names unique.")
            places = pd.Index(self.names).get_indexer(list(atlas.genes))
            if (places < 0).any():
                missing = [gene for gene, place in zip(atlas.genes, places, strict=True) if place < 0]
                raise DataError(
                    f"{len(missing)} of {len(places)} genes are not in {atlas.path}, such as {missing[0]!r}."
                )
            self.columns = places
        self.genes = self.names if self.columns is None else tuple(self.names[i] for i in self.columns)
        if atlas.labels is not None and atlas.labels not in adata.obs:
            known = ", ".join(map(repr, adata.obs.columns)) or "none"
            raise DataError(f"obs of {atlas.path} has no column {atlas.labels!r}: found {known}.")
        self.labels = None if atlas.labels is None else adata.obs[atlas.labels].astype(str).to_numpy()

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return self._adata.n_obs

    @property
    def n_vars(self) -> int:
        """Number of genes that are kept."""
        return len(self.genes)

    def values(self, rows: Any, genes: Sequence[str] | None = None) -> Any:
        """Return transformed cells, in the order given: CSR where they are stored sparse, else an array."""
        del genes  # chosen by the atlas
        a = self._atlas
        values = take(self._matrix, np.asarray(rows, np.int64))
        return transform(values, a.transform, columns=self.columns, target_sum=float(a.target_sum), cofactor=a.cofactor)

    def row_bytes(self) -> np.ndarray:
        """Return the memory of every cell when it is read, in bytes, (n_obs,)."""
        return row_bytes(self._matrix)

    def first(self, n: int) -> Any:
        """Return the first cells, to find mistakes before any long work."""
        return self.values(np.arange(min(n, self.n_obs)))

    def chunks(self, size: int) -> Iterator[Any]:
        """Yield all cells in the order of the file, so many at a time."""
        for start in range(0, self.n_obs, size):
            yield self.values(np.arange(start, min(start + size, self.n_obs)))


@lru_cache(maxsize=4)
def opened(atlas: Atlas) -> AtlasCells:
    """Return the cells of an atlas, opened once a process."""
    return atlas.open()
