"""The annotator: settings, checks before any long work, and the fit."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pandas as pd
from jaxtyping import PRNGKeyArray
from pydantic import BeforeValidator, Field, model_validator
from scipy.special import log_softmax

from cellgap.annotate._axes import Axes
from cellgap.annotate._choice import SHARES, Choice, LogP, choose
from cellgap.annotate._choose_tau import CompSumObjective, TauChoice, choose_tau
from cellgap.annotate._comp_sum import CompSum
from cellgap.annotate._fitted_annotator import FittedAnnotator
from cellgap.annotate._folds import folds_of
from cellgap.annotate._gaps import accuracies_of, with_risk
from cellgap.annotate._labelled import Labelled
from cellgap.annotate._linear import ridge_path
from cellgap.annotate._networks import built, distances_of, said_by, schedule_of, train_networks
from cellgap.annotate._source import Source
from cellgap.annotate._thinned import ThinnedCounts
from cellgap.annotate._trial import Prepared, Trials, gathered, linear_said
from cellgap.annotate._unseen import Prototypes, Seen, Thresholds, thresholds_of
from cellgap.annotate._views import Views, ViewsObjective
from cellgap.annotate.drm import Guarded, GuardedResult, Trainer, fit_guarded
from cellgap.annotate.robust import AbstractRobust
from cellgap.errors import ConfigError
from cellgap.nn import Activation, GhostBatchNorm, Norm, Tower
from cellgap.settings import settings
from cellgap.space import Genes
from cellgap.study import Split, Study
from cellgap.train import Loop

_Count = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]
_MOST_ROWS = 1_000_000
_LEAST_UNSEEN = 5


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


@settings
class Annotator:
    """A classifier of cells for domains (donors, batches, laboratories) that were not seen.

    A linear classifier and small networks learn from the same principal axes of the variable genes; networks also see
    every cell with fewer molecules. Strength, number of axes and their mixture are chosen by leaving every domain out
    in turn, and the same cells calibrate the probabilities: both hold for a new domain, and a network is used as far
    as it has helped there.

    Parameters
    ----------
    loss
        Comp-sum loss of networks and linear classifier. ``CompSum(tau=1.5)`` or ``CompSum(tau="auto")`` where labels
        may be wrong.
    domains
        Columns of ``obs`` that make up the domain; none: cells are held out by chance, and nothing is known about new
        domains.
    norm
        "layer", "batch", "none" or `cellgap.nn.GhostBatchNorm`.
    genes
        Which genes, and their transform, chosen on training cells. None: the 2,000 most variable, log-normalized
        counts; other measurements as they are, scaled.
    n_axes
        Numbers of principal axes that a network may see, to choose from.
    linear_axes
        Principal axes that the linear classifier sees, at most.
    strengths
        Of the linear classifier, the C of logistic regression, to choose from.
    hidden
        Widths of the network's hidden layers.
    activation
        Of the network.
    n_members
        Networks whose probabilities are averaged.
    n_views
        Views of every cell that a network learns from, with fewer molecules but for the first one; counts only. Fewer
        where they would be more than a million together.
    thin
        Smallest part of the molecules of a view.
    balance
        "cells": all cells are as frequent in training. "domains": all domains are.
    batch_size
        Cells a step.
    learning_rate, warmup, weight_decay
        AdamW: a linear rise, then a cosine down to a hundredth.
    clip
        Largest norm of a gradient.
    loop
        Number of steps; nothing is validated on the way.
    n_folds
        Most divisions of the domains; with one domain, folds of its cells.
    inside
        Share of the cells of the other domains that is held out too, to tell the gap of a new domain from that of a new
        cell.
    trial_cells
        Cells that the choices are made with, at most; all are trained on afterwards.
    robust
        Adversarial training (`cellgap.annotate.robust`); the linear classifier then takes no part.
    guarded
        Domain heads and rules that weigh them, where they win by leaving domains out; see `cellgap.annotate.drm`.
    false_assignment
        Share of the cells of a type without a label that may be given one, meaned over types left out in turn.
    most_unassigned
        Most cells of known types that may be left unassigned for that.

    Source
    ------
    Mao, Mohri, Zhong 2023 (arXiv 2304.07288) for the losses; Hoffer, Hubara, Soudry 2017 (arXiv 1705.08741) for ghost
    batch norm; Zhang et al. 2023 (arXiv 2208.08661) for domain heads; Guo et al. 2017 (arXiv 1706.04599) for
    temperatures. Their choice on domains that were left out, the views and the mixture are ours.
    """

    loss: CompSum = CompSum()
    domains: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    norm: Norm | GhostBatchNorm = "layer"
    genes: Genes | None = None
    n_axes: tuple[_Count, ...] = (50,)
    linear_axes: _Count = 300
    strengths: tuple[_Positive, ...] = (0.01, 0.1, 1.0, 10.0)
    hidden: tuple[_Count, ...] = (128, 64)
    activation: Activation = "gelu"
    n_members: _Count = 3
    n_views: _Count = 6
    thin: Annotated[float, Field(gt=0, le=1)] = 0.2
    balance: Literal["cells", "domains"] = "cells"
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: _Positive = 2e-3
    warmup: Annotated[int, Field(ge=0)] = 30
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    clip: _Positive = 5.0
    loop: Loop = Loop(n_steps=800, chunk=100)
    n_folds: Annotated[int, Field(ge=2)] = 8
    inside: Annotated[float, Field(ge=0, lt=1)] = 0.1
    trial_cells: Annotated[int, Field(ge=100)] = 20_000
    robust: AbstractRobust | None = None
    guarded: Guarded | None = None
    false_assignment: _Share = 0.1
    most_unassigned: Annotated[float, Field(gt=0, lt=1)] = 0.05

    @model_validator(mode="after")
    def _check(self) -> "Annotator":
        if not self.n_axes or not self.strengths:
            raise ConfigError("Annotator needs at least one number of axes and one strength to choose from.")
        if max(self.n_axes) > self.linear_axes:
            raise ConfigError(
                f"n_axes={self.n_axes} are among the first linear_axes={self.linear_axes}: raise the latter."
            )
        if self.robust is not None and self.norm not in ("layer", "none"):
            raise ConfigError(f'Adversarial training takes norm="layer" or "none", found {self.norm!r}: attacked cells '
                              "would enter the running averages.")  # fmt: skip
        if self.robust is not None and self.guarded is not None:
            raise ConfigError("Adversarial training and domain heads cannot be combined: set one of them.")
        return self

    def fit(
        self,
        study: Study | Split,
        label: str,
        *,
        key: PRNGKeyArray,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> FittedAnnotator:
        """Return the classifier, trained on all labelled cells of a study, or on those a split does not hold out.

        Parameters
        ----------
        study
            The cells. Those without a label are passed over.
        label
            Column of ``obs`` with the classes.
        key
            Random key of the whole fit.
        folder
            Where to keep checkpoints; a run that was stopped there is resumed, bit for bit.
        progress
            Show progress bars.

        Raises
        ------
        DataError
            A column is missing, there are fewer than two classes, or the measurements do not suit the genes.
        ConfigError
            The settings do not suit the data.
        SplitError
            The split leaks.
        ConvergenceError
            Training diverged.
        KeyboardInterrupt
            Ctrl-C; what was done is in the folder.
        """
        if isinstance(study, Split):
            study.check_leaks()
        source = Source.of(study, label, self.domains)
        return _Fit(self, source, label, key, None if folder is None else Path(folder), progress).run()


_Run = tuple[Prepared, Source, np.ndarray, int | None]


class _Rows(NamedTuple):
    """Views of cells as rows: inputs, classes, domains, weights, and the frame where they are in gene space."""

    x: np.ndarray
    y: np.ndarray
    domain: np.ndarray
    weight: np.ndarray
    frame: Any


class _Fit:
    """One fit: what its parts share."""

    def __init__(
        self, settings: Annotator, source: Source, label: str, key: PRNGKeyArray, folder: Path | None, progress: bool
    ) -> None:
        self.settings, self.source, self.label = settings, source, label
        self.folder, self.progress = folder, progress
        self.keys = dict(zip(("tau", "trial", "final", "guarded", "views"), jr.split(key, 5), strict=True))
        self.genes = settings.genes or default_genes(source.study)
        self.n_classes = len(source.classes)
        self.tau = 1.0
        self.prepared: dict[int, list[Prepared]] = {}
        self.views: dict[int, ThinnedCounts] = {}
        seed = np.asarray(jr.key_data(self.keys["views"])).ravel()
        self.rng = np.random.default_rng(seed)

    def run(self) -> FittedAnnotator:
        s = self.settings
        whole = self._prepared(self.source, np.arange(len(self.source)))
        n_axes = tuple(sorted({min(k, whole.axes.dim) for k in s.n_axes}))
        if s.robust is not None:
            n_axes = n_axes[-1:]
        choice_of_tau = self._tau(whole, n_axes[0])
        self.tau = choice_of_tau.tau
        trials, tried = self._trials(n_axes)
        outside = trials.outside
        shares = SHARES if s.robust is None else (1.0,)
        choice = choose(outside.judged, outside.linear, outside.network, shares)
        line = ridge_path(whole.codes, self.source.y, self.n_classes, (choice.strength,), tau=self.tau)[0]
        # Networks without one of the classes are trained beside those that are kept: by the same program.
        left = self._left_out()
        runs = [(whole, self.source, np.arange(len(self.source)), c) for c in (*[None] * s.n_members, *left)]
        result = self._train(runs, choice.n_axes, self.keys["final"], "final", "classifier")
        nets, without = (
            jax.tree.map(lambda leaf, part=part: leaf[part], result.state.net)
            for part in (slice(None, s.n_members), slice(s.n_members, None))
        )
        guarded = self._guarded(whole, choice.n_axes)
        n_proto = min(n_axes)
        prototypes = Prototypes.of(whole.codes[:, :n_proto], self.source.y, self.n_classes)
        thresholds, table = self._thresholds(whole, trials, choice, prototypes, left, without)
        t, d = distances_of(result, 0)
        fitted = FittedAnnotator(
            name="Annotator",
            label=self.label,
            domain_columns=s.domains,
            classes=self.source.classes,
            domains=self.source.domains,
            axes=whole.axes,
            weight=line.weight.astype(np.float32),
            bias=line.bias.astype(np.float32),
            nets=nets,
            n_axes=choice.n_axes,
            scale=whole.scale(choice.n_axes),
            guarded=guarded,
            tau=self.tau,
            tau_sentence=str(choice_of_tau),
            strength=choice.strength,
            mixture=choice.mixture,
            prototypes=prototypes,
            thresholds=thresholds,
            accuracies=accuracies_of(trials, choice),
            risk=0.0,
            conditional_minimum=0.0,
            trials_table=_columns(choice.trials),
            unseen_table=_columns(table),
            history=tuple(result.history),
            distance_steps=np.asarray(t, np.int32),
            distances=np.asarray(d, np.float32),
            n_unlabelled=self.source.n_unlabelled,
            stopped=result.stopped,
        )
        return with_risk(fitted, whole, self.source, tried, trials, choice)

    def _prepared(self, source: Source, train: np.ndarray) -> Prepared:
        axes = Axes.fit(source.study, source.rows[train], self.genes, self.settings.linear_axes)
        prepared = Prepared(axes, train, axes.encode(source.study.adata, source.rows))
        self.prepared.setdefault(id(source), []).append(prepared)
        return prepared

    def _tau(self, whole: Prepared, n_axes: int) -> TauChoice:
        s = self.settings
        taus = s.loss.candidates
        data = Labelled.of(whole.inputs(n_axes), self.source.y, None, n_classes=self.n_classes)

        def objective(cells: Labelled, tau: Any) -> CompSumObjective:
            return CompSumObjective(cells, tau, s.loss, s.loop.n_steps, s.batch_size)

        return choose_tau(
            data, lambda key: self._tower(n_axes, key), objective, self._optimizer(), s.loop, taus,
            key=self.keys["tau"], clip=s.clip,
        )  # fmt: skip

    def _trials(self, n_axes: tuple[int, ...]) -> tuple[Trials, Source]:
        """Return what linear classifiers and networks say where domains are left out."""
        s = self.settings
        source = self.some
        divisions = folds_of(source.y, source.domain, source.domains, n_folds=s.n_folds, inside=s.inside, seed=0)
        prepared = [self._prepared(source, d.train) for d in divisions]
        fewest = min(p.axes.dim for p in prepared)
        network: list[dict[int, LogP]] = [{} for _ in divisions]
        for k in n_axes:
            # A division of few cells may span fewer axes than all cells do.
            seen = min(k, fewest)
            pairs = zip(divisions, prepared, strict=True)
            runs = [(p, source, d.train, None) for d, p in pairs for _ in range(s.n_members)]
            key = jr.fold_in(self.keys["trial"], k)
            result = self._train(runs, seen, key, f"trial_{k}", f"trial, {k} axes")
            for i, (one, p) in enumerate(zip(network, prepared, strict=True)):
                members = jax.tree.map(
                    lambda leaf, i=i: leaf[i * s.n_members : (i + 1) * s.n_members], result.state.net
                )
                one[k] = said_by(members, p.inputs(seen))
        strengths = s.strengths if s.robust is None else s.strengths[:1]
        linear = [linear_said(source, p, strengths, self.tau) for p in prepared]
        return gathered(source, divisions, prepared, linear, network, min(min(n_axes), fewest)), source

    @functools.cached_property
    def some(self) -> Source:
        """The cells that choices are made with: all, or some by chance."""
        source, most = self.source, self.settings.trial_cells
        if len(source) <= most:
            return source
        kept = np.sort(np.random.default_rng(0).choice(len(source), most, replace=False))
        # Rare classes stay, or nothing would be known about them.
        rare = np.flatnonzero(np.bincount(source.y, minlength=self.n_classes)[source.y] < _LEAST_UNSEEN * 10)
        kept = np.union1d(kept, rare)
        return replace(source, rows=source.rows[kept], y=source.y[kept], domain=source.domain[kept])

    def _train(self, runs: Sequence[_Run], n_axes: int, key: PRNGKeyArray, name: str, title: str) -> Any:
        """Return the trained networks of runs.

        A run is coordinates, cells, places of those that are trained on, and a class that is not drawn.
        """
        s = self.settings
        key_nets, key_run = jr.split(key)
        rows: dict[int, _Rows] = {}
        for p, source, train, _ in runs:
            if id(p) not in rows:
                rows[id(p)] = self._rows(p, source, train, n_axes)
        length = max(len(r.y) for r in rows.values())
        views = {i: Views.of(r.x, r.y, r.domain, r.weight, length) for i, r in rows.items()}
        ghosts = s.norm if isinstance(s.norm, GhostBatchNorm) else None
        objectives = []
        for p, _, _, without in runs:
            drawn, r = views[id(p)], rows[id(p)]
            if without is not None:  # the cells themselves are shared by all runs
                drawn = drawn.drawn_by(np.where(r.y == without, 0.0, r.weight))
            objectives.append(
                ViewsObjective(
                    drawn, jnp.float32(self.tau), r.frame, s.loss, s.loop.n_steps, s.batch_size, ghosts, s.robust
                )
            )
        nets = built((n_axes, *s.hidden, self.n_classes), s.norm, s.activation, jr.split(key_nets, len(runs)))
        folder = None if self.folder is None else self.folder / name
        result = train_networks(
            nets, objectives, s.loop, self._optimizer(), clip=s.clip, key=key_run, folder=folder, settings=repr(s),
            progress=self.progress, title=title,
        )  # fmt: skip
        if result.stopped == "interrupted":
            raise KeyboardInterrupt
        return result

    def _rows(self, p: Prepared, source: Source, train: np.ndarray, n_axes: int) -> _Rows:
        """Return the views of cells as rows: inputs, classes, domains, weights, and the frame of gene space."""
        s = self.settings
        in_genes = s.robust is not None
        thinned = self._thinned(source)
        if thinned is not None and in_genes:
            x = np.stack([values.toarray() for values in thinned.genes(p.axes, train)])
        elif thinned is not None:
            x = thinned.codes(p.axes, train, n_axes)
        elif in_genes:
            x = gene_values(p.axes, source.study.adata, source.rows[train])[None]
        else:
            x = p.codes[train][None]
        frame = None
        scale = p.scale(n_axes)
        if in_genes:
            sd = np.asarray(p.axes.genes.sd)
            frame = (
                jnp.asarray(np.asarray(p.axes.components)[:, :n_axes] / sd[:, None] / scale, jnp.float32),
                jnp.asarray(np.asarray(p.axes.center) * sd, jnp.float32),
            )
        else:
            x = x[:, :, :n_axes] / scale
        y, domain = source.y[train], source.domain[train]
        weight = np.ones(len(train))
        if s.balance == "domains":
            weight = 1.0 / np.bincount(domain)[domain]
        rows = x.reshape(-1, x.shape[2])
        return _Rows(rows, np.tile(y, len(x)), np.tile(domain, len(x)), np.tile(weight, len(x)), frame)

    def _thinned(self, source: Source) -> ThinnedCounts | None:
        """Return views of cells with fewer molecules, drawn once; None where cells are no counts."""
        s = self.settings
        n_views = max(1, min(s.n_views, _MOST_ROWS // len(source)))
        if self.genes.transform != "lognorm" or n_views == 1 or s.thin == 1:
            return None
        if id(source) not in self.views:
            columns = np.unique(np.concatenate([p.axes.genes.columns for p in self.prepared[id(source)]]))
            self.views[id(source)] = ThinnedCounts.of(
                source.study, source.rows, columns, n_views=n_views, least=s.thin, rng=self.rng
            )
        return self.views[id(source)]

    def _guarded(self, whole: Prepared, n_axes: int) -> GuardedResult | None:
        s = self.settings
        if s.guarded is None:
            return None
        data = Labelled.of(whole.inputs(n_axes), self.source.y, self.source.domain, n_classes=self.n_classes)

        def objective(cells: Labelled) -> CompSumObjective:
            return CompSumObjective(cells, jnp.float32(self.tau), s.loss, s.loop.n_steps, s.batch_size)

        erm = Trainer(lambda key: self._tower(n_axes, key), objective, self._optimizer(), s.loop, s.clip)
        return fit_guarded(data, erm, s.guarded, key=self.keys["guarded"])

    def _left_out(self) -> list[int]:
        """Return the classes that are left out in turn, to see what happens to types without a label."""
        count = np.bincount(self.source.y, minlength=self.n_classes)
        return [c for c in range(self.n_classes) if count[c] >= _LEAST_UNSEEN and self.n_classes > 2]

    def _thresholds(
        self, whole: Prepared, trials: Trials, choice: Choice, prototypes: Prototypes, left: list[int], without: Any
    ) -> tuple[Thresholds, pd.DataFrame]:
        """Return thresholds from known cells of left-out domains, and from types that are left out in turn."""
        s, source, outside = self.settings, self.source, trials.outside
        calibrated = choice.mixture(outside.linear[choice.strength], outside.network[choice.n_axes])
        known = Seen(np.exp(calibrated.max(axis=1)), outside.distance).kept(outside.judged.known)
        n_proto = np.asarray(prototypes.means).shape[1]
        some = np.searchsorted(source.rows, self.some.rows)
        x, y = whole.codes[some], source.y[some]
        unseen: dict[str, Seen] = {}
        for i, c in enumerate(left):
            here = y == c
            line = ridge_path(x[~here], y[~here], self.n_classes, (choice.strength,), tau=self.tau)[0]
            net = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], without)
            said = said_by(net, x[here][:, : choice.n_axes] / whole.scale(choice.n_axes))
            log_p = choice.mixture(log_softmax(line.scores(x[here]), axis=1), said)
            distance = prototypes.without(c).distance(x[here][:, :n_proto])
            unseen[source.classes[c]] = Seen(np.exp(log_p.max(axis=1)), distance)
        return thresholds_of(known, unseen, false_assignment=s.false_assignment, most_unassigned=s.most_unassigned)

    def _tower(self, n_axes: int, key: PRNGKeyArray) -> Tower:
        s = self.settings
        widths = (n_axes, *s.hidden, self.n_classes)
        return Tower(widths, norm=s.norm, activation=s.activation, key=key)

    def _optimizer(self) -> optax.GradientTransformation:
        s = self.settings
        return optax.adamw(schedule_of(s.learning_rate, s.warmup, s.loop.n_steps), weight_decay=s.weight_decay)


def default_genes(study: Study) -> Genes:
    """Return the 2,000 most variable genes of log-normalized counts; other measurements scaled as they are."""
    if study.is_counts:
        return Genes(n_top=2000 if study.n_vars > 2000 else None)
    return Genes(transform="none", scale=True)


def gene_values(axes: Axes, adata: Any, rows: np.ndarray) -> np.ndarray:
    """Return the gene space of cells, (cells, genes), before any scaling."""
    from cellgap.space._reading import dense

    return np.concatenate([dense(block) for block in axes.genes.transformed(adata, rows)]).astype(np.float32)


def _columns(table: Any) -> dict[str, list[Any]]:
    return {str(name): table[name].tolist() for name in table.columns}
