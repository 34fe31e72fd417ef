"""The known-answer problem (`cellgap.simulate`) as plain arrays, written once for all children of a benchmark.

Controls are a mixture of three Gaussians of intrinsic dimension 10 in R^d; drugs A, B, C at doses 10 and 10000 nM
move them by known optimal maps; the populations are not paired. Numbers only, so that programs in any Python
environment read the same cells:

- ``controls`` (cells, d), ``treated`` (6, cells, d), float32;
- ``names``: ``drug-dose``, ``doses`` in nM;
- ``embedding`` (6, 10): stands for the published effect embedding, ten numbers between 0 and 1 a condition, here
  a fixed linear map of the drug's descriptor times the logarithm of the dose; ``drugs`` and ``drug_embedding`` (3, 10)
  are the same without the dose.

Run as a program, so that the process which measures others stays small.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from children import run_child


def problem(folder: Path, d: int, cells: int) -> Path:
    """Write the problem into a folder with a child process and return the file."""
    path = folder / f"problem_{d}_{cells}.npz"
    run_child("problem.py", {"path": path, "d": d, "cells": cells})
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--d", type=int, required=True)
    parser.add_argument("--cells", type=int, required=True)
    args = parser.parse_args()
    from cellgap.study import simulate_latent

    doses = (10.0, 10000.0)
    made = simulate_latent(doses=doses, dim=args.d, n_train=args.cells, n_test=0, seed=0)
    conditions = [(str(drug), dose) for drug in made.descriptors.index for dose in doses]
    mix = np.random.default_rng(0).normal(size=(made.descriptors.shape[1], 10))
    effect = np.stack([made.descriptors.loc[drug].to_numpy() @ mix * np.log10(dose) for drug, dose in conditions])
    np.savez(
        args.path,
        controls=made.cells("control", "train"),
        treated=np.stack([made.cells(f"{drug}@{dose:g}nM", "train") for drug, dose in conditions]),
        names=np.array([f"{drug}-{dose:.0f}" for drug, dose in conditions]),
        doses=np.array([dose for _, dose in conditions]),
        drugs=made.descriptors.index.to_numpy().astype(str),
        drug_embedding=(made.descriptors.to_numpy() @ mix).astype(np.float32),
        embedding=((effect - effect.min()) / (effect.max() - effect.min())).astype(np.float32),
    )
    print(json.dumps({"conditions": len(conditions)}))


if __name__ == "__main__":
    main()
