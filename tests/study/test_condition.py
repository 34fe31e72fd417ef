import copy
import pickle
from dataclasses import FrozenInstanceError

import pytest

from cellgap.errors import ConditionError
from cellgap.study import Condition, Treatment


def test_prints_the_forms_of_the_contract() -> None:
    pair = Condition([Treatment("trametinib", 1000, "nM"), Treatment("dexamethasone")], cell_line="A549")
    assert str(pair) == "dexamethasone + trametinib@1000nM | A549"
    assert repr(pair) == "dexamethasone + trametinib@1000nM | cell_line=A549"
    assert str(pair.control) == "control | A549"
    assert str(Condition()) == "control"
    assert str(Condition("x", cell_line="A549", donor="d1")) == "x | A549, d1"
    assert str(Condition("a+b", dose=0.2, unit="uM", donor=" d")) == '"a+b"@0.2uM | " d"'
    assert str(Condition("control")) == '"control"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("control", Condition()),
        ("trametinib@1000nM", Condition("trametinib", dose=1000, unit="nM")),
        ("trametinib @ 1000 nM|A549", Condition("trametinib", dose=1000, unit="nM", line="A549")),
        ("a+b | line=A549", Condition(["a", "b"], line="A549")),
        ("a@1e-3µM + b@2ng/mL", Condition([Treatment("a", 1e-3, "uM"), Treatment("b", 2, "ng/mL")])),
        ("a@5", Condition("a", dose=5)),
        ('"control" | A549', Condition("control", line="A549")),
        (r'"say \"hi\" \\ there"', Condition(r"say \"hi\" \ there".replace(r"\"", '"'))),
        ("| A549", Condition(line="A549")),
    ],
)
def test_parses(text: str, expected: Condition) -> None:
    assert Condition.parse(text, context=("line",)) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expected a condition"),
        ("a |", "Cannot read the context"),
        ("a | b | c", "2 bars"),
        ("a ++ b", "Cannot read the treatments"),
        ("a@", "Cannot read the treatments"),
        ("a@tenM", "is not a dose"),
        ("a@5nm", "case-sensitive, write nM"),
        ("a@-5nM", "is not a dose"),
        ("a@0nM", "above 0"),
        ('"a', "never closed"),
        ('a"b', "double quote inside"),
        ("a@1nM + a@2nM", "each treatment once"),
        ("a | x, y", "2 context values"),
        ("a | line=x, line=y", "each context name once"),
        ("a | line=x, y", "Cannot read the context"),
    ],
)
def test_refuses_what_it_cannot_read(text: str, says: str) -> None:
    with pytest.raises(ConditionError, match=says):
        Condition.parse(text, context=("line",))


def test_short_form_without_context_names_is_refused() -> None:
    with pytest.raises(ConditionError, match="expected no context"):
        Condition.parse("a | A549")


def test_equality_does_not_depend_on_order() -> None:
    one = Condition.parse("b + a@1nM | line=A, donor=d", context=("line", "donor"))
    other = Condition.parse("a@1nM + b | donor=d, line=A", context=("donor", "line"))
    assert one == other and hash(one) == hash(other) and len({one, other}) == 1
    assert str(one).endswith("| A, d") and str(other).endswith("| d, A")


def test_sorts_controls_first_then_name_then_dose() -> None:
    named = [Condition("b"), Condition("a", dose=10), Condition("a", dose=2), Condition(), Condition("a")]
    assert [str(c) for c in sorted(named)] == ["control", "a", "a@2", "a@10", "b"]


def test_is_frozen_and_survives_copies() -> None:
    condition = Condition("a", dose=1, unit="nM", line="A")
    with pytest.raises(FrozenInstanceError):
        condition.treatments = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del condition.context
    for other in (copy.deepcopy(condition), pickle.loads(pickle.dumps(condition))):
        assert other == condition and hash(other) == hash(condition)


def test_changes_give_new_conditions() -> None:
    condition = Condition("a", dose=1, unit="nM", line="A")
    assert condition.with_dose(5) == Condition("a", dose=5, unit="nM", line="A")
    assert condition.with_context(line="B") == Condition("a", dose=1, unit="nM", line="B")
    assert condition.with_treatments([Treatment("b")]) == Condition("b", line="A")
    with pytest.raises(ConditionError, match="exactly one treatment"):
        Condition(["a", "b"]).with_dose(5)


@pytest.mark.parametrize("dose", [0, -1, float("nan"), float("inf"), True, "5"])
def test_doses_are_positive_and_finite(dose: object) -> None:
    with pytest.raises(ConditionError, match="above 0"):
        Treatment("a", dose, "nM")  # type: ignore[arg-type]


def test_other_mistakes_in_treatments() -> None:
    with pytest.raises(ConditionError, match="needs a name"):
        Treatment("")
    with pytest.raises(ConditionError, match="but no dose"):
        Treatment("a", unit="nM")
    with pytest.raises(ConditionError, match="goes with one treatment name"):
        Condition(["a", "b"], dose=5)
    with pytest.raises(ConditionError, match="is not a unit"):
        Treatment("a", 5, "n M")


@pytest.mark.parametrize(
    ("dose", "unit", "to", "expected"),
    [(200, "nM", "uM", 0.2), (0.2, "uM", "nM", 200.0), (1, "M", "pM", 1e12), (3, "ug/mL", "ng/mL", 3000.0)],
)
def test_units_convert_exactly(dose: float, unit: str, to: str, expected: float) -> None:
    assert Treatment("a", dose, unit).to_unit(to) == Treatment("a", expected, to)


def test_amounts_do_not_convert_to_masses() -> None:
    with pytest.raises(ConditionError, match="Cannot convert a dose from nM to ng/mL"):
        Treatment("a", 5, "nM").to_unit("ng/mL")
    assert Treatment("a", 5, "Gy").to_unit("Gy").dose == 5
