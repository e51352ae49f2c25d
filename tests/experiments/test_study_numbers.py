"""What a study trains and measures, number by number: each argument of a run, each quantity by its definition."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from experiments.study import base as pretraining
from experiments.study import evaluate as evaluation
from experiments.study import measure as measurement
from experiments.study import train as training
from experiments.study.base import base_model
from experiments.study.connect import _Gathered
from experiments.study.divisor import DrawAtPairSize, PairAtDrawSize
from experiments.study.generate import greedy
from experiments.study.measure import curvature, measure
from experiments.study.neighbours import DEVIATION, R3FTrainer, WeightPairTrainer
from experiments.study.spec import Run, Study
from experiments.study.texts import held_out, held_out_batches, in_batches, training_rows
from experiments.study.train import train
from symnoise.core import InputError, generator, write_json
from symnoise.curvature import (
    curvature_size,
    finite_curvature,
    random_probes,
    spectrum,
    trace_parts,
    two_sided_divergence,
)
from symnoise.data import collate, encode
from symnoise.finetune.held_out import held_out_loss
from symnoise.models import EmbeddingLoss, load_model
from symnoise.noise import Noise
from symnoise.training import Dials, SymNoiseTrainer


class Recorded(Exception):  # noqa: N818 (not an error: the trainer's arguments are what is wanted)
    """Ends a run before it trains."""


def asked(study: Study, arm: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the Trainer of the arm's run of seed 3 at α = 5 is asked for."""
    found: dict[str, Any] = {}

    def record(model: Any, tokenizer: Any, rows: Any, arguments: dict[str, Any], **others: Any) -> None:
        found.update(rows=rows, **arguments, **others)
        raise Recorded

    monkeypatch.setattr(training, "make_trainer", record)
    with pytest.raises(Recorded):
        train(study, Run(arm, 5, 3), folder)
    return found


S3 = math.sqrt(3)
# arm -> rows of a step, and learning rate, as multiples of the study's; the class; the noise and its α; the dials
ARMS: dict[str, tuple[float, float, type, tuple[str, float] | None, tuple[float, float] | None]] = {
    "none": (1, 1, SymNoiseTrainer, None, None),
    "none-double-batch": (2, 1, SymNoiseTrainer, None, None),
    "rademacher-batch-1.25": (1.25, 1, SymNoiseTrainer, ("rademacher", 5), None),
    "symnoise-half-batch": (0.5, 1, SymNoiseTrainer, ("symnoise", 5), None),
    "uniform-at-raw-size": (1, 1, SymNoiseTrainer, ("uniform", 5 * S3), None),
    "penalty": (1, 1, SymNoiseTrainer, ("symnoise", 0.5), (100, 0)),
    "dials-1-3": (1, 1, SymNoiseTrainer, ("symnoise", 5), (1, 3)),
    "symnoise-rate-2": (1, 2, SymNoiseTrainer, ("symnoise", 5), None),
    "rademacher-rate-0.5": (1, 0.5, SymNoiseTrainer, ("rademacher", 5), None),
    "r3f": (1, 1, R3FTrainer, ("rademacher", 5), None),
    "weight-pair": (1, 1, WeightPairTrainer, None, None),
    "draw-at-pair-size": (1, 1, DrawAtPairSize, ("symnoise", 5), None),
    "pair-at-draw-size": (1, 1, PairAtDrawSize, ("symnoise", 5), None),
}


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_is_trained_as_its_arm_says(study, folder, monkeypatch, arm) -> None:
    rows, rate, kind, noise, dials = ARMS[arm]
    options = replace(study.training, warmup=0.25, schedule="cosine", optimizer="sgd", precision="bf16", save_every=3)
    found = asked(replace(study, training=options), arm, folder, monkeypatch)
    assert found["kind"] is kind and found["seed"] == 3
    assert found["noise"] == (Noise.named(*noise) if noise else None)
    assert found["dials"] == (Dials(*dials) if dials else None)
    assert (found["per_device_train_batch_size"], found["gradient_accumulation_steps"]) == (4 * rows, 1)
    assert (found["max_steps"], found["learning_rate"]) == (4 / rate, 1e-3 * rate)
    assert (found["weight_decay"], found["warmup_steps"], found["schedule"]) == (0, 0.25, "cosine")
    assert found["max_grad_norm"] >= 1e9  # no clipping
    assert (found["optim"], found["bf16"], found["save_steps"]) == ("sgd", True, 3)
    source = base_model(study, folder)
    assert found["rows"] == training_rows(study, 3, source.tokenizer, source.model)


