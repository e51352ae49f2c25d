"""How time and memory of Taylor mode and of Hessian products grow with probes, length, batch and depth.

One process per point; the point that all lines of a method share is measured once.
"""

from collections.abc import Callable, Iterator

from experiments.bench.process import SCORED, Clock, Kept, Row, batch, measured, model_of, seconds
from symnoise.curvature import trace
from symnoise.models import EmbeddingLoss

BASE = {"probes": 8, "tokens": 128, "rows": 1, "depth": 30}
GRID: dict[str, tuple[int, ...]] = {
    "probes": (1, 2, 4, 8, 16, 32, 64),
    "tokens": (64, 128, 256, 512, 1024, 2048),
    "rows": (1, 2, 4, 8),
    "depth": (4, 8, 15, 30),
}
SMOKE = {"probes": (1, 2, 4), "tokens": (64, 128, 256), "rows": (1, 2, 4), "depth": (1, 2, 4)}
LIMIT_GIB = 8.0  # points expected above this are left out
# Work is repeated, twice where it takes long, and its fastest run counts: a busy moment of the machine only adds.
_ENOUGH_S, _LONG_S = 4.0, 60.0

KEY = ["method", "axis", *BASE]


def points(smoke: bool) -> Iterator[Row]:
    """Every point, each line from its smallest value up."""
    base = BASE | ({"depth": 4} if smoke else {})
    for axis, values in (SMOKE if smoke else GRID).items():
        for method in ("taylor", "hvp"):
            for value in values:
                yield {"method": method, "axis": axis, **base, axis: value, "smoke": smoke}


def measure(row: Row) -> Row:
    """One trace with `probes` probes, set-up included: seconds, and memory above the model."""
    model = model_of(row)
    loss = EmbeddingLoss(model, batch(model.config.vocab_size, row["rows"], row["tokens"], SCORED))
    clock = Clock(loss)
    times: list[float] = []
    with measured(True, clock.forward) as record:
        while len(times) < 2 or (sum(times) < _ENOUGH_S and len(times) < 3):
            times.append(seconds(lambda: trace(loss, method=row["method"], probes=row["probes"])))
            if times[-1] > _LONG_S:
                break
    return {**{name: row[name] for name in KEY}, "seconds": min(times), **record, "forward_s": seconds(clock.forward)}


def run(smoke: bool, say: Callable[[str], None], kept: Kept) -> list[Row]:
    """Every point."""
    records: list[Row] = []
    line: list[Row] = []  # the points of this line so far
    for point in points(smoke):
        if line and line[-1]["method"] != point["method"]:
            line = []
        name = f"{point['method']}, {point['axis']} = {point[point['axis']]}"
        record = _same(records, point)
        if record is None:
            expected = _expected(line)
            if expected > LIMIT_GIB:
                say(f"{name}: left out, about {expected:.0f} GiB")
                continue
            say(name)
            record = kept.in_process("growth", point)
        records.append(record | {"axis": point["axis"]})
        line.append(record)
    return records


def _same(records: list[Row], point: Row) -> Row | None:
    """The point shared by all lines of a method, if another line has measured it."""
    return next((r for r in records if all(r[name] == point[name] for name in ("method", *BASE))), None)


def _expected(line: list[Row]) -> float:
    """Memory of the next point in GiB: the last two continued as a power, and a fifth for attention's square."""
    if len(line) < 2:
        return 0.0
    before, last = (max(record["memory_gib"], 1e-3) for record in line[-2:])
    return 1.2 * last * max(last / before, 1.0)
