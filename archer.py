"""ArCHer, single turn: a critic of whole responses learns off-policy to grade them; its advantage trains the actor.

    s problem      a ~ pi(.|s) the whole response      r = verify(a) in {0, 1}      D replay buffer of (s, a, r)
    Q_i(s,a), V_i(s), i = 1, 2: heads on one encoder       Q^-_i: their Polyak average, theta^- += tau (theta - theta^-)

    critic    sum_i E_D[ (Q_i(s,a) - r)^2 ] + sum_i E_{s~D, a'~pi}[ (V_i(s) - Q^-_i(s,a'))^2 ]
    actor     -E_{s~D, a'~pi}[ A sum_t log pi(a'_t | s, a'_<t) ]       A = min_i Q_i(s,a') - min_i V_i(s), no gradient
              --use-baseline: token t gets A - b_t instead, where b(s, a'_<t) learns by (b_t - A)^2

The verifier's reward reaches the actor only through the critic: rollout/critic_auc says how well the critic grades.

Paper: ArCHer (https://arxiv.org/abs/2402.19446). Run: python archer.py

Departures from the paper:
1. The episode ends after one response, so that Q's target r + gamma V^-(s') is r: there is no gamma.
2. The critic reads problem and response as one text. The authors' code encodes them apart, so that no layer of the
   encoder compares the two; --critic-input separate does the same.
3. b is a linear head on the actor's own states, which its loss does not move.
The embedded task is `functions`, not `arithmetic`: a critic of this size learns to compare lines, but not to do sums.

B responses (b of a micro-batch); P prompt, T response tokens, L both, M of all b, m of a chunk; C hidden, W vocabulary.
"""

import copy
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import common
import runs

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

LOGITS_CHUNK = 1024  # response tokens whose logits, (m, W) in float32, exist at once (memory only)


