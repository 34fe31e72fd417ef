"""What a space is: coordinates in which a model works, fitted on training cells."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float

from cellgap.space._count_noise import CountNoise, draw_counts, known_noise
from cellgap.space._reading import counts_of
from cellgap.study import Split


class AbstractFittedSpace(eqx.Module):
    """Coordinates of cells, with the way there and back.

    Three descriptions of a cell: *measured* values as they are stored (counts, intensities), *gene space* (the chosen
    genes after the transform, what metrics and figures use), and the *code* in which a map works.

    Parameters
    ----------
    noise
        How expected shares become counts; None where the measurements are no raw counts.
    """

    noise: eqx.AbstractVar[CountNoise | None]

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of coordinates of a code."""

    @property
    @abstractmethod
    def genes(self) -> tuple[str, ...]:
        """Names of the genes of gene space, in order."""

    @property
    @abstractmethod
    def layer(self) -> str | None:
        """Where the measured values are read: None or "X", or the name of a layer."""

    @property
    @abstractmethod
    def nonnegative(self) -> bool:
        """Whether values of gene space cannot be negative."""

    @property
    @abstractmethod
    def reconstruction(self) -> Mapping[str, float]:
        """How well codes give back gene space on validation cells: see `reconstruction_of`."""

    @abstractmethod
    def measured(self, values: Any) -> Float[np.ndarray, "cells genes"]:
        """Return measured values of the study's genes (CSR or array, all of them, in order) in gene space, float32.

        Raises
        ------
        DataError
            The values cannot be transformed.
        """

    @abstractmethod
    def encode(self, adata: AnnData, rows: Sequence[int] | np.ndarray | None = None) -> Float[np.ndarray, "cells dim"]:
        """Return the codes of cells, float32; of all cells where no rows are given.

        Genes are found by name: their order does not matter, and further genes are ignored.

        Raises
        ------
        DataError
            Genes are missing, or the values cannot be transformed.
        DesignError
            The layer is missing.
        """

    @abstractmethod
    def decode(self, z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells genes"]:
        """Return codes in gene space, float32."""

    @property
    def gives_counts(self) -> bool:
        """Whether codes can be decoded to raw counts: `rates` and `counts` answer."""
        return self.noise is not None

    @abstractmethod
    def rates(self, z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells genes"]:
        """Return the expected share of every gene in the counts of a cell, rows sum to 1, float32.

        Raises
        ------
        DataError
            The space does not give counts.
        """

    @property
    def modalities(self) -> tuple[str, ...] | None:
        """Name of the modality of every gene (feature); None where there is one."""
        return None

    def by_modality(self) -> list[tuple[str, list[str]]]:
        """Return the names of the modalities with their genes (features); those with counts come first."""
        return [("counts", list(self.genes))]

    @property
    def libraries(self) -> tuple[str, ...]:
        """Names of the totals that counts are drawn with."""
        return ("library",)

    @property
    def codes_know_totals(self) -> bool:
        """Whether a code tells the (first) total of its cell."""
        return False

    def totals(self, adata: AnnData, rows: np.ndarray | None = None) -> Float[np.ndarray, "cells libraries"]:
        """Return the measured totals of cells, over the genes of the space, in the order of `libraries`."""
        cells = adata if rows is None else adata[rows]
        return np.asarray(counts_of(cells, self.layer, self.genes).sum(axis=1, dtype=np.float64)).reshape(-1, 1)

    def counts(self, z: Float[np.ndarray, "cells dim"], library: np.ndarray, *, seed: int) -> sp.csr_matrix:
        """Return raw counts of cells with these codes, (cells, genes), CSR of int32.

        Parameters
        ----------
        z
            Codes.
        library
            Expected total of every cell over the genes of the space, (cells,) or (cells, 1).
        seed
            Of the random draw.

        Raises
        ------
        DataError
            The space does not give counts, or a total is negative or not finite.
        """
        totals = np.asarray(library)
        totals = totals[:, 0] if totals.ndim == 2 and totals.shape[1] == 1 else totals
        return draw_counts(self.rates, known_noise(self.noise), z, totals, seed)


class AbstractSpace(ABC):
    """Settings of a space."""

    @abstractmethod
    def fit(self, split: Split, *, progress: bool = False) -> AbstractFittedSpace:
        """Return the space, fitted on the training cells of a split and on no others.

        Parameters
        ----------
        split
            Whose training cells.
        progress
            Show on standard error how far a long fit is.

        Raises
        ------
        DataError, ConfigError
            The measurements do not suit the settings.
        """
