"""Typed options from a tree of frozen dataclasses: reading, checking and explaining them.

An option, called a leaf, is a field `name: Annotated[type, "what it means", Range(...)] = default`;
a section is a field whose default is an instance of another such dataclass. Values come from YAML,
TOML or the command line as `{"section.key": value}`. Raised throughout is ConfigError: one line
that says which key is wrong, where it was given, what was given and what is accepted.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
import tomllib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")

LARGEST = sys.float_info.max
LONGEST_TYPE = 24  # characters of a type in the table of options

_NAMES: dict[Any, tuple[str, str]] = {  # in the table of options, and in an error
    int: ("int", "an integer"),
    float: ("float", "a number"),
    bool: ("bool", "true or false"),
    str: ("str", "text"),
    tuple[float, float]: ("2 x float", "2 numbers"),
    tuple[str, ...]: ("names", "a list of names"),
}
_UNSOUND = {"top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"}


class LineParser(argparse.ArgumentParser):
    """A parser that leaves with one line instead of the usage; `prog` may be "python -m NAME"."""

    def error(self, message: str) -> NoReturn:
        """End the process with exit status 2."""
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {message}\n")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line that names the fix."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number: `at_least` and `at_most` are included, `above` is not."""

    at_least: float = -math.inf
    at_most: float = LARGEST  # so infinity is outside every range
    above: float = -math.inf

    def __contains__(self, value: float) -> bool:
        """Return whether a number is within the bounds; NaN and the infinities never are."""
        return self.at_least <= value <= self.at_most and value > self.above

    def __str__(self) -> str:
        """Return the bounds in signs, such as ">= 1" or "0..1"; empty where there are none."""
        signs = ((">=", self.at_least), (">", self.above), ("<=", self.at_most))
        bounds = [(sign, f"{bound:g}") for sign, bound in signs if abs(bound) < LARGEST]
        match bounds:
            case [(">=", low), ("<=", high)]:
                return f"{low}..{high}"
        return ", ".join(map(" ".join, bounds))


@dataclass(frozen=True, slots=True)
class Leaf:
    """One option: its dotted name, its type, what it means, which numbers it takes."""

    name: str
    type: Any  # a key of _NAMES, or a Literal of texts
    optional: bool  # may be null
    default: Any
    meaning: str
    range: Range

    @property
    def accepted(self) -> str:
        """What the option takes, in words: "a number > 0", '"all" or "from_error"'."""
        choices = " or ".join(f'"{choice}"' for choice in get_args(self.type))
        words = _NAMES[self.type][1] if self.type in _NAMES else choices
        return f"{words} {self.range}".rstrip() + (", or null" if self.optional else "")

    @property
    def type_name(self) -> str:
        """The type as the table of options shows it: "int >= 1", "all|from_error"."""
        name = _NAMES[self.type][0] if self.type in _NAMES else "|".join(get_args(self.type))
        return f"{name} {self.range}".rstrip() + ("|null" if self.optional else "")


def leaves(tree: type[Any], prefix: str = "") -> dict[str, Leaf]:
    """Return every option of a tree of dataclasses by its dotted name, in order."""
    found: dict[str, Leaf] = {}
    hints = get_type_hints(tree, include_extras=True)
    for field in fields(tree):
        name = prefix + field.name
        if is_dataclass(field.default):
            found |= leaves(type(field.default), f"{name}.")
            continue
        kind, meaning, bounds = (*get_args(hints[field.name]), Range())[:3]
        optional = type(None) in get_args(kind)
        kind = get_args(kind)[0] if optional else kind
        found[name] = Leaf(name, kind, optional, field.default, meaning, bounds)
    return found


def build(tree: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Return an instance of a tree of dataclasses from converted values by dotted name."""

    def value(name: str, default: Any) -> Any:
        if is_dataclass(default):
            return build(type(default), values, f"{name}.")
        return values.get(name, default)

    every = fields(tree)  # type: ignore[arg-type]
    return tree(**{field.name: value(prefix + field.name, field.default) for field in every})


def check_values(
    known: Mapping[str, Leaf], values: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Return the values converted to their types. Raises ConfigError for a key or value."""
    return {k: convert(_leaf(known, k, where), value, where) for k, value in values.items()}


def convert(leaf: Leaf, value: Any, where: str) -> Any:
    """Return a value as the leaf's type: strictly, except that text may be a number.

    YAML reads 1e-4 as text. Raises ConfigError.
    """
    if value is None and leaf.optional:
        return None
    try:
        return _converted(leaf.type, leaf.range, value)
    except (ValueError, OverflowError):
        message = f'"{leaf.name}"{where} is {_quoted(value)}; give {leaf.accepted}'
        raise ConfigError(message) from None


def _converted(kind: Any, bounds: Range, value: Any) -> Any:
    """Return the value as `kind`. Raises ValueError or OverflowError where it cannot be one."""
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        parts = get_args(kind)
        pairs = zip(parts[:1] * len(value) if ... in parts else parts, value, strict=True)
        return tuple(_converted(part, bounds, v) for part, v in pairs)
    if kind in (int, float) and type(value) in (str, int, kind):  # true is no number
        if not str(value).isascii():
            raise ValueError  # int() would read the digits of other scripts too
        value = kind(value)
        right = value in bounds
    else:
        right = type(value) is kind or value in get_args(kind)
    if not right:
        raise ValueError
    return value


def flatten(tree: Mapping[Any, Any], sections: Container[str], where: str) -> dict[str, Any]:
    """Return nested values by dotted name; a section without keys holds nothing.

    Raises ConfigError where a section holds a value instead of keys.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": v for inner, v in flatten(value, (), where).items()}
        elif key not in sections:
            flat[str(key)] = value
        elif value is not None:
            raise ConfigError(f'"{key}"{where} is {_quoted(value)}; it is a section of keys')
    return flat


def read_file(path: Path) -> dict[Any, Any]:
    """Read a .toml file, or any other as YAML. Raises ConfigError if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = tomllib.loads(text) if path.suffix == ".toml" else yaml.load(text, _StrictLoader)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path} holds {_quoted(tree)}; it must hold keys and values")
    return tree or {}


