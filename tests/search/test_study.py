"""The study: what counts, what is proposed, what becomes of trials that were put back or lost."""

import functools
import time
import warnings

import optuna
import pytest
from optuna.trial import TrialState
from search_run import open_study, small_space

from efficientnetv2.common.errors import UserError
from efficientnetv2.search.space import draw
from efficientnetv2.search.study import LIVES, SearchStudy, reason_of, suggest, twins

SPACE = small_space()


def asked(study, sampler="random", seed=0):
    trial = study.ask(sampler, seed)
    study.storage.record_heartbeat(trial._trial_id)
    draw(SPACE, functools.partial(suggest, trial))
    return trial


def proposals(study, sampler, seed, count):
    found = []
    for _ in range(count):
        trial = asked(study, sampler, seed)
        found.append(tuple(trial.params.items()))
        study.tell(trial, TrialState.COMPLETE, trial.params["stage1.kernel"] + trial.number, {})
    return found


@pytest.mark.parametrize("sampler", ["tpe", "random", "evolution"])
def test_what_is_drawn_follows_from_the_seed_and_goes_on_with_the_study(tmp_path, sampler):
    whole, other, parts = (open_study(tmp_path / name) for name in ("whole", "other", "parts"))
    expected = proposals(whole, sampler, 1, 13)
    assert len(set(expected)) > 1
    assert proposals(other, sampler, 2, 13) != expected
    begun = proposals(parts, sampler, 1, 6)
    parts.close()
    parts = open_study(tmp_path / "parts")
    assert begun + proposals(parts, sampler, 1, 7) == expected
    for study in (whole, other, parts):
        study.close()


def test_whole_numbers_at_equal_distances_have_an_order_for_the_sampler(study):
    trial = study.ask("random", 0)
    assert suggest(trial, "even", (1, 3, 5)) in (1, 3, 5)
    assert suggest(trial, "uneven", (1, 4, 6)) in (1, 4, 6)
    assert suggest(trial, "words", ("fused", "mbconv")) in ("fused", "mbconv")
    kinds = {name: type(one).__name__ for name, one in trial.distributions.items()}
    assert kinds == {
        "even": "IntDistribution",
        "uneven": "CategoricalDistribution",
        "words": "CategoricalDistribution",
    }


def test_other_settings_than_the_study_began_with_are_named(study):
    study.agree({"train.epochs": 3, "--search_space": {"name": "cifar"}})
    study.agree({"train.epochs": 3, "--search_space": {"name": "cifar"}})
    message = r"the study was begun with train.epochs=3 \(now 5\); give the same to go on"
    with pytest.raises(UserError, match=message):
        study.agree({"train.epochs": 5, "--search_space": {"name": "cifar"}})


def test_a_trial_that_was_put_back_is_the_next_one_with_its_values_and_reports(study):
    trial = asked(study)
    trial.report(0.3, 1)
    study.put_back(trial)
    assert [one.state for one in study.trials()] == [TrialState.WAITING]
    again = asked(study, seed=7)
    assert (again.number, again.params) == (trial.number, trial.params)
    assert study.reported(again) == {1}
    assert len(study.trials()) == 1


def test_a_lost_trial_is_tried_once_more_and_counts_once(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFICIENTNETV2_SEARCH_HEARTBEAT", "1")
    study = open_study(tmp_path)
    lost = asked(study)
    lost.set_user_attr("first", 0)
    with study.heartbeat(asked(study)):  # Of a worker that is alive.
        for life in range(2, LIVES + 1):
            time.sleep(5)
            study.fail_lost()
            waiting, running = sorted(study.trials(), key=lambda one: -one.number)
            assert (waiting.state, running.state) == (TrialState.WAITING, TrialState.RUNNING)
            assert waiting.user_attrs == {"first": 0, "continues": 0, "lives": life}
            again = asked(study, seed=life)
            assert again.params == lost.params
        time.sleep(5)
        study.fail_lost()
        states = [one.state for one in study.trials()]
        assert states == [TrialState.RUNNING, TrialState.FAIL]
    assert reason_of(study.trials()[1]) == f"lost: its workers ended, {LIVES} times"
    study.tell(again, TrialState.COMPLETE, 0.5, {"accuracy": 0.5})  # It was not lost after all.
    assert study.trials()[1].state == TrialState.FAIL
    study.close()


def test_twins_have_equal_values_and_trained_themselves(study):
    one = asked(study)
    for attrs in ({}, {"same_as": 0}, {"waits": True}, {"waits": False}):
        study.study.add_trial(
            optuna.create_trial(
                params=one.params, distributions=one.distributions, value=0.5, user_attrs=attrs
            )
        )
    assert [other.number for other in twins(study.trials(), one)] == [1, 4]


def test_a_storage_that_cannot_be_opened_is_one_line_without_the_password(tmp_path):
    lock = str(tmp_path / "lock")
    url = f"sqlite:///{tmp_path}/no/folder/study.db"
    with pytest.raises(UserError, match="cannot open --search_storage=sqlite:.*unable to open"):
        SearchStudy(url, "search", lock)
    with pytest.raises(UserError) as told:
        SearchStudy("nothing://me:secret@host/db", "search", lock)
    assert "secret" not in str(told.value)
    assert str(told.value).startswith("cannot open --search_storage=nothing://me:***@host/db: ")


def test_nothing_is_remarked_on(tmp_path):
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        study = open_study(tmp_path)
        trial = asked(study, "tpe")
        with study.heartbeat(trial):
            study.fail_lost()
        study.tell(trial, TrialState.COMPLETE, 0.5, {})
        study.close()
    assert [str(one.message) for one in remarks] == []
