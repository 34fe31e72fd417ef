"""What an answer cites, in the words of a page: passages one by one, the rows of one table together."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cellgap.ask._answer import Citation
from cellgap.ask._passage import Passage
from cellgap.report._words import count

FindEvidence = Callable[[str], Passage | Mapping[str, Any] | None]
"""Returns the passage, or the values of the row, of an identifier; None where it is not at hand."""

_SHORT = 8  # characters of an identifier that is shown whole elsewhere
_LAST = ("time_h", "effect", "q", "se", "n_cells", "n_control", "source", "dataset", "model", "extrapolates")
_NAMES = {"time_h": "time", "n_cells": "cells", "n_control": "control cells", "extrapolates": "extrapolation"}
_WORDS_ALONE = {"name": "what was cited", "number": False}
_NUMBERS = frozenset({"dose", "time_h", "effect", "se", "q", "n_cells", "n_control"})


def sources_view(citations: Sequence[Citation], evidence: FindEvidence | None) -> list[dict[str, Any]]:
    """Return what a page shows of citations, in their order; rows of one table stand where the first of them does.

    Parameters
    ----------
    citations
        Of one answer.
    evidence
        Finds what a citation points to; None: the words of the citations stand alone.
    """
    groups: dict[tuple[str, ...], list[Citation]] = {}
    for number, citation in enumerate(citations):
        of_table = bool(citation.rows) and citation.span is None and not citation.position
        groups.setdefault((citation.source, _table(citation)) if of_table else (str(number),), []).append(citation)
    return [_one(group[0], evidence) if len(group) == 1 else _rows(group, evidence) for group in groups.values()]


def _found(citation: Citation, evidence: FindEvidence | None) -> tuple[Passage | Mapping[str, Any] | None, bool]:
    """Return what a citation points to, and whether it has changed, in which case it is not what was cited."""
    found = evidence(citation.source_id) if evidence else None
    changed = found is not None and bool(citation.sha256) and _digest(found) != citation.sha256
    return (None if changed else found), changed


def _digest(found: Passage | Mapping[str, Any]) -> str:
    """Return the digest that a citation of `found` holds."""
    if isinstance(found, Passage):
        return found.sha256
    return hashlib.sha256(json.dumps(dict(found), sort_keys=True, ensure_ascii=False).encode()).hexdigest()


# ---- one passage, or one row ----


def _one(citation: Citation, evidence: FindEvidence | None) -> dict[str, Any]:
    meta = [("From", citation.source)] if citation.source else []
    if citation.span is not None:
        meta.append(("Characters", f"{citation.span[0] + 1:,} to {citation.span[1]:,} of the passage"))
    if citation.rows and citation.rows != (citation.source_id,):
        meta.append(("Row" if len(citation.rows) == 1 else "Rows", ", ".join(citation.rows)))
    meta.append(("Identifier", citation.source_id))
    if citation.sha256:
        meta.append(("SHA-256", citation.sha256))
    found, changed = _found(citation, evidence)
    return {
        "kind": "one",
        "label": str(citation.position) if citation.position else "",
        "title": citation.title or citation.source_id,
        "parts": _parts(citation, found.text if isinstance(found, Passage) else ""),
        "cells": _cells(found) if isinstance(found, Mapping) else [],
        "changed": changed,
        "meta": meta,
    }


def _parts(citation: Citation, passage: str) -> list[tuple[bool, str]]:
    """Return the text to show, cut where a mark starts or ends."""
    quote, span = citation.quote, citation.span
    if span is None:
        return [(False, quote)]
    first, last = span
    if passage and passage[first:last] == quote:
        return _cut(passage, first, last)
    if last - first < len(quote) and 0 <= first < last <= len(quote):
        return _cut(quote, first, last)  # The whole passage was quoted.
    return [(True, quote)]


def _cut(text: str, first: int, last: int) -> list[tuple[bool, str]]:
    pieces = ((False, text[:first]), (True, text[first:last]), (False, text[last:]))
    return [(marked, piece) for marked, piece in pieces if piece]


def _cells(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of a row, without those that are not known."""
    told = ((str(name), _cell(value)) for name, value in values.items() if name != "row_id")
    return [(name, value) for name, value in told if value]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# ---- the rows of one table ----


def _table(citation: Citation) -> str:
    """Return the name of the table that a row is of."""
    return citation.title.removesuffix(f" row {citation.source_id[:_SHORT]}")


def _rows(group: Sequence[Citation], evidence: FindEvidence | None) -> dict[str, Any]:
    """Return rows as a table: a line a row, and what all of them have in common told once."""
    values: list[dict[str, str] | None] = []
    changes = []
    for citation in group:
        found, changed = _found(citation, evidence)
        row = found if isinstance(found, Mapping) else None
        values.append(None if row is None else {str(name): _written(str(name), row) for name in row})
        changes.append(changed)
    known = [each for each in values if each is not None]
    columns = _columns(known)
    equal = [name for name in columns if name != "effect" and len({each.get(name, "") for each in known}) == 1]
    columns = [name for name in columns if name not in equal]
    first = group[0]
    title = f"{count(len(group), 'row')} of {_table(first) or 'a table'}"
    if any(changes):
        title += f", {sum(changes)} of them changed since"
    return {
        "kind": "rows",
        "title": title,
        "source": first.source,
        "equal": [(_name(name), known[0].get(name, "")) for name in equal],
        "columns": [{"name": _name(name), "number": name in _NUMBERS} for name in columns] or [_WORDS_ALONE],
        "lines": [
            {
                "cells": None if each is None else [each.get(name, "") for name in columns],
                "quote": citation.quote,
                "changed": changed,
                "short": citation.source_id[:_SHORT],
                "identifier": citation.source_id + (f", SHA-256 {citation.sha256}" if citation.sha256 else ""),
            }
            for citation, each, changed in zip(group, values, changes, strict=True)
        ],
    }


def _columns(known: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the columns that any row has a value in: what and where first, then the effect and how sure it is."""
    names = list(dict.fromkeys(name for each in known for name, value in each.items() if value))
    names = [name for name in names if name not in ("row_id", "unit")]
    first = [name for name in ("readout", "treatment", "dose") if name in names]
    last = [name for name in _LAST if name in names]
    return [*first, *(name for name in names if name not in (*first, *last)), *last]


def _name(column: str) -> str:
    return _NAMES.get(column, column.replace("_", " "))


def _written(name: str, row: Mapping[str, Any]) -> str:
    """Return a value of a row as it stands in a line, with its unit."""
    value = row[name]
    if not isinstance(value, float) or not math.isfinite(value):
        return _cell(value)
    digits = {"se": 2, "q": 3, "effect": 4}.get(name, 6)
    text = f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.{digits}g}"
    unit = {"dose": str(row.get("unit") or ""), "time_h": "h"}.get(name, "")
    return f"{text} {unit}".rstrip()
