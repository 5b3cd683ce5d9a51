"""Every flag of every script, in groups. Edit the defaults here for ablations.

The defaults are the published settings. Parsing has no side effects. Where the published code had
a poor name for a flag, that name is kept as an alias.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

from common.engine import Rate, cosine_rate, warmed_up
from common.errors import UserError
from common.input_view import InputView
from common.losses import LOSSES
from common.parser import Parser
from common.skeleton import SKELETONS
from data.augment import Augmentation
from data.datasets import DATASETS
from data.pose_dataset import known_actions
from models.build import DEFAULT, MODELS, default_arguments, model_class
from models.graph_conv_variants import ADJ_MODULATIONS
from models.norm import NORMS

_SWITCH = argparse.BooleanOptionalAction  # --flag and --no-flag

# Flags that belong to one call and not to a run's settings: a resumed run does not take them over.
CALL_FLAGS = ("evaluate", "resume", "results", "device", "checkpoint", "name", "pan", "focal_scale")
# Flags that a recipe sets together; those typed beside it win.
RECIPES = {
    "strong": {
        "camera_rays": True,
        "root_view": True,
        "augment": True,
        "loss": "mpjpe",
        "weight_l1": 0.0,
        "optimizer": "adamw",
        "lr": 3e-3,
        "schedule": "cosine",
        "warmup": 1000,
        "ema": 0.9995,
        "max_norm": 1.0,
        "batch_size": 256,
        "epochs": 3,
        "flip_test": True,
    },
}
# Flags of a run that say nothing of the method.
_NOT_METHOD = {
    "model", "dataset_dir", "seed", "snapshot", "compile", "pro_train", "save_model", "save_dir",
    "previous_dir", "module_gcn_reload", "module_gcn_model", "post_refine_reload",
    "post_refine_model", "show_protocol2", "show_root",
}  # fmt: skip
# Flags that are arguments of networks.
_MODEL_FLAGS = {
    "hid_dim", "num_layers", "dropout", "non_local", "norm_layer", "modulation_init",
    "weight_modulation", "adj_modulation", "rank", "adj_symmetric", "decouple_self", "hops",
}  # fmt: skip
# And what they are given of the 2D joints, which a checkpoint says beside them.
_VIEW_FLAGS = ("camera_rays", "root_view")
# The values that these flags take, where a checkpoint shows one that may be none of them.
_CHOICES = {"model": [*MODELS], "joints": [*SKELETONS]}
# Flags that mean something only beside another one.
_BESIDE = {
    **dict.fromkeys(("bone_sigma", "size_sigma", "turn", "tilt"), ("augment", (True,))),
    "weight_decay": ("optimizer", ("adamw",)),
    "lr_decay": ("schedule", ("exponential", "step")),
    "lr_gamma": ("schedule", ("exponential",)),
    "large_decay_epoch": ("schedule", ("step",)),
}
# Settings of a baseline's training that main_graph.py has in another form.
_BY_STEPS = ("lr_decay", "lr_gamma")
# Flags of old commands that have no effect here, each with what takes its place.
_IGNORED_GCN = {"num_workers": "the data lie in memory whole"}
_IGNORED_GRAPH = {
    "workers": "the data lie in memory whole",
    "gpu": "see --device",
    "layout": "the skeleton follows --joints",
    "strategy": "the model has one adjacency",
    "pad": "the model sees single frames",
    "crop_uv": "2D joints are normalised by the image",
    "co_diff": "not a term of this model's loss",
    "reverse_augmentation": "the model sees single frames",
}


# Flags read better as a table than one argument a line.
# fmt: off


def parse_gcn(
    argv: Sequence[str] | None = None, defaults: dict[str, Any] | None = None
) -> argparse.Namespace:
    """Flags of ``main_gcn.py``; ``defaults`` replaces the published ones (of a resumed run)."""
    parser = _parser("Modulated GCN on ground-truth 2D: trains, or tests with --evaluate.")
    data = parser.add_argument_group("data")
    _data_flags(data, keypoints="gt")
    data.add_argument("-j", "--joints", type=int, default=16, choices=(16, 17),
                      help="16 joints, or 17 with Neck/Nose")
    model = parser.add_argument_group("model")
    _size_flags(model, hid_dim=128, dropout=0.0)
    model.add_argument("--non_local", action=_SWITCH, default=False,
                       help="grouped non-local blocks over joints, as in SemGCN (16 joints only)")
    _ablation_flags(parser.add_argument_group("ablation"), modulation_init="ones")
    training = parser.add_argument_group("training")
    _training_flags(training, batch_size=64, epochs=50, lr=1e-3, loss="mse")
    training.add_argument("--weight_L1_norm", "--lamda", dest="weight_l1", type=_fraction,
                          default=0.1, metavar="W",
                          help="share of L1 in the loss, the rest is --loss")
    training.add_argument("--lr_decay", type=_positive_int, default=100_000, metavar="STEPS",
                          help="the rate is multiplied by --lr_gamma every so many steps")
    training.add_argument("--lr_gamma", type=_positive, default=0.96, metavar="FACTOR",
                          help="see --lr_decay")
    training.add_argument("--no_max", dest="max_norm", action="store_const", const=0.0,
                          default=argparse.SUPPRESS,
                          help="do not clip gradients: --max_norm 0")
    _recipe_flags(parser, schedule="exponential", max_norm=1.0, flip_test=False)
    _run_flags(parser)
    _ignored_flags(parser, _IGNORED_GCN)
    return _parse(parser, argv, published(_model_name(argv, defaults)), defaults)


def parse_graph(
    argv: Sequence[str] | None = None, defaults: dict[str, Any] | None = None
) -> argparse.Namespace:
    """Flags of ``main_graph.py``; ``defaults`` replaces the published ones (of a resumed run)."""
    parser = _parser(
        "Modulated GCN on detected 2D, optionally with pose refinement: tests the weights of "
        "--evaluate or --previous_dir, or trains with --pro_train 1."
    )
    data = parser.add_argument_group("data")
    _data_flags(data, keypoints="cpn_ft_h36m_dbb")
    data.add_argument("-j", "--joints", type=int, default=None, choices=(16, 17),
                      help="default: 16 for the sh_ detectors, else 17")
    data.add_argument("--data_augmentation", action=_SWITCH, default=True,
                      help="train on every pose twice, as it is and mirrored")
    model = parser.add_argument_group("model")
    _size_flags(model, hid_dim=384, dropout=0.2)
    model.add_argument("--non_local", action=_SWITCH, default=True,
                       help="one embedded-Gaussian non-local block before the output")
    _ablation_flags(parser.add_argument_group("ablation"), modulation_init="xavier")
    _refinement_flags(parser.add_argument_group("refinement"))
    training = parser.add_argument_group("training")
    training.add_argument("--pro_train", type=int, choices=(0, 1), default=0, help="1 trains")
    _training_flags(training, batch_size=256, epochs=30, lr=5e-3, loss="mpjpe")
    training.add_argument("--weight_L1_norm", "--norm", dest="weight_l1", type=_fraction,
                          default=0.01, metavar="W",
                          help="share of L1 in the loss, the rest is --loss")
    training.add_argument("--lr_decay", type=_positive, default=0.9, metavar="FACTOR",
                          help="the rate is multiplied by this every --large_decay_epoch epochs")
    training.add_argument("--large_decay_epoch", type=_positive_int, default=4, metavar="N",
                          help="see --lr_decay")
    _recipe_flags(parser, schedule="step", max_norm=0.0, flip_test=True)
    _weights_flags(parser.add_argument_group("weights"))
    _run_flags(parser)
    parser.add_argument("--show_protocol2", action="store_true",
                        help="accepted: the table always shows both protocols")
    parser.add_argument("--show_root", action="store_true",
                        help="test: also report the error of the root's estimated place")
    _ignored_flags(parser, _IGNORED_GRAPH)
    of_model = published_detected(_model_name(argv, defaults))
    args = _parse(parser, argv, of_model, defaults)
    _check_training(parser, args)
    if args.joints is None:
        args.joints = 16 if args.keypoints.startswith("sh_") else 17
    return args


def _check_training(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse a training with flags of testing, or of a refinement that it has not."""
    if not args.pro_train:
        return
    if args.evaluate:
        parser.error("--pro_train 1 trains and --evaluate tests: give one of them")
    of_refinement = ("sym_signed", "root_depth", "sym_penalty")
    for key in of_refinement if not args.post_refine else ():
        if getattr(args, key) != parser.get_default(key):
            parser.error(f"--{key} goes with --post_refine")


