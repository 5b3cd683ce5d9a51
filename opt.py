"""The settings of both scripts. The two tables hold the defaults: edit them for your ablations.

They start as the published settings. A run reports every setting that differs from the frozen copy
in ``training/published_settings.py``, also one that you edited here. The settings of a baseline's
own paper (``--model``) win over these tables, and what is typed wins over all.
``training/settings.py`` has the rules between flags, and ``training/run_flags.py`` the flags of one
call, which are no choices of the method.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from common.losses import LOSSES
from data.datasets import DATASETS
from models.build import MODELS
from models.modulated_gcn import ADJ_MODULATIONS
from models.norm import NORMS
from training import flag_types as types
from training import settings
from training.flag_types import Add, Switch, flag_groups
from training.pose_flags import add_pose_flags, add_tell_flags
from training.published_flags import add_inert_flags
from training.run_flags import add_run_flags

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
    "epoch_poses": 0,  # poses of a pass, at most; 0 takes all
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
    "max_weight_norm": 0.0,  # limit of the norm of each output unit's weights; 0: none
    "warmup": 0,  # steps in which the rate rises from zero
    "ema": 0.0,  # decay of the running average of the weights; 0 takes none
    "seed": 0,  # of first weights, order of poses and dropout
    "recipe": None,  # strong, person, quick or own_data: each sets several
    "camera_rays": False,  # the network sees rays instead of screen coordinates
    "root_view": False,  # rays as seen by a camera that looks at the root
    "tell_body": False,  # the network can be told a person's proportions and size
    "tell_gravity": False,  # the network can be told where up is
    "tell_noise": False,  # the network can be told how exact the 2D joints are
    "augment": False,  # train on changed bodies, turned and mirrored
    "bone_sigma": 0.05,  # augmentation: bone lengths times exp(N(0, sigma))
    "size_sigma": 0.03,  # augmentation: body size times exp(N(0, sigma))
    "turn": 0.5,  # augmentation: probability of a turn about the vertical
    "tilt": 0.0,  # augmentation: degrees of a tilt, standard deviation
    "keep_ground": False,  # augmentation: the lowest joint keeps its height
    "keypoint_shift": 0.0,  # train on joints where detectors see them: strength
    "focal_sigma": 0.0,  # train on wrong focal lengths, in half of the poses: exp(N(0, sigma))
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
    "post_refine": None,  # train the refinement; None: at test, refine if the weights have one
    "root_depth": "gt",  # of the refinement: gt, as published, or estimate
    "network_symmetry": 0,  # 1 adds the symmetry term of the network's pose to the loss
    "sym_weight": 0.01,  # weight of the symmetry terms
    "sym_signed": False,  # left minus right with its sign, as published
    "save_out_type": None,  # the best is chosen by xyz or post; None: post with refinement
    "batch_size": 256,  # poses a step
    "epochs": 30,  # passes over the training set
    "epoch_poses": 0,  # poses of a pass, at most; 0 takes all
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
    "max_weight_norm": 0.0,  # limit of the norm of each output unit's weights; 0: none
    "warmup": 0,  # steps in which the rate rises from zero
    "ema": 0.0,  # decay of the running average of the weights; 0 takes none
    "seed": 0,  # of first weights, order of poses and dropout
    "recipe": None,  # strong, person, quick or own_data: each sets several
    "camera_rays": False,  # the network sees rays instead of screen coordinates
    "root_view": False,  # rays as seen by a camera that looks at the root
    "tell_body": False,  # the network can be told a person's proportions and size
    "tell_gravity": False,  # the network can be told where up is
    "tell_noise": False,  # the network can be told how exact the 2D joints are
    "augment": False,  # train on changed bodies, turned and mirrored
    "bone_sigma": 0.05,  # augmentation: bone lengths times exp(N(0, sigma))
    "size_sigma": 0.03,  # augmentation: body size times exp(N(0, sigma))
    "turn": 0.5,  # augmentation: probability of a turn about the vertical
    "tilt": 0.0,  # augmentation: degrees of a tilt, standard deviation
    "keep_ground": False,  # augmentation: the lowest joint keeps its height
    "keypoint_shift": 0.0,  # train on joints where detectors see them: strength
    "focal_sigma": 0.0,  # train on wrong focal lengths, in half of the poses: exp(N(0, sigma))
    "flip_test": True,  # test the mean of a pose and its mirrored twin
    "snapshot": 5,  # epochs between two checkpoints that are kept
    "pro_train": 0,  # 1 trains
    "module_gcn_reload": 0,  # 1 starts from the network of previous_dir
    "post_refine_reload": 0,  # 1 starts from the refinement of previous_dir
    "previous_dir": "./ckpt/module_256/",  # folder of weights under published names
    "save_model": 0,  # 1 saves the best under published names
}
# Recipes and flags read better as tables than one argument a line.
# fmt: off

# Flags that a recipe sets together; those typed beside it win.
_STRONG = {
    "camera_rays": True, "root_view": True, "augment": True, "loss": "mpjpe", "weight_l1": 0.0,
    "optimizer": "adamw", "lr": 3e-3, "schedule": "cosine", "warmup": 1000, "ema": 0.9995,
    "max_norm": 1.0, "batch_size": 256, "epochs": 3, "flip_test": True,
}
_PERSON = _STRONG | {"keep_ground": True, "tell_body": True, "tell_gravity": True}
RECIPES = {
    "strong": _STRONG,
    "person": _PERSON,
    "own_data": _PERSON | {
        "dataset": "mocap", "keypoints": "noisy", "joints": 17, "hid_dim": 128,
        "keypoint_shift": 1.0, "focal_sigma": 0.2, "batch_size": 128, "epochs": 24, "lr": 0.008,
        "ema": 0.999,
    },
    "quick": _STRONG | {
        "batch_size": 64, "epochs": 1, "epoch_poses": 500_000, "lr": 0.016, "warmup": 100,
        "ema": 0.998,
    },
}


def parse_gcn(
    argv: Sequence[str] | None = None, defaults: dict[str, Any] | None = None
) -> argparse.Namespace:
    """Flags of ``main_gcn.py``; ``defaults`` are the settings of a checkpoint."""
    parser, group = flag_groups(
        "Modulated GCN on ground-truth 2D: trains, or tests with --evaluate.", GROUND_TRUTH)
    add = group("data")
    _data_flags(add)
    add("-j", "--joints", type=int, choices=(16, 17), help="16 joints, or 17 with Neck/Nose")
    add = group("model")
    _size_flags(add)
    add("--non_local", action=Switch,
        help="grouped non-local blocks over joints, as in SemGCN (16 joints only)")
    _ablation_flags(group("ablation"))
    add = group("training")
    _training_flags(add)
    add("--weight_L1_norm", "--lamda", dest="weight_l1", type=types.fraction, metavar="W",
        help="W of the loss (1 - W) * main term + W * L1; --loss is the main term")
    add("--lr_decay", type=types.positive_int, metavar="STEPS",
        help="the rate is multiplied by --lr_gamma every so many steps")
    add("--lr_gamma", type=types.positive, metavar="FACTOR", help="see --lr_decay")
    add("--no_max", dest="max_norm", action="store_const", const=0.0, default=argparse.SUPPRESS,
        help="do not clip gradients: --max_norm 0")
    _recipe_flags(group("recipe"), schedule="exponential")
    add_run_flags(group)
    add_inert_flags(parser, "main_gcn")
    return settings.parse(parser, "main_gcn", argv, RECIPES, defaults)


def parse_graph(
    argv: Sequence[str] | None = None, defaults: dict[str, Any] | None = None
) -> argparse.Namespace:
    """Flags of ``main_graph.py``; ``defaults`` are the settings of a checkpoint."""
    parser, group = flag_groups(
        "Modulated GCN on detected 2D, optionally with pose refinement: tests the weights of "
        "--evaluate or --previous_dir, or trains with --pro_train 1.",
        DETECTED,
    )
    add = group("data")
    _data_flags(add)
    add("-j", "--joints", "--n_joints", type=int, choices=(16, 17),
        help="default: 16 for the sh_ detectors, else 17")
    add("--data_augmentation", action=Switch,
        help="train on every pose twice, as it is and mirrored")
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
    add("--weight_L1_norm", "--norm", "-norm", dest="weight_l1", type=types.fraction, metavar="W",
        help="W of the loss (1 - W) * main term + W * L1; --loss is the main term")
    add("--lr_decay", "-lrd", type=types.positive, metavar="FACTOR",
        help="the rate is multiplied by this every --large_decay_epoch epochs")
    add("--large_decay_epoch", type=types.positive_int, metavar="N", help="see --lr_decay")
    _recipe_flags(group("recipe"), schedule="step")
    _weights_flags(group("weights"))
    add_run_flags(group)
    add = group("report")
    add("--show_protocol2", action=Switch, default=False, help="accepted: both always are")
    add("--show_root", action=Switch, default=False, help="test: report the root's error too")
    add_inert_flags(parser, "main_graph")
    return settings.parse(parser, "main_graph", argv, RECIPES, defaults)


def _data_flags(add: Add) -> None:
    add("-d", "--dataset", choices=sorted(DATASETS), help="data set; hdm05 comes with the program")
    add("-k", "--keypoints", type=types.one_line, metavar="NAME",
        help="whose 2D joints: gt; noisy, made noise on gt; or a detector's name as in its file")
    add("-a", "--actions", type=types.names, metavar="LIST",
        help="actions to train and test on, separated by commas; * is all")
    add("--downsample", type=types.positive_int, metavar="K",
        help="keep every K-th frame of a sequence, in training and test")
    add("--dataset_dir", "--root_path", type=types.one_line, metavar="DIR",
        help="folder of the npz files (default: dataset/ beside the scripts)")
    add("--check_data", action=Switch, default=True,
        help="refuse joints that cannot be right: wrong order, sides, units, cameras or axes")


def _size_flags(add: Add) -> None:
    add("--model", choices=sorted(MODELS),
        help="mgcn, or a baseline with its published settings (--model X --help shows them)")
    add("-l", "--num_layers", type=types.whole(1, 1000), metavar="L", help="residual blocks")
    add("-z", "--hid_dim", type=types.channels, metavar="C", help="channels, an even number")
    add("--dropout", type=types.fraction, metavar="P", help="dropout after each block")


def _ablation_flags(add: Add) -> None:
    """The choices of the method; the defaults are the paper's, but for what the help says."""
    add("--modulation_init", choices=("ones", "xavier"),
        help="first values of M; published: ones for ground-truth 2D, xavier for detected 2D")
    add("--weight_modulation", action=Switch,
        help="a vector for each joint on the shared weights (the paper's)")
    add("--adj_modulation", choices=ADJ_MODULATIONS,
        help="learned adjacency: A alone, A + Q (the paper's), A o (1 + Q), A + U V^T of --rank, "
        "or Q alone")
    add("--rank", type=types.whole(1, 256), metavar="R", help="columns of U and V in lowrank")
    add("--adj_symmetric", action=Switch, help="make the adjacency symmetric (the paper's)")
    add("--decouple_self", action=Switch,
        help="a weight for a joint itself beside that for its neighbours (the paper's)")
    add("--hops", type=types.whole(1, 16), metavar="K",
        help="reach of a layer along bones, with weights of its own for each hop (the paper's: 1)")
    add("--adj_l1", type=types.non_negative, metavar="LAMBDA",
        help="adds LAMBDA times the L1 norm of Q, summed over layers, to the loss (published: 0)")
    add("--norm_layer", choices=sorted(NORMS),
        help="normalise over the batch (the paper's), a joint's channels, or groups of channels")


