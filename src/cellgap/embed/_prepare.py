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
    rows
        Rows of the study.
    genes
        Which genes, and their transform.
    cells
        On the device.
    table
        What samplers are fitted on.
    pairs
        The fitted sampler.
    reference
        Axes of the inputs.
    """

    rows: Int[np.ndarray, " cells"]
    genes: GeneSpace
    cells: Cells
    table: PairCells
    pairs: AbstractFittedPairs
    reference: Reference

    @property
    def anchors(self) -> Int[np.ndarray, " n"]:
        """Places of the cells that have a partner."""
        return np.flatnonzero(np.asarray(self.pairs.able))


def prepare(divided: Split, pairs: AbstractPairs, genes: Genes, dim: int, rows: Int[np.ndarray, " cells"]) -> Prepared:
    """Return training cells with their pairs.

    Raises
    ------
    DataError, ConfigError
        The measurements do not suit the genes or the pairs.
    """
    known = genes.fit_unscored(divided)
    cells = Cells.of(divided, known, rows)
    reference = Reference.of(cells, dim)
    table = pair_cells(divided.study, cells, reference, rows)
    return Prepared(rows, known, cells, table, pairs.fit(table), reference)


def pair_cells(study: Study, cells: Cells, reference: Reference, rows: Int[np.ndarray, " cells"]) -> PairCells:
    """Return what samplers are fitted on."""
    treatment = None
    if study.design.treatment != ():
        names = np.asarray(
            [" + ".join(map(str, c.treatments)) or "control" for c in study.all_conditions], dtype=object
        )
        treatment = names[study.codes[rows]]
    return PairCells(study.obs.iloc[rows], treatment, study.is_counts, coordinates_of(cells, reference))


def coordinates_of(cells: Cells, project: Project) -> np.ndarray:
    """Return the coordinates of all cells, float64."""
    places = np.arange(len(cells))
    parts = [np.asarray(projected(cells, project, jnp.asarray(part, jnp.int32))) for part in _blocks(places)]
    return np.concatenate(parts)[: len(places)].astype(float)
