"""A fitted autoencoder of several modalities as a space: one code a cell, values of every modality from it."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Array, Float, Int

from cellgap.errors import DataError
from cellgap.nn import JointAutoencoderNet
from cellgap.space._count_noise import CountNoise, draw_counts, known_noise, sparse_rows
from cellgap.space._interface import AbstractFittedSpace
from cellgap.space._reading import blocks_of, dense, rows_of
from cellgap.space._train_autoencoder import Cells, Reading, host_cells, inputs_of
from cellgap.space._transform import refuse_no_counts, refuse_not_finite
from cellgap.storage import storable

_BLOCK = 2048
_SMALLEST = 64
_ROUNDS = 4
_DRAWN_VALUES = 1_000_000
CountLikelihood = Literal["nb", "bernoulli", "poisson"]


@storable
class Part(eqx.Module):
    """One modality of a joint space.

    Parameters
    ----------
    name
        Of the modality.
    features
        Names, in order.
    columns
        Where they are among the features of the study.
    likelihood, inputs, target_sum
        What the network makes of their values.
    line
        Offset and slope of every feature, (2, features): see `AutoencoderSpace.decode`; None where values are binary.
    noise
        How expected shares become counts; None where values are binary.
    offset
        Of the logits of binary values, so that features are on as often as in the training cells; else None.
    log_depth
        Mean logarithm of the numbers of binary features that are on in a cell: the logits of a cell rise with its own.
        None where they do not.
    """

    name: str = eqx.field(static=True)
    features: tuple[str, ...] = eqx.field(static=True)
    columns: Int[np.ndarray, " features"]
    likelihood: CountLikelihood = eqx.field(static=True)
    inputs: Literal["lognorm", "log1p", "binary"] = eqx.field(static=True)
    target_sum: float = eqx.field(static=True)
    line: Float[np.ndarray, "2 features"] | None
    noise: CountNoise | None
    offset: Float[np.ndarray, " features"] | None
    log_depth: float | None = eqx.field(static=True, default=None)

    @property
    def reading(self) -> Reading:
        """What the network makes of measured values."""
        return Reading(self.likelihood, self.inputs, self.target_sum, self.log_depth)

    @property
    def has_total(self) -> bool:
        """Whether values are drawn with the total of a cell."""
        return not self.binary or self.log_depth is not None

    @property
    def binary(self) -> bool:
        """Whether values are 0 and 1."""
        return self.likelihood == "bernoulli"

    def probabilities(
        self, out: Float[np.ndarray, "cells features"], total: Float[np.ndarray, " cells"] | None = None
    ) -> Float[np.ndarray, "cells features"]:
        """Return probabilities of binary values from the network's output; without totals, those of a typical cell."""
        logits = out if self.offset is None else out + self.offset
        if self.log_depth is not None and total is not None:
            logits = logits + _depth(logits, total, self.log_depth)[:, None]
        return _sigmoid(logits)

    def shares(self, out: Float[np.ndarray, "cells features"]) -> Float[np.ndarray, "cells features"]:
        """Return shares that sum to 1, before calibration."""
        raw = np.exp(out - out.max(axis=1, keepdims=True))
        return raw / raw.sum(axis=1, keepdims=True)

    def log_shares(self, out: Float[np.ndarray, "cells features"]) -> Float[np.ndarray, "cells features"]:
        """Return ``log(1 + target_sum * share)``."""
        return np.log1p(self.target_sum * self.shares(out))

    def taken(self, block: Any) -> Any:
        """Return the values of the modality from those of all its features: binary ones are 0 and 1."""
        return (block > 0).astype(np.int32) if self.binary else block

    def values(self, measured: Any) -> Float[np.ndarray, "cells features"]:
        """Return measured values in gene space: log-normalized by the total of the modality, or 0 and 1."""
        x = measured[:, self.columns]
        x = (x.toarray() if sp.issparse(x) else np.asarray(x)).astype(np.float32)
        if self.binary:
            return (x > 0).astype(np.float32)
        return np.log1p(x * (self.target_sum / np.maximum(x.sum(axis=1, keepdims=True), 1)))


