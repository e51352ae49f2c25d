"""What the README says is run, and what it reports is what is published."""

import re
from pathlib import Path

import pandas as pd

from analysis.paper.published import read_published, study_results
from analysis.readme import costs, mechanism, stages, studies, table, written
from analysis.study import report
from analysis.study.report import write_study
from result_schema.bench import OWN, TAYLOR, TAYLOR_BFLOAT16, TWO_LEVELS
from result_schema.files import ROOT
from tests.analysis.made_up_study import write_study as write_files

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_the_ten_lines_run(smollm2, capsys) -> None:
    (code, *_) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(code.strip().splitlines()) <= 10
    exec(compile(code, "README.md", "exec"), {})
    assert "taylor" in capsys.readouterr().out


def test_the_tables_are_of_what_has_published() -> None:
    published = read_published()
    for part in (
        table(published.rows),
        stages(published.run),
        studies(published.studies, published.mechanism),
        mechanism(published.mechanism),
    ):
        assert part in RESULTS
    assert costs(published) in README
    assert written(README, published) == README and written(RESULTS, published) == RESULTS
    assert written(RESULTS.replace("| M1 | E‖ε‖²", "| M1 | typed"), published) == RESULTS
    assert written(README.replace("forward passes |", "typed |"), published) == README


def test_it_is_a_landing_page() -> None:
    assert len(README.splitlines()) <= 160


def test_the_costs_it_names_are_those_that_published() -> None:
    said, bench = " ".join(RESULTS.split()), pd.read_csv(ROOT / "docs" / "bench.csv").set_index("key")
    taylor, halves, product = (
        bench.loc[key]
        for key in (
            "taylor",
            "taylor-bfloat16",
            "products",
        )
    )
    assert (
        f"the cost per probe is {taylor.forwards:.1f} forward passes in Taylor mode (16 probes in 4 groups; "
        f"{halves.forwards:.1f} with bfloat16 coefficients, {100 * halves.error:.1f} % off) and "
        f"{product.forwards:.1f} by Hessian products; memory above the model is {taylor.memory_gib:.1f} and "
        f"{product.memory_gib:.1f} GiB"
    ) in said
    peers = pd.read_csv(ROOT / "docs" / "peers.csv").set_index("method")
    own, halved, two = (peers.loc[name] for name in (TAYLOR, TAYLOR_BFLOAT16, TWO_LEVELS))
    others = peers[~peers.index.isin(OWN)]
    retained, found = (others[(others.malloc == "as found") == kind] for kind in (False, True))
    off = abs(halved.trace / own.trace - 1)
    assert (
        f"{retained.work.idxmin()}, took {retained.work_ratio.min():.1f} times the forward passes of Taylor mode "
        f"({found.work_ratio.min():.1f} times with malloc as found), {retained.work.min() / two.work:.1f} times those "
        f"of two levels, and {retained.work.min() / halved.work:.1f} times those with bfloat16 coefficients alone, "
        f"whose traces were {100 * off:.1f} % off; the most memory-efficient took "
        f"{retained.memory_gib_ratio.min():.1f} ({found.memory_gib_ratio.min():.1f}) times the memory"
    ) in said
    assert (
        f"A tiny Mamba takes {bench.ratio['mamba']:.1f} and a tiny Mixtral {bench.ratio['mixtral']:.1f} times the "
        "forward passes per probe of a Llama of equal size"
    ) in said


def test_what_noise_and_batches_take_is_what_published() -> None:
    said, training = " ".join(RESULTS.split()), pd.read_csv(ROOT / "docs" / "training.csv").set_index("loop")
    plain, halves, neftune, noise, doubled, twice = (
        training.loc[loop]
        for loop in (
            "plain Trainer",
            "plain Trainer, bf16 autocast",
            "Transformers' NEFTune",
            "unpaired noise",
            "pair, one doubled batch",
            "pair, two passes",
        )
    )
    assert (
        f"a draw takes {noise.noise_ms:.1f} ms of a step of {plain.step_seconds:.1f} s (Transformers' NEFTune: "
        f"{neftune.noise_ms:.1f} ms), a pair {doubled.time_ratio:.1f} steps' time in one doubled batch, or "
        f"{twice.time_ratio:.1f} in two passes with {twice.memory_ratio:.2f} times the memory of plain training; a "
        f"plain step in bf16 autocast takes {halves.time_ratio:.2f} of the time"
    ) in said
    greedy = pd.read_csv(ROOT / "docs" / "decoding.csv").set_index("decoding").loc["greedy"]
    assert greedy.same == 1
    assert (
        f"{greedy.tokens_per_second:.0f} tokens per second for {greedy.prompts:.0f} prompts at once and "
        f"{greedy.alone_tokens_per_second:.0f} for one after the other"
    ) in said


def test_a_study_is_told_by_its_claims_and_by_what_decides(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(report, "drawings", lambda *_: [])
    arms = ("none", "uniform", "independent-pair", "symnoise")
    folder = write_files(tmp_path / "micro", arms=arms, loss={"symnoise": -0.5}, seeds=6)
    found = study_results(write_study(folder).parent)
    assert found is not None
    said = studies({"micro": found, "smollm2": None})
    o4 = [row["verdict"] for row in found.rows if row["id"] == "O4"]
    assert f"| {o4.count('holds')} holds, {o4.count('undecided')} undecided (`micro`) |" in said
    assert "| D1 |" not in said and "smollm2" not in said  # what has not been measured or run
    twice = studies({"micro": found}, {"mirror": found})
    assert f"| {o4.count('holds')} holds, {o4.count('undecided')} undecided (`micro`, `mirror`) |" in twice
    (line,) = [line for line in said.splitlines() if line.startswith("| SymNoise − two draws | 6 |")]
    assert re.search(r"\| −0\.\d+ \(−0\.5\d+ to −0\.4\d+\) \|", line)
    assert "α = 10, end, with 95 % intervals" in said and "No study" not in said
    assert studies({"micro": None}).startswith("No study has been run")


def test_named_endpoints_are_told_with_what_is_worth_knowing() -> None:
    """Every primary row of every study, and no other; a p at the floor of its test says so."""
    published = read_published()
    said = mechanism(published.mechanism)
    tables = [
        study.tables[name]
        for study in published.mechanism.values()
        if study
        for name in ("contrasts", "dials")
        if name in study.tables
    ]
    rows, _, fit = said.rpartition("\n\n")
    assert len(rows.splitlines()) == 2 + sum(int(t.primary.sum()) for t in tables if len(t))
    lacks = [lack for t in tables if "lack" in t for lack in t[t.primary].lack]
    assert f"it misses them by {100 * min(lacks):.0f} to {100 * max(lacks):.0f} % of their range" in fit
    assert (
        "| mirror | held-out loss, SymNoise − two draws | 30 | 0.00391 (0.00363 to 0.00419) | ≤ 6.0·10⁻⁴ | 0.002 |"
        in said
    )
    assert mechanism({"mirror": None}) == ""


def test_every_file_it_names_is_there() -> None:
    for name in re.findall(r"\]\(([^)h#][^)]*)\)", README):
        file, _, heading = name.partition("#")
        assert (ROOT / file).is_file(), name
        assert not heading or f"## {heading.replace('-', ' ')}" in (ROOT / file).read_text(encoding="utf-8").lower()
    for name in ("examples", "experiments/quick", "experiments/bench"):
        assert Path(ROOT / name).exists(), name
