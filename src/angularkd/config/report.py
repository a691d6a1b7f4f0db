"""What a report can be asked for."""

from __future__ import annotations

from os import PathLike
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from tyro.conf import Positional, arg

from angularkd.config.base import FileName
from angularkd.config.options import TrustOptions


class ReportConfig(TrustOptions):
    """Make one HTML file of a finished run, of several side by side, or of a study; it opens from disk, without a network."""

    runs: Annotated[Positional[tuple[FileName, ...]], arg(metavar="RUN")] = Field(min_length=1)
    """Folders of finished runs, or the folder of one study."""
    out: FileName | None = None
    """File of the report. Default: report.html in the folder of the run or the study; of several runs, report.html here."""
    figures: FileName | None = None
    """Folder that each figure is written to, as .svg and .png. Default: the report's name with _files, beside it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the networks of a run are run on some test images."""

    @field_validator("runs", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        several = [value] if isinstance(value, str | PathLike) else value
        return (
            [str(one) if isinstance(one, PathLike) else one for one in several]
            if isinstance(several, list | tuple)
            else value
        )
