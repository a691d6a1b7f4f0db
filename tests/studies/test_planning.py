"""From a study's file to its cells: what is refused, what is run, what is chosen, and what a cell is known by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from angularkd.config import DEFAULT_LOSSES, Protocol
from angularkd.errors import InputError
from angularkd.studies.cells import Cell
from angularkd.studies.planning import Planner
from angularkd.studies.schedule import Schedule
from angularkd.studies.settings import chosen, trials_of

SMALL: dict[str, Any] = {
    "data": "digits",
    "pairs": [{"teacher": {"model": "cifar/resnet20", "epochs": 2}, "student": "cifar/resnet8"}],
    "objectives": {"AMD": {"loss": {"ce": 1, "amd": 5}}},
    "seeds": 2,
    "recipe": {"epochs": 1, "image_size": 8, "augment": []},
}


def planner(**changes: Any) -> Planner:
    return Planner(Protocol.read({**SMALL, **changes}, "study.yaml"))


def cells(done: dict | None = None, **changes: Any) -> list[Cell]:
    return list(planner(**changes).plan(done or {}).cells)


def finished(cell: Cell, accuracy: float = 0.5) -> dict:
    return {"cell": cell.id, **cell.place, "status": "finished", "validation": {"accuracy": accuracy}, "seconds": 1.0}


def test_every_study_has_its_baselines_and_one_teacher_for_all() -> None:
    found = cells()
    assert [(cell.kind, cell.objective, cell.seed) for cell in found] == [
        ("teacher", "teacher", 0),
        *(("result", name, seed) for seed in range(2) for name in ("scratch", "KD", "AMD")),
    ], "seed by seed, so that a study that is stopped has some of everything"
    teacher = found[0].task
    assert all(cell.task.teacher == teacher for cell in found if cell.objective in ("KD", "AMD"))
    scratch = next(cell for cell in found if cell.objective == "scratch").task
    assert scratch.action == "train" and scratch.teacher is None and scratch.config().model == "cifar/resnet8"
    assert teacher.config().epochs == 2 and scratch.config().epochs == 1
    assert {cell.objective for cell in cells(baselines=False)} == {"teacher", "AMD"}


def test_more_seeds_add_cells_and_change_none() -> None:
    two, eight = {cell.id for cell in cells()}, {cell.id for cell in cells(seeds=8)}
    assert two < eight and len(eight - two) == 6 * 3


def test_a_cell_is_known_by_what_its_numbers_depend_on(tmp_path) -> None:
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes(b"one")
    pair = {"name": "p", "teacher": "cifar/resnet20", "teacher_weights": str(weights), "student": "cifar/resnet8"}
    same = {cell.id for cell in cells(pairs=[pair])}
    assert same == {cell.id for cell in cells(pairs=[pair], recipe={**SMALL["recipe"], "device": "cpu", "workers": 0})}
    for recipe in ({"epochs": 3}, {"lr": 0.2}):
        assert not same & {cell.id for cell in cells(pairs=[pair], recipe={**SMALL["recipe"], **recipe})}
    assert not same & {cell.id for cell in cells(pairs=[pair], threads=2)}
    weights.write_bytes(b"another")
    changed = {cell.id for cell in cells(pairs=[pair])}
    assert len(same & changed) == 2, "the students from scratch alone"


def test_what_is_varied_reaches_students_and_where_it_says_what_is_held_out_the_teacher() -> None:
    found = cells(vary={"lr": [0.1, 0.2], "val_fraction": [0.1, 0.2]})
    assert [cell.vary for cell in found if cell.kind == "teacher"] == [{"val_fraction": 0.1}, {"val_fraction": 0.2}]
    amd = [cell for cell in found if cell.objective == "AMD" and cell.seed == 0]
    assert {(cell.task.config().lr, cell.task.config().val_fraction) for cell in amd} == {
        (rate, share) for rate in (0.1, 0.2) for share in (0.1, 0.2)
    }
    for cell in amd:
        assert cell.task.teacher is not None
        assert cell.task.teacher.config().val_fraction == cell.task.config().val_fraction


def test_a_control_has_a_teacher_that_knows_nothing_and_the_objective_of_the_other() -> None:
    loss = {"ce": 1, "amd": 5}
    found = cells(objectives={name: {"loss": loss, "control": name} for name in ("untrained", "shuffled")})
    by_name = {cell.objective: cell.task for cell in found if cell.seed == 0}
    for name in ("untrained", "shuffled"):
        assert by_name[name].teacher is not None and by_name[name].teacher.action == name
        assert by_name[name].config().losses == loss and by_name[name].config().insist
        assert by_name[name].teacher.config().model == "cifar/resnet20"
    labels = {cell.objective for cell in found if cell.kind == "teacher"}
    assert labels == {"teacher", "teacher, untrained", "teacher, shuffled labels"}


def test_the_default_objective_is_that_of_distill_and_a_controls_has_its_losses_whatever_the_teacher_says() -> None:
    found = cells(objectives={"AMD": {"loss": "default"}, "control": {"loss": "default", "control": "shuffled"}})
    given = {cell.objective: cell.task.options.get("loss") for cell in found}
    assert given["AMD"] is None and given["control"].keys() == DEFAULT_LOSSES.keys()


GRID = {
    "AMD": {"loss": {"ce": 1, "amd": 5}, "grid": {"amd": [1, 2, 4]}},
    "KD": {"loss": {"ce": 0.1, "kd": {"weight": 0.9, "T": 4}}, "grid": {"kd.T": [2, 4], "kd": [0.5, 0.9]}},
}


def test_every_grid_gets_as_many_trials_which_see_no_test_image() -> None:
    plan = planner(objectives=GRID, selection={"seeds": [7, 8]}).plan({})
    trials = [cell for cell in plan.cells if cell.kind == "selection"]
    for name in GRID:
        own = [cell for cell in trials if cell.objective == name]
        assert len(own) == 3 * 2 and {cell.seed for cell in own} == {7, 8}
    assert not any(cell.task.test for cell in trials)
    assert all(cell.task.test for cell in plan.cells if cell.kind == "result")
    assert plan.undecided == 2 * 2, "their results follow from the trials"
    assert {cell.objective for cell in plan.cells if cell.kind == "result"} == {"scratch"}


def test_the_best_on_validation_images_is_run_with_fresh_seeds() -> None:
    work = planner(objectives=GRID)
    trials = [cell for cell in work.plan({}).cells if cell.kind == "selection"]
    done = {cell.id: finished(cell, 0.9 if cell.settings == {"amd": 2} else 0.5) for cell in trials}
    found = work.plan(done)
    assert found.undecided == 0
    amd = [cell for cell in found.cells if cell.kind == "result" and cell.objective == "AMD"]
    assert [cell.settings for cell in amd] == [{"amd": 2}] * 2 and {cell.seed for cell in amd} == {0, 1}
    assert all(
        cell.task.config().losses["amd"] == {"weight": 2} or cell.task.config().losses["amd"] == 2 for cell in amd
    )
    kd = next(cell for cell in found.cells if cell.kind == "result" and cell.objective == "KD")
    assert set(kd.settings) == {"kd.T", "kd"} and kd.task.config().losses["kd"]["temperature"] == kd.settings["kd.T"]


def test_a_trial_that_failed_is_not_chosen_and_where_all_fail_nothing_is_run() -> None:
    assert chosen([{"a": 1}, {"a": 2}, {"a": 3}], [[None, 0.9], [0.4, 0.6], [0.5, 0.5]]) == {"a": 2}
    assert chosen([{"a": 1}], [[None]]) is None
    work = planner(objectives=GRID)
    trials = [cell for cell in work.plan({}).cells if cell.kind == "selection"]
    done = {cell.id: {**finished(cell), "status": "failed"} for cell in trials}
    assert work.plan(done).undecided == 0
    assert {cell.objective for cell in work.plan(done).cells if cell.kind == "result"} == {"scratch"}


def test_trials_are_drawn_alike_in_every_process() -> None:
    grid = {"amd": list(range(40))}
    assert trials_of("AMD", grid, 5) == trials_of("AMD", grid, 5) != trials_of("other", grid, 5)
    assert len({str(one) for one in trials_of("AMD", grid, 5)}) == 5 and len(trials_of("AMD", grid, 40)) == 40


def test_a_cache_is_used_where_it_can_answer() -> None:
    objectives = {"FitNets": {"loss": {"ce": 1, "fitnet": 100}}, "mixed": {"loss": {"ce": 1, "amd": 5}, "mixup": 0.2}}
    cached = {cell.objective: cell.task.cached for cell in cells(objectives={**SMALL["objectives"], **objectives})}
    assert cached == {"teacher": False, "scratch": False, "KD": True, "AMD": True, "FitNets": False, "mixed": False}
    endless = {**SMALL["recipe"], "augment": ["crop", "flip"]}
    assert not any(cell.task.cached for cell in cells(recipe=endless))
    assert any(cell.task.cached for cell in cells(recipe=endless, cache="always"))
    assert not any(cell.task.cached for cell in cells(cache="never"))


def test_two_runs_that_would_fill_one_cache_wait_for_each_other() -> None:
    schedule = Schedule(planner(), {}, "study")
    teacher, scratch = schedule.begin(), schedule.begin()
    assert teacher.action == scratch.action == "train", "whatever needs no teacher begins meanwhile"
    outcome = {"status": "finished", "validation": {}, "seconds": 1.0}
    schedule.record(teacher, outcome)
    begun = [schedule.begin() for _ in range(4)]
    assert [task.options["seed"] for task in begun if task is not None and task.cached] == [0, 1], "one of each seed"
    first = next(task for task in begun if task is not None and task.cached)
    schedule.record(first, outcome)
    following = schedule.begin()
    assert following is not None and following.cached and following.options["seed"] == 0


def test_what_needs_a_teacher_that_failed_fails_with_it_and_is_not_run() -> None:
    schedule = Schedule(planner(), {}, "study")
    lines = schedule.record(schedule.begin(), {"status": "failed", "error": "no memory", "seconds": None})
    assert [line["objective"] for line in lines] == ["teacher", "KD", "AMD", "KD", "AMD"]
    assert lines[1]["error"] == "its teacher failed: no memory"
    assert [schedule.begin().action, schedule.begin().action, schedule.begin()] == ["train", "train", None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objektives": {}}, "unknown option 'objektives'. Did you mean 'objectives'"),
        ({"pairs": [{"teacher": "a", "studnt": "b"}]}, "pair 1: unknown option 'studnt'. Did you mean 'student'"),
        (
            {"pairs": [{"teacher": {"model": "cifar/resnet8", "epoch": 1}, "student": "b"}]},
            "the teacher of pair 1: unknown key 'epoch'",
        ),
        ({"pairs": [{"teacher": {"epochs": 1}, "student": "b"}]}, "has no 'model'"),
        ({"pairs": [SMALL["pairs"][0]] * 2}, "two pairs are called"),
        ({"pairs": []}, "study.yaml names no pairs"),
        ({"pairs": ["cifar/resnet8"]}, "'pairs'"),
        ({"objectives": {"AMD": {"los": {}}}}, "objective 'AMD': unknown key 'los'. Did you mean 'loss'"),
        ({"objectives": {"AMD": None}}, "objective"),
        ({"objectives": {"AMD": {"loss": {"amt": 1}}}}, "objective 'AMD' of pair"),
        (
            {"objectives": {"AMD": {"loss": {"ce": 1, "amd": 5}, "seed": 3}}},
            "the study gives each run its 'seed' itself",
        ),
        ({"objectives": {"AMD": {"loss": {"ce": 1, "amd": 5}, "epochs": "many"}}}, "'epochs'"),
        ({"objectives": {"AMD": {"loss": "none", "control": "untrained"}}}, "control teacher and no loss"),
        ({"objectives": {"AMD": {"loss": {"ce": 1}, "grid": {"amd": [1]}}}}, "its grid names 'amd'"),
        ({"objectives": {"AMD": {"loss": {"ce": 1, "amd": 1}, "grid": {"amd": []}}}}, "names no values of amd"),
        (
            {"objectives": GRID, "selection": {"trials": 4}},
            "selection.trials is 4, and the grid of objective 'AMD' has 3",
        ),
        ({"objectives": GRID, "selection": {"seeds": [1, 9]}}, "the seeds 1 choose settings and judge them too"),
        ({"objectives": GRID, "selection": {"sedes": 1}}, "selection: unknown option 'sedes'"),
        ({"recipe": {"epochs": 1, "label_smoothing": 0.1}}, "recipe: unknown key 'label_smoothing'"),
        ({"recipe": {"epochs": 0}}, "'epochs'"),
        ({"vary": {"lrr": [1]}}, "vary: unknown key 'lrr'. Did you mean 'lr'"),
        ({"vary": {"lr": []}}, "vary.lr names no values"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": [1, 1]}, "different"),
        ({"threads": 0}, "'threads'"),
        ({"data": ""}, "'data'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_before_anything_is_read(changes, message) -> None:
    with pytest.raises(InputError) as error:
        planner(**changes).plan({})
    assert message in str(error.value) and "\n" not in str(error.value) and "`" not in str(error.value)


def test_a_run_that_is_a_teacher_is_known_by_its_weights(tmp_path) -> None:
    pair = {"name": "p", "teacher": str(tmp_path), "student": "cifar/resnet8"}
    ids = []
    for contents in (b"a", b"b"):
        (Path(tmp_path) / "student.safetensors").write_bytes(contents)
        ids.append({cell.id for cell in cells(pairs=[pair])})
    assert len(ids[0] & ids[1]) == 2
