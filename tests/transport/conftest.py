"""Programs that several tests compile alike are compiled once a session."""

from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

_NAMES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep JAX's persistent cache for the session, unless one was named outside."""
    before = [getattr(jax.config, name) for name in _NAMES]
    if before[0] is None:
        for name, value in zip(_NAMES, (str(tmp_path_factory.mktemp("compiled")), 0.0), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    yield
    for name, value in zip(_NAMES, before, strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
