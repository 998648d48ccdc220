"""Multiply-adds against closed forms, and the refusal to report a wrong zero."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from course_lib import measure
from course_lib.measure import macs as macs_module


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 3),
    per_group=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2),
    batch=st.integers(1, 2),
    transposed=st.booleans(),
)
def test_convolutions(groups, per_group, kernel, stride, dilation, padding, batch, transposed):
    inputs, outputs = (groups * c for c in per_group)
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    conv = kind(inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    x = torch.zeros(batch, inputs, 9, 11)
    y = conv(x)
    positions = (x if transposed else y)[:, 0].numel()  # where the kernel is laid on
    assert measure.count_macs(conv, x) == positions * kernel**2 * inputs * outputs // groups


@settings(max_examples=15, deadline=None)
@given(
    inputs=st.integers(1, 5), hidden=st.integers(1, 5), layers=st.integers(1, 3), directions=st.integers(1, 2),
    steps=st.integers(1, 4), batch=st.integers(1, 3), kind=st.sampled_from([(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)]),
    training=st.booleans(),
)  # fmt: skip
def test_recurrent_layers(inputs, hidden, layers, directions, steps, batch, kind, training):
    make, gates = kind
    net = make(inputs, hidden, layers, bidirectional=directions == 2).train(training)
    widths = [inputs] + [hidden * directions] * (layers - 1)
    per_step = sum(directions * gates * hidden * (width + hidden) for width in widths)
    assert measure.count_macs(net, torch.zeros(steps, batch, inputs)) == steps * batch * per_step


def test_packed_sequences_cost_their_real_steps():
    net = nn.LSTM(3, 4, batch_first=True)
    packed = nn.utils.rnn.pack_padded_sequence(torch.zeros(2, 5, 3), torch.tensor([5, 2]), batch_first=True)
    assert measure.count_macs(net, packed) == 7 * 4 * 4 * (3 + 4)


def transformer_macs(tokens: int, width: int, hidden: int) -> int:
    projections, attention, feed_forward = 4 * tokens * width**2, 2 * tokens**2 * width, 2 * tokens * width * hidden
    return projections + attention + feed_forward


@pytest.mark.parametrize("training", [False, True])
def test_transformer_layer_counts_in_both_modes(training):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).train(training)
    assert measure.count_macs(layer, torch.zeros(1, 5, 8)) == transformer_macs(5, 8, 16)


def test_transformer_encoder_and_the_fast_path_is_put_back():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3).eval()
    before = torch.backends.mha.get_fastpath_enabled()
    assert measure.count_macs(encoder, torch.zeros(2, 5, 8)) == 2 * 3 * transformer_macs(5, 8, 16)
    assert torch.backends.mha.get_fastpath_enabled() == before


class Products(nn.Module):
    def forward(self, matrix: Tensor, vector: Tensor) -> Tensor:
        square = matrix @ matrix  # 4 * 4 * 4
        return (
            (matrix @ vector).sum()  # 16
            + vector @ vector  # 4
            + torch.addmv(vector, matrix, vector).sum()  # 16
            + square.clone().addmm_(matrix, matrix).sum()  # 64
            + torch.addbmm(matrix, matrix[None], matrix[None]).sum()  # 64
            + torch.einsum("ij,kj->ik", matrix, matrix).sum()  # 64
        )


def test_every_kind_of_product():
    assert measure.count_macs(Products(), torch.ones(4, 4), torch.ones(4)) == 64 + 16 + 4 + 16 + 64 + 64 + 64


@pytest.mark.parametrize("inference", [False, True])
def test_per_module_and_whole(inference):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    with torch.inference_mode(inference):
        counts = measure.macs_per_module(net, torch.zeros(1, 1, 4, 4))
    assert counts == {"": 72 + 24, "0": 72, "1": 0, "2": 0, "3": 0, "4": 24}
    assert all(type(count) is int for count in counts.values())


class Shared(nn.Module):
    """One layer used twice, one never, arguments that are no tensors, a module that is listed under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.alias = self.layer
        self.unused = nn.Linear(3, 3)

    def forward(self, batch: dict[str, Tensor], times: int, flags: list[bool]) -> list[Tensor]:
        x = batch["x"]
        for _ in range(times):
            x = self.layer(x)
        return [x] * len(flags)


def test_inputs_of_any_kind_and_modules_used_twice():
    net = Shared()
    assert measure.macs_per_module(net, {"x": torch.zeros(2, 3)}, 2, [True]) == {"": 36, "layer": 36}
    assert measure.count_macs(net, {"x": torch.zeros(2, 3)}, 0, []) == 0


