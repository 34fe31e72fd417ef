"""``cellgap dynamics`` as a program."""

import json
import os
import re
import shutil
import signal
import tomllib
from contextlib import contextmanager
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import cellgap.train._fit as loop
from cellgap.cli._app import main
from cellgap.dynamics import hill_network

MODEL = """
[model]
members = 2
null = 1
hidden = 4
penalty = { kind = "GroupLasso", strength = 0.003 }
[model.training]
judge_every = 20
loop = { n_steps = 60, chunk = 20, valid_every = 20, checkpoint_every = 20 }
[run]
folder = "law"
"""
TABLE = (
    """
[data]
path = "table.csv"
[trajectories]
labels = ["donor"]
[split]
test = { donor = ["d2"] }
"""
    + MODEL
)
CELLS = """
[data]
path = "cells.h5ad"
[design]
time = "pseudotime"
context = ["lineage"]
donor = "donor"
counts = "X"
[split]
test = { donor = "d2" }
""" + MODEL.replace("members", 'inputs = ["lineage"]\nmembers').replace("[run]", "[model.cells]\nn_bins = 6\n[run]")
SYSTEM = hill_network(dim=5, seed=1)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["dynamics", *(str(a) for a in arguments)])
    return int(ended.value.code or 0)


def write_cells(path: Path) -> None:
    rng, values, obs = np.random.default_rng(0), [], []
    for lineage, start in zip("ab", SYSTEM.draw(rng, 2, "in"), strict=True):
        for donor in ("d1", "d2", "d3"):
            times = np.sort(rng.uniform(0, 2, 40))
            state = SYSTEM.solve(np.maximum(start + 0.05 * rng.normal(size=5), 0)[None], times, substeps=4)[0]
            values.append(rng.poisson(np.maximum(state, 0) * 50 + 1))
            obs.append(pd.DataFrame({"pseudotime": times, "lineage": lineage, "donor": donor}))
    table = pd.concat(obs, ignore_index=True)
    table.index = table.index.astype(str)
    var = pd.DataFrame(index=list(SYSTEM.variables))
    anndata.AnnData(np.concatenate(values).astype("float32"), obs=table, var=var).write_h5ad(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    there = tmp_path_factory.mktemp("dynamics")
    table = SYSTEM.simulate(8, np.linspace(0, 2, 8), seed=0).to_frame().drop(columns=["system", "starts", "held"])
    table.insert(2, "donor", np.where(table["trajectory"].astype(int) < 6, "d1", "d2"))
    table.to_csv(there / "table.csv", index=False)
    (there / "run.toml").write_text(TABLE)
    i, j = np.nonzero(SYSTEM.adjacency)
    names = np.array(SYSTEM.variables)
    pd.DataFrame({"regulator": names[i], "target": names[j]}).to_csv(there / "truth.csv", index=False)
    SYSTEM.network.astype(int).to_csv(there / "square.csv")
    assert run("fit", there / "run.toml", "--quiet") == 0
    return there


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    there = tmp_path_factory.mktemp("cells")
    write_cells(there / "cells.h5ad")
    (there / "run.toml").write_text(CELLS)
    (there / "notime.toml").write_text(CELLS.replace('time = "pseudotime"', ""))
    return there


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "model.npz") as found:
        return {name: found[name] for name in found.files}


def assert_same(one: Path, two: Path) -> None:
    found, expected = arrays(one), arrays(two)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_the_program_forecasts_and_says_what_is_wrong(folder, cellgap, tmp_path):
    """In a process of its own: what a user types."""
    done = cellgap("dynamics", "fit", folder / "run.toml")
    assert done.returncode == 0 and "holds this run, finished" in done.stderr
    assert "training error" in done.stdout and "forecast gap out of distribution" in done.stdout
    assert "next: cellgap dynamics report" in done.stdout
    done = cellgap("dynamics", "forecast", folder / "law", "--hold", "g9=0")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "the law has no variable 'g9'" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_the_example_is_a_run_file(tmp_path, capsys):
    from cellgap.cli._dynamics_run import read_dynamics_file

    assert run("fit", "--example") == 0
    (tmp_path / "run.toml").write_text(capsys.readouterr().out)
    (tmp_path / "cells.h5ad").touch()
    read = read_dynamics_file(tmp_path / "run.toml")
    assert read.test == {"donor": ["d2"]} and read.valid == {} and read.columns is None
    assert read.model["penalty"] == {"kind": "GroupLasso", "strength": 0.003, "adaptive": False}
    assert read.model["training"]["loop"]["n_steps"] == 1500 and read.model["cells"]["clock"] == "rescaled"
    read = read_dynamics_file(tmp_path / "run.toml", ['model.cells.space={kind="PCA", dim=3}', "run.seed=4"])
    assert read.model["cells"]["space"]["kind"] == "PCA" and read.seed == 4


