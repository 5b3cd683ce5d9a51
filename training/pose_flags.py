"""The flags of what a training does to its poses, and tells of them, the same in both scripts:
other bodies, and the errors of detectors and of those who guess a focal length."""

from training import flag_types as types
from training.flag_types import Add, Switch


# fmt: off
def add_pose_flags(add: Add) -> None:
    """Add them to a group of a parser, see ``flag_types.flag_groups``."""
    add("--augment", action=Switch,
        help="train on changed bodies, turned about the vertical, mirrored, and projected anew")
    add("--bone_sigma", type=types.non_negative, metavar="S",
        help="--augment: bone lengths times exp(N(0, S)), by kind of bone")
    add("--size_sigma", type=types.non_negative, metavar="S",
        help="--augment: the body's size times exp(N(0, S))")
    add("--turn", type=types.share, metavar="P", help="--augment: share of turned poses")
    add("--tilt", type=types.non_negative, metavar="DEG",
        help="--augment: a turn by N(0, DEG) about a horizontal axis")
    add("--keep_ground", action=Switch,
        help="--augment: the root moves up or down so that the lowest joint keeps its height")
    add("--keypoint_shift", type=types.share, metavar="S",
        help="train on 2D joints moved to where detectors see them: S times drawn amounts, 0 to 1")
    add("--focal_sigma", type=types.non_negative, metavar="S",
        help="train with focal lengths times exp(N(0, S)) in half of the poses (--root_view)")


def add_tell_flags(add: Add) -> None:
    """Add those of what the network can be told beside the 2D joints."""
    add("--tell_body", action=Switch,
        help="the network can be told the proportions and the size of the person")
    add("--tell_gravity", action=Switch, help="the network can be told where up is")
    add("--tell_noise", action=Switch,
        help="the network can be told how exact the 2D joints are; a quarter of the poses "
        "get noise of 0.3 to 15 px at width 1,000")
