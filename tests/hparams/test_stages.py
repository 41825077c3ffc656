"""The stage schedule: the paper's and the official tables, ends, contiguity, what cannot be."""

import dataclasses

import pytest

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import Stage, get_config, make_stages, stage_at, stage_table
from efficientnetv2.hparams.config import SCHEDULES


def plan(model="s", schedule="paper", more=""):
    overrides = f"train.schedule={schedule},{more}"
    return make_stages(get_config(f"efficientnetv2-{model}", "imagenettfds", overrides))


def column(stages, name):
    return [getattr(stage, name) for stage in stages]


def third(first, last):
    """Four evenly spaced values."""
    return pytest.approx([first + (last - first) * i / 3 for i in range(4)])


# design.md, "Paper, official code, ours": paper (Table 6). Sizes are the integer part.
@pytest.mark.parametrize(
    "model, sizes, magnitude, mixup, dropout",
    [
        ("s", [128, 185, 242, 300], 15, 0, 0.3),
        ("m", [128, 212, 296, 380], 20, 0.2, 0.4),
        ("l", [128, 212, 296, 380], 25, 0.5, 0.5),
    ],
)
def test_paper_table(model, sizes, magnitude, mixup, dropout):
    stages = plan(model)
    assert column(stages, "image_size") == sizes
    assert column(stages, "ram") == third(5, magnitude)
    assert column(stages, "mixup_alpha") == third(0, mixup)
    assert column(stages, "dropout_rate") == third(0.1, dropout)


# official_semantics.md, section 3.
@pytest.mark.parametrize(
    "model, sizes, magnitude, mixup, dropout",
    [
        ("s", [171, 214, 257, 300], [5, 6.667, 8.333, 10], [0] * 4, 0.2),
        ("m", [192, 256, 320, 384], [5, 8.333, 11.667, 15], [0, 0.0667, 0.1333, 0.2], 0.3),
        ("l", [192, 256, 320, 384], [5, 10, 15, 20], [0, 0.1667, 0.3333, 0.5], 0.4),
        ("xl", [192, 256, 320, 384], [5, 10, 15, 20], [0, 0.1667, 0.3333, 0.5], 0.4),
    ],
)
def test_official_table(model, sizes, magnitude, mixup, dropout):
    stages = plan(model, "official")
    assert column(stages, "image_size") == sizes
    assert column(stages, "ram") == pytest.approx(magnitude, abs=5e-4)
    assert column(stages, "mixup_alpha") == pytest.approx(mixup, abs=5e-5)
    assert column(stages, "dropout_rate") == [dropout] * 4


@pytest.mark.parametrize(
    "model, sizes",
    [
        ("b0", [144, 160, 176, 192]),
        ("b1", [144, 160, 176, 192]),
        ("b2", [148, 168, 188, 208]),
        ("b3", [156, 184, 212, 240]),
    ],
)
def test_official_sizes_of_the_b_models(model, sizes):
    assert column(plan(model, "official"), "image_size") == sizes


def test_official_boundaries_for_imagenet():
    more = "data.splits.train.num_images=1256144"  # What the official config declares.
    assert column(plan("s", "official", more), "end_step") == [26834, 53668, 80502, 107336]


@pytest.mark.parametrize(
    "model, size, magnitude, mixup, dropout",
    [("s", 300, 15, 0, 0.3), ("m", 380, 20, 0.2, 0.4), ("l", 380, 25, 0.5, 0.5)],
)
def test_fixed_has_the_end_values_throughout(model, size, magnitude, mixup, dropout):
    stages = plan(model, "fixed")
    assert len(stages) == 4
    assert column(stages, "image_size") == [size] * 4
    assert column(stages, "ram") == [magnitude] * 4
    assert column(stages, "mixup_alpha") == [mixup] * 4
    assert column(stages, "dropout_rate") == [dropout] * 4


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 11])
def test_paper_ends_are_exact(count):
    # Values for which first + (last - first) is not last in floating point.
    more = f"train.stages={count},data.ram_base=0.1,data.ram=0.7,data.mixup_base=0.1"
    first, *_, last = plan("s", "paper", f"{more},data.mixup_alpha=0.7,model.dropout_base=0.2")
    strengths = [(s.image_size, s.ram, s.mixup_alpha, s.dropout_rate) for s in (first, last)]
    assert strengths == [(128, 0.1, 0.1, 0.2), (300, 0.7, 0.7, 0.3)]


