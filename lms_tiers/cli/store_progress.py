"""A progress bar for work on a store whose size is known only once it is open; on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """Inside, the callable takes the total and answers what to call with how much is done."""
    from rich.console import Console

    from lms_tiers.cli.progress import progress_bar

    with ExitStack() as stack:

        def begin(total: int) -> Callable[[int], None]:
            step = stack.enter_context(progress_bar(Console(stderr=True), what, total))
            every = max(1, total // 200)

            def done(count: int) -> None:
                if count % every == 0 or count == total:
                    step(count)

            return done

        yield begin
