"""From sealed shards to batches of tensors, in an order that is a function of (seed, epoch) alone.

Shards are read through `/proc/self/fd/N` by TFRecordDataset, interleaved one after the other
(without parallel calls, so that no more than `CYCLE` + 2 shards are in memory), shuffled, batched,
and parsed a batch at a time. Autotuning is off: its threads slow the end of short epochs and its
parallelism would open all shards at once. Errors name the shard, never a value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final, Self
from weakref import WeakSet

import numpy as np
import tensorflow as tf

from securetrain.errors import ShardCorrupt
from securetrain.sealed.dataset import Manifest
from securetrain.sealed.features import input_shape
from securetrain_trainer.parse import Batch, batched, encoded_image
from securetrain_trainer.shards import OpenShards, SealedSplit

CYCLE: Final = 4
BLOCK: Final = 16
SHUFFLE_BYTES: Final = 256 << 20


def shard_order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    """A permutation of the shards, the same on every machine and in every version."""
    return tuple(sorted(range(count), key=lambda i: _draw("shards", seed, epoch, i)))


def record_seed(seed: int, epoch: int) -> int:
    """Seed of the shuffle of one epoch's records, 31 bits."""
    return int.from_bytes(_draw("records", seed, epoch, 0)[:4], "big") >> 1


def _draw(what: str, seed: int, epoch: int, item: int) -> bytes:
    return hashlib.sha256(f"securetrain/order/v1|{what}|{seed}|{epoch}|{item}".encode()).digest()


class Batches:
    """Reader of one split; a context manager that owns all of its decrypted shards.

    One walk at a time.

    Args:
        split: the sealed split and its key.
        manifest: says what the records hold.
        batch: examples a batch; the last batch of an epoch may be smaller.
    """

    def __init__(self, split: SealedSplit, manifest: Manifest, batch: int) -> None:
        self.records = split.records
        self.per_epoch = -(-split.records // batch)
        self._split = split
        self._manifest = manifest
        self._batch = batch
        self._shards = OpenShards(split)
        self._walks: WeakSet[Generator[Batch, None, None]] = WeakSet()
        self._idle: dict[bool, Any] = {}
        """Iterators of `_epochs` that stand between two epochs, by whether they shuffle."""
        self._paths: Iterator[str] | None = None
        self._seed = 0

    def __enter__(self) -> Self:
        self._shards.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        for walk in tuple(self._walks):
            walk.close()  # an abandoned walk holds TensorFlow's own descriptors
        self._idle.clear()
        self._shards.__exit__(*exc)

    def shuffled(self, seed: int, epoch: int) -> Iterator[Batch]:
        """All examples once, in an order that is a pure function of seed and epoch."""
        order = shard_order(len(self._split.entries), seed, epoch)
        return self._walk(order, record_seed(seed, epoch))

    def in_order(self) -> Iterator[Batch]:
        """All examples once, in the order of the shards."""
        return self._walk(tuple(range(len(self._split.entries))), None)

    def _walk(self, order: tuple[int, ...], seed: int | None) -> Iterator[Batch]:
        walk = self._run(order, seed)
        self._walks.add(walk)
        return walk

    def _run(self, order: tuple[int, ...], seed: int | None) -> Generator[Batch, None, None]:
        if self._paths is not None:
            raise RuntimeError("the walk before this one has not ended")
        self._paths, self._seed = self._shards.walk(order), seed or 0
        seen, fits = 0, True
        try:
            for batch in self._epoch(shuffled=seed is not None):
                if self._shards.error is not None:
                    break
                seen += int(batch[1].shape[0])
                yield batch
        except (tf.errors.OpError, UnicodeDecodeError):
            # The text of TensorFlow's error quotes the record, which need not be text. What is
            # raised comes below, so that these frames do not keep the iterator alive.
            fits = False
        finally:
            self._paths = None
            self._shards.release_all()
        self._check(seen, fits)

    def _check(self, seen: int, fits: bool) -> None:
        if self._shards.error is not None:
            raise self._shards.error
        name = self._split.split
        if not fits:
            raise ShardCorrupt(f"split {name}: a record does not fit the features of dataset.json")
        if seen != self.records:
            raise ShardCorrupt(f"split {name}: {seen} of {self.records} records were read")

    def _epoch(self, shuffled: bool) -> Iterator[Batch]:
        epochs = self._idle.pop(shuffled, None) or self._epochs(shuffled)
        for batch in epochs:
            if batch[1].shape[0] == 0:
                self._idle[shuffled] = epochs
                return
            yield batch

    def _epochs(self, shuffled: bool) -> Any:
        """Epoch after epoch without end, an empty batch behind each.

        One iterator for all epochs: TensorFlow optimizes the functions of every new one anew, which
        takes as long as thousands of small examples. It asks for its seed when an epoch begins.
        """

        def epoch(seed: Any) -> Any:
            # The process's seed would be mixed into the order, and where it is 0, the default of a
            # job, TensorFlow wants to know here whether this one is 0 as well.
            tf.compat.v1.get_default_graph().seed = None
            records = self._records()
            if shuffled:
                records = records.shuffle(self._buffer(), seed=seed, reshuffle_each_iteration=False)
            batches = batched(records, self._manifest, self._batch).prefetch(2)
            return batches.concatenate(self._empty())

        options = tf.data.Options()
        options.autotune.enabled = False
        options.deterministic = True
        if encoded_image(self._manifest) is None:
            # One thread does it all; of the shared ones some would spin in wait for a part of it.
            options.threading.private_threadpool_size = 1
        seeds = tf.data.Dataset.counter().map(_asking(lambda _: np.int64(self._seed), tf.int64))
        return iter(seeds.flat_map(epoch).with_options(options))

    def _empty(self) -> Any:
        shape = input_shape(self._manifest.features, self._manifest.task)
        nothing = (tf.zeros([1, 0, *shape]), tf.zeros([1, 0], tf.int64))
        return tf.data.Dataset.from_tensor_slices(nothing)

    def _records(self) -> Any:
        # Not from_generator: in this version it makes malloc return memory to the system at every
        # chance, which doubled the CPU time of a training step.
        count = len(self._split.entries)
        paths = (
            tf.data.Dataset.range(count)
            .map(_asking(lambda _: next(self._paths or iter(()), ""), tf.string))
            .take_while(lambda path: path != "")
        )
        return paths.interleave(
            self._records_of, cycle_length=min(CYCLE, count), block_length=BLOCK
        )

    def _records_of(self, path: Any) -> Any:
        """The records of one shard, and then nothing but its release."""

        def release(name: bytes) -> Any:
            self._shards.release(name.decode())
            return np.False_

        end = tf.data.Dataset.from_tensor_slices([path]).filter(_asking(release, tf.bool))
        return tf.data.TFRecordDataset(path).concatenate(end)

    def _buffer(self) -> int:
        """Records of the shuffle buffer: all of them if they fit into `SHUFFLE_BYTES`."""
        mean = max(1, self._split.bytes // max(1, self.records))
        return max(1, min(self.records, SHUFFLE_BYTES // mean))


def _asking(function: Callable[[Any], Any], kind: Any) -> Callable[[Any], Any]:
    """A Python function of one scalar as TensorFlow's, with a scalar of a kind as its result.

    It is called stateless though it is not: of an operation with state that `make_deterministic`, a
    rewrite of TensorFlow's, does not know, a pipeline loses all its threads, and does one thing
    after the other. (`from_tensors` is one too, `from_tensor_slices` is known.) Only one thread
    asks at a time, in order.
    """

    def ask(value: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(function, [value], kind, stateful=False), [])

    return ask
