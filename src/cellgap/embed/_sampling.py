"""The diagnosis of a pair sampler: what was measured, and what it means in sentences."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from cellgap.storage import storable

Level = Literal["ok", "note", "warn"]

FROZEN, MOVED = 0.02, 0.5
"""Reach of a factor below which it counts as frozen, and above which as moved."""
_COMPARABLE, _ANISOTROPIC = 0.5, 0.05
_PAIRS_A_DIRECTION = 50
_AGREE = 0.9


@storable
@dataclass(frozen=True)
class Sentence:
    """One finding.

    Parameters
    ----------
    level
        "ok", "note" or "warn".
    text
        A sentence.
    """

    level: str
    text: str

    def __str__(self) -> str:
        return f"[{self.level}] {self.text}"


@storable
@dataclass(frozen=True)
class Factor:
    """How far a sampler moves a factor.

    Parameters
    ----------
    name
        Column of ``obs``, "treatment" or "depth".
    reach
        0: pairs never change it; 1: they change it as often as random pairs.
    role
        "keep", "nuisance" or "".
    """

    name: str
    reach: float
    role: str

    @property
    def verdict(self) -> str:
        """Whether it is "frozen", "partly moved" or "moved"."""
        return "frozen" if self.reach < FROZEN else "moved" if self.reach > MOVED else "partly moved"


@storable
@dataclass(frozen=True)
class Direction:
    """One direction of the moved-variance spectrum in words.

    Parameters
    ----------
    rho
        0 frozen, 1 independent.
    genes
        Those that vary most along it.
    factors
        Names of factors with the share of its variance that each explains, largest first.
    """

    rho: float
    genes: tuple[str, ...]
    factors: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        about = ", ".join(f"{name} {share:.2f}" for name, share in self.factors if share >= 0.1)
        return f"{about}; {', '.join(self.genes[:3])}" if about else ", ".join(self.genes[:3])


@storable
@dataclass(frozen=True)
class Trained:
    """What the loss and the embedding reached.

    Parameters
    ----------
    loss
        Alignment and uniformity on training cells, without log M.
    floor, matched
        The least that any map can reach, and what an isometry of the reference space would.
    alignment
        Mean cosine of pairs.
    uniformity_gap
        Mean log partition less that of the uniform law; 0: spread over the whole sphere.
    effective_rank
        Of the embedding: exponential of the entropy of its spectrum.
    agreement
        Least R² of a linear map between embeddings of two runs; None with one run.
    """

    loss: float
    floor: float
    matched: float
    alignment: float
    uniformity_gap: float
    effective_rank: float
    agreement: float | None


@storable
@dataclass(frozen=True)
class SamplingDiagnosis:
    """What a pair sampler moves and what it freezes; ``print`` it for the sentences.

    Parameters
    ----------
    pairs
        The sampler, in words.
    reference
        The space in which directions are meant.
    n_cells, n_able, n_pairs
        Training cells, those that have a partner, sampled pairs.
    rho
        Moved-variance spectrum, upwards.
    directions
        The least moved ones in words, in the order of `rho`.
    factors
        Reach of every factor.
    coverage
        Share of cells that R partners of one cell come near: ((R, share), ...).
    components, lambda_2
        Of the graph of pairs.
    alignment
        Mean cosine of pairs in the whitened reference space, on its sphere.
    kappa
        Concentration of a von Mises-Fisher sampler of that mean cosine.
    tau
        Temperature of the loss.
    surplus
        Total variation between the law of partners and the uniform law on their support; 0 means that support-corrected
        negatives alone would collapse every fibre.
    trained
        After a fit.

    Source
    ------
    Zaliaduonis et al. 2026 (arXiv 2606.04280) for the conditions; the readings are ours.
    """

    pairs: str
    reference: str
    n_cells: int
    n_able: int
    n_pairs: int
    rho: Float[np.ndarray, " d"]
    directions: tuple[Direction, ...]
    factors: tuple[Factor, ...]
    coverage: tuple[tuple[int, float], ...]
    components: int
    lambda_2: float
    alignment: float
    kappa: float
    tau: float
    surplus: float
    trained: Trained | None = None

    @property
    def alpha(self) -> float:
        """Anisotropy: the least moved direction over the most moved one."""
        return float(self.rho[0] / self.rho[-1]) if self.rho[-1] > 0 else 1.0

    @property
    def n_frozen(self) -> int:
        """Number of directions that move less than 2 % of the most moved one."""
        return int((self.rho < FROZEN * self.rho[-1]).sum())

    @property
    def reach(self) -> dict[str, float]:
        """Reach of every factor."""
        return {factor.name: factor.reach for factor in self.factors}

    @property
    def warnings(self) -> tuple[str, ...]:
        """The sentences that say that something will be lost or kept against the user's wish."""
        return tuple(s.text for s in self.sentences() if s.level == "warn")

    def sentences(self) -> tuple[Sentence, ...]:
        """Return all findings, warnings among them."""
        found = [*self._about_directions(), *self._about_factors(), *self._about_the_graph(), *self._about_training()]
        return tuple(found)

    def after(self, trained: Trained) -> "SamplingDiagnosis":
        """Return the diagnosis with what training reached."""
        return dataclasses.replace(self, trained=trained)

    def frame(self) -> pd.DataFrame:
        """Return the factors as a table: name, reach, verdict, role."""
        columns: Any = ["name", "reach", "verdict", "role"]
        return pd.DataFrame([[getattr(factor, name) for name in columns] for factor in self.factors], columns=columns)

    def __str__(self) -> str:
        head = (
            f"{self.pairs}: {self.n_pairs:,} pairs of {self.n_able:,} cells, in {self.reference}; "
            f"alpha {self.alpha:.3g}, {self.n_frozen} of {len(self.rho)} directions frozen"
        )
        reach = ", ".join(f"{factor.name} {factor.reach:.2f}" for factor in self.factors)
        return "\n".join([head, f"reach: {reach}", *map(str, self.sentences())])

    def _about_directions(self) -> list[Sentence]:
        d, alpha, frozen = len(self.rho), self.alpha, self.n_frozen
        found = []
        if alpha < _ANISOTROPIC or frozen:
            least = "; ".join(f"{i + 1}: {direction}" for i, direction in enumerate(self.directions[:3]))
            hardly = f"{frozen} of {d} directions never move" if frozen else (
                f"The least moved of {d} directions moves {1 / max(alpha, 1e-12):.0f}x less than the most moved one"
            )  # fmt: skip
            found.append(
                Sentence(
                    "warn",
                    f"{hardly} (least moved: {least}). The loss keeps them and may discard the rest; distances between "
                    "values of the frozen part are set by the encoder, not by the data.",
                )
            )
        elif alpha < _COMPARABLE:
            found.append(
                Sentence(
                    "note",
                    f"The least moved of {d} directions ({self.directions[0]}) moves {1 / alpha:.1f}x less than the "
                    "most moved one: expect it to be stretched, the others compressed.",
                )
            )
        else:
            found.append(Sentence("ok", f"The pair sampler moves all {d} directions by comparable amounts."))
        if self.n_pairs < _PAIRS_A_DIRECTION * d:
            error = float(np.sqrt(2 / self.n_pairs))
            found.append(Sentence("note", f"Too few pairs for a spectrum (relative error about {error:.2f})."))
        if self.n_able < self.n_cells:
            found.append(
                Sentence(
                    "note", f"{self.n_cells - self.n_able:,} of {self.n_cells:,} cells have no partner: never anchors."
                )
            )
        return found

    def _about_factors(self) -> list[Sentence]:
        by = {verdict: [f.name for f in self.factors if f.verdict == verdict] for verdict in ("frozen", "moved")}
        told = []
        if by["frozen"]:
            told.append("Pairs never change " + ", ".join(by["frozen"]) + ": kept.")
        if by["moved"]:
            told.append(
                "Pairs change " + ", ".join(by["moved"]) + " at least half as often as random pairs do: compressed."
            )
        found = [Sentence("ok", " ".join(told))] if told else []
        for factor in self.factors:
            if factor.role == "nuisance" and factor.reach < FROZEN:
                found.append(
                    Sentence(
                        "warn",
                        f"{factor.name} is listed as nuisance but pairs never change it: it will stay in the "
                        "embedding.",
                    )
                )
            if factor.role == "keep" and factor.reach > MOVED:
                found.append(
                    Sentence("warn", f"{factor.name} is listed to keep but pairs change it: it will be compressed.")
                )
        return found

    def _about_the_graph(self) -> list[Sentence]:
        if self.components <= 1:
            return []
        text = f"Pairs split the cells into {self.components:,} islands; their relative positions are arbitrary."
        return [Sentence("warn", text)]

    def _about_training(self) -> list[Sentence]:
        if self.trained is None:
            return []
        t, found = self.trained, []
        width = t.matched - t.floor
        if t.loss - t.floor < 0.05 * width:
            found.append(Sentence("warn", "Positives are already indistinguishable: the varied part has been dropped."))
        if t.uniformity_gap > 0.1 * width:
            found.append(Sentence("note", "Embedding is not spread out (partial collapse)."))
        if t.agreement is not None and t.agreement < _AGREE:
            found.append(Sentence("warn", f"Two runs disagree (R2 {t.agreement:.2f}); do not interpret distances."))
        return found