class _StrictLoader(yaml.SafeLoader):
    """YAML in which giving a key twice is an error; by itself PyYAML takes the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping. Raises yaml.YAMLError for a repeated key."""
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f'line {line}: key "{key}" is given twice; delete one')
            seen.append(key)
        return super().construct_mapping(node, deep)


def to_text(tree: Mapping[str, Any]) -> str:
    """Return nested plain data as YAML that `read_file` reads to the same data."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """YAML with each list on one line, and a text of several lines on one line in quotes."""


_LIST, _TEXT = "tag:yaml.org,2002:seq", "tag:yaml.org,2002:str"
_Dumper.add_representer(list, lambda d, v: d.represent_sequence(_LIST, v, flow_style=True))
_Dumper.add_representer(
    str, lambda d, v: d.represent_scalar(_TEXT, v, style='"' if "\n" in v else None)
)


def read_overrides(known: Mapping[str, Leaf], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of texts `section.key=value`, not yet converted.

    A value is read as YAML. For an option of type text it is taken as it stands, unless it begins
    with a double quote. Raises ConfigError for a text without "=" and for an unknown key.
    """
    values: dict[str, Any] = {}
    for override in overrides:
        name, sign, text = override.partition("=")
        if not sign:
            raise ConfigError(f'"{override}" is not an override; write section.key=value')
        leaf = _leaf(known, name, " on the command line")
        text = "null" if text == "none" else text
        plain = leaf.type is str and text != "null" and not text.startswith('"')
        try:
            values[name] = text if plain else yaml.safe_load(text)
        except yaml.YAMLError:
            values[name] = text
    return values


def _leaf(known: Mapping[str, Leaf], name: str, where: str) -> Leaf:
    """Return an option by its name. Raises ConfigError, with the name that was probably meant."""
    if name in known:
        return known[name]
    inside = next((leaf for leaf in known if leaf.startswith(f"{name}.")), None)
    if inside:
        raise ConfigError(
            f'"{name}"{where} is a section; give one of its keys, such as {inside}=...'
        )
    last = name.rpartition(".")[2]
    if last in _UNSOUND:
        raise ConfigError(
            f'"{name}"{where} is not supported: completions are sampled from the whole '
            "distribution, because PPO's ratio is biased where it is cut off or bent; use "
            "rollout.temperature"
        )
    meant = [leaf for leaf in known if leaf.rpartition(".")[2] == last]
    names = " or ".join(f'"{leaf}"' for leaf in meant or get_close_matches(name, known, n=1))
    hint = f"did you mean {names}?" if names else "--help lists all keys"
    raise ConfigError(f'unknown key "{name}"{where}; {hint}')


def _written(value: Any) -> str:
    """Return a value as it is written on the command line, on one line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value).replace("\n", "\\n")


def _quoted(value: Any) -> str:
    """Return a given value as its writer would recognize it, on one short line."""
    text = _written(f'"{value}"' if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def describe(tree: type[Any], width: int = 100) -> str:
    """Return a table of all options by section: name, type, default, meaning."""
    known = leaves(tree)
    sections = {field.name: field.default.__doc__ for field in fields(tree)}
    names = max(map(len, known)) + 2
    kinds = max(len(n) for leaf in known.values() if len(n := leaf.type_name) <= LONGEST_TYPE) + 2
    lines: list[str] = []
    for section, group in groupby(known.values(), lambda leaf: leaf.name.rpartition(".")[0]):
        lines += ["", f"{section}: {sections[section]}" if section else str(tree.__doc__)]
        for leaf in group:
            kind, meaning = leaf.type_name, leaf.meaning
            parts = leaf.default if isinstance(leaf.default, tuple) else (leaf.default,)
            default = ", ".join(f"{p:g}" if isinstance(p, float) else _written(p) for p in parts)
            if len(default) > 9:  # one long default must not widen the column
                default, meaning = "", f"{meaning} Default: {default}"
            if len(kind) > LONGEST_TYPE:  # nor one long type
                kind, meaning = "name", f"{meaning} One of {', '.join(get_args(leaf.type))}."
            row = f"  {leaf.name:<{names}}{kind:<{kinds}}{default:<11}"
            indent = " " * len(row)
            lines += textwrap.wrap(meaning, width, initial_indent=row, subsequent_indent=indent)
    return "\n".join(lines[1:])
