"""The commands as a user types them: JSON keys, tables, and one line with exit code 2 on bad input."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

import symnoise
from symnoise import trace
from symnoise.cli.shared import load, show
from symnoise.models import bundled, load_model
from tests.command import call
from tests.tiny import tiny, tiny_tokenizer

_VIT = ViTConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=16)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a tiny Llama, its tokenizer, and six Alpaca rows."""
    folder = tmp_path_factory.mktemp("cli")
    tiny("llama").save_pretrained(folder / "model")
    tiny_tokenizer(chat=True).save_pretrained(folder / "model")
    rows = [
        {"instruction": f"say {word}", "output": f"{word} {word}"}
        for word in ["one", "two", "three", "four", "five", "six"]
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    _bad_files(folder, rows)
    return folder


def _bad_files(folder: Path, rows: list[dict[str, str]]) -> None:
    (folder / "empty.json").touch()
    (folder / "broken.json").write_text('[{"instruction": ')
    (folder / "no-reply.json").write_text(json.dumps([*rows[:1], {"instruction": "say"}]))
    (folder / "long.json").write_text(json.dumps([rows[0], {"instruction": "say " * 50, "output": "one"}, *rows[1:]]))
    (folder / "no-instruction.json").write_text(json.dumps([{"instruction": None, "output": "one"}]))
    (folder / "weights.bin").write_bytes(b"pickle")
    (folder / "folder.png").mkdir()
    for name, config in (("pickled", {"model_type": "llama"}), ("remote", {"model_type": "own", "auto_map": {}})):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
        (folder / name / ("pytorch_model.bin" if name == "pickled" else "model.safetensors")).touch()
    nan = tiny("llama")
    with torch.no_grad():
        nan.model.layers[1].mlp.up_proj.weight.fill_(torch.nan)
    for name, model in (("nan", nan), ("no-table", ViTForImageClassification(_VIT))):
        model.save_pretrained(folder / name)
        tiny_tokenizer(chat=True).save_pretrained(folder / name)


def run(monkeypatch, home: Path, tmp_path: Path, command: str, *arguments: object) -> dict:
    """The JSON of a measuring command on the tiny model."""
    places = ["--model", home / "model", "--data", home / "rows.json", "--examples", 3, "--max-length", 64]
    assert call(monkeypatch, command, *places, *arguments, "--json", tmp_path / "out.json") == 0
    return json.loads((tmp_path / "out.json").read_text())


@pytest.mark.parametrize("arguments", [["--help"], ["moments", "--help"]])
def test_help_answers_without_torch(arguments: list[str]) -> None:
    code = f"import sys; sys.argv = ['symnoise', *{arguments!r}]\nfrom symnoise.cli import main\ntry: main()\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_moments(monkeypatch, tmp_path, capsys) -> None:
    arguments = ["--law", "uniform", "--alpha", 5, "--length", 16, "--dim", 8, "--draws", 100]
    assert call(monkeypatch, "moments", *arguments, "--json", tmp_path / "m.json") == 0
    found = json.loads((tmp_path / "m.json").read_text())
    for name in ("mean_square_norm", "var_square_norm", "mean_norm"):
        assert set(found[name]) == {"predicted", "measured", "stderr"}
    assert found["mean_square_norm"]["predicted"] == pytest.approx(25 / 3)
    assert "predicted" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["auto", "taylor", "hvp", "difference", "exact"])
def test_curvature(monkeypatch, home, tmp_path, capsys, method: str) -> None:
    short = ["--max-length", 20]  # exact takes a Hessian product a coordinate
    found = run(monkeypatch, home, tmp_path, "curvature", "--method", method, "--probes", 4, "--batch", 2, *short)
    assert {"model", "data", "seconds", "forward_seconds", "forwards_per_probe", "peak_rss_mib"} <= set(found)
    assert found["method"] == {"auto": "taylor"}.get(method, method)
    said = " ".join(capsys.readouterr().out.split())
    assert ("tr G is sampled, by --method auto." in said) == (method in ("difference", "exact"))
    assert set(found["trace"]) == set(found["gauss_newton_trace"]) == {"value", "stderr", "dof"}
    assert len(found["per_example"]) == 3
    assert {"tokens", "scored_tokens", "trace", "stderr"} <= set(found["per_example"][0])
    mean = sum(example["trace"] for example in found["per_example"]) / 3
    assert found["trace"]["value"] == pytest.approx(mean)


