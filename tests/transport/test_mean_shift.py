"""Every rule of the mean shift against shifts computed by hand, on populations of equal cells."""

import numpy as np
import pytest
from small import FULL, RAW, OneHot, at, constant, vehicle

from cellgap.encode import Dose
from cellgap.errors import ConditionError
from cellgap.study import split
from cellgap.transport import Codes, FittedMeanShift, MeanShift, condition_features
from cellgap.transport._mean_shift import Rule
from cellgap.transport._ridge import fit_ridge, groups_of

# Controls of the two lines at (1, 2) and (10, 20); every population is its control plus the shift named here.
CONTROLS = {"L1": np.array([1.0, 2.0]), "L2": np.array([10.0, 20.0])}
SHIFTS = {
    ("anti", 10.0, "L1"): (1.0, 0.0),
    ("anti", 1000.0, "L1"): (3.0, -2.0),
    ("anti", 1000.0, "L2"): (5.0, 0.0),
    ("beta", 10.0, "L1"): (0.0, 4.0),
    ("beta", 1000.0, "L1"): (0.0, 8.0),
    ("cora", 100.0, "L1"): (7.0, 7.0),
    ("anti+beta", 1000.0, "L1"): (100.0, 100.0),
}
X = np.array([[0.0, 0.0], [1.0, -1.0]], np.float32)


@pytest.fixture(scope="module")
def codes() -> Codes:
    means = {("vehicle", 0.0, line): CONTROLS[line] for line in CONTROLS}
    means |= {key: CONTROLS[key[2]] + np.asarray(shift) for key, shift in SHIFTS.items()}
    study = constant({key: tuple(mean) for key, mean in means.items()})
    return Codes.of(split.unseen_treatment(study, "cora", min_cells=1, valid=0.25), RAW, FULL)


def fitted(codes: Codes, rule: Rule) -> FittedMeanShift:
    return MeanShift(space=RAW, encoder=FULL, rule=rule).fit_codes(codes)


def moved(codes: Codes, rule: Rule, condition) -> np.ndarray:
    """Return the shift, after checking that every cell moves by it."""
    out = fitted(codes, rule).transport(X, condition)
    assert out.dtype == np.float32 and out.shape == X.shape
    np.testing.assert_allclose(out - X, np.tile((out - X)[0], (2, 1)), rtol=1e-6)
    return (out - X)[0]


def test_own_is_the_shift_of_the_condition_in_its_context(codes):
    for (drug, dose, line), shift in SHIFTS.items():
        if drug != "cora":
            np.testing.assert_allclose(moved(codes, "own", at(drug.split("+"), dose, line)), shift, rtol=1e-5)
    for unseen in (at("anti", 100), at("cora", 100), at("beta", 1000, "L2")):
        with pytest.raises(ConditionError, match="was not trained on, so its own mean shift is unknown"):
            fitted(codes, "own").transport(X, unseen)


def test_all_is_the_average_over_training_conditions_with_equal_weight(codes):
    mean = np.mean([shift for key, shift in SHIFTS.items() if key[0] != "cora"], axis=0)
    for condition in (at("anti", 10), at("cora", 100, "L2"), at("anti", 33)):
        np.testing.assert_allclose(moved(codes, "all", condition), mean, rtol=1e-5)


def test_nearest_is_the_condition_nearest_in_scaled_features(codes):
    np.testing.assert_allclose(moved(codes, "nearest", at("beta", 1000)), (0, 8), rtol=1e-5)
    np.testing.assert_allclose(moved(codes, "nearest", at("beta", 900)), (0, 8), rtol=1e-5)
    np.testing.assert_allclose(moved(codes, "nearest", at("anti", 12)), (1, 0), rtol=1e-5)


def test_nearest_averages_conditions_that_the_encoder_does_not_tell_apart(codes):
    blind = Codes.of(codes.split, RAW, Dose())
    near = MeanShift(space=RAW, encoder=Dose(), rule="nearest").fit_codes(blind)
    tied = [SHIFTS[key] for key in SHIFTS if key[1] == 1000.0 and "+" not in key[0]]
    np.testing.assert_allclose(near.transport(X, at("anti", 1000)) - X, np.tile(np.mean(tied, 0), (2, 1)), rtol=1e-5)


