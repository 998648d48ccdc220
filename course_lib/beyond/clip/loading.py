"""Where the networks come from: weights in the package, a file, or OpenAI's by way of the hub where it is in reach."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_lib.beyond.clip.towers import Clip, Preprocess, build_clip, text_tower
from course_lib.beyond.clip.words import WORDS, WordTokenizer
from course_lib.checkpoint import write_atomically

FORMAT = "course_lib.beyond.clip/1"
TINY_FILE = Path(__file__).resolve().parents[2] / "weights" / "clip" / "tiny.safetensors"
TINY_CONTEXT = 32
_PROBE_S = 5.0  # how long the hub may take to say that it is there
_HUB_FILE = "open_clip_model.safetensors"

_TINY: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 32, "patch_size": None},
    "text_cfg": {"context_length": TINY_CONTEXT, "width": 64, "heads": 2, "layers": 2},
}


@dataclass(frozen=True)
class _Released:
    """OpenAI's weights: open_clip's name of the network, with the activation that they were trained with."""

    config: str
    repository: str
    megabytes: int


_RELEASED = {
    "RN50": _Released("RN50-quickgelu", "timm/resnet50_clip.openai", 408),
    "RN101": _Released("RN101-quickgelu", "timm/resnet101_clip.openai", 479),
    "ViT-B-16": _Released("ViT-B-16-quickgelu", "timm/vit_base_patch16_clip_224.openai", 598),
}

NAMES: tuple[str, ...] = ("tiny", *_RELEASED)
"""What `load_clip` knows."""


def load_clip(
    name: str = "tiny",
    *,
    pretrained: bool | str | os.PathLike[str] = True,
    device: torch.device | str | None = None,
) -> Clip:
    """A frozen CLIP in eval mode with its tokenizer and preprocessing.

    Args:
        name: "tiny", the course's own, for images of 32 pixels; "RN50", "RN101" or "ViT-B-16", OpenAI's.
        pretrained: True: the weights kept in the package, or OpenAI's, downloaded at their first use into the cache of
            the hub. False: random weights. A path: a file of weights for this network (`save_clip`, safetensors or
            what `torch.save` writes).
        device: where to put it; None: `course_lib.device()`.

    Raises:
        ValueError: for an unknown name, a broken file, and weights of another architecture.
        FileNotFoundError: where the file named, or that of the package, does not exist.
        RuntimeError: where OpenAI's weights are neither in the cache nor to be had, naming weights and cache.
    """
    import course_lib

    if name not in NAMES:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(NAMES)}")
    where = course_lib.device() if device is None else torch.device(device)
    file = Path(pretrained) if not isinstance(pretrained, bool) else None
    if name == "tiny":
        return _tiny(TINY_FILE if pretrained is True else file, where)
    if pretrained is True:
        file = _from_hub(name, _RELEASED[name])
    return _released(_RELEASED[name].config, file, where)


def save_clip(path: str | os.PathLike[str], clip: Clip, notes: Mapping[str, str]) -> None:
    """Write the weights of a tiny CLIP in half precision, atomically, with its vocabulary and notes in the header."""
    from safetensors.torch import save

    state = {k: v.detach().cpu().contiguous() for k, v in clip.model.state_dict().items()}
    state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    metadata = {**notes, "format": FORMAT, "vocabulary": json.dumps(clip.tokenizer.words)}
    content = save(state, metadata=metadata)
    write_atomically(path, lambda file: file.write(content))


def read_notes(path: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """What the header of a file of weights says: command, seed, steps, accuracies, vocabulary. None: the kept one."""
    from safetensors import safe_open

    with safe_open(TINY_FILE if path is None else path, framework="pt") as opened:
        return dict(opened.metadata() or {})


def random_clip(words: tuple[str, ...] = WORDS, config: Mapping[str, Any] = _TINY) -> Clip:
    """A CLIP that reads few words, by default the tiny one, with weights from torch's global generator; not frozen."""
    tokenizer = WordTokenizer(words, context_length=config["text_cfg"]["context_length"])
    text = {**config["text_cfg"], "vocab_size": tokenizer.vocab_size}
    model = build_clip({**config, "text_cfg": text})
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(config["vision_cfg"]["image_size"], half, half)
    return Clip(model, tokenizer, preprocess, tokenizer.context_length, text["width"])


