"""Every kernel's op beside its rivals and the roofline of the machine, correctness first.

command    python -m experiments.bench.kernels
hardware   2 CPU cores (`bench-kernels-cpu`), or a GPU (`bench-kernels-gpu`)
time       about 10 minutes on a CPU
reach      on a CPU, each scan at least as fast as the best of `lax.scan`, `associative_scan` and a
           plain loop in PyTorch; on a GPU the bars of `GPU_BARS`
source     none: these are the library's own measurements

On a CPU the sizes are the "cpu" specs of `pallas_kernels/<op>/specs.py` and the op's own choice is
timed; on a GPU they are the "gpu" specs, and kernel and XLA form are both timed. The roofline is
what copying, matrix products and exponentials reach on this machine in the same run; a kernel's
floor is the largest of its bytes, flops and exponentials over these rates. The bytes' rate is that
of memory, so a case that stays in the caches can beat its floor. Forms of one case are
timed in turn, round by round, and the median counts. `--tune` writes for each kernel whether it
is faster than XLA on this device into `pallas_kernels/tuned/`, which "auto" follows.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments.bench.kernel_forms import OPS, loop_over_groups, rivals
from experiments.protocol import report
from jgraph.results import Value
from jgraph.train.run import write_json
from pallas_kernels import check, tuned

SCANS = (
    "linear_scan",
    "selective_scan",
    "ssd",
    "gated_linear_attention",
    "wkv4",
    "wkv6",
    "wkv7",
    "lif",
)
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
# Times the floor that a kernel may take on a GPU, forward and forward with backward.
GPU_BARS = {
    ("segment_reduce", "forward"): 1.3,
    ("spmm", "forward"): 1.3,
    ("graph_attention", "both"): 1.5,
    ("linear_scan", "forward"): 1.25,
    ("selective_scan", "forward"): 2.0,
    ("wkv4", "forward"): 2.0,
    ("wkv6", "forward"): 2.0,
    ("wkv7", "forward"): 2.0,
}
# How many times faster than a rival a kernel is to be on a GPU.
RIVAL_BARS = {
    ("segment_reduce", "forward"): ("segment_sum", 2.0),
    ("spmm", "forward"): ("segment_sum", 2.0),
    ("graph_attention", "both"): ("jgraph xla", 2.0),
    ("selective_scan", "forward"): ("associative_scan", 10.0),
    ("gated_linear_attention", "forward"): ("flash-linear-attention", 1 / 1.3),
    ("ssd", "forward"): ("flash-linear-attention", 1 / 1.3),
}
LABELS = {"forward": "forward", "both": "forward + backward"}


@dataclass(frozen=True)
class Config:
    """Options of the benchmark.

    Attributes:
      ops: kernels to time, all by default.
      dtypes: of the operands.
      repeats: rounds of each case.
      torch: also time the plain loops in PyTorch (extra `bench`), on a CPU.
      tune: write what was measured where "auto" looks.
    """

    ops: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float32",)
    repeats: int = 7
    torch: bool = True
    tune: bool = False


def rates(repeats: int = 5) -> dict[str, float]:
    """Bytes, flops and exponentials per second that this machine reaches.

    Bytes by copying an array far larger than the caches, flops by a square matrix product (float32
    and bfloat16), exponentials by a loop on an array that stays in cache.
    """
    cpu = jax.default_backend() == "cpu"
    big = jnp.ones(2**26 if cpu else 2**29, jnp.float32)
    side = 2048 if cpu else 8192
    small, turns = jnp.linspace(-1, 0, 2**14 if cpu else 2**24), 200

    def powers(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, turns, lambda i, y: jnp.exp(y - 1), x)

    def product(dtype: str) -> float:
        a = jnp.ones((side, side), dtype)
        return 2 * side**3 / _best(jax.jit(jnp.matmul), (a, a), repeats)

    return {
        "bytes": 2 * big.nbytes / _best(jax.jit(lambda x: x + 1), (big,), repeats),
        "float32": product("float32"),
        "bfloat16": product("bfloat16"),
        "exps": turns * small.size / _best(jax.jit(powers), (small,), repeats),
    }


def _best(run: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> float:
    jax.block_until_ready(run(*arguments))
    return min(_seconds(run, arguments) for _ in range(repeats))


def _seconds(run: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run(*arguments))
    return time.perf_counter() - began


def _with_backward(run: Callable[..., Any]) -> Callable[..., Any]:
    def both(operands: tuple[Any, ...], cotangents: Any) -> Any:
        outputs, pull, _ = check.pullback(run, operands)
        return outputs, pull(cotangents)

    return both


def specification(op: str, options: Any, operands: tuple[Any, ...]) -> Callable[..., Any]:
    """What every form must give: the reference, or for large groups an equal that needs less."""
    if op == "grouped_matmul":
        return functools.partial(loop_over_groups(operands[2]), options)
    return functools.partial(check.load(op)[0].reference, options)


def jax_forms(op: str, options: Any, operands: tuple[Any, ...]) -> dict[str, Callable[..., Any]]:
    """Name -> form of (operands): the op, its reference and its rivals."""
    ours = ("auto",) if jax.default_backend() == "cpu" else ("pallas", "xla")
    forms = {f"jgraph {i}": functools.partial(OPS[op], i, options) for i in ours}
    if op in SCANS:
        forms["lax.scan"] = specification(op, options, operands)
    if op == "graph_attention":
        forms["gather and scatter"] = specification(op, options, operands)
    for name, rival in rivals(op, options, operands).items():
        forms[name] = functools.partial(rival, options)
    return forms


def torch_calls(op: str, options: Any, operands: tuple, cotangents: Any) -> dict[str, Callable]:
    """ "forward" and "both" of the plain loop in PyTorch, each without arguments."""
    import torch

    from experiments.bench.torch_loops import LOOPS, backward, tensors

    given = tensors(operands)
    seeds = tensors(jax.tree.leaves(cotangents))
    seeds = tuple(seed.detach() for seed in seeds)

    def forward() -> Any:
        with torch.no_grad():
            return LOOPS[op](options, *given)

    def both() -> Any:
        for x in given:
            if x is not None:
                x.grad = None
        backward(LOOPS[op](options, *given), seeds)

    return {"forward": forward, "both": both}


def gate(op: str, name: str, got: Any, want: Any, tolerance: float) -> None:
    """Raises RuntimeError if a form's results are not those of the reference."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        error = check.difference(a, b)
        if not error <= tolerance:
            raise RuntimeError(f"{op}: {name} differs from the reference by {error:.1e}")


