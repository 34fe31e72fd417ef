"""Pair samplers of the sphere: laws of cosines, fibres, supports, and how much of each direction they move."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.spatial import cKDTree
from scipy.stats import kstest

from cellgap.embed.sphere import CapUniform, Frozen, TruncatedVMF, VonMisesFisher, mean_cosine, uniform
from cellgap.errors import ConfigError

KAPPA = 1 / 0.3


class Nearest:
    """Partners from the ten nearest of a pool: isotropic, and close."""

    def __init__(self, pool_size: int, n_neighbors: int):
        self.pool = np.asarray(uniform(jr.key(77), pool_size, 3))
        self.tree, self.n_neighbors = cKDTree(self.pool), n_neighbors

    def partner(self, key, z):
        near = self.tree.query(np.asarray(z), self.n_neighbors)[1]
        chosen = np.asarray(jr.randint(key, (len(z),), 0, self.n_neighbors))
        return jnp.asarray(self.pool[near[np.arange(len(z)), chosen]])


def spectrum(sampler, n: int = 20_000, k: int = 3):
    """Shares of the variance of each direction that pairs move."""
    z = uniform(jr.key(0), n, k)
    moved = np.asarray(sampler.partner(jr.key(1), z), np.float64) - np.asarray(z, np.float64)
    return eigh(moved.T @ moved / (2 * n), np.cov(np.asarray(z, np.float64).T), eigvals_only=True)


def cosines(sampler, k: int, n: int = 20_000):
    z = uniform(jr.key(2), n, k)
    found = sampler.partner(jr.key(3), z)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=3e-6)
    return np.asarray(jnp.sum(z * found, axis=1), np.float64)


@pytest.mark.parametrize("k", [2, 3, 64])
@pytest.mark.parametrize("sampler", [VonMisesFisher(KAPPA), VonMisesFisher(60.0), TruncatedVMF(KAPPA, 0.2)])
def test_cosines_follow_their_density(sampler, k):
    # The distribution function by cells in the angle, where the density is bounded for every k.
    angles = np.linspace(0, np.arccos(sampler.least), 40_001)
    middle = 0.5 * (angles[1:] + angles[:-1])
    mass = sampler.cosine_density(np.cos(middle), k) * np.sin(middle) * np.diff(angles)
    below = np.concatenate([[0], np.cumsum(mass)])
    assert mass.sum() == pytest.approx(1, abs=1e-6)
    pole = jnp.zeros((50_000, k)).at[:, 0].set(1.0)
    found = np.asarray(sampler.partner(jr.key(16), pole), np.float64)
    drawn = np.arctan2(np.linalg.norm(found[:, 1:], axis=1), found[:, 0])
    assert kstest(drawn, lambda x: np.interp(x, angles, below)).pvalue > 0.005


@pytest.mark.parametrize(("k", "kappa"), [(2, 1e4), (3, 1e4), (64, 1e4), (2, 0.0), (3, 0.0), (3, 1e-4)])
def test_mean_cosines_hold_at_the_ends(k, kappa):
    found = cosines(VonMisesFisher(kappa), k, 40_000)
    tell = 4 * found.std() / np.sqrt(len(found))
    assert found.mean() == pytest.approx(float(mean_cosine(k, kappa)), abs=tell)


def test_directions_at_an_angle_are_uniform_around_the_anchor():
    z = jnp.broadcast_to(jnp.array([0.6, 0.0, 0.8]), (40_000, 3))
    for sampler in (VonMisesFisher(KAPPA), TruncatedVMF(KAPPA, 0.2)):
        found = np.asarray(sampler.partner(jr.key(4), z), np.float64)
        across = found @ np.array([[0.0, 1.0, 0.0], [0.8, 0.0, -0.6]]).T
        np.testing.assert_allclose(across.mean(0), 0, atol=0.015)
        covariance = np.cov(across.T)
        assert covariance[0, 0] / covariance[1, 1] == pytest.approx(1, abs=0.04)
        assert covariance[0, 1] == pytest.approx(0, abs=0.005)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_a_cap_holds_all_partners_and_its_support_fills_it(k):
    sampler = TruncatedVMF(4.0, 0.3)
    assert cosines(sampler, k).min() >= 0.3 - 1e-6
    z = uniform(jr.key(5), 50, k)
    inside = np.asarray(jnp.einsum("nk,nmk->nm", z, sampler.support(jr.key(6), z, 400)), np.float64)
    flat = cosines(CapUniform(0.3), k)
    assert inside.min() >= 0.3 - 1e-6
    # The support is uniform whatever kappa is; partners are closer.
    assert inside.mean() == pytest.approx(flat.mean(), abs=0.006)
    assert cosines(sampler, k).mean() > flat.mean() + 0.01


def test_uniform_on_a_cap_of_s2_has_uniform_cosines():
    found = cosines(CapUniform(-0.5), 3)
    assert kstest(found, "uniform", args=(-0.5, 1.5)).pvalue > 0.005
    assert CapUniform(-0.5).cosine_density([-0.7, 0.1], 3) == pytest.approx([0, 1 / 1.5])


@pytest.mark.parametrize("concentration", ["ambient", "intrinsic"])
@pytest.mark.parametrize(("k", "n_frozen"), [(3, 1), (5, 2), (3, 2)])
def test_both_concentrations_by_moment(concentration, k, n_frozen):
    # All anchors at radius 0.8, where the two differ.
    u = 0.6 * uniform(jr.key(7), 40_000, n_frozen) if n_frozen > 1 else jnp.full((40_000, 1), 0.6)
    v = uniform(jr.key(8), 40_000, k - n_frozen)
    z = jnp.concatenate([u, 0.8 * v], axis=1)
    found = Frozen(KAPPA, n_frozen, concentration).partner(jr.key(9), z)
    cosine = np.asarray(jnp.sum(found[:, n_frozen:] * v, axis=1) / 0.8, np.float64)
    kappa = KAPPA * (0.64 if concentration == "ambient" else 1)
    # On the two points of a sphere of R^1 the mean cosine is the hyperbolic tangent.
    expected = np.tanh(kappa) if k - n_frozen == 1 else float(mean_cosine(k - n_frozen, kappa))
    assert cosine.mean() == pytest.approx(expected, abs=4 * cosine.std() / 200)
    np.testing.assert_array_equal(found[:, :n_frozen], z[:, :n_frozen])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=3e-6)


def test_the_support_of_a_frozen_sampler_is_its_fibre_evenly():
    z = uniform(jr.key(10), 200, 3)
    sampler = Frozen(KAPPA)
    points = np.asarray(sampler.support(jr.key(11), z, 200), np.float64)
    np.testing.assert_array_equal(points[..., 0], np.broadcast_to(np.asarray(z)[:, :1], (200, 200)))
    np.testing.assert_allclose(np.linalg.norm(points, axis=2), 1, atol=3e-6)
    radius = np.sqrt(1 - np.asarray(z)[:, 0] ** 2)
    share = np.einsum("nk,nmk->nm", np.asarray(z)[:, 1:], points[..., 1:]) / radius[:, None] ** 2
    assert share.mean() == pytest.approx(0, abs=0.02)
    assert (share**2).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("sampler", [VonMisesFisher(3.0), Frozen(3.0, jitter=0.1)])
def test_where_everything_can_be_a_partner_the_support_is_the_sphere(sampler):
    points = sampler.support(jr.key(12), uniform(jr.key(13), 100, 4), 200)
    assert points.shape == (100, 200, 4)
    np.testing.assert_allclose(np.cov(points.reshape(-1, 4).T), np.eye(4) / 4, atol=0.01)


def test_a_point_on_the_axis_is_its_own_fibre():
    pole = jnp.array([[1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(Frozen(KAPPA).partner(jr.key(0), pole), pole)
    np.testing.assert_array_equal(Frozen(KAPPA).support(jr.key(0), pole, 2)[0], jnp.repeat(pole, 2, 0))


def test_methods_compile():
    z = uniform(jr.key(14), 30, 4)
    for sampler in (TruncatedVMF(2.0, -0.2), Frozen(2.0, 2)):
        compiled = jax.jit(lambda key, z, sampler=sampler: (sampler.partner(key, z), sampler.support(key, z, 5)))
        partner, support = compiled(jr.key(15), z)
        np.testing.assert_allclose(partner, sampler.partner(jr.key(15), z), atol=1e-5)
        assert support.shape == (30, 5, 4)


def test_full_support_moves_all_directions_alike():
    rho = spectrum(VonMisesFisher(KAPPA))
    assert rho == pytest.approx([1 - float(mean_cosine(3, KAPPA))] * 3, abs=0.01)
    assert rho == pytest.approx([0.2975] * 3, abs=0.01)
    assert rho[0] / rho[-1] > 0.9


def test_a_frozen_direction_has_nothing_moved():
    rho = spectrum(Frozen(KAPPA, concentration="intrinsic"))
    assert rho[0] < 1e-12
    assert rho[1:] == pytest.approx([1 - float(mean_cosine(2, KAPPA))] * 2, abs=0.006)
    assert rho[1:] == pytest.approx([0.166, 0.170], abs=0.005)
    assert spectrum(Frozen(KAPPA))[0] < 1e-12


@pytest.mark.parametrize(
    ("sampler", "expected", "alpha"),
    [
        (Frozen(KAPPA, concentration="intrinsic", jitter=0.3), (0.073, 0.168, 0.173), 0.42),
        (Frozen(KAPPA, concentration="intrinsic", jitter=0.05), (0.002, 0.166, 0.171), 0.011),
        (Nearest(4000, 10), (0.0027, 0.0028, 0.0029), 0.93),
    ],
    ids=["jitter 0.3", "jitter 0.05", "ten nearest"],
)
def test_spectra_of_slow_samplers(sampler, expected, alpha):
    rho = spectrum(sampler)
    assert rho == pytest.approx(expected, rel=0.05, abs=3e-4)
    assert rho[0] / rho[-1] == pytest.approx(alpha, rel=0.1)


def test_coverage_tells_slow_from_never():
    """Share of uniform points near any of R partners of an anchor, averaged over anchors."""
    marginal = np.asarray(uniform(jr.key(20), 2000, 3))
    eps = np.median(cKDTree(marginal).query(marginal, 6)[0][:, 5])
    anchors = uniform(jr.key(21), 12, 3)

    def coverage(sampler):
        partners = np.asarray(sampler.partner(jr.key(22), jnp.repeat(anchors, 5000, axis=0))).reshape(12, 5000, 3)
        return [
            np.mean([(cKDTree(p[:r]).query(marginal, distance_upper_bound=eps)[0] <= eps).mean() for p in partners])
            for r in (50, 500, 5000)
        ]

    assert coverage(VonMisesFisher(KAPPA)) == pytest.approx([0.10, 0.39, 0.73], abs=0.03)
    assert coverage(Frozen(KAPPA)) == pytest.approx([0.03, 0.05, 0.07], abs=0.015)
    assert coverage(Nearest(4000, 10)) == pytest.approx([0.01] * 3, abs=0.005)


def test_settings_out_of_bounds_are_refused():
    for wrong in (lambda: VonMisesFisher(-1.0), lambda: TruncatedVMF(1.0, 1.0), lambda: Frozen(1.0, 0)):
        with pytest.raises(ConfigError):
            wrong()
    with pytest.raises(ConfigError, match="n_frozen=3"):
        Frozen(1.0, 3).partner(jr.key(0), uniform(jr.key(1), 4, 3))
    with pytest.raises(ConfigError, match="R\\^2"):
        CapUniform(0.0).partner(jr.key(0), jnp.ones((2, 1)))
