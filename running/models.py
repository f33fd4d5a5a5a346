"""Loads language models, and refuses those that the scripts would train wrongly."""

import copy
import importlib.util
import json
import tempfile
import types
import warnings
from pathlib import Path

from problems import InputError, Problem
from running.folder import sync, way_out
from running.passes import end_ids, new_cache

import torch
from safetensors.torch import load_file, save_file
from transformers import AddedToken, AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

EMBEDDED_MODELS = ("tiny", "tiny/countdown", "tiny/functions", "tiny/conventions", "tiny/answered", "tiny/styled")
__all__ = ["EMBEDDED_MODELS", "base_model", "embedded_model", "load_lm", "load_tensors", "model_source", "not_loaded"]
__all__ += ["incomplete", "save_tensors"]
THINKING = ("<think>", "</think>")
ROOT = Path(__file__).parents[1]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # of logits that are computed in two ways, beside the largest


def embedded_model(problems: list[Problem]) -> str:
    """The folder of the embedded model for these problems."""
    for name in ("countdown", "conventions"):
        if any(problem.id.startswith(f"{name}/") for problem in problems):
            return f"tiny/{name}"
    return "tiny/functions" if any(problem.tests for problem in problems) else "tiny"


def model_source(name: str) -> str:
    """A folder or hub name as transformers takes it; "tiny" is found from any working directory."""
    return str(ROOT / name) if (ROOT / name).is_dir() and not (Path(name) / "config.json").is_file() else name


def not_loaded(flag: str, name: str, error: Exception) -> InputError:
    """What to raise where a model cannot be loaded: the first line of the library's error, whatever its type is."""
    lines = [line.strip() for line in (str(error).strip() or type(error).__name__).splitlines()]
    reason = " ".join([lines[0], *lines[1:2]]) if lines[0].endswith(":") else lines[0]
    folder = Path(model_source(name))
    inside = [*folder.glob("checkpoint-??????/solver"), *folder.glob("solver")]
    if inside:
        reason = f"it is no model, but holds some, such as {max(inside)}"
    elif folder.is_dir() and not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
        reason = "it holds no model"
    elif not folder.is_dir():
        reason = f"there is no such folder, and from the hub: {reason}"
    return InputError(f"{flag} {name} cannot be loaded: {reason}")


def load_lm(run, name: str, flag: str, trained_as: str | None = None):
    """A causal language model and its tokenizer, from a folder or the hub. Raises InputError.

    trained_as: the model's folder in a checkpoint, from which it is loaded where the run goes on; None: it is frozen.
    With --lora-rank a trained model is an adapter on the frozen one, whose weights all models of that name share.
    """
    training, source = hasattr(run.args, "lora_rank"), model_source(name)
    rank = run.args.lora_rank if training else 0
    saved = run.resumed / trained_as if run.resumed and trained_as else None
    if saved and not saved.is_dir():
        raise InputError(f"{saved} is missing: {way_out(run.resumed)}")
    sizes = vars(run).setdefault("sizes", {"models": 0, "saved": 0})  # bytes of all models, of those in checkpoints
    shared = vars(run).setdefault("shared", {})  # frozen models by name, with --lora-rank
    if source in shared:
        model, tokenizer = shared[source]
    else:
        found = (str(saved), "the checkpoint") if saved and not rank else (name, flag)
        try:
            model, tokenizer = load_whole(run, *found, merged=training)
        except InputError as error:
            if found[0] != str(saved):
                raise
            raise InputError(f"{error}; {way_out(run.resumed)}") from error
        sizes["models"] += size_of(model.parameters())
    if rank:
        shared[source] = model, tokenizer
        model = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    if trained_as is None:
        return model, tokenizer
    if rank:
        add_adapter(model, source, saved, rank, run.args.lora_alpha)
        sizes["models"] += size_of(weight for weight in model.parameters() if weight.requires_grad)
    else:
        model.requires_grad_(True)
    sizes["saved"] += size_of(weight for weight in model.parameters() if weight.requires_grad)
    if run.args.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model, tokenizer


