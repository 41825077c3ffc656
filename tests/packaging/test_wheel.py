"""The wheel, an editable installation and a checkout, each next to Hugging Face's `datasets`.

A package named `datasets` stands in for Hugging Face's. Each environment is new and borrows only
TensorFlow and the like, from the environment of the tests.
"""

import ast
import email
import functools
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from image_folder import make_images
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from efficientnetv2 import Blocks, ModelSpec, save_spec

ROOT = pathlib.Path(__file__).parents[2]
AT_ROOT = ("datasets", "export", "hparams")  # Folders that are imported as efficientnetv2.NAME.
SPACE = {
    "name": "tiny",
    "kinds": ["fused"],
    "repeats": [1],
    "kernels": [3],
    "expands": [1],
    "backbones": [
        {
            "name": "one",
            "channels_in": 8,
            "head_channels": 16,
            "stages": [{"channels": 8, "stride": 2}],
        }
    ],
    "baseline": {"stage1.kernel": 3},
}
SETTINGS = (
    "train.epochs=1,train.stages=1,train.batch_size=8,train.isize=32,data.ibase=32,eval.isize=32,"
    "eval.batch_size=8,data.augname=null,train.lr_warmup_epoch=0"
)
# Which `datasets` is imported, and what of efficientnetv2 works without TensorFlow.
IMPORTS = """
import importlib.resources, json, sys
import efficientnetv2 as effnet, efficientnetv2.datasets, efficientnetv2.hparams, datasets
recipes = importlib.resources.files("efficientnetv2.hparams") / "recipes"
config = effnet.get_config("efficientnetv2-b0", "shapes", f"{recipes / 'shapes_demo.yaml'}")
print(json.dumps({
    "package": effnet.__file__,
    "ours": effnet.datasets.__file__,
    "theirs": datasets.__file__,
    "model": config.model.model_name,
}))
"""
# Python imports this module when it starts: it blocks the modules of packages that are not
# declared, and records what `datasets` is when the process ends.
PROBE = """
import atexit, os, sys

sys.modules.update(dict.fromkeys(os.environ["BLOCKED"].split(), None))

@atexit.register
def record():
    import datasets
    with open(os.environ["PROBE"], "a") as file:
        file.write(datasets.__file__ + chr(10))
"""


