"""Matrices of signed values as colored squares whose colors follow the page."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cellgap.report._draw import INK, MEASURED, MUTED, PREDICTED, SMALL, dots, panel, subpanel
from cellgap.report._words import number, shorten

_LETTER = 6.6  # width of a letter of a label, in CSS pixels


def matrix(
    values: Float[np.ndarray, "rows columns"],
    row_names: Sequence[str],
    column_names: Sequence[str],
    *,
    marks: Bool[np.ndarray, "rows columns"] | None = None,
    rows: str,
    columns: str,
    legend: Sequence[tuple[str, str]],
    side: float = 22.0,
    turned: bool = True,
) -> Figure:
    """Return a matrix: orange above 0, blue below, as strong as the value is large.

    Parameters
    ----------
    values
        Signed numbers; entries that are not finite stay empty.
    row_names, column_names
        Of rows and columns.
    marks
        Which entries have a dot.
    rows, columns
        What rows and columns are.
    legend
        Words and their colors.
    side
        Of a square, in CSS pixels.
    turned
        Write the names of the columns upright.
    """
    n, m = values.shape
    names, heads = [shorten(str(r), 14) for r in row_names], [shorten(str(c), 14) for c in column_names]
    left = 34 + _LETTER * max(map(len, names))
    under = 34 + (_LETTER * max(map(len, heads)) if turned else 16)
    top = 38.0
    width = max(left + m * side + 14, 60 + sum(30 + 7 * len(text) for text, _ in legend) + 120)
    height = top + n * side + under
    fig, _ = panel(width, height)
    fig.clear()
    ax = subpanel(fig, left, top, m * side, n * side)
    finite = values[np.isfinite(values)]
    most = float(np.abs(finite).max()) if finite.size else 0.0
    most = most if most > 0 else 1.0
    for i, j in zip(*np.nonzero(np.isfinite(values) & (np.abs(values) >= 0.01 * most)), strict=True):
        color = PREDICTED if values[i, j] > 0 else MEASURED
        strength = min(1.0, 0.08 + 0.92 * float(abs(values[i, j])) / most)
        ax.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, facecolor=color, alpha=strength, linewidth=0))
    if marks is not None and marks.any():
        y, x = np.nonzero(marks)
        dots(ax, x.astype(float), y.astype(float), INK, size=4.0, alpha=0.9)
    ax.set_xlim(-0.5, m - 0.5)
    ax.set_ylim(n - 0.5, -0.5)
    ax.set_yticks(range(n), names)
    ax.set_xticks(range(m), heads, rotation=90 if turned else 0)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel(columns)
    ax.set_ylabel(rows)
    x = 12.0
    for text, color in legend:
        fig.text(x / width, 1 - 14 / height, text, color=color, va="center", weight="bold")
        x += 24 + 7.4 * len(text)
    fig.text(x / width, 1 - 14 / height, f"strongest: {number(most)}", color=MUTED, fontsize=SMALL, va="center")
    return fig
