#!/usr/bin/env python
"""Keep of a checkpoint what a test and ``predict.py`` need, to share it.

    python tools/share_weights.py checkpoint/RUN/ckpt_last.pth.tar checkpoint/own_data.pth.tar

The weights, the form of the network, the settings of its training, the name of the data set and
the statistics of the training persons stay. What only a resumed run needs is left out: the state
of the optimiser, the weights before averaging and the random states. A quarter of the file remains.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common.start  # isort: split

from common.errors import run_script
from common.files import refuse_existing
from common.parser import Parser
from training.checkpoint import load_checkpoint, save_checkpoint

_KEPT = (
    "epoch", "chosen_by", "state_dict", "post_refine", "model", "dataset", "options", "persons",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Keep of a checkpoint what a test and predict.py need.")
    parser.add_argument("checkpoint", type=Path, help="of a run")
    parser.add_argument("output", type=Path, help="file to write")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    args = parser.parse_args(argv)
    refuse_existing([args.output], args.force, [args.checkpoint])
    found = load_checkpoint(args.checkpoint)
    save_checkpoint(args.output, {key: found[key] for key in _KEPT if key in found})
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    run_script(main)
