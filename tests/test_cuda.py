"""What a GPU computes is what the processor computes: every measurement, training, and what happens when memory is
short. Skipped where there is none."""

import json
import sys
import warnings

import pytest
import torch
from torch import Tensor

from experiments.bench import peers as bench_peers
from experiments.bench.process import Kept
from experiments.study.base import base
from experiments.study.results import processor
from experiments.study.spec import load_study
from experiments.study.sweep import STEPS
from result_schema.files import ROOT
from symnoise.curvature import (
    curvature_size,
    finite_curvature,
    hvp,
    random_probes,
    smoothed_curvature,
    spectral_density,
    spectrum,
    trace,
    trace_parts,
    two_sided_divergence,
)
from symnoise.finetune.engine import make_trainer, train_to_end
from symnoise.models import EmbeddingLoss, float64_throughout
from symnoise.noise import Noise
from symnoise.norms import layer_growth
from symnoise.training import Dials, attach, double_batch, variance_budget
from tests.text import batch
from tests.tiny import NAMES, tiny, tiny_tokenizer, without_dropout
from tests.training.ragged import collate, rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = "cuda"
DEVICES = ("cpu", GPU)


def losses(name: str, dtype: torch.dtype = torch.float64, **size: int) -> list[EmbeddingLoss]:
    """The same loss on the processor and on the GPU; the batch stays where a tokenizer leaves it."""
    return [EmbeddingLoss(tiny(name, dtype).to(device), batch(**size)) for device in DEVICES]


def same(one: Tensor, other: Tensor, rtol: float = 1e-8) -> None:
    torch.testing.assert_close(other.cpu(), one.cpu(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["taylor", "hvp"])
def test_traces(name: str, method: str) -> None:
    """Probes are drawn on the processor, so they are the same; attention's kernels are not."""
    with float64_throughout():
        here, there = (trace_parts(loss, method, probes=8, seed=1) for loss in losses(name))
    for part in ("hessian", "gauss_newton", "rest"):
        same(getattr(here, part).value, getattr(there, part).value)
        same(getattr(here, part).stderr, getattr(there, part).stderr, 1e-6)


@pytest.mark.parametrize("method", ["taylor", "hvp", "difference"])
def test_traces_in_float32(method: str) -> None:
    """Against float64: no TF32, whose products have three digits, slips in."""
    with float64_throughout():
        exact = trace(losses("llama")[0], "taylor", probes=8)
    found = trace(losses("llama", torch.float32)[1], method, probes=8)
    same(exact.value.double(), found.value.double(), 2e-2 if method == "difference" else 1e-3)


def test_other_measurements() -> None:
    sigma, found = torch.tensor([0.1, 0.1], dtype=torch.float64), []
    with float64_throughout():
        for loss in losses("llama"):
            smooth = smoothed_curvature(loss, sigma[None], draws=4)
            (z,) = random_probes(loss, 1, seed=0)
            found.append(
                {
                    "C by pairs": finite_curvature(loss, sigma, draws=4).value,
                    "C": smooth.C.value,
                    "T": smooth.T.value,
                    "two-sided KL": two_sided_divergence(loss, sigma, 4).value,
                    "Frobenius norm": curvature_size(loss, 4).frobenius.value,
                    "product": hvp(loss, z),
                    "eigenvalues": spectrum(loss.example(0), k=2, tolerance=1e-6).values,
                    "moment": spectral_density(loss.example(0), probes=2, steps=8).moment(2).value,
                    "growth": layer_growth(loss, Noise.neftune(5.0), draws=2).growth.value,
                }
            )
    for value, other in zip(found[0].values(), found[1].values(), strict=True):
        same(value, other, 1e-6)


def test_the_variance_budget() -> None:
    found = []
    for device in DEVICES:
        texts = [collate(rows()[at : at + 2]) for at in (0, 2, 4)]
        model = without_dropout(tiny("llama", torch.float64)).to(device)
        found += variance_budget(model, texts, [5.0], draws=2)
    here, there = found
    for name in ("signal", "batch"):  # noise is drawn on the device, so the parts that have it differ
        same(getattr(here, name).value, getattr(there, name).value, 1e-6)


@pytest.mark.parametrize("noise", [Noise.neftune(5.0), Noise.symnoise(5.0)])
def test_noise_of_training_has_its_scale(noise: Noise) -> None:
    model = tiny("llama").to(GPU).train()
    clean, seen = model.get_input_embeddings().weight.detach(), []
    hook = model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    text = {key: value.to(GPU) for key, value in collate(rows()[:2]).items()}
    text = double_batch(text) if noise.paired else text
    with attach(model, noise, seed=0):
        model(**text).loss.backward()
    hook.remove()
    epsilon = seen[0] - clean[text["input_ids"]]
    assert epsilon.device.type == GPU
    assert float(epsilon.abs().max()) > 0
    if noise.paired:
        same(epsilon[0::2], -epsilon[1::2], 1e-6)


@pytest.mark.parametrize("dials", [None, Dials(2.0, 1.0)])
def test_a_pair_trains_as_on_the_processor(tmp_path, dials: Dials | None) -> None:
    """Three steps of the engine; ε is drawn on the device and so differs, and the losses are near each other."""
    losses = []
    for device in DEVICES:
        arguments = {"output_dir": str(tmp_path / device), "max_steps": 3, "per_device_train_batch_size": 2}
        arguments |= {"use_cpu": device == "cpu", "save_strategy": "no", "logging_steps": 1, "report_to": "none"}
        noise = Noise.symnoise(0.5)
        made = make_trainer(
            tiny("llama"), tiny_tokenizer(), rows(), arguments, seed=0, schedule="linear", noise=noise, dials=dials
        )
        made.data_collator = collate
        losses.append(train_to_end(made)["loss"])
        assert made.model.device.type == device
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_short_memory_costs_time_alone() -> None:
    """With little left of the GPU the same probes are taken in smaller groups, and the numbers stay."""
    loss = losses("llama", torch.float32, rows=8, tokens=64)[1]
    plenty = trace(loss, "taylor", probes=256, seed=2)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 48 * 2**20) / total)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            short = trace(loss, "taylor", probes=256, seed=2)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    same(plenty.value, short.value, 1e-3)


