"""scikit-learn's incremental principal components, for those who want its answer."""

import dataclasses
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from cellgap.storage import storable
from cellgap.stream.axes._engine import AbstractEngine, Found, Solver
from cellgap.stream.axes._low_rank import signed
from cellgap.stream.axes._moments import Moments
from cellgap.stream.axes._rows import Csr

_FITTED = ("components_", "singular_values_", "mean_", "var_", "n_samples_seen_")


@final
@storable
@dataclass(frozen=True, eq=False)
class Incremental(AbstractEngine):
    """The state of ``sklearn.decomposition.IncrementalPCA``: a heuristic that forgets what is outside of its rank.

    Parameters
    ----------
    moments
        Of all rows.
    rank
        Axes kept.
    state
        Its fitted arrays by name; empty at the start.
    """

    moments: Moments
    rank: int
    state: dict[str, Any]

    @classmethod
    def start(cls, moments: Moments, *, rank: int) -> "Incremental":
        """Return the summary of no rows."""
        return cls(moments, rank, {})

    @property
    def solver(self) -> Solver:  # type: ignore[override]
        """Name of the engine."""
        return "incremental"

    @property
    def center(self) -> bool:  # type: ignore[override]
        """Rows are always centered."""
        return True

    @property
    def factor(self) -> None:  # type: ignore[override]
        """Genes are not scaled."""
        return None

    @property
    def next_end(self) -> None:
        """Batches may end anywhere."""
        return None

    def absorb(self, rows: Csr) -> "Incremental":
        """Return the summary with these rows."""
        from sklearn.decomposition import IncrementalPCA

        rank = min(self.rank, rows.shape[0], rows.shape[1]) if not self.state else len(self.state["components_"])
        model: Any = IncrementalPCA(rank)
        for name, value in self.state.items():
            setattr(model, name, value)
        if self.state:
            model.n_components_ = rank
        with np.errstate(divide="ignore", invalid="ignore"):  # shares of no variance, where the first rows are alike
            model.partial_fit(rows.toarray(), check_input=False)
        state = {name: np.asarray(getattr(model, name)) for name in _FITTED}
        return dataclasses.replace(self, state=state, moments=self.moments + self.moments.of(rows))

    def axes(self, k: int) -> Found:
        """Return the first `k` axes."""
        energy = np.asarray(self.state["singular_values_"]) ** 2
        modelled = min(1.0, float(energy.sum()) / max(self.energy(), np.finfo(float).tiny))
        further = float(energy[k]) if len(energy) > k else float("nan")
        return Found(signed(np.asarray(self.state["components_"])[:k]), energy[:k], further, modelled)
