"""The exceptions a user can catch.

Each says in one sentence what was expected, what was found, where, and what to try. The command line prints that
sentence and exits with code 2; it never shows a traceback for one of these.
"""


class CellgapError(Exception):
    """Base of every error that cellgap raises on purpose."""


class DesignError(CellgapError, ValueError):
    """The design does not fit the data: a missing column, a missing control, a dose without a unit."""


class DataError(CellgapError, ValueError):
    """The measurements are unusable: NaN, negative counts, duplicate genes, an unreadable or empty file."""


class ConditionError(CellgapError, ValueError):
    """A condition cannot be parsed, or asks for something the study or the model does not know."""


class SplitError(CellgapError, ValueError):
    """A split cannot be made as asked, leaks, or belongs to another study."""


class ConfigError(CellgapError, ValueError):
    """A hyper-parameter or a run file is wrong."""


class StorageError(CellgapError, ValueError):
    """A saved model, split or checkpoint is missing, damaged, or of another version."""


class ConvergenceError(CellgapError, RuntimeError):
    """An iteration or a training run did not reach a finite answer."""


class MissingExtraError(CellgapError, ImportError):
    """An optional dependency is needed; the message names the extra that brings it."""
