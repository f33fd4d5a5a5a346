"""SCoRe: a language model learns to correct its own answer, in two turns, from the verifier's reward alone.

    y_1 ~ pi(.|x_1)    x_2 = (x_1, y_1, "there may be a mistake ...")    y_2 ~ pi(.|x_2)    r_i = verify(y_i) in {0, 1}

maximises, in two stages, with KL_i = KL(pi(.|x_i) || pi_0(.|x_i)) to the initial policy,
    Stage I   E[ r_2 ] - beta1 (KL_1 + KL_2) - beta2 KL_1
    Stage II  E[ r_1 + r_2 + alpha (r_2 - r_1) ] - beta1 (KL_1 + KL_2)

by REINFORCE, where the first attempt feels gamma times what the second one earns:
    -mean[ A_1 log pi(y_1|x_1) + A_2 log pi(y_2|x_2) ]                        KL penalties are subtracted in `credit`
    Stage I   A_1 = gamma R_2 - b           A_2 = R_2 - b       R_2 = r_2
    Stage II  A_1 = r_1 + gamma R_2 - b     A_2 = R_2 - b       R_2 = r_2 + alpha (r_2 - r_1)       b: a baseline

Paper: SCoRe (https://arxiv.org/abs/2409.12917, eq. 2 to 4). Run: python score.py

Departures from the paper:
1. gamma = 0 by default, one reading of eq. 4: each attempt feels its own reward and KL. Then -alpha r_1 is no more than
   a baseline, and the bonus a weight 1 + alpha on r_2. --gamma 1 with k1_reward follows both objectives exactly; but
   alpha > 1 pays for a wrong first attempt, and the model learns to make mistakes there (benchmarks/RESULTS.md).
2. The paper names no estimator of the KL and no baseline; the defaults are KL in the return, and none.
3. Evaluation samples as training does (--temperature), so that the two can be compared; the paper's is greedy.
4. The best checkpoint is the one with the highest mean r_2 in training, not the mean shaped reward, which alpha rules.

B episodes of a rollout, b of a micro-batch, P prompt and T response tokens, M all response tokens of a micro-batch, m
of a chunk, C hidden size, W vocabulary.
"""

import os
import random
import shutil
import time
from dataclasses import asdict, dataclass
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
    exp_name: str = "score"
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

    # ---- rollout
    rollout_size: int = 64
    """episodes of one iteration (B), all sampled from the same policies"""
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
    kl_coef: Annotated[float, tyro.conf.arg(aliases=["--beta1"])] = 0.01
    """beta1 (MLMT-RL's beta_L), the weight of the solver's KL to its initial policy"""
    kl_estimator: Literal["k1_reward", "k2_loss", "k3_loss", "full_loss"] = "k1_reward"
    """how the KL acts: k1 in the return; as a loss: k2, k3 (follows KL(pi_ref || pi)), full (the whole vocabulary)"""
    alpha: float = 10.0
    """SCoRe's bonus: after Stage I the reward of the second attempt gets alpha (r2 - r1)"""
    stage1_iterations: int = 10
    """SCoRe's Stage I: initial iterations without a reward for the first attempt, whose KL weighs beta1 + beta2"""
    beta2: float = 0.1
    """additional weight of the KL of the first attempt in Stage I"""
    gamma: float = 0.0
    """discount between the attempts: how much of the second one's return counts for the first; 1: all of it"""
    baseline: Literal["none", "batch", "leave-one-out"] = "none"
    """b: nothing (the paper), the rollout's mean reward, or the mean reward of its other episodes"""
    offline_first_turn: float = 0.0
    """share of Stage II's episodes whose first attempt the initial model writes; they train the second attempt only"""
    trained_turns: Literal["both", "first", "second"] = "both"
    """the attempts whose reward is trained on, for ablations; the other one feels its KL alone"""

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
    clip_coef: float = 0.2
    """epsilon of the clipped ratio"""
    micro_batch_size: int = 16
    """sequences of one forward and backward pass (memory only)"""
    logits_chunk_size: int = 1024
    """response tokens whose logits exist at once, (m, W) in float32 (memory only)"""

    # ---- logging and checkpoints
    eval_every: int = 10
    """evaluate after every n-th iteration, before the first and after the last"""
    eval_size: int = 200
    """held-out problems of an evaluation, at most"""
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


