"""The cells of notebooks/finetune.ipynb one by one: what they refuse, and the branches of Colab."""

import collections
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import types
import zipfile

import pytest
from notebook_runs import ROOT, sources
from packaging.requirements import Requirement

FIELD = re.compile(r"^(\w+) = (.+?)  # @param ", re.MULTILINE)


@pytest.fixture
def execute(tmp_path, monkeypatch, capsys):
    """Executes cells by their ids, in this process; returns their names, and what was printed."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("NOTEBOOK_WORK", str(tmp_path / "work"))

    def executed(*ids, **names):
        capsys.readouterr()
        for name in ids:
            exec(compile(sources("finetune")[name], name, "exec"), names)
        return types.SimpleNamespace(**names, printed=capsys.readouterr().out)

    return executed


def write_zip(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)


def test_each_form_field_can_come_from_the_environment(execute, tmp_path, monkeypatch):
    fields = {name for source in sources("finetune").values() for name, _ in FIELD.findall(source)}
    assert len(fields) == 9 and sum(s.count("@param") for s in sources("finetune").values()) == 9
    given = {name: str(index) for index, name in enumerate(sorted(fields), 100)}
    given["WORK"] = str(tmp_path / "elsewhere")
    for name, value in given.items():
        monkeypatch.setenv(f"NOTEBOOK_{name}", value)
    names = execute("project", "settings")
    assert {name: str(getattr(names, name)) for name in fields} == given
    assert type(names.IMAGE_SIZE) is type(names.EPOCHS) is int
    assert (tmp_path / "elsewhere").is_dir()


def test_the_project_is_found_or_cloned(execute, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    assert execute("project").printed == f"project: {ROOT}\n"
    assert pathlib.Path.cwd() == ROOT

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="^REPOSITORY is empty: give the address of the project"):
        execute("project")
    monkeypatch.setenv("NOTEBOOK_REPOSITORY", str(tmp_path / "none"))
    with pytest.raises(SystemExit, match="^cannot clone REPOSITORY=.*none: .*does not exist"):
        execute("project")

    origin = tmp_path / "origin"
    (origin / "efficientnetv2/network").mkdir(parents=True)
    (origin / "efficientnetv2/network/compat.py").touch()
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["init"], ["add", "."], [*identity, "commit", "-m", "one"]):
        subprocess.run(["git", *command], cwd=origin, check=True, capture_output=True)
    monkeypatch.setenv("NOTEBOOK_REPOSITORY", origin.as_uri())
    execute("project")
    clone = tmp_path / "efficientnetv2_project"
    assert pathlib.Path.cwd() == clone and str(clone) not in sys.path
    monkeypatch.chdir(tmp_path)  # As after a restart.
    monkeypatch.delenv("NOTEBOOK_REPOSITORY")
    execute("project")
    assert pathlib.Path.cwd() == clone


def test_the_stack_follows_the_python_version(execute):
    names = execute("project", "stack", "install")
    expected = {(3, 11): "2.15.1", (3, 12): "2.21.", (3, 13): "2.21."}[sys.version_info[:2]]
    chosen = {one.name: str(one.specifier) for one in names.stack}
    assert chosen["tensorflow"].startswith(f"=={expected}")
    assert "tensorflow-addons" not in chosen and "keras-cv" in chosen
    assert names.missing == []  # The tests' own environment has it all.
    assert f"tensorflow {expected}" in names.printed


@pytest.fixture
def installing(execute):
    """Executes the cell `install` with a pip that changes versions; returns its arguments."""

    def installed(before, after, returncode=0, gpu=None):
        # All else is as it was, imported or not.
        current, calls = collections.defaultdict(lambda: "0", before), []

        def pip(command, **more):
            calls.append(command)
            current.update(after)
            return types.SimpleNamespace(returncode=returncode, stderr="no such package")

        execute(
            "install",
            missing=["tensorflow"],
            stack=[Requirement("tensorflow==2.21.*"), Requirement("numpy")],
            version=current.__getitem__,
            importlib=importlib,
            shutil=types.SimpleNamespace(which=lambda name: gpu) if gpu else shutil,
            subprocess=types.SimpleNamespace(run=pip),
            sys=sys,
        )
        return calls[0][5:]

    return installed


def test_installing(installing, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert installing({"numpy": "1"}, {}) == ["tensorflow==2.21.*", "numpy"]
    with_gpu = installing({"numpy": "1"}, {}, gpu="/bin/nvidia-smi")
    assert with_gpu == ["tensorflow[and-cuda]==2.21.*", "numpy"]
    with pytest.raises(SystemExit, match="^replaced numpy: restart the session"):
        installing({"numpy": "1"}, {"numpy": "2"})
    with pytest.raises(SystemExit, match="^pip failed:\nno such package$"):
        installing({}, {}, returncode=1)


def test_a_command_that_fails_ends_the_notebook(execute):
    run = execute("project", "run").run
    with pytest.raises(SystemExit, match="^main.py ended with status 2: see the lines above$"):
        run("--mode=trian")


def test_the_sample_is_a_folder_of_classes(execute, tmp_path):
    names = execute("project", "stack", "settings", "run", "zip", "unzip")
    assert names.photos == tmp_path / "work" / "photos" / "shapes"
    assert len(list(names.photos.iterdir())) == 12
    assert len(list(names.photos.glob("*/*.png"))) == 12 * names.SAMPLE_IMAGES


def test_unpacking_a_zip(execute, tmp_path, monkeypatch):
    cells = ("project", "stack", "settings", "run", "zip", "unzip")
    monkeypatch.setenv("NOTEBOOK_ZIP", str(tmp_path / "a.zip"))
    names = ["mine/train/a/1.jpg", "mine/val/a/2.jpg", ".DS_Store", "__MACOSX/mine/._1.jpg"]
    write_zip(tmp_path / "a.zip", names)
    photos = execute(*cells).photos
    assert photos.name == "mine" and (photos / "train/a/1.jpg").read_text() == names[0]
    assert not (tmp_path / "work/photos/__MACOSX").exists()

    write_zip(tmp_path / "a.zip", ["a/1.jpg", "b/2.jpg"])
    photos = execute(*cells).photos  # Nothing is left of the zip before.
    assert sorted(path.name for path in photos.iterdir()) == ["a", "b"]

    for evil in ("../evil.jpg", "a/../../../evil.jpg", str(tmp_path / "evil.jpg")):
        write_zip(tmp_path / "a.zip", ["a/1.jpg", evil])
        with pytest.raises(SystemExit, match="would write outside of its folder: .*evil.jpg"):
            execute(*cells)
    assert list(tmp_path.rglob("evil.jpg")) == []


def test_what_is_no_zip(execute, tmp_path, monkeypatch):
    cells = ("project", "stack", "settings", "run", "zip")
    (tmp_path / "a.zip").write_text("no zip")
    for path, message in {
        str(tmp_path / "a.zip"): "ZIP='.*a.zip' is no zip file; give the path of one",
        str(tmp_path / "none.zip"): "ZIP='.*none.zip' is no zip file",
        "upload": "ZIP=upload works on Colab; give the path of the zip",
    }.items():
        monkeypatch.setenv("NOTEBOOK_ZIP", path)
        with pytest.raises(SystemExit, match=f"^{message}"):
            execute(*cells)


def test_uploading_on_colab(execute, tmp_path, monkeypatch):
    write_zip(tmp_path / "mine.zip", ["a/1.jpg"])
    colab = types.ModuleType("google.colab")
    colab.files = types.SimpleNamespace(upload=lambda: {str(tmp_path / "mine.zip"): b""})
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setenv("NOTEBOOK_ZIP", "upload")
    names = execute("project", "stack", "settings", "run", "zip")
    assert names.zip_path == str(tmp_path / "mine.zip")
