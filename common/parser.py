"""The parser of every script's flags."""

import argparse
from typing import Any, NoReturn

from common.errors import UserError


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the flags in one line; takes no abbreviations, since a flag to come
    would change what they mean."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")
