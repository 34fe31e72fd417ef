"""Forecasts as files: what is asked for on the command line, from which states, written as a table or as cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellgap.cli._dynamics_files import parts_of, read_courses_of
from cellgap.cli._dynamics_run import CELLS, DynamicsRun
from cellgap.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from cellgap.dynamics import FittedLaw, Intervention, Trajectories
    from cellgap.dynamics._reading import Courses

_OUT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def numbers_of(text: str, option: str) -> list[float]:
    """Return numbers that are separated by commas.

    Raises
    ------
    ConfigError
        One is none.
    """
    found = []
    for part in listed(text, option):
        try:
            found.append(float(part))
        except ValueError:
            raise ConfigError(f"{option} takes numbers separated by commas, found {part!r}.") from None
    return found


def listed(text: str, option: str) -> list[str]:
    """Return names that are separated by commas.

    Raises
    ------
    ConfigError
        There is none.
    """
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise ConfigError(f"{option} needs at least one value, found {text!r}.")
    return found


def intervention_of(
    law: "FittedLaw", hold: Sequence[str], dose: Sequence[str], cut: Sequence[str]
) -> "Intervention | None":
    """Return what the options of a forecast ask for; None where they ask for nothing.

    Raises
    ------
    ConfigError, DataError
        A text cannot be read, a variable is unknown, or the law has nothing to dose.
    """
    from cellgap.dynamics import Intervention

    if not (hold or dose or cut):
        return None
    held, dosed = _values(hold, "--hold"), _values(dose, "--dose")
    if dosed and law.law.rest is None:
        raise ConfigError("--dose scales production, and this law has no decay apart from it: use --hold.")
    if min(dosed.values(), default=0.0) < 0:
        raise ConfigError(f"--dose takes a factor of 0 or more, found {min(dosed.values()):g}.")
    made = Intervention(hold=held, dose=dosed, cut=[_edge(text, law.variables) for text in cut])
    # What is wrong is said before any data are read.
    made.acting(law.variables, law.units, 1)
    made.cut_from(law)
    return made


def write_forecast(
    run: DynamicsRun,
    law: "FittedLaw",
    data: Path | None,
    times: Sequence[float] | None,
    intervention: "Intervention | None",
    out: Path | None,
) -> tuple[Path, str]:
    """Return the file that a forecast was written to, and what it holds, in words.

    Parameters
    ----------
    run, law
        The run and its law.
    data
        A table, or cells; None: what the run holds out.
    times
        Since the start; None: those of a training trajectory.
    intervention
        What is held, dosed, cut.
    out
        The file; None: forecast.csv or forecast.h5ad.

    Raises
    ------
    CellgapError
        Anything the user got wrong.
    """
    import numpy as np

    from cellgap.dynamics._intervention import ascending
    from cellgap.study._read import open_study_file

    asked = np.asarray(law.visited.times if times is None else times, np.float64)
    ascending(asked)
    of_cells = data.suffix in CELLS if data is not None else out is not None and out.suffix == ".h5ad"
    if of_cells and law.space is None:
        raise DataError("this law was learnt from a table of trajectories, not from cells: it can move no cells.")
    out = Path("forecast.h5ad" if of_cells else "forecast.csv") if out is None else out
    if of_cells != (out.suffix == ".h5ad") or not (of_cells or out.name.lower().endswith(_OUT)):
        kind = "an .h5ad file for cells" if of_cells else "a table (.csv, .tsv) for trajectories"
        raise ConfigError(f"--out must name {kind}, found {str(out)!r}.")
    if of_cells:
        parts = None if data is not None else parts_of(run, law)
        if parts is None:
            cells = open_study_file(Path(str(data)))
        else:
            assert parts.study is not None
            cells = parts.study.adata[parts.rows].to_memory()
        moved = law.forecast_cells(cells, asked, intervention=intervention)
        out.parent.mkdir(parents=True, exist_ok=True)
        moved.write_h5ad(out)
        return out, f"{cells.n_obs:,} cells at {len(asked):,} time{'s' * (len(asked) > 1)}"
    starts = parts_of(run, law).shown if data is None else read_courses_of(run, data, law)
    frame = table_of(law, starts, asked, intervention)
    out.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out, index=False, sep="\t" if ".tsv" in out.name.lower() else ",")
    return out, f"{len(starts.about):,} trajectories at {len(asked):,} time{'s' * (len(asked) > 1)}"


def table_of(
    law: "FittedLaw",
    starts: "Trajectories | Courses",
    times: "np.ndarray",
    intervention: "Intervention | None" = None,
) -> "pd.DataFrame":
    """Return forecasts from the first states of trajectories, laid out as by `Trajectories.to_frame`.

    Times are counted from the last state that the law was given.
    """
    import numpy as np
    import pandas as pd

    found = courses_ahead(law, starts, times, intervention)[0]
    n, t, d = found.shape
    frame = pd.DataFrame(found.reshape(n * t, d), columns=pd.Index(law.variables))
    about = starts.about.astype(str)
    for column in reversed([c for c in about.columns if c not in ("trajectory", "time")]):
        frame.insert(0, column, np.repeat(about[column].to_numpy(), t))
    frame.insert(0, "time", np.tile(times, n))
    frame.insert(0, "trajectory", np.repeat(np.asarray(starts.names), t))
    return frame


def courses_ahead(
    law: "FittedLaw",
    starts: "Trajectories | Courses",
    times: "np.ndarray",
    intervention: "Intervention | None" = None,
) -> "tuple[np.ndarray, np.ndarray]":
    """Return forecasts from the first states of trajectories, (n, times, d), and their spread over members.

    Raises
    ------
    DataError
        A trajectory has fewer states than the law needs to see.
    """
    import numpy as np

    from cellgap.dynamics import Trajectories

    k = law.history
    told = list(starts.each()) if isinstance(starts, Trajectories) else list(
        zip(starts.times, starts.values, strict=True)
    )  # fmt: skip
    short = [name for name, (clock, _) in zip(starts.names, told, strict=True) if len(clock) < k]
    if short:
        raise DataError(f"the law needs to see {k} states, and the trajectory {short[0]!r} has fewer.")
    about = starts.about.copy()
    for i, name in enumerate(law.constants.names):
        about[name] = starts.inputs[:, i]
    back = [tuple(clock[:k] - clock[k - 1]) for clock, _ in told]
    mean, spread = (np.empty((len(told), len(times), len(law.variables))) for _ in range(2))
    for one in dict.fromkeys(back):
        rows = np.flatnonzero([b == one for b in back])
        seen = np.stack([told[i][1][:k] for i in rows])
        options: Any = {"about": about.iloc[rows], "intervention": intervention, "spread": True}
        mean[rows], spread[rows] = law.forecast(seen, times, start_times=np.asarray(one), **options)
    return mean, spread


def _values(texts: Sequence[str], option: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not equals or not name or value != value:
            raise ConfigError(f"{option} takes a variable and a number, such as {option} GATA1=0; found {text!r}.")
        if name in found:
            raise ConfigError(f"{option} has {name!r} twice.")
        found[name] = value
    return found


def _edge(text: str, variables: Sequence[str]) -> tuple[str, str]:
    """Return regulator and target; names may hold colons themselves."""
    if ":" not in text:
        raise ConfigError(f"--cut takes regulator:target, such as --cut GATA1:KLF1; found {text!r}.")
    places = [i for i, letter in enumerate(text) if letter == ":"]
    pairs = [(text[:i], text[i + 1 :]) for i in places]
    known = [(a, b) for a, b in pairs if a in variables and (b == "*" or b in variables)]
    return (known or pairs)[0]
