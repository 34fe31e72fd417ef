import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from cellgap.annotate._comp_sum import comp_sum
from cellgap.annotate._labelled import Labelled
from cellgap.annotate.drm import (
    DomainHeadsNet,
    DRMObjective,
    Trainer,
    accuracy_drop,
    adaptivity_bound,
    combined,
    discriminator_weights,
    entropy_weights,
    mean_weights,
    prototypes_of,
    similarity_weights,
)
from cellgap.errors import ConfigError, DataError
from cellgap.nn import Tower
from cellgap.storage import load, save
from cellgap.train import Loop

K, CLASSES, WIDTH, FEATURES = 3, 4, 5, 6


def tower(norm="layer", key=0):
    return Tower((FEATURES, WIDTH, CLASSES), norm=norm, activation="gelu", key=jr.key(key))


def heads(**kwargs):
    """A network whose domain heads differ."""
    net = DomainHeadsNet(tower(), K, key=jr.key(1), **kwargs)
    return eqx.tree_at(lambda n: n.bias, net, jr.normal(jr.key(2), net.bias.shape))


def cells(n=24, n_domains=K):
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, n)
    return Labelled.of(rng.normal(size=(n, FEATURES)), y, np.arange(n) % n_domains, n_classes=CLASSES)


def rules(log_p, features, prototypes, domain_scores):
    """Weights by every rule, over the domain heads."""
    return {
        "mean": mean_weights(log_p),
        "least entropy": entropy_weights(log_p, -1.0),
        "least entropy, published": entropy_weights(log_p, -1.0, published=True),
        **{f"entropy {g}": entropy_weights(log_p, g) for g in (0.0, 0.5, 1.0, 5.0)},
        "cosine": similarity_weights(features, prototypes),
        "cosine, soft": similarity_weights(features, prototypes, 7.0),
        "1-norm": similarity_weights(features, prototypes, norm=1.0),
        "2-norm, soft": similarity_weights(features, prototypes, 2.0, norm=2.0),
        "discriminator": discriminator_weights(domain_scores),
        "discriminator, hard": discriminator_weights(domain_scores, hard=True),
    }


@eqx.filter_jit
def loss_of(objective, net, key):
    return objective(net, key, jnp.int32(0))[0]


@eqx.filter_jit
def gradient(objective, net, key):
    return eqx.filter_grad(lambda n: objective(n, key, jnp.int32(0))[0])(net)


def plain_loss(net, data, key):
    batch = data.batch(key, 16, "domains")
    return jnp.mean(comp_sum(net(batch.x), batch.y, 1.5))


def example(n=40):
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(n, K, CLASSES)) * rng.gamma(1.0, 5.0, size=(n, K, 1))
    log_p = jax.nn.log_softmax(jnp.asarray(scores, jnp.float32), -1)
    features, prototypes = rng.normal(size=(n, WIDTH)), rng.normal(size=(K, WIDTH))
    return log_p, jnp.asarray(features), jnp.asarray(prototypes), jnp.asarray(rng.normal(size=(n, K)))


def test_d1_the_gradient_of_the_shared_head_with_one_domain_is_that_of_erm():
    data, key = cells(n_domains=1), jr.key(3)
    for pooled, factor in ((False, 0.5), (True, 1.0)):
        net = DomainHeadsNet(tower(), 1, pooled=pooled, key=jr.key(1))
        objective = DRMObjective(data, per_domain=16, tau=1.5, penalty=1.0)
        grad = gradient(objective, net, key)
        expected = eqx.filter_jit(eqx.filter_grad(plain_loss))(net.tower, data, key).layers[-1]
        # Independent heads: the shared head has half the loss. Offsets at 0: both heads are the shared one.
        found = grad.tower.layers[-1]
        np.testing.assert_allclose(found.weight, factor * expected.weight, atol=1e-6)
        np.testing.assert_allclose(found.bias, factor * expected.bias, atol=1e-6)
        assert float(jnp.max(jnp.abs(found.weight))) > 1e-3


def test_d2_identical_heads_give_their_own_prediction_by_every_rule():
    log_p, *rest = example()
    same = jnp.broadcast_to(log_p[:, :1], log_p.shape)
    for name, weights in rules(same, *rest).items():
        assert np.array_equal(combined(same, weights), same[:, 0]), name


def test_d3_weights_are_not_negative_and_sum_to_one():
    for name, weights in rules(*example()).items():
        assert float(weights.min()) >= 0, name
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6, err_msg=name)


def test_d4_the_order_of_domains_does_not_matter():
    log_p, features, prototypes, domain_scores = example()
    order = jnp.asarray([2, 0, 1])
    before = rules(log_p, features, prototypes, domain_scores)
    after = rules(log_p[:, order], features, prototypes[order], domain_scores[:, order])
    for name in before:
        mixed, permuted = combined(log_p, before[name]), combined(log_p[:, order], after[name])
        np.testing.assert_allclose(jnp.exp(mixed), jnp.exp(permuted), atol=1e-6, err_msg=name)
        if name not in ("mean", "entropy 0.0"):
            assert not np.allclose(before[name], after[name], atol=1e-3), name


