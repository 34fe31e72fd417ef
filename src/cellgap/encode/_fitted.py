"""A fitted encoder: its blocks side by side."""

from collections.abc import Iterable, Mapping

import equinox as eqx
import numpy as np
from jaxtyping import Float

from cellgap.encode._block import AbstractBlock, EncodedCondition, EncodedConditions
from cellgap.errors import ConditionError, ConfigError
from cellgap.storage import storable
from cellgap.study import Condition


@storable
class FittedEncoder(eqx.Module):
    """Conditions as numbers, as an encoder learnt to write them from training conditions.

    Parameters
    ----------
    blocks
        The fitted parts, in the order in which the encoder was written.
    """

    blocks: tuple[AbstractBlock, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of a treatment row, (dim,)."""
        return tuple(name for block in self.blocks for name in block.columns)

    @property
    def context_columns(self) -> tuple[str, ...]:
        """Names of the columns of the context, (context_dim,)."""
        return tuple(name for block in self.blocks for name in block.context_columns)

    @property
    def dim(self) -> int:
        """Number of columns of a treatment row."""
        return len(self.columns)

    @property
    def context_dim(self) -> int:
        """Number of columns of the context."""
        return len(self.context_columns)

    @property
    def saw_held_out(self) -> bool:
        """Whether any part read held-out treated cells: results on them are then not predictions of unseen data."""
        return any(block.saw_held_out for block in self.blocks)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the fit, in sentences: columns dropped, values replaced, equal molecules."""
        return tuple(note for block in self.blocks for note in block.notes)

    def encode(self, condition: Condition) -> EncodedCondition:
        """Return one condition as numbers; a control has no row of treatments.

        Raises
        ------
        ConditionError
            A treatment, dose or context cannot be encoded; the sentence says what would be needed.
        """
        entities = np.zeros((len(condition.treatments), self.dim), np.float32)
        for row, treatment in zip(entities, condition.treatments, strict=True):
            row[:] = _concatenated(block.treatment(treatment) for block in self.blocks)
        return EncodedCondition(entities, _concatenated(block.context(condition) for block in self.blocks))

    def encode_many(self, conditions: Iterable[Condition], *, width: int = 1) -> EncodedConditions:
        """Return conditions as arrays of one size, padded with zero rows where ``mask`` is False.

        Parameters
        ----------
        conditions
            The conditions.
        width
            Least number of rows of a condition, to keep one shape over several calls.
        """
        encoded = [self.encode(condition) for condition in conditions]
        width = max([width, 1, *(len(e.entities) for e in encoded)])
        entities = np.zeros((len(encoded), width, self.dim), np.float32)
        mask = np.zeros((len(encoded), width), bool)
        context = np.zeros((len(encoded), self.context_dim), np.float32)
        for k, (rows, ctx) in enumerate(encoded):
            entities[k, : len(rows)] = rows
            mask[k, : len(rows)] = True
            context[k] = ctx
        return EncodedConditions(entities, mask, context)

    def can_encode(self, condition: Condition) -> bool:
        """Return whether `encode` takes a condition."""
        try:
            self.encode(condition)
        except ConditionError:
            return False
        return True

    def vector(self, condition: Condition) -> Float[np.ndarray, " p"]:
        """Return a condition as one vector that does not depend on the order of treatments.

        ``[m, sum_k e_k, sum_k dose_k d_k, context]``: the number of treatments (the intercept of a regression that
        leaves controls at 0), the sum of their rows, the sum over treatments of the dose times each descriptor, and
        the context. `vector_columns` names the entries.
        """
        encoded = self.encode(condition)
        products = [encoded.entities[:, [i]] * encoded.entities[:, others] for i, others in self._products()]
        parts = [np.array([len(encoded.entities)]), encoded.entities.sum(0), *(p.sum(0) for p in products)]
        return np.concatenate([*parts, encoded.context]).astype(np.float32)

    @property
    def vector_columns(self) -> tuple[str, ...]:
        """Names of the entries of `vector`."""
        names = self.columns
        products = [f"{names[i]} x {names[j]}" for i, others in self._products() for j in others]
        return ("treatments", *names, *products, *self.context_columns)

    def extrapolation(self, condition: Condition) -> tuple[str, ...]:
        """Return in which respects a condition lies outside of what was trained on, in words; empty where it does not.

        Raises
        ------
        ConditionError
            The condition cannot be encoded.
        """
        self.encode(condition)
        return tuple(reason for block in self.blocks for reason in block.extrapolation(condition))

    def with_structures(self, smiles: Mapping[str, str]) -> "FittedEncoder":
        """Return the encoder that also encodes new treatments, given by their SMILES; all else is unchanged.

        In a fitted model, ``eqx.tree_at(lambda m: m.encoder, model, model.encoder.with_structures({"new": "CCO"}))``.

        Parameters
        ----------
        smiles
            SMILES of each new treatment.

        Raises
        ------
        ConfigError
            No part of the encoder reads molecules.
        ConditionError
            A treatment is known already.
        DataError
            A text is not the SMILES of a molecule.
        MissingExtraError
            RDKit is not installed.
        """
        blocks = tuple(block.with_structures(smiles) for block in self.blocks)
        if all(new is old for new, old in zip(blocks, self.blocks, strict=True)):
            raise ConfigError(
                "This encoder does not read molecules, so that new ones cannot be added: "
                "it needs a Fingerprint() or Descriptors2D()."
            )
        return FittedEncoder(blocks)

    def _products(self) -> list[tuple[int, list[int]]]:
        """Return each dose column with the columns of descriptors."""
        starts = np.cumsum([0, *(len(block.columns) for block in self.blocks)])
        pairs = list(zip(self.blocks, starts, strict=False))
        others = [int(s) + j for block, s in pairs if not block.is_dose for j in range(len(block.columns))]
        return [(int(s), others) for block, s in pairs if block.is_dose and others]


def _concatenated(parts: Iterable[np.ndarray]) -> Float[np.ndarray, " n"]:
    return np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float32)