def size_of(weights) -> int:
    return sum(weight.nbytes for weight in weights)


def add_adapter(model, source: str, saved: Path | None, rank: int, alpha: int) -> None:
    """Puts an adapter on all linear layers, a new one or a checkpoint's: it is all that is trained."""
    need_peft("--lora-rank")
    from peft import LoraConfig

    if saved:
        model.load_adapter(str(saved), is_trainable=True)
        return
    model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"))
    if Path(source).is_dir():  # a checkpoint is read from any directory
        model.peft_config["default"].base_model_name_or_path = str(Path(source).absolute())


def need_peft(what: str) -> None:
    if importlib.util.find_spec("peft") is None:
        raise InputError(f"{what} needs peft: pip install peft")


def base_model(source: str) -> str | None:
    """Of an adapter's folder the name of the model that it is made for, else None. Raises ValueError."""
    path = Path(source) / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
        itself = Path(base).resolve() == path.parent.resolve()
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("its adapter_config.json is damaged") from error
    if itself:
        raise ValueError("its adapter_config.json names the adapter itself as the model that it is made for")
    return base


def load_whole(run, name: str, flag: str, merged: bool = True):
    """A frozen model and its tokenizer. Raises InputError.

    An adapter comes with the model that it is made for, and is merged with it unless the figures of the very policy
    that was trained are asked for: in bfloat16 the sum of both is rounded.
    """
    source = model_source(name)
    try:
        base = base_model(source)
        if base is not None:
            need_peft(f"{flag} {name}, an adapter,")
            from peft import PeftModel

            model, tokenizer = load_whole(run, base, f"{flag} {name} is an adapter of another model:")
            if merged:
                with warnings.catch_warnings(category=FutureWarning, action="ignore"):  # of peft's own calls
                    model = PeftModel.from_pretrained(model, source).merge_and_unload()
            else:
                model.load_adapter(source)
            if (Path(source) / "tokenizer_config.json").is_file():  # that of its run, with a chat template or without
                tokenizer = load_tokenizer(run, source)
            return model.requires_grad_(False), tokenizer
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        switch_off_noise(config)
        loading = {"config": config, "dtype": run.dtype, "trust_remote_code": False, "output_loading_info": True}
        model, found = AutoModelForCausalLM.from_pretrained(source, **loading)
        model = model.to(run.device)
        tokenizer = load_tokenizer(run, source)
        if model.device.type == "cpu":
            quicken(model)
        flaw = incomplete(model, found) or unsupported(model, tokenizer)
    except InputError:
        raise
    except Exception as error:  # a missing folder, no network, a file cut short: each library raises its own types
        raise not_loaded(flag, name, error) from error
    if flaw:
        raise InputError(f"{flag} {name} {flaw}")
    return model.requires_grad_(False), tokenizer


def load_tokenizer(run, source: str):
    tokenizer = keep_thoughts_apart(AutoTokenizer.from_pretrained(source, trust_remote_code=False))
    tokenizer.chat_template = tokenizer.chat_template if run.args.chat_template else None
    return tokenizer


def quicken(model) -> None:
    """On a CPU few float32 rows x meet a large W up to three times faster as W x' than as x W', which packs W anew."""

    def forward(self, x):
        if x.numel() > 64 * x.shape[-1] or torch.is_grad_enabled():
            return torch.nn.functional.linear(x, self.weight, self.bias)
        y = (self.weight @ x.reshape(-1, x.shape[-1]).T).T.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    for module in model.modules():
        if type(module) is torch.nn.Linear and module.weight.numel() >= 2**20 and module.weight.dtype == torch.float32:
            module.forward = types.MethodType(forward, module)


