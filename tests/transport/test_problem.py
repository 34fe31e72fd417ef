"""Batches: disjoint, without replacement, of one size, and padded where populations are small."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from small import FULL, RAW, at, screen, study_of

from cellgap.errors import DataError
from cellgap.nn import PerturbationNet
from cellgap.study import Role, split
from cellgap.transport import Codes
from cellgap.transport._affine import fit_affine_path
from cellgap.transport._problem import (
    Draw,
    Problem,
    draw,
    draw_sources,
    largest_batch,
    largest_gap_batch,
    pair_size,
    rows_table,
)
from cellgap.transport._training_data import training_problem, typical_cost, validation_conditions


def test_populations_of_unequal_size_as_one_table():
    table = rows_table([np.array([5, 7]), np.array([1]), np.array([2, 3, 4])])
    np.testing.assert_array_equal(table.size, [2, 1, 3])
    np.testing.assert_array_equal(table.index, [[5, 7, 0], [1, 0, 0], [2, 3, 4]])


def made(sources: list[int], source_of: list[int], targets: list[int]) -> Problem:
    """Return a problem of populations of these sizes; a cell's only coordinate is its number."""
    starts = np.cumsum([0, *sources, *targets])
    rows = [np.arange(a, b) for a, b in itertools.pairwise(starts)]
    k = len(targets)
    return Problem(
        cells=jnp.arange(starts[-1], dtype=jnp.float32)[:, None],
        sources=rows_table(rows[: len(sources)]),
        source_of=jnp.asarray(source_of, jnp.int32),
        targets=rows_table(rows[len(sources) :]),
        entities=jnp.zeros((k, 1, 2)),
        mask=jnp.ones((k, 1), bool),
        context=jnp.zeros((k, 0)),
        center=jnp.zeros(1),
        shifts=jnp.zeros((k, 1)),
        linears=None,
    )


def members(problem: Problem, k: int) -> tuple[set[int], set[int]]:
    c = int(problem.source_of[k])
    source = np.asarray(problem.sources.index[c][: problem.sources.size[c]])
    return set(source.tolist()), set(np.asarray(problem.targets.index[k][: problem.targets.size[k]]).tolist())


@eqx.filter_jit
def _drawn(problem, k, seeds, n, padded):
    return jax.vmap(lambda seed: draw(problem, k, jr.key(seed), n, padded=padded))(seeds)


def drawn(problem: Problem, k: int, n: int, padded: bool, count: int = 10) -> list[Draw]:
    """Return draws of as many keys."""
    found = jax.tree.map(np.asarray, _drawn(problem, jnp.int32(k), jnp.arange(count), n, padded))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(count)]


def test_large_populations_give_two_disjoint_batches_without_replacement():
    problem = made([40, 25], [1, 0, 0], [30, 15, 200])
    n, padded = largest_batch(problem, 12)
    assert (n, padded) == (12, False)
    for k in range(3):
        source, target = members(problem, k)
        for batch in drawn(problem, k, n, padded):
            x, x2, y = (set(rows.tolist()) for rows in (batch.x, batch.x2, batch.y))
            assert len(x) == len(x2) == len(y) == 12
            assert x | x2 <= source and not x & x2 and y <= target
            assert batch.weights is None
            np.testing.assert_array_equal(problem.sources.index[problem.source_of[k]][batch.slot], batch.x)


def test_small_populations_give_smaller_batches_padded_with_zero_weights():
    # Pairs of batches: of 3 from 6 controls, of 2 (treated cells), of 1 (a pair of controls), of 8 = the batch size.
    problem = made([6, 40, 2], [0, 1, 2, 1], [9, 2, 5, 30])
    n, padded = largest_batch(problem, 8)
    assert (n, padded) == (8, True)
    width = problem.sources.index.shape[1]
    for k, size in enumerate([3, 2, 1, 8]):
        assert int(pair_size(problem, k)) >= size
        source, target = members(problem, k)
        for batch in drawn(problem, k, n, padded):
            assert batch.weights is not None
            np.testing.assert_allclose(batch.weights, [1 / size] * size + [0] * (n - size), rtol=1e-6)
            x, x2, y = (set(rows[:size].tolist()) for rows in (batch.x, batch.x2, batch.y))
            assert len(x) == len(x2) == len(y) == size
            assert x | x2 <= source and not x & x2 and y <= target
            # Padding has no slot in the memory of dual values.
            assert (batch.slot[size:] == width).all()
            np.testing.assert_array_equal(
                problem.sources.index[problem.source_of[k]][batch.slot[:size]], batch.x[:size]
            )


