"""Closed-form affine maps: between Gaussians, shrunk where cells are few, and between conditions."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from small import FULL, RAW, at, screen, study_of, vehicle

from cellgap.encode import Dose, OneHot
from cellgap.ot import bures_map
from cellgap.study import Condition, Role, split
from cellgap.transport import Codes, Gaussian, Moments, condition_features, shrunk_covariance
from cellgap.transport._affine import (
    _NOISES,
    _basis,
    _best_kernel,
    _best_length,
    _smoothed,
    displacement,
    fit_affine_path,
    kernel_path,
)
from cellgap.transport._ridge import feature_scale, fit_ridge, residuals_without


def moments(n: int, cov: np.ndarray, control_cov: np.ndarray, n_control: int = 1000) -> Moments:
    d = len(cov)
    return Moments(Condition("a"), np.ones(d), cov, n, np.zeros(d), control_cov, n_control)


def sample_covariance(n: int, cov: np.ndarray, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).multivariate_normal(np.zeros(len(cov)), cov, size=n)
    return np.atleast_2d(np.cov(x.T)) if n > 1 else np.zeros_like(cov)


CONTROL = np.diag([4.0, 2.0, 1.0, 0.5])
TREATED = np.diag([1.0, 3.0, 1.0, 2.0]) + 0.3


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_cells_have_the_covariance_of_their_controls(n):
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(30, 30)))[0]
    control = np.diag(np.linspace(0.3, 3.0, 30))
    for seed in range(20):
        cov = sample_covariance(n, turn @ control @ turn.T, seed)
        np.testing.assert_array_equal(shrunk_covariance(moments(n, cov, control)), control)


def test_many_cells_have_their_own():
    found = shrunk_covariance(moments(10**7, TREATED, CONTROL, 10**7))
    np.testing.assert_allclose(found, TREATED, atol=1e-5)
    np.testing.assert_array_equal(shrunk_covariance(moments(50, CONTROL, CONTROL)), CONTROL)


def test_the_weight_is_the_expected_noise_over_the_difference():
    cov = sample_covariance(40, TREATED, 1)
    noise = (np.trace(cov) ** 2 + np.sum(cov**2)) / 39 + (np.trace(CONTROL) ** 2 + np.sum(CONTROL**2)) / 999
    w = noise / np.sum((cov - CONTROL) ** 2)
    assert 0 < w < 1
    np.testing.assert_allclose(shrunk_covariance(moments(40, cov, CONTROL)), (1 - w) * cov + w * CONTROL)


def test_shrinking_is_nearer_to_the_truth_than_the_sample_at_every_size():
    for n in (5, 20, 100):
        own, shrunk = [], []
        for seed in range(100):
            cov = sample_covariance(n, TREATED, seed)
            own.append(np.sum((cov - TREATED) ** 2))
            shrunk.append(np.sum((shrunk_covariance(moments(n, cov, CONTROL)) - TREATED) ** 2))
        assert np.mean(shrunk) < np.mean(own)


def gaussian_study(n: int = 3000) -> tuple[Codes, np.ndarray, np.ndarray]:
    """Return codes of a Gaussian population and its image under x -> A x + b with A symmetric and positive."""
    rng = np.random.default_rng(0)
    a = np.array([[1.5, 0.4, 0.0], [0.4, 0.8, -0.2], [0.0, -0.2, 0.5]])
    b = np.array([1.0, -2.0, 0.5])
    cov = np.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.0], [0.1, 0.0, 0.3]])
    x, y = (rng.multivariate_normal([3.0, 0.0, -1.0], cov, size=n) for _ in range(2))
    labels = [("vehicle", 0.0, "L1")] * n + [("anti", 10.0, "L1")] * n
    study = study_of(labels, np.concatenate([x, y @ a + b]))
    return Codes.of(split.in_distribution(study), RAW, OneHot()), a, b


def test_a_linear_map_between_gaussians_is_recovered():
    codes, a, b = gaussian_study()
    x = codes.cells(vehicle(), Role.SOURCE)
    moved = Gaussian(space=RAW, encoder=OneHot()).fit_codes(codes).transport(x, at("anti", 10))
    truth = x @ a + b
    assert ((moved - truth) ** 2).sum(1).mean() < 0.01 * truth.var(0).sum()


def closed_form(m: Moments, x: np.ndarray) -> np.ndarray:
    """Return the formula of `Gaussian`, with SciPy's root."""
    root = np.real(sqrtm(m.control_cov))
    inverse = np.linalg.inv(root)
    return m.mean + (x - m.control_mean) @ inverse @ np.real(sqrtm(root @ shrunk_covariance(m) @ root)) @ inverse


