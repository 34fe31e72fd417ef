"""``cellgap generate`` as a program."""

import json
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "generate"))

from small_atlas import atlas

from cellgap.cli._app import main

RUN = """
[data]
path = "atlas.h5ad"
[design]
context = ["type"]
donor = "donor"
counts = "X"
[split]
kind = "in_distribution"
test = 0.2
[model]
kind = "CFGen"
attributes = ["type", "donor"]
width = 16
n_blocks = 1
[model.space]
kind = "PCA"
dim = 5
[model.training]
loop = { n_steps = 60, chunk = 20, valid_every = 20 }
[run]
folder = "generator"
"""


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    there = tmp_path_factory.mktemp("generate")
    atlas().adata.write_h5ad(there / "atlas.h5ad")
    (there / "run.toml").write_text(RUN)
    assert run("generate", "fit", there / "run.toml", "--quiet") == 0
    return there


def test_the_program_fits_and_samples(folder, tmp_path):
    """In a process of its own: what a user types."""
    cellgap = [sys.executable, "-m", "cellgap", "generate"]
    done = subprocess.run([*cellgap, "fit", str(folder / "run.toml")], capture_output=True, text=True, check=True)
    assert "sampling gap" in done.stdout and "type (3 values), donor (2 values)" in done.stdout
    out = tmp_path / "cells.h5ad"
    options = ["--n", "50", "--with", "type=NK", "--guidance", "1.5", "--seed", "4", "--out", str(out)]
    done = subprocess.run([*cellgap, "sample", str(folder / "generator"), *options], capture_output=True, text=True)
    assert done.returncode == 0 and "50 cells" in done.stdout
    cells = anndata.read_h5ad(out)
    assert cells.shape == (50, 40) and (cells.obs["type"] == "NK").all() and cells.X.dtype == np.int32
    done = subprocess.run([*cellgap, "sample", str(folder / "generator"), "--n", "5", "--with", "type=K"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr and "'K' is not among" in done.stderr


def test_translate_and_augment(folder, tmp_path, capsys):
    there, data = folder / "generator", folder / "atlas.h5ad"
    assert run("generate", "translate", there, data, "--with", "donor=d1", "--out", tmp_path / "t.h5ad") == 0
    moved = anndata.read_h5ad(tmp_path / "t.h5ad")
    assert (moved.obs["donor"] == "d1").all() and list(moved.obs_names) == list(anndata.read_h5ad(data).obs_names)
    options = ("--label", "type", "--per-class", "210", "--out", tmp_path / "a.h5ad")
    assert run("generate", "augment", there, data, *options) == 0
    assert "30 generated cells below 600" in capsys.readouterr().out
    assert anndata.read_h5ad(tmp_path / "a.h5ad").obs["type"].value_counts().min() == 210


def test_calibrate_prints_a_table_and_json(folder, capsys):
    there = folder / "generator"
    assert run("generate", "calibrate", there) == 0
    assert "best: weight" in capsys.readouterr().out
    assert run("generate", "calibrate", there, folder / "atlas.h5ad", "--attribute", "donor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["cells"]) == {"d1", "d2"} and found["best"]["weight"] >= 1 and len(found["table"]) > 10


def test_the_example_is_a_run_file(folder, tmp_path, capsys):
    assert run("generate", "fit", "--example") == 0
    text = capsys.readouterr().out.replace("atlas.h5ad", str(folder / "atlas.h5ad"))
    (tmp_path / "run.toml").write_text(text)
    from cellgap.cli._run_file import read_run_file

    read = read_run_file(tmp_path / "run.toml")
    assert read.model["kind"] == "CFGen" and read.split["kind"] == "in_distribution"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fit",), "needs a run file"),
        (("sample", "{run}", "--n", "5", "--out", "x.csv"), "must name an .h5ad file"),
        (("sample", "{run}", "--n", "5", "--guidance", "much"), "number or"),
        (("sample", "{run}", "--n", "5", "--with", "type"), "name=value"),
        (("sample", "{data}", "--n", "5"), "model.json"),
        (("translate", "{run}", "{data}", "--with", "age=3"), "no attribute 'age'"),
        (("augment", "{run}", "{data}", "--label", "age", "--per-class", "5"), "needs an attribute"),
        (("calibrate", "{run}", "--attribute", "age"), "no attribute 'age'"),
        (("fit", "{toml}", "--set", 'model.kind="Gaussian"'), "."),
    ],
)
def test_mistakes_are_one_sentence(folder, arguments, says, capsys):
    import re

    names = {"run": folder / "generator", "data": folder / "atlas.h5ad", "toml": folder / "run.toml"}
    assert run("generate", *(str(a).format(**names) for a in arguments)) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and re.search(says, said) and len(said.splitlines()) == 1


def test_other_commands_say_that_it_is_no_map(folder, capsys):
    assert run("evaluate", folder / "generator") == 2
    assert "not a map" in capsys.readouterr().err


def test_the_report_compares_with_what_was_held_out(folder, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert run("generate", "report", folder / "generator", "--by", "donor", "--out", out) == 0
    said = capsys.readouterr()
    assert "energy_type" in said.out and "120 held-out cells" in said.err
    page = out.read_text()
    assert "Held-out and generated cells of every donor" in page and "sampling gap" in page
    assert run("generate", "report", folder / "generator", "--by", "age") == 2
    assert "--by is one of the attributes" in capsys.readouterr().err
