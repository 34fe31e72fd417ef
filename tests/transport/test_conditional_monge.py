"""Trained maps: the same bits for the same key, whatever happens on the way and whatever the held-out cells are."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from small import FULL, NETWORK, QUICK, RAW, OneHot, at, screen, study_of, vehicle

from cellgap.encode import Dose
from cellgap.errors import ConditionError, StorageError
from cellgap.space import PCA
from cellgap.study import Role, split
from cellgap.transport import (
    Codes,
    ConditionalMonge,
    FittedConditionalMonge,
    Gaussian,
    Identity,
    MeanShift,
    Monge,
    load,
)
from cellgap.transport._map import AbstractMap
from cellgap.transport._train_map import gap_factor, held_out_energy
from cellgap.transport._training_data import training_problem

MODEL = ConditionalMonge(space=RAW, encoder=FULL, **NETWORK)


def codes_of(**changes) -> Codes:
    return Codes.of(split.unseen_dose(screen(), 100, treatments="cora", min_cells=1, **changes), RAW, FULL)


@pytest.fixture(scope="module")
def codes() -> Codes:
    return codes_of()


@pytest.fixture(scope="module")
def fitted(codes) -> FittedConditionalMonge:
    return MODEL.fit_codes(codes, key=jr.key(1))


def same(found: FittedConditionalMonge, expected: FittedConditionalMonge) -> None:
    """Assert that two fits are one, bit for bit."""
    for one, two in zip(jax.tree.leaves(found.net), jax.tree.leaves(expected.net), strict=True):
        np.testing.assert_array_equal(one, two)
    assert found.history == expected.history and found.best_step == expected.best_step
    z = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    for condition in (at("cora", 100), at(["anti", "beta"], 100, "L2")):
        np.testing.assert_array_equal(found.transport(z, condition), expected.transport(z, condition))


def test_what_a_fit_leaves(fitted, codes):
    assert fitted.name == "conditional Monge" and fitted.stopped == "finished"
    assert [row["step"] for row in fitted.history] == [0, 5, 10, 15, 20, 25, 30]
    assert [row["step"] for row in fitted.history if "valid" in row] == [0, 10, 20, 30]
    assert {"loss", "fit", "gap", "gap_error", "learning_rate"} <= fitted.history[1].keys()
    assert fitted.history[1]["learning_rate"] > 10 * fitted.history[-1]["learning_rate"] > 0
    z = codes.cells(vehicle(), Role.SOURCE)
    moved = fitted.transport(z, at("cora", 100))
    assert moved.shape == z.shape and moved.dtype == np.float32 and np.isfinite(moved).all()


def test_the_gaps_come_with_a_scale_a_meaning_and_a_remedy(fitted):
    monge, spread, start, training = fitted.gaps()
    assert [gap.name for gap in fitted.gaps()] == ["Monge gap", "spread gap", "start gap", "training gap"]
    assert monge.value >= 0 and abs(spread.value) < 0.5
    assert fitted.chosen in start.scale and fitted.start.judged_on in start.scale and "identity" in start.scale
    assert fitted.judged_on in training.scale and ("did not help" in training.scale) == (fitted.best_step == 0)
    for gap in (monge, spread, start, training):
        assert "0 = " in gap.scale and gap.meaning and gap.remedy
    assert "gap_weight" in monge.remedy and "two_batch" in spread.remedy


def test_controls_stay_bit_for_bit(fitted):
    z = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    for line in ("L1", "L2"):
        np.testing.assert_array_equal(fitted.transport(z, vehicle(line)), z)


def test_the_order_of_treatments_is_irrelevant(fitted):
    z = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    pair = fitted.transport(z, at(["anti", "beta"], 100))
    np.testing.assert_array_equal(fitted.transport(z, at(["beta", "anti"], 100)), pair)


def test_the_same_key_gives_the_same_bits_and_another_key_another_map(fitted, codes):
    same(MODEL.fit_codes(codes, key=jr.key(1)), fitted)
    same(MODEL.fit(codes.split, key=jr.key(1)), fitted)
    other = MODEL.fit_codes(codes, key=jr.key(2))
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(other.net), jax.tree.leaves(fitted.net), strict=True))


def test_a_fit_on_disk_predicts_the_same_bits(fitted, codes, tmp_path):
    fitted.save(tmp_path)
    back = load(tmp_path)
    assert isinstance(back, FittedConditionalMonge)
    same(back, fitted)
    assert back.gaps() == fitted.gaps() and back.stopped == "finished"
    cells = codes.split.study.adata[codes.rows(vehicle("L2"), Role.SOURCE)]
    one, two = (model.predict(cells, "cora@100 | L2") for model in (fitted, back))
    np.testing.assert_array_equal(one.X, two.X)


CHILD = """
import sys
from contextlib import contextmanager
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import jax.random as jr
import cellgap.train._fit as module

