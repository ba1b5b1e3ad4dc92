"""Buckets: every piece once, batches of one size within the budget, sizes near what was asked for."""

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowvid.data.footage.buckets import Bucket, Buckets, Native, sizes_near
from flowvid.noise import Noise

NATIVES = st.builds(Native, st.floats(0, 10), st.integers(20, 400), st.integers(20, 400))
FOOTAGE = st.lists(NATIVES, min_size=1, max_size=30).map(tuple)
AREAS = (32 * 32, 64 * 64)


def buckets(footage: tuple[Native, ...], *, budget: int = 2**17) -> Buckets:
    return Buckets(footage, 8.0, (1, 4, 16), AREAS, budget)


@given(st.integers(8, 300), st.sampled_from((1, 2, 8, 16)), st.floats(1.5, 8))
def test_sizes_are_near_the_area_and_in_multiples(side: int, multiple: int, widest: float) -> None:
    side = max(side, 4 * multiple)
    sizes = sizes_near(side * side, multiple=multiple, widest=widest)
    ratios = [width / height for height, width in sizes]
    assert ratios == sorted(ratios)
    assert len(set(sizes)) == len(sizes)
    for height, width in sizes:
        assert height % multiple == width % multiple == 0
        assert abs(height * width / side**2 - 1) <= 0.25
        assert max(height, width) / min(height, width) <= widest * (1 + 1e-9)


def test_the_ladder_of_sizes_has_the_square_and_both_ends() -> None:
    sizes = sizes_near(64 * 64)
    assert (64, 64) in sizes
    assert sizes[0] == (128, 32)
    assert sizes[-1] == (32, 128)
    # Neighbours are never further apart than the step of the shorter side allows.
    ratios = [math.log(width / height) for height, width in sizes]
    assert max(b - a for a, b in itertools.pairwise(ratios)) < 0.6
    assert sizes_near(64 * 64, widest=1.0) == [(64, 64)]


@given(FOOTAGE)
def test_every_piece_has_the_bucket_nearest_to_it(footage: tuple[Native, ...]) -> None:
    found = buckets(footage)
    ladders = {area: sizes_near(area) for area in AREAS}
    for one, bucket in zip(footage, found.assigned, strict=True):
        assert bucket.frames == max(n for n in (1, 4, 16) if (n - 1) / 8 <= one.seconds)
        size = bucket.height, bucket.width
        (area,) = [area for area, sizes in ladders.items() if size in sizes]

        def stretch(size: tuple[int, int], one: Native = one) -> float:
            return abs(math.log(size[1] / size[0]) - math.log(one.width / one.height))

        assert stretch(size) <= min(map(stretch, ladders[area])) + 1e-12
        larger = [min(ladders[other], key=stretch) for other in AREAS if other > area]
        assert all(max(h / one.height, w / one.width) > 1 for h, w in larger)
        if max(bucket.height / one.height, bucket.width / one.width) > 1:
            assert area == min(AREAS)


@given(FOOTAGE, st.integers(1, 5), st.integers(0, 99))
def test_an_epoch_holds_every_piece_once_in_batches_of_one_bucket(
    footage: tuple[Native, ...], world: int, seed: int
) -> None:
    found, noise = buckets(footage), Noise.of([seed])
    parts = [list(found.epoch(noise, rank=rank, world=world)) for rank in range(world)]
    assert sorted(n for part in parts for batch in part for n in batch.indices) == list(range(len(footage)))
    for step in zip(*parts, strict=True):
        (bucket,) = {batch.bucket for batch in step}
        sizes = [len(batch.indices) for batch in step]
        assert max(sizes) - min(sizes) <= 1
        assert 1 <= max(sizes) <= found.size_of_batch(bucket)
        assert max(sizes) * bucket.pixels <= found.budget
        assert all(found.assigned[n] == bucket for batch in step for n in batch.indices)
    # Only the last batch of a bucket is not full.
    full = Counter(step[0].bucket for step in zip(*parts, strict=True))
    for bucket, members in found.members.items():
        assert full[bucket] == math.ceil(len(members) / (found.size_of_batch(bucket) * world))


@given(FOOTAGE, st.integers(0, 99))
def test_the_order_is_that_of_the_noise(footage: tuple[Native, ...], seed: int) -> None:
    found, noise = buckets(footage), Noise.of([seed])
    assert list(found.epoch(noise)) == list(buckets(footage).epoch(noise))


