"""What must be the same on a GPU as on the CPU."""

import pytest
import torch

from flowvid.models.rivals import RIVALS, build_rival
from flowvid.noise import Noise
from flowvid.video import Condition, Trajectory, time_grid

FRAME = 0.125


def clips() -> Trajectory:
    steps = torch.randn(16, 50, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return Trajectory(steps.cumsum(dim=1) * 0.1, time_grid(-FRAME, 48 * FRAME, FRAME))


@pytest.mark.gpu
def test_noise_is_the_same_on_both() -> None:
    noise = Noise.batch(0, 3)
    assert torch.equal(noise.integers("a", 0, 1000, 50), noise.integers("a", 0, 1000, 50, device="cuda").cpu())
    assert torch.allclose(noise.normal("b", 50), noise.normal("b", 50, device="cuda").cpu(), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", RIVALS)
def test_losses_and_samples_agree(name: str) -> None:
    data = clips()
    model = build_rival(name, channels=4, frame=FRAME, scales=5, reach=16, width=16, seed=0)
    torch.nn.init.normal_(
        model.get_parameter(next(n for n, _ in model.named_parameters() if "leave.weight" in n)), 0, 0.01
    )
    model.prepare(data)
    model.finish(data)
    known = Condition(data.at(-FRAME, 0.0, 16 * FRAME))
    noise = Noise.batch(1, len(data))
    with torch.no_grad():
        loss = model.loss(data, noise)
        states = model.sample(known, [0.0, 0.3, 1.0, 2.0], noise).trajectory.states
        model = model.to("cuda")
        there = Trajectory(data.states.cuda(), data.times)
        assert torch.allclose(model.loss(there, noise).cpu(), loss, rtol=1e-3)
        given = Condition(there.at(-FRAME, 0.0, 16 * FRAME))
        found = model.sample(given, [0.0, 0.3, 1.0, 2.0], noise).trajectory.states
    assert found.device.type == "cuda"
    assert torch.allclose(found.cpu(), states, atol=1e-2)
