"""Counts of a population with its own profile are calibrated to its controls."""

import numpy as np
import pytest
import scipy.sparse as sp

import cellgap as cg
from cellgap.space import matched_counts
from cellgap.study import Role


@pytest.fixture(scope="module")
def known():
    screen = cg.simulate(n_drugs=4, doses=(1000.0,), n_combinations=0, cell_lines=("l1",), n_genes=40, n_cells=50)
    split = cg.split.unseen_treatment(screen.study(), ["A1"])
    space = cg.space.PCA(dim=6).fit(split)
    rows = split.cells(Role.SOURCE)
    return space, space.encode(split.study.adata, rows), split.study.values(rows)


def share_of(counts: sp.csr_matrix) -> np.ndarray:
    return np.asarray((counts / counts.sum(axis=1)).mean(axis=0)).ravel()


def test_expected_shares_of_the_controls_are_the_measured_ones(known) -> None:
    """Another donor: some genes eight times as high, in counts that the codes do not know of."""
    space, z, counts = known
    own = sp.csr_matrix(counts.toarray() * np.where(np.arange(40) % 5 == 0, 8, 1))
    before = np.abs(space.rates(z).mean(0) - share_of(own)).sum()
    after = np.abs(matched_counts(space, z, own).rates(z).mean(0) - share_of(own)).sum()
    assert before > 0.3 and after < before / 4


def test_a_map_moves_the_profile_of_the_controls(known) -> None:
    """The fold from one code to another is that of the space, up to the sum of shares."""
    space, z, counts = known
    own = sp.csr_matrix(counts.toarray() * np.where(np.arange(40) % 5 == 0, 8, 1))
    new = matched_counts(space, z, own)
    folds = [s.rates(z + 0.3) / s.rates(z) for s in (space, new)]
    log = [np.log(fold) - np.median(np.log(fold), axis=1, keepdims=True) for fold in folds]
    assert np.corrcoef(log[0].ravel(), log[1].ravel())[0, 1] > 0.9


def test_a_space_without_counts_is_left_alone(known) -> None:
    space, z, counts = known
    silent = cg.space.Genes(transform="none")
    assert silent is matched_counts(silent, z, counts)  # type: ignore[arg-type]
    assert np.array_equal(matched_counts(space, z, counts).noise.theta, space.noise.theta)
