"""The published protocol: values against other libraries, and what it refuses."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import rbf_kernel

import cellgap as cg
from cellgap.errors import ConfigError, ConvergenceError
from cellgap.evaluate import PUBLISHED_METRICS, published_metrics, published_protocol
from cellgap.evaluate.metrics import GAMMAS


@pytest.fixture(scope="module")
def clouds():
    rng = np.random.default_rng(0)
    shape = rng.normal(size=(6, 6))
    y = rng.normal(size=(64, 6)) @ shape + 1.0
    return y.astype(np.float32), (0.8 * rng.normal(size=(64, 6)) @ shape).astype(np.float32)


def test_metrics_equal_those_of_other_libraries(clouds):
    from ott.geometry import costs
    from ott.geometry.pointcloud import PointCloud
    from ott.tools.sinkhorn_divergence import sinkhorn_divergence

    y, p = clouds
    found = published_metrics(y, p)
    assert tuple(found) == PUBLISHED_METRICS
    divergence, _ = sinkhorn_divergence(PointCloud, y, p, cost_fn=costs.Euclidean(), epsilon=0.1)
    kernels = [rbf_kernel(y, y, g).mean() + rbf_kernel(p, p, g).mean() - 2 * rbf_kernel(y, p, g).mean() for g in GAMMAS]
    means = y.mean(0), p.mean(0)
    # ott-jax stops at the same marginal violation, from another start: values agree to a part of it.
    assert found["sinkhorn_euclidean"] == pytest.approx(float(divergence), rel=1e-3)
    assert found["mmd"] == pytest.approx(np.mean(kernels), rel=1e-4)
    assert found["r2_mean"] == pytest.approx(np.corrcoef(*means)[0, 1] ** 2, rel=1e-5)
    assert found["drug_signature"] == pytest.approx(np.linalg.norm(means[0] - means[1]), rel=1e-5)
    assert found["wasserstein_kl"] > found["sinkhorn_euclidean"]


def test_equal_clouds_are_at_distance_zero(clouds):
    y, _ = clouds
    found = published_metrics(y, y)
    assert found["sinkhorn_euclidean"] == pytest.approx(0.0, abs=2e-3 * found["wasserstein_kl"])
    assert found["mmd"] == pytest.approx(0.0, abs=1e-12)
    assert found["r2_mean"] == pytest.approx(1.0)


def test_cells_that_are_not_finite_are_refused(clouds):
    y, p = clouds
    with pytest.raises(Exception, match=r"finite|NaN"):
        published_metrics(y, np.where(p > 1, np.nan, p))


@pytest.fixture(scope="module")
def fitted():
    screen = cg.simulate(n_drugs=4, n_combinations=0, n_genes=30, n_cells=40, n_controls=120, seed=0)
    split = cg.split.in_distribution(screen.study(), test=0.3, min_cells=5)
    common = {"space": cg.space.PCA(dim=5), "encoder": cg.encode.OneHot() | cg.encode.Dose()}
    return cg.Gaussian(**common).fit(split), cg.Identity(**common).fit(split), split


def test_protocol_ranks_a_fitted_map_above_doing_nothing(fitted):
    gaussian, identity, split = fitted
    few = {"n_batches": 2, "n_cells": 64, "n_markers": 10}
    table = published_protocol({"gaussian": gaussian, "identity": identity}, split, **few)
    assert set(table["model"]) == {"gaussian", "identity"}
    assert len(table) == 2 * len(split.scored_conditions)
    means = table.groupby("model")[list(PUBLISHED_METRICS)].mean()
    assert means.loc["gaussian", "r2_mean"] > means.loc["identity", "r2_mean"]
    assert means.loc["gaussian", "drug_signature"] < means.loc["identity", "drug_signature"]
    again = published_protocol(gaussian, split, **few)
    assert again["mmd"].to_numpy() == pytest.approx(table.query("model == 'gaussian'")["mmd"].to_numpy(), abs=0)


def test_measured_targets_are_farther_than_decoded_ones(fitted):
    gaussian, _, split = fitted
    few = {"n_batches": 1, "n_cells": 64, "n_markers": None}
    decoded = published_protocol(gaussian, split, **few)
    measured = published_protocol(gaussian, split, decode_target=False, **few)
    # What a space of few components leaves out cancels only where the target is decoded too.
    assert (measured["wasserstein_kl"] > decoded["wasserstein_kl"]).all()


@pytest.mark.parametrize("wrong", [{"n_batches": 0}, {"n_cells": -1}, {"n_markers": 0.5}])
def test_wrong_numbers_are_refused(fitted, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        published_protocol(fitted[0], fitted[2], **wrong)


def test_a_cost_far_above_epsilon_is_not_hidden(clouds):
    y, p = clouds
    with pytest.raises(ConvergenceError, match=r"violates its marginals|not finite"):
        published_metrics(1e4 * y, 1e4 * p)