def test_curvature_at_a_layer(monkeypatch, home, tmp_path, capsys) -> None:
    """It is the library's at that layer, with the size of the states there."""
    found = run(monkeypatch, home, tmp_path, "curvature", "--layer", 1, "--probes", 4, "--max-length", 20)
    assert "at layer 1" in capsys.readouterr().out and found["layer"] == 1
    source = {"model": str(home / "model"), "data": str(home / "rows.json"), "chat_template": None, "strict": False}
    sizes = {"examples": 3, "max_length": 20, "dtype": "float32", "device": "cpu"}
    loss, plain = (load(**source, **sizes, layer=layer).loss(range(3)) for layer in (1, 0))
    expected = {"trace": trace(loss, probes=4).value, "mean_square": loss.mean_square}
    for name, values in expected.items():
        assert [example[name] for example in found["per_example"]] == pytest.approx(values.tolist(), rel=1e-5)
    assert not torch.allclose(loss.mean_square, plain.mean_square, rtol=0.01)


@pytest.mark.parametrize("command", ["curvature", "spectrum", "smooth", "norms"])
@pytest.mark.filterwarnings("default:.*left out:UserWarning")
def test_rows_that_cannot_be_used_are_left_out_and_counted(monkeypatch, home, tmp_path, capsys, command: str) -> None:
    """A row too long for anything of its reply is one; the others are as if it were not there."""
    few = {"curvature": ["--probes", 2], "spectrum": ["--count", 1], "smooth": ["--draws", 1], "norms": ["--draws", 1]}
    short = [*few[command], "--max-length", 40]
    without = run(monkeypatch, home, tmp_path, command, *short)
    assert "left out" not in capsys.readouterr().err
    found = run(monkeypatch, home, tmp_path, command, "--data", home / "long.json", *short)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"{home / 'long.json'}: 1 row is left out: 1: its reply is cut off entirely at 40 tokens (the first: row 2)"
        in said
    )
    assert (without["left_out"], without["left_out_because"]) == (0, {})
    assert (found["left_out"], found["left_out_because"]) == (1, {"its reply is cut off entirely at 40 tokens": 1})
    assert [found[name] for name in ("max_length", "dtype", "device")] == [40, "float32", "cpu"]
    assert found["weights"] == load_model(home / "model").provenance() and found["versions"]["torch"]
    cost = {"data", "left_out", "left_out_because", "seconds", "forward_seconds", "forwards_per_probe", "peak_rss_mib"}
    assert {key: found[key] for key in found if key not in cost} == {
        key: without[key] for key in without if key not in cost
    }


@pytest.mark.parametrize("command", ["curvature", "advise", "doctor", "moments", "plan"])
def test_json_replaces_a_result_and_nothing_else(monkeypatch, home, tmp_path, capsys, command: str) -> None:
    """Not the rows that are measured, a template or a config; nothing is measured first."""
    source = {"moments": ["--draws", 2], "plan": ["--flops", 1e9, "--bandwidth", 1e9, "--probes", 4]}
    arguments = source.get(command, [])
    arguments += [] if command == "moments" else ["--model", home / "model"]
    arguments += ["--data", home / "rows.json"] if command in ("curvature", "advise") else []
    before = (home / "rows.json").read_text()
    for text in (before, "<html>", '{"versions": 3}', "[]", "{% for m in messages %}"):
        (tmp_path / "mine").write_text(text)
        assert call(monkeypatch, command, *arguments, "--json", tmp_path / "mine") == 2
        assert (tmp_path / "mine").read_text() == text
        assert "mine is there and is no result of symnoise" in " ".join(capsys.readouterr().err.split())
    assert call(monkeypatch, command, *arguments, "--json", "/dev/null") == 2 and not Path("/dev/null").is_file()


def test_fewer_rows_than_asked_for_are_said(monkeypatch, home, tmp_path, capsys) -> None:
    run(monkeypatch, home, tmp_path, "norms", "--draws", 1, "--examples", 9)
    assert "The data have 6 rows that can be used, not 9." in " ".join(capsys.readouterr().out.split())


