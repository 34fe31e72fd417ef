"""The field's suite on the page."""

import math

import pandas as pd
import pytest

from cellgap.errors import DataError
from cellgap.report import ReportData, write_report
from cellgap.report._suite import suite_table

NAN = math.nan
ROWS = [
    ("replicate", "anchor", "pds", "PDS", "higher", 0.91, 1.0),
    ("replicate", "anchor", "mean", "mean", "higher", NAN, 1.0),
    ("mine<b>", "model", "pds", "PDS", "higher", 0.8137, -0.25),
    ("mine<b>", "model", "mean", "mean", "higher", NAN, -0.25),
    ("silent", "baseline", "pds", "PDS", "higher", NAN, NAN),
    ("silent", "baseline", "mean", "mean", "higher", NAN, NAN),
]


@pytest.fixture
def suite() -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=["predictor", "kind", "member", "label", "better", "value", "scaled"])


def test_table(suite: pd.DataFrame) -> None:
    table = suite_table(suite, "mine<b>")
    assert table is not None
    assert table.heads == (("PDS", "pds", "higher"), ("mean", "mean", "higher"))
    assert [(row.name, row.kind) for row in table.rows] == [("replicate", "repeat"), ("mine<b>", "own")]
    value, mean = table.rows[1].cells
    assert (value.value, value.scaled, value.below) == ("0.814", "\u22120.25", True)
    assert mean.value == "" and mean.below


def test_no_suite_no_table(suite: pd.DataFrame) -> None:
    assert suite_table(pd.DataFrame(), "mine") is None
    assert suite_table(suite[suite["predictor"] == "silent"], "mine") is None


def test_on_the_page(suite: pd.DataFrame, tmp_path) -> None:
    page = write_report(ReportData(title="t", model="mine<b>", suite=suite), tmp_path / "a.html").read_text()
    assert "The field's suite, on raw counts" in page and "mine&lt;b&gt;" in page and "mine<b>" not in page
    assert "silent" not in page
    without = write_report(ReportData(title="t"), tmp_path / "b.html").read_text()
    assert "The field's suite" not in without
    with pytest.raises(DataError, match=r"ReportData\.suite needs the columns"):
        ReportData(title="t", suite=suite.drop(columns="label"))
