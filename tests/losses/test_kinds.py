"""Options of losses are of the kind that their class asks for, in ranges that can be computed with, and given once."""

from __future__ import annotations

import pytest

from angularkd import InputError
from angularkd.config import parse_losses
from angularkd.losses import read_terms

HUGE = "9" * 400


@pytest.mark.parametrize(
    "text",
    [
        f"kd={HUGE}",
        "kd=1e300",
        "kd=1e-300",
        "kd=true",
        "kd=1:30",
        f"kd=1,T={HUGE}",
        "kd=1,T=1e300",
        "kd=1,T=1e-300",
        "kd=1,T=true",
        "kd=1,T=1:30",
        "kd=1,T=null",
        "kd=1,T=[1,2]",
        "kd=1,T={a: 1}",
        "kd=1,standardise=1:30",
        "kd=1,standardise=2020-01-01",
        "kd=1,standardise=1",
        "amd=1,margin=1e300",
        "amd=1,scale=1e300",
        "amd=1,power=[1,1e300]",
        f"amd=1,grid={HUGE}",
        "amd=1,grid=true",
        "amd=1,attention=5",
        "amd=1,stage_weights=[a]",
        "amd=1,terms=[1]",
        "amd=1,terms=true",
        "amd=1,power=[a]",
        f"at=1,stage_weights={HUGE}",
        "ab=1,stage_weights=abc",
        "ab=1,scale=[]",
        f"amd=1,stages={HUGE}",
        "amd=1,stages=.inf",
        f"kd=1,warmup_epochs={HUGE}",
        "kd=1,decay_to=1e300",
        f"amd=auto,share={HUGE}",
        "wkd=1,iterations=1.5",
        "crd=1,projection_dim=0",
        "cc=1,projection_dim=-1",
        "afd=1,query_dim=1000000000",
        "hcl=1,levels=4",
    ],
)
def test_what_cannot_be_computed_with_is_refused_in_one_line(text) -> None:
    name, _, option = text.partition(",")
    with pytest.raises(InputError) as caught:
        read_terms(parse_losses(["ce=1", text]))
    message = str(caught.value)
    assert f"'{name.partition('=')[0]}'" in message and "\n" not in message and len(message) < 350
    assert option.partition("=")[0].replace("T", "temperature") in message
    assert "not supported" not in message and "object" not in message


@pytest.mark.parametrize(
    "text",
    [
        "kd=0,T=1000000",
        "sp=1e-5",
        "dist=1,eps=1e-8",
        "ft=1,rate=null",
        "amd=1,margin=arcface",
        "amd=1,power=[1,2,4]",
        "amd=1,grid=null,stage_weights=balanced",
        "amd=1,stage_weights=[1,0.5]",
        "amd=1,terms=[angular,positive]",
        "amd=1,terms=negative",
        "mlkd=1,temperatures=[2,4]",
        "cc=1,variant=rbf",
        "vid=1,hidden_channels=8",
        "hcl=1,levels=[4,2]",
    ],
)
def test_what_the_classes_take_is_taken(text) -> None:
    assert read_terms(parse_losses(["ce=1", text]))


def test_an_option_is_given_once_whatever_it_is_called() -> None:
    with pytest.raises(InputError, match="'kd' is given its temperature twice, as T too"):
        read_terms({"kd": {"weight": 1, "T": 4, "temperature": 4}})
