"""What every fitted map answers: transport, predict, gaps, save."""

import abc
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

import equinox as eqx
import numpy as np
from anndata import AnnData

from cellgap import storage
from cellgap.encode import FittedEncoder
from cellgap.errors import ConfigError, DataError, StorageError
from cellgap.gap import Gap
from cellgap.space import AbstractFittedSpace, counts_of, matched_counts
from cellgap.study import Condition
from cellgap.study._modalities import MODALITY
from cellgap.transport._affine import condition_features
from cellgap.transport._codes import Codes
from cellgap.transport._familiarity import Nearness, Vocabulary

if TYPE_CHECKING:
    import pandas as pd

OUTPUTS = ("expression", "counts")


class AbstractMap(eqx.Module):
    """A fitted map from control cells to treated cells."""

    name: eqx.AbstractVar[str]
    space: eqx.AbstractVar[AbstractFittedSpace]
    encoder: eqx.AbstractVar[FittedEncoder]
    vocabulary: eqx.AbstractVar[Vocabulary]
    measured_gaps: eqx.AbstractVar[tuple[Gap, ...]]

    @abc.abstractmethod
    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return where control cells go under a condition, in the coordinates of the space.

        Parameters
        ----------
        z
            Control cells, shape (cells, d).
        condition
            In the words and units of the study.

        Raises
        ------
        ConditionError
            The map has no answer for the condition.
        """

    def predict(
        self,
        adata: AnnData,
        condition: Condition | str,
        *,
        clip: bool = True,
        output: str = "expression",
        seed: int = 0,
    ) -> AnnData:
        """Return the cells that `adata`'s control cells are predicted to become under `condition`.

        The map is deterministic: it moves cells and cannot create spread that the controls lack. Counts are drawn
        around what the moved cells express, each with the total that its control cell has. Genes in which these
        controls differ from what the space expects of them keep that difference (`cellgap.space.matched_counts`).

        Parameters
        ----------
        adata
            Control cells, with the genes and the layer that the model was trained on. Not changed.
        condition
            A condition, or its text: ``"trametinib@1000nM | A549"``. A dose without a unit has the study's.
        clip
            Set negative predicted expression to 0 where the space's values cannot be negative.
        output
            "expression": values of the space's gene space. "counts": raw counts, for tools that start from counts.
        seed
            Of the draw of counts, together with the condition; at least 0.

        Returns
        -------
        AnnData
            ``X``: predicted expression in the space's transformed genes (cells, genes), or raw counts of these genes
            (CSR of int32); ``obsm["X_cellgap"]`` and
            ``obsm["X_cellgap_source"]``: predicted and source codes; ``obs``: that of `adata`, with ``condition`` and
            ``displacement`` (distance moved in the space); ``uns["cellgap"]``: model, versions, nearest training
            condition, distance to it and reasons why this extrapolates; for counts, where their totals and their
            dispersion come from.

        Raises
        ------
        ConditionError
            The condition is not one that the model can answer.
        DataError
            Genes, layer or cells are missing, the prediction is not finite, or the space does not give counts.
        ConfigError
            `output` is unknown.
        """
        if output not in OUTPUTS:
            raise ConfigError(f"output must be one of {', '.join(map(repr, OUTPUTS))}, found {output!r}.")
        if seed < 0:
            raise ConfigError(f"seed must be at least 0, found {seed}.")
        if output == "counts" and not self.space.gives_counts:
            raise DataError(
                f"{self.name} works in a space that does not give raw counts, because it was fitted on other "
                'measurements: fit it on raw counts (Design(counts=...)), or ask for output="expression".'
            )
        condition = self.vocabulary.resolve(condition)
        if adata.n_obs == 0:
            raise DataError("there are no control cells to predict from: the table given has 0 rows.")
        source = self.space.encode(adata)
        moved = np.asarray(self.transport(source, condition))
        if not np.isfinite(moved).all():
            raise DataError(f"the prediction for {str(condition)!r} is not finite: look at the input cells.")
        if output == "counts":
            measured = counts_of(adata, self.space.layer, self.space.genes)
            library: np.ndarray = (
                np.asarray(measured.sum(axis=1, dtype=np.float64)).ravel()
                if self.space.modalities is None
                else self.space.totals(adata)
            )
            # Conditions that are predicted from the same controls must not share their noise.
            state = np.random.SeedSequence([seed, zlib.crc32(repr(condition).encode())]).generate_state(1)
            values = matched_counts(self.space, source, measured).counts(moved, library, seed=int(state[0]))
        else:
            values = self.space.decode(moved)
            if clip and self.space.nonnegative:
                values = np.maximum(values, 0.0)
        near = self.nearness(condition)
        obs = cast("pd.DataFrame", adata.obs).copy()
        obs["condition"] = str(condition)
        obs["displacement"] = np.linalg.norm(moved - source, axis=1)
        out = AnnData(X=values, obs=obs)
        out.var_names = [str(gene) for gene in self.space.genes]
        if (modalities := self.space.modalities) is not None:
            out.var[MODALITY] = list(modalities)
        out.obsm["X_cellgap"] = moved
        out.obsm["X_cellgap_source"] = source
        out.uns["cellgap"] = {
            "model": self.name,
            "condition": repr(condition),
            "nearest_training_condition": near.nearest,
            "distance_to_training": near.distance,
            "extrapolates": list(near.extrapolates),
            "versions": storage.versions(),
        }
        if output == "counts" and (noise := self.space.noise) is not None:
            out.uns["cellgap"]["counts"] = {
                "library": "total of each control cell over the genes of the space",
                "dispersion": noise.rule,
                "seed": seed,
            }
        return out

    def nearness(self, condition: Condition | str) -> Nearness:
        """Return how far a condition is from the training conditions, and why an answer extrapolates."""
        condition = self.vocabulary.resolve(condition)
        features = condition_features(self.encoder, condition)
        return self.vocabulary.nearness(condition, features, self.encoder.extrapolation(condition))

    def gaps(self) -> tuple[Gap, ...]:
        """Return the gaps between this map and what its theory wants, measured when it was fitted."""
        return self.measured_gaps

    def save(self, folder: str | os.PathLike[str], *, header: dict | None = None) -> Path:
        """Return the folder after writing ``model.json`` and ``model.npz`` into it; read them with `load`."""
        return storage.save(self, folder, header=header)


def load(folder: str | os.PathLike[str]) -> AbstractMap:
    """Return the fitted map that was saved in a folder.

    Raises
    ------
    StorageError
        The folder holds no saved map, or one that this version cannot read.
    """
    found = storage.load(folder)
    if not isinstance(found, AbstractMap):
        raise StorageError(f"{folder} holds a saved {type(found).__name__}, not a map.")
    return found


def vocabulary_of(codes: Codes) -> Vocabulary:
    """Return the vocabulary of a split's training conditions."""
    conditions = codes.split.train_conditions
    features = np.stack([condition_features(codes.encoder, c) for c in conditions])
    return Vocabulary.of(conditions, features, codes.split.study.context_names)
