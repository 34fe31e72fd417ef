"""Attacks against closed forms, brute force and one another; none leaves the threat model."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from cellgap.annotate.robust import (
    Ball,
    CountAttack,
    apgd,
    log_cp10k,
    margin,
    other_class_distance,
    panel,
    pgd,
    square,
    targeted_pgd,
)
from cellgap.annotate.robust._apgd import checkpoints
from cellgap.annotate.robust._criteria import cross_entropy, difference_of_logits_ratio, temperature
from cellgap.errors import ConfigError, DataError
from cellgap.nn import Linear, Tower
from cellgap.settings import from_dict, to_dict

N, D, CLASSES = 64, 9, 3


@pytest.fixture(scope="module")
def data():
    x = jr.uniform(jr.key(0), (N, D))
    return x, jr.randint(jr.key(1), (N,), 0, CLASSES)


@pytest.fixture(scope="module")
def linear(data):
    net = Linear(D, CLASSES, key=jr.key(2), scale=2.0)
    return eqx.tree_at(lambda n: n.bias, net, -jnp.mean(net(data[0]), 0))


@pytest.fixture(scope="module")
def tower(data):
    """A network with curved borders that gives every class to some samples."""
    net = Tower((D, 16, CLASSES), norm="none", activation="elu", key=jr.key(3))
    return eqx.tree_at(lambda n: n.layers[-1].bias, net, -jnp.mean(net(data[0]), 0))


def attacks(net, x, y, ball, image=None):
    """Every attack, with the same static settings, so that each is compiled once for a norm."""
    keys = jr.split(jr.key(4), 6)
    return {
        "PGD-CE": pgd(net, x, y, ball, steps=10, key=keys[0]),
        "PGD-margin": pgd(net, x, y, ball, steps=10, loss="margin", key=keys[1]),
        "APGD-CE": apgd(net, x, y, ball, steps=20, key=keys[2]),
        "APGD-DLR": apgd(net, x, y, ball, steps=20, loss="dlr", key=keys[3]),
        "targeted": targeted_pgd(net, x, y, ball, steps=10, key=keys[4]),
        "Square": square(net, x, y, ball, queries=200, image=image, key=keys[5]),
    }


def linear_worst_case(net, x, y, ball):
    """Smallest margin in a ball without domain: the clean difference less radius times dual norm, class by class."""
    weight, scores = np.asarray(net.weight, float), np.asarray(net(x), float)
    y = np.asarray(y)
    apart = weight[:, y].T[:, :, None] - weight[None]  # (n, d, classes)
    dual = np.abs(apart).sum(1) if ball.norm == "linf" else np.sqrt((apart**2).sum(1))
    worst = scores[np.arange(len(y)), y][:, None] - scores - ball.radius * dual
    worst[np.arange(len(y)), y] = np.inf
    return worst.min(1)


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.1), ("l2", 0.25)])
def test_worst_case_of_a_linear_classifier(norm, radius, data, linear):
    x, _ = data
    y = jnp.argmax(linear(x), 1)
    ball = Ball(norm, radius)
    truth = linear_worst_case(linear, x, y, ball)
    assert 0.2 < np.mean(truth > 0) < 0.8
    found = attacks(linear, x, y, ball)
    for name, attacked in found.items():
        assert np.all(np.asarray(attacked.margin) >= truth - 1e-5), name
        np.testing.assert_allclose(margin(linear(attacked.x), y), attacked.margin, atol=1e-5)
    # One attack a class reaches every linear worst case: a corner exactly; along a normal the angle shrinks at each of
    # the 10 steps of a quarter radius, to (1.25)^-10 = 0.11 of what it was.
    missed = (np.asarray(found["targeted"].margin) - truth) / (np.asarray(margin(linear(x), y)) - truth)
    assert missed.max() < (1e-5 if norm == "linf" else 0.05)
    right = truth > 0
    for name in ("PGD-margin", "APGD-DLR"):
        assert np.mean(np.asarray(found[name].robust) == right) > 0.98, name


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_stay_in_the_ball_and_in_the_domain(norm, data, tower):
    x, _ = data
    y = jnp.argmax(tower(x), 1)
    ball = Ball(norm, 0.3, low=0.0, high=1.0)
    moved = 0.0
    for name, attacked in attacks(tower, x, y, ball).items():
        move = np.asarray(attacked.x - x)
        size = np.abs(move).max(1) if norm == "linf" else np.sqrt((move**2).sum(1))
        assert size.max() <= 0.3 + 1e-6, name
        assert np.min(attacked.x) >= 0 and np.max(attacked.x) <= 1, name
        assert np.all(np.asarray(attacked.margin) <= np.asarray(margin(tower(x), y))), name
        moved = max(moved, size.max())
    assert moved > 0.29


def test_no_radius_is_the_clean_accuracy(data, tower):
    x, y = data
    found = panel(tower, x, y, Ball("linf", 0.0), steps=10, apgd_steps=20, queries=200, checks=False, key=jr.key(0))
    assert found.worst == found.clean == float(np.mean(np.asarray(margin(tower(x), y)) > 0))
    assert set(found.accuracy.values()) == {found.clean}
    assert 0 < found.clean < 1


def test_more_steps_never_raise_accuracy(data, tower):
    x, _ = data
    y = jnp.argmax(tower(x), 1)
    ball = Ball("linf", 0.15)
    left = [float(jnp.mean(pgd(tower, x, y, ball, steps=s, key=jr.key(5)).robust)) for s in (1, 5, 10, 20, 50)]
    assert all(after <= before + 0.005 for before, after in itertools.pairwise(left))
    assert left[0] < 1 and left[-1] > 0


def test_apgd_is_as_strong_as_pgd_of_the_same_budget(tower):
    x = jr.uniform(jr.key(6), (N, D))
    y = jnp.argmax(tower(x), 1)
    ball = Ball("linf", 0.15)
    plain = pgd(tower, x, y, ball, steps=20, restarts=1, key=jr.key(7))
    auto = apgd(tower, x, y, ball, steps=20, key=jr.key(7))
    assert float(jnp.mean(auto.robust)) <= float(jnp.mean(plain.robust)) + 0.01
    assert float(jnp.mean(auto.margin)) <= float(jnp.mean(plain.margin)) + 0.01
    assert 0.05 < float(jnp.mean(auto.robust)) < 0.95


def test_checkpoints_come_ever_more_often():
    since = checkpoints(100)
    places = np.flatnonzero(since) + 1
    # 0.22, then gaps of 0.19, 0.16, 0.13, 0.10, 0.07, 0.06, ... (table of the paper, p_1 = 0.22)
    np.testing.assert_array_equal(places, [22, 41, 57, 70, 80, 87, 93, 99])
    np.testing.assert_array_equal(since[places - 1], np.diff(places, prepend=0))


class Blind(eqx.Module):
    """A network whose scores have no derivative: taking one is an error."""

    net: Tower

    def __call__(self, x):
        @jax.custom_vjp
        def scores(x):
            return self.net(x)

        def backward(*_):
            raise AssertionError("a gradient was taken")

        scores.defvjp(lambda x: (self.net(x), None), backward)
        return scores(x)


@pytest.mark.parametrize("image", [None, (3, 3)])
def test_square_takes_no_gradient_and_breaks_samples(image, data, tower):
    x, _ = data
    y = jnp.argmax(tower(x), 1)
    ball = Ball("linf", 0.3)
    with pytest.raises(AssertionError, match="a gradient was taken"):
        pgd(Blind(tower), x, y, ball, key=jr.key(0))
    found = square(Blind(tower), x, y, ball, queries=200, image=image, key=jr.key(0))
    assert float(jnp.mean(found.robust)) < 0.8
    more = square(Blind(tower), x, y, ball, queries=1000, image=image, key=jr.key(0))
    white = apgd(tower, x, y, ball, steps=20, key=jr.key(0))
    assert float(jnp.mean(white.robust)) <= float(jnp.mean(more.robust)) + 0.05


def test_large_scores_do_not_hide_the_gradient(data, linear):
    """Scores times 1000: softmax is exactly 1 and cross-entropy has no slope, the attack is as strong as before."""
    x, _ = data
    y = jnp.argmax(linear(x), 1)
    loud = eqx.tree_at(lambda n: (n.weight, n.bias), linear, (1000 * linear.weight, 1000 * linear.bias))
    slopes = jax.grad(lambda x: jnp.sum(cross_entropy(loud(x), y)))(x)
    assert np.mean(np.all(np.asarray(slopes) == 0, axis=1)) > 0.5
    ball = Ball("linf", 0.2)
    quiet = pgd(linear, x, y, ball, steps=10, key=jr.key(0))
    hidden = pgd(loud, x, y, ball, steps=10, key=jr.key(0))
    assert float(jnp.mean(hidden.robust)) <= float(jnp.mean(quiet.robust)) + 0.02
    np.testing.assert_array_equal(temperature(jnp.array([[0.0, 1.0, 2.0], [0.0, 300.0, 1000.0]])), [1.0, 70.0])


def test_dlr_does_not_change_with_the_scale_of_scores():
    scores = jr.normal(jr.key(0), (20, 5))
    y = jr.randint(jr.key(1), (20,), 0, 5)
    here = difference_of_logits_ratio(scores, y)
    np.testing.assert_allclose(here, difference_of_logits_ratio(50 * scores + 3, y), rtol=1e-3)
    by_hand = difference_of_logits_ratio(jnp.array([[3.0, 1.0, 2.0, -5.0]]), jnp.array([2]))
    np.testing.assert_allclose(by_hand, [-(2 - 3) / (3 - 1)], rtol=1e-6)


def test_panel_and_its_checks(data, tower):
    x, _ = data
    y = jnp.argmax(tower(x), 1)
    found = panel(
        tower, x, y, Ball("linf", 0.15, low=-3.0, high=4.0), steps=10, apgd_steps=20, queries=200, key=jr.key(0)
    )
    assert found.clean == 1.0
    assert list(found.accuracy) == ["PGD-CE", "PGD-margin", "APGD-CE", "APGD-DLR", "targeted margin", "Square"]
    assert found.worst <= min(found.accuracy.values()) < 1
    assert found.worst == np.mean(found.robust)
    left = np.asarray(margin(tower(jnp.asarray(found.attacked)), y)) > 0
    np.testing.assert_array_equal(left, found.robust)
    assert found.relative_radius == pytest.approx(0.15 / other_class_distance(np.asarray(x), np.asarray(y), "linf"))
    assert [check.name for check in found.checks] == ["more steps", "black box", "large radius"]
    assert all(check.holds for check in found.checks), str(found)
    assert "accuracy goes to 0" in str(found)


class Flat(eqx.Module):
    """Steps so fine that no gradient is left: right classes, hidden slopes."""

    net: Tower

    def __call__(self, x):
        return self.net(jax.lax.stop_gradient(jnp.round(x, 2)))


def test_hidden_gradients_are_told(data, tower):
    x, _ = data
    y = jnp.argmax(Flat(tower)(x), 1)
    found = panel(Flat(tower), x, y, Ball("linf", 0.15), steps=10, apgd_steps=20, queries=200, key=jr.key(0))
    held = {check.name: check.holds for check in found.checks}
    assert not held["black box"]
    assert "gradients do NOT help" in str(found)


def test_distance_from_the_nearest_other_class():
    x = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
    y = np.array([0, 1, 1])
    assert other_class_distance(x, y, "l2") == pytest.approx(5.0)
    assert other_class_distance(x, y, "linf") == pytest.approx(4.0)
    assert other_class_distance(x, np.zeros(3, int), "l2") == np.inf


def count_case(n=12, genes=6, key=0):
    rng = np.random.default_rng(key)
    counts = rng.poisson(rng.gamma(0.7, 3.0, (n, genes))).astype(np.int32)
    net = Tower((genes, 8, CLASSES), norm="none", activation="elu", key=jr.key(key))
    rest = rng.integers(5, 20, n)
    y = jnp.argmax(net(log_cp10k(jnp.asarray(counts, float), jnp.asarray(rest, float))), 1)
    return net, jnp.asarray(counts), jnp.asarray(rest), y


def test_count_attack_on_one_gene_is_the_best_of_all():
    net, counts, rest, y = count_case()
    most = 3
    found = CountAttack(max_counts=most, max_genes=1, candidates=None)(net, counts, rest, y)
    best = np.full(len(y), np.inf)
    for gene, amount in itertools.product(range(counts.shape[1]), range(-most, most + 1)):
        tried = np.asarray(counts).copy()
        tried[:, gene] = tried[:, gene] + amount
        allowed = tried[:, gene] >= 0
        margins = np.asarray(margin(net(log_cp10k(jnp.asarray(tried, float), jnp.asarray(rest, float))), y))
        best = np.where(allowed, np.minimum(best, margins), best)
    np.testing.assert_allclose(found.margin, best, atol=1e-5)
    assert np.any(best < np.asarray(margin(net(log_cp10k(counts.astype(float), rest.astype(float))), y)) - 0.05)


@pytest.mark.parametrize(("most", "genes"), [(3, 2), (12, 4)])
def test_count_attack_keeps_its_budget(most, genes):
    net, counts, rest, y = count_case(n=24, key=1)
    found = CountAttack(max_counts=most, max_genes=genes, candidates=4)(net, counts, rest, y)
    change = np.asarray(found.counts) - np.asarray(counts)
    assert np.issubdtype(found.counts.dtype, np.integer)
    assert np.min(found.counts) >= 0
    assert np.abs(change).sum(1).max() <= most
    assert (change != 0).sum(1).max() <= genes
    assert (change != 0).sum(1).max() > 1
    assert (change < 0).any() and (change > 0).any()
    again = margin(net(log_cp10k(found.counts.astype(float), rest.astype(float))), y)
    np.testing.assert_allclose(found.margin, again, atol=1e-4)
    assert np.all(np.asarray(found.margin) <= np.asarray(margin(net(log_cp10k(counts * 1.0, rest * 1.0)), y)) + 1e-6)
    assert float(jnp.mean(found.robust)) < 1


def test_count_attack_takes_the_features_that_it_is_given():
    net, counts, rest, y = count_case()
    flat = CountAttack(max_counts=3, max_genes=1, candidates=None)(net, counts, rest, y, lambda c, r: 0 * c)
    np.testing.assert_array_equal(flat.counts, counts)


def test_what_is_refused(data, tower):
    x, y = data
    with pytest.raises(ConfigError, match="low < high"):
        Ball("linf", 0.1, low=1.0, high=0.0)
    with pytest.raises(ConfigError, match="radius"):
        Ball(norm="linf", radius=-0.1)
    with pytest.raises(ConfigError, match="norm"):
        Ball(norm="l1", radius=0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="loss='dlr' is no loss of this attack"):
        pgd(tower, x, y, Ball("linf", 0.1), loss="dlr", key=jr.key(0))
    with pytest.raises(ConfigError, match="found 2 classes"):
        apgd(Linear(D, 2, key=jr.key(0)), x, y % 2, Ball("linf", 0.1), loss="dlr", key=jr.key(0))
    with pytest.raises(ConfigError, match="has 8 pixels"):
        square(tower, x, y, Ball("linf", 0.1), image=(2, 4), key=jr.key(0))
    with pytest.raises(DataError, match="outside the ball's domain"):
        panel(tower, 2 * x, y, Ball("linf", 0.1, low=0.0, high=1.0), key=jr.key(0))
    assert from_dict(to_dict(Ball("l2", 0.5, low=0.0))) == Ball("l2", 0.5, low=0.0)
    assert from_dict(to_dict(CountAttack(candidates=None))) == CountAttack(candidates=None)
