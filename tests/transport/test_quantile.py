"""Quantile maps: exact optimal transport of every coordinate, with defined tails, for measured conditions only."""

import dataclasses
import tomllib

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from small import FULL, RAW, at, screen, study_of, vehicle

import ot
from cellgap.encode import OneHot
from cellgap.errors import ConditionError, ConfigError
from cellgap.settings import from_dict, to_dict
from cellgap.study import Role, split
from cellgap.transport import Codes, FittedQuantileMap, QuantileMap, load
from cellgap.transport._quantile import monotone, quantiles

MODEL = QuantileMap(space=RAW, encoder=FULL)


@pytest.fixture(scope="module")
def codes() -> Codes:
    return Codes.of(split.unseen_treatment(screen(), "cora", min_cells=1), RAW, FULL)


@pytest.fixture(scope="module")
def fitted(codes) -> FittedQuantileMap:
    return MODEL.fit_codes(codes)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), n=st.sampled_from((1, 2, 7, 40)), size=st.sampled_from((1e-3, 1.0, 1e4)))
def test_with_as_many_cells_on_both_sides_it_is_the_sorted_matching(seed, n, size):
    rng = np.random.default_rng(seed)
    x, y = (size * rng.normal(size=(n, 1)).astype(np.float32) for _ in range(2))
    moved = monotone(x[:, 0], quantiles(x, n)[:, 0], quantiles(y, n)[:, 0])
    np.testing.assert_allclose(moved[np.argsort(x[:, 0])], np.sort(y[:, 0]), rtol=1e-5, atol=1e-6 * size)
    exact = ot.emd2_1d(x[:, 0].astype(float), y[:, 0].astype(float), metric="sqeuclidean")
    np.testing.assert_allclose(((moved - x[:, 0].astype(float)) ** 2).mean(), exact, rtol=1e-4, atol=1e-9 * size**2)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), n=st.sampled_from((3, 50)), m=st.sampled_from((2, 50)), ties=st.booleans())
def test_it_is_increasing_and_beyond_the_outermost_cells_its_slope_is_one(seed, n, m, ties):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 1)), rng.normal(size=(m, 1))
    if ties:
        x, y = np.round(x), np.round(y)
    knots = [quantiles(v, min(n, m))[:, 0] for v in (x, y)]
    z = np.linspace(-6, 6, 200)
    moved = monotone(z, *knots)
    assert (np.diff(moved) >= -1e-9).all()
    low, high = z < knots[0][0], z > knots[0][-1]
    for tail in (low, high):
        np.testing.assert_allclose(np.diff(moved[tail]), np.diff(z[tail]), rtol=1e-9)


def test_controls_of_one_value_go_to_the_mean_of_their_images():
    moved = monotone(np.array([0.0, 0.5, 1.0, 3.0]), np.array([0.0, 0.0, 1.0]), np.array([1.0, 3.0, 4.0]))
    np.testing.assert_allclose(moved, [2.0, 3.0, 4.0, 6.0])


def test_a_monotone_effect_on_every_coordinate_is_found():
    """The map of standard normals to their exponentials, whose quantiles are known."""
    rng = np.random.default_rng(0)
    n = 4000
    x, y = rng.normal(size=(n, 2)), np.exp(rng.normal(size=(n, 2)))
    labels = [("vehicle", 0.0, "L1")] * n + [("anti", 10.0, "L1")] * n + [("held", 10.0, "L1")] * 2
    study = study_of(labels, np.concatenate([x, y, y[:2]]))
    made = split.unseen_treatment(study, "held", min_cells=1, valid=0.0)
    fitted = QuantileMap(space=RAW, encoder=OneHot()).fit(made)
    z = np.linspace(-1.5, 1.5, 13, dtype=np.float32)[:, None].repeat(2, 1)
    np.testing.assert_allclose(fitted.transport(z, at("anti", 10)), np.exp(z), rtol=0.12)


def test_marginals_of_training_cells_are_those_of_the_treated(fitted, codes):
    condition = at("anti", 1000, "L2")
    moved = fitted.transport(codes.cells(vehicle("L2"), Role.TRAIN), condition)
    y = codes.cells(condition, Role.TRAIN)
    np.testing.assert_allclose(moved.mean(0), y.mean(0), atol=0.03)
    np.testing.assert_allclose(moved.std(0), y.std(0), rtol=0.06)
    (gap,) = fitted.gaps()
    assert gap.name == "spread gap" and abs(gap.value) < 0.05


def test_what_was_not_trained_on_is_refused_and_controls_stay(fitted):
    z = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(fitted.transport(z, vehicle("L2")), z)
    for condition in (at("cora", 10), at("anti", 20), at(["anti", "beta"], 10)):
        with pytest.raises(ConditionError, match=r"was not trained on, and quantile has a map for each training"):
            fitted.transport(z, condition)


def test_one_treated_cell_moves_the_median_there(codes):
    labels = [("vehicle", 0.0, "L1")] * 21 + [("anti", 10.0, "L1")] + [("held", 10.0, "L1")] * 2
    x = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    made = split.unseen_treatment(study_of(labels, x), "held", min_cells=1, valid=0.0)
    fitted = QuantileMap(space=RAW, encoder=OneHot()).fit(made)
    codes = Codes.of(made, RAW, OneHot())
    controls, treated = codes.cells(vehicle(), Role.TRAIN), codes.cells(at("anti", 10), Role.TRAIN)
    moved = fitted.transport(controls, at("anti", 10))
    np.testing.assert_allclose(
        moved - controls, np.tile(treated[0] - np.median(controls, 0), (len(controls), 1)), rtol=1e-5
    )
    assert fitted.gaps() == ()


def test_settings_and_fits_survive_a_file(fitted, codes, tmp_path):
    model = dataclasses.replace(MODEL, knots=7)
    back = from_dict(tomllib.loads(tomli_w.dumps(to_dict(model))))
    assert back == model
    with pytest.raises(ConfigError, match="knots"):
        QuantileMap(space=RAW, encoder=FULL, knots=0)
    few = model.fit_codes(codes)
    assert few.source[0].shape == (7, 3)
    few.save(tmp_path)
    z = codes.cells(vehicle(), Role.TRAIN)
    np.testing.assert_array_equal(load(tmp_path).transport(z, at("anti", 10)), few.transport(z, at("anti", 10)))
    assert load(tmp_path).gaps() == few.gaps()
