"""A kept network is trained on every recording and stored in half the bytes, with what its user must know."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys import toy, write_recipe

from course_lib import experiments, kept_models, training
from course_lib.datasets import Recordings
from course_lib.kept_models import KeptModel
from tools import train_kept


def test_half_the_bytes_give_the_same_answer(fsdd_data: Path, recordings: Recordings, tmp_path: Path) -> None:
    recipe, path, seen = toy(), tmp_path / "mine" / "toy.safetensors", []
    model = train_kept.train(recipe, seed=1, progress=False, on_epoch=lambda history: seen.append(history))
    train_kept.write(path, recipe, [model], seed=1)
    tensors, about = training.state.load(path)
    assert about["class_names"] == list(recordings.class_names) and about["sample_rate"] == recordings.sample_rate
    assert about["recipe_hash"] == recipe.hash and about["seed"] == 1 and len(seen) == 1
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float16}
    again = recipe.build(len(recordings.class_names))
    training.load_model(path, again)
    sound = torch.randn(800, generator=torch.Generator().manual_seed(0)).numpy()
    before, after = (
        KeptModel(recipe, network, recordings.class_names).classify(sound, recordings.sample_rate)
        for network in (model, again)
    )
    assert after == pytest.approx(before, abs=1e-2) and model.last_layer.weight.dtype == torch.float32


def test_several_networks_lie_in_one_file_and_decide_together(
    fsdd_data: Path, recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [write_recipe(tmp_path / "mine" / "one.yaml"), write_recipe(tmp_path / "mine" / "other.yaml")]
    form = {"title": "Both", "dataset": "fsdd", "protocols": {"official": 1}, "members": members}
    both = experiments.load(write_recipe(tmp_path / "mine" / "both.yaml", form))
    monkeypatch.setattr(train_kept, "KEPT", tmp_path)
    monkeypatch.setattr("sys.argv", ["train_kept", str(tmp_path / "mine" / "both.yaml"), "--seed", "3"])
    train_kept.main()
    networks = kept_models.build(both, 10)
    about = training.load_model(tmp_path / "mine" / "both.safetensors", networks)
    assert (about["recipe_hash"], about["seed"]) == (both.hash, 3)
    with torch.no_grad():
        networks[1].last_layer.bias.add_(torch.linspace(-1, 1, 10))  # unlike the first, which had the same seed
    sound = torch.randn(800, generator=torch.Generator().manual_seed(0)).numpy()
    first, second = (
        torch.tensor(list(KeptModel(member, network, recordings.class_names).classify(sound, 8000).values()))
        for member, network in zip(both.recipes, networks, strict=True)
    )
    pooled = (first * second).sqrt() / (first * second).sqrt().sum()
    answer = KeptModel(both, networks, recordings.class_names).classify(sound, 8000)
    assert list(answer.values()) == pytest.approx(pooled.tolist(), abs=1e-5)
    assert not torch.allclose(pooled, first, atol=1e-3)
