"""Shape of a small made-up source tree."""

import json
import textwrap
from pathlib import Path

import pytest

from benchmarks import code_shape

ENTRY = {"a job": ["pkg.missing:run", "pkg.job:run"]}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Returns a function that writes files below a fresh root and measures it."""
    monkeypatch.setattr(code_shape, "ENTRY_POINTS", ENTRY)

    def write(files: dict[str, str]) -> code_shape.Shape:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        return code_shape.measure(tmp_path)

    write.root = tmp_path
    return write


def job_reach(shape: code_shape.Shape) -> set[str]:
    """Files of the entry point, without the file that holds it."""
    (reach,) = shape.reach
    assert reach.entry == "pkg.job:run"
    assert "pkg/job.py" in reach.files
    return set(reach.files) - {"pkg/job.py"}


def test_only_source_files_count(tree):
    ignored = ("tests", "benchmarks", "notebooks", "docs", "build", "dist", "runs", "ci-output")
    ignored += (".venv", ".git", "pkg/.cache", "pkg.egg-info", "pkg/__pycache__")
    files = {f"{folder}/x.py": "x = 1\n" * 7 for folder in ignored}
    files |= {"main.py": "x = 1\n" * 60, "pkg/a.py": "x = 1\n" * 59, "pkg/docs/b.py": "x = 1\n"}
    shape = tree({**files, "pkg/notes.txt": "x\n"})
    assert shape.areas == {".": [1, 60], "pkg": [2, 60]}
    assert (shape.files, shape.lines) == (3, 120)
    assert shape.under_60 == 2
    assert shape.under_40 == {"pkg/docs/b.py": 1}
    assert list(shape.largest.items()) == [("main.py", 60), ("pkg/a.py", 59), ("pkg/docs/b.py", 1)]


def test_largest_files_and_longest_functions_are_limited(tree):
    text = "".join(f"def f{n}():\n" + "    pass\n" * (n + 1) for n in range(12))
    shape = tree({"pkg/a.py": text, **{f"pkg/b{n}.py": "x = 1\n" * n for n in range(9)}})
    assert list(shape.largest) == ["pkg/a.py", *(f"pkg/b{n}.py" for n in (8, 7, 6, 5))]
    assert list(shape.longest_functions.items())[:2] == [("pkg.a:f11", 13), ("pkg.a:f10", 12)]
    assert len(shape.longest_functions) == 10


def test_function_names_include_the_enclosing_definitions(tree):
    shape = tree(
        {
            "pkg/a.py": """\
            class Model:
                async def call(self):
                    if self:
                        def inner():
                            return 1
                    return inner
            """
        }
    )
    lengths = {"pkg.a:Model.call": 5, "pkg.a:Model.call.inner": 2}
    assert shape.longest_functions == lengths


def test_public_names_without_a_docstring_are_counted(tree):
    text = '''\
    """A module."""

    def documented():
        """Does it."""

        def nested(): ...

    def bare(): ...

    def _private(): ...

    class Model:
        """A model."""

        def __init__(self): ...

        @property
        def size(self):
            """Its size."""

        @size.setter
        def size(self, value): ...

        def call(self): ...

        def _build(self): ...

    class _Hidden:
        def call(self): ...
    '''
    shape = tree({"pkg/a.py": text, "pkg/_b.py": "def private(): ...\n", "pkg/c.py": ""})
    assert shape.public == {"modules": 2, "classes": 1, "functions": 2, "methods": 2}
    assert shape.undocumented == {
        "modules": ["pkg.c"],
        "classes": [],
        "functions": ["pkg.a:bare"],
        "methods": ["pkg.a:Model.call"],
    }


GOAL = {
    "pkg/__init__.py": "",
    "pkg/goal.py": "from pkg.deep import deep\ndef goal(): return deep()\n",
    "pkg/deep.py": "def deep(): ...\n",
}
USES = {
    "name": "from pkg.goal import goal\ndef run(): return goal()",
    "renamed": "from pkg.goal import goal as aim\ndef run(): return aim()",
    "module": "import pkg.goal\ndef run(): return pkg.goal.goal()",
    "renamed module": "import pkg.goal as g\ndef run(): return g.goal().x",
    "submodule": "from pkg import goal\ndef run(): return goal.goal()",
    "relative": "from .goal import goal\ndef run(): return goal()",
    "relative module": "from . import goal\ndef run(): return goal.goal()",
    "star": "from pkg.goal import *\ndef run(): return goal()",
    "lazy": "def run():\n    from pkg.goal import goal\n    return goal()",
    "lazy module": "def run():\n    import pkg.goal\n    return pkg.goal.goal()",
    "fallback": """try:
    from pkg.goal import goal
