"""Every flag of both scripts. The two tables hold the defaults: edit them for your ablations.

They start as the published settings. A run says what differs from the published settings, an edited
default too: it compares with a frozen copy, ``training/published_settings.py``. A baseline
(``--model``) brings the settings of its own paper, which win over these tables, and what is typed
wins over all. ``training/settings.py`` has the rules between flags.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from common.losses import LOSSES
from common.parser import Parser
from data.datasets import DATASETS
from models.build import MODELS
from models.modulated_gcn import ADJ_MODULATIONS
from models.norm import NORMS
from training import settings
from training.flag_types import (
    Switch,
    even_int,
    file_name,
    finite,
    fraction,
    names,
    natural,
    non_negative,
    positive,
    positive_int,
    share,
)
from training.published_flags import add_inert_flags

GROUND_TRUTH = {  # main_gcn.py
    "dataset": "h36m",  # hdm05 comes with the program
    "keypoints": "gt",  # gt, noisy, or a detector's name as in its file
    "actions": None,  # a list of actions; None is all
    "downsample": 1,  # keep every k-th frame of a sequence
    "joints": 16,  # 16, or 17 with Neck/Nose
    "model": "mgcn",  # or a baseline of models/build.py
    "hid_dim": 128,  # channels C
    "num_layers": 4,  # residual blocks, two layers each
    "dropout": 0.0,  # probability, after each block
    "non_local": False,  # SemGCN's grouped non-local blocks
    "modulation_init": "ones",  # first values of M: ones or xavier
    "weight_modulation": True,  # M, a vector for each joint
    "adj_modulation": "add",  # none, add (the paper's A + Q), mul, lowrank or full
    "rank": 4,  # columns of U and V in lowrank
    "adj_symmetric": True,  # A = (S + S^T) / 2
    "decouple_self": True,  # a weight of its own for the joint itself
    "hops": 1,  # reach of a layer along bones
    "norm_layer": "batch",  # batch, layer or group
    "batch_size": 64,  # poses a step
    "epochs": 50,  # passes over the training set
    "lr": 1e-3,  # learning rate at the start
    "loss": "mse",  # main term: mse, mpjpe, l1 or smooth_l1
    "weight_l1": 0.1,  # share of L1 in the loss, the rest is the main term
    "adj_l1": 0.0,  # weight of the L1 norm of Q in the loss
    "schedule": "exponential",  # of the learning rate: exponential or cosine
    "lr_decay": 100_000,  # steps between two decays of the rate
    "lr_gamma": 0.96,  # factor of each decay
    "optimizer": "adam",  # adam, adamw or sgd
    "weight_decay": None,  # None: 0.01 with adamw, 1e-4 with sgd
    "max_norm": 1.0,  # gradients are clipped to this norm; 0 does not clip
    "max_weight_norm": 0.0,  # weights into a unit are limited to this norm; 0 does not limit
    "warmup": 0,  # steps in which the rate rises from zero
    "ema": 0.0,  # decay of the running average of the weights; 0 takes none
    "seed": 0,  # of first weights, order of poses and dropout
    "recipe": None,  # strong sets several of these together
    "camera_rays": False,  # the network sees rays instead of screen coordinates
    "root_view": False,  # rays as seen by a camera that looks at the root
    "augment": False,  # train on changed bodies, turned and mirrored
    "bone_sigma": 0.05,  # augmentation: bone lengths times exp(N(0, sigma))
    "size_sigma": 0.03,  # augmentation: body size times exp(N(0, sigma))
    "turn": 0.5,  # augmentation: probability of a turn about the vertical
    "tilt": 0.0,  # augmentation: degrees of a tilt, standard deviation
    "flip_test": False,  # test the mean of a pose and its mirrored twin
    "snapshot": 5,  # epochs between two checkpoints that are kept
}
DETECTED = {  # main_graph.py
    "dataset": "h36m",  # hdm05 comes with the program
    "keypoints": "cpn_ft_h36m_dbb",  # gt, noisy, or a detector's name as in its file
    "actions": None,  # a list of actions; None is all
    "downsample": 1,  # keep every k-th frame of a sequence
    "joints": None,  # 16 or 17; None: 16 for the sh_ detectors, else 17
    "data_augmentation": True,  # train on every pose twice, as it is and mirrored
    "model": "mgcn",  # or a baseline of models/build.py
    "hid_dim": 384,  # channels C
    "num_layers": 4,  # residual blocks, two layers each
    "dropout": 0.2,  # probability, after each block
    "non_local": True,  # one embedded-Gaussian non-local block before the output
    "modulation_init": "xavier",  # first values of M: ones or xavier
    "weight_modulation": True,  # M, a vector for each joint
    "adj_modulation": "add",  # none, add (the paper's A + Q), mul, lowrank or full
    "rank": 4,  # columns of U and V in lowrank
    "adj_symmetric": True,  # A = (S + S^T) / 2
    "decouple_self": True,  # a weight of its own for the joint itself
    "hops": 1,  # reach of a layer along bones
    "norm_layer": "batch",  # batch, layer or group
    "post_refine": None,  # train the refinement too; at test, None uses it if it is there
    "root_depth": "gt",  # of the refinement: gt, as published, or estimate
    "network_symmetry": 0,  # 1 adds the symmetry term of the network's pose to the loss
    "sym_weight": 0.01,  # weight of the symmetry terms
    "sym_signed": False,  # left minus right with its sign, as published
    "save_out_type": None,  # the best is chosen by xyz or post; None: post with refinement
    "batch_size": 256,  # poses a step
    "epochs": 30,  # passes over the training set
    "lr": 5e-3,  # learning rate at the start
    "loss": "mpjpe",  # main term: mse, mpjpe, l1 or smooth_l1
    "weight_l1": 0.01,  # share of L1 in the loss, the rest is the main term
    "adj_l1": 0.0,  # weight of the L1 norm of Q in the loss
    "schedule": "step",  # of the learning rate: step or cosine
    "lr_decay": 0.9,  # factor of each decay
    "large_decay_epoch": 4,  # epochs between two decays
    "optimizer": "adam",  # adam (with amsgrad), adamw or sgd
    "weight_decay": None,  # None: 0.01 with adamw, 1e-4 with sgd
    "max_norm": 0.0,  # gradients are clipped to this norm; 0 does not clip
    "max_weight_norm": 0.0,  # weights into a unit are limited to this norm; 0 does not limit
    "warmup": 0,  # steps in which the rate rises from zero
    "ema": 0.0,  # decay of the running average of the weights; 0 takes none
    "seed": 0,  # of first weights, order of poses and dropout
    "recipe": None,  # strong sets several of these together
    "camera_rays": False,  # the network sees rays instead of screen coordinates
    "root_view": False,  # rays as seen by a camera that looks at the root
    "augment": False,  # train on changed bodies, turned and mirrored
    "bone_sigma": 0.05,  # augmentation: bone lengths times exp(N(0, sigma))
    "size_sigma": 0.03,  # augmentation: body size times exp(N(0, sigma))
    "turn": 0.5,  # augmentation: probability of a turn about the vertical
    "tilt": 0.0,  # augmentation: degrees of a tilt, standard deviation
    "flip_test": True,  # test the mean of a pose and its mirrored twin
    "snapshot": 5,  # epochs between two checkpoints that are kept
    "pro_train": 0,  # 1 trains
    "module_gcn_reload": 0,  # 1 starts from the network of previous_dir
    "post_refine_reload": 0,  # 1 starts from the refinement of previous_dir
    "previous_dir": "./ckpt/module_256/",  # folder of weights under published names
    "save_model": 0,  # 1 saves the best under published names
}
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
_Add = Callable[..., None]


def parse_gcn(
    argv: Sequence[str] | None = None, defaults: dict[str, Any] | None = None
) -> argparse.Namespace:
    """Flags of ``main_gcn.py``; ``defaults`` are the settings of a checkpoint."""
    parser, group = _parser(
        "Modulated GCN on ground-truth 2D: trains, or tests with --evaluate.", GROUND_TRUTH
    )
    add = group("data")
    _data_flags(add)
    add("-j", "--joints", type=int, choices=(16, 17), help="16 joints, or 17 with Neck/Nose")
    add = group("model")
    _size_flags(add)
    add(
        "--non_local",
        action=Switch,
        help="grouped non-local blocks over joints, as in SemGCN (16 joints only)",
    )
    _ablation_flags(group("ablation"))
    add = group("training")
    _training_flags(add)
    add(
        "--weight_L1_norm",
        "--lamda",
        dest="weight_l1",
        type=fraction,
        metavar="W",
        help="share of L1 in the loss, the rest is --loss",
    )
    add(
        "--lr_decay",
        type=positive_int,
        metavar="STEPS",
        help="the rate is multiplied by --lr_gamma every so many steps",
    )
    add("--lr_gamma", type=positive, metavar="FACTOR", help="see --lr_decay")
    add(
        "--no_max",
        dest="max_norm",
        action="store_const",
        const=0.0,
        default=argparse.SUPPRESS,
        help="do not clip gradients: --max_norm 0",
    )
    _recipe_flags(group("recipe"), schedule="exponential")
    _run_flags(group)
    add_inert_flags(parser, "main_gcn")
    return settings.parse(parser, "main_gcn", argv, RECIPES, defaults)


def parse_graph(
    argv: Sequence[str] | None = None, defaults: dict[str, Any] | None = None
) -> argparse.Namespace:
    """Flags of ``main_graph.py``; ``defaults`` are the settings of a checkpoint."""
    parser, group = _parser(
        "Modulated GCN on detected 2D, optionally with pose refinement: tests the weights of "
        "--evaluate or --previous_dir, or trains with --pro_train 1.",
        DETECTED,
    )
    add = group("data")
    _data_flags(add)
    add(
        "-j",
        "--joints",
        "--n_joints",
        type=int,
        choices=(16, 17),
        help="default: 16 for the sh_ detectors, else 17",
    )
    add(
        "--data_augmentation",
        action=Switch,
        help="train on every pose twice, as it is and mirrored",
    )
    add = group("model")
    _size_flags(add)
    add(
        "--non_local", action=Switch, help="one embedded-Gaussian non-local block before the output"
    )
    _ablation_flags(group("ablation"))
    _refinement_flags(group("refinement"))
    add = group("training")
    add("--pro_train", type=int, choices=(0, 1), help="1 trains")
    _training_flags(add)
    add(
        "--weight_L1_norm",
        "--norm",
        "-norm",
        dest="weight_l1",
        type=fraction,
        metavar="W",
        help="share of L1 in the loss, the rest is --loss",
    )
    add(
        "--lr_decay",
        "-lrd",
        type=positive,
        metavar="FACTOR",
        help="the rate is multiplied by this every --large_decay_epoch epochs",
    )
    add("--large_decay_epoch", type=positive_int, metavar="N", help="see --lr_decay")
    _recipe_flags(group("recipe"), schedule="step")
    _weights_flags(group("weights"))
    _run_flags(group)
    parser.add_argument(
        "--show_protocol2",
        action="store_true",
        help="accepted: the table always shows both protocols",
    )
    parser.add_argument(
        "--show_root",
        action="store_true",
        help="test: also report the error of the root's estimated place",
    )
    add_inert_flags(parser, "main_graph")
    return settings.parse(parser, "main_graph", argv, RECIPES, defaults)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = "default" in (action.help or "") or action.default in (None, argparse.SUPPRESS)
        return action.help if said else super()._get_help_string(action)


def _parser(description: str, defaults: dict[str, Any]) -> tuple[Parser, Callable[[str], _Add]]:
    """A parser, and a function that makes a group of flags: it gives the function that adds flags
    to the group, with the defaults of the table."""
    parser = Parser(description=description, formatter_class=_Help)

    def group(title: str) -> _Add:
        of_title = parser.add_argument_group(title)

        def add(*flags: str, **options: Any) -> None:
            name = next(flag for flag in flags if flag.startswith("--")).removeprefix("--")
            default = defaults.get(options.get("dest", name))
            of_title.add_argument(*flags, **{"default": default, **options})

        return add

    return parser, group


# Flags read better as a table than one argument a line.
# fmt: off


def _data_flags(add: _Add) -> None:
    add("-d", "--dataset", choices=sorted(DATASETS), help="data set; hdm05 comes with the program")
    add("-k", "--keypoints", metavar="NAME",
        help="whose 2D joints: gt; noisy, made noise on gt; or a detector's name as in its file")
    add("-a", "--actions", type=names, metavar="LIST",
        help="actions to train and test on, separated by commas; * is all")
    add("--downsample", type=positive_int, metavar="K",
        help="keep every K-th frame of a sequence, in training and test")
    add("--dataset_dir", "--root_path", metavar="DIR",
        help="folder of the npz files (default: dataset/ beside the scripts)")
    add("--check_data", action=Switch, default=True,
        help="refuse joints that cannot be right: wrong order, sides, units, cameras or axes")


def _size_flags(add: _Add) -> None:
    add("--model", choices=sorted(MODELS),
        help="mgcn, or a baseline; brings its published settings with it, which are the defaults "
        "of the other flags then (--model X --help shows them)")
    add("-l", "--num_layers", type=positive_int, metavar="L",
        help="residual blocks, two layers each")
    add("-z", "--hid_dim", type=even_int, metavar="C", help="channels, an even number")
    add("--dropout", type=fraction, metavar="P", help="dropout after each block")


def _ablation_flags(add: _Add) -> None:
    """The choices of the method; the defaults are the paper's, but for what the help says."""
    add("--modulation_init", choices=("ones", "xavier"),
        help="first values of the weight modulation; the released code has ones for ground-truth "
        "2D and Xavier-uniform ones for detected 2D")
    add("--weight_modulation", action=Switch,
        help="a vector for each joint on the shared weights (the paper's)")
    add("--adj_modulation", choices=ADJ_MODULATIONS,
        help="learned adjacency: A alone, A + Q (the paper's), A o (1 + Q), A + U V^T of --rank, "
        "or Q alone")
    add("--rank", type=positive_int, metavar="R",
        help="columns of U and V in --adj_modulation lowrank")
    add("--adj_symmetric", action=Switch, help="make the adjacency symmetric (the paper's)")
    add("--decouple_self", action=Switch,
        help="a weight for a joint itself beside that for its neighbours (the paper's)")
    add("--hops", type=positive_int, metavar="K",
        help="reach of a layer along bones, with a weight and modulations for each hop (the "
        "paper's: 1)")
    add("--adj_l1", type=non_negative, metavar="LAMBDA",
        help="adds LAMBDA times the L1 norm of Q, all layers together, to the loss: the paper "
        "speaks of sparse adjacencies, its code has 0")
    add("--norm_layer", choices=sorted(NORMS),
        help="normalisation in each block: over the batch (the paper's), the channels of each "
        "joint, or 8 groups of channels of each pose")


