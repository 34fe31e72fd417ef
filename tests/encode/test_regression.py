"""Ridge regression by closed-form leave-one-out against refits."""

import numpy as np
import pytest

from cellgap.encode._regression import regress


def _problem(n: int = 12, p: int = 5, noise: float = 0.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    features = np.column_stack([np.ones(n), rng.normal(size=(n, p))])
    truth = rng.normal(size=(p + 1, 2))
    return features, features @ truth + noise * rng.normal(size=(n, 2)), truth


def test_noise_free_relations_are_found():
    features, targets, truth = _problem()
    fitted = regress(features, targets, [str(i // 2) for i in range(12)])
    np.testing.assert_allclose(fitted.coefficients, truth, rtol=1e-3, atol=1e-3)
    assert fitted.error is not None and fitted.error < 1e-6


def test_left_out_error_is_that_of_refits_by_sklearn():
    from sklearn.linear_model import Ridge

    features, targets, _ = _problem(noise=1.0, p=8)
    groups = np.repeat(np.arange(4), 3)
    fitted = regress(features, targets, [str(g) for g in groups])
    scaled = features[:, 1:] / np.sqrt((features[:, 1:] ** 2).mean(0))
    own, mean = 0.0, 0.0
    for g in range(4):
        out = groups == g
        model = Ridge(alpha=fitted.penalty).fit(scaled[~out], targets[~out])
        own += ((model.predict(scaled[out]) - targets[out]) ** 2).sum()
        mean += ((targets[~out].mean(0) - targets[out]) ** 2).sum()
    assert fitted.error == pytest.approx(own / mean, rel=1e-8)
    whole = Ridge(alpha=fitted.penalty).fit(scaled, targets)
    np.testing.assert_allclose(features @ fitted.coefficients, whole.predict(scaled), rtol=1e-8, atol=1e-10)


def test_unrelated_features_give_the_mean():
    rng = np.random.default_rng(1)
    features = np.column_stack([np.ones(40), rng.normal(size=(40, 30))])
    targets = rng.normal(size=(40, 3))
    fitted = regress(features, targets, [str(i) for i in range(40)])
    assert fitted.penalty >= 100
    np.testing.assert_allclose(features @ fitted.coefficients, np.tile(targets.mean(0), (40, 1)), atol=0.5)


def test_one_group_has_no_error():
    features, targets, _ = _problem()
    assert regress(features, targets, ["a"] * 12).error is None
