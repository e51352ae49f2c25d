"""What a run's log comes to: the numbers on its card, in its JSON and in comparisons. Needs no PyTorch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MEANS = ("loss", "clean_loss", "noise/clean_loss", "grad_norm")
# Measure and its key in the log, of which the mean over steps counts, the last where there are two; noise/ is that of a
# tracker, every so many steps.
_MEANT = (("loss", "loss"), ("clean_loss", "noise/clean_loss"), ("clean_loss", "clean_loss"))
_TAKEN = {  # -> its key, and which of its lines counts
    "eval_loss_before": ("eval_loss", 0),
    "eval_loss": ("eval_loss", -1),
    "trace": ("curvature/trace", -1),
    "used_norm": ("embedding_norm/used_mean", -1),
}


def mean_of_steps(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the steps of a Trainer's log; a line stands for all steps since the line before that has its key."""
    means = {}
    for key in MEANS:
        lines = [(int(line["step"]), line[key]) for line in history if key in line]
        since = [0, *(step for step, _ in lines)]
        weighted = [(step - before) * value for (step, value), before in zip(lines, since, strict=False)]
        if lines:
            means[key] = sum(weighted) / lines[-1][0]
    return means


def summary(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the run of the training losses, held-out loss before and after, the last curvature."""
    means = mean_of_steps(history)
    found = {name: means[key] for name, key in _MEANT if key in means}
    return found | {name: line[key] for name, key, line in _taken(history)}


def basis(history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What each number of `summary` rests on: the step of one line; the last step of a mean over all steps; and the
    steps of a mean of those that a tracker took, unless it took all. Numbers on different bases differ without any
    other cause."""
    found: dict[str, Any] = {}
    for name, key in _MEANT:
        if steps := [line["step"] for line in history if key in line]:
            every = not key.startswith("noise/") or steps == list(range(1, int(steps[-1]) + 1))
            found[name] = steps[-1] if every else steps
    return found | {name: line["step"] for name, _, line in _taken(history)}


def _taken(history: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    """Each measure of `_TAKEN` that the log has: its name, its key, and the line that counts."""
    for name, (key, at) in _TAKEN.items():
        if lines := [line for line in history if key in line]:
            yield name, key, lines[at]
