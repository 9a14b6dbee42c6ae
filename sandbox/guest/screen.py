"""Decides whether a program may run in one process with its tests (see docs/sandbox.md).

Takes the program's syntax tree and names what in it could reach the tests' frames, constants or
machinery: an allow-list. A refused program is no cheat; its tests then run in another process.

What no reading of the source can decide (attributes by computed names, classes made at run time,
changes to classes of the library) is left to the guards that `direct` puts in place.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import sys
import types
from collections.abc import Iterable
from typing import Any, NoReturn


def words(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


_PUBLIC: frozenset[str] = frozenset()  # every public name but DENIED

# Modules that a program may import, with the names that it may use of them. Each module is bound to
# a name and used as `name.member` only, so that no module is ever a value.
# fmt: off
_MODULES: dict[str, frozenset[str]] = dict.fromkeys(
    (
        "__future__", "abc", "array", "base64", "binascii", "bisect", "bz2", "calendar", "cmath",
        "collections", "collections.abc", "colorsys", "concurrent.futures", "configparser",
        "contextlib", "contextvars", "csv",
        "dataclasses", "datetime", "decimal", "difflib", "enum", "errno", "fnmatch", "fractions",
        "functools", "getopt", "glob", "graphlib", "gzip", "hashlib", "heapq", "hmac", "html",
        "html.entities", "html.parser", "io", "ipaddress",
        "itertools", "json", "keyword", "lzma", "math", "numbers", "operator", "os.path", "pathlib",
        "pprint", "queue", "random", "re", "reprlib", "sched", "secrets", "shlex", "shutil",
        "sqlite3", "stat",
        "statistics", "string", "struct", "tempfile", "textwrap", "threading", "time",
        "typing", "unicodedata", "urllib", "urllib.parse", "uuid", "weakref", "xml", "xml.etree",
        "xml.etree.ElementTree", "zipfile", "zlib", "zoneinfo",
        "numpy", "numpy.linalg", "numpy.random", "numpy.fft", "concurrent",
    ),
    _PUBLIC,
) | {
    module: frozenset(names.split())
    for module, names in {
        "asyncio": (
            "run sleep gather create_task ensure_future wait wait_for as_completed shield timeout"
            " TaskGroup to_thread Queue PriorityQueue LifoQueue QueueEmpty QueueFull Lock Event"
            " Semaphore BoundedSemaphore Condition Future TimeoutError CancelledError"
            " get_event_loop new_event_loop get_running_loop iscoroutinefunction iscoroutine"
            " ALL_COMPLETED FIRST_COMPLETED FIRST_EXCEPTION InvalidStateError"
        ),
        "ast": "literal_eval",
        "codecs": "encode decode BOM_UTF8 BOM_UTF16_LE BOM_UTF16_BE",
        "copy": "copy deepcopy Error error",
        "http": "HTTPStatus HTTPMethod",
        "logging": (
            "getLogger debug info warning error critical exception log DEBUG INFO WARNING ERROR"
            " CRITICAL NOTSET NullHandler StreamHandler Handler Logger disable getLevelName"
        ),
        "os": (
            "path listdir remove unlink makedirs mkdir rmdir removedirs getcwd chdir environ sep"
            " linesep rename replace walk stat scandir urandom cpu_count getenv getpid pathsep name"
            " fspath PathLike access R_OK W_OK F_OK X_OK extsep curdir pardir"
        ),
        "platform": "system machine release node processor python_version python_implementation",
        "sys": (
            "stdin stdout stderr maxsize setrecursionlimit getrecursionlimit version_info version"
            " float_info int_info hash_info getsizeof byteorder intern argv maxunicode platform"
            " set_int_max_str_digits exit"
        ),
        "timeit": "default_timer",
        "traceback": "format_exc print_exc",
        "types": "MappingProxyType SimpleNamespace NoneType GenericAlias UnionType",
        "warnings": "warn catch_warnings simplefilter filterwarnings",
        "xml.sax.saxutils": "escape unescape quoteattr",
    }.items()
}

_DENIED = {
    "calendar": "mdays month_name day_name",
    "collections": "UserString",
    "contextlib": "redirect_stdout redirect_stderr",
    "dataclasses": "make_dataclass fields Field",
    # They would change the arithmetic of tests.
    "decimal": "setcontext localcontext Context DefaultContext BasicContext ExtendedContext",
    "enum": "EnumMeta EnumType global_enum global_enum_repr global_flag_repr global_str",
    "abc": "update_abstractmethods",
    "functools": "singledispatch singledispatchmethod",
    "io": "RawIOBase BufferedReader BufferedWriter BufferedRandom BufferedRWPair",
    "numpy": (
        "lib core ctypeslib f2py testing typing load save savez savez_compressed memmap fromfile"
        " frombuffer loadtxt genfromtxt fromregex setbufsize seterrcall seterr errstate lookfor"
        " set_printoptions set_string_function source info test nditer nested_iters ma rec char"
        " strings matlib distutils compat from_dlpack ndarray matrix recarray record busdaycalendar"
        " DataSource bmat mat asmatrix who r_ c_"  # the last six look into their caller's frame
    ),
    "operator": "attrgetter methodcaller",
    "shutil": "register_archive_format register_unpack_format",
    "sqlite3": "register_adapter register_converter adapters converters enable_callback_tracebacks",
    "string": "Formatter",
    "threading": (
        "settrace setprofile settrace_all_threads setprofile_all_threads gettrace getprofile"
        " excepthook ExceptHookArgs main_thread enumerate"
    ),
    "typing": "get_type_hints ForwardRef evaluate_forward_ref _type_check",
    "xml.etree.ElementTree": "register_namespace",  # for all texts, those of the tests too
    "zipfile": "PyZipFile main",
    "zoneinfo": "reset_tzpath",
}
DENIED = {module: frozenset(names.split()) for module, names in _DENIED.items()}
# What gives objects attributes of any name: numpy takes some for addresses.
_NAMING = {
    ("types", "SimpleNamespace"), ("functools", "cached_property"), ("logging", "getLogger"),
    ("logging", "Logger"),
}
# Functions that take names of attributes: only plain calls of them are allowed.
_WRAPPERS = {"wraps": 1, "update_wrapper": 2}

_DENIED_BUILTINS = words(
    "eval exec compile globals locals breakpoint help memoryview copyright credits license"
)
# Replaced by functions that look at the name of the attribute (`direct`).
GUARDED_BUILTINS = words("getattr setattr delattr hasattr vars")

# Special names that may be read as attributes.
_READABLE = frozenset(
    f"__{name}__"
    for name in words(
        "abs add aenter aexit aiter anext and await bool call ceil class complex contains copy"
        " deepcopy delitem dict divmod doc enter eq exit float floor floordiv format ge getitem"
        " gt hash iadd iand ifloordiv ilshift imatmul imod imul index init init_subclass int"
        " invert ior ipow irshift isub iter itruediv ixor le len length_hint lshift lt matmul"
        " members missing mod mro mul name ne neg new next or pos post_init pow qualname radd rand"
        " rdivmod repr reversed rfloordiv rlshift rmatmul rmod rmul ror round rpow rrshift rshift"
        " rsub rtruediv rxor setattr delattr setitem str sub truediv trunc xor module")
)
# Special names that a class may define, besides those that the library gives it.
_DEFINED = _READABLE - {"__class__", "__dict__", "__mro__", "__module__", "__members__"} | {
    f"__{name}__"
    for name in words(
        "slots match_args del get set set_name getattr delete class_getitem getstate setstate"
        " reduce fspath dir sizeof bytes getnewargs getnewargs_ex hash order author version all"
        " date license email")
}
_MADE = frozenset(
    f"__{name}__"
    for name in words("module qualname dict weakref classcell orig_bases parameters abstractmethods"
        " annotations dataclass_fields dataclass_params static_attributes firstlineno type_params"
        " annotate"
        " annotate_func annotations_cache replace new_member reduce_ex members protocol_attrs"
        " subclasshook signature non_callable_proto_members total required_keys optional_keys"
        " readonly_keys mutable_keys conditional_annotations")
)
# fmt: on
CLASS_NAMES = _DEFINED | _MADE


def _introspective() -> frozenset[str]:
    """Return the attributes of frames, code, tracebacks, generators and coroutines."""

    async def coroutine() -> None: ...
    async def agen() -> Any:
        yield

    waiting = coroutine()
    waiting.close()
    kinds = (types.FrameType, types.CodeType, types.TracebackType, types.GeneratorType)
    names = {
        name
        for kind in (*kinds, type(waiting), type(agen()))
        for name in dir(kind)
        if not name.startswith("__")
    }
    kept = {"send", "throw", "close", "clear", "replace", "asend", "athrow", "aclose"}
    return frozenset(names - kept)


# Attributes that no object may be asked for: introspection, and what turns a test's own objects
# (a TestCase, a mock, a task) into something else.
_ATTRIBUTES = _introspective() | words(
    "get_stack print_stack get_coro _evaluate evaluate _style _fmt _outcome configure_mock"
    " mock_add_spec attach_mock addTypeEqualityFunc _type_equality_funcs failureException"
    " _formatMessage _callTestMethod _callSetUp ctypes dump dumps tofile setflags"
    " enable_load_extension load_extension set_task_factory set_exception_handler set_debug"
    " add_signal_handler attrname setconfig makeRecord traps"
)
_STORES = words(
    "fail assert_ failUnless called call_count call_args call_args_list method_calls mock_calls"
    " return_value side_effect longMessage maxDiff _testMethodName _subtest _cleanups"
)


def allowed_attribute(name: str, *, store: bool = False) -> bool:
    """Return whether a program may use an attribute of this name on any object."""
    if name in _ATTRIBUTES or name.startswith(("_mock_", "_Mock")):
        return False
    if store and (name in _STORES or name.startswith(("assert", "skip"))):
        return False
    if name.startswith("__") and name.endswith("__"):
        return name in _READABLE and not store
    return True


# Attributes that only some objects may be asked for (`stand_ins`): formats of texts look into
# others, and errors and paths hold modules.
CHECKED = words("format format_map obj parser pathmod")
# Private attributes that a library gives to classes of programs.
GIVEN = words(
    "_asdict _replace _fields _make _field_defaults _name_ _value_ _missing_ _ignore_ _order_"
    " _generate_next_value_ _member_map_ _member_names_ _value2member_map_ _from_iterable"
)


def is_private(name: str) -> bool:
    """Return whether a name is private, so that libraries may mean it for themselves only."""
    return name.startswith("_") and not name.endswith("__") and name not in GIVEN and name != "_"


def matched_attribute(name: str) -> bool:
    """Return whether a pattern may take this attribute: nothing checks its object."""
    return allowed_attribute(name) and not name.startswith("_") and name not in CHECKED


class RefusedError(Exception):
    """Something in the source is not on the allow-list."""


class _Screen(ast.NodeVisitor):
    """Visits a program. Raises RefusedError. `modules` are the names that are bound to modules."""

    def __init__(self, given: dict[str, Any], *, numpy: bool) -> None:
        self.modules: dict[str, str] = {}
        self.bound: set[str] = set()
        self.imported: set[str] = set()
        self.numpy = numpy
        self.naming = ""
        self.guards = False  # whether the program uses something that `direct` replaces
        self.given = given
        for name, value in given.items():
            if isinstance(value, types.ModuleType) and not name.startswith("__"):
                self.modules[name] = value.__name__

    def refuse(self, what: str) -> NoReturn:
        raise RefusedError(what)

    # Imports.

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.use_module(alias.name)
            bound = alias.asname or alias.name.partition(".")[0]
            self.bind_module(bound, alias.name if alias.asname else bound)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level:
            self.refuse("a relative import")
        self.use_module(module)
        for alias in node.names:
            if alias.name == "*":
                self.import_all(module)
                continue
            inner = f"{module}.{alias.name}"
            if inner in _MODULES:
                self.use_module(inner)
                self.bind_module(alias.asname or alias.name, inner)
                continue
            self.use_member(module, alias.name)
            renamed = alias.asname not in (None, alias.name)
            if renamed and (alias.name in _WRAPPERS or alias.asname in sys.stdlib_module_names):
                self.refuse(f"{alias.name} under another name")
            if module == "dataclasses" and alias.name == "field" and renamed:
                self.refuse("field under another name")
            self.bind(alias.asname or alias.name)
            self.imported.add(alias.asname or alias.name)

    def import_all(self, module: str) -> None:
        names = getattr(_imported(module), "__all__", None)
        if names is None:
            self.refuse(f"from {module} import *")
        for name in names:
            if name not in DENIED.get(module, ()):
                self.use_member(module, name)
            elif name in self.names_used:
                self.refuse(f"{module}.{name}")

    def use_module(self, name: str) -> None:
        if name not in _MODULES:
            self.refuse(f"import {name}")

    def bind_module(self, name: str, module: str) -> None:
        if module == "numpy" or module.startswith("numpy."):
            self.numpy = True
        if self.modules.get(name, module) != module:
            self.refuse(f"two modules named {name}")
        if name in sys.stdlib_module_names and name != module.rpartition(".")[2]:
            self.refuse(f"{module} as {name}")
        self.modules[name] = module

    def use_member(self, module: str, name: str) -> str | None:
        """Check `module.name`; return the name of the module that it is, if it is one."""
        self.use_module(module)
        if f"{module}.{name}" in _MODULES:
            return f"{module}.{name}"
        allowed = _MODULES[module]
        if (
            (allowed and name not in allowed)
            or name in DENIED.get(module, ())
            or (name.startswith("_") and name not in ("__name__", "__version__", "__doc__"))
        ):
            self.refuse(f"{module}.{name}")
        if (module, name) in _NAMING:
            self.naming = f"{module}.{name}"
        # `from json import tool` would import a module as a value.
        found = getattr(_imported(module), name, self)
        if found is self:
            self.refuse(f"{module}.{name}, which it does not have")
        if isinstance(found, types.ModuleType):
            if found.__name__ in _MODULES:
                return found.__name__
            if found.__name__ not in ("posixpath", "ntpath"):
                self.refuse(f"{module}.{name}")
            return "os.path"
        return None

    # Names.

    def bind(self, name: str) -> None:
        if name.startswith("__") and name not in ("__all__", "__author__", "__version__"):
            self.refuse(name)
        if name in self.modules:
            self.refuse(f"{name} is a module and something else")
        self.bound.add(name)

    def visit_Name(self, node: ast.Name) -> None:
        name = node.id
        if name in self.class_names:  # __rsub__ = __sub__; checked where the class is visited
            return
        if not isinstance(node.ctx, ast.Load):
            self.bind(name)
            return
        if name in self.modules:
            self.refuse(f"the module {name} as a value")
        if name.startswith("__") and name not in ("__name__", "__doc__", "__class__", "__debug__"):
            self.refuse(name)
        if name in _WRAPPERS:
            self.refuse(f"{name} as a value")
        if name == "field" and name in self.imported and id(node) not in self.defaults:
            self.refuse("a dataclass's field as a value")
        if name in self.bound_anywhere:
            return
        if name in _DENIED_BUILTINS:
            self.refuse(name)
        if name in GUARDED_BUILTINS:
            self.guards = True
            if name == "vars" and self.numpy:
                self.refuse("vars with numpy")
        value = self.given.get(name)
        home = getattr(value, "__module__", None)
        if isinstance(home, str) and getattr(value, "__name__", "") in DENIED.get(home, ()):
            self.refuse(name)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = node.attr
        store = not isinstance(node.ctx, ast.Load)
        path = self.module_of(node.value)
        if path is not None:
            if store:
                self.refuse(f"setting {path}.{name}")
            if self.use_member(path, name) is not None:
                self.refuse(f"the module {path}.{name} as a value")
            if path == "dataclasses" and name == "field" and id(node) not in self.defaults:
                self.refuse("a dataclass's field as a value")
            if name in _WRAPPERS and path == "functools":
                self.refuse(f"{name} as a value")
            return
        if not allowed_attribute(name, store=store):
            self.refuse(f"the attribute {name}")
        if store or is_private(name) or name in CHECKED:
            self.guards = True
        if store and isinstance(node.value, ast.Name) and node.value.id in self.imported:
            self.refuse(f"setting {node.value.id}.{name}")
        if name == "__dict__":
            self.guards = True
            if self.numpy:
                self.refuse("__dict__ with numpy")
        if name == "resize" and self.numpy:
            self.refuse("resize with numpy")
        if name in ("format", "format_map"):
            if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                check_format(node.value.value)
            self.guards = True
        if name in ("__setattr__", "__delattr__"):
            self.refuse(f"the attribute {name}, which is not called")
        self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        match node.value:
            case ast.Attribute(value=value, attr="r_" | "c_") if self.module_of(value) == "numpy":
                self.visit(node.slice)  # the program's own frame
            case _:
                self.generic_visit(node)

    def module_of(self, node: ast.expr) -> str | None:
        """Return the module that an expression is, None if it is none."""
        if isinstance(node, ast.Name):
            return self.modules.get(node.id)
        if isinstance(node, ast.Attribute):
            outer = self.module_of(node.value)
            if outer is not None:
                return self.use_member(outer, node.attr)
        return None

    def visit_Call(self, node: ast.Call) -> None:
        match node.func:
            case ast.Attribute(attr=name, value=value) if (
                name in _WRAPPERS and self.module_of(value) == "functools"
            ):
                self.wrapper_call(name, node)
                return
            case ast.Name(id=name) if name in _WRAPPERS and name not in self.own_functions:
                self.wrapper_call(name, node)
                return
            case ast.Attribute(attr="__setattr__" | "__delattr__", value=value):
                # object.__setattr__(self, "x", 1) in frozen classes; super().__setattr__(name, x)
                self.guards = True
                at = 1 if isinstance(value, ast.Name) else 0
                if node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
                    self.refuse("setting attributes by computed names")
                # super() may be unbound, and take any object.
                if len(node.args) != at + (2 if "set" in node.func.attr else 1):
                    self.refuse("setting attributes of another object")
                named = node.args[at] if len(node.args) > at else None
                if isinstance(named, ast.Constant):
                    if not allowed_attribute(str(named.value), store=True):
                        self.refuse(f"setting {named.value!r}")
                elif self.numpy or not _is_super(value):
                    self.refuse("setting attributes by computed names")
                for argument in node.args:
                    self.visit(argument)
                self.visit(value)
                return
            case ast.Attribute(attr="register") if len(node.args) == 1 and self.numpy:
                self.refuse("register with numpy")
        self.generic_visit(node)

    def wrapper_call(self, name: str, node: ast.Call) -> None:
        if node.keywords or len(node.args) > _WRAPPERS[name]:
            self.refuse(f"{name} with names of attributes")
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                self.refuse(f"{name} with names of attributes")
            self.visit(argument)

    # Definitions.

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.define(node.name)
        self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def define(self, name: str) -> None:
        if name.startswith("__") and name.endswith("__"):
            if name not in _DEFINED:
                self.refuse(f"defining {name}")
        elif not allowed_attribute(name):
            self.refuse(f"defining {name}")
        elif name in self.modules:
            self.refuse(f"{name} is a module and something else")
        self.bound.add(name)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.define(node.name)
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in ("type", "ABCMeta", "super"):
                self.refuse("a metaclass")
            if (self.module_of(base.value) if isinstance(base, ast.Attribute) else None) == "numpy":
                self.refuse("a class of numpy's")
        for keyword in node.keywords:
            if keyword.arg == "metaclass" and ast.unparse(keyword.value) not in (
                "ABCMeta",
                "abc.ABCMeta",
            ):
                self.refuse("a metaclass")
        for item in node.body:
            if isinstance(item, (ast.Import, ast.ImportFrom)):
                self.refuse("an import in a class")
            # A test's class may inherit it.
            if isinstance(item, ast.FunctionDef) and item.name.startswith("assert"):
                self.refuse(f"defining {item.name}")
            for name in _assigned(item):
                special = name.startswith("__") and name.endswith("__")
                computed = name == "__match_args__" and not _plain_names(item)
                if (special and (name not in _DEFINED or computed)) or name.startswith("assert"):
                    self.refuse(f"defining {name}")
        fields = {
            item.target.id
            for item in node.body
            if isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and isinstance(item.value, ast.Call)
            and id(item.value.func) in self.defaults
        }
        for item in node.body:
            if not isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                for inner in ast.walk(item):
                    if (
                        isinstance(inner, ast.Name)
                        and isinstance(inner.ctx, ast.Load)
                        and inner.id in fields
                    ):
                        self.refuse("a dataclass's field as a value")
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        if node.arg.startswith("__") or node.arg in self.modules:
            self.refuse(f"the parameter {node.arg}")
        self.bound.add(node.arg)
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.bind(node.name)
        self.generic_visit(node)

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> None:
        for name in node.names:
            self.bind(name)

    visit_Nonlocal = visit_Global

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        for name in node.kwd_attrs:
            if not matched_attribute(name):
                self.refuse(f"the attribute {name}")
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        if node.name:
            self.bind(node.name)
        self.generic_visit(node)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name:
            self.bind(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        if node.rest:
            self.bind(node.rest)
        self.generic_visit(node)

    def screen(self, tree: ast.Module) -> None:
        """Visit the whole program."""
        nodes = list(ast.walk(tree))
        self.names_used = {node.id for node in nodes if isinstance(node, ast.Name)}
        self.own_functions = {n.name for n in nodes if isinstance(n, ast.FunctionDef)}
        # Where a dataclass's field may be made: its name goes into code, so nobody may hold one.
        self.defaults = {
            id(node.value.func)
            for node in nodes
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call)
        }
        # Special names that classes bind or read in their bodies.
        self.class_names = {
            inner.id
            for node in nodes
            if isinstance(node, ast.ClassDef)
            for item in node.body
            if isinstance(item, (ast.Assign, ast.AnnAssign))
            for inner in ast.walk(item)
            if isinstance(inner, ast.Name) and inner.id in _DEFINED
        }
        self.bound_anywhere = self.own_functions | {
            node.id
            for node in nodes
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
        }
        self.bound_anywhere |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        # Imports first: a function may stand before the import that it uses.
        for node in nodes:
            if isinstance(node, ast.Import):
                self.visit_Import(node)
            elif isinstance(node, ast.ImportFrom):
                self.visit_ImportFrom(node)
        self.visit(tree)
        if self.numpy and self.naming:
            self.refuse(f"{self.naming} with numpy")


def _top_level(tree: ast.Module) -> set[str]:
    """Return the names that a program binds in its module, but not imports of modules."""
    names: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
                names |= {n for g in ast.walk(node) if isinstance(g, ast.Global) for n in g.names}
                continue
            case ast.ClassDef(name=name):
                names.add(name)
                names |= {n for g in ast.walk(node) if isinstance(g, ast.Global) for n in g.names}
                continue
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Import() | ast.ImportFrom():
                imported = {alias.asname or alias.name for alias in node.names}
                names |= imported - sys.stdlib_module_names - {"numpy", "np"}
                continue
        waiting += ast.iter_child_nodes(node)
    return names


def _imported(name: str) -> types.ModuleType:
    return importlib.import_module(name)


def _is_super(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    )


def _assigned(node: ast.stmt) -> Iterable[str]:
    for inner in ast.walk(node) if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) else ():
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id


def _plain_names(node: ast.stmt) -> bool:
    value = getattr(node, "value", None)
    return isinstance(value, ast.Tuple) and all(
        isinstance(item, ast.Constant) and matched_attribute(str(item.value)) for item in value.elts
    )


def check_format(text: str) -> None:
    """Raise RefusedError if a format string looks into attributes that a program may not use."""
    import _string  # type: ignore[import-not-found]

    try:
        fields = list(_string.formatter_parser(text))
    except ValueError:
        return  # str.format raises it too
    for _, field, spec, _ in fields:
        if field:
            try:
                rest = list(_string.formatter_field_name_split(field)[1])
            except ValueError:
                continue
            for is_attribute, name in rest:
                if is_attribute and (name.startswith("_") or not allowed_attribute(name)):
                    raise RefusedError(f"the attribute {name}")
        if spec:
            check_format(spec)


def screen(
    tree: ast.Module, entry_point: str | None, given: dict[str, Any], *, numpy: bool
) -> bool:
    """Return whether the program needs the guards of `direct`. Raises RefusedError.

    `given` is the namespace that the program starts with: what the preamble defined.
    """
    visitor = _Screen(given, numpy=numpy)
    visitor.screen(tree)
    root = (entry_point or "").partition("(")[0].partition(".")[0]
    helpers = {name for name, value in given.items() if isinstance(value, types.FunctionType)}
    # A test may use these without importing them: they must be what they are everywhere.
    theirs = helpers | set(dir(builtins)) | sys.stdlib_module_names | {"numpy", "np"}
    hidden = (_top_level(tree) & theirs) - {root}
    if hidden:
        raise RefusedError(f"a {min(hidden)} of its own")
    return visitor.guards
