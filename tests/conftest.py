"""Threads, hypothesis profiles and devices, the same for every test."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, max_examples=50, print_blob=True)
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

torch.set_num_threads(min(int(os.environ.get("FLOWVID_THREADS", "2")), os.cpu_count() or 1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device, and torch finds none")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The processor, and the CUDA device where there is one."""
    return torch.device(request.param)


@pytest.fixture
def data() -> Path:
    """The folder of real data and weights, where the user names one."""
    folder = os.environ.get("FLOWVID_DATA")
    if not folder:
        pytest.skip("needs real data or weights: set FLOWVID_DATA to their folder")
    return Path(folder)
