"""CLIP on open_clip: sizes, the text tower from embeddings on, the small tokenizer, weights kept, absent, foreign."""

import json
import math
import re
import socket

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import data
from course_lib.beyond import clip as clips
from course_lib.beyond.clip import loading, pretraining

open_clip = pytest.importorskip("open_clip")

SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture
def offline(monkeypatch):
    """No name is resolved, no connection made; the hub's cache is empty."""

    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def briefly(monkeypatch):
    """A training judges itself on few images."""
    monkeypatch.setattr(pretraining, "zero_shot_accuracy", lambda clip, **_: clips.zero_shot_accuracy(clip, images=60))


def small(kind: str = "CLIP", seed: int = 0) -> clips.Clip:
    """A CLIP of a few thousand weights, as the one class or the other, with the same weights."""
    torch.manual_seed(seed)
    clip = clips.random_clip(config=SMALL)
    clip.model.requires_grad_(False).eval()
    if kind == "CLIP":
        return clip
    text = {**SMALL["text_cfg"], "vocab_size": clip.tokenizer.vocab_size}
    custom = open_clip.CustomTextCLIP(**{**SMALL, "text_cfg": text})
    custom.load_state_dict(open_clip.model.convert_to_custom_text_state_dict(clip.model.state_dict()))
    custom.requires_grad_(False).eval()
    return clips.Clip(custom, clip.tokenizer, clip.preprocess, clip.context_length, clip.width)


# Sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "total", "visual", "embedding"),
    [
        ("ViT-B-16-quickgelu", 149_620_737, 86_192_640, 512),
        ("RN50-quickgelu", 102_007_137, 38_316_896, 1024),
    ],
)
def test_sizes_of_the_released_networks(config, total, visual, embedding):
    found = open_clip.get_model_config(config)
    with torch.device("meta"):
        model = clips.build_clip(found)
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert (count(model), count(model.visual), found["embed_dim"]) == (total, visual, embedding)
    assert found["quick_gelu"]
    assert model.token_embedding.weight.shape == (49408, 512)


def test_the_tiny_one():
    clip = clips.load_clip("tiny", pretrained=False, device="cpu")
    model = clip.model
    assert sum(p.numel() for p in model.visual.parameters()) == 1_327_832  # as the card measured
    assert sum(p.numel() for p in model.transformer.parameters()) == 99_968
    assert (clip.context_length, clip.width) == (32, 64)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-4)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_unknown_name():
    with pytest.raises(ValueError, match="name: got 'ViT-L-14', expected one of tiny, RN50, RN101, ViT-B-16"):
        clips.load_clip("ViT-L-14")


# The text tower ------------------------------------------------------------------------------------------------------

