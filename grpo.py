"""GRPO: several responses to each problem; each is credited with how far its reward is above its group's mean.

    x -> o_1 .. o_G ~ pi(.|x)     r_i = verify(o_i)     R_i = r_i + c_f (f_i - 1) - c_o l_i     f_i form, l_i length
    A_i = (R_i - mean R) / std R  over its group; --advantage-norm none: A_i = R_i - mean R

minimises over N groups, for all n = N G responses with their tokens t and ratio_t = pi(o_t) / pi_rollout(o_t),
    sum_i w_i sum_t [ -min(ratio_t A_i, clip(ratio_t, 1 - e_low, 1 + e_high) A_i) + beta KL_t ]
    --loss-reduction sequence  w_i = 1 / (n |o_i|)       GRPO: of two right responses the shorter one is pushed more
                     token     w_i = 1 / sum_j |o_j|     DAPO: every token counts the same
                     constant  w_i = 1 / (n T_max)       Dr.GRPO: with --advantage-norm none the policy gradient itself
    --loss-fn importance_sampling: -ratio_t A_i          cispo: -sg[clip(ratio_t)] A_i log pi(o_t)

Papers: GRPO (https://arxiv.org/abs/2402.03300, eq. 3), DAPO (2503.14476), Dr.GRPO (2503.20783), CISPO (2506.13585).
Run: python grpo.py. As in GRPO's paper a rollout gives one optimiser step, so that the ratio is 1. Departures from it:
1. std is the sample's, plus 1e-4 (as in TRL), so that a nearly constant group does not divide by zero.
2. R holds the format and the length, which the paper's verifier does not look at (--format-coef 0 leaves them out).
3. --expert-iteration (supervised steps on right responses) and --template-search are neighbours of GRPO, not a part.
k3_loss, the paper's KL, follows KL(pi_ref || pi); the other estimators follow KL(pi || pi_ref).

B responses of a rollout, b of a micro-batch, P prompt and T response tokens, M all response tokens of a micro-batch, m
of a chunk, C hidden size, W vocabulary.
"""

import json
import os
import random
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

# Waiting threads soon go to sleep: where cores are shared, spinning ones made small models six times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
import torch
import transformers
import tyro
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import common


