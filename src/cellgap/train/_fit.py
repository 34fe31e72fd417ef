"""The training loop: compiled chunks of steps, resumable bit for bit, observable between chunks."""

import json
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray
from pydantic import Field

from cellgap.errors import ConvergenceError, StorageError
from cellgap.settings import settings
from cellgap.storage import replace
from cellgap.train._batches import Ahead, Batches
from cellgap.train._checkpoint import read_checkpoint, write_checkpoint
from cellgap.train._devices import DEVICES, all_equal, any_process, is_first, meet, mesh_of, off_mesh, on_mesh
from cellgap.train._interrupt import deferred_interrupt
from cellgap.train._progress import progress_bar

_State = TypeVar("_State")
Logs = dict[str, Any]
Step = Callable[[_State, PRNGKeyArray], tuple[_State, Logs]]
BatchStep = Callable[[_State, PRNGKeyArray, Any], tuple[_State, Logs]]


@settings
class Loop:
    """How long to train and when to look.

    Parameters
    ----------
    n_steps
        Number of steps.
    chunk
        Steps compiled into one program; logs, progress, checkpoints and interrupts happen between chunks.
    valid_every
        Steps between validations (rounded up to whole chunks).
    patience
        Stop after this many validations without a better one; None never stops early. The best state is kept either
        way.
    checkpoint_every
        Steps between checkpoints (rounded up to whole chunks), where a run folder is given.
    """

    n_steps: Annotated[int, Field(ge=1)] = 2000
    chunk: Annotated[int, Field(ge=1)] = 50
    valid_every: Annotated[int, Field(ge=1)] = 100
    patience: Annotated[int, Field(ge=1)] | None = None
    checkpoint_every: Annotated[int, Field(ge=1)] = 500


@dataclass(frozen=True)
class FitResult(Generic[_State]):
    """What a training run leaves.

    Parameters
    ----------
    state
        The state after the last step.
    best
        The state with the lowest validation value (the last one where nothing was validated).
    best_step
        Its step.
    history
        One row a chunk: ``step``, the mean of every logged number over the chunk, and the validation logs where there
        are any; before them a row for step 0 where there is a validation.
    stopped
        ``"finished"``, ``"early"`` (patience) or ``"interrupted"`` (Ctrl-C: state and checkpoint are those of the last
        whole chunk).
    """

    state: _State
    best: _State
    best_step: int
    history: list[dict[str, float]]
    stopped: str


class _Saved(NamedTuple, Generic[_State]):
    state: _State
    best: _State


