"""The trainer's log-probabilities are the sampler's, whatever the padding, the chunks, the model family, the dtype."""

import copy
import types

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

import mlmt_rl
import runs

END_IDS = set(range(9))  # several tokens end a response, as in Llama 3 and Qwen 2.5
PROMPTS = [([15, 16, 17, 18], 2), ([19, 10], 1), ([11, 12, 13, 14, 15, 16, 17], 4), ([15, 19], 1), ([20], 1)]
FAMILIES = {
    "llama": (transformers.LlamaConfig, {}),
    "qwen2": (transformers.Qwen2Config, {"num_key_value_heads": 1}),
    "gpt2": (transformers.GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}),
}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


class Tokenizer:
    """What `generate` needs of a tokenizer; its pad token is its end-of-sequence token, as GPT-2's is."""

    eos_token_id = pad_token_id = 0

    @staticmethod
    def batch_decode(rows, skip_special_tokens):
        return [" ".join(map(str, row)) for row in rows]


def random_model(family: str, vocabulary: int = 80, dtype=torch.float32, **changes) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config_class, own = FAMILIES[family]
    sizes = {} if family == "gpt2" else SIZES
    ends = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    config = config_class(**sizes | own | ends | {"vocab_size": vocabulary, "initializer_range": 0.2} | changes)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    model.generation_config.eos_token_id = sorted(END_IDS)
    return model


def make_args(**flags) -> mlmt_rl.Args:
    return mlmt_rl.Args(**{"max_new_tokens": 12, "micro_batch_size": 5} | flags)


def sample(model, args: mlmt_rl.Args, prompts=PROMPTS) -> dict:
    torch.manual_seed(1)
    return mlmt_rl.generate(model, Tokenizer, prompts, args.max_new_tokens, args)


def training_logprobs(model, turn: dict, rows, args) -> torch.Tensor:
    rows = torch.as_tensor(rows)
    return mlmt_rl.token_logprobs(model, mlmt_rl.hidden_states(model, turn, rows), turn, rows, args)


def gradients(model) -> list[torch.Tensor]:
    collected = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    return collected


def close(first: list[torch.Tensor], second: list[torch.Tensor], tolerance: float = 1e-5) -> bool:
    return all(torch.allclose(a, b, atol=tolerance * max(1.0, a.abs().max().item())) for a, b in zip(first, second))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_sampler_is_trainer(family, temperature):
    """What the sampler notes of each token, from its cache, is what the training pass computes; zero after the end."""
    model, args = random_model(family), make_args(temperature=temperature)
    turn = sample(model, args)
    mask = turn["response_mask"]
    assert (training_logprobs(model, turn, range(5), args) - turn["logprobs"]).abs().max() < 1e-5
    assert turn["logprobs"][mask].max() < 0 and turn["logprobs"][mask].min() < -0.1
    assert not turn["logprobs"][~mask].any() and not turn["entropies"][~mask].any()
    for row, (prompt, _) in enumerate(PROMPTS):
        n = int(mask[row].sum())
        with torch.no_grad():
            logits = model(torch.tensor([prompt + turn["response_ids"][row, :n].tolist()])).logits[0]
        expected = torch.distributions.Categorical(logits=logits[len(prompt) - 1 : -1] / temperature).entropy()
        assert torch.allclose(turn["entropies"][row, :n], expected, atol=1e-4)
    lengths = mask.sum(1)
    assert lengths.min() < lengths.max()  # some end early, and leave the batch


CACHES = {
    "Llama": {},
    "GPT2": {"n_embd": 32, "n_head": 2, "n_layer": 2},
    "Gemma3Text": {"head_dim": 16, "num_key_value_heads": 1, "sliding_window": 6},
    "Qwen3_5Text": {
        **{"num_key_value_heads": 1, "head_dim": 16, "linear_num_value_heads": 2, "linear_num_key_heads": 2},
        **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_hidden_layers": 4},
    },
}


