"""From cells to one vector a donor: against direct computation, and without a trace of other donors."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap.errors import ConfigError, DataError, DesignError, PrivacyError
from cellgap.stream import donor_counts, donor_histograms, donor_means

GENES = ["g3", "g0", "g5"]
EDGES = [0.0, 1.0, 2.0, 4.0]


def ranks(names):
    return np.array([int(hashlib.sha256(f"key {name}".encode()).hexdigest()[:16], 16) for name in names], np.uint64)


def plate(seed: int, n: int = 60, donors: int = 5, *, sparse: bool = True, named: str = "p") -> AnnData:
    """Cells of a plate; one of them is empty."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 2.0, (n, 6))).astype(np.float32)
    counts[0] = 0
    obs = pd.DataFrame(
        {
            "donor": [f"d{i}" for i in rng.integers(0, donors, n)],
            "drug": rng.choice(["no", "x", "y"], n),
            "dose": rng.choice(["low", "high"], n),
            "depth": rng.uniform(-1, 6, n),
        },
        index=[f"{named}{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[f"g{i}" for i in range(6)])
    return AnnData(sp.csr_matrix(counts) if sparse else counts, obs=obs, var=var)


def dense(adata: AnnData) -> np.ndarray:
    return np.asarray(adata.X.todense() if sp.issparse(adata.X) else adata.X, np.float64)


def expected_means(parts: list[AnnData], target: float = 1e4) -> dict[str, np.ndarray]:
    rows: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for who, x in zip(part.obs["donor"], dense(part), strict=True):
            y = np.log1p(x / max(1.0, x.sum()) * target)
            rows.setdefault(str(who), []).append(y[[3, 0, 5]])
    return {who: np.mean(found, axis=0) for who, found in rows.items()}


def assert_same(found, expected, **close) -> None:
    assert set(found) == set(expected)
    for who, vector in expected.items():
        if close:
            np.testing.assert_allclose(found[who], vector, **close)
        else:
            np.testing.assert_array_equal(found[who], vector)


@pytest.mark.parametrize("how", ["dense", "sparse", "int", "layer", "backed", "backed dense"])
def test_means_are_those_of_a_direct_computation(how, tmp_path):
    adata = plate(0, sparse="dense" not in how)
    expected = expected_means([adata])
    layer = None
    if how == "int":
        adata.X = adata.X.astype(np.int64)
    if how == "layer":
        adata.layers["counts"], layer = adata.X.copy(), "counts"
        adata.X = np.full(adata.shape, 0.5)
    if "backed" in how:
        adata.write_h5ad(tmp_path / "plate.h5ad")
        adata = read_h5ad(tmp_path / "plate.h5ad", backed="r")
    found = donor_means(adata, "donor", GENES, layer=layer)
    assert_same(found, expected, rtol=1e-12)
    assert list(found) == sorted(found)


def test_means_of_several_parts_are_pooled_over_cells():
    """Not the mean of plate means; the genes may be in another order on each plate."""
    one, two = plate(0), plate(1, 25, donors=7)
    shuffled = two[:, ::-1].copy()
    assert_same(donor_means([one, shuffled], "donor", GENES), expected_means([one, two]), rtol=1e-12)
    assert_same(donor_means([one, two], "donor", GENES, target_sum=50.0), expected_means([one, two], 50.0), rtol=1e-12)
    assert set(donor_means([one, two], "donor", GENES, only=["d1", "nobody"])) == {"d1"}
    assert donor_means(one[:0].copy(), "donor", GENES) == {}


def test_many_cells_are_read_in_blocks(monkeypatch):
    import cellgap.stream.release._donors as donors

    adata = plate(3, 50)
    whole = donor_means(adata, "donor", GENES)
    monkeypatch.setattr(donors, "_BLOCK", 3)
    assert_same(donor_means(adata, "donor", GENES), whole, rtol=1e-12)


def test_counts():
    one, two = plate(0), plate(1)
    table = pd.concat([one.obs, two.obs])
    values = ["y", "no", "z"]
    counts = pd.crosstab(table["donor"], table["drug"])
    cells = {who: np.array([row["y"], row["no"], 0.0]) for who, row in counts.iterrows()}
    assert_same(donor_counts([one, two], "donor", ["drug"], values), cells)
    total = table["donor"].value_counts()
    share = donor_counts([one, two], "donor", ["drug"], values, unit="share")
    assert_same(share, {who: v / total[who] for who, v in cells.items()})
    present = donor_counts([one, two], "donor", ["drug"], values, unit="present")
    assert_same(present, {who: (v > 0).astype(float) for who, v in cells.items()})


def test_counts_of_two_columns():
    one = plate(0)
    one.obs["dose"] = one.obs["dose"].astype("category")
    one.obs["batch"] = np.arange(one.n_obs) % 2
    found = donor_counts(one, "donor", ["drug", "dose", "batch"], ["x | low | 1", "no | high | 0", "x | low"])
    for who, vector in found.items():
        mine = one.obs[one.obs["donor"] == who]
        first = (mine["drug"] == "x") & (mine["dose"] == "low") & (mine["batch"] == 1)
        second = (mine["drug"] == "no") & (mine["dose"] == "high") & (mine["batch"] == 0)
        np.testing.assert_array_equal(vector, [first.sum(), second.sum(), 0])


def test_cells_without_a_condition_are_not_counted():
    one = plate(0)
    one.obs.loc[one.obs_names[:30], "drug"] = None
    one.obs["drug"] = one.obs["drug"].astype("category")
    one.obs["dose"] = one.obs["dose"].astype("category")
    found = donor_counts(one, "donor", ["drug"], ["x", "no", "y"])
    assert sum(v.sum() for v in found.values()) == 30
    found = donor_counts(
        one, "donor", ["drug", "dose"], [f"{a} | {b}" for a in ("x", "no", "y") for b in ("low", "high")]
    )
    assert sum(v.sum() for v in found.values()) == 30


def test_histograms():
    one, two = plate(0), plate(1, 40)
    table = pd.concat([one.obs, two.obs])
    edges = np.array([-np.inf, 1, 2, np.inf])
    cells = {who: np.histogram(mine["depth"], edges)[0] / len(mine) for who, mine in table.groupby("donor")}
    found = donor_histograms([one, two], "donor", "depth", EDGES, unit="cells")
    assert_same(found, cells, rtol=1e-12)
    mean = {who: np.histogram([mine["depth"].mean()], edges)[0] for who, mine in table.groupby("donor")}
    found = donor_histograms([one, two], "donor", "depth", EDGES)
    assert_same(found, mean)
    assert all(v.sum() == 1 for v in found.values())


def test_values_on_and_beyond_the_edges():
    one = plate(0, 6, donors=1)
    one.obs["depth"] = [-7.0, 0.0, 1.0, 2.0, 4.0, 99.0]
    found = donor_histograms(one, "donor", "depth", EDGES, unit="cells")
    np.testing.assert_allclose(found["d0"] * 6, [2, 1, 3])
    one.obs["depth"] = [1, 1, 1, 1, 1, 1]  # whole numbers
    np.testing.assert_array_equal(donor_histograms(one, "donor", "depth", EDGES)["d0"], [0, 1, 0])


def test_too_many_cells_are_cut_by_rank():
    one = plate(0, 80, donors=3)
    for who, vector in donor_counts(one, "donor", ["drug"], ["no", "x", "y"], max_cells=7, rank=ranks).items():
        names = one.obs_names[one.obs["donor"] == who]
        kept = names[np.argsort(ranks(names))[:7]]
        expected = one.obs.loc[kept, "drug"].value_counts().reindex(["no", "x", "y"], fill_value=0)
        np.testing.assert_array_equal(vector, expected)
        assert vector.sum() == 7
    few = donor_counts(one, "donor", ["drug"], ["no", "x", "y"], max_cells=80, rank=ranks)
    assert_same(few, donor_counts(one, "donor", ["drug"], ["no", "x", "y"]))


def test_the_cut_does_not_depend_on_the_order_of_cells_or_plates():
    one, two = plate(0, 80, donors=3), plate(1, 50, donors=4, named="q")
    order = np.random.default_rng(5).permutation(80)
    again = one[order].copy()
    options = {"max_cells": 11, "rank": ranks}
    means = donor_means([one, two], "donor", GENES, **options)
    assert_same(donor_means([two, again], "donor", GENES, **options), means, rtol=1e-12)
    assert_same(donor_means([one, two], "donor", GENES, **options), means)
    counts = donor_counts([one, two], "donor", ["drug"], ["no", "x", "y"], **options)
    assert_same(donor_counts([two, again], "donor", ["drug"], ["no", "x", "y"], **options), counts)
    assert all(vector.sum() == 11 for vector in counts.values())
    histograms = donor_histograms([one, two], "donor", "depth", EDGES, unit="cells", **options)
    assert_same(donor_histograms([two, again], "donor", "depth", EDGES, unit="cells", **options), histograms)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    donors=st.integers(1, 6),
    n=st.integers(1, 40),
    max_cells=st.none() | st.integers(1, 8),
    sparse=st.booleans(),
    shuffled=st.booleans(),
)
def test_without_a_donor_the_others_are_the_same_bit_for_bit(seed, donors, n, max_cells, sparse, shuffled):
    """The guarantee stands on it: what a donor adds to a sum depends on no other donor."""
    parts = [plate(seed, n, donors, sparse=sparse), plate(seed ^ 1, 20, donors, sparse=not sparse, named="q")]
    rng = np.random.default_rng(seed)
    gone = str(rng.choice(np.concatenate([part.obs["donor"] for part in parts])))
    fewer = [part[(part.obs["donor"] != gone).to_numpy()].copy() for part in parts]
    for part in (*parts, *fewer):
        part.obs["donor"] = part.obs["donor"].astype("category")
    if shuffled:
        # Cells of others between a donor's own do not matter, nor do unused categories.
        fewer = [part[:, :].copy() for part in fewer]
        fewer[0].obs["donor"] = fewer[0].obs["donor"].cat.add_categories(["unused"])
    options = {"max_cells": max_cells, "rank": None if max_cells is None else ranks}
    for function, given_ in (
        (donor_means, (GENES,)),
        (donor_counts, (["drug", "dose"], ["x | low", "no | high"])),
        (donor_histograms, ("depth", EDGES)),
    ):
        units = {donor_means: [None], donor_counts: ["cells", "share", "present"], donor_histograms: ["mean", "cells"]}
        for unit in units[function]:
            more = options if unit is None else options | {"unit": unit}
            whole = function(parts, "donor", *given_, **more)
            rest = function(fewer, "donor", *given_, **more)
            assert gone in whole and gone not in rest
            whole.pop(gone)
            assert {who: v.tobytes() for who, v in rest.items()} == {who: v.tobytes() for who, v in whole.items()}


SECRETS = ("d0", "d1", "d2", "d3", "d4", "p0", "-3", "0.25", "77")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"X": 0.25}, PrivacyError, "not raw counts"),
        ({"X": -3}, PrivacyError, "not raw counts"),
        ({"X": np.nan}, PrivacyError, "not raw counts"),
        ({"X": np.inf}, PrivacyError, "not raw counts"),
        ({"genes": ["g0", "g77"]}, DataError, "1 of 2 genes are not in the data, such as 'g77'"),
        ({"donor": "patient"}, DataError, "no column 'patient'"),
        ({"layer": "raw"}, DesignError, "names no layer"),
        ({"twice": True}, DataError, "genes of one name"),
        ({"empty": None}, PrivacyError, "is empty for some cells"),
        ({"empty": ""}, PrivacyError, "is empty for some cells"),
        ({"empty": np.nan}, PrivacyError, "is empty for some cells"),
        ({"max_cells": 3}, ConfigError, "belong together"),
        ({"rank": ranks}, ConfigError, "belong together"),
    ],
)
def test_means_refuse(change, error, says):
    adata = plate(0, sparse=False)
    if "X" in change:
        adata.X[7, 2] = change["X"]
    if "twice" in change:
        adata.var_names = ["g0", "g1", "g2", "g3", "g5", "g5"]
    if "empty" in change:
        adata.obs["donor"] = adata.obs["donor"].astype(object)
        adata.obs.loc[adata.obs_names[4], "donor"] = change["empty"]
    options = {name: change[name] for name in ("layer", "max_cells", "rank") if name in change}
    with pytest.raises(error, match=says) as found:
        donor_means(adata, change.get("donor", "donor"), change.get("genes", GENES), **options)
    assert not [secret for secret in SECRETS if secret in str(found.value).replace("g77", "")]