@dataclass
class Args:
    # ---- experiment
    exp_name: str = "archer"  # name of the experiment, part of the run folder's name
    seed: int = 1  # seeds the sampling of responses and the order of the problems
    device: Literal["auto", "cuda", "cpu"] = "auto"  # auto: a GPU if there is one, otherwise the CPU
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"  # of the weights; auto: bfloat16 on a GPU, else float32
    run_dir: str | None = None  # run folder; by default runs/{dataset}__{exp_name}__{seed}__{time}
    if_run_exists: Literal["raise", "resume", "delete"] = "raise"  # stop, resume its last checkpoint, or start over
    track: bool = False  # also send the metrics to Weights & Biases (needs wandb)
    wandb_project: str = "textual-feedback-rl"  # project of --track

    # ---- model and data
    policy_lm: str | None = None  # solver: a folder or hub name; by default an embedded one
    critic_lm: str | None = None  # the critic's encoder; by default roberta-base, for an embedded policy its own trunk
    chat_template: bool = True  # render prompts with the tokenizer's chat template, if it has one
    solve_prompt: str | None = None  # instruction for the first attempt: a text or a .txt file; "" for none
    system_prompt: str | None = None  # system message before every prompt, likewise; by default none
    gradient_checkpointing: bool = False  # recompute activations in the backward pass: less memory, a third more time
    lora_rank: int = 0  # train adapters of this rank on all linear layers (LoRA, needs peft); 0: train all weights
    lora_alpha: int = 32  # an adapter's output is scaled by lora_alpha / lora_rank
    dataset: str = "functions"  # arithmetic, countdown, functions, conventions, math, gsm8k, mbpp(-sanitized), a file
    split: str = "train"  # split to train on; a file has train, test (one question in ten, by its text) and all
    eval_dataset: str | None = None  # data set to evaluate on, never trained on; by default dataset
    eval_split: str = "test"  # split to evaluate on
    min_level: int | None = None  # train on problems of this level or higher only
    tests_in_prompt: int = 1  # tests of a code problem that the models see; the others stay hidden

    # ---- rollout
    rollout_size: int = 128  # episodes of one iteration (B), all sampled from the same policies
    max_new_tokens: int = 40  # longest response of the solver, in tokens
    temperature: float = 1.0  # sampling temperature; the log-probabilities in training use the same
    top_p: float = 1.0  # nucleus sampling; below 1 the sampler is no longer exactly the policy that is trained
    generation_batch_size: int = 0  # most responses sampled at once (memory only); 0: as many as memory allows
    strict_answers: bool = False  # a mathematical answer counts only in \boxed{}
    code_timeout: float = 5.0  # time limit of a program in seconds; unfinished tests fail
    unsafe_code: bool = False  # if no sandbox can be set up, run programs with limits of time and memory alone

    # ---- algorithm
    critic_input: Literal["joint", "separate"] = "joint"  # Q reads both as one text, or encodes each
    capacity: int = 100_000  # transitions that the replay buffer holds; the oldest are dropped first
    warmup_iterations: int = 10  # first iterations, in which only the critic is trained
    critic_epochs: int = 4  # rounds of critic updates, each on as many transitions of the buffer as a rollout has
    critic_batch_size: int = 64  # transitions per critic step
    tau: float = 0.1  # step of the target critic towards the critic after each critic step
    actor_epochs: int = 1  # actor steps per iteration, each on fresh responses to problems drawn from the buffer
    actor_batch_size: int = 64  # responses per actor step (B)
    use_baseline: bool = False  # subtract a token-level baseline from the advantage (in the paper, not in its code)

    # ---- optimisation
    iterations: int = 40  # rollouts, each followed by its updates
    learning_rate: float = 1e-4  # learning rate of the solver (Adam)
    critic_lr: float = 1e-3  # learning rate of the critic, its encoder included, constant from the start
    baseline_lr: float = 1e-3  # learning rate of the token-level baseline; a step moves it by about 100 times this
    lr_warmup_iterations: int = 5  # the language models' learning rates rise linearly over these iterations
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"  # after the warm-up
    min_lr_ratio: float = 0.1  # fraction of them that is left at the last iteration, where they fall
    adam_betas: tuple[float, float] = (0.9, 0.95)  # Adam's decay rates
    max_grad_norm: float = 1.0  # the gradient of each network is clipped to this norm
    micro_batch_size: int = 64  # most sequences in one forward and backward pass (memory only)
    tokens_per_micro_batch: int = 0  # most tokens in one, padding included (memory only); 0: no limit

    # ---- logging and checkpoints
    eval_every: int = 10  # evaluate after every n-th iteration, before the first and after the last
    eval_size: int = 200  # most held-out problems of an evaluation
    eval_seed: int = 0  # seeds the sampling of every evaluation, independently of training
    save_every: int = 10  # write a checkpoint after every n-th iteration, and after the last
    keep_checkpoints: int = 2  # newest checkpoints to keep, plus the best one by training reward; 0 keeps all
    report: bool = True  # at the end, write report.html with the run's curves and episodes


