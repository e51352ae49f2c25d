"""Silence Transformers' warnings and progress bars."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def muted(*, bars: bool = False) -> Iterator[None]:
    """Within the block, no Transformers warnings and, unless `bars`, no progress bars of Transformers or the hub."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown and not bars:
            logging.enable_progress_bar()
