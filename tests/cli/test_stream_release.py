"""``cellgap stream release`` and what belongs to it, as a program: tables, refusals, kills and restarts."""

import json
import os
import random
import re
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
    assert POLICY.count(old) >= 1
    policy = prepare(tmp_path, POLICY.replace(old, new, 1))
    assert run("release", policy, plates[0]) == 2
    said = plain(capsys.readouterr().err)
    assert re.search(says, said), said
    assert not (tmp_path / "released").exists()
    if (tmp_path / "journal").exists():
        assert not any(steps(tmp_path).values())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"column": "donor"}, "obs has no column 'donor'"),
        ({"column": "drug"}, "obs has no column 'drug'"),
        ({"column": "n_counts"}, "obs has no column 'n_counts'"),
        ({"gene": "g2"}, "1 of 3 genes are not in the data, such as 'g2'"),
        ({"twice": True}, "genes of one name"),
        ({"donor": None}, "is empty for some cells"),
        ({"donor": ""}, "is empty for some cells"),
        ({"depth": np.nan}, "not finite"),
        ({"depth": "SECRET"}, "not a column of numbers"),
        ({"csc": True}, "stored by columns"),
        ({"noise": b"SECRET, and no file of cells"}, "bad.h5ad' is not an HDF5 file"),
        ({"noise": b""}, "is an empty file"),
        ({"noise": None}, "There is no file"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_plates_are_refused_before_anything_is_released(change, says, plates, tmp_path, capsys):
    """The first plate is good, and yet is not released: the second one has to be repaired first."""
    policy, bad = prepare(tmp_path), tmp_path / "bad.h5ad"
    adata = anndata.read_h5ad(plates[1])
    if "column" in change:
        del adata.obs[change["column"]]
    if "gene" in change:
        adata = adata[:, adata.var_names != change["gene"]].copy()
    if "twice" in change:
        adata.var_names = ["g0", "g0", *adata.var_names[2:]]
    if "donor" in change:
        adata.obs["donor"] = adata.obs["donor"].astype(object)
        adata.obs.loc[adata.obs_names[4], "donor"] = change["donor"]
    if "depth" in change:
        adata.obs["n_counts"] = [change["depth"]] * adata.n_obs
    if "csc" in change:
        adata.X = adata.X.tocsc()
    if "noise" not in change:
        adata.write_h5ad(bad)
    elif change["noise"] is not None:
        bad.write_bytes(change["noise"])
    assert run("release", policy, plates[0], bad, "--quiet") == 2
    said = plain(capsys.readouterr().err)
    assert says in said, said
    assert not any(steps(tmp_path).values()) and not (tmp_path / "released").exists()
    # Repaired, under the same name, it goes on.
    shutil.copy(plates[1], bad)
    assert run("release", policy, plates[0], bad, "--quiet") == 0
    assert set(steps(tmp_path).values()) == {2}


@pytest.mark.parametrize("value", [0.37, -41.0, np.nan])
def test_values_that_are_no_counts(value, plates, tmp_path, capsys):
    """Found when they are read: what was released before stays, and the repaired plate is finished."""
    policy, bad = prepare(tmp_path), tmp_path / "bad.h5ad"
    adata = anndata.read_h5ad(plates[1])
    adata.X[5, 3] = value
    adata.write_h5ad(bad)
    assert run("release", policy, plates[0], bad, "--quiet") == 2
    said = plain(capsys.readouterr().err)
    assert "not raw counts" in said and "0.37" not in said and "41" not in said
    assert steps(tmp_path)["expression"] <= 1
    drawn = verify(tmp_path / "journal").drawn
    shutil.copy(plates[1], bad)
    assert run("release", policy, plates[0], bad, "--quiet") == 0
    assert set(steps(tmp_path).values()) == {2}
    for name, before in drawn.items():
        for one, two in zip(before, verify(tmp_path / "journal").drawn[name], strict=False):
            np.testing.assert_array_equal(one, two)


def test_more_plates_than_steps(desk, plates, tmp_path, capsys):
    more = [write_plate(tmp_path / f"more{i}.h5ad", many(i, 4), seed=i) for i in (5, 6)]
    before, lines = tables(desk), journal(desk)
    assert run("release", desk / "policy.toml", plates[3], *more) == 2
    assert "6 plates are more than the 5 steps" in plain(capsys.readouterr().err)
    assert tables(desk) == before and journal(desk) == lines
    assert run("release", desk / "policy.toml", plates[3], more[0], "--quiet") == 0
    assert set(steps(desk).values()) == {5}
    assert run("release", desk / "policy.toml", more[1]) == 2
    assert "6 plates are more" in plain(capsys.readouterr().err)
    assert run("release", desk / "policy.toml", more[0], "--quiet") == 0
    assert verify(desk / "journal").spent <= 60


def test_two_plates_of_one_name(desk, plates, capsys):
    other = desk / "other"
    other.mkdir()
    shutil.copy(plates[3], other)
    lines = journal(desk)
    assert run("release", desk / "policy.toml", plates[3], other / plates[3].name) == 2
    assert "same file name" in plain(capsys.readouterr().err) and journal(desk) == lines


def test_no_plates_and_no_policy(released, tmp_path, capsys):
    assert run("release") == 2
    assert "needs a policy and plates" in plain(capsys.readouterr().err)
    assert run("release", released / "policy.toml") == 2
    assert "needs a policy and plates" in plain(capsys.readouterr().err)
    assert run("release", tmp_path / "no.toml", tmp_path / "plate.h5ad") == 2
    assert "There is no file" in plain(capsys.readouterr().err)


def test_shares_above_one_are_refused_and_nothing_more_is_spent(plates, tmp_path, capsys):
    policy = prepare(tmp_path, POLICY.replace("share = 0.2", "share = 0.7"))
    assert run("release", policy, plates[0]) == 2
    said = plain(capsys.readouterr().err)
    assert "[statistic.expression]" in said and "nothing was reserved" in said
    # All of a policy is reserved or nothing: with shares that fit, it goes on.
    assert not (tmp_path / "journal" / "journal.jsonl").exists() and not (tmp_path / "released").exists()
    assert run("release", prepare(tmp_path), plates[0], "--quiet") == 0
    assert set(steps(tmp_path)) == {"cells", "expression", "depth"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("rho = 60", "rho = 61", "a total is set once"),
        ("delta = 1e-6", "delta = 1e-7", "a total is set once"),
        ("rho = 60", 'rho = 60\nunit = "donor_plate"', 'needs .donors. rule = "each_plate"'),
        ("l2 = 30\nshare = 0.4", "l2 = 31\nshare = 0.4", "another configuration"),
        ("share = 0.2", "share = 0.1", "another configuration"),
        ("steps = 5", "steps = 6", "another configuration"),
        ("max_donors = 100", "max_donors = 101", "another configuration"),
        ("max_cells = 30", 'max_cells = 30\nrule = "each_plate"\nmax_steps = 2', "and was 'closed' when"),
        ("max_cells = 30", "max_cells = 31", "when the journal was begun"),
        ("max_cells = 30", "max_cells = 30\nclose_after = 2", "when the journal was begun"),
        ("quantiles = [0.5]", "quantiles = [0.25]", "another configuration"),
        ("bins = [0, 100,", "bins = [0, 101,", "another configuration"),
        ('features = ["vehicle", "drugA"]', 'features = ["drugA", "vehicle"]', "another configuration"),
        (CELLS, CELLS + CELLS.replace("statistic.cells", "statistic.more"), "nothing was reserved"),
    ],
)  # fmt: skip
def test_a_changed_policy_is_refused(old, new, says, desk, plates, capsys):
    before, lines = tables(desk), journal(desk)
    prepare(desk, POLICY.replace(old, new, 1))
    assert run("release", desk / "policy.toml", plates[3]) == 2
    assert re.search(says, plain(capsys.readouterr().err))
    assert tables(desk) == before and journal(desk) == lines