def test_a_result_and_an_empty_file_are_replaced(monkeypatch, tmp_path) -> None:
    (tmp_path / "out.json").touch()
    for seed in (1, 2):
        assert call(monkeypatch, "moments", "--draws", 2, "--seed", seed, "--json", tmp_path / "out.json") == 0
    assert json.loads((tmp_path / "out.json").read_text())["seed"] == 2


@pytest.mark.filterwarnings("default:.*left out:UserWarning")
def test_a_result_says_which_rows_it_is_of_and_how_they_were_read(monkeypatch, home, tmp_path, capsys) -> None:
    """Whichever file they came from: by the SHA-256 of what the model sees."""
    few = ["--probes", 2, "--max-length", 40]
    files = [home / "rows.json", home / "long.json"]
    results = [run(monkeypatch, home, tmp_path, "curvature", *few, "--data", file) for file in files]
    assert "fill --max-length" not in capsys.readouterr().out
    other = run(monkeypatch, home, tmp_path, "curvature", *few, "--max-length", 20, "--strict")
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "The data have" not in said and "1 of 3 rows fill --max-length 20, and tokens beyond it are left out." in said
    )
    assert "± one standard error over probes (of an example with 1 degree of freedom: its 95 % interval is ± 13" in said
    same, long, short = (result["rows_sha256"] for result in (*results, other))
    assert same == long != short and len(same) == 64
    assert [other[name] for name in ("chat_template", "strict", "stream", "batch")] == [None, True, False, 4]


def test_a_chat_template_of_ones_own(monkeypatch, home, tmp_path) -> None:
    """Another text is measured, longer by what its template writes."""
    (tmp_path / "own.jinja").write_text("{% for m in messages %}<{{ m.role }}>Well, {{ m.content }}</s>{% endfor %}")
    few = ["--probes", 2, "--examples", 1]
    usual = run(monkeypatch, home, tmp_path, "curvature", *few)
    own = run(monkeypatch, home, tmp_path, "curvature", *few, "--chat-template", tmp_path / "own.jinja")
    tokens = [result["per_example"][0]["tokens"] for result in (usual, own)]
    assert tokens[1] == tokens[0] - len(["<s>"]) + 2 * len("Well, ")


def test_streamed_layers_change_nothing(monkeypatch, home, tmp_path) -> None:
    whole, streamed = (
        run(monkeypatch, home, tmp_path, "curvature", "--probes", 4, *how) for how in ((), ("--stream",))
    )
    assert streamed["per_example"] == whole["per_example"]


@pytest.mark.filterwarnings("default:rtol=0.5 would take:RuntimeWarning")
def test_with_a_tolerance_the_probes_told_are_those_of_the_estimate(monkeypatch, home, tmp_path, capsys) -> None:
    few = ["--method", "hvp", "--probes", 8, "--max-length", 20]
    found = run(monkeypatch, home, tmp_path, "curvature", *few, "--rtol", 0.5, "--max-probes", 24)
    used = {example["probes"] for example in found["per_example"]}
    assert "probes" not in found and found["pilot_probes"] == 8 and used <= {8, 16}
    assert f"hvp, {' to '.join(map(str, sorted(used)))} probes" in " ".join(capsys.readouterr().out.split())


def test_why_the_probes_ended_is_told(monkeypatch, home, tmp_path, capsys) -> None:
    few = ["--probes", 4, "--max-length", 20, "--method", "taylor"]
    found = run(monkeypatch, home, tmp_path, "curvature", *few, "--rtol", 1e-6, "--atol", 1e6)
    assert {example["stopped"] for example in found["per_example"]} == {"atol"}
    assert "stopped by atol (3 of 3)" in " ".join(capsys.readouterr().out.split())
    assert (found["rtol"], found["atol"], found["sign"], found["pilot_probes"]) == (1e-6, 1e6, False, 4)
    found = run(monkeypatch, home, tmp_path, "curvature", *few)
    assert {example["stopped"] for example in found["per_example"]} == {""} and found["probes"] == 4


