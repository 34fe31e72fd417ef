"""``cellgap stream pca`` and ``encode`` as a program: the library's axes, mistakes, Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import cellgap.stream.axes._backed as reading
from cellgap import storage
from cellgap.cli._app import main
from cellgap.stream import Atlas, StreamingPCA
from cellgap.stream.axes import space_of

N, D = 3000, 30


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return kept | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "MPLBACKEND": "Agg"}


def run(*arguments: object, group: tuple[str, ...] = ("stream",)) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*group, *(str(a) for a in arguments)])
    return int(ended.value.code or 0)


def write_atlas(path: Path, *, plates: int = 1, apart: float = 0.0) -> Path:
    """Write counts with three axes, sorted by plates that lie apart."""
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(3, D))
    rates = 0.4 + rng.normal(size=(N, 3)) * [1.2, 0.8, 0.5] @ axes / 5
    plate = np.arange(N) * plates // N
    rates = rates + apart * rng.normal(size=(plates, D))[plate]
    counts = rng.poisson(np.exp(np.clip(rates, -4, 5))).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame({"plate": [f"plate{i}" for i in plate]}, index=[f"c{i}" for i in range(N)])
    adata = anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(D)]))
    adata.layers["other"] = sp.csr_matrix(counts * 2)
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def atlas(tmp_path_factory) -> Path:
    return write_atlas(tmp_path_factory.mktemp("atlas") / "atlas.h5ad")


@pytest.fixture(scope="module")
def sorted_plates(tmp_path_factory) -> Path:
    return write_atlas(tmp_path_factory.mktemp("sorted") / "sorted.h5ad", plates=10, apart=1.0)


def components(path: Path) -> np.ndarray:
    space = storage.load(path.parent, name=path.stem)
    return np.asarray(space.components)


def exact(path: Path, k: int) -> np.ndarray:
    adata = anndata.read_h5ad(path)
    counts = np.asarray(adata.X.todense(), np.float64)
    values = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    return np.linalg.svd(values - values.mean(axis=0), full_matrices=False)[2][:k]


def alike(one: np.ndarray, two: np.ndarray) -> float:
    """Smallest cosine between two subspaces."""
    return float(np.linalg.svd(one @ two.T, compute_uv=False).min())


def test_axes_are_those_of_the_library(atlas, tmp_path, capsys):
    out = tmp_path / "new" / "axes.npz"
    assert run("pca", atlas, "--k", "3", "--out", out) == 0
    said = capsys.readouterr()
    assert f"axes:   {out}" in said.out and "not private" in said.out and 'kind = "Saved"' in said.out
    stream = StreamingPCA(3).fit_backed(Atlas(path=str(atlas)))
    found = storage.load(out.parent, name="axes")
    cells = Atlas(path=str(atlas)).open()
    expected = space_of(stream, cells, Atlas(path=str(atlas)))
    np.testing.assert_array_equal(found.components, expected.components)
    np.testing.assert_array_equal(found.center, expected.center)
    np.testing.assert_array_equal(found.explained, expected.explained)
    assert alike(np.asarray(found.components), exact(atlas, 3)) > 0.9999
    header = json.loads(out.with_suffix(".json").read_text())["header"]
    assert header["stream"]["private"] is False and header["atlas"]["path"] == str(atlas)
    assert sorted(p.name for p in out.parent.iterdir()) == ["axes.json", "axes.npz"]


def test_encode(atlas, tmp_path, capsys):
    out = tmp_path / "axes.npz"
    assert run("pca", atlas, "--k", "3", "--out", out, "--quiet") == 0
    assert run("encode", out, atlas, "--out", tmp_path / "deep" / "codes.npy") == 0
    assert f"{N:,} cells along 3 axes" in capsys.readouterr().out
    codes = np.load(tmp_path / "deep" / "codes.npy")
    adata = anndata.read_h5ad(atlas)
    expected = np.asarray(storage.load(tmp_path, name="axes").encode(adata, np.arange(N)))
    assert codes.dtype == np.float32 and codes.shape == (N, 3)
    np.testing.assert_allclose(codes, expected, atol=1e-5)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["codes.npy"]
    assert run("encode", out, atlas, "--out", tmp_path / "codes.txt") == 2
    assert "must name an .npy file" in capsys.readouterr().err
    assert run("encode", tmp_path / "no.npz", atlas, "--out", tmp_path / "codes.npy") == 2
    fewer = adata[:, ::2].copy()
    fewer.write_h5ad(tmp_path / "fewer.h5ad")
    assert run("encode", out, tmp_path / "fewer.h5ad", "--out", tmp_path / "codes.npy") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 2 and all(line.startswith("error: ") for line in said)
    assert not (tmp_path / "codes.npy").exists()


def test_quiet_is_quiet(sorted_plates, tmp_path, capsys):
    options = ("--k", "3", "--out", tmp_path / "axes.npz", "--solver", "blocks", "--in-file-order", "--quiet")
    assert run("pca", sorted_plates, *options) == 0
    assert capsys.readouterr() == ("", "")
    kept = json.loads((tmp_path / "axes.json").read_text())["header"]["stream"]
    assert any("order" in text for text in kept["cautions"])


def test_chosen_genes(atlas, tmp_path):
    genes = [f"g{i}" for i in range(D - 1, 5, -1)]
    (tmp_path / "genes.txt").write_text("\n".join(genes) + "\n\n")
    out = tmp_path / "axes.npz"
    assert run("pca", atlas, "--k", "2", "--genes", tmp_path / "genes.txt", "--out", out, "--quiet") == 0
    stream = StreamingPCA(2).fit_backed(Atlas(path=str(atlas), genes=tuple(genes)))
    np.testing.assert_array_equal(components(out), stream.components_.astype(np.float32))
    assert list(storage.load(tmp_path, name="axes").genes) == genes


@pytest.mark.parametrize(
    ("options", "settings", "read"),
    [
        (("--solver", "gram", "--scale"), {"solver": "gram", "scale": True}, {}),
        (("--solver", "blocks"), {"solver": "blocks"}, {}),
        (("--solver", "fd"), {"solver": "fd"}, {}),
        (("--solver", "incremental"), {"solver": "incremental"}, {}),
        (("--uncentered",), {"center": False}, {}),
        (("--layer", "other", "--transform", "log1p"), {}, {"layer": "other", "transform": "log1p"}),
        (("--transform", "arcsinh", "--seed", "4"), {"seed": 4}, {"transform": "arcsinh"}),
        (("--target-sum", "500"), {}, {"target_sum": 500.0}),
    ],
)
@pytest.mark.filterwarnings("ignore::cellgap.stream.StreamWarning")
def test_options_reach_the_stream(options, settings, read, atlas, tmp_path):
    out = tmp_path / "axes.npz"
    assert run("pca", atlas, "--k", "3", *options, "--out", out, "--quiet") == 0
    stream = StreamingPCA(3, **settings).fit_backed(Atlas(path=str(atlas), **read))
    np.testing.assert_array_equal(components(out), stream.components_.astype(np.float32))


def test_refined(atlas, tmp_path):
    for name in ("plain", "refined"):
        more = ("--refine",) if name == "refined" else ()
        options = ("--k", "3", "--solver", "fd", "--quiet", *more)
        assert run("pca", atlas, *options, "--out", tmp_path / f"{name}.npz") == 0
    true = exact(atlas, 3)
    plain, refined = (alike(components(tmp_path / f"{name}.npz"), true) for name in ("plain", "refined"))
    assert refined >= plain - 1e-6 and refined > 0.999


def test_sorted_plates(sorted_plates, tmp_path, capsys):
    """In the order of the file blocks warn; shuffled they do not; a sorted file may be refused instead."""
    options = ("--k", "3", "--solver", "blocks", "--labels", "plate", "--out", tmp_path / "axes.npz")
    assert run("pca", sorted_plates, *options, "--in-file-order") == 0
    said = capsys.readouterr().err
    assert "warning: " in said and "order is as_given" in said
    assert run("pca", sorted_plates, *options) == 0
    assert "as_given" not in capsys.readouterr().err
    assert alike(components(tmp_path / "axes.npz"), exact(sorted_plates, 3)) > 0.95


def test_the_page(atlas, tmp_path, capsys):
    page = tmp_path / "pages" / "axes.html"
    options = ("--k", "3", "--labels", "plate", "--out", tmp_path / "axes.npz", "--report", page)
    assert run("pca", atlas, *options) == 0
    assert f"report: {page}" in capsys.readouterr().out
    text = page.read_text()
    assert "<svg" in text and "atlas.h5ad" in text and "3,000 cells" in text


@contextmanager
def interrupted_at(monkeypatch, step: int):
    """Press Ctrl-C once the pass is so far."""

    @contextmanager
    def bar(*_, **__):
        def show(reached, row, seconds):
            if reached >= step:
                os.kill(os.getpid(), signal.SIGINT)

        yield show

    with monkeypatch.context() as patch:
        patch.setattr(reading, "progress_bar", bar)
        patch.setattr(reading, "_CHUNK", 500)
        yield


@pytest.mark.parametrize("solver", ["gram", "blocks", "fd"])
def test_ctrl_c_keeps_the_work(solver, atlas, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reading, "_CHUNK", 500)
    options = ("--k", "3", "--solver", solver)
    assert run("pca", atlas, *options, "--out", tmp_path / "whole.npz", "--quiet") == 0
    again = ("pca", atlas, *options, "--out", tmp_path / "axes.npz")
    with interrupted_at(monkeypatch, 1000):
        assert run(*again) == 130
    said = capsys.readouterr().err
    assert "interrupted; the work is kept in" in said and "Traceback" not in said
    assert (tmp_path / "axes.pass").is_dir() and not (tmp_path / "axes.npz").exists()
    assert run(*again, "--seed", "9") == 2
    assert "holds a pass with other settings" in capsys.readouterr().err
    taken: list[int] = []

    @contextmanager
    def counted(title, n, done, **_):
        taken.append(done)
        yield lambda *_: None

    with monkeypatch.context() as patch:
        patch.setattr(reading, "progress_bar", counted)
        assert run(*again, "--quiet") == 0
    assert taken[0] >= 1000
    np.testing.assert_array_equal(components(tmp_path / "axes.npz"), components(tmp_path / "whole.npz"))
    assert not (tmp_path / "axes.pass").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:\s*Port \d+ is already in use")
def test_workers_find_the_same_axes(atlas, tmp_path):
    pytest.importorskip("distributed")
    options = ("--k", "3", "--solver", "blocks", "--quiet", "--out")
    assert run("pca", atlas, *options, tmp_path / "one.npz") == 0
    assert run("pca", atlas, "--workers", "2", *options, tmp_path / "two.npz") == 0
    np.testing.assert_allclose(components(tmp_path / "two.npz"), components(tmp_path / "one.npz"), atol=1e-6)


@pytest.mark.slow
def test_a_run_file_names_the_axes(screen, tmp_path, cellgap):
    """Axes of the atlas, a map between its conditions in them, then what a user does with a map."""
    folder, out = tmp_path / "run", tmp_path / "axes.npz"
    assert run("pca", screen / "screen.h5ad", "--k", "5", "--out", out, "--quiet") == 0
    text = (screen / "run.toml").read_text()
    old = 'space = { kind = "PCA", dim = 5 }'
    assert old in text
    for name in ("screen.h5ad", "design.toml", "drugs.csv"):
        text = text.replace(f'"{name}"', f'"{screen / name}"')
    (tmp_path / "run.toml").write_text(text.replace(old, f'space = {{ kind = "Saved", path = "{out}" }}'))
    done = cellgap("fit", tmp_path / "run.toml", "--folder", folder, "--quiet")
    assert done.returncode == 0, done.stderr
    done = cellgap("evaluate", folder, "--n-draws", "1", "--n-cells", "25", "--quiet")
    assert done.returncode == 0 and "conditional Monge" in done.stdout, done.stderr
    done = cellgap("predict", folder, "--condition", "A1@300nM | line1", "--out", tmp_path / "cells.h5ad")
    assert done.returncode == 0, done.stderr
    cells = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert cells.n_vars == 20 and np.isfinite(np.asarray(cells.X)).all()


def changed(source: Path, path: Path, what: str) -> Path:
    adata = anndata.read_h5ad(source)
    if what in ("nan", "negative", "fraction"):
        adata.X[0, 3] = {"nan": np.nan, "negative": -2.0, "fraction": 0.5}[what]
    if what == "csc":
        adata.X = adata.X.tocsc()
    if what == "none":
        adata = adata[:0].copy()
    if what == "few":
        adata = adata[:3].copy()
    adata.write_h5ad(path)
    return path


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("", ("--target-sum", "median"), "needs all totals before the first cell"),
        ("", ("--target-sum", "-1"), "target_sum"),
        ("", ("--layer", "raw"), "raw"),
        ("", ("--genes", "{here}/no.txt"), "there is no file"),
        ("", ("--genes", "{here}/twice.txt"), "different genes"),
        ("", ("--genes", "{here}/empty.txt"), "different genes"),
        ("", ("--genes", "{here}/unknown.txt"), "1 of 2 genes are not in .*'ACTB'"),
        ("", ("--labels", "donor"), "has no column 'donor': found 'plate'"),
        ("", ("--out", "{here}/axes.csv"), "--out must name an .npz file"),
        ("", ("--report", "{here}/page.pdf"), "--report must name an .html file"),
        ("", ("--k", "0"), "k"),
        ("", ("--k", "30"), "k=30 axes need at least 31 genes"),
        ("", ("--k", "4000"), "k=4000 axes need"),
        ("", ("--solver", "exact"), "solver"),
        ("", ("--solver", "fd", "--scale"), "cannot divide genes"),
        ("", ("--solver", "gram", "--workers", "2"), "leave one out"),
        ("", ("--memory", "lots"), "memory"),
        ("", ("--seed", "-1"), "seed"),
        ("nan", (), "NaN|finite"),
        ("negative", (), "needs raw counts, found the value -2"),
        ("csc", (), "stored by columns"),
        ("none", (), "cells|empty"),
        ("few", (), "at least 4 cells"),
        ("missing", (), "There is no file"),
        ("zero", (), "is an empty file"),
        ("text", (), "not an HDF5 file"),
    ],
)
def test_mistakes_are_one_sentence(source, options, says, atlas, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "lists"
    here.mkdir()
    (here / "twice.txt").write_text("g1\ng1\n")
    (here / "empty.txt").write_text("\n")
    (here / "unknown.txt").write_text("g1\nACTB\n")
    path = tmp_path / "bad.h5ad"
    if source == "":
        path = atlas
    elif source in ("zero", "text"):
        path.write_bytes(b"" if source == "zero" else b"genes,cells")
    elif source != "missing":
        changed(atlas, path, source)
    before = {p.name for p in [*tmp_path.iterdir(), *here.iterdir()]}
    given = {"--k": "3", "--out": str(tmp_path / "new" / "axes.npz")}
    given |= dict(zip(options[::2], options[1::2], strict=False)) if "--scale" not in options else {}
    arguments = [text for pair in given.items() for text in pair] if given else []
    if "--scale" in options:
        arguments += list(options)
    assert run("pca", path, *(a.format(here=here) for a in arguments)) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and re.search(says, said) and len(said.splitlines()) == 1, said
    assert {p.name for p in [*tmp_path.iterdir(), *here.iterdir()]} == before


def test_a_sorted_stream_is_refused_where_asked(sorted_plates, tmp_path, capsys, monkeypatch):
    """Stretches that the shuffling keeps together, long ones: what a slow disk would be given."""
    whole = reading.fit_backed

    def barely(*args, **kwargs):
        return whole(*args, **kwargs, block_rows=300, fetch_blocks=1)

    monkeypatch.setattr("cellgap.stream.axes._backed.fit_backed", barely)
    out = tmp_path / "axes.npz"
    options = ("--k", "3", "--solver", "blocks", "--on-order", "raise", "--out", out, "--quiet")
    assert run("pca", sorted_plates, *options) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "shuffle them" in said and len(said.splitlines()) == 1
    assert not out.exists()


def test_a_refused_pass_does_not_stand_in_the_way(sorted_plates, tmp_path, capsys, monkeypatch):
    """Its checkpoint is not left behind: the same file with another solver is not "another pass"."""
    whole = reading.fit_backed
    monkeypatch.setattr(
        "cellgap.stream.axes._backed.fit_backed", lambda *a, **o: whole(*a, **o, block_rows=300, fetch_blocks=1)
    )
    options = ("--k", "3", "--on-order", "raise", "--out", tmp_path / "axes.npz", "--quiet")
    assert run("pca", sorted_plates, "--solver", "blocks", *options) == 2
    assert "shuffle them" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert run("pca", sorted_plates, "--solver", "gram", *options) == 0


def test_encoding_that_fails_leaves_nothing(atlas, tmp_path, capsys):
    out = tmp_path / "axes.npz"
    assert run("pca", atlas, "--k", "3", "--out", out, "--quiet") == 0
    adata = anndata.read_h5ad(atlas)
    adata.X[N - 1, 3] = -2.0
    adata.write_h5ad(tmp_path / "late.h5ad")
    before = sorted(tmp_path.iterdir())
    assert run("encode", out, tmp_path / "late.h5ad", "--out", tmp_path / "codes.npy", "--quiet") == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and len(said.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_cautions_are_not_lost_by_an_interruption(sorted_plates, tmp_path, monkeypatch, capsys):
    again = ("pca", sorted_plates, "--k", "3", "--solver", "blocks", "--in-file-order", "--out", tmp_path / "axes.npz")
    with interrupted_at(monkeypatch, 1000):
        assert run(*again) == 130
    capsys.readouterr()
    assert run(*again) == 0
    assert "order is as_given" in capsys.readouterr().err
    assert any(
        "as_given" in text for text in json.loads((tmp_path / "axes.json").read_text())["header"]["stream"]["cautions"]
    )


SLOWED = """
import sys, time
import cellgap.stream.axes._backed as reading
from cellgap.study import ShuffledReader
from cellgap.cli import main
read, calls = ShuffledReader.read, []
def slowly(self, start, stop):
    calls.append(start)
    if len(calls) == 6:
        print("now", flush=True)
    time.sleep(0.1)
    return read(self, start, stop)
