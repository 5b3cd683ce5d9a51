"""A small file system that fills, where this process may mount one."""

import shutil
import subprocess
from pathlib import Path

from tests.faults.campaign import differences, is_clear, run

_SIZES = (20, 60, 100, 140, 200)  # KiB
# A run that has finished, and one that had room for its results and none for a checkpoint.
_REFUSED = ("give --epochs a larger number", "has files but no checkpoint to go on from")


def filled_mount(folder: Path, wanted: Path) -> int:
    """Train in file systems of a few sizes, give each more room, and go on. Prints what was run and
    what went wrong, and gives how many things did.

    Args:
        wanted: the folder of the undisturbed run of "ground truth".
    """
    mount = folder / "small"
    mount.mkdir()
    options = ["-t", "tmpfs", "-o"]
    if shutil.which("mount") is None or _run("mount", *options, "size=1m", "tmpfs", mount):
        print("small file system: no mount is allowed here; the writer with faults ran instead")
        return 0
    wrong = []
    try:
        for size in _SIZES:
            _run("mount", "-o", f"remount,size={size}k", mount)
            statuses, said = run("ground truth", mount, f"run{size}")
            if any(statuses) and not is_clear(said):
                wrong.append(f"{size} KiB: {statuses} {said[-400:]}")
            _run("mount", "-o", "remount,size=16m", mount)
            statuses, said = run("ground truth", mount, f"run{size}")
            refused = is_clear(said) and any(line in said for line in _REFUSED)
            if any(statuses) and not refused:
                wrong.append(f"{size} KiB, then more: {statuses} {said[-400:]}")
            elif not any(statuses):
                wrong += [f"{size} KiB: {d}" for d in differences(mount / f"run{size}", wanted)]
            for path in mount.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        _run("umount", mount)
    print(f"small file system: tmpfs of {len(_SIZES)} sizes, wrong: {len(wrong)} {wrong or ''}")
    return len(wrong)


def _run(*command: object) -> int:
    return subprocess.run([*map(str, command)], capture_output=True, check=False).returncode
