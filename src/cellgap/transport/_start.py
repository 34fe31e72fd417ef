"""Where a learnt map starts: the closed form that is best for conditions that nobody measured."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cellgap.errors import ConditionError
from cellgap.storage import storable
from cellgap.study import Condition, Role
from cellgap.transport._affine import Start, condition_features, fit_affine_path
from cellgap.transport._closed_form import ClosedForm, Effects, identity, left_out_together, of_path, paths, rules
from cellgap.transport._codes import Codes
from cellgap.transport._familiarity import Vocabulary
from cellgap.transport._inner_folds import Novelty, inner_folds, novelty_of
from cellgap.transport._shift_rule import Known

ConditionalStart = Literal["auto", "gaussian", "shift", "identity"]
# Distances between all pairs of cells grow with the square: enough to tell rules apart, in seconds for any screen.
_CELLS = 256
_CONDITIONS = 64
# With fewer left-out conditions than this, the noise of a comparison is not known.
_FEWEST = 4
_LEFT_OUT: dict[Novelty, str] = {
    "dose": "doses left out",
    "treatment": "treatments left out",
    "combination": "combinations left out",
    "context": "contexts left out",
}


@storable
class StartMap(eqx.Module):
    """The closed-form map that a network starts from.

    Parameters
    ----------
    seen
        The form for training conditions.
    unseen
        The form for all others; where its rule has no answer, `seen` answers.
    shifts, control_means
        Mean effects and control means of the training conditions, shape (k, d).
    center
        What linear parts act about.
    judged_on
        What the choice was judged on, in words; "" where there was none.
    table
        A row a candidate for unseen conditions: ``candidate``, ``energy`` (mean unbiased energy distance between its
        answers and the measured cells), ``difference`` to the chosen one and its ``standard_error`` over conditions.
    """

    seen: ClosedForm
    unseen: ClosedForm
    shifts: Float[np.ndarray, "k d"]
    control_means: Float[np.ndarray, "k d"]
    center: Float[Array, " d"]
    judged_on: str
    table: tuple[dict[str, Any], ...]

    def known(self, vocabulary: Vocabulary) -> Known:
        """Return the training conditions as `at` takes them."""
        return Known(vocabulary.parsed(), vocabulary.vectors, vocabulary.scale, self.shifts)

    def at(
        self, condition: Condition, features: Float[np.ndarray, " p"], known: Known
    ) -> tuple[Float[Array, " d"], Float[Array, "d d"] | None]:
        """Return shift and linear part for a condition with these features; see `known`."""
        if condition.is_control:
            return jnp.zeros(self.shifts.shape[1]), None
        form = self.seen if condition in known.conditions else self.unseen
        try:
            shift, linear = form.at(condition, features, known, self.control_means)
        except ConditionError:
            shift, linear = self.seen.at(condition, features, known, self.control_means)
        return jnp.asarray(shift, jnp.float32), None if linear is None else jnp.asarray(linear, jnp.float32)


def start_of(codes: Codes, start: ConditionalStart) -> StartMap:
    """Return the start of a map on a split's training conditions.

    ``"auto"`` asks held-out cells which closed form is best: for the training conditions their own held-out cells; for
    others whole conditions, the validation conditions of the split, or else training conditions that are left out in
    the manner of the split (see `inner_folds`). No test cell is read.
    """
    if start != "auto":
        path = fit_affine_path(codes, start)
        form = of_path(_FIXED[start], path)
        shifts, means = (
            np.stack(part) for part in zip(*((m.shift, m.control_mean) for m in codes.moments), strict=True)
        )
        return StartMap(form, form, shifts, means, path.center, "", ())
    effects, novelty = Effects.of(codes), novelty_of(codes.split)
    groups = left_out_together(effects.conditions, novelty)
    measured = paths(effects, groups)
    default = next((f for f in measured if f.name == "Gaussian path"), measured[0])
    center = jnp.asarray(effects.center, jnp.float32)

    own = list(_judged([identity(), *measured], effects, _own_cells(codes, effects)))
    seen = _preferred([identity(), *measured], own, default)
    shape = next((f.path for f in measured if f.name == "smooth Gaussian"), None)
    candidates = [identity(), *rules(effects, shape), *measured]
    if novelty == "nothing" and not codes.split.valid_conditions:
        candidates, found, unseen = [identity(), *measured], own, seen
        judged_on = f"held-out cells of {len(own)} training conditions" if own else ""
    else:
        found = list(_judged(candidates, effects, _validation_cells(codes)))
        judged_on = f"{len(found)} validation conditions"
        if not found:
            folds = inner_folds(codes.split)
            found = list(_left_out(codes, effects, novelty, folds))
            judged_on = f"{len(found)} training conditions, {_LEFT_OUT.get(novelty, '')} in turn ({len(folds)} fits)"
        unseen = _preferred(candidates, found, default)
        judged_on = judged_on if found else ""
    return StartMap(seen, unseen, effects.shifts, effects.control_means, center, judged_on, _table(found, unseen.name))


_FIXED: dict[Start, str] = {"gaussian": "Gaussian path", "shift": "shift path", "identity": "identity"}


class _Held(NamedTuple):
    """A measured condition to predict: its cells, and its controls."""

    condition: Condition
    features: np.ndarray
    x: np.ndarray
    y: np.ndarray


def _held(codes: Codes, conditions: Sequence[Condition], *roles: Role) -> list[_Held]:
    """Return the conditions with two cells or more on both sides; evenly spaced where there are many."""

    def cells(condition: Condition) -> np.ndarray:
        rows = codes.rows(condition, *roles)
        if len(rows) > _CELLS:
            rows = rows[np.linspace(0, len(rows) - 1, _CELLS).astype(int)]
        return codes.z[rows].astype(np.float64)

    found = [c for c in conditions if codes.encoder.can_encode(c)]
    if len(found) > _CONDITIONS:
        found = [found[i] for i in np.linspace(0, len(found) - 1, _CONDITIONS).astype(int)]
    held = [_Held(c, condition_features(codes.encoder, c), cells(c.control), cells(c)) for c in found]
    return [h for h in held if len(h.x) > 1 and len(h.y) > 1]


def _own_cells(codes: Codes, effects: Effects) -> list[_Held]:
    return _held(codes, effects.conditions, Role.VALID)


def _validation_cells(codes: Codes) -> list[_Held]:
    return _held(codes, codes.split.valid_conditions, Role.VALID)


def _left_out(
    codes: Codes, effects: Effects, novelty: Novelty, folds: Sequence[np.ndarray]
) -> Iterator[dict[str, float]]:
    """Yield the energies of every candidate for every training condition that is left out."""
    # Few of many conditions are judged, and all of a fold are left out of its fit.
    asked = sorted({int(i) for fold in folds for i in fold})
    if len(asked) > _CONDITIONS:
        asked = [asked[i] for i in np.linspace(0, len(asked) - 1, _CONDITIONS).astype(int)]
    for fold in folds:
        held = _held(codes, [effects.conditions[i] for i in fold if i in asked], Role.TRAIN, Role.VALID)
        if not held:
            continue
        others = effects.without(fold)
        measured = paths(others, left_out_together(others.conditions, novelty))
        shape = next((f.path for f in measured if f.name == "smooth Gaussian"), None)
        yield from _judged([identity(), *rules(others, shape), *measured], others, held)


def _judged(forms: Sequence[ClosedForm], effects: Effects, held: Sequence[_Held]) -> Iterator[dict[str, float]]:
    """Yield for every held condition the energy distance of every form that has an answer, by name."""
    known = effects.known
    for condition, features, x, y in held:
        apart = _within(y)
        spread: dict[int, tuple[np.ndarray, float]] = {}
        energies = {}
        for form in forms:
            try:
                shift, linear = form.at(condition, features, known, effects.control_means)
            except ConditionError:
                continue
            # A shift moves no cell relative to another, and rules share their linear part.
            key = id(form.shape or form.path) if linear is not None else 0
            if key not in spread:
                moved = x if linear is None else x + (x - effects.center) @ linear
                spread[key] = (moved, _within(moved))
            moved, within = spread[key]
            energies[form.name] = 2.0 * _between(moved + shift, y) - within - apart
        yield energies


def _between(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean distance of all pairs of a cell of `a` and one of `b`."""
    middle = b.mean(0)
    a, b = (a - middle).astype(np.float32), (b - middle).astype(np.float32)
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2.0 * (a @ b.T)
    return float(np.sqrt(np.maximum(squared, 0.0)).mean(dtype=np.float64))


