"""Text encoders: what is said of one sample never reaches another, and neither padding nor the clock matters."""

import copy
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flowvid.data.worlds.captions import vocabulary
from flowvid.encoders.pretrained_text import PretrainedTextEncoder
from flowvid.encoders.text import TextEncoder, TextTokens, as_tokens, without_time
from flowvid.encoders.words import WordEncoder, make_text_encoder
from flowvid.video import Said, Text, as_text

SEVEN, BALL, BOB = "the seven moves up, slowly", "the ball rests", "the bob swings, first left, quickly"
EACH_TEXT = st.lists(
    st.none()
    | st.lists(
        st.sampled_from([SEVEN, BALL, BOB, ""])
        | st.tuples(st.floats(-9, 9), st.sampled_from([SEVEN, BALL, "at 1.25 s the ball rests", "at -2 s the one"])),
        max_size=3,
    ),
    min_size=1,
    max_size=4,
)


def build(make: Callable[[], TextEncoder]) -> TextEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


ENCODER = build(lambda: make_text_encoder("words", width=16))


def heard(encoder: TextEncoder, text: Any) -> Tensor:
    with torch.no_grad():
        return encoder(encoder.tokens(as_text(text)))


def alone_as_together(encoder: TextEncoder, text: Text) -> None:
    """Each sample's features are those it has by itself, and zero beyond them."""
    together = heard(encoder, text)
    assert torch.isfinite(together).all()
    for n in range(len(text)):
        alone = heard(encoder, text[n : n + 1])[0]
        torch.testing.assert_close(together[n, : len(alone)], alone, atol=2e-5, rtol=1e-5)
        assert not together[n, len(alone) :].any()


# Tokens


def test_words_are_numbered_placed_and_timed() -> None:
    tokens = ENCODER.tokens(as_text(["the ball", None, [(1.5, "at 1.5 s the ball rests"), "the one"]]))
    number = {word: n for n, word in enumerate(vocabulary(), start=1)}
    the, ball, rests, one = (number[word] for word in ("the", "ball", "rests", "one"))
    assert tokens.ids.tolist() == [[the, ball, 0, 0, 0], [0] * 5, [the, ball, rests, the, one]]
    assert tokens.places.tolist() == [[0, 1, -1, -1, -1], [-1] * 5, [0, 1, 2, 0, 1]]
    assert tokens.times.tolist() == [[0.0] * 5, [0.0] * 5, [1.5, 1.5, 1.5, 0.0, 0.0]]
    assert tokens.timed.tolist() == [[False] * 5, [False] * 5, [True, True, True, False, False]]
    assert tokens.said.tolist() == [[True, True, False, False, False], [False] * 5, [True] * 5]
    assert tokens.captions()[2].tolist() == [0, 0, 0, 1, 1]
    assert len(tokens) == 3
    assert tokens.rows(torch.tensor([2, 0])).ids.tolist() == [tokens.ids[2].tolist(), tokens.ids[0].tolist()]


def test_a_caption_is_numbered_once_however_often_it_is_said() -> None:
    asked: list[str] = []
    text = as_text([SEVEN, [(1.0, BALL), (2.0, f"at 2 s {BALL}")], SEVEN])
    tokens = as_tokens(text, lambda words: (asked.append(words), [len(words)])[1], padding=7, longest=1)
    assert asked == [SEVEN, BALL]
    assert tokens.ids.tolist() == [[len(SEVEN), 7], [len(BALL)] * 2, [len(SEVEN), 7]]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Said("at 1.5 s the ball rests", 1.5), "the ball rests"),
        (Said("at -2 s the ball rests", -2.0), "the ball rests"),
        (Said("at 1.5 s the ball rests"), "at 1.5 s the ball rests"),
        (Said("the ball at 1.5 s rests", 1.5), "the ball at 1.5 s rests"),
    ],
)
def test_a_time_that_is_a_number_is_not_said_in_words_too(said: Said, words: str) -> None:
    assert without_time(said) == words


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("the sevn moves", "'sevn' of 'the sevn moves' .* Did you mean seven"),
        ("the ball xyzzyq", "'xyzzyq' .* Words are ,, -, "),
        ("the ball!", "lower-case words"),
        ("the " * 97, "at most 96 tokens; this one has 97"),
    ],
)
def test_what_has_no_number_is_refused(caption: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ENCODER.tokens(as_text([caption]))


def test_captions_up_to_the_longest_are_read_and_capitals_are_small_letters() -> None:
    assert heard(ENCODER, ["the " * 96]).shape == (1, 96, 16)
    assert torch.equal(heard(ENCODER, ["The Ball Rests"]), heard(ENCODER, [BALL]))
    own = WordEncoder(["cat", "sat"], width=8, longest=3)
    assert own.tokens(as_text(["sat cat"])).ids.tolist() == [[2, 1]]
    with pytest.raises(ValueError, match="Words are cat, sat"):
        own.tokens(as_text(["ball"]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"words": []},
        {"words": ["a", "a"]},
        {"words": ["two words"]},
        {"words": ["Capital"]},
        {"width": 0},
        {"width": 18},
        {"depth": -1},
        {"longest": 0},
    ],
)
def test_vocabularies_and_sizes_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"vocabulary is a list of different words|positive multiple of 4"):
        WordEncoder(**wrong)


