"""Annotators on domains that they never saw: every donor, batch or laboratory is left out once."""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np
import pandas as pd
from jaxtyping import PRNGKeyArray

from cellgap.errors import ConfigError, DataError
from cellgap.evaluate._annotation_baselines import baseline
from cellgap.evaluate._annotation_part import Part, Store, gap_rows
from cellgap.evaluate._annotation_result import UNASSIGNED, AnnotationEvaluation
from cellgap.evaluate._annotation_targets import domain_names, labels_of, without
from cellgap.evaluate._classification import brier_terms, log_terms
from cellgap.study import Role, Study
from cellgap.study._wording import close_to
from cellgap.train import progress_bar

BASELINES = ("logistic", "knn", "mlp")


def annotation(
    annotators: Any,
    study: Study,
    label: str,
    *,
    domains: str = "donor",
    targets: Sequence[str] | None = None,
    n_seeds: int = 1,
    baselines: Sequence[str] = BASELINES,
    radii: Sequence[float] = (),
    counts: Sequence[int] = (),
    folder: str | Path | None = None,
    key: PRNGKeyArray,
    progress: bool = False,
) -> AnnotationEvaluation:
    """Return how annotators and baselines label the cells of domains that were left out, each domain once.

    Everything is fitted on the labelled cells of the other domains: genes, scaling, axes, strengths and thresholds
    too. Cells of the target whose label no training cell has are unseen: they enter the scores of novelty, not those of
    the labels.

    Parameters
    ----------
    annotators
        One, or several by name: `cellgap.annotate.Annotator`, or anything whose ``fit(split, label, key=)`` returns an
        object with ``predict_proba(adata, rows)``. A ``predict`` as that of an annotator gives labels with
        "unassigned", novelty and reasons; ``gaps()`` is kept where there is one. An annotator without domains is given
        those of the evaluation.
    study
        The cells, with or without treatments.
    label
        Column of ``obs`` with the true labels; cells without one are left out.
    domains
        Column of ``obs`` whose values are left out in turn.
    targets
        Which of its values; None: all of them.
    n_seeds
        Fits of each annotator for each target. Baselines that chance does not enter are fitted once.
    baselines
        Any of "logistic" (regression on variable genes, its strength chosen on domains left out), "knn" (15 cells in 50
        principal components) and "mlp" (scikit-learn's).
    radii, counts
        Strengths of attacks, given to ``robust_accuracy(adata, truth, radii=, counts=)`` of what was fitted, where it
        has that: a table with the columns ``attack, strength, accuracy``.
    folder
        Where the result of every fit is kept as soon as it is there; what is there already is not fitted again.
    key
        Random key of all fits.
    progress
        Show progress bars.

    Raises
    ------
    ConfigError
        A column, target or baseline is unknown, or two annotators or baselines have the same name.
    DataError
        There is one domain, a target has no labelled cell, or its training cells have fewer than two classes.
    KeyboardInterrupt
        Ctrl-C; what was done is in the folder.

    Source
    ------
    Leaving domains out in turn: Gulrajani, Lopez-Paz 2021 (arXiv 2007.01434).
    """
    if n_seeds < 1:
        raise ConfigError(f"An evaluation needs a seed, found n_seeds={n_seeds}.")
    truth, domain = labels_of(study, label), domain_names(study, domains)
    known = np.asarray([name is not None for name in truth], bool)
    everywhere = sorted(set(domain.tolist()))
    if len(everywhere) < 2:
        raise DataError(f'obs["{domains}"] has one value: leaving it out leaves nothing to train on.')
    asked = everywhere if targets is None else [str(t) for t in targets]
    for target in asked:
        if target not in everywhere:
            raise ConfigError(f'obs["{domains}"] has no value {target!r}: {close_to(target, everywhere)}')
        if targets is not None and not (known & (domain == target)).any():
            raise DataError(f"No cell of {target!r} has a label in obs[{label!r}]: it cannot be scored.")
    asked = [t for t in asked if (known & (domain == t)).any()]
    methods = _methods(annotators, baselines, domains)
    store = Store.of(folder, study, label, domains, key)
    work = list(_work(methods, asked, n_seeds))
    store.begin(
        label=label, domains=domains, targets=asked, own=[name for name, (_, own) in methods.items() if own],
        methods=list(methods), names=[store.name(name, est, t, seed, radii, counts) for name, est, t, seed in work],
    )  # fmt: skip
    parts = []
    with progress_bar("targets left out", len(work), 0, shown=progress) as shown:
        for done, (name, estimator, target, seed) in enumerate(work):
            place = store.name(name, estimator, target, seed, radii, counts)
            part = store.read(place)
            if part is None:
                sub = jr.fold_in(jr.fold_in(jr.fold_in(key, everywhere.index(target)), seed), _number(name))
                part = _part(name, estimator, study, label, domains, target, seed, truth, radii, counts, sub)
                store.write(place, part)
            parts.append(part)
            shown(done + 1, {}, 0.0)
    own = tuple(name for name, (_, own) in methods.items() if own)
    return AnnotationEvaluation.of(parts, label=label, domains=domains, annotators=own, methods=tuple(methods))