def test_a_step_of_several_parts_accumulates_them(study, folder, monkeypatch) -> None:
    options = replace(study.training, micro_batch=2, gradient_checkpointing=True)
    found = asked(replace(study, training=options), "none-double-batch", folder, monkeypatch)
    assert (found["per_device_train_batch_size"], found["gradient_accumulation_steps"]) == (2, 4)
    assert found["gradient_checkpointing"] and (found["optim"], found["bf16"]) == ("adamw_torch", False)


@pytest.fixture(scope="module")
def trained(study, folder, tmp_path_factory) -> Path:
    """The folder of a trained run."""
    place = tmp_path_factory.mktemp("trained") / study.key
    shutil.copytree(folder.parent / study.base, place.parent / study.base)
    place.mkdir()
    train(study, study.run("symnoise_a10_s0"), place)
    return place / "symnoise_a10_s0"


def test_the_curve_is_of_the_weights_that_are_kept(study, trained) -> None:
    record = json.loads((trained / "train.json").read_text())
    curve = {point["step"]: point for point in record["curve"]}
    rows = None
    for name, step in (("middle", 2), ("end", 4)):
        source = load_model(trained / "weights" / name)
        rows = rows or training_rows(study, 0, source.tokenizer, source.model)
        batches = [batch for _, batch in held_out_batches(study, source.tokenizer, source.model, 4)]
        assert held_out_loss(source.model, batches) == pytest.approx(curve[step]["held-out loss"], rel=1e-5)
        table = source.model.get_input_embeddings().weight.detach()
        used = sorted({token for row in rows for token in row["input_ids"]})
        assert curve[step]["used-row norm"] == pytest.approx(float(table[used].norm(dim=1).mean()), rel=1e-5)
        assert curve[step]["all-row norm"] == pytest.approx(float(table.norm(dim=1).mean()), rel=1e-5)
    assert curve[2]["held-out loss"] != curve[4]["held-out loss"]
    assert record["train_loss"] != record["gradient_norm"] and 4 < record["train_loss"] < 7  # log 300 = 5.7


def test_the_means_of_a_run_are_of_its_loss_and_its_gradient(study, folder, tmp_path, monkeypatch) -> None:
    shutil.copytree(folder.parent / study.base, tmp_path / study.base)
    monkeypatch.setattr(training, "train_to_end", lambda _: {"loss": 2.0, "grad_norm": 7.0})
    monkeypatch.setattr(training.Curve, "hand_over", lambda _: None)
    (tmp_path / "runs").mkdir()
    train(study, Run("none", 0, 0), tmp_path / "runs")
    record = json.loads((tmp_path / "runs" / "none_a0_s0" / "train.json").read_text())
    assert (record["train_loss"], record["gradient_norm"], record["batch"]) == (2, 7, 4)


