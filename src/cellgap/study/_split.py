"""A split: one role for every cell of a study, saved with the run and checked for leaks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellgap.errors import CellgapError, SplitError, StorageError
from cellgap.study._check import render
from cellgap.study._column import domain_mask, labels_in
from cellgap.study._condition import Condition
from cellgap.study._rules import BY_CELL, KINDS, breaks_rule
from cellgap.study._study import Study

if TYPE_CHECKING:
    from rich.console import RenderableType

_FORMAT = "cellgap split 1"


class Role(IntEnum):
    """What a cell is used for. Every cell has exactly one role, so roles cannot overlap."""

    UNUSED = 0
    """Neither trained on nor scored."""
    TRAIN = 1
    """Fits the model and all preprocessing."""
    VALID = 2
    """Chooses hyper-parameters and when to stop."""
    TEST = 3
    """Treated cells that predictions are scored against."""
    SOURCE = 4
    """Control cells of a held-out context that predictions start from."""
    REFERENCE = 5
    """Control cells of a held-out context that effects are measured against; never the same cells as SOURCE."""


@dataclass(frozen=True, eq=False)
class Split:
    """A seeded division of a study; make one with the functions of ``cellgap.split``.

    Attributes
    ----------
    study
        The study that is divided.
    kind
        Name of the function that made it.
    seed
        Seed of the random choices.
    roles
        ``Role`` of every cell, (n_obs,) int8, read-only.
    test_conditions
        Conditions with cells to be scored, sorted.
    valid_conditions
        Conditions held out whole to choose hyper-parameters, sorted; may be empty.
    train_conditions
        Treated conditions with cells to train on, sorted.
    params
        How it was made, and ``unscored``: the test conditions that are not scored, with the reason.
    """

    study: Study
    kind: str
    seed: int
    roles: np.ndarray
    test_conditions: tuple[Condition, ...]
    valid_conditions: tuple[Condition, ...]
    train_conditions: tuple[Condition, ...]
    params: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.roles.setflags(write=False)

    @property
    def scored_conditions(self) -> tuple[Condition, ...]:
        """The test conditions with enough cells, and controls, to be scored."""
        unscored = self.params.get("unscored", {})
        return tuple(c for c in self.test_conditions if repr(c) not in unscored)

    def rows(self, condition: Condition | str, *roles: Role) -> np.ndarray:
        """Return the cells of a condition that have one of these roles (none given: all), increasing.

        Raises
        ------
        ConditionError
            The study has no such condition.
        """
        rows = self.study.rows(condition)
        return rows[np.isin(self.roles[rows], [int(r) for r in roles])] if roles else rows

    def cells(self, *roles: Role) -> np.ndarray:
        """Return all cells, treated or control, that have one of these roles, increasing."""
        return np.flatnonzero(np.isin(self.roles, [int(r) for r in roles]))

    def check_leaks(self) -> None:
        """Raise where held-out cells or conditions could reach training.

        Raises
        ------
        SplitError
            A cell has no valid role, a held-out condition (or domain) has cells to train on, a control is scored as a
            treated cell or the other way round, or the lists of conditions do not match the roles.
        """
        study, roles = self.study, self.roles
        if roles.shape != (study.n_obs,) or not np.isin(roles, [int(r) for r in Role]).all():
            raise SplitError(f"A split needs one of {len(Role)} roles for each of {study.n_obs} cells; make it anew.")
        n_controls = len(study.controls)
        used = count_roles(study, roles)
        for first, part, wrong in (
            (0, used[:n_controls], (Role.TEST,)),
            (n_controls, used[n_controls:], (Role.SOURCE, Role.REFERENCE)),
        ):
            for role in wrong:
                if part[:, role].any():
                    at = int(np.argmax(part[:, role] > 0))
                    condition = study.all_conditions[first + at]
                    raise SplitError(f"{part[at, role]} cells of {str(condition)!r} have the role {role.name}: a leak.")
        have = {r: {study.conditions[i] for i in np.flatnonzero(used[n_controls:, r])} for r in Role}
        if have[Role.TEST] != set(self.test_conditions):
            raise SplitError("The test conditions are not the conditions with test cells; make the split anew.")
        if have[Role.TRAIN] != set(self.train_conditions):
            raise SplitError("The training conditions are not the conditions with training cells; make the split anew.")
        fitted = have[Role.TRAIN] | have[Role.VALID]
        both = have[Role.TRAIN] & set(self.valid_conditions)
        if self.kind not in BY_CELL:
            both |= fitted & have[Role.TEST]
        if both:
            raise SplitError(f"The held-out condition {str(min(both))!r} has cells to train on: a leak.")
        self._check_rule(fitted)

    def _check_rule(self, fitted: set[Condition]) -> None:
        """Raise where a condition that the rule of this kind holds out has cells for training or validation."""
        for condition in fitted:
            reason = breaks_rule(self.kind, self.params, condition)
            if reason:
                raise SplitError(f"{str(condition)!r} has cells to train on although {reason}: a leak.")
        if self.kind == "leave_one_domain_out":
            column, obs = self.params["column"], self.study.obs
            if column not in obs.columns:
                raise SplitError(
                    f"The split holds out {column!r}, which is no column of obs: use the data it was made on."
                )
            domain = domain_mask(labels_in(obs, column), self.params["held_out"])
            leaked = int(np.isin(self.roles[domain], [Role.TRAIN, Role.VALID]).sum())
            if leaked:
                raise SplitError(f"{leaked} cells of the held-out {column} are trained on: a leak.")

    def save(self, path: str | Path) -> None:
        """Write the split as JSON: indices of each role, conditions, kind, seed, parameters, study fingerprint."""
        content = {
            "format": _FORMAT,
            "kind": self.kind,
            "seed": self.seed,
            "params": dict(self.params),
            "n_obs": self.study.n_obs,
            "fingerprint": self.study.fingerprint,
            "test_conditions": [repr(c) for c in self.test_conditions],
            "valid_conditions": [repr(c) for c in self.valid_conditions],
            "train_conditions": [repr(c) for c in self.train_conditions],
            "indices": {r.name: self.cells(r).tolist() for r in Role if r != Role.UNUSED},
        }
        Path(path).write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, study: Study) -> "Split":
        """Return the split that ``save`` wrote, for the same study.

        Raises
        ------
        StorageError
            The file is missing, is not a split, or is damaged.
        SplitError
            It belongs to another study, or it leaks.
        """
        content = _read_json(Path(path))
        if content.get("format") != _FORMAT:
            found = content.get("format")
            raise StorageError(f"{str(path)!r} is not a split: expected the format {_FORMAT!r}, found {found!r}.")
        try:
            n_obs, fingerprint = content["n_obs"], content["fingerprint"]
            if fingerprint != study.fingerprint:
                raise SplitError(
                    f"{str(path)!r} belongs to another study: it was made on {n_obs} cells with the fingerprint "
                    f"{str(fingerprint)[:12]}, this study has {study.n_obs} and {study.fingerprint[:12]}; "
                    "make a split of this study."
                )
            roles = np.zeros(n_obs, np.int8)
            n_given = 0
            for name, indices in content["indices"].items():
                rows = np.asarray(indices, dtype=np.int64)
                if rows.size and rows.min() < 0:
                    raise ValueError(f"a negative index in {name}")
                roles[rows] = Role[name]
                n_given += len(rows)
            if n_given != np.count_nonzero(roles):
                raise SplitError(f"{str(path)!r} gives a cell two roles: a leak. Make the split anew.")
            known = {repr(c): c for c in study.conditions}
            lists = {
                name: tuple(known[text] if text in known else Condition.parse(text) for text in content[name])
                for name in ("test_conditions", "valid_conditions", "train_conditions")
            }
            kind, seed, params = content["kind"], content["seed"], content["params"]
            if kind not in KINDS or not isinstance(seed, int) or not isinstance(params, dict):
                raise ValueError(f"kind {kind!r}, seed {seed!r}")
            split = cls(study, kind, seed, roles, params=params, **lists)
            split.check_leaks()
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            if isinstance(error, CellgapError):
                raise
            raise StorageError(f"{str(path)!r} is a damaged split ({error!r}): make it anew.") from None
        return split

    def table(self) -> dict[str, list[Any]]:
        """Return the number of cells by condition and role, as columns: ``condition`` and one a role."""
        counts = count_roles(self.study, self.roles)
        columns: dict[str, list[Any]] = {"condition": [str(c) for c in self.study.all_conditions]}
        return columns | {r.name: counts[:, r].tolist() for r in Role}

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        title = f"{self.kind}, seed {self.seed}: {len(self.train_conditions)} conditions trained on, "
        title += f"{len(self.valid_conditions)} to validate, {len(self.test_conditions)} to test"
        columns = self.table()
        shown = [r.name for r in Role if any(columns[r.name])]
        table = Table()
        table.add_column("condition")
        for name in shown:
            table.add_column(name.lower(), justify="right")
        for i, condition in enumerate(columns["condition"]):
            table.add_row(Text(condition), *(f"{columns[name][i]:,}" if columns[name][i] else "" for name in shown))
        unscored = self.params.get("unscored", {})
        return Group(
            Text(title), table, *(Text(f"not scored: {c} ({why})", style="yellow") for c, why in unscored.items())
        )

    def __str__(self) -> str:
        return render(self)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{int((self.roles == r).sum()):,} {r.name.lower()}" for r in Role if r != Role.UNUSED)
        return f"Split {self.kind} (seed {self.seed}) of {self.study.n_obs:,} cells: {sizes}"


def count_roles(study: Study, roles: np.ndarray) -> np.ndarray:
    """Return the number of cells by condition (in the order of ``study.all_conditions``) and role."""
    shape = (len(study.all_conditions), len(Role))
    return np.bincount(study.codes.astype(np.int64) * len(Role) + roles, minlength=shape[0] * shape[1]).reshape(shape)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"Cannot read the split {str(path)!r}: {error.strerror or error}.") from None
    except ValueError as error:
        raise StorageError(f"{str(path)!r} is not JSON ({error}): expected a split written by Split.save.") from None
    if not isinstance(content, dict):
        raise StorageError(f"{str(path)!r} is not a split: expected a JSON object, found {type(content).__name__}.")
    return content
