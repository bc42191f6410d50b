"""The docs are true of the code: every step, option, command, task and page that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gnomon.cli import app
from gnomon.registry import find, table

ROOT = Path(__file__).parent.parent
PAGES = ("migrating.md", "second-order.md", "export.md", "sandbox.md", "dictionaries.md", "results.md")
TEXT = {name: (ROOT / "docs" / name).read_text() for name in PAGES}
STEPS = tuple(table("step"))
ENDINGS = ("parquet", "npy", "json", "jsonl", "py")
"""What follows the dot in a file's name that begins as a step's: `neurons.parquet`, `pca.npy`."""


def code(text: str) -> list[str]:
    """What stands between backticks, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def options(text: str) -> set[tuple[str, str]]:
    """(step, option) of every `step.option` in backticks, also with a value: `second_order.layers: all`."""
    found = (re.match(r"([a-z_]+)\.([a-z_]+)(?![\w./{*])", part) for part in code(text))
    return {(m[1], m[2]) for m in found if m and m[1] in STEPS and m[2] not in ENDINGS}


NAMED = sorted({pair for text in TEXT.values() for pair in options(text)})


@pytest.mark.parametrize(("step", "option"), NAMED, ids=lambda v: v)
def test_every_option_that_is_named_exists(step: str, option: str):
    assert option in find("step", step).model_fields


def test_options_were_found_at_all():
    assert len(NAMED) > 30
    assert ("second_order", "layers") in NAMED
    assert options("`second_order.nothing: 3`, `pca/norm.npy`, `neurons.parquet`, `scores.x`") == {
        ("second_order", "nothing")
    }


def step_like(text: str) -> set[str]:
    """Names that the text calls steps: "step `x`", "steps `x` and `y`", and the artifacts `x/file`."""
    out: set[str] = set()
    for group in re.findall(r"\b[Ss]teps? ((?:`[\w]+`(?:, | and )?)+)", text):
        out |= set(re.findall(r"`(\w+)`", group))
    out |= {m[1] for part in code(text) if (m := re.match(r"([a-z_]+)/[\w{}@.]+(?:\.npy|\.parquet)?$", part))}
    return out - {
        "gnomon",
        "benchmarks",
        "phase1",
        "phase2",
        "phase3",
        "tests",
        "docs",
        "examples",
        "datasets",
        "checkpoints",
        "mcq",
        "self_conf",
        "other_conf",
        "src",
        "results",
        "data",
    }


@pytest.mark.parametrize("page", PAGES)
def test_every_step_that_is_named_exists(page: str):
    assert step_like(TEXT[page]) <= set(STEPS)


def test_step_names_are_found_in_words_and_paths():
    assert step_like("step `a`, steps `b` and `c_d`; `e/x.npy`, `gnomon/lens/`") == {"a", "b", "c_d", "e"}
    assert {"second_order", "pca", "edit", "metrics", "neurons"} <= step_like(TEXT["migrating.md"])


def test_the_study_file_is_valid():
    from gnomon.config import load
    from gnomon.strict import read_yaml

    blocks = re.findall(r"```yaml\n(.*?)```", TEXT["migrating.md"], re.DOTALL)
    last = [[entry.step for entry in load(read_yaml(block).value).study.steps][-1] for block in blocks]
    assert last == ["metrics", "temperatures", "compare", "integrate"]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_its_flags_exist(page: str):
    text = TEXT[page]
    called = re.findall(r"\bgnomon ([a-z-]+)((?: (?:--[\w-]+|[\w./-]+))*)", "\n".join([*code(text), *indented(text)]))
    known = {c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands}
    for command, rest in called:
        assert command in known, f"gnomon {command}"
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
        for flag in re.findall(r"--[\w-]+", rest):
            assert flag in shown, f"gnomon {command} {flag}"


