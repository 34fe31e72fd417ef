"""A fitted autoencoder as a space: counts to codes, codes to expression, shares and counts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from anndata import AnnData
from jaxtyping import Array, Float

from cellgap.nn import AutoencoderNet
from cellgap.space._count_noise import CountNoise, known_noise
from cellgap.space._genes import GeneSpace
from cellgap.space._interface import AbstractFittedSpace
from cellgap.space._log_expression import shares_of_log_expression
from cellgap.space._reading import blocks_of, dense, rows_of
from cellgap.space._train_autoencoder import Inputs
from cellgap.storage import storable

_BLOCK = 2048
_SMALLEST = 64


@storable
class AutoencoderSpace(AbstractFittedSpace):
    """See `Autoencoder`.

    Parameters
    ----------
    gene_space
        The genes.
    net
        The trained network.
    inputs
        What its encoder sees.
    center, spread
        Mean and standard deviation of the network's codes over the training cells: codes of the space are
        standardized with them, (dim,).
    expression
        Offset and slope of every gene, (2, genes): see `decode`. None where the network gives expression itself.
    noise
        How expected shares become counts.
    scores
        Reconstruction errors.
    history
        Rows of the training log; see `cellgap.train.FitResult`.
    best_step
        Step of the lowest held-out loss.
    """

    gene_space: GeneSpace
    net: AutoencoderNet
    inputs: Inputs = eqx.field(static=True)
    center: Float[np.ndarray, " dim"]
    spread: Float[np.ndarray, " dim"]
    expression: Float[np.ndarray, "2 genes"] | None
    noise: CountNoise | None
    scores: dict[str, float]
    history: list[dict[str, float]]
    best_step: int

    @classmethod
    def of(
        cls,
        genes: GeneSpace,
        net: AutoencoderNet,
        inputs: Inputs,
        history: list[dict[str, float]],
        best_step: int,
    ) -> "AutoencoderSpace":
        """Return the space of a trained network, before anything is calibrated."""
        dim = net.decoder.layers[0].weight.shape[0]
        zero, one = np.zeros(dim, np.float32), np.ones(dim, np.float32)
        return cls(
            gene_space=genes,
            net=net,
            inputs=inputs,
            center=zero,
            spread=one,
            expression=None,
            noise=None,
            scores={},
            history=history,
            best_step=best_step,
        )

    @property
    def dim(self) -> int:
        """Length of a code."""
        return len(self.center)

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes that codes decode to."""
        return self.gene_space.genes

    @property
    def layer(self) -> str | None:
        """Where the counts are read."""
        return self.gene_space.layer

    @property
    def nonnegative(self) -> bool:
        """Log-normalized expression has no negative values."""
        return True

    @property
    def reconstruction(self) -> Mapping[str, float]:
        """Errors on validation cells, and how likely their counts are; see `Autoencoder.fit`."""
        return self.scores

    @property
    def codes_know_totals(self) -> bool:
        """Whether a code tells the total of its cell: where the encoder sees counts as they are."""
        return self.inputs == "log1p"

    def measured(self, values: Any) -> Float[np.ndarray, "cells genes"]:
        """Return measured values of all genes of the study in gene space; see `AbstractFittedSpace.measured`."""
        return self.gene_space.measured(values)

    def encode(self, adata: AnnData, rows: Sequence[int] | np.ndarray | None = None) -> Float[np.ndarray, "cells dim"]:
        """Return the standardized codes of cells; see `AbstractFittedSpace.encode`."""
        index = rows_of(adata, rows)
        out = np.empty((len(index), self.dim), np.float32)
        start = 0
        for block in self._inputs(adata, index):
            out[start : start + len(block)] = _blockwise(_encode, self.net, block)
            start += len(block)
        return (out - self.center) / self.spread

    def _inputs(self, adata: AnnData, index: np.ndarray) -> Iterator[np.ndarray]:
        if self.inputs == "lognorm":
            for block in self.gene_space.transformed(adata, index):
                yield dense(block)
            return
        for _, block in blocks_of(adata, self.layer, self.gene_space.study_genes, index):
            self.gene_space.measured(block)  # refuses what are no counts, and cells without any
            yield np.log1p(dense(block[:, self.gene_space.columns]).astype(np.float32))

    def decode(self, z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells genes"]:
        """Return codes as log-normalized expression: what measured values are on average, not the logarithm of a mean.

        The logarithm of ``1 + target_sum * share`` is more than the mean logarithm of counts that scatter around this
        share, most so where there are few counts. Each gene's is therefore fitted on training cells by least squares,
        ``a + b log(1 + target_sum * share)``.
        """
        if self.expression is None:
            return self.outputs(z)
        offset, slope = self.expression
        return np.maximum(self.log_shares(z) * slope + offset, 0.0)

    def log_shares(self, z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells genes"]:
        """Return ``log(1 + target_sum * share)`` of the expected shares."""
        return np.log1p(self.gene_space.target_sum * np.exp(self.outputs(z)[:, : len(self.genes)]))

    def rates(self, z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells genes"]:
        """Return the expected shares of genes; see `AbstractFittedSpace.rates`."""
        return known_noise(self.noise).rates(self.shares(z))

    def shares(self, z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells genes"]:
        """Return what the network says the shares of genes are, up to a factor a cell, before calibration."""
        if self.net.log_theta is None:
            return shares_of_log_expression(self.outputs(z))
        return np.exp(self.outputs(z)[:, : len(self.genes)])

    def outputs(self, z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells features"]:
        """Return the network's log shares, or its values where its likelihood is Gaussian."""
        raw = np.asarray(z, np.float32) * self.spread + self.center
        function = _values if self.net.log_theta is None else _log_rates
        width = self.net.decoder.layers[-1].bias.shape[0]
        parts = [_blockwise(function, self.net, raw[i : i + _BLOCK]) for i in range(0, len(raw), _BLOCK)]
        return np.concatenate(parts) if parts else np.empty((0, width), np.float32)


def _encode(net: AutoencoderNet, x: Float[Array, "n genes"]) -> Float[Array, "n d"]:
    return net.encode(x)


def _values(net: AutoencoderNet, z: Float[Array, "n d"]) -> Float[Array, "n genes"]:
    return net.decode(z)


def _log_rates(net: AutoencoderNet, z: Float[Array, "n d"]) -> Float[Array, "n genes"]:
    return net.log_rates(z)


@eqx.filter_jit
def _run(function: Callable[[AutoencoderNet, Array], Array], net: AutoencoderNet, x: Array) -> Array:
    return function(net, x)


def _blockwise(
    function: Callable[[AutoencoderNet, Array], Array], net: AutoencoderNet, rows: Float[np.ndarray, "n width"]
) -> Float[np.ndarray, "n out"]:
    """Return the function of rows, a block at a time, filled up so that few sizes are compiled."""
    parts = []
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        size = max(_SMALLEST, 1 << (len(block) - 1).bit_length())
        filled = np.zeros((size, rows.shape[1]), np.float32)
        filled[: len(block)] = block
        parts.append(np.asarray(_run(function, net, jnp.asarray(filled)))[: len(block)])
    return np.concatenate(parts)