def test_a_batch_is_not_larger_than_what_the_largest_population_gives():
    assert largest_batch(made([9], [0], [30]), 256) == (4, False)
    assert largest_batch(made([3], [0], [1]), 256) == (1, False)
    assert largest_batch(made([100, 100], [0, 1], [7, 20]), 256) == (20, True)


def test_batches_of_the_gap_take_all_sources_of_small_populations():
    problem = made([6, 40], [0, 1, 0], [9, 2, 5])
    assert largest_gap_batch(problem, 8) == (8, True) and largest_gap_batch(problem, 512) == (40, True)
    assert largest_gap_batch(problem, 6) == (6, False)
    width = problem.sources.index.shape[1]
    for k, size in enumerate([6, 8, 6]):
        source, _ = members(problem, k)
        batch = draw_sources(problem, jnp.int32(k), jr.key(k), 8, padded=True)
        assert batch.weights is not None
        np.testing.assert_allclose(batch.weights, [1 / size] * size + [0] * (8 - size), rtol=1e-6)
        cells = set(np.asarray(batch.x[:size]).tolist())
        assert len(cells) == size and cells <= source and (batch.slot[size:] == width).all()
        full = draw_sources(problem, jnp.int32(k), jr.key(k), 6, padded=False)
        assert full.weights is None and len(set(np.asarray(full.x).tolist())) == 6


def test_every_cell_is_drawn_equally_often():
    problem = made([20], [0], [10])
    counts = np.zeros(30)
    for batch in drawn(problem, 0, 4, False, count=200):
        for rows in (batch.x, batch.x2, batch.y):
            counts[rows] += 1
    # 80 draws expected of each control and of each treated cell.
    assert counts.sum() == 2400 and (np.abs(counts - 80) < 5 * np.sqrt(80)).all()


@pytest.fixture(scope="module")
def codes() -> Codes:
    made = split.unseen_dose(screen(), 100, treatments="cora", valid_conditions=[at("beta", 1000)], min_cells=1)
    return Codes.of(made, RAW, FULL)


@pytest.mark.parametrize("role", [Role.TRAIN, Role.VALID])
def test_a_problem_holds_the_cells_of_its_conditions_and_role_and_no_others(codes, role):
    conditions = codes.split.train_conditions if role == Role.TRAIN else (at("beta", 1000), at("anti", 10, "L2"))
    problem = training_problem(codes, conditions, role, fit_affine_path(codes, "gaussian"))
    controls = {c.control for c in conditions}
    used = np.concatenate([codes.cells(c, role) for c in (*controls, *conditions)])
    assert sorted(map(tuple, np.asarray(problem.cells))) == sorted(map(tuple, used))
    for k, condition in enumerate(conditions):
        for rows, which, population in (
            (problem.sources, int(problem.source_of[k]), condition.control),
            (problem.targets, k, condition),
        ):
            index = rows.index[which][: rows.size[which]]
            np.testing.assert_array_equal(problem.cells[index], codes.cells(population, role))


def test_large_populations_can_be_cut_to_cells_evenly_spaced(codes):
    path = fit_affine_path(codes, "shift")
    chosen = (at("anti", 10), at("beta", 10, "L2"))
    problem = training_problem(codes, chosen, Role.TRAIN, path, most=7)
    assert problem.cells.shape == (4 * 7, 3) and problem.sources.index.shape == problem.targets.index.shape == (2, 7)
    for k, condition in enumerate(chosen):
        cells = codes.cells(condition, Role.TRAIN)
        kept = np.asarray(problem.cells[problem.targets.index[k]])
        np.testing.assert_array_equal(kept[[0, -1]], cells[[0, -1]])
        assert {tuple(row) for row in kept} < {tuple(row) for row in cells} and len(np.unique(kept, axis=0)) == 7


