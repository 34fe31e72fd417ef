"""The Monge gap of a fitted map, by exact assignment on training cells."""

from collections.abc import Mapping, Sequence

import numpy as np

from cellgap.gap import Gap
from cellgap.ot import exact_monge_gap
from cellgap.study import Role
from cellgap.transport._codes import Codes
from cellgap.transport._map import AbstractMap
from cellgap.transport._start import StartMap

_CELLS = 1024
_CONDITIONS = 8


def map_gaps(fitted: AbstractMap, codes: Codes) -> tuple[Gap, ...]:
    """Return the Monge gap and the spread of a map on its training conditions.

    Up to 8 conditions, evenly spaced in their order, and up to 1,024 control cells each. No spread where no condition
    has two treated cells.
    """
    conditions = codes.split.train_conditions
    chosen = [conditions[i] for i in np.unique(np.linspace(0, len(conditions) - 1, _CONDITIONS).astype(int))]
    rng = np.random.default_rng(0)
    excess, moved, spread = [], [], []
    for condition in chosen:
        x = codes.cells(condition.control, Role.TRAIN)
        x = x[np.sort(rng.permutation(len(x))[:_CELLS])]
        t = np.asarray(fitted.transport(x, condition))
        y = codes.cells(condition, Role.TRAIN)
        excess.append(exact_monge_gap(x, t, cost="sqeuclidean"))
        moved.append(float(((x - t) ** 2).sum(1).mean()))
        if len(y) > 1:
            spread.append(float(t.var(0, ddof=1).sum() / max(y.var(0, ddof=1).sum(), 1e-12)))
    gaps = [
        Gap(
            "Monge gap",
            float(np.mean(excess)),
            f"0 = optimal map; mean squared displacement {np.mean(moved):.3g}, {len(chosen)} conditions",
            "how much further cells are moved than optimal transport between the same two clouds would move them",
            "raise gap_weight, or train longer",
        )
    ]
    if spread:
        gaps.append(
            Gap(
                "spread gap",
                float(np.mean(spread)) - 1.0,
                "0 = predicted variance equals measured variance; negative = population contracted",
                "predicted cells are less (or more) diverse than the measured ones",
                'use fit_loss="two_batch" and larger batches; a deterministic map cannot add spread that controls lack',
            )
        )
    return tuple(gaps)


def start_gap(start: StartMap) -> tuple[Gap, ...]:
    """Return how far the chosen closed form is from conditions that were left out; nothing where none were."""
    if not start.table:
        return ()
    energy = {row["candidate"]: row["energy"] for row in start.table}
    chosen = start.unseen.name
    others = [f"{name} {value:.3g}" for name, value in energy.items() if name not in (chosen, "identity")][:2]
    compared = "; ".join([f"chosen of {len(energy)}: {chosen}", *others, f"identity {energy['identity']:.3g}"])
    return (
        Gap(
            "start gap",
            energy[chosen],
            f"0 = as if measured; {compared}; judged on {start.judged_on}",
            "energy distance between what the closed form says of left-out conditions and their measured cells",
            "measure conditions closer to those that are asked for, or describe them better to the encoder",
        ),
    )


def training_gap(history: Sequence[Mapping[str, float]], best_step: int, judged_on: str) -> tuple[Gap, ...]:
    """Return what training added to the closed form, on the cells that it was judged on; nothing where it was not."""
    energy = {row["step"]: row["valid"] for row in history if "valid" in row}
    if not energy:
        return ()
    kept = f"{best_step} steps of training kept" if best_step else "training did not help and was not kept"
    return (
        Gap(
            "training gap",
            energy[best_step],
            f"0 = as if measured; the start alone {energy[0]:.3g}; {kept}; judged on {judged_on}",
            "energy distance between what the map says of held-out cells and those cells",
            "where training does not help, describe conditions better to the encoder, or measure more of them",
        ),
    )
