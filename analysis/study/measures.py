"""Names of outcomes as the studies record them, and which way is better."""

# lm-eval's task -> what its measures begin with.
BENCHMARKS = {"arc_easy": "ARC-easy", "arc_challenge": "ARC-challenge", "hellaswag": "HellaSwag", "mmlu": "MMLU"}
WIN_RATE, CONTROLLED = "AlpacaEval win rate", "AlpacaEval length-controlled win rate"
_ACCURACIES = tuple(f"{title} {score}" for title in BENCHMARKS.values() for score in ("acc", "acc_norm"))
HIGHER_IS_BETTER = ("ROUGE-L", "chrF", "distinct-2", *_ACCURACIES, WIN_RATE, CONTROLLED)
NEUTRAL = ("length", "used-row norm growth", "all-row norm growth")  # neither more nor less is better
