"""``cellgap embed`` as a program: diagnose, fit, encode, report, and what it says when something is wrong."""

import json
import os
import re
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
from cellgap.cli._settings import estimator_of
from cellgap.embed import Mixture, MLPEncoder, SameCondition, Thin
from cellgap.errors import ConfigError
from cellgap.space import Genes
from cellgap.train import Loop

RUN = """
[data]
path = "screen.h5ad"
[design]
treatment = "drug"
control = "vehicle"
donor = "donor"
counts = "X"
[split]
kind = "in_distribution"
test = 0.3
min_cells = 10
[model]
kind = "ContrastiveEmbedding"
keep = ["treatment"]
nuisance = "donor"
dim = 4
encoder = { kind = "MLPEncoder", hidden = [16] }
batch_size = 32
n_pairs = 400
reference_dim = 5
[[model.pairs]]
kind = "SameCondition"
across = "donor"
[[model.pairs]]
kind = "Thin"
weight = 0.5
[model.loop]
n_steps = 40
chunk = 10
valid_every = 20
checkpoint_every = 10
[run]
folder = "embedding"
"""


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    """Folder of a small screen of two donors with its run file."""
    import cellgap as cg

    folder = tmp_path_factory.mktemp("embed")
    screen = cg.simulate(n_drugs=2, doses=(1000.0,), n_combinations=0, n_genes=20, n_cells=60, n_controls=120)
    cells = screen.adata
    cells.obs["drug"] = cells.obs[screen.design.treatment].astype(str)
    cells.obs["donor"] = cells.obs["cell_line"].astype(str)
    cells.obs = cells.obs[["drug", "donor"]].copy()
    cells.obs["plate"] = np.where(np.arange(cells.n_obs) % 2 == 0, "p1", "p2")
    cells.uns.clear()
    cells.write_h5ad(folder / "screen.h5ad")
    (folder / "run.toml").write_text(RUN)
    return folder


@pytest.fixture(scope="module")
def fitted(there: Path) -> Path:
    """Folder of a finished run; tests may add files, not change them."""
    assert run("embed", "fit", there / "run.toml", "--quiet") == 0
    return there / "embedding"


def test_the_example_is_a_run_file(there, tmp_path, capsys):
    assert run("embed", "fit", "--example") == 0
    text = capsys.readouterr().out
    assert run("embed", "diagnose", "--example") == 0 and capsys.readouterr().out == text
    found = estimator_of(tomllib.loads(text)["model"], tmp_path)
    assert found.pairs == SameCondition(across="donor") | Thin(weight=0.5) and found.n_runs == 4
    assert found.keep == ("treatment",) and found.nuisance == ("donor",)


def test_diagnose_says_what_is_kept_and_begins_no_run(there, tmp_path, capsys):
    before = sorted(path.name for path in there.iterdir())
    assert run("embed", "diagnose", there / "run.toml", "--report", tmp_path / "page.html") == 0
    said = capsys.readouterr()
    for text in (
        "Pairs never change treatment: kept.", "reach of factors", "moved variance of 5 directions", "lambda_2",
        "coverage: 50 partners", "nuisance",
    ):  # fmt: skip
        assert text in said.out, text
    assert re.search(r"\[warn\] Pairs split the cells into 3 islands", said.out), "a warning is no error"
    assert "400 pairs by SameCondition(across='donor') | Thin(weight=0.5)" in said.err
    assert sorted(path.name for path in there.iterdir()) == before
    page = (tmp_path / "page.html").read_text()
    assert "Before training" in page and "nothing is trained yet" in page and 'id="training"' not in page


def test_diagnose_prints_json(there, fitted, capsys, monkeypatch):
    """Of the diagnosis that a fit made: it is the same object, and another one takes long."""
    import cellgap as cg

    sampling = cg.load(fitted).sampling
    monkeypatch.setattr("cellgap.cli._embed_diagnosis.diagnosed", lambda run, quiet: (sampling, None))
    assert run("embed", "diagnose", there / "run.toml", "--json", "--quiet") == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert not said.err and len(found["rho"]) == 5 and found["components"] == 3
    factors = {row["name"]: row for row in found["factors"]}
    assert factors["treatment"] == {"name": "treatment", "reach": 0.0, "verdict": "frozen", "role": "keep"}
    assert factors["donor"]["role"] == "nuisance" and factors["donor"]["verdict"] == "moved"
    assert found["warnings"] == [s["text"] for s in found["sentences"] if s["level"] == "warn"]


