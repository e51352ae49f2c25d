"""Run by test_shards.py under torchrun: `symnoise curvature`, whose process 1 finds bad input at its second batch."""

import os
from typing import Any

from symnoise.cli import curvature, main
from symnoise.core import InputError

_measure, _done = curvature._measure, []


def measure(*arguments: Any) -> dict[str, Any]:
    if _done and os.environ["RANK"] == "1":
        raise InputError("the loss is nan")
    _done.append(True)
    return _measure(*arguments)


curvature._measure = measure
main()
