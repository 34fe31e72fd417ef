"""The page of an embedding: what is on it with and without training, its verdicts, and names as text."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from cellgap.embed import Direction, Factor, SamplingDiagnosis, Trained
from cellgap.errors import DataError, StorageError
from cellgap.gap import Gap
from cellgap.report import EmbeddingData, write_embedding_report
from cellgap.report._embedding import embedding_verdict

REACHED = Trained(
    loss=-2.5, floor=-8.5, matched=-2.75, alignment=0.61, uniformity_gap=0.4, effective_rank=5.5, agreement=0.97
)
FACTORS = (Factor("drug", 0.0, "keep"), Factor("<b>donor</b>", 0.9, "nuisance"), Factor("depth", 0.3, ""))


def diagnosis(**changes) -> SamplingDiagnosis:
    rho = np.array([0.5, 0.7, 0.8, 0.9])
    given = {
        "pairs": "SameCondition(across='donor')", "reference": "4 principal components", "n_cells": 600, "n_able": 600,
        "n_pairs": 2000, "rho": rho,
        "directions": tuple(Direction(float(r), (f"<i>G{i}</i>", "MX1"), (("drug", 0.9 - 0.3 * i),))
                            for i, r in enumerate(rho)),
        "factors": FACTORS, "coverage": ((50, 0.1), (500, 0.4), (5000, 0.7)), "components": 1, "lambda_2": 0.9,
        "alignment": 0.3, "kappa": 10.0, "tau": 0.1, "surplus": 0.4, "trained": REACHED,
    }  # fmt: skip
    return SamplingDiagnosis(**given | changes)


def data(found: SamplingDiagnosis | None = None, **changes) -> EmbeddingData:
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(120, 6))
    steps = np.arange(0.0, 101.0, 10.0)
    history = pd.DataFrame({"step": steps, "loss": -2 - steps / 100, "valid": -1.5 - steps / 200, "alignment": 0.5})
    history.loc[0, "loss"] = np.nan
    probes = pd.DataFrame(
        [("drug", "keep", "accuracy", 0.5, 0.96, 0.81, 0.97, 0.83), ("depth", "", "R²", 0, np.nan, np.nan, 0.11, 0.64)],
        columns=["factor", "role", "measure", "chance", "knn", "knn_pcs", "linear", "linear_pcs"],
    )
    given = {
        "title": "Embedding <u>of</u> blood", "subtitle": "6 dimensions", "diagnosis": found or diagnosis(),
        "history": history, "best_step": 90, "codes": codes / np.linalg.norm(codes, axis=1, keepdims=True),
        "labels": {"drug": ["a", "<em>b</em>", "c"] * 40, "plate": [f"p{i % 12}" for i in range(120)]},
        "cells": "120 held-out cells", "probes": probes, "probed": "120 held-out cells, by folds",
        "gaps": (Gap("re-run gap", 0.03, "0 = runs agree", "m", "r"),), "settings": {"model": {"dim": 6}},
    }  # fmt: skip
    return EmbeddingData(**given | changes)


def plain(page: str) -> None:
    assert "<script" not in page and not re.search(r"\b(None|nan)\b", page)
    assert not re.search(r"https?:", re.sub(r'xmlns[^"]*"[^"]*"', "", page))
    for figure in re.findall(r"<figure>.*?</figure>", page, re.DOTALL):
        assert re.search(r"<figcaption>[^<]{20,}\.</figcaption>", figure)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_the_page_shows_pairs_training_cells_and_probes(tmp_path):
    path = write_embedding_report(data(), tmp_path / "new" / "page.html")
    page = path.read_text()
    for text in (
        "Pairs keep drug and move &lt;b&gt;donor&lt;/b&gt;.", "In between: sequencing depth.", "drug 0.90", "MX1",
        "moves all 4 directions by comparable amounts", "none is frozen", "after about 10 steps",
        "Losses are without log M", "floor \N{MINUS SIGN}8.50", "matched \N{MINUS SIGN}2.75",
        "The state of step 90 is kept", "5.50 of 6", "0.97", "re-run gap",
        "Principal axes 1 and 2 of the embedding", "120 held-out cells", "5 others (", "0.96", "model.dim",
    ):  # fmt: skip
        assert text in page, text
    plain(page)
    assert page.count("<svg") == 6 and "a0b" not in page, "every label has its color from the page"
    for name in ("<b>donor", "<i>G0", "<u>of", "<em>b"):
        assert name not in page and name.replace("<", "&lt;").replace(">", "&gt;") in page
    assert write_embedding_report(data(), tmp_path / "two.html").read_text() == page, "equal data, equal bytes"
    with pytest.raises(StorageError, match="is a folder"):
        write_embedding_report(data(), tmp_path)


def test_before_training_nothing_of_training_is_on_the_page(tmp_path):
    bare = EmbeddingData(title="Pairs", subtitle="", diagnosis=diagnosis(trained=None))
    page = write_embedding_report(bare, tmp_path / "page.html").read_text()
    plain(page)
    assert "Before training" in page and page.count("<svg") == 2
    for section in ("training", "cells", "probes", "gaps"):
        assert f'id="{section}"' not in page and f"#{section}" not in page


@pytest.mark.parametrize(
    ("changes", "tone", "lead", "told"),
    [
        ({}, "better", "Pairs keep drug", "All 4 directions are moved"),
        ({"components": 3}, "unclear", "1 warning to read before this embedding is used", "Kept, because"),
        ({"components": 3, "trained": None}, "unclear", "1 warning to read before anything is trained", "Kept"),
        (
            {"rho": np.array([0.0, 0.0, 0.8, 0.9])},
            "unclear",
            "1 warning",
            "2 of 4 directions are frozen. The loss keeps them and may discard the rest",
        ),
        ({"factors": (Factor("drug", 0.9, "keep"),)}, "unclear", "1 warning", "none is sure to be kept"),
        ({"factors": (Factor("age", 0.3, ""),)}, "better", "neither freeze nor", "In between: age"),
        ({"trained": dataclasses.replace(REACHED, agreement=0.4)}, "unclear", "1 warning", "Kept"),
    ],
)
def test_verdicts(changes, tone, lead, told, tmp_path):
    found = data(diagnosis(**changes))
    verdict = embedding_verdict(found)
    assert verdict.tone == tone and lead in verdict.lead and any(told in text for text in verdict.sentences)
    page = write_embedding_report(found, tmp_path / "page.html").read_text()
    plain(page)
    for text in found.diagnosis.warnings:
        assert page.index(text.split("(")[0]) < page.index("Kept" if "Kept" in page else "No known factor")


def test_islands_surplus_and_temperature_are_told_in_words(tmp_path):
    found = diagnosis(components=3, lambda_2=1.0, surplus=0.0, kappa=40.0, n_able=580)
    page = write_embedding_report(data(found), tmp_path / "page.html").read_text()
    for text in (
        "3 islands: no chain of pairs",
        "constant there, and is refused",
        "nearer than the temperature",
        "580 of",
    ):
        assert text in page, text
    assert "λ₂" not in page, "one walk does not reach all islands"


def test_other_losses_have_no_floor_in_the_figure(tmp_path):
    page = write_embedding_report(data(loss="mixed"), tmp_path / "page.html").read_text()
    assert "not of “mixed”" in page and "floor \N{MINUS SIGN}8.50" not in page


def test_little_is_enough_and_wrong_tables_are_refused(tmp_path):
    one = dataclasses.replace(REACHED, agreement=None)
    few = data(
        diagnosis(trained=one, factors=(), directions=(), coverage=()), history=pd.DataFrame(), codes=np.zeros((0, 2)),
        labels={}, probes=pd.DataFrame(), gaps=(), settings={}, best_step=None,
    )  # fmt: skip
    page = write_embedding_report(few, tmp_path / "page.html").read_text()
    plain(page)
    for text in (
        "name no factor",
        "No training history",
        "No cells are drawn",
        "No factor could be probed",
        "n_runs = 4",
    ):
        assert text in page, text
    with pytest.raises(DataError, match="as many labels of 'drug', found 1"):
        data(labels={"drug": ["a"]})
    with pytest.raises(DataError, match="'role' is not there"):
        data(probes=pd.DataFrame({"factor": ["drug"]}))
