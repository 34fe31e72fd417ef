"""Axes of a stream as a space: what transport, generation and laws work in."""

from typing import Annotated, Literal

import equinox as eqx
import numpy as np
from pydantic import Field

from cellgap.errors import ConfigError, DataError
from cellgap.settings import settings
from cellgap.space import AbstractSpace, Genes, GeneSpace, PCASpace, reconstruction_of
from cellgap.space._log_expression import noise_of_log_expression
from cellgap.space._pca import FLOOR
from cellgap.stream.axes._atlas import Atlas, AtlasCells
from cellgap.stream.axes._streaming_pca import StreamingPCA
from cellgap.study import Role, ShuffledReader, Split


@settings
class OnePassPCA(AbstractSpace):
    """Principal components of the training cells in one pass: `cellgap.space.PCA` for studies larger than memory.

    Parameters
    ----------
    dim
        Number of components.
    genes
        Which genes, and their transform. Choosing variable genes takes a pass of its own before; ``scale`` is done in
        the pass itself.
    solver, oversample, heavy_rows
        As in `StreamingPCA`.
    seed
        Of the order in which cells are read.
    """

    dim: Annotated[int, Field(ge=1)] = 50
    genes: Genes = Genes()
    solver: Literal["auto", "gram", "blocks", "fd", "incremental"] = "auto"
    oversample: Annotated[int, Field(ge=0)] | None = None
    heavy_rows: Annotated[int, Field(ge=0)] = 256
    seed: Annotated[int, Field(ge=0)] = 0

    def fit(self, split: Split, *, progress: bool = False) -> PCASpace:
        """Return the space, fitted on the training cells of a split; see `AbstractSpace.fit`."""
        plain = Genes(self.genes.n_top, self.genes.transform, self.genes.target_sum, self.genes.cofactor)
        genes = plain.fit_unscored(split)
        rows = split.cells(Role.TRAIN)
        if self.dim > min(len(rows), genes.dim) - 1:
            raise ConfigError(
                f"OnePassPCA(dim={self.dim}) needs more genes and training cells than components, found {genes.dim} "
                f"genes and {len(rows)} cells."
            )
        stream = StreamingPCA(
            self.dim, solver=self.solver, oversample=self.oversample, heavy_rows=self.heavy_rows,
            scale=self.genes.scale, seed=self.seed,
        ).expect(len(rows))  # fmt: skip
        for block in ShuffledReader(split.study, rows, seed=self.seed, chunk=64, n_chunks=128).batches(2048):
            stream.partial_fit(genes.apply(block.values))
        space = space_of(stream, genes)
        if self.genes.transform == "lognorm":
            noise = noise_of_log_expression(space, split, floor=FLOOR)
            space = eqx.tree_at(lambda s: s.noise, space, noise, is_leaf=lambda leaf: leaf is None)
        return eqx.tree_at(lambda s: s.scores, space, reconstruction_of(space, split))


def space_of(
    stream: StreamingPCA, genes: "GeneSpace | AtlasCells | None" = None, atlas: Atlas | None = None
) -> PCASpace:
    """Return the axes of a stream as a space with `encode` and `decode`.

    It gives no counts: their noise is fitted where the space is used (`cellgap.space.Saved`).

    Parameters
    ----------
    stream
        After its pass.
    genes
        The genes of its rows.
    atlas
        What was read, where `genes` are those of an atlas.

    Raises
    ------
    DataError
        The genes are not those of the stream.
    """
    if isinstance(genes, AtlasCells):
        assert atlas is not None
        columns = np.arange(len(genes.names)) if genes.columns is None else genes.columns
        # What "lognorm" took are counts, which a design names by "X".
        layer = "X" if atlas.layer is None and atlas.transform == "lognorm" else atlas.layer
        genes = GeneSpace(
            study_genes=genes.names, columns=columns, transform=atlas.transform, target_sum=float(atlas.target_sum),
            cofactor=atlas.cofactor, measured_in=layer, mean=np.zeros(len(columns), np.float32),
            sd=np.ones(len(columns), np.float32), scores={}, noise=None,
        )  # fmt: skip
    if genes is None or genes.dim != stream.n_features_in_:
        raise DataError(f"The stream has {stream.n_features_in_} genes: name them, all and in order.")
    scaled = eqx.tree_at(
        lambda s: (s.mean, s.sd), genes, (stream.mean_.astype(np.float32), stream.scale_.astype(np.float32))
    )
    return PCASpace(
        gene_space=scaled if stream.settings.scale else genes,
        components=stream.components_.astype(np.float32),
        center=stream.mean_.astype(np.float32),
        explained=stream.explained_variance_ratio_.astype(np.float32),
        scores={},
        noise=None,
    )