def measure(op: str, spec: Any, dtype: str, config: Config) -> dict[str, dict[str, float]]:
    """Median seconds of each form: name -> {"forward", "both"}.

    Raises:
      RuntimeError: a form does not give the reference's results.
    """
    options, operands = check.load(op)[1].make(spec, jnp.dtype(dtype))
    if op == "segment_reduce" and operands[2] is None:
        data, offsets, _ = operands  # rivals need the ids, so they count as given
        ids = np.repeat(np.arange(offsets.size - 1, dtype=np.int32), np.diff(offsets))
        operands = (data, offsets, jnp.asarray(ids))
    calls: dict[str, dict[str, Callable[[], Any]]] = {}
    reference = specification(op, options, operands)
    wide = tuple(check.widened(x) for x in operands)
    want = jax.jit(reference)(*wide)
    cotangents = check.cotangents_for(want)
    want_both = jax.jit(_with_backward(reference))(wide, cotangents)
    seeds = jax.tree.map(
        lambda c, y: c.astype(y.dtype), cotangents, _outputs(op, options, operands)
    )
    for name, form in jax_forms(op, options, operands).items():
        forward, both = jax.jit(form), jax.jit(_with_backward(form))
        gate(op, name, forward(*operands), want, TOLERANCE[dtype])
        gate(op, f"{name} with gradients", both(operands, seeds), want_both, TOLERANCE[dtype])
        calls[name] = {
            "forward": functools.partial(forward, *operands),
            "both": functools.partial(both, operands, seeds),
        }
    if config.torch and op in SCANS and jax.default_backend() == "cpu" and dtype == "float32":
        calls["torch loop"] = torch_calls(op, options, operands, cotangents)
        got = calls["torch loop"]["forward"]()
        gate(op, "torch loop", [np.asarray(x) for x in got], list(want), TOLERANCE[dtype])
    seconds: dict[str, dict[str, list[float]]] = {n: {"forward": [], "both": []} for n in calls}
    for turn in range(config.repeats + 1):
        for name, pair in calls.items():
            for what, call in pair.items():
                elapsed = _seconds(lambda c=call: c(), ())
                if turn:
                    seconds[name][what].append(elapsed)
    return {n: {w: float(np.median(s)) for w, s in pair.items()} for n, pair in seconds.items()}


def _outputs(op: str, options: Any, operands: tuple[Any, ...]) -> Any:
    ours = next(iter(jax_forms(op, options, operands).values()))
    return jax.eval_shape(lambda *arrays: ours(*arrays), *operands)


def floor_seconds(cost: Any, dtype: str, rate: dict[str, float]) -> float:
    """The largest of bytes, flops and exponentials over what the machine reaches."""
    return max(cost.bytes / rate["bytes"], cost.flops / rate[dtype], cost.exps / rate["exps"], 1e-9)


