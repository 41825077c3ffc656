"""The recipes: what their commands give beside their sources, and that docs/recipes.md tells it."""

import dataclasses
import pathlib
import re

import pytest
import yaml

from efficientnetv2.hparams import get_config, make_stages, planned_images
from efficientnetv2.hparams.overrides import flatten
from efficientnetv2.training.optimizer import learning_rate_at

ROOT = pathlib.Path(__file__).parents[2]
RECIPES = {path.stem: path for path in sorted((ROOT / "hparams" / "recipes").glob("*.yaml"))}
WHOLE = {"shapes_demo", "small_images"}  # Ours: told in full, also what B0 brings.
DOCS = (ROOT / "docs" / "recipes.md").read_text()
CIFAR_IN_A_FOLDER = 50_000
V1 = (  # B0 to B7: sizes of evaluation and training, dropout. official_semantics.md, 1.13.
    (224, 176, 0.2),
    (240, 192, 0.2),
    (260, 208, 0.3),
    (300, 240, 0.3),
    (380, 304, 0.4),
    (456, 352, 0.4),
    (528, 416, 0.5),
    (600, 480, 0.5),
)
every_recipe = pytest.mark.parametrize("name", RECIPES)


def header(name, word):
    """What follows "# WORD: " in a recipe, its further lines too."""
    found = re.search(rf"^# {word}: (.*\n(?:#   .*\n)*)", RECIPES[name].read_text(), re.MULTILINE)
    assert found, f"{name} has no line '# {word}:'"
    return found[1].replace("\n#   ", " ").strip()


def flags_of(name):
    program, *arguments = header(name, "Command").removeprefix("python ").split()
    assert program == "main.py"
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments)


def config_of(name, more="", model=None, without_recipe=False):
    """The config of a recipe's documented command, with the number of images that it needs."""
    flags = flags_of(name)
    items = flags["hparam_str"].split(",")
    assert items[0] == f"hparams/recipes/{name}.yaml"
    items[0] = "" if without_recipe else str(RECIPES[name])
    images = planned_images(flags["dataset_cfg"]) or CIFAR_IN_A_FOLDER
    overrides = ",".join([f"data.splits.train.num_images={images}", *items, more])
    model = model or flags["model_name"]
    return get_config(model, flags["dataset_cfg"], overrides, data_dir=flags["data_dir"])


def column(stages, key):
    return [getattr(stage, key) for stage in stages]


def third(first, last):
    """Four evenly spaced values."""
    return pytest.approx([first + (last - first) * i / 3 for i in range(4)])


def values_of(config, keys):
    values = dict(flatten(dataclasses.asdict(config)))
    return {key: values[key] for key in keys}


@every_recipe
def test_the_header_tells_source_command_and_whether_it_was_run(name):
    from efficientnetv2.cli import app

    assert header(name, "Source")
    assert header(name, "Run here").startswith(("yes, ", "no; "))
    assert name in WHOLE or header(name, "Ours")
    assert set(flags_of(name)) <= set(app.FLAGS)
    assert flags_of(name)["mode"] in app.MODES


@every_recipe
def test_the_documented_command_gives_a_run_that_can_be_planned(name):
    config = config_of(name)
    stages = make_stages(config)
    sizes = column(stages, "image_size")
    assert sizes == sorted(sizes)
    assert sizes[-1] == config.train_size
    assert stages[0].first_step == 0
    assert column(stages, "end_step")[:-1] == column(stages, "first_step")[1:]


@pytest.mark.parametrize("name", sorted(set(RECIPES) - WHOLE))
def test_a_recipe_says_only_what_differs(name):
    said = dict(flatten(yaml.safe_load(RECIPES[name].read_text())))
    anyway = values_of(config_of(name, without_recipe=True), said)
    assert [key for key, value in said.items() if anyway[key] == value] == []


