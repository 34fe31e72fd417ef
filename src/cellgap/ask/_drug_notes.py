"""What drugs are: names, synonyms, targets and mechanisms, from an annotation table."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellgap.ask._answer import Citation
from cellgap.ask._effect_table import EffectTable
from cellgap.ask._lexicon import Lexicon, Name, pieces
from cellgap.ask._passage import clean
from cellgap.ask._table_read import read_rows
from cellgap.errors import DataError
from cellgap.study._wording import listed

_FIELDS = ("synonyms", "targets", "mechanism", "phase")
_LIST = re.compile(r"\s*[|;]\s*")


@dataclass(frozen=True)
class DrugNotes:
    """Annotations of drugs.

    Parameters
    ----------
    records
        Name of a drug to its ``synonyms``, ``targets``, ``mechanism`` and ``phase``, each a text; several synonyms or
        targets stand with ``|`` or ``;`` between them.
    source
        File and version.
    """

    records: Mapping[str, Mapping[str, str]]
    source: str = ""

    @classmethod
    def read(cls, path: str | Path) -> "DrugNotes":
        """Return the annotations in a table with a column ``name`` and any of synonyms, targets, mechanism, phase.

        Raises
        ------
        DataError
            The file cannot be read, has no column ``name``, or names a drug twice or not at all.
        """
        path = Path(path)
        rows = read_rows(path)
        columns = {str(c).strip().lower(): c for c in rows.frame.columns}
        if "name" not in columns:
            raise DataError(f"{path} has no column 'name' of drugs; it has {listed(list(rows.frame.columns), 12)}.")
        records: dict[str, dict[str, str]] = {}
        for i, line in enumerate(rows.lines.tolist()):
            values = {f: _text(rows.frame[columns[f]].iloc[i]) for f in ("name", *_FIELDS) if f in columns}
            name = values.pop("name")
            if not name or name in records:
                found = f"names {name!r} a second time" if name else "has no name"
                raise DataError(f"{path}, {rows.counts} {line}, {found}: expected one row a drug.")
            records[name] = values
        return cls(records, f"{path} (version {rows.sha256[:12]})")

    def lexicon(self, tables: Sequence[EffectTable]) -> Lexicon:
        """Return the synonyms of the treatments of tables."""
        known = _known(tables)
        names = []
        for name, record in self.records.items():
            words = [name, *(s for s in _LIST.split(record.get("synonyms", "")) if s)]
            for value in dict.fromkeys(v for word in words for v in known.get(_key(word), ())):
                names += [Name("treatment", value, word) for word in words if _key(word) not in known]
        return Lexicon.of(names)

    def words(self, treatments: Iterable[str]) -> dict[str, str]:
        """Return what treatments are, in a few words, for those that are annotated."""
        return {t: said for t in sorted(treatments) for said in [_said(self._record(t)[1])] if said}

    def citations(self, treatments: Iterable[str]) -> list[Citation]:
        """Return the records of treatments as citations."""
        made = []
        for treatment in treatments:
            name, record = self._record(treatment)
            content = json.dumps({"name": name, **record}, sort_keys=True, ensure_ascii=False)
            digest = hashlib.sha256(content.encode()).hexdigest()
            quote = f"{name}: " + ", ".join(f"{field} {value}" for field, value in record.items() if value) + "."
            made.append(Citation(digest[:16], f"{name} annotation", quote, source=self.source, sha256=digest))
        return made

    def _record(self, treatment: str) -> tuple[str, Mapping[str, str]]:
        key = _key(treatment)
        for name, record in self.records.items():
            if key in {_key(name), *(_key(s) for s in _LIST.split(record.get("synonyms", "")) if s)}:
                return name, record
        return treatment, {}


def _known(tables: Sequence[EffectTable]) -> dict[str, list[str]]:
    known: dict[str, list[str]] = {}
    for value in sorted({m for table in tables for ms in table.members.values() for m in ms}):
        known.setdefault(_key(value), []).append(value)
    return known


def _said(record: Mapping[str, str]) -> str:
    mechanism = record.get("mechanism", "")
    targets = [t for t in _LIST.split(record.get("targets", "")) if t]
    if mechanism and targets and not any(t.casefold() in mechanism.casefold() for t in targets):
        return f"{mechanism}, {' and '.join(targets)}"
    return mechanism or (f"acts on {' and '.join(targets)}" if targets else "")


def _key(text: str) -> str:
    return "".join(piece.text for piece in pieces(text))


def _text(value: object) -> str:
    return "" if value is None or value != value else clean(str(value)).replace("\n", " ")[:200]
