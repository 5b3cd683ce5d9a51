"""From flags to settings: the rules between flags, and what a run's settings depart from.

A setting is the value of a flag under the name that ``opt.py``'s tables give it. Values typed on
the command line win over those of a resumed run, these over a recipe's, these over a baseline's
published ones, and these over the tables in ``opt.py``.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from common.errors import UserError
from common.input_view import InputView
from common.parser import Parser
from common.skeleton import SKELETONS
from common.told_channels import ToldChannels
from data.datasets import DATASETS
from data.pose_dataset import select_actions
from models.build import DEFAULT, INPUT_ARGUMENTS, MODELS, default_arguments
from training.checkpoint import Source
from training.find_run import NO_RUN, find_run, runs_folder
from training.published_flags import inert_names, warning_of_inert_flags
from training.published_settings import (
    OTHER_SETTINGS,
    baseline_settings,
    published_settings,
    script_of,
)
from training.run_flags import CALL_FLAGS, warn_of_training_flags
from training.schedule import check_schedule

# Arguments of networks; those that are settings too choose the network.
_OF_NETWORK = {name for model in MODELS for name in default_arguments(model)}
_OLD_SEEDS = 2**40  # below what overflows where the order of an epoch is drawn
_NON_LOCAL = {"main_gcn": "grouped", "main_graph": "embedded"}
# The weight decay of an optimiser where none is given: the default of torch's AdamW, and that of
# the published SGD. Adam has none.
WEIGHT_DECAY = {"adam": 0.0, "adamw": 0.01, "sgd": 1e-4}
# Flags that mean something only beside another one, with that one and its values.
_BESIDE = {
    **dict.fromkeys(
        ("bone_sigma", "size_sigma", "turn", "tilt", "keep_ground"), ("augment", (True,))
    ),
    "focal_sigma": ("root_view", (True,)),
    "weight_decay": ("optimizer", ("adamw", "sgd")),
    "lr_decay": ("schedule", ("exponential", "step")),
    "lr_gamma": ("schedule", ("exponential",)),
    "large_decay_epoch": ("schedule", ("step",)),
    "rank": ("adj_modulation", ("lowrank",)),
}
# Every published command has --weight_decay 1e-4, also with Adam, which never used it.
_PUBLISHED_WITHOUT_EFFECT = {"weight_decay": 1e-4}


def read_flags(
    script: str,
    parse: Callable[..., argparse.Namespace],
    load: Callable[[argparse.Namespace], Source | None],
    argv: Sequence[str] | None,
) -> tuple[argparse.Namespace, Source | None]:
    """The flags of a call and the checkpoint that they name, if any.

    The flags are parsed twice where there is a checkpoint: its settings are the defaults then.

    Args:
        script: "main_gcn" or "main_graph".
        parse: ``opt.parse_gcn`` or ``opt.parse_graph``.
        load: reads the checkpoint that the flags name.
    """
    args = parse(argv)
    if args.resume == "auto":
        run = find_run(runs_folder(args.checkpoint), args.name, script)
        print(f"--resume auto: {run or 'there is no run, so this is a new one'}")
        argv = _without_resume(sys.argv[1:] if argv is None else argv)
        argv += ["--resume", str(run)] if run else []
        args = parse(argv)
        args.resume = args.resume or NO_RUN
    source = load(args)
    starts_anew = getattr(args, "pro_train", 0) and not (args.evaluate or args.resume)
    if source and not starts_anew:
        found = checkpoint_settings(script, source, argv, resume=bool(args.resume))
        try:
            args = parse(argv, found)
        except WrongOptionError as error:
            raise UserError(
                f"{source.path} cannot be used: {error}; if this program was changed since, undo "
                "that, or else get the file again"
            ) from error
        _leave_current_settings(source.checkpoint, args)
    if message := warning_of_inert_flags(args, script):
        print(f"warning: {message}", file=sys.stderr)
    return args, source


def _leave_current_settings(checkpoint: dict[str, Any], args: argparse.Namespace) -> None:
    """Take settings from the options of an old checkpoint that the script no longer has."""
    if "options" in checkpoint:
        options, known = current_settings(checkpoint["options"]), settings_of(args)
        checkpoint["options"] = {key: options[key] for key in options if key in known}


def _without_resume(argv: Sequence[str]) -> list[str]:
    """A command line without ``--resume auto``."""
    words = [word for word in argv if word not in ("--resume=auto", "-rauto")]
    for flag in ("--resume", "-r"):
        while flag in words:
            place = words.index(flag)
            del words[place : place + 2]
    return words


def parse(
    parser: Parser,
    script: str,
    argv: Sequence[str] | None,
    recipes: dict[str, dict[str, Any]],
    defaults: dict[str, Any] | None,
) -> argparse.Namespace:
    """Parse the flags of a script, and refuse those that do not go together.

    Args:
        parser: with the defaults of ``opt.py``.
        script: "main_gcn" or "main_graph".
        recipes: the settings that each value of ``--recipe`` stands for.
        defaults: settings of a checkpoint, which replace the others; None where there is none.
    """
    _check_table(parser, script)
    known = {action.dest for action in parser._actions} - {*CALL_FLAGS, *inert_names()}
    _check_options(parser, script, {k: v for k, v in (defaults or {}).items() if k in known})
    table = parser.table | (defaults or {})
    model = _typed_alone(argv, "model") or table["model"]
    recipe = recipes.get(_typed_alone(argv, "recipe") or table["recipe"], {})
    for settings in (baseline_settings(script, model), recipe, defaults or {}):
        parser.set_defaults(**{key: value for key, value in settings.items() if key in known})
    args = parser.parse_args(argv)
    typed = typed_flags(parser, argv)
    _check_mode(parser, args, typed, defaults)
    awaits_checkpoint = defaults is None and (args.evaluate or args.resume)
    if not awaits_checkpoint:  # else these checks need its settings, and follow with them
        _check_network(args, typed, script)
        _check_companions(parser, args, typed, script)
        select_actions(DATASETS[args.dataset], args.actions)
        check_schedule(args)
    if script == "main_graph":
        _check_detected(parser, args, typed)
    if args.weight_decay in (WEIGHT_DECAY[args.optimizer], _without_effect(args)):
        args.weight_decay = None
    if args.joints is None:
        args.joints = 16 if args.keypoints.startswith("sh_") else 17
    if args.evaluate and not awaits_checkpoint:
        warn_of_training_flags(args, typed, published_settings(script, args.model))
    return args


def _check_table(parser: Parser, script: str) -> None:
    """Refuse a table of ``opt.py`` whose values the flags do not take: argparse checks what is
    typed, not the defaults."""
    usual = published_settings(script, DEFAULT)
    flags = {action.dest: action for action in parser._actions}
    if unknown := sorted(parser.table.keys() - flags.keys()):
        parser.error(f"opt.py: {unknown[0]!r} is no setting of {script}.py")
    for name, flag in flags.items():
        value = parser.table.get(name)
        if name in usual and name not in parser.table and flag.default is None:
            parser.error(f"opt.py: {name} is missing from the table of {script}.py")
        needed = name in parser.table and usual.get(name) is not None and name != "joints"
        if value is None and needed:
            parser.error(f"opt.py: {name} is None, and a value is needed")
        if value is None or isinstance(value, list):
            continue
        if refusal := _refusal(flag, value):
            parser.error(f"opt.py: {name} is {value!r}{refusal}")


def _refusal(flag: argparse.Action, value: Any, exactly: bool = False) -> str:
    """Why a flag does not take a value; "" if it does.

    Args:
        exactly: a text that stands for the value is refused too.
    """
    text = ",".join(value) if isinstance(value, list) else str(value)
    try:
        taken = flag.type(text) if flag.type else text if exactly else value
    except (argparse.ArgumentTypeError, ValueError) as error:
        return f": {error}"
    if flag.choices and taken not in flag.choices:
        return f", not one of {', '.join(map(str, flag.choices))}"
    if exactly and (taken != value or isinstance(taken, bool) != isinstance(value, bool)):
        return f": {taken!r} expected"
    return ""


class WrongOptionError(UserError):
    """A checkpoint has a setting that its flag does not take."""


def _check_options(parser: Parser, script: str, options: dict[str, Any]) -> None:
    """Refuse settings of a checkpoint that the flags do not take: argparse checks what is typed,
    not the defaults. Sizes of networks are left to ``check_model``: those of others can be odd. And
    seeds could be larger in earlier versions.

    Raises:
        WrongOptionError: there is such a setting.
    """
    usual = published_settings(script, DEFAULT) | OTHER_SETTINGS
    with_value = [flag for flag in parser._actions if flag.nargs != 0 and flag.dest in options]
    for flag in with_value:
        name, value = flag.dest, options[flag.dest]
        is_size = name in _OF_NETWORK and type(value) is int
        is_old_seed = name == "seed" and type(value) is int and 0 <= value < _OLD_SEEDS
        if is_size or is_old_seed or (value is None and usual.get(name) is None):
            continue
        if refusal := _refusal(flag, value, exactly=True):
            raise WrongOptionError(f"its option {name} is {value!r}{refusal}")


def typed_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> set[str]:
    """The names of the values that the command line gives, be they the defaults or not."""
    nothing = object()
    untouched = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([])), nothing))
    found = vars(parser.parse_args(argv, untouched))
    return {name for name, value in found.items() if value is not nothing}


def _typed_alone(argv: Sequence[str] | None, name: str) -> str | None:
    """The value of one flag, read before the defaults are known, which --help shows."""
    parser = Parser(add_help=False)
    parser.add_argument(f"--{name}")
    return getattr(parser.parse_known_args(argv)[0], name)


def _without_effect(args: argparse.Namespace) -> float | None:
    """A weight decay that is accepted beside Adam and not used."""
    return _PUBLISHED_WITHOUT_EFFECT["weight_decay"] if args.optimizer == "adam" else None


def _check_mode(
    parser: Parser, args: argparse.Namespace, typed: set[str], defaults: dict[str, Any] | None
) -> None:
    """Refuse flags of a training and of a test beside each other."""
    if args.evaluate and args.resume:
        parser.error("--evaluate and --resume exclude each other")
    changed = defaults is not None and args.recipe != defaults.get("recipe")
    if args.resume and "recipe" in typed and changed:
        parser.error("--recipe is for a new run: a resumed one keeps its own flags")
    of_test = "pan", "focal_scale", "camera_height_error", "keypoint_noise", "ray_fit", "joints_of"
    for key in of_test:
        if getattr(args, key) != parser.get_default(key) and not args.evaluate:
            parser.error(f"--{key} is for testing: give --evaluate CKPT")


def _check_network(args: argparse.Namespace, typed: set[str], script: str) -> None:
    """Refuse flags that the network does not take."""
    taken = default_arguments(args.model)
    usual = published_settings(script, args.model)
    for key in sorted(typed & _OF_NETWORK - taken.keys()):
        if getattr(args, key) != usual.get(key):
            raise UserError(f"--{key} is no choice of --model {args.model}: leave it out")
    if "modulation_init" in typed and not args.weight_modulation:
        raise UserError("--modulation_init is of --weight_modulation: leave one of them out")
    if args.adj_l1 and (args.adj_modulation == "none" or "adj_modulation" not in taken):
        raise UserError("--adj_l1 needs a learned adjacency: --model mgcn, --adj_modulation add")
    grouped = args.non_local and _NON_LOCAL[script] == "grouped" and "non_local" in taken
    if grouped and args.joints != 16:
        raise UserError("--non_local pools pairs of 16 joints: use it with --joints 16")


def _check_companions(
    parser: Parser, args: argparse.Namespace, typed: set[str], script: str
) -> None:
    """Refuse flags that would have no effect, but for those that are as published."""
    usual = published_settings(script, args.model) | _PUBLISHED_WITHOUT_EFFECT
    choices = {action.dest: action.choices for action in parser._actions}
    for key in [key for key in _BESIDE if key in typed and getattr(args, key) != usual[key]]:
        other, values = _BESIDE[key]
        if getattr(args, other) not in values:
            possible = [value for value in values if value in (choices[other] or values)]
            value = "" if True in values else f" {' or '.join(possible)}"
            parser.error(f"--{key} goes with --{other}{value}")


def _check_detected(parser: Parser, args: argparse.Namespace, typed: set[str]) -> None:
    """Refuse a training of detected 2D with flags of testing, or of terms that it does not have."""
    if not args.pro_train:
        return
    if args.evaluate:
        parser.error("--pro_train 1 trains and --evaluate tests: give one of them")
    usual = published_settings("main_graph", args.model)
    changed = {key for key in typed if key in usual and getattr(args, key) != usual[key]}
    if "root_depth" in changed and not args.post_refine:
        parser.error("--root_depth goes with --post_refine")
    for key in ("sym_signed", "sym_weight"):
        if key in changed and not (args.post_refine or args.network_symmetry):
            parser.error(f"--{key} goes with --post_refine or --sym_penalty 1")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that make a run what it is, as plain values for its checkpoints."""
    left_out = {*CALL_FLAGS, *inert_names()}
    return {key: value for key, value in vars(args).items() if key not in left_out}


