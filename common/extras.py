"""Optional packages, which only some scripts need."""

import importlib
from types import ModuleType

from common.errors import UserError


def require(module: str) -> ModuleType:
    """Import an optional package.

    Raises:
        UserError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{module} is needed for this: pip install {module}") from error