def test_a_selection_that_is_read_off_may_be_added_later(desk, plates):
    lines = journal(desk)
    prepare(desk, POLICY + '[statistic.first]\nkind = "select"\nfrom = "cells"\n')
    assert run("release", desk / "policy.toml", plates[0], "--quiet") == 0
    assert journal(desk) == lines
    assert pd.read_csv(desk / "released" / "first.csv")["rank"].tolist() == [1, 1, 1]


def test_too_many_donors_on_a_plate(plates, tmp_path, capsys):
    policy = prepare(tmp_path, POLICY.replace("max_donors = 100", "max_donors = 8"))
    assert run("release", policy, plates[0], "--quiet") == 2
    said = plain(capsys.readouterr().err)
    assert "max_donors=8" in said and "60" not in said and not any(steps(tmp_path).values())


def test_a_damaged_list_of_plates(desk, plates, capsys):
    (desk / "journal" / "plates.json").write_text("[")
    assert run("release", desk / "policy.toml", plates[3]) == 2
    assert "is damaged" in plain(capsys.readouterr().err)
    (desk / "journal" / "plates.json").unlink()
    assert run("release", desk / "policy.toml", plates[3]) == 2
    assert "fewer plates than were released" in plain(capsys.readouterr().err)


def cells_only(extra: str = "", *, budget: str = BUDGET) -> str:
    return budget.replace("max_donors = 100", f"max_donors = 100\n{extra}").replace("rho = 60", "rho = 2e6") + CELLS


