"""GRPO on what groups of people want: the worst-off group's reward is raised (MaxMin-RLHF, SharedRep-RLHF).

    max_pi min_u E[r_u(x, y)] - beta KL    u minority, majority; r_u: --reward
    --minmax batch   R_i = r_v(y_i), v = argmin_u mean r_u over the rollout
      group_weights  l_u <- l_u exp(-eta mean r_u) / Z, then R_i = sum_u l_u r_u(y_i)
      sample         R_i = min_u r_u(y_i): E[min_u r_u], the authors' objective
    A_i = (R_i - mean R) / std R over its group of G responses, as in grpo.py
    minimises, over all n = N G responses, with KL_t by --kl-estimator,
    1/n sum_i sum_t [ -min(ratio_t A_i, clip(ratio_t) A_i) + beta KL_t ]

--reward gold: the scores that the groups judge by; sharedrep, maxmin: learned heads; uniform: one head for all.
Papers: https://arxiv.org/abs/2509.03672 (SharedRep), 2402.08925 (MaxMin). Run: python sharedrep_reward.py, then
python sharedrep_grpo.py. Departures from the authors' code (trl's GRPO):
1. G = 8: of two responses the advantages are .707 and -.707 whatever the rewards are. One step a rollout: ratio 1.
2. Gold trains on all questions, and standardises by the very reference that the pairs were judged by.
3. The minimum is one over the groups' means, the papers' objective; of each response only with --minmax sample.

B responses (b of a micro-batch), P, T tokens of prompt and response, M of a micro-batch, m of a chunk, C hidden, W
vocabulary, U groups of people (a group in GRPO's names is the responses to one problem).
"""

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import common
import runs

import numpy as np
import torch
import tyro
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

LOGITS_CHUNK = 1024  # response tokens whose logits, (m, W) in float32, exist at once (memory only)


