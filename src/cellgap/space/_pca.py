"""Principal components of gene space."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import equinox as eqx
import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float
from pydantic import Field

from cellgap.errors import ConfigError
from cellgap.settings import settings
from cellgap.space._count_noise import CountNoise, known_noise
from cellgap.space._genes import Genes, GeneSpace
from cellgap.space._interface import AbstractFittedSpace, AbstractSpace
from cellgap.space._log_expression import noise_of_log_expression, shares_of_log_expression
from cellgap.space._reading import rows_of
from cellgap.space._reconstruction import reconstruction_of
from cellgap.storage import storable
from cellgap.study import Role, Split

_EXACT = 5000  # genes up to which the covariance matrix is decomposed exactly
FLOOR = 0.02  # see `CountNoise`; components decode many genes to values below 0


@settings
class PCA(AbstractSpace):
    """Principal components of the transformed genes, centered, not whitened.

    Parameters
    ----------
    dim
        Number of components.
    genes
        Which genes, and their transform. With ``scale=True`` components are those of the correlations.
    """

    dim: Annotated[int, Field(ge=1)] = 50
    genes: Genes = Genes()

    def fit(self, split: Split, *, progress: bool = False) -> "PCASpace":
        """Return the space, fitted on the training cells of a split; see `AbstractSpace.fit`."""
        from sklearn.decomposition import PCA as Components

        genes = self.genes.fit_unscored(split)
        rows = split.cells(Role.TRAIN)
        if self.dim > min(len(rows), genes.dim):
            raise ConfigError(
                f"PCA(dim={self.dim}) needs at least as many genes and training cells, found {genes.dim} genes and "
                f"{len(rows)} cells: use a smaller dim, or the genes themselves, Genes()."
            )
        blocks = list(genes.transformed(split.study.adata, rows))
        # In float64: the covariance in float32 leaves errors of 0.1 % in components of like variance.
        x = sp.csr_matrix(sp.vstack(blocks)) if sp.issparse(blocks[0]) else np.concatenate(blocks)
        x = _scaled(x.astype(np.float64), np.asarray(genes.sd, np.float64))
        solver = "covariance_eigh" if genes.dim <= _EXACT else "arpack"
        fitted: Any = Components(self.dim, svd_solver=solver, random_state=0).fit(x)
        components = _signed(fitted.components_)
        space = PCASpace(
            gene_space=genes,
            components=components.astype(np.float32),
            center=(fitted.mean_ * np.asarray(genes.sd)).astype(np.float32),
            explained=fitted.explained_variance_ratio_.astype(np.float32),
            scores={},
            noise=None,
        )
        if self.genes.transform == "lognorm":
            noise = noise_of_log_expression(space, split, floor=FLOOR)
            space = eqx.tree_at(lambda s: s.noise, space, noise, is_leaf=lambda leaf: leaf is None)
        return eqx.tree_at(lambda s: s.scores, space, reconstruction_of(space, split))


@storable
class PCASpace(AbstractFittedSpace):
    """See `PCA`.

    Parameters
    ----------
    gene_space
        The genes.
    components
        Rows of unit length, (dim, genes); in each, the entry of largest size is positive.
    center
        Mean of gene space over the training cells, (genes,).
    explained
        Share of the variance of each component, (dim,).
    scores
        Reconstruction errors.
    noise
        How expected shares become counts (genes with "lognorm" alone).
    """

    gene_space: GeneSpace
    components: Float[np.ndarray, "dim genes"]
    center: Float[np.ndarray, " genes"]
    explained: Float[np.ndarray, " dim"]
    scores: dict[str, float]
    noise: CountNoise | None

    @property
    def dim(self) -> int:
        """Number of components."""
        return len(self.components)

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes that codes decode to."""
        return self.gene_space.genes

    @property
    def layer(self) -> str | None:
        """Where the measured values are read."""
        return self.gene_space.layer

    @property
    def nonnegative(self) -> bool:
        """Whether measured gene space has no negative values; decoded values may, slightly."""
        return self.gene_space.nonnegative

    @property
    def reconstruction(self) -> Mapping[str, float]:
        """What is lost in the components that are left out, on validation cells."""
        return self.scores

    def measured(self, values: Any) -> Float[np.ndarray, "cells genes"]:
        """Return measured values of all genes of the study in gene space; see `AbstractFittedSpace.measured`."""
        return self.gene_space.measured(values)

    def encode(self, adata: AnnData, rows: Sequence[int] | np.ndarray | None = None) -> Float[np.ndarray, "cells dim"]:
        """Return the components of cells; see `AbstractFittedSpace.encode`."""
        index = rows_of(adata, rows)
        # Sparse blocks are multiplied as they are: centering afterwards keeps them sparse.
        weights = (np.asarray(self.components) / np.asarray(self.gene_space.sd)).T.astype(np.float64)
        shift = np.asarray(self.center, np.float64) @ weights
        out = np.empty((len(index), self.dim), np.float32)
        start = 0
        for block in self.gene_space.transformed(adata, index):
            out[start : start + block.shape[0]] = block.astype(np.float64) @ weights - shift
            start += block.shape[0]
        return out

    def decode(self, z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells genes"]:
        """Return codes in gene space."""
        weights = np.asarray(self.components) * np.asarray(self.gene_space.sd)
        return np.asarray(z, np.float32) @ weights + np.asarray(self.center)

    def rates(self, z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells genes"]:
        """Return the expected shares of genes; see `AbstractFittedSpace.rates`."""
        return known_noise(self.noise).rates(shares_of_log_expression(self.decode(z)))


def _scaled(x: Any, sd: np.ndarray) -> Any:
    if (sd == 1).all():
        return x
    if sp.issparse(x):
        return sp.csr_matrix(x @ sp.diags(1.0 / sd))
    return x / sd


def _signed(components: Float[np.ndarray, "dim genes"]) -> Float[np.ndarray, "dim genes"]:
    """Return components whose entry of largest size is positive: a sign that does not depend on the solver."""
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    return components * signs[:, None]
