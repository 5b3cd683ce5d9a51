"""The command-line parser of all scripts."""

import argparse
from typing import Any, NoReturn

from common.errors import UserError


class Parser(argparse.ArgumentParser):
    """Reports wrong flags as a :class:`UserError`, and accepts no abbreviated flags.

    An abbreviation could become ambiguous, or change its meaning, when a flag is added.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")
