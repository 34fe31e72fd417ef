"""Convex functions of cells: input-convex networks, and the quadratic functions whose gradients are affine maps."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from cellgap.storage import storable

ConvexActivation = Literal["softplus", "leaky_relu"]
_SLOPE = 0.2


def activate(x: Array, activation: ConvexActivation) -> Array:
    """Return a convex, increasing function of `x`: softplus, or leaky ReLU of slope 0.2 as published."""
    return jax.nn.softplus(x) if activation == "softplus" else jax.nn.leaky_relu(x, _SLOPE)


def potential_gradient(
    potential: Callable[[Float[Array, "n d"]], Float[Array, " n"]], x: Float[Array, "n d"]
) -> Float[Array, "n d"]:
    """Return the gradient of a potential at every row: where an optimal map takes the cell."""
    return jax.grad(lambda rows: jnp.sum(potential(rows)))(x)


@storable
class Quadratic(eqx.Module):
    """The convex function ``|(x - center) root|^2 / 2 + x . slope``; its gradient is an affine map.

    ``T(x) = (x - center) root root^T + slope``: with `root` a square root of the Bures matrix, `center` the mean of the
    controls and `slope` that of the treated cells, the optimal map between two Gaussians.
    """

    center: Float[Array, "*k d"]
    root: Float[Array, "*k d d"]
    slope: Float[Array, "*k d"]

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Return the value at every row."""
        return 0.5 * jnp.sum(((x - self.center) @ self.root) ** 2, 1) + x @ self.slope


@storable
class ICNN(eqx.Module):
    """A convex function of cells: a network whose hidden-to-hidden weights are non-negative.

    ``z_1 = act(x W_0 + b_0)^2``, ``z_(l+1) = act(z_l Z_l + x W_l + b_l)``, value ``z_L Z_L + x W_L + b_L``, with `act`
    convex and increasing (the square of a convex function that is a softplus, or a leaky ReLU, is convex).

    Parameters
    ----------
    inputs, offsets
        ``W`` and ``b`` of every layer, the value's last.
    hidden
        ``Z`` of every layer after the first.
    activation
        ``"softplus"`` has a smooth gradient; ``"leaky_relu"`` is the published one.

    Notes
    -----
    Source: Amos, Xu and Kolter 2017; square and activations as in CellOT (Bunne et al. 2023).
    """

    inputs: tuple[Float[Array, "d _"], ...]
    offsets: tuple[Float[Array, " _"], ...]
    hidden: tuple[Float[Array, "_ _"], ...]
    activation: ConvexActivation = eqx.field(static=True)

    @classmethod
    def draw(
        cls, n_latent: int, *, widths: Sequence[int], activation: ConvexActivation, flat: bool, key: PRNGKeyArray
    ) -> "ICNN":
        """Return a network of random weights.

        Parameters
        ----------
        n_latent
            Dimension of cells.
        widths
            Widths of the hidden layers.
        activation
            See the class.
        flat
            Start at the function 0 (weights of unit scale below a last layer of zeros); else draw every weight from
            uniform(0, 0.1), as published.
        key
            Random key of the weights.
        """
        sizes = [*widths, 1]
        keys = iter(jr.split(key, 2 * len(sizes)))
        if flat:
            inputs = [jr.normal(next(keys), (n_latent, n)) / jnp.sqrt(n_latent) for n in sizes[:-1]]
            hidden = [convex_weight(next(keys), a, b) for a, b in pairwise(widths)]
            inputs, hidden = [*inputs, jnp.zeros((n_latent, 1))], [*hidden, jnp.zeros((sizes[-2], 1))]
        else:
            inputs = [jr.uniform(next(keys), (n_latent, n), maxval=0.1) for n in sizes]
            hidden = [jr.uniform(next(keys), pair, maxval=0.1) for pair in pairwise(sizes)]
        return cls(tuple(inputs), tuple(jnp.zeros(n) for n in sizes), tuple(hidden), activation)

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Return the value at every row."""
        z = activate(x @ self.inputs[0] + self.offsets[0], self.activation) ** 2
        for w, b, weight in zip(self.inputs[1:-1], self.offsets[1:-1], self.hidden[:-1], strict=True):
            z = activate(z @ weight + x @ w + b, self.activation)
        return (z @ self.hidden[-1] + x @ self.inputs[-1] + self.offsets[-1])[:, 0]

    def at(self, condition: Float[Array, " p"]) -> "ICNN":
        """Return this function: it is the same under every condition."""
        return self

    def clamped(self) -> "ICNN":
        """Return the function with negative hidden-to-hidden weights set to 0, so that it is convex."""
        return eqx.tree_at(lambda net: net.hidden, self, tuple(jnp.maximum(w, 0.0) for w in self.hidden))

    def negativity(self) -> Float[Array, ""]:
        """Return the Frobenius norms of the negative parts of hidden-to-hidden weights, summed: 0 where convex."""
        return negativity(self.hidden)


def negativity(weights: Sequence[Array]) -> Float[Array, ""]:
    """Return the Frobenius norms of the negative parts, summed; the gradient is 0 where there are none."""
    squares = jnp.stack([jnp.sum(jnp.minimum(w, 0.0) ** 2) for w in weights])
    return jnp.sum(jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0))


def convex_weight(key: PRNGKeyArray, n_in: int, n_out: int) -> Float[Array, "n_in n_out"]:
    """Return non-negative weights whose columns sum to 1 on average, so that layers neither grow nor fade."""
    return jr.uniform(key, (n_in, n_out), maxval=2.0 / n_in)
