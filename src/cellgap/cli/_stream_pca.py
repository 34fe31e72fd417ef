"""Axes of a file: found, kept as a space, shown on a page."""

import dataclasses
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellgap.cli._say import warn
from cellgap.errors import CellgapError, ConfigError, DataError

_SAMPLE = 4000  # cells on the picture of the page
_CHUNK = 8192


@dataclass(frozen=True)
class Asked:
    """Arguments of ``cellgap stream pca``; see there."""

    path: Path
    k: int
    out: Path
    layer: str | None
    genes: Path | None
    transform: str
    target_sum: str
    solver: str
    scale: bool
    center: bool
    shuffle: bool
    on_order: str
    labels: str | None
    memory: str
    refine: bool
    workers: int | None
    seed: int
    report: Path | None
    quiet: bool

    @property
    def checkpoint(self) -> Path:
        """Folder in which the pass is kept while it goes on."""
        return self.out.with_name(f"{self.out.stem}.pass")


def find_axes(asked: Asked) -> list[Any]:
    """Return lines to print after finding the axes and writing them.

    Raises
    ------
    CellgapError
        Anything the user got wrong, before the pass begins.
    """
    from cellgap import storage
    from cellgap.stream import Atlas, StreamingPCA, StreamWarning
    from cellgap.stream.axes import space_of
    from cellgap.stream.axes._cautions import AS_GIVEN

    if asked.out.suffix != ".npz":
        raise ConfigError(f"--out must name an .npz file, found {str(asked.out)!r}.")
    if asked.report is not None and asked.report.suffix != ".html":
        raise ConfigError(f"--report must name an .html file, found {str(asked.report)!r}.")
    if asked.solver not in ("auto", "blocks") and asked.workers is not None:
        raise ConfigError(f"--workers share the sums of blocks, which --solver {asked.solver} has not: leave one out.")
    transform: Any = asked.transform
    atlas = Atlas(
        path=str(asked.path), layer=asked.layer, genes=_names(asked.genes), transform=transform,
        target_sum=_number(asked.target_sum), labels=asked.labels,
    )  # fmt: skip
    stream = StreamingPCA(
        asked.k, solver="blocks" if asked.workers is not None else asked.solver, scale=asked.scale,
        center=asked.center, order="check" if asked.shuffle else "as_given", on_order=asked.on_order,
        memory=asked.memory, seed=asked.seed,
    )  # fmt: skip
    cells = atlas.open()
    for n, what in ((cells.n_obs, "cells"), (cells.n_vars, "genes")):
        if n <= asked.k:
            raise DataError(f"k={asked.k} axes need at least {asked.k + 1} {what}, found {n}.")
    cells.first(64)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", StreamWarning)
        _pass(asked, stream, atlas)
        try:
            if asked.refine:
                stream.refine(cells.chunks(_CHUNK))
            space = space_of(stream, cells, atlas)
            found, gaps = stream.report(), stream.gaps()
        except CellgapError:
            # A whole pass whose axes are refused would stand in the way of one with other settings.
            shutil.rmtree(asked.checkpoint, ignore_errors=True)
            raise
    cautions = [str(w.message) for w in told if issubclass(w.category, StreamWarning)]
    if not asked.shuffle and found.solver == "blocks" and not any(AS_GIVEN in text for text in cautions):
        # Said when the pass began, before it was interrupted.
        cautions.insert(0, f"StreamingPCA: {AS_GIVEN}.")
    if not asked.quiet:
        for text in cautions:
            warn(text)
    facts = {**found.facts(), "design_effect": stream.design_effect, "private": False, "cautions": cautions}
    if not np.isfinite(stream.design_effect):
        facts["design_effect"] = None
    storage.save(
        space, asked.out.parent, name=asked.out.stem, header={"stream": facts, "atlas": dataclasses.asdict(atlas)}
    )
    lines: list[Any] = [
        found.table().head(10).to_string(index=False, float_format=lambda x: f"{x:.4g}"),
        *map(str, gaps),
        f"axes:   {asked.out} (with {asked.out.stem}.json; not private)",
    ]
    if asked.report is not None:
        lines.append(f"report: {_page(asked, stream, space, cells, found, gaps, cautions)}")
    lines.append(f'next:   in a run file, space = {{ kind = "Saved", path = "{asked.out}" }}')
    shutil.rmtree(asked.checkpoint, ignore_errors=True)
    return lines


