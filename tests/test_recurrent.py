"""The LSTM composite: its cell against that of torch, what each part may see, and that it learns both its tasks."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flowvid.models.hub import load_pretrained
from flowvid.models.recurrent import RecurrentComposite
from flowvid.networks.recurrent import GridLstm, Memory
from flowvid.noise import Noise
from flowvid.train.loop import Optimisation, fit
from flowvid.video import Condition, Trajectory

FRAME, GIVEN, AHEAD, CHANNELS, SIDE = 0.125, 4, 3, 2, 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grid_lstm(inputs: int, width: int, *, layers: int = 1, kernel: int = 1) -> GridLstm:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GridLstm(inputs, width, layers=layers, kernel=kernel).double()


def run(lstm: GridLstm, inputs: Tensor) -> Tensor:
    """What the last layer shows after each input (batch, time, inputs, rows, columns)."""
    memory, shown = lstm.empty(inputs[:, 0]), []
    for grid in inputs.unbind(dim=1):
        memory = lstm(grid, memory)
        shown.append(memory.shown[:, -1])
    return torch.stack(shown, dim=1)


def oscillation(batch: int, frames: int, *, seed: int = 0, start: int = 0) -> Trajectory:
    """z = a cos(t) + b sin(t), with amplitudes of its own in every place; so two frames determine the rest."""
    times = FRAME * (torch.arange(frames, dtype=torch.float64) + start)
    a, b = Noise.batch(seed, batch).normal("amplitude", 2, 1, CHANNELS, SIDE, SIDE, dtype=torch.float64).unbind(1)
    angle = 3 * times[:, None, None, None]
    return Trajectory(a * angle.cos() + b * angle.sin(), times)


def composite(seed: int = 0, **options: object) -> RecurrentComposite:
    settings_: dict[str, object] = {"patch": 2, "width": 6, "layers": 2, "given": GIVEN, "ahead": AHEAD} | options
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RecurrentComposite(CHANNELS, frame=FRAME, **settings_).double()


class Stub(nn.Module):
    """A decoder that answers what it is told to, and keeps what it was asked."""

    def __init__(self, answer: Tensor | None = None) -> None:
        super().__init__()
        self.answer, self.asked, self.memory = answer, None, None

    def forward(self, memory: Memory, count: int, *, shown: Tensor | None = None) -> Tensor:
        self.asked, self.memory = shown, memory
        found = shown if self.answer is None else self.answer
        assert found is not None
        return found


# ----------------------------------------------------------------------------------------------------------------------
# The cell
# ----------------------------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_on_one_place_it_is_the_lstm_of_torch(inputs: int, width: int, layers: int) -> None:
    ours, theirs = grid_lstm(inputs, width, layers=layers), nn.LSTM(inputs, width, layers, batch_first=True).double()
    with torch.no_grad():
        for layer, gate in enumerate(ours.gates):
            weight = gate.weight.flatten(1)
            cut = weight.shape[1] - width
            getattr(theirs, f"weight_ih_l{layer}").copy_(weight[:, :cut])
            getattr(theirs, f"weight_hh_l{layer}").copy_(weight[:, cut:])
            getattr(theirs, f"bias_ih_l{layer}").copy_(gate.bias)
            getattr(theirs, f"bias_hh_l{layer}").zero_()
        values = normal(3, 5, inputs)
        torch.testing.assert_close(run(ours, values[..., None, None])[..., 0, 0], theirs(values)[0])


def test_the_forget_gate_starts_open() -> None:
    lstm = grid_lstm(2, 3, layers=2)
    for gate in lstm.gates:
        assert gate.bias.tolist() == [0.0] * 3 + [1.0] * 3 + [0.0] * 6


def test_with_a_kernel_of_one_places_are_apart_and_alike() -> None:
    lstm, values = grid_lstm(2, 3), normal(2, 4, 2, 3, 3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    shuffled = run(lstm, values.flatten(3)[..., order].unflatten(3, (3, 3)))
    torch.testing.assert_close(shuffled.flatten(3), run(lstm, values).flatten(3)[..., order])


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_kernel_sees_its_neighbours_and_nothing_farther(kernel: int) -> None:
    """One input at the middle reaches kernel // 2 places with every step."""
    lstm, values = grid_lstm(1, 2, kernel=kernel), torch.zeros(1, 3, 1, 15, 15, dtype=torch.float64)
    poked = values.clone()
    poked[:, 0, :, 7, 7] = 1
    changed = (run(lstm, poked) - run(lstm, values)).abs().amax(dim=2)[0]
    for step, seen in enumerate(changed):
        reach = (step + 1) * (kernel // 2)
        inside = torch.zeros(15, 15, dtype=torch.bool)
        inside[7 - reach : 8 + reach, 7 - reach : 8 + reach] = True
        assert bool((seen[~inside] == 0).all())
        assert bool((seen[inside] > 0).all())


def test_memories_are_chosen_sample_by_sample() -> None:
    one, other = (Memory(normal(2, 1, 3, 2, 2, seed=n), normal(2, 1, 3, 2, 2, seed=n + 9)) for n in (0, 1))
    mixed = one.where(torch.tensor([True, False]), other)
    for part in ("shown", "cells"):
        assert torch.equal(getattr(mixed, part)[0], getattr(one, part)[0])
        assert torch.equal(getattr(mixed, part)[1], getattr(other, part)[1])


@pytest.mark.parametrize("wrong", [{"inputs": -1}, {"width": 0}, {"layers": 0}, {"kernel": 2}, {"kernel": -1}])
def test_impossible_cells_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="An LSTM needs"):
        GridLstm(**({"inputs": 1, "width": 2} | wrong))