def execute(*command, **options) -> str:
    """Runs a process that must succeed; returns its standard output."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=600, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_lines(path: pathlib.Path) -> list[str]:
    """The requirements of a file and of the files that it names with -r."""
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    own = [line for line in lines if line and not line.startswith("-r ")]
    inner = [read_lines(path.with_name(line[3:])) for line in lines if line.startswith("-r ")]
    return sum(inner, own)


@functools.cache
def undeclared_modules(extra: str) -> list[str]:
    """Modules of the test environment that neither the product nor the extra requires."""
    files = ["requirements.txt", f"requirements-{extra}.txt"][: 1 + bool(extra)]
    pending = [Requirement(line) for file in files for line in read_lines(ROOT / file)]
    required = set()
    while pending:
        one = pending.pop()
        name = canonicalize_name(one.name)
        for part in {"", *one.extras}:
            if (name, part) in required or (one.marker and not one.marker.evaluate()):
                continue
            required.add((name, part))
            for line in importlib.metadata.requires(name) or ():
                inner = Requirement(line)
                if inner.marker is None or inner.marker.evaluate({"extra": part}):
                    inner.marker = None
                    pending.append(inner)
    names = {name for name, _ in required}
    modules = importlib.metadata.packages_distributions()
    return sorted(
        module
        for module, owners in modules.items()
        if not names & set(map(canonicalize_name, owners))
    )


class Environment:
    """A virtual environment that holds the stand-in, and the test environment's packages."""

    def __init__(self, folder: pathlib.Path, stand_in: pathlib.Path):
        execute(sys.executable, "-m", "venv", "--without-pip", folder)
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.console_command = folder / "bin" / "efficientnetv2"
        [self.site_packages] = folder.glob("lib/python*/site-packages")
        borrowed = sysconfig.get_path("purelib")
        (self.site_packages / "borrowed.pth").write_text(f"{borrowed}\n")
        (folder / "probe").mkdir()
        (folder / "probe" / "sitecustomize.py").write_text(PROBE)
        self.pip("install", stand_in)
        self.stand_in = str(self.site_packages / "datasets" / "__init__.py")

    def pip(self, command: str, *arguments) -> None:
        options = ("--no-deps", "--no-index", "--no-build-isolation")
        options = options if command == "install" else ("--yes",)
        pip = (sys.executable, "-m", "pip", "--python", self.python, command, "--quiet")
        execute(*pip, *options, *arguments)

    def imports(self, cwd: pathlib.Path) -> dict[str, str]:
        """What is imported in a process of its own that starts in this folder."""
        return json.loads(execute(self.python, "-c", IMPORTS, cwd=cwd))

    def run(self, *command, cwd: pathlib.Path, extra: str = "") -> str:
        """Runs a command that imports only what the product and this extra require.

        `datasets` must be the stand-in at the end of each of its processes.
        """
        record = self.folder / "record"
        record.unlink(missing_ok=True)
        probe = {
            "PYTHONPATH": str(self.folder / "probe"),
            "PROBE": str(record),
            "BLOCKED": " ".join(undeclared_modules(extra)),
        }
        output = execute(*command, cwd=cwd, env={**os.environ, **probe})
        assert set(record.read_text().splitlines()) == {self.stand_in}
        return output


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository, without documentation and what runs and builds left there."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("efficientnetv2", *AT_ROOT, "benchmarks", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    """The wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from setuptools import build_meta as b; b.build_sdist(sys.argv[1])"
    execute(sys.executable, "-c", build, folder, cwd=checkout)
    [source] = folder.glob("*.tar.gz")
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder)
    execute(sys.executable, "-m", "pip", "wheel", "--quiet", *options, source)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A wheel of another package named `datasets`."""
    path = tmp_path_factory.mktemp("stand_in") / "datasets-99.0-py3-none-any.whl"
    about = "datasets-99.0.dist-info"
    files = {
        "datasets/__init__.py": "",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: datasets\nVersion: 99.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{about}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def environment(tmp_path, stand_in):
    return Environment(tmp_path / "environment", stand_in)


@pytest.fixture
def work(tmp_path):
    """An empty folder to run commands in."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def shipped(name: str) -> bool:
    """Whether a file of the repository belongs into the wheel."""
    folder, _, file = name.partition("/")
    data = name.startswith(("hparams/recipes/", "efficientnetv2/search/spaces/"))
    is_code = name.endswith((".py", ".pyi", "/py.typed", "/imagenet_labels.txt"))
    return folder in ("efficientnetv2", *AT_ROOT) and (data or is_code)


def test_the_wheel_holds_one_package_with_all_its_files(wheel, checkout):
    files = [str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()]
    expected = {
        name if name.startswith("efficientnetv2/") else f"efficientnetv2/{name}"
        for name in files
        if shipped(name)
    }
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    [information] = {name.split("/")[0] for name in names} - {"efficientnetv2"}
    assert information.endswith(".dist-info")
    package = {name for name in names if name.startswith("efficientnetv2/")}
    assert package == expected
    assert package >= {
        "efficientnetv2/py.typed",
        "efficientnetv2/cli/app.py",
        "efficientnetv2/datasets/imagenet_labels.txt",
        "efficientnetv2/hparams/recipes/shapes_demo.yaml",
        "efficientnetv2/search/spaces/cifar.json",
    }


def requirements(lines: list[str], extra: str = "") -> set[tuple]:
    """Name, extras and versions of what this Python needs."""
    parsed = [Requirement(line) for line in lines]
    return {
        (canonicalize_name(one.name), frozenset(one.extras), str(one.specifier))
        for one in parsed
        if one.marker is None or one.marker.evaluate({"extra": extra})
    }


def test_dependencies_and_extras_are_those_of_the_requirements_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    lines = metadata.get_all("Requires-Dist")
    base = requirements(read_lines(ROOT / "requirements.txt"))
    assert requirements(lines) == base
    extras = metadata.get_all("Provides-Extra")
    assert set(extras) == {"gpu", "export", "demo", "search", "dev"}
    for extra in extras:
        expected = requirements(read_lines(ROOT / f"requirements-{extra}.txt"))
        assert requirements(lines, extra) == base | expected, extra


