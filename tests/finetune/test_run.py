"""`symnoise train` as a whole: what it leaves behind, killed and resumed, stopped, changed, on two processes."""

import errno
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from result_schema.files import ROOT
from symnoise.core import InputError, sha256
from symnoise.finetune import run
from symnoise.finetune.compare import compare
from symnoise.finetune.dry_run import STEPS, rows, tiny_model
from symnoise.finetune.folder import one_run
from symnoise.finetune.settings import TrainSettings
from symnoise.models import load_model
from symnoise.training import SymNoiseTrainer
from tests.finetune.runs import MOMENTS, command, interrupted, killed
from tests.processes import FSDP2, one, two

CONFIGS = ROOT / "experiments" / "configs"
MODELS, DATA = ("llama-2-7b", "llama-1-7b", "opt-6.7b"), ("alpaca", "evol-instruct", "sharegpt", "open-platypus")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> list[str]:
    """Flags of a run of six steps on a tiny GPT-2, which has dropout; with everything tracked."""
    folder = tmp_path_factory.mktemp("small")
    tiny_model("gpt2", folder / "model", room=256)
    (folder / "rows.json").write_text(json.dumps(rows("Alpaca")))
    flags = {
        **{"model": folder / "model", "data": folder / "rows.json", "family": "gpt2", "form": "Alpaca"},
        **{"steps": 6, "batch": 2, "accumulation": 2, "max_length": 240, "learning_rate": "1e-2", "save_every": 2},
        **{"log_every": 1, "track_every": 1, "curvature_every": 3, "curvature_rows": 2, "eval_rows": 3},
        **{"eval_every": 2, "noise_schedule": "cosine"},
    }
    return [text for key, value in flags.items() for text in (f"--{key.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory) -> Path:
    """The output of that run, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert command(*small, "--output", folder, "--json", folder / "result.json") == 0
    return folder


def logged(folder: Path, key: str) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


def test_what_a_run_leaves_behind(whole, small):
    result = json.loads((whole / "result.json").read_text())
    assert (result["step"], result["steps"], result["noise"], result["alpha"]) == (6, 6, "symnoise", 5.0)
    assert result["sha256"] == {"model.safetensors": sha256(whole / "model.safetensors")}
    assert load_model(whole).model.config.model_type == "gpt2"
    assert sha256(whole / "model.safetensors") == sha256(whole / "checkpoint-6" / "model.safetensors")
    assert sorted(path.name for path in whole.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    assert not [path.name for path in whole.iterdir() if path.name.startswith((".", "optimizer", "rng"))]
    assert set(logged(whole, "noise/clean_loss")) == set(range(1, 7))
    assert set(logged(whole, "curvature/trace")) == {0, 3, 6}
    assert set(logged(whole, "eval_loss")) == {0, 2, 4, 6}
    for step, alpha in logged(whole, "noise/alpha").items():  # M1: exact for ±1, but for float32
        assert logged(whole, "noise/mean_square_norm")[step] == pytest.approx(alpha**2 / 3, rel=1e-5)
    assert logged(whole, "embedding_norm/used_rows")[6] > 20


def test_the_card_states_model_data_noise_seed_and_versions(whole, small):
    card = (whole / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == small[1]
    data = Path(small[3])
    for fact in (
        f"sha256 `{sha256(data)}`",
        f"sha256 `{sha256(Path(small[1]) / 'model.safetensors')}`",
        "21 rows trained on, 3 held out",
        "`symnoise`, α = 5",
        "ε = c·α/√(L·d)·u, u ±1",
        "Calibrated**: yes; c = 0.57735, so E‖ε‖² = α²v c² = 8.33333",
        "mirrored pair",
        "α schedule cosine",
        "**Seed**: 0",
        f"torch: {torch.__version__}",
    ):
        assert fact in card, fact


def test_held_out_loss_is_the_mean_over_tokens(whole, small):
    """Against sums over single rows, without padding."""
    from symnoise.data import encode, load_data

    loaded = load_model(whole)
    total = count = 0.0
    for example in load_data(small[3], limit=3):
        batch = encode([example], loaded.tokenizer, max_length=240)
        scored = int((batch["labels"][:, 1:] != -100).sum())
        total, count = total + scored * loaded.model(**batch).loss.item(), count + scored
    assert logged(whole, "eval_loss")[6] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.filterwarnings("default:.*is incomplete, left by an interrupted save:UserWarning")
def test_killed_at_any_moment_and_resumed_gives_the_same_bytes(moment, small, whole, tmp_path):
    assert one(killed, moment, *small, "--output", tmp_path) == -signal.SIGKILL
    assert not (tmp_path / "README.md").exists()
    assert command(*small, "--output", tmp_path) == 0
    assert sha256(tmp_path / "model.safetensors") == sha256(whole / "model.safetensors")
    for key in ("loss", "noise/clean_loss", "embedding_norm/used_rows", "curvature/trace", "eval_loss"):
        assert logged(tmp_path, key) == logged(whole, key), key


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(small, whole, tmp_path):
    assert one(interrupted, 3, tmp_path / "said", *small, "--output", tmp_path) == 130
    assert "stopped after step 3 of 6" in (said := (tmp_path / "said").read_text())
    assert "run the same command again" in said
    assert (tmp_path / "checkpoint-3" / "trainer_state.json").exists()
    assert command(*small, "--output", tmp_path) == 0
    assert sha256(tmp_path / "model.safetensors") == sha256(whole / "model.safetensors")


def test_the_length_of_an_unfinished_run_stays_and_no_run_becomes_shorter(small, tmp_path, capfd):
    """Its learning rate has begun to fall along the length; and a run of 3 steps called one of 2 would be compared."""
    assert one(interrupted, 3, tmp_path / "said", *small, "--output", tmp_path / "out") == 130
    capfd.readouterr()
    for steps in (2, 8):
        assert command(*small, "--output", tmp_path / "out", "--steps", steps) == 2
        assert f"steps was 6, now {steps}" in capfd.readouterr().err
    assert command(*small, "--output", tmp_path / "out") == 0
    assert command(*small, "--output", tmp_path / "out", "--steps", 2) == 2
    assert "holds a run of 6 steps, and 2 are fewer" in capfd.readouterr().err
    assert "steps: 6" in (tmp_path / "out" / "train.yaml").read_text()


def test_a_finished_run_is_not_trained_again_and_takes_more_steps_only(small, tmp_path, capfd):
    """Steps may change, with the optimizer state kept; nothing else that the steps so far rest on may."""
    assert command(*small, "--output", tmp_path, "--steps", 2, "--keep-state") == 0
    weights = sha256(tmp_path / "model.safetensors")
    assert command(*small, "--output", tmp_path, "--steps", 2, "--keep-state") == 0
    assert sha256(tmp_path / "model.safetensors") == weights
    assert "warning" not in capfd.readouterr().err
    before = contents(tmp_path)
    for changed, words in (
        (("--noise", "none"), "noise was 'symnoise', now 'none'"),
        (("--seed", 7, "--alpha", 3), "noise_alpha was 5.0, now 3.0; seed was 0, now 7"),
        (("--learning-rate", "2e-3"), "learning_rate was 0.01, now 0.002"),
    ):
        assert command(*small, "--output", tmp_path, "--steps", 4, *changed) == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert "holds a run with other settings" in line and words in line
        assert contents(tmp_path) == before
    assert command(*small, "--output", tmp_path, "--steps", 4) == 0
    assert sha256(tmp_path / "model.safetensors") != weights
    rates = logged(tmp_path, "learning_rate")  # of the schedule over 4 steps, one of them warm-up
    assert rates[4] == pytest.approx(1e-2 * (1 + math.cos(math.pi * 2 / 3)) / 2)
    assert not list(tmp_path.glob("checkpoint-*/optimizer*"))  # 1 GB of SmolLM2's
    before = contents(tmp_path)
    for longer in (("--steps", 6), ("--steps", 0, "--epochs", 9)):
        assert command(*small, "--output", tmp_path, *longer) == 2
        assert "kept no optimizer state" in capfd.readouterr().err
        assert contents(tmp_path) == before


@pytest.mark.parametrize(("changed", "finished"), [("training rows", True), ("held-out rows", False), ("model", True)])
def test_a_run_does_not_go_on_when_its_files_have_changed(changed, finished, small, tmp_path, capfd):
    """Its card would name files that it was not trained on, and losses before and after would be of other rows."""
    model, data = tmp_path / "model", tmp_path / "rows.json"
    shutil.copytree(small[1], model)
    lines = rows("Alpaca")
    data.write_text(json.dumps(lines))
    again = ["--model", model, "--data", data, *small[4:], "--output", tmp_path / "out", "--steps", 2]
    assert command(*again) == 0
    if not finished:
        (tmp_path / "out" / "README.md").unlink()
    if changed == "model":
        shutil.copy(tmp_path / "out" / "model.safetensors", model / "model.safetensors")
    else:
        place = 0 if changed == "held-out rows" else -1
        lines[place] = lines[place - 1 if place else 1]
        data.write_text(json.dumps(lines))
    line = refused(capfd, tmp_path / "out", *again)
    assert f"holds a run with other content: {changed} changed since it began" in line


def refused(capfd, output: Path, *arguments: object) -> str:
    """The one line with which `symnoise train ARGUMENTS` refuses the run in `output`, and changes nothing there."""
    before = contents(output)
    capfd.readouterr()
    assert command(*arguments) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert contents(output) == before
    return line


def test_a_run_does_not_go_on_with_another_commit_of_a_model_on_the_hub(small, tmp_path, monkeypatch, capfd):
    """Of which no file is hashed."""
    again = [*small, "--output", tmp_path, "--steps", 2]
    for commit in ("abc", "abc", "def"):
        of_hub = {"source": "hub", "path": None, "revision": commit}
        monkeypatch.setattr(run, "load_model", lambda name, of_hub=of_hub: replace(load_model(name), **of_hub))
        if commit == "abc":
            assert command(*again) == 0
    line = refused(capfd, tmp_path, *again)
    assert "holds a run with other content: revision of the model changed since it began" in line


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # PEFT's, of a GPT-2
def test_a_run_does_not_go_on_with_another_base_of_its_adapter(small, two_steps, tmp_path, capfd):
    base, adapter, out = (tmp_path / name for name in ("base", "adapter", "out"))
    shutil.copytree(small[1], base)
    brief = [*small[2:], "--steps", 2, "--curvature-every", 0, "--lora-rank", 2]
    assert command("--model", base, *brief, "--output", adapter) == 0
    again = ["--model", adapter, *brief, "--output", out]
    assert command(*again) == 0
    shutil.copy(two_steps / "model.safetensors", base / "model.safetensors")
    line = refused(capfd, out, *again)
    assert "holds a run with other content: base of the model changed since it began" in line


def test_a_run_does_not_go_on_with_another_number_of_processes(small, tmp_path, capfd):
    """Its steps would have half the rows, and it would begin with rows that it has used."""
    assert 0 not in two(killed, "in the middle of step 3", *small, "--output", tmp_path)
    line = refused(capfd, tmp_path, *small, "--output", tmp_path)
    assert "holds a run on 2 process(es), and this would go on with 1" in line and "start 2 process(es)" in line


def test_a_run_that_an_earlier_version_began_is_resumed(small, two_steps, tmp_path):
    """Which recorded neither the number of processes nor a commit."""
    shutil.copytree(two_steps, tmp_path / "out")
    record = tmp_path / "out" / "sources.json"
    now = json.loads(record.read_text())
    record.write_text(json.dumps({name: now[name] for name in ("model", "training rows", "held-out rows")}))
    assert command(*small, "--output", tmp_path / "out", "--steps", 4) == 0
    assert json.loads(record.read_text()) == now and now["processes"] == 1


@pytest.mark.parametrize(
    "name", ["used_rows.pt", "curvature_start.pt", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"]
)
def test_a_damaged_file_of_a_checkpoint_is_one_line(name, small, two_steps, tmp_path, capfd):
    shutil.copytree(two_steps, tmp_path / "out")
    damaged = tmp_path / "out" / "checkpoint-2" / name
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    assert command(*small, "--output", tmp_path / "out", "--steps", 4) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("symnoise")]
    assert "checkpoint-2" in line and "delete it to resume from the checkpoint before it" in line


@pytest.fixture(scope="module")
def two_steps(small, tmp_path_factory) -> Path:
    """The output of a run that can be continued."""
    folder = tmp_path_factory.mktemp("two")
    assert command(*small, "--output", folder, "--steps", 2, "--keep-state") == 0
    return folder


@pytest.mark.filterwarnings("default:.*is incomplete, left by an interrupted save:UserWarning")
def test_the_newest_checkpoint_is_kept_whatever_the_clock_says(small, two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path / "out")
    os.utime(tmp_path / "out" / "checkpoint-2", (4e9, 4e9))  # as if the clock had been set back since
    (tmp_path / "out" / "checkpoint-3").mkdir()  # of a killed save
    assert command(*small, "--output", tmp_path / "out", "--steps", 4, "--keep", 1) == 0
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-4"]


def test_a_run_that_goes_on_to_more_steps_is_unfinished_until_it_ends(small, two_steps, tmp_path, monkeypatch):
    shutil.copytree(two_steps, tmp_path / "out")
    assert command(*small, "--output", tmp_path / "out", "--steps", 2, "--keep-state") == 0  # nothing to do
    assert (tmp_path / "out" / "README.md").is_file()
    real = SymNoiseTrainer.training_step

    def stopped(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SymNoiseTrainer, "training_step", stopped)
        assert command(*small, "--output", tmp_path / "out", "--steps", 4, "--keep-state") == 130
    with pytest.raises(InputError, match="has not finished"):
        compare([two_steps, tmp_path / "out"])
    assert command(*small, "--output", tmp_path / "out", "--steps", 4, "--keep-state") == 0
    assert (tmp_path / "out" / "README.md").is_file()


def test_a_second_run_in_a_folder_is_refused_and_changes_nothing(small, two_steps, capfd):
    before = contents(two_steps)
    with one_run(two_steps):
        assert command(*small, "--output", two_steps, "--steps", 4) == 2
    assert "is in use by another run" in capfd.readouterr().err
    assert contents(two_steps) == before


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_one_line(small, tmp_path, monkeypatch, capfd):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert command(*small, "--output", tmp_path) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("symnoise")]
    assert "cannot save" in line and "checkpoint-2: " in line and "No space left on device" in line


def contents(folder: Path) -> dict[str, str]:
    """The SHA-256 of its files, but for the lock, which a killed run leaves behind."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def test_the_summary_says_whether_it_helped_and_how_to_load_it(small, tmp_path, capfd):
    assert command(*small, "--output", tmp_path, "--steps", 2, "--json", tmp_path / "result.json") == 0
    said = capfd.readouterr().out
    measured = json.loads((tmp_path / "result.json").read_text())["measured"]
    losses = logged(tmp_path, "eval_loss")
    assert (measured["eval_loss_before"], measured["eval_loss"]) == (losses[0], losses[2])
    assert f"on 3 rows: {losses[0]:.5g} before, {losses[2]:.5g} after training" in said
    (code,) = [line.split(": ", 1)[1] for line in said.splitlines() if line.startswith("load it in Python")]
    found: dict[str, Any] = {}
    exec(code, found)  # what a user would type
    assert found["loaded"].model.config.model_type == "gpt2"
    card = (tmp_path / "README.md").read_text()
    assert f'symnoise.load_model("{tmp_path}")' in card
    assert "### Instruction:\n{question}\n\n### Response:{reply}</s>" in card


@pytest.mark.parametrize(
    ("name", "message"), [("tensorbord", "did you mean 'tensorboard'"), ("neptune", "run: pip install neptune")]
)
def test_a_report_to_that_cannot_be_is_refused_before_the_model_loads(
    name, message, small, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(run, "load_model", lambda *_: pytest.fail("a model was loaded"))
    assert command(*small, "--output", tmp_path / "out", "--report-to", name) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_rows_are_held_out_by_default():
    assert [TrainSettings().held_out(rows) for rows in (3, 40, 160, 52_000)] == [0, 4, 16, 16]
    assert TrainSettings(eval_rows=0).held_out(1000) == 0


@pytest.mark.parametrize("more", [["--bf16"], ["--gradient-checkpointing", "--pair-mode", "two-pass"]])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # PEFT's, of a GPT-2
def test_lora_trains_adapters_alone(more, small, tmp_path):
    assert command(*small, "--output", tmp_path, "--lora-rank", 2, "--steps", 2, "--curvature-every", 0, *more) == 0
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert weights and all("lora" in name for name in weights)
    assert any(bool(value.any()) for name, value in weights.items() if "lora_B" in name)  # they start at 0
    assert "LoRA adapter" in (tmp_path / "README.md").read_text()
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("model", "data"), [*((model, DATA[0]) for model in MODELS), *((MODELS[0], d) for d in DATA[1:])]
)
def test_every_recipe_runs_dry(model, data, tmp_path):
    configs = [flag for name in ("common", model, data) for flag in ("--config", CONFIGS / "paper" / f"{name}.yaml")]
    assert command(*configs, "--dry-run", "--output", tmp_path, "--json", tmp_path / "result.json") == 0
    kind = {"opt": "OPTForCausalLM"}.get(model.split("-")[0], "LlamaForCausalLM")
    assert f"({kind}, " in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "result.json").read_text())["steps"] == STEPS


