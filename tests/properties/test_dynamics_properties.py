"""Properties of laws and trajectories over drawn ones: what does not matter, and what is undone."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap.dynamics import Intervention, Law, Units, solve, trajectories_of
from cellgap.dynamics._prepare import Constants, law_data, units_of
from cellgap.nn import PerTargetNet

N, T, D = 4, 6, 3
NONE = jnp.zeros((N, 0))
QUICK = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10_000)
methods = st.sampled_from(["heun", "rk4"])


def law_of(seed: int) -> Law:
    net = PerTargetNet(D, D, hidden=4, key=jr.key(seed))
    return Law(eqx.tree_at(lambda n: n.last, net, 4 * net.last), jnp.zeros(D), None)


@eqx.filter_jit
def run(law, start, times, method, acting=None):
    more = {} if acting is None else {"acting": acting}
    return solve(law, start, times, NONE, method=method, substeps=2, **more).states


def drawn(seed: int):
    """Return a law, starts and times."""
    key_start, key_times = jr.split(jr.key(seed))
    times = jnp.cumsum(jr.uniform(key_times, (N, T), minval=0.0, maxval=0.6), 1)
    return law_of(seed), jr.normal(key_start, (N, D)), times


@QUICK
@given(seeds, methods, st.lists(st.integers(1, T), min_size=N, max_size=N))
def test_filling_up_does_not_change_what_came_before(seed, method, lengths):
    law, start, times = drawn(seed)
    whole = np.asarray(run(law, start, times, method))
    at = np.minimum(np.arange(T), np.array(lengths)[:, None] - 1)
    found = np.asarray(run(law, start, jnp.take_along_axis(times, jnp.asarray(at), 1), method))
    for i, n in enumerate(lengths):
        np.testing.assert_array_equal(found[i, :n], whole[i, :n])
        np.testing.assert_array_equal(found[i, n:], np.broadcast_to(found[i, n - 1], (T - n, D)))


@QUICK
@given(seeds, methods, st.permutations(range(N)))
def test_trajectories_do_not_know_of_each_other(seed, method, order):
    law, start, times = drawn(seed)
    rows = jnp.asarray(order)
    found, whole = run(law, start[rows], times[rows], method), run(law, start, times, method)
    # Products of matrices may be added up in another order.
    np.testing.assert_allclose(found, np.asarray(whole)[np.asarray(order)], rtol=1e-5, atol=1e-6)


@QUICK
@given(seeds, methods, st.integers(-25_600, 25_600))
def test_laws_do_not_know_the_time(seed, method, shift):
    law, start, times = drawn(seed)
    # Multiples of 1/256 below 2^16 are added without rounding, so that steps are the same and not merely alike.
    times = jnp.round(256 * times) / 256
    whole = run(law, start, times, method)
    np.testing.assert_array_equal(run(law, start, times + jnp.float32(shift / 256), method), whole)


@QUICK
@given(seeds, st.integers(1, T - 2))
def test_a_solution_from_the_middle_of_another_is_its_rest(seed, k):
    law, start, times = drawn(seed)
    whole = run(law, start, times, "rk4")
    rest = jnp.concatenate([times[:, k:], jnp.repeat(times[:, -1:], k, 1)], 1)
    np.testing.assert_allclose(run(law, whole[:, k], rest, "rk4")[:, : T - k], whole[:, k:], atol=1e-6)


@QUICK
@given(seeds, st.lists(st.floats(-50, 50, width=32), min_size=D, max_size=D), st.floats(1e-2, 100))
def test_units_inward_and_outward_are_inverse(seed, center, scale):
    rng = np.random.default_rng(seed)
    spread = scale * rng.uniform(0.1, 2, D)
    units = Units(np.array(center, float), spread, 2.0)
    x = np.array(center) + spread * rng.normal(size=(5, 4, D))
    # In between are single precision numbers of order 3.
    np.testing.assert_allclose(units.outward(units.inward(x)), x, rtol=0, atol=float(1e-6 * spread.max()))
    z = rng.normal(size=(7, D)).astype(np.float32)
    loss = 1e-6 + 1e-14 * np.abs(center).max() / spread.min()
    np.testing.assert_allclose(units.inward(units.outward(z)), z, atol=loss)


@QUICK
@given(seeds, st.sets(st.integers(0, D - 1), min_size=1), st.floats(-2, 2, width=32, allow_subnormal=False))
def test_what_is_held_stays_whatever_the_law(seed, held, level):
    law, start, times = drawn(seed)
    names = tuple(f"x{i}" for i in range(D))
    units = Units(np.zeros(D), np.ones(D), 1.0)
    what = Intervention(hold={names[i]: level for i in held})
    acting, still = what.acting(names, units, N)
    assert still is not None
    x = jnp.where(jnp.asarray(still.moving) == 0, jnp.asarray(still.level), start)
    found = np.asarray(run(law, x, times, "rk4", acting))
    for i in held:
        np.testing.assert_array_equal(found[:, :, i], np.float32(level))
    free = [i for i in range(D) if i not in held]
    assert not free or (found[:, 1:, free] != found[:, :1, free]).any()


def ragged(seed: int):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 9, size=5)
    values = [rng.normal(size=(n, 2)) for n in lengths]
    times = [np.sort(rng.uniform(0, 5, n)) for n in lengths]
    return trajectories_of(values, times, inputs={"dose": rng.normal(size=5)})


@QUICK
@given(seeds, st.integers(1, 6), st.integers(1, 4))
def test_windows_hold_states_that_follow_each_other_and_miss_none_at_stride_1(seed, length, stride):
    made = ragged(seed)
    cut = made.windows(length, stride=stride)
    whole = dict(zip(made.names, made.each(), strict=True))
    firsts: dict[str, list[int]] = {}
    for (t, v), name, first in zip(cut.each(), cut.about["trajectory"], cut.about["first"], strict=True):
        times, values = whole[name]
        np.testing.assert_array_equal(t, times[first : first + len(t)])
        np.testing.assert_array_equal(v, values[first : first + len(t)])
        assert len(t) == min(length + 1, len(times)) and first % stride == 0
        firsts.setdefault(name, []).append(first)
    for name, (times, _) in whole.items():
        assert firsts[name] == list(range(0, max(1, len(times) - length), stride))


@QUICK
@given(seeds, st.permutations(range(5)))
def test_the_order_of_trajectories_does_not_change_units_or_constants(seed, order):
    made = ragged(seed)
    other = made.take(order)
    one, two = units_of(made, "each"), units_of(other, "each")
    for a, b in ((one.center, two.center), (one.spread, two.spread), (one.clock, two.clock)):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    a, b = (law_data([m], one, Constants.of(made, ()), window=None, stride=1, history=1) for m in (made, other))
    for name in ("times", "weights", "inputs"):
        np.testing.assert_array_equal(getattr(b, name), np.asarray(getattr(a, name))[list(order)])
    np.testing.assert_array_equal(b.values[0], np.asarray(a.values[0])[list(order)])


@QUICK
@given(seeds, st.floats(0.1, 100), st.floats(-10, 10), st.floats(0.1, 100))
def test_standardized_data_know_nothing_of_the_units_of_values_and_times(seed, scale, offset, clock):
    made = ragged(seed)
    other = dataclasses.replace(made, values=scale * made.values + offset, times=clock * made.times + offset)
    a, b = (
        law_data([m], units_of(m, "each"), Constants.of(m, ()), window=None, stride=1, history=1) for m in (made, other)
    )
    # A clock that jumps from one lag to the next would be another; rounding moves it only at a tie.
    np.testing.assert_allclose(b.times, a.times, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(b.values, a.values, rtol=1e-4, atol=1e-4)
