"""Policy files of ``cellgap stream release``: what is released, what it costs, what one donor may contribute."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from cellgap.cli._run_file import read_toml, refuse_unknown, text_of
from cellgap.errors import CellgapError, ConfigError, UnboundedContribution

EXAMPLE = """\
# A policy of cellgap: `cellgap stream release policy.toml plates/*.h5ad`. Paths are relative to this file.
# Everything here is public, and has to be known before the first plate: choosing it by looking at the data spends
# privacy that nobody counts.

[data]
donor = "donor"                  # column of obs: whose cells they are
layer = "X"                      # where the raw counts are
condition = ["drug"]             # columns of obs; joined by " | " where there are several

[budget]
rho = 0.5                        # all releases together (zero-concentrated differential privacy); or epsilon = 4.7
delta = 1e-6                     # for the guarantee (epsilon, delta) that is printed beside it
unit = "donor"                   # whose presence is hidden; "donor_plate" (with rule "each_plate") is weaker
steps = 12                       # plates that will ever come
journal = "journal"              # folder of ledger and secrets: as sensitive as the cells
# anchor = "/other/disk/anchor"  # remembers the newest version, so that a restored backup is noticed

[donors]
rule = "closed"                  # a donor's cells are pooled and enter one step; "each_plate": one entry a plate
close_after = 1                  # plates from a donor's first one to the one at which it is closed
max_cells = 1000                 # of a donor; which ones is decided by a secret key, not by the data
max_donors = 8                   # donors that enter a step at most
# max_steps = 3                  # of "each_plate": entries of a donor, and how far apart
# min_separation = 1

[released]
folder = "released"              # tables and page: public

[statistic.cells]
kind = "sum"                     # running sums over donors ...
of = "conditions"                # ... of their numbers of cells under each condition
features = ["vehicle", "drugA"]  # the conditions, or a file with one a line
l2 = 1000                        # a donor's vector is scaled down to this norm
share = 0.3                      # of the budget

[statistic.expression]
kind = "mean"                    # running sums and the number of donors, so means
of = "genes"                     # mean log-normalized expression of a donor
features = "genes.txt"
l2 = 30
share = 0.4

[statistic.top]
kind = "select"                  # the q features of the largest sums ...
from = "expression"              # ... read off the sums that are released anyway: costs nothing
q = 10

