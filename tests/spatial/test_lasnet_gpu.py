"""LASNet on a GPU: the sparse network equals the dense and masked one, waits for nothing, and can be captured."""

import pytest
import torch

from course_lib import measure
from course_lib.bench.lasnet import calibrate
from course_lib.spatial.lasnet import HardwareSpec, LASNet

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def network():
    """A ResNet-50 whose maskers keep half of the cells of these images, in float16."""
    torch.manual_seed(0)
    model = LASNet.resnet50(classes=10).eval()
    for block in model.blocks:
        torch.nn.init.constant_(block.c[1].weight, 0.2)
    model = measure.fold_batchnorm(model).to("cuda", torch.float16).to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 224, 224, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        calibrate(model, x, 0.5)
    return model.requires_grad_(False), x


def test_sparse_equals_dense_and_masked(network):
    model, x = network
    found = model.infer(x, backend="triton")
    with torch.inference_mode():
        expected = model(x, masks=found.masks)
    error = (found.logits.double() - expected.logits.double()).norm() / expected.logits.double().norm()
    assert error < 1e-2
    assert found.rates.cpu().sub(0.5).abs().max() < 0.05


def test_nothing_waits_and_a_graph_follows_its_input(network):
    model, x = network
    model.classify(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.classify(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    given = x.clone(memory_format=torch.channels_last)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        model.classify(given)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = model.classify(given)
    given.copy_(x.flip(0))  # other images, other masks
    graph.replay()
    torch.cuda.synchronize()
    assert torch.allclose(out, model.classify(x.flip(0)), rtol=1e-2, atol=1e-2 * float(out.abs().max()))


def test_probe_describes_this_gpu():
    spec = HardwareSpec.probe(batch=8, seconds=0.5, device="cuda")
    assert spec.engines == torch.cuda.get_device_properties(0).multi_processor_count
    assert spec.bandwidth > 5e10
    assert spec.launch_s < 1e-3