@storable
class JointSpace(AbstractFittedSpace):
    """See `JointAutoencoder`.

    Parameters
    ----------
    parts
        The modalities.
    net
        The trained network.
    study_features
        All features of the study.
    measured_in
        The layer.
    center, spread
        Mean and standard deviation of the network's codes over the training cells.
    scores, history, best_step
        As in `AutoencoderSpace`; ``nll_NAME`` is the held-out loss of a modality.
    """

    parts: tuple[Part, ...]
    net: JointAutoencoderNet
    study_features: tuple[str, ...] = eqx.field(static=True)
    measured_in: str | None = eqx.field(static=True)
    center: Float[np.ndarray, " dim"]
    spread: Float[np.ndarray, " dim"]
    scores: dict[str, float]
    history: list[dict[str, float]]
    best_step: int
    noise: CountNoise | None = None

    @property
    def dim(self) -> int:
        """Length of a code."""
        return len(self.center)

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the features, modality after modality."""
        return tuple(name for part in self.parts for name in part.features)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Name of the modality of every feature."""
        return tuple(part.name for part in self.parts for _ in part.features)

    @property
    def layer(self) -> str | None:
        """Where the values are read."""
        return self.measured_in

    @property
    def nonnegative(self) -> bool:
        """No modality has negative values."""
        return True

    @property
    def reconstruction(self) -> Mapping[str, float]:
        """Errors on validation cells, and the loss of every modality."""
        return self.scores

    @property
    def gives_counts(self) -> bool:
        """Codes decode to counts, modality by modality; `noise` is that of its parts."""
        return True

    def by_modality(self) -> list[tuple[str, list[str]]]:
        """Return the modalities with their features, those with counts first."""
        return [(part.name, list(part.features)) for part in sorted(self.parts, key=lambda part: part.binary)]

    @property
    def libraries(self) -> tuple[str, ...]:
        """Names of the totals that values are drawn with: counts, or numbers of binary features that are on."""
        counted = [part.name for part in self.parts if part.has_total]
        return ("library",) if len(counted) == 1 else tuple(f"library_{name}" for name in counted)

    @property
    def codes_know_totals(self) -> bool:
        """Whether a code tells the first total of its cell: where the encoder sees these counts as they are."""
        return next((part.inputs == "log1p" for part in self.parts if part.has_total), False)

    def totals(self, adata: AnnData, rows: np.ndarray | None = None) -> Float[np.ndarray, "cells libraries"]:
        """Return the totals of every cell in the order of `libraries`, at least 1."""
        index = rows_of(adata, rows)
        out = np.empty((len(index), len(self.libraries)))
        for place, block in blocks_of(adata, self.layer, self.genes, index):
            parts = [x for part, x in zip(self.parts, self._by_part(block), strict=True) if part.has_total]
            for k, x in enumerate(parts):
                out[place, k] = np.maximum(np.asarray(x.sum(axis=1, dtype=np.float64)).ravel(), 1.0)
        return out

    def measured(self, values: Any) -> Float[np.ndarray, "cells features"]:
        """Return measured values of all features of the study in gene space; see `AbstractFittedSpace.measured`."""
        if values.shape[1] != len(self.study_features):
            raise DataError(f"Expected values of the {len(self.study_features)} features of the study: {values.shape}.")
        return np.concatenate([part.values(values) for part in self.parts], axis=1)

    def encode(self, adata: AnnData, rows: Sequence[int] | np.ndarray | None = None) -> Float[np.ndarray, "cells dim"]:
        """Return the standardized codes of cells; see `AbstractFittedSpace.encode`."""
        index = rows_of(adata, rows)
        out = np.empty((len(index), self.dim), np.float32)
        for place, block in blocks_of(adata, self.layer, self.genes, index):
            cells = cells_of([dense(x) for x in self._by_part(block)], self.parts)
            out[place] = _in_blocks(_encode, self.net, tuple(part.reading for part in self.parts), cells)
        return (out - self.center) / self.spread

    def decode(self, z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells features"]:
        """Return codes in gene space: mean log-normalized expression, probabilities of binary values."""
        decoded = []
        for part, out in zip(self.parts, self.outputs(z), strict=True):
            if part.binary:
                decoded.append(part.probabilities(out))
                continue
            offset, slope = (0.0, 1.0) if part.line is None else part.line
            decoded.append(np.maximum(part.log_shares(out) * slope + offset, 0.0))
        return np.concatenate(decoded, axis=1).astype(np.float32)

    def rates(self, z: Float[np.ndarray, "cells dim"]) -> Float[np.ndarray, "cells features"]:
        """Return the expected shares within each modality (sum to 1 there), and probabilities of binary values."""
        return np.concatenate([self._rates(i, out) for i, out in enumerate(self.outputs(z))], axis=1)

    def _rates(self, i: int, out: np.ndarray) -> np.ndarray:
        part = self.parts[i]
        return part.probabilities(out) if part.binary else known_noise(part.noise).rates(part.shares(out))

    def counts(self, z: Float[np.ndarray, "cells dim"], library: np.ndarray, *, seed: int) -> sp.csr_matrix:
        """Return raw values of cells with these codes; see `AbstractFittedSpace.counts`.

        Parameters
        ----------
        z
            Codes.
        library
            Totals in the order of `libraries`, (cells, libraries), or (cells,) where there is one.
        seed
            Of the random draw; each modality has its own stream.
        """
        totals = np.asarray(library, np.float64)
        if totals.ndim == 1 and len(self.libraries) == 1:
            totals = totals[:, None]
        if totals.shape != (len(z), len(self.libraries)):
            raise DataError(f"library needs one total a cell for each of {', '.join(self.libraries) or 'none'}.")
        drawn, k = [], 0
        for i, part in enumerate(self.parts):
            own = int(np.random.SeedSequence([seed, i]).generate_state(1)[0])

            def rates(codes: np.ndarray, i: int = i) -> np.ndarray:
                return self._rates(i, self.outputs(codes, i)[0])

            total = totals[:, k] if part.has_total else None
            k += part.has_total
            if part.binary:
                drawn.append(self._draw_binary(i, z, total, own))
            else:
                drawn.append(draw_counts(rates, known_noise(part.noise), z, totals[:, k - 1], own))
        return sp.csr_matrix(sp.hstack(drawn, format="csr"))

    def outputs(self, z: Float[np.ndarray, "cells dim"], only: int | None = None) -> list[np.ndarray]:
        """Return the network's outputs of every modality, or of one."""
        raw = np.asarray(z, np.float32) * self.spread + self.center
        towers = self.net.decoders if only is None else (self.net.decoders[only],)
        if not len(raw):
            return [np.empty((0, tower.layers[-1].bias.shape[0]), np.float32) for tower in towers]
        return list(_in_blocks(_decode, towers, None, raw))

    def _by_part(self, block: Any) -> list[Any]:
        # A NaN is not above 0: it would pass for a closed peak.
        data = block.data if sp.issparse(block) else np.asarray(block)
        refuse_not_finite(data)
        refuse_no_counts(
            data, "A space of several modalities needs raw values", "give counts and fragments as they are."
        )
        edges = np.cumsum([0, *(len(part.features) for part in self.parts)])
        return [part.taken(block[:, a:b]) for part, (a, b) in zip(self.parts, pairwise(edges), strict=True)]

    def _draw_binary(
        self, i: int, z: Float[np.ndarray, "cells dim"], total: Float[np.ndarray, " cells"] | None, seed: int
    ) -> sp.csr_matrix:
        part, rng, out = self.parts[i], np.random.default_rng(seed), []
        step = max(1, _DRAWN_VALUES // max(len(part.features), 1))
        for start in range(0, len(z), step):
            rows = slice(start, start + step)
            p = part.probabilities(self.outputs(z[rows], i)[0], None if total is None else total[rows])
            out.append(sparse_rows((rng.random(p.shape, np.float32) < p).astype(np.int32)))
        if not out:
            return sp.csr_matrix((0, len(part.features)), dtype=np.int32)
        return sp.csr_matrix(sp.vstack(out, format="csr"))


def cells_of(values: Sequence[np.ndarray], parts: Sequence[Part]) -> tuple[Cells, ...]:
    """Return measured values of every modality as cells on the host.

    Raises
    ------
    DataError
        A cell has no counts in the first modality that is not binary.
    """
    first = next((i for i, part in enumerate(parts) if not part.binary), None)
    if first is not None:
        empty = int((np.asarray(values[first].sum(axis=1)).ravel() <= 0).sum())
        if empty:
            raise DataError(
                f"{empty} of {len(values[first])} cells have no counts in {parts[first].name}, so that an autoencoder "
                "cannot read them: remove them first."
            )
    return tuple(host_cells(_small(x)) for x in values)


def _small(x: np.ndarray) -> np.ndarray:
    return x.astype(np.int16 if x.size == 0 or x.max() <= np.iinfo(np.int16).max else np.int32)


def _encode(net: JointAutoencoderNet, readings: tuple[Reading, ...], cells: tuple[Cells, ...]) -> Array:
    return net.encode(tuple(inputs_of(c, r) for c, r in zip(cells, readings, strict=True)))


def _decode(towers: tuple[Any, ...], _: None, z: Array) -> tuple[Array, ...]:
    return tuple(tower(z) for tower in towers)


@eqx.filter_jit
def _run(function: Callable[..., Any], net: Any, readings: Any, rows: Any) -> Any:
    return function(net, readings, rows)


def _in_blocks(function: Callable[..., Any], net: Any, readings: Any, rows: Any) -> Any:
    """Return the function of rows, a block at a time, filled up with the first row so that few sizes are compiled."""
    n, parts = len(jax.tree.leaves(rows)[0]), []
    for start in range(0, n, _BLOCK):
        size = min(_BLOCK, n - start)
        index = np.zeros(max(_SMALLEST, 1 << (size - 1).bit_length()), np.int64)
        index[:size] = np.arange(start, start + size)
        filled = jax.tree.map(lambda leaf, index=index: jnp.asarray(leaf[index]), rows)
        done = _run(function, net, readings, filled)
        parts.append(jax.tree.map(lambda leaf, size=size: np.asarray(leaf)[:size], done))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _depth(
    logits: Float[np.ndarray, "cells features"], total: Float[np.ndarray, " cells"], log_depth: float
) -> Float[np.ndarray, " cells"]:
    """Return what makes the expected number of features that are on in a cell its total."""
    wanted = np.clip(total, 0.5, logits.shape[1] - 0.5)
    out = np.log(np.maximum(total, 1.0)) - log_depth
    for _ in range(_ROUNDS):
        p = _sigmoid(logits + out[:, None])
        out = out + np.clip((wanted - p.sum(axis=1)) / np.maximum((p * (1 - p)).sum(axis=1), 1e-6), -1.0, 1.0)
    return out.astype(np.float32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
