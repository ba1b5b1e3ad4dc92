"""The prior of image embeddings: what agreement costs, what silence does, and that words lead to embeddings."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.encoders.words import WordEncoder
from flowvid.models.image_prior import SILENT, ImagePrior, same_words
from flowvid.models.samplers import flow_solver
from flowvid.noise import Noise
from flowvid.video import as_text

SEEDS = st.integers(0, 2**31)
CHANNELS, WIDTH, SIZE = 2, 8, 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(seed: int = 0) -> ImagePrior:
    """A prior in double precision in which no parameter is zero."""
    prior = ImagePrior(CHANNELS, WIDTH, size=SIZE, tokens=3, width=8, depth=2).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return prior


def words(batch: int, tokens: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    said = torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed)) < 0.7
    said[:, 0] = True
    return normal(batch, tokens, WIDTH, seed=seed) * said[:, :, None], said


# Embeddings


@given(SEEDS, st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=10)
def test_embeddings_have_unit_mean_square_at_any_size_of_image(seed: int, height: int, width: int) -> None:
    prior, (heard, said) = build(seed), words(3, seed=seed)
    ones = torch.ones(3, dtype=torch.float64)
    embedding = prior.embed(normal(3, CHANNELS, height, width, seed=seed))
    torch.testing.assert_close(embedding.square().mean(dim=1), ones)
    torch.testing.assert_close(prior.direction(heard, said).square().mean(dim=1), ones)


def test_the_same_thing_elsewhere_has_another_embedding() -> None:
    image = torch.zeros(1, CHANNELS, 4, 4, dtype=torch.float64)
    image[:, :, 0, 0] = 1.0
    assert (build().embed(image) - build().embed(image.flip(3))).abs().max() > 1e-3


def test_words_that_do_not_exist_say_nothing() -> None:
    prior, (heard, said) = build(), words(3)
    padded = torch.cat((heard, normal(3, 2, WIDTH, seed=9)), dim=1)
    exists = torch.cat((said, torch.zeros(3, 2, dtype=torch.bool)), dim=1)
    torch.testing.assert_close(prior.direction(padded, exists), prior.direction(heard, said))
    level, noisy = torch.full((3,), 0.4, dtype=torch.float64), normal(3, SIZE)
    answer = prior.v(noisy, level, heard, said)
    torch.testing.assert_close(prior.v(noisy, level, padded, exists), answer)
    assert (prior.v(noisy, level, heard + 1, said) - answer).abs().max() > 1e-6
    silent = torch.zeros_like(said)
    assert not prior.direction(heard, silent).any()
    torch.testing.assert_close(prior.v(noisy, level, heard + 1, silent), prior.v(noisy, level, heard, silent))


# Agreement


@given(SEEDS)
@settings(max_examples=10)
def test_agreement_is_the_mean_cost_of_both_kinds_of_pairs(seed: int) -> None:
    prior, (heard, said) = build(seed), words(4, seed=seed)
    said[3] = False
    embedding = prior.embed(normal(4, CHANNELS, 3, 3, seed=seed))
    same = torch.eye(4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    costs: dict[bool, list[Tensor]] = {True: [], False: []}
    directions = prior.direction(heard, said)
    for i in range(3):
        for j in range(3):
            score = prior.sharpness.exp() * (embedding[i] @ directions[j]) / SIZE + prior.offset
            agrees = bool(same[i, j])
            costs[agrees].append((1 + torch.exp(-score if agrees else score)).log())
    expected = sum(torch.stack(kind).mean() for kind in costs.values()) / 2
    torch.testing.assert_close(prior.agreement(embedding, heard, said, same), expected)


def test_nothing_said_costs_nothing() -> None:
    prior, (heard, said) = build(), words(2)
    embedding = prior.embed(normal(2, CHANNELS, 3, 3))
    assert prior.agreement(embedding, heard, torch.zeros_like(said), torch.eye(2, dtype=torch.bool)) == 0


def test_same_words_are_found_whatever_else_is_said_beside() -> None:
    encoder = WordEncoder(width=8)
    tokens = encoder.tokens(as_text(["zero rests", "one rests", "zero rests", None, "zero"]))
    expected = torch.eye(5, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = True
    assert torch.equal(same_words(tokens, 5, torch.device("cpu")), expected)
    quiet = tokens.silenced(torch.tensor([True] * 5))
    assert bool(same_words(quiet, 5, torch.device("cpu")).all())
    assert torch.equal(same_words(None, 3, torch.device("cpu")), torch.eye(3, dtype=torch.bool))


# What is told


def test_frames_of_a_clip_share_an_embedding_and_single_images_have_their_own() -> None:
    prior, (heard, said) = build(), words(2)
    clips = normal(2, 4, CHANNELS, 3, 3)
    exists = torch.tensor([[True, True, True, False], [False] * 4])
    found: list[Tensor] = []

    def spy(embedding: Tensor, *told: Tensor) -> tuple[Tensor, Tensor]:
        found.append(embedding)
        return type(prior).context(prior, embedding, *told)

    prior.__dict__["context"] = spy
    same = torch.eye(2, dtype=torch.bool)
    _, _, losses = prior.trained_context(clips, exists, heard, said, same, Noise.batch(0, 2))
    each = prior.embed(clips.flatten(0, 1)).unflatten(0, (2, 4))
    shared = found[0]
    torch.testing.assert_close(shared[1], each[1])
    torch.testing.assert_close(shared[0, 3], each[0, 3])
    assert torch.equal(shared[0, :1].expand(3, -1), shared[0, :3])
    assert bool((shared[0, 0] - each[0, :3]).abs().amax(dim=1).min() < 1e-12)
    assert not shared.requires_grad
    assert bool(losses.isfinite())


def test_words_and_embeddings_are_left_out_at_random() -> None:
    prior, count = build(), 1500
    heard, said = normal(count, 1, WIDTH), torch.ones(count, 1, dtype=torch.bool)
    clips, exists = normal(count, 1, CHANNELS, 1, 1), torch.zeros(count, 1, dtype=torch.bool)
    context, told, _ = prior.trained_context(clips, exists, heard, said, torch.eye(count) > 0, Noise.batch(0, count))
    assert context.shape == (count, 1, 4, WIDTH)
    spoken, shown = told[:, 0, 0], told[:, 0, 1:]
    assert torch.equal(shown, shown[:, :1].expand(-1, 3))
    kept = 1 - SILENT
    for words_told, image_told, share in (
        (True, True, kept**3),
        (True, False, kept * kept * SILENT),
        (False, True, kept * kept * SILENT),
        (False, False, SILENT + kept * SILENT**2),
    ):
        found = ((spoken == words_told) & (shown[:, 0] == image_told)).float().mean().item()
        assert found == pytest.approx(share, abs=0.035)


def test_context_holds_words_then_the_embedding_of_each_frame() -> None:
    prior, (heard, said) = build(), words(2)
    embedding = normal(2, 3, SIZE)
    context, told = prior.context(embedding, heard, said, torch.tensor([True, False]))
    assert torch.equal(context[:, 1, :4], heard)
    torch.testing.assert_close(context[1, 2, 4:].flatten(), prior.shown(embedding[1, 2]))
    assert torch.equal(told[:, 2, :4], said)
    assert told[:, 0, 4:].tolist() == [[True] * 3, [False] * 3]


# Law


def test_the_law_of_embeddings_does_not_train_them() -> None:
    prior, (heard, said) = build(), words(3)
    prior.loss(prior.embed(normal(3, CHANNELS, 3, 3)), heard, said, Noise.batch(0, 3)).backward()
    moved = {
        name.split(".")[0] for name, p in prior.named_parameters() if p.grad is not None and p.grad.abs().max() > 0
    }
    assert moved == {"level", "enter", "blocks", "leave"}


def test_an_embedding_depends_on_its_seed_and_not_on_its_batch() -> None:
    prior, (heard, said), noise = build(), words(3), Noise.batch(5, 3)
    solver = flow_solver("ddim-3", steps=1)
    with torch.no_grad():
        embedding, solution = prior.sample(heard, said, noise, solver)
        alone, _ = prior.sample(heard[1:2], said[1:2], noise[1:2], solver)
        other, _ = prior.sample(heard, said, Noise.batch(6, 3), solver)
    torch.testing.assert_close(embedding[1:2], alone)
    assert (other - embedding).abs().max() > 1e-3
    assert (solution.evaluations, solution.depth) == (3, 3)
    torch.testing.assert_close(embedding.square().mean(dim=1), torch.ones(3, dtype=torch.float64))


def test_words_lead_to_the_embeddings_of_their_images() -> None:
    """Two kinds of images, each with a word of its own: trained together, words find the embeddings of their kind."""
    torch.manual_seed(0)
    prior = ImagePrior(CHANNELS, WIDTH, size=SIZE, width=8, depth=1)
    optimiser = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    features = torch.eye(2, WIDTH)[:, None]

    def draw(seed: int, count: int) -> tuple[Tensor, Tensor]:
        noise = Noise.batch(seed, count)
        kind = noise.integers("kind", 0, 2)
        image = noise.normal("image", CHANNELS, 4, 4)
        image[:, 0] = (2 * kind - 1)[:, None, None] * image[:, 1]
        return kind, image

    said, losses = torch.ones(32, 1, dtype=torch.bool), []
    for step in range(100):
        kind, image = draw(step, 32)
        embedding, noise = prior.embed(image), Noise.batch(step, 32)
        same = kind[:, None] == kind
        agreement = prior.agreement(embedding, features[kind], said, same)
        loss = agreement + prior.loss(embedding, features[kind], said, noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append((agreement.item(), loss.item() - agreement.item()))
    first, last = (torch.tensor(part).mean(dim=0) for part in (losses[:10], losses[-10:]))
    assert bool((last < 0.8 * first).all())
    kind, image = draw(999, 32)
    with torch.no_grad():
        true, (found, _) = (
            prior.embed(image),
            prior.sample(features[kind], said, Noise.batch(7, 32), flow_solver(None, steps=8)),
        )
    centres = torch.stack([true[kind == k].mean(dim=0) for k in range(2)])
    nearest = (found[:, None] - centres).norm(dim=2).argmin(dim=1)
    assert (nearest == kind).float().mean() > 0.8


def test_agreement_is_trained_by_words_and_images_alike() -> None:
    prior, (heard, said) = build(), words(3)
    prior.agreement(prior.embed(normal(3, CHANNELS, 3, 3)), heard, said, torch.eye(3, dtype=torch.bool)).backward()
    moved = {
        name.split(".")[0] for name, p in prior.named_parameters() if p.grad is not None and p.grad.abs().max() > 0
    }
    assert moved == {"image", "words", "sharpness", "offset"}
