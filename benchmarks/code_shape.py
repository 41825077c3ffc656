"""Shape of the source tree: file sizes, longest functions, docstrings, reach of entry points.

    python -m benchmarks.code_shape [ROOT] [--files] [--json]

Reach is the number of project files that a reader opens to follow an entry point. It is a static
closure over definitions: names and attributes used in a function, in a class with all of its
methods, or in the value of a module-level name are resolved to definitions of the project, through
imports (also inside functions), re-exports and lazy `__getattr__` tables, and those are followed in
turn, decorators, base classes and default arguments included. The strings ("module", "name") and
"module:name" count as a use of what they name. Files that hold such a definition are counted; an
`__init__.py` that only re-exports is not.

Limits: types are not inferred, so `model.fit()` leads nowhere unless the class of `model` is used
too, and an argument's class is reached only where it is built. A class counts as a whole, even
where one method is called; of a module passed as a value, only the file counts. Annotations,
third-party code, statements that only run at import and names registered elsewhere are not
followed. A name that a function binds anywhere is local to all of it.
"""

import argparse
import ast
import dataclasses
import importlib.util
import json
import os
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# Name -> candidates, "module:top-level name"; the first one that exists in the tree is used.
ENTRY_POINTS = {
    "a training step": ["efficientnetv2.training.trainer:Trainer"],
    "an augmented image": [
        "efficientnetv2.datasets.pipeline:build_dataset",
        "datasets.pipeline:build_dataset",
    ],
    "an export": [
        "efficientnetv2.export.saved_model:export_saved_model",
        "export.saved_model:export_saved_model",
    ],
}
TOP_LEVEL_EXCLUDED = {"tests", "benchmarks", "notebooks", "docs"}
EXCLUDED = {"build", "dist", "runs", "ci-output", "__pycache__"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)


@dataclass(frozen=True)
class Source:
    """One parsed file; `path` is relative to the root of the tree."""

    path: str
    module: str
    is_package: bool
    lines: int
    tree: ast.Module


@dataclass(frozen=True)
class Reach:
    """Files that an entry point leads to; `entry` is None where the tree has no candidate."""

    name: str
    entry: str | None
    files: list[str]


@dataclass(frozen=True)
class Shape:
    """All measurements of a tree.

    Attributes:
        areas: top-level folder, "." for the files in the root -> [files, lines].
        under_40, largest, longest_functions: name -> lines.
        public: "modules", "classes", "functions" or "methods" -> number of public names.
        undocumented: the same keys -> public names without a docstring.
    """

    files: int
    lines: int
    areas: dict[str, list[int]]
    under_60: int
    under_40: dict[str, int]
    largest: dict[str, int]
    longest_functions: dict[str, int]
    public: dict[str, int]
    undocumented: dict[str, list[str]]
    reach: list[Reach]


class Target(NamedTuple):
    """The top-level `name` of `module`, or the module itself where `name` is empty."""

    module: str
    name: str = ""


Bindings = dict[str, list[Target | ast.AST]]


def read_sources(root: Path) -> list[Source]:
    """Parses the files below `root`; `package-dir` of pyproject.toml may rename top folders."""
    packages, sources = {}, []
    if (root / "pyproject.toml").is_file():
        tools = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("tool", {})
        mapping = tools.get("setuptools", {}).get("package-dir", {})
        packages = {folder: package for package, folder in mapping.items()}
    for path in sorted(_python_files(root)):
        name = path.relative_to(root).as_posix()
        folder, *rest = name.removesuffix(".py").removesuffix("/__init__").split("/")
        module = ".".join([packages.get(folder, folder), *rest])
        text = path.read_text(encoding="utf-8")
        tree, lines = ast.parse(text, filename=str(path)), len(text.splitlines())
        sources.append(Source(name, module, path.name == "__init__.py", lines, tree))
    return sources


