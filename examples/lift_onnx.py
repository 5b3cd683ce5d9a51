"""Lift 2D joints with numpy and onnxruntime: python lift_onnx.py pose.onnx keypoints.npy W H [TOLD]

keypoints.npy: (T, J, 2) pixels; joints must be in the printed order. TOLD: .npz of other inputs."""

import sys
from os.path import isfile

import numpy as np
import onnxruntime


def main(model: str, keypoints: str, width: float, height: float, told: str = "") -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    pixels, focal = np.load(keypoints), 1 / np.tan(np.radians(50) / 2)  # of an unknown camera
    shapes = {item.name: (len(pixels), *item.shape[1:]) for item in session.get_inputs()}
    if pixels.shape != shapes["keypoints"]:
        sys.exit(f"error: {keypoints}: {pixels.shape}, not (T, J, 2) of {facts['joints']}")
    known = {"keypoints": pixels * 2 / float(width) - [1, float(height) / float(width)]}
    known |= {"intrinsics": [focal, focal, *7 * [0]]} | dict(np.load(told) if told else {})
    if other := known.keys() - {*shapes, "intrinsics"}:
        sys.exit(f"error: {told}: {model} cannot be told {', '.join(sorted(other))}")
    given = {n: np.broadcast_to(np.float32(known.get(n, np.nan)), s) for n, s in shapes.items()}
    (poses,) = session.run(None, given)
    print(f"{facts['joints']}\n{len(poses)} poses in {facts['unit']}, first:\n{poses[0].round(3)}")
    return poses


if __name__ == "__main__":
    main(*sys.argv[1:]) if sys.argv[4:] and all(map(isfile, sys.argv[1:3])) else sys.exit(__doc__)
