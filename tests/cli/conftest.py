"""A small screen on disk with its run file, and the program as a subprocess."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RUN_FILE = """\
[data]
path = "screen.h5ad"

[design]
path = "design.toml"

[split]
kind = "unseen_treatment"
names = ["C1"]

[model]
kind = "ConditionalMonge"
encoder = [{ kind = "Table", source = "drugs.csv" }, { kind = "Dose" }]
space = { kind = "PCA", dim = 5 }
hidden = [16, 16]
embedding = 8

[model.optimization]
batch_size = 32
loop = { n_steps = 60, chunk = 5, checkpoint_every = 5, valid_every = 10 }

[run]
folder = "run"
seed = 3
"""

Cellgap = Callable[..., "subprocess.CompletedProcess[str]"]


def environment() -> dict[str, str]:
    """Warnings as they come to users, one thread, and no colors."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return kept | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "MPLBACKEND": "Agg"}


@pytest.fixture(scope="session")
def cellgap() -> Cellgap:
    """Return a function that runs the program and returns what it said."""

    def run(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "cellgap", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=500)

    return run


def write_screen(folder: Path) -> Path:
    """Write a simulated screen with design, descriptors and run file; return the folder."""
    from cellgap.study import simulate

    screen = simulate(n_drugs=4, doses=(100.0, 1000.0), n_combinations=0, n_genes=20, n_cells=60, n_controls=120)
    folder.mkdir(parents=True, exist_ok=True)
    screen.adata.write_h5ad(folder / "screen.h5ad")
    screen.design.write(folder / "design.toml")
    screen.descriptors.iloc[:, :2].to_csv(folder / "drugs.csv", index_label="drug")
    (folder / "run.toml").write_text(RUN_FILE)
    return folder


@pytest.fixture(scope="session")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small screen that is only read."""
    return write_screen(tmp_path_factory.mktemp("screen"))


@pytest.fixture(scope="session")
def fitted(screen: Path, cellgap: Cellgap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of the screen; tests may add files, not change them."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = cellgap("fit", screen / "run.toml", "--folder", folder)
    assert done.returncode == 0, done.stderr
    return folder
