"""The GPU's kernels, run by Triton's interpreter against the eager rule; and compiled, without a GPU."""

import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from test_cpu_lane import (
    COMPLEX,
    OPTIONS,
    every_case,
    gradient_of,
    make,
    same_state,
    start_of,
    train,
    values_of,
)

import ravine.optim
from ravine.optim import engines, rules
from ravine.optim.kernels import gpu, rounding, triton_compile, triton_source
from ravine.optim.kernels.gpu import GpuLane
from ravine.optim.kernels.llvm import Layout
from ravine.optim.kernels.surroundings import Surroundings
from ravine.optim.kernels.table import Table
from ravine.optim.kernels.trace import trace
from ravine.optim.rule import rule

BLOCK, CHUNK = triton_source.BLOCK, triton_source.CHUNK
NO_ROUNDINGS = {"rtol": 1e-12, "atol": 1e-13}
"""Float64 in another order of operations: the kernels multiply by 1/s where a rule divides by a scalar."""


@every_case
def test_kernel_agrees_with_the_eager_rule_in_float64(interpreted, case):
    start = start_of((50,)).float()
    wide = start.double().requires_grad_()
    others = [start.to(dtype).requires_grad_() for dtype in (torch.float64, torch.float32)]
    reference, kernel = make(case, [wide], engine="eager"), make(case, others, engine="gpu")
    for step in range(30):
        gradient = gradient_of(wide, step).float()
        wide.grad = gradient.double()
        for parameter in others:
            parameter.grad = gradient.to(parameter.dtype)
        reference.step()
        kernel.step()
    double, single = (parameter.detach() for parameter in others)
    torch.testing.assert_close(double, wide.detach(), **NO_ROUNDINGS)
    torch.testing.assert_close(single.double(), wide.detach(), rtol=3e-5, atol=3e-5)
    for key, value in reference.state[wide].items():
        torch.testing.assert_close(kernel.state[others[0]][key], value, **NO_ROUNDINGS)


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits_are_rounded_once(interpreted, case, dtype):
    start = start_of((200,)).to(dtype)
    kernel, eager = start.clone().requires_grad_(), start.clone().requires_grad_()
    one = make(case, [kernel], engine="gpu", rounding="nearest")
    two = make(case, [eager], engine="eager", rounding="nearest")
    train(one, [kernel], 3)
    train(two, [eager], 3)
    spacing = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}[dtype]
    torch.testing.assert_close(kernel, eager, rtol=spacing, atol=spacing * 1e-2)
    same_state(one, two, rtol=0.05, atol=1e-2)


@pytest.mark.parametrize("case", COMPLEX)
def test_complex_parameters(interpreted, case):
    value = start_of((33, 2), torch.complex64)
    kernel, eager = value.clone().requires_grad_(), value.clone().requires_grad_()
    train(make(case, [kernel], engine="gpu"), [kernel], 5)
    train(make(case, [eager], engine="eager"), [eager], 5)
    torch.testing.assert_close(kernel, eager, rtol=1e-5, atol=1e-5)


SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, CHUNK - 1, CHUNK, CHUNK + 1]


