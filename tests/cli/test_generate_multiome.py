"""``cellgap generate`` with two modalities: MuData files in and out."""

import sys
from pathlib import Path

import mudata
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "generate"))

from small_multiome import multiome

from cellgap.cli._app import main
from cellgap.study import write_cells

RUN = """
[data]
path = "cells.h5mu"
[design]
context = ["type"]
counts = "X"
[split]
kind = "in_distribution"
test = 0.3
[model]
kind = "CFGen"
attributes = ["type"]
width = 16
n_blocks = 1
[model.space]
kind = "JointAutoencoder"
dim = 3
modalities = [{ name = "rna", hidden = [16], code = 4 }, { name = "atac", likelihood = "bernoulli", hidden = [16] }]
loop = { n_steps = 60, chunk = 20, valid_every = 20 }
[model.training]
loop = { n_steps = 60, chunk = 20, valid_every = 20 }
[run]
folder = "generator"
"""


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


@pytest.mark.filterwarnings("ignore:From 0.4:FutureWarning")
def test_from_a_file_of_two_modalities_to_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_cells(multiome(n=60), tmp_path / "cells.h5mu")
    (tmp_path / "run.toml").write_text(RUN)
    assert run("generate", "fit", "run.toml", "--quiet") == 0
    assert run("generate", "sample", "generator", "--n", "20", "--with", "type=b") == 0
    made = mudata.read_h5mu("generated.h5mu")
    assert list(made.mod) == ["rna", "atac"] and made.n_obs == 20 and (made.obs["type"] == "b").all()
    assert run("generate", "translate", "generator", "cells.h5mu", "--with", "type=a", "--out", "moved.h5mu") == 0
    assert mudata.read_h5mu("moved.h5mu").n_obs == 120
    assert run("generate", "augment", "generator", "cells.h5mu", "--label", "type", "--per-class", "70") == 0
    assert mudata.read_h5mu("augmented.h5mu").n_obs == 140
    assert run("generate", "report", "generator") == 0
    page = (tmp_path / "generator" / "report.html").read_text()
    assert "Other modalities of the same cells" in page and "open_rate_correlation" in page
    capsys.readouterr()
    assert run("generate", "sample", "generator", "--n", "5", "--out", "cells.h5ad") == 2
    assert "--out must name an .h5mu file" in capsys.readouterr().err
    assert run("generate", "sample", "generator", "--n", "5", "--seed", "-1") != 0


def test_a_modality_that_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_cells(multiome(n=30), tmp_path / "cells.h5mu")
    (tmp_path / "run.toml").write_text(RUN.replace('name = "atac"', 'name = "atak"'))
    assert run("generate", "fit", "run.toml", "--quiet") == 2
    assert "no modality 'atak'" in capsys.readouterr().err
