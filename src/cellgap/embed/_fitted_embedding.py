"""A fitted embedding: cells to the sphere, what its pairs could identify, and how far the fit got."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from anndata import AnnData
from jaxtyping import Array, Float, PRNGKeyArray

from cellgap import storage
from cellgap.embed._encoders import SphereEncoder
from cellgap.embed._identifiability import agreement, effective_rank
from cellgap.embed._pair_sample import sample_pairs
from cellgap.embed._prepare import Prepared, coordinates_of
from cellgap.embed._sampling import SamplingDiagnosis, Trained
from cellgap.embed.sphere import log_partition, loss_floor, matched_value
from cellgap.errors import ConfigError
from cellgap.gap import Gap
from cellgap.space import GeneSpace
from cellgap.storage import storable

_BLOCK = 2048
_READ = 4000


@storable
class FittedEmbedding(eqx.Module):
    """See `ContrastiveEmbedding`.

    Parameters
    ----------
    name
        What it is called in tables.
    genes
        Which genes are read, and their transform.
    net
        The network.
    sampling
        The diagnosis of its pairs, in sentences where it is printed.
    history, best_step, stopped
        Of training; see `cellgap.train.FitResult`. Losses are without log M.
    """

    name: str
    genes: GeneSpace
    net: SphereEncoder
    sampling: SamplingDiagnosis
    history: tuple[dict[str, float], ...]
    best_step: int
    stopped: str

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.net.dim)

    def encode(
        self,
        adata: AnnData,
        rows: Sequence[int] | np.ndarray | None = None,
        *,
        output: str = "sphere",
    ) -> Float[np.ndarray, "cells dim"]:
        """Return the embedding of cells, float32; of all cells where no rows are given.

        Genes are found by name: their order does not matter, and further genes are ignored.

        Parameters
        ----------
        adata
            The cells, with the same values in the same layer as those that the embedding was fitted on.
        rows
            Which of them.
        output
            "sphere": unit vectors, what the loss and the diagnosis speak of. "hidden": what the last layer sees.

        Raises
        ------
        DataError
            Genes are missing, or the values cannot be transformed.
        ConfigError
            `output` is unknown.
        """
        if output not in ("sphere", "hidden"):
            raise ConfigError(f'output is "sphere" or "hidden", found {output!r}.')
        return encoded(self.net, self.genes.encode(adata, rows), hidden=output == "hidden")

    def gaps(self) -> tuple[Gap, ...]:
        """Return how far the pairs and the fit are from what the theory wants."""
        s, t = self.sampling, self.sampling.trained
        found = [
            Gap(
                "diversity gap",
                1.0 - s.alpha,
                f"0 = all directions moved alike, 1 = some frozen; {s.n_frozen} of {len(s.rho)} frozen",
                "The loss keeps what pairs freeze and may discard what they move.",
                "Mix in pairs that move the frozen directions (SameCondition(across=...), Neighbour, Restart).",
            )
        ]
        if t is None:
            return tuple(found)
        width = t.matched - t.floor
        found.append(
            Gap(
                "uniformity gap",
                max(t.uniformity_gap, 0.0),
                f"0 = spread over the whole sphere; floor to matched value {width:.3g}",
                "Part of the sphere is empty: partial collapse, or types of very different sizes.",
                "Train longer, lower dim, or raise batch_size.",
            )
        )
        if t.agreement is not None:
            found.append(
                Gap(
                    "re-run gap",
                    1.0 - t.agreement,
                    "0 = runs agree up to a linear map; least of all pairs of runs",
                    "The loss does not identify the geometry: distances are chosen by the network's start.",
                    "Do not read distances; take pairs that move all directions alike, or a smaller encoder.",
                )
            )
        return tuple(found)

    def save(self, folder: str | os.PathLike[str], *, header: dict[str, Any] | None = None) -> Path:
        """Return the folder after writing the embedding there, with further facts; `cellgap.load` reads it."""
        return storage.save(self, folder, header=header)


def encoded(
    net: SphereEncoder, x: Float[np.ndarray, "cells genes"], *, hidden: bool = False
) -> Float[np.ndarray, "cells width"]:
    """Return the output of a network for rows, a block at a time, filled up so that few sizes are compiled."""
    parts = []
    for start in range(0, len(x), _BLOCK):
        block = x[start : start + _BLOCK]
        size = max(64, 1 << (len(block) - 1).bit_length())
        filled = np.zeros((size, x.shape[1]), np.float32)
        filled[: len(block)] = block
        parts.append(np.asarray(_run(net, jnp.asarray(filled), hidden))[: len(block)])
    if parts:
        return np.concatenate(parts)
    return np.asarray(_run(net, jnp.zeros((64, x.shape[1])), hidden))[:0]


@eqx.filter_jit
def _run(net: SphereEncoder, x: Array, hidden: bool) -> Array:
    return net.hidden(x) if hidden else net(x)


def trained_reading(
    net: SphereEncoder, runs: list[Any], prepared: Prepared, sampling: SamplingDiagnosis, dim: int, key: PRNGKeyArray
) -> Trained:
    """Return what the loss and the embedding reached on training cells.

    Parameters
    ----------
    net
        The network that is kept.
    runs
        All of them.
    prepared
        Cells and pairs.
    sampling
        The diagnosis before training: its alignment is that of an isometry of the reference space.
    dim
        Of the sphere.
    key
        Random key of the pairs that are looked at.
    """
    tau = sampling.tau
    rows = np.random.default_rng(0).permutation(prepared.anchors)
    sample = sample_pairs(prepared.pairs, prepared.cells, net, np.resize(rows, min(_READ, max(len(rows), 500))), key)
    alignment = float(np.mean(np.sum(sample.x * sample.y, axis=1)))
    uniformity = uniformity_of(sample.x, sample.rows, tau)
    least = None
    if len(runs) > 1:
        least = agreement([coordinates_of(prepared.cells, run, min(_READ, prepared.n_train)) for run in runs]).minimum
    return Trained(
        loss=uniformity - alignment / tau,
        floor=loss_floor(dim, tau),
        matched=matched_value(dim, tau, sampling.alignment),
        alignment=alignment,
        uniformity_gap=uniformity - float(log_partition(dim, 1 / tau)),
        effective_rank=effective_rank(sample.x),
        agreement=least,
    )


def uniformity_of(h: Float[np.ndarray, "n k"], rows: np.ndarray, tau: float) -> float:
    """Return the mean over anchors of ``log mean exp(h.h'/tau)`` over views of other cells."""
    total = 0.0
    for start in range(0, len(h), 512):
        cosines = h[start : start + 512] @ h.T / tau
        cosines[rows[start : start + 512, None] == rows[None, :]] = -np.inf
        most = cosines.max(axis=1, keepdims=True)
        there = np.isfinite(cosines).sum(axis=1)
        total += float((most[:, 0] + np.log(np.exp(cosines - most).sum(axis=1) / there)).sum())
    return total / len(h)
