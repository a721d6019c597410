"""A GPU for tests on machines that have none: tensors with a device, a type and a shape, but without values.

Inside `fake_gpu` PyTorch's fake tensors stand for those of a GPU. What a real one would refuse, or wait for, is an
error: tensors of two devices in one operation (PyTorch's own check), a question for a value (`.item()`, `if`, a mask as
an index), and copies between host and device that the host waits for (`NoWaiting`). What cannot be seen: values,
kernels that PyTorch lacks, and the autograd engine, which refuses a device that is not there. Backward passes are
tested with tensors of device `meta` instead.
"""

import ctypes
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from autoseg.losses import targets
from autoseg.networks.build import build_network
from autoseg.records.plan import NetworkSpec

GPU = torch.device("cuda:0")
_CUDA, _META, _NUM_KINDS = 1, 14, 20
"""Numbers of device types in PyTorch, and how many there are at least."""
_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"


_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_COPYING = {"aten::_to_copy": 0, "aten::to": 0, "aten::copy_": 1}
"""Operations that may copy between devices, and which of their arguments is the source."""
_ASKING = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero")
_FUSED = ("aten::_fused_sgd_", "aten::_fused_adamw_")
_pinned_storages: dict[int, Any] = {}
"""Address of a storage -> the storage, so that no other gets its address."""


class WaitsError(Exception):
    """The host would wait for the GPU."""


WAITS = (WaitsError, DataDependentOutputException, DynamicOutputShapeException)
"""What is raised where the host would wait."""


class Copy(NamedTuple):
    """A copy between host and device that nobody waited for."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    is_pinned: bool

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class NoWaiting(TorchDispatchMode):
    """Refuses copies between host and device that the host waits for, and lists the others.

    A patient one counts what is waited for instead; whoever asks for a value is told 1.
    """

    def __init__(self, patient: bool) -> None:
        super().__init__()
        self.patient = patient
        self.copies: list[Copy] = []
        self.waits: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named, name = dict(kwargs or {}), func._schema.name
        if name in _INDEXING:
            where = {one.device.type for one in tree_iter(args[1]) if isinstance(one, Tensor)}
            if args[0].device.type == "cuda" and where != {"cuda"}:
                self._wait(f"{name}: the index lies in the main memory, and its copy to the GPU is waited for")
        if name in _FUSED:
            _check_fused(name, args)
            return None
        if self.patient and name in _ASKING:
            self._wait(f"value of {args[0].device.type}")
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        made = func(*args, **named)
        if name in _COPYING:
            source = args[_COPYING[name]]
            if source.device.type != made.device.type:
                is_async = named.get("non_blocking") or True in args[2:]
                if made.device.type == "cpu" or not is_async:
                    self._wait(f"{source.device.type} to {made.device.type}")
                else:
                    self.copies.append(
                        Copy(tuple(source.shape), source.dtype, source.untyped_storage()._cdata in _pinned_storages)
                    )
        return made

    def _wait(self, what: str) -> None:
        if not self.patient:
            raise WaitsError(what)
        self.waits.append(what)


def _check_fused(name: str, args: Sequence[Any]) -> None:
    """PyTorch has no fake kernel of these; the real ones want all tensors of a parameter alike in place and layout."""
    for together in zip(*(some for some in args if isinstance(some, list) and some), strict=True):
        first = together[0]
        for one in together:
            if one.device != first.device or (one.ndim and one.stride() != first.stride()):
                raise RuntimeError(f"{name}: {one.device} {one.stride()} beside {first.device} {first.stride()}")


@contextmanager
def fake_gpu(*, patient: bool = False) -> Iterator[NoWaiting]:
    """Inside the block `GPU` can be used, without values; see `NoWaiting`."""
    with (
        _device_guard(),
        mock.patch.object(torch, "Generator", _Generator),
        mock.patch.object(Tensor, "pin_memory", _pinned),
        mock.patch.object(torch.cuda, "Event", _Event),
        mock.patch.object(torch.cuda, "current_stream", lambda device: f"stream of {device}"),
        mock.patch.object(nn.Module, "to", _moved),
        mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", return_value=False),
        mock.patch.object(torch.cuda, "is_bf16_supported", return_value=True),
        forgetting(),
        FakeTensorMode(allow_non_fake_inputs=True),
        _MatchingGenerators(),
        NoWaiting(patient) as watch,
    ):
        yield watch
    _pinned_storages.clear()


def on_gpu(spec: NetworkSpec, num_channels: int, num_heads: int) -> nn.Module:
    """A network in training mode on the fake GPU."""
    return build_network(spec, num_channels, num_heads, 0).to(GPU).train()


def _moved(module: nn.Module, device: torch.device) -> nn.Module:
    """PyTorch's own exchanges the tensors of a module, which fake ones do not bear."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part.register_parameter(name, nn.Parameter(torch.empty_like(parameter, device=device)))
    return module


class _Generator(torch.Generator):
    """Of the CPU, since builds of PyTorch without CUDA have no other; it knows for which device it was asked."""

    def __new__(cls, device: torch.device | str = "cpu") -> "_Generator":
        generator = super().__new__(cls)
        generator.place = torch.device(device)
        return generator

    place: torch.device


class _MatchingGenerators(TorchFunctionMode):
    """Refuses to draw on one device by the generator of another, as PyTorch does."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        generator = (kwargs or {}).get("generator")
        if isinstance(generator, _Generator) and generator.place.type != made.device.type:
            raise RuntimeError(f"expected a generator of {made.device.type}, got one of {generator.place.type}")
        return made


def _pinned(tensor: Tensor) -> Tensor:
    assert tensor.device.type == "cpu", "only main memory can be pinned"
    assert tensor.is_contiguous(), "what lies between would be pinned too"
    pinned = tensor.clone()
    _pinned_storages[pinned.untyped_storage()._cdata] = pinned.untyped_storage()
    return pinned


class _Event:
    """Knows what it may be asked and by whom; what it stands for has always happened."""

    def __init__(self, blocking: bool = False) -> None:
        assert blocking, "waiting in a loop takes a core from everybody else"
        self.recorded_by: int | None = None

    def record(self, stream: object) -> None:
        self.recorded_by = threading.get_ident()

    def synchronize(self) -> None:
        if self.recorded_by is None:
            raise AssertionError("nothing was recorded that could be waited for")
        if self.recorded_by == threading.get_ident():
            raise WaitsError("for an event, in the thread that gives the GPU its work")


@contextmanager
def forgetting() -> Iterator[None]:
    """What losses keep for their next step has no values here, and must not be found by others."""
    kept = (targets._factors, targets._membership)
    for one in kept:
        one.cache_clear()
    try:
        yield
    finally:
        for one in kept:
            one.cache_clear()


@contextmanager
def _device_guard() -> Iterator[None]:
    """Let builds of PyTorch without CUDA index tensors of `cuda`, by what they have for `meta`.

    Python has no way to register a guard for a device type; builds with CUDA bring one for machines without a GPU.
    """
    if torch.version.cuda is not None:
        yield
        return
    library = next((Path(torch.__file__).parent / "lib").glob("libc10.*"))
    guards = (ctypes.c_void_p * _NUM_KINDS).in_dll(ctypes.CDLL(str(library)), _REGISTRY)
    before, guards[_CUDA] = guards[_CUDA], guards[_META]
    try:
        yield
    finally:
        guards[_CUDA] = before
