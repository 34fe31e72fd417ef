"""The words a fitted map understands, and how far a condition is from those it was trained on."""

import numpy as np
import pytest
from small import FULL, RAW, TABLE, OneHot, at, screen, vehicle

from cellgap.encode import Dose, Table
from cellgap.errors import ConditionError
from cellgap.study import Condition, split
from cellgap.transport import Gaussian, MeanShift, Vocabulary, condition_features
from cellgap.transport._map import AbstractMap


@pytest.fixture(scope="module")
def fitted() -> AbstractMap:
    """Trained on anti at 10, 100, 1000; beta at 10, 1000; anti and beta together; not on cora."""
    study = screen()
    held = [at("cora", dose, line) for dose in (10, 100, 1000) for line in ("L1", "L2")]
    made = split.unseen_conditions(study, [*held, at("beta", 100), at("beta", 100, "L2")], min_cells=1)
    return Gaussian(space=RAW, encoder=FULL).fit(made)


def vocabulary(*conditions: str, context: tuple[str, ...] = ("line",)) -> Vocabulary:
    parsed = tuple(Condition.parse(text, context) for text in conditions)
    return Vocabulary.of(parsed, np.arange(1.0, len(parsed) + 1)[:, None], context)


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ("anti@100nM | L1", "anti@100nM | line=L1"),
        ("anti@100nM | line=L1", "anti@100nM | line=L1"),
        ("anti@100 | L2", "anti@100nM | line=L2"),
        ("anti@0.1uM | L2", "anti@100nM | line=L2"),
        ("anti@33 | L2", "anti@33nM | line=L2"),
        ("dara@1uM | L1", "dara@1000nM | line=L1"),
        ("beta@10 + anti@1uM | L1", "anti@1000nM + beta@10nM | line=L1"),
        ("control | L1", "control | line=L1"),
        ("anti@10nM", "anti@10nM"),
    ],
)
def test_conditions_are_resolved_into_the_words_of_training(fitted, given, resolved):
    found = fitted.vocabulary.resolve(given)
    assert repr(found) == resolved
    assert fitted.vocabulary.resolve(found) == found


def test_what_was_trained_on_alone_is_filled_in():
    words = vocabulary("anti@0.3uM | L1", "beta@5uM | L1", "beta@7uM | L1")
    assert repr(words.resolve("anti")) == "anti@0.3uM | line=L1"
    with pytest.raises(ConditionError, match="'beta' needs a dose: trained on were beta@5uM, beta@7uM"):
        words.resolve("beta")
    with pytest.raises(ConditionError, match="'cora' needs a dose: trained on were other treatments, all with a dose"):
        words.resolve("cora")
    assert repr(vocabulary("ko | L1", "ko | L2").resolve("ko")) == "ko"


@pytest.mark.parametrize(
    ("trained", "given"),
    [
        ("95.3939uM", "95393.9nM"),
        ("7.44755uM", "7447.55nM"),
        ("33.1557uM", "33155.7nM"),
        ("794.773uM", "0.794773mM"),
        ("100nM", "0.1uM"),
    ],
)
def test_a_dose_that_was_trained_on_survives_conversion_in_every_digit(trained, given):
    """Found by search: converted as they stand, all but the last differ in the last digit."""
    asked = vocabulary(f"anti@{trained} | L1").resolve(f"anti@{given}")
    assert asked == Condition.parse(f"anti@{trained} | line=L1")


def test_words_that_are_not_understood(fitted):
    for condition, says in (
        ("anti@10nM | tissue=lung", "context 'tissue'; this model knows line"),
        ("anti | L1", "'anti' needs a dose: trained on were anti@10nM, anti@100nM, anti@1000nM"),
        ("anti@3ng/mL | L1", "Cannot convert a dose from ng/mL to nM"),
        ("anti@10nM | L1, L2", "2 context values"),
    ):
        with pytest.raises(ConditionError, match=says):
            fitted.vocabulary.resolve(condition)
    with pytest.raises(ConditionError, match="'ko@10nM' has a dose, but training treatments have none"):
        vocabulary("ko | L1").resolve(Condition("ko", dose=10, unit="nM", line="L1"))
    with pytest.raises(ConditionError, match="needs a unit: training doses are in"):
        vocabulary("a@1nM | L1", "a@1ng/mL | L1").resolve("a@1 | L1")