@dataclass
class Args:
    # ---- experiment
    exp_name: str = "grpo"
    """name of the experiment, a part of the run folder's name"""
    seed: int = 1
    """seeds the sampling of responses and the order of the problems"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPU where there is one, otherwise the CPU"""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """type of the weights; auto: bfloat16 on a GPU, float32 on a CPU. The optimiser always holds float32 masters"""
    run_dir: str | None = None
    """run folder; by default runs/{dataset}__{exp_name}__{seed}__{time}"""
    if_run_exists: Literal["raise", "resume", "delete"] = "raise"
    """what to do if the run folder exists: stop, go on from its last checkpoint, or start afresh in its place"""
    track: bool = False
    """also send the metrics to Weights & Biases (needs wandb)"""

    # ---- model and data
    policy_lm: str | None = None
    """solver: a folder or hub name of a causal language model; by default the embedded tiny (code: tiny/functions)"""
    chat_template: Literal["auto", "on", "off"] = "auto"
    """render prompts with the tokenizer's chat template; auto: where it has one, otherwise plain text"""
    gradient_checkpointing: bool = False
    """recompute each layer's activations in the backward pass: less memory, about a third more time"""
    dataset: str = "arithmetic"
    """arithmetic, functions, math, math500, gsm8k, mbpp, mbpp-sanitized, or a .csv .json .jsonl .parquet file"""
    split: str = "train"
    """split to train on; a file has train and test (about one question in ten, chosen by its text) and all"""
    eval_dataset: str | None = None
    """data set of the evaluation; by default the same as dataset. Its questions are never trained on"""
    eval_split: str = "test"
    """split to evaluate on"""
    min_level: int | None = None
    """train on problems of this level or higher only"""
    tests_in_prompt: int = 1
    """tests of a code problem that the models see; the others cannot be hard-coded"""
    prompt_template: str = "none"
    """what stands before each problem: none, baseline, step_by_step, concise, or a .json file: a list of messages"""
    template_search: str | None = None
    """choose the prompt template before training: the most accurate .json file of this folder, on held-back problems"""
    template_search_size: int = 50
    """problems of the search's first round; each further round has half the templates and twice the problems"""

    # ---- rollout
    groups_per_batch: int = 8
    """problems of one iteration (N)"""
    group_size: int = 8
    """responses to each problem (G)"""
    max_new_tokens: int = 40
    """longest response of the solver, in tokens"""
    temperature: float = 1.0
    """sampling temperature; the log-probabilities under training use the same"""
    top_p: float = 1.0
    """nucleus sampling; below 1 the sampler is no longer exactly the policy that is trained"""
    generation_batch_size: int = 32
    """most responses sampled side by side (memory and speed; another size draws other samples)"""
    strict_answers: bool = False
    """a mathematical answer counts only in \\boxed{}"""
    code_timeout: float = 5.0
    """seconds after which a program has failed the tests that it has not answered"""
    unsafe_code: bool = False
    """run generated programs without a sandbox, with limits only, where none can be set up"""

    # ---- algorithm
    advantage_norm: Literal["std", "none"] = "std"
    """divide a group's centred rewards by their standard deviation (GRPO), or not (Dr.GRPO)"""
    loss_fn: Literal["importance_sampling", "ppo", "cispo"] = "ppo"
    """what becomes of ratio and advantage; CISPO itself needs --loss-reduction token --clip-low 1 --kl-coef 0 too"""
    clip_low: float = 0.2
    """e_low: the ratio is clipped at 1 - e_low"""
    clip_high: float = 0.2
    """e_high: the ratio is clipped at 1 + e_high (DAPO: 0.28)"""
    loss_reduction: Literal["sequence", "token", "constant"] = "sequence"
    """what a response's sum over tokens is divided by: its length (GRPO), nothing (DAPO), max_new_tokens (Dr.GRPO)"""
    drop_constant_groups: bool = False
    """leave out the groups whose responses are all right or all wrong (DAPO)"""
    max_resamples: int = 0
    """where responses are left out: at most so many further rounds of sampling, until the batch is full (DAPO)"""
    kl_coef: Annotated[float, tyro.conf.arg(aliases=["--beta1"])] = 0.04
    """beta1 (MLMT-RL's beta_L), the weight of the solver's KL to its initial policy"""
    kl_estimator: Literal["k1_reward", "k2_loss", "k3_loss", "full_loss"] = "k3_loss"
    """how the KL acts: k1 in the return; as a loss: k2, k3 (follows KL(pi_ref || pi)), full (the whole vocabulary)"""
    format_coef: float = 0.1
    """c_f: what a response loses that states no answer in the form asked for, or does not end"""
    overlong_buffer: int = 0
    """last tokens before max_new_tokens over which the penalty for length rises from 0 to overlong_coef; 0: none"""
    overlong_coef: float = 1.0
    """c_o, the largest penalty for length"""
    expert_iteration: bool = False
    """supervised steps on the right responses instead of policy gradients; loss_fn and advantage_norm do nothing"""

    # ---- optimisation
    iterations: int = 40
    """rollouts, each followed by the updates"""
    learning_rate: float = 2e-4
    """learning rate of the solver (Adam)"""
    lr_warmup_iterations: int = 5
    """the language models' learning rates rise linearly over so many iterations, then stay"""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Adam's decay rates"""
    max_grad_norm: float = 1.0
    """the gradient of each network is clipped to this norm"""
    num_minibatches: int = 1
    """optimiser batches (and steps) that a rollout is split into"""
    update_epochs: int = 1
    """passes over a rollout; with more than one optimiser step the clipped ratio comes into play"""
    micro_batch_size: int = 16
    """sequences of one forward and backward pass (memory only)"""
    logits_chunk_size: int = 1024
    """response tokens whose logits exist at once, (m, W) in float32 (memory only)"""

    # ---- logging and checkpoints
    eval_every: int = 10
    """evaluate after every n-th iteration, before the first and after the last"""
    eval_size: int = 200
    """held-out problems of an evaluation, at most"""
    greedy_eval: bool = True
    """evaluate greedily too"""
    eval_seed: int = 0
    """seeds the sampling of every evaluation, apart from training"""
    save_episodes: int = 200
    """most episodes of each evaluation, and of the rollout before it, written to episodes.jsonl"""
    save_every: int = 10
    """write a checkpoint after every n-th iteration, and after the last"""
    keep_checkpoints: int = 2
    """newest checkpoints to keep, beside the best one by training reward; 0 keeps all"""
    report: bool = True
    """at the end write report.html, the curves and episodes of the run, into the run folder"""


# ---- models and rollout --------------------------------------------------------------------------------------------


def load_lm(name: str, flag: str, args: Args, device: str, dtype: torch.dtype):
    """A causal language model and its tokenizer, from a folder or the hub. Raises InputError.

    Dropout is set to zero: the trainer must see the very policy that sampled.
    """
    source = common.model_source(name)
    try:
        config = AutoConfig.from_pretrained(source)
        for key in [key for key, value in vars(config).items() if "drop" in key and isinstance(value, float)]:
            setattr(config, key, 0.0)
        model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=dtype).to(device)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # a missing folder, no network, a file cut short: each library raises its own types
        raise common.not_loaded(flag, name, error) from error
    if args.chat_template == "on" and not tokenizer.chat_template:
        raise common.InputError(f"--chat-template on: the tokenizer of {flag} {name} has no chat template")
    if args.chat_template == "off":
        tokenizer.chat_template = None
    with torch.no_grad():  # token_logprobs applies the output head to the backbone's states itself
        probe = torch.arange(4, device=device)[None]
        logits = model.eval().get_output_embeddings()(model.base_model(probe).last_hidden_state)
        if not torch.allclose(logits, model(probe).logits, atol=1e-3):
            raise common.InputError(f"{flag} {name} scales or caps its logits, which token_logprobs does not support")
    return model, tokenizer


