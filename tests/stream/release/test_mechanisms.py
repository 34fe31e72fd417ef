"""Mechanisms: their errors, their bounds, what a donor moves, and how they are chosen and written down."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.signal import fftconvolve

from cellgap.errors import BudgetExhausted, ConfigError, UnboundedContribution
from cellgap.stream.release import _factor, _tree
from cellgap.stream.release._bounds import DonorBounds
from cellgap.stream.release._lattice import to_lattice, to_lattice_many
from cellgap.stream.release._mechanisms import MECHANISMS, mechanism_of
from cellgap.stream.release._noise import discrete_gaussian
from cellgap.stream.release._randomness import SeededRandomness
from cellgap.stream.release._running_max import CounterMax, RecomputedMax, ZeroMax, choose_max, worst_bound
from cellgap.stream.release._running_quantile import KroneckerQuantile
from cellgap.stream.release._running_select import CounterSelect, RecomputedSelect, choose_select
from cellgap.stream.release._running_sum import FactorSum, TreeSum, choose_sum
from cellgap.stream.release._schedule import best_interval

HALF = Fraction(1, 2)
ONE = DonorBounds(l2=1.0, l1=1.0, max_donors=1)
NO_NOISE = Fraction(10**13)


def names(m: int) -> tuple[str, ...]:
    return tuple(f"g{j}" for j in range(m))


def run(mechanism, totals, seed=0):
    """Return the estimate of every step and all draws."""
    randomness = SeededRandomness(seed)
    state, drawn, found = mechanism.start(), [], []
    for t, total in enumerate(totals, 1):
        state = mechanism.absorb(state, t, np.asarray(total))
        drawn.append(mechanism.draw(state, t, drawn, randomness))
        found.append(mechanism.estimate(drawn))
    return found, drawn


def zeros(steps, width):
    return [np.zeros(width, np.int64)] * steps


SUMS = [
    lambda m, steps, **other: FactorSum(name="s", features=names(m), steps=steps, bounds=ONE, rho=HALF, **other),
    lambda m, steps, **other: TreeSum(name="s", features=names(m), steps=steps, bounds=ONE, rho=HALF, **other),
    lambda m, steps, **other: TreeSum(
        name="s", features=names(m), steps=steps, bounds=ONE, epsilon=Fraction(1), **other
    ),
]


@pytest.mark.parametrize("make", SUMS)
def test_errors_of_sums_are_what_they_claim(make):
    # B1 and B2; the features are 400 runs.
    runs, steps = 400, 63
    found, _ = run(make(runs, steps), zeros(steps, runs))
    errors = np.stack([one.values for one in found])
    claimed = np.array([one.sd[0] for one in found])
    assert (errors.var(axis=1) / claimed**2).mean() == pytest.approx(1.0, abs=0.03)
    single = make(1, steps)
    bounds = np.array([single.bound(t, 0.05) for t in range(1, steps + 1)])
    assert (np.abs(errors) <= bounds[:, None]).all(axis=0).mean() >= 0.95


def test_variances_by_formula():
    steps = 63
    factor, tree = SUMS[0](1, steps), SUMS[1](1, steps)
    for t in (1, 5, 63):
        found = factor.bound(t, 0.05) / math.sqrt(2 * math.log(2 * steps / 0.05))
        expected = math.sqrt(_factor.norm2(steps) * _factor.norm2(t) / (2 * 0.5))
        assert found == pytest.approx(expected, rel=2e-3)
        found = tree.bound(t, 0.05) / math.sqrt(2 * math.log(2 * steps / 0.05))
        assert found == pytest.approx(math.sqrt(6 * _tree.prefix_variance(t)), rel=1e-9)


@pytest.mark.parametrize("kind", [FactorSum, TreeSum])
def test_sums_without_noise_are_exact(kind):
    totals = np.random.default_rng(0).integers(-50, 50, (21, 4))
    mechanism = kind(name="s", features=names(4), steps=21, bounds=ONE, rho=NO_NOISE**2)
    found, _ = run(mechanism, totals)
    for t, one in enumerate(found, 1):
        np.testing.assert_allclose(one.values, totals[:t].sum(axis=0) / 1024, atol=1e-6)


@pytest.mark.parametrize("make", SUMS)
def test_donors_and_means(make):
    m, steps, donors = 100, 8, 2000
    bounds = DonorBounds(l2=1.0, l1=10.0)
    rng = np.random.default_rng(1)
    mechanism = make(m, steps, count=True)
    assert mechanism.width == m + 1
    truth, inside, totals = np.zeros(m), [], []
    for _ in range(steps):
        units = to_lattice_many(rng.uniform(0, 0.19, (donors, m)), bounds)
        totals.append(np.append(units.sum(axis=0), donors))
    found, _ = run(mechanism, totals)
    for t, one in enumerate(found, 1):
        truth = np.sum(totals[:t], axis=0)[:-1] / 1024 / (donors * t)
        donors_error = abs(one.extra["donors"][0] - donors * t)
        assert donors_error <= 6 * one.extra["donors_sd"][0]
        inside.append(np.mean((one.extra["means_low"] <= truth) & (truth <= one.extra["means_high"])))
    assert np.mean(inside) >= 0.95
    # What counting costs the sums: one part in 2 sqrt(m) of Euclidean norm, one in sqrt(m) of the sum of sizes.
    plain = make(m, steps)
    assert plain.noise.sd <= mechanism.noise.sd <= plain.noise.sd * (1.001 + 1.0 / math.sqrt(m))


def test_means_of_nobody_are_not_bounded():
    # Nobody is told from somebody by chance alone, with 95 %.
    mechanism = SUMS[0](3, 1, count=True)
    unbounded = [np.isinf(run(mechanism, zeros(1, 4), seed)[0][0].extra["means_high"]).all() for seed in range(400)]
    assert np.mean(unbounded) >= 0.95


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("b", [1, 3])
def test_a_donor_moves_draws_by_no_more_than_the_noise_was_made_for(k, b):
    # B17: whatever the donor's cells, the shift of all draws together obeys the same bound; and it is reached.
    steps, m = 11, 3
    bounds = DonorBounds(l2=1.0, max_steps=k, min_separation=b)
    rng = np.random.default_rng(3)
    for kind in (FactorSum, TreeSum):
        mechanism = kind(name="s", features=names(m), steps=steps, bounds=bounds, rho=HALF, noise="bulk")
        squared = mechanism.noise.variance * 2 * HALF
        most = 0
        for cells in (10, 100_000):
            for at in ([1 + i * b for i in range(k)], sorted(rng.choice(range(1, steps + 1, b), k, replace=False))):
                # Noise of one seed is the same in both worlds, and cancels.
                base = rng.integers(-9, 9, (steps, m))
                moved = base.copy()
                mean = np.array([5.0, 0.0, 0.0]) + rng.normal(size=m) / math.sqrt(cells)
                for t in at:
                    moved[t - 1] += to_lattice(mean, bounds)
                one, other = run(mechanism, base)[1], run(mechanism, moved)[1]
                shift = sum(int(((x - y) ** 2).sum()) for x, y in zip(one, other, strict=True))
                assert shift <= squared
                most = max(most, shift)
        assert kind is TreeSum or most > 0.98 * squared


def test_python_integers_where_words_might_overflow():
    bounds = DonorBounds(l2=1.0, lattice=2.0**-40)
    for kind in (FactorSum, TreeSum):
        mechanism = kind(name="s", features=names(1), steps=4, bounds=bounds, rho=HALF)
        total = np.array([2**62], object)
        found, drawn = run(mechanism, [total] * 4)
        assert drawn[-1].dtype == object
        assert found[-1].values[0] == pytest.approx(4 * 2.0**22, rel=1e-6)
    assert SUMS[0](1, 8)._type is np.int64


def test_sums_are_chosen_by_horizon():
    given = {"name": "s", "features": names(2), "bounds": ONE}
    assert isinstance(choose_sum(**given, steps=4096, rho=HALF), FactorSum)
    assert isinstance(choose_sum(**given, steps=4097, rho=HALF), TreeSum)
    assert isinstance(choose_sum(**given, steps=10, epsilon=Fraction(1)), TreeSum)


def slope(sizes, values):
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def test_counting_errors_grow_slowly():
    # B4: the largest error over the horizon, from its own noise; prefixes of all steps at once.
    sizes, runs = [2**6, 2**8, 2**10, 2**12, 2**14], 24
    factor, tree = [], []
    for steps in sizes:
        coefs = _factor.integer_coefficients(steps)
        variance = Fraction(_factor.participation_norm(coefs, steps, 1, 1) * 1024**2)
        noise = discrete_gaussian(variance, steps * runs, SeededRandomness(steps), "bulk").reshape(steps, runs)
        inverse = _factor.inverse_series(coefs)[:, None]
        factor.append(np.abs(fftconvolve(noise, inverse, axes=0)[:steps]).max(axis=0).mean() / 1024)
        variance = Fraction(_tree.levels(steps) * 1024**2)
        refinement, largest, randomness = _tree.Refinement(), np.zeros(runs), SeededRandomness(steps)
        pool = discrete_gaussian(variance, 2 * steps * runs, randomness, "bulk").reshape(-1, runs)
        used = 0
        for t in range(1, steps + 1):
            closed = _tree.closing(t)
            refinement.add(pool[used : used + closed])
            used += closed
            largest = np.maximum(largest, np.abs(refinement.prefix()))
        tree.append(largest.mean() / 1024)
    for errors in (factor, tree):
        assert slope(sizes, errors) < 0.27
        assert slope(sizes[2:], errors[2:]) < slope(sizes[:3], errors[:3])


def recomputed_errors(mechanism, runs, seed):
    """Return the largest error of each run when the top column grows by `growth` at every step."""
    noise = mechanism.noise.draw(mechanism.releases * runs, SeededRandomness(seed)).reshape(runs, -1)
    noise = noise * float(mechanism.bounds.step)
    # Between releases the truth runs ahead of the answer by up to r - 1.
    ahead = noise - (mechanism.every - 1)
    return np.maximum(np.abs(noise), np.abs(ahead)).max(axis=1)


@pytest.mark.parametrize(("loss", "power"), [({"rho": HALF}, 1 / 3), ({"epsilon": Fraction(1)}, 1 / 2)])
def test_recomputed_maxima_follow_the_law(loss, power):
    # B5, B6 and B7.
    sizes, errors = [2**k for k in range(8, 21, 2)], []
    for steps in sizes:
        mechanism = RecomputedMax(name="m", features=names(2), steps=steps, bounds=ONE, **loss)
        found = recomputed_errors(mechanism, 40, steps)
        assert (found <= mechanism.bound(steps, 0.05)).mean() >= 0.95
        log = math.log(2 * steps / 0.05)
        errors.append(found.mean() / log**power)
    assert slope(sizes, errors) == pytest.approx(power, abs=0.05)


@pytest.mark.parametrize(("steps", "rows"), [(256, 6), (4096, 19), (65_536, 70)])
def test_counters_win_until_rows_are_dense(steps, rows):
    # B8, by the formulas of the specification: rows of zeros and ones have an l2 bound of sqrt(d).
    recomputed = 3 * (steps * math.log(2 * steps / 0.05) / (4 * 0.5)) ** (1 / 3)

    def counters(d):
        return math.sqrt(d / 0.5) * _factor.norm2(steps) * math.sqrt(math.log(2 * d * steps / 0.05))

    assert counters(rows) > recomputed >= counters(rows - 1)


def test_maxima_are_chosen_by_their_bounds():
    sparse = DonorBounds(l2=1.0, max_donors=1)
    dense = DonorBounds(l2=math.sqrt(1000), linf=1.0, max_donors=1, lattice=1 / 1024)

    def chosen(bounds, steps=4096, **loss):
        return choose_max(name="m", features=names(1000), steps=steps, bounds=bounds, **(loss or {"rho": HALF}))

    assert isinstance(chosen(sparse), CounterMax)
    assert isinstance(chosen(dense), RecomputedMax)
    assert isinstance(chosen(sparse, steps=3), ZeroMax)
    assert isinstance(chosen(sparse, epsilon=Fraction(1)), RecomputedMax)
    assert isinstance(chosen(DonorBounds(l2=1.0)), CounterMax)
    assert isinstance(chosen(DonorBounds(l2=1.0, l1=1.0), epsilon=Fraction(1)), CounterMax)
    with pytest.raises(UnboundedContribution, match="max_donors"):
        chosen(DonorBounds(l2=1.0), epsilon=Fraction(1))
    for bounds, steps in ((sparse, 4096), (dense, 4096), (sparse, 3)):
        least = worst_bound(chosen(bounds, steps), 0.05)
        for other in (
            CounterMax(sums=choose_sum(name="m", features=names(1000), steps=steps, bounds=bounds, rho=HALF)),
            RecomputedMax(name="m", features=names(1000), steps=steps, bounds=bounds, rho=HALF),
            ZeroMax(name="m", features=names(1000), steps=steps, bounds=bounds),
        ):
            assert least <= worst_bound(other, 0.05)


def test_best_interval_is_the_best():
    def noise(releases):
        return 3.0 * math.sqrt(releases)

    for steps in (1, 2, 17, 300):
        found = best_interval(steps, 0.7, noise)
        errors = [(r - 1) * 0.7 + noise(steps // r) for r in range(1, steps + 1)]
        assert errors[found - 1] == pytest.approx(min(errors))


def test_maxima_in_a_stream():
    rng = np.random.default_rng(4)
    totals = rng.integers(0, 1024, (40, 5))
    truth = np.cumsum(totals, axis=0).max(axis=1) / 1024
    for mechanism in (
        RecomputedMax(name="m", features=names(5), steps=40, bounds=ONE, rho=HALF),
        RecomputedMax(name="m", features=names(5), steps=40, bounds=ONE, epsilon=Fraction(1)),
        CounterMax(sums=choose_sum(name="m", features=names(5), steps=40, bounds=ONE, rho=HALF)),
        ZeroMax(name="m", features=names(5), steps=40, bounds=ONE),
    ):
        found, _ = run(mechanism, totals)
        for t, one in enumerate(found, 1):
            assert one.values.shape == one.sd.shape == (1,)
            assert abs(one.values[0] - truth[t - 1]) <= mechanism.bound(t, 1e-4)
    exact = RecomputedMax(name="m", features=names(5), steps=40, bounds=ONE, rho=NO_NOISE, every=1)
    found, _ = run(exact, totals)
    np.testing.assert_allclose([one.values[0] for one in found], truth, atol=1e-2)


@pytest.mark.parametrize("signed", [True, False])
def test_regrets_of_selections_stay_under_their_bound(signed):
    # B7: near ties among 50 features.
    bounds = DonorBounds(l2=1.0, max_donors=1, signed=signed)
    steps, covered = 256, []
    mechanism = RecomputedSelect(name="s", features=names(50), steps=steps, bounds=bounds, rho=HALF, q=2)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        totals = np.zeros((steps, 50), np.int64)
        totals[np.arange(steps), rng.integers(0, 50, steps)] = 1024
        found, _ = run(mechanism, totals, seed)
        regret = []
        for one, sums in zip(found, np.cumsum(totals, axis=0) / 1024, strict=True):
            chosen = one.values.astype(int)
            assert len(set(chosen)) == 2
            regret.append((np.sort(sums)[::-1][:2] - sums[chosen]).max())
        covered.append(max(regret) <= mechanism.bound(steps, 0.05))
    assert np.mean(covered) >= 0.95


def test_what_a_selection_costs():
    given = {"name": "s", "features": names(9), "steps": 12, "bounds": ONE, "every": 3, "q": 2}
    mechanism = RecomputedSelect(**given, rho=HALF)
    eps0 = mechanism.rate * 2 * ONE.kinf
    assert eps0.denominator & (eps0.denominator - 1) == 0
    assert 8 * eps0**2 / 8 <= HALF
    assert 8 * float(eps0) ** 2 / 8 == pytest.approx(0.5)
    pure = RecomputedSelect(**given, epsilon=Fraction(1))
    assert pure.rate * 2 * ONE.kinf * 8 == 1
    one_way = DonorBounds(l2=1.0, max_donors=1, signed=False)
    assert RecomputedSelect(**{**given, "bounds": one_way}, rho=HALF).rate == 2 * mechanism.rate
    twice = DonorBounds(l2=1.0, max_donors=1, max_steps=2)
    assert RecomputedSelect(**{**given, "bounds": twice}, rho=HALF).rate == mechanism.rate / 2


@pytest.mark.parametrize("signed", [True, False])
def test_a_donor_changes_the_odds_of_a_selection_by_no_more_than_eps0(signed):
    bounds = DonorBounds(l2=1.0, linf=0.01, lattice=0.01, max_donors=1, signed=signed)
    mechanism = RecomputedSelect(name="s", features=names(4), steps=1, bounds=bounds, rho=HALF, every=1)
    rng = np.random.default_rng(0)
    eps0 = 2.0  # one draw: sqrt(8 rho)

    def law(scores):
        weights = np.exp(float(mechanism.rate) * (scores - scores.max()))
        return weights / weights.sum()

    widest = 0.0
    for _ in range(500):
        scores = rng.integers(-3, 4, 4)
        moves = rng.integers(-1 if signed else 0, 2, 4) * bounds.kinf
        ratio = np.log(law(scores + moves) / law(scores))
        assert np.abs(ratio).max() <= eps0 + 1e-12
        widest = max(widest, ratio.max() - ratio.min())
    assert widest == pytest.approx(eps0, rel=1e-9)


def test_selections_are_chosen_by_their_bounds():
    sparse = DonorBounds(l2=1.0, max_donors=1)
    dense = DonorBounds(l2=math.sqrt(1000), linf=1.0, max_donors=1, lattice=1 / 1024, signed=False)
    given = {"name": "s", "features": names(1000), "steps": 4096, "rho": HALF}
    assert isinstance(choose_select(**given, bounds=sparse), CounterSelect)
    assert isinstance(choose_select(**given, bounds=dense), RecomputedSelect)
    with pytest.raises(UnboundedContribution, match="max_donors"):
        choose_select(name="s", features=names(3), steps=4, bounds=DonorBounds(l2=1.0), epsilon=Fraction(1))
    totals = np.random.default_rng(5).integers(0, 20_000, (10, 4)) * np.array([0, 1, 4, 2])
    counters = CounterSelect(sums=choose_sum(name="s", features=names(4), steps=10, bounds=ONE, rho=HALF), q=3)
    found, _ = run(counters, totals)
    assert found[-1].values.tolist() == [2, 3, 1]
    assert found[-1].extra["sums"].shape == (4,)


def test_quantiles_err_as_they_claim():
    # B16: the histogram over time is empty, what is left is noise.
    steps, bins = 256, 128
    bounds = DonorBounds(l2=1.0, l1=1.0, signed=False)
    mechanism = KroneckerQuantile(
        name="q", features=names(bins), edges=np.arange(bins + 1.0), steps=steps, bounds=bounds, rho=HALF
    )
    claimed = mechanism.cumulated_sd(steps)
    expected = _factor.norm2(steps) * np.sqrt(_factor.norm2(bins) * np.array([1.0, _factor.norm2(bins)]))
    np.testing.assert_allclose(claimed[[0, -1]], expected, rtol=1e-3)
    assert claimed[-1] == pytest.approx(7.4, abs=0.05)
    runs = 300
    noise = mechanism.noise.draw(steps * runs * bins, SeededRandomness(1)).reshape(steps, runs * bins)
    over_time = np.tensordot(mechanism._time_inverse[::-1], noise, axes=1).reshape(runs, bins)
    cumulated = np.apply_along_axis(lambda y: np.convolve(y, mechanism._bins_inverse)[:bins], 1, over_time) / 1024
    ratio = cumulated.std(axis=0) / claimed
    assert np.sqrt(np.mean(ratio**2)) == pytest.approx(1.0, abs=0.05)
    # The rows of the reshaped runs come from the mechanism's own path as well.
    np.testing.assert_allclose(mechanism.cumulated([row[:bins] for row in noise]), cumulated[0], rtol=1e-9, atol=1e-9)


def test_quantiles_in_a_stream():
    steps, bins, donors = 12, 20, 400
    bounds = DonorBounds(l2=1.0, l1=1.0, signed=False)
    edges = np.linspace(0.0, 1.0, bins + 1)
    mechanism = KroneckerQuantile(
        name="q", features=names(bins), edges=edges, steps=steps, bounds=bounds, rho=HALF, quantiles=(0.1, 0.5, 0.9)
    )
    rng = np.random.default_rng(6)
    values, totals = rng.beta(2, 3, (steps, donors)), []
    for row in values:
        histograms = np.eye(bins)[np.minimum((row * bins).astype(int), bins - 1)]
        totals.append(to_lattice_many(histograms, bounds).sum(axis=0))
    found, _ = run(mechanism, totals)
    for t, one in enumerate(found, 1):
        truth = np.quantile(values[:t], (0.1, 0.5, 0.9))
        assert (one.extra["low"] <= truth + 1 / bins).all()
        assert (truth <= one.extra["high"] + 1 / bins).all()
        assert (np.diff(one.extra["cumulated"]) >= 0).all()
        assert np.abs(one.extra["cumulated"][-1] - t * donors) < mechanism.bound(t, 1e-4)
        assert (np.abs(one.values - truth) < 0.1).all()
    exact = KroneckerQuantile(name="q", features=names(bins), edges=edges, steps=steps, bounds=bounds, rho=NO_NOISE**2)
    cumulated = exact.cumulated(run(exact, totals)[1])
    np.testing.assert_allclose(cumulated, np.cumsum(np.sum(totals, axis=0)) / 1024, atol=1e-3)


def everything():
    fraction = {"rho": Fraction(1, 3)}
    base = {"name": "x", "features": names(3), "steps": 10, "bounds": ONE}
    yield FactorSum(**base, **fraction, count=True, noise="exact")
    yield TreeSum(**base, **fraction)
    yield TreeSum(**base, epsilon=Fraction(2, 7), count=True)
    yield RecomputedMax(**base, **fraction)
    yield RecomputedMax(**base, epsilon=Fraction(2, 7), every=4)
    yield CounterMax(sums=FactorSum(**base, **fraction))
    yield ZeroMax(**base)
    yield RecomputedSelect(**base, **fraction, q=2)
    yield CounterSelect(sums=TreeSum(**base, **fraction), q=2)
    yield KroneckerQuantile(**base, **fraction, edges=[0, 0.1, 0.5, 2], quantiles=[0.25, 0.75], noise="bulk")


@pytest.mark.parametrize("mechanism", list(everything()), ids=lambda mechanism: mechanism.kind)
def test_what_all_mechanisms_have_in_common(mechanism):
    public = mechanism.public()
    again = mechanism_of(json.loads(json.dumps(public)))
    assert type(again) is type(mechanism)
    assert again.public() == public
    assert next(iter(public)) == "kind"
    assert (again.rho, again.width, again.small_state) == (mechanism.rho, mechanism.width, mechanism.small_state)
    assert isinstance(mechanism.rho, Fraction)
    assert mechanism.name in mechanism.describe()
    totals = np.random.default_rng(0).integers(0, 5, (10, mechanism.width))
    found, drawn = run(mechanism, totals)
    # The same bits give the same draws: nothing is kept inside.
    assert all((a == b).all() for a, b in zip(drawn, run(again, totals)[1], strict=True))
    for one in (*found, mechanism.estimate([])):
        assert one.values.shape == one.sd.shape
    for step in drawn:
        assert step.ndim == 1
        assert step.dtype in (np.int64, object)
    assert 0.0 <= mechanism.bound(10, 0.05) < math.inf


def test_states_are_not_changed_in_place():
    for mechanism in everything():
        total = np.ones(mechanism.width, np.int64)
        state = mechanism.absorb(mechanism.start(), 1, total)
        kept = [part.copy() for part in state]
        mechanism.draw(state, 1, [], SeededRandomness(0))
        mechanism.absorb(state, 2, total)
        assert all((a == b).all() for a, b in zip(state, kept, strict=True))
        assert (total == 1).all()


def test_steps_beyond_the_horizon_are_not_drawn():
    for mechanism in everything():
        if isinstance(mechanism, ZeroMax):
            continue
        state = mechanism.start()
        for t in range(1, 12):
            state = mechanism.absorb(state, t, np.ones(mechanism.width, np.int64))
        with pytest.raises(BudgetExhausted, match="10 steps"):
            mechanism.draw(state, 11, [], SeededRandomness(0))


def test_refusals():
    base = {"name": "x", "features": names(3), "steps": 10, "bounds": ONE, "rho": HALF}
    bare = DonorBounds(l2=1.0)
    with pytest.raises(UnboundedContribution, match="no features"):
        FactorSum(**{**base, "features": ()})
    with pytest.raises(ConfigError, match="all different"):
        TreeSum(**{**base, "features": ("a", "a")})
    with pytest.raises(UnboundedContribution, match="0 steps"):
        TreeSum(**{**base, "steps": 0})
    with pytest.raises(ConfigError, match="one of the two"):
        TreeSum(**base, epsilon=Fraction(1))
    with pytest.raises(ConfigError, match="above 0"):
        FactorSum(**{**base, "rho": Fraction(0)})
    with pytest.raises(UnboundedContribution, match="l1"):
        TreeSum(name="x", features=names(3), steps=10, bounds=bare, epsilon=Fraction(1))
    with pytest.raises(ConfigError, match="coarser"):
        FactorSum(**{**base, "bounds": DonorBounds(l2=1.0, lattice=2.0)})
    for kind in (RecomputedMax, RecomputedSelect):
        with pytest.raises(UnboundedContribution, match="max_donors"):
            kind(**{**base, "bounds": bare})
        with pytest.raises(ConfigError, match="every 11 steps"):
            kind(**base, every=11)
        assert math.isinf(kind(**{**base, "bounds": bare}, every=2).bound(3, 0.05))
    with pytest.raises(ConfigError, match="q = 4"):
        RecomputedSelect(**base, q=4)
    with pytest.raises(ConfigError, match="4 edges"):
        KroneckerQuantile(**base, edges=[0, 1, 1, 2])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        KroneckerQuantile(**base, edges=[0, 1, 2, 3], quantiles=[1.0])
    with pytest.raises(UnboundedContribution, match="l1"):
        KroneckerQuantile(**{**base, "bounds": bare}, edges=[0, 1, 2, 3])
    with pytest.raises(ConfigError, match="known kind"):
        mechanism_of({"kind": "?"})
    with pytest.raises(ConfigError, match="fraction"):
        mechanism_of({**FactorSum(**base).public(), "rho": "a lot"})
    with pytest.raises(ConfigError, match="cannot be built"):
        mechanism_of({**FactorSum(**base).public(), "colour": 1})
    assert set(MECHANISMS) == {mechanism.kind for mechanism in everything()}


@pytest.mark.parametrize("m", [16, 400])
def test_the_weight_of_the_count_is_best_for_means(m):
    mechanism = FactorSum(name="s", features=names(m), steps=8, bounds=ONE, rho=HALF, count=True)
    bound, weight = ONE.k2, mechanism.counted.weight

    def variance(w):
        return (bound**2 + w**2) * (1 + bound**2 / (m * w**2))

    assert variance(weight) <= 1.02 * min(variance(w) for w in range(1, bound + 1))
