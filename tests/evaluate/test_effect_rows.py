"""Effects as a table: values against SciPy on single genes, predictions, units, gene sets, and what is refused."""

import jax.random as jr
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import cellgap as cg
from cellgap.errors import ConditionError, ConfigError, DataError
from cellgap.evaluate import EFFECT_COLUMNS, effect_table, read_gene_sets


@pytest.fixture(scope="module")
def fitted():
    screen = cg.simulate(n_drugs=3, n_cells=60, n_genes=12, n_combinations=1, seed=0)
    split = cg.split.unseen_treatment(screen.study(), ["C1"], seed=0)
    encoder = cg.encode.Table(screen.descriptors) | cg.encode.Dose()
    model = cg.MeanShift(space=cg.space.PCA(dim=4), encoder=encoder, rule="ridge")
    return split, model.fit(split, key=jr.key(0))


@pytest.fixture(scope="module")
def table(fitted):
    return effect_table(*fitted, dataset="screen")


def one(table, source, **key):
    rows = table[table["source"] == source]
    for name, value in key.items():
        rows = rows[rows[name] == value]
    return rows


def test_rows_are_one_a_condition_and_readout(fitted, table):
    split, model = fitted
    study = split.study
    assert set(table.columns) == {*EFFECT_COLUMNS, *study.context_names}
    key = ["treatment", "dose", "unit", *study.context_names, "readout", "source"]
    assert not table.duplicated(key).any()
    measured = one(table, "measured")
    assert len(measured) == len(study.conditions) * len(model.space.genes)
    assert (table["dataset"] == "screen").all() and set(measured["model"]) == {""}
    assert set(one(table, "predicted")["model"]) == {model.name}


def test_measured_effects_are_those_of_scipy(fitted, table):
    split, model = fitted
    study = split.study
    condition = study.conditions[0]
    treated = np.asarray(model.space.measured(study.values(study.rows(condition))), np.float64)
    control = np.asarray(model.space.measured(study.values(study.rows(condition.control))), np.float64)
    treatment, context = condition.treatments[0], dict(condition.context)
    rows = one(table, "measured", treatment=treatment.name, dose=treatment.dose, **context)
    assert list(rows["readout"]) == list(model.space.genes)
    spread = control.std(0, ddof=1)
    np.testing.assert_allclose(rows["effect"], (treated.mean(0) - control.mean(0)) / spread, rtol=1e-5, atol=1e-7)
    test = stats.ttest_ind(treated, control, equal_var=False)
    np.testing.assert_allclose(rows["q"], stats.false_discovery_control(test.pvalue), rtol=1e-4)
    error = np.sqrt(treated.var(0, ddof=1) / len(treated) + control.var(0, ddof=1) / len(control)) / spread
    np.testing.assert_allclose(rows["se"], error, rtol=1e-5)
    assert set(rows["n_cells"]) == {len(treated)} and set(rows["n_control"]) == {len(control)}


def test_predicted_are_the_conditions_that_the_model_never_saw(fitted, table):
    split, _ = fitted
    predicted = one(table, "predicted")
    assert not predicted["seen"].any() and set(predicted["treatment"]) == {"C1"}
    assert predicted["extrapolates"].str.contains("C1").all()
    held = {(c.treatments[0].dose, c.context[0][1]) for c in split.test_conditions}
    assert set(zip(predicted["dose"], predicted["cell_line"], strict=True)) == held
    assert (one(table, "measured", treatment="C1")["seen"] == np.False_).all()


def test_a_predicted_effect_is_what_the_map_moves(fitted, table):
    split, model = fitted
    study = split.study
    condition = split.test_conditions[0]
    source = split.rows(condition.control, cg.study.Role.SOURCE)
    codes = np.asarray(model.space.encode(study.adata, source))
    before = np.maximum(np.asarray(model.space.decode(codes)), 0)
    after = np.maximum(np.asarray(model.space.decode(np.asarray(model.transport(codes, condition)))), 0)
    spread = np.asarray(model.space.measured(study.values(study.rows(condition.control)))).std(0, ddof=1)
    rows = one(table, "predicted", dose=condition.treatments[0].dose, cell_line=dict(condition.context)["cell_line"])
    np.testing.assert_allclose(rows["effect"], (after.mean(0) - before.mean(0)) / spread, rtol=1e-4, atol=1e-6)