@pytest.mark.parametrize("case", ["momentum", "adam", "lion"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_an_element_comes_out_the_same_wherever_it_lies(interpreted, case, dtype):
    """In a whole block or the last, at an address that 16 divides or not: the same bits, gradients kept."""
    pool = start_of((CHUNK + 1,), dtype, seed=3)
    params = [pool[:size].clone().requires_grad_() for size in SIZES]
    odd = torch.zeros(CHUNK + 2, dtype=dtype)[1:].copy_(pool).requires_grad_()
    assert odd.data_ptr() % 16
    every = [*params, odd, pool[5].clone().requires_grad_()]
    # The random bits of stochastic rounding belong to the place: compare what is rounded to the nearest.
    optimizer = make(case, every, engine="gpu", rounding="nearest", average=0.9, clip_value=0.8)
    for step in range(2):
        for parameter in every:
            parameter.grad = gradient_of(parameter, step)
        before = [parameter.grad.clone() for parameter in every]
        optimizer.step()
        assert all(torch.equal(parameter.grad, old) for parameter, old in zip(every, before, strict=True))
    state = [optimizer.state[parameter] | {"x": parameter.detach()} for parameter in every]
    for key, whole in state[-2].items():
        if whole.dim():
            for size, entry in zip(SIZES, state[: len(SIZES)], strict=True):
                assert torch.equal(entry[key], whole[:size]), (size, key)
            assert torch.equal(state[-1][key], whole[5]), key


COMPOSED = {
    "clipping by norm, an average": {"clip_norm": 0.7, "average": 0.9},
    "clipping by value, l1": {"clip_value": 0.3, "l1": 0.01, "maximize": True},
    "proximal": {"l1": 0.05, "proximal": True, "weight_decay": 0.1},
}


@pytest.mark.parametrize("options", COMPOSED.values(), ids=COMPOSED)
@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop"])
def test_what_is_composed_around_a_rule(interpreted, name, options):
    """Two groups, so two sets of scalars; the norm is that of all parameters together."""
    results = []
    for engine in ("gpu", "eager"):
        params = [start_of((size,), seed=size).requires_grad_() for size in (3, CHUNK + 3, 7, 0)]
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.03}]
        optimizer = getattr(ravine.optim, name)(groups, lr=0.01, engine=engine, **options)
        train(optimizer, params, 3)
        norm = None if optimizer.gradient_norm is None else float(optimizer.gradient_norm)
        results.append((optimizer, params, norm))
    (one, left, norm), (two, right, expected) = results
    assert norm == (expected if expected is None else pytest.approx(expected, rel=1e-13))
    torch.testing.assert_close(left, right, **NO_ROUNDINGS)
    same_state(one, two, **NO_ROUNDINGS)


def test_each_member_moves_as_if_alone(interpreted):
    """Rates, decays and norms of one value a member; a member's rows end where it ends."""
    values = [("lr", 0.1, 0.02), ("weight_decay", 0.1, 0.0), ("clip_norm", 0.5, 100.0)]
    start = [start_of((2, size), seed=size) for size in (CHUNK + 5, 3)]
    joined = {name: torch.tensor([a, b], dtype=torch.float64) for name, a, b in values}
    together = [value.clone().requires_grad_() for value in start]
    optimizer = ravine.optim.AdamW(together, engine="gpu", **joined)
    train(optimizer, together, 3)
    for member in range(2):
        alone = [value[member].clone().requires_grad_() for value in start]
        own = {name: both[member] for name, *both in values}
        reference = ravine.optim.AdamW(alone, engine="eager", **own)
        train(reference, alone, 3)
        assert float(optimizer.gradient_norm[member]) == pytest.approx(reference.gradient_norm, rel=1e-13)
        for parameter, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(parameter[member], expected, **NO_ROUNDINGS)


@every_case
def test_gradients_that_are_not_finite_spread_as_in_eager(interpreted, case):
    kernel, eager = (start_of((20,), torch.float32).requires_grad_() for _ in range(2))
    one = make(case, [kernel], engine="gpu", clip_value=0.5, l1=0.01)
    two = make(case, [eager], engine="eager", clip_value=0.5, l1=0.01)
    for step in range(3):
        gradient = gradient_of(start_of((20,), torch.float32), step)
        if step == 1:
            gradient[3], gradient[7], gradient[17] = torch.nan, torch.inf, -torch.inf
        kernel.grad, eager.grad = gradient.clone(), gradient.clone()
        one.step()
        two.step()
    for left, right in zip(values_of(one, kernel), values_of(two, eager), strict=True):
        for kind in (torch.isnan, torch.isposinf, torch.isneginf):
            assert torch.equal(kind(left), kind(right)), kind


# bfloat16, bit by bit.


def descend(x, dx, kind, lr, remainder=None, step=1):
    """One step of gradient descent by the kernel alone, whatever the gradient's dtype."""
    program = trace(rules.gradient_descent, Surroundings().structure())
    layout = Layout((x.dtype, dx.dtype), kind)
    table = Table(layout, [[x], *([] if remainder is None else [[remainder]])], [0], [1], GpuLane.chunk)
    table.point(0, [x.data_ptr()])
    table.point(1, [dx.data_ptr()])
    lane = GpuLane(program, layout, table, 1, x.device)
    lane.fill(0, 1, program.scalars(1, lr))
    if kind == "stochastic":
        lane.count([4], [0], {0: step})
    lane.run()