def _within(a: np.ndarray) -> float:
    """Return the mean distance of two different cells."""
    middle = a.mean(0)
    cells = (a - middle).astype(np.float32)
    squared = (cells * cells).sum(1)[:, None] + (cells * cells).sum(1)[None] - 2.0 * (cells @ cells.T)
    # Rounding leaves a cell apart from itself.
    np.fill_diagonal(squared, 0.0)
    n = len(a)
    return float(np.sqrt(np.maximum(squared, 0.0)).sum(dtype=np.float64) / (n * (n - 1)))


def _means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean energy of every candidate that answers for every condition."""
    names = [name for name in found[0] if all(name in energies for energies in found)]
    return {name: float(np.mean([energies[name] for energies in found])) for name in names}


def _preferred(forms: Sequence[ClosedForm], found: Sequence[dict[str, float]], default: ClosedForm) -> ClosedForm:
    """Return the form with the lowest mean among those that are better than the default by more than noise.

    Noise is the standard error of the paired difference over conditions; it is unknown where there are few. Of equal
    forms the first (simplest) is taken.
    """
    if len(found) < _FEWEST:
        return default
    means = _means(found)
    better = {default.name: means[default.name]}
    for name, mean in means.items():
        gain = np.asarray([energies[default.name] - energies[name] for energies in found])
        if gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)):
            better[name] = mean
    least = min(better.values())
    return next(f for f in forms if f.name in better and better[f.name] <= least + 1e-6 * abs(least))


def _table(found: Sequence[dict[str, float]], chosen: str) -> tuple[dict[str, Any], ...]:
    if not found:
        return ()
    rows = []
    for name, mean in sorted(_means(found).items(), key=lambda item: item[1]):
        difference = np.asarray([energies[name] - energies[chosen] for energies in found])
        error = float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else None
        rows.append(
            {"candidate": name, "energy": mean, "difference": float(difference.mean()), "standard_error": error}
        )
    return tuple(rows)
