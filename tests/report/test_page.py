"""The written page: complete, self-contained, balanced, escaped, described, small, the same every time."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from cellgap.errors import DataError, StorageError
from cellgap.gap import Gap
from cellgap.report import DoseCurve, PopulationView, ReportData, shown_conditions, write_report

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}
SECTIONS = ("headline", "training", "scores", "conditions", "doses", "gaps", "study", "settings")
EVIL = "$\\alpha$<script>alert('x')</script>&\"@1nM | 細胞"


class Page(HTMLParser):
    """Reads a page, keeps what the tests ask for, and fails on tags that do not match."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def written(make_data, tmp_path_factory):
    return write_report(make_data(), tmp_path_factory.mktemp("report") / "made" / "report.html")


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text(encoding="utf-8"))


def write(data: ReportData, folder) -> Page:
    return Page(write_report(data, folder / "page.html").read_text(encoding="utf-8"))


def test_every_section_is_there_and_linked(page):
    ids = [e["id"] for _, e in page.elements if "id" in e]
    assert [i for i in ids if i in SECTIONS] == list(SECTIONS)
    assert len(ids) == len(set(ids)), "an id occurs twice"
    links = [e["href"].removeprefix("#") for e in page.all("a")]
    assert set(links) <= set(ids)
    assert {s for s in SECTIONS} <= set(links)


def test_it_loads_nothing(written, page):
    text = written.read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text
    assert not page.all("script") and not page.all("link") and not page.all("img") and not page.all("iframe")
    assert "@import" not in text and re.findall(r"url\((?!#)", text) == []
    assert [e["href"] for e in page.all("use") if not e["href"].startswith("#")] == []
    policy = next(e["content"] for e in page.all("meta") if e.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_every_figure_is_described_and_its_references_resolve(page):
    figures = page.all("svg")
    assert len(figures) == len(page.all("figure")) > 30
    assert all(f["role"] == "img" and len(f["aria-label"]) > 20 for f in figures)
    ids = {e["id"] for _, e in page.elements if "id" in e}
    used = {e["href"].removeprefix("#") for e in page.all("use")}
    used |= {i for _, e in page.elements for v in e.values() for i in re.findall(r"url\(#([^)]+)\)", v or "")}
    assert used <= ids


def test_colors_follow_the_page_in_light_and_dark(written):
    text = written.read_text(encoding="utf-8")
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.S))
    left = set(re.findall(r"#[0-9a-f]{6}\b", drawn))
    assert left <= {"#000000", "#ffffff"}, left
    variables = {"ink", "muted", "grid", "control", "measured", "predicted"}
    assert variables <= set(re.findall(r"var\(--(\w+)\)", drawn))
    for scheme in ("prefers-color-scheme: dark", "@media print"):
        block = text.split(scheme, 1)[1].split("}", 1)[0]
        assert all(f"--{name}:" in block for name in variables)


def test_equal_data_give_equal_bytes(make_data, written, tmp_path):
    again = write_report(make_data(), tmp_path / "again.html")
    assert again.read_bytes() == written.read_bytes()


