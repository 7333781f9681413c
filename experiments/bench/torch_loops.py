"""Each scan as a plain loop over time in PyTorch, autograd behind it: the rival that people write.

Arguments are those of the kernel's reference, as tensors; every function returns (outputs, state).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def _steps(*sequences: Any) -> Any:
    # `unbind` makes one node of autograd for all steps; indexing would make one for each, and its
    # backward pass would add up arrays as large as the whole sequence.
    return zip(*(x.unbind(1) for x in sequences))


def linear_scan(options: Any, a: Any, x: Any, state: Any, reset: Any) -> Any:
    """h_t = a_t h_{t-1} + x_t."""
    import torch

    h, out = torch.zeros_like(x[:, 0]) if state is None else state, []
    for a_t, x_t in _steps(a, x):
        h = a_t * h + x_t
        out.append(h)
    return torch.stack(out, 1), h


def selective_scan(
    options: Any,
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    z: Any,
    bias: Any,
    state: Any,
    reset: Any,
) -> Any:
    """The loop of Mamba's reference code: factors for all steps first, then step by step."""
    import torch

    if bias is not None:
        delta = delta + bias
    if options.delta_softplus:
        delta = torch.nn.functional.softplus(delta)
    factor = torch.exp(delta[..., None] * A)
    added = (delta * u)[..., None] * B[:, :, None]
    h = torch.zeros_like(added[:, 0]) if state is None else state
    out = []
    for factor_t, added_t, c_t in _steps(factor, added, C):
        h = factor_t * h + added_t
        out.append((h * c_t[:, None]).sum(-1))
    y = torch.stack(out, 1)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * torch.nn.functional.silu(z)
    return y, h


def gated_linear_attention(
    options: Any, q: Any, k: Any, v: Any, log_decay: Any, state: Any, reset: Any
) -> Any:
    """S_t = diag(exp(log_decay_t)) S_{t-1} + k_t^T v_t, o_t = scale q_t S_t."""
    import torch

    batch, _, heads, keys = k.shape
    s = k.new_zeros(batch, heads, keys, v.shape[-1]) if state is None else state
    q, decay, out = q * options.scale_of(keys), torch.exp(log_decay), []
    for q_t, k_t, v_t, decay_t in _steps(q, k, v, decay):
        s = decay_t[..., None] * s + k_t[..., None] * v_t[:, :, None]
        out.append((q_t[..., None] * s).sum(-2))
    return torch.stack(out, 1), s


def ssd(options: Any, x: Any, log_decay: Any, b: Any, c: Any, state: Any, reset: Any) -> Any:
    """S_t = exp(log_decay_t) S_{t-1} + b_t^T x_t, y_t = c_t S_t, groups of heads sharing b, c."""
    import torch

    batch, _, heads, width = x.shape
    b = b.repeat_interleave(heads // b.shape[2], 2)
    c = c.repeat_interleave(heads // c.shape[2], 2)
    s = x.new_zeros(batch, heads, b.shape[-1], width) if state is None else state
    decay, out = torch.exp(log_decay), []
    for x_t, decay_t, b_t, c_t in _steps(x, decay, b, c):
        s = decay_t[..., None, None] * s + b_t[..., None] * x_t[:, :, None]
        out.append((c_t[..., None] * s).sum(-2))
    return torch.stack(out, 1), s


def wkv4(options: Any, k: Any, v: Any, w: Any, u: Any, state: Any, reset: Any) -> Any:
    """RWKV-4 in log space."""
    import torch

    p, q = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0])
    o, out = torch.full_like(p, -1e38), []
    if state is not None:
        p, q, o = state
    for k_t, v_t in _steps(k, v):
        top = torch.maximum(o, u + k_t)
        old, new = torch.exp(o - top), torch.exp(u + k_t - top)
        out.append((old * p + new * v_t) / (old * q + new))
        top = torch.maximum(w + o, k_t)
        old, new = torch.exp(w + o - top), torch.exp(k_t - top)
        p, q, o = old * p + new * v_t, old * q + new, top
    return torch.stack(out, 1), torch.stack((p, q, o))


def wkv6(
    options: Any, r: Any, k: Any, v: Any, log_decay: Any, u: Any, state: Any, reset: Any
) -> Any:
    """y_t = r_t (S_{t-1} + diag(u) k_t^T v_t), S_t = diag(exp(log_decay_t)) S_{t-1} + k_t^T v_t."""
    import torch

    batch, _, heads, keys = k.shape
    s = k.new_zeros(batch, heads, keys, v.shape[-1]) if state is None else state
    decay, out = torch.exp(log_decay), []
    for r_t, k_t, v_t, decay_t in _steps(r, k, v, decay):
        new = k_t[..., None] * v_t[:, :, None]
        out.append((r_t[..., None] * (s + u[..., None] * new)).sum(-2))
        s = decay_t[..., None] * s + new
    return torch.stack(out, 1), s


def wkv7(
    options: Any,
    r: Any,
    log_decay: Any,
    k: Any,
    v: Any,
    a: Any,
    b: Any,
    state: Any,
    reset: Any,
) -> Any:
    """S_t = diag(exp(log_decay_t)) S_{t-1} + b_t^T (a_t S_{t-1}) + k_t^T v_t, y_t = r_t S_t."""
    import torch

    batch, _, heads, keys = k.shape
    s = k.new_zeros(batch, heads, keys, v.shape[-1]) if state is None else state
    decay, out = torch.exp(log_decay), []
    for r_t, decay_t, k_t, v_t, a_t, b_t in _steps(r, decay, k, v, a, b):
        read = (a_t[..., None] * s).sum(-2, keepdim=True)
        s = decay_t[..., None] * s + b_t[..., None] * read
        s = s + k_t[..., None] * v_t[:, :, None]
        out.append((r_t[..., None] * s).sum(-2))
    return torch.stack(out, 1), s


def lif(options: Any, current: Any, decay: Any, threshold: Any, state: Any, reset: Any) -> Any:
    """v_t = decay w_{t-1} + I_t, s_t = H(v_t - threshold), w_t = v_t (1 - s_t); slope of atan."""
    import torch

    w, out = torch.zeros_like(current[:, 0]) if state is None else state, []
    for (current_t,) in _steps(current):
        v = decay * w + current_t
        z = v - threshold
        smooth = torch.atan(torch.pi / (2 * options.width) * z) / torch.pi
        spike = (z > 0).to(v.dtype) + (smooth - smooth.detach())
        w = v * (1 - spike)
        out.append(spike)
    return torch.stack(out, 1), w


LOOPS: dict[str, Callable[..., Any]] = {
    "linear_scan": linear_scan,
    "lif": lif,
    "selective_scan": selective_scan,
    "gated_linear_attention": gated_linear_attention,
    "ssd": ssd,
    "wkv4": wkv4,
    "wkv6": wkv6,
    "wkv7": wkv7,
}


def tensors(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """JAX operands as tensors, those that are floating with gradients."""
    import torch

    made = []
    for x in operands:
        tensor = None if x is None else torch.from_numpy(np.array(x))
        if tensor is not None and (tensor.is_floating_point() or tensor.is_complex()):
            tensor.requires_grad_(True)
        made.append(tensor)
    return tuple(made)


def backward(outputs: Any, cotangents: Any) -> None:
    """Runs autograd from every output."""
    import torch

    torch.autograd.backward(list(outputs), list(cotangents))
