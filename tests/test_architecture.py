"""docs/architecture.md: it has every room, its picture is of the imports, and its walks are the way the code takes."""

import importlib.util
import re
import sys
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

import symnoise as sn
from result_schema.files import ROOT
from symnoise.cli import main
from tests.test_rooms import PACKAGES, ROOMS
from tests.tiny import tiny, tiny_tokenizer

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LIBRARY = f"{ROOT}/symnoise/"
Step = tuple[str, str]  # file, function


def walk(start: str) -> list[Step]:
    (section,) = (part for part in PAGE.split("\n## ")[1:] if part.startswith(f"From `{start}"))
    return re.findall(r"^\d+\. `([^`]+)`, `([^`]+)`: ", section, flags=re.M)


def followed(run: Callable[[], object], last: Step) -> tuple[list[Step], list[list[Step]]]:
    """Calls of functions of symnoise in their order, and, whenever `last` is called, the calls that it is within."""
    calls, within = [], []

    def step(frame: FrameType) -> Step | None:
        name = frame.f_code.co_filename
        return (name.removeprefix(f"{ROOT}/"), frame.f_code.co_qualname) if name.startswith(LIBRARY) else None

    def seen(frame: FrameType, event: str, _: object) -> None:
        here = step(frame) if event == "call" else None
        if here:
            calls.append(here)
        if here == last:
            stack = []
            while frame:
                stack.append(step(frame))
                frame = frame.f_back
            within.append([s for s in reversed(stack) if s])

    sys.setprofile(seen)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls, within


def check(steps: list[Step], run: Callable[[], object]) -> None:
    """The steps are called in their order, and on the way from the first to the last there is no other file."""
    assert 2 <= len(steps) <= 8
    calls, within = followed(run, steps[-1])
    left = iter(calls)
    for step in steps:
        assert step in left, f"{step} is not called after the steps before it"
    ways = [stack[stack.index(steps[0]) :] for stack in within if steps[0] in stack]
    assert any({file for file, _ in way} <= {file for file, _ in steps} for way in ways), ways[-1:]


def test_from_smooth_to_the_embedding(tmp_path, monkeypatch, capsys) -> None:
    tiny("llama").save_pretrained(tmp_path)
    tiny_tokenizer(chat=True).save_pretrained(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"instruction": "add 1 to 2", "output": "3"}', encoding="utf-8")
    options = ["--model", str(tmp_path), "--data", str(tmp_path / "rows.jsonl"), "--examples", "1", "--draws", "1"]
    monkeypatch.setattr(sys, "argv", ["symnoise", "smooth", "--alphas", "5", *options])

    def run() -> None:
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code

    check(walk("symnoise smooth"), run)
    assert "slope" in capsys.readouterr().out


def test_from_trace_to_the_logits() -> None:
    ids = torch.arange(12).view(2, 6)
    loss = sn.EmbeddingLoss(tiny("llama"), {"input_ids": ids, "labels": ids})
    check(walk("sn.trace"), lambda: sn.trace(loss, probes=4))


def test_every_room_and_package_is_said_to_be_for_something() -> None:
    rooms = [f"symnoise/{room}" for room in ROOMS] + [package for package in PACKAGES if package != "symnoise"]
    assert re.findall(r"^\| `([^`]+)` \| \S", PAGE, flags=re.M) == rooms
    assert all((ROOT / room / "__init__.py").is_file() for room in rooms)


@pytest.fixture
def hook(monkeypatch):
    files = SimpleNamespace(File=SimpleNamespace(generated=lambda _, name, content: (name, content)), Files=list)
    monkeypatch.setitem(sys.modules, "mkdocs.structure.files", files)
    place = ROOT / "docs" / "hooks" / "architecture.py"
    specification = importlib.util.spec_from_file_location("architecture", place)
    made = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(made)
    return made


def test_the_picture_has_every_room_and_the_page_shows_it(hook) -> None:
    ((name, picture),) = hook.on_files([], None)
    assert f"]({name})" in hook.on_page_markdown(PAGE) and f"]({name})" not in PAGE
    texts = {node.text for node in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")}
    assert texts == {*ROOMS, *PACKAGES} - {"symnoise"}
    assert picture.count("<polyline") == sum(map(len, hook.reduced(hook.imports()).values()))


def test_arrows_that_follow_from_others_are_left_out(hook) -> None:
    assert hook.reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}