# ----------------------------------------------------------------------------------------------------------------------
# The loss
# ----------------------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_sum_of_its_parts() -> None:
    clips, noise = oscillation(5, 9), Noise.batch(1, 5)
    both, parts = composite(), []
    for off in ("reconstruction", "prediction"):
        alone = composite(**{off: "off"})
        wanted = alone.state_dict()
        alone.load_state_dict({name: both.state_dict()[name] for name in wanted})
        parts.append(alone.loss(clips, noise).item())
    assert both.loss(clips, noise).item() == pytest.approx(sum(parts), rel=1e-12)
    assert min(parts) > 0


def test_targets_run_backward_and_forward_from_the_end_of_the_prefix() -> None:
    model, clips = composite(), oscillation(3, GIVEN + AHEAD)
    stubs = Stub(), Stub()
    model.backward_decoder, model.forward_decoder = stubs
    assert model.loss(clips, Noise.batch(0, 3)).item() == 0
    frames = [model._frames(stub.asked) for stub in stubs]
    torch.testing.assert_close(frames[0], clips.states[:, :GIVEN].flip(1))
    torch.testing.assert_close(frames[1], clips.states[:, GIVEN:])


def test_errors_are_means_over_what_was_read() -> None:
    """Each told frame counts alike, frames before a short prefix do not count, and samples count alike."""
    model, clips, noise = composite(prediction="off"), oscillation(16, GIVEN + AHEAD), Noise.batch(2, 16)
    model.backward_decoder = Stub(torch.zeros(16, GIVEN, CHANNELS * 4, 2, 2, dtype=torch.float64))
    length = noise.integers("length", 2, GIVEN + 1)
    length = torch.where(noise.uniform("whole") < 0.5, GIVEN, length)
    assert set(length.tolist()) == {2, 3, 4}
    squares = clips.states.square().mean(dim=(2, 3, 4))
    means = [squares[row, GIVEN - int(many) : GIVEN].mean() for row, many in enumerate(length)]
    assert model.loss(clips, noise).item() == pytest.approx(torch.stack(means).mean().item())


