"""What heads are trained on: the situations of samplers, their anchors, their weights, and nothing else read."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvid.dynamics.heads import TransitionHeads, dyadic_gaps
from flowvid.dynamics.state import Surroundings
from flowvid.models.frames import state_at
from flowvid.models.transitions import SITUATIONS, Transitions, draw_transitions
from flowvid.noise import Noise
from flowvid.video import Condition, Trajectory

FRAME, REACH, SCALES, CHANNELS, SIDE = 0.125, 6, 3, 2, 3
LONGEST = 2 ** (SCALES - 1)
BATCH, COUNT = 320, 2 * REACH + 5


def shares(batch: int) -> list[slice]:
    """The rows of the situations in a batch, in their order."""
    edges = [0, *(round(sum(list(SITUATIONS.values())[: n + 1]) * batch) for n in range(3))]
    return [slice(*pair) for pair in pairwise(edges)]


STARTS, INNERS, ENDS = shares(BATCH)


def heads() -> TransitionHeads:
    """Heads in double precision whose network says something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = TransitionHeads(CHANNELS, dyadic_gaps(FRAME, SCALES), width=8).double()
        for parameter in made.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made.requires_grad_(False)


HEADS = heads()
FRAMES = (HEADS.gap / FRAME).round().long()


def data(count: int = COUNT, *, batch: int = BATCH) -> Trajectory:
    states = Noise.batch(3, batch).normal("states", count, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    return Trajectory(states, FRAME * torch.arange(count, dtype=torch.float64))


def draw(trajectory: Trajectory, seed: int = 0, *, input_noise: float = 0.05, reach: int = REACH) -> Transitions:
    noise = Noise.batch(seed, len(trajectory))
    return draw_transitions(HEADS, trajectory, noise, frame=FRAME, reach=reach, bounded=0.5, input_noise=input_noise)


def frames_to(span: Tensor) -> Tensor:
    """Whole frames of spans, which must be whole."""
    found = (span / FRAME).round().long()
    torch.testing.assert_close(found * FRAME, span, check_dtype=False)
    return found


@settings(max_examples=20)
@given(st.integers(1, 300))
def test_situations_take_their_shares_of_every_batch(batch: int) -> None:
    assert sum(SITUATIONS.values()) == pytest.approx(1)
    drawn = draw(data(batch=batch))
    assert drawn.clip.tolist() == list(range(batch))
    assert bool(drawn.query.past.present.all())
    later, bounded = drawn.query.past.span < 0, drawn.query.future.present
    found = {
        "start": int((~later).sum()),
        "inner": int((later & drawn.query.moving).sum()),
        "end": int((later & ~drawn.query.moving & ~bounded).sum()),
    }
    assert sum(found.values()) == batch
    for name, share in SITUATIONS.items():
        assert abs(found[name] - share * batch) <= 1


def test_shapes() -> None:
    drawn = draw(data())
    assert drawn.query.state.shape == (BATCH, 2 * CHANNELS, SIDE, SIDE)
    assert drawn.weight.shape == (BATCH, 2 * SCALES)
    assert drawn.index.shape == drawn.clip.shape == (BATCH,)
    assert drawn.query.past.state.shape == drawn.query.future.state.shape == drawn.query.state.shape


@pytest.mark.parametrize("seed", range(3))
def test_anchors_are_known_states_of_the_same_clip_at_their_signed_distance(seed: int) -> None:
    clips, drawn = data(), draw(data(), seed)
    for anchor, sign in ((drawn.query.past, -1), (drawn.query.future, 1)):
        present, span = anchor.present, frames_to(anchor.span)
        assert bool((span * sign >= 0).all())
        at = drawn.index + span
        assert int(at.min()) >= 1
        assert int(at.max()) <= COUNT - 1
        true = state_at(clips, at, frame=FRAME)
        true[:, CHANNELS:][~anchor.moving] = 0
        true[~present] = 0
        assert torch.equal(anchor.state, true)
        assert not bool(anchor.moving[~present].any())
        assert bool((span == 0)[~present].all())
    assert torch.equal(drawn.query.past.state[STARTS], drawn.query.state[STARTS])
    assert torch.equal(drawn.query.past.moving[STARTS], drawn.query.moving[STARTS])
    assert not bool((drawn.query.past.span[STARTS]).any())
    assert bool((drawn.query.future.span != 0)[drawn.query.future.present].all())
    assert not bool(drawn.query.future.moving.any())
    assert int(-frames_to(drawn.query.past.span).min()) >= -2 * REACH
    assert int(frames_to(drawn.query.future.span).max()) == REACH


def test_known_states_are_exact_and_still_ones_have_no_velocity_and_say_so() -> None:
    clips, drawn = data(), draw(data())
    for rows in (STARTS, ENDS):
        true = state_at(clips, drawn.index, frame=FRAME)[rows]
        still = ~drawn.query.moving[rows]
        true[:, CHANNELS:][still] = 0
        assert torch.equal(drawn.query.state[rows], true)
    still = ~drawn.query.moving
    assert 0 < int(still[STARTS].sum()) < int(drawn.query.future.present[STARTS].sum()) / 2
    assert bool(drawn.query.future.present[STARTS][still[STARTS]].all())
    assert not bool(still[INNERS].any())
    assert bool(still[ENDS].all())


@pytest.mark.parametrize("seed", range(3))
def test_weights_follow_the_use_of_the_heads(seed: int) -> None:
    """1 up to the next gap beyond an anchor, 0.1 for longer ones, 0 where no sampler asks."""
    drawn = draw(data(), seed)
    before, after = frames_to(-drawn.query.past.span), frames_to(drawn.query.future.span)
    for row in range(BATCH):
        for column, gap in enumerate(FRAMES.tolist()):
            anchor = int(after[row]) if gap > 0 else int(before[row])
            expected = 1.0 if anchor == 0 or abs(gap) < 2 * anchor else 0.1
            if (row < STARTS.stop and gap < 0) or (row >= ENDS.start and gap > 0):
                expected = 0.0
            assert drawn.weight[row, column].item() == pytest.approx(expected, abs=1e-12)
    assert set(drawn.weight[INNERS].flatten().tolist()) == {0.1, 1.0}


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_read_but_anchors_and_what_lies_between_them(seed: int) -> None:
    """All other frames of the clip may be anything, also those before the first and after the last one needed."""
    clips, drawn = data(), draw(data(), seed)
    before, after = frames_to(drawn.query.past.span), frames_to(drawn.query.future.span)
    poisoned = clips.states.clone()
    for row in range(BATCH):
        index = int(drawn.index[row])
        first = index + int(before[row]) - 1
        last = index + int(after[row])
        if INNERS.start <= row < INNERS.stop and after[row] == 0:
            last = index + LONGEST
        poisoned[row, : max(first, 0)] = math.nan
        poisoned[row, last + 1 :] = math.nan
    again = draw(Trajectory(poisoned, clips.times), seed)
    for one, other in ((drawn.query, again.query), (drawn.query.past, again.query.past)):
        assert bool(other.state.isfinite().all())
        torch.testing.assert_close(one.state, other.state, rtol=1e-12, atol=1e-12)
    assert torch.equal(drawn.query.future.state, again.query.future.state)
    assert torch.equal(drawn.weight, again.weight)


def jumps(clips: Trajectory, row: int, index: int, known: list[int], past: int) -> Tensor:
    """Where every gap leads to this frame by one jump of a sampler that knows some frames; NaN where it would not."""
    last = known[-1] if known[-1] > index else COUNT
    one = Trajectory(clips.states[row : row + 1], clips.times)
    around = Surroundings(Condition(one.at(*(FRAME * frame for frame in known))), gap=FRAME)
    found = torch.full((2 * SCALES, 2 * CHANNELS, SIDE, SIDE), math.nan, dtype=torch.float64)
    for column, gap in enumerate(FRAMES.tolist()):
        source = index - gap
        if not past <= source < last:
            continue
        moving = source != past or past - 1 in known
        state = state_at(one, torch.tensor([[source]]), frame=FRAME)
        state[:, :, CHANNELS:] *= moving
        rates = HEADS(around.query([FRAME * source], state, [moving]))
        found[column] = state[0, 0] + rates[0, column] * HEADS.gap[column]
    return found


def test_inner_states_are_where_one_jump_of_a_sampler_leads_and_true_ones_where_none_does() -> None:
    clips, drawn = data(), draw(data(), input_noise=0.0)
    exact = state_at(clips, drawn.index, frame=FRAME)
    before, after = frames_to(drawn.query.past.span), frames_to(drawn.query.future.span)
    sources = []
    for row in range(INNERS.start, INNERS.stop):
        index, past = int(drawn.index[row]), int(drawn.index[row] + before[row])
        known = [past - 1] * bool(drawn.query.past.moving[row]) + [past] + [index + int(after[row])] * bool(after[row])
        candidates = torch.cat((exact[row, None], jumps(clips, row, index, known, past)))
        errors = (candidates - drawn.query.state[row]).abs().flatten(1).amax(dim=1).nan_to_num(math.inf)
        assert float(errors.min()) < 1e-10
        chosen = int(errors.argmin())
        sources.append("true" if chosen == 0 else "anchor" if index - int(FRAMES[chosen - 1]) == past else "between")
    assert all(sources.count(kind) >= 5 for kind in ("true", "anchor", "between"))


def test_true_inner_states_carry_noise_of_the_stated_size_in_their_own_units() -> None:
    """Where no jump leads, states differ from the truth by the noise, velocities by as much in units of their own."""
    clips, factor = data(batch=3000), 0.3
    quiet, noisy = (draw(clips, input_noise=size) for size in (0.0, factor))
    rows = shares(3000)[1]
    exact = state_at(clips, quiet.index, frame=FRAME)[rows]
    untouched = (quiet.query.state[rows] == exact).flatten(1).all(dim=1)
    difference = (noisy.query.state - quiet.query.state)[rows]
    assert bool((difference[~untouched] == 0).all())
    latent, velocity = difference[untouched].chunk(2, dim=1)
    assert float(latent.std()) == pytest.approx(factor, rel=0.05)
    assert float(velocity.std()) == pytest.approx(factor * HEADS.velocity_scale.item(), rel=0.05)
    assert torch.equal(noisy.query.past.state, quiet.query.past.state)


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_draws_are_a_function_of_the_noise(seed: int) -> None:
    clips = data(batch=20)
    first, same, other = draw(clips, seed), draw(clips, seed), draw(clips, seed + 1)
    assert torch.equal(first.query.state, same.query.state)
    assert torch.equal(first.index, same.index)
    assert torch.equal(first.weight, same.weight)
    assert not torch.equal(first.index, other.index)


def test_the_pushforward_leaves_no_graph() -> None:
    trained = heads().requires_grad_(True)
    drawn = draw_transitions(
        trained, data(), Noise.batch(0, BATCH), frame=FRAME, reach=REACH, bounded=0.5, input_noise=0.1
    )
    assert not drawn.query.state.requires_grad


def test_all_frames_that_samplers_meet_are_drawn() -> None:
    drawn = draw(data(batch=2000))
    firsts, stops = (1, REACH + 1, REACH + 1), (COUNT - REACH, COUNT - REACH, COUNT)
    for rows, first, stop in zip(shares(2000), firsts, stops, strict=True):
        assert sorted(set(drawn.index[rows].tolist())) == list(range(first, stop))


def test_a_reach_below_the_longest_gap_and_short_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="longest gap, 4 frames; got 3"):
        draw(data(), reach=3)
    draw(data(2 * REACH + 2))
    with pytest.raises(ValueError, match=r"at least 14 frames.*got 13"):
        draw(data(2 * REACH + 1))
