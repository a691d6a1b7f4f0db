"""From the teacher's classes to the data's: the sums, and every way in which a file can be wrong."""

from __future__ import annotations

import json

import pytest
import torch

from angularkd import InputError
from angularkd.models.class_mapping import ClassMapping, match_names, read_class_mapping

TEACHER = ("cat", "dog", "crane", "beagle", "crane", "7")


def read(tmp_path, text: str, classes=("pet", "bird"), teacher=TEACHER, name: str = "map.yaml") -> ClassMapping:
    (tmp_path / name).write_text(text)
    return read_class_mapping(tmp_path / name, classes, teacher, len(TEACHER))


def test_the_probabilities_of_a_group_are_summed_and_the_others_left_out() -> None:
    logits = torch.randn(5, 6, dtype=torch.float64)
    mapped = ClassMapping(((1, 3, 5), (4,)))(logits)
    exponentials = logits.exp()
    expected = torch.stack([exponentials[:, 1] + exponentials[:, 3] + exponentials[:, 5], exponentials[:, 4]], 1).log()
    torch.testing.assert_close(mapped, expected)
    assert torch.equal(ClassMapping(((4,), (0,)))(logits), logits[:, [4, 0]])


def test_half_precision_is_widened_before_it_is_summed() -> None:
    logits = torch.randn(3, 4).bfloat16()
    mapped = ClassMapping(((0, 1), (2,)))(logits)
    assert mapped.dtype == torch.float32
    torch.testing.assert_close(mapped[:, 0], logits.float()[:, :2].logsumexp(1))


def test_mapped_logits_can_be_differentiated() -> None:
    logits = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ClassMapping(((0, 1, 4), (2,))), (logits,))


def test_rows_of_the_head_give_the_mapped_logits() -> None:
    weight, embedding = torch.randn(6, 4), torch.randn(3, 4)
    mapping = ClassMapping(((5,), (2,)))
    torch.testing.assert_close(embedding @ mapping.head_weight(weight).T, mapping(embedding @ weight.T))
    with pytest.raises(InputError, match="no single row"):
        ClassMapping(((5, 1), (2,))).head_weight(weight)


def test_names_indices_and_lists_in_yaml_and_json(tmp_path) -> None:
    text = "# comment\nbird: 2\npet: [dog, 0, beagle]\n"
    assert read(tmp_path, text).groups == ((1, 0, 3), (2,))
    as_json = json.dumps({"bird": 2, "pet": ["dog", 0, "beagle"]}, indent="\t")
    assert read(tmp_path, as_json, name="map.json").groups == ((1, 0, 3), (2,))


def test_names_are_read_as_they_are_written(tmp_path) -> None:
    classes = ("007", "no", "1e3")
    mapping = read(tmp_path, "007: '7'\nno: dog\n1e3: 0\n", classes)
    assert mapping.groups == ((5,), (1,), (0,))
    assert read(tmp_path, "pet: no\nbird: 0\n", teacher=("a", "no", "b", "c", "d", "e")).groups == ((1,), (0,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pet: dog\n", "maps no class of the teacher to 'bird'"),
        ("pet: dog\nbird: 0\nbrid: 2\n", "maps 'brid', which is no class of the data. Did you mean 'bird'"),
        ("pet: dgo\nbird: 0\n", "class 'pet': the teacher has no class 'dgo'. Did you mean 'dog'"),
        ("pet: dog\nbird: crane\n", r"'crane' names the teacher's classes \[2, 4\]: give one of these indices"),
        ("pet: dog\nbird: 6\n", "the teacher has classes 0 to 5, got 6"),
        ("pet: dog\nbird: -1\n", "the teacher has classes 0 to 5, got -1"),
        ("pet: dog\nbird: 1\n", "takes the teacher's class 1 twice, for 'pet' and 'bird'"),
        ("pet: [dog, dog]\nbird: 0\n", "twice, for 'pet' and 'pet'"),
        ("pet: {a: 1}\nbird: 0\n", "expected a name or an index"),
        ("pet:\nbird: 0\n", "expected a name or an index"),
        ("pet: []\nbird: 0\n", "maps 'pet' to nothing"),
        ("pet: dog\npet: 0\nbird: 2\n", "maps 'pet' twice"),
        ("[1, 2]\n", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("a: [\n", "neither YAML nor JSON"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_one_line(tmp_path, text, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "map.yaml" in str(caught.value)


def test_names_need_a_teacher_that_knows_its_own(tmp_path) -> None:
    with pytest.raises(
        InputError, match="names of the teacher's classes are not known, got 'dog': give indices 0 to 5"
    ):
        read(tmp_path, "pet: dog\nbird: 0\n", teacher=None)
    assert read(tmp_path, "pet: 1\nbird: 0\n", teacher=None).groups == ((1,), (0,))


def test_files_that_cannot_be_read(tmp_path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(InputError, match="there is no class mapping"):
            read_class_mapping(path, ("a",), None, 3)
    for text in ('{"pet": true, "bird": 0}', '["pet"]', "{"):
        with pytest.raises(InputError, match=r"map\.json"):
            read(tmp_path, text, name="map.json")


def test_equal_names_make_a_mapping_of_their_own() -> None:
    assert match_names(("dog", "cat"), TEACHER) == ClassMapping(((1,), (0,)))
    assert match_names(("dog", "cow"), TEACHER) is None
    assert match_names(("dog", "crane"), TEACHER) is None  # which of the two?
    assert match_names(("dog",), None) is None


@pytest.mark.parametrize(
    "given", [("n01440764", "n02123045"), ("n01440764 tench", "n02123045 tabby"), ("tench", "tabby")]
)
@pytest.mark.parametrize(
    "known",
    [
        ("n02123045", "n01440764"),
        ("tabby", "tench"),
        ("tabby, tabby cat", "tench, Tinca tinca"),
        ("n02123045_tabby", "n01440764_tench"),
    ],
)
def test_classes_of_imagenet_are_the_same_by_any_of_their_names(tmp_path, given, known) -> None:
    assert match_names(given, known) == ClassMapping(((1,), (0,)))
    (tmp_path / "map.yaml").write_text("pet: {}\nfish: {}\n".format(*reversed(given)))
    assert read_class_mapping(tmp_path / "map.yaml", ("fish", "pet"), known, 2).groups == ((1,), (0,))


def test_a_word_of_two_classes_of_imagenet_is_none_of_them(tmp_path) -> None:
    assert match_names(("crane", "tench"), ("n02012849", "n01440764")) is None
    assert match_names(("tench", "n01440764"), ("n02012849", "n01440764")) is None
    assert match_names(("tench", "my cat"), ("n01440764", "n02123045")) is None