def test_a_short_prefix_hides_what_was_before_it() -> None:
    clips, noise = oscillation(16, GIVEN + AHEAD), Noise.batch(2, 16)
    states = clips.states.clone().requires_grad_()
    model = composite(reconstruction="off", prediction="unconditional")
    (slope,) = torch.autograd.grad(model.loss(Trajectory(states, clips.times), noise), states)
    length = torch.where(noise.uniform("whole") < 0.5, GIVEN, noise.integers("length", 2, GIVEN + 1))
    sizes = slope.abs().amax(dim=(2, 3, 4))
    for row, many in enumerate(length.tolist()):
        assert bool((sizes[row, : GIVEN - many] == 0).all())
        assert bool((sizes[row, GIVEN - many :] > 0).all())


def test_windows_start_anywhere() -> None:
    model, clips = composite(reconstruction="off"), oscillation(64, GIVEN + AHEAD + 3)
    stub = Stub()
    model.forward_decoder = stub
    model.loss(clips, Noise.batch(0, 64))
    found = model._frames(stub.asked)[:, 0]
    starts = [next(n for n in range(10) if torch.equal(clips.states[row, GIVEN + n], found[row])) for row in range(64)]
    assert set(starts) == {0, 1, 2, 3}


@pytest.mark.parametrize("kind", ["conditional", "unconditional"])
def test_a_conditional_decoder_sees_frames_before_and_no_other(kind: str) -> None:
    model = composite(prediction=kind)
    decoder = model.forward_decoder
    assert decoder is not None
    memory = model._read(oscillation(1, GIVEN).states)
    shown = normal(1, AHEAD, CHANNELS * 4, 2, 2).requires_grad_()
    for step in range(AHEAD):
        (slope,) = torch.autograd.grad(
            decoder(memory, AHEAD, shown=shown)[:, step].sum() + 0 * shown.sum(), shown, retain_graph=True
        )
        seen = slope.abs().amax(dim=(0, 2, 3, 4)) > 0
        assert seen.tolist() == [kind == "conditional" and n < step for n in range(AHEAD)]


def test_sampling_feeds_a_conditional_decoder_its_own_frames() -> None:
    model = composite()
    decoder, memory = model.forward_decoder, model._read(oscillation(2, GIVEN).states)
    assert decoder is not None
    own = decoder(memory, 4)
    torch.testing.assert_close(decoder(memory, 4, shown=own), own)
    assert not torch.allclose(decoder(memory, 4, shown=own + 1), own)


# ----------------------------------------------------------------------------------------------------------------------
# Learning
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "patch"), [(("unconditional", "conditional"), 1), (("conditional", "unconditional"), 2)]
)
def test_it_learns_to_go_on_and_to_look_back(kinds: tuple[str, str], patch: int) -> None:
    torch.set_num_threads(1)
    model = composite(patch=patch, width=32, layers=1, reconstruction=kinds[0], prediction=kinds[1]).float()
    clips, fresh = (oscillation(count, GIVEN + AHEAD, seed=seed) for count, seed in ((256, 0), (64, 7)))
    data, test = (Trajectory(one.states[..., :2, :2].float(), one.times) for one in (clips, fresh))
    model.prepare(data)

    def objective(noise: Noise) -> Tensor:
        return model.loss(Trajectory(data.states[noise.integers("clip", 0, 256)], data.times), noise)

    begin = model.loss(data, Noise.batch(0, 256)).item()
    fit(model, objective, Optimisation(steps=250, batch=16, learning_rate=1e-2, warmup=10, average=0.95))
    assert model.loss(data, Noise.batch(0, 256)).item() < 0.35 * begin
    known, truth = Trajectory(test.states[:, :GIVEN], test.times[:GIVEN]), test.states[:, GIVEN:]
    with torch.no_grad():
        found = model.sample(Condition(known), test.times[GIVEN:].tolist(), Noise.batch(0, 64)).trajectory.states
        told = model.reconstructed(known).states
    copied = known.states[:, -1:].expand_as(truth)
    assert (found - truth).square().mean() < 0.5 * (copied - truth).square().mean()
    assert (told - known.states).square().mean() < 0.5 * known.states.var()


