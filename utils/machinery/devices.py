"""Several devices, on one machine or many: who computes which part, and who writes.

Every device holds the whole decoder and gets a part of each batch (data parallelism), through
`keras.distribution` on the JAX backend: the only one on which Keras can use several machines. The
result is that of one device but for rounding, so no training's identity holds the settings DEVICES,
PROCESSES, PROCESS and ADDRESS, and what one device began, several can finish.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.machinery.errors import SettingsError
from utils.machinery.files import content_hash
from utils.settings import Settings

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # as malloc.h numbers them
_process, _processes = 0, 1  # which process this is, of how many; `start` sets them


@dataclass(frozen=True)
class Devices:
    """Over how many devices and processes a training is distributed, and which process this is."""

    count: int = 1  # of all processes together; a multiple of `processes`
    processes: int = 1
    process: int = 0  # counted from 0

    @classmethod
    def of(cls, settings: Settings) -> "Devices | None":
        """Returns what the settings ask for, None for one device."""
        return None if settings.devices == 1 else cls(settings.devices, settings.processes)

    def places(self, count: int) -> np.ndarray:
        """Lists this process's places in a batch of `count` rows, `(n,)` int64, in order.

        `n` is the same for every process: where that doesn't come out even, a place is -1, and
        there goes any row, which must count nothing.
        """
        places = np.arange(-(-count // self.count) * self.count)
        places[count:] = -1
        return np.split(places, self.processes)[self.process]


def start(settings: Settings) -> None:
    """Joins the processes that work together, and returns once all of them are there.

    It changes JAX for the whole program, so call it before anything is computed. `SettingsError` if
    there are several processes, and Keras doesn't run on JAX.
    """
    global _process, _processes
    if settings.processes == 1:
        return
    _require_jax(f"PROCESSES is {settings.processes}")
    import jax
    import keras

    # JAX's own way between processes on CPUs; GPUs have theirs, and don't mind.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize(settings.address, settings.processes, settings.process)
    _process, _processes = settings.process, settings.processes


def processes() -> tuple[int, int]:
    """Which process this is, counted from 0, and how many there are."""
    return _process, _processes


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return _process == 0


@contextmanager
def distributed(devices: Devices | None) -> Iterator[None]:
    """Distributes the models that are made in the block, and their training, over devices.

    `share` tells in the block which part of a batch is this process's. `SettingsError` if Keras
    doesn't run on JAX, there are fewer devices, or `start` didn't join the processes.
    """
    if devices is None:
        yield
        return
    _require_jax(f"DEVICES is {devices.count}")
    if devices.processes != _processes:
        raise SettingsError(
            f"PROCESSES is {devices.processes}, and notebooks run in one process. Start `python -m "
            "tools.several_processes` once for each PROCESS first; the notebooks, without "
            "PROCESSES, take up what it made."
        )
    import jax
    import keras

    names, each = [], devices.count // devices.processes
    for process in range(devices.processes):  # the first devices of every process
        found = [one for one in jax.devices() if one.process_index == process]
        if len(found) < each:
            raise SettingsError(
                f"DEVICES is {devices.count}: each process needs {each}, and process {process} has "
                f"{len(found)}. Set DEVICES to what there is; to try it out on a CPU, set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={each} too."
            )
        names += [f"{one.platform}:{one.id}" for one in found[:each]]
    # Each process feeds its own share, so Keras has nothing to divide.
    with keras.distribution.DataParallel(devices=names, auto_shard_dataset=False).scope():
        yield


def share() -> Devices:
    """Tells by its `places` which part of every batch to feed: outside of `distributed` all."""
    import keras

    distribution = keras.distribution.distribution()
    if distribution is None:
        return Devices()
    return Devices(distribution.device_mesh.devices.size, _processes, _process)


def keep_memory() -> None:
    """Lets this whole process keep the memory that it frees, from now on; only Linux needs it.

    Each step of a training allocates hundreds of megabytes anew. The C library hands them back to
    the system in between, which clears every page: more than a tenth of a step.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def wait() -> None:
    """Goes on when every process has come here."""
    _gather(b"")


def from_first(number: float) -> float:
    """Returns what `number` is in the first process, to the last digit; all have to call it."""
    return float(np.frombuffer(_gather(np.float64(number).tobytes())[0])[0])


def require_same(content: Any, about: str) -> None:
    """Waits for all processes; `SettingsError` if `content`, any JSON, isn't the same in each."""
    digests = _gather(bytes.fromhex(content_hash(content)))
    differing = [number for number, digest in enumerate(digests) if digest != digests[0]]
    if differing:
        raise SettingsError(
            f"For {about}, process {differing[0]} has other settings, data or earlier results than "
            "process 0. Give all the same settings but for PROCESS, equal copies of the data set, "
            "and one RUNS folder that they share."
        )


def _gather(content: bytes) -> list[bytes]:
    """What every process gave, equally many bytes each."""
    if _processes == 1:
        return [content]
    from jax.experimental.multihost_utils import process_allgather

    # One byte more, as nothing can't be gathered; and bytes, as JAX shortens float64.
    gathered = process_allgather(np.frombuffer(content + b"\0", np.uint8))
    return [row.tobytes()[:-1] for row in np.asarray(gathered)]


def _require_jax(reason: str) -> None:
    import keras

    if keras.backend.backend() != "jax":
        raise SettingsError(
            f"{reason}, which needs JAX, and Keras runs on {keras.backend.backend()}. Set "
            "KERAS_BACKEND=jax, or take one device and one process."
        )