def _recipe_flags(parser: Parser, schedule: str, max_norm: float, flip_test: bool) -> None:
    """Ways of training and testing beyond the published ones. The gains said here are those of
    docs/accuracy.md: by how many mm the recipe's MPJPE on hdm05 rises without the flag."""
    group = parser.add_argument_group("recipe")
    group.add_argument("--recipe", choices=sorted(RECIPES), default=None,
                       help="sets the flags of this group, --loss, --weight_L1_norm, --lr, "
                       "--batch_size and --epochs together; those typed beside it win; gain on "
                       "hdm05: 21 mm, 22 with detected 2D; of loss, optimiser and schedule 6.0 and "
                       "6.5")
    group.add_argument("--camera_rays", action=_SWITCH, default=False,
                       help="the network sees rays x/z, y/z with the lens taken out: it needs the "
                       "cameras' intrinsics; gain on hdm05: none that shows")
    group.add_argument("--root_view", action=_SWITCH, default=False,
                       help="the network sees the rays as a camera that looks straight at the "
                       "root, and where the root is: it needs the intrinsics; gain on hdm05 "
                       "with --camera_rays: 0.9 mm (about the spread), 4.3 with detected 2D, 2.5 "
                       "with cameras turned by 10 degrees")
    group.add_argument("--augment", action=_SWITCH, default=False,
                       help="train on changed bodies, turned about the vertical and mirrored, "
                       "projected anew each time; gain on hdm05: 3.7 mm, with detected 2D none")
    group.add_argument("--bone_sigma", type=_non_negative, default=0.05, metavar="S",
                       help="--augment: bone lengths times exp(N(0, S)), by kind of bone")
    group.add_argument("--size_sigma", type=_non_negative, default=0.03, metavar="S",
                       help="--augment: the body's size times exp(N(0, S))")
    group.add_argument("--turn", type=_share, default=0.5, metavar="P",
                       help="--augment: probability of a turn about the vertical")
    group.add_argument("--tilt", type=_non_negative, default=0.0, metavar="DEG",
                       help="--augment: a turn by N(0, DEG) about a horizontal axis")
    group.add_argument("--optimizer", choices=("adam", "adamw"), default="adam",
                       help="adamw decays the weights")
    group.add_argument("--weight_decay", type=_non_negative, default=0.01, metavar="W",
                       help="of --optimizer adamw")
    group.add_argument("--schedule", choices=(schedule, "cosine"), default=schedule,
                       help="of the learning rate; cosine falls to zero at the last step")
    group.add_argument("--warmup", type=_natural, default=0, metavar="STEPS",
                       help="the learning rate rises from zero in so many steps")
    group.add_argument("--ema", type=_fraction, default=0.0, metavar="DECAY",
                       help="test and save the exponential average of weights and statistics; "
                       "0 does not; gain on hdm05: none beside --schedule cosine")
    group.add_argument("--max_norm", type=_non_negative, default=max_norm, metavar="NORM",
                       help="gradients are clipped to this norm; 0 leaves them")
    group.add_argument("--flip_test", "--test_augmentation", action=_SWITCH, default=flip_test,
                       help="test the mean of the pose and of its mirrored twin, turned back; "
                       "gain on hdm05: 2.0 mm")


