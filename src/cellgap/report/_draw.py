"""Matplotlib figures as inline SVG whose colors follow the page, light or dark.

Figures are drawn with fixed placeholder colors; on the way out each becomes a CSS variable of the page. Text stays
text, so it can be searched and takes the font of the page. Nothing touches pyplot.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from cellgap.report._words import MINUS

TEXT = 11.5  # size of text, in CSS pixels at full width
SMALL = 10.5
INK = "#1c1d1e"
MUTED = "#5e6061"
GRID = "#dcddde"
CONTROL = "#7c7d7e"
MEASURED = "#0072b1"
PREDICTED = "#d35400"
ACCENT = "#6f4a9b"
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    CONTROL: "control",
    MEASURED: "measured",
    PREDICTED: "predicted",
    ACCENT: "accent",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cellgap",
    "text.parse_math": False,  # gene and treatment names may hold a dollar sign
    "font.family": ["DejaVu Sans"],  # wider than the fonts of a page, so what fits here fits there
    "font.size": TEXT,
    "text.color": INK,
    "axes.unicode_minus": True,
    "path.simplify": False,
}
_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"


@contextmanager
def drawing() -> Iterator[None]:
    """Draw inside this block: it sets the style, and keeps missing glyphs quiet (the reader's browser has them)."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        yield


def panel(
    width: float, height: float, *, left: float = 50, right: float = 12, top: float = 12, bottom: float = 42
) -> tuple[Figure, Axes]:
    """Return a figure of `width` x `height` CSS pixels with one axes inside the given margins."""
    fig = Figure(figsize=(width / 72, height / 72))
    return fig, subpanel(fig, left, top, width - left - right, height - top - bottom)


def subpanel(fig: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Return an axes at (x, y) CSS pixels from the top left corner of `fig`."""
    full_width, full_height = fig.get_size_inches() * 72
    box = (x / full_width, 1 - (y + height) / full_height, width / full_width, height / full_height)
    ax = fig.add_axes(box)
    ax.patch.set_visible(False)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set(color=MUTED, linewidth=0.8)
    ax.tick_params(length=3, width=0.8, color=MUTED, labelcolor=MUTED, labelsize=SMALL, pad=3)
    ax.xaxis.label.set(color=INK, fontsize=TEXT)
    ax.yaxis.label.set(color=INK, fontsize=TEXT)
    return ax


def linear(axis, bins: int = 4) -> None:
    """Give a linear `axis` at most `bins` intervals and ticks in plain text."""
    axis.set_major_locator(MaxNLocator(bins))
    axis.set_major_formatter(lambda x, _: _tick(x))


def logarithmic(axis, low: float, high: float, most: int = 6) -> None:
    """Give a logarithmic `axis` that spans `low` to `high` ticks at 1 (2, 5) times powers of ten, in plain text."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [f * 10.0**e for e in decades for f in factors if low * 0.999 <= f * 10.0**e <= high * 1.001]
        if 2 <= len(ticks) <= most:
            break
    step = -(-len(ticks) // most) if ticks else 1
    axis.set_major_locator(FixedLocator((ticks or [low, high])[::step]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda x, _: _tick(x))


def _tick(x: float) -> str:
    if x == 0 or 1e-3 <= abs(x) < 1e5:
        return f"{round(x, 10):g}".replace("-", MINUS)
    mantissa, exponent = f"{x:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}".replace("-", MINUS)


def dots(ax: Axes, x: np.ndarray, y: np.ndarray, color: str, *, size: float = 2.6, alpha: float = 0.6) -> None:
    """Draw points as one path of round-capped dots: a tenth of the bytes of markers, and sharp at any zoom."""
    xy = np.repeat(np.column_stack([x, y]), 2, axis=0)
    codes = np.tile([Outline.MOVETO, Outline.LINETO], len(x))
    patch = PathPatch(Outline(xy, codes), facecolor="none", edgecolor=color, linewidth=size, alpha=alpha)
    patch.set_capstyle("round")
    patch.set_zorder(2)
    ax.add_patch(patch)


def to_svg(fig: Figure, alt: str, name: str) -> str:
    """Return `fig` as an ``<svg>`` element for a page: described by `alt`, ids made unique by `name`, no outside links.

    Only what a page needs is kept: prolog, metadata, style sheet and unused ids go, and coordinates are rounded to a
    hundredth of a pixel.
    """
    fig.patch.set_visible(False)
    FigureCanvasSVG(fig)
    out = io.StringIO()
    fig.savefig(out, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(out.getvalue())
    _prune(root)
    _rename_ids(root, name)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        for attribute in ("d", "x", "y", "transform"):
            if attribute in element.attrib:
                element.set(attribute, _round(element.attrib[attribute]))
        if "style" in element.attrib:
            element.set("style", _page_style(element.attrib["style"]))
    width, height = (round(float(side)) for side in fig.get_size_inches() * 72)
    for attribute in ("version", "width", "height"):
        root.attrib.pop(attribute, None)
    root.set("viewBox", f"0 0 {width} {height}")
    root.set("style", f"width:{width}px")
    root.set("role", "img")
    root.set("aria-label", alt)
    return ElementTree.tostring(root, encoding="unicode")


def _prune(root: ElementTree.Element) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
        if parent.tag != f"{_SVG}text":
            parent.text = parent.text.strip() if parent.text else None
        parent.tail = None


def _rename_ids(root: ElementTree.Element, name: str) -> None:
    link = re.compile(r"url\(#([^)]+)\)")
    used: dict[str, str] = {}
    for element in root.iter():
        if f"{_XLINK}href" in element.attrib:
            element.set("href", element.attrib.pop(f"{_XLINK}href"))
        for value in (element.get("href", "").removeprefix("#"), *link.findall(" ".join(element.attrib.values()))):
            if value:
                used.setdefault(value, f"{name}-{len(used)}")
    for element in root.iter():
        if "id" in element.attrib:
            old = element.attrib.pop("id")
            if old in used:
                element.set("id", used[old])
        if element.get("href"):
            element.set("href", "#" + used[element.attrib["href"].removeprefix("#")])
        for attribute, value in element.attrib.items():
            if "url(#" in value:
                element.set(attribute, link.sub(lambda found: f"url(#{used[found[1]]})", value))


def _round(text: str) -> str:
    text = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), text)
    text = re.sub(r"\s+", " ", text).replace(" L ", "L").replace("M ", "M").replace(" M", "M").strip()
    return re.sub(r"M(\S+ \S+?)L\1(?=M|$)", r"M\1h0", text)


def _page_style(style: str) -> str:
    style = re.sub(r"font-family: [^;]*;?\s*", "", style)
    for color, variable in _VARIABLES.items():
        style = style.replace(color, f"var(--{variable})")
    return style
