import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from cellgap.annotate._labelled import Labelled
from cellgap.annotate._train_classifier import AbstractObjective
from cellgap.annotate.drm import (
    TEMPERATURES,
    Choice,
    DomainHeadsNet,
    Fold,
    Guarded,
    Online,
    Rule,
    SideBySide,
    Trainer,
    adapt_online,
    choose,
    combined,
    entropy_weights,
    fit_guarded,
    head_temperatures,
    rule_log_probability,
    subset,
    temperature_losses,
)
from cellgap.annotate.drm._guarded import margin_of
from cellgap.errors import ConfigError
from cellgap.nn import Linear, Tower
from cellgap.storage import load, save
from cellgap.train import Loop

K, CLASSES, FEATURES = 4, 3, 5
SIZES = (30, 50, 20, 40)


def cells(sizes=SIZES, seed=0, spread=0.4):
    """Domains one beside the other along the last feature; classes are apart in the first ones."""
    rng = np.random.default_rng(seed)
    domain = np.repeat(np.arange(len(sizes)), sizes)
    y = np.concatenate([np.arange(n) % CLASSES for n in sizes])
    x = 2.0 * np.eye(FEATURES)[y] + rng.normal(scale=spread, size=(len(y), FEATURES))
    x[:, -1] += domain
    return Labelled.of(x, y, domain, n_classes=CLASSES)


class Constant(eqx.Module):
    """Scores of a model that always gives class 0."""

    scores: jax.Array

    def __call__(self, x):
        return jnp.broadcast_to(self.scores, (len(x), CLASSES))


def test_folds_draw_no_cell_of_the_domain_left_out():
    data = cells()
    shapes = set()
    draw = jax.jit(lambda fold, key: (fold.batch(key, 100), fold.batch(key, 42, "domains")))
    for left_out in (-1, 0, 2, 3):
        fold = Fold.without(data, left_out)
        assert fold.x is data.x
        shapes.add(str(jax.tree.map(jnp.shape, fold)))
        by_cells = np.zeros(K)
        by_domains = np.zeros(K)
        for seed in range(30):
            plain, even = draw(fold, jr.key(seed))
            assert len(np.unique(plain.x[:, 0])) == min(100, sum(SIZES) - (SIZES[left_out] if left_out >= 0 else 0))
            by_cells += np.bincount(plain.domain, minlength=K)
            by_domains += np.bincount(even.domain, minlength=K)
            assert np.array_equal(even.y, np.asarray(even.x)[:, :CLASSES].argmax(1)) or seed
            assert min(plain.y.min(), even.y.min()) >= 0
        kept = np.arange(K) != left_out
        assert not np.any(by_cells[~kept]) and not np.any(by_domains[~kept])
        expected = np.asarray(SIZES) * kept
        np.testing.assert_allclose(by_cells / by_cells.sum(), expected / expected.sum(), atol=0.02)
        np.testing.assert_allclose(by_domains[kept] / by_domains.sum(), 1 / kept.sum(), atol=0.08)
        hidden = np.asarray(fold.y)[np.asarray(data.domain) == left_out]
        assert np.all(hidden == -1) and np.sum(np.asarray(fold.y) == -1) == len(hidden)
    assert len(shapes) == 1


def test_a_subset_counts_domains_anew():
    data = cells()
    left = subset(data, 1)
    assert left.n_domains == K - 1 and list(np.asarray(left.sizes)) == [30, 20, 40]
    np.testing.assert_array_equal(left.x, np.asarray(data.x)[np.asarray(data.domain) != 1])
    np.testing.assert_array_equal(np.unique(left.domain), np.arange(K - 1))


class Mean(AbstractObjective):
    """The squared distance of a bias to the mean of a batch; counts how often it is compiled."""

    data: Labelled
    seen: list = eqx.field(static=True)

    def __call__(self, net, key, step):
        self.seen.append(1)
        batch = self.data.batch(key, 16)
        return jnp.sum((net(batch.x) - jnp.mean(batch.x[:, 0])) ** 2) / 100, (net, {"bias": net.bias[0]})


