"""The annotator: settings, and checks before any long work."""

from pathlib import Path
from typing import Annotated, Any, Literal

from jaxtyping import PRNGKeyArray
from pydantic import BeforeValidator, Field, model_validator

from cellgap.annotate._choice import Criterion
from cellgap.annotate._comp_sum import CompSum
from cellgap.annotate._fit_annotator import AnnotatorFit
from cellgap.annotate._fitted_annotator import FittedAnnotator
from cellgap.annotate._source import Source
from cellgap.annotate.drm import Guarded
from cellgap.annotate.robust import AbstractRobust
from cellgap.errors import ConfigError
from cellgap.nn import Activation, GhostBatchNorm, Norm
from cellgap.settings import settings
from cellgap.space import Genes
from cellgap.study import Split, Study
from cellgap.train import Loop

_Count = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


@settings
class Annotator:
    """A classifier of cells for domains (donors, batches, laboratories) that were not seen.

    A linear classifier and small networks learn from the same principal axes of the variable genes; networks also see
    every cell with fewer molecules. Strength, number of axes and their mixture are chosen by leaving every domain out
    in turn, and the same cells calibrate the probabilities: both hold for a new domain, and a network is used as far
    as it has helped there.

    Parameters
    ----------
    loss
        Comp-sum loss of networks and linear classifier. ``CompSum(tau=1.5)`` or ``CompSum(tau="auto")`` where labels
        may be wrong.
    domains
        Columns of ``obs`` that make up the domain; none: cells are held out by chance, and nothing is known about new
        domains.
    norm
        "layer", "batch", "none" or `cellgap.nn.GhostBatchNorm`.
    genes
        Which genes, and their transform, chosen on training cells. None: the 2,000 most variable, log-normalized
        counts; other measurements as they are, scaled.
    n_axes
        Numbers of principal axes that a network may see, to choose from.
    linear_axes
        Principal axes that the linear classifier sees, at most.
    strengths
        Of the linear classifier, the C of logistic regression, to choose from.
    hidden
        Widths of the network's hidden layers.
    activation
        Of the network.
    n_members
        Networks whose probabilities are averaged.
    n_views
        Views of every cell that a network learns from, with fewer molecules but for the first one; counts only. Fewer
        where they would be more than a million together.
    thin
        Smallest part of the molecules of a view.
    balance
        "cells": all cells are as frequent in training. "domains": all domains are.
    batch_size
        Cells a step.
    learning_rate, warmup, weight_decay
        AdamW: a linear rise, then a cosine down to a hundredth.
    clip
        Largest norm of a gradient.
    loop
        Number of steps; nothing is validated on the way.
    n_folds
        Most divisions of the domains; with one domain, folds of its cells.
    inside
        Share of the cells of the other domains that is held out too, to tell the gap of a new domain from that of a new
        cell.
    trial_cells
        Cells that the choices are made with, at most; all are trained on afterwards.
    criterion
        What the choices go by, on domains that were left out. "log_loss": all cells count alike. "balanced_log_loss":
        all classes do, the mean over classes of the mean log loss of their cells. Probabilities are calibrated on all
        cells either way.
    robust
        Adversarial training (`cellgap.annotate.robust`); the linear classifier then takes no part.
    guarded
        Domain heads and rules that weigh them, where they win by leaving domains out; see `cellgap.annotate.drm`.
    false_assignment
        Share of the cells of a type without a label that may be given one, meaned over types left out in turn.
    most_unassigned
        Most cells of known types that may be left unassigned for that.

    Source
    ------
    Mao, Mohri, Zhong 2023 (arXiv 2304.07288) for the losses; Hoffer, Hubara, Soudry 2017 (arXiv 1705.08741) for ghost
    batch norm; Zhang et al. 2023 (arXiv 2208.08661) for domain heads; Guo et al. 2017 (arXiv 1706.04599) for
    temperatures. Their choice on domains that were left out, the views and the mixture are ours.
    """

    loss: CompSum = CompSum()
    domains: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    norm: Norm | GhostBatchNorm = "layer"
    genes: Genes | None = None
    n_axes: tuple[_Count, ...] = (50,)
    linear_axes: _Count = 300
    strengths: tuple[_Positive, ...] = (0.01, 0.1, 1.0, 10.0)
    hidden: tuple[_Count, ...] = (128, 64)
    activation: Activation = "gelu"
    n_members: _Count = 3
    n_views: _Count = 6
    thin: Annotated[float, Field(gt=0, le=1)] = 0.2
    balance: Literal["cells", "domains"] = "cells"
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: _Positive = 2e-3
    warmup: Annotated[int, Field(ge=0)] = 30
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    clip: _Positive = 5.0
    loop: Loop = Loop(n_steps=800, chunk=100)
    n_folds: Annotated[int, Field(ge=2)] = 8
    inside: Annotated[float, Field(ge=0, lt=1)] = 0.1
    trial_cells: Annotated[int, Field(ge=100)] = 20_000
    criterion: Criterion = "log_loss"
    robust: AbstractRobust | None = None
    guarded: Guarded | None = None
    false_assignment: _Share = 0.1
    most_unassigned: Annotated[float, Field(gt=0, lt=1)] = 0.05

    @model_validator(mode="after")
    def _check(self) -> "Annotator":
        if not self.n_axes or not self.strengths:
            raise ConfigError("Annotator needs at least one number of axes and one strength to choose from.")
        if max(self.n_axes) > self.linear_axes:
            raise ConfigError(
                f"n_axes={self.n_axes} are among the first linear_axes={self.linear_axes}: raise the latter."
            )
        if self.robust is not None and self.norm not in ("layer", "none"):
            raise ConfigError(f'Adversarial training takes norm="layer" or "none", found {self.norm!r}: attacked cells '
                              "would enter the running averages.")  # fmt: skip
        if self.robust is not None and self.guarded is not None:
            raise ConfigError("Adversarial training and domain heads cannot be combined: set one of them.")
        return self

    def fit(
        self,
        study: Study | Split,
        label: str,
        *,
        key: PRNGKeyArray,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> FittedAnnotator:
        """Return the classifier, trained on all labelled cells of a study, or on those a split does not hold out.

        Parameters
        ----------
        study
            The cells. Those without a label are passed over.
        label
            Column of ``obs`` with the classes.
        key
            Random key of the whole fit.
        folder
            Where to keep checkpoints; a run that was stopped there is resumed, bit for bit.
        progress
            Show progress bars.

        Raises
        ------
        DataError
            A column is missing, there are fewer than two classes, or the measurements do not suit the genes.
        ConfigError
            The settings do not suit the data.
        SplitError
            The split leaks.
        ConvergenceError
            Training diverged.
        KeyboardInterrupt
            Ctrl-C; what was done is in the folder.
        """
        if isinstance(study, Split):
            study.check_leaks()
        source = Source.of(study, label, self.domains)
        return AnnotatorFit(self, source, label, key, None if folder is None else Path(folder), progress).run()
