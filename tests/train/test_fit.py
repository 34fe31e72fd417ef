"""The loop: what it computes, what it keeps, when it stops."""

import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from toy import KEY, LOOP, State, start, step, validate

from cellgap.errors import ConfigError, ConvergenceError
from cellgap.settings import from_dict, to_dict
from cellgap.train import FitResult, Loop, fit


def equal(first: State, second: State) -> None:
    for one, two in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.fixture(scope="module")
def plain() -> tuple[list[State], list[float]]:
    """State before the first step and after every one, and every loss, of a plain loop."""
    one = jax.jit(step)
    states, losses = [start()], []
    for i in range(LOOP.n_steps):
        state, logs = one(states[-1], jr.fold_in(jr.key(KEY), i))
        states.append(state)
        losses.append(float(logs["loss"]))
    return states, losses


def test_fit_is_a_plain_loop_bit_for_bit(plain):
    states, losses = plain
    done = fit(step, start(), key=jr.key(KEY), loop=LOOP)
    equal(done.state, states[-1])
    equal(done.best, done.state)
    assert done.stopped == "finished" and done.best_step == 60
    assert [row["step"] for row in done.history] == [10, 20, 30, 40, 50, 60]
    for i, row in enumerate(done.history):
        assert row.keys() == {"step", "loss", "first"}
        np.testing.assert_allclose(row["loss"], np.mean(losses[10 * i : 10 * (i + 1)]), rtol=1e-6)
    assert done.history[-1]["loss"] < 0.1 * done.history[0]["loss"]


def test_a_chunk_that_does_not_divide_the_steps_and_one_longer_than_the_run(plain):
    states, _ = plain
    done = fit(step, start(), key=jr.key(KEY), loop=Loop(n_steps=25, chunk=10))
    equal(done.state, states[25])
    assert [row["step"] for row in done.history] == [10, 20, 25]
    longer = fit(step, start(), key=jr.key(KEY), loop=Loop(n_steps=5, chunk=100))
    equal(longer.state, states[5])
    assert [row["step"] for row in longer.history] == [5]


def test_a_start_of_weakly_typed_numbers_is_one_program_for_all_chunks():
    """``jnp.full(2, 0.5)`` gives way to other types, the sum with an array does not: a second type is compiled anew."""
    traced: dict[str, int] = {"step": 0, "validate": 0}

    def halved(state, key):
        traced["step"] += 1
        return state * jnp.ones(2) / 2, {"loss": jnp.sum(state)}

    def judged(state):
        traced["validate"] += 1
        return {"valid": jnp.sum(state)}

    begin = jnp.full(2, 0.5)
    assert begin.weak_type
    done = fit(halved, begin, key=jr.key(0), loop=Loop(n_steps=6, chunk=2, valid_every=2), validate=judged)
    np.testing.assert_array_equal(done.state, [0.5**7] * 2)
    assert traced == {"step": 1, "validate": 1}


def test_another_key_another_run(plain):
    done = fit(step, start(), key=jr.key(KEY + 1), loop=LOOP)
    assert np.abs(done.state.weights - plain[0][-1].weights).max() > 1e-4


def test_validation_comes_before_the_first_step_and_the_best_state_is_kept(plain):
    states, _ = plain
    done = fit(step, start(), key=jr.key(KEY), loop=LOOP, validate=validate)
    assert done.history[0] == {"step": 0.0, "valid": 14.0}
    validated = {row["step"]: row["valid"] for row in done.history if "valid" in row}
    assert list(validated) == [0, 20, 40, 60]
    for at, value in validated.items():
        np.testing.assert_allclose(value, validate(states[int(at)])["valid"], rtol=1e-6)
    best = min(validated, key=lambda at: validated[at])
    assert done.best_step == best > 0
    equal(done.best, states[int(best)])
    equal(done.state, states[60])


def test_a_start_that_training_does_not_improve_is_kept():
    def away(state, key):
        return step(state._replace(weights=state.weights + 1.0), key)

    truth = State(jnp.asarray([1.0, -2.0, 3.0]), jnp.zeros(3))
    done = fit(away, truth, key=jr.key(KEY), loop=LOOP, validate=validate)
    assert done.best_step == 0 and done.stopped == "finished"
    equal(done.best, truth)
    assert validate(done.state)["valid"] > 1