def _methods(annotators: Any, baselines: Sequence[str], domains: str) -> dict[str, tuple[Any, bool]]:
    """Return estimators by name, and whether each is one of the annotators."""
    given = dict(annotators) if isinstance(annotators, Mapping) else {"annotator": annotators}
    if not given and not baselines:
        raise ConfigError("An evaluation needs an annotator or a baseline, found none.")
    found: dict[str, tuple[Any, bool]] = {}
    for name, estimator in given.items():
        if not hasattr(estimator, "fit"):
            raise ConfigError(f"{name!r} is no annotator: it has no fit(split, label, key=).")
        found[str(name)] = (_with_domains(estimator, domains), True)
    for name in baselines:
        if name in found:
            raise ConfigError(f"Two methods are called {name!r}: name the annotator otherwise.")
        found[name] = (baseline(name, domains), False)
    return found


def _with_domains(estimator: Any, domains: str) -> Any:
    """Return an annotator that knows the domains, where it was given none."""
    unset = dataclasses.is_dataclass(estimator) and getattr(estimator, "domains", None) == ()
    return dataclasses.replace(estimator, domains=(domains,)) if unset else estimator  # type: ignore[type-var]


def _work(
    methods: Mapping[str, tuple[Any, bool]], targets: Sequence[str], n_seeds: int
) -> Iterator[tuple[str, Any, str, int]]:
    """Yield every fit: target by target, so that a stopped evaluation has whole targets."""
    for target in targets:
        for name, (estimator, _) in methods.items():
            for seed in range(n_seeds if getattr(estimator, "seeded", True) else 1):
                yield name, estimator, target, seed


def _part(
    name: str,
    estimator: Any,
    study: Study,
    label: str,
    domains: str,
    target: str,
    seed: int,
    truth: np.ndarray,
    radii: Sequence[float],
    counts: Sequence[int],
    key: PRNGKeyArray,
) -> Part:
    """Return what one fit says of the cells of its target."""
    split = without(study, label, domains, target)
    rows = split.cells(Role.TEST, Role.SOURCE)
    try:
        fitted = estimator.fit(split, label, key=key)
        if getattr(fitted, "stopped", "") == "interrupted":
            raise KeyboardInterrupt
        p = fitted.predict_proba(study.adata, rows)
        said = fitted.predict(study.adata, rows) if hasattr(fitted, "predict") else None
    except (ConfigError, DataError) as error:
        error.add_note(f"{name} without {target}")
        raise type(error)(f"Without {target!r}, {name}: {error}") from None
    classes = tuple(str(c) for c in p.columns)
    values, actual = p.to_numpy(np.float64), truth[rows].astype(str)
    trained = set(truth[split.cells(Role.TRAIN)].tolist())
    unseen = ~np.isin(actual, sorted(trained))
    outside = [c for c in classes if c not in trained]
    if outside:
        raise DataError(f"{name} gives a probability to {outside[0]!r}, of which it has seen no cell.")
    best = np.asarray(classes)[values.argmax(axis=1)]
    # A class that the method dropped has probability 0.
    full = p.reindex(columns=pd.Index(sorted(trained)), fill_value=0.0)
    brier, loss = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    if not unseen.all():
        some = full.to_numpy(np.float64)[~unseen]
        brier[~unseen] = brier_terms(actual[~unseen], some, tuple(full.columns))
        loss[~unseen] = log_terms(actual[~unseen], some, tuple(full.columns))
    confidence = values.max(axis=1).clip(0.0, 1.0)
    given = best if said is None else said["label"].to_numpy().astype(str)
    reasons = np.full(len(rows), "", dtype=object)
    if said is not None and "reason" in said:
        reasons = np.where(given == UNASSIGNED, said["reason"].to_numpy(), "")
    cells = pd.DataFrame(
        {
            "cell": study.adata.obs_names[rows].astype(str),
            "method": name,
            "target": target,
            "seed": seed,
            "truth": actual,
            "unseen": unseen,
            "label": given,
            "best": best,
            "probability": confidence,
            "novelty": 1.0 - confidence if said is None else said["novelty"].to_numpy(float),
            "log_loss": loss,
            "brier": brier,
            "reason": reasons.astype(str),
        }
    )
    robust = pd.DataFrame()
    if hasattr(fitted, "robust_accuracy") and (len(radii) or len(counts)) and not unseen.all():
        some = study.adata[rows[~unseen]].to_memory()
        robust = fitted.robust_accuracy(some, actual[~unseen], radii=tuple(radii), counts=tuple(counts))
        robust = robust[["attack", "strength", "accuracy"]].assign(method=name, target=target, seed=seed)
    gaps = gap_rows(fitted.gaps() if hasattr(fitted, "gaps") else (), name, target, seed)
    return Part(name, target, seed, classes, cells, gaps, robust)


def _number(name: str) -> int:
    """Return a number of a name, the same everywhere."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF
