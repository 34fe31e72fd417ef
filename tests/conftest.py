"""Shapes in public signatures are checked at run time, programs are compiled once, and real data are found here."""
# ruff: noqa: E402, threads are set before anything loads linear algebra

import os

for _library in ("OPENBLAS", "OMP", "MKL"):
    # Workers side by side, each with as many threads as there are cores, wait for one another most of the time.
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")
# Nearly all the time of the tests was spent on optimizing programs that then run for a moment: XLA is told not to, here
# and in the subprocesses. XLA_FLAGS="" tests the programs as users run them.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
# What several tests, workers and subprocesses compile alike is compiled once, and kept for the next run.
_CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
_hook = install_import_hook(
    [
        f"cellgap.{name}"
        for name in ("ot", "nn", "train", "transport", "generate", "dynamics", "embed", "stream", "annotate", "ask")
    ],
    "beartype.beartype",
)


def data_root() -> Path | None:
    """Return the folder of real data sets, or None where there is none."""
    given = os.environ.get("CELLGAP_DATA")
    root = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    return root if root.is_dir() else None


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark of tests whose bits hang on the optimizations of XLA."""
    config.addinivalue_line("markers", "optimized: runs in a process of its own, with the optimizations of XLA")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test marked ``optimized`` by itself, its programs optimized as those of users are."""
    if pyfuncitem.get_closest_marker("optimized") is None or not os.environ["XLA_FLAGS"]:
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", pyfuncitem.nodeid]
    flags = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=pyfuncitem.config.rootpath, env=flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return True


def memory_maps() -> int:
    """Return how many memory maps the process has; where the system does not say, more than there can be."""
    maps = Path("/proc/self/maps")
    return len(maps.read_bytes().splitlines()) if maps.exists() else 2**16


@pytest.fixture(scope="module", autouse=True)
def programs_of_a_module() -> Iterator[None]:
    """Let go of compiled programs between modules: each takes memory maps, of which a process has 65,530."""
    yield
    # The next module uses some of them again; one that compiles much takes 11,000 maps.
    if "jax" in sys.modules and memory_maps() > 10_000:
        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real data sets; the test is skipped where it is absent."""
    root = data_root()
    if root is None:
        pytest.skip("no real data here: set CELLGAP_DATA to the folder that holds them")
    return root
