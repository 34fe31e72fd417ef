"""Structures of molecules: which treatment is which SMILES, from a file, an AnnData or memory, read by RDKit."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellgap.errors import ConditionError, ConfigError, DataError, MissingExtraError
from cellgap.study import Split
from cellgap.study._wording import close_to, listed

if TYPE_CHECKING:
    from pandas import DataFrame

    from cellgap.study import Study

_UNS, _OBS = "uns:", "obs:"
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


@dataclass(frozen=True)
class Structures:
    """Treatments with their SMILES; hashable, so that settings can hold it.

    Parameters
    ----------
    names
        Treatments, one a row.
    smiles
        SMILES of each; empty where the table has none.
    """

    names: tuple[str, ...]
    smiles: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<SMILES of {len(self.names)} treatments in memory>"


def structures_source(value: Any) -> Any:
    """Return a path as text, and a mapping, Series or DataFrame as structures; anything else as it is."""
    import pandas as pd

    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and not value.startswith((_UNS, _OBS)):
        _separator(value)
    if isinstance(value, pd.DataFrame | pd.Series | Mapping):
        return _from_memory(value, "the SMILES given", None, "smiles")
    return value


def read_structures(
    source: str | Structures, study: "Study", name_column: str | None, smiles_column: str
) -> Structures:
    """Return the SMILES of treatments.

    Parameters
    ----------
    source
        Path of a CSV or TSV file, ``"uns:key"`` (a mapping, Series or DataFrame), ``"obs:column"`` (of cells under a
        single treatment), or structures in memory.
    study
        Whose AnnData is read.
    name_column, smiles_column
        Columns of a file or DataFrame; None takes the first column of a file, and the index of a DataFrame.

    Raises
    ------
    DataError
        There is no such table or column, or it names a treatment twice.
    """
    if isinstance(source, Structures):
        return source
    if source.startswith(_OBS):
        return _from_obs(source.removeprefix(_OBS), study)
    if source.startswith(_UNS):
        key = source.removeprefix(_UNS)
        if key not in study.adata.uns:
            raise DataError(
                f"There is no uns[{key!r}] with the SMILES of treatments: {close_to(key, list(study.adata.uns))} "
                'Or give a file, Fingerprint("drugs.csv").'
            )
        return _from_memory(study.adata.uns[key], f"uns[{key!r}]", name_column, smiles_column)
    return _from_file(source, name_column, smiles_column)


def read_smiles_list(path: str) -> tuple[str, ...]:
    """Return the SMILES of a text file: the first word of each line, or the column ``smiles`` of a CSV or TSV file.

    Raises
    ------
    DataError
        The file cannot be read or has no SMILES.
    """
    if Path(path).suffix.lower() in (".csv", ".tsv"):
        found: Sequence[str] = [text for text in _from_columns(path, None, "smiles")[1] if text]
    else:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"The list of SMILES {path} cannot be read: {error}.") from None
        found = [line.split()[0] for line in lines if line.strip()]
    if not found:
        raise DataError(f"The list of SMILES {path} is empty: expected one a line.")
    return tuple(found)


def require_structures(split: Split, structures: Structures) -> tuple[str, ...]:
    """Return the sorted names of the training treatments, after checking that every treatment has a SMILES.

    Raises
    ------
    ConditionError
        A treatment of the split has none.
    """
    known = dict(zip(structures.names, structures.smiles, strict=True))
    for condition in (*split.train_conditions, *split.valid_conditions, *split.test_conditions):
        for name in condition.names:
            if not known.get(name):
                raise ConditionError(f"There is no SMILES of the treatment {name!r}: {_why_none(name, known)}")
    return tuple(sorted({name for condition in split.train_conditions for name in condition.names}))


def molecules(structures: Structures, what: str = "treatment") -> tuple[tuple[str, ...], list[Any]]:
    """Return the names that have a SMILES, and their RDKit molecules.

    Raises
    ------
    MissingExtraError
        RDKit is not installed.
    DataError
        A text is not the SMILES of a molecule; the sentence names its row (counted from 1, without a header).
    """
    try:
        from rdkit import Chem, rdBase
    except ImportError:
        raise MissingExtraError(
            'Reading SMILES needs RDKit, which is not installed: pip install "cellgap[chem]".'
        ) from None
    names, found = [], []
    with rdBase.BlockLogs():
        for row, (name, text) in enumerate(zip(structures.names, structures.smiles, strict=True), 1):
            if not text:
                continue
            molecule = Chem.MolFromSmiles(text)
            if molecule is None or not molecule.GetNumAtoms():
                raw = Chem.MolFromSmiles(text, sanitize=False)
                problems = Chem.DetectChemistryProblems(raw) if raw is not None else ()
                why = problems[0].Message() if problems else "it cannot be parsed"
                raise DataError(f"Row {row} ({what} {name!r}) has the SMILES {text!r}, which is not a molecule: {why}.")
            names.append(name)
            found.append(molecule)
    return tuple(names), found


def same_structure(names: Sequence[str], found: Sequence[Any]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of treatments whose molecules have one canonical SMILES."""
    from rdkit import Chem

    groups: dict[str, list[str]] = {}
    for name, molecule in zip(names, found, strict=True):
        groups.setdefault(Chem.MolToSmiles(molecule), []).append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def further_molecules(smiles: Mapping[str, str], known: tuple[str, ...]) -> tuple[tuple[str, ...], list[Any]]:
    """Return names and molecules of treatments that are not known yet.

    Raises
    ------
    ConditionError
        There is none, or one is known already.
    DataError
        A text is not the SMILES of a molecule.
    """
    for name in smiles:
        if name in known:
            raise ConditionError(
                f"The encoder has a structure of {name!r} already: give the new molecule another name."
            )
    names, found = molecules(Structures(tuple(smiles), tuple(str(text) for text in smiles.values())))
    if len(names) < len(smiles) or not names:
        empty = next((name for name, text in smiles.items() if not text), None)
        raise ConditionError(f"The SMILES of {empty!r} is empty: give one for each new treatment.")
    return names, found


