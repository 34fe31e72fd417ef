"""``cellgap generate``: fit a generator of cells, draw from it, take cells elsewhere, top up rare types."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from cellgap.cli._generate_files import held_out, read_cells, target, written
from cellgap.cli._say import note, show, warn
from cellgap.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from cellgap.generate import FittedCFGen, Sampler

app = App(name="generate", help="Draw cells with chosen attributes as raw counts.")

EXAMPLE = """\
# A run file of cellgap: `cellgap generate fit run.toml`. Paths are relative to this file.

[data]
path = "atlas.h5ad"             # cells by genes: .h5ad, .zarr, or .h5mu for several modalities

[design]
context = ["cell_type"]         # what cells are; a screen names its treatment, control and dose as well
donor = "donor"
counts = "X"                    # where the raw counts are: "X", or the name of a layer

[split]                         # what the generator must not see
kind = "in_distribution"        # or leave_one_domain_out, or everything
test = 0.2

[model]
kind = "CFGen"
attributes = ["cell_type", "donor"]

[model.space]
kind = "Autoencoder"            # JointAutoencoder for several modalities
dim = 50
noise = 0.5                     # on codes in training: smoother codes, which a flow learns better

[run]
folder = "generator"
seed = 0
"""

Seed = Annotated[int, Parameter(validator=Number(gte=0))]
Values = Annotated[tuple[str, ...], Parameter(name="--with", negative="")]


@app.command
def fit(
    run_file: Path | None = None,
    /,
    *,
    folder: Path | None = None,
    changes: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    quiet: Annotated[bool, Parameter(negative="")] = False,
    example: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Fit a generator as a run file says; the same command continues a run that was stopped.

    Parameters
    ----------
    run_file
        TOML file with the sections data, design, split, model and run.
    folder
        Where to keep the run; replaces the folder of the file.
    changes
        Replace values of the file: --set model.training.loop.n_steps=500.
    quiet
        Say nothing but errors.
    example
        Print a run file to start from, and do nothing else.
    """
    from cellgap.cli._fit import fit_run
    from cellgap.cli._run_file import read_run_file

    if example:
        print(EXAMPLE, end="")
        return 0
    if run_file is None:
        raise ConfigError("fit needs a run file; `cellgap generate fit --example` prints one.")
    run = read_run_file(run_file, changes, folder)
    if run.model["kind"] != "CFGen":
        raise ConfigError(f"[model] kind {run.model['kind']!r} is no generator: take 'CFGen', or `cellgap fit`.")
    fitted: Any = fit_run(run, quiet=quiet)
    if fitted is None:
        if not quiet:
            note(f"interrupted; the work is kept in {run.folder}: run the same command again to continue.")
        return 130
    if not quiet:
        for gap in fitted.gaps():
            show(str(gap))
        show(_told(fitted), f"model: {run.folder}", f"next:  cellgap generate sample {run.folder} --n 1000")
    return 0


@app.command
def sample(
    run: Path,
    /,
    *,
    n: int,
    values: Values = (),
    guidance: str = "1",
    n_steps: int | None = None,
    seed: Seed = 0,
    out: Path | None = None,
) -> int:
    """Write new cells with the attributes that are asked for, as raw counts.

    Parameters
    ----------
    run
        Folder of a fitted generator.
    n
        Number of cells.
    values
        Attributes: --with cell_type="CD14 Mono" --with donor=d3; others are drawn as in the training cells.
    guidance
        A weight, or "calibrated".
    n_steps
        Of the integration.
    seed
        Of everything that is drawn.
    out
        The file to write: .h5ad, or .h5mu where the generator has several modalities.
    """
    import jax.random as jr

    fitted = opened(run)
    out = target(fitted, out, "generated")
    made = fitted.sample(
        n, key=jr.key(seed), guidance=_guidance(guidance), sampler=_sampler(fitted.sampler, n_steps), **pairs(values)
    )
    unseen = int((~made.obs["seen"].to_numpy(bool)).sum())
    if unseen:
        warn(f"{unseen:,} cells have a combination of attributes that no training cell has.")
    return written(made, out)


@app.command
def translate(
    run: Path,
    data: Path,
    /,
    *,
    values: Values,
    guidance: str = "1",
    n_steps: int | None = None,
    seed: Seed = 0,
    out: Path | None = None,
) -> int:
    """Write measured cells as they would be with other values of some attributes: another batch, another donor.

    Parameters
    ----------
    run
        Folder of a fitted generator.
    data
        The cells, .h5ad or .h5mu.
    values
        The attributes to change: --with donor=d1.
    guidance, n_steps, seed
        As in sample.
    out
        The file to write: .h5ad, or .h5mu where the generator has several modalities.
    """
    import jax.random as jr

    from cellgap.generate import TRANSLATION

    fitted = opened(run)
    out = target(fitted, out, "translated")
    cells = read_cells(data)
    sampler = _sampler(TRANSLATION, n_steps)
    made = fitted.translate(cells, key=jr.key(seed), guidance=_guidance(guidance), sampler=sampler, **pairs(values))
    return written(made, out)