def test_networks_side_by_side_share_one_program_and_nothing_else():
    data, seen = cells(), []
    folds = [Fold.without(data, j) for j in (0, 1, -1)]
    trainer = Trainer(lambda key: Linear(FEATURES, 1, key=key), lambda d: Mean(d, seen), optax.adam(0.1), Loop(20, 10))
    several = trainer.each(folds, jr.key(0))
    compiled = len(seen)
    assert compiled <= 2  # the loss and its gradient, for three networks and two chunks
    objective = SideBySide.of([Mean(f, seen) for f in folds])
    assert objective.shared.data.x is data.x and objective.varying.data.x is None
    # Other cells for the last network change it, and the first ones not in a bit.
    again = trainer.each([*folds[:2], Fold.without(data, 2)], jr.key(0))
    assert eqx.tree_equal(several[0], again[0]) and eqx.tree_equal(several[1], again[1])
    assert not eqx.tree_equal(several[2], again[2])
    assert not eqx.tree_equal(several[0], several[1])


def test_clipping_is_of_each_network_by_itself():
    from cellgap.annotate.drm._side_by_side import apart

    grads = {"w": jnp.asarray([[3.0, 4.0], [0.3, 0.4]])}
    clip = apart(optax.clip_by_global_norm(1.0))
    clipped, _ = clip.update(grads, clip.init(grads), grads)
    np.testing.assert_allclose(clipped["w"], [[0.6, 0.8], [0.3, 0.4]], rtol=1e-6)


def test_temperatures_are_recovered():
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=1.5, size=(4000, CLASSES))
    y = jnp.asarray(np.argmax(logits + rng.gumbel(size=logits.shape), 1))
    scores = jnp.asarray(np.stack([logits * 4, logits, logits / 3], 1), jnp.float32)
    weight = jnp.ones(4000)
    losses = np.asarray(temperature_losses(scores, y, weight))[None]
    found = head_temperatures(losses, np.ones((1, 3), bool))
    np.testing.assert_allclose(found, [4, 1, 1 / 3], rtol=0.1)
    # Weight 0 leaves cells out, and a head without a domain keeps its scores.
    wrong = (y + (jnp.arange(4000) >= 2000)) % CLASSES
    half = np.asarray(temperature_losses(scores, wrong, (jnp.arange(4000) < 2000).astype(jnp.float32)))[None]
    both = head_temperatures(half, np.asarray([[True, False, True]]))
    np.testing.assert_allclose(both, [4, 1, 1 / 3], rtol=0.15)
    assert both[1] == 1 and TEMPERATURES[0] == 0.05


def a_choice(name, gains):
    gains = np.asarray(gains, float)
    se = float(gains.std(ddof=1) / np.sqrt(len(gains)))
    return Choice(Rule(name), jnp.asarray(0.8 + gains), float(0.8 + gains.mean()), float(gains.mean()), se)


def test_erm_stays_unless_a_rule_gains_more_than_a_standard_error():
    erm = a_choice("erm", np.zeros(4))
    noisy = a_choice("shared", [0.1, -0.06, 0.1, -0.06])
    sure = a_choice("entropy", [0.01, 0.02, 0.01, 0.02])
    rule, sentence = choose((erm, noisy))
    assert rule.kind == "erm" and "shared head, +2.0 ± 4.6 points" in sentence
    rule, sentence = choose((erm, noisy, sure))
    assert rule.kind == "entropy" and "+1.5" in sentence
    assert choose((erm, a_choice("shared", np.zeros(4))))[0].kind == "erm"
    assert choose((erm, sure, a_choice("similarity", [0.03, 0.02, 0.03, 0.02])))[0].kind == "similarity"


