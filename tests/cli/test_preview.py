"""Mode preview: the files, the JSON line, and bad input in one line."""

import pytest
from image_folder import jpeg, make_images

from efficientnetv2.datasets.tools import preview

FILES = ["evaluation.png", "keras_cv.png", "ops_corrected.png", "ops_official.png", "stages.png"]
SETTINGS = "train.batch_size=4,train.epochs=4,train.stages=2,data.augname=null"
SETTINGS += ",train.isize=24,data.ibase=16,eval.isize=24"


@pytest.fixture(autouse=True)
def few_layers(monkeypatch):
    """The other layers take half a minute to trace."""
    monkeypatch.setattr(preview, "LAYERS", {"RandomHue": {}})


def flags(data, output, overrides=""):
    return (
        "--mode=preview",
        "--dataset_cfg=folder",
        f"--data_dir={data}",
        f"--hparam_str={SETTINGS}{overrides}",
        f"--output_dir={output}",
    )


def test_the_same_command_writes_the_same_sheets(answer, tmp_path):
    make_images(tmp_path / "photos", {"ant": 8, "bee": 8})
    for name in ("one", "two/deeper"):
        result, lines = answer(*flags(tmp_path / "photos", tmp_path / name))
        assert sorted(file.name for file in (tmp_path / name).iterdir()) == FILES
        paths = [str(tmp_path / name / file) for file in FILES]
        assert sorted(result["files"]) == paths
        assert (result["images"], result["stages"]) == (8, 2)
        assert sorted(lines[:-1]) == [f"sheet  {path}" for path in paths]
    for file in FILES:
        first = (tmp_path / "one" / file).read_bytes()
        assert first.startswith(b"\x89PNG")
        assert first == (tmp_path / "two" / "deeper" / file).read_bytes()


def test_another_source_and_fewer_images(answer, tmp_path):
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(5):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(jpeg(number))
        rows.append(f"images/{number}.jpg,{'ab'[number % 2]}\n")
    (tmp_path / "images.csv").write_text("".join(["path,label\n", *rows]))
    result, _ = answer(
        "--mode=preview",
        "--dataset_cfg=csv",
        f"--data_dir={tmp_path}",
        f"--hparam_str={SETTINGS},data.eval_fraction=0.3,train.batch_size=4096",
        f"--output_dir={tmp_path}/out",
    )
    assert (result["images"], result["stages"]) == (3, 2)  # The others are held out.


def test_bad_input_is_one_line(refused, tmp_path):
    make_images(tmp_path / "photos", {"ant": 3, "bee": 3})
    data, out = tmp_path / "photos", tmp_path / "out"
    assert refused(*flags(data, out)[:-1]) == "--output_dir=PATH is needed with --mode=preview"
    (tmp_path / "file").write_text("")
    error = refused(*flags(data, tmp_path / "file" / "out"))
    assert error.startswith(f"cannot make the folder {tmp_path}/file/out: ")
    error = refused(*flags(data, out, ",data.extra_augment=RandomHeu"))
    assert "unknown layer 'RandomHeu'" in error


def test_a_broken_image_is_named(answer, capsys, tmp_path):
    make_images(tmp_path / "photos", {"ant": 4, "bee": 4})
    broken = sorted((tmp_path / "photos").glob("*/*.jpg"))
    for file in broken:
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(SystemExit):
        answer(*flags(tmp_path / "photos", tmp_path / "out"))
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert any(error[0].startswith(f"error: cannot read {file}: ") for file in broken)
