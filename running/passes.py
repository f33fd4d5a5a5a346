"""Sampling, and passes of a model through many sequences at once."""

import os
import re
from pathlib import Path

from problems.prompts import context_length
from running import ranks

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["Decoder", "cut_at_stops", "draw", "end_ids", "features", "final_states", "generation_batch_size"]
__all__ += ["micro_batches", "new_cache", "pad_left", "sample"]
BRANCHING = {DynamicLayer, DynamicSlidingWindowLayer}  # keys and values that several sequences can go on from


def end_ids(model, tokenizer) -> list[int]:
    """The tokens that end a response: those of the model's generation_config and the tokenizer's."""
    ends = model.generation_config.eos_token_id
    return sorted({*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None})


def pad_left(prompts: list[list[int]], device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of several lengths behind zeros, and the mask of what is no padding: 2 x (B, P)."""
    P = max(map(len, prompts))
    ids = torch.tensor([[0] * (P - len(prompt)) + prompt for prompt in prompts], device=device)
    return ids, torch.tensor([[0] * (P - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)


class RoomyLayer(DynamicLayer):
    """Keys and values with room behind them: a new token is written there, and nothing before it is copied."""

    ROOM = 64  # tokens
    place = None  # where the next token is written, as a tensor, while a CUDA graph reads the whole room: (1,)

    def grow(self, kept: int, end: int) -> None:
        rooms = [old.new_zeros(*old.shape[:-2], end + self.ROOM, old.shape[-1]) for old in self.rooms]
        for room, old in zip(rooms, self.rooms):
            room[..., :kept, :] = old[..., :kept, :]
        self.rooms = rooms
        self.keys, self.values = (room[..., :kept, :] for room in rooms)

    def update(self, keys: torch.Tensor, values: torch.Tensor, *inputs, **more) -> tuple[torch.Tensor, torch.Tensor]:
        if self.place is not None:
            return tuple(room.index_copy_(-2, self.place, new) for room, new in zip(self.rooms, (keys, values)))
        before, end = self.get_seq_length(), self.get_seq_length() + keys.shape[-2]
        if before == 0:
            self.rooms, self.is_initialized = [keys, values], True
        if before == 0 or self.rooms[0].shape[-2] < end:
            self.grow(before, end)
        for room, new in zip(self.rooms, (keys, values)):
            room[..., before:end, :] = new
        self.keys, self.values = (room[..., :end, :] for room in self.rooms)
        return self.keys, self.values

    def reorder_cache(self, places: torch.Tensor) -> None:
        before = self.get_seq_length()
        self.rooms = [room.index_select(0, places) for room in self.rooms]
        self.keys, self.values = (room[..., :before, :] for room in self.rooms)


def new_cache(model) -> DynamicCache:
    """Empty, for a model to keep keys and values in as it samples."""
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class Decoder:
    """A model and the cache of what it has read: prompts first, then one token of each sequence after another.

    On a GPU those tokens' pass is a CUDA graph: its hundreds of kernels, of microseconds each, are started at once. Its
    shapes are fixed. So it reads the whole room of the cache behind a mask, and sequences that have ended stay in it
    until the room is full and the next graph is made; not with caches of other kinds.
    """

    def __init__(self, model):
        self.model, self.cache, self.step, self.graphs = model, new_cache(model), None, has_graphs(model)

    def last_states(self, ids: torch.Tensor, mask: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """The final states of the last tokens: (b, t), (b, all tokens so far), (b, t) -> (b, C)."""
        layers, place = self.cache.layers, mask.shape[1] - 1
        if not self.graphs or ids.shape[1] > 1 or {*map(type, layers)} != {RoomyLayer}:
            inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": position_ids}
            output = self.model.base_model(**inputs, past_key_values=self.cache, use_cache=True)
            self.cache = output.past_key_values
            return output.last_hidden_state[:, -1]
        if self.step is None or place == self.inputs["attention_mask"].shape[-1]:
            self.make_step(mask, position_ids)
        self.inputs["input_ids"][self.rows], self.inputs["position_ids"][self.rows] = ids, position_ids
        self.inputs["attention_mask"][..., place] = True
        self.place.fill_(place)
        return self.step()[self.rows]

    def make_step(self, mask: torch.Tensor, position_ids: torch.Tensor) -> None:
        """A graph for the sequences that go on, and for as many tokens as there is room."""
        b, before = len(mask), mask.shape[1] - 1
        self.place = torch.full((1,), before, device=mask.device)
        for layer in self.cache.layers:
            if self.step is not None:
                layer.reorder_cache(self.rows)
            if layer.rooms[0].shape[-2] == before:
                layer.grow(before, before)
            layer.place = self.place
        self.rows = torch.arange(b, device=mask.device)  # of the graph's batch, those that go on
        seen = torch.zeros(b, layer.rooms[0].shape[-2], dtype=torch.bool, device=mask.device)
        seen[:, : before + 1] = mask.bool()
        self.inputs = {"input_ids": torch.zeros_like(position_ids), "position_ids": position_ids.clone()}  # 2 x (b, 1)
        self.inputs["attention_mask"] = seen[:, None, None]  # (b, 1, 1, room)

        def step() -> torch.Tensor:
            output = self.model.base_model(**self.inputs, past_key_values=self.cache, use_cache=True)
            return output.last_hidden_state[:, -1]  # (b, C)

        self.step = None  # its memory first
        self.step = graphed(step)

    def keep(self, places: torch.Tensor) -> None:
        """Goes on with the sequences at these places."""
        if self.step is None:
            self.cache.reorder_cache(places)
        else:
            self.rows = self.rows[places]


def has_graphs(model) -> bool:
    """Whether its pass can be a CUDA graph: attention takes the mask as it is, and no expert is chosen on the CPU."""
    config = model.config.get_text_config()
    on_gpu = model.device.type == "cuda" and torch.backends.cuda.is_built()
    return on_gpu and config._attn_implementation == "sdpa" and "experts" not in " ".join(config.to_dict())


def graphed(step):
    """The same as step, which takes no arguments and gives one tensor; its kernels are recorded here, and then only
    started again."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        states = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return states

    return replay


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


def final_states(model, padded: dict, rows: torch.Tensor) -> torch.Tensor:
    """The backbone's final states over these rows, each a prompt and its response, padded on the right: (b, L, C).

    A state has seen nothing behind its token, so padding there needs no mask, and attention takes its fastest form.
    Where that is fewer tokens, each distinct prompt is read once, and its responses see it through its keys and values;
    not with --gradient-checkpointing, which keeps neither.
    """
    prompt_ids, prompt_mask = padded["prompt_ids"][rows], padded["prompt_mask"][rows]  # (b, P)
    response_ids, response_mask = padded["response_ids"][rows], padded["response_mask"][rows]  # (b, T)
    mask = torch.cat([prompt_mask.bool(), response_mask], 1)  # (b, P+T)
    lengths = mask.sum(1, keepdim=True)  # (b, 1)
    filled = torch.arange(int(lengths.max()), device=mask.device) < lengths  # (b, L)
    whole, shared = tokens_read(padded, rows)
    cache = DynamicCache(config=model.config)
    if shared >= whole or model.is_activation_checkpointing or not {*map(type, cache.layers)} <= BRANCHING:
        ids = torch.zeros_like(filled, dtype=torch.long).masked_scatter(
            filled, torch.cat([prompt_ids, response_ids], 1)[mask]
        )
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    P, T = int(prompt_mask.sum(1).max()), int(response_mask.sum(1).max())
    unique, places = torch.cat([prompt_ids[:, -P:], prompt_mask[:, -P:]], 1).unique(dim=0, return_inverse=True)
    ids, seen = unique.chunk(2, 1)  # (u, P)
    positions = (seen.cumsum(1) - 1).clamp(min=0)  # (u, P)
    inputs = {"input_ids": ids, "attention_mask": seen, "position_ids": positions, "past_key_values": cache}
    before = model.base_model(**inputs, use_cache=True).last_hidden_state  # (u, P, C)
    cache.reorder_cache(places)
    seen = torch.cat([seen[places], response_mask[:, :T].long()], 1)  # (b, P+T)
    positions = positions[places, -1:] + 1 + torch.arange(T, device=mask.device)  # (b, T)
    inputs = {"input_ids": response_ids[:, :T], "attention_mask": seen, "position_ids": positions}
    states = model.base_model(**inputs, past_key_values=cache, use_cache=True).last_hidden_state  # (b, T, C)
    states = torch.cat([before[places], states], 1)[seen.bool()]  # (all tokens, C)
    return states.new_zeros(*filled.shape, states.shape[-1]).masked_scatter(filled[..., None], states)


def distinct_prompts(padded: dict, rows: torch.Tensor) -> torch.Tensor:
    """A number for each row's prompt, the same where they are the same: (b,)."""
    prompts = torch.cat([padded["prompt_ids"][rows], padded["prompt_mask"][rows]], 1)  # (b, 2 P)
    return prompts.unique(dim=0, return_inverse=True)[1]


def tokens_read(padded: dict, rows: torch.Tensor) -> tuple[int, int]:
    """Tokens of a pass over these rows, padding included: as whole sequences, or with each distinct prompt once."""
    prompts, responses = padded["prompt_mask"][rows].sum(1), padded["response_mask"][rows].sum(1)  # (b,)
    first = len(distinct_prompts(padded, rows).unique()) * int(prompts.max())
    return len(rows) * int((prompts + responses).max()), first + len(rows) * int(responses.max())


def micro_batches(padded: dict, rows: torch.Tensor, args) -> tuple[torch.Tensor, ...]:
    """This process's share of the rows in micro-batches of --micro-batch-size at most; fewer where they would hold more
    than --tokens-per-micro-batch tokens, padding included.

    Sorted by length to limit padding, or by prompt and length where so all processes read fewer tokens.
    """
    lengths = padded["prompt_mask"][rows].sum(1) + padded["response_mask"][rows].sum(1)  # (n,)

    def split(share: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes, longest = [], 0
        for length in lengths[share].tolist():
            longest = max(longest, length)
            room = max(1, args.tokens_per_micro_batch // longest) if args.tokens_per_micro_batch else len(rows)
            if not sizes or sizes[-1] >= min(args.micro_batch_size, room):
                sizes, longest = [*sizes, 0], length
            sizes[-1] += 1
        return rows[share].split(sizes) if sizes else ()

    def cost(order: torch.Tensor) -> int:
        kinds = 1 if args.gradient_checkpointing else 2  # of tokens_read
        return sum(min(tokens_read(padded, batch)[:kinds]) for batch in split(order))

    by_length = lengths.argsort(stable=True)
    by_prompt = by_length[distinct_prompts(padded, rows)[by_length].argsort(stable=True)]
    if cost(by_prompt) < cost(by_length):
        return split(by_prompt.tensor_split(ranks.world_size())[ranks.rank()])
    return split(by_length[ranks.rank() :: ranks.world_size()])


@torch.no_grad()
def features(model, tokenizer, prompts: list[str], responses: list[str], pooling: str, batch_size: int) -> torch.Tensor:
    """phi(x, y): final states of a frozen model, averaged over the response and its end, or at its end: (n, d) float32.

    prompts: the bare questions; "" leaves the response alone. Texts beyond the context lose their beginning.
    """
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
    plain = {"add_special_tokens": False, "split_special_tokens": True}  # what is spelled out is text
    rows = []  # (token ids, how many of them belong to the response)
    for prompt, response in zip(prompts, responses):
        before = tokenizer(f"{prompt}\n", **plain).input_ids if prompt else []
        ids = [*tokenizer(response, **plain).input_ids, end]
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
