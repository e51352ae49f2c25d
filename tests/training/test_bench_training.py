"""The bench of training runs, on a tiny model, and its table holds what the promises are about."""

import pandas as pd
import pytest
import torch

from experiments.bench import training as bench
from symnoise.finetune.dry_run import tiny_model


def test_the_bench_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "TOKENS", 32)
    tiny_model("llama", tmp_path / "model", room=bench.TOKENS)
    memory = iter(range(100, 200))
    monkeypatch.setattr(bench, "peak", lambda *_: float(next(memory)))
    bench.main(model=str(tmp_path / "model"), rounds=2, output=tmp_path / "training.csv")
    frame = pd.read_csv(tmp_path / "training.csv").set_index("loop")
    assert list(frame.index) == list(bench.LOOPS)
    assert frame.at[bench.PLAIN, "time_ratio"] == frame.at[bench.NEFTUNE, "neftune_ratio"] == 1
    assert frame.at[bench.TWO_PASS, "memory_ratio"] == pytest.approx(1.05)
    assert (frame[["step_seconds", "gradient_ratio"]] > 0).all(axis=None)
    assert frame.at[bench.UNPAIRED, "noise_ms"] != 0  # a difference of timings, whose sign a busy machine may turn
    plain_ms = 1e3 * frame.at[bench.PLAIN, "step_seconds"]
    assert frame.at[bench.UNPAIRED, "noise_share"] == pytest.approx(frame.at[bench.UNPAIRED, "noise_ms"] / plain_ms)
    assert capsys.readouterr().out.count("at most") == len(bench.LIMITS)


def test_draws_are_timed_without_the_layers_which_are_put_back(tmp_path):
    tiny_model("llama", tmp_path / "model", room=bench.TOKENS)
    made = bench.Bench(bench.load_model(tmp_path / "model").model, bench.LOOPS, str(tmp_path))
    layers, ran, drawn = made.model.base_model.layers, [], []
    layers[0].register_forward_hook(lambda *_: ran.append(1))
    made.model.get_input_embeddings().register_forward_hook(lambda m, a, output: drawn.append(output), prepend=True)
    added = bench.draws(made, 3)
    assert {loop: len(values) for loop, values in added.items()} == {bench.NEFTUNE: 3, bench.UNPAIRED: 3}
    assert made.model.base_model.layers is layers and not ran and len(drawn) == 9


def test_what_is_within_its_error_is_undecided():
    near = {"time_ratio": 1.011, "time_ratio_stderr": 0.004, "neftune_ratio": 1.04, "neftune_ratio_stderr": 0.01}
    near |= {"noise_share": 0.001, "noise_share_stderr": 0.0001, "neftune_noise_ratio": 0.9}
    pairs = {"time_ratio": 1.9, "memory_ratio": 1.04, "memory_ratio_accumulated": 1.06}
    found = bench.verdicts([{"loop": loop} | (near if loop == bench.UNPAIRED else pairs) for loop in bench.LOOPS])
    words = ["undecided", "kept", "NOT KEPT", "kept", "kept", "kept", "NOT KEPT"]
    assert [word for *_, word in found] == words


def test_memory_of_one_loop_alone(tmp_path, capsys):
    tiny_model("llama", tmp_path / "model", room=bench.TOKENS)
    bench.main(loop=bench.TWO_PASS, model=str(tmp_path / "model"))
    assert '"peak_rss_mib"' in capsys.readouterr().out


def test_every_loop_does_what_its_name_says(tmp_path):
    """Which noise met the table, and how many rows went through the model, in one step of each."""
    tiny_model("llama", tmp_path / "model", room=bench.TOKENS)
    model = bench.load_model(tmp_path / "model").model
    made, seen, precision = bench.Bench(model, bench.LOOPS, str(tmp_path)), {}, {}
    table, layer = model.get_input_embeddings(), model.base_model.layers[0]
    for loop in bench.LOOPS:
        plain, rows = [], []
        hooks = [
            table.register_forward_hook(lambda m, a, output, kept=plain: kept.append(output.detach()), prepend=True),
            layer.register_forward_pre_hook(lambda m, a, kept=rows: kept.append(a[0].detach())),
            layer.mlp.gate_proj.register_forward_hook(lambda m, a, out, own=loop: precision.update({own: out.dtype})),
        ]
        made.step(loop)
        for hook in hooks:
            hook.remove()
        # E‖ε‖² is α²/3 for each row in every loop with noise: exactly for ±1, within a few per cent for uniform.
        square = [float((b - a).square().sum((1, 2)).mean()) for a, b in zip(plain, rows, strict=True)]
        seen[loop] = ([len(b) for b in rows], square)
    noisy = pytest.approx(25 / 3, rel=0.1)
    assert seen[bench.PLAIN] == seen[bench.BF16] == ([4], [0.0])
    bf16 = {loop for loop, dtype in precision.items() if dtype == torch.bfloat16}
    assert bf16 == {bench.BF16}
    assert seen[bench.NEFTUNE] == ([4], [noisy])
    assert seen[bench.UNPAIRED] == ([4], [noisy])
    assert seen[bench.DOUBLED] == ([8], [noisy])
    assert seen[bench.TWO_PASS] == ([4, 4], [noisy, noisy])
