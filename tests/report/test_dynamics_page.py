"""The page of a law: what is on it, what it says of a law that is worse, and that names of users stay text."""

import re

import numpy as np
import pandas as pd
import pytest

from cellgap.errors import StorageError
from cellgap.gap import Gap
from cellgap.report import Course, DynamicsData, KnockOuts, write_dynamics_report
from cellgap.report._dynamics import law_verdict

NAMES = ("g0", "<b>g1</b>", "g2")
BASELINES = ("training mean", "held start", "kernel smooth", "linear law")


def scored(law, best, n=6):
    """Return scores and errors of a law and of baselines, the linear law the best."""
    rng = np.random.default_rng(0)
    means = dict(zip(("law", *BASELINES), (law, 1.0, 2.0, 0.8, best), strict=True))
    errors = pd.DataFrame({k: v * (1 + 0.1 * rng.uniform(-1, 1, n)) for k, v in means.items()})
    rows = [
        {"predictor": k, "trajectories": n, "mse": e, "mse_in": e, "mse_beyond": np.nan,
         "skill_mean": 1 - e / errors["training mean"].mean(), "skill_start": 1 - e / errors["held start"].mean()}
        for k, e in errors.mean().items()
    ]  # fmt: skip
    return pd.DataFrame(rows), errors


def data(law=0.1, best=0.5, n=6, **changes) -> DynamicsData:
    scores, errors = scored(law, best, n)
    times = np.linspace(0, 2, 6)
    wave = np.sin(times)[:, None] * np.array([1.0, 2.0])
    course = Course("<i>a</i>", times, wave, times, wave + 0.1, 0.05 + 0 * wave, times, wave + 0.3)
    network = pd.DataFrame([[0, 0.5, -1.0], [0.2, 0, 0], [0, 0, 0]], index=list(NAMES), columns=list(NAMES))
    edges = pd.DataFrame(
        {"regulator": ["g0", "g0"], "target": ["g2", NAMES[1]], "score": [1.0, 0.5], "sign": [-1.0, 1.0],
         "strength": [1.0, 0.4], "frequency": [1.0, 0.5], "p_value": [0.01, np.nan], "kept": [True, False]}
    )  # fmt: skip
    table = pd.DataFrame(
        {"effect": [0.4, 0.1], "reached": [2, 1], "direct": [1, 0], "time_to_effect": [0.5, np.nan]},
        index=pd.Index(["g0", NAMES[1]], name="knocked"),
    )
    change = np.random.default_rng(0).normal(size=(2, 6, 3))
    path = pd.DataFrame(
        {"strength": [0.0, 1e-3, 1e-2], "train": [0.1, 0.2, 0.3], "valid": [0.2, 0.15, 0.3], "test": [np.nan] * 3,
         "weights": [0, 0.2, 0.6], "paths": [0, 0.3, 0.9], "gates": [0.0] * 3, "spurious": [np.nan] * 3,
         "edges": [6, 4, 1], "stability": [0.5] * 3}
    )  # fmt: skip
    groups = scores.copy()
    groups.insert(0, "donor", "<u>d2</u>")
    given = {
        "title": "A law of cells in time", "subtitle": "6 held out", "law": "law", "held_out": True, "scores": scores,
        "errors": errors, "groups": groups, "variables": NAMES[:2], "courses": (course, course),
        "training_mean": np.zeros(2), "edges": edges, "network": network, "kept": network.abs() > 0.6,
        "stability": 0.75, "path": path, "strength": 3e-3,
        "knock_outs": KnockOuts(table, change, times, NAMES), "gaps": (Gap("seed gap", 0.25, "0 = same", "m", "r"),),
        "history": pd.DataFrame({"step": [0.0, 10.0, 20.0], "loss": [np.nan, 2.0, 1.5]}),
        "settings": {"model": {"kind": "NeuralLaw"}}, "notes": ("To know.",),
    }  # fmt: skip
    return DynamicsData(**given | changes)


