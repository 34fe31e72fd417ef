"""A fitted generator: cells for any attributes, and cells taken from one value of an attribute to another."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cellgap import storage
from cellgap.errors import ConfigError, DataError
from cellgap.gap import Gap
from cellgap.generate._asked import as_table, asked_guidance, asked_totals, check_output, generator, seed_of
from cellgap.generate._attributes import Attributes
from cellgap.generate._field import Told
from cellgap.generate._guidance import Guidance, guide
from cellgap.generate._library import LibraryModel
from cellgap.generate._network import LatentField
from cellgap.generate._sampler import Path, Sampler, flow
from cellgap.space import AbstractFittedSpace, CountNoise
from cellgap.storage import storable
from cellgap.study import parted
from cellgap.study._modalities import MODALITY

if TYPE_CHECKING:
    from mudata import MuData

TRANSLATION = Sampler(solver="rk4", n_steps=20)
"""Cells that are taken back and forth with it come back to within 1e-4 and better; ten Heun steps leave 1e-2."""
_BLOCK = 2048
_SMALLEST = 64


class Latent(NamedTuple):
    """Standardized latent cells, what they cost, and their error on the way.

    Parameters
    ----------
    z
        Cells.
    evaluations, reverse
        Of the velocity field, a cell; see `cellgap.generate.Path`.
    gap
        Accumulated readings G1 to G3 of the training-inference gap of every cell; zeros where it was not measured.
    """

    z: Float[np.ndarray, "n d"]
    evaluations: float
    reverse: float
    gap: Float[np.ndarray, "n 3"]


@storable
class FittedCFGen(eqx.Module):
    """See `CFGen`.

    Parameters
    ----------
    name
        What it is called in tables.
    space
        Fitted; its codes are standardized with `center` and `spread`.
    attributes, library
        Categories and their combinations; totals of cells.
    field
        The velocity field (average of weights).
    center, spread
        Of the training codes.
    sampler
        How cells are integrated by default.
    calibrated
        Guidance of the first attribute that is closest to held-out cells, as chosen at the fit; None where there were
        too few of them.
    history, best_step, stopped
        Of training; see `cellgap.train.FitResult`.
    measured_gaps
        See `gaps`.
    noises
        Number of an attribute, and how expected shares become counts in each of its categories; None: as the space
        says.
    """

    name: str
    space: AbstractFittedSpace
    attributes: Attributes
    library: LibraryModel
    field: LatentField
    center: Float[np.ndarray, " d"]
    spread: Float[np.ndarray, " d"]
    sampler: Sampler = eqx.field(static=True)
    calibrated: Guidance | None = eqx.field(static=True)
    history: tuple[dict[str, float], ...]
    best_step: int
    stopped: str
    measured_gaps: tuple[Gap, ...]
    noises: tuple[int, tuple[CountNoise, ...]] | None = None

    def sample(
        self,
        n: int,
        *,
        key: PRNGKeyArray,
        guidance: float | Mapping[str, float] | Guidance | str = 1.0,
        weights: Float[np.ndarray, "n k"] | None = None,
        sampler: Sampler | None = None,
        library: float | Sequence[float | int] | np.ndarray | None = None,
        output: str = "counts",
        **values: Any,
    ) -> "AnnData | MuData":
        """Return new cells with the attributes that are asked for.

        Parameters
        ----------
        n
            Number of cells.
        key
            Random key: the same key, model and versions give the same bits.
        guidance
            Weight of all attributes, one a name, `Guidance`, or "calibrated": see `calibrate_guidance`.
        weights
            One a cell and attribute instead, in the order of ``attributes.names``.
        sampler
            Solver, steps and corrector; None takes the model's.
        library
            Totals of cells, one a cell or one for all (a column each for several modalities with totals); None draws
            them.
        output
            "counts": raw counts (CSR of int32). "expression": the space's gene space. "latent": codes only.
        **values
            Attributes by name: one value for all cells, or one a cell. Those that are not given are drawn as in the
            training cells that agree in the others.

        Returns
        -------
        AnnData
            ``obs``: the attributes, ``library``, and ``seen``: whether the combination was among the training cells;
            ``obsm["X_cellgap"]``: codes; ``uns["cellgap"]``: model, guidance, evaluations of the field a cell,
            versions. A MuData where the space has several modalities.

        Raises
        ------
        ConditionError
            An attribute or value is unknown (the message names near ones).
        ConfigError
            A number, weight or output is wrong.
        """
        if not isinstance(n, int | np.integer) or n < 0:
            raise ConfigError(f"n is a whole number of cells of at least 0, found {n!r}.")
        check_output(output)
        key_labels, key_library, key_noise, key_counts = jr.split(key, 4)
        labels = self.attributes.asked(int(n), values, generator(key_labels))
        how, per_cell = asked_guidance(guidance, weights, len(labels), self.attributes.names, self.calibrated)
        if library is None:
            totals = self.library.draw(labels, generator(key_library))
        else:
            totals = asked_totals(library, len(labels), self.library.names)
        noise = jr.normal(key_noise, (len(labels), self.field.dim))
        latent = self.move(noise, labels, totals, guidance=how, weights=per_cell, sampler=sampler)
        return self._shown(self.cells(latent, labels, totals, output=output, seed=seed_of(key_counts), guidance=how))

    def _shown(self, cells: AnnData) -> "AnnData | MuData":
        """Return cells as the user's kind of table: a MuData where there are several modalities."""
        return parted(cells) if self.space.modalities is not None else cells

    def translate(
        self,
        adata: "AnnData | MuData",
        *,
        key: PRNGKeyArray,
        guidance: float | Mapping[str, float] | Guidance | str = 1.0,
        sampler: Sampler | None = None,
        output: str = "counts",
        **values: Any,
    ) -> "AnnData | MuData":
        """Return measured cells as they would be with other values of some attributes: batch correction, for one.

        The flow is run backward with the attributes that cells have, and forward with those that are asked for; each
        cell keeps its total. For batch correction the model should know the types as well: the flow gives cells the
        composition of where they are taken to, in everything that it is not told.

        Parameters
        ----------
        adata
            Measured cells, with the genes and columns that the model was fitted on. Not changed.
        key, guidance, output
            As in `sample`; the key is for counts only.
        sampler
            Of both ways; None takes 20 steps of fourth order, which bring cells back to where they were.
        **values
            The attributes to change, and their new values.

        Returns
        -------
        AnnData
            As `sample` returns it, with the names and columns of `adata`; ``obsm["X_cellgap_source"]``: codes before;
            ``obsm["X_cellgap_noise"]``: where the way back ended, whose mean and covariance should be 0 and 1.

        Raises
        ------
        ConditionError
            An attribute or value is unknown, or a cell has a value that was not seen in training.
        DataError
            Genes or columns are missing, or there are no cells.
        ConfigError
            There is nothing to change, or a setting is wrong.
        """
        check_output(output)
        adata = as_table(adata)
        if not values:
            raise ConfigError(f"translate needs an attribute to change: one of {', '.join(self.attributes.names)}.")
        if adata.n_obs == 0:
            raise DataError("there are no cells to translate: the table given has 0 rows.")
        labels = self.attributes.labels(pd.DataFrame(adata.obs))
        target = self.attributes.asked(len(labels), values, np.random.default_rng(0))
        keep = [k for k, name in enumerate(self.attributes.names) if name not in values]
        target[:, keep] = labels[:, keep]
        how, weights = asked_guidance(guidance, None, len(labels), self.attributes.names, self.calibrated)
        z, totals = self.encode(adata), self.space.totals(adata)
        # One field there and back: a combination that was never seen is composed, and so is where its cells come from.
        composed = self._composed(labels, how) | self._composed(target, how)
        options: Any = {"guidance": how, "weights": weights, "sampler": sampler or TRANSLATION, "composed": composed}
        back = self.move(z, labels, totals, backward=True, **options)
        there = self.move(back.z, target, totals, **options)
        out = self.cells(there, target, totals, output=output, seed=seed_of(key), guidance=how)
        own = pd.DataFrame(adata.obs).drop(columns=list(out.obs.columns), errors="ignore")
        out.obs = own.join(pd.DataFrame(out.obs).set_axis(own.index))
        out.obsm["X_cellgap_source"] = z * self.spread + self.center
        out.obsm["X_cellgap_noise"] = back.z
        return self._shown(out)

    def encode(self, adata: "AnnData | MuData") -> Float[np.ndarray, "n d"]:
        """Return the standardized codes of measured cells."""
        adata = as_table(adata)
        return (np.asarray(self.space.encode(adata), np.float32) - self.center) / self.spread

    def move(
        self,
        z: Float[Array, "n d"] | Float[np.ndarray, "n d"],
        labels: Int[np.ndarray, "n k"],
        library: Float[np.ndarray, "n m"],
        *,
        guidance: Guidance | None = None,
        weights: Float[np.ndarray, "n k"] | None = None,
        sampler: Sampler | None = None,
        composed: Bool[np.ndarray, " n"] | None = None,
        backward: bool = False,
        measure: bool = False,
    ) -> Latent:
        """Return standardized latent cells after following the guided field; noise to cells, or back.

        Parameters
        ----------
        z
            Noise, or cells where `backward`.
        labels, library
            Attributes as numbers, and totals.
        guidance, weights, sampler
            See `sample`; with several attributes and ``combine="auto"``, combinations that were seen are told jointly
            and others composed.
        composed
            Which cells' attributes are composed and not told jointly; None: see above.
        backward, measure
            See `cellgap.generate.flow`.
        """
        guidance, sampler = guidance or Guidance(), sampler or self.sampler
        z, n = np.asarray(z, np.float32), len(labels)
        weights = np.full(labels.shape, guidance.weight, np.float32) if weights is None else weights
        depth = self.library.scaled(library) if self.field.depth_wave is not None else None
        composed = self._composed(labels, guidance) if composed is None else composed
        out, gap = np.empty_like(z), np.zeros((n, 3), np.float32)
        spent = reverse = 0.0
        for compose in (False, True):
            rows = np.flatnonzero(composed == compose)
            for start in range(0, len(rows), _BLOCK):
                block = rows[start : start + _BLOCK]
                path = self._block(z, labels, depth, weights, block, guidance, sampler, compose, backward, measure)
                out[block], gap[block] = np.asarray(path.z)[: len(block)], np.asarray(path.gap)[: len(block)]
                spent += float(path.evaluations) * len(block)
                reverse += float(path.reverse) * len(block)
        return Latent(out, spent / max(n, 1), reverse / max(n, 1), gap)

    def _composed(self, labels: Int[np.ndarray, "n k"], guidance: Guidance) -> Bool[np.ndarray, " n"]:
        """Return which cells' attributes are composed."""
        if guidance.combine != "auto":
            return np.full(len(labels), guidance.combine == "compose")
        return ~self.attributes.is_seen(labels) if labels.shape[1] > 1 else np.zeros(len(labels), bool)

    def _block(self, z, labels, depth, weights, rows, guidance, sampler, compose, backward, measure) -> Path:
        """Return a block of cells, filled up by its first cell so that few sizes are compiled."""
        size = max(_SMALLEST, 1 << (len(rows) - 1).bit_length())
        filled = np.concatenate([rows, np.full(size - len(rows), rows[0])])
        told = Told(self.field, jnp.asarray(labels[filled]), None if depth is None else jnp.asarray(depth[filled]))
        guided = guide(told, guidance, weights=weights[filled], combine="compose" if compose else "joint")
        return flow(guided, jnp.asarray(z[filled]), sampler, backward=backward, measure=measure)

    def cells(
        self,
        latent: Latent,
        labels: Int[np.ndarray, "n k"],
        library: Float[np.ndarray, "n m"],
        *,
        output: str,
        seed: int,
        guidance: Guidance,
    ) -> AnnData:
        """Return latent cells as an AnnData, several modalities side by side; see `sample`."""
        codes = latent.z * self.spread + self.center
        if not np.isfinite(codes).all():
            raise DataError("generated cells are not finite: lower the guidance, or take more steps.")
        if output == "counts":
            x: Any = self._counts(codes, labels, library, seed)
        elif output == "expression":
            x = self.space.decode(codes)
        else:
            x = sp.csr_matrix((len(codes), len(self.space.genes)), dtype=np.float32)
        obs = self.attributes.frame(labels)
        for k, name in enumerate(self.library.names):
            obs[name] = library[:, k]
        obs["seen"] = self.attributes.is_seen(labels)
        var = pd.DataFrame(index=pd.Index([str(g) for g in self.space.genes]))
        if (of := self.space.modalities) is not None:
            var[MODALITY] = list(of)
        out = AnnData(X=x, obs=obs, var=var)
        out.obsm["X_cellgap"] = codes
        out.uns["cellgap"] = {
            "model": self.name,
            "guidance": {"weight": guidance.weight, "schedule": guidance.schedule, "window": list(guidance.window)},
            "evaluations": latent.evaluations,
            "versions": storage.versions(),
        }
        return out

    def _counts(self, codes: np.ndarray, labels: np.ndarray, library: np.ndarray, seed: int) -> sp.csr_matrix:
        """Return counts, with the noise of the category of each cell where there is one."""
        if self.noises is None:
            return self.space.counts(codes, library, seed=seed)
        attribute, noises = self.noises
        category, parts = labels[:, attribute], []
        order = np.argsort(category, kind="stable")
        for c in np.unique(category):
            rows = np.flatnonzero(category == c)
            space = eqx.tree_at(lambda s: s.noise, self.space, noises[c])
            own = int(np.random.SeedSequence([seed, int(c)]).generate_state(1)[0])
            parts.append(space.counts(codes[rows], library[rows], seed=own))
        if not parts:
            return self.space.counts(codes, library, seed=seed)
        drawn: Any = sp.vstack(parts, format="csr")
        return sp.csr_matrix(drawn[np.argsort(order)])

    def gaps(self) -> tuple[Gap, ...]:
        """Return how far generated cells are from held-out ones, and the training-inference gap, as measured."""
        return self.measured_gaps

    def save(self, folder: str | os.PathLike[str], *, header: dict | None = None) -> FilePath:
        """Return the folder after writing ``model.json`` and ``model.npz`` into it; read them with `cellgap.load`."""
        return storage.save(self, folder, header=header)
