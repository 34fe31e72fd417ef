"""Descriptor tables: read from a file, from an AnnData, or taken from memory, and checked."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from cellgap.errors import ConfigError, DataError
from cellgap.study._wording import close_to

if TYPE_CHECKING:
    from pandas import DataFrame

    from cellgap.study import Study

_UNS, _VAR, _VARM = "uns:", "var:", "varm:"


class Descriptors:
    """A checked table: finite numbers, one row a treatment; hashable, so that settings can hold it.

    Parameters
    ----------
    names
        Treatments, one a row.
    columns
        Names of the descriptors.
    values
        (names, columns), float64; read-only from here on.
    """

    def __init__(self, names: tuple[str, ...], columns: tuple[str, ...], values: Float[np.ndarray, "n p"]) -> None:
        self.names, self.columns, self.values = names, columns, values
        self.values.setflags(write=False)
        self._digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Descriptors) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"<{len(self.names)} rows x {len(self.columns)} descriptors in memory>"

    def _key(self) -> tuple[object, ...]:
        return self.names, self.columns, self._digest


def source_of(value: Any) -> Any:
    """Return a path as text and a DataFrame as checked descriptors; anything else as it is."""
    import pandas as pd

    if isinstance(value, Path):
        return str(value)
    if isinstance(value, pd.DataFrame):
        return checked(value, "the table given to Table()")
    if isinstance(value, str) and not value.startswith((_UNS, _VAR, _VARM)):
        _suffix(value)
    return value


def read_descriptors(source: str, study: "Study") -> Descriptors:
    """Return the checked table of a file, or of the AnnData where the source says ``uns:``, ``var:`` or ``varm:``.

    Raises
    ------
    DataError
        There is no such table, or it has values that are not finite numbers.
    """
    import pandas as pd

    if source.startswith(_UNS):
        key = source.removeprefix(_UNS)
        uns: Mapping[str, Any] = study.adata.uns
        if key not in uns or not isinstance(uns[key], pd.DataFrame):
            tables = ", ".join(repr(k) for k in uns if isinstance(uns[k], pd.DataFrame)) or "no DataFrame"
            raise DataError(
                f'Table("{source}") found no DataFrame at uns[{key!r}], which has {tables}: '
                'give a file instead, Table("drugs.csv").'
            )
        return checked(uns[key], f"uns[{key!r}]")
    if source.startswith((_VAR, _VARM)):
        return _of_genes(source, study)
    try:
        if _suffix(source) == ".parquet":
            frame = pd.read_parquet(source)
            if isinstance(frame.index, pd.RangeIndex) and len(frame.columns):
                frame = frame.set_index(frame.columns[0])
        else:
            separator = "," if _suffix(source) == ".csv" else "\t"
            frame = pd.read_csv(source, sep=separator, index_col=0)
            # Names are text as written: a treatment may be called NA, None or 007.
            names = pd.read_csv(source, sep=separator, usecols=range(1), dtype=str, na_filter=False)
            frame.index = pd.Index(names.iloc[:, 0])
    except ImportError:
        raise DataError(f"Reading {source} needs pyarrow: install it, or save the table as CSV.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"The descriptor table {source} cannot be read: {error}.") from None
    return checked(frame, source)


def _of_genes(source: str, study: "Study") -> Descriptors:
    """Return numbers that the AnnData keeps for each gene, as the table of treatments named after genes."""
    import pandas as pd

    slot, _, key = source.partition(":")
    known: Any = study.adata.varm if slot == "varm" else study.adata.var
    if key not in known:
        raise DataError(f'Table("{source}") found no {slot}[{key!r}]: {close_to(key, list(map(str, known.keys())))}')
    values = known[key]
    if isinstance(values, pd.DataFrame):
        frame = values
    elif slot == "var":
        frame = pd.DataFrame({key: values})
    else:
        array = np.asarray(values.toarray() if sp.issparse(values) else values)
        frame = pd.DataFrame(array, columns=pd.Index([f"{key} {i + 1}" for i in range(array.shape[1])]))
    return checked(frame.set_axis(list(map(str, study.genes)), axis=0), f"{slot}[{key!r}]")


def checked(frame: "DataFrame", where: str) -> Descriptors:
    """Return the table as checked descriptors.

    Raises
    ------
    DataError
        It is empty, names a treatment or a column twice, or holds something that is not a finite number.
    """
    names, columns = tuple(map(str, frame.index)), tuple(map(str, frame.columns))
    if not names or not columns:
        raise DataError(f"{where} is empty: expected at least one row and one column of numbers.")
    for kind, labels in (("treatment", names), ("column", columns)):
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise DataError(f"{where} has the {kind} {twice!r} twice: keep one of them.")
    values = np.empty(frame.shape)
    for j, column in enumerate(columns):
        series = frame.iloc[:, j]
        if series.dtype.kind not in "biuf":
            text = next((v for v in series if isinstance(v, str)), series.iloc[0])
            raise DataError(f"{where} has a column {column!r} that is not numeric ({text!r}): remove or encode it.")
        values[:, j] = series.to_numpy(dtype=np.float64, na_value=np.nan)
        if not np.isfinite(values[:, j]).all():
            name = names[int(np.argmin(np.isfinite(values[:, j])))]
            raise DataError(
                f"{where} has no finite number for {name!r} in the column {column!r}: fill in or drop the column."
            )
    return Descriptors(names, columns, values)


def _suffix(path: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in (".csv", ".tsv", ".txt", ".parquet"):
        raise ConfigError(f"Table({path!r}) must name a .csv, .tsv, .txt (tab-separated) or .parquet file.")
    return suffix
