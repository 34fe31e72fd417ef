"""A progress bar for training on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[int, dict[str, float], float], None]


@contextmanager
def progress_bar(title: str, n_steps: int, done: int, *, shown: bool) -> Iterator[Show]:
    """Yield a function ``(step, row, seconds) -> None`` that draws the run's state; silent where `shown` is False."""
    if not shown:
        yield lambda step, row, seconds: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(title, total=n_steps, completed=done, numbers="compiling")

        def show(step: int, row: dict[str, float], seconds: float) -> None:
            numbers = "  ".join(f"{name} {row[name]:.3g}" for name in ("loss", "valid") if name in row)
            bar.update(task, completed=step, numbers=numbers)

        yield show