def test_two_levels_by_name_and_by_the_machine(monkeypatch, home, tmp_path) -> None:
    short = ["--max-length", 20]
    monkeypatch.setattr(sys.modules["symnoise.curvature.trace"], "bfloat16_is_faster", lambda device: True)
    found = run(monkeypatch, home, tmp_path, "curvature", *short, "--method", "two-level", "--probes", 4)
    assert found["method"] == "two-level"
    many = [*short, "--probes", 4, "--atol", 1e6]
    assert run(monkeypatch, home, tmp_path, "curvature", *many)["method"] == "two-level"
    single = run(monkeypatch, home, tmp_path, "curvature", *many, "--precision", "float32")
    assert (single["method"], single["precision"]) == ("taylor", "float32")


def test_batches_and_repeats_change_nothing(monkeypatch, home, tmp_path) -> None:
    found = [
        run(monkeypatch, home, tmp_path, "curvature", "--dtype", "float64", "--probes", 4, "--batch", size)
        for size in (1, 3, 3)
    ]
    traces = [[example["trace"] for example in result["per_example"]] for result in found]
    assert traces[0] == pytest.approx(traces[1], rel=1e-4)  # float32 casts inside the stock class
    assert traces[1] == traces[2]


def test_spectrum(monkeypatch, home, tmp_path) -> None:
    small = ["--count", 2, "--max-length", 18, "--dtype", "float64"]
    found = run(monkeypatch, home, tmp_path, "spectrum", *small, "--density", "--steps", 4, "--probes", 2)
    assert len(found["per_example"]) == 3
    for example in found["per_example"]:
        largest, second = example["values"]
        assert largest >= second > 0
        assert max(example["residuals"]) < 1e-3 * largest
        assert [sum(weights) for weights in example["weights"]] == pytest.approx([1, 1])
        assert max(max(nodes) for nodes in example["nodes"]) <= largest * (1 + 1e-6)


def test_every_eigenvalue_is_shown_under_a_title_in_one_line(monkeypatch, home, tmp_path, capsys) -> None:
    found = run(monkeypatch, home, tmp_path, "spectrum", "--count", 3)
    said = capsys.readouterr().out
    for example in found["per_example"]:
        assert all(f"{value:.4g}" in said for value in example["values"])
    assert f"{home / 'model'} on {home / 'rows.json'}: 3 eigenvalues, algebraic\n" in said


def test_the_version(monkeypatch, capsys) -> None:
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"symnoise {symnoise.__version__}\n"


def test_an_option_that_nearly_exists_gets_its_neighbour(monkeypatch, capsys) -> None:
    assert call(monkeypatch, "train", "--lr", "1") == 2
    assert "did you mean --learning-rate or --lora-rank?" in capsys.readouterr().err


def test_a_density_with_nowhere_to_go_is_refused(monkeypatch, capsys) -> None:
    assert call(monkeypatch, "spectrum", "--density") == 2
    assert "give --json FILE with --density" in capsys.readouterr().err


def test_budget_and_its_resumption(monkeypatch, home, tmp_path) -> None:
    """Stopped after two batches it resumes from them, and says the same as in one go; then nothing is left over."""
    from symnoise.training import budget

    places = ["--model", home / "model", "--data", home / "rows.json", "--max-length", 64]
    options = ["budget", *places, "--alphas", "5,20", "--batch", 2, "--batches", 3, "--draws", 2, "--json"]
    assert call(monkeypatch, *options, tmp_path / "whole.json") == 0
    whole = json.loads((tmp_path / "whole.json").read_text())
    names = {"signal", "batch", "odd", "even", "even_square", "rho", "cosine", "shrinkage", "ratio"}
    assert [row.keys() - {"alpha"} for row in whole["rows"]] == [names] * 2
    one, other = whole["rows"]
    assert other["ratio"]["value"] == pytest.approx(4 * one["ratio"]["value"])
    assert all(cell["low"] < cell["value"] < cell["high"] for cell in (one[name] for name in names))
    usual, done = budget._noised, []

    def stopped(*arguments):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(1)
        return usual(*arguments)

    monkeypatch.setattr(budget, "_noised", stopped)
    assert call(monkeypatch, *options, tmp_path / "again.json") != 0
    assert len(list((tmp_path / "again.json.parts").glob("*.json"))) == 2
    monkeypatch.setattr(budget, "_noised", lambda *arguments: done.append(1) or usual(*arguments))
    assert call(monkeypatch, *options, tmp_path / "again.json") == 0
    assert len(done) == 4 + 2  # batch 3 alone, at two α
    assert json.loads((tmp_path / "again.json").read_text())["rows"] == whole["rows"]
    assert not (tmp_path / "again.json.parts").exists()


