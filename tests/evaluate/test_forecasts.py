"""Forecasts: baselines against closed forms and published figures, that none looks ahead, and knock-outs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import expm

from cellgap.dynamics import Trajectories, trajectories_of
from cellgap.errors import ConfigError, DataError
from cellgap.evaluate._forecast_baselines import (
    HeldStart,
    HeldVelocity,
    KernelSmooth,
    TrainingMean,
    standard_forecasts,
)
from cellgap.evaluate._forecasts import forecast_errors, forecast_scores, knock_out_scores
from cellgap.evaluate._linear_law import LinearLaw

A = np.array([[-0.3, 1.0], [-1.0, -0.3]])  # dx/dt = x A + B
B = np.array([0.2, -0.1])


def turning(n: int, times: np.ndarray, seed: int = 0) -> Trajectories:
    """Return exact courses of a linear law."""
    rng = np.random.default_rng(seed)
    rest = -B @ np.linalg.inv(A)
    starts = rng.normal(size=(n, 2))
    values = np.stack([(starts - rest) @ expm(A * t) + rest for t in times], 1)
    about = pd.DataFrame({"lineage": ["a", "b"] * (n // 2), "donor": ["d"] * n})
    return trajectories_of(values, times, about=about, variables=("u", "v"))


REGULAR = np.linspace(0, 3, 31)
IRREGULAR = np.sort(np.r_[0.0, np.random.default_rng(5).uniform(0, 3, 60)])


class Law:
    """A law that knows the truth, up to an error."""

    def __init__(self, off: float = 0.0):
        self.off = off

    def follow(self, test: Trajectories, *, history: int = 1) -> np.ndarray:
        return test.values + self.off


@pytest.mark.parametrize("history", [1, 2, 4])
@pytest.mark.parametrize("times", [REGULAR, IRREGULAR], ids=["regular", "irregular"])
def test_no_baseline_looks_beyond_the_history(history, times):
    train, test = turning(6, times), turning(4, times, seed=1)
    hidden = test.values.copy()
    hidden[:, history:] = 1e3
    for name, baseline in standard_forecasts(train, history=history, by="lineage").items():
        one, other = baseline.predict(test), baseline.predict(replace(test, values=hidden))
        assert one.shape == test.values.shape and np.isfinite(one).all()
        np.testing.assert_array_equal(one, other, err_msg=name)


def test_constants_and_straight_lines():
    times = np.array([0.0, 1.0, 3.0])
    test = trajectories_of([[[1.0], [2.0], [9.0]], [[4.0], [2.0], [0.0]]], times)
    np.testing.assert_allclose(HeldStart().predict(test)[..., 0], [[1, 1, 1], [4, 4, 4]])
    np.testing.assert_allclose(HeldStart(2).predict(test)[..., 0], [[1, 2, 2], [4, 2, 2]])
    np.testing.assert_allclose(HeldVelocity().predict(test)[..., 0], [[1, 2, 4], [4, 2, -2]])
    np.testing.assert_allclose(TrainingMean(test).predict(test), 3.0)
    still = replace(test, times=np.array([[0.0, 0.0, 3.0]] * 2))
    np.testing.assert_allclose(HeldVelocity().predict(still)[..., 0], [[1, 2, 2], [4, 2, 2]])


def test_filled_up_states_do_not_enter_the_mean():
    ragged = turning(4, REGULAR)
    short = replace(ragged, lengths=np.array([2, 31, 31, 31]))
    mean = np.concatenate([short.values[0, :2], *short.values[1:]]).mean(0)
    np.testing.assert_allclose(TrainingMean(short).predict(ragged)[0, 0], mean)


def test_the_kernel_smooth_is_the_weighted_mean_and_knows_labels():
    train, test = turning(6, REGULAR), turning(4, IRREGULAR, seed=1)
    smooth = KernelSmooth(train, h=0.2).predict(test)
    t, x = train.times.ravel(), train.values.reshape(-1, 2)
    w = np.exp(-0.5 * ((IRREGULAR[:, None] - t) / 0.6) ** 2)
    np.testing.assert_allclose(smooth[2], w @ x / w.sum(1, keepdims=True))
    of_a = KernelSmooth(train.where(lineage="a")).predict(test.where(lineage="a"))
    np.testing.assert_allclose(KernelSmooth(train, by="lineage").predict(test)[0], of_a[0])
    unknown = replace(test, about=test.about.assign(lineage="c"))
    np.testing.assert_allclose(KernelSmooth(train, by="lineage").predict(unknown), KernelSmooth(train).predict(test))
    later = replace(test, times=test.times + np.arange(61) * 100)
    np.testing.assert_allclose(KernelSmooth(train).predict(later)[0, -1], train.values[:, -1].mean(0))


@pytest.mark.parametrize("history", [1, 2])
def test_a_linear_law_is_found_at_equal_steps_also_where_some_are_left_out(history):
    law = LinearLaw(turning(6, REGULAR), history=history)
    test = turning(4, np.linspace(0, 6, 61), seed=1)
    assert law.step == pytest.approx(0.1)
    np.testing.assert_allclose(law.predict(test), test.values, atol=2e-3)
    thin = test.thinned(0.5, seed=0)
    # Of two states with a gap between them only the mean velocity is known.
    np.testing.assert_allclose(
        law.predict(thin)[thin.seen], thin.values[thin.seen], atol=2e-3 if history == 1 else 1e-2
    )


def test_a_linear_law_is_found_at_unequal_times_and_meets_times_between_steps():
    law = LinearLaw(turning(6, IRREGULAR))
    test = turning(4, np.linspace(0, 5, 44), seed=1)
    assert law.step is None
    np.testing.assert_allclose(law.predict(test), test.values, atol=5e-3)
    between = LinearLaw(turning(6, REGULAR)).predict(test)
    np.testing.assert_allclose(between, test.values, atol=5e-3)


def test_a_velocity_is_what_second_order_needs():
    times = np.linspace(0, 5, 51)
    rng = np.random.default_rng(0)
    phase, size = rng.uniform(0, 6, (2, 40))
    made = trajectories_of((size[:, None] * np.cos(2 * times + phase[:, None]))[..., None], times)
    train, test = made.take(range(30)), made.take(range(30, 40))
    errors = [forecast_errors(LinearLaw(train, history=h).predict(test), test, history=h)["mse"].mean() for h in (1, 2)]
    assert errors[1] < 1e-3 * errors[0]


def test_a_linear_law_of_noise_stands_still():
    rng = np.random.default_rng(0)
    walks = trajectories_of(np.cumsum(rng.normal(size=(30, 40, 8)), 1), np.arange(40))
    train, test = walks.take(range(10)), walks.take(range(10, 30))
    error, held = (forecast_errors(m.predict(test), test)["mse"].mean() for m in (LinearLaw(train), HeldStart()))
    assert error < 1.3 * held
    one = LinearLaw(train.take([0]))  # a single course is cut into five
    assert np.isfinite(one.predict(test)).all()


def test_errors_by_hand():
    test = trajectories_of([[[0.0, 0.0]] * 4, [[0.0, 0.0]] * 4], [0.0, 1.0, 2.0, 3.0], names=["p", "q"])
    test = replace(test, lengths=np.array([4, 2]))
    prediction = np.zeros((2, 4, 2))
    prediction[0, :, 0] = [7, 1, 2, 4]
    prediction[1, 1:, 1] = [3, 50, 50]
    found = forecast_errors(prediction, test, horizon=2.0)
    np.testing.assert_allclose(found.loc["p"], [3, 21 / 6, 5 / 4, 8])
    np.testing.assert_allclose(found.loc["q"], [1, 4.5, 4.5, np.nan])
    assert forecast_errors(prediction, test, history=0).loc["p", "mse"] == pytest.approx(70 / 8)
    assert np.isnan(forecast_errors(prediction, test).loc["p", "mse_beyond"])
    np.testing.assert_allclose(forecast_errors(prediction, test, scale=2.0)["mse"], found["mse"] / 4)
    prediction[0, 2, 1] = np.nan
    broken = forecast_errors(prediction, test, horizon=2.0).loc["p"]
    assert np.isinf(broken["mse"]) and np.isinf(broken["mse_in"]) and broken["mse_beyond"] == 8


def test_a_table_has_every_predictor_in_every_group():
    train, test = turning(8, REGULAR), turning(6, np.linspace(0, 6, 61), seed=1)
    table = forecast_scores({"true": Law(), "off": Law(0.5)}, test, train, history=2, by="lineage", smooth_by="lineage")
    assert list(table) == [
        "lineage", "predictor", "trajectories", "mse", "mse_in", "mse_beyond", "skill_mean", "skill_start",
    ]  # fmt: skip
    names = ["true", "off", "training mean", "held start", "held velocity", "kernel smooth", "linear law"]
    assert list(table["predictor"]) == names * 2 and list(table["lineage"]) == ["a"] * 7 + ["b"] * 7
    assert (table["trajectories"] == 3).all()
    rows = table.set_index(["lineage", "predictor"])
    for group in ("a", "b"):
        assert rows.loc[(group, "true"), "mse"] == 0 and rows.loc[(group, "true"), "skill_mean"] == 1
        np.testing.assert_allclose(rows.loc[(group, "off"), ["mse", "mse_in", "mse_beyond"]].astype(float), 0.25)
        assert rows.loc[(group, "training mean"), "skill_mean"] == 0
        assert rows.loc[(group, "held start"), "skill_start"] == 0
        assert rows.loc[(group, "linear law"), "skill_start"] > 0.99
        part = test.where(lineage=group)
        mean = forecast_errors(TrainingMean(train).predict(part), part, horizon=3.0, history=2).mean()
        assert rows.loc[(group, "training mean"), "mse_beyond"] == pytest.approx(mean["mse_beyond"])
    whole = forecast_scores(Law(0.5), test, train)
    assert list(whole["predictor"])[:1] == ["law"] and "held velocity" not in set(whole["predictor"])


@pytest.mark.data
def test_published_trivial_errors_of_hill_networks(data_dir):
    """The figures of the data set's README, which count the start (0.1000 and 0.0287 within the horizon without)."""
    stored = np.load(data_dir / "grn_hill" / "seed0.npz")
    train, test = (
        trajectories_of(stored[k].transpose(1, 0, 2), stored[t]) for k, t in (("train", "t_train"), ("test", "t_test"))
    )
    for baseline, inside, beyond in ((HeldStart(), 0.094, 0.223), (TrainingMean(train), 0.034, 0.075)):
        found = forecast_errors(baseline.predict(test), test, horizon=3.0, history=0).mean()
        assert found["mse_in"] == pytest.approx(inside, abs=6e-4)
        assert found["mse_beyond"] == pytest.approx(beyond, abs=6e-4)


