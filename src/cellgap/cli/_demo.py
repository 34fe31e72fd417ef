"""``cellgap demo``: a simulated drug screen from files to predictions, scores and a page, with the truth at hand."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from cellgap.cli._say import note, show, warn
from cellgap.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from cellgap.cli._run_folder import Run
    from cellgap.study import Condition
    from cellgap.study._simulate import SimulatedScreen

DRUG = "C3"
"""The drug that is held out, at every dose."""

DOSE = 1000.0
"""The dose, in nM, that is held out of the drugs below."""

DOSED = ("A2", "B2", "C2")

RUN_FILE = """\
# The run of `cellgap demo`: try other settings with `cellgap fit run.toml --folder other`.

[data]
path = "screen.h5ad"

[design]
path = "design.toml"

[split]                         # one dose of three drugs, and one drug at every dose
kind = "unseen_conditions"
conditions = [
{conditions}
]

[model]
kind = "ConditionalMonge"
encoder = [                     # what a drug is, how much of it, and for which cells
  {{ kind = "Table", source = "drugs.csv" }},
  {{ kind = "Dose" }},
  {{ kind = "Context", columns = ["cell_line"] }},
]
space = {{ kind = "PCA", dim = 30 }}
optimization = {{ batch_size = 128, loop = {{ n_steps = {n_steps}, chunk = 25 }} }}

[run]
folder = "run"
seed = {seed}
"""


_FIRST_LINE = RUN_FILE.partition("\n")[0]


def demo(
    *,
    folder: Path = Path("cellgap-demo"),
    seed: Annotated[int, Parameter(validator=Number(gte=0, lt=2**32))] = 0,
    n_steps: Annotated[int, Parameter(validator=Number(gte=1))] = 1000,
    n_cells: Annotated[int, Parameter(validator=Number(gte=100))] = 200,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Simulate a drug screen, fit it, and see every output; about two minutes on two cores.

    Parameters
    ----------
    folder
        Where everything is written.
    seed
        Of the simulation, the split and the fit: same seed, same numbers.
    n_steps
        Steps of training.
    n_cells
        Cells of every condition.
    quiet
        Show no progress.
    """
    from cellgap.cli._fit import fit_run
    from cellgap.cli._predict import predict_run
    from cellgap.cli._report import write_page
    from cellgap.cli._run_file import read_run_file
    from cellgap.cli._run_folder import Run
    from cellgap.cli._scores import score

    screen = _simulate(folder, seed=seed, n_cells=n_cells, n_steps=n_steps, quiet=quiet)
    run_file = read_run_file(folder / "run.toml")
    if fit_run(run_file, quiet=quiet) is None:
        if not quiet:
            note("interrupted; the work is kept: run the same command again to continue.")
        return 130
    run = Run.open(folder / "run")
    asked = (f"{DOSED[0]}@{DOSE:g}nM | line1", f"{DRUG}@{DOSE:g}nM | line1")
    cells = predict_run(run, asked)
    cells.write_h5ad(folder / "predicted.h5ad")
    for row in cells.uns["cellgap"]["conditions"].itertuples():
        show(f"predicted {row.n_cells} cells of {row.condition}; nearest training condition: {row.nearest}")
        if row.extrapolates and not quiet:
            warn(f"{row.condition} extrapolates: {row.extrapolates}.")
    found = score(run, n_cells=1000, n_draws=3, progress=not quiet)
    show("", found, "", _against_truth(run, screen))
    for gap in run.fitted.gaps():
        show(str(gap))
    write_page(run, folder / "report.html", title="cellgap demo: a dose and a drug it never saw", progress=not quiet)
    show(
        "",
        f"report:      {folder / 'report.html'}",
        f"predictions: {folder / 'predicted.h5ad'}",
        f"data:        {folder / 'screen.h5ad'}, design.toml, drugs.csv, run.toml",
        f"model:       {folder / 'run'}",
        f'next:        cellgap predict {folder / "run"} --condition "{DRUG}@300nM | line2"',
    )
    return 0


