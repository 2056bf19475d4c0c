"""The training loop. `pipeline/training.py` adds a log, a progress bar, checkpoints and resumed runs."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qmvae.data.dataset import Split
from qmvae.model.base import MultimodalVAE


class BatchSampler:
    """Random batches of indices into `count` training pairs; an epoch contains every pair once.

    A batch depends only on the step and these arguments, so a resumed run gets the same batches.
    Raises ValueError if `batch_size` is more than `count`.
    """

    def __init__(self, count: int, batch_size: int, seed: int, device: torch.device | str):
        if batch_size > count:
            raise ValueError(f"batch_size: expected at most the {count} training pairs, got {batch_size}")
        self.count, self.batch_size, self.seed, self.device = count, batch_size, seed, device
        self.permutations: dict[int, Tensor] = {}  # epoch -> the order of its pairs, for at most two epochs

    def sample(self, step: int) -> Tensor:
        """Return the indices of batch `step`, counted from 0: int64 (batch_size,) on the device."""
        epoch, start = divmod(step * self.batch_size, self.count)
        batch = self.permutation(epoch)[start : start + self.batch_size]
        if len(batch) < self.batch_size:  # the batch continues in the next epoch
            batch = torch.cat([batch, self.permutation(epoch + 1)[: self.batch_size - len(batch)]])
        return batch

    def permutation(self, epoch: int) -> Tensor:
        """Return the order of all pairs in an epoch: int64 (count,), on the device."""
        if epoch not in self.permutations:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.permutations = {e: p for e, p in self.permutations.items() if e == epoch - 1}
            self.permutations[epoch] = torch.randperm(self.count, generator=generator).to(self.device)
        return self.permutations[epoch]


def lr_scale(progress: float, cooldown: float) -> float:
    """Return the factor that multiplies the learning rate: min(1, (1 - progress) / cooldown), or 1 if cooldown is 0.

    The factor falls linearly from 1 to 0 over the last part of training.
    progress: the completed fraction of training, in [0, 1]. cooldown: the length of that last part, as a fraction.
    """
    return min(1.0, (1.0 - progress) / cooldown) if cooldown else 1.0


def make_optimizer(model: MultimodalVAE, lr: float) -> torch.optim.Optimizer:
    """Return Adam (section 4.1 of the paper) over all parameters of the model.

    lr: the largest learning rate of each group of parameters without its own; `training_steps` scales it.
    """
    optimizer = torch.optim.Adam(model.parameter_groups(), lr=lr, fused=True)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def training_steps(
    model: MultimodalVAE, optimizer: torch.optim.Optimizer, split: Split, settings: Any, seed: int, start: int = 0
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Train the model in place; after each update yield its number, counted from 1, and the terms of the objective.

    The terms are detached scalars on the device, computed before the update. Adam minimises the term `loss`.

    split: the training images and pairs. start: the number of updates that a resumed run has already made.
    settings: steps, batch_size, cooldown, precision and compile, as in params.yaml.
    seed: of the order of the pairs only; samples of codes come from PyTorch's global generator.
    """
    device = split.pairs.device
    sampler = BatchSampler(len(split.pairs), settings.batch_size, seed, device)
    bfloat16 = resolve_precision(settings.precision, device) == "bfloat16"
    objective = compiled(model.objective) if wants_compile(settings.compile, device) else model.objective
    for step in range(start, settings.steps):
        progress = step / settings.steps
        images, labels = split.batch(sampler.sample(step))
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            terms = objective(images, labels, **model.schedule(progress))
        if step == start:
            check_terms(type(model).__name__, terms)
        optimizer.zero_grad()
        terms["loss"].backward()
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_scale(progress, settings.cooldown)
        optimizer.step()
        yield step + 1, {name: term.detach() for name, term in terms.items()}


def check_terms(name: str, terms: Any) -> None:
    """Raise ValueError, which names the model, unless its objective returned scalar tensors by name, also `loss`."""
    expected = f"{name}.objective: expected scalar tensors by name, among them `loss`"
    if not isinstance(terms, dict) or "loss" not in terms:
        raise ValueError(f"{expected}; got {', '.join(terms) if isinstance(terms, dict) else type(terms).__name__}")
    for key, term in terms.items():
        if not isinstance(term, Tensor) or term.ndim:
            found = f"shape {tuple(term.shape)}; take its mean" if isinstance(term, Tensor) else type(term).__name__
            raise ValueError(f"{expected}; the term `{key}` has {found}")


def resolve_precision(choice: str, device: torch.device) -> str:
    """Return `float32` or `bfloat16`; `auto` is bfloat16 on devices with instructions for it, float32 on others.

    Without such instructions a step in bfloat16 takes several times as long as in float32.
    """
    if choice != "auto":
        return choice
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # x86: AVX-512 BF16 or AMX; ARM: BF16; oneDNN (MKL-DNN) has the convolutions that use them
        has = torch.cpu.get_capabilities()
        fast = torch.backends.mkldnn.is_available() and any(map(has.get, ("avx512_bf16", "amx_bf16", "bf16")))
    return "bfloat16" if fast else "float32"


def wants_compile(choice: str, device: torch.device) -> bool:
    """Return whether to compile the objective: `on`, `off`, or `auto`, which means on a GPU only."""
    return choice == "on" or (choice == "auto" and device.type == "cuda")


def compiled(objective: Any) -> Any:
    """Return the objective compiled by torch.compile; it samples the same random numbers as without compilation.

    For this, `fallback_random` of torch._inductor is set for the whole process. Floats of the schedule become scalar
    tensors, since torch.compile would compile the objective again for a new Python number.
    """
    torch._inductor.config.fallback_random = True
    fast = torch.compile(objective)

    def call(images, labels, **schedule):
        tensors = {k: torch.tensor(v, device=labels.device) if isinstance(v, float) else v for k, v in schedule.items()}
        return fast(images, labels, **tensors)

    return call
