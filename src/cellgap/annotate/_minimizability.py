"""The minimizability gap: how far a hypothesis set stays above the least risk that any scores could have.

``M_tau(H) = R*_tau(H) - E C*_tau(p(x))``, not negative, and 0 for all measurable functions. It needs the class
probabilities ``p(x)``, from a calibrated reference or from labels given several times, and the least risk
``R*_tau(H)``, of which the best of several optimizations is an upper estimate. The test loss of one run is neither.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import minimize

from cellgap.annotate._comp_sum import comp_sum_of_log_loss_traced, phi
from cellgap.annotate._conditional_minimum import check_tau, conditional_minimum, probabilities
from cellgap.errors import ConvergenceError, DataError

Scores = Callable[[Array], Array]
_ROUNDING = 1e-9


@dataclass(frozen=True)
class MinimizabilityGap:
    """An estimate of ``M_tau(H)``.

    Parameters
    ----------
    value
        The risk less the conditional minimum; 0 where that is negative.
    jensen
        ``Phi_tau(R_0) - E C*_tau``, an upper bound of the gap by Jensen's inequality, with ``R_0`` the least
        sum-exponential risk found; None where that is not known.
    risk
        Least comp-sum risk found, ``R_tau``.
    conditional_minimum
        ``E C*_tau(p(x))``.
    tau
        Of the loss.
    n_runs
        Optimizations of which `risk` is the best.
    is_upper
        Whether `value` is an upper estimate. False where the risk came out below the conditional minimum, which no
        scores do: the risk is of cells that were learnt by heart, or the probabilities are not sharp enough.
    """

    value: float
    jensen: float | None
    risk: float
    conditional_minimum: float
    tau: float
    n_runs: int
    is_upper: bool

    def __str__(self) -> str:
        """Return the gap as a sentence."""
        if not self.is_upper:
            return (
                f"No minimizability gap (tau {self.tau:g}): the risk {self.risk:.3g} is below the "
                f"{self.conditional_minimum:.3g} that the class probabilities allow at best; they do not fit the cells."
            )
        bound = "" if self.jensen is None else f"; Jensen bound {self.jensen:.3g}"
        return f"Minimizability gap at most {self.value:.3g} (tau {self.tau:g}, best of {self.n_runs} runs{bound})"


def estimated_minimizability_gap(
    risks: Sequence[float] | float,
    p: Any,
    tau: float,
    *,
    weights: Any = None,
    sum_exponential_risks: Sequence[float] | float | None = None,
) -> MinimizabilityGap:
    """Return an upper estimate of the gap from the risks of fitted classifiers.

    Parameters
    ----------
    risks
        Mean comp-sum losses on the cells of `p` that several trainings reached; the best counts.
    p
        Class probabilities of the cells by a calibrated reference, (n, classes). Probabilities that are too sharp, or
        noisy, make the gap too large; flat ones make it too small.
    tau
        Of the loss, not negative.
    weights
        Weights of the cells, (n,); None: all alike.
    sum_exponential_risks
        The same classifiers' or others' mean losses at ``tau = 0``, for the Jensen bound.

    Raises
    ------
    DataError
        There is no risk, a risk is not finite, or probabilities or weights are none.
    ConfigError
        `tau` is negative.
    """
    found = _finite(risks)
    share = _shares(weights, len(np.asarray(p)))
    least = float(share @ conditional_minimum(p, tau))
    risk, jensen = float(found.min()), None
    if sum_exponential_risks is not None:
        with jax.enable_x64(True):
            jensen = float(phi(jnp.asarray(_finite(sum_exponential_risks).min()), tau)) - least
    return MinimizabilityGap(max(risk - least, 0.0), jensen, risk, least, tau, len(found), risk >= least - _ROUNDING)


def minimizability_gap(scores: Scores, starts: Any, p: Any, tau: float, *, weights: Any = None) -> MinimizabilityGap:
    """Return an upper estimate of the gap of a parametric hypothesis set on finitely many points.

    The risk is minimized by L-BFGS in double precision from every start, and from the best minimizer at ``tau = 0``:
    thereby the estimate is never above the Jensen bound.

    Parameters
    ----------
    scores
        Function of one vector of parameters that returns the scores of all points, (points, classes), by JAX; see
        `linear_scores`.
    starts
        Vectors of parameters to start from, (runs, parameters).
    p
        Class probabilities of the points, (points, classes).
    tau
        Of the loss, not negative.
    weights
        Probabilities of the points, (points,); None: all alike.

    Raises
    ------
    DataError
        Probabilities, weights or starts are none.
    ConfigError
        `tau` is negative.
    ConvergenceError
        No run reached a finite risk.

    Source
    ------
    Mao, Mohri, Zhong 2023 (arXiv 2304.07288), section 3.3, for the Jensen bound.
    """
    check_tau(tau)
    p = probabilities(p)
    share = _shares(weights, len(p))
    starts = np.asarray(starts, float)
    if starts.ndim != 2 or len(starts) == 0 or not np.isfinite(starts).all():
        raise DataError(f"Starts are a finite table of (runs, parameters), found the shape {starts.shape}.")
    with jax.enable_x64(True):
        risk = _risk_with_slope(scores, p, share)
        at_zero = [_descended(risk, start, 0.0) for start in starts]
        best = min(at_zero, key=lambda run: run[0])
        runs = at_zero if tau == 0 else [_descended(risk, start, tau) for start in (*starts, best[1])]
    found = [run[0] for run in runs]
    if not np.isfinite(min(found)) or not np.isfinite(best[0]):
        raise ConvergenceError(f"None of {len(found)} minimizations of the comp-sum risk reached a finite value.")
    return estimated_minimizability_gap(found, p, tau, weights=share, sum_exponential_risks=best[0])


def linear_scores(
    x: Any, n_classes: int, *, n_starts: int = 8, seed: int = 0
) -> tuple[Scores, Float[np.ndarray, "runs parameters"]]:
    """Return the linear scores of points with an intercept, and parameters to start from: 0 and standard normal ones.

    Parameters
    ----------
    x
        Points, (points, features).
    n_classes
        Number of classes.
    n_starts
        Starts, the one at 0 included.
    seed
        Seed of the others.
    """
    design = np.column_stack([np.asarray(x, float), np.ones(len(x))])
    n = design.shape[1] * n_classes
    others = np.random.default_rng(seed).normal(size=(n_starts - 1, n))

    def scores(parameters: Array) -> Array:
        return jnp.asarray(design) @ parameters.reshape(-1, n_classes)

    return scores, np.concatenate([np.zeros((1, n)), others])


def _risk_with_slope(
    scores: Scores, p: Float[np.ndarray, "points classes"], share: Float[np.ndarray, " points"]
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Return the compiled risk and its gradient as a function of parameters and tau."""
    joint = jnp.asarray(p * share[:, None])

    def risk(parameters: Array, tau: Array) -> Array:
        log_losses = -jax.nn.log_softmax(scores(parameters), axis=1)
        return jnp.sum(joint * comp_sum_of_log_loss_traced(log_losses, tau))

    return jax.jit(jax.value_and_grad(risk))


