"""The core of the package by itself: layers and models need torch, torchaudio, NumPy and numba, and nothing else."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib

from packaging.requirements import Requirement

from course_lib import environment

PROJECT = tomllib.loads((environment.CHECKOUT / "pyproject.toml").read_text())["project"]

# As in a fresh environment: there are no packages of the extras.
REFUSE = """
import json, sys
class Core:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in refused else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
refused = set(json.loads(sys.argv[1]))
sys.meta_path[:] = map(Core, sys.meta_path)
import torch
"""


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", Requirement(requirement).name).lower()


def _closure(names: set[str]) -> set[str]:
    """Distributions and all that they require."""
    closure: set[str] = set()
    while names - closure:
        name = (names - closure).pop()
        closure.add(name)
        try:
            requirements = [Requirement(each) for each in importlib.metadata.requires(name) or ()]
        except importlib.metadata.PackageNotFoundError:
            continue
        wanted = (each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""}))
        names |= {_name(each.name) for each in wanted}
    return closure


def _core_alone(code: str) -> list[str]:
    """Run code where only the core's packages can be imported; what it prints."""
    core = {PROJECT["name"]} | _closure({_name(each) for each in PROJECT["dependencies"]})
    owners = importlib.metadata.packages_distributions()
    refused = [module for module, names in owners.items() if not core & {_name(name) for name in names}]
    assert {"scipy", "pandas", "matplotlib", "soundfile", "IPython", "librosa"} <= set(refused)
    done = subprocess.run(
        [sys.executable, "-c", REFUSE + code, json.dumps(refused)],
        cwd=environment.CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_core_is_small() -> None:
    assert {_name(each) for each in PROJECT["dependencies"]} == {"torch", "torchaudio", "numpy", "numba"}
    assert set(PROJECT["optional-dependencies"]) == {"course", "test", "benchmark", "cluster", "docs"}


def test_importing_the_layers_imports_little() -> None:
    modules = _core_alone("""
before = set(sys.modules)
import course_lib.layers
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}), sep="\\n")
print(sum(name.startswith("torch.") for name in set(sys.modules) - before))
""")
    slow = {"numba", "llvmlite", "scipy", "matplotlib", "librosa", "pandas", "sklearn", "sympy", "IPython", "triton"}
    assert not slow & set(modules[:-1])
    assert int(modules[-1]) < 300  # some parts of torch take seconds to import, such as its compiler


def test_front_ends_and_networks_learn_with_the_core_alone() -> None:
    lines = _core_alone("""
torch.set_num_threads(1)
from course_lib import layers, models
from torch.nn import functional

waveforms, labels = torch.randn(2, 18_400) / 8, torch.tensor([0, 1])
for name in ("LogSpectrogram", "PowerSpectrogram"):
    print(name, tuple(getattr(layers, name)()(waveforms).shape))
for name, settings in (("LogMel", {}), ("MFCC", {}), ("GammatoneFilterbank", {"n_filters": 8})):
    print(name, tuple(getattr(layers, name)(sample_rate=8000, **settings)(waveforms).shape))

networks = [
    value
    for value in vars(models).values()
    if isinstance(value, type) and issubclass(value, models.Classifier) and value is not models.Classifier
]
for network in networks:
    model = network(models.LogMelCNN(2), 2) if network is models.DomainAdversarial else network(n_classes=2)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    samples = model.clip_samples or 20_000
    logits = model.train()(waveforms[:, :samples])
    loss = functional.cross_entropy(logits[0] if isinstance(logits, tuple) else logits, labels)
    loss.backward()
    optimiser.step()
    print(network.__name__, bool(loss.isfinite()))
""")
    trained = [line.split()[0] for line in lines if line.endswith("True")]
    assert len(lines) - len(trained) == 5  # front ends
    assert {"SpectrogramCNN", "LogMelCNN", "CRNN", "SampleCNN", "SpectNet", "DomainAdversarial"} <= set(trained)
