"""Source domains of which one plays the target: views of the same cells, all of the same shape."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from cellgap.annotate._labelled import Batch, Draw, Labelled
from cellgap.train import draw_without_replacement


class Fold(Labelled):
    """Labelled cells whose batches hold none of one domain.

    Cells are shared with the data it was made of, so that a fold costs no memory and every fold has the same shape:
    one program trains on all of them. Labels of the domain that is left out are -1, and nothing draws its cells.

    Parameters
    ----------
    left_out
        The domain; -1: none.
    """

    left_out: Int[Array, ""]

    @classmethod
    def without(cls, data: Labelled, left_out: int) -> "Fold":
        """Return the fold; -1 leaves nothing out."""
        y = jnp.where(data.domain == left_out, -1, data.y)
        whole = (data.x, y, data.domain, data.order, data.starts, data.sizes, data.n_classes, data.n_domains)
        return cls(*whole, jnp.int32(left_out))

    def batch(self, key: PRNGKeyArray, size: int, draw: Draw = "cells") -> Batch:
        """Return a random batch; see `Labelled.batch`.

        By domains, the place of the one that is left out is filled, in every batch anew, with more cells of a random
        other domain, so that each remains equally frequent.
        """
        out, none = jnp.maximum(self.left_out, 0), self.left_out < 0
        if draw == "cells":
            hole = jnp.where(none, 0, self.sizes[out])
            place = draw_without_replacement(key, size, jnp.sum(self.sizes) - hole)
            return self.rows(self.order[place + jnp.where(place >= self.starts[out], hole, 0)])
        key_cells, key_domain = jr.split(key)
        shift = jr.randint(key_domain, (), 1, max(self.n_domains, 2))
        domains = jnp.arange(self.n_domains)
        domains = jnp.where(domains == self.left_out, (domains + shift) % self.n_domains, domains)
        each = -(-size // self.n_domains)
        keys = jr.split(key_cells, self.n_domains)
        places = jax.vmap(lambda k, n: draw_without_replacement(k, each, n))(keys, self.sizes[domains])
        rows = self.order[self.starts[domains][:, None] + places]
        # Column by column, so that a size that is no multiple takes from as many domains as it can.
        return self.rows(rows.T.reshape(-1)[:size])


def subset(data: Labelled, left_out: int) -> Labelled:
    """Return a copy of the cells of all other domains, which are counted anew without a hole."""
    kept = np.asarray(data.domain) != left_out
    domain = np.asarray(data.domain)[kept]
    domain = domain - (domain > left_out)
    return Labelled.of(np.asarray(data.x)[kept], np.asarray(data.y)[kept], domain, n_classes=data.n_classes)


def cells_of(data: Any, domain: int, length: int) -> Int[np.ndarray, " length"]:
    """Return rows of a domain's cells, its first ones repeated up to `length`."""
    rows = np.asarray(data.order)[int(data.starts[domain]) :][: int(data.sizes[domain])]
    return np.resize(rows, length)