def run_episodes(models, tokenizers, problems: list[common.Problem], args: Args, offline: int = 0) -> dict:
    """One whole episode for each problem: two turns, and the verdicts on both attempts, each (B,).

    offline: so many first attempts, those of the first problems, are written by the initial model instead.
    """  # differs: the model's own instruction stands in the feedback's place
    solver, reference = models
    # TURN 1: y_1 ~ pi(.|x_1)
    prompts = [common.encode_prompt(tokenizers[0], common.attempt_messages(p)) for p in problems]
    turn_1 = generate(solver, tokenizers[0], prompts, args.max_new_tokens, args)
    replaced_tokens = turn_1["response_mask"][:offline].sum().item()  # sampled, then overwritten
    if offline:
        turn_0 = generate(reference, tokenizers[0], prompts[:offline], args.max_new_tokens, args)
        for key in ("response_ids", "response_mask", "truncated", "texts"):
            turn_1[key][:offline] = turn_0[key]
    # TURN 2: y_2 ~ pi(.|x_2), on the same problem
    messages = [common.self_correct_messages(p, y) for p, y in zip(problems, turn_1["texts"])]
    prompts = [common.encode_prompt(tokenizers[0], m) for m in messages]
    turn_2 = generate(solver, tokenizers[0], prompts, args.max_new_tokens, args)
    rewards, verdict_log = common.verify_turns([turn_1["texts"], turn_2["texts"]], problems, args)
    rewards_1, rewards_2 = torch.tensor(rewards, device=solver.device)
    episodes = {"attempt": turn_1, "refinement": turn_2, "replaced_tokens": replaced_tokens}
    return episodes | {"rewards_1": rewards_1, "rewards_2": rewards_2, "verdict_log": verdict_log}


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


def baseline(rewards: torch.Tensor, kind: str) -> torch.Tensor:
    """b of each episode: (B,). The batch mean holds the episode's own reward, which shrinks the gradient by 1 - 1/B."""
    if kind == "none":
        return torch.zeros_like(rewards)
    if kind == "batch":
        return rewards.mean().expand_as(rewards)
    return (rewards.sum() - rewards) / (len(rewards) - 1)


def credit(args: Args, stage1: bool, rewards_1, rewards_2, kl_1, kl_2):
    """What multiplies log pi of each attempt: A_1, A_2, each (B,). SCoRe, eq. 3 (Stage I) and 4 (Stage II).

    kl_*: sum over a response's tokens of log pi - log pi_ref; zero unless kl_estimator is k1_reward. The return of the
    first attempt carries gamma times reward and penalty of the second.
    """
    bonus = 0 if stage1 else args.alpha
    shaped = rewards_2 + bonus * (rewards_2 - rewards_1)  # (B,) R_2
    reward_1 = (rewards_1 * (not stage1) + args.gamma * shaped) * (args.trained_turns != "second")
    reward_2 = shaped * (args.trained_turns != "first")
    kl_coef_1 = args.kl_coef + args.beta2 * stage1
    A_1 = reward_1 - baseline(reward_1, args.baseline) - kl_coef_1 * kl_1 - args.gamma * args.kl_coef * kl_2
    A_2 = reward_2 - baseline(reward_2, args.baseline) - args.kl_coef * kl_2
    return A_1, A_2


def policy_loss(new_logprobs, logprobs, advantages, response_mask, clip_coef: float) -> torch.Tensor:
    """-sum_t min(ratio_t A, clip(ratio_t, 1 - eps, 1 + eps) A) of each response: (b,). PPO, arXiv 1707.06347, eq. 7.

    At the first optimiser step the ratio is 1 and the gradient is REINFORCE's, -A grad log pi(response).
    """
    ratio = torch.exp(new_logprobs - logprobs)  # (b, T)
    A = advantages[:, None]  # (b, 1)
    clipped = torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)
    return -(torch.min(ratio * A, clipped * A) * response_mask).sum(1)


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

    Sums over tokens are divided by the number of episodes in `rows`, so micro_batch_size is a memory knob only.
    """
    policy = 0.0
    model.train(args.gradient_checkpointing)  # Hugging Face recomputes layers in train mode only; dropout is zero
    for mb in micro_batches(turn, rows, args.micro_batch_size):
        hidden = hidden_states(model, turn, mb)  # (b, P+T, C)
        exact_kl_model = reference if args.kl_estimator == "full_loss" else None
        new_logprobs, _, full_kl = token_logprobs(model, hidden, turn, mb, args, exact_kl_model)
        mask = turn["response_mask"][mb]
        loss = policy_loss(new_logprobs, turn["logprobs"][mb], advantages[mb], mask, args.clip_coef)
        policy += loss.sum().item() / len(rows)
        if args.kl_estimator != "k1_reward":
            loss = loss + kl_coef * kl_penalty(new_logprobs, turn["ref_logprobs"][mb], full_kl, args.kl_estimator)
        (loss.sum() / len(rows)).backward()
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
    """
    with torch.random.fork_rng():
        torch.manual_seed(args.eval_seed)
        episodes = run_episodes(models, tokenizers, problems, args)
    rows = common.episode_rows(iteration, "eval", problems, episodes, args.save_episodes)
    common.write_rows(Path(args.run_dir) / "episodes.jsonl", rows)
    metrics = common.outcomes(episodes["rewards_1"].tolist(), episodes["rewards_2"].tolist())
    metrics["delta"] = metrics["accuracy_2"] - metrics["accuracy_1"]
    metrics["repeated"] = common.repeated(episodes["attempt"]["texts"], episodes["refinement"]["texts"])
    tqdm.write(f"iteration {iteration:4d}  eval  " + "  ".join(f"{key} {value:.3f}" for key, value in metrics.items()))
    return {f"eval/{key}": value for key, value in metrics.items()}


