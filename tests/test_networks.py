"""Networks: what a fresh one computes, what depends on what, and how many parameters it has."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flowvid.models.rivals import RIVALS, build_rival
from flowvid.networks.layers import ModulatedBlock, ScalarEmbedding, coordinates, zeroed
from flowvid.networks.trunk import Trunk, count_parameters

SIDES = st.integers(2, 9)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def alive(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in double precision with no parameter left at zero."""
    network = network.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), SIDES, SIDES, st.integers(0, 2**31))
def test_a_fresh_trunk_answers_zero_in_the_shape_of_its_grid(
    inputs: int, outputs: int, scalars: int, height: int, width: int, seed: int
) -> None:
    trunk = Trunk(inputs, outputs, scalars=scalars, width=8).double()
    answer = trunk(normal(2, inputs, height, width, seed=seed), normal(2, scalars, seed=seed))
    assert torch.equal(answer, torch.zeros(2, outputs, height, width, dtype=torch.float64))


@settings(max_examples=20, deadline=None)
@given(SIDES, SIDES, st.integers(0, 2**31))
def test_a_fresh_block_is_the_identity(height: int, width: int, seed: int) -> None:
    grid = normal(3, 16, height, width, seed=seed)
    assert torch.equal(ModulatedBlock(16, 5).double()(grid, normal(3, 5, seed=seed)), grid)


def test_a_fresh_trunk_can_learn() -> None:
    """Zero outputs are no dead end: the layer that leaves has a gradient, and step by step all others get one."""
    trunk = Trunk(1, 1, scalars=1, width=8).double()
    grid, scalars, target = normal(4, 1, 4, 4), normal(4, 1, seed=1), normal(4, 1, 4, 4, seed=2)
    for _ in range(5):
        trunk.zero_grad()
        (trunk(grid, scalars) - target).square().mean().backward()
        with torch.no_grad():
            for parameter in trunk.parameters():
                parameter -= 0.1 * parameter.grad
    assert all(parameter.grad.abs().max() > 0 for parameter in trunk.parameters())


def test_zeroed_zeroes_every_parameter_of_the_same_layer() -> None:
    layer = nn.Conv2d(2, 3, 3)
    assert zeroed(layer) is layer
    assert all(torch.equal(parameter, torch.zeros_like(parameter)) for parameter in layer.parameters())


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(4)), SIDES, SIDES, st.integers(0, 2**31))
def test_a_sample_neither_depends_on_its_place_nor_on_its_batch(
    order: list[int], height: int, width: int, seed: int
) -> None:
    trunk = alive(Trunk(2, 3, scalars=2, width=8), seed)
    grid, scalars = normal(4, 2, height, width, seed=seed), normal(4, 2, seed=seed + 1)
    with torch.no_grad():
        whole, permuted = trunk(grid, scalars), trunk(grid[order], scalars[order])
        alone = trunk(grid[:1], scalars[:1])
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(permuted, whole[order])
    torch.testing.assert_close(alone, whole[:1])


def test_every_input_counts() -> None:
    """Grid, scalars and place all change the answer; the far corner too, through the coarse level."""
    trunk = alive(Trunk(1, 1, scalars=2, width=8))
    grid, scalars = normal(1, 1, 8, 8).requires_grad_(), normal(1, 2).requires_grad_()
    corner = trunk(grid, scalars)[0, 0, 0, 0]
    by_grid, by_scalars = torch.autograd.grad(corner, (grid, scalars))
    assert by_grid[0, 0].abs().min() > 0
    assert by_scalars.abs().min() > 0
    flat = trunk(torch.zeros(1, 1, 8, 8, dtype=torch.float64), scalars.detach())[0, 0, 2:6, 2:6]
    assert flat.std() > 1e-6


@given(st.integers(1, 40), st.integers(1, 40))
def test_coordinates_are_pixel_centres(height: int, width: int) -> None:
    x, y = coordinates(torch.zeros(2, 3, height, width, dtype=torch.float64))[1]
    for axis, side in ((x[0], width), (y[:, 0], height)):
        edges = torch.linspace(-1, 1, side + 1, dtype=torch.float64)
        torch.testing.assert_close(axis, (edges[1:] + edges[:-1]) / 2)
    assert torch.equal(x, x[:1].expand(height, width))
    assert torch.equal(y, y[:, :1].expand(height, width))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**31))
