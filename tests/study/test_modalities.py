"""MuData as one table and back, its mistakes, and files of it."""

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import cellgap as cg
from cellgap.errors import DataError, MissingExtraError
from cellgap.study import is_mudata, joined, parted, write_cells

DESIGN = cg.Design(context=("type",), counts="X")


def tables() -> dict[str, anndata.AnnData]:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"type": list("aabb") * 3}, index=[f"c{i}" for i in range(12)])
    rna = anndata.AnnData(sp.csr_matrix(rng.poisson(2.0, (12, 5)).astype(np.float32) + 1), obs=obs)
    atac = anndata.AnnData(rng.integers(0, 2, (12, 7)).astype(np.float32), obs=pd.DataFrame(index=obs.index))
    rna.var_names, atac.var_names = [f"g{i}" for i in range(5)], [f"p{i}" for i in range(7)]
    rna.layers["raw"], atac.layers["raw"] = rna.X.copy(), atac.X.copy()
    rna.layers["own"] = rna.X.copy()
    return {"rna": rna, "atac": atac}


def mdata(parts: dict[str, anndata.AnnData] | None = None) -> mudata.MuData:
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData(tables() if parts is None else parts)


def test_joined_holds_both_side_by_side_and_parted_gives_them_back():
    both = mdata()
    table = joined(both)
    assert table.shape == (12, 12) and sp.issparse(table.X) and list(table.layers) == ["raw"]
    assert table.var["modality"].tolist() == ["rna"] * 5 + ["atac"] * 7
    assert table.obs["type"].tolist() == both["rna"].obs["type"].tolist()
    table.obsm["codes"], table.uns["model"] = np.ones((12, 2)), {"a": 1}
    back = parted(table)
    assert is_mudata(back) and not is_mudata(table) and list(back.mod) == ["rna", "atac"]
    for name in back.mod:
        x, y = (m[name].X for m in (back, both))
        np.testing.assert_array_equal(*(v.toarray() if sp.issparse(v) else v for v in (x, y)))
        assert list(back[name].var_names) == list(both[name].var_names)
    assert back.obs["type"].tolist() == table.obs["type"].tolist() and back.obsm["codes"].shape == (12, 2)
    assert "modality" not in back["rna"].var and back.uns["model"] == {"a": 1}


def test_a_study_of_a_mudata_and_of_its_file_are_the_same(tmp_path):
    one = cg.Study(mdata(), DESIGN)
    write_cells(mdata(), tmp_path / "sub" / "cells.h5mu")
    two = cg.Study.read(tmp_path / "sub" / "cells.h5mu", DESIGN)
    assert one.fingerprint == two.fingerprint and one.n_vars == 12
    np.testing.assert_array_equal(one.values(np.arange(12)).toarray(), two.values(np.arange(12)).toarray())
    write_cells(one.adata, tmp_path / "cells.h5ad")
    assert cg.Study.read(tmp_path / "cells.h5ad", DESIGN).fingerprint == one.fingerprint


def test_columns_of_the_mudata_come_first_and_long_names_of_copies_are_dropped():
    whole = mdata()
    whole.obs["type"] = list("xy") * 6
    whole.obs["rna:type"] = "old"
    table = joined(whole)
    assert table.obs["type"].tolist() == list("xy") * 6 and list(table.obs.columns) == ["type"]


def reordered(parts):
    parts["atac"] = parts["atac"][::-1].copy()


def fewer(parts):
    parts["atac"] = parts["atac"][:9].copy()


def same_name(parts):
    parts["atac"].var_names = ["g0", *parts["atac"].var_names[1:]]


@pytest.mark.filterwarnings("ignore:var_names are not unique")
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (reordered, "same cells in another order"),
        (fewer, r"'rna' \(12 cells\) and 'atac' \(9\) have different cells \(first: 'c9'\)"),
        (same_name, "'g0' names several features .*make the names of features unique"),
        (lambda parts: parts.clear(), "holds no modality"),
    ],
)
def test_what_is_no_table_of_the_same_cells_is_refused(spoil, says):
    parts = tables()
    spoil(parts)
    with pytest.raises(DataError, match=says):
        cg.Study(mdata(parts), DESIGN)


def test_a_modality_without_values_is_refused():
    parts = tables()
    parts["atac"] = anndata.AnnData(obs=parts["atac"].obs, var=parts["atac"].var)
    with pytest.raises(DataError, match="'atac' has no X"):
        joined(mdata(parts))


def test_a_broken_file_and_a_file_left_on_disk_are_refused(tmp_path):
    anndata.AnnData(np.ones((2, 2))).write_h5ad(tmp_path / "wrong.h5mu")
    with pytest.raises(DataError, match=r"wrong.h5mu' cannot be read as a MuData"):
        cg.Study.read(tmp_path / "wrong.h5mu", DESIGN)
    (tmp_path / "empty.h5mu").touch()
    with pytest.raises(DataError, match=r"empty file \(0 bytes\): expected an .h5mu file"):
        cg.Study.read(tmp_path / "empty.h5mu", DESIGN)
    write_cells(mdata(), tmp_path / "cells.h5mu")
    with pytest.raises(DataError, match="cannot be left on disk"):
        cg.Study.read(tmp_path / "cells.h5mu", DESIGN, backed=True)


def test_without_the_package_it_is_named(monkeypatch):
    import importlib

    table = joined(mdata())

    def lacking(name: str):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", lacking)
    with pytest.raises(MissingExtraError, match=r"cellgap\[multi\]"):
        parted(table)
