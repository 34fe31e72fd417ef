"""The page of a policy's releases, from released numbers alone."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellgap.cli._stream_policy import Asked

if TYPE_CHECKING:
    from cellgap.cli._stream_release import Desk
    from cellgap.report import ReleaseData, ReleasedStatistic

PAGE = "report.html"


def write_page(desk: "Desk") -> Path:
    """Return the path of the page of a policy, written into its public folder."""
    from cellgap.report import write_release_report

    return write_release_report(release_data(desk), desk.policy.folder / PAGE)


def release_data(desk: "Desk") -> "ReleaseData":
    """Return what the page of a policy shows."""
    from cellgap.report import ReleaseData

    budget, policy = desk.summary(), desk.policy
    gaps = [str(gap) for statistic in desk.statistics.values() for gap in statistic.gaps()]
    notes = []
    if any(asked.source is not None for asked in policy.statistics):
        notes.append("Selections that are read off a released sum cost nothing further.")
    return ReleaseData(
        title=policy.path.stem,
        subtitle=f"statistics of plates, released one after the other, {policy.steps} at most",
        statistics=tuple(_released(desk, asked) for asked in policy.statistics),
        rho_total=budget["rho"],
        rho_spent=budget["rho_spent"],
        delta=_number(budget["delta"]),
        epsilon_total=_number(budget["epsilon"]),
        epsilon_spent=_number(budget["epsilon_spent"]),
        unit=budget["unit"],
        steps=policy.steps,
        safe=budget["safe"],
        settings={
            "donors": {
                "rule": "closed" if policy.pooled else "each plate", "close_after": policy.close_after,
                "max_cells": policy.max_cells, "max_donors": policy.max_donors, "max_steps": policy.max_steps,
                "min_separation": policy.min_separation,
            },
            **{asked.name: {k: v for k, v in asked.options.items() if k != "features"} for asked in policy.statistics},
        },
        notes=(*notes, *gaps),
    )  # fmt: skip


def _released(desk: "Desk", asked: Asked) -> "ReleasedStatistic":
    from cellgap.report import ReleasedStatistic

    statistic = desk.statistics[asked.name if asked.source is None else asked.source]
    releases = statistic.releases
    free = asked.source is not None
    common: dict[str, Any] = {
        "name": asked.name,
        "kind": asked.kind,
        "mechanism": f"read off {asked.source}: costs nothing"
        if free
        else statistic.mechanism.describe().removeprefix(f"{asked.name}: "),
        "rho": 0.0 if free else float(statistic.mechanism.rho),
        "epsilon": 0.0 if free else _epsilon(desk, statistic.mechanism.rho),
        "times": np.array([release.t for release in releases], int),
        "bound": np.array([release.bound(0.05) for release in releases]) if releases else math.nan,
    }
    if free:
        q = int(asked.options.get("q", 1))
        return ReleasedStatistic(
            **{**common, "bound": 2 * common["bound"]}, selected=tuple(tuple(r.top(q)[0]) for r in releases)
        )
    if asked.kind == "select":
        return ReleasedStatistic(**common, selected=tuple(tuple(r.labels) for r in releases))
    if not releases:
        levels = tuple(asked.options.get("quantiles", [0.5])) if asked.kind == "quantile" else ()
        width = len(levels) if asked.kind == "quantile" else len(asked.features)
        return ReleasedStatistic(**common, features=asked.features, quantiles=levels, values=np.zeros((0, width)))
    rows: dict[str, Any] = {"values": np.stack([r.values for r in releases])}
    if asked.kind == "quantile":
        rows |= {name: np.stack([r.extra[name] for r in releases]) for name in ("low", "high")}
        return ReleasedStatistic(**common, **rows, quantiles=tuple(asked.options.get("quantiles", [0.5])))
    if asked.kind == "mean":
        extra = {"values": "means", "low": "means_low", "high": "means_high"}
        rows = {name: np.stack([r.extra[there] for r in releases]) for name, there in extra.items()}
        return ReleasedStatistic(**common, **rows, features=asked.features, unit="mean over donors")
    rows["sd"] = np.stack([r.sd for r in releases])
    return ReleasedStatistic(**common, **rows, features=asked.features)


def _epsilon(desk: "Desk", rho: Any) -> float:
    from cellgap.stream.release._accounting import epsilon_tight

    delta = desk.budget.delta
    return math.nan if delta is None else (float(epsilon_tight(rho, delta)) if rho > 0 else 0.0)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
