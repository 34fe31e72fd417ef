"""Properties of the parts of an annotator over drawn inputs."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from cellgap.annotate._choice import Judged, Mixture, mixed, tempered
from cellgap.annotate._folds import folds_of
from cellgap.annotate._linear import ridge_path
from cellgap.annotate._reasons import reasons
from cellgap.annotate._unseen import Prototypes, Seen, Thresholds, thresholds_of

QUICK = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 10_000)
shares = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
temperatures = st.floats(0.1, 20.0)


def log_probabilities(seed: int, n: int = 12, classes: int = 4, size: float = 3.0) -> np.ndarray:
    return log_softmax(size * np.random.default_rng(seed).normal(size=(n, classes)), axis=1)


@QUICK
@given(seeds, shares, temperatures, temperatures, temperatures)
def test_mixtures_are_probabilities_and_lie_between_the_two(seed, share, first, second, last) -> None:
    line, net = log_probabilities(seed), log_probabilities(seed + 1)
    p = np.exp(Mixture(share, first, second, last)(line, net))
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-12)
    both = np.exp(mixed(tempered(line, first), tempered(net, second), share))
    one, two = np.exp(tempered(line, first)), np.exp(tempered(net, second))
    assert (both <= np.maximum(one, two) * (1 + 1e-9)).all() and (both >= np.minimum(one, two) * (1 - 1e-9)).all()
    # The last temperature changes how sure, not of what.
    order = np.argsort(both, axis=1)
    ordered = np.take_along_axis(p, order, axis=1)
    assert (np.diff(ordered, axis=1) >= -1e-12).all()


@QUICK
@given(seeds, st.permutations(range(4)), shares)
def test_mixtures_do_not_know_the_order_of_classes(seed, order, share) -> None:
    mixture = Mixture(share, 1.5, 0.7, 1.2)
    line, net = log_probabilities(seed), log_probabilities(seed + 1)
    found = mixture(line[:, order], net[:, order])
    np.testing.assert_allclose(found, mixture(line, net)[:, order], rtol=1e-10, atol=1e-12)


@QUICK
@given(seeds, st.floats(0.3, 3.0))
def test_no_temperature_is_better_than_the_one_that_is_found(seed, size) -> None:
    rng = np.random.default_rng(seed)
    log_p = log_probabilities(seed, 200, 3, size)
    judged = Judged(("one",), np.zeros(200, int), rng.integers(3, size=200), np.ones(200, bool))
    best = judged.temperature(log_p)
    assert 0.1 <= best <= 20.0
    rows = np.arange(200)

    def loss(t: float) -> float:
        return float(-tempered(log_p, t)[rows, judged.y].mean())

    assert all(loss(best) <= loss(t) + 1e-6 for t in np.geomspace(0.1, 20.0, 15))


@QUICK
@given(st.integers(2, 9), st.integers(2, 12), st.floats(0.0, 0.5), seeds)
def test_every_cell_is_left_out_once_with_its_whole_domain(n_domains, n_folds, inside, seed) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 60, n_domains)
    domain = rng.permutation(np.repeat(np.arange(n_domains), sizes))
    y = np.zeros(len(domain), int)
    folds = folds_of(y, domain, tuple(map(str, range(n_domains))), n_folds=n_folds, inside=inside, seed=seed)
    assert len(folds) == min(n_folds, n_domains)
    np.testing.assert_array_equal(np.sort(np.concatenate([f.outside for f in folds])), np.arange(len(domain)))
    for fold in folds:
        parts = np.concatenate([fold.train, fold.inside, fold.outside])
        np.testing.assert_array_equal(np.sort(parts), np.arange(len(domain)))
        assert not np.isin(domain[fold.outside], domain[np.r_[fold.train, fold.inside]]).any()
        assert len(fold.inside) == 0 or len(fold.inside) >= 20
    # Largest first to the emptiest group: no two groups differ by more than one domain.
    loads = [len(f.outside) for f in folds]
    assert max(loads) - min(loads) <= sizes.max()


@QUICK
@given(seeds, st.floats(0.0, 1.0), st.floats(0.01, 0.5), st.sampled_from([0.0, 0.5, 1.0]))
def test_thresholds_keep_their_promises(seed, wanted, most, certain) -> None:
    rng = np.random.default_rng(seed)

    def cells(n: int) -> Seen:
        p = np.where(rng.random(n) < certain, 1.0 - 1e-13 * rng.random(n), rng.random(n))
        return Seen(p, rng.gamma(3.0, size=n))

    known, unseen = cells(400), {"a": cells(50), "b": cells(30)}
    found, table = thresholds_of(known, unseen, false_assignment=wanted, most_unassigned=most)
    lost = found.novelty(known.probability, known.distance) > 1
    # Quantiles lie between cells, so each of both thresholds may take one cell more.
    assert lost.mean() == found.unassigned <= most + 2 / 400
    given_one = [float((found.novelty(u.probability, u.distance) <= 1).mean()) for u in unseen.values()]
    np.testing.assert_allclose(table["labelled"], given_one)
    np.testing.assert_allclose(found.false_assignment, np.mean(given_one))
    assert found.reached == (found.false_assignment <= wanted)
    names = np.full(400, "x", dtype=object)
    said = reasons(names, known.probability, names, 1 - known.probability, known.distance, found)
    np.testing.assert_array_equal([text.startswith("unassigned") for text in said], lost)


@QUICK
@given(st.floats(0.0, 1.0), st.floats(0.1, 5.0), seeds)
def test_what_is_surer_and_nearer_is_not_more_novel(probability, distance, seed) -> None:
    rng = np.random.default_rng(seed)
    thresholds = Thresholds(probability, distance, 0.0, 0.0, True)
    p, d = rng.random(100), rng.gamma(3.0, size=100)
    novelty = thresholds.novelty(p, d)
    assert (thresholds.novelty(p + (1 - p) * rng.random(100), d * rng.random(100)) <= novelty + 1e-12).all()


@QUICK
@given(seeds, st.integers(0, 4))
def test_distances_to_classes_do_not_know_units_and_directions(seed, dim_less) -> None:
    rng = np.random.default_rng(seed)
    dim = 6 - dim_less
    x = rng.normal(size=(400, dim)) + 3 * rng.normal(size=(3, dim))[np.arange(400) % 3]
    y = np.arange(400) % 3
    turned, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    plain, moved = Prototypes.of(x, y, 3), Prototypes.of(7 * x @ turned + 2, y, 3)
    np.testing.assert_allclose(moved.distance(7 * x @ turned + 2), plain.distance(x), rtol=1e-6)
    assert plain.distance(np.asarray(plain.means)).max() < 1e-6


@settings(max_examples=15, deadline=None)
@given(seeds, st.permutations(range(3)), st.sampled_from([0.5, 1.0, 1.5]))
def test_ridge_does_not_know_the_order_of_classes_and_cells(seed, order, tau) -> None:
    rng = np.random.default_rng(seed)
    y = np.arange(90) % 3
    x = (rng.normal(size=(90, 3)) + rng.normal(size=(3, 3))[y]).astype(np.float32)
    rows = rng.permutation(90)
    (plain,) = ridge_path(x, y, 3, (0.3,), tau=tau)
    (other,) = ridge_path(x[rows], np.argsort(order)[y[rows]], 3, (0.3,), tau=tau)
    one, two = (np.exp(log_softmax(line.scores(x), axis=1)) for line in (plain, other))
    # Descents stop near the minimum, each at its own side of it; above tau = 1 it is flat.
    np.testing.assert_allclose(two, one[:, order], atol=0.01 if tau <= 1 else 0.05)
