"""From 2D joints to a 3D pose: the input's form, the network, its mirrored twin, and refinement."""

import argparse
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.camera import back_project_pose, flip_intrinsics, remove_distortion, solve_translation
from common.errors import UserError
from common.input_view import InputView, rotate
from common.metrics import root_centred
from common.person import Known, PersonStatistics
from common.prediction import Prediction
from common.ray_fit import Sigmas, fit_to_rays, usual_sigmas
from common.skeleton import SKELETONS, Skeleton
from common.told_channels import ToldChannels
from data.keypoints import Size, keypoints_of_array
from data.noise import PIXEL
from data.pose_dataset import PoseBatch, PoseDataset
from models.build import INPUT_ARGUMENTS, build_model
from models.pose_refine import PoseRefine
from training.acceleration import select_device
from training.checkpoint import Source, build_saved, check_model, load_weights
from training.given import Given
from training.predicting import predict_track, smoothed
from training.published_files import load_model_file, load_model_folder
from training.settings import input_view, model_arguments, told_channels

# For anyone's keypoints.
BUNDLED_WEIGHTS = Path(__file__).resolve().parents[1] / "checkpoint" / "own_data.pth.tar"
# For --ray_fit and --tell_noise: the standard deviation of the 2D joints in screen units, by their
# source. 0 is exact; docs/accuracy-measured.md says why that of noisy is 10 px at width 1,000.
SCREEN_SIGMAS = {"gt": 0.0, "noisy": 0.02}
_NEED_PERSONS = ("tell_body", "tell_noise")
_FIT_STEPS, _TOLD_FIT_STEPS = 4, 5  # of --ray_fit, without and with lengths
# On left-out training persons, --ray_fit gains with networks of exact 2D joints up to an error of
# 3 px at width 1,000. With those of noisy, whose joints are 6 px off, it gains at 10 px
# (docs/accuracy-measured.md).
_FITTED_PIXELS, _FITTED_SHARE = 3 * PIXEL, 2.0  # and so often the error of the training


def known_screen_sigma(args: argparse.Namespace) -> float | None:
    """The standard deviation of the 2D joints, screen units: that of their source, and
    ``--keypoint_noise``. None where that of the source is not known."""
    of_source = SCREEN_SIGMAS.get(args.keypoints)
    return None if of_source is None else math.hypot(of_source, PIXEL * args.keypoint_noise)


def check_cameras(dataset: PoseDataset, remedy: str) -> None:
    """
    Raises:
        UserError: the data set's cameras are not known; the line ends with the remedy.
    """
    if not dataset.intrinsics.isfinite().all():
        raise UserError(f"the cameras of {dataset.info.name} are not known: {remedy}")


