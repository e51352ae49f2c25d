"""Small faults of Python code, planted one at a time: another operator, number, condition, or end of a range.

Left out: what no caller sees (annotations, decorators, error messages, texts, printed forms).
"""

import ast
import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
NAMES = {"min": "max", "amin": "amax", "any": "all", "minimum": "maximum"}
NAMES |= {other: name for name, other in NAMES.items()}
UNSEEN_FIELDS = ("annotation", "returns", "decorator_list")
UNSEEN_FUNCTIONS = ("__repr__", "__str__", "__format__", "to_frame", "to_markdown")
UNSEEN_CALLS = ("warn", "cast", "TypeVar")


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        file, line: Where.
        function: The outermost function or method that holds it, such as `Estimate.mean`; "" if it is outside of any.
        original, mutated: The line before and after, as `ast.unparse` writes it.
        source: The whole file with the fault.
    """

    file: str
    line: int
    function: str
    original: str
    mutated: str
    source: str

    @property
    def digest(self) -> str:
        """Of the file with the fault."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]


class _Planter(ast.NodeTransformer):
    """Replaces node number `at` of those that can be replaced; counts them all, and keeps their lines."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.count, self.line = at, 0, 0
        self.lines: list[int] = []
        self.names: list[str] = []
        self.function = ""
        self.outermost = ""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        unseen = {name: getattr(node, name) for name in UNSEEN_FIELDS if hasattr(node, name)}
        for name, value in unseen.items():
            setattr(node, name, [] if isinstance(value, list) else None)
        super().generic_visit(node)
        for name, value in unseen.items():
            setattr(node, name, value)
        for replacement in replacements(node, module_level=not self.names):
            if self.count == self.at:
                self.line, self.function = getattr(node, "lineno", 0), self.outermost
                node = replacement
            self.count += 1
            self.lines.append(getattr(node, "lineno", 0))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._within(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if node.name in UNSEEN_FUNCTIONS:
            return node
        if self.outermost:
            return self.generic_visit(node)
        self.outermost = ".".join([*self.names, node.name])
        found = self._within(node)
        self.outermost = ""
        return found

    def _within(self, node: ast.ClassDef | ast.FunctionDef) -> ast.AST:
        self.names.append(node.name)
        found = self.generic_visit(node)
        self.names.pop()
        return found

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in UNSEEN_CALLS:
            return node
        if name == "isinstance":
            node.args[0] = self.visit(node.args[0])
            return node
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        return node if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        return node if node.arg == "strict" else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node


def replacements(node: ast.AST, *, module_level: bool = False) -> Iterator[ast.AST]:
    """What may stand in the place of a node."""
    if isinstance(node, ast.BinOp | ast.AugAssign):
        texts = isinstance(node, ast.BinOp) and any(_is_text(side) for side in (node.left, node.right))
        if not texts and not (module_level and isinstance(node.op, ast.BitOr)):  # a sum of texts, or of types
            yield from _with(node, "op", OPERATORS.get(type(node.op), ()))
    elif isinstance(node, ast.BoolOp):
        yield from _with(node, "op", OPERATORS[type(node.op)])
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in OPERATORS[type(node.ops[0])]:
            yield ast.Compare(node.left, [other()], node.comparators)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield node.operand
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        if isinstance(node.test, ast.Compare | ast.UnaryOp):
            return  # negated by themselves
        values = {name: getattr(node, name) for name in node._fields} | {"test": ast.UnaryOp(ast.Not(), node.test)}
        yield ast.copy_location(type(node)(**values), node)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield ast.Name(NAMES[node.id], node.ctx)
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield ast.Attribute(node.value, NAMES[node.attr], node.ctx)


def _with(node: ast.AST, field: str, kinds: Sequence[type[ast.AST]]) -> Iterator[ast.AST]:
    for kind in kinds:
        yield ast.copy_location(type(node)(**{n: getattr(node, n) for n in node._fields} | {field: kind()}), node)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def mutants_of(root: Path, file: str, originals: Collection[str] | None = None) -> list[Mutant]:
    """Every fault that can be planted in a file, or in its lines `originals`, as `ast.unparse` writes them."""
    text = (root / file).read_text(encoding="utf-8")
    before = ast.unparse(ast.parse(text))
    counted, lines = _Planter(), before.splitlines()
    counted.visit(ast.parse(before))
    found = [lines[line - 1].strip() for line in counted.lines]
    return [_mutant(text, file, before, at) for at, line in enumerate(found) if originals is None or line in originals]


def _mutant(text: str, file: str, before: str, at: int) -> Mutant:
    planter = _Planter(at)
    source = ast.unparse(ast.fix_missing_locations(planter.visit(ast.parse(text))))
    pairs = zip(before.splitlines(), source.splitlines(), strict=True)
    original, mutated = next(pair for pair in pairs if pair[0] != pair[1])
    return Mutant(file, planter.line, planter.function, original.strip(), mutated.strip(), source)


def sample(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """So many of them, from each file in proportion to their number there.

    Which, the seed and a mutant's own lines decide: an edit elsewhere leaves nearly all of a sample as it is.
    """
    by_file: dict[str, list[Mutant]] = defaultdict(list)
    for one in sorted(mutants, key=lambda one: _place(seed, one.file, one.function, one.original, one.mutated)):
        by_file[one.file].append(one)
    turns = [
        ((rank + _place(seed, file)) / len(those), file, rank)
        for file, those in by_file.items()
        for rank in range(len(those))
    ]
    return sorted(
        (by_file[file][rank] for _, file, rank in sorted(turns)[:count]), key=lambda one: (one.file, one.line)
    )


def _place(seed: int, *words: str) -> float:
    """Uniform on [0, 1) over seeds and words."""
    return int(hashlib.sha256("\n".join([str(seed), *words]).encode()).hexdigest()[:12], 16) / 16**12
