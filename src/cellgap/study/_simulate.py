"""A simulated drug screen: raw counts, doses, combinations, cell lines, and what each cell would have become."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from cellgap.errors import ConditionError, ConfigError
from cellgap.study._condition import Condition
from cellgap.study._design import Design
from cellgap.study._treatment import Treatment

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from cellgap.study._study import Study

_CONTROL = "vehicle"
_CONTEXT = "cell_line"
_LATENT_DIM = 8
_DESCRIPTOR_DIM = 4
_TYPES = 3
_MECHANISMS = 3
_TYPE_SD = 0.9  # between cell types, per latent coordinate
_STATE_SD = 0.45  # within a cell type
_SCATTER = 0.35  # of drugs around their mechanism
_RESPONSE_SD = 0.75
_CONTEXT_RESPONSE_SD = 0.25
_INTERACTION_SD = 0.35
_LIBRARY_SD = 0.35


@dataclass(frozen=True, eq=False)
class Biology:
    """The parameters of a simulated screen: what is true, and what a model has to find out.

    Parameters
    ----------
    base
        Log expression of each cell line, (contexts, genes).
    loadings
        Log expression per unit of latent state, (latent, genes).
    types
        Latent mean of each cell type, (types, latent).
    proportions
        Of cell types in each cell line, (contexts, types).
    response
        Latent response per unit of descriptor at full dose, (contexts, descriptors, latent).
    sensitivity
        How the strength of the response depends on the state, (descriptors, latent).
    potency
        Weights of the descriptors in log10 of the EC50, (descriptors,).
    interaction
        Latent response to the product of two drugs' descriptors, (descriptors, latent).
    inverse_dispersion
        Of the negative binomial, (genes,): variance ``mu + mu^2 / theta``.
    """

    base: np.ndarray
    loadings: np.ndarray
    types: np.ndarray
    proportions: np.ndarray
    response: np.ndarray
    sensitivity: np.ndarray
    potency: np.ndarray
    interaction: np.ndarray
    inverse_dispersion: np.ndarray

    def effect(self, dose: float, descriptor: np.ndarray) -> float:
        """Return the Hill response to a dose in nM, 0 to 1: ``dose / (dose + EC50)``."""
        ec50 = 10 ** (2.3 + 0.5 * np.tanh(descriptor @ self.potency))
        return float(dose / (dose + ec50))

    def respond(self, z: np.ndarray, context: np.ndarray, treatments: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
        """Return the latent states after treatment.

        ``z' = z + sum_k h_k (1 + tanh(z A u_k) / 2) (R_context u_k) + sum_(j<k) h_j h_k I (u_j u_k)``

        Parameters
        ----------
        z
            States before treatment, (cells, latent).
        context
            Index of each cell's line, (cells,).
        treatments
            Descriptor u and dose in nM of each treatment.
        """
        moved = z.copy()
        strengths = [self.effect(dose, u) for u, dose in treatments]
        for (u, _), strength in zip(treatments, strengths, strict=True):
            direction = np.einsum("p,cpl->cl", u, self.response)[context]
            moved += strength * (1 + 0.5 * np.tanh(z @ (u @ self.sensitivity)))[:, None] * direction
        for i, (u, _) in enumerate(treatments):
            for j in range(i):
                moved += strengths[i] * strengths[j] * (u * treatments[j][0]) @ self.interaction
        return moved

    def rates(self, z: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Return the expected share of each gene in a cell's counts, (cells, genes), rows sum to 1."""
        log_rate = self.base[context] + z @ self.loadings
        log_rate -= log_rate.max(axis=1, keepdims=True)
        rate = np.exp(log_rate)
        return rate / rate.sum(axis=1, keepdims=True)

    def draw(self, rng: np.random.Generator, rates: np.ndarray, library: np.ndarray) -> np.ndarray:
        """Return negative-binomial counts of these expected shares and library sizes."""
        mean = rates * library[:, None]
        theta = self.inverse_dispersion
        return rng.poisson(rng.gamma(theta, mean / theta)).astype(np.int32)


