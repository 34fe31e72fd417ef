"""From a run file to a model, predictions, scores and a page; what happens to a run that is stopped."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

from cellgap.cli import main
from cellgap.study import Condition


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


def arrays(folder: Path) -> dict[str, bytes]:
    with np.load(folder / "model.npz") as archive:
        return {name: archive[name].tobytes() for name in archive.files}


def start(screen: Path, folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cellgap", "fit", str(screen / "run.toml"), "--folder", str(folder)]
    # Long enough to be caught in the middle.
    command += ["--set", "model.optimization.loop.n_steps=400"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def caught_in_the_middle(process: "subprocess.Popen[str]", folder: Path) -> None:
    """Wait for the first checkpoint."""
    for _ in range(3000):
        if (folder / "checkpoint.eqx").exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("no checkpoint in a minute")


def test_fit_leaves_everything_that_made_it(fitted: Path) -> None:
    names = {path.name for path in fitted.iterdir()}
    assert names >= {"run.toml", "split.json", "model.json", "model.npz", "checkpoint.eqx", "log.jsonl"}
    header = json.loads((fitted / "model.json").read_text())["header"]
    assert header["run"]["model"]["optimization"]["loop"]["n_steps"] == 60
    assert header["run"]["run"]["seed"] == 3


def test_the_same_command_again_changes_nothing(fitted: Path, screen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in fitted.glob("*.np?")}
    assert run("fit", screen / "run.toml", "--folder", fitted) == 0
    assert "finished" in capsys.readouterr().err
    assert before == {path.name: path.stat().st_mtime_ns for path in fitted.glob("*.np?")}
    assert run("fit", screen / "run.toml", "--folder", fitted, "--set", "run.seed=4") == 2
    assert "holds another run, with split.seed = 3 instead of 4" in capsys.readouterr().err


def test_quiet_is_quiet(fitted: Path, screen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", screen / "run.toml", "--folder", fitted, "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_predict(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "predicted.h5ad"
    asked = ["C1@1000nM | line1", "A1@300nM | cell_line=line2"]
    assert run("predict", fitted, *(a for c in asked for a in ("--condition", c)), "--out", out) == 0
    said = capsys.readouterr()
    assert "C1@1000nM | line1 extrapolates: the treatment C1 was not trained on" in said.err
    assert "A1@300nM" in said.out and "A1@300nM | line2 extrapolates" not in said.err
    cells = read_h5ad(out)
    assert cells.obs_names.is_unique and np.isfinite(np.asarray(cells.X)).all()
    assert list(cells.uns["cellgap"]["conditions"]["condition"]) == ["C1@1000nM | line1", "A1@300nM | line2"]
    counts = cells.obs["condition"].value_counts()
    assert dict(counts) == {"C1@1000nM | line1": 30, "A1@300nM | line2": 30}
    assert set(cells.obs["cell_line"][cells.obs["condition"] == "A1@300nM | line2"]) == {"line2"}


def test_predict_counts(fitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "predicted.h5ad"
    asked = ("--condition", "C1@1000nM | line1", "--condition", "A1@300nM | line2", "--out", out)
    assert run("predict", fitted, *asked, "--counts", "--seed", 5) == 0
    cells = read_h5ad(out)
    assert cells.X.dtype == np.int32 and cells.X.format == "csr" and cells.X.data.min() > 0
    assert cells.uns["cellgap"]["counts"]["seed"] == 5 and cells.n_obs == 60


def test_predict_from_controls_of_the_user(fitted: Path, screen: Path, tmp_path: Path) -> None:
    adata = read_h5ad(screen / "screen.h5ad")
    chosen = adata[(adata.obs["drug"] == "vehicle").to_numpy()][:7].copy()
    chosen.write_h5ad(tmp_path / "controls.h5ad")
    out = tmp_path / "predicted.h5ad"
    arguments = ("--controls", tmp_path / "controls.h5ad", "--out", out, "--condition", "A1@100nM | line1")
    assert run("predict", *arguments, fitted) == 0
    cells = read_h5ad(out)
    assert list(cells.obs["control"]) == list(chosen.obs_names) == list(cells.obs_names)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("D9@100nM | line1", "The descriptor table has no row for the treatment 'D9'"),
        ("A1 | line1", "'A1' needs a dose: trained on"),
        ("A1@100ng/mL | line1", "Cannot convert"),
        ("A1@100nM | line9", "no controls for .* --controls"),
        ("A1@100nM | plate=1", "names the context 'plate'"),
        ("A1@ | line1", "Cannot read|dose"),
    ],
)
def test_predict_refuses(
    condition: str, says: str, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("predict", fitted, "--condition", condition, "--out", tmp_path / "x.h5ad") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and re.search(says, line), line
    assert not list(tmp_path.iterdir())


def test_evaluate_and_report(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", fitted, "--n-draws", "2", "--n-cells", "25", "--quiet") == 0
    said = capsys.readouterr().out
    assert "conditional Monge" in said and "replicate" in said and "mean effect" in said
    table = pd.read_csv(fitted / "table.csv")
    assert set(table["condition"]) == {f"C1@{dose}nM | {line}" for dose in (100, 1000) for line in ("line1", "line2")}
    assert set(table["seed"]) == {0, 1} and table["n_true"].max() == 25
    assert {"predictor", "scaled_low"} <= set(pd.read_csv(fitted / "summary.csv").columns)
    assert "beats" in pd.read_csv(fitted / "comparisons.csv").columns

    # the page shows these scores and does not make others
    written = (fitted / "table.csv").stat().st_mtime_ns
    assert run("report", fitted, "--quiet") == 0
    assert (fitted / "table.csv").stat().st_mtime_ns == written
    page = (fitted / "report.html").read_text()
    for text in ("conditional Monge", "C1@", "Monge gap", "spread gap", "the treatment C1 was not trained on"):
        assert text in page
    assert page.count("<svg") > 10

    # scores of another model are not shown
    about = json.loads((fitted / "evaluation.json").read_text())
    (fitted / "evaluation.json").write_text(json.dumps(about | {"model": "another"}))
    assert run("report", fitted, "--quiet", "--out", fitted / "again.html") == 0
    assert (fitted / "table.csv").stat().st_mtime_ns != written


def test_a_run_can_be_moved_and_its_data_too(
    fitted: Path, screen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(fitted, moved)
    settings = (moved / "run.toml").read_text()
    (moved / "run.toml").write_text(settings.replace("screen.h5ad", "gone.h5ad"))
    asked = ("--condition", "A1@100nM | line1", "--out", tmp_path / "x.h5ad")
    assert run("predict", moved, *asked) == 2
    assert "say where with --data" in capsys.readouterr().err
    assert run("predict", moved, *asked, "--data", screen / "screen.h5ad") == 0

    other = read_h5ad(screen / "screen.h5ad")[10:].copy()
    other.write_h5ad(tmp_path / "other.h5ad")
    capsys.readouterr()
    assert run("evaluate", moved, "--data", tmp_path / "other.h5ad") == 2
    assert "belongs to another study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda f: (f / "model.npz").write_bytes(b"not an archive"), "damaged"),
        (lambda f: (f / "model.npz").unlink(), "no model.npz beside model.json"),
        (lambda f: (f / "model.json").write_text("{"), "not readable as JSON"),
        (lambda f: (f / "model.json").unlink(), "is not finished"),
        (lambda f: (f / "split.json").write_text("{}"), "is not a split"),
        (lambda f: (f / "run.toml").write_text("[data]"), "is damaged"),
        (lambda f: (f / "run.toml").unlink(), "has no run.toml"),
    ],
)
def test_a_damaged_run_is_refused(
    harm, says: str, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(fitted, folder)
    harm(folder)
    assert run("evaluate", folder) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and says in line


def test_a_treatment_without_descriptor_is_refused_before_fitting(
    screen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(screen / "drugs.csv", index_col=0)
    table.drop("B1").to_csv(tmp_path / "drugs.csv")
    for name in ("design.toml", "screen.h5ad"):
        (tmp_path / name).symlink_to(screen / name)
    shutil.copy(screen / "run.toml", tmp_path)
    assert run("fit", tmp_path / "run.toml", "--quiet") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "The descriptor table has no row for the treatment 'B1'" in line
    assert not (tmp_path / "run" / "model.json").exists()
    assert run("fit", tmp_path / "run.toml", "--quiet", "--set", 'split.names=["D9"]') == 2
    assert "Unknown treatment 'D9'" in capsys.readouterr().err
    assert run("fit", tmp_path / "run.toml", "--quiet", "--folder", tmp_path / "b", "--set", 'split.names=["D7"]') == 2
    assert "Unknown treatment 'D7'" in capsys.readouterr().err


def test_a_closed_form_model_can_be_fitted_too(screen: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        f'[data]\npath = "{screen / "screen.h5ad"}"\n[design]\npath = "{screen / "design.toml"}"\n'
        '[split]\nkind = "unseen_dose"\ndoses = [100]\ntreatments = ["A1"]\n'
        f'[model]\nkind = "MeanShift"\nspace = {{ kind = "Genes" }}\n'
        f'encoder = [{{ kind = "Table", source = "{screen / "drugs.csv"}" }}, {{ kind = "Dose" }}]\n'
    )
    assert run("fit", tmp_path / "run.toml", "--quiet") == 0
    out = tmp_path / "x.h5ad"
    assert run("predict", tmp_path / "run", "--condition", "A1@100nM | line1", "--out", out) == 0
    moved: AnnData = read_h5ad(out)
    assert moved.n_vars == 20 and Condition.parse(str(moved.obs["condition"].iloc[0]), ("cell_line",)).names == ("A1",)


@pytest.fixture(scope="module")
def uninterrupted(screen: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = start(screen, folder)
    _, error = process.communicate(timeout=500)
    assert process.returncode == 0, error
    return arrays(folder)


@pytest.mark.slow
def test_killed_and_continued_is_as_never_killed(screen: Path, tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    folder = tmp_path / "run"
    process = start(screen, folder)
    caught_in_the_middle(process, folder)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "model.npz").exists()
    process = start(screen, folder)
    _, error = process.communicate(timeout=500)
    assert process.returncode == 0, error
    assert arrays(folder) == uninterrupted


@pytest.mark.slow
def test_ctrl_c_keeps_the_work(screen: Path, tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    folder = tmp_path / "run"
    process = start(screen, folder)
    caught_in_the_middle(process, folder)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=500)
    assert process.returncode == 130, error
    assert "the work is kept" in error and "Traceback" not in error
    assert not (folder / "model.npz").exists()
    process = start(screen, folder)
    _, error = process.communicate(timeout=500)
    assert process.returncode == 0, error
    assert arrays(folder) == uninterrupted


def test_an_ensemble_says_how_far_it_may_be_off(
    screen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text(
        f'[data]\npath = "{screen / "screen.h5ad"}"\n[design]\npath = "{screen / "design.toml"}"\n'
        '[split]\nkind = "unseen_treatment"\nnames = ["C1"]\n'
        '[model]\nkind = "Ensemble"\nn_members = 3\n'
        '[model.model]\nkind = "Gaussian"\nspace = { kind = "PCA", dim = 4 }\n'
        f'encoder = [{{ kind = "Table", source = "{screen / "drugs.csv"}" }}, {{ kind = "Dose" }}]\n'
    )
    assert run("fit", tmp_path / "run.toml", "--quiet") == 0
    out = tmp_path / "x.h5ad"
    assert run("predict", tmp_path / "run", "--condition", "C1@100nM | line1", "--out", out) == 0
    assert re.search(r"mean effect \S+, off by \S+ at most in \d+% of unseen conditions", capsys.readouterr().out)
    (row,) = read_h5ad(out).uns["cellgap"]["conditions"].to_dict("records")
    assert row["error"] > row["spread"] > 0 and row["coverage"] <= 0.9
    assert (
        run("fit", tmp_path / "run.toml", "--quiet", "--folder", tmp_path / "b", "--set", "model.model.kind=Gausian")
        == 2
    )
    assert "did you mean 'Gaussian'?" in capsys.readouterr().err
