"""The library call of a search, with fake trials: results, silence, stops, and bad arguments."""

import functools
import os
import signal
import threading

import pytest
from search_run import fake_command, small_space, wait_until

import efficientnetv2 as effnet
from efficientnetv2.search import worker
from efficientnetv2.search.trial import TrialJob

SPACE = small_space(kernels=(3, 5, 7))


@pytest.fixture
def config():
    return effnet.get_config(None, "shapes", "train.epochs=3")


@pytest.fixture
def fake_trials(monkeypatch):
    """Trials are fake from now on, with these options."""

    def use(*options):
        command = functools.partial(fake_command, options=options)
        monkeypatch.setattr(worker, "trial_command", command)

    use()
    return use


def test_a_search_returns_its_results_and_prints_nothing(tmp_path, config, fake_trials, capfd):
    directory = str(tmp_path / "study")
    result = effnet.search(SPACE, config, directory, budget="3", sampler="random")
    assert sum(result["trials"].values()) == 3
    assert result["page"] == f"{directory}/search.html"
    assert effnet.get_config(result["best"], "shapes").model.model_name == result["best"]
    assert result["reward"] > 0
    assert len(result["pareto"]) >= 1
    assert capfd.readouterr() == ("", "")
    assert effnet.search(SPACE, config, directory, budget="0", sampler="random") == result
    more = effnet.search(SPACE, config, directory, budget=4, sampler="random", verbose=True)
    assert sum(more["trials"].values()) == 4
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("4/4  trial 3")
    assert f"--model_name={more['best']} " in lines[lines.index("train them:") + 1]


def test_the_model_of_the_config_and_the_end_of_its_runs_are_not_those_of_trials(
    tmp_path, fake_trials
):
    settings = {"model.model_name": "efficientnetv2-s", "train.epochs": 3, "eval.at_end": True}
    config = effnet.get_config(overrides=settings)
    effnet.search(SPACE, config, str(tmp_path), budget="1", strategy="one", tpu="name")
    [file] = (tmp_path / "trials" / "0000").glob("job-*.json")
    job = TrialJob.load(str(file))
    assert job.overrides == {"train.epochs": 3, "eval.at_end": False}
    assert (job.strategy, job.tpu) == ("one", "name")
    trained = job.config()
    assert trained.model.model_name == f"{tmp_path}/trials/0000.json"
    plain = effnet.get_config(job.spec, "shapes", job.overrides)
    assert trained == plain
    assert trained.eval.isize != config.eval.isize  # Which is the one of S.


def test_a_search_that_is_asked_to_stop_saves_and_resumes(tmp_path, config, fake_trials):
    metrics = tmp_path / "trials" / "0000" / "metrics.jsonl"

    def stop():
        wait_until(metrics.exists)
        os.kill(os.getpid(), signal.SIGTERM)

    fake_trials("hold=/nowhere/there")
    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(effnet.SearchStopped) as stopped:
        effnet.search(SPACE, config, str(tmp_path), budget="1")
    thread.join()
    assert stopped.value.result["best"] is None
    assert stopped.value.result["trials"] == {"complete": 0, "pruned": 0, "fail": 0, "same": 0}
    fake_trials()
    assert effnet.search(SPACE, config, str(tmp_path), budget="1")["trials"]["complete"] == 1
    assert len(metrics.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"space": "cifer"}, "unknown search space 'cifer'; did you mean 'cifar'?"),
        ({"budget": "soon"}, "--search_budget must be trials or a time, 40 or 2h or 90m, got 'soo"),
        ({"sampler": "tpa"}, "unknown sampler 'tpa'; did you mean 'tpe'?"),
        ({"seed": -1}, "seed must be a whole number from 0, got -1"),
        ({"directory": ""}, "directory must be the path of a file or directory, got ''"),
        ({"directory": "/dev/null/x"}, "cannot make --model_dir=/dev/null/x: Not a directory"),
        ({"strategy": object()}, "strategy must be a name: each trial is a process of its own"),
        ({"storage": "nothing://x"}, "cannot open --search_storage=nothing://x: "),
        ({"config": "efficientnetv2-s"}, "config must come from get_config"),
        ({"config": effnet.Config()}, "config must come from get_config"),
        (
            {"config": effnet.get_config(overrides="model.depth_coefficient=2")},
            "model.depth_coefficient would change each network of the space; drop it",
        ),
        (
            {"config": effnet.get_config(overrides="data.multiclass=true")},
            "a search needs one label for each image; drop data.multiclass=True",
        ),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, config, capfd, arguments, message):
    given = {"space": SPACE, "config": config, "directory": str(tmp_path / "study"), **arguments}
    with pytest.raises(effnet.UserError) as error:
        effnet.search(**given)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "study" / "trials").exists()


def test_other_settings_than_the_study_began_with_are_refused(tmp_path, config, fake_trials):
    effnet.search(SPACE, config, str(tmp_path), budget="1")
    other = effnet.with_values(config, train__epochs=4)
    with pytest.raises(effnet.UserError, match=r"begun with train.epochs=3 \(now 4\)"):
        effnet.search(SPACE, other, str(tmp_path), budget="2")
    elsewhere = effnet.with_values(config, runtime__log_step_count_steps=7, data__data_dir="other")
    effnet.search(SPACE, elsewhere, str(tmp_path), budget="1")  # Of a host, not of the study.
