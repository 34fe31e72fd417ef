"""The cells of each test condition for figures: control, measured and predicted, made when they are asked for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cellgap.errors import ConditionError
from cellgap.evaluate._predictors import Predictor, decoded
from cellgap.study import Condition, Role, Split

MOST_CELLS = 500


@dataclass(frozen=True, eq=False)
class Population:
    """Cells of one test condition in gene space, at most 500 of each.

    Parameters
    ----------
    condition
        The condition.
    control
        SOURCE controls as measured, (cells, genes).
    measured
        Held-out treated cells as measured, (cells, genes).
    predicted
        By name of the predictor: what becomes of exactly the cells of `control`, (cells, genes). A predictor without
        an answer is absent.
    genes
        Names of the genes.
    """

    condition: Condition
    control: np.ndarray
    measured: np.ndarray
    predicted: Mapping[str, np.ndarray]
    genes: np.ndarray


class Populations(Mapping[Condition, Population]):
    """Populations by test condition. Each is computed when it is looked up; nothing is kept.

    Parameters
    ----------
    split
        The split.
    predictors
        By name.
    conditions
        The scored conditions.
    seed
        Of the choice of cells.
    """

    def __init__(
        self, split: Split, predictors: Mapping[str, Predictor], conditions: tuple[Condition, ...], seed: int
    ) -> None:
        self._split, self._predictors, self._conditions, self._seed = split, dict(predictors), conditions, seed

    def __getitem__(self, condition: Condition | str) -> Population:
        """Return the population of a test condition, given as such or as text."""
        condition = self._split.study.resolve(condition)
        if condition not in self._conditions:
            raise KeyError(condition)
        study = self._split.study
        rng = np.random.default_rng(self._seed)
        source = rng.permutation(self._split.rows(condition.control, Role.SOURCE))[:MOST_CELLS]
        test = rng.permutation(self._split.rows(condition, Role.TEST))[:MOST_CELLS]
        predicted: dict[str, np.ndarray] = {}
        space = next(iter(self._predictors.values())).space
        for name, predictor in self._predictors.items():
            try:
                z = predictor.transport(predictor.space.encode(study.adata, source), condition)
            except ConditionError:
                continue
            predicted[name] = decoded(predictor.space, np.asarray(z))
        return Population(
            condition,
            np.asarray(space.measured(study.values(source))),
            np.asarray(space.measured(study.values(test))),
            predicted,
            np.asarray(space.genes),
        )

    def __iter__(self) -> Iterator[Condition]:
        return iter(self._conditions)

    def __len__(self) -> int:
        return len(self._conditions)
