#!/usr/bin/env python
"""Change the code in one place at a time, and check that its tests notice.

    python tools/mutants.py                          # 30 mutants of each file of TESTS
    python tools/mutants.py common/camera.py --all   # every mutant of one file

A mutant is a file with one change: another operator, number, comparison, condition or order of
arguments, or a call or statement left out. Its tests run in a copy of the repository. A mutant that
they do not notice is alive, and a test is missing; or it computes the same, and :data:`EQUIVALENT`
says why. Which mutants run depends on their text only: unchanged code keeps its mutants.
"""

import argparse
import ast
import compileall
import copy
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from py_compile import PycInvalidationMode
from queue import SimpleQueue

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

from common.errors import UserError, run_script
from common.parser import Parser
from common.progress import follow

ROOT = Path(__file__).resolve().parents[1]
# The tests of each file, the quickest first.
TESTS = {
    "common/metrics.py": ("test_metrics",),
    "common/camera.py": ("test_camera", "test_input_view", "test_augment", "test_pose_refine"),
    "common/input_view.py": ("test_input_view",),
    "common/skeleton.py": ("test_skeleton",),
    "data/augment.py": ("test_augment",),
    "data/pose_dataset.py": (
        "test_pose_dataset", "test_augment", "test_check_data", "test_limits", "test_distributed",
        "test_shifts", "test_told",
    ),
    "training/lifter.py": (
        "test_lifter", "test_ray_fit", "test_predict", "test_main_graph", "test_given",
        "test_other_cameras", "test_told",
    ),
}  # fmt: skip
# {file: {"line -> changed line": why no test can notice}}, the lines as ast.unparse writes them.
_SYMMETRIC = "the distance from prediction to target is that from target to prediction"
_NEWTON = (
    "only where the iteration starts or ends: it converges to the same root, since the polynomial "
    "is convex above 1 and its slope is positive there, and 12 iterations are more than it needs"
)
_RANDOM = "other random numbers of the same distribution"
EQUIVALENT = {
    "common/metrics.py": {
        "return _share_within(pred, target, (threshold,)) -> "
        "return _share_within(target, pred, (threshold,))": _SYMMETRIC,
        "return _share_within(pred, target, AUC_THRESHOLDS) -> "
        "return _share_within(target, pred, AUC_THRESHOLDS)": _SYMMETRIC,
        "root = (norm + 2 * (3 * cofactor_norm).sqrt()).sqrt() -> "
        "root = (norm + 2 * (3 * cofactor_norm)).sqrt()": _NEWTON,
        "for _ in range(12): -> for _ in range(13):": _NEWTON,
        "inaccurate = ~(z.flatten() > _MIN_Z) -> inaccurate = ~(z.flatten() >= _MIN_Z)":
            "at the limit itself both ways of computing the rotation are exact",
    },
    "data/augment.py": {
        "side = torch.linalg.cross(up, torch.randn_like(up)) -> "
        "side = torch.linalg.cross(torch.randn_like(up), up)": _RANDOM,
        "angle = math.pi * (2 * torch.rand(len(up), device=up.device) - 1) -> "
        "angle = math.pi * (2 * torch.rand(len(up), device=up.device) - 2)": _RANDOM,
        "rotation = rotation_about(side, angle) @ rotation -> "
        "rotation = rotation @ rotation_about(side, angle)": _RANDOM,
        "scale = torch.exp(self.bone_sigma * bone + self.size_sigma * size) -> "
        "scale = torch.exp(self.bone_sigma * bone - self.size_sigma * size)": _RANDOM,
    },
}  # fmt: skip

_OTHER = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.Mod: ast.Mult, ast.FloorDiv: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot,
    ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
_BOUNDARY = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}


@dataclass(frozen=True)
class Mutant:
    """A file with one change.

    Attributes:
        path: relative to the repository.
        line: of the change in the file.
        change: "line -> changed line".
        source: the whole changed file.
    """

    path: str
    line: int
    change: str
    source: str


