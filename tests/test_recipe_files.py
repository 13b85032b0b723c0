"""Recipe files: YAML that is what it looks like, and variants that say only what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from course_lib.experiments import Recipe, RecipeError, recipes

TEXT = """title: Case
dataset: fsdd
protocols: {official: 1}
clip: {seconds: 0.5}
model:
  name: LogMelCNN
  front_end:
    - AddNoise: {lowest_snr: 12, highest_snr: 50}
    - LogMel: {sample_rate: 8000, n_mels: 40, n_fft: 256, hop_length: 200}
    - Standardise: {}
training: {epochs: 3, batch_size: 64, averaging: 0.9}
"""

NO_NUMBERS = "010 0x10 1_000 1:30 .inf -.inf .nan 1e999 yes true 1,5 ٣".split()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    return tmp_path / "own" / "case.yaml"


def refusal(file: Path, text: str | bytes) -> str:
    """The sentence with which a file is refused; it names the file."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RecipeError) as caught:
        recipes.load(file)
    assert str(caught.value).startswith("case.yaml")
    return str(caught.value)


def changed(before: str, after: str) -> str:
    assert before in TEXT
    return TEXT.replace(before, after)


def test_the_text_is_a_recipe(file: Path) -> None:
    for encoded in (TEXT.encode(), b"\xef\xbb\xbf" + TEXT.encode(), TEXT.replace("\n", "\r\n").encode()):
        file.write_bytes(encoded)
        recipe = recipes.load(file)
        assert (recipe.name, recipe.title, recipe.training.epochs) == ("own/case", "Case", 3)


@pytest.mark.parametrize(
    "value",
    [*NO_NUMBERS, *"0o10 on off True null ~ 3.0 1e1 '3' \"3\" + . -3 0 {} [3] 3d !!int 2020-01-01".split(), "1" * 5000],
)
def test_what_is_no_plain_whole_number_is_refused_as_one(value: str, file: Path) -> None:
    assert "case.yaml" in refusal(file, changed("epochs: 3", f"epochs: {value}"))


@pytest.mark.parametrize(
    "value",
    [*NO_NUMBERS, *"-1e999 '0.5' 0.5.5 1e 1e5000".split(), "0." + "1" * 5000],
)
@pytest.mark.parametrize(
    ("before", "key"), [("seconds: 0.5", "seconds"), ("averaging: 0.9", "averaging"), ("lowest_snr: 12", "lowest_snr")]
)
def test_what_is_no_plain_number_is_refused_as_one(value: str, before: str, key: str, file: Path) -> None:
    assert key in refusal(file, changed(before, f"{key}: {value}"))


@pytest.mark.parametrize("value", ["0.5", "5e-1", "+.5", "5E-1", "0.50"])
def test_decimal_numbers_are_numbers(value: str, file: Path) -> None:
    file.write_text(changed("seconds: 0.5", f"seconds: {value}"))
    assert recipes.load(file).clip.seconds == 0.5


@pytest.mark.parametrize("title", ["2020-99-99", "yes", "010", "0x_", "1:30", "1" * 5000])
def test_what_other_readers_of_yaml_take_for_something_else_is_text(title: str, file: Path) -> None:
    file.write_text(changed("Case", title))
    assert recipes.load(file).title == title


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TEXT + "title: Another\n", "the key title stands twice"),
        (changed("epochs: 3", "epochs: 3, epochs: 4"), "the key epochs stands twice"),
        (changed("lowest_snr: 12", "lowest_snr: 12, lowest_snr: 13"), "the key lowest_snr stands twice"),
        (TEXT + "1: 1\n", "1 is not a key"),
        (TEXT + "~: 1\n", "None is not a key"),
        (TEXT + "[a]: 1\n", "is not a key"),
        (TEXT + "on: 1\n", "on: unknown key"),
        (TEXT + "<<: {title: Another}\n", "<<: unknown key"),
        (changed("Case", "&anchor Case"), "anchors and aliases are not used here"),
        (changed("Case", "*anchor"), "anchors and aliases are not used here"),
        (changed("Case", "!!str Case"), "tags (!!) are not used here"),
        (changed("clip: {", "clip: !own {"), "tags (!!) are not used here"),
        (changed("Case", "!!python/object/apply:os.system [id]"), "tags (!!) are not used here"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ("a: " + "{a: " * 3000, "nested too deeply"),
        ("\n".join(" " * depth + "a:" for depth in range(100)), "nested too deeply"),
        (TEXT + "#" * 2_000_000, "more than 1 MB"),
        (TEXT + "---\n" + TEXT, "not a YAML file"),
        ("", "expected keys and values, got NoneType"),
        ("- 1\n- 2\n", "expected keys and values, got list"),
        ("a text", "expected keys and values, got str"),
        ("a: [", "not a YAML file"),
        (b"\x00", "not a YAML file"),
        (b"\xff\xfe\xfa", "not a YAML file"),
        ("title: \ud800", "not a YAML file"),
    ],
    ids=lambda value: str(value)[-25:] if isinstance(value, str) else "bytes",
)
def test_what_is_no_form_is_refused_in_one_sentence(text: str | bytes, reason: str, file: Path) -> None:
    assert reason in refusal(file, text)