def fit(
    step: Step[_State] | BatchStep[_State],
    state: _State,
    *,
    key: PRNGKeyArray,
    loop: Loop,
    batches: Batches | None = None,
    devices: int | None = None,
    validate: Callable[[_State], Logs] | None = None,
    criterion: str = "valid",
    folder: Path | None = None,
    fingerprint: str = "",
    progress: bool = False,
    title: str = "training",
) -> FitResult[_State]:
    """Return the trained state: `step` applied ``loop.n_steps`` times, in compiled chunks.

    Step number ``i`` uses the key ``fold_in(key, i)`` and the batch of its number, so a run that was killed and resumed
    from its checkpoint gives the same bits as one that was not.

    Parameters
    ----------
    step
        Pure function ``(state, key) -> (state, logs)`` that draws its own batch on the device, or, where there are
        `batches`, ``(state, key, batch) -> (state, logs)``; logs are scalars. Where it is a tree (``equinox.Partial``
        of a function and its data), its arrays are given to the compiled program; those that a function closes over
        would be copied into it.
    state
        A tree of arrays.
    key
        Random key of the whole run.
    loop
        Length and cadence.
    batches
        Batches from the host, for data that do not fit on the device; the next chunk of steps is read while one is
        computed, and two chunks of batches are in memory at most.
    devices
        Number of devices; None is the default one. Everything is copied to each of them, and the cells of a batch (the
        second axis of `batches`) are shared out, of which there must be a multiple; the compiler adds what has to be
        sent. A step without batches shares out its own work, or repeats it on every device.
    validate
        Pure function ``state -> logs`` on fixed cells; may be a tree, as `step`.
    criterion
        Name of the validation log to minimize. Where it is a vector (one value a fold of the held-out cells), its mean
        is logged, and a state replaces the best one only if it is better by more than the standard error of the paired
        difference over folds: noise does not replace a simpler state.
    folder
        Where to write ``checkpoint.eqx`` and ``log.jsonl``; a checkpoint found there is resumed.
    fingerprint
        Identifies data and settings; a checkpoint with another one is refused.
    progress
        Show a progress bar on standard error.
    title
        Its label.

    Raises
    ------
    ConvergenceError
        A log or a validation is no longer finite; the message names the step, and the last good checkpoint stays.
    StorageError
        The folder's checkpoint belongs to another run.
    ConfigError
        There are fewer devices.
    """
    mesh = mesh_of(devices)
    state = jax.tree.map(_strong, state)
    saved, book = _Saved(state, state), _Book()
    if folder is not None and (found := read_checkpoint(folder, saved)) is not None:
        saved, header = found
        book = _Book.resume(header, fingerprint, folder)
    if not all_equal(book.step):
        raise StorageError(
            f"{folder} is not the same in all processes: the run folder must be on a shared file system."
        )
    step, validate, key, (state, best) = on_mesh((step, validate, key, saved), mesh)
    run = eqx.filter_jit(_scan(loop.chunk), donate="all-except-first")
    check = None if validate is None else partial(eqx.filter_jit(_call), validate)
    started = time.perf_counter()
    with ExitStack() as stack:
        interrupted = stack.enter_context(deferred_interrupt())
        bar = progress_bar(title, loop.n_steps, book.step, shown=progress and is_first())
        show = stack.enter_context(bar)
        ahead = None
        if batches is not None:
            ahead = stack.enter_context(Ahead(batches, lambda chunk: _on_devices(chunk, mesh)))
        if check is not None and book.step == 0:
            # The start is a candidate: a map that training does not improve is not replaced by it.
            judged = check(state)
            book.best_value = _replicates(judged[criterion])
            book.history.append({"step": 0.0} | _judged(judged, 0))
        while book.step < loop.n_steps and book.stopped == "finished":
            length = min(loop.chunk, loop.n_steps - book.step)
            advance = run if length == loop.chunk else eqx.filter_jit(_scan(length), donate="all-except-first")
            given = (step, key, on_mesh(jnp.int32(book.step), mesh))
            if ahead is not None:
                stop = book.step + length
                given = (*given, ahead.take(book.step, stop, min(loop.chunk, loop.n_steps - stop)))
            # `best` may share buffers with `state`, which is donated.
            state, logs = advance(given, jax.tree.map(jnp.array, state))
            del given  # or the batches would stay until the next chunk is there
            means = _chunk_means(logs, book.step)
            book.step += length
            row = {"step": float(book.step)} | means
            if check is not None and (_due(book.step, length, loop.valid_every) or book.step == loop.n_steps):
                judged = check(state)
                row |= _judged(judged, book.step)
                value = _replicates(judged[criterion])
                if _better(value, book.best_value):
                    book.best_value, book.best_step, book.waited, best = value, book.step, 0, state
                else:
                    book.waited += 1
                if loop.patience is not None and book.waited >= loop.patience:
                    book.stopped = "early"
            book.history.append(row)
            if any_process(interrupted()) and book.stopped == "finished" and book.step < loop.n_steps:
                book.stopped = "interrupted"
            last = book.step == loop.n_steps or book.stopped != "finished"
            if folder is not None and is_first() and (last or _due(book.step, length, loop.checkpoint_every)):
                # The log first: where there is a checkpoint, the log reaches as far.
                _write_log(folder, book.history)
                write_checkpoint(folder, _Saved(state, best), book.header(fingerprint))
            show(book.step, row, time.perf_counter() - started)
    if check is None:
        best, book.best_step = state, book.step
    meet()  # nobody goes on before the last checkpoint is there
    state, best = off_mesh((state, best), mesh)
    return FitResult(state, best, book.best_step, book.history, book.stopped)


