"""Which implementation serves an op.

Every op takes `implementation`:
  "auto"       the fastest form for the platform that the program is lowered for;
  "xla"        plain XLA, on every device: the portable form;
  "csr"        sparse products by JAX's CPU custom call and cache-sized edge chunks; CPU only;
  "pallas"     the kernel of `pallas_kernels.<op>`; where the platform or the operands do not
               allow it, the XLA form, which one line of the log says;
  "interpret"  the GPU kernel run as plain JAX on any device: slow, for tests.

Under "auto" a GPU or TPU gets the kernel once a measurement says that it is faster than XLA there
(`pallas_kernels.tuned`), and XLA until then.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib.util
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax

from pallas_kernels import tuned

IMPLEMENTATIONS = ("auto", "xla", "csr", "pallas", "interpret")
_LOG = logging.getLogger("jgraph.ops")
_USED: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar("used", default=None)


@contextlib.contextmanager
def kernels_used() -> Iterator[set[str]]:
    """Collects the names of the kernels that can serve what is traced inside."""
    used: set[str] = set()
    token = _USED.set(used)
    try:
        yield used
    finally:
        _USED.reset(token)


def has_kernel(op: str) -> bool:
    """Whether `pallas_kernels` holds a kernel of this name."""
    return importlib.util.find_spec(f"pallas_kernels.{op}") is not None


def check_implementation(op: str, implementation: str, *, csr: bool = True) -> None:
    """Raises ValueError for an unknown implementation, or one that the op does not have.

    Args:
      csr: whether the op has that form.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {implementation!r}; choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    if implementation == "csr" and not csr:
        raise ValueError(f"implementation='csr': {op} is no sparse product; use 'auto' or 'xla'")
    if implementation in ("pallas", "interpret") and not has_kernel(op):
        raise ValueError(
            f"implementation={implementation!r}: there is no Pallas kernel for {op}; use 'auto' "
            "or 'xla'"
        )


@functools.cache
def _say_once(op: str, reason: str) -> None:
    _LOG.warning("%s: the XLA form serves instead of the Pallas kernel: %s", op, reason)


def _faster(op: str, platform: str) -> bool:
    """Whether the kernel was measured faster than XLA on the attached device of this platform."""
    if jax.default_backend() != platform:
        return False
    kind = jax.devices()[0].device_kind
    return bool(tuned.measured(kind).get(op, {}).get("faster_than_xla", False))


def by_platform(
    op: str,
    implementation: str,
    *operands: Any,
    xla: Callable[..., Any],
    csr: Callable[..., Any] | None = None,
    kernel: Callable[..., Any] | None = None,
    backends: tuple[str, ...] = ("gpu",),
    unsupported: str | None = None,
) -> Any:
    """Calls the chosen form with `operands`.

    The platform is decided when the program is lowered, so one traced program can be exported
    for several platforms.

    Args:
      xla: the portable form.
      csr: the CPU form, None where the operands do not allow it.
      kernel: (*operands, backend=) with backend "gpu", "tpu" or "interpret"; None where this
        computation has no kernel.
      backends: those that the kernel has, besides "interpret".
      unsupported: why the kernel cannot take these operands, None if it can.
    """
    used = _USED.get()
    if used is not None and kernel is not None and not unsupported:
        used.add(op)
    if implementation in ("pallas", "interpret") and kernel is None:
        unsupported = unsupported or "this part of the op has no kernel"
    if implementation == "csr":
        return (csr or xla)(*operands)
    if implementation == "xla":
        return xla(*operands)
    if implementation == "interpret" and not unsupported:
        return kernel(*operands, backend="interpret")  # type: ignore[misc]
    forms: dict[str, Callable[..., Any]] = {}
    if implementation == "auto":
        if csr is not None:
            forms["cpu"] = csr
        wanted = [backend for backend in backends if _faster(op, backend)]
    else:
        wanted = list(backends)
        if unsupported:
            _say_once(op, unsupported)
        elif jax.default_backend() not in backends:
            _say_once(op, f"it runs on {' and '.join(backends)}, not {jax.default_backend()}")
    if kernel is not None and not unsupported:
        for backend in wanted:
            platform = "cuda" if backend == "gpu" else backend
            forms[platform] = functools.partial(kernel, backend=backend)
    if not forms:
        return xla(*operands)
    return jax.lax.platform_dependent(*operands, **forms, default=xla)