def test_aliases_that_unfold_to_millions_are_refused_at_once(file: Path) -> None:
    nest = "&n0 [1,1,1,1,1,1,1,1,1,1]"
    for level in range(1, 10):
        nest = f"&n{level} [{nest}" + f",*n{level - 1}" * 9 + "]"
    assert "anchors" in refusal(file, changed("lowest_snr: 12", f"lowest_snr: {nest}"))


@pytest.mark.parametrize(
    "name",
    [
        *("../../x", "/x", "a/../b", "a//b", ".", "..", ".x", "a/.x", "a\\b", "a\nb", "a\0b", "a\u202eb"),
        *("", "a" * 101, "/".join("a" * 6), " a", "a/", "\ud800"),
    ],
)
def test_a_name_that_leaves_the_folder_or_is_no_path_is_refused(name: str, file: Path) -> None:
    assert "name: " in refusal(file, TEXT + f"name: {json.dumps(name)}\n")


@pytest.mark.parametrize(
    "path", ["a" * 5000 + ".yaml", "a\0b.yaml", "~nobody-of-that-name/x.yaml", "no/such.yaml", "\udcff.yaml"]
)
def test_a_path_that_cannot_be_is_a_recipe_error(path: str) -> None:
    with pytest.raises(RecipeError, match="recipe"):
        recipes.load(path)


