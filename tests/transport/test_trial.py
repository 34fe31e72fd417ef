"""The first training, which leaves conditions out and says how long the second one may be."""

import dataclasses

import jax
import jax.random as jr
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from small import RAW

from cellgap.encode import Table
from cellgap.study import Design, Role, Study, split
from cellgap.train import Loop
from cellgap.transport import Codes, ConditionalMonge, FittedConditionalMonge, Optimization, load
from cellgap.transport._start import start_of
from cellgap.transport._training_data import training_problem
from cellgap.transport._trial import trial_of

N_DRUGS, HELD = 12, ("drug4", "drug9")
OPTIMIZATION = Optimization(
    loop=Loop(n_steps=200, chunk=25, valid_every=25), batch_size=32, conditions_per_step=3, learning_rate=1e-2
)


def bent(*, shared: bool, seed: int = 0) -> Study:
    """Return drugs that bend a cloud of two dimensions, on top of a shift that their descriptor says.

    A cell x goes to ``x + size (1, 0) + bend (0, tanh(3 x1))``: all drugs bend it by 3, or each by a number that its
    descriptor says nothing of.
    """
    rng = np.random.default_rng(seed)
    size = rng.uniform(1.0, 2.0, N_DRUGS)
    bend = np.full(N_DRUGS, 3.0) if shared else rng.permutation(np.linspace(-3.0, 3.0, N_DRUGS))
    labels, cells = ["vehicle"] * 1000, [rng.normal(size=(1000, 2))]
    for i in range(N_DRUGS):
        x = rng.normal(size=(100, 2))
        cells.append(x + np.stack([np.full(100, size[i]), bend[i] * np.tanh(3 * x[:, 0])], 1))
        labels += [f"drug{i}"] * 100
    obs = pd.DataFrame({"drug": labels}, index=[f"cell{i}" for i in range(len(labels))])
    table = pd.DataFrame({"size": size, "noise": rng.normal(size=N_DRUGS)}, index=[f"drug{i}" for i in range(N_DRUGS)])
    adata = AnnData(np.concatenate(cells).astype(np.float32), obs=obs, uns={"treatment_descriptors": table})
    return Study(adata, Design(treatment="drug", control="vehicle"))


def codes_of(study: Study, **options) -> Codes:
    return Codes.of(split.unseen_treatment(study, HELD, min_cells=5, **options), RAW, Table())


MODEL = ConditionalMonge(space=RAW, encoder=Table(), hidden=(16, 16), embedding=4, optimization=OPTIMIZATION)

# Who judges does not depend on the gap, whose solver is a third of the program.
SHORT = dataclasses.replace(
    MODEL, gap_weight=0.0, optimization=dataclasses.replace(OPTIMIZATION, loop=Loop(n_steps=2, chunk=2))
)


@pytest.fixture(scope="module")
def shared() -> Codes:
    return codes_of(bent(shared=True))


@pytest.fixture(scope="module")
def own() -> Codes:
    return codes_of(bent(shared=False))


@pytest.fixture(scope="module")
def fitted(shared) -> FittedConditionalMonge:
    return MODEL.fit_codes(shared, key=jr.key(0))


def error(model: FittedConditionalMonge, codes: Codes) -> float:
    """Return the mean energy distance of mapped and measured cells of the test conditions."""

    def within(p, q):
        return np.linalg.norm(p[:, None] - q[None], axis=-1).mean()

    found = []
    for condition in codes.split.test_conditions:
        t = model.transport(codes.cells(condition.control, Role.SOURCE), condition)
        y = codes.cells(condition, Role.TEST)
        found.append(2 * within(t, y) - within(t, t) - within(y, y))
    return float(np.mean(found))


def test_what_helps_left_out_conditions_is_learned_from_all_of_them(fitted, shared):
    """The bend of all drugs is learned; the second training has the steps that were best in the first."""
    start = dataclasses.replace(fitted, net=jax.tree.map(lambda leaf: 0.0 * leaf, fitted.net))
    assert error(fitted, shared) < 0.5 * error(start, shared)
    left_out = {row["step"]: row["left_out"] for row in fitted.history if "left_out" in row}
    assert fitted.best_step > 0 and left_out[fitted.best_step] < 0.5 * left_out[0]
    assert max(left_out) == 200 and all("valid" not in row for row in fitted.history)
    assert max(row["step"] for row in fitted.history if "loss" in row) == fitted.best_step
    assert fitted.judged_on == "4 training conditions that a first training left out"
    gap = fitted.gaps()[-1]
    assert gap.name == "training gap" and f"{fitted.best_step} steps of training kept" in gap.scale
    assert gap.value < 0.5 * float(gap.scale.split("alone ")[1].split(";")[0])