@app.command
def augment(
    run: Path,
    data: Path,
    /,
    *,
    label: str,
    per_class: int,
    guidance: str = "1",
    seed: Seed = 0,
    out: Path | None = None,
) -> int:
    """Write measured cells, and generated ones for every category that has too few.

    Parameters
    ----------
    run
        Folder of a fitted generator.
    data
        The cells, .h5ad or .h5mu.
    label
        The attribute whose categories are topped up.
    per_class
        Cells that every category has at least.
    guidance, seed
        As in sample.
    out
        The file to write: .h5ad, or .h5mu where the generator has several modalities.
    """
    import jax.random as jr

    from cellgap.generate import augment as topped_up

    fitted = opened(run)
    out = target(fitted, out, "augmented")
    more = topped_up(
        fitted, read_cells(data), label=label, per_class=per_class, key=jr.key(seed), guidance=_guidance(guidance)
    )
    made = more.obs["generated"].to_numpy(bool)
    show(f"{int(made.sum()):,} generated cells below {int((~made).sum()):,}")
    return written(more, out)


@app.command
def calibrate(
    run: Path,
    data: Path | None = None,
    /,
    *,
    attribute: str | None = None,
    seed: Seed = 0,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Print which weight of guidance, and between which times, gives the cells closest to held-out ones.

    Parameters
    ----------
    run
        Folder of a fitted generator.
    data
        Held-out cells, .h5ad or .h5mu; by default those that the run's split holds out.
    attribute
        Whose weight; by default the first.
    seed
        Of the noise.
    as_json
        Print JSON instead of a table.
    """
    import jax.random as jr

    from cellgap.generate import calibrate_guidance

    fitted = opened(run)
    cells = held_out(run) if data is None else read_cells(data)
    found = calibrate_guidance(fitted, cells, attribute, key=jr.key(seed))
    if as_json:
        best = {"weight": found.guidance.weight, "window": list(found.guidance.window)}
        print(json.dumps({"best": best, "cells": found.categories, "table": found.table.to_dict("records")}, indent=1))
        return 0
    show(found.table.head(15).round(4).to_string(index=False))
    weight, (start, end) = found.guidance.weight, found.guidance.window
    when = "" if weight == 1 else f" between the times {start:g} and {end:g}"
    show(f"best: weight {weight:g}{when}, by {sum(found.categories.values()):,} held-out cells")
    return 0


@app.command
def report(
    run: Path,
    /,
    *,
    by: str | None = None,
    guidance: str = "1",
    seed: Seed = 0,
    n_cells: Annotated[int, Parameter(validator=Number(gte=20))] = 2000,
    out: Path | None = None,
) -> int:
    """Write the page of a generator: generated cells beside those that its split holds out, scores, gaps.

    Parameters
    ----------
    run
        Folder of a fitted generator.
    by
        The attribute whose categories are drawn and scored one by one; by default the first.
    guidance, seed
        As in sample.
    n_cells
        Held-out cells, and as many generated ones, at most.
    out
        The file to write; by default report.html in the run's folder.
    """
    from cellgap.cli._generate_report import report_data
    from cellgap.report import write_generation_report

    fitted = opened(run)
    by = fitted.attributes.names[0] if by is None else by
    if by not in fitted.attributes.names:
        raise ConfigError(f"--by is one of the attributes: {', '.join(fitted.attributes.names)}; found {by!r}.")
    data = report_data(run, fitted, by, _guidance(guidance), seed, n_cells)
    path = write_generation_report(data, out or run / "report.html")
    show(data.scores.round(4).to_string(), f"report: {path}")
    return 0


def opened(run: Path) -> "FittedCFGen":
    """Return the generator in a folder.

    Raises
    ------
    StorageError
        The folder holds no model, or another one.
    """
    from cellgap.generate import FittedCFGen
    from cellgap.storage import load

    fitted = load(run)
    if not isinstance(fitted, FittedCFGen):
        raise StorageError(f"{run} holds a saved {type(fitted).__name__}, not a generator: `cellgap generate fit`.")
    return fitted


def pairs(values: Sequence[str]) -> dict[str, Any]:
    """Return ``name=value`` texts as a mapping.

    Raises
    ------
    ConfigError
        A text has no ``=``, or a name comes twice.
    """
    found: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name or name in found:
            raise ConfigError(f"--with takes name=value, each name once, found {text!r}.")
        found[name] = value
    return found


def _guidance(text: str) -> float | str:
    if text == "calibrated":
        return text
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f'--guidance is a number or "calibrated", found {text!r}.') from None


def _sampler(sampler: "Sampler", n_steps: int | None) -> Any:
    import dataclasses

    return None if n_steps is None else dataclasses.replace(sampler, n_steps=n_steps)


def _told(fitted: "FittedCFGen") -> str:
    known = zip(fitted.attributes.names, fitted.attributes.sizes, strict=True)
    return "attributes: " + ", ".join(f"{name} ({size} values)" for name, size in known)