def _training_flags(add: _Add) -> None:
    add("-b", "--batch_size", "--batchSize", type=positive_int, metavar="B",
        help="poses a step, over all processes of torchrun together")
    add("-e", "--epochs", "--nepoch", type=positive_int, metavar="N",
        help="passes over the training set; a resumed run goes on to this number")
    add("--lr", "--learning_rate", type=positive, help="learning rate at the start")
    add("--loss", choices=LOSSES,
        help="main term of the loss: mean of squares, of joints' distances, of absolute values, "
        "or of these squared below 10 mm; see --weight_L1_norm")
    add("--max_weight_norm", type=non_negative, metavar="X",
        help="martinez, vp3d: after each step the weights into each unit are scaled to this norm "
        "at most; 0 leaves them (Martinez et al.: 1)")
    add("--seed", type=natural, help="of the first weights, the order of poses and dropout")


def _recipe_flags(add: _Add, schedule: str) -> None:
    """Ways of training and testing beyond the published ones. The gains said here are those of
    docs/accuracy.md: by how many mm the recipe's MPJPE on hdm05 rises without the flag."""
    add("--recipe", choices=sorted(RECIPES),
        help="sets the flags of this group, --loss, --weight_L1_norm, --lr, --batch_size and "
        "--epochs together; those typed beside it win; gain on hdm05: 21 mm, 22 with detected 2D; "
        "of loss, optimiser and schedule 6.0 and 6.5")
    add("--camera_rays", action=Switch,
        help="the network sees rays x/z, y/z with the lens taken out: it needs the cameras' "
        "intrinsics; gain on hdm05: none that shows")
    add("--root_view", action=Switch,
        help="the network sees the rays as a camera that looks straight at the root, and where "
        "the root is: it needs the intrinsics; gain on hdm05 with --camera_rays: 0.9 mm (about "
        "the spread), 4.3 with detected 2D, 2.5 with cameras turned by 10 degrees")
    add("--augment", action=Switch,
        help="train on changed bodies, turned about the vertical and mirrored, projected anew "
        "each time; gain on hdm05: 3.7 mm, with detected 2D none")
    add("--bone_sigma", type=non_negative, metavar="S",
        help="--augment: bone lengths times exp(N(0, S)), by kind of bone")
    add("--size_sigma", type=non_negative, metavar="S",
        help="--augment: the body's size times exp(N(0, S))")
    add("--turn", type=share, metavar="P",
        help="--augment: probability of a turn about the vertical")
    add("--tilt", type=non_negative, metavar="DEG",
        help="--augment: a turn by N(0, DEG) about a horizontal axis")
    add("--optimizer", type=str.lower, choices=("adam", "adamw", "sgd"),
        help="adamw and sgd decay the weights; sgd has momentum 0.9 (Nesterov)")
    add("--weight_decay", type=non_negative, metavar="W",
        help="of the optimiser (default: 0.01 with adamw, 1e-4 with sgd)")
    add("--schedule", choices=(schedule, "cosine"),
        help="of the learning rate; cosine falls to zero at the last step")
    add("--warmup", type=natural, metavar="STEPS",
        help="the learning rate rises from zero in so many steps")
    add("--ema", type=fraction, metavar="DECAY",
        help="test and save the exponential average of weights and statistics; 0 does not; gain "
        "on hdm05: none beside --schedule cosine")
    add("--max_norm", type=non_negative, metavar="NORM",
        help="gradients are clipped to this norm; 0 leaves them")
    add("--flip_test", "--test_augmentation", action=Switch,
        help="test the mean of the pose and of its mirrored twin, turned back; gain on hdm05: "
        "2.0 mm")


