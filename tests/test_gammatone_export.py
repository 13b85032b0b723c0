"""The gammatone layer elsewhere: as a plain convolution, as an exported program, in ONNX."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from course_lib.layers import GammatoneFilterbank

ANY_SIZE = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
SHAPES = [(1, 400), (3, 2001)]
ONNX = ("onnx", "onnxruntime", "onnxscript")


def noises(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) / 4


def made(compression: str | None, learnable: object = True) -> GammatoneFilterbank:
    layer = GammatoneFilterbank(7, 8000, compression=compression, learnable=learnable)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * torch.linspace(-1, 1, 7)
    return layer


@pytest.mark.parametrize("compression", ["log", "log1p", "pcen", None])
def test_as_a_convolution(compression: str | None) -> None:
    layer = made(compression, learnable={"pcen", "gain", "bandwidth"} if compression == "pcen" else True)
    plain = layer.to_conv(0.25)
    assert not list(plain.parameters()) and plain(noises(400).requires_grad_()).requires_grad
    for shape in ((300,), (2, 500), (2, 3, 700)):
        torch.testing.assert_close(plain(noises(*shape)), layer(noises(*shape)).detach(), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 1
    assert (plain(noises(400)) - layer(noises(400))).abs().max() > 1e-3  # it is frozen


def test_what_a_short_convolution_lacks_is_the_tail() -> None:
    layer, waveforms = made(None), noises(2, 4000)
    exact = layer(waveforms).detach()
    errors = [(layer.to_conv(seconds)(waveforms) - exact).abs().max() / exact.max() for seconds in (0.01, 0.03, 0.2)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-5
    for bad in (0, -1.0, 1e-6):
        with pytest.raises(ValueError, match="seconds"):
            layer.to_conv(bad)


def test_the_published_layer_as_a_convolution() -> None:
    layer = GammatoneFilterbank.spectnet()
    torch.testing.assert_close(layer.to_conv(0.2)(noises(2, 2500)), layer(noises(2, 2500)).detach(), rtol=0, atol=1e-3)


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(model, (noises(2, 1000),), dynamic_shapes=ANY_SIZE)


@pytest.mark.parametrize("plain", [False, True], ids=["layer", "convolution"])
@pytest.mark.parametrize("compression", ["log", "pcen"])
def test_exported_programs_take_any_size_and_need_no_course(compression: str, plain: bool) -> None:
    layer = made(compression)
    program = exported(layer.to_conv(0.25) if plain else layer)
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert operators and not [name for name in operators if "course" in name]
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    module = torch.export.load(file).module()
    for shape in SHAPES:
        torch.testing.assert_close(module(noises(*shape)), layer(noises(*shape)), rtol=1e-4, atol=1e-4)


def test_an_exported_layer_can_still_learn() -> None:
    layer, waveforms = made("log"), noises(2, 1000)
    module = exported(layer).module()
    module(waveforms).square().mean().backward()
    layer(waveforms).square().mean().backward()
    ours = dict(module.named_parameters())
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ONNX), reason=f"needs {', '.join(ONNX)} (the extra test)"
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compression", ["log", "pcen"])
def test_onnx_runs_the_convolution_on_any_size(compression: str, tmp_path: Path) -> None:
    import onnxruntime

    layer = made(compression)
    path = tmp_path / "front_end.onnx"
    torch.onnx.export(
        layer.to_conv(0.25), (noises(2, 1000),), path, dynamic_shapes=ANY_SIZE, input_names=["waveforms"],
        dynamo=True, verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path)
    for shape in SHAPES:
        (image,) = session.run(None, {"waveforms": noises(*shape).numpy()})
        torch.testing.assert_close(torch.from_numpy(image), layer(noises(*shape)).detach(), rtol=1e-4, atol=1e-4)
