"""The data sets: each a small description that the same code reads.

To add one, describe it here and put ``data_3d_<name>.npz`` into ``dataset/``.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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
        excluded: (subject, sequence) pairs that the protocol leaves out.
        advice: how to get the files, for the message when they are not there.
    """

    name: str
    subjects_train: tuple[str, ...]
    subjects_test: tuple[str, ...]
    actions: tuple[str, ...]
    cameras: Callable[[str], tuple[Camera, ...]]
    trials: int
    excluded: tuple[tuple[str, str], ...]
    advice: str

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
        "Human3.6M asks for registration (vision.imar.ro/human3.6m) and may not be redistributed; "
        "the README, 'Data', says how to prepare the files from it. "
        "To try the program now: --dataset hdm05"
    ),
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
    advice="it comes with the program: 'git checkout dataset' restores it",
)  # fmt: skip

DATASETS = {info.name: info for info in (H36M, HDM05)}