def _python_files(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        excluded = EXCLUDED | (TOP_LEVEL_EXCLUDED if Path(folder) == root else set())
        subfolders[:] = [
            name
            for name in subfolders
            if name not in excluded and not name.startswith(".") and not name.endswith(".egg-info")
        ]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def definitions(node: ast.AST, outer: tuple = ()) -> Iterator[tuple[ast.AST, ...]]:
    """Yields each class and function below a node: its enclosing definitions, then itself."""
    for child in ast.iter_child_nodes(node):
        path = (*outer, child) if isinstance(child, DEFINITIONS) else outer
        if path != outer:
            yield path
        yield from definitions(child, path)


def public_names(source: Source) -> dict[tuple[str, str], bool]:
    """Returns (kind, public name) -> has a docstring; a private module has no public names."""
    if any(part.startswith("_") for part in source.module.split(".")):
        return {}
    docstrings = {("modules", source.module): bool(ast.get_docstring(source.tree))}
    for path in definitions(source.tree):
        kinds = ["class" if isinstance(node, ast.ClassDef) else "function" for node in path]
        names = {"class": "classes", "function": "functions", "class function": "methods"}
        kind = names.get(" ".join(kinds))
        if kind and not any(node.name.startswith("_") for node in path):
            key = kind, _qualname(source, path)  # A property and its setter share it.
            docstrings[key] = docstrings.get(key, False) or bool(ast.get_docstring(path[-1]))
    return docstrings


def _qualname(source: Source, path: tuple[ast.AST, ...]) -> str:
    return f"{source.module}:{'.'.join(node.name for node in path)}"


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yields statements, including those inside `if`, `try`, `with` and loops."""
    for node in body:
        yield node
        if not isinstance(node, DEFINITIONS):
            blocks = (ast.stmt, ast.ExceptHandler, ast.match_case)
            yield from _statements(n for n in ast.iter_child_nodes(node) if isinstance(n, blocks))


def _bindings(nodes: Iterable[ast.AST], source: Source) -> Bindings:
    """Returns {name bound by the nodes: imported targets, or the nodes that bind it}."""
    names: Bindings = {}
    for node in nodes:
        for name, target in _names_bound(node, source):
            names.setdefault(name, []).append(target)
    return names


def _names_bound(node: ast.AST, source: Source) -> Iterator[tuple[str, Target | ast.AST]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            module = alias.name if alias.asname else alias.name.partition(".")[0]
            yield alias.asname or module, Target(module)
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if node.level:
            package = source.module if source.is_package else source.module.rpartition(".")[0]
            module = importlib.util.resolve_name("." * node.level + module, package)
        for alias in node.names:
            yield alias.asname or alias.name, Target(module, alias.name)
    elif isinstance(node, ast.arg):
        yield node.arg, node
    elif isinstance(node, (*DEFINITIONS, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
        yield node.name, node
    else:
        roots = [*getattr(node, "targets", ()), getattr(node, "target", None)]
        roots += [item.optional_vars for item in getattr(node, "items", ())]
        for child in (child for root in roots if root for child in ast.walk(root)):
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                yield child.id, node


def _names_read(node: ast.AST) -> Iterator[list[str]]:
    """Yields [name, attribute, …] of each name read below a node, except in annotations."""
    attributes = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield [node.id, *attributes]
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in ("annotation", "returns"):
                yield from _names_read(child)


def _strings(node: ast.AST | None) -> list[str]:
    """Returns the strings of a constant, tuple or list; "module:name" as two."""
    items = node.elts if isinstance(node, (ast.Tuple, ast.List)) else [node]
    values = [item.value for item in items if isinstance(item, ast.Constant)]
    return [part for value in values if isinstance(value, str) for part in value.split(":")]


class Project:
    """The modules of a tree, and the resolution of names in them."""

    def __init__(self, sources: Iterable[Source]):
        self.sources = {source.module: source for source in sources}
        self.bindings = {
            module: _bindings(_statements(source.tree.body), source)
            for module, source in self.sources.items()
        }
        for parts in (module.split(".") for module in self.sources):
            for depth in range(1, len(parts)):  # Folders without an `__init__.py`.
                self.bindings.setdefault(".".join(parts[:depth]), {})

    def resolve(self, target: Target, seen: frozenset[Target] = frozenset()) -> set[Target]:
        """Follows re-exports to definitions and modules; third-party code gives an empty set."""
        module, name = target
        if module not in self.bindings or target in seen:
            return set()
        if not name:
            return {target}
        seen |= {target}
        nodes = self.bindings[module].get(name, [])
        imports = [node for node in nodes if isinstance(node, Target)]
        targets = {target} if len(imports) < len(nodes) else set()
        if not nodes and f"{module}.{name}" in self.bindings:
            return {Target(f"{module}.{name}")}
        if not nodes:
            homes = [star.module for star in self.bindings[module].get("*", ())]
            homes += self._lazy_homes(module, name, seen)
            imports = [Target(home, name) for home in homes]
        return targets.union(*(self.resolve(item, seen) for item in imports))

    def _lazy_homes(self, package: str, name: str, seen: frozenset[Target]) -> list[str]:
        """Returns modules that a package's `__getattr__`, or a table there, gives for `name`."""
        loaders, homes = self.bindings[package].get("__getattr__"), []
        if not loaders:
            return []
        source = self.sources[package]
        for nodes in _bindings((n for f in loaders for n in ast.walk(f)), source).values():
            imports = [node for node in nodes if isinstance(node, Target)]
            homes += [item.module for node in imports for item in self.resolve(node, seen)]
        for table in ast.walk(source.tree):
            for key, value in zip(table.keys, table.values) if isinstance(table, ast.Dict) else ():
                if _strings(key) == [name]:  # name: "module", "module:name", ("module", "name")
                    homes += _strings(value)[:1]
                elif name in _strings(value):  # "module": ["name", …]
                    homes += _strings(key)
        homes += [f"{package}.{home.lstrip('.')}" for home in homes]
        return [home for home in homes if home in self.bindings]

    def reach(self, entry: Target) -> list[str]:
        """Returns the files that hold a definition which `entry` leads to."""
        closure, frontier = set(), self.resolve(entry)
        while frontier:
            closure |= frontier
            frontier = set().union(*map(self._uses, frontier)) - closure
        pairs = {(self.sources.get(module), name) for module, name in closure}
        return sorted({s.path for s, name in pairs if s and (name or not s.is_package)})

    def _uses(self, definition: Target) -> set[Target]:
        """Returns the definitions and modules of the project that a definition uses."""
        module, scopes, uses = definition.module, [], set()
        for node in self.bindings[module].get(definition.name, ()):
            if isinstance(node, ast.ClassDef):  # Each method is a scope of its own.
                scopes += ast.iter_child_nodes(node)
            elif isinstance(node, ast.AST):
                scopes.append(node)
        for scope in scopes:
            children = list(ast.walk(scope))[1:]
            local = _bindings(children, self.sources[module])
            for name, *attributes in _names_read(scope):
                for target in local.get(name, [Target(module, name)]):
                    if isinstance(target, Target):
                        uses |= self._attribute(target, attributes)
            for node in children:
                pair = _strings(node) if isinstance(node, (ast.Tuple, ast.Constant)) else []
                targets = self.resolve(Target(*pair)) if len(pair) == 2 else ()
                uses |= {target for target in targets if target.name}
        return uses

    def _attribute(self, target: Target, attributes: list[str]) -> set[Target]:
        """Resolves `target.attribute…`; attributes of a class or a value lead no further."""
        targets = self.resolve(target)
        for attribute in attributes:
            inner = [self.resolve(Target(t.module, attribute)) for t in targets if not t.name]
            targets = {item for item in targets if item.name}.union(*inner)
        return targets


def measure(root: Path) -> Shape:
    """Measures the tree below `root`."""
    sources = read_sources(root)
    areas, functions, docstrings = {}, {}, {}
    for source in sources:
        folder, slash, _ = source.path.partition("/")
        area = areas.setdefault(folder if slash else ".", [0, 0])
        area[:] = area[0] + 1, area[1] + source.lines
        docstrings |= public_names(source)
        for path in definitions(source.tree):
            if isinstance(path[-1], FUNCTIONS):
                lines = path[-1].end_lineno - path[-1].lineno + 1
                functions[_qualname(source, path)] = lines
    sizes = _by_lines({source.path: source.lines for source in sources})
    kinds = ("modules", "classes", "functions", "methods")
    project, reach = Project(sources), []
    for name, candidates in ENTRY_POINTS.items():
        targets = {entry: Target(*entry.split(":")) for entry in candidates}
        entry = next((entry for entry in targets if project.resolve(targets[entry])), None)
        reach.append(Reach(name, entry, project.reach(targets[entry]) if entry else []))
    return Shape(
        files=len(sources),
        lines=sum(sizes.values()),
        areas=areas,
        under_60=sum(lines < 60 for lines in sizes.values()),
        under_40={path: lines for path, lines in sizes.items() if lines < 40},
        largest=dict([*sizes.items()][:5]),
        longest_functions=dict([*_by_lines(functions).items()][:10]),
        public={kind: sum(k == kind for k, _ in docstrings) for kind in kinds},
        undocumented={
            kind: [name for (k, name), has in docstrings.items() if k == kind and not has]
            for kind in kinds
        },
        reach=reach,
    )


def _by_lines(sizes: dict[str, int]) -> dict[str, int]:
    return dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))


