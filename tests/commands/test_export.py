"""The export command: a table within 80 columns whose numbers are whole, and one line for what cannot be."""

from __future__ import annotations

import pytest

from angularkd.cli import main


def test_it_prints_a_table_of_80_columns_with_every_number(capsys, digits_teacher, tmp_path, monkeypatch) -> None:
    from angularkd.cli import running
    from angularkd.cli.printing import TextConsole

    monkeypatch.setattr(running, "open_console", lambda: TextConsole(width=80))
    out = tmp_path / "new"
    main(["export", str(digits_teacher), "--format", "safetensors", "--out", str(out), "--check-most", "20"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("│ ")]
    assert len(rows) == 2 and max(map(len, lines[:8])) <= 80
    assert all(row.count("±") == 2 and "%" in row for row in rows) and "…" not in "".join(lines)
    assert f"export: {out}" in lines
    main(["predict", str(out), str(_image(tmp_path))])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "the run nowhere does not exist: name the folder of a finished run with RUN"),
        (["RUN", "--format", "tensorrt"], "--format"),
        (["RUN", "--out", "."], "give another folder with --out"),
        (["RUN", "--format", "timm", "--int8"], "leave --format at onnx"),
        ([], "RUN"),
    ],
)
def test_bad_input_is_answered_in_one_line(capsys, digits_teacher, tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["export", *(str(digits_teacher) if word == "RUN" else word for word in arguments)])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def _image(folder):
    from PIL import Image

    Image.new("RGB", (9, 9)).save(folder / "a.png")
    return folder / "a.png"
