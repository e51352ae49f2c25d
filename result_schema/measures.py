"""What is measured of a run: names, units, and which way is better."""

from dataclasses import dataclass

NATS, TRACE = "nats", "nats per squared embedding unit"


@dataclass(frozen=True)
class Measure:
    """unit: "" for a number without one.  better: 1 where higher is, −1 where lower is, 0 where neither is."""

    unit: str = ""
    better: int = 0


# lm-eval's task -> what its measures begin with.
BENCHMARKS = {"arc_easy": "ARC-easy", "arc_challenge": "ARC-challenge", "hellaswag": "HellaSwag", "mmlu": "MMLU"}
WIN_RATE, CONTROLLED = "AlpacaEval win rate", "AlpacaEval length-controlled win rate"
NORMS = ("used-row norm", "all-row norm")  # along training: of the rows of tokens in the training text, and of all rows
# Columns of the runs -> measures: means over the steps, the loss of each arm's own objective.
TRAINED = {"train_loss": "training loss", "gradient_norm": "training gradient norm"}
# None of these is better higher or lower. Whether less curvature is better is O2's question; tr H = tr G + tr R, and
# tr R can be made arbitrarily negative by bending the logits.
SPLIT = ("tr H", "tr G", "tr R")
# These are lowered only by a flatter loss: O1 and O2 are about them.
CURVATURE = ("tr G", "E|zᵀHz|", "‖H‖_F", "two-sided KL")
SCORES = ("ROUGE-L", "chrF")  # of replies against references; they increase with the length of the reply
OF_REPLIES = (*SCORES, "length", "distinct-1", "distinct-2", "repeated-2")

MEASURES = {
    "training loss": Measure(NATS),
    "clean training loss": Measure(NATS),  # without noise, over the training rows: the same objective for all arms
    "training gradient norm": Measure(),
    "held-out loss": Measure(NATS, -1),
    "noisy held-out loss": Measure(NATS, -1),
    # Of the token that ends a reply, given the reference so far; the hazard is p(end) itself.
    "log p(end) at ends": Measure(NATS),
    "log p(end) elsewhere": Measure(NATS),
    "hazard elsewhere": Measure(),
    "ECE": Measure(better=-1),
    **{score: Measure(better=1) for score in SCORES},
    "length": Measure("tokens"),
    "distinct-1": Measure(),
    "distinct-2": Measure(better=1),
    "repeated-2": Measure(better=-1),
    **{f"{title} {score}": Measure(better=1) for title in BENCHMARKS.values() for score in ("acc", "acc_norm")},
    WIN_RATE: Measure("%", 1),
    CONTROLLED: Measure("%", 1),
    **{part: Measure(TRACE) for part in (*SPLIT, "C", "E|zᵀHz|", "‖H‖_F", "top eigenvalue")},
    "two-sided KL": Measure(NATS),
    "σ² tr H": Measure(NATS),
    "⟨X, ∇ℓ⟩": Measure(NATS),
    "gradient norm": Measure("nats per embedding unit"),
    **{f"{norm} growth": Measure() for norm in NORMS},
}

ENDS = ("clean training loss", "held-out loss", "tr G")  # what is told of every study, at the end of training
ENDING = "log p(end) elsewhere"  # of the end of a turn, where the reference goes on


def improvement(measure: str) -> int:
    """1 where a higher value is better, −1 where a lower one is, 0 where neither is."""
    return MEASURES[measure].better if measure in MEASURES else 0