[statistic.depth]
kind = "quantile"                # over donors
of = "column"
column = "n_counts"              # its mean over a donor's cells; values = "cells" takes the cells' own
bins = [0, 500, 1000, 2000, 4000, 8000, 16000]
quantiles = [0.25, 0.5, 0.75]
share = 0.3
"""

HINT = "`cellgap stream release --example` prints a policy."
Kind = Literal["sum", "mean", "max", "select", "quantile"]
Of = Literal["conditions", "genes", "column"]
_UNITS = ("donor", "donor_plate", "cell")
_VALUES = {"conditions": ("cells", "share", "present"), "genes": (), "column": ("mean", "cells")}
_MECHANISMS = ("auto", "factor", "tree")
_SUMS = ("sum", "mean", "max", "select")
_ONLY = {
    "bins": ("quantile",), "quantiles": ("quantile",), "column": ("quantile",), "q": ("select",), "features": _SUMS,
    "l2": _SUMS, "linf": _SUMS, "l1": _SUMS, "epsilon": _SUMS,
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_SECTIONS = {
    "data": ("donor", "layer", "condition", "target_sum"),
    "budget": ("rho", "epsilon", "delta", "unit", "steps", "journal", "anchor", "donors"),
    "donors": ("rule", "close_after", "max_cells", "max_donors", "max_steps", "min_separation"),
    "released": ("folder",),
    "statistic": None,
}
_STATISTIC = (
    "kind", "of", "from", "features", "column", "bins", "quantiles", "values", "l2", "linf", "l1", "lattice", "share",
    "rho", "epsilon", "q", "mechanism",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """One statistic of a policy.

    Parameters
    ----------
    name
        Of its table in the file.
    kind, of
        What is released, and of what; `of` is None where it is read off another one.
    source
        Name of the statistic that it is read off; None: it has a mechanism of its own.
    features
        Names of the coordinates; for quantiles the bins.
    options
        All else as in the file.
    """

    name: str
    kind: Kind
    of: Of | None
    source: str | None
    features: tuple[str, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Policy:
    """A policy file, checked, paths absolute.

    Parameters
    ----------
    path
        The file.
    donor, layer, condition, target_sum
        Where donors, counts and conditions are, and counts of a cell after normalization.
    budget
        Arguments of `PrivacyBudget`.
    steps
        Plates that will ever come.
    pooled
        Whether a donor's cells are pooled until it is closed.
    close_after, max_cells, max_donors, max_steps, min_separation
        See the example.
    folder
        Where releases go.
    statistics
        Those with a mechanism first.
    """

    path: Path
    donor: str
    layer: str | None
    condition: tuple[str, ...]
    target_sum: float
    budget: Mapping[str, Any]
    steps: int
    pooled: bool
    close_after: int
    max_cells: int
    max_donors: int
    max_steps: int
    min_separation: int
    folder: Path
    statistics: tuple[Asked, ...]

    @property
    def journal(self) -> Path:
        """Folder of the journal."""
        return Path(self.budget["journal"])

    def meaning(self) -> dict[str, dict[str, Any]]:
        """Return by section what the journal's own configurations do not say: whose the cells are, and of what."""
        donors: dict[str, Any] = {"rule": "closed" if self.pooled else "each_plate", "max_cells": self.max_cells}
        if self.pooled:
            donors["close_after"] = self.close_after
        own = {
            f"statistic.{asked.name}": {"of": asked.of} | {key: asked.options.get(key) for key in ("column", "values")}
            for asked in costs(self.statistics)
        }
        data = {"donor": self.donor, "layer": self.layer or "X", "condition": list(self.condition)}
        return {"data": data | {"target_sum": self.target_sum}, "donors": donors, **own}


def read_policy(path: Path) -> Policy:
    """Return the checked contents of a policy file.

    Raises
    ------
    ConfigError, UnboundedContribution
        The file is missing or not TOML, a key or value is wrong, or a bound is missing.
    """
    if not path.exists():
        raise ConfigError(f"There is no file {str(path)!r}: {HINT}")
    try:
        return _checked(read_toml(path), path.resolve())
    except CellgapError as error:
        raise type(error)(f"{path}: {error}") from None


