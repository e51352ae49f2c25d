"""Kills: 50 kill -9 at random moments of five commands, and what else may happen to a run; each is then run again.

Half of the moments are uniform in time over the undisturbed run, half uniform over what it does to files: just before
the n-th one. All processes of a command are killed at once. The final files must be those of the undisturbed run, none
more and none less, byte for byte but for what a clock says (`same.py`). A failed try's folder is kept, and named.
Records hold the commit, so commit nothing meanwhile.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from symnoise.core import progress_shown, track
from tests.trust.figures import Figure
from tests.trust.same import different, files, seconds
from tests.trust.victims import VICTIMS, Ended, Running, Victim, inputs, moments, mount, small_disk

SEED = 0
KILLS = {"train": 14, "train, two processes": 8, "curvature --json": 12, "reproduce": 6, "a study": 10}
YEARS_S = 1e8
PAGE = 4096


@dataclass(frozen=True)
class Case:
    """A victim, and its undisturbed run in `base`/NAME-whole."""

    victim: Victim
    base: Path
    whole: Ended

    @property
    def result(self) -> Path:
        """What the undisturbed run left."""
        return place(self.base, self.victim, "whole") / "work"

    def folder(self, name: str) -> Path:
        """That of a new try."""
        folder = place(self.base, self.victim, name)
        for file in self.victim.begun:
            (folder / "work" / file).parent.mkdir(parents=True)
            shutil.copy(self.result / file, folder / "work" / file)
        return folder

    @property
    def middle(self) -> int:
        """An operation on files at which much is done and much is left."""
        return self.whole.operations // 4

    def again(self, folder: Path, but: str = "", clock: float = 0.0) -> str:
        """Run the command again in `folder`; what is wrong with the end of it, or ""."""
        ended = Running(self.victim, folder, clock=clock).end()
        if ended.code:
            return f"run again, it ended with exit code {ended.code}: {' '.join(ended.lines)}"
        return ", ".join(different(folder / "work", self.result, but))


def place(base: Path, victim: Victim, name: str) -> Path:
    """The folder of one try."""
    return base / f"{victim.name.replace(' ', '-').replace(',', '')}-{name}"


def measure() -> list[Figure]:
    """Every figure of the part."""
    base, found = Path(tempfile.mkdtemp(prefix="symnoise-kills-")).resolve(), []
    inputs(base / "inputs")
    with progress_shown():
        for victim in VICTIMS:
            whole = Running(victim, place(base, victim, "whole")).end()
            if whole.code:
                raise RuntimeError(f"{victim.name} alone ended with exit code {whole.code}:\n{whole.said[-3000:]}")
            case = Case(victim, base, whole)
            if victim.begun:
                case = replace(case, whole=Running(victim, case.folder("begun")).end())
            found += of_case(case)
    if all(figure.kept for figure in found):
        shutil.rmtree(base)
    else:
        print(f"what failed is kept in {base}", file=sys.stderr)
    return found


def of_case(case: Case) -> list[Figure]:
    """The figures of one command."""
    kills, name = KILLS[case.victim.name], case.victim.name
    owner = random.Random(f"{SEED} {name}")
    found = []
    for what, by_time in (("a random moment", True), ("a random operation on files", False)):
        at = moments(owner, case.whole, by_time=by_time)
        tries = track(range(kills // 2), f"{name}: kill -9 at {what}")
        wrong = [killed(case, f"{'moment' if by_time else 'operation'}-{i}", at) for i in tries]
        found.append(figure(f"{name}: kill -9 at {what}, then as undisturbed", wrong, str(SEED)))
    for what, work in OTHERS.items():
        if name not in LEFT_OUT.get(work, ()):
            (wrong,) = [work(case) for _ in track(range(1), f"{name}: {what}")]
            if wrong is None:
                print(f"{name}: {what}: not tried: only root may mount a small file system", file=sys.stderr)
            else:
                found.append(figure(f"{name}: {what}", [wrong], ""))
    return found


def figure(name: str, wrong: Sequence[str], seeds: str) -> Figure:
    """The share of tries with which nothing was wrong, and in the note what was."""
    bad = [one for one in wrong if one]
    for one in bad:
        print(f"{name}: {one}", file=sys.stderr)
    return Figure(name, 1 - len(bad) / len(wrong), 1, 1, len(wrong), seeds, "; ".join(bad)[:300])


def killed(case: Case, name: str, at: Iterator[tuple[float, int]]) -> str:
    """kill -9 at the first of the moments that comes before the end."""
    for i, (moment, operation) in enumerate(at):
        folder = case.folder(f"{name}-{i}")
        running = Running(case.victim, folder, at=operation)
        if not operation:
            running.kill_after(moment)
        if running.end().code == -signal.SIGKILL:
            break
    wrong = case.again(folder)
    return wrong and f"{folder.name}, killed at {moment:.2f} s or operation {operation}: {wrong}"


def stopped(case: Case, number: int) -> str:
    """A signal in the middle: its exit code and one line, and the run can be continued."""
    folder = case.folder(signal.Signals(number).name)
    ended = Running(case.victim, folder, at=case.middle, number=number).end()
    wrong = ended_well(ended, case.victim.codes[number], "stopped")
    # The checkpoint that train saves when it is stopped is one that the undisturbed run has not.
    return wrong or case.again(folder, but="out/checkpoint-")


def ended_well(ended: Ended, code: int, word: str) -> str:
    """What is wrong with an end that should have this exit code, and one line with this word in it."""
    if ended.code != code:
        return f"exit code {ended.code} instead of {code}: {ended.said[-500:]}"
    lines = [line for line in ended.lines if word in line]
    # Its own end is a traceback to torchrun, whose exit code is 1.
    if len(lines) != 1 or ("Traceback" in ended.said and code != 1):
        return f"not one line with {word!r}: {ended.lines or ended.said[-500:]}"
    return ""


def full_disk(case: Case) -> str | None:
    """Half of the room that the results need; run again when there is more."""
    folder = place(case.base, case.victim, "disk")
    try:
        with small_disk(folder / "work"):
            pages = sum(-(-path.stat().st_size // PAGE) for _, path in files(case.result) if path.is_file())
            fill(folder / "work" / "ballast", leaving=max(2, pages // 2) * PAGE)
            wrong = ended_well(Running(case.victim, folder).end(), case.victim.codes[0], "make room")
            (folder / "work" / "ballast").unlink()
            return wrong or case.again(folder)
    except OSError:
        return None


def fill(ballast: Path, leaving: int) -> None:
    """Use up the disk but for so many bytes."""
    room = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize - leaving)


def read_only(case: Case) -> str | None:
    """A folder that cannot be written to: one line, at once."""
    folder = place(case.base, case.victim, "read-only")
    try:
        with small_disk(folder / "work"):
            mount("-o", "remount,ro", str(folder / "work"))
            return ended_well(Running(case.victim, folder).end(), case.victim.codes[0], "cannot write")
    except OSError:
        return None


def two_at_once(case: Case) -> str:
    """The second is refused with a line; the first ends as if alone."""
    folder = case.folder("twice")
    first = Running(case.victim, folder)
    first.wait_for(lambda: any((folder / "work").rglob("*.lock")))
    with first.asleep():
        wrong = ended_well(Running(case.victim, folder).end(), case.victim.codes[0], "in use by another run")
    code = first.end().code
    return wrong or (f"the first ended with {code}" if code else ", ".join(different(folder / "work", case.result)))


def jumping_clock(case: Case) -> str:
    """A clock three years late at every second look, files from the future, a kill in the middle."""
    folder = case.folder("clock")
    Running(case.victim, folder, at=case.middle, clock=YEARS_S).end()
    for _, path in files(folder / "work"):
        os.utime(path, (4e9, 4e9))
        os.utime(path.parent, (4e9, 4e9))
    wrong = case.again(folder, clock=YEARS_S)
    strange = [one for one in seconds(folder / "work") if not 0 <= one <= 100 * case.whole.seconds]
    return wrong or (f"durations {strange[:3]}" if strange else "")


OTHERS = {
    "Ctrl-C, then as undisturbed": partial(stopped, number=signal.SIGINT),
    "SIGTERM, then as undisturbed": partial(stopped, number=signal.SIGTERM),
    "a full disk, then as undisturbed": full_disk,
    "a read-only folder is one line": read_only,
    "of two at once the second is refused, the first undisturbed": two_at_once,
    "kill -9 and a clock that jumps, then as undisturbed": jumping_clock,
}
# Of two processes the first alone writes, as one process does.
LEFT_OUT = dict.fromkeys((full_disk, read_only, jumping_clock), ("train, two processes",))
