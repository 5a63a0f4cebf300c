"""What is going on, on stderr, for people who wait."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say ``what`` is being done: with a spinner and the time on a terminal, as a plain line elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"{escape(what)} …", highlight=False, soft_wrap=True)
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(escape(what), total=None)
        yield
