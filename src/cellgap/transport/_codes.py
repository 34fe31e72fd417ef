"""All cells of a split, encoded once, with the moments that closed-form maps are made of."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cellgap.encode import AbstractEncoder, FittedEncoder
from cellgap.errors import SplitError
from cellgap.space import AbstractFittedSpace, AbstractSpace
from cellgap.study import Condition, Role, Split


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of a population and of its matched controls, from training cells.

    Parameters
    ----------
    condition
        Which population.
    mean, cov, n
        Of the treated cells: shape (d,), (d, d), number.
    control_mean, control_cov, n_control
        Of the matched controls.
    """

    condition: Condition
    mean: np.ndarray
    cov: np.ndarray
    n: int
    control_mean: np.ndarray
    control_cov: np.ndarray
    n_control: int

    @property
    def shift(self) -> np.ndarray:
        """Mean effect: mean of treated minus mean of matched control cells, shape (d,)."""
        return self.mean - self.control_mean


@dataclass(frozen=True, eq=False)
class Codes:
    """Cells of a split in a fitted space; every method reads a population from here, none encodes it again.

    Parameters
    ----------
    split
        The division of the study.
    space
        Fitted on the training cells.
    encoder
        Fitted on the training conditions.
    z
        Code of every cell that has a role, shape (n_obs, d), float32; NaN for unused cells.
    """

    split: Split
    space: AbstractFittedSpace
    encoder: FittedEncoder
    z: np.ndarray

    @classmethod
    def of(cls, split: Split, space: AbstractSpace, encoder: AbstractEncoder, *, progress: bool = False) -> "Codes":
        """Return the codes of a split after fitting space and encoder on its training part.

        Parameters
        ----------
        split, space, encoder
            What to fit, and on which cells and conditions.
        progress
            Show on standard error how far a long fit of the space is.

        Raises
        ------
        SplitError
            Held-out cells or conditions could reach training, or nothing is left to train on.
        """
        split.check_leaks()
        if not split.train_conditions:
            raise SplitError("the split has no treated condition to train on: hold out fewer conditions.")
        fitted_encoder = encoder.fit(split)
        fitted_space = space.fit(split, progress=progress)
        used = split.cells(*(role for role in Role if role != Role.UNUSED))
        z = np.full((split.study.n_obs, fitted_space.dim), np.nan, np.float32)
        z[used] = fitted_space.encode(split.study.adata, used)
        codes = cls(split, fitted_space, fitted_encoder, z)
        for condition in split.train_conditions:
            if len(codes.rows(condition.control, Role.TRAIN)) < 2:
                raise SplitError(
                    f"{str(condition)!r} has no matched control cells to train on: "
                    "the split needs training controls in every context with training conditions."
                )
        return codes

    def rows(self, condition: Condition, *roles: Role) -> np.ndarray:
        """Return the row numbers of a population with one of the roles."""
        return self.split.rows(condition, *roles)

    def cells(self, condition: Condition, *roles: Role) -> np.ndarray:
        """Return the codes of a population with one of the roles, shape (cells, d)."""
        return self.z[self.rows(condition, *roles)]

    @cached_property
    def moments(self) -> tuple[Moments, ...]:
        """Moments of every training condition, in the order of ``split.train_conditions``."""
        controls: dict[Condition, tuple[np.ndarray, np.ndarray, int]] = {}
        out = []
        for condition in self.split.train_conditions:
            control = condition.control
            if control not in controls:
                controls[control] = _mean_and_cov(self.cells(control, Role.TRAIN))
            mean, cov, n = _mean_and_cov(self.cells(condition, Role.TRAIN))
            out.append(Moments(condition, mean, cov, n, *controls[control]))
        return tuple(out)


def _mean_and_cov(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    cells = cells.astype(np.float64)
    mean = cells.mean(0)
    centered = cells - mean
    return mean, centered.T @ centered / max(len(cells) - 1, 1), len(cells)
