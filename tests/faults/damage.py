"""Damage the files of a finished run, one at a time, and see what the program makes of them.

    python -m tests.faults.damage SCRIPT RUN FOLDER TIMES SEED

RUN is the folder of a finished run. Each time a copy of it in FOLDER has one file cut short, or a
few bits of it turned. The copy is then resumed for one more epoch, and the file tested if it is a
checkpoint. Both must give what the undamaged run gives, or end with one line. Prints what happened
as JSON, {"counts": {what: number}, "wrong": [text]}.
"""

import importlib
import io
import json
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from common.errors import run_script
from tests.faults.campaign import differences, is_clear
from training import report

EPOCHS = "4"


def main() -> None:
    script, run, folder, times, seed = sys.argv[1:]
    report.save_curves = report._draw_poses = lambda path, *args: path.touch()
    found = damage_files(
        importlib.import_module(script.removesuffix(".py")).main,
        Path(run), Path(folder), int(times), random.Random(int(seed)),
    )  # fmt: skip
    print(json.dumps(found))


def damage_files(
    script: Callable, run: Path, folder: Path, times: int, draw: random.Random
) -> dict[str, object]:
    """The command above; ``script`` is the main function of the script."""
    wanted = shutil.copytree(run, folder / "wanted")
    if call(script, "--resume", wanted, "--epochs", EPOCHS)[0]:
        raise RuntimeError("the undamaged run does not go on")
    tables = {}
    for path in [*run.glob("*.pth.tar")]:
        tables[path.name] = _figures(call(script, "--evaluate", path)[1])
    counts, wrong = Counter(), []
    for number in range(times):
        copy = shutil.copytree(run, folder / f"copy{number}")
        path = draw.choice(sorted(path for path in copy.iterdir() if path.stat().st_size))
        what = f"{path.name} {damage(path, draw)}"
        if path.name in tables:
            status, out, err = call(script, "--evaluate", path)
            same = status == 0 and _figures(out) == tables[path.name]
            counts["test: " + _verdict(status, same)] += 1
            if not same and not (status == 2 and is_clear(err)):
                wrong.append(f"test of {what}: status {status} {err[-400:]}")
        status, _, err = call(script, "--resume", copy, "--epochs", EPOCHS)
        unlike = differences(copy, wanted) if status == 0 else [err[-400:]]
        counts["resume: " + _verdict(status, not unlike)] += 1
        if unlike and not (status == 2 and is_clear(err)):
            wrong.append(f"resuming after {what}: status {status} {unlike}")
        shutil.rmtree(copy)
    return {"counts": counts, "wrong": wrong}


def damage(path: Path, draw: random.Random) -> str:
    """Cut a file short or turn some of its bits; says which."""
    content = bytearray(path.read_bytes())
    if draw.random() < 0.4:
        length = draw.randrange(len(content))
        path.write_bytes(content[:length])
        return f"cut to {length} bytes"
    places = [draw.randrange(len(content)) for _ in range(draw.randint(1, 8))]
    for place in places:
        content[place] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return f"bytes {places} changed"


def call(script: Callable, *flags: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a script's main; a traceback raises."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run_script(lambda: script([str(flag) for flag in flags]))
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue(), err.getvalue()


def _figures(out: str) -> list[str]:
    """The figures of a table."""
    return re.findall(r"\d+\.\d+", out[out.index("Action") :]) if "Action" in out else []


def _verdict(status: int, same: bool) -> str:
    return "as undamaged" if same else "refused in one line" if status == 2 else "wrong"


if __name__ == "__main__":
    main()
