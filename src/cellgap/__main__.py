"""``python -m cellgap`` is ``cellgap``."""

from cellgap.cli import main

main()
