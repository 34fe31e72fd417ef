"""Transport distances: closed forms, POT, published noise floors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

import ot as pot
from cellgap.errors import DataError
from cellgap.evaluate import metrics as m
from cellgap.evaluate._sinkhorn import EntropicProblem, padded_size


def pair(seed=0, n=60, k=60, d=5, shift=0.7):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), shift + 1.2 * rng.normal(size=(k, d))


def test_w2_is_the_network_simplex_of_pot():
    p, q = pair()
    plan_cost = pot.emd2(np.full(60, 1 / 60), np.full(60, 1 / 60), cdist(p, q, "sqeuclidean"))
    assert m.w2(p, q) ** 2 == pytest.approx(plan_cost, rel=1e-9)
    assert m.w2(p, p) == 0


def test_w2_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(1)
    d, n = 5, 2000
    a, b = rng.normal(size=(d, d)) / np.sqrt(d), rng.normal(size=(d, d)) / np.sqrt(d)
    s1, s2 = a @ a.T + 0.5 * np.eye(d), b @ b.T + 0.5 * np.eye(d)
    m1, m2 = np.zeros(d), np.full(d, 2.0)
    root = sqrtm(s1)
    expected = np.sum((m1 - m2) ** 2) + np.trace(s1 + s2 - 2 * np.real(sqrtm(root @ s2 @ root)))
    p, q = rng.multivariate_normal(m1, s1, n), rng.multivariate_normal(m2, s2, n)
    assert m.w2(p, q) ** 2 == pytest.approx(expected, rel=0.05)


def test_w2_subsamples_the_larger_cloud():
    p, q = pair(2, n=90, k=40)
    assert m.w2(p, q, seed=1) == m.w2(p, q, seed=1)
    assert m.w2(p, q, seed=1) != m.w2(p, q, seed=2)
    everything = m.w2(p[:40], q)
    assert m.w2(p, q) == pytest.approx(everything, rel=0.3)


@pytest.mark.parametrize(("cost", "relative"), [("sqeuclidean", 0.05), ("euclidean", 0.05), ("sqeuclidean", 0.01)])
def test_sinkhorn_agrees_with_pot(cost, relative):
    p, q = pair(3, n=40, k=55)
    mean = cdist(p, q, cost).mean()
    epsilon = relative * mean

    def entropic(x, y):
        a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
        c = cdist(x, y, cost)
        plan = pot.sinkhorn(a, b, c, epsilon, method="sinkhorn_log", stopThr=1e-6, numItermax=3_000, warn=False)
        kl = np.sum(np.where(plan > 0, plan * np.log(np.maximum(plan, 1e-300) / (a[:, None] * b[None, :])), 0))
        return np.sum(plan * c) + epsilon * kl

    assert m.entropic_cost(p, q, epsilon=epsilon, cost=cost) == pytest.approx(entropic(p, q), rel=1e-4)
    expected = entropic(p, q) - entropic(p, p) / 2 - entropic(q, q) / 2
    assert m.sinkhorn(p, q, epsilon=epsilon, cost=cost) == pytest.approx(expected, rel=1e-3)
    assert m.sinkhorn(p, q, relative_epsilon=relative, cost=cost) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("d", [5, 50])
def test_equal_populations_are_at_zero(d):
    p, _ = pair(4, n=100, d=d)
    assert m.sinkhorn(p, p) / m.mean_cost(p, p) == pytest.approx(0, abs=1e-5)


def test_a_large_epsilon_leaves_the_means():
    p, q = pair(5)
    expected = np.sum((p.mean(0) - q.mean(0)) ** 2)
    assert m.sinkhorn(p, q, relative_epsilon=1000.0) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("n", "wasserstein", "divergence", "wide"), [(128, 8.6, 8.1, 4.9), (256, 8.5, 7.9, 4.2), (512, 8.3, 7.7, 3.5)]
)
def test_the_published_noise_floors_are_reproduced(n, wasserstein, divergence, wide):
    """Two samples of N(0, I_50), Euclidean cost: what the published metrics give where there is no difference."""
    x, y = np.random.default_rng(6).normal(size=(2, n, 50))
    assert m.entropic_cost(x, y, epsilon=0.1) == pytest.approx(wasserstein, rel=0.05)
    assert m.sinkhorn(x, y, epsilon=0.1, cost="euclidean") == pytest.approx(divergence, rel=0.05)
    assert m.sinkhorn(x, y, epsilon=1.0, cost="euclidean") == pytest.approx(wide, rel=0.05)


def test_the_floor_of_the_two_batch_divergence_is_zero():
    rng = np.random.default_rng(7)
    values = np.array([m.divergence2(*x) for x in rng.normal(size=(30, 2, 96, 20))])
    assert abs(values.mean()) < 2.5 * values.std() / np.sqrt(30)
    same_cells = np.array([m.sinkhorn(*x) for x in rng.normal(size=(3, 2, 96, 20))])
    assert same_cells.min() > 5 * abs(values.mean())  # what it replaces is far from zero here


def test_the_two_batch_divergence_prefers_the_right_spread():
    rng = np.random.default_rng(8)
    p, q = rng.normal(size=(2, 256, 50))
    two_batch = {r: m.divergence2(r * p, q) for r in (0.7, 1.0, 1.3)}
    assert min(two_batch, key=two_batch.__getitem__) == 1.0
    same_batch = {r: m.sinkhorn(r * p, q, epsilon=1.0, cost="euclidean") for r in (0.7, 1.0)}
    assert same_batch[0.7] < same_batch[1.0]  # the known flaw of the same-cell estimate


def test_the_two_batch_divergence_is_the_mean_of_two_estimates():
    p, q = pair(9, n=64, k=64)
    epsilon = 0.05 * m.mean_cost(p, q)

    def cost(x, y):
        return m.entropic_cost(x, y, epsilon=epsilon, cost="sqeuclidean")

    (p1, p2), (q1, q2) = np.split(p, 2), np.split(q, 2)
    estimates = [cost(a, b) - cost(p1, p2) / 2 - cost(q1, q2) / 2 for a, b in ((p1, q1), (p2, q2))]
    assert m.divergence2(p, q, epsilon=epsilon) == pytest.approx(np.mean(estimates), abs=1e-4)
    assert np.isnan(m.divergence2(p[:1], q))


def test_padding_changes_nothing():
    p, q = pair(10, n=48, k=48)  # 48 is a size that is not padded, 47 is
    problem = EntropicProblem(0.5, m.mean_cost(p, q))
    assert [padded_size(n) for n in (1, 16, 17, 24, 25, 47, 48, 49, 1000, 1024)] == [
        16, 16, 24, 24, 32, 48, 48, 64, 1024, 1024,
    ]  # fmt: skip
    a, b = np.full(47, 1 / 47), np.full(47, 1 / 47)
    c = cdist(p[:47], q[:47], "sqeuclidean")
    plan = pot.sinkhorn(a, b, c, 0.5, method="sinkhorn_log", stopThr=1e-6, numItermax=3_000, warn=False)
    expected = np.sum(plan * c) + 0.5 * np.sum(plan * np.log(np.maximum(plan, 1e-300) * 47**2))
    assert problem.cross(p[:47], q[:47]) == pytest.approx(expected, rel=1e-4)


def test_wrong_settings_are_refused():
    p, q = pair(11)
    with pytest.raises(DataError, match="epsilon and a mean cost above 0"):
        m.sinkhorn(np.ones((5, 2)), np.ones((5, 2)))
    with pytest.raises(DataError, match='"sqeuclidean" or "euclidean"'):
        m.sinkhorn(p, q, cost="cosine")  # type: ignore[arg-type]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_permuting_cells_or_genes_changes_nothing(seed):
    p, q = pair(seed, n=32, k=32)
    rng = np.random.default_rng(seed)
    genes = rng.permutation(5)
    unit = m.mean_cost(p, q)
    value = m.sinkhorn(p, q)
    assert m.sinkhorn(rng.permutation(p), rng.permutation(q)) == pytest.approx(value, abs=1e-4 * unit)
    assert m.sinkhorn(p[:, genes], q[:, genes]) == pytest.approx(value, abs=1e-4 * unit)
    assert m.w2(rng.permutation(p), q) == pytest.approx(m.w2(p, q), abs=1e-6)
    swapped = np.concatenate([p[16:], p[:16]]), np.concatenate([q[16:], q[:16]])
    assert m.divergence2(*swapped) == pytest.approx(m.divergence2(p, q), abs=1e-4 * unit)
