"""Ratios of speed: ours against a peer, alternating in one process, medians after a warm-up."""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import rich.console
import rich.table

from experiments._harness import Metric


class Row(NamedTuple):
    """One line of a benchmark.

    Attributes:
      name: what was done, as in `NAME/ratio`.
      ratio: the peer's time over ours; above 1 is faster.
      ours_ns: our median time for one item, in nanoseconds.
      peer_ns: the peer's.
      peer: who the peer is.
      accuracy: what was checked of the result, in words.
    """

    name: str
    ratio: float
    ours_ns: float
    peer_ns: float
    peer: str
    accuracy: str = ""


def compare(
    name: str,
    ours: Callable[[], Any],
    peer_fn: Callable[[], Any],
    *,
    num_items: int,
    peer: str,
    accuracy: str = "",
    num_repeats: int = 15,
) -> Row:
    """Time two functions in turn; both do the same work on `num_items` items.

    The ratio is the median over pairs, so a drift of the machine's speed cancels.
    """
    for function in (ours, peer_fn):
        jax.block_until_ready(function())
    pairs = [(_seconds(ours), _seconds(peer_fn)) for _ in range(num_repeats)]
    return Row(
        name,
        statistics.median(b / a for a, b in pairs),
        1e9 * statistics.median(a for a, _ in pairs) / num_items,
        1e9 * statistics.median(b for _, b in pairs) / num_items,
        peer,
        accuracy,
    )


def compare_with_torch(
    names: tuple[str, str],
    ours: Callable[[], Any],
    build_peer: Callable[[bool], Callable[[], Any]],
    *,
    peer: str = "torch",
    **timing: Any,
) -> list[Row]:
    """Compare with PyTorch twice, as `compare` does: eager, and by `torch.compile`.

    That needs a C++ compiler; where it fails its row is left out, and a line says so.

    Args:
      names: of the eager row and of the compiled one.
      ours: our work.
      build_peer: gives the peer's, of whether it is compiled.
      peer: who the peer is.
      timing: the other arguments of `compare`.
    """
    rows = []
    for name, is_compiled in zip(names, (False, True), strict=True):
        try:
            peer_fn = build_peer(is_compiled)
            peer_fn()
        except Exception as error:  # whatever a compiler that is missing or broken raises
            if not is_compiled:
                raise
            print(f"torch.compile failed; {name} is left out: {error!r:.300}")
            continue
        form = "compiled" if is_compiled else "eager"
        rows.append(compare(name, ours, peer_fn, peer=f"{peer}, {form}", **timing))
    return rows


def as_metrics(rows: list[Row]) -> dict[str, Metric]:
    """The rows as `results.json` holds them."""
    return {
        f"{row.name}/{field}": Metric(getattr(row, field))
        for row in rows
        for field in ("ratio", "ours_ns", "peer_ns")
    }


def print_rows(rows: list[Row]) -> None:
    """Print the rows as a table."""
    table = rich.table.Table(
        "work", "ours / peer in speed", "ours, ns", "peer, ns", "peer", "checked"
    )
    for row in rows:
        numbers = (f"{row.ratio:.2f}", f"{row.ours_ns:.4g}", f"{row.peer_ns:.4g}")
        table.add_row(row.name, *numbers, row.peer, row.accuracy)
    rich.console.Console().print(table)


def use_one_core() -> None:
    """Keep this process, and the threads it will start, to the last core it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start
