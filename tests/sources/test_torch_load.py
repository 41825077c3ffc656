"""Pickles of PyTorch that are hostile, damaged or of another kind: nothing of them is executed."""

import os
import pathlib
import pickle

import numpy as np
import pytest
import torch

from efficientnetv2.common.errors import UserError
from efficientnetv2.weights.torch_files import read_torch_file

pytestmark = pytest.mark.sources
STEM = {"conv_stem.weight": torch.ones(4, 3, 3, 3)}


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def message_of(path):
    """The error of reading a file, which has one line."""
    with pytest.raises(UserError) as error:
        read_torch_file(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_hostile_pickle_works(tmp_path):
    """Else the tests below would prove nothing."""
    pickle.loads(pickle.dumps(Touch(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("place", ["alone", "beside", "inside", "below", "plain"])
@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin"])
def test_code_is_refused_and_not_executed(tmp_path, place, ending):
    touch, path = Touch(tmp_path / "touched"), tmp_path / f"w{ending}"
    content = {
        "alone": touch,
        "beside": {"state_dict": STEM, "epoch": touch},
        "inside": {**STEM, "bn1.bias": touch},
        "below": {"model": {**STEM, "bn1.bias": [touch]}},
        "plain": touch,
    }[place]
    if place == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    message = message_of(path)
    assert str(path) in message
    assert place == "plain" or "system, and only tensors are read" in message
    assert not (tmp_path / "touched").exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Conv2d(3, 4, 3), tmp_path / "w.pth")
    assert "holds torch.nn.modules.conv.Conv2d" in message_of(tmp_path / "w.pth")


def test_a_file_of_an_old_pytorch_is_refused(tmp_path):
    torch.save(STEM, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert "older than PyTorch 1.6" in message_of(tmp_path / "w.pth")


@pytest.mark.parametrize("damage", ["empty", "short", "reversed", "flipped"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = pathlib.Path(tmp_path / "w.pth")
    torch.save(STEM, path)
    content = path.read_bytes()
    at = content.index(torch.ones(9).numpy().tobytes())  # In the middle of a tensor.
    flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    damaged = {"empty": b"", "short": content[:-9], "reversed": content[::-1], "flipped": flipped}
    path.write_bytes(damaged[damage])
    message = message_of(path)
    assert message.startswith(f"cannot read {path}: ")
    assert ("checksum" in message) == (damage == "flipped")


@pytest.mark.parametrize("content", [[STEM], torch.ones(3), 7])
def test_what_is_no_dictionary_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    assert "holds no state dict but a" in message_of(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, kind):
    torch.save(
        {"conv_stem.weight": torch.arange(24).reshape(2, 3, 2, 2).to(kind)}, tmp_path / "w.pt"
    )
    array = read_torch_file(str(tmp_path / "w.pt")).arrays["conv_stem.weight"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.arange(24).reshape(2, 3, 2, 2))


def test_what_wraps_a_parameter_or_a_name_does_not_matter(tmp_path):
    weights = {
        "module.conv_stem.weight": torch.nn.Parameter(torch.ones(1, 1, 1, 1)),
        "module.bn1.num_batches_tracked": torch.tensor(0),
    }
    torch.save({"state_dict": weights, "state_dict_ema": None}, tmp_path / "w.pth")
    stored = read_torch_file(str(tmp_path / "w.pth"))
    assert set(stored.arrays) == {"conv_stem.weight"}
    assert not stored.used_ema
