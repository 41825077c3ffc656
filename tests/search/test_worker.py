"""Workers on a study, with fake trials: budgets, stops, kills, failures, and values that recur."""

import json
import os
import signal

import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from search_run import lives, make_worker, open_study, small_space, wait_until

from efficientnetv2.common.errors import UserError
from efficientnetv2.search.study import Budget, parse_budget, reason_of

COMPLETE = TrialState.COMPLETE


def states(study) -> list[str]:
    return [trial.state.name.lower() for trial in study.trials()]


def evaluations(directory, folder) -> list[int]:
    with open(directory / "trials" / folder / "metrics.jsonl") as file:
        return [json.loads(line)["step"] for line in file]


def test_a_budget_is_trials_or_a_time():
    assert parse_budget("40") == Budget(trials=40)
    assert parse_budget("2h") == Budget(seconds=7200)
    assert parse_budget("1.5m") == Budget(seconds=90)
    assert parse_budget("30s") == Budget(seconds=30)
    for text in ("", "2 h", "-3", "1.5", "2d"):
        with pytest.raises(UserError, match="--search_budget must be trials or a time, 40 or 2h"):
            parse_budget(text)


def test_a_search_ends_with_its_budget_and_goes_on_with_a_larger_one(tmp_path, study, capsys):
    space = small_space(kernels=(3, 5, 7, 9))
    assert make_worker(tmp_path, study, "2", space).run()
    assert states(study) == ["complete"] * 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [["1/2", "trial 0"], ["2/2", "trial 1"]]
    assert "top-1 0.5300" in lines[0] and "best 0." in lines[0] and "left 0:00:" in lines[0]
    assert make_worker(tmp_path, study, "2", space).run()
    assert make_worker(tmp_path, study, "3", space).run()
    assert states(study) == ["complete"] * 3
    assert make_worker(tmp_path, study, "0s", space).run()
    assert len(study.trials()) == 3


def test_the_reward_is_of_the_last_evaluation_and_the_costs_beside_the_baselines(tmp_path, study):
    make_worker(tmp_path, study, "1", small_space(kernels=(5, 3))).run()
    [trial] = study.trials()
    known = trial.user_attrs
    kernel = trial.params["stage1.kernel"]
    assert known["accuracy"] == pytest.approx(0.53)
    assert (known["parameters"], known["step_seconds"]) == (1000 * kernel, 0.1 * kernel / 3)
    steps = known["step_seconds"] / known["baseline_step_seconds"]
    sizes = known["parameters"] / known["baseline_parameters"]
    assert trial.value == pytest.approx(0.53 * steps**-0.07 * sizes**-0.05)
    assert list(trial.intermediate_values) == [1, 2, 3]


@pytest.mark.parametrize("ends", ["killed", "diverged", "memory"])
def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(tmp_path, study, capsys, ends):
    space = small_space(kernels=(3, 5))
    options = (f"ends={ends}",)
    assert make_worker(tmp_path, study, "8", space, options=options).run()
    failed = [one for one in study.trials() if one.state == TrialState.FAIL]
    assert len(study.trials()) == 8
    assert {one.params["stage1.kernel"] for one in failed} == {5}
    starts = {"memory": "out of memory: "}.get(ends, f"{ends}: ")
    assert all(reason_of(one).startswith(starts) for one in failed)
    assert {one.state for one in study.trials()} == {TrialState.FAIL, COMPLETE}
    assert f"failed  {starts}" in capsys.readouterr().out


def test_where_the_first_trials_fail_alike_the_search_ends(tmp_path, study):
    space = small_space(kernels=(5,), repeats=(1, 2, 3, 4))
    worker = make_worker(tmp_path, study, "9", space, options=("ends=crash",))
    message = "the first 3 trials failed, the last one error: no such folder of images; .*log.txt"
    with pytest.raises(UserError, match=message):
        worker.run()
    assert states(study) == ["fail"] * 3


