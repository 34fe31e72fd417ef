"""What the page of a generator shows: held-out cells, and one generated cell with the attributes of each."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellgap.cli._say import note
from cellgap.errors import ConfigError

if TYPE_CHECKING:
    from anndata import AnnData

    from cellgap.generate import FittedCFGen
    from cellgap.report import GenerationData, OtherModality

    Cells = tuple[AnnData, ...]


def report_data(
    run: Path, fitted: "FittedCFGen", by: str, guidance: float | str, seed: int, n_cells: int
) -> "GenerationData":
    """Return what the page shows: held-out cells, and one generated cell with the attributes of each.

    Parameters
    ----------
    run, fitted
        Folder of the run, and its generator.
    by
        The attribute that is scored by category.
    guidance, seed
        As in ``cellgap generate sample``.
    n_cells
        Held-out cells at most.

    Raises
    ------
    ConfigError
        The split of the run holds no cells out.
    """
    import jax.random as jr
    import numpy as np
    import pandas as pd

    from cellgap.cli._report_data import history_table, readable
    from cellgap.cli._run_folder import Run
    from cellgap.evaluate import generated_scores
    from cellgap.generate import as_table
    from cellgap.report import GenerationData
    from cellgap.study import Role

    opened_run = Run.open(run)
    split, study = opened_run.split, opened_run.study
    held = split.cells(Role.TEST, Role.SOURCE, Role.REFERENCE)
    if not len(held):
        raise ConfigError("the split of this run holds no cells out: there is nothing to compare with.")
    known = fitted.attributes.known(study.obs.iloc[held])
    note(f"{len(held):,} held-out cells" + ("" if known.all() else f", {int((~known).sum()):,} of unknown attributes"))
    held = held[known]
    rng = np.random.default_rng(seed)
    if len(held) > n_cells:
        held = np.sort(rng.choice(held, n_cells, replace=False))
    train = split.cells(Role.TRAIN, Role.VALID)
    if len(train) > 4 * n_cells:
        train = np.sort(rng.choice(train, 4 * n_cells, replace=False))
    real, trained = (study.adata[rows].to_memory() for rows in (held, train))
    obs = fitted.attributes.frame(fitted.attributes.labels(pd.DataFrame(real.obs)))
    values: dict[str, Any] = {name: obs[name].astype(str).tolist() for name in fitted.attributes.names}
    made = as_table(fitted.sample(real.n_obs, key=jr.key(seed), guidance=guidance, **values))
    for cells in (real, trained):
        numbers = fitted.attributes.labels(pd.DataFrame(cells.obs))
        cells.obs[by] = fitted.attributes.frame(numbers)[by].astype(str).to_numpy()
    layer = fitted.space.layer
    views = {
        name: tuple(_part(t, genes, layer) for t in (made, real, trained)) for name, genes in fitted.space.by_modality()
    }
    main, *others = views
    scores = generated_scores(*views[main], by=by, seed=seed)
    counts, wanted = (_values(cells) for cells in views[main][:2])
    library = np.asarray(wanted.sum(axis=1)).ravel()
    found = fitted.calibrated
    told = ""
    if found is not None:
        start, end = found.window
        chosen = "none" if found.weight == 1 else f"weight {found.weight:g} between the times {start:g} and {end:g}"
        told = f"Guidance chosen on the validation cells of the fit: {chosen}; the weight here: {guidance}."
    return GenerationData(
        title=f"Generated cells: {opened_run.data.stem}",
        subtitle=f"{len(held):,} held-out cells ({split.kind}), mean total {library.mean():,.0f}",
        real=wanted.toarray(),
        generated=counts.toarray(),
        labels=values[by],
        by=by,
        scores=scores,
        history=history_table(fitted.history).rename(columns={"energy distance, held-out cells": "held-out loss"}),
        gaps=fitted.gaps(),
        guidance=told,
        settings=readable(opened_run.settings),
        others=tuple(_other(name, views[main], views[name], by, seed) for name in others),
    )


def _values(cells: "AnnData") -> Any:
    return cells.X


def _part(cells: Any, genes: list[str], layer: str | None) -> "AnnData":
    from anndata import AnnData

    from cellgap.space import counts_of

    chosen = counts_of(cells, layer if layer in cells.layers else None, genes)
    return AnnData(chosen.astype("float32"), obs=cells.obs.copy(), var=cells[:, genes].var[[]].copy())


def _other(name: str, counts: "Cells", cells: "Cells", by: str, seed: int) -> "OtherModality":
    """Return what the page shows of a further modality."""
    import numpy as np

    from cellgap.evaluate import accessibility_scores, paired_scores
    from cellgap.report import OtherModality

    there = [np.asarray((_values(c) > 0).mean(axis=0)).ravel() for c in cells[:2]]
    scores = accessibility_scores(cells[0], cells[1], cells[2], by=by, seed=seed)
    pairs: Any = zip(counts, cells, strict=True)
    return OtherModality(name, there[1], there[0], scores, paired_scores(*pairs, by=by))
