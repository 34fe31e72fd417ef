"""What samplers of pairs keep, what they move, and whom they can reach."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_screen import DESIGN, small_cells

from cellgap.embed import Mixture, Neighbour, Restart, SameCondition, Thin
from cellgap.embed.pairs import AbstractFittedPairs, PairCells
from cellgap.embed.pairs._same_condition import FittedGroups
from cellgap.errors import ConfigError, DataError
from cellgap.settings import from_dict, to_dict


@pytest.fixture(scope="module")
def cells() -> PairCells:
    adata = small_cells(300)
    assert DESIGN.donor == "donor"
    coordinates = np.log1p(adata.X.toarray().astype(float))
    return PairCells(adata.obs, adata.obs["drug"].to_numpy(object), True, coordinates)


def partners(fitted: AbstractFittedPairs, rows: np.ndarray, n: int = 1, seed: int = 0) -> np.ndarray:
    drawn = [fitted.draw(jr.key(seed + i), jnp.asarray(rows, jnp.int32)) for i in range(n)]
    return np.stack([np.asarray(d.partner) for d in drawn])


def test_thin_pairs_a_cell_with_itself(cells: PairCells) -> None:
    fitted = Thin(least=0.5, hide=0.25).fit(cells)
    drawn = fitted.draw(jr.key(0), jnp.arange(300))
    assert (np.asarray(drawn.partner) == np.asarray(drawn.anchor)).all()
    keep = np.asarray(drawn.anchor_keep)
    assert keep.min() >= 128 and keep.max() <= 256 and len(np.unique(keep)) > 60
    assert (keep != np.asarray(drawn.partner_keep)).mean() > 0.9
    assert np.asarray(drawn.anchor_hide).max() <= 64 and fitted.thins and fitted.hides
    halves = Thin(how="halves").fit(cells).draw(jr.key(0), jnp.arange(300))
    assert np.asarray(halves.halved).all() and (np.asarray(halves.anchor_keep) == 128).all()


@pytest.mark.parametrize(
    ("pairs", "same", "other"),
    [
        (SameCondition(), ["drug"], []),
        (SameCondition(across="donor"), ["drug"], ["donor"]),
        (SameCondition(across="donor", within="cell_type"), ["drug", "cell_type"], ["donor"]),
        (SameCondition(by="cell_type", across=("drug", "donor")), ["cell_type"], []),
    ],
)
def test_same_condition_keeps_and_moves(
    cells: PairCells, pairs: SameCondition, same: list[str], other: list[str]
) -> None:
    fitted = pairs.fit(cells)
    rows = np.flatnonzero(fitted.able)
    found = partners(fitted, rows, 20)
    for name in same:
        column = cells.obs[name].to_numpy(object)
        assert (column[found] == column[rows]).all()
    for name in other:
        column = cells.obs[name].to_numpy(object)
        assert (column[found] != column[rows]).all()
    assert (found != rows).all()
    if pairs.across == ("drug", "donor"):
        both = (cells.obs["drug"] + cells.obs["donor"]).to_numpy(object)
        assert (both[found] != both[rows]).all()


def test_partners_of_a_group_are_uniform(cells: PairCells) -> None:
    fitted = SameCondition(across="donor").fit(cells)
    obs = cells.obs
    reachable = np.flatnonzero((obs["drug"] == obs["drug"].iloc[0]) & (obs["donor"] != obs["donor"].iloc[0]))
    assert fitted.sizes[0] == len(reachable)
    found = np.concatenate([partners(fitted, np.zeros(4000, int), 5).ravel()])
    counts = np.bincount(found, minlength=300)
    assert set(np.flatnonzero(counts)) == set(reachable)
    expected = len(found) / len(reachable)
    assert ((counts[reachable] - expected) ** 2 / expected).sum() < len(reachable) + 5 * np.sqrt(2 * len(reachable))
    support = np.asarray(fitted.support(jr.key(3), jnp.zeros(10, jnp.int32), 500).rows)
    assert set(np.unique(support)) <= set(reachable) and len(np.unique(support)) > 0.9 * len(reachable)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=24))
def test_groups_reach_what_they_should(columns: list[tuple[int, int]]) -> None:
    group, block = (np.asarray(c) for c in zip(*columns, strict=True))
    fitted = FittedGroups.of(group, block)
    for i in range(len(group)):
        reachable = set(np.flatnonzero((group == group[i]) & (block != block[i])))
        assert fitted.able[i] == bool(reachable) and fitted.sizes[i] == len(reachable)
        start, first, last = (int(a[i]) for a in (fitted.group_start, fitted.block_start, fitted.block_end))
        places = [start + r for r in range(int(fitted.reach[i]))]
        found = {int(fitted.order[p + last - first if p >= first else p]) for p in places}
        assert found == reachable


def test_neighbours_are_the_nearest(cells: PairCells) -> None:
    x = cells.coordinates
    distance = ((x[:, None] - x[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    fitted = Neighbour(k=5).fit(cells)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :5]
    furthest = np.take_along_axis(distance, nearest, 1).max(1)
    found = partners(fitted, np.arange(300), 40)
    assert (distance[np.arange(300), found] <= furthest + 1e-9).all() and (fitted.sizes == 5).all()
    mutual = Neighbour(k=5, mutual=True).fit(cells)
    rows = np.flatnonzero(mutual.able)
    for row, other in zip(np.tile(rows, 10), partners(mutual, rows, 10).ravel(), strict=True):
        assert row in nearest[other] and other in nearest[row]
    assert mutual.sizes.sum() < fitted.sizes.sum()


def test_neighbours_across_donors(cells: PairCells) -> None:
    donor = cells.obs["donor"].to_numpy(object)
    fitted = Neighbour(k=3, across="donor").fit(cells)
    assert (fitted.sizes == 6).all()  # three in each of two other donors
    found = partners(fitted, np.arange(300), 30)
    assert (donor[found] != donor).all()
    assert len(np.unique(np.asarray(fitted.near[0]))) == 6


def test_duplicates_are_neighbours_and_a_cell_never_is_its_own(cells: PairCells) -> None:
    same = PairCells(cells.obs.iloc[:20], None, True, np.zeros((20, 3)))
    found = partners(Neighbour(k=4).fit(same), np.arange(20), 20)
    assert (found != np.arange(20)).all()


def test_restart_reaches_every_other_cell(cells: PairCells) -> None:
    fitted = Restart().fit(cells)
    found = partners(fitted, np.full(6000, 7), 1).ravel()
    assert set(found) == set(range(300)) - {7}


def test_mixture_by_weights(cells: PairCells) -> None:
    pairs = SameCondition(across="donor", weight=3.0) | Thin()
    assert isinstance(pairs, Mixture) and str(pairs) == "SameCondition(across='donor', weight=3.0) | Thin()"
    fitted = pairs.fit(cells)
    drawn = fitted.draw(jr.key(0), jnp.asarray(np.tile(np.arange(300), 20), jnp.int32))
    itself = np.asarray(drawn.anchor) == np.asarray(drawn.partner)
    assert itself.mean() == pytest.approx(0.25, abs=0.03)
    keep = np.asarray(drawn.anchor_keep)
    assert (keep[~itself] == 256).all() and (keep[itself] < 256).mean() > 0.9
    share = np.asarray(fitted.sizes)
    support = np.asarray(fitted.support(jr.key(1), jnp.arange(300), 200).rows)
    assert (support == np.arange(300)[:, None]).mean() == pytest.approx((1 / share).mean(), abs=0.005)
    assert fitted.surplus().mean() == pytest.approx(0.25 - (1 / share).mean(), abs=0.01)


def test_a_mixture_takes_the_cells_that_one_sampler_cannot(cells: PairCells) -> None:
    obs = cells.obs.copy()
    obs["drug"] = obs["drug"].astype(object)
    obs.iloc[0, obs.columns.get_loc("drug")] = "alone"
    lonely = PairCells(obs, obs["drug"].to_numpy(object), True, cells.coordinates)
    assert not SameCondition().fit(lonely).able[0]
    fitted = (SameCondition() | Thin()).fit(lonely)
    assert fitted.able[0] and (partners(fitted, np.zeros(50, int)) == 0).all()


def test_only_uneven_mixtures_differ_from_their_support(cells: PairCells) -> None:
    for pairs in (Thin(), SameCondition(), Neighbour(), Restart()):
        assert (pairs.fit(cells).surplus() == 0).all()


@pytest.mark.parametrize(
    ("pairs", "error", "words"),
    [
        (SameCondition(by="batch"), DataError, "no column 'batch'"),
        (SameCondition(across="drug"), DataError, "gives no cell a partner"),
        (Neighbour(across="one"), DataError, "there is one"),
    ],
)
def test_mistakes(cells: PairCells, pairs: SameCondition, error: type[Exception], words: str) -> None:
    table = cells._replace(obs=cells.obs.assign(one="1"))
    with pytest.raises(error, match=words):
        pairs.fit(table)


def test_what_needs_counts_or_treatments_says_so(cells: PairCells) -> None:
    with pytest.raises(DataError, match="holds no counts"):
        Thin().fit(cells._replace(is_counts=False))
    with pytest.raises(ConfigError, match="names no treatment"):
        SameCondition().fit(cells._replace(treatment=None))
    missing = cells.obs.assign(donor=cells.obs["donor"].where(cells.obs["donor"] != "d1"))
    with pytest.raises(DataError, match="no label in"):
        SameCondition(across="donor").fit(cells._replace(obs=missing))
    with pytest.raises(ConfigError, match="least"):
        Thin(least=0.0)
    with pytest.raises(ConfigError, match="at least one"):
        Mixture(())


@pytest.mark.parametrize(
    "pairs",
    [Thin(0.5, "halves"), SameCondition(across="donor") | Thin() | Restart(0.1), Neighbour(3, ("a", "b"), True)],
)
def test_settings_come_back(pairs: Thin) -> None:
    assert from_dict(to_dict(pairs)) == pairs
