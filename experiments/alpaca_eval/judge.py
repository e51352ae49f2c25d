"""Which of two replies is better, as judged by a model behind an OpenAI-compatible endpoint or by a local model.

A judge is a YAML file, such as those in experiments/configs/judges. Without one, nothing is judged.
"""

import hashlib
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from experiments.alpaca_eval.files import Row, add, kept, matched
from experiments.study.generate import prompt_ids
from result_schema.files import read_settings
from result_schema.typed import require_types
from symnoise.core import InputError, generator, track, unknown, write_json
from symnoise.data import Example
from symnoise.models import load_model

ORDERS = ("both", "random")
RETRIES = 5
SECONDS = 120.0  # timeout of a request
_UNREACHED = (OSError, HTTPException, ValueError)  # no connection, interrupted, or no JSON
Answer = Callable[[str], float | None]  # prompt -> probability that the second reply is better; None: no valid answer


@dataclass(frozen=True)
class Judge:
    """model: its name at the endpoint `base_url`; without an endpoint, a Hub id or folder to load locally.

    template: the question, with {instruction}, {output_1} and {output_2}; the answer is 1 or 2.
    api_key_env: the environment variable with the endpoint's key.  request: additional fields of each request.
    order: "both" asks twice, with each reply first once, and takes the mean; "random" asks once, in a random order.
    """

    model: str
    template: str
    base_url: str = ""
    api_key_env: str = ""
    order: str = "both"
    request: dict[str, Any] = field(default_factory=dict)


def load_judge(path: Path) -> Judge:
    """The judge in a YAML file; `InputError` if a setting is missing or unknown."""
    given = read_settings(path, "judge", "experiments/configs/judges")
    known = [f.name for f in fields(Judge)]
    if not {"model", "template"} <= given.keys():
        raise InputError(f"{path}: a judge needs model and template; see experiments/configs/judges")
    for key in given:
        if key not in known:
            raise InputError(f"{path}: {unknown('setting', key, known)}")
    require_types(Judge, given, str(path))
    judge = Judge(**given)
    if judge.order not in ORDERS:
        raise unknown("order", judge.order, ORDERS)
    for part in ("{instruction}", "{output_1}", "{output_2}"):
        if part not in judge.template:
            raise InputError(f"{path}: the template lacks {part}")
    return judge


def write_annotations(judge: Judge, replies: list[Row], references: list[Row], output: Path, *, seed: int = 0) -> None:
    """Write AlpacaEval's annotations of `replies` (output_2) against `references` (output_1), matched by instruction.

    Every answer is stored in a file next to `output` (.judged.jsonl) as it arrives: a rerun, or a run with more
    replies, asks only what is new.
    """
    partners = matched(replies, references, "the replies", "the references")
    cache = output.with_suffix(".judged.jsonl")
    answers = {line["key"]: line["second"] for line in kept(cache)}
    ask: Answer = partial(_asked, judge) if judge.base_url else _loaded(judge)
    found = []
    for reply, reference in track(list(zip(replies, partners, strict=True)), "judging"):
        wins = []
        for swapped in _orders(judge, reply["instruction"], seed):
            shown = (reply["output"], reference["output"]) if swapped else (reference["output"], reply["output"])
            prompt = _filled(judge.template, reply["instruction"], *shown)
            key = _key(judge, prompt)
            if key not in answers:
                answers[key] = ask(prompt)
                add(cache, [{"key": key, "second": answers[key]}])
            second = answers[key]
            wins.append(None if second is None else 1 - second if swapped else second)
        whole = [win for win in wins if win is not None]
        found.append(
            {"instruction": reply["instruction"], "output_1": reference["output"], "output_2": reply["output"]}
            | {"generator_1": reference.get("generator", "reference"), "generator_2": reply.get("generator", "model")}
            | {"annotator": judge.model, "preference": 1 + sum(whole) / len(whole) if len(whole) == len(wins) else None}
        )
    write_json(output, found)


def _orders(judge: Judge, instruction: str, seed: int) -> list[bool]:
    """For each question to the judge, whether the model's reply comes first."""
    if judge.order == "both":
        return [False, True]
    return [bool(torch.randint(2, (), generator=generator(seed, "order of replies", instruction)))]


def _filled(template: str, instruction: str, first: str, second: str) -> str:
    """Filled in one pass, so that braces in a reply stay as they are."""
    texts = {"instruction": instruction, "output_1": first, "output_2": second}
    return re.sub(r"\{(instruction|output_1|output_2)\}", lambda match: texts[match[1]], template)


def _key(judge: Judge, prompt: str) -> str:
    facts = {key: value for key, value in asdict(judge).items() if key in ("model", "base_url", "request")}
    return hashlib.sha256(json.dumps([facts, prompt], sort_keys=True).encode()).hexdigest()


def _asked(judge: Judge, prompt: str) -> float | None:
    """The endpoint's choice; None if its answer has neither 1 nor 2, or both."""
    body = {"model": judge.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0} | judge.request
    headers = {"Content-Type": "application/json"}
    if judge.api_key_env:
        if not os.environ.get(judge.api_key_env):
            raise InputError(f"the judge's API key is missing: set the environment variable {judge.api_key_env}")
        headers["Authorization"] = f"Bearer {os.environ[judge.api_key_env]}"
    url = judge.base_url.rstrip("/") + "/chat/completions"
    answer = _posted(urllib.request.Request(url, json.dumps(body).encode(), headers))
    try:
        text = answer["choices"][0]["message"]["content"] or ""
    except (LookupError, TypeError) as error:
        raise InputError(f"{url} does not answer in OpenAI's format: {json.dumps(answer)[:100]}") from error
    chosen = set(re.findall(r"\b[12]\b", text))
    return float(chosen == {"2"}) if len(chosen) == 1 else None


def _posted(request: urllib.request.Request) -> Any:
    """The JSON of the answer, with exponential backoff while the endpoint is busy or unreachable."""
    patiently = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(RETRIES),
        wait=wait_exponential(),  # 1, 2, 4 … seconds
        reraise=True,
    )
    try:
        return patiently(_answered, request)
    except urllib.error.HTTPError as error:
        said = f"{error.code} {error.read(200).decode(errors='replace')}"
    except _UNREACHED as error:
        said = str(error) or type(error).__name__
    if key := request.get_header("Authorization"):  # some endpoints repeat it
        said = said.replace(key.removeprefix("Bearer "), "(the key)")
    raise InputError(f"the judge at {request.full_url} does not answer ({said}); earlier answers are kept: run again")


def _answered(request: urllib.request.Request) -> Any:
    with urllib.request.urlopen(request, timeout=SECONDS) as response:
        return json.loads(response.read())


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 429) or error.code >= 500
    return isinstance(error, _UNREACHED)


def _loaded(judge: Judge) -> Answer:
    """P(2)/(P(1) + P(2)) for the next token of a local model."""
    source = load_model(judge.model, device="cuda" if torch.cuda.is_available() else "cpu")
    one, two = (source.tokenizer.encode(mark, add_special_tokens=False)[-1] for mark in "12")

    def ask(prompt: str) -> float:
        (ids,) = prompt_ids(source, [Example((("user", prompt), ("assistant", "1")))])
        with torch.no_grad():
            logits = source.model(torch.tensor([ids], device=source.model.device)).logits[0, -1]
        return float(torch.sigmoid(logits[two].double() - logits[one].double()))

    return ask