@dataclass
class Args:
    # ---- experiment
    exp_name: str = "sharedrep_grpo"  # name of the experiment, part of the run folder's name
    seed: int = 1  # seeds the sampling of responses and the order of the problems
    device: Literal["auto", "cuda", "cpu"] = "auto"  # auto: a GPU if there is one, otherwise the CPU
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"  # of the weights; auto: bfloat16 on a GPU, else float32
    run_dir: str | None = None  # run folder; by default runs/{dataset}__{exp_name}__{seed}__{time}
    if_run_exists: Literal["raise", "resume", "delete"] = "raise"  # stop, resume its last checkpoint, or start over
    track: bool = False  # also send the metrics to Weights & Biases (needs wandb)
    wandb_project: str = "textual-feedback-rl"  # project of --track

    # ---- model and data
    policy_lm: str | None = None  # solver: a folder or hub name; by default an embedded one
    chat_template: bool = True  # render prompts with the tokenizer's chat template, if it has one
    solve_prompt: str | None = None  # instruction for the first attempt: a text or a .txt file; "" for none
    system_prompt: str | None = None  # system message before every prompt, likewise; by default none
    gradient_checkpointing: bool = False  # recompute activations in the backward pass: less memory, a third more time
    lora_rank: int = 0  # train adapters of this rank on all linear layers (LoRA, needs peft); 0: train all weights
    lora_alpha: int = 32  # an adapter's output is scaled by lora_alpha / lora_rank
    dataset: str = "arithmetic"  # arithmetic, countdown, functions, conventions, math, gsm8k, mbpp(-sanitized), a file
    split: str = "train"  # split to train on; a file has train, test (one question in ten, by its text) and all
    eval_dataset: str | None = None  # data set to evaluate on, never trained on; by default dataset
    eval_split: str = "test"  # split to evaluate on
    min_level: int | None = None  # train on problems of this level or higher only
    prompt_template: str = "none"  # none, baseline, step_by_step, concise, or a .json file: a list of messages
    reward_dir: str | None = None  # folder of sharedrep_reward.py; by default runs/{dataset}__sharedrep_reward__{seed}

    # ---- rollout
    groups_per_batch: int = 8  # problems of one iteration (N)
    group_size: int = 8  # responses to each problem (G)
    max_new_tokens: int = 64  # longest response of the solver, in tokens
    temperature: float = 1.0  # sampling temperature; the log-probabilities in training use the same
    top_p: float = 1.0  # nucleus sampling; below 1 the sampler is no longer exactly the policy that is trained
    generation_batch_size: int = 0  # most responses sampled at once (memory only); 0: as many as memory allows

    # ---- algorithm
    reward: Literal["gold", "sharedrep", "maxmin", "uniform"] = "sharedrep"  # r_u: the true scores, or learned heads
    proportion: float = 0.1  # share of questions whose pair the minority judges
    k: int = 2  # traits that the groups share (sharedrep)
    minmax: Literal["sample", "batch", "group_weights"] = "batch"  # min of each response; of the means; weights
    group_weights_lr: float = 1.0  # eta: how fast group_weights move to the group whose mean reward is lowest
    advantage_norm: Literal["std", "none"] = "std"  # divide by the group's standard deviation (GRPO), or not (Dr.GRPO)
    clip_coef: float = 0.2  # epsilon of the clipped ratio, which is 1 at the first step of a rollout
    kl_coef: Annotated[float, tyro.conf.arg(aliases=["--beta1"])] = 0.05  # beta1 (MLMT-RL: beta_L): weight of the KL
    kl_estimator: Literal["k1_reward", "k2_loss", "k3_loss"] = "k3_loss"  # k1: in the return; k2, k3: a loss

    # ---- optimisation
    iterations: int = 40  # rollouts, each followed by its updates
    learning_rate: float = 2e-4  # learning rate of the solver (Adam)
    lr_warmup_iterations: int = 5  # the language models' learning rates rise linearly over these iterations
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"  # after the warm-up
    min_lr_ratio: float = 0.1  # fraction of them that is left at the last iteration, where they fall
    adam_betas: tuple[float, float] = (0.9, 0.95)  # Adam's decay rates
    max_grad_norm: float = 1.0  # the gradient of each network is clipped to this norm
    num_minibatches: int = 1  # optimiser batches, and steps, of one pass over a rollout
    update_epochs: int = 1  # passes over a rollout
    micro_batch_size: int = 16  # most sequences in one forward and backward pass (memory only)
    tokens_per_micro_batch: int = 0  # most tokens in one, padding included (memory only); 0: no limit

    # ---- logging and checkpoints
    win_rate_against: str | None = None  # run folder of this script whose last evaluation ours is compared with
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


def run_episodes(models, tokenizers, problems: list[common.Problem], args: Args, scorer) -> dict:
    """A response to each problem, its verdict, (B,), and its gold and trained-on scores, (B, U)."""  # differs: scored
    template = common.load_template(args.prompt_template, problems)
    prompts = [common.encode_prompt(tokenizers[0], common.attempt_messages(p, template)) for p in problems]
    turn_1 = generate(models[0], tokenizers[0], prompts, args.max_new_tokens, args)
    runs.cut_at_stops(turn_1, tokenizers[0], scorer["stop_strings"])
    start_time, texts, phi, head = time.time(), turn_1["texts"], scorer["phi"], scorer["head"]
    verdicts = runs.from_first(common.verify_all, texts, problems)
    logits = reward_heads(phi([""] * len(texts), texts), scorer["oracle"]).squeeze(1)  # (B,)
    tau = traits(verdicts, [len(text.split()) for text in texts], logits, scorer["reference"])  # (B, 3)
    gold = tau @ torch.tensor(list(scorer["reference"]["groups"].values())).T  # (B, U)
    r = reward_heads(phi([p.statement for p in problems], texts), head) if head else gold  # (B, U)
    episodes = {"attempt": turn_1, "rewards_1": torch.tensor(verdicts), "traits": tau, "gold": gold}
    return episodes | {"group_rewards": r, "seconds": time.time() - start_time}


