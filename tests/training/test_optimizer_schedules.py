"""The learning rate against values of the official code."""

import json
import pathlib

import pytest

from efficientnetv2 import hparams
from efficientnetv2.hparams import Stage
from efficientnetv2.hparams.config import LR_SCHEDULES
from efficientnetv2.training.optimizer import learning_rate_at

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "data" / "learning_rate.json").read_text())
BATCH = 4096
SETTINGS = (
    f"train.batch_size={BATCH},train.lr_base={GOLDEN['initial_lr'] * 256 / BATCH},"
    f"train.lr_decay_factor={GOLDEN['decay_factor']},train.lr_decay_epoch={GOLDEN['decay_epochs']},"
    f"train.lr_warmup_epoch={GOLDEN['warmup_epochs']},"
    f"data.splits.train.num_images={GOLDEN['steps_per_epoch'] * BATCH}"
)
CASES = [(kind, step) for kind, values in GOLDEN["values"].items() for step in values]


def make_config(overrides):
    return hparams.get_config("efficientnetv2-s", "imagenet", f"{SETTINGS},{overrides}")


def rate_at(config, step, total_steps):
    stage = Stage(0, 0, total_steps, 1.0, 300, config.train.batch_size, 0.0, 0.0, 0.0)
    return learning_rate_at(config, (stage,), step)


@pytest.mark.parametrize(("kind", "step"), CASES)
def test_agrees_with_the_official_schedule(kind, step):
    config = make_config(f"train.lr_sched={kind}")
    rate = rate_at(config, int(step), GOLDEN["total_steps"])
    # The official values are float32, where 1 + cos and 1 - step / total cancel near the end.
    assert rate == pytest.approx(GOLDEN["values"][kind][step], rel=1e-5, abs=1e-8)


def test_the_golden_values_cover_every_schedule():
    assert set(GOLDEN["values"]) == set(LR_SCHEDULES)


@pytest.mark.parametrize("kind", LR_SCHEDULES)
def test_the_base_rate_is_for_a_batch_of_256(kind):
    for step in (0, 7, 20, 90):
        rates = [
            rate_at(
                make_config(
                    f"train.lr_sched={kind},train.batch_size={batch},train.lr_min=0.00001,"
                    f"data.splits.train.num_images={10 * batch},train.lr_warmup_epoch=1"
                ),
                step,
                100,
            )
            for batch in (64, 256)
        ]
        assert rates[1] == pytest.approx(4 * rates[0])


def test_the_floor_holds_after_the_warm_up_only():
    config = make_config("train.lr_sched=cosine,train.lr_min=0.001")
    assert rate_at(config, 1, GOLDEN["total_steps"]) < 0.001
    floor = 0.001 * BATCH / 256
    assert rate_at(config, GOLDEN["total_steps"] - 1, GOLDEN["total_steps"]) == floor


def test_without_warm_up_the_first_step_has_the_full_rate():
    config = make_config("train.lr_warmup_epoch=0,train.lr_sched=constant")
    assert rate_at(config, 0, 100) == pytest.approx(GOLDEN["initial_lr"])


def test_with_a_batch_per_stage_the_rate_follows_the_batch_and_the_images_seen():
    plain = make_config("train.lr_sched=cosine,train.epochs=10")
    scaled = make_config("train.lr_sched=cosine,train.epochs=10,train.stage_batch=memory")
    stages, equal = hparams.make_stages(scaled), hparams.make_stages(plain)
    assert stages[0].batch_size > 5 * BATCH  # 128 against 300 pixels.
    middle = (stages[1].first_step + stages[1].end_step) // 2
    seen = stages[1].records_before(middle)
    same_time = learning_rate_at(plain, equal, seen // BATCH)
    rate = learning_rate_at(scaled, stages, middle)
    assert rate == pytest.approx(same_time * stages[1].batch_size / BATCH, rel=1e-3)
    last = stages[-1].end_step - 1
    end = learning_rate_at(plain, equal, equal[-1].end_step - 1)
    assert learning_rate_at(scaled, stages, last) == pytest.approx(end, rel=0.1)
