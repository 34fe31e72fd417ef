"""The budget: exact sums, reservations, refusals, and what it says of itself."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from killed import BOUNDS, FEATURES, Fake, contributions

from cellgap.errors import (
    BudgetExhausted,
    ConfigError,
    NotPrivate,
    PrivacyError,
    UnboundedContribution,
    UnsafeNoise,
)
from cellgap.stream.release._bounds import DonorBounds
from cellgap.stream.release._budget import PrivacyBudget
from cellgap.stream.release._private_report import private_report
from cellgap.stream.release._randomness import AbstractRandomness, SeededRandomness, SystemRandomness
from cellgap.stream.release._verify import verify


@pytest.fixture
def budget(tmp_path):
    with PrivacyBudget(rho=1, delta=1e-6, journal=tmp_path / "j") as opened:
        yield opened


def journal(folder):
    return (folder / "j" / "journal.jsonl").read_bytes()


def test_ten_tenths_are_one(budget):
    for i in range(10):
        budget.running_sum(f"s{i}", FEATURES, 2, BOUNDS, rho=0.1)
    assert (budget.spent, budget.remaining) == (1, 0)
    with pytest.raises(BudgetExhausted):
        budget.running_sum("more", FEATURES, 2, BOUNDS, rho=1e-12)


def test_thirds_are_exact(budget):
    for i in range(3):
        budget.running_sum(f"s{i}", FEATURES, 2, BOUNDS, share=Fraction(1, 3))
    assert budget.remaining == 0


def test_what_does_not_fit_is_refused_and_nothing_is_written(budget, tmp_path):
    budget.add(Fake(rho="3/4"))
    before = journal(tmp_path)
    with pytest.raises(BudgetExhausted, match=r"0\.25 of 1 is left"):
        budget.add(Fake("other", rho=Fraction(1, 4) + Fraction(1, 10**30)))
    assert journal(tmp_path) == before
    budget.add(Fake("other", rho="1/4"))
    assert budget.remaining == 0


def test_a_total_may_be_an_epsilon(tmp_path):
    with PrivacyBudget(epsilon=4.728, delta=1e-5, journal=tmp_path / "j") as budget:
        assert float(budget.total) == pytest.approx(0.5, abs=1e-3)
    with PrivacyBudget(epsilon=4.728, delta=1e-5, journal=tmp_path / "j"):
        pass


def test_an_existing_journal_is_continued_without_a_new_charge(tmp_path):
    with PrivacyBudget(rho="1/2", delta=1e-6, journal=tmp_path / "j") as budget:
        statistic = budget.add(Fake(steps=3))
        first = statistic.step(contributions(1))
        assert budget.add(Fake(steps=3)) is statistic
    with PrivacyBudget(rho=0.5, delta=1e-6, journal=tmp_path / "j") as budget:
        assert budget.spent == Fraction(1, 4)
        again = budget.add(Fake(steps=3))
        assert budget.spent == Fraction(1, 4)
        assert again.published == 1 and (again.releases[0].values == first.values).all()
        with pytest.raises(PrivacyError, match="another configuration"):
            budget.add(Fake(steps=4))
        with pytest.raises(PrivacyError, match="another configuration"):
            budget.running_sum("sum", FEATURES, 3, BOUNDS, rho="1/4")
        assert budget.spent == Fraction(1, 4)


@pytest.mark.parametrize("other", [{"rho": 0.6}, {"delta": 1e-7}, {"unit": "cell"}, {"delta": None}])
def test_another_total_is_refused(tmp_path, other):
    given = {"rho": 0.5, "delta": 1e-6, "journal": tmp_path / "j"}
    PrivacyBudget(**given).close()
    before = journal(tmp_path)
    with pytest.raises(PrivacyError, match="set once"):
        PrivacyBudget(**given | other)
    assert journal(tmp_path) == before
    PrivacyBudget(**given).close()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"rho": 1, "epsilon": 1},
        {"rho": 0},
        {"rho": -1},
        {"rho": float("nan")},
        {"rho": float("inf")},
        {"rho": "x"},
        {"epsilon": 1},
        {"rho": 1, "delta": 0.0},
        {"rho": 1, "delta": 1.5},
    ],
)
def test_a_total_has_to_be_one_positive_number(tmp_path, wrong):
    with pytest.raises(ConfigError):
        PrivacyBudget(journal=tmp_path / "j", **wrong)
    assert not (tmp_path / "j").exists()


def test_what_is_missing_is_not_inferred(budget, tmp_path):
    before = journal(tmp_path)
    for features, steps, bounds in [(None, 2, BOUNDS), ([], 2, BOUNDS), (FEATURES, None, BOUNDS), (FEATURES, 2, None)]:
        for make in (budget.running_sum, budget.running_mean, budget.running_max, budget.running_select):
            with pytest.raises(UnboundedContribution):
                make("s", features, steps, bounds, rho=0.1)
    with pytest.raises(UnboundedContribution):
        budget.running_quantile("s", 2, BOUNDS, bins=None, rho=0.1)
    with pytest.raises(UnboundedContribution):
        budget.running_sum("s", FEATURES, 0, BOUNDS, rho=0.1)
    assert journal(tmp_path) == before


def test_requests_are_checked(budget, tmp_path):
    before = journal(tmp_path)
    for wrong in ({}, {"rho": 0.1, "share": 0.1}, {"rho": 0.1, "epsilon": 0.1}, {"mechanism": "factor", "epsilon": 1}):
        with pytest.raises(ConfigError):
            budget.running_sum("s", FEATURES, 2, BOUNDS, **wrong)
    for name in ("", "a/b", "../a", ".a", "a b", "x" * 65, "a\n"):
        with pytest.raises(ConfigError, match="name"):
            budget.add(Fake(name))
    with pytest.raises(ConfigError, match="string"):
        budget.running_sum("s", "abc", 2, BOUNDS, rho=0.1)
    assert journal(tmp_path) == before
    budget.add(Fake("Sum"))
    with pytest.raises(ConfigError, match="case"):
        budget.add(Fake("sUM"))


class Own(AbstractRandomness):
    safe = True

    def words(self, n):
        return np.zeros(n, np.uint64)


@pytest.mark.parametrize("randomness", [SeededRandomness(1), Own()])
def test_noise_of_ones_own_is_marked_for_ever(tmp_path, randomness):
    with pytest.raises(UnsafeNoise):
        PrivacyBudget(rho=1, journal=tmp_path / "j", randomness=randomness)
    assert not (tmp_path / "j").exists()
    with PrivacyBudget(rho=1, journal=tmp_path / "j", randomness=randomness, unsafe_testing=True) as budget:
        release = budget.add(Fake()).step(contributions(1))
        assert not release.safe and "NOT PRIVATE" in repr(release) and "NOT PRIVATE" in budget.explain()
        assert "NOT PRIVATE" in release.to_dict()["warning"]
        assert private_report(release)["note"].str.startswith("NOT PRIVATE").all()
    with PrivacyBudget(rho=1, journal=tmp_path / "j") as budget:
        assert not budget.safe and not budget.add(Fake()).step(contributions(2)).safe
    assert not verify(tmp_path / "j").safe
    assert "NOT PRIVATE" in str(verify(tmp_path / "j"))


def test_the_operating_systems_noise_may_be_named(tmp_path):
    with PrivacyBudget(rho=1, journal=tmp_path / "j", randomness=SystemRandomness()) as budget:
        assert budget.safe


def test_a_large_delta_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="at most 0.0001 is advised"):
        PrivacyBudget(rho=1, delta=1e-3, donors=1000, journal=tmp_path / "j").close()
    PrivacyBudget(rho=1, delta=1e-3, donors=100, journal=tmp_path / "k").close()


def test_a_private_report_takes_nothing_else(budget):
    statistic = budget.add(Fake())
    statistic.step(contributions(1))
    last = statistic.step(contributions(2))
    table = private_report(statistic, last)
    assert table["t"].tolist() == [1] * 3 + [2] * 6
    assert table.columns.tolist() == ["statistic", "t", "feature", "value", "sd", "bound", "rho", "unit", "note"]
    for other in (np.arange(3), pd.DataFrame(), 3.0, {"values": 1}, budget, last.values, None):
        with pytest.raises(NotPrivate):
            private_report(statistic, other)
    assert private_report().empty


def test_a_budget_explains_itself(budget, tmp_path):
    budget.add(Fake("first", rho="1/4")).step(contributions(1))
    text = budget.explain()
    for part in ("first", "1/6", "0.25", "fake", "total", "1e-06", "one donor", "not covered", "no anchor"):
        assert part in text
    assert "0.25 of 1" in repr(budget)
    budget.close()
    given = {"rho": 1, "delta": 1e-6, "journal": tmp_path / "k", "unit": "donor_plate"}
    with PrivacyBudget(**given, anchor=tmp_path / "anchor") as other:
        assert "one donor on one plate" in other.explain() and "no anchor" not in other.explain()


def test_a_closed_budget_releases_nothing(tmp_path):
    with PrivacyBudget(rho=1, journal=tmp_path / "j") as budget:
        statistic = budget.add(Fake())
        release = statistic.step(contributions(1))
    with pytest.raises(PrivacyError, match="closed"):
        statistic.step(contributions(2))
    with pytest.raises(PrivacyError, match="closed"):
        budget.add(Fake("other"))
    # What is public stays readable.
    assert statistic.latest is release and budget.spent == Fraction(1, 4)


def test_every_mechanism_is_made_kept_and_found_again(tmp_path):
    bounds = DonorBounds(l2=4.0, l1=4.0, lattice=0.5, max_donors=5)
    offered = {"x": np.array([1.0, 2.0, 1.0]), "y": np.array([0.0, 1.0, 1.0])}
    with PrivacyBudget(rho=6, delta=1e-6, journal=tmp_path / "j") as budget:
        made = [
            budget.running_sum("factor", FEATURES, 3, bounds, mechanism="factor", rho=1),
            budget.running_sum("tree", FEATURES, 3, bounds, mechanism="tree", epsilon=1),
            budget.running_mean("mean", FEATURES, 3, bounds, share="1/6"),
            budget.running_max("max", FEATURES, 3, bounds, rho=1),
            budget.running_select("select", FEATURES, 3, bounds, q=2, rho=1),
            budget.running_quantile("quantile", 3, bounds, bins=[0, 1, 2, 4], quantiles=[0.25, 0.5], rho=1),
        ]
        assert budget.spent == Fraction(11, 2)
        releases = [statistic.step(offered) for statistic in made]
        texts = [repr(release) for release in releases]
        tables = [release.frame() for release in releases]
    assert "mean" in tables[2] and len(tables[0]) == 3
    assert tables[3]["feature"].tolist() == ["largest sum"]
    assert tables[4]["rank"].tolist() == [1, 2] and set(tables[4]["feature"]) <= set(FEATURES)
    assert tables[5]["feature"].tolist() == ["quantile 0.25", "quantile 0.5"] and "low" in tables[5]
    assert len(private_report(*releases)) == sum(map(len, tables))
    with PrivacyBudget(rho=6, delta=1e-6, journal=tmp_path / "j") as budget:
        assert budget.names == ("factor", "tree", "mean", "max", "select", "quantile")
        for name, text in zip(budget.names, texts, strict=True):
            statistic = budget.statistic(name)
            assert repr(statistic.latest) == text
            assert statistic.step(offered, 1) is statistic.releases[0]
            statistic.step({})
        with pytest.raises(ConfigError, match="known are factor"):
            budget.statistic("other")
