"""The program answers at once, and a mistake is one sentence."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cellgap.cli import main

HEAVY = ("jax", "anndata", "pandas", "scipy", "matplotlib", "numpy", "sklearn", "equinox")


def code_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["fit", "--help"], ["fit", "--example"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from cellgap.cli import main\n"
        f"try: main({arguments!r})\n"
        f"except SystemExit as end: assert not end.code\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]; assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("demo", "check", "fit", "compare", "predict", "evaluate", "report"):
        assert code_of(command, "--help") == 0
        assert f"cellgap {command}" in capsys.readouterr().out


def test_the_example_is_a_run_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("fit", "--example") == 0
    assert set(tomllib.loads(capsys.readouterr().out)) == {"data", "design", "split", "model", "run"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fti",), "fti"),
        (("fit", "run.toml", "--fodler", "x"), "--fodler"),
        (("fit",), "fit needs a run file"),
        (("fit", "absent.toml"), "There is no file 'absent.toml'"),
        (("check", "absent.h5ad", "--design", "absent.toml"), "absent.toml"),
        (("predict", "absent", "--condition", "a"), "is not the folder of a run"),
        (("predict", "absent"), "--condition"),
        (("evaluate", "absent"), "is not the folder of a run"),
        (("evaluate", "absent", "--n-cells", "many"), "many"),
        (("report", "absent"), "is not the folder of a run"),
        (("demo", "--n-steps", "0"), "--n-steps"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert code_of(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and says in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert code_of("demo", "--folder", str(tmp_path / "file" / "demo")) == 2
    assert "error: cannot use" in capsys.readouterr().err
    assert code_of("demo", "--folder", str(tmp_path)) == 2
    assert "holds other files, which the demo would overwrite" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cellgap.cli._run_file.read_toml", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["fit", str(tmp_path / "run.toml")])


def test_check_says_everything_that_is_wrong(screen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    design = screen / "design.toml"
    assert code_of("check", str(screen / "screen.h5ad"), "--design", str(design)) == 0
    assert "control | line1" in capsys.readouterr().out
    assert code_of("check", str(screen / "screen.h5ad"), "--design", str(design), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and len(found["populations"]) == 18 and not found["errors"]

    wrong = tmp_path / "design.toml"
    text = design.read_text().replace('control = "vehicle"', 'control = "DMSO"').replace('"X"', '"raw"')
    wrong.write_text(text)
    assert code_of("check", str(screen / "screen.h5ad"), "--design", str(wrong), "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"] and any("DMSO" in text for text in found["warnings"])
    assert any("raw" in e["message"] and e["type"] == "DesignError" for e in found["errors"])
    assert code_of("check", str(screen / "screen.h5ad"), "--design", str(wrong)) == 2
    assert "error: Design(counts='raw')" in capsys.readouterr().out
