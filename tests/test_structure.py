"""Source tree: one import name, floors without arrows that run up, a quiet library."""

import ast
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Each may import those before it, lazily too; see docs/contributing.md.
FLOORS = (
    "common",
    "hparams",
    "datasets",
    "network",
    "weights",
    "training",
    "report",
    "export",
    "search",
    "cli",
)
AT_THE_ROOT = ("datasets", "export", "hparams")  # Folders beside efficientnetv2/.
PROGRAMS = {  # Run by `python -m` or as a process of their own; they read sys.argv and may exit.
    "efficientnetv2.datasets.sources.shapes",
    "efficientnetv2.search.measure",
    "efficientnetv2.search.run_trial",
}


def module_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(("efficientnetv2", *parts) if parts[0] in AT_THE_ROOT else parts)


def sources() -> dict[str, pathlib.Path]:
    """{module: file} of the package."""
    folders = ("efficientnetv2", *AT_THE_ROOT)
    return {module_of(p): p for folder in folders for p in (ROOT / folder).rglob("*.py")}


SOURCES = sources()
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in SOURCES.items()}


def floor_of(module: str) -> str:
    """The floor of a module; "" above all of them."""
    _, _, rest = module.partition(".")
    name = rest.split(".")[0]
    return name if name in FLOORS else ""


def imported(tree: ast.AST) -> set[str]:
    """Modules of the package that a file imports anywhere, or names in a string."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} & set(SOURCES) - {"efficientnetv2"}
    return {name for name in found if name.split(".")[0] == "efficientnetv2"}


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_those_below(floor):
    allowed = {*FLOORS[: FLOORS.index(floor) + 1]}
    arrows = [
        f"{module} -> {name}"
        for module, tree in TREES.items()
        if floor_of(module) == floor
        for name in sorted(imported(tree))
        if floor_of(name) not in allowed
    ]
    assert arrows == []


def test_every_module_is_on_a_floor():
    above = {module for module in SOURCES if not floor_of(module)}
    assert above == {"efficientnetv2", "efficientnetv2.__main__"}


def test_no_ring_inside_a_package():
    """Modules of a package do not import each other in a circle, lazily either."""
    arrows = {}
    for module, tree in TREES.items():
        names = imported(tree)
        targets = {n if n in SOURCES else n.rpartition(".")[0] for n in names} & set(SOURCES)
        arrows[module] = {t for t in targets if t != module and SOURCES[t].name != "__init__.py"}
    done = False
    while not done:  # Neither what imports nothing of the rest, nor what nothing of it imports.
        used = set().union(*arrows.values())
        ends = {module for module, targets in arrows.items() if not targets or module not in used}
        arrows = {m: t - ends for m, t in arrows.items() if m not in ends}
        done = not ends
    assert arrows == {}


def test_a_module_has_one_name():
    """Nothing imports datasets/, hparams/ or export/ by their bare names."""
    names = "|".join((*AT_THE_ROOT, "search", "modes"))
    bare = re.compile(rf"^\s*(import ({names})$|from ({names})(\.\w+)* import )", re.MULTILINE)
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = files.stdout.split() or [str(p.relative_to(ROOT)) for p in ROOT.rglob("*.py")]
    found = []
    for name in names:
        path = ROOT / name
        if path.suffix in (".py", ".ipynb", ".md") and path.exists() and "packaging" not in name:
            text = path.read_text(encoding="utf-8").replace('"', "")
            found += [f"{name}: {match.group()}" for match in bare.finditer(text)]
    assert found == []


def calls(tree: ast.AST, *names: str) -> list[int]:
    """Lines on which one of these is called or read, such as "print" or "sys.exit"."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            lines += [node.lineno] * (node.func.id in names)
        elif isinstance(node, ast.Attribute):
            lines += [node.lineno] * (ast.unparse(node) in names)
    return lines


def test_the_library_is_quiet_and_never_exits():
    """What prints does so by `common.console.show`, which a caller turns on."""
    found = []
    for module in set(SOURCES) - PROGRAMS - {"efficientnetv2.common.console"}:
        if floor_of(module) not in ("cli", ""):
            lines = calls(TREES[module], "print", "sys.exit", "sys.argv", "exit", "quit")
            found += [f"{module}:{line}" for line in lines]
    assert found == []


def test_flags_are_read_by_the_command_line_alone():
    found = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            names = {a.name for a in node.names} if isinstance(node, ast.ImportFrom) else set()
            if names & {"flags", "app"} and node.module == "absl" and floor_of(module) != "cli":
                found.append(module)
    assert found == []


def test_no_file_is_a_fragment():
    """Fewer than 40 lines need a reason."""
    reasons = {
        "efficientnetv2.__main__": "the entry of python -m",
        "efficientnetv2.common.callable_package": "one idea of several packages",
        "efficientnetv2.common.console": "one idea of every package",
        "efficientnetv2.common.errors": "imported by everything",
        "efficientnetv2.common.install": "how the package was installed",
        "efficientnetv2.common.text": "helpers of every package",
        "efficientnetv2.common.tf_import": "must be imported before TensorFlow",
        "efficientnetv2.network.silu": "TensorFlow's only, the network else is not",
    }
    short = {
        module
        for module, path in SOURCES.items()
        if path.name != "__init__.py" and len(path.read_text().splitlines()) < 40
    }
    assert short - set(reasons) == set()
