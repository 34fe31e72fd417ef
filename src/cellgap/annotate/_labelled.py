"""Labelled cells on the device, and the batches that training draws of them."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cellgap.train import draw_without_replacement

Draw = Literal["cells", "domains"]


class Batch(eqx.Module):
    """Some labelled cells.

    Parameters
    ----------
    x
        Features.
    y
        Classes, counted from 0.
    domain
        Domains, counted from 0.
    """

    x: Float[Array, "n features"]
    y: Int[Array, " n"]
    domain: Int[Array, " n"]


class Labelled(eqx.Module):
    """Labelled cells of several domains.

    Parameters
    ----------
    x
        Features.
    y
        Classes, counted from 0.
    domain
        Domains, counted from 0.
    order, starts, sizes
        Cells sorted by domain, and where in that order each domain begins and how many it has.
    n_classes, n_domains
        How many there are; a class may be absent here.
    """

    x: Float[Array, "cells features"]
    y: Int[Array, " cells"]
    domain: Int[Array, " cells"]
    order: Int[Array, " cells"]
    starts: Int[Array, " domains"]
    sizes: Int[Array, " domains"]
    n_classes: int = eqx.field(static=True)
    n_domains: int = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        x: Float[np.ndarray, "cells features"],
        y: Int[np.ndarray, " cells"],
        domain: Int[np.ndarray, " cells"] | None = None,
        *,
        n_classes: int,
    ) -> "Labelled":
        """Return cells on the device; domains are counted from 0 without holes, None is one domain."""
        domain = np.zeros(len(y), int) if domain is None else np.asarray(domain)
        order = np.argsort(domain, kind="stable")
        sizes = np.bincount(domain, minlength=1)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])

        def whole(part: Int[np.ndarray, " _"]) -> Int[Array, " _"]:
            return jnp.asarray(part, jnp.int32)

        return cls(
            jnp.asarray(x, jnp.float32), whole(y), whole(domain), whole(order), whole(starts), whole(sizes),
            n_classes, len(sizes),
        )  # fmt: skip

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.y)

    def rows(self, index: Int[Array, " n"]) -> Batch:
        """Return these cells."""
        return Batch(self.x[index], self.y[index], self.domain[index])

    def batch(self, key: PRNGKeyArray, size: int, draw: Draw = "cells") -> Batch:
        """Return a random batch.

        Parameters
        ----------
        key
            Random key.
        size
            Number of cells.
        draw
            "cells": all alike, without replacement. "domains": as many of every domain (the first ones have one more
            where `size` is no multiple), without replacement within each until a domain is used up; sorted by domain.
        """
        if draw == "cells":
            return self.rows(draw_without_replacement(key, size, len(self)))
        each = -(-size // self.n_domains)
        keys = jr.split(key, self.n_domains)
        places = jax.vmap(lambda k, n: draw_without_replacement(k, each, n))(keys, self.sizes)
        picked = self.order[self.starts[:, None] + places]
        short = self.n_domains * each - size
        parts = [picked[i, : each - (i >= self.n_domains - short)] for i in range(self.n_domains)]
        return self.rows(jnp.concatenate(parts))
