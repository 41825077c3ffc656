"""Official checkpoints, written here by name and by object: same input, the official logits."""

import golden
import numpy as np
import pytest
import tensorflow as tf
from published import save_official

import efficientnetv2
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.weights.tf_checkpoint import official_names, official_object_keys

EMA = "/ExponentialMovingAverage"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def checkpoint_of(arrays, averaged=True):
    """All that a training checkpoint holds: averages, slots, the step."""
    stored = {"global_step": np.int64(107336)}
    for name, array in arrays.items():
        stored[name] = array + 1 if averaged else array
        stored[f"{name}/RMSProp"] = stored[f"{name}/RMSProp_1"] = np.zeros(array.shape, np.float32)
        if averaged:
            stored[f"{name}{EMA}"] = array
    return stored


@pytest.mark.parametrize("name", golden.NAMES)
def test_by_name_gives_the_official_logits(tmp_path, name):
    figures = golden.load_golden(name)
    path = save_official(checkpoint_of(golden.golden_arrays(figures)), tmp_path / "model")
    model = efficientnetv2.build_model(name, include_preprocessing=False)
    report = efficientnetv2.load_weights(model, path)
    assert (report.format, report.step, report.used_ema) == ("official, by name", 107336, True)
    assert len(report.loaded) == len(model.weights) == len(figures["variables"])
    golden.check_logits(model.predict(golden.golden_input(figures["size"]), verbose=0), figures)


@pytest.fixture(scope="module")
def b0():
    """The figures of B0, its arrays and a network to load into."""
    figures = golden.load_golden("efficientnetv2-b0")
    model = efficientnetv2.build_model("efficientnetv2-b0", include_preprocessing=False)
    return figures, golden.golden_arrays(figures), model


def values_of(model):
    """{official name: value}, root scope included."""
    names = official_names(model)
    return {
        f"efficientnetv2-b0/{names[var_path(w)]}": tf_variable(w).numpy() for w in model.weights
    }


def check_values(model, arrays):
    values = values_of(model)
    assert set(values) == set(arrays)
    for name, value in values.items():
        np.testing.assert_array_equal(value, arrays[name], name)


def forget(model):
    for weight in model.weights:
        weight.assign(np.zeros(tuple(weight.shape), np.float32))


def test_the_plain_weights_are_taken_if_asked_for(tmp_path, b0):
    _, arrays, model = b0
    path = save_official(checkpoint_of(arrays), tmp_path / "model")
    report = efficientnetv2.load_weights(model, path, use_ema=False)
    assert not report.used_ema
    check_values(model, {name: array + 1 for name, array in arrays.items()})


@pytest.mark.parametrize("kept", ["plain", "averages"])
def test_either_kind_alone_is_enough(tmp_path, b0, kept):
    _, arrays, model = b0
    stored = arrays if kept == "plain" else {f"{n}{EMA}": a for n, a in arrays.items()}
    forget(model)
    efficientnetv2.load_weights(
        model, save_official(stored, tmp_path / "model"), use_ema=kept == "plain"
    )
    check_values(model, arrays)


def test_the_classifier_may_be_in_either_scope(tmp_path, b0):
    _, arrays, model = b0
    renamed = {n.replace("head/dense", "head_1/dense"): a for n, a in arrays.items()}
    assert renamed.keys() != arrays.keys()
    forget(model)
    efficientnetv2.load_weights(model, save_official(renamed, tmp_path / "model"))
    check_values(model, arrays)


def test_a_folder_with_a_checkpoint_file_and_each_of_its_files_name_it(tmp_path, b0):
    _, arrays, model = b0
    prefix = save_official(arrays, tmp_path / "model")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model"\n')
    for path in (tmp_path, f"{prefix}.index", f"{prefix}.data-00000-of-00001"):
        forget(model)
        efficientnetv2.load_weights(model, str(path))
        check_values(model, arrays)


class Official(tf.Module):
    """A tree of attributes, from keys such as "_blocks/3/_norm0/gamma"."""

    def __init__(self, arrays):
        super().__init__()
        self._blocks = [tf.Module() for _ in range(21)]
        for key, array in arrays.items():
            node, (*scope, last) = self, key.split("/")
            for part in scope:
                if part.isdigit():
                    node = node[int(part)]
                else:
                    if not hasattr(node, part):
                        setattr(node, part, tf.Module())
                    node = getattr(node, part)
            setattr(node, last, tf.Variable(array))


