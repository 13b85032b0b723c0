"""Exercises: solutions are right, every mistake gets its own sentence, stubs are not done yet, nonsense is survived."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import pkgutil
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from course_lib import environment, exercises
from course_lib.exercises import Exercise, ExerciseError, Mistake, Prediction, Wrong, agrees, numbers

NOTEBOOKS = sorted((environment.CHECKOUT / "notebooks").glob("[0-9]*.ipynb"))
LESSONS = sorted(each.name for each in pkgutil.iter_modules(exercises.__path__) if each.name.startswith("lesson_"))


def _all(kind: type) -> dict[str, Any]:
    """Every exercise of every lesson, by its full name."""
    modules = {name: importlib.import_module(f"course_lib.exercises.{name}") for name in LESSONS}
    return {f"{m}.{n}": v for m, module in modules.items() for n, v in vars(module).items() if isinstance(v, kind)}


EXERCISES, PREDICTIONS = _all(Exercise), _all(Prediction)
MISTAKES = {f"{name}-{i}": (e, m) for name, e in EXERCISES.items() for i, m in enumerate(e.mistakes, start=1)}


# 1. Every solution is right


@pytest.mark.parametrize("name", EXERCISES)
def test_solution_is_right(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    EXERCISES[name].check(EXERCISES[name].answer)
    assert capsys.readouterr().out == f"{EXERCISES[name].title}: right. {EXERCISES[name].why}\n"


# 2. Every mistake gets its own sentence


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gets_its_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    exercise, mistake = MISTAKES[name]
    exercise.check(mistake.answer)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == f"{exercise.title}: wrong."
    assert last.strip() == mistake.sentence


@pytest.mark.parametrize("name", EXERCISES)
def test_no_two_mistakes_share_a_sentence(name: str) -> None:
    sentences = [mistake.sentence for mistake in EXERCISES[name].mistakes]
    assert len(sentences) == len(set(sentences)) >= 3
    assert len(EXERCISES[name].hints) >= 2


# 3. and 4. The notebooks: stubs are not done yet; with COURSE_EXERCISES=solved their solutions pass


def _cells_with_a_check(path: Path) -> list[tuple[str, str]]:
    """(exercise, source) of every cell of a notebook that checks an answer; the answer is in it or in a cell before."""
    found, sources = [], []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        sources.append(cell.source)
        for name in re.findall(r"exercises\.(lesson_\d+\.[A-Z_0-9]+)\.check\(", cell.source):
            found.append((name, _stub_and_check(sources)))
    return found


def _stub_and_check(sources: list[str]) -> str:
    """The last cell's check, with the definition of the answer that it checks."""
    calls = [
        node
        for node in ast.walk(ast.parse(sources[-1]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "check"
    ]
    names = {node.id for call in calls for each in call.args for node in ast.walk(each) if isinstance(node, ast.Name)}
    lines = {}
    for source in sources:
        for statement in ast.parse(source).body:
            targets = getattr(statement, "targets", [statement])
            for target in targets:
                if (getattr(target, "id", None) or getattr(target, "name", None)) in names:
                    lines[ast.unparse(target)] = ast.unparse(statement)
    return "\n".join([*lines.values(), *map(ast.unparse, calls)])


CHECKED = [(path.stem, name, source) for path in NOTEBOOKS for name, source in _cells_with_a_check(path)]


def _run(source: str) -> None:
    future = "from __future__ import annotations\n"
    exec(compile(future + source, "cell", "exec"), {"exercises": exercises, "torch": torch, "np": np})


@pytest.mark.parametrize(("notebook", "name", "source"), CHECKED, ids=[name for _, name, _ in CHECKED])
def test_stub_in_a_notebook_is_not_done_yet(
    notebook: str, name: str, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(source)
    assert f"{EXERCISES[name].title}: not done yet." in capsys.readouterr().out


@pytest.mark.parametrize(("notebook", "name", "source"), CHECKED, ids=[name for _, name, _ in CHECKED])
def test_solved_notebook_puts_the_solution_in(
    notebook: str, name: str, source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COURSE_EXERCISES", "solved")
    _run(source)
    assert f"{EXERCISES[name].title}: right." in capsys.readouterr().out


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_exercise_stands_in_the_notebook_of_its_lesson(lesson: str) -> None:
    number = int(lesson.removeprefix("lesson_"))
    text = " ".join(path.read_text() for path in NOTEBOOKS if int(path.stem[:2]) == number)
    names = [name for name in EXERCISES if name.startswith(f"{lesson}.")]
    assert 3 <= len(names) <= 6
    assert [name for name in names if f"exercises.{name}.check(" not in text] == []
    guesses = [name for name in PREDICTIONS if name.startswith(f"{lesson}.")]
    for name in guesses:
        assert 0 < text.find(f"exercises.{name}.guess(...)") < text.find(f"exercises.{name}.compare(")


def test_solved_raises_for_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_EXERCISES", "solved")
    with pytest.raises(ExerciseError, match=r"Double: wrong\.\n.*given"):
        _double().check(lambda x: x * x)
    monkeypatch.setenv("COURSE_EXERCISES", "both")
    with pytest.raises(environment.EnvironmentVariableError, match="open or solved"):
        _double().check(_twice)


# 5. A check survives nonsense


class _Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("not even this")


def _endless() -> Any:
    while True:
        yield 1


def _recursive(*_: Any) -> Any:
    return _recursive()


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(max_size=5),
    st.binary(max_size=5),
    st.builds(_Unprintable), st.builds(_endless), st.builds(object), st.just(lambda: 1), st.just([[1, 2], [3]]),
    st.just(np.full((3, 4), np.nan)), st.just(torch.zeros(2, 0)), st.just(np.array(["a"])),
    st.just(torch.tensor(1 + 2j)),
    st.just(np.zeros(20_000_000, np.int8)), st.just(10**400), st.just(np.array([None, {}])),
    st.lists(st.floats() | st.text(max_size=2) | st.none(), max_size=3),
    st.dictionaries(st.integers() | st.text(max_size=2), st.floats() | st.none() | st.text(max_size=2), max_size=3),
)  # fmt: skip
EXCEPTIONS = st.sampled_from(
    [ValueError("no"), SystemExit(1), RecursionError(), GeneratorExit(), KeyError(_Unprintable())]
)


def _function(value: Any, error: BaseException | None) -> Any:
    def answer(*arguments: Any) -> Any:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        for each in arguments:
            if isinstance(each, np.ndarray | torch.Tensor):
                each[...] = each.flatten()[0]
        if error is not None:
            raise error
        return value

    return answer


ANSWERS = (
    VALUES | st.builds(_function, VALUES, st.none() | EXCEPTIONS) | st.sampled_from([_recursive, int, print, dict])
)


@pytest.mark.parametrize("name", EXERCISES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(answer=ANSWERS)
def test_check_survives_nonsense(name: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    EXERCISES[name].check(answer)
    out = capsys.readouterr().out
    assert ": wrong." in out or ": not done yet." in out
    assert len(out) < 3_000  # `print` as an answer prints the tensors that it is given
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert before == after


@pytest.mark.parametrize("name", PREDICTIONS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES)
def test_guess_survives_nonsense(name: str, value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    PREDICTIONS[name].guess(value)
    PREDICTIONS[name].compare(50.0)
    assert PREDICTIONS[name].title in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="this system cannot interrupt an answer")
def test_an_answer_without_end_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    exercise = _double()
    exercise.seconds = 0.05

    def endless(x: float) -> float:
        while True:
            with contextlib.suppress(Exception):
                x += 1

    exercise.check(endless)
    assert "no result within 0.05 s" in capsys.readouterr().out


# The framework itself, on an exercise of its own


def _twice(x: float) -> float:
    return 2 * x


def _double() -> Exercise:
    inputs = lambda random: ((float(x),) for x in random.normal(size=5))  # noqa: E731
    mistakes = [Mistake(lambda x: x * x, "This is the square.")]
    return Exercise("Double", agrees(_twice, inputs), _twice, ["Add.", "x + x"], mistakes, "Two are two.")


@pytest.mark.parametrize("stub", [None, ..., [], {}, {1: None}, lambda x: None, lambda x: ..., NotImplemented])
def test_stubs_are_kept_apart_from_wrong_answers(stub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _double().check(stub)
    assert "not done yet" in capsys.readouterr().out


def test_none_for_some_inputs_is_wrong_not_undone(capsys: pytest.CaptureFixture[str]) -> None:
    calls = []
    _double().check(lambda x: calls.append(x) or (2 * x if len(calls) < 3 else None))
    assert "returned None" in capsys.readouterr().out


def test_wrong_answer_is_shown_beside_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    _double().check(lambda x: 3 * x)
    out = capsys.readouterr().out
    given_value, expected = (float(re.search(rf"{word}.* (\S+)\n", out)[1]) for word in ("given", "expected"))
    assert given_value / expected == pytest.approx(1.5, rel=1e-3)
    assert "none of the usual mistakes" in out


def test_later_cells_go_on_with_the_learners_answer_once_it_is_right() -> None:
    exercise = _double()
    mine = lambda x: x + x  # noqa: E731
    exercise.check(lambda x: x)
    assert exercise.answer is _twice
    exercise.check(mine)
    assert exercise.answer is mine


def test_hints_come_one_after_the_other_and_the_solution_is_source(capsys: pytest.CaptureFixture[str]) -> None:
    exercise = _double()
    for _ in range(3):
        exercise.hint()
    exercise.solution()
    shown = capsys.readouterr().out
    assert shown.index("Add.") < shown.index("x + x") < shown.index("solution()") < shown.index("return 2 * x")


def test_every_solution_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for exercise in EXERCISES.values():
        exercise.solution()
        assert capsys.readouterr().out.strip()


def test_numbers_of_every_kind_are_compared_alike() -> None:
    for value in (
        [1, 2],
        (1.0, 2.0),
        np.array([1, 2]),
        torch.tensor([1.0, 2.0], requires_grad=True),
        [torch.tensor(1), 2],
    ):
        assert np.array_equal(numbers(value), [1, 2])
    with pytest.raises(Wrong):
        numbers([1, 2], shape=(3,))


def test_guess_is_shown_beside_the_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    prediction = Prediction("Height", "m", close=1, good="Good.", too_high="Lower.", too_low="Higher.")
    for guess, sentence in ((10.5, "Good."), (20, "Lower."), ("3", "Higher."), ("many", "you made no guess")):
        prediction.guess(guess)
        prediction.compare(10.0)
        assert sentence in capsys.readouterr().out


def test_lessons_are_imported_on_first_use() -> None:
    code = "import sys; from course_lib import exercises; assert 'torch' not in sys.modules; "
    code += "exercises.lesson_1.ALIAS.hint()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0 and done.stdout.startswith("Hint 1 of"), done.stderr
    with pytest.raises(AttributeError):
        exercises.lesson_x  # noqa: B018