def any_bits(size, kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(torch.iinfo(kind).min, torch.iinfo(kind).max + 1, (size,), generator=generator).to(
        kind
    )


@pytest.mark.parametrize("kind", ["nearest", "stochastic", "compensated"])
def test_every_float32_is_stored_as_the_reference_stores_it(interpreted, kind):
    """Random bits: numbers of every size, subnormal, infinite and not a number, across rows."""
    wide = any_bits(2 * CHUNK + 100, torch.int32).view(torch.float32)
    wide[:6] = torch.tensor([torch.inf, -torch.inf, torch.nan, 3.4e38, -3.4e38, 0.0])
    x = torch.zeros(len(wide), dtype=torch.bfloat16)
    remainder = torch.zeros(len(wide), dtype=torch.int16) if kind == "compensated" else None
    descend(x, -wide, kind, 1.0, remainder, step=9)
    if kind == "nearest":
        expected, rest = wide.bfloat16(), None
    else:
        counts = int(rounding.keys([4], [9.0])[0]) + torch.arange(len(wide))
        expected, rest = rounding.narrow(wide, kind, counts)
    assert torch.equal(x.isnan(), wide.isnan())
    known = ~wide.isnan()
    assert torch.equal(x.view(torch.int16)[known], expected.view(torch.int16)[known])
    if rest is not None:
        assert torch.equal(remainder[known], rest[known])


def test_parameter_and_remainder_are_read_as_the_reference_reads_them(interpreted):
    x, remainder = any_bits(CHUNK + 9, torch.int16, 1).view(torch.bfloat16), any_bits(CHUNK + 9, torch.int16)
    x[:2], remainder[:2] = torch.tensor([0.0, -0.0], dtype=torch.bfloat16), torch.tensor([-5, -5]).short()
    wide = rounding.widen(x, remainder)
    expected, rest = rounding.narrow(wide, "compensated", torch.zeros(len(x), dtype=torch.int64))
    descend(x, torch.zeros(len(x)), "compensated", 0.0, remainder)
    known = ~wide.isnan()
    assert torch.equal(x[known], expected[known])
    assert torch.equal(remainder[known], rest[known])
    assert x[~known].isnan().all()


@pytest.mark.parametrize("kind", ["stochastic", "compensated"])
def test_steps_in_bfloat16_are_those_of_the_eager_rule(interpreted, kind):
    """Bit by bit, several parameters and steps: each has its own random bits."""
    results = []
    for engine in ("gpu", "eager"):
        params = [start_of((size,), torch.bfloat16, size).requires_grad_() for size in (CHUNK + 3, 40, 40)]
        optimizer = ravine.optim.SGD(params, lr=2.0**-9, engine=engine, rounding=kind)
        train(optimizer, params, 4)
        results.append((optimizer, params))
    (one, left), (two, right) = results
    torch.testing.assert_close(left, right, rtol=0, atol=0)
    same_state(one, two, rtol=0, atol=0)


# Step counts and rates on the device, and CUDA graphs.


@pytest.mark.parametrize("case", ["adam", "nadam", "radam", "schedule_free_adamw", "adamax"])
def test_capturable(interpreted, case):
    """Numbers on the device give what numbers on the host give, and steps count on the device."""
    kernel, eager = (start_of((20,)).requires_grad_() for _ in range(2))
    options = {"clip_norm": 1.0, "average": 0.9}
    one = make(case, [kernel], engine="gpu", capturable=True, **options)
    one.param_groups[0]["lr"] = torch.tensor(OPTIONS[case]["lr"], dtype=torch.float64)
    two = make(case, [eager], engine="eager", **options)
    train(one, [kernel], 5)
    train(two, [eager], 5)
    torch.testing.assert_close(kernel, eager, rtol=1e-6, atol=1e-7)  # counters are kept in float32
    assert float(one.state[kernel]["step"]) == 5


def test_random_bits_follow_step_counts_on_the_device(interpreted):
    results = []
    for capturable in (True, False):
        params = [start_of((60,), torch.bfloat16, seed).requires_grad_() for seed in range(3)]
        groups = [{"params": params[:1]}, {"params": params[1:], "lr": 1e-4}]
        optimizer = ravine.optim.Adam(groups, lr=1e-3, engine="gpu", capturable=capturable)
        train(optimizer, params, 3)
        params[0].grad = None
        for parameter in params[1:]:
            parameter.grad = gradient_of(parameter, 3)
        optimizer.step()  # now the groups' step counts differ
        train(optimizer, params, 1, start=4)
        results.append(params)
    torch.testing.assert_close(*results, rtol=0, atol=0)


def uploads(monkeypatch):
    """The shapes of what is sent to the GPU, as it is sent."""
    shapes = []
    plain = gpu.upload

    def upload(array, device, pinned=None):
        shapes.append(array.shape)
        return plain(array, device, pinned)

    monkeypatch.setattr(gpu, "upload", upload)
    return shapes


def test_nothing_is_sent_twice(interpreted, monkeypatch):
    """Only what has changed since the last step is copied to the GPU."""
    sent = uploads(monkeypatch)
    params = [torch.ones(size, requires_grad=True) for size in (3, CHUNK + 1)]
    for parameter in params:
        parameter.grad = torch.ones_like(parameter)
    optimizer = ravine.optim.SGD(params, lr=0.5, engine="gpu")
    optimizer.step()
    sent.clear()
    optimizer.step()
    assert sent == []
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.step()
    assert sent == [(1, 1)]
    sent.clear()
    params[0].grad = torch.full((3,), 2.0)
    optimizer.step()
    assert sent == [(2, 2)]
    assert params[0].tolist() == [1 - 0.5 - 0.5 - 0.25 - 0.5] * 3


def test_a_graph_and_the_steps_around_it_send_their_own(interpreted, monkeypatch):
    """A replay repeats the graph's copies: what is outside of it must not rely on them, nor change them."""
    parameter = torch.ones(3, requires_grad=True)
    parameter.grad = torch.ones(3)
    optimizer = ravine.optim.SGD([parameter], lr=0.5, engine="gpu", clip_norm=100.0)
    optimizer.step()
    sent = uploads(monkeypatch)
    inside = pytest.MonkeyPatch()
    inside.setattr(gpu, "capturing", lambda device: True)
    kept = len(gpu._captured)
    optimizer.step()
    inside.undo()
    assert sent == [(1, 2), (1, 2)]  # addresses, before the norm; scalars
    assert len(gpu._captured) > kept
    del gpu._captured[kept:]
    sent.clear()
    for expected in ([(1, 2), (1, 2)], []):
        optimizer.step()
        assert sent == expected
        sent.clear()


def test_first_step_in_a_graph_is_refused(interpreted, monkeypatch):
    monkeypatch.setattr(gpu, "capturing", lambda device: True)
    parameter = torch.ones(3, requires_grad=True)
    parameter.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="take three before a CUDA graph is captured"):
        ravine.optim.SGD([parameter], lr=0.5, engine="gpu").step()


