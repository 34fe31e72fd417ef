"""The scores of a run as files in its folder, and whether they are those of its model."""

import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from cellgap.cli._run_folder import Run
from cellgap.storage import replace

if TYPE_CHECKING:
    import pandas as pd

    from cellgap.evaluate import Evaluation, SuiteResult

FRAMES = ("table", "summary", "comparisons")
ABOUT = "evaluation.json"


class Scores(NamedTuple):
    """What an evaluation left in the folder of a run.

    Parameters
    ----------
    table, summary, comparisons
        As in `cellgap.evaluate.Evaluation`.
    unscored
        Reason by condition that was not scored.
    settings
        Of the evaluation.
    """

    table: "pd.DataFrame"
    summary: "pd.DataFrame"
    comparisons: "pd.DataFrame"
    unscored: dict[str, str]
    settings: dict[str, Any]


def score(run: Run, *, n_cells: int, n_draws: int, progress: bool, workers: int | None = None) -> "Evaluation":
    """Return the evaluation of a run, by worker processes where asked for, after writing its tables into its folder."""
    from cellgap.evaluate import evaluate, local_workers

    with nullcontext() if workers is None else local_workers(workers) as client:
        found = evaluate(run.fitted, run.split, n_cells=n_cells, n_draws=n_draws, progress=progress, client=client)
    frames = {"table": found.table, "summary": found.summary(), "comparisons": found.comparisons}
    for name in FRAMES:
        text = frames[name].to_csv(index=False)
        replace(run.folder / f"{name}.csv", lambda handle, text=text: handle.write(text.encode()))
    about = {"model": run.model_digest, "settings": dict(found.settings), "unscored": dict(found.unscored)}
    replace(run.folder / ABOUT, lambda handle: handle.write(json.dumps(about, indent=1).encode()))
    return found


def score_suite(run: Run, *, n_cells: int, n_draws: int, target_genes: bool, progress: bool) -> "SuiteResult":
    """Return a run's members of the suite vcc2026 after writing them into the run's folder.

    ``suite.csv`` has every score, ``suite_summary.csv`` what the page shows, ``suite.json`` of which model.
    """
    from cellgap.evaluate import vcc2026

    found = vcc2026(
        run.fitted,
        run.split,
        max_cells=n_cells,
        n_replicates=n_draws,
        target_genes=target_genes,
        progress=progress,
    )
    for name, frame in (("suite", found.table), ("suite_summary", found.summary())):
        text = frame.to_csv(index=False)
        replace(run.folder / f"{name}.csv", lambda handle, text=text: handle.write(text.encode()))
    about = {"model": run.model_digest, "settings": dict(found.settings)}
    replace(run.folder / "suite.json", lambda handle: handle.write(json.dumps(about, indent=1).encode()))
    return found


def suite_of(run: Run) -> "pd.DataFrame":
    """Return the suite in a run's folder as the page shows it; empty where it is missing or of another model."""
    import pandas as pd

    path = run.folder / "suite_summary.csv"
    if _about(run, "suite.json").get("model") != run.model_digest or not path.exists():
        return pd.DataFrame()
    return pd.read_csv(path)


def scores_of(run: Run, *, progress: bool) -> Scores:
    """Return the scores in a run's folder; the run is evaluated first where they are missing or of another model."""
    import pandas as pd

    paths = {name: run.folder / f"{name}.csv" for name in FRAMES}
    about = _about(run)
    if about.get("model") != run.model_digest or not all(path.exists() for path in paths.values()):
        score(run, n_cells=1000, n_draws=5, progress=progress)
        about = _about(run)
    frames = {name: pd.read_csv(path) for name, path in paths.items()}
    # A reason that is not there is an empty text, as in memory.
    frames["table"]["note"] = frames["table"]["note"].fillna("")
    return Scores(**frames, unscored=about["unscored"], settings=about["settings"])


def _about(run: Run, name: str = ABOUT) -> dict[str, Any]:
    try:
        found = json.loads((run.folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
