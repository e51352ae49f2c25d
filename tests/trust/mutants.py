"""Mutants: small faults planted at random places of the library, one at a time, in a copy of the checkout.

Each mutant meets the tests that enter the function it is in, the fastest first, then the other tests of their files,
until one fails or a minute of tests has passed; a test that hangs has failed too. Which tests enter which functions is
found by running all of them once. What is found is kept in build/mutants: a run that was stopped goes on, and a mutant
that was caught is not tried again unless its file has changed.

    python -m tests.trust.mutants                         # the verdicts alone
    python -m tests.trust.mutants symnoise/core/ratios.py # every mutant of some files
"""

import csv
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from tests.trust.figures import Figure
from tests.trust.mutations import Mutant, mutants_of, sample

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build/mutants"
REASONS, SURVIVORS = ROOT / "tests/trust/equivalents.csv", ROOT / "docs/trust-mutants.csv"
SEED, COUNT, LEAST = 0, 200, 0.9
SOURCES = [f"symnoise/{room}/**/*.py" for room in ("noise", "curvature", "norms", "theory")]
SOURCES += [f"symnoise/core/{name}.py" for name in ("estimate", "jackknife", "ratios", "masks", "random")]
PAIRING = "pairs coupled dials draws target budget attach"
SOURCES += [f"symnoise/training/{name}.py" for name in PAIRING.split()]
SOURCES += [f"analysis/study/{name}.py" for name in ("pairs", "association", "dials", "contrasts")]
TESTS = [f"tests/{room}/test_*.py" for room in ("core", "noise", "norms", "theory", "curvature")]
TRAINING = "attach budget coupled dials pairs preference regimes sft trackers trainer*"
TESTS += [f"tests/training/test_{name}.py" for name in TRAINING.split()]
TESTS += [f"tests/analysis/test_{name}.py" for name in ("study*", "dial_slopes", "published_studies")]
OURS = ("symnoise", "tests", "analysis", "experiments", "result_schema")
WARM = """accelerate datasets hypothesis matplotlib.pyplot pandas peft pyarrow.parquet scipy.optimize scipy.stats
seaborn tokenizers torch.func transformers.models.gpt2.modeling_gpt2 transformers.models.gpt_neox.modeling_gpt_neox
transformers.models.llama.modeling_llama transformers.models.opt.modeling_opt transformers.trainer trl typer"""
FIXED_S, TIMES = 60.0, 6.0  # a time limit: so many seconds more than so many times what the tests need
MOST_S = 60.0  # of tests for one mutant, as long as they took without it


def measure() -> list[Figure]:
    """The share that is killed, and how many survive for no stated reason."""
    subprocess.run([sys.executable, "-m", "tests.trust.mutants"], cwd=ROOT, check=True)
    found = [(mutant, verdict) for mutant, verdict in verdicts() if verdict]
    survivors = [mutant for mutant, verdict in found if not verdict["killed"]]
    return figures(len(found), survivors, reasons())


def figures(tried: int, survivors: Sequence[Mutant], known: dict[tuple[str, str, str], str]) -> list[Figure]:
    """Of so many mutants and those that survive; writes the list of these."""
    rows = [(m.file, m.line, m.original, m.mutated, known.get(key(m), "")) for m in survivors]
    with SURVIVORS.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("file", "line", "original", "mutated", "reason"), *rows])
    unexplained = sum(not row[-1] for row in rows)
    return [
        Figure("share of mutants that tests catch", 1 - len(rows) / tried, LEAST, 1, tried, str(SEED)),
        Figure("survivors without a reason", unexplained, 0, 0, len(rows), str(SEED)),
    ]


def key(mutant: Mutant) -> tuple[str, str, str]:
    """What a mutant is known by while lines move."""
    return mutant.file, mutant.original, mutant.mutated


def reasons() -> dict[tuple[str, str, str], str]:
    """Why a mutant is no fault, by its file and lines."""
    with REASONS.open(encoding="utf-8", newline="") as file:
        return {(row["file"], row["original"], row["mutated"]): row["reason"] for row in csv.DictReader(file)}


def drawn(files: Sequence[str] = ()) -> list[Mutant]:
    """The sample; every mutant of `files`, if there are any."""
    if files:
        return [mutant for file in files for mutant in mutants_of(ROOT, file)]
    files = sorted({str(path.relative_to(ROOT)) for pattern in SOURCES for path in ROOT.glob(pattern)})
    return sample(drawn(files), COUNT, SEED)


def verdicts(files: Sequence[str] = ()) -> Iterator[tuple[Mutant, dict[str, Any]]]:
    """Every such mutant with the last verdict on it, empty if there is none."""
    path = KEPT / "verdicts.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    known = {(row["file"], row["digest"]): row for row in map(json.loads, lines)}
    for mutant in drawn(files):
        yield mutant, known.get((mutant.file, mutant.digest), {})


