"""Cells that ``cellgap embed encode`` reads, and the embedding that it writes beside them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellgap.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from cellgap.embed import FittedEmbedding

KEY = "X_cellgap"
_BLOCK = 8192


def checked_out(out: Path) -> None:
    """Refuse a file of another kind, before cells are read.

    Raises
    ------
    ConfigError
        It ends neither in .h5ad nor in .csv.
    """
    if out.suffix not in (".h5ad", ".csv"):
        raise ConfigError(f"--out must name an .h5ad or a .csv file, found {str(out)!r}.")


def encoded(
    fitted: "FittedEmbedding", data: Path, output: Any, *, keep: bool, progress: bool
) -> "tuple[AnnData, np.ndarray]":
    """Return cells and their embedding, a block at a time.

    Parameters
    ----------
    fitted
        The embedding.
    data
        File of the cells.
    output
        "sphere" or "hidden".
    keep
        Whether the cells themselves are needed afterwards; otherwise their matrix stays on disk.
    progress
        Show a progress bar.
    """
    import numpy as np

    from cellgap.study._read import open_study_file
    from cellgap.train import progress_bar

    cells = open_study_file(data, backed=not keep)
    parts = []
    with progress_bar(f"embedding {data.name}", cells.n_obs, 0, shown=progress) as shown:
        for start in range(0, cells.n_obs, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, cells.n_obs))
            parts.append(fitted.encode(cells, rows, output=output))
            shown(int(rows[-1]) + 1, {}, 0.0)
    return cells, np.concatenate(parts) if parts else fitted.encode(cells, output=output)


def written(cells: "AnnData", codes: "np.ndarray", fitted: "FittedEmbedding", output: str, out: Path) -> None:
    """Write the embedding, with the cells (.h5ad) or alone (.csv); the file is whole or not there."""
    import pandas as pd

    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.stem}.{os.getpid()}.part{out.suffix}")
    try:
        if out.suffix == ".csv":
            names = pd.Index([f"e{i + 1}" for i in range(codes.shape[1])])
            table = pd.DataFrame(codes, index=cells.obs_names.astype(str), columns=names)
            table.to_csv(part, index_label="cell")
        else:
            cells.obsm[KEY] = codes
            found = fitted.sampling
            cells.uns["cellgap"] = {
                "model": fitted.name, "output": output, "pairs": found.pairs,
                "warnings": "\n".join(found.warnings),
            }  # fmt: skip
            cells.write_h5ad(part)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