def test_batches_of_other_versions_are_not_resumed_from(monkeypatch, home, tmp_path, capsys) -> None:
    """Stopped after the first batch, with the same versions and then with another symnoise and another PyTorch."""
    from symnoise.training import budget

    options = ["budget", "--model", home / "model", "--data", home / "rows.json", "--max-length", 64, "--alphas", "5"]
    usual, noised = budget._noised, []

    def second_stops(*arguments):
        noised.append(1)
        if len(noised) == 2:
            raise KeyboardInterrupt
        return usual(*arguments)

    monkeypatch.setattr(budget, "_noised", second_stops)
    for place in (None, "symnoise.cli.shared.__version__", "torch.__version__"):
        noised.clear()
        if place:
            monkeypatch.setattr(place, "0.0.0")
        assert call(monkeypatch, *options, "--batch", 2, "--batches", 3, "--json", tmp_path / "out.json") == 130
        assert "are done" not in capsys.readouterr().err
    assert len(list((tmp_path / "out.json.parts").glob("*.json"))) == 3


@pytest.mark.filterwarnings("default:.*left out:UserWarning")
def test_a_budget_counts_the_rows_that_it_leaves_out(monkeypatch, home, tmp_path, capsys) -> None:
    """Those of the file and those drawn that are too long; drawn are all rows but one, whichever that is."""
    rows = [*json.loads((home / "long.json").read_text()), {"instruction": "say"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    options = ["budget", "--model", home / "model", "--data", tmp_path / "rows.json", "--max-length", 40, "--draws", 2]
    assert call(monkeypatch, *options, "--batch", 2, "--batches", 3, "--json", tmp_path / "out.json") == 0
    found = json.loads((tmp_path / "out.json").read_text())
    long, missing = "its reply is cut off entirely at 40 tokens", "its 'output' is missing"
    assert found["left_out_because"].items() <= {long: 1, missing: 1}.items() and missing in found["left_out_because"]
    assert found["left_out"] == len(found["left_out_because"])
    said = " ".join(capsys.readouterr().err.split())
    assert f"1 row is left out: 1: {missing} (the first: row 8)" in said
    assert (f"1: {long} (the first: row 2)" in said) == (long in found["left_out_because"])
    assert call(monkeypatch, *options, "--batch", 2, "--batches", 3, "--strict") == 2
    (tmp_path / "plain.jinja").write_text("{{ messages[0]['nothing'] }}")
    assert call(monkeypatch, *options, "--batch", 2, "--batches", 3, "--chat-template", tmp_path / "plain.jinja") == 2


def test_smooth(monkeypatch, home, tmp_path) -> None:
    found = run(monkeypatch, home, tmp_path, "smooth", "--alphas", "0.1,5", "--draws", 3)
    assert [row["alpha"] for row in found["rows"]] == [0.1, 5]
    for row in found["rows"]:
        assert {"sigma", "alpha", "slope", "slope_stderr", "C", "stderr", "ratio", "ratio_low", "ratio_high"} <= set(
            row
        )
        assert len(row["per_example"]) == 3 and row["unit"] == "example"
        assert row["slope_low"] < row["slope"] < row["slope_high"]
    # Pooled, not the mean of three ratios: a single zᵀHz near 0 would own that.
    means = [sum(one["ratio"] for one in row["per_example"]) / 3 for row in found["rows"]]
    assert found["rows"][1]["ratio"] != pytest.approx(means[1])
    assert found["rows"][0]["slope"] == pytest.approx(1, abs=0.1) and found["rows"][0]["ratio"] == pytest.approx(
        1, abs=0.2
    )


def test_smooth_on_one_row_speaks_of_its_draws(monkeypatch, home, tmp_path, capsys) -> None:
    found = run(monkeypatch, home, tmp_path, "smooth", "--alphas", "5", "--draws", 3, "--examples", 1)
    assert found["rows"][0]["unit"] == "draw" and "over draws (this text alone)" in " ".join(
        capsys.readouterr().out.split()
    )
    found = run(monkeypatch, home, tmp_path, "smooth", "--alphas", "5", "--draws", 1, "--examples", 1)
    assert found["rows"][0]["slope"] is not None and found["rows"][0]["slope_low"] is None


def test_norms(monkeypatch, home, tmp_path, capsys) -> None:
    found = run(monkeypatch, home, tmp_path, "norms", "--noise", "symnoise", "--alpha", 5, "--draws", 2)
    assert len(found["layers"]) == 3
    for example, tokens in zip(found["embeddings"], found["per_token"], strict=True):
        assert example["measured"] == pytest.approx(example["predicted"], rel=1e-5)  # exact for Rademacher pairs
        assert len(tokens["growth_per_token"][0]) == tokens["tokens"]
    said = " ".join(capsys.readouterr().out.split())
    means = [sum(example[key] for example in found["embeddings"]) / 3 for key in ("predicted", "square_norm")]
    assert f"{means[0]:.6g} in closed form" in said and f"; ‖X‖² {means[1]:.6g}." in said


def test_doctor(monkeypatch, home, tmp_path, capsys) -> None:
    assert call(monkeypatch, "doctor", "--model", home / "model", "--json", tmp_path / "d.json") == 0
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["hook"] == {"fires": 1} and "noise: reaches the model\n" in capsys.readouterr().out
    assert found["versions"]["torch"]


def test_doctor_says_in_a_line_that_a_model_cannot_train(monkeypatch, home, tmp_path, capsys) -> None:
    shutil.copytree(home / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"attention_dropout": None}))
    assert call(monkeypatch, "doctor", "--model", tmp_path / "model") == 2
    assert "a forward pass of" in (said := capsys.readouterr().err) and "in training mode fails: " in said


