"""Programs run one after the other as children of this process, with their CPU time and peak memory.

Ours and the peers are measured the same way: a child does the work, takes its own CPU seconds (user and system,
all threads, from ``os.times``) around the part in question, and prints one JSON object as its last line. The parent
adds the CPU seconds and the peak memory of the whole child, which the kernel hands over when it ends (``wait4``).
The environment is the same for every child; nothing is pinned; JAX's compilation cache on disk is switched off, so
that compiling is paid, and shown, by both sides.

A child's peak memory never reads lower than the parent's own size when it was started, so a parent stays small:
it loads numpy and nothing heavier.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent


def environment() -> dict[str, str]:
    """Return the environment of every child: this one, without JAX's cache, on the CPU."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    env["JAX_PLATFORMS"] = "cpu"
    env["PYTHONWARNINGS"] = "ignore"
    return env


def run_child(
    program: str, arguments: Mapping[str, object], python: str | Path | None = None, *, quiet: bool = True
) -> dict[str, float]:
    """Run a program below this folder and return what it printed with its CPU seconds and memory.

    Parameters
    ----------
    program
        Path relative to this folder.
    arguments
        Passed as ``--name value``.
    python
        Interpreter; this one by default.
    quiet
        Keep the child's standard error unless it fails.

    Returns
    -------
    dict
        The child's JSON object, with ``process_cpu_s`` (seconds) and ``peak_mb`` (10^6 bytes) added.

    Raises
    ------
    RuntimeError
        Where the child fails or prints no JSON.
    """
    command = [str(python or sys.executable), str(HERE / program)]
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err if quiet else None, env=environment())
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        lines = out.read().splitlines()
        err.seek(0)
        said = err.read()
    if child.returncode != 0 or not lines:
        raise RuntimeError(f"{' '.join(command)} ended with code {child.returncode}:\n{said[-3000:]}")
    try:
        result = json.loads(lines[-1])
    except json.JSONDecodeError as error:
        raise RuntimeError(f"{' '.join(command)} printed no JSON object last:\n{lines[-1][:500]}") from error
    result["process_cpu_s"] = usage.ru_utime + usage.ru_stime
    scale = 1 if sys.platform == "darwin" else 1024
    result["peak_mb"] = usage.ru_maxrss * scale / 1e6
    return result


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of every numeric field over repeated runs of one child."""
    names = [k for k, v in runs[0].items() if isinstance(v, int | float)]
    return {k: statistics.median(float(r[k]) for r in runs) for k in names}


def table(title: str, rows: Sequence[Sequence[object]], header: Sequence[str]) -> None:
    """Print a plain table on standard error."""
    cells = [[str(h) for h in header]]
    cells += [[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    print(f"\n{title}", file=sys.stderr)
    for row in cells:
        print("  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip(), file=sys.stderr)
    sys.stderr.flush()


def say(text: str) -> None:
    """Print one line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)
