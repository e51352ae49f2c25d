"""The chat templates inside the installed TRL, and a tokenizer that has their special tokens."""

import re
from pathlib import Path

import trl
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

FOLDER = Path(trl.__file__).parent / "chat_templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
# What is written in angle brackets or the like without a space in it, as special tokens are.
_SPECIAL = re.compile(r"<[|｜]?[/\w▁:\"-]+[|｜]?>|<\|\"\|>|\[gMASK\]")


def template_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """One token per character, and one for each special token in the template called `name`."""
    template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    inner = Tokenizer(models.WordLevel({"<unk>": 0, **{chr(code): code for code in range(1, 128)}}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.add_tokens([AddedToken(word, special=True) for word in sorted(set(_SPECIAL.findall(template)))])
    tokenizer.chat_template = template
    return tokenizer
