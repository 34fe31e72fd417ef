"""Known laws: what drives what is written down, so that a learnt law can be judged by more than its forecast."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from cellgap.dynamics._trajectories import Trajectories, trajectories_of
from cellgap.errors import ConditionError, ConfigError, ConvergenceError, DataError

Starts = Literal["in", "out"]
Field = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n d"]]

SUBSTEPS = 40
"""Steps of Runge-Kutta between two times."""


@dataclass(frozen=True, eq=False)
class System:
    """A known law ``dx/dt = rhs(x)``, its network, and where its trajectories start.

    Made by `lorenz96`, `rossler`, `sparse_linear`, `second_order`, `hill_network` or `hill_from`.

    Parameters
    ----------
    name
        Of the law.
    rhs
        Derivatives of states, both (n, states).
    adjacency
        What enters what, (regulator, target), without self edges; of the law before any knock-out.
    variables
        Names of the variables that are seen. A law of second order has their velocities as further states, unseen.
    draw
        Starts, (n, states), from a generator: of the distribution to learn from, or outside it.
    order
        1, or 2 where the state is the variables and then their velocities.
    signs
        +1 where the regulator raises the derivative, -1 where it lowers it, (regulator, target); None where that
        depends on the state.
    burn_in
        Number of points that `simulate` leaves out before the first time, for starts inside the distribution.
    held
        Numbers of the variables that are held at 0.
    """

    name: str
    rhs: Field
    adjacency: Bool[np.ndarray, "d d"]
    variables: tuple[str, ...]
    draw: Callable[[np.random.Generator, int, Starts], Float[np.ndarray, "n s"]]
    order: int = 1
    signs: Int[np.ndarray, "d d"] | None = None
    burn_in: int = 0
    held: tuple[int, ...] = ()

    def __repr__(self) -> str:
        held = f", {', '.join(self.variables[g] for g in self.held)} held at 0" if self.held else ""
        return f"System({self.name}: {self.dim} variables, {int(self.adjacency.sum())} edges{held})"

    @property
    def dim(self) -> int:
        """Number of variables that are seen."""
        return len(self.variables)

    @property
    def network(self) -> pd.DataFrame:
        """The adjacency with names, regulators in rows."""
        names = pd.Index(list(self.variables))
        return pd.DataFrame(self.adjacency, index=names, columns=names)

    def knock(self, variable: int | str) -> "System":
        """Return the law with a variable held at 0 from the start on.

        Raises
        ------
        ConditionError
            There is no such variable.
        """
        g = self.variables.index(variable) if variable in self.variables else variable
        if not isinstance(g, int | np.integer) or not 0 <= g < self.dim:
            raise ConditionError(f"{self.name} has no variable {variable!r}: there are {', '.join(self.variables)}.")
        rhs, columns = self.rhs, self._columns((int(g),))

        def masked(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
            dx = rhs(x)
            dx[:, columns] = 0.0
            return dx

        return replace(self, rhs=masked, held=tuple(sorted({*self.held, int(g)})))

    def solve(
        self, starts: Float[np.ndarray, "n s"], times: Float[np.ndarray, " t"], *, substeps: int = SUBSTEPS
    ) -> Float[np.ndarray, "n t s"]:
        """Return the states at times, in float64, by the classical Runge-Kutta method of fourth order.

        Parameters
        ----------
        starts
            States at the first time; what is held is set to 0.
        times
            Ascending.
        substeps
            Equal steps between two times.

        Raises
        ------
        ConfigError
            Starts, times or steps cannot be used.
        ConvergenceError
            A state is no longer finite.
        """
        x = np.array(starts, np.float64)
        times = np.asarray(times, np.float64)
        if x.ndim != 2 or x.shape[1] != self.dim * self.order or not np.isfinite(x).all():
            raise ConfigError(f"starts of {self.name} are finite (n, {self.dim * self.order}) states, found {x.shape}.")
        if times.ndim != 1 or len(times) < 1 or not np.isfinite(times).all() or (np.diff(times) < 0).any():
            raise ConfigError("times are one ascending list of finite numbers.")
        if substeps < 1:
            raise ConfigError(f"there is at least 1 step between two times, found substeps={substeps}.")
        x[:, self._columns(self.held)] = 0.0
        path = np.empty((len(x), len(times), x.shape[1]))
        path[:, 0] = x
        with np.errstate(over="ignore", invalid="ignore"):
            for k in range(1, len(times)):
                h = (times[k] - times[k - 1]) / substeps
                for _ in range(substeps):
                    a = self.rhs(x)
                    b = self.rhs(x + 0.5 * h * a)
                    c = self.rhs(x + 0.5 * h * b)
                    d = self.rhs(x + h * c)
                    x = x + (h / 6) * (a + 2 * b + 2 * c + d)
                path[:, k] = x
        if not np.isfinite(path).all():
            first = times[np.argmin(np.isfinite(path).all((0, 2)))]
            raise ConvergenceError(f"{self.name} left the finite numbers by time {first:g}: take more substeps.")
        return path

    def simulate(
        self,
        n: int,
        times: Float[np.ndarray, " t"],
        *,
        seed: int,
        noise: float = 0.0,
        keep: float = 1.0,
        starts: Starts = "in",
        substeps: int = SUBSTEPS,
    ) -> Trajectories:
        """Return simulated trajectories of the variables that are seen.

        The same seed gives the same starts with and without noise, thinning, and knock-outs, so that their courses
        can be compared one by one.

        Parameters
        ----------
        n
            Number of trajectories.
        times
            Of the states. With a burn-in, that many points at the median distance of these times come before.
        seed
            Of the starts, the noise, and what is kept.
        noise
            Standard deviation of the normal noise on every value, those of the start and of what is held included.
        keep
            Share of the states that is kept, at random, in each trajectory; the first one is.
        starts
            Inside (``"in"``) or outside (``"out"``) the distribution to learn from; there is no burn-in outside.
        substeps
            Steps of the solver between two times.

        Raises
        ------
        ConfigError
            A number is out of range.
        ConvergenceError
            A state is no longer finite.
        DataError
            A trajectory keeps fewer than two states.
        """
        times = np.asarray(times, np.float64)
        if n < 1 or noise < 0 or not 0 < keep <= 1 or times.ndim != 1 or len(times) < 2:
            raise ConfigError(
                "a simulation needs n >= 1, two times or more, noise >= 0 and keep in (0, 1]; "
                f"found n={n}, {times.size} times, noise={noise} and keep={keep}."
            )
        if starts not in ("in", "out"):
            raise ConfigError(f'starts are "in" or "out" of the distribution, found {starts!r}.')
        rng = np.random.default_rng(seed)
        # Drawn whether they are used or not: noise and thinning leave the starts as they are.
        noise_seed, keep_seed = (int(s) for s in rng.integers(2**31, size=2))
        x = self.draw(rng, n, starts)
        if self.burn_in and starts == "in":
            before = np.arange(self.burn_in + 1) * np.median(np.diff(times))
            x = self.solve(x, before, substeps=substeps)[:, -1]
        path = self.solve(x, times, substeps=substeps)[:, :, : self.dim]
        held = "+".join(self.variables[g] for g in self.held) or "none"
        about = pd.DataFrame({"system": self.name, "starts": starts, "held": held}, index=pd.RangeIndex(n))
        made = trajectories_of(list(path), times, variables=self.variables, about=about)
        if noise:
            made = made.noisy(noise, seed=noise_seed)
        if keep < 1:
            made = made.thinned(keep, seed=keep_seed)
            if made.lengths.min() < 2:
                raise DataError(f"keep={keep:g} leaves a trajectory with one state: keep more, or give more times.")
        return made

    def _columns(self, variables: Sequence[int]) -> list[int]:
        """Return the states of variables: with their velocities, where there are any."""
        return [g + k * self.dim for k in range(self.order) for g in variables]


def names_of(dim: int, letter: str = "x") -> tuple[str, ...]:
    """Return names of variables: ``x0``, ``x1``, ..."""
    return tuple(f"{letter}{i}" for i in range(dim))


def normal_draw(sd: float, far: float, size: int) -> Callable[[np.random.Generator, int, Starts], np.ndarray]:
    """Return a draw of normal starts, their deviation `sd` inside and `far` outside the distribution."""

    def draw(rng: np.random.Generator, n: int, starts: Starts) -> Float[np.ndarray, "n d"]:
        return rng.normal(0.0, sd if starts == "in" else far, (n, size))

    return draw


def refuse_small(name: str, dim: int, least: int) -> None:
    """Refuse a law of too few variables."""
    if not isinstance(dim, int | np.integer) or dim < least:
        raise ConfigError(f"{name} needs a whole number of at least {least} variables, found dim={dim!r}.")
