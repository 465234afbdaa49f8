"""Measuring: sides that take turns, medians with their spread, memory, this machine's own peak."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
from keras import ops

# Does the work of a round, and says how much it was; a training also says how long it took.
Work = Callable[[int], float | tuple[float, float]]


def alternate(sides: Mapping[str, Work], rounds: int) -> dict[str, dict]:
    """Lets the sides take turns, so that what else the machine does falls on all of them.

    Each side first does a round that isn't measured, in which it compiles.

    Returns:
        For each side the median of its work a second, the lowest and the highest.
    """
    rates = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, work in sides.items():
            begun = time.perf_counter()
            done = work(number)
            seconds = time.perf_counter() - begun
            if isinstance(done, tuple):
                done, seconds = done
            print(f"  round {number}: {name}, {seconds:.1f} s", file=sys.stderr, flush=True)
            if number:
                rates[name].append(done / seconds)
    return {
        name: {"rate": statistics.median(found), "lowest": min(found), "highest": max(found)}
        for name, found in rates.items()
    }


def matrix_product(dtype: str, size: int = 2048, times: int = 12) -> Work:
    """Multiplies square matrices; its work is counted in operations."""
    matrix = ops.cast(np.random.default_rng(0).normal(size=(size, size)), dtype)

    def work(_number: int) -> float:
        for _ in range(times):
            product = ops.matmul(matrix, matrix)
        ops.convert_to_numpy(ops.cast(product[:1, :1], "float32"))  # waits for the last one
        return times * 2 * size**3

    return work


def peak_memory() -> float:
    """Most memory that this process ever held, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)