def _refinement_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--post_refine", action=_SWITCH, default=None,
                       help="pose refinement; at test the default is to use it if it is there")
    group.add_argument("--root_depth", choices=("gt", "estimate"), default="gt",
                       help="the depth at which refinement lifts the 2D back: the ground truth's, "
                       "as published, or solved from the predicted pose")
    group.add_argument("--sym_penalty", type=int, choices=(0, 1), default=1,
                       help="1 adds 0.01 x the difference of left and right limbs to the loss")
    group.add_argument("--sym_signed", action=_SWITCH, default=False,
                       help="the difference with its sign, as the released code had it")
    group.add_argument("--save_out_type", choices=("xyz", "post"), default=None,
                       help="choose the best epoch by the network's pose or the refined one "
                       "(default: post with refinement)")


def _weights_flags(group: argparse._ArgumentGroup) -> None:
    for name, what in (("module_gcn", "the network"), ("post_refine", "the refinement")):
        group.add_argument(f"--{name}_reload", type=int, choices=(0, 1), default=0,
                           help=f"1 starts from {what} of --previous_dir")
        group.add_argument(f"--{name}_model", default=None, metavar="FILE",
                           help=f"which file there, if there are several of {what}")
    group.add_argument("--previous_dir", default="./ckpt/best_model", metavar="DIR",
                       help="folder of model_module_gcn_*.pth and model_post_refine_*.pth")
    group.add_argument("--save_model", type=int, choices=(0, 1), default=0,
                       help="1 saves the best under those names in --save_dir")
    group.add_argument("--save_dir", default=None, metavar="DIR",
                       help="see --save_model (default: the run's folder)")


