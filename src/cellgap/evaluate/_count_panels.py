"""Measured and predicted raw counts of one context, as the two files that the field's scorer compares."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from cellgap.errors import ConditionError, ConfigError, DataError, SplitError
from cellgap.evaluate._plan import generator, source_pool
from cellgap.evaluate._predictors import Predictor, models_of
from cellgap.space import matched_counts
from cellgap.study import Condition, Role, Split

LABEL = "perturbation"
"""Column of ``obs`` that holds the labels."""

CONTROL = "control"
"""Label of the control cells."""

_CONTROLS = 5  # times the cells of a population: most REFERENCE controls of a context


@dataclass(frozen=True, eq=False)
class CountPanel:
    """The held-out conditions of one context: measured counts, and which controls predictions start from.

    Parameters
    ----------
    control
        The control condition, which names the context.
    conditions
        Test conditions, all of this context.
    measured
        Counts (CSR, float32 whole numbers) of TEST cells and of REFERENCE controls; ``obs["perturbation"]`` is the
        treatment without its context, or "control".
    pool
        Rows of SOURCE controls.
    source
        Their measured counts (CSR), to which counts are calibrated: see `matched_counts`.
    draws
        For every condition, which cells of the pool it is predicted from: as many as were measured.
    split, seed
        Where the cells come from, and the seed of all draws.
    """

    control: Condition
    conditions: tuple[Condition, ...]
    measured: AnnData
    pool: np.ndarray
    source: sp.csr_matrix
    draws: tuple[np.ndarray, ...]
    split: Split
    seed: int

    @property
    def context(self) -> str:
        """The context as text; "all cells" where the study has none."""
        return ", ".join(value for _, value in self.control.context) or "all cells"

    def predicted(self, predictor: Predictor) -> AnnData:
        """Return the predicted counts beside the same measured controls that stand in `measured`.

        The controls are those of the measurement, so that no prediction of controls can enter a score.

        Parameters
        ----------
        predictor
            Its space must give counts.

        Raises
        ------
        ConditionError
            It has no answer for one of the conditions.
        """
        z = np.asarray(predictor.space.encode(self.split.study.adata, self.pool))
        space: Any = matched_counts(predictor.space, z, self.source)
        library = np.asarray(self.source.sum(axis=1), np.float64).ravel()
        blocks = []
        for condition, drawn in zip(self.conditions, self.draws, strict=True):
            # All conditions move the whole pool, so that a compiled map sees one shape.
            moved = np.asarray(predictor.transport(z, condition))[drawn]
            seed = int(generator(self.seed, repr(condition), "counts").integers(2**31))
            blocks.append(sp.csr_matrix(space.counts(moved, library[drawn], seed=seed), dtype=np.float32))
        n_treated = sum(block.shape[0] for block in blocks)
        controls = sp.csr_matrix(self.measured.X)[n_treated:]
        counts = sp.vstack([*blocks, controls], format="csr")
        return AnnData(sp.csr_matrix(counts), obs=_obs(self.measured), var=pd.DataFrame(index=self.measured.var_names))


def count_panels(
    fitted: Predictor | Mapping[str, Predictor], split: Split, *, max_cells: int = 1000, seed: int = 0
) -> tuple[CountPanel, ...]:
    """Return the measured side of the comparison on raw counts, one panel a context with scored conditions.

    Parameters
    ----------
    fitted
        A fitted model, or several by name, that predict the same genes.
    split
        The split they were fitted on.
    max_cells
        Most treated cells of a condition; controls may be five times as many.
    seed
        Of the choice of cells.

    Raises
    ------
    DataError
        The study holds no raw counts.
    ConfigError
        The space of a model gives no counts, or `max_cells` is below 2.
    SplitError
        No condition can be scored.
    """
    if not split.study.is_counts:
        raise DataError(
            'The suite scores raw counts, and the design names none: set Design(counts="X"), or the layer that holds '
            "them."
        )
    if isinstance(max_cells, bool) or not isinstance(max_cells, int | np.integer) or max_cells < 2:
        raise ConfigError(f"max_cells must be a whole number of at least 2, found {max_cells!r}.")
    models = models_of(fitted, split)
    for name, model in models.items():
        if not getattr(model.space, "gives_counts", False):
            raise ConfigError(
                f"The suite scores raw counts, and the space of {name!r} gives none: fit it on counts with "
                'Genes(transform="lognorm"), PCA of such genes, or Autoencoder.'
            )
    genes = list(map(str, next(iter(models.values())).space.genes))
    by_control: dict[Condition, list[Condition]] = {}
    for condition in split.scored_conditions:
        if len(split.rows(condition, Role.TEST)) > 1:
            by_control.setdefault(condition.control, []).append(condition)
    if not by_control:
        reasons = list(split.params.get("unscored", {}).values())
        raise SplitError(f"No held-out condition can be scored: {'; '.join(map(str, reasons[:3])) or 'there is none'}.")
    return tuple(_panel(split, control, cs, genes, max_cells, seed) for control, cs in by_control.items())


def export_counts(
    fitted: Predictor, split: Split, folder: str | Path, *, max_cells: int = 1000, seed: int = 0
) -> tuple[Path, ...]:
    """Return the folders, one a context, after writing ``measured.h5ad`` and ``predicted.h5ad`` into each.

    The files are what ``cell-eval2 run --preset vcc2026 --pert-col perturbation --control control`` reads (with
    ``--no-target-genes`` unless treatments are named after the genes they hit), and any other scorer of raw counts.

    Parameters
    ----------
    fitted
        A fitted model.
    split
        The split it was fitted on.
    folder
        Where to write; made if it is not there.
    max_cells, seed
        As in `count_panels`.

    Raises
    ------
    DataError, ConfigError, SplitError
        As in `count_panels`.
    ConditionError
        The model has no answer for a held-out condition.
    """
    panels = count_panels(fitted, split, max_cells=max_cells, seed=seed)
    folders = []
    for panel, name in zip(panels, folder_names([panel.context for panel in panels]), strict=True):
        place = Path(folder) / name
        place.mkdir(parents=True, exist_ok=True)
        panel.measured.write_h5ad(place / "measured.h5ad")
        panel.predicted(fitted).write_h5ad(place / "predicted.h5ad")
        folders.append(place)
    return tuple(folders)


def folder_names(contexts: Sequence[str]) -> tuple[str, ...]:
    """Return different names of folders for contexts: letters, digits, dots and dashes; a number where two agree."""
    names: list[str] = []
    for context in contexts:
        plain = re.sub(r"[^A-Za-z0-9.-]+", "_", context).strip("._") or "context"
        taken = sum(1 for name in names if name == plain or name.startswith(f"{plain}~"))
        names.append(f"{plain}~{taken + 1}" if taken else plain)
    return tuple(names)


def label_of(condition: Condition) -> str:
    """Return the treatments of a condition as text, without its context."""
    return " + ".join(str(treatment) for treatment in condition.treatments)


def _panel(
    split: Split, control: Condition, conditions: Sequence[Condition], genes: list[str], max_cells: int, seed: int
) -> CountPanel:
    study = split.study
    pool = source_pool(split, control, max_cells, seed)
    rows, labels, draws = [], [], []
    for condition in conditions:
        rng = generator(seed, repr(condition), "suite")
        test = rng.permutation(split.rows(condition, Role.TEST))[:max_cells]
        rows.append(test)
        labels += [label_of(condition)] * len(test)
        # Where more cells were measured than there are controls, every control is drawn about equally often.
        rounds = -(-len(test) // len(pool))
        drawn = np.concatenate([rng.permutation(len(pool)) for _ in range(rounds)])
        draws.append(drawn[: len(test)])
    reference = split.rows(control, Role.REFERENCE)
    reference = np.sort(generator(seed, repr(control), "suite").permutation(reference)[: _CONTROLS * max_cells])
    rows.append(reference)
    labels += [CONTROL] * len(reference)
    if CONTROL in map(label_of, conditions):
        raise ConditionError(f"A treatment named {CONTROL!r} cannot be told from the controls: rename it.")
    obs = pd.DataFrame({LABEL: pd.Categorical(labels)}, index=pd.Index([f"cell{i}" for i in range(len(labels))]))
    measured = AnnData(
        _counts(study.values(np.concatenate(rows), genes)), obs=obs, var=pd.DataFrame(index=pd.Index(genes))
    )
    source = _counts(study.values(pool, genes))
    return CountPanel(control, tuple(conditions), measured, pool, source, tuple(draws), split, seed)


def _counts(values: Any) -> sp.csr_matrix:
    """Return counts as CSR of float32, in which whole numbers up to 16 million are exact."""
    return sp.csr_matrix(values, dtype=np.float32)


def _obs(adata: AnnData) -> pd.DataFrame:
    return pd.DataFrame(adata.obs).copy()
