"""Flow matching: its loss, its solver, what it learns on Gaussians, guidance, and the same bits whatever happens."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import tomli_w
from small import FULL, RAW, OneHot, at, screen, study_of, vehicle

import cellgap
from cellgap.errors import ConfigError, ConvergenceError, StorageError
from cellgap.nn import VelocityNet
from cellgap.settings import from_dict, to_dict
from cellgap.study import Role, split
from cellgap.train import Loop
from cellgap.transport import Codes, FittedFlow, FlowMatching, Gaussian, Optimization, load
from cellgap.transport._affine import fit_affine_path
from cellgap.transport._train_flow import Encoded, batch_sizes, draw_batch, evaluations, integrate, matching_loss, move
from cellgap.transport._training_data import training_problem

QUICK = Optimization(
    loop=Loop(n_steps=30, chunk=5, valid_every=10, checkpoint_every=10), batch_size=16, learning_rate=1e-2, ema=0.9
)
NETWORK: dict[str, Any] = {"time": (4,), "data": (8,), "decoder": (8, 8), "embedding": 4, "frequencies": 3}
MODEL = FlowMatching(
    RAW, FULL, condition_dropout=0.2, n_ode_steps=4, optimization=QUICK, **NETWORK
)  # fmt: skip


def codes_of() -> Codes:
    return Codes.of(split.unseen_dose(screen(), 100, treatments="cora", min_cells=1), RAW, FULL)


@pytest.fixture(scope="module")
def codes() -> Codes:
    return codes_of()


@pytest.fixture(scope="module")
def fitted(codes) -> FittedFlow:
    return MODEL.fit_codes(codes, key=jr.key(1))


def cells(n: int = 20) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)


def same(found: FittedFlow, expected: FittedFlow) -> None:
    """Assert that two fits are one, bit for bit."""
    for one, two in zip(jax.tree.leaves(found.net), jax.tree.leaves(expected.net), strict=True):
        np.testing.assert_array_equal(one, two)
    assert found.history == expected.history and found.best_step == expected.best_step
    for condition in (at("cora", 100), at(["anti", "beta"], 100, "L2")):
        np.testing.assert_array_equal(found.transport(cells(), condition), expected.transport(cells(), condition))


def test_what_a_fit_leaves(fitted, codes):
    assert fitted.name == "flow matching" and fitted.stopped == "finished"
    assert [row["step"] for row in fitted.history if "valid" in row] == [0, 10, 20, 30]
    assert {"loss", "plan_iterations", "plan_error", "learning_rate"} <= fitted.history[1].keys()
    assert fitted.history[-1]["loss"] < fitted.history[1]["loss"]
    assert fitted.history[-1]["valid"] < fitted.history[0]["valid"]
    monge, spread, integration = fitted.gaps()
    assert (monge.name, spread.name, integration.name) == ("Monge gap", "spread gap", "integration gap")
    assert monge.value >= 0 and 0 < integration.value < 0.1
    assert "epsilon" in monge.remedy and "noise" in spread.remedy and "n_ode_steps" in integration.remedy
    assert fitted.n_evaluations == 8
    moved = fitted.transport(codes.cells(vehicle(), Role.SOURCE), at("cora", 100))
    assert moved.dtype == np.float32 and np.isfinite(moved).all()


def test_controls_stay_bit_for_bit_under_any_guidance(fitted):
    z = cells()
    for weight in (1.0, 0.0, 2.5):
        guided = dataclasses.replace(fitted, guidance_weight=weight)
        for line in ("L1", "L2"):
            np.testing.assert_array_equal(guided.transport(z, vehicle(line)), z)
    noisy = dataclasses.replace(fitted, noise=0.5)
    np.testing.assert_array_equal(noisy.transport(z, vehicle()), z)


def test_the_order_of_treatments_is_irrelevant(fitted):
    pair = fitted.transport(cells(), at(["anti", "beta"], 100))
    np.testing.assert_array_equal(fitted.transport(cells(), at(["beta", "anti"], 100)), pair)


def test_the_loss_at_rest_is_the_mean_squared_displacement_of_the_pairs():
    rng = np.random.default_rng(0)
    x0, x1 = (jnp.asarray(rng.normal(size=(12, 3)) + shift, jnp.float32) for shift in (0.0, 2.0))
    t = jnp.asarray(rng.random(12), jnp.float32)
    net = jax.tree.map(jnp.zeros_like, network())
    told = Encoded(jnp.ones((1, 2)), jnp.ones(1, bool), jnp.zeros(0))
    squared = ((np.asarray(x1, float) - np.asarray(x0, float)) ** 2).mean(1)
    assert matching_loss(net, x0, x1, t, told, None, None) == pytest.approx(squared.mean(), rel=1e-5)
    weights = jnp.where(jnp.arange(12) < 5, 0.2, 0.0)
    broken = x1.at[7].set(jnp.nan)
    assert matching_loss(net, x0, broken, t, told, None, weights) == pytest.approx(squared[:5].mean(), rel=1e-5)


def network() -> VelocityNet:
    return VelocityNet(3, 2, 0, **NETWORK, modulation="film", pooling="mean", key=jr.key(0))


def test_the_loss_is_taken_on_the_line_between_the_pair():
    """A network that returns the cells themselves (no condition, no time) has the loss of that function."""
    seen = {}

    def net(x, t, *told):
        seen["x"], seen["t"] = x, t
        return x

    x0, x1 = jnp.asarray([[0.0, 0.0, 4.0]]), jnp.asarray([[1.0, 2.0, 0.0]])
    t = jnp.asarray([0.25])
    loss = matching_loss.__wrapped__(net, x0, x1, t, Encoded(x0, x0, x0), None, None)
    np.testing.assert_allclose(seen["x"], [[0.25, 0.5, 3.0]])
    assert loss == pytest.approx(((0.25 - 1) ** 2 + (0.5 - 2) ** 2 + (3 + 4) ** 2) / 3)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2)])
def test_solvers_have_their_order(solver, order):
    x = jnp.asarray([[1.0, -2.0]])

    def error(n: int) -> float:
        # dx/dt = x + t has the solution (x0 + 1) e^t - t - 1.
        found = integrate(lambda x, t: x + t, x, n, solver)
        return float(np.abs(np.asarray(found) - ((np.asarray(x) + 1) * np.e - 2)).max())

    assert error(8) / error(16) == pytest.approx(2.0**order, rel=0.15)


def test_how_often_the_network_is_evaluated():
    assert [evaluations(20, solver, 1.0) for solver in ("heun", "midpoint", "euler")] == [40, 40, 20]
    assert [evaluations(10, "euler", weight) for weight in (0.0, 1.0, 1.5)] == [10, 10, 20]


def test_guidance_is_linear_between_the_field_of_all_and_that_of_the_condition(fitted):
    """One step of Euler shows the field itself."""
    coded = fitted.encoder.encode_many([at("anti", 1000)])
    told = Encoded(*(jnp.asarray(part[0]) for part in (coded.entities, coded.mask, coded.context)))
    x = jnp.asarray(cells())

    def step(weight: float) -> np.ndarray:
        moved = move(fitted.net, x, told, n_ode_steps=1, solver="euler", guidance_weight=weight)
        return np.asarray(moved - x)

    start = jnp.zeros(1)
    np.testing.assert_allclose(step(1.0), fitted.net(x, start, *told), atol=1e-5)
    np.testing.assert_allclose(step(0.0), fitted.net(x, start, *told, jnp.zeros(1, bool)), atol=1e-5)
    assert np.abs(step(1.0) - step(0.0)).max() > 0.05
    np.testing.assert_allclose(step(3.0), step(0.0) + 3 * (step(1.0) - step(0.0)), atol=1e-4)


def test_without_its_condition_every_treatment_is_the_same(fitted):
    free = dataclasses.replace(fitted, guidance_weight=0.0)
    one = free.transport(cells(), at("anti", 1000))
    np.testing.assert_allclose(free.transport(cells(), at("beta", 10, "L2")), one, atol=1e-6)
    assert np.abs(fitted.transport(cells(), at("anti", 1000)) - one).max() > 0.02


def test_batches_are_cells_of_their_condition_without_repeats(codes):
    conditions = codes.split.train_conditions
    problem = training_problem(codes, conditions, Role.TRAIN, fit_affine_path(codes, "identity"))
    sizes = np.asarray(batch_sizes(problem))
    k = int(np.argmin(sizes))
    n = int(sizes[k]) + 3
    for padded in (True, False):
        size = int(sizes[k]) if padded else 5
        batch = draw_batch(problem, jnp.int32(k), jr.key(0), n if padded else size, padded=padded)
        sets = codes.cells(conditions[k].control, Role.TRAIN), codes.cells(conditions[k], Role.TRAIN)
        for drawn, known in zip((batch.x[:size], batch.y[:size]), sets, strict=True):
            rows = {tuple(row) for row in np.asarray(drawn)}
            assert len(rows) == size and rows <= {tuple(row) for row in known}
    assert batch.weights is None
    weights = draw_batch(problem, jnp.int32(k), jr.key(0), n, padded=True).weights
    np.testing.assert_allclose(weights, np.where(np.arange(n) < sizes[k], 1 / sizes[k], 0), rtol=1e-6)


def gaussians(n: int = 600) -> Codes:
    """Two drugs that scale, shear and shift normal cells."""
    rng = np.random.default_rng(0)
    a = np.array([[1.6, 0.4], [0.4, 0.8]])
    effects = {"up": (a, [3.0, 1.0]), "down": (np.eye(2) * 0.6, [-2.0, 2.0])}
    x = [rng.normal(size=(2 * n, 2))]
    labels = [("vehicle", 0.0, "L1")] * (2 * n)
    for drug, (scale, shift) in effects.items():
        x.append(rng.normal(size=(n, 2)) @ scale + shift)
        labels += [(drug, 1.0, "L1")] * n
    made = split.in_distribution(study_of(labels, np.concatenate(x)), min_cells=1)
    return Codes.of(made, RAW, OneHot())


def test_gaussians_are_mapped_onto_one_another_with_their_spread():
    codes = gaussians()
    steps = Optimization(
        loop=Loop(n_steps=1000, chunk=100, valid_every=1000), batch_size=256, learning_rate=2e-3, ema=0.99
    )
    model = FlowMatching(
        RAW, OneHot(), time=(8,), data=(32,), decoder=(32, 32), embedding=8, frequencies=3, optimization=steps
    )
    fitted = model.fit_codes(codes, key=jr.key(0))
    exact = Gaussian(RAW, OneHot()).fit_codes(codes)
    z = np.random.default_rng(1).normal(size=(2000, 2)).astype(np.float32)
    for condition in codes.split.train_conditions:
        moved, y, best = (
            fitted.transport(z, condition),
            codes.cells(condition, Role.TRAIN),
            exact.transport(z, condition),
        )
        shift = np.linalg.norm(y.mean(0) - z.mean(0))
        assert np.linalg.norm(moved.mean(0) - y.mean(0)) < 0.03 * shift
        assert 0.9 < moved.var(0).sum() / y.var(0).sum() < 1.1
        # The sample of controls is not round, so the exact map of their moments is what to compare with.
        assert 0.95 < moved.var(0).sum() / best.var(0).sum() < 1.05
        np.testing.assert_allclose(np.cov(moved.T), np.cov(best.T), atol=0.05 * y.var(0).max())
        # Not only the right cloud: each cell goes where the optimal map takes it.
        assert ((moved - best) ** 2).sum(1).mean() < 0.01 * y.var(0).sum()
    assert fitted.gaps()[0].value < 0.05 * shift**2


def test_noise_adds_the_spread_that_controls_lack():
    """Controls at one point: a map leaves them there, a flow that starts with noise spreads them."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(200, 2)) * 0.01, rng.normal(size=(200, 2)) + 3.0])
    labels = [("vehicle", 0.0, "L1")] * 200 + [("up", 1.0, "L1")] * 200
    codes = Codes.of(split.in_distribution(study_of(labels, x), min_cells=1), RAW, OneHot())
    steps = Optimization(loop=Loop(n_steps=300, chunk=100, valid_every=300), batch_size=64, learning_rate=5e-3, ema=0.9)
    small: dict[str, Any] = {"time": (8,), "data": (16,), "decoder": (16,), "embedding": 4, "frequencies": 3}
    # In units of the root mean variance of both populations: a standard deviation of 1.
    model = FlowMatching(RAW, OneHot(), noise=1.4, optimization=steps, **small)
    fitted = model.fit_codes(codes, key=jr.key(0))
    condition, z = at("up", 1.0), codes.cells(vehicle())
    moved = fitted.transport(z, condition)
    assert 0.5 < moved.var(0).sum() / codes.cells(condition).var(0).sum() < 1.5
    np.testing.assert_array_equal(fitted.transport(z, condition), moved)
    quiet = dataclasses.replace(fitted, noise=0.0).transport(z, condition)
    assert quiet.var(0).sum() < 0.1 * moved.var(0).sum()


