"""Effects: does the effect embedding place a drug of which it has seen no cell?

Question    On the simulated screen (12 drugs, 4 doses, 2 cell lines, one drug held out in turn), how near to the place
            that its own cells give does the strict mode put a held-out drug, with the drugs' descriptors as structure?
Figures     Squared distance to that place, over that of the mean of the training drugs at the same dose (0 is perfect,
            1 is no better than knowing nothing of the drug); correlation of the distances between the held-out drug and
            all training treatments with those of the noise-free mean effects. CPU seconds for 200 populations.
Choice      Settings are the defaults, but for 20 principal components. The simulated response is linear in the
            descriptors, which favors structure; with the rows of the table shuffled there is nothing to find.
Machine     Any; about two minutes of CPU time. ``--quick`` takes one seed instead of three (not for the record).
"""

import argparse
import time
from collections.abc import Iterable

import numpy as np

import cellgap as cg
from bars import Bar
from cellgap.encode._population_distance import gaussian_distances, sliced_distances
from cellgap.study._simulate import SimulatedScreen

LINES = ("line1", "line2")


def emit(what: str, value: float, target: str | None = None) -> None:
    """Print one bar."""
    Bar("effects", what, value, target, "transport").emit()


def held_out(screen: SimulatedScreen, table: cg.encode.Table, drug: str) -> dict[str, float]:
    """Return placement errors and correlations of one held-out drug."""
    split = cg.split.unseen_treatment(screen.study(), [drug], seed=0)
    settings = {"structure": table, "space": cg.space.PCA(dim=20)}
    strict = cg.encode.Effect(**settings).fit(split)
    seen = cg.encode.Effect(**settings, mode="seen_held_out").fit(split)
    held, train = (
        [c for c in conditions if dict(c.context)["cell_line"] == LINES[0]]
        for conditions in (split.test_conditions, split.train_conditions)
    )
    doses = [np.array([c.treatments[0].dose for c in conditions]) for conditions in (held, train)]
    points = np.stack([strict.encode(c).entities[0] for c in train])
    places = {
        "own cells": np.stack([seen.encode(c).entities[0] for c in held]),
        "structure": np.stack([strict.encode(c).entities[0] for c in held]),
        "dose mean": np.stack([points[doses[1] == dose].mean(axis=0) for dose in doses[0]]),
    }
    effects = [
        np.stack(
            [
                np.concatenate([screen.truth(c.with_context(cell_line=x)).mean(axis=0) for x in LINES])
                for c in conditions
            ]
        )
        for conditions in (held, train)
    ]
    true = np.linalg.norm(effects[0][:, None] - effects[1], axis=-1)
    found = {}
    for name, place in places.items():
        distances = np.linalg.norm(place[:, None] - points, axis=-1)
        found[f"correlation, {name}"] = float(np.corrcoef(distances.ravel(), true.ravel())[0, 1])
        found[f"error, {name}"] = float(((place - places["own cells"]) ** 2).sum())
    return found


def placement(seeds: Iterable[int], shuffled: bool) -> None:
    """Print how well unseen drugs are placed, with the true table or one whose rows are shuffled."""
    rows = []
    for seed in seeds:
        screen = cg.simulate(
            n_drugs=12, doses=(10.0, 100.0, 1000.0, 10000.0), n_combinations=0, n_cells=100, n_controls=300, seed=seed
        )
        table = screen.descriptors.copy()
        if shuffled:
            table[:] = table.to_numpy()[np.random.default_rng(9).permutation(len(table))]
        rows += [held_out(screen, cg.encode.Table(table), drug) for drug in table.index]
    mine, mean = (np.array([row[f"error, {name}"] for row in rows]) for name in ("structure", "dose mean"))
    which = "shuffled descriptors" if shuffled else "true descriptors"
    target = None if shuffled else "< 0.5"
    emit(
        f"squared error of strict placement over the mean at the dose, {which}", float(mine.sum() / mean.sum()), target
    )
    emit(f"share of held-out drugs placed better than the mean, {which}", float((mine < mean).mean()))
    for name in ("own cells", "structure", "dose mean"):
        median = float(np.median([row[f"correlation, {name}"] for row in rows]))
        emit(f"median correlation with true distances, placed by {name}, {which}", median)


def speed() -> None:
    """Print the CPU seconds of all distances between 200 populations of 300 cells in 50 coordinates."""
    rng = np.random.default_rng(0)
    spread = 1.0 / np.sqrt(np.arange(1, 51))
    cells = [spread * rng.normal(size=(300, 50)) + 0.3 * rng.normal(size=50) for _ in range(200)]
    for name, between in (("gaussian", gaussian_distances), ("sliced", sliced_distances(0))):
        start = time.process_time()
        between(cells, None)
        emit(f"CPU seconds of {name} distances, 200 populations", time.process_time() - start, "< 10")


def main() -> None:
    """Print the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed")
    args, _ = parser.parse_known_args()
    speed()
    placement(range(1) if args.quick else range(3), shuffled=False)
    placement(range(1), shuffled=True)


if __name__ == "__main__":
    main()