@pytest.mark.parametrize(("size", "graphs"), [(0, False), (2, False), (0, True), (2, True)])
@pytest.mark.parametrize("family", CACHES)
def test_decoding_is_a_forward_pass_a_token(family, size, graphs, monkeypatch):
    """Greedily, against whole unpadded sequences: prompts that come twice, early ends, sliding and linear attention."""
    monkeypatch.setattr("running.passes.RoomyLayer.ROOM", 3)  # tokens come where there is room, and where there is none
    monkeypatch.setattr("running.passes.has_graphs", lambda model: graphs)
    monkeypatch.setattr("running.passes.graphed", lambda step: step)  # what a CUDA graph would do, without its speed
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{"vocab_size": 80} | SIZES | CACHES[family])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    model.generation_config.eos_token_id = sorted(END_IDS)
    prompts = [*PROMPTS, PROMPTS[1], PROMPTS[2], PROMPTS[1]]
    turn = sample(model, make_args(temperature=0.0, generation_batch_size=size), prompts)
    for row, (prompt, _) in enumerate(prompts):
        ids = list(prompt)
        while len(ids) < len(prompt) + 12 and (len(ids) == len(prompt) or ids[-1] not in END_IDS):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert turn["response_ids"][row][turn["response_mask"][row]].tolist() == ids[len(prompt) :]
        assert turn["truncated"][row].item() == (ids[-1] not in END_IDS)
    lengths = turn["response_mask"].sum(1)
    assert lengths.min() < lengths.max() and turn["response_ids"].unique().numel() > 4


def test_a_token_is_written_where_there_is_room():
    """Nothing before it is copied until the room is full; the sequences that are left take theirs along."""
    model, cache, places = random_model("llama"), runs.new_cache(random_model("llama")), []
    for t in range(70):
        model.base_model(torch.tensor([[15], [16]]), past_key_values=cache, use_cache=True)
        places.append((cache.layers[0].keys.data_ptr(), cache.layers[1].values.data_ptr()))
        if t == 67:
            cache.reorder_cache(torch.tensor([1, 1]))
    assert len(set(places)) == 3 and len(set(places[:65])) == len(set(places[65:68])) == len(set(places[68:])) == 1
    assert cache.layers[0].keys.shape == (2, 2, 70, 16)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7)])
def test_tokens_are_drawn_from_the_policy(temperature, top_p):
    """Frequencies of 20,000 draws, within four standard errors; --top-p keeps the likeliest, and notes pi whole."""
    logits = torch.tensor([2.0, -1.0, 1.0, 0.0, -9.0])
    pi = (logits / temperature).softmax(0)
    kept = pi * (torch.tensor([1, 0, 1, 0, 0]) if top_p < 1 else 1)  # .63 alone is less than .7
    torch.manual_seed(0)
    uniforms = torch.rand(20_000, dtype=torch.float64)
    tokens, logprobs, entropies = runs.sample(logits.expand(20_000, -1), uniforms, temperature, top_p)
    frequencies, expected = tokens.bincount(minlength=5) / 20_000, kept / kept.sum()
    assert ((frequencies - expected).abs() <= 4 * (expected * (1 - expected) / 20_000).sqrt()).all()
    assert torch.allclose(logprobs, pi.log()[tokens]) and torch.allclose(entropies, -(pi * pi.log()).sum())


def test_no_number_draws_what_has_no_probability():
    """Red if 0, or the number next to 1, gives a token that is left out: here the first and the last."""
    logits = torch.tensor([[0.0, 5.0, 4.0, 5.0, 0.0]]).expand(2, -1)
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert sorted(runs.sample(logits, ends, 1.0, 0.5)[0].tolist()) == [1, 3]
    assert sorted(runs.sample(logits, ends, 1.0, 1.0)[0].tolist()) == [0, 4]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_batch_decides_what_is_drawn(family):
    """Red if a response depends on --generation-batch-size, or on which others have ended before it."""
    model, drawn = random_model(family), []
    for size in (0, 1, 2, 4):
        torch.manual_seed(3)
        drawn.append(sample(model, make_args(generation_batch_size=size))["response_ids"])
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])


def test_greedy_tokens():
    logits = torch.tensor([[2.0, 5.0, 1.0], [3.0, 0.0, 3.5]])
    tokens, logprobs, _ = runs.sample(logits, torch.rand(2).double(), 0.0, 1.0)
    assert tokens.tolist() == [1, 2] and logprobs[1].item() == pytest.approx(-0.4927, abs=1e-4)


