"""The published AdaFocus against ResNet-50 on full frames, random weights: the part of the temporal bench for a GPU.

MobileNetV2 glances at 16 frames of 224x224 pixels, ResNet-50 reads windows of 128; the rival reads the whole frames.
BatchNorm is folded on both sides. On a GPU batches of 64 in float16, each side at its best of eager and compiled; on
the CPU one video in float32, as many frames at a time as suit each side best. Only torch, numpy and torchvision have to
be installed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from course_lib import measure
from course_lib.bench.clips import FullFrames, in_parts
from course_lib.bench.core import Options, Row
from course_lib.bench.exits import ratios
from course_lib.temporal.adafocus import AdaFocus

ON_GPU = 1.8  # times as fast as full frames


class Half(nn.Module):
    """An encoder in float16 and channels last, as a GPU likes it, between float32 neighbours."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder.to(torch.float16).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) float32 -> maps, float32."""
        return self.encoder(x.to(torch.float16, memory_format=torch.channels_last)).float()


def compare(options: Options) -> tuple[list[Row], float]:
    """MobileNetV2 and ResNet-50 on 16 frames against ResNet-50 on full ones; also times as fast, each at its best."""
    cuda = torch.device(options.device).type == "cuda"
    frames, batch = (1, 1) if options.quick else (16, 64 if cuda else 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = folded(AdaFocus.published(frames=frames)).to(options.device)
        full: Any = folded(FullFrames.published()).to(options.device)
    macs = {"full frames": frames * full.macs_a_frame(), "AdaFocus": model.video_macs()}
    clips = torch.randn(batch, frames, 3, 224, 224, generator=torch.Generator().manual_seed(1)).to(options.device)
    if not cuda:
        (model, _), (full, _) = (in_parts(one, clips, (1, 2, 4, 8)) for one in (model, full))
    calls: dict[str, Callable[[], object]] = {
        "full frames": partial(full, clips),
        "AdaFocus": partial(model.infer, clips),
    }
    if cuda:
        full.focuser, model.focuser, model.glancer = (Half(e) for e in (full.focuser, model.focuser, model.glancer))
        calls |= _compiled(full, model, clips)
    with torch.inference_mode():
        timings = measure.compare(calls, rounds=2 if options.quick else 5, warmup=1 if options.quick else 2)
    rows = []
    for name, timing in timings.items():
        more: dict[str, Any] = {
            "batch": batch,
            "frames": frames,
            "patch": model.patch,
            "macs": macs[name.split(",")[0]],
        }
        more["dtype"] = "float16" if cuda else "float32"
        speeds = [batch / seconds for seconds in timing.samples_s]
        rows.append(Row.of(f"published networks, batch {batch}: {name}", "videos/s", speeds, **more))
    best = {}
    for side in macs:
        own = [timing for name, timing in timings.items() if name.startswith(side)]
        best[side] = min(own, key=lambda timing: timing.median_s)
    values = ratios(best["full frames"], best["AdaFocus"])
    fewer = round(macs["full frames"] / macs["AdaFocus"], 3)
    row = Row.of(f"published networks, batch {batch}: full frames / AdaFocus", "x", values, fewer_macs=fewer)
    return [*rows, row], row.median


def folded(model: nn.Module) -> nn.Module:
    """`measure.fold_batchnorm`, and the BatchNorm of ResNet's blocks, too, which do not stand in a sequence."""
    folded = measure.fold_batchnorm(model)
    for block in folded.modules():
        for k in (1, 2, 3):
            conv, norm = getattr(block, f"conv{k}", None), getattr(block, f"bn{k}", None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(block, f"conv{k}", fuse_conv_bn_eval(conv, norm))
                setattr(block, f"bn{k}", nn.Identity())
    return folded.requires_grad_(False)


def _compiled(full: FullFrames, model: AdaFocus, clips: Tensor) -> dict[str, Callable[[], object]]:
    """The same contenders with compiled encoders."""
    faster: list[Any] = [copy.deepcopy(full), copy.deepcopy(model)]
    for one in faster:
        one.focuser = torch.compile(one.focuser)
    faster[1].glancer = torch.compile(faster[1].glancer)
    return {
        "full frames, compiled": partial(faster[0], clips),
        "AdaFocus, compiled": partial(faster[1].infer, clips),
    }
