"""Several models from one run file in one table: what is kept, what is continued, and what is said of the others."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cellgap.cli import main
from cellgap.cli._compare import fit_models
from cellgap.cli._compare_file import read_comparison
from cellgap.cli._run_file import read_run_file
from cellgap.errors import CellgapError

FLOW = (
    '{ kind = "FlowMatching", name = "small flow", time = [4], data = [8], decoder = [8], embedding = 4, '
    "optimization = { batch_size = 32, loop = { n_steps = 20, chunk = 5, valid_every = 10 } } }"
)
MODELS = f'["ConditionalMonge", {FLOW}, "Gaussian", "Monge", "MeanShift"]'
NAMES = ("ConditionalMonge", "small flow", "Gaussian", "MeanShift")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


def with_models(screen: Path, folder: Path, models: str = MODELS) -> Path:
    """Write a run file beside links to the data; return its path."""
    folder.mkdir(exist_ok=True)
    for name in ("design.toml", "drugs.csv", "screen.h5ad"):
        (folder / name).symlink_to(screen / name)
    text = (screen / "run.toml").read_text()
    text = text.replace("n_steps = 60", "n_steps = 20")
    path = folder / "run.toml"
    path.write_text(text + (f"\n[compare]\nmodels = {models}\n" if models else ""))
    return path


@pytest.fixture(scope="module")
def compared(screen: Path, cellgap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished comparison, made by the program itself."""
    folder = tmp_path_factory.mktemp("compared")
    path = with_models(screen, folder)
    done = cellgap("compare", path, "--n-draws", "2", "--n-cells", "25", "--quiet", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    for name in NAMES:
        assert name in done.stdout
    assert "* Monge: not in the table (Monge answers for conditions it was trained on" in done.stdout
    return folder / "run"


def test_everything_is_kept(compared: Path) -> None:
    assert {path.name for path in (compared / "models").iterdir()} == set(NAMES)
    for name in NAMES:
        kept = {path.name for path in (compared / "models" / name).iterdir()}
        assert kept >= {"run.toml", "split.json", "model.json", "model.npz"}
    assert (compared / "models" / "small flow" / "checkpoint.eqx").exists()
    table, summary = pd.read_csv(compared / "table.csv"), pd.read_csv(compared / "summary.csv")
    assert {*NAMES, "replicate", "mean effect", "identity"} <= set(table["predictor"])
    assert set(summary["predictor"][summary["kind"] == "model"]) == set(NAMES)
    assert set(table["condition"]) == {f"C1@{dose}nM | {line}" for dose in (100, 1000) for line in ("line1", "line2")}
    pairs = pd.read_csv(compared / "comparisons.csv")
    assert ((pairs["a"] == "ConditionalMonge") & (pairs["b"] == "small flow")).any()
    gaps = pd.read_csv(compared / "gaps.csv")
    assert {("small flow", "integration gap"), ("ConditionalMonge", "Monge gap")} <= set(
        zip(gaps["model"], gaps["gap"], strict=True)
    )
    assert list(json.loads((compared / "evaluation.json").read_text())["left_out"]) == ["Monge"]
    settings = tomllib.loads((compared / "compare.toml").read_text())
    assert list(settings["compare"]["models"]) == ["ConditionalMonge", "small flow", "Gaussian", "Monge", "MeanShift"]
    assert settings["model"]["space"]["dim"] == 5


def test_the_page_shows_all_models_and_who_is_missing(compared: Path) -> None:
    page = (compared / "report.html").read_text()
    for text in (*NAMES, "replicate", "Monge is not in the table", "4 models on treatments they never saw"):
        assert text in page
    # The page is about the first model, which was trained by steps: its curves are there.
    assert "energy distance, left out" in page and "No training history" not in page


def test_finished_models_are_not_fitted_again(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in compared.glob("models/*/model.*")}
    scores = (compared / "summary.csv").read_text()
    (compared / "summary.csv").unlink()
    assert run("compare", compared.parent / "run.toml", "--n-draws", "2", "--n-cells", "25") == 0
    said = capsys.readouterr()
    assert "fitting" not in said.err and "small flow" in said.out
    assert before == {path: path.stat().st_mtime_ns for path in compared.glob("models/*/model.*")}
    assert (compared / "summary.csv").read_text() == scores


def test_a_model_that_was_lost_is_fitted_again_to_the_same_bits(
    compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(compared, folder)
    model = folder / "models" / "small flow" / "model.npz"
    with np.load(model) as archive:
        arrays = {name: archive[name].copy() for name in archive.files}
    for path in model.parent.iterdir():
        path.unlink()
    _, models, left_out = fit_models(read_comparison(compared.parent / "run.toml", folder=folder))
    assert tuple(models) == NAMES and tuple(left_out) == ("Monge",)
    said = capsys.readouterr().err
    assert "fitting small flow" in said and "fitting ConditionalMonge" not in said
    with np.load(model) as archive:
        for name, array in arrays.items():
            np.testing.assert_array_equal(archive[name], array)


def test_a_compared_model_is_the_run_of_fit(compared: Path, tmp_path: Path) -> None:
    """The same command file, the same seed: the same bits; and its folder is one for the other commands."""
    assert run("fit", compared.parent / "run.toml", "--folder", tmp_path / "fit", "--quiet") == 0
    one, two = (np.load(path / "model.npz") for path in (tmp_path / "fit", compared / "models" / "ConditionalMonge"))
    assert one.files == two.files
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name])
    out = tmp_path / "x.h5ad"
    model = compared / "models" / "small flow"
    assert run("predict", model, "--condition", "A1@100nM | line1", "--out", out) == 0 and out.exists()


