"""What an annotator costs: CPU seconds on the largest set, beside scikit-learn's MLP and CellTypist.

Question: how long does the default annotator take to learn from 7,265 PBMC of five donors (Kang et al. 2018, 1,287
genes, 8 types) how to label those of a sixth, and how does it compare with tools that do less?
How to read: CPU seconds of one process with one thread, from counts to a fitted classifier, compilation included. The
annotator trains a linear classifier for four strengths and three networks for each donor left out; then three networks
on all cells and one without each type (the second row, part of the first); and calibrates. scikit-learn's MLP has the
same layers (128, 64) on log-normalized counts and its default of at most 200 passes; CellTypist has its defaults, one
logistic regression a type. Macro-F1 on the left-out donor stands beside each.
No target: the figures are printed.
"""

import json
import time
import warnings

import jax.random as jr
import numpy as np
from sklearn.neural_network import MLPClassifier

import cellgap as cg
from annotate_cells import OUT, peer
from annotation_sets import DOMAIN, LABEL, annotation_set
from bars import Bar
from cellgap.annotate._fit_annotator import AnnotatorFit
from cellgap.evaluate._classification import macro_f1
from children import table
from environments import CELLTYPIST, peer_python

CAPABILITY, SET, TARGET = "annotate", "kang_donors", "1488"


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    cells = annotation_set(SET)
    out = (cells.obs[DOMAIN] == TARGET).to_numpy()
    train, test = cells[~out].copy(), cells[out].copy()
    truth = test.obs[LABEL].to_numpy()
    study = cg.Study(train, cg.Design(context=(DOMAIN,), counts="X"))
    rows = []

    spent: dict[str, float] = {}
    original = AnnotatorFit._train

    def timed(self, runs, n_axes, key, name, title):
        before = time.process_time()
        result = original(self, runs, n_axes, key, name, title)
        spent[name] = time.process_time() - before
        return result

    AnnotatorFit._train = timed
    before = time.process_time()
    fitted = cg.Annotator(domains=DOMAIN).fit(study, LABEL, key=jr.key(0))
    ours = time.process_time() - before
    said = fitted.predict(test)
    before = time.process_time()
    fitted.predict(test)
    answer = time.process_time() - before
    rows.append(("annotator", ours, macro_f1(truth, said["best"])))
    rows.append(("its networks on all cells, and without each type", spent["final"], float("nan")))

    before = time.process_time()
    counts = train.X.toarray().astype(np.float32)
    x = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    mlp = MLPClassifier((128, 64), random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged after 200 passes
        mlp.fit(x, train.obs[LABEL])
    sklearn = time.process_time() - before
    counts = test.X.toarray().astype(np.float32)
    guess = mlp.predict(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4))
    rows.append(("scikit-learn MLP", sklearn, macro_f1(truth, guess)))

    python = peer_python(CELLTYPIST)
    told = peer("celltypist", SET, python)
    celltypist = json.loads((OUT / f"{SET}.celltypist.json").read_text().splitlines()[-1])["cpu_s"][TARGET]
    there = told[told["target"] == TARGET]
    rows.append(("CellTypist", celltypist, macro_f1(there["truth"], there["label"])))
    table("CPU seconds, macro-F1 of the left-out donor", [(n, f"{s:.1f}", f"{f:.3f}") for n, s, f in rows],
          ["method", "CPU s", "macro-F1"])  # fmt: skip
    for what, value in (
        ("annotator, CPU s", ours),
        ("scikit-learn MLP, CPU s over the annotator's", sklearn / ours),
        ("CellTypist, CPU s over the annotator's", celltypist / ours),
        ("annotator, labels of cells a CPU s", len(test) / answer),
    ):
        Bar("speed", what, float(value), None, CAPABILITY).emit()


if __name__ == "__main__":
    main()