def means_of(policy: Path, *plates: Path) -> list[np.ndarray]:
    """Return what entered until each step: so little noise that sums can be read off, but for the lattice."""
    assert run("release", policy, *plates, "--quiet") == 0
    document = json.loads((policy.parent / "released" / "releases.json").read_text())
    return [np.array(release["values"]) for release in document["statistics"]["cells"]]


def counted(*parts: Path, donor: str | None = None) -> np.ndarray:
    found = donor_counts([anndata.read_h5ad(p) for p in parts], "donor", ["drug"], DRUGS)
    return sum((v for who, v in found.items() if donor in (None, who)), np.zeros(2))


NEAR = {"atol": 0.3}


@pytest.fixture(scope="module")
def crossed(tmp_path_factory) -> list[Path]:
    """A donor "b" on all three plates; "a", "c" and "d" on one each."""
    there = tmp_path_factory.mktemp("crossed")
    cells = [{"a": 6, "b": 9}, {"b": 12, "c": 5}, {"b": 7, "d": 4}]
    return [write_plate(there / f"p{i}.h5ad", donors, seed=20 + i) for i, donors in enumerate(cells)]


def test_donors_are_pooled_until_they_are_closed(crossed, tmp_path):
    """At the last step of all, those that are still open are closed too."""
    one, two, three = crossed
    policy = prepare(tmp_path, cells_only("close_after = 2").replace("max_cells = 30", "max_cells = 1000"))
    first, second, third = means_of(policy, *crossed)
    np.testing.assert_allclose(first, 0, **NEAR)
    both = counted(one, donor="a") + counted(one, two, donor="b")
    np.testing.assert_allclose(second, both, **NEAR)
    # "b" comes back on the third plate and is left out; "d" is still open.
    np.testing.assert_allclose(third, both + counted(two, donor="c"), **NEAR)
    policy = prepare(tmp_path / "short", policy.read_text().replace("steps = 5", "steps = 3"))
    np.testing.assert_allclose(
        means_of(policy, *crossed)[2], both + counted(two, donor="c") + counted(three, donor="d"), **NEAR
    )


def test_the_mean_of_a_pooled_donor_is_over_all_its_cells(crossed, tmp_path):
    extra = CELLS.replace("cells", "expression").replace('"sum"', '"mean"').replace('"conditions"', '"genes"')
    extra = extra.replace('["vehicle", "drugA"]', '"genes.txt"')
    policy = (
        cells_only("close_after = 2").replace("max_cells = 30", "max_cells = 1000").replace("steps = 5", "steps = 3")
    )
    policy = prepare(tmp_path, policy + extra)
    means_of(policy, *crossed)
    one, two, _ = (anndata.read_h5ad(path) for path in crossed)
    pooled = donor_means([one, two], "donor", GENES)
    expected = (pooled["a"] + pooled["b"]) / 2
    document = json.loads((tmp_path / "released" / "releases.json").read_text())["statistics"]["expression"]
    np.testing.assert_allclose(document[1]["extra"]["means"], expected, atol=0.1)
    assert np.abs(donor_means([one], "donor", GENES)["b"] - pooled["b"]).max() > 0.01


def test_closed_after_one_plate(crossed, tmp_path):
    """A donor that comes back is left out: its first plate is what counts."""
    one, two, three = crossed
    first, second, third = means_of(prepare(tmp_path, cells_only()), *crossed)
    np.testing.assert_allclose(first, counted(one), **NEAR)
    np.testing.assert_allclose(second, counted(one) + counted(two, donor="c"), **NEAR)
    np.testing.assert_allclose(third, second + counted(three, donor="d"), atol=0.6)


@pytest.mark.parametrize(("apart", "enters"), [(1, (True, True, False)), (2, (True, False, True))])
def test_an_entry_a_plate(apart, enters, crossed, tmp_path):
    text = cells_only(f'rule = "each_plate"\nmax_steps = 2\nmin_separation = {apart}')
    found = means_of(prepare(tmp_path, text), *crossed)
    total = np.zeros(2)
    others = ("a", "c", "d")
    for path, enter, other, values in zip(crossed, enters, others, found, strict=True):
        total = total + counted(path, donor=other) + enter * counted(path, donor="b")
        np.testing.assert_allclose(values, total, **NEAR)


