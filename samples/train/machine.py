"""The machine: processes, precision, and steps recorded as CUDA graphs.

One process drives one GPU (or the CPU). With more, start the scripts with
torchrun: each process draws its own clips, and gradients are averaged.
"""
import os
import sys
import time

import torch
import torch.distributed as dist

# Training needs no deterministic kernels, only fixed random numbers.
SEED = 20


def rank():
    return int(os.environ.get("RANK", "0"))


def world():
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(*words):
    """Prints once, not once a process."""
    if rank() == 0:
        print(*words, flush=True)


def setup():
    torch.manual_seed(SEED)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if world() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return torch.device("cuda" if cuda else "cpu")


def finish():
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def cast(device):
    """bfloat16 arithmetic on a GPU. No cache of cast weights: a recorded
    step must cast them anew each time."""
    return torch.autocast(device.type, torch.bfloat16,
                          enabled=device.type == "cuda", cache_enabled=False)


def synchronise():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def average(tensor):
    """The mean over all processes, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
        tensor.div_(world())


def agree(number):
    """The first process's number, for decisions all have to take alike."""
    if world() == 1:
        return number
    device = "cuda" if torch.cuda.is_available() else "cpu"
    t = torch.tensor([number], dtype=torch.float64, device=device)
    dist.broadcast(t, 0)
    return t.item()


def memory():
    if not torch.cuda.is_available():
        return "no GPU"
    return f"{torch.cuda.max_memory_reserved() / 2**30:.0f} GiB of memory"


def profile(work, times=3, rows=20):
    """Prints where the time of some work goes."""
    from torch.profiler import ProfilerActivity
    kinds = [ProfilerActivity.CPU]
    key = "self_cpu_time_total"
    if torch.cuda.is_available():
        kinds = [ProfilerActivity.CUDA]
        key = "self_cuda_time_total"
    synchronise()
    begin = time.time()
    with torch.profiler.profile(activities=kinds) as seen:
        for _ in range(times):
            work()
        synchronise()
    say(f"profile of {times}, {time.time() - begin:.3f} s:")
    say(seen.key_averages().table(sort_by=key, row_limit=rows,
                                  max_name_column_width=70))


class Clock:
    """A stage ends after so many minutes or steps, whichever is first.

    `part()` goes from 0 to 1. It waits for the GPU and asks the first
    process, so it is looked at only every few steps.
    """

    def __init__(self, minutes, steps=0, every=8):
        self.seconds, self.steps, self.every = minutes * 60, steps, every
        self.begin = time.time()
        self.step = 0
        self.done = 0.0
        self.last_print = self.last_save = self.begin

    def part(self):
        if self.step % self.every == 0 or self.steps:
            synchronise()
            done = (time.time() - self.begin) / self.seconds
            if self.steps:
                done = max(done, self.step / self.steps)
            self.done = agree(done)
        return self.done

    def due(self, name, seconds):
        """Whether `seconds` have passed since the last time."""
        now = time.time()
        if now - getattr(self, name) < seconds:
            return False
        setattr(self, name, now)
        return True

    def elapsed(self):
        return time.time() - self.begin


class Replay:
    """Work whose tensors never move, recorded on a GPU as a CUDA graph.

    The work takes and returns nothing: it reads and writes tensors that were
    allocated before. The first calls run it as it is, which also compiles
    what is to be compiled. Where recording fails the whole script starts
    again with --eager, because the CUDA context may be unusable then.
    """

    pool = None
    WARM = 3

    def __init__(self, work, device, eager=False):
        self.work = work
        self.eager = eager or device.type != "cuda"
        self.calls, self.graph = 0, None

    def __call__(self):
        if self.eager:
            return self.work()
        if self.calls < self.WARM:
            self.calls += 1
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self.work()
            return torch.cuda.current_stream().wait_stream(side)
        if self.graph is None:
            self.record()
        self.graph.replay()

    def record(self):
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        if Replay.pool is None:
            Replay.pool = torch.cuda.graph_pool_handle()
        try:
            # NCCL's watchdog and the data loaders of others may call CUDA
            # meanwhile: only this thread's calls are looked at.
            with torch.cuda.graph(graph, pool=Replay.pool,
                                  capture_error_mode="thread_local"):
                self.work()
        except RuntimeError as error:
            print("recording failed:", error, flush=True)
            if world() > 1:
                raise SystemExit("start again with --eager") from error
            os.execv(sys.executable,
                     [sys.executable, *sys.argv, "--eager"])
        self.graph = graph
