from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from cellgap.errors import ConditionError, DataError, DesignError
from cellgap.study import Condition, Design, Study, Treatment


def of(columns: dict[str, object], **design: object) -> Study:
    """A study of two channels with these columns of obs."""
    obs = pd.DataFrame(columns)
    obs.index = pd.Index([f"c{i}" for i in range(len(obs))])
    return Study(AnnData(X=np.ones((len(obs), 2), np.float32) * 0.5, obs=obs), Design(**design))  # type: ignore[arg-type]


def test_every_cell_belongs_to_the_population_of_its_labels(study: Study) -> None:
    assert len(study.conditions) == 2 * (3 * 3 + 1) and len(study.controls) == 2
    seen = np.concatenate(list(study.populations.values()))
    assert sorted(seen) == list(range(study.n_obs))
    obs = study.obs
    for condition, rows in study.populations.items():
        assert rows.dtype == np.int64 and (np.diff(rows) > 0).all()
        here = obs.iloc[rows]
        assert set(here["cell_line"]) == {dict(condition.context)["cell_line"]}
        if condition.is_control:
            assert set(here["drug"]) == {"vehicle"}
        else:
            assert {frozenset(d.split("+")) for d in here["drug"]} == {frozenset(condition.names)}
            assert set(here["dose_nM"]) == {t.dose for t in condition.treatments}
            assert {t.unit for t in condition.treatments} == {"nM"}
    for i, condition in enumerate(study.all_conditions):
        assert (study.codes[study.populations[condition]] == i).all()
    assert list(study.conditions) == sorted(study.conditions)


