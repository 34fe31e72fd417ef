"""What the page of an annotator shows: the fit in a folder, its evaluation on domains left out, or both."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellgap.cli._annotate_run import EVALUATION
from cellgap.gap import Gap

if TYPE_CHECKING:
    from cellgap.annotate import FittedAnnotator, WeightDistance
    from cellgap.evaluate import AnnotationEvaluation
    from cellgap.report import AnnotationData, DistanceLines

_FIRST = 3  # update that lines through distances start at


def report_data(
    folder: Path, settings: Mapping[str, Any], *, evaluation: "AnnotationEvaluation | None" = None
) -> "AnnotationData":
    """Return what the page shows.

    Parameters
    ----------
    folder
        Of the run: a fitted annotator, an evaluation, or both may be there.
    settings
        Of the run; may be empty.
    evaluation
        Where it is at hand; otherwise it is read from the folder, if it is there.

    Raises
    ------
    StorageError
        A file is damaged.
    """
    from cellgap.cli._annotate import opened
    from cellgap.cli._report_data import readable
    from cellgap.cli._run_folder import MODEL
    from cellgap.evaluate import AnnotationEvaluation
    from cellgap.report import AnnotationData

    fitted = opened(folder) if (folder / MODEL).exists() else None
    if evaluation is None and (folder / EVALUATION).is_dir():
        evaluation = AnnotationEvaluation.read(folder / EVALUATION)
    parts: dict[str, Any] = {} if evaluation is None else _judged(evaluation)
    if fitted is not None:
        parts |= _of_fit(fitted)
    label = fitted.label if fitted is not None else parts.get("label", "")
    parts["label"] = label
    path = Path(str(settings.get("data", {}).get("path", folder)))
    return AnnotationData(
        title=f"Annotator of {label}: {path.stem}",
        subtitle=_subtitle(fitted, evaluation),
        settings=readable(settings) if settings else {},
        notes=tuple(_notes(fitted, evaluation)),
        **parts,
    )


def _subtitle(fitted: "FittedAnnotator | None", evaluation: "AnnotationEvaluation | None") -> str:
    told = []
    if fitted is not None:
        told.append(f"{len(fitted.classes)} classes, {len(fitted.domains)} training domains")
    if evaluation is not None:
        told.append(f"{len(evaluation.targets)} values of {evaluation.domains} left out in turn")
    return "; ".join(told)


def _judged(found: "AnnotationEvaluation") -> dict[str, Any]:
    """Return what an evaluation shows; of several annotators the first one is the page's."""
    from cellgap.annotate import UNASSIGNED
    from cellgap.report import Difference

    own = found.annotators[0] if found.annotators else found.methods[0]
    own = own if own in found.methods else found.methods[0]
    cells: Any = found.predictions[found.predictions["method"] == own]
    reasons = cells.loc[(cells["label"] == UNASSIGNED) & (cells["reason"] != ""), "reason"].value_counts()
    gaps: Any = found.gaps[found.gaps["method"] == own] if len(found.gaps) else found.gaps
    return {
        "annotator": own,
        "label": found.label,
        "domains": found.domains,
        "summary": found.summary(),
        "targets": found.by_target(),
        "differences": tuple(
            Difference(name, *found.difference(own, name)) for name in found.methods if name not in found.annotators
        ),
        "calibration": {name: tuple(found.calibration(name)) for name in found.methods},
        "coverage": {name: tuple(found.coverage(name))[:2] for name in found.methods},
        "confusion": found.confusion(own, given=True),
        "robust": found.robust[found.robust["method"] == own] if len(found.robust) else found.robust,
        "reasons": tuple((str(reason), int(n)) for reason, n in reasons.items()),
        # Of the fits without a target; a fit on all domains, where there is one, replaces them.
        "gaps": tuple(
            Gap(str(name), float(rows["value"].mean()), f"mean over {len(rows)} targets; for the first one: "
                f"{rows['scale'].iloc[0]}", str(rows["meaning"].iloc[0]), str(rows["remedy"].iloc[0]))
            for name, rows in gaps.groupby("name", sort=False)
        ),
    }  # fmt: skip


def _of_fit(fitted: "FittedAnnotator") -> dict[str, Any]:
    """Return what a fit shows."""
    moved = fitted.weight_distance
    return {
        "unseen": fitted.unseen,
        "trials": fitted.trials,
        "distance": (moved.t, moved.d),
        "lines": _lines(moved),
        "gaps": fitted.gaps(),
        "sentences": tuple(str(fitted).splitlines()),
    }


def _lines(moved: "WeightDistance") -> "DistanceLines | None":
    from cellgap.report import DistanceLines

    fit = moved.fit
    if fit is None:
        return None
    until = float(moved.t[moved.t >= _FIRST][fit.n - 1])
    return DistanceLines(fit.log_line, fit.sqrt_line, fit.r2_log, fit.r2_sqrt, fit.verdict, until)


def _notes(fitted: "FittedAnnotator | None", found: "AnnotationEvaluation | None") -> list[str]:
    """Return what to know when reading the page."""
    notes = []
    if fitted is not None and len(fitted.domains) == 1:
        notes.append(
            "The annotator was fitted on one domain: settings and thresholds were chosen on held-out cells of it, and "
            "nothing is known about new domains."
        )
    if fitted is not None and fitted.n_unlabelled:
        notes.append(f"{fitted.n_unlabelled:,} cells without a label were not trained on.")
    if found is None:
        return notes
    if len(found.targets) < 5:
        notes.append(f"{len(found.targets)} targets only: read means and their errors as rough.")
    notes += [text for text in found.sentences() if "not in these scores" in text]
    return notes
