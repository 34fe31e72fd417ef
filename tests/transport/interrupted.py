"""A run that is stopped in the middle, as by a kill, or before its first step."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import jax
import numpy as np
import pytest

import cellgap.train._fit as loop
from cellgap.train import FitResult


class Stopped(Exception):
    """Raised in the middle of a run."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the next run end after the chunk that reaches `step`, before anything more is written."""

    @contextmanager
    def bar(*args, **kwargs) -> Iterator:
        def show(reached, row, seconds):
            if reached >= step:
                raise Stopped

        yield show

    monkeypatch.setattr(loop, "progress_bar", bar)


@contextmanager
def untrained(module: ModuleType) -> Iterator[None]:
    """Keep the start of what is fitted: the runs that `module` begins end before their first step.

    Nothing is compiled, and what is returned was not moved by rounding either.
    """

    def no_step(step, state, **options) -> FitResult:
        assert callable(step)
        return FitResult(state, state, 0, [], "finished")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fit", no_step)
        yield


def same(found, expected) -> None:
    """Assert that two fits have the same arrays and history, bit for bit."""
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
    assert found.history == expected.history
