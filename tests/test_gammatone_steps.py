"""How the numbers that training changes become filters: equal steps, limits, and a way back from everywhere."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from course_lib.experiments import recipes
from course_lib.layers import GammatoneFilterbank
from course_lib.layers.gammatone import scales
from course_lib.layers.gammatone.parameters import Even, Squashed

CENTRES = [110.0, 300.0, 1000.0, 2160.0, 3000.0, 3740.0]


def noises(seed: int = 0) -> Tensor:
    return torch.randn(4, 800, generator=torch.Generator().manual_seed(seed)) / 4


def made(even_steps: bool, **settings: object) -> GammatoneFilterbank:
    return GammatoneFilterbank(6, 8000, f_min=60, centre_frequencies=CENTRES, even_steps=even_steps, **settings)


def erb_a_unit(layer: GammatoneFilterbank) -> Tensor:
    """How many ERB a centre frequency moves for a unit of its parameter, if it went on like this."""
    rate = scales.erb_rate(layer.centre_frequencies)
    return torch.autograd.grad(rate.sum(), layer.raw_centre_frequency)[0]


def test_a_unit_is_one_erb_everywhere() -> None:
    torch.testing.assert_close(erb_a_unit(made(True)), torch.ones(6), rtol=1e-4, atol=0)
    squashed = erb_a_unit(made(False))
    assert squashed.max() > 4 * squashed.min()


@pytest.mark.parametrize("kind", [Even, Squashed])
def test_there_and_back(kind: type) -> None:
    values = torch.linspace(-2, 3, 101, dtype=torch.float64)
    back = kind(-2.0, 3.0).value(kind(-2.0, 3.0).raw(values))
    torch.testing.assert_close(back, values, rtol=0, atol=1e-4)
    assert back.min() > -2 and back.max() < 3


@given(raw=st.floats(-1e6, 1e6), low=st.floats(-50, 50), width=st.floats(0.1, 50))
def test_an_even_step_has_slope_one_and_stays_inside(raw: float, low: float, width: float) -> None:
    number = torch.tensor(raw, dtype=torch.float64, requires_grad=True)
    value = Even(low, low + width).value(number)
    assert low < value.item() < low + width
    assert torch.autograd.grad(value, number)[0].abs() == 1


def test_at_the_very_ends_there_is_a_slope() -> None:
    even = Even(0.0, 10.0)
    raw = even.raw(torch.tensor([0.0, 10.0])).requires_grad_()
    value = even.value(raw)
    assert (torch.autograd.grad(value.sum(), raw)[0].abs() == 1).all()


def test_the_same_filters_give_the_same_images() -> None:
    torch.testing.assert_close(made(True)(noises()), made(False)(noises()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("rate", [1e3, 1e12])
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
def test_no_step_can_break_a_filter_or_end_its_learning(optimiser: type, rate: float) -> None:
    layer = made(True)
    training = optimiser(layer.parameters(), lr=rate)
    for seed in range(4):
        training.zero_grad()
        layer(noises(seed)).square().mean().backward()
        training.step()
    f, b = layer.centre_frequencies.detach(), layer.bandwidths.detach()
    assert ((f > 60) & (f < 4000)).all()
    assert ((b > 0.049 * scales.erb(f)) & (b < 20.1 * scales.erb(f))).all()
    training.zero_grad()
    image = layer(noises())
    image.square().mean().backward()
    assert image.isfinite().all()
    assert all((parameter.grad != 0).all() for parameter in layer.parameters())


def follow(layer: GammatoneFilterbank, target: float) -> float:
    """The frequency (Hz) of one filter after 400 steps towards the energies of another at `target`."""
    hidden = GammatoneFilterbank(1, 8000, f_min=60, centre_frequencies=[target], learnable=False)
    training = torch.optim.Adam(layer.parameter_groups(3e-3))
    for seed in range(400):
        training.zero_grad()
        (layer(noises(seed)) - hidden(noises(seed))).square().mean().backward()
        training.step()
    return layer.centre_frequencies.item()


def test_a_filter_thrown_beyond_its_range_comes_back() -> None:
    """The published numbers are then where the gradient is zero: they never move again."""
    found = {}
    for even_steps, far in ((True, 30.0), (False, 200.0)):
        layer = GammatoneFilterbank(
            1, 8000, f_min=60, centre_frequencies=[900], learnable="centre_frequency", even_steps=even_steps
        )
        with torch.no_grad():
            layer.raw_centre_frequency += far
        began = layer.centre_frequencies.item()
        found[even_steps] = began, follow(layer, 1000.0)
    assert found[True][1] == pytest.approx(1000, abs=10) and abs(found[True][0] - 1000) > 50
    assert found[False][0] == found[False][1] > 3990


def test_weights_of_the_other_kind_are_refused() -> None:
    published = made(False).state_dict()
    with pytest.raises(RuntimeError, match="even_steps False, and this one has even_steps True"):
        made(True).load_state_dict(published)
    settings = json.loads(bytes(published["_extra_state"].tolist()))
    assert settings.pop("even_steps") is False
    old = torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8)  # from before there was a choice
    with pytest.raises(RuntimeError, match="even_steps False, and this one has even_steps True"):
        made(True).load_state_dict(published | {"_extra_state": old})
    made(False).load_state_dict(published | {"_extra_state": old})


def test_recipes_that_do_not_ask_for_even_steps_keep_their_identity() -> None:
    def arguments(name: str) -> dict[str, object]:
        identity = recipes.load(f"fsdd_front_ends/{name}").model.identity()
        return next(given for layer, given in identity if layer == "GammatoneFilterbank")

    assert "even_steps" not in arguments("bad_start_learned")
    assert arguments("bad_start_even_steps") == arguments("bad_start_learned") | {"even_steps": True}
