"""Reads a method's options from its source, so that a suite is checked without importing torch.

Only what can be told without running code is told: a dataclass's annotated fields, literal defaults, and
annotations built from plain types. Whatever else is met is reported as unreadable, never guessed.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Optional, Union

_PLAIN_TYPES: dict[str, Any] = {
    "int": int, "float": float, "bool": bool, "str": str, "object": Any, "Any": Any,
    "tuple": tuple, "Tuple": tuple, "list": list, "List": list, "Sequence": tuple, "dict": dict, "Dict": dict,
}  # fmt: skip
_GENERICS: dict[str, Any] = {
    "tuple": tuple, "Tuple": tuple, "Sequence": tuple, "list": list, "List": list, "dict": dict, "Dict": dict,
    "Optional": Optional, "Union": Union,
}  # fmt: skip
_BASES_WITHOUT_FIELDS = {"object", "ABC", "Protocol", "Generic", "Module"}
_FACTORIES: dict[str, Any] = {"tuple": (), "list": [], "dict": {}}


class UnreadableError(Exception):
    """Something in the source can't be told without running it."""


@dataclass(frozen=True, kw_only=True)
class SourceField:
    """One field of a dataclass, as its source has it.

    Args:
        name: of the field.
        annotation_text: as written.
        annotation: the type; ``Any`` where it can't be read.
        required: has no default.
        default: the default, if it could be read.
        default_known: whether ``default`` is what the source says.
        help: from the field's metadata, as some libraries have it; empty without.
    """

    name: str
    annotation_text: str
    annotation: Any
    required: bool
    default: Any = None
    default_known: bool = False
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceClass:
    """A class, as its source has it.

    Args:
        docstring: its own; empty without one.
        inherited_docstrings: those of its bases, nearest first.
        fields: in order of the dataclass's constructor.
        constants: values of its ``ClassVar``s and of its bases', those that are literals.
        functions: names of its methods and of its bases'.
        complete: ``False`` when a base or decorator couldn't be followed, so that there may be more fields.
    """

    docstring: str
    inherited_docstrings: tuple[str, ...]
    fields: tuple[SourceField, ...]
    constants: Mapping[str, Any]
    functions: frozenset[str]
    complete: bool


@dataclass(frozen=True)
class _Module:
    name: str
    is_package: bool
    tree: ast.Module
    packages: Set[str] = field(default_factory=frozenset)

    def statements(self) -> Iterator[ast.stmt]:
        """Top-level statements, those under ``if`` and ``try`` included."""
        stack = list(reversed(self.tree.body))
        while stack:
            statement = stack.pop()
            if isinstance(statement, ast.If | ast.Try):
                stack.extend(reversed(statement.body + statement.orelse))
            else:
                yield statement


def read_class(module: str, name: str, *, packages: Set[str]) -> SourceClass:
    """Reads one class without importing its module.

    Args:
        module: dotted name of its module.
        name: of the class.
        packages: top-level packages whose sources may be followed.

    Raises:
        UnreadableError: there is no such module, source or class, or the source is not Python.
    """
    found = _find(_load_module(module, packages), name, frozenset())
    if found is None or not isinstance(found[1], ast.ClassDef):
        raise UnreadableError(f"module {module} defines no class {name}")
    return _read(*found, seen=frozenset())


