"""Networks of laws on the command line: what is printed of edges, and how well known ones are found."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellgap.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

    from cellgap.dynamics import Network

_TABLES = {".csv": ",", ".tsv": "\t"}


def suffix_of(path: Path) -> str:
    """Return what separates the columns of a table of edges.

    Raises
    ------
    ConfigError
        It is no table.
    """
    if path.suffix.lower() not in _TABLES:
        raise ConfigError(f"--out must name a table (.csv, .tsv), found {str(path)!r}.")
    return _TABLES[path.suffix.lower()]


def read_truth(path: Path) -> "pd.DataFrame":
    """Return known edges: ``regulator, target``, or a table of regulators by targets.

    Raises
    ------
    DataError
        The file is missing, or holds neither.
    """
    import pandas as pd

    if not path.is_file():
        raise DataError(f"There is no file {str(path)!r}: --truth is a table of edges.")
    separator = _TABLES.get(path.suffix.lower(), ",")
    try:
        table: Any = pd.read_csv(path, sep=separator, dtype=str)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a table of edges: {' '.join(str(error).split())}") from None
    if {"regulator", "target"} <= set(table.columns):
        if table[["regulator", "target"]].isna().to_numpy().any():
            raise DataError(f"{path}: an edge has no regulator or no target.")
        return table[["regulator", "target"]]
    square = table.set_index(table.columns[0]).apply(pd.to_numeric, errors="coerce")
    if not square.size or square.isna().to_numpy().any():
        raise DataError(
            f"{path} holds neither the columns regulator and target nor numbers of regulators by targets: it has "
            f"{', '.join(map(str, table.columns[:6]))}."
        )
    return square


def recovery(network: "Network", truth: "pd.DataFrame") -> dict[str, float]:
    """Return how well a network finds known edges: its ranking, the edges that it keeps, and a null."""
    from cellgap.evaluate import network_scores, recovery_null

    scores = network_scores(network.scores, truth)
    own = network_scores(network.kept.astype(float), truth, threshold=0.5)
    found = scores.to_dict() | {f"{name}_kept": own[name] for name in ("tpr", "fpr", "fdr", "edges", "shd")}
    try:
        null = recovery_null(network.scores, truth)
    except DataError:
        return {str(name): float(value) for name, value in found.items()}  # one regulator: nothing to exchange
    found |= {f"null_{str(name).removeprefix('null_')}": value for name, value in null.to_dict().items()}
    return {str(name): float(value) for name, value in found.items()}


def shown_edges(edges: "pd.DataFrame") -> str:
    """Return edges as a table for a terminal, signs as + and -."""
    shown = edges.copy()
    shown["sign"] = ["+" if s > 0 else "-" if s < 0 else "" for s in edges["sign"]]
    shown["kept"] = ["yes" if k else "" for k in edges["kept"]]
    for name in ("score", "strength"):
        shown[name] = [f"{v:.4f}" for v in edges[name]]
    shown["frequency"] = [f"{v:.0%}" for v in edges["frequency"]]
    shown["p_value"] = ["" if math.isnan(v) else f"{v:.3g}" for v in edges["p_value"]]
    return shown.to_string(index=False)


def plain(value: Any) -> Any:
    """Return values that JSON holds: NaN becomes null."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