def test_is_not_changed_through_what_it_gives(study: Study) -> None:
    with pytest.raises(ValueError, match="read-only"):
        study.codes[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        study.rows("control | A549")[0] = 1
    with pytest.raises(TypeError):
        study.populations[Condition()] = np.array([1])  # type: ignore[index]


@pytest.mark.parametrize("kind", ["object", "category", "string"])
def test_the_type_of_a_text_column_does_not_matter(kind: str, adata: AnnData, design: Design, study: Study) -> None:
    adata.obs["drug"] = adata.obs["drug"].astype(kind)
    adata.obs["cell_line"] = adata.obs["cell_line"].astype(kind)
    other = Study(adata, design)
    assert other.all_conditions == study.all_conditions and (other.codes == study.codes).all()
    assert other.fingerprint == study.fingerprint


@pytest.mark.parametrize("kind", ["object", "category", "float32", "int64", "Int64"])
def test_the_type_of_a_dose_column_does_not_matter(kind: str, adata: AnnData, design: Design, study: Study) -> None:
    doses = adata.obs["dose_nM"]
    adata.obs["dose_nM"] = doses.astype(str) if kind == "object" else doses.astype(kind)  # type: ignore[call-overload]
    assert (Study(adata, design).codes == study.codes).all()


def test_a_float32_dose_keeps_its_short_form() -> None:
    study = of(
        {"drug": ["c", "x"], "dose_uM": np.array([0, 2.3324], np.float32)},
        treatment="drug",
        control="c",
        dose="dose_uM",
    )
    assert str(study.conditions[0]) == "x@2.3324uM"


@pytest.mark.parametrize(
    ("values", "control"),
    [
        ([False, True], "False"),
        ([False, True], False),
        ([0, 1], "0"),
        ([0.0, 1.0], 0),
        (["0", "1"], "0"),
        (["false", "true"], "False"),
        (pd.Categorical([0, 1]), "0"),
        (pd.array([False, True], dtype="boolean"), "0"),
    ],
)
def test_a_yes_or_no_column_gives_its_name(values: object, control: object) -> None:
    study = of({"icam2": values}, treatment="icam2", control=control)
    assert study.all_conditions == (Condition(), Condition("icam2"))


def test_other_numbers_are_named_with_their_column() -> None:
    study = of({"guide": [0, 1, 2, 7.5]}, treatment="guide", control=0)
    assert [c.names for c in study.conditions] == [("guide",), ("guide=2",), ("guide=7.5",)]


def test_slots_make_combinations() -> None:
    columns = {"drug": ["no", "a", "no", "a"], "gene": [0, 0, 1, 1], "drug_nM": [0.0, 5.0, 0.0, 5.0]}
    study = of(columns, treatment=("drug", "gene"), control=("no", "0"), dose=("drug_nM", ""))
    gene, drug = Treatment("gene"), Treatment("a", 5, "nM")
    assert set(study.conditions) == {Condition(drug), Condition(gene), Condition([drug, gene])}


def test_dose_zero_is_the_control_whatever_the_name() -> None:
    study = of({"drug": ["auxin"] * 3, "dose_uM": [0, 10, 10]}, treatment="drug", control="control", dose="dose_uM")
    assert study.all_conditions == (Condition(), Condition("auxin", dose=10, unit="uM"))
    assert len(study.rows("control")) == 1


def test_a_dose_column_can_be_the_treatment() -> None:
    study = of({"d_uM": [0.0, 10.0]}, treatment="d_uM", control=0)
    assert study.conditions[0].names == ("d_uM=10",)


def test_combinations_in_one_column() -> None:
    columns = {"gene": ["ctrl", "A+ctrl", "ctrl+B", "A+B", "B + A"]}
    study = of(columns, treatment="gene", control="ctrl")
    assert study.conditions == (Condition("A"), Condition(["A", "B"]), Condition("B"))
    assert len(study.rows("A + B")) == 2
    whole = of({"gene": ["ctrl", "A+B"]}, treatment="gene", control="ctrl", combine=None)
    assert whole.conditions == (Condition("A+B"),)


def test_members_of_a_combination_have_doses() -> None:
    columns = {"drug": ["c", "a+b", "a+b", "a"], "dose_nM": ["", "10+5", "7", "10"]}
    with pytest.raises(DesignError, match=r'"dose_nM"\] is a dose column but holds ""'):
        of(columns, treatment="drug", control="c", dose="dose_nM")
    columns["dose_nM"][0] = None  # type: ignore[call-overload]
    study = of(columns, treatment="drug", control="c", dose="dose_nM")
    assert [str(c) for c in study.conditions] == ["a@7nM + b@7nM", "a@10nM", "a@10nM + b@5nM"]


def test_rows_and_controls(study: Study) -> None:
    rows = study.rows("trametinib@1uM | A549")
    assert (study.obs["drug"].iloc[rows] == "trametinib").all() and len(rows) == 60
    assert study.control_of("trametinib@1000nM | K562") == Condition(cell_line="K562")
    with pytest.raises(ConditionError, match=r"under 'trametinib@5nM \| A549': measured are 'trametinib@10nM"):
        study.rows("trametinib@5nM | A549")
    with pytest.raises(ConditionError, match="no control cells"):
        study.control_of(Condition("nutlin", dose=10, cell_line="HeLa"))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Condition("nutlin", dose=10, cell_line="A549"), "nutlin@10nM | A549"),
        (Condition("nutlin", dose=0.01, unit="uM", cell_line="A549"), "nutlin@10nM | A549"),
        ("nutlin@0.1uM + trametinib@100 | cell_line=K562", "nutlin@100nM + trametinib@100nM | K562"),
        ("nutlin@33.3 | A549", "nutlin@33.3nM | A549"),
        (Condition(cell_line="A549"), "control | A549"),
    ],
)
def test_resolve_speaks_the_words_of_the_study(condition: Condition | str, expected: str, study: Study) -> None:
    assert str(study.resolve(condition)) == expected


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("tramatinib@10nM | A549", "did you mean 'trametinib'"),
        ("nutlin@10nM | A594", "Unknown cell_line 'A594': did you mean 'A549'"),
        (Condition("nutlin", dose=10, cellline="A549"), "Unknown context name 'cellline': did you mean 'cell_line'"),
        ("nutlin | A549", "Which dose of 'nutlin'"),
        ("nutlin@10nM", "lacks 'cell_line'"),
        ("nutlin@10ng/mL | A549", "Cannot convert a dose from ng/mL to nM"),
        (Condition("vehicle", cell_line="A549"), "'vehicle' is the control"),
        (Condition("nutlin@10nM", cell_line="A549"), r"use Condition.parse\('nutlin@10nM'\)"),
        ("nutlin@10nM | A549, K562", "2 context values"),
    ],
)
def test_resolve_names_what_is_close(condition: Condition | str, says: str, study: Study) -> None:
    with pytest.raises(ConditionError, match=says):
        study.resolve(condition)


