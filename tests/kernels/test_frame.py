"""What stands around the kernels: the choice among forms, tuned block sizes, backends."""

import json
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lowering import calls_kernel, lower

from experiments.bench import tune
from jgraph import ops
from jgraph.ops import dispatch
from pallas_kernels import check, tuned
from pallas_kernels.call import next_power_of_2

SHAPES = (jax.ShapeDtypeStruct((2, 40, 64), jnp.float32),) * 2


def _scan(implementation):
    return lambda a, x: ops.linear_scan(a, x, implementation=implementation)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_auto_takes_a_kernel_once_it_was_measured_faster(monkeypatch, platform):
    assert not calls_kernel(lower(platform, _scan("auto"), *SHAPES))
    family = "gpu" if platform == "cuda" else platform
    monkeypatch.setattr(
        dispatch, "_faster", lambda op, where: (op, where) == ("linear_scan", family)
    )
    assert calls_kernel(lower(platform, _scan("auto"), *SHAPES))
    assert not calls_kernel(lower(platform, _scan("xla"), *SHAPES))


def test_a_kernel_that_was_not_measured_faster_stays_out(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    kind = jax.devices()[0].device_kind
    for found, want in (({}, False), ({"spmm": {"faster_than_xla": True}}, True)):
        monkeypatch.setattr(tuned, "measured", lambda kind, found=found: found)
        assert dispatch._faster("spmm", "gpu") is want
        assert dispatch._faster("spmm", "tpu") is False
    assert kind


def test_pallas_on_a_cpu_is_the_xla_form_and_one_line_says_so(caplog):
    dispatch._say_once.cache_clear()
    rng = np.random.default_rng(0)
    a, x = (jnp.asarray(rng.uniform(size=(2, 5, 3)), jnp.float32) for _ in range(2))
    with caplog.at_level(logging.WARNING, "jgraph.ops"):
        for _ in range(3):
            h, _ = ops.linear_scan(a, x, implementation="pallas")
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 1 and "linear_scan" in lines[0] and "not cpu" in lines[0]
    np.testing.assert_array_equal(h, ops.linear_scan(a, x, implementation="xla")[0])


def test_operands_that_a_kernel_cannot_take_go_to_xla(caplog):
    dispatch._say_once.cache_clear()
    x = jnp.ones((1, 4, 3, 300))
    decay = jnp.zeros_like(x)
    with caplog.at_level(logging.WARNING, "jgraph.ops"):
        ops.gated_linear_attention(x, x, x, decay, implementation="interpret")
    assert any("300" in r.getMessage() for r in caplog.records)


def test_csr_is_for_sparse_products_alone():
    with pytest.raises(ValueError, match="linear_scan is no sparse product"):
        ops.linear_scan(jnp.ones((1, 2, 3)), jnp.ones((1, 2, 3)), implementation="csr")
    with pytest.raises(ValueError, match="choose one of auto, xla"):
        ops.linear_scan(jnp.ones((1, 2, 3)), jnp.ones((1, 2, 3)), implementation="cuda")


def test_block_sizes_come_from_the_file_of_the_device(monkeypatch, tmp_path):
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    tuned.measured.cache_clear()
    try:
        path = tuned.file_of("NVIDIA H200")
        assert path.name == "nvidia-h200.json"
        path.write_text(json.dumps({"spmm": {"blocks": {"rows": 4}}, "lif": {"blocks": {"no": 1}}}))
        defaults = {"rows": 1, "features": 64}
        assert tuned.blocks("spmm", defaults, "NVIDIA H200") == {"rows": 4, "features": 64}
        assert tuned.blocks("spmm", defaults, "NVIDIA A100") == defaults
        with pytest.raises(ValueError, match=r"nvidia-h200.json gives lif .*\['no'\]"):
            tuned.blocks("lif", defaults, "NVIDIA H200")
    finally:
        tuned.measured.cache_clear()


def test_a_trial_overrides_the_sizes_of_its_own_kernel_alone():
    with tuned.trial("spmm", {"rows": 8}) as seen:
        assert tuned.blocks("spmm", {"rows": 1, "edges": 2}, "none") == {"rows": 8, "edges": 2}
        assert tuned.blocks("lif", {"rows": 1}, "none") == {"rows": 1}
    assert seen == {"rows": 8, "edges": 2}
    assert tuned.blocks("spmm", {"rows": 1}, "none") == {"rows": 1}


def test_search_finds_the_best_sizes_and_passes_over_those_that_fail():
    def measure(sizes):
        if sizes["warps"] > 4:
            return math.inf
        return 1 + abs(math.log2(sizes["rows"] / 16)) + abs(math.log2(sizes["warps"] / 8))

    best, seconds = tune.search(measure, {"rows": 2, "warps": 1}, rounds=3)
    assert best == {"rows": 16, "warps": 4} and seconds == 2
    with pytest.raises(RuntimeError, match="do not work"):
        tune.search(measure, {"rows": 2, "warps": 8}, rounds=1)
    with pytest.raises(ValueError, match="needs a GPU"):
        tune.main(tune.Config())


def test_an_unknown_backend_or_kernel_is_named():
    package, specs = check.load("linear_scan")
    options, operands = specs.make(specs.SPECS["test"][1], jnp.dtype("float32"))
    with pytest.raises(ValueError, match="backend is 'rocm'"):
        package.linear_scan(options, *operands, backend="rocm")
    with pytest.raises(ValueError, match="there is no kernel 'scan'"):
        check.load("scan")


def test_next_power_of_2():
    assert [next_power_of_2(n) for n in (0, 1, 2, 3, 64, 65)] == [1, 1, 2, 4, 64, 128]
