"""A law in standardized units: production by a network, decay, and for second order a velocity."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from cellgap.nn import MLP, AbstractLawNet, drawn, settled
from cellgap.storage import storable


@storable
class Units(eqx.Module):
    """Between the units of the data and those in which laws are learnt.

    Parameters
    ----------
    center, spread
        Of every variable.
    clock
        Time of the data that is one unit.
    """

    center: Float[np.ndarray, " d"]
    spread: Float[np.ndarray, " d"]
    clock: float

    def inward(self, x: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
        """Return values in standardized units."""
        return ((np.asarray(x, np.float64) - self.center) / self.spread).astype(np.float32)

    def outward(self, z: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
        """Return values in the units of the data."""
        return np.asarray(z, np.float64) * self.spread + self.center


class Acting(NamedTuple):
    """What an intervention does to a law; None: nothing.

    Parameters
    ----------
    moving
        0 where a variable is held, (n, d).
    dose
        Factor on the production of every variable, (n, d).
    """

    moving: Float[Array, "n d"] | None = None
    dose: Float[Array, "n d"] | None = None


NOTHING_DONE = Acting()


@storable
class Law(eqx.Module):
    """``dx/dt = g(x, u) - softplus(a) x``; of second order ``dx/dt = v``, ``dv/dt = g(x, v, u) - softplus(a) v``.

    Parameters
    ----------
    net
        The production ``g``.
    rest
        The raw decay ``a``; None: there is no decay.
    launch
        The first velocity from the first position and what was seen of the velocity; None for first order.
    """

    net: AbstractLawNet
    rest: Float[Array, "*m d"] | None
    launch: MLP | None

    @property
    def order(self) -> int:
        """1, or 2 where the state holds velocities."""
        return 1 if self.launch is None else 2

    def settled(self, allowed: Float[Array, "target source"] | None) -> "Law":
        """Return the law with the gates of a trained network."""
        return self.masked(settled(self.net), allowed)

    def sampled(self, key: PRNGKeyArray, allowed: Float[Array, "target source"] | None):
        """Return the law with one draw of its gates, and the gates."""
        gates = drawn(self.net, key)
        return self.masked(gates, allowed), gates

    def masked(self, gates: tuple[Array, ...] | None, allowed: Float[Array, "target source"] | None) -> "Law":
        """Return the law with its weights multiplied by gates, without what is not allowed."""
        return eqx.tree_at(lambda law: law.net, self, self.net.masked(gates, allowed))

    def __call__(
        self, state: Float[Array, "n s"], inputs: Float[Array, "n c"], acting: Acting = NOTHING_DONE
    ) -> Float[Array, "n s"]:
        """Return the derivative of every state.

        Parameters
        ----------
        state
            Positions, and velocities behind them for second order.
        inputs
            Constants that enter the law.
        acting
            An intervention.
        """
        g = self.net(jnp.concatenate([state, inputs], 1))
        g = g if acting.dose is None else g * acting.dose
        last = state[:, -g.shape[1] :]  # what decays: positions, or velocities
        change = g if self.rest is None else g - jax.nn.softplus(self.rest) * last
        change = change if acting.moving is None else change * acting.moving
        if self.launch is None:
            return change
        velocity = last if acting.moving is None else last * acting.moving
        return jnp.concatenate([velocity, change], 1)

    def start(self, seen: Float[Array, "n k d"], times: Float[Array, "n k"]) -> Float[Array, "n s"]:
        """Return the states from which solutions start: at the last of `k` states that were seen.

        Parameters
        ----------
        seen
            The last states that were seen, the oldest first.
        times
            When.
        """
        x = seen[:, -1]
        if self.launch is None:
            return x
        speed = slope(seen, times)
        return jnp.concatenate([x, speed + self.launch(jnp.concatenate([x, speed], 1))], 1)


def slope(seen: Float[Array, "n k d"], times: Float[Array, "n k"]) -> Float[Array, "n d"]:
    """Return the velocity at the last of `k` states: of a line through two or three, of a parabola through more."""
    k = seen.shape[1]
    if k == 1:
        return jnp.zeros_like(seen[:, 0])
    t = times - times[:, -1:]
    powers = 1 if k < 4 else 2
    # Least squares by normal equations in a scaled time: at most three unknowns.
    scale = jnp.maximum(-t[:, :1], 1e-6)
    basis = jnp.stack([(t / scale) ** p for p in range(powers + 1)], 2)
    gram = jnp.einsum("nkp,nkq->npq", basis, basis) + 1e-6 * jnp.eye(powers + 1)
    found = jnp.linalg.solve(gram, jnp.einsum("nkp,nkd->npd", basis, seen))
    return found[:, 1] / scale
