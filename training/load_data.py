"""The data sets of a script's flags, on the device."""

import argparse
from pathlib import Path

import torch

from common.errors import UserError
from common.memory import refuse_too_large
from common.skeleton import SKELETONS
from data.augment import Augmentation
from data.datasets import DATASETS
from data.pose_dataset import PoseDataset, PoseLoader, load_pose_datasets
from data.telling import Telling
from training import distributed

ROOT = Path(__file__).resolve().parents[1]


def load_data(
    args: argparse.Namespace, with_training: bool, device: torch.device
) -> list[PoseDataset]:
    """The test set of a data set, after its training set if wanted.

    Raises:
        UserError: see ``load_pose_datasets``; also no folder, or no training set.
    """
    info = DATASETS[args.dataset]
    if with_training and not info.subjects_train:
        raise UserError(f"{info.name} is for testing only: give --evaluate CKPT")
    folder = Path(args.dataset_dir) if args.dataset_dir else ROOT / "dataset"
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: --dataset_dir is that of the npz files")
    splits = {"train": info.subjects_train, "test": info.subjects_test}
    if not with_training:
        del splits["train"]
    datasets = load_pose_datasets(
        info,
        folder,
        list(splits.values()),
        SKELETONS[args.joints],
        args.keypoints,
        args.actions,
        args.downsample,
        check=args.check_data,
    )
    whole = args.actions is None and args.downsample == 1
    for dataset, split in zip(datasets, splits, strict=True):
        verdict = f", {info.compare_with_protocol(split, len(dataset))}" if whole else ""
        print(f"{split}: {len(dataset):,} poses of {', '.join(dataset.subjects)}{verdict}")
        if dataset.missing:
            print(f"warning: sequences are missing: {'; '.join(dataset.missing)}")
    if device.type != "cpu":  # on the CPU they are there already
        size = sum(dataset.nbytes for dataset in datasets)
        refuse_too_large(size, device, "the data set", "give a larger --downsample")
    return [dataset.to(device) for dataset in datasets]


def training_loader(
    args: argparse.Namespace, dataset: PoseDataset, screen_sigma: float = 0.0
) -> PoseLoader:
    """Shuffled batches, with the flips, the augmentation and the telling of the flags.

    Args:
        screen_sigma: that is told of the 2D joints of the data set, screen units.
    """
    strengths = (args.bone_sigma, args.size_sigma, args.turn, args.tilt, args.keep_ground)
    telling = Telling(args.tell_body, args.tell_gravity, args.epochs, args.tell_noise, screen_sigma)
    return PoseLoader(
        dataset,
        args.batch_size,
        seed=args.seed,
        flips=getattr(args, "data_augmentation", False),
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        augmentation=Augmentation(*strengths) if args.augment else None,
        telling=telling if args.tell_body or args.tell_gravity or args.tell_noise else None,
        keypoint_shift=args.keypoint_shift,
        focal_sigma=args.focal_sigma,
        poses=args.epoch_poses or None,
    )


def evaluation_loader(dataset: PoseDataset) -> PoseLoader:
    """Batches for testing, of a size that changes no figure: on a CPU small enough for its cache,
    on a GPU large enough to keep it busy. Of several processes, each has a part."""
    batch_size = 512 if dataset.inputs_2d.device.type == "cpu" else 16384
    return PoseLoader(
        dataset, batch_size, rank=distributed.rank(), world_size=distributed.world_size()
    )
