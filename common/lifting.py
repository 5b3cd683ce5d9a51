"""From 2D joints to a pose in camera space: a network, what it sees, and its mirrored twin."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from common.averaging import WeightAverage
from common.camera import flip_intrinsics
from common.checkpoint import build_saved, load_weights
from common.errors import UserError
from common.input_view import InputView, rotate
from common.published import load_model_file
from common.skeleton import SKELETONS, Skeleton
from data.pose_dataset import PoseBatch, PoseDataset


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
        network: (B, J, view.in_dim) -> (B, J, 3), metres, in the view's space.
        view: what the network is given of the 2D joints.
        flip_test: at test, the mean of the pose and of its mirrored twin, turned back.
    """

    network: nn.Module
    view: InputView
    skeleton: Skeleton
    flip_test: bool

    def networks(self) -> dict[str, nn.Module]:
        """By the keys of their weights in a checkpoint."""
        return {"state_dict": self.network}

    def averaged(self, average: WeightAverage | None) -> "Lifter":
        """The same with averaged weights, if there are any."""
        return replace(self, network=average.networks["state_dict"]) if average else self

    def check_data(self, dataset: PoseDataset) -> None:
        """
        Raises:
            UserError: the network needs to know cameras that are not known.
        """
        if self.view.uses_intrinsics:
            remedy = "use a model trained without --camera_rays and --root_view"
            check_cameras(dataset, remedy)

    def describe_intrinsics(self) -> str | None:
        """A network that knows the cameras does not compare with one that does not: say so."""
        if not self.view.uses_intrinsics:
            return None
        return "the network is given rays, made with the cameras' intrinsics"

    def in_view(self, batch: PoseBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Prediction and target (B, J, 3), metres, both in the view's space, for the loss; and the
        rotations from camera space to it."""
        pose, rotation = self._run(batch.inputs_2d, self._cameras(batch))
        return pose, rotate(batch.targets_3d, rotation), rotation

    def predict(self, batch: PoseBatch) -> Tensor:
        """The pose (B, J, 3), metres, camera space, as tested."""
        return self.lift(batch.inputs_2d, self._cameras(batch))

    def lift(self, screen: Tensor, intrinsics: Tensor | None) -> Tensor:
        """Screen coordinates (B, J, 2) -> poses (B, J, 3), metres, camera space.

        Args:
            intrinsics: (B, 9), or None where the view does not use them.
        """
        pose, rotation = self._run(screen, intrinsics)
        pose = rotate(pose, rotation, back=True)
        if not self.flip_test:
            return pose
        mirrored = None if intrinsics is None else flip_intrinsics(intrinsics)
        twin, rotation = self._run(self.skeleton.flip(screen), mirrored)
        return (pose + self.skeleton.flip(rotate(twin, rotation, back=True))) / 2

    def _cameras(self, batch: PoseBatch) -> Tensor | None:
        return batch.intrinsics if self.view.uses_intrinsics else None

    def _run(self, screen: Tensor, intrinsics: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A pose in the view's space, and the rotation from camera space to it."""
        inputs, rotation = self.view.apply(screen, intrinsics)
        return self.network(inputs), rotation


def load_lifter(path: str | Path, flip_test: bool | None) -> Lifter:
    """The network of a checkpoint, with the input that it was trained on, ready to predict.

    Args:
        flip_test: None takes what the checkpoint's run was tested with.

    Raises:
        UserError: no readable checkpoint, or its weights do not fit what it says of itself.
    """
    checkpoint = load_model_file(path)
    arguments = checkpoint["model"]
    if flip_test is None:
        flip_test = bool(checkpoint.get("options", {}).get("flip_test"))
    network = build_saved(path, arguments)
    load_weights(path, network, checkpoint["state_dict"])
    view = InputView(bool(arguments.get("camera_rays")), bool(arguments.get("root_view")))
    return Lifter(network.eval(), view, SKELETONS[arguments["joints"]], flip_test)
