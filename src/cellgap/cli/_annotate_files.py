"""Cells that ``cellgap annotate predict`` reads, and the labels that it writes beside them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from rich.console import RenderableType

    from cellgap.annotate import FittedAnnotator

PREFIX = "cellgap_"
_BLOCK = 8192
_MOST_REASONS = 5


def annotated(fitted: "FittedAnnotator", data: Path, *, keep: bool, progress: bool) -> "tuple[AnnData, pd.DataFrame]":
    """Return cells and the table of their labels, a block at a time.

    Parameters
    ----------
    fitted
        The annotator.
    data
        File of the cells.
    keep
        Whether the cells themselves are needed afterwards; otherwise their matrix stays on disk.
    progress
        Show a progress bar.

    Raises
    ------
    DataError, DesignError
        There is no such file, or genes or the layer are missing in it.
    """
    import numpy as np
    import pandas as pd

    from cellgap.study._read import open_study_file
    from cellgap.train import progress_bar

    cells = open_study_file(data, backed=not keep)
    parts = []
    with progress_bar(f"annotating {data.name}", cells.n_obs, 0, shown=progress) as shown:
        for start in range(0, cells.n_obs, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, cells.n_obs))
            parts.append(fitted.predict(cells, rows))
            shown(int(rows[-1]) + 1, {}, 0.0)
    return cells, pd.concat(parts) if parts else fitted.predict(cells)


def written(cells: "AnnData", table: "pd.DataFrame", fitted: "FittedAnnotator", out: Path) -> None:
    """Write the labels, with the cells (.h5ad) or alone (.csv); the file is whole or not there.

    Columns are called ``cellgap_label`` and so on; columns of that name are replaced.
    """
    import pandas as pd

    from cellgap.annotate import UNASSIGNED

    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.stem}.{os.getpid()}.part{out.suffix}")
    table = table.add_prefix(PREFIX)
    try:
        if out.suffix == ".csv":
            table.to_csv(part, index_label="cell")
        else:
            kinds = {"label": [*fitted.classes, UNASSIGNED], "best": fitted.classes, "second": fitted.classes}
            for name, values in table.items():
                kind = kinds.get(str(name).removeprefix(PREFIX))
                given = pd.Categorical(values, list(kind)) if kind is not None else values.to_numpy()
                cells.obs[name] = pd.Categorical(values) if name == f"{PREFIX}reason" else given
            cells.uns["cellgap_annotation"] = {
                "model": fitted.name, "label": fitted.label, "classes": list(fitted.classes),
                "domains": list(fitted.domains),
            }  # fmt: skip
            cells.write_h5ad(part)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)


def told(table: "pd.DataFrame") -> "Iterator[RenderableType]":
    """Yield what is printed of the labels: how many of each, and why cells were left without one."""
    from rich.table import Table
    from rich.text import Text

    from cellgap.annotate import UNASSIGNED
    from cellgap.report._words import count

    shown = Table()
    for name in ("label", "cells", "share", "mean probability"):
        shown.add_column(name, justify="left" if name == "label" else "right")
    for name, cells in sorted(
        table.groupby("label", sort=False), key=lambda pair: (pair[0] == UNASSIGNED, -len(pair[1]))
    ):
        share = f"{len(cells) / len(table):.1%}"
        shown.add_row(Text(str(name)), f"{len(cells):,}", share, f"{cells['probability'].mean():.3f}")
    yield shown
    reasons = table.loc[table["label"] == UNASSIGNED, "reason"].value_counts()
    for reason, n in list(reasons.items())[:_MOST_REASONS]:
        yield f"{count(n, 'cell')} {reason}"
    if len(reasons) > _MOST_REASONS:
        yield f"and {len(reasons) - _MOST_REASONS} further reasons, in the column {PREFIX}reason"
