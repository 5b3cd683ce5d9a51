#!/usr/bin/env python
"""Write a trained network for other programs: as ONNX, or as a program of torch.export (.pt2).

    python tools/export.py CKPT -o pose.onnx
    python tools/export.py CKPT -o pose.pt2 --no-flip_test --unit mm

The file takes any number of poses at once. It computes what predict.py computes: the form of the
input, the network, the mean with the mirrored twin where the checkpoint's run was tested so, and
the refinement where there is one. Its results are compared with torch's before it is kept.
``docs/deploy.md`` describes inputs and outputs; the file's metadata do so too. ``pip install -r
requirements-export.txt`` installs what ONNX needs.

A network that can be told a body, where up is, or how exact the keypoints are has inputs for them:
NaN says "not known".
"""

import argparse
import copy
import json
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

import numpy as np
import torch
from torch import Tensor, nn

from common.camera import project, world_to_camera
from common.errors import UserError, run_script
from common.extras import require
from common.files import atomic_write, check_writable, refuse_existing
from common.metrics import root_centred
from common.parser import Parser
from common.person import Known, proportions_and_size
from data.cameras import h36m_cameras
from tools.made_bodies import made_motion
from training.lifter import Lifter, load_lifter

TOLERANCE = 1e-5  # metres
_UNITS = {"m": 1.0, "mm": 1000.0}
_BATCHES = (64, 1, 2)  # sizes that are compared
_SCREEN = "u = 2 x / w - 1 and v = 2 y / w - h / w of pixels x, y in an image w wide and h high"
_CAMERA = (
    "fx, fy, cx, cy, k1, k2, k3, p1, p2: focal lengths 2 f / w, principal point as the keypoints, "
    "radial and tangential distortion (zeros for none)"
)
_TOLD = {
    "proportions": "(batch, {bones}) float32: for joints 1 to {bones} the length of the bone that "
    "ends there over the mean length of all bones, left and right alike",
    "size": "(batch,) float32: the mean length of all bones of the person, metres",
    "up": "(batch, 3) float32: the upward direction in camera space, a unit vector; (0, -1, 0) if "
    "the camera is level",
    "screen_sigma": "(batch,) float32: the standard deviation of the keypoints along u and v; 0 "
    "for exact ones",
}
_OPTIONAL = "; optional: NaN in the whole row of a pose says that it is not known"


