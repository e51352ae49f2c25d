"""The settings of `symnoise train`: keys of a config file, options of the command line. Needs no PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symnoise.noise import Noise
    from symnoise.training import Dials, NoiseOptions

SCHEDULES = ("constant", "linear", "cosine")
DIALS = ("even", "odd")


def _set(default: Any, group: str, text: str, *names: str, free: bool = False) -> Any:
    """A setting: its default, its group and text in `--help`, other names of its option.

    free: whether it may change when a run is resumed, since it does not affect earlier steps.
    """
    return field(default=default, metadata={"group": group, "help": text, "names": names, "free": free})


@dataclass(frozen=True)
class TrainSettings:
    """One training run. Every field is a config key and an option of `symnoise train`, whose help describes it.

    `even` and `odd` are those of `Dials`; if only one is given, the other has its default there (1 and 0). A dry run
    creates a model of `family` and data of `form`. `eval_rows` None is a tenth of the rows, at most 16: the difference
    before and after training is paired, so a few thousand tokens suffice.
    """

    model: str = _set("smollm2", "Source", "Hub id, local folder or PEFT adapter, .gguf file, or smollm2 (bundled).")
    data: str = _set("chitchat", "Source", "Hub id (or ID:CONFIG@SPLIT), file, folder of files, or chitchat (bundled).")
    output: str = _set("", "Source", "Folder for checkpoints, log, model and card.", free=True)
    family: str = _set("", "Source", "Model type it must be, such as llama; a dry run makes one.", free=True)
    form: str = _set("", "Source", "Form the data must have, such as Alpaca or ShareGPT.", free=True)
    rows: int = _set(0, "Source", "Rows to train on, after those held out; 0 for all that fit.")
    chat_template: str = _set("", "Source", "Jinja file that replaces the model's chat template.")
    strict: bool = _set(False, "Source", "Stop at the first row that cannot be used, instead of skipping it.")
    max_length: int = _set(512, "Source", "Truncate rows to this many tokens.")
    noise: str = _set(
        "symnoise",
        "Noise",
        "none, uniform, gaussian, gaussian-raw, rademacher; mirrored: symnoise, uniform-pair, gaussian-pair; two draws:"
        " independent-pair.",
    )
    noise_alpha: float = _set(5.0, "Noise", "Noise strength α, as in NEFTune.", "--alpha")
    noise_length: str = _set("true", "Noise", "L of the scale: true or padded.")
    noise_where: str = _set("all", "Noise", "Tokens that get noise: all, prompt or response.")
    noise_schedule: str = _set("constant", "Noise", "α along the run: constant, linear or cosine.")
    even: float | None = _set(
        None, "Noise", "Dial μ: weight of the noise's even part (curvature), 1 for a pair. Default: set by the noise."
    )
    odd: float | None = _set(
        None, "Noise", "Dial λ: weight of the odd part (gradient noise), 1 for one draw. Default: set by the noise."
    )
    pair_mode: str = _set("doubled", "Noise", "doubled (one batch) or two-pass (memory of one side).")
    steps: int = _set(0, "Training", "Optimizer steps; 0 for whole epochs.", free=True)
    epochs: float = _set(1.0, "Training", "Epochs.", free=True)
    batch: int = _set(4, "Training", "Rows per process and micro-batch, before a pair doubles them.")
    accumulation: int = _set(1, "Training", "Gradient-accumulation steps.")
    learning_rate: float = _set(5e-5, "Training", "Highest learning rate.")
    schedule: str = _set("cosine", "Training", "Learning rate along the run: constant, linear or cosine.")
    warmup: float = _set(0.03, "Training", "Fraction of the steps; their number if 1 or more.")
    weight_decay: float = _set(0.0, "Training", "Weight decay of AdamW.")
    max_grad_norm: float = _set(1.0, "Training", "Gradients are clipped to this norm; 0 for no clipping.")
    lora_rank: int = _set(0, "Training", "LoRA of this rank on all linear layers, at scale 2; 0 trains every weight.")
    bf16: bool = _set(False, "Training", "Compute in bfloat16; the weights stay float32.")
    gradient_checkpointing: bool = _set(False, "Training", "Less memory, slower.")
    seed: int = _set(0, "Training", "Random seed of the noise, the order of rows and dropout.")
    save_every: int = _set(100, "Checkpoints and log", "Steps between checkpoints.", free=True)
    keep: int = _set(2, "Checkpoints and log", "Checkpoints to keep.", free=True)
    keep_state: bool = _set(
        False, "Checkpoints and log", "Keep the optimizer state of a finished run, to add steps later.", free=True
    )
    log_every: int = _set(10, "Checkpoints and log", "Steps between lines of the log.", free=True)
    report_to: str = _set("none", "Checkpoints and log", "tensorboard, trackio, wandb …", free=True)
    eval_rows: int | None = _set(
        None, "Measuring", "Rows held out, from the start; by default a tenth of the rows, at most 16."
    )
    eval_every: int = _set(100, "Measuring", "Steps between held-out losses.", free=True)
    track_every: int = _set(
        10, "Measuring", "Steps between noise moments, clean loss and norms; 0 for none.", free=True
    )
    curvature_every: int = _set(0, "Measuring", "Steps between measurements of tr H; 0 for none.", free=True)
    curvature_rows: int = _set(4, "Measuring", "Held-out rows on which tr H is measured.", free=True)

    def __post_init__(self) -> None:
        from symnoise.finetune.reading import check

        check(self)

    def make_noise(self) -> "Noise | None":
        """The noise; None for "none"."""
        from symnoise.noise import Noise

        return Noise.named(self.noise, self.noise_alpha)

    def make_dials(self) -> "Dials | None":
        """The dials; None if neither is given."""
        from symnoise.training import Dials

        given = {key: getattr(self, key) for key in DIALS if getattr(self, key) is not None}
        return Dials(**given) if given else None

    def noise_options(self) -> "NoiseOptions":
        """How the noise is applied."""
        from symnoise.training import NoiseOptions

        return NoiseOptions(self.noise_length, self.noise_where, self.noise_schedule)

    def held_out(self, rows: int) -> int:
        """Number of held-out rows of `rows`: as set, else a tenth, at most 16."""
        return min(16, rows // 10) if self.eval_rows is None else self.eval_rows

    def changed(self, before: Mapping[str, Any], more: Sequence[str] = ()) -> list[str]:
        """Settings that must not differ from the run `before` but do, such as "learning_rate was 0.1, now 0.2"; `more`
        of those that are free at other times."""
        now, names = asdict(self), [f.name for f in fields(self) if not f.metadata["free"] or f.name in more]
        names = [key for key in names if before.get(key, now[key]) != now[key]]
        return [f"{key} was {before[key]!r}, now {now[key]!r}" for key in names]