@pytest.mark.parametrize(
    ("key", "base"),
    [
        ("data.ram=0", "data.ram_base=5.0"),
        ("data.mixup_base=0.5", "data.mixup_base=0.5"),
        ("model.dropout_rate=0", "model.dropout_base=0.1"),
    ],
)
def test_strengths_may_not_fall(key, base):
    with pytest.raises(UserError, match=f"^{base} must be at most"):
        plan("s", "paper", key)
    assert plan("s", "fixed", key)


def test_without_randaugment_the_magnitude_is_zero():
    assert column(plan("s", "paper", "data.augname=none"), "ram") == [0, 0, 0, 0]


IN_TURN = [schedule for schedule in SCHEDULES if schedule != "random"]


@pytest.mark.parametrize("schedule", IN_TURN)
@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_stages_are_contiguous_and_of_whole_numbers(schedule, count):
    more = f"train.stages={count},train.epochs=7,train.batch_size=1000"
    stages = plan("m", schedule, more)
    assert column(stages, "index") == list(range(count))
    assert column(stages, "first_step") == [0, *column(stages, "end_step")[:-1]]
    assert stages[-1].end_step == 7 * 1255544 // 1000
    steps = column(stages, "steps")
    assert sum(steps) == stages[-1].end_step
    assert max(steps) - min(steps) <= 1
    assert sum(column(stages, "epochs")) == pytest.approx(7, abs=1e-3)
    for name in ("first_step", "end_step", "image_size", "batch_size"):
        assert {type(value) for value in column(stages, name)} == {int}
    assert column(stages, "batch_size") == [1000] * count


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_single_stage_has_the_end_values(schedule):
    end = {"paper": (380, 25.0, 0.5, 0.5), "official": (384, 20.0, 0.5, 0.4)}
    (stage,) = plan("l", schedule, "train.stages=1")
    strength = (stage.image_size, stage.ram, stage.mixup_alpha, stage.dropout_rate)
    assert strength == end.get(schedule, end["paper"])


def test_eight_stages_rise_evenly():
    stages = plan("s", "paper", "train.stages=8")
    assert column(stages, "image_size") == [128, 152, 177, 201, 226, 250, 275, 300]
    stages = plan("s", "official", "train.stages=8")
    assert column(stages, "image_size") == [149, 171, 192, 214, 235, 257, 278, 300]


def test_ibase_null_is_half_the_last_size():
    assert column(plan("s", "paper", "data.ibase=null"), "image_size") == [150, 200, 250, 300]


def test_size_of_a_ratio_is_scheduled_too():
    stages = plan("s", "paper", "train.isize=0.8")  # 0.8 of 384, floored to a multiple of 16.
    assert column(stages, "image_size") == [128, 186, 245, 304]


def test_min_steps_lengthens_a_short_run_only():
    short = "data.splits.train.num_images=1000,train.batch_size=100,train.epochs=3"
    assert plan("s", "paper", short)[-1].end_step == 30
    stages = plan("s", "paper", f"{short},train.min_steps=40")
    assert column(stages, "end_step") == [10, 20, 30, 40]
    assert column(stages, "epochs") == pytest.approx([1.0] * 4)
    assert plan("s", "paper", f"{short},train.min_steps=29")[-1].end_step == 30


def test_unknown_number_of_images_is_an_error():
    config = get_config("efficientnetv2-b0", "folder", data_dir="photos")
    with pytest.raises(UserError, match="data.splits.train.num_images must be set"):
        make_stages(config)


def test_as_many_steps_as_stages_is_the_least():
    run = "data.splits.train.num_images=10,train.batch_size=10,train.epochs=4"
    assert column(plan("s", "paper", run), "steps") == [1] * 4
    with pytest.raises(UserError, match="4 steps are too few for train.stages=5.*lower") as error:
        plan("s", "paper", f"{run},train.stages=5")
    assert "\n" not in str(error.value)


def test_stage_at_finds_every_step():
    run = "data.splits.train.num_images=10,train.batch_size=10,train.epochs=10"
    stages = plan("s", "paper", run)
    found = [stage_at(stages, step).index for step in range(10)]
    assert found == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    for outside in (-1, 10):
        with pytest.raises(ValueError, match=r"step must be in \[0, 10\)"):
            stage_at(stages, outside)


