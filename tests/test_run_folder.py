"""The folder of a run."""

from training.run_folder import RunDescription, RunFolder


def test_runs_that_start_in_one_second_get_folders_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr("time.strftime", lambda form: "now")
    empty = RunDescription({}, {}, {})
    folders = [RunFolder.create(tmp_path, None, empty, 0).folder.name for _ in range(3)]
    assert folders == ["now", "now_2", "now_3"]
