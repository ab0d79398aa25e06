"""Memory stays flat, threads do not mix, and precision and device change no more than rounding."""

import contextlib
import functools
import gc
import itertools
import multiprocessing
import sys
import threading

import psutil
import pytest
import torch
import xcnn
from torch import nn

OPTIONS = {
    "deep_taylor": {"low": -6, "high": 6},  # this noise has no black and white
    "lime": {"samples": 20, "segments": torch.arange(12 * 12).view(12, 12) // 18},
    "shap_cam": {"samples": 8},
}


class Small(nn.Module):
    """Batch norm, a residual sum, ReLUs in three spellings, a pooling and a global average."""

    def __init__(self, between=None):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.c = nn.Conv2d(16, 16, 3)
        self.norm = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(16, 5)
        self.between = between or nn.Identity()
        self.norm.running_var.uniform_(0.5, 2)
        self.eval()

    def forward(self, x):
        x = self.relu(self.norm(self.a(x)))
        y = self.between(self.b(x))
        y += x
        y = torch.relu(self.c(nn.functional.max_pool2d(nn.functional.relu(y), 2)))
        return self.fc(y.mean((2, 3)))


def images(n=1, side=12):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def explain(method, net, x, target=3, **options):
    return xcnn.METHODS[method](net, x, target, **OPTIONS.get(method, {}) | options)


# ---- memory


def held():
    """How many tensors are alive, and how many bytes this process holds."""
    gc.collect()
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    return tensors, psutil.Process().memory_info().rss


def growth(work, times):
    """After a warm-up: how many more tensors are alive, and how many more bytes are held."""
    for _ in range(2):
        work()
    before = held()
    for _ in range(times):
        work()
    return [b - a for a, b in zip(before, held(), strict=True)]


def growth_alone(work, times):
    """The same in a new process.

    In this one, what other tests have freed would be used again, and not be seen.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(growth, (work, times))


MAP = 16 * 32 * 32 * 4  # bytes of one map of `Small`
BIG = {"lime": {"segments": torch.arange(32 * 32).view(32, 32) // 128}}


def all_methods(net, x):
    for method in xcnn.METHODS:
        explain(method, net, x, **BIG.get(method, {}))


def test_memory_stays_flat_over_five_hundred_explanations():
    tensors, bytes_ = growth_alone(functools.partial(all_methods, Small(), images(side=32)), 46)
    assert 46 * len(xcnn.METHODS) > 500 and tensors == 0
    limit = 46 * len(xcnn.METHODS) * MAP / 4
    assert bytes_ < limit, "a map kept by every fourth explanation would be more than this"


def leak_of_map(net, x, kept):
    kept.append(xcnn.gradient(net, x, 3))


def leak_of_graph(net, x, kept):
    kept.append(net(x.clone().requires_grad_()).grad_fn)


def test_a_leak_is_seen():
    """A tensor that is kept is counted; what a graph keeps is seen in the bytes only."""
    net = Small()
    x = images(side=32)
    assert growth_alone(functools.partial(leak_of_map, net, x, []), 500)[0] == 500
    assert growth_alone(functools.partial(leak_of_graph, net, x, []), 500)[1] > 500 * MAP / 4


# ---- threads


class Meet(nn.Module):
    """Waits until two threads are here, in the middle of the same network."""

    def __init__(self):
        super().__init__()
        self.barrier = threading.Barrier(2)

    def forward(self, x):
        # The barrier breaks where the other thread has no more passes to make.
        with contextlib.suppress(threading.BrokenBarrierError):
            self.barrier.wait(0.2)
        return x


JOBS = [
    ("gradient", {}),
    ("gradient", {"target": None, "layer": "b", "unit": 2}),
    ("guided_backprop", {}),
    ("deconvnet", {}),
    ("lrp", {"rule": "z+"}),
    ("lrp", {"rule": "epsilon"}),
    ("cam", {}),
    ("grad_cam", {"layer": "b"}),
    ("grad_cam", {"layer": "c"}),
    ("grad_cam", {}),
    ("shap_cam", {"layer": "c"}),
    ("lime", {}),
    ("cnn_fixations", {}),
]


def run_all(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(range(len(JOBS)), 2)])
def test_two_threads_do_not_mix(first, second):
    meet = Meet()
    net = Small(meet).double()
    x = images().double()
    meet.barrier.abort()

    def job(k):
        method, options = JOBS[k]
        return explain(method, net, x, **options)

    wanted = {k: job(k) for k in (first, second)}
    answers = {}

    def work(k):
        try:
            answers[k].append(job(k))
        except Exception as error:
            answers[k].append(error)

    for _ in range(3):
        meet.barrier.reset()
        answers |= {first: [], second: []}
        run_all([threading.Thread(target=work, args=(k,)) for k in (first, second)])
        for k in (first, second):
            (R,) = answers[k]
            assert isinstance(R, torch.Tensor) and torch.equal(R, wanted[k]), (JOBS[k], R)
    assert not any(part._forward_hooks for part in net.modules())


def test_many_threads_kept_busy():
    """Nothing is told to meet: threads switch as often as can be, and each repeats its job."""
    net = Small().double()
    x = images().double()
    wanted = [explain(method, net, x, **options) for method, options in JOBS]
    start = threading.Barrier(len(JOBS))
    wrong = []
    interval = sys.getswitchinterval()

    def work(k):
        method, options = JOBS[k]
        for _ in range(8):
            start.wait(60)
            try:
                if not torch.equal(explain(method, net, x, **options), wanted[k]):
                    wrong.append(JOBS[k])
            except Exception as error:
                wrong.append((JOBS[k], error))

    try:
        sys.setswitchinterval(1e-5)
        run_all([threading.Thread(target=work, args=(k,)) for k in range(len(JOBS))])
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


def test_threads_that_load_a_network_at_once_get_the_same():
    xcnn.load.cache_clear()
    start = threading.Barrier(4)
    nets = []

    def work():
        start.wait(60)
        nets.append(xcnn.load("resnet_s"))

    run_all([threading.Thread(target=work) for _ in range(4)])
    assert len(nets) == 4 and len(set(map(id, nets))) == 1


# ---- precision and device


@pytest.mark.parametrize("method", xcnn.METHODS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.15)])
def test_half_precision(method, dtype, tolerance):
    """The whole map's error, as a share of its size.

    Weights and pixels themselves are rounded to 2^-11 or 2^-8.
    """
    if method == "cnn_fixations":
        # Where two units contribute nearly the same, rounding decides which is followed.
        tolerance *= 2
    wanted = explain(method, Small(), images(2))
    R = explain(method, Small().to(dtype), images(2).to(dtype))
    assert R.dtype == dtype and R.shape == wanted.shape and wanted.abs().max() > 0
    assert (R.float() - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", xcnn.METHODS)
def test_cuda_gives_what_the_cpu_gives(method):
    wanted = explain(method, Small().double(), images(2).double())
    R = explain(method, Small().double().cuda(), images(2).double().cuda())
    assert R.device.type == "cuda" and wanted.abs().max() > 0
    torch.testing.assert_close(R.cpu(), wanted, rtol=1e-6, atol=1e-9)
