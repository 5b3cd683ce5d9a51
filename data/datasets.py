"""The data sets: each a small description that the same code reads.

To add one, describe it here and put ``data_3d_<name>.npz`` into ``dataset/``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from data.cameras import Camera, h36m_cameras


@dataclass(frozen=True)
class DatasetInfo:
    """What the program must know of a data set beside its npz files.

    Attributes:
        name: of ``--dataset`` and of the files, ``data_3d_<name>.npz``, ``data_2d_<name>_*.npz``.
        subjects_train, subjects_test: the protocol's split.
        actions: in the order of the table. A sequence is named "action" or "action k".
        cameras: the cameras of a subject's recordings.
        trials: sequences of each action that every subject has; fewer are reported as missing.
        excluded: (subject, sequence) pairs that the protocol leaves out, or never had.
        advice: how to get the files, for the message when they are not there.
        metrics: of its table, names in ``common.metrics.METRICS``.
        mean_over: the figure in all is the mean over "actions" or over "frames".
        poses: how many the whole split has, over all cameras, to check files against.
        h36m_protocol: it is tested as Human3.6M is, so that errors in the published code's own form
            (``common.metrics.published_form``) mean something and are given too.
    """

    name: str
    subjects_train: tuple[str, ...]
    subjects_test: tuple[str, ...]
    actions: tuple[str, ...]
    cameras: Callable[[str], tuple[Camera, ...]]
    trials: int
    excluded: tuple[tuple[str, str], ...]
    advice: str
    metrics: tuple[str, ...] = ("mpjpe_mm", "p_mpjpe_mm")
    mean_over: str = "actions"
    poses: Mapping[str, int] = field(default_factory=dict)
    h36m_protocol: bool = False

    def against_protocol(self, split: str, found: int) -> str:
        """Say whether so many poses are what the protocol's "train" or "test" split has."""
        expected = self.poses.get(split, found)
        return "as expected" if found == expected else f"NOT the expected {expected:,}"

    def file_3d(self) -> str:
        return f"data_3d_{self.name}.npz"

    def file_2d(self, keypoints: str) -> str:
        return f"data_2d_{self.name}_{keypoints}.npz"

    def missing_sequences(
        self, subject: str, names: Iterable[str], actions: Sequence[str] | None = None
    ) -> list[str]:
        """Which of a subject's sequences the protocol has and ``names`` has not, by action:
        "S9/Greeting: 1 of 2". The names of the two trials differ from subject to subject."""
        present = [action_of(name) for name in names if (subject, name) not in self.excluded]
        left_out = [action_of(name) for who, name in self.excluded if who == subject]
        missing = []
        for action in self.actions if actions is None else actions:
            expected = self.trials - left_out.count(action)
            if present.count(action) < expected:
                missing.append(f"{subject}/{action}: {present.count(action)} of {expected}")
        return missing


def action_of(sequence: str) -> str:
    """ "Sitting 1" -> "Sitting": the text before the space, so that SittingDown is another."""
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
    poses={"train": 1_559_752, "test": 543_344},
    h36m_protocol=True,
)  # fmt: skip

# Real motion capture that may be shared, seen by virtual cameras: Human3.6M's intrinsics, placed
# as they stood for S9.
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
    advice=(
        "hdm05 has 3D joints only, for --keypoints gt and --keypoints noisy; if its 3D file is "
        "gone from dataset/, 'git checkout dataset' restores it"
    ),
    poses={"train": 45_368, "test": 26_436},
    h36m_protocol=True,
)  # fmt: skip

# The test set of MPI-INF-3DHP: each subject was recorded in one scene, which is the "action" here.
SCENES_3DHP = {
    "TS1": "StudioGreenScreen", "TS2": "StudioGreenScreen",
    "TS3": "StudioNoGreenScreen", "TS4": "StudioNoGreenScreen",
    "TS5": "Outdoor", "TS6": "Outdoor",
}  # fmt: skip
_SCENES = tuple(dict.fromkeys(SCENES_3DHP.values()))


def _camera_3dhp(subject: str) -> tuple[Camera, ...]:
    """The one camera of a test subject; its 3D joints are stored in the camera's own space.

    The annotations come without focal length and centre: these are NaN, so that what would need
    them fails or shows it instead of giving a plausible figure.
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
    poses={"test": 2_929},
)

DATASETS = {info.name: info for info in (H36M, HDM05, MPI_INF_3DHP)}
