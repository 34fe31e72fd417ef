"""A run that is stopped in the middle, as by a kill."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
import pytest

import cellgap.train._fit as loop


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


def same(found, expected) -> None:
    """Assert that two fits have the same arrays and history, bit for bit."""
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
    assert found.history == expected.history
