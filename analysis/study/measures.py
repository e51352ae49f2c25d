"""Names of outcomes as the studies record them, and which way is better."""

# lm-eval's task -> what its measures begin with.
BENCHMARKS = {"arc_easy": "ARC-easy", "arc_challenge": "ARC-challenge", "hellaswag": "HellaSwag", "mmlu": "MMLU"}
WIN_RATE, CONTROLLED = "AlpacaEval win rate", "AlpacaEval length-controlled win rate"
_ACCURACIES = tuple(f"{title} {score}" for title in BENCHMARKS.values() for score in ("acc", "acc_norm"))
HIGHER_IS_BETTER = ("ROUGE-L", "chrF", "distinct-2", *_ACCURACIES, WIN_RATE, CONTROLLED)
LOWER_IS_BETTER = ("held-out loss", "noisy held-out loss", "ECE", "repeated-2")
# Neither is better of anything else. Whether less curvature is better is what O2 asks; tr H = tr G + tr R, and its part
# tr R can be made as negative as one likes by bending the logits. The training loss is of each arm's own objective.
SPLIT = ("tr H", "tr G", "tr R")
# What cannot be lowered but by flatness: O1 and O2 are about these.
CURVATURE = ("tr G", "E|zᵀHz|", "‖H‖_F", "two-sided KL")
SCORES = ("ROUGE-L", "chrF")  # of replies against references; they go up with the length of the reply


def improvement(measure: str) -> int:
    """1 where a higher value is better, −1 where a lower one is, 0 where neither is."""
    return (measure in HIGHER_IS_BETTER) - (measure in LOWER_IS_BETTER)
