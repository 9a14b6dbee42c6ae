"""Typed options from a tree of frozen dataclasses: reading, checking, explaining them.

A leaf is a field `name: Annotated[type, "what it means", Range(...)] = default`; a section is a
field whose type is such a dataclass. Takes flat `{"section.key": value}` mappings from YAML, TOML
or the command line, gives instances, or ConfigError: one line that says which key, where, what was
given and what is accepted.
"""

from __future__ import annotations

import math
import re
import textwrap
import tomllib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")

LONGEST_TYPE = 24  # characters of a type in the table of options

_INTEGER = re.compile(r"[+-]?[0-9][0-9_]*")
_NUMBER = re.compile(r"[+-]?([0-9][0-9_]*\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WORDS: dict[type, str] = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line that names the fix."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number: `at_least` and `at_most` are included, `above` is not."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None

    def __contains__(self, value: float) -> bool:
        """Return whether a number is within the bounds."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
        )

    def __str__(self) -> str:
        """Return the bounds in signs, such as ">= 1" or "0..1"."""
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g}..{self.at_most:g}"
        signs = ((">=", self.at_least), (">", self.above), ("<=", self.at_most))
        return ", ".join(f"{sign} {bound:g}" for sign, bound in signs if bound is not None)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One option: its dotted name, its type, what it means, which numbers it takes."""

    name: str
    type: Any  # int, float, bool, str, a Literal, or tuple[float, float]
    optional: bool
    default: Any
    meaning: str
    range: Range | None

    @property
    def accepted(self) -> str:
        """What the option takes, in words: "a number > 0", '"all" or "from_error"'."""
        if get_origin(self.type) is Literal:
            words = " or ".join(f'"{choice}"' for choice in get_args(self.type))
        elif get_origin(self.type) is tuple:
            words = f"{len(get_args(self.type))} numbers" + (f" {self.range}" if self.range else "")
        else:
            words = _WORDS[self.type] + (f" {self.range}" if self.range else "")
        return f"{words}, or null" if self.optional else words

    @property
    def type_name(self) -> str:
        """The type as a person would write it in a table: "int >= 1", "all|from_error"."""
        if get_origin(self.type) is Literal:
            name = "|".join(get_args(self.type))
        elif get_origin(self.type) is tuple:
            name = f"{len(get_args(self.type))} x float"
        else:
            name = self.type.__name__
        return name + (f" {self.range}" if self.range else "") + ("|null" if self.optional else "")


def leaves(tree: type[Any], prefix: str = "") -> dict[str, Leaf]:
    """Return every option of a tree of dataclasses by its dotted name, in order."""
    found: dict[str, Leaf] = {}
    hints = get_type_hints(tree, include_extras=True)
    for field in fields(tree):
        hint, name = hints[field.name], prefix + field.name
        if is_dataclass(hint):
            found.update(leaves(hint, f"{name}."))  # type: ignore[arg-type]
            continue
        kind, *extras = get_args(hint)
        optional = get_origin(kind) in (Union, types.UnionType)
        if optional:
            (kind,) = (part for part in get_args(kind) if part is not type(None))
        meaning = next(extra for extra in extras if isinstance(extra, str))
        bounds = next((extra for extra in extras if isinstance(extra, Range)), None)
        found[name] = Leaf(name, kind, optional, field.default, meaning, bounds)
    return found


def build(tree: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Return an instance of a tree of dataclasses from converted values by dotted name."""
    hints = get_type_hints(tree)
    arguments: dict[str, Any] = {}
    for field in fields(tree):  # type: ignore[arg-type]
        name = prefix + field.name
        if is_dataclass(hints[field.name]):
            arguments[field.name] = build(hints[field.name], values, f"{name}.")
        elif name in values:
            arguments[field.name] = values[name]
    return tree(**arguments)


def check_values(
    known: Mapping[str, Leaf], values: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Return the values converted to their types. Raises ConfigError for a key or value."""
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(_unknown(name, known, where))
        checked[name] = convert(known[name], value, where)
    return checked


def convert(leaf: Leaf, value: Any, where: str) -> Any:
    """Return a value as the leaf's type: strictly, except that text that is a number is one.

    YAML reads 1e-4 as text, which is why numbers may be text.
    """
    if value is None and leaf.optional:
        return None
    converted = _converted(leaf.type, value)
    numbers = converted if isinstance(converted, tuple) else (converted,)
    if None in numbers or (leaf.range and any(number not in leaf.range for number in numbers)):
        raise ConfigError(f'"{leaf.name}"{where} is {_shown(value)}; give {leaf.accepted}')
    return converted


def _converted(kind: Any, value: Any) -> Any:
    """Return the value as `kind`, or None (in a tuple for each part) where it is of another."""
    if get_origin(kind) is Literal:
        return value if isinstance(value, str) and value in get_args(kind) else None
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if not isinstance(value, (list, tuple)) or len(value) != len(parts):
            return None
        return tuple(_converted(part, v) for part, v in zip(parts, value, strict=True))
    if kind in (bool, str):
        return value if isinstance(value, kind) else None
    if isinstance(value, str) and (_INTEGER if kind is int else _NUMBER).fullmatch(value.strip()):
        value = kind(value)
    if isinstance(value, bool) or not isinstance(value, (int, kind)):
        return None
    return kind(value) if math.isfinite(value) else None


def flatten(tree: Mapping[Any, Any], sections: Iterable[str], where: str) -> dict[str, Any]:
    """Return nested values by dotted name; a section without keys holds nothing.

    Raises ConfigError where a section holds a value instead of keys.
    """
    known = set(sections)
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": v for inner, v in flatten(value, (), where).items()}
        elif key not in known:
            flat[str(key)] = value
        elif value is not None:
            raise ConfigError(f'"{key}"{where} is {_shown(value)}; it is a section of keys')
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
        raise ConfigError(f"{path} holds {_shown(tree)}; it must hold keys and values")
    return tree or {}


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error, not the last one's win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping. Raises yaml.YAMLError for a repeated key."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f'line {line}: key "{key}" is given twice; delete one')
            seen.add(key)
        return super().construct_mapping(node, deep)


def to_text(tree: Mapping[str, Any]) -> str:
    """Return nested plain data as YAML that `read_file` reads to the same data."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """Lists on one line, and texts of several lines on one line, in quotes."""


_LIST, _TEXT = "tag:yaml.org,2002:seq", "tag:yaml.org,2002:str"
_Dumper.add_representer(list, lambda d, v: d.represent_sequence(_LIST, v, flow_style=True))
_Dumper.add_representer(
    str, lambda d, v: d.represent_scalar(_TEXT, v, style='"' if "\n" in v else None)
)


def read_overrides(known: Mapping[str, Leaf], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of `section.key=value` texts; values are YAML, except where text is due."""
    values: dict[str, Any] = {}
    for override in overrides:
        name, sign, text = override.partition("=")
        if not sign:
            raise ConfigError(f'"{override}" is not an override; write section.key=value')
        if name not in known:
            raise ConfigError(_unknown(name, known, " on the command line"))
        leaf = known[name]
        if leaf.type is str and not text.startswith('"') and text not in ("null", "none"):
            values[name] = text
            continue
        try:
            values[name] = None if text == "none" else yaml.safe_load(text)
        except yaml.YAMLError:
            values[name] = text
    return values


def _unknown(name: str, known: Mapping[str, Leaf], where: str) -> str:
    """Say that a key is unknown, with the one that was probably meant."""
    inside = [leaf for leaf in known if leaf.startswith(f"{name}.")]
    if inside:
        return f'"{name}"{where} is a section; give one of its keys, such as {inside[0]}=...'
    last = name.rpartition(".")[2]
    if last in _UNSOUND:
        return (
            f'"{name}"{where} is not supported: completions are sampled from the whole '
            "distribution, because PPO's ratio is biased where it is cut off or bent; use "
            "rollout.temperature"
        )
    meant = [leaf for leaf in known if leaf.rpartition(".")[2] == last]
    meant = meant or get_close_matches(name, known, n=1)
    hint = " or ".join(f'"{leaf}"' for leaf in meant)
    return f'unknown key "{name}"{where}; ' + (
        f"did you mean {hint}?" if hint else "--help lists all keys"
    )


_UNSOUND = {"top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"}


def _shown(value: Any) -> str:
    """Return a given value as its writer would recognize it, on one short line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = f'"{value}"' if isinstance(value, str) else str(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= 60 else text[:57] + "..."


def describe(tree: type[Any], width: int = 100) -> str:
    """Return a table of all options by section: name, type, default, meaning."""
    known = leaves(tree)
    hints = get_type_hints(tree)
    names = max(map(len, known)) + 2
    kinds = max(len(n) for leaf in known.values() if len(n := leaf.type_name) <= LONGEST_TYPE) + 2
    lines: list[str] = []
    section = None
    for name, leaf in known.items():
        if name.rpartition(".")[0] != section:
            section = name.rpartition(".")[0]
            title = f"{section}: {hints[section].__doc__}" if section else str(tree.__doc__)
            lines += ["", title]
        default, meaning = _plain(leaf.default), leaf.meaning
        if len(default) > 9:  # one long default must not widen the column
            default, meaning = "", f"{meaning} Default: {default}"
        kind = leaf.type_name
        if len(kind) > LONGEST_TYPE:  # nor one long type
            kind, meaning = "name", f"{meaning} One of {', '.join(get_args(leaf.type))}."
        row = f"  {name:<{names}}{kind:<{kinds}}{default:<11}"
        indent = " " * len(row)
        lines += textwrap.wrap(meaning, width, initial_indent=row, subsequent_indent=indent)
    return "\n".join(lines[1:])


def _plain(value: Any) -> str:
    """Return a default as it is written on the command line, on one line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value).replace("\n", "\\n")