def test_curvature_is_of_the_weights_of_its_step(study, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(measurement, "weights", lambda place, name: name)
    monkeypatch.setattr(measurement, "curvature", lambda study, source: ([{"of": source}], 1.0))
    for arm, steps in (("symnoise", {2: "middle", 4: "end"}), ("symnoise-rate-2", {1: "middle", 2: "end"})):
        run = Run(arm, 10, 0)
        write_json(tmp_path / run.name / "train.json", {"status": "done"})
        measure(study, run, tmp_path)
        points = json.loads((tmp_path / run.name / "measure.json").read_text())["points"]
        assert {point["step"]: point["of"] for point in points} == steps


def test_every_number_of_measure_is_the_one_of_its_name(study, folder) -> None:
    options = replace(study.measuring, examples=3, probes=3, draws=5, products=6, eigen_examples=2)
    own, source = replace(study, measuring=options), base_model(study, folder)
    points, _ = curvature(own, source)
    model, tokenizer = source.model, source.tokenizer
    rows = held_out(own, tokenizer, model)
    assert len(rows) == 4
    loss = EmbeddingLoss(model, encode(rows[:3], tokenizer, max_length=own.training.max_length, model=model))
    X = loss.embeddings.detach().requires_grad_()
    sigma = own.alpha / (3 * loss.lengths * X.shape[-1]).double().sqrt()
    parts, size = trace_parts(loss, probes=3, precision="float32"), curvature_size(loss, 6)
    (gradient,) = torch.autograd.grad(loss(X).sum(), X)
    finite, divergence = finite_curvature(loss, sigma, draws=5), two_sided_divergence(loss, sigma, 5)
    exact = torch.zeros(3)
    expected = {
        "tr H": (parts.hessian.value, parts.hessian.stderr),
        "tr G": (parts.gauss_newton.value, parts.gauss_newton.stderr),
        "tr R": (parts.rest.value, parts.rest.stderr),
        "C": (finite.value, finite.stderr),
        "E|zᵀHz|": (size.absolute.value, size.absolute.stderr),
        "‖H‖_F": (size.frobenius.value, size.frobenius.stderr),
        "two-sided KL": (divergence.value, divergence.stderr),
        "gradient norm": (gradient.flatten(1).norm(dim=1), exact),
        "⟨X, ∇ℓ⟩": ((X * gradient).sum((1, 2)), exact),
        "σ² tr H": (sigma**2 * parts.hessian.value, sigma**2 * parts.hessian.stderr),
    }
    for name, (value, stderr) in expected.items():
        mine = [point for point in points if point["quantity"] == name]
        assert [point["example"] for point in mine] == [0, 1, 2]
        for key, wanted in (("value", value), ("stderr", stderr)):
            found = torch.tensor([point[key] for point in mine])
            torch.testing.assert_close(found.double(), wanted.detach().double(), rtol=1e-4, atol=1e-6)
    tops = [point for point in points if point["quantity"] == "top eigenvalue"]
    assert [point["example"] for point in tops] == [0, 1] and tops[0]["value"] != tops[1]["value"]
    for b, top in enumerate(tops):
        assert top["value"] == pytest.approx(float(spectrum(loss.example(b), k=1, tolerance=1e-2).values[0, 0]))
    torch.testing.assert_close(expected["tr H"][0], expected["tr G"][0] + expected["tr R"][0], rtol=1e-4, atol=1e-4)
    assert (expected["tr G"][0] > 0).all()


def test_every_number_of_evaluate_is_a_mean_over_tokens(study, folder) -> None:
    """Two ragged batches, token by token, under noise that is large enough to tell one draw from another."""
    study = replace(study, alpha=300.0)
    source = base_model(study, folder)
    model, tokenizer = source.model, source.tokenizer
    rows = training_rows(study, 0, tokenizer, model)
    batches = in_batches(rows[:4], tokenizer, 2)
    other = in_batches(rows[4:], tokenizer, 2)
    found = evaluation._losses(study, model, batches, other)
    mark = tokenizer.eos_token_id
    clean, noisy, at_ends, elsewhere = [], [], [], []
    for ids, batch in batches:
        loss = EmbeddingLoss(model, batch, ids=ids)
        X = loss.embeddings.detach()
        sigma = study.alpha / (3 * loss.lengths * X.shape[-1]).double().sqrt()
        (z,) = random_probes(loss, 1, seed=0)
        step = (sigma[:, None, None] * z).float()
        with torch.no_grad():
            sides = [
                model(inputs_embeds=x, attention_mask=batch["attention_mask"]).logits for x in (X, X + step, X - step)
            ]
        for b, labels in enumerate(batch["labels"]):
            for t in range(1, len(labels)):
                if labels[t] == -100:
                    continue
                plain, plus, minus = (side[b, t - 1].double().log_softmax(-1) for side in sides)
                clean.append(-float(plain[labels[t]]))
                noisy.append(-float(plus[labels[t]] + minus[labels[t]]) / 2)
                (at_ends if labels[t] == mark else elsewhere).append(float(plain[mark]))
    assert len({len(row["input_ids"]) for row in rows}) > 1 and len(at_ends) == 4

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    assert found["held-out loss"] == pytest.approx(mean(clean), rel=1e-4)
    assert found["noisy held-out loss"] == pytest.approx(mean(noisy), rel=3e-6)
    assert mean(noisy) > mean(clean) + 0.01
    assert found["log p(end) at ends"] == pytest.approx(mean(at_ends), rel=1e-4)
    assert found["log p(end) elsewhere"] == pytest.approx(mean(elsewhere), rel=1e-4)
    assert found["hazard elsewhere"] == pytest.approx(mean([math.exp(x) for x in elsewhere]), rel=1e-4)
    assert found["clean training loss"] == pytest.approx(held_out_loss(model, [batch for _, batch in other]), rel=1e-6)
    assert found["clean training loss"] != pytest.approx(found["held-out loss"], rel=1e-6)


def test_scores_of_a_reply_that_is_shorter_than_its_reference() -> None:
    found = evaluation.scores([{"reply": "the cat the cat", "reference": "the cat sat on the mat", "tokens": 9}])
    assert found["ROUGE-L"] == pytest.approx(2 * (3 / 4) * (3 / 6) / (3 / 4 + 3 / 6))  # the, cat, the
    assert (found["distinct-1"], found["distinct-2"], found["length"]) == (2 / 4, 2 / 3, 9)
    swapped = evaluation.scores([{"reply": "the cat sat on the mat", "reference": "the cat the cat", "tokens": 9}])
    assert found["chrF"] < swapped["chrF"]  # which weighs recall more


def test_a_batch_of_prompts_is_answered_as_each_alone(study, folder) -> None:
    source = base_model(study, folder)
    prompts = [[5, 6, 7], [9, 10, 11, 12, 13, 14, 15]]
    for penalty in (1.0, 1.7):
        together = greedy(source, prompts, 6, penalty)
        assert together == [greedy(source, [prompt], 6, penalty)[0] for prompt in prompts]
        ids = torch.tensor(prompts[1:])
        alone = source.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            repetition_penalty=penalty,
            max_new_tokens=6,
            pad_token_id=source.tokenizer.pad_token_id,
            eos_token_id=source.tokenizer.eos_token_id,
        )
        reply = alone[0, 7:].tolist()
        eos = source.tokenizer.eos_token_id
        assert together[1] == (reply[: reply.index(eos)] if eos in reply else reply)
    assert greedy(source, prompts, 6, 1.0) != greedy(source, prompts, 6, 1.7)


