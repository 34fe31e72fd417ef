"""The gaps of a generator: how far its cells are from held-out ones, and how far its way is from what it learned."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from cellgap.gap import Gap
from cellgap.generate._train_field import LatentCells
from cellgap.ot import energy_distance

_CELLS = 512
_FEWEST = 10


def sampling_gaps(fitted: Any, train: LatentCells, valid: LatentCells | None) -> tuple[Gap, ...]:
    """Return the gaps of a fitted generator, in its latent space.

    The sampling gap is the unbiased energy distance of generated to held-out cells, each of which has the attributes of
    one; beside it that of training cells of the same attributes.
    """
    if valid is None or len(valid.z) < _FEWEST:
        return ()
    z, labels = np.asarray(valid.z)[:_CELLS], np.asarray(valid.labels)[:_CELLS]
    library = fitted.library.typical(labels)
    made = fitted.move(jr.normal(jr.key(1), z.shape), labels, library, measure=True)
    rng = np.random.default_rng(0)
    known, there = np.asarray(train.labels), np.asarray(train.z)
    same = [np.flatnonzero((known == row).all(1)) for row in labels]
    twins = there[[int(rng.choice(rows)) if len(rows) else int(rng.integers(len(there))) for rows in same]]
    distance = eqx.filter_jit(energy_distance)
    value, floor = (float(distance(jnp.asarray(x), jnp.asarray(z))) for x in (made.z, twins))
    return (
        Gap(
            "sampling gap",
            value,
            f"0 = as another sample; training cells with the same attributes {floor:.3g}; {len(z)} held-out cells",
            "energy distance between generated and held-out cells, in standardized codes",
            "train longer, or choose guidance with calibrate_guidance",
        ),
        Gap(
            "training-inference gap",
            float(made.gap.mean()) / z.shape[1],
            "0 = the field agrees with itself along the way; re-prediction error summed over steps, a dimension",
            "how much the velocity at a new state differs from the one that led there (after the idea of DiffIER)",
            "take more steps, less guidance, or a Corrector",
        ),
    )
