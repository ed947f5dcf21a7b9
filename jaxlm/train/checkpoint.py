"""Checkpoints: written in the background by orbax, published by a manifest that verifies them.

    directory/00000100/state/         orbax's files
    directory/00000100/manifest.json  written last (manifest.py)

A checkpoint without a manifest is a save that did not finish, and is none. Not here: when to save,
and what of a run goes into `extra` (the loop).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from jaxlm.train import manifest as manifests
from jaxlm.train.leaves import abstract_numbers, describe, flatten, grown, numbers

_LOGGER = logging.getLogger(__name__)


class CheckpointError(OSError):
    """A save failed; earlier checkpoints are as they were."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What stays on disk; the newest and the best may be the same checkpoint."""

    keep_last: int = 2
    keep_best: int = 1  # of those saved with a metric, the lowest; 0 = none
    best_metric: str = "loss"  # the evaluation row that the loop gives as metric

    def __post_init__(self):
        for field, least in (("keep_last", 1), ("keep_best", 0)):
            value = getattr(self, field)
            if value < least:
                raise ValueError(f"checkpoint.{field}={value!r} must be at least {least}")


class Checkpointer:
    """Saves, verifies and restores the checkpoints of one directory.

    With several processes every method is called by all of them; process 0 writes manifests,
    deletes, and reports through `log`. Paths are epath, so `gs://` works.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        config: Config = Config(),
        log: Callable[[str], None] = _LOGGER.warning,
    ):
        import orbax.checkpoint as ocp  # a quarter of a second: paid by who saves or restores

        logging.getLogger("absl").addFilter(_is_no_orbax_traceback)
        self.directory = epath.Path(directory)
        self.config = config
        self._log = log if jax.process_index() == 0 else lambda line: None
        # Uncompressed: half the time for parameters, which do not compress. OCDBT: few files.
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True, use_compression=False)
        self._orbax = ocp.AsyncCheckpointer(handler)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._in_flight: concurrent.futures.Future | None = None

    def save(
        self, state: Any, extra: Any, step: int, metric: float | None = None, blocking: bool = False
    ) -> None:
        """Save in the background; at most one save is in flight, a second one waits for it.

        A step that is there is not written again: a state is a function of its run and step.

        Args:
          state: tree of arrays; they may be donated or overwritten as soon as this returns.
          extra: whatever else a resume needs, JSON.
          step: names the checkpoint.
          metric: lower is better; None or NaN is never the best.
          blocking: return only when the checkpoint is published.

        Raises:
          CheckpointError: this save, or the one before it, could not be written.
          TypeError, ValueError: `extra` is not JSON.
        """
        self.wait()
        if _agree(step in self.all_steps()):
            return
        leaves = flatten(state)
        manifest = {
            "step": step,
            "metric": None if metric is None or math.isnan(metric) else float(metric),
            "leaves": {path: describe(x) for path, x in leaves.items()},
            "extra": json.loads(json.dumps(extra)),  # a copy: the caller's may change
        }
        # Orbax copies those on the host, and takes no empty ones.
        arrays = {p: numbers(x) for p, x in leaves.items() if x.size}
        path = self._path(step)
        try:
            if jax.process_index() == 0:
                path.rmtree(missing_ok=True)  # an unfinished save
                path.mkdir(parents=True)
            if not _agree(_fits(path, sum(x.nbytes for x in arrays.values()))):
                raise OSError("No space left on device")  # found early: nothing half-written
            import orbax.checkpoint as ocp

            self._orbax.save(path / "state", args=ocp.args.PyTreeSave(arrays))
        except Exception as error:
            raise self._failed(step, error) from error
        self._in_flight = self._thread.submit(self._publish, step, manifest)
        if blocking:
            self.wait()

    def wait(self) -> None:
        """Return when nothing is in flight; raises the CheckpointError of a save that failed."""
        if self._in_flight is not None:
            try:
                self._in_flight.result()
            finally:
                if self._in_flight.done():  # not where Ctrl-C ended the waiting
                    self._in_flight = None

    def close(self) -> None:
        """Wait, then release the threads."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._orbax.close()

    def all_steps(self) -> list[int]:
        """Steps of the published checkpoints, ascending; they are not verified here."""
        return [step for step in self._directories() if manifests.exists(self._path(step))]

    def latest_step(self) -> int | None:
        """The newest published step."""
        return max(self.all_steps(), default=None)

    def best_step(self) -> int | None:
        """The published step with the lowest metric; None where none was saved with one."""
        return next(iter(self._by_metric()), None)

    def restore(
        self, target: Any, step: int | None = None, partial: bool = False
    ) -> tuple[Any, Any, int] | None:
        """Restore the newest valid checkpoint, or the one of `step`.

        A damaged one on the way is logged with its file and renamed to invalid-STEP, so that its
        step can be saved again; unfinished saves are logged and left, since they may be in flight.

        Args:
          target: tree of jax.ShapeDtypeStruct, with shardings (None: the first local device). One of no elements takes the
            length that was saved.
          step: only this one, and no other in its place.
          partial: take only the leaves in `target` (the parameters without the optimizer, say).

        Returns:
          (state, extra, step), or None where there is no checkpoint.

        Raises:
          ValueError: there are checkpoints but no valid one, the one of `step` is missing or
            damaged, it has another format version, or its leaves differ from `target`'s.
        """
        self.wait()
        if step is not None:
            candidates: Sequence[int] = [step]
            if step not in self._directories():
                found = self.all_steps()
                raise ValueError(f"no checkpoint of step {step} in {self.directory}: {found}")
        else:
            candidates = self._directories()[::-1]
        return self._restore_first(candidates, target, partial, required=step is not None)

    def restore_best(self, target: Any, partial: bool = False) -> tuple[Any, Any, int] | None:
        """`restore`, of the valid checkpoint with the lowest metric."""
        self.wait()
        steps = self._by_metric()
        if not steps and self.all_steps():
            raise ValueError(f"no checkpoint in {self.directory} was saved with a metric")
        return self._restore_first(steps, target, partial, required=False)

    # The rest is private: paths, choosing, reading, publishing.

    def _path(self, step: int) -> epath.Path:
        return self.directory / f"{step:08d}"

    def _directories(self) -> list[int]:
        if not self.directory.exists():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdecimal())

    def _by_metric(self) -> list[int]:
        """Steps that have a metric, the best first."""
        found = []
        for step in self.all_steps():
            try:
                metric = manifests.read(self._path(step))["metric"]
            except manifests.Invalid:  # whoever restores it reports it
                continue
            if metric is not None:
                found.append((metric, -step))
        return [-negated for _, negated in sorted(found)]

    def _restore_first(self, candidates: Iterable[int], target: Any, partial: bool, required: bool):
        error, step = "", -1
        if jax.process_index() == 0:
            try:
                step = self._first_valid(candidates, required)
            except ValueError as e:
                error, step = str(e), -2
        step = _agree(step)
        if step == -2:
            raise ValueError(error or f"process 0 found no valid checkpoint in {self.directory}")
        if step == -1:
            return None
        manifest = manifests.read(self._path(step))
        return self._load(step, manifest, target, partial), manifest["extra"], step

    def _first_valid(self, candidates: Iterable[int], required: bool) -> int:
        """The first candidate that is whole, -1 if no save among them ever finished."""
        damaged: dict[int, str] = {}
        for step in candidates:
            if not manifests.exists(self._path(step)):
                line = f"checkpoint of step {step} has no manifest: an unfinished save"
                if required:
                    raise ValueError(f"{line} ({self._path(step)})")
                self._log(f"{line}, ignored")
                continue
            try:
                manifests.verify(self._path(step))
            except manifests.Invalid as error:
                damaged[step] = str(error)
                continue
            for bad, why in damaged.items():  # only now: with no valid one nothing is touched
                aside = self.directory / f"invalid-{bad:08d}"
                aside.rmtree(missing_ok=True)
                self._path(bad).rename(aside)
                self._log(f"checkpoint of step {bad} is damaged: {why}; renamed to {aside.name}")
            return step
        if damaged:
            why = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
            raise ValueError(f"no valid checkpoint in {self.directory}: {why}")
        return -1

    def _load(self, step: int, manifest: dict[str, Any], target: Any, partial: bool) -> Any:
        import orbax.checkpoint as ocp

        wanted, saved = flatten(target), manifest["leaves"]
        wanted = {path: grown(x, saved.get(path)) for path, x in wanted.items()}
        described = {path: describe(x) for path, x in wanted.items()}
        if differ := manifests.differences(saved, described, partial):
            raise ValueError(f"{self._path(step)} does not fit this model and optimizer: {differ}")
        item = {path: abstract_numbers(x) for path, x in wanted.items() if x.size}
        arguments = ocp.args.PyTreeRestore(
            item=item,
            restore_args=ocp.checkpoint_utils.construct_restore_args(item),
            partial_restore=partial,
        )
        arrays = self._orbax.restore(self._path(step) / "state", args=arguments)
        arrays |= {
            path: jax.device_put(np.zeros(x.shape, x.dtype), abstract_numbers(x).sharding)
            for path, x in wanted.items()
            if not x.size
        }
        leaves = [
            jax.random.wrap_key_data(arrays[path], impl=saved[path]["key_impl"])
            if "key_impl" in saved[path]
            else arrays[path]
            for path in wanted
        ]
        return jax.tree.unflatten(jax.tree.structure(target), leaves)

    def _publish(self, step: int, manifest: dict[str, Any]) -> None:
        """In the background: wait for orbax, write the manifest, then delete what is not kept."""
        path = self._path(step)
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() != 0:
                return
            manifests.write(path, manifest)
        except Exception as error:
            raise self._failed(step, error) from error
        try:
            self._prune()
        except (OSError, ValueError) as error:
            self._log(f"an old checkpoint could not be deleted: {_reason(error)}")

    def _prune(self) -> None:
        published = self.all_steps()
        keep = set(published[-self.config.keep_last :])
        keep.update(self._by_metric()[: self.config.keep_best])
        for step in self._directories():
            if step not in keep:
                manifests.remove(self._path(step))  # killed after this: an unfinished save
                self._path(step).rmtree()

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        if jax.process_index() == 0:
            try:
                self._path(step).rmtree(missing_ok=True)
            except OSError:
                pass  # the next save removes it
        latest = self.latest_step()
        good = (
            "there is none before it" if latest is None else f"step {latest} is the newest good one"
        )
        return CheckpointError(
            f"the checkpoint of step {step} could not be written to {self.directory}: "
            f"{_reason(error)}; {good}"
        )


def _agree(value: int) -> int:
    """Process 0's value, on every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def _fits(directory: epath.Path, num_bytes: int) -> bool:
    try:
        return shutil.disk_usage(directory).free > num_bytes
    except OSError:  # not a local file system
        return True


def _is_no_orbax_traceback(record: logging.LogRecord) -> bool:
    """Orbax logs the traceback of a failed write from each of its threads; we raise one line."""
    return not (record.exc_info and "orbax" in record.pathname)


def _reason(error: BaseException) -> str:
    text = str(error)
    if "No space left" in text or "ENOSPC" in text:
        return "No space left on device"
    return (text.splitlines() or [type(error).__name__])[0][:300]
