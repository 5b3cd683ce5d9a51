"""Every flag of the published scripts, as its users type it.

The tables are transcribed from the published code: spelling, default, and what another value is to
do here. None stands for a flag without a value.
"""

import pytest

import opt
from common.errors import UserError
from training.published_flags import INERT_FLAGS, warning_of_inert_flags
from training.run_flags import CALL_FLAGS
from training.settings import departures, settings_of

PARSERS = {"main_gcn": opt.parse_gcn, "main_graph": opt.parse_graph}
WORKS, WARNS, REFUSED = "works", "warns", "refused"
# flag, its published default, another value, what becomes of that
GROUND_TRUTH = (
    ("-d", "h36m", "hdm05", WORKS),
    ("--dataset", "h36m", "3dhp", WORKS),
    ("-k", "gt", "noisy", WORKS),
    ("--keypoints", "gt", "sh_ft_h36m", WORKS),
    ("-a", "*", "Sitting,Walking", WORKS),
    ("--actions", "*", "Sitting", WORKS),
    ("--evaluate", "", "CKPT", WORKS),
    ("-r", "", "CKPT", WORKS),
    ("--resume", "", "CKPT", WORKS),
    ("-c", "checkpoint", "elsewhere", WORKS),
    ("--checkpoint", "checkpoint", "elsewhere", WORKS),
    ("--snapshot", "5", "2", WORKS),
    ("-l", "4", "2", WORKS),
    ("--num_layers", "4", "3", WORKS),
    ("-z", "128", "64", WORKS),
    ("--hid_dim", "128", "256", WORKS),
    ("-b", "64", "32", WORKS),
    ("--batch_size", "64", "128", WORKS),
    ("-e", "50", "7", WORKS),
    ("--epochs", "50", "100", WORKS),
    ("--lamda", "0.1", "0.2", WORKS),
    ("--weight_L1_norm", "0.1", "0", WORKS),
    ("--num_workers", "8", "2", WARNS),
    ("--lr", "1.0e-3", "0.01", WORKS),
    ("--lr_decay", "100000", "5000", WORKS),
    ("--lr_gamma", "0.96", "0.5", WORKS),
    ("--no_max", None, None, WORKS),
    ("--non_local", None, None, WORKS),
    ("--dropout", "0.0", "0.1", WORKS),
    ("--downsample", "1", "2", WORKS),
)
DETECTED = (
    ("--dataset", "h36m", "hdm05", WORKS),
    ("-k", "cpn_ft_h36m_dbb", "noisy", WORKS),
    ("--keypoints", "cpn_ft_h36m_dbb", "gt", WORKS),
    ("--data_augmentation", "True", "False", WORKS),
    ("--test_augmentation", "True", "False", WORKS),
    ("--crop_uv", "0", "1", REFUSED),
    ("--root_path", "./dataset/", "elsewhere", WORKS),
    ("--cal_uvd", "True", "False", REFUSED),
    ("-a", "*", "Sitting", WORKS),
    ("--actions", "*", "Sitting", WORKS),
    ("--downsample", "1", "2", WORKS),
    ("--subset", "1", "0.5", REFUSED),
    ("-s", "1", "2", REFUSED),
    ("--stride", "1", "2", REFUSED),
    ("--reverse_augmentation", "False", "True", REFUSED),
    ("-l", "4", "2", WORKS),
    ("--num_layers", "4", "2", WORKS),
    ("--dropout", "0.2", "0", WORKS),
    ("-z", "384", "128", WORKS),
    ("--hid_dim", "384", "128", WORKS),
    ("-norm", "0.01", "0.1", WORKS),
    ("--norm", "0.01", "0.1", WORKS),
    ("--save_dir", "", "elsewhere", WORKS),
    ("--pro_train", "0", "1", WORKS),
    ("--pro_test", "1", "0", REFUSED),
    ("--nepoch", "30", "31", WORKS),  # published 31, which trains 30 there: see docs
    ("--batchSize", "256", "64", WORKS),
    ("--learning_rate", "5e-3", "1e-3", WORKS),
    ("--large_decay_epoch", "4", "2", WORKS),
    ("--sym_penalty", "0", "1", WORKS),
    ("--co_diff", "0", "1", REFUSED),
    ("--workers", "6", "2", WARNS),
    ("--weight_decay", "1e-4", "0.1", REFUSED),  # of SGD only
    ("--optimizer", "Adam", "SGD", WORKS),
    ("-lrd", "0.9", "0.8", WORKS),
    ("--lr_decay", "0.9", "0.8", WORKS),
    ("--save_skl", "False", "True", REFUSED),
    ("--pad", "0", "1", REFUSED),
    ("--show_protocol2", None, None, WORKS),
    ("--model_doc", "modulated_gcn", "st_gcn", REFUSED),
    ("--layout", "hm36_gt", "other", REFUSED),
    ("--strategy", "spatial", "uniform", REFUSED),
    ("--save_model", "0", "1", WORKS),
    ("--save_out_type", "xyz", "post", WORKS),
    ("--post_refine", None, None, WORKS),
    ("--module_gcn_reload", "0", "1", WORKS),
    ("--post_refine_reload", "0", "1", WORKS),
    ("--previous_dir", "./ckpt/module_256/", "elsewhere", WORKS),
    ("--module_gcn_model", "model_module_gcn_7_eva_post_4939.pth", "a.pth", WORKS),
    ("--post_refine_model", "model_post_refine_7_eva_post_4939.pth", "a.pth", WORKS),
    ("--n_joints", "17", "16", WORKS),
    ("--out_joints", "17", "16", REFUSED),
    ("--out_all", "True", "False", REFUSED),
    ("--in_channels", "2", "3", REFUSED),
    ("--out_channels", "3", "2", REFUSED),
    ("-previous_best_threshold", "inf", "50", REFUSED),
    ("-previous_module_gcn_name", "", "a.pth", REFUSED),
    ("-previous_post_refine_name", "", "a.pth", REFUSED),
)
ROWS = [("main_gcn", *row) for row in GROUND_TRUTH] + [("main_graph", *row) for row in DETECTED]
# A switch without a value turns something on; --save_out_type xyz is the published choice, ours
# follows the refinement.
DEPARTS = {"--save_out_type", "--post_refine", "--no_max", "--non_local"}