@pytest.mark.parametrize(
    ("size", "tokens", "expected"),
    [(3, 0, [3, 2]), (5, 20, [4, 1]), (5, 12, [3, 1, 1]), (2, 100, [2, 2, 1]), (5, 1, [1] * 5)],
)
def test_micro_batches_by_size_and_tokens(size, tokens, expected):
    """Lengths 3, 4, 4, 5, 9 in some order, every row once, padding counted."""
    lengths = torch.tensor([9, 4, 3, 5, 4])
    turn = {"prompt_mask": torch.arange(9) < lengths[:, None] - 1, "response_mask": torch.ones(5, 1).bool()}
    turn["prompt_ids"] = turn["prompt_mask"].long()
    args = make_args(micro_batch_size=size, tokens_per_micro_batch=tokens)
    batches = runs.micro_batches(turn, torch.tensor([4, 0, 1, 3, 2]), args)
    assert [len(batch) for batch in batches] == expected
    assert torch.cat(batches).sort().values.tolist() == [0, 1, 2, 3, 4]
    assert lengths[torch.cat(batches)].tolist() == [3, 4, 4, 5, 9]


def test_micro_batches_by_prompt():
    """By hand: prompts of 6 tokens and responses of 1 and 2 are 14 + 16 tokens by length, 2 x (6 + 4) by prompt;
    prompts of 1 token and responses of 1 and 9 are 4 + 20 tokens by length, 2 x (1 + 18) by prompt."""
    for P, T, together in ((6, 2, [[0, 2], [1, 3]]), (1, 9, [[0, 1], [2, 3]])):
        turn = {"prompt_ids": torch.tensor([[3] * P, [4] * P] * 2), "prompt_mask": torch.ones(4, P).long()}
        turn["response_mask"] = torch.arange(T) < torch.tensor([[1], [1], [T], [T]])
        batches = runs.micro_batches(turn, torch.arange(4), make_args(micro_batch_size=2))
        assert [batch.tolist() for batch in batches] == together
        args = make_args(micro_batch_size=2, gradient_checkpointing=True)  # which leaves no cache to go on from
        assert [batch.tolist() for batch in runs.micro_batches(turn, torch.arange(4), args)] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_out_the_rows(processes, monkeypatch):
    """Each row is in one batch of one process, whichever order that takes; red if they disagree about it."""
    monkeypatch.setattr("running.ranks.world_size", lambda: processes)
    for seed in range(20):
        torch.manual_seed(seed)
        prompts, responses = torch.randint(1, 9, (2, 12, 1))
        turn = {
            "prompt_ids": torch.randint(3, 5, (12, 1)).expand(-1, 9),
            "prompt_mask": torch.arange(9) < prompts // 3 * 4,
        }
        turn["response_mask"] = torch.arange(9) < responses
        shares = []
        for rank in range(processes):
            monkeypatch.setattr("running.ranks.rank", lambda rank=rank: rank)
            shares += runs.micro_batches(turn, torch.arange(12), make_args(micro_batch_size=3))
        assert torch.cat(shares).sort().values.tolist() == list(range(12))


