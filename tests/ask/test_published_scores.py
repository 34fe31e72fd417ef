import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap.ask.bench._pairing import by_position, greedy, optimal
from cellgap.ask.bench._published import balanced, citation_score, expectation, published_means, published_scores
from cellgap.errors import ConfigError

CONDITION = np.array([[0.7, 0.2], [0.4, 0.5], [0.3, 0.3]])
ANSWER = np.array([[0.6, 0.1], [0.5, 0.4], [0.2, 0.2]])
CITED, GOLD = [{1}, {2, 5}, {9}], [{1, 3}, {5}]


def test_v1_pairs_by_position_and_averages_what_was_judged_against_nothing():
    scores = published_scores(
        CONDITION, ANSWER, CITED, GOLD, compat="v1", surplus_condition=[0.25], surplus_answer=[0.2]
    )
    assert scores.means == pytest.approx((0.48333, 0.4, 0.5), abs=1e-5)
    assert scores.pairs == ((0, 0), (1, 1), (2, None))


def test_v2_pairs_greedily_and_leaves_the_surplus_out():
    scores = published_scores(CONDITION, ANSWER, CITED, GOLD, compat="v2")
    assert scores.pairs == ((0, 0), (1, 1)) and scores.means == pytest.approx((0.6, 0.5, 0.75))


def test_closed_counts_the_surplus_as_zero_in_v2():
    scores = published_scores(None, ANSWER, [(), (), ()], [(), ()], compat="v2", protocol="closed")
    assert scores.answer == pytest.approx((0.6, 0.4, 0.0)) and scores.pairs[-1] == (2, None)


def test_weights_of_v2_depend_on_the_protocol():
    condition, answer = np.array([[0.0, 1.0]]), np.array([[0.4, 0.3]])
    cited, gold = [{1}], [{2}, {2}]
    pairs = {
        p: published_scores(condition, answer, cited, gold, compat="v2", protocol=p).pairs
        for p in ("conditions", "rag")
    }
    assert pairs == {"conditions": ((0, 1),), "rag": ((0, 0),)}


def test_means_of_a_run():
    first = published_scores(
        CONDITION, ANSWER, CITED, GOLD, compat="v1", surplus_condition=[0.25], surplus_answer=[0.2]
    )
    second = published_scores(np.array([[0.1]]), np.array([[0.0]]), [set()], [set()], compat="v1")
    assert published_means([first, second], compat="v1") == pytest.approx((1.55 / 4, 1.2 / 4, 1.5 / 4))
    halves = [published_scores(CONDITION, ANSWER, CITED, GOLD, compat="v2"), second]
    assert published_means(halves, compat="v2") == pytest.approx((0.35, 0.25, 0.375))
    assert published_means([], compat="v1") == published_means([], compat="v2") == (0.0, 0.0, 0.0)


def test_greedy_loses_to_optimal():
    worth = np.array([[0.60, 0.55], [0.58, 0.10]])
    assert sum(worth[i, j] for i, j in greedy(worth)) == pytest.approx(0.70)
    assert sum(worth[i, j] for i, j in optimal(worth)) == pytest.approx(1.13)
    assert by_position(3, 2) == ((0, 0), (1, 1)) and optimal(np.zeros((0, 3))) == () == greedy(np.zeros((0, 3)))
    assert greedy(np.zeros((2, 2))) == ((0, 0), (1, 1))  # ties go to the first


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((0.4, 0.6, 0.5, 2, 2, 3), (0.284, 0.426, 0.568)),
        ((0.4, 0.6, 0.5, 2, 1, 3), (0.172, 0.258, 0.344)),
        ((0.4, 0.6, 0.5, 2, 3, 3), (0.316, 0.474, 0.632)),
        ((0.4, 0.3, 0.5, 1, 5, 2), (0.2464, 0.1848, 0.4004)),
        ((0.55, 0.55, 0.8, 3, 2, 2), (0.56155, 0.56155, 1.0)),
        ((0.3, 0.2, 0, 0, 3, 2), (0.129, 0.086, 0)),
    ],
)
def test_balanced_scores(given, wanted):
    assert balanced(*given) == pytest.approx(wanted, abs=5e-5)


score = st.floats(0, 1)


@settings(max_examples=60, deadline=None)
@given(c=score, a=score, x=score, step=score, u=st.floats(0, 4), n=st.integers(1, 5), m=st.integers(1, 4))
def test_balanced_scores_rise_with_the_citation_score_and_the_number_of_citations(c, a, x, step, u, n, m):
    start = balanced(c, a, x, u, n, m)
    for more in (balanced(c, a, min(1.0, x + step), u, n, m), balanced(c, a, x, u + step, n, m)):
        assert all(late >= early - 1e-12 for early, late in zip(start, more, strict=True))


def test_balanced_citations_can_exceed_the_raw_ones():
    assert balanced(0.5, 0.5, 0.7, 3, 2, 2)[2] > 0.7  # the paper's, not ours
    with pytest.raises(ConfigError, match="at least one output"):
        balanced(0.5, 0.5, 0.5, 1, 0, 2)


def test_the_expectation_of_g_eval():
    assert expectation({"3": 0.62, "4": 0.25, "2": 0.12, "7": 0.004}) == pytest.approx(0.31313, abs=1e-5)
    assert expectation({"10": 0.5, " 10": 0.25, "high": 0.2, "99": 0.05}) == pytest.approx(1.0)
    assert expectation({"3": 0.001, "x": 0.9}) is None and expectation({}) is None


def test_citation_scores_of_the_revisions():
    p, g = {1, 2, 5}, {2, 3}
    assert citation_score(p, g, compat="v1") == 0.5
    assert citation_score(p, g, compat="v2") == pytest.approx(1 / 3)
    assert citation_score(p, g, compat="v1", protocol="rag") == pytest.approx(0.4)
    assert [citation_score(set(), set(), compat=c) for c in ("v1", "v2")] == [0.0, 0.0]
    assert citation_score(set(), set(), compat="v1", protocol="rag") == 0.0


def test_wrong_arguments_are_told():
    with pytest.raises(ConfigError, match="compat is one of"):
        citation_score({1}, {1}, compat="v3")
    with pytest.raises(ConfigError, match="protocol is one of"):
        citation_score({1}, {1}, compat="v1", protocol="open")
    with pytest.raises(ConfigError, match="1 surplus scores are needed, found 0 and 0"):
        published_scores(CONDITION, ANSWER, CITED, GOLD, compat="v1")
    with pytest.raises(ConfigError, match="outputs x golds, here 3 x 2"):
        published_scores(CONDITION[:2], ANSWER[:2], CITED, GOLD, compat="v2")
    with pytest.raises(ConfigError, match="finite"):
        published_scores(CONDITION * math.nan, ANSWER, CITED, GOLD, compat="v2")