def test_many_conditions_stay_small_and_say_what_is_drawn(make_data, tmp_path):
    data = make_data(n_conditions=150, n_genes=300, cells=300, max_figures=3)
    path = write_report(data, tmp_path / "many.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 1_500_000
    assert "3 of 150 conditions are drawn" in page.text
    parts = [e["id"] for e in page.all("article") if str(e.get("id")).startswith("condition-")]
    assert len(parts) == 3
    for word in ("worst of 149", "median of 149", "best of 149"):
        assert word in page.text
    listed = page.text.count("compound")
    assert listed > 150, "the tables hold every condition"


def test_default_size_is_below_a_few_megabytes(written):
    assert written.stat().st_size < 2_500_000


def test_names_are_escaped_everywhere(make_data, tmp_path):
    base = make_data(n_conditions=5, n_genes=8, cells=60)
    view = base.populations[0]
    names = np.array([f"{EVIL}{i}" for i in range(8)])
    curve = base.dose_curves[0]
    data = dataclasses.replace(
        base,
        title=EVIL,
        subtitle=EVIL,
        command=EVIL,
        model=EVIL,
        scored_on=EVIL,
        scale_zero=EVIL,
        expression=EVIL,
        table=base.table.assign(predictor=EVIL, condition=EVIL, note=EVIL, metric=EVIL, space=EVIL),
        summary=base.summary.assign(metric=EVIL).replace({"predictor": {"ConditionalMonge": EVIL}}),
        history=base.history.rename(columns={"fit": EVIL}),
        headline=EVIL,
        populations=(dataclasses.replace(view, condition=EVIL, genes=names, role=EVIL, warnings=EVIL),),
        dose_curves=(dataclasses.replace(curve, treatment=EVIL, gene=EVIL, unit=EVIL, context=EVIL),),
        gaps=(Gap(EVIL, 1.0, EVIL, EVIL, EVIL),),
        study=base.study.assign(condition=EVIL, role=EVIL),
        settings={EVIL: {EVIL: EVIL}},
        versions={EVIL: EVIL},
        notes=(EVIL,),
    )
    path = write_report(data, tmp_path / "evil.html")
    assert "<script" not in path.read_text(encoding="utf-8")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.text.count("alert('x')") > 20
    assert any("<script>" in str(f["aria-label"]) for f in page.all("svg"))


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (dict(history=pd.DataFrame()), "No training history"),
        (dict(history=pd.DataFrame({"step": [1, 2], "loss": [np.nan, np.nan]})), "No training history"),
        (dict(summary=pd.DataFrame(), comparisons=pd.DataFrame()), "No summary of scores"),
        (dict(populations=()), "No cells to draw"),
        (dict(max_figures=0), "Figures were switched off"),
        (dict(dose_curves=()), "No dose curves"),
        (dict(gaps=()), "reports no gaps"),
        (dict(study=pd.DataFrame()), "conditions of the study were not given"),
        (dict(settings={}), "No settings were given"),
        (dict(versions={}), "No versions were given"),
        (dict(model="another"), "No score on the common scale"),
        (dict(headline="absent"), "There is no scaled score for absent"),
    ],
)
def test_a_missing_part_is_a_sentence(make_data, tmp_path, part, sentence):
    data = dataclasses.replace(make_data(n_conditions=3, n_genes=5, cells=50), **part)
    assert sentence in write(data, tmp_path).text


def test_nothing_at_all_is_still_a_page(tmp_path):
    page = write(ReportData(title="Nothing"), tmp_path)
    assert "No score on the common scale" in page.text
    assert not page.all("svg")


def views(make_data) -> dict[str, tuple[PopulationView, str]]:
    v = make_data(n_conditions=3, n_genes=6, cells=60).populations[0]
    replace = dataclasses.replace
    infinite = v.predicted.copy()
    infinite[:7, 0] = np.inf
    return {
        "one gene": (
            replace(v, control=v.control[:, :1], measured=v.measured[:, :1], predicted=v.predicted[:, :1], genes=["A"]),
            "One gene only: no two-dimensional view",
        ),
        "no genes": (
            replace(v, control=v.control[:, :0], measured=v.measured[:, :0], predicted=v.predicted[:, :0], genes=[]),
            "Nothing to draw: there are no genes",
        ),
        "constant": (
            replace(v, control=0 * v.control, measured=0 * v.measured, predicted=0 * v.predicted),
            "do not vary at all",
        ),
        "one line": (
            replace(v, control=v.control[:, :1] * np.ones(6), measured=v.measured[:, :1] * np.ones(6)),
            "fewer than two directions",
        ),
        "collapsed": (replace(v, predicted=np.repeat(v.predicted[:1], 40, axis=0)), "Predicted cells vary 0.00 times"),
        "infinite": (replace(v, predicted=infinite), "7 predicted cells of 60 hold values that are not numbers"),
        "no number": (replace(v, control=np.nan * v.control), "Nothing to draw: there are no control cells"),
        "empty": (replace(v, measured=v.measured[:0]), "Nothing to draw: there are no measured cells"),
        "one cell": (
            replace(v, control=v.control[:1], measured=v.measured[:1], predicted=v.predicted[:1]),
            "no spread",
        ),
        "huge": (replace(v, control=1e30 * v.control, measured=1e30 * v.measured), "Predicted cells vary 0.00 times"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "one gene",
        "no genes",
        "constant",
        "one line",
        "collapsed",
        "infinite",
        "no number",
        "empty",
        "one cell",
        "huge",
    ],
)
def test_odd_populations_are_said_not_fatal(make_data, tmp_path, case):
    view, sentence = views(make_data)[case]
    assert sentence in write(ReportData(title=case, populations=(view,)), tmp_path).text