def _checked(values: Mapping[str, Any], path: Path) -> Policy:
    refuse_unknown(values, tuple(_SECTIONS), "the policy has no section")
    for name, keys in _SECTIONS.items():
        section = values.get(name, {})
        if not isinstance(section, Mapping):
            raise ConfigError(f"[{name}] must be a table, found {section!r}.")
        if keys is not None:
            refuse_unknown(section, keys, f"[{name}] has no key")
    base = path.parent
    data, budget, donors = (values.get(name, {}) for name in ("data", "budget", "donors"))
    if "donor" not in data:
        raise ConfigError(f"[data] needs 'donor', the column of obs with the donor of each cell: {HINT}")
    for name in ("steps", "journal"):
        if name not in budget:
            raise UnboundedContribution(f"[budget] needs {name!r}, fixed before the first plate: {HINT}")
    for name in ("max_cells", "max_donors"):
        if name not in donors:
            raise UnboundedContribution(f"[donors] needs {name!r}, fixed before the first plate: {HINT}")
    rule = donors.get("rule", "closed")
    if rule not in ("closed", "each_plate"):
        raise ConfigError(f'[donors] rule is "closed" or "each_plate", found {rule!r}.')
    pooled = rule == "closed"
    for name in ("max_steps", "min_separation") if pooled else ("close_after",):
        if name in donors:
            raise ConfigError(f"[donors] {name} does not belong to rule = {rule!r}: leave it out.")
    if not pooled and "max_steps" not in donors:
        raise UnboundedContribution("[donors] needs 'max_steps', the plates that a donor may enter.")
    condition = _columns(data.get("condition", []))
    steps = _whole(budget["steps"], "[budget] steps")
    kept: dict[str, Any] = {
        name: budget[name] for name in ("rho", "epsilon", "delta", "unit", "donors") if name in budget
    }
    kept["journal"] = _folder(budget["journal"], "[budget] journal", base)
    if "anchor" in budget:
        kept["anchor"] = base / text_of(budget["anchor"], "[budget] anchor")
    _one_of(budget, "unit", _UNITS, "[budget]")
    if pooled and budget.get("unit") == "donor_plate":
        # Without its first plate a donor would enter another step: two steps would change, and one is paid for.
        raise ConfigError('[budget] unit = "donor_plate" needs [donors] rule = "each_plate": plates are not pooled.')
    for name in ("rho", "epsilon", "delta"):
        if isinstance(kept.get(name, 1), bool) or not isinstance(kept.get(name, 1), int | float | str):
            raise ConfigError(f"[budget] {name} must be a number, found {kept[name]!r}.")
    if isinstance(kept.get("delta"), str):
        raise ConfigError(f"[budget] delta must be a number between 0 and 1, found {kept['delta']!r}.")
    if "donors" in kept:
        _whole(kept["donors"], "[budget] donors")
    layer = text_of(data.get("layer", "X"), "[data] layer")
    target = data.get("target_sum", 1e4)
    if isinstance(target, bool) or not isinstance(target, int | float) or not target > 0:
        raise ConfigError(
            f"[data] target_sum must be a number above 0, found {target!r}: a median would need all cells."
        )
    return Policy(
        path=path,
        donor=text_of(data["donor"], "[data] donor"),
        layer=None if layer == "X" else layer,
        condition=condition,
        target_sum=float(target),
        budget=kept,
        steps=steps,
        pooled=pooled,
        close_after=_whole(donors.get("close_after", 1), "[donors] close_after"),
        max_cells=_whole(donors["max_cells"], "[donors] max_cells"),
        max_donors=_whole(donors["max_donors"], "[donors] max_donors"),
        max_steps=1 if pooled else _whole(donors["max_steps"], "[donors] max_steps"),
        min_separation=_whole(donors.get("min_separation", 1), "[donors] min_separation"),
        folder=_folder(values.get("released", {}).get("folder", "released"), "[released] folder", base),
        statistics=_statistics(values.get("statistic", {}), bool(condition), base),
    )


def _statistics(sections: Mapping[str, Any], conditions: bool, base: Path) -> tuple[Asked, ...]:
    if not sections:
        raise ConfigError(f"The policy has no statistic: {HINT}")
    found = [_statistic(name, section, conditions, base) for name, section in sections.items()]
    if len({asked.name.casefold() for asked in found}) < len(found):
        raise ConfigError("Names of two statistics differ in case alone: choose others.")
    own = {asked.name: asked for asked in found if asked.source is None}
    for asked in found:
        if asked.source is None:
            continue
        source = own.get(asked.source)
        if source is None or source.kind not in ("sum", "mean"):
            raise ConfigError(f"[statistic.{asked.name}] from = {asked.source!r} names no sum or mean of the policy.")
        if int(asked.options.get("q", 1)) > len(source.features):
            raise ConfigError(f"[statistic.{asked.name}] q is more than the features of {asked.source!r}.")
    return tuple(sorted(found, key=lambda asked: asked.source is not None))


