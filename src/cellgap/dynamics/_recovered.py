"""Networks read from laws: which source enters which target, how surely, and with what sign."""

from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float

from cellgap.dynamics._law import Law

Score = Literal["jacobian", "paths", "groups"]
SHARE = 0.1
_BLOCK = 2**22  # entries of Jacobians at once


@dataclass(frozen=True, eq=False)
class Network:
    """Which variable drives which, as a fitted law has it. Rows are regulators, columns targets.

    Parameters
    ----------
    scores
        Mean over members; self edges are 0.
    signs
        Mean of the signed derivative over states and members: above 0 activates. Zero for other scores than Jacobians.
    strength
        Norm of the weights of every edge, times the gain of later layers, mean over members.
    frequency
        Share of the members in which an edge is among the `k` with the highest scores.
    p_value
        Share of the scores in laws of shuffled courses that are at least as high, all in units of the mean null score
        of their target; None where no null was fitted.
    kept
        Whether at least half of the members give the edge a strength of `threshold` or more, and a tenth or more of the
        strongest edge of its target.
    k, threshold
        See above.
    stability
        Mean pairwise Jaccard index of the `k` best edges of members; nan for one member. A network that changes with
        the seed is not a finding.
    score
        What was measured.
    """

    scores: pd.DataFrame
    signs: pd.DataFrame
    strength: pd.DataFrame
    frequency: pd.DataFrame
    p_value: pd.DataFrame | None
    kept: pd.DataFrame
    k: int
    threshold: float
    stability: float
    score: Score

    def __repr__(self) -> str:
        n = int(self.kept.to_numpy().sum())
        return f"Network({len(self.scores)} variables, {n} edges kept, stability {self.stability:.2f})"

    def edges(self, n: int | None = None, *, kept: bool = False) -> pd.DataFrame:
        """Return a row an edge, the highest score first.

        Parameters
        ----------
        n
            At most as many.
        kept
            Only edges that are kept.

        Returns
        -------
        edges
            ``regulator, target, score, sign, strength, frequency, p_value, kept``.
        """
        d = len(self.scores)
        i, j = np.nonzero(~np.eye(d, dtype=bool))
        names = self.scores.index.to_numpy()
        table = pd.DataFrame({"regulator": names[i], "target": names[j]})
        parts = {
            "score": self.scores,
            "sign": np.sign(self.signs),
            "strength": self.strength,
            "frequency": self.frequency,
            "p_value": self.p_value,
            "kept": self.kept,
        }
        for name, part in parts.items():
            table[name] = np.nan if part is None else part.to_numpy()[i, j]
        table = table.sort_values("score", ascending=False, kind="stable")
        table = table.loc[table["kept"].to_numpy(bool)] if kept else table
        return table.iloc[: len(table) if n is None else n].reset_index(drop=True)


def edge_scores(
    law: Law, allowed: Float[Array, "m target source"], states: Float[Array, "n s"], inputs: Float[Array, "n c"],
    score: Score,
) -> tuple[Float[np.ndarray, "m d d"], Float[np.ndarray, "m d d"], Float[np.ndarray, "m d d"]]:  # fmt: skip
    """Return scores, signs and strengths of every edge and member, without self edges.

    Parameters
    ----------
    law, allowed
        Members along the first axis.
    states, inputs
        At which the derivatives are taken, in standardized units.
    score
        ``"jacobian"``: mean absolute derivative; ``"paths"``: products of weights; ``"groups"``: norms of the first
        weights.
    """
    sources = jnp.concatenate([states, inputs], 1)
    d = allowed.shape[1]
    block = max(1, min(len(sources), _BLOCK // (sources.shape[1] * d)))
    found, sign, strength = (np.asarray(p, np.float64) for p in _of_members(law, allowed, sources, score, block))
    return _edges(found, d, law.order), _edges(sign, d, law.order), _edges(strength, d, law.order)


@eqx.filter_jit
def _of_members(law: Law, allowed: Array, sources: Array, score: Score, block: int) -> tuple[Array, Array, Array]:
    def one(member: tuple[Law, Array]) -> tuple[Array, Array, Array]:
        law, allowed = member
        net = law.settled(allowed).net
        strength = net.groups()
        if score != "jacobian":
            found = net.paths() if score == "paths" else strength
            return found, jnp.zeros_like(found), strength

        def at(row: Array) -> tuple[Array, Array]:
            derivative = net.jacobian(row[None])[0]
            return jnp.abs(derivative), derivative

        sizes, signed = jax.lax.map(at, sources, batch_size=block)
        return jnp.mean(sizes, 0), jnp.mean(signed, 0), strength

    return jax.lax.map(one, (law, allowed))


def strong(strength: Any, threshold: float) -> Any:
    """Return which edges, (members, source, target), are as strong as `threshold` and a tenth of the target's best.

    A system that moves fast has strong edges, and strong noise among them: one number alone would not do for all.
    """
    return (strength >= threshold) & (strength >= SHARE * strength.max(axis=1, keepdims=True))


def _edges(found: np.ndarray, d: int, order: int) -> np.ndarray:
    """Return sources by target, positions and velocities of a variable together, no constants, no self edges."""
    out = found[:, :d] if order == 1 else found[:, :d] + found[:, d : 2 * d]
    return out * ~np.eye(d, dtype=bool)


def network_of(
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    null: np.ndarray | None,
    variables: tuple[str, ...],
    *,
    k: int | None,
    threshold: float,
    score: Score,
) -> Network:
    """Return the network of some members.

    Parameters
    ----------
    found
        Of `edge_scores`.
    null
        Scores of laws of shuffled courses; None: there are none.
    variables
        Names.
    k
        Edges that are compared between members; None: as many as are kept, at least one a variable, at most a quarter
        of the possible ones.
    threshold, score
        See `Network`.
    """
    scores, signs, strength = found
    m, d, _ = scores.shape
    kept = strong(strength, threshold).mean(0) >= 0.5
    off = ~np.eye(d, dtype=bool)
    most = int(off.sum())
    # Where everything is kept everything agrees: at most a quarter of the possible edges say something.
    k = min(max(int(kept.sum()), d), max(most // 4, 1)) if k is None else min(k, most)
    tops = np.zeros((m, d, d), bool)
    for i in range(m):
        own = np.where(off, scores[i], -np.inf).ravel()
        best = np.argsort(-own, kind="stable")[:k]
        tops[i].flat[best[own[best] > 0]] = True
    shared = [(tops[a] & tops[b]).sum() / max((tops[a] | tops[b]).sum(), 1) for a in range(m) for b in range(a + 1, m)]
    mean = scores.mean(0)
    p_value = None
    if null is not None:
        # In units of the mean null score of the target: some targets move more than others.
        typical = np.maximum(null.sum((0, 1)) / (len(null) * max(d - 1, 1)), 1e-12)
        there = np.sort((null / typical)[:, off].ravel())
        above = len(there) - np.searchsorted(there, (mean / typical).ravel(), side="left")
        p_value = ((above + 1) / (len(there) + 1)).reshape(d, d)
        p_value = np.where(off, p_value, 1.0)

    def frame(values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, index=pd.Index(variables), columns=pd.Index(variables))

    return Network(
        scores=frame(mean),
        signs=frame(signs.mean(0)),
        strength=frame(strength.mean(0)),
        frequency=frame(tops.mean(0)),
        p_value=None if p_value is None else frame(p_value),
        kept=frame(kept & off),
        k=k,
        threshold=threshold,
        stability=float(np.mean(shared)) if shared else float("nan"),
        score=score,
    )
