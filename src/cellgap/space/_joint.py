"""Settings of an autoencoder of several modalities as a space, and its fit."""

import dataclasses
import math
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field, model_validator

from cellgap.errors import ConfigError, DataError
from cellgap.nn import Activation, JointAutoencoderNet, Norm
from cellgap.settings import settings
from cellgap.space._autoencoder import training_rows
from cellgap.space._calibrate_autoencoder import line_through, spread_of
from cellgap.space._count_noise import SAMPLE_VALUES, DispersionRule, fit_count_noise, theta_within
from cellgap.space._interface import AbstractSpace
from cellgap.space._joint_space import CountLikelihood, JointSpace, Part, cells_of
from cellgap.space._reading import blocks_of, dense
from cellgap.space._reconstruction import reconstruction_of
from cellgap.space._train_autoencoder import Cells, Recipe, inputs_of, losses, train_network
from cellgap.study import CellBlock, ShuffledReader, Split, modality_columns
from cellgap.train import Loop, Streamed

_Positive = Annotated[float, Field(gt=0)]
_NotNegative = Annotated[float, Field(ge=0)]
_Width = Annotated[int, Field(ge=1)]
_ROUNDS = 20


@settings
class Modality:
    """One kind of measurement of a `JointAutoencoder`.

    Parameters
    ----------
    name
        As in ``var["modality"]`` (the name in a MuData).
    likelihood
        "nb": negative binomial of counts (RNA). "bernoulli": whether there is any (accessibility, as published).
        "poisson": Poisson of counts with their own total (fragments, proteins).
    hidden
        Widths of the encoder's hidden layers; the decoder has them in reverse.
    code
        Length of the code that the modality alone is mapped to, before the joint one.
    inputs
        What its encoder sees; None: "binary" for "bernoulli" without depth, else "lognorm". See `Autoencoder`.
    weight
        Of its likelihood in the loss (published: 1).
    depth
        "bernoulli": whether the logits of a cell rise with the logarithm of the number of its open peaks, which is
        drawn as totals of counts are, so that codes need not carry it (ours; published: no).
    """

    name: str
    likelihood: CountLikelihood = "nb"
    hidden: Annotated[tuple[_Width, ...], Field(min_length=1)] = (256, 128)
    code: _Width = 64
    inputs: Literal["lognorm", "log1p", "binary"] | None = None
    weight: _Positive = 1.0
    depth: bool = True