def test_a_path_may_be_text_and_begin_with_the_home(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(TEXT)
    monkeypatch.setenv("HOME", str(file.parent.parent))
    assert recipes.load("~/own/case.yaml") == recipes.load(str(file)) == recipes.load(file)
    assert recipes.names("~/own") == recipes.names(file.parent) == [str(file)]
    monkeypatch.chdir(file.parent)
    assert recipes.load("case.yaml") == recipes.load(file)


# Variants


def variant(file: Path, text: str, base: str = TEXT) -> Recipe:
    """The recipe of a file that extends `base.yaml` beside it."""
    file.with_name("base.yaml").write_text(base)
    file.write_text(f"extends: base.yaml\n{text}")
    return recipes.load(file)


def test_a_variant_is_its_title_and_what_differs(file: Path) -> None:
    recipe = variant(file, "title: Variant\ntraining: {epochs: 5}\n")
    base = recipes.load(file.with_name("base.yaml"))
    assert (recipe.name, base.name) == ("own/case", "own/base")
    expected = base.model_copy(
        update={"name": recipe.name, "title": "Variant", "training": base.training.but(epochs=5)}
    )
    assert recipe == expected
    assert recipe.hash != base.hash == variant(file, "title: The same\n").hash


def test_single_layers_are_changed_by_name_and_lists_are_replaced(file: Path) -> None:
    recipe = variant(file, "model: {front_end: {LogMel: {hop_length: 100, f_min: 60}}}\n")
    assert recipe.model.front_end == [
        {"AddNoise": {"lowest_snr": 12, "highest_snr": 50}},
        {"LogMel": {"sample_rate": 8000, "n_mels": 40, "n_fft": 256, "hop_length": 100, "f_min": 60}},
        {"Standardise": {}},
    ]
    replaced = variant(file, "model: {front_end: [LogMel: {sample_rate: 8000}]}\n")
    assert replaced.model.front_end == [{"LogMel": {"sample_rate": 8000}}] and replaced.model.name == "LogMelCNN"


def test_protocols_are_replaced_and_null_takes_a_key_away(file: Path) -> None:
    base = TEXT + "validation: {fraction: 0.2}\n"
    recipe = variant(file, "protocols: {random: 2}\nvalidation: null\n", base)
    assert recipe.protocols == {"random": 2} and recipe.validation is None
    assert variant(file, "validation: {by: recording}\n", base).validation.model_dump() == {
        "fraction": 0.2,
        "by": "recording",
    }
    inner = variant(file, "training: {averaging: null}\nmodel: {front_end: {AddNoise: {highest_snr: 20}}}\n", base)
    assert inner.training.averaging == 0 and inner.training.epochs == 3
    assert inner.model.front_end[0] == {"AddNoise": {"lowest_snr": 12, "highest_snr": 20}}
    without = variant(file, "model: {front_end: {AddNoise: null}}\n", base)
    assert without.model.front_end == inner.model.front_end[1:]


def test_variants_of_variants_and_of_the_course(file: Path) -> None:
    file.with_name("first.yaml").write_text("extends: second.yaml\ntraining: {epochs: 9}\n")
    file.with_name("second.yaml").write_text(TEXT)
    file.write_text("extends: first.yaml\ntraining: {batch_size: 9}\n")
    settings = recipes.load(file).training
    assert (settings.epochs, settings.batch_size, settings.averaging) == (9, 9, 0.9)
    file.write_text("title: Mine\nextends: fsdd/spectrogram_cnn\n")
    recipe, shipped = recipes.load(file), recipes.load("fsdd/spectrogram_cnn")
    assert recipe.name == "own/case" and recipe.hash == shipped.hash and recipe.title == "Mine"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("extends: case.yaml\n", "extends itself"),
        ("extends: circle.yaml\n", "extends itself, by way of"),
        ("extends: nonesuch\n", "extends nonesuch: there is no recipe"),
        ("extends: ../nonesuch.yaml\n", "there is no recipe"),
        ("extends: [a]\n", "extends names one recipe"),
        ("extends: 3\n", "extends names one recipe"),
        ('extends: "a\\0.yaml"\n', "extends a"),
        ("extends: damaged.yaml\n", "extends damaged.yaml: damaged.yaml is not a YAML file"),
        ("extends: base.yaml\nmodel: {front_end: {MFCC: {}}}\n", "MFCC is not one layer of the front end AddNoise"),
        ("extends: twice.yaml\nmodel: {front_end: {LogMel: {}}}\n", "LogMel is not one layer"),
        ("extends: base.yaml\ntraining: {epoch: 3}\n", "training.epoch: unknown key"),
        ("extends: base.yaml\nclip: 3\n", "clip"),
    ],
)
def test_a_variant_of_nothing_is_refused(text: str, reason: str, file: Path) -> None:
    file.with_name("base.yaml").write_text(TEXT)
    file.with_name("circle.yaml").write_text("extends: case.yaml\n")
    file.with_name("damaged.yaml").write_text("a: [")
    file.with_name("twice.yaml").write_text(TEXT.replace("    - Standardise: {}", "    - LogMel: {sample_rate: 8000}"))
    assert reason in refusal(file, text)


def test_two_recipes_of_the_course_cannot_have_one_name(tmp_path: Path) -> None:
    own = tmp_path / "fsdd" / "crnn.yaml"
    own.parent.mkdir()
    own.write_text(TEXT)
    with pytest.raises(RecipeError, match="the course has a recipe fsdd/crnn; give yours another name"):
        recipes.load(own)
    own.write_text(TEXT + "name: mine/crnn\n")
    assert recipes.load(own).name == "mine/crnn"
    assert recipes.load(recipes.FOLDER / "fsdd" / "crnn.yaml") == recipes.load("fsdd/crnn")
