"""What a forecast may look at: the first states of each trajectory, its times and its labels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from cellgap.dynamics import Trajectories
from cellgap.errors import ConfigError, DataError


def checked_history(history: int) -> int:
    """Return the number of given states; ConfigError where it is none."""
    if not isinstance(history, int | np.integer) or history < 1:
        raise ConfigError(f"a forecast is given at least the first state, found history={history!r}.")
    return int(history)


def last_known(data: Trajectories, history: int) -> Int[np.ndarray, " n"]:
    """Return the number of the last given state of each trajectory."""
    return np.minimum(history, data.lengths) - 1


def within(data: Trajectories, history: int) -> Bool[np.ndarray, "n t"]:
    """Return which entries are given."""
    return np.arange(data.values.shape[1]) <= last_known(data, history)[:, None]


def since_start(data: Trajectories) -> Float[np.ndarray, "n t"]:
    """Return the time from the start of each trajectory."""
    return data.times - data.times[:, :1]


def same_variables(variables: tuple[str, ...], test: Trajectories) -> None:
    """Refuse trajectories of other variables; DataError."""
    if test.variables != variables:
        raise DataError(
            f"trajectories to forecast have other variables ({test.dim}) than the training ones ({len(variables)}), or "
            "another order."
        )


def label_columns(data: Trajectories, by: str | Sequence[str] | None) -> list[str]:
    """Return the names of labels as a list; DataError where trajectories do not have one."""
    columns = [] if by is None else [by] if isinstance(by, str) else list(by)
    for name in columns:
        if name not in data.about:
            known = ", ".join(map(str, data.about.columns)) or "none"
            raise DataError(f"trajectories have no label {name!r}: there are {known}.")
    return columns