def test_d5_the_bound_holds_on_a_finite_set_of_points():
    rng = np.random.default_rng(2)
    slack = []
    for _ in range(500):
        sources, target = rng.dirichlet(np.ones(7), size=K), rng.dirichlet(np.ones(7))
        labels, target_label = rng.uniform(size=(K, 7)), rng.uniform(size=7)
        weights = rng.dirichlet(np.full(K, 0.5))
        bound = adaptivity_bound(rng.uniform(size=7), target, target_label, sources, labels, weights)
        slack.append(bound.risk + bound.gap - bound.error)
    assert min(slack) >= -1e-12
    h = rng.uniform(size=7)
    # One source labelled as the target is: no gap, and the risk is the error whatever the source's law.
    same = adaptivity_bound(h, target, target_label, sources, np.tile(target_label, (K, 1)), weights)
    assert same.gap == 0 and abs(same.risk - same.error) < 1e-12
    sources[0, 0] = 0
    with pytest.raises(DataError, match="probability 0"):
        adaptivity_bound(h, target, target_label, sources, labels, np.ones(K) / K)
    uncovered = adaptivity_bound(h, target, target_label, sources, labels, np.array([0, 0.5, 0.5]))
    assert math.isfinite(uncovered.risk)


def test_the_accuracy_drop_is_by_domain():
    within, left_out = np.array([1, 1, 1, 0], bool), np.array([1, 0, 1, 0], bool)
    drop = accuracy_drop(within, np.array([0, 0, 1, 1]), left_out, np.array([0, 0, 1, 2]), 4)
    np.testing.assert_allclose(drop.drop, [0.5, -0.5, np.nan, np.nan])
    assert drop.mean == 0 and abs(drop.se - 0.5) < 1e-12
    with pytest.raises(DataError, match="No domain"):
        accuracy_drop(within, np.array([0, 0, 0, 0]), left_out, np.array([1, 1, 1, 1]), 2)


