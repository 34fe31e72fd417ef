"""What the trials say about a fit: accuracies of three kinds of cells, and the loss against what was possible."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from cellgap.annotate._choice import Choice
from cellgap.annotate._comp_sum import comp_sum_of_log_loss
from cellgap.annotate._conditional_minimum import conditional_minimum
from cellgap.annotate._fitted_annotator import Accuracies, FittedAnnotator
from cellgap.annotate._source import Source
from cellgap.annotate._trial import Prepared, Said, Trials


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


def with_risk(
    fitted: FittedAnnotator, whole: Prepared, source: Source, tried: Source, trials: Trials, choice: Choice
) -> FittedAnnotator:
    """Return the annotator with its loss on the cells of the trials, and the least one that was possible there.

    The class probabilities of a cell are those of the trial that did not see it: calibrated, and learnt from others.
    """
    outside = trials.outside
    p = np.exp(choice.mixture(outside.linear[choice.strength], outside.network[choice.n_axes]))
    least = float(np.mean(conditional_minimum(p / p.sum(axis=1, keepdims=True), fitted.tau)))
    rows = np.searchsorted(source.rows, tried.rows[outside.place])
    log_p = fitted.log_probability(whole.codes[rows])
    own = -log_p[np.arange(len(rows)), source.y[rows]]
    risk = float(np.mean(np.asarray(comp_sum_of_log_loss(jnp.asarray(np.maximum(own, 0.0)), fitted.tau))))
    return eqx.tree_at(lambda f: (f.risk, f.conditional_minimum), fitted, (risk, least))
