"""Finds code in a file of procedures whose result could differ between two executions.

It finds mistakes of authors who are trusted; it is not a sandbox. `loading` executes the file with the allowed names
only.
"""

from __future__ import annotations

import ast
import builtins
from dataclasses import dataclass

from replicator.procedures import allowed
from replicator.procedures.texts import GUARDED_ATTRIBUTES

_FUNCTION_ONLY = "use a function, as module-level code may keep state"
_VIEWS = frozenset({"keys", "items"})
_VIEW_USERS = frozenset(["all", "any", "dict", "enumerate", "filter", "iter", "len", "list", "map", "max", "min",
                         "reversed", "sorted", "sum", "tuple", "zip"])  # fmt: skip
"""Functions that take a view of a dict in its order."""
_RETURNS_ARGUMENT = frozenset({"max", "min", "sum"})  # that is given after the first one; and of several, max and min
_INTERNAL = ("f_", "gi_", "cr_", "ag_", "tb_", "co_")  # attributes of frames, generators, coroutines, tracebacks, code
_NOT_CAUGHT = ("BaseException", "GeneratorExit", "SystemExit", "KeyboardInterrupt")
_TRANSACTION = "tx"  # the conventional name of the first parameter, also of helpers


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


def check(module: ast.Module) -> list[Problem]:
    """All problems, in the order of the lines."""
    checker = _Checker(module)
    for statement in module.body:
        checker.module_statement(statement)
    return sorted(dict.fromkeys(checker.problems))


