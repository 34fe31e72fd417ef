"""The page to ask at: one file with its style and its script, under a policy that lets nothing else in."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cellgap import __version__
from cellgap.report._answers_page import answers_style, page_source
from cellgap.report._template import environment

LONGEST_QUESTION = 4_000
"""Characters that the box on the page takes; a program may send what fits into a request."""
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Policy of what is not the page."""


@dataclass(frozen=True)
class ServedPage:
    """The page, and the policy that it is shown under.

    Parameters
    ----------
    asks, waits
        The page that asks the question of its address at once, and the one that waits for the reader.
    policy
        Content security policy: this script and this style by their digests, and nothing from anywhere else.
    """

    asks: bytes
    waits: bytes
    policy: str

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "ServedPage":
        """Return the page of an asker that describes itself by `told`."""
        templates = environment()
        css = answers_style(templates) + page_source(templates, "ask_serve.css")
        script = page_source(templates, "ask_serve.js")
        template = templates.get_template("ask_serve.html")
        asks, waits = (
            template.render(
                link=link,
                css=css,
                script=script,
                version=__version__,
                searched=_searched(told),
                examples=[str(text) for text in told.get("examples", ())],
                longest=LONGEST_QUESTION,
            ).encode()
            for link in ("ask", "wait")
        )
        policy = (
            f"{NOTHING}; script-src {_hash(script)}; style-src {_hash(css)}; connect-src 'self'; img-src data:; "
            "require-trusted-types-for 'script'; trusted-types 'none'"
        )
        return cls(asks, waits, policy)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _searched(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is searched, and how, in words."""
    rows = []
    if told.get("passages"):
        rows.append(("passages", f"{int(told['passages']):,}"))
    rows += [(str(table["name"]), f"{int(table['rows']):,} rows") for table in told.get("tables", ())]
    if "answerer" in told:
        rows.append(("answered by", str(told["answerer"])))
    if "encoder" in told:
        encoder = told["encoder"]
        rows.append(("sentence encoder", ("yes" if encoder else "no") if not isinstance(encoder, str) else encoder))
    if rule := told_rule(told):
        rows.append(("a row counts where", rule))
    return rows


def told_rule(told: Mapping[str, Any]) -> str:
    """Return when a row counts as an effect, where the head of the page tells it."""
    return str(told["rule"]) if told.get("rule") and told.get("tables") else ""
