"""`symnoise train`: config files, flags, and one line with exit code 2 on bad input, before anything is loaded."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from symnoise.cli import main
from symnoise.core import InputError
from symnoise.finetune.dry_run import private_folder
from symnoise.finetune.reading import read_settings
from symnoise.finetune.rows import read_rows
from symnoise.finetune.settings import TrainSettings
from symnoise.models import load_model
from symnoise.training import Dials
from tests import command
from tests.tiny import tiny, tiny_tokenizer


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def call(monkeypatch, *arguments: object) -> int:
    return command.call(monkeypatch, "train", *arguments)


def test_every_setting_is_an_option_with_its_default_and_group(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    assert call(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    for setting in fields(TrainSettings):
        (line,) = [line for line in said.splitlines() if f"--{setting.name.replace('_', '-')} " in line.split("<")[0]]
        assert setting.metadata["help"].split(";")[0][:30] in line
        assert f"─ {setting.metadata['group']} ─" in said
    assert "[default: (5e-05)]" in said and "--alpha,--noise-alpha" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--lr", "did you mean --learning-rate or --lora-rank?"),
        ("--learnin-rate", "did you mean --learning-rate?"),
        ("--alhpa", "did you mean --alpha?"),
        ("--probes", "No such option: --probes (try"),  # of another command
    ],
)
def test_a_misspelt_option_gets_the_nearest_of_its_own_command(monkeypatch, capsys, given, said):
    assert call(monkeypatch, given, "1") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_the_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["symnoise", "--version"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code and capsys.readouterr().out == f"symnoise {version('symnoise')}\n"


def test_help_answers_without_torch():
    code = "import sys; sys.argv[1:] = ['train', '--help']\nfrom symnoise.cli import main\n"
    check = code + "try:\n    main()\nexcept SystemExit:\n    pass\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False, capture_output=True).returncode == 0


def test_later_files_win_and_flags_win_over_files(tmp_path):
    first = write(tmp_path, "noise: uniform\nnoise_alpha: 10\nlearning_rate: 5e-5\nbf16: true\n", "a.yaml")
    second = write(tmp_path, "noise_alpha: 15\nsteps: 7\n", "b.yaml")
    found = read_settings([first, second], {"steps": 9})
    assert (found.noise, found.noise_alpha, found.steps, found.bf16) == ("uniform", 15.0, 9, True)
    assert found.learning_rate == 5e-5  # YAML takes 5e-5 for text
    assert read_settings([], {}) == TrainSettings()


CONFIGS = [
    ("noise_alhpa: 5", "unknown config key in", "did you mean 'noise_alpha'"),
    ("learning-rate: 1", "unknown config key", "did you mean 'learning_rate'"),
    ("steps: many", "steps must be a whole number", "'many'"),
    ("steps: 1.5", "steps must be a whole number", "1.5"),
    ("bf16: 1", "bf16 must be true or false", "1"),
    ("noise_alpha: true", "noise_alpha must be a number", "True"),
    ("- a list", "must be lines of", "key: value"),
    ("noise: [", "is not YAML", "run.yaml"),
    ("noise: symnoize", "unknown noise", "did you mean 'symnoise'"),
    ("noise_alpha: -1", "alpha must be a finite number", "-1"),
    ("noise_alpha: .nan", "alpha must be a finite number", "nan"),
    ("noise_length: paded", "unknown length", "did you mean 'padded'"),
    ("noise_where: prompts", "unknown where", "did you mean 'prompt'"),
    ("noise_schedule: cosin", "unknown schedule", "did you mean 'cosine'"),
    ("schedule: cosin", "unknown schedule", "did you mean 'cosine'"),
    ("pair_mode: two_pass", "unknown pair_mode", "did you mean 'two-pass'"),
    ("even: .nan", "the even dial must be a finite number", "nan"),
    ("even: much", "even must be a number", "'much'"),
    ("even: 0", "both dials at 0", "for plain training use no noise"),
    ("noise: none\nodd: 1", "dials weigh the two sides of a noise", "give a noise as well"),
    ("noise: independent-pair\neven: 2", "independent-pair makes two draws", "use symnoise"),
    ("form: alpaca", "unknown form", "did you mean 'Alpaca'"),
    ("seed: -1", "seed must be from 0 to 4294967295", "-1"),
    ("seed: 4294967296", "seed must be from 0 to 4294967295", "4294967296"),
    ("batch: 0", "batch must be 1 or more", "0"),
    ("warmup: -0.1", "warmup must be 0 or more", "-0.1"),
    ("learning_rate: 0", "learning_rate must be a finite number larger than 0", "0"),
]


@pytest.mark.parametrize(("text", "message", "detail"), CONFIGS, ids=[text for text, *_ in CONFIGS])
def test_a_bad_config_is_one_line_and_exit_code_2(monkeypatch, tmp_path, capsys, text, message, detail):
    config, output = write(tmp_path, text), tmp_path / "out"
    assert call(monkeypatch, "--config", config, "--output", output) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert line.startswith("symnoise: ") and message in line and detail in line
    assert not output.exists()


def test_dials_are_given_only_where_one_is():
    assert read_settings([], {}).make_dials() is None
    assert read_settings([], {"odd": 0.5}).make_dials() == Dials(1.0, 0.5)
    assert read_settings([], {"even": 2.0}).make_dials() == Dials(2.0, 0.0)


def test_a_dry_run_with_dials_logs_both_losses_and_the_card_states_them(monkeypatch, tmp_path):
    config = write(tmp_path, "family: llama\nnoise: uniform\neven: 0.5\nmax_length: 64\ntrack_every: 0\n")
    arguments = ["--odd", 2, "--dry-run", "--output", tmp_path / "out", "--json", tmp_path / "result.json"]
    assert call(monkeypatch, "--config", config, *arguments) == 0
    found = json.loads((tmp_path / "result.json").read_text())
    assert (found["noise"], found["even"], found["odd"]) == ("uniform", 0.5, 2.0)
    assert {"loss", "clean_loss"} <= set(found["measured"])
    assert found["measured"]["loss"] != found["measured"]["clean_loss"]
    assert "by dials μ = 0.5 and λ = 2" in (tmp_path / "out" / "README.md").read_text()
    setting = json.loads((tmp_path / "out" / "checkpoint-2" / "symnoise.json").read_text())
    assert (setting["even"], setting["odd"]) == (0.5, 2.0)


def test_a_dry_run_writes_into_a_folder_of_this_user_alone(tmp_path):
    made = private_folder(tmp_path / "made")
    assert made.is_dir() and made.stat().st_mode & 0o077 == 0
    assert private_folder(made) == made  # the other processes of the launcher find it
    (tmp_path / "link").symlink_to(made)
    with pytest.raises(InputError, match="not this user's"):
        private_folder(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        private_folder(tmp_path / "file")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    tiny("llama").save_pretrained(folder / "model")
    tiny_tokenizer(chat=True).save_pretrained(folder / "model")
    lines = [{"instruction": f"say {n}", "output": f"{n}, and {n}"} for n in range(4)]
    (folder / "rows.json").write_text(json.dumps(lines))
    return folder


BAD = [
    (["--no-such-flag", "1"], "--no-such-flag"),
    (["--config", "none.yaml"], "cannot read the config none.yaml"),
    (["--output", ""], "give --output"),
    (["--output", "/proc/none/out"], "choose a folder you can write to"),
    (["--output", "FILE/out"], "choose a folder you can write to"),
    (["--family", "opt"], "asks for the family 'opt', but this is 'llama'"),
    (["--form", "ShareGPT"], "asks for the form 'ShareGPT', but this is 'Alpaca'"),
    (["--model", "no/such-model"], "no/such-model"),
    (["--data", "no-such-file.json"], "no-such-file.json"),
    (["--json", "DIR"], "is a folder: give a file, such as out.json"),
    (["--json", "FILE"], "is there and is no result of symnoise: give --json a name that is free"),
    (["--eval-rows", "4"], "none is left to train on"),
    (["--epochs", "2"], "--steps and --epochs both set the length"),
    (["--max-length", "2"], "none of its 4 rows can be used: row 1: its reply is cut off"),
    (["--dry-run"], "needs to know the family"),
    (["--dry-run", "--family", "lama"], "knows no model family 'lama'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, home, tmp_path, capsys, arguments, message):
    arguments = [text.replace("FILE", str(home / "rows.json")).replace("DIR", str(home)) for text in arguments]
    places = {"--model": home / "model", "--data": home / "rows.json", "--output": tmp_path / "out", "--max-length": 64}
    more = [text for key, value in places.items() if key not in arguments for text in (key, value)]
    assert call(monkeypatch, *arguments, *more, "--steps", 1) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("symnoise") and message in line
    assert not list(tmp_path.iterdir())  # settings of a run are those of one that began


@pytest.mark.filterwarnings("default:.*left out:UserWarning")
def test_rows_that_cannot_be_used_are_left_out_and_the_template_is_kept(monkeypatch, home, tmp_path, capsys):
    """The run goes through, says once what was left out, and its tokenizer has the template it was trained with."""
    (tmp_path / "rows.jsonl").write_text('{"instruction": "say 1", "output": "1"}\n{}\n{"text": "Once upon a time"}\n')
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    (tmp_path / "own.jinja").write_text(template)
    places = ["--model", home / "model", "--data", tmp_path / "rows.jsonl", "--output", tmp_path / "out"]
    options = ["--chat-template", tmp_path / "own.jinja", "--steps", 1, "--max-length", 64]
    assert call(monkeypatch, *places, *options, "--json", tmp_path / "result.json") == 0
    found = json.loads((tmp_path / "result.json").read_text())
    (reason, count), *more = found["left_out_because"].items()
    assert found["left_out"] == count == 1 and not more and reason.startswith("it is in no form known here")
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(said) == 1 and "1 row is left out: 1: it is in no form known here" in said[0]
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == template
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "2 rows trained on, 0 held out, 1 left out" in card
    assert call(monkeypatch, *places[:-1], tmp_path / "other", *options, "--strict") == 2
    assert "rows.jsonl, row 2: it is in no form known here" in capsys.readouterr().err


def test_no_more_rows_are_read_than_are_wanted(home, tmp_path):
    line = '{"instruction": "say 1", "output": "1"}\n'
    (tmp_path / "rows.jsonl").write_text(line * 5 + "no JSON")
    settings = TrainSettings(data=str(tmp_path / "rows.jsonl"), rows=3, eval_rows=2, max_length=64, strict=True)
    rows = read_rows(settings, load_model(home / "model"))
    assert (len(rows.training), len(rows.held_out), rows.provenance["examples"]) == (3, 2, 5)
    with pytest.raises(InputError, match="row 6: its line is not JSON"):
        read_rows(replace(settings, rows=4), load_model(home / "model"))


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "train.yaml", "log.jsonl"])
def test_a_folder_with_files_of_ones_own_is_refused(monkeypatch, home, tmp_path, capsys, name):
    """It replaced them in silence, the weights of the model to train on among them."""
    (tmp_path / name).write_text("mine")
    places = ["--model", home / "model", "--data", home / "rows.json", "--output", tmp_path, "--max-length", 64]
    assert call(monkeypatch, *places, "--steps", 1) == 2
    assert f"holds {name}, which is of no run of symnoise train" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"
    assert call(monkeypatch, *places[:5], home / "model", "--steps", 1) == 2
    assert "holds config.json" in capsys.readouterr().err


def test_fewer_rows_than_asked_for_are_all_used_and_a_tenth_of_those_held_out(home, tmp_path):
    """Not a tenth of what was asked for, which may be all that there are."""
    (tmp_path / "rows.jsonl").write_text('{"instruction": "say 1", "output": "1"}\n' * 20)
    settings = TrainSettings(data=str(tmp_path / "rows.jsonl"), rows=1000, max_length=64)
    with pytest.warns(UserWarning, match="20 rows can be used, of 1016 asked for: 18 to train on, 2 held out"):
        rows = read_rows(settings, load_model(home / "model"))
    assert (len(rows.training), len(rows.held_out)) == (18, 2)


def test_lora_without_peft_says_what_to_install(monkeypatch, home, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "peft", None)
    places = ["--model", home / "model", "--data", home / "rows.json", "--output", tmp_path]
    assert call(monkeypatch, *places, "--lora-rank", 2) == 2
    assert "LoRA needs PEFT" in capsys.readouterr().err


def test_a_setting_of_another_kind_is_refused_from_python_too():
    with pytest.raises(InputError, match="max_length must be 2 or more"):
        TrainSettings(max_length=1)
