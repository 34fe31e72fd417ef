"""The page of one-pass principal axes: the spectrum, the order of rows, heavy rows, and what the axes are made of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from cellgap import __version__
from cellgap.errors import DataError, StorageError
from cellgap.gap import Gap
from cellgap.report._draw import drawing
from cellgap.report._stream_figures import (
    ALARM,
    course_picture,
    order_picture,
    percent,
    ratio_picture,
    scatter_picture,
    scree_picture,
)
from cellgap.report._template import environment, style
from cellgap.report._verdict import Verdict
from cellgap.report._words import count, flatten, number

if TYPE_CHECKING:
    from cellgap.stream.axes import StreamReport

_ENGINES = {
    "gram": "Gram matrix: the products of all pairs of genes, summed over all cells; exact in any order.",
    "blocks": "Doubling blocks: each is as long as all before it and leaves its factor; rows of large norm are kept as "
    "they are; for rows in random order.",
    "fd": "Frequent directions: a sketch whose error is bounded in any order, by what lies beyond its leading axes.",
    "incremental": "Incremental, as in scikit-learn: the leading axes are updated chunk by chunk; without a guarantee.",
}
_SHUFFLE = 'Read in shuffled chunks (fit_backed does), or use solver="gram" or solver="fd", which take any order.'
_WANTED = ("axis", "gene", "loading")


@dataclass(frozen=True, eq=False)
class StreamData:
    """What the page of one-pass principal axes shows.

    Parameters
    ----------
    title, subtitle
        At the head of the page.
    report
        What is known of the stream; see `cellgap.stream.axes.StreamReport`.
    top_genes
        Columns ``axis, gene, loading``: the strongest genes of the first axes; an axis 1 is the first.
    coordinates
        Of a sample of cells along the axes; empty: no cells are drawn.
    labels
        Of these cells, one each (cell type, plate, donor); empty: none.
    labels_name
        What the labels are.
    design_effect
        By how much neighbors that stay together inflate the noise of sampling; nan: not measured.
    gaps, settings
        Of the stream, as in `cellgap.report.ReportData`.
    notes
        Sentences to know when reading the page.

    Raises
    ------
    DataError
        Labels are not as many as the cells, or a column of `top_genes` is missing.
    """

    title: str
    subtitle: str
    report: "StreamReport"
    top_genes: pd.DataFrame = field(default_factory=pd.DataFrame)
    coordinates: Float[np.ndarray, "cells axes"] = field(default_factory=lambda: np.zeros((0, 2)))
    labels: Sequence[Any] | np.ndarray = ()
    labels_name: str = "label"
    design_effect: float = math.nan
    gaps: tuple[Gap, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.labels) not in (0, len(self.coordinates)):
            raise DataError(f"{len(self.coordinates)} drawn cells need as many labels, found {len(self.labels)}.")
        missing = [name for name in _WANTED if name not in self.top_genes] if len(self.top_genes) else []
        if missing:
            raise DataError(f"top_genes needs the columns {', '.join(_WANTED)}; {', '.join(missing)} is not there.")


def write_stream_report(data: StreamData, path: str | Path) -> Path:
    """Return the path of the page written from `data`: one HTML file that needs nothing else, not even a script.

    Parameters
    ----------
    data
        What to show; nothing of it is private, and so is nothing on the page.
    path
        Where to write; missing folders are made, an existing file is replaced.

    Raises
    ------
    StorageError
        `path` is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise StorageError(f"The report needs the name of a file, but {str(target)!r} is a folder. Add a name.")
    templates, report = environment(), data.report
    with drawing(), np.errstate(divide="ignore", invalid="ignore"):
        axes, genes = _axes(report), _genes(data)
        spectrum = [scree_picture(report), ratio_picture(report)]
        order = order_picture(report)
        course = course_picture(report)
        cloud = scatter_picture(data.coordinates, data.labels, data.labels_name, report)
    page = templates.get_template("stream.html").render(
        data=data,
        version=__version__,
        css=style(templates),
        verdict=stream_verdict(data),
        spectrum=[picture for picture in spectrum if picture],
        order=order,
        course=course,
        cloud=cloud,
        axes=axes,
        genes=genes,
        facts=_facts(data),
        checks=_checks(report),
        settings=flatten(data.settings),
        number=number,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8", newline="\n")
    return target


def stream_verdict(data: StreamData) -> Verdict:
    """Return how far the axes of a stream can be trusted, in words, and what to do where they cannot."""
    report = data.report
    tone, lead, sentences = _trust(report)
    explained = float(report.energy.sum() / report.whole) if report.whole > 0 else math.nan
    k = len(report.energy)
    opening = f"{count(k, 'axis', 'axes')} of {count(report.rows, 'cell')} and {count(report.genes, 'gene')}"
    if math.isfinite(explained):
        opening += f", with {percent(explained)} of the variance"
    sentences.append(f"{opening}.")
    unstable = int(report.unstable.sum())
    if unstable:
        one = unstable == 1
        sentences.append(
            f"{count(unstable, 'axis', 'axes')} of {k} {'is' if one else 'are'} within 5 % of the next (hollow in the "
            f"figures): such axes are known up to a rotation among themselves, so read the plane, not each."
        )
    return Verdict(tone, lead, tuple(sentences))


def _trust(report: "StreamReport") -> tuple[str, str, list[str]]:
    """Return tone, bold line, and what to do."""
    if report.solver == "gram":
        return "better", "Exact: these are the axes of all cells, whatever their order.", [
            "They come from the Gram matrix of the genes, in double precision; the order of rows does not matter."
        ]  # fmt: skip
    worst = max(report.order, key=lambda name: report.order[name][0], default=None)
    alarmed = worst is not None and any(p < ALARM for _, p in report.order.values())
    runs = report.labels is not None and report.labels[1] < ALARM
    tone, lead, told = "better", "", []
    if report.any_order:
        if report.solver == "fd":
            lead = "The error is bounded in any order; the axes are approximate."
            told.append("Frequent directions err by no more than what lies beyond their leading axes.")
        else:
            lead = "Exact so far: all cells are still in the first block."
    elif alarmed and worst is not None:
        f, p = report.order[worst]
        tone, lead = "worse", "The rows are sorted: do not trust these axes."
        told += [
            (
                f"The {worst} varies between stretches of the stream {number(f)} times as much as it would in random "
                f"order ({chance(p)})"
                if math.isfinite(f)
                else f"The {worst} is the same inside stretches of the stream and differs between them"
            )
            + ", so directions of the last rows win over those of the first.",
            f"What to do: {_SHUFFLE[0].lower()}{_SHUFFLE[1:]}",
        ]
    elif runs:
        tone, lead = "unclear", "The labels come in runs: rows are not in random order, so read these axes with care."
        told += ["The four statistics of the rows show nothing, but the labels do.", f"What to do: {_SHUFFLE}"]
    elif not report.order:
        tone, lead = "unclear", "Whether the rows are in random order is not known."
        told.append(f"There are too few rows to check, and the guarantee needs random order. {_SHUFFLE}")
    elif report.solver == "incremental":
        tone, lead = "unclear", "The order of rows holds, but this solver has no guarantee."
        told.append('It loses axes that fewer directions than it keeps cannot hold: compare with solver="blocks".')
    else:
        lead = "The order of rows holds: nothing says that these axes are wrong."
        told.append("A check that is passed is no proof of random order.")
    if report.heavy_passed:
        text = (
            f"{count(report.heavy_passed, 'heavy row')} found no room beside the {report.heavy_kept:,} that are kept, "
            "so the guarantee for heavy rows is void. What to do: raise heavy_rows above "
            f"{report.heavy_kept + report.heavy_passed:,}."
        )
        if tone != "worse":
            tone, lead, told = "worse", "Heavy rows had no room: the first axes may be missed.", [text, *told]
        else:
            told.append(text)
    return tone, lead, told


def _axes(report: "StreamReport") -> list[dict[str, str]]:
    table = report.table()
    return [
        {
            "axis": f"{int(row['axis'])}",
            "variance": number(row["variance"]),
            "share": percent(row["share"]),
            "cumulated": percent(row["cumulated"]),
            "ratio": number(row["ratio"], 4),
            "stable": "only the plane with the next" if row["unstable"] else "" if row["ratio"] >= 1 else "not known",
        }
        for row in table.to_dict("records")
    ]


def _genes(data: StreamData) -> list[dict[str, Any]]:
    """Return the genes of each axis, those that go up with it and those that go down, the strongest first."""
    if not len(data.top_genes):
        return []
    share = data.report.energy / data.report.whole
    unstable = data.report.unstable
    made = []
    for axis, part in data.top_genes.groupby("axis", sort=True):
        part = part.iloc[np.argsort(-np.abs(part["loading"].to_numpy(float)), kind="stable")]
        pairs = list(zip(part["gene"], part["loading"], strict=True))
        up = [(str(gene), number(value, 2)) for gene, value in pairs if value > 0]
        down = [(str(gene), number(value, 2)) for gene, value in pairs if value < 0]
        place = int(axis) - 1  # pyright: ignore[reportArgumentType]
        known = 0 <= place < len(share)
        made.append(
            {
                "axis": f"{place + 1}",
                "share": percent(share[place]) if known else "n/a",
                "sides": (up, down),
                "unstable": bool(known and unstable[place]),
            }
        )
    return made


def _facts(data: StreamData) -> list[tuple[str, str]]:
    """Return what the engine did and what it takes, in words."""
    report = data.report
    dense = 8 * report.rows * report.genes
    grows = "until the first block is full" if report.solver == "blocks" and report.any_order else "no more"
    made = [
        ("Engine", _ENGINES.get(report.solver, report.solver)),
        (
            "Memory",
            f"{memory(report.nbytes)} for the summary of {count(report.rows, 'cell')}; it grows {grows} with further "
            f"cells. All of them as a dense matrix take {memory(dense)}.",
        ),
    ]
    if report.solver == "blocks":
        kept = f"{count(report.heavy_kept, 'row')} of large norm kept as they are"
        passed = "none was without room" if not report.heavy_passed else f"{report.heavy_passed:,} found no room"
        limit = f" Heavy: squared norm of {number(report.threshold)} or more." if report.threshold > 0 else ""
        made += [
            ("Blocks", f"{count(report.blocks, 'closed block')}, and the one that is open."),
            ("Heavy rows", f"{kept}; {passed}.{limit}"),
        ]
    share = max(0.0, report.unmodelled_share)
    made.append(
        ("Not modelled", f"{percent(share)} of the variance is not held by the summary; a flat spectrum has much.")
    )
    if math.isfinite(data.design_effect):
        made.append(
            (
                "Neighbors in the file",
                f"Design effect {number(data.design_effect)}: by so much do cells that are read together inflate the "
                "noise of sampling (1 = not at all).",
            )
        )
    return made


def _checks(report: "StreamReport") -> list[str]:
    """Return what is said of the labels beside the check of the order."""
    if report.labels is None:
        return []
    ratio, p = report.labels
    even = "They come in runs." if p < ALARM else "They are spread as in random order."
    return [
        f"Labels against windows of the stream: chi-square over its degrees of freedom {number(ratio)} (random order: "
        f"about 1), {chance(p)}. {even}"
    ]


def chance(p: float) -> str:
    """Return a p value in words, which may be too small for a number."""
    return f"p = {number(p, 2)}" if p > 0 else "p below 1e\N{MINUS SIGN}300"


def memory(nbytes: float) -> str:
    """Return a size in words: ``"96 MB"``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{number(nbytes / size)} {unit}"
    return count(nbytes, "byte")
