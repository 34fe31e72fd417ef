"""Contrastive embedding of cells: settings, checks before any long work, and the fit."""

from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int, Key, PRNGKeyArray
from pydantic import Field, model_validator

from cellgap.embed._cells import Cells
from cellgap.embed._diagnose import check_factors, default_genes, diagnosed
from cellgap.embed._encoders import AbstractEncoder, MLPEncoder, SphereEncoder
from cellgap.embed._fitted_embedding import FittedEmbedding, trained_reading
from cellgap.embed._objective import EmbeddingState, Kind, Mask, Objective, evaluated
from cellgap.embed._prepare import Prepared, pair_cells, prepare
from cellgap.embed._sampling import SamplingDiagnosis
from cellgap.embed._train_embedding import train_embedding
from cellgap.embed.pairs import AbstractPairs
from cellgap.embed.pairs._same_condition import Columns
from cellgap.errors import ConfigError
from cellgap.settings import settings
from cellgap.space import Genes
from cellgap.space._autoencoder import training_rows
from cellgap.study import Split, Study, split
from cellgap.train import FitResult, Loop, run_fingerprint

_Width = Annotated[int, Field(ge=1)]
_NotNegative = Annotated[float, Field(ge=0)]
_ALIKE = 0.05
_LEAST_VALID = 32
_CHOICES = 8


