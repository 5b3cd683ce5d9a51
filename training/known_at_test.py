"""What a test tells the network, and the fit to rays, of the persons and the cameras.

It comes from the 2D joints of the test persons and from their cameras, but for what is called
oracle: that is the truth, which nobody knows at test, and shows what is left to gain.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.body import Body, by_bone
from common.errors import UserError
from common.person import Known, proportions_and_size
from data.pose_dataset import PoseBatch, PoseDataset
from training.calibration import calibrate, medians, with_camera_height
from training.lifter import Lifter, check_cameras

_UNKNOWN = "unknown"
_FLAGS = ("body", "gravity", "body_size")
_MOST_FRAMES = 4096  # of a person, spread evenly, that a body is found from
_REMARKS = {
    "body": {
        "medians": "proportions of each person: medians over the network's poses of the person, "
        "from the 2D of the same frames",
        "calibrate": "proportions of each person, calibrated from the person's 2D of the same "
        "frames",
        "oracle": "ORACLE: the true proportions of each person",
    },
    "gravity": {"camera": "the camera's vertical"},
    "body_size": {
        "camera_height": "size of each person, from the camera height and the person's 2D of the "
        "same frames",
        "oracle": "ORACLE: the true size of each person",
    },
}


@dataclass(frozen=True)
class KnownAtTest:
    """What is known of a test set.

    Attributes:
        known: of each of its N poses.
        bodies: of the persons, by name, with the errors of their proportions in percent.
        remark: a sentence that says what is known.
        kind: "oracle" if any of it is, "known", or "nothing known" if that is so of all persons.
    """

    known: Known
    bodies: dict[str, dict[str, Any]]
    remark: str
    kind: str

    def told(self, pose_of: Callable[..., Tensor]) -> Callable[[PoseBatch], Tensor]:
        """``Lifter.tested_pose`` or ``refined_pose``, told what is known of a batch."""
        return lambda batch: pose_of(batch, known=self.known.rows(batch.index))

    def all_told(
        self, poses_of: dict[str, Callable[..., Tensor]]
    ) -> dict[str, Callable[[PoseBatch], Tensor]]:
        """The same of several, under titles that say so: they are no figures of single frames."""
        return {f"{title}, {self.kind}": self.told(pose) for title, pose in poses_of.items()}


def check_known_flags(args: argparse.Namespace, lifter: Lifter, dataset: PoseDataset) -> None:
    """Refuse what would change no pose, or needs cameras that are not known.

    Raises:
        UserError: it would.
    """
    given = [name for name in _FLAGS if getattr(args, name) != _UNKNOWN]
    for name in given:
        check_cameras(dataset, f"leave out --{name}")
    if "gravity" in given and not lifter.told.gravity:
        raise UserError(
            "--gravity: this network cannot be told where up is: leave it out, or train one with "
            "--tell_gravity"
        )
    if "body" in given and not (lifter.told.body or args.ray_fit):
        raise UserError(
            "--body: this network cannot be told a body: give --ray_fit, or train one with "
            "--tell_body"
        )
    if "body_size" in given and "body" not in given and not lifter.told.body:
        raise UserError("--body_size: this network cannot be told a size: give --body too")


def known_at_test(
    args: argparse.Namespace, lifter: Lifter, dataset: PoseDataset
) -> KnownAtTest | None:
    """What the flags say is known of the persons and cameras of a test set; None for nothing."""
    asked = {name: getattr(args, name) for name in _FLAGS if getattr(args, name) != _UNKNOWN}
    if not asked:
        return None
    skeleton, subject = dataset.skeleton, dataset.subject.long()
    contents, rows, unknown = {}, [], []
    for number, name in enumerate(dataset.subjects):
        body, truth = _body_of(args, lifter, dataset, number)
        known = body.known(1, skeleton)
        rows.append((known.proportions, known.size))
        contents[name] = body.content()
        if body.proportions:
            contents[name]["proportion_errors_percent"] = {
                bone: 100 * (found / truth[bone] - 1) for bone, found in body.proportions.items()
            }
        if "body" in asked and not body.proportions:
            unknown.append(f"of {name}, {body.how}")
    views = dataset.sequence.long(), dataset.camera.long()
    up = dataset.up[views] if args.gravity == "camera" else None
    nothing = (torch.full((1, skeleton.num_joints - 1), torch.nan), torch.full((1,), torch.nan))
    proportions, sizes = (
        torch.cat([nothing[i] if row[i] is None else row[i] for row in rows]).to(subject.device)
        for i in (0, 1)
    )
    found = {k: v for k, v in asked.items() if k != "body" or len(unknown) < len(contents)}
    kind = "oracle" if "oracle" in found.values() else "known" if found else "nothing known"
    known = Known(proportions[subject], sizes[subject], up)
    return KnownAtTest(known, contents, _remark(found, unknown), kind)


def _remark(found: dict[str, str], unknown: Sequence[str]) -> str:
    """What is known, and what is not.

    Args:
        found: values of flags by name.
        unknown: why no body was found, of each person for whom this is so.
    """
    known = "; ".join(_REMARKS[name][value] for name, value in found.items())
    missing = "; ".join(unknown)
    if not found:
        return f"nothing is known: {missing}"
    return f"known: {known}" + (f". But {missing}" if unknown else "")


def _body_of(
    args: argparse.Namespace, lifter: Lifter, dataset: PoseDataset, number: int
) -> tuple[Body, dict[str, float]]:
    """The body of a person as it is known, and the true proportions by bone."""
    rows = (dataset.subject == number).nonzero().squeeze(1)
    count = min(len(rows), _MOST_FRAMES)
    batch = dataset.batch(rows[torch.arange(count, device=rows.device) * len(rows) // count])
    given = (lifter, batch.inputs_2d, batch.intrinsics)
    proportions, size = proportions_and_size(batch.targets_3d, dataset.skeleton)
    truth = by_bone(proportions.mean(dim=0), dataset.skeleton)
    if args.body == "oracle":
        body = Body("the true proportions", truth)
    elif args.body == _UNKNOWN:
        body = Body("")
    else:
        body = {"medians": medians, "calibrate": calibrate}[args.body](*given, lifter.screen_sigma)
    if args.body_size == "oracle":
        body = body.with_size(size.mean().item(), "is the true one")
    elif args.body_size == "camera_height":
        camera = dataset.camera[batch.index].long()
        height = dataset.camera_height[dataset.sequence[batch.index].long(), camera]
        # A number of a camera that is at another height in another sequence is another camera.
        camera = torch.stack([camera, height], dim=1).unique(dim=0, return_inverse=True)[1]
        body = with_camera_height(body, *given, batch.up, height, camera, lifter.screen_sigma)
    return body, truth