def _statistic(name: str, section: Any, conditions: bool, base: Path) -> Asked:
    where = f"[statistic.{name}]"
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where} must be a table, found {section!r}.")
    refuse_unknown(section, _STATISTIC, f"{where} has no key")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: a statistic's name is of letters, digits, '_', '.' and '-', at most 64.")
    kind: Any = section.get("kind")
    of: Any = section.get("of")
    source = section.get("from")
    if kind not in get_args(Kind):
        raise ConfigError(f"{where} kind is one of {', '.join(get_args(Kind))}, found {kind!r}.")
    if "q" in section:
        _whole(section["q"], f"{where} q")
    for key in ("share", "rho", "epsilon", "l2", "linf", "l1", "lattice"):
        if isinstance(section.get(key, 1), bool) or not isinstance(section.get(key, 1), int | float | str):
            raise ConfigError(f"{where} {key} must be a number, found {section[key]!r}.")
    if source is not None:
        if kind != "select" or set(section) - {"kind", "from", "q"}:
            raise ConfigError(f"{where} with 'from' is a select with q, and nothing else: it costs nothing.")
        return Asked(name, kind, None, str(source), (), dict(section))
    expected = ("column",) if kind == "quantile" else ("conditions", "genes")
    if of not in expected:
        raise ConfigError(f"{where} of is {' or '.join(map(repr, expected))} for a {kind}, found {of!r}.")
    for key, kinds in _ONLY.items():
        if key in section and kind not in kinds:
            raise ConfigError(f"{where} {key} does not belong to a {kind}: leave it out.")
    _one_of(section, "values", _VALUES[of], where)
    _one_of(section, "mechanism", _MECHANISMS if kind in ("sum", "mean") else (), where)
    if of == "conditions" and not conditions:
        raise ConfigError(f"{where} counts conditions, but [data] names no condition.")
    if kind == "quantile":
        for key in ("column", "bins"):
            if key not in section:
                raise UnboundedContribution(f"{where} needs {key!r}, fixed before the first plate.")
        bins = section["bins"]
        numbers = isinstance(bins, list) and all(isinstance(b, int | float) and not isinstance(b, bool) for b in bins)
        if not numbers or len(bins) < 3 or any(b <= a for a, b in pairwise(bins)):
            raise ConfigError(f"{where} bins are at least three increasing edges, found {bins!r}.")
        levels = section.get("quantiles", [0.5])
        if not isinstance(levels, list) or not all(isinstance(level, float) for level in levels):
            raise ConfigError(f"{where} quantiles are a list of numbers between 0 and 1, found {levels!r}.")
        names = tuple(f"{a:g} to {b:g}" for a, b in pairwise(bins))
        return Asked(name, kind, of, None, names, dict(section))
    if "features" not in section or "l2" not in section:
        raise UnboundedContribution(f"{where} needs 'features' and 'l2', fixed before the first plate.")
    features = _names(section["features"], f"{where} features", base)
    if not features:
        raise UnboundedContribution(f"{where} needs features: nothing is inferred from the data.")
    return Asked(name, kind, of, None, features, dict(section))


def _columns(value: Any) -> tuple[str, ...]:
    """Return names of columns: one, or a list."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(name, str) and name for name in listed):
        raise ConfigError(f"[data] condition must be a column of obs or a list of columns, found {value!r}.")
    return tuple(dict.fromkeys(listed))


def _names(value: Any, where: str, base: Path) -> tuple[str, ...]:
    """Return names in a list, or in a file with one a line."""
    if isinstance(value, str):
        path = base / value
        if not path.is_file():
            raise ConfigError(f"{where}: there is no file {str(path)!r}; give a list, or a file with one name a line.")
        value = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise ConfigError(f"{where} must be a list of names, or a file with one a line, found {value!r}.")
    if len(set(value)) < len(value):
        raise ConfigError(f"{where} has a name twice.")
    return tuple(value)


def _folder(value: Any, where: str, base: Path) -> Path:
    path = base / text_of(value, where)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{where} must be a folder, and {str(path)!r} is a file.")
    return path


def _one_of(section: Mapping[str, Any], key: str, allowed: Sequence[str], where: str) -> None:
    """Refuse a word that is not one of those allowed, or any where none is."""
    if key in section and section[key] not in allowed:
        if not allowed:
            raise ConfigError(f"{where} {key} does not belong to what is released here: leave it out.")
        raise ConfigError(f"{where} {key} is one of {', '.join(allowed)}, found {section[key]!r}.")


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{where} must be a whole number of 1 or more, found {value!r}.")
    return value


def costs(statistics: Sequence[Asked]) -> tuple[Asked, ...]:
    """Return the statistics that have a mechanism of their own."""
    return tuple(asked for asked in statistics if asked.source is None)