@settings
class ContrastiveEmbedding:
    """Cells on a sphere, partners near one another and everything else apart.

    What the embedding holds is decided by the pairs: what they keep is kept, what they move is compressed or dropped,
    and where they freeze directions the loss does not say how these lie. So the pairs are diagnosed before training,
    and the fitted object holds the diagnosis.

    Parameters
    ----------
    pairs
        The sampler of pairs; ``a | b`` mixes two.
    dim
        Length of an embedding; cells lie on the unit sphere in so many dimensions.
    loss
        Where negatives come from. "infonce": the other cells of the batch. "corrected": the support of the pair
        sampler at the anchor, which takes away the reward for dropping what varies, and relates nothing across
        supports. "mixed": a share `rho` of the latter.
    tau
        Temperature.
    rho
        See `loss`.
    n_support
        Negatives from the support, for every anchor.
    mask
        "none": other views of the anchor's cell may be among the negatives, as the theory wants it. "cell": they are
        not.
    insist
        Train "corrected" also where partners and negatives have the same law, so that the best map is constant on every
        support.
    encoder
        Family of networks.
    genes
        Which genes, and their transform; None: all of them, log-normalized counts, or other measurements scaled.
    keep, nuisance, factors
        Factors that should be held or lost, and further ones to look at; see `cellgap.embed.diagnose`.
    reference_dim, n_pairs
        Of the diagnosis.
    batch_size
        Pairs a step.
    learning_rate, warmup, final, weight_decay
        AdamW: linear warm-up over `warmup` steps, then a cosine down to the part `final`.
    loop
        Number of steps and cadence; see `cellgap.train.Loop`.
    valid
        Share of the training cells that choose the state to keep, where the split has no validation cells.
    n_runs
        Networks that are trained side by side from other starts and on other pairs; the best by held-out loss is kept,
        and how far they agree is part of the diagnosis (4 or more say something).

    Source
    ------
    Zaliaduonis, Putzky, Richter, Gatidis 2026 (arXiv 2606.04280); Chen et al. 2020 (arXiv 2002.05709) for the two-view
    loss. Samplers of cells, diagnosis and defaults are ours.
    """

    pairs: AbstractPairs
    dim: Annotated[int, Field(ge=2)] = 32
    loss: Kind = "infonce"
    tau: Annotated[float, Field(gt=0)] = 0.1
    rho: Annotated[float, Field(ge=0, le=1)] = 0.5
    n_support: _Width = 16
    mask: Mask = "none"
    insist: bool = False
    encoder: AbstractEncoder = MLPEncoder()
    genes: Genes | None = None
    keep: Columns = ()
    nuisance: Columns = ()
    factors: Columns = ()
    reference_dim: Annotated[int, Field(ge=2)] = 30
    n_pairs: Annotated[int, Field(ge=100)] = 20_000
    batch_size: Annotated[int, Field(ge=2)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Annotated[int, Field(ge=0)] = 100
    final: Annotated[float, Field(ge=0, le=1)] = 0.01
    weight_decay: _NotNegative = 1e-4
    loop: Loop = Loop(n_steps=2000, chunk=50, valid_every=100, patience=8)
    valid: Annotated[float, Field(gt=0, lt=1)] = 0.1
    n_runs: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _check(self) -> "ContrastiveEmbedding":
        if self.loss != "infonce" and self.encoder.uses_batch:
            raise ConfigError(
                f"loss={self.loss!r} takes negatives of the same anchor, which batch norm would tell apart: use "
                'norm="layer".'
            )
        if self.loss == "corrected" and self.mask != "none":
            raise ConfigError('loss="corrected" has no negatives from other cells to mask: leave mask at "none".')
        if self.tau < 1e-3:
            raise ConfigError(
                f"tau={self.tau} is below 1e-3, where cosines in single precision no longer tell anything."
            )
        return self

    def fit(
        self,
        study: Study | Split,
        *,
        key: PRNGKeyArray,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> FittedEmbedding:
        """Return the embedding, trained on a study's cells or on the training cells of a split.

        Parameters
        ----------
        study
            A study (a part `valid` of its cells is set aside to choose when to stop) or a split, whose validation
            cells do.
        key
            Random key of the whole fit.
        folder
            Where to keep checkpoints and the log; a run that was stopped there is resumed, bit for bit.
        progress
            Show a progress bar.

        Raises
        ------
        DataError
            A column is missing, or the measurements do not suit genes or pairs.
        ConfigError
            Partners and support-corrected negatives have the same law, or there are fewer anchors than a batch has.
        SplitError
            The split leaks or has no training cells.
        ConvergenceError
            Training diverged.
        """
        divided = split.everything(study) if isinstance(study, Study) else study
        divided.check_leaks()
        check_factors(divided.study, self.keep, self.nuisance, self.factors)
        rows, held = training_rows(divided, self.valid, 0)
        genes = self.genes or default_genes(divided.study)
        prepared = prepare(divided, self.pairs, genes, self.reference_dim, rows, held)
        self._refuse_collapse(prepared)
        objective = self._objective(prepared)
        key_sampling, key_net, key_run, key_read = jr.split(key, 4)
        sampling = diagnosed(
            prepared, self.pairs, divided.study, keep=self.keep, nuisance=self.nuisance, factors=self.factors,
            n_pairs=self.n_pairs, tau=self.tau, key=key_sampling,
        )  # fmt: skip
        valid = self._held_out(divided, prepared, np.concatenate([rows, held]))
        result = train_embedding(
            self._networks(prepared.cells.n_genes, key_net),
            objective,
            valid,
            self.loop,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            final=self.final,
            key=key_run,
            folder=None if folder is None else Path(folder),
            fingerprint="" if folder is None else run_fingerprint(repr(self), objective, valid, key),
            progress=progress,
        )
        if result.stopped == "interrupted":
            first = jax.tree.map(lambda leaf: leaf[0], result.best.net)
            return self._fitted(prepared, first, sampling, result)
        nets = result.best.net
        judged = eqx.filter_jit(evaluated)(valid or objective, jr.split(jr.key(1), _CHOICES), result.best)["valid"]
        runs: list[Any] = [jax.tree.map(lambda leaf, i=i: leaf[i], nets) for i in range(self.n_runs)]
        net = runs[int(np.argmin(np.asarray(judged)))]
        trained = trained_reading(net, runs, prepared, sampling, self.dim, key_read)
        return self._fitted(prepared, net, sampling.after(trained), result)

    def _fitted(
        self, prepared: Prepared, net: SphereEncoder, sampling: SamplingDiagnosis, result: FitResult[EmbeddingState]
    ) -> FittedEmbedding:
        return FittedEmbedding(
            name="ContrastiveEmbedding",
            genes=prepared.genes,
            net=net,
            sampling=sampling,
            history=tuple(result.history),
            best_step=result.best_step,
            stopped=result.stopped,
        )

    def _refuse_collapse(self, prepared: Prepared) -> None:
        surplus = float(prepared.pairs.surplus()[prepared.anchors].mean())
        if self.loss == "corrected" and surplus < _ALIKE and not self.insist:
            raise ConfigError(
                f'loss="corrected" with {self.pairs} draws negatives by the law of the partners, so that the best map '
                "is constant wherever partners can be: add a sampler of nearer partners (| Thin()), take "
                'loss="mixed", or set insist=True.'
            )

    def _objective(self, prepared: Prepared) -> Objective:
        anchors = prepared.anchors
        if len(anchors) < self.batch_size:
            raise ConfigError(
                f"batch_size={self.batch_size} is more than the {len(anchors):,} training cells that have a partner."
            )
        return self._of(prepared.cells, prepared.pairs, anchors, self.batch_size)

    def _held_out(self, divided: Split, prepared: Prepared, rows: Int[np.ndarray, " n"]) -> Objective | None:
        """Return the loss of held-out anchors, or None where too few of them have a partner.

        Partners are among all cells, or the nearest of a few held-out cells would be far, and another law would judge.
        """
        if len(rows) - prepared.n_train < _LEAST_VALID:
            return None
        pairs = self.pairs.fit(pair_cells(divided.study, prepared.cells, prepared.reference, rows))
        anchors = np.flatnonzero(np.asarray(pairs.able))
        anchors = anchors[anchors >= prepared.n_train]
        if len(anchors) < _LEAST_VALID:
            return None
        return self._of(prepared.cells, pairs, anchors, min(self.batch_size, len(anchors)))

    def _of(self, cells: Cells, pairs: Any, anchors: Int[np.ndarray, " n"], batch: int) -> Objective:
        return Objective(
            cells, pairs, jnp.asarray(anchors, jnp.int32), kind=self.loss, tau=self.tau, batch=batch, rho=self.rho,
            n_support=self.n_support, mask=self.mask,
        )  # fmt: skip

    def _networks(self, n_in: int, key: PRNGKeyArray) -> SphereEncoder:
        """Return networks at their start, one a run, as one tree."""

        def initialized(keys: Key[Array, " runs"]) -> Any:
            return eqx.filter_vmap(lambda k: self.encoder.build(n_in, self.dim, k))(keys)

        return eqx.filter_jit(initialized)(jr.split(key, self.n_runs))
