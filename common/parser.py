"""The parser of every script's flags."""

import argparse
from typing import NoReturn

from common.errors import UserError


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the flags in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")
