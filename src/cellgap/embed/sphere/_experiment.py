"""The synthetic experiment end to end: latents, generator, pair sampler, encoder, loss, and what was recovered."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field, model_validator

from cellgap.embed._identifiability import (
    Agreement,
    agreement,
    angle_preservation_error,
    linear_r2,
    mean_correlation_coefficient,
    procrustes_error,
)
from cellgap.embed._loss import info_nce, mixed_info_nce
from cellgap.embed.sphere._asymptotic import loss_floor
from cellgap.embed.sphere._draws import uniform
from cellgap.embed.sphere._generators import AbstractGenerator, IdentityGenerator
from cellgap.embed.sphere._networks import Encoder, SphereEncoder
from cellgap.embed.sphere._samplers import AbstractPairSampler, Frozen, VonMisesFisher
from cellgap.errors import ConfigError
from cellgap.nn import Norm
from cellgap.settings import settings, to_dict
from cellgap.train import Loop, fit, run_fingerprint

Loss = Literal["infonce", "corrected", "mixed"]
_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=1)]
# Of the final evaluation: latents for the metrics, anchors for the loss in blocks, negatives from the marginal and
# from the support, anchors that share the latter.
_LATENTS, _ANCHORS, _BLOCKS, _MARGINAL, _SUPPORT, _SHARED = 2048, 32_768, 16, 2048, 512, 64


class SphereState(eqx.Module):
    """Everything that changes during training; seeds along the first axis of every array."""

    encoder: SphereEncoder
    optimizer: Any


class _Draw(eqx.Module):
    """Latents of one step or block, in groups whose anchors share a support."""

    anchor: Float[Array, "g a k"]
    partner: Float[Array, "g a k"]
    support: Float[Array, "g s k"]
    marginal: Float[Array, "m k"]


@dataclass(frozen=True, eq=False)
class SphereResult:
    """What the runs of one experiment recovered, by held-out latents; one entry a seed.

    Parameters
    ----------
    r2, r2_coordinates
        Linear identifiability: pooled, (seeds,), and of every coordinate, (seeds, k).
    mcc
        Mean correlation coefficient; not invariant under rotations, so a perfect recovery scores below 1.
    angle_error
        Mean difference of cosines over pairs of latents, from 0 to 2.
    procrustes
        Distance to the nearest orthogonal map; 0 if and only if latents are recovered up to one.
    alignment
        Mean cosine of anchor and partner.
    loss
        That of the experiment, with the logarithm of the number of negatives taken off.
    matched
        The same of every orthogonal map, over the same draws: its sampling error is shared with `loss`.
    floor
        What no map goes below (`loss_floor`); NaN unless the loss is InfoNCE.
    latents, embeddings
        (n, k) and (seeds, n, k).
    encoder
        The trained encoders, stacked.
    history
        One row a chunk of steps: ``step``, ``loss`` (mean over seeds) and ``loss_0, loss_1, ...``, of training batches,
        the logarithm not taken off.
    stopped
        See `cellgap.train.FitResult`.
    """

    r2: Float[np.ndarray, " s"]
    r2_coordinates: Float[np.ndarray, "s k"]
    mcc: Float[np.ndarray, " s"]
    angle_error: Float[np.ndarray, " s"]
    procrustes: Float[np.ndarray, " s"]
    alignment: Float[np.ndarray, " s"]
    loss: Float[np.ndarray, " s"]
    matched: float
    floor: float
    latents: Float[np.ndarray, "n k"]
    embeddings: Float[np.ndarray, "s n k"]
    encoder: SphereEncoder
    history: list[dict[str, float]]
    stopped: str

    def __repr__(self) -> str:
        return f"SphereResult({len(self.r2)} seeds: best loss {self.loss[self.best]:.3f}, R2 {self.r2[self.best]:.3f})"

    @property
    def best(self) -> int:
        """The seed with the lowest loss."""
        return int(np.argmin(self.loss))

    def agreement(self) -> Agreement:
        """Return how alike the runs are; see `cellgap.embed.agreement`.

        Raises
        ------
        DataError
            There is one run only.
        """
        return agreement(list(self.embeddings))


@settings
class SphereExperiment:
    """Contrastive learning on data whose latents are known, to see whether the encoder recovers them.

    Latents are uniform on the sphere S^{k-1}, the generator makes observations of them, an encoder is trained by pairs
    of observations, and the map from latents to embeddings is judged on held-out latents.

    Parameters
    ----------
    generator, sampler
        From latents to observations; the law of a partner.
    loss
        ``"infonce"``: negatives from the marginal, the same for all anchors. ``"corrected"``: negatives of an anchor
        uniform on the support of its partner. ``"mixed"``: a share `rho` of the latter.
    rho
        Share of negatives from the support, of the mixed loss.
    encoder
        ``"mlp"``, or ``"inverse"``: the inverse of the generator, then a trainable affine map. The latter is the
        published form for the identity and for linear generators; for others the published encoder learns parts of
        the inverse, which here is exact.
    k
        Dimension of the space around the sphere.
    tau
        Temperature.
    batch_size, n_steps, chunk
        Anchors a step, steps, and steps between logs and checkpoints.
    n_negatives, n_support
        Negatives of a step from the marginal (None: as many as anchors), and from the support of every anchor.
    anchors_per_support
        Anchors that share their support, and so its negatives, which costs that many times fewer calls of the encoder.
        They are drawn uniformly on it, so every anchor has the law it would have alone. Needs supports that do not
        overlap.
    learning_rate
        Of Adam, constant.
    widths, norm
        Of the network; see `SphereEncoder`.
    n_seeds
        Runs, trained side by side in one program.

    Source
    ------
    Zaliaduonis et al. 2026 (arXiv 2606.04280), synthetic experiments: batches of 2,000, 5,000 steps, 2,000 negatives.
    """

    generator: AbstractGenerator = IdentityGenerator()
    sampler: AbstractPairSampler = VonMisesFisher(kappa=1 / 0.3)
    loss: Loss = "infonce"
    rho: Annotated[float, Field(ge=0, le=1)] = 0.5
    encoder: Encoder = "mlp"
    k: Annotated[int, Field(ge=2)] = 3
    tau: _Positive = 0.3
    batch_size: _Count = 512
    n_steps: _Count = 1500
    chunk: _Count = 100
    n_negatives: _Count | None = None
    n_support: _Count = 32
    anchors_per_support: _Count = 1
    learning_rate: _Positive = 1e-3
    widths: tuple[_Count, ...] = (128, 256, 256, 256, 128)
    norm: Norm = "batch"
    n_seeds: _Count = 1

    @model_validator(mode="after")
    def _check(self) -> "SphereExperiment":
        if self.batch_size % self.anchors_per_support:
            raise ConfigError(
                f"batch_size={self.batch_size} is not a multiple of anchors_per_support={self.anchors_per_support}."
            )
        if self.anchors_per_support > 1 and not self._disjoint:
            raise ConfigError(
                f"anchors_per_support={self.anchors_per_support} needs supports that do not overlap, which those of "
                f"{type(self.sampler).__name__} do: use 1."
            )
        return self

    @property
    def _disjoint(self) -> bool:
        return isinstance(self.sampler, Frozen | VonMisesFisher)

    def run(self, key: PRNGKeyArray, folder: Path | None = None, *, progress: bool = False) -> SphereResult:
        """Return what was recovered.

        Parameters
        ----------
        key
            Random key of all runs.
        folder
            Where to write the checkpoint and the log; a run found there is resumed, bit for bit.
        progress
            Show a progress bar.

        Raises
        ------
        DataError
            The generator is not defined for this k.
        ConfigError
            The sampler leaves no coordinate to vary.
        ConvergenceError
            A loss is no longer finite.
        StorageError
            The folder holds another run.
        """
        start_key, train_key, eval_key = jr.split(key, 3)
        optimizer = optax.adam(self.learning_rate)

        def begin(key: PRNGKeyArray) -> SphereState:
            encoder = self._encoder(key)
            weights: Any = encoder  # modules are trees, which the annotations of optax do not say
            return SphereState(encoder, optimizer.init(weights))

        state = eqx.filter_jit(eqx.filter_vmap(begin))(jr.split(start_key, self.n_seeds))

        def step(state: SphereState, key: PRNGKeyArray):
            keys = jr.split(key, self.n_seeds)
            state, losses = eqx.filter_vmap(partial(self._step, optimizer))(state, keys)
            return state, {"loss": jnp.mean(losses)} | {f"loss_{i}": losses[i] for i in range(self.n_seeds)}

        fitted = fit(
            step,
            state,
            key=train_key,
            loop=Loop(n_steps=self.n_steps, chunk=self.chunk, checkpoint_every=self.chunk),
            folder=folder,
            fingerprint=run_fingerprint(repr(to_dict(self)), key),
            progress=progress,
            title="sphere",
        )
        return self._judged(fitted.state.encoder, eval_key, fitted.history, fitted.stopped)

    def _encoder(self, key: PRNGKeyArray) -> SphereEncoder:
        hidden = self.widths if self.encoder == "mlp" else ()
        n_in = self.generator.width(self.k) if self.encoder == "mlp" else self.k
        return SphereEncoder((n_in, *hidden, self.k), norm=self.norm, key=key)

    def _seen(self, z: Float[Array, "n k"]) -> Float[Array, "n p"]:
        """Return what the trainable part of the encoder sees of latents."""
        x = self.generator(z)
        return x if self.encoder == "mlp" else self.generator.inverse(x, self.k)

    def _draw(self, key: PRNGKeyArray, groups: int, anchors: int, support: int, marginal: int) -> _Draw:
        key_z, key_share, key_partner, key_support, key_marginal = jr.split(key, 5)
        k = self.k
        z = uniform(key_z, groups, k)
        anchor = z[:, None] if anchors == 1 else self.sampler.support(key_share, z, anchors)
        partner = self.sampler.partner(key_partner, anchor.reshape(-1, k)).reshape(anchor.shape)
        near = jnp.zeros((groups, 0, k)) if support == 0 else self.sampler.support(key_support, z, support)
        return _Draw(anchor, partner, near, uniform(key_marginal, marginal, k))

    def _losses(self, h: _Draw) -> Float[Array, "g a"]:
        k = self.k
        if self.loss == "infonce":
            flat = info_nce(h.anchor.reshape(-1, k), h.partner.reshape(-1, k), h.marginal, tau=self.tau)
            return flat.reshape(h.anchor.shape[:2])
        if self.loss == "corrected":
            return jax.vmap(partial(info_nce, tau=self.tau))(h.anchor, h.partner, h.support)

        def mixed(anchor: Array, partner: Array, support: Array):
            own = jnp.broadcast_to(support, (len(anchor), *support.shape))
            return mixed_info_nce(anchor, partner, own, h.marginal, tau=self.tau, rho=self.rho)

        return jax.vmap(mixed)(h.anchor, h.partner, h.support)

    def _step(self, optimizer: optax.GradientTransformation, state: SphereState, key: PRNGKeyArray):
        shared = self.anchors_per_support if self.loss != "infonce" else 1
        support = 0 if self.loss == "infonce" else self.n_support
        marginal = 0 if self.loss == "corrected" else (self.n_negatives or self.batch_size)
        drawn = self._draw(key, self.batch_size // shared, shared, support, marginal)

        def loss_of(encoder: SphereEncoder):
            moved, h = _embedded(encoder, self._seen, drawn)
            return jnp.mean(self._losses(h)), moved

        (loss, moved), grads = eqx.filter_value_and_grad(loss_of, has_aux=True)(state.encoder)
        updates, kept = optimizer.update(grads, state.optimizer)
        # Running averages have gradient 0, which Adam leaves alone.
        return SphereState(eqx.apply_updates(moved, updates), kept), loss

    def _judged(
        self, encoder: SphereEncoder, key: PRNGKeyArray, history: list[dict[str, float]], stopped: str
    ) -> SphereResult:
        key_latents, key_loss = jr.split(key)
        z, keys = uniform(key_latents, _LATENTS, self.k), jr.split(key_loss, _BLOCKS)
        near, far = self.loss != "infonce", self.loss != "corrected"
        shared = _SHARED if near and self._disjoint else 1
        # Supports that overlap are drawn for every anchor, which is dear: fewer anchors.
        groups = _ANCHORS // (_BLOCKS * (shared if shared > 1 or not near else _SHARED))

        def draw(key: PRNGKeyArray) -> _Draw:
            return self._draw(key, groups, shared, _SUPPORT * near, _MARGINAL * far)

        def block(encoder: SphereEncoder, key: PRNGKeyArray):
            h = jax.tree.map(lambda z: encoder(self._seen(z.reshape(-1, self.k))).reshape(z.shape), draw(key))
            return jnp.mean(self._losses(h)), jnp.mean(jnp.sum(h.anchor * h.partner, axis=-1))

        def one(encoder: SphereEncoder):
            losses, cosines = jax.lax.map(partial(block, encoder), keys)
            return encoder(self._seen(z)), jnp.mean(losses), jnp.mean(cosines)

        def every(encoders: SphereEncoder):
            # Losses do not change under orthogonal maps, so that of the latents themselves is that of all of them.
            matched = jnp.mean(jax.lax.map(lambda key: jnp.mean(self._losses(draw(key))), keys))
            return matched, *jax.lax.map(one, encoders)

        matched, h, loss, alignment = eqx.filter_jit(every)(encoder)
        log_m = float(np.log(_SUPPORT * near + _MARGINAL * far))
        latents, embeddings = np.asarray(z, np.float64), np.asarray(h, np.float64)
        fits = [linear_r2(latents, e) for e in embeddings]
        return SphereResult(
            r2=np.array([f.pooled for f in fits]),
            r2_coordinates=np.array([f.per_coordinate for f in fits]),
            mcc=np.array([mean_correlation_coefficient(latents, e) for e in embeddings]),
            angle_error=np.array([angle_preservation_error(latents, e) for e in embeddings]),
            procrustes=np.array([procrustes_error(latents, e) for e in embeddings]),
            alignment=np.asarray(alignment, np.float64),
            loss=np.asarray(loss, np.float64) - log_m,
            matched=float(matched) - log_m,
            floor=float("nan") if near else loss_floor(self.k, self.tau),
            latents=latents,
            embeddings=embeddings,
            encoder=encoder,
            history=history,
            stopped=stopped,
        )


def _embedded(encoder: SphereEncoder, seen: Any, drawn: _Draw) -> tuple[SphereEncoder, _Draw]:
    """Return the encoder with its running averages moved, and the embeddings of a draw, all in one call of it."""
    leaves, form = jax.tree.flatten(drawn)
    k = leaves[0].shape[-1]
    ends = np.cumsum([leaf.size // k for leaf in leaves])
    h, moved = encoder.training(seen(jnp.concatenate([leaf.reshape(-1, k) for leaf in leaves])))
    parts = [part.reshape(leaf.shape) for part, leaf in zip(jnp.split(h, ends[:-1]), leaves, strict=True)]
    return moved, jax.tree.unflatten(form, parts)