def test_resolve_fills_what_is_unambiguous_and_lets_new_words_through() -> None:
    columns = {"drug": ["c", "x"], "dose_nM": [0, 5], "line": ["A", "A"]}
    study = of(columns, treatment="drug", control="c", dose="dose_nM", context=("line",))
    assert repr(study.resolve("x")) == "x@5nM | line=A"
    new = study.resolve(Condition("y", dose=1, unit="uM", line="B"), new=True)
    assert repr(new) == "y@1000nM | line=B"
    with pytest.raises(ConditionError, match="Unknown treatment 'y'"):
        study.resolve(Condition("y", dose=1, line="A"))
    plain = of({"drug": ["c", "x"]}, treatment="drug", control="c")
    with pytest.raises(ConditionError, match="has none in this study"):
        plain.resolve("x@5nM")


@pytest.mark.parametrize("sparse", [True, False])
def test_values_come_in_the_order_asked_for(sparse: bool, make: Callable[..., AnnData], design: Design) -> None:
    adata = make(sparse=sparse)
    study = Study(adata, design)
    full = adata.X.toarray() if sparse else np.asarray(adata.X)
    rows = np.array([5, 3, 3, 700])
    part = study.values(rows)
    assert sp.issparse(part) == sparse
    assert ((part.toarray() if sparse else part) == full[rows]).all()
    two = study.values(rows, ["gene4", "gene0"])
    assert ((two.toarray() if sparse else two) == full[rows][:, [4, 0]]).all()
    mask = np.arange(study.n_obs) % 7 == 0
    assert study.values(mask).shape == (mask.sum(), 6)
    assert study.values([]).shape == (0, 6)


def test_values_refuses_what_is_not_there(study: Study) -> None:
    with pytest.raises(DataError, match="Unknown gene 'gene9': did you mean"):
        study.values([0], ["gene9"])
    for rows in ([-1], [study.n_obs], [[0]]):
        with pytest.raises(DataError, match="Rows must be"):
            study.values(rows)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="mask"):
        study.values(np.array([True]))


def test_counts_may_lie_in_a_layer(adata: AnnData, design: Design) -> None:
    adata.layers["raw"] = adata.X.copy()
    adata.X = sp.csr_matrix(np.log1p(adata.X.toarray()))
    layered = Study(adata, Design(treatment="drug", dose="dose_nM", control="vehicle", counts="raw"))
    assert layered.is_counts and (layered.values([0, 1]) != adata.layers["raw"][:2]).nnz == 0
    plain = Study(adata, Design(treatment="drug", dose="dose_nM", control="vehicle"))
    assert not plain.is_counts and (plain.values([0, 1]) != adata.X[:2]).nnz == 0


def test_the_data_are_kept_as_they_are(adata: AnnData, design: Design) -> None:
    x, obs = adata.X, adata.obs.copy()
    study = Study(adata, design)
    assert study.adata is adata and adata.X is x and study._matrix is x
    pd.testing.assert_frame_equal(adata.obs, obs)


def test_the_fingerprint_follows_labels_names_and_shape(make: Callable[..., AnnData], design: Design) -> None:
    prints = {Study(make(), design).fingerprint, Study(make(seed=1), design).fingerprint}
    renamed = make()
    renamed.var_names = [f"g{i}" for i in range(6)]
    prints.add(Study(renamed, design).fingerprint)
    cells = make()
    cells.obs_names = [f"x{i}" for i in range(cells.n_obs)]
    prints.add(Study(cells, design).fingerprint)
    assert len(prints) == 4
    assert Study(make(), design).fingerprint in prints


def test_a_study_without_context(adata: AnnData) -> None:
    study = Study(adata, Design(treatment="drug", dose="dose_nM", control="vehicle"))
    assert study.controls == (Condition(),) and study.context_values == {}
    assert str(study.resolve("nutlin@10")) == "nutlin@10nM"
    assert "raw counts" not in repr(study) and "treated conditions: 10" in repr(study)