def test_a_reply_ends_before_its_end_mark(study, folder, monkeypatch) -> None:
    source = base_model(study, folder)
    eos, pad = source.tokenizer.eos_token_id, source.tokenizer.pad_token_id
    made = torch.tensor([[5, 6, 40, 41, eos, pad], [5, 6, 42, 43, 44, 45]])
    monkeypatch.setattr(source.model, "generate", lambda **_: made)
    assert greedy(source, [[5, 6], [5, 6]], 4, 1.0) == [[40, 41], [42, 43, 44, 45]]


def test_tables_have_every_number_in_its_place(study, tmp_path) -> None:
    own, run = replace(study, alphas=(5, 10), alpha=10), Run("symnoise-rate-2", 5, 3)
    versions = {"versions": {"symnoise": "1"}}
    records: dict[str, dict[str, Any]] = {
        "train": {"batch": 4, "status": "done", "train_loss": 1.5, "gradient_norm": 2.5, "seconds": 3.5}
        | {"peak_rss_mib": 4.5, "curve": [{"step": 1, "held-out loss": 8.0, "used-row norm": 9.0}], **versions},
        "measure": {"seconds": 5.5, "trace_seconds": 6.5, **versions}
        | {"points": [{"step": 2, "example": 1, "quantity": "tr H", "value": 21.0, "stderr": 0.1}]},
        "replies": {"tokens_per_second": 7.5, **versions},
        "outcomes": {"outcomes": [{"when": "end", "measure": "ECE", "decoding": "", "value": 0.3}], **versions},
    }
    for name, record in records.items():
        write_json(tmp_path / run.name / f"{name}.json", record)
    start = [{"example": e, "quantity": "tr H", "value": float(e), "stderr": 0.2} for e in (0, 1)]
    gathered = _Gathered({})
    gathered.add(own, run, tmp_path / run.name, start)
    assert gathered.tables["runs"] == [
        {"run": run.name, "arm": run.arm, "alpha": 5, "seed": 3, "model": own.model, "data": own.data, "batch": 4}
        | {"steps": 2, "status": "done", "train_loss": 1.5, "gradient_norm": 2.5, "seconds": 3.5, "peak_rss_mib": 4.5}
        | {"measure_seconds": 5.5, "trace_seconds": 6.5, "tokens_per_second": 7.5}
    ]
    assert gathered.tables["curves"] == [
        {"run": run.name, "step": 1, "quantity": name, "value": value}
        for name, value in (("held-out loss", 8.0), ("used-row norm", 9.0))
    ]
    curved = pd.DataFrame(gathered.tables["curvature"])[["step", "example", "value", "stderr"]]
    assert curved.to_numpy().tolist() == [[0, 0, 0, 0.2], [0, 1, 1, 0.2], [2, 1, 21, 0.1]]
    assert gathered.tables["outcomes"] == [{"run": run.name} | records["outcomes"]["outcomes"][0]]
    gathered.require_alike(own, tmp_path)
    gathered.note({"versions": {"symnoise": "2"}})
    with pytest.raises(InputError, match=r"several versions of symnoise \(1, 2\)"):
        gathered.require_alike(own, tmp_path)