def test_training_conditions_are_at_distance_0_and_do_not_extrapolate(fitted):
    for condition in fitted.vocabulary.parsed():
        near = fitted.nearness(condition)
        assert near == (repr(condition), 0.0, ())


def test_unseen_conditions_name_their_neighbor_and_what_is_new_about_them(fitted):
    inside = fitted.nearness(at("anti", 90))
    assert inside.nearest == "anti@100nM | line=L1" and 0 < inside.distance < 1 and inside.extrapolates == ()
    above = fitted.nearness("anti@50uM | L1")
    assert above.nearest == "anti@1000nM | line=L1" and above.distance > inside.distance
    assert above.extrapolates == ("the dose of anti@50000nM is above the training doses",)
    new = fitted.nearness(at("cora", 10))
    assert len(new.extrapolates) == 1 and "the treatment cora was not trained on" in new.extrapolates[0]
    pair = fitted.nearness(at(["anti", "cora"], 100))
    assert pair.extrapolates[-1] == "the combination was never seen, nor cora alone"


def test_a_combination_of_known_members_and_a_new_context_are_said():
    study = screen()
    made = split.unseen_combination(study, [("anti", "beta")], min_cells=1)
    pair = MeanShift(space=RAW, encoder=Table() | Dose(), rule="additive").fit(made)
    assert pair.nearness(at(["anti", "beta"], 100)).extrapolates == ("the combination was never seen",)
    line = split.leave_one_domain_out(study, "line", "L2", min_cells=1)
    blind = MeanShift(space=RAW, encoder=Table() | Dose()).fit(line)
    assert blind.nearness(at("anti", 100, "L2")).extrapolates == ("line L2 was never trained on",)
    # The context has one value in training, so it is filled in where it is left out.
    assert blind.nearness("anti@100nM").extrapolates == ()


def test_distance_is_in_units_of_the_distance_between_training_conditions():
    made = split.unseen_dose(screen(), 100, treatments=["anti"], min_cells=1)
    fitted = MeanShift(space=RAW, encoder=Dose()).fit(made)
    features = np.stack([condition_features(fitted.encoder, c) for c in fitted.vocabulary.parsed()])
    scaled = features / np.sqrt((features**2).mean(0))
    distances = np.linalg.norm(scaled[:, None] - scaled[None], axis=-1)
    unit = np.median(np.where(distances > 1e-9, distances, np.inf).min(1))
    asked = condition_features(fitted.encoder, at("anti", 300)) / np.sqrt((features**2).mean(0))
    expected = np.linalg.norm(scaled - asked, axis=1).min() / unit
    np.testing.assert_allclose(fitted.nearness(at("anti", 300)).distance, expected, rtol=1e-6)


def test_a_single_training_condition_has_a_distance_too():
    words = vocabulary("ko | L1")
    near = words.nearness(Condition("other"), np.array([3.0]), ())
    assert np.isfinite(near.distance) and near.distance > 0


def test_an_unseen_treatment_needs_a_descriptor():
    made = split.unseen_treatment(screen(), "cora", min_cells=1)
    named = MeanShift(space=RAW, encoder=OneHot() | Dose()).fit(made)
    with pytest.raises(ConditionError, match=r"'cora', which was not trained on .*needs a descriptor.*Table"):
        named.nearness(at("cora", 10))
    described = MeanShift(space=RAW, encoder=Table(TABLE) | Dose()).fit(made)
    with pytest.raises(ConditionError, match="no row for the treatment 'nova'"):
        described.nearness(at("nova", 10))
    assert described.nearness(vehicle()).distance > 0