ShuffledReader.read, reading._CHUNK = slowly, 200
main(sys.argv[1:])
"""


def test_ctrl_c_in_a_terminal(atlas, tmp_path):
    """As a process of its own: 130, one line, and the same command goes on to the same axes."""
    whole = ("--k", "3", "--solver", "blocks", "--quiet", "--out", tmp_path / "whole.npz")
    assert run("pca", atlas, *whole) == 0
    again = ["stream", "pca", str(atlas), "--k", "3", "--solver", "blocks", "--out", str(tmp_path / "axes.npz")]
    began = subprocess.Popen(
        [sys.executable, "-c", SLOWED, *again],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert began.stdout is not None and began.stdout.readline().strip() == "now"
    began.send_signal(signal.SIGINT)
    said = began.communicate(timeout=120)[1]
    assert began.returncode == 130, said
    assert f"the work is kept in {tmp_path / 'axes.pass'}" in said and "Traceback" not in said
    assert not (tmp_path / "axes.npz").exists() and (tmp_path / "axes.pass").is_dir()
    assert run(*again[1:], "--quiet") == 0
    np.testing.assert_array_equal(components(tmp_path / "axes.npz"), components(tmp_path / "whole.npz"))
    assert not (tmp_path / "axes.pass").exists()


def test_help(capsys):
    for command in ("pca", "encode", "release", "budget", "verify", "audit"):
        assert run(command, "--help") == 0
        assert command in capsys.readouterr().out
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert "pca" in said and "release" in said
