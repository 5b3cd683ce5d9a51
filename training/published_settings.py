"""The published settings of each script: what a run is compared with.

These tables are frozen. ``opt.py`` starts with the same values, but may be edited: an edited
default is then a departure from these. The folders of a sweep's runs are named after them as well,
so a new setting is added here with the value that leaves the method as it was. Modulated GCN's
settings stand here; a baseline's stand in its own file under ``models/``.
"""

from typing import Any

from models.build import DEFAULT, MODELS, model_class

_SHARED = {
    "dataset": "h36m",
    "actions": None,
    "downsample": 1,
    "num_layers": 4,
    "weight_modulation": True,
    "adj_modulation": "add",
    "rank": 4,
    "adj_symmetric": True,
    "decouple_self": True,
    "hops": 1,
    "adj_l1": 0.0,
    "norm_layer": "batch",
    "max_weight_norm": 0.0,
    "recipe": None,
    "camera_rays": False,
    "root_view": False,
    "tell_body": False,
    "tell_gravity": False,
    "tell_noise": False,
    "epoch_poses": 0,
    "augment": False,
    "bone_sigma": 0.05,
    "size_sigma": 0.03,
    "turn": 0.5,
    "tilt": 0.0,
    "keep_ground": False,
    "keypoint_shift": 0.0,
    "focal_sigma": 0.0,
    "optimizer": "adam",
    "weight_decay": None,
    "warmup": 0,
    "ema": 0.0,
    "amp": False,
    "tf32": False,
}
_PUBLISHED = {
    "main_gcn": _SHARED
    | {
        "keypoints": "gt",
        "joints": 16,
        "hid_dim": 128,
        "dropout": 0.0,
        "non_local": False,
        "modulation_init": "ones",
        "batch_size": 64,
        "epochs": 50,
        "lr": 1e-3,
        "loss": "mse",
        "weight_l1": 0.1,
        "schedule": "exponential",
        "lr_decay": 100_000,
        "lr_gamma": 0.96,
        "max_norm": 1.0,
        "flip_test": False,
    },
    "main_graph": _SHARED
    | {
        "keypoints": "cpn_ft_h36m_dbb",
        "joints": 17,
        "data_augmentation": True,
        "hid_dim": 384,
        "dropout": 0.2,
        "non_local": True,
        "modulation_init": "xavier",
        "batch_size": 256,
        "epochs": 30,
        "lr": 5e-3,
        "loss": "mpjpe",
        "weight_l1": 0.01,
        "schedule": "step",
        "lr_decay": 0.9,
        "large_decay_epoch": 4,
        "max_norm": 0.0,
        "flip_test": True,
        "post_refine": None,
        "root_depth": "gt",
        "network_symmetry": 0,
        "sym_weight": 0.01,
        "sym_signed": False,
        "save_out_type": None,
    },
}
SCRIPTS = tuple(_PUBLISHED)
# Settings of a baseline for main_gcn.py that main_graph.py has in another form.
_BY_STEPS = ("lr_decay", "lr_gamma")


def script_of(options: dict[str, Any]) -> str:
    """The script of a run's settings: "main_gcn" or "main_graph"."""
    return "main_graph" if "large_decay_epoch" in options else "main_gcn"


def published_settings(script: str, model: str) -> dict[str, Any]:
    """The settings with which a model was published, by the names of ``opt.py``'s tables.

    Args:
        script: of :data:`SCRIPTS`.
        model: a name in ``models.build.MODELS``; one that is not there has no settings of its own.
    """
    return _PUBLISHED[script] | baseline_settings(script, model)


def baseline_settings(script: str, model: str) -> dict[str, Any]:
    """The settings that a baseline declares in its own file; none for Modulated GCN."""
    declared = _declared(model, "PUBLISHED")
    if script == "main_gcn":
        return declared
    shared = {key: value for key, value in declared.items() if key not in _BY_STEPS}
    return shared | _declared(model, "PUBLISHED_DETECTED")


def _declared(model: str, attribute: str) -> dict[str, Any]:
    return getattr(model_class(model), attribute, {}) if model in MODELS else {}


# Settings that say nothing of the method, with the values that do not name a sweep's folder.
OTHER_SETTINGS = {
    "model": DEFAULT, "dataset_dir": None, "seed": 0, "snapshot": 5, "compile": False,
    "pro_train": 1, "save_model": 0, "save_dir": None, "previous_dir": "./ckpt/module_256/",
    "module_gcn_reload": 0, "module_gcn_model": None, "post_refine_reload": 0,
    "post_refine_model": None, "show_protocol2": False, "show_root": False,
}  # fmt: skip


def distinguishing_settings(script: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings by which runs of a script are told apart: equal ones are the same run.

    They are those that differ from the frozen tables, whatever the defaults in ``opt.py`` are. A
    setting that is added later leaves the earlier runs as they are.
    """
    usual = _PUBLISHED[script] | OTHER_SETTINGS
    found = {k: v for k, v in settings.items() if k not in usual or v != usual[k]}
    # Two corrections changed what is trained: runs from before them are other runs.
    if settings.get("non_local"):
        found["untrained_biases"] = "non_local"
    if settings.get("post_refine"):
        found["symmetry"] = "sum over pairs"
    return found