# new in SHAREDREP
def traits(correct, words, logits, reference: dict) -> torch.Tensor:
    """tau: correct, concise = 1 - sigma(z(words)), socratic = sigma(z(logit)), each (n,), as (n, 3).

    reference: mean and deviation of words and of the oracle's logit, over the responses that z standardises by.
    """

    def z(name: str, values) -> torch.Tensor:
        return (torch.as_tensor(values, dtype=torch.float32).cpu() - reference[name][0]) / reference[name][1]

    correct = torch.as_tensor(correct, dtype=torch.float32).cpu()
    return torch.stack([correct, (-z("words", words)).sigmoid(), z("logit", logits).sigmoid()], 1)


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


@torch.no_grad()
def rollout_logprobs(model, turn: dict, args: Args) -> torch.Tensor:
    """Log-probabilities of all responses of a turn, without gradient: (B, T)."""
    logprobs = torch.zeros(turn["response_mask"].shape, device=model.device)  # (B, T)
    for rows in runs.micro_batches(turn, torch.arange(len(logprobs), device=model.device), args):
        logprobs[rows] = token_logprobs(model, hidden_states(model, turn, rows), turn, rows, args)
    return runs.total(logprobs)


# ---- the method ----------------------------------------------------------------------------------------------------


# new in SHAREDREP
def reward_heads(h: torch.Tensor, head: dict[str, torch.Tensor]) -> torch.Tensor:
    """r_u = f(w_u' (B' phi + b)) of each group, calibrated: (n, U), from phi (n, d)."""
    z = (h - head["mean"]) / head["deviation"] @ head["B"] + head["b"]  # (n, k)
    r = z @ head["w"].T  # (n, U)
    r = torch.tanh(r) if head["squash"] else r
    return (r - head["centre"]) / head["scale"]


# new in SHAREDREP
def worst_group_rewards(r: torch.Tensor, minmax: str, weights: torch.Tensor) -> torch.Tensor:
    """R of each response, (B,), from each group's reward r, (B, U), and the groups' weights l, (U,).

    E[min_u r_u] <= min_u E[r_u]: responses that please one group each are bad for sample, not for the others.
    """
    if minmax == "sample":
        return r.min(1).values
    return r[:, r.mean(0).argmin()] if minmax == "batch" else r @ weights


# new in SHAREDREP
def moved_weights(weights: torch.Tensor, r: torch.Tensor, lr: float) -> torch.Tensor:
    """l_u exp(-eta mean r_u) / Z: (U,), a step of mirror descent on the simplex."""
    return (weights.clamp(min=1e-30).log() - lr * r.mean(0)).softmax(0)  # no weight of 0, which could not come back


# new in GRPO
def group_advantages(rewards: torch.Tensor, group_size: int, norm: str) -> torch.Tensor:
    """A = (R - mean R) / (std R + 1e-4) in each group, or R - mean R: (B,). Exactly 0 where all rewards are equal."""
    groups = rewards.view(-1, group_size)  # (N, G)
    centred = groups - groups[:, :1]  # exactly 0 in a constant group, despite rounding
    centred = centred - centred.mean(1, keepdim=True)
    if norm == "std":
        centred = centred / (groups.std(1, keepdim=True) + 1e-4)
    return centred.flatten()


def policy_loss(new_logprobs, logprobs, advantages, response_mask, clip_coef: float) -> torch.Tensor:
    """-sum_t min(ratio_t A, clip(ratio_t, 1 - eps, 1 + eps) A) of each response: (b,). PPO, arXiv 1707.06347, eq. 7.

    At the first optimiser step the ratio is 1 and the gradient is REINFORCE's, -A grad log pi(response).
    """
    ratio = torch.exp(new_logprobs - logprobs)  # (b, T)
    A = advantages[:, None]  # (b, 1)
    clipped = torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)
    return -(torch.min(ratio * A, clipped * A) * response_mask).sum(1)


