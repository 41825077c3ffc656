"""The paper's ablations, and the flags of docs/recipes.md that make them."""

import pathlib
import re

import pytest

from efficientnetv2.hparams import get_config, make_stages

DOCS = (pathlib.Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
SIZES_TO = {300: [128, 185, 242, 300], 380: [128, 212, 296, 380]}  # Paper, Table 6, section 4.2.


def documented(flags):
    """The flags, which docs/recipes.md must have as they are here."""
    assert re.search(rf"(^|`){re.escape(flags)}(`|$)", DOCS, re.MULTILINE), flags
    return flags


def plan(flags, model="efficientnetv2-s", dataset_cfg="imagenettfds"):
    return make_stages(get_config(model, dataset_cfg, flags))


def column(stages, key):
    return [getattr(stage, key) for stage in stages]


def third(first, last):
    """Four evenly spaced values."""
    return pytest.approx([first + (last - first) * i / 3 for i in range(4)])


RISING, LAST = ([5, 25 / 3, 35 / 3, 15], [0.1, 1 / 6, 7 / 30, 0.3]), ([15] * 4, [0.3] * 4)
ADAPTIVE = "train.adaptive_regularization=true"
ABLATIONS = {  # Flags of S: sizes, (magnitudes, dropout rates).
    "train.schedule=paper": (SIZES_TO[300], RISING),
    "train.schedule=resize": (SIZES_TO[300], LAST),
    f"train.schedule=resize,{ADAPTIVE}": (SIZES_TO[300], RISING),
    "train.schedule=random": (SIZES_TO[300], LAST),
    f"train.schedule=random,{ADAPTIVE}": (SIZES_TO[300], RISING),
    "train.schedule=fixed": ([300] * 4, LAST),
    f"train.schedule=fixed,{ADAPTIVE}": ([300] * 4, RISING),
    "train.schedule=fixed,train.isize=128,data.ram=5": ([128] * 4, ([5] * 4, [0.3] * 4)),
}


@pytest.mark.parametrize("flags", ABLATIONS)
def test_tables_5_and_13_are_one_flag_away(flags):
    sizes, (magnitudes, dropout) = ABLATIONS[flags]
    stages = plan(documented(flags))
    assert ("random" in flags) == bool(stages[0].variants)
    rows = stages[0].variants or stages
    assert column(rows, "image_size") == sizes
    assert column(rows, "ram") == pytest.approx(magnitudes)
    assert column(rows, "dropout_rate") == pytest.approx(dropout)


B7 = "train.stages=4,train.isize=380,data.augname=randaug,data.ram=20,data.mixup_alpha=0.2"
NETWORKS = {  # Flags: network, sizes progressive and baseline, last magnitude and dropout rate.
    "train.stages=4,data.augname=randaug,data.ram=15": ("b4", [128, 186, 245, 304], 15, 0.4),
    f"{B7},model.dropout_rate=0.4": ("b7", SIZES_TO[380], 20, 0.4),
}


@pytest.mark.parametrize("flags", NETWORKS)
def test_v1_of_tables_10_and_12_is_one_flag_away(flags):
    net, sizes, magnitude, dropout = NETWORKS[flags]
    name = f"efficientnet-{net}"
    stages = plan(documented(flags), name)
    assert column(stages, "image_size") == sizes
    assert column(stages, "ram") == third(5, magnitude)
    assert column(stages, "dropout_rate") == third(0.1, dropout)
    baseline = plan(f"{flags},train.schedule=fixed", name)
    assert column(baseline, "image_size") == [sizes[-1]] * 4
    assert column(baseline, "ram") == [magnitude] * 4


def test_the_page_shows_the_stages_as_they_are():
    rows = re.findall(
        r"^\| (?:none, or )?`(train\.schedule=\w+)` \| (\d.*) \|$", DOCS, re.MULTILINE
    )
    assert [flags.split("=")[1] for flags, _ in rows] == ["paper", "official", "resize", "fixed"]
    for flags, cells in rows:
        shown = [tuple(map(float, cell.split(" / "))) for cell in cells.split(" | ")]
        for stage, (size, magnitude, dropout) in zip(plan(flags), shown, strict=True):
            assert stage.image_size == size
            assert stage.ram == pytest.approx(magnitude, abs=5e-3)
            assert stage.dropout_rate == pytest.approx(dropout, abs=5e-4)


def test_larger_batches_at_small_sizes():
    stages = plan(documented("train.stage_batch=memory"))
    assert column(stages, "batch_size") == [22_464, 10_752, 6_272, 4_096]
    assert "22,464, 10,752, 6,272, 4,096 images" in DOCS
    pixels = [stage.batch_size * stage.image_size**2 for stage in stages]
    assert pixels == pytest.approx([pixels[-1]] * 4, rel=0.02)


def test_further_flags():
    assert len(plan(documented("train.stages=8"))) == 8
    assert column(plan(documented("data.cutmix_alpha=0.5")), "cutmix_alpha") == third(0, 0.5)
    assert column(plan(documented("data.ram=20,data.ram_base=10")), "ram") == third(10, 20)
    for flags in ("data.augname=autoaug", "data.augname=ra_aa", "data.op_set=corrected"):
        assert column(plan(documented(flags)), "image_size") == SIZES_TO[300]


TRAIN = "data.splits.train"
ALL_IMAGES = {  # Of TFDS.
    "cifar10ft": ("train", 50_000),
    "cifar100ft": ("train", 50_000),
    "carsft": ("train", 8_144),
    "flowersft": ("train+validation", 2_040),
}


@pytest.mark.parametrize("dataset_cfg", ALL_IMAGES)
def test_all_training_images(dataset_cfg):
    split, images = ALL_IMAGES[dataset_cfg]
    flags = documented(f"{TRAIN}.tfds_split={split},{TRAIN}.num_images={images}")
    (stage,) = plan(flags, dataset_cfg=dataset_cfg)
    assert stage.steps == 10_000
