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


class PrivacyError(CellgapError):
    """A private release would break its guarantee; nothing was drawn, shown or spent.

    Messages of this class and its subclasses hold no value, count or identifier of a donor.
    """


class BudgetExhausted(PrivacyError):
    """A reservation would pass the total budget, or a step lies beyond the horizon that was paid for."""


class DonorOverContribution(PrivacyError):
    """A donor enters more steps than its bounds allow, too soon after another one, or after it was closed."""


class UnboundedContribution(PrivacyError, ValueError):
    """A bound, the number of steps or the list of features is missing, or was inferred from the data."""


class StepRewritten(PrivacyError):
    """Other data are offered for a step whose data are fixed already."""


class StaleState(PrivacyError):
    """The journal is older than its anchor says: it was restored from a backup."""


class ForkedState(PrivacyError):
    """Two copies of a journal were both advanced, or another process is advancing this one."""


class UnsafeNoise(PrivacyError, ValueError):
    """Noise that is no protection: floating point, a seeded generator, or a sampler of one's own."""


class NotPrivate(PrivacyError, TypeError):
    """Something that no ledger accounts for (axes, means, raw statistics) is put where private results go."""


class EndpointError(CellgapError, RuntimeError):
    """A language model's server could not be used: no connection, no reply in time, a refusal, an unknown model.

    Messages of this class and its subclasses hold no key.
    """


class ReplyError(EndpointError):
    """A server replied, but not with what was asked for, and repairing failed."""


class OfflineMiss(EndpointError):
    """Offline, and the reply is not in the cache."""
