"""Recipes load, build, and refuse what cannot be run with a message that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from course_lib import layers
from course_lib.datasets import ENTRIES
from course_lib.experiments import Ensemble, GroupPrior, Recipe, RecipeError, recipes
from course_lib.models import DomainAdversarial, SpectrogramCNN

FORM = {
    "title": "Toy",
    "dataset": "fsdd",
    "protocols": {"official": 2},
    "clip": {"seconds": 0.1},
    "model": {"name": "SpectrogramCNN", "settings": {"dropout": 0.1}},
    "training": {"epochs": 1},
}
TOGETHER = {"title": "Together", "dataset": "fsdd", "protocols": {"official": 1}}
PRIOR = {"title": "Prior", "dataset": "fsdd", "protocols": {"official": 1}, "baseline": "group_prior"}
FOLDERS = sorted({path.parent.name for path in recipes.FOLDER.glob("*/*.yaml")})
SHIPPED = [name for folder in FOLDERS for name in recipes.names(folder)]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder / "toy.yaml"


def write(path: Path, **changes: Any) -> Path:
    """Write the toy recipe with changed keys; None takes a key away."""
    form = {key: value for key, value in (FORM | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(form, sort_keys=False))
    return path


def front_end(*given: Any) -> dict[str, Any]:
    return {"model": {"name": "SpectrogramCNN", "front_end": list(given)}}


def test_there_are_recipes() -> None:
    assert {"fsdd/spectrogram_cnn", "fsdd_mistakes/logits"} <= set(SHIPPED)
    with pytest.raises(RecipeError, match="no recipes for 'bats'; known: dcase2016, fsdd, fsdd_front_ends"):
        recipes.names("bats")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_recipe_of_the_course_loads_and_builds(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.name == name
    entry = ENTRIES[recipe.dataset]
    if isinstance(recipe, Ensemble):  # its members are shipped and built as recipes of their own
        assert [member.name for member in recipe.recipes] == list(recipe.members)
        assert set(recipe.members) <= set(SHIPPED)
        for protocol, seeds in recipe.protocols.items():
            assert all(member.protocols.get(protocol, 0) >= seeds for member in recipe.recipes)
        return
    if not isinstance(recipe, Recipe):
        return
    model = recipe.build(len(entry.class_counts), 6).eval()
    rate = recipe.preparation.sample_rate if recipe.preparation else entry.sample_rate
    with torch.no_grad():
        logits = model(torch.randn(1, round(recipe.clip.seconds * rate)))
    assert logits.shape == (1, len(entry.class_counts))
    assert logits.isfinite().all()


def test_a_recipe_of_ones_own_is_loaded_by_path(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipes.load(write(toy))
    assert (recipe.name, recipe.title) == ("mine/toy", "Toy")
    assert recipes.load(str(toy)) == recipe
    monkeypatch.chdir(toy.parent)
    assert recipes.load("toy.yaml") == recipe


def test_the_model_of_a_recipe_has_its_settings_and_front_end(toy: Path) -> None:
    given = front_end({"LogSpectrogram": {"n_fft": 64, "hop_length": 32}}, {"Standardise": {}})
    model = recipes.load(write(toy, **given)).model.build(3)
    assert [type(layer).__name__ for layer in model.front_end] == ["LogSpectrogram", "Standardise"]
    assert model.front_end[0].n_fft == 64
    assert model(torch.randn(1, 100)).shape == (1, 3)
    assert recipes.load(write(toy)).model.build(2).classify.dropout.p == 0.1


def test_an_adversarial_recipe_builds_a_second_head_for_the_groups(toy: Path) -> None:
    model = recipes.load(write(toy, adversarial={"weight": 0.5})).build(3, 4)
    assert isinstance(model, DomainAdversarial) and (model.n_domains, model.weight) == (4, 0.5)
    waveforms = torch.randn(2, 800)
    assert model(waveforms).shape == (2, 3) and model.domain_logits(model.embed(waveforms)).shape == (2, 4)
    assert isinstance(recipes.load(write(toy)).build(3, 4), SpectrogramCNN)


def test_models_are_built_with_fresh_weights(toy: Path) -> None:
    recipe, built = recipes.load(write(toy)), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        built.append(recipe.model.build(2).classify.weight)
    assert torch.equal(built[0], built[1]) and not torch.equal(built[0], built[2])


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"no recipe fsdd/nonesuch; known: .*fsdd/spectrogram_cnn"):
        recipes.load("fsdd/nonesuch")


def test_a_folder_of_recipes_is_no_recipe() -> None:
    with pytest.raises(RecipeError, match=r"fsdd is a folder of recipes; .* add --all"):
        recipes.load("fsdd")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nonesuch\.yaml"):
        recipes.load(tmp_path / "nonesuch.yaml")


@pytest.mark.parametrize(
    ("changes", "key", "allowed"),
    [
        ({"colour": "red"}, "colour", "title, dataset, protocols, clip, preparation, model, training"),
        ({"clip": {"seconds": 1, "hop": 1}}, "clip.hop", "seconds, hop_seconds"),
        ({"adversarial": {"weight": 1, "hidden": 5}}, "adversarial.hidden", "weight"),
        ({"training": {"epoch": 3}}, "training.epoch", "epochs, batch_size, optimizer"),
        ({"validation": {"fraction": 0.1, "of": 1}}, "validation.of", "fraction, by"),
        ({"model": {"name": "SpectrogramCNN", "layers": 3}}, "model.layers", "front_end, name, settings"),
    ],
)
def test_an_unknown_key_is_named_with_those_allowed(changes: dict[str, Any], key: str, allowed: str, toy: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.load(write(toy, **changes))
    assert str(caught.value).startswith(f"toy.yaml: {key}: ")
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"title": None}, ["title"]),
        ({"clip": 3}, ["clip"]),
        ({"clip": {"seconds": "long"}}, ["clip.seconds"]),
        ({"clip": {"seconds": 0}}, ["clip.seconds", "greater than 0"]),
        ({"clip": {"seconds": 1, "hop_seconds": -1}}, ["clip.hop_seconds", "greater than 0"]),
        ({"preparation": {"first_s": 4}}, ["fsdd has no preparation"]),
        ({"dataset": "physionet2016", "preparation": {"first": 60}}, ["preparation.first", "not permitted"]),
        ({"dataset": "physionet2016", "preparation": {"high_hz": 600}}, ["preparation", "half of the sample rate"]),
        ({"clip": {"seconds": 1, "starts": "cycles"}}, ["clip.starts is 'cycles'; fsdd "]),
        ({"training": {"epochs": "many"}}, ["training.epochs", "integer"]),
        ({"training": {"epochs": 0}}, ["training.epochs", "1"]),
        ({"training": {"learning_rate": -1}}, ["training.learning_rate"]),
        ({"training": {"optimizer": "lion"}}, ["training.optimizer", "adam", "adamw", "sgd"]),
        ({"validation": {"fraction": 1.5}}, ["validation.fraction", "less than 1"]),
        ({"validation": {"fraction": 0.1, "by": "class"}}, ["validation.by", "recording", "group"]),
        ({"protocols": {}}, ["protocols", "at least 1"]),
        ({"protocols": {"official": 0}}, ["protocol is from 1 to 1000"]),
        ({"protocols": {"official": 10**9}}, ["protocol is from 1 to 1000"]),
        ({"protocols": {"by_heart": 2}}, ["official", "random", "original_paper", "leave_one_speaker_out"]),
        ({"dataset": "nonesuch"}, ["there is no data set or folder 'nonesuch'; known: "]),
        ({"training": {"l1_penalty": -1}}, ["training.l1_penalty", "greater than or equal to 0"]),
        ({"clip": {"seconds": 60.1}}, ["clip.seconds", "less than or equal to 60"]),
        ({"training": {"keep": "best"}}, ["keep", "validation"]),
        ({"training": {"extra_per_epoch": 5}}, ["synthetic"]),
        ({"synthetic": {"speakers": 5}}, ["extra_per_epoch"]),
        ({"training": {"extra_per_epoch": 5}, "synthetic": {"voices": 5}}, ["synthetic", "voices", "speakers"]),
        ({"training": {"extra_per_epoch": 5}, "synthetic": {"progress": 5}}, ["synthetic", "progress", "speakers"]),
        ({"training": {"extra_per_epoch": 5}, "synthetic": {"speakers": 0}}, ["synthetic.speakers", "equal to 1"]),
        ({"model": {"name": "Nonesuch"}}, ["model", "Nonesuch", "SpectrogramCNN"]),
        ({"model": {"name": "SpectrogramCNN", "settings": {"width": 3}}}, ["model", "width", "dropout"]),
        ({"model": {"name": "SpectrogramCNN", "settings": {"n_classes": 3}}}, ["model", "n_classes", "dropout"]),
        (front_end({"Nonesuch": {}}), ["model", "Nonesuch", "LogSpectrogram"]),
        (front_end({"LogSpectrogram": {"fft": 64}}), ["model", "LogSpectrogram takes no fft", "n_fft"]),
        (front_end({"LogMel": {}}), ["model", "LogMel needs sample_rate"]),
        (front_end({"LogSpectrogram": {"n_fft": "long"}}), ["LogSpectrogram: n_fft should be a valid integer", "long"]),
        (front_end({"LogSpectrogram": {"image_size": [64]}}), ["LogSpectrogram: image_size"]),
        ({"model": {"name": "SpectrogramCNN", "settings": {"dropout": "half"}}}, ["dropout should be a valid number"]),
        ({"model": {"name": "DomainAdversarial"}}, ["adversarial: {weight: 1}"]),
        ({"protocols": {"official": 1, "leave_one_device_out": 1}}, ["fsdd has no protocol leave_one_device_out"]),
        (front_end({"LogSpectrogram": {}, "Standardise": {}}), ["model", "LogSpectrogram", "Standardise"]),
        (front_end({}), ["model", "front end"]),
        (front_end("LogSpectrogram"), ["model.front_end.0"]),
        ({"adversarial": {"weight": -1}}, ["adversarial.weight", "greater than or equal to 0"]),
        ({"adversarial": {}}, ["adversarial.weight", "required"]),
        (
            {
                "adversarial": {"weight": 1},
                "synthetic": {"speakers": 2},
                "training": {"epochs": 1, "extra_per_epoch": 5},
            },
            ["adversarial and synthetic do not go together"],
        ),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, Any], parts: list[str], toy: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.load(write(toy, **changes))
    assert all(part in str(caught.value) for part in ["toy.yaml", *parts]), str(caught.value)


def test_every_mistake_is_reported(toy: Path) -> None:
    with pytest.raises(RecipeError, match=r"clip\.seconds.*training\.epochs"):
        recipes.load(write(toy, clip={"seconds": 0}, training={"epochs": 0}))


@pytest.mark.parametrize(
    "model",
    [
        {"name": "SpectrogramCNN", "settings": {"dropout": 7}},
        {"name": "StridedSampleCNN", "settings": {"stride": 0}},
        {"name": "CRNN", "settings": {"channels": []}},
    ],
)
def test_a_model_that_cannot_be_built_is_a_recipe_error(model: dict[str, Any], toy: Path) -> None:
    with pytest.raises(RecipeError, match=f"the model {model['name']} cannot be built"):
        recipes.load(write(toy, model=model)).model.build(2)


CHANGES = [
    {"clip": {"seconds": 0.2}},
    {"clip": {"seconds": 0.1, "hop_seconds": 0.1}},
    {"model": {"name": "SpectrogramCNN", "settings": {"dropout": 0.2}}},
    front_end({"LogSpectrogram": {}}),
    front_end({"LogSpectrogram": {"n_fft": 128}}),
    {"training": {"epochs": 2}},
    {"training": {"epochs": 1, "learning_rate": 0.002}},
    {"training": {"epochs": 1, "l1_penalty": 0.002}},
    {"training": {"epochs": 1, "mixup": 0.2}},
    {"validation": {"fraction": 0.1}},
    {"validation": {"fraction": 0.1, "by": "recording_in_group"}},
    {"training": {"epochs": 1, "extra_per_epoch": 5}, "synthetic": {"speakers": 5}},
    {"adversarial": {"weight": 0.5}},
    {"adversarial": {"weight": 1.0}},
    {"dataset": "physionet2016", "protocols": {"random": 1}},
    {"dataset": "physionet2016", "protocols": {"random": 1}, "clip": {"seconds": 0.1, "starts": "cycles"}},
    {"dataset": "physionet2016", "protocols": {"random": 1}, "preparation": {}},
    {"dataset": "physionet2016", "protocols": {"random": 1}, "preparation": {"first_s": 60}},
]


def test_the_hash_changes_with_all_that_can_change_a_score(toy: Path) -> None:
    hashes = [recipes.load(write(toy, **changes)).hash for changes in [{}, *CHANGES]]
    assert len(set(hashes)) == len(hashes)
    assert all(len(found) == 8 and int(found, 16) >= 0 for found in hashes)


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "Another title"},
        {"protocols": {"leave_one_speaker_out": 1, "official": 5}},
        {"training": {"epochs": 1, "l1_penalty": 0.0}},
        {"training": {"epochs": 1, "keep": "last", "optimizer": "adam"}},  # the defaults, written out
        {"model": {"name": "SpectrogramCNN", "settings": {"dropout": 0.1}, "front_end": []}},
    ],
)
def test_the_hash_does_not_change_with_what_cannot(changes: dict[str, Any], toy: Path) -> None:
    before = recipes.load(write(toy)).hash
    assert recipes.load(write(toy, **changes)).hash == before
    other = toy.with_name("other.yaml")
    assert recipes.load(write(other)).hash == before


def test_a_recipe_cannot_be_changed(toy: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        recipes.load(write(toy)).training = None


def test_a_changed_default_of_a_layer_changes_the_hash_and_a_new_feature_that_is_off_does_not(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes.load(write(toy, **front_end({"Standardise": {}})))
    before = recipe.hash

    def changed(self: Any, threshold: Any = None) -> None:
        torch.nn.Module.__init__(self)

    for default, same in ((None, True), (0.5, False)):
        changed.__defaults__ = (default,)
        monkeypatch.setattr(layers.Standardise, "__init__", changed)
        assert (recipe.hash == before) is same


def test_training_settings_are_changed_in_a_checked_copy(toy: Path) -> None:
    recipe = recipes.load(write(toy))
    longer = recipe.with_training(epochs=7)
    assert (longer.training.epochs, recipe.training.epochs) == (7, 1) and longer.hash != recipe.hash
    assert longer.model == recipe.model and longer.name == recipe.name
    for wrong in ({"epochs": -3}, {"epochs": "5"}, {"epoch": 3}, {"learning_rate": float("nan")}):
        with pytest.raises(RecipeError, match=f"mine/toy: training.{next(iter(wrong))}"):
            recipe.with_training(**wrong)
    with pytest.raises(RecipeError, match="validation part"):
        recipe.with_training(keep="best")


# Several recipes together


@pytest.fixture
def members(toy: Path) -> list[str]:
    """The paths of two recipes."""
    return [
        str(write(toy.with_name("one.yaml"))),
        str(write(toy.with_name("other.yaml"), clip={"seconds": 0.2})),
    ]


def together(path: Path, members: list[str], changes: dict[str, Any] | None = None) -> Path:
    path.write_text(yaml.safe_dump(TOGETHER | {"members": members} | (changes or {}), sort_keys=False))
    return path


def test_a_file_with_members_is_an_ensemble_of_their_recipes(toy: Path, members: list[str]) -> None:
    ensemble = recipes.load(together(toy, members))
    assert isinstance(ensemble, Ensemble)
    assert (ensemble.name, ensemble.title, ensemble.protocols) == ("mine/toy", "Together", {"official": 1})
    assert ensemble.recipes == [recipes.load(member) for member in members]
    assert all(type(member) is Recipe for member in ensemble.recipes)


def test_the_hash_of_an_ensemble_changes_with_that_of_a_member(toy: Path, members: list[str]) -> None:
    before = recipes.load(together(toy, members)).hash
    assert len(before) == 8 and int(before, 16) >= 0
    assert recipes.load(together(toy, members, {"title": "Another", "protocols": {"random": 3}})).hash == before
    write(Path(members[1]), clip={"seconds": 0.2}, title="Another title")
    assert recipes.load(toy).hash == before
    write(Path(members[1]), clip={"seconds": 0.3})
    changed = recipes.load(toy).hash
    third = str(write(toy.with_name("third.yaml"), clip={"seconds": 0.4}))
    assert len({before, changed, recipes.load(together(toy, [*members, third])).hash}) == 3


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"members": ["fsdd/crnn"]}, ["members", "at least 2"]),
        ({"members": []}, ["members", "at least 2"]),
        ({"members": "fsdd/crnn"}, ["members"]),
        ({"clip": {"seconds": 1}}, ["clip: unknown key", "title, dataset, protocols, members"]),
        ({"protocols": {"official": 0}}, ["from 1 to 1000"]),
        ({"protocols": {"by_heart": 1}}, ["official"]),
    ],
)
def test_an_ensemble_that_cannot_be_run_is_refused(
    changes: dict[str, Any], parts: list[str], toy: Path, members: list[str]
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.load(together(toy, members, changes))
    assert all(part in str(caught.value) for part in ["toy.yaml", *parts]), str(caught.value)


def test_members_that_cannot_be_are_named(toy: Path, members: list[str]) -> None:
    stranger = str(write(toy.with_name("stranger.yaml"), dataset="physionet2016", protocols={"random": 1}))
    inner = str(together(toy.with_name("inner.yaml"), members))
    cases = {members[0]: "named twice"}
    cases |= {"fsdd/nonesuch": "no recipe fsdd/nonesuch; known: ", stranger: "mine/stranger", inner: "mine/inner"}
    for member, said in cases.items():
        ensemble = recipes.load(together(toy, [members[0], member]))
        for name in ("recipes", "hash"):
            with pytest.raises(RecipeError, match=said):
                getattr(ensemble, name)


def test_a_baseline_may_be_a_member_but_not_all_of_them(toy: Path, members: list[str]) -> None:
    priors = [toy.with_name(f"{name}.yaml") for name in ("prior", "again")]
    for path in priors:
        path.write_text(yaml.safe_dump(PRIOR))
    ensemble = recipes.load(together(toy, [str(priors[0]), members[0]]))
    assert [type(member) for member in ensemble.recipes] == [GroupPrior, Recipe] and len(ensemble.hash) == 8
    with pytest.raises(RecipeError, match="none of the members is a network"):
        _ = recipes.load(together(toy, [str(path) for path in priors])).recipes


def test_an_ensemble_is_no_member_of_itself(toy: Path, members: list[str]) -> None:
    with pytest.raises(RecipeError, match="mine/toy"):
        _ = recipes.load(together(toy, [members[0], str(toy)])).hash


def test_a_baseline_is_a_recipe_without_a_model(toy: Path) -> None:
    toy.write_text(yaml.safe_dump(PRIOR))
    prior = recipes.load(toy)
    assert isinstance(prior, GroupPrior) and (prior.name, prior.protocols) == ("mine/toy", {"official": 1})
    toy.write_text(yaml.safe_dump(PRIOR | {"title": "Another"}))
    assert recipes.load(toy).hash == prior.hash
    toy.write_text(yaml.safe_dump(PRIOR | {"dataset": "physionet2016", "protocols": {"published_list_0": 1}}))
    assert recipes.load(toy).hash != prior.hash
    for wrong in ({"baseline": "guess"}, {"clip": {"seconds": 1}}):
        toy.write_text(yaml.safe_dump(PRIOR | wrong))
        with pytest.raises(RecipeError, match=next(iter(wrong))):
            recipes.load(toy)
