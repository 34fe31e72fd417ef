"""Training on batches from the host: the same bits as a plain loop, from memory or disk, stopped or not."""

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from toy import KEY, State, start

from cellgap.errors import ConfigError, DataError
from cellgap.study import CellBlock, Design, ShuffledReader, Study
from cellgap.train import Loop, Streamed, fit

DESIGN = Design(treatment="drug", control="c", counts=None)
LOOP = Loop(n_steps=25, chunk=10, checkpoint_every=10)
SIZE, N_OBS = 8, 60


def descend(state: State, key: jax.Array, batch: dict[str, jax.Array]) -> tuple[State, dict[str, jax.Array]]:
    """Move towards (1, -2, 3) by the gradient on a batch; a random number of the step's key is added."""
    error = batch["x"] @ state.weights - batch["y"]
    velocity = 0.9 * state.velocity - 0.02 * batch["x"].T @ error / SIZE + 1e-3 * jr.normal(key, (3,))
    return State(state.weights + velocity, velocity), {"loss": jnp.mean(error**2)}


def prepare(cells: CellBlock) -> dict[str, np.ndarray]:
    x = cells.values.toarray() if sp.issparse(cells.values) else np.asarray(cells.values)
    return {"x": x, "y": x @ np.float32([1, -2, 3])}


def cells_of_toy() -> Study:
    x = sp.random(N_OBS, 3, density=0.7, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    obs = pd.DataFrame({"drug": np.resize(["c", "x"], N_OBS)}, index=[f"c{i}" for i in range(N_OBS)])
    return Study(AnnData(x, obs=obs), DESIGN)


@pytest.fixture(scope="module")
def study() -> Study:
    return cells_of_toy()


def streamed(study: Study) -> Streamed:
    return Streamed(ShuffledReader(study, seed=5, chunk=4, n_chunks=6), SIZE, prepare)


@pytest.fixture(scope="module")
def plain(study) -> list[State]:
    """State before the first step and after every one, of a loop over batches cut by hand."""
    rows = np.concatenate([ShuffledReader(study, seed=5, chunk=4, n_chunks=6).read(0, SIZE * LOOP.n_steps).rows])
    one, states = jax.jit(descend), [start()]
    for i in range(LOOP.n_steps):
        batch = prepare(CellBlock(rows, study.adata.X[rows[i * SIZE : (i + 1) * SIZE]]))
        states.append(one(states[-1], jr.fold_in(jr.key(KEY), i), batch)[0])
    return states


def equal(first: State, second: State) -> None:
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)


def test_streamed_training_is_a_plain_loop_bit_for_bit_from_memory_and_disk(study, plain, tmp_path):
    done = fit(descend, start(), key=jr.key(KEY), loop=LOOP, batches=streamed(study))
    equal(done.state, plain[-1])
    assert [row["step"] for row in done.history] == [10, 20, 25]
    assert done.history[-1]["loss"] < 0.5 * done.history[0]["loss"]
    study.adata.write_h5ad(tmp_path / "cells.h5ad")
    disk = Study.read(tmp_path / "cells.h5ad", DESIGN, backed=True)
    equal(fit(descend, start(), key=jr.key(KEY), loop=LOOP, batches=streamed(disk)).state, plain[-1])


def test_streamed_training_is_training_on_the_device_given_the_same_batches(study, plain):
    """The same step, with all cells on the device and the order of the reader as a table of rows."""
    rows = ShuffledReader(study, seed=5, chunk=4, n_chunks=6).read(0, SIZE * LOOP.n_steps).rows.reshape(-1, SIZE)
    cells = prepare(CellBlock(np.arange(N_OBS), study.adata.X))

    def step(data, state: tuple[State, jax.Array], key):
        rows, cells = data
        state, count = state
        state, logs = descend(state, key, jax.tree.map(lambda x: x[rows[count]], cells))
        return (state, count + 1), logs

    data = jax.tree.map(jnp.asarray, (rows, cells))
    done = fit(eqx.Partial(step, data), (start(), jnp.int32(0)), key=jr.key(KEY), loop=LOOP)
    equal(done.state[0], plain[-1])


def test_a_stopped_run_goes_on_in_the_middle_of_an_epoch_with_a_new_reader(study, plain, tmp_path, monkeypatch):
    @contextmanager
    def bar(*args, **kwargs):
        yield lambda step, row, seconds: signal.raise_signal(signal.SIGINT) if step == 10 else None

    with monkeypatch.context() as patched:
        patched.setattr("cellgap.train._fit.progress_bar", bar)
        stopped = fit(descend, start(), key=jr.key(KEY), loop=LOOP, batches=streamed(study), folder=tmp_path)
    assert stopped.stopped == "interrupted" and stopped.best_step == 20
    equal(stopped.state, plain[20])
    done = fit(descend, start(), key=jr.key(KEY), loop=LOOP, batches=streamed(study), folder=tmp_path)
    equal(done.state, plain[-1])


@dataclass
class Noted:
    """Counts from the number of a step, and notes what was asked for, by which thread."""

    asked: list[tuple[int, int]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    broken: int | None = None

    def read(self, start: int, stop: int):
        self.asked.append((start, stop))
        self.threads.add(threading.get_ident())
        if self.broken in range(start, stop):
            raise DataError("the disk is gone.")
        return np.arange(start, stop, dtype=np.float32)


def add(state, key, batch):
    return state + batch, {"loss": batch}


def test_chunks_are_read_once_ahead_and_in_another_thread():
    source = Noted()
    done = fit(add, jnp.float32(0), key=jr.key(0), loop=LOOP, batches=source)
    assert float(done.state) == sum(range(25))
    assert source.asked == [(0, 10), (10, 20), (20, 25)]
    assert threading.get_ident() not in source.threads and len(source.threads) == 1
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_an_error_while_reading_ahead_is_the_error_of_the_run():
    before = threading.active_count()
    with pytest.raises(DataError, match="the disk is gone"):
        fit(add, jnp.float32(0), key=jr.key(0), loop=LOOP, batches=Noted(broken=13))
    assert threading.active_count() == before


def test_bad_input_is_refused(study):
    with pytest.raises(DataError, match="at least 1 cell, found size=0"):
        Streamed(ShuffledReader(study, seed=0), 0, prepare)
    with pytest.raises(ConfigError, match=r"devices=99 asks for more devices than the \d+ that JAX found"):
        fit(add, jnp.float32(0), key=jr.key(0), loop=LOOP, batches=Noted(), devices=99)