# ----------------------------------------------------------------------------------------------------------------------
# Sampling
# ----------------------------------------------------------------------------------------------------------------------


def test_known_frames_come_back_and_others_follow_on_the_grid() -> None:
    model, clips = composite(), oscillation(2, GIVEN, start=-1)
    last = clips.times[-1].item()
    times = [*clips.times.tolist(), last + FRAME, last + 2 * FRAME, last + 5 * FRAME]
    found = model.sample(Condition(clips), times, Noise.batch(0, 2))
    assert torch.equal(found.trajectory.states[:, :GIVEN], clips.states)
    ahead = model.predicted(clips.states, 5)
    torch.testing.assert_close(found.trajectory.states[:, GIVEN:], ahead[:, [0, 1, 4]])
    torch.testing.assert_close(model.predicted(clips.states, 2), ahead[:, :2])
    assert (found.evaluations, found.depth) == (GIVEN + 5, GIVEN + 5)
    assert torch.equal(found.trajectory.times, torch.tensor(times, dtype=torch.float64))


def test_between_frames_it_is_linear() -> None:
    model, clips = composite(), oscillation(1, GIVEN)
    last, ahead = clips.times[-1].item(), None
    times = [0.25 * FRAME, last + 0.25 * FRAME, last + 1.5 * FRAME]
    found = model.sample(Condition(clips), times, Noise.batch(0, 1)).trajectory.states[0]
    ahead = model.predicted(clips.states, 2)[0]
    known = clips.states[0]
    torch.testing.assert_close(found[0], torch.lerp(known[0], known[1], 0.25))
    torch.testing.assert_close(found[1], torch.lerp(known[-1], ahead[0], 0.25))
    torch.testing.assert_close(found[2], torch.lerp(ahead[0], ahead[1], 0.5))


def test_what_is_known_costs_nothing() -> None:
    clips = oscillation(1, GIVEN)
    for times in (clips.times.tolist(), [0.5 * FRAME, 1.5 * FRAME]):
        found = composite(prediction="conditional").sample(Condition(clips), times, Noise.batch(0, 1))
        assert (found.evaluations, found.depth) == (0, 0)


@pytest.mark.parametrize("count", [2, 3])
def test_short_prefixes_are_answered(count: int) -> None:
    clips = oscillation(2, count)
    times = [clips.times[-1].item() + FRAME]
    found = composite().sample(Condition(clips), times, Noise.batch(0, 2))
    assert found.evaluations == count + 1


def test_of_a_long_prefix_the_end_is_read() -> None:
    model, clips = composite(), oscillation(1, GIVEN + 3)
    poked = clips.states.clone()
    poked[:, :3] += 1
    assert torch.equal(model.predicted(clips.states, 2), model.predicted(poked, 2))
    poked[:, 3] += 1
    assert not torch.equal(model.predicted(clips.states, 2), model.predicted(poked, 2))
    told = model.reconstructed(clips)
    assert torch.equal(told.times, clips.times[3:])
    found = model.sample(Condition(clips), [clips.times[-1].item() + FRAME], Noise.batch(0, 1))
    assert found.evaluations == GIVEN + 1


def test_the_reconstruction_is_in_the_order_of_the_prefix() -> None:
    model, clips = composite(), oscillation(2, GIVEN)
    model.backward_decoder = Stub(model._patches(clips.states.flip(1)))
    torch.testing.assert_close(model.reconstructed(clips).states, clips.states)


@pytest.mark.parametrize("options", [{}, {"kernel": 3, "patch": 1}, {"patch": 4}, {"prediction": "unconditional"}])
def test_a_sample_does_not_depend_on_its_batch(options: dict[str, object]) -> None:
    model, clips = composite(**options), oscillation(3, GIVEN)
    times = [clips.times[-1].item() + FRAME * n for n in (1, 2.5)]
    together = model.sample(Condition(clips), times, Noise.batch(0, 3)).trajectory.states
    for row in range(3):
        known = Trajectory(clips.states[row : row + 1], clips.times)
        alone = model.sample(Condition(known), times, Noise.of([99])).trajectory.states
        torch.testing.assert_close(alone[0], together[row])


