"""Trained maps against the known optimal maps of `simulate_latent`, and why the loss takes two batches."""

import jax.random as jr
import numpy as np
import pytest

from cellgap.encode import Dose, OneHot
from cellgap.space import Genes
from cellgap.study import Condition, Role, Split
from cellgap.study._simulate_latent import SimulatedLatent, simulate_latent
from cellgap.train import Loop
from cellgap.transport import AbstractMap, Codes, ConditionalMonge, Gaussian, MeanShift, Monge, Optimization

pytestmark = pytest.mark.slow

SPACE, ENCODER = Genes(transform="none"), OneHot() | Dose()
STEPS = Optimization(loop=Loop(n_steps=1000, chunk=100, valid_every=200))
HIGH = "A@10000nM"


@pytest.fixture(scope="module")
def simulated() -> SimulatedLatent:
    return simulate_latent(seed=0)


@pytest.fixture(scope="module")
def codes(simulated) -> Codes:
    """The simulator's own parts: 2,000 cells of each population to train on, a tenth of them to validate."""
    study = simulated.study()
    part = simulated.adata.obs["part"].to_numpy()
    roles = np.zeros(study.n_obs, np.int8)
    for condition in study.all_conditions:
        rows = study.rows(condition)
        roles[rows] = Role.SOURCE if condition.is_control else Role.TEST
        trained = rows[part[rows] == "train"]
        roles[trained] = np.where(np.arange(len(trained)) % 10 == 0, Role.VALID, Role.TRAIN)
    split = Split(study, "in_distribution", 0, roles, study.conditions, (), study.conditions, {})
    return Codes.of(split, SPACE, ENCODER)


def score(fitted: AbstractMap, simulated: SimulatedLatent, condition: Condition) -> tuple[float, float]:
    """Return L2-UVP in percent and the ratio of predicted to true variance, on controls that no fit has seen."""
    x = simulated.cells("control", "test")
    truth, moved = simulated.truth(x, condition), fitted.transport(x, condition)
    variance = truth.var(0).sum()
    return float(100 * ((moved - truth) ** 2).sum(1).mean() / variance), float(moved.var(0).sum() / variance)


@pytest.fixture(scope="module")
def high(codes) -> Condition:
    return codes.split.study.resolve(HIGH)


@pytest.fixture(scope="module")
def shift(simulated, codes, high) -> float:
    uvp, ratio = score(MeanShift(SPACE, ENCODER, "own").fit_codes(codes), simulated, high)
    assert 3.2 < uvp < 6.2 and ratio < 0.85
    return uvp


def test_the_gaussian_map_is_near_the_truth(simulated, codes, high):
    uvp, ratio = score(Gaussian(SPACE, ENCODER).fit_codes(codes), simulated, high)
    assert uvp < 0.9 and 0.97 < ratio < 1.03


def test_a_map_of_one_condition_is_the_true_one(simulated, codes, high, shift):
    model = Monge(SPACE, ENCODER, condition=HIGH, optimization=STEPS)
    fitted = model.fit_codes(codes, key=jr.key(0))
    uvp, ratio = score(fitted, simulated, high)
    assert uvp <= 1.0 and uvp < shift / 3
    assert 0.95 < ratio < 1.05
    monge, spread, training = fitted.gaps()
    assert monge.value < 0.05 and abs(spread.value) < 0.05
    assert "held-out cells of 1 " in training.scale


def test_one_map_of_six_conditions_is_the_true_one_in_each(simulated, codes, high, shift):
    fitted = ConditionalMonge(SPACE, ENCODER, optimization=STEPS).fit_codes(codes, key=jr.key(0))
    for condition in codes.split.train_conditions:
        uvp, ratio = score(fitted, simulated, condition)
        assert uvp <= 1.8 and 0.95 < ratio < 1.05, condition
    assert score(fitted, simulated, high)[0] < shift / 2


def test_the_loss_of_one_batch_shrinks_the_population_and_that_of_two_does_not(simulated, codes, high):
    found = {}
    for loss in ("two_batch", "same_batch"):
        model = Monge(
            SPACE, ENCODER, condition=HIGH, start="identity", fit_loss=loss, optimization=STEPS
        )  # fmt: skip
        fitted = model.fit_codes(codes, key=jr.key(0))
        found[loss] = score(fitted, simulated, high)
    (uvp, ratio), (published_uvp, published_ratio) = found["two_batch"], found["same_batch"]
    assert ratio > 0.85 > 0.8 > published_ratio
    assert uvp < 4 and published_uvp > 3 * uvp