@pytest.mark.parametrize(("script", "flag", "default", "other", "outcome"), ROWS)
def test_a_published_flag(script, flag, default, other, outcome):
    parse = PARSERS[script]
    args = parse([flag] if default is None else [flag, default])
    assert warning_of_inert_flags(args, script) is None
    if flag not in DEPARTS:
        assert departures(settings_of(args), script) == {}
    given = [flag] if other is None else [flag, other]
    if outcome == REFUSED:
        with pytest.raises(UserError, match=flag.strip("-")) as caught:
            parse(given)
        assert "\n" not in str(caught.value)
        return
    args = parse(given)
    assert (warning_of_inert_flags(args, script) is not None) == (outcome == WARNS)
    if outcome == WORKS:
        usual = vars(parse([]))
        assert any(value != usual[key] for key, value in vars(args).items())


def test_the_tables_hold_every_flag_that_has_no_effect():
    for script, rows in (("main_gcn", GROUND_TRUTH), ("main_graph", DETECTED)):
        named = {row[0].lstrip("-") for row in rows}
        inert = {flag.dest for flag in INERT_FLAGS[script]}
        assert inert - {"gpu"} <= named  # --gpu is of related repositories
        assert not inert & {*CALL_FLAGS}


def test_true_and_false_mean_what_they_say():
    for text, value in (("True", True), ("False", False), ("1", True), ("0", False)):
        assert opt.parse_graph(["--data_augmentation", text]).data_augmentation is value
        assert opt.parse_graph(["--test_augmentation", text]).flip_test is value
        assert opt.parse_gcn(["--non_local", text]).non_local is value
    assert opt.parse_graph(["--no-non_local"]).non_local is False
    with pytest.raises(UserError, match="True or False expected, not 'yes'"):
        opt.parse_graph(["--data_augmentation", "yes"])
    with pytest.raises(UserError, match="--no-augment takes no value"):
        opt.parse_gcn(["--no-augment", "True"])


def test_the_published_commands_parse_without_a_word():
    for command in (
        "--pro_train 1 --save_model 1 --save_dir ./ckpt",
        "--post_refine --module_gcn_reload 1 --previous_dir ./ckpt/best_model --save_dir "
        "./ckpt_best_model --post_refine_reload 1 --nepoch 2 --show_protocol2",
    ):
        args = opt.parse_graph(command.split())
        assert warning_of_inert_flags(args, "main_graph") is None
