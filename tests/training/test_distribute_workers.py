"""Several processes train one run: what each reads and writes, and that it is as of one."""

import json
import os
import signal

import numpy as np
import pytest
import tensorflow as tf
import worker_run

from efficientnetv2.common.errors import UserError
from efficientnetv2.training.distribute import AGREE_EVERY, Workers, split_rows
from efficientnetv2.training.signals import StopRequested, StopSignals

TOLERANCE = 1e-5  # Of float32 numbers, summed in another order.
# BatchNorm's moving variance in one process may have Bessel's correction, N / (N - 1), which no
# other has: N is at least 8 x 6 x 6. Nothing of training depends on it, but evaluations do.
VARIANCE_TOLERANCE = 1 / 287


def of_several(monkeypatch, index, values):
    """The worker `index` of two, where those gather `values`."""
    workers = Workers(tf.distribute.get_strategy())
    workers.index, workers.count = index, 2
    monkeypatch.setattr(workers, "gathered", lambda value: values)
    return workers


class TestOneProcess:
    workers = Workers(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))

    def test_reads_all_rows_and_writes_and_talks(self, capsys):
        assert self.workers.shard == (0, 1)
        assert self.workers.is_chief
        assert self.workers.folder("run") == "run"
        self.workers.stream.write("text")
        assert capsys.readouterr().out == "text"

    def test_agrees_with_itself(self):
        assert self.workers.gathered(7) == [7]
        self.workers.check_same("steps", 7)
        for step in range(2 * AGREE_EVERY):
            assert self.workers.all_stop(step, True)
            assert not self.workers.all_stop(step, False)

    def test_breaks_off_at_once(self):
        with StopSignals() as signals, pytest.raises(StopRequested):  # noqa: SIM117
            with self.workers.breaking_off(signals):
                os.kill(os.getpid(), signal.SIGTERM)
                raise RuntimeError("went on")


class TestAnotherWorker:
    def test_writes_to_a_folder_of_its_own_and_is_silent(self, monkeypatch, tmp_path, capsys):
        workers = of_several(monkeypatch, 1, [0, 0])
        assert workers.shard == (1, 2)
        assert not workers.is_chief
        folder = workers.folder(str(tmp_path))
        assert folder != str(tmp_path)
        assert os.path.isdir(folder)
        workers.stream.write("text")
        assert not workers.stream.isatty()
        assert capsys.readouterr().out == ""

    def test_stops_when_one_of_them_was_asked_to(self, monkeypatch):
        asked, quiet = (of_several(monkeypatch, 1, values) for values in ([1, 0], [0, 0]))
        stops = [step for step in range(1, 2 * AGREE_EVERY + 1) if asked.all_stop(step, False)]
        assert stops == [AGREE_EVERY, 2 * AGREE_EVERY]
        assert not any(quiet.all_stop(step, False) for step in range(2 * AGREE_EVERY))

    def test_breaks_off_between_batches(self, monkeypatch):
        workers, signals = of_several(monkeypatch, 1, [1, 0]), StopSignals()
        workers.between(0)  # Nobody asked to be told.
        signals.requested = True
        with workers.breaking_off(signals):
            workers.between(1)
            with pytest.raises(StopRequested):
                workers.between(AGREE_EVERY)

    def test_another_checkpoint_is_a_user_error(self, monkeypatch):
        workers = of_several(monkeypatch, 1, [8, 0])
        with pytest.raises(UserError, match="different last checkpoints: 8, 0; --model_dir must"):
            workers.check_same("last checkpoints", 0)

    def test_the_end_of_another_is_told_in_one_line(self, monkeypatch):
        workers = of_several(monkeypatch, 0, [0, 0])
        text = "node\nCollective ops is aborted by: task 1 has crashed\nThe error could be"
        line = r"^another worker has ended \(task 1 has crashed\); see"
        with pytest.raises(UserError, match=line), workers.lost_told():
            raise tf.errors.UnavailableError(None, None, text)
        with pytest.raises(tf.errors.UnavailableError), workers.lost_told():
            raise tf.errors.UnavailableError(None, None, "something else")
        with pytest.raises(tf.errors.UnavailableError), TestOneProcess.workers.lost_told():
            raise tf.errors.UnavailableError(None, None, text)


