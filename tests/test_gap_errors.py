"""The vocabulary of failure and of gaps."""

import dataclasses

import pytest

from cellgap import errors
from cellgap.errors import CellgapError
from cellgap.gap import Gap

BUILTIN = {
    "DesignError": ValueError,
    "DataError": ValueError,
    "ConditionError": ValueError,
    "SplitError": ValueError,
    "ConfigError": ValueError,
    "StorageError": ValueError,
    "ConvergenceError": RuntimeError,
    "MissingExtraError": ImportError,
    # What a private release refuses is of no kind of Python's, except where an argument is wrong.
    "PrivacyError": Exception,
    "BudgetExhausted": Exception,
    "DonorOverContribution": Exception,
    "UnboundedContribution": ValueError,
    "StepRewritten": Exception,
    "StaleState": Exception,
    "ForkedState": Exception,
    "UnsafeNoise": ValueError,
    "NotPrivate": TypeError,
    "EndpointError": RuntimeError,
    "ReplyError": RuntimeError,
    "OfflineMiss": RuntimeError,
}


def test_every_error_is_in_the_table_of_this_test():
    found = {
        name for name, item in vars(errors).items() if isinstance(item, type) and issubclass(item, CellgapError)
    } - {"CellgapError"}
    assert found == set(BUILTIN)


@pytest.mark.parametrize(("name", "builtin"), BUILTIN.items())
def test_errors_are_caught_as_ours_and_as_python_s(name, builtin):
    kind = getattr(errors, name)
    for caught in (CellgapError, builtin):
        with pytest.raises(caught, match="one sentence"):
            raise kind("one sentence.")
    assert kind.__doc__


def test_gap_prints_its_value_with_what_it_is_compared_to():
    gap = Gap("Monge gap", 0.123456, "0 = optimal map; mean transport cost 7.31", "cells cross", "raise the weight")
    assert str(gap) == "Monge gap: 0.1235 (0 = optimal map; mean transport cost 7.31)"


def test_gap_is_a_value():
    gap = Gap("Monge gap", 0.5, "scale", "meaning", "remedy")
    assert gap == Gap("Monge gap", 0.5, "scale", "meaning", "remedy") and len({gap, gap}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        gap.value = 0.0  # type: ignore[misc]