@pytest.mark.parametrize(
    ("values", "error", "says"),
    [
        (["many"] * 60, DataError, "is not a column of numbers"),
        ([77.0] * 59 + [np.nan], PrivacyError, "not finite"),
        ([77.0] * 59 + [np.inf], PrivacyError, "not finite"),
        (pd.array([77] * 59 + [None], dtype="Int64"), PrivacyError, "not finite"),
        (pd.Categorical([77] * 60), DataError, "is not a column of numbers"),
    ],
)
def test_histograms_refuse(values, error, says):
    adata = plate(0)
    adata.obs["depth"] = values
    with pytest.raises(error, match=says) as found:
        donor_histograms(adata, "donor", "depth", EDGES)
    assert not [secret for secret in SECRETS if secret in str(found.value)]
    assert found.value.__cause__ is None


def test_units_and_columns_are_checked():
    adata = plate(0)
    with pytest.raises(ConfigError, match='"cells", "share" or "present", found \'shares\''):
        donor_counts(adata, "donor", ["drug"], ["no"], unit="shares")
    with pytest.raises(ConfigError, match='"mean" or "cells", found \'median\''):
        donor_histograms(adata, "donor", "depth", EDGES, unit="median")
    with pytest.raises(DataError, match="no column 'plate'"):
        donor_counts(adata, "donor", ["drug", "plate"], ["no"])
    with pytest.raises(DataError, match="no column 'age'"):
        donor_histograms(adata, "donor", "age", EDGES)


def test_donors_named_by_numbers():
    """1 and 1.0 would be two donors, and one donor would enter twice."""
    adata = plate(0)
    adata.obs["donor"] = np.arange(60) % 3 + 1
    assert set(donor_means(adata, "donor", GENES)) == {"1", "2", "3"}
    adata.obs["donor"] = adata.obs["donor"].astype(float)
    with pytest.raises(PrivacyError, match="whole numbers"):
        donor_means(adata, "donor", GENES)


def test_a_damaged_file_says_nothing_of_its_values(tmp_path: Path, monkeypatch):
    import cellgap.stream.release._donors as donors

    def broken(*_):
        raise ValueError("cell p0 of d1 holds 77")

    adata = plate(0)
    monkeypatch.setattr(donors, "take", broken)
    with pytest.raises(PrivacyError, match="cannot be read") as found:
        donor_means(adata, "donor", GENES)
    assert found.value.__suppress_context__ and not [s for s in SECRETS if s in str(found.value)]