def test_a_single_measured_condition_has_its_closed_form_map():
    codes, *_ = gaussian_study(300)
    x = codes.cells(vehicle(), Role.SOURCE)
    moved = Gaussian(space=RAW, encoder=OneHot()).fit_codes(codes).transport(x, at("anti", 10))
    # The nugget of a thousandth shrinks what the trend leaves.
    np.testing.assert_allclose(moved, closed_form(codes.moments[0], x), atol=0.01)


def test_every_measured_condition_is_near_its_closed_form_map():
    codes = Codes.of(split.in_distribution(screen(n=400), min_cells=1), RAW, FULL)
    model = Gaussian(space=RAW, encoder=FULL).fit_codes(codes)
    for m in codes.moments:
        x = codes.cells(m.condition.control, Role.TRAIN)
        wrong = ((model.transport(x, m.condition) - closed_form(m, x)) ** 2).sum(1).mean()
        assert wrong < 0.002 * np.trace(m.cov)


@pytest.fixture(scope="module")
def codes() -> Codes:
    return Codes.of(split.unseen_dose(screen(), 100, treatments=["anti", "cora"], min_cells=1), RAW, FULL)


@pytest.mark.parametrize("start", ["shift", "gaussian"])
def test_the_path_is_exact_at_training_conditions_up_to_the_nugget(codes, start):
    path = fit_affine_path(codes, start)
    assert (path.linear is None) == (start == "shift")
    center = np.asarray(path.center, np.float64)
    for m in codes.moments:
        shift, linear = path.at(condition_features(codes.encoder, m.condition))
        own_shift, own_linear = displacement(m, center, start)
        np.testing.assert_allclose(shift, own_shift, atol=0.02)
        if linear is not None:
            np.testing.assert_allclose(linear, own_linear, atol=0.02)


def test_displacement_maps_the_mean_of_the_controls_to_the_mean_of_the_treated(codes):
    center = np.array([5.0, -3.0, 1.0])
    for m in codes.moments:
        for start in ("shift", "gaussian"):
            shift, linear = displacement(m, center, start)
            moved = m.control_mean + shift + (m.control_mean - center) @ linear
            np.testing.assert_allclose(moved, m.mean, atol=1e-10)


@pytest.mark.parametrize("start", ["identity", "shift", "gaussian"])
def test_controls_stay_bit_for_bit(codes, start):
    path = fit_affine_path(codes, start)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)), jnp.float32)
    for line in ("L1", "L2"):
        np.testing.assert_array_equal(path(condition_features(codes.encoder, vehicle(line)), x), x)


def test_the_identity_start_moves_nothing(codes):
    path = fit_affine_path(codes, "identity")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)), jnp.float32)
    for condition in codes.split.study.conditions:
        np.testing.assert_array_equal(path(condition_features(codes.encoder, condition), x), x)


