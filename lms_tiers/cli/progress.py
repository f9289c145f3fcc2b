"""Progress bars with the time left, for commands that take long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def progress_bar(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar while inside, where there is a terminal to show it; the callable takes how much is done."""
    if not console.is_terminal:
        yield lambda done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """A bar on standard error for what is counted only later: the callable takes the total, and answers what to call
    with how much is done.
    """
    from rich.console import Console

    with ExitStack() as stack:

        def begin(total: int) -> Callable[[int], None]:
            step = stack.enter_context(progress_bar(Console(stderr=True), what, total))
            every = max(1, total // 200)

            def done(count: int) -> None:
                if count % every == 0 or count == total:
                    step(count)

            return done

        yield begin
