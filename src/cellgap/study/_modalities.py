"""Several measurements of the same cells: MuData as one table whose features say what measured them, and back."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from cellgap.errors import DataError, MissingExtraError
from cellgap.study._wording import close_to, listed

if TYPE_CHECKING:
    from mudata import MuData

MODALITY = "modality"
"""The column of ``var`` that `joined` writes."""


def is_mudata(data: Any) -> "TypeGuard[MuData]":
    """Return whether something is a MuData, without loading the package."""
    return type(data).__module__.partition(".")[0] == "mudata" and hasattr(data, "mod")


def joined(mdata: "MuData") -> AnnData:
    """Return the modalities of the same cells as one table.

    Parameters
    ----------
    mdata
        Every modality has the same cells, in the same order.

    Returns
    -------
    AnnData
        ``X`` and the layers that all modalities have, side by side (CSR where one of them is sparse);
        ``var["modality"]``: which one each feature is of; ``obs``: the columns of the MuData, then those of each
        modality that are not there yet.

    Raises
    ------
    DataError
        There are no modalities, they have different cells, one lacks its values, or two have a feature of the same
        name.
    """
    names = list(mdata.mod)
    if not names:
        raise DataError("The MuData holds no modality.")
    tables: list[Any] = [mdata.mod[name] for name in names]
    first = tables[0].obs_names
    for name, table in zip(names, tables, strict=True):
        if table.X is None:
            raise DataError(f"The modality {name!r} has no X.")
        if not table.obs_names.equals(first):
            raise DataError(_different(names[0], first, name, table.obs_names))
    features = np.concatenate([np.asarray(t.var_names.astype(str), object) for t in tables])
    of = np.repeat(names, [t.n_vars for t in tables])
    twice = pd.Index(features).duplicated()
    if twice.any():
        name = features[int(np.argmax(twice))]
        holders = ", ".join(dict.fromkeys(of[features == name]))
        raise DataError(f"{name!r} names several features ({holders}): make the names of features unique.")
    obs = pd.DataFrame(mdata.obs).reindex(first) if len(mdata.obs.columns) else pd.DataFrame(index=first)
    for name, table in zip(names, tables, strict=True):
        for column in table.obs.columns:
            if column not in obs.columns:
                obs[column] = table.obs[column]
            # Writing MuData repeats columns of modalities under a longer name.
            obs = obs.drop(columns=f"{name}:{column}", errors="ignore")
    shared = set.intersection(*(set(t.layers) for t in tables))
    layers = {layer: _side_by_side([t.layers[layer] for t in tables]) for layer in sorted(shared)}
    var = pd.DataFrame({MODALITY: pd.Categorical(of, categories=names)}, index=pd.Index(features))
    return AnnData(_side_by_side([t.X for t in tables]), obs=obs, var=var, layers=layers)


def parted(adata: AnnData, column: str = MODALITY) -> "MuData":
    """Return a table of several modalities as MuData; what belongs to cells stays with the cells.

    Parameters
    ----------
    adata
        ``var[column]`` says which modality each feature is of.
    column
        Its name.

    Raises
    ------
    MissingExtraError
        The package mudata is not installed.
    """
    mudata = package()
    of = np.asarray(adata.var[column].astype(str))
    x: Any = adata.X
    tables = {
        name: AnnData(
            x[:, of == name],
            obs=pd.DataFrame(index=adata.obs_names),
            var=pd.DataFrame(adata.var).loc[of == name].drop(columns=column),
        )
        for name in dict.fromkeys(of)
    }
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData(tables)
    mdata.obs = adata.obs.copy()
    for name, values in adata.obsm.items():
        mdata.obsm[name] = values
    mdata.uns.update(adata.uns)
    return mdata


def write_cells(cells: "AnnData | MuData", path: Path) -> None:
    """Write cells to a file, ``.h5ad`` or ``.h5mu``; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(cells, AnnData):
        cells.write_h5ad(path)
        return
    # What belongs to cells is kept once, not again in every modality.
    with package().set_options(pull_on_update=False):
        cells.write(path)


def package() -> Any:
    """Return the package mudata.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        return importlib.import_module("mudata")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            'Several modalities need mudata, which is not installed: pip install "cellgap[multi]".'
        ) from error


def modality_columns(adata: AnnData, names: list[str], column: str = MODALITY) -> list[np.ndarray]:
    """Return where the features of each modality are.

    Raises
    ------
    DataError
        The column is missing, or a modality has no feature.
    """
    if column not in adata.var.columns:
        known = [str(c) for c in adata.var.columns]
        raise DataError(
            f"var has no column {column!r} that says which modality a feature is of ({listed(known) or 'no columns'}): "
            "make the study from a MuData, which writes it."
        )
    of = np.asarray(adata.var[column].astype(str))
    for name in names:
        if name not in of:
            raise DataError(f"There is no modality {name!r}: {close_to(name, list(dict.fromkeys(of)))}")
    return [np.flatnonzero(of == name) for name in names]


def _side_by_side(matrices: list[Any]) -> Any:
    if not any(sp.issparse(m) for m in matrices):
        return np.concatenate([np.asarray(m) for m in matrices], axis=1)
    return sp.csr_matrix(sp.hstack([sp.csr_matrix(m) for m in matrices], format="csr"))


def _different(first: str, cells: pd.Index, name: str, others: pd.Index) -> str:
    lacking, added = cells[~cells.isin(others)], others[~others.isin(cells)]
    advice = "keep the common cells, in one order (mudata: intersect_obs)"
    if not len(lacking) and not len(added):
        return f"The modalities {first!r} and {name!r} have the same cells in another order: {advice}."
    return (
        f"The modalities {first!r} ({len(cells)} cells) and {name!r} ({len(others)}) have different cells "
        f"(first: {str((lacking if len(lacking) else added)[0])!r}): {advice}."
    )
