"""An embedding as a space: what transport, generation and laws work in, with a decoder to raw counts."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field, model_validator

from cellgap.embed._contrastive import ContrastiveEmbedding
from cellgap.embed._fitted_embedding import FittedEmbedding
from cellgap.embed._loss import normalized
from cellgap.errors import ConfigError, DataError
from cellgap.nn import AutoencoderNet, Linear, Tower
from cellgap.settings import settings
from cellgap.space import AbstractSpace, AutoencoderSpace, reconstruction_of
from cellgap.space._autoencoder import training_rows
from cellgap.space._calibrate_autoencoder import calibrated, features_of, n_features, nll_of_gene_means
from cellgap.space._count_noise import theta_within
from cellgap.space._train_autoencoder import Cells, Reading, Recipe, losses, train_network
from cellgap.storage import load, storable
from cellgap.study import Split
from cellgap.train import Loop

_LOOKED_AT = 5000


@settings
class Embedded(AbstractSpace):
    """The sphere of a contrastive embedding as a space, with a decoder that is trained afterwards.

    The encoder stays as contrastive training left it; a network from the sphere to shares of counts is fitted by the
    negative binomial likelihood. What the pairs made the embedding drop cannot be decoded: look at the reconstruction
    error. Codes are standardized; points beside the sphere, which a map may reach, are decoded as those below them on
    it.

    Parameters
    ----------
    embedding
        Is fitted on the training cells.
    path
        Folder of a saved embedding, in place of `embedding`. What it was fitted on is not known here.
    hidden
        Widths of the decoder's hidden layers.
    loop, batch_size, learning_rate
        Of the decoder.
    seed
        Of both fits.
    """

    embedding: ContrastiveEmbedding | None = None
    path: str | None = None
    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (128, 256)
    loop: Loop = Loop(n_steps=2000, chunk=50, valid_every=50, patience=8)
    batch_size: Annotated[int, Field(ge=2)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> "Embedded":
        if (self.embedding is None) == (self.path is None):
            raise ConfigError("Embedded takes an embedding to fit, or the path of a saved one: give one of both.")
        return self

    def fit(self, split: Split, *, progress: bool = False) -> AutoencoderSpace:
        """Return the space, fitted on the training cells of a split; see `cellgap.space.AbstractSpace.fit`.

        Raises
        ------
        DataError
            The study has no raw counts, or the embedding was fitted on other genes.
        ConfigError
            `path` holds no embedding.
        KeyboardInterrupt
            Stopped by Ctrl-C: nothing is kept.
        """
        if not split.study.is_counts:
            raise DataError(
                "Embedded decodes to raw counts, and the design says that X holds other measurements: set "
                "Design(counts=...), or use PCA or Genes."
            )
        fitted = self._embedding(split, progress)
        genes = fitted.genes
        rows, held = training_rows(split, 0.1, self.seed)
        counts, other = features_of(split, genes, rows), features_of(split, genes, held)
        adata = split.study.adata
        cells = (jnp.asarray(fitted.encode(adata, rows)), Cells.of(counts))
        valid = (jnp.asarray(fitted.encode(adata, held)), Cells.of(other))
        seen = np.linspace(0, len(rows) - 1, min(len(rows), _LOOKED_AT)).astype(int)
        theta = np.log(theta_within(counts[seen].astype(np.float32), split.study.codes[rows[seen]]))
        reading = Reading("nb", "lognorm", genes.target_sum)
        result = train_network(
            eqx.filter_jit(SphereDecoder.of)(
                fitted.dim, n_features(genes), self.hidden, jnp.asarray(theta, jnp.float32), jr.key(self.seed)
            ),
            cells,
            None,
            valid,
            lambda net, batch, key: (losses(net(batch[0]), net.log_theta, batch[1], reading), net),
            Recipe(0.0, self.batch_size, self.learning_rate, 0, 0.01, 1e-5, 1.0),
            self.loop,
            key=jr.key(self.seed + 1),
            progress=progress,
        )
        if result.stopped == "interrupted":
            # A half-trained space must not pass for the whole one.
            raise KeyboardInterrupt
        space = _assembled(fitted, result.best.net, result.history, result.best_step)
        space = calibrated(space, split, rows[seen], "matched")
        judged = {row["step"]: row["valid"] for row in result.history if "valid" in row}
        scores = dict(reconstruction_of(space, split))
        scores |= {"nll": judged[result.best_step], "nll_gene_means": nll_of_gene_means(counts[seen], other)}
        return dataclasses.replace(space, scores=scores)

    def _embedding(self, split: Split, progress: bool) -> FittedEmbedding:
        if self.embedding is not None:
            fitted = self.embedding.fit(split, key=jr.key(self.seed), progress=progress)
            if fitted.stopped == "interrupted":
                raise KeyboardInterrupt
        else:
            fitted = load(Path(str(self.path)))
            if not isinstance(fitted, FittedEmbedding):
                raise ConfigError(f"{self.path} holds a {type(fitted).__name__} and no embedding.")
        if fitted.genes.transform != "lognorm":
            raise DataError("Embedded needs an embedding of raw counts: Genes(transform='lognorm').")
        if fitted.genes.study_genes != tuple(map(str, split.study.genes)):
            raise DataError("The embedding was fitted on a study with other genes: fit it on this one.")
        return fitted


@storable
class NormalizedTower(eqx.Module):
    """Dense layers on rows that are brought to unit length first."""

    tower: Tower

    @property
    def layers(self) -> tuple[Linear, ...]:
        """The layers."""
        return self.tower.layers

    def __call__(self, z: Float[Array, "n d"]) -> Float[Array, "n out"]:
        """Return the output for every row."""
        return self.tower(normalized(z))


class SphereDecoder(eqx.Module):
    """A decoder in training: logits of the shares of counts, and their dispersion."""

    tower: NormalizedTower
    log_theta: Float[Array, " out"]

    @classmethod
    def of(
        cls, dim: int, n_out: int, hidden: tuple[int, ...], log_theta: Float[Array, " out"], key: PRNGKeyArray
    ) -> "SphereDecoder":
        """Return a decoder with random weights."""
        return cls(NormalizedTower(Tower((dim, *hidden, n_out), norm="layer", activation="elu", key=key)), log_theta)

    def __call__(self, z: Float[Array, "n d"]) -> Float[Array, "n out"]:
        """Return logits."""
        return self.tower(z)


def _assembled(
    fitted: FittedEmbedding, decoder: SphereDecoder, history: list[dict[str, float]], best_step: int
) -> AutoencoderSpace:
    """Return the space of encoder and decoder: an autoencoder whose two halves were trained apart."""
    start = AutoencoderNet(1, 1, 1, hidden=(1,), norm="none", activation="elu", log_theta=None, key=jr.key(0))
    halves: Any = (fitted.net, decoder.tower, decoder.log_theta)
    net = eqx.tree_at(lambda n: (n.encoder, n.decoder, n.log_theta), start, halves, is_leaf=lambda leaf: leaf is None)
    return AutoencoderSpace.of(fitted.genes, net, "lognorm", history, best_step)
