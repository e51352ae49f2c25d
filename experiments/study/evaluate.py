"""Outcomes of one run: held-out loss, clean and noisy, calibration, and scores of its replies.

python -m experiments.study.evaluate STUDY.yaml symnoise_a10_s3
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.study.command import run_command
from experiments.study.results import best_is_end, processor, records, weights
from experiments.study.spec import Run, Study
from experiments.study.texts import held_out_batches, in_batches, training_rows
from symnoise.core import provenance, write_json
from symnoise.curvature import random_probes
from symnoise.data.encoding import IGNORED
from symnoise.finetune.held_out import held_out_loss
from symnoise.models import EmbeddingLoss, LoadedModel
from symnoise.noise import Noise

BINS = 10
Batches = list[tuple[list[int], dict[str, Tensor]]]  # (numbers of rows, batch)


def evaluate(study: Study, run: Run, folder: Path) -> None:
    """Write outcomes.json: {when, measure, decoding, value} at the best point and at the end."""
    place = folder / run.name
    found: list[dict[str, Any]] = []
    if records(place / "train.json")["status"] == "done":
        texts, losses = None, {}
        for when in ("best", "end"):
            if when == "best" or not best_is_end(place):
                source = weights(place, when)
                texts = texts or _texts(study, run, source)  # the same for both
                losses = _losses(study, source.model, *texts)
            for measure, value in losses.items():
                found.append({"when": when, "measure": measure, "decoding": "", "value": value})
        replies = records(place / "replies.json")["replies"]
        for when, decoding in dict.fromkeys((r["when"], r["decoding"]) for r in replies):
            own = [r for r in replies if (r["when"], r["decoding"]) == (when, decoding)]
            for measure, value in scores(own).items():
                found.append({"when": when, "measure": measure, "decoding": decoding, "value": value})
    record = {"run": run.name, "measured_by": study.measured_by, "outcomes": found}
    write_json(place / "outcomes.json", record | {"processor": processor()} | provenance())


def _texts(study: Study, run: Run, source: LoadedModel) -> tuple[Batches, Batches]:
    """The held-out rows, and the rows that the run trained on."""
    model, tokenizer, size = source.model, source.tokenizer, study.training.batch
    rows = training_rows(study, run.seed, tokenizer, model)
    return held_out_batches(study, tokenizer, model, size), in_batches(rows, tokenizer, size)


def _losses(study: Study, model: Any, held_out: Batches, trained_on: Batches) -> dict[str, float]:
    """Means over all scored held-out tokens; the noisy loss over one mirrored Rademacher pair at the study's α.

    The clean training loss is over all scored tokens of the training rows, without noise, so all arms have the same
    objective.

    log p(end): log-probability of the end-of-turn token given the reference so far, where the reference ends and where
    it does not. The hazard is p(end) itself: if it were constant, its inverse would be the mean length of a reply.
    """
    clean, noisy, sure, right = [], [], [], []
    ending, inside = [], []
    mark = end_mark([batch for _, batch in held_out])
    for ids, batch in held_out:
        loss = EmbeddingLoss(model, batch, ids=ids)
        X = loss.embeddings
        sigma = Noise.neftune(study.alpha).sigma(loss.lengths.cpu(), X.shape[-1]).to(X)[:, None, None]
        (z,) = random_probes(loss, 1, seed=0)
        with torch.no_grad():
            logits = loss.logits(X)
            sides = (loss(X + sigma * z) + loss(X - sigma * z)) / 2
        log_p = logits.log_softmax(-1)[:, mark].double()
        ending.append(log_p[loss.targets == mark])
        inside.append(log_p[loss.targets != mark])
        confidence, choice = logits.softmax(-1).max(-1)
        clean.append(torch.nn.functional.cross_entropy(logits, loss.targets, reduction="none").double())
        noisy.append((sides * loss.scored_tokens, loss.scored_tokens))
        sure.append(confidence)
        right.append(choice == loss.targets)
    total = sum(float(s.sum()) for s, _ in noisy) / sum(int(n.sum()) for _, n in noisy)
    return {
        "held-out loss": float(torch.cat(clean).mean()),
        "noisy held-out loss": total,
        "log p(end) at ends": float(torch.cat(ending).mean()),
        "log p(end) elsewhere": float(torch.cat(inside).mean()),
        "hazard elsewhere": float(torch.cat(inside).exp().mean()),
        "ECE": calibration_error(torch.cat(sure), torch.cat(right)),
        "clean training loss": held_out_loss(model, [batch for _, batch in trained_on]),
    }


def end_mark(batches: list[dict[str, Tensor]]) -> int:
    """The token that ends a reply: the most frequent last scored token, since truncated replies may end in any."""
    last = [int(row[row != IGNORED][-1]) for batch in batches for row in batch["labels"]]
    return max(set(last), key=last.count)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Expected calibration error Σ_bins (n_bin/n)·|accuracy − mean confidence|, equal bins (Guo et al. 2017)."""
    which = (confidence.double() * BINS).long().clamp(max=BINS - 1)
    gap = 0.0
    for k in range(BINS):
        inside = which == k
        if inside.any():
            gap += float((right[inside].double().mean() - confidence[inside].double().mean()).abs() * inside.sum())
    return gap / len(confidence)


def scores(replies: list[dict[str, Any]]) -> dict[str, float]:
    """Means over replies of ROUGE-L F1, chrF, length in tokens, share of repeated 2-grams; distinct-n over all."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import CHRF

    scorer, chrf = RougeScorer(["rougeL"], use_stemmer=True), CHRF()
    words = [reply["reply"].split() for reply in replies]
    pairs = [list(pairwise(w)) for w in words]
    return {
        "ROUGE-L": _mean(scorer.score(r["reference"], r["reply"])["rougeL"].fmeasure for r in replies),
        "chrF": _mean(chrf.sentence_score(r["reply"], [r["reference"]]).score for r in replies),
        "length": _mean(r["tokens"] for r in replies),
        "distinct-1": _distinct([word for w in words for word in w]),
        "distinct-2": _distinct([pair for p in pairs for pair in p]),
        "repeated-2": _mean(1 - _distinct(p) if p else 0.0 for p in pairs),
    }


def _distinct(items: list[Any]) -> float:
    return len(set(items)) / len(items) if items else 0.0


def _mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values)


if __name__ == "__main__":
    run_command(evaluate)()