@pytest.mark.parametrize("options", [{}, {"kernel": 3}, {"reconstruction": "off", "prediction": "unconditional"}])
def test_it_comes_back_from_a_folder(options: dict[str, object], tmp_path: Path) -> None:
    model, clips = composite(3, **options).float(), oscillation(2, GIVEN)
    known = Trajectory(clips.states.float(), clips.times)
    model.save_pretrained(tmp_path / "model")
    found = load_pretrained(tmp_path / "model")
    assert isinstance(found, RecurrentComposite)
    times = [1.0, 1.2]
    ours, theirs = (one.sample(Condition(known), times, Noise.batch(0, 2)).trajectory.states for one in (model, found))
    assert torch.equal(ours, theirs)


# ----------------------------------------------------------------------------------------------------------------------
# Refusals
# ----------------------------------------------------------------------------------------------------------------------


def test_conditions_that_are_no_prefix_are_refused() -> None:
    model, clips = composite(), oscillation(1, 8)
    noise = Noise.batch(0, 1)
    for chosen in ([0], [0, 1, 2, 6], [0, 2, 4]):
        known = Trajectory(clips.states[:, chosen], clips.times[chosen])
        with pytest.raises(ValueError, match="prefix of at least 2 frames"):
            model.sample(Condition(known), [1.0], noise)
        with pytest.raises(ValueError, match="prefix of at least 2 frames"):
            model.reconstructed(known)
    with pytest.raises(ValueError, match="does not read text"):
        model.sample(Condition(clips, ["a digit"]), [1.0], noise)
    with pytest.raises(ValueError, match="starts from known frames"):
        model.sample(Condition(), [1.0], noise)
    with pytest.raises(ValueError, match=r"answers times from 0\.0 s on"):
        model.sample(Condition(clips), [-0.1, 1.0], noise)
    with pytest.raises(ValueError, match="knows the solvers recurrent"):
        model.sample(Condition(clips), [1.0], noise, solver="euler")


def test_a_decoder_that_is_off_is_not_asked() -> None:
    clips = oscillation(1, GIVEN)
    with pytest.raises(ValueError, match="only reconstructs"):
        composite(prediction="off").sample(Condition(clips), [1.0], Noise.batch(0, 1))
    with pytest.raises(ValueError, match="only predicts"):
        composite(reconstruction="off").reconstructed(clips)


def test_training_clips_must_fit() -> None:
    model, noise = composite(), Noise.batch(0, 2)
    for ask in (model.prepare, lambda clips: model.loss(clips, noise)):
        with pytest.raises(ValueError, match="at least 7 frames"):
            ask(oscillation(2, 6))
        with pytest.raises(ValueError, match=r"frames 0\.125 s apart"):
            ask(Trajectory(oscillation(2, 7).states, 2 * oscillation(2, 7).times))
        with pytest.raises(ValueError, match="reads 2 channels in patches"):
            ask(Trajectory(torch.zeros(2, 7, 3, 4, 4, dtype=torch.float64), oscillation(2, 7).times))
        with pytest.raises(ValueError, match="reads 2 channels in patches"):
            ask(Trajectory(torch.zeros(2, 7, 2, 4, 5, dtype=torch.float64), oscillation(2, 7).times))


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch": 0},
        {"given": 1},
        {"ahead": 0},
        {"reconstruction": "off", "prediction": "off"},
        {"prediction": "teacher"},
        {"kernel": 2},
    ],
)
def test_impossible_models_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"Expected|Decoders are|An LSTM needs"):
        composite(**wrong)
    with pytest.raises(ValueError, match="frame > 0"):
        RecurrentComposite(1, frame=0.0, patch=1)