def test_a_combination_has_its_doses_in_its_name(fitted):
    split, model = fitted
    pair = next(c for c in split.study.conditions if len(c.treatments) == 2)
    rows = effect_table(split, model, conditions=[])
    rows = rows[rows["treatment"] == " + ".join(str(t) for t in pair.treatments)]
    assert len(rows) == len(model.space.genes) * sum(c.treatments == pair.treatments for c in split.study.conditions)
    assert rows["dose"].isna().all() and (rows["unit"] == "").all()


def test_conditions_can_be_asked_for_and_have_to_have_an_answer(fitted):
    split, model = fitted
    made = effect_table(split, model, conditions=["A1@42nM | line1"])
    predicted = one(made, "predicted")
    assert set(predicted["dose"]) == {42.0} and set(predicted["cell_line"]) == {"line1"}
    with pytest.raises(ConditionError, match="nothere"):
        effect_table(split, model, conditions=["nothere@42nM | line1"])


def test_a_gene_set_is_the_mean_of_standardized_genes(fitted):
    split, model = fitted
    genes = [str(g) for g in model.space.genes[:3]]
    made = effect_table(split, model, conditions=[], gene_sets={"set": [*genes, genes[0], "not a gene"]})
    condition = split.study.conditions[0]
    study = split.study
    control = np.asarray(model.space.measured(study.values(study.rows(condition.control))), np.float64)[:, :3]
    treated = np.asarray(model.space.measured(study.values(study.rows(condition))), np.float64)[:, :3]
    scale = control.std(0, ddof=1)
    before, after = (control / scale).mean(1), (treated / scale).mean(1)
    context = dict(condition.context)
    row = made[(made["readout"] == "set") & (made["treatment"] == condition.treatments[0].name)]
    row = row[(row["dose"] == condition.treatments[0].dose) & (row["cell_line"] == context["cell_line"])]
    expected = (after.mean() - before.mean()) / before.std(ddof=1)
    assert float(row["effect"].iloc[0]) == pytest.approx(expected, rel=1e-4)


def test_sets_without_a_gene_are_refused(fitted):
    with pytest.raises(ConfigError, match="'empty' has none of the 12 genes"):
        effect_table(*fitted, conditions=[], gene_sets={"empty": ["TP53"]})


def test_a_readout_that_controls_do_not_vary_in_has_no_unit_and_no_row():
    from cellgap.evaluate._effect_rows import _Group, _rows

    condition = cg.Condition("a", cell_line="x")
    rng = np.random.default_rng(0)
    control = rng.normal(size=(20, 2))
    control[:, 1] = 1.0
    rows = _rows(condition, ["g", "constant"], _Group.of(control), _Group.of(control + 1.0), {"source": "measured"})
    assert list(rows["readout"]) == ["g"] and rows["dose"].isna().all()
    few = _rows(condition, ["g", "h"], _Group.of(rng.normal(size=(20, 2))), _Group.of(control[:2]), {})
    assert list(few["q"]) == [1.0, 1.0] and few["se"].isna().all()


def test_gene_set_files_are_read_and_refused(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("apoptosis\tsource\tBAX\tCASP3\n\nG1 arrest\t-\tCDKN1A\n", encoding="utf-8")
    assert read_gene_sets(str(path)) == {"apoptosis": ("BAX", "CASP3"), "G1 arrest": ("CDKN1A",)}
    for text, told in [
        ("a\tb\n", "Line 1 .* has no genes"),
        ("a\t\tX\na\t\tY\n", "Line 2 .* 'a' again"),
        ("\n", "no gene set"),
    ]:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=told):
            read_gene_sets(str(path))
    with pytest.raises(DataError, match="Cannot read"):
        read_gene_sets(str(tmp_path / "none.gmt"))


def test_the_table_is_plain(table):
    assert isinstance(table, pd.DataFrame) and np.isfinite(table[["effect", "q"]]).all(axis=None)
    assert table["q"].between(0, 1).all() and table.index.is_unique
