"""A user's script, for type checkers in strict mode, and what they should say of it."""

# The types of these are not symnoise's; without them mypy takes seconds instead of minutes.
OTHERS = """
accelerate datasets gguf huggingface_hub IPython jinja2 matplotlib numpy pandas peft platformdirs pyarrow rich
safetensors scipy seaborn tokenizers torch transformers trl typer yaml
"""
SETTINGS = f"""[mypy]
strict = True
[mypy-{",".join(f"{name}.*" for name in OTHERS.split())}]
follow_imports = skip
follow_imports_for_stubs = True
ignore_missing_imports = True
[mypy-symnoise.*]
follow_imports = silent
"""
SCRIPT = """\
import symnoise as sn

loaded = sn.load_model("smollm2")
rows = sn.load_data("chitchat", limit=2)
loss = sn.EmbeddingLoss(loaded.model, sn.encode(rows, loaded.tokenizer, max_length=96))
curvature: sn.Estimate = sn.trace(loss, probes=4)
low, high = curvature.interval()
with sn.attach(loaded.model, sn.Noise.symnoise(5.0), seed=0):
    pass
reveal_type(sn.SymNoiseSFTTrainer)
reveal_type(sn.plot.trace)
sn.trase(loss)
sn.trace(loss, probes="many")
"""


def require_types(said: str) -> None:
    """That mypy has the types of the names, lazy ones too, and finds both slips and nothing else."""
    sft, plot, misspelt, wrong = said.strip().splitlines()
    assert "-> symnoise.training.sft.SymNoiseSFTTrainer" in sft
    assert "symnoise.core.estimate.Estimate" in plot
    assert 'Module has no attribute "trase"' in misspelt
    assert '"probes" to "trace" has incompatible type "str"; expected "int"' in wrong