def test_a_gaussian_start_is_the_gaussian_map_until_something_is_learned(codes):
    model = dataclasses.replace(MODEL, start="gaussian", condition_dropout=0.0)
    fitted = model.fit_codes(codes, key=jr.key(0))
    still = dataclasses.replace(fitted, net=jax.tree.map(jnp.zeros_like, fitted.net))
    exact = Gaussian(RAW, FULL).fit_codes(codes)
    for condition in (at("anti", 1000), at("cora", 100, "L2")):
        np.testing.assert_allclose(
            still.transport(cells(), condition), exact.transport(cells(), condition), rtol=1e-3, atol=1e-3
        )


def test_the_same_key_gives_the_same_bits_and_another_key_another_map(fitted, codes):
    same(MODEL.fit(codes.split, key=jr.key(1)), fitted)
    other = MODEL.fit_codes(codes, key=jr.key(2))
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(other.net), jax.tree.leaves(fitted.net), strict=True))


def test_a_stopped_run_is_resumed_bit_for_bit(fitted, codes, tmp_path, monkeypatch):
    from cellgap.transport import _train_flow

    class Stopped(Exception):
        pass

    started = _train_flow.fit

    def stopping(step, state, *, validate, **options):
        def until_twenty(state):
            if int(state.count) == 20:
                raise Stopped
            return validate(state)

        # Not compiled, so that it can stop the run; the numbers are those of the compiled one.
        monkeypatch.setattr("cellgap.train._fit.eqx.filter_jit", keep_plain(until_twenty))
        return started(step, state, validate=until_twenty, **options)

    def keep_plain(function):
        compiled = __import__("equinox").filter_jit

        def jit(f=None, **options):
            if f is not None and getattr(f, "__name__", "") == "_call":
                return f
            return compiled(f, **options) if f is not None else compiled(**options)

        return jit

    with monkeypatch.context() as patched:
        patched.setattr(_train_flow, "fit", stopping)
        with pytest.raises(Stopped):
            MODEL.fit_codes(codes, key=jr.key(1), folder=tmp_path)
    assert (tmp_path / "checkpoint.eqx").exists()
    monkeypatch.undo()
    same(MODEL.fit_codes(codes, key=jr.key(1), folder=tmp_path), fitted)
    with pytest.raises(StorageError, match="another run"):
        dataclasses.replace(MODEL, epsilon=0.1).fit_codes(codes, key=jr.key(1), folder=tmp_path)