def test_doctor_tells_all_before_it_fails_on_a_model(monkeypatch, tmp_path, capsys) -> None:
    missing = replace(bundled.SMOLLM2, module="no_such_package", requirement="no-such-package==1")
    monkeypatch.setattr(bundled, "SMOLLM2", missing)
    assert call(monkeypatch, "doctor", "--json", tmp_path / "d.json") == 2
    said = capsys.readouterr()
    assert "versions: " in said.out and "no-such-package==1" in said.out
    assert "noise: not checked, since the model cannot be loaded and run\n" in said.out
    assert said.err.count("\n") == 1 and "no-such-package" in said.err
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["smollm2"] is None and found["hook"] is None and found["versions"]["torch"]


BAD = [
    (["moments", "--law", "unifrm"], "did you mean 'uniform'"),
    (["moments", "--alpha", "-1"], "alpha must be a finite number"),
    (["moments", "--alpha", "nan"], "alpha must be a finite number"),
    (["moments", "--alpha", "inf"], "alpha must be a finite number"),
    (["moments", "--length", "0"], "length and dim must be 1 or more"),
    (["moments", "--json", "/proc/none/out.json"], "choose a folder"),
    (["curvature", "--method", "tailor"], "did you mean 'taylor'"),
    (["curvature", "--probes", "0"], "--probes must be 1 or more"),
    (["curvature", "--dtype", "float61"], "did you mean"),
    (["curvature", "--layer", "3"], "has no layer 3: give a number from 0 (the embeddings) to 2"),
    (["curvature", "--batch", "0"], "--batch must be 1 or more"),
    (["smooth", "--alphas", "1,two"], "--alphas takes different numbers"),
    (["smooth", "--alphas", "-1"], "--alphas takes different numbers"),
    (["norms", "--noise", "symnoize"], "did you mean 'symnoise'"),
    (["norms", "--noise", "none"], "changes no norm"),
    (["curvature", "--max-length", "3"], "cut off entirely"),
    (["curvature", "--model", "no/such-model"], "no/such-model"),
    (["curvature", "--data", "no-such-file.json"], "no-such-file.json"),
    (["curvature", "--examples", "0"], "--examples must be 1 or more"),
    (["curvature", "--max-length", "1"], "at least 2 tokens"),
    (["curvature", "--json", "/proc/none/out.json"], "choose a folder"),
    (["curvature", "--data", "HOME/empty.json"], "empty.json"),
    (["curvature", "--data", "HOME/broken.json"], "broken.json"),
    (["curvature", "--data", "HOME/no-reply.json", "--strict"], "no-reply.json, row 2: its 'output' is missing"),
    (
        ["curvature", "--max-length", "40", "--data", "HOME/long.json", "--strict"],
        "row 2: its reply is cut off entirely",
    ),
    (["curvature", "--chat-template", "HOME/none.jinja"], "cannot read the chat template"),
    (["curvature", "--chat-template", "HOME/empty.json"], "empty.json is empty"),
    (["curvature", "--data", "HOME/no-instruction.json"], "row 1: its 'instruction' is missing"),
    (["curvature", "--model", "HOME/weights.bin"], "pickled"),
    (["curvature", "--model", "HOME/pickled"], "pickled"),
    (["curvature", "--model", "HOME/remote"], "remote"),
    (["curvature", "--model", "HOME/no-table"], "not a language model"),
    (["curvature", "--model", "HOME/nan"], "loss is nan at example 0, token"),
    (["curvature", "--model", "HOME/nan", "--method", "hvp"], "loss is nan at example 0, token"),
    (["curvature", "--directions", "orthogonl"], "did you mean 'orthogonal'"),
    (["curvature", "--rtol", "0"], "rtol must be above 0"),
    (["curvature", "--rtol", "inf"], "rtol must be above 0 and finite"),
    (["curvature", "--json", "."], "a folder: give a file"),
    (["moments", "--json", "."], "a folder: give a file"),
    (["smooth", "--json", "HOME"], "a folder: give a file"),
    (["norms", "--json", "HOME/"], "a folder: give a file"),
    (["spectrum", "--figure", "HOME/folder.png"], "a folder: give a file"),
    (["curvature", "--rtol", "0.1", "--max-probes", "16"], "give at least 32"),
    (["curvature", "--atol", "-1"], "atol must be above 0"),
    (["curvature", "--rtol", "0.1", "--sign"], "both relative"),
    (["curvature", "--method", "exact", "--atol", "1"], "method='exact' has none"),
    (["curvature", "--precision", "bfloat61"], "did you mean 'bfloat16'"),
    (["curvature", "--precision", "bfloat16", "--method", "hvp"], "is for method='taylor'"),
    (["curvature", "--precision", "float32", "--method", "two-level"], "forbids that"),
    (["curvature", "--method", "two-level", "--dtype", "bfloat16"], "load it in float32"),
    (["curvature", "--method", "hutch++", "--probes", "3"], "needs 4 probes or more"),
    (["curvature", "--probes", "many"], "valid integer"),
    (["curvature", "--prob", "3"], "No such option: --prob"),
    (["spectrum", "--count", "0"], "--count must be 1 or more"),
    (["curvature", "--method", "exact", "--rtol", "0.1"], "method='exact' has none"),
    (["spectrum", "--which", "largest"], "unknown part of the spectrum"),
    (["smooth", "--draws", "0"], "draws at least 1"),
    (["budget", "--alphas", "5,x"], "--alphas takes different numbers"),
    (["budget", "--alphas", "5,10,5.0"], "takes different numbers above 0, separated by commas; got '5,10,5.0'"),
    (["curvature", "--json", ""], "'.' (or an empty name) is a folder: give a file"),
    (["moments", "--json", "/proc/none.json"], "cannot write /proc/none.json: "),
    (["budget", "--noise", "none"], "noise 'none' has no variance"),
    (["budget", "--batches", "-1"], "--batches must be 1 or more; got -1"),
    (["budget", "--batch", "0"], "--batch must be 1 or more"),
    (["budget", "--batch", "1", "--batches", "2"], "needs 3 batches and 2 draws or more; got 2 and 3"),
    (["budget", "--batch", "3", "--batches", "3"], "6 rows fit 64 tokens, and 9 are needed"),
    (["norms", "--alpha", "nan"], "alpha must be a finite number"),
    (["norms", "--draws", "0"], "1 or more"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(
    monkeypatch, home, tmp_path, capsys, arguments: list[str], message: str
) -> None:
    arguments = [argument.replace("HOME", str(home)) for argument in arguments]
    if arguments[0] != "moments":
        places = {"--model": home / "model", "--data": home / "rows.json", "--max-length": 64}
        arguments = [
            *arguments,
            *(str(x) for key, value in places.items() if key not in arguments for x in (key, value)),
        ]
    if "--json" not in arguments:
        arguments = [*arguments, "--json", str(tmp_path / "out.json")]
    assert call(monkeypatch, *arguments) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "of memory above" not in line]
    (line,) = said
    assert line.startswith("symnoise: ") and message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["norms", "--draws", 1], ["curvature", "--probes", 1]], ids=["norms", "curvature"])
