"""Silence Transformers' and accelerate's warnings and progress bars."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger


@contextmanager
def muted(*, bars: bool = False) -> Iterator[None]:
    """Within the block, no warnings of Transformers or accelerate and, unless `bars`, no progress bars."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    accelerate = getLogger("accelerate")
    others = accelerate.level
    logging.set_verbosity_error()
    accelerate.setLevel(ERROR)
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        accelerate.setLevel(others)
        if shown and not bars:
            logging.enable_progress_bar()