def values_of(op: str, spec: Any, dtype: str, times: dict, floors: dict) -> list[Value]:
    """What a case shows: speed beside the best rival, and beside the floor."""
    cpu = jax.default_backend() == "cpu"
    ours = next(iter(times))
    found = []
    for what, label in LABELS.items():
        mine = times[ours][what]
        rivals = {name: pair[what] for name, pair in times.items() if name != ours}
        case = f"{op} {spec.name} {dtype} {label}"
        size = f"{1e3 * mine:.2f} ms, {mine / floors[what]:.1f} times the floor"
        if rivals:
            best = min(rivals, key=lambda name: rivals[name])
            bar = 1.0 if cpu and op in SCANS else None
            note = f"{size}; {best} {1e3 * rivals[best]:.2f} ms"
            found.append(
                Value(
                    f"{case}, times faster than the best rival",
                    rivals[best] / mine,
                    None,
                    1,
                    bar,
                    note=note,
                )
            )
        if not cpu:
            bar = GPU_BARS.get((op, what))
            floor = mine / floors[what]
            found.append(Value(f"{case}, times the floor", floor, None, 1, bar, False, note=size))
            rival, bar = RIVAL_BARS.get((op, what), ("", None))
            if rival in rivals:
                name = f"{case}, times faster than {rival}"
                found.append(Value(name, rivals[rival] / mine, None, 1, bar, note=size))
    return found


def plot(rows: list[tuple[str, float]], path: Path) -> None:
    """Bars of the share of the roofline that each case reaches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    names, shares = zip(*rows)
    figure, axes = plt.subplots(figsize=(8, 0.28 * len(rows) + 1.2), layout="constrained")
    axes.barh(range(len(rows)), [100 * share for share in shares], color="#4477aa")
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.margins(y=0.01)
    axes.axvline(100, color="black", linewidth=0.8)
    axes.set_xlabel("share of the roofline in % (100: bytes, flops or exponentials at full rate)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _show(console: Console, details: list[dict[str, Any]]) -> None:
    table = Table("case", "form", "forward ms", "forward + backward ms", box=None)
    for row in details:
        for name, pair in row["seconds"].items():
            cells = (f"{1e3 * pair[what]:.2f}" for what in ("forward", "both"))
            table.add_row(f"{row['op']} {row['spec']} {row['dtype']}", name, *cells)
    console.print(table)


def write_tuned(details: list[dict[str, Any]]) -> Path:
    """Records for each kernel whether it beat XLA in every case; block sizes stay as they are."""
    kind = jax.devices()[0].device_kind
    content = {op: dict(entry) for op, entry in tuned.measured(kind).items()}
    for op in dict.fromkeys(row["op"] for row in details):
        pairs = [row["seconds"] for row in details if row["op"] == op]
        faster = all(
            pair["jgraph pallas"][what] < pair["jgraph xla"][what]
            for pair in pairs
            for what in ("forward", "both")
        )
        content[op] = content.get(op, {}) | {"faster_than_xla": faster}
    path = tuned.file_of(kind)
    path.parent.mkdir(exist_ok=True)
    write_json(path, content)
    return path


def main(config: Config) -> None:
    """Runs the benchmark and records it."""
    console, began = Console(), time.time()
    suite = "cpu" if jax.default_backend() == "cpu" else "gpu"
    if config.tune and suite == "cpu":
        raise ValueError("--tune needs a GPU: on a CPU the ops do not use kernels")
    rate = rates()
    console.print({name: f"{value:.3g}/s" for name, value in rate.items()})
    values, details, shares = [], [], []
    for op in config.ops or check.kernels():
        specs = check.load(op)[1]
        for spec in specs.SPECS[suite]:
            for dtype in config.dtypes:
                times = measure(op, spec, dtype, config)
                whole = [specs.cost(spec, jnp.dtype(dtype), backward=b) for b in (False, True)]
                alone = [floor_seconds(cost, dtype, rate) for cost in whole]
                floors = {"forward": alone[0], "both": sum(alone)}
                values += values_of(op, spec, dtype, times, floors)
                row = {"op": op, "spec": spec.name, "dtype": dtype, "seconds": times}
                details.append(row | {"floor seconds": floors})
                mine = next(iter(times.values()))
                shares.append((f"{op} {spec.name} {dtype}", floors["both"] / mine["both"]))
                _show(console, details[-1:])
                jax.clear_caches()
    name = f"bench-kernels-{suite}"
    plot(shares, Path("experiments/results") / f"{name}.png")
    if config.tune:
        console.print(f"written to {write_tuned(details)}")
    arguments = [f"--repeats {config.repeats}", f"--dtypes {' '.join(config.dtypes)}"]
    if config.ops:
        arguments.append(f"--ops {' '.join(config.ops)}")
    report(
        "bench",
        values,
        began,
        f"python -m experiments.bench.kernels {' '.join(arguments)}",
        dataclasses.asdict(config) | {"rates": rate, "cases": details},
        name=name,
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
