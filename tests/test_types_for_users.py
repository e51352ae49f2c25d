"""What a type checker in strict mode sees of symnoise in a user's script; `tests/newcomer` does it with the wheel."""

import os
import subprocess
import sys
from pathlib import Path

from result_schema.files import ROOT
from tests.user_script import SCRIPT, SETTINGS, require_types


def test_names_have_types_and_slips_are_found(tmp_path: Path) -> None:
    assert (ROOT / "symnoise" / "py.typed").is_file()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "symnoise").symlink_to(ROOT / "symnoise")
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", tmp_path / "cache", "--no-error-summary", "script.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(tmp_path / "site")},
        check=False,
        capture_output=True,
        text=True,
    )
    require_types(done.stdout)
