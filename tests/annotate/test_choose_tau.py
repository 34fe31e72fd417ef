"""The choice of tau: the rule, the folds, and that it tells wrong labels from right ones without seeing any truth."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from cellgap.annotate._choose_tau import CompSumObjective, TauChoice, choose_tau, chosen, stratified_folds
from cellgap.annotate._comp_sum import CompSum
from cellgap.annotate._labelled import Labelled
from cellgap.errors import ConfigError, DataError
from cellgap.nn import Tower
from cellgap.train import Loop

CLASSES, FEATURES, CELLS, STEPS = 4, 12, 240, 500


def cells(noise: float, spread: float = 2.0) -> Labelled:
    """Groups of cells around their centers, a share of whose labels is replaced at random."""
    rng = np.random.default_rng(0)
    y = rng.integers(CLASSES, size=CELLS)
    x = rng.normal(size=(CLASSES, FEATURES))[y] * spread + rng.normal(size=(CELLS, FEATURES))
    given = np.where(rng.random(CELLS) < noise, rng.integers(CLASSES, size=CELLS), y)
    return Labelled.of(x, given, n_classes=CLASSES)


def choice(data: Labelled, taus: tuple[float, ...], steps: int = STEPS, n_folds: int = 3) -> TauChoice:
    def build(key):
        return Tower((FEATURES, 48, CLASSES), norm="none", activation="relu", key=key)

    def objective(data, tau):
        return CompSumObjective(data, tau, CompSum(), steps, batch_size=32)

    loop = Loop(n_steps=steps, chunk=min(100, steps))
    return choose_tau(data, build, objective, optax.adamw(5e-3), loop, taus, key=jr.key(0), n_folds=n_folds)


def test_wrong_labels_call_for_a_larger_tau_and_right_ones_do_not():
    noisy = choice(cells(0.4), (1.0, 2.0))
    assert noisy.tau == 2.0
    assert noisy.gain > 0.1 > noisy.error
    clean = choice(cells(0.0), (1.0, 2.0))
    assert clean.tau == 1.0
    assert clean.accuracy.shape == (2, 3)
    assert clean.accuracy.min() > 0.95


def test_folds_do_not_learn_the_labels_that_judge_them():
    # Labels that nothing predicts are learnt by heart by every network here, and unknown where they are held out.
    random = choice(cells(1.0), (1.0,) * 2)
    assert abs(random.accuracy.mean() - 1 / CLASSES) < 0.1
    # Equal losses have equal networks: start and batches of a fold are the same for every tau.
    np.testing.assert_array_equal(random.accuracy[0], random.accuracy[1])
    assert len(set(random.accuracy[0])) > 1


@pytest.mark.parametrize(
    ("accuracy", "tau"),
    [
        ([[0.8, 0.7, 0.9], [0.8, 0.7, 0.9]], 1.0),  # a tie
        ([[0.8, 0.7, 0.9], [0.7, 0.9, 0.9]], 1.0),  # better on average, within a standard error
        ([[0.8, 0.7, 0.9], [0.81, 0.71, 0.92]], 2.0),  # a little better, in every fold
        ([[0.8, 0.7, 0.9], [0.5, 0.6, 0.7]], 1.0),
    ],
)
def test_one_is_kept_unless_another_is_better_by_more_than_a_standard_error(accuracy, tau):
    assert chosen((1.0, 2.0), np.array(accuracy)).tau == tau
    assert chosen((2.0, 1.0), np.array(accuracy)[::-1]).tau == tau


def test_standard_error_is_of_the_paired_difference():
    found = chosen((0.5, 0.9, 2.0), np.array([[0.5, 0.4], [0.6, 0.8], [0.8, 0.9]]))
    assert found.baseline == 0.9
    assert found.gain == pytest.approx(0.15)
    assert found.error == pytest.approx(0.05)
    assert found.tau == 2.0
    assert str(found).startswith("tau 2, by accuracy on the labels of 2 held-out folds (%; 0.5: 45.0, 0.9: 70.0")


def test_folds_share_cells_and_classes_equally():
    y = np.repeat([0, 1, 2], [50, 21, 3])
    folds = stratified_folds(y, 4, jr.key(1))
    for part in (folds, folds[y == 0], folds[y == 1], folds[y == 2]):
        sizes = np.bincount(part, minlength=4)
        assert sizes.max() - sizes.min() <= 1
    assert not np.array_equal(folds, stratified_folds(y, 4, jr.key(2)))


def test_a_single_candidate_is_taken_as_it_is_and_nonsense_is_refused():
    data = cells(0.0)
    one = choice(data, (1.7,))
    assert one.tau == 1.7
    assert str(one) == "tau 1.7, the only candidate"
    with pytest.raises(ConfigError, match="candidates"):
        choice(data, ())
    with pytest.raises(ConfigError, match="n_folds=1"):
        choice(data, (1.0, 2.0), n_folds=1)
    with pytest.raises(DataError, match="10 or more cells, found 6"):
        choice(Labelled.of(np.zeros((6, FEATURES)), np.zeros(6, int), n_classes=2), (1.0, 2.0), n_folds=5)


def test_objective_warms_tau_up():
    data = cells(0.0)
    net = Tower((FEATURES, 8, CLASSES), norm="none", activation="relu", key=jr.key(0))
    objective = CompSumObjective(data, jnp.float32(2.0), CompSum(warm_start=0.5), 100)
    cross_entropy = CompSumObjective(data, jnp.float32(1.0), CompSum(), 100)
    value = eqx.filter_jit(lambda objective, step: objective(net, jr.key(1), step)[0])
    values = [float(value(objective, jnp.int32(step))) for step in (0, 25, 50)]
    assert values[0] == pytest.approx(float(value(cross_entropy, jnp.int32(0))), rel=1e-6)
    assert values[0] > values[1] > values[2]
    assert values[2] < 1.0  # the mean absolute error is at most 1