def test_settings_are_kept_and_others_refused(folder, capsys):
    kept = tomllib.loads((folder / "law" / "run.toml").read_text())
    assert kept["split"] == {"test": {"donor": ["d2"]}} and kept["model"]["kind"] == "NeuralLaw"
    assert kept["trajectories"] == {"trajectory": "trajectory", "time": "time", "labels": ["donor"], "inputs": []}
    assert run("fit", folder / "run.toml", "--set", "run.seed=1") == 2
    assert "holds another run, with run.seed = 0 instead of 1" in capsys.readouterr().err


class Killed(Exception):
    """A process that ends at once."""


@contextmanager
def at_step(monkeypatch, step, what):
    """Do something after the chunk that reaches a step."""

    @contextmanager
    def bar(*args, **kwargs):
        def show(reached, row, seconds):
            if reached == step:
                what()

        yield show

    with monkeypatch.context() as patch:
        patch.setattr(loop, "progress_bar", bar)
        yield


def test_ctrl_c_keeps_the_work(folder, tmp_path, monkeypatch, capsys):
    again = ("fit", folder / "run.toml", "--folder", tmp_path / "law")
    with at_step(monkeypatch, 20, lambda: os.kill(os.getpid(), signal.SIGINT)):
        assert run(*again) == 130
    assert "the work is kept" in capsys.readouterr().err and not (tmp_path / "law" / "model.json").exists()
    assert run("report", tmp_path / "law") == 2
    assert "is not finished" in capsys.readouterr().err
    assert run(*again, "--set", "run.seed=9") == 2
    assert "holds another run" in capsys.readouterr().err
    assert run(*again, "--quiet") == 0
    assert_same(tmp_path / "law", folder / "law")


def test_killed_and_continued_is_as_never_killed(folder, tmp_path, monkeypatch):
    def kill():
        raise Killed

    again = ["dynamics", "fit", str(folder / "run.toml"), "--folder", str(tmp_path / "law"), "--quiet"]
    with at_step(monkeypatch, 40, kill), pytest.raises(Killed):
        main(again)
    assert (tmp_path / "law" / "checkpoint.eqx").exists() and not (tmp_path / "law" / "model.npz").exists()
    assert run(*again[1:]) == 0
    assert_same(tmp_path / "law", folder / "law")


def test_forecasts_of_trajectories(folder, tmp_path, capsys):
    from cellgap.dynamics import read_trajectories

    law, out = folder / "law", tmp_path / "new" / "forecast.csv"
    options = ("--times", "0,0.5,1", "--hold", "g1=0.25", "--dose", "g2=0.5", "--cut", "g0:*", "--out", out)
    assert run("forecast", law, *options) == 0
    assert "2 trajectories at 3 times" in capsys.readouterr().out
    read = read_trajectories(out, labels=["donor"])
    assert read.names == ("6", "7") and read.variables == SYSTEM.variables and set(read.about["donor"]) == {"d2"}
    np.testing.assert_allclose(read.values[:, :, 1], 0.25, atol=1e-6)
    # Another table, of starts only; all its trajectories.
    table = pd.read_csv(folder / "table.csv")
    table[table["time"] == 0].to_csv(tmp_path / "starts.csv", index=False)
    assert run("forecast", law, tmp_path / "starts.csv", "--out", tmp_path / "all.tsv") == 0
    found = pd.read_csv(tmp_path / "all.tsv", sep="\t")
    assert list(found.columns) == ["trajectory", "time", *SYSTEM.variables] and len(found) == 8 * 8
    first = found[found["time"] == 0][list(SYSTEM.variables)]
    np.testing.assert_allclose(first, table[table["time"] == 0][list(SYSTEM.variables)], atol=1e-6)


