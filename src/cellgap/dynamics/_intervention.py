"""Interventions: variables that are held, production that is dosed, edges that are cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Array, Float

from cellgap import storage
from cellgap.dynamics._law import Acting, Units
from cellgap.dynamics._solve import Solver, solve
from cellgap.errors import ConditionError, ConvergenceError, DataError
from cellgap.nn import SharedNet
from cellgap.study import Condition

if TYPE_CHECKING:
    from cellgap.dynamics._fitted_law import FittedLaw

_REACHED = 0.1
_BLOCK = 2**24


class Held(NamedTuple):
    """Where variables are held (0 in `moving`), and at which level, in standardized units; one row."""

    moving: np.ndarray
    level: np.ndarray


@dataclass(frozen=True)
class Intervention:
    """What is done to a system.

    Parameters
    ----------
    hold
        Variables that are held at a value (in the units of the data) for all times: 0 is a knock-out, a high value an
        over-expression.
    dose
        Factors on the production of variables: 0.5 halves it. Needs a law with decay.
    cut
        Edges that are removed, (regulator, target); ``"*"`` for a target cuts all edges from a regulator.
    """

    hold: Mapping[str, float] = field(default_factory=dict)
    dose: Mapping[str, float] = field(default_factory=dict)
    cut: Sequence[tuple[str, str]] = ()

    @classmethod
    def of(cls, condition: Condition, *, level: float = 0.0) -> "Intervention":
        """Return the knock-out (or over-expression) that a condition describes: its treatments are named after genes.

        Parameters
        ----------
        condition
            Its doses are refused: a knock-out has none.
        level
            At which the genes are held.

        Raises
        ------
        ConditionError
            A treatment has a dose.
        """
        dosed = [t for t in condition.treatments if t.dose is not None]
        if dosed:
            raise ConditionError(f"{dosed[0]} has a dose, and a knock-out has none: give Intervention(dose=...).")
        return cls(hold={t.name: level for t in condition.treatments})

    def acting(self, variables: Sequence[str], units: Units, n: int) -> tuple[Acting, Held | None]:
        """Return what it does to `n` courses, and what is held.

        Raises
        ------
        DataError
            A variable is unknown, or a number is not finite.
        """
        place = _places(variables, [*self.hold, *self.dose])
        if not np.isfinite([*self.hold.values(), *self.dose.values()]).all():
            raise DataError("an intervention holds and doses by finite numbers.")
        if any(factor < 0 for factor in self.dose.values()):
            raise DataError("a dose is a factor of 0 or more on production.")
        moving = dose = held = None
        if self.hold:
            still = np.ones(len(variables), np.float32)
            level = np.zeros(len(variables), np.float32)
            for name, value in self.hold.items():
                i = place[name]
                still[i], level[i] = 0.0, (value - units.center[i]) / units.spread[i]
            held = Held(still[None], level[None])
            moving = jnp.asarray(np.tile(still, (n, 1)))
        if self.dose:
            factor = np.ones(len(variables), np.float32)
            for name, value in self.dose.items():
                factor[place[name]] = value
            dose = jnp.asarray(np.tile(factor, (n, 1)))
        return Acting(moving, dose), held

    def cut_from(self, law: "FittedLaw") -> Float[Array, "m d s"]:
        """Return which edges of a law there may be, without those that are cut.

        Raises
        ------
        DataError
            A variable is unknown or cut from itself, or the law has no edges of its own to cut.
        """
        if not self.cut:
            return law.allowed
        d, order = len(law.variables), law.law.order
        shared = isinstance(law.law.net, SharedNet)
        place = _places(law.variables, [name for edge in self.cut for name in edge if name != "*"])
        kept = np.ones((d, law.allowed.shape[2]), np.float32)
        for regulator, target in self.cut:
            if regulator == target:
                raise DataError(f"{regulator} cannot be cut from itself: what a variable does to itself is no edge.")
            if shared and target != "*":
                raise DataError(
                    f'a shared network has no edges of its own to cut: cut ("{regulator}", "*"), or fit a law with '
                    'network="per_target".'
                )
            rows = np.arange(d) if target == "*" else np.array([place[target]])
            # In a shared network a source is read by all or by none, itself among them.
            rows = rows if shared else rows[rows != place[regulator]]
            for o in range(order):
                kept[rows, place[regulator] + o * d] = 0.0
        return law.allowed * jnp.asarray(kept)


def knock_out_screen(
    law: "FittedLaw",
    names: Sequence[str],
    starts: tuple[Float[np.ndarray, "n k d"], Float[np.ndarray, "n k"]],
    told: Float[np.ndarray, "n c"],
    times: Float[np.ndarray, " t"],
    value: float,
    solver: Solver | None,
) -> AnnData:
    """Return the change of the mean course for every variable that is held; see `FittedLaw.knock_out`.

    Parameters
    ----------
    law
        Fitted.
    names
        Variables that are held, one after the other.
    starts, told
        States that were seen before the start with their times, and constants, in standardized units.
    times
        Since the start, in the units of the data.
    value
        Of the held variable.
    solver
        See `FittedLaw.follow`.
    """
    d = len(law.variables)
    place = _places(law.variables, names)
    if not len(names) or len(set(names)) < len(names):
        raise DataError("a knock-out screen takes one or more different variables.")
    ascending(times)
    grid = np.r_[0.0, times] / law.units.clock
    method, substeps, tolerance, most = law.steps_between(grid[None], solver)
    # One more course, of a variable that does not exist: nothing is held.
    held = np.r_[[place[name] for name in names], d]
    levels = np.r_[(value - law.units.center) / law.units.spread, 0.0]
    seen, before = starts
    entries = law.members * len(seen) * len(grid) * d
    courses, stiff = _screen(
        law.law, law.allowed, jnp.asarray(seen, jnp.float32), jnp.asarray(before, jnp.float32),
        jnp.asarray(told, jnp.float32),
        jnp.asarray(grid, jnp.float32), jnp.asarray(held), jnp.asarray(levels[held], jnp.float32),
        method, substeps, tolerance, most, max(1, min(len(held), _BLOCK // max(entries, 1))),
    )  # fmt: skip
    wrong = np.flatnonzero(np.asarray(stiff))
    if len(wrong):
        name = "nothing" if wrong[0] == len(names) else names[int(wrong[0])]
        raise ConvergenceError(f"the law has become stiff where {name} is held: take Solver(method='kvaerno5').")
    z = np.asarray(courses, np.float64)[:, 1:]
    change, course = (z[:-1] - z[-1]) * law.units.spread, law.units.outward(z[:-1])
    plain = np.broadcast_to(law.units.outward(z[-1]), course.shape)
    moved = np.abs(z[:-1] - z[-1])
    moved[np.arange(len(names)), :, [place[name] for name in names]] = 0.0
    first = moved.max(2) >= _REACHED
    kept = law.network("groups").kept  # edges are kept by their strength: no derivatives are needed
    table = pd.DataFrame(
        {
            "effect": moved.mean((1, 2)) * d / max(d - 1, 1),
            "reached": (moved.max(1) >= _REACHED).sum(1),
            "direct": [int(kept.loc[name].sum()) for name in names],
            "time_to_effect": [float(times[np.argmax(f)]) if f.any() else float("nan") for f in first],
        },
        index=pd.Index(list(names), name="knocked"),
    ).sort_values("effect", ascending=False)
    t = len(times)
    obs = pd.DataFrame({"knocked": np.repeat(list(names), t), "time": np.tile(times, len(names))})
    obs.index = pd.Index([f"{name}@{time:g}" for name, time in zip(obs["knocked"], obs["time"], strict=True)])
    if obs.index.has_duplicates:
        obs.index = obs.index + np.array([f"#{i}" for i in range(len(obs))])
    out = AnnData(
        X=change.reshape(-1, d).astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(list(law.variables))),
        layers={
            "course": course.reshape(-1, d).astype(np.float32),
            "unperturbed": plain.reshape(-1, d).astype(np.float32),
        },
    )
    out.uns["knocked"] = table
    out.uns["cellgap"] = {"model": law.name, "held_at": float(value), "versions": storage.versions()}
    return out


@eqx.filter_jit
def _screen(law, allowed, seen, before, told, grid, held, levels, method, substeps, tolerance, most, block):
    """Return the mean course of every variable that is held, over starts and members, and which became stiff."""
    n, d = len(seen), allowed.shape[1]
    times = jnp.broadcast_to(grid, (n, len(grid)))

    def member(law, allowed, at, level) -> tuple[Array, Array]:
        own = law.settled(allowed)
        still = (jnp.arange(d) != at).astype(jnp.float32)
        start = own.start(jnp.where(still == 0, level, seen), before)
        if law.order == 2:
            start = start.at[:, d:].multiply(still)
        acting = Acting(jnp.broadcast_to(still, (n, d)))
        found = solve(
            own, start, times, told, method=method, substeps=substeps, tolerance=tolerance, max_steps=most,
            acting=acting,
        )  # fmt: skip
        return jnp.mean(found.states[..., :d], 0), jnp.any(found.stiff)

    def one(now: Any) -> tuple[Array, Array]:
        at, level = now
        course, stiff = jax.vmap(member, in_axes=(0, 0, None, None))(law, allowed, at, level)
        return jnp.mean(course, 0), jnp.any(stiff)

    return jax.lax.map(one, (held, levels), batch_size=block)


def ascending(times: Float[np.ndarray, " t"]) -> None:
    """Refuse times that do not ascend from 0 on."""
    if times.ndim != 1 or not len(times) or not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) < 0).any():
        raise DataError("times ascend from 0 on: they are counted from the start.")


def _places(variables: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    place = {name: i for i, name in enumerate(variables)}
    odd = [name for name in names if name not in place]
    if odd:
        raise DataError(
            f"the law has no variable {odd[0]!r}: there are {len(place)}, such as {', '.join(list(place)[:3])}."
        )
    return place