def main(files: Sequence[str] = ()) -> None:
    """Try every mutant that has no verdict, and those that survived other tests than there are now."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for module in WARM.split():
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as made:
        tree = copied(Path(made).resolve() / "tree")
        tests = entered(tree)
        waiting = list(verdicts(files))
        for number, (mutant, verdict) in enumerate(waiting, 1):
            chosen = tests_for(mutant, tests)
            state = digest(tree, {name.partition("::")[0] for name in chosen})
            if verdict.get("killed") or verdict.get("tests") == state:
                continue
            row = {"file": mutant.file, "line": mutant.line, "original": mutant.original, "mutated": mutant.mutated}
            row |= {"digest": mutant.digest, "tests": state, **tried(tree, mutant, chosen)}
            with (KEPT / "verdicts.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            what = f"{mutant.file}:{mutant.line}: {mutant.original} -> {mutant.mutated}"
            said = "killed" if row["killed"] else f"SURVIVED {what}"
            print(f"{number}/{len(waiting)} {row['seconds']:.1f} s {said} {row['by']}", flush=True)


def copied(tree: Path) -> Path:
    """The files of the checkout, as they are now."""
    words = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


def digest(tree: Path, files: set[str]) -> str:
    """Of the contents of files."""
    return hashlib.sha256(b"".join((tree / name).read_bytes() for name in sorted(files))).hexdigest()[:16]


def tried(tree: Path, mutant: Mutant, tests: dict[str, float]) -> dict[str, Any]:
    """Whether tests fail with a mutant, which one, and the seconds."""
    path = tree / mutant.file
    before, when = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(mutant.source, encoding="utf-8")
    os.utime(path, (int(mutant.digest[:7], 16),) * 2)  # a date of its own, lest Python takes another's compiled file
    started = time.monotonic()
    try:
        code, said = in_a_process(tree, list(tests), limit=FIXED_S + TIMES * sum(tests.values()))
    finally:
        path.write_text(before, encoding="utf-8")
        os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
    by = "the time limit" if code < 0 else next((x for x in said if x.startswith(("FAILED", "ERROR"))), said[-1:])
    return {"killed": code != 0, "by": str(by)[:160], "seconds": round(time.monotonic() - started, 1)}


# --- which tests enter which functions


class Watch:
    """A plugin of pytest that notes the functions of the library that each test enters, and its seconds."""

    def __init__(self, tree: Path) -> None:
        self.start = f"{tree}/"
        self.found: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Around a test and its fixtures."""
        codes: set[Any] = set()
        started = time.monotonic()
        sys.settrace(lambda frame, event, arg: codes.add(frame.f_code))
        try:
            return (yield)
        finally:
            sys.settrace(None)
            names = {self._name(code) for code in codes if code.co_filename.startswith(self.start)}
            self.found[item.nodeid] = {"seconds": time.monotonic() - started, "enters": sorted(names)}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test that fails without a mutant says nothing about one."""
        if report.failed:
            raise RuntimeError(f"{report.nodeid} fails without a mutant: {report.longreprtext[-2_000:]}")

    def _name(self, code: Any) -> str:
        return f"{code.co_filename.removeprefix(self.start)}:{code.co_qualname.partition('.<')[0]}"


def entered(tree: Path) -> dict[str, dict[str, Any]]:
    """Of every test: the functions that it enters, and its seconds; noted per file of tests, and kept."""
    found: dict[str, dict[str, Any]] = {}
    (KEPT / "entered").mkdir(exist_ok=True)
    for path in sorted({path for pattern in TESTS for path in tree.glob(pattern)}):
        name = str(path.relative_to(tree))
        kept = KEPT / "entered" / f"{path.stem}-{digest(tree, {name})}.json"
        if not kept.is_file():
            started = time.monotonic()
            code, said = in_a_process(tree, [name], limit=1_200, watching=kept)
            if code or not kept.is_file():
                raise RuntimeError(f"{name} fails without a mutant:\n" + "\n".join(said[-30:]))
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        found |= json.loads(kept.read_text(encoding="utf-8"))
    return found


def tests_for(mutant: Mutant, tests: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Those that enter its function, or its file if it is in none, then the rest of their files; with their seconds.

    The rest, since what a fixture or a cached function enters is noted of the first test that asks for it.
    """
    place = f"{mutant.file}:{mutant.function}"
    direct = {name for name, one in tests.items() if any(_is_within(entry, place) for entry in one["enters"])}
    if not direct:
        room = "/".join(mutant.file.split("/")[:2]).replace("symnoise", "tests").replace("/study", "")
        direct = {name for name in tests if name.startswith(room)}
    files = {name.partition("::")[0] for name in direct}
    rest = [name for name in tests if name.partition("::")[0] in files and name not in direct]
    ordered = [*sorted(direct, key=lambda name: tests[name]["seconds"]), *rest]
    ends = accumulate(tests[name]["seconds"] for name in ordered)
    begun = [name for name, end in zip(ordered, ends, strict=True) if end - tests[name]["seconds"] < MOST_S]
    return {name: tests[name]["seconds"] for name in begun}


def _is_within(entry: str, place: str) -> bool:
    return entry == place or (place.endswith(":") and entry.startswith(place))


# --- processes


def in_a_process(tree: Path, tests: list[str], limit: float, watching: Path | None = None) -> tuple[int, list[str]]:
    """Exit code of pytest in a fork of this process, which has imported nothing that is ours, and what it printed.

    A signal counts as its negative number. watching: where to write which functions the tests enter.
    """
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            _become(tree)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(limit))
            watch = Watch(tree)
            words = ["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", *tests]
            code = int(pytest.main(words, plugins=[watch] if watching else []))
            if watching and code == 0:
                watching.write_text(json.dumps(watch.found), encoding="utf-8")
            sys.stdout.flush()
            os._exit(code)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    _end_group(child)
    said = (tree.parent / "said").read_text(encoding="utf-8", errors="replace").splitlines()
    return os.waitstatus_to_exitcode(status), said


def _end_group(group: int) -> None:
    """End what a test has started and left."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _become(tree: Path) -> None:
    """Have the copy in place of the checkout, in this process and those that it starts."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    os.chdir(tree)
    places = [place for place in sys.path if Path(place or ".").resolve() not in (ROOT, tree)]
    sys.path[:] = [str(tree), *places]
    os.environ["PYTHONPATH"] = str(tree)
    sys.dont_write_bytecode = False
    said = os.open(tree.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)


if __name__ == "__main__":
    main(sys.argv[1:])
