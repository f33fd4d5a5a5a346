"""Loads language models, refuses those that the scripts would train wrongly, and what else they do with any model."""

import copy
import importlib.util
import json
import os
import re
import tempfile
import types
import warnings
from pathlib import Path

from problems import InputError, Problem
from problems.prompts import context_length
from running import ranks
from running.folder import sync

import torch
from safetensors.torch import load_file, save_file
from transformers import AddedToken, AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

EMBEDDED_MODELS = ("tiny", "tiny/functions", "tiny/answered", "tiny/styled")  # see tiny/pretrain.py
__all__ = [
    "EMBEDDED_MODELS",
    "base_model",
    "cut_at_stops",
    "draw",
    "embedded_model",
    "end_ids",
    "features",
    "generation_batch_size",
]
__all__ += [
    "load_lm",
    "load_tensors",
    "micro_batches",
    "model_source",
    "not_loaded",
    "pad_left",
    "right_padded",
    "sample",
    "save_tensors",
]
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
    With --lora-rank a trained model is an adapter on the frozen one, whose weights all models of that name share.
    """
    training, source = hasattr(run.args, "lora_rank"), model_source(name)
    rank = run.args.lora_rank if training else 0
    saved = run.resumed / trained_as if run.resumed and trained_as else None
    sizes = vars(run).setdefault("sizes", {"models": 0, "saved": 0})  # bytes of all models, of those in checkpoints
    shared = vars(run).setdefault("shared", {})  # frozen models by name, with --lora-rank
    if source in shared:
        model, tokenizer = shared[source]
    else:
        found = (str(saved), "the checkpoint") if saved and not rank else (name, flag)
        model, tokenizer = load_whole(run, *found, merged=training)
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
        return json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("its adapter_config.json is damaged") from error


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
            return model.requires_grad_(False), tokenizer
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        switch_off_noise(config)
        loading = {"config": config, "dtype": run.dtype, "trust_remote_code": False}
        model = AutoModelForCausalLM.from_pretrained(source, **loading).to(run.device)
        tokenizer = keep_thoughts_apart(AutoTokenizer.from_pretrained(source, trust_remote_code=False))
        if model.device.type == "cpu":
            quicken(model)
        flaw = unsupported(model, tokenizer)
    except InputError:
        raise
    except Exception as error:  # a missing folder, no network, a file cut short: each library raises its own types
        raise not_loaded(flag, name, error) from error
    if flaw:
        raise InputError(f"{flag} {name} {flaw}")
    if not run.args.chat_template:
        tokenizer.chat_template = None
    return model.requires_grad_(False), tokenizer


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
            for part in sampled.values():
                if isinstance(part, torch.Tensor) and part.is_floating_point():  # what is known of each token
                    part[i, n:] = 0


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
    named = end_ids(model, tokenizer)
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
    if not hasattr(getattr(model.eval().base_model(tokens, use_cache=True), "past_key_values", None), "reorder_cache"):
        return "keeps no key-value cache from which sequences can be taken, which sampling needs"
    return None


# ---- sampling and batches ------------------------------------------------------------------------------------------


def end_ids(model, tokenizer) -> list[int]:
    """The tokens that end a response: those of the model's generation_config and the tokenizer's."""
    ends = model.generation_config.eos_token_id
    return sorted({*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None})


def pad_left(prompts: list[list[int]], device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of several lengths behind zeros, and the mask of what is no padding: 2 x (B, P)."""
    P = max(map(len, prompts))
    ids = torch.tensor([[0] * (P - len(prompt)) + prompt for prompt in prompts], device=device)
    return ids, torch.tensor([[0] * (P - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)


def sample(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> tuple[torch.Tensor, ...]:
    """Of each row of logits (b, W): a token, log pi of it, and the entropy of pi = softmax(logits / temperature): (b,).

    At temperature 0 the likeliest token, of softmax(logits). top_p < 1: of the likeliest tokens that make up so much of
    the probability; it leaves tokens out of the sampling, not out of pi.
    uniforms: (b,), see `draw`.
    """
    log_pi = (logits.float() / (temperature or 1.0)).log_softmax(-1)  # (b, W)
    pi = log_pi.exp()
    kept = pi
    if top_p < 1:
        ordered, order = pi.sort(-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0  # those before it make up top_p
        kept = torch.zeros_like(pi).scatter(-1, order, ordered)
    tokens = draw(kept, uniforms[:, None]) if temperature else pi.argmax(-1, keepdim=True)  # (b, 1)
    return tokens[:, 0], log_pi.gather(-1, tokens)[:, 0], torch.special.entr(pi).sum(-1)


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Of each row n places, with probabilities in proportion to its weights: (b, W), (b, n) -> (b, n).

    uniforms: float64 in [0, 1). A place is the first up to which the weights add up to so much of their sum.
    """
    cumulated = weights.cumsum(-1, dtype=torch.float64)  # (b, W)
    return torch.searchsorted(cumulated, (1 - uniforms) * cumulated[:, -1:])


def generation_batch_size(args, model, length: int) -> int:
    """--generation-batch-size; for 0 as many sequences of `length` tokens as half of the free memory holds.

    Counted are keys, values and what sampling makes of the logits, about six float32 tensors.
    """
    if args.generation_batch_size:
        return args.generation_batch_size
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * head_size * length * model.dtype.itemsize
    return max(1, int(free_memory(model.device) / 2 / (cache + 24 * config.vocab_size)))


def free_memory(device) -> int:
    """Bytes that can be had on a device; where the system does not say, 4 GB."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # of this machine, each with its share
    try:
        return 1024 * int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) // processes
    except (OSError, TypeError):
        return 4 * 10**9


def right_padded(padded: dict, rows: torch.Tensor) -> torch.Tensor:
    """The token ids of these rows, prompt and response joined, with all padding behind them: (b, L)."""
    ids = torch.cat([padded["prompt_ids"][rows], padded["response_ids"][rows]], 1)  # (b, P+T)
    mask = torch.cat([padded["prompt_mask"][rows].bool(), padded["response_mask"][rows]], 1)  # (b, P+T)
    lengths = mask.sum(1, keepdim=True)  # (b, 1)
    filled = torch.arange(int(lengths.max()), device=ids.device) < lengths  # (b, L)
    return torch.zeros_like(filled, dtype=torch.long).masked_scatter(filled, ids[mask])


def micro_batches(padded: dict, rows: torch.Tensor, args) -> tuple[torch.Tensor, ...]:
    """This process's share of the rows in micro-batches, sorted by length to limit padding, of --micro-batch-size at
    most; fewer where they would hold more than --tokens-per-micro-batch tokens, padding included."""
    lengths = padded["prompt_mask"][rows].sum(1) + padded["response_mask"][rows].sum(1)
    share = lengths.argsort(stable=True)[ranks.rank() :: ranks.world_size()]
    most, sizes = args.micro_batch_size, []
    for length in lengths[share].tolist():
        if args.tokens_per_micro_batch:
            most = min(args.micro_batch_size, max(1, args.tokens_per_micro_batch // length))
        if not sizes or sizes[-1] >= most:
            sizes.append(0)
        sizes[-1] += 1
    return rows[share].split(sizes) if sizes else ()
