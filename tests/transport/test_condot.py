"""CondOT: the Gaussian maps before training, mixed between conditions; one function for all, convex in the cells."""

import dataclasses
import tomllib

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import tomli_w
from interrupted import Stopped, same, stop_at, untrained
from small import FULL, RAW, at, screen, vehicle

from cellgap.errors import ConfigError
from cellgap.settings import from_dict, to_dict
from cellgap.study import split
from cellgap.train import Loop
from cellgap.transport import Codes, CondOT, DualOptimization, FittedCondOT, _condot, load
from cellgap.transport._affine import displacement
from cellgap.transport._condot import _vector

LOOP = Loop(n_steps=20, chunk=5, valid_every=10, checkpoint_every=10)
QUICK = DualOptimization(loop=LOOP, batch_size=16, inner_steps=2, learning_rate=1e-3)
MODEL = CondOT(space=RAW, encoder=FULL, hidden=(8, 8), embedding=4, optimization=QUICK)
Z = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def codes() -> Codes:
    return Codes.of(split.unseen_dose(screen(), 100, treatments="cora", min_cells=1), RAW, FULL)


@pytest.fixture(scope="module")
def fitted(codes) -> FittedCondOT:
    return MODEL.fit_codes(codes, key=jr.key(1))


@pytest.fixture(scope="module")
def start(codes) -> FittedCondOT:
    with untrained(_condot):
        return MODEL.fit_codes(codes, key=jr.key(1))


def test_before_training_a_training_condition_has_its_gaussian_map(start, codes):
    for moments in codes.moments:
        shift, linear = displacement(moments, moments.control_mean, "gaussian")
        expected = Z + shift + (Z - moments.control_mean) @ linear
        moved = start.transport(Z, moments.condition)
        np.testing.assert_allclose(moved, expected, atol=2e-4)
        np.testing.assert_allclose(start.back(moved, moments.condition), Z, atol=1e-3)
    monge, spread, inverse = start.gaps()
    assert (monge.name, spread.name, inverse.name) == ("Monge gap", "spread gap", "inverse gap")
    assert monge.value < 1e-5 and inverse.value < 1e-6


def test_between_conditions_the_start_is_the_mean_of_their_maps(start, codes):
    """Half way between two vectors, where no other condition is as close."""
    mixture = start.mixture
    one, two = (_vector(codes.encoder, start.vocabulary, at("anti", dose)) for dose in (10, 1000))
    only = (codes.split.train_conditions.index(at("anti", 10)), codes.split.train_conditions.index(at("anti", 1000)))
    pair = dataclasses.replace(
        mixture,
        anchors=mixture.anchors[jnp.asarray(only)],
        lengths=jnp.ones(2),
        forward=_rows(mixture.forward, only),
        backward=_rows(mixture.backward, only),
    )
    quadratic = pair.at((one + two) / 2)[0]
    matrix = np.asarray(quadratic.root, float) @ np.asarray(quadratic.root, float).T
    found = (Z - np.asarray(quadratic.center)) @ matrix + np.asarray(quadratic.slope)
    ends = [start.transport(Z, at("anti", dose)) for dose in (10, 1000)]
    np.testing.assert_allclose(found, (ends[0] + ends[1]) / 2, atol=1e-3)


def _rows(quadratic, rows):
    fields = {name: getattr(quadratic, name)[jnp.asarray(rows)] for name in ("center", "root", "slope")}
    return dataclasses.replace(quadratic, **fields)


def test_unseen_conditions_have_a_map_and_controls_stay(fitted):
    for condition in (at("cora", 100), at("dara", 30), at(["anti", "cora"], 100, "L2")):
        moved = fitted.transport(Z, condition)
        assert moved.shape == Z.shape and moved.dtype == np.float32 and np.isfinite(moved).all()
        assert np.abs(moved - Z).max() > 0.1
        # A gradient of a convex function: no two cells trade places.
        steps = ((moved[:, None] - moved[None]) * (Z[:, None] - Z[None])).sum(-1)
        assert (steps >= -1e-4).all()
    for line in ("L1", "L2"):
        np.testing.assert_array_equal(fitted.transport(Z, vehicle(line)), Z)
    pair = fitted.transport(Z, at(["anti", "beta"], 100))
    np.testing.assert_array_equal(fitted.transport(Z, at(["beta", "anti"], 100)), pair)


def test_training_from_a_poor_start_comes_closer(codes):
    """With a reach that mixes all conditions alike, each starts at their mean map."""
    optimization = dataclasses.replace(
        QUICK, loop=Loop(n_steps=240, chunk=60, valid_every=60), learning_rate=1e-2, inner_steps=4
    )
    fitted = dataclasses.replace(MODEL, reach=1000.0, optimization=optimization).fit_codes(codes, key=jr.key(0))
    valid = [row["valid"] for row in fitted.history if "valid" in row]
    assert min(valid) < 0.7 * valid[0] and fitted.best_step > 0
    assert fitted.gaps()[0].value < 1e-5
    for potential in (fitted.pair.f, fitted.pair.g):
        assert all((np.asarray(w) >= 0).all() for w in potential.net.hidden)


def test_killed_and_resumed_is_bit_for_bit_as_if_never_killed(fitted, codes, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 15)
        with pytest.raises(Stopped):
            MODEL.fit_codes(codes, key=jr.key(1), folder=tmp_path)
    same(MODEL.fit_codes(codes, key=jr.key(1), folder=tmp_path), fitted)


def test_a_fit_on_disk_predicts_the_same_bits(fitted, tmp_path):
    fitted.save(tmp_path)
    back = load(tmp_path)
    assert isinstance(back, FittedCondOT) and back.gaps() == fitted.gaps()
    same(back, fitted)
    for condition in (at("cora", 100), at("anti", 10, "L2")):
        np.testing.assert_array_equal(back.transport(Z, condition), fitted.transport(Z, condition))


def test_settings_survive_a_file_and_wrong_ones_are_refused():
    back = from_dict(tomllib.loads(tomli_w.dumps(to_dict(MODEL))))
    assert back == MODEL and hash(back) == hash(MODEL)
    for wrong in ({"reach": 0.0}, {"activation": "relu"}, {"hidden": ()}, {"embedding": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            CondOT(space=RAW, encoder=FULL, **wrong)
