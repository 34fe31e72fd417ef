"""Recovery of networks: hand-made cases, other libraries, equal scores, names, and the null of dense priors."""

import numpy as np
import pandas as pd
import pytest

from cellgap.errors import ConfigError, DataError
from cellgap.evaluate._recovery import jaccard_of_networks, network_scores, recovery_null

TRUE = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])
SCORE = np.array([[9.0, 0.9, 0.8], [0.1, 9.0, 0.3], [0.2, 0.0, 9.0]])  # pairs in order: 01 02 12 20 10 21


def named(values: np.ndarray, names: str = "abc") -> pd.DataFrame:
    return pd.DataFrame(values, index=list(names), columns=list(names))


def test_a_network_scored_by_hand():
    found = network_scores(SCORE, TRUE, threshold=0.25)
    # Edges are first and third of six pairs: of the 8 pairs of an edge and another, 4 + 3 are in order.
    assert found["auroc"] == pytest.approx(7 / 8)
    assert found["auprc"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["density"] == pytest.approx(1 / 3) and found["auprc_ratio"] == pytest.approx(found["auprc"] * 3)
    assert found["tpr_at_k"] == 0.5 and found["fpr_at_k"] == 0.25 and found["fdr_at_k"] == 0.5
    assert found["tpr"] == 1 and found["fpr"] == 0.25 and found["fdr"] == pytest.approx(1 / 3)
    assert found["edges"] == 3 and found["shd"] == 1
    three = network_scores(SCORE, TRUE, k=3)
    assert three["tpr_at_k"] == 1 and three["fdr_at_k"] == pytest.approx(1 / 3) and "shd" not in three


@pytest.mark.parametrize(
    ("edges", "distance"),
    [([(0, 1), (1, 2)], 0), ([(0, 1)], 1), ([(1, 0), (1, 2)], 1), ([(1, 0), (2, 1)], 2), ([], 2), ([(2, 0)], 3),
     ([(0, 1), (1, 0), (1, 2)], 1)],
)  # fmt: skip
def test_the_structural_hamming_distance_by_hand(edges, distance):
    score = np.zeros((3, 3))
    for edge in edges:
        score[edge] = 1
    found = network_scores(score, TRUE, threshold=0.5)
    assert found["shd"] == distance and found["edges"] == len(edges)
    assert found["fdr"] == (0 if not edges else pytest.approx(1 - found["tpr"] * 2 / len(edges)))


def test_self_edges_are_left_out_unless_asked_for():
    nothing = SCORE.copy()
    np.fill_diagonal(nothing, np.nan)
    pd.testing.assert_series_equal(network_scores(SCORE, TRUE), network_scores(nothing, TRUE + np.eye(3)))
    inside = network_scores(SCORE, TRUE + np.eye(3), self_edges=True)
    assert inside["density"] == pytest.approx(5 / 9) and inside["auroc"] > network_scores(SCORE, TRUE)["auroc"]


def test_perfect_reversed_and_constant_scores():
    rng = np.random.default_rng(0)
    truth = rng.random((20, 20)) < 0.1
    assert network_scores(truth.astype(float), truth)["auroc"] == 1
    assert network_scores(-truth.astype(float), truth)["auroc"] == 0
    flat = network_scores(np.zeros((20, 20)), truth)
    # Equal scores count by their share: what is chance must not depend on the order of the genes.
    assert flat["auroc"] == 0.5 and flat["tpr_at_k"] == pytest.approx(flat["density"])
    assert flat["fpr_at_k"] == pytest.approx(flat["density"]) and flat["auprc_ratio"] == pytest.approx(1)


def test_tables_are_matched_by_name_and_a_truth_may_know_a_part():
    whole = network_scores(named(SCORE), named(TRUE), threshold=0.25)
    order = ["c", "a", "b"]
    pd.testing.assert_series_equal(network_scores(named(SCORE).loc[order, order], named(TRUE), threshold=0.25), whole)
    pd.testing.assert_series_equal(network_scores(named(SCORE), TRUE, threshold=0.25), whole)
    pd.testing.assert_series_equal(network_scores(SCORE, named(-TRUE), threshold=0.25), whole)
    part = network_scores(named(SCORE), named(TRUE).loc[["a", "b"]], threshold=0.25)
    assert part["density"] == 0.5 and part["tpr"] == 1 and part["fpr"] == 0.5
    listed = pd.DataFrame({"regulator": ["a", "b", "z"], "target": ["b", "c", "a"]})
    # Its pairs: regulators a, b and targets a, b, c, without itself.
    found = network_scores(named(SCORE), listed, threshold=0.25)
    pd.testing.assert_series_equal(found, part)


def test_networks_are_compared_pair_by_pair():
    a, b = np.zeros((4, 4)), np.zeros((4, 4))
    a[0, 1], a[0, 2] = 2, 1
    b[0, 1], b[1, 2] = 2, 1
    assert jaccard_of_networks([a, a], 2) == 1
    assert jaccard_of_networks([a, b], 2) == pytest.approx(1 / 3)
    assert jaccard_of_networks([a, a, b], 2) == pytest.approx((1 + 2 / 3) / 3)
    names = list("wxyz")
    one = pd.DataFrame(a, names, names)
    assert jaccard_of_networks([one, one.loc[names[::-1], names[::-1]]], 2) == 1
    # Scores that do not differ say nothing of stability: chance, not 1.
    big = np.zeros((40, 40))
    assert jaccard_of_networks([big, big, big], 100) < 0.15


def test_a_null_of_a_dense_prior_sees_regulators_and_not_targets():
    rng = np.random.default_rng(0)
    liked = rng.random(60)  # some targets have nearly all regulators
    truth = rng.random((30, 60)) < 0.2 + 0.7 * liked
    names = [f"r{i}" for i in range(30)], [f"t{i}" for i in range(60)]
    prior = pd.DataFrame(truth, *names)
    by_target = pd.DataFrame(liked + 0.01 * rng.random((30, 60)), *names)
    fooled = recovery_null(by_target, prior, k=300, n=300)
    assert network_scores(by_target, prior)["auroc"] > 0.65 and fooled["p_value"] > 0.02
    right = recovery_null(by_target + 0.3 * truth, prior, k=300, n=300)
    assert right["p_value"] == pytest.approx(1 / 301) and right["observed"] > right["null_mean"] + 5 * right["null_sd"]
    pd.testing.assert_series_equal(right, recovery_null(by_target + 0.3 * truth, prior, k=300, n=300))


def test_a_null_is_what_permuting_by_hand_gives():
    rng = np.random.default_rng(1)
    score, truth = rng.random((8, 8)), rng.random((8, 8)) < 0.4
    names = [f"r{i}" for i in range(8)], [f"t{i}" for i in range(8)]
    scores, prior = (pd.DataFrame(v, *names) for v in (score, truth))
    found = recovery_null(scores, prior, k=10, n=4000, seed=2)
    best = np.argsort(-score.ravel())[:10]
    assert found["observed"] == truth.ravel()[best].sum()
    null = np.array([truth[rng.permutation(8)].ravel()[best].sum() for _ in range(4000)])
    assert found["null_mean"] == pytest.approx(null.mean(), abs=0.1)
    assert found["null_sd"] == pytest.approx(null.std(), rel=0.1)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: network_scores(SCORE, np.zeros((3, 3))), DataError),
        (lambda: network_scores(SCORE, np.ones((3, 3))), DataError),
        (lambda: network_scores(SCORE, np.ones((4, 4))), DataError),
        (lambda: network_scores(SCORE[:2], TRUE), DataError),
        (lambda: network_scores(np.full((3, 3), np.nan), TRUE), DataError),
        (lambda: network_scores(named(SCORE).astype(str) + "x", TRUE), DataError),
        (lambda: network_scores(named(SCORE), named(TRUE, "xyz")), DataError),
        (lambda: network_scores(named(SCORE, "aab"), TRUE), DataError),
        (lambda: network_scores(SCORE, TRUE, k=0), ConfigError),
        (lambda: network_scores(SCORE, TRUE, k=7), ConfigError),
        (lambda: jaccard_of_networks([SCORE], 2), DataError),
        (lambda: jaccard_of_networks([SCORE, np.zeros((4, 4))], 2), DataError),
        (lambda: jaccard_of_networks([SCORE, SCORE], 7), ConfigError),
        (lambda: recovery_null(SCORE, TRUE, n=0), ConfigError),
        (lambda: recovery_null(SCORE, np.zeros((3, 3))), DataError),
    ],
)
def test_what_cannot_be_scored_is_refused(call, error):
    with pytest.raises(error):
        call()
