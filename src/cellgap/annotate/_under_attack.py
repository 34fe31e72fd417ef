"""A fitted annotator as one differentiable function of genes, and its accuracy under attack."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cellgap.annotate._fitted_annotator import FittedAnnotator
from cellgap.annotate.robust import Ball, CountAttack, pgd
from cellgap.errors import ConfigError
from cellgap.nn import Tower
from cellgap.space._reading import counts_of, dense, rows_of

_MOST_GENES = 5


class GeneScores(eqx.Module):
    """Log-probabilities as a function of gene space, all of it differentiable.

    Parameters
    ----------
    components, center
        Principal axes, and the center of gene space.
    weight, bias
        Of the linear classifier.
    nets
        Networks as one tree.
    scale
        Of their inputs.
    share, temperatures
        Of the mixture: temperatures of linear classifier, networks, and both.
    """

    components: Float[Array, "genes dim"]
    center: Float[Array, " genes"]
    weight: Float[Array, "dim classes"]
    bias: Float[Array, " classes"]
    nets: Tower
    scale: Float[Array, ""]
    share: Float[Array, ""]
    temperatures: Float[Array, " three"]

    @classmethod
    def of(cls, fitted: FittedAnnotator) -> "GeneScores":
        """Return the function of an annotator.

        Raises
        ------
        ConfigError
            It uses domain heads.
        """
        if fitted.guarded is not None and fitted.guarded.rule.kind != "erm":
            raise ConfigError("An annotator that uses domain heads cannot be attacked: fit one with guarded=None.")
        sd = np.asarray(fitted.axes.genes.sd)
        m = fitted.mixture

        def array(value: Any) -> Array:
            return jnp.asarray(value, jnp.float32)

        return cls(
            array(np.asarray(fitted.axes.components) / sd[:, None]),
            array(np.asarray(fitted.axes.center) * sd),
            array(fitted.weight),
            array(fitted.bias),
            fitted.nets,
            array(fitted.scale),
            array(m.share),
            array([m.linear, m.network, m.temperature]),
        )

    def __call__(self, x: Float[Array, "n genes"]) -> Float[Array, "n classes"]:
        """Return the log-probabilities of cells."""
        codes = (x - self.center) @ self.components
        line = jax.nn.log_softmax((codes @ self.weight + self.bias), axis=1)
        n_axes = self.nets.layers[0].weight.shape[1]
        arrays, static = eqx.partition(self.nets, eqx.is_array)
        said = jax.vmap(lambda net: jax.nn.log_softmax(eqx.combine(net, static)(codes[:, :n_axes] / self.scale), 1))
        members = said(arrays)
        network = jax.nn.logsumexp(members, axis=0) - np.log(members.shape[0])
        first = jax.nn.log_softmax(line / self.temperatures[0], axis=1)
        second = jax.nn.log_softmax(network / self.temperatures[1], axis=1)
        # Shares of 0 and 1 leave one of the two out.
        both = jnp.logaddexp(first + jnp.log1p(-self.share), second + jnp.log(self.share))
        both = jnp.where(self.share == 0, first, jnp.where(self.share == 1, second, both))
        return jax.nn.log_softmax(both / self.temperatures[2], axis=1)


class _Normalized(eqx.Module):
    """Counts to gene space."""

    target_sum: float = eqx.field(static=True)

    def __call__(self, counts: Float[Array, "n genes"], rest: Float[Array, " n"]) -> Float[Array, "n genes"]:
        total = jnp.maximum(jnp.sum(counts, axis=1) + rest, 1.0)
        return jnp.log1p(counts * (self.target_sum / total)[:, None])


def accuracy_under_attack(
    fitted: FittedAnnotator,
    adata: AnnData,
    truth: Sequence[str] | np.ndarray | pd.Series,
    *,
    radii: Sequence[float] = (0.05, 0.1, 0.25),
    counts: Sequence[int] = (1, 3, 10),
    steps: int = 20,
    most_cells: int = 300,
    key: PRNGKeyArray | None = None,
) -> pd.DataFrame:
    """Return the accuracy under attacks of growing strength.

    Parameters
    ----------
    fitted
        The annotator.
    adata
        Cells.
    truth
        Their classes; cells of a class that the annotator does not know are passed over.
    radii
        Largest change of every gene in gene space (log-normalized counts), for projected gradient descent on the
        cross-entropy and the margin, two restarts each, of which the worst counts.
    counts
        Most molecules added or removed, in at most five genes; where genes are log-normalized counts. Of the attacks
        this alone is something that happens to cells: ambient RNA, index hopping.
    steps
        Of projected gradient descent.
    most_cells
        Cells that are attacked, by chance, at most.
    key
        Random key of the starts.

    Returns
    -------
    table
        Columns ``attack`` ("l_inf" or "counts"), ``strength`` (0 is none), ``accuracy``.

    Raises
    ------
    ConfigError
        Cells and classes are not equally many, no cell has a known class, or the annotator uses domain heads.
    DataError, DesignError
        Genes or the layer are missing.
    """
    key = jr.key(0) if key is None else key
    names = np.asarray(truth, dtype=object).astype(str)
    if len(names) != adata.n_obs:
        raise ConfigError(f"Give one class for each of the {adata.n_obs} cells, found {len(names)}.")
    rows = np.flatnonzero(np.isin(names, fitted.classes))
    if len(rows) == 0:
        raise ConfigError("None of the cells has a class that the annotator knows: there is nothing to attack.")
    if len(rows) > most_cells:
        rows = np.sort(np.random.default_rng(0).choice(rows, most_cells, replace=False))
    y = jnp.asarray(np.searchsorted(fitted.classes, names[rows]), jnp.int32)
    genes = fitted.axes.genes
    blocks = [dense(block) for block in genes.transformed(adata, rows_of(adata, rows))]
    x = jnp.asarray(np.concatenate(blocks), jnp.float32)
    scores = GeneScores.of(fitted)
    clean = float(np.mean(np.asarray(eqx.filter_jit(_right)(scores, x, y))))
    found: list[dict[str, Any]] = [{"attack": "l_inf", "strength": 0.0, "accuracy": clean}]
    for radius in radii:
        ball = Ball(norm="linf", radius=radius, low=0.0 if genes.nonnegative else None)
        robust = np.ones(len(rows), bool)
        for i, loss in enumerate(("cross_entropy", "margin")):
            attacked = pgd(scores, x, y, ball, steps=steps, restarts=2, loss=loss, key=jr.fold_in(key, i))
            robust &= np.asarray(attacked.margin) > 0
        found.append({"attack": "l_inf", "strength": float(radius), "accuracy": float(robust.mean())})
    if genes.transform == "lognorm" and counts:
        found.append({"attack": "counts", "strength": 0.0, "accuracy": clean})
        measured = counts_of(adata[rows], genes.layer, genes.study_genes)
        kept = measured[:, genes.columns].toarray().astype(np.int32)
        rest = np.asarray(measured.sum(axis=1)).ravel() - kept.sum(axis=1)
        for most in counts:
            attack = CountAttack(max_counts=int(most), max_genes=min(int(most), _MOST_GENES))
            done = attack(scores, jnp.asarray(kept), jnp.asarray(rest), y, _Normalized(genes.target_sum))
            share = float(np.mean(np.asarray(done.robust)))
            found.append({"attack": "counts", "strength": float(most), "accuracy": share})
    return pd.DataFrame(found)


def _right(scores: GeneScores, x: Float[Array, "n genes"], y: Int[Array, " n"]) -> Array:
    return jnp.argmax(scores(x), axis=1) == y