def _training_flags(add: Add) -> None:
    add("-b", "--batch_size", "--batchSize", type=types.positive_int, metavar="B",
        help="poses per step, over all processes of torchrun together")
    add("-e", "--epochs", "--nepoch", type=types.positive_int, metavar="N",
        help="passes over the training set; a resumed run goes on to this number")
    add("--epoch_poses", type=types.natural, metavar="N",
        help="poses of a pass, at most, drawn anew for each; 0 takes all")
    add("--lr", "--learning_rate", type=types.positive, help="learning rate at the start")
    add("--loss", choices=LOSSES,
        help="main term of the loss; smooth_l1 is quadratic below 10 mm")
    add("--max_weight_norm", type=types.non_negative, metavar="X",
        help="martinez, vp3d: limit the weights into each unit to this norm; 0 does not limit")
    add("--seed", type=types.seed, help="of the first weights, the order of poses and dropout")


def _recipe_flags(add: Add, schedule: str) -> None:
    """Ways of training and testing beyond the published ones; docs/accuracy.md has their gains."""
    add("--recipe", choices=sorted(RECIPES),
        help="sets flags of this group, --loss, --weight_L1_norm, --lr, --batch_size and --epochs "
        "together; those typed beside it win; gains: docs/accuracy.md")
    add("--camera_rays", action=Switch,
        help="the network sees undistorted rays x/z, y/z: it needs the cameras' intrinsics")
    add("--root_view", action=Switch,
        help="the network sees the rays of a camera that looks at the root, and the direction of "
        "the root: it needs the cameras' intrinsics")
    add_tell_flags(add)
    add_pose_flags(add)
    add("--optimizer", type=str.lower, choices=("adam", "adamw", "sgd"),
        help="adamw and sgd decay the weights; sgd has momentum 0.9 (Nesterov)")
    add("--weight_decay", type=types.non_negative, metavar="W",
        help="of the optimiser (default: 0.01 with adamw, 1e-4 with sgd)")
    add("--schedule", choices=(schedule, "cosine"),
        help="of the learning rate; cosine falls to zero at the last step")
    add("--warmup", type=types.natural, metavar="STEPS", help="steps in which the rate rises")
    add("--ema", type=types.fraction, metavar="DECAY",
        help="test and save the exponential average of weights and statistics; 0 does not")
    add("--max_norm", type=types.non_negative, metavar="NORM",
        help="gradients are clipped to this norm; 0 leaves them")
    add("--flip_test", "--test_augmentation", action=Switch,
        help="test the mean of the pose and of its mirrored twin, turned back")


