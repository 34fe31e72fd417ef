"""Every mistake in the data is found before any work, and answered in one sentence that says what to do."""

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from rich.console import Console

from cellgap.errors import CellgapError, DataError, DesignError
from cellgap.study import Design, Study, check

Change = Callable[[AnnData], Any]


def value(cell: int, gene: int, number: float) -> Change:
    """A change of one value, in a dense or a sparse matrix."""

    def change(adata: AnnData) -> None:
        x = adata.X.toarray() if sp.issparse(adata.X) else adata.X.copy()
        x[cell, gene] = number
        adata.X = sp.csr_matrix(x) if sp.issparse(adata.X) else x

    return change


def label(column: str, cell: int | slice, new: object) -> Change:
    """A change of labels in one column."""

    def change(adata: AnnData) -> None:
        labels = adata.obs[column].astype(object)
        labels.iloc[cell] = new
        adata.obs[column] = labels

    return change


def twice(names: str) -> Change:
    def change(adata: AnnData) -> None:
        changed = list(getattr(adata, names))
        changed[1] = changed[0]
        setattr(adata, names, changed)

    return change


def unused_category(column: str, name: str) -> Change:
    def change(adata: AnnData) -> None:
        adata.obs[column] = adata.obs[column].astype("category").cat.add_categories(name)

    return change


def drop_controls_of(line: str) -> Callable[[AnnData], AnnData]:
    return lambda a: a[~((a.obs["drug"] == "vehicle") & (a.obs["cell_line"] == line))].copy()


