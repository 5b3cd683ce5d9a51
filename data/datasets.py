"""Descriptions of the data sets. The code that loads and tests them is the same for all.

To add a data set, describe it here and put ``data_3d_<name>.npz`` into ``dataset/``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from data.cameras import Camera, h36m_cameras, virtual_cameras


@dataclass(frozen=True)
class DatasetInfo:
    """The protocol of a data set, and all else that its npz files do not say.

    Attributes:
        name: value of ``--dataset``, and part of the file names ``data_3d_<name>.npz`` and
            ``data_2d_<name>_*.npz``.
        subjects_train, subjects_test: the protocol's split.
        actions: names, in the order of the result table. A sequence is named "action" or
            "action k".
        cameras: function from a subject's name to the cameras that recorded all its sequences;
            None where each sequence has virtual cameras of its own.
        virtual_cameras: function from "subject/sequence" and its joints (T, J, 3) in world metres
            to as many calibrated cameras for each sequence; None where cameras recorded it.
        trials: number of sequences that every subject has of each action. If there are fewer, they
            are reported as missing. 0 where subjects have different actions.
        excluded: (subject, sequence) pairs that are not used: the protocol excludes them, or the
            subject has no such sequence.
        advice: how to get the files, for the message that they are missing.
        metrics: metrics of the result table, names in ``common.metrics.METRICS``.
        mean_over: the overall error is the mean over "actions" or over "frames".
        pose_counts: poses of the complete "train" and "test" splits, over all cameras.
        h36m_protocol: the test protocol is Human3.6M's. The errors in the form of the published
            code (``common.metrics.published_form``) are then comparable, and are reported too.
    """

    name: str
    subjects_train: tuple[str, ...]
    subjects_test: tuple[str, ...]
    actions: tuple[str, ...]
    cameras: Callable[[str], tuple[Camera, ...]] | None
    trials: int
    excluded: tuple[tuple[str, str], ...]
    advice: str
    metrics: tuple[str, ...] = ("mpjpe_mm", "p_mpjpe_mm")
    mean_over: str = "actions"
    pose_counts: Mapping[str, int] = field(default_factory=dict)
    h36m_protocol: bool = False
    virtual_cameras: Callable[[str, Tensor], tuple[Camera, ...]] | None = None

    def cameras_of(self, subject: str, sequence: str, motion: Tensor) -> tuple[Camera, ...]:
        """The cameras of a sequence, whose joints are ``motion`` (T, J, 3), world metres."""
        if self.virtual_cameras:
            return self.virtual_cameras(f"{subject}/{sequence}", motion)
        return self.cameras(subject)

    def is_calibrated(self, subject: str) -> bool:
        """Whether the intrinsics of all cameras of a subject are known."""
        return self.cameras is None or all(c.is_calibrated for c in self.cameras(subject))

    def compare_with_protocol(self, split: str, found: int) -> str:
        """Compare a number of poses with the protocol's "train" or "test" split, as text."""
        expected = self.pose_counts.get(split, found)
        return "as expected" if found == expected else f"NOT the expected {expected:,}"

    def file_3d(self) -> str:
        """Name of the file of 3D joints."""
        return f"data_3d_{self.name}.npz"

    def file_2d(self, keypoints: str) -> str:
        """Name of the file of 2D joints from the given source, "gt" or a detector."""
        return f"data_2d_{self.name}_{keypoints}.npz"

    def missing_sequences(
        self, subject: str, names: Iterable[str], actions: Sequence[str] | None = None
    ) -> list[str]:
        """Sequences of the protocol that are missing, as a line for each incomplete action:
        "S9/Greeting: 1 of 2". They are counted, since trial names differ between subjects.

        Args:
            names: the sequences that the subject has.
            actions: the actions to look at; None looks at all.
        """
        present = [action_of(name) for name in names if (subject, name) not in self.excluded]
        left_out = [action_of(name) for who, name in self.excluded if who == subject]
        missing = []
        for action in self.actions if actions is None else actions:
            expected = self.trials - left_out.count(action)
            if present.count(action) < expected:
                missing.append(f"{subject}/{action}: {present.count(action)} of {expected}")
        return missing


def action_of(sequence: str) -> str:
    """The action of a sequence: the text before the first space, "Sitting 1" -> "Sitting"."""
    return sequence.split(" ")[0]


