"""Numbers and metric names in the words of a biologist."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class MetricText:
    """How a metric is called on the page, which direction is better, and what it asks."""

    label: str
    better: str  # "higher", "lower", "one" (the nearer to 1 the better) or "" where unknown
    meaning: str


_METRICS = {
    "r2_mean": MetricText(
        "agreement of means (r²)",
        "higher",
        "Do the mean expressions of the genes agree? Near 1 even for untreated cells, so read it only beside r2_delta.",
    ),
    "r2_delta": MetricText(
        "agreement of effects (r²)",
        "higher",
        "Do the mean changes against the controls agree, gene by gene?",
    ),
    "r2_var": MetricText(
        "agreement of variances (r²)",
        "higher",
        "Is the spread among cells right, gene by gene?",
    ),
    "pearson_delta": MetricText(
        "correlation of effects", "higher", "Correlation of predicted and measured mean changes over genes."
    ),
    "sign_accuracy": MetricText(
        "right direction", "higher", "Share of the most changed genes that move in the right direction."
    ),
    "top_overlap": MetricText(
        "overlap of changed genes", "higher", "Share of the most changed genes that the prediction also changes most."
    ),
    "discrimination": MetricText(
        "discrimination (rank)",
        "higher",
        "Is the predicted effect nearer to its own measured effect than to those of other treatments? 0.5 is chance.",
    ),
    "variance_ratio": MetricText(
        "variance ratio",
        "one",
        "Predicted over measured variance, averaged over genes: below 1 the predicted cells are too alike.",
    ),
    "total_variance_ratio": MetricText(
        "total variance ratio",
        "one",
        "Predicted over measured variance, summed over genes: below 1 the predicted cells are too alike.",
    ),
    "mmd": MetricText(
        "MMD", "lower", "Maximum mean discrepancy: can the predicted population be told from the measured one?"
    ),
    "mmd_u": MetricText(
        "MMD (unbiased)", "lower", "MMD without the bias of small samples: about 0 for equal populations."
    ),
    "energy": MetricText("energy distance", "lower", "Distance between the two populations of cells, shape included."),
    "energy_squared": MetricText(
        "energy distance (squared)",
        "lower",
        "Energy distance with squared distances: sees the difference of means only.",
    ),
    "sinkhorn": MetricText(
        "Sinkhorn divergence", "lower", "How far the predicted cells must be moved to become the measured ones."
    ),
    "divergence2": MetricText(
        "Sinkhorn divergence (two batches)",
        "lower",
        "Taken from independent draws of cells, so that the truth scores 0 and too narrow predictions gain nothing.",
    ),
    "l2_uvp": MetricText(
        "unexplained movement (%)", "lower", "Error of the map against the true map, in percent of the variance."
    ),
    "w2": MetricText("2-Wasserstein", "lower", "Exact optimal-transport distance between the two populations."),
    "drug_signature": MetricText(
        "distance of effects", "lower", "Length of the difference between predicted and measured mean effect."
    ),
    "pds_cosine": MetricText(
        "discrimination (rank)",
        "higher",
        "Is the predicted effect nearer to its own measured effect than to those of the other treatments?",
    ),
    "expr_mse_unbiased_capped_norm": MetricText("expression error", "lower", "Squared error of mean expression."),
    "de_wilcoxon_direction_fidelity_yield_raw": MetricText(
        "direction of changed genes", "higher", "Do the genes called changed move in the right direction?"
    ),
    "de_wilcoxon_direction_reach_raw": MetricText(
        "reach of changed genes", "higher", "How many of the truly changed genes are found with the right direction?"
    ),
    "de_wilcoxon_sig_jaccard": MetricText(
        "overlap of changed genes", "higher", "Overlap of the genes called changed in prediction and measurement."
    ),
    "de_wilcoxon_lfc_nmae": MetricText(
        "fold-change error", "lower", "Error of the log fold changes of the changed genes."
    ),
}
_CAPTURE = MetricText(
    "effect captured",
    "higher",
    "Share of the distance between controls and treated cells that the prediction closes: 1 is perfect, 0 is no better"
    " than leaving the controls as they are.",
)


def metric_text(metric: str) -> MetricText:
    """Return the label, direction and meaning of `metric`; an unknown one is called by its own name."""
    if metric in _METRICS:
        return _METRICS[metric]
    if metric == "capture":
        return _CAPTURE
    if metric.startswith("capture_"):
        of = metric.removeprefix("capture_")
        return MetricText(f"captured, by {metric_text(of).label}", _CAPTURE.better, _CAPTURE.meaning)
    return MetricText(metric, "", "")


def number(x: Any, digits: int = 3) -> str:
    """Return `x` with `digits` significant digits, a true minus sign, and "n/a" where there is no number."""
    value = float(x)
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e5 or size < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{value:.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
    return text.replace("-", MINUS)


def fixed(x: Any, decimals: int = 2) -> str:
    """Return `x` with `decimals` decimals, as scaled scores are written."""
    value = float(x)
    if not math.isfinite(value):
        return number(value)
    text = f"{value:.{decimals}f}"
    return (text if float(text) else text.replace("-", "")).replace("-", MINUS)


def interval(low: Any, high: Any) -> str:
    """Return ``"0.1 to 0.3"``, or an empty string where an end is missing."""
    if math.isfinite(float(low)) and math.isfinite(float(high)):
        return f"{fixed(low)} to {fixed(high)}"
    return ""


def count(n: Any, one: str, many: str = "") -> str:
    """Return ``"1 cell"`` or ``"1,200 cells"``."""
    return f"{int(n):,} {one if int(n) == 1 else many or one + 's'}"


def shorten(text: str, length: int) -> str:
    """Return `text`, cut in the middle to at most `length` characters: both ends of a name tell things apart."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return text[:head] + "…" + text[len(text) - (length - 1 - head) :]


def listing(items: Iterable[str]) -> str:
    """Return ``"a, b and c"``."""
    *most, last = list(items) or [""]
    return f"{', '.join(most)} and {last}" if most else last


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the leaves of nested mappings as (dotted name, text) in the order given."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            rows.extend(flatten(value, f"{name}."))
        else:
            rows.append((name, _plain(value)))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(empty)"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "(empty)"
    if value is None:
        return "(not set)"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
