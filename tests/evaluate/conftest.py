"""A small study with a known answer."""

import numpy as np
import pytest
from dummies import Dummy

from cellgap.space import Genes
from cellgap.study import split as splits
from cellgap.study._simulate_latent import simulate_latent


@pytest.fixture(scope="session")
def latent():
    """Four drugs at three doses, 14 coordinates, true maps known."""
    return simulate_latent(drugs=4, doses=(10.0, 100.0, 10000.0), dim=14, n_train=200, n_test=0, seed=1)


@pytest.fixture(scope="session")
def split(latent):
    """All doses of two of the four drugs held out."""
    return splits.unseen_treatment(latent.study(), ["A", "B"], seed=0)


@pytest.fixture(scope="session")
def space(split):
    return Genes(transform="none").fit(split)


@pytest.fixture(scope="session")
def mean_effect(latent, split, space):
    """The mean effect of all training conditions, computed here."""
    study = split.study
    x = np.asarray(study.adata.X)
    control = x[study.rows(study.controls[0])].mean(0)
    shift = np.mean([x[study.rows(c)].mean(0) - control for c in split.train_conditions], axis=0)
    return Dummy("mean effect", space, lambda z, c: z + shift)


@pytest.fixture(scope="session")
def oracle(latent, space):
    return Dummy("oracle", space, lambda z, c: latent.truth(z, c))