@pytest.mark.parametrize("family", CACHES)
def test_a_prompt_is_read_once(family):
    """States and gradients are those of whole sequences, each alone; where keys and values carry no gradient, too."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{"vocab_size": 80} | SIZES | CACHES[family])
    model = transformers.AutoModelForCausalLM.from_config(config).double()
    model.generation_config.eos_token_id = sorted(END_IDS)
    turn = sample(model, make_args(), [PROMPTS[row] for row in (1, 2, 1, 2, 1, 2, 1)])
    rows, read = torch.tensor([6, 0, 1, 2, 3, 4]), []
    hook = model.base_model.register_forward_pre_hook(
        lambda module, _, inputs: read.append(inputs["input_ids"].shape), with_kwargs=True
    )
    hidden = mlmt_rl.hidden_states(model, turn, rows)  # (b, L, C)
    hook.remove()
    lengths = (turn["prompt_mask"].sum(1) + turn["response_mask"].sum(1))[rows]
    T = int(turn["response_mask"][rows].sum(1).max())
    whole = [(len(rows), int(lengths.max()))]
    assert list(map(tuple, read)) == (whole if "Qwen3_5" in family else [(2, 7), (6, T)])
    directions = torch.randn_like(hidden) * (torch.arange(hidden.shape[1]) < lengths[:, None])[..., None]
    (hidden * directions).sum().backward()
    gradient = gradients(model.base_model)
    for row, states, direction in zip(rows, hidden, directions):
        ids = turn["prompt_ids"][row][turn["prompt_mask"][row] == 1].tolist()
        ids += turn["response_ids"][row][turn["response_mask"][row]].tolist()
        alone = model.base_model(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        assert torch.allclose(states[: len(ids)], alone, atol=1e-5)
        (alone * direction[: len(ids)]).sum().backward()
    assert close(gradient, gradients(model.base_model))


def test_as_many_responses_at_once_as_memory_allows(monkeypatch):
    """By hand: 2 layers of 2 heads of 16, keys and values in float32, 10 tokens: 5,120 bytes; 80 logits: 1,920."""
    model = random_model("llama")
    monkeypatch.setattr("running.passes.free_memory", lambda device: 71_000)
    assert runs.generation_batch_size(make_args(), model, 10) == 5
    assert runs.generation_batch_size(make_args(), model, 10**6) == 1
    assert runs.generation_batch_size(make_args(generation_batch_size=7), model, 10) == 7


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_do_not_depend_on_company(family, monkeypatch):
    """Alone or among longer neighbours, more or less padding, any chunk and micro-batch: the same numbers."""
    model, args = random_model(family), make_args()
    turn = sample(model, args)
    together = training_logprobs(model, turn, range(5), args)
    alone = torch.cat([training_logprobs(model, turn, [row], args) for row in range(5)])
    monkeypatch.setattr(mlmt_rl, "LOGITS_CHUNK", 3)
    chunked = training_logprobs(model, turn, range(5), args)
    assert torch.allclose(together, alone, atol=1e-5) and torch.allclose(together, chunked, atol=1e-5)
    padded = dict(turn)
    padded["prompt_ids"] = torch.nn.functional.pad(turn["prompt_ids"], (4, 0), value=33)
    padded["prompt_mask"] = torch.nn.functional.pad(turn["prompt_mask"], (4, 0))
    padded["response_ids"] = torch.where(turn["response_mask"], turn["response_ids"], 17)
    assert torch.allclose(together, training_logprobs(model, padded, range(5), args), atol=1e-5)
    by_micro_batch = [mlmt_rl.rollout_logprobs(model, turn, make_args(micro_batch_size=size)) for size in (1, 2, 5)]
    assert close(by_micro_batch, [together] * 3)


def test_logprobs_equal_a_plain_forward_pass():
    """Token by token against the logits of an unpadded sequence; sums run to the first end token, inclusive."""
    model, args = random_model("qwen2"), make_args(temperature=0.7)
    turn = sample(model, args)
    logprobs = training_logprobs(model, turn, range(5), args)
    for row, (prompt, _) in enumerate(PROMPTS):
        response = turn["response_ids"][row].tolist()
        ends = [t for t, token in enumerate(response) if token in END_IDS]
        response = response[: ends[0] + 1] if ends else response
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0].double() / 0.7
        expected = [logits[len(prompt) - 1 + t].log_softmax(-1)[token].item() for t, token in enumerate(response)]
        assert logprobs[row, : len(response)].tolist() == pytest.approx(expected, abs=1e-5)
        assert not logprobs[row, len(response) :].any()
        assert turn["truncated"][row].item() == (not ends)


def test_only_response_tokens_are_trained():
    """The loss reaches exactly the states that predict response tokens, the end token's among them."""
    model, args = random_model("llama"), make_args()
    turn, rows = sample(model, args), torch.arange(5)
    hidden = mlmt_rl.hidden_states(model, turn, rows).detach().requires_grad_()
    logprobs = mlmt_rl.token_logprobs(model, hidden, turn, rows, args)
    advantages = torch.ones(5)
    mlmt_rl.policy_loss(logprobs, logprobs.detach(), advantages, turn["response_mask"], 0.2).sum().backward()
    reached = hidden.grad.abs().sum(-1) > 0  # (5, L)
    starts, lengths = (turn[f"{part}_mask"].sum(1).tolist() for part in ("prompt", "response"))
    assert not turn["truncated"].all()
    for row, (start, length) in enumerate(zip(starts, lengths)):
        trained = turn["response_ids"][row][turn["response_mask"][row]].tolist()
        assert [token in END_IDS for token in trained] == [False] * (length - 1) + [not turn["truncated"][row]]
        assert reached[row].nonzero().flatten().tolist() == list(range(start - 1, start - 1 + length))


