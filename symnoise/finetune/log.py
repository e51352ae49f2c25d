"""What a run's log comes to: the numbers on its card, in its JSON and in comparisons. Needs no PyTorch."""

from collections.abc import Mapping, Sequence

MEANS = ("loss", "clean_loss", "noise/clean_loss", "grad_norm")


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
    names = {"loss": "loss", "noise/clean_loss": "clean_loss", "clean_loss": "clean_loss"}
    found = {name: means[key] for key, name in names.items() if key in means}
    if losses := [line["eval_loss"] for line in history if "eval_loss" in line]:
        found |= {"eval_loss_before": losses[0], "eval_loss": losses[-1]}
    if traces := [line["curvature/trace"] for line in history if "curvature/trace" in line]:
        found["trace"] = traces[-1]
    return found
