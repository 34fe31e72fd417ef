"""Plain classifiers of cells that every annotator is put beside: logistic regression, a perceptron, nearest cells.

All of them see log-normalized expression of genes that are the most variable ones of the training cells, and nothing
else of the study; measurements that are no counts are taken as they are.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import jax.random as jr
import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float, Int, PRNGKeyArray
from pydantic import Field

from cellgap.errors import ConfigError, DataError
from cellgap.evaluate._annotation_targets import domain_names, labels_of
from cellgap.settings import settings
from cellgap.space import Genes, GeneSpace
from cellgap.study import Role, Split

_Positive = Annotated[int, Field(ge=1)]
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
_ROUNDS = 300
_FLOOR = 1e-7


@dataclass(frozen=True, eq=False)
class FittedBaseline:
    """A classifier of scikit-learn and what it reads.

    Parameters
    ----------
    genes
        Which genes, and their transform.
    center, scale
        Subtracted from and divided out of gene space.
    axes
        Directions onto which it is projected; None keeps genes.
    classifier
        With ``predict_proba``.
    classes
        In the order of the columns of probabilities.
    trials
        What was chosen from, one row a candidate and held-out fold; may be empty.
    """

    genes: GeneSpace
    center: Float[np.ndarray, " genes"]
    scale: Float[np.ndarray, " genes"]
    axes: Float[np.ndarray, "genes dim"] | None
    classifier: Any
    classes: tuple[str, ...]
    trials: pd.DataFrame = field(default_factory=pd.DataFrame)

    def predict_proba(self, adata: AnnData, rows: Sequence[int] | np.ndarray | None = None) -> pd.DataFrame:
        """Return probabilities, one row a cell and one column a class."""
        x = (self.genes.encode(adata, rows) - self.center) / self.scale
        p = self.classifier.predict_proba(x if self.axes is None else x @ self.axes)
        names = adata.obs_names.astype(str)
        index = names if rows is None else names[np.asarray(rows)]
        return pd.DataFrame(p, index=index, columns=pd.Index(self.classes))


@settings
class LogisticBaseline:
    """Multinomial logistic regression with a ridge penalty whose strength is chosen on domains left out.

    Every source domain is left out in turn (five groups of them where there are more, folds of cells where there is
    one), and the strength of least log loss is taken. The variable genes are those of all source domains.

    Parameters
    ----------
    domains
        Column of the domains; None: folds of cells.
    n_top
        Number of variable genes, at most.
    strengths
        Inverse penalties C to choose from.
    """

    domains: str | None = None
    n_top: _Positive = 2000
    strengths: tuple[Annotated[float, Field(gt=0)], ...] = STRENGTHS

    seeded = False

    def fit(self, split: Split, label: str, *, key: PRNGKeyArray) -> FittedBaseline:
        """Return the fitted classifier.

        Raises
        ------
        DataError
            There are fewer than two classes, or the measurements do not suit.
        """
        from sklearn.linear_model import LogisticRegression

        if not self.strengths:
            raise ConfigError("LogisticBaseline needs a strength to choose from, found none.")
        space, x, y = _training(split, label, self.n_top)
        center = x.mean(axis=0)
        x, axes = _spanned(x - center)
        groups = None if self.domains is None else domain_names(split.study, self.domains)[_rows(split, label)]
        folds = _folds(y, groups, key)

        def fitted(train: np.ndarray) -> "list[LogisticRegression]":
            """Return a classifier for every strength, each started at the one before."""
            model, found = LogisticRegression(max_iter=_ROUNDS, warm_start=True), []
            for strength in sorted(self.strengths):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a fit that is nearly there is good enough to be beaten
                    model.set_params(C=strength).fit(x[train], y[train])
                found.append(_frozen(model))
            return found

        trials = []
        for name, held in folds if len(self.strengths) > 1 else []:
            train = ~held
            if len(np.unique(y[train])) < 2:
                continue
            known = held & np.isin(y, np.unique(y[train]))
            for strength, model in zip(sorted(self.strengths), fitted(train), strict=True):
                if known.any():
                    p = model.predict_proba(x[known])
                    own = p[np.arange(len(p)), np.searchsorted(model.classes_, y[known])]
                    right = model.classes_[p.argmax(axis=1)] == y[known]
                    loss = -np.log(np.maximum(own, _FLOOR)).mean()
                    trials.append((f"C = {strength:g}", name, float(loss), float(right.mean())))
        table = pd.DataFrame(trials, columns=pd.Index(["candidate", "domain", "log_loss", "accuracy"]))
        order = [f"C = {strength:g}" for strength in sorted(self.strengths)]
        means = table.groupby("candidate")["log_loss"].mean().reindex(order) if len(table) else None
        place = order.index("C = 1") if "C = 1" in order else 0
        if means is not None:
            place = int(np.argmin(means.to_numpy()))
        table["chosen"] = table["candidate"] == order[place]
        model = fitted(np.ones(len(y), bool))[place]
        return FittedBaseline(space, center, np.ones_like(center), axes, model, tuple(model.classes_.tolist()), table)


@settings
class MLPBaseline:
    """scikit-learn's perceptron on variable genes, all cells alike: empirical risk minimization.

    Log-normalized genes are centered and not scaled, which would make as much of genes that are nearly always 0 as of
    all others; other measurements are scaled.

    Parameters
    ----------
    n_top
        Number of variable genes, at most.
    hidden
        Widths of hidden layers.
    alpha
        Weight decay.
    most_epochs
        Epochs, at most; fewer where the loss no longer falls.
    """

    n_top: _Positive = 2000
    hidden: tuple[_Positive, ...] = (64, 64)
    alpha: Annotated[float, Field(ge=0)] = 1e-4
    most_epochs: _Positive = 60

    seeded = True

    def fit(self, split: Split, label: str, *, key: PRNGKeyArray) -> FittedBaseline:
        """Return the fitted classifier; see `LogisticBaseline.fit`."""
        from sklearn.neural_network import MLPClassifier

        space, x, y = _training(split, label, self.n_top)
        center, sd = x.mean(axis=0), x.std(axis=0)
        scaled = (sd > 0) & (space.transform != "lognorm")
        scale = np.where(scaled, sd, 1.0).astype(np.float32)
        model = MLPClassifier(self.hidden, alpha=self.alpha, max_iter=self.most_epochs, random_state=_seed(key))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit((x - center) / scale, y)
        return FittedBaseline(space, center, scale, None, model, tuple(model.classes_.tolist()))


@settings
class KNNBaseline:
    """The nearest training cells in principal components of variable genes; probabilities are shares of neighbors.

    Parameters
    ----------
    n_top
        Number of variable genes, at most.
    k
        Neighbors.
    dim
        Principal components of the training cells, at most.
    """

    n_top: _Positive = 2000
    k: _Positive = 15
    dim: _Positive = 50

    seeded = False

    def fit(self, split: Split, label: str, *, key: PRNGKeyArray) -> FittedBaseline:
        """Return the fitted classifier; see `LogisticBaseline.fit`."""
        from sklearn.decomposition import PCA
        from sklearn.neighbors import KNeighborsClassifier

        space, x, y = _training(split, label, self.n_top)
        center = x.mean(axis=0)
        most = max(1, min(self.dim, min(x.shape) - 1))
        pca: Any = PCA(most, svd_solver="randomized", random_state=0).fit(x - center)
        axes = pca.components_.T
        model = KNeighborsClassifier(min(self.k, len(y))).fit((x - center) @ axes, y)
        one = np.ones_like(center)
        return FittedBaseline(space, center, one, axes, model, tuple(model.classes_.tolist()))


def baseline(name: str, domains: str) -> Any:
    """Return the baseline of a name.

    Raises
    ------
    ConfigError
        The name is unknown.
    """
    made = {"logistic": LogisticBaseline(domains), "knn": KNNBaseline(), "mlp": MLPBaseline()}
    if name not in made:
        raise ConfigError(f"Unknown baseline {name!r}: expected one of {', '.join(made)}.")
    return made[name]


def _rows(split: Split, label: str) -> Int[np.ndarray, " cells"]:
    """Return the training cells that have a label."""
    rows = split.cells(Role.TRAIN, Role.VALID)
    known = np.asarray([name is not None for name in labels_of(split.study, label)[rows]], bool)
    return rows[known]


def _training(split: Split, label: str, n_top: int) -> tuple[GeneSpace, np.ndarray, np.ndarray]:
    """Return the genes, gene space of the training cells, float32, and their labels."""
    study, rows = split.study, _rows(split, label)
    genes = Genes(n_top=min(n_top, study.n_vars), transform="lognorm" if study.is_counts else "none")
    y = labels_of(study, label)[rows].astype(str)
    if len(np.unique(y)) < 2:
        only = f"is {y[0]!r} alone" if len(y) else "has no label at all"
        raise DataError(f'A classifier needs two classes, but obs["{label}"] of the training cells {only}.')
    space = genes.fit_unscored(split)
    return space, space.encode(study.adata, rows), y


def _spanned(x: Float[np.ndarray, "n genes"]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return cells in an orthonormal basis of what they span where that is smaller: a ridge penalty is the same there.

    Weights outside of the span do nothing for the loss and cost penalty, so the solution on genes lies inside.
    """
    if len(x) >= x.shape[1]:
        return x, None
    _, size, axes = np.linalg.svd(x, full_matrices=False)
    kept = axes[size > 1e-6 * max(size[0], 1e-30)].T
    return x @ kept, kept


def _folds(y: np.ndarray, groups: np.ndarray | None, key: PRNGKeyArray, most: int = 5) -> list[tuple[str, np.ndarray]]:
    """Return names and masks of held-out cells: domains, groups of domains, or folds stratified by class."""
    if groups is not None and len(np.unique(groups)) > 1:
        names, code, size = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
        load, part = np.zeros(min(most, len(names))), np.zeros(len(names), int)
        for i in np.argsort(-size, kind="stable"):  # the largest domain first, to the smallest group
            part[i] = int(np.argmin(load))
            load[part[i]] += size[i]
        return [(" + ".join(names[part == g]), part[code] == g) for g in range(len(load))]
    rng, part, start = np.random.default_rng(_seed(key)), np.zeros(len(y), int), 0
    for name in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == name))
        part[rows] = (start + np.arange(len(rows))) % most
        start += len(rows)
    return [(f"fold {g + 1}", part == g) for g in range(min(most, len(y)))]


def _frozen(model: Any) -> Any:
    """Return a copy of a classifier that further fits do not touch."""
    import copy

    return copy.deepcopy(model)


def _seed(key: PRNGKeyArray) -> int:
    """Return a seed of NumPy from a random key."""
    return int(jr.bits(key, dtype="uint32"))
