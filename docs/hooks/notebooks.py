"""MkDocs hook: each notebook of analysis/notebooks as a page, with the outputs that are stored in it."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

FOLDER = Path(__file__).parents[2] / "analysis" / "notebooks"
TOP = "*This page is the notebook `analysis/notebooks/{name}.ipynb`, as it was last executed.*"


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each notebook, and its pictures."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        text, pictures = page(path.stem, json.loads(path.read_text(encoding="utf-8")))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to notebooks, which lie outside docs, lead to their pages."""
    return re.sub(r"\(((?:\.\./)*)\.\./analysis/notebooks/([\w-]+)\.ipynb\)", r"(\1notebooks/\2.md)", markdown)


def page(name: str, notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown, and the pictures that it refers to."""
    pictures: dict[str, bytes] = {}
    blocks = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
            continue
        blocks.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                file = f"{name}-{len(pictures) + 1}.png"
                pictures[file] = base64.b64decode("".join(data["image/png"]))
                blocks.append(f"![the figure drawn by the cell above]({file})")
            elif "text/html" in data:
                blocks.append(table("".join(data["text/html"])))
            else:
                blocks.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    head, *rest = blocks
    title, _, body = head.partition("\n")
    return "\n\n".join([title, TOP.format(name=name), body, *rest]), pictures


def table(html: str) -> str:
    """A table of pandas without its own style, so that it has the site's."""
    return re.sub(r"<style.*?</style>|<div>|</div>| border=\"1\" class=\"dataframe\"", "", html, flags=re.S).strip()