def test_the_network_with_and_without_truth(folder, tmp_path, capsys):
    law = folder / "law"
    assert run("network", law, "--n", "4", "--out", tmp_path / "network.csv") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["regulator", "target", "score", "sign", "strength", "frequency", "p_value", "kept"]
    assert len(said) == 7 and len(pd.read_csv(tmp_path / "network.csv")) == 20
    scores = []
    for name in ("truth.csv", "square.csv"):
        assert run("network", law, "--score", "groups", "--truth", folder / name, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert len(found["edges"]) == 20 and found["score"] == "groups"
        scores.append(found["recovery"])
    assert {"auroc", "tpr_kept", "shd_kept", "null_p_value"} <= set(scores[0])
    assert scores[1]["auroc"] >= 0 and scores[1]["density"] == pytest.approx(SYSTEM.adjacency.sum() / 20)
    assert run("network", law, "--truth", folder / "truth.csv", "--kept") == 0
    assert "auroc: " in capsys.readouterr().out


def test_knock_outs(folder, tmp_path, capsys):
    out = tmp_path / "screen.h5ad"
    assert run("knockout", folder / "law", "--genes", "all", "--n", "2", "--times", "0,1,2", "--out", out) == 0
    said = capsys.readouterr().out
    assert "time_to_effect" in said and "3 more" in said and "5 knock-outs at 3 times" in said
    screen = anndata.read_h5ad(out)
    assert screen.shape == (15, 5) and set(screen.layers) >= {"course", "unperturbed"}
    assert list(screen.uns["knocked"].columns) == ["effect", "reached", "direct", "time_to_effect"]
    assert run("knockout", folder / "law", "--genes", "g3,g0", "--value", "1.5", "--out", out) == 0
    assert set(anndata.read_h5ad(out).obs["knocked"]) == {"g3", "g0"}


def test_a_path_and_the_page(folder, tmp_path, monkeypatch, capsys):
    there = tmp_path / "law"
    shutil.copytree(folder / "law", there)
    path = ("path", folder / "run.toml", "--folder", there, "--strengths", "1e-3,1e-1", "--regulators", "g0,g1")
    with at_step(monkeypatch, 20, lambda: os.kill(os.getpid(), signal.SIGINT)):
        assert run(*path, "--quiet") == 130
    assert not (there / "path.csv").exists()
    assert run(*path) == 0
    said = capsys.readouterr().out
    assert "lowest error of validation trajectories: strength 0.1" in said or "strength 0.001" in said
    table = pd.read_csv(there / "path.csv")
    assert (
        table["strength"].tolist() == [1e-3, 1e-1] and table[["train", "valid", "test", "spurious"]].notna().all().all()
    )
    assert run(*path[:-4], "--strengths", "1e-3,1e-2") == 2
    assert "holds another run, with path.strengths" in capsys.readouterr().err
    assert run("report", there) == 0
    assert "kernel smooth" in capsys.readouterr().out
    page = (there / "report.html").read_text()
    for text in ("2 held-out trajectories", "skill_mean", "along the strength of the penalty", "Strongest edges",
                 "where one is held at 0", "forecast gap out of distribution", "model.penalty.kind"):  # fmt: skip
        assert text in page, text
    assert "tried with other settings" not in page and page.count("<svg") >= 8
    settings = (there / "path" / "run.toml").read_text()
    (there / "path" / "run.toml").write_text(settings.replace("members = 2", "members = 3"))
    assert run("report", there, "--out", tmp_path / "page.html") == 0
    assert "tried with other settings: model.members = 3 instead of 2" in (tmp_path / "page.html").read_text()


def test_cells(cells, tmp_path, capsys):
    """The space is fitted, and the law learnt, without the cells that are held out."""
    from cellgap.dynamics import FittedLaw
    from cellgap.storage import load

    assert run("fit", cells / "run.toml", "--quiet") == 0
    law = cells / "law"
    fitted = load(law)
    assert isinstance(fitted, FittedLaw) and fitted.space is not None
    assert set(fitted.visited.start_about) <= {"a/d1", "a/d3", "b/d1", "b/d3"}
    whole = anndata.read_h5ad(cells / "cells.h5ad")
    changed = whole.copy()
    changed.X[(whole.obs["donor"] == "d2").to_numpy()] = 7
    changed.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "run.toml").write_text(CELLS)
    assert run("fit", tmp_path / "run.toml", "--quiet") == 0
    assert_same(tmp_path / "law", law)
    assert run("forecast", law, "--times", "0,0.5", "--hold", "g1=0", "--out", tmp_path / "f.h5ad") == 0
    assert "80 cells at 2 times" in capsys.readouterr().out
    moved = anndata.read_h5ad(tmp_path / "f.h5ad")
    assert moved.shape == (160, 5) and set(moved.obs["donor"]) == {"d2"} and set(moved.obs["time"]) == {0.0, 0.5}
    assert run("forecast", law, cells / "cells.h5ad", "--times", "1", "--out", tmp_path / "f.h5ad") == 0
    assert anndata.read_h5ad(tmp_path / "f.h5ad").n_obs == 240
    assert run("forecast", law, "--out", tmp_path / "f.csv") == 0
    assert set(pd.read_csv(tmp_path / "f.csv")["trajectory"]) == {"a/d2", "b/d2"}
    assert run("report", law) == 0
    page = (law / "report.html").read_text()
    assert "2 held-out trajectories" in page and "single cells" in page and "By lineage" in page


