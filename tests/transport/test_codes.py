"""Codes: every cell once, only cells with a role, and moments of training cells only."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from small import FULL, RAW, OneHot, at, constant, screen, vehicle

from cellgap.errors import SplitError
from cellgap.space import AbstractFittedSpace, AbstractSpace
from cellgap.study import Condition, Role, Split, Study, split
from cellgap.transport import Codes


class Recorder(AbstractFittedSpace):
    """Two coordinates of the cells, and a note of every cell that was encoded."""

    seen: list[np.ndarray]
    noise: None = None

    @property
    def dim(self) -> int:
        return 2

    @property
    def genes(self) -> tuple[str, ...]:
        return ("g0", "g1")

    @property
    def layer(self) -> str | None:
        return None

    @property
    def nonnegative(self) -> bool:
        return False

    @property
    def reconstruction(self) -> dict[str, float]:
        return {}

    def measured(self, values: Any) -> np.ndarray:
        return np.asarray(values)[:, :2]

    def encode(self, adata: AnnData, rows: Any = None) -> np.ndarray:
        assert rows is not None
        self.seen.append(np.asarray(rows))
        return np.asarray(adata.X)[rows, :2].astype(np.float32)

    def decode(self, z: np.ndarray) -> np.ndarray:
        return z

    def rates(self, z: np.ndarray) -> np.ndarray:
        return z


class Recording(AbstractSpace):
    def __init__(self) -> None:
        self.fitted = Recorder([])

    def fit(self, split: Split, *, progress: bool = False) -> Recorder:
        return self.fitted


@pytest.fixture(scope="module")
def study() -> Study:
    return screen()


def test_every_cell_with_a_role_is_encoded_once_and_no_other(study):
    made = split.unseen_combination(study, [("anti", "beta")], min_cells=1)
    roles = made.roles.copy()
    roles[made.rows(at("cora", 10))[::2]] = Role.UNUSED
    made = dataclasses.replace(made, roles=roles)
    space = Recording()
    codes = Codes.of(made, space, OneHot())
    codes.moments, codes.moments  # noqa: B018 (computed twice, encoded once)
    codes.cells(vehicle(), Role.TRAIN)
    rows = np.concatenate(space.fitted.seen)
    np.testing.assert_array_equal(rows, np.flatnonzero(roles != Role.UNUSED))
    assert codes.z.dtype == np.float32 and np.isnan(codes.z[roles == Role.UNUSED]).all()
    np.testing.assert_array_equal(codes.z[rows], np.asarray(study.adata.X)[rows, :2])


def test_cells_of_a_population_by_role(study):
    made = split.unseen_dose(study, 100, treatments="cora", min_cells=1)
    codes = Codes.of(made, RAW, FULL)
    for condition, role in (
        (at("anti", 10), Role.VALID),
        (vehicle("L2"), Role.REFERENCE),
        (at("cora", 100), Role.TEST),
    ):
        rows = codes.rows(condition, role)
        assert len(rows) and set(rows) <= set(study.rows(condition))
        np.testing.assert_array_equal(made.roles[rows], role)
        np.testing.assert_array_equal(codes.cells(condition, role), np.asarray(study.adata.X)[rows])


def test_moments_are_those_of_training_cells(study):
    codes = Codes.of(split.unseen_dose(study, 100, treatments="cora", min_cells=1), RAW, FULL)
    assert [m.condition for m in codes.moments] == list(codes.split.train_conditions)
    x = np.asarray(study.adata.X, np.float64)
    for m in codes.moments:
        own, control = (x[codes.split.rows(c, Role.TRAIN)] for c in (m.condition, m.condition.control))
        np.testing.assert_allclose(m.mean, own.mean(0), rtol=1e-12)
        np.testing.assert_allclose(m.cov, np.cov(own.T), rtol=1e-10)
        np.testing.assert_allclose(m.control_cov, np.cov(control.T), rtol=1e-10)
        np.testing.assert_allclose(m.shift, own.mean(0) - control.mean(0), rtol=1e-10)
        assert (m.n, m.n_control) == (len(own), len(control))


def test_a_single_cell_has_a_mean_and_no_covariance():
    study = constant({("vehicle", 0.0, "L1"): (0.0, 0.0), ("anti", 10.0, "L1"): (1.0, 2.0)}, n=2)
    made = split.in_distribution(study, test=0.5, valid=0.0, min_cells=1)
    (m,) = Codes.of(dataclasses.replace(made, roles=np.array([1, 1, 1, 3], np.int8)), RAW, OneHot()).moments
    assert m.n == 1
    np.testing.assert_array_equal(m.mean, [1, 2])
    np.testing.assert_array_equal(m.cov, 0)


def test_a_split_that_leaks_is_refused(study):
    made = split.unseen_dose(study, 100, treatments="cora", min_cells=1)
    roles = made.roles.copy()
    roles[made.rows(at("cora", 100))[:3]] = Role.TRAIN
    leaking = dataclasses.replace(made, roles=roles)
    with pytest.raises(SplitError):
        Codes.of(leaking, RAW, FULL)


def test_a_context_without_controls_to_train_on_is_named(study):
    made = split.unseen_dose(study, 100, treatments="cora", min_cells=1)
    roles = made.roles.copy()
    roles[made.rows(vehicle("L2"), Role.TRAIN)[1:]] = Role.VALID
    with pytest.raises(SplitError, match=r"L2' has no matched control cells to train on"):
        Codes.of(dataclasses.replace(made, roles=roles), RAW, FULL)


def test_a_split_without_training_conditions_is_refused(study):
    made = split.unseen_dose(study, 100, treatments="cora", min_cells=1)
    roles = made.roles.copy()
    for condition in made.train_conditions:
        roles[made.rows(condition)] = Role.UNUSED
    empty = dataclasses.replace(made, roles=roles, train_conditions=())
    with pytest.raises(SplitError, match="no treated condition to train on: hold out fewer"):
        Codes.of(empty, RAW, FULL)
    assert Condition() not in empty.train_conditions
