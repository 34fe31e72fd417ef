"""The page of an annotator: what is on it with and without a fit or an evaluation, its verdicts, and names as text."""

import re

import numpy as np
import pandas as pd
import pytest

from cellgap.errors import DataError, StorageError
from cellgap.gap import Gap
from cellgap.report import AnnotationData, Difference, DistanceLines, write_annotation_report
from cellgap.report._annotation import annotation_verdict
from cellgap.report._annotation_figures import _stacked

METHODS = ("annotator", "logistic", "knn")


def summary(best: float = 0.91) -> pd.DataFrame:
    rows = [
        {
            "method": name, "n_targets": 4, "n_cells": 900, "accuracy": value, "accuracy_se": 0.01,
            "accuracy_worst": value - 0.1, "macro_f1": value - 0.02, "macro_f1_se": 0.02, "macro_f1_worst": 0.6,
            "worst_target": "<u>d2</u>", "ece": 0.08, "brier": 0.2, "log_loss": 0.4, "coverage_95": 0.8,
            "absent_rate": 0.012, "unassigned": 0.034, "ece_pooled": 0.0312, "coverage_95_pooled": 0.812,
        }
        for name, value in zip(METHODS, (best, 0.9, 0.85), strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def data(**changes) -> AnnotationData:
    rng = np.random.default_rng(0)
    targets = pd.DataFrame(
        [(m, f"<u>d{i}</u>", 0.8 + 0.03 * i, 0.7 + 0.03 * i) for m in METHODS for i in range(4)],
        columns=["method", "target", "accuracy", "macro_f1"],
    )
    curve = (np.linspace(0.5, 0.99, 10), np.linspace(0.55, 0.97, 10), np.full(10, 90))
    coverage = (np.linspace(0.01, 1, 100), np.linspace(1.0, 0.9, 100))
    confusion = pd.DataFrame(
        [[90, 8, 2], [5, 60, 0], [0, 0, 0]],
        index=["T <b>", "B cell", "none"],
        columns=["T <b>", "B cell", "unassigned"],
    )
    robust = pd.DataFrame(
        [(a, s, 0.9 - s * k - 0.01 * t) for a, k in (("l_inf", 1.0), ("counts", 0.1)) for s in (0.0, 0.1, 3.0)
         for t in range(2)],
        columns=["attack", "strength", "accuracy"],
    )  # fmt: skip
    robust = robust[(robust["attack"] == "counts") | (robust["strength"] < 1)]
    unseen = pd.DataFrame(
        {"class": ["T <b>", "B cell"], "n_cells": [1200, 65], "labelled": [0.1, 0.42], "auroc": [0.97, 0.7]}
    )
    trials = pd.DataFrame(
        [(c, d, loss + 0.1 * i, 0.9, 0.8, c == "50% network")
         for c, loss in (("linear, C = 1", 0.5), ("50% network", 0.4))
         for i, d in enumerate(("d0", "d1"))],
        columns=["candidate", "domain", "log_loss", "accuracy", "macro_f1", "chosen"],
    )  # fmt: skip
    t = np.unique(np.geomspace(1, 800, 30).astype(int))
    given = {
        "title": "Annotator of <i>types</i>", "subtitle": "3 classes", "label": "cell_type", "domains": "donor",
        "summary": summary(), "targets": targets,
        "differences": (Difference("logistic", 0.01, 0.02, 4), Difference("knn", 0.06, 0.01, 4)),
        "calibration": dict.fromkeys(METHODS, curve), "coverage": dict.fromkeys(METHODS, coverage),
        "confusion": confusion, "robust": robust, "unseen": unseen, "trials": trials,
        "distance": (t, np.log(t + 1.0) + 0.02 * rng.random(len(t))),
        "lines": DistanceLines((0.0, 1.0), (0.5, 0.1), 0.991, 0.9, "log", 240.0),
        "gaps": (Gap("adaptivity gap", 0.03, "0 = none", "m", "r"),), "settings": {"model": {"kind": "Annotator"}},
        "reasons": (("unassigned: unsure, T <b> or B cell", 1234),), "sentences": ("50 % networks <s>",),
        "notes": ("4 targets only",),
    }  # fmt: skip
    return AnnotationData(**given | changes)


def plain(page: str) -> None:
    assert "<script" not in page and not re.search(r"\b(None|nan)\b", page)
    assert not re.search(r"https?:", re.sub(r'xmlns[^"]*"[^"]*"', "", page))
    for figure in re.findall(r"<figure>.*?</figure>", page, re.DOTALL):
        assert re.search(r"<figcaption>[^<]{20,}\.</figcaption>", figure)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_the_page_shows_everything(tmp_path):
    page = write_annotation_report(data(), tmp_path / "new" / "page.html").read_text()
    plain(page)
    assert page.count("<svg") == 8
    for text in (
        "It cannot be told from the best baseline, logistic", "1.0 ± 2.0 points higher", "91.0 ± 1.0", "81.2 %",
        "0.031", "annotator reaches 95 % for 50.0 % of the cells", "50 % networks &lt;s&gt;",
        "unassigned: unsure, T &lt;b&gt; or",
        "1,234", "42.0 %", "adaptivity gap", "model.kind", "too careful by 0.015", "log t, R² 0.991",
        "Up to update 240",
        "Attack on counts", "The band is from the worst target", "4 targets only",
        "Told least well: T &lt;b&gt;, 90.0 % right", '<span class="tag">chosen</span>',
    ):  # fmt: skip
        assert text in page, text
    for name in ("<i>types", "<u>d2", "T <b>", "<s>"):
        assert name not in page and name.replace("<", "&lt;").replace(">", "&gt;") in page
    # The chosen candidate has the least mean log loss and comes first; mistakes are sorted by cells.
    assert page.index("50% network") < page.index("linear, C = 1") and ">0.450<" in page
    rows = re.findall(r'<tr><th scope="row">([^<]+)</th><td>([^<]+)</td><td class="n">(\d+)</td>', page)
    assert rows == [("T &lt;b&gt;", "B cell", "8"), ("B cell", "T &lt;b&gt;", "5"), ("T &lt;b&gt;", "unassigned", "2")]
    assert write_annotation_report(data(), tmp_path / "two.html").read_text() == page, "equal data, equal bytes"
    with pytest.raises(StorageError, match="is a folder"):
        write_annotation_report(data(), tmp_path)


def test_little_is_enough(tmp_path):
    page = write_annotation_report(AnnotationData(title="Bare"), tmp_path / "page.html").read_text()
    plain(page)
    assert "Not judged on new domains yet." in page and "<svg" not in page
    for section in ("confidence", "confusion", "attacks", "choice", "gaps", "training"):
        assert f'id="{section}"' not in page and f"#{section}" not in page
    one = pd.DataFrame({"attack": ["counts"], "strength": [0.0], "accuracy": [0.9]})
    bare = data(robust=one, lines=None, differences=(), confusion=pd.DataFrame([[5]], index=["a"], columns=["a"]))
    page = write_annotation_report(bare, tmp_path / "page.html").read_text()
    plain(page)
    assert "No baseline to compare with" in page and "No cell got a wrong label" in page and "R² 0.991" not in page


@pytest.mark.parametrize(
    ("difference", "own", "tone", "lead"),
    [
        (Difference("logistic", 0.03, 0.01, 4), 0.93, "better", "It beats the best baseline, logistic"),
        (Difference("logistic", 0.03, 0.02, 4), 0.93, "unclear", "cannot be told from the best baseline, logistic"),
        (Difference("logistic", -0.03, 0.01, 4), 0.87, "worse", "The best baseline, logistic, is better"),
        (Difference("logistic", 0.03, float("nan"), 1), 0.93, "unclear", "cannot be told"),
    ],
)
def test_verdicts_are_against_the_best_baseline(difference, own, tone, lead):
    found = annotation_verdict(data(summary=summary(own), differences=(Difference("knn", 0.2, 0.001, 4), difference)))
    assert found.tone == tone and lead in found.lead
    assert any("at worst" in text and "<u>d2</u>" in text for text in found.sentences)


def test_many_classes_are_drawn_without_numbers(tmp_path):
    names = [f"type {i}" for i in range(20)]
    table = pd.DataFrame(np.eye(20, dtype=int) * 30 + 1, index=names, columns=names)
    page = write_annotation_report(data(confusion=table), tmp_path / "page.html").read_text()
    plain(page)
    matrix = re.search(r'<svg[^>]*aria-label="Of the cells of a true class.*?</svg>', page, re.DOTALL)
    assert matrix is not None and matrix[0].count(">type ") == 40 and not re.search(r">\s*62\s*<", matrix[0])


def test_dots_of_equal_values_do_not_hide_one_another():
    values = np.array([0.9, 0.9, 0.9, 0.5])
    offset = _stacked(values)
    assert len(set(offset[:3])) == 3 and offset[:3].mean() == pytest.approx(0) and offset[3] == 0
    assert np.abs(_stacked(np.full(50, 0.9))).max() < 0.3, "they stay in their row"


def test_wrong_tables_are_refused():
    with pytest.raises(DataError, match="'unseen' of this page needs the columns class, n_cells"):
        data(unseen=pd.DataFrame({"class": ["a"]}))
    with pytest.raises(DataError, match="'worst_target' is not there"):
        data(summary=summary().drop(columns="worst_target"))
