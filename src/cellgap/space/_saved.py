"""A space that was fitted before and kept on disk."""

from pathlib import Path

import equinox as eqx

from cellgap.errors import ConfigError, DataError
from cellgap.settings import settings
from cellgap.space._interface import AbstractFittedSpace, AbstractSpace
from cellgap.space._log_expression import noise_of_log_expression
from cellgap.space._pca import FLOOR, PCASpace
from cellgap.space._reconstruction import reconstruction_of
from cellgap.storage import load
from cellgap.study import Split


@settings
class Saved(AbstractSpace):
    """A space as it was saved, for instance the axes of an atlas (``cellgap stream pca``).

    What it was fitted on is not known here: where that includes held-out cells, scores of a model in it are of cells
    that the space has seen.

    Parameters
    ----------
    path
        The file of its arrays, such as ``axes.npz``; ``axes.json`` lies beside it.
    """

    path: str

    def fit(self, split: Split, *, progress: bool = False) -> AbstractFittedSpace:
        """Return the space, read from disk; its reconstruction and its count noise are those of this split.

        Raises
        ------
        ConfigError
            The file holds no space.
        DataError
            Genes of the space are missing in the study, or other values were measured.
        StorageError
            The file is missing or damaged.
        """
        path = Path(self.path)
        space = load(path.parent, name=path.stem)
        if not isinstance(space, AbstractFittedSpace):
            raise ConfigError(f"{self.path} holds a {type(space).__name__} and no space.")
        if (space.layer or "X") != (split.study.design.counts or "X"):
            raise DataError(
                f"{self.path} was fitted on the values of {space.layer or 'X'}, but the design's are of "
                f"{split.study.design.counts or 'X'}: fit it again, or change Design(counts=...)."
            )
        if isinstance(space, PCASpace):
            if space.gene_space.transform == "lognorm":
                noise = noise_of_log_expression(space, split, floor=FLOOR)
                space = eqx.tree_at(lambda s: s.noise, space, noise, is_leaf=lambda leaf: leaf is None)
            space = eqx.tree_at(lambda s: s.scores, space, reconstruction_of(space, split))
        return space
