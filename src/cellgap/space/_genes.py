"""Genes themselves as the space: chosen, transformed, and scaled where asked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import equinox as eqx
import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float, Int
from pydantic import Field

from cellgap.errors import ConfigError, DataError
from cellgap.settings import settings
from cellgap.space._count_noise import CountNoise, known_noise
from cellgap.space._interface import AbstractFittedSpace, AbstractSpace
from cellgap.space._log_expression import noise_of_log_expression, shares_of_log_expression
from cellgap.space._reading import blocks_of, dense, rows_of
from cellgap.space._reconstruction import reconstruction_of
from cellgap.space._selection import mean_and_variance, most_variable, normalized_dispersion
from cellgap.space._transform import Transform, transform
from cellgap.storage import storable
from cellgap.study import Role, Split


@settings
class Genes(AbstractSpace):
    """Gene expression itself, after a transform; all genes or the most variable ones.

    Parameters
    ----------
    n_top
        Number of genes to keep; None keeps all. Chosen on training cells only: with ``lognorm`` by the normalized
        dispersion of normalized counts (`normalized_dispersion`), with other transforms by the variance of the
        transformed values.
    transform
        "lognorm": raw counts, scaled to `target_sum` a cell, then ``log(1 + x)``. "log1p", "arcsinh" (of
        ``x / cofactor``) and "none" take other measurements as they are.
    target_sum
        Counts of a cell after normalization.
    cofactor
        Scale of "arcsinh", in the unit of the measurements.
    scale
        Whether codes are divided by each gene's standard deviation, after subtracting its mean (over training cells).
        `decode` undoes it.
    """

    n_top: Annotated[int, Field(ge=1)] | None = None
    transform: Transform = "lognorm"
    target_sum: Annotated[float, Field(gt=0)] = 1e4
    cofactor: Annotated[float, Field(gt=0)] = 5.0
    scale: bool = False

    def fit(self, split: Split, *, progress: bool = False) -> "GeneSpace":
        """Return the space, fitted on the training cells of a split; see `AbstractSpace.fit`."""
        space = self.fit_unscored(split)
        if self.transform == "lognorm":
            noise = noise_of_log_expression(space, split, floor=0.0)
            space = eqx.tree_at(lambda s: s.noise, space, noise, is_leaf=lambda leaf: leaf is None)
        return eqx.tree_at(lambda s: s.scores, space, reconstruction_of(space, split))

    def fit_unscored(self, split: Split) -> "GeneSpace":
        """Return the space without reconstruction error and count noise, for spaces that build on this one."""
        study = split.study
        if self.transform == "lognorm" and not study.is_counts:
            raise DataError(
                'Genes(transform="lognorm") needs raw counts, but the design says that X holds other measurements: set '
                'Design(counts=...), or use transform="log1p", "arcsinh" or "none".'
            )
        names = tuple(map(str, study.genes))
        if self.n_top is not None and self.n_top > len(names):
            raise ConfigError(f"Genes(n_top={self.n_top}) asks for more genes than the study has, {len(names)}.")
        rows = split.cells(Role.TRAIN)
        columns = np.arange(len(names))
        if self.n_top is not None and self.n_top < len(names):
            columns = self._variable(split, rows)
        everything = GeneSpace(
            study_genes=names,
            columns=columns,
            transform=self.transform,
            target_sum=self.target_sum,
            cofactor=self.cofactor,
            measured_in=study.design.counts,
            mean=np.zeros(len(columns), np.float32),
            sd=np.ones(len(columns), np.float32),
            scores={},
            noise=None,
        )
        if not self.scale:
            return everything
        mean, variance, _ = mean_and_variance(everything.transformed(study.adata, rows))
        flat = [everything.genes[i] for i in np.flatnonzero(variance <= 0)]
        if flat:
            raise DataError(
                f"scale=True cannot divide by the spread of {len(flat)} genes that are constant over training cells "
                f"(such as {flat[0]}): remove them, or keep the variable ones with n_top."
            )
        sd = np.sqrt(variance).astype(np.float32)
        return eqx.tree_at(lambda s: (s.mean, s.sd), everything, (mean.astype(np.float32), sd))

    def _variable(self, split: Split, rows: np.ndarray) -> np.ndarray:
        """Return the columns of the most variable genes over these cells."""
        study, count = split.study, self.transform == "lognorm"

        def values() -> Iterator[Any]:
            for _, block in blocks_of(study.adata, study.design.counts, list(study.genes), rows):
                out = transform(block, self.transform, target_sum=self.target_sum, cofactor=self.cofactor)
                if count:
                    data = out.data if sp.issparse(out) else out
                    np.expm1(data, out=data)
                yield out

        mean, variance, _ = mean_and_variance(values())
        # Two genes alone in a bin both score 1/sqrt(2) in size: rounded, so that noise does not break such ties.
        score = np.round(normalized_dispersion(mean, variance), 5) if count else variance
        return most_variable(score, int(self.n_top or 0))


@storable
class GeneSpace(AbstractFittedSpace):
    """See `Genes`.

    Parameters
    ----------
    study_genes
        All genes of the study: normalization divides by the total over them.
    columns
        The chosen ones.
    transform, target_sum, cofactor
        As in `Genes`.
    measured_in
        The layer.
    mean, sd
        Of the chosen genes over the training cells where codes are scaled; else 0 and 1.
    scores
        Reconstruction errors.
    noise
        How expected shares become counts ("lognorm" alone).
    """

    study_genes: tuple[str, ...] = eqx.field(static=True)
    columns: Int[np.ndarray, " genes"]
    transform: Transform = eqx.field(static=True)
    target_sum: float = eqx.field(static=True)
    cofactor: float = eqx.field(static=True)
    measured_in: str | None = eqx.field(static=True)
    mean: Float[np.ndarray, " genes"]
    sd: Float[np.ndarray, " genes"]
    scores: dict[str, float]
    noise: CountNoise | None

    @property
    def dim(self) -> int:
        """Number of genes kept."""
        return len(self.columns)

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes kept, in the order of the study."""
        return tuple(self.study_genes[i] for i in self.columns)

    @property
    def layer(self) -> str | None:
        """Where the measured values are read."""
        return self.measured_in

    @property
    def nonnegative(self) -> bool:
        """Whether the transform gives no negative values."""
        return self.transform in ("lognorm", "log1p")

    @property
    def reconstruction(self) -> Mapping[str, float]:
        """Errors on validation cells; 0 up to rounding."""
        return self.scores

    def transformed(self, adata: AnnData, rows: np.ndarray) -> Iterator[Any]:
        """Yield gene space of cells in blocks, CSR where the values are sparse, else arrays."""
        if self.transform == "lognorm":  # totals need all genes
            for _, block in blocks_of(adata, self.measured_in, self.study_genes, rows):
                yield self.apply(block)
        else:
            for _, block in blocks_of(adata, self.measured_in, self.genes, rows):
                yield transform(block, self.transform, cofactor=self.cofactor)

    def apply(self, values: Any) -> Any:
        """Return measured values of all genes of the study in gene space: CSR where they are CSR, else an array."""
        columns = None if len(self.columns) == len(self.study_genes) else self.columns
        return transform(values, self.transform, columns=columns, target_sum=self.target_sum, cofactor=self.cofactor)

    def measured(self, values: Any) -> Float[np.ndarray, "cells genes"]:
        """Return measured values of all genes of the study in gene space; see `AbstractFittedSpace.measured`."""
        if values.shape[1] != len(self.study_genes):
            raise DataError(f"Expected values of the {len(self.study_genes)} genes of the study, found {values.shape}.")
        return dense(self.apply(values))

    def encode(self, adata: AnnData, rows: Sequence[int] | np.ndarray | None = None) -> Float[np.ndarray, "cells dim"]:
        """Return the (scaled) expression of cells; see `AbstractFittedSpace.encode`."""
        index = rows_of(adata, rows)
        out = np.empty((len(index), self.dim), np.float32)
        start = 0
        for block in self.transformed(adata, index):
            out[start : start + block.shape[0]] = self.to_code(dense(block))
            start += block.shape[0]
        return out

    def to_code(self, x: Float[np.ndarray, "cells genes"]) -> Float[np.ndarray, "cells genes"]:
        """Return gene space as codes: scaled where the settings say so."""
        return (x - np.asarray(self.mean)) / np.asarray(self.sd)

    def decode(self, z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells genes"]:
        """Return codes in gene space."""
        return np.asarray(z, np.float32) * np.asarray(self.sd) + np.asarray(self.mean)

    def rates(self, z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells genes"]:
        """Return the expected shares of genes; see `AbstractFittedSpace.rates`."""
        return known_noise(self.noise).rates(shares_of_log_expression(self.decode(z)))
