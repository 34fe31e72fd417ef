"""Several fits of one model: their mean predicts, their disagreement says how far to trust it."""

import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Any, Literal

import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray
from pydantic import Field, field_validator

from cellgap.encode import FittedEncoder
from cellgap.errors import ConditionError, ConfigError, SplitError
from cellgap.gap import Gap
from cellgap.settings import settings
from cellgap.space import AbstractFittedSpace
from cellgap.storage import storable
from cellgap.study import Condition, Role, Split
from cellgap.transport._affine import condition_features
from cellgap.transport._calibration import Calibration, Uncertainty, spread_of
from cellgap.transport._codes import Codes
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._map import AbstractMap, vocabulary_of
from cellgap.transport._ridge import groups_of

_LEFT_OUT_OF = 2
"""Members that have not seen a group of conditions: the fewest that have a spread."""
_CONTROLS = 256
_FEWEST = 5


@settings
class Ensemble:
    """Several fits of one model, as one map with an uncertainty.

    Parameters
    ----------
    model
        The estimator that every member is a fit of; its space and encoder are fitted once.
    n_members
        Number of fits.
    resample
        ``"treatments"``: every member leaves some treatments out, in turn, so that each treatment is unknown to exactly
        two members; these two say how far an unseen treatment may be off, without any data set aside. ``"seeds"``: all
        members see everything and differ in their random key only (no spread in closed-form models).
    coverage
        Share of unseen conditions that `FittedEnsemble.uncertainty` should bound.

    Notes
    -----
    The bound is calibrated on the split's validation conditions where there are at least five, else on the training
    conditions that members left out (``"treatments"`` only); else there is none. Sources: deep ensembles
    (Lakshminarayanan et al. 2017), out-of-bag errors (Breiman 1996), conformal prediction (`Calibration`).
    """

    model: Any
    n_members: Annotated[int, Field(ge=2)] = 6
    resample: Literal["treatments", "seeds"] = "treatments"
    coverage: Annotated[float, Field(gt=0, lt=1)] = 0.9

    @field_validator("model")
    @classmethod
    def _an_estimator(cls, value: Any) -> Any:
        if isinstance(value, Ensemble) or not hasattr(value, "fit_codes"):
            raise ConfigError(f"Ensemble(model=...) takes an estimator of a map, found {value!r}.")
        return value

    def fit(
        self, split: Split, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> "FittedEnsemble":
        """Return the members fitted on a split's training cells.

        Parameters
        ----------
        split, key, progress
            As in `ConditionalMonge.fit`.
        folder
            Where members keep their checkpoints, each in a folder of its own; a run that was stopped is resumed.

        Raises
        ------
        SplitError
            The split leaves fewer than two treatments to train on, or leaks.
        """
        codes = Codes.of(split, self.model.space, self.model.encoder, progress=progress)
        return self.fit_codes(codes, key=key, folder=folder, progress=progress)

    def fit_codes(
        self, codes: Codes, *, key: PRNGKeyArray, folder: str | Path | None = None, progress: bool = False
    ) -> "FittedEnsemble":
        """Return the members fitted on encoded cells; see `fit`."""
        left_out = self._left_out(codes.split)
        members = []
        for i, (positions, one) in enumerate(zip(left_out, jr.split(key, self.n_members), strict=True)):
            options: dict[str, Any] = {"key": one}
            if "folder" in inspect.signature(self.model.fit_codes).parameters:
                options |= {"folder": None if folder is None else Path(folder) / f"member{i}", "progress": progress}
            members.append(self.model.fit_codes(_without(codes, positions), **options))
            if getattr(members[-1], "stopped", "") == "interrupted":
                break
        names = [tuple(repr(codes.split.train_conditions[j]) for j in positions) for positions in left_out]
        fitted = FittedEnsemble(
            f"ensemble of {members[0].name}",
            codes.space,
            codes.encoder,
            vocabulary_of(codes),
            members[0].gaps(),
            tuple(members),
            tuple(names[: len(members)]),
            _some_controls(codes),
            None,
            getattr(members[-1], "stopped", "finished"),
        )
        if len(members) < self.n_members:
            return fitted
        return dataclasses.replace(fitted, calibration=self._calibration(fitted, codes))

    def _left_out(self, split: Split) -> list[np.ndarray]:
        """Return the positions of the training conditions that each member leaves out."""
        if self.resample == "seeds":
            return [np.zeros(0, int)] * self.n_members
        groups = groups_of(split.train_conditions)
        distinct = np.unique(groups)
        if len(distinct) < self.n_members:
            raise SplitError(
                f'Ensemble(resample="treatments") with {self.n_members} members needs as many groups of training '
                f'conditions, found {len(distinct)}: use fewer members, or resample="seeds".'
            )
        # Consecutive pairs of members: as balanced as can be, and no two members leave out the same.
        return [
            np.flatnonzero(np.isin(groups, [g for g in distinct if (m - g) % self.n_members < _LEFT_OUT_OF]))
            for m in range(self.n_members)
        ]

    def _calibration(self, fitted: "FittedEnsemble", codes: Codes) -> Calibration | None:
        split = codes.split
        whole = [c for c in split.valid_conditions if len(codes.rows(c, Role.VALID)) >= 2]
        if len(whole) >= _FEWEST:
            asked, role, held_out = whole, Role.VALID, "validation conditions"
        elif self.resample == "treatments":
            asked, role = list(split.train_conditions), Role.TRAIN
            held_out = "training conditions left out of the members"
        else:
            return None
        kept, spreads, errors = [], [], []
        for condition in asked:
            try:
                effects = fitted.effects(condition, unseen_only=True)
            except ConditionError:
                continue
            control = codes.cells(condition.control, Role.TRAIN).mean(0, dtype=np.float64)
            measured = codes.cells(condition, role).mean(0, dtype=np.float64) - control
            kept.append(str(condition))
            spreads.append(spread_of(effects))
            errors.append(float(np.linalg.norm(effects.mean(0) - measured)))
        if len(kept) < _FEWEST:
            return None
        return Calibration(tuple(kept), np.asarray(spreads), np.asarray(errors), self.coverage, held_out)


@storable
class FittedEnsemble(AbstractMap):
    """See `Ensemble`.

    Parameters
    ----------
    members
        The fitted maps, in one space.
    left_out
        Training conditions that each member has not seen, as keyed text.
    controls
        Codes of some training controls of every context, by its keyed text: what mean effects are taken on.
    calibration
        What bounds the error; None where nothing could calibrate it.
    stopped
        How training ended.
    """

    name: str
    space: AbstractFittedSpace
    encoder: FittedEncoder
    vocabulary: Vocabulary
    measured_gaps: tuple[Gap, ...]
    members: tuple[AbstractMap, ...]
    left_out: tuple[tuple[str, ...], ...]
    controls: dict[str, np.ndarray]
    calibration: Calibration | None
    stopped: str

    def transport(self, z: np.ndarray, condition: Condition) -> np.ndarray:
        """Return the mean over members of where cells go; see `AbstractMap.transport`."""
        moved = [np.asarray(member.transport(z, condition), np.float64) for member in self.members]
        return np.mean(moved, axis=0).astype(np.float32)

    def effects(
        self, condition: Condition | str, cells: np.ndarray | None = None, *, unseen_only: bool = False
    ) -> np.ndarray:
        """Return the mean effect of a condition as each member predicts it, (members, d).

        Parameters
        ----------
        condition
            A condition, or its text.
        cells
            Codes of control cells, (cells, d); by default training controls of the context.
        unseen_only
            Leave out the members that were trained on the condition.

        Raises
        ------
        ConditionError
            The members have no answer, there are no controls of the context, or fewer than two members are left.
        """
        condition = self.vocabulary.resolve(condition)
        if cells is None:
            if repr(condition.control) not in self.controls:
                raise ConditionError(f"no control cells of {str(condition)!r} were trained on: give their codes.")
            cells = self.controls[repr(condition.control)]
        text, known = repr(condition), set(self.vocabulary.conditions)
        chosen = [
            member
            for member, left_out in zip(self.members, self.left_out, strict=True)
            if not unseen_only or text not in known or text in left_out
        ]
        if len(chosen) < 2:
            raise ConditionError(f"fewer than two members have not seen {str(condition)!r}.")
        start = np.asarray(cells, np.float64).mean(0)
        moved = [np.asarray(one.transport(cells, condition), np.float64).mean(0) for one in chosen]
        return np.stack(moved) - start

    def uncertainty(self, condition: Condition | str, cells: np.ndarray | None = None) -> Uncertainty:
        """Return how far the predicted mean effect of a condition may be off.

        Parameters
        ----------
        condition, cells
            As in `effects`.

        Raises
        ------
        ConditionError
            As in `effects`.
        """
        condition = self.vocabulary.resolve(condition)
        effects = self.effects(condition, cells)
        spread, calibration = spread_of(effects), self.calibration
        reasons = self.vocabulary.nearness(
            condition, condition_features(self.encoder, condition), self.encoder.extrapolation(condition)
        ).extrapolates
        return Uncertainty(
            float(np.linalg.norm(effects.mean(0))),
            spread,
            float("nan") if calibration is None else calibration.bound(spread),
            float("nan") if calibration is None else calibration.attained,
            reasons,
        )


def _without(codes: Codes, positions: np.ndarray) -> Codes:
    """Return codes whose split neither trains nor validates on some of its training conditions."""
    split = codes.split
    left = {split.train_conditions[i] for i in positions}
    if not left:
        return codes
    roles = split.roles.copy()
    for condition in left:
        roles[split.rows(condition, Role.TRAIN, Role.VALID)] = Role.UNUSED
    kept = tuple(c for c in split.train_conditions if c not in left)
    return dataclasses.replace(codes, split=dataclasses.replace(split, roles=roles, train_conditions=kept))


def _some_controls(codes: Codes) -> dict[str, np.ndarray]:
    controls = {}
    for control in dict.fromkeys(c.control for c in codes.split.train_conditions):
        cells = codes.cells(control, Role.TRAIN)
        controls[repr(control)] = cells[np.linspace(0, len(cells) - 1, min(len(cells), _CONTROLS)).astype(int)]
    return controls
