"""Measures what a reader of the code must pass to understand a call: ``python -m scripts.way``.

Follows calls from a method of the tiered store through the package, by the types that annotations tell, down to what
stands behind an interface: backends, policies, plugins, the observer. Of the functions on the way it counts the files
they stand in, their lines, and the names that things of each of the package's own types go by.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

#: Where a way ends: what is behind an interface, and what only says what was wrong.
BEYOND: Final = (
    "lms_tiers.plugins", "lms_tiers.policies", "lms_tiers.interface", "lms_tiers.errors", "lms_tiers.doors",
)  # fmt: skip
STORE: Final = "lms_tiers.tiered.store", "TieredStore"
CALLS: Final = ("get", "put")


@dataclass(slots=True)
class Class:
    """One class of the package: its bases, its methods, and the types of its attributes, as far as they are told."""

    module: str
    name: str
    bases: list[str] = field(default_factory=list)
    methods: dict[str, ast.FunctionDef] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Module:
    """One file: what its names mean, and its functions."""

    names: dict[str, str] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)


@dataclass(slots=True)
class Way:
    """What a reader passes.

    Attributes
    ----------
    files : dict
        Lines on the way by file.
    functions : set
    names : dict
        By type, the names that things of it go by.
    """

    files: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    functions: set[str] = field(default_factory=set)
    names: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def lines(self) -> int:
        """Lines of all functions."""
        return sum(self.files.values())

    @property
    def named(self) -> int:
        """Names, one for each type that it stands for; those of many things and of one of them are one."""
        return sum(len({name.removesuffix("s") for name in names}) for names in self.names.values())


class Code:
    """The package, parsed."""

    def __init__(self, root: Path = ROOT) -> None:
        self.classes: dict[str, Class] = {}
        self.modules: dict[str, Module] = {}
        trees = {}
        for path in sorted((root / "lms_tiers").rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            trees[name] = ast.parse(path.read_text(encoding="utf-8"))
            self.modules[name] = Module()
        for name, tree in trees.items():
            self._declare(name, tree)
        for name, tree in trees.items():
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    self._describe(name, node)

    def _declare(self, module: str, tree: ast.Module) -> None:
        names = self.modules[module].names
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lms_tiers"):
                names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                names[node.name] = f"{module}.{node.name}"
                self.classes[names[node.name]] = Class(module, node.name)
            elif isinstance(node, ast.FunctionDef):
                names[node.name] = f"{module}.{node.name}"
                self.modules[module].functions[node.name] = node

    def _describe(self, module: str, node: ast.ClassDef) -> None:
        own = self.classes[f"{module}.{node.name}"]
        own.bases = [base for part in node.bases if (base := self.type_of(module, part)) is not None]
        for item in node.body:
            if isinstance(item, ast.FunctionDef):
                own.methods[item.name] = item
                if any(isinstance(d, ast.Name) and d.id == "property" for d in item.decorator_list):
                    self._attribute(own, item.name, self.type_of(module, item.returns))
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                self._attribute(own, item.target.id, self.type_of(module, item.annotation))
        for method in own.methods.values():
            known = self.locals_of(module, own, method)
            for node_ in ast.walk(method):
                for target, value, annotation in _assigned(node_):
                    if isinstance(target, ast.Attribute) and _is_self(target.value):
                        told = self.type_of(module, annotation) or self.value_type(module, own, known, value)
                        self._attribute(own, target.attr, told)

    @staticmethod
    def _attribute(own: Class, name: str, told: str | None) -> None:
        if told is not None:
            own.attributes.setdefault(name, told)

    def type_of(self, module: str, annotation: ast.expr | None) -> str | None:
        """The class of the package that an annotation names, of one thing or of many."""
        if annotation is None:
            return None
        names = self.modules[module].names
        if "Callable" in ast.dump(annotation):
            return None
        for node in ast.walk(annotation):
            name = node.id if isinstance(node, ast.Name) else node.value if isinstance(node, ast.Constant) else None
            if isinstance(name, str) and names.get(name) in self.classes:
                return names[name]
        return None

    def locals_of(self, module: str, own: Class | None, function: ast.FunctionDef) -> dict[str, str]:
        """Types of the names of a function."""
        arguments = function.args
        known = {
            a.arg: told
            for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
            if (told := self.type_of(module, a.annotation)) is not None
        }
        for node in ast.walk(function):
            for target, value, annotation in _assigned(node):
                pairs = [(target, value)]
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                    pairs = list(zip(target.elts, value.elts, strict=False))
                for left, right in pairs:
                    if isinstance(left, ast.Name):
                        told = self.type_of(module, annotation) or self.value_type(module, own, known, right)
                        if told is not None:
                            known.setdefault(left.id, told)
            if isinstance(node, (ast.For, ast.comprehension)) and isinstance(node.target, ast.Name):
                told = self.value_type(module, own, known, node.iter)
                if told is not None:
                    known.setdefault(node.target.id, told)
        return known

    def value_type(self, module: str, own: Class | None, known: dict[str, str], value: ast.expr | None) -> str | None:
        """The class of the package that an expression is of."""
        names = self.modules[module].names
        if isinstance(value, ast.Name):
            return known.get(value.id)
        if isinstance(value, ast.Attribute):
            holder = self._holder(module, own, known, value.value)
            return self.attribute(holder or "", value.attr)
        if isinstance(value, ast.Call):
            made = names.get(value.func.id) if isinstance(value.func, ast.Name) else None
            if made in self.classes:
                return made
            for owner, function in self.called(module, own, known, value):
                return self.type_of(owner.split(":")[0], function.returns)
        if isinstance(value, ast.Subscript):
            return self.value_type(module, own, known, value.value)
        if isinstance(value, ast.IfExp):
            return self.value_type(module, own, known, value.body) or self.value_type(module, own, known, value.orelse)
        if isinstance(value, ast.BoolOp):
            return next((t for part in value.values if (t := self.value_type(module, own, known, part))), None)
        return None

    def _holder(self, module: str, own: Class | None, known: dict[str, str], value: ast.expr) -> str | None:
        if own is not None and _is_self(value):
            return f"{own.module}.{own.name}"
        return self.value_type(module, own, known, value)

    def attribute(self, name: str, attribute: str) -> str | None:
        """The class of the package that an attribute of a class is of."""
        return next((c.attributes[attribute] for c in self.line(name) if attribute in c.attributes), None)

    def line(self, name: str) -> Iterator[Class]:
        """A class and those it is made of."""
        own = self.classes.get(name)
        if own is not None:
            yield own
            for base in own.bases:
                yield from self.line(base)

    def called(
        self, module: str, own: Class | None, known: dict[str, str], call: ast.Call
    ) -> Iterator[tuple[str, ast.FunctionDef]]:
        """What a call leads to in the package: ``module:class`` or ``module``, and the function."""
        function = call.func
        if isinstance(function, ast.Name):
            yield from self.named(self.modules[module].names.get(function.id, ""))
        elif isinstance(function, ast.Attribute):
            if isinstance(function.value, ast.Name) and function.value.id not in known:
                yield from self.named(f"{self.modules[module].names.get(function.value.id, '')}.{function.attr}")
            parent = isinstance(function.value, ast.Call) and getattr(function.value.func, "id", "") == "super"
            holder = None if parent else self._holder(module, own, known, function.value)
            above = [c for base in own.bases for c in self.line(base)] if own is not None else []
            chain = above if parent else list(self.line(holder or ""))
            for found in chain:
                if function.attr in found.methods:
                    yield f"{found.module}:{found.name}", found.methods[function.attr]
                    return

    def named(self, name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        """The function of a full name, or what makes an object of a class."""
        if name in self.classes:
            for found in self.line(name):
                if "__init__" in found.methods:
                    yield f"{found.module}:{found.name}", found.methods["__init__"]
                    return
        module, _, function = name.rpartition(".")
        if module in self.classes and function in self.classes[module].methods:
            yield f"{self.classes[module].module}:{module.rpartition('.')[2]}", self.classes[module].methods[function]
        if module in self.modules and function in self.modules[module].functions:
            yield module, self.modules[module].functions[function]

    def way(self, call: str) -> Way:
        """All that is passed from a method of the store on."""
        way = Way()
        start = f"{STORE[0]}:{STORE[1]}"
        todo = deque([(start, self.classes[".".join(STORE)].methods[call])])
        while todo:
            owner, function = todo.popleft()
            name = f"{owner}.{function.name}"
            module, _, holder = owner.partition(":")
            if name in way.functions or module.startswith(BEYOND):
                continue
            way.functions.add(name)
            way.files[module] += (function.end_lineno or function.lineno) - function.lineno + 1
            own = self.classes.get(f"{module}.{holder}")
            known = self.locals_of(module, own, function)
            for local, of in known.items():
                way.names[of].add(local.lstrip("_"))
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and own is not None and _is_self(node.value):
                    told = self.attribute(f"{module}.{holder}", node.attr)
                    if told is not None:
                        way.names[told].add(node.attr.lstrip("_"))
                    prop = next((c for c in self.line(f"{module}.{holder}") if node.attr in c.methods), None)
                    if prop is not None:  # a property, or a method that is handed on
                        todo.append((f"{prop.module}:{prop.name}", prop.methods[node.attr]))
                if isinstance(node, ast.Call):
                    todo.extend(self.called(module, own, known, node))
        return way


def _assigned(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr | None, ast.expr | None]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield target, node.value, None
    elif isinstance(node, ast.AnnAssign):
        yield node.target, node.value, node.annotation
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        yield node.optional_vars, node.context_expr, None
    elif isinstance(node, ast.NamedExpr):
        yield node.target, node.value, None


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def main() -> None:
    """Print both ways, and what they are made of with ``-v``."""
    code = Code()
    ways = {call: code.way(call) for call in CALLS}
    print("| call | files | functions | lines | names |\n|---|---|---|---|---|")
    for call, way in ways.items():
        print(f"| `{call}` | {len(way.files)} | {len(way.functions)} | {way.lines} | {way.named} |")
    if "-v" in sys.argv:
        for call, way in ways.items():
            print(f"\n{call}:")
            for module, lines in sorted(way.files.items(), key=lambda item: -item[1]):
                print(f"  {lines:4} {module}")
                here = (f.partition(":")[2] or f for f in way.functions if f.startswith((f"{module}:", f"{module}.")))
                print("       ", ", ".join(sorted(here)))
            for of, names in sorted(way.names.items(), key=lambda item: -len(item[1])):
                print(f"  {of.rpartition('.')[2]}: {', '.join(sorted(names))}")


if __name__ == "__main__":
    main()
