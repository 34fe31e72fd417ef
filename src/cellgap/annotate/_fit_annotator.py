"""The fit of an annotator: trials without some domains, the choice, the training on all cells, and thresholds."""

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pandas as pd
from jaxtyping import PRNGKeyArray
from scipy.special import log_softmax

from cellgap.annotate._axes import Axes
from cellgap.annotate._choice import SHARES, Choice, LogP, Mixture, choose
from cellgap.annotate._choose_tau import CompSumObjective, TauChoice, choose_tau
from cellgap.annotate._fitted_annotator import FittedAnnotator
from cellgap.annotate._folds import folds_of
from cellgap.annotate._gaps import accuracies_of, minimizability_of
from cellgap.annotate._labelled import Labelled
from cellgap.annotate._linear import ridge_path
from cellgap.annotate._networks import built, distances_of, said_by, schedule_of, train_networks
from cellgap.annotate._source import Source
from cellgap.annotate._thinned import ThinnedCounts
from cellgap.annotate._trial import Prepared, Trials, gathered, linear_said
from cellgap.annotate._unseen import Prototypes, Seen, Thresholds, thresholds_of
from cellgap.annotate._views import Views, ViewsObjective
from cellgap.annotate.drm import GuardedResult, Trainer, fit_guarded
from cellgap.annotate.robust import refuse_constant
from cellgap.errors import StorageError
from cellgap.nn import GhostBatchNorm, Tower
from cellgap.space import Genes
from cellgap.space._reading import dense
from cellgap.storage import replace as replace_file
from cellgap.study import Study
from cellgap.train import run_fingerprint

_MOST_ROWS = 1_000_000
_LEAST_UNSEEN = 5
_Run = tuple[Prepared, Source, np.ndarray]


class _Without(NamedTuple):
    """A class that was left out, coordinates without it, and what networks say of its cells."""

    left_out: int
    prepared: Prepared
    network: dict[int, LogP]


class _Rows(NamedTuple):
    """Views of cells as rows: inputs, classes, domains, weights, and the frame where they are in gene space."""

    x: np.ndarray
    y: np.ndarray
    domain: np.ndarray
    weight: np.ndarray
    frame: Any


