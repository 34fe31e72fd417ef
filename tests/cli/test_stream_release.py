"""``cellgap stream release`` and what belongs to it, as a program: tables, refusals, kills and restarts."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellgap.cli._app import main
from cellgap.cli._stream_policy import EXAMPLE, read_policy
from cellgap.cli._stream_release import Desk
from cellgap.stream import donor_counts, donor_histograms, donor_means, verify

GENES = ["g0", "g2", "g5"]
DRUGS = ["vehicle", "drugA"]
EDGES = [0, 100, 200, 400, 800]
BUDGET = """\
[data]
donor = "donor"
condition = ["drug"]
[budget]
rho = 60
delta = 1e-6
steps = 5
journal = "journal"
[donors]
max_cells = 30
max_donors = 100
[released]
folder = "released"
"""
CELLS = """\
[statistic.cells]
kind = "sum"
of = "conditions"
features = ["vehicle", "drugA"]
l2 = 30
share = 0.4
"""
POLICY = (
    BUDGET
    + CELLS
    + """\
[statistic.expression]
kind = "mean"
of = "genes"
features = "genes.txt"
l2 = 30
share = 0.2
[statistic.top]
kind = "select"
from = "expression"
q = 2
[statistic.depth]
kind = "quantile"
of = "column"
column = "n_counts"
bins = [0, 100, 200, 400, 800]
quantiles = [0.5]
share = 0.4
"""
)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["stream", *(str(a) for a in arguments)])
    return int(ended.value.code or 0)


def write_plate(path: Path, donors: dict[str, int], seed: int = 0) -> Path:
    """Write a plate with so many cells of each donor."""
    rng = np.random.default_rng(seed)
    who = np.repeat(list(donors), list(donors.values()))
    scale = np.repeat(rng.gamma(4, 0.25, len(donors)), list(donors.values()))
    counts = rng.poisson(scale[:, None] * np.array([60, 5, 40, 30, 20, 80, 9, 3])).astype(np.float32)
    obs = pd.DataFrame(
        {"donor": who, "drug": rng.choice([*DRUGS, "other"], len(who)), "n_counts": counts.sum(axis=1)},
        index=[f"{path.stem}-{i}" for i in range(len(who))],
    )
    var = pd.DataFrame(index=[f"g{i}" for i in range(8)])
    anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=var).write_h5ad(path)
    return path


def many(plate: int, n: int = 60) -> dict[str, int]:
    return {f"SECRET{plate}x{i}": 3 + i % 5 for i in range(n)}


def prepare(folder: Path, policy: str = POLICY) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "genes.txt").write_text("\n".join(GENES))
    (folder / "policy.toml").write_text(policy)
    return folder / "policy.toml"


@pytest.fixture(scope="module")
def plates(tmp_path_factory) -> list[Path]:
    """Four plates with many donors, each on one plate."""
    there = tmp_path_factory.mktemp("plates")
    return [write_plate(there / f"plate{i}.h5ad", many(i), seed=i) for i in range(1, 5)]


@pytest.fixture(scope="module")
def released(plates, tmp_path_factory) -> Path:
    """Folder of a policy of which three plates are released; only read."""
    policy = prepare(tmp_path_factory.mktemp("desk"))
    assert run("release", policy, *plates[:3], "--quiet") == 0
    return policy.parent


@pytest.fixture
def desk(released, tmp_path) -> Path:
    """A copy of it to work on."""
    shutil.copytree(released, tmp_path / "desk")
    return tmp_path / "desk"


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "released").iterdir())}


def journal(folder: Path) -> bytes:
    """What was ever spent and drawn: all lines but those that say that it was opened."""
    text = b"".join(p.read_bytes() for p in sorted((folder / "journal").glob("*.jsonl")))
    return b"\n".join(line for line in text.splitlines() if b'"OPEN"' not in line)


def steps(folder: Path) -> dict[str, int]:
    return {name: s.published for name, s in verify(folder / "journal").statistics.items()}


def plain(text: str) -> str:
    """One sentence, and nothing of the data in it."""
    said = text.strip()
    assert said.startswith("error: ") and len(said.splitlines()) == 1 and "Traceback" not in said, said
    assert "SECRET" not in said
    return said


def truth(parts: list[Path], **options) -> dict[str, np.ndarray]:
    """What would be released without noise, clipping and cuts, at the last step."""
    cells = [anndata.read_h5ad(path) for path in parts]
    counts = np.sum(list(donor_counts(cells, "donor", ["drug"], DRUGS).values()), axis=0)
    means = donor_means(cells, "donor", GENES)
    histogram = np.sum(list(donor_histograms(cells, "donor", "n_counts", EDGES).values()), axis=0)
    return {
        "counts": counts, "sums": np.sum(list(means.values()), axis=0), "donors": np.array(len(means)),
        "means": np.mean(list(means.values()), axis=0), "histogram": histogram,
    }  # fmt: skip


def test_the_example_is_a_policy(tmp_path, capsys):
    assert run("release", "--example") == 0
    said = capsys.readouterr()
    assert said.out == EXAMPLE and not said.err
    (tmp_path / "policy.toml").write_text(said.out)
    assert run("budget", tmp_path / "policy.toml") == 2
    assert "genes.txt" in plain(capsys.readouterr().err)
    (tmp_path / "genes.txt").write_text("ACTB\nGAPDH\n\n" + "\n".join(f"g{i}" for i in range(10)))
    policy = read_policy(tmp_path / "policy.toml")
    assert [asked.name for asked in policy.statistics] == ["cells", "expression", "depth", "top"]
    assert policy.steps == 12 and policy.pooled and policy.layer is None and policy.journal == tmp_path / "journal"
    assert run("budget", tmp_path / "policy.toml") == 0
    said = capsys.readouterr().out
    assert "0/12" in said and "expression" in said and "no anchor" in said and "one donor, with all its cells" in said


def test_releases_are_near_the_truth(released, plates):
    """With so much budget; within bounds that hold for all steps together with 95 %."""
    document = json.loads((released / "released" / "releases.json").read_text())
    assert document["budget"]["rho"] == 60 and document["budget"]["rho_left"] == pytest.approx(0, abs=1e-9)
    assert document["budget"]["steps"] == 5 and document["budget"]["safe"] is True
    assert set(document["statistics"]) == {"cells", "expression", "depth"}
    for t in (1, 2, 3):
        true = truth(plates[:t])
        cells = document["statistics"]["cells"][t - 1]
        # Truncation to the lattice takes less than l2 / 1024 of each donor.
        lattice = true["donors"] * 30 / 1024
        slack = 1.5 * cells["bound"] + lattice
        assert cells["features"] == DRUGS and cells["t"] == t and cells["unit"] == "donor"
        assert np.abs(np.array(cells["values"]) - true["counts"]).max() < slack
        assert slack < 0.5 * true["counts"].min() or t == 1
        expression = document["statistics"]["expression"][t - 1]
        assert np.abs(np.array(expression["values"]) - true["sums"]).max() < 1.5 * expression["bound"] + lattice
        means = np.array([expression["extra"]["means_low"], expression["extra"]["means_high"]])
        assert (means[0] - 0.5 < true["means"]).all() and (true["means"] < means[1] + 0.5).all()
    depth = document["statistics"]["depth"][2]
    assert 0 <= depth["values"][0] <= 800
    edges, below = np.array(EDGES), np.cumsum(truth(plates[:3])["histogram"]) / truth(plates[:3])["donors"]
    low, high = depth["extra"]["low"][0], depth["extra"]["high"][0]
    assert low <= depth["values"][0] <= high
    assert low <= edges[1:][np.searchsorted(below, 0.5)] and edges[:-1][np.searchsorted(below, 0.5)] <= high


def test_tables_are_what_is_in_the_json(released):
    document = json.loads((released / "released" / "releases.json").read_text())["statistics"]
    cells = pd.read_csv(released / "released" / "cells.csv")
    assert cells["step"].tolist() == [1, 1, 2, 2, 3, 3] and cells.columns[0] == "step"
    values = [v for release in document["cells"] for v in release["values"]]
    assert np.isclose(cells.select_dtypes("number").drop(columns="step").iloc[:, 0], values).all()
    top = pd.read_csv(released / "released" / "top.csv")
    assert top["rank"].tolist() == [1, 2] * 3 and set(top["feature"]) <= set(GENES)
    best = [GENES[i] for release in document["expression"] for i in np.argsort(-np.array(release["values"]))[:2]]
    assert top["feature"].tolist() == best
    assert set(tables(released)) >= {"cells.csv", "expression.csv", "depth.csv", "top.csv", "releases.json"}
    for text in tables(released).values():
        assert b"SECRET" not in text


def test_the_command_says_what_it_did(plates, tmp_path, capsys):
    policy = prepare(tmp_path)
    assert run("release", policy, *plates[:2]) == 0
    said = capsys.readouterr()
    assert "released now: plate1.h5ad, plate2.h5ad" in said.out and "as sensitive as the cells" in said.out
    assert "step 2 of 5, plate2.h5ad: depth" in said.err and "SECRET" not in said.out + said.err
    assert "2/5" in said.out


def test_again_is_nothing_new(desk, plates, capsys):
    before, lines = tables(desk), journal(desk)
    assert run("release", desk / "policy.toml", *plates[:3]) == 0
    assert "released now: nothing new" in capsys.readouterr().out
    assert tables(desk) == before and journal(desk) == lines
    # A part of them, in another order, from another folder: known by name.
    moved = desk / "moved"
    moved.mkdir()
    shutil.copy(plates[1], moved)
    assert run("release", desk / "policy.toml", moved / plates[1].name, plates[0], "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert tables(desk) == before and journal(desk) == lines


def test_going_on_with_more_plates(desk, plates, capsys):
    before = json.loads((desk / "released" / "releases.json").read_text())["statistics"]
    assert run("release", desk / "policy.toml", plates[3]) == 0
    assert "released now: plate4.h5ad" in capsys.readouterr().out
    after = json.loads((desk / "released" / "releases.json").read_text())["statistics"]
    for name, releases in before.items():
        assert after[name][:3] == releases and len(after[name]) == 4
    assert steps(desk) == {"cells": 4, "expression": 4, "depth": 4}


def test_tables_can_be_made_again_from_the_journal(desk, plates):
    before = tables(desk)
    shutil.rmtree(desk / "released")
    assert run("release", desk / "policy.toml", plates[0], "--quiet") == 0
    assert tables(desk) == before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("steps = 5\n", "", "needs 'steps'"),
        ('journal = "journal"\n', "", "needs 'journal'"),
        ("max_cells = 30\n", "", "needs 'max_cells'"),
        ("max_donors = 100\n", "", "needs 'max_donors'"),
        ('features = "genes.txt"\n', "", "needs 'features' and 'l2'"),
        ("l2 = 30\nshare = 0.2", "share = 0.2", "needs 'features' and 'l2'"),
        ('features = ["vehicle", "drugA"]', "features = []", "needs features"),
        ("bins = [0, 100, 200, 400, 800]\n", "", "needs 'bins'"),
        ("bins = [0, 100, 200, 400, 800]", "bins = [0, 100, 50]", "increasing edges"),
        ("bins = [0, 100, 200, 400, 800]", "bins = 8", "increasing edges"),
        ('column = "n_counts"\n', "", "needs 'column'"),
        ('donor = "donor"\n', "", "needs 'donor'"),
        ('features = "genes.txt"', 'features = "no.txt"', "there is no file"),
        ('features = ["vehicle", "drugA"]', 'features = ["vehicle", "vehicle"]', "a name twice"),
        ('features = ["vehicle", "drugA"]', "features = [1, 2]", "list of names"),
        ("max_cells = 30", "max_cell = 30", "did you mean 'max_cells'"),
        ("[released]", "[relased]", "did you mean 'released'"),
        ("q = 2", "p = 2", "no key 'p'"),
        ("q = 2", "q = 4", "q is more than the features"),
        ("q = 2", "q = 0", "whole number of 1 or more"),
        ('from = "expression"', 'from = "expresion"', "names no sum or mean"),
        ('from = "expression"', 'from = "depth"', "names no sum or mean"),
        ("q = 2", "q = 2\nshare = 0.1", "it costs nothing"),
        ('kind = "sum"', 'kind = "total"', "kind is one of"),
        ('of = "genes"', 'of = "gene"', "of is 'conditions' or 'genes'"),
        ('condition = ["drug"]\n', "", "names no condition"),
        ("steps = 5", "steps = 0", "whole number of 1 or more"),
        ("steps = 5", "steps = true", "whole number of 1 or more"),
        ("steps = 5", 'steps = 5\nunit = "cell"', "is for the library"),
        ("steps = 5", 'steps = 5\nunit = "person"', "unit is one of"),
        ("rho = 60", "", "rho"),
        ("rho = 60", "rho = -1", "rho"),
        ("rho = 60", 'rho = "much"', "rho"),
        ("delta = 1e-6", "delta = 2.0", "delta"),
        ("max_cells = 30", "max_cells = 30\nmax_steps = 2", "does not belong to rule"),
        ("max_cells = 30", 'max_cells = 30\nrule = "each_plate"', "needs 'max_steps'"),
        ("max_cells = 30", 'max_cells = 30\nrule = "each_plate"\nmax_steps = 2\nclose_after = 2', "does not belong"),
        ("max_cells = 30", 'max_cells = 30\nrule = "open"', "rule is"),
        ("l2 = 30\nshare = 0.4", "l2 = -30\nshare = 0.4", "l2"),
        ("l2 = 30\nshare = 0.4", 'l2 = "thirty"\nshare = 0.4', "l2"),
        ("l2 = 30\nshare = 0.4", "l2 = 30\nlattice = 99\nshare = 0.4", "lattice"),
        ("l2 = 30\nshare = 0.4", "l2 = 30", "share"),
        ("l2 = 30\nshare = 0.4", "l2 = 30\nshare = 0.4\nrho = 1", "share"),
        ("l2 = 30\nshare = 0.4", 'l2 = 30\nshare = "all"', "share"),
        ("l2 = 30\nshare = 0.4", 'l2 = 30\nshare = 0.4\nmechanism = "magic"', "mechanism is one of"),
        ("l2 = 30\nshare = 0.4", 'l2 = 30\nshare = 0.4\nvalues = "shares"', "shares"),
        ("quantiles = [0.5]", "quantiles = [1.5]", "quantile"),
        ("quantiles = [0.5]", 'quantiles = "half"', "quantile"),
        ("quantiles = [0.5]", 'quantiles = [0.5]\nvalues = "median"', "median"),
        ("q = 2", "q = 2\nvalues = 1", "nothing else"),
        ("l2 = 30\nshare = 0.2", 'l2 = 30\nshare = 0.2\nvalues = "cells"', "does not belong"),
        ("quantiles = [0.5]", 'mechanism = "tree"', "does not belong"),
        ("[statistic.cells]", '[statistic."a/b"]', "a statistic's name"),
        ("[statistic.cells]", "[statistic.Depth]", "in case alone"),
        ("[data]", "[data", "TOML|toml|cannot be read"),
        ("rho = 60", "rho = 60\nepsilon = 1", "one of"),
        (POLICY[POLICY.index("[statistic.cells]") :], "", "has no statistic"),
        ("[statistic.cells]", "[data.x]\n[statistic.cells]", "no key 'x'"),
        ("[released]\n", "[released]\nstatistic = 1\n", "no key 'statistic'"),
        ('donor = "donor"', "donor = 3", "donor"),
        ('donor = "donor"', 'donor = "donor"\ntarget_sum = "median"', "all cells"),
    ],
)
def test_policies_are_refused(old, new, says, plates, tmp_path, capsys):
    import re

    assert POLICY.count(old) >= 1
    policy = prepare(tmp_path, POLICY.replace(old, new, 1))
    assert run("release", policy, plates[0]) == 2
    said = plain(capsys.readouterr().err)
    assert re.search(says, said), said
    assert not (tmp_path / "released").exists()
    if (tmp_path / "journal").exists():
        assert not any(steps(tmp_path).values())