@dataclass(frozen=True, eq=False)
class SimulatedScreen:
    """A simulated drug screen with its truth; made by `simulate_screen` (``cg.simulate``).

    Parameters
    ----------
    adata
        Raw counts (int32 CSR); ``obs`` has ``drug`` ("vehicle", "A1", "A1+B1"), ``dose_nM``, ``cell_line`` and
        ``cell_type``; ``uns["treatment_descriptors"]`` is `descriptors`.
    design
        The design that fits ``adata``.
    descriptors
        Numeric descriptors of the drugs, one row a drug; the response is linear in them.
    biology
        The true parameters.
    states
        Latent state of every cell before treatment, (cells, latent).
    library
        Expected total counts of every cell, (cells,).
    cell_lines
        Names of the cell lines, in the order of ``biology``.
    seed
        Of the whole simulation.
    """

    adata: "AnnData"
    design: Design
    descriptors: "DataFrame" = field(repr=False)
    biology: Biology = field(repr=False)
    states: np.ndarray = field(repr=False)
    library: np.ndarray = field(repr=False)
    cell_lines: tuple[str, ...]
    seed: int

    def study(self) -> "Study":
        """Return the screen as a Study."""
        from cellgap.study._study import Study

        return Study(self.adata, self.design)

    def rates(self, condition: Condition | str, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the expected share of each gene had these cells been treated so, (cells, genes).

        Parameters
        ----------
        condition
            Any doses and combinations of the simulated drugs, measured or not.
        rows
            Row indices of ``adata``; None takes the controls of the condition's cell line, or all controls where it
            names none. Every cell has a state from before its treatment, so treated cells are allowed too.

        Raises
        ------
        ConditionError
            A drug or cell line was not simulated, a drug has no dose, or a cell is of another line.
        """
        condition, rows = self._resolve(condition, rows)
        treatments = [self._drug(t) for t in condition.treatments]
        context = self._context_codes()[rows]
        return self.biology.rates(self.biology.respond(self.states[rows], context, treatments), context)

    def truth(
        self, condition: Condition | str, rows: np.ndarray | None = None, *, target_sum: float = 1e4
    ) -> np.ndarray:
        """Return the noise-free log-normalized expression, ``log(1 + target_sum * rates)``, (cells, genes).

        The mean over measured cells of log-normalized *counts* is lower, because the logarithm is concave; compare
        means of noisy cells with `counts` instead. See `rates` for the arguments.
        """
        return np.log1p(target_sum * self.rates(condition, rows))

    def counts(self, condition: Condition | str, rows: np.ndarray | None = None, *, seed: int = 0) -> sp.csr_matrix:
        """Return counts that these cells, with their own library sizes, might have shown had they been treated so."""
        condition, rows = self._resolve(condition, rows)
        rng = np.random.default_rng([self.seed, seed])
        return sp.csr_matrix(self.biology.draw(rng, self.rates(condition, rows), self.library[rows]))

    def _resolve(self, condition: Condition | str, rows: np.ndarray | None) -> tuple[Condition, np.ndarray]:
        if isinstance(condition, str):
            condition = Condition.parse(condition, (_CONTEXT,))
        wanted = dict(condition.context)
        if set(wanted) - {_CONTEXT} or wanted.get(_CONTEXT, self.cell_lines[0]) not in self.cell_lines:
            known = ", ".join(self.cell_lines)
            raise ConditionError(f"{condition!r} was not simulated: expected one {_CONTEXT} of {known}, or none.")
        obs = self.adata.obs
        in_line = np.ones(len(obs), bool) if not wanted else (obs[_CONTEXT] == wanted[_CONTEXT]).to_numpy()
        if rows is None:
            return condition, np.flatnonzero((obs["drug"] == _CONTROL).to_numpy() & in_line)
        rows = np.asarray(rows)
        if not in_line[rows].all():
            raise ConditionError(f"{condition!r} names a cell line, but some of the cells given are of another one.")
        return condition, rows

    def _drug(self, treatment: Treatment) -> tuple[np.ndarray, float]:
        if treatment.name not in self.descriptors.index:
            known = ", ".join(self.descriptors.index)
            raise ConditionError(f"The drug {treatment.name!r} was not simulated: expected one of {known}.")
        dose = treatment.to_unit("nM").dose
        if dose is None:
            raise ConditionError(f"The simulated drug {treatment.name} needs a dose: write {treatment.name}@1000nM.")
        return self.descriptors.loc[treatment.name].to_numpy(dtype=np.float64), dose

    def _context_codes(self) -> np.ndarray:
        import pandas as pd

        return pd.Index(list(self.cell_lines)).get_indexer(pd.Index(self.adata.obs[_CONTEXT].astype(str)))


def simulate_screen(
    *,
    n_drugs: int = 9,
    doses: Sequence[float] = (10.0, 100.0, 1000.0, 10000.0),
    n_combinations: int = 2,
    cell_lines: Sequence[str] = ("line1", "line2"),
    n_genes: int = 150,
    n_cells: int = 120,
    n_controls: int = 500,
    counts_per_cell: float = 2000.0,
    seed: int = 0,
) -> SimulatedScreen:
    """Return a simulated drug screen: negative-binomial counts with known counterfactuals.

    Every cell has a latent state from a mixture of cell types. Drugs come in three mechanisms (A1, B1, C1, A2, ...)
    and have 4 numeric descriptors; the response of the latent state is linear in them, saturates with the dose (Hill),
    depends on the state of the cell, and is partly the cell line's own. Combinations add, plus a small interaction.
    A held-out drug or dose can therefore be learnt from the others, but not perfectly.

    Parameters
    ----------
    n_drugs
        Number of drugs, at least 1.
    doses
        In nM.
    n_combinations
        How many pairs of drugs, each at the second-highest dose (or the only one).
    cell_lines
        Names of the cell lines.
    n_genes
        Number of genes, at least 10.
    n_cells
        Cells of every condition in every cell line.
    n_controls
        Control cells of every cell line.
    counts_per_cell
        Median of the expected total counts.
    seed
        Seed of everything.

    Raises
    ------
    ConfigError
        A number is out of range, or there are fewer pairs of drugs than combinations.
    """
    doses, cell_lines = tuple(float(d) for d in doses), tuple(cell_lines)
    _refuse_impossible(n_drugs, doses, n_combinations, cell_lines, n_genes, min(n_cells, n_controls), counts_per_cell)
    rng = np.random.default_rng(seed)
    biology = _biology(rng, len(cell_lines), n_genes)
    names = [f"{chr(ord('A') + i % _MECHANISMS)}{i // _MECHANISMS + 1}" for i in range(n_drugs)]
    descriptors = _descriptors(rng, n_drugs)

    plan: list[tuple[str, float, list[tuple[np.ndarray, float]], int]] = [(_CONTROL, 0.0, [], n_controls)]
    for i, name in enumerate(names):
        plan += [(name, dose, [(descriptors[i], dose)], n_cells) for dose in doses]
    dose = sorted(doses)[-2:][0]
    for i, j in _pairs(n_drugs)[:n_combinations]:
        both = [(descriptors[i], dose), (descriptors[j], dose)]
        plan.append((f"{names[i]}+{names[j]}", dose, both, n_cells))

    states, library, counts = [], [], []
    labels: dict[str, list[Any]] = {"drug": [], "dose_nM": [], _CONTEXT: [], "cell_type": []}
    for line, line_name in enumerate(cell_lines):
        for drug, dose, treatments, n in plan:
            kind = rng.choice(_TYPES, size=n, p=biology.proportions[line])
            z = biology.types[kind] + _STATE_SD * rng.standard_normal((n, _LATENT_DIM))
            total = counts_per_cell * np.exp(_LIBRARY_SD * rng.standard_normal(n))
            context = np.full(n, line)
            rates = biology.rates(biology.respond(z, context, treatments), context)
            counts.append(sp.csr_matrix(biology.draw(rng, rates, total)))
            states.append(z)
            library.append(total)
            labels["drug"] += [drug] * n
            labels["dose_nM"] += [dose] * n
            labels[_CONTEXT] += [line_name] * n
            labels["cell_type"] += [f"type{k + 1}" for k in kind]
    return _package(labels, counts, states, library, names, descriptors, cell_lines, biology, seed)


simulate = simulate_screen


def _refuse_impossible(
    n_drugs: int,
    doses: tuple[float, ...],
    n_combinations: int,
    cell_lines: tuple[str, ...],
    n_genes: int,
    fewest: int,
    counts_per_cell: float,
) -> None:
    if n_drugs < 1 or n_genes < 10 or fewest < 1 or not counts_per_cell > 0:
        raise ConfigError(
            "A simulated screen needs n_drugs >= 1, n_genes >= 10, a cell a condition and counts_per_cell > 0; "
            f"found n_drugs={n_drugs}, n_genes={n_genes}, {fewest} cells and counts_per_cell={counts_per_cell}."
        )
    if not doses or min(doses) <= 0 or len(set(doses)) < len(doses):
        raise ConfigError(f"A simulated screen needs different doses above 0 nM, found {doses}.")
    if not cell_lines or len(set(cell_lines)) < len(cell_lines) or "" in cell_lines:
        raise ConfigError(f"A simulated screen needs cell lines of different names, found {cell_lines}.")
    if not 0 <= n_combinations <= len(_pairs(n_drugs)):
        raise ConfigError(
            f"{n_drugs} drugs have {len(_pairs(n_drugs))} pairs, found n_combinations={n_combinations}: ask for fewer."
        )


def _pairs(n_drugs: int) -> list[tuple[int, int]]:
    """Return all pairs of drugs, neighbors (which differ in mechanism) first."""
    return sorted(((i, j) for j in range(n_drugs) for i in range(j)), key=lambda pair: (pair[1] - pair[0], pair))


def _descriptors(rng: np.random.Generator, n_drugs: int) -> np.ndarray:
    """Return descriptors of drugs that scatter around three mechanisms a good distance apart."""
    mechanisms = np.linalg.qr(rng.standard_normal((_DESCRIPTOR_DIM, _DESCRIPTOR_DIM)))[0][:_MECHANISMS]
    return mechanisms[np.arange(n_drugs) % _MECHANISMS] + _SCATTER * rng.standard_normal((n_drugs, _DESCRIPTOR_DIM))


def _biology(rng: np.random.Generator, n_contexts: int, n_genes: int) -> Biology:
    common = 1.0 * rng.standard_normal(n_genes)
    own = 0.5 * rng.standard_normal((n_contexts, n_genes)) * (rng.random((n_contexts, n_genes)) < 0.3)
    loadings = 0.55 * rng.standard_normal((_LATENT_DIM, n_genes)) * (rng.random((_LATENT_DIM, n_genes)) < 0.3)
    shape = (n_contexts, _DESCRIPTOR_DIM, _LATENT_DIM)
    shared = _RESPONSE_SD * rng.standard_normal(shape[1:])
    return Biology(
        base=common + own,
        loadings=loadings,
        types=_TYPE_SD * rng.standard_normal((_TYPES, _LATENT_DIM)),
        proportions=rng.dirichlet(np.full(_TYPES, 8.0), size=n_contexts),
        response=shared + _CONTEXT_RESPONSE_SD * rng.standard_normal(shape),
        sensitivity=0.5 * rng.standard_normal(shape[1:]),
        potency=rng.standard_normal(_DESCRIPTOR_DIM),
        interaction=_INTERACTION_SD * rng.standard_normal(shape[1:]),
        inverse_dispersion=rng.gamma(4.0, 1.0, size=n_genes) + 1.0,
    )


def _package(
    labels: dict[str, list[Any]],
    counts: list[sp.csr_matrix],
    states: list[np.ndarray],
    library: list[np.ndarray],
    names: list[str],
    descriptors: np.ndarray,
    cell_lines: tuple[str, ...],
    biology: Biology,
    seed: int,
) -> SimulatedScreen:
    import pandas as pd
    from anndata import AnnData

    table = pd.DataFrame(
        descriptors, index=pd.Index(names), columns=pd.Index([f"descriptor{j + 1}" for j in range(_DESCRIPTOR_DIM)])
    )
    x = sp.csr_matrix(sp.vstack(counts, format="csr"))
    n_obs, n_vars = len(labels["drug"]), len(biology.inverse_dispersion)
    obs = pd.DataFrame(labels, index=pd.Index([f"cell{i}" for i in range(n_obs)]))
    for column in ("drug", _CONTEXT, "cell_type"):
        obs[column] = obs[column].astype("category")
    var = pd.DataFrame(index=pd.Index([f"gene{j + 1}" for j in range(n_vars)]))
    return SimulatedScreen(
        adata=AnnData(x, obs=obs, var=var, uns={"treatment_descriptors": table}),
        design=Design(treatment="drug", control=_CONTROL, dose="dose_nM", context=(_CONTEXT,), counts="X"),
        descriptors=table,
        biology=biology,
        states=np.concatenate(states),
        library=np.concatenate(library),
        cell_lines=cell_lines,
        seed=seed,
    )