def test_a_comparison_of_other_settings_is_not_continued(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", compared.parent / "run.toml", "--quiet", "--set", "run.seed=4") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and "holds another run, with split.seed = 3 instead of 4" in line


WRONG = [
    ('["ConditionalMongue"]', "unknown kind 'ConditionalMongue': did you mean 'ConditionalMonge'"),
    ('["Gaussian", "Gaussian"]', "has 'Gaussian' twice: give one of them another name"),
    ('[{ name = "x" }]', "unknown kind None"),
    ('[{ kind = "Gaussian", name = "a/b" }]', "'a/b' cannot be that of a folder"),
    ('[{ kind = "Gaussian", space = { kind = "PCA" } }]', "'space' is the same for all models"),
    ('[{ kind = "FlowMatching", decodr = [8] }]', "models: FlowMatching .*no setting 'decodr': did you mean 'decoder'"),
    ('[{ kind = "FlowMatching", epsilon = 0 }]', r"FlowMatching\(epsilon=...\) is wrong: .*greater than 0"),
    ('[{ kind = "FlowMatching", guidance_weight = 2 }]', "needs the field without a condition"),
    ('["Ensemble"]', "an Ensemble needs the table of a model, found None"),
    ("[]", "must be a list of kinds or tables, found \\[\\]"),
    ('"Gaussian"', "must be a list of kinds or tables, found 'Gaussian'"),
    ("[3]", "names of kinds or tables, found 3"),
    ('["Gaussian"]\nmodel = 1', r"\[compare\] has no key 'model': did you mean 'models'"),
]


@pytest.mark.parametrize(("models", "says"), WRONG, ids=[models for models, _ in WRONG])
def test_wrong_models_are_refused_before_the_data_are_read(
    models: str, says: str, screen: Path, tmp_path: Path
) -> None:
    with pytest.raises(CellgapError, match=says) as error:
        read_comparison(with_models(screen, tmp_path, models))
    assert "run.toml" in str(error.value) and "\n" not in str(error.value)


def test_a_wrong_name_ends_the_program_with_one_sentence(screen: Path, tmp_path: Path, cellgap) -> None:
    done = cellgap("compare", with_models(screen, tmp_path, '["Gausian"]'))
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and "did you mean 'Gaussian'" in line
    assert not (tmp_path / "run").exists()


def test_settings_of_the_model_section_are_those_of_its_kind(screen: Path, tmp_path: Path) -> None:
    models = '["ConditionalMonge", "Gaussian", { kind = "ConditionalMonge", name = "wide", hidden = [32] }]'
    found = read_comparison(with_models(screen, tmp_path, models), folder=tmp_path / "there")
    runs = found.runs
    assert runs["ConditionalMonge"].model["hidden"] == [16, 16] and runs["wide"].model["hidden"] == [32]
    assert runs["wide"].model["optimization"] == runs["ConditionalMonge"].model["optimization"]
    assert all(r.model["space"] == runs["wide"].model["space"] and r.split == runs["wide"].split for r in runs.values())
    assert runs["wide"].folder == tmp_path / "there" / "models" / "wide"
    assert read_run_file(tmp_path / "run.toml").model["kind"] == "ConditionalMonge", "fit reads the same file"


def test_without_a_list_every_kind_is_compared_that_is_no_baseline(screen: Path, tmp_path: Path) -> None:
    kinds = {run.model["kind"] for run in read_comparison(with_models(screen, tmp_path, "")).runs.values()}
    assert {"ConditionalMonge", "FlowMatching", "Gaussian", "Monge"} <= kinds
    assert not kinds & {"Identity", "MeanShift", "Ensemble"}


def test_an_ensemble_fits_its_model_under_what_is_shared(screen: Path, tmp_path: Path) -> None:
    models = '[{ kind = "Ensemble", n_members = 3, model = { kind = "Gaussian" } }, "Gaussian"]'
    found = read_comparison(with_models(screen, tmp_path, models))
    one, two = (run.model for run in found.runs.values())
    assert one["n_members"] == 3 and one["model"] == two
    assert found.shared.model == {"space": two["space"], "encoder": two["encoder"]}
    assert found.to_dict()["compare"]["models"]["Ensemble"]["model"] == {"kind": "Gaussian"}


def test_models_without_any_answer_are_a_mistake(
    screen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compare", with_models(screen, tmp_path, '["Monge"]'), "--quiet") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no model has an answer: Monge: Monge answers for conditions it was trained on" in line


def test_ctrl_c_keeps_what_is_fitted(
    screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cellgap.cli import _compare

    path = with_models(screen, tmp_path, '["Gaussian", "MeanShift"]')
    fitted = _compare._fitted

    def interrupted(run, codes, quiet):
        if run.model["kind"] == "MeanShift":
            raise KeyboardInterrupt
        return fitted(run, codes, quiet)

    monkeypatch.setattr(_compare, "_fitted", interrupted)
    assert run("compare", path) == 130
    assert "interrupted; the work is kept" in capsys.readouterr().err
    kept = {folder.name: (folder / "model.npz").exists() for folder in (tmp_path / "run" / "models").iterdir()}
    assert kept == {"Gaussian": True, "MeanShift": False} and not (tmp_path / "run" / "table.csv").exists()
    monkeypatch.undo()
    _, models, _ = fit_models(read_comparison(path))
    said = capsys.readouterr().err
    assert tuple(models) == ("Gaussian", "MeanShift") and "fitting MeanShift" in said and "fitting Gaussian" not in said