def test_the_length_of_the_kernel_is_the_one_that_predicts_left_out_treatments_best():
    """Against fits without each treatment, for effects that a smooth curve over the dose explains, and for noise."""
    rng = np.random.default_rng(0)
    features = np.column_stack([np.ones(24), np.repeat(rng.normal(size=(6, 2)), 4, axis=0), np.tile(np.arange(4.0), 6)])
    scale, groups = feature_scale(features), np.repeat(np.arange(6), 4)
    for targets in (np.sin(2 * features[:, 3:]) + features[:, 1:2], rng.normal(size=(24, 1))):
        penalty = fit_ridge(features, targets, groups).penalty
        unit = _best_length(features, np.zeros_like(targets), groups, scale) / 0.2
        errors = []
        for factor in (0.2, 0.5, 1.0, 2.0, 4.0):
            kernel = np.exp(-0.5 * cdist(features / scale, features / scale, "sqeuclidean") / (unit * factor) ** 2)
            wrong = 0.0
            for rows, rest in residuals_without(features, targets, groups, penalty):
                kept = np.setdiff1d(np.arange(24), rows)
                gram = kernel[np.ix_(kept, kept)] + 1e-3 * np.eye(len(kept))
                predicted = kernel[np.ix_(rows, kept)] @ np.linalg.solve(gram, rest[kept])
                wrong += ((rest[rows] - predicted) ** 2).sum()
            errors.append(wrong)
        best = int(np.flatnonzero(np.asarray(errors) <= 1.01 * min(errors))[0])
        found = _best_length(features, targets, groups, scale)
        np.testing.assert_allclose(found, unit * (0.2, 0.5, 1.0, 2.0, 4.0)[best])


def test_an_unseen_dose_lies_between_its_neighbors(codes):
    path = fit_affine_path(codes, "shift")
    for drug in ("anti", "cora"):
        low, middle, high = (
            np.asarray(path.at(condition_features(codes.encoder, at(drug, dose)))[0]) for dose in (10, 100, 1000)
        )
        # In these data the effect is proportional to the logarithm of the dose.
        assert np.linalg.norm(middle - (low + high) / 2) < 0.2 * np.linalg.norm(high - low)


def test_far_from_everything_measured_the_trend_alone_answers(codes):
    path = fit_affine_path(codes, "shift")
    features = condition_features(codes.encoder, at("anti", 1e9))
    p = len(features)
    np.testing.assert_allclose(path.at(features)[0], features @ np.asarray(path.shift)[:p], rtol=1e-4, atol=1e-4)


def test_features_of_a_control_are_0_and_those_of_a_pair_do_not_depend_on_order(codes):
    assert (condition_features(codes.encoder, vehicle("L2")) == 0).all()
    pair = condition_features(codes.encoder, at(["beta", "anti"], 100))
    np.testing.assert_array_equal(pair, condition_features(codes.encoder, at(["anti", "beta"], 100)))
    assert pair[0] == 2 and pair.dtype == np.float64


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_unit_of_the_data_does_not_matter(unit):
    """Features that are copies of one another have covariances without full rank, in any unit."""
    study = screen()
    x = np.asarray(study.adata.X)
    labels = study.obs[["drug", "dose_nM", "line"]].itertuples(index=False, name=None)
    copied = study_of(list(labels), np.column_stack([x, x[:, 0], x[:, 1] + x[:, 2]]) * unit)
    codes = Codes.of(split.in_distribution(copied, min_cells=1), RAW, Dose())
    cells = codes.cells(vehicle(), Role.SOURCE)
    moved = Gaussian(space=RAW, encoder=Dose()).fit_codes(codes).transport(cells, at("anti", 100)) / unit
    assert np.isfinite(moved).all()
    np.testing.assert_allclose(moved[:, 0], moved[:, 3], atol=0.02)
    np.testing.assert_allclose(moved[:, 1] + moved[:, 2], moved[:, 4], atol=0.02)


