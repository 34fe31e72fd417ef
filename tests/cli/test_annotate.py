"""``cellgap annotate`` as a program: fit, predict, evaluate, report, and what it says when something is wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from cellgap.annotate import TRADES, Annotator, CompSum, PGDTraining
from cellgap.annotate.robust import Ball
from cellgap.cli._annotate import EXAMPLE
from cellgap.cli._app import main
from cellgap.cli._run_file import checked
from cellgap.cli._settings import estimator_of
from cellgap.errors import ConfigError
from cellgap.nn import GhostBatchNorm
from cellgap.settings import to_dict
from cellgap.space import Genes
from cellgap.train import Loop

SMALL = (
    "--set", "model.loop.n_steps=30", "--set", "model.loop.chunk=15", "--set", "model.hidden=[16]",
    "--set", "model.n_members=1", "--set", "model.n_axes=[8]", "--set", "model.linear_axes=20",
    "--set", "model.n_views=2", "--set", "model.strengths=[0.1, 1.0]", "--set", "model.batch_size=32",
)  # fmt: skip
ON = ("--label", "type", "--domains", "donor", "--counts", "X")
COLUMNS = ["label", "best", "probability", "second", "second_probability", "novelty", "reason"]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


def cells() -> anndata.AnnData:
    """Counts of three donors and four types; a few cells have no label."""
    rng = np.random.default_rng(0)
    types, rows, obs = rng.normal(0.0, 0.5, (4, 60)), [], []
    for donor in ("d1", "d2", "d3"):
        own = 0.3 * rng.normal(size=60)
        for t, name in enumerate("ABCD"):
            rate = np.exp(types[t] + own)
            rows.append(rng.poisson(150 * rate / rate.sum(), (20, 60)))
            obs += [(donor, name)] * 20
    frame = pd.DataFrame(obs, columns=["donor", "type"], dtype=object)
    frame.index = pd.Index([f"c{i}" for i in range(len(frame))])
    frame.loc[frame.index[::29], "type"] = None
    frame["one"] = "A"
    frame["each"] = np.where(np.arange(len(frame)) < 9, "A", None)
    adata = anndata.AnnData(np.concatenate(rows).astype(np.float32), obs=frame)
    adata.var_names = [f"g{j}" for j in range(60)]
    return adata


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    """Folder of the cells."""
    folder = tmp_path_factory.mktemp("annotate")
    cells().write_h5ad(folder / "atlas.h5ad")
    return folder


@pytest.fixture(scope="module")
def fitted(there: Path) -> Path:
    """Folder of a finished run; tests may add files, not change them."""
    assert run("annotate", "fit", there / "atlas.h5ad", *ON, "--out", there / "run", "--quiet", *SMALL) == 0
    return there / "run"


def test_the_example_is_a_run_file(tmp_path, capsys):
    assert run("annotate", "fit", "--example") == 0
    text = capsys.readouterr().out
    assert text == EXAMPLE
    (tmp_path / "atlas.h5ad").touch()
    found = checked(tomllib.loads(text), tmp_path, None, annotates=True)
    assert found.annotate == {"label": "cell_type"} and found.to_dict()["annotate"] == {"label": "cell_type"}
    assert estimator_of(tomllib.loads(text)["model"], tmp_path) == Annotator(domains=("donor",))


def test_settings_of_annotators_in_run_files(tmp_path):
    ball = {"norm": "linf", "radius": 0.1}
    section = {
        "kind": "Annotator", "domains": "donor", "loss": {"tau": 1.5}, "genes": {"n_top": 50}, "loop": {"n_steps": 7},
        "robust": {"kind": "TRADES", "ball": ball, "beta": 3.0},
    }  # fmt: skip
    found = estimator_of(section, tmp_path)
    robust = TRADES(ball=Ball(norm="linf", radius=0.1), beta=3.0)
    wanted = Annotator(
        domains="donor", loss=CompSum(tau=1.5), genes=Genes(n_top=50), loop=Loop(n_steps=7), robust=robust
    )
    assert found == wanted and estimator_of(to_dict(found), tmp_path) == found
    ghosts = estimator_of({"kind": "Annotator", "norm": {"kind": "GhostBatchNorm", "size": 8}}, tmp_path)
    assert ghosts.norm == GhostBatchNorm(size=8)
    with pytest.raises(ConfigError, match="robust has the unknown kind 'TRADE': did you mean 'TRADES'"):
        estimator_of(section | {"robust": {"kind": "TRADE", "ball": ball}}, tmp_path)
    with pytest.raises(ConfigError, match="robust \\(PGDTraining\\) needs 'ball'"):
        estimator_of(section | {"robust": {"kind": PGDTraining.__name__}}, tmp_path)


def test_fit_says_what_was_chosen_and_is_not_done_twice(there, fitted, capsys):
    import cellgap as cg

    model = cg.load(fitted)
    assert model.classes == ("A", "B", "C", "D") and model.domains == ("d1", "d2", "d3") and model.label == "type"
    kept = tomllib.loads((fitted / "run.toml").read_text())
    assert kept["annotate"] == {"label": "type"} and kept["split"]["kind"] == "everything"
    assert run("annotate", "fit", there / "atlas.h5ad", *ON, "--out", fitted, *SMALL) == 0
    said = capsys.readouterr()
    assert "holds this run, finished" in said.err and "Study of 240 cells" in said.err
    assert "Accuracy on domains that were left out" in said.out and "minimizability gap" in said.out
    assert run("annotate", "fit", there / "atlas.h5ad", *ON, "--out", fitted, *SMALL, "--set", "run.seed=1") == 2
    assert "holds another run, with split.seed = 0 instead of 1" in capsys.readouterr().err


def test_predict_writes_labels_beside_the_cells(there, fitted, tmp_path, capsys):
    import cellgap as cg

    data, out = there / "atlas.h5ad", tmp_path / "new" / "annotated.h5ad"
    assert run("annotate", "predict", fitted, data, "--out", out, "--quiet") == 0
    said = capsys.readouterr()
    assert "240 cells" in said.out and "mean probability" in said.out and not said.err
    got = anndata.read_h5ad(out)
    table = cg.load(fitted).predict(anndata.read_h5ad(data))
    assert [c for c in got.obs if c.startswith("cellgap_")] == [f"cellgap_{name}" for name in COLUMNS]
    assert (got.obs["cellgap_label"].astype(str) == table["label"]).all()
    np.testing.assert_allclose(got.obs["cellgap_probability"], table["probability"], rtol=1e-6)
    assert list(got.obs["cellgap_label"].cat.categories) == ["A", "B", "C", "D", "unassigned"]
    assert (np.asarray(got.X) == cells().X).all()
    assert got.uns["cellgap_annotation"]["label"] == "type" and (got.obs["donor"] == cells().obs["donor"]).all()
    known = got.obs["type"].notna()
    assert (got.obs["cellgap_best"].astype(str) == got.obs["type"].astype(str))[known].mean() > 0.8
    text = tmp_path / "labels.csv"
    assert run("annotate", "predict", fitted, data, "--out", text, "--quiet") == 0
    frame = pd.read_csv(text, index_col="cell")
    assert list(frame.columns) == [f"cellgap_{name}" for name in COLUMNS] and list(frame.index) == list(got.obs_names)
    # Written again over cells that have labels already: the columns are replaced.
    assert run("annotate", "predict", fitted, out, "--out", out, "--quiet") == 0
    assert len(anndata.read_h5ad(out).obs.columns) == len(got.obs.columns)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["annotated.h5ad", "labels.csv", "new"]


def test_evaluate_judges_beside_baselines_and_the_report_shows_both(there, fitted, tmp_path, capsys):
    page = tmp_path / "page.html"
    options = ("--baseline", "logistic", "--baseline", "knn", "--report", page)
    assert run("annotate", "evaluate", fitted, *options) == 0
    said = capsys.readouterr()
    assert "type: 3 values of donor left out in turn" in said.out and "annotator against logistic" in said.out
    assert re.search(r"logistic +│ +0\.\d+ ± ", said.out)
    parts = sorted(path.name for path in (fitted / "evaluation").iterdir())
    assert len(parts) == 10 and "evaluation.json" in parts
    text = page.read_text()
    for needed in ("Paired over 3 targets", "How the settings were chosen", "minimizability gap", "model.loop.n_steps"):
        assert needed in text, needed
    # The same again is read and not fitted; JSON has the numbers.
    before = {path: path.stat().st_mtime_ns for path in (fitted / "evaluation").glob("*.npz")}
    assert run("annotate", "evaluate", fitted, *options[:4], "--json", "--quiet") == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert not said.err and {row["method"] for row in found["summary"]} == {"annotator", "logistic", "knn"}
    assert len(found["targets"]) == 9 and all(0 <= row["accuracy"] <= 1 for row in found["targets"])
    assert before == {path: path.stat().st_mtime_ns for path in (fitted / "evaluation").glob("*.npz")}
    assert run("annotate", "report", fitted, "--out", tmp_path / "again.html") == 0
    # All but the order of the settings, which a TOML file does not keep.
    again = (tmp_path / "again.html").read_text()
    assert again.split('<section id="settings">')[0] == text.split('<section id="settings">')[0]
    assert run("annotate", "evaluate", fitted, "--target", "d9", "--quiet") == 2
    assert "has no value 'd9'" in capsys.readouterr().err


def test_evaluate_needs_no_fit_and_the_report_no_evaluation(there, fitted, tmp_path, capsys):
    folder = tmp_path / "judged"
    arguments = ("--baseline", "knn", "--target", "d1", "--out", folder, "--quiet", *SMALL)
    assert run("annotate", "evaluate", there / "atlas.h5ad", *ON, *arguments) == 0
    assert [path.name for path in folder.iterdir()] == ["evaluation"]
    assert run("annotate", "report", folder) == 0
    page = (folder / "report.html").read_text()
    assert "On 1 value of donor left out in turn" in page
    assert 'id="choice"' not in page and "adaptivity gap" in page
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("model.json", "model.npz", "run.toml"):
        (alone / name).write_bytes((fitted / name).read_bytes())
    capsys.readouterr()
    assert run("annotate", "report", alone) == 0
    assert "has not been judged on domains left out" in capsys.readouterr().err
    assert "Not judged on new domains yet." in (alone / "report.html").read_text()


def test_a_run_file_says_the_same_as_options(there, fitted, tmp_path, capsys):
    import cellgap as cg

    text = EXAMPLE.replace("atlas.h5ad", str(there / "atlas.h5ad")).replace("cell_type", "type")
    (tmp_path / "run.toml").write_text(text)
    assert run("annotate", "fit", tmp_path / "run.toml", "--quiet", *SMALL) == 0
    one, two = cg.load(tmp_path / "annotator"), cg.load(fitted)
    adata = cells()
    pd.testing.assert_frame_equal(one.predict(adata), two.predict(adata))


def test_ctrl_c_keeps_what_is_done(there, tmp_path):
    """As a program, stopped by a signal in its training: 130, no model, and a checkpoint to go on from."""
    folder = tmp_path / "stopped"
    command = [
        sys.executable, "-m", "cellgap", "annotate", "fit", there / "atlas.h5ad", *ON, "--out", folder, *SMALL,
        "--set", "model.loop.n_steps=200000", "--set", "model.loop.checkpoint_every=15", "--quiet",
    ]  # fmt: skip
    process = subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(folder.rglob("checkpoint.eqx")) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in said
    assert not (folder / "model.json").exists() and (folder / "run.toml").exists()
    assert list(folder.rglob("checkpoint.eqx"))


def test_ctrl_c_in_an_evaluation_says_how_to_go_on(there, tmp_path, capsys, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("cellgap.evaluate.annotation", stopped)
    assert run("annotate", "evaluate", there / "atlas.h5ad", *ON, "--out", tmp_path / "run") == 130
    assert "run the same command again to continue" in capsys.readouterr().err


def on(label: str = "type", domains: str = "donor", counts: str = "X") -> tuple[str, ...]:
    return "--label", label, "--domains", domains, "--counts", counts


MISTAKES = [
    (("fit",), "needs cells or a run file"),
    (("fit", "nothing.h5ad", *ON), "There is no file 'nothing.h5ad'"),
    (("fit", "nothing.toml"), "There is no file 'nothing.toml'"),
    (("fit", "CELLS"), "--label cell_type"),
    (("fit", "CELLS", *on(label="typ")), "no column 'typ'"),
    (("fit", "CELLS", *on(domains="doner")), "no column 'doner'"),
    (("fit", "CELLS", *on(label="one")), "one class"),
    (("fit", "CELLS", *on(label="each")), "labelled cells"),
    (("fit", "CELLS", *on(counts="raw")), "names no layer"),
    (("fit", "CELLS", *ON, "--set", "model.hiden=[3]"), "no setting 'hiden': did you mean 'hidden'"),
    (("fit", "CELLS", *ON, "--set", 'model.kind="Gaussian"'), "is no annotator"),
    (("fit", "NAN", *ON), "NaN"),
    (("evaluate", "CELLS", *ON[:2]), "left out in turn"),
    (("evaluate", "CELLS", *ON, "--baseline", "svm"), "Unknown baseline 'svm'"),
    (("evaluate", "CELLS", *on(label="one")), "has one class"),
    (("evaluate", "CELLS", *on(domains="one")), "leaves nothing to train on"),
    (("report", "."), "holds neither an annotator nor its evaluation"),
]


@pytest.mark.parametrize(("arguments", "says"), MISTAKES)
def test_mistakes_are_one_sentence_and_leave_nothing(there, arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "NAN" in arguments:
        adata = cells()
        adata.X[3, 5] = np.nan
        adata.write_h5ad(there / "nan.h5ad")
    given = [{"CELLS": there / "atlas.h5ad", "NAN": there / "nan.h5ad"}.get(a, a) for a in arguments]
    assert run("annotate", *given) == 2
    said = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and says in said[0], said
    assert not [path for path in tmp_path.rglob("*") if path.name not in ("annotator", "evaluation", "evaluation.json")]


def test_missing_genes_and_other_models_are_told_in_one_sentence(there, fitted, tmp_path, capsys):
    cells()[:, :50].copy().write_h5ad(tmp_path / "fewer.h5ad")
    for arguments, says in (
        (("predict", fitted, tmp_path / "fewer.h5ad", "--out", tmp_path / "a.h5ad"), "10 of the 60 genes"),
        (("predict", fitted, tmp_path / "gone.h5ad", "--out", tmp_path / "a.h5ad"), "There is no file"),
        (("predict", fitted, there / "atlas.h5ad", "--out", tmp_path / "a.npy"), "must name an .h5ad or a .csv"),
        (("predict", there, there / "atlas.h5ad", "--out", tmp_path / "a.h5ad"), "model.json"),
    ):
        assert run("annotate", *arguments, "--quiet") == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("error: ") and says in said and len(said.splitlines()) == 1, said
    for arguments, says in (
        (("fit", fitted / "run.toml", "--folder", tmp_path / "run"), "see `cellgap annotate fit`"),
        (("compare", fitted / "run.toml"), "."),
        (("generate", "sample", fitted, "--n", "5"), "FittedAnnotator, not a generator"),
    ):
        assert run(*arguments) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("error: ") and says in said and len(said.splitlines()) == 1, said
    assert [path.name for path in tmp_path.iterdir()] == ["fewer.h5ad"]


def test_whole_numbers_without_a_word_about_counts_are_asked_about(there, tmp_path, capsys):
    arguments = (
        "--label",
        "type",
        "--domains",
        "donor",
        "--out",
        tmp_path / "e",
        "--baseline",
        "knn",
        "--target",
        "d9",
    )
    assert run("annotate", "evaluate", there / "atlas.h5ad", *arguments) == 2
    assert "warning: X holds whole numbers: if these are raw counts, say so with --counts X" in capsys.readouterr().err