# Features of words


@settings(max_examples=20)
@given(EACH_TEXT)
def test_a_text_alone_is_heard_as_in_a_longer_batch(text: list[Any]) -> None:
    alone_as_together(ENCODER, as_text(text))


def test_words_hear_the_others_of_their_caption_in_order_and_no_other_caption() -> None:
    both = heard(ENCODER, [[SEVEN, BALL]])[0]
    changed = heard(ENCODER, [[BOB, BALL]])[0]
    torch.testing.assert_close(both[-3:], changed[-3:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[-3:], heard(ENCODER, [BALL])[0], atol=1e-5, rtol=1e-5)
    seven, up = heard(ENCODER, [SEVEN])[0], heard(ENCODER, ["the seven moves down, slowly"])[0]
    assert (seven[0] - up[0]).abs().max() > 1e-3
    turned = heard(ENCODER, ["seven the"])[0].flip(0) - heard(ENCODER, ["the seven"])[0]
    assert turned.abs().max() > 1e-2


@settings(max_examples=10)
@given(st.floats(-100, 100))
def test_features_know_whether_a_caption_has_a_time_but_not_which(shift: float) -> None:
    timed = heard(ENCODER, [[(0.5, BALL), (1.0, SEVEN)]])
    assert torch.equal(timed, heard(ENCODER, [[(0.5 + shift, BALL), (1.0 + shift, SEVEN)]]))
    assert (timed - heard(ENCODER, [[BALL, SEVEN]])).abs().amax(dim=(0, 2)).min() > 1e-3


def test_nothing_said_is_zero_and_silence_is_as_if_nothing_were_said() -> None:
    assert heard(ENCODER, [None, None]).shape == (2, 0, 16)
    tokens = ENCODER.tokens(as_text([SEVEN, BALL]))
    silent = tokens.silenced(torch.tensor([True, False]))
    with torch.no_grad():
        assert not ENCODER(silent)[0].any()
        torch.testing.assert_close(ENCODER(silent)[1], ENCODER(tokens)[1])
        dropped = TextTokens(tokens.ids, tokens.places, tokens.times, tokens.timed, tokens.said & (tokens.places != 2))
        other = tokens.ids.where(tokens.places != 2, 5)
        changed = TextTokens(other, tokens.places, tokens.times, tokens.timed, dropped.said)
        torch.testing.assert_close(ENCODER(dropped), ENCODER(changed))
        assert not ENCODER(dropped)[:, 2].any()


def test_training_and_evaluation_say_the_same_and_all_parameters_learn() -> None:
    encoder = build(lambda: WordEncoder(width=16))
    before = heard(encoder, [SEVEN, BALL])
    encoder.train()
    features = encoder(encoder.tokens(as_text([SEVEN, (1.0, BALL)])))
    torch.testing.assert_close(features[0].detach(), before[0], atol=1e-5, rtol=1e-5)
    (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in encoder.parameters())


def test_captions_can_be_told_apart_by_training() -> None:
    encoder: Any = build(lambda: WordEncoder(width=8, depth=1))
    texts = as_text([f"the ball moves {way}, slowly" for way in ("up", "down", "left", "right")])
    tokens, wanted = encoder.tokens(texts), torch.tensor([[0.0, 1.0], [0.0, -1.0], [-1.0, 0.0], [1.0, 0.0]])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Linear(8, 2)
    optimiser = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-2)
    losses = []
    for _ in range(100):
        loss = (head(encoder(tokens)[:, 0]) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("name", ["", "word", "clip", "clip:", "bert:folder"])
def test_unknown_encoders_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"Text encoders are words, clip:FOLDER, sentence:FOLDER, t5:FOLDER; got"):
        make_text_encoder(name, width=16)


