"""What the trials say about a fit: accuracies of three kinds of cells, and the loss against what was possible."""

import jax.numpy as jnp
import numpy as np

from cellgap.annotate._choice import Choice, LogP, tempered
from cellgap.annotate._comp_sum import comp_sum_of_log_loss
from cellgap.annotate._conditional_minimum import conditional_minimum
from cellgap.annotate._fitted_annotator import Accuracies
from cellgap.annotate._trial import Said, Trials


def accuracies_of(trials: Trials, choice: Choice) -> Accuracies:
    """Return the accuracies of the chosen mixture; classes that a division did not train on count as wrong."""

    def per_division(said: Said) -> list[float]:
        p = choice.mixture(said.linear[choice.strength], said.network[choice.n_axes])
        right = p.argmax(axis=1) == said.judged.y
        parts = [right[said.judged.division == i] for i in range(len(said.judged.names))]
        return [float(part.mean()) for part in parts if len(part)]

    outside = per_division(trials.outside)
    inside = float("nan") if trials.inside is None else float(np.mean(per_division(trials.inside)))
    se = float(np.std(outside, ddof=1) / np.sqrt(len(outside))) if len(outside) > 1 else float("nan")
    return Accuracies(float(np.mean(per_division(trials.train))), inside, float(np.mean(outside)), se)


def minimizability_of(trials: Trials, choice: Choice, tau: float) -> tuple[float, float, float]:
    """Return the gaps of linear classifiers and of networks, and the conditional minimum, on left-out domains.

    The least loss of a family (over strengths, or numbers of axes) stands for the least that it can reach, which makes
    the gap an upper estimate; class probabilities are those of the calibrated mixture.
    """
    said = trials.outside
    known = said.judged.known
    y = said.judged.y[known]
    p = np.exp(choice.mixture(said.linear[choice.strength], said.network[choice.n_axes])[known])
    least = float(np.mean(conditional_minimum(p / p.sum(axis=1, keepdims=True), tau)))

    def risk(log_p: LogP) -> float:
        own = -tempered(log_p[known], said.judged.temperature(log_p))[np.arange(len(y)), y]
        return float(np.mean(np.asarray(comp_sum_of_log_loss(jnp.asarray(np.maximum(own, 0.0)), tau))))

    linear = min(risk(log_p) for log_p in said.linear.values())
    network = min(risk(log_p) for log_p in said.network.values())
    return linear - least, network - least, least
