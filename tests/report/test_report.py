"""The page: well-formed, self-contained, and each number is that of the records."""

import base64
import dataclasses
import json

import numpy as np
import pytest
import tiny_run
from html_check import Page

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.report.evaluate import Findings, Mistake
from efficientnetv2.report.history import History
from efficientnetv2.report.report import Run, write_report

CONFIG = hparams.with_values(tiny_run.make_config("eval.best_metric=top1"), data__num_classes=3)
STAGES = hparams.make_stages(CONFIG)
NAMES = ("cat", "<b>dog</b>", "hen & egg")
COUNTS = np.array([[6, 3, 1], [0, 5, 0], [0, 0, 0]], np.int64)


def history(last_step):
    train = [
        {
            "kind": "train",
            "step": step,
            "loss": 4.0 / step,
            "accuracy": step / 20,
            "images_per_second": 100.0 + step,
            "learning_rate": 0.1,
        }
        for step in range(1, last_step + 1)
    ]
    evaluations = [{"kind": "eval", "step": 3, "loss": 2.0, "top1": 0.25, "top5": 1.0}]
    return History(STAGES, tuple(train), tuple(evaluations))


def findings(**changes):
    image = np.zeros((32, 32, 3), np.float32)
    found = Findings(
        "eval",
        32,
        12,
        {"loss": 0.5, "top1": 11 / 15, "top5": 1.0, "examples": 15},
        COUNTS.sum(axis=1),
        np.array([0.6, 1.0, np.nan]),
        COUNTS,
        (
            Mistake(9, image, (0,), 1, 0.9876, "photos/<9>.jpg"),
            Mistake(2, image, (0,), 2, 0.5),
        ),
    )
    return dataclasses.replace(found, **changes)


def make_run(last_step=12, found=None, **more):
    model = tiny_run.make_model() if found is not None else None
    return Run("my <run>", CONFIG, NAMES, history(last_step), found, model, **more)


def written(run, folder):
    path = write_report(run, str(folder))
    assert path == str(folder / "report.html")
    html, numbers = ((folder / f"report.{kind}").read_text() for kind in ("html", "json"))
    return Page(html), json.loads(numbers)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    more = {"best": {"step": 3, "metric": "top1", "value": 0.25}}
    more["environments"] = [{"Python": "3.11.7"}, {"Python": "3.13.1"}]
    page, numbers = written(make_run(12, findings(), **more), folder)
    return page, numbers, folder


def test_the_page_stands_alone(finished):
    page, _, folder = finished
    assert page.tags.isdisjoint({"script", "link", "iframe", "object"})
    source = (folder / "report.html").read_text()
    assert 'name="viewport"' in source and '<html lang="en">' in source
    assert all(word not in source for word in ("http:", "https:", "url(", "@import"))
    assert {link.removeprefix("#") for link in page.links} == set(page.ids)
    assert " ".join(page.ids) == "curves stages classes confusion errors config environment"


def test_each_picture_is_a_file_too_and_has_words_for_it(finished):
    page, _, folder = finished
    files = {path.read_bytes() for path in folder.glob("*.png")}
    shown = {base64.b64decode(one["src"].partition(",")[2]) for one in page.images}
    assert shown == files
    assert len(page.images) == 9  # Five curves, speed, matrix, two errors.
    assert all(len(one["alt"]) > 20 for one in page.images)
    assert not list(folder.glob("*.part"))


def test_the_top_says_what_was_reached(finished):
    source, numbers = (finished[2] / "report.html").read_text(), finished[1]
    for value, what in [
        ("73.3%", "top-1 accuracy"),
        ("100.0%", "top-5 accuracy"),
        ("0.500", "evaluation loss"),
        ("15", "images of the eval split"),
        ("0.2500", "best top1 in training, at step 3"),
        ("4 of 4", "stages begun"),
        ("100%", "of 12 steps"),
    ]:
        assert f"<b>{value}</b><span>{what}</span>" in source
    assert (
        "finished, at step 12 of 12; evaluated: the weights of step 12 on the eval split at 32"
        in source
    )
    assert "<h1>my &lt;run&gt;</h1>" in source
    assert (numbers["finished"], numbers["checkpoint_step"]) == (True, 12)


def test_stages_are_those_of_the_plan_with_the_median_of_their_windows(finished):
    page, numbers, _ = finished
    rows = page.table_with("stage", "steps", "done")
    assert [row[:3] for row in rows] == [
        ["1", "0–3", "100%"],
        ["2", "3–6", "100%"],
        ["3", "6–9", "100%"],
        ["4", "9–12", "100%"],
    ]
    assert [row[4] for row in rows] == [f"{stage.image_size} px" for stage in STAGES]
    assert [row[9] for row in rows] == ["102.0", "105.0", "108.0", "111.0"]
    assert rows[0][10] == f"{102 * 17**2 / 1e6:.2f}"
    assert [one["images_per_second"] for one in numbers["throughput"]] == [102, 105, 108, 111]


def test_classes_are_sorted_and_equal_the_diagonal(finished):
    page, numbers, _ = finished
    rows = page.table_with("class", "", "accuracy")
    assert rows == [
        ["cat", "", "60.0%", "10"],
        ["<b>dog</b>", "", "100.0%", "5"],
        ["hen & egg", "", "–", "0"],
    ]
    for row, k in zip(rows[:2], (0, 1)):
        assert row[2] == f"{COUNTS[k, k] / COUNTS[k].sum():.1%}"
    assert [one["score"] for one in numbers["classes"]] == [0.6, 1.0, None]
    assert "Mean of the classes: 80.0%." in page.text["classes"]