def changed_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What can stand in the place of a node of the syntax tree: copies with one change each."""
    match node:
        case ast.BinOp(op=ast.MatMult()):
            yield ast.BinOp(node.right, node.op, node.left)
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in _OTHER:
            yield _with(node, op=_OTHER[type(op)]())
        case ast.Compare(ops=[op, *rest]):
            for table in (_OTHER, _BOUNDARY):
                if type(op) in table:
                    yield _with(node, ops=[table[type(op)](), *rest])
        case ast.UnaryOp() if not isinstance(node.operand, ast.Constant):  # -1 becomes -2
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1 if isinstance(value, int) else 2 * value or 1.0)
        case ast.If(test=test) | ast.IfExp(test=test) if not isinstance(
            test, ast.UnaryOp | ast.Compare
        ):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Attribute(attr="mT"):
            yield node.value
        case ast.Call(func=func, args=args):
            if isinstance(func, ast.Attribute) and not isinstance(func.value, ast.Name):
                yield func.value
            if len(args) > 1 and ast.unparse(func) not in ("max", "min"):
                yield _with(node, args=[args[1], args[0], *args[2:]])
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()


def _with(node: ast.AST, **fields: object) -> ast.AST:
    """A copy of a node with other fields."""
    return type(node)(**dict(ast.iter_fields(node)) | fields)


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """The children whose change matters, at any depth: parent, field, index in a list field.

    Annotations, decorators, texts and the arguments of an exception do not matter.
    """
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "exc"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield node, name, index
                yield from _places(child)


def mutants(path: str, source: str) -> list[Mutant]:
    """All mutants of a file, in an order that depends on the text of each only."""
    tree = ast.parse(source)
    before, found = ast.unparse(tree).splitlines(), []
    for parent, name, index in _places(tree):
        holder, key = (vars(parent), name) if index is None else (getattr(parent, name), index)
        node = holder[key]
        for changed in changed_nodes(node):
            holder[key] = ast.fix_missing_locations(ast.copy_location(copy.deepcopy(changed), node))
            text = ast.unparse(tree)
            holder[key] = node
            pairs = zip(before, text.splitlines(), strict=False)
            for old, new in [pair for pair in pairs if pair[0] != pair[1]][:1]:
                change = f"{old.strip()} -> {new.strip()}"
                found.append(Mutant(path, node.lineno, change, text))
    return sorted(found, key=lambda m: hashlib.sha256(f"{m.path}{m.change}".encode()).digest())


def verdict(mutant: Mutant, copies: SimpleQueue, limit: float) -> str:
    """Run the tests of a mutant's file: "caught", "alive" or "equivalent" (then nothing runs).

    Args:
        copies: folders with a copy of the repository that nobody uses now.
        limit: seconds after which a mutant counts as caught.
    """
    if mutant.change in EQUIVALENT.get(mutant.path, {}):
        return "equivalent"
    folder = copies.get()
    original = (folder / mutant.path).read_text(encoding="utf-8")
    tests = [f"tests/{name}.py" for name in TESTS[mutant.path]]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    # A mutant's bytecode is not kept, and bytecode is known by its source, not by time and size.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        (folder / mutant.path).write_text(mutant.source, encoding="utf-8")
        run = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, timeout=limit, check=False
        )
        return "caught" if run.returncode else "alive"
    except subprocess.TimeoutExpired:
        return "caught"
    finally:
        (folder / mutant.path).write_text(original, encoding="utf-8")
        copies.put(folder)


def copy_repository(folder: Path) -> Path:
    """Copy what git tracks, as it is now, and compile it."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, names.stdout.decode().split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    compileall.compile_dir(folder, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(TESTS)}")
    parser.add_argument("--count", type=int, default=30, help="mutants of each file (%(default)s)")
    parser.add_argument("--all", action="store_true", help="all mutants of each file")
    parser.add_argument("--jobs", type=int, default=2, help="at the same time (%(default)s)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds each (%(default)s)")
    args = parser.parse_args(argv)
    if unknown := set(args.files) - TESTS.keys():
        raise UserError(f"{', '.join(sorted(unknown))}: no tests known, add them to TESTS")
    chosen, counts = [], Counter()
    for path in args.files or TESTS:
        found = mutants(path, (ROOT / path).read_text(encoding="utf-8"))
        chosen += found if args.all else found[: args.count]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(args.jobs) as pool:
        copies = SimpleQueue()
        for number in range(args.jobs):
            copies.put(copy_repository(Path(scratch) / str(number)))
        run = partial(verdict, copies=copies, limit=args.limit)
        results = zip(chosen, pool.map(run, chosen), strict=True)
        for mutant, result in follow(results, "mutants", len(chosen), "mutant"):
            counts[result] += 1
            if result != "caught":
                print(f"{result}: {mutant.path}:{mutant.line}: {mutant.change}", flush=True)
    print(
        f"mutants: {len(chosen)} run, {counts['caught']} caught, "
        f"{counts['equivalent']} equivalent, {counts['alive']} alive"
    )
    raise SystemExit(bool(counts["alive"]))


if __name__ == "__main__":
    run_script(main)
