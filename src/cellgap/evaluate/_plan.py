"""Which cells are compared: draws without replacement, of one size on both sides of every comparison."""

import zlib
from dataclasses import dataclass

import numpy as np

from cellgap.errors import SplitError
from cellgap.study import Condition, Role, Split


@dataclass(frozen=True, eq=False)
class Plan:
    """The cells of one test condition, in every draw.

    Parameters
    ----------
    condition
        The condition.
    n
        Cells of each population in each draw.
    n_test, n_source, n_reference
        Cells that were there to draw from.
    seeds
        Seed of each draw.
    measured, replicate
        Rows of held-out treated cells, disjoint within a draw; draws x n.
    control
        Rows of REFERENCE controls, draws x n.
    pool
        Rows of SOURCE controls, the same for all conditions of the context.
    source
        Positions in the pool of the cells that predictions start from, draws x n.
    """

    condition: Condition
    n: int
    n_test: int
    n_source: int
    n_reference: int
    seeds: tuple[int, ...]
    measured: np.ndarray
    replicate: np.ndarray
    control: np.ndarray
    pool: np.ndarray
    source: np.ndarray


def generator(seed: int, *labels: str) -> np.random.Generator:
    """Return a generator that depends on the seed and the labels only, so that conditions do not disturb each other."""
    return np.random.default_rng([seed, *(zlib.crc32(label.encode()) for label in labels)])


def sizes(split: Split, condition: Condition) -> tuple[int, int, int]:
    """Return the numbers of test cells, SOURCE controls and REFERENCE controls of a condition."""
    control = condition.control
    return (
        len(split.rows(condition, Role.TEST)),
        len(split.rows(control, Role.SOURCE)),
        len(split.rows(control, Role.REFERENCE)),
    )


def draw_size(split: Split, condition: Condition, n_cells: int) -> int:
    """Return ``min(n_cells, n_test // 2, n_source, n_reference)``: one size for both sides and the replicate."""
    n_test, n_source, n_reference = sizes(split, condition)
    return min(n_cells, n_test // 2, n_source, n_reference)


def source_pool(split: Split, control: Condition, size: int, seed: int) -> np.ndarray:
    """Return at most `size` SOURCE controls of a context, the same for all its conditions.

    All conditions of a context are predicted from one pool, so that a compiled map sees one shape.
    """
    rows = split.rows(control, Role.SOURCE)
    return generator(seed, repr(control), "source").permutation(rows)[:size]


def make_plan(split: Split, condition: Condition, *, n: int, pool: np.ndarray, seeds: tuple[int, ...]) -> Plan:
    """Return the draws of one condition.

    Parameters
    ----------
    split
        The split.
    condition
        One of its test conditions.
    n
        Cells a population; see `draw_size`.
    pool
        SOURCE controls of the context; see `source_pool`.
    seeds
        One a draw.
    """
    test = split.rows(condition, Role.TEST)
    reference = split.rows(condition.control, Role.REFERENCE)
    measured, replicate, control, source = [], [], [], []
    for seed in seeds:
        rng = generator(seed, repr(condition))
        order = rng.permutation(test)
        measured.append(order[:n])
        replicate.append(order[n : 2 * n])
        control.append(rng.permutation(reference)[:n])
        source.append(rng.permutation(len(pool))[:n])
    n_test, n_source, n_reference = sizes(split, condition)
    return Plan(
        condition=condition,
        n=n,
        n_test=n_test,
        n_source=n_source,
        n_reference=n_reference,
        seeds=seeds,
        measured=np.asarray(measured),
        replicate=np.asarray(replicate),
        control=np.asarray(control),
        pool=pool,
        source=np.asarray(source),
    )


def make_plans(split: Split, *, n_cells: int, seeds: tuple[int, ...]) -> tuple[list[Plan], dict[str, str]]:
    """Return the draws of every condition that can be scored, and the reason for each that cannot.

    Parameters
    ----------
    split
        The split.
    n_cells
        Most cells of each population.
    seeds
        One a draw.

    Raises
    ------
    SplitError
        No condition can be scored.
    """
    reasons = split.params.get("unscored", {})
    unscored = {str(c): str(reasons[repr(c)]) for c in split.test_conditions if repr(c) in reasons}
    wanted = {c: draw_size(split, c, n_cells) for c in split.scored_conditions}
    for condition, n in list(wanted.items()):
        if n < 1:
            unscored[str(condition)] = f"{sizes(split, condition)[0]} test cells: none are left for a replicate"
            del wanted[condition]
    if not wanted:
        raise SplitError(f"no held-out condition can be scored: {'; '.join(map(': '.join, unscored.items()))}.")
    largest: dict[Condition, int] = {}
    for condition, n in wanted.items():
        largest[condition.control] = max(n, largest.get(condition.control, 0))
    pools = {control: source_pool(split, control, n * len(seeds), seeds[0]) for control, n in largest.items()}
    plans = [make_plan(split, c, n=n, pool=pools[c.control], seeds=seeds) for c, n in wanted.items()]
    return plans, unscored