def imported_modules(text: str) -> set[str]:
    """The top-level names of the modules that a program imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_each_package_that_is_imported_is_a_requirement(wheel):
    with zipfile.ZipFile(wheel) as archive:
        programs = [archive.read(name) for name in archive.namelist() if name.endswith(".py")]
    imported = set().union(*map(imported_modules, programs))
    lines = read_lines(ROOT / "requirements-dev.txt")
    required = {canonicalize_name(Requirement(line).name) for line in lines}
    modules = importlib.metadata.packages_distributions().items()
    provided = {name for name, owners in modules if required & set(map(canonicalize_name, owners))}
    provided |= {name.replace("-", "_") for name in required}  # Those of the other stack, too.
    with_tensorflow, optional = {"numpy", "ml_dtypes"}, {"torch"}
    own = {"efficientnetv2", *sys.stdlib_module_names}
    assert imported <= own | provided | with_tensorflow | optional


def test_a_checkout_runs_from_any_folder_and_hides_no_other_package(environment, work):
    python = environment.python
    for cwd in (ROOT, work):
        plan = environment.run(python, ROOT / "main.py", "--dry_run", cwd=cwd)
        assert plan.startswith("stage  epochs")
    assert environment.run(python, "main.py", "--dry_run", cwd=ROOT) == plan
    assert environment.run(python, "-m", "efficientnetv2", "--dry_run", cwd=ROOT) == plan
    assert list(work.iterdir()) == []


def test_an_editable_installation_imports_the_checkout(environment, checkout, work):
    environment.pip("install", "--editable", checkout)
    assert environment.imports(work) == {
        "package": str(checkout / "efficientnetv2" / "__init__.py"),
        "ours": str(checkout / "datasets" / "__init__.py"),
        "theirs": environment.stand_in,
        "model": "efficientnetv2-b0",
    }
    plan = environment.run(environment.console_command, "--dry_run", cwd=work)
    assert plan.startswith("stage  epochs")
    assert environment.run(environment.console_command, "--dry_run", cwd=checkout) == plan
    environment.pip("uninstall", "datasets")
    find = f"import importlib.util as u; print(*map(u.find_spec, {AT_ROOT}))"
    assert execute(environment.python, "-c", find, cwd=work).split() == ["None"] * len(AT_ROOT)


def test_installing_and_uninstalling_leaves_the_other_package(environment, wheel, work):
    environment.pip("install", wheel)
    package = environment.site_packages / "efficientnetv2"
    expected = {
        "package": str(package / "__init__.py"),
        "ours": str(package / "datasets" / "__init__.py"),
        "theirs": environment.stand_in,
        "model": "efficientnetv2-b0",
    }
    assert environment.imports(work) == expected
    plan = environment.run(environment.console_command, "--dry_run", cwd=work)
    assert plan.startswith("stage  epochs")
    module = (environment.python, "-m", "efficientnetv2", "--dry_run")
    assert environment.run(*module, cwd=work) == plan

    environment.pip("uninstall", "efficientnetv2")
    assert not package.exists() and not environment.console_command.exists()
    environment.run(environment.python, "-c", "import datasets", cwd=work)
    assert list(environment.site_packages.glob("datasets-99.0.dist-info/METADATA"))


@pytest.mark.slow
def test_the_installed_command_trains_exports_and_searches(environment, wheel, work):
    environment.pip("install", wheel)
    make_images(work / "photos", {"cat": 20, "dog": 20})
    blocks = (Blocks("fused", 1, 3, 2, 1, 8, 8),)
    save_spec(ModelSpec("tiny", blocks, head_channels=16), str(work / "tiny.json"))
    (work / "space.json").write_text(json.dumps(SPACE))
    data = ("--dataset_cfg=folder", "--data_dir=photos", f"--hparam_str={SETTINGS}")

    def run(*flags, extra=""):
        output = environment.run(environment.console_command, *flags, cwd=work, extra=extra)
        return json.loads(output.splitlines()[-1])

    scores = run("--mode=traineval", "--model_name=tiny.json", "--model_dir=run", *data)
    assert scores["step"] == 4 and 0 <= scores["top1"] <= 1
    assert {"config.yaml", "labels.txt", "metrics.jsonl"} <= set(os.listdir(work / "run"))

    run("--mode=export", "--model_dir=run", "--export_dir=serving")
    assert {"saved_model.pb", "model_card.json"} <= set(os.listdir(work / "serving" / "1"))

    found = run(
        "--mode=search",
        "--search_space=space.json",
        "--model_dir=study",
        "--search_budget=1",
        *data,
        extra="search",
    )
    assert found["trials"]["complete"] == 1
    assert (work / found["page"]).is_file() and (work / found["best"]).is_file()
