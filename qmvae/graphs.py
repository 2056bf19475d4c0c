"""What lets the seeds of a model train side by side on a GPU: each has random numbers and a stream of its own, and its
step is recorded as a CUDA graph, since a GPU does its hundreds of small kernels faster than Python can name them.

On a CPU a seed has its random numbers, and a step is a plain call. A replay has to lead where the plain step leads:
each recording is tried once, and where that doesn't hold training goes on with plain steps.
"""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # plain steps before a recording, in which libraries choose their kernels and Adam makes its moments
TOLERANCE = 0.05  # how far a replay may end from the plain step, of that step's length: sums may be in another order


class Turn:
    """`with turn:` gives one seed its random numbers and, on a GPU, its stream, where what it launched goes on while
    others have their turn."""

    def __init__(self, seed: int, device: torch.device):
        self.device, self.cuda = device, device.type == "cuda"
        self.generator = torch.Generator(device).manual_seed(seed)
        if self.cuda:
            torch.cuda.synchronize()  # what the stream is going to read is there
            self.stream = torch.cuda.Stream()

    def __enter__(self) -> None:
        if self.cuda:
            self.outer = torch.cuda.current_stream()
            torch.cuda.set_stream(self.stream)
        self.draw_from(self.generator)

    def __exit__(self, *error) -> None:
        if self.cuda:
            torch.cuda.set_stream(self.outer)
        else:
            self.generator.set_state(torch.get_rng_state())

    def draw_from(self, generator: torch.Generator) -> None:
        self.generator = generator
        if self.cuda:  # the generator itself, not a copy of its state: a recording made now draws from it ever after
            torch.cuda.default_generators[torch.cuda.current_device()].graphsafe_set_state(generator)
        else:
            torch.set_rng_state(generator.get_state())

    def random(self) -> Tensor:
        """The state of the random numbers, in the seed's turn: uint8, on the CPU."""
        return torch.cuda.get_rng_state() if self.cuda else torch.get_rng_state()

    def set_random(self, state: Tensor) -> None:
        if self.cuda:
            torch.cuda.set_rng_state(state)
        else:
            torch.set_rng_state(state)


def cuda_graph(call: Callable[[], dict[str, Tensor]]) -> tuple[Callable[[], Any], dict[str, Tensor]]:
    """Record what `call` does, without doing it. Returns what does it, again and again, and the tensors it leaves."""
    gc.collect()  # a graph of an earlier run, freed in the midst of this one, would break it off
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        found = call()
    return graph.replay, found


class Recorded:
    """A training step that is recorded and then replayed; it is called as the plain one is, in its seed's turn.

    step: (rows, **changing) to named scalars; they are overwritten by the next call. The rows and the numbers among
    `changing` are copied to where the recording reads them; other words among them need another recording.
    state: all that a step changes, by kind. record: as `cuda_graph`; a test on a CPU has another.
    """

    def __init__(
        self,
        step: Callable[..., dict[str, Tensor]],
        state: Callable[[], dict[str, list[Tensor]]],
        turn: Turn,
        record: Callable = cuda_graph,
    ):
        self.step, self.state, self.turn, self.record = step, state, turn, record
        self.inputs: dict[str, Tensor] = {}
        self.words: dict[str, str] = {}
        self.plain: float = WARM_UP  # plain steps to go
        self.replay: Callable[[], Any] | None = None
        self.found: dict[str, Tensor] = {}

    def __call__(self, rows: Tensor, **changing: Any) -> dict[str, Tensor]:
        words = {name: value for name, value in changing.items() if isinstance(value, str)}
        numbers = {name: value for name, value in changing.items() if name not in words}
        if words != self.words:
            self.words, self.plain, self.replay = words, max(self.plain, WARM_UP), None
        if not self.inputs:
            self.inputs = {"rows": rows.clone()} | {name: torch.zeros((), device=rows.device) for name in numbers}
        self.inputs["rows"].copy_(rows)
        for name, value in numbers.items():
            self.inputs[name].fill_(value)
        if self.replay is None and self.plain == 0:
            self.make_recording()
        if self.replay is None:
            self.plain -= 1
            return self.call()
        self.replay()
        return self.found

    def call(self) -> dict[str, Tensor]:
        return self.step(**self.inputs, **self.words)

    def make_recording(self) -> None:
        """Record the step and try it out. All is as before then, but for `replay`; without it there are plain steps."""
        before, random = self.copies(), self.turn.random()
        self.call()
        plain = self.copies()
        self.restore(before, random)
        try:
            self.replay, self.found = self.record(self.call)
            self.replay()
            ends = self.copies()
            wrong = [k for k in plain if apart(ends[k], plain[k]) > TOLERANCE * apart(before[k], plain[k])]
            fault = f"a replay leaves other {' and '.join(wrong)} than the plain step" if wrong else ""
        except RuntimeError as error:
            fault = str(error.__context__ or error).splitlines()[0]  # the end of a broken recording has an error too
        if fault:
            print(f"a step can't be recorded as a CUDA graph ({fault}): training goes on, but slower", flush=True)
            self.replay, self.plain = None, float("inf")
            self.turn.draw_from(torch.Generator(self.turn.device))  # the other one may still be in its recording
        self.restore(before, random)

    def copies(self) -> dict[str, list[Tensor]]:
        return {kind: [tensor.detach().clone() for tensor in tensors] for kind, tensors in self.state().items()}

    @torch.no_grad()
    def restore(self, copies: dict[str, list[Tensor]], random: Tensor) -> None:
        for kind, tensors in self.state().items():
            for tensor, copy in zip(tensors, copies[kind], strict=True):
                tensor.copy_(copy)
        self.turn.set_random(random)


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    """The Euclidean distance of two lists of tensors, each list one long vector."""
    return torch.stack([(x - y).square().sum() for x, y in zip(a, b, strict=True)]).sum().sqrt().item()
