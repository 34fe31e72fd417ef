"""OT flow matching: one velocity field for all conditions, along which controls flow to treated cells."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field

from cellgap.encode import AbstractEncoder, FittedEncoder
from cellgap.errors import ConfigError
from cellgap.gap import Gap
from cellgap.nn import Modulation, Pooling, VelocityNet
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace, AbstractSpace
from cellgap.storage import storable
from cellgap.study import Condition, Role, Split
from cellgap.train import Loop, run_fingerprint
from cellgap.transport._affine import AffinePath, Start, affine, condition_features, fit_affine_path
from cellgap.transport._codes import Codes
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._gaps import map_gaps
from cellgap.transport._map import AbstractMap, vocabulary_of
from cellgap.transport._train_flow import Encoded, FlowSettings, Solver, evaluations, move, train_flow
from cellgap.transport._train_map import Optimization
from cellgap.transport._training_data import VALID_CELLS, training_problem, validation_conditions

Widths = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
_CELLS = 256


@settings
class FlowMatching:
    """A flow from control to treated cells for all conditions, seen and unseen, by optimal-transport flow matching.

    Each step draws control cells and treated cells of a condition, pairs them by an entropic transport plan, and fits
    ``v(x_t, t, c)`` to ``x1 - x0`` at a random point ``x_t = (1 - t) x0 + t x1`` of every pair. A control cell is then
    moved along `v` from time 0 to 1. ``T(x, control) = x`` exactly.

    Parameters
    ----------
    space, encoder
        Where cells and conditions live.
    start
        ``"identity"``: the flow starts at the control cells, as published; ``"shift"`` and ``"gaussian"``: at the
        control cells after a closed-form map of the condition (see `AffinePath`), of which it learns the rest.
    epsilon
        Entropic regularization of the pairing, relative to the mean squared distance (published: 1.0, a pairing that is
        nearly independent).
    condition_dropout
        Probability that a cell is not told its condition in training; needed for guidance.
    guidance_weight
        The weight s in ``v_null + s (v_c - v_null)``, the field that cells follow; 1 is the condition's own.
    noise
        Standard deviation of noise on the starting points, in units of the spread of the cells: lets the flow add
        diversity that the controls lack. The same cells get the same noise.
    solver, n_ode_steps
        Fixed-step solver of the flow.
    modulation, pooling, time, data, decoder, embedding, frequencies
        The network; see `cellgap.nn.VelocityNet`.
    optimization
        Steps, batches, learning rate; see `Optimization`.

    Raises
    ------
    ConfigError
        A setting is out of bounds, or guidance is asked for without dropped conditions.

    Notes
    -----
    Source: Lipman et al. 2023 and Tong et al. 2024 (OT-CFM); Klein et al. 2025 (CellFlow) for conditions. Deviations:
    a small epsilon, stratified times, every control paired once, a fixed-step solver, averaged weights.
    """

    space: AbstractSpace
    encoder: AbstractEncoder
    start: Start = "identity"
    epsilon: Annotated[float, Field(gt=0)] = 0.05
    condition_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    guidance_weight: Annotated[float, Field(ge=0)] = 1.0
    noise: Annotated[float, Field(ge=0)] = 0.0
    solver: Solver = "heun"
    n_ode_steps: Annotated[int, Field(ge=1)] = 20
    modulation: Modulation = "film"
    pooling: Pooling = "mean"
    time: Widths = (64,)
    data: Widths = (64, 64)
    decoder: Widths = (64, 64)
    embedding: Annotated[int, Field(ge=1)] = 64
    frequencies: Annotated[int, Field(ge=1)] = 16
    optimization: Optimization = Optimization(loop=Loop(n_steps=2000, valid_every=250), ema=0.999)

    def __post_init__(self) -> None:
        if self.guidance_weight != 1.0 and self.condition_dropout == 0.0:
            raise ConfigError(
                f"FlowMatching(guidance_weight={self.guidance_weight:g}) needs the field without a condition, which is "
                "trained with condition_dropout above 0: set condition_dropout=0.1, or leave guidance_weight at 1."
            )

    @classmethod
    def reference(cls, space: AbstractSpace, encoder: AbstractEncoder, **changes: Any) -> "FlowMatching":
        """Return the published settings of CellFlow, as far as they exist here.

        Time and cells 2048 x 3, decoder 4096 x 3, embedding 256, concatenation, attention over treatments, 1024 cells a
        batch, the gradients of 20 conditions an update, learning rate 5e-5, epsilon 1. Not the same: dropout of the
        embedding (0.9), learning rate without a schedule, pairs drawn with replacement, an adaptive solver.

        Parameters
        ----------
        space, encoder
            Where cells and conditions live.
        changes
            Settings that replace the published ones.
        """
        published: dict[str, Any] = {
            "epsilon": 1.0,
            "modulation": "concat",
            "pooling": "attention",
            "time": (2048,) * 3,
            "data": (2048,) * 3,
            "decoder": (4096,) * 3,
            "embedding": 256,
            "frequencies": 512,
            "optimization": Optimization(
                loop=Loop(n_steps=5000, valid_every=500),
                batch_size=1024,
                conditions_per_step=20,
                learning_rate=5e-5,
                weight_decay=0.0,
                clip=1e9,
                ema=0.0,
            ),
        }
        return cls(space, encoder, **published | changes)

    def fit(
        self, split: Split, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> "FittedFlow":
        """Return the flow fitted on a split's training cells.

        Parameters
        ----------
        split
            Which cells to train on, validate on, and never look at.
        key
            Random key of the whole fit.
        folder
            Where to keep checkpoints and the log; a run that was stopped there is resumed, bit for bit.
        progress
            Show a progress bar.

        Raises
        ------
        SplitError
            The split leaks or leaves nothing to train on.
        ConditionError
            The encoder cannot encode a condition.
        ConvergenceError
            Training diverged.
        """
        codes = Codes.of(split, self.space, self.encoder, progress=progress)
        return self.fit_codes(codes, key=key, folder=folder, progress=progress)

    def fit_codes(
        self, codes: Codes, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> "FittedFlow":
        """Return the flow fitted on encoded cells; see `fit`."""
        key_net, key_run = jr.split(key)
        center, scale = _unit_of(codes)
        unit = dataclasses.replace(codes, z=(codes.z - center) / scale)
        path = fit_affine_path(unit, self.start)
        problem = training_problem(unit, codes.split.train_conditions, Role.TRAIN, path)
        held = validation_conditions(codes)
        valid = training_problem(unit, held, Role.VALID, path, most=VALID_CELLS) if held else None
        result = train_flow(
            self._network(codes, key_net),
            problem,
            valid,
            FlowSettings(
                self.epsilon,
                self.condition_dropout,
                self.noise,
                self.solver,
                self.n_ode_steps,
                self.guidance_weight,
            ),
            self.optimization,
            key=key_run,
            folder=None if folder is None else Path(folder),
            fingerprint="" if folder is None else run_fingerprint(repr(self), problem, valid, key),
            progress=progress,
        )
        fitted = FittedFlow(
            "flow matching",
            codes.space,
            codes.encoder,
            vocabulary_of(codes),
            (),
            center,
            scale,
            path,
            result.best.average,
            self.noise,
            self.solver,
            self.n_ode_steps,
            self.guidance_weight,
            tuple(result.history),
            result.best_step,
            result.stopped,
        )
        return dataclasses.replace(fitted, measured_gaps=_gaps(fitted, codes))

    def _network(self, codes: Codes, key: PRNGKeyArray) -> VelocityNet:
        def initialized(key: PRNGKeyArray) -> VelocityNet:
            return VelocityNet(
                codes.space.dim,
                codes.encoder.dim,
                codes.encoder.context_dim,
                time=self.time,
                data=self.data,
                decoder=self.decoder,
                embedding=self.embedding,
                modulation=self.modulation,
                pooling=self.pooling,
                frequencies=self.frequencies,
                key=key,
            )

        # One compiled program instead of one for the shape of every layer.
        return eqx.filter_jit(initialized)(key)


def _unit_of(codes: Codes) -> tuple[Float[np.ndarray, " d"], float]:
    """Return the center of the training controls and the spread of a population, one number for all coordinates.

    One number, so that distances keep their proportions: the root mean variance of control and treated populations.
    """
    moments = codes.moments
    center = np.mean([m.control_mean for m in moments], axis=0)
    variance = float(np.mean([np.trace(m.control_cov + m.cov) / (2 * len(center)) for m in moments]))
    # Populations without spread leave the unit to the effects; without those, everything is at one point.
    variance = variance or float(np.mean([np.mean(m.shift**2) for m in moments])) or 1.0
    return center.astype(np.float32), float(np.sqrt(variance))


@storable
class FittedFlow(AbstractMap):
    """See `FlowMatching`.

    Parameters
    ----------
    center, scale
        The network sees ``(z - center) / scale``.
    path
        Where the flow of a condition starts, in these units.
    net
        The velocity field.
    noise, solver, n_ode_steps, guidance_weight
        How cells are moved; other values may be tried with ``dataclasses.replace``.
    history
        One row a chunk of training: step, loss, iterations and error of the pairing's plan, valid (in `scale`).
    best_step
        Step of the weights that are kept (0: the start).
    stopped
        How training ended.
    """

    name: str
    space: AbstractFittedSpace
    encoder: FittedEncoder
    vocabulary: Vocabulary
    measured_gaps: tuple[Gap, ...]
    center: Float[np.ndarray, " d"]
    scale: float
    path: AffinePath
    net: VelocityNet
    noise: float
    solver: Solver
    n_ode_steps: int
    guidance_weight: float
    history: tuple[dict[str, Any], ...]
    best_step: int
    stopped: str

    @property
    def n_evaluations(self) -> int:
        """How often the network is evaluated to move one cell."""
        return evaluations(self.n_ode_steps, self.solver, self.guidance_weight)

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return the moved cells; see `AbstractMap.transport`."""
        coded = self.encoder.encode_many([condition])
        told = Encoded(*(jnp.asarray(part[0]) for part in (coded.entities, coded.mask, coded.context)))
        start = (self.path.center, *self.path.at(condition_features(self.encoder, condition)))
        noise = 0.0 if condition.is_control else self.noise
        unit = jnp.asarray((z - self.center) / self.scale, jnp.float32)
        moved = _displacement(self.net, unit, told, start, noise, self.n_ode_steps, self.solver, self.guidance_weight)
        # Controls have the displacement 0: they stay, bit for bit.
        return z + self.scale * np.asarray(moved)