def count(state: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Count the steps; the state after step i is i."""
    return state + 1, {"loss": 0.0 * state}


def looked_up(values) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Return the validation that gives a value for every tenth step of `count`."""
    table = jnp.asarray(values)
    return lambda state: {"valid": table[state.astype(int) // 10]}


def counted(loop: Loop, values) -> FitResult[jax.Array]:
    return fit(count, jnp.float32(0), key=jr.key(0), loop=loop, validate=looked_up(values))


@pytest.mark.parametrize(
    ("patience", "stopped", "last", "best"),
    [(1, "early", 20, 10), (2, "early", 30, 10), (3, "early", 70, 40), (None, "finished", 90, 80)],
)
def test_patience_counts_validations_without_a_better_one(patience, stopped, last, best):
    values = [9.0, 5.0, 6.0, 5.0, 4.0, 4.0, 4.5, 5.0, 3.0, 8.0]
    done = counted(Loop(n_steps=90, chunk=10, valid_every=10, patience=patience), values)
    assert (done.stopped, float(done.state), done.best_step, float(done.best)) == (stopped, last, best, best)
    assert done.history[-1]["step"] == last


def test_validations_are_due_at_the_next_whole_chunk_and_at_the_end():
    done = counted(Loop(n_steps=65, chunk=10, valid_every=15), [1.0] * 8)
    assert [row["step"] for row in done.history if "valid" in row] == [0, 20, 30, 50, 60, 65]


def test_an_improvement_within_the_noise_over_folds_is_none():
    start, noisy, clear = [2.0, 2.0, 2.0], [1.0, 3.0, 1.8], [1.9, 1.8, 1.9]
    done = counted(Loop(n_steps=10, chunk=10), [start, noisy])
    assert done.best_step == 0
    np.testing.assert_allclose([row["valid"] for row in done.history], [2.0, 5.8 / 3], rtol=1e-6)
    assert counted(Loop(n_steps=10, chunk=10), [start, clear]).best_step == 10


def failing(at: int):
    """Return `step` with a loss that is NaN at one step."""

    def broken(state, key):
        state, logs = step(state, key)
        wrong = jnp.all(jr.key_data(key) == jr.key_data(jr.fold_in(jr.key(KEY), at - 1)))
        return state, logs | {"loss": jnp.where(wrong, jnp.nan, logs["loss"])}

    return broken


def test_a_loss_that_is_not_finite_names_its_step_and_leaves_the_last_checkpoint(tmp_path, plain):
    with pytest.raises(ConvergenceError, match=r"loss is nan at step 47\b.*learning_rate"):
        fit(failing(47), start(), key=jr.key(KEY), loop=LOOP, folder=tmp_path)
    healed = fit(step, start(), key=jr.key(KEY), loop=LOOP, folder=tmp_path)
    equal(healed.state, plain[0][-1])
    assert [row["step"] for row in healed.history] == [10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("at", [0, 20])
def test_a_validation_that_is_not_finite_is_refused(at):
    values = [jnp.nan if 10 * i == at else 1.0 / (1 + i) for i in range(4)]
    with pytest.raises(ConvergenceError, match=rf"valid is nan at step {at};"):
        counted(Loop(n_steps=30, chunk=10, valid_every=10), values)


def test_the_bar_is_drawn_on_standard_error_only_and_only_if_asked(capfd):
    loop = Loop(n_steps=10, chunk=10)
    fit(count, jnp.float32(0), key=jr.key(0), loop=loop)
    assert capfd.readouterr() == ("", "")
    fit(count, jnp.float32(0), key=jr.key(0), loop=loop, progress=True, title="my map")
    out, err = capfd.readouterr()
    assert out == "" and "my map" in err and "10/10" in err and "loss 0" in err


def test_settings_of_the_loop_are_checked_and_written():
    for wrong in ({"n_steps": 0}, {"chunk": 0}, {"valid_every": 0}, {"patience": 0}, {"checkpoint_every": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Loop(**wrong)
    with pytest.raises(ConfigError, match="did you mean 'n_steps'"):
        Loop(n_step=3)  # pyright: ignore[reportCallIssue]
    for loop in (Loop(), Loop(n_steps=3, patience=2)):
        assert from_dict(json.loads(json.dumps(to_dict(loop)))) == loop
