"""Real data that is always there: the handwritten digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_HELD_OUT = 300  # images in validation and in test each, of 1,797


def digits(*, split: str) -> tuple[Tensor, Tensor]:
    """The 1,797 8x8 digits of scikit-learn in a fixed stratified split of 1,197, 300 and 300.

    Args:
        split: "train", "validation" or "test".

    Returns:
        images (n, 1, 8, 8) float32 in [0, 1], labels (n,) int64.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998; the copy in scikit-learn is its
    test part, so nothing is downloaded. Raises ValueError for another split.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split: got {split!r}, expected 'train', 'validation' or 'test'")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    rest, test = train_test_split(
        np.arange(len(bunch.target)), test_size=_HELD_OUT, stratify=bunch.target, random_state=0
    )
    train, validation = train_test_split(rest, test_size=_HELD_OUT, stratify=bunch.target[rest], random_state=0)
    rows = {"train": train, "validation": validation, "test": test}[split]
    images = torch.from_numpy(bunch.images[rows]).float().unsqueeze(1) / 16
    return images, torch.from_numpy(bunch.target[rows]).long()