except ImportError:
    goal = None
def run(): return goal()""",
    "constant": "from pkg.goal import goal\nTABLE = {1: goal}\ndef run(): return TABLE[1]",
    "base class": "from pkg import goal\nclass run(goal.goal): ...",
    "method": "from pkg.goal import goal\nclass run:\n    def call(self): return goal()",
    "method's name": "from pkg import goal\nclass run:\n    def goal(self): return goal.goal()",
    "decorator": "from pkg.goal import goal\n@goal\ndef run(): ...",
    "default": "from pkg.goal import goal\ndef run(*, f=goal): ...",
    "nested": "from pkg.goal import goal\ndef run(): return lambda: [goal() for _ in 'x']",
    "next": "from pkg.goal import goal\ndef run(): return middle()\ndef middle(): goal()",
    "call chain": "from pkg.goal import goal\ndef run(): return [goal][0]().x.y",
    "attribute": "from pkg import goal\ndef run(): return goal.goal.x",
    "item": "from pkg.goal import goal\ndef run(): TABLE[goal()] = 1",
    "pair": "OPENERS = {'x': ('pkg.goal', 'goal')}\ndef run(): return OPENERS['x']",
    "string": "def run(): return load('pkg.goal:goal')",
}
NO_USES = {
    "unused": "from pkg.goal import goal\ndef run(): ...\ndef other(): return goal()",
    "annotation": "from pkg.goal import goal\ndef run(x: goal) -> goal:\n    y: goal = x",
    "parameter": "from pkg.goal import goal\ndef run(goal): return goal()",
    "variable": "from pkg.goal import goal\ndef run():\n    for goal in 'x': goal()",
    "context": "from pkg.goal import goal\ndef run():\n    with x as goal: goal()",
    "comprehension": "from pkg.goal import goal\nT = [goal for goal in 'x']\ndef run(): T",
    "third-party": "from other.goal import goal\ndef run(): return goal()",
    "third-party module": "import other\ndef run(): return other.goal.goal()",
    "package": "import pkg\ndef run(): return [pkg]",
    "text": "def run(): return 'pkg.goal', 'none', 'pkg.goal:none', ('pkg', 'goal')",
}
REEXPORTS = {
    "import": "from lib.home import goal",
    "relative": "from .home import goal",
    "two steps": "from lib.again import goal",
    "table": "H = {'goal': 'lib.home'}\ndef __getattr__(name): return load(H[name])",
    "relative table": "H = {'goal': '.home'}\ndef __getattr__(name): return load(H[name])",
    "table of pairs": "H = {'goal': ('lib.home', 'goal')}\ndef __getattr__(name): return H",
    "table of strings": "H = {'goal': 'lib.home:goal'}\ndef __getattr__(name): return H",
    "table by module": "H = {'home': ['x', 'goal']}\ndef __getattr__(name): return H",
    "function": """def __getattr__(name):
    if name == "goal":
        from lib import home
        return getattr(home, name)
    from lib import missing""",
}


@pytest.mark.parametrize("use", USES)
def test_reach_follows(tree, use):
    shape = tree({**GOAL, "pkg/job.py": USES[use] + "\n"})
    assert job_reach(shape) == {"pkg/goal.py", "pkg/deep.py"}


def test_only_the_file_of_a_module_passed_as_a_value_counts(tree):
    shape = tree({**GOAL, "pkg/job.py": "from pkg import goal\ndef run(): return [goal]\n"})
    assert job_reach(shape) == {"pkg/goal.py"}


@pytest.mark.parametrize("text", NO_USES)
def test_reach_leaves_out(tree, text):
    assert job_reach(tree({**GOAL, "pkg/job.py": NO_USES[text] + "\n"})) == set()


@pytest.mark.parametrize("package", REEXPORTS)
def test_reexports_lead_to_the_definition_and_do_not_count(tree, package):
    files = {
        "lib/__init__.py": REEXPORTS[package] + "\n",
        "lib/again.py": "from lib.home import goal\n",
        "lib/home.py": "def goal(): ...\n",
        "lib/other.py": "def goal(): ...\n",
    }
    shape = tree({**files, "pkg/job.py": "import lib\ndef run(): return lib.goal()\n"})
    assert job_reach(shape) == {"lib/home.py"}


def test_an_init_file_counts_for_a_definition_of_its_own(tree):
    files = {"lib/__init__.py": "from lib.x import x\ndef goal(): ...\n", "lib/x.py": "x = 1\n"}
    shape = tree({**files, "pkg/job.py": "import lib\ndef run(): return lib.goal()\n"})
    assert job_reach(shape) == {"lib/__init__.py"}


def test_circular_reexports_terminate(tree):
    files = {"pkg/a.py": "from pkg.b import goal\n", "pkg/b.py": "from pkg.a import goal\n"}
    shape = tree({**files, "pkg/job.py": "from pkg.a import goal\ndef run(): goal(), run()\n"})
    assert job_reach(shape) == set()


def test_package_dir_names_the_modules_of_a_folder(tree):
    shape = tree(
        {
            "pyproject.toml": '[tool.setuptools.package-dir]\n"lib.data" = "data"\n',
            "lib/__init__.py": "",
            "data/__init__.py": "from .source import read\n",
            "data/source.py": "from ..text import line\ndef read(): return line()\n",
            "lib/text.py": "def line(): ...\n",
            "pkg/job.py": "from lib.data import read\ndef run(): return read()\n",
        }
    )
    assert job_reach(shape) == {"data/source.py", "lib/text.py"}
    assert shape.longest_functions.keys() == {
        "lib.data.source:read",
        "lib.text:line",
        "pkg.job:run",
    }
    assert shape.areas["data"] == [2, 3]


def test_folders_without_an_init_file_are_packages(tree):
    job = "from lib.inner import home\ndef run(): return home.goal()\n"
    shape = tree({"lib/inner/home.py": "def goal(): ...\n", "pkg/job.py": job})
    assert job_reach(shape) == {"lib/inner/home.py"}


def test_table_shows_every_measurement(tree):
    shape = tree({**GOAL, "pkg/job.py": USES["name"] + "\n"})
    text = code_shape.table(shape)
    for line in (
        "pkg                           4       5",
        "files under 60 lines: 4, under 40: 4",
        "      2  pkg/goal.py",
        "      1  pkg.goal:goal",
        "functions                     3             3        0.0%",
        "all                           7             7        0.0%",
        "      3  a job (pkg.job:run)",
    ):
        assert line in text.splitlines()
    assert "         pkg/deep.py" not in text.splitlines()
    assert "         pkg/deep.py" in code_shape.table(shape, show_files=True).splitlines()


def test_a_missing_entry_point_is_reported(tree):
    shape = tree({"pkg/job.py": "x = 1\n"})
    assert shape.reach == [code_shape.Reach("a job", None, [])]
    assert "      0  a job (not in this tree)" in code_shape.table(shape).splitlines()


def test_command_prints_table_or_json(tree, monkeypatch, capsys):
    tree({**GOAL, "pkg/job.py": USES["name"] + "\n"})
    root = str(tree.root)
    monkeypatch.setattr("sys.argv", ["code_shape", root, "--json"])
    code_shape.main()
    shape = json.loads(capsys.readouterr().out)
    assert shape["files"] == 4
    assert shape["reach"][0]["files"] == ["pkg/deep.py", "pkg/goal.py", "pkg/job.py"]
    monkeypatch.setattr("sys.argv", ["code_shape", root, "--files"])
    code_shape.main()
    assert "         pkg/deep.py" in capsys.readouterr().out.splitlines()
    monkeypatch.setattr("sys.argv", ["code_shape", f"{root}/missing"])
    with pytest.raises(SystemExit):
        code_shape.main()
    assert "missing is not a folder" in capsys.readouterr().err


def test_every_entry_point_is_in_this_tree():
    """A moved entry point gets its new name in the table of the script."""
    root = Path(code_shape.__file__).parents[1]
    assert all(reach.entry and len(reach.files) > 1 for reach in code_shape.measure(root).reach)
