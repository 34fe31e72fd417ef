"""Vectors on the lattice keep their bounds in exact integers."""

from fractions import Fraction

import numpy as np
import pytest

from cellgap.errors import ConfigError
from cellgap.stream.release._bounds import DonorBounds
from cellgap.stream.release._lattice import to_lattice, to_lattice_many


def inside(units: np.ndarray, bounds: DonorBounds) -> bool:
    rows = [[int(x) for x in row] for row in units]
    return all(
        sum(x * x for x in row) <= bounds.k2**2
        and max((abs(x) for x in row), default=0) <= bounds.kinf
        and (bounds.k1 is None or sum(map(abs, row)) <= bounds.k1)
        and (bounds.signed or min(row, default=0) >= 0)
        for row in rows
    )


ALL = [
    DonorBounds(l2=1.0),
    DonorBounds(l2=1.0, lattice=0.1),
    DonorBounds(l2=0.3, linf=0.1, l1=0.7, lattice=1e-3),
    DonorBounds(l2=1.0, signed=False),
    DonorBounds(l2=1.0, lattice=2.0**-35),
    DonorBounds(l2=1e-300),
    DonorBounds(l2=1e150, l1=1e150),
]


@pytest.mark.parametrize("bounds", ALL)
def test_random_vectors(bounds):
    rng = np.random.default_rng(0)
    n = 100_000 if bounds == ALL[0] else 5000
    vectors = rng.normal(size=(n, 7)) * rng.lognormal(0, 3, (n, 1)) * bounds.l2
    units = to_lattice_many(vectors, bounds)
    assert units.dtype == np.int64
    assert inside(units, bounds)


@pytest.mark.parametrize("bounds", ALL)
def test_adversarial_vectors(bounds):
    up = np.nextafter(bounds.l2, np.inf)
    vectors = np.array(
        [
            [bounds.l2, 0.0, 0.0, 0.0],
            [up, up, up, up],
            [1e308, -1e308, 1e308, 1e308],
            [5e-324, 0.0, 0.0, -5e-324],
            [bounds.l2 / 2] * 4,
            [np.nextafter(bounds.l2 / 2, np.inf)] * 4,
            [0.6 * bounds.l2, 0.8 * bounds.l2, 0.0, 1e-17 * bounds.l2],
            [np.nan, np.inf, -np.inf, bounds.l2],
            [-bounds.l2, 0.0, -0.0, 0.0],
        ]
    )
    units = to_lattice_many(vectors, bounds)
    assert inside(units, bounds)
    assert (np.sign(units) * np.sign(np.nan_to_num(vectors)) >= 0).all()
    assert (units[7, :3] == 0).all()
    if bounds.k1 is None and bounds.linf is None:
        assert units[0, 0] == bounds.k2 or bounds.k2 > 2**30
        assert (units[4] >= bounds.k2 // 2 - 1).all()


def test_integers_repair_what_floats_missed():
    # Pythagorean and near-Pythagorean vectors sit on the sphere itself.
    bounds = DonorBounds(l2=65.0, lattice=1.0)
    units = to_lattice_many(np.array([[16.0, 63.0], [33.0, 56.0], [39.0, 52.0], [25.0, 60.0], [1000.0, 0.0]]), bounds)
    assert (units == [[16, 63], [33, 56], [39, 52], [25, 60], [65, 0]]).all()


def test_truncation_costs_less_than_a_step():
    bounds = DonorBounds(l2=1.0)
    vector = np.array([0.3, -0.4, 0.25])
    units = to_lattice(vector, bounds)
    assert (np.abs(units * float(bounds.step) - vector) < float(bounds.step)).all()
    assert (np.abs(units * float(bounds.step)) <= np.abs(vector)).all()


def test_bad_data_do_not_reveal_themselves():
    bounds = DonorBounds(l2=1.0, signed=False)
    assert (to_lattice(np.array([np.nan, -0.5, 0.5]), bounds) == [0, 0, 512]).all()
    assert to_lattice_many(np.zeros((0, 3)), bounds).shape == (0, 3)
    given = np.array([[np.nan, 1.0]])
    to_lattice_many(given, bounds)
    assert np.isnan(given[0, 0])


def test_too_fine():
    with pytest.raises(ConfigError, match="too fine"):
        to_lattice(np.ones(2), DonorBounds(l2=1.0, lattice=2.0**-52))


def test_a_donor_of_many_cells_moves_no_more_than_one_of_few():
    # B17: cells are reduced to a vector first; then all that counts is the lattice.
    bounds = DonorBounds(l2=1.0)
    rng = np.random.default_rng(1)
    for cells in (10, 100_000):
        mean = rng.exponential(size=(cells, 8)).mean(axis=0)
        assert inside(to_lattice(mean, bounds)[None], bounds)
    assert bounds.step * bounds.k2 <= Fraction(1)