SENTENCES = ["a photo of a ring.", "a ring.", "a thin pencil drawing of a triangle.", "an oval"]


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_embeddings_of_words_give_the_features_of_the_sentence(kind):
    clip = small(kind)
    tokens = clip.tokenizer(SENTENCES)
    embeddings = clips.text_tower(clip.model).token_embedding(tokens)
    expected = clip.model.encode_text(tokens, normalize=True)
    assert torch.equal(clips.encode_prompts(clip, embeddings, tokens), expected)
    length = int(tokens.argmax(1).max()) + 1
    assert length < clip.context_length
    cut = clips.encode_prompts(clip, embeddings[:, :length], tokens[:, :length])
    torch.testing.assert_close(cut, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(expected.norm(dim=-1), torch.ones(len(SENTENCES)))


def test_both_classes_agree():
    tokens = small().tokenizer(SENTENCES)
    first, second = (small(kind).model.encode_text(tokens, normalize=True) for kind in ("CLIP", "CustomTextCLIP"))
    assert torch.equal(first, second)


def test_what_stands_behind_the_end_does_not_matter_and_what_stands_before_does():
    clip = small()
    tokens = clip.tokenizer(SENTENCES[:1])
    embeddings = clip.model.token_embedding(tokens)
    end = int(tokens.argmax(1))
    noise = torch.randn(1, clip.context_length, clip.width, generator=torch.Generator().manual_seed(1))
    before, behind = noise.clone(), noise.clone()
    before[:, end:], behind[:, : end + 1] = 0, 0
    same, other = (clips.encode_prompts(clip, embeddings + part, tokens) for part in (behind, before))
    plain = clips.encode_prompts(clip, embeddings, tokens)
    torch.testing.assert_close(same, plain, atol=1e-6, rtol=0)
    assert (other - plain).abs().max() > 1e-2


def test_gradients_reach_the_prompts_and_nothing_else():
    clip = small()
    tokens = clip.tokenizer(SENTENCES)
    embeddings = clip.model.token_embedding(tokens).clone().requires_grad_()
    clips.encode_prompts(clip, embeddings, tokens)[:, 0].sum().backward()
    reached = embeddings.grad.abs().amax(-1) > 0
    place = torch.arange(clip.context_length)
    assert torch.equal(reached, place <= tokens.argmax(1)[:, None])
    assert all(p.grad is None for p in clip.model.parameters())


def test_no_prompts():
    clip = small()
    found = clips.encode_prompts(clip, torch.zeros(0, 9, clip.width), torch.zeros(0, 9, dtype=torch.int64))
    assert found.shape == (0, 24)


def test_wrong_prompts_are_named():
    clip = small()
    tokens = clip.tokenizer(SENTENCES)
    embeddings = clip.model.token_embedding(tokens)
    with pytest.raises(ValueError, match=r"embeddings: got shape \(4, 16, 31\), expected \(M, L, 32\)"):
        clips.encode_prompts(clip, embeddings[..., 1:], tokens)
    with pytest.raises(ValueError, match="L at most 16"):
        clips.encode_prompts(clip, torch.cat([embeddings, embeddings], 1), tokens)
    with pytest.raises(ValueError, match=r"tokens: got shape \(3, 16\)"):
        clips.encode_prompts(clip, embeddings, tokens[1:])
    with pytest.raises(ValueError, match="a row without the end token"):  # cut in the middle of a sentence
        clips.encode_prompts(clip, embeddings[:, :4], tokens[:, :4])
    both_ways = open_clip.CustomTextCLIP(
        **{**SMALL, "text_cfg": {**SMALL["text_cfg"], "vocab_size": clip.tokenizer.vocab_size, "no_causal_mask": True}}
    )
    other = clips.Clip(both_ways, clip.tokenizer, clip.preprocess, clip.context_length, clip.width)
    with pytest.raises(ValueError, match="expected a causal one"):
        clips.encode_prompts(other, embeddings, tokens)


def test_image_features_are_those_of_the_tower_in_any_batches():
    clip = clips.load_clip("tiny", pretrained=False, device="cpu")
    images = data.domain_shapes(10, domain="photo", seed=0).images
    found = clips.encode_images(clip, images, batch_size=4)
    expected = clip.model.encode_image((images - 0.5) * 2, normalize=True)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert clips.encode_images(clip, images[:0]).shape == (0, 64)


# Preprocessing and words ---------------------------------------------------------------------------------------------


def test_preprocessing_is_open_clips_up_to_its_rounding():
    Image = pytest.importorskip("PIL.Image")
    row, column = torch.meshgrid(torch.linspace(0, 3, 50), torch.linspace(0, 4, 70), indexing="ij")
    image = torch.stack([0.5 + 0.4 * row.sin(), 0.5 + 0.4 * column.cos(), 0.5 + 0.3 * (row * column).sin()])
    pixels = (image * 255).round().byte()
    theirs = open_clip.image_transform(32, is_train=False)(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
    ours = clips.Preprocess(32)(pixels.float() / 255)
    assert ours.shape == theirs.shape == (3, 32, 32)
    assert (ours - theirs).abs().max() < 0.05
    assert torch.equal(clips.Preprocess(32)(image[None].repeat(2, 1, 1, 1))[1], clips.Preprocess(32)(image))


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 1, 32, 32), (3, 32), (2, 2, 3, 8, 8)])
def test_preprocessing_refuses_what_is_no_colour_image(shape):
    with pytest.raises(ValueError, match="images: got shape"):
        clips.Preprocess(32)(torch.zeros(shape))


TOKENIZER = clips.WordTokenizer(clips.WORDS)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([*clips.WORDS, "oval", "x", "7", ".", ","]), max_size=8))
def test_tokens_of_known_words_and_spelled_ones(words):
    text = " ".join(words)
    ids = TOKENIZER.encode(text)
    decoded = TOKENIZER.decode(ids)
    assert decoded.replace(" ", "") == text.replace(" ", "")
    assert all(0 < i < TOKENIZER.sot_token_id for i in ids)
    row = TOKENIZER([text])[0]
    assert row.argmax() == len(ids) + 1  # the end token is the largest id
    assert row[: len(ids) + 2].tolist() == [TOKENIZER.sot_token_id, *ids, TOKENIZER.eot_token_id]
    assert not row[len(ids) + 2 :].any()


