"""A simulated screen of raw counts (`cellgap.simulate`) as files for both sides of the whole job.

Three drugs at two doses in one cell line, 2,500 cells of every condition and of the control, 1,000 genes:
``screen.h5ad`` (raw counts, its design in ``design.toml``, descriptors in ``uns``), and ``cells.npz`` with the same
cells log-normalized and ten numbers a condition, in the layout of `problem.py`.
"""

import argparse
import json
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=2500)
    parser.add_argument("--genes", type=int, default=1000)
    args = parser.parse_args()
    import cellgap as cg

    doses = (10.0, 10000.0)
    sizes = {"n_cells": args.cells, "n_controls": args.cells, "n_genes": args.genes}
    screen = cg.simulate(n_drugs=3, doses=doses, n_combinations=0, cell_lines=("line1",), seed=0, **sizes)
    study = screen.study()
    screen.adata.write_h5ad(args.folder / "screen.h5ad")
    screen.design.write(args.folder / "design.toml")
    space = cg.space.Genes().fit(cg.split.in_distribution(study))
    values = np.asarray(space.measured(study.values(np.arange(study.n_obs))))
    conditions = [(c.names[0], float(c.treatments[0].dose or 0), study.rows(c)) for c in study.conditions]
    mix = np.random.default_rng(0).normal(size=(screen.descriptors.shape[1], 10))
    effect = np.stack([screen.descriptors.loc[drug].to_numpy() @ mix * np.log10(dose) for drug, dose, _ in conditions])
    np.savez(
        args.folder / "cells.npz",
        controls=values[study.rows(study.controls[0])],
        treated=np.stack([values[rows] for *_, rows in conditions]),
        names=np.asarray([f"{drug}-{dose:g}" for drug, dose, _ in conditions]),
        embedding=(effect - effect.min()) / (effect.max() - effect.min()),
    )
    print(json.dumps({"cells": study.n_obs}))


if __name__ == "__main__":
    main()
