"""The pages of one-pass axes and of private releases: what is on them, their verdicts, odd inputs, names as text."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from scipy.special import fdtrc

from cellgap.errors import DataError, StorageError
from cellgap.gap import Gap
from cellgap.report import ReleaseData, ReleasedStatistic, StreamData, write_release_report, write_stream_report
from cellgap.report import _stream_figures as figures
from cellgap.report._release import release_verdict
from cellgap.report._stream import stream_verdict
from cellgap.stream.axes import StreamingPCA, StreamReport
from cellgap.stream.axes import _order as order_module

ROWS, WINDOWS = 6400, 100


def order(*values: float) -> dict[str, tuple[float, float]]:
    """Return F and p of the four statistics."""
    p = fdtrc(WINDOWS - 1, WINDOWS * 63, np.array(values))
    return {n: (float(f), float(q)) for n, f, q in zip(figures.STATISTICS, values, p, strict=True)}


def report(**changes) -> StreamReport:
    given = {
        "solver": "blocks", "rows": ROWS, "genes": 500, "energy": np.array([40.0, 20.0, 10.0, 9.9]),
        "ratio": np.array([2.0, 2.0, 1.01, np.nan]), "whole": 100.0, "unmodelled_share": 0.15, "blocks": 4,
        "heavy_kept": 3, "heavy_passed": 0, "threshold": 12.5, "order": order(0.9, 1.0, 1.1, 1.2), "alarm": None,
        "labels": (1.02, 0.4), "course": np.random.default_rng(0).normal(size=(WINDOWS, 4)), "nbytes": 96_000_000,
        "any_order": False,
    }  # fmt: skip
    return StreamReport(**given | changes)


def stream(changes=None, **more) -> StreamData:
    rng = np.random.default_rng(0)
    genes = pd.DataFrame(
        {"axis": [1, 1, 2, 3], "gene": ["CD3E", "<b>LYZ</b>", "MS4A1", "NKG7"], "loading": [0.2, -0.5, 0.3, -0.1]}
    )
    labels = np.repeat(["T", "<i>B</i>", "NK", "Mono"], 25)
    given = {
        "title": "Axes <u>of</u> blood", "subtitle": "One pass", "top_genes": genes,
        "report": report(**(changes or {})),
        "coordinates": rng.normal(size=(100, 3)), "labels": labels, "labels_name": "cell type", "design_effect": 1.31,
        "gaps": (Gap("spectral gap", 0.25, "0 = one axis", "m", "r"),), "settings": {"k": 4}, "notes": ("To know.",),
    }  # fmt: skip
    return StreamData(**given | more)


def plain(page: str) -> None:
    """The page needs nothing else and says nothing that only Python says."""
    assert "<script" not in page and not re.search(r"\b(None|nan)\b", page)
    assert not re.search(r"https?:", re.sub(r'xmlns[^"]*"[^"]*"', "", page))
    for figure in re.findall(r"<figure>.*?</figure>", page, re.DOTALL):
        assert re.search(r"<figcaption>[^<]{20,}\.</figcaption>", figure)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_page_of_axes_shows_what_is_known(tmp_path):
    path = write_stream_report(stream(), tmp_path / "new" / "page.html")
    page = path.read_text()
    for text in (
        "Axes, means and heavy rows are not private", "The order of rows holds", "no proof", "4 axes of 6,400 cells",
        "79.9 % of the variance", "1 axis of 4 is within 5 %", "alarm: 1.", "Not known for 1 axis", "96.0 MB",
        "25.6 MB", "4 closed blocks", "none was without room", "Design effect 1.31", "chi-square", "CD3E", "plane only",
        "A sample of 100 cells on the first two axes, by cell type", "spectral gap", "To know.", "not known",
    ):  # fmt: skip
        assert text in page, text
    plain(page)
    assert page.count("<svg") == 5 and "a0b" not in page, "every label has its color from the page"
    for name in ("<b>LYZ", "<i>B", "<u>of"):
        assert name not in page and name.replace("<", "&lt;").replace(">", "&gt;") in page
    assert page.index("&lt;b&gt;LYZ") > page.index("Down along")
    assert write_stream_report(stream(), tmp_path / "two.html").read_text() == page, "equal data, equal bytes"
    with pytest.raises(StorageError, match="is a folder"):
        write_stream_report(stream(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "tone", "lead", "told"),
    [
        ({}, "better", "order of rows holds", "no proof"),
        ({"solver": "gram", "any_order": True, "order": order(9, 1, 1, 1)}, "better", "Exact", "does not matter"),
        ({"order": order(0.9, 5.3, 1.0, 1.0)}, "worse", "sorted: do not trust", "shuffled chunks"),
        ({"order": order(0.9, 900.0, 1.0, 1.0)}, "worse", "sorted: do not trust", "below 1e"),
        ({"heavy_passed": 7}, "worse", "Heavy rows had no room", "heavy_rows above 10"),
        ({"heavy_passed": 7, "order": order(3, 1, 1, 1)}, "worse", "sorted: do not trust", "heavy_rows above 10"),
        ({"labels": (40.0, 0.0)}, "unclear", "labels come in runs", "shuffled chunks"),
        ({"order": {}}, "unclear", "not known", "too few rows"),
        ({"solver": "fd", "any_order": True}, "better", "bounded in any order", "Frequent directions"),
        ({"any_order": True}, "better", "first block", "of the variance"),
        ({"solver": "incremental"}, "unclear", "no guarantee", "compare with"),
        ({"solver": "incremental", "order": order(4, 1, 1, 1)}, "worse", "do not trust", "shuffled"),
    ],
)
def test_the_verdict_of_axes_says_what_to_do(changes, tone, lead, told, tmp_path):
    found = stream_verdict(stream(changes))
    assert found.tone == tone and lead in found.lead
    assert any(told in sentence for sentence in found.sentences)
    plain(write_stream_report(stream(changes), tmp_path / "page.html").read_text())


def test_the_alarm_line_is_that_of_the_check():
    assert order_module.ALARM == figures.ALARM and order_module.STATISTICS == figures.STATISTICS
    line = figures.alarm_line(report())
    assert fdtrc(WINDOWS - 1, WINDOWS * 63, line) == pytest.approx(figures.ALARM)
    # Rows that wait for their batch are not in the windows yet.
    assert figures.alarm_line(report(rows=ROWS + 500)) == pytest.approx(line)
    assert np.isnan(figures.alarm_line(report(order={n: (1.3, 0.4) for n in figures.STATISTICS})))
    rng = np.random.default_rng(0)
    pca = StreamingPCA(k=2, solver="gram")
    for _ in range(4):
        pca.partial_fit(rng.normal(size=(700, 12)))
    assert 1.3 < figures.alarm_line(pca.report()) < 3


def test_odd_streams_are_no_obstacle(tmp_path):
    def page(data: StreamData) -> str:
        text = write_stream_report(data, tmp_path / "page.html").read_text()
        plain(text)
        return text

    one = {"energy": np.array([100.0]), "ratio": np.array([np.inf]), "unmodelled_share": -1e-16}
    text = page(stream(one, coordinates=np.zeros((5, 1)), labels=()))
    assert "1 axis of" in text and "No cells are drawn" in text and "∞" in text
    few = StreamData("Axes", "", report(order={}, labels=None, course=np.zeros((0, 4)), ratio=np.full(4, np.nan)))
    text = page(few)
    for missing in ("Too few rows to check", "No cells are drawn", "No genes are listed", "No gaps", "No settings"):
        assert missing in text, missing
    assert text.count("<svg") == 1
    text = page(stream({"whole": 0.0, "energy": np.zeros(4)}))
    assert "n/a" in text
    coordinates = np.random.default_rng(0).normal(size=(600, 2))
    coordinates[3] = np.nan
    labels = pd.Categorical([f"type {i % 12}" for i in range(599)] + [None])
    text = page(stream(coordinates=coordinates, labels=labels))
    assert "A sample of 599 cells" in text and "6 others" in text
    assert page(stream(labels=())).count("var(--label-") == page(few).count("var(--label-") == 0
    many = {"energy": np.linspace(2, 1, 80), "ratio": np.linspace(3, 0.9, 80), "order": order(np.inf, 40, 1, 0.3)}
    text = page(stream(many | {"course": np.zeros((2, 4))}))
    assert "80 axes of" in text and "Below 1 the estimates" in text and "is the same inside stretches" in text
    with pytest.raises(DataError, match="as many labels"):
        stream(labels=["a"])
    with pytest.raises(DataError, match="loading is not there"):
        stream(top_genes=pd.DataFrame({"axis": [1], "gene": ["a"]}))


STEPS = np.arange(1, 13)


def statistic(kind="sum", **changes) -> ReleasedStatistic:
    rng = np.random.default_rng(0)
    t, names = len(STEPS), ("CD3E", "<b>LYZ</b>", "MS4A1")
    values = np.cumsum(rng.normal(2, 1, (t, 3)), axis=0)
    given: dict = {
        "name": f"{kind}_<i>x</i>", "kind": kind, "mechanism": "the <u>factorized</u> mechanism", "rho": 0.1,
        "epsilon": 1.6, "times": STEPS, "features": names, "unit": "donors",
    }  # fmt: skip
    if kind == "sum":
        given |= {"values": values, "sd": np.full((t, 3), 0.7), "bound": 3.25}
    elif kind == "mean":
        low = values - 2
        low[:2] = -np.inf
        given |= {"values": values, "low": low, "high": values + 2}
    elif kind == "max":
        given |= {"values": values[:, :1], "bound": np.linspace(1, 4.5, t)}
    elif kind == "select":
        given |= {"selected": tuple((names[i // 6], names[2]) for i in range(t)), "bound": 8.0}
    else:
        high = values + 1
        high[0] = np.inf
        given |= {"values": values, "low": values - 1, "high": high, "quantiles": (0.25, 0.5, 0.75), "features": ()}
    return ReleasedStatistic(**given | changes)


def releases(*statistics, **changes) -> ReleaseData:
    given = {
        "title": "Releases <u>of</u> blood", "subtitle": "12 plates", "rho_total": 0.75, "rho_spent": 0.5,
        "delta": 1e-5, "epsilon_total": 5.93, "epsilon_spent": 4.728, "steps": 12, "settings": {"l2": 1.0},
        "notes": ("To know.",),
    }  # fmt: skip
    kinds = ("sum", "mean", "max", "select", "quantile")
    return ReleaseData(statistics=statistics or tuple(statistic(kind) for kind in kinds), **given | changes)


def test_the_page_of_releases_shows_values_with_their_guarantee(tmp_path):
    path = write_release_report(releases(), tmp_path / "new" / "page.html")
    page = path.read_text()
    for text in (
        "Protected: one donor, with all its cells at all steps, with ε = 4.73 at δ = 1e", "factor e^ε = 113",
        "0.250 is left", "From whom:", "What is not", "the number of steps (12)", "Principal axes", "13.3 %",
        "right within ± 3.25 donors", "right within ± 4.50 donors", "at most 8.00 donors below the i-th largest",
        "1 to 6", "7 to 12", "quantile 0.25", "largest sum", "An interval without an end", "simultaneous",
        "what clipping took", "Standard deviation of the noise", "To know.", "l2", "ε does not",
    ):  # fmt: skip
        assert text in page, text
    plain(page)
    assert 'class="banner"' not in page and page.count("Standard deviation of the noise") == 1
    for name in ("_<i>x", "<b>LYZ", "<u>"):
        assert name not in page
    assert "&lt;b&gt;LYZ" in page and "<wbr>&lt;i&gt;x" in page
    assert page.count("<svg") == 1 + 2 + 2 + 1 + 1
    assert write_release_report(releases(), tmp_path / "two.html").read_text() == page, "equal data, equal bytes"
    with pytest.raises(StorageError, match="is a folder"):
        write_release_report(releases(), tmp_path)


def test_numbers_of_a_seeded_generator_carry_a_banner(tmp_path):
    page = write_release_report(releases(safe=False), tmp_path / "page.html").read_text()
    assert page.index("NOT PRIVATE: made with a seeded generator") < page.index("<header>")
    assert "Protected:" not in page and "Whose presence" not in page and "protect nobody" in page


@pytest.mark.parametrize(
    ("changes", "tone", "lead"),
    [
        ({}, "better", "ε = 4.73"),
        ({"safe": False}, "worse", "protect nobody"),
        ({"delta": np.nan, "epsilon_spent": np.nan}, "better", " = 0.500"),
        ({"epsilon_spent": 14.0}, "unclear", "ε = 14.0"),
        ({"epsilon_spent": 5e3}, "unclear", "ε = 5000"),
        ({"unit": "cell"}, "unclear", "a donor is hardly protected"),
        ({"unit": "family"}, "unclear", "one family"),
        ({"rho_spent": 0.8}, "worse", "More is spent"),
    ],
)
def test_the_verdict_of_releases_is_the_guarantee(changes, tone, lead):
    found = release_verdict(releases(**changes))
    assert found.tone == tone and lead in found.lead


def test_odd_releases_are_no_obstacle(tmp_path):
    def page(data: ReleaseData) -> str:
        text = write_release_report(data, tmp_path / "page.html").read_text()
        plain(text)
        return text

    empty = dataclasses.replace(releases(), statistics=())
    assert release_verdict(empty).tone == "unknown"
    text = page(empty)
    assert text.count("Nothing has been released.") == 2 and "No statistic has been made." in text
    wait = statistic(times=STEPS[:0], values=np.zeros((0, 3)), sd=np.zeros((0, 3)))
    first = statistic("sum", name="first", times=STEPS[:1], values=np.array([[1.0, -5, 9]]), sd=np.ones((1, 3)))
    text = page(releases(wait, first, rho_total=0.3, rho_spent=0.3, delta=np.nan, epsilon_spent=np.nan))
    assert "No step has been released." in text and "Released values over 1 step." in text and "0 is left" in text
    unbounded = statistic(bound=np.nan, sd=np.zeros((0, 0)), unit="")
    lost = statistic("mean", values=np.full((12, 3), np.nan), low=np.full((12, 3), -np.inf),
                     high=np.full((12, 3), np.inf))  # fmt: skip
    text = page(releases(unbounded, lost))
    assert "No bound is known." in text and "∞" in text
    wide = statistic(features=tuple(f"g{i}" for i in range(500)), values=np.ones((12, 500)), sd=np.ones((12, 500)))
    many = [dataclasses.replace(statistic("select"), name=f"s{i}") for i in range(20)]
    text = page(releases(wide, *many, rho_total=np.inf))
    assert "The 8 of 500 features" in text and "200 of 500 rows" in text and "20 values of 500" in text
    text = page(releases(wide, *many, rho_total=9.0, rho_spent=5.0))
    assert "10 further" in text and "not on this page" in text
    for bad in ({"kind": "median"}, {"features": ("a",)}, {"times": STEPS[:3]}, {"bound": np.ones(5)}):
        with pytest.raises(DataError):
            statistic(**bad) if "kind" not in bad else dataclasses.replace(statistic(), **bad)
    with pytest.raises(DataError, match="do not fit"):
        statistic("select", selected=(("a",),))
