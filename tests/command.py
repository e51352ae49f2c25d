"""The command line as a user calls it, in this process."""

import sys

import pytest

from symnoise.cli import main


def call(monkeypatch, *arguments: object) -> int:
    """`symnoise ARGUMENTS`; its exit code."""
    monkeypatch.setattr(sys, "argv", ["symnoise", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)