# Every row of metrics.jsonl has every key; what was not measured in an iteration is null.
METRICS = """
    rollout/accuracy_1 rollout/accuracy_2 rollout/fixed rollout/broken rollout/repeated rollout/reward
    rollout/response_length_1 rollout/response_length_2 rollout/truncated rollout/undecided
    losses/policy_solver losses/kl_solver losses/entropy losses/grad_norm_solver
    eval/accuracy_1 eval/accuracy_2 eval/delta eval/fixed eval/broken eval/repeated
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
    train_problems, eval_problems = common.load_train_and_eval(
        args.dataset, args.split, eval_dataset, args.eval_split, args.eval_size, args.min_level, args.tests_in_prompt
    )
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
    problems, room = train_problems + eval_problems, 2 * args.max_new_tokens
    prompts = [common.self_correct_messages(p, "") for p in problems]
    common.check_lengths(solver_tokenizer, prompts, problems, room, solver.config, "--policy-lm")

    solver_optimizer = torch.optim.Adam(master_weights(solver), lr=args.learning_rate, betas=args.adam_betas)
    optimizers = (solver_optimizer,)
    start, start_time = 0, time.time()
    if resumed:
        try:
            trainer = torch.load(resumed / "trainer.pt", map_location=device, weights_only=True)
        except Exception as error:  # a file cut short fails in the zip reader or in the unpickler
            reason = f"{resumed / 'trainer.pt'} is damaged: delete {resumed} to resume from the checkpoint before it"
            raise common.InputError(reason) from error
        start, start_time = trainer["iteration"], time.time() - trainer["seconds"]
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

    if start == 0:
        row = {"iteration": 0} | dict.fromkeys(METRICS)
        row |= evaluate(0, models, tokenizers, eval_problems, args)
        row |= {"charts/episodes": 0, "charts/seconds": time.time() - start_time}
        common.write_rows(run_dir / "metrics.jsonl", [row])

    progress = tqdm(range(start + 1, args.iterations + 1), initial=start, total=args.iterations, disable=None)
    for iteration in progress:
        iteration_time = time.time()
        last, stage1 = iteration == args.iterations, iteration <= args.stage1_iterations
        warmup = min(1.0, iteration / max(1, args.lr_warmup_iterations))
        solver_optimizer.param_groups[0]["lr"] = args.learning_rate * warmup

        # ---- ROLLOUT: TURN 1, TURN 2
        rows = common.problem_rows(iteration, args.rollout_size, len(train_problems), args.seed)
        problems = [train_problems[row] for row in rows]
        offline = 0 if stage1 else round(args.offline_first_turn * args.rollout_size)
        episodes = run_episodes(models, tokenizers, problems, args, offline)
        turn_1, turn_2 = episodes["attempt"], episodes["refinement"]
        rewards_1, rewards_2 = episodes["rewards_1"], episodes["rewards_2"]  # (B,)

        # ---- REWARDS AND ADVANTAGES
        turn_1["logprobs"], entropy_1 = score(solver, turn_1, args)  # (B, T)
        turn_2["logprobs"], entropy_2 = score(solver, turn_2, args)
        kl = []  # KL of y_1, y_2: sum over a response's tokens of log pi - log pi_ref, each (B,)
        for turn, model in ((turn_1, reference), (turn_2, reference)):
            turn["ref_logprobs"] = score(model, turn, args)[0]
            kl.append(kl_penalty(turn["logprobs"], turn["ref_logprobs"], None, "k1_reward"))
        penalties = kl if args.kl_estimator == "k1_reward" else [torch.zeros_like(rewards_2)] * 2
        A_1, A_2 = credit(args, stage1, rewards_1, rewards_2, *penalties)  # (B,)

        # ---- UPDATE
        losses = {name: [] for name in METRICS if name.startswith("losses/")}
        shuffles = [torch.randperm(args.rollout_size, device=device) for _ in range(args.update_epochs)]
        batches = [batch for shuffle in shuffles for batch in shuffle.chunk(args.num_minibatches)]
        kl_coef_1 = args.kl_coef + args.beta2 * stage1
        for batch in batches:
            own = batch[batch >= offline]  # a first attempt of the initial model is no action of the policy
            share = len(own) / len(batch)
            loss_1 = 0.0
            if len(own):
                loss_1 = accumulate_gradients(solver, turn_1, own, share * A_1, share * kl_coef_1, args, reference)
            loss_2 = accumulate_gradients(solver, turn_2, batch, A_2, args.kl_coef, args, reference)
            losses["losses/policy_solver"].append(loss_1 + loss_2)
            losses["losses/grad_norm_solver"].append(optimizer_step(solver_optimizer, solver, args.max_grad_norm))

        # ---- LOG
        length_1, length_2 = (turn["response_mask"].sum(1).float() for turn in (turn_1, turn_2))
        tokens = (length_1 + length_2).sum().item() + episodes["replaced_tokens"]
        row = {"iteration": iteration} | dict.fromkeys(METRICS)
        row |= {f"rollout/{k}": v for k, v in common.outcomes(rewards_1.tolist(), rewards_2.tolist()).items()}
        row["rollout/repeated"] = common.repeated(turn_1["texts"], turn_2["texts"])
        row["rollout/reward"] = rewards_2.mean().item()
        row["rollout/response_length_1"] = length_1.mean().item()
        row["rollout/response_length_2"] = length_2.mean().item()
        truncated = torch.cat([turn_1["truncated"], turn_2["truncated"]])
        row["rollout/truncated"] = truncated.float().mean().item()
        row |= episodes["verdict_log"]
        row |= {name: float(np.mean(parts)) for name, parts in losses.items() if parts}
        # Both of the policy's own samples alone.
        row["losses/kl_solver"] = (kl[0][offline:].sum() / max(1, args.rollout_size - offline) + kl[1].mean()).item()
        entropy = (entropy_1[offline:].sum() + entropy_2.sum()) / (length_1[offline:].sum() + length_2.sum())
        row["losses/entropy"] = entropy.item()
        row["charts/episodes"] = iteration * args.rollout_size
        row["charts/tokens_per_second"] = tokens / (time.time() - iteration_time)
        row["charts/learning_rate"] = args.learning_rate * warmup
        progress.set_postfix_str(f"accuracy {row['rollout/accuracy_1']:.2f} -> {row['rollout/accuracy_2']:.2f}")

        # ---- EVAL
        if last or iteration % args.eval_every == 0:
            saved = common.episode_rows(iteration, "rollout", problems, episodes, args.save_episodes)
            common.write_rows(run_dir / "episodes.jsonl", saved)
            row |= evaluate(iteration, models, tokenizers, eval_problems, args)
        row["charts/seconds"] = time.time() - start_time
        common.write_rows(run_dir / "metrics.jsonl", [row])
        if args.track:
            wandb.log(row, step=iteration)

        # ---- CHECKPOINT
        if last or iteration % args.save_every == 0:
            trainer = {"iteration": iteration, "seconds": time.time() - start_time}
            trainer |= {"optimizers": [o.state_dict() for o in optimizers]}
            masters = [[w.data for w in o.param_groups[0]["params"]] for o in optimizers]
            trainer["masters"] = masters if dtype == "bfloat16" else []  # otherwise they are the models' weights
            trainer |= {"rng": torch.get_rng_state(), "cuda_rng": torch.cuda.get_rng_state_all()}
            folders = {"solver": (solver, solver_tokenizer)}
            recent = common.read_rows(run_dir / "metrics.jsonl")[-args.save_every :]
            rewards = [past["rollout/reward"] for past in recent if past["iteration"]]
            scores = {"mean_reward": float(np.mean(rewards))}  # of the last save_every iterations
            scores |= {name: row[name] for name in ("eval/accuracy_1", "eval/accuracy_2")}
            save_checkpoint(run_dir, iteration, folders, trainer, scores, args.keep_checkpoints)

    more = common.command_line(args, "score.py", if_run_exists="resume", iterations=2 * args.iterations)
    best, last = common.best_checkpoint(run_dir), common.last_checkpoint(run_dir)
    print(f"done: metrics.jsonl and episodes.jsonl are in {run_dir}, the models in {last}")
    print(f"highest mean training reward: {best}; to train on: {more}")
    if args.report:
        print(common.write_report(run_dir))


if __name__ == "__main__":
    common.run(main, tyro.cli(Args, description=__doc__), "score.py")
