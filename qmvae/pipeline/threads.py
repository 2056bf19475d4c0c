"""The number of torch's threads in a job that has the cores to itself."""

import time

import psutil
import torch

from qmvae.pipeline.jobs import claimed_threads, own_cores


class FreeThreads:
    """The number of torch's threads, kept at the number of cores that other processes leave free.

    Threads that wait for a core slow a step several times. Only in bfloat16 does the number change, since results
    there do not depend on it. In float32 the constructor sets it to 1. Where OMP_NUM_THREADS is set, it stays as it is.
    """

    def __init__(self, precision: str):
        if precision == "float32" and not claimed_threads():
            torch.set_num_threads(1)
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
