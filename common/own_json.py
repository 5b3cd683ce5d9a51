"""JSON files that this program writes. It knows them again, and replaces no others."""

import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import os_errors_as_user_errors, write_bytes

_MARK = "made_by"


def to_json(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    write_bytes(path, to_json(content))


def marked(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """The content of a file of this kind, "results" for one, with the mark of this program."""
    return {_MARK: f"modulated-gcn {kind}", **content}


def read_marked(path: Path, kind: str) -> dict[str, Any]:
    """The content of a file of this kind, see :func:`marked`.

    Raises:
        UserError: it cannot be read, is damaged, or is no such file.
    """
    content = None
    with os_errors_as_user_errors(f"read {path}"):
        raw = path.read_bytes()
    with suppress(ValueError, RecursionError):
        content = json.loads(raw)
    if not isinstance(content, dict) or content.get(_MARK) != marked(kind, {})[_MARK]:
        raise UserError(f"{path} is no {kind} file of this program, or damaged: give another one")
    return content


def refuse_other_json(path: Path, kind: str, keys_before: Collection[str]) -> None:
    """Refuse to replace a file that is not one of ours of this kind.

    Args:
        keys_before: that files of this kind have, also those of before there was a mark.

    Raises:
        UserError: there is such a file, or something else of that name.
    """
    if not (path.exists() or path.is_symlink()):
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        content = None
    ours = isinstance(content, dict) and set(keys_before) <= content.keys()
    if not ours or content.get(_MARK) not in (None, *marked(kind, {}).values()):
        raise UserError(f"{path} is there and is no {kind} file of this program: give another name")
