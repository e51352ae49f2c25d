"""Random faults for hypothesis: in the values of a document, or in the bytes of a file."""

import copy
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from hypothesis import strategies as st

Fault = Callable[[bytes], bytes]  # a whole file, broken
# What may stand where something else belongs.
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "\0", "\ud800", "../../x", "<script>", "nan", "1e999", "x" * 100_000, "2026-02-30"]),
    st.lists(st.integers(-3, 3), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(-3, 3), max_size=2),
)


def of_text(read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> st.SearchStrategy[Fault]:
    """A fault of a value, most often, or of the bytes: `read` makes a document of the file, `write` the reverse."""

    def of(spot: float, kind: str, junk: Any, both: tuple[bool, Fault]) -> Fault:
        def broken(content: bytes) -> bytes:
            if both[0]:
                return both[1](content)
            return write(_with_a_fault(read(content), spot, kind, junk))

        return broken

    kinds = st.sampled_from(["replace", "replace", "replace", "delete", "rename", "wrap", "more"])
    chosen = st.tuples(st.sampled_from([False, False, False, True]), of_bytes())
    return st.builds(of, st.floats(0, 1, exclude_max=True), kinds, JUNK, chosen)


def of_bytes() -> st.SearchStrategy[Fault]:
    """The file cut, written over or added to; near its ends, where headers and footers are, as often as anywhere."""

    def of(spot: float, near: str, kind: str, some: bytes) -> Fault:
        def broken(content: bytes) -> bytes:
            span = len(content) if near == "anywhere" else min(len(content), 300)
            at = int(spot * span) + (len(content) - span) * (near == "end")
            if kind == "encoding":
                return content.decode("latin-1").encode("utf-16")
            after = {"cut": b"", "over": content[at + len(some) :], "insert": content[at:]}[kind]
            return content[:at] + (b"" if kind == "cut" else some) + after

        return broken

    places = st.sampled_from(["start", "end", "anywhere"])
    kinds = st.sampled_from(["cut", "over", "insert", "encoding"])
    some = st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from([b"\xff\xfe", b"\0" * 9, b"\xef\xbb\xbf"]))
    return st.builds(of, st.floats(0, 1, exclude_max=True), places, kinds, some)


def of_json() -> st.SearchStrategy[Fault]:
    """A JSON document."""
    return of_text(json.loads, lambda value: json.dumps(value, default=str).encode())


def of_lines() -> st.SearchStrategy[Fault]:
    """A document of one JSON value a line."""
    return of_text(
        lambda content: [json.loads(line) for line in content.splitlines()],
        lambda rows: b"".join(json.dumps(row).encode() + b"\n" for row in (rows if isinstance(rows, list) else [rows])),
    )


def of_yaml() -> st.SearchStrategy[Fault]:
    """A YAML document."""
    return of_text(yaml.safe_load, lambda value: yaml.safe_dump(value, allow_unicode=False).encode())


def of_safetensors() -> st.SearchStrategy[Fault]:
    """The header of a safetensors file, which is JSON after its length; or any bytes."""

    def parts(content: bytes) -> tuple[Any, bytes]:
        (size,) = struct.unpack("<Q", content[:8])
        return json.loads(content[8 : 8 + size]), content[8 + size :]

    def broken(of_header: Fault, content: bytes) -> bytes:
        header, rest = parts(content)
        text = of_header(json.dumps(header).encode())
        return struct.pack("<Q", len(text)) + text + rest

    return st.one_of(of_bytes(), of_json().map(lambda fault: lambda content: broken(fault, content)))


def _with_a_fault(document: Any, spot: float, kind: str, junk: Any) -> Any:
    """A copy of `document` in which one place is replaced, deleted, renamed, wrapped in a list, or added to."""
    document = copy.deepcopy(document)
    places = list(_places(document))
    if not places:
        return junk
    container, key = places[int(spot * len(places))]
    if kind == "replace":
        container[key] = junk
    elif kind == "wrap":
        container[key] = [container[key]]
    elif kind == "more":
        container[key] = [container[key], junk] if isinstance(container, list) else {"no_such": junk}
    else:
        value = container.pop(key)
        if kind == "rename" and isinstance(container, dict):
            container[f"{key}s"] = value
    return document


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every entry of every list and dictionary, as (container, key)."""
    items = list(enumerate(node)) if isinstance(node, list) else list(node.items()) if isinstance(node, dict) else []
    for key, value in items:
        yield node, key
        yield from _places(value)
