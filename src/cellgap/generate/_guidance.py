"""Guidance: how strongly a sampler is drawn to the attributes that are asked for, and when on its way."""

from typing import Annotated, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field, model_validator

from cellgap.errors import ConfigError
from cellgap.generate._field import Told
from cellgap.settings import settings
from cellgap.storage import storable

Schedule = Literal["constant", "interval", "zero_star", "rectified", "plus_plus"]
Combine = Literal["joint", "compose", "auto"]
_Unit = Annotated[float, Field(ge=0, le=1)]
_STILL = 0.04
"""Part of the time during which CFG-Zero* leaves cells where they are."""


@storable
@settings
class Guidance:
    """How the fields with and without attributes are combined.

    Parameters
    ----------
    weight
        1 is the field of the attributes as learned; more draws cells further to what sets them apart. With
        ``"plus_plus"`` it is the interpolation of the clean estimates, 0 to 1.
    schedule
        ``"constant"``: ``v_0 + w (v_c - v_0)`` (classifier-free guidance). ``"interval"``: the weight inside of
        `window` only, the field of the attributes (one evaluation) outside. ``"zero_star"``: the unconditional field is
        scaled to fit the conditional one, cell by cell, and cells rest for the first 4 % of the time (CFG-Zero*).
        ``"rectified"``: the guidance is evaluated half a conditional step ahead and falls with ``(1 - t)``
        (Rectified-CFG++). ``"plus_plus"``: clean estimates are interpolated and noised again with the unconditional
        noise (CFG++).
    window
        Times between which ``"interval"`` guides.
    combine
        Several attributes: ``"joint"``: the field that is told all of them. ``"compose"``: the sum of what each one
        adds alone, ``v_0 + sum_k w_k (v_k - v_0)`` (published), for combinations that were never seen. ``"auto"``:
        joint for combinations of the training cells, composed for others.

    Notes
    -----
    Source: Palma et al., CFGen (arXiv 2407.11734), for the composition; Fan et al. (2503.18886) and Saini et al.
    (2510.07631) for the schedules, as reported by others. The laws at the end are not products of powers of the
    conditional ones: tilting and noising do not commute.
    """

    weight: Annotated[float, Field(ge=0)] = 1.0
    schedule: Schedule = "constant"
    window: tuple[_Unit, _Unit] = (0.0, 1.0)
    combine: Combine = "auto"

    @model_validator(mode="after")
    def _check(self) -> "Guidance":
        if self.window[0] > self.window[1]:
            raise ConfigError(f"Guidance(window=...) goes from {self.window[0]} to {self.window[1]}: turn it round.")
        if self.schedule == "plus_plus" and self.weight > 1:
            raise ConfigError(
                f'Guidance(schedule="plus_plus") interpolates: its weight is 0 to 1, found {self.weight:g}.'
            )
        return self


class Parts(NamedTuple):
    """Fields of one moment: that of the attributes, and what each attribute adds to the one that knows none."""

    base: Float[Array, "n d"]
    pulls: Float[Array, "k n d"]
    null: Float[Array, "n d"]


