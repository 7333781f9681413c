"""Which implementation serves an op.

Every op takes `implementation`:
  "auto"    the fastest form for the platform that the program is lowered for;
  "xla"     plain XLA gather and scatter, on every device: the portable form;
  "csr"     sparse products by JAX's CPU custom call and cache-sized edge chunks; CPU only;
  "pallas"  the kernel of `pallas_kernels.<op>`, where there is one.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import jax

IMPLEMENTATIONS = ("auto", "xla", "csr", "pallas")


def has_kernel(op: str) -> bool:
    """Whether `pallas_kernels` holds a kernel of this name."""
    return importlib.util.find_spec(f"pallas_kernels.{op}") is not None


def check_implementation(op: str, implementation: str) -> None:
    """Raises ValueError for an unknown implementation, or a kernel that does not exist."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {implementation!r}; choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    if implementation == "pallas" and not has_kernel(op):
        raise ValueError(
            f"implementation='pallas': there is no Pallas kernel for {op}; use 'auto' or 'xla'"
        )


def by_platform(
    op: str,
    implementation: str,
    *operands: Any,
    xla: Callable[..., Any],
    csr: Callable[..., Any] | None,
) -> Any:
    """Calls the chosen form; `csr=None` means that the operands do not allow that form.

    Under "auto" the platform is decided when the program is lowered, so one traced program can
    be exported for several platforms.
    """
    if implementation == "pallas":
        kernel = getattr(importlib.import_module(f"pallas_kernels.{op}"), op)
        return kernel(*operands)
    if implementation == "xla" or csr is None:
        return xla(*operands)
    if implementation == "csr":
        return csr(*operands)
    return jax.lax.platform_dependent(*operands, cpu=csr, default=xla)