def _refinement_flags(add: Add) -> None:
    add("--post_refine", action=Switch,
        help="pose refinement; at test the default is to use it if it is there")
    add("--root_depth", choices=("gt", "estimate"),
        help="root depth of the refinement: ground truth, as published, or estimated")
    add("--network_symmetry", "--sym_penalty", type=int, choices=(0, 1),
        help="1 adds the symmetry term of the network's pose; the refined pose's is always there")
    add("--sym_weight", type=types.non_negative, metavar="W",
        help="weight of the symmetry terms, sums over six limb pairs of mean |left - right|")
    add("--sym_signed", action=Switch, help="left - right with its sign, as published")
    add("--save_out_type", choices=("xyz", "post"),
        help="choose the best epoch by the network's pose or the refined one (default: post)")


def _weights_flags(add: Add) -> None:
    for name, what in (("module_gcn", "the network"), ("post_refine", "the refinement")):
        add(f"--{name}_reload", type=int, choices=(0, 1),
            help=f"1 starts from {what} of --previous_dir")
        add(f"--{name}_model", type=types.one_line, metavar="FILE",
            help=f"which file there, if there are several of {what}")
    add("--previous_dir", type=types.one_line, metavar="DIR",
        help="folder of model_module_gcn_*.pth and model_post_refine_*.pth")
    add("--save_model", type=int, choices=(0, 1),
        help="1 saves the best under those names in --save_dir")
    add("--save_dir", type=types.one_line, metavar="DIR",
        help="see --save_model (default: the run's folder)")