class _Checker(ast.NodeVisitor):
    def __init__(self, module: ast.Module) -> None:
        self.problems: list[Problem] = []
        self._defined: set[str] = set()  # at module level
        self._modules: dict[str, str] = {}  # by the names under which they were imported
        self._bound = {it.id for it in ast.walk(module) if isinstance(it, ast.Name) and isinstance(it.ctx, ast.Store)}
        self._bound |= {it.arg for it in ast.walk(module) if isinstance(it, ast.arg)}
        self._named = _named(module)  # also what is defined further down, or by an import that is refused
        self._transactions = {_TRANSACTION, *_first_parameters(module)}
        self._own = {it.name for it in module.body if isinstance(it, ast.FunctionDef | ast.ClassDef)}
        self._own |= {it.id for node in module.body for it in _targets(node) if isinstance(it, ast.Name)}
        self._views: set[int] = set()  # nodes that are allowed to be views of a dict
        self._depth = 0

    def _refuse(self, node: ast.AST, text: str) -> None:
        self.problems.append(Problem(getattr(node, "lineno", 1), text))

    # Module level

    def module_statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Import() | ast.ImportFrom():
                self._import(node)
            case ast.FunctionDef():
                self._define(node, node.name)
                self._decorators(node)
                self.visit(node)
            case ast.ClassDef():
                self._define(node, node.name)
                self._exception_class(node)
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                self._define(node, name)
                self._constant(value)
                self.visit(value)
            case ast.AnnAssign(value=None) | ast.Expr(value=ast.Constant(value=str())) | ast.Pass():
                pass
            case _:
                self._refuse(node, f"{type(node).__name__} is not allowed at module level: {_FUNCTION_ONLY}")

    def _define(self, node: ast.AST, name: str) -> None:
        if name in self._defined:
            self._refuse(node, f"{name} is defined twice: choose another name")
        self._defined.add(name)

    def _decorators(self, node: ast.FunctionDef) -> None:
        for it in node.decorator_list:
            match it:
                case ast.Name(id="procedure"):
                    pass
                case ast.Call(
                    func=ast.Name(id="procedure"), args=[], keywords=[ast.keyword("replicate", ast.Constant(value))]
                ) if value in ("row", "command", "mixed"):
                    pass
                case _:
                    self._refuse(it, 'the only decorators are @procedure and @procedure(replicate="row|command|mixed")')

    def _exception_class(self, node: ast.ClassDef) -> None:
        """A class may keep state in its attributes, but for exceptions without a body."""
        names = [it.id for it in node.bases if isinstance(it, ast.Name)]
        is_exception = names and len(names) == len(node.bases)
        is_exception = is_exception and all(it == "Exception" or it.endswith("Error") for it in names)
        plain = all(
            isinstance(it, ast.Pass) or (isinstance(it, ast.Expr) and isinstance(it.value, ast.Constant))
            for it in node.body
        )
        if not is_exception or not plain or node.keywords or node.decorator_list:
            self._refuse(node, "a class can only be an exception without a body: use namedtuple or a dict instead")
        for base in node.bases:
            self.visit(base)

    def _constant(self, node: ast.expr) -> None:
        """What may be kept between two calls: values that cannot be changed."""
        match node:
            case ast.Constant() | ast.Name() | ast.Attribute(value=ast.Name()):
                pass
            case ast.Tuple(elts=parts):
                for part in parts:
                    self._constant(part)
            case ast.UnaryOp(operand=operand):
                self._constant(operand)
            case ast.BinOp(left=left, right=right):
                self._constant(left)
                self._constant(right)
            case ast.JoinedStr():
                pass
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(ast.Name(), attr=name)) if (
                name in allowed.IMMUTABLE_CALLS and name not in self._own
            ):
                for argument in [*node.args, *(it.value for it in node.keywords)]:
                    self._constant(argument)
            case _:
                self._refuse(
                    node,
                    "a value that can be changed may not be kept at module level, nor as a default: use a tuple, or a "
                    "function that returns it",
                )

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if self._is_allowed(node, alias.name):
                    name = alias.asname or alias.name
                    if "." in alias.name:
                        self._refuse(node, f"use `from {alias.name} import …`")
                    self._modules[name] = alias.name
                    self._define(node, name)
            return
        module = node.module or ""
        if module in allowed.TYPING:
            return
        if node.level:
            self._refuse(node, "imports of other files are not allowed: put all procedures into one file")
            return
        if not self._is_allowed(node, module):
            return
        for alias in node.names:
            if alias.name not in allowed.MODULES[module]:
                self._refuse(node, _not_allowed(f"{module}.{alias.name}", alias.name))
            self._define(node, alias.asname or alias.name)

    def _is_allowed(self, node: ast.AST, module: str) -> bool:
        if module in allowed.MODULES or module in allowed.TYPING:
            return True
        self._refuse(node, _not_allowed(f"the module {module}", module.partition(".")[0]))
        return False

    # Statements and expressions

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node.args)
        self._depth += 1
        if self._depth > 1 and node.decorator_list:
            self._refuse(node, "a function inside of another one has no decorators")
        for statement in node.body:
            self.visit(statement)
        self._depth -= 1

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node.args)
        self._depth += 1
        self.visit(node.body)
        self._depth -= 1

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        if not self._depth:
            self._refuse(node, f":= is not allowed at module level: {_FUNCTION_ONLY}")
        self.generic_visit(node)

    def _function(self, arguments: ast.arguments) -> None:
        for default in [*arguments.defaults, *arguments.kw_defaults]:
            if default is not None:
                self._constant(default)
                self.visit(default)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_Import(self, node: ast.Import) -> None:
        self._refuse(node, "import at the beginning of the file, not in a function")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._refuse(node, "import at the beginning of the file, not in a function")

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._refuse(node, "a class in a function is not allowed: use a dict")

    def visit_Global(self, node: ast.Global) -> None:
        self._refuse(node, "`global` keeps state between two calls, which replicas do not have: use keys of the store")

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._refuse(node, "async functions are not allowed: nothing can be awaited in a transaction")

    def visit_Await(self, node: ast.Await) -> None:
        self._refuse(node, "await is not allowed: nothing can be awaited in a transaction")

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self._refuse(node, "async is not allowed: nothing can be awaited in a transaction")

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self._refuse(node, "async is not allowed: nothing can be awaited in a transaction")

    def visit_Set(self, node: ast.Set) -> None:
        self._refuse(node, "the order of a set differs between processes: use a tuple, a list or dict.fromkeys")
        self.generic_visit(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._refuse(node, "the order of a set differs between processes: use a list or a dict comprehension")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, complex):
            self._refuse(node, "complex numbers are rounded differently by some processors: use two numbers")

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Pow) and not (_is_integer(node.left) and _is_integer(node.right)):
            self._refuse(node, "the last digits of ** depend on the C library: use multiplication, or 1 << n")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.op, ast.Pow):
            self._refuse(node, "the last digits of ** depend on the C library: use multiplication")
        self.generic_visit(node)

    def visit_Try(self, node: ast.Try) -> None:
        for handler in node.handlers:
            kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
            if any(it is None or (isinstance(it, ast.Name) and it.id in _NOT_CAUGHT) for it in kinds):
                self._refuse(handler, "this would catch what ends the procedure: use `except Exception`")
        for statement in node.finalbody:
            if any(isinstance(it, ast.Return | ast.Break | ast.Continue) for it in ast.walk(statement)):
                self._refuse(statement, "`finally` may not return, break or continue: that hides what has failed")
        self.generic_visit(node)

    def visit_TryStar(self, node: ast.AST) -> None:
        self._refuse(node, "`except*` is not allowed: use `except`")

    def visit_For(self, node: ast.For) -> None:
        self._views.add(id(node.iter))
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._views.add(id(node.iter))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for operator, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, ast.In | ast.NotIn):
                self._views.add(id(right))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if (
            isinstance(node.func, ast.Name)
            and node.func.id in _VIEW_USERS
            and node.func.id not in self._bound | self._own
        ):
            returned = node.func.id in _RETURNS_ARGUMENT
            if not returned or len(node.args) == 1 or node.func.id == "sum":
                self._views.update(map(id, node.args[:1] if returned else node.args))
        if isinstance(node.func, ast.Attribute) and node.func.attr in _VIEWS:
            if id(node) not in self._views:
                self._refuse(
                    node, f"use list(….{node.func.attr}()): operations on this view make a set, whose order differs"
                )
            self.visit(node.func.value)
            for argument in node.args:
                self.visit(argument)
            return
        self.generic_visit(node)

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        for name in node.kwd_attrs:
            internal = name.startswith("_") or name.startswith(_INTERNAL)
            if internal or name in allowed.ATTRIBUTES or name in _VIEWS or name in GUARDED_ATTRIBUTES:
                self._refuse(node, f"the attribute {name} is not allowed in a pattern")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = node.attr
        if not isinstance(node.ctx, ast.Load):
            self._refuse(node, f"attributes cannot be set, as they may be kept between two calls: {name}. Use a dict")
        elif name.startswith("_") or name.startswith(_INTERNAL):
            self._refuse(node, f"the attribute {name} is internal to Python, and not allowed")
        elif isinstance(node.value, ast.Name) and node.value.id in self._modules:
            module = self._modules[node.value.id]
            if name not in allowed.MODULES.get(module, ()):
                self._refuse(node, _not_allowed(f"{module}.{name}", name))
            return
        elif name in allowed.ATTRIBUTES and not self._is_of_transaction(node):
            self._refuse(node, f".{name} is not allowed: use {allowed.ATTRIBUTES[name]}")
        elif name in _VIEWS:
            self._refuse(node, f"call .{name}() where it is used")
        self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        name = node.id
        if name.startswith("__"):
            self._refuse(node, f"the name {name} is internal to Python, and not allowed")
        elif name in self._transactions and not isinstance(node.ctx, ast.Load):
            self._refuse(node, f"{name} is the transaction: choose another name for this value")
        elif name in self._modules:
            self._refuse(node, f"the module {name} cannot be used as a value: name the function, as in {name}.…")
        elif name not in allowed.BUILTINS and name not in self._defined and name not in self._bound:
            if hasattr(builtins, name) or name in allowed.INSTEAD:
                self._refuse(node, _not_allowed(name, name))
            elif name not in self._named:
                self._refuse(node, f"{name} is not defined in this file")

    def _is_of_transaction(self, node: ast.Attribute) -> bool:
        return node.attr == "now" and isinstance(node.value, ast.Name) and node.value.id in self._transactions


