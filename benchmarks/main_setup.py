"""Set-up on a fresh machine: a new environment, the package with its dependencies, and the first answer.

Question: how long does it take from nothing to a working `cellgap` command, and how long do `import cellgap` and
`cellgap --help` take after that?
Data: none. A virtual environment is made in a temporary folder and the repository is installed there with
``pip install --no-cache-dir`` from the index that pip is configured for, so the download of every dependency is
included; then `cellgap --help` must answer. The folder is removed at the end.
Machine: any with Python 3.11 or newer and an index in reach. Wall seconds, because that is what one waits for; the
download depends on the connection, and a busy machine only makes it slower.
How to read: set-up in wall seconds, one measurement; imports are the median of five runs in the new environment.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bars import Bar
from children import REPOSITORY, environment, say, table


def timed(command: list[str], folder: Path) -> float:
    """Return the wall seconds of a command; stop with what it said where it fails."""
    clean = {k: v for k, v in environment().items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=clean)
    wall = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-3000:]}")
    return wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter that makes the environment")
    args, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        binaries = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
        steps = {
            "make the environment": [args.python, "-m", "venv", str(folder / "venv")],
            "download and install": [
                str(binaries / "python"),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-cache-dir",
                "--disable-pip-version-check",
                str(REPOSITORY),
            ],
            "first cellgap --help": [str(binaries / "cellgap"), "--help"],
        }
        rows = []
        for name, command in steps.items():
            say(f"{name}: {' '.join(command)}")
            rows.append((name, timed(command, folder)))
        total = sum(seconds for _, seconds in rows)
        python = str(binaries / "python")
        imported = statistics.median(timed([python, "-c", "import cellgap"], folder) for _ in range(5))
        bare = statistics.median(timed([python, "-c", "pass"], folder) for _ in range(5))
        helped = statistics.median(timed([str(binaries / "cellgap"), "--help"], folder) for _ in range(5))
    Bar("setup", "wall seconds from nothing to `cellgap --help`, download included", total, "< 240").emit()
    Bar("setup", 'wall seconds of `python -c "import cellgap"`', imported, "< 1.5").emit()
    Bar("setup", 'wall seconds of `python -c "pass"` in the same environment', bare).emit()
    Bar("setup", "wall seconds of `cellgap --help`", helped).emit()
    rows += [("import cellgap", imported), ("cellgap --help", helped), ("python -c pass", bare)]
    table("Fresh-machine set-up", rows, ("what", "wall-s"))


if __name__ == "__main__":
    main()