def test_the_map_of_a_problem_starts_at_the_closed_form_and_padding_of_treatments_changes_nothing(codes):
    """Conditions are padded to the largest combination; the map is that of the condition on its own."""
    conditions = codes.split.train_conditions
    path = fit_affine_path(codes, "gaussian")
    problem = training_problem(codes, conditions, Role.TRAIN, path)
    assert problem.mask.shape == (len(conditions), 2) and problem.n_conditions == len(conditions)
    shapes = eqx.filter_eval_shape(
        PerturbationNet,
        3,
        codes.encoder.dim,
        codes.encoder.context_dim,
        hidden=(4,),
        embedding=3,
        conditioning="gated",
        key=jr.key(0),
    )
    rng = np.random.default_rng(0)
    net = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
    still = jax.tree.map(jnp.zeros_like, net)
    x = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    transport = eqx.filter_jit(Problem.transport)
    for k, condition in enumerate(conditions):
        features = np.asarray(codes.encoder.vector(condition), np.float64)
        start = path(features, x)
        np.testing.assert_allclose(transport(problem, still, x, jnp.int32(k)), start, rtol=1e-5, atol=1e-5)
        alone = codes.encoder.encode_many([condition], width=2)
        moved = start + net(x, *(jnp.asarray(part[0]) for part in alone)) - x
        np.testing.assert_allclose(transport(problem, net, x, jnp.int32(k)), moved, rtol=1e-4, atol=1e-4)


def test_validation_is_on_held_out_conditions_where_there_are_any(codes):
    assert validation_conditions(codes) == (at("beta", 1000),)
    plain = Codes.of(split.unseen_dose(screen(), 100, treatments="cora", min_cells=1), RAW, FULL)
    assert validation_conditions(plain) == plain.split.train_conditions
    without = Codes.of(split.unseen_dose(screen(), 100, treatments="cora", valid=0, min_cells=1), RAW, FULL)
    assert validation_conditions(without) == ()


def test_validation_needs_two_cells_on_both_sides():
    labels = [("vehicle", 0.0, "L1")] * 40 + [("anti", 10.0, "L1")] * 40 + [("beta", 10.0, "L1")] * 14
    study = study_of(labels, np.random.default_rng(0).normal(size=(94, 2)))
    codes = Codes.of(split.unseen_treatment(study, "beta", min_cells=1), RAW, FULL.parts[1])
    assert validation_conditions(codes) == (at("anti", 10),)
    few = Codes.of(split.unseen_treatment(study, "anti", min_cells=1), RAW, FULL.parts[1])
    assert len(few.rows(at("beta", 10), Role.VALID)) == 1 and validation_conditions(few) == ()


def test_the_typical_cost_is_the_mean_between_training_controls_and_treated_cells(codes):
    controls = np.concatenate([codes.cells(c, Role.TRAIN) for c in codes.split.study.controls])
    treated = np.concatenate([codes.cells(c, Role.TRAIN) for c in codes.split.train_conditions])
    distances = np.linalg.norm(controls[:, None] - treated[None], axis=-1)
    np.testing.assert_allclose(typical_cost(codes, "euclidean"), distances.mean(), rtol=0.05)
    np.testing.assert_allclose(typical_cost(codes, "sqeuclidean"), (distances**2).mean(), rtol=0.1)
    assert typical_cost(codes, "euclidean") == typical_cost(codes, "euclidean")


def test_cells_that_are_all_at_one_point_are_refused(codes):
    flat = dataclasses.replace(codes, z=np.zeros_like(codes.z))
    with pytest.raises(DataError, match="lie at one point of the space"):
        typical_cost(flat, "euclidean")
