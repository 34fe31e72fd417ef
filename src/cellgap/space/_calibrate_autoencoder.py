"""From a trained network to a space: standardized codes, unbiased expression, counts with the measured variance."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float, Int, Num

from cellgap.errors import DataError
from cellgap.nn import nb_log_prob
from cellgap.space._autoencoder_space import AutoencoderSpace
from cellgap.space._count_noise import DispersionRule, fit_count_noise, theta_within
from cellgap.space._genes import GeneSpace
from cellgap.space._log_expression import noise_of_log_expression
from cellgap.space._reading import blocks_of
from cellgap.study import Split

_SPREAD_MIN = 1e-6


def features_of(split: Split, genes: GeneSpace, rows: np.ndarray) -> Num[np.ndarray, "cells features"]:
    """Return counts of the genes of a space, and the total of all others as a last column where it leaves any out.

    Dense, as 16-bit integers where these hold the counts, else 32-bit.

    Raises
    ------
    DataError
        A cell has no counts.
    """
    out = np.zeros((len(rows), n_features(genes)), np.int16)
    for place, block in blocks_of(split.study.adata, genes.layer, genes.study_genes, rows):
        counts = features_of_block(block, genes)
        if out.dtype == np.int16 and counts.max() > np.iinfo(np.int16).max:
            out = out.astype(np.int32)
        out[place] = counts
    return out


def n_features(genes: GeneSpace) -> int:
    """Return the number of columns of `features_of`."""
    return len(genes.columns) + (len(genes.columns) < len(genes.study_genes))


def features_of_block(block: Any, genes: GeneSpace) -> Int[np.ndarray, "cells features"]:
    """Return the same of cells that were read already, with all genes of the study, as 32-bit integers.

    Raises
    ------
    DataError
        A cell has no counts.
    """
    total = np.asarray(block.sum(axis=1, dtype=np.int64)).ravel()
    if (total <= 0).any():
        raise DataError(
            f"{int((total <= 0).sum())} of {len(total)} cells have no counts, so that an autoencoder cannot read "
            "them: remove them first."
        )
    chosen = block[:, genes.columns]
    out = np.empty((len(total), n_features(genes)), np.int32)
    out[:, : len(genes.columns)] = chosen.toarray() if sp.issparse(chosen) else np.asarray(chosen)
    if out.shape[1] > len(genes.columns):
        out[:, -1] = total - out[:, :-1].sum(axis=1, dtype=np.int64)
    return out


def calibrated(space: AutoencoderSpace, split: Split, rows: np.ndarray, rule: DispersionRule) -> AutoencoderSpace:
    """Return the space with everything that is measured on training cells after training.

    Parameters
    ----------
    space
        Holds the trained network; codes are as the network gives them.
    split
        Of the study.
    rows
        Training cells to measure on.
    rule
        Where the dispersion of drawn counts comes from.
    """
    adata = split.study.adata
    z = space.encode(adata, rows)
    space = eqx.tree_at(lambda s: (s.center, s.spread), space, (z.mean(axis=0), spread_of(z)))
    if space.net.log_theta is None:
        noise = noise_of_log_expression(space, split, floor=0.0)
    else:
        line = _line(space, split, rows)
        space = eqx.tree_at(lambda s: s.expression, space, line, is_leaf=lambda leaf: leaf is None)
        noise = fit_count_noise(split, space.genes, lambda cells: space.shares(space.encode(adata, cells)), floor=0.0)
        if rule == "learnt":
            one = np.ones(len(space.genes), np.float32)
            theta = np.exp(np.asarray(space.net.log_theta)[: len(one)])
            noise = dataclasses.replace(noise, factor=one, theta=theta, fresh=one, rule=rule)
    return eqx.tree_at(lambda s: s.noise, space, noise, is_leaf=lambda leaf: leaf is None)


def spread_of(z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, " dim"]:
    """Return the standard deviations of codes; 1 for a coordinate that the network does not use, which stays 0."""
    spread = z.std(axis=0)
    return np.where(spread > _SPREAD_MIN * max(float(spread.max()), _SPREAD_MIN), spread, 1.0).astype(np.float32)


def nll_of_gene_means(counts: Num[np.ndarray, "cells features"], held_out: Num[np.ndarray, "others features"]) -> float:
    """Return the mean negative log-likelihood of held-out cells if every cell had the same shares.

    The shares are pooled over the training cells given, the dispersion is from their moments.
    """
    x = counts.astype(np.float32)
    theta = theta_within(x, np.zeros(len(x), int))
    pooled = (x.sum(axis=0, dtype=np.float64) + 1e-3) / (x.sum(dtype=np.float64) + 1e-3 * x.shape[1])
    library = held_out.sum(axis=1, dtype=np.float64)
    log_mu = (np.log(library)[:, None] + np.log(pooled)).astype(np.float32)
    total = eqx.filter_jit(_total)(jnp.asarray(held_out), jnp.asarray(log_mu), jnp.asarray(np.log(theta), jnp.float32))
    return -float(total) / len(held_out)


def _total(counts: Array, log_mu: Array, log_theta: Array) -> Array:
    return jnp.sum(nb_log_prob(counts, log_mu, log_theta))


def _line(space: AutoencoderSpace, split: Split, rows: np.ndarray) -> Float[np.ndarray, "2 genes"]:
    """Return offset and slope of measured log-normalized expression on that of expected shares."""
    x = space.log_shares(space.encode(split.study.adata, rows))
    return line_through(x, space.measured(split.study.values(rows)))


def line_through(
    x: Float[np.ndarray, "cells genes"], y: Float[np.ndarray, "cells genes"]
) -> Float[np.ndarray, "2 genes"]:
    """Return offset and slope of every column of y on that of x, by least squares; no slope is below 0."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    x -= mean_x
    square = np.einsum("cg,cg->g", x, x)
    # Below 0 there is no sense in it: more expected counts are never fewer.
    slope = np.maximum(np.einsum("cg,cg->g", x, y) / np.where(square > 0, square, 1.0), 0.0)
    return np.stack([mean_y - slope * mean_x, slope]).astype(np.float32)
