"""What is measured differently on a GPU. Needs only torch and pytest beside the package."""

import pytest
import torch
from torch import nn

from course_lib import measure

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize(("make", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_recurrent_layers(make, gates):
    net = make(3, 5, 2, bidirectional=True).cuda()
    x = torch.zeros(7, 2, 3, device="cuda")
    expected = 14 * 2 * gates * 5 * ((3 + 5) + (10 + 5))
    assert measure.count_macs(net, x) == expected
    assert measure.count_macs(net.eval(), x) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_transformer_layer(dtype):
    layer = nn.TransformerEncoderLayer(64, 2, 128, batch_first=True).to("cuda", dtype).eval()
    tokens, width, hidden = 5, 64, 128
    expected = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * hidden
    assert measure.count_macs(layer, torch.zeros(1, tokens, width, device="cuda", dtype=dtype)) == expected


def test_convolution():
    conv = nn.Conv2d(3, 8, 3, padding=1).cuda()
    assert measure.count_macs(conv, torch.zeros(2, 3, 6, 6, device="cuda")) == 2 * 36 * 8 * 27


def test_peak_memory_is_exact():
    held = torch.ones(1 << 20, device="cuda")
    assert measure.peak_memory(lambda: held + 1) == 4 << 20
    assert (4 << 20) <= measure.peak_memory(lambda: (held + 1).sum().item()) <= (4 << 20) + 4096


def test_the_device_is_named():
    held = torch.ones(16, device="cuda")
    assert measure.latency(lambda: held + 1).device == "cuda"
    assert measure.Roofline.probe(seconds=0.05, device="cuda").device == "cuda"
