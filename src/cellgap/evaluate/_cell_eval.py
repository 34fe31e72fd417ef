"""The field's scorer: the package cell-eval2 and its six-member preset ``vcc2026``, called as it is."""

import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from anndata import AnnData

from cellgap.errors import DataError, MissingExtraError
from cellgap.evaluate._count_panels import CONTROL, LABEL


class Member(NamedTuple):
    """One member of the suite.

    Parameters
    ----------
    name
        As in cell-eval2.
    short
        Heading of a column.
    better
        Which way is better.
    least
        Fewest perturbations for which it says anything.
    meaning
        One sentence.
    """

    name: str
    short: str
    better: Literal["higher", "lower"]
    least: int
    meaning: str


MEMBERS = (
    Member(
        *("pds_cosine", "PDS", "higher", 2),
        "rank of the own measured effect among all, by cosine distance to the predicted one; 0.5 is chance",
    ),
    Member(
        *("expr_mse_unbiased_capped_norm", "error", "lower", 1),
        "squared error of mean expression over the squared effect, sampling noise subtracted; 1 is no effect predicted",
    ),
    Member(
        *("de_wilcoxon_direction_fidelity_yield_raw", "fidelity", "higher", 1),
        "genes called changed with the right sign, over the larger of those called and those that are changed",
    ),
    Member(
        *("de_wilcoxon_direction_reach_raw", "reach", "higher", 1),
        "how far down the ranking of the changed genes nine in ten signs are right",
    ),
    Member(
        *("de_wilcoxon_sig_jaccard", "overlap", "higher", 1),
        "genes called changed in both, over those called in either",
    ),
    Member(
        *("de_wilcoxon_lfc_nmae", "fold error", "lower", 1),
        "error of the log fold changes of the changed genes over their size; 1 is no change predicted",
    ),
)
"""The six scored members of ``vcc2026``, in the order of its description."""

NAMES = tuple(member.name for member in MEMBERS)

# The test that every installation has; the others of the package give other p-values.
_BACKEND = "scanpy"


ERROR, DISTANCE = "expr_mse_unbiased_capped", "expr_distance_unbiased"
_RATIO = "expr_mse_unbiased_capped_norm"  # of the sums of the two over perturbations


class Score(NamedTuple):
    """One member of one prediction: ``value = total / weight``, so that panels are pooled by adding both.

    Parameters
    ----------
    value
        As the package says; NaN where it has none.
    total, weight
        Sum over perturbations and their number; of the error, the sums of squared errors and of squared effects, which
        are known even where noise leaves no effect in a single panel.
    n
        Perturbations with a value.
    """

    value: float
    total: float
    weight: float
    n: int


NOTHING = Score(float("nan"), float("nan"), float("nan"), 0)
Scores = Mapping[str, Score]


