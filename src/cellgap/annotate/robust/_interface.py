"""What a robust training is: the loss of a batch, part of which is an attack on it."""

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Array, Float, Int, PRNGKeyArray

from cellgap.train import Logs


class AbstractRobust(ABC):
    """Settings of adversarial training.

    The network is attacked at inference, where a sample's scores do not depend on its batch, and has no running
    averages: attacked samples would enter them, and the clean ones would be normalized by what no clean sample is.
    """

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What to change where the trained classifier is constant."""

    @abstractmethod
    def loss(
        self,
        net: Any,
        x: Float[Array, "n d"],
        y: Int[Array, " n"],
        key: PRNGKeyArray,
        progress: Float[Array, ""],
        tau: float | Float[Array, ""],
    ) -> tuple[Float[Array, ""], Any, Logs]:
        """Return the mean loss of a batch, the network as `net.training` leaves it, and what to log.

        Parameters
        ----------
        net
            ``net(x)`` returns scores (n, classes) at inference, ``net.training(x)`` scores and the moved network.
        x, y
            Clean inputs, in the domain of the ball, and classes.
        key
            Random key of the attack.
        progress
            Share of the training that is done, for ramps.
        tau
            Of the comp-sum loss.
        """
