"""Fixtures of the transport tests."""

import jax
import pytest


@pytest.fixture
def x64():
    """Double precision, for this test only."""
    with jax.enable_x64(True):
        yield
