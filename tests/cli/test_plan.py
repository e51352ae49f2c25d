"""`symnoise plan` as a user types it: from a folder with a configuration alone, and what it says of bad input."""

import json

import pytest
from transformers import LlamaConfig

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
    assert (result["examples"], result["tokens"], result["pilot_probes"]) == (8, 16, 16)
    assert [one["name"] for one in result["plans"]] == ["Taylor mode", "Taylor mode, streamed", "Hessian products"]
    assert all(one["seconds"] > 0 and one["memory"] > 0 for one in result["plans"])
    assert [one["fits"] for one in result["plans"]] == [one["memory"] <= 2**20 for one in result["plans"]]
    said = " ".join(capsys.readouterr().out.split())
    assert "8 examples of 16 tokens" in said and "as on SmolLM2" in said and "as given" in said
    assert "Unknown to Transformers" not in said


def test_probes_replace_the_tolerance(monkeypatch, folder, capsys) -> None:
    result = planned(monkeypatch, folder, "--probes", 12)
    assert (result["probes"], result["pilot_probes"], result["gpu_bytes"]) == (12, 0, None)
    assert [one["fits"] for one in result["plans"]] == [None] * 3
    assert "as on SmolLM2" not in capsys.readouterr().out


def test_of_an_unknown_architecture_it_says_what_its_sizes_tell(monkeypatch, folder, capsys) -> None:
    file = folder / "config.json"
    known = planned(monkeypatch, folder)
    file.write_text(json.dumps(SIZES | {"model_type": "unheard-of", "architectures": ["UnheardOfForCausalLM"]}))
    found = planned(monkeypatch, folder)
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
        (("--rtol", "0"), "--rtol must be above 0"),
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
