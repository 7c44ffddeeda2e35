"""A bar for what takes minutes."""

import contextlib
from collections.abc import Callable, Iterator

import rich.console
import rich.progress
import rich.text


class _Speed(rich.progress.ProgressColumn):
    """How many are done in a second."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        speed = task.finished_speed or task.speed
        return rich.text.Text("" if speed is None else f"{speed:.3g}/s")


@contextlib.contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show a bar on stderr; yields `update(completed, text)`, the text to stand beside the bar."""
    columns = [
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        _Speed(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[text]}"),
    ]
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, text="")
        yield lambda completed, text: bar.update(task, completed=completed, text=text)