# ---- rollout -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def generate(model, tokenizer, prompts: list[tuple[list[int], int]], max_new_tokens: int, args: Args) -> dict:
    """Samples one response for each prompt (greedily at temperature 0): a turn, with its tensors and texts.

    prompts: (token ids, prefix length) from encode_prompt. Prompts are padded on the left, responses on the right.
    response_mask runs to the first end-of-sequence token, inclusive. Padding is told by the masks, never by its id.
    """
    model.eval()  # with train mode's gradient checkpointing there is no KV cache
    end_ids = torch.tensor(runs.end_ids(model, tokenizer), device=model.device)
    prompts, cut = common.fit_prompts(prompts, model.config, max_new_tokens)
    prompt_ids, prompt_mask = runs.pad_left([ids for ids, _ in prompts], model.device)  # (B, P)
    B, T = len(prompts), max_new_tokens
    response_ids, response_mask = torch.zeros(2, B, T, dtype=torch.long, device=model.device)  # (B, T)
    logprobs, entropies = torch.zeros(2, B, T, device=model.device)  # (B, T)
    truncated = torch.tensor(cut, device=model.device).long()  # (B,)
    uniforms = torch.rand(B, T, dtype=torch.float64, device=model.device)  # so that no batch decides what is drawn
    by_length = prompt_mask.sum(1).argsort(stable=True)  # sorted by length to limit padding
    for rows in runs.batches(by_length, runs.generation_batch_size(args, model, prompt_ids.shape[1] + T)):
        P = int(prompt_mask[rows].sum(1).max())
        ids_and_mask = torch.cat([prompt_ids[rows, -P:], prompt_mask[rows, -P:]], 1)  # (b, 2 P)
        unique, places = ids_and_mask.unique(dim=0, return_inverse=True)  # a prompt is read once for all its responses
        (ids, mask), decoder = unique.chunk(2, 1), runs.Decoder(model)
        position_ids = (mask.cumsum(1) - 1).clamp(min=0)
        for t in range(T):
            logits = model.get_output_embeddings()(decoder.last_states(ids, mask, position_ids))
            sampled = runs.sample(logits[places], uniforms[rows, t], args.temperature, args.top_p)  # 3 x (b,)
            response_ids[rows, t], logprobs[rows, t], entropies[rows, t] = sampled
            response_mask[rows, t] = 1
            going = ~torch.isin(sampled[0], end_ids)  # (b,)
            rows, places = rows[going], places[going]  # what has ended leaves the batch
            if len(rows) == 0:
                break
            if t == 0 or not going.all():
                mask, position_ids = mask[places], position_ids[places]
                decoder.keep(places)
            ids, position_ids = response_ids[rows, t, None], position_ids[:, -1:] + 1  # (b, 1)
            mask, places = torch.nn.functional.pad(mask, (0, 1), value=1), torch.arange(len(rows), device=model.device)
        truncated[rows] = 1  # those that are left
    runs.total(response_ids, response_mask, logprobs, entropies, truncated)  # each process has filled its own rows
    responses = [ids[mask == 1].tolist() for ids, mask in zip(response_ids, response_mask)]
    turn = {"prompts": prompts, "prompt_ids": prompt_ids, "prompt_mask": prompt_mask, "response_ids": response_ids}
    turn |= {"response_mask": response_mask.bool(), "logprobs": logprobs, "entropies": entropies}
    turn["prefix_length"] = torch.tensor([length for _, length in prompts], device=model.device)  # (B,)
    return turn | {"truncated": truncated > 0, "texts": tokenizer.batch_decode(responses, skip_special_tokens=True)}


def load_encoder(name: str, device: str):
    """The critic's encoder and its tokenizer, in float32, from a folder or the hub. Raises InputError."""
    source = runs.model_source(name)
    try:
        loading = {"dtype": torch.float32, "trust_remote_code": False, "output_loading_info": True}
        encoder, found = AutoModel.from_pretrained(source, **loading)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # a missing folder, no network, a file cut short: each library raises its own types
        raise runs.not_loaded("--critic-lm", name, error) from error
    if flaw := runs.incomplete(encoder, found):
        raise common.InputError(f"--critic-lm {name} {flaw}")
    tokenizer.padding_side = "right"
    tokenizer.truncation_side = "left"  # a long text, of a pair the longer, loses its beginning
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return encoder.to(device), tokenizer


def run_episodes(models, tokenizers, problems: list[common.Problem], args: Args) -> dict:
    """One response to each problem, and its verdict, (B,)."""  # differs: one turn
    # TURN 1: a ~ pi(.|s)
    prompts = [common.encode_prompt(tokenizers[0], common.attempt_messages(p)) for p in problems]
    turn_1 = generate(models[0], tokenizers[0], prompts, args.max_new_tokens, args)
    rewards, verdict_log = runs.from_first(common.verify_turns, [turn_1["texts"]], problems, args)
    (rewards_1,) = torch.tensor(rewards, device=models[0].device)
    return {"attempt": turn_1, "rewards_1": rewards_1, "verdict_log": verdict_log}


# ---- log-probabilities ----------------------------------------------------------------------------------------------


def hidden_states(model, turn: dict, rows: torch.Tensor) -> torch.Tensor:
    """The backbone's final states over these rows, each a prompt and its response, padded on the right: (b, L, C)."""
    return runs.final_states(model, turn, rows)