def test_first_ratio_is_one():
    """What the rollout pass recorded and what the first update computes are the same: the loss is -mean(A T)."""
    model, args = random_model("llama"), make_args(micro_batch_size=2)
    turn = sample(model, args)
    old_logprobs = mlmt_rl.rollout_logprobs(model, turn, args)
    assert torch.allclose(torch.exp(training_logprobs(model, turn, range(5), args) - old_logprobs), torch.ones(5, 12))
    advantages = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    for more in ({}, {"old_logprobs": old_logprobs}):  # one step a rollout, several
        loss, _ = mlmt_rl.accumulate_gradients(model, turn | more, torch.arange(5), advantages, 0.0, args)
        assert loss == pytest.approx(-(advantages * turn["response_mask"].sum(1)).mean().item(), rel=1e-5)


@pytest.mark.parametrize("estimator", ["k1_reward", "k2_loss", "k3_loss"])
def test_micro_batch_size_is_a_memory_knob(estimator):
    """Gradients of policy, KL and value loss together are equal for micro-batches of 1, 2 and all."""
    model, reference, head = random_model("llama"), random_model("qwen2"), torch.nn.Linear(32, 1)
    turn = sample(model, make_args())
    turn["ref_logprobs"] = mlmt_rl.rollout_logprobs(reference, turn, make_args())
    advantages, rewards = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0]), torch.tensor([0.0, 1, 1, 0, 1])
    results = []
    for size in (5, 1, 2):
        args = make_args(micro_batch_size=size, kl_estimator=estimator)
        batch = torch.tensor([3, 1, 4, 0, 2])
        mlmt_rl.accumulate_gradients(model, turn, batch, advantages, 0.1, args, head, rewards)
        results.append(gradients(model) + gradients(head))
    assert close(results[0], results[1]) and close(results[0], results[2])


