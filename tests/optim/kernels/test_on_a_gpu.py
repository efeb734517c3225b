"""What only a GPU can show: compiled kernels against float64, CUDA graphs, gradient scaling, no waiting."""

import pytest
import torch
from test_cpu_lane import COMPLEX, every_case, gradient_of, make, start_of, train

import ravine.optim
from ravine.optim.kernels import triton_source
from ravine.optim.kernels.rounding import widen

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")

SIZES = [0, 1, *(each + off for each in (triton_source.BLOCK, triton_source.CHUNK) for off in (-1, 0, 1))]


def parameters(sizes, dtype=torch.float32):
    return [start_of((size,), dtype, seed=size).cuda().requires_grad_() for size in sizes]


def give(params, step):
    """The gradients of a step, into the tensors that there are: a graph reads them where they were."""
    for parameter in params:
        gradient = gradient_of(parameter, step)
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad.copy_(gradient)


@every_case
def test_kernel_agrees_with_the_eager_rule_in_float64(case):
    start = start_of((1500,)).bfloat16().cuda()
    wide = start.double().requires_grad_()
    others = [start.to(dtype).requires_grad_() for dtype in (torch.float64, torch.float32, torch.bfloat16)]
    reference = make(case, [wide], engine="eager")
    kernel = make(case, others, engine="gpu", rounding="compensated")
    for step in range(300):
        gradient = gradient_of(wide, step).bfloat16()
        wide.grad = gradient.double()
        for parameter in others:
            parameter.grad = gradient.to(parameter.dtype)
        reference.step()
        kernel.step()
    double, single, half = (parameter.detach() for parameter in others)
    compensated = widen(half, kernel.state[others[2]]["remainder"])
    torch.testing.assert_close(double, wide.detach(), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(single.double(), wide.detach(), rtol=1e-4, atol=1e-4)
    assert torch.equal(compensated, single)  # the same float32 arithmetic, whatever is around it


@pytest.mark.parametrize("case", ["momentum", "adam", "lion", "radam"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_an_element_comes_out_the_same_wherever_it_lies(case, dtype):
    """In a whole block or the last, at an address that 16 divides or not: the same bits."""
    pool = start_of((SIZES[-1],), dtype, seed=3).cuda()
    params = [pool[:size].clone().requires_grad_() for size in SIZES]
    odd = torch.zeros(SIZES[-1] + 1, dtype=dtype, device="cuda")[1:].copy_(pool).requires_grad_()
    assert odd.data_ptr() % 16
    optimizer = make(case, [*params, odd], engine="gpu", rounding="nearest", average=0.9, clip_value=0.8)
    train(optimizer, [*params, odd], 3)
    for key, whole in (optimizer.state[odd] | {"x": odd.detach()}).items():
        if whole.dim():
            for size, parameter in zip(SIZES, params, strict=True):
                found = parameter.detach() if key == "x" else optimizer.state[parameter][key]
                assert torch.equal(found, whole[:size]), (size, key)


@pytest.mark.parametrize("kind", ["stochastic", "compensated"])
def test_bfloat16_is_rounded_as_on_the_cpu(kind):
    """Bit by bit: lr·dx is exact, so that only the rounding could differ."""
    on_gpu = parameters((5000, 40, 40), torch.bfloat16)
    on_cpu = [parameter.detach().cpu().requires_grad_() for parameter in on_gpu]
    one = ravine.optim.SGD(on_gpu, lr=2.0**-9, engine="gpu", rounding=kind)
    two = ravine.optim.SGD(on_cpu, lr=2.0**-9, engine="eager", rounding=kind)
    for step in range(4):
        for left, right in zip(on_gpu, on_cpu, strict=True):
            right.grad = gradient_of(right, step)
            left.grad = right.grad.cuda()
        one.step()
        two.step()
    torch.testing.assert_close([each.cpu() for each in on_gpu], on_cpu, rtol=0, atol=0)


@pytest.mark.parametrize("case", COMPLEX)
def test_complex_parameters(case):
    value = start_of((33, 2), torch.complex64).cuda()
    kernel, eager = value.clone().requires_grad_(), value.clone().requires_grad_()
    train(make(case, [kernel], engine="gpu"), [kernel], 20)
    train(make(case, [eager], engine="eager"), [eager], 20)
    torch.testing.assert_close(kernel, eager, rtol=1e-4, atol=1e-4)


def test_everything_composed_with_groups():
    """And without `engine`: a GPU's parameters take the GPU's kernels."""
    results = []
    for engine, dtype in (("auto", torch.float32), ("eager", torch.float64)):
        params = [each.detach().to(dtype).requires_grad_() for each in parameters(SIZES)]
        groups = [{"params": params[:4]}, {"params": params[4:], "lr": 3e-3, "weight_decay": 0.1}]
        optimizer = ravine.optim.AdamW(groups, clip_norm=1.0, average=0.9, l1=1e-3, engine=engine)
        train(optimizer, params, 20)
        results.append(([each.double() for each in params], float(optimizer.gradient_norm)))
        assert bool(optimizer._plan.seats) == (engine == "auto")
    (left, norm), (right, expected) = results
    assert norm == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def test_members():
    rates = torch.tensor([0.1, 0.01, 0.001], dtype=torch.float64)
    together = start_of((3, 5001), torch.float32).cuda().requires_grad_()
    train(ravine.optim.Adam([together], lr=rates, eps=1e-3, engine="gpu"), [together], 10)
    for member, rate in enumerate(rates.tolist()):
        alone = start_of((3, 5001), torch.float32).cuda()[member].clone().requires_grad_()
        train(ravine.optim.Adam([alone], lr=rate, eps=1e-3, engine="gpu"), [alone], 10)
        torch.testing.assert_close(together[member], alone, rtol=1e-5, atol=1e-6)


GRAPHS = {
    "adamw": ("AdamW", torch.float32, {"capturable": True, "clip_norm": 1.0, "average": 0.9}),
    "nadam": ("NAdam", torch.float64, {"capturable": True}),
    "stochastic": ("Adam", torch.bfloat16, {"capturable": True}),
    "sgd": ("SGD", torch.float32, {"lr": 0.01, "momentum": 0.9}),
}


@pytest.mark.parametrize(("name", "dtype", "options"), GRAPHS.values(), ids=GRAPHS)
def test_a_cuda_graph_steps_on(name, dtype, options):
    """Two graphs and steps outside of them, in turn, against an optimizer that is never captured."""
    captured, plain = parameters((3, 5000, 64), dtype), parameters((3, 5000, 64), dtype)
    one = getattr(ravine.optim, name)(captured, engine="gpu", **options)
    two = getattr(ravine.optim, name)(plain, engine="gpu", **options)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for step in range(3):
            give(captured, step)
            one.step()
    torch.cuda.current_stream().wait_stream(stream)
    read = [parameter.grad for parameter in captured]
    graphs = []
    for step in range(3, 12):
        if step % 3 == 0:  # with gradients elsewhere than where the graphs read them
            for parameter in captured:
                parameter.grad = gradient_of(parameter, step)
            one.step()
            for parameter, gradient in zip(captured, read, strict=True):
                parameter.grad = gradient
        else:
            if step in (4, 7):
                graphs.append(torch.cuda.CUDAGraph())
                with torch.cuda.graph(graphs[-1]):
                    one.step()
            give(captured, step)
            graphs[step % len(graphs)].replay()
    for step in range(12):
        give(plain, step)
        two.step()
    torch.testing.assert_close(captured, plain, rtol=0, atol=0)
    for left, right in zip(captured, plain, strict=True):
        torch.testing.assert_close(one.state[left], two.state[right], rtol=0, atol=0)


def test_a_rate_on_the_gpu_reaches_the_graph():
    parameter = torch.ones(8, device="cuda", requires_grad=True)
    parameter.grad = torch.ones(8, device="cuda")
    rate = torch.tensor(0.5, device="cuda")
    optimizer = ravine.optim.Adam([parameter], lr=rate, capturable=True)
    for _ in range(3):
        optimizer.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    before = parameter.detach().clone()
    rate.fill_(0.25)
    graph.replay()
    torch.testing.assert_close(before - parameter.detach(), torch.full((8,), 0.25, device="cuda"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("capturable", [False, True])
def test_a_step_waits_for_nothing(dtype, capturable):
    params = parameters((3, 5000, 64), dtype)
    optimizer = ravine.optim.AdamW(params, clip_norm=1.0, average=0.9, capturable=capturable)
    train(optimizer, params, 3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3, 6):
            optimizer.param_groups[0]["lr"] *= 0.9
            for parameter in params:
                parameter.grad = gradient_of(parameter, step)
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_many_small_tensors_are_few_launches(dtype):
    params = parameters([100 + number % 7 for number in range(1000)], dtype)
    optimizer = ravine.optim.AdamW(params, average=0.9)
    train(optimizer, params, 3)
    give(params, 3)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        optimizer.step()
        torch.cuda.synchronize()
    seen = [each.name for each in profile.events() if each.device_type == torch.autograd.DeviceType.CUDA]
    launched = [name for name in seen if not name.startswith("Optimizer.")]  # the profiler's own remark
    assert len(launched) <= 3, launched
    assert sum(name.startswith("ravine_") for name in launched) == 1, launched


def test_gradient_scaler():
    """An overflow skips the step and halves the scale; what is finite is unscaled before the rule sees it."""
    start = torch.ones(100, device="cuda")
    scaled, plain = start.clone().requires_grad_(), start.clone().requires_grad_()
    one, two = (ravine.optim.Adam([each], lr=0.1, clip_norm=1.0) for each in (scaled, plain))
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    for _ in range(3):
        for parameter, optimizer in ((scaled, one), (plain, two)):
            optimizer.zero_grad()
            loss = (parameter**2).sum()
            (scaler.scale(loss) if optimizer is one else loss).backward()
        scaler.step(one)
        scaler.update()
        two.step()
    torch.testing.assert_close(scaled, plain)
    scaled.grad = torch.full_like(scaled, torch.inf)
    before = scaled.detach().clone()
    scaler.step(one)
    scaler.update()
    assert torch.equal(scaled, before)
    assert scaler.get_scale() == 2.0**9


def test_mixed_devices():
    """Each device's parameters take its own kernels."""
    on_gpu, on_cpu = torch.ones(9, device="cuda", requires_grad=True), torch.ones(9, requires_grad=True)
    optimizer = ravine.optim.Adam([on_gpu, on_cpu], lr=0.1)
    for step in range(3):
        for parameter in (on_gpu, on_cpu):
            parameter.grad = gradient_of(parameter, step)
        optimizer.step()
    torch.testing.assert_close(on_gpu.cpu(), on_cpu)


def test_every_gpu_runs_its_own():
    """The current GPU is another one for most of them."""
    params = [
        start_of((5000,), torch.float32).to(f"cuda:{number}").requires_grad_()
        for number in range(torch.cuda.device_count())
    ]
    train(ravine.optim.Adam(params, clip_norm=1.0), params, 4)
    for parameter in params[1:]:
        assert torch.equal(parameter.cpu(), params[0].cpu())