def kl_penalty(new_logprobs, ref_logprobs, estimator: str) -> torch.Tensor:
    """KL(pi || pi_ref) of each response as a loss, summed over its tokens: (b,). Log-probabilities are 0 off the mask.

    k2 = (log pi - log pi_ref)^2 / 2; k3 = rho - 1 - log rho, rho = pi_ref / pi, on average grad KL(pi_ref || pi).
    """
    log_ratio = new_logprobs - ref_logprobs  # (b, T)
    if estimator == "k2_loss":
        return (0.5 * log_ratio**2).sum(1)
    return (torch.exp(-log_ratio) - 1 + log_ratio).sum(1)


def accumulate_gradients(model, turn, rows, advantages, kl_coef, args) -> float:
    """Adds the gradient of one turn's loss over `rows`, an optimiser batch, to .grad; returns the policy loss.

    Sums over tokens are divided by the number of episodes in `rows`, so micro_batch_size is a memory knob only.
    """
    total_loss = 0.0
    model.train(args.gradient_checkpointing)  # Hugging Face recomputes layers in train mode only; dropout is zero
    for mb in runs.micro_batches(turn, rows, args):
        hidden = hidden_states(model, turn, mb)  # (b, L, C)
        new_logprobs = token_logprobs(model, hidden, turn, mb, args)
        mask = turn["response_mask"][mb]
        logprobs = turn["old_logprobs"][mb] if "old_logprobs" in turn else new_logprobs.detach()
        loss = policy_loss(new_logprobs, logprobs, advantages[mb], mask, args.clip_coef)
        total_loss += loss.sum().item() / len(rows)
        if kl_coef and args.kl_estimator != "k1_reward":
            loss = loss + kl_coef * kl_penalty(new_logprobs, turn["ref_logprobs"][mb], args.kl_estimator)
        (loss.sum() / len(rows)).backward()
    return runs.total(total_loss)


# ---- evaluation and main loop --------------------------------------------------------------------------------------


def evaluate(run, iteration: int, models, tokenizers, problems: list[common.Problem], args: Args, scorer) -> dict:
    """The eval/ metrics on held-out problems; saves the episodes, and what each group wants of every response.

    Sampled as in training, but from a seed of its own that leaves training's random numbers as they were.
    """  # differs: scored by groups, and against another run
    with torch.random.fork_rng([run.device] * (run.device != "cpu")):
        torch.manual_seed(args.eval_seed)
        episodes = run_episodes(models, tokenizers, problems, args, scorer)
    runs.log_episodes(run, iteration, "eval", problems, episodes)
    gold, names = episodes["gold"], list(scorer["reference"]["groups"])  # (B, U)
    rows = [{"iteration": iteration, "id": p.id} | dict(zip(names, row.tolist())) for p, row in zip(problems, gold)]
    runs.from_first(common.write_rows, run.folder / "scores.jsonl", rows)
    metrics = {"accuracy_1": float(np.mean(episodes["rewards_1"].tolist()))}
    metrics |= dict(zip(names, gold.mean(0).tolist())) | {"worst_group": gold.mean(0).min().item()}
    metrics |= dict(zip(("concise", "socratic"), episodes["traits"].mean(0)[1:].tolist()))
    metrics |= common.win_rates(rows, scorer["opponent"], names, args.eval_seed)
    return {f"eval/{key}": value for key, value in metrics.items()}