def test_the_page_lists_every_recipe_and_what_was_run():
    rows = re.findall(r"^\| `(\w+)\.yaml` \|.*\| (yes|no)\b[^|]*\|$", DOCS, re.MULTILINE)
    run = [(name, header(name, "Run here").split(maxsplit=1)[0].strip(",;")) for name in RECIPES]
    assert sorted(rows) == sorted(run)
    assert set(re.findall(r"(\w+)\.yaml", DOCS)) == set(RECIPES)


# Steps, size of each stage, learning rate at steps: worked out by hand from the sources.
TRANSFER = (10_000, [384], {0: 0, 100: 0.00099975, 5000: 0.0005, 7500: 0.00014645})
SIZES_TO = {300: [128, 185, 242, 300], 380: [128, 212, 296, 380]}
PLANS = {
    # 1,255,544 images; the warm-up of 5 epochs ends after two decays by 0.97, the run after 145.
    "imagenet1k": (107_285, SIZES_TO[300], {0: 0, 766: 0.128, 1532: 0.24087, 107_284: 0.0030912}),
    # official_semantics.md, 2.2, 2.3 and 3; for v1_baseline 1.13.
    "imagenet1k_official": (107_336, [171, 214, 257, 300], {1533: 0.24087, 107_335: 0.0030912}),
    "imagenet21k_softmax": (186_332, SIZES_TO[300], {3105: 0.255825, 93_166: 0.128}),
    "imagenet21k_sigmoid": (186_332, [224], {3105: 0.127912, 93_166: 0.064}),
    "imagenet21k_to_1k": (36_783, [384], {0: 0, 18_391: 0.00050002, 27_587: 0.00014645}),
    **dict.fromkeys(("cifar10", "cifar100", "flowers", "cars"), TRANSFER),
    "v1_baseline": (107_336, [176], {1533: 0.24087, 107_335: 0.0030912}),
    "resnet50_progressive": (107_285, SIZES_TO[380], {1532: 0.24087}),
    "resnet152_progressive": (107_285, SIZES_TO[380], {1532: 0.24087}),
    "shapes_demo": (2625, [24, 26, 29, 32], {}),
    "small_images": (12_500, [20, 24, 28, 32], {}),
}


@every_recipe
def test_steps_sizes_and_learning_rates_are_the_sources(name):
    steps, sizes, rates = PLANS[name]
    config = config_of(name)
    stages = make_stages(config)
    assert stages[-1].end_step == steps
    assert column(stages, "image_size") == sizes
    for step, rate in rates.items():
        assert learning_rate_at(config, stages, step) == pytest.approx(rate, rel=1e-4)


