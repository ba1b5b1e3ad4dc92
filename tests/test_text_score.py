"""CLIP scores by hand on a tiny random CLIP, and what they must not depend on."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flowvid.metrics.text import ClipNetwork, ClipScore, clip_consistency, clip_scores, load_clip
from flowvid.video import Video

transformers = pytest.importorskip("transformers", reason="the CLIP score needs transformers: flowvid[pretrained]")

SIDE, LONGEST = 16, 12
TEXTS = ["the seven moves up", "a one", "the two the two the two"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights, saved as published ones are."""
    place = tmp_path_factory.mktemp("clip")
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz"]
    pairs = [("t", "h"), ("th", "e</w>")]
    words += ["".join(pair) for pair in pairs]
    tokenizer = transformers.CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=pairs)
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(words), "max_position_embeddings": LONGEST, "bos_token_id": 0, "eos_token_id": 1}
    vision = {"image_size": SIDE, "patch_size": 8}
    config = transformers.CLIPConfig(
        text_config={**common, **text, "pad_token_id": 1}, vision_config={**common, **vision}, projection_dim=8
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.CLIPModel(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    images.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def network(folder: Path) -> ClipNetwork:
    return load_clip(folder)


def clips(batch: int = 3, time: int = 4, channels: int = 3, height: int = SIDE, width: int = SIDE) -> Video:
    """Frames on the 256 levels of pixels, so that rounding changes nothing."""
    levels = np.random.default_rng(0).integers(0, 256, (batch, time, channels, height, width))
    return Video(torch.from_numpy(levels / 127.5 - 1), torch.arange(time, dtype=torch.float64))


def by_hand(folder: Path, video: Video, texts: list[str]) -> Tensor:
    """Cosines of frames that need no resizing, from the model alone."""
    model = transformers.CLIPModel.from_pretrained(folder, local_files_only=True).eval()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    rows = []
    for frames, text in zip(video.frames.float(), texts, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"][: LONGEST - 1]])
        if ids[0, -1] != 1:
            ids = torch.cat((ids, torch.tensor([[1]])), dim=1)
        with torch.no_grad():
            found = model(input_ids=ids, pixel_values=((frames + 1) / 2 - mean) / deviation)
        rows.append(found.logits_per_image[:, 0] / model.logit_scale.exp())
    return torch.stack(rows).detach().double()


def test_scores_are_a_hundred_times_the_cosines_above_zero(folder: Path, network: ClipNetwork) -> None:
    video = clips()
    before = video.frames.clone()
    with pytest.warns(UserWarning, match=r"of 3 texts are longer than the 12 tokens"):
        scores = clip_scores(network, video, TEXTS)
    cosines = by_hand(folder, video, TEXTS)
    assert scores.shape == (3, 4)
    assert (cosines < 0).any()
    assert (cosines > 0).any()
    assert torch.allclose(scores, 100 * cosines.clamp(min=0), atol=1e-4)
    assert torch.equal(video.frames, before)


def test_every_text_is_that_of_its_clip(network: ClipNetwork) -> None:
    texts = ["a one", "the ten", "a"]
    video, order = clips(), [2, 0, 1]
    found = clip_scores(network, video, texts)
    turned = clip_scores(network, Video(video.frames[order], video.times), [texts[n] for n in order])
    assert torch.allclose(turned, found[order], atol=1e-5)
    assert not torch.allclose(clip_scores(network, video, texts[::-1]), found, atol=0.1)


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_neither_batches_nor_their_order_matter(network: ClipNetwork, batch: int) -> None:
    video, texts = clips(), ["a one", "the ten", "a"]
    whole = clip_scores(network, video, texts, batch=4)
    assert torch.allclose(clip_scores(network, video, texts, batch=batch), whole, atol=1e-5)
    one_by_one = [
        clip_scores(network, Video(video.frames[n : n + 1], video.times), texts[n : n + 1], batch=batch)
        for n in range(3)
    ]
    assert torch.allclose(torch.cat(one_by_one), whole, atol=1e-5)
    assert torch.allclose(
        clip_consistency(network, video, batch=batch), clip_consistency(network, video, batch=4), atol=1e-7
    )


def test_the_length_of_the_other_texts_does_not_matter(network: ClipNetwork) -> None:
    both = network.hear(["a one", "the ten ten"])
    assert torch.allclose(both[:1], network.hear(["a one"]), atol=1e-6)
    assert torch.allclose(both.norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_consistency_is_the_cosine_of_neighbours_and_one_if_nothing_changes(network: ClipNetwork) -> None:
    video = clips()
    seen = network.see(video.frames[1])
    expected = (seen @ seen.T).diagonal(1)
    assert clip_consistency(network, video).shape == (3, 3)
    assert torch.allclose(clip_consistency(network, video)[1], expected, atol=1e-6)
    still = Video(video.frames[:, :1].expand(-1, 4, -1, -1, -1), video.times)
    assert torch.allclose(clip_consistency(network, still), torch.ones(3, 3, dtype=torch.float64))
    assert float(clip_consistency(network, video).max()) < 1


def test_grey_frames_count_as_colour_and_any_size_will_do(network: ClipNetwork) -> None:
    grey = clips(channels=1)
    colour = Video(grey.frames.expand(-1, -1, 3, -1, -1), grey.times)
    texts = ["a", "b", "c"]
    assert torch.equal(clip_scores(network, grey, texts), clip_scores(network, colour, texts))
    even = Video(torch.full((1, 2, 3, 30, 44), 0.2), torch.arange(2, dtype=torch.float64))
    square = Video(torch.full((1, 2, 3, 16, 16), 0.2), torch.arange(2, dtype=torch.float64))
    assert torch.allclose(clip_scores(network, even, ["a"]), clip_scores(network, square, ["a"]), atol=1e-3)


def test_the_running_mean_is_that_of_the_whole_in_any_order(network: ClipNetwork) -> None:
    scores = torch.rand(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = ClipScore().add(scores)
    assert whole.mean == pytest.approx(float(scores.mean()))
    assert whole.clips == 7
    parts = ClipScore().add(scores[4:]).add(scores[:1]).merge(ClipScore().add(scores[1:4]))
    assert parts.clips == 7
    assert parts.mean == pytest.approx(whole.mean, rel=1e-12)
    longer = ClipScore().add(torch.ones(1, 9)).add(torch.zeros(1, 1))
    assert longer.mean == 0.5
    with pytest.raises(ValueError, match="at least one clip"):
        _ = ClipScore().mean
    with pytest.raises(ValueError, match="finite"):
        ClipScore().add(torch.tensor([[math.nan]]))


def test_what_does_not_fit_is_refused(network: ClipNetwork) -> None:
    with pytest.raises(ValueError, match="one text for each of the 3 clips"):
        clip_scores(network, clips(), ["a"])
    with pytest.raises(ValueError, match="as a list"):
        clip_scores(network, clips(), "abc")
    with pytest.raises(ValueError, match="1 or 3 channels; got 2"):
        clip_scores(network, clips(channels=2), ["a", "b", "c"])
    with pytest.raises(ValueError, match="batch=0"):
        clip_consistency(network, clips(), batch=0)
    with pytest.raises(ValueError, match="at least two frames"):
        clip_consistency(network, clips(time=1))
    with pytest.raises(ValueError, match="at least one text"):
        network.hear([])


def test_missing_and_foreign_weights_are_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"lacks config.json.*openai/clip-vit-base-patch32"):
        load_clip(tmp_path / "nowhere")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"files are damaged.*openai/clip-vit-base-patch32"):
        load_clip(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="holds no CLIP"):
        load_clip(tmp_path)
    (tmp_path / "vocab.json").unlink(missing_ok=True)
    (tmp_path / "tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"lacks vocab.json and merges.txt"):
        load_clip(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"flowvid\[pretrained\]"):
        load_clip(folder)


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    broken = load_clip(folder)
    with torch.no_grad():
        broken.model.visual_projection.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="vectors of frames"):
        broken.see(torch.zeros(1, 3, SIDE, SIDE))