def _source_path(module: str) -> tuple[Path, bool]:
    """A module's file and whether it is a package, by path arithmetic: no parent package is imported."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError) as error:
        raise UnreadableError(f"package {top} can't be found: {error}") from error
    if spec is None:
        raise UnreadableError(f"package {top} is not installed")
    if spec.submodule_search_locations is None:
        candidates = [(Path(spec.origin or ""), False)] if not rest else []
    else:
        candidates = []
        for location in spec.submodule_search_locations:
            path = Path(location).joinpath(*rest)
            candidates += [(path / "__init__.py", True)]
            candidates += [(path.with_name(path.name + ".py"), False)] if rest else []
    for path, is_package in candidates:
        if path.suffix == ".py" and path.is_file():
            return path, is_package
    raise UnreadableError(f"module {module} has no source")


def _load_module(module: str, packages: Set[str]) -> _Module:
    path, is_package = _source_path(module)
    try:
        tree = _parsed(path, path.stat().st_mtime_ns)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableError(f"{path} can't be read: {error}") from error
    return _Module(module, is_package, tree, packages)


@lru_cache(maxsize=64)  # several methods import the same few modules
def _parsed(path: Path, modified_ns: int) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))


def _find(module: _Module, name: str, seen: frozenset[tuple[str, str]]) -> tuple[_Module, ast.AST] | None:
    """Where a name of a module is defined: its class, or the expression that it stands for."""
    if (module.name, name) in seen:
        return None
    seen |= {(module.name, name)}
    for statement in module.statements():
        match statement:
            case ast.ClassDef() if statement.name == name:
                return module, statement
            case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                return module, value
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value) if target == name:
                return module, value
            case ast.ImportFrom():
                for alias in statement.names:
                    if (alias.asname or alias.name) == name:
                        return _follow(module, statement, alias.name, seen)
            case _ if type(statement).__name__ == "TypeAlias":  # the `type` statement, Python 3.12
                if getattr(statement, "name").id == name:  # noqa: B009
                    return module, getattr(statement, "value")  # noqa: B009
    return None


def _follow(
    module: _Module, statement: ast.ImportFrom, name: str, seen: frozenset[tuple[str, str]]
) -> tuple[_Module, ast.AST] | None:
    parts = module.name.split(".")
    if statement.level:
        kept = len(parts) - statement.level + (1 if module.is_package else 0)
        if kept < 1:
            return None
        target = ".".join([*parts[:kept], *([statement.module] if statement.module else [])])
    else:
        target = statement.module or ""
    if target.split(".")[0] not in module.packages | {parts[0]}:
        return None
    try:
        return _find(_load_module(target, module.packages), name, seen)
    except UnreadableError:
        return None


def _read(module: _Module, node: ast.AST, *, seen: frozenset[tuple[str, str]]) -> SourceClass:
    assert isinstance(node, ast.ClassDef)
    seen |= {(module.name, node.name)}
    is_dataclass = any(_last_name(decorator) == "dataclass" for decorator in node.decorator_list)
    complete = all(_last_name(decorator) in ("dataclass", "final") for decorator in node.decorator_list)
    docstrings: list[str] = []
    fields: dict[str, SourceField] = {}
    constants: dict[str, Any] = {}
    functions = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    for base in reversed(node.bases):
        found = _find(module, base.id, frozenset()) if isinstance(base, ast.Name) else None
        if found and isinstance(found[1], ast.ClassDef) and (found[0].name, found[1].name) not in seen:
            inherited = _read(*found, seen=seen)
            complete &= inherited.complete
            fields |= {item.name: item for item in inherited.fields}
            constants |= inherited.constants
            functions |= inherited.functions
            docstrings = [inherited.docstring, *inherited.inherited_docstrings, *docstrings]
        elif _last_name(base) not in _BASES_WITHOUT_FIELDS:
            complete = False
    if is_dataclass:
        for own in _own_fields(module, node):
            fields[own.name] = own
    return SourceClass(
        docstring=ast.get_docstring(node) or "",
        inherited_docstrings=tuple(docstrings),
        fields=tuple(fields.values()),
        constants=constants | dict(_own_constants(module, node)),
        functions=frozenset(functions),
        complete=complete,
    )


def _own_fields(module: _Module, node: ast.ClassDef) -> Iterator[SourceField]:
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        annotation = _unquoted(statement.annotation)
        kind = _last_name(annotation.value if isinstance(annotation, ast.Subscript) else annotation)
        if kind in ("ClassVar", "KW_ONLY"):
            continue
        value, required, in_constructor = statement.value, statement.value is None, True
        help_text = ""
        if isinstance(value, ast.Call) and _last_name(value) == "field":
            help_text = _field_help(value)
            value, required, in_constructor = _field_call(value)
        if not in_constructor:
            continue
        try:
            type_ = _type(module, annotation)
        except UnreadableError:
            type_ = Any
        known, default = False, None
        if value is not None:
            try:
                known, default = True, _literal(module, value)
            except UnreadableError:
                known = False
        yield SourceField(
            name=statement.target.id,
            annotation_text=ast.unparse(annotation),
            annotation=type_,
            required=required,
            default=default,
            default_known=known,
            help=help_text,
        )


def _own_constants(module: _Module, node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        annotation = _unquoted(statement.annotation)
        kind = _last_name(annotation.value if isinstance(annotation, ast.Subscript) else annotation)
        if kind == "ClassVar" and statement.value is not None:
            with suppress(UnreadableError):
                yield statement.target.id, _literal(module, statement.value)


def _field_call(call: ast.Call) -> tuple[ast.expr | None, bool, bool]:
    """``field(...)`` -> its default, whether the field is required, whether the constructor takes it."""
    arguments = {keyword.arg: keyword.value for keyword in call.keywords}
    init = arguments.get("init")
    in_constructor = not (isinstance(init, ast.Constant) and init.value is False)
    factory = arguments.get("default_factory")
    if factory is not None:
        return _factory_value(factory), False, in_constructor
    return arguments.get("default"), "default" not in arguments, in_constructor


def _field_help(call: ast.Call) -> str:
    """``field(metadata={"help": ...})`` -> the text."""
    for keyword in call.keywords:
        if keyword.arg == "metadata" and isinstance(keyword.value, ast.Dict):
            for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "help":
                    with suppress(ValueError, TypeError):
                        return str(ast.literal_eval(value))
    return ""


def _factory_value(factory: ast.expr) -> ast.expr:
    if isinstance(factory, ast.Lambda):
        return factory.body
    return ast.Call(func=factory, args=[], keywords=[])


def _last_name(node: ast.expr) -> str:
    """``a.b.C(...)``, ``C[T]`` and ``C`` -> ``C``."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _unquoted(node: ast.expr) -> ast.expr:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return ast.parse(node.value, mode="eval").body
        except SyntaxError:
            return node
    return node