def current_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The settings of a checkpoint, perhaps an old one, under today's names.

    Before, ``sym_penalty`` switched the symmetry term of the refined pose, a mean over the six
    pairs of limbs where it is a sum today. ``weight_decay`` always had a number, and ``max_norm``
    was True or False: 1 or 0.
    """
    options = dict(options)
    if "sym_penalty" in options:
        penalty = options.pop("sym_penalty")
        options["network_symmetry"] = 0
        if options.get("post_refine"):
            options["sym_weight"] = 0.01 / 6 if penalty else 0.0
    if options.get("optimizer") in ("adam", "adamw") and options.get("weight_decay") == 0.01:
        options["weight_decay"] = None
    if isinstance(options.get("max_norm"), bool):
        options["max_norm"] = float(options["max_norm"])
    return options


def checkpoint_settings(
    script: str, source: Source, argv: Sequence[str] | None, resume: bool
) -> dict[str, Any]:
    """The settings that a checkpoint brings, as defaults of the flags.

    To resume, these are all settings of its run. To evaluate, they are those of the network, of its
    input, and of the test. A setting that an old run did not record is as published, whatever the
    defaults in ``opt.py`` are. A file of others shows its network by names and shapes alone. There
    are none where another model than the file's was typed: they would belong to the wrong network.

    Raises:
        UserError: the run is one of the other script, or the network has its non-local blocks.
    """
    checkpoint = source.checkpoint
    options = current_settings(checkpoint.get("options", {}))
    other = "main_gcn" if script == "main_graph" else "main_graph"
    if resume and options and script_of(options) != script:
        raise UserError(f"{source.path} is of a run of {other}.py: resume it with that script")
    shown = _shown_settings(script, source.path, checkpoint["model"])
    if _typed_alone(argv, "model") not in (None, shown.get("model")):
        return {}
    found = published_settings(script, shown.get("model", DEFAULT)) | shown | options
    if resume and options:
        return found
    kept = {"model", "joints", *_OF_NETWORK, *INPUT_ARGUMENTS, *(("flip_test",) if options else ())}
    return {key: value for key, value in found.items() if key in kept}


def _shown_settings(script: str, path: str, found: dict[str, Any]) -> dict[str, Any]:
    """The settings that give the network of a checkpoint. A value that no flag takes is left out:
    ``check_model`` refuses it."""
    block = found.get("non_local")
    other = {kind: f"{name}.py" for name, kind in _NON_LOCAL.items() if name != script}
    if block in [*other]:
        raise UserError(
            f"{path} has {block} non-local blocks, which are those of {other[block]}: use it"
        )
    shown = {key: value for key, value in found.items() if key in {*_OF_NETWORK, *INPUT_ARGUMENTS}}
    shown["non_local"] = block is not None
    for key, value, choices in (
        ("model", found.get("name", DEFAULT), [*MODELS]),
        ("joints", found.get("joints"), [*SKELETONS]),
    ):
        if value in choices:
            shown[key] = value
    return shown


def departures(settings: dict[str, Any] | None, script: str) -> dict[str, Any] | None:
    """Which of a run's settings differ from the published ones of its model.

    Settings that a run does not have, or that its model does not take, are not compared. None gives
    None.
    """
    if settings is None:
        return None
    model = settings.get("model", DEFAULT)
    usual = published_settings(script, model)
    if model in MODELS:
        unknown = _OF_NETWORK - default_arguments(model).keys()
        usual = {key: value for key, value in usual.items() if key not in unknown}
    return {
        key: value
        for key, value in current_settings(settings).items()
        if key in usual and value != usual[key]
    }


def model_arguments(args: argparse.Namespace, script: str) -> dict[str, Any]:
    """The arguments of ``models.build.build_model``, as checkpoints carry them."""
    given = vars(args) | {"non_local": _NON_LOCAL[script] if args.non_local else None}
    own = {key: given[key] for key in default_arguments(args.model) if key in given}
    in_dim = input_view(args).in_dim + told_channels(args).count
    seen = {"in_dim": in_dim} | {key: given[key] for key in INPUT_ARGUMENTS}
    return {"name": args.model, "joints": args.joints, "out_dim": 3} | own | seen


def input_view(args: argparse.Namespace) -> InputView:
    """The form in which the network is given the 2D joints."""
    return InputView(args.camera_rays, args.root_view)


def told_channels(args: argparse.Namespace) -> ToldChannels:
    """What the network can be told beside them."""
    return ToldChannels(args.tell_body, args.tell_gravity, args.tell_noise)


def weight_decay(args: argparse.Namespace) -> float:
    return WEIGHT_DECAY[args.optimizer] if args.weight_decay is None else args.weight_decay