def _refinement_flags(add: _Add) -> None:
    add("--post_refine", action=Switch,
        help="pose refinement; at test the default is to use it if it is there")
    add("--root_depth", choices=("gt", "estimate"),
        help="the depth at which refinement lifts the 2D back: the ground truth's, as published, "
        "or solved from the predicted pose")
    add("--sym_penalty", dest="network_symmetry", type=int, choices=(0, 1),
        help="1 adds the symmetry term of the network's pose to the loss; that of the refined "
        "pose is always there when refinement trains")
    add("--sym_weight", type=non_negative, metavar="W",
        help="weight of the symmetry terms: the sum over six pairs of limbs of the batch mean of "
        "|left - right|")
    add("--sym_signed", action=Switch, help="left - right with its sign, as published")
    add("--save_out_type", choices=("xyz", "post"),
        help="choose the best epoch by the network's pose or the refined one (default: post with "
        "refinement)")


def _weights_flags(add: _Add) -> None:
    for name, what in (("module_gcn", "the network"), ("post_refine", "the refinement")):
        add(f"--{name}_reload", type=int, choices=(0, 1),
            help=f"1 starts from {what} of --previous_dir")
        add(f"--{name}_model", metavar="FILE",
            help=f"which file there, if there are several of {what}")
    add("--previous_dir", metavar="DIR",
        help="folder of model_module_gcn_*.pth and model_post_refine_*.pth")
    add("--save_model", type=int, choices=(0, 1),
        help="1 saves the best under those names in --save_dir")
    add("--save_dir", metavar="DIR", help="see --save_model (default: the run's folder)")


