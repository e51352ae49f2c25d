"""The bench of decoding, on a tiny model: both ways give the same replies, and both are timed."""

import json

import pandas as pd
import pytest

from experiments.bench import decoding as bench
from symnoise.core import InputError
from symnoise.finetune.dry_run import tiny_model


def test_batches_are_held_against_one_prompt_at_a_time(tmp_path, monkeypatch, capsys) -> None:
    tiny_model("llama", tmp_path / "model", room=400)
    rows = [{"instruction": "a " * (k + 1), "output": "b c d"} for k in range(bench.BATCH)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    options = {"model": str(tmp_path / "model"), "data": str(tmp_path / "rows.json")}
    with pytest.raises(InputError, match="0 rows fit 96 tokens, not 64"):
        bench.main(**options)
    monkeypatch.setattr(bench, "LONGEST", 384)  # a token a character here
    bench.main(**options, new_tokens=4, rounds=2, output=tmp_path / "decoding.csv")
    table = pd.read_csv(tmp_path / "decoding.csv")
    assert table.decoding.tolist() == ["greedy", "repetition penalty 1.2"]
    assert (table.prompts == bench.BATCH).all() and (table.same >= 0.9).all()
    assert (table[["tokens_per_second", "alone_tokens_per_second", "ratio"]] > 0).all(axis=None)
    assert "one at a time" in capsys.readouterr().out