def test_entropy_weights_by_hand_and_the_floor():
    p = jnp.asarray([[[0.5, 0.5], [0.9, 0.1], [1.0, 0.0]]])
    entropy = np.array([math.log(2), -0.9 * math.log(0.9) - 0.1 * math.log(0.1), 1e-3 * math.log(2)])
    for gamma in (0.0, 0.5, 1.0):
        expected = entropy**-gamma / np.sum(entropy**-gamma)
        np.testing.assert_allclose(entropy_weights(jnp.log(p), gamma)[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(entropy_weights(jnp.log(p), -1.0)[0], [0, 0, 1])
    # Head 2 is surest of the first cell, head 0 of both on average.
    two = jnp.stack(
        [jnp.asarray([[0.95, 0.05], [0.6, 0.4], [0.97, 0.03]]), jnp.asarray([[0.99, 0.01]] + [[0.5, 0.5]] * 2)]
    )
    np.testing.assert_array_equal(entropy_weights(jnp.log(two), -1.0), [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(entropy_weights(jnp.log(two), -1.0, published=True), [[1, 0, 0]] * 2)


def test_similarity_takes_the_most_similar_domain():
    prototypes = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [10.0, 10.0]])
    x = jnp.asarray([[2.0, 0.1], [0.1, 0.5], [3.0, 3.1]])
    np.testing.assert_array_equal(similarity_weights(x, prototypes), np.eye(3))
    np.testing.assert_array_equal(similarity_weights(x, prototypes, norm=2.0).argmax(1), [0, 1, 1])
    soft = similarity_weights(x[:1], prototypes, 3.0)[0]
    cosine = np.array([2.0, 0.1, 2.1 / math.sqrt(2)]) / math.hypot(2.0, 0.1)
    np.testing.assert_allclose(soft, np.exp(3 * cosine) / np.exp(3 * cosine).sum(), rtol=1e-5)


def test_a_mixture_is_that_of_probabilities():
    log_p, *rest = example()
    for name, weights in rules(log_p, *rest).items():
        expected = jnp.einsum("nh,nhc->nc", weights, jnp.exp(log_p))
        np.testing.assert_allclose(jnp.exp(combined(log_p, weights)), expected, atol=1e-6, err_msg=name)
    # A head that has the weight decides alone, however sure the others are of the opposite.
    far = jnp.asarray([[[-200.0, 0.0], [0.0, -300.0]]])
    np.testing.assert_allclose(combined(far, jnp.asarray([[0.0, 1.0]])), [[0, -300]])


def test_prototypes_are_exact_means():
    data = cells()
    found = prototypes_of(data.x, data.domain, K)
    for k in range(K):
        np.testing.assert_allclose(found[k], np.asarray(data.x)[np.asarray(data.domain) == k].mean(0), rtol=1e-5)


def test_the_network_without_domains_is_its_tower():
    data = cells()
    for norm in ("layer", "batch"):
        body = tower(norm)
        net = DomainHeadsNet(body, K, key=jr.key(1))
        np.testing.assert_array_equal(net(data.x), body(data.x))
        scores, moved = net.training(data.x)
        expected, moved_body = body.training(data.x)
        np.testing.assert_array_equal(scores, expected)
        assert eqx.tree_equal(moved.tower, moved_body)
        assert eqx.tree_equal(moved.tower, body) == (norm == "layer")
    every = heads().head_scores(data.x)
    assert every.shape == (24, K + 1, CLASSES)
    np.testing.assert_array_equal(every[:, -1], heads()(data.x))
    np.testing.assert_allclose(
        every[:, :-1] - every[:, -1:], jnp.broadcast_to(heads().bias, (24, K, CLASSES)), atol=1e-5
    )


def test_the_loss_is_that_of_own_and_shared_heads():
    data, key = cells(), jr.key(4)
    net = heads()
    batch = data.batch(key, 4 * K, "domains")
    every = net.head_scores(batch.x)
    by_domain = []
    for k in range(K):
        rows = np.flatnonzero(np.asarray(batch.domain) == k)
        assert len(rows) == 4
        both = [comp_sum(every[rows, h], batch.y[rows], 0.5) for h in (k, K)]
        by_domain.append((np.mean(both[0]) + np.mean(both[1])) / 2)
    plain = loss_of(DRMObjective(data, 4, 0.5, 0.0), net, key)
    np.testing.assert_allclose(plain, np.mean(by_domain), rtol=1e-5)
    penalized = loss_of(DRMObjective(data, 4, 0.5, 2.0), net, key)
    np.testing.assert_allclose(penalized - plain, 2 * float(jnp.sum(net.bias**2)) / K, rtol=1e-4)
    independent = DomainHeadsNet(tower(), K, pooled=False, key=jr.key(1))
    losses = [loss_of(DRMObjective(data, 4, 0.5, p), independent, key) for p in (0.0, 2.0)]
    assert losses[0] == losses[1]


def test_a_class_that_a_domain_lacks_is_tied_to_the_shared_head():
    data = cells()
    present = np.ones((K, CLASSES), bool)
    present[1, 2] = present[1, 3] = False
    for pooled in (True, False):
        net = heads(pooled=pooled, present=present)
        every = net.head_scores(data.x)
        np.testing.assert_array_equal(every[:, 1, 2:], every[:, -1, 2:])
        assert float(jnp.min(jnp.abs(every[:, 1, :2] - every[:, -1, :2]).max(0))) > 1e-3
        assert float(jnp.min(jnp.abs(every[:, 0] - every[:, -1]).max(0))) > 1e-3

        def loss(net):
            return jnp.mean(comp_sum(net.head_scores(data.x)[:, 1], jnp.zeros(24, int), 1.0))

        grad = eqx.filter_jit(eqx.filter_grad(loss))(net)
        assert not np.any(grad.weight[1, :, 2:]) and not np.any(grad.bias[1, 2:])
        assert not np.any(grad.tower.layers[-1].weight[:, 2:])
        assert np.all(np.abs(grad.bias[1, :2]) > 1e-4)
    with pytest.raises(ConfigError, match="classes"):
        heads(present=present[:, :2])


def test_the_discriminator_learns_domains_and_leaves_the_features_alone():
    data, key = cells(), jr.key(4)
    net = heads(discriminator=True)
    without = heads()

    found, plain = (gradient(DRMObjective(data, 8), n, key) for n in (net, without))
    np.testing.assert_allclose(found.tower.layers[0].weight, plain.tower.layers[0].weight, atol=1e-7)
    assert float(jnp.abs(found.discriminator.weight).max()) > 1e-3
    assert net.domain_scores(data.x).shape == (24, K)
    with pytest.raises(ConfigError, match="discriminator"):
        without.domain_scores(data.x)


def test_a_large_penalty_makes_all_heads_the_shared_one(tmp_path):
    # Domain 1 turns the label around, so that its own head is needed.
    rng = np.random.default_rng(5)
    x, domain = rng.normal(size=(300, FEATURES)), np.arange(300) % 2
    y = (x[:, 0] > 0).astype(int) ^ domain
    data = Labelled.of(x, y, domain, n_classes=2)

    def build(key):
        return DomainHeadsNet(Tower((FEATURES, 8, 2), norm="layer", activation="gelu", key=key), 2, key=key)

    own = {}
    for penalty in (1e-3, 1e3):
        trainer = Trainer(build, lambda d, p=penalty: DRMObjective(d, 32, 1.0, p), optax.adam(1e-2), Loop(100, 100))
        net = trainer(data, jr.key(0))
        scores = net.head_scores(data.x)
        own[penalty] = float(np.mean(np.argmax(scores, -1)[np.arange(300), domain] == y))
        offset = float(jnp.abs(scores[:, :-1] - scores[:, -1:]).max())
    assert own[1e-3] > 0.9
    assert own[1e3] < 0.65 and offset < 0.05
    save(net, tmp_path)
    assert eqx.tree_equal(load(tmp_path), net)
