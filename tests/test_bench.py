"""What of the benchmark is the same on every machine: work, memory kept for the backward pass, the gate, the tables.

`make bench` measures the rest. Its modules import each other by name, as scripts in one folder do.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCH = Path(__file__).parent / "bench"
MODULES = ("cases", "gates", "limits", "measure", "ours", "tables")
LENGTHS = ((70, (40, 25)), (33, (61, 50)), (90, (21, 64)))
"""Tokens of three prompts and their two completions each."""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(BENCH))
    return SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})


@pytest.fixture
def checkpoint(tmp_path: Path, chatml_tokenizer) -> Path:
    """A Llama with a trunk that outweighs its head, as real ones have, and grouped heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    chatml_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def trees(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """With ids inside the small vocabulary."""
    made = []
    for number, (prompt, completions) in enumerate(LENGTHS):
        tree = bench.ours.made_tree(number, prompt, completions)
        for ids in (tree.prompt, *(branch.ids for branch in tree.branches)):
            ids[:] = [token % 2000 for token in ids]
        made.append(tree)
    return made


def padded_dpo_step(model: Any, trees: list[Any]) -> Any:
    """DPO as it is done with a row for each completion: the prompt in each, padded, all logits, log-softmax, gather.

    The reference is taken as zero: it moves the loss, not what is kept or computed for the policy.
    """
    import torch

    whole = [[*tree.prompt, *tree.branches[side].ids] for side in (0, 1) for tree in trees]
    longest = max(map(len, whole))
    ids = torch.tensor([line + [0] * (longest - len(line)) for line in whole])
    mask = torch.tensor([[1] * len(line) + [0] * (longest - len(line)) for line in whole])
    prompts = torch.tensor([len(tree.prompt) for tree in trees] * 2)
    labels = mask.bool() & (torch.arange(longest) >= prompts[:, None])
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    logps = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    sums = (logps * labels[:, 1:]).sum(1)
    chosen, rejected = sums.chunk(2)
    loss = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()
    loss.backward()
    return loss.detach()


def arms(bench: SimpleNamespace, checkpoint: Path, trees: list[Any]) -> dict[str, tuple[Any, Callable[[], Any]]]:
    """Arm -> the model that its gradients land in, and its step."""
    import torch
    from transformers import AutoModelForCausalLM

    policy = bench.ours.policy(checkpoint, "fp32")
    rows = AutoModelForCausalLM.from_pretrained(checkpoint).train()
    reference = torch.zeros(len(trees), 2)
    return {
        "ours": (policy.model, lambda: bench.ours.dpo_step(policy, trees, reference)),
        "padded rows": (rows, lambda: padded_dpo_step(rows, trees)),
    }


def kept_bytes(step: Callable[[], Any], model: Any) -> int:
    """Bytes of the distinct storages that autograd keeps for the backward pass; the weights are there anyway."""
    import torch

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.slow
def test_the_least_work_is_counted_as_by_hand(bench: SimpleNamespace, checkpoint: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    trunk = 4 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 352)
    pairs = 3 * 4 // 2 + (2 * 3 + 2 * 3 // 2) + (1 * 3 + 1)  # a prompt of 3; completions of 2 and 1
    expected = 6 * trunk * 6 + 6 * 2048 * 128 * 3 + 12 * 4 * 4 * 32 * pairs
    assert bench.limits.minimal_flops(model, [bench.limits.TreeShape(3, (2, 1), 3)]) == expected


def test_counted_flops_are_those_of_the_products(bench: SimpleNamespace) -> None:
    """Against hand counts: a linear layer both ways, a product in place, and CPU attention, which torch leaves out."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    layer, states = torch.nn.Linear(8, 6, bias=False), torch.ones(5, 8, requires_grad=True)
    assert bench.limits.count_flops(lambda: layer(states).sum().backward()) == 3 * 2 * 5 * 8 * 6
    total = torch.zeros(3, 4)
    assert bench.limits.count_flops(lambda: total.addmm_(torch.ones(3, 2), torch.ones(2, 4))) == 2 * 3 * 2 * 4
    query, key, value = (torch.randn(1, 2, 64, 16, requires_grad=True) for _ in range(3))
    full = 7 * 2 * 2 * 64 * 64 * 16  # two products forward, five backward

    def attend(causal: bool) -> None:
        scaled_dot_product_attention(query, key, value, is_causal=causal).sum().backward()

    assert bench.limits.count_flops(lambda: attend(False)) == full
    assert bench.limits.count_flops(lambda: attend(True)) == full * 3 // 4  # two blocks of 32: half of all, then all


@pytest.mark.slow
def test_a_tree_step_does_little_more_than_the_least_work(
    bench: SimpleNamespace, checkpoint: Path, trees: list[Any]
) -> None:
    model, step = arms(bench, checkpoint, trees)["ours"]
    least = bench.limits.minimal_flops(model, [bench.ours.shape_of(tree) for tree in trees])
    executed = bench.limits.count_flops(step)
    assert 0.85 <= least / executed <= 1.0


@pytest.mark.slow
def test_a_tree_step_does_less_work_than_padded_rows(
    bench: SimpleNamespace, checkpoint: Path, trees: list[Any]
) -> None:
    found = {name: bench.limits.count_flops(step) for name, (_, step) in arms(bench, checkpoint, trees).items()}
    assert found["ours"] < 0.6 * found["padded rows"]


@pytest.mark.slow
def test_a_tree_step_keeps_fewer_bytes_for_its_backward_pass(
    bench: SimpleNamespace, checkpoint: Path, trees: list[Any]
) -> None:
    found = {name: kept_bytes(step, model) for name, (model, step) in arms(bench, checkpoint, trees).items()}
    assert found["ours"] < 0.5 * found["padded rows"]


@pytest.mark.slow
def test_the_gate_lets_equal_arms_through_and_says_how_far_apart_they_are(
    bench: SimpleNamespace, checkpoint: Path, trees: list[Any]
) -> None:
    found = gate_inputs(arms(bench, checkpoint, trees))
    apart = bench.gates.difference(*found["ours"], *found["padded rows"])
    bench.gates.require_same({"ours": apart}, bench.gates.FP32)
    assert 0 < apart.gradient < 1e-4
    assert apart.worst_tensor in found["ours"][1]


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", ["loss", "gradient", "missing", "nan"])
def test_the_gate_refuses_arms_that_compute_other_things(
    bench: SimpleNamespace, checkpoint: Path, trees: list[Any], sabotage: str
) -> None:
    found = gate_inputs(arms(bench, checkpoint, trees))
    loss, gradients = found["ours"]
    name = sorted(gradients)[3]
    if sabotage == "loss":
        loss += 2e-4 * max(1.0, loss)
    elif sabotage == "gradient":
        gradients[name] = gradients[name] * 1.002
    elif sabotage == "nan":
        gradients[name] = gradients[name] * float("nan")
    else:
        del gradients[name]
    with pytest.raises(bench.gates.GateError, match="losses differ by" if sabotage == "loss" else name):
        bench.gates.require_same(
            {"ours": bench.gates.difference(loss, gradients, *found["padded rows"])}, bench.gates.FP32
        )


def test_in_bfloat16_an_arm_may_be_as_far_as_half_again_the_nearest_peer_and_no_farther(bench: SimpleNamespace) -> None:
    gates = bench.gates
    near, far = gates.Difference(0.02, 0.3, "w"), gates.Difference(0.05, 0.5, "w")
    bounds = gates.widened(gates.BF16, {"trl": far, "trl best": near})
    assert bounds == pytest.approx((0.03, 0.45))
    gates.require_same({"ours": gates.Difference(0.029, 0.44, "w")}, bounds)
    with pytest.raises(gates.GateError, match="losses differ by"):
        gates.require_same({"ours": gates.Difference(0.031, 0.44, "w")}, bounds)
    tiny = gates.Difference(1e-6, 1e-6, "w")
    assert gates.widened(gates.BF16, {"trl": tiny}) == gates.BF16, "peers that agree better tighten nothing"


def gate_inputs(found: dict[str, tuple[Any, Callable[[], Any]]]) -> dict[str, tuple[float, dict[str, Any]]]:
    losses = {name: step().item() for name, (_, step) in found.items()}
    return {
        name: (losses[name], {key: p.grad.clone() for key, p in model.named_parameters()})
        for name, (model, _) in found.items()
    }


def test_losses_of_timed_steps_are_held_to_each_batchs_own_and_in_bfloat16_to_the_peers(bench: SimpleNamespace) -> None:
    expected = {0: 0.7, 1: 0.9}
    near, off = [(0, 0.7), (1, 0.9), (1, 0.9), (0, 0.7)], [(0, 0.7), (1, 0.93), (1, 0.9), (0, 0.7)]
    same = bench.gates.require_same_losses({"trl": near, "ours": near}, expected, 1e-4)
    assert same == {"trl": [0.0] * 4, "ours": [0.0] * 4}
    with pytest.raises(
        bench.gates.GateError, match=r"ours: in timed step 1 its loss is off by 0\.03, expected at most 0"
    ):
        bench.gates.require_same_losses({"trl": near, "ours": off}, expected, 0.01, peers="trl")
    peer = [(0, 0.725), (1, 0.9)]
    apart = bench.gates.require_same_losses({"trl": peer, "ours": off}, expected, 0.01, peers="trl")
    assert apart["ours"] == pytest.approx([0.0, 0.03, 0.0, 0.0])
    assert apart["trl"] == pytest.approx([0.025, 0.0])
    with pytest.raises(bench.gates.GateError, match=r"trl: in timed step 0 its loss is off by 0\.025"):
        bench.gates.require_same_losses({"trl": peer, "ours": off}, expected, 0.01)
    with pytest.raises(bench.gates.GateError, match="off by nan"):
        bench.gates.require_same_losses({"trl": near, "ours": [(0, float("nan"))]}, expected, 0.01, peers="trl")


@pytest.mark.slow
def test_arms_alternate_so_that_drift_hits_both_alike(bench: SimpleNamespace) -> None:
    taken: list[str] = []
    bench.measure.alternate({"a": lambda n: taken.append(f"a{n}"), "b": lambda n: taken.append(f"b{n}")}, 3)
    assert taken == ["a0", "b0", "b1", "a1", "a2", "b2"]


def test_a_ratio_is_the_median_of_the_steps_ratios(bench: SimpleNamespace) -> None:
    slower = [bench.measure.Taken(4.0, 8.0), bench.measure.Taken(30.0, 6.0), bench.measure.Taken(9.0, 2.0)]
    faster = [bench.measure.Taken(2.0, 2.0), bench.measure.Taken(10.0, 2.0), bench.measure.Taken(1.0, 2.0)]
    found = bench.measure.ratio(slower, faster)
    assert (found["low"], found["median"], found["high"], found["steps"]) == (2.5, 3.0, 6.0, 3)
    assert found["process_time"]["median"] == 3.0


def test_the_peak_of_memory_is_seen_and_forgotten(bench: SimpleNamespace) -> None:
    try:
        bench.measure.forget_peak()
    except OSError:
        pytest.skip("this system lets no process forget its peak")
    before = bench.measure.peak_bytes()
    held = bytearray(64 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    assert bench.measure.peak_bytes() - before > 60 * 2**20
    del held
    bench.measure.forget_peak()
    assert bench.measure.peak_bytes() - before < 30 * 2**20


RESULTS: dict[str, Any] = {
    "machine": {
        "processor": "an example", "matrix_units": [], "cores": 2, "system": "Linux", "python": "3.11",
        "versions": {"torch": "2.13"}, "date": "2026-01-01",
    },
    "command": "make bench",
    "cases": {
        "dpo good": {
            "group": "dpo",
            "settings": {"prompt": 475, "completion": 284},
            "ratios": {"trl / ours": {"median": 4.321, "low": 4.0, "high": 5.0}},
        },
        "dpo bad": {"group": "dpo", "settings": {"prompt": 96, "completion": 256}, "refused": "ours: losses differ"},
        "head logits": {"group": "head", "settings": {}, "arm": "logits", "above_bytes": 100 * 2**20},
        "head ours": {"group": "head", "settings": {}, "arm": "ours", "above_bytes": 2 * 2**20},
    },
}  # fmt: skip


def test_tables_hold_what_was_measured_and_the_reason_where_nothing_was(bench: SimpleNamespace) -> None:
    page = "before\n<!-- table dpo -->\nold\n<!-- end -->\nbetween\n<!-- table head -->\n<!-- end -->\nafter\n"
    written = bench.tables.filled(page, json.loads(json.dumps(RESULTS)))
    lines = written.splitlines()
    assert "old" not in written
    assert [lines[0], lines[-1]] == ["before", "after"]
    (good,) = [line for line in lines if line.startswith("| dpo good")]
    (bad,) = [line for line in lines if line.startswith("| dpo bad")]
    assert good.startswith("| dpo good | **4.32** (4.00 to 5.00, aimed at 5) | - |")
    assert bad.startswith("| dpo bad | refused: ours: losses differ | - |")
    assert "| head ours | 2 MiB | 1/50 |" in lines
    assert bench.tables.filled(written, RESULTS) == written


def test_every_table_of_the_page_is_known_and_every_known_table_is_on_the_page(bench: SimpleNamespace) -> None:
    page = (Path(__file__).parents[1] / "docs" / "results" / "benchmark.md").read_text(encoding="utf-8")
    named = [line.split()[2] for line in page.splitlines() if line.startswith("<!-- table")]
    assert len(named) == len(set(named)) > 10
    assert set(named) == bench.tables.TABLES.keys()
    assert page.count("<!-- end -->") == len(named)


def test_cases_have_names_of_their_own_and_functions_that_are_there(bench: SimpleNamespace) -> None:
    cases = bench.cases.all_cases()
    assert len({case.name for case in cases}) == len(cases) > 25
    for case in cases:
        module, function = case.function.split(".")
        assert f"def {function}(" in (BENCH / f"{module}.py").read_text(encoding="utf-8"), case.function


@pytest.mark.slow
def test_no_file_of_the_benchmark_hides_an_installed_module() -> None:
    """Its folder is first on sys.path when it runs."""
    files = sorted(BENCH.glob("*.py"))
    assert len(files) > 10
    names = {file.stem for file in files}
    assert not {name for name in names if name.startswith("test_")}
    elsewhere = [folder for folder in sys.path if Path(folder or ".").resolve() != BENCH]
    assert not {name for name in names if PathFinder.find_spec(name, elsewhere) is not None}
    assert not names & (set(packages_distributions()) | set(sys.stdlib_module_names))


def test_two_runs_are_compared_by_what_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    killed_rounds = importlib.import_module("killed_rounds")
    for run, seconds in (("one", 3), ("other", 5)):
        stage = tmp_path / run / "round-1" / "sft"
        (stage / "checkpoint-20").mkdir(parents=True)
        (stage / "checkpoint-20" / "model.safetensors").write_text(run)
        (stage / "model.safetensors").write_text("weights")
        (stage / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5, "seconds": seconds}) + "\n")
        (stage / "MANIFEST.json").write_text(json.dumps({"files": {"a": {"blake3": run}}, "config": {"seed": 0}}))
        (tmp_path / run / "ledger.sqlite").write_text(run)
    one, other = tmp_path / "one", tmp_path / "other"
    assert killed_rounds.differences(one, other) == ([], 3)
    (other / "round-1" / "sft" / "metrics.jsonl").write_text('{"step": 1, "loss": 0.6, "seconds": 3}\n')
    (other / "round-1" / "sft" / "model.safetensors").write_text("Weights")
    (other / "round-1" / "rows.jsonl").write_text("{}\n")
    names = [f"round-1/{name}" for name in ("rows.jsonl", "sft/metrics.jsonl", "sft/model.safetensors")]
    assert killed_rounds.differences(one, other) == (names, 3)
