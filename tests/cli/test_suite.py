"""``cellgap evaluate RUN --suite vcc2026``: the field's suite as a program."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cellgap.cli._app import main
from cellgap.cli._run_folder import Run
from cellgap.cli._scores import suite_of

pytest.importorskip("cell_eval2")


def test_suite_of_a_run(fitted: Path, cellgap) -> None:
    done = cellgap("evaluate", fitted, "--suite", "vcc2026", "--n-draws", "1", "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "vcc2026 on raw counts, mean over 2 contexts" in done.stdout and "suite.csv" in done.stdout
    table = pd.read_csv(fitted / "suite.csv").set_index(["predictor", "context", "member"])
    assert set(table.index.levels[1]) == {"line1", "line2"}
    own = table.loc["conditional Monge"]
    assert np.isfinite(own.xs("pds_cosine", level="member")["value"]).all()
    assert (table.loc["mean effect"]["scaled"].dropna() == 0).all()
    run = Run.open(fitted)
    shown = suite_of(run).set_index(["predictor", "member"])
    assert shown.loc[("conditional Monge", "mean"), "kind"] == "model"
    about = (fitted / "suite.json").read_text()
    (fitted / "suite.json").write_text(about.replace(run.model_digest, "another model"))
    assert suite_of(run).empty
    (fitted / "suite.json").write_text(about)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--suite", "vcc2025"), "vcc2026"),
        (("--target-genes",), "--target-genes belongs to --suite vcc2026"),
        (("--suite", "vcc2026", "--n-cells", "1"), "max_cells must be a whole number of at least 2, found 1."),
        (("--suite", "vcc2026", "--target-genes", "--quiet"), "No held-out treatment has its target gene"),
    ],
)
def test_mistakes(fitted: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(fitted), *options])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
