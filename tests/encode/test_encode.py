"""Encoders: what a condition becomes, in any order and unit, and what cannot be encoded."""

import dataclasses
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap import storage
from cellgap.encode import Context, ContextTable, Dose, FittedEncoder, Joint, OneHot, Table
from cellgap.errors import ConditionError, ConfigError, DataError
from cellgap.settings import from_dict, to_dict
from cellgap.study import Condition, Design, Split, Study, Treatment, split

NAMES = ("alpha", "beta", "gamma", "delta")


def _study(doses: bool = True, undosed: bool = False) -> Study:
    """Four drugs in two cell lines, one pair, 6 cells a condition; ``ko`` has no dose where asked."""
    rows = []
    for line in ("A549", "K562"):
        rows += [("vehicle", 0.0, line)] * 12
        rows += [(name, dose, line) for name in NAMES for dose in (10.0, 1000.0) for _ in range(6)]
        rows += [("alpha+beta", 100.0, line)] * 6
    obs = pd.DataFrame(rows, columns=["drug", "dose_nM", "cell_line"])
    obs.index = pd.Index([f"c{i}" for i in range(len(obs))])
    if undosed:
        obs["edit"] = np.where((obs["drug"] == "vehicle") & (np.arange(len(obs)) % 2 == 0), "ko", "none")
        design = Design(
            treatment=("drug", "edit"), control=("vehicle", "none"), dose=("dose_nM", ""), context=("cell_line",)
        )
        return Study(AnnData(np.ones((len(obs), 2), np.float32), obs=obs), design)
    if not doses:
        obs = obs.drop(columns="dose_nM")
    design = Design(treatment="drug", control="vehicle", dose="dose_nM" if doses else None, context=("cell_line",))
    return Study(AnnData(np.ones((len(obs), 2), np.float32), obs=obs, uns={"treatment_descriptors": _table()}), design)


def _table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "size": [1.0, 2.0, 4.0, 7.0, 100.0],
            "flat": [3.0, 3.0, 3.0, 3.0, 8.0],
            "acid": [True, False, True, True, False],
        },
        index=pd.Index([*NAMES, "epsilon"]),
    )


def _split(study: Study, *held: str) -> Split:
    if held:
        return split.unseen_treatment(study, list(held), min_cells=1)
    return split.in_distribution(study, min_cells=1)


@pytest.fixture(scope="module")
def fitted() -> FittedEncoder:
    return (Table() | Dose() | Context("cell_line")).fit(_split(_study(), "delta"))


def _at(name: str, dose: float, unit: str = "nM", line: str = "A549") -> Condition:
    return Condition(name, dose=dose, unit=unit, cell_line=line)


def test_control_has_no_rows_but_a_context(fitted):
    encoded = fitted.encode(Condition(cell_line="K562"))
    assert encoded.entities.shape == (0, fitted.dim)
    np.testing.assert_array_equal(encoded.context, [0, 1])
    vector = fitted.vector(Condition(cell_line="K562"))
    np.testing.assert_array_equal(vector[: -fitted.context_dim], 0)


def test_columns_name_what_is_encoded(fitted):
    assert fitted.columns == ("size", "acid", "log10 dose in nM")
    assert fitted.context_columns == ("cell_line=A549", "cell_line=K562")
    assert len(fitted.vector(_at("alpha", 10))) == len(fitted.vector_columns)
    assert "log10 dose in nM x size" in fitted.vector_columns


def test_descriptors_are_standardized_over_training_treatments_only(fitted):
    rows = np.concatenate([fitted.encode(_at(n, 10)).entities[:, :2] for n in ("alpha", "beta", "gamma")])
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(rows.std(0), 1, atol=1e-6)
    held_out = fitted.encode(_at("delta", 10)).entities[0, 0]
    np.testing.assert_allclose(held_out, (7 - 7 / 3) / np.std([1, 2, 4]), rtol=1e-6)


