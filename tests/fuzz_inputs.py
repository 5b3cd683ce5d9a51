"""Damaged and hostile input for every reader, the same for the same number: each has to be read or
refused by an error of ours.

``make fuzz`` gives each reader as many files as tests/fuzz_readers.py says, in minutes;
tests/test_fuzz_inputs.py gives a few. One reader, other files, from the root of the repository:

    python -m tests.fuzz_inputs h5 --first 200000 --count 1000

No file may be executed, end the process, take more than 10 s of a core, leave a part of an output,
or take more memory than 100 times its size and 64 MiB. Readers run in processes of their own, whose
memory is limited, and which a signal ends when a file takes too long.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.errors import UserError
from common.progress import follow
from tests.fuzz_readers import MIB, READERS, found

SECONDS = 10  # of a core, for one file
WAITING = 120  # seconds in all, on a machine that has other work
CEILING = 4096 * MIB  # of a process above the idle one: a guard for the machine
PER_PROCESS = 2500  # files
WORD = re.compile(rb"[^\s\0,:=\"'()\[\]{}]+")
ODD = (
    b"nan", b"inf", b"-1", b"0", b"1e400", b"9" * 5000, b"1" * 30, b"-1e-400", b"null", b"true",
    b"{}", b"[]", b'""', b"[" * 5000, b'{"a":' * 3000, b"\n", b"\0", b"--help", b"\xff", b"%s%n",
    b"../../x", b"\xf0\x9f\x92\xa9", b"x" * 300,
)  # fmt: skip
# What a process does only where a file of data has been executed.
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen",
             "socket.connect"}  # fmt: skip


def damage(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Bytes overwritten, the end or a piece cut away, a piece of another file put in, or a word
    replaced by an odd one."""
    spoilt = bytearray(content)
    kind = rng.choice([0, 1, 2, 3, 4, 4, 4, 4] if content.isascii() else [0, 0, 0, 1, 2, 3, 4])
    at = rng.randrange(len(spoilt))
    if kind == 0:
        for _ in range(rng.choice([1, 1, 1, 2, 8, 64])):
            spoilt[rng.randrange(len(spoilt))] = rng.choice([0, 255, rng.randrange(256)])
    elif kind == 1:
        del spoilt[at:]
    elif kind == 2:
        del spoilt[at : at + rng.randrange(1, 64)]
    elif kind == 3:
        other = rng.choice(others)
        begin = rng.randrange(len(other))
        piece = other[begin : begin + rng.randrange(1, 256)]
        spoilt[at : at + rng.choice([0, len(piece)])] = piece
    elif word := WORD.search(spoilt, at):
        spoilt[word.start() : word.end()] = rng.choice(ODD)
    return bytes(spoilt)


def cases(kind: str, first: int, count: int, folder: Path) -> Iterator[tuple[int, bytes]]:
    """``count`` damaged files with their numbers, the same ones for the same ``first``."""
    reader = READERS[kind]
    whole = reader.seeds(folder)
    for number in range(first, first + count):
        rng = random.Random(number)
        yield number, reader.wrap(damage(rng.choice(whole), whole, rng))


def attempt(read: Callable[[Path], object], path: Path) -> str:
    """ "read", or "refused" by an error of ours; anything else is raised."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        try:
            read(path)
        except UserError as error:
            assert str(error), "a refusal without a reason"
            assert not isinstance(error.__cause__, MemoryError), f"memory: {error}"
            return "refused"
        except SystemExit as stop:  # of a parser, after --help or for a wrong flag
            assert stop.code in (0, 2), f"exit status {stop.code}"
            return "refused" if stop.code else "read"
    return "read"


class Watched:
    """A folder and a process in which files are read, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.canary = folder, folder / "made" / "canary"
        self.executed: list[str] = []
        (folder / "made").mkdir()
        sys.addaudithook(lambda event, _: event in FORBIDDEN and self.executed.append(event))
        import resource  # which Windows does not have

        resource.setrlimit(resource.RLIMIT_AS, 2 * (_memory("VmSize") + CEILING,))

    def try_file(self, kind: str, content: bytes) -> str:
        """ "read" or "refused"; raises what must not happen."""
        self._put(content)
        work = self.folder / "work"
        idle = _memory("VmRSS", reset=True)
        _set_timers(SECONDS, WAITING)
        try:
            outcome = attempt(READERS[kind].read, work / "input")
        finally:
            _set_timers(0, 0)
        used = _memory("VmHWM") - idle
        allowed = 100 * len(content) + (64 + READERS[kind].beyond) * MIB
        assert used <= allowed, f"{used / MIB:.0f} MiB of memory"
        assert not self.canary.exists() and not self.executed, f"was executed: {self.executed}"
        check_outputs(work, outcome)
        return outcome

    def warm_up(self, kind: str) -> None:
        """Read whole files, so that the packages are imported and the process is an idle one."""
        for content in READERS[kind].seeds(self.folder / "made"):
            self._put(READERS[kind].wrap(content))
            with contextlib.suppress(UserError):
                attempt(READERS[kind].read, self.folder / "work" / "input")
            self.clear()
        self.executed.clear()

    def _put(self, content: bytes) -> None:
        work = self.folder / "work"
        (work / "tmp").mkdir(parents=True)
        tempfile.tempdir = str(work / "tmp")
        (work / "input").write_bytes(content)

    def clear(self) -> None:
        shutil.rmtree(self.folder / "work", ignore_errors=True)