def test_values_that_recur_are_not_trained_again(tmp_path, study, capsys):
    space = small_space(kernels=(3, 5), kinds=("fused",), repeats=(1,))
    make_worker(tmp_path, study, "6", space).run()
    trials = study.trials()
    assert [one.state for one in trials] == [COMPLETE] * 6
    trained = {
        one.params["stage1.kernel"]: one for one in trials if not one.user_attrs.get("same_as")
    }
    assert len(lives(tmp_path)) == 2 == len(trained)
    for one in trials:
        origin = trained.get(one.params["stage1.kernel"], one)
        assert one.value == origin.value
        assert one.user_attrs["accuracy"] == origin.user_attrs["accuracy"]
    assert capsys.readouterr().out.count("the same as trial") == 4


def test_a_trial_that_is_behind_is_pruned_after_a_few_evaluations(tmp_path, study, capsys):
    space = small_space(kernels=(3,), repeats=tuple(range(1, 30)))
    options = ("good=5", "evaluations=40", "pace=0.03")
    make_worker(tmp_path, study, "7", space, options=options).run()
    assert states(study) == ["complete"] * 5 + ["pruned"] * 2
    for one in study.trials()[5:]:
        assert 2 <= len(evaluations(tmp_path, f"{one.number:04d}")) < 40
        assert one.user_attrs["accuracy"] < 0.6
    assert "pruned at reward 0.1" in capsys.readouterr().out


def test_of_trials_that_have_ended_no_weights_are_kept(tmp_path, study):
    left = {"ckpt-3.index", "ckpt-3.data-00000-of-00001", "checkpoint"}
    worker = make_worker(tmp_path, study, "1")
    folder = tmp_path / "trials" / "0000"
    (folder / "best").mkdir(parents=True)
    for name in (*left, "best/ckpt-3.index", "config.yaml"):
        (folder / name).write_text("")
    assert worker.run()
    found = {path.name for path in folder.iterdir()}
    assert found & {*left, "best"} == set()
    assert {"config.yaml", "metrics.jsonl", "log.txt"} <= found


def test_a_trial_that_somebody_else_stops_goes_on(tmp_path, start):
    """As where a scheduler sends SIGTERM to all processes, and to this one last."""
    go = tmp_path / "go"
    worker = start(tmp_path, "1", "3,5,7,9", f"hold={go}")
    wait_until(lambda: any(lives(tmp_path).values()))
    wait_until(lambda: (tmp_path / "trials" / "0000" / "metrics.jsonl").exists())
    os.kill(lives(tmp_path)["0000"][0][0], signal.SIGTERM)
    wait_until(lambda: len(lives(tmp_path)["0000"]) == 2)
    go.touch()
    assert worker.wait(60) == 0
    assert evaluations(tmp_path, "0000") == [1, 2, 3]
    log = (tmp_path / "worker.log").read_text().splitlines()
    assert [line.split("  ")[0] for line in log] == ["1/1"]


def test_a_second_interrupt_ends_at_once_and_the_trial_can_go_on(tmp_path, start):
    worker = start(tmp_path, "1", "3,5,7,9", f"hold={tmp_path}/go", "deaf=1")
    wait_until(lambda: any(lives(tmp_path).values()))
    wait_until(lambda: (tmp_path / "trials" / "0000" / "metrics.jsonl").exists())
    worker.send_signal(signal.SIGINT)
    wait_until(lambda: "once more: at once" in (tmp_path / "worker.log").read_text())
    worker.send_signal(signal.SIGINT)
    worker.wait(60)
    [[(process, _)]] = lives(tmp_path).values()
    assert not os.path.exists(f"/proc/{process}")
    (tmp_path / "go").touch()
    worker = start(tmp_path, "1", "3,5,7,9")
    assert worker.wait(120) == 0
    assert evaluations(tmp_path, "0000") == [1, 2, 3]


def test_a_storage_that_fails_is_one_line(tmp_path, study, monkeypatch):
    worker = make_worker(tmp_path, study, "1")

    def fails():
        raise StorageInternalError("the disk\nis full")

    monkeypatch.setattr(study, "fail_lost", fails)
    with pytest.raises(UserError, match="the study's storage failed: the disk is full; the same"):
        worker.run()


