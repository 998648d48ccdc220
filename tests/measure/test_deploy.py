import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.measure import fold_batchnorm


def live_norm(channels: int, **options) -> nn.BatchNorm2d:
    """A BatchNorm whose statistics and weights are not the initial ones."""
    norm = nn.BatchNorm2d(channels, **options)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            if tensor is not None:
                tensor.copy_(torch.randn(channels))
        if norm.running_var is not None:
            norm.running_var.copy_(torch.rand(channels) + 0.5)
    return norm


@settings(max_examples=15, deadline=None)
@given(
    groups=st.sampled_from([1, 2]), stride=st.integers(1, 2), bias=st.booleans(), affine=st.booleans(),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_equal_outputs(groups, stride, bias, affine, seed):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=stride, groups=groups, bias=bias),
        live_norm(4, affine=affine),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 3, 1, bias=bias), live_norm(3)),
    ).eval()
    folded = fold_batchnorm(net)
    x = torch.randn(3, 2, 7, 7)
    torch.testing.assert_close(folded(x), net(x), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert [type(m) for m in folded][1:3] == [nn.Identity, nn.ReLU]


def test_the_model_itself_is_left_alone():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), live_norm(2)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    folded = fold_batchnorm(net)
    assert net.training
    assert not folded.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Twice(nn.Module):
    """One convolution with two norms: neither can be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(2, 2, 1)
        self.a, self.b = nn.Sequential(conv, live_norm(2)), nn.Sequential(conv, live_norm(2))

    def forward(self, x):
        return self.a(x), self.b(x)


@pytest.mark.parametrize(
    "net",
    [
        Twice(),
        nn.Sequential(live_norm(2), nn.Conv2d(2, 2, 1)),
        nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), live_norm(2)),
        nn.Sequential(nn.Conv2d(2, 2, 1), live_norm(2, track_running_stats=False)),
    ],
)
def test_what_cannot_be_folded_stays(net):
    net.eval()
    folded = fold_batchnorm(net)
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) for model in (net, folded)]
    assert norms[0] == norms[1]
    x = torch.randn(2, 2, 3, 3)
    torch.testing.assert_close(folded(x), net(x))


def test_a_published_network():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    net = models.mobilenet_v2(num_classes=7, width_mult=0.25).eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(fold_batchnorm(net)(x), net(x), atol=1e-5, rtol=1e-4)
