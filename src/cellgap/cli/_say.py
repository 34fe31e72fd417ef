"""Results on standard output, everything else on standard error."""

import sys
from typing import Any


def show(*renderables: Any) -> None:
    """Print results on standard output, tables as wide as the terminal (120 columns where there is none)."""
    console = _console(sys.stdout)
    for renderable in renderables:
        console.print(renderable, soft_wrap=isinstance(renderable, str), markup=False, highlight=False)


def note(text: str) -> None:
    """Say on standard error what is going on."""
    _console(sys.stderr).print(text, soft_wrap=True, markup=False, highlight=False, style="dim")


def warn(text: str) -> None:
    """Warn on standard error, in one line."""
    _console(sys.stderr).print(f"warning: {text}", soft_wrap=True, markup=False, highlight=False, style="yellow")


def error(text: str) -> None:
    """Say on standard error what is wrong, in one line."""
    line = " ".join(text.split())
    _console(sys.stderr).print(f"error: {line}", soft_wrap=True, markup=False, highlight=False, style="red")


def _console(stream: Any) -> Any:
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else 120)
