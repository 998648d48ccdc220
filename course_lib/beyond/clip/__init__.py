"""CLIP on the library open_clip: images and sentences in one space, and sentences that need not be made of words.

Paper: Learning Transferable Visual Models From Natural Language Supervision (arXiv 2103.00020). The networks are
open_clip's own, tiny or released; this layer adds what the course needs of them and nothing else:
- `load_clip`: the tiny CLIP that the course trained (its weights lie in the package), or OpenAI's released weights,
  which the first use downloads; where there is no network that is a `RuntimeError` at once.
- `encode_prompts`: the text tower from embeddings on, so that prompts can be learned; equal to `encode_text` where the
  embeddings are those of words, and shorter where everything behind the last end token is cut away.
- `train_tiny`: how the tiny CLIP came about, by the command `course train tiny-clip`.
"""

from __future__ import annotations

from course_lib.beyond.clip.loading import NAMES, load_clip, random_clip, read_notes, save_clip
from course_lib.beyond.clip.pretraining import (
    MIXTURE,
    STEPS,
    TEMPLATE,
    ClipRun,
    caption_loss,
    fit_clip,
    train_and_save,
    train_tiny,
    zero_shot_accuracy,
)
from course_lib.beyond.clip.towers import Clip, Preprocess, build_clip, encode_images, encode_prompts, text_tower
from course_lib.beyond.clip.words import WORDS, WordTokenizer

__all__ = [
    "MIXTURE",
    "NAMES",
    "STEPS",
    "TEMPLATE",
    "WORDS",
    "Clip",
    "ClipRun",
    "Preprocess",
    "WordTokenizer",
    "build_clip",
    "caption_loss",
    "encode_images",
    "encode_prompts",
    "fit_clip",
    "load_clip",
    "random_clip",
    "read_notes",
    "save_clip",
    "text_tower",
    "train_and_save",
    "train_tiny",
    "zero_shot_accuracy",
]  # fmt: skip
