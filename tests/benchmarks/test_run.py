"""The benchmark runner: what it lists, what a line looks like, and that a failure is seen and stops nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FIELDS = ["capability", "bar", "what", "value", "target", "holds"]

TRIVIAL = '''
"""A trivial bar."""
import sys
sys.path.insert(0, {benchmarks!r})
from bars import Bar
Bar("trivial", "one", 1.0, ">= 1").emit()
Bar("trivial", "context", 0.25).emit()
if __name__ == "__main__":
    print("a word that is no result")
'''
MISSED = '''
"""A bar that does not hold."""
import sys
sys.path.insert(0, {benchmarks!r})
from bars import Bar
if __name__ == "__main__":
    Bar("missed", "two", {value}, "< 1.5").emit()
'''
CRASHED = '"""A script that fails."""\nif __name__ == "__main__":\n    raise SystemExit(3)\n'


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(text) for text in done.stdout.splitlines()]


def write(folder: Path, **programs: str) -> None:
    for name, text in programs.items():
        (folder / f"main_{name}.py").write_text(text)


def test_list_names_every_script_with_its_title():
    done = run("main", "--list")
    assert done.returncode == 0, done.stderr
    names = [text.split(":")[0] for text in done.stdout.splitlines()]
    assert {"setup", "sinkhorn", "speed"} <= set(names)
    assert names == [path.stem.removeprefix("main_") for path in sorted(BENCHMARKS.glob("main_*.py"))]
    assert all(len(text.split(": ", 1)[1]) > 20 for text in done.stdout.splitlines())


def test_lines_of_a_trivial_bar(tmp_path):
    write(tmp_path, trivial=TRIVIAL.format(benchmarks=str(BENCHMARKS)))
    done = run("main", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [list(line) for line in lines(done)] == [FIELDS, FIELDS]
    assert lines(done)[0] == {
        "capability": "main",
        "bar": "trivial",
        "what": "one",
        "value": 1.0,
        "target": ">= 1",
        "holds": True,
    }
    assert lines(done)[1]["holds"] is None
    assert "a word that is no result" in done.stderr


def test_a_missed_bar_and_a_failing_script_do_not_stop_the_others(tmp_path):
    trivial = TRIVIAL.format(benchmarks=str(BENCHMARKS))
    write(tmp_path, a_crashed=CRASHED, b_missed=MISSED.format(benchmarks=str(BENCHMARKS), value=2.0), trivial=trivial)
    done = run("main", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert [(line["bar"], line["holds"]) for line in lines(done)] == [
        ("a_crashed", False),
        ("missed", False),
        ("trivial", True),
        ("trivial", None),
    ]


def test_a_value_that_is_not_finite_does_not_hold(tmp_path):
    write(tmp_path, missed=MISSED.format(benchmarks=str(BENCHMARKS), value="float('nan')"))
    done = run("main", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert lines(done)[0]["value"] is None
    assert lines(done)[0]["holds"] is False


def test_only_chooses_and_refuses_unknown_names(tmp_path):
    write(tmp_path, trivial=TRIVIAL.format(benchmarks=str(BENCHMARKS)), a_crashed=CRASHED)
    assert run("main", "--only", "trivial", "--folder", str(tmp_path)).returncode == 0
    refused = run("main", "--only", "nothing", "--folder", str(tmp_path))
    assert refused.returncode == 2
    assert "a_crashed, trivial" in refused.stderr


@pytest.mark.parametrize(
    ("value", "target", "holds"),
    [
        (20.0, ">= 20", True),
        (19.9, ">= 20", False),
        (1e-4, "<= 1e-4", True),
        (2e-4, "<= 1e-4", False),
        (1.5, "< 1.5", False),
    ],
)
def test_targets(monkeypatch, value, target, holds):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from bars import Bar, read_line

    assert read_line(Bar("x", "y", value, target).line())["holds"] is holds
