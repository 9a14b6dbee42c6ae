"""Looks at each object of which a screened program takes an attribute that only its own may have.

Libraries keep modules, tasks and tables in private attributes of their objects, and some of them
write to others by name. So a program's tree is changed (`put_in`): of private attributes, of all
that it sets, and of a few others the object is checked first. A program that goes beyond its own
objects leaves this process.
"""

from __future__ import annotations

import ast
import functools
import types
import typing
import weakref
from typing import Any, TypeVar

from . import guards, screen
from .guards import leave

# Attributes of library objects that programs set, of those that their classes have.
_SETTABLE = screen.words(
    "daemon name row_factory text_factory isolation_level shape flat real imag default_factory"
    " text tail tag attrib"
)
_FUNCTIONS = (types.FunctionType, type(functools.lru_cache(len)), functools.partial)
# They pass on what they are asked to other objects.
_PROXIES = (weakref.ProxyType, weakref.CallableProxyType, type(typing.ClassVar[int]))


def own(target: Any, *names: str) -> Any:
    """Return an object of which the program reads these attributes, or leave."""
    if type(target) not in guards.plain:
        for name in names:
            _check(target, name)
    return target


def own_to_set(target: Any, *names: str) -> Any:
    """Return an object of which the program sets or deletes these attributes, or leave."""
    if type(target) not in guards.plain:
        for name in names:
            _check(target, name, store=True)
    return target


def _check(target: Any, name: str, *, store: bool = False) -> None:
    kind = type(target)
    if isinstance(target, type):
        if store and target not in guards.own:
            leave(f"setting {name} of a class")
        mro = (*target.__mro__, *kind.__mro__)
    else:
        # Of super() only the classes above are asked.
        mro = target.__self_class__.__mro__ if kind is super else kind.__mro__
    is_own = not guards.own.isdisjoint(mro)
    if isinstance(target, _FUNCTIONS):
        return
    if not is_own and guards.of_library(kind) and (screen.is_private(name) or kind in _PROXIES):
        leave(f"the attribute {name} of {kind.__name__}")
    for above in mro:
        if above in guards.own or above is object:
            continue
        if screen.is_private(name):
            if guards.of_library(above) and name in _private_names(above):
                leave(f"the attribute {name} of {above.__name__}")
        elif (
            store
            and name in above.__dict__
            and not issubclass(kind, BaseException)
            and (name not in _SETTABLE or callable(above.__dict__[name]))
        ):
            leave(f"setting {name} of {above.__name__}")


def _private_names(kind: type, known: dict[type, frozenset[str]] = {}) -> frozenset[str]:  # noqa: B006
    """Return the private names that a class of a library has, and those that its methods use."""
    if kind not in known:
        names = set(kind.__dict__)
        codes = [_code(value) for value in kind.__dict__.values()]
        while codes:
            code = codes.pop()
            if code is not None:
                names.update(code.co_names)
                codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
        known[kind] = frozenset(filter(screen.is_private, names))
    return known[kind]


def _code(value: Any) -> types.CodeType | None:
    for inner in ("fget", "__func__", "__wrapped__"):
        value = getattr(value, inner, value)
    return value.__code__ if isinstance(value, types.FunctionType) else None


def shown(value: Any) -> Any:
    """Return the value of an attribute, or leave if it is a module."""
    if isinstance(value, types.ModuleType):
        leave("a module as a value")
    return value


# What stands in for builtins that take the names of attributes.


def _checked(name: Any, *, store: bool = False) -> Any:
    if type(name) is not str or not screen.allowed_attribute(name, store=store):
        leave(f"the attribute {name!r:.99}")
    return name


def _getattr(target: Any, name: Any, *default: Any) -> Any:
    if name == "__dict__":
        return instance_dict(target)
    if name in ("format", "format_map"):
        return formatter(target, name)
    if screen.is_private(_checked(name)):
        own(target, name)
    return shown(getattr(target, name, *default))


def _setattr(target: Any, name: Any, value: Any) -> None:
    setattr(own_to_set(target, _checked(name, store=True)), name, value)


def _delattr(target: Any, name: Any) -> None:
    delattr(own_to_set(target, _checked(name, store=True)), name)


def _hasattr(target: Any, name: Any) -> bool:
    return hasattr(target, name)


def instance_dict(target: Any) -> Any:
    """Return the attributes of an object of the program's, or leave."""
    # Neither those of a class, which could be changed, nor those of a library's objects.
    if type(target) in guards.plain or type(target) is types.SimpleNamespace:
        return target.__dict__
    if isinstance(target, type) or any(
        above not in guards.own and (_private_names(above) or above is types.FunctionType)
        for above in type(target).__mro__
    ):
        leave("the __dict__ of another object")
    return target.__dict__


def formatter(target: Any, name: str) -> Any:
    """Return a method "format" or "format_map"; of a text only if it looks into no attribute."""
    found = getattr(target, name)
    if isinstance(found, types.BuiltinMethodType) and isinstance(found.__self__, str):
        try:
            screen.check_format(str.__str__(found.__self__))
        except screen.RefusedError as error:
            leave(str(error))
    elif isinstance(found, types.MethodDescriptorType):  # of str, or of a class below
        return lambda text, *arguments, **keywords: formatter(text, name)(*arguments, **keywords)
    return found


_BUILTINS: dict[str, Any] = {
    "getattr": _getattr,
    "setattr": _setattr,
    "delattr": _delattr,
    "hasattr": _hasattr,
    "vars": instance_dict,
}
_OWN, _OWN_TO_SET, _SHOWN = "__own__", "__own_to_set__", "__shown__"
_DICT, _FORMAT = "__instance_dict__", "__formatter__"
NAMES = {f"__stand_in_{name}__": function for name, function in _BUILTINS.items()} | {
    _OWN: own,
    _OWN_TO_SET: own_to_set,
    _SHOWN: shown,
    _DICT: instance_dict,
    _FORMAT: formatter,
}


