"""What is shared of a checkpoint gives the same figures and poses, and is smaller."""

import main_gcn
from tests.conftest import SLICE
from tools import share_weights


def test_shared_weights_are_tested_as_the_whole_checkpoint(call, tmp_path):
    flags = ["--recipe", "person", "--epochs", 1, "--warmup", 1, "--ema", "0.5"]
    status, _, err = call(main_gcn.main, *SLICE, *flags, "-c", tmp_path, "--name", "run")
    assert (status, err) == (0, "")
    whole, shared = tmp_path / "run/ckpt_last.pth.tar", tmp_path / "shared.pth.tar"
    assert call(share_weights.main, whole, shared)[0] == 0
    assert shared.stat().st_size < 0.6 * whole.stat().st_size
    outs = [call(main_gcn.main, *SLICE, "--evaluate", path)[:2] for path in (whole, shared)]
    tables = [out[out.index("Action") :] for _, out in outs]
    assert [status for status, _ in outs] == [0, 0] and tables[0] == tables[1]
    status, _, err = call(share_weights.main, whole, shared)
    assert status == 2 and "--force" in err