def test_the_best_of_many_rules_has_to_gain_more():
    # Student's t with one degree of freedom is Cauchy: its quantile at q is tan(pi (q - 1/2)).
    assert np.isclose(margin_of(1, 2), np.tan(np.pi * (0.5 - 0.1587)))
    assert np.isclose(margin_of(1, 10_000), 1.0, atol=1e-3)
    assert margin_of(9, 7) > margin_of(2, 7) > margin_of(1, 7) > 1.0
    erm, rule = a_choice("erm", np.zeros(4)), a_choice("shared", [0.01, 0.02, 0.01, 0.0])
    assert choose((erm, rule))[0].kind == "shared"
    assert choose((erm, *[rule] * 9))[0].kind == "erm"


def test_rules_are_what_they_say():
    rng = np.random.default_rng(3)
    scores = jnp.asarray(rng.normal(size=(6, K + 1, CLASSES)))
    features, prototypes = jnp.asarray(rng.normal(size=(6, 2))), jnp.asarray(rng.normal(size=(K, 2)))
    temperatures = jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0])
    given = (scores, features, prototypes, temperatures)
    log_p = jax.nn.log_softmax(scores / temperatures[:, None], -1)
    np.testing.assert_allclose(rule_log_probability(Rule("shared"), *given), log_p[:, -1], atol=1e-6)
    entropy = rule_log_probability(Rule("entropy", 1.0), *given)
    np.testing.assert_allclose(entropy, combined(log_p, entropy_weights(log_p, 1.0)), atol=1e-6)
    # Similarity 0: the mean of domain heads, without the shared one.
    uniform = rule_log_probability(Rule("similarity", 0.0), *given)
    np.testing.assert_allclose(jnp.exp(uniform), jnp.exp(log_p[:, :-1]).mean(1), atol=1e-6)


FEW = Guarded(
    hidden=(8,), per_domain=8, learning_rate=1e-2, loop=Loop(n_steps=60, chunk=60), gammas=(-1.0,),
    inverse_temperatures=(5.0,),
)  # fmt: skip


@pytest.fixture(scope="module")
def against_nothing():
    """The guarded rule where the model without domains is useless, and what that model was trained on."""
    given = []

    def erm(data, key):
        given.append(data)
        return Constant(jnp.eye(CLASSES)[0])

    return fit_guarded(cells(), erm, FEW, key=jr.key(0)), given


def test_a_rule_that_wins_is_used(against_nothing):
    result, given = against_nothing
    data = cells()
    assert [len(d) for d in given] == [*(sum(SIZES) - n for n in SIZES), sum(SIZES)]
    erm = result.choices[0]
    for j in range(K):
        own = np.asarray(data.y)[np.asarray(data.domain) == j]
        np.testing.assert_allclose(erm.accuracy[j], np.mean(own == 0), rtol=1e-5)
    assert [str(c.rule) for c in result.choices] == [row[0] for row in result.table()]
    best = max(result.choices, key=lambda c: c.mean)
    assert best.mean > 0.9 and result.rule == best.rule and result.rule.kind != "erm"
    assert str(result.rule) in result.sentence
    new = cells(seed=1)
    log_p = result.log_probability(new.x)
    np.testing.assert_allclose(jnp.exp(log_p).sum(1), 1, rtol=1e-5)
    assert float(jnp.mean(jnp.argmax(log_p, 1) == new.y)) > 0.9
    assert result.temperatures.shape == (K + 1,)
    expected = [result.net.features(data.x)[data.domain == j].mean(0) for j in range(K)]
    np.testing.assert_allclose(result.prototypes, jnp.stack(expected), atol=1e-5)
    forced = result.log_probability(new.x, Rule("erm"))
    np.testing.assert_allclose(forced, jax.nn.log_softmax(Constant(jnp.eye(CLASSES)[0])(new.x), -1), atol=1e-6)