H36M = DatasetInfo(
    name="h36m",
    subjects_train=("S1", "S5", "S6", "S7", "S8"),
    subjects_test=("S9", "S11"),
    actions=(
        "Directions", "Discussion", "Eating", "Greeting", "Phoning", "Photo", "Posing",
        "Purchases", "Sitting", "SittingDown", "Smoking", "Waiting", "WalkDog", "Walking",
        "WalkTogether",
    ),
    cameras=h36m_cameras,
    trials=2,
    excluded=(("S11", "Directions"),),  # corrupted video
    advice=(
        "Human3.6M asks for registration (vision.imar.ro/human3.6m). Prepare it with 'python "
        "data/prepare_data_h36m.py --from-archive h36m.zip', or fetch what others publish of it "
        "with 'python data/download.py labels cpn'; 'python data/download.py --check' says what "
        "each experiment needs, DATASETS.md explains. To try the program now: --dataset hdm05"
    ),
    pose_counts={"train": 1_559_752, "test": 543_344},
    h36m_protocol=True,
)  # fmt: skip

_BUNDLED_ADVICE = (
    "{} has 3D joints only, for --keypoints gt and --keypoints noisy; if its 3D file is gone from "
    "dataset/, 'git checkout dataset' restores it"
)

# Motion capture with a licence that permits sharing. The cameras are virtual: intrinsics and
# positions are those of Human3.6M's cameras for S9.
HDM05 = DatasetInfo(
    name="hdm05",
    subjects_train=("bd", "bk", "dg"),
    subjects_test=("mm", "tr"),
    actions=(
        "depositFloorR", "elbowToKnee", "grabHighR", "hopBothLegs", "jogLeftCircle", "kickLFront",
        "lieDownFloor", "rotateArmsBothBackward", "sneak", "squat", "throwBasketball",
    ),
    cameras=lambda subject: h36m_cameras("S9"),
    trials=1,
    excluded=(),
    advice=_BUNDLED_ADVICE.format("hdm05"),
    pose_counts={"train": 45_368, "test": 26_436},
    h36m_protocol=True,
)  # fmt: skip

# HDM05 and clips of CMU's motion capture, for networks that lift anyone's keypoints. No test person
# of CMU has the number of one who is trained on; persons that CMU does not number may be the same.
MOCAP = DatasetInfo(
    name="mocap",
    subjects_train=(
        *HDM05.subjects_train, "01", "02", "03", "07", "09", "11", "131", "acrobatics", "backflip",
        "basketball", "charleston", "lambada", "monkey", "pirouette", "zombie",
    ),
    subjects_test=(*HDM05.subjects_test, "13", "135", "35", "49"),
    actions=(*HDM05.actions, "clip"),
    cameras=None,
    virtual_cameras=virtual_cameras,
    trials=0,
    excluded=(),
    advice=_BUNDLED_ADVICE.format("mocap"),
    pose_counts={"train": 50_720, "test": 21_672},
)  # fmt: skip

# The test set of MPI-INF-3DHP. Each subject was recorded in one scene; it takes the place of the
# action in the result table.
SCENES_3DHP = {
    "TS1": "StudioGreenScreen", "TS2": "StudioGreenScreen",
    "TS3": "StudioNoGreenScreen", "TS4": "StudioNoGreenScreen",
    "TS5": "Outdoor", "TS6": "Outdoor",
}  # fmt: skip
_SCENES = tuple(dict.fromkeys(SCENES_3DHP.values()))


def _camera_3dhp(subject: str) -> tuple[Camera, ...]:
    """The single camera of a test subject. The 3D joints are stored in its camera space.

    The annotations have no focal length and no principal point, so the intrinsics are NaN. A
    computation that needs them fails or gives NaN, and not a wrong but plausible figure.
    """
    outdoor = SCENES_3DHP[subject] == "Outdoor"
    width, height = (1920, 1080) if outdoor else (2048, 2048)
    return (
        Camera(
            id="0",
            width=width,
            height=height,
            intrinsics=torch.full((9,), torch.nan, dtype=torch.float64),
            rotation=torch.eye(3, dtype=torch.float64),
            translation=torch.zeros(3, dtype=torch.float64),
        ),
    )


MPI_INF_3DHP = DatasetInfo(
    name="3dhp",
    subjects_train=(),
    subjects_test=tuple(SCENES_3DHP),
    actions=_SCENES,
    cameras=_camera_3dhp,
    trials=1,
    excluded=tuple(
        (subject, scene)
        for subject in SCENES_3DHP
        for scene in _SCENES
        if scene != SCENES_3DHP[subject]
    ),
    advice=(
        "get the test set of MPI-INF-3DHP (vcai.mpi-inf.mpg.de/3dhp-dataset, for research only) "
        "and run 'python data/prepare_data_3dhp.py mpi_inf_3dhp_test_set'"
    ),
    metrics=("mpjpe_mm", "p_mpjpe_mm", "pck_percent", "auc_percent"),
    mean_over="frames",
    pose_counts={"test": 2_929},
)

DATASETS = {info.name: info for info in (H36M, HDM05, MOCAP, MPI_INF_3DHP)}