def test_what_does_not_help_left_out_conditions_is_not_learned(own):
    """The bend of a drug cannot be predicted: a network that learns those of the training drugs harms others."""
    judged = MODEL.fit_codes(own, key=jr.key(0))
    cells = dataclasses.replace(MODEL, judge="cells").fit_codes(own, key=jr.key(0))
    assert judged.best_step == 0 and "did not help" in judged.gaps()[-1].scale
    assert cells.best_step > 0 and cells.judged_on == "held-out cells of 10 training conditions"
    assert error(judged, own) < error(cells, own)


def test_the_first_training_knows_nothing_of_what_it_leaves_out(shared):
    start = start_of(shared, "auto")
    trial = trial_of(shared, start)
    assert trial is not None and trial.left_out == 4 and trial.problem.n_conditions == 6
    assert len(trial.valid.shifts) == 4
    names = [str(c) for c in shared.split.train_conditions]
    used = {tuple(row) for row in np.asarray(trial.problem.entities)[:, 0].tolist()}
    left = [c for c in shared.split.train_conditions if tuple(shared.encoder.encode(c)[0][0].tolist()) not in used]
    assert len(left) == 4 and len(names) == 10
    z = shared.z.copy()
    for condition in left:
        z[shared.rows(condition)] += 100.0
    moved = trial_of(dataclasses.replace(shared, z=z), start)
    assert moved is not None
    for one, two in zip(jax.tree.leaves(trial.problem), jax.tree.leaves(moved.problem), strict=True):
        np.testing.assert_array_equal(one, two)
    # Nor do the closed forms that they are judged with: only the cells to compare with have moved.
    np.testing.assert_array_equal(trial.valid.shifts, moved.valid.shifts)
    assert np.abs(np.asarray(trial.valid.cells) - np.asarray(moved.valid.cells)).max() > 99


def test_it_is_the_problem_of_a_split_that_holds_them_out_to_validate(shared):
    start = start_of(shared, "gaussian")
    trial = trial_of(shared, start)
    assert trial is not None
    used = {tuple(row) for row in np.asarray(trial.problem.entities)[:, 0].tolist()}
    left = [c for c in shared.split.train_conditions if tuple(shared.encoder.encode(c)[0][0].tolist()) not in used]
    other = split.unseen_treatment(shared.split.study, HELD, min_cells=5, valid_conditions=left)
    # The same encoder and roles of the other cells: only what is left out differs.
    roles = shared.split.roles.copy()
    for condition in left:
        roles[shared.rows(condition, Role.TRAIN)] = Role.VALID
    codes = dataclasses.replace(shared, split=dataclasses.replace(other, roles=roles))
    expected = training_problem(codes, codes.split.train_conditions, Role.TRAIN, start_of(codes, "gaussian"))
    for one, two in zip(jax.tree.leaves(trial.problem), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_where_there_is_no_need_or_no_way(shared):
    study = shared.split.study
    start = start_of(shared, "gaussian")
    seen = Codes.of(split.in_distribution(study, min_cells=5), RAW, Table())
    watched = codes_of(study, valid_conditions=["drug0", "drug1"])
    few = Codes.of(split.unseen_treatment(study, [f"drug{i}" for i in range(6, 12)], min_cells=5), RAW, Table())
    for codes in (seen, watched, few):
        assert trial_of(codes, start) is None
    assert SHORT.fit_codes(watched, key=jr.key(0)).judged_on == "2 validation conditions"
    assert SHORT.fit_codes(few, key=jr.key(0)).judged_on == "held-out cells of 6 training conditions"


def test_no_validation_cells_are_needed(shared):
    """Left-out conditions judge by all their cells; with nothing to judge by, every step is taken."""
    blind = codes_of(shared.split.study, valid=0.0)
    assert trial_of(blind, start_of(blind, "gaussian")) is not None
    every = dataclasses.replace(SHORT, judge="cells").fit_codes(blind, key=jr.key(0))
    assert (every.judged_on, every.best_step) == ("", 2) and every.gaps()[-1].name != "training gap"


def test_both_trainings_are_resumed(fitted, shared, tmp_path):
    """Whichever part is there already, the bits are those of a run in one go."""
    z = shared.cells(shared.split.train_conditions[0].control, Role.SOURCE)
    expected = [fitted.transport(z, c) for c in shared.split.test_conditions]

    def check(model):
        for condition, cells in zip(shared.split.test_conditions, expected, strict=True):
            np.testing.assert_array_equal(model.transport(z, condition), cells)
        assert model.gaps() == fitted.gaps() and model.history == fitted.history

    check(MODEL.fit_codes(shared, key=jr.key(0), folder=tmp_path))
    assert (tmp_path / "checkpoint.eqx").exists() and (tmp_path / "again" / "checkpoint.eqx").exists()
    for path in (tmp_path / "again").iterdir():
        path.unlink()
    check(MODEL.fit_codes(shared, key=jr.key(0), folder=tmp_path))
    check(MODEL.fit_codes(shared, key=jr.key(0), folder=tmp_path))
    fitted.save(tmp_path / "saved")
    back = load(tmp_path / "saved")
    assert isinstance(back, FittedConditionalMonge) and back.judged_on == fitted.judged_on
    check(back)
