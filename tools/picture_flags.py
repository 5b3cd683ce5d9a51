"""The flags of the tools that draw one picture of the docs."""

from collections.abc import Sequence
from pathlib import Path

from common.files import refuse_existing
from common.parser import Parser
from common.visualize import check_picture_name


def picture_of_call(description: str, usual: Path, argv: Sequence[str] | None) -> Path:
    """The picture that a call asks for.

    Args:
        description: of the tool, for ``--help``.
        usual: the picture where none is named.

    Raises:
        UserError: its name is that of no picture, or it is there and --force is not given.
    """
    parser = Parser(description=description)
    parser.add_argument("-o", "--out", metavar="FILE", default=str(usual), help="image file")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    args = parser.parse_args(argv)
    check_picture_name("--out", args.out)
    refuse_existing([Path(args.out)], args.force)
    return Path(args.out)