def test_random_bits_in_a_graph_need_step_counts_on_the_gpu(interpreted, monkeypatch):
    """Otherwise every replay would round alike."""
    parameter = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    parameter.grad = torch.ones_like(parameter)
    optimizer = ravine.optim.Adam([parameter], engine="gpu")
    optimizer.step()
    optimizer.step()
    monkeypatch.setattr(gpu, "capturing", lambda device: True)
    with pytest.raises(RuntimeError, match="capturable=True if it takes that, or else with rounding='comp"):
        optimizer.step()


# Where there is no GPU, and what is needed with one.


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(engines, "interprets", lambda: False)
    parameter = torch.ones(3, requires_grad=True)
    parameter.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"engine='gpu' cannot step .* a tensor of it is on cpu"):
        ravine.optim.SGD([parameter], engine="gpu").step()


def test_the_interpreter_reads_no_gpus_memory(interpreted):
    assert "works on the CPU alone" in engines.triton_obstacle(torch.device("cuda", 0))


def test_without_triton(monkeypatch):
    monkeypatch.setattr(engines, "has_triton", lambda: False)
    assert engines.triton_obstacle(torch.device("cpu")) == "Triton is not installed"
    assert engines.kernel_of(torch.device("cuda")) == "eager"


def test_what_starts_kernels_is_made_by_a_compiler(monkeypatch, tmp_path):
    obstacle = engines.launcher_obstacle.__wrapped__
    monkeypatch.setattr(engines.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("CC", "some compiler")
    assert "Python's C headers" in obstacle()
    (tmp_path / "Python.h").touch()
    assert obstacle() == ""
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "a C compiler" in obstacle()


def test_cpu_kernels_need_no_triton():
    code = """
        import sys
        sys.modules["triton"] = None  # so that it cannot be imported
        import torch, ravine.optim
        parameter = torch.ones(3, requires_grad=True)
        parameter.grad = torch.ones(3)
        ravine.optim.SGD([parameter], lr=0.5).step()
        assert parameter.tolist() == [0.5] * 3
        try:
            ravine.optim.SGD([parameter], lr=0.5, engine="gpu").step()
        except RuntimeError as error:
            assert "Triton is not installed" in str(error)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)


def test_cache_that_cannot_be_written(interpreted, tmp_path):
    """Kernels are then kept in a folder of this process."""
    (tmp_path / "file").touch()
    with interpreted.knobs.cache.scope():
        interpreted.knobs.cache.dir = str(tmp_path / "file" / "cache")
        folder = triton_compile._find_cache.__wrapped__()
        assert interpreted.knobs.cache.dir == folder.name
        folder.cleanup()
        interpreted.knobs.cache.dir = str(tmp_path / "new")
        assert triton_compile._find_cache.__wrapped__() is None


def test_any_name_of_a_rule_will_do(interpreted):
    def règle(x, dx, t, lr=0.5):
        return (x - lr * dx,)

    parameter = torch.ones(3, requires_grad=True)
    parameter.grad = torch.ones(3)
    rule()(règle).optimizer([parameter], engine="gpu").step()
    assert parameter.tolist() == [0.5] * 3


def test_rows_of_each_set():
    generator = np.random.default_rng(0)
    for sets, rows in ((1, 0), (3, 0), (2, 9), (5, 40)):
        of = generator.integers(0, sets, rows)
        values = np.append(generator.random(rows), 0.0)
        expected = np.bincount(of, weights=values[:-1], minlength=sets)
        assert values[gpu.by_set(of, sets)].sum(1) == pytest.approx(expected)


F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
LAYOUTS = {
    "float32": Layout((F32,) * 4),
    "float64": Layout((F64,) * 4),
    "float16": Layout((F16, F16, F32, F32)),
    "stochastic": Layout((BF16, BF16, F32, F32), "stochastic"),
    "compensated": Layout((BF16, BF16, BF16, F32), "compensated"),
}


def ptx_of(text, signature):
    """What Triton makes of a kernel for an H200: it needs no GPU for that."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(fn=triton_compile.compiled(text), signature=signature, constexprs={})
    options = {"enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


@pytest.fixture
def own_cache(tmp_path):
    triton = pytest.importorskip("triton", reason="Triton is not installed: it is made for Linux on x86-64")
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path)
        yield


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_kernels_compile_for_a_gpu(own_cache, layout):
    """Blocks are read and written 16 bytes at a time where 16 divides the addresses, which is looked at.

    Divisions and roots are rounded right.
    """
    structure = Surroundings(scale=1.0, clip=1.0, l1=1.0, shrink=0.1, threshold=0.1).structure()
    text = triton_source.kernel(trace(rules.adam, structure), layout)
    wide = {F64: "*fp64", F32: "*fp32"}[layout.wide]
    ptx = ptx_of(text, {"rows": "*i64", "addresses": "*i64", "scalars": wide, "keys": "*i64"})
    kind = "f64" if layout.wide is F64 else "f32"
    assert f"sqrt.rn.{kind}" in ptx
    assert f"div.rn.{kind}" in ptx
    assert "setp.nan.f64" in ptx if layout.wide is F64 else "max.NaN.f32" in ptx
    # Each of a thread's 8 elements fuses what the CPU's kernels fuse, and nothing else.
    assert ptx.count(f"fma.rn.{kind}") == 8 * text.count("tl.fma(")
    assert re.search(r"and\.b64\s[^;]*, 15;", ptx)
    for operation in ("ld.global", "st.global"):
        assert f"{operation}.v2.b64" in ptx if layout.wide is F64 else f"{operation}.v4.b32" in ptx


def test_kernel_of_squares_compiles_for_a_gpu(own_cache):
    ptx = ptx_of(
        triton_source.squares(LAYOUTS["stochastic"]),
        {"rows": "*i64", "addresses": "*i64", "sums": "*fp64"},
    )
    assert "ld.global.v4.b32" in ptx
