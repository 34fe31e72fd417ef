"""Scoring fitted models, the baselines and the replicate on the held-out conditions of a split."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from cellgap.errors import ConfigError
from cellgap.evaluate import _predictors as who
from cellgap.evaluate._catalog import CAPTURED, DEFAULT_METRICS, METRICS, metric
from cellgap.evaluate._cluster import scored_by_workers
from cellgap.evaluate._evaluation import Evaluation
from cellgap.evaluate._plan import Plan, make_plans
from cellgap.evaluate._populations import Populations
from cellgap.evaluate._predictors import Predictor
from cellgap.evaluate._run import Row, Run, Scored, SpaceName, Truth, discriminated
from cellgap.evaluate._table import COLUMNS, with_scale
from cellgap.study import Role, Split
from cellgap.transport import AbstractMap, Codes

if TYPE_CHECKING:
    from distributed import Client

_MOST_WORKERS = 8
_SPACES: tuple[SpaceName, ...] = ("latent", "genes")


def evaluate(
    fitted: Predictor | Mapping[str, Predictor],
    split: Split,
    *,
    n_cells: int = 1000,
    n_draws: int = 5,
    metrics: Sequence[str] = DEFAULT_METRICS,
    spaces: Sequence[SpaceName] = _SPACES,
    seed: int = 0,
    truth: Truth | None = None,
    baselines: Mapping[str, Predictor] | None = None,
    progress: bool = True,
    client: "Client | None" = None,
) -> Evaluation:
    """Return the scores of fitted models on the held-out conditions of a split, beside the baselines.

    Every condition is scored on `n_draws` draws without replacement of ``n = min(n_cells, n_test // 2, n_source,
    n_reference)`` cells: one size for the prediction, the measured cells, the controls and the replicate, so that
    finite samples bias all comparisons alike. Predictions start from SOURCE controls; effects are measured against
    the mean of all REFERENCE controls, which are other cells. In gene space a prediction is decoded and compared with
    the cells as measured.

    Parameters
    ----------
    fitted
        A fitted model, or several by name. Several must predict the same genes; where their spaces differ, they can be
        compared in gene space only, and the baselines live in the space of the first.
    split
        The split they were fitted on.
    n_cells
        Most cells of each population in a draw.
    n_draws
        Number of draws. Transport distances are computed on the first two of them only, and so are all distances
        where a population has more than 500 cells: mean profiles are cheap, pairs of cells are not.
    metrics
        Names from ``cellgap.evaluate.metrics.METRICS``. Metrics of populations need 10 cells a side; below (as with
        wells) only mean profiles are compared, and the others are NaN with that reason.
    spaces
        Where to measure: ``"latent"``, the space of the model, and ``"genes"``.
    seed
        Seed of all draws.
    truth
        True images of control cells, for data with a known answer: ``truth(condition, rows)`` returns what becomes of
        the cells at these rows of the study, (rows, genes), in all genes or in those of the space. Adds ``l2_uvp``.
    baselines
        Replaces the standard baselines, by name; the one called ``"mean effect"`` is 0 on the scale.
    progress
        Whether to show a progress bar on the standard error.
    client
        A Dask client, whose workers then score the conditions; the table is the same. See `local_workers`. A study
        that is read with ``backed=True`` is sent as a path, which the workers must be able to read.

    Returns
    -------
    Evaluation
        The tidy table, its summary and comparisons.

    Raises
    ------
    ConfigError
        A metric or space is unknown, a number is out of range, or the models cannot be compared with one another.
    SplitError
        A model was trained on what the split holds out, or no condition can be scored.

    Source
    ------
    Ahlmann-Eltze et al. 2025 (baselines); Peidl et al. 2024 (distances between populations).
    """
    spaces = _checked_spaces(spaces)
    metrics = _checked_metrics(metrics, truth, spaces)
    for name, value in (("n_cells", n_cells), ("n_draws", n_draws)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1, found {value!r}.")
    models = who.models_of(fitted, split)
    if "latent" in spaces:
        _refuse_different_spaces(models, split)
    plans, unscored = make_plans(split, n_cells=n_cells, seeds=tuple(range(seed, seed + n_draws)))
    z = _codes(next(iter(models.values())), split)
    if baselines is None:
        baselines = _standard_baselines(next(iter(models.values())), split, z)
    reserved = {who.RANDOM_PAIRING, *who.ANCHORS}
    if clash := reserved.intersection(baselines):
        raise ConfigError(f"a baseline cannot be called {min(clash)!r}, which evaluate adds itself: rename it.")
    models = {f"{name} (fitted)" if name in {*baselines, *reserved} else name: m for name, m in models.items()}
    run = Run(split, {**models, **baselines}, z, spaces, metrics, truth, largest=max(plan.n for plan in plans))
    scored = list(_shown(plans, _scored(run, plans, client), progress))
    rows = [row for found in scored for row in found.rows]
    if "discrimination" in metrics:
        rows += discriminated(scored)
    kinds = {name: "model" for name in models} | {name: "baseline" for name in (*baselines, who.RANDOM_PAIRING)}
    kinds |= {name: "anchor" for name in who.ANCHORS}
    present = {row[0] for row in rows}
    kinds = {name: kind for name, kind in kinds.items() if name in present}
    shown = {name: p for name, p in run.maps.items() if name in models or name == who.MEAN_EFFECT}
    conditions = tuple(plan.condition for plan in plans)
    table = _sorted_table(rows, list(kinds), [str(c) for c in conditions])
    return Evaluation(
        table=with_scale(table, who.MEAN_EFFECT, who.REPLICATE),
        conditions=pd.DataFrame([record for found in scored for record in found.rulers]),
        kinds=kinds,
        unscored=unscored,
        settings={
            "split": split.kind,
            "split_seed": split.seed,
            "n_cells": n_cells,
            "n_draws": n_draws,
            "metrics": metrics,
            "spaces": spaces,
            "seed": seed,
            "saw_held_out": tuple(name for name, model in models.items() if _saw_held_out(model)),
        },
        populations=Populations(split, shown, conditions, seed),
    )


def _saw_held_out(model: Predictor) -> bool:
    """Return whether a model describes held-out conditions by their own cells, so that its scores are not zero-shot."""
    return isinstance(model, AbstractMap) and model.encoder.saw_held_out


def _checked_spaces(spaces: Sequence[SpaceName]) -> tuple[SpaceName, ...]:
    given = (spaces,) if isinstance(spaces, str) else tuple(spaces)
    if not given or any(space not in _SPACES for space in given):
        raise ConfigError(f"spaces must be some of {', '.join(_SPACES)}, found {given!r}.")
    return tuple(space for space in _SPACES if space in given)


def _checked_metrics(metrics: Sequence[str], truth: Truth | None, spaces: tuple[SpaceName, ...]) -> tuple[str, ...]:
    wanted = dict.fromkeys(metric(name).name for name in ((metrics,) if isinstance(metrics, str) else metrics))
    if truth is None and "l2_uvp" in wanted:
        raise ConfigError("the metric 'l2_uvp' needs the true map: pass truth=, or leave it out.")
    if truth is not None:
        if "genes" not in spaces:
            raise ConfigError("the true map is compared in gene space: add 'genes' to spaces, or leave truth out.")
        wanted["l2_uvp"] = None
    # The mean of a captured share is the share of the mean distances, which must therefore be in the table.
    wanted |= {CAPTURED[name]: None for name in list(wanted) if name in CAPTURED}
    if not wanted:
        raise ConfigError(f"evaluate needs at least one metric, found none: choose from {', '.join(METRICS)}.")
    return tuple(name for name in METRICS if name in wanted)


def _refuse_different_spaces(models: Mapping[str, Predictor], split: Split) -> None:
    (first, model), *others = models.items()
    rows = split.cells(Role.SOURCE)[:20]
    codes = np.asarray(model.space.encode(split.study.adata, rows))
    for name, other in others:
        if other.space is model.space:
            continue
        theirs = np.asarray(other.space.encode(split.study.adata, rows))
        if theirs.shape != codes.shape or not np.allclose(theirs, codes, rtol=1e-4, atol=1e-4 * np.abs(codes).max()):
            raise ConfigError(
                f"{first!r} and {name!r} live in different spaces, whose distances do not compare: "
                'pass spaces=("genes",), or evaluate them one at a time.'
            )


def _codes(model: Predictor, split: Split) -> np.ndarray:
    """Return the code of every cell that has a role, NaN for the others, (n_obs, d)."""
    used = split.cells(*(role for role in Role if role != Role.UNUSED))
    encoded = np.asarray(model.space.encode(split.study.adata, used))
    z = np.full((split.study.n_obs, encoded.shape[1]), np.nan, encoded.dtype)
    z[used] = encoded
    return z


def _standard_baselines(model: Predictor, split: Split, z: np.ndarray) -> dict[str, Predictor]:
    if not isinstance(model, AbstractMap):
        raise ConfigError(
            f"the standard baselines need the encoder of a fitted cellgap model, and {type(model).__name__} is none: "
            "pass baselines= (an empty mapping for none)."
        )
    return who.standard_baselines(Codes(split, model.space, model.encoder, z))


def _sorted_table(rows: Sequence[Row], predictors: list[str], conditions: list[str]) -> pd.DataFrame:
    """Return the rows as a table without scale, in an order that does not depend on which thread was first."""
    names, places, spaces, metrics = (
        {label: i for i, label in enumerate(labels)} for labels in (predictors, conditions, _SPACES[::-1], METRICS)
    )
    ordered = sorted(rows, key=lambda row: (names[row[0]], places[row[1]], spaces[row[2]], metrics[row[3]], row[7]))
    return pd.DataFrame(ordered, columns=pd.Index([name for name in COLUMNS if name != "scaled"]))


def _scored(run: Run, plans: Sequence[Plan], client: "Client | None") -> Iterator[Scored]:
    """Yield what was found on every condition, in the order of the plans."""
    if client is not None:
        yield from scored_by_workers(client, run, plans)
        return
    # One thread a predictor: the products of a tile are too small to be shared by the threads of the linear algebra.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(min(_MOST_WORKERS, os.cpu_count() or 1)) as pool:
        for plan in plans:
            yield run.score(plan, pool)


def _shown(plans: Sequence[Plan], scored: Iterator[Scored], progress: bool) -> Iterable[Scored]:
    if not progress:
        return scored
    from rich.console import Console
    from rich.progress import track

    return track(scored, "evaluate", total=len(plans), console=Console(stderr=True), transient=True)