def _descended(
    risk: Callable[[Array, Array], tuple[Array, Array]], start: Float[np.ndarray, " parameters"], tau: float
) -> tuple[float, Float[np.ndarray, " parameters"]]:
    at = jnp.asarray(tau, float)

    def objective(parameters: Float[np.ndarray, " parameters"]) -> tuple[float, Float[np.ndarray, " parameters"]]:
        value, slope = risk(jnp.asarray(parameters), at)
        return float(value), np.asarray(slope)

    fine = {"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-9}
    done = minimize(objective, start, jac=True, method="L-BFGS-B", options=fine)
    return float(done.fun), np.asarray(done.x)


def _shares(weights: Any, n: int) -> Float[np.ndarray, " n"]:
    weights = np.ones(n) if weights is None else np.asarray(weights, float)
    if weights.shape != (n,) or not ((weights >= 0) & (weights < np.inf)).all() or weights.sum() <= 0:
        raise DataError(f"Weights are {n} numbers from 0 on, not all 0, found the shape {weights.shape}.")
    return weights / weights.sum()


def _finite(risks: Sequence[float] | float) -> Float[np.ndarray, " runs"]:
    found = np.ravel(np.asarray(risks, float))
    if len(found) == 0 or not np.isfinite(found).all():
        raise DataError("Risks are one or more finite numbers.")
    return found
