"""What the first step costs, what makes kernels compile again, and what steps need beyond the states.

- The first step of an optimizer in a fresh process, torch and `ravine.optim` imported: the import of the
  compiler and compilation are in it. Then the first step of a second optimizer with the same rule, whose
  kernel is there. On the set of many small tensors; medians.
- Kernels compiled while every number in the parameter groups changes and a schedule runs: none.
- In a fresh process, whose kernels are compiled: how far the memory in use peaks above what was there
  before the optimizer's first step and the states, over six steps on the large set. Linux only, where
  /proc tells the peak and can forget it.

    python benchmarks/first_step.py [NAME ...] [--processes 5]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ravine.lab.bench import SETS, Configuration, ProblemSet, chosen, problems
from ravine.lab.bench.peers import Stepped, ravine
from ravine.optim.kernels import cpu
from running import verdict

COLD_SECONDS = 2.0
KEPT_SECONDS = 0.3
MEMORY_SHARE = 0.01
CPU = torch.device("cpu")
COMPOSED = {"weight_decay": 0.01, "l1": 1e-4, "clip_norm": 1.0, "clip_value": 1.0, "average": 0.999}
TINY = ProblemSet("tiny", ((8, 8), (8,)))


def contender(configuration: Configuration, problem: ProblemSet) -> Stepped[Any]:
    return ravine(configuration, problem, problems.gradients(problem, CPU))


def first_steps(configuration: Configuration) -> dict[str, float]:
    """Seconds of the first step, and of that of an optimizer made like it."""
    taken = []
    for _ in range(2):
        ours = contender(configuration, SETS["many"])
        ours.prepare()
        started = time.perf_counter()
        ours.step()
        taken.append(time.perf_counter() - started)
    return dict(zip(("cold", "kept"), taken, strict=True))


def memory(configuration: Configuration) -> dict[str, float]:
    """Bytes that steps needed beyond the states, and bytes of the parameters."""
    small = contender(configuration, TINY)
    for _ in range(2):
        take_step(small)
    ours = contender(configuration, SETS["large"])
    for _ in range(2):  # both sets of gradients are in memory afterwards
        ours.prepare()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is in use
    before = status_bytes("VmRSS")
    for _ in range(6):
        ours.step()
        ours.prepare()
    peak = status_bytes("VmHWM")
    states = sum(
        value.nbytes
        for entry in ours.optimizer.state.values()
        for value in entry.values()
        if isinstance(value, torch.Tensor)
    )
    return {"beyond": peak - before - states, "parameters": 4 * SETS["large"].elements}


def status_bytes(field: str) -> int:
    """A size that Linux tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def recompiled(configuration: Configuration) -> int:
    """How many kernels are compiled while every number of the groups changes and a schedule runs.

    Whether there is a decay, a penalty, an average or clipping decides on the kernel, so all are there;
    their values must not.
    """
    settings = {**configuration.settings, **COMPOSED}
    ours = contender(replace(configuration, settings=settings), TINY)
    take_step(ours)
    before = compiled()
    for group in ours.optimizer.param_groups:
        for key, value in group.items():
            changed = scaled(value)
            if changed is not None:
                group[key] = changed
                take_step(ours)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(ours.optimizer, 20)
    for _ in range(20):
        take_step(ours)
        schedule.step()
    return compiled() - before


def compiled() -> int:
    """How many kernels this process has compiled."""
    return sum(kernel.cache_info().misses for kernel in (cpu.update_kernel, cpu.squares_kernel))


def scaled(value: object) -> object:
    """Another value of a hyperparameter; None for what is none."""
    if isinstance(value, float) and value:
        return value * 0.9
    if isinstance(value, tuple):
        return tuple(each * 0.9 for each in value)
    return None


def take_step(ours: Stepped[Any]) -> None:
    ours.prepare()
    ours.step()


CHILDREN = {"first_steps": first_steps, "memory": memory}


def in_fresh_process(part: str, configuration: Configuration) -> dict[str, float]:
    command = [sys.executable, __file__, configuration.name, "--child", part]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def report(configuration: Configuration, processes: int) -> None:
    runs = [in_fresh_process("first_steps", configuration) for _ in range(processes)]
    print(configuration.name)
    for key, title, asked in (
        ("cold", "first step", COLD_SECONDS),
        ("kept", "of another like it", KEPT_SECONDS),
    ):
        seconds = statistics.median(run[key] for run in runs)
        print(f"  {title:<24}{seconds:8.3f} s    at most {asked} s   {verdict(seconds <= asked)}")
    count = recompiled(configuration)
    print(f"  {'compiled again':<24}{count:8d}      at most 0       {verdict(count == 0)}")
    if sys.platform == "linux":
        figures = in_fresh_process("memory", configuration)
        share = figures["beyond"] / figures["parameters"]
        good = verdict(share <= MEMORY_SHARE)
        print(
            f"  {'memory beyond states':<24}{share:8.2%}      at most {MEMORY_SHARE:.0%}      {good}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--child", choices=list(CHILDREN), help=argparse.SUPPRESS)
    options = parser.parse_args()
    for configuration in chosen(options.names):
        if options.child:
            print(json.dumps(CHILDREN[options.child](configuration)))
        else:
            report(configuration, options.processes)


if __name__ == "__main__":
    main()
