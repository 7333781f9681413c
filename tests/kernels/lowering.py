"""Lowering for a device that is not here."""

from __future__ import annotations

import jax
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

DEVICES = {"cuda": ("NVIDIA H200", "gpu", None), "tpu": ("TPU v5e", "tpu", 1)}
TARGETS = ("__gpu$xla.gpu.triton", "tpu_custom_call")


def lower(platform: str, run, *operands) -> str:
    """The StableHLO text of `run(*operands)` for "cuda" or "tpu"; operands may be shapes."""
    kind, family, cores = DEVICES[platform]
    device = AbstractDevice(device_kind=kind, num_cores=cores, platform=family)
    checks = [export.DisabledSafetyCheck.custom_call(target) for target in TARGETS]
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        exported = export.export(jax.jit(run), platforms=[platform], disabled_checks=checks)
        return exported(*operands).mlir_module()


def calls_kernel(text: str) -> bool:
    """Whether a lowered program launches a Pallas kernel."""
    return any(target in text for target in TARGETS)