def _type(module: _Module, node: ast.AST, depth: int = 0) -> Any:
    """An annotation as a type.

    Raises:
        UnreadableError: it is built from more than plain types.
    """
    if depth > 20 or not isinstance(node, ast.expr):
        raise UnreadableError("not a plain type")
    node = _unquoted(node)
    match node:
        case ast.Constant(value=None):
            return None
        case ast.BinOp(op=ast.BitOr()):
            return Union[_type(module, node.left, depth + 1), _type(module, node.right, depth + 1)]  # noqa: UP007
        case ast.Subscript():
            return _generic(module, node, depth)
        case ast.Attribute() if node.attr in _PLAIN_TYPES:
            return _PLAIN_TYPES[node.attr]
        case ast.Name():
            found = _find(module, node.id, frozenset())
            if found is not None:
                return _type(*found, depth + 1)
            if node.id in _PLAIN_TYPES:
                return _PLAIN_TYPES[node.id]
    raise UnreadableError("not a plain type")


def _generic(module: _Module, node: ast.Subscript, depth: int) -> Any:
    name = _last_name(node.value)
    items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return Literal[tuple(_literal(module, item) for item in items)]
    if name in ("Annotated", "Final", "InitVar"):
        return _type(module, items[0], depth + 1)
    variadic = isinstance(items[-1], ast.Constant) and items[-1].value is Ellipsis
    # Any: these are types made at run time, which a checker takes for variables.
    arguments: Any = [_type(module, item, depth + 1) for item in (items[:-1] if variadic else items)]
    generic = _GENERICS.get(name)
    if generic is None:
        raise UnreadableError(f"{name}[...] is not a plain type")
    if generic is tuple:
        return generic[(*arguments, ...)] if variadic or name == "Sequence" else generic[tuple(arguments)]
    return generic[tuple(arguments) if len(arguments) > 1 else arguments[0]]


def _literal(module: _Module, node: ast.AST, depth: int = 0) -> Any:
    """A default as a value: literals, and names of the module's own constants.

    Raises:
        UnreadableError: it takes running code to know it.
    """
    if depth > 20:
        raise UnreadableError("nested too deeply")
    match node:
        case ast.Name(id=name):
            found = _find(module, name, frozenset())
            if found is None or isinstance(found[1], ast.ClassDef):
                raise UnreadableError(f"{name} is not a constant")
            return _literal(*found, depth + 1)
        case ast.Tuple(elts=items):
            return tuple(_literal(module, item, depth + 1) for item in items)
        case ast.List(elts=items):
            return [_literal(module, item, depth + 1) for item in items]
        case ast.Call(func=ast.Name(id=name), args=[], keywords=[]) if name in _FACTORIES:
            return _FACTORIES[name]
        case ast.expr():
            try:
                return ast.literal_eval(node)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
                raise UnreadableError("not a literal") from error
    raise UnreadableError("not a literal")
