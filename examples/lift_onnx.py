"""Lift 2D joints with numpy and onnxruntime: python lift_onnx.py pose.onnx keypoints.npy W H [TOLD]

keypoints.npy is (T, J, 2), pixels, in the order of the joints that this program prints. The camera
is taken to see FOV degrees from left to right, if the network needs a camera. TOLD is an .npz file
of what is known of "proportions", "size", "up" and "screen_sigma", for each image or once for all.
"""

import json
import math
import sys

import numpy as np
import onnxruntime

FOV = 50.0
TOLD = ("proportions", "size", "up", "screen_sigma")


def main(model: str, keypoints: str, width: int, height: int, told: str = "") -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    print("joints:", ", ".join(json.loads(facts["joints"])))
    pixels = np.load(keypoints).astype(np.float32)
    inputs = {"keypoints": pixels * np.float32(2 / width) - np.float32([1, height / width])}
    if "intrinsics" in facts:
        focal = 1 / math.tan(math.radians(FOV) / 2)
        inputs["intrinsics"] = np.tile(np.float32([focal, focal] + 7 * [0]), (len(pixels), 1))
    known = np.load(told) if told else {}
    if other := set(known) - {item.name for item in session.get_inputs()}:
        sys.exit(f"error: {told}: {model} cannot be told {', '.join(sorted(other))}")
    for item in session.get_inputs():
        if item.name in TOLD:
            values = known.get(item.name, np.nan)
            shape = (len(pixels), *item.shape[1:])
            inputs[item.name] = np.broadcast_to(values, shape).astype(np.float32)
    (poses,) = session.run(None, inputs)
    print(f"{len(poses)} poses in {facts['unit']}; the first:\n{poses[0].round(3)}")
    return poses


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
