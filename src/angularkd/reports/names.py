"""Names as a report shows them: text alone, whatever a folder of images is called."""

from __future__ import annotations

import re

NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")
"""What acts instead of being seen, or is no character of a file of XML: controls, reversed writing, undecodable bytes of a name."""
LONGEST = 28
"""Characters of a name in a figure."""


def clean(text: object) -> str:
    """Return a text with what is no text escaped."""
    return NOT_TEXT.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def short(text: object, longest: int = LONGEST) -> str:
    """Return a clean text without its middle where it is long."""
    whole = clean(text)
    return whole if len(whole) <= longest else f"{whole[: longest * 2 // 3]}…{whole[-(longest // 3) :]}"


def last_part(spec: str) -> str:
    """Return a SPEC without the folders before its name: `runs/teacher` is shown as teacher, `cifar/resnet8` as resnet8."""
    return short(spec.rstrip("/").rpartition("/")[2] or spec, 40)


def percent(share: float, digits: int = 1) -> str:
    """Return a share in percent, as 93.1 %."""
    return f"{100 * share:.{digits}f} %"


def points(difference: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def count(number: float) -> str:
    """Return a large number as 75 k, 1.2 M."""
    for size, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            scaled = number / size
            return f"{scaled:.1f} {word}" if scaled < 10 else f"{scaled:,.0f} {word}"
    return f"{number:,.0f}"
