"""Optimizers on one GPU: bandwidth, many small tensors, clipping with averaging, and a CUDA graph.

- bandwidth: bytes that a step must move, a second, on 1 B float32 parameters (24 tensors), as a share of
  what a copy within the GPU reaches in the same run; needs 24 GB of free GPU memory
- small: 10,000 tensors of 4,160 elements: what a step launches, by torch.profiler, and its time beside
  torch's fused Adam
- composed: `AdamW(clip_norm=1.0, average=0.999)` beside clip_grad_norm_, AdamW(fused=True) and
  AveragedModel, on 268 M parameters in 64 tensors and on 2,000 small ones
- graph: a step captured in a CUDA graph, replayed, beside the same steps without; their results

Times are medians of rounds that alternate, from an idle GPU until the last kernel is done.

    python benchmarks/gpu.py [--rounds 11] [bandwidth|small|composed|graph ...]
"""

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ravine.lab.bench.timing import clock_for, interleaved
from ravine.optim import SGD, Adam, AdamW, Lion, RMSprop
from running import verdict

DEVICE = torch.device("cuda")
BILLION = [41_666_667] * 24
SMALL = [4_160] * 10_000
COMPOSED = {"64 tensors of 4.2 M": [4_194_304] * 64, "2,000 tensors of 4,160": [4_160] * 2_000}

BANDWIDTH = 0.9
LAUNCHES = 3
COMPOSED_RATIO = 0.5

# For each optimizer how many floats a parameter it must read and write: x, the gradient, the state.
MOVED: dict[str, tuple[Callable[[list[Tensor]], torch.optim.Optimizer], int]] = {
    "SGD": (lambda params: SGD(params, lr=1e-3), 2 + 1),
    "SGD with momentum": (lambda params: SGD(params, lr=1e-3, momentum=0.9), 3 + 2),
    "RMSprop": (lambda params: RMSprop(params), 3 + 2),
    "Lion": (lambda params: Lion(params), 3 + 2),
    "Adam": (lambda params: Adam(params), 4 + 3),
    "AdamW": (lambda params: AdamW(params), 4 + 3),
    "AdamW with an average": (lambda params: AdamW(params, average=0.999), 5 + 4),
}


class Stepper:
    """A function as the timing takes it."""

    def __init__(self, step: Callable[[], object]) -> None:
        self.step = step

    def prepare(self) -> None:
        """Nothing: the gradients stay."""


def with_gradients(sizes: Sequence[int]) -> list[Tensor]:
    params = [torch.randn(size, device=DEVICE, requires_grad=True) for size in sizes]
    for parameter in params:
        parameter.grad = torch.randn_like(parameter) * 0.1
    return params