def test_a_donor_on_a_plate_as_the_unit(crossed, tmp_path, capsys):
    text = cells_only('rule = "each_plate"\nmax_steps = 1').replace("[donors]", 'unit = "donor_plate"\n[donors]')
    policy = prepare(tmp_path, text)
    found = means_of(policy, *crossed)
    for i, values in enumerate(found, start=1):
        np.testing.assert_allclose(values, sum(counted(path) for path in crossed[:i]), **NEAR)
    assert run("budget", policy) == 0
    assert "a donor on several plates is protected less" in capsys.readouterr().out


def test_at_most_so_many_cells_of_a_donor(crossed, tmp_path):
    text = cells_only().replace("max_cells = 30", "max_cells = 2").replace('"drugA"]', '"drugA", "other"]')
    found = means_of(prepare(tmp_path, text), *crossed)
    assert found[0].sum() == pytest.approx(4, abs=0.3)


def test_a_restored_journal_is_refused(plates, tmp_path, capsys):
    policy = prepare(tmp_path, cells_only().replace("[donors]", 'anchor = "far/anchor"\n[donors]'))
    (tmp_path / "far").mkdir()
    assert run("release", policy, plates[0], "--quiet") == 0
    shutil.copytree(tmp_path / "journal", tmp_path / "backup")
    assert run("release", policy, plates[1], "--quiet") == 0
    shutil.rmtree(tmp_path / "journal")
    shutil.copytree(tmp_path / "backup", tmp_path / "journal")
    assert run("release", policy, plates[1], "--quiet") == 2
    said = plain(capsys.readouterr().err)
    assert "anchor" in said or "backup" in said, said
    assert run("verify", tmp_path / "journal") == 0
    assert "with an anchor" in capsys.readouterr().out


def test_one_process_at_a_time(desk, plates, capsys):
    with Desk(read_policy(desk / "policy.toml")):
        assert run("release", desk / "policy.toml", plates[3]) == 2
        assert "another process is advancing this" in plain(capsys.readouterr().err)
        assert run("budget", desk / "policy.toml") == 2
        assert "another process" in plain(capsys.readouterr().err)
        assert run("verify", desk / "journal") == 0
        assert "intact" in capsys.readouterr().out
    assert run("release", desk / "policy.toml", plates[3], "--quiet") == 0


def test_budget_and_verify(released, tmp_path, capsys):
    assert run("verify", released / "journal") == 0
    said = capsys.readouterr().out
    assert "intact" in said and "cells: 3 of 5 steps published, each drawn once" in said
    shutil.copytree(released / "journal", tmp_path / "journal")
    (kept,) = (tmp_path / "journal").glob("*.jsonl")
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join([*lines[:4], *lines[5:]]))
    assert run("verify", tmp_path / "journal") == 2
    plain(capsys.readouterr().err)
    assert run("verify", tmp_path) == 2
    assert "does not exist" in plain(capsys.readouterr().err)


def test_ctrl_c_is_no_loss(desk, plates, monkeypatch, capsys):
    import cellgap.cli._stream_release as there

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(there.Desk, "_vectors", interrupted)
        assert run("release", desk / "policy.toml", plates[3]) == 130
    assert "interrupted; nothing is lost" in capsys.readouterr().err
    assert run("release", desk / "policy.toml", plates[3], "--quiet") == 0
    assert set(steps(desk).values()) == {4}


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return kept | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "MPLBACKEND": "Agg"}