_Node = TypeVar("_Node", bound=ast.AST)


class _StandIns(ast.NodeTransformer):
    """Puts the stand-ins into a program. Lines stay as they are."""

    def __init__(self) -> None:
        self.checked: frozenset[str] = frozenset()  # names of objects that a method has checked

    def visit_Name(self, node: ast.Name) -> ast.Name:
        if isinstance(node.ctx, ast.Load) and node.id in _BUILTINS:
            node.id = f"__stand_in_{node.id}__"
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        outer, self.checked = self.checked, frozenset()
        for item in node.body:
            if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                item.of_class = True  # type: ignore[union-attr]
        self.generic_visit(node)
        self.checked = outer
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        first = node.args.args[0].arg if node.args.args and hasattr(node, "of_class") else ""
        parameters, bound, reads, sets = _survey(node, first)
        outer, self.checked = self.checked, self.checked.difference(parameters, bound)
        if first and first not in bound and parameters.count(first) == 1:
            self.checked |= {first}
        else:
            reads, sets = set(), set()
        inner = self.checked
        self.checked = outer
        node.args = self.visit(node.args)  # defaults and decorators belong outside
        node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        node.returns = node.returns and self.visit(node.returns)
        self.checked = inner
        node.body = [self.visit(statement) for statement in node.body]
        at = 1 if ast.get_docstring(node, clean=False) is not None and len(node.body) > 1 else 0
        for name, attributes in ((_OWN, reads - sets), (_OWN_TO_SET, sets)):
            if attributes:
                arguments: list[ast.expr] = [ast.Name(first, ast.Load())]
                arguments += [ast.Constant(attribute) for attribute in sorted(attributes)]
                call = ast.Expr(ast.Call(ast.Name(name, ast.Load()), arguments, []))
                node.body.insert(at, _placed(call, node.body[at]))
        self.checked = outer
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self.visit(node.args)
        outer = self.checked
        self.checked -= {inner.arg for inner in ast.walk(node.args) if isinstance(inner, ast.arg)}
        node.body = self.visit(node.body)
        self.checked = outer
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(), attr="__setattr__" | "__delattr__"),
                args=[target, ast.Constant() as name, *_],
            ):
                checked = ast.Call(ast.Name(_OWN_TO_SET, ast.Load()), [target, name], [])
                node.args[0] = _placed(checked, target)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        checked = isinstance(node.value, ast.Name) and node.value.id in self.checked
        self.generic_visit(node)
        load = isinstance(node.ctx, ast.Load)
        if not load or screen.is_private(node.attr):
            if not checked:
                name = _OWN if load else _OWN_TO_SET
                arguments = [node.value, ast.Constant(node.attr)]
                call = ast.Call(ast.Name(name, ast.Load()), arguments, [])
                node.value = _placed(call, node.value)
            return node
        if node.attr == "__dict__":
            return _placed(ast.Call(ast.Name(_DICT, ast.Load()), [node.value], []), node)
        if node.attr not in screen.CHECKED or isinstance(node.value, ast.Constant):
            return node
        if node.attr in ("format", "format_map"):
            arguments = [node.value, ast.Constant(node.attr)]
            return _placed(ast.Call(ast.Name(_FORMAT, ast.Load()), arguments, []), node)
        return _placed(ast.Call(ast.Name(_SHOWN, ast.Load()), [node], []), node)


def _placed(made: _Node, at: ast.AST) -> _Node:
    """Return new nodes with the place of another one."""
    for inner in ast.walk(made):
        if not hasattr(inner, "lineno"):
            ast.copy_location(inner, at)
    return made


def _survey(node: ast.AST, first: str) -> tuple[list[str], set[str], set[str], set[str]]:
    """Return what lies below a function: its parameters, and the other names that are bound.

    And of the object `first` the private attributes that are read, and all that are set.
    """
    parameters: list[str] = []
    bound: set[str] = set()
    reads: set[str] = set()
    sets: set[str] = set()
    for inner in ast.walk(node):
        kind = type(inner)
        if kind is ast.Name:
            if type(inner.ctx) is not ast.Load:  # type: ignore[attr-defined]
                bound.add(inner.id)  # type: ignore[attr-defined]
        elif kind is ast.arg:
            parameters.append(inner.arg)  # type: ignore[attr-defined]
        elif kind is ast.Attribute:
            match inner:
                case ast.Attribute(value=ast.Name(id=name), attr=attr, ctx=context):
                    if name == first and not isinstance(context, ast.Load):
                        sets.add(attr)
                    elif name == first and screen.is_private(attr):
                        reads.add(attr)
        elif kind in _BINDERS:
            for field in ("name", "rest", "names"):
                names = getattr(inner, field, None) or ()
                for name in [names] if isinstance(names, str) else names:
                    alias = getattr(name, "asname", None) or getattr(name, "name", name)
                    bound.add(str(alias).partition(".")[0])
    return parameters, bound, reads, sets


_BINDERS = {
    ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping, ast.FunctionDef,
    ast.AsyncFunctionDef, ast.ClassDef, ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom,
}  # fmt: skip


def put_in(tree: ast.Module, module: types.ModuleType) -> ast.Module:
    """Return a screened program's tree with the stand-ins, which the module gets as well."""
    module.__dict__.update(NAMES)
    changed: ast.Module = _StandIns().visit(tree)
    return changed
