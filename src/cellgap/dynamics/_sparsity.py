"""How sparse a law is: in weights, in paths, in inputs that are no regulators."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cellgap.dynamics._law import Law
from cellgap.nn import PerTargetNet, SharedNet, settled

TINY = 1e-5


def sparsity(
    law: Law, allowed: np.ndarray, variables: Sequence[str], regulators: Sequence[str] | None = None
) -> dict[str, float]:
    """Return shares of what is below 1e-5, with the gates of a trained network, mean over members.

    Parameters
    ----------
    law, allowed
        Members along the first axis.
    variables
        Names of the variables.
    regulators
        Those that are known to regulate; None: nothing is known.

    Returns
    -------
    shares
        ``weights``: of gated weights of all layers. ``paths``: of the variables x targets products of gated weights.
        ``gates``: of the products of gates (1 open for networks without gates). ``spurious``: of the paths from
        variables that are no regulators (nan where nothing is known).

    Notes
    -----
    Source: the counts of the code of Aliee et al., NeurIPS 2022, which takes one random draw of the gates.
    """
    d = len(variables)
    found: list[dict[str, float]] = []
    for i in range(len(allowed)):
        own: Law = jax.tree.map(lambda leaf, i=i: leaf[i], law)
        gates = settled(own.net)
        net = own.masked(gates, jnp.asarray(allowed[i])).net
        matrices = [net.first, net.middle, net.last] if isinstance(net, PerTargetNet) else _weights(net)
        weights = np.concatenate([np.abs(np.asarray(w)).ravel() for w in matrices])
        paths = np.asarray(net.paths())[: law.order * d]
        open_ = np.ones_like(paths) if gates is None else np.asarray(own.net.paths(gates=gates))[: law.order * d]
        other = np.ones(0)
        if regulators is not None:
            unknown = [j for j, name in enumerate(variables) if name not in set(regulators)]
            other = paths[[j + d * o for o in range(law.order) for j in unknown]]
        found.append(
            {
                "weights": float(np.mean(weights < TINY)),
                "paths": float(np.mean(paths < TINY)),
                "gates": float(np.mean(open_ < TINY)),
                "spurious": float(np.mean(other < TINY)) if other.size else float("nan"),
            }
        )
    return {name: float(np.mean([f[name] for f in found])) for name in found[0]}


def _weights(net: object) -> list:
    assert isinstance(net, SharedNet)
    return list(net.weights)
