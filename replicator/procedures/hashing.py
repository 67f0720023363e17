"""The hash of a procedure: it changes whenever what the procedure does may change.

It covers the function and all that it reaches by name in its file: other functions, constants, imports. Positions,
comments, docstrings, annotations, the options of the decorator and other procedures are not part of it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator

_IGNORED = frozenset({"ctx", "kind", "type_comment", "decorator_list"})


def hashes(module: ast.Module) -> dict[str, str]:
    """By the names of the functions. `module`: without annotations and docstrings (`loading.stripped`)."""
    defined = _definitions(module)
    texts = {name: dumped(node) for name, node in defined.items()}
    uses = {name: _names(node) & defined.keys() for name, node in defined.items()}
    return {
        name: _hash(name, _reached(name, uses), texts)
        for name, node in defined.items()
        if isinstance(node, ast.FunctionDef)
    }


def _hash(name: str, reached: set[str], texts: dict[str, str]) -> str:
    text = "\n".join([name, *(f"{it} {texts[it]}" for it in sorted(reached))])
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _reached(name: str, uses: dict[str, set[str]]) -> set[str]:
    reached, left = {name}, [name]
    while left:
        new = uses[left.pop()] - reached
        reached |= new
        left += new
    return reached


def _definitions(module: ast.Module) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in module.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
                found[name] = node
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                for alias in names:
                    found[alias.asname or alias.name] = node
    return found


def _names(node: ast.AST) -> set[str]:
    return {it.id for it in ast.walk(node) if isinstance(it, ast.Name)}


def dumped(node: object) -> str:
    """As `ast.dump`, but the same in all versions of Python: these add fields, which are empty in older programs."""
    if isinstance(node, ast.AST):
        return f"{type(node).__name__}({','.join(_fields(node))})"
    if isinstance(node, list):
        return f"[{','.join(map(dumped, node))}]"
    return f"{type(node).__name__} {node!r}"


def _fields(node: ast.AST) -> Iterator[str]:
    for name, value in sorted(ast.iter_fields(node)):
        if name in _IGNORED or value == [] or (value is None and not isinstance(node, ast.Constant)):
            continue
        yield f"{name}={dumped(value)}"