class AnnotatorFit:
    """One fit: what its parts share."""

    def __init__(
        self, settings: Any, source: Source, label: str, key: PRNGKeyArray, folder: Path | None, progress: bool
    ) -> None:
        self.settings, self.source, self.label = settings, source, label
        self.folder, self.progress = folder, progress
        self.keys = dict(zip(("tau", "trial", "final", "guarded", "views"), jr.split(key, 5), strict=True))
        self.genes = settings.genes or default_genes(source.study)
        self.n_classes = len(source.classes)
        self.tau, self.n_proto = 1.0, 0
        self.prepared: dict[int, list[Prepared]] = {}
        self.views: dict[int, ThinnedCounts] = {}
        seed = np.asarray(jr.key_data(self.keys["views"])).ravel()
        self.rng = np.random.default_rng(seed)

    def run(self) -> FittedAnnotator:
        s = self.settings
        self._claim()
        whole = self._prepared(self.source, np.arange(len(self.source)))
        n_axes = tuple(sorted({min(k, whole.axes.dim) for k in s.n_axes}))
        if s.robust is not None:
            n_axes = n_axes[-1:]
        choice_of_tau = self._tau(whole, n_axes[0])
        self.tau = choice_of_tau.tau
        trials, without = self._trials(n_axes)
        outside = trials.outside
        shares = SHARES if s.robust is None else (1.0,)
        choice = choose(outside.judged, outside.linear, outside.network, shares, s.criterion)
        line = ridge_path(whole.codes, self.source.y, self.n_classes, (choice.strength,), tau=self.tau)[0]
        runs = [(whole, self.source, np.arange(len(self.source)))] * s.n_members
        result = self._train(runs, choice.n_axes, self.keys["final"], "final", "classifier")
        nets = result.state.net
        if s.robust is not None:
            cells = Labelled.of(whole.inputs(choice.n_axes), self.source.y, None, n_classes=self.n_classes)
            refuse_constant(jax.tree.map(lambda leaf: leaf[0], nets), cells, s.robust)
        guarded = self._guarded(whole, choice.n_axes)
        mixture = choice.mixture
        if guarded is not None and guarded.rule.kind != "erm":
            mixture = Mixture(1.0, 1.0, 1.0, 1.0)  # its heads were judged alone, and are calibrated
        prototypes = Prototypes.of(whole.codes[:, : self.n_proto], self.source.y, self.n_classes)
        thresholds, table = self._thresholds(trials, choice, without)
        t, d = distances_of(result, 0)
        return FittedAnnotator(
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
            mixture=mixture,
            prototypes=prototypes,
            thresholds=thresholds,
            accuracies=accuracies_of(trials, choice),
            minimizability=minimizability_of(trials, choice, self.tau),
            trials_table=_columns(choice.trials),
            unseen_table=_columns(table),
            history=tuple(result.history),
            distance_steps=np.asarray(t, np.int32),
            distances=np.asarray(d, np.float32),
            n_unlabelled=self.source.n_unlabelled,
            stopped=result.stopped,
        )

    def _claim(self) -> None:
        """Refuse a folder that holds another fit, before any work; note down which one this is."""
        if self.folder is None:
            return
        source = self.source
        parts = (repr(self.settings), self.label, source.study.fingerprint, source.classes, source.domains)
        arrays = tuple(jnp.asarray(a, jnp.int32) for a in (source.rows, source.y, source.domain))
        mine = run_fingerprint(*parts, *arrays, *self.keys.values())
        path = self.folder / "fit.json"
        if path.exists():
            if json.loads(path.read_text(encoding="utf-8")).get("fingerprint") != mine:
                raise StorageError(
                    f"{self.folder} holds another fit (data, settings or key differ): use another folder or delete it."
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda handle: handle.write(json.dumps({"fingerprint": mine}).encode()))

    def _prepared(self, source: Source, train: np.ndarray) -> Prepared:
        scaled = self.settings.genes is None and not source.study.is_counts
        axes = Axes.fit(source.study, source.rows[train], self.genes, self.settings.linear_axes, scaled=scaled)
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

    def _trials(self, n_axes: tuple[int, ...]) -> tuple[Trials, list[_Without]]:
        """Return what linear classifiers and networks say where domains are left out, and where types are.

        Nothing of what is left out enters, neither genes nor axes.
        """
        s, source = self.settings, self.some
        divisions = folds_of(source.y, source.domain, source.domains, n_folds=s.n_folds, inside=s.inside, seed=0)
        prepared = [self._prepared(source, d.train) for d in divisions]
        left = [_Without(c, self._prepared(source, np.flatnonzero(source.y != c)), {}) for c in self._left_out()]
        fewest = min(p.axes.dim for p in (*prepared, *(w.prepared for w in left)))
        self.n_proto = min(min(n_axes), fewest)
        network: list[dict[int, LogP]] = [{} for _ in divisions]
        for k in n_axes:
            # A division of few cells may span fewer axes than all cells do.
            seen = min(k, fewest)
            runs = [(p, source, p.train) for p in prepared for _ in range(s.n_members)]
            runs += [(w.prepared, source, w.prepared.train) for w in left]
            key = jr.fold_in(self.keys["trial"], k)
            nets = self._train(runs, seen, key, f"trial_{k}", f"trial, {k} axes").state.net
            for i, (one, p) in enumerate(zip(network, prepared, strict=True)):
                members = slice(i * s.n_members, (i + 1) * s.n_members)
                one[k] = said_by(jax.tree.map(lambda leaf, part=members: leaf[part], nets), p.inputs(seen))
            for i, w in enumerate(left, len(prepared) * s.n_members):
                here = source.y == w.left_out
                net = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], nets)
                w.network[k] = said_by(net, w.prepared.inputs(seen)[here])
        strengths = s.strengths if s.robust is None else s.strengths[:1]
        linear = [linear_said(source, p, strengths, self.tau) for p in prepared]
        return gathered(source, divisions, prepared, linear, network, self.n_proto), left

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

        A run is coordinates, cells, and places of those that are trained on.
        """
        s = self.settings
        key_nets, key_run = jr.split(key)
        rows: dict[int, _Rows] = {}
        for p, source, train in runs:
            if id(p) not in rows:
                rows[id(p)] = self._rows(p, source, train, n_axes)
        length = max(len(r.y) for r in rows.values())
        views = {i: Views.of(r.x, r.y, r.domain, r.weight, length) for i, r in rows.items()}
        ghosts = s.norm if isinstance(s.norm, GhostBatchNorm) else None
        tau, n_steps, batch = jnp.float32(self.tau), s.loop.n_steps, s.batch_size
        objectives = [
            ViewsObjective(views[id(p)], tau, rows[id(p)].frame, s.loss, n_steps, batch, ghosts, s.robust)
            for p, _, _ in runs
        ]
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
        count = np.bincount(self.some.y, minlength=self.n_classes)
        return [c for c in range(self.n_classes) if count[c] >= _LEAST_UNSEEN and self.n_classes > 2]

    def _thresholds(self, trials: Trials, choice: Choice, without: list[_Without]) -> tuple[Thresholds, pd.DataFrame]:
        """Return thresholds from known cells of left-out domains, and from types that are left out in turn."""
        s, source, outside = self.settings, self.some, trials.outside
        calibrated = choice.mixture(outside.linear[choice.strength], outside.network[choice.n_axes])
        known = Seen(np.exp(calibrated.max(axis=1)), outside.distance).kept(outside.judged.known)
        unseen: dict[str, Seen] = {}
        for w in without:
            here, train, codes = source.y == w.left_out, w.prepared.train, w.prepared.codes
            line = ridge_path(codes[train], source.y[train], self.n_classes, (choice.strength,), tau=self.tau)[0]
            log_line = log_softmax(line.scores(codes[here]), axis=1)
            log_p = choice.mixture(log_line, w.network[choice.n_axes])
            prototypes = Prototypes.of(codes[train][:, : self.n_proto], source.y[train], self.n_classes)
            distance = prototypes.distance(codes[here][:, : self.n_proto])
            unseen[source.classes[w.left_out]] = Seen(np.exp(log_p.max(axis=1)), distance)
        return thresholds_of(known, unseen, false_assignment=s.false_assignment, most_unassigned=s.most_unassigned)

    def _tower(self, n_axes: int, key: PRNGKeyArray) -> Tower:
        s = self.settings
        widths = (n_axes, *s.hidden, self.n_classes)
        return Tower(widths, norm=s.norm, activation=s.activation, key=key)

    def _optimizer(self) -> optax.GradientTransformation:
        s = self.settings
        return optax.adamw(schedule_of(s.learning_rate, s.warmup, s.loop.n_steps), weight_decay=s.weight_decay)


def default_genes(study: Study) -> Genes:
    """Return the 2,000 most variable genes of log-normalized counts; other measurements as they are."""
    if study.is_counts:
        return Genes(n_top=2000 if study.n_vars > 2000 else None)
    return Genes(transform="none")


def gene_values(axes: Axes, adata: Any, rows: np.ndarray) -> np.ndarray:
    """Return the gene space of cells, (cells, genes), before any scaling."""
    return np.concatenate([dense(block) for block in axes.genes.transformed(adata, rows)]).astype(np.float32)


def _columns(table: Any) -> dict[str, list[Any]]:
    return {str(name): table[name].tolist() for name in table.columns}