@pytest.mark.slow
def test_killed_at_random_and_started_again(plates, tmp_path, cellgap):
    """Whatever moment it is killed at, each step is drawn once, and the tables are those of the journal."""
    policy = prepare(tmp_path)
    command = [sys.executable, "-m", "cellgap", "stream", "release", str(policy), *map(str, plates), "--quiet"]
    rng, killed, drawn = random.Random(7), 0, {}
    for _ in range(4):
        began = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        lines = -1
        for _ in range(3000):  # until something is written, then a random moment more
            kept = list((tmp_path / "journal").glob("*.jsonl"))
            now = sum(p.read_bytes().count(b"\n") for p in kept)
            if (lines >= 0 and now > lines) or began.poll() is not None:
                break
            lines = now
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        began.send_signal(signal.SIGKILL)
        began.communicate()
        killed += began.returncode == -signal.SIGKILL
        if not (tmp_path / "journal").exists():
            continue
        found = verify(tmp_path / "journal").drawn
        for name, before in drawn.items():
            for one, two in zip(before, found[name], strict=False):
                np.testing.assert_array_equal(one, two)
        drawn = found
    done = cellgap("stream", "release", policy, *plates)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert killed >= 1
    done = cellgap("stream", "verify", tmp_path / "journal")
    assert done.returncode == 0 and done.stdout.startswith("intact")
    for name in ("cells", "expression", "depth"):
        assert f"{name}: 4 of 5 steps published, each drawn once" in done.stdout
    with Desk(read_policy(policy)) as desk:
        for name, table in desk.tables().items():
            assert (tmp_path / "released" / f"{name}.csv").read_text() == table.to_csv(index=False)
            assert set(table["step"]) == {1, 2, 3, 4}
        for name, before in drawn.items():
            for one, two in zip(before, verify(tmp_path / "journal").drawn[name], strict=False):
                np.testing.assert_array_equal(one, two)


def test_what_was_drawn_is_published_after_a_kill(plates, tmp_path, monkeypatch):
    """Killed between the draw and the tables: the second run writes what was drawn, and draws nothing again."""
    policy = prepare(tmp_path)

    def killed(*_):
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(Desk, "write", killed)
        assert run("release", policy, plates[0], "--quiet") == 137
    lines = journal(tmp_path)
    assert not (tmp_path / "released").exists()
    assert run("release", policy, plates[0], "--quiet") == 0
    assert journal(tmp_path) == lines
    assert set(pd.read_csv(tmp_path / "released" / "cells.csv")["step"]) == {1}


@pytest.mark.slow
def test_attacks_on_the_policy(released, tmp_path, capsys):
    lines = journal(released)
    assert run("audit", released / "policy.toml", "--runs", "1000") == 0
    said = capsys.readouterr().out
    for name in ("cells", "expression", "depth"):
        assert name in said
    assert journal(released) == lines
    # Neither data nor a journal is needed.
    assert run("audit", prepare(tmp_path, cells_only(budget=BUDGET.replace("60", "1"))), "--runs", "1000") == 0
    assert not (tmp_path / "journal").exists()
    assert run("audit", released / "policy.toml", "--runs", "10") == 2
    plain(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("quantiles = [0.5]\n", "quantiles = [0.5]\nepsilon = 1\n", "epsilon does not belong to a quantile"),
        ("l2 = 30\nshare = 0.4", "l2 = 30\nshare = 0.4\nq = 2", "q does not belong to a sum"),
        ("l2 = 30\nshare = 0.4", "l2 = 30\nshare = [0.4]", "share must be a number"),
        ("l2 = 30\nshare = 0.4", "l2 = true\nshare = 0.4", "l2 must be a number"),
        ("rho = 60", "rho = [60]", "rho must be a number"),
        ("delta = 1e-6", 'delta = "small"', "delta must be a number"),
        ("delta = 1e-6", 'delta = 1e-6\ndonors = "many"', "whole number of 1 or more"),
        ("[statistic.top]", '[statistic."../top"]', "a statistic's name"),
        ("[statistic.top]", "[statistic.Cells]", "in case alone"),
        ("steps = 5", 'steps = 5\nunit = "donor_plate"', 'needs .donors. rule = "each_plate"'),
        ('journal = "journal"', 'journal = "genes.txt"', "must be a folder"),
        ('folder = "released"', 'folder = "genes.txt"', "must be a folder"),
        ("steps = 5", 'steps = 5\nanchor = "journal/anchor"', "lies in the folder of the journal"),
    ],
)
def test_more_policies_are_refused(old, new, says, plates, tmp_path, capsys):
    policy = prepare(tmp_path, POLICY.replace(old, new, 1))
    assert run("release", policy, plates[0]) == 2
    said = plain(capsys.readouterr().err)
    assert re.search(says, said), said
    assert not (tmp_path / "released").exists() and not (tmp_path / "journal" / "journal.jsonl").exists()