def row_of(name: str, names: tuple[str, ...]) -> int:
    """Return the row of a treatment; raises ``ConditionError`` where it has no structure."""
    if name not in names:
        raise ConditionError(
            f"There is no SMILES of the treatment {name!r}: {close_to(name, names)} "
            f'Add it by FittedEncoder.with_structures({{{name!r}: "CCO"}}).'
        )
    return names.index(name)


def same_notes(same: tuple[tuple[str, ...], ...], trained: tuple[str, ...]) -> tuple[str, ...]:
    """Return sentences about treatments that are one molecule."""
    notes = []
    for group in same:
        seen = [name for name in group if name in trained]
        which = "all" if len(seen) == len(group) else ", ".join(seen) or "none"
        notes.append(f"{', '.join(group)} are the same molecule and get the same columns (trained on: {which})")
    return tuple(notes)


def _why_none(name: str, known: Mapping[str, str]) -> str:
    if name in known:
        return (
            f"row {list(known).index(name) + 1} of the table has an empty one; fill it in, or leave the treatment out."
        )
    return close_to(name, list(known))


def _from_obs(column: str, study: "Study") -> Structures:
    if column not in study.obs.columns:
        raise DataError(f"obs has no column {column!r} with SMILES: {close_to(column, list(map(str, study.obs)))}")
    found: dict[str, str] = {}
    for condition in study.conditions:
        if len(condition.treatments) != 1:
            continue
        name = condition.names[0]
        for text in _texts(study.obs[column].iloc[study.rows(condition)].unique()):
            if found.setdefault(name, text) != text:
                raise DataError(f"obs[{column!r}] gives {name!r} two SMILES, {found[name]!r} and {text!r}: keep one.")
    return Structures(tuple(found), tuple(found.values()))


def _from_memory(table: Any, where: str, name_column: str | None, smiles_column: str) -> Structures:
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        texts = table[_column(smiles_column, table, where)]
        names = table.index if name_column is None else table[_column(name_column, table, where)]
        return _checked(list(names), _texts(texts), where)
    if isinstance(table, pd.Series):
        return _checked(list(table.index), _texts(table), where)
    if isinstance(table, Mapping):
        return _checked(list(table), _texts(table.values()), where)
    raise DataError(
        f"{where} is a {type(table).__name__}: expected a mapping of treatments to SMILES, a Series, or a DataFrame."
    )


def _from_file(path: str, name_column: str | None, smiles_column: str) -> Structures:
    names, texts = _from_columns(path, name_column, smiles_column)
    return _checked(names, texts, path)


def _from_columns(path: str, name_column: str | None, smiles_column: str) -> tuple[list[str], list[str]]:
    import pandas as pd

    try:
        # Everything is text as written: a treatment may be called NA or 007.
        frame = pd.read_csv(path, sep=_separator(path), dtype=str, na_filter=False, index_col=False)
    except (OSError, ValueError) as error:
        raise DataError(f"The SMILES table {path} cannot be read: {error}.") from None
    if not len(frame.columns):
        raise DataError(f"The SMILES table {path} is empty.")
    names = frame.iloc[:, 0] if name_column is None else frame[_column(name_column, frame, path)]
    return list(names), _texts(frame[_column(smiles_column, frame, path)])


def _column(name: str, frame: "DataFrame", where: str) -> Any:
    """Return the column of this name; upper and lower case are the same where that is clear."""
    if name in frame.columns:
        return name
    alike = [column for column in frame.columns if str(column).lower() == name.lower()]
    if len(alike) == 1:
        return alike[0]
    raise DataError(f"{where} has no column {name!r}: its columns are {listed(list(frame.columns), shown=10)}.")


def _texts(values: Iterable[Any]) -> list[str]:
    """Return texts, missing values as empty ones."""
    import pandas as pd

    return ["" if pd.isna(value) else str(value).strip() for value in values]


def _checked(names: Sequence[Any], smiles: Sequence[str], where: str) -> Structures:
    texts = tuple(map(str, names))
    if not any(smiles):
        raise DataError(f"{where} has no SMILES: expected one row a treatment.")
    seen: dict[str, int] = {}
    for row, name in enumerate(texts, 1):
        if name in seen:
            raise DataError(f"{where} has the treatment {name!r} twice, in rows {seen[name]} and {row}: keep one.")
        seen[name] = row
    return Structures(texts, tuple(smiles))


def _separator(path: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in _SEPARATORS:
        raise ConfigError(f"A table of SMILES must be a .csv, .tsv or .txt (tab-separated) file, found {path!r}.")
    return _SEPARATORS[suffix]