def test_known_words_are_one_token_each():
    assert all(len(TOKENIZER.encode(word)) == 1 for word in clips.WORDS)
    assert TOKENIZER.encode("Ring") == TOKENIZER.encode("ring")
    assert len(TOKENIZER.encode("hexagon")) == 7
    assert {TOKENIZER.encode(word)[0] for word in clips.WORDS} == set(TOKENIZER.word_ids)
    captions = [c for d in data.DOMAINS for c in data.domain_shapes(200, domain=d, seed=1).captions]
    known = {*TOKENIZER.word_ids, *TOKENIZER.encode(".,")}
    assert all(set(TOKENIZER.encode(caption)) <= known for caption in captions)


def test_wrong_texts_and_words_are_named():
    with pytest.raises(ValueError, match="takes 42 tokens, expected at most 32"):
        TOKENIZER(["a ring", "ring " * 40])
    with pytest.raises(ValueError, match="got the character 'é' in 'café'"):
        TOKENIZER.encode("café")
    with pytest.raises(ValueError, match="words: got 'two words'"):
        clips.WordTokenizer(["two words"])
    with pytest.raises(ValueError, match="context_length: got 2"):
        clips.WordTokenizer(["a"], context_length=2)


# The contrastive loss ------------------------------------------------------------------------------------------------


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_captions_that_all_differ_give_the_usual_loss():
    images, captions = features(7, 5), features(7, 5, seed=1)
    logits = 3.0 * images @ captions.T
    rows = torch.arange(7)
    expected = 0.5 * (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows))
    torch.testing.assert_close(clips.caption_loss(images, captions, rows, 3.0), expected)


def test_repeated_captions_are_no_rivals_of_themselves():
    captions = torch.eye(3)
    index = torch.tensor([0, 0, 0, 1, 2, 2])
    images = captions[index]
    perfect = clips.caption_loss(images, captions, index, 100.0)
    # each image finds its caption; a caption with c images is as unsure among them as it must be
    torch.testing.assert_close(perfect, torch.tensor(0.5 * (math.log(3) + math.log(1) + math.log(2)) / 3))
    shuffled = torch.tensor([5, 3, 0, 1, 4, 2])
    noisy = F.normalize(images + 0.3 * features(6, 3), dim=-1)
    first = clips.caption_loss(noisy, captions, index, 10.0)
    torch.testing.assert_close(clips.caption_loss(noisy[shuffled], captions, index[shuffled], 10.0), first)
    order = torch.tensor([2, 0, 1])
    renamed = torch.tensor([1, 2, 0])[index]
    torch.testing.assert_close(clips.caption_loss(noisy, captions[order], renamed, 10.0), first)


# Weights -------------------------------------------------------------------------------------------------------------


def test_the_kept_weights_are_what_their_header_says(offline):
    clip, notes = clips.load_clip("tiny", device="cpu"), clips.read_notes()
    assert loading.TINY_FILE.stat().st_size <= 4_000_000
    assert notes["command"] == "course train tiny-clip"
    assert int(notes["steps"]) == clips.STEPS
    assert tuple(json.loads(notes["vocabulary"])) == clip.tokenizer.words == clips.WORDS
    stated = json.loads(notes["zero_shot"])
    found = clips.zero_shot_accuracy(clip)
    assert list(stated) == list(data.DOMAINS)
    # the same images; half precision and another processor may turn a few of the 2,000 answers
    assert all(abs(found[domain] - stated[domain]) <= 0.01 for domain in data.DOMAINS)


def test_the_kept_weights_leave_room(offline):
    stated = json.loads(clips.read_notes()["zero_shot"])
    assert all(0.6 <= stated[domain] <= 0.9 for domain in ("painting", "sketch", "blueprint"))
    assert stated["photo"] > 0.8
    assert stated["xray"] < 0.5  # hardly better than chance, one in six


