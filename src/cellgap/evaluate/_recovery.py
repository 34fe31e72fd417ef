"""How well scores of edges find a known network: rankings, thresholds, stability, and a null for dense priors."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from cellgap.errors import ConfigError, DataError


def network_scores(
    scores: Any,
    truth: Any,
    *,
    k: int | None = None,
    threshold: float | None = None,
    self_edges: bool = False,
) -> pd.Series:
    """Return how well the edges of a network are found.

    Parameters
    ----------
    scores
        Of each edge, (regulator, target), higher is more certain: take absolute values of signed ones. An array, or a
        table with names.
    truth
        The edges: an array or a table like `scores`, where anything but 0 is an edge (signs may stay), or a table of
        edges with the columns ``regulator`` and ``target``. Tables are matched by name, and only pairs that both know
        are scored; a list of edges speaks of all pairs of its regulators and its targets.
    k
        Number of edges to take; by default that of the true ones.
    threshold
        Edges with scores above it are the network that a model itself gives.
    self_edges
        Whether edges from a variable to itself count.

    Returns
    -------
    scores
        ``auroc``, ``auprc`` (average precision), ``auprc_ratio`` (1 is chance), ``density``: share of pairs that are
        edges; ``tpr_at_k, fpr_at_k, fdr_at_k``: of the k best, equal scores counted by their share. With a threshold,
        ``tpr, fpr, fdr`` (0 where there is no edge), ``edges``: their number, and ``shd``: the structural Hamming
        distance, missing and superfluous edges, where a reversed one counts once.

    Raises
    ------
    ConfigError
        ``k`` is out of range.
    DataError
        Scores and truth do not match or are not finite, or all or none of the pairs are edges.

    Source
    ------
    Tsamardinos, Brown and Aliferis (2006) for the structural Hamming distance.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    matched = _matched(scores, truth, self_edges)
    score, true = matched.score[matched.asked], matched.true[matched.asked]
    positive, pairs = int(true.sum()), len(true)
    if positive in (0, pairs):
        raise DataError(f"{positive} of {pairs} pairs are true edges: a ranking needs both edges and others.")
    k = positive if k is None else k
    found = float(_taken(score, k) @ true)
    density = positive / pairs
    auprc = float(average_precision_score(true, score))
    result: dict[str, float] = {
        "auroc": float(roc_auc_score(true, score)),
        "auprc": auprc,
        "auprc_ratio": auprc / density,
        "density": density,
        "tpr_at_k": found / positive,
        "fpr_at_k": (k - found) / (pairs - positive),
        "fdr_at_k": 1 - found / k,
    }
    if threshold is not None:
        edges = score > threshold
        n, right = int(edges.sum()), int((edges & true).sum())
        result |= {
            "tpr": right / positive,
            "fpr": (n - right) / (pairs - positive),
            "fdr": (n - right) / n if n else 0.0,
            "edges": n,
            "shd": _hamming(matched, threshold),
        }
    return pd.Series(result, dtype=np.float64)


def jaccard_of_networks(scores: Sequence[Any], k: int, *, self_edges: bool = False, seed: int = 0) -> float:
    """Return how alike networks are: the mean Jaccard index of the k best edges over all pairs of networks.

    Parameters
    ----------
    scores
        Of the edges, one (regulator, target) array or table a network (a seed, a fold), all of the same variables.
    k
        Number of edges of each network.
    self_edges
        Whether edges from a variable to itself count.
    seed
        Of the choice between equal scores, which is made anew in each network: edges that nothing tells apart must not
        look stable.

    Raises
    ------
    ConfigError
        ``k`` is out of range.
    DataError
        There are fewer than two networks, or they have different variables.
    """
    if len(scores) < 2:
        raise DataError(f"a Jaccard index compares two networks or more, found {len(scores)}.")
    rng = np.random.default_rng(seed)
    first, best = _table(scores[0], "scores"), []
    for one in scores:
        table = _table(one, "scores")
        if set(table.index) != set(first.index) or set(table.columns) != set(first.columns):
            raise DataError("networks to compare need the same regulators and targets.")
        table = table.loc[first.index, first.columns]
        wanted = self_edges | _different(first.index, first.columns)
        asked, values = np.flatnonzero(wanted), _finite(table, wanted)[wanted]
        _refuse_k(k, len(values))
        best.append(set(asked[np.lexsort((rng.random(len(values)), -values))[:k]].tolist()))
    return float(np.mean([len(a & b) / len(a | b) for a, b in combinations(best, 2)]))


