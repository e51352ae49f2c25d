"""AlpacaEval: replies, a judge behind a server of this test, and win rates with a known effect of length."""

import json
import re
import threading
import urllib.error
import urllib.request
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from experiments.alpaca_eval import judge as judging
from experiments.alpaca_eval import replies as replying
from experiments.alpaca_eval.__main__ import app
from experiments.alpaca_eval.files import add, kept, read_rows
from experiments.alpaca_eval.judge import Judge, load_judge, write_annotations
from experiments.alpaca_eval.replies import write_replies
from experiments.alpaca_eval.winrate import length_controlled, read_annotations, win_rate
from symnoise.core import InputError
from symnoise.models import LoadedModel
from tests.tiny import tiny, tiny_tokenizer

TEMPLATE = "Q: {instruction}\nfirst: {output_1}\nsecond: {output_2}\n1 or 2?"


def rows(count: int, **facts) -> list[dict]:
    return [{"instruction": f"Ask {i}.", "output": f"reference {i}", **facts} for i in range(count)]


def annotations(preferences: list, lengths: tuple[int, int] = (5, 5)) -> list[dict]:
    return [
        {"instruction": f"Ask {i}.", "output_1": "a" * lengths[0], "output_2": "b" * lengths[1]}
        | {"generator_1": "davinci", "generator_2": "ours", "preference": p}
        for i, p in enumerate(preferences)
    ]


# --- win rates


def test_the_win_rate_is_alpaca_evals() -> None:
    made = win_rate(annotations([1, 2, 2, 1.5, 0, None]))  # 0 is an old draw
    assert made.win_rate == pytest.approx(100 * (0 + 1 + 1 + 0.5 + 0.5) / 5)
    assert made.stderr == pytest.approx(100 * np.std([0, 1, 1, 0.5, 0.5], ddof=1) / 5**0.5)
    assert (made.count, made.missing) == (5, 1)
    assert made.length_controlled == pytest.approx(made.win_rate)  # no reply is longer than its reference


@pytest.mark.filterwarnings("ignore:Perfect")  # fitted values equal the given ones
def test_the_effect_of_length_is_taken_out_exactly_where_the_model_is_exact() -> None:
    longer = np.linspace(-300, 900, 50)
    theta, phi = -0.4, 1.3
    wins = 1 / (1 + np.exp(-(theta + phi * np.tanh(longer / longer.std(ddof=1)))))
    value, stderr, effect, note = length_controlled(wins, longer)
    assert value == pytest.approx(100 / (1 + np.exp(0.4)), rel=1e-6) and effect == pytest.approx(phi, rel=1e-6)
    assert stderr < 1e-4 and not note
    assert 100 * wins.mean() > value + 10  # the longer model looks better than it is


def test_the_interval_of_the_length_controlled_win_rate_covers() -> None:
    """100 synthetic judges of 400 binary preferences each: ±1.96 errors should hold the truth in 95 % of them."""
    draws, inside = np.random.default_rng(0), 0
    for _ in range(100):
        longer = draws.normal(200, 300, 400)
        p = 1 / (1 + np.exp(-(0.3 + 1.0 * np.tanh(longer / longer.std(ddof=1)))))
        value, stderr, *_ = length_controlled((draws.random(400) < p).astype(float), longer)
        inside += abs(value - 100 / (1 + np.exp(-0.3))) < 1.96 * stderr
    assert inside >= 86  # of 100; binomial, 4 standard errors


@pytest.mark.parametrize(
    ("wins", "longer", "reason"),
    [
        ([1, 1, 1, 1], [-50, -20, 20, 50], "^all preferences are the same$"),
        ([0, 0, 1, 1], [-50, -20, 20, 50], "^length determines every preference$"),
        ([0, 1, 0, 1, 1], [0, 0, 0, 0, 9000], r"^4 of 5 replies .* same 0 characters, and length determines"),
        ([1, 1, 0, 0, 0], [7, 7, 7, 7, 9000], r"^4 of 5 replies .* same 7 characters"),
    ],
)
def test_where_no_effect_of_length_can_be_fitted_there_is_no_number_and_a_reason(wins, longer, reason) -> None:
    value, *_, note = length_controlled(np.array(wins, float), np.array(longer, float))
    assert np.isnan(value) and re.search(reason, note)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r + r[:1], "appears twice"),
        (lambda r: [r[0] | {"preference": 3}, *r[1:]], "preference 3 is not one of"),
        (lambda r: [r[0] | {"generator_2": "another"}, *r[1:]], "2 pairs of generators"),
        (lambda r: [r[0] | {"generator_2": {"a": 1}}, *r[1:]], "2 pairs of generators"),
        (lambda r: [r[0] | {"instruction": "Else."}, *r[1:]], "1 are only in the first, 1 only in the second"),
        (lambda r: [{"instruction": "Ask 0."}], "no text 'output_1'"),
        (lambda r: [], "has no rows"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(change, message, tmp_path) -> None:
    (tmp_path / "instructions.json").write_text(json.dumps(rows(3)))
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(change(annotations([1, 2, None]))))
    with pytest.raises(InputError, match=message):
        read_annotations(path, str(tmp_path / "instructions.json"))