def token_logprobs(model, hidden, turn, rows, args) -> torch.Tensor:
    """log pi(y_t | prompt, y_<t) at the sampling temperature for every response token, float32, zero elsewhere: (b, T).

    Logits are made for response tokens only, a chunk at a time, and again in the backward pass: (b, T, W) in float32
    never exists at once.
    """
    mask = turn["response_mask"][rows]  # (b, T)
    targets = turn["response_ids"][rows][mask]  # (M,)
    t = torch.arange(1, hidden.shape[1] + 1, device=hidden.device) - turn["prompt_mask"][rows].sum(1, keepdim=True)
    states = hidden[(t >= 0) & (t < mask.sum(1, keepdim=True))]  # (M, C): the state before a token predicts it

    def chunk(states, targets):  # (m, C), (m,) -> (m,)
        log_pi = (model.get_output_embeddings()(states).float() / args.temperature).log_softmax(-1)  # (m, W)
        return log_pi.gather(-1, targets[:, None]).squeeze(-1)

    parts = [
        checkpoint(chunk, *piece, use_reentrant=False, preserve_rng_state=False)  # nothing random is made again
        for piece in zip(states.split(LOGITS_CHUNK), targets.split(LOGITS_CHUNK))
    ]
    return torch.zeros(mask.shape, device=hidden.device).masked_scatter(mask, torch.cat(parts))


# ---- the method ----------------------------------------------------------------------------------------------------


