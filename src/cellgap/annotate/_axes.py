"""The coordinates in which classifiers work: principal axes of the variable genes of training cells."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
import scipy.linalg
from anndata import AnnData
from jaxtyping import Float, Int

from cellgap.errors import DataError
from cellgap.space import Genes, GeneSpace
from cellgap.space._reading import dense, rows_of
from cellgap.space._selection import mean_and_variance
from cellgap.storage import storable
from cellgap.study import Role, Split, Study


@storable
class Axes(eqx.Module):
    """Principal axes of gene space, centered, not whitened, so that a ridge penalty means what it does on genes.

    Parameters
    ----------
    genes
        Which genes are read, and their transform.
    components
        Axes of unit length, by falling variance.
    center
        Mean of gene space over the cells of the fit.
    variance
        Of these cells along every axis.
    """

    genes: GeneSpace
    components: Float[np.ndarray, "genes dim"]
    center: Float[np.ndarray, " genes"]
    variance: Float[np.ndarray, " dim"]

    @property
    def dim(self) -> int:
        """Number of axes."""
        return self.components.shape[1]

    @classmethod
    def fit(
        cls, study: Study, rows: Int[np.ndarray, " cells"], genes: Genes, dim: int, *, scaled: bool = False
    ) -> "Axes":
        """Return the axes of these cells, `dim` of them or as many as they span; genes are chosen on them too.

        Parameters
        ----------
        study, rows
            The cells.
        genes
            Which genes, and their transform.
        dim
            Most axes.
        scaled
            Divide genes by their standard deviation; those that are constant here stay as they are, where
            ``Genes(scale=True)`` refuses them.

        Raises
        ------
        DataError, ConfigError
            The measurements do not suit the genes, or all cells are alike.
        """
        known = genes.fit_unscored(split_of_rows(study, rows))
        if scaled:
            _, variance, _ = mean_and_variance(known.transformed(study.adata, rows))
            sd = np.where(variance > 0, np.sqrt(variance), 1.0).astype(np.float32)
            known = eqx.tree_at(lambda g: g.sd, known, sd)
        n, center = len(rows), np.zeros(known.dim)
        for block in known.transformed(study.adata, rows):
            center += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
        center = center / n / np.asarray(known.sd)
        blocks = (
            (dense(block) / np.asarray(known.sd) - center.astype(np.float32)).astype(np.float32)
            for block in known.transformed(study.adata, rows)
        )
        values, vectors = _wide(np.concatenate(list(blocks)), dim) if n <= known.dim else _tall(blocks, known.dim, dim)
        if len(values) == 0:
            raise DataError("The training cells have the same values in all genes: there is nothing to learn from.")
        largest = np.abs(vectors).argmax(axis=0)
        vectors = vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
        # `to_code` of the genes subtracts their mean where they are scaled; here the center does.
        return cls(known, vectors.astype(np.float32), center.astype(np.float32), (values / n).astype(np.float32))

    def encode(self, adata: AnnData, rows: Sequence[int] | np.ndarray | None = None) -> Float[np.ndarray, "cells dim"]:
        """Return the coordinates of cells, float32; of all cells where no rows are given.

        Raises
        ------
        DataError, DesignError
            Genes or the layer are missing, or the values cannot be transformed.
        """
        index = rows_of(adata, rows)
        parts = [self.project(block) for block in self.genes.transformed(adata, index)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def project(self, values: Any, n_axes: int | None = None) -> Float[np.ndarray, "cells dim"]:
        """Return coordinates of values in gene space, (cells, genes), CSR or an array: the first ones, or all."""
        components = np.asarray(self.components)[:, :n_axes]
        weights = components / np.asarray(self.genes.sd, np.float32)[:, None]
        shift = np.asarray(self.center) @ components
        return np.asarray(values @ weights - shift, np.float32)


def split_of_rows(study: Study, rows: Int[np.ndarray, " cells"]) -> Split:
    """Return a split that trains on these cells and has nothing else."""
    roles = np.zeros(study.n_obs, np.int8)
    roles[rows] = int(Role.TRAIN)
    return Split(study, "rows", 0, roles, (), (), (), {})


def _wide(x: Float[np.ndarray, "n genes"], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return squared singular values and axes by the products of cells: fewer cells than genes."""
    values, vectors = _leading(x @ x.T, dim)
    return values, x.T @ vectors / np.sqrt(values)


def _tall(blocks: Any, n_genes: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the same by the products of genes, a block of centered cells at a time."""
    gram = np.zeros((n_genes, n_genes))
    for block in blocks:
        gram += block.T @ block
    return _leading(gram, dim)


def _leading(gram: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    n = len(gram)
    first = max(n - dim, 0)
    values, vectors = scipy.linalg.eigh(gram.astype(np.float64), subset_by_index=[first, n - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > 1e-6 * max(values[0], 1e-30)
    return values[kept], vectors[:, kept]