def medians(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The seconds that each takes."""
    taken = interleaved([Stepper(step) for step in steps.values()], rounds, clock_for(DEVICE))
    return dict(zip(steps, map(statistics.median, taken), strict=True))


def bandwidth(rounds: int) -> None:
    params = with_gradients(BILLION)
    elements = sum(BILLION)
    source = torch.empty(elements // 2, device=DEVICE)
    target = torch.empty_like(source)
    print(f"{elements / 1e9:.2f} B float32 parameters in {len(BILLION)} tensors")
    for name, (make, moved) in MOVED.items():
        optimizer = make(params)
        seconds = medians({"step": optimizer.step, "copy": lambda: target.copy_(source)}, rounds)
        copied = 2 * 4 * source.numel() / seconds["copy"] / 1e9
        reached = moved * 4 * elements / seconds["step"] / 1e9
        share = reached / copied
        print(
            f"  {name:<24}{seconds['step'] * 1e3:9.3f} ms {reached:8.0f} GB/s of {copied:5.0f}"
            f"{share:8.1%}    at least {BANDWIDTH:.0%}   {verdict(share >= BANDWIDTH)}"
        )
        del optimizer
        torch.cuda.empty_cache()
    print()


def launches(step: Callable[[], object]) -> list[str]:
    """What a step has the GPU do: kernels, copies, fills."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    seen = [each.name for each in profile.events() if each.device_type == torch.autograd.DeviceType.CUDA]
    return [name for name in seen if not name.startswith("Optimizer.")]  # the profiler's own remark


def small(rounds: int) -> None:
    params, others = with_gradients(SMALL), with_gradients(SMALL)
    optimizer, fused = Adam(params), torch.optim.Adam(others, fused=True)
    seconds = medians({"ravine": optimizer.step, "torch": fused.step}, rounds)
    print(f"{len(SMALL):,} tensors of {SMALL[0]:,} elements, Adam")
    for name, step in (("ravine", optimizer.step), ("torch", fused.step)):
        print(f"  {name:<24}{seconds[name] * 1e3:9.3f} ms {len(launches(step)):6} launches")
    torch.cuda.set_sync_debug_mode("error")  # from here on, whatever waits for the GPU is an error
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    done = launches(optimizer.step)
    print(f"  {', '.join(done)}: at most {LAUNCHES}   {verdict(len(done) <= LAUNCHES)}")
    print(f"  ratio {seconds['ravine'] / seconds['torch']:.2f} x; a step waits for nothing   pass\n")


def composed(rounds: int) -> None:
    for title, sizes in COMPOSED.items():
        ours = with_gradients(sizes)
        optimizer = AdamW(ours, clip_norm=1.0, average=0.999)
        model = nn.ParameterList(with_gradients(sizes))
        for parameter, own in zip(model, ours, strict=True):
            parameter.grad = own.grad.clone()  # a ParameterList makes parameters anew
        fused = torch.optim.AdamW(model.parameters(), fused=True)
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))

        def sequence(
            model: nn.Module = model, fused: torch.optim.Optimizer = fused, averaged: AveragedModel = averaged
        ) -> None:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            fused.step()
            averaged.update_parameters(model)

        seconds = medians({"ravine": optimizer.step, "torch": sequence}, rounds)
        ratio = seconds["ravine"] / seconds["torch"]
        print(f"{title}: clipping, AdamW and an average")
        for name, middle in seconds.items():
            print(f"  {name:<24}{middle * 1e3:9.3f} ms")
        print(f"  ratio {ratio:.2f} x    at most {COMPOSED_RATIO} x   {verdict(ratio <= COMPOSED_RATIO)}\n")


def graph(rounds: int) -> None:
    sizes = [4_160] * 1_000
    torch.manual_seed(0)
    captured = with_gradients(sizes)
    plain = [parameter.detach().clone().requires_grad_() for parameter in captured]
    for parameter, other in zip(plain, captured, strict=True):
        parameter.grad = other.grad.clone()
    options = {"clip_norm": 1.0, "average": 0.999, "capturable": True}
    one, two = AdamW(captured, **options), AdamW(plain, **options)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            one.step()
    torch.cuda.current_stream().wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        one.step()
    for _ in range(20):
        recorded.replay()
    for _ in range(23):
        two.step()
    same = all(torch.equal(left, right) for left, right in zip(captured, plain, strict=True))
    seconds = medians({"replayed": recorded.replay, "launched": two.step}, rounds)
    print(f"{len(sizes):,} tensors of {sizes[0]:,} elements: clipping, AdamW and an average in a CUDA graph")
    for name, middle in seconds.items():
        print(f"  {name:<24}{middle * 1e3:9.3f} ms")
    print(f"  20 replays give the bits of 20 steps   {verdict(same)}\n")


PARTS = {"bandwidth": bandwidth, "small": small, "composed": composed, "graph": graph}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        raise SystemExit("gpu.py needs a GPU, and torch finds none (torch.cuda.is_available() is False)")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.rounds} rounds\n")
    for name in options.parts or PARTS:
        PARTS[name](options.rounds)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