def test_gradients_of_the_embedding_are_those_of_finite_differences(scalars: int, octaves: int, seed: int) -> None:
    embedding = alive(ScalarEmbedding(scalars, 4, octaves=octaves), seed)
    assert torch.autograd.gradcheck(embedding, (normal(3, scalars, seed=seed).requires_grad_(),))


@given(st.integers(1, 6), st.integers(-20, 20))
def test_the_highest_octave_has_the_stated_period(octaves: int, halves: int) -> None:
    """All sines and cosines repeat after two units; the highest repeats after 2 / 2^(octaves - 1)."""
    frequencies = ScalarEmbedding(1, 4, octaves=octaves).double().frequencies
    period = 2 / 2 ** (octaves - 1)
    assert torch.cos(frequencies[-1] * halves * period).item() == pytest.approx(1, abs=1e-9)
    assert torch.cos(frequencies[-1] * (halves + 0.5) * period).item() == pytest.approx(-1, abs=1e-9)
    torch.testing.assert_close(torch.cos(frequencies * 2 * halves), torch.ones_like(frequencies))


@pytest.mark.parametrize("width", [8, 24])
def test_matching_finds_the_embedding_again(width: int) -> None:
    for features in (4, 8, 2 * width, 8 * width):
        known = Trunk(3, 5, scalars=2, width=width, features=features)
        found = Trunk.matching(count_parameters(known) + 1, 3, 5, scalars=2, width=width)
        assert [p.shape for p in found.parameters()] == [p.shape for p in known.parameters()]


def test_matching_takes_the_nearer_of_two_embeddings() -> None:
    small, large = (count_parameters(Trunk(2, 2, scalars=1, width=16, features=size)) for size in (20, 24))
    for asked, expected in ((small + (large - small) // 3, small), (large - (large - small) // 3, large)):
        assert count_parameters(Trunk.matching(asked, 2, 2, scalars=1, width=16)) == expected


def test_matching_goes_to_the_end_of_its_range_when_nothing_fits() -> None:
    least = count_parameters(Trunk(2, 2, scalars=1, width=8, features=4))
    assert count_parameters(Trunk.matching(1, 2, 2, scalars=1, width=8)) == least
    assert count_parameters(Trunk.matching(10**9, 2, 2, scalars=1, width=8)) > 2 * least


@pytest.mark.parametrize("channels", [4, 8])
@pytest.mark.parametrize(("scales", "reach"), [(2, 2), (5, 16)])
@pytest.mark.parametrize(("width", "within"), [(16, 0.05), (24, 0.01), (48, 0.01)])
def test_rivals_have_as_many_parameters(width: int, within: float, scales: int, reach: int, channels: int) -> None:
    counts = {
        name: count_parameters(
            build_rival(name, channels=channels, frame=0.125, scales=scales, reach=reach, width=width, seed=0)
        )
        for name in RIVALS
    }
    assert counts == pytest.approx(dict.fromkeys(RIVALS, counts["multiscale"]), rel=within)


def test_frozen_parameters_do_not_count() -> None:
    trunk = Trunk(1, 1, scalars=1, width=8)
    whole = count_parameters(trunk)
    trunk.leave.requires_grad_(False)
    assert whole - count_parameters(trunk) == 16 * 9 + 1


@pytest.mark.parametrize("width", [-8, 0, 4, 12])
def test_a_width_must_be_a_positive_multiple_of_eight(width: int) -> None:
    with pytest.raises(ValueError, match=f"positive multiple of 8; got {width}"):
        Trunk(1, 1, scalars=1, width=width)


_COMPILED = """
import torch
from flowvid.networks.trunk import Trunk

trunk = Trunk(2, 3, scalars=1, width=8)
torch.nn.init.normal_(trunk.leave.weight)
grid, scalars = torch.randn(2, 2, 5, 6), torch.rand(2, 1)
found = torch.compile(trunk, fullgraph=True, backend="aot_eager")(grid, scalars)
torch.testing.assert_close(found, trunk(grid, scalars), rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
def test_a_trunk_is_one_graph() -> None:
    """In a process of its own, for checked signatures do not compile."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
