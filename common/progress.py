"""Progress of loops: a bar on a terminal, and in a log one line about every minute.

The output goes to stderr; in a log only the main process of a job writes. A loop that takes less
than a minute writes no line to a log.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
# (seconds since the start of the loop, seconds left or None if unknown) -> end of the log line
Ending = Callable[[float, float | None], str]
_INTERVAL = 60.0  # seconds between two log lines


def _time_left(seconds: float, left: float | None) -> str:
    return "" if left is None else f"{format_duration(left)} left"


def _one(item: object) -> int:
    return 1


class Progress:
    """Shows the progress of loops.

    Loops that share one object also share the minute between two log lines, which is counted from
    the construction of the object.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: returns the time in seconds.
        """
        self._clock = clock
        self._last_line = clock()

    def follow(
        self,
        items: Iterable[Item],
        what: str,
        total: int | None = None,
        unit: str = "item",
        *,
        leave: bool = True,
        done: int = 0,
        size: Callable[[Item], int] = _one,
        ending: Ending = _time_left,
    ) -> Iterator[Item]:
        """Yield the items one by one, and show how many are done.

        Args:
            what: name of the loop, at the start of the bar or line.
            total: number of units; None if unknown.
            unit: name of the unit that is counted; "B" means bytes.
            leave: keep the bar on the terminal after the loop.
            done: units that were done before the loop.
            size: number of units of an item.
            ending: returns the end of a log line. It is called only when a line is written, so it
                may be slow.
        """
        if sys.stderr.isatty():
            options = {"unit": unit, "unit_scale": unit == "B", "leave": leave}
            with tqdm(desc=what, total=total, initial=done, **options) as bar:
                for item in items:
                    yield item
                    bar.update(size(item))
            return
        start, before = self._clock(), done
        for item in items:
            yield item
            done += size(item)
            now = self._clock()
            if now - self._last_line >= _INTERVAL:
                self._last_line = now
                rate = (done - before) / max(now - start, 1e-9)
                left = None if total is None or not rate else (total - done) / rate
                parts = [what, *_amounts(done, total, unit, rate), ending(now - start, left)]
                print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)


def follow(
    items: Iterable[Item], what: str, total: int | None = None, unit: str = "item", **options
) -> Iterator[Item]:
    """Show the progress of a single loop, with the options of :meth:`Progress.follow`."""
    return Progress().follow(items, what, total, unit, **options)


def _amounts(done: int, total: int | None, unit: str, rate: float) -> tuple[str, str]:
    """How much is done, and the rate, as text: "step 40/200" and "3.1 steps/s"."""
    if unit == "B":
        of = "" if total is None else f" of {total / 1e6:,.1f}"
        return f"{done / 1e6:,.1f}{of} MB", f"{rate / 1e6:.2g} MB/s"
    of = "" if total is None else f"/{total:,}"
    return f"{unit} {done:,}{of}", f"{_format_rate(rate)} {unit}s/s"


def _format_rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def format_duration(seconds: float) -> str:
    """45 -> "45 s", 440 -> "7 min", 22800 -> "6 h 20 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