def _simulate(folder: Path, *, seed: int, n_cells: int, n_steps: int, quiet: bool) -> "SimulatedScreen":
    """Write the screen and everything that describes it, in the formats that users bring."""
    from cellgap.study import simulate

    run_file = folder / "run.toml"
    if folder.is_dir() and any(folder.iterdir()):
        ours = run_file.is_file() and run_file.read_text(encoding="utf-8", errors="replace").startswith(_FIRST_LINE)
        if not ours:
            raise ConfigError(f"{folder} holds other files, which the demo would overwrite: name a new --folder.")
    screen = simulate(seed=seed, n_drugs=12, n_cells=n_cells, n_controls=4 * n_cells, counts_per_cell=4000)
    folder.mkdir(parents=True, exist_ok=True)
    screen.adata.write_h5ad(folder / "screen.h5ad")
    screen.design.write(folder / "design.toml")
    screen.descriptors.to_csv(folder / "drugs.csv", index_label="drug")
    held = [c for c in screen.study().conditions if _question(c)]
    conditions = ",\n".join(f'  "{c}"' for c in held)
    text = RUN_FILE.format(conditions=conditions, n_steps=n_steps, seed=seed)
    run_file.write_text(text, encoding="utf-8")
    if not quiet:
        note(f"simulated {screen.adata.n_obs:,} cells x {screen.adata.n_vars} genes with known counterfactuals")
    return screen


def _question(condition: "Condition") -> str:
    """Return which question of the demo a condition belongs to; empty where it is trained on."""
    if DRUG in condition.names:
        return f"a drug never seen ({DRUG})"
    if condition.names[0] in DOSED and condition.treatments[0].dose == DOSE and len(condition.treatments) == 1:
        return f"a dose never seen ({DOSE:g} nM of {', '.join(DOSED)})"
    return ""


def _against_truth(run: "Run", screen: "SimulatedScreen") -> "Table":
    """Return a table of the share of the true effects that each predictor explains, one column a question.

    The simulator knows what each control cell would have become, so nothing here is estimated from other cells: 1 is
    the true mean effect of every gene, 0 is no effect.
    """
    import numpy as np
    from rich.table import Table

    from cellgap.evaluate import standard_baselines
    from cellgap.study import Role
    from cellgap.transport import Codes

    fitted, split = run.fitted, run.split
    source = split.cells(Role.SOURCE)
    z = np.full((split.study.n_obs, fitted.space.dim), np.nan, np.float32)
    used = split.cells(*(role for role in Role if role != Role.UNUSED))
    z[used] = fitted.space.encode(split.study.adata, used)
    codes = Codes(split, fitted.space, fitted.encoder, z)
    predictors = {fitted.name: fitted, **standard_baselines(codes)}
    questions = list(dict.fromkeys(_question(c) for c in split.test_conditions))
    table = Table(title="share of the true effect explained (1 = the truth, which only a simulation knows)")
    table.title_justify = "left"
    table.add_column("predictor")
    for question in questions:
        table.add_column(question, justify="right")
    rows = {c: np.intersect1d(source, split.study.rows(c.control)) for c in split.test_conditions}
    effects = _true_effects(screen, fitted.space, rows)
    shares = {name: _shares(predictor, z, rows, effects) for name, predictor in predictors.items()}
    for name, found in shares.items():
        table.add_row(name, *(found.get(question, "no answer") for question in questions))
    return table


def _true_effects(
    screen: "SimulatedScreen", space, rows: "dict[Condition, np.ndarray]"
) -> "dict[Condition, np.ndarray]":
    """Return the mean effect of every condition on every gene, over four measurements of its control cells."""
    import numpy as np

    @functools.cache
    def mean(condition: "Condition", control: "Condition") -> np.ndarray:
        drawn = (screen.counts(condition, of[control], seed=seed) for seed in range(4))
        return np.mean([np.asarray(space.measured(counts)).mean(0) for counts in drawn], axis=0)

    of = {c.control: at for c, at in rows.items()}
    return {c: mean(c, c.control) - mean(c.control, c.control) for c in rows}


def _shares(
    predictor, z: "np.ndarray", rows: "dict[Condition, np.ndarray]", effects: "dict[Condition, np.ndarray]"
) -> dict[str, str]:
    """Return one minus the squared error of the mean effect over its size, by question."""
    import numpy as np

    from cellgap.errors import ConditionError

    error: dict[str, float] = {}
    size: dict[str, float] = {}
    for condition, effect in effects.items():
        cells = z[rows[condition]]
        try:
            moved = predictor.transport(cells, condition)
        except ConditionError:
            continue
        space = predictor.space
        predicted = np.asarray(space.decode(np.asarray(moved))).mean(0) - np.asarray(space.decode(cells)).mean(0)
        question = _question(condition)
        error[question] = error.get(question, 0.0) + float(((predicted - effect) ** 2).sum())
        size[question] = size.get(question, 0.0) + float((effect**2).sum())
    return {question: f"{1 - error[question] / size[question]:.2f}" for question in error}