def _pass(asked: Asked, stream: Any, atlas: Any) -> None:
    options: dict[str, Any] = {
        "shuffle": asked.shuffle, "checkpoint": asked.checkpoint, "progress": not asked.quiet,
    }  # fmt: skip
    if asked.workers is None:
        stream.fit_backed(atlas, **options)
        return
    from cellgap.evaluate import local_workers

    with local_workers(asked.workers) as client:
        stream.fit_backed(atlas, client=client, **options)


def _page(asked: Asked, stream: Any, space: Any, cells: Any, found: Any, gaps: Any, cautions: list[str]) -> Path:
    import pandas as pd

    from cellgap.report import StreamData, write_stream_report
    from cellgap.settings import to_dict

    assert asked.report is not None
    rows = np.sort(np.random.default_rng(asked.seed).permutation(cells.n_obs)[:_SAMPLE])
    names = np.asarray(cells.genes)
    strongest = [
        {"axis": i + 1, "gene": names[j], "loading": float(axis[j])}
        for i, axis in enumerate(np.asarray(space.components)[:6])
        for j in np.argsort(-np.abs(axis), kind="stable")[:8]
    ]
    page = StreamData(
        title=asked.path.name,
        subtitle=f"{asked.k} principal axes of {found.rows:,} cells and {found.genes:,} genes in one pass",
        report=found,
        gaps=tuple(gaps),
        top_genes=pd.DataFrame(strongest),
        coordinates=np.asarray(stream.transform(cells.values(rows)))[:, :2],
        labels=() if cells.labels is None else cells.labels[rows],
        labels_name=asked.labels or "label",
        design_effect=stream.design_effect,
        settings={"stream": to_dict(stream.settings), "refined": asked.refine, "transform": asked.transform},
        notes=tuple(cautions),
    )
    return write_stream_report(page, asked.report)


def encode_cells(axes: Path, atlas: Path, out: Path, *, progress: bool) -> tuple[int, int]:
    """Return the numbers of cells and axes after writing the coordinates of all cells.

    Raises
    ------
    CellgapError
        Anything the user got wrong.
    """
    from cellgap import storage
    from cellgap.space import AbstractFittedSpace
    from cellgap.study._read import open_study_file
    from cellgap.train import progress_bar

    if out.suffix != ".npy":
        raise ConfigError(f"--out must name an .npy file, found {str(out)!r}.")
    space = storage.load(axes.parent, name=axes.stem)
    if not isinstance(space, AbstractFittedSpace):
        raise ConfigError(f"{axes} holds a {type(space).__name__} and no space.")
    adata = open_study_file(atlas, backed=True)
    space.encode(adata, np.arange(min(8, adata.n_obs)))
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    codes = np.lib.format.open_memmap(part, "w+", np.float32, (adata.n_obs, space.dim))
    try:
        with progress_bar(f"encoding {atlas.name}", adata.n_obs, 0, shown=progress) as shown:
            for start in range(0, adata.n_obs, _CHUNK):
                rows = np.arange(start, min(start + _CHUNK, adata.n_obs))
                codes[rows] = space.encode(adata, rows)
                shown(int(rows[-1]) + 1, {}, 0.0)
        codes.flush()
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return adata.n_obs, space.dim


def _names(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    if not path.is_file():
        raise ConfigError(f"--genes: there is no file {str(path)!r}.")
    names = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--genes {path} must name different genes, one a line.")
    return names


def _number(text: str) -> "float | str":
    try:
        return float(text)
    except ValueError:
        return text
