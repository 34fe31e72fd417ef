"""The published demo: the same arithmetic by the package cmonge and by our modules, compared metric by metric.

Question: does our reference objective, network, autoencoder and published protocol give the numbers of the published
implementation? Data: the demo that the public repository of cmonge ships (dummy data of 100 genes, three drugs, 50
gradient steps of an autoencoder, 100 steps of the map). The package runs it as it is and writes down its initial
weights and batches; ours repeats it from there. Needs a checkout of that repository: ``--repository``, or the variable
CELLGAP_CMONGE_REPOSITORY. Its shipped log was made with other versions and another order of draws; it is printed
beside as lines without target.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from bars import Bar
from children import run_child, table
from environments import CMONGE, peer_python

NAMES = {
    "wasserstein": "wasserstein_kl",
    "mmd": "mmd",
    "sinkhorn div": "sinkhorn_euclidean",
    "drug_signature": "drug_signature",
    "r2": "r2_mean",
}


def shipped(repository: Path) -> dict[str, dict[str, float]]:
    """Return the means in the log that the repository ships."""
    log = json.loads((repository / "logs" / "demo_logs.yml").read_text())["experiments"][-1]
    found = {}
    for name, one in log["valid-set"].items():
        found[name] = {k.split("mean_")[1]: v for k, v in one["mean_statistics"].items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", default=os.environ.get("CELLGAP_CMONGE_REPOSITORY"))
    parser.add_argument("--cmonge-python", help="interpreter that has cmonge 0.1.3")
    args, _ = parser.parse_known_args()
    what = "published demo: largest relative difference of a metric, cmonge against ours"
    if not args.repository or not (Path(args.repository) / "configs" / "demo_config.yml").exists():
        print("the demo needs a checkout of cmonge's repository: --repository", flush=True)
        Bar("demo", what, None, "<= 0.01", capability="transport").emit()
        return
    repository = Path(args.repository).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "demo.npz"
        python = peer_python(CMONGE, args.cmonge_python)
        theirs = run_child("peers/cmonge_demo.py", {"repository": repository, "out": data}, python)["metrics"]
        ours = run_child("ours/demo.py", {"data": data})["metrics"]
    rows, worst, before = [], 0.0, shipped(repository)
    for (name, peer), mine in zip(theirs.items(), ours, strict=True):
        for published, own in NAMES.items():
            difference = abs(mine[own] - peer[published]) / abs(peer[published])
            worst = max(worst, difference)
            rows.append((name, own, peer[published], mine[own], difference, before[name][published]))
    table("The published demo", rows, ("condition", "metric", "cmonge", "ours", "difference", "shipped log"))
    Bar("demo", what, worst, "<= 0.01", capability="transport").emit()
    off = max(abs(mine - log) / abs(log) for _, _, _, mine, _, log in rows)
    Bar("demo", "ours against the shipped log (other versions, other draws)", off, capability="transport").emit()


if __name__ == "__main__":
    main()