# Published encoders

LONGEST = 40
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_clip(folder: Path, whole: bool) -> None:
    transformers = pytest.importorskip("transformers")
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, ",</w>", *(f"{letter}</w>" for letter in LETTERS)]
    pairs = [("t", "h"), ("th", "e</w>")]
    words += ["".join(pair) for pair in pairs]
    tokenizer = transformers.CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=pairs)
    marks = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {**SIZES, **marks, "vocab_size": len(words), "max_position_embeddings": LONGEST}
    if whole:
        vision = {**SIZES, "image_size": 16, "patch_size": 8}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        network = transformers.CLIPModel(config)
    else:
        network = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_t5(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁the", -1.0), ("▁ball", -1.0)]
    pieces += [(letter, -5.0) for letter in f"{LETTERS},"]
    tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0)
    marks = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    config = transformers.T5Config(
        vocab_size=len(pieces), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, **marks
    )
    transformers.T5EncoderModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("text")
    saved = {"clip": place / "clip", "text": place / "text", "t5": place / "t5"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_clip(saved["clip"], True)
        save_clip(saved["text"], False)
        save_t5(saved["t5"])
    return saved


def published(folders: dict[str, Path], name: str) -> TextEncoder:
    kind = "t5" if name == "t5" else "clip"
    return build(lambda: make_text_encoder(f"{kind}:{folders[name]}", width=16))


def by_hand(folder: Path, name: str, caption: str) -> tuple[list[int], Tensor]:
    """Tokens and their features, from the model alone."""
    transformers: Any = pytest.importorskip("transformers")
    kinds = {"clip": "CLIPModel", "text": "CLIPTextModel", "t5": "T5EncoderModel"}
    network = getattr(transformers, kinds[name]).from_pretrained(folder).eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder)(caption)["input_ids"]
    with torch.no_grad():
        network = getattr(network, "text_model", network)
        return ids, network(input_ids=torch.tensor([ids])).last_hidden_state[0]


@pytest.mark.parametrize("name", ["clip", "text", "t5"])
def test_tokens_have_the_features_of_the_published_model_projected(folders: dict[str, Path], name: str) -> None:
    encoder: Any = published(folders, name)
    text = as_text([None, SEVEN, [(1.5, f"at 1.5 s {BALL}"), SEVEN], BALL])
    tokens = encoder.tokens(text)
    expected: Any = {caption: by_hand(folders[name], name, caption) for caption in (SEVEN, BALL)}
    assert tokens.ids[2].tolist() == [*expected[BALL][0], *expected[SEVEN][0]]
    features = heard(encoder, text)
    with torch.no_grad():
        mark = encoder.moment.weight
        first = encoder.norm(encoder.project(expected[SEVEN][1]) + mark[0])
        timed, plain = (encoder.norm(encoder.project(expected[BALL][1]) + mark[n]) for n in (1, 0))
    torch.testing.assert_close(features[1, : len(first)], first, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features[2], torch.cat((timed, first)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features[3, : len(plain)], plain, atol=1e-4, rtol=1e-4)
    alone_as_together(encoder, text)
    assert heard(encoder, [None]).shape == (1, 0, 16)
    assert not encoder(tokens.silenced(torch.tensor([True] * 4))).any()


@pytest.mark.parametrize("name", ["clip", "t5"])
def test_frozen_weights_neither_train_nor_are_saved_nor_copied(folders: dict[str, Path], name: str) -> None:
    encoder: Any = published(folders, name).train()
    assert sorted(encoder.state_dict()) == [
        "moment.weight",
        "norm.bias",
        "norm.weight",
        "project.bias",
        "project.weight",
    ]
    assert {key for key, _ in encoder.named_parameters()} == set(encoder.state_dict())
    encoder(encoder.tokens(as_text([SEVEN, (1.0, BALL)]))).square().mean().backward()
    assert encoder.project.weight.grad.abs().sum() > 0
    assert not any(one.requires_grad for one in encoder._frozen.network.parameters())
    assert not encoder._frozen.network.training
    assert copy.deepcopy(encoder)._frozen is encoder._frozen
    assert encoder.folder == str(folders[name])


def test_each_caption_that_differs_is_read_once(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: Any = published(folders, "t5")
    asked: list[Tensor] = []
    forward = encoder._frozen.network.forward
    monkeypatch.setattr(
        encoder._frozen.network, "forward", lambda **inputs: (asked.append(inputs["input_ids"]), forward(**inputs))[1]
    )
    heard(encoder, [SEVEN, BALL, [SEVEN, (1.0, BALL)], None])
    assert [len(ids) for ids in asked] == [2]


def test_captions_longer_than_the_model_reads_are_refused(folders: dict[str, Path]) -> None:
    for name, most in (("clip", LONGEST), ("t5", 512)):
        with pytest.raises(ValueError, match=f"at most {most} tokens"):
            published(folders, name).tokens(as_text(["the " * (most + 1)]))


def test_folders_that_are_missing_damaged_or_anothers_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config.json.*not saved with a model.*clip:.*gone"):
        make_text_encoder(f"clip:{tmp_path / 'gone'}", width=16)
    with pytest.raises(ValueError, match="type 't5'; expected clip or clip_text_model"):
        make_text_encoder(f"clip:{folders['t5']}", width=16)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}), encoding="utf-8")
    with pytest.raises(ValueError, match="missing or damaged"):
        make_text_encoder(f"t5:{tmp_path}", width=16)
    with pytest.raises(ValueError, match="are clip, sentence, t5; got 'bert'"):
        PretrainedTextEncoder("bert", tmp_path, width=16)