@contextmanager
def bar(*args, **kwargs):
    def show(step, row, seconds):
        print(step, flush=True)
        if step == 15:
            sys.stdin.readline()
    yield show

module.progress_bar = bar
from test_conditional_monge import MODEL, codes_of
MODEL.fit_codes(codes_of(), key=jr.key(1), folder=Path(sys.argv[2]))
"""


def test_kill_9_and_resume_is_bit_for_bit_as_if_never_killed(fitted, codes, tmp_path):
    caches = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or ""}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {name: value for name, value in caches.items() if value},
    )
    assert child.stdout is not None and child.stdin is not None
    for line in child.stdout:
        if line == "15\n":
            child.kill()
            break
    child.stdout.close()
    child.stdin.close()
    assert child.wait(60) == -signal.SIGKILL
    log = tmp_path / "log.jsonl"
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [0, 5, 10]
    same(MODEL.fit_codes(codes, key=jr.key(1), folder=tmp_path), fitted)
    assert tuple(json.loads(line) for line in log.read_text().splitlines()) == fitted.history
    # Started once more, the finished run is read, not run again.
    same(MODEL.fit_codes(codes, key=jr.key(1), folder=tmp_path), fitted)


@pytest.fixture(scope="module")
def finished(codes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    MODEL.fit_codes(codes, key=jr.key(1), folder=folder)
    return folder


@pytest.mark.parametrize("other", ["key", "settings", "cells", "descriptors"])
def test_a_run_of_other_data_settings_or_key_is_not_resumed(codes, finished, other):
    """The cells differ in one number, under the same labels."""
    key, model, again = jr.key(1), MODEL, codes
    if other == "key":
        key = jr.key(3)
    elif other == "settings":
        model = dataclasses.replace(MODEL, gap_weight=0.5)
    elif other == "cells":
        z = codes.z.copy()
        z[codes.rows(at("anti", 10), Role.TRAIN)[0]] += 1e-3
        again = dataclasses.replace(codes, z=z)
    else:
        again = Codes.of(codes.split, RAW, FULL.parts[0] | Dose(scale="linear") | FULL.parts[2])
    with pytest.raises(StorageError, match="another run"):
        model.fit_codes(again, key=key, folder=finished)


def poisoned(amount: float) -> Codes:
    """Return codes after every cell that may not be trained on was moved away."""
    codes = codes_of()
    made = codes.split
    x = made.study.adata.X
    assert isinstance(x, np.ndarray)
    x[made.cells(Role.TEST, Role.SOURCE, Role.REFERENCE)] += amount
    return Codes.of(made, PCA(dim=3, genes=RAW), FULL)


def test_no_method_reads_a_held_out_cell():
    clean, dirty = poisoned(0.0), poisoned(1e6)
    assert np.abs(dirty.z - clean.z).max() > 1e5
    z = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    models = [
        MODEL,
        Gaussian(space=RAW, encoder=FULL),
        Identity(space=RAW, encoder=FULL),
        *(MeanShift(space=RAW, encoder=FULL, rule=rule) for rule in ("own", "all", "nearest", "dose", "ridge")),
    ]
    cells = screen().adata[:5]
    for model in models:
        one, two = (model.fit_codes(codes, key=jr.key(0)) for codes in (clean, dirty))
        for condition in (at("anti", 1000), at("beta", 10, "L2")):
            np.testing.assert_array_equal(one.transport(z, condition), two.transport(z, condition))
        np.testing.assert_array_equal(one.predict(cells, at("anti", 10)).X, two.predict(cells, at("anti", 10)).X)
        assert one.gaps() == two.gaps() and one.vocabulary.conditions == two.vocabulary.conditions
        assert getattr(one, "history", ()) == getattr(two, "history", ())


def energy(t: np.ndarray, y: np.ndarray) -> float:
    """Return the energy distance of two clouds, no cell compared with itself."""

    def total(p, q):
        return np.linalg.norm(p[:, None].astype(float) - q[None], axis=-1).sum()

    n, m = len(t), len(y)
    return 2 * total(t, y) / (n * m) - total(t, t) / (n * (n - 1)) - total(y, y) / (m * (m - 1))


def test_what_is_validated_first_is_the_start_and_what_is_kept_is_the_best(fitted, codes):
    start = dataclasses.replace(fitted, net=jax.tree.map(jnp.zeros_like, fitted.net))

    def judged(model):
        pairs = [
            (c, codes.cells(c.control, Role.VALID), codes.cells(c, Role.VALID)) for c in codes.split.train_conditions
        ]
        return np.mean([energy(model.transport(x, c), y) for c, x, y in pairs])

    validated = {row["step"]: row["valid"] for row in fitted.history if "valid" in row}
    # The network starts near zero, not at zero.
    np.testing.assert_allclose(validated[0], judged(start), atol=0.02)
    np.testing.assert_allclose(validated[fitted.best_step], judged(fitted), rtol=1e-4)


@pytest.mark.parametrize("n_folds", [1, 2])
def test_the_energy_distance_of_every_fold_and_padding_has_no_part_in_it(fitted, codes, n_folds):
    """Cells are dealt onto folds in turn; populations have unequal sizes."""
    chosen = (at("anti", 10), at("beta", 1000, "L2"))
    roles = codes.split.roles.copy()
    roles[codes.rows(chosen[0], Role.TRAIN)[:9]] = Role.VALID
    codes = dataclasses.replace(codes, split=dataclasses.replace(codes.split, roles=roles))
    problem = training_problem(codes, chosen, Role.VALID, fitted.start)
    sizes = [len(codes.cells(c, Role.VALID)) for c in chosen]
    assert sizes[0] != sizes[1] and problem.targets.index.shape[1] == max(sizes)
    for k, condition in enumerate(chosen):
        found = jitted_energy(fitted.net, problem, jnp.int32(k), n_folds)
        t = fitted.transport(codes.cells(condition.control, Role.VALID), condition)
        y = codes.cells(condition, Role.VALID)
        expected = [energy(t[f::n_folds], y[f::n_folds]) for f in range(n_folds)]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


jitted_energy = eqx.filter_jit(held_out_energy)


WELLS = {"anti": 1, "beta": 2, "cora": 3, "dara": 30}


@pytest.fixture(scope="module")
def wells() -> Codes:
    """Populations of 1, 2, 3 and 30 treated cells: wells of a plate."""
    rng = np.random.default_rng(0)
    labels = [("vehicle", 0.0, "L1")] * 60 + [("held", 10.0, "L1")] * 2
    labels += [(name, 10.0, "L1") for name, n in WELLS.items() for _ in range(n)]
    x = rng.normal(size=(len(labels), 3))
    x[62:] += 2.0
    made = split.unseen_treatment(study_of(labels, x), "held", min_cells=1, valid=0.0)
    return Codes.of(made, RAW, OneHot())


def test_populations_of_one_to_three_cells_train(wells):
    assert [len(wells.rows(at(name, 10), Role.TRAIN)) for name in WELLS] == list(WELLS.values())
    several = dataclasses.replace(QUICK, conditions_per_step=3)
    model = ConditionalMonge(space=RAW, encoder=OneHot(), **NETWORK | {"optimization": several})
    fitted = model.fit_codes(wells, key=jr.key(0))
    assert all(np.isfinite(list(row.values())).all() for row in fitted.history)
    assert all("valid" not in row for row in fitted.history) and fitted.best_step == 30
    z = wells.cells(vehicle(), Role.TRAIN)
    for name in WELLS:
        moved = fitted.transport(z, at(name, 10))
        # Few cells say little about the spread: the map keeps that of the controls, whatever those cells are.
        assert 0.5 < moved.var(0).sum() / z.var(0).sum() < 2.0
        target = wells.cells(at(name, 10), Role.TRAIN).mean(0)
        assert np.linalg.norm(moved.mean(0) - target) < np.linalg.norm(z.mean(0) - target)
    np.testing.assert_array_equal(fitted.transport(z, vehicle()), z)
    for gap in fitted.gaps():
        assert abs(gap.value) < 5


def test_the_published_settings_train_too(codes):
    """Same-batch loss, squared cost, absolute epsilons, no closed form, concatenation: the objective goes down."""
    published = ConditionalMonge(
        space=RAW,
        encoder=FULL,
        start="identity",
        fit_loss="same_batch",
        conditioning="concat",
        epsilon=1.0,
        gap_epsilon=0.01,
        relative=False,
        **NETWORK,
    )
    fitted = published.fit_codes(codes, key=jr.key(0))
    assert fitted.history[-1]["loss"] < fitted.history[1]["loss"]
    assert fitted.history[-1]["valid"] < fitted.history[0]["valid"] and fitted.best_step == 30
    z = codes.cells(vehicle(), Role.SOURCE)
    np.testing.assert_array_equal(fitted.transport(z, vehicle()), z)


def test_the_reference_is_the_published_model():
    model = ConditionalMonge.reference(RAW, FULL)
    assert (model.start, model.fit_loss, model.conditioning, model.separate) == (
        "identity",
        "same_batch",
        "concat",
        True,
    )
    assert (model.epsilon, model.gap_epsilon, model.relative, model.gap_weight) == (1.0, 0.01, False, 1.0)
    assert (model.hidden, model.embedding) == ((64, 64, 64, 64), 50)
    how = model.optimization
    assert (how.loop.n_steps, how.batch_size, how.learning_rate, how.weight_decay) == (10_000, 512, 1e-4, 1e-5)
    assert (how.clip, how.ema, how.conditions_per_step) == (None, 0.0, 1)
    assert (how.gap_batch_size, how.gap_schedule) == (None, "constant")


@pytest.mark.parametrize("schedule", ["constant", "warmup", "ramp", "decay"])
def test_schedules_of_the_gap(schedule):
    factors = [float(gap_factor(schedule, jnp.int32(step), 101)) for step in (0, 5, 10, 50, 100)]
    expected = {
        "constant": [1, 1, 1, 1, 1],
        "warmup": [0, 0.5, 1, 1, 1],
        "ramp": [0, 0.05, 0.1, 0.5, 1],
        "decay": [1, 0.95, 0.9, 0.5, 0],
    }
    np.testing.assert_allclose(factors, expected[schedule], atol=1e-6)


def test_other_networks_batches_and_more_conditions_a_step_than_there_are(codes):
    """Without clipping and averaging the model is the weights themselves; the gap has a batch and a schedule."""
    how = dataclasses.replace(QUICK, clip=None, ema=0.0, gap_batch_size=50, gap_schedule="ramp", conditions_per_step=20)
    network = NETWORK | {"optimization": how, "conditioning": "lowrank", "pooling": "attention", "separate": True}
    fitted = ConditionalMonge(space=RAW, encoder=FULL, start="shift", **network).fit_codes(codes, key=jr.key(0))
    assert [len(layer.bias) for layer in fitted.net.shared] == [4, 1]
    weights = [row["gap_weight"] for row in fitted.history[1:]]
    assert weights == sorted(weights) and weights[0] < 0.1 and weights[-1] > 0.9
    assert all(np.isfinite(list(row.values())).all() for row in fitted.history)
    z = codes.cells(vehicle(), Role.SOURCE)
    np.testing.assert_array_equal(fitted.transport(z, vehicle()), z)


def test_monge_fits_the_one_condition_that_is_named(codes, tmp_path):
    settings = {"space": RAW, "encoder": FULL, "hidden": (8, 8), "optimization": QUICK}
    with pytest.raises(ConditionError, match=r"Monge fits one condition, the split trains on 18: name it"):
        Monge(**settings).fit_codes(codes, key=jr.key(0))
    with pytest.raises(
        ConditionError, match="'cora@100nM | L1' is not among the training conditions".replace("|", r"\|")
    ):
        Monge(condition="cora@100nM | L1", **settings).fit_codes(codes, key=jr.key(0))
    fitted = Monge(condition="anti@1uM | L2", **settings).fit_codes(codes, key=jr.key(0))
    assert fitted.name == "Monge" and fitted.vocabulary.conditions == ("anti@1000nM | line=L2",)
    z = codes.cells(vehicle("L2"), Role.TRAIN)
    target = codes.cells(at("anti", 1000, "L2"), Role.TRAIN)
    moved = fitted.transport(z, at("anti", 1000, "L2"))
    assert np.linalg.norm(moved.mean(0) - target.mean(0)) < 0.3 * np.linalg.norm(z.mean(0) - target.mean(0))
    np.testing.assert_array_equal(fitted.transport(z, vehicle("L2")), z)
    assert np.isfinite(fitted.transport(z, at("anti", 1000, "L1"))).all(), "another context may be asked"
    for other in (at("anti", 100, "L2"), at("beta", 1000, "L2"), at(["anti", "beta"], 100, "L2")):
        with pytest.raises(ConditionError, match=r"fitted for anti@1000nM alone and has no answer for .*Conditional"):
            fitted.transport(z, other)
    fitted.save(tmp_path)
    back: AbstractMap = load(tmp_path)
    np.testing.assert_array_equal(back.transport(z, at("anti", 1000, "L2")), moved)
    assert len(back.gaps()) == 3 and back.name == "Monge"


def test_monge_needs_no_name_where_there_is_one_condition():
    study = screen()
    held = [c for c in study.conditions if c != at("anti", 1000)]
    codes = Codes.of(split.unseen_conditions(study, held, min_cells=1), RAW, OneHot())
    assert codes.split.train_conditions == (at("anti", 1000),)
    chosen = Monge(space=RAW, encoder=OneHot())._chosen(codes.split)
    assert chosen == at("anti", 1000)