def table(shape: Shape, show_files: bool = False) -> str:
    """Formats a shape for reading; `show_files` lists the files of each reach."""
    lines = [f"{'area':24}{'files':>7}{'lines':>8}"]
    areas = {**shape.areas, "all": (shape.files, shape.lines)}
    lines += [f"{name:24}{files:7}{size:8}" for name, (files, size) in areas.items()]
    lines += ["", f"files under 60 lines: {shape.under_60}, under 40: {len(shape.under_40)}"]
    for title, sizes in (
        ("files under 40 lines", shape.under_40),
        ("largest files", shape.largest),
        ("longest functions", shape.longest_functions),
    ):
        lines += ["", title, *(f"{size:7}  {name}" for name, size in sizes.items())]
    lines += ["", f"{'public names':24}{'all':>7}{'undocumented':>14}{'documented':>12}"]
    rows = [(kind, count, len(shape.undocumented[kind])) for kind, count in shape.public.items()]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    for kind, count, undocumented in rows:
        lines.append(f"{kind:24}{count:7}{undocumented:14}{1 - undocumented / max(count, 1):12.1%}")
    lines += ["", "reach: project files to open"]
    for item in shape.reach:
        lines.append(f"{len(item.files):7}  {item.name} ({item.entry or 'not in this tree'})")
        lines += [f"{'':9}{path}" for path in item.files if show_files]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", default=".", type=Path, help="folder of the tree")
    parser.add_argument("--files", action="store_true", help="list the files of each reach")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if not options.root.is_dir():
        parser.error(f"{options.root} is not a folder")
    shape = measure(options.root)
    if options.json:
        print(json.dumps(dataclasses.asdict(shape), indent=1))
    else:
        print(table(shape, options.files))


if __name__ == "__main__":
    main()
