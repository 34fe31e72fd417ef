"""Properties of maps over drawn studies and conditions: what stays, what does not matter, what follows the data."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap.encode import Dose, Table
from cellgap.space import Genes
from cellgap.study import Condition, Design, Role, Study, Treatment, split
from cellgap.train import draw_without_replacement
from cellgap.transport import AbstractMap, Codes, Gaussian, Identity, MeanShift

RAW, ENCODER = Genes(transform="none"), Table() | Dose()
DRUGS, DOSES = ("anti", "beta", "cora"), (1.0, 10.0, 100.0)
N, D = 12, 2
MAPS = ("identity", "Gaussian", "mean effect", "nearest condition", "ridge mean shift")


def study_of(seed: int, scale: float, offset: float, order: int | None) -> Study:
    """Return a screen of three drugs at three doses and a pair: scaled, moved, and with its cells in another order."""
    rng = np.random.default_rng(seed)
    labels = [("vehicle", 0.0)] * (2 * N) + [(drug, dose) for drug in DRUGS for dose in DOSES for _ in range(N)]
    labels += [("anti+beta", 10.0)] * N
    effects = {drug: 2 * rng.normal(size=D) for drug in DRUGS}
    x = rng.normal(size=(len(labels), D)) * rng.uniform(0.5, 2.0, size=D) + rng.normal(size=D)
    for i, (drug, dose) in enumerate(labels):
        for name in drug.split("+") if dose else ():
            x[i] += effects[name] * np.log10(10 * dose) / 3
    table = pd.DataFrame(rng.normal(size=(4, 2)), index=pd.Index([*DRUGS, "dara"]), columns=pd.Index(["u", "v"]))
    obs = pd.DataFrame(labels, columns=pd.Index(["drug", "dose_nM"]), index=pd.Index([f"c{i}" for i in range(len(x))]))
    adata = AnnData((scale * x + offset).astype(np.float32), obs=obs, uns={"treatment_descriptors": table})
    if order is not None:
        adata = adata[np.random.default_rng(order).permutation(len(x))].copy()
    return Study(adata, Design(treatment="drug", dose="dose_nM", control="vehicle"))


@cache
def maps(seed: int, scale: float = 1.0, offset: float = 0.0, order: int | None = None) -> dict[str, AbstractMap]:
    """Return maps of a drawn study that were trained on all but one drug."""
    made = split.unseen_treatment(study_of(seed, scale, offset, order), "cora", min_cells=1)
    # Splits draw cells by their place, which another order changes: here all of them train.
    roles = np.where(made.roles == Role.TEST, Role.TEST, Role.TRAIN).astype(np.int8)
    codes = Codes.of(dataclasses.replace(made, roles=roles), RAW, ENCODER)
    estimators = [Identity(RAW, ENCODER), Gaussian(RAW, ENCODER)]
    estimators += [MeanShift(RAW, ENCODER, rule) for rule in ("all", "nearest", "ridge")]
    fitted = [estimator.fit_codes(codes) for estimator in estimators]
    assert tuple(one.name for one in fitted) == MAPS
    return {one.name: one for one in fitted}


seeds = st.integers(0, 3)
amounts = st.floats(1e-3, 1e6)
sets = st.lists(
    st.tuples(st.sampled_from((*DRUGS, "dara")), amounts), min_size=1, max_size=3, unique_by=lambda pair: pair[0]
)


def condition_of(members: list[tuple[str, float]]) -> Condition:
    return Condition.of([Treatment(name, dose, "nM") for name, dose in members], [])


def cells(seed: int, n: int = 6) -> np.ndarray:
    return (3 * np.random.default_rng(seed).normal(size=(n, D))).astype(np.float32)


@pytest.mark.parametrize("name", MAPS)
@settings(deadline=None, max_examples=15)
@given(seed=seeds, scale=st.floats(1e-6, 1e6))
def test_controls_stay_bit_for_bit_wherever_they_are(name, seed, scale):
    z = cells(seed) * np.float32(scale)
    np.testing.assert_array_equal(maps(seed)[name].transport(z, Condition()), z)


@pytest.mark.parametrize("name", MAPS)
@settings(deadline=None, max_examples=25)
@given(seed=seeds, members=sets, shuffle=st.randoms(use_true_random=False))
def test_neither_the_order_of_treatments_nor_that_of_cells_matters(name, seed, members, shuffle):
    fitted, z = maps(seed)[name], cells(seed)
    out = fitted.transport(z, condition_of(members))
    assert np.isfinite(out).all() and out.shape == z.shape
    other = list(members)
    shuffle.shuffle(other)
    np.testing.assert_array_equal(fitted.transport(z, condition_of(other)), out)
    np.testing.assert_allclose(fitted.transport(z[::-1], condition_of(members))[::-1], out, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", MAPS[2:])
@settings(deadline=None, max_examples=15)
@given(seed=seeds, members=sets)
def test_a_mean_shift_moves_all_cells_alike(name, seed, members):
    z = cells(seed)
    moved = maps(seed)[name].transport(z, condition_of(members)) - z
    np.testing.assert_allclose(moved, np.tile(moved[0], (len(z), 1)), atol=1e-3 * (1 + np.abs(moved).max()))


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(("scale", "offset"), [(100.0, 0.0), (0.01, 0.0), (1.0, 20.0), (5.0, -7.0)])
@settings(deadline=None, max_examples=8)
@given(seed=seeds, drug=st.sampled_from((*DRUGS, "dara")), dose=st.floats(0.5, 200.0))
def test_maps_follow_the_unit_and_the_origin_of_the_data(name, scale, offset, seed, drug, dose):
    condition, z = condition_of([(drug, dose)]), cells(seed)
    expected = scale * maps(seed)[name].transport(z, condition) + offset
    z_there = (scale * z + offset).astype(np.float32)
    found = maps(seed, scale, offset)[name].transport(z_there, condition)
    size = scale * (1 + np.abs(maps(seed)[name].transport(z, condition)).max())
    np.testing.assert_allclose(found, expected, atol=1e-3 * size)


@pytest.mark.parametrize("name", MAPS)
@settings(deadline=None, max_examples=8)
@given(seed=seeds, drug=st.sampled_from((*DRUGS, "dara")), dose=st.floats(0.5, 200.0))
def test_maps_do_not_depend_on_the_order_of_the_study(name, seed, drug, dose):
    condition, z = condition_of([(drug, dose)]), cells(seed)
    found, expected = (maps(seed, order=order)[name].transport(z, condition) for order in (5, None))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=50)
@given(seed=seeds, members=sets, unit=st.sampled_from(["pM", "nM", "uM", "mM", None]))
def test_resolving_twice_is_resolving_once(seed, members, unit):
    words = maps(seed)["identity"].vocabulary
    asked = Condition.of([Treatment(name, dose, unit) for name, dose in members], [])
    found = words.resolve(asked)
    assert words.resolve(found) == found == words.resolve(repr(found)) == words.resolve(str(found))
    assert {t.unit for t in found.treatments} == {"nM"} and found.names == asked.names


@settings(deadline=None, max_examples=50)
@given(seed=seeds, members=sets)
def test_only_conditions_that_were_trained_on_are_at_distance_0(seed, members):
    fitted = maps(seed)["identity"]
    condition = condition_of(members)
    near = fitted.nearness(condition)
    known = fitted.vocabulary.parsed()
    assert near.nearest in {repr(c) for c in known} and near.distance >= 0
    if condition in known:
        assert near == (repr(condition), 0.0, ())
    if near.distance > 0.01:
        assert condition not in known
    if "cora" in condition.names or "dara" in condition.names:
        assert near.extrapolates


_draw = jax.jit(lambda key, size: draw_without_replacement(key, 20, size))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31 - 1), size=st.one_of(st.integers(1, 40), st.integers(1, 2**30)))
def test_draws_are_distinct_cells_of_the_population(seed, size):
    found = np.asarray(_draw(jr.key(seed), jnp.int32(size)))
    assert found.min() >= 0 and found.max() < size
    assert len(set(found[:size].tolist())) == min(20, size)
    np.testing.assert_array_equal(found, found[np.arange(20) % size])
