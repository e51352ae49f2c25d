"""MkDocs hook: what the README states and a test keeps true, shown on the site without being written twice."""

import re
from pathlib import Path
from typing import Any

README = Path(__file__).parents[2] / "README.md"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the README's first lines of Python where a page has `<!-- from README: code -->`."""
    code = re.findall(r"```python\n.*?```", README.read_text(encoding="utf-8"), flags=re.S)[0]
    return markdown.replace("<!-- from README: code -->", code)
