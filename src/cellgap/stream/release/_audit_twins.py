"""Mechanisms that are broken on purpose, to see whether an audit notices. They draw with seeded noise only.

Each takes a mechanism that is right, and returns a copy that claims the same and protects less.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from cellgap.errors import UnsafeNoise
from cellgap.stream.release import _factor
from cellgap.stream.release._interface import AbstractMechanism, Integers, State
from cellgap.stream.release._randomness import AbstractRandomness
from cellgap.stream.release._running_sum import FactorSum, TreeSum

Draw = Callable[[Any, State, int, Sequence[Integers], AbstractRandomness], Integers]


def one_level(tree: TreeSum) -> AbstractMechanism:
    """Return a tree whose noise is for one level, as if a donor were in one node."""
    return _broken(_with_less_noise(tree, Fraction(1, tree.levels)), _drawn)


def first_coefficient(factor: FactorSum) -> AbstractMechanism:
    """Return a factorized mechanism whose sensitivity is that of the step at which a donor enters."""
    coefs = _factor.integer_coefficients(factor.steps)
    part = Fraction(int(coefs[0]) ** 2, _factor.participation_norm(coefs, factor.steps, 1, 1))
    return _broken(_with_less_noise(factor, part), _drawn)


def forgetful(mechanism: FactorSum | TreeSum) -> AbstractMechanism:
    """Return a mechanism that forgets the noise at every other step."""

    def draw(itself: Any, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
        return _drawn(itself if t % 2 else _silent(itself), state, t, drawn, randomness)

    return _broken(mechanism, draw)


def floating(mechanism: FactorSum | TreeSum) -> AbstractMechanism:
    """Return a mechanism that adds rounded real numbers, of the right variance, to its integers."""

    def draw(itself: Any, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
        exact = _drawn(_silent(itself), state, t, drawn, randomness)
        generator = np.random.default_rng(randomness.words(2))
        return exact + generator.normal(0.0, itself.noise.sd, len(exact))

    return _broken(mechanism, draw)


def redrawn(tree: TreeSum) -> AbstractMechanism:
    """Return a tree whose largest node is drawn twice, as after a restart without a journal."""

    def draw(itself: Any, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
        nodes = _drawn(itself, state, t, drawn, randomness)
        if t != 1 << (itself.levels - 1):
            return nodes
        return np.concatenate([nodes, _drawn(itself, state, t, drawn, randomness)[-itself.width :]])

    return _broken(tree, draw)


def coarse(mechanism: FactorSum | TreeSum) -> AbstractMechanism:
    """Return a mechanism whose noise has the right variance but is a multiple of 16: low bits show through it."""

    def draw(itself: Any, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
        exact = _drawn(_silent(itself), state, t, drawn, randomness)
        return exact + 16 * replace(itself.noise, variance=itself.noise.variance / 256).draw(len(exact), randomness)

    return _broken(mechanism, draw)


TWINS: Mapping[str, tuple[type[AbstractMechanism], Callable[[Any], AbstractMechanism]]] = {
    "noise for one level": (TreeSum, one_level),
    "sensitivity of the first coefficient": (FactorSum, first_coefficient),
    "noise forgotten every other step, tree": (TreeSum, forgetful),
    "noise forgotten every other step, factorized": (FactorSum, forgetful),
    "float noise": (FactorSum, floating),
    "a node drawn twice": (TreeSum, redrawn),
    "noise on a coarser lattice": (TreeSum, coarse),
}
"""What is wrong, with the kind of mechanism to break (the last needs an odd bound of the norm), and how."""


def _broken(mechanism: AbstractMechanism, draw: Draw) -> AbstractMechanism:
    def guarded(self: Any, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
        if randomness.safe:
            raise UnsafeNoise("this mechanism is broken on purpose: it takes part in audits with a seed alone.")
        return draw(self, state, t, drawn, randomness)

    twin: Any = copy.copy(mechanism)
    # A class of its own, since copies of the twin have to be twins.
    twin.__class__ = type(f"Broken{type(mechanism).__name__}", (type(mechanism),), {"draw": guarded})
    return twin


def _drawn(itself: Any, state: State, t: int, drawn: Sequence[Integers], randomness: AbstractRandomness) -> Integers:
    """Return what the mechanism that is right would publish."""
    right: Any = FactorSum if isinstance(itself, FactorSum) else TreeSum
    return right.draw(itself, state, t, drawn, randomness)


def _with_less_noise(mechanism: FactorSum | TreeSum, part: Fraction) -> AbstractMechanism:
    assert mechanism.noise.variance is not None
    twin: Any = copy.copy(mechanism)
    twin.noise = replace(mechanism.noise, variance=mechanism.noise.variance * part)
    return twin


def _silent(mechanism: Any) -> Any:
    silent = copy.copy(mechanism)
    silent.noise = _Silence()
    return silent


class _Silence:
    def draw(self, size: int, randomness: AbstractRandomness) -> np.ndarray:
        return np.zeros(size, np.int64)
