"""Weights of the detected-2D model under their published names, so that files exchange both ways.

    model_module_gcn_<epoch>_eva_<type>_<error x 100>.pth     the network
    model_post_refine_<epoch>_eva_<type>_<error x 100>.pth    the refinement, if there is one

``type`` is xyz (the network's own pose) or post (refined), the error its MPJPE in mm, cut off after
two decimals (names of earlier versions of this program: rounded). Each file is
a bare state dict; where weights do not say which network they are of, the run's flags are beside.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from common.files import atomic_write
from models.build import describe_weights
from training import distributed
from training.checkpoint import check_state_dict, differences, load_checkpoint, load_plain
from training.run_files import LAST
from training.run_folder import RunDescription, RunFolder

_PREFIXES = {"state_dict": "model_module_gcn_", "post_refine": "model_post_refine_"}
_NAME = re.compile(r"model_module_gcn_(?P<epoch>\d+)_eva_(?P<kind>xyz|post)_\d+\.pth")
_FLAGS = {"state_dict": "--module_gcn_model", "post_refine": "--post_refine_model"}


class ModelFiles:
    """Keeps the best weights of one run in a folder; other files there stay as they are."""

    def __init__(
        self,
        folder: Path,
        kind: str,
        networks: dict[str, nn.Module],
        description: RunDescription | None = None,
    ) -> None:
        """
        Args:
            networks: by the key of their weights in a checkpoint.
            description: of the run, where weights alone do not say what the network is given.
        """
        self.folder, self.kind, self.networks = folder, kind, networks
        self.description = description
        self._written: list[Path] = []

    @classmethod
    def of_run(
        cls, run: RunFolder, save_dir: str | None, kind: str, networks: dict[str, nn.Module]
    ) -> "ModelFiles | None":
        """The files of a run; only the main one of several processes has any.

        Args:
            save_dir: their folder; None takes the run's.
            kind: the pose by which the best epoch is chosen, xyz or post.
        """
        if not distributed.is_main():
            return None
        shown = describe_weights(networks["state_dict"].state_dict())
        unclear = shown is None or differences(shown, run.description.model)
        folder = Path(save_dir) if save_dir else run.folder
        files = cls(folder, kind, networks, run.description if unclear else None)
        if run.best:
            files.remember(run.best["epoch"], run.best["mpjpe_mm"])
        return files

    def save_best(self, run: RunFolder) -> None:
        """Save the networks, which are those of the run's best epoch."""
        self.save(run.best["epoch"], run.best["mpjpe_mm"])

    def paths(self, epoch: int, error: float) -> dict[str, Path]:
        return self._paths(epoch, int(error * 100))

    def _paths(self, epoch: int, hundredths: int) -> dict[str, Path]:
        tail = f"{epoch}_eva_{self.kind}_{hundredths}.pth"
        return {key: self.folder / f"{_PREFIXES[key]}{tail}" for key in self.networks}

    def remember(self, epoch: int, error: float) -> None:
        """Files of this run's best before it was resumed: the next best replaces them. Those that
        are not there may have been saved under the rounded error, as earlier versions did."""
        paths, rounded = self.paths(epoch, error), self._paths(epoch, round(error * 100))
        self._written = [p if p.exists() else rounded[key] for key, p in paths.items()]

    def save(self, epoch: int, error: float) -> None:
        """Write the networks as the best so far (error: MPJPE in mm); then drop the last best."""
        paths = self.paths(epoch, error)
        for key, path in paths.items():
            content = self.networks[key].state_dict()
            if key == "state_dict" and self.description:
                content = {"state_dict": content, **vars(self.description)}
            with atomic_write(path) as partial:
                torch.save(content, partial)
        for old in self._written:
            if old not in paths.values():
                old.unlink(missing_ok=True)
        self._written = list(paths.values())


def load_model_file(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint; of a file with a published name, the name says epoch and choice."""
    checkpoint = load_checkpoint(path)
    if match := _NAME.fullmatch(Path(path).name):
        choice = f"lowest MPJPE ({match['kind']}) on the test subjects, as its name says"
        checkpoint = {"epoch": int(match["epoch"]), "chosen_by": choice} | checkpoint
    return checkpoint


def load_model_folder(
    folder: str | Path,
    with_refinement: bool | None,
    module_gcn_model: str | None = None,
    post_refine_model: str | None = None,
) -> dict[str, Any]:
    """Read the network and, if wanted, the refinement of a folder, as a checkpoint's dict.

    Args:
        with_refinement: None takes it if it is there.
        module_gcn_model, post_refine_model: names of files, where there are several.

    Raises:
        UserError: a file is missing or damaged, or there are several to choose from.
    """
    folder = _existing(Path(folder))
    refinements = _candidates(folder, "post_refine", post_refine_model)
    if with_refinement and not refinements:
        raise UserError(
            f"{folder} has no {_PREFIXES['post_refine']}*.pth: train the refinement with "
            f"--post_refine --module_gcn_reload 1 --pro_train 1 --previous_dir {folder}"
        )
    refinement = None
    if refinements and with_refinement is not False:
        refinement = _only(refinements, "post_refine")
    networks = _candidates(folder, "state_dict", module_gcn_model)
    if refinement and len(networks) > 1:  # its partner has the same epoch, type and error
        tail = refinement.name.removeprefix(_PREFIXES["post_refine"])
        networks = [p for p in networks if p.name.endswith(f"gcn_{tail}")] or networks
    path = _only(networks, "state_dict", folder)
    checkpoint = load_model_file(path)
    if refinement:
        checkpoint["post_refine"] = check_state_dict(refinement, load_plain(refinement))
    return checkpoint


def _existing(folder: Path) -> Path:
    """The published commands train into DIR and then read DIR/best_model, or by default
    DIR/module_256: DIR itself will do."""
    if folder.is_dir():
        return folder
    if folder.name in ("best_model", "module_256") and any(
        folder.parent.glob(f"{_PREFIXES['state_dict']}*.pth")
    ):
        return folder.parent
    raise UserError(
        f"{folder} is not there: give the weights to test with --evaluate CKPT or "
        "--previous_dir DIR, or train them with --pro_train 1"
    )


def _candidates(folder: Path, key: str, name: str | None) -> list[Path]:
    return [folder / name] if name else sorted(folder.glob(f"{_PREFIXES[key]}*.pth"))


def _only(paths: list[Path], key: str, folder: Path | None = None) -> Path:
    if not paths:
        own = folder / LAST
        remedy = f"test {own}" if own.is_file() else "give another folder"
        raise UserError(f"{folder} has no {_PREFIXES[key]}*.pth: {remedy}")
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise UserError(f"{paths[0].parent} has {names}: choose one with {_FLAGS[key]} FILE")
    return paths[0]
