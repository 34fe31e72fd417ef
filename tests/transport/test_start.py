"""The start: chosen by conditions that were left out, never by test cells, and never worse than a simple rule there."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from small import FULL, LINES, RAW, OneHot, at, screen, study_of, vehicle

from cellgap.encode import Dose, Table
from cellgap.study import Role, Study, split
from cellgap.transport import Codes, Gaussian, Identity, MeanShift, condition_features
from cellgap.transport._closed_form import Effects, identity, paths, rules
from cellgap.transport._map import vocabulary_of
from cellgap.transport._start import StartMap, _between, _preferred, _within, start_of
from cellgap.transport._training_data import training_problem


def codes_of(**changes) -> Codes:
    return Codes.of(split.unseen_dose(screen(), 100, treatments="cora", min_cells=1, **changes), RAW, FULL)


@pytest.fixture(scope="module")
def codes() -> Codes:
    return codes_of()


@pytest.fixture(scope="module")
def start(codes) -> StartMap:
    return start_of(codes, "auto")


def mapped(start: StartMap, codes: Codes, condition, x: np.ndarray) -> np.ndarray:
    known = start.known(vocabulary_of(codes))
    shift, linear = start.at(condition, condition_features(codes.encoder, condition), known)
    return x + np.asarray(shift) + (0.0 if linear is None else (x - np.asarray(start.center)) @ np.asarray(linear))


def test_mean_distances_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 3)) + 100, rng.normal(size=(5, 3)) + 100
    between = np.linalg.norm(a[:, None] - b[None], axis=-1)
    np.testing.assert_allclose(_between(a, b), between.mean(), rtol=1e-5)
    within = np.linalg.norm(a[:, None] - a[None], axis=-1)
    np.testing.assert_allclose(_within(a), within.sum() / (7 * 6), rtol=1e-5)


def test_the_chosen_form_has_the_lowest_energy_where_it_beats_the_default_by_more_than_noise(start):
    names = [row["candidate"] for row in start.table]
    assert {"identity", "mean effect", "nearest condition", "ridge mean shift", "Gaussian path"} <= set(names)
    assert "dose interpolation + Gaussian" in names and "additive" not in names, "no combination is left out"
    energies = [row["energy"] for row in start.table]
    assert energies == sorted(energies) and start.unseen.name == names[0]
    first, *others = start.table
    assert first["difference"] == 0
    for row in others:
        np.testing.assert_allclose(row["difference"], row["energy"] - first["energy"], atol=1e-9)
        assert row["standard_error"] > 0
    assert start.judged_on == "4 training conditions, doses left out in turn (2 fits)"


def test_energies_are_those_of_maps_that_were_fitted_without_the_left_out_conditions(codes, start):
    """The identity and the ridge, by hand."""
    held = [at(name, 100, line) for name in ("anti", "beta") for line in LINES]
    expected: dict[str, list[float]] = {"identity": [], "ridge mean shift": []}
    for condition in held:
        roles = codes.split.roles.copy()
        fold = [c for c in held if c.names == condition.names]
        for c in fold:
            roles[codes.rows(c, Role.TRAIN, Role.VALID)] = Role.UNUSED
        kept = tuple(c for c in codes.split.train_conditions if c not in fold)
        rest = dataclasses.replace(
            codes, split=dataclasses.replace(codes.split, roles=roles, train_conditions=kept, valid_conditions=())
        )
        x = codes.cells(condition.control, Role.TRAIN, Role.VALID)
        y = codes.cells(condition, Role.TRAIN, Role.VALID)
        common = {"space": RAW, "encoder": FULL}
        for name, model in (("identity", Identity(**common)), ("ridge mean shift", MeanShift(**common))):
            t = model.fit_codes(rest).transport(x, condition)
            expected[name].append(2 * _between(t, y) - _within(t) - _within(y))
    energies = {row["candidate"]: row["energy"] for row in start.table}
    for name, values in expected.items():
        np.testing.assert_allclose(energies[name], np.mean(values), rtol=1e-4)


def test_test_cells_are_not_read(codes, start):
    z = codes.z.copy()
    z[codes.split.cells(Role.TEST, Role.SOURCE, Role.REFERENCE)] = np.nan
    again = start_of(dataclasses.replace(codes, z=z), "auto")
    assert again.table == start.table and json.dumps(start.table)


def test_training_conditions_have_their_own_map_controls_none_and_others_the_chosen_one(codes, start):
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    assert start.seen.name in ("Gaussian path", "smooth Gaussian")
    np.testing.assert_array_equal(mapped(start, codes, vehicle(), x), x)
    only = next(f for f in rules(Effects.of(codes), None) if f.name == "dose interpolation")
    other = dataclasses.replace(start, unseen=only)
    shift = MeanShift(space=RAW, encoder=FULL, rule="dose").fit_codes(codes).shift(at("cora", 100))
    np.testing.assert_allclose(mapped(other, codes, at("cora", 100), x), x + shift, rtol=1e-5, atol=1e-5)
    own = mapped(other, codes, at("anti", 10), x)
    np.testing.assert_array_equal(own, mapped(start, codes, at("anti", 10), x))
    # Doses of a combination are not interpolated: the form for measured conditions answers.
    unseen = at(["anti", "cora"], 100)
    np.testing.assert_array_equal(
        mapped(other, codes, unseen, x), mapped(dataclasses.replace(start, unseen=start.seen), codes, unseen, x)
    )


def test_a_rule_with_gaussian_shape_moves_the_mean_as_the_rule_does(codes):
    effects = Effects.of(codes)
    shape = next(f.path for f in paths(effects, np.arange(len(effects.conditions))) if f.name == "smooth Gaussian")
    plain, shaped = (
        next(f for f in rules(effects, s) if f.name == n)
        for s, n in ((None, "mean effect"), (shape, "mean effect + Gaussian"))
    )
    features = condition_features(codes.encoder, at("cora", 100, "L2"))
    given = (at("cora", 100, "L2"), features, effects.known, effects.control_means)
    shift, linear = shaped.at(*given)
    expected, none = plain.at(*given)
    assert none is None and linear is not None and np.abs(linear).max() > 0.05
    mean = codes.cells(vehicle("L2"), Role.TRAIN).mean(0)
    np.testing.assert_allclose(shift + (mean - effects.center) @ linear, expected, rtol=1e-4, atol=1e-4)


def test_fixed_starts_are_the_paths_they_name(codes):
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    gaussian = Gaussian(space=RAW, encoder=FULL).fit_codes(codes)
    found = start_of(codes, "gaussian")
    assert found.table == () and found.judged_on == ""
    for condition in (at("cora", 100), at("anti", 10, "L2")):
        np.testing.assert_allclose(
            mapped(found, codes, condition, x), gaussian.transport(x, condition), rtol=1e-5, atol=1e-5
        )
        np.testing.assert_array_equal(mapped(start_of(codes, "identity"), codes, condition, x), x)


def test_validation_conditions_decide_where_there_are_any():
    codes = codes_of(valid_conditions=[at("beta", 100, line) for line in LINES])
    start = start_of(codes, "auto")
    assert start.judged_on == "2 validation conditions"
    z = codes.z.copy()
    z[codes.rows(at("beta", 100), Role.VALID)] += 3.0
    moved = start_of(dataclasses.replace(codes, z=z), "auto")
    assert moved.table[0]["energy"] > start.table[0]["energy"] + 0.1


def effectless(n: int = 30) -> Study:
    """Return treatments whose strong effects have nothing in common, two of them measured at random places."""
    rng = np.random.default_rng(0)
    names = [f"d{i}" for i in range(6)]
    labels = [("vehicle", 0.0, "L1")] * 4 * n + [(name, 10.0, "L1") for name in names for _ in range(n)]
    x = rng.normal(size=(len(labels), 4))
    for i in range(len(names)):
        x[(4 + i) * n : (5 + i) * n] += 5.0 * (-1) ** i * np.eye(4)[i // 2]
    return study_of(labels, x)


def energies_of(gains: list[float]) -> list[dict[str, float]]:
    """Return energies of a default (1) and of the identity, which is better by these gains."""
    return [{"Gaussian path": 1.0, "identity": 1.0 - gain} for gain in gains]


@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ([0.3, 0.2, 0.4, 0.1], "identity"),
        ([0.9, -0.3, -0.2, 0.0], "Gaussian path"),
        ([-0.1] * 6, "Gaussian path"),
        ([0.5, 0.5, 0.5], "Gaussian path"),
    ],
)
def test_noise_and_few_conditions_do_not_replace_the_default(codes, gains, chosen):
    default = next(f for f in paths(Effects.of(codes), np.arange(18)) if f.name == "Gaussian path")
    assert _preferred([identity(), default], energies_of(gains), default).name == chosen


def test_where_nothing_carries_over_the_cells_are_left_where_they_are():
    made = split.unseen_treatment(effectless(), "d5", min_cells=1)
    start = start_of(Codes.of(made, RAW, OneHot()), "auto")
    energies = {row["candidate"]: row["energy"] for row in start.table}
    assert energies[start.unseen.name] == min(energies.values()) <= energies["identity"]
    assert energies["identity"] < energies["mean effect"], "opposite effects: their mean is no guess"


def test_what_a_descriptor_explains_is_found():
    rng = np.random.default_rng(1)
    names = [f"d{i}" for i in range(12)]
    table = {name: rng.normal(size=2) for name in names}
    basis = np.asarray([[3.0, 0.0, 1.0], [0.0, 2.0, -1.0]])
    labels = [("vehicle", 0.0, "L1")] * 120 + [(name, 10.0, "L1") for name in names for _ in range(30)]
    x = rng.normal(size=(len(labels), 3))
    for i, name in enumerate(names):
        x[120 + 30 * i : 150 + 30 * i] += table[name] @ basis
    encoder = Table(pd.DataFrame(table, index=["u", "v"]).T)
    codes = Codes.of(split.unseen_treatment(study_of(labels, x), names[-2:], min_cells=1), RAW, encoder)
    start = start_of(codes, "auto")
    energies = {row["candidate"]: row["energy"] for row in start.table}
    assert energies[start.unseen.name] < 0.1 * min(energies["identity"], energies["mean effect"])
    for name in names[-2:]:
        x = codes.cells(vehicle(), Role.TRAIN)
        moved = mapped(start, codes, at(name, 10), x).mean(0) - x.mean(0)
        assert np.linalg.norm(moved - table[name] @ basis) < 0.3 * np.linalg.norm(table[name] @ basis) + 0.2


def test_nothing_to_judge_on_is_said():
    labels = [("vehicle", 0.0, "L1")] * 20 + [("anti", 10.0, "L1")] * 20 + [("beta", 10.0, "L1")] * 20
    study = study_of(labels, np.random.default_rng(0).normal(size=(60, 2)))
    codes = Codes.of(split.unseen_treatment(study, "beta", valid=0.0, min_cells=1), RAW, Dose())
    start = start_of(codes, "auto")
    assert start.judged_on == "" and start.table == () and start.seen.name == start.unseen.name == "Gaussian path"


def test_spaces_of_many_dimensions_have_no_linear_parts():
    rng = np.random.default_rng(0)
    labels = [("vehicle", 0.0, "L1")] * 20 + [(name, 10.0, "L1") for name in ("anti", "beta", "cora") for _ in range(8)]
    study = study_of(labels, rng.normal(size=(44, 300)))
    codes = Codes.of(split.unseen_treatment(study, "cora", min_cells=1), RAW, Dose())
    effects = Effects.of(codes)
    assert effects.linears is None
    start = start_of(codes, "auto")
    assert not any("Gaussian" in row["candidate"] for row in start.table)
    problem = training_problem(codes, codes.split.train_conditions, Role.TRAIN, start)
    assert problem.linears is None


def test_conditions_with_and_without_a_linear_part_stand_in_one_problem(codes, start):
    roles = codes.split.roles.copy()
    unseen = at("cora", 100)
    roles[codes.rows(unseen, Role.TEST)] = Role.VALID
    codes = dataclasses.replace(codes, split=dataclasses.replace(codes.split, roles=roles))
    mixed = dataclasses.replace(start, unseen=identity())
    problem = training_problem(codes, (at("anti", 10), unseen), Role.VALID, mixed)
    assert problem.linears is not None and np.abs(problem.linears[0]).max() > 0.01
    np.testing.assert_array_equal(problem.linears[1], 0)
    np.testing.assert_array_equal(problem.shifts[1], 0)
