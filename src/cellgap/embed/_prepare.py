"""From a study to what training and diagnosis take: cells on the device, their pairs, a reference space."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from cellgap.embed._cells import Cells
from cellgap.embed._pair_sample import Project, projected
from cellgap.embed._reference import Reference, _blocks
from cellgap.embed.pairs import AbstractFittedPairs, AbstractPairs, PairCells
from cellgap.space import Genes, GeneSpace
from cellgap.study import Split, Study


class Prepared(NamedTuple):
    """Training cells and their pairs.

    Parameters
    ----------
    genes
        Which genes, and their transform.
    cells
        On the device: training cells, and after them those that were held out.
    table
        What samplers are fitted on: training cells.
    pairs
        The sampler, fitted on them.
    reference
        Axes of the inputs of training cells.
    """

    genes: GeneSpace
    cells: Cells
    table: PairCells
    pairs: AbstractFittedPairs
    reference: Reference

    @property
    def anchors(self) -> Int[np.ndarray, " n"]:
        """Places of the cells that have a partner."""
        return np.flatnonzero(np.asarray(self.pairs.able))

    @property
    def n_train(self) -> int:
        """Number of training cells."""
        return len(self.table.obs)


def prepare(
    divided: Split,
    pairs: AbstractPairs,
    genes: Genes,
    dim: int,
    rows: Int[np.ndarray, " cells"],
    held: Int[np.ndarray, " held"] | None = None,
) -> Prepared:
    """Return training cells with their pairs, and held-out cells beside them on the device.

    Raises
    ------
    DataError, ConfigError
        The measurements do not suit the genes or the pairs.
    """
    known = genes.fit_unscored(divided)
    cells = Cells.of(divided, known, rows if held is None else np.concatenate([rows, held]))
    reference = Reference.of(cells, dim, len(rows))
    table = pair_cells(divided.study, cells, reference, rows)
    return Prepared(known, cells, table, pairs.fit(table), reference)


def pair_cells(study: Study, cells: Cells, reference: Reference, rows: Int[np.ndarray, " cells"]) -> PairCells:
    """Return what samplers are fitted on: the first cells, which are these rows of the study."""
    treatment = None
    if study.design.treatment != ():
        names = np.asarray(
            [" + ".join(map(str, c.treatments)) or "control" for c in study.all_conditions], dtype=object
        )
        treatment = names[study.codes[rows]]
    coordinates = coordinates_of(cells, reference, len(rows))
    return PairCells(study.obs.iloc[rows], treatment, study.is_counts, coordinates)


def coordinates_of(cells: Cells, project: Project, n: int) -> np.ndarray:
    """Return the coordinates of the first `n` cells, float64."""
    places = np.arange(n)
    parts = [np.asarray(projected(cells, project, jnp.asarray(part, jnp.int32))) for part in _blocks(places)]
    return np.concatenate(parts)[: len(places)].astype(float)