@pytest.mark.parametrize("steps", [1, 2, 5000])
def test_histories_of_any_length(tmp_path, steps):
    history = pd.DataFrame(
        {"step": np.arange(steps), "loss": np.linspace(3, 1, steps), "valid_loss": np.nan, "name": "x"}
    )
    page = write(ReportData(title="t", history=history), tmp_path)
    assert len(page.all("svg")) == 1
    last = "3.00" if steps == 1 else "1.00"
    assert f"Loss from 3.00 at step 0 to {last} at step {steps - 1:,}" in page.text


def test_infinite_losses_are_counted(tmp_path):
    history = pd.DataFrame({"step": [1, 2, 3], "loss": [np.inf, -2.0, -3.0]})
    assert "1 infinite value is not drawn" in write(ReportData(title="t", history=history), tmp_path).text


def test_a_dose_curve_says_what_was_hidden(make_data, tmp_path):
    curve = make_data(n_conditions=1, n_genes=2, cells=5).dose_curves[0]
    page = write(ReportData(title="t", dose_curves=(curve,)), tmp_path)
    assert "The model did not see 1000 nM" in page.text
    assert "shaded: not seen" in page.text
    seen = dataclasses.replace(curve, held_out=np.zeros(4, dtype=bool))
    assert "saw all these doses" in write(ReportData(title="t", dose_curves=(seen,)), tmp_path).text
    none = dataclasses.replace(curve, measured=np.full(4, np.nan), predicted=np.full(4, np.nan))
    assert "hold nothing to draw" in write(ReportData(title="t", dose_curves=(none,)), tmp_path).text


def test_one_dose_is_enough_for_a_curve(tmp_path):
    one = np.array([1.0])
    curve = DoseCurve("a", "nM", "G", one, float("nan"), one, one - 1, one + 1, one * np.nan, one > 2)
    assert len(write(ReportData(title="t", dose_curves=(curve,)), tmp_path).all("svg")) == 1


def test_a_score_beyond_the_frame_is_written_not_clipped(make_data, tmp_path):
    base = make_data(n_conditions=3, n_genes=2, cells=5)
    summary = base.summary.copy()
    summary.loc[summary["predictor"] == "identity", ["scaled", "scaled_low", "scaled_high"]] = [-12.5, -14.0, -11.0]
    assert "◂ \N{MINUS SIGN}12.50" in write(dataclasses.replace(base, summary=summary, populations=()), tmp_path).text


def test_shown_conditions_agrees_with_the_page(make_data, tmp_path):
    data = make_data(n_conditions=30, n_genes=4, cells=30, max_figures=5)
    names = shown_conditions(data.table, data.model, max_figures=5)
    page = write(data, tmp_path)
    text = page.text.replace(" ", "")  # a long name may break between its parts
    order = [text.index(name.replace(" ", ""), text.index("Predictedandmeasuredcells")) for name in names]
    assert len(names) == 5 and order == sorted(order)


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(StorageError, match="is a folder"):
        write_report(ReportData(title="t"), tmp_path)


def test_wrong_shapes_and_columns_are_named():
    cells = np.zeros((4, 2))
    with pytest.raises(DataError, match=r"predicted must have shape \(cells, 2\)"):
        PopulationView("c", cells, cells, np.zeros((4, 3)), np.array(["a", "b"]))
    four = np.arange(1.0, 5.0)
    with pytest.raises(DataError, match="one value per dose"):
        DoseCurve("a", "nM", "G", four, 0.0, four, four, four, four[:3], four > 2)
    with pytest.raises(DataError, match="positive and increasing"):
        DoseCurve("a", "nM", "G", four - 1, 0.0, four, four, four, four, four > 2)
    with pytest.raises(DataError, match="lacks role"):
        ReportData(title="t", study=pd.DataFrame({"condition": ["a"], "cells": [1], "controls": [1]}))
    with pytest.raises(DataError, match="max_figures"):
        ReportData(title="t", max_figures=-1)
