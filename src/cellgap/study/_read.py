"""Opening AnnData files, in memory or with the matrices left on disk."""

from pathlib import Path
from typing import Any

import h5py
from anndata import AnnData, read_h5ad, read_zarr
from anndata.io import read_elem, sparse_dataset

from cellgap.errors import DataError
from cellgap.study._modalities import joined, package


def open_study_file(path: str | Path, *, backed: bool = False) -> AnnData:
    """Return the AnnData in an ``.h5ad`` file or a ``.zarr`` folder, or the modalities of an ``.h5mu`` file as one.

    Parameters
    ----------
    path
        File or folder.
    backed
        Whether ``X`` and the layers stay on disk (dense or sparse); everything else is read.

    Raises
    ------
    DataError
        There is no such file, it is empty, or it is not an AnnData.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"There is no file {str(path)!r}: check the path.")
    zarr_store = path.is_dir()
    if zarr_store and not any((path / name).exists() for name in (".zgroup", "zarr.json", ".zattrs")):
        raise DataError(f"{str(path)!r} is a folder but not a zarr store: expected an .h5ad file or a .zarr folder.")
    kind, writer = (".h5mu", "MuData.write_h5mu") if path.suffix == ".h5mu" else (".h5ad", "AnnData.write_h5ad")
    if not zarr_store and path.stat().st_size == 0:
        raise DataError(f"{str(path)!r} is an empty file (0 bytes): expected an {kind} file.")
    if not zarr_store and not h5py.is_hdf5(path):
        raise DataError(f"{str(path)!r} is not an HDF5 file: expected an {kind} file as {writer} makes it.")
    if path.suffix == ".h5mu":
        if backed:
            raise DataError(f"{str(path)!r} cannot be left on disk: write it as one AnnData, or read it whole.")
        return joined(_read_mudata(path))
    try:
        store = _open(path, zarr_store)
        lacking = [name for name in ("obs", "var") if name not in store]
        if not lacking and backed:
            return _left_on_disk(store)
        _close(store)
        if not lacking:
            return read_zarr(path) if zarr_store else read_h5ad(path)
    except MemoryError as error:
        raise DataError(f"{str(path)!r} does not fit in memory: read it with backed=True.") from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
        raise DataError(
            f"{str(path)!r} cannot be read as an AnnData ({type(error).__name__}: {reason}): "
            "write it again with AnnData.write_h5ad."
        ) from error
    raise DataError(
        f"{str(path)!r} is not an AnnData: it has no {' and no '.join(lacking)}; write it with AnnData.write_h5ad."
    )


def _read_mudata(path: Path) -> Any:
    mudata = package()
    try:
        with mudata.set_options(pull_on_update=False):
            return mudata.read_h5mu(path)
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
        raise DataError(
            f"{str(path)!r} cannot be read as a MuData ({type(error).__name__}: {reason}): "
            "write it again with MuData.write_h5mu."
        ) from error


def _open(path: Path, zarr_store: bool) -> Any:
    if not zarr_store:
        return h5py.File(path, "r")
    import zarr

    return zarr.open_group(path, mode="r")


def _close(store: Any) -> None:
    if isinstance(store, h5py.File):
        store.close()


def _left_on_disk(store: Any) -> AnnData:
    """Return an AnnData whose matrices are handles into the file; AnnData's own backed mode reads layers whole."""
    parts: dict[str, Any] = {
        name: read_elem(store[name]) for name in ("obs", "var", "obsm", "varm", "uns") if name in store
    }
    layers = {name: _handle(store["layers"][name]) for name in store["layers"]} if "layers" in store else {}
    return AnnData(X=_handle(store["X"]) if "X" in store else None, layers=layers, **parts)


def _handle(element: Any) -> Any:
    """Return a matrix on disk without reading it."""
    return sparse_dataset(element) if hasattr(element, "keys") else element
