"""Treatments by the substructures of their molecules: Morgan fingerprints."""

from collections.abc import Mapping
from typing import Annotated, Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int, UInt
from pydantic import BeforeValidator, Field

from cellgap.encode._block import AbstractBlock
from cellgap.encode._fitted import FittedEncoder
from cellgap.encode._interface import AbstractEncoder
from cellgap.encode._joint import Joint, join
from cellgap.encode._structures import (
    Structures,
    further_molecules,
    molecules,
    read_structures,
    require_structures,
    row_of,
    same_notes,
    same_structure,
    structures_source,
)
from cellgap.errors import ConfigError
from cellgap.settings import settings
from cellgap.storage import storable
from cellgap.study import Condition, Split, Treatment


@settings
class Fingerprint(AbstractEncoder):
    """Each treatment is the Morgan fingerprint of its molecule (needs the extra ``chem``).

    A bit says whether a substructure, hashed to that bit, occurs. Bits that are constant over the training treatments
    are dropped: nothing can be learnt about them. Every treatment of the SMILES table can be encoded, trained on or
    not; `FittedEncoder.with_structures` adds further ones.

    Parameters
    ----------
    source
        ``"uns:key"`` for a mapping, Series or DataFrame in ``uns`` of the AnnData; ``"obs:column"`` for a column of
        SMILES beside each cell; the path of a CSV or TSV file; or a mapping or DataFrame (such settings cannot be
        written to a file; the fitted encoder keeps the numbers).
    radius
        Largest radius of a substructure, in bonds.
    n_bits
        Length of the fingerprint before bits are dropped.
    counts
        Whether a bit holds how often its substructures occur.
    n_components
        None keeps the bits. A number takes as many principal components (or as many as there are) of the fingerprints
        of the whole table, divided by the standard deviation of the first: with hundreds of bits and few training
        treatments this keeps the number of features sane. The components depend on which molecules the table has,
        held-out ones included, but on no cell.
    name_column, smiles_column
        Columns of a file or DataFrame. None takes the first column of a file, and the index of a DataFrame.

    Notes
    -----
    Source: Rogers and Hahn 2010, as RDKit computes them (``rdFingerprintGenerator``, default invariants).
    """

    source: Annotated[str | Structures, BeforeValidator(structures_source)] = "uns:smiles"
    radius: Annotated[int, Field(ge=0, le=10)] = 2
    n_bits: Annotated[int, Field(ge=16, le=65536)] = 1024
    counts: bool = False
    n_components: Annotated[int, Field(ge=1)] | None = None
    name_column: str | None = None
    smiles_column: str = "smiles"

    @property
    def parts(self) -> tuple[AbstractEncoder, ...]:
        """Itself."""
        return (self,)

    def fit_blocks(self, split: Split) -> tuple[AbstractBlock, ...]:
        """Return the block of fingerprints.

        Raises
        ------
        MissingExtraError
            RDKit is not installed.
        DataError
            The SMILES cannot be read, or one is no molecule.
        ConditionError
            A treatment of the split has no SMILES.
        ConfigError
            No bit varies over the training treatments.
        """
        structures = read_structures(self.source, split.study, self.name_column, self.smiles_column)
        trained = require_structures(split, structures)
        names, found = molecules(structures)
        prints = morgan(found, self.radius, self.n_bits, self.counts)
        own = prints[[names.index(name) for name in trained]]
        kept = np.flatnonzero((own != own[0]).any(axis=0))
        if not len(kept):
            raise ConfigError(
                f"Fingerprint() has no bit that differs between the {len(trained)} training treatments: "
                "train on more treatments."
            )
        components, center = None, None
        if self.n_components is not None:
            center = prints[:, kept].mean(axis=0, dtype=np.float64)
            components = _components(prints[:, kept] - center, self.n_components)
        return (
            FingerprintBlock(
                names=names,
                trained=trained,
                same=same_structure(names, found),
                radius=self.radius,
                counts=self.counts,
                prints=prints,
                kept=kept,
                center=center,
                components=components,
            ),
        )

    def fit(self, split: Split) -> FittedEncoder:
        """Return the fitted encoder, from the training conditions of a split."""
        return FittedEncoder(self.fit_blocks(split))

    def __or__(self, other: AbstractEncoder) -> Joint:
        return join(self, other)


