"""A panel of attacks: the worst of six on every sample, and signs that a defence only hides its gradients."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cellgap.annotate.robust._apgd import apgd
from cellgap.annotate.robust._ascent import Attacked
from cellgap.annotate.robust._ball import Ball, Norm
from cellgap.annotate.robust._pgd import pgd, targeted_pgd
from cellgap.annotate.robust._square import square
from cellgap.errors import DataError

BLACK_BOX = "Square"
_POINT = 0.01
_FAR = 4.0
_MORE = 5
_SLACK = 1e-6


class MaskingCheck(NamedTuple):
    """One sign of hidden gradients.

    Parameters
    ----------
    name
        Of the check.
    holds
        Whether the attacks behave as they do where gradients are not hidden.
    sentence
        What was measured.
    """

    name: str
    holds: bool
    sentence: str


class Panel(NamedTuple):
    """What a panel of attacks leaves of a classifier; accuracies are shares of all samples.

    Parameters
    ----------
    ball
        The threat model.
    clean
        Accuracy without attack.
    accuracy
        Accuracy under each attack alone.
    worst
        Accuracy where every sample meets the attack that is worst for it.
    robust
        The samples that are right under every attack.
    attacked
        The worst inputs.
    other_class
        Median distance, in the norm of the ball, of a sample from the nearest one of another class; infinite where
        there is one class.
    checks
        Signs of hidden gradients; empty where they were not asked for.
    """

    ball: Ball
    clean: float
    accuracy: dict[str, float]
    worst: float
    robust: Bool[np.ndarray, " n"]
    attacked: Float[np.ndarray, "n d"]
    other_class: float
    checks: tuple[MaskingCheck, ...]

    @property
    def relative_radius(self) -> float:
        """The radius in units of the median distance from the nearest sample of another class."""
        return self.ball.radius / self.other_class

    def __str__(self) -> str:
        """Return the result in sentences."""
        by_attack = ", ".join(f"{name} {value:.1%}" for name, value in self.accuracy.items())
        lines = [
            f"Right without attack {self.clean:.1%}, under the worst attack within {self.ball} {self.worst:.1%}.",
            f"Alone: {by_attack}.",
            f"The radius is {self.relative_radius:.2f} times the median distance from the nearest sample of another "
            f"class ({self.other_class:.3g}).",
        ]
        return "\n".join([*lines, *(check.sentence for check in self.checks)])


def panel(
    net: Any,
    x: Float[Array, "n d"],
    y: Int[Array, " n"],
    ball: Ball,
    *,
    steps: int = 20,
    restarts: int = 2,
    apgd_steps: int = 50,
    n_targets: int = 9,
    queries: int = 1000,
    image: tuple[int, int] | None = None,
    checks: bool = True,
    key: PRNGKeyArray,
) -> Panel:
    """Return accuracies under PGD on cross-entropy and on margin, Auto-PGD on both its losses, targeted PGD and Square.

    Parameters
    ----------
    net
        ``net(x)`` returns scores (n, classes) at inference.
    x, y
        Samples, all at once on the device, and classes counted from 0.
    ball
        Threat model.
    steps, restarts
        Of both PGD attacks; targeted PGD has `steps` steps.
    apgd_steps
        Of Auto-PGD. Its second loss is left out where there are two classes.
    n_targets
        Targets of targeted PGD.
    queries, image
        Of Square; see `square`.
    checks
        Also look for hidden gradients: PGD with five times the steps, and within a radius of four times the median
        distance from the nearest other class.
    key
        Random key.

    Raises
    ------
    DataError
        A sample lies outside the domain of the ball, or there is none.

    Source
    ------
    Croce, Hein 2020 (arXiv 2003.01690) for the panel; Athalye, Carlini, Wagner 2018 (arXiv 1802.00420) for the checks.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    _check_domain(x, ball)
    keys = jr.split(key, 8)
    found: dict[str, Attacked] = {
        "PGD-CE": pgd(net, x, y, ball, steps=steps, restarts=restarts, key=keys[0]),
        "PGD-margin": pgd(net, x, y, ball, steps=steps, restarts=restarts, loss="margin", key=keys[1]),
        "APGD-CE": apgd(net, x, y, ball, steps=apgd_steps, key=keys[2]),
    }
    if jax.eval_shape(net, x).shape[1] > 2:
        found["APGD-DLR"] = apgd(net, x, y, ball, steps=apgd_steps, loss="dlr", key=keys[3])
    found["targeted margin"] = targeted_pgd(net, x, y, ball, steps=steps, n_targets=n_targets, key=keys[4])
    found[BLACK_BOX] = square(net, x, y, ball, queries=queries, image=image, key=keys[5])
    clean = Attacked.clean(net, x, y)
    worst = clean
    for attacked in found.values():
        worst = worst.worse(attacked.x, attacked.margin)
    accuracy = {name: _share(attacked) for name, attacked in found.items()}
    other = other_class_distance(np.asarray(x), np.asarray(y), ball.norm)
    told: tuple[MaskingCheck, ...] = ()
    if checks:
        more = pgd(net, x, y, ball, steps=_MORE * steps, restarts=restarts, key=keys[0])
        white = clean
        for name, attacked in found.items():
            if name != BLACK_BOX:
                white = white.worse(attacked.x, attacked.margin)
        told = (
            _more_steps(steps, accuracy["PGD-CE"], _share(more)),
            _black_box(accuracy[BLACK_BOX], _share(white)),
            _far(net, x, y, ball, other, steps, keys[6]),
        )
    return Panel(
        ball, _share(clean), accuracy, _share(worst), np.asarray(worst.robust), np.asarray(worst.x), other, told
    )


