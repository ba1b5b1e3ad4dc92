"""Transformers: what a fresh one answers, what they do not depend on, padding, places and moments in real units."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flowvid.networks.attention import Attention, Rotary, rotated
from flowvid.networks.frame_context import FrameContext
from flowvid.networks.pair import PairTransformer
from flowvid.networks.patches import grid, pixels, tubelets
from flowvid.networks.transformer import PatchTransformer, SpaceTimeTransformer, TransformerBlock

SIDES = st.integers(1, 7)
SEEDS = st.integers(0, 2**31)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def alive(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in double precision with no parameter left at zero."""
    network = network.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network.eval()


def space_time(**options: object) -> SpaceTimeTransformer:
    return SpaceTimeTransformer(2, 3, scalars=1, width=16, heads=2, depth=2, patch=2, context=5, **options)


def patches(tubelet: tuple[int, int, int] = (2, 2, 2)) -> PatchTransformer:
    return PatchTransformer(2, 3, scalars=1, width=24, heads=2, depth=2, tubelet=tubelet, context=5)


BUILDERS = {"space-time": space_time, "patches": patches}
both = pytest.mark.parametrize("kind", BUILDERS)


def clip_of(batch: int, frames: int, seed: int = 0, height: int = 5, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """A clip, its increasing times, and one scalar for each sample."""
    times = normal(batch, frames, seed=seed + 1).abs().add(0.1).cumsum(1)
    return normal(batch, frames, 2, height, width, seed=seed), times, normal(batch, 1, seed=seed + 2)


# Rotary places


@given(SEEDS, st.floats(-50, 50), st.integers(1, 3))
def test_products_depend_on_differences_of_places(seed: int, shift: float, axes: int) -> None:
    rotary = Rotary(12, [(0.5, 40.0)] * axes).double()
    query, key, places = normal(1, 2, 3, 12, seed=seed), normal(1, 2, 3, 12, seed=seed + 1), normal(1, 3, axes)
    here, there = rotary(places), rotary(places + shift)
    product = rotated(query, here) @ rotated(key, here).mT
    torch.testing.assert_close(rotated(query, there) @ rotated(key, there).mT, product, rtol=1e-7, atol=1e-7)
    assert (rotated(query, here) @ rotated(key, rotary(places + 1.0)).mT - product).abs().max() > 1e-6


@given(SEEDS)
def test_turning_keeps_lengths(seed: int) -> None:
    features = normal(2, 2, 4, 8, seed=seed)
    turned = rotated(features, normal(2, 4, 4, seed=seed + 1))
    torch.testing.assert_close(turned.norm(dim=-1), features.norm(dim=-1))


def test_places_stay_exact_under_autocast() -> None:
    rotary = Rotary(8, [(0.1, 30.0)])
    places = torch.tensor([[[10.03]]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rotary(places)
    torch.testing.assert_close(found, rotary(places), rtol=0, atol=1e-5)


def test_wavelengths_span_what_is_stated() -> None:
    frequencies = Rotary(16, [(0.1, 30.0), (2.0, 128.0)]).double().frequencies
    for axis, (shortest, longest) in enumerate([(0.1, 30.0), (2.0, 128.0)]):
        waves = 2 * torch.pi / frequencies[axis, axis::2]
        assert waves[0].item() == pytest.approx(shortest, rel=1e-5)
        assert waves[-1].item() == pytest.approx(longest, rel=1e-5)
        torch.testing.assert_close(waves.log().diff(), waves.log().diff().mean().expand(3), rtol=1e-4, atol=1e-6)
        assert torch.equal(frequencies[axis, 1 - axis :: 2], torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("features", "spans", "match"),
    [
        (7, [(1, 2)], "even number"),
        (2, [(1, 2), (1, 2)], "even number"),
        (8, [(0, 2)], "Wavelengths"),
        (8, [(3, 2)], "Wave"),
    ],
)
def test_impossible_places_are_refused(features: int, spans: list[tuple[float, float]], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Rotary(features, spans)


# Attention


def test_attention_is_the_weighted_mean_it_says() -> None:
    attention = alive(Attention(4, 1))
    tokens = normal(1, 3, 4)
    query, (key, value) = attention.query(tokens), attention.key_value(tokens).chunk(2, dim=-1)
    query, key = attention.query_norm(query), attention.key_norm(key)
    weights = (query @ key.mT / 4**0.5).softmax(dim=-1)
    torch.testing.assert_close(attention(tokens), attention.leave(weights @ value))


@given(st.permutations(range(5)), SEEDS)
def test_attention_has_no_order_of_its_own(order: list[int], seed: int) -> None:
    attention, tokens, places = alive(Attention(8, 2), seed), normal(2, 5, 8, seed=seed), normal(2, 5, 2, seed=seed)
    whole = attention(tokens, angles=places)
    torch.testing.assert_close(attention(tokens[:, order], angles=places[:, order]), whole[:, order])


@given(st.integers(1, 4), SEEDS)
def test_tokens_that_do_not_exist_are_not_asked(real: int, seed: int) -> None:
    attention, tokens, context = (
        alive(Attention(8, 2, context=6)),
        normal(2, 3, 8, seed=seed),
        normal(2, 5, 6, seed=seed),
    )
    exists = torch.arange(5).expand(2, 5) < real
    torch.testing.assert_close(attention(tokens, context, exists=exists), attention(tokens, context[:, :real]))


def test_where_nothing_exists_nothing_is_gathered() -> None:
    attention, tokens, context = alive(Attention(8, 2, context=6)), normal(2, 3, 8), normal(2, 5, 6).requires_grad_()
    exists = torch.tensor([[False] * 5, [True] * 5])
    answer = attention(tokens, context, exists=exists)
    assert torch.equal(answer[0], attention.leave.bias.expand(3, 8))
    answer.sum().backward()
    assert context.grad is not None
    assert bool(context.grad.isfinite().all())
    assert torch.equal(context.grad[0], torch.zeros(5, 6, dtype=torch.float64))


@pytest.mark.parametrize(("width", "heads"), [(6, 2), (8, 0), (0, 1), (8, 3)])
def test_widths_that_heads_do_not_divide_are_refused(width: int, heads: int) -> None:
    with pytest.raises(ValueError, match="multiple of twice the heads"):
        Attention(width, heads)


# Patches


@given(SIDES, SIDES, SIDES, st.tuples(*[st.integers(1, 3)] * 3), SEEDS)
def test_patches_make_the_clip_again(
    frames: int, height: int, width: int, tubelet: tuple[int, int, int], seed: int
) -> None:
    clip = normal(2, frames, 3, height, width, seed=seed)
    tokens, rows, columns = tubelets(clip, tubelet)
    depth = -(-frames // tubelet[0])
    assert tokens.shape == (2, depth * rows * columns, 3 * tubelet[0] * tubelet[1] * tubelet[2])
    again = pixels(tokens, (depth, rows, columns), tubelet)
    assert torch.equal(again[:, :frames, :, :height, :width], clip)
    assert torch.equal(
        again[:, frames:, :, :height, :width], clip[:, -1:].expand_as(again[:, frames:, :, :height, :width])
    )


def test_a_token_is_a_patch_and_stands_at_its_middle() -> None:
    clip = torch.arange(48.0).reshape(1, 2, 1, 4, 6)
    tokens, rows, columns = tubelets(clip, (2, 2, 3))
    assert (rows, columns) == (2, 2)
    assert torch.equal(tokens[0, 1], clip[0, :, 0, :2, 3:].flatten())
    places = grid(rows, columns, (2, 2, 3), tokens)
    assert places.tolist() == [[-1.0, -1.5], [-1.0, 1.5], [1.0, -1.5], [1.0, 1.5]]


# Contexts that lie in time


def test_what_lies_nowhere_is_asked_unturned_and_the_rest_turned() -> None:
    attention, tokens, context = alive(Attention(4, 1, context=6)), normal(1, 3, 4), normal(1, 2, 6)
    angles, there = normal(1, 3, 2), normal(1, 2, 2, seed=3)
    placed = torch.tensor([[True, False]])
    query, (key, value) = attention.query(tokens), attention.key_value(context).chunk(2, dim=-1)
    query, key = attention.query_norm(query), attention.key_norm(key)
    turned = rotated(query[:, None], angles)[:, 0] @ rotated(key[:, None], there)[:, 0].mT
    weights = (torch.where(placed[:, None], turned, query @ key.mT) / 2).softmax(dim=-1)
    found = attention(tokens, context, angles=angles, context_angles=there, placed=placed)
    torch.testing.assert_close(found, attention.leave(weights @ value))


def told_at(kind: str, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor]:
    """A network, its inputs, a context of five tokens, the last three with a time, and their times."""
    network = alive(BUILDERS[kind](), seed)
    timed = torch.tensor([[False, False, True, True, True]]).expand(2, 5)
    said = torch.tensor([[True] * 5, [True, False, True, True, False]])
    return network, clip_of(2, 4, seed), dict(context=normal(2, 5, 5, seed=seed), timed=timed, said=said), normal(2, 5)


@both
@given(shift=st.floats(-100, 100), seed=SEEDS)
@settings(max_examples=4)
def test_only_differences_to_the_times_of_words_count(kind: str, shift: float, seed: int) -> None:
    network, (clip, times, scalars), heard, when = told_at(kind, seed)
    answer = network(clip, times, scalars, context_times=when, **heard)
    moved = network(clip, times + shift, scalars, context_times=when + shift, **heard)
    torch.testing.assert_close(moved, answer, rtol=1e-5, atol=1e-6)
    assert (network(clip, times, scalars, context_times=when + 1.0, **heard) - answer).abs().amax(
        (1, 2, 3, 4)
    ).min() > (1e-6)
    elsewhere = torch.where(heard["timed"] & heard["said"], when, when + 7.0)
    torch.testing.assert_close(network(clip, times, scalars, context_times=elsewhere, **heard), answer)


@both
def test_words_without_times_are_a_context_without_times(kind: str) -> None:
    network, (clip, times, scalars), heard, when = told_at(kind)
    heard["timed"] = torch.zeros_like(heard["timed"])
    answer = network(clip, times, scalars, context_times=when, **heard)
    torch.testing.assert_close(network(clip, times, scalars, context=heard["context"], said=heard["said"]), answer)


@both
def test_words_all_with_times_need_no_mark(kind: str) -> None:
    network, (clip, times, scalars), heard, when = told_at(kind)
    heard["timed"] = torch.ones_like(heard["timed"])
    answer = network(clip, times, scalars, context_times=when, **heard)
    heard.pop("timed")
    torch.testing.assert_close(network(clip, times, scalars, context_times=when, **heard), answer)


@both
def test_what_one_sample_is_told_at_a_moment_does_not_reach_another(kind: str) -> None:
    network, (clip, times, scalars), heard, when = told_at(kind)
    together = network(clip, times, scalars, context_times=when, **heard)
    alone = network(clip[1:], times[1:], scalars[1:], context_times=when[1:], **{k: v[1:] for k, v in heard.items()})
    torch.testing.assert_close(together[1:], alone)


# Whole networks


@both
def test_a_fresh_network_answers_zero_and_can_learn(kind: str) -> None:
    network = BUILDERS[kind]().double()
    clip, times, scalars = clip_of(2, 3)
    context = normal(2, 4, 5)
    assert torch.equal(network(clip, times, scalars, context=context), torch.zeros(2, 3, 3, 5, 4, dtype=torch.float64))
    target = normal(2, 3, 3, 5, 4, seed=9)
    for _ in range(4):
        network.zero_grad()
        (network(clip, times, scalars, context=context) - target).square().mean().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.1 * parameter.grad
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


def test_a_fresh_block_is_the_identity() -> None:
    tokens = normal(2, 3, 8)
    block = TransformerBlock(8, 2, 5, context=6).double()
    assert torch.equal(block(tokens, normal(2, 5), angles=normal(2, 3, 2), context=normal(2, 4, 6)), tokens)


@both
@settings(max_examples=4)
@given(frames=st.integers(1, 5), height=st.integers(1, 6), width=st.integers(1, 6), seed=SEEDS)
def test_any_duration_and_size_has_an_answer(kind: str, frames: int, height: int, width: int, seed: int) -> None:
    clip, times, scalars = clip_of(2, frames, seed, height, width)
    answer = alive(BUILDERS[kind]())(clip, times, scalars)
    assert answer.shape == (2, frames, 3, height, width)
    assert bool(answer.isfinite().all())


@both
@given(shift=st.floats(-100, 100), seed=SEEDS)
@settings(max_examples=4)
def test_only_differences_of_times_count(kind: str, shift: float, seed: int) -> None:
    network, (clip, times, scalars) = alive(BUILDERS[kind](), seed), clip_of(1, 4, seed)
    answer = network(clip, times, scalars)
    torch.testing.assert_close(network(clip, times + shift, scalars), answer, rtol=1e-5, atol=1e-6)
    assert (network(clip, times * 1.5, scalars) - answer).abs().max() > 1e-6


@both
@given(real=st.integers(1, 4), seed=SEEDS)
@settings(max_examples=4)
def test_a_padded_sample_answers_as_it_does_alone(kind: str, real: int, seed: int) -> None:
    network, (clip, times, scalars) = alive(BUILDERS[kind](), seed), clip_of(2, 5, seed)
    context = normal(2, 4, 5, seed=seed)
    exists = torch.tensor([[number < real for number in range(5)], [True] * 5])
    said = torch.tensor([[True, True, False, False], [True] * 4])
    together = network(clip, times, scalars, exists=exists, context=context, said=said)
    alone = network(clip[:1, :real], times[:1, :real], scalars[:1], context=context[:1, :2])
    torch.testing.assert_close(together[:1, :real], alone)
    torch.testing.assert_close(together[1:], network(clip[1:], times[1:], scalars[1:], context=context[1:]))


@given(order=st.permutations(range(4)), seed=SEEDS)
@settings(max_examples=4)
def test_frames_of_a_factorised_network_have_no_order_but_their_times(order: list[int], seed: int) -> None:
    network, (clip, times, scalars) = alive(space_time(), seed), clip_of(2, 4, seed)
    whole = network(clip, times, scalars)
    torch.testing.assert_close(network(clip[:, order], times[:, order], scalars), whole[:, order])


@both
def test_every_input_counts_everywhere(kind: str) -> None:
    network, (clip, times, scalars) = alive(BUILDERS[kind]()), clip_of(1, 4)
    inputs = [clip.requires_grad_(), times.requires_grad_(), scalars.requires_grad_(), normal(1, 3, 5).requires_grad_()]
    corner = network(*inputs[:3], context=inputs[3])[0, 0, 0, 0, 0]
    gradients = torch.autograd.grad(corner, inputs)
    assert all(gradient.abs().min() > 0 for gradient in (gradients[0], gradients[2], gradients[3]))
    assert gradients[1].abs().max() > 0


def test_an_image_is_a_video_of_one_frame() -> None:
    """With one-frame tubelets and no other frame to attend to, the answer is that of the frame alone."""
    network, (clip, times, scalars) = alive(patches((1, 2, 2))), clip_of(1, 3)
    exists = torch.tensor([[True, False, False]])
    torch.testing.assert_close(
        network(clip, times, scalars, exists=exists)[:, :1], network(clip[:, :1], times[:, :1] * 0, scalars)
    )


def test_tubelets_have_a_frame_a_row_and_a_column() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        patches((0, 1, 1))


# Two frames


@given(SEEDS)
@settings(max_examples=4)
def test_neither_of_two_frames_is_the_first(seed: int) -> None:
    network = alive(PairTransformer(2, 3, scalars=1, width=16, heads=2, depth=2, patch=2), seed)
    frames, scalars = normal(3, 2, 2, 5, 4, seed=seed), normal(3, 2, 1, seed=seed)
    answer = network(frames, scalars)
    assert answer.shape == (3, 3, 5, 4)
    torch.testing.assert_close(network(frames.flip(1), scalars.flip(1)), answer)
    torch.testing.assert_close(network(frames[:1], scalars[:1]), answer[:1])
    assert (network(frames, scalars.flip(1)) - answer).abs().max() > 1e-6


def test_two_frames_see_each_other_everywhere() -> None:
    network = alive(PairTransformer(2, 3, scalars=1, width=16, heads=2, depth=1))
    frames = normal(1, 2, 2, 4, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(network(frames, normal(1, 2, 1))[0, 0, 0, 0], frames)
    assert gradient.abs().min() > 0


# Known frames as tokens


def test_moments_are_read_linearly_from_the_table() -> None:
    context = alive(FrameContext(2, 8, reach=2.0, entries=5, side=1))
    frames = normal(1, 1, 2, 4, 4).expand(1, 7, 2, 4, 4)
    offsets = torch.tensor([[-9.0, -2.0, -1.0, -0.75, 0.0, 2.0, 9.0]], dtype=torch.float64)
    tokens, exists = context(frames, offsets)
    table = tokens[0] - tokens[0, 4] + context.moments[2]
    torch.testing.assert_close(table[[0, 1, 2, 4, 5, 6]], context.moments[[0, 0, 1, 2, 4, 4]])
    torch.testing.assert_close(table[3], 0.75 * context.moments[1] + 0.25 * context.moments[2])
    assert bool(exists.all())


@given(st.permutations(range(4)), SEEDS)
@settings(max_examples=4)
def test_frames_are_encoded_independently(order: list[int], seed: int) -> None:
    context = alive(FrameContext(2, 8, reach=2.0, side=2), seed)
    frames, offsets = normal(2, 4, 2, 5, 6, seed=seed), normal(2, 4, seed=seed)
    there = torch.tensor([[True, False, True, True], [True] * 4])
    tokens, exists = context(frames, offsets, exists=there)
    moved, still = context(frames[:, order], offsets[:, order], exists=there[:, order])
    torch.testing.assert_close(moved.unflatten(1, (4, 4)), tokens.unflatten(1, (4, 4))[:, order])
    assert torch.equal(still.unflatten(1, (4, 4)), exists.unflatten(1, (4, 4))[:, order])
    assert torch.equal(exists.unflatten(1, (4, 4)).all(2), there)


@pytest.mark.parametrize(("reach", "entries"), [(0.0, 5), (1.0, 4), (1.0, 1)])
def test_impossible_tables_are_refused(reach: float, entries: int) -> None:
    with pytest.raises(ValueError, match="positive reach"):
        FrameContext(2, 8, reach=reach, entries=entries)


_COMPILED = """
import torch
from flowvid.networks.pair import PairTransformer
from flowvid.networks.transformer import PatchTransformer, SpaceTimeTransformer

clip, times, scalars = torch.randn(2, 3, 2, 5, 4), torch.rand(2, 3), torch.rand(2, 1)
exists = torch.tensor([[True, True, False], [True] * 3])
for network in (
    SpaceTimeTransformer(2, 3, scalars=1, width=16, heads=2, depth=1, patch=2, context=5),
    PatchTransformer(2, 3, scalars=1, width=24, heads=2, depth=1, tubelet=(2, 2, 2), context=5),
):
    torch.nn.init.normal_(network.leave.last.weight)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    told = dict(context=torch.randn(2, 4, 5), said=torch.tensor([[True] * 4, [False] * 4]))
    timed = dict(context_times=torch.rand(2, 4), timed=torch.tensor([[True, False] * 2] * 2))
    found = compiled(clip, times, scalars, exists=exists, **told, **timed)
    expected = network(clip, times, scalars, exists=exists, **told, **timed)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
pair = PairTransformer(2, 3, scalars=1, width=16, heads=2, depth=1)
torch.nn.init.normal_(pair.leave.last.weight)
frames, told = torch.randn(2, 2, 2, 5, 4), torch.rand(2, 2, 1)
found = torch.compile(pair, fullgraph=True, backend="aot_eager")(frames, told)
torch.testing.assert_close(found, pair(frames, told), rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
def test_each_network_is_one_graph() -> None:
    """In a process of its own, for checked signatures do not compile."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