def test_constant_columns_are_dropped_and_named():
    block = Table().fit(_split(_study(), "delta")).blocks[0]
    assert block.dropped == ("flat",)


def test_dose_is_its_logarithm_between_the_training_doses(fitted):
    doses = [fitted.encode(_at("alpha", d)).entities[0, 2] for d in (10, 100, 1000, 100000, 1)]
    np.testing.assert_allclose(doses, [0, 0.5, 1, 2, -0.5], atol=1e-6)


def test_dose_in_another_unit_is_the_same_dose(fitted):
    np.testing.assert_array_equal(fitted.vector(_at("beta", 1, "uM")), fitted.vector(_at("beta", 1000)))
    np.testing.assert_array_equal(
        fitted.vector(Condition("beta", dose=1000, cell_line="A549")), fitted.vector(_at("beta", 1000))
    )


def test_linear_dose():
    fitted = Dose(scale="linear").fit(_split(_study()))
    np.testing.assert_allclose(fitted.encode(_at("alpha", 505)).entities, [[0.5]], atol=1e-6)


def test_treatments_without_dose_get_an_indicator():
    fitted = Dose().fit(_split(_study(undosed=True)))
    assert fitted.dim == 2
    np.testing.assert_allclose(fitted.encode(_at("alpha", 10)).entities, [[0, 1]], atol=1e-6)
    np.testing.assert_array_equal(fitted.encode(Condition("ko", cell_line="A549")).entities, [[0, 0]])


def test_one_dose_only_still_extrapolates_per_decade():
    study = _study()
    fitted = Dose().fit(split.unseen_dose(study, [10, 100], min_cells=1))
    np.testing.assert_allclose(
        [fitted.encode(_at("alpha", d)).entities[0, 0] for d in (1000, 10000)], [0, 1], atol=1e-6
    )


@settings(max_examples=25, deadline=None)
@given(
    doses=st.lists(st.floats(0.1, 1e5), min_size=3, max_size=3),
    order=st.permutations(range(3)),
)
def test_combinations_do_not_depend_on_order(fitted, doses, order):
    treatments = [Treatment(n, d, "nM") for n, d in zip(NAMES, doses, strict=False)]
    first = Condition.of(treatments, [("cell_line", "A549")])
    second = Condition.of([treatments[i] for i in order], [("cell_line", "A549")])
    np.testing.assert_array_equal(fitted.encode(first).entities, fitted.encode(second).entities)
    np.testing.assert_array_equal(fitted.vector(first), fitted.vector(second))


def test_vector_of_a_combination_is_the_sum_of_its_members(fitted):
    both = fitted.vector(
        Condition.of([Treatment("alpha", 10, "nM"), Treatment("gamma", 1000, "nM")], [("cell_line", "A549")])
    )
    single = fitted.vector(_at("alpha", 10)) + fitted.vector(_at("gamma", 1000))
    n = fitted.context_dim
    np.testing.assert_allclose(both[:-n], single[:-n], rtol=1e-5)
    np.testing.assert_array_equal(both[-n:], fitted.vector(_at("alpha", 10))[-n:])


def test_vector_holds_dose_times_descriptor(fitted):
    vector = dict(zip(fitted.vector_columns, fitted.vector(_at("gamma", 100)), strict=True))
    np.testing.assert_allclose(vector["log10 dose in nM x size"], 0.5 * vector["size"], rtol=1e-5)
    assert vector["treatments"] == 1


def test_many_conditions_are_padded_and_masked(fitted):
    study = _study()
    many = fitted.encode_many(study.all_conditions)
    for k, condition in enumerate(study.all_conditions):
        one = fitted.encode(condition)
        np.testing.assert_array_equal(many.entities[k][many.mask[k]], one.entities)
        np.testing.assert_array_equal(many.entities[k][~many.mask[k]], 0)
        np.testing.assert_array_equal(many.context[k], one.context)
    assert fitted.encode_many(study.controls).entities.shape == (2, 1, fitted.dim)
    assert fitted.encode_many(study.conditions, width=4).mask.shape == (len(study.conditions), 4)
    assert many.entities.dtype == np.float32 and many.context.dtype == np.float32


