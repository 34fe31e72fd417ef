"""The gaps of a generator: how far its cells are from held-out ones, and how far its way is from what it learned."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
from jaxtyping import PRNGKeyArray

from cellgap.errors import DataError
from cellgap.gap import Gap
from cellgap.generate._asked import as_table
from cellgap.generate._guidance import Guidance
from cellgap.generate._sampler import Sampler
from cellgap.generate._train_field import LatentCells, matching_errors
from cellgap.ot import energy_distance

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

_CELLS = 512
_FEWEST = 10
_TIMES = 16


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
            float(made.gap[:, 0].mean()) / z.shape[1],
            "0 = the field agrees with itself along the way; re-prediction error summed over steps, a dimension",
            "how much the velocity at a new state differs from the one that led there (after the idea of DiffIER)",
            "take more steps, less guidance, or a Corrector",
        ),
    )


def gap_readings(
    model: Any,
    adata: "AnnData | MuData",
    *,
    key: PRNGKeyArray,
    weights: Sequence[float] = (1.0, 1.5, 2.0, 3.0, 5.0),
    sampler: Sampler | None = None,
) -> pd.DataFrame:
    """Return four readings of the training-inference gap for some weights of guidance (reconstruction).

    Parameters
    ----------
    model
        A fitted generator.
    adata
        Real cells that it was not trained on: as many cells with their attributes are generated.
    key
        Random key: all weights start from the same noise.
    weights
        Of guidance, for all attributes.
    sampler
        Fixed steps; None takes the model's.

    Returns
    -------
    table
        A row a weight: ``G1``: re-prediction error, the training loss on the way, summed over steps; ``G2``: the same
        with the guided field; ``G3``: how far the fields with and without attributes are apart, summed over steps;
        ``G4``: the training loss of generated cells less that of the real ones; all a dimension. ``energy``: unbiased
        energy distance to the real cells, which a good reading should follow.

    Raises
    ------
    DataError
        There are fewer than ten cells.

    Notes
    -----
    After the idea of DiffIER (arXiv 2508.13628), whose own formula is not public: G1 is the reading that its abstract
    fits best. On exact mixtures the weight with the smallest G1 is below the best one, and that with the smallest G4
    above it (docs/measured.md).
    """
    cells = as_table(adata)
    if cells.n_obs < _FEWEST:
        raise DataError(f"readings of the gap need at least {_FEWEST} real cells, found {cells.n_obs}.")
    labels = model.attributes.labels(pd.DataFrame(cells.obs))
    z, totals = model.encode(cells), model.space.totals(cells)
    noise = np.asarray(jr.normal(key, z.shape, jnp.float32))
    depth = jnp.asarray(model.library.scaled(totals)) if model.field.depth_wave is not None else None

    def training_loss(x: np.ndarray) -> float:
        told = LatentCells(jnp.asarray(x), jnp.asarray(labels), depth)
        known = jnp.ones(labels.shape, bool)
        at = [(jr.fold_in(key, i), (i + 0.5) / _TIMES) for i in range(_TIMES)]
        errors = [_errors(model.field, told, jr.normal(k, x.shape), jnp.full(len(x), t), known) for k, t in at]
        return float(np.mean(errors))

    real, rows = training_loss(z), []
    distance = eqx.filter_jit(energy_distance)
    for weight in weights:
        # One compiled program for all weights, 1 as well.
        how = Guidance(weight=float(weight), schedule="interval")
        made = model.move(noise, labels, totals, guidance=how, sampler=sampler, measure=True)
        g1, g2, g3 = made.gap.mean(0) / z.shape[1]
        energy = float(distance(jnp.asarray(made.z), jnp.asarray(z)))
        rows.append((float(weight), float(g1), float(g2), float(g3), training_loss(made.z) - real, energy))
    return pd.DataFrame(rows, columns=pd.Index(["weight", "G1", "G2", "G3", "G4", "energy"]))


@eqx.filter_jit
def _errors(field, cells, noise, t, known):
    return jnp.mean(matching_errors(field, cells, noise, t, known, 0.0))