def check_outputs(work: Path, outcome: str) -> None:
    """After a refusal there is no output, and else a whole one; nothing is left beside it."""
    assert not list((work / "tmp").iterdir()), "a temporary file was left"
    found = [path for path in work.rglob("*") if path.is_file() and path.parent != work]
    assert not [path for path in found if "partial" in path.name], "a part of an output was left"
    outputs = [path for path in found if path.suffix == ".npz"]
    assert outcome == "read" or not outputs, "an output in spite of a refusal"
    for path in outputs:
        with zipfile.ZipFile(path) as file:
            assert file.testzip() is None


def _set_timers(computing: float, waiting: float) -> None:
    """After so many seconds a signal ends the process, also within a library in C."""
    signal.setitimer(signal.ITIMER_PROF, computing)
    signal.setitimer(signal.ITIMER_REAL, waiting)


def _memory(name: str, reset: bool = False) -> int:
    """Bytes of this process, as Linux counts them; ``reset`` sets its peak VmHWM to what it is."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[1])


def try_found(watched: Watched, kinds: Sequence[str]) -> None:
    """What was found before has to be refused now."""
    for kind, contents in found().items():
        for number, content in enumerate(contents if kind in kinds else ()):
            print(f"{kind} found-{number}", file=sys.stderr)
            outcome = watched.try_file(kind, content)
            assert outcome == "refused", f"{kind} found-{number} was {outcome}"
            watched.clear()


def run_cases(kinds: Sequence[str], first: int, count: int | None) -> int:
    """Prints a line for each reader: its name, how many files were read and how many refused; and
    one for each way in which something went wrong. The file at hand is named on stderr, for when
    the process ends.

    Returns:
        The number of those ways.
    """
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        watched = Watched(Path(scratch))
        for kind in kinds:
            outcomes: Counter[str] = Counter()
            watched.warm_up(kind)
            total = READERS[kind].count if count is None else count
            for number, content in cases(kind, first, total, Path(scratch, "made")):
                print(f"{kind} {number}", file=sys.stderr)
                try:
                    outcomes[watched.try_file(kind, content)] += 1
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    failures.setdefault(f"{kind}: {_way(error)}", f"{number}: {error}"[:200])
                watched.clear()
            print(kind, outcomes["read"], outcomes["refused"], flush=True)
        try_found(watched, kinds)
    for way, number in failures.items():
        print(f"FAILED {way}, file {number}".replace("\n", " "), flush=True)
    return len(failures)


def _way(error: BaseException) -> str:
    """What went wrong and where, the same for files that differ in numbers only."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"


def run_processes(kinds: Sequence[str], first: int, count: int | None) -> int:
    """The same in a process for each :data:`PER_PROCESS` files, as many at a time as there are
    cores. Gives the number of processes in which something went wrong."""
    pieces = [
        (kind, begin, min(PER_PROCESS, first + total - begin))
        for kind in kinds
        for total in [READERS[kind].count if count is None else count]
        for begin in range(first, first + total, PER_PROCESS)
    ]
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ended = zip(pieces, pool.map(_run_piece, pieces), strict=True)
        for (kind, _, _), done in follow(ended, "files", len(pieces), "process"):
            for line in done.stdout.splitlines():
                if line.startswith(f"{kind} "):
                    read, refused = map(int, line.split()[1:])
                    outcomes[kind].update(files=read + refused, read=read, refused=refused)
                else:
                    print(line, flush=True)
            if done.returncode not in (0, 1):
                last = done.stderr.strip().splitlines()[-1:]
                print(f"FAILED {kind}: ended with {done.returncode} at {last}", flush=True)
            failed += done.returncode != 0
    for kind, counts in outcomes.items():
        print(f"{kind:<18} {counts['read']:>7} read {counts['refused']:>7} refused")
    print(f"{sum(counts['files'] for counts in outcomes.values()):,} files")
    return failed


def _run_piece(piece: tuple[str, int, int]) -> subprocess.CompletedProcess:
    kind, first, count = piece
    flags = ["--alone", "--first", str(first), "--count", str(count)]
    command = [sys.executable, "-m", "tests.fuzz_inputs", kind, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_inputs", description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--count", type=int, help="of each reader (default: as in READERS)")
    parser.add_argument("--alone", action="store_true", help="in this process alone")
    args = parser.parse_args(argv)
    run = run_cases if args.alone else run_processes
    sys.exit(bool(run(args.readers or [*READERS], args.first, args.count)))


if __name__ == "__main__":
    main()
