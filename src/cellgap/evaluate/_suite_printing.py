"""How the suite prints: predictors as rows, its six members as columns, and what had no value below."""

from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cellgap.evaluate._cell_eval import MEMBERS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cellgap.evaluate._suite import SuiteResult


def rendered(result: "SuiteResult") -> "RenderableType":
    """Return the printable table of a suite, with its remarks below it."""
    summary = result.summary()
    entries = {(row["predictor"], row["member"]): row for row in summary.to_dict("records")}
    n = len(set(result.table["context"]))
    table = Table(
        title=f"vcc2026 on raw counts, mean over {n} context{'s' if n > 1 else ''} "
        "(in brackets: 0 = mean effect, 1 = replicate)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("predictor", no_wrap=True)
    for member in MEMBERS:
        table.add_column(f"{member.short} {'↑' if member.better == 'higher' else '↓'}", justify="right", no_wrap=True)
    table.add_column("scaled", justify="right", no_wrap=True)
    answered = set(result.table["predictor"][result.table["n_pred"] > 0])
    names = [name for name, kind in result.kinds.items() if kind == "model" or name in answered]
    for i, name in enumerate(names):
        cells = [_entry(entries[name, member.name]) for member in MEMBERS]
        mean = float(entries[name, "mean"]["scaled"])
        last = i + 1 == len(names) or result.kinds[names[i + 1]] != result.kinds[name]
        table.add_row(Text(name), *cells, _number(mean), end_section=last)
    return Group(table, *(Text(remark, style="dim") for remark in _remarks(result, names)))


def _entry(row: dict) -> Text:
    text = Text(_number(row["value"]))
    if np.isfinite(row["scaled"]):
        text.append(f" ({row['scaled']:.2f})", style="dim")
    return text


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "-"


def _remarks(result: "SuiteResult", names: list[str]) -> list[str]:
    """Return one line for every reason why members have no value or no scale."""
    rows = result.table.to_dict("records")
    told: dict[str, list[dict]] = {}
    for row in rows:
        if row["note"] and row["predictor"] in names:
            told.setdefault(row["note"], []).append(row)
    shorts = {member.name: member.short for member in MEMBERS}
    contexts = len({row["context"] for row in rows})
    remarks = []
    for note, part in told.items():
        members, who, where = (list(dict.fromkeys(row[k] for row in part)) for k in ("member", "predictor", "context"))
        which = "" if len(members) == len(MEMBERS) else f"{', '.join(shorts[name] for name in members)}: "
        whom = "all" if len(who) == len(names) else ", ".join(who)
        remarks.append(f"{which}{note} ({whom}; {len(where)} of {contexts} contexts)")
    return remarks