def test_a_run_that_was_stopped_continues_bit_for_bit(there, fitted, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "stopped"

    @contextmanager
    def bar(*args, **kwargs):
        def show(reached, row, seconds):
            if reached >= 20:
                os.kill(os.getpid(), signal.SIGINT)

        yield show

    with monkeypatch.context() as patch:
        patch.setattr(loop, "progress_bar", bar)
        assert run("embed", "fit", there / "run.toml", "--folder", folder) == 130
    assert "run the same command again to continue" in capsys.readouterr().err
    assert not (folder / "model.json").exists() and (folder / "checkpoint.eqx").exists()
    assert run("embed", "fit", there / "run.toml", "--folder", folder) == 0
    said = capsys.readouterr().out
    assert "Pairs never change treatment: kept." in said and "diversity gap" in said
    with np.load(folder / "model.npz") as one, np.load(fitted / "model.npz") as two:
        assert set(one) == set(two) and len(one) > 5
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert run("embed", "fit", there / "run.toml", "--folder", folder) == 0
    assert "holds this run, finished" in capsys.readouterr().err


def test_encode_writes_the_embedding(there, fitted, tmp_path, capsys):
    import cellgap as cg

    data, out = there / "screen.h5ad", tmp_path / "new" / "embedded.h5ad"
    assert run("embed", "encode", fitted, data, "--out", out, "--quiet") == 0
    assert "480 cells in 4 dimensions" in capsys.readouterr().out
    cells = anndata.read_h5ad(out)
    codes = np.asarray(cells.obsm["X_cellgap"])
    assert codes.shape == (480, 4) and np.allclose(np.linalg.norm(codes, axis=1), 1.0, atol=1e-5)
    assert (codes == cg.load(fitted).encode(anndata.read_h5ad(data))).all()
    assert cells.uns["cellgap"]["pairs"] == "SameCondition(across='donor') | Thin(weight=0.5)"
    table = tmp_path / "codes.csv"
    assert run("embed", "encode", fitted, data, "--out", table, "--output", "hidden", "--quiet") == 0
    frame = pd.read_csv(table, index_col="cell")
    assert frame.shape == (480, 16) and list(frame.index) == list(cells.obs_names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes.csv", "new"], "no part of a file is left"


def test_the_report_has_probes_on_held_out_cells(fitted, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert run("embed", "report", fitted, "--out", out, "--colour", "plate", "--colour", "treatment") == 0
    said = capsys.readouterr()
    assert re.search(r"treatment\s+keep\s+accuracy", said.out) and "embedding and probing" in said.err
    page = out.read_text()
    held = re.search(r"colored by plate: (\d+) held-out cells", page)
    assert held is not None and 100 <= int(held[1]) < 480
    for text in ("colored by treatment", "Re-run agreement", "uniformity gap", "model.pairs.pairs.1.across"):
        assert text in page, text
    assert run("embed", "report", fitted, "--colour", "age") == 2
    assert "obs has no column 'age'" in capsys.readouterr().err


MISTAKES = [
    ((), "needs a run file"),
    (("--set", 'model.kind="Gaussian"'), "."),
    (("--set", 'model.nuisance="age"'), "no column 'age'"),
    (("--set", 'model.pairs=[{kind="SameCondition", across="age"}]'), "no column 'age'"),
    (("--set", 'model.pairs=[{kind="Thinn"}]'), "unknown kind 'Thinn': did you mean 'Thin'"),
    (("--set", 'model.pairs={kind="SameCondition", acros="donor"}'), "no setting 'acros': did you mean 'across'"),
    (("--set", 'model.nuisance="treatment"'), "both to keep and as nuisance"),
    (("--set", "model.encoder=[{kind='LinearEncoder'}]"), "encoder must be a table, found a list"),
    (("--set", "model.encoder.kind='Dose'"), "unknown kind 'Dose'"),
    (("--set", "model.genes.n_tip=5"), "no setting 'n_tip'"),
]
ONLY_FIT = [
    (("--set", 'model.loss="corrected"', "--set", 'model.pairs={kind="SameCondition"}'), "constant wherever partners"),
]


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [("diagnose", *MISTAKES[0]), *(("fit", *m) for m in (*MISTAKES, *ONLY_FIT)), ("diagnose", *MISTAKES[2])],
)
def test_mistakes_are_one_sentence_and_leave_nothing(there, command, options, says, tmp_path, capsys):
    folder = () if command == "diagnose" else ("--folder", tmp_path / "run")
    file = () if says == "needs a run file" else (there / "run.toml",)
    assert run("embed", command, *file, *folder, *options) == 2
    said = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and says in said[0]
    assert not list(tmp_path.iterdir())


def test_thinning_needs_counts(there, tmp_path, capsys):
    text = RUN.replace('counts = "X"\n', "").replace("screen.h5ad", str(there / "screen.h5ad"))
    (tmp_path / "run.toml").write_text(text)
    assert run("embed", "fit", tmp_path / "run.toml") == 2
    assert "Thin takes molecules away" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


def test_other_models_and_other_commands_are_told_apart(there, fitted, tmp_path, capsys):
    for arguments, says in (
        (("fit", there / "run.toml", "--folder", tmp_path / "run"), "see `cellgap embed fit`"),
        (("predict", fitted, "--condition", "A1", "--out", tmp_path / "p.h5ad"), "FittedEmbedding, not a map"),
        (("generate", "sample", fitted, "--n", "5"), "FittedEmbedding, not a generator"),
        (("embed", "encode", fitted, there / "screen.h5ad", "--out", "x.npy"), "must name an .h5ad or a .csv"),
        (("embed", "encode", there, there / "screen.h5ad", "--out", tmp_path / "e.h5ad"), "model.json"),
        (("embed", "report", there), "model.json"),
    ):
        assert run(*arguments) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("error: ") and says in said and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_list_of_pairs_is_a_mixture_and_a_list_of_encoders_is_not(tmp_path):
    pairs = [{"kind": "Thin"}, {"kind": "SameCondition", "across": "donor"}]
    section = {"kind": "ContrastiveEmbedding", "pairs": pairs, "genes": {"n_top": 50}, "loop": {"n_steps": 7}}
    found = estimator_of(section, tmp_path)
    assert found.pairs == Mixture((Thin(), SameCondition(across="donor"))) and found.genes == Genes(n_top=50)
    assert found.encoder == MLPEncoder() and found.loop == Loop(n_steps=7)
    named = {"kind": "Mixture", "pairs": pairs}
    assert estimator_of(section | {"pairs": named}, tmp_path) == found
    with pytest.raises(ConfigError, match="needs 'pairs': a table of kind Thin, SameCondition"):
        estimator_of({"kind": "ContrastiveEmbedding"}, tmp_path)
    with pytest.raises(ConfigError, match="model\\] pairs pairs has the unknown kind 'Thn'"):
        estimator_of(section | {"pairs": {"kind": "Mixture", "pairs": [{"kind": "Thn"}]}}, tmp_path)
