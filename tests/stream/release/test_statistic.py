"""A running statistic: each step fixed once, drawn once, and never lost; refusals change nothing."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from killed import BOUNDS, FEATURES, Fake, check, kill_at, run

from cellgap.errors import (
    BudgetExhausted,
    CellgapError,
    ConfigError,
    DataError,
    DonorOverContribution,
    PrivacyError,
    StepRewritten,
)
from cellgap.stream.release._bounds import DonorBounds
from cellgap.stream.release._budget import PrivacyBudget
from cellgap.stream.release._verify import verify

ONE = np.array([1.0, 0.0, 0.0])


@pytest.fixture
def budget(tmp_path):
    with PrivacyBudget(rho=1, delta=1e-6, journal=tmp_path / "j") as opened:
        yield opened


def state(folder):
    return {path: path.read_bytes() for path in sorted((folder / "j").rglob("*")) if path.is_file()}


def exact(release, fake):
    """Undo the fixed offset of the fake noise: the exact sums, in lattice units."""
    zero = fake.draw(fake.start(), release.t, [None] * (release.t - 1), os_words())
    return (release.values - zero[:-1].astype(float)).tolist()


class os_words:
    def words(self, n):
        return np.zeros(n, np.uint64)


@pytest.mark.parametrize("small", [True, False])
def test_sums_are_those_of_all_steps(tmp_path, small):
    fake = Fake(steps=3, small_state=small)
    for t, expected in enumerate([[2, 0, 0], [4, -4, 0], [5, -4, 6]], 1):
        # Opened anew at every step.
        with PrivacyBudget(rho=1, journal=tmp_path / "j") as budget:
            statistic = budget.add(fake)
            given = {1: {"u": ONE}, 2: {"v": [1.0, -2.0, 0.0]}, 3: {"w": [0.7, 0.0, 3.0], 7: np.zeros(3)}}
            release = statistic.step(given[t], t)
            assert exact(release, fake) == expected
            assert (release.t, statistic.published, len(statistic.releases)) == (t, t, t)
            assert statistic.latest is release


def test_a_vector_beyond_the_bounds_is_shortened(budget):
    fake = Fake()
    release = budget.add(fake).step({"u": [1e6, 0.0, 0.0], "v": [0.0, 0.0, -1e300]})
    assert exact(release, fake) == [8, 0, -8]


def test_the_same_data_give_the_same_release_and_others_are_refused(budget, tmp_path):
    statistic = budget.add(Fake())
    first = statistic.step({"u": ONE, "v": ONE})
    statistic.step({"w": ONE})
    before = state(tmp_path)
    # Of another order, type, or less than the lattice apart: the same integers.
    assert statistic.step({"v": [1.1, 0, 0], "u": ONE.astype(np.float32)}, 1) is first
    for other in ({"u": ONE}, {"u": ONE, "w": ONE}, {"u": ONE, "v": 2 * ONE}, {}, {"u": ONE, "v": ONE, "w": ONE}):
        with pytest.raises(StepRewritten):
            statistic.step(other, 1)
    with pytest.raises(StepRewritten):
        statistic.step({"u": ONE, "v": ONE}, 1, closes=["u"])
    assert state(tmp_path) == before


def test_refusals_change_nothing_and_name_nobody(budget, tmp_path):
    """B18 for steps: a typed error, the ledger unchanged, and no name, number or value in the message."""
    statistic = budget.add(Fake(steps=4))
    statistic.step({"Mrs Example": ONE, "u": ONE}, closes=["patient zero"])
    before = state(tmp_path)
    six = {f"donor {i}": ONE for i in range(6)}
    refused = [
        (DonorOverContribution, {"contributions": {"Mrs Example": ONE}}),
        (DonorOverContribution, {"contributions": {"new": ONE, "patient zero": ONE}}),
        (DonorOverContribution, {"contributions": six}),
        (DonorOverContribution, {"contributions": six, "policy": "drop"}),
        (BudgetExhausted, {"contributions": {}, "t": 5}),
        (DataError, {"contributions": {}, "t": 3}),
        (DataError, {"contributions": {"Mrs Example": np.array([31337.0])}}),
        (DataError, {"contributions": {"Mrs Example": np.array([[31337.0, 1.0, 2.0]])}}),
        (DataError, {"contributions": {"Mrs Example": np.array([31337.0, 0.0, np.nan])}}),
        (DataError, {"contributions": {"Mrs Example": ["31337", "x", "y"]}}),
        (DataError, {"contributions": {"Mrs Example": None}}),
        (DataError, {"contributions": {31337: ONE, "31337": ONE}}),
        (DataError, {"contributions": {"Ame\u0301lie": ONE, "Am\u00e9lie": ONE}}),
        (DataError, {"contributions": {("Mrs Example",): ONE}}),
        (DataError, {"contributions": {"": ONE}}),
        (DataError, {"contributions": {True: ONE}}),
        (StepRewritten, {"contributions": {"Mrs Example": ONE}, "t": 1}),
    ]
    for error, given in refused:
        with pytest.raises(error) as caught:
            statistic.step(**given)
        assert isinstance(caught.value, CellgapError)
        for secret in ("Mrs Example", "31337", "patient", "six", "6"):
            assert secret not in str(caught.value)
        assert caught.value.__cause__ is None and (
            caught.value.__context__ is None or caught.value.__suppress_context__
        )
        assert state(tmp_path) == before
        assert (statistic.published, budget.spent) == (1, Fraction(1, 4))
    with pytest.raises(ConfigError):
        statistic.step({}, 0)
    assert state(tmp_path) == before
    statistic.step({"v": ONE})


def test_donors_enter_k_steps_b_apart(tmp_path):
    fake = Fake(steps=8)
    allowed = {1: True, 2: False, 3: True, 5: False, 8: False}
    for t in range(1, 9):
        with PrivacyBudget(rho=1, journal=tmp_path / "j") as budget:
            statistic = budget.add(fake)
            if allowed.get(t) is False:
                with pytest.raises(DonorOverContribution):
                    statistic.step({"u": ONE})
            statistic.step({"u": ONE} if allowed.get(t) else {})


@pytest.mark.parametrize("small", [True, False])
def test_what_may_not_enter_is_dropped_where_that_is_asked_for(tmp_path, small):
    fake = Fake(steps=4, small_state=small)
    with PrivacyBudget(rho=1, journal=tmp_path / "j") as budget:
        statistic = budget.add(fake)
        statistic.step({"u": ONE})
        release = statistic.step({"u": ONE, "v": ONE}, policy="drop")
        assert exact(release, fake) == [4, 0, 0] and statistic.dropped == 1
        assert statistic.step({"u": ONE, "v": ONE}, 2) is release
    with PrivacyBudget(rho=1, journal=tmp_path / "j") as budget:
        statistic = budget.add(fake)
        assert statistic.dropped == 1
        assert exact(statistic.step({"u": ONE, "v": ONE}, policy="drop"), fake) == [6, 0, 0]
        assert statistic.dropped == 2
    text = (tmp_path / "j" / "journal.jsonl").read_text()
    assert "dropped" not in text and '"u"' not in text


def test_donors_of_one_statistic_are_free_in_another(budget):
    bounds = DonorBounds(l2=1.0)
    for name in ("one", "two"):
        budget.running_sum(name, FEATURES, 2, bounds, rho=0.1).step({"u": ONE})
    assert len({body["data"] for body in (e.body for e in budget._journal.entries) if "data" in body}) == 2


def test_large_integers_are_exact(tmp_path):
    fake = Fake(steps=3, large=10**30)
    for t in (1, 2, 3):
        with PrivacyBudget(rho=1, journal=tmp_path / "j") as budget:
            budget.add(fake).step({f"u{t}": ONE})
    last = verify(tmp_path / "j").drawn["sum"][-1]
    offset = int.from_bytes(hashlib.sha256(b"sum 3").digest()[:2])
    assert last[0] == 10**30 + offset + 6 and last[1] == 10**30 + offset


def test_secrets_go_when_they_are_not_needed(budget, tmp_path):
    folder = tmp_path / "j" / "secrets"
    small, whole = budget.add(Fake("small", 3)), budget.add(Fake("whole", 3, small_state=False))
    for t in (1, 2):
        small.step({f"u{t}": ONE})
        whole.step({f"u{t}": ONE})
    assert sorted(path.name for path in folder.iterdir()) == ["small-2.npz", "whole-1.npz", "whole-2.npz"]
    small.step({})
    whole.step({})
    assert not list(folder.iterdir())
    assert small.step({}, 3) is small.latest
    with pytest.raises(BudgetExhausted):
        small.step({})
    budget.close()
    with PrivacyBudget(rho=1, delta=1e-6, journal=tmp_path / "j") as again:
        assert again.add(Fake("whole", 3, small_state=False)).published == 3


def test_a_draw_that_fails_is_drawn_from_what_was_fixed(tmp_path, monkeypatch):
    fake = Fake()
    with PrivacyBudget(rho=1, journal=tmp_path / "j") as budget:
        statistic = budget.add(fake)
        monkeypatch.setattr(Fake, "draw", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            statistic.step({"u": ONE})
        monkeypatch.undo()
        with pytest.raises(PrivacyError, match="open it again"):
            statistic.step({"u": 2 * ONE})
    with PrivacyBudget(rho=1, journal=tmp_path / "j") as budget:
        statistic = budget.add(fake)
        assert exact(statistic.latest, fake) == [2, 0, 0]
        with pytest.raises(StepRewritten):
            statistic.step({"u": 2 * ONE}, 1)


def test_a_lost_secret_is_noticed(tmp_path):
    with PrivacyBudget(rho=1, journal=tmp_path / "j") as budget:
        budget.add(Fake()).step({"u": ONE})
    path = tmp_path / "j" / "secrets" / "sum-1.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with PrivacyBudget(rho=1, journal=tmp_path / "j") as budget, pytest.raises(PrivacyError, match="damaged"):
        budget.add(Fake())


def test_a_release_says_what_it_is(budget):
    release = budget.add(Fake()).step({"u": ONE})
    text = repr(release)
    for part in ("'sum' at step 1", "± 2", "rho = 0.25", "1e-06", "one donor", "fake, 6 steps"):
        assert part in text
    assert release.frame().columns.tolist() == ["feature", "value", "sd", "bound"]
    assert release.frame()["feature"].tolist() == list(FEATURES)
    assert release.epsilon() > release.epsilon(1e-3) > 0 and release.bound(0.1) == 3.0
    found = json.loads(json.dumps(release.to_dict()))
    assert found["rho"] == "1/4" and found["values"] == release.values.tolist() and found["safe"]
    with pytest.raises(ValueError, match="read-only"):
        release.values[0] = 0.0


@pytest.mark.parametrize("real", [False, True])
def test_a_run_without_kills(tmp_path, real):
    for _ in range(2):
        run(tmp_path / "j", tmp_path / "public", steps=3, real=real)
    counts = check(tmp_path / "j", tmp_path / "public", 3)
    assert counts["published"] == (12 if real else 9) and counts["opened"] == 2


def test_what_a_step_costs(tmp_path, monkeypatch):
    """Secret and its folder, INTENT, VALUE, anchor and its folder, DONE."""
    with PrivacyBudget(rho=1, journal=tmp_path / "j", anchor=tmp_path / "anchor") as budget:
        statistic = budget.add(Fake())
        count = Counter()
        fsync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda descriptor: count.update(["fsync"]) or fsync(descriptor))
        statistic.step({"u": ONE})
    assert count["fsync"] == 7


DRIVER = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("killed.py"))]
ENVIRONMENT = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Killed(BaseException):
    """Stands for the death of the process: nothing catches it, and the object is not used again."""


@pytest.mark.parametrize("at", [*range(1, 40, 3), *range(-39, 0, 3)])
def test_a_run_stopped_at_an_fsync_goes_on(tmp_path, monkeypatch, at):
    """B19 in one process: at each point of the protocol, before or after the data are on the disk."""

    def kill(*_):
        raise Killed

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(os, "fsync", os.fsync)
    kill_at(at)
    with pytest.raises(Killed):
        run(tmp_path / "j", tmp_path / "public", tmp_path / "anchor", steps=2)
    monkeypatch.undo()
    run(tmp_path / "j", tmp_path / "public", tmp_path / "anchor", steps=2)
    check(tmp_path / "j", tmp_path / "public", 2)
    run(tmp_path / "uninterrupted", tmp_path / "other", tmp_path / "another", steps=2)
    values = [{(row["name"], row["t"]): row["values"] for row in rows(tmp_path / name)} for name in ("public", "other")]
    assert values[0] == values[1]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("at", [3, 17, -22])
def test_a_process_killed_at_an_fsync_goes_on(tmp_path, at):
    command = [*DRIVER, "run", str(tmp_path / "j"), str(tmp_path / "public"), "--anchor", str(tmp_path / "anchor")]
    killed = subprocess.run([*command, "--steps", "2", "--kill-at", str(at)], env=ENVIRONMENT, check=False)
    assert killed.returncode == -9
    subprocess.run([*command, "--steps", "2"], env=ENVIRONMENT, check=True)
    check(tmp_path / "j", tmp_path / "public", 2)


@pytest.mark.slow
@pytest.mark.parametrize("real", [[], ["--real"]])
def test_a_campaign_of_kills(tmp_path, real):
    command = [*DRIVER, "campaign", str(tmp_path / "j"), "40", "--steps", "40", *real]
    found = json.loads(subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout)
    assert found["killed"] == 40 and found["published"] == 40 * (4 if real else 3)
    assert BOUNDS.max_steps == 2
