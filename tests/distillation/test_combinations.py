"""AMD beside its neighbours, each pair in one run of the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from angularkd.cli import main

RUN = ["digits", "--image-size", "8", "--batch-size", "128", "--epochs", "1", "--lr", "0.02"]


@pytest.fixture(scope="module")
def teacher(digits_teacher) -> Path:
    return digits_teacher


@pytest.mark.parametrize(
    ("flags", "terms"),
    [
        (["--loss", "kd=0.9,T=4"], {"kd"}),
        (["--loss", "sp=3000"], {"sp"}),
        (["--loss", "dkd=1,beta=2,warmup_epochs=1"], {"dkd"}),
        (["--loss", "crd=0.8,num_negatives=64"], {"crd"}),
        (["--mixup", "0.2"], set()),
        (["--cutmix", "1"], set()),
        (["--mixup", "0.2", "--cutmix", "1", "--loss", "kd=0.9"], {"kd"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_amd_beside_another(flags, terms, teacher, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    losses = ["--loss", "ce=0.5", "--loss", "amd=10,decay_to=0.5"]
    main(
        [
            "distill",
            *RUN,
            "--teacher",
            str(teacher),
            "--student",
            "cifar/resnet8",
            *losses,
            *flags,
            "--out",
            str(out),
        ]
    )
    assert str(out) in capsys.readouterr().out
    row = json.loads((out / "metrics.jsonl").read_text())
    assert terms | {"ce", "amd"} <= set(row)
    assert all(row[name] > 0 for name in terms | {"ce", "amd"})


@pytest.mark.parametrize(
    ("variant", "stages"),
    [("grid=2", 2), ("margin=arcface", 3), ("power=[1,2]", 3), ("attention=gradcam", 3), ("stage_weights=[0,1,2]", 3)],
)
def test_variants_of_amd(variant, stages, teacher, tmp_path) -> None:
    out = tmp_path / "run"
    pairs = ",".join(f"layer{i}:layer{i}" for i in range(1, stages + 1))
    models = ["--teacher", str(teacher), "--student", "cifar/resnet8", "--pairs", pairs]
    main(["distill", *RUN, *models, "--loss", "ce=1", "--loss", f"amd=10,{variant}", "--out", str(out)])
    assert json.loads((out / "metrics.jsonl").read_text())["amd"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss", "sp=10,stages=7"], r"loss 'sp' is to act on stages \[7\], and 3 are paired"),
        (["--loss", "amd=10,attention=gradcma"], "no attention 'gradcma'"),
        (["--loss", "amd=10,attention=rollout"], "use attention=token_norm"),
        (["--loss", "dkd=1", "--mixup", "0.2"], "loss 'dkd' needs one class a sample"),
        (["--loss", "amd=10,stage_weights=[1,2]"], "2 stage_weights for 3 paired stages"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_what_cannot_be_combined_is_named_in_one_line_and_leaves_nothing(
    flags, message, teacher, tmp_path, capsys
) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(["distill", *RUN, "--teacher", str(teacher), "--student", "cifar/resnet8", *flags, "--out", str(out)])
    assert stop.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1 and re.search(message, complaint), complaint
    assert not out.exists()