def _named(module: ast.Module) -> set[str]:
    """The names of functions, classes, imports, handlers and patterns, wherever they are."""
    found: set[str] = set()
    for node in ast.walk(module):
        match node:
            case ast.ImportFrom(module=str(name)) if name in allowed.TYPING:
                pass  # it is removed, with the annotations
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {it.asname or it.name.partition(".")[0] for it in names}
            case (
                ast.FunctionDef(name=str(name))
                | ast.AsyncFunctionDef(name=str(name))
                | ast.ClassDef(name=str(name))
                | ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
                | ast.MatchMapping(rest=str(name))
            ):
                found.add(name)
    return found


def _first_parameters(module: ast.Module) -> set[str]:
    """Of the procedures."""
    functions = [it for it in module.body if isinstance(it, ast.FunctionDef) and it.decorator_list]
    return {parameters[0].arg for it in functions if (parameters := [*it.args.posonlyargs, *it.args.args])}


def _targets(node: ast.stmt) -> list[ast.expr]:
    match node:
        case ast.Assign(targets=targets):
            return targets
        case ast.AnnAssign(target=target):
            return [target]
    return []


def _is_integer(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value < 1000


def _not_allowed(what: str, name: str) -> str:
    instead = allowed.INSTEAD.get(name)
    return f"{what} is not allowed: use {instead}" if instead else f"{what} is not allowed in procedures"
