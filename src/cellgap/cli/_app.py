"""The program ``cellgap``: its commands, and what it says when something is wrong."""

import errno
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App, CycloptsError

from cellgap import __version__
from cellgap.cli._say import error
from cellgap.errors import CellgapError

MISTAKE = 2
"""Exit code of a user's mistake."""

_FILES = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EROFS, errno.ENOSPC, errno.ENAMETOOLONG)
"""What a file system may answer to a path that the user gave."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""

app = App(
    name="cellgap",
    help="Predict what cells do under conditions nobody measured, and say how far to trust it.",
    help_epilogue="Start with `cellgap demo`: two minutes, no data needed.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
# Commands are imported when they are called.
app.command("cellgap.cli._demo:demo", name="demo", help="Simulate a drug screen, fit it, and see every output.")
app.command("cellgap.cli._check:check", name="check", help="List what is wrong or suspicious about data and design.")
app.command("cellgap.cli._fit:fit", name="fit", help="Fit a model as a run file says; continues where it was stopped.")
app.command("cellgap.cli._compare:compare", name="compare", help="Fit several models and score them in one table.")
app.command("cellgap.cli._predict:predict", name="predict", help="Write the cells predicted under new conditions.")
app.command("cellgap.cli._evaluate:evaluate", name="evaluate", help="Score a run on what it never saw.")
app.command("cellgap.cli._generate:app", name="generate", help="Draw cells with chosen attributes as raw counts.")
app.command(
    "cellgap.cli._embed:app",
    name="embed",
    help="Contrastive representations of cells, with a diagnosis of what their pairs keep and lose.",
)
app.command(
    "cellgap.cli._annotate:app",
    name="annotate",
    help="Label cells of donors that were never seen, and say which to leave without a label.",
)
app.command(
    "cellgap.cli._dynamics:app",
    name="dynamics",
    help="Learn a law of cells in time: forecast, network, knock-outs.",
)
app.command(
    "cellgap.cli._stream:app",
    name="stream",
    help="One pass over large atlases: principal axes; statistics released under donor privacy.",
)
app.command(
    "cellgap.cli._ask:app",
    name="ask",
    help="Answer a question from effect tables and passages: one answer a condition, with citations.",
)
app.command("cellgap.cli._report:report", name="report", help="Write the page of a run, one HTML file.")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 2 a mistake of the user, 130 interrupted.

    A mistake is one sentence on standard error; anything else that goes wrong is a bug and keeps its traceback.

    Parameters
    ----------
    arguments
        Of the command line; None takes those of the process.
    """
    try:
        code = app(
            sys.argv[1:] if arguments is None else arguments,
            print_error=False,
            exit_on_error=False,
            result_action="return_int_as_exit_code_else_zero",
        )
    except CycloptsError as mistake:
        error(f"{_sentence(mistake)} Try `cellgap --help`.")
        code = MISTAKE
    except CellgapError as mistake:
        error(str(mistake))
        code = MISTAKE
    except KeyboardInterrupt:
        error("interrupted.")
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe (`| head`) went away.
        sys.stderr.close()
        code = 0
    except OSError as mistake:
        if mistake.errno not in _FILES:
            raise
        error(f"cannot use {str(mistake.filename or 'a file')!r}: {mistake.strerror}.")
        code = MISTAKE
    sys.exit(code)


def _sentence(mistake: CycloptsError) -> str:
    text = " ".join(str(mistake).split())
    return text if text.endswith((".", "?")) else f"{text}."