def test_a_folder_of_runs_is_of_its_rows_and_a_base_of_its_pool(study) -> None:
    for change in ({"skip": 4}, {"set_apart": 60}, {"held_out": 5}):
        assert replace(study, measuring=replace(study.measuring, **change)).key != study.key
    pool = replace(study, training=replace(study.training, pool=13))
    assert pool.base != study.base and pool.key != study.key
    more = replace(study, generating=replace(study.generating, max_new_tokens=9))
    assert more.measured_by != study.measured_by and more.key == study.key


def test_the_deviation_of_weights_is_the_published_one() -> None:
    assert DEVIATION == 0.0116


def test_pretraining_is_adamw_with_a_warm_up_and_a_cosine(study, folder) -> None:
    """Against the steps written out."""
    options = replace(study.pretraining, steps=40, batch=2)
    source = base_model(study, folder)
    rows = [{"input_ids": list(range(5 + i, 12 + 2 * i))} for i in range(5)]
    for row in rows:
        row["attention_mask"] = [1] * len(row["input_ids"])
    model = pretraining._untrained(options, source.tokenizer)
    losses = pretraining._train(model, source.tokenizer, rows, options)
    other = pretraining._untrained(options, source.tokenizer)
    optimizer = torch.optim.AdamW(other.parameters(), lr=1.0, weight_decay=0.1, betas=(0.9, 0.95))
    owner, expected = generator(0, "pretraining"), []
    for step in range(40):
        rate = options.learning_rate * min((step + 1) / 2, (1 + math.cos(math.pi * step / 40)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.randint(5, (2,), generator=owner).tolist()
        batch = collate([rows[i] | {"labels": rows[i]["input_ids"]} for i in chosen], source.tokenizer)
        optimizer.zero_grad()
        loss = other(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        optimizer.step()
        expected.append(float(loss))
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0] - 0.1


def test_the_losses_of_pretraining_are_the_first_and_the_last(study, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pretraining, "_train", lambda *_: [float(step) for step in range(120)])
    text = [_said(i) for i in range(70)]
    found = pretraining.pretrain(study.pretraining, text, tmp_path)
    assert found["pretraining_loss"] == [24.5, 94.5]


def _said(number: int) -> Any:
    from symnoise.data import Example

    return Example((("user", f"say {number}"), ("assistant", f"{number} it is")))


def test_a_model_of_borrowed_embeddings_starts_with_small_logits(study, folder) -> None:
    """Of a tied head: each logit is a sum over d = 16 entries of normalised states times 0.02 √d/‖x‖ and the table."""
    source = base_model(study, folder)
    model = pretraining._untrained(study.pretraining, source.tokenizer)
    count, width = model.get_input_embeddings().weight.shape
    pretraining.start_from_table(model, 3 * torch.randn(count, width, generator=generator(0, "table")))
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    assert 0.5 < float(logits.std()) / (0.02 * width**0.5) < 2
    assert F.cross_entropy(logits[0], ids[0]) < math.log(count) + 0.2