class Program(nn.Module):
    """What the file computes.

    Attributes:
        with_view: the input is 2D joints and not the form in which the network takes them.
        scale: from metres to the unit of the output.
    """

    def __init__(self, lifter: Lifter, with_view: bool, scale: float) -> None:
        super().__init__()
        self.tested, self.with_view, self.scale = lifter, with_view, scale
        copies = copy.deepcopy(lifter.networks())
        self.networks = nn.ModuleList(copies.values())  # makes them its parts
        self.lifter = lifter.with_networks(copies)
        for module in self.modules():
            if hasattr(module, "fast"):  # that form has weights of its own for each joint: 1 MB
                module.fast = False  # a layer to be read, which one pose waits for

    @property
    def takes_intrinsics(self) -> bool:
        uses = self.lifter.input_view.uses_intrinsics or self.lifter.post_refine is not None
        return self.with_view and uses

    @property
    def told_names(self) -> tuple[str, ...]:
        """The inputs, of those of ``Known``, that the file has."""
        told = self.lifter.told
        names = ("proportions", "size") * told.body + ("up",) * told.gravity
        names += ("screen_sigma",) * told.noise
        return names if self.with_view else ()

    def forward(
        self,
        keypoints: Tensor,
        intrinsics: Tensor | None = None,
        proportions: Tensor | None = None,
        size: Tensor | None = None,
        up: Tensor | None = None,
        screen_sigma: Tensor | None = None,
    ) -> Tensor:
        """(B, J, 2 or in_dim), (B, 9) where it is used, and the values of ``Known`` -> poses
        (B, J, 3), root at zero."""
        known = Known(proportions, size, up, screen_sigma)
        return self._poses(self.lifter, keypoints, intrinsics, known)

    def expected(
        self, keypoints: Tensor, intrinsics: Tensor | None = None, **told: Tensor
    ) -> Tensor:
        """The same from the network as it is tested."""
        return self._poses(self.tested, keypoints, intrinsics, Known(**told))

    def _poses(
        self, lifter: Lifter, keypoints: Tensor, intrinsics: Tensor | None, known: Known
    ) -> Tensor:
        if not self.with_view:
            return self.scale * root_centred(lifter.network(keypoints))
        pose = lifter.lift(keypoints, intrinsics, known)
        if lifter.post_refine is not None:
            pose = lifter.refine_at(pose, keypoints, intrinsics, depth=None)
        return self.scale * root_centred(pose)

    def metadata(self, source: Path, unit: str) -> dict[str, str]:
        """What somebody who has only the file needs to know."""
        skeleton, lifter = self.lifter.skeleton, self.lifter
        seen = _SCREEN if self.with_view else f"as {lifter.input_view} and {lifter.told} give it"
        space = "the space of the input" if not self.with_view else "camera space"
        facts = {
            "joints": json.dumps(skeleton.names),
            "parents": json.dumps(skeleton.parents),
            "keypoints": f"(batch, {skeleton.num_joints}, {self.channels}) float32: {seen}",
            "poses": f"(batch, {skeleton.num_joints}, 3) float32, {unit}, relative to joint 0; "
            f"{space}: x right, y down, z forward",
            "unit": unit,
            "flip_test": json.dumps(self.with_view and self.lifter.flip_test),
            "refined": json.dumps(self.lifter.post_refine is not None),
            "checkpoint": source.name,
        }
        if self.takes_intrinsics:
            facts["intrinsics"] = f"(batch, 9) float32: {_CAMERA}"
        bones = skeleton.num_joints - 1
        return facts | {n: _TOLD[n].format(bones=bones) + _OPTIONAL for n in self.told_names}

    @property
    def channels(self) -> int:
        return 2 if self.with_view else self.lifter.in_dim

    def inputs(self, count: int = _BATCHES[0]) -> dict[str, Tensor]:
        """Made people before Human3.6M's cameras, whose lenses distort, as the file takes them.
        All is told of the first, nothing of the second, and some of most others."""
        rng, parts, skeleton = np.random.default_rng(0), [], self.lifter.skeleton
        for camera in h36m_cameras("S9"):
            world = made_motion(rng, _BATCHES[0] // 4)[:, list(skeleton.stored)]
            points = torch.from_numpy(world).double()
            points = world_to_camera(points, camera.rotation, camera.translation)
            intrinsics = camera.intrinsics.expand(len(points), 9)
            told = (*proportions_and_size(points, skeleton), camera.up.repeat(len(points), 1))
            sigma = torch.linspace(0, 0.03, len(points))
            parts.append((project(points, intrinsics), intrinsics, *told, sigma))
        screen, intrinsics, *told = (torch.cat(p)[:count].float() for p in zip(*parts, strict=True))
        for values, turn in zip(told, (2, 3, 5, 7), strict=True):
            values[1::turn] = torch.nan
        known = dict(zip(_TOLD, told, strict=True))
        if not self.with_view:
            return {"keypoints": self.lifter.network_input(screen, intrinsics, Known(**known))[0]}
        camera = {"intrinsics": intrinsics} if self.takes_intrinsics else {}
        return {"keypoints": screen} | camera | {name: known[name] for name in self.told_names}


def _arguments(inputs: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Inputs -> those given by their place, and those given by name."""
    placed = tuple(value for name, value in inputs.items() if name not in _TOLD)
    return placed, {name: value for name, value in inputs.items() if name in _TOLD}


def write_onnx(path: Path, program: Program, metadata: dict[str, str]) -> None:
    """Write a program as ONNX."""
    for module in ("onnx", "onnxscript", "onnxruntime"):  # before the seconds that it takes
        require(module)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # packages that it does not find
    placed, named = _arguments(inputs := program.inputs())
    names = {"input_names": [*inputs], "output_names": ["poses"]}
    options = {"kwargs": named, "dynamic_shapes": _dynamic(inputs)} | names
    written = torch.onnx.export(
        program, placed, dynamo=True, verbose=False, external_data=False, **options
    )
    written.model.metadata_props.update(metadata)
    written.save(path)


def _dynamic(inputs: dict[str, Tensor]) -> dict[str, dict[int, torch.export.Dim]]:
    """What the exporters are told of the shapes: the batch may have any size."""
    return {name: {0: torch.export.Dim("batch")} for name in inputs}


def onnx_results(path: Path) -> Callable[..., Tensor]:
    """The function that an ONNX file computes, with as many threads as torch has."""
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def results(*placed: Tensor, **named: Tensor) -> Tensor:
        inputs = dict(zip(names, placed, strict=False)) | named
        given = {name: value.numpy() for name, value in inputs.items()}
        return torch.from_numpy(session.run(None, given)[0])

    return results


def write_pt2(path: Path, program: Program, metadata: dict[str, str]) -> None:
    """Write a program of torch.export."""
    arguments, dynamic = _arguments(inputs := program.inputs()), _dynamic(inputs)
    exported = torch.export.export(program, *arguments, dynamic_shapes=dynamic, strict=False)
    torch.export.save(exported, path, extra_files={"metadata.json": json.dumps(metadata)})


def pt2_results(path: Path) -> Callable[..., Tensor]:
    """The function that a program of torch.export computes."""
    return torch.export.load(path).module()


_FORMATS = {".onnx": (write_onnx, onnx_results), ".pt2": (write_pt2, pt2_results)}


@torch.no_grad()
def export(path: Path, program: Program, metadata: dict[str, str]) -> float:
    """Write a program, load it again, and compare.

    Returns:
        The largest difference from torch in metres.

    Raises:
        UserError: it is above ``TOLERANCE`` (and nothing is kept), a package is missing, or the
            file cannot be written.
    """
    write, results_of = _FORMATS[path.suffix]
    program.eval()
    with atomic_write(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about themselves
        write(partial, program, metadata)
        results, largest = results_of(partial), []
        for size in _BATCHES:
            placed, named = _arguments(program.inputs(size))
            difference = results(*placed, **named) - program.expected(*placed, **named)
            errors = difference.abs() / program.scale
            largest.append(errors.max())
        difference = float(torch.stack(largest).max())  # NaN if one is
        if not difference <= TOLERANCE:
            raise UserError(
                f"the exported network differs from torch's by {1000 * difference:.4f} mm, more "
                f"than {1000 * TOLERANCE:g} mm: {path} is not written"
            )
    return difference


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    source, out = Path(args.checkpoint), Path(args.out)
    refuse_existing([out], args.force, [source])
    check_writable(out.parent)
    refined = args.post_refine if args.input_view else False
    lifter = load_lifter(source, args.flip_test, refined)
    program = Program(lifter, args.input_view, _UNITS[args.unit])
    metadata = program.metadata(source, args.unit)
    difference = export(out, program, metadata)
    for key, value in metadata.items():
        print(f"{key}: {value}")
    print(f"{out}: as torch within {1000 * difference:.6f} mm, batches of {_BATCHES}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="CKPT", help="our checkpoint, a published one, or a "
                        "folder of model files")  # fmt: skip
    parser.add_argument("-o", "--out", metavar="FILE", required=True, help=".onnx or .pt2")
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--input_view", action=switch, default=True, help="take 2D joints; else "
                        "the network's own input, and give its own output")  # fmt: skip
    parser.add_argument("--flip_test", action=switch, default=None, help="average with the "
                        "mirrored twin (default: as the checkpoint's run was tested)")  # fmt: skip
    parser.add_argument("--post_refine", action=switch, default=None, help="refine, with the "
                        "root's depth estimated (default: if there is a refinement)")  # fmt: skip
    parser.add_argument("--unit", choices=[*_UNITS], default="m", help="of the poses")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    args = parser.parse_args(argv)
    if Path(args.out).suffix not in _FORMATS:
        raise UserError(f"--out {args.out}: give a name that ends in {' or '.join(_FORMATS)}")
    if not args.input_view and (args.flip_test or args.post_refine):
        raise UserError("--flip_test and --post_refine need the 2D joints: leave out "
                        "--no-input_view")  # fmt: skip
    return args


if __name__ == "__main__":
    run_script(main)