def other_class_distance(x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], norm: Norm, *, most: int = 1000):
    """Return the median distance of a sample from the nearest of another class; infinite where there is none.

    Parameters
    ----------
    x, y
        Samples and classes.
    norm
        Of the distance.
    most
        Of so many samples, evenly spaced, the distance is taken, to all others.
    """
    nearest = []
    for i in np.unique(np.linspace(0, len(x) - 1, min(len(x), most)).astype(int)):
        others = x[y != y[i]]
        if len(others):
            apart = np.abs(others - x[i])
            nearest.append(apart.max(1).min() if norm == "linf" else math.sqrt((apart**2).sum(1).min()))
    return float(np.median(nearest)) if nearest else math.inf


def _more_steps(steps: int, few: float, many: float) -> MaskingCheck:
    holds = many <= few + _POINT
    return MaskingCheck(
        "more steps",
        holds,
        f"PGD-CE with {_MORE * steps} steps leaves {many:.1%} right, with {steps} steps {few:.1%}: "
        + ("more steps do not raise accuracy." if holds else "more steps RAISE accuracy, the attack stalls."),
    )


def _black_box(black: float, white: float) -> MaskingCheck:
    holds = black >= white
    return MaskingCheck(
        "black box",
        holds,
        f"Without gradients {black:.1%} stay right, with gradients {white:.1%}: "
        + ("gradients help, as they should." if holds else "gradients do NOT help, they may be hidden."),
    )


def _far(
    net: Any, x: Float[Array, "n d"], y: Int[Array, " n"], ball: Ball, other: float, steps: int, key: PRNGKeyArray
) -> MaskingCheck:
    if not math.isfinite(other):
        return MaskingCheck("large radius", True, "There is one class: no radius is large.")
    radius = max(_FAR * other, ball.radius)
    left = _share(pgd(net, x, y, Ball(ball.norm, radius, ball.low, ball.high), steps=steps, loss="margin", key=key))
    holds = left <= _POINT
    return MaskingCheck(
        "large radius",
        holds,
        f"Within radius {radius:.3g} PGD-margin leaves {left:.1%} right: "
        + ("accuracy goes to 0." if holds else "accuracy does NOT go to 0, the attack is too weak."),
    )


def _check_domain(x: Float[Array, "n d"], ball: Ball) -> None:
    if x.size == 0:
        raise DataError("A panel of attacks needs samples, found none.")
    least, most = float(jnp.min(x)), float(jnp.max(x))
    if (ball.low is not None and least < ball.low - _SLACK) or (ball.high is not None and most > ball.high + _SLACK):
        raise DataError(
            f"Samples lie between {least:.4g} and {most:.4g}, outside the ball's domain [{ball.low}, {ball.high}]: "
            "give Ball(low=..., high=...) that hold for the data."
        )


def _share(attacked: Attacked) -> float:
    return float(jnp.mean(attacked.robust))
