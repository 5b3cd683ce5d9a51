import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from common.errors import UserError
from models.build import build_model
from training.checkpoint import check_model, load_checkpoint, load_weights, save_checkpoint


def published(model, **changes) -> dict:
    """The form of the published ground-truth checkpoint."""
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 16, 2)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 50, "lr": 8.8e-4, "step": 310_000, "error": np.float64(38.25),
        "state_dict": model.state_dict(), "optimizer": optimizer.state_dict(),
    }  # fmt: skip
    return content | changes


def save_as_from_gpu(content, path, monkeypatch, **options) -> None:
    """Save with every tensor's place written as the first GPU, as the published file has it."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(content, path, **options)
    assert b"cuda:0" in path.read_bytes()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("numpy_module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_published_checkpoint_saved_from_a_gpu_loads_on_a_cpu(
    tmp_path, monkeypatch, zipped, numpy_module
):
    model = build_model({"joints": 16})
    path = tmp_path / "ckpt_Modulated_GCN_128_38.25_30.06.pth.tar"
    save_as_from_gpu(published(model), path, monkeypatch, _use_new_zipfile_serialization=zipped)
    rename_numpy(path, zipped, numpy_module)
    found = load_checkpoint(path)
    assert found["epoch"] == 50 and float(found["error"]) == 38.25
    assert found["model"] == {
        "joints": 16, "hid_dim": 128, "num_layers": 4, "in_dim": 2, "out_dim": 3,
        "non_local": None, "name": "mgcn",
    }  # fmt: skip
    fresh = build_model({"joints": 16})
    load_weights(path, fresh, found["state_dict"])
    x = torch.randn(3, 16, 2)
    assert torch.equal(fresh.eval()(x), model.eval()(x))


def rename_numpy(path, zipped, module: bytes) -> None:
    """Numpy 1 and 2 name their pickled scalars differently; make the file say ``module``."""
    ours = b"numpy._core.multiarray"
    if not zipped:
        path.write_bytes(path.read_bytes().replace(b"c" + ours + b"\n", b"c" + module + b"\n"))
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"c" + ours + b"\n", b"c" + module + b"\n"))


@pytest.mark.parametrize("non_local", [None, "grouped", "embedded"])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_bare_state_dict_is_described_by_its_shapes(tmp_path, non_local, layers):
    arguments = {"joints": 16, "hid_dim": 12, "num_layers": layers, "non_local": non_local}
    weights = build_model(arguments).state_dict()
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, tmp_path / "a.pth")
    found = load_checkpoint(tmp_path / "a.pth")
    assert found["model"] == arguments | {"in_dim": 2, "out_dim": 3, "name": "mgcn"}
    load_weights("a.pth", build_model(arguments), found["state_dict"])


def test_differences_are_named_with_their_remedy():
    found = {"joints": 17, "hid_dim": 64, "num_layers": 3, "non_local": "grouped"}
    wanted = {"joints": 16, "hid_dim": 128, "num_layers": 4, "non_local": None}
    with pytest.raises(UserError) as caught:
        check_model("a.pth", found, wanted)
    for text in ("a.pth", "joints 17, not 16", "--joints 17", "--hid_dim 64", "--num_layers 3",
                 "--non_local"):  # fmt: skip
        assert text in str(caught.value)
    check_model("a.pth", found, dict(found))


class Attack:
    def __init__(self, proof) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


def test_a_malicious_checkpoint_is_refused_and_not_executed(tmp_path):
    proof = tmp_path / "executed"
    torch.save({"state_dict": Attack(proof)}, tmp_path / "zip.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"state_dict": Attack(proof)}))
    for name in ("zip.pth", "pickle.pth"):
        with pytest.raises(UserError, match="nothing in it was executed"):
            load_checkpoint(tmp_path / name)
    assert not proof.exists()


def test_other_files_are_named(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        load_checkpoint(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "text.pth")
    for content in (torch.zeros(3), {"state_dict": [1]}, {"a": 1}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(UserError, match="no state dict"):
            load_checkpoint(tmp_path / "other.pth")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(UserError, match="no Modulated GCN"):
        load_checkpoint(tmp_path / "linear.pth")
    torch.save(published(build_model({"joints": 16}), epoch="fifty"), tmp_path / "typed.pth")
    with pytest.raises(UserError, match="its epoch is 'fifty', not a whole number"):
        load_checkpoint(tmp_path / "typed.pth")


def test_truncated_checkpoints_are_refused(tmp_path):
    save_checkpoint(tmp_path / "a.pth", {"state_dict": build_model({"joints": 16}).state_dict()})
    whole = (tmp_path / "a.pth").read_bytes()
    for part in (0.1, 0.5, 0.99):
        (tmp_path / "b.pth").write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(UserError, match="not a checkpoint"):
            load_checkpoint(tmp_path / "b.pth")


def test_weights_that_do_not_fit_or_are_not_numbers_are_refused():
    model = build_model({"joints": 16, "hid_dim": 8})
    weights = model.state_dict()
    with pytest.raises(UserError, match="does not fit"):
        load_weights("a.pth", build_model({"joints": 17, "hid_dim": 8}), weights)
    weights["gconv_output.M"][0, 0] = torch.nan
    with pytest.raises(UserError, match="finite numbers"):
        load_weights("a.pth", model, weights)


def test_weights_with_names_of_a_network_and_other_shapes_are_refused(tmp_path):
    martinez = ("w1.weight", "w2.weight", "batch_norm1.weight")
    for names in (martinez, ("expand_conv.weight", "shrink.weight")):
        torch.save({name: torch.zeros(3) for name in names}, tmp_path / "a.pth")
        with pytest.raises(UserError, match="no Modulated GCN, nor a baseline"):
            load_checkpoint(tmp_path / "a.pth")
