import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad

from cellgap.errors import DataError
from cellgap.study import Design, Study, split

zarr_v2 = pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")


def write(adata: AnnData, path: Path) -> Path:
    if path.suffix == ".zarr":
        adata.write_zarr(path)
    else:
        adata.write_h5ad(path)
    return path


@zarr_v2
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("counts", ["X", "raw"])
def test_backed_is_the_same_and_stays_on_disk(
    suffix: str, sparse: bool, counts: str, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellgap.study._measurements._CHUNK_VALUES", 300)
    adata = study.adata.copy()
    if not sparse:
        adata.X = adata.X.toarray()
    adata.layers["raw"] = adata.X.copy()
    design = Design(treatment="drug", dose="dose_nM", control="vehicle", context=("cell_line",), counts=counts)
    path = write(adata, tmp_path / f"screen{suffix}")
    backed, whole = Study.read(path, design, backed=True), Study.read(path, design)
    assert backed.all_conditions == study.all_conditions and (backed.codes == study.codes).all()
    assert backed.fingerprint == whole.fingerprint == study.fingerprint
    assert sp.issparse(whole._matrix) == sparse
    assert not isinstance(backed._matrix, np.ndarray) and not sp.issparse(backed._matrix)
    rows = np.random.Generator(np.random.PCG64(0)).integers(0, study.n_obs, 400)
    for picked in (rows, rows[:3], np.array([1439, 0, 0]), np.arange(0, 1440, 50), np.arange(0)):
        one, other = backed.values(picked), whole.values(picked)
        assert sp.issparse(one) == sp.issparse(other) == sparse and one.shape == other.shape
        assert ((one.toarray() if sparse else one) == (other.toarray() if sparse else other)).all()
    assert backed.values(rows, ["gene3"]).shape == (400, 1)
    split.unseen_treatment(backed, "nutlin").check_leaks()


def test_a_backed_study_needs_little_memory(tmp_path: Path) -> None:
    n_obs, n_vars = 20_000, 2_000
    x = sp.random(n_obs, n_vars, density=0.05, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    x.data[:] = 3
    obs = pd.DataFrame({"drug": ["c", "x"] * (n_obs // 2)}, index=[f"c{i}" for i in range(n_obs)])
    AnnData(X=x, obs=obs, layers={"raw": x}).write_h5ad(tmp_path / "big.h5ad")
    stored = x.data.nbytes + x.indices.nbytes
    del x
    tracemalloc.start()
    study = Study.read(tmp_path / "big.h5ad", Design(treatment="drug", control="c", counts="raw"), backed=True)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 4e6 < stored / 3, "the study keeps the labels, not the values"
    assert peak < 3 * stored < n_obs * n_vars * 4, "the check never holds a dense matrix"
    assert study.values([5]).nnz > 0


def test_anndata_own_backed_mode_works_too(study: Study, tmp_path: Path) -> None:
    path = write(study.adata, tmp_path / "screen.h5ad")
    backed = read_h5ad(path, backed="r")
    other = Study(backed, study.design)
    assert other.adata.isbacked and other.fingerprint == study.fingerprint
    assert (other.values([7, 2]) != study.values([7, 2])).nnz == 0
    backed.file.close()


@zarr_v2
def test_columns_on_disk_are_refused(study: Study, tmp_path: Path) -> None:
    adata = study.adata.copy()
    adata.X = sp.csc_matrix(adata.X)
    path = write(adata, tmp_path / "screen.h5ad")
    with pytest.raises(DataError, match="stored by columns"):
        Study.read(path, study.design, backed=True)


@pytest.mark.parametrize("backed", [True, False])
def test_bad_files_are_named(backed: bool, tmp_path: Path, design: Design) -> None:
    def read(name: str) -> None:
        Study.read(tmp_path / name, design, backed=backed)

    with pytest.raises(DataError, match=r"There is no file .*absent.h5ad"):
        read("absent.h5ad")
    (tmp_path / "empty.h5ad").touch()
    with pytest.raises(DataError, match="empty file"):
        read("empty.h5ad")
    (tmp_path / "text.h5ad").write_text("drug,dose\n")
    with pytest.raises(DataError, match="not an HDF5 file"):
        read("text.h5ad")
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["table"] = [1, 2]
    with pytest.raises(DataError, match="no obs and no var"):
        read("other.h5ad")
    with h5py.File(tmp_path / "damaged.h5ad", "w") as file:
        file["obs"], file["var"], file["X"] = [1, 2], [1], [[1.0], [2.0]]
    with pytest.raises(DataError, match=r"damaged.h5ad.* cannot be read as an AnnData"):
        read("damaged.h5ad")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="not a zarr store"):
        read("folder")
    AnnData(X=np.ones((0, 3), np.float32)).write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(DataError, match="no cells"):
        read("none.h5ad")


def test_a_truncated_file_is_named(study: Study, tmp_path: Path) -> None:
    path = write(study.adata, tmp_path / "screen.h5ad")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as an AnnData"):
        Study.read(path, study.design)
