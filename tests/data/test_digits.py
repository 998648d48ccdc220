import pytest
import torch

from course_lib import data

pytest.importorskip("sklearn")

SIZES = {"train": 1197, "validation": 300, "test": 300}


@pytest.fixture(scope="module")
def splits():
    return {split: data.digits(split=split) for split in SIZES}


def test_sizes_types_and_range(splits):
    for split, n in SIZES.items():
        images, labels = splits[split]
        assert images.shape == (n, 1, 8, 8)
        assert images.dtype == torch.float32
        assert labels.shape == (n,)
        assert labels.dtype == torch.int64
        assert images.min() == 0
        assert images.max() == 1


def test_stratified(splits):
    total = sum(labels.bincount() for _, labels in splits.values())
    for split, n in SIZES.items():
        expected = total * n / 1797
        assert (splits[split][1].bincount() - expected).abs().max() <= 1.5


def test_the_splits_are_a_partition(splits):
    """Together they are the bundled images, each as often as there: nothing twice, nothing lost."""
    from sklearn.datasets import load_digits

    together = torch.cat([images for images, _ in splits.values()]).flatten(1) * 16
    rows = sorted(map(tuple, together.int().tolist()))
    assert rows == sorted(map(tuple, load_digits().data.astype(int).tolist()))


def test_fixed(splits):
    images, labels = data.digits(split="test")
    assert torch.equal(images, splits["test"][0])
    assert torch.equal(labels, splits["test"][1])


def test_unknown_split():
    with pytest.raises(ValueError, match="split: got 'val'"):
        data.digits(split="val")
