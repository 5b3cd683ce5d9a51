"""The types of flags, which turn the text of a command line into a value; and their groups."""

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any

from common.parser import Parser

_MOST = 1e30  # of any number: float32 ends at 3.4e38
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # line breaks and other controls


def _wrong(expected: str, text: str) -> argparse.ArgumentTypeError:
    shown = repr(text) if len(text) <= 40 else f"{text[:40]!r}..."
    return argparse.ArgumentTypeError(f"{expected} expected, not {shown}")


def _number(convert: Callable[[str], Any], accept: Callable[[Any], bool], what: str) -> Callable:
    def parse(text: str) -> Any:
        try:
            value = convert(text)  # int refuses some thousands of digits by a ValueError too
            if accept(value) and abs(value) <= _MOST:
                return value
        except ValueError:
            pass
        raise _wrong(what, text)

    return parse


def whole(least: int, most: int = 10**9) -> Callable[[str], int]:
    """The type of whole numbers from ``least`` to ``most``."""
    what = f"a whole number from {least} to {most:,}"
    return _number(int, lambda n: least <= n <= most, what)


natural = whole(0)
positive_int = whole(1)
# Each process of an epoch draws from (seed * 1,000,003 + epoch) * 1,000,003 + rank, below 2^64.
seed = whole(0, 2**24 - 1)
channels = _number(
    int, lambda n: 2 <= n <= 10**6 and n % 2 == 0, "an even number from 2 to 1,000,000"
)
positive = _number(float, lambda x: x > 0, f"a number above 0, at most {_MOST:g},")
non_negative = _number(float, lambda x: x >= 0, f"a number from 0 to {_MOST:g}")
finite = _number(float, lambda x: True, f"a number from -{_MOST:g} to {_MOST:g}")
share = _number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")
fraction = _number(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")


def one_line(text: str) -> str:
    """A name or a path: a line break in it is a mistake of a script, and would split a message."""
    if _CONTROL.search(text):
        raise _wrong("a text without line breaks and control characters", text)
    return text


def names(text: str) -> list[str] | None:
    """ "a,b" -> ["a", "b"]; "*" stands for all of them, which is None."""
    return None if text == "*" else [name.strip() for name in one_line(text).split(",")]


def file_name(text: str) -> str:
    if not text or text in (".", "..") or "/" in text or "\\" in text:
        raise _wrong("the name of a folder", text)
    return one_line(text)


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