def test_a_trial_that_has_done_all_its_evaluations_is_complete_however_far_behind(tmp_path, study):
    space = small_space(kernels=(3,), repeats=tuple(range(1, 30)))
    make_worker(
        tmp_path, study, "7", space, options=("good=5", "evaluations=2", "linger=0.5")
    ).run()
    assert states(study) == ["complete"] * 7


def test_of_two_workers_one_is_killed_and_no_trial_is_lost_or_run_twice(tmp_path, start):
    go = tmp_path / "go"
    options = (f"hold={go}", "evaluations=4")
    both = [start(tmp_path, "6", "3,5,7,9", *options) for _ in range(2)]
    wait_until(lambda: {pid for [(_, pid)] in lives(tmp_path).values()} == {w.pid for w in both})
    killed, survivor = both
    [folder] = [name for name, [(_, pid)] in lives(tmp_path).items() if pid == killed.pid]
    wait_until(lambda: (tmp_path / "trials" / folder / "metrics.jsonl").exists())
    killed.kill()
    killed.wait()
    go.touch()
    assert survivor.wait(120) == 0, (tmp_path / "worker.log").read_text()
    study = open_study(tmp_path)
    assert states(study) == ["complete"] * 6
    assert len(study.study.get_trials()) == 7  # The lost attempt, which counts no longer.
    own = [one for one in study.trials() if "same_as" not in one.user_attrs]
    assert sorted(f"{one.user_attrs['first']:04d}" for one in own) == sorted(lives(tmp_path))
    for name, times in lives(tmp_path).items():
        assert len(times) == (2 if name == folder else 1)
        assert evaluations(tmp_path, name) == [1, 2, 3, 4]
    study.close()


def test_a_search_that_is_stopped_goes_on_with_its_trial(tmp_path, start):
    go = tmp_path / "go"
    worker = start(tmp_path, "3", "3,5,7,9", f"hold={go}")
    wait_until(lambda: (tmp_path / "trials" / "0000" / "metrics.jsonl").exists())
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 75
    study = open_study(tmp_path)
    assert states(study) == ["waiting"]
    go.touch()
    worker = start(tmp_path, "3", "3,5,7,9", f"hold={go}")
    assert worker.wait(120) == 0, (tmp_path / "worker.log").read_text()
    assert states(study) == ["complete"] * 3
    assert len(study.study.get_trials()) == 3
    assert len(lives(tmp_path)["0000"]) == 2
    assert evaluations(tmp_path, "0000") == [1, 2, 3]
    study.close()


def test_two_workers_never_train_the_same_values_at_once(tmp_path, start):
    go = tmp_path / "go"
    both = [start(tmp_path, "2", "3", f"hold={go}") for _ in range(2)]
    study = open_study(tmp_path)
    wait_until(lambda: {one.user_attrs.get("waits") for one in study.trials()} == {None, True})
    wait_until(lambda: any(lives(tmp_path).values()))
    [[(process, owner)]] = lives(tmp_path).values()
    [first, waiting] = sorted(both, key=lambda one: one.pid != owner)
    first.kill()  # Then the other one must not wait for ever.
    first.wait()
    wait_until(lambda: len(study.study.get_trials()) == 3)
    go.touch()
    assert waiting.wait(120) == 0, (tmp_path / "worker.log").read_text()
    assert states(study) == ["complete"] * 2
    assert sum("same_as" in one.user_attrs for one in study.trials()) == 1
    study.close()


def test_a_worker_that_was_thought_lost_leaves_the_trial_to_the_other_one(tmp_path, study):
    """As after a long sleep of its machine."""
    worker = make_worker(tmp_path, study, "1", options=("evaluations=4", "pace=0.2"))
    reported = study.reported

    def lose_it(trial):
        if not os.path.exists(tmp_path / "lost"):
            (tmp_path / "lost").touch()
            study.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        return reported(trial)

    study.reported = lose_it
    assert worker.run()
    assert states(study) == ["fail"]
    [[(process, _)]] = lives(tmp_path).values()
    assert not os.path.exists(f"/proc/{process}")
