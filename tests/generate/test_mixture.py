"""Guidance and correction on Gaussian mixtures, whose fields are known."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from cellgap.errors import ConfigError
from cellgap.generate import (
    AbstractField,
    CompositeMixture,
    Corrector,
    GaussianMixture,
    Guidance,
    Sampler,
    Told,
    evaluations,
    flow,
    guide,
    reference_mixture,
)
from cellgap.generate._corrector import correct
from cellgap.generate._sampler import step
from cellgap.ot import energy_distance

EULER = Sampler(solver="euler")
distance = jax.jit(energy_distance)


def cells(field: AbstractField, label: int, n: int) -> Told:
    return Told(field, jnp.full((n, field.n_attributes), label))


@pytest.fixture(scope="module")
def mixture() -> GaussianMixture:
    return reference_mixture(2, seed=0)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("t", [0.2, 0.7])
def test_the_field_is_the_conditional_expectation(mixture, known, t):
    """Importance weights of 200,000 draws: E[z_1 - eps | z_t = z] with eps = (z - t z_1) / (1 - t)."""
    n = 200_000
    labels = jnp.full((n, 1), 1) if known else jr.randint(jr.key(5), (n, 1), 0, 4)
    z1 = mixture.sample(labels, key=jr.key(0))
    z = t * z1[:3] + (1 - t) * jr.normal(jr.key(1), (3, 2))
    found = mixture(z, jnp.asarray([t]), jnp.full((3, 1), 1), jnp.full((3, 1), known))
    for row, value in zip(z, found, strict=True):
        eps = (row - t * z1) / (1 - t)
        weight = jax.nn.softmax(-0.5 * jnp.sum(eps**2, 1))
        expected = weight @ (z1 - eps)
        assert np.linalg.norm(value - expected) < 0.02 * max(1.0, float(jnp.linalg.norm(expected)))


def test_a_leaky_model_is_the_exact_field_of_the_leaky_law(mixture):
    leaky = mixture.leaky(0.3, 1.5)
    np.testing.assert_allclose(leaky.shares.sum(1), 1.0, rtol=1e-6)
    z, t, labels = jr.normal(jr.key(0), (5, 2)), jnp.asarray([0.4]), jnp.zeros((5, 1), int)
    nothing = jnp.zeros((5, 1), bool)
    np.testing.assert_allclose(
        mixture.leaky(0.3)(z, t, labels, nothing), mixture(z, t, labels, nothing), rtol=1e-4, atol=1e-5
    )
    everything = mixture.leaky(1.0)
    np.testing.assert_allclose(everything(z, t, labels, ~nothing), mixture(z, t, labels, nothing), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="sum to 1"):
        dataclasses.replace(mixture, shares=0.5 * mixture.shares)


def test_an_exact_model_samples_the_truth(mixture):
    n = 2000
    for solver, steps in (("euler", 200), ("heun", 50), ("rk4", 25)):
        told = cells(mixture, 2, n)
        path = flow(guide(told, Guidance()), jr.normal(jr.key(0), (n, 2)), Sampler(solver=solver, n_steps=steps))
        assert abs(float(distance(path.z, mixture.sample(told.labels, key=jr.key(9))))) < 0.01


@pytest.mark.parametrize("solver", ["tsit5", "dopri5"])
def test_adaptive_steps_end_where_many_small_ones_do(mixture, solver):
    z = jr.normal(jr.key(0), (8, 2))
    guided = guide(cells(mixture, 0, 8), Guidance(weight=2.0))
    fine = flow(guided, z, Sampler(solver="rk4", n_steps=400))
    found = flow(guided, z, Sampler(solver=solver, tolerance=1e-6))
    np.testing.assert_allclose(found.z, fine.z, atol=2e-3)
    # A cell's steps are its own: alone it ends at the same place.
    alone = flow(guide(cells(mixture, 0, 1), Guidance(weight=2.0)), z[:1], Sampler(solver=solver, tolerance=1e-6))
    np.testing.assert_allclose(alone.z, found.z[:1], rtol=1e-5, atol=1e-5)


def test_the_way_back_ends_where_it_began(mixture):
    z = jr.normal(jr.key(0), (50, 2))
    guided = guide(cells(mixture, 1, 50), Guidance())
    how = Sampler(solver="rk4", n_steps=100)
    there = flow(guided, z, how)
    np.testing.assert_allclose(flow(guided, there.z, how, backward=True).z, z, atol=5e-3)


def test_weight_one_is_the_field_of_the_attributes_and_zero_the_unconditional_one(mixture):
    z, t = jr.normal(jr.key(0), (6, 2)), jnp.asarray(0.3)
    told = cells(mixture, 3, 6)
    base, null = told(z, t, jnp.asarray([[True], [False]]))
    for weight, expected in ((1.0, base), (0.0, null), (2.5, null + 2.5 * (base - null))):
        found, _ = guide(told, Guidance(weight=weight))(z, t)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_cells_may_have_weights_of_their_own(mixture):
    z, t = jr.normal(jr.key(0), (4, 2)), jnp.asarray(0.3)
    told = cells(mixture, 3, 4)
    weights = np.asarray([[0.0], [1.0], [2.0], [5.0]], np.float32)
    found, _ = guide(told, Guidance(), weights=weights)(z, t)
    for i, weight in enumerate(weights[:, 0]):
        one, _ = guide(told, Guidance(weight=float(weight)))(z, t)
        np.testing.assert_allclose(found[i], one[i], rtol=1e-5, atol=1e-5)


def test_an_interval_guides_inside_only(mixture):
    z = jr.normal(jr.key(0), (6, 2))
    told = cells(mixture, 3, 6)
    guided = guide(told, Guidance(weight=3.0, schedule="interval", window=(0.2, 0.6)))
    for t, n in ((0.1, 1), (0.2, 2), (0.5, 2), (0.6, 1)):
        found, spent = guided(z, jnp.asarray(t))
        expected = guided.guided(z, jnp.asarray(t)) if n == 2 else guided.base(z, jnp.asarray(t))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert int(spent) == n


def test_no_interpolation_is_an_euler_step_without_attributes(mixture):
    """CFG++ with weight 0: clean estimate and noise are those of the unconditional field, the DDIM step is Euler's."""
    z, t, h = jr.normal(jr.key(0), (6, 2)), jnp.asarray(0.3), jnp.asarray(0.05)
    guided = guide(cells(mixture, 3, 6), Guidance(weight=0.0, schedule="plus_plus"))
    np.testing.assert_allclose(step(guided, z, t, h, "euler")[0], z + h * guided.null(z, t), rtol=1e-5, atol=1e-6)


