"""Models and tokenizers of other make: what would be trained wrongly is handled, or refused in one sentence."""

import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
import transformers
from conftest import read_jsonl
from test_bad_input import refused  # noqa: F401
from safetensors.torch import load_file, save_file
from tokenizers import processors

import archer
import common
import mlmt_rl
import runs

REPO = Path(__file__).resolve().parents[1]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_tokenizer():
    return transformers.AutoTokenizer.from_pretrained(REPO / "tiny")


def saved(folder, model, tokenizer=None) -> str:
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def model_of(name: str, **changes) -> transformers.PreTrainedModel:
    """A random model of a family, whose embedding fits the tokenizer of tiny/."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = getattr(transformers, f"{name}Config")(**{"vocab_size": len(tokenizer)} | SIZES | ends | changes)
    return transformers.AutoModelForCausalLM.from_config(config)


def loaded(folder: str, dtype=torch.float32):
    run = types.SimpleNamespace(args=mlmt_rl.Args(), device="cpu", dtype=dtype, resumed=None)
    return runs.load_lm(run, folder, "--policy-lm", "solver")


# ---- refused -------------------------------------------------------------------------------------------------------


def spoil(folder: Path, name: str, change) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def without_end(folder: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        spoil(folder, name, lambda content: content.pop("eos_token_id", None))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            spoil(folder, name, lambda content: [content.pop(key, None) for key in ("eos_token", "pad_token")])


def pad_beyond(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    tokenizer.save_pretrained(folder)


def not_a_number(folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.get_input_embeddings().weight.data[2, 3] = float("nan")
    model.save_pretrained(folder)


def own_code(folder: Path) -> None:
    spoil(folder, "config.json", lambda content: content.update(auto_map={"AutoConfig": "own.Own"}, model_type="own"))
    (folder / "own.py").write_text("raise SystemExit('code of a model folder ran')\n")


SPOILED = {
    "no end token": (without_end, "has no end-of-sequence token"),
    "a pad token beyond the embedding": (pad_beyond, "has an end or pad token beyond the 392 rows of its embedding"),
    "not finite": (not_a_number, "gives logits that are not finite"),
    "an adapter of nothing": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        "cannot be loaded: its adapter_config.json is damaged",
    ),
    "its own code": (own_code, "cannot be loaded: "),
}


@pytest.mark.parametrize("flag", ["policy_lm", "feedback_lm"])
@pytest.mark.parametrize("name", SPOILED)
def test_what_cannot_be_trained_is_refused(small, refused, tmp_path, name, flag):  # noqa: F811
    """Red if such a folder ends in a traceback, in a question, or in a run."""
    shutil.copytree(REPO / "tiny", tmp_path / "model", ignore=shutil.ignore_patterns("functions", "*.py"))
    change, message = SPOILED[name]
    change(tmp_path / "model")
    error = refused(small(**{flag: str(tmp_path / "model")}))
    assert f"--{flag.replace('_', '-')} {tmp_path / 'model'} {message}" in error


def test_a_model_of_mixed_types_is_refused(small, refused, tmp_path):  # noqa: F811
    """Red if Mamba in bfloat16, whose states are float32, ends in a traceback."""
    folder = saved(tmp_path / "mamba", model_of("Mamba", state_size=8))
    assert f"--policy-lm {folder} cannot be loaded: " in refused(small(policy_lm=folder, dtype="bfloat16"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_heads_that_scale_or_miss_the_mask_are_refused(tmp_path, dtype):
    """Red if the scripts' own logits are not the model's: too small by a constant, or bent by padding."""
    for name, changes in (("Granite", {"logits_scaling": 8.0}), ("Rwkv", {})):
        folder = saved(tmp_path / name, model_of(name, **changes))
        with pytest.raises(common.InputError, match="scales or caps its logits, or does not mask padding"):
            loaded(folder, getattr(torch, dtype))


def test_a_model_without_a_cache_of_keys_and_values_is_refused(tmp_path):
    """Red if Mamba, whose state goes by another name, fails in the first rollout."""
    folder = saved(tmp_path / "mamba", model_of("Mamba", state_size=8))
    with pytest.raises(common.InputError, match="keeps no key-value cache"):
        loaded(folder)


# ---- handled -------------------------------------------------------------------------------------------------------


NOISY = {
    "Gemma3Text": {"attention_dropout": 0.5, "head_dim": 16, "num_key_value_heads": 1},
    "Phimoe": {"router_jitter_noise": 0.3, "input_jitter_noise": 0.3, "num_key_value_heads": 2, "num_local_experts": 4},
    "GPT2": {"resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.5, "n_embd": 32, "n_head": 2, "n_layer": 2},
}


@pytest.mark.parametrize("name", [*NOISY, "Gemma3"])
def test_the_policy_that_sampled_is_the_one_that_is_trained(tmp_path, name):
    """Red if dropout or router jitter, in a nested configuration too, changes the logits in train mode."""
    changes = NOISY.get(name, {})
    if name == "Gemma3":
        text = model_of("Gemma3Text", **NOISY["Gemma3Text"], max_position_embeddings=99).config.to_dict()
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
        vision |= {"image_size": 28, "patch_size": 14}
        changes = {"text_config": text, "vision_config": vision, "mm_tokens_per_image": 4}
    model, _ = loaded(saved(tmp_path / name, model_of(name, **changes)))
    tokens = torch.arange(2, 12)[None]
    with torch.no_grad():
        first, second = (model.train()(tokens).logits for _ in range(2))
        assert torch.equal(first, second) and torch.allclose(first, model.eval()(tokens).logits, atol=1e-5)
    if name == "Gemma3":
        assert common.context_length(model.config) == 99
        prompts, cut = common.fit_prompts([(list(range(80)), 40), (list(range(50)), 5)], model.config, 30)
        assert prompts == [(list(range(11, 80)), 29), (list(range(50)), 5)] and cut == [True, False]


def test_a_model_whose_states_are_narrower_than_its_layers(small, tmp_path, coin_rewards):
    """Red if the value head is made for hidden_size, which is not the size of OPT-350's final states."""
    folder = saved(tmp_path / "opt", model_of("OPT", word_embed_proj_dim=16, ffn_dim=48, do_layer_norm_before=False))
    mlmt_rl.main(small(policy_lm=folder, iterations=1))
    assert read_jsonl(tmp_path / "run" / "metrics.jsonl")[1]["losses/grad_norm_value"] > 0