class LargestTensor(TorchDispatchMode):
    """Records the most elements of any tensor that an operation makes, in the forward and the backward pass."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return output


@pytest.mark.parametrize(("family", "vocabulary"), [("qwen2", 151_936), ("llama", 128_256)])
def test_the_whole_logits_never_exist(family, vocabulary, monkeypatch):
    """At a real vocabulary no tensor of a step comes near (B, T, V), and little is kept for the backward pass."""
    model = random_model(family, vocabulary, hidden_size=16, tie_word_embeddings=True, num_hidden_layers=1)
    args = make_args()
    monkeypatch.setattr(mlmt_rl, "LOGITS_CHUNK", 8)
    B, T = 4, 24
    turn = sample(model, make_args(max_new_tokens=T), PROMPTS[:B])
    assert turn["response_mask"].all()  # an end token among 10^5 is not expected
    saved, recorder = [], LargestTensor()
    keep = torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    )
    with recorder, keep:
        mlmt_rl.accumulate_gradients(model, turn, torch.arange(B), torch.ones(B), 0.0, args)
    largest_weight = vocabulary * 16
    assert recorder.elements <= max(largest_weight, 8 * vocabulary) < B * T * vocabulary / 4
    activations = [tensor.numel() for tensor in saved if tensor.shape[-1] == vocabulary]
    assert sum(activations) <= 8 * vocabulary * 3  # one chunk at a time, being recomputed


def test_gradient_checkpointing_changes_nothing_but_memory():
    """Same gradients with recomputed layers, also for a model with dropout in its config; sampling keeps its cache."""
    model = random_model("llama")
    turn = sample(model, make_args())
    batch, advantages = torch.arange(5), torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    mlmt_rl.accumulate_gradients(model, turn, batch, advantages, 0.0, make_args())
    plain = gradients(model)
    model.activation_checkpointing_enable({"use_reentrant": False})
    calls = []
    hook = model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    mlmt_rl.accumulate_gradients(model, turn, batch, advantages, 0.0, make_args(gradient_checkpointing=True))
    hook.remove()
    assert len(calls) == 2  # once forward, once again in the backward pass
    assert close(plain, gradients(model))
    assert torch.equal(sample(model, make_args())["response_ids"], turn["response_ids"])


def test_dropout_is_off_and_odd_heads_are_refused(tmp_path):
    """load_lm zeroes dropout of any family; a model that caps its logits is refused instead of trained wrongly."""
    args = make_args(gradient_checkpointing=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained("tiny")
    model = random_model("gpt2", vocab_size=len(tokenizer), resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5)
    model.save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    run = types.SimpleNamespace(args=args, device="cpu", dtype=torch.float32, resumed=None)
    loaded, _ = runs.load_lm(run, str(tmp_path / "gpt2"), "--policy-lm", "solver")
    turn = sample(loaded, args)
    expected = mlmt_rl.rollout_logprobs(loaded, turn, args)
    loaded.train()
    assert torch.allclose(training_logprobs(loaded, turn, range(5), args), expected, atol=1e-5)
    sizes = SIZES | {
        "vocab_size": len(tokenizer),
        "head_dim": 16,
        "num_key_value_heads": 2,
        "final_logit_softcapping": 1.0,
    }
    capped = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**sizes, initializer_range=0.4))
    capped.save_pretrained(tmp_path / "gemma2")
    tokenizer.save_pretrained(tmp_path / "gemma2")
    with pytest.raises(mlmt_rl.common.InputError, match="caps its logits"):
        runs.load_lm(run, str(tmp_path / "gemma2"), "--policy-lm", "solver")


def test_bf16_weights_move_through_float32_masters():
    """A hundred updates of 1e-6: bf16 weights alone would stay where they are; with masters they move."""
    model = random_model("llama", dtype=torch.bfloat16)
    start = [weight.detach().clone() for weight in model.parameters()]
    optimizer = runs.Adam(model, lr=1e-6, betas=(0.9, 0.999))
    direct = copy.deepcopy(start)
    for _ in range(100):
        sum(weight.float().sum() for weight in model.parameters()).backward()
        optimizer.step(1e9)
        for weight in direct:
            weight.sub_(1e-6)
    assert all(weight.dtype == torch.bfloat16 and weight.grad is None for weight in model.parameters())
    for first, master, weight in zip(start, optimizer.masters, model.parameters()):
        assert torch.allclose(master, first.float() - 1e-4, atol=2e-6)
        assert torch.equal(weight, master.bfloat16())
    large = start[0].abs() > 0.05
    assert torch.equal(direct[0][large], start[0][large])
    moved = [(weight != first).float().mean().item() for weight, first in zip(model.parameters(), start)]
    assert max(moved) > 0.05


def test_bf16_gradients_are_gathered_in_float32():
    """Micro-batches of a bf16 model add up in float32: the master's gradient is the exact sum of the bf16 parts."""
    model = random_model("llama", dtype=torch.bfloat16)
    turn = sample(model, make_args())
    masters = runs.Adam(model, lr=1.0, betas=(0.9, 0.999)).masters
    mlmt_rl.accumulate_gradients(model, turn, torch.arange(5), torch.ones(5), 0.0, make_args(micro_batch_size=1))
    together = [master.grad.clone() for master in masters]
    total = [torch.zeros_like(master) for master in masters]
    for row in range(5):
        for master in masters:
            master.grad = None
        rows, ones = torch.tensor([row]), torch.ones(5) / 5
        mlmt_rl.accumulate_gradients(model, turn, rows, ones, 0.0, make_args(micro_batch_size=1))
        for sum_, master in zip(total, masters):
            sum_ += master.grad
    assert all(gradient.dtype == torch.float32 for gradient in together)
    assert close(together, total, 2e-2)  # the parts were divided by 5 before and after rounding to bf16
    assert all(weight.grad is None for weight in model.parameters())


def test_sampling_never_leaves_the_context():
    """A prompt that grew past the check at the start loses its beginning and is counted; the run goes on."""
    model = random_model("llama", max_position_embeddings=16)
    whole = sample(model, make_args(max_new_tokens=9))  # 7 + 9 tokens fit exactly
    assert whole["response_ids"].shape == (5, 9) and max(len(ids) for ids, _ in whole["prompts"]) == 7
    cut = sample(model, make_args(max_new_tokens=10))
    assert cut["prompts"] == [(ids[-6:], max(1, length - (len(ids) == 7))) for ids, length in whole["prompts"]]
    assert cut["truncated"][[len(ids) == 7 for ids, _ in whole["prompts"]]].all()
    assert len(cut["prompts"]) == 5 and cut["response_ids"].shape[1] == 10