def test_one_hot_of_what_was_trained_on():
    fitted = OneHot().fit(_split(_study(), "delta"))
    assert fitted.columns == ("alpha", "beta", "gamma")
    np.testing.assert_array_equal(fitted.encode(_at("beta", 10)).entities, [[0, 1, 0]])
    assert not fitted.can_encode(_at("delta", 10))
    with pytest.raises(ConditionError, match=r"'delta'.*descriptor.*Table"):
        fitted.encode(_at("delta", 10))


def test_joining_is_flat_and_associative():
    a, b, c = Table(), Dose(), Context("cell_line")
    assert (a | b) | c == a | (b | c) == Joint((a, b, c)) == Joint((Joint((a, b)), c))
    fits = [e.fit(_split(_study())).vector(_at("alpha", 10)) for e in ((a | b) | c, a | (b | c))]
    np.testing.assert_array_equal(*fits)


def test_every_order_of_parts_encodes_the_same_numbers():
    parts = (Table(), Dose(), Context("cell_line"))
    sums = {
        tuple(sorted(Joint(p).fit(_split(_study())).vector(_at("beta", 100)).round(5))) for p in permutations(parts)
    }
    assert len(sums) == 1


@pytest.mark.parametrize(
    "encoder",
    [
        OneHot(),
        Dose(),
        Dose(scale="linear"),
        Table(),
        Table("drugs.csv"),
        Context("cell_line", "donor"),
        Table() | Dose(),
    ],
)
def test_settings_round_trip_as_plain_values(encoder):
    assert from_dict(to_dict(encoder)) == encoder
    assert hash(from_dict(to_dict(encoder))) == hash(encoder)
    assert dataclasses.replace(encoder) == encoder


def test_fitted_encoder_round_trips_through_files(tmp_path):
    study = _study()
    fitted = (Table(_table()) | Dose() | OneHot() | Context("cell_line")).fit(_split(study))
    storage.save(fitted, tmp_path)
    back = storage.load(tmp_path)
    assert back.columns == fitted.columns
    for condition in study.all_conditions:
        np.testing.assert_array_equal(back.vector(condition), fitted.vector(condition))


def test_table_in_memory_is_not_written_to_settings_but_encodes():
    encoder = Table(_table())
    assert encoder.path is None
    with pytest.raises(ConfigError, match="given in memory"):
        to_dict(encoder | Dose())
    np.testing.assert_array_equal(
        encoder.fit(_split(_study())).vector(_at("beta", 10)), Table().fit(_split(_study())).vector(_at("beta", 10))
    )


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t"), (".txt", "\t")])
def test_table_from_a_file(tmp_path, suffix, separator):
    path = tmp_path / f"drugs{suffix}"
    _table().to_csv(path, sep=separator)
    by_file = Table(str(path)).fit(_split(_study()))
    assert by_file.columns == ("size", "acid")
    np.testing.assert_allclose(by_file.vector(_at("beta", 10)), Table().fit(_split(_study())).vector(_at("beta", 10)))


def test_table_from_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    _table().to_parquet(tmp_path / "drugs.parquet")
    assert Table(tmp_path / "drugs.parquet").fit(_split(_study())).columns == ("size", "acid")


def test_names_in_a_file_are_text(tmp_path):
    (tmp_path / "drugs.csv").write_text("name,size\nNA,1\n007,2\n")
    from cellgap.encode._descriptors import read_descriptors

    assert read_descriptors(str(tmp_path / "drugs.csv"), _study()).names == ("NA", "007")


