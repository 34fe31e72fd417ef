"""CellOT: the Gaussian map before training, the closed form after it, potentials that are inverse to each other."""

import dataclasses
import tomllib

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import tomli_w
from interrupted import Stopped, same, stop_at, untrained
from small import FULL, RAW, at, screen, study_of, vehicle

from cellgap.encode import OneHot
from cellgap.errors import ConditionError, ConfigError, StorageError
from cellgap.nn import potential_gradient
from cellgap.ot import bures_map
from cellgap.settings import from_dict, to_dict
from cellgap.study import Role, split
from cellgap.train import Loop
from cellgap.transport import CellOT, Codes, DualOptimization, FittedCellOT, _each, load
from cellgap.transport._affine import displacement
from cellgap.transport._dual import quadratic_starts
from cellgap.transport._each import Judge, fit_each

LOOP = Loop(n_steps=20, chunk=5, valid_every=10, checkpoint_every=10)
QUICK = DualOptimization(loop=LOOP, batch_size=16, inner_steps=2, learning_rate=1e-3)
MODEL = CellOT(space=RAW, encoder=FULL, hidden=(8, 8), optimization=QUICK)
Z = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)


def codes_of(**changes) -> Codes:
    return Codes.of(split.unseen_treatment(screen(), "cora", min_cells=1, **changes), RAW, FULL)


@pytest.fixture(scope="module")
def codes() -> Codes:
    return codes_of()


@pytest.fixture(scope="module")
def fitted(codes) -> FittedCellOT:
    return MODEL.fit_codes(codes, key=jr.key(1))


@pytest.mark.parametrize("start", ["gaussian", "shift", "identity"])
def test_the_two_quadratic_starts_of_a_condition_are_its_closed_form_and_the_way_back(codes, start):
    forward, backward = quadratic_starts(codes, start)
    for k, moments in enumerate(codes.moments):
        shift, linear = displacement(moments, moments.control_mean, start)
        go, back = (jax.tree.map(lambda leaf, k=k: leaf[k], both) for both in (forward, backward))
        moved = potential_gradient(go, jnp.asarray(Z))
        np.testing.assert_allclose(moved, Z + shift + (Z - moments.control_mean) @ linear, atol=1e-4)
        np.testing.assert_allclose(potential_gradient(back, moved), Z, atol=2e-4)


def test_before_training_each_condition_has_its_gaussian_map(codes):
    with untrained(_each):
        fitted = MODEL.fit_codes(codes, key=jr.key(1))
    for moments in codes.moments:
        shift, linear = displacement(moments, moments.control_mean, "gaussian")
        expected = Z + shift + (Z - moments.control_mean) @ linear
        np.testing.assert_allclose(fitted.transport(Z, moments.condition), expected, atol=1e-4)
    monge, spread, inverse = fitted.gaps()
    assert (monge.name, spread.name, inverse.name) == ("Monge gap", "spread gap", "inverse gap")
    assert monge.value < 1e-5 and inverse.value < 1e-8
    assert all("inner steps" in gap.remedy for gap in fitted.gaps())


def test_trained_on_gaussians_it_is_their_optimal_map_from_another_start():
    """From mean shifts, with a network that has to bend the potentials: the closed form is known."""
    rng = np.random.default_rng(0)
    n = 2000
    scale = np.diag([1.5, 0.5, 1.0]) + 0.3 * np.ones((3, 3))
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(n, 3)) @ scale + [1.0, 0.0, -1.0]
    labels = [("vehicle", 0.0, "L1")] * n + [("anti", 10.0, "L1")] * n + [("held", 10.0, "L1")] * 2
    made = split.unseen_treatment(study_of(labels, np.concatenate([x, y, y[:2]])), "held", min_cells=1)
    optimization = DualOptimization(loop=Loop(n_steps=300, chunk=100, valid_every=100), batch_size=256, inner_steps=5)
    model = CellOT(space=RAW, encoder=OneHot(), start="shift", hidden=(8, 8), optimization=optimization)
    codes = Codes.of(made, RAW, OneHot())
    a, b = bures_map(np.zeros(3), np.eye(3), np.array([1.0, 0.0, -1.0]), scale.T @ scale)
    z = rng.normal(size=(500, 3)).astype(np.float32)
    truth = z @ a + b
    fitted = model.fit_codes(codes, key=jr.key(0))
    moved = fitted.transport(z, at("anti", 10))
    untrained = z + truth.mean(0) - z.mean(0)
    error, before = (((t - truth) ** 2).sum(1).mean() / truth.var(0).sum() for t in (moved, untrained))
    assert before > 0.05 and error < 0.02 and error < before / 5
    assert fitted.best_steps[0] > 0
    home = fitted.back(moved, at("anti", 10))
    assert ((home - z) ** 2).sum(1).mean() / z.var(0).sum() < 0.02
    monge, _, inverse = fitted.gaps()
    assert monge.value < 1e-5 and inverse.value < 0.02


def test_what_a_fit_leaves(fitted, codes):
    assert fitted.name == "CellOT" and fitted.stopped == "finished"
    assert [row["step"] for row in fitted.history] == [0, 5, 10, 15, 20]
    assert [row["step"] for row in fitted.history if "valid" in row] == [0, 10, 20]
    assert fitted.history[1]["learning_rate"] > 10 * fitted.history[-1]["learning_rate"] > 0
    assert len(fitted.best_steps) == len(codes.split.train_conditions) and set(fitted.best_steps) <= {0, 10, 20}
    for potential in (fitted.pairs.f, fitted.pairs.g):
        assert all((np.asarray(w) >= 0).all() for w in potential.net.hidden)
    moved = fitted.transport(Z, at("anti", 100))
    assert moved.shape == Z.shape and moved.dtype == np.float32 and np.isfinite(moved).all()