class Critic(torch.nn.Module):
    """Double Q and double V on one encoder. Texts in, Q_1, Q_2 (b, 2) and V_1, V_2 (b, 2) out."""

    def __init__(self, encoder, tokenizer, joint: bool):
        super().__init__()
        self.encoder, self.tokenizer, self.joint = encoder, tokenizer, joint
        positions = getattr(encoder.config, "max_position_embeddings", 10**6) - 2  # RoBERTa's first two are no tokens
        self.max_length = min(tokenizer.model_max_length, positions)
        self.end = "" if tokenizer.num_special_tokens_to_add() else tokenizer.eos_token or ""
        C = encoder.config.hidden_size

        def head(size: int) -> torch.nn.Module:
            layers = (torch.nn.Linear(size, C), torch.nn.ReLU(), torch.nn.Linear(C, C), torch.nn.ReLU())
            return torch.nn.Sequential(*layers, torch.nn.Linear(C, 1))

        self.q_heads = torch.nn.ModuleList(head(C if joint else 2 * C) for _ in range(2))
        self.v_heads = torch.nn.ModuleList(head(C) for _ in range(2))

    def tokenize(self, *texts: list[str], max_length: int | None = None):
        """Texts, or pairs of them from two lists; with max_length, what is longer is cut."""
        texts = (*texts[:-1], [text + self.end for text in texts[-1]])
        flags = {"truncation": max_length is not None, "max_length": max_length}
        return self.tokenizer(*texts, padding=True, return_tensors="pt", **flags)

    def encode(self, *texts: list[str]) -> torch.Tensor:
        """The encoder's pooled state, or the mean over its tokens' states where it has no pooler: (b, C)."""
        inputs = self.tokenize(*texts, max_length=self.max_length).to(self.encoder.device)
        mask = inputs.attention_mask  # (b, L)
        output = self.encoder(input_ids=inputs.input_ids, attention_mask=mask)
        if getattr(output, "pooler_output", None) is not None:
            return output.pooler_output
        return (output.last_hidden_state * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)

    def forward(self, states: list[str], actions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        s = self.encode(states)  # (b, C)
        sa = self.encode(states, actions) if self.joint else torch.cat([s, self.encode(actions)], 1)  # (b, C or 2 C)
        return torch.cat([q(sa) for q in self.q_heads], 1), torch.cat([v(s) for v in self.v_heads], 1)


@torch.no_grad()
def grade(critic: Critic, states: list[str], actions: list[str], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Q and V, each (B, 2), without gradient and without dropout, which would make targets and advantages noisy."""
    critic.eval()
    parts = [critic(states[i : i + size], actions[i : i + size]) for i in range(0, len(states), size)]
    return tuple(torch.cat(part) for part in zip(*parts))


def critic_losses(q, v, rewards, target_q) -> tuple[torch.Tensor, torch.Tensor]:
    """sum_i (Q_i(s,a) - r)^2 and sum_i (V_i(s) - Q^-_i(s,a'))^2: (b, 2), (b, 2), (b,), (b, 2) -> (b,), (b,)."""
    return (q - rewards[:, None]).pow(2).sum(1), (v - target_q).pow(2).sum(1)


def advantage(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """A = min_i Q_i(s,a) - min_i V_i(s): (B, 2), (B, 2) -> (B,)."""
    return q.min(1).values - v.min(1).values


@torch.no_grad()
def polyak_step(target: Critic, critic: Critic, tau: float) -> None:
    """theta^- <- theta^- + tau (theta - theta^-)."""
    for average, weight in zip(target.parameters(), critic.parameters()):
        average.lerp_(weight, tau)


def auc(scores: torch.Tensor, rewards: torch.Tensor) -> float | None:
    """The probability that a right response scores above a wrong one; None if all are right or all are wrong."""
    right, wrong = scores[rewards == 1, None], scores[None, rewards == 0]
    above = (right > wrong).double() + 0.5 * (right == wrong).double()
    return above.mean().item() if above.numel() else None


def token_baseline(head, hidden: torch.Tensor, turn: dict, rows: torch.Tensor) -> torch.Tensor:
    """b_t of every response token, from the actor's state before it, so that no token sees itself: (b, T).

    States are scaled to sum_i |h_i| = 100: a step of Adam then moves b_t by about 100 baseline_lr at most in any model.
    """
    mask = turn["response_mask"][rows]  # (b, T)
    t = torch.arange(mask.shape[1], device=hidden.device) + turn["prompt_mask"][rows].sum(1, keepdim=True) - 1  # (b, T)
    states = hidden.gather(1, t.clamp(max=hidden.shape[1] - 1)[:, :, None].expand(-1, -1, hidden.shape[2]))
    return head(100 * torch.nn.functional.normalize(states.detach().float(), p=1, dim=2)).squeeze(-1) * mask


def accumulate_gradients(model, turn, advantages, args, baseline_head=None) -> tuple[float, float]:
    """Adds the gradient of -mean_B[ sum_t (A - b_t) log pi(a_t) ] to .grad; returns the policy and the baseline loss.

    The responses are fresh: no ratio. Sums over tokens are divided by B, so micro_batch_size is a memory knob only.
    """  # differs: ArCHer's actor, no ratio and no KL
    total_loss = total_baseline_loss = 0.0
    B = len(advantages)
    model.train(args.gradient_checkpointing)  # Hugging Face recomputes layers in train mode only; dropout is zero
    for mb in runs.micro_batches(turn, torch.arange(B, device=model.device), args):
        hidden = hidden_states(model, turn, mb)  # (b, L, C)
        logprobs = token_logprobs(model, hidden, turn, mb, args)  # (b, T)
        mask = turn["response_mask"][mb]
        A = advantages[mb, None].expand_as(logprobs)  # (b, T)
        baseline_loss = torch.zeros(len(mb), device=model.device)
        if baseline_head is not None:
            b = token_baseline(baseline_head, hidden, turn, mb)  # (b, T)
            baseline_loss = ((b - A).pow(2) * mask).sum(1)
            A = A - b.detach()
        loss = -(A * logprobs * mask).sum(1)
        total_loss += loss.sum().item() / B
        total_baseline_loss += baseline_loss.sum().item() / B
        ((loss + baseline_loss).sum() / B).backward()
    return runs.total(total_loss, total_baseline_loss)


# ---- evaluation and main loop --------------------------------------------------------------------------------------


def evaluate(run, iteration: int, models, tokenizers, problems: list[common.Problem], args: Args) -> dict:
    """The eval/ metrics on held-out problems; saves the episodes.

    Sampled as in training, but from a seed of its own that leaves training's random numbers as they were.
    """  # differs: one turn
    with torch.random.fork_rng([run.device] * (run.device != "cpu")):
        torch.manual_seed(args.eval_seed)
        episodes = run_episodes(models, tokenizers, problems, args)
    runs.log_episodes(run, iteration, "eval", problems, episodes)
    metrics = {"accuracy_1": float(np.mean(episodes["rewards_1"].tolist()))}
    return {f"eval/{key}": value for key, value in metrics.items()}


def main(args: Args) -> None:
    run = runs.find(args, __file__)
    train_problems, eval_problems = runs.from_first(common.load_problems_for, args)
    policy_lm = args.policy_lm or runs.embedded_model(train_problems)
    solver, solver_tokenizer = runs.load_lm(run, policy_lm, "--policy-lm", "solver")
    models, tokenizers = (solver,), (solver_tokenizer,)
    critic_lm = args.critic_lm or (policy_lm if policy_lm in runs.EMBEDDED_MODELS else "roberta-base")
    critic = Critic(*load_encoder(critic_lm, run.device), args.critic_input == "joint").to(run.device)
    target = copy.deepcopy(critic).requires_grad_(False)
    C = solver.get_output_embeddings().in_features
    baseline_head = torch.nn.Linear(C, 1, device=run.device) if args.use_baseline else None
    for weight in baseline_head.parameters() if args.use_baseline else ():
        torch.nn.init.zeros_(weight)  # b_t starts at 0, as A does on average
    problems = train_problems + eval_problems
    prompts = [common.attempt_messages(p) for p in problems]
    room = args.max_new_tokens
    runs.check_prompts(run, solver, solver_tokenizer, prompts, problems, room, "--policy-lm")
    train_prompts = [common.encode_prompt(solver_tokenizer, common.attempt_messages(p)) for p in train_problems]
    states = [common.attempt_messages(p)[-1]["content"] + "\n" for p in train_problems]  # what the critic reads of s
    buffer: dict[str, list] = {"problems": [], "responses": [], "rewards": []}  # D: rows of train_problems, texts, r

    solver_optimizer = runs.Adam(solver, lr=args.learning_rate, betas=args.adam_betas)
    critic_optimizer = runs.Adam(critic, lr=args.critic_lr, betas=args.adam_betas)
    state = {"solver_optimizer": solver_optimizer, "critic_optimizer": critic_optimizer}
    state |= {"critic": critic, "target": target, "buffer": buffer}
    if baseline_head:
        baseline_optimizer = runs.Adam(baseline_head, lr=args.baseline_lr, betas=args.adam_betas)
        state |= {"baseline_head": baseline_head, "baseline_optimizer": baseline_optimizer}
    start = runs.begin(run, state, train_problems, eval_problems)
    if start == 0:
        metrics = evaluate(run, 0, models, tokenizers, eval_problems, args)
        runs.log(run, {"iteration": 0, "charts/episodes": 0} | metrics)

    progress = tqdm(range(start + 1, args.iterations + 1), initial=start, total=args.iterations, disable=None)
    for iteration in progress:
        iteration_time = time.time()
        lr_scale = common.lr_scale(args, iteration - args.warmup_iterations, args.iterations - args.warmup_iterations)
        solver_optimizer.lr = args.learning_rate * lr_scale

        # ---- ROLLOUT
        rows = common.problem_rows(iteration, args.rollout_size, len(train_problems), args.seed)
        problems = [train_problems[row] for row in rows]
        episodes = run_episodes(models, tokenizers, problems, args)
        turn_1, rewards_1 = episodes["attempt"], episodes["rewards_1"]  # (B,)
        for name, new in (("problems", rows), ("responses", turn_1["texts"]), ("rewards", rewards_1.tolist())):
            buffer[name] = (buffer[name] + new)[-args.capacity :]

        # ---- REWARDS AND ADVANTAGES
        # How well the critic grades responses that it has not been trained on yet.
        rollout_states = [states[row] for row in rows]
        q, v = grade(critic, rollout_states, turn_1["texts"], args.micro_batch_size)  # (B, 2), (B, 2)
        critic_auc, advantage_auc = auc(q.min(1).values, rewards_1), auc(advantage(q, v), rewards_1)

        # ---- UPDATE: the critic
        losses = defaultdict(list)  # of each optimiser step
        draws = torch.randint(len(buffer["problems"]), (args.critic_epochs * args.rollout_size,)).tolist()
        # a' ~ pi(.|s) for all critic steps at once: the actor does not move between them.
        prompts = [train_prompts[buffer["problems"][i]] for i in draws]
        turn = generate(solver, solver_tokenizer, prompts, args.max_new_tokens, args)
        tokens = turn_1["response_mask"].sum().item() + turn["response_mask"].sum().item()
        for first in range(0, len(draws), args.critic_batch_size):
            batch = draws[first : first + args.critic_batch_size]
            fresh_actions = turn["texts"][first : first + args.critic_batch_size]
            batch_states = [states[buffer["problems"][i]] for i in batch]
            actions = [buffer["responses"][i] for i in batch]
            rewards = torch.tensor([buffer["rewards"][i] for i in batch], device=run.device)  # (B,)
            target_q, _ = grade(target, batch_states, fresh_actions, args.micro_batch_size)  # (B, 2)
            critic.train()
            q_sum = v_sum = 0.0
            for mb in torch.arange(len(batch)).split(args.micro_batch_size):
                q, v = critic([batch_states[i] for i in mb], [actions[i] for i in mb])
                q_loss, v_loss = critic_losses(q, v, rewards[mb], target_q[mb])
                ((q_loss + v_loss).sum() / len(batch) / runs.world_size()).backward()  # every process does all of it
                q_sum, v_sum = q_sum + q_loss.sum().item(), v_sum + v_loss.sum().item()
            losses["critic_q"].append(q_sum / len(batch))
            losses["critic_v"].append(v_sum / len(batch))
            losses["grad_norm_critic"].append(critic_optimizer.step(args.max_grad_norm, losses))
            polyak_step(target, critic, args.tau)

        # The actor: each step on fresh responses, which the critic alone judges.
        for _ in range(args.actor_epochs if iteration > args.warmup_iterations else 0):
            draws = torch.randint(len(buffer["problems"]), (args.actor_batch_size,)).tolist()
            drawn = [buffer["problems"][i] for i in draws]
            prompts = [train_prompts[row] for row in drawn]
            turn = generate(solver, solver_tokenizer, prompts, args.max_new_tokens, args)
            tokens += turn["response_mask"].sum().item()
            A = advantage(*grade(critic, [states[row] for row in drawn], turn["texts"], args.micro_batch_size))  # (B,)
            policy, baseline = accumulate_gradients(solver, turn, A, args, baseline_head)
            losses["policy_solver"].append(policy)
            losses["grad_norm_solver"].append(solver_optimizer.step(args.max_grad_norm, losses))
            if baseline_head:
                losses["baseline"].append(baseline)
                losses["grad_norm_baseline"].append(baseline_optimizer.step(args.max_grad_norm, losses))

        # ---- LOG
        length_1 = turn_1["response_mask"].sum(1).float()
        texts = [(rollout_states, turn_1["texts"])] if critic.joint else [(rollout_states,), (turn_1["texts"],)]
        lengths = torch.stack([critic.tokenize(*part).attention_mask.sum(1) for part in texts])  # (1 or 2, B)
        read = lengths.amax(0)  # (B,) of the longest text that is read at once
        metrics = {
            "iteration": iteration,
            "rollout/accuracy_1": rewards_1.mean().item(),
            "rollout/reward": rewards_1.mean().item(),
            "rollout/response_length_1": length_1.mean().item(),
            "rollout/truncated": turn_1["truncated"].float().mean().item(),
            **episodes["verdict_log"],
            "rollout/critic_auc": critic_auc,
            "rollout/advantage_auc": advantage_auc,
            "rollout/critic_truncated": (read > critic.max_length).float().mean().item(),
            "losses/policy_solver": common.mean(losses["policy_solver"]),
            "losses/critic_q": common.mean(losses["critic_q"]),
            "losses/critic_v": common.mean(losses["critic_v"]),
            "losses/baseline": common.mean(losses["baseline"]),
            "losses/entropy": (turn_1["entropies"].sum() / length_1.sum()).item(),
            "losses/grad_norm_solver": common.mean(losses["grad_norm_solver"]),
            "losses/grad_norm_critic": common.mean(losses["grad_norm_critic"]),
            "losses/grad_norm_baseline": common.mean(losses["grad_norm_baseline"]),
            "charts/episodes": iteration * args.rollout_size,
            "charts/tokens_per_second": tokens / (time.time() - iteration_time),
            "charts/learning_rate": args.learning_rate * lr_scale,
        }
        progress.set_postfix_str(f"accuracy {metrics['rollout/accuracy_1']:.2f}, critic's AUC {critic_auc or 0:.2f}")

        # ---- EVAL
        if iteration == args.iterations or iteration % args.eval_every == 0:
            runs.log_episodes(run, iteration, "rollout", problems, episodes)
            metrics |= evaluate(run, iteration, models, tokenizers, eval_problems, args)
        runs.log(run, metrics)

        # ---- CHECKPOINT
        runs.checkpoint(run, iteration, {"solver": (solver, solver_tokenizer)}, state)
    runs.finish(run)


if __name__ == "__main__":
    common.run(main, common.parse(Args, __doc__), __file__)
