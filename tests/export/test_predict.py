"""Asking an export what is in image files."""

import os
import shutil

import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2.common.errors import UserError
from efficientnetv2.export.predict import find_images, load_serving, predict_files
from efficientnetv2.export.serving import ServingModule


@pytest.fixture(scope="module")
def classify(model, config):
    names = [f"class {index}" for index in range(tiny_run.CLASSES)]
    return ServingModule(model, 32, config.data, names).serving_default


@pytest.fixture
def folder(tmp_path, images):
    """A folder of the images, a file that is none, and a folder inside."""
    for name, encoded in images.items():
        (tmp_path / name).write_bytes(encoded)
    (tmp_path / "UPPER.JPG").write_bytes(images["wide.jpg"])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "inside").mkdir()
    return tmp_path


def ask(classify, *paths):
    shown = []
    return list(predict_files(classify, [str(path) for path in paths], shown.append)), shown


def test_one_image(classify, folder, images):
    (answer,), shown = ask(classify, folder / "wide.jpg")
    result = classify(tf.constant([images["wide.jpg"]]))
    scores, classes = result["scores"].numpy()[0], result["classes"].numpy()[0]
    assert answer["image"] == str(folder / "wide.jpg")
    assert answer["top"] == [
        {"class": int(c), "label": f"class {c}", "score": round(float(scores[c]), 6)}
        for c in classes
    ]
    assert len(answer["top"]) == 5
    found = [line["score"] for line in answer["top"]]
    assert found == sorted(found, reverse=True)
    assert shown[0] == str(folder / "wide.jpg")
    best = answer["top"][0]
    assert shown[1].startswith(f"  {best['score']:6.1%} ")
    assert shown[1].endswith(f" {best['label']}")
    assert shown[1].count("█") == round(best["score"] * 20)
    assert len(shown) == 6


def test_several_images_are_answered_in_their_order(classify, folder):
    paths = [folder / "wide.jpg", folder / "alpha.png", folder / "grey.jpeg"]
    answers, _ = ask(classify, *paths)
    assert [answer["image"] for answer in answers] == [str(path) for path in paths]
    assert answers[0]["top"] != answers[1]["top"] != answers[2]["top"]
    assert answers[1]["top"] == ask(classify, paths[1])[0][0]["top"]


def test_a_folder_gives_its_images_sorted(classify, folder):
    answers, _ = ask(classify, folder)
    names = [os.path.basename(answer["image"]) for answer in answers]
    assert names == ["UPPER.JPG", "alpha.png", "grey.jpeg", "small.png", "wide.jpg"]


def test_folders_and_files_mix(folder):
    found = find_images([str(folder / "wide.jpg"), str(folder), str(folder / "wide.jpg")])
    assert len(found) == 7
    assert found[0] == found[-1] == str(folder / "wide.jpg")


def test_a_missing_path_is_a_user_error(classify, folder):
    with pytest.raises(UserError, match="no image at '.*none.jpg'; --image_path"):
        ask(classify, folder / "wide.jpg", folder / "none.jpg")


def test_a_folder_without_images_is_a_user_error(classify, folder):
    with pytest.raises(UserError, match="inside has no images .*jpg"):
        ask(classify, folder / "inside")


@pytest.mark.parametrize("content", [b"", b"no image", "short"])
def test_a_file_that_is_no_image_is_a_user_error_naming_it(classify, folder, images, content):
    content = images["wide.jpg"][:60] if content == "short" else content
    (folder / "bad.jpg").write_bytes(content)
    with pytest.raises(UserError, match="bad.jpg is no readable JPEG, PNG, BMP or GIF image"):
        ask(classify, folder / "wide.jpg", folder / "bad.jpg")


def test_a_file_that_cannot_be_read_is_a_user_error(classify, folder, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setitem(predict_files.__globals__, "open", refuse)
    with pytest.raises(UserError, match="cannot read .*wide.jpg: Permission denied"):
        ask(classify, folder / "wide.jpg")


def test_without_class_names_the_label_is_the_index(model, config, folder):
    serving = ServingModule(model, 32, config.data).serving_default
    (answer,), _ = ask(serving, folder / "wide.jpg")
    assert all(line["label"] == str(line["class"]) for line in answer["top"])


def test_an_export_answers_as_its_model(classify, exported, folder):
    expected, _ = ask(classify, folder)
    answers, _ = ask(load_serving(exported), folder)
    for mine, theirs in zip(answers, expected, strict=True):
        assert [line["label"] for line in mine["top"]] == [line["label"] for line in theirs["top"]]
        for line, other in zip(mine["top"], theirs["top"], strict=True):
            assert line["score"] == pytest.approx(other["score"], abs=1e-5)


def test_a_folder_of_versions_gives_the_newest(exported, images, tmp_path):
    for name in ("2", "10", "9.part"):
        (tmp_path / name).mkdir()
    shutil.copytree(exported, tmp_path / "10", dirs_exist_ok=True)
    answer = load_serving(str(tmp_path))(tf.constant([images["wide.jpg"]] * 2))
    assert answer["scores"].shape == (2, tiny_run.CLASSES)


@pytest.mark.parametrize("kind", ["missing", "empty", "half"])
def test_no_export_is_a_user_error(tmp_path, kind):
    path = tmp_path / "exports"
    if kind != "missing":
        path.mkdir()
    if kind == "half":
        (path / "1.part").mkdir()
        (path / "1.part" / "saved_model.pb").touch()
    with pytest.raises(UserError, match="no SavedModel in .*exports; export first"):
        load_serving(str(path))
