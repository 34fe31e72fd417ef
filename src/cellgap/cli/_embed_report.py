"""What the page of an embedding shows: the diagnosis, cells the split holds out, and what can be read from them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cellgap.cli._run_file import RunFile
from cellgap.cli._run_folder import Run
from cellgap.errors import CellgapError, ConfigError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from cellgap.embed import FittedEmbedding, SamplingDiagnosis
    from cellgap.report import EmbeddingData
    from cellgap.study import Split

_LEAST_HELD = 100
_MOST_LABELS = 100
_MOST_FIGURES = 4
_PCS, _PC_CELLS = 30, 5000


def diagnosis_data(run: RunFile, split: "Split", found: "SamplingDiagnosis") -> "EmbeddingData":
    """Return what the page shows before any training."""
    from cellgap.cli._report_data import readable
    from cellgap.report import EmbeddingData

    return EmbeddingData(
        title=f"Pairs: {run.data.stem}",
        subtitle=f"{found.n_cells:,} training cells ({split.kind}); nothing is trained yet",
        diagnosis=found,
        settings=readable(run.to_dict()),
    )


def report_data(
    run: Run, fitted: "FittedEmbedding", colours: Sequence[str], seed: int, n_cells: int
) -> "tuple[EmbeddingData, list[str]]":
    """Return what the page shows, and what could not be shown, in sentences.

    Parameters
    ----------
    run, fitted
        The run, and its embedding.
    colours
        Columns that color the cells; none: treatment, context, and what is to be kept or lost.
    seed, n_cells
        Of the sample of cells, held-out ones where the split has enough of them.

    Raises
    ------
    ConfigError
        A color is no column.
    """
    import numpy as np
    import pandas as pd

    from cellgap.cli._report_data import readable
    from cellgap.embed._reach import DEPTH, factors_of
    from cellgap.report import EmbeddingData
    from cellgap.study import Role

    split, study, found = run.split, run.study, fitted.sampling
    for name in colours:
        if name not in (*study.obs.columns, "treatment"):
            raise ConfigError(f"--colour: obs has no column {name!r}: it has {', '.join(map(str, study.obs.columns))}.")
    rng = np.random.default_rng(seed)
    train = split.cells(Role.TRAIN, Role.VALID)
    rows = split.cells(Role.TEST, Role.SOURCE, Role.REFERENCE)
    held = len(rows) >= _LEAST_HELD
    rows = _some(rows if held else train, n_cells, rng)
    codes = np.asarray(fitted.encode(study.adata, rows), float)
    where = f"{len(rows):,} held-out cells" if held else f"{len(rows):,} training cells (none are held out)"

    names = [f.name for f in found.factors if f.name not in ("treatment", DEPTH)]
    extra = [name for name in colours if name != "treatment" and name not in names]
    treatment = _treatments(split, rows) if study.design.treatment != () else None
    known = factors_of(study.obs.iloc[rows], [*names, *extra], treatment)
    inputs = fitted.genes.encode(study.adata, rows)
    pcs = _components(fitted.genes.encode(study.adata, _some(train, _PC_CELLS, rng)), inputs)
    role = {f.name: f.role for f in found.factors}
    probed = {name: values for name, values in known.items() if name in role}
    if study.is_counts:
        probed[DEPTH] = _depth(fitted, study, rows)
    probes, skipped = _probed(probed, role, codes, pcs, seed)
    shown = list(colours) or [n for n in known if n in role][:_MOST_FIGURES]
    labels = {name: _texts(known[name]) for name in shown if name in known}
    skipped += [f"{name} has one value in these cells: not drawn" for name in shown if name not in known]
    model = run.settings["model"]
    page = EmbeddingData(
        title=f"Embedding: {run.data.stem}",
        subtitle=f"{fitted.dim} dimensions, {found.n_cells:,} training cells ({split.kind}), loss {model['loss']}",
        diagnosis=found,
        loss=str(model["loss"]),
        history=pd.DataFrame(list(fitted.history)),
        best_step=fitted.best_step,
        codes=codes,
        labels=labels,
        cells=where,
        probes=probes,
        probed=f"{where}, each told by a probe of other folds of them",
        gaps=fitted.gaps(),
        settings=readable(run.settings),
        notes=_notes(fitted),
    )
    return page, skipped


def _notes(fitted: "FittedEmbedding") -> tuple[str, ...]:
    """Return what to know of how training ended."""
    found = []
    if not any("valid" in row for row in fitted.history):
        found.append("No held-out cell had a partner, so the last state was kept and not the best one.")
    if fitted.best_step and fitted.history and fitted.best_step == fitted.history[-1]["step"] and not found:
        found.append("The held-out loss was still falling at the last step: train longer.")
    return tuple(found)


def _some(rows: "np.ndarray", most: int, rng: Any) -> "np.ndarray":
    import numpy as np

    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def _treatments(split: "Split", rows: "np.ndarray") -> "np.ndarray":
    """Return the treatments of cells in words, doses included, contexts not."""
    import numpy as np

    study = split.study
    names = [" + ".join(map(str, c.treatments)) or "control" for c in study.all_conditions]
    return np.asarray(names, dtype=object)[study.codes[rows]]


def _depth(fitted: "FittedEmbedding", study: Any, rows: "np.ndarray") -> "np.ndarray":
    """Return log totals of the genes of an embedding."""
    import numpy as np

    from cellgap.space import counts_of

    counts = counts_of(study.adata[rows].to_memory(), fitted.genes.layer, list(fitted.genes.genes))
    return np.log(np.maximum(np.asarray(counts.sum(axis=1)).ravel().astype(float), 1.0))


def _components(train: "np.ndarray", asked: "np.ndarray") -> "np.ndarray":
    """Return cells along the first principal components of training cells."""
    from sklearn.decomposition import PCA

    most = min(_PCS, min(train.shape) - 1)
    return PCA(most, svd_solver="randomized", random_state=0).fit(train).transform(asked)


def _texts(values: "np.ndarray") -> list[str]:
    """Return labels as texts; numbers of many values as quarters."""
    import numpy as np

    if values.dtype.kind != "f":
        return [str(v) for v in values]
    edges = np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1.0])
    return [f"{edges[i]:.3g} to {edges[i + 1]:.3g}" for i in np.searchsorted(edges[1:-1], values)]


def _probed(
    factors: "dict[str, np.ndarray]", role: dict[str, str], codes: "np.ndarray", pcs: "np.ndarray", seed: int
) -> "tuple[pd.DataFrame, list[str]]":
    """Return how well factors are told from both, and which could not be probed."""
    import numpy as np
    import pandas as pd

    from cellgap.embed import knn_probe, linear_probe, ridge_probe
    from cellgap.report._embedding import PROBES

    made, skipped = [], []
    for name, values in factors.items():
        if values.dtype.kind != "f" and len(np.unique(values)) > _MOST_LABELS:
            skipped.append(f"{name} has more than {_MOST_LABELS} values: not probed")
            continue
        try:
            if values.dtype.kind == "f":
                found = [ridge_probe(h, values, seed=seed).r2 for h in (codes, pcs)]
                made.append((name, role.get(name, ""), "R²", 0.0, np.nan, np.nan, *found))
                continue
            near = [knn_probe(h, values, seed=seed) for h in (codes, pcs)]
            line = [linear_probe(h, values, seed=seed) for h in (codes, pcs)]
        except CellgapError as error:
            skipped.append(f"{name} was not probed: {error}")
            continue
        told = [probe.accuracy for probe in (*near, *line)]
        made.append((name, role.get(name, ""), "accuracy", near[0].chance, *told))
    return pd.DataFrame(made, columns=pd.Index(PROBES)), skipped
