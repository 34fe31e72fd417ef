"""A problem with a known answer: cells in a latent space, moved by known optimal maps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from cellgap.errors import ConditionError, ConfigError
from cellgap.study._condition import Condition
from cellgap.study._design import Design
from cellgap.study._treatment import Treatment

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from cellgap.study._study import Study

# Chosen so that the reference values in the docstring of `simulate_latent` come out (tests/study/test_simulate.py).
_COMPONENTS = 3
_INTRINSIC_DIM = 10
_SEPARATION = 0.72
_COMPONENT_SD = 1.12
_AMBIENT_SD = 0.28
_OFFSET = 1.9
_SHIFT_NORM = 4.75
_HIDDEN = 32
_WEIGHT_SCALE = 1.15
_DESCRIPTOR_DIM = 3
_TOP_LOG_DOSE = 4.0  # s_dose is 1 at 10**4 nM


@dataclass(frozen=True, eq=False)
class SimulatedLatent:
    """Populations of latent cells with the true map of every condition; made by `simulate_latent`.

    Parameters
    ----------
    adata
        Cells by coordinates, float32, not counts. ``obs`` has ``drug`` ("control" for controls), ``dose_nM``
        (0 for controls) and ``part`` ("train" or "test").
    design
        The design that fits ``adata``.
    descriptors
        One row a drug: the vector u that b and W are linear in. Also in ``adata.uns["treatment_descriptors"]``.
    shifts
        b of each drug, shape (drugs, dim).
    weights
        W of each drug, shape (drugs, hidden, dim).
    """

    adata: "AnnData"
    design: Design
    descriptors: "DataFrame" = field(repr=False)
    shifts: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)

    def study(self) -> "Study":
        """Return the cells as a Study."""
        from cellgap.study._study import Study

        return Study(self.adata, self.design)

    def rows(self, condition: Condition | str, part: str) -> np.ndarray:
        """Return the row indices of one population: ``part`` is "train" or "test".

        Raises
        ------
        ConditionError
            There are no such cells.
        """
        treatments = _parsed(condition).treatments
        name, dose = ("control", 0.0) if not treatments else (treatments[0].name, _nanomolar(treatments[0]))
        obs = self.adata.obs
        mask = (obs["drug"] == name) & (obs["dose_nM"] == dose) & (obs["part"] == part)
        rows = np.flatnonzero(mask.to_numpy())
        if len(treatments) > 1 or rows.size == 0:
            raise ConditionError(
                f"No {part} cells of {condition} were simulated: expected control or one of the drugs "
                f"{', '.join(self.descriptors.index)} at a simulated dose, and part 'train' or 'test'."
            )
        return rows

    def cells(self, condition: Condition | str, part: str) -> np.ndarray:
        """Return the cells of one population, float32 of shape (cells, dim)."""
        return np.asarray(self.adata.X)[self.rows(condition, part)]

    def truth(self, x: np.ndarray, condition: Condition | str) -> np.ndarray:
        """Return where the cells ``x`` go under any condition of known drugs, measured or not.

        ``T*(x) = x + s_dose (b + W^T sigmoid(W x))``, the gradient of a convex function. A combination adds the
        displacements of its members, which is again such a gradient.

        Parameters
        ----------
        x
            Control cells, shape (cells, dim).
        condition
            Doses in any unit that converts to nM; above 1 nM.

        Raises
        ------
        ConditionError
            A drug is unknown, or comes without a dose above 1 nM.
        """
        x = np.asarray(x, np.float64)
        moved = x.copy()
        for treatment in _parsed(condition).treatments:
            if treatment.name not in self.descriptors.index:
                known = ", ".join(self.descriptors.index)
                raise ConditionError(f"The drug {treatment.name!r} was not simulated: expected one of {known}.")
            drug = self.descriptors.index.get_loc(treatment.name)
            moved += self.displacement(x, self.shifts[drug], self.weights[drug], _nanomolar(treatment))
        return moved

    def truth_of(self, x: np.ndarray, descriptor: np.ndarray, dose: float) -> np.ndarray:
        """Return where the cells ``x`` go under a drug that is known by its descriptor only, at a dose in nM.

        b and W are linear in the descriptor, so they follow from the simulated drugs, which must span its space.
        """
        mix = np.linalg.pinv(self.descriptors.to_numpy()).T @ np.asarray(descriptor, np.float64)
        shift, weight = np.tensordot(mix, self.shifts, 1), np.tensordot(mix, self.weights, 1)
        return np.asarray(x, np.float64) + self.displacement(x, shift, weight, dose)

    @staticmethod
    def displacement(x: np.ndarray, shift: np.ndarray, weight: np.ndarray, dose: float) -> np.ndarray:
        """Return ``s_dose (b + W^T sigmoid(W x))`` with ``s_dose = log10(dose in nM) / 4``."""
        if not dose > 1:
            raise ConditionError(f"A simulated dose must be above 1 nM, found {dose:g} nM: s_dose is its logarithm.")
        return np.log10(dose) / _TOP_LOG_DOSE * (shift + expit(x @ weight.T) @ weight)


def simulate_latent(
    *,
    drugs: int | Sequence[str] = ("A", "B", "C"),
    doses: Sequence[float] = (10.0, 10000.0),
    dim: int = 50,
    n_train: int = 2000,
    n_test: int = 1000,
    seed: int = 0,
) -> SimulatedLatent:
    """Return unpaired control and treated populations whose true maps are known and optimal.

    Controls are a mixture of three Gaussians of intrinsic dimension 10 in R^dim with a little noise in all
    directions. Drug k at a dose moves a cell by ``T*(x) = x + s_dose (b_k + W_k^T sigmoid(W_k x))``, with
    ``s_dose = log10(dose in nM) / 4``. Every population has cells of its own. ``b_k = B u_k`` and
    ``W_k = sum_j u_kj W^j`` are linear in the drug's descriptor ``u_k`` (3 numbers, a unit vector), so the right
    answer for a held-out drug or dose follows from the others.

    The scales are set so that at 10 uM (defaults, mean over drugs and seeds) the L2-UVP,
    ``100 E|T(x) - T*(x)|^2 / Var(nu)``, is 78-103 for the identity, 3.7-5.7 for the mean shift and about 0.67 for
    the Gaussian map, and the identity keeps 0.70-0.94 of the treated variance.

    Parameters
    ----------
    drugs
        Names, or how many (named A, B, C, ..., then D26, D27, ...). Descriptors have 3 numbers: to hold drugs out,
        simulate well over 3.
    doses
        In nM, above 1.
    dim
        Number of coordinates, at least 14.
    n_train, n_test
        Cells of each population in the two parts.
    seed
        Seed of everything.

    Raises
    ------
    ConfigError
        A number is out of range, or a name comes twice.
    """
    names = _names(drugs)
    if dim < _INTRINSIC_DIM + _DESCRIPTOR_DIM + 1 or n_train < 1 or n_test < 0:
        raise ConfigError(
            f"simulate_latent needs dim >= 14, n_train >= 1 and n_test >= 0, found {dim}, {n_train} and {n_test}."
        )
    if not doses or min(doses) <= 1 or len(set(doses)) < len(doses):
        raise ConfigError(f"simulate_latent needs different doses above 1 nM, found {tuple(doses)}.")
    rng = np.random.default_rng(seed)
    loadings = np.linalg.qr(rng.standard_normal((dim, _INTRINSIC_DIM)))[0].T
    centers, offset = _centers(rng)
    descriptors = rng.standard_normal((len(names), _DESCRIPTOR_DIM))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    # Shifts are orthogonal to each other and to the mean of the controls, so all drugs move cells about equally far.
    basis = np.linalg.qr(np.column_stack([offset @ loadings, rng.standard_normal((dim, _DESCRIPTOR_DIM))]))[0]
    shifts = _SHIFT_NORM * descriptors @ basis[:, 1:].T
    weight_basis = rng.standard_normal((_DESCRIPTOR_DIM, _HIDDEN, dim)) * _WEIGHT_SCALE / np.sqrt(dim)
    # Hidden units that cancel take out the constant half of the sigmoid, which would act as a second shift.
    weight_basis -= weight_basis.mean(axis=1, keepdims=True)
    weights = np.tensordot(descriptors, weight_basis, 1)

    def draw(n: int) -> np.ndarray:
        component = rng.integers(_COMPONENTS, size=n)
        z = centers[component] + _COMPONENT_SD * rng.standard_normal((n, _INTRINSIC_DIM))
        return z @ loadings + _AMBIENT_SD * rng.standard_normal((n, dim))

    parts, labels = [draw(n_train + n_test)], [("control", 0.0)]
    for drug, name in enumerate(names):
        for dose in doses:
            x = draw(n_train + n_test)
            parts.append(x + SimulatedLatent.displacement(x, shifts[drug], weights[drug], float(dose)))
            labels.append((name, float(dose)))
    return _package(np.concatenate(parts), labels, names, descriptors, n_train, n_test, shifts, weights)


def _centers(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the component means of the controls, of fixed spread and fixed distance from 0, and their mean."""
    centers = rng.standard_normal((_COMPONENTS, _INTRINSIC_DIM))
    centers -= centers.mean(axis=0)
    centers *= _SEPARATION * np.sqrt(_INTRINSIC_DIM / np.mean(np.sum(centers**2, axis=1)))
    offset = rng.standard_normal(_INTRINSIC_DIM)
    offset *= _OFFSET * np.sqrt(_INTRINSIC_DIM) / np.linalg.norm(offset)
    return centers + offset, offset