@torch.no_grad()
def generate(model, tokenizer, prompts: list[tuple[list[int], int]], max_new_tokens: int, args: Args) -> dict:
    """Samples one response for each prompt and returns a turn: the tensors that the losses need, and the texts.

    Temperature 0 is greedy: the likeliest token each time.

    prompts: (token ids, prefix length) from encode_prompt. Prompts are padded on the left, responses on the right.
    response_mask runs to the first end-of-sequence token, inclusive; it never looks at the pad token, often the same.
    """
    model.eval()  # with train mode's gradient checkpointing there is no KV cache
    end_ids = model.generation_config.eos_token_id
    end_ids = {*(end_ids if isinstance(end_ids, list) else [end_ids]), tokenizer.eos_token_id} - {None}
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(end_ids)
    P = max(len(ids) for ids, _ in prompts)
    context = getattr(model.config, "max_position_embeddings", None)
    if context and P + max_new_tokens > context:  # an earlier turn, tokenized again, took more tokens than allowed for
        raise common.InputError(f"a prompt of {P} tokens and {max_new_tokens} new ones exceed the context of {context}")
    prompt_ids = torch.tensor([[pad_id] * (P - len(ids)) + ids for ids, _ in prompts], device=model.device)  # (B, P)
    prompt_mask = torch.tensor([[0] * (P - len(ids)) + [1] * len(ids) for ids, _ in prompts], device=model.device)
    greedy = {"do_sample": False}
    sampled = {"do_sample": True, "temperature": args.temperature, "top_k": 0, "top_p": args.top_p}
    sampling = GenerationConfig(**(sampled if args.temperature else greedy))
    sampling.update(repetition_penalty=1.0, max_new_tokens=max_new_tokens)
    sampling.update(eos_token_id=sorted(end_ids), pad_token_id=pad_id)
    own_config, model.generation_config = model.generation_config, sampling  # its defaults must not bend the policy
    response_ids = torch.full((len(prompts), max_new_tokens), pad_id, device=model.device)  # (B, T)
    by_length = prompt_mask.sum(1).argsort(stable=True)  # prompts of like length share a batch: little padding
    for rows in by_length.split(args.generation_batch_size):
        longest = int(prompt_mask[rows].sum(1).max())
        ids, mask = prompt_ids[rows][:, -longest:], prompt_mask[rows][:, -longest:]
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=sampling)
        response_ids[rows, : output.shape[1] - longest] = output[:, longest:]
    model.generation_config = own_config
    ended = torch.isin(response_ids, torch.tensor(sorted(end_ids), device=model.device))  # (B, T)
    response_mask = (ended.cumsum(1) - ended.long()) == 0  # (B, T): no end of sequence before this token
    responses = [ids[mask].tolist() for ids, mask in zip(response_ids, response_mask)]
    return {
        "prompts": prompts,
        "prompt_ids": prompt_ids,  # (B, P)
        "prompt_mask": prompt_mask,  # (B, P)
        "prefix_length": torch.tensor([length for _, length in prompts], device=model.device),  # (B,)
        "response_ids": response_ids,  # (B, T)
        "response_mask": response_mask,  # (B, T)
        "truncated": ~ended.any(1),  # (B,)
        "texts": tokenizer.batch_decode(responses, skip_special_tokens=True),
    }


def run_episodes(models, tokenizers, problems: list[common.Problem], args: Args) -> dict:
    """One response to each problem, its verdict and whether it has the right form, each (B,)."""
    # differs: one turn, after a prompt template
    template = common.load_template(args.prompt_template, problems)
    prompts = [common.encode_prompt(tokenizers[0], common.attempt_messages(p, template)) for p in problems]
    turn_1 = generate(models[0], tokenizers[0], prompts, args.max_new_tokens, args)
    rewards, verdict_log = common.verify_turns([turn_1["texts"]], problems, args)
    well_formed = [common.well_formed(text, problem) for text, problem in zip(turn_1["texts"], problems)]
    device = turn_1["response_ids"].device
    episodes = {"attempt": turn_1, "rewards_1": torch.tensor(rewards[0], device=device)}
    episodes["well_formed"] = torch.tensor(well_formed, device=device) & ~turn_1["truncated"]
    return episodes | {"verdict_log": verdict_log}


# new in GRPO
def select(turns: list[dict], rows: list[torch.Tensor]) -> dict:
    """These rows of several turns as one turn: what the loss reads of them, prompts padded to one length."""
    P = max(turn["prompt_ids"].shape[1] for turn in turns)
    selected = {}
    for name in ("prompt_ids", "prompt_mask", "response_ids", "response_mask"):
        parts = [turn[name][chosen] for turn, chosen in zip(turns, rows)]
        if name.startswith("prompt"):
            parts = [torch.nn.functional.pad(part, (P - part.shape[1], 0)) for part in parts]
        selected[name] = torch.cat(parts)
    return selected