def test_a_fit_on_disk_predicts_the_same_bits(fitted, codes, tmp_path: Path):
    fitted.save(tmp_path, header={"settings": to_dict(MODEL)})
    back = load(tmp_path)
    assert isinstance(back, FittedFlow)
    same(back, fitted)
    assert back.gaps() == fitted.gaps() and back.n_evaluations == fitted.n_evaluations
    source = codes.split.study.adata[codes.rows(vehicle("L2"), Role.SOURCE)]
    one, two = (model.predict(source, "cora@100 | L2") for model in (fitted, back))
    np.testing.assert_array_equal(one.X, two.X)


@pytest.mark.parametrize("model", [MODEL, FlowMatching.reference(RAW, FULL), cellgap.FlowMatching(RAW, FULL)])
def test_settings_survive_a_file(model):
    assert from_dict(tomllib.loads(tomli_w.dumps(to_dict(model)))) == model


def test_the_published_settings():
    model = FlowMatching.reference(RAW, FULL, n_ode_steps=7)
    assert (model.time, model.data, model.decoder, model.embedding) == ((2048,) * 3, (2048,) * 3, (4096,) * 3, 256)
    assert model.epsilon == 1.0 and model.optimization.batch_size == 1024 and model.n_ode_steps == 7


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"guidance_weight": 2.0}, r"guidance_weight=2\) needs the field without a condition.*condition_dropout=0.1"),
        ({"epsilon": 0.0}, r"epsilon=.*greater than 0"),
        ({"condition_dropout": 1.0}, r"condition_dropout=.*less than 1"),
        ({"n_ode_steps": 0}, "n_ode_steps="),
        ({"solver": "rk4"}, "solver=.*'heun'"),
        ({"decoder": ()}, "decoder="),
        ({"nosie": 1.0}, "no setting 'nosie': did you mean 'noise'"),
    ],
)
def test_wrong_settings_are_refused(wrong, says):
    with pytest.raises(ConfigError, match=says) as error:
        FlowMatching(RAW, FULL, **wrong)
    assert "\n" not in str(error.value)


def test_divergence_is_named(codes):
    wild = dataclasses.replace(QUICK, learning_rate=1e30, clip=None)
    with pytest.raises(ConvergenceError, match=r"training diverged: .* lower learning_rate"):
        dataclasses.replace(MODEL, optimization=wild).fit_codes(codes, key=jr.key(0))