def recovery_null(
    scores: Any, truth: Any, *, k: int | None = None, n: int = 1000, seed: int = 0, self_edges: bool = False
) -> pd.Series:
    """Return the number of true edges among the k best beside what regulators with exchanged names would have.

    Where half of all pairs are "true", any ranking of targets looks good against such a prior; what counts is whether
    the regulators are the right ones.

    Parameters
    ----------
    scores, truth, self_edges
        As for `network_scores`.
    k
        Number of edges to take; by default that of the true ones.
    n
        Number of permutations of the regulators.
    seed
        Of the permutations.

    Returns
    -------
    result
        ``k, observed``, ``null_mean, null_sd`` of the permutations, and ``p_value``: one-sided, at least ``1/(n + 1)``.

    Raises
    ------
    ConfigError
        ``k`` or ``n`` is out of range.
    DataError
        Scores and truth do not match, there is no true edge, or fewer than two regulators.

    Notes
    -----
    A permuted regulator may meet its own gene as a target, of which the truth says nothing: the pair counts as the
    share of that regulator's other pairs that are edges.
    """
    if n < 1:
        raise ConfigError(f"a null needs at least one permutation, found n={n}.")
    matched = _matched(scores, truth, self_edges)
    rows = matched.asked.any(1)
    asked, true = matched.asked[rows], matched.true[rows]
    positive = int(true[asked].sum())
    if not positive or len(asked) < 2:
        raise DataError(f"a permutation of regulators needs two and a true edge, found {len(asked)} and {positive}.")
    k = positive if k is None else k
    taken = np.zeros(asked.shape)
    taken[asked] = _taken(matched.score[rows][asked], k)
    share = (true & asked).sum(1, keepdims=True) / asked.sum(1, keepdims=True)
    # Entry (i, j): true edges among the best of regulator i, were its name j.
    named = taken @ np.where(asked, true, share).T
    rng, each = np.random.default_rng(seed), np.arange(len(asked))
    null = np.array([named[each, rng.permutation(len(asked))].sum() for _ in range(n)])
    observed = float(np.trace(named))
    return pd.Series(
        {
            "k": float(k),
            "observed": observed,
            "null_mean": float(null.mean()),
            "null_sd": float(null.std()),
            "p_value": float((1 + (null >= observed - 1e-9).sum()) / (n + 1)),
        }
    )


class _Matched:
    """Scores and truth of the same regulators and targets, and which of the pairs are asked about."""

    def __init__(self, scores: pd.DataFrame, truth: pd.DataFrame, self_edges: bool):
        self.regulators, self.targets = scores.index, scores.columns
        self.asked: Bool[np.ndarray, "r t"] = self_edges | _different(self.regulators, self.targets)
        self.score: Float[np.ndarray, "r t"] = _finite(scores, self.asked)
        self.true: Bool[np.ndarray, "r t"] = _finite(truth, self.asked, "the truth") != 0


def _matched(scores: Any, truth: Any, self_edges: bool) -> _Matched:
    ours = _table(scores, "scores")
    if isinstance(truth, pd.DataFrame) and {"regulator", "target"} <= set(truth.columns):
        theirs = pd.crosstab(truth["regulator"], truth["target"])
    else:
        theirs = _table(truth, "the truth")
        # An array has no names: it is in the order of the other one.
        if isinstance(scores, pd.DataFrame) != isinstance(truth, pd.DataFrame):
            if ours.shape != theirs.shape:
                raise DataError(f"scores are {ours.shape} and the truth is {theirs.shape}: give names with both.")
            named = ours if isinstance(scores, pd.DataFrame) else theirs
            ours, theirs = (t.set_axis(named.index).set_axis(named.columns, axis=1) for t in (ours, theirs))
        elif not isinstance(scores, pd.DataFrame) and ours.shape != theirs.shape:
            raise DataError(f"scores are {ours.shape} and the truth is {theirs.shape}: they need the same variables.")
    for table in (ours, theirs):
        if table.index.has_duplicates or table.columns.has_duplicates:
            raise DataError("a network has each regulator and each target once, but names repeat.")
    rows = ours.index[ours.index.isin(theirs.index)]
    columns = ours.columns[ours.columns.isin(theirs.columns)]
    if not len(rows) or not len(columns):
        raise DataError("scores and truth have no regulator or no target in common: their names differ.")
    return _Matched(ours.loc[rows, columns], theirs.loc[rows, columns], self_edges)


def _table(network: Any, what: str) -> pd.DataFrame:
    if isinstance(network, pd.DataFrame):
        return network
    values = np.asarray(network)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise DataError(f"{what} without names are a square (regulator, target) array, found {values.shape}.")
    return pd.DataFrame(values)


def _finite(table: pd.DataFrame, asked: np.ndarray, what: str = "scores") -> Float[np.ndarray, "r t"]:
    try:
        values = table.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} of edges are numbers, one for each regulator and target.") from error
    if not np.isfinite(values[asked]).all():
        raise DataError(f"{what} of edges are finite numbers, found NaN or infinity.")
    return np.where(asked, values, 0.0)


def _different(regulators: pd.Index, targets: pd.Index) -> Bool[np.ndarray, "r t"]:
    """Return which pairs are of two variables."""
    return np.asarray(regulators)[:, None] != np.asarray(targets)[None]


def _refuse_k(k: int, pairs: int) -> None:
    if not isinstance(k, int | np.integer) or not 1 <= k <= pairs:
        raise ConfigError(f"k is a whole number of 1 to {pairs} edges, found {k!r}.")


def _taken(score: Float[np.ndarray, " p"], k: int) -> Float[np.ndarray, " p"]:
    """Return how much of each pair is among the k best: those with the k-th score share what is left."""
    _refuse_k(k, len(score))
    last = np.partition(score, len(score) - k)[len(score) - k]
    above, tied = score > last, score == last
    return above + tied * ((k - above.sum()) / tied.sum())


def _hamming(matched: _Matched, threshold: float) -> int:
    """Return the structural Hamming distance of the network above a threshold."""
    names = matched.regulators.union(matched.targets, sort=False)
    rows, columns = names.get_indexer(matched.regulators), names.get_indexer(matched.targets)
    missing, extra = (np.zeros((len(names), len(names)), bool) for _ in range(2))
    edges = matched.score > threshold
    missing[np.ix_(rows, columns)] = matched.true & ~edges & matched.asked
    extra[np.ix_(rows, columns)] = ~matched.true & edges & matched.asked
    return int(missing.sum() + extra.sum() - (missing & extra.T).sum())