def _knock_outs() -> Study:
    rows = ["none"] * 12 + [gene for gene in ("TP53", "MYC", "EGFR") for _ in range(6)]
    obs = pd.DataFrame({"gene": rows}, index=[f"c{i}" for i in range(len(rows))])
    var = pd.DataFrame({"length": [1.0, 2.0, 4.0, 8.0]}, index=["MYC", "EGFR", "TP53", "KRAS"])
    embedding = np.arange(8.0).reshape(4, 2) ** 2
    frame = pd.DataFrame({"pc1": embedding[:, 0], "pc2": embedding[:, 1]}, index=var.index)
    adata = AnnData(np.ones((len(rows), 4), np.float32), obs=obs, var=var, varm={"scgpt": embedding, "frame": frame})
    return Study(adata, Design(treatment="gene", control="none"))


@pytest.mark.parametrize("source", ["varm:scgpt", "varm:frame", "var:length"])
def test_knock_outs_are_described_by_their_genes(source):
    study = _knock_outs()
    encoder = Table(source)
    assert from_dict(to_dict(encoder)) == encoder
    fitted = encoder.fit(_split(study, "EGFR"))
    slot, key = source.split(":")
    raw = np.asarray(study.adata.varm[key] if slot == "varm" else study.adata.var[[key]], float)
    of = dict(zip(study.genes, raw, strict=True))
    trained = np.stack([of["MYC"], of["TP53"]])
    for gene in study.genes:
        expected = (of[gene] - trained.mean(0)) / trained.std(0)
        np.testing.assert_allclose(fitted.encode(Condition(gene)).entities[0], expected, rtol=1e-6)
    assert "KRAS was not trained on" in fitted.extrapolation(Condition("KRAS"))[0]
    with pytest.raises(DataError, match=f"no {slot}\\['{key}s'\\]: did you mean '{key}'"):
        Table(source + "s").fit(_split(study))


def _lines() -> pd.DataFrame:
    return pd.DataFrame({"doubling": [22.0, 24.0, 29.0], "sex": [1, 1, 1]}, index=["A549", "K562", "MCF7"])


def test_context_values_by_their_descriptors(tmp_path):
    _lines().to_csv(tmp_path / "lines.csv")
    for source in (_lines(), tmp_path / "lines.csv"):
        fitted = (OneHot() | ContextTable("cell_line", source)).fit(_split(_study()))
        assert fitted.context_columns == ("cell_line: doubling",)
        contexts = [fitted.encode(_at("alpha", 10, line=line)).context[0] for line in ("A549", "K562", "MCF7")]
        np.testing.assert_allclose(contexts, [-1, 1, 6], rtol=1e-6)
        assert any("'sex'" in note or '"sex"' in note for note in fitted.notes)
    assert fitted.extrapolation(_at("alpha", 10)) == ()
    (reason,) = fitted.extrapolation(_at("alpha", 10, line="MCF7"))
    assert "cell_line MCF7 was not trained on, and 1 of its 1 descriptors" in reason
    storage.save(fitted, tmp_path / "saved")
    np.testing.assert_array_equal(
        storage.load(tmp_path / "saved").vector(_at("beta", 10, line="MCF7")),
        fitted.vector(_at("beta", 10, line="MCF7")),
    )


def test_a_held_out_cell_line_can_be_encoded_by_descriptors():
    held_out = split.unseen_context(_study(), list(NAMES), {"cell_line": "K562"}, min_cells=1)
    with pytest.raises(ConfigError, match="no descriptor that differs between the 1 training"):
        ContextTable("cell_line", _lines()).fit(held_out)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: ContextTable(""), ConfigError, "at least 1 character"),
        (lambda: ContextTable("cel_line", _lines()).fit(_split(_study())), ConfigError, "which has 'cell_line'"),
        (lambda: ContextTable("cell_line", _lines()[1:]).fit(_split(_study())), ConditionError, "cell_line 'A549'"),
        (lambda: ContextTable("cell_line").fit(_split(_study())), DataError, "context_descriptors"),
        (
            lambda: ContextTable("cell_line", _lines()).fit(_split(_study())).encode(_at("alpha", 10, line="MCF77")),
            ConditionError,
            "no row for the cell_line 'MCF77': did you mean 'MCF7'",
        ),
        (
            lambda: ContextTable("cell_line", _lines()).fit(_split(_study())).encode(Condition("alpha")),
            ConditionError,
            "lacks 'cell_line': give one of A549, K562",
        ),
    ],
)
def test_wrong_context_tables_are_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_blocks_that_read_no_cells_saw_none(fitted):
    assert not fitted.saw_held_out
    assert fitted.notes == ('constant over the training treatments and dropped: "flat"',)


