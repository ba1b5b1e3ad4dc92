"""The experiment on words: laws in closed form, scores of the truth, claims, and a whole run of a few steps."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from experiments.recipes import text
from experiments.text import _over, _said_claims, _told_claims, _told_clips, draw, measure
from experiments.text_models import Texts, moments, told_moments, train_reader
from experiments.text_scores import WORDS, Law, law, path_scores, said_scores
from flowvid.data.worlds.branching import futures
from flowvid.data.worlds.clips import render_clips
from flowvid.data.worlds.describe import describe, describe_moment
from flowvid.metrics.reader import DigitReader
from flowvid.models.clip_windows import draw_start
from flowvid.noise import Noise

QUICK = text("quick")
TIMES = QUICK.told.times.tolist()
SPAN = (TIMES[1], TIMES[-1])


def test_moments_lie_in_the_middles_of_equal_shares() -> None:
    assert moments(4, (1.0, 3.0)) == [1.25, 1.75, 2.25, 2.75]
    assert moments(1, (0.25, 2.0)) == [1.125]
    assert moments(0, (0.0, 1.0)) == []


def test_training_tells_random_moments_every_number_of_them_and_truly() -> None:
    clips = QUICK.told.world.clips(range(60), "train")
    told = told_moments(clips, SPAN, 4, seed=3)
    assert told == told_moments(clips, SPAN, 4, seed=3) != told_moments(clips, SPAN, 4, seed=4)
    assert {len(said) for said in told} == {0, 1, 2, 3, 4}
    times = [one.time for said in told for one in said if one.time is not None]
    assert min(times) >= SPAN[0]
    assert max(times) <= SPAN[1]
    assert max(times) - min(times) > 0.9 * (SPAN[1] - SPAN[0])
    for clip, said in zip(clips, told, strict=True):
        spoken = [one.time for one in said if one.time is not None]
        assert spoken == sorted(spoken)
        assert [one.words for one in said] == [str(describe_moment(clip, time)) for time in spoken]


def test_the_law_of_what_is_told() -> None:
    for clip in _told_clips(QUICK):
        tree = futures(clip, TIMES[1], TIMES[-1])
        assert len(tree) > 1
        truth = clip.positions(TIMES[2:])[:, 0]
        open_law = law(clip, TIMES[1], [], TIMES[2:])
        assert open_law.weights.tolist() == pytest.approx([weight for weight, _ in tree])
        assert len(open_law.weights) == len(tree)
        before = len(tree)
        for count in (1, 2, 4, 8):
            known = law(clip, TIMES[1], moments(count, SPAN), TIMES[2:])
            assert float(known.weights.sum()) == pytest.approx(1.0)
            assert float((known.paths - truth).abs().amax(dim=(1, 2)).min()) == 0.0
            assert len(known.weights) <= before
        assert float((known.paths - truth).norm(dim=2).mean()) < 0.5


def test_a_law_is_conditioned_not_cut() -> None:
    """Of three futures of 1/2, 1/4, 1/4, those that agree with what is said keep the ratio of their probabilities."""
    clip = next(one for one in _told_clips(QUICK) if len(futures(one, TIMES[1], TIMES[-1])) > 2)
    tree = futures(clip, TIMES[1], TIMES[-1])
    moment = [0.9]
    kept = [weight for weight, one in tree if describe_moment(one, 0.9) == describe_moment(clip, 0.9)]
    known = law(clip, TIMES[1], moment, TIMES[2:])
    assert known.weights.tolist() == pytest.approx([weight / sum(kept) for weight in kept])


@pytest.mark.parametrize("pairs", [1, 3, 10])
def test_scores_of_a_fair_coin_in_closed_form(pairs: int) -> None:
    """Two futures 2 pixels apart at every time, n samples, half of each."""
    one, other = torch.zeros(5, 2).double(), torch.tensor([0.0, 2.0]).double().expand(5, 2)
    known = Law(torch.tensor([0.5, 0.5]).double(), torch.stack((one, other)))
    found = path_scores(torch.stack([one, other] * pairs), other, known)
    count = 2 * pairs
    assert found["error"] == pytest.approx(1.0)
    assert found["spread"] == pytest.approx(count / (count - 1))
    assert found["energy"] == pytest.approx(-1 / (count - 1))
    assert found["law_error"] == found["law_spread"] == pytest.approx(1.0)
    assert found["futures"] == 2
    uneven = path_scores(
        torch.stack([one, one, other]), one, Law(torch.tensor([0.75, 0.25]).double(), torch.stack((one, other)))
    )
    assert uneven["law_error"] == pytest.approx(0.5)
    assert uneven["law_spread"] == pytest.approx(0.75)
    assert uneven["error"] == pytest.approx(2 / 3)
    assert uneven["energy"] == pytest.approx(2 * (2 / 3 * 0.5 + 1 / 3 * 1.5) - 4 / 3 - 0.75)


def test_samples_at_the_truth_are_perfect_and_one_wrong_future_is_not() -> None:
    one, other = torch.zeros(3, 2).double(), torch.ones(3, 2).double()
    known = Law(torch.ones(1).double(), one[None])
    right, wrong = (path_scores(torch.stack([path, path]), one, known) for path in (one, other))
    assert right["error"] == right["spread"] == right["energy"] == 0
    assert wrong["error"] == pytest.approx(2**0.5)
    assert wrong["spread"] == 0
    assert wrong["energy"] == pytest.approx(2 * 2**0.5)


def test_the_truth_shows_its_own_captions_and_not_those_of_others() -> None:
    clips = QUICK.said.world.clips(range(16), "test")
    video = render_clips(clips, QUICK.said.times)
    captions = [describe(clip, 0.0, QUICK.said.times[-1].item()) for clip in clips]
    reader = DigitReader.fit(QUICK.said.world.scale)
    own, others = (said_scores(reader, video, told) for told in (captions, [*captions[3:], *captions[:3]]))
    assert set(own) == set(WORDS)
    assert all(sum(own[word]) >= 11 for word in ("digit", "direction", "speed"))
    assert all(sum(others[word]) <= 6 for word in ("digit", "direction"))
    assert sum(others["all"]) == 0


def test_windows_of_starts() -> None:
    index, exists, known = draw_start(Noise.batch(0, 600), 9, 5, torch.device("cpu"))
    assert bool(exists.all())
    assert bool((index.diff(dim=1) == 1).all())
    assert set(index[:, 0].tolist()) == {0, 1, 2, 3, 4}
    counts = known.sum(1)
    assert bool((known == (torch.arange(5) < counts[:, None])).all())
    assert torch.bincount(counts, minlength=3).tolist() == pytest.approx([200] * 3, abs=50)
    whole, _, _ = draw_start(Noise.batch(0, 4), 5, 5, torch.device("cpu"))
    assert bool((whole == torch.arange(5)).all())


def test_differences_are_over_seeds_where_there_are_several_else_over_clips() -> None:
    assert _over([[1.0, 2.0]], [[0.0, 4.0]]) == [1.0, -2.0]
    assert _over([[1.0, 2.0], [3.0, 4.0]], [[0.0, 4.0]]) == [-0.5, 1.5]
    assert _over([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [0.0, 0.0]]) == [0.0, 3.5]


def _scores(level: float) -> dict[str, list[list[float]]]:
    return {word: [[level, level + 0.01, level - 0.01]] for word in WORDS}


def test_claims_can_hold_and_can_fail() -> None:
    levels = {"floor": 0.1, "text, 0": 0.1, "text, 1": 0.5, "text, 2": 0.6, "text, 4": 0.55, "frame, 1": 0.7}
    good = {
        name if name == "floor" else f"{kind}, {name}": _scores(level)
        for name, level in levels.items()
        for kind in ("flow", "diffusion")
    }
    assert all(one["holds"] for one in _said_claims(good))
    turned = {name: _scores(1 - values["digit"][0][0]) for name, values in good.items()}
    verdicts = {one["key"]: one["holds"] for one in _said_claims(turned)}
    assert not any(verdicts[f"X{number}"] for number in (1, 2, 3, 4, 6, 7, 8, 9))
    apart = good | {"diffusion, text, 1": _scores(0.9), "flow, text, 0": _scores(0.5)}
    verdicts = {one["key"]: one["holds"] for one in _said_claims(apart)}
    assert not verdicts["X5"]
    assert not verdicts["X10"]


def test_claims_of_moments_can_hold_and_can_fail() -> None:
    def told(errors: tuple[float, ...]) -> dict[str, dict[str, list[list[float]]]]:
        keys = ("error", "spread", "energy", "law_spread")
        return {
            str(count): {key: [[error, error + 0.01]] for key in keys}
            for count, error in zip((0, 1, 2, 4), errors, strict=True)
        }

    assert all(one["holds"] for one in _told_claims(told((4.0, 3.0, 2.0, 1.0))))
    worse = {one["key"]: one["holds"] for one in _told_claims(told((1.0, 2.0, 3.0, 4.0)))}
    assert [key for key, holds in worse.items() if holds] == ["X16"]
    narrow = told((4.0, 3.0, 2.0, 1.0))
    narrow["0"]["spread"] = [[1.0, 1.0]]
    assert not {one["key"]: one["holds"] for one in _told_claims(narrow)}["X16"]


def test_a_run_of_a_few_steps_is_drawn_continued_and_kept_apart(tmp_path: Path) -> None:
    run: Texts = dataclasses.replace(QUICK, clips=3, branches=2)
    found = measure(run, work=tmp_path)
    assert [one["key"] for one in found["claims"]] == [f"X{number}" for number in range(1, 18)]
    assert len(found["said"]) == 2 + 2 * 2 * len(run.guidance)
    assert set(found["told"]) == {"codec", "0", "1", "2", "4"}
    laws = [found["told"][str(count)]["law_error"][0] for count in run.counts]
    assert laws == sorted(laws, reverse=True)
    content = json.loads(json.dumps({"recipe": dataclasses.asdict(run), **found}))
    draw(content, tmp_path / "figures", work=tmp_path)
    for name in ("text.png", "text_film.png", "text_moments_film.png", "text-error.pdf"):
        assert (tmp_path / "figures" / name).stat().st_size > 0
    path = tmp_path / "flow-seed0.safetensors"

    def never() -> None:
        raise AssertionError

    kept = train_reader("flow", run.said, never, never, path)  # pyrefly: ignore[bad-argument-type]
    assert round(kept.seconds, 1) == found["seconds_of_training"]["flow"]
    with pytest.raises(ValueError, match="another run"):
        train_reader("diffusion", run.said, never, never, path)  # pyrefly: ignore[bad-argument-type]
