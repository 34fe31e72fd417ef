"""The headline in plain words, honest in both directions."""

import math
from dataclasses import dataclass

from cellgap.report._data import ReportData
from cellgap.report._lookup import Comparison, Key
from cellgap.report._scores import Scores
from cellgap.report._words import count, fixed, interval, listing, metric_text

_FEW = 6  # below this many conditions a bootstrap interval is rough


@dataclass(frozen=True)
class Verdict:
    """The headline box: its tone (``better``, ``unclear``, ``worse``, ``unknown``), one bold line, and the rest."""

    tone: str
    lead: str
    sentences: tuple[str, ...]


def verdict(data: ReportData, scores: Scores) -> Verdict:
    """Return where the model stands between the mean effect and a repeat, and whether it beats the best baseline."""
    key = scores.headline
    if key is None:
        return Verdict(
            "unknown",
            "No score on the common scale.",
            (
                "The tables hold no scaled score of the model, so this page cannot say where it stands between"
                f" “{data.scale_zero}” (0) and “{data.scale_one}” (1).",
            ),
        )
    tone, lead, paired = _against_baseline(scores, key)
    sentences = [_where(data, scores, key), *paired]
    if scores.substituted:
        sentences.insert(
            0, f"There is no scaled score for {data.headline}; the headline is the first metric that has one."
        )
    tally = _tally(scores)
    if tally:
        sentences.append(tally)
    n = scores.summary[scores.model, key].n
    if 0 < n < _FEW:
        sentences.append(f"{count(n, 'condition').capitalize()} only: read the intervals as rough.")
    return Verdict(tone, lead, tuple(sentences))


def _where(data: ReportData, scores: Scores, key: Key) -> str:
    own = scores.summary[scores.model, key]
    ends = interval(own.scaled_low, own.scaled_high)
    text = (
        f"On {own.n} {data.scored_on}, {scores.model} scores {fixed(own.scaled)}"
        f"{f' (95 % interval {ends})' if ends else ''} for {metric_text(key[0]).label}, where 0 is the"
        f" {data.scale_zero} given to every condition and 1 is as good as repeating the experiment."
    )
    if own.scaled >= 1:
        return f"{text} That is as close as a repeat of the experiment would be."
    if own.scaled <= 0:
        return f"{text} That is no better than the {data.scale_zero}."
    text = f"{text} That is {100 * own.scaled:.0f} % of the way."
    if own.scaled_low <= 0:
        text = f"{text} The interval includes 0: it may be no better than the {data.scale_zero}."
    return text


def _against_baseline(scores: Scores, key: Key) -> tuple[str, str, list[str]]:
    best = scores.best_baseline(key)
    if best is None:
        return (
            "unknown",
            "No baseline to compare with.",
            ["The tables hold no baseline, so a score alone proves little."],
        )
    found = scores.comparisons.get((best, key))
    if found is None or not math.isfinite(found.difference):
        ahead = scores.scaled(scores.model, key) > scores.scaled(best, key)
        return (
            "unclear",
            f"{'Ahead of' if ahead else 'Not ahead of'} the best baseline on average, without a test.",
            [
                f"The best baseline is “{best}” with {fixed(scores.scaled(best, key))};"
                " no paired comparison with it was made, so the difference may be chance."
            ],
        )
    if found.verdict == "unknown":
        return (
            "unclear",
            f"{'Ahead of' if found.difference > 0 else 'Not ahead of'} the best baseline, without an interval.",
            [_paired(found, "The difference to")],
        )
    if found.verdict == "better":
        return "better", "It beats the best simple baseline.", [_paired(found, "It is better than")]
    if found.verdict == "worse":
        return (
            "worse",
            "It does not beat the best simple baseline: it is worse.",
            [
                _paired(found, "It is worse than"),
                "For these conditions the simple rule is the better prediction; use that, or see the gaps below for"
                " what might help.",
            ],
        )
    return (
        "unclear",
        "It does not beat the best simple baseline: the two cannot be told apart.",
        [
            _paired(found, "It cannot be told from"),
            "As far as these conditions show, the simple rule predicts as well.",
        ],
    )


def _paired(found: Comparison, opening: str) -> str:
    ends = interval(found.low, found.high)
    inside = f"; 95 % interval {ends}" if ends else ""
    share = f", and ahead in {100 * found.share:.0f} % of them" if math.isfinite(found.share) else ""
    return (
        f"{opening} the best baseline, “{found.baseline}”: paired over {count(found.n, 'condition')} the model's score"
        f" is {fixed(abs(found.difference))} {'higher' if found.difference >= 0 else 'lower'} on the same scale"
        f" (difference {fixed(found.difference)}{inside}){share}."
    )


def _tally(scores: Scores) -> str:
    """Count the metrics on which the model is better, worse or neither, against the best baseline of each."""
    outcomes: dict[str, list[str]] = {"better": [], "unclear": [], "worse": []}
    spaces = {space for _, space in scores.keys}
    for key in scores.keys:
        best = scores.best_baseline(key)
        found = scores.comparisons.get((best, key)) if best else None
        if found and found.verdict != "unknown":
            name = metric_text(key[0]).label
            outcomes[found.verdict].append(f"{name} in {key[1]}" if len(spaces) > 1 else name)
    total = sum(map(len, outcomes.values()))
    if total < 2:
        return ""
    words = {
        "better": "better than the best baseline of that score on",
        "unclear": "not distinguishable on",
        "worse": "worse on",
    }
    whole = [outcome for outcome, names in outcomes.items() if len(names) == total]
    if whole:
        return f"Over all {total} scores compared, the model is {words[whole[0]]} every one."
    parts = []
    for outcome, names in outcomes.items():
        if names:
            shown = f" ({listing(names)})" if len(names) <= 3 else ""
            parts.append(f"{words[outcome]} {len(names)}{shown}")
    return f"Over all {total} scores compared, the model is {listing(parts)}."
