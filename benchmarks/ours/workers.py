"""Evaluate a map alone and by two Dask workers, one of which is killed in the middle. A child of transport_scale.py."""

import argparse
import json
import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellgap.encode import Dose, Table
from cellgap.evaluate import evaluate, local_workers
from cellgap.space import Genes
from cellgap.study import Study, simulate_latent, split
from cellgap.transport import Gaussian


@dataclass
class Deadly:
    """Leaves cells as they are, and kills the first worker that asks about a condition."""

    space: Any
    condition: str
    killed: Path
    parent: int
    name: str = "deadly"

    def transport(self, z, condition):
        if str(condition) == self.condition and os.getpid() != self.parent and not self.killed.exists():
            self.killed.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return z


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drugs", type=int, default=6)
    args = parser.parse_args()
    made = simulate_latent(drugs=args.drugs, doses=(10.0, 100.0, 10000.0), dim=20, n_train=300, n_test=0, seed=0)
    held_out = sorted(made.descriptors.index)[: args.drugs // 2]
    with tempfile.TemporaryDirectory() as temporary:
        made.adata.write_h5ad(Path(temporary) / "study.h5ad")
        study = Study.read(Path(temporary) / "study.h5ad", made.design, backed=True)
        cut = split.unseen_treatment(study, held_out, seed=0)
        fitted = Gaussian(space=Genes(transform="none"), encoder=Table(made.descriptors) | Dose()).fit(cut)
        killed = Path(temporary) / "killed"
        victim = str(cut.test_conditions[len(cut.test_conditions) // 2])
        models = {"Gaussian": fitted, "deadly": Deadly(fitted.space, victim, killed, os.getpid())}
        alone = evaluate(models, cut, n_draws=2, progress=False).table
        with local_workers(2) as client:
            spread = evaluate(models, cut, n_draws=2, progress=False, client=client).table
        deaths = int(killed.exists())
    same = alone.merge(spread, how="inner", on=list(alone.columns))  # every column, values to the last bit
    missing = len(alone) - len(same)
    print(json.dumps({"rows": len(alone), "missing": missing, "deaths": deaths}))


if __name__ == "__main__":
    main()
