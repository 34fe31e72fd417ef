"""A fit of an annotator that is killed and started again in its folder is as if it had never stopped."""

import dataclasses
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.random as jr
import numpy as np
import pytest
from test_annotator import DESIGN, SETTINGS, small_cells

import cellgap as cg
from cellgap.annotate._fitted_annotator import FittedAnnotator
from cellgap.errors import StorageError
from cellgap.train import Loop

QUICK = dataclasses.replace(SETTINGS, loop=Loop(n_steps=60, chunk=20, checkpoint_every=20))


def train(folder: Path | None, key: int = 0, seed: int = 0, **settings: object) -> FittedAnnotator:
    study = cg.Study(small_cells(300, seed=seed), DESIGN)
    return dataclasses.replace(QUICK, **settings).fit(study, "cell_type", key=jr.key(key), folder=folder)


def same(found: FittedAnnotator, expected: FittedAnnotator) -> None:
    one, two = (jax.tree.leaves(fitted) for fitted in (found, expected))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (found.history, found.stopped) == (expected.history, expected.stopped)
    cells = small_cells(50, seed=9)
    np.testing.assert_array_equal(found.predict_proba(cells), expected.predict_proba(cells))


@pytest.fixture(scope="module")
def uninterrupted() -> FittedAnnotator:
    return train(None)


CHILD = """
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any
sys.path.insert(0, sys.argv[1])
import cellgap.train._fit as module

@contextmanager
def bar(*args, **kwargs):
    module.runs = getattr(module, "runs", 0) + 1
    def show(step, row, seconds):
        print(module.runs, step, flush=True)
        if (module.runs, step) == (2, 40):
            sys.stdin.readline()
    yield show

module.progress_bar = bar
from test_annotator_resume import train
train(Path(sys.argv[2]))
"""


def test_kill_9_and_resume_is_bit_for_bit_as_if_never_killed(tmp_path: Path, uninterrupted: FittedAnnotator) -> None:
    """Killed when the trials were done and the networks to keep were not."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdin is not None
    seen = []
    for line in child.stdout:
        seen.append(line)
        if line == "2 40\n":
            child.kill()
            break
    child.stdout.close()
    child.stdin.close()
    assert child.wait(60) == -signal.SIGKILL, seen
    assert sorted(p.name for p in tmp_path.iterdir()) == ["final", "fit.json", "trial_5"]
    trials = (tmp_path / "trial_5" / "checkpoint.eqx").read_bytes()
    half = (tmp_path / "final" / "checkpoint.eqx").read_bytes()
    same(train(tmp_path), uninterrupted)
    assert (tmp_path / "trial_5" / "checkpoint.eqx").read_bytes() == trials, "what was done is not done again"
    assert (tmp_path / "final" / "checkpoint.eqx").read_bytes() != half
    # All of it is there now: the same again, without a step; and a run of anything else is refused.
    same(train(tmp_path), uninterrupted)
    changes: tuple[dict[str, Any], ...] = ({"weight_decay": 0.1}, {"key": 1}, {"seed": 1}, {"thin": 0.5})
    for other in changes:
        with pytest.raises(StorageError, match=r"another fit.*another folder"):
            train(tmp_path, **other)


def test_ctrl_c_keeps_the_work_and_the_fit_goes_on_later(
    tmp_path: Path, uninterrupted: FittedAnnotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def bar(*args, **kwargs):
        yield lambda step, row, seconds: signal.raise_signal(signal.SIGINT) if step == 20 else None

    monkeypatch.setattr("cellgap.train._fit.progress_bar", bar)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit.json", "trial_5"]
    same(train(tmp_path), uninterrupted)