def test_the_command_line(tmp_path, monkeypatch) -> None:
    from symnoise.cli import main

    tiny("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer(chat=True).save_pretrained(tmp_path / "model")
    data, record = tmp_path / "rows.jsonl", tmp_path / "out.json"
    data.write_text("\n".join(json.dumps({"instruction": f"Say {w}", "output": w * 3}) for w in "abcdefgh"))
    found = []
    for device in DEVICES:
        options = ["--model", str(tmp_path / "model"), "--data", str(data), "--examples", "2", "--probes", "4"]
        monkeypatch.setattr(sys, "argv", ["symnoise", "curvature", *options, "--device", device, "--json", str(record)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        found.append(json.loads(record.read_text(encoding="utf-8")))
    here, there = ([example["trace"] for example in one["per_example"]] for one in found)
    assert here == pytest.approx(there, rel=1e-3)


def test_a_run_of_a_study(tmp_path) -> None:
    """Trained, measured, generated from and evaluated where the weights are."""
    study = load_study(ROOT / "experiments" / "configs" / "studies" / "micro-smoke.yaml")
    run = study.run("symnoise_a10_s0")
    base(study, tmp_path / "runs")
    for step in STEPS.values():
        step(study, run, tmp_path / "runs")
    for file in STEPS:
        record = json.loads((tmp_path / "runs" / run.name / file).read_text(encoding="utf-8"))
        assert record["processor"] == processor()


@pytest.mark.filterwarnings("ignore:Using backward")  # PyHessian's graph
def test_peers_of_the_bench(tmp_path) -> None:
    """Measured on the GPU, memory too; passes of many probes and batched calls are as right as single ones."""
    rows = {row["method"]: row for row in bench_peers.run(True, print, Kept(tmp_path / "peers.csv"))}
    assert bench_peers.ON_GPU
    assert all(row["memory_gib"] > 0 and row["forwards"] > 0 for row in rows.values())
    deviation = next(iter(rows.values()))["deviation"]
    for name, columns in (("plain graph reuse", 1), (bench_peers.BATCHED, bench_peers.COLUMNS)):
        error = deviation / (bench_peers.REPEATS * columns) ** 0.5
        assert rows[name]["trace"] == pytest.approx(rows[name]["mean_trace"], abs=6 * error)
