"""Treatments by what they do to cells: an embedding of the distances between treated populations."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from cellgap.encode._block import AbstractBlock
from cellgap.encode._dose import Dose
from cellgap.encode._effect_block import EffectBlock, KnownEffects
from cellgap.encode._effect_cells import control_rows, measured_alone, populations_of
from cellgap.encode._fitted import FittedEncoder
from cellgap.encode._interface import AbstractEncoder
from cellgap.encode._joint import Joint, join
from cellgap.encode._population_distance import (
    Between,
    Population,
    SinkhornDistances,
    gaussian_distances,
    share_no_context,
    sliced_distances,
    squared_distances,
)
from cellgap.encode._regression import regress
from cellgap.encode._scaling import classical_scaling, published_scaling
from cellgap.errors import ConfigError
from cellgap.settings import settings
from cellgap.space import PCA, AbstractSpace
from cellgap.study import Condition, Role, Split, Treatment
from cellgap.study._wording import listed

_PUBLISHED_EPSILON = 0.1


@settings
class Effect(AbstractEncoder):
    """Each treatment at each dose is a point, near to others that do the same to cells ("mode of action").

    Squared distances between the treated populations of training cells, averaged over the contexts that two treatments
    share, become coordinates by classical multidimensional scaling. A treatment at a dose between measured ones lies
    between their points, linearly in the logarithm of the dose; outside of them at the nearest. Treatments with no
    cells of their own (held out, or only measured in combinations) are placed as `mode` says.

    Parameters
    ----------
    dim
        Largest number of coordinates; fewer where the distances hold fewer.
    mode
        "strict": held-out treated cells are never read. What has no training cells is placed by `structure` alone: a
        ridge regression of the coordinates on its features, over the training treatments, the penalty chosen by
        leaving treatments out. "seen_held_out": held-out conditions are placed by their own treated cells (Gower), as
        in published results with this embedding, which are therefore not predictions of unseen data. The fitted
        encoder's ``saw_held_out`` is then True, and `extrapolation` names every such condition.
    structure
        An encoder of treatments that knows those without cells, such as ``Fingerprint()`` or ``Table()``. ``Dose()`` is
        joined to it where treatments have doses.
    space
        Coordinates of cells in which populations are compared; fitted on training cells.
    distance
        "gaussian": 2-Wasserstein distances of Gaussians, in closed form; populations that differ in mean and
        covariance. "sliced": sliced 2-Wasserstein distances; any difference, nearly as fast. "sinkhorn": two-batch
        Sinkhorn divergences; any difference, slow for hundreds of treatments. All three are corrected for the number
        of cells. "published": what was published, for comparison only: entropic Euclidean transport cost (epsilon 0.1,
        not debiased, contexts mixed), stress majorization, scaled to between 0 and 1. With "seen_held_out" it places
        all conditions at once, and each changes the coordinates of all.
    epsilon
        Of "sinkhorn", in units of the mean squared distance between training cells.
    n_cells
        Largest number of cells of a batch, for "sinkhorn" and "published".
    min_cells
        A treatment at a dose in a context with fewer cells counts as not measured there.
    seed
        Of projections, batches and random starts.

    Notes
    -----
    Source: Conditional Monge Gap (arXiv 2504.08328) for the embedding; Torgerson 1952 and Gower 1968 for scaling and
    placement. Deviations: see `distance` and `mode`. Coordinates are divided by the root mean square of the first.
    """

    dim: Annotated[int, Field(ge=1)] = 10
    mode: Literal["strict", "seen_held_out"] = "strict"
    structure: AbstractEncoder | None = None
    space: AbstractSpace = PCA()
    distance: Literal["gaussian", "sliced", "sinkhorn", "published"] = "gaussian"
    epsilon: Annotated[float, Field(gt=0)] = 0.1
    n_cells: Annotated[int, Field(ge=2)] = 512
    min_cells: Annotated[int, Field(ge=4)] = 10
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def parts(self) -> tuple[AbstractEncoder, ...]:
        """Itself."""
        return (self,)

    def fit_blocks(self, split: Split) -> tuple[AbstractBlock, ...]:
        """Return the block of coordinates.

        Raises
        ------
        ConfigError
            A treatment cannot be placed, fewer than three treatments or doses have training cells of their own,
            nothing differs between them, a context has no controls, or the settings do not suit the data.
        ConditionError, DataError
            `structure` or `space` cannot be fitted.
        """
        structure = self._structure(split)
        rows, few = measured_alone(split, split.train_conditions, [Role.TRAIN], self.min_cells)
        measured = {condition.treatments for condition in rows}
        if len(measured) < 3:
            raise ConfigError(
                f"Effect() needs at least 3 treatments or doses with {self.min_cells} training cells of their own in a "
                f"context, found {len(measured)}: train on more, or use another encoder."
            )
        held, too_few = measured_alone(split, self._held_out(split), [Role.TEST, Role.VALID], self.min_cells)
        held = {condition: found for condition, found in held.items() if condition.treatments not in measured}
        if structure is None:
            _refuse_unplaced(split, {condition.names[0] for condition in (*rows, *held)})
        controls = None if self.distance == "published" else control_rows(split, [*rows, *held])
        space = self.space.fit(split)
        trained = populations_of(split, space, rows, controls)
        known, facts = self._embedded(trained, populations_of(split, space, held, controls))
        if few or too_few:
            facts += (f"fewer than {self.min_cells} cells, not used: {listed([*few, *too_few])}",)
        if structure is None:
            return (EffectBlock(known, None, None, None, facts),)
        features = np.stack([structure.vector(Condition.of((t,), ())) for t in trained]).astype(np.float64)
        targets = np.asarray(known.coordinates, np.float64)[: len(trained)]
        fitted = regress(features, targets, [t.name for t in trained])
        return (EffectBlock(known, structure, fitted.coefficients, fitted.error, facts),)

    def fit(self, split: Split) -> FittedEncoder:
        """Return the fitted encoder, from the training conditions of a split (and, if `mode` says so, others)."""
        return FittedEncoder(self.fit_blocks(split))

    def __or__(self, other: AbstractEncoder) -> Joint:
        return join(self, other)

    def _structure(self, split: Split) -> FittedEncoder | None:
        """Return the fitted structure encoder, with doses where treatments have any."""
        if self.structure is None:
            return None
        parts = self.structure.parts
        has_dose = any(t.dose is not None for c in split.train_conditions for t in c.treatments)
        if has_dose and not any(isinstance(part, Dose) for part in parts):
            parts = (*parts, Dose())
        fitted = Joint(parts).fit(split)
        if fitted.context_dim:
            raise ConfigError("The structure of Effect() describes treatments, not contexts: leave contexts out of it.")
        return fitted

    def _held_out(self, split: Split) -> list[Condition]:
        """Return the held-out conditions whose cells may be read."""
        if self.mode == "strict":
            return []
        return sorted({*split.valid_conditions, *split.test_conditions} - {*split.train_conditions})

    def _embedded(
        self, trained: dict[Treatment, Population], held: dict[Treatment, Population]
    ) -> tuple[KnownEffects, tuple[str, ...]]:
        """Return the coordinates of what was measured, training treatments first, and what there is to say."""
        populations = list(trained.values())
        if self.distance == "published":
            compare = SinkhornDistances(_PUBLISHED_EPSILON, self.n_cells, self.seed)
            mixed = [np.concatenate(list(cells.values())) for cells in (*populations, *held.values())]
            found = published_scaling(compare.regularized(mixed), self.dim, self.seed)
            return KnownEffects.of([*trained], [*held], found), _unconverged(compare)
        between = self._between(populations)
        scaling = classical_scaling(squared_distances(populations, None, between), self.dim)
        if not len(scaling.lengths):
            raise ConfigError("Effect() found no difference between the training populations beyond their noise.")
        # One at a time: where a condition is placed does not depend on which others are.
        rows = [scaling.place(squared_distances([cells], populations, between)) for cells in held.values()]
        scale = scaling.lengths[0] / np.sqrt(len(populations))
        facts = [
            f"{len(scaling.lengths)} coordinates hold {scaling.explained:.0%} of the {self.distance} distances between "
            f"{len(populations)} treatments and doses"
        ]
        apart = share_no_context(populations)
        if apart:
            facts.append(f"{apart} pairs share no context and are compared as displacements from their own controls")
        found = np.concatenate([scaling.coordinates, *rows]) / scale
        return KnownEffects.of([*trained], [*held], found), (*facts, *_unconverged(between))

    def _between(self, populations: Sequence[Population]) -> Between:
        """Return what compares two lists of cells."""
        if self.distance == "gaussian":
            return gaussian_distances
        if self.distance == "sliced":
            return sliced_distances(self.seed)
        cells = np.concatenate([part for population in populations for part in population.values()])
        return SinkhornDistances(float(self.epsilon * 2.0 * cells.var(axis=0).sum()), self.n_cells, self.seed)


def _refuse_unplaced(split: Split, measured: set[str]) -> None:
    """Raise where a treatment of the split has no cells that may be read and no structure."""
    for condition in (*split.train_conditions, *split.valid_conditions, *split.test_conditions):
        for name in condition.names:
            if name not in measured:
                raise ConfigError(
                    f"Effect() cannot place the treatment {name!r}, which has too few training cells of its own: give "
                    'what is known of it, Effect(structure=Fingerprint("drugs.csv")) or Effect(structure=Table(...)).'
                )


def _unconverged(between: Between) -> tuple[str, ...]:
    n = between.unconverged if isinstance(between, SinkhornDistances) else 0
    return (f"{n} Sinkhorn problems did not reach their tolerance",) if n else ()