def switch_off_noise(config) -> None:
    """Sets dropout and router jitter to zero, in nested configurations too: the trainer must see the very policy that
    sampled."""
    for key, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            switch_off_noise(value)
        elif isinstance(value, float) and ("drop" in key or "jitter" in key):
            setattr(config, key, 0.0)


def keep_thoughts_apart(tokenizer):
    """The tokenizer, whose decoded texts keep </think> where it is a special token: the answer follows it."""
    marks = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special and t.content in THINKING]
    if not marks:
        return tokenizer
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in marks])
    with tempfile.TemporaryDirectory() as folder:  # takes effect where a tokenizer is loaded
        tokenizer.save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a .safetensors file in one step. Raises InputError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        sync([temporary])
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Raises InputError where the file cannot be read."""
    try:
        return load_file(path)
    except Exception as error:  # the library's own types for a file cut short
        raise InputError(f"{path} is damaged, delete it to have it made again: {error}") from error


@torch.no_grad()
def incomplete(model, found: dict[str, set[str]]) -> str | None:
    """What its files have too little or too much, or None: the library draws missing weights at random and says so in
    a warning. found: its loading info. A part beside the model, such as a value head, may be left out."""
    extra = {key for key in found["unexpected_keys"] if key.startswith(f"{model.base_model_prefix}.")}
    extra = {key for key in extra if key.endswith(".weight")}  # older files hold buffers too
    missing = {key for key in found["missing_keys"] if "pooler" not in key}  # archer.py's critic asks it, and trains it
    for what, keys in (("lacks weights", missing), ("has weights that its config.json does not", extra)):
        if keys:
            more = f" and {len(keys) - 1} more" * (len(keys) > 1)
            return f"{what}: {min(keys)}{more}; its files do not belong together"
    return None


def unsupported(model, tokenizer) -> str | None:
    """What keeps the scripts from training a model, or None.

    They apply the output head to the backbone's states themselves, behind padding on the left; a probe does the same.
    """
    size = model.get_input_embeddings().weight.shape[0]
    named = end_ids(model, tokenizer)
    if not named:
        return "has no end-of-sequence token: neither its tokenizer nor its generation_config.json names one"
    if max({*named, tokenizer.pad_token_id or 0}) >= size:
        return f"has an end or pad token beyond the {size} rows of its embedding: resize_token_embeddings makes room"
    if tokenizer.vocab_size > size:
        return f"has {size} rows in its embedding, but its tokenizer has {tokenizer.vocab_size} tokens: it is another's"
    tokens = torch.arange(1, 6, device=model.device)[None] % size  # (1, 5)
    padded, mask = (torch.nn.functional.pad(part, (2, 0)) for part in (tokens, torch.ones_like(tokens)))  # (1, 7)
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)  # (1, 7)
    expected = model.eval()(tokens).logits.float()  # (1, 5, W)
    for training in (False, True):
        model.train(training)
        output = model.base_model(input_ids=padded, attention_mask=mask, position_ids=position_ids, use_cache=False)
        logits = model.get_output_embeddings()(output.last_hidden_state)[:, 2:].float()  # (1, 5, W)
        if not (logits.isfinite().all() and expected.isfinite().all()):
            return "gives logits that are not finite"
        if (logits - expected).abs().max() > TOLERANCE[model.dtype] * expected.abs().max():
            noise, scale = "draws random numbers in training", "scales or caps its logits, or does not mask padding"
            return f"{noise if training else scale}, which is not supported"
    cache = new_cache(model)
    for part in tokens.split((4, 1), 1):
        output = model.eval().base_model(input_ids=part, past_key_values=cache, use_cache=True)
    logits = model.get_output_embeddings()(output.last_hidden_state)[:, 0].float()  # (1, W)
    if (logits - expected[:, 4]).abs().max() > TOLERANCE[model.dtype] * expected.abs().max():
        return "keeps no key-value cache from which sequences can be taken, which sampling needs"
    return None