def test_rows_are_split_in_their_order():
    batch = {"image": np.arange(48).reshape(2, 12, 2)}, {"label": np.arange(24).reshape(2, 12)}
    parts = split_rows(tf.data.Dataset.from_tensor_slices(batch), 3)
    assert parts.element_spec[0]["image"].shape == [4, 2]
    found = list(parts.as_numpy_iterator())
    assert len(found) == 6
    images = np.concatenate([features["image"] for features, _ in found])
    np.testing.assert_array_equal(images, np.arange(48).reshape(24, 2))
    np.testing.assert_array_equal(np.concatenate([x["label"] for _, x in found]), np.arange(24))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    worker_run.make_photos(folder)
    return folder


def outcome(run):
    """Weights, averages and optimizer state of a run's last checkpoint; its records."""
    reader = tf.train.load_checkpoint(str(run.model_dir))
    keys = [key for key in reader.get_variable_to_shape_map() if key.endswith("VARIABLE_VALUE")]
    lines = (run.model_dir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        record.pop("images_per_second", None)
    return {key: reader.get_tensor(key) for key in keys}, records


def check_close(one, other, tolerance=TOLERANCE, variance_tolerance=VARIANCE_TOLERANCE):
    (values, records), (others, other_records) = one, other
    assert values.keys() == others.keys()
    for key, value in values.items():
        allowed = variance_tolerance if "moving_variance" in key else tolerance
        np.testing.assert_allclose(others[key], value, allowed, allowed, err_msg=key)
    assert len(records) == len(other_records)
    for record, another in zip(records, other_records):
        kind = record.pop("kind")
        assert another.pop("kind") == kind
        allowed = variance_tolerance if kind == "eval" else tolerance
        assert another == pytest.approx(record, rel=allowed, abs=allowed)


@pytest.fixture(scope="module")
def undisturbed(folder):
    """Two workers, and one process without a strategy, at the same time: runs and their ends."""
    with worker_run.Run(folder, "two", 2) as two, worker_run.Run(folder, "one") as one:
        return one, one.wait(), two, two.wait()


@pytest.mark.slow
def test_two_workers_end_as_one_process_does(undisturbed):
    one, [alone], two, [chief, other] = undisturbed
    assert [chief.returncode, other.returncode, alone.returncode] == [0, 0, 0], chief.stderr
    check_close(outcome(one), outcome(two))
    records = outcome(two)[1]
    assert {record["stage"] for record in records} == {0, 1}
    assert [r["examples"] for r in records if r["kind"] == "eval"] == [9] * 4
    last, expected = (json.loads(x.stdout.splitlines()[-1]) for x in (chief, alone))
    assert expected["examples"] == 11
    assert last == pytest.approx(expected, rel=VARIANCE_TOLERANCE)


@pytest.mark.slow
def test_the_chief_alone_writes_and_talks(undisturbed, folder):
    one, _, two, [chief, other] = undisturbed
    assert other.stdout == ""
    line = f"worker 1 of 2 workers, at {two.addresses[1]}; waiting for all"
    assert line in other.stderr.splitlines()
    names = {path.relative_to(one.model_dir).name for path in one.model_dir.rglob("*")}
    found = [path.relative_to(two.model_dir).name for path in two.model_dir.rglob("*")]
    events = [name for name in found if name.startswith("events.")]
    assert len(events) == len([name for name in names if name.startswith("events.")])
    assert set(found) - set(events) == {name for name in names if not name.startswith("events.")}


@pytest.mark.slow
def test_killed_and_stopped_workers_go_on(undisturbed, folder):
    """One of two is killed before step 7, then the other stopped before step 9: as if nothing."""
    with worker_run.Run(folder, "again", 2, {1: (signal.SIGKILL, 7)}) as run:
        chief, other = run.wait()
    assert other.returncode == -signal.SIGKILL
    assert chief.returncode == 2
    assert chief.stderr.splitlines()[-1].startswith("error: another worker has ended (")
    assert not (run.model_dir / "ckpt-8.index").exists()
    with worker_run.Run(folder, "again", 2, {0: (signal.SIGTERM, 8)}) as run:
        ended = run.wait()
    assert [x.returncode for x in ended] == [75, 75], ended[0].stderr
    assert "resuming at step 6 of 12" in ended[0].stdout
    assert all("stopped at step 9" in x.stderr for x in ended)
    with worker_run.Run(folder, "again", 2) as run:
        ended = run.wait()
    assert [x.returncode for x in ended] == [0, 0], ended[0].stderr
    assert "resuming at step 9 of 12" in ended[0].stdout
    check_close(outcome(undisturbed[2]), outcome(run), 0, 0)
