"""TensorFlow's own settings, made once before its first operation."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Final

CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")


def prepare_tensorflow() -> int:
    """Make operations deterministic and use as many threads as the pod has CPUs.

    TensorFlow counts the node's CPUs, not the pod's; with a thread for each of 64 of them a pod
    that may use two spends its time being throttled.

    Returns:
        The number of threads.
    """
    import tensorflow as tf

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    threads = cpus(CPU_MAX.read_text() if CPU_MAX.exists() else "max")
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.experimental.enable_op_determinism()
    return threads


def cpus(cpu_max: str) -> int:
    """CPUs that may be used, at least one, from the text of a cgroup's cpu.max."""
    available = len(os.sched_getaffinity(0))
    quota, *period = cpu_max.split()
    if quota == "max" or not period:
        return available
    return max(1, min(available, math.ceil(int(quota) / int(period[0]))))
