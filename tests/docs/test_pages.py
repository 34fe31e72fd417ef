"""The first Python example of every page runs as it stands; what a page links to exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "docs/index.md",
    "docs/main.md",
    "docs/study.md",
    "docs/encode.md",
    "docs/space.md",
    "docs/transport.md",
    "docs/generate.md",
    "docs/dynamics.md",
    "docs/embed.md",
    "docs/annotate.md",
    "docs/stream.md",
    "docs/ask.md",
    "docs/evaluate.md",
    "docs/scale.md",
)
TRAINS = ("README.md", "docs/main.md", "docs/transport.md", "docs/generate.md", "docs/dynamics.md", "docs/embed.md")


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page in TRAINS else []) for page in PAGES]
)
def test_example_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    exec(compile(example[1], page, "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_the_design_file_of_the_page_can_be_read() -> None:
    from cellgap.study import Design

    example = re.search(r"```toml\n(.*?)```", (ROOT / "docs/study.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    assert Design.from_toml(example[1]).context_names == ("cell_line", "donor")