def test_epochs_shuffle_pieces_and_buckets() -> None:
    footage = tuple(Native(0.0, 64, 64) if n % 2 else Native(0.0, 64, 128) for n in range(200))
    found = buckets(footage, budget=2**14)
    one, other = (list(found.epoch(Noise.of([seed]))) for seed in (0, 1))
    assert one != other
    assert {batch.indices for batch in one} != {batch.indices for batch in other}
    kinds = [batch.bucket for batch in one]
    assert sum(a != b for a, b in itertools.pairwise(kinds)) > 10
    # Batches are drawn from the whole bucket.
    assert max(batch.indices[-1] - batch.indices[0] for batch in one) > 100


def test_the_report_counts_pixels() -> None:
    footage = (Native(3.0, 100, 100), Native(0.5, 48, 96), Native(0.0, 64, 64))
    found = Buckets(footage, 8.0, (1, 4, 16), (64 * 64,), 2**17)
    assert found.assigned[0] == Bucket(16, 64, 64)
    assert found.assigned[2] == Bucket(1, 64, 64)
    wide = found.assigned[1]
    assert (wide.frames, wide.height, wide.width) == (4, 48, 88)
    report = found.report()
    assert report["padding"] == 0
    used = 16 * 64 * 64 + 4 * 48 * 88 + 64 * 64
    assert report["padding_without"] == pytest.approx(1 - used / (3 * 16 * 64 * 88))
    # Of 96 columns 8 are cut off the second; the others are square already.
    assert report["cut"] == pytest.approx((8 / 96) / 3)
    assert report["enlarged"] == 0
    assert report["unread"] == pytest.approx(1 - (2.0 + 0.5) / 3.5)
    assert report["last"] == 1
    assert Buckets((Native(1.0, 20, 20),) * 4, 8.0, (1,), (32 * 32,), 2 * 32 * 32).report()["enlarged"] == 1
    assert Buckets((Native(1.0, 20, 20),) * 4, 8.0, (1,), (32 * 32,), 2 * 32 * 32).report()["last"] == 0


def test_members_are_counted_by_bucket() -> None:
    found = buckets((Native(9.0, 64, 64), Native(0.0, 64, 64), Native(9.0, 64, 64)))
    assert found.members == {Bucket(1, 64, 64): (1,), Bucket(16, 64, 64): (0, 2)}
    assert found.size_of_batch(Bucket(16, 64, 64)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"footage": ()}, "need footage"),
        ({"frames": ()}, "need footage, durations"),
        ({"frames": (0,)}, "at least one frame"),
        ({"fps": 0.0}, "positive rate"),
        ({"areas": ()}, "areas"),
        ({"frames": (16,)}, "1 of 2 pieces of footage, the first of them number 1, are shorter than 16 frames"),
        ({"budget": 2**13}, "65536 pixels, more than the budget 8192"),
        ({"areas": (10,)}, "No size in multiples of 8 has nearly 10 pixels"),
    ],
)
def test_refuses_what_makes_no_buckets(change: dict, message: str) -> None:
    options = {
        "footage": (Native(9.0, 64, 64), Native(0.0, 64, 64)),
        "fps": 8.0,
        "frames": (1, 16),
        "areas": (64 * 64,),
        "budget": 2**17,
    }
    with pytest.raises(ValueError, match=message):
        Buckets(**{**options, **change})


def test_refuses_processes_and_sizes_that_do_not_exist() -> None:
    found = buckets((Native(9.0, 64, 64),))
    for rank, world in ((1, 1), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="0 <= rank < world"):
            list(found.epoch(Noise.of([0]), rank=rank, world=world))
    with pytest.raises(ValueError, match="noise of one sample"):
        list(found.epoch(Noise.batch(0, 2)))
    with pytest.raises(ValueError, match="widest >= 1"):
        sizes_near(64, widest=0.5)
    with pytest.raises(ValueError, match="at least 1"):
        sizes_near(64, multiple=0)
    for wrong in ((-1.0, 4, 4), (1.0, 0, 4), (1.0, 4, 0), (math.inf, 4, 4)):
        with pytest.raises(ValueError, match="pixels and a finite duration"):
            Native(*wrong)