def load_scorer(run, args: Args, eval_problems: list[common.Problem]) -> dict:
    """What scores a response: phi, oracle, heads and reference of --reward-dir; the run to beat. Raises InputError."""
    folder = Path(args.reward_dir or f"runs/{Path(args.dataset).stem}__sharedrep_reward__{args.seed}")
    learned = args.reward != "gold"
    head = f"{args.reward}{f'-k{args.k}' * (args.reward == 'sharedrep')}-{args.proportion}.safetensors"
    for name in ("config.json", "reference.json", "oracle.safetensors", *[head] * learned):
        if not (folder / name).is_file():
            command = f"python sharedrep_reward.py --reward-dir '{folder}' --dataset {args.dataset} --seed {args.seed}"
            command += f" --proportion {args.proportion} --method {args.reward} --k {args.k}" * learned
            raise common.InputError(f"{folder} has no {name}; {command} and the flags of its models make it")
    try:
        files = (json.loads((folder / f"{n}.json").read_text(encoding="utf-8")) for n in ("config", "reference"))
        flags, reference = files
        scorer = {"reference": reference, "stop_strings": flags["args"]["stop_strings"]}
    except (ValueError, KeyError) as error:
        raise common.InputError(f"config.json or reference.json in {folder} is damaged: have it made again") from error
    scorer["opponent"] = common.opponent(args.win_rate_against, eval_problems)
    scorer["oracle"] = runs.load_tensors(folder / "oracle.safetensors")
    scorer["head"] = runs.load_tensors(folder / head) if learned else None
    source = flags["args"]["backbone"] or flags["args"]["policy_lm"] or runs.EMBEDDED_MODELS[-1]
    backbone, pooling = runs.load_lm(run, source, "the backbone of --reward-dir"), flags["args"]["pooling"]
    scorer["phi"] = lambda questions, texts: runs.features(*backbone, questions, texts, pooling, args.micro_batch_size)
    return scorer