def test_a_large_delta_is_a_warning_of_one_line(tmp_path, capsys):
    policy = prepare(tmp_path, POLICY.replace("delta = 1e-6", "delta = 1e-2\ndonors = 50"))
    assert run("budget", policy) == 0
    said = capsys.readouterr().err.strip()
    assert said.startswith("warning: delta = 0.01 is large for 50 donors") and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('donor = "donor"', 'donor = "drug"', "[data] donor is 'drug' and was 'donor'"),
        ('condition = ["drug"]', 'condition = ["donor"]', "[data] condition"),
        ('donor = "donor"', 'donor = "donor"\nlayer = "raw"', "[data] layer is 'raw' and was 'X'"),
        ('donor = "donor"', 'donor = "donor"\ntarget_sum = 500', "[data] target_sum"),
        ('of = "conditions"', 'of = "genes"', "[statistic.cells] of"),
        ('column = "n_counts"', 'column = "age"', "[statistic.depth] column"),
        ("quantiles = [0.5]", 'quantiles = [0.5]\nvalues = "cells"', "[statistic.depth] values"),
    ],
)
def test_what_vectors_mean_is_fixed(old, new, says, desk, plates, capsys):
    """The journal's own configurations do not say it; with another column a donor would have another name."""
    before, lines = tables(desk), journal(desk)
    prepare(desk, POLICY.replace(old, new, 1))
    assert run("release", desk / "policy.toml", plates[3]) == 2
    assert says in plain(capsys.readouterr().err)
    assert tables(desk) == before and journal(desk) == lines


@pytest.mark.parametrize(("content", "says"), [(None, "is missing"), ("[", "is damaged"), ("[3]", "is damaged")])
def test_the_meaning_of_the_journal_is_needed(content, says, desk, plates, capsys):
    path = desk / "journal" / "policy.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    lines = journal(desk)
    assert run("release", desk / "policy.toml", plates[3]) == 2
    assert says in plain(capsys.readouterr().err) and journal(desk) == lines


def test_another_plate_may_take_the_step_of_one_that_is_refused(plates, tmp_path, capsys):
    """Nothing of a plate is released, whatever statistic refuses it, and its name is not kept."""
    policy = prepare(tmp_path, POLICY.replace("max_donors = 100", "max_donors = 61"))
    crowded = write_plate(tmp_path / "crowded.h5ad", many(9, 70), seed=9)
    assert run("release", policy, plates[0], crowded, "--quiet") == 2
    said = plain(capsys.readouterr().err)
    assert "max_donors=61" in said and "70" not in said
    assert set(steps(tmp_path).values()) == {1}
    adata = anndata.read_h5ad(plates[2])
    adata.X[5, 3] = 0.37
    adata.write_h5ad(tmp_path / "fractions.h5ad")
    assert run("release", policy, tmp_path / "fractions.h5ad", "--quiet") == 2
    assert "not raw counts" in plain(capsys.readouterr().err)
    assert set(steps(tmp_path).values()) == {1}
    assert run("release", policy, plates[1], "--quiet") == 0
    assert set(steps(tmp_path).values()) == {2}
    kept = json.loads((tmp_path / "journal" / "plates.json").read_text())
    assert [Path(path).name for path in kept] == ["plate1.h5ad", "plate2.h5ad"]


def test_a_damaged_plate_tells_nothing_of_its_cells(plates, tmp_path, capsys):
    import h5py

    policy = prepare(tmp_path)
    bad = tmp_path / "bad.h5ad"
    shutil.copy(plates[0], bad)
    with h5py.File(bad, "r+") as file:
        short = file["obs/n_counts"][:37]
        del file["obs/n_counts"]
        file["obs/n_counts"] = short
        file["obs/n_counts"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    n = anndata.read_h5ad(plates[0]).n_obs
    assert run("release", policy, bad) == 2
    said = plain(capsys.readouterr().err)
    assert "cannot be read" in said and str(n) not in said and "37" not in said


def test_a_statistic_may_be_added_later(desk, plates):
    """All plates so far are gone through for it, in their order; the others stay."""
    policy = POLICY.replace("rho = 60", "rho = 90").replace("share = 0.4", "share = 0.2")
    fresh = prepare(desk / "fresh", policy)
    assert run("release", fresh, *plates[:2], "--quiet") == 0
    before = json.loads((desk / "fresh" / "released" / "releases.json").read_text())["statistics"]
    prepare(desk / "fresh", policy + CELLS.replace("statistic.cells", "statistic.most").replace('"sum"', '"max"'))
    assert run("release", fresh, plates[2], "--quiet") == 0
    after = json.loads((desk / "fresh" / "released" / "releases.json").read_text())["statistics"]
    assert {name: len(found) for name, found in after.items()} == {"cells": 3, "expression": 3, "depth": 3, "most": 3}
    for name, found in before.items():
        assert after[name][:2] == found
