"""What other libraries log, held back where it would be read as ours."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logging_from(level: int, *names: str) -> Iterator[None]:
    """Let loggers say inside only what is of a level or above, as they said before afterwards.

    Args:
        level: of the module logging.
        names: of the loggers.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)