BAD: list[Any] = [
    (value(7, 2, np.nan), {}, DataError, r'1 values that are NaN \(the first, nan, is in cell "cell7", gene "gene2"'),
    (value(7, 2, np.inf), {}, DataError, r"1 values that are infinite .*remove these"),
    (value(7, 2, np.nan), {"counts": None}, DataError, "NaN"),
    (value(7, 2, -3), {}, DataError, r'negative \(the first, -3, is in cell "cell7", gene "gene2"\).*counts=None'),
    (value(7, 2, 0.5), {}, DataError, "not whole .*point Design"),
    (twice("var_names"), {}, DataError, r'1 gene names come more than once \("gene0"\).*var_names_make_unique'),
    (twice("obs_names"), {}, DataError, r'1 cell names come more than once \("cell0"\)'),
    (lambda a: a[:0].copy(), {}, DataError, "no cells"),
    (lambda a: a[:, :0].copy(), {}, DataError, "no genes"),
    (lambda a: AnnData(obs=a.obs), {"counts": None}, DataError, "no genes"),
    (None, {"treatment": "drugs"}, DesignError, "no column 'drugs' that the design names: did you mean 'drug'?"),
    (None, {"context": ("zebra",)}, DesignError, "no column 'zebra' that the design names: expected one of"),
    (None, {"counts": "raw"}, DesignError, "counts='raw'. names no layer: found none"),
    (None, {"control": "DMSO", "dose": None}, DesignError, r'looked for "DMSO", found .*Set Design\(control="vehicle"'),
    (drop_controls_of("K562"), {}, DesignError, r'no control cells in 1 of 2 contexts \("cell_line=K562"\): remove'),
    (label("drug", 3, None), {}, DesignError, r'"drug"\] has no label in 1 of 1440 cells \(first: "cell3"\): fill it'),
    (label("cell_line", slice(2, 5), np.nan), {}, DesignError, r'"cell_line"\] has no label in 3 of'),
    (label("drug", 3, " "), {}, DesignError, r'"drug"\] has no label in 1 of'),
    (label("drug", 3, ["a"]), {}, DesignError, "expected texts, numbers or booleans"),
    (label("dose_nM", 3, "high"), {}, DesignError, r'"dose_nM"\] is a dose column but holds "high": expected finite'),
    (label("dose_nM", 3, -10.0), {}, DesignError, r'holds "-10": expected finite numbers of 0 or more'),
    (label("dose_nM", 3, np.inf), {}, DesignError, 'holds "inf"'),
    (label("dose_nM", 3, True), {}, DesignError, 'holds "True"'),
    (label("dose_nM", slice(0, 200), None), {}, DesignError, r'"dose_nM"\] has no dose for cells with "'),
    (label("drug", 3, "nutlin++a"), {}, DesignError, "a combination with an empty name"),
    (label("drug", 3, "nutlin+nutlin"), {}, DesignError, "each treatment once"),
    (None, {"time": "plate"}, DesignError, r'"plate"\] is the time column but has no finite number in 1440 cells'),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(("change", "fields", "kind", "says"), BAD)
def test_finds(
    change: Change | None,
    fields: dict[str, Any],
    kind: type[CellgapError],
    says: str,
    sparse: bool,
    make: Callable[..., AnnData],
) -> None:
    adata = make(sparse=sparse)
    changed = change(adata) if change is not None else None
    adata = changed if isinstance(changed, AnnData) else adata
    design = Design(
        **{
            "treatment": "drug", "dose": "dose_nM", "control": "vehicle", "context": ("cell_line",), "counts": "X",
        } | fields
    )  # fmt: skip
    findings = check(adata, design)
    found = [error for error in findings.errors if re.search(says, str(error))]
    assert not findings.ok and found, [str(e) for e in findings.errors]
    assert isinstance(found[0], kind)
    assert str(found[0]).endswith((".", "?")) and "\n" not in str(found[0])
    with pytest.raises(type(findings.errors[0])) as raised:
        Study(adata, design)
    assert str(raised.value) == str(findings.errors[0])


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_never_stops_at_the_first(adata: AnnData, design: Design) -> None:
    value(7, 2, np.nan)(adata)
    value(8, 2, -1)(adata)
    value(9, 2, 0.5)(adata)
    twice("var_names")(adata)
    label("drug", 3, None)(adata)
    label("dose_nM", 3, "high")(adata)
    texts = [str(e) for e in check(adata, design).errors]
    for says in ("NaN", "negative", "not whole", "gene names", "no label", "is a dose column"):
        assert sum(says in text for text in texts) == 1, texts
    assert len(texts) == 6


def test_good_data_have_no_findings_and_a_table(study: Study, adata: AnnData, design: Design) -> None:
    findings = check(adata, design)
    assert findings.ok and not findings.warnings and check(study).ok
    table = findings.table
    assert list(table.columns) == ["condition", "n_cells", "n_controls"] and len(table) == 22
    assert table["n_cells"].sum() == adata.n_obs
    assert set(table["n_controls"]) == {120}
    assert findings.measured == "1,440 cells x 6 genes, sparse float32 in X: raw counts"
    findings.raise_first()


def test_prints(adata: AnnData, design: Design) -> None:
    value(7, 2, np.nan)(adata)
    findings = check(adata, design)
    text = str(findings)
    assert "control | A549" in text and "error: X has 1 values that are NaN" in text and "raw counts" in text
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(findings)
    assert "nutlin@10nM | A549" in console.export_text()
    assert "No errors, no warnings." in str(check(Study(adata[:, :2].copy(), design)))


@pytest.mark.parametrize(
    ("change", "fields", "says"),
    [
        (None, {"counts": None}, 'if these are raw counts, set Design(counts="X")'),
        (lambda a: a[np.r_[0:40, 200:1440]].copy(), {}, "have fewer than 50 cells"),
        (label("cell_line", 3, "a549"), {"context": ()}, None),
        (None, {"control": "DMSO"}, '"drug"] never holds the control "DMSO": only cells of dose 0 are controls'),
        (label("drug", 3, "Nutlin"), {}, 'the labels "Nutlin", "nutlin", which differ only in case or spaces'),
        (label("drug", 3, "NaN"), {}, 'has the label "NaN": is it a missing value written as text?'),
        (label("drug", 3, "vehicle"), {}, "beside the control"),
        (lambda a: a[a.obs["drug"] == "vehicle"].copy(), {}, "Every cell is a control"),
        (
            unused_category("drug", "aspirin"),
            {},
            'has categories without a cell: "aspirin"',
        ),
        (lambda a: setattr(a, "X", sp.csc_matrix(a.X)), {}, "stored by columns"),
    ],
)
def test_warns(change: Change | None, fields: dict[str, Any], says: str | None, adata: AnnData) -> None:
    adata.obs.loc[adata.obs_names[3], "dose_nM"] = 10.0
    adata.obs.loc[adata.obs_names[3], "drug"] = "nutlin"
    changed = change(adata) if change is not None else None
    adata = changed if isinstance(changed, AnnData) else adata
    design = Design(
        **{"treatment": "drug", "dose": "dose_nM", "control": "vehicle", "context": ("cell_line",), "counts": "X"}
        | fields
    )
    findings = check(adata, design)
    assert findings.ok
    if says is None:
        assert not findings.warnings
    else:
        assert any(says in warning for warning in findings.warnings), findings.warnings
        Study(adata, design)  # a warning does not stop anyone


def test_needs_data_and_a_design(adata: AnnData) -> None:
    with pytest.raises(DataError, match="needs a design"):
        check(adata)
    with pytest.raises(DataError, match="needs an AnnData or a Study, found DataFrame"):
        check(pd.DataFrame())  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"Study needs an AnnData, found str; use Study.read"):
        Study("file.h5ad", Design(treatment="a", control="b"))  # type: ignore[arg-type]


def test_refuses_matrices_that_are_not_numbers(adata: AnnData) -> None:
    design = Design(treatment="drug", control="vehicle", combine=None)
    adata.X = adata.X.toarray().astype(str)
    with pytest.raises(DataError, match="dense or CSR matrix of numbers"):
        Study(adata, design)


def test_values_are_read_in_blocks(adata: AnnData, design: Design, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellgap.study._measurements._CHUNK_VALUES", 100)
    for cell in (3, 500, 1319):
        value(cell, 5, np.nan)(adata)
    (error,) = check(adata, design).errors
    assert 'X has 3 values that are NaN (the first, nan, is in cell "cell3", gene "gene5")' in str(error)
    adata.X = adata.X.toarray()
    (error,) = check(adata, design).errors
    assert 'X has 3 values that are NaN (the first, nan, is in cell "cell3", gene "gene5")' in str(error)
