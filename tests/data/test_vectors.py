"""The vectors of two difficulties: same bytes, same task for every seed, and hard ones are as they are said to be."""

import pytest
import torch

from course_lib import data
from course_lib.data import vectors


def test_same_arguments_same_bytes_and_other_seeds_other_vectors():
    one, same, other = data.two_difficulties(50, seed=3), data.two_difficulties(50, seed=3), data.two_difficulties(50)
    assert torch.equal(one.inputs, same.inputs)
    assert torch.equal(one.labels, same.labels)
    assert torch.equal(one.hard, same.hard)
    assert not torch.equal(one.inputs, other.inputs)


def test_shapes_types_and_shares():
    drawn = data.two_difficulties(5000, seed=1)
    assert drawn.inputs.shape == (5000, 64)
    assert (drawn.inputs.dtype, drawn.labels.dtype, drawn.hard.dtype) == (torch.float32, torch.int64, torch.bool)
    assert len(drawn) == 5000
    assert float(drawn.hard.double().mean()) == pytest.approx(0.4, abs=0.03)
    assert drawn.labels.bincount(minlength=10).min() > 400


def test_no_vectors():
    assert data.two_difficulties(0).inputs.shape == (0, 64)


def test_easy_vectors_are_their_prototype_in_noise_and_hard_ones_mislead():
    easy, further = (torch.from_numpy(part).float() for part in vectors._prototypes())
    drawn = data.two_difficulties(4000, seed=5)
    likeness = drawn.inputs @ easy.T / 64  # mean agreement with every easy prototype
    own = likeness.gather(1, drawn.labels[:, None]).squeeze(1)
    following = likeness.gather(1, (drawn.labels[:, None] + 1) % 10).squeeze(1)
    assert float(own[~drawn.hard].mean()) == pytest.approx(1, abs=0.02)
    mixed = 0.8 * torch.einsum("cpf,cf->cp", further, easy).mean() / 64  # chance likeness of the fixed prototypes
    assert float(own[drawn.hard].mean()) == pytest.approx(float(mixed), abs=0.1)
    assert float(following[drawn.hard].mean()) == pytest.approx(-0.3, abs=0.1)
    right = (likeness.argmax(1) == drawn.labels).double()
    assert float(right[~drawn.hard].mean()) > 0.99
    assert float(right[drawn.hard].mean()) < 0.25


@pytest.mark.parametrize(("arguments", "name"), [((-1,), "n"), ((3, -2), "seed")])
def test_numbers_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}: got -"):
        data.two_difficulties(arguments[0], **({"seed": arguments[1]} if len(arguments) > 1 else {}))