def test_a_column_for_cutmix_only_if_there_is_any(tmp_path):
    config = tiny_run.make_config("data.cutmix_alpha=0.5")
    changed = dataclasses.replace(history(2), stages=hparams.make_stages(config))
    page, _ = written(dataclasses.replace(make_run(), history=changed), tmp_path)
    [heads] = [rows[0] for rows in page.tables if rows[0][0] == "stage"]
    rows = page.table_with("stage", "steps")
    assert rows[3][heads.index("cutmix")] == "0.500"


def test_confused_pairs_and_errors_are_named(finished):
    page, numbers, _ = finished
    assert page.table_with("class", "taken for") == [
        ["cat", "<b>dog</b>", "3", "30.0%"],
        ["cat", "hen & egg", "1", "10.0%"],
    ]
    text = " ".join(page.text["errors"].split())
    assert "cat, taken for <b>dog</b> with a score of 0.988" in text
    assert "photos/<9>.jpg" in text and "example 2" in text
    assert [one["example"] for one in numbers["errors"]] == ["photos/<9>.jpg", 2]
    assert numbers["confused"][0] == {"class": "cat", "taken_for": "<b>dog</b>", "images": 3}


def test_the_config_and_both_environments(finished):
    page, _, _ = finished
    differing = page.table_with("setting", "value", "default")
    keys = hparams.differing_keys(CONFIG, hparams.Config())
    assert [row[0] for row in differing] == keys
    assert ["train.batch_size", "8", "4096"] in differing
    everything = [row for row in page.tables if row[0] == ["setting", "value"]]
    assert ["eval.patience", "None"] in everything[0]
    text = page.text["environment"]
    assert "Trained with (1 of 2)" in text and "3.11.7" in text and "3.13.1" in text
    assert "TensorFlow" in text


def test_a_run_killed_in_its_second_stage_shows_what_it_has(tmp_path):
    page, numbers = written(make_run(5, findings(split="minival", step=4)), tmp_path)
    rows = page.table_with("stage", "steps", "done")
    assert [row[2] for row in rows] == ["100%", "67%", "0%", "0%"]
    assert [row[9] for row in rows] == ["102.0", "104.5", "–", "–"]
    source = (tmp_path / "report.html").read_text()
    assert (
        "not finished, at step 5 of 12; evaluated: the weights of step 4 on the minival" in source
    )
    assert "<b>2 of 4</b>" in source
    assert (numbers["step"], numbers["finished"]) == (5, False)


def test_without_a_checkpoint_there_are_curves_and_config_alone(tmp_path):
    page, numbers = written(make_run(2), tmp_path)
    assert page.ids == ["curves", "stages", "config", "environment"]
    source = (tmp_path / "report.html").read_text()
    assert "There is no checkpoint yet" in source
    assert "<b>2.000</b><span>training loss</span>" in source
    assert "scores" not in numbers
    page, _ = written(dataclasses.replace(make_run(), history=History(STAGES, (), ())), tmp_path)
    assert "Nothing has been logged yet." in page.text["curves"]


def test_several_labels_have_average_precision(tmp_path):
    config = hparams.with_values(CONFIG, data__multiclass=True, eval__best_metric="loss")
    found = findings(
        confusion=None, scores={"loss": 0.5, "hit_at_1": 0.75, "global_ap": 0.5, "examples": 4}
    )
    page, _ = written(dataclasses.replace(make_run(12, found), config=config), tmp_path)
    assert "confusion" not in page.ids
    assert page.table_with("class", "", "average precision")[0][2] == "60.0%"
    assert "<b>75.0%</b><span>hit@1</span>" in (tmp_path / "report.html").read_text()


def test_many_classes_are_folded(tmp_path):
    classes = 30
    names = tuple(f"n{k}" for k in range(classes))
    found = findings(
        confusion=None,
        class_counts=np.ones(classes, int),
        class_scores=np.linspace(0, 1, classes),
        mistakes=(),
    )
    page, _ = written(dataclasses.replace(make_run(12, found), class_names=names), tmp_path)
    tables = [rows[1:] for rows in page.tables if rows[0][:3] == ["class", "", "accuracy"]]
    assert [row[0] for rows in tables for row in rows] == list(names)
    assert len(tables[0]) == 25
    assert "The other 5 classes" in page.text["classes"]
    assert "There is no error to show." in page.text["errors"]


def test_a_report_replaces_the_one_before_with_its_errors(tmp_path):
    (tmp_path / "error_07.png").write_bytes(b"old")
    (tmp_path / "mine.png").touch()
    written(make_run(12, findings()), tmp_path)
    names = {path.name for path in tmp_path.glob("*.png")}
    assert {"error_01.png", "error_02.png", "mine.png"} <= names
    assert "error_07.png" not in names


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder .*file/out: "):
        write_report(make_run(2), str(tmp_path / "file" / "out"))
    (tmp_path / "report.html.part").mkdir()
    with pytest.raises(UserError, match="cannot write .*report.html: Is a directory"):
        write_report(make_run(2), str(tmp_path))
