"""Annotators on domains that they never saw, on five sets of real cells.

Question: does the default annotator label cells of a domain that was left out at least as well as tuned logistic
regression, and as the tools of the field, CellTypist and scANVI? Are its probabilities right there? Is the worst domain
no worse than that of logistic regression?
Data: RNA mixtures (7 mixtures; 2 protocols x 4 amounts of RNA), PBMC by two chemistries (9 types), control PBMC of six
donors (8 types), bone marrow progenitors in two sequencing runs (7 types), and the response to panobinostat in four
patients (treated or not). Every domain is left out once. Three seeds of the annotator and of scikit-learn's MLP;
logistic regression (its strength chosen by leaving source domains out), kNN, CellTypist and scANVI are fitted once.
scANVI is shown the cells of the left-out domain without labels; the others never see them.
How to read: macro-F1 over the classes of the target, meaned over domains and seeds. ECE over all left-out cells
together, in 15 bins of equal mass: in a domain of 30 cells a bin holds two, and chance alone makes it large. "worst" is
the lowest macro-F1 of a domain, and the error is that of logistic regression's mean over domains. Probabilities of
CellTypist are normalized to sum to 1.
The first run makes the environments of the peers; scANVI takes most of the time (``--peers celltypist`` leaves it out).
"""

import argparse
import subprocess
from pathlib import Path

import jax.random as jr
import numpy as np
import pandas as pd

import cellgap as cg
from annotation_sets import DOMAIN, LABEL, SETS, annotation_set
from bars import Bar
from cellgap.evaluate._classification import expected_calibration_error, macro_f1
from children import environment, say, table
from environments import CELLTYPIST, SCVI, peer_python

CAPABILITY = "annotate"
HERE = Path(__file__).resolve().parent
OUT = HERE / "out" / "annotate_cells"


def bar(what: str, value: float, target: str | None) -> None:
    Bar("cells", what, float(value), target, CAPABILITY).emit()


def peer(method: str, name: str, python: str) -> pd.DataFrame:
    """Return what a peer says of every cell; kept, so that a run goes on where another was stopped."""
    path = OUT / f"{name}.{method}.csv"
    if not path.exists():
        cells = OUT / f"{name}.h5ad"
        if not cells.exists():
            annotation_set(name).write_h5ad(cells)
        part = path.with_suffix(".part")
        command = [
            python, str(HERE / "peers" / "annotation.py"), "--cells", str(cells), "--label", LABEL,
            "--domain", DOMAIN, "--method", method, "--out", str(part),
        ]  # fmt: skip
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{method} failed on {name}:\n{done.stderr[-2000:]}")
        path.with_suffix(".json").write_text(done.stdout)
        part.rename(path)
    return pd.read_csv(path, index_col="cell", dtype={"target": str, "truth": str, "label": str})


def scores_of(said: pd.DataFrame) -> tuple[dict[str, float], float]:
    """Return macro-F1 by target, and the calibration error over all cells whose class training cells have."""
    there = said.groupby("truth")["target"].nunique() > 1
    said = said[said["truth"].map(there)]
    by_target = {t: macro_f1(part["truth"], part["label"]) for t, part in said.groupby("target")}
    right = (said["truth"] == said["label"]).to_numpy()
    return by_target, expected_calibration_error(said["probability"].to_numpy(), right)


def run(name: str, n_seeds: int, peers: list[str]) -> None:
    cells = annotation_set(name)
    study = cg.Study(cells, cg.Design(context=(DOMAIN,), counts="X"))
    say(f"{name}: {study}")
    found = cg.evaluate.annotation(
        cg.Annotator(domains=DOMAIN), study, LABEL, domains=DOMAIN, n_seeds=n_seeds, key=jr.key(0),
        folder=OUT / name, progress=True,
    )  # fmt: skip
    scores, calibration = {}, {}
    for method, part in found.table.groupby("method"):
        scores[method] = part.groupby("target")["macro_f1"].mean().to_dict()
    for method in scores:
        own = found.predictions[found.predictions["method"] == method]
        said = pd.DataFrame(
            {"target": own["target"], "truth": own["truth"], "label": own["best"], "probability": own["probability"]}
        )
        calibration[method] = scores_of(said)[1]
    for method in peers:
        said = peer(method, name, peer_python(CELLTYPIST if method == "celltypist" else SCVI))
        scores[method], calibration[method] = scores_of(said)
    targets = sorted(scores["annotator"])
    rows = []
    for method, values in scores.items():
        each = [values[t] for t in targets]
        rows.append([method, *(f"{v:.3f}" for v in each), f"{np.mean(each):.3f}", f"{calibration[method]:.3f}"])
    table(f"{name}: macro-F1 by left-out domain, mean, ECE", rows, ["method", *targets, "mean", "ECE"])

    ours, plain = (np.array([scores[m][t] for t in targets]) for m in ("annotator", "logistic"))
    for method in ("logistic", *peers):
        other = np.array([scores[method][t] for t in targets])
        bar(f"{name}: mean macro-F1 less that of {method}", (ours - other).mean(), ">= 0")
    bar(f"{name}: ECE of all left-out cells", calibration["annotator"], "<= 0.05")
    error = plain.std(ddof=1) / np.sqrt(len(plain))
    bar(f"{name}: worst domain less (that of logistic regression - 1 SE)", ours.min() - (plain.min() - error), ">= 0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", nargs="*", choices=("celltypist", "scanvi"), default=("celltypist", "scanvi"))
    args, _ = parser.parse_known_args()
    OUT.mkdir(parents=True, exist_ok=True)
    for name in args.sets:
        run(name, args.seeds, list(args.peers))


if __name__ == "__main__":
    main()
