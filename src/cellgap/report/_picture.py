"""A figure of the page."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """One figure: an ``<svg>`` element and the sentence under it."""

    svg: str
    caption: str