OPTIMISATION = {  # arXiv 2104.00298, section 5.1; label smoothing is official.
    "model.survival_prob": 0.8,
    "train.optimizer": "rmsprop",
    "train.momentum": 0.9,
    "train.weight_decay": 1e-5,
    "train.ema_decay": 0.9999,
    "train.batch_size": 4096,
    "train.label_smoothing": 0.1,
}
PAPER = {**OPTIMISATION, "model.bn_momentum": 0.99, "eval.best_metric": "top1", "eval.isize": 384}
OFFICIAL = {**OPTIMISATION, "model.bn_momentum": 0.9, "train.precision": "bfloat16"}
UNREGULARISED = {"model.survival_prob": 1.0, "train.label_smoothing": 0.0, "data.augname": None}
FINE_TUNED = {  # official_semantics.md, 7.2 and 0.2.
    "train.optimizer": "rmsprop",
    "train.batch_size": 512,
    "train.ema_decay": 0.9996,
    "train.label_smoothing": 0.1,
    "train.gclip": 0.0,
    "train.layer_lr_decay": 1.0,
    "train.head_warmup_epoch": 0.0,
    "data.augname": "ft",
    "data.op_set": "official",
}
TRANSFERRED = {**FINE_TUNED, "train.weight_decay": 0.0}  # Paper, section 5.3.
SETTINGS = {
    "imagenet1k": PAPER,
    "imagenet1k_official": {**OFFICIAL, "eval.best_metric": "top1"},
    "imagenet21k_softmax": {
        **OPTIMISATION,
        "model.bn_momentum": 0.99,
        "train.label_smoothing": 0.0,
        "train.loss_type": "softmax",
        "eval.isize": 384,
        "data.multiclass": True,
        "data.augname": "randaug",
    },
    "imagenet21k_sigmoid": {**OFFICIAL, **UNREGULARISED, "train.loss_type": "sigmoid"},
    "imagenet21k_to_1k": {**FINE_TUNED, "train.weight_decay": 1e-5},
    **dict.fromkeys(("cifar10", "cifar100", "flowers", "cars"), TRANSFERRED),
    "v1_baseline": {**OFFICIAL, "data.augname": "autoaug"},
    "resnet50_progressive": {**OPTIMISATION, "eval.isize": 380},
    "resnet152_progressive": {**OPTIMISATION, "eval.isize": 380},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_the_sources(name):
    assert values_of(config_of(name), SETTINGS[name]) == SETTINGS[name]


@pytest.mark.parametrize("name", ["imagenet21k_to_1k", "cifar10", "cifar100", "flowers", "cars"])
def test_batch_norm_learns_in_the_papers_fine_tuning(name):
    assert config_of(name).train.ft_init_ckpt == "PATH"
    assert not config_of(name).freezes_batch_norm


# Paper, Table 6: size, magnitude, Mixup alpha and dropout of the last stage; 128, 5, 0 and 0.1 of
# the first.
TABLE_6 = {"s": (300, 15, 0, 0.3), "m": (380, 20, 0.2, 0.4), "l": (380, 25, 0.5, 0.5)}


def assert_as_table_6(stages, model, size=None):
    last_size, magnitude, mixup, dropout = TABLE_6[model]
    assert column(stages, "image_size") == SIZES_TO[size or last_size]
    assert column(stages, "ram") == third(5, magnitude)
    assert column(stages, "mixup_alpha") == third(0, mixup)
    assert column(stages, "cutmix_alpha") == [0] * 4
    assert column(stages, "dropout_rate") == third(0.1, dropout)


def documented(flags):
    """The flags, which docs/recipes.md must have as they are here."""
    assert re.search(rf"(^|`){re.escape(flags)}(`|$)", DOCS, re.MULTILINE), flags
    return flags


@pytest.mark.parametrize("model", TABLE_6)
def test_imagenet1k_is_the_papers_for_each_model(model):
    stages = make_stages(config_of("imagenet1k", model=f"efficientnetv2-{model}"))
    assert_as_table_6(stages, model)
    assert column(stages, "epochs") == pytest.approx([87.5] * 4, abs=0.01)


@pytest.mark.parametrize("model", TABLE_6)
def test_imagenet21k_softmax_is_the_papers_for_each_model(model):
    size, _, mixup, dropout = TABLE_6[model]
    more = f"data.mixup_alpha={mixup},model.dropout_rate={dropout}"
    more = "" if model == "s" else documented(f"train.isize={size},eval.isize=480,{more}")
    stages = make_stages(config_of("imagenet21k_softmax", more, f"efficientnetv2-{model}"))
    assert_as_table_6(stages, model)


@pytest.mark.parametrize("net, model", [("resnet50", "s"), ("resnet152", "m")])
def test_resnets_have_the_strengths_that_their_recipes_name(net, model):
    assert_as_table_6(make_stages(config_of(f"{net}_progressive")), model, size=380)


@pytest.mark.parametrize("variant", range(8))
def test_the_v1_baseline_is_the_official_one(variant):
    config = config_of("v1_baseline", model=f"efficientnet-b{variant}")
    (stage,) = make_stages(config)
    assert (config.eval.isize, stage.image_size, stage.dropout_rate) == V1[variant]
    assert (stage.mixup_alpha, stage.cutmix_alpha) == (0, 0)


def test_resnet50_at_224_pixels():
    more = documented("train.isize=224,eval.isize=224")
    assert column(make_stages(config_of("resnet50_progressive", more)), "image_size")[-1] == 224
