"""Settings of an autoencoder as a space, and its fit on the training cells of a split."""

import dataclasses
import math
from typing import Annotated, Any, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float
from pydantic import Field, model_validator

from cellgap.errors import ConfigError, DataError
from cellgap.nn import Activation, AutoencoderNet, Norm
from cellgap.settings import settings
from cellgap.space._autoencoder_space import AutoencoderSpace
from cellgap.space._calibrate_autoencoder import (
    calibrated,
    features_of,
    features_of_block,
    n_features,
    nll_of_gene_means,
)
from cellgap.space._count_noise import SAMPLE_VALUES, DispersionRule, theta_within
from cellgap.space._genes import Genes, GeneSpace
from cellgap.space._interface import AbstractSpace
from cellgap.space._reconstruction import reconstruction_of
from cellgap.space._train_autoencoder import Cells, Reading, Recipe, host_cells, train_autoencoder
from cellgap.study import CellBlock, Role, ShuffledReader, Split
from cellgap.train import Loop, Streamed

_MOST_VALID = 2048
_Positive = Annotated[float, Field(gt=0)]
_NotNegative = Annotated[float, Field(ge=0)]


@settings
class Autoencoder(AbstractSpace):
    """Codes of a neural network that gives back each cell's raw counts, by their likelihood.

    The encoder sees ``log(1 + 1e4 x / library)``; the decoder gives every gene's expected share of the counts, a
    softmax; the loss is the negative binomial likelihood of the measured counts given the cell's own library and one
    inverse dispersion a gene. Deterministic: no prior, no sampling of codes. Where `genes` leaves genes out, the total
    of these is one more output, so that normalization is over all genes of the study, as in the other spaces.

    Parameters
    ----------
    dim
        Length of a code.
    hidden
        Widths of the encoder's hidden layers; the decoder has them in reverse.
    genes
        Which genes; their transform must be "lognorm", not scaled.
    likelihood
        "nb": negative binomial of counts. "gaussian": mean squared error of log-normalized expression.
    inputs
        "lognorm": codes do not know the library, which a map must not mistake for biology. "log1p" (``log(1 + x)``, as
        published for generation) leaves it in the codes.
    norm, activation
        Of hidden layers.
    theta_start
        "moments": the inverse dispersion starts at the moments within conditions. "normal": at the exponential of
        standard normal draws, as published.
    dispersion
        Of the counts that are drawn. "matched": their variance is the measured one (see `CountNoise`). "learnt": the
        likelihood's, as published.
    noise
        Gaussian noise added to codes in training, in units of their spread over the batch.
    loop
        Number of steps and cadence; see `cellgap.train.Loop`.
    epochs
        Passes over the training cells; overrides ``loop.n_steps``.
    batch_size
        Cells a step.
    learning_rate, warmup, final
        Linear warm-up over `warmup` steps to `learning_rate`, then a cosine down to the part `final` of it at the last
        step (1 keeps it constant).
    weight_decay, clip
        Of AdamW; largest global norm of a gradient (0: any).
    keep
        "best": the state with the lowest held-out loss. "last": the last one.
    valid
        Share of the training cells held out to judge the loss, where the split has no validation cells.
    seed
        Of weights, batches and noise.
    most_bytes
        Training counts that are kept on the device, in bytes (two a value). Where there are more, batches are read from
        the study while the network trains (`cellgap.study.ShuffledReader`), each cell once an epoch, and what is held
        of them are two chunks of ``loop.chunk * batch_size`` cells, four bytes a value, and the reader's buffer.

    Source
    ------
    Palma et al., CFGen (arXiv 2407.11734), for the network and likelihood; `reference` is its recipe. We start the
    dispersion at moments, keep the best state, normalize layers and not batches, and standardize codes.
    """

    dim: Annotated[int, Field(ge=1)] = 50
    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (256, 128)
    genes: Genes = Genes()
    likelihood: Literal["nb", "gaussian"] = "nb"
    inputs: Literal["lognorm", "log1p"] = "lognorm"
    norm: Norm = "layer"
    activation: Activation = "elu"
    theta_start: Literal["moments", "normal"] = "moments"
    dispersion: DispersionRule = "matched"
    noise: _NotNegative = 0.0
    loop: Loop = Loop(n_steps=2000, chunk=50, valid_every=50, patience=8)
    epochs: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=2)] = 256
    learning_rate: _Positive = 1e-3
    warmup: Annotated[int, Field(ge=0)] = 0
    final: Annotated[float, Field(ge=0, le=1)] = 0.01
    weight_decay: _NotNegative = 1e-5
    clip: _NotNegative = 1.0
    keep: Literal["best", "last"] = "best"
    valid: Annotated[float, Field(gt=0, lt=1)] = 0.1
    seed: Annotated[int, Field(ge=0)] = 0
    most_bytes: Annotated[int, Field(ge=0)] = 4_000_000_000

    @model_validator(mode="after")
    def _check(self) -> "Autoencoder":
        if self.genes.transform != "lognorm" or self.genes.scale:
            raise ConfigError(
                'Autoencoder(genes=...) reads raw counts: use Genes(transform="lognorm", scale=False), with n_top to '
                "choose genes; for other measurements use PCA or Genes."
            )
        if self.likelihood == "gaussian" and self.inputs != "lognorm":
            raise ConfigError(
                'Autoencoder(likelihood="gaussian") gives back log-normalized expression: leave inputs at "lognorm".'
            )
        return self

    @classmethod
    def reference(cls, **changes: Any) -> "Autoencoder":
        """Return the published recipe of CFGen's first stage (one modality), with `changes`.

        G-512-256-50 and back, batch normalization and ELU; inputs ``log(1 + x)``; dispersion from standard normal
        draws; AdamW at 1e-3 (decay 1e-5), batches of 256, 300 epochs, gradients clipped at 1; the last state; counts
        with the learnt dispersion. Choose the genes in the study beforehand, as published: here a total of left-out
        genes is one more output. Batches are drawn anew each step, not by shuffling each epoch, and linear layers
        start LeCun-normal.
        """
        recipe: dict[str, Any] = {
            "dim": 50,
            "hidden": (512, 256),
            "inputs": "log1p",
            "norm": "batch",
            "activation": "elu",
            "theta_start": "normal",
            "dispersion": "learnt",
            "loop": Loop(chunk=50, valid_every=200),
            "epochs": 300,
            "final": 1.0,
            "keep": "last",
        }
        return cls(**recipe | changes)

    @classmethod
    def sciplex(cls, **changes: Any) -> "Autoencoder":
        """Return the published autoencoder of the sci-Plex maps (Conditional Monge Gap), with `changes`.

        1000-512-512-50 and back on log-normalized values of the 1,000 most variable genes, GELU, no normalization,
        mean squared error; AdamW to 1e-4 in 100 steps, then a cosine to 1e-5 (decay 1e-5), batches of 512, 50 epochs.
        """
        recipe: dict[str, Any] = {
            "dim": 50,
            "hidden": (512, 512),
            "genes": Genes(n_top=1000),
            "likelihood": "gaussian",
            "norm": "none",
            "activation": "gelu",
            "loop": Loop(chunk=50, valid_every=200),
            "epochs": 50,
            "batch_size": 512,
            "learning_rate": 1e-4,
            "warmup": 100,
            "final": 0.1,
            "clip": 0.0,
            "keep": "last",
        }
        return cls(**recipe | changes)

    def fit(self, split: Split, *, progress: bool = False) -> AutoencoderSpace:
        """Return the space, trained on the training cells of a split; validation cells choose the state to keep.

        Parameters
        ----------
        split
            Without validation cells, a seeded part `valid` of the training cells is set aside.
        progress
            Show a progress bar on standard error.

        Raises
        ------
        DataError, ConfigError
            See `AbstractSpace.fit`; and where a cell has no counts.
        KeyboardInterrupt
            Stopped by Ctrl-C: nothing is kept, and the same fit gives the same space when it is started again.
        """
        if not split.study.is_counts:
            raise DataError(
                "Autoencoder needs raw counts, but the design says that X holds other measurements: set "
                "Design(counts=...), or use PCA or Genes with another transform."
            )
        genes = self.genes.fit_unscored(split)
        rows, held_out = training_rows(split, self.valid, self.seed)
        if self.dim > min(genes.dim, len(rows)):
            raise ConfigError(
                f"Autoencoder(dim={self.dim}) needs at least as many genes and training cells, found {genes.dim} genes "
                f"and {len(rows)} cells: use a smaller dim."
            )
        width, other = n_features(genes), features_of(split, genes, held_out)
        sample = _sample(len(rows), width)
        if 2 * len(rows) * width <= self.most_bytes:
            counts = features_of(split, genes, rows)
            cells, looked_at = Cells.of(counts), counts[sample]
        else:
            cells, looked_at = self._batches(split, genes, rows), features_of(split, genes, rows[sample])
        theta = self._theta(looked_at.astype(np.float32), split.study.codes[rows[sample]])
        # One program: each weight drawn on its own would be compiled on its own.
        net = eqx.filter_jit(AutoencoderNet)(
            genes.dim,
            genes.dim if theta is None else width,
            self.dim,
            hidden=self.hidden,
            norm=self.norm,
            activation=self.activation,
            log_theta=theta,
            key=jr.key(self.seed),
        )
        result = train_autoencoder(
            net,
            cells,
            Cells.of(other),
            Reading(self.likelihood, self.inputs, genes.target_sum),
            Recipe(**{name: getattr(self, name) for name in Recipe._fields}),
            self._loop(len(rows)),
            key=jr.key(self.seed + 1),
            progress=progress,
        )
        if result.stopped == "interrupted":
            # The loop stops by itself at the first Ctrl-C; a half-trained space must not pass for the whole one.
            raise KeyboardInterrupt
        kept = result.best if self.keep == "best" else result.state
        space = AutoencoderSpace.of(genes, kept.net, self.inputs, result.history, result.best_step)
        space = calibrated(space, split, rows[sample], self.dispersion)
        scores = reconstruction_of(space, split)
        if self.likelihood == "nb":
            judged = {row["step"]: row["valid"] for row in result.history if "valid" in row}
            nll = judged[result.best_step if self.keep == "best" else max(judged)]
            scores |= {"nll": nll, "nll_gene_means": nll_of_gene_means(looked_at, other)}
        return dataclasses.replace(space, scores=scores)

    def _batches(self, split: Split, genes: GeneSpace, rows: np.ndarray) -> Streamed:
        """Return training cells as batches that are read from the study."""
        reader = ShuffledReader(split.study, rows, seed=self.seed)

        def prepare(cells: CellBlock):
            return host_cells(features_of_block(cells.values, genes))

        return Streamed(reader, min(self.batch_size, len(rows)), prepare)

    def _theta(self, x: np.ndarray, codes: np.ndarray) -> Float[Array, " features"] | None:
        """Return the start of the log inverse dispersion."""
        if self.likelihood == "gaussian":
            return None
        if self.theta_start == "normal":
            return jnp.asarray(np.random.default_rng(self.seed).normal(size=x.shape[1]), jnp.float32)
        return jnp.asarray(np.log(theta_within(x, codes)), jnp.float32)

    def _loop(self, cells: int) -> Loop:
        if self.epochs is None:
            return self.loop
        return dataclasses.replace(self.loop, n_steps=self.epochs * math.ceil(cells / self.batch_size))


def training_rows(split: Split, valid: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells to train on, and those that choose the state to keep.

    Parameters
    ----------
    split
        Its validation cells choose, at most 2,048 of them.
    valid
        Share of the training cells that do where there are none.
    seed
        Of that choice.
    """
    rows, held_out = split.cells(Role.TRAIN), split.cells(Role.VALID)
    if len(held_out) == 0:
        order = np.random.default_rng(seed).permutation(len(rows))
        n = max(1, round(valid * len(rows)))
        rows, held_out = rows[np.sort(order[n:])], rows[np.sort(order[:n])]
    if len(held_out) > _MOST_VALID:
        held_out = held_out[np.linspace(0, len(held_out) - 1, _MOST_VALID).astype(int)]
    return rows, held_out


def _sample(cells: int, features: int) -> np.ndarray:
    """Return the places of a seeded draw of cells that are looked at together."""
    most = max(SAMPLE_VALUES // features, 200)
    return np.arange(cells) if cells <= most else np.sort(np.random.default_rng(0).choice(cells, most, replace=False))
