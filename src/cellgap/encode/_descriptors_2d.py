"""Treatments by the two-dimensional descriptors of their molecules: weight, lipophilicity, counts of groups."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Float
from pydantic import BeforeValidator, Field

from cellgap.encode._block import AbstractBlock
from cellgap.encode._fitted import FittedEncoder
from cellgap.encode._interface import AbstractEncoder
from cellgap.encode._joint import Joint, join
from cellgap.encode._structures import (
    Structures,
    further_molecules,
    molecules,
    read_smiles_list,
    read_structures,
    require_structures,
    row_of,
    same_notes,
    same_structure,
    structures_source,
)
from cellgap.encode._table import outside
from cellgap.errors import ConfigError
from cellgap.settings import settings
from cellgap.storage import storable
from cellgap.study import Condition, Split, Treatment
from cellgap.study._wording import listed

# What RDKit gained after the published list of 200 was drawn up.
_LATER = frozenset(
    f"BCUT2D_{kind}" for kind in ("MWHI", "MWLOW", "CHGHI", "CHGLO", "LOGPHI", "LOGPLOW", "MRHI", "MRLOW")
) | {
    "AvgIpc",
    "NumAmideBonds",
    "NumAtomStereoCenters",
    "NumBridgeheadAtoms",
    "NumHeterocycles",
    "NumSpiroAtoms",
    "NumUnspecifiedAtomStereoCenters",
    "Phi",
    "SPS",
}
_FLAT = 1e-6  # a column whose spread over the training treatments is this small a part of its size is constant


def _as_tuple(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return tuple(value) if isinstance(value, list) else value


@settings
class Descriptors2D(AbstractEncoder):
    """Each treatment is the row of RDKit's 2-D descriptors of its molecule, standardized (needs the extra ``chem``).

    A descriptor that is NaN or infinite for a molecule becomes 0, as published; `Descriptors2DBlock.replaced` and the
    notes of the fitted encoder say which. Columns with a standard deviation of at most `min_sd` over the reference
    molecules are dropped, as published, and so are those that are constant over the training treatments, about which
    nothing can be learnt. Every treatment of the SMILES table can be encoded, trained on or not;
    `FittedEncoder.with_structures` adds further ones.

    Parameters
    ----------
    source, name_column, smiles_column
        Where the SMILES are, as in `Fingerprint`.
    reference
        Molecules that give mean and standard deviation of every column. "table": all of the SMILES table, the training
        treatments among them (the more molecules it has, the closer to the published list of 17,869; it includes
        held-out molecules, but no cell). "training": the training treatments only. A path of a list of SMILES, one a
        line or in the column ``smiles`` of a CSV or TSV file; or the SMILES themselves.
    descriptors
        "published": the 200 of the published list. "all": all that the installed RDKit has.
    min_sd
        Columns with a standard deviation over the reference up to this are dropped.

    Notes
    -----
    Source: Conditional Monge Gap (arXiv 2504.08328), with the 200 descriptors of its reference list. Published were 194
    columns after dropping; that needs the published reference list.
    """

    source: Annotated[str | Structures, BeforeValidator(structures_source)] = "uns:smiles"
    reference: Annotated[str | tuple[str, ...], BeforeValidator(_as_tuple)] = "table"
    descriptors: Literal["published", "all"] = "published"
    min_sd: Annotated[float, Field(ge=0)] = 0.01
    name_column: str | None = None
    smiles_column: str = "smiles"

    @property
    def parts(self) -> tuple[AbstractEncoder, ...]:
        """Itself."""
        return (self,)

    def fit_blocks(self, split: Split) -> tuple[AbstractBlock, ...]:
        """Return the block of standardized descriptors.

        Raises
        ------
        MissingExtraError
            RDKit is not installed.
        DataError
            The SMILES cannot be read, or one is no molecule.
        ConditionError
            A treatment of the split has no SMILES.
        ConfigError
            No descriptor varies over the reference and the training treatments.
        """
        structures = read_structures(self.source, split.study, self.name_column, self.smiles_column)
        trained = require_structures(split, structures)
        names, found = molecules(structures)
        columns = _names(self.descriptors)
        values, replaced = describe(names, found, columns)
        own = values[[names.index(name) for name in trained]]
        reference = self._reference(values, own, columns)
        mean, sd = reference.mean(axis=0), reference.std(axis=0)
        keep = (sd > self.min_sd) & (own.std(axis=0) > _FLAT * np.abs(own).max(axis=0))
        if not keep.any():
            raise ConfigError(
                f"Descriptors2D() has no descriptor that differs between the {len(trained)} training treatments and "
                f"has a standard deviation above {self.min_sd} over the {len(reference)} reference molecules."
            )
        return (
            Descriptors2DBlock(
                names=names,
                kept=tuple(name for name, k in zip(columns, keep, strict=True) if k),
                dropped=tuple(name for name, k in zip(columns, keep, strict=True) if not k),
                trained=trained,
                same=same_structure(names, found),
                replaced=replaced,
                values=((values[:, keep] - mean[keep]) / sd[keep]).astype(np.float32),
                mean=mean[keep],
                sd=sd[keep],
            ),
        )

    def fit(self, split: Split) -> FittedEncoder:
        """Return the fitted encoder, from the training conditions of a split."""
        return FittedEncoder(self.fit_blocks(split))

    def __or__(self, other: AbstractEncoder) -> Joint:
        return join(self, other)

    def _reference(self, table: np.ndarray, own: np.ndarray, columns: Sequence[str]) -> np.ndarray:
        """Return the descriptors of the reference molecules."""
        if self.reference == "table":
            return table
        if self.reference == "training":
            return own
        smiles = read_smiles_list(self.reference) if isinstance(self.reference, str) else self.reference
        rows = tuple(f"reference {i + 1}" for i in range(len(smiles)))
        names, found = molecules(Structures(rows, smiles), what="reference molecule")
        return describe(names, found, columns)[0]


@storable
class Descriptors2DBlock(AbstractBlock):
    """Standardized 2-D descriptors of every treatment with a SMILES.

    Parameters
    ----------
    names
        Treatments, one a row.
    kept, dropped
        Names of the columns, and of those that vary too little.
    trained
        Treatments trained on, sorted.
    same
        Groups of treatments whose molecules are the same.
    replaced
        Treatment and descriptor where a value that was not finite became 0.
    values
        (names, kept), mean 0 and standard deviation 1 over the reference molecules.
    mean, sd
        Of the reference molecules, (kept,).
    """

    names: tuple[str, ...] = eqx.field(static=True)
    kept: tuple[str, ...] = eqx.field(static=True)
    dropped: tuple[str, ...] = eqx.field(static=True)
    trained: tuple[str, ...] = eqx.field(static=True)
    same: tuple[tuple[str, ...], ...] = eqx.field(static=True)
    replaced: tuple[tuple[str, str], ...] = eqx.field(static=True)
    values: Float[np.ndarray, "names kept"]
    mean: Float[np.ndarray, " kept"]
    sd: Float[np.ndarray, " kept"]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.kept

    @property
    def context_columns(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def is_dose(self) -> bool:
        """No."""
        return False

    @property
    def saw_held_out(self) -> bool:
        """No: molecules are known before any cell is measured."""
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        """Which treatments are one molecule, and which values were not finite."""
        by_name: dict[str, list[str]] = {}
        for name, descriptor in self.replaced:
            by_name.setdefault(name, []).append(descriptor)
        zeros = (
            f"{len(which)} descriptors of {name} are not finite and were set to 0: {listed(which)}"
            for name, which in by_name.items()
        )
        return (*same_notes(self.same, self.trained), *zeros)

    def treatment(self, treatment: Treatment) -> Float[np.ndarray, " columns"]:
        """Return the row of the treatment."""
        return np.asarray(self.values)[row_of(treatment.name, self.names)]

    def context(self, condition: Condition) -> Float[np.ndarray, " context_columns"]:
        """Return no columns."""
        return np.zeros(0, np.float32)

    def extrapolation(self, condition: Condition) -> tuple[str, ...]:
        """Return the treatments not trained on, and how many of their descriptors leave the trained range."""
        reasons = []
        for name in condition.names:
            if name not in self.trained:
                where = outside(self.values, self.names, self.trained, name)
                reasons.append(f"the treatment {name} was not trained on{where}")
        return tuple(reasons)

    def with_structures(self, smiles: Mapping[str, str]) -> "Descriptors2DBlock":
        """Return the block with further treatments; what it knew is unchanged.

        Raises
        ------
        ConditionError
            A treatment is known already.
        DataError
            A text is not the SMILES of a molecule.
        """
        names, found = further_molecules(smiles, self.names)
        rows, replaced = describe(names, found, self.kept)
        standard = ((rows - np.asarray(self.mean)) / np.asarray(self.sd)).astype(np.float32)
        return Descriptors2DBlock(
            names=(*self.names, *names),
            kept=self.kept,
            dropped=self.dropped,
            trained=self.trained,
            same=self.same,
            replaced=(*self.replaced, *replaced),
            values=np.concatenate([np.asarray(self.values), standard]),
            mean=self.mean,
            sd=self.sd,
        )


def describe(
    names: Sequence[str], found: Sequence[Any], columns: Sequence[str]
) -> tuple[Float[np.ndarray, "molecules columns"], tuple[tuple[str, str], ...]]:
    """Return descriptors of RDKit molecules, float64, and (name, descriptor) where one was not finite and became 0."""
    from rdkit import rdBase
    from rdkit.Chem import Descriptors

    functions: dict[str, Any] = dict(Descriptors._descList)
    with rdBase.BlockLogs():
        values = np.array([[float(functions[column](m)) for column in columns] for m in found], np.float64)
    wrong = ~np.isfinite(values)
    values[wrong] = 0.0
    return values, tuple((names[int(i)], columns[int(j)]) for i, j in np.argwhere(wrong))


def _names(which: str) -> tuple[str, ...]:
    from rdkit.Chem import Descriptors

    return tuple(name for name, _ in Descriptors._descList if which == "all" or name not in _LATER)