def of_network(
    path: str,
    checkpoint: dict[str, Any],
    parse: Callable[..., argparse.Namespace],
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The flags that say which network a checkpoint holds, what that is given, and how it was
    tested: as its own run had them, or else as the network shows them.

    Of another model than the one typed there are none: they would be choices of the wrong network.

    Args:
        parse: of the script's flags, ``parse_gcn`` or ``parse_graph``.

    Raises:
        UserError: the network has the non-local blocks of the other script.
    """
    found = checkpoint["model"]
    block = found.get("non_local")
    if block in [*_NON_LOCAL.values()] and block != _NON_LOCAL[parse]:
        other = {"grouped": "main_gcn.py", "embedded": "main_graph.py"}[block]
        raise UserError(f"{path} has {block} non-local blocks, which are those of {other}: use it")
    kept = {"joints", *_MODEL_FLAGS, *_VIEW_FLAGS}
    flags = {key: value for key, value in found.items() if key in kept}
    flags |= {"model": found.get("name", DEFAULT), "non_local": block is not None}
    # What no flag can say is left to be refused, when the networks are compared.
    flags = {k: v for k, v in flags.items() if v in _CHOICES.get(k, [v])}
    kept |= {"model", "flip_test"}
    flags |= {key: value for key, value in checkpoint.get("options", {}).items() if key in kept}
    return flags if _typed(argv, "model") in (None, flags.get("model")) else {}


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags that make a run what it is, as plain values for its checkpoints."""
    left_out = {*CALL_FLAGS, *_IGNORED_GCN, *_IGNORED_GRAPH}
    return {key: value for key, value in vars(args).items() if key not in left_out}


def published(model: str) -> dict[str, Any]:
    """The flags of ``main_gcn.py`` for a model's published training, where they are its own."""
    return _declared(model, "PUBLISHED")


def published_detected(model: str) -> dict[str, Any]:
    """The same for ``main_graph.py``, whose schedule counts epochs."""
    shared = {key: value for key, value in published(model).items() if key not in _BY_STEPS}
    return shared | _declared(model, "PUBLISHED_DETECTED")


def _declared(model: str, what: str) -> dict[str, Any]:
    return getattr(model_class(model), what, {}) if model in MODELS else {}


# Which kind of block --non_local stands for, by the script's way of reading flags.
_NON_LOCAL = {parse_gcn: "grouped", parse_graph: "embedded"}


def model_arguments(
    args: argparse.Namespace, parse: Callable[..., argparse.Namespace]
) -> dict[str, Any]:
    """The network's arguments, as checkpoints carry them.

    Args:
        parse: of the script's flags, ``parse_gcn`` or ``parse_graph``.

    Raises:
        UserError: a flag was given that this network does not know.
    """
    given = vars(args) | {"non_local": _NON_LOCAL[parse] if args.non_local else None}
    taken = default_arguments(args.model)
    changed = departures(settings(args), parse).keys() & _MODEL_FLAGS
    if unknown := sorted(changed - taken.keys()):
        raise UserError(f"--{unknown[0]} is no choice of --model {args.model}: leave it out")
    if not args.evaluate:  # else a checkpoint's own flags are among them, and are compared with it
        if "rank" in changed and args.adj_modulation != "lowrank":
            raise UserError("--rank is of --adj_modulation lowrank: give both or none")
        if "modulation_init" in changed and not args.weight_modulation:
            raise UserError("--modulation_init is of --weight_modulation: leave one of them out")
    if args.adj_l1 and (args.adj_modulation == "none" or "adj_modulation" not in taken):
        raise UserError("--adj_l1 needs a learned adjacency: --model mgcn, --adj_modulation add")
    if given["non_local"] == "grouped" and args.joints != 16:
        raise UserError("--non_local pools pairs of 16 joints: use it with --joints 16")
    own = {key: given[key] for key in taken if key in _MODEL_FLAGS}
    seen = {"in_dim": view(args).in_dim} | {key: given[key] for key in _VIEW_FLAGS}
    return {"name": args.model, "joints": args.joints, "out_dim": 3} | own | seen


def departures(
    options: dict[str, Any] | None, parse: Callable[..., argparse.Namespace]
) -> dict[str, Any] | None:
    """Which of a run's settings differ from the published ones of its model.

    Args:
        options: as of ``settings``; those that it lacks are not compared. None gives None.
        parse: of the script's flags.
    """
    if options is None:
        return None
    usual = vars(parse([f"--model={options.get('model', DEFAULT)}"]))
    return {
        key: value
        for key, value in options.items()
        if key in usual and key not in _NOT_METHOD and value != usual[key]
    }


def data_options(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of the data, as the arguments of ``common.workflow.load_data``."""
    return {
        "name": args.dataset,
        "dataset_dir": args.dataset_dir,
        "skeleton": SKELETONS[args.joints],
        "keypoints": args.keypoints,
        "actions": args.actions,
        "downsample": args.downsample,
    }


def view(args: argparse.Namespace) -> InputView:
    """What the network is given of the 2D joints."""
    return InputView(args.camera_rays, args.root_view)


def weight_decay(args: argparse.Namespace) -> float | None:
    """Of AdamW; None for Adam, which has none."""
    return args.weight_decay if args.optimizer == "adamw" else None


def learning_rate(args: argparse.Namespace, published: Rate, steps: int) -> Rate:
    """The schedule: the script's published one or a cosine over so many steps, warmed up.

    Raises:
        UserError: the training would end before it is warm.
    """
    if args.warmup >= steps:
        raise UserError(
            f"--warmup {args.warmup} does not end within the {steps} steps of this training: give "
            "a smaller number, or more --epochs"
        )
    rate = cosine_rate(args.lr, steps) if args.schedule == "cosine" else published
    return warmed_up(rate, args.warmup)


def training_options(
    args: argparse.Namespace, published: Rate, epoch_steps: int
) -> dict[str, Any]:
    """The flags of training that both scripts have, as arguments of ``Trainer``.

    Args:
        published: the script's own schedule.
        epoch_steps: steps of an epoch.
    """
    return {
        "rate": learning_rate(args, published, args.epochs * epoch_steps),
        "max_norm": args.max_norm or None,
        "amp": args.amp,
    }


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of the run, as the argument of ``common.workflow.open_run``."""
    return {key: getattr(args, key) for key in ("checkpoint", "name", "snapshot", "epochs")}


def loader_options(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of training batches, as arguments of ``PoseLoader``."""
    strengths = (args.bone_sigma, args.size_sigma, args.turn, args.tilt)
    return {
        "batch_size": args.batch_size,
        "seed": args.seed,
        "flips": getattr(args, "data_augmentation", False),
        "augmentation": Augmentation(*strengths) if args.augment else None,
    }


def describe_run(
    args: argparse.Namespace, arguments: dict[str, Any], subjects: Sequence[str]
) -> dict[str, Any]:
    """What every checkpoint of a run says of itself.

    Args:
        arguments: of the network.
        subjects: trained on.
    """
    data = {"name": args.dataset, "keypoints": args.keypoints, "train_subjects": list(subjects)}
    return {"model": arguments, "dataset": data, "options": settings(args)}


def ignored(args: argparse.Namespace) -> str | None:
    """A line about the flags given that have no effect, if there are any."""
    reasons = _IGNORED_GCN | _IGNORED_GRAPH
    given = [key for key in reasons if getattr(args, key, None) is not None]
    if not given:
        return None
    return "without effect: " + "; ".join(f"--{key} ({reasons[key]})" for key in given)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = "default" in (action.help or "") or action.default in (None, argparse.SUPPRESS)
        return action.help if said else super()._get_help_string(action)


def _model_name(argv: Sequence[str] | None, defaults: dict[str, Any] | None) -> str:
    """The model whose settings are the defaults of this call; perhaps none that there is."""
    return _typed(argv, "model") or (defaults or {}).get("model", DEFAULT)


def _typed(argv: Sequence[str] | None, name: str) -> str | None:
    """The value of one flag, before the others have their defaults: --help is to show these."""
    parser = Parser(add_help=False)
    parser.add_argument(f"--{name}")
    return getattr(parser.parse_known_args(argv)[0], name)


def _parser(description: str) -> Parser:
    return Parser(description=description, formatter_class=_Help)


def _parse(
    parser: Parser,
    argv: Sequence[str] | None,
    of_model: dict[str, Any],
    defaults: dict[str, Any] | None,
) -> argparse.Namespace:
    """A flag typed wins over a resumed run's, that over a recipe's, that over the model's."""
    known = {action.dest for action in parser._actions if action.dest not in CALL_FLAGS}
    recipe = RECIPES.get(_typed(argv, "recipe"), {})
    for settings_of in (of_model, recipe, defaults or {}):
        parser.set_defaults(**{k: v for k, v in settings_of.items() if k in known})
    args = parser.parse_args(argv)
    if args.evaluate and args.resume:
        parser.error("--evaluate and --resume exclude each other")
    if args.resume and defaults is not None and args.recipe != defaults.get("recipe"):
        parser.error("--recipe is for a new run: a resumed one keeps its own flags")
    for key in ("pan", "focal_scale"):
        if getattr(args, key) != parser.get_default(key) and not args.evaluate:
            parser.error(f"--{key} is for testing: give --evaluate CKPT")
    _check_companions(parser, args)
    known_actions(DATASETS[args.dataset], args.actions)
    return args


def _check_companions(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse flags that would do nothing."""
    typed = [key for key in vars(args) if getattr(args, key) != parser.get_default(key)]
    for key in [key for key in typed if key in _BESIDE]:
        other, values = _BESIDE[key]
        if getattr(args, other) not in values:
            value = "" if True in values else f" {values[0]}"
            parser.error(f"--{key} goes with --{other}{value}")


def _data_flags(group: argparse._ArgumentGroup, keypoints: str) -> None:
    group.add_argument("-d", "--dataset", default="h36m", choices=sorted(DATASETS),
                       help="data set; hdm05 comes with the program")
    group.add_argument("-k", "--keypoints", default=keypoints, metavar="NAME",
                       help="whose 2D joints: gt; noisy, made noise on gt; or a detector's name "
                       "as in its file")
    group.add_argument("-a", "--actions", type=_names, default=None, metavar="LIST",
                       help="actions to train and test on, separated by commas; * is all")
    group.add_argument("--downsample", type=_positive_int, default=1, metavar="K",
                       help="keep every K-th frame of a sequence, in training and test")
    group.add_argument("--dataset_dir", "--root_path", default=None, metavar="DIR",
                       help="folder of the npz files (default: dataset/ beside the scripts)")


def _size_flags(group: argparse._ArgumentGroup, hid_dim: int, dropout: float) -> None:
    group.add_argument("--model", default=DEFAULT, choices=sorted(MODELS),
                       help="mgcn, or a baseline; brings its published settings with it, which are "
                       "the defaults of the other flags then (--model X --help shows them)")
    group.add_argument("-l", "--num_layers", type=_positive_int, default=4, metavar="L",
                       help="residual blocks, two layers each")
    group.add_argument("-z", "--hid_dim", type=_even_int, default=hid_dim, metavar="C",
                       help="channels, an even number")
    group.add_argument("--dropout", type=_fraction, default=dropout, metavar="P",
                       help="dropout after each block")


def _ablation_flags(group: argparse._ArgumentGroup, modulation_init: str) -> None:
    """The choices of the method; the defaults are the paper's, but for what the help says."""
    group.add_argument("--modulation_init", choices=("ones", "xavier"), default=modulation_init,
                       help="first values of the weight modulation; the released code has ones for "
                       "ground-truth 2D and Xavier-uniform ones for detected 2D")
    group.add_argument("--weight_modulation", action=_SWITCH, default=True,
                       help="a vector for each joint on the shared weights (the paper's)")
    group.add_argument("--adj_modulation", choices=ADJ_MODULATIONS, default="add",
                       help="learned adjacency: A alone, A + Q (the paper's), A o (1 + Q), "
                       "A + U V^T of --rank, or Q alone")
    group.add_argument("--rank", type=_positive_int, default=4, metavar="R",
                       help="columns of U and V in --adj_modulation lowrank")
    group.add_argument("--adj_symmetric", action=_SWITCH, default=True,
                       help="make the adjacency symmetric (the paper's)")
    group.add_argument("--decouple_self", action=_SWITCH, default=True,
                       help="a weight for a joint itself beside that for its neighbours (the "
                       "paper's)")
    group.add_argument("--hops", type=_positive_int, default=1, metavar="K",
                       help="reach of a layer along bones, with a weight and modulations for each "
                       "hop (the paper's: 1)")
    group.add_argument("--adj_l1", type=_non_negative, default=0.0, metavar="LAMBDA",
                       help="adds LAMBDA times the L1 norm of Q, all layers together, to the loss: "
                       "the paper speaks of sparse adjacencies, its code has 0")
    group.add_argument("--norm_layer", choices=sorted(NORMS), default="batch",
                       help="normalisation in each block: over the batch (the paper's), the "
                       "channels of each joint, or 8 groups of channels of each pose")


def _training_flags(
    group: argparse._ArgumentGroup, batch_size: int, epochs: int, lr: float, loss: str
) -> None:
    group.add_argument("-b", "--batch_size", "--batchSize", type=_positive_int, default=batch_size,
                       metavar="B",
                       help="poses a step, over all processes of torchrun together")
    group.add_argument("-e", "--epochs", "--nepoch", type=_positive_int, default=epochs,
                       metavar="N",
                       help="passes over the training set; a resumed run goes on to this number")
    group.add_argument("--lr", "--learning_rate", type=_positive, default=lr,
                       help="learning rate at the start")
    group.add_argument("--loss", choices=LOSSES, default=loss,
                       help="main term of the loss: mean of squares, of joints' distances, of "
                       "absolute values, or of these squared below 10 mm; see --weight_L1_norm")
    group.add_argument("--max_weight_norm", type=_non_negative, default=0.0, metavar="X",
                       help="martinez, vp3d: after each step the weights into each unit are scaled "
                       "to this norm at most; 0 leaves them (Martinez et al.: 1)")
    group.add_argument("--seed", type=_natural, default=0,
                       help="of the first weights, the order of poses and dropout")


def _speed_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--compile", action=_SWITCH, default=False,
                       help="fuse the networks' operations by torch.compile: a minute or so at "
                       "the start; meant for CUDA")
    group.add_argument("--amp", action=_SWITCH, default=False,
                       help="compute in bfloat16 where that is safe; changes the error a little")
    group.add_argument("--tf32", action=_SWITCH, default=False,
                       help="CUDA: matrix products of 10 mantissa bits; changes the error a little")


def _run_flags(parser: Parser) -> None:
    _speed_flags(parser.add_argument_group("speed"))
    group = parser.add_argument_group("run")
    group.add_argument("--evaluate", "--eva", default=None, metavar="CKPT",
                       help="test this checkpoint, ours or a published one; do not train")
    group.add_argument("--pan", type=_finite, default=0.0, metavar="DEG",
                       help="test: turn the cameras so far to the right (below 0: left), so "
                       "that people stand where the network has not seen them")
    group.add_argument("--focal_scale", type=_positive, default=1.0, metavar="F",
                       help="test: give the network a focal length that is wrong by this factor, "
                       "to see what that costs (of networks on rays, or with refinement)")
    group.add_argument("-r", "--resume", default=None, metavar="CKPT",
                       help="go on exactly where this checkpoint stopped, with its run's flags")
    group.add_argument("-c", "--checkpoint", default=None, metavar="DIR",
                       help="folder of run folders (default: checkpoint/ beside the scripts)")
    group.add_argument("--name", type=_file_name, default=None,
                       help="name of the run's folder (default: the time)")
    group.add_argument("--snapshot", type=_natural, default=5, metavar="N",
                       help="keep a checkpoint every N epochs beside best and last; 0 keeps none")
    group.add_argument("--results", default=None, metavar="FILE",
                       help="write the results as JSON here too")
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto prefers cuda")


def _ignored_flags(parser: Parser, reasons: dict[str, str]) -> None:
    group = parser.add_argument_group("accepted for old commands, without effect")
    for name, reason in reasons.items():
        group.add_argument(f"--{name}", nargs="?", const="", default=None, help=reason)


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
_non_negative = _number(float, lambda x: x >= 0, "a number from 0")
_finite = _number(float, lambda x: True, "a number")
_share = _number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")
_fraction = _number(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")


def _names(text: str) -> list[str] | None:
    """ "a,b" -> ["a", "b"]; "*" is all, None."""
    return None if text == "*" else [name.strip() for name in text.split(",")]


def _file_name(text: str) -> str:
    if not text or text in (".", "..") or "/" in text or "\\" in text:
        raise argparse.ArgumentTypeError(f"the name of a folder expected, not {text!r}")
    return text
