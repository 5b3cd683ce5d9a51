"""Optional packages, which only some scripts need."""

import importlib
from types import ModuleType

from common.errors import UserError

# Modules of the packages in requirements-export.txt.
_EXPORT = ("onnx", "onnxscript", "onnxruntime", "imageio_ffmpeg")


def require(module: str) -> ModuleType:
    """Import an optional package.

    Raises:
        UserError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = "-r requirements-export.txt" if module in _EXPORT else module
        raise UserError(f"{module} is needed for this: pip install {what}") from error