def test_the_recipe_runs_and_is_fixed_by_its_seed(briefly):
    first, again = (clips.train_tiny(steps=3, batch_size=12, seed=4) for _ in range(2))
    assert first.losses == again.losses
    assert len(first.losses) == 3
    assert clips.train_tiny(steps=3, batch_size=12, seed=5).losses != first.losses
    assert set(first.zero_shot) == set(data.DOMAINS)
    assert not any(p.requires_grad for p in first.clip.model.parameters())
    assert not first.clip.model.training


def test_trained_weights_are_written_with_how_they_came_about(briefly, tmp_path):
    run, file = clips.train_and_save(steps=2, seed=3, out=tmp_path / "new" / "mine.safetensors")
    notes = clips.read_notes(file)
    assert notes["command"] == "course train tiny-clip --seed 3 --steps 2"
    assert (notes["seed"], notes["steps"]) == ("3", "2")
    assert json.loads(notes["zero_shot"]) == {k: round(v, 4) for k, v in run.zero_shot.items()}
    clip = clips.load_clip("tiny", pretrained=file, device="cpu")
    written = run.clip.model.state_dict()
    for name, tensor in clip.model.state_dict().items():
        torch.testing.assert_close(tensor, written[name], atol=1e-3, rtol=2e-3)
    assert list(tmp_path.rglob("*")) == [tmp_path / "new", file]  # nothing partial is left


def test_training_learns(briefly):
    easy = {"sketch": 1.0}
    run = clips.train_tiny(steps=12, batch_size=48, mixture=easy)
    assert sum(run.losses[-3:]) < sum(run.losses[:3]) - 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"steps": 1, "batch_size": 0}, "batch_size: got 0"),
        ({"steps": 1, "mixture": {"fresco": 1.0}}, "mixture: got .*fresco"),
        ({"steps": 1, "mixture": {"photo": 0.0}}, "mixture: got"),
        ({"steps": 1, "mixture": {}}, "mixture: got"),
    ],
)
def test_wrong_settings_of_the_training(given, named):
    with pytest.raises(ValueError, match=named):
        clips.train_tiny(**given)


def test_a_loss_that_is_not_finite_is_named():
    with pytest.raises(FloatingPointError, match="at step 1"):
        clips.train_tiny(steps=4, batch_size=8, lr=float("inf"))


def test_weights_of_another_architecture(tmp_path):
    clips.save_clip(tmp_path / "small.safetensors", small(), {})
    with pytest.raises(
        ValueError, match=r"small.safetensors: weights of another architecture than tiny: got .*expected"
    ):
        clips.load_clip("tiny", pretrained=tmp_path / "small.safetensors", device="cpu")
    with pytest.raises(ValueError, match="another architecture than RN50-quickgelu"):
        clips.load_clip("RN50", pretrained=tmp_path / "small.safetensors", device="cpu")


def test_a_file_of_torch_will_do_and_a_broken_one_is_named(tmp_path):
    clip = clips.load_clip("tiny", pretrained=False, device="cpu")
    torch.save(clip.model.state_dict(), tmp_path / "mine.pt")
    again = clips.load_clip("tiny", pretrained=tmp_path / "mine.pt", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(clip.model.parameters(), again.model.parameters(), strict=True))
    for name in ("broken.safetensors", "broken.pt"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ValueError, match=f"{name}: got an unreadable file"):
            clips.load_clip("tiny", pretrained=tmp_path / name, device="cpu")


def test_absent_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "TINY_FILE", tmp_path / "tiny.safetensors")
    with pytest.raises(FileNotFoundError, match="course train tiny-clip") as caught:
        clips.load_clip("tiny")
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        clips.load_clip("RN50", pretrained=tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("name", ["RN50", "RN101", "ViT-B-16"])
def test_no_network_is_an_error_that_names_weights_and_cache(offline, tmp_path, monkeypatch, name):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RuntimeError, match=re.escape(f"OpenAI's weights of CLIP {name}")) as caught:
        clips.load_clip(name, device="cpu")
    message = str(caught.value)
    assert str(tmp_path / "cache") in message
    assert loading._RELEASED[name].repository in message
    assert "To mend it" in message


def test_the_tokenizer_of_the_released_networks_comes_with_the_package(offline):
    clip = clips.load_clip("RN50", pretrained=False, device="cpu")
    assert clip.tokenizer.encode("a red circle.") == [320, 736, 7117, 269]
    assert clip.tokenizer(["dog"]).shape == (1, 77)
    assert (clip.context_length, clip.width, clip.preprocess.size) == (77, 512, 224)
    assert clip.tokenizer.eot_token_id == 49407