@pytest.mark.data
@pytest.mark.parametrize(("seed", "expected"), [(0, 0.0151), (1, 0.0341), (2, 0.0259)])
def test_published_error_of_no_effect(seed, expected, data_dir):
    stored = np.load(data_dir / "grn_hill" / f"seed{seed}.npz")
    true, calm = stored["knock_out"].transpose(0, 2, 1, 3), stored["test"].transpose(1, 0, 2)
    table = knock_out_scores(true, true, calm, np.arange(20))
    assert table.loc["no effect", "mse"] == pytest.approx(expected, abs=5e-5)
    assert table.loc["only that gene", "mse"] < table.loc["no effect", "mse"]


def test_knock_outs_by_hand():
    calm = np.ones((2, 3, 2))
    true = np.stack([calm * [0.0, 2.0], calm * [1.0, 0.0]])
    table = knock_out_scores(true + 0.5, true, calm, [0, 1])
    assert list(table.index) == ["law", "no effect", "only that gene"]
    np.testing.assert_allclose(table.loc["law"], [0.25, 0.25, 0.25 / 0.75, 1.0])
    np.testing.assert_allclose(table.loc["no effect"], [0.75, 0.5, 1.0, 0.0])
    np.testing.assert_allclose(table.loc["only that gene"], [0.25, 0.5, 1 / 3, 1.0])


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda d: HeldStart(0), ConfigError),
        (lambda d: HeldVelocity(1), ConfigError),
        (lambda d: KernelSmooth(d, h=0.0), ConfigError),
        (lambda d: KernelSmooth(d, by="site"), DataError),
        (lambda d: TrainingMean(d).predict(replace(d, variables=("v", "u"))), DataError),
        (lambda d: LinearLaw(d).predict(replace(d, variables=("v", "u"))), DataError),
        (lambda d: forecast_errors(d.values[:, 1:], d), DataError),
        (lambda d: forecast_errors(d.values, d, history=-1), ConfigError),
        (lambda d: forecast_errors(d.values, d, scale=np.zeros(2)), ConfigError),
        (lambda d: forecast_scores(Law(), d, d, history=0), ConfigError),
        (lambda d: forecast_scores(Law(), d, d, by="site"), DataError),
        (lambda d: forecast_scores({"held start": Law()}, d, d), ConfigError),
        (lambda d: knock_out_scores(d.values, d.values, d.values, [0]), DataError),
        (lambda d: knock_out_scores(d.values[None], d.values[None], d.values, [2]), DataError),
    ],
)
def test_what_cannot_be_forecast_is_refused(call, error):
    with pytest.raises(error):
        call(turning(4, REGULAR))
