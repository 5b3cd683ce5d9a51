"""Flags of the published scripts that have no effect here, so that their commands work as typed.

A flag at its published default is accepted without a word. At another value, one that would only
change speed or device gives a warning, and one that would change a figure is refused.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class InertFlag:
    """A published flag without effect.

    Attributes:
        names: as they are typed; the first one is shown in messages.
        default: the published default, as it is typed.
        reason: why the flag has no effect, or what takes its place.
        changes_figures: other values are refused, not only warned of.
    """

    names: tuple[str, ...]
    default: str
    reason: str
    changes_figures: bool = True

    @property
    def dest(self) -> str:
        return self.names[-1].lstrip("-")

    def is_default(self, text: str) -> bool:
        return _comparable(text) == _comparable(self.default)


def _comparable(text: str) -> float | str:
    """Equal for texts that mean the same: 1 and 1.0, True and true."""
    try:
        return float(text)
    except ValueError:
        return text.lower()


def _speed(name: str, default: str, reason: str) -> InertFlag:
    return InertFlag((name,), default, reason, changes_figures=False)


def _previous(name: str, default: str, reason: str) -> InertFlag:
    return InertFlag((f"-{name}", f"--{name}"), default, reason)


_IN_MEMORY = "the data lie in memory, no workers load them"
_SINGLE_FRAMES = "the network sees single frames"
_FOLLOWS_JOINTS = "the network gives the joints of --joints"
_BEST = "the best of a run is known from its checkpoint, see --resume"
INERT_FLAGS = {
    "main_gcn": (_speed("--num_workers", "8", _IN_MEMORY),),
    "main_graph": (
        _speed("--workers", "6", _IN_MEMORY),
        _speed("--gpu", "0", "see --device"),
        InertFlag(("--crop_uv",), "0", "2D joints are normalised by the image, not by a crop"),
        InertFlag(("--cal_uvd",), "True", "refinement always puts the pose on the 2D joints"),
        InertFlag(("--subset",), "1", "to train on fewer poses give --downsample"),
        InertFlag(("-s", "--stride"), "1", "to train on fewer frames give --downsample"),
        InertFlag(("--reverse_augmentation",), "False", _SINGLE_FRAMES),
        InertFlag(("--pro_test",), "1", "a training is tested after each epoch"),
        InertFlag(("--co_diff",), "0", "this loss has no such term"),
        InertFlag(("--save_skl",), "False", "predict.py saves poses"),
        InertFlag(("--pad",), "0", _SINGLE_FRAMES),
        InertFlag(("--model_doc",), "modulated_gcn", "choose a network with --model"),
        InertFlag(("--layout",), "hm36_gt", "the skeleton follows --joints"),
        InertFlag(("--strategy",), "spatial", "choose an adjacency with --adj_modulation"),
        InertFlag(("--out_joints",), "17", _FOLLOWS_JOINTS),
        InertFlag(("--out_all",), "True", _SINGLE_FRAMES),
        InertFlag(("--in_channels",), "2", "the network's input follows --camera_rays"),
        InertFlag(("--out_channels",), "3", "the network gives 3D joints"),
        _previous("previous_best_threshold", "inf", _BEST),
        _previous("previous_module_gcn_name", "", _BEST),
        _previous("previous_post_refine_name", "", _BEST),
    ),
}


def add_inert_flags(parser: argparse.ArgumentParser, script: str) -> None:
    group = parser.add_argument_group("accepted for published commands, without effect")
    for flag in INERT_FLAGS[script]:
        group.add_argument(
            *flag.names,
            nargs="?",
            const=flag.default,
            default=argparse.SUPPRESS,
            type=_refuse_others(flag) if flag.changes_figures else str,
            metavar=flag.default or "''",
            help=flag.reason,
        )


def _refuse_others(flag: InertFlag) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not flag.is_default(text):
            only = f"only {flag.default!r} is accepted, not {text!r}"
            raise argparse.ArgumentTypeError(f"{only}: {flag.reason}")
        return text

    return parse


def warning_of_inert_flags(args: argparse.Namespace, script: str) -> str | None:
    """A line about the flags that were given another value in vain, if there are any."""
    given = vars(args)
    in_vain = [
        f"{flag.names[0]} ({flag.reason})"
        for flag in INERT_FLAGS[script]
        if flag.dest in given and not flag.is_default(given[flag.dest])
    ]
    return f"without effect: {'; '.join(in_vain)}" if in_vain else None


def inert_names() -> set[str]:
    """The names of these flags in a namespace: they are no settings."""
    return {flag.dest for flags in INERT_FLAGS.values() for flag in flags}
