"""Eigenvalues of isotropic samplers, and what they say about orthogonal maps."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from cellgap.embed.sphere import (
    CapUniform,
    TruncatedVMF,
    VonMisesFisher,
    asymptotic_loss,
    folded,
    mean_cosine,
    prefers_isometries,
    uniform,
    zonal_eigenvalues,
)
from cellgap.errors import DataError

TAU = 0.3
KAPPA = 1 / TAU


@pytest.mark.parametrize("k", [2, 3, 8, 128])
def test_eigenvalues_of_a_von_mises_fisher_law_are_bessel_ratios(k):
    # Lambda_l = I_{nu + l} / I_nu; ratios of neighbours are mean cosines two dimensions up.
    found = zonal_eigenvalues(VonMisesFisher(7.0), k, 6)
    expected = np.cumprod([1.0, *(float(mean_cosine(k + 2 * i, 7.0)) for i in range(6))])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_eigenvalues_of_a_cap_of_s2():
    # Mean of the Legendre polynomials over [t, 1].
    t = -0.5
    found = zonal_eigenvalues(CapUniform(t), 3, [0, 1, 2, 3])
    third = (5 * (1 - t**4) / 4 - 3 * (1 - t**2) / 2) / 2 / (1 - t)
    np.testing.assert_allclose(found, [1, (1 + t) / 2, (1 + t) * t / 2, third], atol=1e-12)


def test_a_density_is_scaled_and_agrees_with_the_sampler():
    found = zonal_eigenvalues(lambda c: 5.0 * np.exp(4.0 * c), 5, 8)
    np.testing.assert_allclose(found, zonal_eigenvalues(VonMisesFisher(4.0), 5, 8), rtol=1e-12)
    with pytest.raises(DataError, match="nowhere negative"):
        zonal_eigenvalues(lambda c: c, 5, 8)


@pytest.mark.parametrize("lowest", [-0.9, -0.5, 0.0, 0.2])
def test_cut_off_samplers_on_s2_still_prefer_isometries(lowest):
    verdict, differences = prefers_isometries(TruncatedVMF(KAPPA, lowest), 3, TAU)
    assert verdict
    assert differences.argmax() == 1
    assert differences[1] > 0 == differences[0]


def test_the_condition_fails_where_the_sampler_is_too_narrow_or_too_wide():
    narrow, differences = prefers_isometries(TruncatedVMF(KAPPA, 0.3), 3, TAU)
    assert not narrow
    assert differences.argmax() == 2
    wide, differences = prefers_isometries(CapUniform(-0.5), 3, TAU)
    assert not wide
    assert differences[1] < differences[0]
    assert not prefers_isometries(VonMisesFisher(3 * KAPPA), 3, TAU)[0]
    assert not prefers_isometries(VonMisesFisher(KAPPA / 3), 3, TAU)[0]


@pytest.mark.parametrize("k", [3, 10])
def test_the_matching_law_has_no_differences(k):
    verdict, differences = prefers_isometries(VonMisesFisher(KAPPA), k, TAU)
    assert verdict
    np.testing.assert_allclose(differences, 0, atol=1e-12)


def test_under_a_sampler_too_wide_a_fold_beats_the_identity():
    z, negatives = uniform(jr.key(0), 200_000, 3), uniform(jr.key(1), 4000, 3)
    losses = {}
    for lowest in (-0.5, 0.2):
        partner = CapUniform(lowest).partner(jr.key(2), z)
        for name, h in (("identity", lambda x: x), ("fold", folded)):
            aligned = float(jnp.mean(jnp.sum(h(z) * h(partner), axis=1)))
            spread = asymptotic_loss(h, z[:1000], partner[:1000], negatives, TAU).uniformity
            losses[name, lowest] = spread - aligned / TAU
    assert losses["fold", -0.5] < losses["identity", -0.5] - 0.05
    assert losses["fold", 0.2] > losses["identity", 0.2] + 0.05