def _run_flags(group: Callable[[str], _Add]) -> None:
    add = group("speed")
    add("--compile", action=Switch, default=False,
        help="fuse the networks' operations by torch.compile: a minute or so at the start; meant "
        "for CUDA")
    add("--amp", action=Switch, default=False,
        help="compute in bfloat16 where that is safe; changes the error a little")
    add("--tf32", action=Switch, default=False,
        help="CUDA: matrix products of 10 mantissa bits; changes the error a little")
    add = group("run")
    add("--evaluate", "--eva", metavar="CKPT",
        help="test this checkpoint, ours or a published one; do not train")
    add("--pan", type=finite, default=0.0, metavar="DEG",
        help="test: turn the cameras so far to the right (below 0: left), so that people stand "
        "where the network has not seen them")
    add("--focal_scale", type=positive, default=1.0, metavar="F",
        help="test: give the network a focal length that is wrong by this factor, to see what "
        "that costs (of networks on rays, or with refinement)")
    add("-r", "--resume", metavar="CKPT",
        help="go on exactly where this checkpoint stopped, with its run's flags")
    add("-c", "--checkpoint", metavar="DIR",
        help="folder of run folders (default: checkpoint/ beside the scripts)")
    add("--name", type=file_name, help="name of the run's folder (default: the time)")
    add("--snapshot", type=natural, metavar="N",
        help="keep a checkpoint every N epochs beside best and last; 0 keeps none")
    add("--results", metavar="FILE", help="write the results as JSON here too")
    add("--device", default="auto", help="cpu, cuda, cuda:1; auto prefers cuda")