def kernel_data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features of 24 conditions (a count, two descriptors), their groups, and noisy effects that bend."""
    rng = np.random.default_rng(4)
    features = np.column_stack([np.ones(24), rng.normal(size=(24, 2))])
    effects = np.column_stack([np.sin(features[:, 1]), features[:, 2] ** 2, 1.0 + features[:, 1]])
    return features, np.arange(24) // 2, effects + 0.05 * rng.normal(size=effects.shape)


def test_kernel_ridge_is_the_posterior_mean_of_the_gaussian_process_it_names():
    features, _, effects = kernel_data()
    scale = feature_scale(features)
    length, share, noise = 1.3, 1.0, 0.1
    coefficients = _smoothed(features, scale, effects, length, share, noise)
    asked = np.column_stack([np.ones(5), np.random.default_rng(5).normal(size=(5, 2))])

    def covariance(a, b):
        near = np.exp(-0.5 * cdist(a / scale, b / scale, "sqeuclidean") / length**2)
        return 100.0 * np.outer(a[:, 0], b[:, 0]) + near + share * (a / scale) @ (b / scale).T / 3

    expected = covariance(asked, features) @ np.linalg.solve(
        covariance(features, features) + noise * np.eye(24), effects
    )
    np.testing.assert_allclose(_basis(asked, scale, features / scale, length) @ coefficients, expected, rtol=1e-6)


def test_the_kernel_is_the_one_that_predicts_left_out_groups_best():
    """The closed form of leaving out against fits without the group."""
    features, groups, effects = kernel_data()
    scale = feature_scale(features)

    def error(length, share, noise):
        total = 0.0
        for g in np.unique(groups):
            out = groups == g
            fitted = _smoothed(features[~out], scale, effects[~out], length, share, noise)
            predicted = _basis(features[out], scale, features[~out] / scale, length) @ fitted
            total += ((predicted - effects[out]) ** 2).sum()
        return total

    lengths, shares = [0.4, 1.5, 6.0], [0.0, 1.0]
    found = _best_kernel(features, groups, scale, effects, lengths, shares)
    errors = {(a, b, c): error(a, b, c) for a in lengths for b in shares for c in _NOISES}
    assert found == min(errors, key=lambda k: errors[k])


def test_smoothing_averages_repeats_and_leaves_controls_alone():
    features = np.repeat(np.column_stack([np.ones(6), np.arange(6.0)]), 4, axis=0)
    rng = np.random.default_rng(6)
    truth = np.column_stack([2.0 - 0.5 * features[:, 1], np.full(24, 3.0)])
    noisy = truth + 0.4 * rng.normal(size=truth.shape)
    linears = 0.1 * truth[:, :1, None] * np.eye(2) + 0.05 * rng.normal(size=(24, 2, 2))
    path = kernel_path(features, np.arange(24) // 4, np.zeros(2), np.eye(2), noisy, linears)
    found = [path.at(f) for f in features]
    shift = np.stack([np.asarray(s) for s, _ in found])
    linear = np.stack([np.asarray(part) for _, part in found])
    assert np.sqrt(((shift - truth) ** 2).mean()) < 0.5 * np.sqrt(((noisy - truth) ** 2).mean())
    expected = 0.1 * truth[:, :1, None] * np.eye(2)
    assert np.abs(linear - expected).mean() < 0.7 * np.abs(linears - expected).mean()
    shift, linear = path.at(np.zeros(2))
    np.testing.assert_array_equal(shift, 0)
    np.testing.assert_array_equal(linear, 0)


def test_few_controls_do_not_stretch_directions_that_they_lack() -> None:
    """Ten controls in twenty dimensions, two hundred treated cells of the same law."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 20)), rng.normal(size=(200, 20))
    condition = Condition("drug")
    moments = Moments(condition, y.mean(0), np.cov(y.T), 200, x.mean(0), np.cov(x.T), 10)
    shift, linear = displacement(moments, np.zeros(20), "gaussian")
    moved = rng.normal(size=(500, 20))
    moved = moved + shift + moved @ linear
    assert moved.var(0).mean() < 3.0


def test_many_controls_keep_the_exact_map() -> None:
    rng = np.random.default_rng(0)
    half = np.diag(np.linspace(0.1, 2.0, 5))
    x, y = rng.normal(size=(4000, 5)), rng.normal(size=(4000, 5)) @ half
    condition = Condition("drug")
    moments = Moments(condition, y.mean(0), np.cov(y.T), 4000, x.mean(0), np.cov(x.T), 4000)
    _, linear = displacement(moments, np.zeros(5), "gaussian")
    exact, _ = bures_map(x.mean(0), np.cov(x.T), y.mean(0), shrunk_covariance(moments))
    np.testing.assert_allclose(np.eye(5) + linear, exact, atol=1e-4)