@settings
class JointAutoencoder(AbstractSpace):
    """One code for several modalities of a cell, each of which is given back by a likelihood of its own.

    Each modality goes down to a code of its own; these are mapped linearly to the joint code, and each modality up from
    it again. The loss is the sum of the negative log-likelihoods.

    Parameters
    ----------
    modalities
        Their names and likelihoods. Features of other modalities are left out.
    dim
        Length of the joint code.
    column
        Of ``var``, which says what modality a feature is of; `Study` writes "modality" where it is given a MuData.
    norm, activation, theta_start, dispersion, noise, loop, epochs, batch_size, learning_rate, warmup, final
        See `Autoencoder`.
    weight_decay, clip, keep, valid, seed
        See `Autoencoder`.
    most_bytes
        Training values that are kept on the device, in bytes (two a value); where there are more, batches are read from
        the study while the network trains.

    Source
    ------
    Palma et al., CFGen (arXiv 2407.11734), the joint variant; `reference` is its recipe. What we do otherwise: see
    `Autoencoder`. Binary features are on as often, over the codes of the training cells, as in these cells.
    """

    modalities: Annotated[tuple[Modality, ...], Field(min_length=1)] = (
        Modality("rna"),
        # Peaks are many and say little each: a wide tower learns cells by heart, and both modalities suffer.
        Modality("atac", "bernoulli", hidden=(64,), code=8),
    )
    dim: _Width = 50
    column: str = "modality"
    norm: Norm = "layer"
    activation: Activation = "elu"
    theta_start: Literal["moments", "normal"] = "moments"
    dispersion: DispersionRule = "matched"
    noise: _NotNegative = 0.5
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
    def _check(self) -> "JointAutoencoder":
        names = [m.name for m in self.modalities]
        if len(set(names)) < len(names):
            raise ConfigError(f"JointAutoencoder(modalities=...) have different names, found {', '.join(names)}.")
        return self

    @classmethod
    def reference(cls, **changes: Any) -> "JointAutoencoder":
        """Return the published recipe for RNA and binary accessibility, with `changes`.

        RNA 512-300-100, accessibility 1024-512-100, joint code of 100; batch normalization and ELU; inputs
        ``log(1 + x)`` and the binary vector; dispersion from standard normal draws; AdamW at 1e-3 (decay 1e-5), batches
        of 256, 300 epochs, gradients clipped at 1; the last state; counts with the learnt dispersion.
        """
        recipe: dict[str, Any] = {
            "modalities": (
                Modality("rna", "nb", hidden=(512, 300), code=100, inputs="log1p"),
                Modality("atac", "bernoulli", hidden=(1024, 512), code=100, inputs="binary", depth=False),
            ),
            "dim": 100,
            "norm": "batch",
            "noise": 0.0,
            "theta_start": "normal",
            "dispersion": "learnt",
            "loop": Loop(chunk=50, valid_every=200),
            "epochs": 300,
            "final": 1.0,
            "keep": "last",
        }
        return cls(**recipe | changes)

    def fit(self, split: Split, *, progress: bool = False) -> JointSpace:
        """Return the space, trained on the training cells of a split; validation cells choose the state to keep.

        Raises
        ------
        DataError
            The study has no raw values, a modality is missing, or a cell has no counts.
        ConfigError
            There are fewer training cells than coordinates of a code.
        KeyboardInterrupt
            Stopped by Ctrl-C: nothing is kept.
        """
        study = split.study
        if not study.is_counts:
            raise DataError(
                "JointAutoencoder needs raw values, but the design says that X holds other measurements: set "
                "Design(counts=...)."
            )
        parts = self._parts(split)
        rows, held_out = training_rows(split, self.valid, self.seed)
        if self.dim > len(rows):
            raise ConfigError(f"JointAutoencoder(dim={self.dim}) needs as many training cells, found {len(rows)}.")
        width = sum(len(part.features) for part in parts)
        most = max(SAMPLE_VALUES // width, 200)
        chosen = np.arange(len(rows))
        if len(rows) > most:
            chosen = np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))
        sample = rows[chosen]
        batches = cells = None
        if 2 * len(rows) * width <= self.most_bytes:
            read = _read(split, parts, rows)
            cells = jax.tree.map(jnp.asarray, cells_of(read, parts))
            looked_at = [x[chosen] for x in read]
        else:
            batches, looked_at = self._batches(split, parts, rows), _read(split, parts, sample)
        for i, m in enumerate(self.modalities):
            if m.likelihood == "bernoulli" and m.depth:
                depth = np.log(np.maximum(looked_at[i].sum(axis=1), 1.0)).mean()
                parts[i] = dataclasses.replace(parts[i], log_depth=float(depth))
        theta = self._theta(looked_at, parts, study.codes[sample])
        net = eqx.filter_jit(self._network)([len(part.features) for part in parts], theta, jr.key(self.seed))
        steps = math.ceil(len(rows) / self.batch_size)
        loop = self.loop if self.epochs is None else dataclasses.replace(self.loop, n_steps=self.epochs * steps)
        others = jax.tree.map(jnp.asarray, cells_of(_read(split, parts, held_out), parts))
        result = train_network(
            net,
            cells,
            batches,
            others,
            self._loss(parts),
            Recipe(**{name: getattr(self, name) for name in Recipe._fields}),
            loop,
            key=jr.key(self.seed + 1),
            progress=progress,
        )
        if result.stopped == "interrupted":
            raise KeyboardInterrupt
        kept = (result.best if self.keep == "best" else result.state).net
        space = JointSpace(
            parts=tuple(parts),
            net=kept,
            study_features=tuple(map(str, study.genes)),
            measured_in=study.design.counts,
            center=np.zeros(self.dim, np.float32),
            spread=np.ones(self.dim, np.float32),
            scores={},
            history=result.history,
            best_step=result.best_step,
        )
        space = self._calibrated(space, split, sample, looked_at)
        scores = reconstruction_of(space, split) | _held_out_losses(kept, others, parts)
        return dataclasses.replace(space, scores=scores)

    def _parts(self, split: Split) -> list[Part]:
        study = split.study
        columns = modality_columns(study.adata, [m.name for m in self.modalities], self.column)
        genes = study.genes
        return [
            Part(
                name=m.name,
                features=tuple(str(genes[i]) for i in places),
                columns=places,
                likelihood=m.likelihood,
                inputs=m.inputs or ("binary" if m.likelihood == "bernoulli" and not m.depth else "lognorm"),
                target_sum=1e4,
                line=None,
                noise=None,
                offset=None,
            )
            for m, places in zip(self.modalities, columns, strict=True)
        ]

    def _network(
        self, n_in: list[int], theta: list[Float[Array, " _"] | None], key: PRNGKeyArray
    ) -> JointAutoencoderNet:
        return JointAutoencoderNet(
            n_in,
            self.dim,
            hidden=[m.hidden for m in self.modalities],
            code=[m.code for m in self.modalities],
            norm=self.norm,
            activation=self.activation,
            log_theta=theta,
            key=key,
        )

    def _loss(self, parts: list[Part]):
        readings, weights = [part.reading for part in parts], [m.weight for m in self.modalities]
        noise = self.noise

        def loss(net: JointAutoencoderNet, cells: tuple[Cells, ...], key: PRNGKeyArray | None):
            xs = tuple(inputs_of(c, r) for c, r in zip(cells, readings, strict=True))
            outs, moved = (net.decode(net.encode(xs)), net) if key is None else net.training(xs, noise=noise, key=key)
            each = zip(weights, outs, net.log_theta, cells, readings, strict=True)
            return jnp.sum(jnp.stack([w * losses(out, theta, c, r) for w, out, theta, c, r in each]), axis=0), moved

        return loss

    def _batches(self, split: Split, parts: list[Part], rows: np.ndarray) -> Streamed:
        reader = ShuffledReader(split.study, rows, seed=self.seed)

        def prepare(block: CellBlock):
            return cells_of([dense(part.taken(block.values[:, part.columns])) for part in parts], parts)

        return Streamed(reader, min(self.batch_size, len(rows)), prepare)

    def _theta(
        self, looked_at: list[np.ndarray], parts: list[Part], codes: np.ndarray
    ) -> list[Float[Array, " _"] | None]:
        out: list[Any] = []
        rng = np.random.default_rng(self.seed)
        for x, part in zip(looked_at, parts, strict=True):
            if part.likelihood != "nb":
                out.append(None)
            elif self.theta_start == "normal":
                out.append(jnp.asarray(rng.normal(size=x.shape[1]), jnp.float32))
            else:
                out.append(jnp.asarray(np.log(theta_within(x.astype(np.float32), codes)), jnp.float32))
        return out

    def _calibrated(self, space: JointSpace, split: Split, rows: np.ndarray, values: list[np.ndarray]) -> JointSpace:
        """Return the space with standardized codes and everything that is measured on training cells."""
        adata = split.study.adata
        z = space.encode(adata, rows)
        spread = spread_of(z)
        space = dataclasses.replace(space, center=z.mean(axis=0), spread=spread)
        z = (z - space.center) / spread
        parts = []
        for i, (part, x) in enumerate(zip(space.parts, values, strict=True)):
            out = space.outputs(z, i)[0]
            if part.binary:
                if part.log_depth is not None:
                    out = out + (np.log(np.maximum(x.sum(axis=1), 1.0)) - part.log_depth)[:, None]
                parts.append(dataclasses.replace(part, offset=_offset(out, x.mean(axis=0), len(x))))
                continue
            y = np.log1p(x * (part.target_sum / np.maximum(x.sum(axis=1, keepdims=True), 1)))

            def shares(cells: np.ndarray, i: int = i, part: Part = part) -> np.ndarray:
                return part.shares(space.outputs(space.encode(adata, cells), i)[0])

            noise = fit_count_noise(split, part.features, shares, floor=0.0)
            if self.dispersion == "learnt":
                one, known = np.ones(len(part.features), np.float32), space.net.log_theta[i]
                theta = np.full(len(one), 1e4, np.float32) if known is None else np.exp(np.asarray(known))
                noise = dataclasses.replace(noise, factor=one, theta=theta, fresh=one, rule="learnt")
            parts.append(dataclasses.replace(part, line=line_through(part.log_shares(out), y), noise=noise))
        return dataclasses.replace(space, parts=tuple(parts))


