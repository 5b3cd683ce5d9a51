"""Lift 2D joints with numpy and onnxruntime: python lift_onnx.py pose.onnx keypoints.npy W H [TOLD]

keypoints.npy is (T, J, 2), pixels, in the order of the joints that are printed. TOLD is an .npz of
other inputs, of all images or each. An unknown camera sees 50 degrees from left to right."""

import json
import sys

import numpy as np
import onnxruntime


def main(model: str, keypoints: str, width: int, height: int, told: str = "") -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    print("joints:", ", ".join(json.loads(facts["joints"])))
    pixels, focal = np.load(keypoints), 1 / np.tan(np.radians(50) / 2)
    known = {"keypoints": pixels * 2 / width - [1, height / width]}
    known |= {"intrinsics": [focal, focal, *7 * [0]]} | dict(np.load(told) if told else {})
    shapes = {item.name: (len(pixels), *item.shape[1:]) for item in session.get_inputs()}
    if other := known.keys() - {*shapes, "intrinsics"}:
        sys.exit(f"error: {told}: {model} cannot be told {', '.join(sorted(other))}")
    given = {n: np.broadcast_to(np.float32(known.get(n, np.nan)), s) for n, s in shapes.items()}
    (poses,) = session.run(None, given)
    print(f"{len(poses)} poses in {facts['unit']}; the first:\n{poses[0].round(3)}")
    return poses


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