def _package(
    x: np.ndarray,
    labels: list[tuple[str, float]],
    names: list[str],
    descriptors: np.ndarray,
    n_train: int,
    n_test: int,
    shifts: np.ndarray,
    weights: np.ndarray,
) -> SimulatedLatent:
    import pandas as pd
    from anndata import AnnData

    table = pd.DataFrame(
        descriptors, index=pd.Index(names), columns=pd.Index([f"u{j}" for j in range(descriptors.shape[1])])
    )
    each = n_train + n_test
    obs = pd.DataFrame(
        {
            "drug": np.repeat([name for name, _ in labels], each),
            "dose_nM": np.repeat([dose for _, dose in labels], each),
            "part": np.tile(np.repeat(["train", "test"], [n_train, n_test]), len(labels)),
        },
        index=pd.Index([f"cell{i}" for i in range(len(x))]),
    )
    var = pd.DataFrame(index=pd.Index([f"x{j}" for j in range(x.shape[1])]))
    adata = AnnData(x.astype(np.float32), obs=obs, var=var, uns={"treatment_descriptors": table})
    design = Design(treatment="drug", control="control", dose="dose_nM")
    return SimulatedLatent(adata, design, table, shifts, weights)


def _names(drugs: int | Sequence[str]) -> list[str]:
    if isinstance(drugs, int):
        names = [chr(ord("A") + i) if i < 26 else f"D{i}" for i in range(drugs)]
    else:
        names = [drugs] if isinstance(drugs, str) else list(drugs)
    if not names or len(set(names)) < len(names) or "control" in names or "" in names:
        raise ConfigError(f"A simulation needs drugs of different names, none called 'control', found {names}.")
    return names


def _parsed(condition: Condition | str) -> Condition:
    return Condition.parse(condition) if isinstance(condition, str) else condition


def _nanomolar(treatment: Treatment) -> float:
    if treatment.dose is None:
        raise ConditionError(f"The simulated drug {treatment.name} needs a dose: write {treatment.name}@1000nM.")
    return float(treatment.to_unit("nM").dose or 0.0)
