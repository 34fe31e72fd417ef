"""Maps of measured conditions alone: which condition is asked, and what is said where it was not trained on."""

from cellgap.errors import ConditionError
from cellgap.study import Condition, Split
from cellgap.transport._familiarity import Vocabulary


def named(split: Split, text: str) -> Condition:
    """Return the training condition that a text names.

    Raises
    ------
    ConditionError
        The split does not train on it.
    """
    condition = split.study.resolve(text)
    if condition not in split.train_conditions:
        raise ConditionError(f"{str(condition)!r} is not among the training conditions of the split.")
    return condition


def trained_number(vocabulary: Vocabulary, condition: Condition, name: str) -> int:
    """Return the number of a training condition.

    Raises
    ------
    ConditionError
        It was not trained on.
    """
    known = vocabulary.parsed()
    if condition not in known:
        raise ConditionError(
            f"{str(condition)!r} was not trained on, and {name} has a map for each training condition only: "
            "take ConditionalMonge, CondOT or Gaussian."
        )
    return known.index(condition)
