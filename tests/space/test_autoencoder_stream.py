"""Training an autoencoder on batches that are read from disk: as on the device, given the same batches."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from test_autoencoder_space import SMALL

from cellgap.nn import AutoencoderNet
from cellgap.space._calibrate_autoencoder import features_of
from cellgap.space._train_autoencoder import Cells, Reading, Recipe, host_cells, train_autoencoder
from cellgap.study import Role, Study, split
from cellgap.study._simulate import simulate_screen
from cellgap.train import Loop, draw_without_replacement

LOOP = Loop(n_steps=25, chunk=10, valid_every=10)


@pytest.fixture(scope="module")
def screen():
    return simulate_screen(
        n_drugs=3, doses=(1000.0,), n_combinations=0, n_genes=40, n_cells=100, n_controls=200, seed=2
    )


def equal(one, other) -> None:
    leaves = jax.tree.leaves(one)
    assert len(leaves) > 5
    for first, second in zip(leaves, jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.optimized
def test_streamed_training_is_training_on_the_device_given_the_same_batches():
    rng = np.random.default_rng(0)
    counts, held_out = rng.poisson(2.0, (200, 12)).astype(np.int16) + 1, rng.poisson(2.0, (30, 12)).astype(np.int16) + 1
    net = AutoencoderNet(12, 12, 3, hidden=(8,), norm="layer", activation="elu", log_theta=jnp.zeros(12), key=jr.key(0))
    small = dataclasses.replace(SMALL, batch_size=16)
    recipe = Recipe(**{name: getattr(small, name) for name in Recipe._fields})
    reading = Reading("nb", "lognorm", 1e4)

    @jax.jit
    def drawn(i):
        return draw_without_replacement(jr.split(jr.fold_in(jr.key(1), i))[0], 16, len(counts))

    class Replayed:
        """The cells that training on the device draws, step by step."""

        def read(self, start: int, stop: int):
            rows = np.stack([drawn(i) for i in range(start, stop)])
            return jax.tree.map(lambda x: x[rows], host_cells(counts))

    done = [
        train_autoencoder(net, cells, Cells.of(held_out), reading, recipe, LOOP, key=jr.key(1))
        for cells in (Cells.of(counts), Replayed())
    ]
    equal(done[0].state, done[1].state)
    assert done[0].history == done[1].history
    assert done[0].history[-1]["loss"] < done[0].history[1]["loss"]


def test_cells_beyond_the_limit_are_read_while_it_trains(screen, tmp_path, monkeypatch):
    """Only held-out cells are put on the device at once, and the network learns."""
    study = screen.study()
    study.adata.write_h5ad(tmp_path / "screen.h5ad")
    disk = Study.read(tmp_path / "screen.h5ad", study.design, backed=True)
    parted = split.unseen_treatment(disk, ["C1"], min_cells=10)
    placed: list[int] = []
    of = Cells.of
    monkeypatch.setattr(Cells, "of", lambda counts: placed.append(len(counts)) or of(counts))
    rows = parted.cells(Role.TRAIN)
    width = features_of(parted, SMALL.genes.fit_unscored(parted), rows[:3]).shape[1]
    loop = dataclasses.replace(SMALL.loop, n_steps=160, patience=None)
    fitted = dataclasses.replace(SMALL, loop=loop, most_bytes=2 * len(rows) * width - 1).fit(parted)
    assert placed == [len(parted.cells(Role.VALID))]
    assert fitted.reconstruction["nll"] < fitted.reconstruction["nll_gene_means"] - 5
