"""The conditional Monge map: one network for all conditions, fitted by Sinkhorn divergence and Monge gap."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray
from pydantic import Field

from cellgap.encode import AbstractEncoder, FittedEncoder
from cellgap.errors import ConditionError
from cellgap.gap import Gap
from cellgap.nn import Conditioning, PerturbationNet, Pooling
from cellgap.ot import Cost
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace, AbstractSpace
from cellgap.storage import storable
from cellgap.study import Condition, Role, Split
from cellgap.train import FitResult, Loop, run_fingerprint
from cellgap.transport._affine import affine, condition_features
from cellgap.transport._codes import Codes
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._gaps import map_gaps, start_gap, training_gap
from cellgap.transport._map import AbstractMap, vocabulary_of
from cellgap.transport._objective import FitLoss, Objective
from cellgap.transport._problem import Problem
from cellgap.transport._start import ConditionalStart, StartMap, start_of
from cellgap.transport._train_map import MapState, Optimization, train_map
from cellgap.transport._training_data import VALID_CELLS, training_problem, typical_cost, validation_conditions
from cellgap.transport._trial import Judge, trial_of

Widths = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]


@settings
class ConditionalMonge:
    """One map for all conditions: ``T(x, c)`` with ``T(x, control) = x``, seen conditions and unseen ones.

    Minimizes over conditions ``OT(T(x), y) - OT(T(x), T(x')) / 2 + gap_weight * MongeGap(T)``, where `x` and `x'` are
    independent batches of matched controls and `y` treated cells. The map is a closed form (see `start`) plus a network
    that begins at zero.

    Parameters
    ----------
    space, encoder
        Where cells and conditions live.
    start
        ``"auto"``: the closed form that predicts held-out conditions best, out of doing nothing, every simple rule with
        and without Gaussian shape, and paths; validation conditions decide where the split has them, else training
        conditions that are left out in the manner of the split. It is the Gaussian path unless another is better by
        more than noise on four left-out conditions or more (see `StartMap`). ``"gaussian"``: Gaussian optimal maps;
        ``"shift"``: mean shifts; both interpolated over conditions (see `AffinePath`); ``"identity"``: as published.
        Training starts there, and the start is kept where held-out cells do not get closer.
    judge
        What says, where the split has no validation conditions, how long the network may train. ``"conditions"``: a
        first training leaves conditions out in the manner of the split and is judged on them; the second one, with all
        conditions, gets as many steps as were best, none where the closed form was. Needs at least 3 conditions to
        leave out, and less than half of all. ``"cells"``: held-out cells of the conditions that are trained on.
    fit_loss
        ``"two_batch"`` keeps the spread of populations; ``"same_batch"`` is the published loss, which shrinks them.
    cost, gap_cost
        Ground costs of fit and gap.
    epsilon, gap_epsilon
        Entropic regularization, relative to the mean cost between control and treated cells where `relative` is True
        (published: 1.0 and 0.01 absolute, about 0.1 and 0.001 relative in 50 dimensions).
    relative
        Whether the epsilons are relative.
    gap_weight
        Weight of the Monge gap.
    conditioning, pooling, rank, hidden, embedding
        The network; see `cellgap.nn.PerturbationNet`.
    separate
        Whether every part of the encoder (descriptor, dose) has a dense layer of its own, as published.
    optimization
        Steps, batches, learning rate; see `Optimization`.

    Notes
    -----
    Source: Conditional Monge Gap (arXiv 2504.08328; Nature Machine Intelligence 8, 984-996, 2026). Deviations, all of
    them options: the two-batch loss, the start, the gate, several conditions a step, averaged weights.
    """

    space: AbstractSpace
    encoder: AbstractEncoder
    start: ConditionalStart = "auto"
    judge: Judge = "conditions"
    fit_loss: FitLoss = "two_batch"
    cost: Cost = "euclidean"
    gap_cost: Cost = "euclidean"
    epsilon: Annotated[float, Field(gt=0)] = 0.1
    gap_epsilon: Annotated[float, Field(gt=0)] = 0.001
    relative: bool = True
    gap_weight: Annotated[float, Field(ge=0)] = 1.0
    conditioning: Conditioning = "gated"
    pooling: Pooling = "mean"
    separate: bool = False
    rank: Annotated[int, Field(ge=1)] = 4
    hidden: Widths = (64, 64, 64, 64)
    embedding: Annotated[int, Field(ge=1)] = 50
    optimization: Optimization = Optimization()

    @classmethod
    def reference(cls, space: AbstractSpace, encoder: AbstractEncoder) -> "ConditionalMonge":
        """Return the published model: its network, loss, epsilons and optimizer.

        Identity start, one dense layer a kind of condition vector, loss of one batch, Euclidean cost, epsilons 1.0 and
        0.01, 10,000 steps of 512 cells, AdamW at 1e-4 without clipping or averaging. Deviations: the readout starts
        near zero, batches are drawn without replacement, and of the states that are validated the best is kept.

        Parameters
        ----------
        space, encoder
            Published: an autoencoder of 50 dimensions; a descriptor and the logarithm of the dose.

        Notes
        -----
        Source: Conditional Monge Gap (arXiv 2504.08328), methods and code.
        """
        return cls(
            space=space,
            encoder=encoder,
            start="identity",
            judge="cells",
            fit_loss="same_batch",
            epsilon=1.0,
            gap_epsilon=0.01,
            relative=False,
            conditioning="concat",
            separate=True,
            optimization=Optimization(
                loop=Loop(n_steps=10_000), batch_size=512, learning_rate=1e-4, weight_decay=1e-5, clip=None, ema=0.0
            ),
        )

    def fit(
        self, split: Split, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> "FittedConditionalMonge":
        """Return the map fitted on a split's training cells.

        Parameters
        ----------
        split
            Which cells to train on, validate on, and never look at.
        key
            Random key of the whole fit.
        folder
            Where to keep checkpoints and the log; a run that was stopped there is resumed, bit for bit. A second
            training is kept in ``again`` below it.
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
    ) -> "FittedConditionalMonge":
        """Return the map fitted on encoded cells; see `fit`."""
        split = codes.split
        key_net, key_run = jr.split(key)
        start = start_of(codes, self.start)
        net = self._network(codes, key_net)
        trial = trial_of(codes, start) if self.judge == "conditions" else None
        held = () if trial else validation_conditions(codes)
        valid = training_problem(codes, held, Role.VALID, start, most=VALID_CELLS) if held else None
        problem = training_problem(codes, split.train_conditions, Role.TRAIN, start)
        train = partial(_train, self, net, self.objective(codes), key=key, key_run=key_run, progress=progress)
        place = None if folder is None else Path(folder)
        if trial is None:
            result = first = train(problem, valid, place)
            history, judged_on = tuple(result.history), _judged_on(split, held)
        else:
            result = first = train(trial.problem, trial.valid, place, title=f"without {trial.left_out} conditions")
            judged_on = f"{trial.left_out} training conditions that a first training left out"
            if result.best_step > 0 and result.stopped != "interrupted":
                place = None if place is None else place / "again"
                result = train(problem, None, place, n_steps=result.best_step, title="with all conditions")
            history = _with_left_out(result.history, first.history)
        fitted = FittedConditionalMonge(
            "conditional Monge",
            codes.space,
            codes.encoder,
            vocabulary_of(codes),
            (),
            start,
            result.best.average,
            history,
            result.best_step,
            result.stopped,
            judged_on,
            None,
        )
        learned = training_gap(first.history, first.best_step, judged_on)
        return dataclasses.replace(fitted, measured_gaps=(*map_gaps(fitted, codes), *start_gap(start), *learned))

    def _network(self, codes: Codes, key: PRNGKeyArray) -> PerturbationNet:
        def initialized(key: PRNGKeyArray) -> PerturbationNet:
            return PerturbationNet(
                codes.space.dim,
                codes.encoder.dim,
                codes.encoder.context_dim,
                hidden=self.hidden,
                embedding=self.embedding,
                conditioning=self.conditioning,
                pooling=self.pooling,
                parts=[len(block.columns) for block in codes.encoder.blocks] if self.separate else None,
                rank=self.rank,
                key=key,
            )

        # One compiled program instead of one for the shape of every layer.
        return eqx.filter_jit(initialized)(key)

    def objective(self, codes: Codes) -> Objective:
        """Return the objective with absolute epsilons for the cells at hand."""
        unit = typical_cost(codes, self.cost) if self.relative else 1.0
        gap_unit = typical_cost(codes, self.gap_cost) if self.relative else 1.0
        return Objective(
            self.fit_loss, self.cost, self.epsilon * unit, self.gap_cost, self.gap_epsilon * gap_unit, self.gap_weight
        )


@storable
class FittedConditionalMonge(AbstractMap):
    """See `ConditionalMonge`.

    Parameters
    ----------
    start
        The closed form that the network starts from, with the table of what was compared.
    history
        One row a chunk of training: step, loss, fit, gap, valid (see `cellgap.train.FitResult`); ``left_out``
        in place of ``valid`` where a first training was judged on conditions that it left out, for all its steps.
    best_step
        Step of the weights that are kept (0: the start).
    stopped
        How training ended.
    judged_on
        What the step was chosen by; "" where every step was taken.
    only
        The treatments, as text, that a map of a single condition was fitted for; None where it takes any that the
        encoder encodes.
    """

    name: str
    space: AbstractFittedSpace
    encoder: FittedEncoder
    vocabulary: Vocabulary
    measured_gaps: tuple[Gap, ...]
    start: StartMap
    net: PerturbationNet
    history: tuple[dict[str, Any], ...]
    best_step: int
    stopped: str
    judged_on: str
    only: str | None

    @property
    def chosen(self) -> str:
        """Name of the closed form that answers for conditions that were not trained on."""
        return self.start.unseen.name

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return the mapped cells; see `AbstractMap.transport`."""
        asked = treatments_of(condition)
        if self.only is not None and not condition.is_control and asked != self.only:
            raise ConditionError(
                f"this map was fitted for {self.only} alone and has no answer for {asked}: take ConditionalMonge."
            )
        encoded = self.encoder.encode_many([condition])
        known = self.start.known(self.vocabulary)
        shift, linear = self.start.at(condition, condition_features(self.encoder, condition), known)
        moved = _transport(
            self.net,
            jnp.asarray(z),
            jnp.asarray(encoded.entities[0]),
            jnp.asarray(encoded.mask[0]),
            jnp.asarray(encoded.context[0]),
            (self.start.center, shift, linear),
        )
        return np.asarray(moved)


def _train(
    model: ConditionalMonge,
    net: PerturbationNet,
    settings: Objective,
    problem: Problem,
    valid: Problem | None,
    folder: Path | None,
    *,
    key: PRNGKeyArray,
    key_run: PRNGKeyArray,
    progress: bool,
    n_steps: int | None = None,
    title: str = "conditional Monge map",
) -> FitResult[MapState]:
    return train_map(
        net,
        problem,
        valid,
        settings,
        model.optimization,
        key=key_run,
        n_steps=n_steps,
        folder=folder,
        fingerprint="" if folder is None else run_fingerprint(repr(model), problem, valid, n_steps, key),
        progress=progress,
        title=title,
    )


def _with_left_out(rows: list[dict[str, float]], first: list[dict[str, float]]) -> tuple[dict[str, float], ...]:
    """Return the rows of a training, with what the first one was judged by as ``left_out``."""
    merged = {row["step"]: {name: value for name, value in row.items() if name != "valid"} for row in rows}
    for row in first:
        if "valid" in row:
            merged.setdefault(row["step"], {"step": row["step"]})["left_out"] = row["valid"]
    return tuple(merged[step] for step in sorted(merged))


def _judged_on(split: Split, held: tuple[Condition, ...]) -> str:
    if not held:
        return ""
    if split.valid_conditions:
        return f"{len(held)} validation conditions"
    return f"held-out cells of {len(held)} training conditions"


def treatments_of(condition: Condition) -> str:
    """Return the treatments of a condition as text, whatever its context."""
    return " + ".join(str(treatment) for treatment in condition.treatments)


@eqx.filter_jit
def _transport(net, z, entities, mask, context, start):
    return affine(z, *start) + (net(z, entities, mask, context) - z)
