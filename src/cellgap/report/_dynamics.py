"""The page of a law: forecasts beside the data and the baselines, the network, what follows a knock-out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from cellgap import __version__
from cellgap.errors import StorageError
from cellgap.gap import Gap
from cellgap.report._curves import history_pictures
from cellgap.report._draw import drawing
from cellgap.report._law_figures import courses_picture, network_picture, path_pictures
from cellgap.report._screen_figures import screen_pictures
from cellgap.report._template import environment, style
from cellgap.report._verdict import Verdict
from cellgap.report._words import MINUS, count, fixed, flatten, number

_FEW = 3  # below as many trajectories a paired difference says nothing


@dataclass(frozen=True, eq=False)
class Course:
    """One trajectory on the page, of some variables.

    Parameters
    ----------
    name
        Of the trajectory.
    times, measured
        Its states (of cells: the bins).
    line_times, line, spread
        The forecast, and its standard deviation over members.
    cell_times, cells
        Single cells behind the states; empty: there are none.
    """

    name: str
    times: Float[np.ndarray, " t"]
    measured: Float[np.ndarray, "t v"]
    line_times: Float[np.ndarray, " s"]
    line: Float[np.ndarray, "s v"]
    spread: Float[np.ndarray, "s v"]
    cell_times: Float[np.ndarray, " c"] = field(default_factory=lambda: np.zeros(0))
    cells: Float[np.ndarray, "c v"] = field(default_factory=lambda: np.zeros((0, 0)))


@dataclass(frozen=True, eq=False)
class KnockOuts:
    """What follows where variables are held, one after the other.

    Parameters
    ----------
    table
        A row a held variable, indexed by its name, the largest effect first: ``effect, reached, direct,
        time_to_effect``; see `cellgap.dynamics.FittedLaw.knock_out`.
    change
        Change of the mean course of the first of them, in standard deviations.
    times, variables
        Its second and third axis.
    value
        At which they are held.
    """

    table: pd.DataFrame
    change: Float[np.ndarray, "g t v"]
    times: Float[np.ndarray, " t"]
    variables: tuple[str, ...]
    value: float = 0.0


@dataclass(frozen=True, eq=False)
class DynamicsData:
    """What the page of a law shows.

    Parameters
    ----------
    title, subtitle
        At the head of the page.
    law
        Its name in the tables of scores.
    held_out
        Whether the trajectories that are scored and drawn are held out; else they are those of training.
    scores, groups
        A row a predictor, and the same for every group of trajectories (its labels first); see
        `cellgap.evaluate.forecast_scores`.
    errors
        Mean squared errors, a row a trajectory, a column a predictor.
    variables, courses, training_mean
        Variables that are drawn, trajectories, and means of training states.
    edges
        The strongest edges; see `cellgap.dynamics.Network.edges`.
    network, kept
        Scores with their signs, regulators by targets, and which edges are kept.
    stability
        Of the network, over members; nan for one member.
    path, strength
        Table of the strengths of the penalty that were tried (empty: none), and that of this law.
    knock_outs
        See `KnockOuts`; None: none were made.
    gaps, history, settings
        Of the law, as in `cellgap.report.ReportData`.
    notes
        Sentences to know when reading the page.
    """

    title: str
    subtitle: str
    law: str
    held_out: bool
    scores: pd.DataFrame
    errors: pd.DataFrame
    groups: pd.DataFrame = field(default_factory=pd.DataFrame)
    variables: tuple[str, ...] = ()
    courses: tuple[Course, ...] = ()
    training_mean: Float[np.ndarray, " v"] = field(default_factory=lambda: np.zeros(0))
    edges: pd.DataFrame = field(default_factory=pd.DataFrame)
    network: pd.DataFrame = field(default_factory=pd.DataFrame)
    kept: pd.DataFrame = field(default_factory=pd.DataFrame)
    stability: float = float("nan")
    path: pd.DataFrame = field(default_factory=pd.DataFrame)
    strength: float = float("nan")
    knock_outs: KnockOuts | None = None
    gaps: tuple[Gap, ...] = ()
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _telling(history: pd.DataFrame) -> pd.DataFrame:
    """Return the log without the share of members that were stuck, where none ever was."""
    never = "stuck" in history and not np.any(history["stuck"].to_numpy(float))
    return history.drop(columns="stuck") if never else history


def write_dynamics_report(data: DynamicsData, path: str | Path) -> Path:
    """Return the path of the page written from `data`: one HTML file that needs nothing else, not even a script.

    Parameters
    ----------
    data
        What to show.
    path
        Where to write; missing folders are made, an existing file is replaced.

    Raises
    ------
    StorageError
        `path` is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise StorageError(f"The report needs the name of a file, but {str(target)!r} is a folder. Add a name.")
    templates = environment()
    with drawing():
        parts: dict[str, Any] = {
            "courses": courses_picture(data.variables, data.courses, data.training_mean),
            "paths": path_pictures(data.path, data.strength),
            "network": network_picture(data.network, data.kept),
            "history": history_pictures(_telling(data.history)),
            "screen": () if data.knock_outs is None else screen_pictures(data.knock_outs),
        }
    page = templates.get_template("dynamics.html").render(
        data=data,
        version=__version__,
        css=style(templates),
        verdict=law_verdict(data),
        labels=[str(c) for c in data.groups.columns[: list(data.groups.columns).index("predictor")]]
        if len(data.groups)
        else [],
        scores=_scores(data.scores, data.law),
        groups=_scores(data.groups, data.law),
        edges=_edges(data.edges),
        knocked=[] if data.knock_outs is None else _knocked(data.knock_outs.table),
        settings=flatten(data.settings),
        number=number,
        **parts,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8", newline="\n")
    return target


def law_verdict(data: DynamicsData) -> Verdict:
    """Return whether the law forecasts better than the best baseline, in words."""
    of = count(len(data.errors), "held-out trajectory" if data.held_out else "trajectory of training",
               "held-out trajectories" if data.held_out else "trajectories of training")  # fmt: skip
    table = data.scores.set_index("predictor") if len(data.scores) else pd.DataFrame()
    others = table.drop(index=data.law, errors="ignore")
    if data.law not in table.index or not len(others) or not np.isfinite(others["mse"]).any():
        return Verdict("unknown", "No score of the law beside a baseline.", (f"There are {of}.",))
    best = str(others["mse"].idxmin())
    own, other = table.loc[data.law], table.loc[best]
    sentences = [
        f"On {of} the mean squared error of the forecast is {number(own['mse'])}; the best baseline, “{best}”, has "
        f"{number(other['mse'])}. Skill against the training mean: {fixed(own['skill_mean'])} (best baseline "
        f"{fixed(other['skill_mean'])}); against the held start: {fixed(own['skill_start'])} "
        f"({fixed(other['skill_start'])}). A skill of 1 is perfect, 0 is no better than that."
    ]
    ahead = data.errors[best].to_numpy(float) - data.errors[data.law].to_numpy(float)
    tone, lead = _compared(ahead, best)
    sentences.append(
        f"Trajectory by trajectory the law is ahead of “{best}” in {int((ahead > 0).sum())} of {len(ahead)}"
        + (f" (mean difference {number(ahead.mean())}, standard error {number(_error(ahead))})."
           if len(ahead) > 1 and np.isfinite(ahead).all() else ".")
    )  # fmt: skip
    if not data.held_out:
        tone, lead = "unclear", f"Nothing is held out, so nothing is shown about new trajectories. In training: {lead}"
    return Verdict(tone, lead, tuple(sentences))


def _compared(ahead: np.ndarray, best: str) -> tuple[str, str]:
    """Return tone and bold line of paired differences; a law is ahead by twice their standard error, or it is not."""
    if np.isnan(ahead).any() or not len(ahead):
        return "unknown", "The law and the baselines cannot be compared on every trajectory."
    if not np.isfinite(ahead).all():
        return "worse", "The forecast runs away: it is not finite on some trajectory."
    mean = float(ahead.mean())
    if len(ahead) < _FEW:
        told = "ahead of" if mean > 0 else "behind"
        return "unclear", f"The law is {told} the best baseline, “{best}”; too few trajectories to tell."
    if abs(mean) <= 2 * _error(ahead):
        return "unclear", f"The law cannot be told from the best baseline, “{best}”."
    if mean > 0:
        return "better", "The law forecasts better than every baseline."
    return "worse", f"The law does not beat the baselines: “{best}” forecasts better."


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf


def _scores(table: pd.DataFrame, law: str) -> list[dict[str, Any]]:
    if not len(table):
        return []
    labels = list(table.columns[: list(table.columns).index("predictor")])
    return [
        {
            "labels": [str(row[name]) for name in labels],
            "predictor": str(row["predictor"]),
            "own": row["predictor"] == law,
            "n": f"{int(row['trajectories']):,}",
            "errors": [number(row[name]) for name in ("mse", "mse_in", "mse_beyond")],
            "skills": [fixed(row[name]) for name in ("skill_mean", "skill_start")],
        }
        for _, row in table.iterrows()
    ]


def _edges(edges: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {
            "regulator": str(row["regulator"]),
            "target": str(row["target"]),
            "sign": "activates" if row["sign"] > 0 else "represses" if row["sign"] < 0 else "",
            "score": number(row["score"]),
            "frequency": f"{100 * float(row['frequency']):.0f} %",
            "p": number(row["p_value"]) if np.isfinite(row["p_value"]) else "n/a",
            "kept": "yes" if row["kept"] else "no",
        }
        for row in edges.to_dict("records")
    ]


def _knocked(table: pd.DataFrame) -> list[tuple[str, ...]]:
    return [
        (
            str(name),
            number(row["effect"]),
            f"{int(row['reached']):,}",
            f"{int(row['direct']):,}",
            number(row["time_to_effect"]).replace("n/a", MINUS),
        )
        for name, row in table.head(20).iterrows()
    ]