def test_weights_that_lack_a_tensor_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    for file in folders["t5"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    held = safetensors.load_file(tmp_path / "model.safetensors")
    lost = sorted(key for key in held if "layer_norm" in key)[0]
    del held[lost]
    safetensors.save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lack {lost}"):
        make_text_encoder(f"t5:{tmp_path}", width=16)


@pytest.mark.parametrize(("kind", "package"), [("clip", "transformers"), ("sentence", "sentence_transformers")])
def test_a_missing_package_names_the_extra(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"flowvid\[pretrained\]"):
        make_text_encoder(f"{kind}:{folders['clip']}", width=16)


class Sentences(nn.Module):
    """What flowvid uses of a SentenceTransformer: a mean of embedded letters."""

    max_seq_length = 12

    def __init__(self, folder: str, *, device: str, local_files_only: bool) -> None:
        super().__init__()
        assert local_files_only
        assert device == "cpu"
        self.embed = nn.Embedding(128, 6)

    def tokenizer(self, caption: str, *, verbose: bool) -> dict[str, list[int]]:
        return {"input_ids": [1, *(ord(letter) for letter in caption if letter != " ")]}

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        mask = inputs["attention_mask"][..., None]
        return {"sentence_embedding": (self.embed(inputs["input_ids"]) * mask).sum(1) / mask.sum(1)}


def test_sentence_encoders_hear_a_caption_as_one_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Sentences))
    (tmp_path / "modules.json").write_text("[]", encoding="utf-8")
    encoder: Any = build(lambda: make_text_encoder(f"sentence:{tmp_path}", width=16))
    text = as_text(["the ball", None, [(1.0, "a one"), "the ball"]])
    tokens = encoder.tokens(text)
    assert tokens.said.sum(dim=1).tolist() == [1, 0, 2]
    features = heard(encoder, text)
    ids = torch.tensor([[1, *(ord(letter) for letter in "theball")]])
    with torch.no_grad():
        spoken = encoder._frozen.network({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        expected = encoder.norm(encoder.project(spoken["sentence_embedding"]) + encoder.moment.weight[0])
    torch.testing.assert_close(features[0, :1], expected)
    torch.testing.assert_close(features[2][tokens.said[2]][1:], expected)
    alone_as_together(encoder, text)
    assert not encoder(tokens.silenced(torch.tensor([True] * 3))).any()
    with pytest.raises(ValueError, match="at most 12 tokens"):
        encoder.tokens(as_text(["the seven moves"]))
