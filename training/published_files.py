"""Weights of the detected-2D model under their published names, so that files exchange both ways.

    model_module_gcn_<epoch>_eva_<type>_<error x 100>.pth     the network
    model_post_refine_<epoch>_eva_<type>_<error x 100>.pth    the refinement, if there is one

``type`` is xyz (the network's own pose) or post (refined), the error its MPJPE in mm, cut off after
two decimals (names of earlier versions of this program: rounded). Each file is
a bare state dict; where weights do not say which network they are of, the run's flags are beside.
"""

import re
import sys
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import UserError
from common.files import clear_partials, os_errors_as_user_errors
from models.build import describe_weights
from training import distributed
from training.checkpoint import (
    check_state_dict,
    differences,
    load_checkpoint,
    load_plain,
    to_bytes,
)
from training.find_run import BEST, LAST
from training.run_folder import RunFolder

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
        unclear: bool = False,
    ) -> None:
        """
        Args:
            networks: by the key of their weights in a checkpoint.
            unclear: weights alone do not say what the network is given: the run's description is
                saved with them.
        """
        self.folder, self.kind, self.networks = folder, kind, networks
        self.unclear = unclear
        self._best: list[tuple[int, float]] = []

    @classmethod
    def of_run(
        cls, run: RunFolder, save_dir: str | None, kind: str, networks: dict[str, nn.Module]
    ) -> "ModelFiles | None":
        """The files of a run; only the main one of several processes has any.

        Those of a resumed run are put right: it may have been killed between its checkpoint and
        them, before the new ones were written or before the old ones were removed.

        Args:
            save_dir: their folder; None takes the run's.
            kind: the pose by which the best epoch is chosen, xyz or post.
        """
        if not distributed.is_main():
            return None
        shown = describe_weights(networks["state_dict"].state_dict())
        unclear = shown is None or differences(shown, run.description.model)
        folder = Path(save_dir) if save_dir else run.folder
        files = cls(folder, kind, networks, unclear=bool(unclear))
        clear_partials(folder)
        if run.best:
            files.restore(run)
        return files

    def restore(self, run: RunFolder) -> None:
        """Write the files of a resumed run's best epoch if they are not there, from the networks
        or from the run's checkpoint of that epoch; remove those of epochs that were the best
        before it."""
        for row in run.history:
            if not self._best or row["mpjpe_mm"] < self._best[-1][1]:
                self._best.append((row["epoch"], row["mpjpe_mm"]))
        best = run.best["epoch"], run.best["mpjpe_mm"]
        self._best = [*(before for before in self._best if before != best), best]
        paths = [*self.paths(*best).values()]
        for path, rounded in zip(paths, self._rounded_paths(*best), strict=True):
            if rounded.exists() and not path.exists():
                with os_errors_as_user_errors(f"rename {rounded}"):
                    rounded.rename(path)
        missing = [path for path in paths if not path.exists()]
        if missing:
            weights = self._weights_of(run)
            if weights is None:
                print(
                    f"warning: {', '.join(map(str, missing))} cannot be written again: no file "
                    f"has the weights of epoch {best[0]}; the next best epoch writes its own",
                    file=sys.stderr,
                )
                return
            self._write(run, weights)
        self._remove_old(run)

    def _weights_of(self, run: RunFolder) -> dict[str, dict[str, Any]] | None:
        """The weights of a resumed run's best epoch, by key; None if they are nowhere."""
        if run.best["epoch"] == run.epoch:
            return self._weights()
        try:
            checkpoint = load_checkpoint(run.folder / BEST)
        except UserError:
            return None
        is_best = checkpoint.get("epoch") == run.best["epoch"]
        if not is_best or not self.networks.keys() <= checkpoint.keys():
            return None
        return {key: checkpoint[key] for key in self.networks}

    def _weights(self) -> dict[str, dict[str, Any]]:
        return {key: network.state_dict() for key, network in self.networks.items()}

    def paths(self, epoch: int, error: float) -> dict[str, Path]:
        return self._paths(epoch, int(error * 100))

    def _rounded_paths(self, epoch: int, error: float) -> list[Path]:
        """As earlier versions named them."""
        return [*self._paths(epoch, round(error * 100)).values()]

    def _paths(self, epoch: int, hundredths: int) -> dict[str, Path]:
        tail = f"{epoch}_eva_{self.kind}_{hundredths}.pth"
        return {key: self.folder / f"{_PREFIXES[key]}{tail}" for key in self.networks}

    def keep_best(self, run: RunFolder, is_new: bool) -> None:
        """After each epoch: write the networks if it is the best so far, and remove the files of
        the best before it once these are there."""
        if is_new:
            self._best.append((run.best["epoch"], run.best["mpjpe_mm"]))
            self._write(run, self._weights())
        self._remove_old(run)

    def _write(self, run: RunFolder, weights: dict[str, dict[str, Any]]) -> None:
        """Write weights as those of the run's best epoch."""
        contents = {}
        for key, path in self.paths(run.best["epoch"], run.best["mpjpe_mm"]).items():
            content = weights[key]
            if key == "state_dict" and self.unclear:
                content = {"state_dict": content, **vars(run.description)}
            contents[path] = to_bytes(content)
        run.save_at(contents)

    def _remove_old(self, run: RunFolder) -> None:
        """Remove the files of all epochs that were the best before this one, if its are there."""
        kept = [path for best in self._best[-1:] for path in self.paths(*best).values()]
        if not all(map(run.files.is_saved, kept)):
            return
        for best in self._best:
            for path in (*self.paths(*best).values(), *self._rounded_paths(*best)):
                if path not in kept:
                    run.files.remove(path)


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
