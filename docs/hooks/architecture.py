"""MkDocs hook: architecture.svg, which packages and rooms use which, drawn from the imports of their files."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PACKAGES = ("symnoise", "result_schema", "experiments", "analysis")
WIDTH, STEP, BOX, HEIGHT = 760, 92, 118, 34  # of the picture, from layer to layer, and of a box, in pixels

Graph = dict[str, set[str]]
Point = tuple[float, float]


def on_files(files: Files, config: Any) -> Files:
    """Add the picture to the site."""
    files.append(File.generated(config, "architecture.svg", content=svg(reduced(imports()))))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show it where a page has `<!-- picture: architecture.svg -->`; the repository has no such file."""
    shown = "![The rooms of symnoise and the packages around it, each above what it uses](architecture.svg)"
    return markdown.replace("<!-- picture: architecture.svg -->", shown)


def imports() -> Graph:
    """Each room of symnoise, and each other package, with those that its files import."""
    graph: Graph = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            node = _node(".".join(path.relative_to(ROOT).with_suffix("").parts))
            if node != "symnoise":  # the front door, which has names of every room and no logic
                used = {_node(name) for name in _imported(path)} - {node, "symnoise", ""}
                graph.setdefault(node, set()).update(used)
    return graph


def _node(module: str) -> str:
    package, *parts = module.split(".")
    room = parts[0] if parts else ""
    if package == "symnoise" and (ROOT / package / room / "__init__.py").is_file():
        return room or package
    return package if package in PACKAGES else ""


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def reduced(graph: Graph) -> Graph:
    """Without the arrows that follow from others: a → c where a → b → c."""
    return {a: used - set().union(*(_reachable(graph, b) for b in used)) for a, used in graph.items()}


def _reachable(graph: Graph, start: str) -> set[str]:
    return set().union(graph[start], *(_reachable(graph, b) for b in graph[start]))


def svg(graph: Graph) -> str:
    """Users above what they use; arrows that pass a layer have a place in it."""
    level: dict[str, int] = {}
    while len(level) < len(graph):
        ready = [a for a in graph if a not in level and graph[a] <= level.keys()]
        level |= {a: max((level[b] + 1 for b in graph[a]), default=0) for a in ready}
    paths = [_path(a, b, level) for a in sorted(graph) for b in sorted(graph[a])]
    place = _places(graph, level, paths)
    height = STEP * max(level.values()) + 2 * HEIGHT
    at = {stop: (x, height - HEIGHT - STEP * y) for stop, (x, y) in place.items()}
    body = [_arrow([at[stop] for stop in path]) for path in paths] + [_box(a, *at[a]) for a in graph]
    return "\n".join([_HEAD.format(width=WIDTH, height=height), *body, "</svg>\n"])


def _path(a: str, b: str, level: dict[str, int]) -> list[str]:
    """From a down to b, by way of a place in each layer between, which all arrows to b share."""
    return [a, *(f"{b} {y}" for y in range(level[a] - 1, level[b], -1)), b]


def _places(graph: Graph, level: dict[str, int], paths: list[list[str]]) -> dict[str, Point]:
    """(x, layer) of boxes and passing arrows: evenly spaced in a layer, in the order of what is below them."""
    layers, below = defaultdict(set), defaultdict(list)
    for path in paths:
        for upper, lower in pairwise(path):
            below[upper].append(lower)
        for y, stop in enumerate(reversed(path), level[path[-1]]):
            layers[y].add(stop)
    place: dict[str, Point] = {}
    for y in sorted(layers):
        middle = {s: sum(place[b][0] for b in below[s]) / len(below[s]) if below[s] else 0.0 for s in layers[y]}
        row = sorted(layers[y], key=lambda stop: (middle[stop], stop))
        place |= {stop: (WIDTH * (i + 0.5) / len(row), y) for i, stop in enumerate(row)}
    return place


def _arrow(points: list[Point]) -> str:
    (x, y), *_, (to_x, to_y) = points
    inner = points[1:-1]
    line = " ".join(f"{px:.0f},{py:.0f}" for px, py in [(x, y + HEIGHT / 2), *inner, (to_x, to_y - HEIGHT / 2 - 2)])
    return f'<polyline points="{line}" fill="none" stroke="#8a8a8a" stroke-width="1.3" marker-end="url(#head)"/>'


def _box(name: str, x: float, y: float) -> str:
    fill = "#e8f1f8" if name not in PACKAGES else "#fdf1de"
    frame = f'x="{x - BOX / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{BOX}" height="{HEIGHT}" rx="5"'
    text = f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle">{name}</text>'
    return f'<rect {frame} fill="{fill}" stroke="#5f5f5f"/>{text}'


_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"
font-family="sans-serif" font-size="14">
<title>Rooms of symnoise and the packages around it: an arrow leads from a user to what it uses</title>
<rect width="100%" height="100%" fill="white"/>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0,0 L8,4 L0,8 z" fill="#8a8a8a"/></marker></defs>"""