@pytest.mark.parametrize("net", [nn.Linear(3, 2), nn.LSTM(3, 2, batch_first=True), nn.TransformerEncoderLayer(3, 1, 4)])
def test_an_empty_batch_costs_nothing(net):
    if isinstance(net, nn.Linear):
        assert measure.count_macs(net, torch.zeros(0, 3)) == 0
    assert measure.count_macs(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), torch.zeros(0, 3, 4, 4)) == 0


class Gated(nn.Module):
    """A block that runs only where it is wanted, with its weights in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(3, 3)
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(3, 3))])

    def forward(self, x: Tensor, wanted: bool) -> Tensor:
        return self.block(x) @ self.weights[0] if wanted else x


def test_what_is_skipped_costs_nothing_and_is_no_error():
    net = nn.ModuleDict({"gate": Gated()})
    net.forward = lambda x, wanted: net["gate"](x, wanted)
    assert measure.macs_per_module(net, torch.zeros(1, 3), True) == {"": 18, "gate": 18, "gate.block": 9}
    net["gate"].weights = nn.ParameterList()
    assert measure.macs_per_module(net, torch.zeros(1, 3), False) == {"": 0, "gate": 0}


class Patches(nn.Module):
    """Weights that cost nothing: added, put in front, used as a scale, looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 5, 4))
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.scale = nn.Parameter(torch.ones(1, 4))
        self.table = nn.Parameter(torch.ones(7, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return x * self.scale + nn.functional.embedding(torch.zeros(5, dtype=torch.int64), self.table)


def test_what_legitimately_counts_zero():
    net = nn.Sequential(
        nn.Embedding(5, 4), Patches(), nn.LayerNorm([5, 4]), nn.GroupNorm(5, 5), nn.PReLU(5), nn.BatchNorm1d(5),
        nn.Upsample(8), nn.AdaptiveAvgPool1d(2),
    )  # fmt: skip
    assert measure.count_macs(net, torch.zeros(2, 4, dtype=torch.int64)) == 0


def test_an_unknown_layer_with_weights_is_named():
    net = nn.ModuleDict({"pair": nn.Bilinear(2, 3, 4)})
    net.forward = lambda a, b: net["pair"](a, b)
    with pytest.raises(NotImplementedError, match=r"pair \(Bilinear\).*'weight'"):
        measure.count_macs(net, torch.zeros(1, 2), torch.zeros(1, 3))


class Disguised(nn.Module):
    """A matrix product written as an outer product and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :, None] * self.weight).sum(1)


def test_a_product_in_disguise_is_named():
    with pytest.raises(NotImplementedError, match="Disguised"):
        measure.count_macs(Disguised(), torch.zeros(2, 3))


@torch.library.custom_op("course_test::masked_linear", mutates_args=())
def masked_linear(x: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    return (x @ weight.t()) * mask[:, None]


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.ops.course_test.masked_linear(x, self.weight, mask)


def test_an_own_operation_needs_a_formula_and_then_counts(monkeypatch):
    monkeypatch.setattr(macs_module, "_formulas", dict(macs_module._formulas))
    x, mask = torch.ones(4, 3), torch.tensor([True, False, True, True])
    with pytest.raises(NotImplementedError, match=r"course_test.masked_linear.*'weight'.*register_macs"):
        measure.count_macs(Bare(), x, mask)
    measure.register_macs(
        torch.ops.course_test.masked_linear.default,
        lambda x, weight, mask, out: int(mask.sum()) * x.shape[1] * out.shape[1],
    )
    assert measure.count_macs(Bare(), x, mask) == 3 * 3 * 5
    assert measure.count_macs(Bare(), x, torch.zeros(4, dtype=torch.bool)) == 0  # nothing active, and no error


def test_only_operations_can_be_registered():
    with pytest.raises(TypeError, match="op: got"):
        measure.register_macs(masked_linear.__call__, lambda *a, **k: 0)


def test_only_modules_are_counted():
    with pytest.raises(TypeError, match="module: got function"):
        measure.count_macs(lambda x: x, torch.zeros(1))


def test_counting_leaves_no_trace():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    x = torch.rand(4, 1, 6, 6, requires_grad=True)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    measure.count_macs(net, x)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert net.training
    assert x.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_failing_forward_leaves_no_hooks():
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(RuntimeError):
        measure.count_macs(net, torch.zeros(1, 5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_published_networks_on_the_meta_device():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        x = torch.empty(1, 3, 224, 224)
        assert measure.count_macs(models.resnet18().eval(), x) == 1_814_073_344
        assert measure.count_macs(models.resnet50().eval(), x) == 4_089_184_256
