"""Small studies with known means and maps, and settings that fit them in a moment."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellgap.encode import Context, Dose, OneHot, Table
from cellgap.space import Genes
from cellgap.study import Condition, Design, Study, Treatment
from cellgap.train import Loop
from cellgap.transport import Optimization

RAW = Genes(transform="none")
DRUGS = ("anti", "beta", "cora")
LINES = ("L1", "L2")
TABLE = pd.DataFrame({"size": [1.0, 2.0, 4.0, 3.0], "acid": [0.0, 1.0, 1.0, 0.0]}, index=pd.Index([*DRUGS, "dara"]))
FULL = Table() | Dose() | Context("line")

# Enough to move a network of a few weights; the programs are the same for all tests with these shapes.
QUICK = Optimization(
    loop=Loop(n_steps=30, chunk=5, valid_every=10, checkpoint_every=10), batch_size=16, learning_rate=1e-2
)
NETWORK: dict[str, Any] = {"hidden": (8, 8), "embedding": 4, "optimization": QUICK}


def study_of(labels: Sequence[tuple[str, float, str]], x: np.ndarray, *, dosed: bool = True) -> Study:
    """Return the study of cells with one (drug, dose in nM, line) each."""
    obs = pd.DataFrame(labels, columns=["drug", "dose_nM", "line"], index=[f"cell{i}" for i in range(len(x))])
    var = pd.DataFrame(index=pd.Index([f"g{j}" for j in range(x.shape[1])]))
    adata = AnnData(np.asarray(x, np.float32), obs=obs, var=var, uns={"treatment_descriptors": TABLE.copy()})
    design = Design(treatment="drug", dose="dose_nM" if dosed else None, control="vehicle", context=("line",))
    return Study(adata, design)


def at(drug: str | Iterable[str], dose: float | None = None, line: str = "L1") -> Condition:
    """Return a condition in nM: one drug, or a combination at one dose."""
    names = [drug] if isinstance(drug, str) else list(drug)
    return Condition.of([Treatment(n, dose, None if dose is None else "nM") for n in names], [("line", line)])


def vehicle(line: str = "L1") -> Condition:
    return Condition.of([], [("line", line)])


def screen(*, n: int = 40, seed: int = 0) -> Study:
    """Return three drugs at three doses and one combination in two lines: clouds in three dimensions.

    A cell x goes to ``x + s (b + 0.3 x * b)`` with s the logarithm of the dose over 3 and b of the drug; a combination
    adds. Controls are three times as many.
    """
    rng = np.random.default_rng(seed)
    effects = {drug: np.eye(3)[i] * 2 + 0.5 for i, drug in enumerate(DRUGS)}
    labels: list[tuple[str, float, str]] = []
    cells = []
    for line, mean in zip(LINES, ([0.0, 1.0, -1.0], [1.0, 0.0, 2.0]), strict=True):
        kinds = [("vehicle", 0.0)] + [(drug, dose) for drug in DRUGS for dose in (10.0, 100.0, 1000.0)]
        for drug, dose in [*kinds, ("anti+beta", 100.0)]:
            size = 3 * n if drug == "vehicle" else n
            x = np.asarray(mean) + rng.normal(size=(size, 3)) * [1.0, 0.7, 0.4]
            moved = x.copy()
            for name in drug.split("+") if dose else ():
                moved += np.log10(dose) / 3 * effects[name] * (1 + 0.3 * x)
            cells.append(moved)
            labels += [(drug, dose, line)] * size
    order = rng.permutation(len(labels))
    return study_of([labels[i] for i in order], np.concatenate(cells)[order])


def constant(means: dict[tuple[str, float, str], Sequence[float]], *, n: int = 4) -> Study:
    """Return populations of equal cells, so that every mean is known whatever cells are drawn."""
    labels = [key for key in means for _ in range(n)]
    return study_of(labels, np.repeat(np.asarray(list(means.values()), np.float32), n, axis=0))


__all__ = [
    "DRUGS", "FULL", "LINES", "NETWORK", "QUICK", "RAW", "TABLE", "OneHot", "at", "constant", "screen", "study_of",
    "vehicle",
]  # fmt: skip
