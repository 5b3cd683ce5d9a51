"""A page to look at a clip in a browser: one HTML file that asks for nothing from anywhere.

The poses are in the page as 16-bit integers, and texts of files as JSON whose "<" are escaped. The
page shows them as text only, and its policy allows no script but its own, and no request.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from common.clip import Clip
from common.draw import FLOOR, TRUTH, bone_colours

_TEMPLATE = Path(__file__).with_name("viewer.html")
_LARGEST = 32767
_MISSING = -32768


def page(clip: Clip) -> str:
    """The text of the page."""
    before, script, after = _parts(_TEMPLATE.read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(_content(clip)).replace("<", "\\u003c")
    return before.replace("SCRIPT_HASH", digest).replace("CLIP_DATA", data) + script + after


def _parts(template: str) -> tuple[str, str, str]:
    """What stands before, in and after the script."""
    before, rest = template.split("<script>")
    script, after = rest.split("</script>")
    return f"{before}<script>", script, f"</script>{after}"


def _content(clip: Clip) -> dict[str, Any]:
    poses, truth = clip.standing()
    return {
        "title": clip.title,
        "fps": clip.fps,
        "frames": [clip.number(index) for index in range(len(clip))],
        "joints": list(clip.skeleton.names),
        "bones": clip.skeleton.bones(),
        "colours": bone_colours(clip.skeleton),
        "truth_colour": TRUTH,
        "floor_colour": FLOOR,
        "placed": clip.absolute is not None,
        "size": clip.size,
        "poses": packed(poses),
        "truth": None if truth is None else packed(truth),
        "keypoints": None if clip.keypoints is None else packed(clip.keypoints),
    }


def packed(values: np.ndarray) -> dict[str, Any]:
    """Numbers as little-endian 16-bit integers in base64, with the size of a step.

    What is not finite is -32768.
    """
    finite = np.isfinite(values)
    step = float(np.abs(values[finite]).max(initial=1e-6)) / _LARGEST
    whole = np.where(finite, np.rint(np.where(finite, values, 0) / step), _MISSING)
    data = base64.b64encode(whole.astype("<i2").tobytes()).decode()
    return {"data": data, "step": step, "width": values.shape[-1]}
