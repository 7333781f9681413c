"""The words in which a kernel's `specs.py` describes its inputs and their cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Spec:
    """One set of sizes that tests and benchmarks share.

    Attributes:
      name: short and unique within a kernel.
      sizes: dimension letter -> size.
      options: further static arguments of the kernel.
    """

    name: str
    sizes: Mapping[str, int]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a kernel cannot do without.

    Attributes:
      bytes: moved to and from memory, every operand and result once unless said otherwise.
      flops: multiplications and additions of matrix products, or of all arithmetic where there
        are none.
      exps: exponentials.
    """

    bytes: float
    flops: float
    exps: float = 0.0
