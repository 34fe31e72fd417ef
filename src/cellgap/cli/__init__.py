"""The command line: one thin command each for demo, check, fit, predict, evaluate and report."""

from cellgap.cli._app import app, main

__all__ = ["app", "main"]
