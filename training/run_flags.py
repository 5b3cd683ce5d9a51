"""The flags of one call that are no choices of the method, the same in both scripts: speed, files,
device."""

from collections.abc import Callable

from training import flag_types as types
from training.flag_types import Add, Switch

# Those that belong to one call and not to a run's settings: a resumed run does not take them over.
CALL_FLAGS = (
    "evaluate", "resume", "results", "device", "checkpoint", "name", "pan", "focal_scale",
    "check_data", "save_every", "on_nan", "fallback_dir",
)  # fmt: skip


# fmt: off
def add_run_flags(group: Callable[[str], Add]) -> None:
    """Add the groups "speed" and "run" to a parser, see ``flag_types.flag_groups``."""
    add = group("speed")
    add("--compile", action=Switch, default=False,
        help="torch.compile, meant for CUDA: takes about a minute at the start")
    add("--amp", action=Switch, default=False,
        help="compute in bfloat16 where that is safe; changes the error a little")
    add("--tf32", action=Switch, default=False,
        help="CUDA: matrix products of 10 mantissa bits; changes the error a little")
    add = group("run")
    add("--evaluate", "--eva", metavar="CKPT",
        help="test this checkpoint, ours or a published one; do not train")
    add("--pan", type=types.finite, default=0.0, metavar="DEG",
        help="test: turn the cameras so far to the right (below 0: left)")
    add("--focal_scale", type=types.positive, default=1.0, metavar="F",
        help="test: a focal length wrong by this factor (networks on rays, or refinement)")
    add("-r", "--resume", metavar="CKPT",
        help="go on exactly where this checkpoint stopped, with its run's flags; a run's folder "
        "stands for its newest checkpoint, auto for the folder of --name or the newest run")
    add("-c", "--checkpoint", metavar="DIR",
        help="folder of run folders (default: checkpoint/ beside the scripts)")
    add("--name", type=types.file_name, help="name of the run's folder (default: the time)")
    add("--save_every", type=types.non_negative, default=10.0, metavar="MINUTES",
        help="save inside an epoch too, so often; 0 does so only after Ctrl-C or SIGTERM")
    add("--on_nan", choices=("stop", "skip"), default="stop",
        help="a step whose loss or gradient is not finite: stop, and save what reproduces it; or "
        "skip it")
    add("--snapshot", type=types.natural, metavar="N",
        help="keep a checkpoint every N epochs beside best and last; 0 keeps none")
    add("--fallback_dir", metavar="DIR", help="a copy while the run's folder cannot be written")
    add("--results", metavar="FILE", help="write the results as JSON here too")
    add("--device", default="auto", help="cpu, cuda, cuda:1; auto prefers cuda")