def test_conditions_that_training_does_not_bring_closer_keep_their_start():
    """Three numbers walk to the right: the first towards its goal, the second away from it, the third has none."""
    goals = jnp.asarray([10.0, -1.0])
    result = fit_each(
        lambda data, k, state, key: (state + data, {"loss": state}),
        jnp.ones(()),
        jnp.zeros(3),
        Judge(lambda goals, state, i: jnp.abs(goals[i] - state)[None] * (3.0 - i), goals, (0, 1)),
        key=jr.key(0),
        loop=Loop(n_steps=8, chunk=4, valid_every=4),
        folder=None,
        fingerprint="",
        progress=False,
        title="",
    )
    # Means of 3 |10 - s| and 2 |1 + s|.
    assert [row["valid"] for row in result.run.history] == [16.0, 14.0, 12.0]
    np.testing.assert_array_equal(result.kept, [8.0, 0.0, 8.0])
    assert result.steps == (8, 0, 8)


def test_controls_stay_and_unseen_conditions_are_refused(fitted):
    np.testing.assert_array_equal(fitted.transport(Z, vehicle("L2")), Z)
    np.testing.assert_array_equal(fitted.back(Z, vehicle("L2")), Z)
    with pytest.raises(ConditionError, match="was not trained on"):
        fitted.transport(Z, at("cora", 10))


def test_killed_and_resumed_is_bit_for_bit_as_if_never_killed(fitted, codes, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 15)
        with pytest.raises(Stopped):
            MODEL.fit_codes(codes, key=jr.key(1), folder=tmp_path)
    resumed = MODEL.fit_codes(codes, key=jr.key(1), folder=tmp_path)
    same(resumed, fitted)
    other = dataclasses.replace(MODEL, optimization=dataclasses.replace(QUICK, inner_steps=3))
    with pytest.raises(StorageError, match="another run"):
        other.fit_codes(codes, key=jr.key(1), folder=tmp_path)


def test_a_fit_on_disk_predicts_the_same_bits(fitted, tmp_path):
    fitted.save(tmp_path)
    back = load(tmp_path)
    assert isinstance(back, FittedCellOT) and back.gaps() == fitted.gaps()
    same(back, fitted)
    np.testing.assert_array_equal(back.transport(Z, at("anti", 10)), fitted.transport(Z, at("anti", 10)))


def test_the_published_settings_for_one_named_condition(codes):
    model = CellOT.reference(RAW, FULL)
    made = model.optimization
    assert (made.loop.n_steps, made.batch_size, made.inner_steps, made.learning_rate) == (100_000, 256, 10, 1e-4)
    assert made.betas == (0.5, 0.9) and not made.decay and made.ema == 0.0 and made.penalty == 1.0
    assert (model.hidden, model.activation, model.start) == ((64, 64, 64, 64), "leaky_relu", "random")
    # Short, it goes down: the weights of g may be negative, and are penalized.
    short = dataclasses.replace(
        made, loop=Loop(n_steps=60, chunk=20, valid_every=20), batch_size=16, learning_rate=1e-2
    )
    small = dataclasses.replace(model, condition="anti@1uM | L2", hidden=(8, 8), optimization=short)
    fitted = small.fit_codes(codes, key=jr.key(0))
    assert fitted.vocabulary.conditions == ("anti@1000nM | line=L2",) and len(fitted.best_steps) == 1
    assert np.isfinite(fitted.transport(Z, at("anti", 1000, "L2"))).all()
    with pytest.raises(ConditionError, match=r"'anti@1000nM . L1' was not trained on, and CellOT has a map for each"):
        fitted.transport(Z, at("anti", 1000, "L1"))
    valid = [row["valid"] for row in fitted.history if "valid" in row]
    assert min(valid) < 0.5 * valid[0] and fitted.best_steps[0] > 0
    assert all((np.asarray(w) >= 0).all() for w in fitted.pairs.f.net.hidden)


def test_settings_survive_a_file_and_wrong_ones_are_refused(codes):
    with pytest.raises(ConditionError, match=r"'cora@10nM . L1' is not among the training conditions"):
        dataclasses.replace(MODEL, condition="cora@10nM | L1").fit_codes(codes, key=jr.key(0))
    for model in (MODEL, CellOT.reference(RAW, FULL, "anti@10nM | L1")):
        back = from_dict(tomllib.loads(tomli_w.dumps(to_dict(model))))
        assert back == model and hash(back) == hash(model)
    for wrong in ({"start": "bures"}, {"activation": "relu"}, {"hidden": ()}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            CellOT(space=RAW, encoder=FULL, **wrong)
    for wrong in ({"inner_steps": 0}, {"penalty": 0.0}, {"betas": (0.5, 1.0)}, {"ema": 1.0}, {"batch_size": 1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            DualOptimization(**wrong)


def test_without_held_out_cells_the_last_weights_are_kept():
    fitted = MODEL.fit_codes(codes_of(valid=0.0), key=jr.key(0))
    assert set(fitted.best_steps) == {20} and all("valid" not in row for row in fitted.history)
    with pytest.raises(ConditionError):
        fitted.transport(Z, at("cora", 10))


def test_held_out_cells_are_not_trained_on(codes, fitted):
    z = codes.z.copy()
    z[codes.split.cells(Role.TEST, Role.REFERENCE, Role.SOURCE)] += 100.0
    again = MODEL.fit_codes(dataclasses.replace(codes, z=z), key=jr.key(1))
    same(again, fitted)
