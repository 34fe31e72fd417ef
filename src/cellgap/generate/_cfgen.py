"""CFGen: an autoencoder of counts, and a latent flow that draws its codes for any attributes."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray
from pydantic import Field

from cellgap.errors import ConfigError, DataError
from cellgap.generate._attributes import Attributes
from cellgap.generate._calibrate import FEW_WINDOWS, WEIGHTS, of_latents
from cellgap.generate._fitted import FittedCFGen
from cellgap.generate._gaps import sampling_gaps
from cellgap.generate._guidance import Guidance
from cellgap.generate._library import LibraryModel
from cellgap.generate._network import LatentField
from cellgap.generate._sampler import Sampler
from cellgap.generate._train_field import FlowTraining, LatentCells, train_field
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace, AbstractSpace, Autoencoder, CountNoise, JointAutoencoder, noises_by
from cellgap.study import Role, Split, Study, split
from cellgap.train import Loop, run_fingerprint

_MOST_VALID, _CALIBRATED, _COARSE = 2048, 1024, 6
_Width = Annotated[int, Field(ge=1)]


@settings
class CFGen:
    """Cells as raw counts for chosen attributes: codes by latent flow matching, counts by the space's likelihood.

    Parameters
    ----------
    space
        Where cells are drawn; it must give counts. Codes are standardized.
    attributes
        Columns of ``obs``: cell type, donor, batch, treatment.
    library_by
        The attribute by which totals of cells differ; None is the first.
    totals
        How logarithms of totals scatter within a category: as those of the training cells, or normally, as published.
    theta_by
        An attribute whose categories have dispersions of their own, as far as their cells say; None: one a gene.
    depth
        Whether the flow reads the total of a cell. None: where codes know it (``Autoencoder(inputs="log1p")``); drawing
        both independently would mix the composition of one depth with the total of another.
    width, embedding, n_blocks
        Of the network.
    calibrate
        Choose the guidance of the first attribute on held-out cells at the end of the fit, from a coarse grid; see
        `calibrate_guidance`.
    training
        See `FlowTraining`.
    sampler
        How cells are integrated where `sample` is not told otherwise.

    Notes
    -----
    Source: Palma et al., CFGen (arXiv 2407.11734; ICLR 2025) and its code. Ours: standardized codes that do not know
    the total, early stopping on held-out cells, an average of weights, attributes told cell by cell and all together,
    shrunk moments of small categories, fixed Heun steps. `reference` is the published recipe.
    """

    space: AbstractSpace
    attributes: tuple[str, ...]
    library_by: str | None = None
    totals: Literal["measured", "normal"] = "measured"
    theta_by: str | None = None
    depth: bool | None = None
    width: _Width = 64
    embedding: _Width = 32
    n_blocks: _Width = 3
    calibrate: bool = True
    training: FlowTraining = FlowTraining()
    sampler: Sampler = Sampler()

    def __post_init__(self) -> None:
        if not self.attributes or len(set(self.attributes)) < len(self.attributes):
            raise ConfigError(f"CFGen(attributes=...) are one or more different columns, found {self.attributes!r}.")
        for name in ("library_by", "theta_by"):
            value = getattr(self, name)
            if value is not None and value not in self.attributes:
                raise ConfigError(f"CFGen({name}={value!r}) is not among the attributes {self.attributes!r}.")
        if self.theta_by is not None and isinstance(self.space, JointAutoencoder):
            raise ConfigError(
                "CFGen(theta_by=...) takes a space of one modality, found a JointAutoencoder: leave it out."
            )

    @classmethod
    def reference(cls, attributes: tuple[str, ...], *, epochs: int = 1500, cells: int, **changes: Any) -> "CFGen":
        """Return the published recipe (small network), with `changes`.

        Parameters
        ----------
        attributes
            Columns of ``obs``.
        epochs
            Passes over the cells.
        cells
            Number of training cells, which epochs are counted in.

        Notes
        -----
        Width 32, embeddings of 20, 3 blocks; AdamW at 1e-4 (decay 1e-6), constant, batches of 64, clipped at 1, no
        average; one attribute or none told a step; sigma 1e-4; Dormand-Prince at 1e-5; the autoencoder's `reference`.
        """
        batch = changes.pop("batch_size", 64)
        recipe: dict[str, Any] = {
            "space": Autoencoder.reference(),
            "width": 32,
            "embedding": 20,
            "n_blocks": 3,
            "depth": False,
            "calibrate": False,
            "totals": "normal",
            "training": FlowTraining(
                loop=Loop(n_steps=epochs * math.ceil(cells / batch), chunk=100, valid_every=1000),
                batch_size=batch,
                learning_rate=1e-4,
                final=1.0,
                ema=0.0,
                told=(0.2, 0.8, 0.0),
                told_by="batch",
                sigma=1e-4,
            ),
            "sampler": Sampler(solver="dopri5", tolerance=1e-5),
        }
        return cls(attributes=attributes, **recipe | changes)

    def fit(
        self,
        study: Study | Split,
        *,
        key: PRNGKeyArray,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> "FittedCFGen":
        """Return the generator, trained on a study's cells or on the training cells of a split.

        Parameters
        ----------
        study
            A study (a tenth of its cells is set aside to choose when to stop) or a split, whose validation cells do.
        key
            Random key of the whole fit.
        folder
            Where to keep checkpoints and the log of the flow; a run that was stopped there is resumed, bit for bit.
        progress
            Show progress bars.

        Raises
        ------
        DataError
            An attribute is no column or lacks a label, or the space does not give counts.
        SplitError
            The split leaks or has no training cells.
        ConvergenceError
            Training diverged.
        """
        divided = split.everything(study) if isinstance(study, Study) else study
        divided.check_leaks()
        rows, held = divided.cells(Role.TRAIN), divided.cells(Role.VALID)
        obs = divided.study.obs
        attributes = Attributes.of(obs, self.attributes, rows)
        held = held[attributes.known(obs.iloc[held])]
        space = self.space.fit(divided, progress=progress)
        if not space.gives_counts:
            raise DataError(
                "CFGen draws counts, and this space does not give any, because it was fitted on other measurements: "
                "fit it on raw counts (Design(counts=...))."
            )
        z = np.asarray(space.encode(divided.study.adata, rows), np.float32)
        center, spread = z.mean(0), np.maximum(z.std(0), 1e-6)
        library = space.totals(divided.study.adata, rows)
        labels = attributes.labels(obs.iloc[rows])
        by = self.attributes.index(self.library_by or self.attributes[0])
        model = LibraryModel.of(
            library, labels[:, by], attributes.sizes[by], by, space.libraries, normal=self.totals == "normal"
        )
        reads_depth = self._reads_depth(space)

        def cells(z: np.ndarray, labels: np.ndarray, library: np.ndarray) -> LatentCells:
            depth = jnp.asarray(model.scaled(library)) if reads_depth else None
            return LatentCells(jnp.asarray((z - center) / spread), jnp.asarray(labels), depth)

        valid = None
        if len(held) > 1:
            if len(held) > _MOST_VALID:
                held = held[np.linspace(0, len(held) - 1, _MOST_VALID).astype(int)]
            there = np.asarray(space.encode(divided.study.adata, held), np.float32)
            known = attributes.labels(obs.iloc[held])
            valid = cells(there, known, space.totals(divided.study.adata, held))
        key_net, key_run = jr.split(key)
        train = cells(z, labels, library)
        result = train_field(
            self._network(space.dim, attributes.sizes, key_net, depth=reads_depth),
            train,
            valid,
            self.training,
            key=key_run,
            folder=None if folder is None else Path(folder),
            fingerprint="" if folder is None else run_fingerprint(repr(self), train, valid, key),
            progress=progress,
        )
        fitted = FittedCFGen(
            name="CFGen",
            space=space,
            attributes=attributes,
            library=model,
            field=result.best.average,
            center=center,
            spread=spread,
            sampler=self.sampler,
            calibrated=None,
            history=tuple(result.history),
            best_step=result.best_step,
            stopped=result.stopped,
            measured_gaps=(),
            noises=self._noises(divided, space, attributes, labels),
        )
        if valid is not None and self.calibrate:
            fitted = dataclasses.replace(fitted, calibrated=self._calibrated(fitted, valid))
        return dataclasses.replace(fitted, measured_gaps=sampling_gaps(fitted, train, valid))

    def _reads_depth(self, space: AbstractFittedSpace) -> bool:
        if self.depth and not space.libraries:
            raise ConfigError("CFGen(depth=True) needs a modality whose cells have totals: all are binary here.")
        return space.codes_know_totals if self.depth is None else self.depth

    def _noises(
        self, divided: Split, space: AbstractFittedSpace, attributes: Attributes, labels: np.ndarray
    ) -> tuple[int, tuple[CountNoise, ...]] | None:
        """Return the count noise of every category of the attribute `theta_by`."""
        if self.theta_by is None:
            return None
        by = attributes.names.index(self.theta_by)
        rows = divided.cells(Role.TRAIN)

        def shares(cells: np.ndarray) -> np.ndarray:
            return space.rates(space.encode(divided.study.adata, cells))

        noises = noises_by(divided, space, shares, rows, labels[:, by], attributes.sizes[by])
        return by, noises

    def _calibrated(self, fitted: FittedCFGen, valid: LatentCells) -> Guidance | None:
        """Return the guidance of the first attribute that is best by held-out cells; None where there are too few."""
        z, labels = np.asarray(valid.z)[:_CALIBRATED], np.asarray(valid.labels)[:_CALIBRATED]
        steps = Sampler(n_steps=_COARSE)
        try:
            found = of_latents(fitted, z, labels, 0, jr.key(0), weights=WEIGHTS, windows=FEW_WINDOWS, sampler=steps)
        except DataError:
            return None
        return found.guidance

    def _network(self, dim: int, sizes: tuple[int, ...], key: PRNGKeyArray, *, depth: bool) -> LatentField:
        def initialized(key: PRNGKeyArray) -> LatentField:
            return LatentField(
                dim,
                sizes,
                width=self.width,
                embedding=self.embedding,
                n_blocks=self.n_blocks,
                depth=depth,
                key=key,
            )

        # One compiled program instead of one for the shape of every layer.
        return eqx.filter_jit(initialized)(key)
