"""The page of generated cells: what is on it, and that names of users stay text."""

import re

import numpy as np
import pandas as pd
import pytest

from cellgap.errors import StorageError
from cellgap.gap import Gap
from cellgap.report import GenerationData, OtherModality, write_generation_report


def data(**changes) -> GenerationData:
    rng = np.random.default_rng(0)
    labels = ["B", "<b>T</b>"] * 30
    mean = np.where(np.asarray(labels)[:, None] == "B", rng.gamma(1.0, size=12), rng.gamma(1.0, size=12)) * 8 + 0.1
    scores = pd.DataFrame(
        {"generated": [0.31, 0.62], "floor": [0.12, 0.51], "excess": [0.19, 0.11]}, index=["energy_type", "rf_auc"]
    )
    given = {
        "title": "Generated cells",
        "subtitle": "60 held-out cells",
        "real": rng.poisson(mean),
        "generated": rng.poisson(mean),
        "labels": labels,
        "by": "type",
        "scores": scores,
        "history": pd.DataFrame({"step": [0.0, 10.0, 20.0], "loss": [np.nan, 2.0, 1.5]}),
        "gaps": (Gap("sampling gap", 0.2, "0 = as another sample", "how far", "train longer"),),
        "guidance": "Guidance: none.",
        "settings": {"model": {"kind": "CFGen"}},
    }
    return GenerationData(**given | changes)


def test_the_page_shows_cells_genes_scores_and_gaps(tmp_path):
    path = write_generation_report(data(), tmp_path / "new" / "page.html")
    page = path.read_text()
    for text in (
        "energy distance within categories is 0.310", "that of training cells 0.120", "area under the curve of 0.620",
        "sampling gap", "0 = as another sample", "Guidance: none.", "model.kind", "fraction of genes with no count",
        "The variance of every gene", "Loss from 2",
    ):  # fmt: skip
        assert text in page, text
    assert (
        page.count("<svg") == 7
        and "<script" not in page
        and not re.search(r"https?:", re.sub(r'xmlns[^"]*"[^"]*"', "", page))
    )
    assert "<b>T</b>" not in page and "&lt;b&gt;T&lt;/b&gt;" in page
    assert write_generation_report(data(), tmp_path / "two.html").read_text() == page, "equal data, equal bytes"


def test_little_is_enough(tmp_path):
    few = data(
        real=np.zeros((3, 2)), generated=np.zeros((3, 2)), labels=["B"] * 3, scores=pd.DataFrame(), gaps=(),
        history=pd.DataFrame(), guidance="", settings={},
    )  # fmt: skip
    page = write_generation_report(few, tmp_path / "page.html").read_text()
    assert "3 generated cells beside as many held-out ones." in page and "No gaps" in page
    with pytest.raises(StorageError, match="is a folder"):
        write_generation_report(few, tmp_path)


def test_a_second_modality_has_a_section_of_its_own(tmp_path):
    scores = pd.DataFrame({"generated": [0.25], "floor": [0.125], "excess": [0.125]}, index=["open_rate_rmse"])
    paired = pd.DataFrame({"generated": [0.5], "floor": [0.75], "apart": [np.nan]}, index=["cross_correlation"])
    rates = np.linspace(0, 1, 20)
    other = OtherModality("<i>peaks</i>", rates, rates**2, scores, paired)
    page = write_generation_report(data(others=(other,)), tmp_path / "page.html").read_text()
    for text in (
        "&lt;i&gt;peaks&lt;/i&gt;",
        "of 20 features",
        "open_rate_rmse",
        "cross_correlation",
        "Shuffled",
        "0.750",
    ):
        assert text in page, text
    assert page.count("<svg") == 8 and "<i>peaks" not in page
    assert "Other modalities" not in write_generation_report(data(), tmp_path / "one.html").read_text()
