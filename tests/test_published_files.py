"""Weights under published names."""

import pytest
import torch

from training.published_files import ModelFiles
from training.run_folder import RunDescription, RunFolder


def test_errors_in_saved_names_are_truncated(tmp_path):
    files = ModelFiles(tmp_path, "xyz", {"state_dict": torch.nn.Linear(1, 1)})
    for error, said in ((49.399, 4939), (49.391, 4939), (38.0, 3800), (0.29, 28)):
        path = files.paths(7, error)["state_dict"]
        assert path.name == f"model_module_gcn_7_eva_xyz_{said}.pth"


@pytest.mark.parametrize("saved", [4939, 4940])
def test_a_resumed_run_replaces_its_file_under_either_name(tmp_path, saved):
    """4940 is how earlier versions, which rounded, named an error of 49.396 mm."""
    networks = {"state_dict": torch.nn.Linear(1, 1), "post_refine": torch.nn.Linear(1, 1)}
    names = ("model_module_gcn_", "model_post_refine_")
    for name in names:
        for tail in (f"7_eva_post_{saved}.pth", "6_eva_post_4939.pth", "7_eva_post_4941.pth"):
            (tmp_path / f"{name}{tail}").touch()
    run = RunFolder.create(tmp_path, "run", RunDescription({}, {}, {}), snapshot=0)
    files = ModelFiles(tmp_path, "post", networks)
    run.best = {"epoch": 7, "mpjpe_mm": 49.396}
    files.restore(run)
    run.best = {"epoch": 8, "mpjpe_mm": 48.0}
    files.keep_best(run, is_new=True)
    left = {path.name for path in tmp_path.glob("*.pth")}
    tails = ("6_eva_post_4939.pth", "7_eva_post_4941.pth", "8_eva_post_4800.pth")
    assert left == {name + tail for name in names for tail in tails}
