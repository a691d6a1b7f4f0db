"""What several runs are called where they are shown together."""

from __future__ import annotations

import pytest

from angularkd.reports.together import _roles


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["one", "other"], ["one", "other"]),
        (
            ["resnet8-from-resnet56-on-digits-seed0", "resnet8-from-resnet20-on-digits-seed0"],
            ["1: resnet8-from-r…s-seed0", "2: resnet8-from-r…s-seed0"],
        ),
    ],
    ids=["short", "alike when they are short"],
)
def test_each_has_a_name_of_its_own(labels, names) -> None:
    assert _roles(labels) == names
