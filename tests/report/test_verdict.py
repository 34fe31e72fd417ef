"""The headline says what the numbers say: better, worse, or not to be told apart."""

import dataclasses
import math

import pandas as pd
import pytest

from cellgap.report import ReportData, shown_conditions
from cellgap.report._scores import scores, spread
from cellgap.report._verdict import verdict
from cellgap.report._words import fixed, flatten, metric_text, number, shorten


def made(
    model: float = 0.6, ridge: float = 0.4, difference=(0.2, 0.1, 0.3), n: int = 20, turned: bool = False, **changes
):
    names = {"replicate": 1.0, "ours": model, "ridge": ridge, "mean effect": 0.0, "identity": -0.5}
    summary = pd.DataFrame(
        [
            dict(
                predictor=p,
                metric="r2_delta",
                space="genes",
                mean=0.4 + 0.5 * s,
                low=0.3 + 0.5 * s,
                high=0.5 + 0.5 * s,
                scaled=s,
                scaled_low=s - 0.1,
                scaled_high=s + 0.1,
                n_conditions=n,
            )
            for p, s in names.items()
        ]
    )
    row = dict(a="ours", b="ridge", metric="r2_delta", difference=difference[0], low=difference[1], high=difference[2])
    row |= dict(share=0.75, n_conditions=n)
    if turned:
        row |= dict(a="ridge", b="ours", difference=-difference[0], low=-difference[2], high=-difference[1], share=0.25)
    return ReportData(**(dict(title="t", model="ours", summary=summary, comparisons=pd.DataFrame([row])) | changes))


def said(data: ReportData) -> tuple[str, str]:
    result = verdict(data, scores(data))
    return result.tone, " ".join((result.lead, *result.sentences))


@pytest.mark.parametrize("turned", [False, True])
def test_better(turned):
    tone, text = said(made(turned=turned))
    assert tone == "better"
    assert "It beats the best simple baseline" in text
    assert "On 20 held-out conditions, ours scores 0.60 (95 % interval 0.50 to 0.70)" in text
    assert "60 % of the way" in text
    assert (
        "0.20 higher on the same scale (difference 0.20; 95 % interval 0.10 to 0.30), and ahead in 75 % of them" in text
    )


def test_worse_says_use_the_simple_rule():
    tone, text = said(made(model=0.2, difference=(-0.2, -0.3, -0.1)))
    assert tone == "worse"
    assert "does not beat the best simple baseline" in text and "use that" in text
    assert "0.20 lower" in text


def test_an_interval_around_zero_is_not_a_win():
    tone, text = said(made(difference=(0.2, -0.1, 0.5)))
    assert tone == "unclear"
    assert "cannot be told apart" in text and "beats" not in text


def test_without_a_comparison_nothing_is_claimed():
    tone, text = said(made(comparisons=pd.DataFrame()))
    assert tone == "unclear"
    assert "without a test" in text and "may be chance" in text
    tone, text = said(made(difference=(0.2, math.nan, math.nan)))
    assert tone == "unclear" and "without an interval" in text


def test_without_baselines():
    data = made()
    only = dataclasses.replace(data, summary=data.summary[data.summary["predictor"].isin(["ours", "replicate"])])
    tone, text = said(only)
    assert tone == "unknown" and "No baseline to compare with" in text


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (1.1, "as close as a repeat"),
        (-0.3, "no better than the mean effect"),
        (0.05, "may be no better than the mean effect"),
    ],
)
def test_the_ends_of_the_scale(model, words):
    assert words in said(made(model=model))[1]


def test_the_repeat_is_never_the_baseline_to_beat():
    assert "“ridge”" in said(made())[1]
    assert scores(made()).best_baseline(("r2_delta", "genes")) == "ridge"


def test_a_baseline_that_answers_fewer_conditions_is_not_the_one_to_beat():
    data = made(ridge=0.9)
    some = data.summary.assign(n_conditions=data.summary["n_conditions"].where(data.summary["predictor"] != "ridge", 6))
    known = scores(dataclasses.replace(data, summary=some))
    assert known.best_baseline(("r2_delta", "genes")) == "mean effect"
    alone = some[some["predictor"].isin(["ours", "replicate", "ridge"])]
    assert scores(dataclasses.replace(data, summary=alone)).best_baseline(("r2_delta", "genes")) == "ridge"


