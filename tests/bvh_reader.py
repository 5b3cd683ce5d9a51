"""A reader of BVH files that knows nothing of the writer: where each joint is in each frame."""

import numpy as np


def read_bvh(text: str) -> tuple[dict[str, np.ndarray], float]:
    """({joint: positions (T, 3)}, seconds a frame)."""
    words, stack, joints, channels = text.split(), [], [], []
    hierarchy = words[words.index("ROOT") : words.index("MOTION")]
    for place, word in enumerate(hierarchy):
        if word in ("ROOT", "JOINT"):
            parent = next((name for name in reversed(stack) if name), None)
            joints.append([hierarchy[place + 1], parent, None])
            stack.append(hierarchy[place + 1])
        elif word == "End":
            stack.append(None)
        elif word == "}":
            stack.pop()
        elif word == "OFFSET" and stack[-1]:
            joints[-1][2] = np.array(hierarchy[place + 1 : place + 4], dtype=float)
        elif word == "CHANNELS":
            count = int(hierarchy[place + 1])
            channels += [(stack[-1], name) for name in hierarchy[place + 2 : place + 2 + count]]
    motion = words[words.index("MOTION") :]
    frames, seconds = int(motion[2]), float(motion[5])
    values = np.array(motion[6:], dtype=float).reshape(frames, len(channels))
    found = []
    for row in values:
        place, turn = {}, {}
        for name, parent, offset in joints:
            moved, matrix = offset.copy(), np.eye(3)
            for (joint, channel), value in zip(channels, row, strict=True):
                if joint == name and channel.endswith("position"):
                    moved["XYZ".index(channel[0])] += value
                elif joint == name:
                    matrix = matrix @ _about("XYZ".index(channel[0]), np.radians(value))
            place[name] = place[parent] + turn[parent] @ moved if parent else moved
            turn[name] = turn[parent] @ matrix if parent else matrix
        found.append(place)
    return {name: np.array([place[name] for place in found]) for name, _, _ in joints}, seconds


def _about(axis: int, angle: float) -> np.ndarray:
    matrix, (i, j) = np.eye(3), [(1, 2), (2, 0), (0, 1)][axis]
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[j, i], matrix[i, j] = np.sin(angle), -np.sin(angle)
    return matrix
