"""Reads a file of procedures."""

from __future__ import annotations
import __future__

import ast
import builtins
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from replicator.errors import ConfigError
from replicator.limits import MAX_PROCEDURE_NAME_BYTES, MAX_PROCEDURES_BYTES
from replicator.procedures import allowed
from replicator.procedures.checking import check
from replicator.procedures.declaration import REPLICATION, Procedure
from replicator.procedures.hashing import hashes
from replicator.procedures.running import fatal, goes_on
from replicator.procedures.texts import (
    GUARDED_ATTRIBUTES,
    Text,
    attribute,
    checked_for_format,
    converted,
    operand,
    plain,
    remainder,
    shown,
    shown_in_ascii,
)

Procedures = Mapping[str, Procedure]
NONE: Procedures = MappingProxyType({})

_SHOWN = 20  # problems
_NO_CONVERSION = -1  # of a value in an f-string
_FATAL, _GOES_ON = "__fatal__", "__goes_on__"  # names that no file can use
_PLAIN, _CONVERTED, _OPERAND, _ATTRIBUTE = "__plain__", "__converted__", "__operand__", "__attribute__"
_CHECKED_FOR_FORMAT = "__checked_for_format__"
_GUARDS: dict[str, object] = {
    _FATAL: fatal, _GOES_ON: goes_on, _PLAIN: plain, _CONVERTED: converted, _OPERAND: operand, _ATTRIBUTE: attribute,
    _CHECKED_FOR_FORMAT: checked_for_format,
    "str": Text, "repr": shown, "ascii": shown_in_ascii,
}  # fmt: skip
_GUARDED_FUNCTIONS: dict[tuple[str, str], object] = {("operator", "mod"): remainder}


def load(file: Path) -> Procedures:
    """The procedures of a file by their names. Raises `ConfigError`."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"the procedures in {file} cannot be read: {error.strerror}") from error
    return parse(data, str(file))


def parse(data: bytes, name: str) -> Procedures:
    """`name`: of the file. Raises `ConfigError`."""
    if len(data) > MAX_PROCEDURES_BYTES:
        raise ConfigError(f"{name} has {len(data)} bytes, at most {MAX_PROCEDURES_BYTES} are allowed: shorten it")
    try:
        module = ast.parse(data, name)
        problems = check(module)
        module = stripped(module)
        found = hashes(module)  # before `_guarded` changes the tree
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name} is not valid Python: {error}") from error
    if problems:
        lines = "".join(f"\n  {it}" for it in problems[:_SHOWN])
        more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ConfigError(f"the procedures in {name} are refused, as some replica could fail or differ:{lines}{more}")
    scope = _execute(_guarded(module), name)
    procedures = {
        it: Procedure(it, found[it], function, getattr(function, REPLICATION))
        for it, function in scope.items()
        if it in found and hasattr(function, REPLICATION)
    }
    for it in procedures.values():
        _check_signature(it, name)
    return MappingProxyType(procedures)


def _check_signature(procedure: Procedure, file: str) -> None:
    parameters = [*inspect.signature(procedure.function).parameters.values()]
    kinds = {it.kind for it in parameters}
    if not parameters or kinds & {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}:
        raise ConfigError(f"{file}: {procedure.name} must have parameters (tx, …), all of which are positional")
    if len(procedure.name.encode()) > MAX_PROCEDURE_NAME_BYTES:
        raise ConfigError(f"{file}: the name of {procedure.name} is too long, at most {MAX_PROCEDURE_NAME_BYTES} bytes")


def _execute(module: ast.Module, name: str) -> dict[str, Any]:
    code = compile(
        module, name, "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True, optimize=0
    )  # whatever -O says, as that removes `assert`
    names = {it: getattr(builtins, it) for it in allowed.BUILTINS}
    names |= {"__import__": _import, "__build_class__": builtins.__build_class__} | _GUARDS
    scope: dict[str, Any] = {"__builtins__": names, "__name__": "procedures"}
    try:
        exec(code, scope)
    except Exception as error:
        raise ConfigError(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error
    return scope


def _import(name: str, *_: object) -> Any:
    """Of a module, what may be used."""
    module = importlib.import_module(name)
    found = {it: getattr(module, it) for it in allowed.MODULES[name] if hasattr(module, it)}
    return SimpleNamespace(
        **found | {it: _GUARDED_FUNCTIONS[name, it] for it in found if (name, it) in _GUARDED_FUNCTIONS}
    )


def stripped(module: ast.Module) -> ast.Module:
    """Without docstrings and annotations."""
    return ast.fix_missing_locations(_Stripper().visit(module))  # type: ignore[no-any-return]


class _Stripper(ast.NodeTransformer):
    def visit_Module(self, node: ast.Module) -> ast.AST:
        node.body = [it for it in node.body if not _is_for_annotations(it)]
        self.generic_visit(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        return ast.Pass() if node.value is None else ast.Assign([node.target], node.value)


def _is_for_annotations(node: ast.stmt) -> bool:
    match node:
        case ast.ImportFrom(module=str(module)):
            return module in allowed.TYPING
        case ast.Import(names=names):
            return all(it.name in allowed.TYPING for it in names)
        case ast.Expr(value=ast.Constant()):
            return True
    return False


def _guarded(module: ast.Module) -> ast.Module:
    """What ends a procedure cannot be caught (`running`), and no text has an address (`texts`)."""
    return ast.fix_missing_locations(_Guard().visit(module))  # type: ignore[no-any-return]


class _Guard(ast.NodeTransformer):
    def visit_Try(self, node: ast.Try) -> ast.AST:
        self.generic_visit(node)
        if node.handlers:
            node.handlers.insert(0, ast.ExceptHandler(_call(_FATAL), None, [ast.Raise()]))
        if node.finalbody:
            node.finalbody = [ast.If(_call(_GOES_ON), node.finalbody, [])]
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        self.generic_visit(node)
        return _call(_PLAIN, node)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        node.value = self.visit(node.value)
        if node.format_spec is not None:
            self.generic_visit(node.format_spec)  # not a text of its own
            if node.conversion == _NO_CONVERSION:
                node.value = _call(_CHECKED_FOR_FORMAT, node.value)
        if node.conversion != _NO_CONVERSION:
            node.value = _call(_CONVERTED, node.value, ast.Constant(chr(node.conversion)))
            node.conversion = _NO_CONVERSION
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Mod) and not isinstance(node.right, ast.Constant):
            node.right = _call(_OPERAND, node.right)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Mod) and not isinstance(node.value, ast.Constant):
            node.value = _call(_OPERAND, node.value)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr in GUARDED_ATTRIBUTES and isinstance(node.ctx, ast.Load):
            return _call(_ATTRIBUTE, node.value, ast.Constant(node.attr))
        return node


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), [*arguments], [])