class Guided(eqx.Module):
    """A guided field for some cells: ``base + sum_k (w_k(t) - 1) (v_k - v_0)``.

    Parameters
    ----------
    told
        The cells and the field.
    weights
        One a cell and attribute.
    window
        Start and end of an interval.
    schedule, combine
        See `Guidance`; ``combine`` is decided.
    active
        Whether any weight is not 1: else only the field of the attributes is evaluated.
    """

    told: Told
    weights: Float[Array, "n k"]
    window: Float[Array, "2"]
    schedule: Schedule = eqx.field(static=True)
    combine: Literal["joint", "compose"] = eqx.field(static=True)
    active: bool = eqx.field(static=True)

    @property
    def n_fields(self) -> int:
        """How many fields a guided evaluation takes."""
        k = self.told.field.n_attributes
        if not self.active:
            return self.n_base
        return 2 if k == 1 else (k + 2 if self.combine == "joint" else k + 1)

    @property
    def n_base(self) -> int:
        """How many fields the unguided one takes."""
        k = self.told.field.n_attributes
        return 1 if k == 1 or self.combine == "joint" else k + 1

    def __call__(self, z: Float[Array, "n d"], t: Float[Array, ""]) -> tuple[Float[Array, "n d"], Int[Array, ""]]:
        """Return the guided velocity, and how many evaluations of the field a cell it took.

        Parameters
        ----------
        z, t
            Cells and the time of all.
        """
        if not self.active:
            return self.base(z, t), jnp.int32(self.n_base)
        if self.schedule != "interval":
            return self.guided(z, t), jnp.int32(self.n_fields)
        # A window that reaches 0 or 1 holds the end too, which rounding may put a little beyond.
        low, high = self.window[0], self.window[1]
        inside = ((t >= low) | (low <= 0.0)) & ((t < high) | (high >= 1.0))
        v = jax.lax.cond(inside, lambda z: self.guided(z, t), lambda z: self.base(z, t), z)
        return v, jnp.where(inside, self.n_fields, self.n_base)

    def guided(self, z: Float[Array, "n d"], t: Float[Array, ""]) -> Float[Array, "n d"]:
        """Return the velocity with the full weights."""
        parts = self.parts(z, t)
        pulls = parts.pulls
        if self.schedule == "zero_star":
            against = jnp.sum(parts.base * parts.null, 1) / jnp.maximum(jnp.sum(parts.null**2, 1), 1e-12)
            pulls = pulls + (1.0 - against)[:, None] * parts.null
        extra = jnp.einsum("nk,knd->nd", self.weights - 1.0, pulls)
        v = parts.base + extra
        return jnp.where(t < _STILL, 0.0, v) if self.schedule == "zero_star" else v

    def base(self, z: Float[Array, "n d"], t: Float[Array, ""]) -> Float[Array, "n d"]:
        """Return the field of the attributes."""
        if self.n_base == 1:
            return self.told(z, t, _everything(self.told))[0]
        fields = self.told(z, t, jnp.concatenate([_each(self.told), _nothing(self.told)]))
        return fields[-1] + jnp.sum(fields[:-1] - fields[-1], 0)

    def null(self, z: Float[Array, "n d"], t: Float[Array, ""]) -> Float[Array, "n d"]:
        """Return the field that knows no attribute."""
        return self.told(z, t, _nothing(self.told))[0]

    def parts(self, z: Float[Array, "n d"], t: Float[Array, ""]) -> Parts:
        """Return all fields of a moment, in one call."""
        each, nothing = _each(self.told), _nothing(self.told)
        if self.told.field.n_attributes == 1:
            base, null = self.told(z, t, jnp.concatenate([each, nothing]))
            return Parts(base, (base - null)[None], null)
        if self.combine == "joint":
            fields = self.told(z, t, jnp.concatenate([_everything(self.told), each, nothing]))
            return Parts(fields[0], fields[1:-1] - fields[-1], fields[-1])
        fields = self.told(z, t, jnp.concatenate([each, nothing]))
        pulls = fields[:-1] - fields[-1]
        return Parts(fields[-1] + jnp.sum(pulls, 0), pulls, fields[-1])


def _everything(told: Told) -> Bool[Array, "1 k"]:
    return jnp.ones((1, told.field.n_attributes), bool)


def _nothing(told: Told) -> Bool[Array, "1 k"]:
    return jnp.zeros((1, told.field.n_attributes), bool)


def _each(told: Told) -> Bool[Array, "k k"]:
    return jnp.eye(told.field.n_attributes, dtype=bool)


def guide(
    told: Told,
    guidance: Guidance,
    *,
    weights: Float[np.ndarray, "n k"] | None = None,
    combine: Literal["joint", "compose"] = "joint",
) -> Guided:
    """Return the guided field of some cells.

    Parameters
    ----------
    told
        The cells.
    guidance
        How.
    weights
        One a cell and attribute; None takes the weight of `guidance` for all.
    combine
        How several attributes are combined where `guidance` leaves it open ("auto").
    """
    shape = told.labels.shape
    given = np.full(shape, guidance.weight) if weights is None else np.broadcast_to(weights, shape)
    return Guided(
        told,
        jnp.asarray(given, jnp.float32),
        jnp.asarray(guidance.window, jnp.float32),
        guidance.schedule,
        combine if guidance.combine == "auto" else guidance.combine,
        bool((given != 1).any()) or guidance.schedule in ("zero_star", "plus_plus"),
    )