def test_why_a_baseline_has_no_answer_is_no_remark_on_the_model():
    rows = [("ours", 0.5, ""), ("ridge", math.nan, "no answer"), ("ours", math.nan, "31 cells")]
    table = pd.DataFrame([dict(predictor=p, value=v, scaled=v, note=note) for p, v, note in rows])
    table = table.assign(condition=["a", "a", "b"], metric="r2_delta", space="genes")
    assert scores(made(table=table)).notes == {"b": "31 cells"}


def test_few_conditions_are_said():
    assert "3 conditions only" in said(made(n=3))[1]
    assert "only: read" not in said(made(n=30))[1]


def test_several_scores_are_tallied_against_the_best_baseline_of_each():
    data = made()
    other = data.summary.assign(metric="mmd", mean=1 - data.summary["mean"])
    other.loc[other["predictor"] == "mean effect", "scaled"] = 0.9
    lost = pd.DataFrame(
        [
            dict(
                a="ours",
                b="mean effect",
                metric="mmd",
                difference=-0.3,
                low=-0.4,
                high=-0.2,
                share=0.1,
                n_conditions=20,
            )
        ]
    )
    both = dataclasses.replace(
        data, summary=pd.concat([data.summary, other]), comparisons=pd.concat([data.comparisons, lost])
    )
    text = said(both)[1]
    assert "Over all 2 scores compared" in text and "worse on 1 (MMD)" in text


def test_comparisons_keep_to_their_space():
    data = made()
    summary = pd.concat([data.summary, data.summary.assign(space="latent")])
    comparisons = data.comparisons.assign(space="latent")
    found = scores(dataclasses.replace(data, summary=summary, comparisons=comparisons)).comparisons
    assert set(found) == {("ridge", ("r2_delta", "latent"))}
    chosen = scores(dataclasses.replace(data, summary=summary, headline_space="latent"))
    assert chosen.headline == ("r2_delta", "latent") and not chosen.substituted


def test_seeds_are_averaged_and_nan_is_not_ranked():
    rows = [("ours", "a", 0.2), ("ours", "a", 0.4), ("ours", "b", 0.1), ("ours", "c", math.nan), ("ridge", "b", 0.9)]
    table = pd.DataFrame(rows, columns=["predictor", "condition", "scaled"]).assign(
        metric="r2_delta", space="genes", value=1.0
    )
    assert shown_conditions(table, "ours") == ("b", "a")
    assert shown_conditions(table, "ours", "mmd") == ()
    assert shown_conditions(table.iloc[:0], "ours") == ()
    known = scores(made(table=table))
    assert known.ranked == ("b", "a") and known.conditions == ("a", "b", "c")
    assert known.cells["ours", "a", ("r2_delta", "genes")][1] == pytest.approx(0.3)


def test_a_scale_without_direction_is_not_used():
    names = {"replicate": (0.9, 0.3), "mean effect": (0.4, 0.5), "ours": (0.5, 0.1)}
    table = pd.DataFrame(
        [
            dict(predictor=p, condition=c, metric="r2_delta", space="genes", value=v, scaled=0.5)
            for p, values in names.items()
            for c, v in zip("ab", values, strict=True)
        ]
    )
    assert shown_conditions(table, "ours") == ("a",)
    known = scores(made(table=table))
    assert known.ranked == ("a",) and math.isnan(known.cells["ours", "b", ("r2_delta", "genes")][1])
    assert "a repeat is no better than the mean effect" in known.notes["b"]
    assert known.unscaled == (), "on average the repeat is better"
    data = made()
    flipped = data.summary.assign(metric="mmd")  # lower is better, but the repeat has the highest value
    both = scores(dataclasses.replace(data, summary=pd.concat([flipped, data.summary])))
    assert both.unscaled == (("mmd", "genes"),)
    assert math.isnan(both.scaled("ours", ("mmd", "genes")))
    assert both.keys == (("r2_delta", "genes"), ("mmd", "genes"))


