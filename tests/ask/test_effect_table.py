"""Effect tables: what they accept, what they refuse, and how rows are identified."""

import gzip
import json
import math

import numpy as np
import pandas as pd
import pytest

from cellgap.ask._effect_table import EffectTable
from cellgap.errors import ConfigError, DataError
from cellgap.study import Condition, Treatment

ROW = {"drug": "velcatinib", "cell_line": "A549", "dose_uM": 1.0, "time_h": 24, "readout": "apoptosis"} | {
    "effect": 1.66,
    "q": 0.011,
    "n_cells": 574,
    "source": "predicted",
}
CSV = "drug,cell_line,dose_uM,time_h,readout,effect,q,n_cells\n"


def table(*changes, **options):
    return EffectTable.of(pd.DataFrame([ROW | change for change in changes or ({},)]), **options)


def test_common_column_names_become_canonical_ones():
    made = EffectTable.of(
        pd.DataFrame(
            {
                "Compound": ["x"],
                "Concentration": [500],
                "conc_unit": ["nM"],
                "cell type": ["T cell"],
                "Timepoint": ["1 day"],
                "gene": ["CDKN1A"],
                "log2FC": ["-2.5"],
                "adj.P.Val": [0.01],
                "comment": ["nice"],
            }
        )
    )
    row = made.values(0)
    assert (row["treatment"], row["dose"], row["unit"], row["time_h"]) == ("x", 500.0, "nM", 24.0)
    assert (row["cell_type"], row["readout"], row["effect"], row["q"]) == ("T cell", "CDKN1A", -2.5, 0.01)
    assert made.context == ("cell_type",) and made.effect_word == "log fold change"
    assert row["n_cells"] is None and row["source"] == "measured"
    assert "comment" in next(n.text for n in made.notices if n.code == "unused_columns")


def test_a_row_in_words_and_its_citation():
    made = table(name="effects", source_file="effects.csv", version="7")
    said = "velcatinib in A549 at 1 uM for 24 h: apoptosis score +1.66, q = 0.011, 574 cells, predicted."
    cited = made.cite(0)
    assert made.words(0) == said == cited.quote
    assert cited.source == "effects.csv (version 7)" and cited.rows == (made.frame["row_id"][0],)
    other = table({"effect": 1.67}, name="effects").cite(0)
    assert other.source_id == cited.source_id and other.sha256 != cited.sha256
    assert made.condition(0) == Condition("velcatinib", dose=1, unit="uM", cell_line="A549")


@pytest.mark.parametrize(("dose", "unit"), [(1000, "nM"), (1e-6, "M"), (0.001, "mM"), (1, "µM")])
def test_equal_doses_in_other_units_have_one_identity(dose, unit):
    plain = {k: v for k, v in ROW.items() if k != "dose_uM"}
    other = EffectTable.of(pd.DataFrame([plain | {"dose": dose, "dose_unit": unit}]))
    assert other.frame["row_id"][0] == table().frame["row_id"][0]
    assert table({"dose_uM": 1.1}).frame["row_id"][0] != table().frame["row_id"][0]


def test_repeated_rows_are_dropped_and_told_and_unlike_rows_of_one_key_are_kept():
    made = table({}, {}, {"readout": "other"}, {"effect": 2.0})
    assert len(made) == 3 and made.origin.tolist() == [0, 2, 3]
    codes = {n.code: n.text for n in made.notices}
    assert "1 rows repeat" in codes["duplicate_rows"] and "row 2" in codes["duplicate_rows"]
    assert "2 rows share a key" in codes["key_not_unique"]
    assert made.frame["row_id"].is_unique


def test_controls_are_left_out_and_missing_numbers_are_unknown():
    made = table({"dose_uM": 0}, {"n_cells": None, "time_h": "NA"})
    assert len(made) == 1 and math.isnan(made.frame["n_cells"][0]) and math.isnan(made.frame["time_h"][0])
    assert "controls" in {n.code for n in made.notices}


