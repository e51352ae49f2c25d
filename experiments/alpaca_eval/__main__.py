"""The commands of `python -m experiments.alpaca_eval`."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer

from experiments.alpaca_eval.files import read_rows
from experiments.alpaca_eval.judge import load_judge, write_annotations
from experiments.alpaca_eval.length import compared, read_plan, read_preferences
from experiments.alpaca_eval.replies import write_replies
from experiments.alpaca_eval.winrate import read_annotations, win_rate
from result_schema.bad_input import one_line_on_bad_input
from symnoise.core import progress_shown, provenance, sha256, write_json
from symnoise.models import load_model

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Replies, judge and win rates of AlpacaEval.")
Rows = Annotated[str, typer.Argument(help="File (.json, .jsonl) of instruction and output, or a data set on the Hub.")]
Output = Annotated[Path, typer.Option(help="The file to write.")]


@app.command()
def replies(
    model: Annotated[str, typer.Argument(help="Hub id, local folder, .gguf file, or smollm2 (bundled).")],
    instructions: Rows,
    output: Output,
    repetition_penalty: Annotated[float, typer.Option(help="NEFTune's authors used 1.2; 1 is none.")] = 1.2,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 1024,
    name: Annotated[str, typer.Option(help="The generator's name; by default the model's.")] = "",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Greedy replies to every instruction, in AlpacaEval's format. Rerun the command to resume an interrupted run."""
    rows, source = read_rows(instructions), load_model(model, device=device)
    facts = {"generator": name or Path(model).name, "penalty": repetition_penalty, "new_tokens": max_new_tokens}
    write_replies(source, rows, output, **facts)  # type: ignore[arg-type]


@app.command()
def judge(
    config: Annotated[Path, typer.Argument(help="YAML file, such as experiments/configs/judges/openai.yaml.")],
    model_replies: Annotated[str, typer.Argument(metavar="REPLIES", help="File written by `replies`.")],
    reference: Rows,
    output: Output,
    seed: Annotated[int, typer.Option(help="Random seed of the order of replies, for judges with order: random.")] = 0,
) -> None:
    """Ask a judge which reply is better, and write AlpacaEval's annotations."""
    given = load_judge(config)
    write_annotations(given, read_rows(model_replies, "output"), read_rows(reference, "output"), output, seed=seed)


@app.command()
def winrate(
    annotations: Annotated[Path, typer.Argument(help="AlpacaEval's annotations.json.")],
    instructions: Annotated[str, typer.Option(help="Check that the annotations are about these instructions.")] = "",
    json: Annotated[Path | None, typer.Option(help="Also write the result to this file.")] = None,
) -> None:
    """Win rate and length-controlled win rate, with standard errors."""
    made = win_rate(read_annotations(annotations, instructions))
    print(f"win rate                    {made.win_rate:6.2f} % ± {made.stderr:.2f}")
    print(f"length-controlled win rate  {made.length_controlled:6.2f} % ± {made.length_controlled_stderr:.2f}")
    print(f"{made.count} preferences, {made.missing} missing; {made.note or f'length effect {made.length_effect:.2f}'}")
    if json:
        write_json(json, asdict(made))


@app.command()
def length(
    plan: Annotated[Path, typer.Argument(help="YAML file, such as experiments/configs/length/7b.yaml.")],
    preferences: Annotated[list[Path], typer.Argument(help="Annotations of AlpacaEval, or a table (.csv).")],
    output: Output = Path("results/length-7b/gains.json"),
) -> None:
    """How much of a gain in preferences is left at equal length of replies, by several adjustments."""
    given = read_plan(plan)
    made = compared(read_preferences(preferences), given)
    hashes = {file.name: sha256(file) for file in preferences}
    write_json(output, {"plan": asdict(given), "files": hashes, "gains": made, **provenance()})
    print(f"symnoise: {len(made)} gains are in {output}")


if __name__ == "__main__":
    with progress_shown():
        one_line_on_bad_input(app)
