"""Run the bars of one capability: every program ``CAPABILITY_*.py`` beside this file, one after the other.

    python benchmarks/run.py main                         # all bars of the main command
    python benchmarks/run.py main --only speed,sinkhorn   # some of them
    python benchmarks/run.py main --list                  # what there is

Standard output carries JSON lines only, one a bar: ``{"capability", "bar", "what", "value", "target", "holds"}``; a
line without a target is context and neither holds nor fails. Tables and progress go to standard error. A bar that
does not hold, or a script that fails, does not stop the others; the exit code is then 1, and 0 where every bar holds.

Options that are not known here go to the scripts (``--quick``, ``--cmonge-python PATH``, ``--peer-steps N``): each
takes its own and ignores the rest.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bars import Bar, read_line

HERE = Path(__file__).resolve().parent


def scripts(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the scripts of every capability: ``{"main": {"speed": .../main_speed.py}}``."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*_*.py")):
        capability, name = path.stem.split("_", 1)
        if "__main__" in path.read_text(encoding="utf-8"):
            found.setdefault(capability, {})[name] = path
    return found


def run_script(capability: str, name: str, path: Path, options: Sequence[str]) -> list[dict[str, object]]:
    """Run one script, pass its lines through, and return them; a failure is one more line that does not hold."""
    command = [sys.executable, str(path), *options]
    lines: list[dict[str, object]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            try:
                lines.append(read_line(text))
            except ValueError:
                print(f"{path.name}: {text.rstrip()}", file=sys.stderr, flush=True)
            else:
                print(text.rstrip("\n"), flush=True)
    if process.returncode != 0 or not lines:
        ended = Bar(name, f"{path.name} ends with exit code", process.returncode, "<= 0", capability)
        if process.returncode <= 0:
            ended = Bar(name, f"{path.name} prints results and ends by itself", None, ">= 1", capability)
        lines.append(read_line(ended.emit().line()))
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("capability", nargs="?", default="main", help="main by default")
    parser.add_argument("--only", help="names separated by commas, such as speed,sinkhorn")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--folder", type=Path, default=HERE, help="where the scripts are")
    args, options = parser.parse_known_args(arguments)

    found = scripts(args.folder)
    chosen = found.get(args.capability, {})
    if not chosen:
        parser.error(f"no benchmarks named {args.capability}: there are {', '.join(sorted(found)) or 'none'}")
    if args.only:
        names = [name.strip() for name in args.only.split(",")]
        unknown = [name for name in names if name not in chosen]
        if unknown:
            parser.error(f"{args.capability} has no benchmark {', '.join(unknown)}: there are {', '.join(chosen)}")
        chosen = {name: chosen[name] for name in names}
    if args.list:
        for name, path in chosen.items():
            title = path.read_text(encoding="utf-8").split('"""')[1].strip().splitlines()[0]
            print(f"{name}: {title}")
        return 0

    lines = []
    for name, path in chosen.items():
        print(f"\n== {args.capability} {name} ==", file=sys.stderr, flush=True)
        lines += run_script(args.capability, name, path, options)
    missed = [line for line in lines if line["holds"] is False]
    held = [line for line in lines if line["holds"] is True]
    print(f"\n{len(held)} bars hold, {len(missed)} do not", file=sys.stderr)
    for line in missed:
        print(f"  {line['bar']}: {line['what']} is {line['value']}, target {line['target']}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