def test_an_appended_end_token_does_not_end_the_prompt():
    """Red if a tokenizer that puts EOS behind every text puts it behind prompts; BOS before them stays."""
    plain, tokenizer = tiny_tokenizer(), tiny_tokenizer()
    end, pad = tokenizer.eos_token, tokenizer.pad_token
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{pad} $A {end}", special_tokens=[(end, tokenizer.eos_token_id), (pad, tokenizer.pad_token_id)]
    )
    assert tokenizer("x").input_ids[-1] == tokenizer.eos_token_id
    problem = common.Problem("What is 1 + 1?", "2")
    for messages, statement in (
        (common.attempt_messages(problem), ""),
        (common.feedback_messages(problem, "1 + 1 = 2"), problem.statement),
    ):
        ids, length = common.encode_prompt(tokenizer, messages, statement)
        expected, without = common.encode_prompt(plain, messages, statement)
        assert ids == [tokenizer.pad_token_id, *expected] and length == without + 1


TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}</s>{% endfor %}<|assistant|>"


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "template"])
@pytest.mark.parametrize("text", ["</s>", "a</s> b<pad>", "x </s></s>", "10 </s> 1000"])
def test_text_that_spells_a_special_token_stays_text(template, text):
    """Red if what an earlier turn wrote, or a problem says, ends a message or hides behind the pad token."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    special = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    problem = common.Problem(f"What is {text}?", "2")
    for messages, statement in (
        (common.refine_messages(problem, text, f"no{text}"), ""),
        (common.feedback_messages(problem, text), problem.statement),
    ):
        ids, length = common.encode_prompt(tokenizer, messages, statement)
        harmless = [m | {"content": m["content"].replace("</s>", "#").replace("<pad>", "#")} for m in messages]
        of_template = [i for i in common.encode_prompt(tokenizer, harmless)[0] if i in special]
        assert [i for i in ids if i in special] == of_template
        assert tokenizer.decode(ids) == common.render(tokenizer, messages)
        assert (
            tokenizer.decode(ids[:length])
            .rstrip()
            .endswith((problem.statement if statement else tokenizer.decode(ids)).rstrip())
        )


def test_the_answer_after_a_thought_counts_where_its_mark_is_special(tmp_path):
    """Red if decoding drops </think> and a box within the thought is taken for the answer."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "<other>"]})
    torch.manual_seed(0)
    model = model_of("Llama", vocab_size=len(tokenizer))
    _, tokenizer = loaded(saved(tmp_path / "thinker", model, tokenizer))
    ids = tokenizer("\\boxed{1}</think>none<other></s>", add_special_tokens=False).input_ids
    (text,) = tokenizer.batch_decode([ids], skip_special_tokens=True)
    assert text == "\\boxed{1}</think>none"
    assert common.verify(text, common.Problem("?", "1")) == 0.0