@storable
class FingerprintBlock(AbstractBlock):
    """Morgan fingerprints of every treatment with a SMILES.

    Parameters
    ----------
    names
        Treatments, one a row.
    trained
        Treatments trained on, sorted.
    same
        Groups of treatments whose molecules are the same.
    radius, counts
        As in `Fingerprint`.
    prints
        All bits, or counts, (names, bits).
    kept
        Which of them vary over `trained`.
    center, components
        Mean of the kept bits over `names`, and what the centered bits are multiplied by, (kept, components); None
        where the bits are the columns.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    trained: tuple[str, ...] = eqx.field(static=True)
    same: tuple[tuple[str, ...], ...] = eqx.field(static=True)
    radius: int = eqx.field(static=True)
    counts: bool = eqx.field(static=True)
    prints: UInt[np.ndarray, "names bits"]
    kept: Int[np.ndarray, " kept"]
    center: Float[np.ndarray, " kept"] | None
    components: Float[np.ndarray, "kept components"] | None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        if self.components is not None:
            return tuple(f"fingerprint component {i + 1}" for i in range(self.components.shape[1]))
        return tuple(f"bit {int(i)}" for i in self.kept)

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
        """Which treatments are one molecule."""
        return same_notes(self.same, self.trained)

    def treatment(self, treatment: Treatment) -> Float[np.ndarray, " columns"]:
        """Return the bits of the treatment, or their components."""
        bits = self._print(treatment.name)[np.asarray(self.kept)].astype(np.float32)
        if self.components is None or self.center is None:
            return bits
        return ((bits - np.asarray(self.center)) @ np.asarray(self.components)).astype(np.float32)

    def context(self, condition: Condition) -> Float[np.ndarray, " context_columns"]:
        """Return no columns."""
        return np.zeros(0, np.float32)

    def extrapolation(self, condition: Condition) -> tuple[str, ...]:
        """Return the treatments not trained on, with the Tanimoto similarity to the nearest one that was."""
        reasons = []
        for name in condition.names:
            if name in self.trained:
                continue
            nearest, similarity = self.nearest(name)
            reasons.append(
                f"the treatment {name} was not trained on; the nearest molecule that was is {nearest} "
                f"(Tanimoto similarity {similarity:.2f})"
            )
        return tuple(reasons)

    def nearest(self, name: str) -> tuple[str, float]:
        """Return the training treatment with the greatest Tanimoto similarity to a treatment, and that similarity.

        Of all bits, not only of the kept ones; for counts it is the sum of minima over the sum of maxima.
        """
        own = self._print(name).astype(np.int64)
        others = np.asarray(self.prints)[[self.names.index(n) for n in self.trained]]
        larger = np.maximum(own, others).sum(axis=1)
        similarity = np.minimum(own, others).sum(axis=1) / np.maximum(larger, 1)
        best = int(np.argmax(similarity))
        return self.trained[best], float(similarity[best])

    def with_structures(self, smiles: Mapping[str, str]) -> "FingerprintBlock":
        """Return the block with further treatments; what it knew is unchanged.

        Raises
        ------
        ConditionError
            A treatment is known already.
        DataError
            A text is not the SMILES of a molecule.
        """
        names, found = further_molecules(smiles, self.names)
        prints = morgan(found, self.radius, np.asarray(self.prints).shape[1], self.counts)
        return FingerprintBlock(
            names=(*self.names, *names),
            trained=self.trained,
            same=self.same,
            radius=self.radius,
            counts=self.counts,
            prints=np.concatenate([np.asarray(self.prints), prints]),
            kept=self.kept,
            center=self.center,
            components=self.components,
        )

    def _print(self, name: str) -> np.ndarray:
        return np.asarray(self.prints)[row_of(name, self.names)]


def morgan(found: list[Any], radius: int, n_bits: int, counts: bool) -> UInt[np.ndarray, "molecules bits"]:
    """Return Morgan fingerprints of RDKit molecules; uint8 bits, or uint16 counts."""
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=n_bits)
    if counts:
        rows = [np.minimum(generator.GetCountFingerprintAsNumPy(m), 65535).astype(np.uint16) for m in found]
    else:
        rows = [generator.GetFingerprintAsNumPy(m).astype(np.uint8) for m in found]
    return np.stack(rows)


def _components(centered: np.ndarray, n: int) -> Float[np.ndarray, "kept components"]:
    """Return principal axes, signed by their largest entry, divided by the root mean square along the first."""
    _, s, vt = np.linalg.svd(centered, full_matrices=False)
    n = min(n, int((s > s[0] * 1e-6).sum()))
    axes = vt[:n]
    axes = axes * np.sign(axes[np.arange(n), np.abs(axes).argmax(axis=1)])[:, None]
    return axes.T / (s[0] / np.sqrt(len(centered)))
