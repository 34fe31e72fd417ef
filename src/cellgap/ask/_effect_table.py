"""Effect tables: one row a treatment, context, time, dose and readout, checked and in one shape."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cellgap.ask._answer import Citation, Notice
from cellgap.ask._lexicon import Lexicon, Name
from cellgap.ask._quantities import plain, signed, small
from cellgap.ask._table_columns import Columns, find_columns
from cellgap.ask._table_read import read_rows
from cellgap.ask._table_values import Place, canonical_frame, identified
from cellgap.errors import ConditionError
from cellgap.study import Condition, Treatment

_NUMBERS = ("dose", "time_h", "effect", "se", "q", "n_cells", "n_control")


@dataclass(frozen=True, eq=False)
class EffectTable:
    """Rows of effects; made by ``of`` and ``read``.

    Parameters
    ----------
    name
        What a citation calls the table.
    frame
        Columns ``treatment, dose, unit``, those of `context`, ``time_h, readout, effect, se, q, n_cells, n_control,
        source, dataset, model, extrapolates, row_id``. A number that is not known is NaN, a text is empty.
    context
        Names of the context columns, such as ``cell_line``.
    origin
        Position of every row among the rows given; identical rows are kept once.
    base_dose, base_unit
        Doses in the base unit of their kind (uM, ug/mL), NaN where there is none.
    effect_word
        What an effect is called in a sentence, such as ``"score"``.
    treatment_word
        What was done to the genes that the treatments name, such as ``"knock-out"``; empty for others.
    decimals
        Digits after the point that effects are printed with.
    source_file, version
        Where the rows come from.
    notices
        What was left out or is unusual about the rows.
    """

    name: str
    frame: pd.DataFrame
    context: tuple[str, ...]
    origin: Int[np.ndarray, " rows"]
    base_dose: Float[np.ndarray, " rows"]
    base_unit: np.ndarray
    effect_word: str = "score"
    treatment_word: str = ""
    decimals: int = 2
    source_file: str = ""
    version: str = ""
    notices: tuple[Notice, ...] = ()

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        *,
        name: str = "effects",
        source_file: str = "",
        version: str = "",
        columns: Mapping[str, str] | None = None,
        context: Sequence[str] = (),
    ) -> "EffectTable":
        """Return the table of a data frame.

        Parameters
        ----------
        frame
            A row an effect. Common names of columns are known (``drug``, ``dose_uM``, ``cell_line``, ``time_h``,
            ``gene``, ``log2fc``, ``padj``, ...); needed are treatments, readouts, effects and q values.
        name
            What a citation calls the table.
        source_file, version
            What a citation says about where the rows come from.
        columns
            Canonical name to column, where a column's name is not known.
        context
            Further columns that are context; those of known names (``cell_line``, ``donor``, ...) are without it.

        Raises
        ------
        DataError
            A required column is missing, or a value is not what its column holds.
        ConfigError
            `columns` or `context` name what is not there.
        """
        place = Place(source_file or f"the table {name!r}", "row", np.arange(1, len(frame) + 1))
        return _made(cls, frame, place, name, source_file, version, columns or {}, context)

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        name: str | None = None,
        version: str | None = None,
        columns: Mapping[str, str] | None = None,
        context: Sequence[str] = (),
    ) -> "EffectTable":
        """Return the table in a file: CSV, TSV or JSON lines, also with ``.gz``, or Parquet.

        Parameters
        ----------
        path
            The file.
        name
            What a citation calls the table; the file's name without its ending by default.
        version
            Version of the file; the first digits of its digest by default.
        columns, context
            As in ``of``.

        Raises
        ------
        DataError
            The file cannot be read, or its content is wrong.
        MissingExtraError
            A Parquet file, and pyarrow is not installed.
        """
        path = Path(path)
        rows = read_rows(path)
        place = Place(str(path), rows.counts, rows.lines)
        stem = path.name.removesuffix(".gz").rsplit(".", 1)[0]
        shown = rows.sha256[:12] if version is None else version
        return _made(cls, rows.frame, place, name or stem, str(path), shown, columns or {}, context)

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        return f"EffectTable({self.name!r}, {len(self):,} rows, context={', '.join(self.context) or 'none'})"

    def condition(self, row: int) -> Condition:
        """Return the treatments and the context of a row."""
        values = self._row(row)
        pairs = [(name, values[name]) for name in self.context if values[name]]
        return Condition.of(treatments_of(values["treatment"], values["dose"], values["unit"]), pairs)

    def words(self, row: int) -> str:
        """Return a row in words."""
        v = self._row(row)
        where = [v["treatment"]]
        inside = [v[name] for name in self.context if v[name]]
        if inside:
            where.append("in " + ", ".join(inside))
        if not math.isnan(v["dose"]):
            where.append(f"at {plain(v['dose'])} {v['unit']}")
        if not math.isnan(v["time_h"]):
            where.append(f"for {plain(v['time_h'])} h")
        what = [f"{self.effect_word} {signed(v['effect'], self.decimals, math.inf)}", f"q = {small(v['q'], math.inf)}"]
        if not math.isnan(v["n_cells"]):
            what.append(f"{plain(v['n_cells'])} cells")
        what += [v["source"]] + ([f"dataset {v['dataset']}"] if v["dataset"] else [])
        return f"{' '.join(where)}: {v['readout']} {', '.join(what)}."

    def values(self, row: int) -> dict[str, Any]:
        """Return the values of a row; a number that is not known is None."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in self._row(row).items()}

    def cite(self, row: int) -> Citation:
        """Return the citation of a row, which holds its values as they are now."""
        identifier = str(self.column("row_id")[row])
        content = json.dumps(self.values(row), sort_keys=True, ensure_ascii=False)
        version = f" (version {self.version})" if self.version else ""
        return Citation(
            source_id=identifier,
            title=f"{self.name} row {identifier[:8]}",
            quote=self.words(row),
            rows=(identifier,),
            source=(self.source_file or self.name) + version,
            sha256=hashlib.sha256(content.encode()).hexdigest(),
        )

    @cached_property
    def members(self) -> Mapping[str, frozenset[str]]:
        """Treatments of the table, each with the names it consists of (one, or those of a combination)."""
        return {t: frozenset(m.name for m in treatments_of(t)) for t in self.codes("treatment")[1]}

    @cached_property
    def lexicon(self) -> Lexicon:
        """What can be named in a question."""
        names = [Name("treatment", m) for m in sorted({m for ms in self.members.values() for m in ms})]
        names += [Name("readout", value) for value in self.codes("readout")[1]]
        for column in (*self.context, "dataset"):
            names += [Name(column, value) for value in self.codes(column)[1] if value]
        return Lexicon.of(names)

    @cached_property
    def units(self) -> tuple[str, ...]:
        """Units of the doses."""
        return tuple(sorted({str(u) for u in pd.unique(self.frame["unit"]) if u}))

    def column(self, name: str) -> np.ndarray:
        """Return a column: numbers, or texts."""
        return self._columns[name]

    def codes(self, name: str) -> tuple[Int[np.ndarray, " rows"], tuple[str, ...]]:
        """Return the number of every row's value in a column of text, and the values in order."""
        return self._codes[name]

    @cached_property
    def _columns(self) -> Mapping[str, np.ndarray]:
        return {c: self.frame[c].to_numpy(float if c in _NUMBERS else object) for c in self.frame.columns}

    @cached_property
    def _codes(self) -> Mapping[str, tuple[np.ndarray, tuple[str, ...]]]:
        made = {}
        for name in ("treatment", "readout", "dataset", "source", *self.context):
            numbers, values = pd.factorize(self._columns[name], sort=True)
            made[name] = (numbers, tuple(str(v) for v in values))
        return made

    def _row(self, row: int) -> dict[str, Any]:
        return {c: float(v[row]) if c in _NUMBERS else str(v[row]) for c, v in self._columns.items()}