def test_the_page_shows_what_a_law_says(tmp_path):
    path = write_dynamics_report(data(), tmp_path / "new" / "page.html")
    page = path.read_text()
    for text in (
        "The law forecasts better than every baseline.", "On 6 held-out trajectories", "“linear law”", "in 6 of 6",
        "Small dots are single cells", "By donor", "kernel smooth", "The band marks the law of this page, 0.003",
        "The strength 0 is not drawn", "edges kept: 4 at 0.001, 1 at 0.01", "Stability over members", "activates",
        "represses", "50 %",
        "where one is held at 0", "g0 (the largest effect) is held at 0", "seed gap", "Loss from 2",
        "model.kind", "To know.",
    ):  # fmt: skip
        assert text in page, text
    assert page.count("<svg") == 8 and "<script" not in page and "None" not in page
    assert not re.search(r"https?:", re.sub(r'xmlns[^"]*"[^"]*"', "", page))
    for name in ("<b>g1", "<i>a", "<u>d2"):
        assert name not in page and name.replace("<", "&lt;").replace(">", "&gt;") in page
    figures = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    assert all(re.search(r"<figcaption>[^<]{20,}\.</figcaption>", figure) for figure in figures)
    assert write_dynamics_report(data(), tmp_path / "two.html").read_text() == page, "equal data, equal bytes"


def test_little_is_enough(tmp_path):
    few = DynamicsData("A law", "", "law", False, pd.DataFrame(), pd.DataFrame())
    page = write_dynamics_report(few, tmp_path / "page.html").read_text()
    for text in (
        "No score of the law beside a baseline.", "No courses are drawn.", "No forecast was scored.",
        "One strength only", "The law has no edge.", "No variable was knocked out.", "No gaps were measured.",
        "No training history.", "No settings were recorded.",
    ):  # fmt: skip
        assert text in page, text
    assert "<svg" not in page
    with pytest.raises(StorageError, match="is a folder"):
        write_dynamics_report(few, tmp_path)


def test_odd_numbers_are_no_obstacle(tmp_path):
    nothing = pd.DataFrame(np.zeros((3, 3)), index=list(NAMES), columns=list(NAMES))
    still = KnockOuts(data().knock_outs.table, np.zeros((2, 6, 3)), np.linspace(0, 2, 6), NAMES)
    page = write_dynamics_report(
        data(network=nothing, edges=pd.DataFrame(), knock_outs=still, stability=float("nan")), tmp_path / "page.html"
    ).read_text()
    assert "The law has no edge." in page and "Effect of the 2 knock-outs" in page and page.count("<svg") == 5
    wild = data().courses[0]
    wild = Course(wild.name, wild.times, wild.measured, wild.line_times, wild.line * np.inf, wild.spread)
    one = data(courses=(wild,), path=data().path.iloc[:2]).courses
    page = write_dynamics_report(data(courses=one, path=data().path.iloc[:2]), tmp_path / "page.html").read_text()
    assert "One strength only" in page and "single cells" not in page
    wide = np.random.default_rng(0).normal(size=(40, 40))
    names = [f"gene-with-a-long-name-{i}" for i in range(40)]
    table = pd.DataFrame(wide, index=names, columns=names)
    page = write_dynamics_report(data(network=table, kept=table > 2), tmp_path / "page.html").read_text()
    assert "Of 40 variables the 24 strongest regulators" in page


@pytest.mark.parametrize(
    ("changes", "tone", "lead"),
    [
        ({}, "better", "better than every baseline"),
        ({"law": 0.9}, "worse", "“linear law” forecasts better"),
        ({"law": 0.5}, "unclear", "cannot be told from the best baseline, “linear law”"),
        ({"n": 2}, "unclear", "too few trajectories"),
        ({"n": 2, "law": 0.9}, "unclear", "behind the best baseline"),
        ({"held_out": False}, "unclear", "Nothing is held out"),
        ({"law": np.inf}, "worse", "runs away"),
    ],
)
def test_the_verdict_is_honest_in_both_directions(changes, tone, lead):
    found = law_verdict(data(**changes))
    assert found.tone == tone and lead in found.lead
    assert all("skill" in s.lower() or "Trajectory" in s for s in found.sentences)