class Scorer:
    """The preset ``vcc2026`` against one measured panel; the measured side is worked out once and kept until closed.

    Parameters
    ----------
    measured
        Counts with labels in ``obs["perturbation"]``, and controls.
    target_genes
        Gene that each perturbation hits, by label, which is then left out of its scores; None for none of them.
    """

    def __init__(self, measured: AnnData, target_genes: Mapping[str, str] | None = None) -> None:
        from cell_eval2 import EvalConfig

        preset = EvalConfig.from_preset("vcc2026")
        genes: dict[str, str | None] = {"*": None, **(target_genes or {})}
        self.config = replace(
            preset,
            pert_col=LABEL,
            control=CONTROL,
            target_gene_map=genes,
            device="cpu",
            de=replace(preset.de, backend=_BACKEND),
        )
        self.measured = measured
        self.n_perturbations = len(set(measured.obs[LABEL].astype(str)) - {CONTROL})
        self._kept = tempfile.TemporaryDirectory(prefix="cellgap-suite-")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept.cleanup()

    def score(self, predicted: AnnData) -> Scores:
        """Return the members of a prediction.

        Raises
        ------
        DataError
            The scorer refuses the counts.
        """
        from cell_eval2 import aggregate_metrics, compute_metrics

        with _called():
            table = compute_metrics(predicted, self.measured, config=replace(self.config, cache_real=self._kept.name))
            effect = table.filter(table["metric"] == DISTANCE)["value"].drop_nulls().drop_nans().sum()
            # Where noise leaves no effect in a panel, the package refuses the ratio; its two parts are known.
            chosen = None if effect > 0 else [name for name in table["metric"].unique() if name != _RATIO]
            means = aggregate_metrics(table, metrics=chosen)
        finite = table.filter(table["value"].is_not_null() & table["value"].is_not_nan())
        n = {str(name): len(part) for (name,), part in finite.group_by("metric")}
        return self._scores(dict(zip(means["metric"].to_list(), means["mean"].to_list(), strict=True)), n)

    def _scores(self, means: Mapping[str, Any], n: Mapping[str, int]) -> dict[str, Score]:
        """Return the members from the package's means over perturbations, and the numbers of perturbations."""
        scores = {}
        for member in MEMBERS:
            value, count = _number(means.get(member.name)), n.get(member.name, 0)
            total, weight = value * count, float(count)
            if member.name == _RATIO:
                count = min(n.get(ERROR, 0), n.get(DISTANCE, 0))
                total, weight = (_number(means.get(part)) * count for part in (ERROR, DISTANCE))
            known = self.n_perturbations >= member.least and count > 0
            scores[member.name] = Score(value, total, weight, count) if known else NOTHING
        return scores

    def replicate(self, *, n_splits: int, seed: int) -> dict[str, Score]:
        """Return the members of a repeat of the experiment: one half of the measured cells against the other.

        The package's own anchor, averaged over splits. Each half has half of the treated and half of the control
        cells, so this repeat is noisier than the measurement. No value where the package has no anchor for a member,
        such as where half of the cells call no gene changed.
        """
        found = self._anchor(None, n_splits, seed)
        if found is None:
            found = {}
            for names in (*([name] for name in NAMES), [ERROR, DISTANCE]):
                found |= self._anchor(names, n_splits, seed) or {}
        return self._scores(found, dict.fromkeys((*NAMES, ERROR, DISTANCE), self.n_perturbations))

    def _anchor(self, names: list[str] | None, n_splits: int, seed: int) -> dict[str, float] | None:
        """Return the package's anchor of some metrics (None: of the preset), or None where it has none for one."""
        from cell_eval2.anchor import compute_replicate_anchor

        config = self.config if names is None else replace(self.config, metrics=names)
        try:
            with _called(refused=False):
                _, anchor = compute_replicate_anchor(self.measured, config=config, base_seed=seed, n_splits=n_splits)
        except ValueError:
            return None
        return dict(zip(anchor["metric"].to_list(), anchor["replicate"].to_list(), strict=True))

    def generic(self, *, seed: int) -> dict[str, Score]:
        """Return the members of the package's own baseline: the mean of all *measured* responses, for everyone.

        It has seen the held-out cells, which no prediction has; of a single perturbation it would be the answer, and is
        NaN.
        """
        from cell_eval2 import build_generic_baseline

        if self.n_perturbations < 2:
            return dict.fromkeys(NAMES, NOTHING)
        excluded = any(gene is not None for gene in (self.config.target_gene_map or {}).values())
        with _called():
            built = build_generic_baseline(
                self.measured, config=self.config, exclude_target_gene=excluded, seed=seed, allow_degenerate=True
            )
        row = built.agg.filter(built.agg["statistic"] == "mean").to_dicts()[0]
        return self._scores(row, dict.fromkeys((*NAMES, ERROR, DISTANCE), self.n_perturbations))


def competition_score(name: str, value: float, generic: float, replicate: float) -> float:
    """Return the package's own scaled score of a member: 0 its generic baseline, 1 its replicate, with its limits.

    NaN where the replicate is not better than the baseline, so that there is no scale.

    Parameters
    ----------
    name
        Of the member.
    value, generic, replicate
        Of the prediction and of the two ends of the scale.
    """
    from cell_eval2.catalog import CATALOG
    from cell_eval2.scoring import is_degenerate, score_one

    if not all(map(math.isfinite, (value, generic, replicate))):
        return math.nan
    policy = replace(CATALOG[name].scoring, anchor=replicate, allow_negative_baseline=False)
    return math.nan if is_degenerate(generic, policy) else float(score_one(value, generic, policy))


def scorer_needed() -> None:
    """Raise where the scorer is not installed.

    Raises
    ------
    MissingExtraError
        cell-eval2 is not installed.
    """
    try:
        import cell_eval2  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            'The suite vcc2026 is the package cell-eval2, which is not installed: run `pip install "cellgap[eval]"`.'
        ) from None


@contextmanager
def _called(*, refused: bool = True) -> Iterator[None]:
    """Let the package work without its remarks; what it refuses is a ``DataError`` in one sentence.

    Its remarks are about genes without counts (scanpy divides by their spread), about tables with one column a
    perturbation, and about perturbations with few changed genes, which the table says.
    """
    logger = logging.getLogger("cell_eval2")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"scanpy\.tools\._rank_genes_groups")
            yield
    except ValueError as error:
        if not refused:
            raise
        raise DataError(f"cell-eval2 refuses these counts: {str(error).split('. ')[0]}.") from error
    finally:
        logger.setLevel(level)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
