"""Every flag of every script, in groups. Edit the defaults here for ablations.

The defaults are the published settings. Parsing has no side effects. Where the published code had
a poor name for a flag, that name is kept as an alias.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from data.datasets import DATASETS

# Flags that belong to one call and not to a run's settings: a resumed run does not take them over.
CALL_FLAGS = ("evaluate", "resume", "results", "device", "checkpoint", "name", "dataset_dir")


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the flags in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists the flags)\n")


def parse_gcn(
    argv: Sequence[str] | None = None, defaults: dict[str, Any] | None = None
) -> argparse.Namespace:
    """Flags of ``main_gcn.py``; ``defaults`` replaces the published ones (of a resumed run)."""
    parser = _parser("Modulated GCN on ground-truth 2D: trains, or tests with --evaluate.")
    _data_flags(parser, keypoints="gt", joints=16)
    model = parser.add_argument_group("model")
    _size_flags(model, hid_dim=128, dropout=0.0)
    model.add_argument(
        "--non_local",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="grouped non-local blocks over joints, as in SemGCN (16 joints only)",
    )
    training = parser.add_argument_group("training")
    _training_flags(training, batch_size=64, epochs=50, lr=1e-3)
    training.add_argument(
        "--weight_L1_norm",
        "--lamda",
        dest="weight_l1",
        type=_fraction,
        default=0.1,
        metavar="W",
        help="share of L1 in the loss, the rest is MSE",
    )
    training.add_argument(
        "--lr_decay",
        type=_positive_int,
        default=100_000,
        metavar="STEPS",
        help="the learning rate is multiplied by --lr_gamma every so many steps",
    )
    training.add_argument(
        "--lr_gamma", type=_positive, default=0.96, metavar="FACTOR", help="see --lr_decay"
    )
    training.add_argument(
        "--no_max",
        dest="max_norm",
        action="store_false",
        help="do not clip gradients (default: to norm 1)",
    )
    _run_flags(parser)
    ignored = parser.add_argument_group("accepted for old commands, without effect")
    ignored.add_argument(
        "--num_workers",
        type=int,
        default=None,
        metavar="N",
        help="the data lie in memory whole: no workers load them",
    )
    return _parse(parser, argv, defaults)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags that make a run what it is, as plain values for its checkpoints."""
    return {key: value for key, value in vars(args).items() if key not in CALL_FLAGS}


def _parser(description: str) -> Parser:
    return Parser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)


def _parse(
    parser: Parser, argv: Sequence[str] | None, defaults: dict[str, Any] | None
) -> argparse.Namespace:
    known = {action.dest for action in parser._actions if action.dest not in CALL_FLAGS}
    parser.set_defaults(**{k: v for k, v in (defaults or {}).items() if k in known})
    args = parser.parse_args(argv)
    if args.evaluate and args.resume:
        parser.error("--evaluate and --resume exclude each other")
    return args


def _data_flags(parser: Parser, keypoints: str, joints: int) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "-d",
        "--dataset",
        default="h36m",
        choices=sorted(DATASETS),
        help="data set; hdm05 comes with the program",
    )
    group.add_argument(
        "-k",
        "--keypoints",
        default=keypoints,
        metavar="NAME",
        help="whose 2D joints: gt, or a detector's name as in its file",
    )
    group.add_argument(
        "-a",
        "--actions",
        type=_names,
        default=None,
        metavar="LIST",
        help="actions to train and test on, separated by commas; * is all",
    )
    group.add_argument(
        "-j",
        "--joints",
        type=int,
        default=joints,
        choices=(16, 17),
        help="16 joints, or 17 with Neck/Nose",
    )
    group.add_argument(
        "--downsample",
        type=_positive_int,
        default=1,
        metavar="K",
        help="keep every K-th frame of a sequence, in training and test",
    )
    group.add_argument(
        "--dataset_dir",
        default=None,
        metavar="DIR",
        help="folder of the npz files (default: dataset/ beside the scripts)",
    )


def _size_flags(group: argparse._ArgumentGroup, hid_dim: int, dropout: float) -> None:
    group.add_argument(
        "-l",
        "--num_layers",
        type=_positive_int,
        default=4,
        metavar="L",
        help="residual blocks, two graph convolutions each",
    )
    group.add_argument(
        "-z",
        "--hid_dim",
        type=_even_int,
        default=hid_dim,
        metavar="C",
        help="channels, an even number",
    )
    group.add_argument(
        "--dropout", type=_fraction, default=dropout, metavar="P", help="dropout after each block"
    )


def _training_flags(
    group: argparse._ArgumentGroup, batch_size: int, epochs: int, lr: float
) -> None:
    group.add_argument(
        "-b",
        "--batch_size",
        type=_positive_int,
        default=batch_size,
        metavar="B",
        help="poses a step",
    )
    group.add_argument(
        "-e",
        "--epochs",
        type=_positive_int,
        default=epochs,
        metavar="N",
        help="passes over the training set; a resumed run goes on to this number",
    )
    group.add_argument("--lr", type=_positive, default=lr, help="learning rate at the start")
    group.add_argument(
        "--seed",
        type=_natural,
        default=0,
        help="of the first weights, the order of poses and dropout",
    )


def _run_flags(parser: Parser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--evaluate",
        "--eva",
        default=None,
        metavar="CKPT",
        help="test this checkpoint, ours or a published one; do not train",
    )
    group.add_argument(
        "-r",
        "--resume",
        default=None,
        metavar="CKPT",
        help="go on exactly where this checkpoint stopped, with its run's flags",
    )
    group.add_argument(
        "-c",
        "--checkpoint",
        default=None,
        metavar="DIR",
        help="folder of run folders (default: checkpoint/ beside the scripts)",
    )
    group.add_argument(
        "--name", type=_file_name, default=None, help="name of the run's folder (default: the time)"
    )
    group.add_argument(
        "--snapshot",
        type=_natural,
        default=5,
        metavar="N",
        help="keep a checkpoint every N epochs beside best and last; 0 keeps none",
    )
    group.add_argument(
        "--results", default=None, metavar="FILE", help="write the results as JSON here too"
    )
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto prefers cuda")


def _number(convert: Callable[[str], Any], accept: Callable[[Any], bool], what: str) -> Callable:
    def parse(text: str) -> Any:
        try:
            value = convert(text)
            if math.isfinite(value) and accept(value):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{what} expected, not {text!r}")

    return parse


_natural = _number(int, lambda n: n >= 0, "a whole number from 0")
_positive_int = _number(int, lambda n: n >= 1, "a whole number from 1")
_even_int = _number(int, lambda n: n >= 2 and n % 2 == 0, "an even number from 2")
_positive = _number(float, lambda x: x > 0, "a number above 0")
_fraction = _number(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")


def _names(text: str) -> list[str] | None:
    """ "a,b" -> ["a", "b"]; "*" is all, None."""
    return None if text == "*" else [name.strip() for name in text.split(",")]


def _file_name(text: str) -> str:
    if not text or text in (".", "..") or "/" in text or "\\" in text:
        raise argparse.ArgumentTypeError(f"the name of a folder expected, not {text!r}")
    return text