def test_table_shows_every_stage_aligned():
    stage = Stage(0, 0, 12, 2.25, 128, 64, 5.0, 0.125, 0.1)
    later = Stage(1, 12, 1012, 2.0, 300, 64, 15.0, 0.5, 0.3)
    assert stage_table([stage, later]).splitlines() == [
        "stage  epochs  steps  size  batch  magnitude  mixup  dropout",
        "    1     2.2     12   128     64       5.00  0.125    0.100",
        "    2     2.0   1000   300     64      15.00  0.500    0.300",
    ]
    with_cutmix = stage_table([stage, dataclasses.replace(later, cutmix_alpha=0.4)]).splitlines()
    assert with_cutmix[0].split()[-3:] == ["mixup", "cutmix", "dropout"]
    assert with_cutmix[2].split()[-3:] == ["0.500", "0.400", "0.300"]


def test_the_official_schedule_raises_cutmix_with_mixup():
    stages = plan("m", "official")
    assert column(stages, "cutmix_alpha") == column(stages, "mixup_alpha") == third(0, 0.2)
    assert column(plan("m"), "cutmix_alpha") == [0.0] * 4


@pytest.mark.parametrize(
    ("schedule", "adapts", "sizes", "dropouts"),
    [
        ("paper", "none", (128, 300), (0.1, 0.3)),
        ("paper", "false", (128, 300), (0.3, 0.3)),
        ("resize", "none", (128, 300), (0.3, 0.3)),
        ("resize", "true", (128, 300), (0.1, 0.3)),
        ("fixed", "none", (300, 300), (0.3, 0.3)),
        ("fixed", "true", (300, 300), (0.1, 0.3)),
        ("official", "none", (171, 300), (0.2, 0.2)),
    ],
)
def test_adaptive_regularization_is_one_flag(schedule, adapts, sizes, dropouts):
    stages = plan("s", schedule, f"train.adaptive_regularization={adapts}")
    assert (stages[0].image_size, stages[-1].image_size) == sizes
    assert (stages[0].dropout_rate, stages[-1].dropout_rate) == pytest.approx(dropouts)
    magnitudes = column(stages, "ram")
    rises = adapts == "true" or schedule in ("paper", "official") and adapts == "none"
    assert (magnitudes[0] < magnitudes[-1]) == rises
    if not rises:
        assert len(set(magnitudes)) == 1


@pytest.mark.parametrize("adapts", ["true", "none"])
def test_random_draws_one_of_the_papers_sizes_for_each_step(adapts):
    more = f"train.adaptive_regularization={adapts}"
    (stage,) = plan("s", "random", more)
    paper = plan("s", "paper", more if adapts == "true" else "train.adaptive_regularization=false")
    for name in ("image_size", "ram", "mixup_alpha", "dropout_rate"):
        assert column(stage.variants, name) == column(paper, name)
    steps = range(4000)
    drawn = [stage.variant_at(step) for step in steps]
    for variant in stage.variants:
        assert 800 < drawn.count(variant) < 1200
        assert [s for s in steps if variant.has_step(s)] == [
            s for s in steps if drawn[s] is variant
        ]
    (other,) = plan("s", "random", f"{more},train.seed=1")
    assert [other.variant_at(s).image_size for s in steps] != [d.image_size for d in drawn]
    assert stage_table((stage,)).count("\n") == 5


def test_a_batch_per_stage_holds_the_pixels_and_the_epochs():
    more = "train.stage_batch=memory,train.batch_size=128,train.epochs=40"
    stages, same = plan("s", "paper", more), plan("s", "paper", more.replace("memory", "same"))
    pixels = [s.batch_size * s.image_size**2 for s in stages]
    assert stages[-1].batch_size == 128 and stages[0].batch_size == 640
    assert all(0.7 < p / pixels[-1] <= 1 for p in pixels)
    assert column(stages, "epochs") == pytest.approx(column(same, "epochs"), rel=0.01)
    for stage, following in zip(stages, stages[1:]):
        assert stage.records_before(stage.end_step) == following.first_record
        assert stage.end_step == following.first_step
        assert stage.batch_size % 64 == 0
