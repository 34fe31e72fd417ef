"""The demo, small: everything it promises is written, and the same seed gives the same numbers."""

from pathlib import Path

import pandas as pd
import pytest
from anndata import read_h5ad

from cellgap.cli import main
from cellgap.study import Design, check


@pytest.mark.slow
def test_demo(cellgap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--n-steps", "30", "--n-cells", "100", "--seed", "2")
    done = cellgap("demo", "--folder", "one", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    for text in ("replicate", "mean effect", "share of the true effect", "Monge gap", "next:", "extrapolates"):
        assert text in done.stdout + done.stderr
    one = tmp_path / "one"
    assert check(read_h5ad(one / "screen.h5ad"), Design.read(one / "design.toml")).ok
    page = (one / "report.html").read_text()
    assert "it never saw" in page and page.count("<svg") > 20
    cells = read_h5ad(one / "predicted.h5ad")
    assert cells.obs["condition"].nunique() == 2

    # The second time in this process, and without the page, whose figures take longest and are not compared.
    monkeypatch.chdir(tmp_path)
    pages = []
    monkeypatch.setattr(
        "cellgap.cli._report.write_page", lambda run, path, **how: pages.append((path, how["progress"]))
    )
    with pytest.raises(SystemExit) as end:
        main(["demo", "--folder", "two", *arguments, "--quiet"])
    again = capsys.readouterr()
    assert end.value.code == 0, again.err
    assert again.err == "" and pages == [(Path("two/report.html"), False)]
    assert again.out.replace("two", "one") == done.stdout
    first, second = (pd.read_csv(tmp_path / name / "run" / "table.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(first, second)

    with pytest.raises(SystemExit) as end:
        main(["demo", "--folder", "one", "--n-steps", "31", "--n-cells", "100", "--seed", "2"])
    assert end.value.code == 2 and "holds another run" in capsys.readouterr().err
