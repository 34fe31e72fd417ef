"""Generators of the synthetic experiment: injective, with an exact inverse, and as they are described."""

import jax
import jax.random as jr
import numpy as np
import pytest

from cellgap.embed.sphere._draws import uniform
from cellgap.embed.sphere._generators import (
    IdentityGenerator,
    LinearGenerator,
    MLPGenerator,
    PatchesGenerator,
    SpiralGenerator,
    _well_conditioned,
)
from cellgap.errors import ConfigError, DataError
from cellgap.settings import from_dict, to_dict

ALL = (IdentityGenerator(), LinearGenerator(), SpiralGenerator(), PatchesGenerator(), MLPGenerator(seed=3))
Z = uniform(jr.key(0), 4000, 3)


@pytest.mark.parametrize("generator", ALL, ids=lambda g: type(g).__name__)
def test_the_inverse_takes_observations_back_to_latents(generator):
    x = generator(Z)
    assert x.shape == (4000, generator.width(3))
    # Float32: the matrices' condition numbers, below 10 a layer, multiply the rounding.
    np.testing.assert_allclose(generator.inverse(x, 3), Z, atol=2e-5)
    if not isinstance(generator, IdentityGenerator):
        assert np.abs(np.asarray(x)[:, :3] - Z).max() > 0.5


@pytest.mark.parametrize("generator", (LinearGenerator(n_out=12), MLPGenerator()), ids=("linear", "mlp"))
def test_some_generators_work_in_any_dimension(generator):
    z = uniform(jr.key(1), 200, 5)
    np.testing.assert_allclose(generator.inverse(generator(z), 5), z, atol=1e-4)


@pytest.mark.parametrize("generator", (SpiralGenerator(), PatchesGenerator()), ids=("spiral", "patches"))
def test_spiral_and_patches_stay_on_the_sphere_of_three_dimensions(generator):
    np.testing.assert_allclose(np.linalg.norm(generator(Z), axis=1), 1.0, atol=1e-6)
    with pytest.raises(DataError, match="R\\^3"):
        generator(uniform(jr.key(1), 10, 4))


def test_points_go_where_the_definitions_say():
    root = np.sqrt(0.75)
    # Half of the way to the pole is half of two half turns.
    spiral = SpiralGenerator()(jax.numpy.array([[root, 0.0, 0.5]]))
    np.testing.assert_allclose(spiral, [[-root, 0.0, 0.5]], atol=1e-6)
    # On the equator, in slice 0 of 4: a turn by pi / 4 to (s, s, 0), then (0, s, -s) in slice 2: a turn by pi / 2.
    s = np.sqrt(0.5)
    patches = PatchesGenerator()(jax.numpy.array([[1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(patches, [[-s, 0.0, -s]], atol=1e-6)


def test_patches_are_not_continuous_and_the_spiral_is():
    below, above = jax.numpy.array([[0.6, 0.64, 0.4999]]), jax.numpy.array([[0.6, 0.64, 0.5001]])
    jump = np.abs(PatchesGenerator()(below) - PatchesGenerator()(above)).max()
    smooth = np.abs(SpiralGenerator()(below) - SpiralGenerator()(above)).max()
    assert jump > 0.1 and smooth < 2e-3


def test_matrices_of_the_network_are_of_the_better_quarter_and_columns_have_length_one():
    weights = np.stack(_well_conditioned(3, 50, 7))
    np.testing.assert_allclose(np.linalg.norm(weights, axis=1), 1.0)
    pool = np.random.default_rng(0).uniform(-1, 1, (20_000, 3, 3))
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    limit = np.quantile(np.linalg.cond(pool), 0.27)
    assert np.linalg.cond(weights).max() < limit < np.quantile(np.linalg.cond(pool), 0.3)


def test_seeds_choose_the_map_and_dimensions_are_checked():
    assert np.abs(LinearGenerator(seed=1)(Z) - LinearGenerator(seed=2)(Z)).max() > 0.1
    np.testing.assert_array_equal(MLPGenerator(seed=1)(Z), MLPGenerator(seed=1)(Z))
    with pytest.raises(DataError, match="injective"):
        LinearGenerator(n_out=2)(Z)
    with pytest.raises(ConfigError, match="slope"):
        MLPGenerator(slope=0.0)


@pytest.mark.parametrize("generator", ALL, ids=lambda g: type(g).__name__)
def test_settings_come_back_as_written(generator):
    assert from_dict(to_dict(generator)) == generator