def test_combinations_and_doses_in_names():
    made = table({"drug": "b + a", "dose_uM": None}, {"drug": "a@10nM", "dose_uM": None}, {"drug": "NK-1+c"})
    assert made.frame["treatment"].tolist() == ["a + b", "a", "NK-1 + c"]
    assert made.condition(0).names == ("a", "b")
    assert made.condition(1).treatments == (Treatment("a", 10, "nM"),)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"effect": "high"}, "'effect': expected a finite number, found 'high'"),
        ({"effect": math.nan}, "'effect': expected a finite number, found 'nan'"),
        ({"effect": math.inf}, "'effect'"),
        ({"effect": True}, "'effect'"),
        ({"q": 1.2}, "'q': expected a number between 0 and 1, found '1.2'"),
        ({"q": None}, "'q'"),
        ({"n_cells": -1}, "'n_cells'"),
        ({"dose_uM": -1}, "'dose_uM'"),
        ({"source": "guessed"}, "'source': expected measured or predicted, found 'guessed'"),
        ({"drug": ""}, "'drug': expected a name, found nothing"),
        ({"readout": None}, "'readout'"),
        ({"time_h": "soon"}, "'time_h': expected a time such as 24 or 24h"),
        ({"drug": "x" * 201}, "at most 200 characters"),
    ],
)
def test_wrong_values_are_refused_with_their_place(change, said):
    with pytest.raises(DataError) as raised:
        table({"readout": "first"}, change, name="mine")
    assert said in str(raised.value) and "the table 'mine', row 2" in str(raised.value)


@pytest.mark.parametrize("column", ["drug", "readout", "effect", "q"])
def test_a_missing_column_is_named(column):
    with pytest.raises(DataError, match="has no column of the"):
        EffectTable.of(pd.DataFrame([ROW]).drop(columns=column))


def test_other_mistakes():
    with pytest.raises(DataError, match="no rows"):
        EffectTable.of(pd.DataFrame([ROW]).iloc[:0])
    with pytest.raises(DataError, match="has no unit"):
        EffectTable.of(pd.DataFrame([ROW]).rename(columns={"dose_uM": "dose"}))
    with pytest.raises(DataError, match=r"says uM"):
        table({"unit": "nM"})
    with pytest.raises(DataError, match="case-sensitive"):
        EffectTable.of(pd.DataFrame([ROW | {"unit": "nm"}]).rename(columns={"dose_uM": "dose"}))
    with pytest.raises(ConfigError, match="expected one of treatment"):
        table(columns={"effects": "effect"})
    with pytest.raises(ConfigError, match="'nothing'"):
        table(columns={"effect": "nothing"})


def test_columns_and_context_of_ones_own():
    rows = pd.DataFrame([ROW]).rename(columns={"drug": "what", "effect": "viability_change"})
    made = EffectTable.of(
        rows.assign(site="lab 1"), columns={"treatment": "what", "effect": "viability_change"}, context=("site",)
    )
    assert made.context == ("cell_line", "site") or set(made.context) == {"cell_line", "site"}
    assert made.effect_word == "viability change"


@pytest.mark.parametrize("ending", ["csv", "tsv.gz", "jsonl"])
def test_reading_files(tmp_path, ending):
    path = tmp_path / f"screen.{ending}"
    text = CSV + "velcatinib,A549,1.0,24,apoptosis,1.66,0.011,574\n"
    if ending == "tsv.gz":
        path.write_bytes(gzip.compress(text.replace(",", "\t").encode()))
    else:
        path.write_text(json.dumps(ROW | {"source": "measured"}) + "\n\n" if ending == "jsonl" else text)
    made = EffectTable.read(path)
    expected = table({"source": "measured"}, name="screen")
    assert made.name == "screen" and len(made.version) == 12
    pd.testing.assert_frame_equal(made.frame, expected.frame)
    assert made.cite(0).sha256 == expected.cite(0).sha256 and str(path) in made.cite(0).source


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", CSV + "x,A549,1,24,r,1,0.1,5\nx,A549,1,24,r,wide,0.1,5\n", r"line 3, column 'effect'"),
        ("a.csv", CSV + "x,A549,1\n", "line 2, has 3 values"),
        ("a.csv", CSV, "no rows"),
        ("a.csv", "", "is empty"),
        ("a.jsonl", '{"drug": "x"\n', "line 1, is not JSON"),
        ("a.jsonl", "[1]\n", "line 1, holds a list"),
        ("a.xlsx", "x", "no table that can be read"),
        ("a.csv.gz", "x", "not a whole gzip file"),
        ("a.csv", b"\xff\xfe", "not text in UTF-8"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=said):
        EffectTable.read(path)
    with pytest.raises(DataError, match="There is no file"):
        EffectTable.read(tmp_path / "missing.csv")


def test_names_lose_control_characters():
    made = table({"drug": "vel\u200bcat\x07inib\n"})
    assert made.frame["treatment"][0] == "velcatinib"


def test_base_doses():
    made = table({"dose_uM": 0.1}, {"dose_uM": 10})
    np.testing.assert_array_equal(made.base_dose, [0.1, 10.0])
    assert set(made.base_unit) == {"uM"} and made.units == ("uM",)


@pytest.mark.parametrize("name", ["effects.csv", "effects.tsv", "effects.jsonl"])
def test_an_empty_file_is_called_empty(tmp_path, name):
    (tmp_path / name).write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"{name} is empty"):
        EffectTable.read(tmp_path / name)
