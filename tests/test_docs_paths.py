"""Documentation: every path, link, module and function that a page names exists."""

import ast
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "deploy/README.md", *sorted((ROOT / "docs").glob("*.md"))]
AT_THE_ROOT = ("datasets", "export", "hparams")  # Folders beside efficientnetv2/.
FOLDERS = (*AT_THE_ROOT, "efficientnetv2", "benchmarks", "deploy", "docs", "notebooks", "tests")
# "tests/cli/test_main.py", "docs/", "hparams/recipes/*.yaml"; not "runs/demo/export".
PATH = re.compile(rf"(?<![\w/.…-])((?:{'|'.join(FOLDERS)})/[\w./*-]*)")
PYTHON_FILE = re.compile(r"(?<![\w/.*-])(\w+\.py)\b")
LINK = re.compile(r"\]\(([^)\s]+)\)")
DOTTED = re.compile(r"(?<![\w./-])(efficientnetv2|effnet|benchmarks)((?:\.[A-Za-z_]\w*)+)")
PROGRAM = re.compile(r"python -m ([\w.]+)")
IMPORT = re.compile(r"^from (efficientnetv2[\w.]*) import (.+)$", re.MULTILINE)
# `datasets/pipeline.py`: `build_dataset`, `names_of_batch`
NAMES_IN_FILE = re.compile(r"`([\w/]+\.py)`(?:: | \()((?:`[\w.]+`(?:, | and )?)+)")


def each(pattern: re.Pattern) -> list:
    """A parameter for each match on a page: (page, match's groups)."""
    found = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in pattern.finditer(text):
            found[str(page.relative_to(ROOT)), match.groups()] = None
    return [pytest.param(page, *groups, id=f"{page}-{'-'.join(groups)}") for page, groups in found]


@functools.cache
def tree_of(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def names_in(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """{name: statement} that a module or a class defines, or imports."""
    names = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {t.id: node for t in targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name: node for alias in node.names}
    return names


def lazy_names(path: pathlib.Path) -> dict[str, str]:
    """{name: module} of the table `_HOMES` of an `__init__.py`."""
    node = names_in(tree_of(path).body).get("_HOMES")
    return ast.literal_eval(node.value) if node else {}


def resolves(names: list[str], body: list[ast.stmt]) -> bool:
    """Whether names lead through classes to something that is defined."""
    if not names:
        return True
    node = names_in(body).get(names[0])
    return node is not None and resolves(names[1:], getattr(node, "body", []))


def is_there(package: str, names: list[str]) -> bool:
    """Whether `package.names` is a module file or a name in one."""
    folder = ROOT / package
    while names:
        at_root = folder == ROOT / "efficientnetv2" and names[0] in AT_THE_ROOT
        inside = (ROOT if at_root else folder) / names[0]
        if inside.with_suffix(".py").is_file():
            return resolves(names[1:], tree_of(inside.with_suffix(".py")).body)
        if not (inside / "__init__.py").is_file():
            break
        folder, names = inside, names[1:]
    package = folder / "__init__.py"
    if not names:
        return package.is_file()
    home = lazy_names(package).get(names[0])
    if home is not None:
        return is_there("efficientnetv2", [*home.split(".")[1:], *names])
    return resolves(names, tree_of(package).body)


@functools.cache
def headings(path: pathlib.Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page, target", each(LINK))
def test_a_link_leads_somewhere(page, target):
    if target.startswith(("http://", "https://")):
        return
    path, _, anchor = target.partition("#")
    linked = (ROOT / page).parent / path if path else ROOT / page
    assert linked.exists()
    assert not anchor or anchor in headings(linked)


@pytest.mark.parametrize("page, path", each(PATH))
def test_a_path_exists(page, path):
    path = path.rstrip(".")
    assert (ROOT / path).exists() or ("*" in path and any(ROOT.glob(path)))


@pytest.mark.parametrize("page, name", each(PYTHON_FILE))
def test_a_file_without_a_folder_is_at_the_root_or_by_the_page(page, name):
    assert (ROOT / name).is_file() or ((ROOT / page).parent / name).is_file()


@pytest.mark.parametrize("page, package, names", each(DOTTED))
def test_a_dotted_name_is_a_module_or_in_one(page, package, names):
    package = {"effnet": "efficientnetv2"}.get(package, package)
    assert is_there(package, names.split(".")[1:])


@pytest.mark.parametrize("page, module", each(PROGRAM))
def test_a_program_is_a_module(page, module):
    package, *names = module.split(".")
    assert module == "pytest" or is_there(package, names)


@pytest.mark.parametrize("page, module, names", each(IMPORT))
def test_an_import_works(page, module, names):
    inside = module.split(".")[1:]
    assert [n for n in names.split(", ") if not is_there("efficientnetv2", [*inside, n])] == []


@pytest.mark.parametrize("page, path, names", each(NAMES_IN_FILE))
def test_a_file_has_the_names_that_are_listed_with_it(page, path, names):
    body = tree_of(ROOT / path).body
    listed = re.findall(r"`([\w.]+)`", names)
    assert [name for name in listed if not resolves(name.split("."), body)] == []


def constant(path: str, name: str) -> dict[str, ast.expr] | tuple[str, ...]:
    """A table of a module, of which only the keys are constants, or a tuple."""
    value = names_in(tree_of(ROOT / path).body)[name].value
    if isinstance(value, ast.Dict):
        return {key.value: node for key, node in zip(value.keys, value.values)}
    return ast.literal_eval(value)


def test_the_readme_has_every_mode_twice_and_only_public_functions():
    """As a function in the section "From Python", and with what it does."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    from_python, _, rest = text.partition("## From Python")[2].partition("## Modes and flags")
    modes = set(constant("efficientnetv2/cli/app.py", "MODES"))
    rows = dict(re.findall(r"^\| `(\w+)` \| `(?:with )?(\w+)\(.*\|$", from_python, re.M))
    described = re.findall(r"^\| `(\w+)` \|", rest.partition("| flag |")[0], re.MULTILINE)
    assert set(rows) == set(described) == modes
    package = "efficientnetv2/__init__.py"
    public = {*constant(package, "_HOMES"), *constant(package, "_CALLABLE_PACKAGES")}
    assert set(rows.values()) <= public


def test_what_is_not_there_is_noticed():
    assert not is_there("efficientnetv2", ["search", "space", "nothing"])
    assert not is_there("efficientnetv2", ["datasets", "nothing"])
    assert not is_there("efficientnetv2", ["nothing"])
    assert not is_there("benchmarks", ["nothing"])
    assert is_there("efficientnetv2", ["training", "trainer", "Trainer", "train"])
    assert not is_there("efficientnetv2", ["training", "trainer", "Trainer", "nothing"])