def test_a_template_that_refuses_a_role(small, refused, tmp_path):  # noqa: F811
    """Red if a template's own error ends in a traceback."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('Only system messages, please') }}"
    shutil.copytree(REPO / "tiny", tmp_path / "model", ignore=shutil.ignore_patterns("functions"))
    tokenizer.save_pretrained(tmp_path / "model")
    error = refused(small(policy_lm=str(tmp_path / "model")))
    assert "refuses these messages: Only system messages, please; --no-chat-template goes without it" in error


# ---- files that do not belong together -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rename", "config", "reason"),
    [
        (lambda key: f"module.{key}", {}, "lacks weights: lm_head.weight and "),
        (lambda key: None if key == "model.layers.0.mlp.down_proj.weight" else key, {}, "0.mlp.down_proj.weight; its"),
        (lambda key: key, {"num_hidden_layers": 5}, "lacks weights: model.layers.4.input_layernorm.weight and 8 more"),
        (lambda key: key, {"num_hidden_layers": 3}, "has weights that its config.json does not: model.layers.3.input"),
        (lambda key: key, {"model_type": "gpt2"}, "lacks weights: "),
    ],
    ids=["prefix", "one is missing", "more layers", "fewer layers", "another type"],
)
def test_weights_that_are_not_all_there_are_refused(tmp_path, rename, config, reason):
    """Red if the library fills the gap with random numbers, or leaves layers out, and training starts from that."""
    folder = tmp_path / "model"
    shutil.copytree(REPO / "tiny", folder, ignore=lambda path, names: [n for n in names if (Path(path) / n).is_dir()])
    weights = load_file(folder / "model.safetensors")
    renamed = {rename(key): value for key, value in weights.items() if rename(key)}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    before = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(before | config))
    with pytest.raises(common.InputError) as error:
        loaded(str(folder))
    assert reason in str(error.value) and str(error.value).endswith("its files do not belong together")
    if not config:  # of another type an encoder has other names
        with pytest.raises(common.InputError, match="--critic-lm .* lacks weights"):
            archer.load_encoder(str(folder), "cpu")


def test_a_part_beside_the_model_may_be_left_out(tmp_path):
    """Red if a value head beside a model's own weights keeps it from being read."""
    folder = Path(saved(tmp_path / "model", model_of("Llama")))
    weights = load_file(folder / "model.safetensors") | {"v_head.summary.weight": torch.zeros(1, 32)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert loaded(str(folder))[0].config.model_type == "llama"


def test_the_tokenizer_of_a_larger_model_is_refused(tmp_path):
    """Red if its ids are met in the first rollout, where the embedding has no row for them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(REPO / "tiny/conventions")
    folder = saved(tmp_path / "model", model_of("Llama"), tokenizer)
    with pytest.raises(common.InputError, match="has 392 rows in its embedding, but its tokenizer has 698 tokens"):
        loaded(folder)


def test_an_adapter_of_itself_is_refused(tmp_path):
    """Red if the model that it is made for is looked for without end."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    with pytest.raises(common.InputError, match="names the adapter itself"):
        loaded(str(folder))


# ---- texts that are none -------------------------------------------------------------------------------------------


def test_half_a_surrogate_pair(small, refused, tmp_path):  # noqa: F811
    """Red if a text that has no UTF-8 ends in a traceback of the tokenizer or of print."""
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(40)]
    rows[16]["question"] += "\ud83d"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert f"{path} row 17: half of a surrogate pair" in refused(small(dataset=str(path)))
    assert "--policy-lm 'tin\\udcff' is not UTF-8" in refused(small(policy_lm="tin\udcff"))
    assert sys.getfilesystemencoding() == "utf-8"
