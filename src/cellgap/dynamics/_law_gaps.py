"""The gaps of a law: forecasts in and out of distribution, edges, seeds, and what trajectories can identify."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from cellgap.dynamics._trajectories import Trajectories
from cellgap.gap import Gap

if TYPE_CHECKING:
    from cellgap.dynamics._fitted_law import FittedLaw

_STATES = 16


def law_gaps(
    law: "FittedLaw", train: Trajectories | None, other: Trajectories | None, known: tuple[Gap, ...]
) -> tuple[Gap, ...]:
    """Return the gaps of a fitted law.

    Parameters
    ----------
    law
        Fitted.
    train
        Training trajectories; None: only the forecast gap on `other` is added to those that are known.
    other
        Validation trajectories, or ones out of distribution; None: there are none.
    known
        Gaps measured before.
    """
    spread = float(np.mean(law.units.spread**2))
    if train is None:
        inside = next((g.value for g in known if g.name == "training error"), float("nan"))
        beyond = law.error(other) / spread
        found = Gap(
            "forecast gap out of distribution",
            beyond - inside,
            f"0 = as good as on training trajectories; error {beyond:.3g}, of a constant about 1",
            "the law does not carry over: it stands on what is special to its training trajectories.",
            "a stronger penalty, more varied starts, or the label that differs as an input.",
        )
        return (*known, found)
    inside = law.error(train) / spread
    gaps = [
        Gap(
            "training error",
            inside,
            "mean squared error of forecasts, in variances; a constant has about 1",
            "the law does not follow the trajectories that it was learnt from.",
            "more steps, windows for long trajectories, a weaker penalty, second order for what swings.",
        )
    ]
    if other is not None:
        held = law.error(other) / spread
        gaps.append(
            Gap(
                "forecast gap",
                held - inside,
                f"0 = held out ({law.judged_on}) is forecast as well as training; error {held:.3g}",
                "the law has learnt its trajectories by heart.",
                "a stronger penalty (NeuralLaw.fit_path), more trajectories, fewer regulators.",
            )
        )
    network = law.network()
    d = len(law.variables)
    kept = float(network.kept.to_numpy().sum() / max(d * (d - 1), 1))
    gaps.append(
        Gap(
            "edges kept",
            kept,
            f"share of the {d * (d - 1):,} possible ones; biology is at a few per cent",
            "the law still reads almost everything: causes are not separated from what moves with them.",
            "a stronger penalty, or more and more varied trajectories.",
        )
    )
    if law.members > 1:
        gaps.append(
            Gap(
                "seed gap",
                1.0 - network.stability,
                f"0 = all {law.members} seeds have the same {network.k:,} best edges",
                "a network that changes with the seed is not a finding.",
                "more trajectories, a stronger penalty, or only the edges of high frequency.",
            )
        )
    gaps.append(
        Gap(
            "identifiability gap",
            1.0 - min(law.visited.rank / d, 1.0),
            f"share of the {d} directions of state space that trajectories hardly visit; "
            f"{law.visited.number:,} steps for {d * d:,} possible edges",
            "along directions that were not visited the law is a guess, whatever its error.",
            "trajectories from more varied starts, or interventions; fewer variables; regulators that are known.",
        )
    )
    fastest = _fastest(law)
    gaps.append(
        Gap(
            "stiffness",
            fastest,
            "fastest rate times the training step; above 2 fixed steps do not hold",
            "the law decays faster than its steps can follow.",
            "Solver(max_step=...) shorter, or method 'kvaerno5'.",
        )
    )
    return tuple(gaps)


def cautions(law: "FittedLaw") -> tuple[str, ...]:
    """Return sentences on what the trajectories of a law cannot tell; see `FittedLaw.cautions`."""
    d, found = len(law.variables), []
    if law.visited.number < d * d:
        found.append(
            f"{law.visited.number:,} steps of trajectories do not identify {d * (d - 1):,} possible edges: "
            "the network is a guess among many that forecast alike."
        )
    if law.visited.rank < d:
        found.append(
            f"trajectories visit {law.visited.rank} of {d} directions of state space: along the others, and for "
            "interventions that lead there, the law is a guess."
        )
    stiff = next((g.value for g in law.measured_gaps if g.name == "stiffness"), 0.0)
    if stiff > 2:
        found.append(
            f"the fastest rate times the training step is {stiff:.2g}: the law is stiff for its steps, take a shorter "
            "Solver(max_step=...) or method 'kvaerno5'."
        )
    if law.members > 1:
        seeds = next((g.value for g in law.measured_gaps if g.name == "seed gap"), 0.0)
        if seeds > 0.5:
            found.append(
                "members from other seeds agree on less than half of the best edges: the network is no finding."
            )
    return tuple(found)


def _fastest(law: "FittedLaw") -> float:
    """Return the largest rate of decay or growth at visited states, times the longest training step."""
    some = np.linspace(0, len(law.visited.states) - 1, min(_STATES, len(law.visited.states))).astype(int)
    states, inputs = jnp.asarray(law.visited.states[some]), jnp.asarray(law.visited.inputs[some])
    own = jax.tree.map(lambda leaf: leaf[0], law.law).settled(law.allowed[0])
    d, order = len(law.variables), law.law.order
    by_source = np.asarray(own.net.jacobian(jnp.concatenate([states, inputs], 1)), np.float64)
    derivative = np.swapaxes(by_source, 1, 2)[:, :, : order * d].copy()
    rest = np.zeros(d) if own.rest is None else np.log1p(np.exp(np.asarray(own.rest)))
    rates = []
    for matrix in derivative:
        matrix[:, (order - 1) * d :] -= np.diag(rest)
        whole = matrix if order == 1 else np.block([[np.zeros((d, d)), np.eye(d)], [matrix]])
        rates.append(np.abs(np.linalg.eigvals(whole).real).max())
    return float(max(rates) * law.step)