def test_the_command_prints_and_writes_the_win_rate(tmp_path) -> None:
    (tmp_path / "annotations.json").write_text(json.dumps(annotations([1, 2, 2, 2])))
    made = CliRunner().invoke(app, ["winrate", str(tmp_path / "annotations.json"), "--json", str(tmp_path / "w.json")])
    assert made.exit_code == 0 and "75.00 %" in made.stdout
    assert json.loads((tmp_path / "w.json").read_text())["win_rate"] == 75


# --- replies


@pytest.fixture(scope="module")
def source() -> LoadedModel:
    return LoadedModel(tiny("llama"), tiny_tokenizer(chat=True), "tiny", "folder")


def test_replies_are_alpaca_evals_and_go_on_after_a_kill(source, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(replying, "BATCH", 2)
    asked, facts = rows(5, dataset="koala"), {"generator": "tiny-1", "penalty": 1.2, "new_tokens": 4}
    write_replies(source, asked, tmp_path / "whole.json", **facts)
    whole = json.loads((tmp_path / "whole.json").read_text())
    assert [r["instruction"] for r in whole] == [r["instruction"] for r in asked]
    assert {tuple(r) for r in whole} == {("instruction", "output", "generator", "dataset")}
    assert {(r["generator"], r["dataset"]) for r in whole} == {("tiny-1", "koala")}

    real, calls = replying.greedy, []

    def counted(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(replying, "greedy", counted)
    with pytest.raises(KeyboardInterrupt):
        write_replies(source, asked, tmp_path / "killed.json", **facts)
    assert not (tmp_path / "killed.json").exists()
    with pytest.raises(InputError, match="other settings"):
        write_replies(source, asked, tmp_path / "killed.json", **(facts | {"penalty": 1.0}))
    write_replies(source, asked, tmp_path / "killed.json", **facts)
    assert len(calls) == 4  # two batches were kept
    assert json.loads((tmp_path / "killed.json").read_text()) == whole
    assert [path.name for path in tmp_path.iterdir()].count("killed.json") == len(list(tmp_path.iterdir())) - 1
    with pytest.raises(InputError, match="exists already"):
        write_replies(source, asked, tmp_path / "killed.json", **facts)
    with pytest.raises(InputError, match="lower --max-new-tokens"):
        write_replies(source, asked, tmp_path / "long.json", **(facts | {"new_tokens": 10**4}))


def test_a_line_that_was_cut_off_is_not_read(tmp_path) -> None:
    path = tmp_path / "lines.jsonl"
    add(path, [{"a": 1}])
    with path.open("a") as file:
        file.write('{"a": 2, "b')
    assert kept(path) == [{"a": 1}]
    add(path, [{"a": 3}])
    assert kept(path) == [{"a": 1}, {"a": 3}]


# --- the judge


@pytest.fixture
def server(monkeypatch):
    """An endpoint that likes the reply with "good" in it, wherever it stands; requests are kept in `server.seen`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.seen.append((self.path, self.headers["Authorization"], body))
            status = self.server.statuses.pop(0) if self.server.statuses else 200
            prompt = body["messages"][0]["content"]
            text = "1" if "good" in prompt.split("second:")[0].split("first:")[1] else "Answer 2."
            text = "1 and 2 are alike" if "Ask 2." in prompt else text
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": text}}]}).encode())

        def log_message(self, *_):
            pass

    monkeypatch.setattr("time.sleep", lambda seconds: None)  # tenacity's pauses
    made = HTTPServer(("127.0.0.1", 0), Handler)
    made.seen, made.statuses = [], []
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def at(server, **facts) -> Judge:
    return Judge("judge-1", TEMPLATE, f"http://127.0.0.1:{server.server_port}/v1", **facts)


def test_the_judge_is_asked_in_both_orders_and_never_twice(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    ours = [r | {"output": "good {output_1}" if i != 1 else "bad", "generator": "ours"} for i, r in enumerate(rows(3))]
    references = [r | {"output": "good" if i == 1 else "poor"} for i, r in enumerate(rows(3))][::-1]
    output = tmp_path / "annotations.json"
    server.statuses = [429, 500]  # busy at first
    write_annotations(at(server, api_key_env="SOME_KEY", request={"max_tokens": 3}), ours, references, output)
    made = read_annotations(output)
    assert [r["preference"] for r in made] == [2, 1, None]  # the last answer named both
    assert made[0]["output_1"] == "poor" and made[0]["generator_1"] == "reference" and made[0]["generator_2"] == "ours"
    path, key, body = server.seen[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret"
    assert body["model"] == "judge-1" and body["temperature"] == 0 and body["max_tokens"] == 3
    assert body["messages"][0]["content"] == "Q: Ask 0.\nfirst: poor\nsecond: good {output_1}\n1 or 2?"
    assert len(server.seen) == 2 + 6
    assert "secret" not in "".join(file.read_text() for file in tmp_path.iterdir())

    write_annotations(at(server, api_key_env="SOME_KEY", request={"max_tokens": 3}), ours, references, output)
    assert len(server.seen) == 8
    assert win_rate(made).win_rate == 50


def test_one_order_is_drawn_by_the_seed(server, tmp_path) -> None:
    ours, references = ([r | {"output": text} for r in rows(20)] for text in ("good", "poor"))

    def first(seed: int) -> list[bool]:
        server.seen.clear()
        write_annotations(
            at(server, order="random"), ours, references, tmp_path / f"{seed}-{len(done)}.json", seed=seed
        )
        done.append(seed)
        return ["first: good" in body["messages"][0]["content"] for _, _, body in server.seen]

    done: list[int] = []
    again, same, other = first(0), first(0), first(1)
    assert again == same != other and 3 < sum(again) < 17 and len(again) == 20
    wanted = [2 if i != 2 else None for i in range(20)]
    assert [r["preference"] for r in json.loads((tmp_path / "0-0.json").read_text())] == wanted


@pytest.mark.parametrize(("status", "asked"), [(401, 1), (503, judging.RETRIES)])
def test_an_endpoint_that_does_not_answer_ends_it_with_what_there_is_kept(status, asked, server, tmp_path) -> None:
    server.statuses = [200, *[status] * 9]
    with pytest.raises(InputError, match=f"does not answer \\({status}.*run again"):
        write_annotations(at(server), rows(2), rows(2), tmp_path / "annotations.json")
    assert not (tmp_path / "annotations.json").exists()
    assert len(kept(tmp_path / "annotations.judged.jsonl")) == 1 and len(server.seen) == 1 + asked


def test_an_endpoint_that_repeats_the_key_does_not_get_it_into_the_message(monkeypatch) -> None:
    def refuse(request):
        raise urllib.error.HTTPError("u", 401, "no", Message(), BytesIO(b"wrong key: secret-1234"))

    monkeypatch.setattr(judging, "_answered", refuse)
    asked = urllib.request.Request("http://127.0.0.1/v1", b"{}", {"Authorization": "Bearer secret-1234"})
    with pytest.raises(InputError, match=r"401 wrong key: \(the key\)") as caught:
        judging._posted(asked)
    assert "secret" not in str(caught.value)


def test_a_model_that_is_loaded_here_can_judge(source, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(judging, "load_model", lambda *_, **__: source)
    ours, references = ([r | {"output": text} for r in rows(4)] for text in ("a b", "c d"))
    write_annotations(Judge("tiny", TEMPLATE), ours, references, tmp_path / "one.json")
    write_annotations(Judge("tiny", TEMPLATE), references, ours, tmp_path / "other.json")
    one, other = (
        np.array([r["preference"] for r in read_annotations(tmp_path / f"{n}.json")]) for n in ("one", "other")
    )
    assert ((one > 1) & (one < 2)).all()
    np.testing.assert_allclose(one + other, 3, rtol=1e-6)  # either side of one comparison, in both orders


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": "x"}, "unknown setting 'modle'"),
        ({"model": None}, "needs model and template"),
        ({"order": "first"}, "unknown order 'first'"),
        ({"model": ["x"]}, r"model: input should be a valid string; got \['x'\]"),
        ({"request": 3}, "request: input should be an object"),
        ({"template": "{instruction} {output_1}"}, "lacks {output_2}"),
    ],
)
def test_a_judge_that_cannot_be_is_refused(change, message, tmp_path) -> None:
    settings = {"model": "m", "template": TEMPLATE} | change
    (tmp_path / "judge.yaml").write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))
    with pytest.raises(InputError, match=message):
        load_judge(tmp_path / "judge.yaml")


def test_without_its_key_a_judge_is_not_asked(server, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(InputError, match="set the environment variable NO_KEY"):
        write_annotations(at(server, api_key_env="NO_KEY"), rows(1), rows(1), tmp_path / "annotations.json")
    assert not server.seen


@pytest.mark.parametrize("path", sorted(Path("experiments/configs/judges").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_judges_that_come_with_the_project_are_whole(path) -> None:
    assert load_judge(path).model


def test_rows_are_read_or_refused_by_their_number(tmp_path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": 3}\n')
    with pytest.raises(InputError, match="row 2: it has no text 'instruction'"):
        read_rows(tmp_path / "rows.jsonl")
