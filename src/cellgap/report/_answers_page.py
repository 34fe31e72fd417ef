"""The page of one question: its answers as cards, each with its condition and its sources."""

from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from cellgap import __version__
from cellgap.ask._answer import Answers
from cellgap.errors import StorageError
from cellgap.report._answer_view import answers_view
from cellgap.report._source_view import FindEvidence
from cellgap.report._template import environment, style


def write_answers(
    answers: Answers, path: str | Path, *, title: str | None = None, evidence: FindEvidence | None = None
) -> Path:
    """Return the path of the page written from `answers`: one HTML file that needs nothing else, not even a script.

    Parameters
    ----------
    answers
        To one question.
    path
        Where to write; missing folders are made, an existing file is replaced.
    title
        At the head of the page; None: the question.
    evidence
        Returns the passage, or the values of the row, of an identifier, so that a quote is marked where it stands and
        a row is shown as a table; None: quotes stand alone.

    Raises
    ------
    StorageError
        `path` is a folder.
    """
    target = file_for_page(path)
    templates = environment()
    page = templates.get_template("answers.html").render(
        view=answers_view(answers, evidence),
        title=answers.question if title is None else title,
        version=__version__,
        css=answers_style(templates),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8", newline="\n")
    return target


def file_for_page(path: str | Path) -> Path:
    """Return `path`, which has to be that of a file."""
    target = Path(path)
    if target.is_dir():
        raise StorageError(f"The report needs the name of a file, but {str(target)!r} is a folder. Add a name.")
    return target


def answers_style(made: Environment) -> Markup:
    """Return the style sheet of the pages, and that of answers."""
    return style(made) + page_source(made, "ask.css")


def page_source(made: Environment, name: str) -> Markup:
    """Return a style sheet or a script of the house, as it stands."""
    loader = made.loader
    assert loader is not None
    return Markup(loader.get_source(made, name)[0])
