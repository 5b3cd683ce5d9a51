"""A made skeleton and motion, and the ASF and AMC files of them."""

import numpy as np

# Every bone that gives a joint, and "lowerback" and "lradius" between.
PARENTS = {
    "lhipjoint": "root", "lfemur": "lhipjoint", "ltibia": "lfemur",
    "rhipjoint": "root", "rfemur": "rhipjoint", "rtibia": "rfemur",
    "lowerback": "root", "upperback": "lowerback", "thorax": "upperback",
    "upperneck": "thorax", "head": "upperneck",
    "lclavicle": "thorax", "lhumerus": "lclavicle", "lradius": "lhumerus", "lwrist": "lradius",
    "rclavicle": "thorax", "rhumerus": "rclavicle", "rradius": "rhumerus", "rwrist": "rradius",
}  # fmt: skip
DOFS = {"lfemur": "rx ry rz", "ltibia": "rx", "rfemur": "rx ry rz", "rtibia": "rx",
        "lowerback": "rx ry rz", "lwrist": "ry", "rhumerus": "rz rx", "head": "rx rz"}  # fmt: skip
Skeleton = dict[str, tuple[np.ndarray, float, np.ndarray]]


def made_skeleton() -> Skeleton:
    """{bone: (direction, length, axis in degrees)}."""
    rng = np.random.default_rng(3)
    direction = rng.normal(size=(len(PARENTS), 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return {
        bone: (direction[i], rng.uniform(1, 8), rng.uniform(-90, 90, 3))
        for i, bone in enumerate(PARENTS)
    }


def made_motion(frames: int = 9) -> dict[str, np.ndarray]:
    """{bone: (frames, its angles in degrees)}; of the root, first the translation."""
    rng = np.random.default_rng(4)
    values = {"root": rng.normal(0, 20, (frames, 6))}
    return values | {b: rng.uniform(-90, 90, (frames, len(d.split()))) for b, d in DOFS.items()}


def asf_text(skeleton: Skeleton) -> str:
    lines = ["# made", ":version 1.10", ":units", "  mass 1.0", "  length 0.45", "  angle deg",
             ":root", "   order TX TY TZ RX RY RZ", "   axis XYZ", "   position 0 0 0",
             "   orientation 0 0 0", ":bonedata"]  # fmt: skip
    for number, (bone, (direction, length, axis)) in enumerate(skeleton.items()):
        lines += ["  begin", f"    id {number}", f"    name {bone}",
                  "    direction " + " ".join(map(repr, direction.tolist())),
                  f"    length {length!r}",
                  "    axis " + " ".join(map(repr, axis.tolist())) + "  XYZ"]  # fmt: skip
        if bone in DOFS:
            lines += [
                f"    dof {DOFS[bone]}",
                "    limits (-160.0 20.0)",
                "           (-70.0 70.0)",
            ]
        lines.append("  end")
    # Children before their parents: the order in a file is no promise.
    pairs = reversed(PARENTS.items())
    return "\n".join([*lines, ":hierarchy", "  begin", *(f"{p} {b}" for b, p in pairs), "  end"])


def amc_text(motion: dict[str, np.ndarray]) -> str:
    lines = ["#!OML:ASF X:\\f\xfcr Bonn\\made.ASF", ":FULLY-SPECIFIED", ":DEGREES"]
    for frame in range(len(motion["root"])):
        lines.append(str(frame + 1))
        lines += [f"{b} " + " ".join(map(repr, v[frame].tolist())) for b, v in motion.items()]
    return "\n".join(lines) + "\n"
