"""Every metric of the evaluation: its name, which way is better, what it needs, and what it says."""

from dataclasses import dataclass
from typing import Literal

from cellgap.errors import ConfigError

Better = Literal["higher", "lower", "one"]
Needs = Literal["means", "cells", "pairs", "transport", "conditions", "truth"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Parameters
    ----------
    name
        Name in the table.
    better
        ``"higher"``, ``"lower"``, or ``"one"`` (the nearer to 1 the better; scaled and compared as ``|log|``).
    needs
        ``"means"``: computed from mean profiles, however few rows there are. ``"cells"``: needs a population.
        ``"pairs"``: needs a population and visits all pairs of cells. ``"transport"``: needs a population and solves
        transport problems. ``"conditions"``: compares all test conditions of a context. ``"truth"``: needs the true
        map.
    meaning
        One sentence for a table's caption.
    genes_only
        Only computed in gene space.
    """

    name: str
    better: Better
    needs: Needs
    meaning: str
    genes_only: bool = False


_ALL = (
    Metric("r2_mean", "higher", "means", "squared correlation of predicted and measured means over features"),
    Metric("r2_delta", "higher", "means", "squared correlation of predicted and measured effects over features"),
    Metric("pearson_delta", "higher", "means", "correlation of predicted and measured effects over features"),
    Metric("drug_signature", "lower", "means", "length of the difference of predicted and measured effects"),
    Metric("sign_accuracy", "higher", "means", "share of the most moved genes predicted in the right direction", True),
    Metric("top_overlap", "higher", "means", "share of the most moved genes found among the predicted ones", True),
    Metric(
        "discrimination",
        "higher",
        "conditions",
        "rank of the own measured effect among all, by cosine distance to the predicted one: 1 nearest, 0.5 chance",
    ),
    Metric("r2_var", "higher", "cells", "squared correlation of predicted and measured variances over features"),
    Metric("variance_ratio", "one", "cells", "mean over features of predicted / measured variance"),
    Metric("total_variance_ratio", "one", "cells", "total predicted / total measured variance"),
    Metric("mmd", "lower", "pairs", "squared kernel discrepancy over six published bandwidths, biased (V)"),
    Metric("mmd_u", "lower", "pairs", "squared kernel discrepancy at the median distance, unbiased (U)"),
    Metric("energy", "lower", "pairs", "energy distance with Euclidean ground distance"),
    Metric(
        "energy_squared", "lower", "pairs", "energy distance with squared distances: twice the squared mean difference"
    ),
    Metric("sinkhorn", "lower", "transport", "debiased Sinkhorn divergence, squared Euclidean cost, same cells"),
    Metric(
        "divergence2", "lower", "transport", "two-batch Sinkhorn divergence, squared Euclidean cost: 0 at the truth"
    ),
    Metric("w2", "lower", "transport", "exact 2-Wasserstein distance"),
    Metric("capture_energy", "higher", "pairs", "1 - energy(P, Q) / energy(C, Q): share of the effect captured"),
    Metric("capture_mmd", "higher", "pairs", "1 - mmd_u(P, Q) / mmd_u(C, Q): share of the effect captured"),
    Metric(
        "capture_divergence2",
        "higher",
        "transport",
        "1 - divergence2(P, Q) / divergence2(C, Q): share of the effect captured",
    ),
    Metric("l2_uvp", "lower", "truth", "unexplained variance of the map in percent of the variance of the true images"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""All metrics by name."""

CAPTURED: dict[str, str] = {
    "capture_energy": "energy",
    "capture_mmd": "mmd_u",
    "capture_divergence2": "divergence2",
}
"""The distance of each captured share."""

EFFECTS = ("r2_delta", "pearson_delta", "sign_accuracy", "top_overlap")
"""Metrics of the predicted effect, undefined where none is predicted."""

DEFAULT_METRICS: tuple[str, ...] = tuple(
    name for name in METRICS if name not in ("energy_squared", "w2", "l2_uvp", "total_variance_ratio")
)
"""What `evaluate` computes unless told otherwise (and `l2_uvp`, where the true map is given)."""


def metric(name: str) -> Metric:
    """Return the metric called `name`.

    Raises
    ------
    ConfigError
        There is none.
    """
    if name not in METRICS:
        raise ConfigError(f"there is no metric {name!r}: choose from {', '.join(METRICS)}.")
    return METRICS[name]