class _Book:
    """Where a run stands, apart from its arrays."""

    def __init__(self) -> None:
        self.step = 0
        self.best_step = 0
        self.best_value = [math.inf]
        self.waited = 0
        self.stopped = "finished"
        self.history: list[dict[str, float]] = []

    def header(self, fingerprint: str) -> dict[str, Any]:
        return {"fingerprint": fingerprint} | vars(self)

    @classmethod
    def resume(cls, header: dict[str, Any], fingerprint: str, folder: Path) -> "_Book":
        if header.pop("fingerprint") != fingerprint:
            raise StorageError(
                f"{folder} holds a checkpoint of another run (data, settings or key differ): "
                "use another folder or delete it."
            )
        book = cls()
        vars(book).update(header)
        if book.stopped == "interrupted":
            book.stopped = "finished"
        return book


def _replicates(value: Any) -> list[float]:
    return [float(v) for v in np.ravel(np.asarray(value))]


def _better(new: list[float], best: list[float]) -> bool:
    """Return whether the mean is lower by more than the standard error of the paired difference."""
    gain = np.asarray(best) - np.asarray(new)
    noise = gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return bool(gain.mean() > noise)


def _strong(leaf: Any) -> Any:
    """Return an array whose type no longer gives way to others.

    A step makes it one anyway (``jnp.full(n, 0.5)`` is weak, a sum with it is not), and another type is another program
    to compile: for the second chunk, for the validations after the first one, for what is resumed.
    """
    return leaf.astype(leaf.dtype) if getattr(leaf, "weak_type", False) else leaf


def _call(function: Callable[[_State], Logs], state: _State) -> Logs:
    return function(state)


@lru_cache(maxsize=16)
def _scan(length: int) -> Callable[..., tuple[Any, Logs]]:
    def chunk(given: tuple[Any, ...], state: _State) -> tuple[_State, Logs]:
        step, key, start, *batches = given

        def one(state, now):
            i, *batch = now
            return step(state, jr.fold_in(key, i), *batch)

        return jax.lax.scan(one, state, (start + jnp.arange(length), *batches))

    return chunk


def _on_devices(chunk: Any, mesh: Mesh | None) -> Any:
    """Return a chunk of batches on the devices, its cells shared out among them."""
    return jax.device_put(chunk) if mesh is None else on_mesh(chunk, mesh, None, DEVICES)


def _due(step: int, length: int, every: int) -> bool:
    return step // every > (step - length) // every


def _chunk_means(logs: Logs, start: int) -> dict[str, float]:
    """Return the mean of every log over a chunk; refuse what is not finite, naming the first such step."""
    columns = {name: np.asarray(value) for name, value in logs.items()}
    for name, values in columns.items():
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise _diverged(name, float(values[wrong[0]]), start + int(wrong[0]) + 1)
    return {name: float(np.mean(values)) for name, values in columns.items()}


def _judged(logs: Logs, step: int) -> dict[str, float]:
    """Return the validation logs as numbers; refuse what is not finite."""
    row = {name: float(np.mean(value)) for name, value in logs.items()}
    for name, value in row.items():
        if not math.isfinite(value):
            raise _diverged(name, value, step)
    return row


def _diverged(name: str, value: float, step: int) -> ConvergenceError:
    return ConvergenceError(
        f"training diverged: {name} is {value} at step {step}; "
        "lower learning_rate, or look at the data with `cellgap check`."
    )


def _write_log(folder: Path, history: list[dict[str, float]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in history)
    replace(folder / "log.jsonl", lambda handle: handle.write(text.encode()))