def test_maps_and_laws_are_told_apart(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(folder / "law")])
    assert ended.value.code == 2 and "holds a law, not a map" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fit",), "fit needs a run file"),
        (("fit", "{there}/no.toml"), "There is no file"),
        (("fit", "{toml}", "--set", "data.path=no.csv"), "there is no file"),
        (("fit", "{toml}", "--set", "data.path=no.xlsx"), r"a table \(.csv"),
        (("fit", "{toml}", "--set", "design.time=age"), r"\[design\] does not belong to table.csv"),
        (("fit", "{toml}", "--set", 'split.test={age="3"}'), "'age' is no label of a trajectory"),
        (("fit", "{toml}", "--folder", "{new}", "--set", 'split.test={donor="d7"}'), "no trajectory has donor = 'd7'"),
        (("fit", "{toml}", "--folder", "{new}", "--set", 'split.valid={donor="d2"}'), "labels overlap"),
        (("fit", "{toml}", "--folder", "{new}", "--set", 'split.test={donor=["d1", "d2"]}'), "holds everything out"),
        (("fit", "{toml}", "--folder", "{new}", "--set", 'model.inputs=["donor"]'), "told 'donor', and no training"),
        (("fit", "{toml}", "--set", 'model.inputs=["age"]'), "'age' is no label"),
        (("fit", "{toml}", "--set", "split.kind=test"), "no key 'kind'"),
        (("fit", "{toml}", "--set", "model.penalty.kind=GroupLaso"), "did you mean 'GroupLasso'"),
        (("fit", "{toml}", "--set", "model.hiden=3"), "did you mean 'hidden'"),
        (("fit", "{toml}", "--folder", "{new}", "--set", 'trajectories.labels=["donor", "age"]'), "no column 'age'"),
        (("fit", "{toml}", "--set", "run.seed=-1"), "whole number"),
        (("fit", "{cells}", "--set", "design.time="), "time"),
        (("fit", "{notime}"), "names no time"),
        (("fit", "{cells}", "--folder", "{new}", "--set", 'split.test={age="3"}'), "there is no label 'age'"),
        (("fit", "{cells}", "--set", 'model.inputs=["age"]'), r"name it in \[design\] context"),
        (("forecast", "{new}"), "is not the folder of a law"),
        (("forecast", "{law}", "--hold", "g1"), "takes a variable and a number"),
        (("forecast", "{law}", "--hold", "g1=low"), "takes a variable and a number"),
        (("forecast", "{law}", "--hold", "g9=0"), "no variable 'g9'"),
        (("forecast", "{law}", "--dose", "g1=-1"), "0 or more"),
        (("forecast", "{law}", "--cut", "g1"), "takes regulator:target"),
        (("forecast", "{law}", "--cut", "g1:g9"), "no variable 'g9'"),
        (("forecast", "{law}", "--times", "1,0"), "times ascend"),
        (("forecast", "{law}", "--times", "soon"), "--times takes numbers"),
        (("forecast", "{law}", "--out", "x.txt"), "--out must name a table"),
        (("forecast", "{law}", "{there}/cells.h5ad"), "from a table of trajectories, not from cells"),
        (("forecast", "{law}", "{there}/square.csv"), "no column 'trajectory'"),
        (("network", "{law}", "--truth", "{there}/table.csv"), "neither the columns regulator and target"),
        (("network", "{law}", "--out", "x.h5ad"), "--out must name a table"),
        (("knockout", "{law}", "--genes", "g9"), "no variable 'g9'"),
        (("knockout", "{law}", "--genes", "all", "--out", "x.csv"), "must name an .h5ad file"),
        (("path", "{toml}", "--strengths", "1,-1"), "numbers of 0 or more"),
        (("path", "{toml}", "--set", 'model.penalty={kind="NoPenalty"}'), "has no strength"),
        (("report", "{law}", "--genes", "g9"), "no variable 'g9'"),
        (("report", "{law}", "--data", "{there}/no.csv"), "are not there"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(folder, cells, tmp_path, arguments, says, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {
        "law": folder / "law", "toml": folder / "run.toml", "there": folder, "new": tmp_path / "new",
        "cells": cells / "run.toml", "notime": cells / "notime.toml",
    }  # fmt: skip
    assert run(*(str(a).format(**names) if "{" in a and "={" not in a else a for a in arguments)) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and re.search(says, said) and len(said.splitlines()) == 1, said
    assert not (tmp_path / "new" / "checkpoint.eqx").exists()
