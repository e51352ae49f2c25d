"""What a type checker in strict mode sees of symnoise in a user's script."""

import os
import subprocess
import sys
from pathlib import Path

from result_schema.files import ROOT

# The types of these are not symnoise's; without them mypy takes seconds instead of minutes.
OTHERS = """
accelerate datasets gguf huggingface_hub jinja2 matplotlib numpy pandas peft platformdirs pyarrow rich safetensors scipy
seaborn tokenizers torch transformers trl typer yaml
"""
SETTINGS = f"""[mypy]
strict = True
[mypy-{",".join(f"{name}.*" for name in OTHERS.split())}]
follow_imports = skip
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


def test_names_have_types_and_slips_are_found(tmp_path: Path) -> None:
    assert (ROOT / "symnoise" / "py.typed").is_file()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "symnoise").symlink_to(ROOT / "symnoise")
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    (tmp_path / "script.py").write_text(SCRIPT)
    said = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", "--no-error-summary", "script.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(tmp_path / "site")},
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    sft, plot, misspelt, wrong = said.strip().splitlines()
    assert "-> symnoise.training.sft.SymNoiseSFTTrainer" in sft
    assert "symnoise.core.estimate.Estimate" in plot
    assert 'Module has no attribute "trase"' in misspelt
    assert '"probes" to "trace" has incompatible type "str"; expected "int"' in wrong