# new in GRPO
def search_template(models, tokenizers, problems: list[common.Problem], args: Args) -> tuple[str, list[dict]]:
    """Successive halving over the templates in args.template_search: (the best one's file, every measurement).

    All candidates answer the first problems, the better half twice as many further ones, and so on; what counts is the
    accuracy over all problems so far. Ties go by name.
    """
    alive, size, used, measured = template_files(args), args.template_search_size, 0, []
    right = dict.fromkeys(alive, 0.0)
    while len(alive) > 1:
        chosen, used = problems[used : used + size], used + size
        for file in alive:
            with torch.random.fork_rng():
                torch.manual_seed(args.eval_seed)
                episodes = run_episodes(models, tokenizers, chosen, replace(args, prompt_template=file))
            right[file] += episodes["rewards_1"].sum().item()
            measured.append({"template": file, "problems": used, "accuracy": right[file] / used})
        alive = sorted(alive, key=lambda file: -right[file])  # stable: equal ones stay in the order of their names
        print(f"template search, {used} problems: {alive[0]} {right[alive[0]] / used:.3f} is the best of {len(alive)}")
        alive, size = alive[: (len(alive) + 1) // 2], 2 * size
    return alive[0], measured


def template_files(args: Args) -> list[str]:
    return sorted(str(path) for path in Path(args.template_search).glob("*.json"))


# ---- log-probabilities ----------------------------------------------------------------------------------------------


def micro_batches(turn: dict, rows: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """The rows in micro-batches of like length, so that one long problem does not pad all others."""
    lengths = turn["prompt_mask"][rows].sum(1) + turn["response_mask"][rows].sum(1)
    return rows[lengths.argsort(stable=True)].split(size)


def hidden_states(model, turn: dict, rows: torch.Tensor) -> torch.Tensor:
    """The backbone's final states over prompt and response of these rows, common padding trimmed: (b, P+T, C)."""
    P, T = (int(turn[mask][rows].sum(1).max()) for mask in ("prompt_mask", "response_mask"))
    ids = torch.cat([turn["prompt_ids"][rows][:, -P:], turn["response_ids"][rows][:, :T]], 1)  # (b, P+T)
    mask = torch.cat([turn["prompt_mask"][rows][:, -P:], turn["response_mask"][rows][:, :T].long()], 1)  # (b, P+T)
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)  # positions count real tokens, not the padding on the left
    output = model.base_model(input_ids=ids, attention_mask=mask, position_ids=position_ids, use_cache=False)
    return output.last_hidden_state


def token_logprobs(model, hidden, turn, rows, args, reference=None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log pi(y_t | prompt, y_<t) at the sampling temperature for every response token, float32, zero elsewhere: (b, T).

    Also the entropy of each token's distribution (only when no gradient is recorded) and, given a reference model, its
    exact KL(pi || pi_ref). Logits are made for response tokens only, a chunk at a time, and made again in the backward
    pass, so that (b, T, W) in float32 never exists at once.
    """
    T_all = turn["response_mask"].shape[1]
    mask = turn["response_mask"][rows]  # (b, T_all)
    T = int(mask.sum(1).max())
    targets = turn["response_ids"][rows][mask]  # (M,)
    states = hidden[:, -T - 1 : -1][mask[:, :T]]  # (M, C): the state before a token predicts it
    reference_states = states.new_zeros(len(states), 0)
    if reference is not None:
        with torch.no_grad():
            reference_states = hidden_states(reference, turn, rows)[:, -T - 1 : -1][mask[:, :T]]  # (M, C)

    def chunk(states, reference_states, targets):  # (m, C), (m, C), (m,) -> 3 x (m,)
        log_pi = (model.get_output_embeddings()(states).float() / args.temperature).log_softmax(-1)  # (m, W)
        entropy = kl = torch.zeros_like(log_pi[:, 0])
        if not torch.is_grad_enabled():
            entropy = -(log_pi.exp() * log_pi).sum(-1)
        if reference is not None:
            with torch.no_grad():
                logits = reference.get_output_embeddings()(reference_states).float()
                log_ref = (logits / args.temperature).log_softmax(-1)  # (m, W)
            kl = (log_pi.exp() * (log_pi - log_ref)).sum(-1)
        return log_pi.gather(-1, targets[:, None]).squeeze(-1), entropy, kl

    parts = [
        checkpoint(chunk, *piece, use_reentrant=False, preserve_rng_state=False)  # nothing random is made again
        for piece in zip(*(tensor.split(args.logits_chunk_size) for tensor in (states, reference_states, targets)))
    ]
    zeros = torch.zeros(len(rows), T_all, device=hidden.device)
    return tuple(zeros.masked_scatter(mask, torch.cat(part)) for part in zip(*parts))  # 3 x (b, T_all)


@torch.no_grad()
def score(model, turn: dict, args: Args) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (B, T) and entropies (B, T), without gradient."""
    batches = micro_batches(turn, torch.arange(len(turn["response_ids"]), device=model.device), args.micro_batch_size)
    parts = [token_logprobs(model, hidden_states(model, turn, rows), turn, rows, args)[:2] for rows in batches]
    original_order = torch.cat(batches).argsort()
    return tuple(torch.cat(part)[original_order] for part in zip(*parts))


# ---- the method ----------------------------------------------------------------------------------------------------


# new in GRPO
def shaped_rewards(verdicts, well_formed, lengths, args: Args) -> torch.Tensor:
    """R = r + c_f (f - 1) - c_o l: (B,). l rises from 0 to 1 over the last overlong_buffer tokens (DAPO, eq. 13)."""
    rewards = verdicts + args.format_coef * (well_formed.float() - 1)
    if args.overlong_buffer:
        over = lengths - (args.max_new_tokens - args.overlong_buffer)  # (B,)
        rewards = rewards - args.overlong_coef * (over / args.overlong_buffer).clamp(0, 1)
    return rewards


# new in GRPO
def group_advantages(rewards: torch.Tensor, group_size: int, norm: str) -> torch.Tensor:
    """A = (R - mean R) / (std R + 1e-4) in each group, or R - mean R: (B,). Exactly 0 where all rewards are equal."""
    groups = rewards.view(-1, group_size)  # (N, G)
    centred = groups - groups[:, :1]  # exactly 0 in a constant group, whatever its mean rounds to
    centred = centred - centred.mean(1, keepdim=True)
    if norm == "std":
        centred = centred / (groups.std(1, keepdim=True) + 1e-4)
    return centred.flatten()


def credit(args: Args, rewards: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
    """A, what multiplies log pi of each response: (B,). Expert iteration: 1.

    kl: sum over a response's tokens of log pi - log pi_ref. With k1_reward it is centred in its group as the rewards
    are, but never divided by their standard deviation: beta keeps its weight, in a group of equal rewards too. With
    --advantage-norm none that is R - beta KL against its group's mean, whose expected gradient is 1 - 1/G of that of
    E[R] - beta KL(pi || pi_ref).
    """  # differs: each response against its group
    if args.expert_iteration:
        return torch.ones_like(rewards)
    A = group_advantages(rewards, args.group_size, args.advantage_norm)
    if args.kl_estimator == "k1_reward":
        A = A - args.kl_coef * group_advantages(kl, args.group_size, "none")
    return A


# new in GRPO
def loss_weights(response_mask: torch.Tensor, reduction: str, max_new_tokens: int) -> torch.Tensor:
    """w_i, what the sum over a response's tokens is multiplied by; response_mask is the optimiser batch's: (n,)."""
    lengths = response_mask.sum(1)  # (n,)
    if reduction == "sequence":
        return 1 / (len(lengths) * lengths)
    if reduction == "token":
        return torch.ones_like(lengths) / lengths.sum()
    return torch.ones_like(lengths) / (len(lengths) * max_new_tokens)


def policy_loss(new_logprobs, logprobs, advantages, response_mask, args: Args) -> torch.Tensor:
    """The policy's loss, summed over the tokens of each response: (b,). Log-probabilities are zero off the mask.

    ppo                  -min(ratio A, clip(ratio) A)      PPO (arXiv 1707.06347, eq. 7), GRPO, DAPO
    importance_sampling  -ratio A                          no bound
    cispo                -sg[clip(ratio)] A log pi         every token keeps a gradient, its weight is bounded
    expert iteration     -A log pi                         supervised: A is 1
    The gradient at the first optimiser step, where the ratio is 1, is -A grad log pi(response) in every case.
    """  # differs: the loss can be chosen
    ratio = torch.exp(new_logprobs - logprobs)  # (b, T)
    A = advantages[:, None]  # (b, 1)
    clipped = torch.clamp(ratio, 1 - args.clip_low, 1 + args.clip_high)
    if args.expert_iteration:
        objective = A * new_logprobs
    elif args.loss_fn == "importance_sampling":
        objective = ratio * A
    elif args.loss_fn == "cispo":
        objective = clipped.detach() * A * new_logprobs
    else:
        objective = torch.min(ratio * A, clipped * A)
    return -(objective * response_mask).sum(1)


def kl_penalty(new_logprobs, ref_logprobs, full_kl, estimator: str) -> torch.Tensor:
    """KL(pi || pi_ref) of each response, summed over its tokens: (b,). Log-probabilities are zero off the mask.

    Both policies at the sampling temperature. k1 = log pi - log pi_ref, for the return (as a loss its expected gradient
    is zero); k2 = k1^2 / 2; k3 = rho - 1 - log rho with rho = pi_ref / pi, whose expected gradient is that of
    KL(pi_ref || pi); full: summed over the vocabulary.
    """
    log_ratio = new_logprobs - ref_logprobs  # (b, T)
    if estimator == "k2_loss":
        return (0.5 * log_ratio**2).sum(1)
    if estimator == "k3_loss":
        return (torch.exp(-log_ratio) - 1 + log_ratio).sum(1)
    if estimator == "full_loss":
        return full_kl.sum(1)
    return log_ratio.sum(1)


def accumulate_gradients(model, turn, rows, advantages, kl_coef, args, reference=None) -> float:
    """Adds the gradient of one turn's loss over `rows`, an optimiser batch, to .grad; returns the policy loss.

    The weights of the responses follow from the whole of `rows`, so micro_batch_size is a memory knob only.
    """  # differs: loss_reduction
    policy = 0.0
    weights = torch.zeros(len(turn["response_mask"]), device=model.device)  # (B,)
    weights[rows] = loss_weights(turn["response_mask"][rows], args.loss_reduction, args.max_new_tokens)
    model.train(args.gradient_checkpointing)  # Hugging Face recomputes layers in train mode only; dropout is zero
    for mb in micro_batches(turn, rows, args.micro_batch_size):
        hidden = hidden_states(model, turn, mb)  # (b, P+T, C)
        exact_kl_model = reference if args.kl_estimator == "full_loss" else None
        new_logprobs, _, full_kl = token_logprobs(model, hidden, turn, mb, args, exact_kl_model)
        mask = turn["response_mask"][mb]
        loss = policy_loss(new_logprobs, turn["logprobs"][mb], advantages[mb], mask, args)
        policy += (weights[mb] * loss).sum().item()
        if args.kl_estimator != "k1_reward":
            loss = loss + kl_coef * kl_penalty(new_logprobs, turn["ref_logprobs"][mb], full_kl, args.kl_estimator)
        (weights[mb] * loss).sum().backward()
    return policy


# ---- optimiser -----------------------------------------------------------------------------------------------------


def master_weights(model) -> list[torch.nn.Parameter]:
    """The float32 tensors that the optimiser moves: the weights themselves, or masters of bf16 weights.

    A bf16 weight does not move at a learning rate near 1e-6: half of its last digit is more than the update. The
    masters also gather the gradients of the micro-batches in float32.
    """
    masters = []
    for weight in model.parameters():
        if weight.dtype == torch.float32:
            masters.append(weight)
            continue
        master = torch.nn.Parameter(weight.detach().float())

        def move_gradient(weight, master=master):
            gradient = weight.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            weight.grad = None

        weight.register_post_accumulate_grad_hook(move_gradient)
        masters.append(master)
    return masters


def optimizer_step(optimizer, model, max_grad_norm: float) -> float:
    """Clips, steps, copies the masters into the weights, clears the gradients. Returns the norm before clipping."""
    masters = optimizer.param_groups[0]["params"]
    norm = torch.nn.utils.clip_grad_norm_(masters, max_grad_norm).item()
    optimizer.step()
    with torch.no_grad():
        for weight, master in zip(model.parameters(), masters):
            if weight is not master:
                weight.copy_(master)
    optimizer.zero_grad()
    return norm


# ---- checkpoints and evaluation ------------------------------------------------------------------------------------


def save_checkpoint(run_dir: Path, iteration: int, models: dict, trainer: dict, row: dict, keep: int) -> None:
    """Writes checkpoint-{iteration}/: a save_pretrained folder for each (model, tokenizer), and trainer.pt.

    Written under a temporary name, forced to the disk, then renamed: a kill leaves the last whole one. `row` goes to
    checkpoints.jsonl. All but the newest `keep` and the best by training reward are deleted (0: none is).
    """
    final = run_dir / f"checkpoint-{iteration:06d}"
    temporary = final.with_name(final.name + ".tmp")
    for name, (model, tokenizer) in models.items():
        model.save_pretrained(temporary / name)
        tokenizer.save_pretrained(temporary / name)
    torch.save(trainer, temporary / "trainer.pt")
    for path in [*temporary.rglob("*"), temporary]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    common.write_rows(run_dir / "checkpoints.jsonl", [{"iteration": iteration, "folder": final.name} | row])
    os.replace(temporary, final)
    old = sorted(run_dir.glob("checkpoint-*[0-9]"))[:-keep] if keep else []
    for folder in {*old} - {common.best_checkpoint(run_dir)}:
        shutil.rmtree(folder.rename(folder.with_name(folder.name + ".tmp")))


def evaluate(iteration: int, models, tokenizers, problems: list[common.Problem], args: Args) -> dict:
    """The eval/ metrics on held-out problems; saves the episodes and prints a line that stays.

    Sampled as in training, but from a seed of its own that leaves training's random numbers as they were.
    """  # differs: one turn, sampled and greedy
    with torch.random.fork_rng():
        torch.manual_seed(args.eval_seed)
        episodes = run_episodes(models, tokenizers, problems, args)
    rows = common.episode_rows(iteration, "eval", problems, episodes, args.save_episodes)
    common.write_rows(Path(args.run_dir) / "episodes.jsonl", rows)
    metrics = {"accuracy_1": float(np.mean(episodes["rewards_1"].tolist()))}
    if args.greedy_eval:
        greedy = run_episodes(models, tokenizers, problems, replace(args, temperature=0.0))
        metrics["greedy_accuracy_1"] = float(np.mean(greedy["rewards_1"].tolist()))
    tqdm.write(f"iteration {iteration:4d}  eval  " + "  ".join(f"{key} {value:.3f}" for key, value in metrics.items()))
    return {f"eval/{key}": value for key, value in metrics.items()}


# Every row of metrics.jsonl has every key; what was not measured in an iteration is null.
METRICS = """
    rollout/accuracy_1 rollout/reward rollout/format rollout/groups_mixed rollout/groups_right rollout/groups_wrong
    rollout/response_length_1 rollout/truncated rollout/undecided rollout/trained_responses
    losses/policy_solver losses/kl_solver losses/entropy losses/grad_norm_solver
    eval/accuracy_1 eval/greedy_accuracy_1
    charts/episodes charts/seconds charts/verify_seconds charts/tokens_per_second charts/learning_rate
""".split()


def main(args: Args) -> None:
    # What is wrong with the flags, the files or the models is found before anything is written.
    common.check_args(args)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise common.InputError("--device cuda: torch finds no GPU here")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    dtype = {"auto": "bfloat16" if device == "cuda" else "float32"}.get(args.dtype, args.dtype)
    place = (args, device, getattr(torch, dtype))
    eval_dataset = args.eval_dataset or args.dataset
    rollout_size = args.groups_per_batch * args.group_size  # responses of one round of sampling
    if args.group_size == 1 and not args.expert_iteration:
        raise common.InputError("--group-size 1: a group needs at least 2 responses to be compared")
    if args.max_resamples and not (args.drop_constant_groups or args.expert_iteration):
        raise common.InputError(
            "--max-resamples needs --drop-constant-groups or --expert-iteration: nothing is left out"
        )
    if args.expert_iteration and args.kl_estimator == "k1_reward":
        raise common.InputError("--kl-estimator k1_reward is a part of a return: --expert-iteration has none")
    if args.overlong_buffer > args.max_new_tokens:
        limit = f"--max-new-tokens {args.max_new_tokens}"
        raise common.InputError(f"--overlong-buffer {args.overlong_buffer} must be at most {limit}")
    train_problems, eval_problems = common.load_train_and_eval(
        args.dataset, args.split, eval_dataset, args.eval_split, args.eval_size, args.min_level, args.tests_in_prompt
    )
    common.load_template(args.prompt_template, train_problems)
    templates = [args.prompt_template]
    if args.template_search:
        if args.prompt_template != "none":
            raise common.InputError(f"--template-search chooses: leave out --prompt-template {args.prompt_template}")
        templates = template_files(args)
        if not templates:
            raise common.InputError(f"--template-search {args.template_search} holds no .json file")
        # Held back from training, and no problem of the evaluation: n, 2 n, 4 n ..., for ever fewer templates.
        searched = args.template_search_size * (2 ** (len(templates) - 1).bit_length() - 1)
        if searched >= len(train_problems):
            raise common.InputError(f"--template-search: {len(templates)} templates need {searched} training problems")
        order = np.random.default_rng(args.seed).permutation(len(train_problems))
        search_problems = [train_problems[i] for i in order[:searched]]
        train_problems = [train_problems[i] for i in sorted(order[searched:])]
    sandbox = common.sandbox_for(train_problems + eval_problems, args.unsafe_code)
    default_dir = f"runs/{Path(args.dataset).stem}__{args.exp_name}__{args.seed}"
    run_dir, resumed = common.find_run_folder(args, default_dir)
    args.run_dir = str(run_dir)
    if args.track:
        try:
            import wandb
        except ImportError as error:
            raise common.InputError("--track needs Weights & Biases: pip install wandb") from error
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    policy_lm = args.policy_lm or common.embedded_model(train_problems)
    if resumed:
        solver, solver_tokenizer = load_lm(str(resumed / "solver"), "the checkpoint", *place)
    else:
        solver, solver_tokenizer = load_lm(policy_lm, "--policy-lm", *place)
    # The KL reference is the initial policy.
    reference = load_lm(policy_lm, "--policy-lm", *place)[0].requires_grad_(False)
    models, tokenizers = (solver, reference), (solver_tokenizer,)
    if args.gradient_checkpointing:
        for model in models:
            model.activation_checkpointing_enable({"use_reentrant": False})
    problems = train_problems + eval_problems
    for template in [common.load_template(name, problems) for name in templates]:
        prompts = [common.attempt_messages(p, template) for p in problems]
        room = args.max_new_tokens
        common.check_lengths(solver_tokenizer, prompts, problems, room, solver.config, "--policy-lm")

    solver_optimizer = torch.optim.Adam(master_weights(solver), lr=args.learning_rate, betas=args.adam_betas)
    optimizers = (solver_optimizer,)
    start, start_time, rounds = 0, time.time(), 0
    if resumed:
        try:
            trainer = torch.load(resumed / "trainer.pt", map_location=device, weights_only=True)
        except Exception as error:  # a file cut short fails in the zip reader or in the unpickler
            reason = f"{resumed / 'trainer.pt'} is damaged: delete {resumed} to resume from the checkpoint before it"
            raise common.InputError(reason) from error
        start, start_time = trainer["iteration"], time.time() - trainer["seconds"]
        rounds = trainer["rounds"]
        for optimizer, state in zip(optimizers, trainer["optimizers"]):
            optimizer.load_state_dict(state)
        for optimizer, masters in zip(optimizers, trainer["masters"]):  # saved for bfloat16 only
            for weight, master in zip(optimizer.param_groups[0]["params"], masters):
                weight.data.copy_(master)
        torch.set_rng_state(trainer["rng"].cpu())
        torch.cuda.set_rng_state_all([state.cpu() for state in trainer["cuda_rng"]])
    common.open_run_folder(run_dir, args, start if resumed else -1)
    if args.track:
        wandb.init(project="textual-feedback-rl", id=run_dir.name, resume="allow", config=asdict(args))
    sizes = f"{len(train_problems)} problems to train on, {len(eval_problems)} held out"
    print(f"run folder {run_dir}: {sizes}; device {device}, weights in {dtype}{sandbox}")

    # new in GRPO
    chosen = args  # the flags, with the prompt template that the search has found
    if args.template_search:
        if start == 0:
            best, measured = search_template(models, tokenizers, search_problems, args)
            messages = common.load_template(best, train_problems)
            common.write_file(run_dir / "template_search.json", json.dumps(measured, indent=2) + "\n")
            common.write_file(run_dir / "prompt_template.json", json.dumps(messages, indent=2) + "\n")
        chosen = replace(args, prompt_template=str(run_dir / "prompt_template.json"))

    if start == 0:
        row = {"iteration": 0} | dict.fromkeys(METRICS)
        row |= evaluate(0, models, tokenizers, eval_problems, chosen)
        row |= {"charts/episodes": 0, "charts/seconds": time.time() - start_time}
        common.write_rows(run_dir / "metrics.jsonl", [row])

    progress = tqdm(range(start + 1, args.iterations + 1), initial=start, total=args.iterations, disable=None)
    for iteration in progress:
        iteration_time = time.time()
        last = iteration == args.iterations
        warmup = min(1.0, iteration / max(1, args.lr_warmup_iterations))
        solver_optimizer.param_groups[0]["lr"] = args.learning_rate * warmup

        # ---- ROLLOUT
        sampled, kept = [], []  # of each round: the episodes, the rows to train on
        while True:
            rounds += 1
            rows = common.problem_rows(rounds, args.groups_per_batch, len(train_problems), args.seed)
            problems = [train_problems[row] for row in rows for _ in range(args.group_size)]
            episodes = run_episodes(models, tokenizers, problems, chosen)
            verdicts, lengths = episodes["rewards_1"], episodes["attempt"]["response_mask"].sum(1)  # (B,)
            rewards = shaped_rewards(verdicts, episodes["well_formed"], lengths, args)  # R, (B,)
            episodes |= {"lengths": lengths, "rewards": rewards}
            keep = torch.ones_like(verdicts, dtype=torch.bool)  # (B,)
            if args.drop_constant_groups:
                groups = verdicts.view(-1, args.group_size)  # (N, G)
                keep &= (groups != groups[:, :1]).any(1).repeat_interleave(args.group_size)
            if args.expert_iteration:
                keep &= verdicts == 1
            room = rollout_size - sum(map(len, kept))
            sampled.append(episodes)
            kept.append(keep.nonzero().squeeze(1)[:room])
            if len(kept[-1]) == room or len(sampled) > args.max_resamples:
                break

        # ---- REWARDS AND ADVANTAGES
        turn = select([episodes["attempt"] for episodes in sampled], kept)
        rewards = torch.cat([episodes["rewards"][rows] for episodes, rows in zip(sampled, kept)])  # (B,), what is kept
        if len(rewards):
            turn["logprobs"], entropy = score(solver, turn, args)  # (B, T)
            turn["ref_logprobs"] = score(reference, turn, args)[0]
            kl = kl_penalty(turn["logprobs"], turn["ref_logprobs"], None, "k1_reward")  # (B,)
            A = credit(args, rewards, kl)  # (B,)

        # ---- UPDATE
        losses = {name: [] for name in METRICS if name.startswith("losses/")}
        shuffles = [torch.randperm(len(rewards), device=device) for _ in range(args.update_epochs)]
        batches = [batch for shuffle in shuffles for batch in shuffle.chunk(args.num_minibatches) if len(batch)]
        for batch in batches:
            loss = accumulate_gradients(solver, turn, batch, A, args.kl_coef, args, reference)
            losses["losses/policy_solver"].append(loss)
            losses["losses/grad_norm_solver"].append(optimizer_step(solver_optimizer, solver, args.max_grad_norm))

        # ---- LOG
        row = {"iteration": iteration} | dict.fromkeys(METRICS)
        names = ("rewards_1", "rewards", "well_formed", "lengths")
        verdicts, shaped, well_formed, lengths = (torch.cat([e[name] for e in sampled]).float() for name in names)
        row["rollout/accuracy_1"] = verdicts.mean().item()
        row["rollout/reward"] = shaped.mean().item()
        row["rollout/format"] = well_formed.mean().item()
        right = verdicts.view(-1, args.group_size).mean(1)  # (groups,)
        row["rollout/groups_mixed"] = ((right > 0) & (right < 1)).float().mean().item()
        row["rollout/groups_right"] = (right == 1).float().mean().item()
        row["rollout/groups_wrong"] = (right == 0).float().mean().item()
        row["rollout/trained_responses"] = len(rewards)
        row["rollout/response_length_1"] = lengths.mean().item()
        row["rollout/truncated"] = torch.cat([e["attempt"]["truncated"] for e in sampled]).float().mean().item()
        row["rollout/undecided"] = float(np.mean([e["verdict_log"]["rollout/undecided"] for e in sampled]))
        row["charts/verify_seconds"] = sum(e["verdict_log"]["charts/verify_seconds"] for e in sampled)
        row |= {name: float(np.mean(parts)) for name, parts in losses.items() if parts}
        if len(rewards):
            row["losses/kl_solver"] = kl.mean().item()
            row["losses/entropy"] = (entropy.sum() / turn["response_mask"].sum()).item()
        row["charts/episodes"] = rounds * rollout_size
        row["charts/tokens_per_second"] = lengths.sum().item() / (time.time() - iteration_time)
        row["charts/learning_rate"] = args.learning_rate * warmup
        progress.set_postfix_str(f"accuracy {row['rollout/accuracy_1']:.2f}, reward {row['rollout/reward']:.2f}")

        # ---- EVAL
        if last or iteration % args.eval_every == 0:
            saved = common.episode_rows(iteration, "rollout", problems, episodes, args.save_episodes)
            common.write_rows(run_dir / "episodes.jsonl", saved)
            row |= evaluate(iteration, models, tokenizers, eval_problems, chosen)
        row["charts/seconds"] = time.time() - start_time
        common.write_rows(run_dir / "metrics.jsonl", [row])
        if args.track:
            wandb.log(row, step=iteration)

        # ---- CHECKPOINT
        if last or iteration % args.save_every == 0:
            trainer = {"iteration": iteration, "seconds": time.time() - start_time, "rounds": rounds}
            trainer |= {"optimizers": [o.state_dict() for o in optimizers]}
            masters = [[w.data for w in o.param_groups[0]["params"]] for o in optimizers]
            trainer["masters"] = masters if dtype == "bfloat16" else []  # otherwise they are the models' weights
            trainer |= {"rng": torch.get_rng_state(), "cuda_rng": torch.cuda.get_rng_state_all()}
            folders = {"solver": (solver, solver_tokenizer)}
            recent = common.read_rows(run_dir / "metrics.jsonl")[-args.save_every :]
            rewards = [past["rollout/reward"] for past in recent if past["iteration"]]
            scores = {"mean_reward": float(np.mean(rewards))}  # of the last save_every iterations
            scores |= {name: row[name] for name in ("eval/accuracy_1", "eval/greedy_accuracy_1")}
            save_checkpoint(run_dir, iteration, folders, trainer, scores, args.keep_checkpoints)

    more = common.command_line(args, "grpo.py", if_run_exists="resume", iterations=2 * args.iterations)
    best, last = common.best_checkpoint(run_dir), common.last_checkpoint(run_dir)
    print(f"done: metrics.jsonl and episodes.jsonl are in {run_dir}, the models in {last}")
    print(f"highest mean training reward: {best}; to train on: {more}")
    if args.report:
        print(common.write_report(run_dir))


if __name__ == "__main__":
    common.run(main, tyro.cli(Args, description=__doc__), "grpo.py")