def _tiny(file: Path | None, device: torch.device) -> Clip:
    if file is None:
        return _frozen(random_clip(), device)
    if not file.is_file():
        remedy = "name another file, or make it by `course train tiny-clip` (some minutes)"
        raise FileNotFoundError(f"weights of the tiny CLIP: not found at {file.absolute()}. To mend it, {remedy}.")
    state = _read(file)
    words = WORDS
    if file.suffix == ".safetensors" and (listed := read_notes(file).get("vocabulary")):
        words = tuple(json.loads(listed))
    clip = random_clip(words)
    _fill(clip.model, state, "tiny", file)
    return _frozen(clip, device)


def _released(config: str, file: Path | None, device: torch.device) -> Clip:
    import open_clip

    if file is not None and not file.is_file():
        raise FileNotFoundError(f"pretrained: no file at {file.absolute()}")
    found = open_clip.get_model_config(config)
    model: Any = build_clip(found)
    if file is not None:
        _fill(model, _read(file), config, file)
    context, size = model.context_length, found["vision_cfg"]["image_size"]
    tokenizer = open_clip.SimpleTokenizer(context_length=context)
    width = text_tower(model).token_embedding.embedding_dim
    return _frozen(Clip(model, tokenizer, Preprocess(size), context, width), device)


def _frozen(clip: Clip, device: torch.device) -> Clip:
    clip.model.requires_grad_(False).eval().to(device)
    return clip


def _read(file: Path) -> dict[str, Tensor]:
    """The state dict of a file, in single precision; `ValueError`, naming the file, if it holds none."""
    from open_clip.factory import load_state_dict

    try:
        state = load_state_dict(str(file))
        return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    except Exception as error:  # safetensors and torch raise half a dozen kinds
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{file}: got an unreadable file ({reason}), expected weights of a CLIP") from error


def _fill(model: Any, state: Mapping[str, Tensor], name: str, file: Path) -> None:
    """Load weights that fit by name and shape; open_clip would stretch positions to fit and so hide a mistake."""
    got = {key: tuple(tensor.shape) for key, tensor in state.items()}
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    if got != expected:
        key = next(key for key in [*expected, *got] if got.get(key) != expected.get(key))
        pair = f"{got.get(key, 'no tensor')} as {key!r}, expected {expected.get(key, 'no tensor')}"
        raise ValueError(f"{file}: weights of another architecture than {name}: got {pair}")
    model.load_state_dict(state)


def _from_hub(name: str, released: _Released) -> Path:
    """OpenAI's weights from the cache, else from the hub, else `RuntimeError` within seconds."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(released.repository, _HUB_FILE)
    if isinstance(cached, str):
        return Path(cached)
    try:
        # Asked once, with a limit: the download itself would try for half a minute where there is no network.
        get_hf_file_metadata(hf_hub_url(released.repository, _HUB_FILE), timeout=_PROBE_S)
        return Path(hf_hub_download(released.repository, _HUB_FILE, etag_timeout=_PROBE_S))
    except Exception as error:  # the hub's errors have no common ancestor but this
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        weights = f"OpenAI's weights of CLIP {name} ({released.repository}, {_HUB_FILE}, {released.megabytes} MB)"
        raise RuntimeError(
            f"{weights} are neither in the cache {constants.HF_HUB_CACHE} nor to be had ({reason}). To mend it, call "
            f"load_clip({name!r}) once with a network, copy the cache from a machine that has it (HF_HOME says where "
            f"it lies), or name the file: load_clip({name!r}, pretrained=PATH)."
        ) from error
