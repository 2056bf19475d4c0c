"""The number of torch's threads in a job that has the cores to itself."""

import time

import psutil
import torch

from qmvae.pipeline.jobs import claimed_threads, own_cores

DEFAULT = torch.get_num_threads()  # when the process starts


def use_one_thread() -> None:
    """Set torch to one thread, unless OMP_NUM_THREADS is set: in float32 the last bits depend on the number."""
    if not claimed_threads():
        torch.set_num_threads(1)


class FreeThreads:
    """The number of torch's threads, kept at the number of cores that other processes leave free.

    Threads that wait for a core slow a step several times. Only in bfloat16 does the number change, since results
    there do not depend on it. In float32 it is 1. Where OMP_NUM_THREADS is set, it stays as it is.
    """

    def __init__(self, precision: str):
        if precision == "float32":
            use_one_thread()
        elif not claimed_threads():
            torch.set_num_threads(DEFAULT)  # an evaluation before may have left one
        self.most = torch.get_num_threads()
        self.adapts = self.most > 1 and not claimed_threads()
        self.last = self.read()

    def read(self) -> tuple[float, float]:
        """Return the time in seconds, and the processor time of all other processes so far on our cores."""
        own = own_cores()
        times = [times for core, times in enumerate(psutil.cpu_times(percpu=True)) if core in own]
        return time.monotonic(), sum(t.user + t.nice + t.system for t in times) - time.process_time()

    def adapt(self, every: float = 2.0) -> None:
        """Look at the load of the last `every` seconds, if they are over, and set the number of threads."""
        if self.adapts and time.monotonic() - self.last[0] >= every:
            now = self.read()
            others = (now[1] - self.last[1]) / (now[0] - self.last[0])  # cores that others kept busy
            torch.set_num_threads(max(1, min(self.most, round(self.most - others))))
            self.last = now
