"""The energy distance: against SciPy, and without bias."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import cdist, pdist

from cellgap.ot import energy_distance

distance = jax.jit(energy_distance)


def test_it_is_that_of_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(17, 4)) + 0.3
    expected = 2 * cdist(x, y).mean() - pdist(x).mean() - pdist(y).mean()
    np.testing.assert_allclose(distance(jnp.asarray(x), jnp.asarray(y)), expected, rtol=1e-4)


def test_samples_of_one_law_are_at_zero_on_average_whatever_their_sizes():
    rng = np.random.default_rng(0)
    found = [
        float(distance(jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.normal(size=(11, 3))))) for _ in range(400)
    ]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(400) and min(found) < 0


def test_far_from_the_origin_it_is_the_same():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 3)) + 1
    near, far = (float(distance(jnp.asarray(x + s), jnp.asarray(y + s))) for s in (0.0, 30.0))
    np.testing.assert_allclose(far, near, rtol=2e-3)