@pytest.mark.parametrize(
    ("dose", "line", "shift"),
    [
        (10, "L1", (1, 0)),
        (100, "L1", (2, -1)),
        (10**1.5, "L1", (1.5, -0.5)),
        (1000, "L1", (3, -2)),
        (1, "L1", (1, 0)),
        (1e6, "L1", (3, -2)),
        (50, "L2", (5, 0)),
    ],
)
def test_dose_interpolates_in_the_logarithm_within_its_context_and_stays_at_the_ends(codes, dose, line, shift):
    np.testing.assert_allclose(moved(codes, "dose", at("anti", dose, line)), shift, rtol=1e-5, atol=1e-6)


def test_dose_takes_other_contexts_where_its_own_has_no_dose(codes):
    np.testing.assert_allclose(moved(codes, "dose", at("beta", 100, "L2")), (0, 6), rtol=1e-5, atol=1e-6)


def test_dose_has_no_answer_without_one_treatment_that_has_doses(codes):
    for condition, says in (
        (at(["anti", "beta"], 100), "not one treatment with a dose"),
        (at("anti"), "not one treatment with a dose"),
        (at("cora", 100), "'cora' was not trained on at any dose"),
    ):
        with pytest.raises(ConditionError, match=says):
            fitted(codes, "dose").transport(X, condition)


def test_additive_is_the_sum_of_the_single_effects(codes):
    np.testing.assert_allclose(moved(codes, "additive", at(["anti", "beta"], 1000)), (3, 6), rtol=1e-5)
    np.testing.assert_allclose(moved(codes, "additive", at(["anti", "beta"], 10)), (1, 4), rtol=1e-5)
    # In line L2 beta was not measured alone: its effect comes from L1.
    np.testing.assert_allclose(moved(codes, "additive", at(["anti", "beta"], 1000, "L2")), (5, 8), rtol=1e-5)


def test_additive_refuses_single_treatments_and_members_that_were_not_alone(codes):
    with pytest.raises(ConditionError, match="not a combination: nothing to add"):
        fitted(codes, "additive").transport(X, at("anti", 1000))
    with pytest.raises(ConditionError, match="cora@1000nM was not trained on alone"):
        fitted(codes, "additive").transport(X, at(["anti", "cora"], 1000))


def test_ridge_regresses_the_shifts_on_the_features(codes):
    conditions = codes.split.train_conditions
    features = np.stack([condition_features(codes.encoder, c) for c in conditions])
    by_name = {(" + ".join(c.names), c.treatments[0].dose, dict(c.context)["line"]): c for c in conditions}
    shifts = np.zeros((len(conditions), 2))
    for (drug, dose, line), shift in SHIFTS.items():
        if drug != "cora":
            shifts[conditions.index(by_name[drug.replace("+", " + "), dose, line])] = shift
    expected = fit_ridge(features, shifts, groups_of(conditions)).coefficients
    model = fitted(codes, "ridge")
    assert model.coefficients is not None
    np.testing.assert_allclose(model.coefficients, expected, rtol=1e-4, atol=1e-5)
    for condition in (at("anti", 10), at("cora", 100), at("dara", 5, "L2")):
        shift = condition_features(codes.encoder, condition) @ expected
        np.testing.assert_allclose(moved(codes, "ridge", condition), shift, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["own", "all", "nearest", "dose", "additive", "ridge"])
def test_controls_stay_where_they_are(codes, rule):
    for line in ("L1", "L2"):
        np.testing.assert_array_equal(fitted(codes, rule).transport(X, vehicle(line)), X)


def test_names_tell_the_rules_apart(codes):
    rules: tuple[Rule, ...] = ("own", "all", "nearest", "dose", "additive", "ridge")
    assert len({fitted(codes, rule).name for rule in rules}) == 6


def test_an_encoder_that_knows_names_only_says_what_an_unseen_treatment_needs(codes):
    ridge = MeanShift(space=RAW, encoder=OneHot()).fit(codes.split)
    with pytest.raises(ConditionError, match=r"'cora', which was not trained on.*descriptor.*Table"):
        ridge.transport(X, at("cora", 100))
