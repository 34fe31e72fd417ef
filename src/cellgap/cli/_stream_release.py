"""Private statistics of plates, released one plate after the other. Nothing said here depends on a cell."""

import dataclasses
import filecmp
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellgap.cli._say import warn
from cellgap.cli._stream_policy import Asked, Policy, costs
from cellgap.errors import (
    BudgetExhausted,
    CellgapError,
    ConfigError,
    DataError,
    DonorOverContribution,
    PrivacyError,
)
from cellgap.storage import replace

if TYPE_CHECKING:
    from anndata import AnnData

    from cellgap.stream import PrivacyBudget, RunningStatistic
    from cellgap.stream.release import Audit

PLATES, MEANING, RELEASES, PAGE = "plates.json", "policy.json", "releases.json", "report.html"
Say = Callable[[str], None]


class Desk:
    """The plates of a policy, its budget, and what is released.

    Parameters
    ----------
    policy
        The policy.

    Raises
    ------
    CellgapError
        The journal cannot be continued, or a statistic cannot be paid.
    """

    def __init__(self, policy: Policy) -> None:
        from cellgap.stream import PrivacyBudget

        if policy.budget.get("unit", "donor") == "cell":
            raise ConfigError('[budget] unit = "cell": a cell a contribution is for the library, not for this command.')
        self.policy = policy
        # What is reserved cannot be taken back: first on trial, so that all of a policy is reserved or nothing.
        with tempfile.TemporaryDirectory() as folder, PrivacyBudget(**_apart(policy, folder)) as trial:
            for asked in costs(policy.statistics):
                self._paid(asked, trial)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            self.budget: PrivacyBudget = PrivacyBudget(**policy.budget)
        for caution in told:
            warn(str(caution.message))
        try:
            meaning = self._meaning()
            self.statistics = {asked.name: self._paid(asked, self.budget) for asked in costs(policy.statistics)}
            if self.done and not meaning:
                raise PrivacyError(f"{policy.journal / MEANING} is missing: bring back the whole folder.")
            self._write(MEANING, meaning | policy.meaning())
        except BaseException:
            self.budget.close()
            raise

    @property
    def done(self) -> int:
        """Steps that a statistic has published."""
        return max((statistic.published for statistic in self.statistics.values()), default=0)

    def _meaning(self) -> dict[str, Any]:
        """Return what was written of the policy with which the journal was begun, after comparing this one with it."""
        path = self.policy.journal / MEANING
        try:
            kept = json.loads(path.read_text()) if path.exists() else {}
            before = {section: dict(values) for section, values in kept.items()}
        except (ValueError, TypeError, AttributeError):
            raise PrivacyError(f"{path} is damaged: bring back the whole folder.") from None
        for section, values in self.policy.meaning().items():
            for key, value in values.items():
                was = before.get(section, values).get(key)
                if was != value:
                    raise PrivacyError(
                        f"[{section}] {key} is {value!r} and was {was!r} when the journal was begun: give the same, or "
                        "another journal (and pay for it)."
                    )
        return before

    def _write(self, name: str, content: Any) -> None:
        text = json.dumps(content, indent=1)
        replace(self.policy.journal / name, lambda handle: handle.write(text.encode()))

    def _paid(self, asked: Asked, budget: "PrivacyBudget") -> "RunningStatistic":
        """Return the running statistic, reserved or continued."""
        from cellgap.stream import DonorBounds

        p, o = self.policy, asked.options
        common = {
            "max_steps": p.max_steps, "min_separation": p.min_separation, "max_donors": p.max_donors,
            "lattice": o.get("lattice"), "signed": False,
        }  # fmt: skip
        loss = {name: o[name] for name in ("share", "rho", "epsilon") if name in o}
        name = asked.name
        try:
            if asked.kind == "quantile":
                bounds = DonorBounds(l2=1.0, l1=1.0, **common)
                options = {"bins": o["bins"], "quantiles": o.get("quantiles", [0.5]), **loss}
                return budget.running_quantile(name, p.steps, bounds, **options)
            bounds = DonorBounds(l2=o["l2"], linf=o.get("linf"), l1=o.get("l1"), **common)
            given: tuple[Any, ...] = (name, asked.features, p.steps, bounds)
            if asked.kind == "max":
                return budget.running_max(*given, **loss)
            if asked.kind == "select":
                return budget.running_select(*given, q=o.get("q", 1), **loss)
            return budget.running_sum(*given, mechanism=o.get("mechanism", "auto"), count=asked.kind == "mean", **loss)
        except CellgapError as error:
            raise type(error)(f"[statistic.{name}] {error}") from None

    def release(self, plates: Sequence[Path], say: Say) -> list[str]:
        """Return the names of the plates that were released now, after all of them are; see `write`.

        Plates that were released before are left alone; one that was interrupted is finished.

        Raises
        ------
        CellgapError
            A plate cannot be used; nothing of it is released then, and another one may take its step.
        """
        steps = self._steps(plates)
        opened = {path: _opened(path) for path in steps}
        for path, adata in opened.items():
            self._check(path, adata)
        paths, new = list(steps), []
        self._write(PLATES, [str(path) for path in paths[: self.done]])
        for path, t in steps.items():
            waiting = [asked for asked in costs(self.policy.statistics) if self.statistics[asked.name].published < t]
            if not waiting:
                continue
            vectors = {}
            for asked in waiting:
                say(f"step {t} of {self.policy.steps}, {path.name}: {asked.name}")
                try:
                    vectors[asked.name] = self._vectors(asked, t, steps, opened)
                except CellgapError as error:
                    raise type(error)(f"{path.name}: {error}") from None
            self._write(PLATES, [str(path) for path in paths[: max(t, self.done)]])
            try:
                for name, offered in vectors.items():
                    self.statistics[name].step(offered, t, policy="drop")
            except (DonorOverContribution, DataError):
                self._write(PLATES, [str(path) for path in paths[: self.done]])
                raise
            new.append(path.name)
        return new

    def _steps(self, plates: Sequence[Path]) -> dict[Path, int]:
        """Return all plates so far and their steps, in order; new ones take the next steps."""
        known = self._known()
        here = {path.name: path.resolve() for path in plates}
        if len(here) < len(plates):
            raise ConfigError("two plates have the same file name: a plate is known by it, rename one.")
        for path in known:
            if not _same(path, here.get(path.name, path)):
                raise ConfigError(
                    f"{path.name} was released from {path}, which is still there: a plate is known by its file name, "
                    "so rename the new one."
                )
        steps = {here.pop(path.name, path): t for path, t in known.items()}
        for path in here.values():
            steps[path] = len(steps) + 1
        if len(steps) > self.policy.steps:
            raise BudgetExhausted(
                f"{len(steps)} plates are more than the {self.policy.steps} steps that were paid for: a new policy "
                "with another journal can pay for further ones."
            )
        return steps

    def _known(self) -> dict[Path, int]:
        path = self.policy.journal / PLATES
        try:
            kept = json.loads(path.read_text()) if path.exists() else []
            known = {Path(text): t for t, text in enumerate(kept, start=1)}
        except (ValueError, TypeError):
            raise PrivacyError(f"{path} is damaged: write the paths of all plates so far as a JSON list.") from None
        if len(known) < self.done:
            raise PrivacyError(f"{path} names fewer plates than were released: bring back the whole folder.")
        return known

    def _check(self, path: Path, adata: "AnnData") -> None:
        """Refuse a plate that lacks a column or a gene, before anything is released."""
        from cellgap.stream.release._donors import columns_of, donors_of, joined, numbers_of
        from cellgap.study._measurements import matrix_of

        try:
            donors_of(adata, self.policy.donor)
            for asked in costs(self.policy.statistics):
                if asked.of == "genes":
                    columns_of(adata, asked.features)
                    matrix_of(adata, self.policy.layer)
                elif asked.of == "conditions":
                    joined(adata, self.policy.condition)
                else:
                    numbers_of(adata, asked.options["column"])
        except CellgapError as error:
            raise type(error)(f"{path.name}: {error}") from None

    def _vectors(
        self, asked: Asked, t: int, steps: Mapping[Path, int], opened: Mapping[Path, "AnnData"]
    ) -> dict[str, np.ndarray]:
        """Return what donors contribute to a step."""
        from cellgap.stream.release import donor_counts, donor_histograms, donor_means
        from cellgap.stream.release._donors import donors_of

        p = self.policy
        first: dict[str, int] = {}
        for path, s in steps.items():
            if s <= t:
                for who in set(donors_of(opened[path], p.donor).tolist()):
                    first.setdefault(who, s)
        if p.pooled:
            only = [who for who, s in first.items() if min(s + p.close_after - 1, p.steps) == t]
            start = t - p.close_after + 1
        else:
            only, start = None, t
        parts = [opened[path] for path, s in steps.items() if start <= s <= t]
        common: dict[str, Any] = {"max_cells": p.max_cells, "rank": self.budget.ranks, "only": only}
        values = asked.options.get("values")
        if asked.of == "genes":
            found = donor_means(parts, p.donor, asked.features, layer=p.layer, target_sum=p.target_sum, **common)
        elif asked.of == "conditions":
            found = donor_counts(parts, p.donor, p.condition, asked.features, unit=values or "cells", **common)
        else:
            column, bins = asked.options["column"], asked.options["bins"]
            found = donor_histograms(parts, p.donor, column, bins, unit=values or "mean", **common)
        if self.budget.unit == "donor_plate":
            return {f"{who} | {t}": vector for who, vector in found.items()}
        return found

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return everything that is released, a table a statistic, a row a step and value."""
        found = {}
        for asked in self.policy.statistics:
            source = self.statistics[asked.name if asked.source is None else asked.source]
            rows = []
            for release in source.releases:
                if asked.source is None:
                    table = release.frame()
                else:
                    names, regret = release.top(int(asked.options.get("q", 1)))
                    table = pd.DataFrame({"rank": range(1, len(names) + 1), "feature": names, "regret": regret})
                table.insert(0, "step", release.t)
                rows.append(table)
            found[asked.name] = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
        return found

    def write(self) -> None:
        """Write tables and releases as JSON into the public folder."""
        folder = self.policy.folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in self.tables().items():
            text = table.to_csv(index=False)
            replace(folder / f"{name}.csv", lambda handle, text=text: handle.write(text.encode()))
        released = {name: [r.to_dict() for r in statistic.releases] for name, statistic in self.statistics.items()}
        document = json.dumps({"budget": self.summary(), "statistics": released}, indent=1)
        replace(folder / RELEASES, lambda handle: handle.write(document.encode()))

    def summary(self) -> dict[str, Any]:
        """Return where the budget stands, as plain values."""
        from cellgap.stream.release._accounting import epsilon_tight

        budget, delta = self.budget, self.budget.delta

        def epsilon(rho: Any) -> float | None:
            return None if delta is None else (float(epsilon_tight(rho, delta)) if rho > 0 else 0.0)

        return {
            "unit": budget.unit, "rho": float(budget.total), "rho_spent": float(budget.spent),
            "rho_left": float(budget.remaining), "delta": delta, "epsilon": epsilon(budget.total),
            "epsilon_spent": epsilon(budget.spent), "steps": self.policy.steps, "safe": budget.safe,
        }  # fmt: skip

    def close(self) -> None:
        """Let go of the journal."""
        self.budget.close()

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _same(known: Path, given: Path) -> bool:
    """Return whether a plate that was released is given again, from the same place, moved, or copied."""
    if given == known or not known.exists():
        return True
    return known.is_file() and given.is_file() and filecmp.cmp(known, given, shallow=False)


def _opened(path: Path) -> "AnnData":
    from cellgap.study._read import open_study_file

    try:
        return open_study_file(path, backed=True)
    except Exception as error:
        # What a reader says may hold numbers of cells or values.
        if isinstance(error, DataError) and error.__cause__ is None:
            raise
        raise DataError(f"{os.fspath(path)!r} cannot be read: write it again with AnnData.write_h5ad.") from None


def _apart(policy: Policy, folder: str) -> dict[str, Any]:
    """Return the budget of a policy with an empty journal in another folder."""
    kept = {name: value for name, value in policy.budget.items() if name not in ("anchor", "donors")}
    return kept | {"journal": Path(folder)}


def audited(policy: Policy, runs: int) -> Iterator["Audit"]:
    """Yield what attacks on the mechanisms of a policy find; its journal is neither read nor made."""
    from cellgap.stream.release import audit

    with (
        tempfile.TemporaryDirectory() as folder,
        Desk(dataclasses.replace(policy, budget=_apart(policy, folder))) as desk,
    ):
        for statistic in desk.statistics.values():
            yield audit(statistic.mechanism, runs, delta=policy.budget.get("delta", 1e-5))
