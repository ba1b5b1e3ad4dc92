"""Identity kept: held-out digits are recognised wherever they are, others are not, and any callable may judge."""

import math

import pytest
import torch
from torch import Tensor

from flowvid.data.worlds.clips import World, render_clips
from flowvid.data.worlds.digits import load_glyphs
from flowvid.metrics.identity import DigitClassifier, identity_kept
from flowvid.video import Video


@pytest.fixture(scope="module")
def classifier() -> DigitClassifier:
    return DigitClassifier.fit()


def test_held_out_digits_are_kept_on_their_way(classifier: DigitClassifier) -> None:
    clips = World().clips(range(60), "test")
    video = render_clips(clips, [0.0, 0.4, 1.3])
    before = video.frames.clone()
    kept = identity_kept(video, [clip.labels[0] for clip in clips], classifier)
    assert kept.shape == (60, 3)
    assert float(kept.mean()) > 0.95
    wrong = identity_kept(video, [(clip.labels[0] + 3) % 10 for clip in clips], classifier)
    assert float(wrong.mean()) < 0.02
    assert torch.equal(video.frames, before)


def test_the_mean_digits_do_not_depend_on_the_scale(classifier: DigitClassifier) -> None:
    other = DigitClassifier.fit(4).means
    assert float(torch.corrcoef(torch.stack((classifier.means.flatten(), other.flatten())))[0, 1]) > 0.99


@pytest.mark.parametrize("scale", [1, 3])
def test_a_classifier_belongs_to_a_scale(scale: int) -> None:
    world = World(scale=scale, canvas=14 * scale)
    clips = world.clips(range(40), "test")
    video = render_clips(clips, [0.2])
    labels = [clip.labels[0] for clip in clips]
    assert float(identity_kept(video, labels, DigitClassifier.fit(scale)).mean()) > 0.9


def test_a_digit_that_becomes_another_is_not_kept(classifier: DigitClassifier) -> None:
    clips = World().clips(range(40), "test")
    labels = [clip.labels[0] for clip in clips]
    frames = render_clips(clips, [0.0, 1.0]).frames
    other = frames.roll(1, dims=0)
    same = torch.tensor([label == labels[index - 1] for index, label in enumerate(labels)])
    video = Video(torch.cat((frames[:, :1], other[:, 1:]), dim=1), torch.tensor([0.0, 1.0], dtype=torch.float64))
    kept = identity_kept(video, labels, classifier)
    assert float(kept[:, 0].mean()) > 0.95
    assert float(kept[~same, 1].mean()) < 0.05


def test_probabilities_of_held_out_digits_are_honest_and_sum_to_one(classifier: DigitClassifier) -> None:
    """Where it is wrong it is not certain: the log-loss is far below that of certainty, and of doubt."""
    clips = World().clips(range(600), "test")
    found = classifier(render_clips(clips, [0.0]).frames.flatten(0, 1))
    labels = torch.tensor([clip.labels[0] for clip in clips])
    assert torch.allclose(found.sum(dim=1), torch.ones(600, dtype=torch.float64))
    digit = found.argmax(dim=1)
    assert float((digit == labels).double().mean()) > 0.98
    assert float(-found[torch.arange(600), labels].clamp(min=1e-300).log().mean()) < 0.1
    assert set(digit.tolist()) == set(load_glyphs("test").labels.tolist())


def test_any_callable_may_judge_and_each_frame_is_looked_up_in_place() -> None:
    """A judge that reads a digit from the brightness of a frame."""

    def judge(frames: Tensor) -> Tensor:
        digit = ((frames.mean(dim=(1, 2, 3)) + 1) * 5).round().long()
        return 0.1 * torch.full((len(frames), 10), 0.1) + 0.9 * torch.nn.functional.one_hot(digit, 10)

    shown = torch.tensor([[0, 3], [3, 9], [9, 0]])
    video = Video((shown / 5 - 1)[:, :, None, None, None].expand(-1, -1, 1, 4, 4), torch.tensor([0.0, 0.1]).double())
    kept = identity_kept(video, [3, 3, 0], judge)
    assert kept.tolist() == [
        pytest.approx([0.01, 0.91]),
        pytest.approx([0.91, 0.01]),
        pytest.approx([0.01, 0.91]),
    ]


@pytest.mark.parametrize("labels", [[1], [1, 2, 3], [1, 10], [-1, 1]])
def test_labels_must_fit_the_clips(labels: list[int]) -> None:
    video = Video(torch.zeros(2, 1, 1, 4, 4), torch.zeros(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="one label from 0 to 9 for each of the 2 clips"):
        identity_kept(video, labels, lambda frames: torch.full((len(frames), 10), 0.1))


@pytest.mark.parametrize(
    "wrong",
    [
        torch.full((2, 9), 1 / 9),
        torch.full((1, 10), 0.1),
        torch.full((2, 10), 0.2),
        torch.full((2, 10), math.nan),
        torch.tensor([[1.5, -0.5, *[0.0] * 8]] * 2),
    ],
)
def test_a_judge_that_returns_no_probabilities_is_refused(wrong: Tensor) -> None:
    video = Video(torch.zeros(1, 2, 1, 4, 4), torch.arange(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="ten probabilities"):
        identity_kept(video, [1], lambda frames: wrong)


def test_a_scale_is_positive() -> None:
    with pytest.raises(ValueError, match="scale"):
        DigitClassifier.fit(0)
