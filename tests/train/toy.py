"""A small problem to train: a line through noisy points, with momentum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from cellgap.train import Loop


class State(NamedTuple):
    weights: jax.Array
    velocity: jax.Array


def start() -> State:
    return State(jnp.zeros(3), jnp.zeros(3))


def step(state: State, key: jax.Array) -> tuple[State, dict[str, jax.Array]]:
    """Move towards (1, -2, 3) by the gradient on a random batch."""
    numbers = jr.normal(key, (8, 4))
    x, noise = numbers[:, :3], numbers[:, 3]
    y = x @ jnp.asarray([1.0, -2.0, 3.0]) + 0.1 * noise
    error = x @ state.weights - y
    velocity = 0.9 * state.velocity - 0.02 * x.T @ error / 8
    return State(state.weights + velocity, velocity), {"loss": jnp.mean(error**2), "first": state.weights[0]}


def validate(state: State) -> dict[str, jax.Array]:
    return {"valid": jnp.sum((state.weights - jnp.asarray([1.0, -2.0, 3.0])) ** 2)}


LOOP = Loop(n_steps=60, chunk=10, valid_every=20, checkpoint_every=20)
KEY = 7
