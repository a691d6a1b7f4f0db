"""What other libraries log is held back inside, and is as it was afterwards."""

from __future__ import annotations

import logging

import pytest

from angularkd.system.logs import logging_from


def test_loggers_are_held_back_and_say_afterwards_what_they_said_before(caplog) -> None:
    one, other = logging.getLogger("angularkd.tests.one"), logging.getLogger("angularkd.tests.other")
    one.setLevel(logging.INFO)

    def fail() -> None:
        with logging_from(logging.ERROR, one.name, other.name):
            one.warning("held back")
            other.error("said")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    one.info("said again")
    assert [record.message for record in caplog.records] == ["said", "said again"]
    assert (one.level, other.level) == (logging.INFO, logging.NOTSET)
