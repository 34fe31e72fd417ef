"""What the page of a law shows: held-out trajectories and their forecasts, baselines, network, knock-outs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellgap.cli._dynamics_files import Parts, parts_of
from cellgap.cli._dynamics_run import DynamicsRun

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from cellgap.dynamics import FittedLaw, Network, Trajectories
    from cellgap.report import Course, DynamicsData, KnockOuts

_VARIABLES, _COURSES, _CELLS, _POINTS = 4, 3, 400, 80
_EDGES, _KNOCKED, _DRAWN = 50, 40, 20
LAW = "law"


def report_data(
    run: DynamicsRun, law: "FittedLaw", genes: str | Sequence[str] | None, data: Path | None = None
) -> "DynamicsData":
    """Return what the page shows.

    Parameters
    ----------
    run, law
        The run and its law.
    genes
        Variables to knock out; None: the strongest regulators.
    data
        Where the data of the run are now; None: where they were.

    Raises
    ------
    CellgapError
        The data are gone or others, or a variable is unknown.
    """
    from cellgap.cli._report_data import history_table, readable
    from cellgap.report import DynamicsData

    parts = parts_of(run, law, data)
    shown, network = parts.shown, law.network()
    knocked, left = _screen(law, network, genes)
    scores, groups, errors = _scored(run, law, parts)
    path, told = _path(run)
    variables, courses, mean = _courses(law, parts)
    known = f"{len(parts.train)} trajectories to learn from, {len(law.variables):,} variables, {law.members} members"
    held = f"; {len(shown)} held out" if parts.test is not None else ""
    settings = run.to_dict()
    return DynamicsData(
        title=f"A law of cells in time: {run.data.name.split('.')[0]}",
        subtitle=known + held,
        law=LAW,
        held_out=parts.test is not None,
        scores=scores,
        groups=groups,
        errors=errors,
        variables=variables,
        courses=courses,
        training_mean=mean,
        edges=network.edges(_EDGES),
        network=network.scores * network.signs.map(lambda s: -1.0 if s < 0 else 1.0),
        kept=network.kept,
        stability=network.stability,
        path=path,
        strength=law.strength,
        knock_outs=knocked,
        gaps=law.gaps(parts.test),
        history=history_table(law.log),
        settings=readable(settings),
        notes=tuple(_notes(law, parts, left, told)),
    )


def _scored(run: DynamicsRun, law: "FittedLaw", parts: Parts) -> "tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]":
    """Return the table of forecasts, the same by group, and the error of every trajectory."""
    import numpy as np
    import pandas as pd

    from cellgap.evaluate import forecast_errors, forecast_scores, standard_forecasts

    shown, train, k = parts.shown, parts.train, law.history
    told = list(law.constants.labels)
    scale = np.asarray(law.units.spread, float)
    laws: Any = {LAW: law}
    scores = forecast_scores(laws, shown, train, history=k, smooth_by=told or None, scale=scale)
    by = [name for name in dict.fromkeys([*run.test, *told]) if name in shown.about and shown.about[name].nunique() > 1]
    groups = pd.DataFrame()
    if by:
        groups = forecast_scores(laws, shown, train, history=k, by=by, smooth_by=told or None, scale=scale)
    made = {name: one.predict(shown) for name, one in standard_forecasts(train, history=k, by=told or None).items()}
    made = {LAW: law.follow(shown)} | made
    errors = {name: forecast_errors(one, shown, history=k, scale=scale)["mse"] for name, one in made.items()}
    return scores, groups, pd.DataFrame(errors).dropna(how="all")


def _courses(law: "FittedLaw", parts: Parts) -> "tuple[tuple[str, ...], tuple[Course, ...], np.ndarray]":
    """Return the variables that move most, some trajectories, and the training means of these variables."""
    import numpy as np

    from cellgap.cli._dynamics_forecast import courses_ahead
    from cellgap.report import Course

    shown, k, rng = parts.shown, law.history, np.random.default_rng(0)
    moved = np.mean([np.ptp(values, axis=0) for _, values in shown.each()], 0) / law.units.spread
    kept = np.argsort(-moved, kind="stable")[:_VARIABLES]
    courses = []
    for i in _spread_out(shown):
        one = shown.take([i])
        ((times, values),) = one.each()
        if len(times) <= k:
            continue
        given = times[k - 1] - times[0]
        ahead = np.linspace(0.0, times[-1] - times[k - 1], _POINTS)
        mean, spread = courses_ahead(law, one, ahead)
        clock, cells = (np.zeros(0), np.zeros((0, len(kept)))) if one.cells is None else one.cells[0]
        if len(clock):
            some = np.sort(rng.permutation(len(clock))[:_CELLS])
            clock, cells = clock[some] - times[0], cells[some][:, kept]
        courses.append(
            Course(one.names[0], times - times[0], values[:, kept], ahead + given, mean[0][:, kept],
                   spread[0][:, kept], clock, cells)
        )  # fmt: skip
    names = tuple(shown.variables[j] for j in kept)
    return names, tuple(courses), parts.train.states.mean(0)[kept]


def _spread_out(shown: "Trajectories") -> list[int]:
    """Return some trajectories, of different labels where there are any."""
    labels = [tuple(row) for row in shown.about.astype(str).to_numpy()]
    first = list({label: i for i, label in reversed(list(enumerate(labels)))}.values())
    order = sorted(first) + [i for i in range(len(shown)) if i not in set(first)]
    return sorted(order[:_COURSES])


def _screen(law: "FittedLaw", network: "Network", genes: str | Sequence[str] | None) -> "tuple[KnockOuts, int]":
    """Return the knock-outs, and how many variables were left out."""
    import numpy as np

    from cellgap.report import KnockOuts

    chosen: Any = genes
    if genes is None:
        strongest = network.scores.sum(axis=1).sort_values(ascending=False, kind="stable").index[:_KNOCKED]
        chosen = [name for name in law.variables if name in set(strongest)]
    screen = law.knock_out(chosen)
    table: pd.DataFrame = screen.uns["knocked"]
    names = screen.obs["knocked"].astype(str).to_numpy()
    times = screen.obs["time"].to_numpy(float)[names == names[0]]
    change = np.stack([np.asarray(screen.X)[names == name] for name in table.index[:_DRAWN]])
    left = len(law.variables) - len(table) if genes is None else 0
    return KnockOuts(table, change / np.asarray(law.units.spread, np.float32), times, law.variables), left


def _path(run: DynamicsRun) -> "tuple[pd.DataFrame, str]":
    """Return the path over strengths in the folder of a run, and what to say where it is of other settings."""
    import pandas as pd

    from cellgap.cli._dynamics_fit import PATH, TABLE, without_strength
    from cellgap.cli._run_file import read_toml
    from cellgap.cli._run_folder import SETTINGS, difference

    if not (run.folder / TABLE).exists() or not (run.folder / PATH / SETTINGS).exists():
        return pd.DataFrame(), ""
    other = read_toml(run.folder / PATH / SETTINGS)
    other.pop(PATH, None)
    differing = difference(other, without_strength(run.to_dict()))
    told = f"The strengths of the penalty were tried with other settings: {differing}." if differing else ""
    return pd.read_csv(run.folder / TABLE), told


def _notes(law: "FittedLaw", parts: Parts, left: int, told: str) -> list[str]:
    notes = [told] if told else []
    if parts.test is None:
        notes.append("No trajectory is held out: scores and courses are of those that the law was fitted on.")
    if left:
        notes.append(f"The {_KNOCKED} strongest regulators were knocked out, {left:,} variables were not.")
    if parts.space is not None and parts.space.dim != len(parts.space.genes):
        kind = type(parts.space).__name__.removeprefix("Fitted")
        notes.append(f"Variables are coordinates of cells ({kind}), not genes, and so are edges and knock-outs.")
    if law.stopped == "early":
        notes.append("Training stopped early.")
    return [*notes, *(text[:1].upper() + text[1:] for text in law.cautions())]