def indented(text: str) -> list[str]:
    return re.findall(r"^    (gnomon .*)$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_of_the_house_are_there(page: str):
    for link in re.findall(r"\]\(([^)#:]+)\)", TEXT[page]):
        assert (ROOT / "docs" / link).exists(), link
    for part in code(TEXT[page]):
        if re.match(r"(?:gnomon|tests|benchmarks|examples)/", part):
            assert (ROOT / part).exists(), part


def test_tasks_that_are_named_exist():
    row = next(line for line in TEXT["migrating.md"].splitlines() if "math_dataset_loader" in line)
    named = re.findall(r"`(\w+)`", row.split("|")[2])
    assert len(named) == 9
    assert set(named) <= set(table("task"))


OLD = """
phase1/evaluate_model.py phase1/layer_ablation.py phase1/rank_neurons.py phase2/compute_representations.py
phase2/compute_correctness_projection.py phase2/compute_second_order_neuron_prs.py phase2/gpt_second_order_hook.py
phase2/compute_pcas.py phase2/compute_text_set_projection.py phase2/compute_sparse_decomposition.py
phase2/compute_ablations.py phase2/math_lexicon.txt phase3/run_phase3_gpt2.sh phase3_gpt2.log requirements.txt
--dataset --split --datasets_root --model_name --sample_size --output_dir --batch_size --max_length --label_source
--max_new_tokens --mlp_layer --correctness_direction --neuron_indices_path --max_neurons --model --device --evaluate
_eval.jsonl _representations.npy _correctness.npy _correctness_direction.npy _residual_stream.npy _tokens.npy
_attention_mask.npy _metadata.jsonl _stats.json _correctness_labels.npy _correctness_records.jsonl
_second_order_layer{L}.npy _second_order_meta.json _pca.npy _norm.npy
run.py multi_gpu_launcher.py clean_data.py test-gpu --phase --start --end --force --dry-run --input
data/phase0/ data/phase0_1/sae_mbpp.parquet hyperparams_mbpp.parquet validation_mbpp.parquet split_metadata.json
data/phase1_0/dataset_ activations/{correct,incorrect}/{task_id}_layer_{n}.npz
data/phase1_2/dataset_temp_0_3.parquet dataset_temp_1_2.parquet data/phase1_2/metadata.json data/phase2/ data/phase3/
SAELens TransformerLens resid_pre accelerate autosave
collect_activations.py inspect_collected_data.py --model_type --lora_checkpoint ckpt_step_1280 --num_questions
--data_dir --show_examples --compare_with run_config.json
mcq/metadata.json self_conf/metadata.json other_conf/metadata.json
activations_layer_00.npy question_id question_text options correct_answer_letter model_name checkpoint_id prompt_type
prompt_text temperature top_p max_new_tokens output_text parsed_answer is_correct logits probs entropy logit_margin
answer_token_index confidence_token_index self_confidence other_confidence char_length token_length question_type
has_negation has_ambiguity token_rarity_mean token_rarity_max
config.yaml src/orchestrator.py src/step0_data_audit.py src/step1_load_causal_features.py src/step2_pathway_prototype.py
src/step3_pathway_discovery.py src/step4_token_association.py src/step5_integrate_results.py launch.sh audit_data()
load_filtered_features() prototype_single_feature() get_representative_prompt() analyze_tokens()
torch.cuda.empty_cache() is_causal cohen_d feature_id condition trial response response_logs/ safe_baseline
safe_with_risky_patch
data_validation.json causal_features.json prompts_sample.json single_feature_test.json validated_pathways.json
token_associations.json upstream_candidates memory_usage_gb odds_ratio p_value baseline_count patched_count
LlamaScopeDirect chi2_contingency AutoTokenizer results/audit/ results/prototype/ results/pathways/ results/tokens/
results/integrated/
"""


@pytest.mark.parametrize("name", OLD.split())
def test_every_older_command_option_and_file_has_a_row(name: str):
    rows = [line.split("|")[1] for line in TEXT["migrating.md"].splitlines() if line.startswith("| ")]
    assert any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", row.replace("*_", "_")) for row in rows), name


@pytest.mark.parametrize("stage", ["compute_representations", "compute_classifier_projection",
                                   "compute_second_order_neuron_prs", "compute_pcas", "compute_text_set_projection",
                                   "compute_sparse_decomposition", "compute_ablations"])  # fmt: skip
def test_every_stage_of_the_original_has_a_row_with_files_and_reasons(stage: str):
    row = next(line for line in TEXT["second-order.md"].splitlines() if line.startswith(f"| {stage} |"))
    cells = [c.strip() for c in row.strip("|").split("|")]
    assert len(cells) == 4
    assert "->" in cells[1]
    assert any(f"`{step}`" in cells[2] for step in STEPS)
    assert len(cells[3].split()) > 15