def test_zero_star_scales_the_unconditional_field_to_the_conditional_one(mixture):
    z, t = jr.normal(jr.key(0), (6, 2)), jnp.asarray(0.3)
    guided = guide(cells(mixture, 3, 6), Guidance(weight=2.0, schedule="zero_star"))
    parts = guided.parts(z, t)
    s = jnp.sum(parts.base * parts.null, 1) / jnp.sum(parts.null**2, 1)
    expected = s[:, None] * parts.null + 2.0 * (parts.base - s[:, None] * parts.null)
    np.testing.assert_allclose(guided(z, t)[0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(guided(z, jnp.asarray(0.03))[0], jnp.zeros_like(z))


@pytest.mark.parametrize("schedule", ["constant", "interval", "zero_star", "rectified", "plus_plus"])
@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint", "rk4"])
def test_evaluations_are_those_of_the_formula(mixture, schedule, solver):
    weight = 0.5 if schedule == "plus_plus" else 2.0
    guided = guide(cells(mixture, 0, 3), Guidance(weight=weight, schedule=schedule))
    sampler = Sampler(solver=solver, n_steps=7)
    path = flow(guided, jr.normal(jr.key(0), (3, 2)), sampler)
    assert float(path.evaluations) == evaluations(guided, sampler)
    assert np.isfinite(path.z).all()


def test_evaluations_of_a_corrector_are_those_of_the_formula(mixture):
    guided = guide(cells(mixture, 0, 3), Guidance(weight=2.0))
    z = jr.normal(jr.key(0), (3, 2))

    def spent(**how):
        path = flow(guided, z, Sampler(solver="euler", n_steps=10, corrector=Corrector(**how)))
        return float(path.evaluations), int(path.reverse)

    # Nine of ten steps are corrected; two fields an evaluation, and one for G1.
    assert spent(iterations=3) == (20 + 9 * 2 * 4, 9 * 2 * 3)
    assert spent(objective="G1", iterations=2) == (20 + 9 * 3, 9 * 2)
    assert spent(objective="implicit", solver="picard", iterations=3) == (20 + 9 * 2 * 3, 0)
    assert spent(objective="prediction", iterations=2, window=(0.0, 0.55)) == (20 + 6 * 2 * 2, 0)
    assert spent(solver="gauss_newton", iterations=1) == (20 + 9 * 2 * (1 + 2 + 2), 0)


def test_no_iteration_is_the_plain_sampler_bit_for_bit(mixture):
    guided = guide(cells(mixture, 0, 9), Guidance())
    z = jr.normal(jr.key(0), (9, 2))
    plain = flow(guided, z, EULER)
    none = flow(guided, z, dataclasses.replace(EULER, corrector=Corrector(iterations=0)))
    np.testing.assert_array_equal(plain.z, none.z)


@pytest.mark.parametrize("solver", ["gradient", "gauss_newton"])
@pytest.mark.parametrize("objective", ["G1", "G2"])
def test_the_error_of_no_cell_rises(objective, solver):
    model = reference_mixture(10, seed=1).leaky(0.15, 1.25)
    n = 64
    guided = guide(cells(model, 1, n), Guidance(weight=3.0))
    z, t, h = jr.normal(jr.key(0), (n, 10)), jnp.asarray(0.4), jnp.asarray(0.05)
    moved = z + h * guided(z, t)[0]
    how = Corrector(objective=objective, solver=solver, iterations=4, rate=1.0)
    out = correct(how, guided, z, moved, t, t + h)
    assert (out.after <= out.before).all() and (out.after < out.before).mean() > 0.5
    away = np.linalg.norm(out.z - moved, axis=1)
    assert (away <= 0.5 * np.linalg.norm(moved - z, axis=1) * (1 + 1e-4)).all() and away.max() > 0

    def charge(x):
        v = guided.base(x, t + h) if objective == "G1" else guided(x, t + h)[0]
        return (t + h) ** 2 * jnp.sum((v - (moved - z) / h) ** 2, 1)

    np.testing.assert_allclose(out.before, charge(moved), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.after, charge(out.z), rtol=1e-4, atol=1e-5)


def test_a_gradient_step_goes_down_the_slope():
    """One small step is ``- rate s^2 J^T r``, by automatic differentiation of the objective."""
    model = reference_mixture(3, seed=1).leaky(0.15, 1.25)
    guided = guide(cells(model, 1, 5), Guidance(weight=3.0))
    z, t, h = jr.normal(jr.key(0), (5, 3)), jnp.asarray(0.4), jnp.asarray(0.05)
    moved = z + h * guided(z, t)[0]
    out = correct(Corrector(iterations=1, rate=1e-3, trust=10.0), guided, z, moved, t, t + h)

    def half_charge(x):
        return 0.5 * (t + h) ** 2 * jnp.sum((guided(x, t + h)[0] - (moved - z) / h) ** 2)

    # float32: a displacement of about 1e-4.
    np.testing.assert_allclose(out.z - moved, -1e-3 * jax.grad(half_charge)(moved), rtol=0.02, atol=2e-6)


@pytest.mark.parametrize("solver", ["picard", "anderson"])
def test_the_fixed_point_is_the_implicit_step(mixture, solver):
    guided = guide(cells(mixture, 1, 6), Guidance(weight=1.5))
    z, t, h = jr.normal(jr.key(0), (6, 2)), jnp.asarray(0.3), jnp.asarray(0.02)
    moved = z + h * guided(z, t)[0]
    how = Corrector(objective="implicit", solver=solver, iterations=30)
    x = correct(how, guided, z, moved, t, t + h).z
    np.testing.assert_allclose(x, z + h * guided(x, t + h)[0], atol=1e-5)


def test_correction_vanishes_with_the_step(mixture):
    """The exact model without guidance agrees with itself: what is corrected is the error of the step."""
    guided = guide(cells(mixture, 1, 200), Guidance())
    z, t = mixture.sample(jnp.full((200, 1), 1), key=jr.key(0)) * 0.5 + 0.5 * jr.normal(jr.key(1), (200, 2)), 0.5
    away = []
    for h in (0.1, 0.05, 0.025):
        moved = z + h * guided(z, jnp.asarray(t))[0]
        out = correct(Corrector(), guided, z, moved, jnp.asarray(t), jnp.asarray(t + h))
        away.append(float(jnp.linalg.norm(out.z - moved, axis=1).mean()))
    assert away[0] > 1.5 * away[1] > 2.2 * away[2]


def test_cells_of_a_batch_do_not_see_one_another(mixture):
    n = 16
    labels = jr.randint(jr.key(2), (n, 1), 0, 4)
    z, order = jr.normal(jr.key(0), (n, 2)), np.random.default_rng(0).permutation(n)
    how = Sampler(solver="heun", n_steps=5, corrector=Corrector())
    guidance = Guidance(weight=2.0)
    one = flow(guide(Told(mixture, labels), guidance), z, how).z
    two = flow(guide(Told(mixture, labels[order]), guidance), z[order], how).z
    np.testing.assert_allclose(one[order], two, rtol=1e-4, atol=1e-5)


class Counted(AbstractField):
    """A field that notes when it is traced."""

    of: GaussianMixture
    traces: list = eqx.field(static=True)

    @property
    def n_attributes(self) -> int:
        return 1

    @property
    def dim(self) -> int:
        return 2

    def __call__(self, z, t, labels, known, depth=None):
        self.traces.append(1)
        return self.of(z, t, labels, known)

    def __hash__(self):
        return 0

    def __eq__(self, other):
        return self is other


def test_all_weights_and_windows_share_one_program(mixture):
    field = Counted(mixture, [])
    z = jr.normal(jr.key(0), (7, 2))
    for i, (weight, window) in enumerate(((2.0, (0.1, 0.5)), (3.5, (0.1, 0.5)), (3.5, (0.0, 0.9)))):
        flow(guide(cells(field, 0, 7), Guidance(weight=weight, schedule="interval", window=window)), z, EULER)
        if i == 0:
            first = len(field.traces)
    assert first > 0 and len(field.traces) == first


@pytest.mark.parametrize("interaction", [0.0, 1.0])
def test_composition_is_right_where_attributes_add_up(interaction):
    """Two binary attributes in four dimensions: composed cells are the truth for additive means only."""
    rng = np.random.default_rng(0)
    first, second = 1.5 * rng.normal(size=(2, 1, 4)), 1.5 * rng.normal(size=(1, 2, 4))
    joint = first + second + interaction * np.asarray([[1.0, -1.0], [-1.0, 1.0]])[:, :, None]
    field = CompositeMixture(jnp.asarray(joint, jnp.float32), 0.5)
    n = 2000
    labels = jnp.ones((n, 2), int)
    z, truth = jr.normal(jr.key(0), (n, 4)), field.sample(labels, key=jr.key(1))
    how = Sampler(solver="heun", n_steps=40)
    cells = {kind: flow(guide(Told(field, labels), Guidance(combine=kind)), z, how).z for kind in ("joint", "compose")}
    found = {kind: float(distance(x, truth)) for kind, x in cells.items()}
    spread = float(cells["compose"].var(0).sum() / truth.var(0).sum())
    assert abs(found["joint"]) < 0.01
    if interaction == 0:
        assert found["compose"] < 0.01 and spread < 1.3
    else:
        assert found["compose"] > 0.2 and spread > 2


def test_settings_that_contradict_one_another_are_refused(mixture):
    with pytest.raises(ConfigError, match="turn it round"):
        Guidance(window=(0.6, 0.2))
    with pytest.raises(ConfigError, match="0 to 1"):
        Guidance(schedule="plus_plus", weight=2.0)
    with pytest.raises(ConfigError, match="no fixed steps to correct"):
        Sampler(solver="dopri5", corrector=Corrector())
    guided = guide(cells(mixture, 0, 3), Guidance(weight=2.0, schedule="rectified"))
    for how in ({"sampler": Sampler(solver="tsit5")}, {"sampler": EULER, "backward": True}):
        with pytest.raises(ConfigError, match="steps of its own"):
            flow(guided, jnp.zeros((3, 2)), **how)
