"""The types of flags, which turn the text of a command line into a value; and their groups."""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

from common.parser import Parser


def _number(convert: Callable[[str], Any], accept: Callable[[Any], bool], what: str) -> Callable:
    def parse(text: str) -> Any:
        try:
            value = convert(text)
            if math.isfinite(value) and accept(value):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{what} expected, not {text!r}")

    return parse


natural = _number(int, lambda n: n >= 0, "a whole number from 0")
positive_int = _number(int, lambda n: n >= 1, "a whole number from 1")
even_int = _number(int, lambda n: n >= 2 and n % 2 == 0, "an even number from 2")
positive = _number(float, lambda x: x > 0, "a number above 0")
non_negative = _number(float, lambda x: x >= 0, "a number from 0")
finite = _number(float, lambda x: True, "a number")
share = _number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")
fraction = _number(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")


def names(text: str) -> list[str] | None:
    """ "a,b" -> ["a", "b"]; "*" stands for all of them, which is None."""
    return None if text == "*" else [name.strip() for name in text.split(",")]


def file_name(text: str) -> str:
    if not text or text in (".", "..") or "/" in text or "\\" in text:
        raise argparse.ArgumentTypeError(f"the name of a folder expected, not {text!r}")
    return text


def true_or_false(text: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"True or False expected, not {text!r}")
    return known[text.lower()]


class Switch(argparse.Action):
    """``--flag`` and ``--no-flag``, and, as published commands have it, ``--flag True|False``."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        turned_off = [f"--no-{name[2:]}" for name in option_strings if name.startswith("--")]
        options = {"nargs": "?", "type": true_or_false, "metavar": "True|False", **options}
        super().__init__([*option_strings, *turned_off], dest, **options)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: bool | None,
        option_string: str | None = None,
    ) -> None:
        if not option_string.startswith("--no-"):
            setattr(namespace, self.dest, True if values is None else values)
        elif values is None:
            setattr(namespace, self.dest, False)
        else:
            parser.error(f"{option_string} takes no value")


# Adds a flag to a group: names, then options of ``argparse.add_argument``.
Add = Callable[..., None]


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = "default" in (action.help or "") or action.default in (None, argparse.SUPPRESS)
        return action.help if said else super()._get_help_string(action)


def flag_groups(description: str, defaults: dict[str, Any]) -> tuple[Parser, Callable[[str], Add]]:
    """A parser, and a function that makes a group of flags: it gives the function that adds flags
    to the group, with the defaults of the table."""
    parser = Parser(description=description, formatter_class=_Help)
    parser.table = defaults

    def group(title: str) -> Add:
        of_title = parser.add_argument_group(title)

        def add(*flags: str, **options: Any) -> None:
            name = next(flag for flag in flags if flag.startswith("--")).removeprefix("--")
            default = defaults.get(options.get("dest", name))
            of_title.add_argument(*flags, **{"default": default, **options})

        return add

    return parser, group
