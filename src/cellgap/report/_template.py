"""The templates of the pages, and the style that they share."""

import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape


def environment() -> Environment:
    """Return the environment in which every page is rendered."""
    made = Environment(
        loader=PackageLoader("cellgap.report", "page"),
        autoescape=True,  # every name on the page comes from a user
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["svg"] = lambda picture: Markup(picture.svg)
    made.filters["breaks"] = _breaks
    return made


def style(made: Environment) -> Markup:
    """Return the style sheet of the pages."""
    loader = made.loader
    assert loader is not None
    return Markup(loader.get_source(made, "report.css")[0])


def _breaks(name: str) -> Markup:
    """Return `name` escaped, allowed to break after the marks that join the parts of a condition."""
    return Markup(re.sub(r"([@+|_/:])", r"\1<wbr>", str(escape(name))))
