"""What a run was computed with."""

import json
import subprocess

import keras
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.training import environment as module
from efficientnetv2.training.environment import save_environment, saved_environments


def test_versions_devices_and_processor():
    facts = module.environment()
    assert facts["TensorFlow"] == tf.__version__
    assert facts["Keras"] == keras.__version__
    assert "CPU" in facts["devices"]
    assert int(facts["cores"]) >= 1
    assert all(isinstance(value, str) and value for value in facts.values())


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_and_whether_files_differ_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ROOT", str(tmp_path))
    assert "commit" not in module.environment()
    git(tmp_path, "init", "-q")
    assert "commit" not in module.environment()  # There is none yet.
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    commit = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert module.environment()["commit"] == commit
    (tmp_path / "a").write_text("2")
    assert module.environment()["commit"] == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert "commit" not in module.environment()


def test_a_run_remembers_each_environment_once(tmp_path, monkeypatch):
    run = str(tmp_path)
    assert saved_environments(run) == []
    save_environment(run)
    save_environment(run)
    [first] = saved_environments(run)
    assert first == module.environment()
    monkeypatch.setattr(module, "environment", lambda: {"Python": "4"})
    save_environment(run)
    assert saved_environments(run) == [first, {"Python": "4"}]
    assert json.loads((tmp_path / "environment.json").read_text()) == [first, {"Python": "4"}]
    with pytest.raises(UserError, match="cannot write .*environment.json: No such file"):
        save_environment(str(tmp_path / "nowhere"))
