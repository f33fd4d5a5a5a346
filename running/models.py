"""Loads language models and refuses those that the scripts would train wrongly."""

import tempfile
from pathlib import Path

from problems import InputError, Problem
from problems.prompts import context_length
from running.folder import sync

import torch
from safetensors.torch import load_file, save_file
from transformers import AddedToken, AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

EMBEDDED_MODELS = ("tiny", "tiny/functions", "tiny/answered", "tiny/styled")  # see tiny/pretrain.py
__all__ = ["EMBEDDED_MODELS", "cut_at_stops", "embedded_model", "features", "load_lm", "load_tensors", "model_source"]
__all__ += ["not_loaded", "save_tensors"]
THINKING = ("<think>", "</think>")
ROOT = Path(__file__).parents[1]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # of logits that are computed in two ways, beside the largest


def embedded_model(problems: list[Problem]) -> str:
    """The folder of the embedded model for these problems."""
    return EMBEDDED_MODELS[any(problem.tests for problem in problems)]


def model_source(name: str) -> str:
    """A folder or hub name as transformers takes it; "tiny" is found from any working directory."""
    return str(ROOT / name) if (ROOT / name).is_dir() and not Path(name).is_dir() else name


def not_loaded(flag: str, name: str, error: Exception) -> InputError:
    """What to raise where a model cannot be loaded: the first line of the library's error, whatever its type is."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    reason = reason if Path(model_source(name)).is_dir() else f"there is no such folder, and from the hub: {reason}"
    return InputError(f"{flag} {name} cannot be loaded: {reason}")


def load_lm(run, name: str, flag: str, trained_as: str | None = None):
    """A causal language model and its tokenizer, from a folder or the hub. Raises InputError.

    trained_as: the model's folder in a checkpoint, from which it is loaded where the run goes on; None: it is frozen.
    """
    if run.resumed and trained_as:
        name, flag = str(run.resumed / trained_as), "the checkpoint"
    source = model_source(name)
    if (Path(source) / "adapter_config.json").is_file():
        raise InputError(
            f"{flag} {name} holds an adapter (LoRA), not a whole model: merge it into its base model first"
        )
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        switch_off_noise(config)
        loading = {"config": config, "dtype": run.dtype, "trust_remote_code": False}
        model = AutoModelForCausalLM.from_pretrained(source, **loading).to(run.device)
        tokenizer = keep_thoughts_apart(AutoTokenizer.from_pretrained(source, trust_remote_code=False))
        flaw = unsupported(model, tokenizer)
    except Exception as error:  # a missing folder, no network, a file cut short: each library raises its own types
        raise not_loaded(flag, name, error) from error
    if flaw:
        raise InputError(f"{flag} {name} {flaw}")
    if not run.args.chat_template:
        tokenizer.chat_template = None
    size = sum(weight.nbytes for weight in model.parameters())
    sizes = vars(run).setdefault("sizes", {"models": 0, "saved": 0})  # bytes of all models, of those in checkpoints
    sizes["models"], sizes["saved"] = sizes["models"] + size, sizes["saved"] + size * (trained_as is not None)
    if trained_as is None:
        model.requires_grad_(False)
    elif run.args.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model, tokenizer


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


@torch.no_grad()
def features(model, tokenizer, prompts: list[str], responses: list[str], pooling: str, batch_size: int) -> torch.Tensor:
    """phi(x, y): final states of a frozen model, averaged over the response and its end, or at its end: (n, d) float32.

    prompts: the bare questions; "" leaves the response alone. Texts beyond the context lose their beginning.
    """
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
    rows = []  # (token ids, how many of them belong to the response)
    for prompt, response in zip(prompts, responses):
        before = tokenizer(f"{prompt}\n", add_special_tokens=False).input_ids if prompt else []
        ids = [*tokenizer(response, add_special_tokens=False).input_ids, end]
        rows.append(([*before, *ids][-context_length(model.config) :], len(ids)))
    order = torch.tensor([len(ids) for ids, _ in rows]).argsort(stable=True)  # sorted by length to limit padding
    parts = []
    for chunk in order.split(batch_size):
        L = max(len(rows[i][0]) for i in chunk)
        ids = torch.tensor([rows[i][0] + [end] * (L - len(rows[i][0])) for i in chunk], device=model.device)  # (b, L)
        ends = torch.tensor([len(rows[i][0]) for i in chunk], device=model.device)[:, None]  # (b, 1)
        read = torch.tensor([rows[i][1] if pooling == "mean" else 1 for i in chunk], device=model.device)[:, None]
        place = torch.arange(L, device=model.device)  # (L,)
        output = model.base_model(input_ids=ids, attention_mask=(place < ends).long(), use_cache=False)
        weight = ((place < ends) & (place >= ends - read)).float()[..., None]  # (b, L, 1)
        parts.append((output.last_hidden_state.float() * weight).sum(1) / weight.sum(1))  # (b, d)
    return torch.cat(parts)[order.argsort()].cpu()


def cut_at_stops(sampled: dict, tokenizer, stop_strings: tuple[str, ...]) -> None:
    """Ends each sampled response before the first of stop_strings; the mask runs to the token that completes it."""
    for i, text in enumerate(sampled["texts"]):
        start = min((text.find(stop) for stop in stop_strings if stop in text), default=None)
        if start is not None:
            ids, n = sampled["response_ids"][i], 1
            while not any(stop in tokenizer.decode(ids[:n], skip_special_tokens=True) for stop in stop_strings):
                n += 1
            sampled["texts"][i], sampled["truncated"][i] = text[:start], False
            sampled["response_mask"][i, n:] = False


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
def unsupported(model, tokenizer) -> str | None:
    """What keeps the scripts from training a model, or None.

    They apply the output head to the backbone's states themselves, behind padding on the left; a probe does the same.
    """
    size = model.get_input_embeddings().weight.shape[0]
    ends = model.generation_config.eos_token_id
    named = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
    if not named:
        return "has no end-of-sequence token: neither its tokenizer nor its generation_config.json names one"
    if max({*named, tokenizer.pad_token_id or 0}) >= size:
        return f"has an end or pad token beyond the {size} rows of its embedding: resize_token_embeddings makes room"
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
    model.eval()
    return None