def test_an_unscored_condition_does_not_take_the_scale_away():
    values = {"replicate": (0.98, math.nan), "mean effect": (0.6, math.nan), "ours": (0.8, math.nan)}
    table = pd.DataFrame(
        [
            dict(predictor=p, condition=c, metric="variance_ratio", space="genes", value=v, scaled=v)
            for p, pair in values.items()
            for c, v in zip("ab", pair, strict=True)
        ]
    )
    summary = made().summary.assign(metric="variance_ratio")
    known = scores(made(summary=summary, table=table, headline="variance_ratio"))
    assert known.unscaled == () and known.ranked == ("a",) and known.notes == {}


def test_anchors_and_other_models_are_not_baselines():
    data = made()
    kinds = {
        "ours": "model",
        "ridge": "model",
        "mean effect": "baseline",
        "identity": "baseline",
        "replicate": "anchor",
    }
    known = scores(dataclasses.replace(data, summary=data.summary.assign(kind=data.summary["predictor"].map(kinds))))
    assert known.best_baseline(("r2_delta", "genes")) == "mean effect"


def test_leading_metrics_follow_the_headline_in_its_space():
    data = made()
    frames = [
        data.summary.assign(metric=m, space=s, mean=lambda f, m=m: f["mean"] * (-1 if m == "energy" else 1))
        for s in ("latent", "genes")
        for m in ("r2_mean", "energy", "r2_delta")
    ]
    known = scores(dataclasses.replace(data, summary=pd.concat(frames), headline_space="genes"))
    expected = [(m, s) for s in ("genes", "latent") for m in ("r2_delta", "energy", "r2_mean")]
    assert list(known.keys) == expected


def test_a_gain_decides_where_there_is_no_scale():
    nan = math.nan
    data = made(difference=(nan, nan, nan))
    gains = data.comparisons.assign(gain=0.1, gain_low=0.05, gain_high=0.2)
    found = scores(dataclasses.replace(data, comparisons=gains)).comparisons
    assert found["ridge", ("r2_delta", "genes")].verdict == "better"
    assert scores(data).comparisons["ridge", ("r2_delta", "genes")].verdict == "unknown"


@pytest.mark.parametrize(("n", "limit"), [(0, 3), (1, 3), (2, 2), (3, 3), (7, 12), (40, 12), (40, 1), (5, 0)])
def test_spread_starts_with_worst_median_best(n, limit):
    ranked = tuple(f"{i:02d}" for i in range(n))
    chosen = spread(ranked, limit)
    assert len(chosen) == len(set(chosen)) == min(n, limit)
    if n >= 3 and limit >= 3:
        assert chosen[:3] == (ranked[0], ranked[(n - 1) // 2], ranked[-1])
        assert list(chosen[3:]) == sorted(chosen[3:])


def test_every_metric_of_the_evaluation_is_explained_and_points_the_same_way():
    from cellgap.evaluate._catalog import METRICS  # not above: it brings the numerical packages, which reports need not

    for metric in METRICS.values():
        text = metric_text(metric.name)
        assert text.meaning and text.label != metric.name, metric.name
        assert text.better == metric.better, metric.name


def test_numbers_in_words():
    assert [number(x) for x in (0, 1234.5, 0.012345, -3.14159, 1e-5, 2e6, math.nan, -math.inf)] == [
        "0",
        "1234",
        "0.0123",
        "\N{MINUS SIGN}3.14",
        "1.00e\N{MINUS SIGN}5",
        "2.00e6",
        "n/a",
        "\N{MINUS SIGN}∞",
    ]
    assert [fixed(x) for x in (-0.001, -0.5, math.nan)] == ["0.00", "\N{MINUS SIGN}0.50", "n/a"]
    assert shorten("abcdefghij", 5) == "ab…ij" and shorten("abc", 5) == "abc"
    assert metric_text("capture_mmd").label == "captured, by MMD"
    assert metric_text("unheard").label == "unheard"
    nested = {"a": {"b": 1, "c": []}, "d": None, "e": True, "f": {}, "g": [1, 2]}
    assert flatten(nested) == [
        ("a.b", "1"),
        ("a.c", "(empty)"),
        ("d", "(not set)"),
        ("e", "true"),
        ("f", "(empty)"),
        ("g", "1, 2"),
    ]