@pytest.mark.parametrize(
    ("name", "root"), [("efficientnetv2-b0", "model"), ("efficientnet-b0", None)]
)
def test_by_object_gives_the_official_logits(tmp_path, name, root):
    """As an attribute of a checkpoint, and as its root."""
    figures = golden.load_golden(name)
    by_name = golden.golden_arrays(figures)
    model = efficientnetv2.build_model(name, include_preprocessing=False)
    keys, names = official_object_keys(model), official_names(model)
    tree = Official({keys[path]: by_name[f"{name}/{names[path]}"] for path in keys})
    momentum = tf.Variable(1.0)
    if root:
        saved = tf.train.Checkpoint(model=tree, optimizer=tf.train.Checkpoint(momentum=momentum))
    else:
        saved = tf.train.Checkpoint(root=tree, optimizer=tf.train.Checkpoint(momentum=momentum))
    report = efficientnetv2.load_weights(model, saved.write(str(tmp_path / "ckpt-3")))
    assert report.format == "official, by object"
    assert report.unexpected == report.missing == ()
    golden.check_logits(model.predict(golden.golden_input(figures["size"]), verbose=0), figures)


def test_object_keys_are_those_of_the_official_model(b0):
    """Source: official_semantics 1.16: fused and MBConv without expansion lack `_norm0`."""
    keys = set(official_object_keys(b0[2]).values())

    def of_block(i):
        return {key.split("/", 2)[2] for key in keys if key.startswith(f"_blocks/{i}/")}

    norm = ("gamma", "beta", "moving_mean", "moving_variance")
    assert of_block(0) == {"_project_conv/kernel", *(f"_norm1/{kind}" for kind in norm)}
    assert of_block(1) == {
        "_expand_conv/kernel",
        "_project_conv/kernel",
        *(f"_norm{i}/{kind}" for i in (0, 1) for kind in norm),
    }
    assert of_block(5) == {
        "_expand_conv/kernel",
        "_depthwise_conv/depthwise_kernel",
        "_project_conv/kernel",
        *(f"_se/_se_{step}/{kind}" for step in ("reduce", "expand") for kind in ("kernel", "bias")),
        *(f"_norm{i}/{kind}" for i in (0, 1, 2) for kind in norm),
    }
    others = {key for key in keys if not key.startswith("_blocks/")}
    assert others == {
        "_stem/_conv_stem/kernel",
        "_head/_conv_head/kernel",
        "_fc/kernel",
        "_fc/bias",
        *(f"{part}/_norm/{kind}" for part in ("_stem", "_head") for kind in norm),
    }


def test_parts_that_the_model_lacks_are_left_aside_and_listed(tmp_path, b0):
    _, arrays, full = b0
    path = save_official(arrays, tmp_path / "model")
    model = efficientnetv2.build_model("efficientnetv2-b0", include_top=False)
    report = efficientnetv2.load_weights(model, path)
    assert report.unused == ("head/dense/bias", "head/dense/kernel")
    backbone = efficientnetv2.build_backbone("efficientnetv2-b0")
    report = efficientnetv2.load_weights(backbone, path)
    assert "head/conv2d/kernel" in report.unused
    assert len(report.unused) == 7
    with pytest.raises(UserError, match="lacks weights of the model: 2, first classifier/"):
        without = {name: array for name, array in arrays.items() if "dense" not in name}
        efficientnetv2.load_weights(full, save_official(without, tmp_path / "headless"))


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_stem_is_adapted_to_other_channels(tmp_path, b0, channels):
    """Of one channel, or of whole turns of the colours, a grey image gives what it gave."""
    figures, arrays, colour = b0
    path = save_official(arrays, tmp_path / "model")
    model = efficientnetv2.build_model(
        "efficientnetv2-b0", include_preprocessing=False, in_channels=channels
    )
    report = efficientnetv2.load_weights(model, path)
    assert report.adapted == (f"stem_conv/kernel: from 3 to {channels} channels",)
    original = arrays["efficientnetv2-b0/stem/conv2d/kernel"]
    if channels == 1:
        expected = original.sum(axis=2, keepdims=True)
    else:
        expected = np.stack([original[:, :, i % 3] for i in range(channels)], 2) * 3 / channels
    stem = model.get_layer("stem_conv").weights[0]
    np.testing.assert_allclose(tf_variable(stem).numpy(), expected, rtol=1e-6)
    if channels == 4:
        return
    grey = golden.golden_input(figures["size"])[..., :1]
    logits = np.asarray(model(np.repeat(grey, channels, axis=-1)))
    efficientnetv2.load_weights(colour, path)
    same = np.asarray(colour(np.repeat(grey, 3, axis=-1)))
    assert np.abs(logits - same).max() <= 1e-3 * same.std()


def test_a_network_of_another_kind_is_refused(tmp_path, b0):
    _, arrays, _ = b0
    path = save_official(arrays, tmp_path / "model")
    other = efficientnetv2.build_model("keras/MobileNetV2", num_classes=2, input_shape=(32, 32, 3))
    with pytest.raises(UserError, match="holds an EfficientNet, and MobileNetV2 is none of ours"):
        efficientnetv2.load_weights(other, path)
