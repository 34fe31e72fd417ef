"""A run that is killed, interrupted or failing and started again is as if it had never stopped."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from toy import KEY, LOOP, State, start, step, validate

from cellgap.errors import StorageError
from cellgap.train import FitResult, fit, read_checkpoint, write_checkpoint


def train(folder: Path | None, *, fingerprint: str = "toy", judge=validate) -> FitResult[State]:
    return fit(step, start(), key=jr.key(KEY), loop=LOOP, validate=judge, folder=folder, fingerprint=fingerprint)


@pytest.fixture(scope="module")
def uninterrupted() -> FitResult[State]:
    return train(None)


def same(found: FitResult[State], expected: FitResult[State]) -> None:
    for one, two in zip(
        jax.tree.leaves((found.state, found.best)), jax.tree.leaves((expected.state, expected.best)), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    rest = [(r.best_step, r.stopped, r.history) for r in (found, expected)]
    assert rest[0] == rest[1]


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def at_step(monkeypatch):
    """Return a function that calls `act` once the chunk that ends at a step is done."""

    def register(when: int, act) -> None:
        @contextmanager
        def bar(*args, **kwargs):
            yield lambda step, row, seconds: act() if step == when else None

        monkeypatch.setattr("cellgap.train._fit.progress_bar", bar)

    return register


def test_checkpoints_and_the_log_are_written_and_a_finished_run_is_not_run_again(tmp_path, uninterrupted, monkeypatch):
    folder = tmp_path / "new" / "run"
    same(train(folder), uninterrupted)
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint.eqx", "log.jsonl"]
    assert logged(folder) == uninterrupted.history
    before = (folder / "checkpoint.eqx").read_bytes()
    monkeypatch.setattr("cellgap.train._fit.write_checkpoint", None)
    same(train(folder), uninterrupted)
    assert (folder / "checkpoint.eqx").read_bytes() == before


def test_ctrl_c_keeps_the_work_and_the_run_goes_on_later(tmp_path, uninterrupted, at_step):
    handler = signal.getsignal(signal.SIGINT)
    at_step(30, lambda: signal.raise_signal(signal.SIGINT))
    stopped = train(tmp_path)
    assert stopped.stopped == "interrupted" and stopped.history[-1]["step"] == 40
    assert signal.getsignal(signal.SIGINT) is handler
    assert logged(tmp_path) == stopped.history == uninterrupted.history[:5]
    at_step(0, None)
    same(train(tmp_path), uninterrupted)
    assert logged(tmp_path) == uninterrupted.history


def test_ctrl_c_without_a_folder_gives_the_state_so_far(at_step, uninterrupted):
    at_step(30, lambda: signal.raise_signal(signal.SIGINT))
    stopped = train(None)
    assert stopped.stopped == "interrupted" and stopped.best_step == 40
    np.testing.assert_allclose(validate(stopped.best)["valid"], uninterrupted.history[4]["valid"], rtol=1e-6)


def test_ctrl_c_in_the_last_chunk_changes_nothing(tmp_path, at_step, uninterrupted):
    at_step(50, lambda: signal.raise_signal(signal.SIGINT))
    same(train(tmp_path), uninterrupted)


def test_a_second_ctrl_c_interrupts_at_once(tmp_path, at_step, uninterrupted):
    handler = signal.getsignal(signal.SIGINT)

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_step(30, twice)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert logged(tmp_path)[-1]["step"] == 20
    at_step(0, None)
    same(train(tmp_path), uninterrupted)


def test_a_background_job_that_ignores_ctrl_c_goes_on_doing_so(at_step, uninterrupted):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        at_step(30, lambda: signal.raise_signal(signal.SIGINT))
        same(train(None), uninterrupted)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_run_in_another_thread_is_the_same_run(uninterrupted):
    found: list[FitResult[State]] = []
    thread = threading.Thread(target=lambda: found.append(train(None)))
    thread.start()
    thread.join()
    same(found[0], uninterrupted)


def test_stopping_early_is_final_even_with_ctrl_c_in_the_same_chunk(tmp_path, at_step):
    def worse(state):
        return {"valid": jnp.sum(state.weights**2)}

    def early():
        return fit(
            step,
            start(),
            key=jr.key(KEY),
            loop=dataclasses.replace(LOOP, patience=1),
            validate=worse,
            folder=tmp_path,
        )

    at_step(10, lambda: signal.raise_signal(signal.SIGINT))
    assert early().stopped == "early"
    again = early()
    assert (again.stopped, again.best_step, again.history[-1]["step"]) == ("early", 0, 20)


@pytest.mark.parametrize("name", ["checkpoint.eqx", "log.jsonl"])
def test_a_kill_while_a_file_is_written_leaves_a_run_that_goes_on(tmp_path, uninterrupted, monkeypatch, name):
    """The old file is whole until the new one replaces it."""
    replace, seen = os.replace, []

    def dying(source, target):
        if Path(target).name == name and len(seen) == 1:
            raise MemoryError("killed here")
        if Path(target).name == name:
            seen.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(MemoryError):
        train(tmp_path)
    monkeypatch.undo()
    assert logged(tmp_path)[-1]["step"] in (20, 40)
    same(train(tmp_path), uninterrupted)
    assert logged(tmp_path) == uninterrupted.history


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(StorageError, match=r"another run.*another folder"):
        train(tmp_path, fingerprint="other")


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(StorageError, match=r"checkpoint.eqx cannot be resumed"):
        fit(step, State(jnp.zeros(4), jnp.zeros(3)), key=jr.key(KEY), loop=LOOP, folder=tmp_path, fingerprint="toy")


def test_any_damage_to_a_checkpoint_is_noticed(tmp_path):
    write_checkpoint(tmp_path, State(jnp.arange(3.0), jnp.ones(3)), {"step": 3, "fingerprint": "f", "history": []})
    path = tmp_path / "checkpoint.eqx"
    whole = path.read_bytes()
    state, header = read_checkpoint(tmp_path, start())
    np.testing.assert_array_equal(state.weights, [0, 1, 2])
    assert header == {"step": 3, "fingerprint": "f", "history": []}
    cuts = [whole[:n] for n in range(0, len(whole), 7)]
    flips = [whole[:n] + bytes([whole[n] ^ 4]) + whole[n + 1 :] for n in range(0, len(whole), 5)]
    others = [b"\n", b"[]\n", b"{}\n", b'{"digest": 3}\n', b"null\n", os.urandom(300)]
    for wrong in [*cuts, *flips, *others]:
        path.write_bytes(wrong)
        with pytest.raises(StorageError, match=r"cannot be resumed .*delete it or use another folder"):
            read_checkpoint(tmp_path, start())
    path.unlink()
    assert read_checkpoint(tmp_path, start()) is None


CHILD = """
import sys
from contextlib import contextmanager
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import cellgap.train._fit as module

@contextmanager
def bar(*args, **kwargs):
    def show(step, row, seconds):
        print(step, flush=True)
        if step == 30:
            sys.stdin.readline()
    yield show

module.progress_bar = bar
from test_resume import train
train(Path(sys.argv[2]))
"""


def test_kill_9_and_resume_is_bit_for_bit_as_if_never_killed(tmp_path, uninterrupted):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line == "30\n":
            child.kill()
            break
    child.stdout.close()
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(60) == -signal.SIGKILL
    assert logged(tmp_path)[-1]["step"] == 20
    same(train(tmp_path), uninterrupted)
    assert logged(tmp_path) == uninterrupted.history
