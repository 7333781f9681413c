"""Checkpoints of a run: one directory per saved epoch, written whole or not at all.

Orbax writes into a temporary directory and renames it when everything is on disk, so a process
killed at any moment leaves either the new checkpoint complete or only the earlier ones. A
checkpoint is a flat list of arrays plus a JSON record of their names, the epoch and the identity
of the run, all in that one directory.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

_KEEP = 2


class CheckpointError(RuntimeError):
    """A checkpoint is missing, belongs to another run, or could not be read or written."""


def _flatten(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def checkpoints(directory: str | os.PathLike) -> list[Path]:
    """The complete checkpoints of a directory, oldest first."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    return sorted((p for p in directory.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))


def save(directory: str | os.PathLike, epoch: int, tree: Any, record: dict[str, Any]) -> Path:
    """Writes `tree` as the checkpoint after `epoch` epochs and keeps the last two.

    Args:
      record: JSON data to store along (identity of the run, seconds so far).

    Raises:
      CheckpointError: the file system refuses (no permission, disk full); earlier checkpoints are
        left alone.
    """
    directory = Path(directory).absolute()
    target = directory / str(epoch)
    arrays = _flatten(tree)
    stored = {name: array for name, array in arrays.items() if array.size}
    meta = json.dumps({"epoch": epoch, "names": list(stored), **record}).encode()
    content = {f"array_{i}": array for i, array in enumerate(stored.values())}
    content["meta"] = np.frombuffer(meta, np.uint8)
    earlier = [path for path in checkpoints(directory) if path != target]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _checkpointer().save(target, content)
    except (OSError, ValueError) as error:
        # Orbax passes on what TensorStore reports (disk full) as ValueError.
        kept = (
            f"the earlier checkpoint at {earlier[-1]} is intact"
            if earlier
            else ("there is no earlier checkpoint")
        )
        raise CheckpointError(
            f"cannot write checkpoint {target}: {error}; {kept}. Check permission and free space"
        ) from error
    _delete(earlier[: 1 - _KEEP])
    for pattern in ("*.deleted", "*.orbax-checkpoint-tmp*"):
        for abandoned in directory.glob(pattern):  # by a process that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
    return target


def _delete(paths: list[Path]) -> None:
    for path in paths:
        # Renamed first, so that a half-deleted directory is never taken for a checkpoint.
        doomed = path.with_name(f"{path.name}.deleted")
        os.replace(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of one checkpoint by name, and its record.

    Raises:
      CheckpointError: it cannot be read.
    """
    import orbax.checkpoint as ocp

    path = Path(path).absolute()
    try:
        checkpointer = _checkpointer()
        as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        with_names = checkpointer.metadata(path).item_metadata
        args = dict.fromkeys(with_names.tree, as_numpy)
        content = checkpointer.restore(path, restore_args=args)
        meta = json.loads(bytes(np.asarray(content.pop("meta"))))
        names = meta.pop("names")
        return {n: np.asarray(content[f"array_{i}"]) for i, n in enumerate(names)}, meta
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        others = [str(p) for p in checkpoints(path.parent) if p != path]
        hint = f"delete it to go back to {others[-1]}" if others else "start the run anew"
        raise CheckpointError(f"cannot read checkpoint {path}: {error}; {hint}") from error


def latest(directory: str | os.PathLike) -> Path:
    """The newest complete checkpoint.

    Raises:
      CheckpointError: there is none.
    """
    found = checkpoints(directory)
    if not found:
        raise CheckpointError(
            f"no checkpoint in {directory}: nothing to resume; run without resume (or with "
            "resume='auto', which starts anew when there is none)"
        )
    return found[-1]


def differences(stored: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested records, as "name: stored -> wanted"."""
    out = []
    for name in sorted(stored.keys() | wanted.keys()):
        a, b = stored.get(name), wanted.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            out += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            out.append(f"{prefix}{name}: {a!r} -> {b!r}")
    return out


def restore(
    directory: str | os.PathLike, like: Any, identity: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The newest checkpoint in the shape of `like`, bit for bit.

    Args:
      like: a tree with the structure, shapes and dtypes to expect.
      identity: what the run is; it must equal what was stored.

    Returns:
      (tree of numpy arrays, record).

    Raises:
      CheckpointError: none found, unreadable, or of a run that differs; the message names what.
    """
    path = latest(directory)
    arrays, record = read(path)
    changed = differences(record.get("identity", {}), json.loads(json.dumps(identity)))
    if changed:
        raise CheckpointError(
            f"{path} belongs to another run ({'; '.join(changed[:5])}): give the same settings, "
            "or another output directory"
        )
    expected = _flatten(like)
    for name, array in expected.items():
        if array.size == 0:
            arrays.setdefault(name, array)
        stored = arrays.get(name)
        if stored is None or stored.shape != array.shape or stored.dtype != array.dtype:
            have = "nothing" if stored is None else f"{stored.dtype}{list(stored.shape)}"
            raise CheckpointError(
                f"{path} holds {have} for {name}, this model needs "
                f"{array.dtype}{list(array.shape)}: it was written by another model or version"
            )
    extra = arrays.keys() - expected.keys()
    if extra:
        raise CheckpointError(f"{path} holds {sorted(extra)[0]}, which this model does not have")
    structure = jax.tree.structure(like)
    return jax.tree.unflatten(structure, [arrays[name] for name in expected]), record


def nested(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """The arrays below `prefix/` as nested dicts."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        parts = name.split("/")
        if parts[0] != prefix:
            continue
        branch = tree
        for part in parts[1:-1]:
            branch = branch.setdefault(part, {})
        branch[parts[-1]] = array
    return tree
