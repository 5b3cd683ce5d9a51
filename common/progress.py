"""Progress that a person can follow: a bar on a terminal, elsewhere a line about every minute.

Both go to stderr, from the first process of a job only. In a log, what takes less than a minute
says nothing.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from common import distributed

Item = TypeVar("Item")
# (seconds since the start of the loop, seconds left or None) -> the end of a line
Ending = Callable[[float, float | None], str]
_PACE = 60.0  # seconds between two lines


def _time_left(seconds: float, left: float | None) -> str:
    return "" if left is None else f"{format_duration(left)} left"


def _one(item: object) -> int:
    return 1


class Progress:
    """Follows loops. Those that share one have their lines a minute apart, from its making on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: gives seconds.
        """
        self._clock = clock
        self._said = clock()

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
        """Give the items on, one by one.

        Args:
            what: is being done.
            total: units in all, if that is known.
            unit: what is counted; "B" is bytes.
            leave: a bar stays on the terminal after the loop.
            done: units that were done before.
            size: units of an item.
            ending: of a line; called for each line only, so that it may take its time.
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
            if now - self._said >= _PACE and distributed.is_main():
                self._said = now
                rate = (done - before) / max(now - start, 1e-9)
                left = None if total is None or not rate else (total - done) / rate
                parts = [what, *_amounts(done, total, unit, rate), ending(now - start, left)]
                print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)


def follow(
    items: Iterable[Item], what: str, total: int | None = None, unit: str = "item", **options
) -> Iterator[Item]:
    """Follow one loop by itself, with the options of :meth:`Progress.follow`."""
    return Progress().follow(items, what, total, unit, **options)


def _amounts(done: int, total: int | None, unit: str, rate: float) -> tuple[str, str]:
    if unit == "B":
        of = "" if total is None else f" of {total / 1e6:,.1f}"
        return f"{done / 1e6:,.1f}{of} MB", f"{rate / 1e6:.2g} MB/s"
    of = "" if total is None else f"/{total:,}"
    return f"{unit} {done:,}{of}", f"{_number(rate)} {unit}s/s"


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def format_duration(seconds: float) -> str:
    """45 -> "45 s", 440 -> "7 min", 22800 -> "6 h 20 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