@dataclass
class Lifter:
    """A lifting network as it is trained and tested.

    Attributes:
        network: (B, J, in_dim) -> (B, J, 3), metres, in the space of the input view.
        arguments: of the network, as checkpoints carry them.
        input_view: the form in which the network is given the 2D joints.
        flip_test: test the mean of the pose and of its mirrored twin, turned back.
        amp: test in bfloat16 where autocast finds that safe.
        post_refine: pose refinement; None where there is none.
        true_root_depth: refinement takes the root's depth from the ground truth.
        told: what the network can be told of a person and a camera beside the 2D joints.
        persons: statistics of the training persons; None where the checkpoint has none.
        screen_sigma: standard deviation of the 2D joints along x and y, screen units; 0 for exact
            ones, None where it is not known.
        ray_fit: tested poses, refined or not, are fitted to the rays of their 2D joints, see
            ``common.ray_fit``, where the error of these is known.
    """

    network: nn.Module
    arguments: dict[str, Any]
    input_view: InputView
    skeleton: Skeleton
    flip_test: bool = False
    amp: bool = False
    post_refine: PoseRefine | None = None
    true_root_depth: bool = True
    told: ToldChannels = field(default_factory=ToldChannels)
    persons: PersonStatistics | None = None
    screen_sigma: float | None = None
    ray_fit: bool = False

    @classmethod
    def load(
        cls,
        path: str | Path = BUNDLED_WEIGHTS,
        flip_test: bool | None = None,
        device: str = "auto",
    ) -> "Lifter":
        """The network of our checkpoint or of a published one, ready to lift.

        Args:
            path: of the checkpoint.
            flip_test: average with the prediction for the mirrored input; None does what the
                checkpoint's run was tested with.
            device: "cpu", "cuda", "cuda:1"; "auto" prefers cuda.

        Raises:
            UserError: no readable checkpoint, its weights do not fit what it says of itself, or
                there is no such device.
        """
        return load_lifter(path, flip_test).to(select_device(device))

    def __call__(
        self,
        keypoints: Any,
        size: Size,
        format: str = "auto",
        *,
        smooth: str | None = None,
        **told: Any,
    ) -> Prediction:
        """Lift the keypoints of one person. Threads may share a lifter that :meth:`load` gave.

        Args:
            keypoints: (T, P, 2 or 3) numbers of T images, or (P, 2 or 3) of one: x and y in
                pixels, y down, and perhaps a score. NaN, or x = y = 0, is a point that was not
                seen; so is one with a low score. It is filled in between other images.
            size: width and height of the images in pixels.
            format: which points these are: a word of ``data.keypoint_formats.FORMATS``, or "auto".
            smooth: "one_euro" filters the poses; needs ``fps``.
            told: what is known of the camera and the person: see
                :class:`training.given.Given`.

        Returns:
            Poses in metres and camera space, with everything that is known of them. Images in a
            long gap without the person are left out; ``frames`` numbers those that remain.

        Raises:
            UserError: the keypoints are not what was said, or a joint is never seen; or what is
                told is impossible.
        """
        found = keypoints_of_array(keypoints, self.skeleton, format, size)
        prediction = predict_track(self, found.tracks[0], found, Given(**told))
        return smoothed(prediction, smooth)

    @property
    def in_dim(self) -> int:
        """Input channels of a joint."""
        return self.input_view.in_dim + self.told.count

    @property
    def input_sigma(self) -> float:
        """What the network is told of the 2D joints' error where ``Known`` does not say it, screen
        units: an error that is not known is taken to be that of the training's 2D joints."""
        if self.screen_sigma is not None:
            return self.screen_sigma
        return (self.persons and self.persons.screen_sigma) or 0.0

    @property
    def fits(self) -> bool:
        """Whether tested poses are fitted to rays."""
        known = self.screen_sigma is not None
        return self.ray_fit and known and self.screen_sigma <= self.largest_fitted_sigma

    @property
    def largest_fitted_sigma(self) -> float:
        """The error of 2D joints up to which the fit to rays gains with this network, screen
        units. Infinite where the error of the training's 2D joints is not known."""
        trained = self.persons and self.persons.screen_sigma
        return math.inf if trained is None else _FITTED_PIXELS + _FITTED_SHARE * trained

    def seeing(self, screen_sigma: float | None) -> "Lifter":
        """The same for 2D joints with this error; None leaves what is known of it."""
        return self if screen_sigma is None else replace(self, screen_sigma=screen_sigma)

    def networks(self) -> dict[str, nn.Module]:
        """All networks, by the keys of their weights in a checkpoint."""
        refinement = {"post_refine": self.post_refine} if self.post_refine else {}
        return {"state_dict": self.network} | refinement

    def with_networks(self, networks: dict[str, nn.Module]) -> "Lifter":
        """The same with other networks, by those keys."""
        return replace(
            self, network=networks["state_dict"], post_refine=networks.get("post_refine")
        )

    def to(self, device: torch.device) -> "Lifter":
        for network in self.networks().values():
            network.to(device)
        return self

    def check_data(self, dataset: PoseDataset) -> None:
        """
        Raises:
            UserError: the cameras of the data set are needed and not known.
        """
        if self.post_refine:
            check_cameras(dataset, "use --no-post_refine")
        if self.fits:
            check_cameras(dataset, "leave out --ray_fit")
        if self.input_view.uses_intrinsics:
            check_cameras(dataset, "this network needs them, use one without --camera_rays "
                          "and --root_view")  # fmt: skip

    def pose_and_target(self, batch: PoseBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """The prediction and the target (B, J, 3), metres, both in the space of the input view, and
        the rotations (B, 3, 3) from camera space to it, None where it is camera space."""
        inputs, rotation = self.network_input(batch.inputs_2d, batch.intrinsics, batch.known)
        return self.network(inputs), rotate(batch.targets_3d, rotation), rotation

    def network_input(
        self, screen: Tensor, intrinsics: Tensor | None, known: Known | None
    ) -> tuple[Tensor, Tensor | None]:
        """The network's input (B, J, in_dim), and its rotation as of ``InputView.apply``."""
        inputs, rotation = self.input_view.apply(screen, intrinsics)
        told = self.told.appended(inputs, known, rotation, self.persons, self.input_sigma)
        return told, rotation

    def lift(self, screen: Tensor, intrinsics: Tensor | None, known: Known | None = None) -> Tensor:
        """Screen coordinates (B, J, 2) -> poses (B, J, 3), metres, camera space, near the root.

        Args:
            intrinsics: (B, 9), or None where the input view does not use them.
            known: of the B persons and cameras; None where nothing is.
        """
        if not self.flip_test:
            return self._lift_once(screen, intrinsics, known)
        # In one batch with the twins: a single pose takes as long as two of them.
        if intrinsics is not None:
            intrinsics = torch.cat([intrinsics, flip_intrinsics(intrinsics)])
        both = torch.cat([screen, self.skeleton.flip(screen)])
        known = known and known.with_mirrored()
        pose, twin = self._lift_once(both, intrinsics, known).unflatten(0, (2, -1))
        return (pose + self.skeleton.flip(twin)) / 2

    def _lift_once(self, screen: Tensor, intrinsics: Tensor | None, known: Known | None) -> Tensor:
        """:meth:`lift` without mirrored twins."""
        inputs, rotation = self.network_input(screen, intrinsics, known)
        return rotate(self.network(inputs), rotation, back=True)

    def refine(self, pose: Tensor, batch: PoseBatch) -> Tensor:
        """Poses (B, J, 3) in camera space -> refined ones."""
        depth = batch.root_3d[:, 2] if self.true_root_depth else None
        return self.refine_at(pose, batch.inputs_2d, batch.intrinsics, depth)

    def refine_at(
        self, pose: Tensor, screen: Tensor, intrinsics: Tensor, depth: Tensor | None
    ) -> Tensor:
        """Poses (B, J, 3) in camera space with their 2D joints (B, J, 2) and intrinsics (B, 9) ->
        refined ones.

        Args:
            depth: (B,) of the root, metres; None estimates it from the pose and the 2D joints.
        """
        if depth is None:
            with torch.no_grad():
                uv = remove_distortion(screen, intrinsics)
                depth = solve_translation(pose - pose[:, :1], uv, intrinsics)[:, 2]
        return self.post_refine(pose, back_project_pose(pose, screen, depth, intrinsics))

    @torch.inference_mode()
    def tested_pose(
        self, batch: PoseBatch, refined: bool = False, known: Known | None = None
    ) -> Tensor:
        """The network's poses (B, J, 3) as they are tested: metres, camera space, not centred.

        Args:
            refined: give the refined poses instead.
            known: of the B persons and cameras; None where nothing is. --ray_fit imposes the
                proportions, at the known size, or else at that of the network's pose.
        """
        for network in self.networks().values():
            network.eval()
        with torch.autocast(batch.index.device.type, torch.bfloat16, enabled=self.amp):
            pose = self.lift(batch.inputs_2d, batch.intrinsics, known)
            pose = self.refine(pose, batch) if refined else pose
        pose = pose.float()
        if not self.fits:
            return pose
        return root_centred(self.on_rays(pose, batch.inputs_2d, batch.intrinsics, known or Known()))

    def on_rays(self, pose: Tensor, screen: Tensor, intrinsics: Tensor, known: Known) -> Tensor:
        """Poses (B, J, 3) fitted to the rays of their 2D joints, at their place in camera space.
        The error of these is that of :attr:`screen_sigma`, which must be known.

        Args:
            pose, screen, intrinsics: see ``common.ray_fit.fit_to_rays``.
            known: of the B persons; proportions that are known are imposed.
        """
        lengths = known.lengths_of(pose, self.skeleton)
        told = lengths.isfinite().any(dim=1)
        fitted = torch.empty_like(pose)
        for rows, steps in ((told, _TOLD_FIT_STEPS), (~told, _FIT_STEPS)):
            if rows.any():
                fitted[rows] = fit_to_rays(
                    pose[rows],
                    screen[rows],
                    intrinsics[rows],
                    self.skeleton,
                    self.sigmas,
                    lengths[rows] if rows is told else None,
                    self.screen_sigma,
                    steps=steps,
                )
        return fitted

    @property
    def sigmas(self) -> Sigmas:
        """Those of the fit to rays: of this network's training, or else the usual ones."""
        return (self.persons and self.persons.sigmas) or usual_sigmas(self.skeleton)

    def refined_pose(self, batch: PoseBatch, known: Known | None = None) -> Tensor:
        """The refined poses (B, J, 3) as they are tested."""
        return self.tested_pose(batch, refined=True, known=known)


def build_lifter(
    args: argparse.Namespace, script: str, source: Source | None, refined: bool = False
) -> Lifter:
    """The networks of the flags, on the CPU, with the weights of a checkpoint if there is one.

    Args:
        refined: with pose refinement.

    Raises:
        UserError: the checkpoint holds another network, or weights that do not fit.
    """
    arguments = model_arguments(args, script)
    if source:
        arguments = check_model(source.path, source.checkpoint["model"], arguments)
        network = build_saved(source.path, arguments, source.checkpoint["state_dict"])
    lifter = Lifter(
        network=network if source else build_model(arguments),
        arguments=arguments,
        input_view=input_view(args),
        told=told_channels(args),
        skeleton=SKELETONS[args.joints],
        flip_test=args.flip_test,
        amp=args.amp,
        post_refine=PoseRefine(args.joints) if refined else None,
        true_root_depth=getattr(args, "root_depth", "gt") == "gt",
        screen_sigma=known_screen_sigma(args),
        ray_fit=args.ray_fit,
    )
    if source:
        lifter.persons = _persons_of(source.path, source.checkpoint)
    for key, network in lifter.networks().items():
        if source and key in source.checkpoint:
            load_weights(source.path, network, source.checkpoint[key])
    return lifter


def _persons_of(path: str | Path, checkpoint: dict[str, Any]) -> PersonStatistics | None:
    """The statistics of the training persons in a checkpoint; None if it has none.

    Raises:
        UserError: its network needs them.
    """
    if found := checkpoint.get("persons"):
        return PersonStatistics.of(found)
    if needing := [key for key in _NEED_PERSONS if checkpoint["model"].get(key)]:
        raise UserError(
            f"{path} lacks the statistics of its training persons, which --{needing[0]} needs: it "
            "is damaged, get the file again"
        )
    return None


def load_lifter(path: str | Path, flip_test: bool | None, refined: bool | None = False) -> Lifter:
    """The network of a checkpoint, with the input that it was trained on, ready to predict.

    Args:
        path: of a checkpoint, a model file, or a folder of them.
        flip_test: None takes what the checkpoint's run was tested with.
        refined: with pose refinement, which estimates the root's depth; None takes it if it is
            there.

    Raises:
        UserError: no readable checkpoint, or its weights do not fit what it says of itself.
    """
    if Path(path).is_dir() and refined is not False:
        checkpoint = load_model_folder(path, refined)
    else:
        checkpoint = load_model_file(path)
    if refined and "post_refine" not in checkpoint:
        raise UserError(f"{path} holds no refinement: give a file or a folder that does")
    arguments = checkpoint["model"]
    if flip_test is None:
        flip_test = bool(checkpoint.get("options", {}).get("flip_test"))
    given = argparse.Namespace(**{k: bool(arguments.get(k)) for k in INPUT_ARGUMENTS})
    view, told = input_view(given), told_channels(given)
    in_dim = view.in_dim + told.count
    check_model(path, arguments, arguments | {"in_dim": in_dim, "out_dim": 3})
    network = build_saved(path, arguments, checkpoint["state_dict"])
    load_weights(path, network, checkpoint["state_dict"])
    skeleton = SKELETONS[arguments["joints"]]
    lifter = Lifter(network.eval(), arguments, view, skeleton, flip_test, true_root_depth=False)
    lifter.told, lifter.persons = told, _persons_of(path, checkpoint)
    if "post_refine" in checkpoint and refined is not False:
        lifter.post_refine = PoseRefine(skeleton.num_joints).eval()
        load_weights(path, lifter.post_refine, checkpoint["post_refine"])
    return lifter