def test_one_draw_has_no_standard_error(monkeypatch, home, tmp_path, capsys, command) -> None:
    run(monkeypatch, home, tmp_path, *command)
    said = capsys.readouterr().out
    assert "nan" not in said and "±" not in said


def test_a_table_that_is_wider_than_the_terminal_loses_nothing(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    cells = ["a-run-of-mine", "5.0043", "−120.5 ± 3.2", "[bold]"]
    show("title", ("run", "held-out loss", "tr H", "seeds"), [cells] * 2, "a caption")
    said = capsys.readouterr().out.split()
    assert all(said.count(word) == 2 for cell in cells for word in cell.split())
    assert {"held-out", "loss", "run", "tr", "H", "seeds", "a", "caption"} <= set(said)


def test_exact_says_the_limit(monkeypatch, home, tmp_path, capsys) -> None:
    monkeypatch.setattr("symnoise.curvature.operators.exact.LARGEST", 100)
    places = ["--model", home / "model", "--data", home / "rows.json"]
    assert call(monkeypatch, "curvature", *places, "--method", "exact", "--json", tmp_path / "out.json") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert "100" in line and list(tmp_path.iterdir()) == []


def test_out_of_memory_says_which_examples(monkeypatch, home, tmp_path, capsys) -> None:
    def too_much(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("symnoise.cli.curvature.trace_parts", too_much)
    places = ["--model", home / "model", "--data", home / "rows.json", "--batch", "2"]
    assert call(monkeypatch, "curvature", *places, "--json", tmp_path / "out.json") == 2
    assert "out of memory at examples 0 to 1: lower --batch" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_out_of_memory_is_one_line_in_every_command(monkeypatch, home, tmp_path, capsys) -> None:
    def too_much(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("symnoise.cli.norms.layer_growth", too_much)
    assert call(monkeypatch, "norms", "--model", home / "model", "--data", home / "rows.json") == 2
    assert "memory ran out; try fewer rows" in capsys.readouterr().err


def test_moments_that_overflow_are_refused(monkeypatch, capsys) -> None:
    assert call(monkeypatch, "moments", "--alpha", "1e200") == 2
    assert "--alpha must be at most 1e+60" in capsys.readouterr().err


def test_cells_of_a_table_are_no_markup(capsys) -> None:
    show("title", ("run",), [("sym[alpha=10]",), ("[/old]",)])
    said = capsys.readouterr().out
    assert "sym[alpha=10]" in said and "[/old]" in said


def test_other_errors_are_not_hidden(monkeypatch) -> None:
    monkeypatch.setattr("symnoise.cli.moments.sampled_moments", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(monkeypatch, "moments")


FIGURES = {
    "moments": ["--length", 16, "--dim", 8, "--draws", 20],
    "curvature": ["--probes", 4],
    "spectrum": ["--count", 2],
    "smooth": ["--alphas", "1,5", "--draws", 2],
    "norms": ["--draws", 2],
    "budget": ["--batch", 1, "--batches", 3, "--draws", 2],
}


@pytest.mark.parametrize("command", FIGURES)
def test_every_measuring_command_draws(monkeypatch, home, tmp_path, capsys, command: str) -> None:
    places = [] if command == "moments" else ["--model", home / "model", "--data", home / "rows.json"]
    if command not in ("moments", "budget"):
        places += ["--examples", 2]
    for name in ("figure.svg", "figure.PNG"):
        assert call(monkeypatch, command, *places, *FIGURES[command], "--figure", tmp_path / name) == 0
        assert f"figure: {tmp_path / name}" in capsys.readouterr().out
        assert (tmp_path / name).stat().st_size > 5000
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("command", FIGURES)
def test_a_figure_of_another_kind_is_refused_before_any_work(monkeypatch, tmp_path, capsys, command: str) -> None:
    places = [] if command == "moments" else ["--model", tmp_path / "absent"]
    assert call(monkeypatch, command, *places, "--figure", tmp_path / "figure.gif") == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and ".pdf, .png, .svg" in said.err and not said.out
    assert not list(tmp_path.iterdir())