def treatments_of(text: str, dose: float = math.nan, unit: str = "") -> tuple[Treatment, ...]:
    """Return the treatments that a cell of a table names: ``a + b`` is a combination, a dose belongs to one name."""
    if "@" in text:
        try:
            return Condition.parse(text).treatments
        except ConditionError:
            pass
    names = text.split(" + ")
    if len(names) > 1 or math.isnan(dose):
        return tuple(Treatment(name) for name in names)
    return (Treatment(text, dose, unit or None),)


def _made(
    cls: type[EffectTable],
    frame: pd.DataFrame,
    place: Place,
    name: str,
    source_file: str,
    version: str,
    columns: Mapping[str, str],
    context: Sequence[str],
) -> EffectTable:
    found: Columns = find_columns(list(frame.columns), place.where, columns, context)
    made, doses, units, origin, notices = canonical_frame(frame, found, place)
    keys = [c for c, _ in found.context]
    made, kept, more = identified(made, doses, units, keys, name, place, origin)
    effects = made["effect"].to_numpy(float)
    decimals = next((d for d in (2, 3, 4) if np.allclose(np.round(effects, d), effects, rtol=0, atol=1e-12)), 2)
    return cls(
        name,
        made,
        tuple(keys),
        origin[kept],
        doses[kept],
        units[kept],
        found.effect_word,
        found.treatment_word,
        decimals,
        source_file,
        version,
        (*notices, *more),
    )