def _read(split: Split, parts: list[Part], rows: np.ndarray) -> list[np.ndarray]:
    """Return the values of every modality, dense, as 16-bit integers where these hold them, else 32-bit."""
    study = split.study
    out: list[Any] = [np.zeros((len(rows), len(part.features)), np.int16) for part in parts]
    for place, block in blocks_of(study.adata, study.design.counts, [str(g) for g in study.genes], rows):
        for k, part in enumerate(parts):
            x = dense(part.taken(block[:, part.columns]))
            if out[k].dtype == np.int16 and x.size and x.max() > np.iinfo(np.int16).max:
                out[k] = out[k].astype(np.int32)
            out[k][place] = x
    return out


def _held_out_losses(net: JointAutoencoderNet, cells: tuple[Cells, ...], parts: list[Part]) -> dict[str, float]:
    @eqx.filter_jit
    def each(net: JointAutoencoderNet, cells: tuple[Cells, ...]) -> list[Array]:
        readings = [part.reading for part in parts]
        outs = net.decode(net.encode(tuple(inputs_of(c, r) for c, r in zip(cells, readings, strict=True))))
        values = zip(outs, net.log_theta, cells, readings, strict=True)
        return [jnp.mean(losses(out, theta, c, r)) for out, theta, c, r in values]

    return {f"nll_{part.name}": float(v) for part, v in zip(parts, each(net, cells), strict=True)}


def _offset(logits: np.ndarray, measured: np.ndarray, n: int) -> np.ndarray:
    """Return what makes the mean probability of every feature the measured one, which is kept off 0 and 1."""
    wanted = np.clip(measured, 0.5 / n, 1 - 0.5 / n)
    offset = np.zeros(logits.shape[1])
    for _ in range(_ROUNDS):
        p = 0.5 * (1.0 + np.tanh(0.5 * (logits + offset)))
        # Newton's step for the mean; its derivative is the mean of p (1 - p).
        step = (wanted - p.mean(axis=0)) / np.maximum((p * (1 - p)).mean(axis=0), 1e-12)
        offset += np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-4:
            break
    return offset.astype(np.float32)
