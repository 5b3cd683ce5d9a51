"""JSON files that this program writes. It knows them again, and replaces no others."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_bytes

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
