"""A study on a database server, PostgreSQL: workers of two hosts, and a server that goes away."""

import pytest
from optuna.trial import TrialState
from postgres_server import PostgresServer
from search_run import lives, open_study, wait_until

from efficientnetv2.common.errors import UserError


@pytest.fixture(scope="module")
def postgres():
    server = PostgresServer()
    server.start()
    yield server
    server.stop()
    server.remove()


@pytest.fixture
def server(postgres, monkeypatch):
    """The server as the storage of every study of the test."""
    monkeypatch.setenv("SEARCH_RUN_STORAGE", postgres.url)
    return postgres


def test_of_the_workers_of_two_hosts_one_is_killed_and_no_trial_is_lost(tmp_path, server, start):
    go = tmp_path / "go"
    hosts = [tmp_path / name / "killed-host" for name in ("one", "two")]
    killed, survivor = (start(host, "6", "3,5,7,9", f"hold={go}") for host in hosts)
    wait_until(lambda: all(list(host.glob("trials/*/metrics.jsonl")) for host in hosts))
    [folder] = lives(hosts[0])
    killed.kill()
    killed.wait()
    go.touch()
    assert survivor.wait(120) == 0, (hosts[1] / "worker.log").read_text()
    study = open_study(hosts[1])
    trials = study.trials()
    assert {one.state for one in trials} == {TrialState.COMPLETE}
    assert len(trials) == 6
    assert len(study.study.get_trials()) == 7
    own = [one for one in trials if "same_as" not in one.user_attrs]
    trained = lives(hosts[1])
    assert folder in trained
    assert sorted(f"{one.user_attrs['first']:04d}" for one in own) == sorted(trained)
    assert {len(times) for times in trained.values()} == {1}
    study.close()


def test_a_server_that_ends_ends_the_search_in_one_line_and_it_can_go_on(tmp_path, server, start):
    go = tmp_path / "go"
    directory = tmp_path / "lost-server"
    worker = start(directory, "3", "3,5,7,9", f"hold={go}")
    wait_until(lambda: list(directory.glob("trials/*/metrics.jsonl")))
    server.stop()
    go.touch()
    try:
        assert worker.wait(120) != 0
    finally:
        server.start()
    log = (directory / "worker.log").read_text()
    assert "UserError: the study's storage failed: " in log
    assert log.rstrip().endswith("; the same command resumes it")
    worker = start(directory, "3", "3,5,7,9")
    assert worker.wait(120) == 0, (directory / "worker.log").read_text()
    study = open_study(directory)
    assert [one.state for one in study.trials()] == [TrialState.COMPLETE] * 3
    study.close()


def test_a_server_that_was_started_again_meanwhile_goes_unnoticed(tmp_path, server):
    study = open_study(tmp_path / "idle")
    assert study.trials() == []
    server.stop()
    server.start()
    assert study.trials() == []
    study.close()


def test_what_a_server_refuses_is_one_line(tmp_path, server, monkeypatch):
    monkeypatch.setenv("SEARCH_RUN_STORAGE", f"{server.url}-of-somebody")
    with pytest.raises(UserError, match=r'^cannot open .* database "postgres-of-somebody" does'):
        open_study(tmp_path)