def test_extrapolation_is_told(fitted):
    assert fitted.extrapolation(_at("alpha", 10)) == ()
    assert fitted.extrapolation(_at("alpha", 500)) == ()
    assert "above the training doses" in fitted.extrapolation(_at("alpha", 5000))[0]
    assert "below the training doses" in fitted.extrapolation(_at("alpha", 5))[0]
    (reason,) = fitted.extrapolation(_at("delta", 10))
    assert "delta was not trained on, and 1 of its 2 descriptors" in reason


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        (_at("betta", 10), "did you mean 'beta'"),
        (Condition("beta", cell_line="A549"), "needs a dose of 'beta'"),
        (_at("beta", 10, "ng/mL"), "Cannot convert"),
        (_at("beta", 10, line="MCF7"), "'MCF7'.*A549, K562"),
        (Condition("beta", dose=10, unit="nM"), "lacks 'cell_line'"),
    ],
)
def test_conditions_that_cannot_be_encoded(fitted, condition, says):
    assert not fitted.can_encode(condition)
    with pytest.raises(ConditionError, match=says):
        fitted.encode(condition)


def test_table_without_a_treatment_of_the_split():
    with pytest.raises(ConditionError, match="no row for the treatment 'gamma'"):
        Table(_table().drop(index="gamma")).fit(_split(_study(), "gamma"))


def test_held_out_context_value_is_unknown():
    held_out = split.unseen_context(_study(), list(NAMES), {"cell_line": "K562"}, min_cells=1)
    fitted = (OneHot() | Context("cell_line")).fit(held_out)
    assert fitted.context_columns == ("cell_line=A549",)
    with pytest.raises(ConditionError, match="leave 'cell_line' out"):
        fitted.encode(_at("alpha", 10, line="K562"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.assign(size=[1.0, np.nan, 4.0, 7.0, 1.0]), "no finite number for 'beta' in the column 'size'"),
        (lambda t: t.assign(size=[1.0, np.inf, 4.0, 7.0, 1.0]), "no finite number"),
        (lambda t: t.assign(smiles=list("CCCCC")), "'smiles' that is not numeric"),
        (lambda t: pd.concat([t, t.iloc[[0]]]), "treatment 'alpha' twice"),
        (lambda t: t.iloc[:, :0], "is empty"),
    ],
)
def test_bad_tables_are_refused(change, says):
    with pytest.raises(DataError, match=says):
        Table(change(_table()))


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        Table(tmp_path / "none.csv").fit(_split(_study()))
    with pytest.raises(DataError, match="'treatment_descriptors'"):
        Table("uns:else").fit(_split(_study()))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Table("drugs.xlsx"), ".csv"),
        (lambda: Dose(scale="cubic"), "'log' or 'linear'"),
        (lambda: Dose(scales="log"), "did you mean 'scale'"),
        (lambda: Context(), "names of context columns"),
        (lambda: Context("a", "a"), "each once"),
        (lambda: Dose() | Dose(), "joined twice"),
        (lambda: Dose() | "Table", "found str"),
        (lambda: from_dict({"kind": "Tabel"}), "did you mean 'Table'"),
        (lambda: Joint(()), "at least one"),
        (lambda: Context("cel_line").fit(_split(_study())), "'cell_line'"),
        (lambda: Dose().fit(_split(_study(doses=False))), "nothing to encode"),
        (lambda: Table(_table()[["flat"]]).fit(_split(_study())), "no column that differs"),
    ],
)
def test_wrong_settings_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