@eqx.filter_jit
def _displacement(
    net: VelocityNet,
    x: Float[Array, "n d"],
    told: Encoded,
    start: tuple,
    noise: float,
    n_ode_steps: int,
    solver: Solver,
    guidance_weight: float,
) -> Float[Array, "n d"]:
    x0 = affine(x, *start)
    if noise > 0.0:
        x0 = x0 + noise * jr.normal(jr.key(0), x.shape, x.dtype)
    x1 = move(net, x0, told, n_ode_steps=n_ode_steps, solver=solver, guidance_weight=guidance_weight)
    return x1 - x


def _gaps(fitted: FittedFlow, codes: Codes) -> tuple[Gap, ...]:
    """Return the gaps of the map, and how far its solver is from one of twice as many steps."""
    monge, *spread = map_gaps(fitted, codes)
    finer = dataclasses.replace(fitted, n_ode_steps=2 * fitted.n_ode_steps)
    condition = codes.split.train_conditions[0]
    z = codes.cells(condition.control, Role.TRAIN)[:_CELLS]
    coarse, fine = fitted.transport(z, condition), finer.transport(z, condition)
    moved = float(np.sqrt(((fine - z) ** 2).sum(1).mean()))
    integration = Gap(
        "integration gap",
        float(np.sqrt(((fine - coarse) ** 2).sum(1).mean())),
        f"0 = exact flow; root mean squared displacement {moved:.3g}",
        f"how far cells end from where {finer.n_ode_steps} steps of the solver would take them, instead of "
        f"{fitted.n_ode_steps}",
        "raise n_ode_steps",
    )
    return (
        dataclasses.replace(monge, remedy="lower epsilon, raise batch_size, or train longer"),
        *(
            dataclasses.replace(gap, remedy="train longer; noise above 0 adds diversity that the controls lack")
            for gap in spread
        ),
        integration,
    )