def test_a_target_is_inside_or_outside(against_nothing, tmp_path):
    result, _ = against_nothing
    near = cells().x[30:80]
    inside = result.placement(near)
    assert inside.inside and inside.distance < 0.1 < inside.threshold and "inside" in inside.sentence
    far = result.placement(near.at[:, -1].add(-30.0))
    assert far.inside is False and far.distance > far.threshold and "outside" in far.sentence
    save(result.net, tmp_path)
    assert eqx.tree_equal(load(tmp_path), result.net)


def test_erm_that_is_as_good_stays():
    data = cells(spread=0.1)
    weight = jnp.eye(FEATURES, CLASSES)

    def erm(data, key):
        return eqx.tree_at(lambda n: n.weight, Linear(FEATURES, CLASSES, key=key), weight)

    result = fit_guarded(data, erm, FEW, key=jr.key(0))
    assert float(result.choices[0].mean) == 1 and result.rule == Rule("erm")
    np.testing.assert_allclose(result.log_probability(data.x), jax.nn.log_softmax(data.x @ weight, -1), atol=1e-6)
    assert "none of 3 rules gains" in result.sentence and result.net is not None


def test_too_few_domains_are_erm_with_a_sentence():
    data = cells((20, 20))
    result = fit_guarded(data, lambda data, key: Constant(jnp.eye(CLASSES)[1]), FEW, key=jr.key(0))
    assert result.rule == Rule("erm") and result.net is None and "2 source domains" in result.sentence
    assert np.all(np.argmax(result.log_probability(data.x), 1) == 1)
    assert result.placement(data.x).inside is None
    with pytest.raises(ConfigError, match="hidden"):
        Guarded(hidden=())


TOWER = Tower((FEATURES, 8, CLASSES), norm="layer", activation="gelu", key=jr.key(0))
NAIVE = DomainHeadsNet(TOWER, 3, key=jr.key(1))


def online(net, **kwargs):
    """What becomes of a network on 240 target cells with sure and right pseudo-labels, unless told otherwise."""
    data, valid = cells((80, 80, 80), seed=2), cells((40, 40, 40), seed=3)
    given = {
        "x": data.x, "log_probability": jnp.log(0.97 * jnp.eye(CLASSES)[data.y] + 0.01), "valid_x": valid.x,
        "valid_y": valid.y, "frequencies": np.full(CLASSES, 1 / CLASSES), "settings": Online(n_steps=40),
    }  # fmt: skip
    return adapt_online(net, **(given | kwargs)), valid


def test_online_retraining_is_guarded():
    many = Online(n_steps=40, learning_rate=0.1)
    result, valid = online(NAIVE, settings=many)
    assert result.adapted and "240 of 240" in result.sentence
    before, after = (float(jnp.mean(jnp.argmax(n(valid.x), 1) == valid.y)) for n in (NAIVE, result.net))
    assert before < 0.6 and after > 0.8
    assert eqx.tree_equal(result.net.tower.layers[0], NAIVE.tower.layers[0])
    assert not eqx.tree_equal(result.net.weight, NAIVE.weight)

    net, x, y = result.net, cells((80, 80, 80), seed=2).x, cells((80, 80, 80), seed=2).y
    sure = jnp.log(0.97 * jnp.eye(CLASSES) + 0.01)
    refused = {
        "fewer than 200": {"x": x[:199], "log_probability": sure[jnp.zeros(199, int)]},
        "no target cell": {"log_probability": jnp.log(jnp.full((240, CLASSES), 1 / CLASSES))},
        "class 1 has a share of 1.00": {"log_probability": sure[jnp.ones(240, int)]},
        # Wrong labels in the right proportions: only the rollback objects.
        "Rolled back": {"log_probability": sure[(y + 1) % CLASSES], "settings": many},
    }
    for sentence, kwargs in refused.items():
        result, _ = online(net, **kwargs)
        assert not result.adapted and sentence in result.sentence, result.sentence
        assert result.net is net
    with pytest.raises(ConfigError, match="200"):
        Online(least_cells=100)
