"""`symnoise plan` as a user types it: from a folder with a configuration alone, and what it says of bad input."""

import json

import pytest
from transformers import LlamaConfig

from symnoise.cli import plan as command
from symnoise.curvature import planning
from symnoise.curvature.simulated import Work
from tests.command import call

FAST = ("--flops", 1e11, "--bandwidth", 1e10)
SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.fixture
def folder(tmp_path):
    LlamaConfig(**SIZES, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def planned(monkeypatch, folder, *arguments: object) -> dict:
    file = folder.parent / "plan.json"
    assert call(monkeypatch, "plan", "--model", folder, "--max-length", 16, *FAST, *arguments, "--json", file) == 0
    return json.loads(file.read_text())


def test_a_plan_needs_a_configuration_alone(monkeypatch, folder, capsys) -> None:
    result = planned(monkeypatch, folder, "--gpu", "1MiB", "--examples", 8)
    assert result["architecture"] == result["counted_as"] == "LlamaForCausalLM"
    assert (result["examples"], result["tokens"], result["rtol"]) == (8, 16, 0.05)
    assert result["gpu_bytes"] == 2**20
    assert [one["name"] for one in result["plans"]] == ["Taylor mode", "Taylor mode, streamed", "Hessian products"]
    assert all(one["seconds"] > 0 and one["memory"] > 0 for one in result["plans"])
    assert [one["fits"] for one in result["plans"]] == [one["memory"] <= 2**20 for one in result["plans"]]
    said = capsys.readouterr().out
    assert f"To measure: {result['command']}\n" in said
    # Not --rtol, which there is of each batch.
    assert result["command"].endswith(
        f"--batch 4 --probes {result['probes']} --dtype float32 --method taylor --device cuda"
    )
    said = " ".join(said.split())
    assert "8 examples of 16 tokens" in said and "as on SmolLM2" in said and "as given" in said
    assert "Unknown to Transformers" not in said


@pytest.fixture
def unsimulated(monkeypatch) -> None:
    monkeypatch.setattr(planning, "_at_full_depth", lambda config, task, costs: [Work(2e9, 1e9, 1e6)] * 2)


def test_probes_replace_the_tolerance(monkeypatch, folder, capsys, unsimulated) -> None:
    result = planned(monkeypatch, folder, "--probes", 4)
    assert (result["probes"], result["rtol"], result["gpu_bytes"]) == (4, None, None)
    assert [one["fits"] for one in result["plans"]] == [True] * 3 and result["memory_bytes"] > 2**20
    assert result["command"].endswith("--probes 4 --dtype float32 --method taylor")
    assert "as on SmolLM2" not in capsys.readouterr().out


def test_a_model_larger_than_the_card_is_streamed(monkeypatch, tmp_path, capsys, unsimulated) -> None:
    """Llama 2 7B in float32: 25 GiB of weights."""
    sizes = SIZES | {"vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32}
    LlamaConfig(**sizes | {"num_attention_heads": 32}).save_pretrained(tmp_path / "model")
    seven = planned(monkeypatch, tmp_path / "model", "--gpu", "24GiB", "--probes", 4)
    assert [one["fits"] for one in seven["plans"]] == [False, True, False]
    assert seven["command"].endswith("--method taylor --stream --device cuda")
    said = capsys.readouterr().out
    assert f"To measure; layers must be streamed to fit: {seven['command']}\n" in said
    none = planned(monkeypatch, tmp_path / "model", "--gpu", "1GiB", "--probes", 4)
    assert none["command"] is None and "None fits: try a smaller --batch" in capsys.readouterr().out


def test_without_a_card_what_must_fit_is_the_free_memory_of_this_machine(monkeypatch, folder, capsys, unsimulated):
    monkeypatch.setattr(command, "free_memory", lambda: 2**10)
    result = planned(monkeypatch, folder, "--probes", 4)
    assert [one["fits"] for one in result["plans"]] == [False] * 3 and result["command"] is None
    said = " ".join(capsys.readouterr().out.split())
    assert "Fits: into 0.0 GiB, free on this machine now." in said and "None fits: try a smaller --batch" in said


def test_a_card_of_unknown_speed_has_no_time(monkeypatch, folder, tmp_path, capsys, unsimulated) -> None:
    """That of this machine's CPU is another's."""
    monkeypatch.setattr(command, "measured_speed", None)
    file = tmp_path / "plan.json"
    assert call(monkeypatch, "plan", "--model", folder, "--gpu", "24GiB", "--probes", 4, "--json", file) == 0
    result = json.loads(file.read_text())
    assert [(one["seconds"], one["forwards"], one["fits"]) for one in result["plans"]] == [(None, None, True)] * 3
    said = " ".join(capsys.readouterr().out.split())
    assert "Forwards and time: give the card's --flops and --bandwidth" in said and "nan" not in said


def test_of_an_unknown_architecture_it_says_what_its_sizes_tell(monkeypatch, folder, capsys, unsimulated) -> None:
    file = folder / "config.json"
    known = planned(monkeypatch, folder, "--probes", 4)
    file.write_text(json.dumps(SIZES | {"model_type": "unheard-of", "architectures": ["UnheardOfForCausalLM"]}))
    found = planned(monkeypatch, folder, "--probes", 4)
    assert found["plans"] == known["plans"]
    said = " ".join(capsys.readouterr().out.split())
    assert "Unknown to Transformers: counted as a LlamaForCausalLM of the same sizes." in said
    file.write_text(json.dumps({"model_type": "unheard-of", "vocab_size": 97}))
    assert call(monkeypatch, "plan", "--model", folder, *FAST) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "'unheard-of'" in said and "hidden_size" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--gpu", "24"), "--gpu is an amount of memory, such as 24GiB; got '24'"),
        (("--gpu", "0GiB"), "--gpu is an amount of memory"),
        (("--rtol", "0"), "--rtol must be above 0, finite, and take at most 1e+12 probes"),
        (("--rtol", "1e-200"), "--rtol must be above 0, finite, and take at most 1e+12 probes"),
        (("--rtol", "inf"), "--rtol must be above 0, finite, and take at most 1e+12 probes"),
        (("--probes", "0"), "--probes must be 1 or more"),
        (("--examples", "0"), "--examples must be 1 or more"),
        (("--max-length", "1"), "--max-length must be 2 or more"),
        (("--dtype", "float23"), "did you mean 'float32'?"),
        (("--flops", "1e9"), "are given together"),
        (("--model", "smolm2"), "did you mean 'smollm2'?"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, folder, capsys, arguments, said) -> None:
    assert call(monkeypatch, "plan", "--model", folder, *arguments) == 2
    error = capsys.readouterr().err
    assert said in " ".join(error.split()) and error.count("\n") == 1


def test_a_folder_without_a_configuration(monkeypatch, tmp_path, capsys) -> None:
    assert call(monkeypatch, "plan", "--model", tmp_path, *FAST) == 2
    assert "has no config.json" in capsys.readouterr().err
