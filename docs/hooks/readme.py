"""MkDocs hook: what the README states and a test keeps true, shown on the site without being written twice."""

import re
from pathlib import Path
from typing import Any

README = Path(__file__).parents[2] / "README.md"


def parts(readme: str) -> dict[str, str]:
    """The ten lines of code, and the generated ledger without the table of what measured it."""
    (ledger,) = re.findall(r"<!-- ledger:.*?-->\n\n(.*?)\n\n\| claim \| measured by", readme, flags=re.S)
    return {"code": re.findall(r"```python\n.*?```", readme, flags=re.S)[0], "claims": ledger}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the parts where a page has `<!-- from README: NAME -->`."""
    for name, text in parts(README.read_text(encoding="utf-8")).items():
        markdown = markdown.replace(f"<!-- from README: {name} -->", text)
    return markdown