def main(args: Args) -> None:
    args.tests_in_prompt, args.unsafe_code = 1, False  # of code problems, which have no such traits
    run = runs.find(args, __file__)
    train_problems, eval_problems = runs.from_first(common.load_problems_for, args)
    if any(problem.tests for problem in train_problems + eval_problems):
        raise common.InputError(f"--dataset {args.dataset} holds programs: the traits are those of a worked solution")
    if args.group_size == 2 and args.advantage_norm == "std":
        print("--group-size 2: with --advantage-norm std every advantage is .707 or -.707, whatever the rewards are")
    policy_lm, scorer = args.policy_lm or runs.EMBEDDED_MODELS[-1], load_scorer(run, args, eval_problems)
    solver, solver_tokenizer = runs.load_lm(run, policy_lm, "--policy-lm", "solver")
    reference = runs.load_lm(run, policy_lm, "--policy-lm")[0] if args.kl_coef else None  # the initial policy
    models, tokenizers = (solver, reference), (solver_tokenizer,)
    problems = train_problems + eval_problems
    template = common.load_template(args.prompt_template, problems)
    prompts = [common.attempt_messages(p, template) for p in problems]
    runs.check_prompts(run, solver, solver_tokenizer, prompts, problems, args.max_new_tokens, "--policy-lm")
    reward = runs.fingerprint([[str(weight.tolist()) for weight in (scorer["head"] or {}).values()]], [])
    run.prompts.append([reward] * len(problems))  # a run does not go on with another one
    solver_optimizer = runs.Adam(solver, lr=args.learning_rate, betas=args.adam_betas)
    U = len(scorer["head"]["w"] if scorer["head"] else scorer["reference"]["groups"])
    counters = {"weights": [1 / U] * U}  # l, of group_weights
    state = {"solver_optimizer": solver_optimizer, "counters": counters}
    start = runs.begin(run, state, train_problems, eval_problems)
    if start == 0:
        metrics = evaluate(run, 0, models, tokenizers, eval_problems, args, scorer)
        runs.log(run, {"iteration": 0, "charts/episodes": 0} | metrics)

    progress = tqdm(range(start + 1, args.iterations + 1), initial=start, total=args.iterations, disable=None)
    for iteration in progress:
        iteration_time = time.time()
        solver_optimizer.lr = args.learning_rate * common.lr_scale(args, iteration, args.iterations)

        # ---- ROLLOUT
        rows = common.problem_rows(iteration, args.groups_per_batch, len(train_problems), args.seed)
        problems = [train_problems[row] for row in rows for _ in range(args.group_size)]
        episodes = run_episodes(models, tokenizers, problems, args, scorer)
        turn, r = episodes["attempt"], episodes["group_rewards"]  # r (B, U)

        # ---- REWARDS AND ADVANTAGES
        weights = moved_weights(torch.tensor(counters["weights"]), r, args.group_weights_lr)  # l, (U,)
        counters["weights"] = weights.tolist()
        rewards = worst_group_rewards(r, args.minmax, weights).to(run.device)  # (B,)
        kl = torch.zeros_like(rewards)  # (B,) of each response, for the return and the log
        if args.kl_coef:
            turn["ref_logprobs"] = rollout_logprobs(reference, turn, args)  # (B, T)
            kl = (turn["logprobs"] - turn["ref_logprobs"]).sum(1)
        if args.update_epochs * args.num_minibatches > 1:  # otherwise they are the new ones
            turn["old_logprobs"] = rollout_logprobs(solver, turn, args)  # (B, T)
        A = group_advantages(rewards, args.group_size, args.advantage_norm)  # (B,)
        if args.kl_estimator == "k1_reward":
            A = A - args.kl_coef * group_advantages(kl, args.group_size, "none")

        # ---- UPDATE
        losses = defaultdict(list)  # of each optimiser step
        shuffles = [torch.randperm(len(rewards), device=run.device) for _ in range(args.update_epochs)]
        for batch in [batch for shuffle in shuffles for batch in shuffle.tensor_split(args.num_minibatches)]:
            losses["policy_solver"].append(accumulate_gradients(solver, turn, batch, A, args.kl_coef, args))
            losses["grad_norm_solver"].append(solver_optimizer.step(args.max_grad_norm, losses))

        # ---- LOG
        gold, lengths = episodes["gold"], turn["response_mask"].sum(1)  # (B, U), (B,)
        metrics = {
            "iteration": iteration,
            "rollout/accuracy_1": episodes["rewards_1"].mean().item(),
            "rollout/reward": rewards.mean().item(),
            "rollout/worst_group": gold.mean(0).min().item(),
            "rollout/minority_weight": weights[0].item() if args.minmax == "group_weights" else None,
            "rollout/response_length_1": lengths.float().mean().item(),
            "rollout/truncated": turn["truncated"].float().mean().item(),
            "losses/policy_solver": common.mean(losses["policy_solver"]),
            "losses/kl_solver": kl.mean().item() if args.kl_coef else None,
            "losses/entropy": (turn["entropies"].sum() / turn["response_mask"].sum()).item(),
            "losses/grad_norm_solver": common.mean(losses["grad_norm_solver"]),
            "charts/episodes": iteration * len(problems),
            "charts/verify_seconds": episodes["seconds"],
            "charts/tokens_per_second": lengths.sum().item() / (time.time() - iteration_time),
            "charts/learning_rate": solver_optimizer.lr,
        }
        progress.set_postfix_str(f"reward {rewards.mean():.2f}, worst group {metrics['rollout/worst_group']:.2f}")

        # ---- EVAL
        if iteration == args.iterations or iteration % args.eval_every == 0:
            runs.log_episodes(run, iteration, "rollout", problems, episodes)
            metrics |= evaluate(run, iteration, models, tokenizers, eval_problems, args, scorer)
        runs.log(run, metrics)

        # ---- CHECKPOINT
        runs.checkpoint(run, iteration, {"solver": (solver, solver_tokenizer)}, state)
    runs.finish(run)


if __name__ == "__main__":
    common.run(main, common.parse(Args, __doc__), __file__)
