"""Citations of characters of a passage."""

from cellgap.ask._answer import Citation
from cellgap.ask._passage import Passage


def cite_passage(passage: Passage, position: int, span: tuple[int, int]) -> Citation:
    """Return the citation of some characters of the passage at a one-based position."""
    return Citation(
        passage.id,
        passage.title,
        passage.text[span[0] : span[1]],
        position=position,
        span=span,
        source=passage.source,
        sha256=passage.sha256,
    )