def test_an_encoder_decoder_runs_dry(tmp_path):
    more = ("--form", "messages", "--eval-rows", 4, "--output", tmp_path)
    assert command("--family", "t5", "--dry-run", *more) == 0
    assert "(T5ForConditionalGeneration, " in (tmp_path / "README.md").read_text()


def test_the_real_run_on_smollm2_runs_dry(tmp_path):
    """Its log has what it is run for: clean loss, noisy loss, moments, norms and curvature."""
    assert command("--config", CONFIGS / "smollm2-chitchat.yaml", "--dry-run", "--output", tmp_path) == 0
    keys = ("loss", "noise/clean_loss", "noise/mean_square_norm", "embedding_norm/used_mean", "curvature/trace")
    assert all(logged(tmp_path, key) for key in (*keys, "eval_loss"))


def test_all_recipes_are_tested():
    assert {path.stem for path in (CONFIGS / "paper").glob("*.yaml")} == {"common", *MODELS, *DATA}


def test_accelerate_launches_a_recipe_on_two_processes_with_fsdp2(tmp_path):
    """The launcher, the config file and the recipe as they are, but for the number of processes and the dry run."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    configs = [f"--config={CONFIGS / 'paper' / name}.yaml" for name in ("common", "llama-2-7b", "alpaca")]
    place = ["--config_file", str(CONFIGS / "accelerate" / "fsdp2.yaml"), "--main_process_port", str(free_port())]
    done = subprocess.run(
        [*launcher, *place, "-m", "symnoise", "train", *configs, "--dry-run", "--output", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "dry run of llama passed: 2 steps" in done.stdout
    assert "on 2 process(es)" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "checkpoint-2" / "pytorch_model_fsdp.bin").exists()  # it was FSDP that saved
    load_model(tmp_path)


@pytest.mark.parametrize("fsdp", [False, True])
def test_opt_on_two_gloo_processes_and_resumed_there(fsdp, tmp_path):
    """OPT ties its head to its table, which FSDP has to keep so."""
    configs = [f"--config={CONFIGS / 'paper' / name}.yaml" for name in ("common", "opt-6.7b", "sharegpt")]
    digests = []
    for _ in range(2):
        assert two(command, *configs, "--dry-run", "--output", tmp_path, more=FSDP2 if fsdp else {}) == [0, 0]
        last = tmp_path / f"checkpoint-{STEPS}"
        assert (last / "pytorch_model_fsdp.bin").exists() == fsdp
        assert {path.name for path in last.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
        digests.append(sha256(tmp_path / "model.safetensors"))
        shutil.rmtree(last)  # as if it had been killed after the checkpoint before
    assert digests[0] == digests[1]
    assert "model.decoder.embed_tokens.weight" in load_file(tmp_path / "model.safetensors")
    load_model(tmp_path)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_loss_that_is_not_finite_ends_with_one_line(small, tmp_path, monkeypatch, capfd):
    finite = SymNoiseTrainer.compute_loss

    def sometimes(self, *args, **kwargs):
        return finite(self, *args, **kwargs) * (float("nan") if self.state.global_step == 3 else 1.0)

    monkeypatch.setattr(SymNoiseTrainer, "compute_loss", sometimes)
    assert command(*small, "--output", tmp_path, "--track-every", 0) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "symnoise:" in line]
    assert "loss is nan at step 3" in line and "checkpoint-2" in line
    assert not (tmp_path / "README.md").exists()
