"""The page of a contrastive embedding: what its pairs keep and move, how far training got, and what is in it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from cellgap import __version__
from cellgap.errors import DataError, StorageError
from cellgap.gap import Gap
from cellgap.report._draw import drawing
from cellgap.report._embedding_figures import (
    FROZEN,
    alignment_picture,
    coverage_picture,
    loss_picture,
    spectrum_picture,
    view_pictures,
)
from cellgap.report._template import environment, style
from cellgap.report._verdict import Verdict
from cellgap.report._words import count, fixed, flatten, listing, number

if TYPE_CHECKING:
    from cellgap.embed import SamplingDiagnosis

_LEVELS = ("warn", "note", "ok")
_WORDS = {"warn": "warning", "note": "note", "ok": "fine"}
_LEAST = 5
PROBES = ("factor", "role", "measure", "chance", "knn", "knn_pcs", "linear", "linear_pcs")
"""Columns of the table of probes."""


@dataclass(frozen=True, eq=False)
class EmbeddingData:
    """What the page of an embedding shows; without a training, what is known of its pairs.

    Parameters
    ----------
    title, subtitle
        At the head of the page.
    diagnosis
        Of the pairs; see `cellgap.embed.SamplingDiagnosis`.
    loss
        Which loss was trained: floor and matched value are those of "infonce".
    history
        Columns ``step`` and any of ``loss, valid, alignment``, losses without log M.
    best_step
        Whose state was kept; None: not trained.
    codes
        The embedding of some cells; empty: none are drawn.
    labels
        Name to one text for each of these cells; a figure each.
    cells
        Which cells they are, in words.
    probes
        How well factors are told from the embedding and from principal components; columns
        ``factor, role, measure, chance, knn, knn_pcs, linear, linear_pcs``.
    probed
        On which cells, in words.
    gaps, settings
        Of the fit, as in `cellgap.report.ReportData`.
    notes
        Sentences to know when reading the page.

    Raises
    ------
    DataError
        Labels are not as many as the cells, or a column of a table is missing.
    """

    title: str
    subtitle: str
    diagnosis: "SamplingDiagnosis"
    loss: str = "infonce"
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    best_step: int | None = None
    codes: Float[np.ndarray, "cells dim"] = field(default_factory=lambda: np.zeros((0, 2)))
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    cells: str = ""
    probes: pd.DataFrame = field(default_factory=pd.DataFrame)
    probed: str = ""
    gaps: tuple[Gap, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, values in self.labels.items():
            if len(values) != len(self.codes):
                raise DataError(f"{len(self.codes)} drawn cells need as many labels of {name!r}, found {len(values)}.")
        for table, wanted in ((self.probes, PROBES), (self.history, ("step",))):
            missing = [name for name in wanted if name not in table] if len(table) else []
            if missing:
                raise DataError(f"A table of this page needs the columns {', '.join(wanted)}; {missing[0]!r} is not "
                                "there.")  # fmt: skip


def write_embedding_report(data: EmbeddingData, path: str | Path) -> Path:
    """Return the path of the page written from `data`: one HTML file that needs nothing else, not even a script.

    Parameters
    ----------
    data
        What to show.
    path
        Where to write; missing folders are made, an existing file is replaced.

    Raises
    ------
    StorageError
        `path` is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise StorageError(f"The report needs the name of a file, but {str(target)!r} is a folder. Add a name.")
    templates, found = environment(), data.diagnosis
    with drawing():
        spectrum, coverage = spectrum_picture(found), coverage_picture(found)
        training = [
            loss_picture(data.history, found, data.loss, data.best_step) if len(data.history) else None,
            alignment_picture(data.history, found) if len(data.history) else None,
        ]
        views = view_pictures(data.codes, dict(data.labels), data.cells)
    sentences = sorted(found.sentences(), key=lambda s: _LEVELS.index(s.level))
    page = templates.get_template("embedding.html").render(
        data=data,
        found=found,
        version=__version__,
        css=style(templates),
        verdict=embedding_verdict(data),
        warnings=[s.text for s in sentences if s.level == "warn"],
        sentences=[(s.level, _WORDS[s.level], s.text) for s in sentences],
        spectrum=spectrum,
        directions=_directions(found),
        factors=_factors(found),
        coverage=coverage,
        graph=_graph(found),
        training=[picture for picture in training if picture],
        reached=_reached(data),
        views=views,
        probes=_probes(data.probes),
        settings=flatten(data.settings),
        number=number,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8", newline="\n")
    return target


def embedding_verdict(data: EmbeddingData) -> Verdict:
    """Return what the pairs keep and what they move, in words; the warnings are told beside it."""
    found = data.diagnosis
    warned, trained = len(found.warnings), found.trained is not None
    by = {
        verdict: [_factor(f.name) for f in found.factors if f.verdict == verdict]
        for verdict in ("frozen", "moved", "partly moved")
    }
    if warned:
        before = "this embedding is used" if trained else "anything is trained"
        lead = f"{count(warned, 'warning')} to read before {before}."
    elif by["frozen"] or by["moved"]:
        parts = [f"{word} {listing(by[key])}" for word, key in (("keep", "frozen"), ("move", "moved")) if by[key]]
        lead = f"Pairs {' and '.join(parts)}."
    else:
        lead = "Pairs neither freeze nor wholly exchange any factor that is known."
    kept, moved = listing(by["frozen"]), listing(by["moved"])
    sentences = [
        f"Kept, because pairs never change it: {kept}."
        if kept
        else "No known factor is frozen by the pairs: none is sure to be kept.",
        f"Moved at least half as often as by random pairs, and so compressed: {moved}."
        if moved
        else "No known factor is moved half as often as by random pairs.",
    ]
    if by["partly moved"]:
        sentences.append(f"In between: {listing(by['partly moved'])}.")
    sentences.append(_reading(found))
    return Verdict("unclear" if warned else "better", lead, tuple(sentences))


def _reading(found: "SamplingDiagnosis") -> str:
    d = len(found.rho)
    if found.n_frozen:
        return (
            f"{found.n_frozen} of {d} directions are frozen. The loss keeps them and may discard the rest; how far "
            "apart their values lie is the encoder's choice."
        )
    return (
        f"All {d} directions are moved; the least moved one moves {fixed(found.alpha)} times as far as the most "
        "moved one (1: all alike)."
    )


def _factor(name: str) -> str:
    return "sequencing depth" if name == "depth" else name


def _directions(found: "SamplingDiagnosis") -> list[dict[str, str]]:
    """Return the least moved directions and the most moved one."""
    n = min(len(found.rho), len(found.directions))
    places = list(range(n)) if n <= _LEAST + 1 else [*range(_LEAST), n - 1]
    made = []
    for place in places:
        direction = found.directions[place]
        about = [f"{_factor(name)} {share:.2f}" for name, share in direction.factors if share >= 0.05]
        made.append(
            {
                "place": f"{place + 1}",
                "rho": number(found.rho[place]),
                "frozen": "frozen" if found.rho[place] < FROZEN * found.rho[-1] else "",
                "about": ", ".join(about) or "no known factor",
                "genes": ", ".join(direction.genes),
            }
        )
    return made


_ASKED = {"keep": "to keep", "nuisance": "to lose", "": ""}


def _factors(found: "SamplingDiagnosis") -> list[dict[str, Any]]:
    rank = {"keep": 0, "nuisance": 1, "": 2}
    made = []
    for factor in sorted(found.factors, key=lambda f: rank.get(f.role, 2)):
        against = (factor.role, factor.verdict) in (("keep", "moved"), ("nuisance", "frozen"))
        as_asked = (factor.role, factor.verdict) in (("keep", "frozen"), ("nuisance", "moved"))
        told = "no" if against else "yes" if as_asked else "in part" if factor.role else ""
        made.append(
            {
                "name": _factor(factor.name),
                "role": _ASKED.get(factor.role, factor.role),
                "reach": fixed(factor.reach),
                "width": f"{100 * min(max(factor.reach, 0.0), 1.0):.1f}",
                "verdict": factor.verdict,
                "told": told,
                "against": against,
            }
        )
    return made


def _graph(found: "SamplingDiagnosis") -> list[tuple[str, str]]:
    """Return islands, mixing and surplus in words."""
    if found.components > 1:
        islands = (
            f"{found.components:,} islands: no chain of pairs leads from one to another, so their relative positions "
            "are arbitrary."
        )
    else:
        islands = "1 island: chains of pairs join all cells."
    made = [("Islands", islands)]
    if found.components == 1:
        gap = 1.0 - found.lambda_2
        steps = f"about {max(1, round(1 / gap)):,} steps" if gap > 1e-6 else "no number of steps that was found"
        made.append(
            ("λ₂", f"{number(found.lambda_2)}: a walk over pairs forgets where it began after {steps} (0: after one).")
        )
    if found.surplus < 0.05:
        told = (
            "partners are uniform over what they can reach, so that support-corrected negatives have their law: "
            "loss = “corrected” would be smallest for a map that is constant there, and is refused."
        )
    else:
        told = "partners differ from support-corrected negatives, which loss = “corrected” and “mixed” need."
    made.append(("Surplus", f"{number(found.surplus, 2)}: {told}"))
    matched = found.kappa * found.tau
    side = "as the theory wants" if 0.8 <= matched <= 1.25 else (
        "pairs are nearer than the temperature is meant for" if matched > 1 else
        "pairs are wider than the temperature is meant for"
    )  # fmt: skip
    made.append(("κτ", f"{number(matched)}: {side} (1 is matched; mean cosine {number(found.alignment)} in the "
                       f"reference space, τ = {found.tau:g})."))  # fmt: skip
    reached = (
        f"{found.n_able:,} of {found.n_cells:,} training cells have a partner; {found.n_pairs:,} pairs were drawn."
    )
    made.append(("Cells", reached))
    return made


def _reached(data: EmbeddingData) -> list[tuple[str, str, str]]:
    """Return what training reached: name, number, and how to read it."""
    t = data.diagnosis.trained
    if t is None:
        return []
    width = t.matched - t.floor
    part = (t.loss - t.floor) / width if width > 0 else math.nan
    dim = data.codes.shape[1] if len(data.codes) else None
    of = f" of {dim}" if dim else ""
    side = "above the matched value" if part > 1 else "below the matched value, towards the floor"
    made = [
        ("Loss on training cells", number(t.loss), "alignment and uniformity, for many negatives, without log M: "
         + (f"{side}, {fixed(part)} of the way up from the floor to it" if math.isfinite(part) else "no scale")),
        ("Floor", number(t.floor), "no map can be lower: every pair on one point, cells spread evenly"),
        ("Matched value", number(t.matched), "of a map that keeps the geometry of the reference space"),
        ("Alignment", number(t.alignment), f"mean cosine of pairs; {number(data.diagnosis.alignment)} in the reference "
                                           "space"),
        ("Uniformity gap", number(t.uniformity_gap), "0: cells spread over the whole sphere; "
         f"{number(width)} is the way from floor to matched value"),
        ("Effective rank", number(t.effective_rank) + of, "directions that the cells use"),
    ]  # fmt: skip
    if t.agreement is None:
        made.append(("Re-run agreement", "n/a", "one network was trained: set n_runs = 4 to know whether runs agree"))
    else:
        made.append(
            (
                "Re-run agreement",
                fixed(t.agreement),
                "least R² of a linear map between two runs; 1: same geometry up to a linear map. Runs may also agree "
                "because the encoder prefers one answer",
            )
        )
    return made


def _probes(table: pd.DataFrame) -> list[dict[str, Any]]:
    made = []
    for row in table.to_dict("records"):
        values = {name: float(row[name]) for name in PROBES[3:]}
        made.append(
            {
                "factor": _factor(str(row["factor"])),
                "role": _ASKED.get(str(row["role"]), str(row["role"])),
                "measure": str(row["measure"]),
                **{name: "" if math.isnan(value) else fixed(value) for name, value in values.items()},
            }
        )
    return made
