"""Ways to make a video: known frames stand as they are, loops close, an extension is one long sample in pieces."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowvid.encoders.codec import IdentityCodec
from flowvid.generate.modes import extend, generate, looped
from flowvid.models.baselines import LinearBlend
from flowvid.models.clip_generator import ClipGenerator
from flowvid.models.frames import not_known, place_known
from flowvid.models.guided import Guided
from flowvid.models.video_model import VideoModel
from flowvid.noise import Noise
from flowvid.solve.solution import Solution
from flowvid.video import Condition, Said, Trajectory, Video, as_times, time_grid

FRAME = 0.1


class Coasting(VideoModel):
    """Goes on with the velocity of the last two known states, kicked by independent noise at every grid step."""

    def __init__(self, kick: float = 0.0) -> None:
        self.kick = kick
        self.asked: list[Condition] = []
        self.lengths: list[int] = []

    @property
    def solvers(self) -> tuple[str, ...]:
        return ("exact",)

    def sample(
        self, condition: Condition, times: Sequence[float], noise: Noise, *, solver: str | None = None
    ) -> Solution:
        known = condition.require()
        self.asked.append(condition)
        self.lengths.append(len(times))
        assert abs(float(known.times[-1] - known.times[-2]) - FRAME) < 1e-9
        state, velocity = known.states[:, -1], (known.states[:, -1] - known.states[:, -2]) / FRAME
        now, found = known.times[-1].item(), {}
        for number, time in enumerate(not_known(list(times), known)):
            velocity = velocity + self.kick * noise.normal(f"kick {number}", *state.shape[1:], dtype=state.dtype)
            state, now = state + velocity * (time - now), time
            found[time] = state
        return Solution(place_known(found, times, known), len(found), len(found))


def moving(count: int = 1, velocity: float = 0.05) -> Video:
    """Two known frames of constant velocity, the last at 0.3 s."""
    times = as_times([0.2, 0.3])
    frames = (velocity * (times - 0.3)).float()[None, :, None, None, None].expand(count, -1, 1, 2, 2)
    return Video(frames, times)


@given(fps=st.sampled_from([4.0, 7.0, 10.0, 24.0]), piece=st.floats(0.05, 1.5), seconds=st.floats(0.3, 3.0))
def test_an_extension_in_pieces_is_the_long_sample_where_motion_is_determined(
    fps: float, piece: float, seconds: float
) -> None:
    known, model = moving(2, 0.1), Coasting()
    pieces = list(
        extend(IdentityCodec(), model, known, seconds, fps=fps, frame=FRAME, noise=Noise.batch(0, 2), piece=piece)
    )
    times = torch.cat([one.times for one in pieces])
    film = time_grid(0.0, seconds, 1 / fps)[1:]
    assert torch.allclose(times, film + 0.3, atol=1e-12)
    found = torch.cat([one.frames for one in pieces], dim=1)
    exact = (0.1 * film).float()[None, :, None, None, None].expand_as(found)
    assert torch.allclose(found, exact, atol=2e-5)
    assert max(model.lengths) <= math.ceil(max(piece, 2 * FRAME) * fps) + 1


def test_an_extension_has_the_same_law_across_seams_as_within_pieces() -> None:
    count, kick, seconds = 4000, 0.02, 2.0
    known = moving(1, 0.0)
    pieces = list(
        extend(
            IdentityCodec(),
            Coasting(kick),
            known,
            seconds,
            fps=1 / FRAME,
            frame=FRAME,
            noise=Noise.batch(3, count),
            piece=0.5,
        )
    )
    path = torch.cat([known.frames.expand(count, -1, -1, -1, -1), *(one.frames for one in pieces)], dim=1)[..., 0, 0, 0]
    kicks = path.double().diff(n=2, dim=1) / FRAME
    assert kicks.shape[1] == 20
    spread = kicks.std(dim=0)
    assert torch.allclose(spread, torch.full_like(spread, kick), rtol=5 / math.sqrt(2 * count))
    across = torch.corrcoef(kicks.T) - torch.eye(20, dtype=torch.float64)
    assert float(across.abs().max()) < 5 / math.sqrt(count)


def test_a_sample_of_an_extension_does_not_depend_on_its_batch() -> None:
    def made(noise: Noise) -> torch.Tensor:
        pieces = extend(IdentityCodec(), Coasting(0.05), moving(), 1.0, fps=10.0, frame=FRAME, noise=noise, piece=0.3)
        return torch.cat([one.frames for one in pieces], dim=1)

    assert torch.equal(made(Noise.of([5, 6, 7]))[1:2], made(Noise.of([6])))


def test_an_extension_is_made_piece_by_piece_and_told_the_words() -> None:
    model = Coasting()
    pieces = extend(
        IdentityCodec(), model, moving(), 100.0, fps=10.0, frame=FRAME, noise=Noise.batch(0, 2), text="hello"
    )
    assert model.asked == []
    next(pieces)
    next(pieces)
    assert len(model.asked) == 2
    assert all(condition.text == ((Said("hello"),),) * 2 for condition in model.asked)


@pytest.mark.parametrize("name", ["seconds", "fps", "frame", "piece"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_an_extension_of_no_length_is_refused(name: str, value: float) -> None:
    numbers = {"seconds": 1.0, "fps": 10.0, "frame": FRAME, "piece": 1.0} | {name: value}
    with pytest.raises(ValueError, match="positive seconds, fps, frame and piece"):
        next(extend(IdentityCodec(), Coasting(), moving(), noise=Noise.batch(0, 1), **numbers))


def test_known_frames_stand_as_they_were_given_and_one_video_is_known_to_all() -> None:
    known = Video(torch.rand(1, 2, 1, 4, 4) * 2 - 1, as_times([0.0, 1.0]))
    times = [0.0, 0.25, 1.0]

    class Lossy(IdentityCodec):
        def frames(self, latents: torch.Tensor) -> torch.Tensor:
            return 0.5 * latents

    found = generate(Lossy(), LinearBlend(), times, Noise.batch(0, 3), known=known)
    assert found.frames.shape == (3, 3, 1, 4, 4)
    for one in found.frames:
        assert torch.equal(one[[0, 2]], known.frames[0])
        assert torch.allclose(one[1], 0.5 * torch.lerp(known.frames[0, 0], known.frames[0, 1], 0.25))


def test_a_loop_ends_where_it_began() -> None:
    first = Video(torch.rand(2, 1, 1, 4, 4) * 2 - 1, as_times([0.5]))
    known = looped(first, 2.0)
    assert known.times.tolist() == [0.5, 2.5]
    film = generate(IdentityCodec(), LinearBlend(), [0.5, 1.0, 2.5], Noise.batch(0, 2), known=known)
    assert torch.equal(film.frames[:, 0], film.frames[:, -1])


@pytest.mark.parametrize(("count", "seconds"), [(2, 1.0), (1, 0.0), (1, math.inf)])
def test_a_loop_of_two_frames_or_of_no_time_is_refused(count: int, seconds: float) -> None:
    first = Video(torch.zeros(1, count, 1, 4, 4), time_grid(0.0, 0.1 * (count - 1), 0.1))
    with pytest.raises(ValueError, match="A loop has one frame"):
        looped(first, seconds)


def test_numbers_that_do_not_go_together_are_refused() -> None:
    known = moving(2)
    with pytest.raises(ValueError, match="each of 3; got 2 videos"):
        generate(IdentityCodec(), LinearBlend(), [0.25], Noise.batch(0, 3), known=known)
    with pytest.raises(ValueError, match="each of the 2 videos; got 1"):
        generate(IdentityCodec(), LinearBlend(), [0.25], Noise.batch(0, 2), known=known, text=["one"])
    with pytest.raises(ValueError, match="does not read"):
        generate(IdentityCodec(), LinearBlend(), [0.25], Noise.batch(0, 2), known=known, text="one")


def test_a_guided_model_is_the_model_at_that_guidance() -> None:
    torch.manual_seed(0)
    model = ClipGenerator(1, frame=FRAME, frames=4, width=16, heads=2, depth=1, steps=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.prepare(Trajectory(torch.randn(2, 6, 1, 4, 4), time_grid(0.0, 0.5, FRAME)))
    condition, times = Condition(text=["the seven rests", "the two rests"]), [0.0, 0.1, 0.2]
    for scale in (0.0, 1.0, 3.0):
        ours = Guided(model, scale).sample(condition, times, Noise.batch(0, 2), solver="ddim-3")
        theirs = model.sample(condition, times, Noise.batch(0, 2), solver="ddim-3", guidance=scale)
        assert torch.equal(ours.trajectory.states, theirs.trajectory.states)
        assert ours.evaluations == theirs.evaluations
    text_only = generate(IdentityCodec(), Guided(model, 2.0), times, Noise.batch(0, 2), text="the seven rests")
    assert text_only.frames.shape == (2, 3, 1, 4, 4)
