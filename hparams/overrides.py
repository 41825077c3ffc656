"""Typed overrides of a frozen config: "a.b=c,…" and YAML files."""

import dataclasses
import difflib
import os
from collections.abc import Mapping

import yaml

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import one_line
from efficientnetv2.hparams.config import Config, check_value, value_types

Assignment = tuple[str, object]  # dotted key, value
_RECIPES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recipes")


def nearest(name: str, names) -> str:
    """Returns "; did you mean 'x'?" for the closest of `names`, or their list."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(names)}"


def keys(section=None, prefix: str = "") -> list[str]:
    """Returns every dotted key of the config, in definition order."""
    found = []
    for field in dataclasses.fields(section or Config()):
        value = getattr(section or Config(), field.name)
        if dataclasses.is_dataclass(value):
            found += keys(value, f"{prefix}{field.name}.")
        else:
            found.append(prefix + field.name)
    return found


def parse_overrides(text: str) -> list[Assignment]:
    """Splits "a.b=c,path.yaml,…" into assignments, in order; later ones win.

    Each item is `key=value` or the path of a YAML file of settings. The values of `key=value` items
    are strings, which are later converted to the type of their key.

    Raises: UserError for an item that is neither, or a file that cannot be read.
    """
    assignments: list[Assignment] = []
    for item in filter(None, (part.strip() for part in _split(text))):
        key, equals, value = item.partition("=")
        if item.endswith((".yaml", ".yml")) and (not equals or "/" in key):
            assignments += read_yaml(item)
        elif equals:
            assignments.append((key.strip(), _Text(value.strip())))
        else:
            raise UserError(f"--hparam_str item {item!r} must be key=value or a .yaml file")
    return assignments


class _Text(str):
    """A value from the command line, to be converted to the type of its key."""


def _split(text: str) -> list[str]:
    """Splits at commas outside of parentheses, such as those of `data.extra_augment`."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def read_yaml(path: str) -> list[Assignment]:
    """Returns the assignments of a YAML file; keys are nested or dotted.

    Recipes of this package are also found by name, from any folder: "cifar10.yaml" or
    "hparams/recipes/cifar10.yaml".

    Raises: UserError if the file is missing or is not a YAML mapping.
    """
    recipe = os.path.join(_RECIPES, os.path.basename(path))
    is_name = path in (os.path.basename(path), f"hparams/recipes/{os.path.basename(path)}")
    is_recipe = is_name and not os.path.exists(path) and os.path.exists(recipe)
    try:
        with open(recipe if is_recipe else path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = one_line(error, 400)
        raise UserError(f"cannot read settings from {path}: {reason}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} must hold a mapping of settings, got {type(content).__name__}")
    return flatten(content)


def flatten(tree: Mapping, prefix: str = "") -> list[Assignment]:
    """Turns {"a": {"b": 1}} into [("a.b", 1)]."""
    assignments: list[Assignment] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            assignments += flatten(value, f"{prefix}{key}.")
        else:
            assignments.append((f"{prefix}{key}", value))
    return assignments


def override(config: Config, assignments: list[Assignment]) -> Config:
    """Returns a copy of `config` with the assignments applied in order.

    Raises: UserError for an unknown key (naming the nearest), a wrong type, a value out of range.
    """
    for key, value in assignments:
        config = _replace(config, key, key.split("."), value)
    return config


def _replace(section, key: str, path: list[str], value):
    fields = {field.name: field for field in dataclasses.fields(section)}
    name, *rest = path
    field = fields.get(name)
    is_section = field is not None and dataclasses.is_dataclass(getattr(section, name))
    if field is None or is_section != bool(rest):
        raise UserError(f"unknown key {key!r}{nearest(key, keys())}")
    if rest:
        value = _replace(getattr(section, name), key, rest, value)
    else:
        value = _read_as(field, value)
        check_value(key, field, value)
        if type(value) is int and int not in value_types(field.type):
            value = float(value)
    return dataclasses.replace(section, **{name: value})


def _read_as(field: dataclasses.Field, value):
    """Converts text to the field's type; invalid text stays text and fails the type check."""
    allowed = value_types(field.type)
    if isinstance(value, _Text):
        if type(None) in allowed and value.lower() in ("none", "null"):
            return None
        if str in allowed:
            return str(value)
        if bool in allowed and value.lower() in ("true", "false"):
            return value.lower() == "true"
    elif not isinstance(value, str):
        return value
    for number in (int, float):  # YAML reads "1e-5" as text, so its text may be a number too.
        if number in allowed:
            try:
                return number(value)
            except ValueError:
                continue
    return str(value)
