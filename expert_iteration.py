"""Expert iteration: a model answers, keeps its correct answers and takes supervised steps on them, again and again.

    x -> o_1 .. o_G ~ pi(.|x)     r_i = verify(o_i) in {0, 1}     kept: the n responses with r_i = 1

minimises over the kept responses with their tokens t
    sum_i w_i sum_t [ -log pi(o_t) + beta KL_t ]
    --loss-reduction sequence  w_i = 1 / (n |o_i|)
                     token     w_i = 1 / sum_j |o_j|
                     constant  w_i = 1 / (n T_max)       beside grpo.py: A_i is r_i, with neither baseline nor ratio

Wrong responses teach nothing. With --loss-reduction constant and no KL, a rollout's first step has the direction of
REINFORCE without a baseline, sum_i r_i grad log pi(o_i).

Papers: Expert Iteration (https://arxiv.org/abs/1705.08439); language models: STaR (2203.14465), ReST-EM (2312.06585).
Run: python expert_iteration.py. Departures from them:
1. A rollout gives one step, which goes on from the weights before it; ReST-EM trains the initial model anew each time.
2. A KL term, on the kept responses, keeps the model near its initial weights (--kl-coef 0 leaves it out).

B responses (b of a micro-batch); P prompt, T response tokens, L both, M of all b, m of a chunk; C hidden, W vocabulary.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, replace
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
    exp_name: str = "expert_iteration"  # name of the experiment, part of the run folder's name
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
    tests_in_prompt: int = 1  # tests of a code problem that the models see; the others stay hidden
    prompt_template: str = "none"  # none, baseline, step_by_step, concise, or a .json file: a list of messages

    # ---- rollout
    groups_per_batch: int = 8  # problems of one iteration (N)
    group_size: int = 8  # responses to each problem (G)
    sampling_rounds: int = 1  # most rounds of sampling to fill the batch with correct responses
    max_new_tokens: int = 40  # longest response of the solver, in tokens
    temperature: float = 1.0  # sampling temperature; the log-probabilities in training use the same
    top_p: float = 1.0  # nucleus sampling; below 1 the sampler is no longer exactly the policy that is trained
    generation_batch_size: int = 0  # most responses sampled at once (memory only); 0: as many as memory allows
    strict_answers: bool = False  # a mathematical answer counts only in \boxed{}
    code_timeout: float = 5.0  # time limit of a program in seconds; unfinished tests fail
    unsafe_code: bool = False  # if no sandbox can be set up, run programs with limits of time and memory alone

    # ---- algorithm
    loss_reduction: Literal["sequence", "token", "constant"] = "sequence"  # 1/length (GRPO), 1/all tokens (DAPO), 1/max
    kl_coef: Annotated[float, tyro.conf.arg(aliases=["--beta1"])] = 0.04  # beta1 (MLMT-RL: beta_L): weight of the KL

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
    eval_every: int = 10  # evaluate after every n-th iteration, before the first and after the last
    eval_size: int = 200  # most held-out problems of an evaluation
    greedy_eval: bool = True  # evaluate greedily too
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


def run_episodes(models, tokenizers, problems: list[common.Problem], args: Args) -> dict:
    """One response to each problem, and its verdict, (B,)."""  # differs: one turn, after a prompt template
    template = common.load_template(args.prompt_template, problems)
    prompts = [common.encode_prompt(tokenizers[0], common.attempt_messages(p, template)) for p in problems]
    turn_1 = generate(models[0], tokenizers[0], prompts, args.max_new_tokens, args)
    rewards, verdict_log = runs.from_first(common.verify_turns, [turn_1["texts"]], problems, args)
    (rewards_1,) = torch.tensor(rewards, device=models[0].device)
    return {"attempt": turn_1, "rewards_1": rewards_1, "verdict_log": verdict_log}


# new in GRPO
def select(turns: list[dict], rows: list[torch.Tensor]) -> dict:
    """These rows of several turns as one turn: what the loss reads of them, prompts padded to one length."""
    P = max(turn["prompt_ids"].shape[1] for turn in turns)
    selected = {}
    for name in ("prompt_ids", "prompt_mask", "response_ids", "response_mask", "logprobs", "entropies"):
        parts = [turn[name][kept] for turn, kept in zip(turns, rows)]
        if name.startswith("prompt"):
            parts = [torch.nn.functional.pad(part, (P - part.shape[1], 0)) for part in parts]
        selected[name] = torch.cat(parts)
    return selected


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


# new in GRPO
def loss_weights(response_mask: torch.Tensor, reduction: str, max_new_tokens: int) -> torch.Tensor:
    """w_i, what the sum over a response's tokens is multiplied by; response_mask is the optimiser batch's: (n,)."""
    lengths = response_mask.sum(1)  # (n,)
    if reduction == "sequence":
        return 1 / (len(lengths) * lengths)
    total = lengths.sum() if reduction == "token" else len(lengths) * max_new_tokens
    return torch.ones_like(lengths) / total


def kl_penalty(new_logprobs, ref_logprobs, estimator: str) -> torch.Tensor:
    """KL(pi || pi_ref) of each response as a loss, summed over its tokens: (b,). Log-probabilities are 0 off the mask.

    k2 = (log pi - log pi_ref)^2 / 2; k3 = rho - 1 - log rho, rho = pi_ref / pi, on average grad KL(pi_ref || pi).
    """
    log_ratio = new_logprobs - ref_logprobs  # (b, T)
    if estimator == "k2_loss":
        return (0.5 * log_ratio**2).sum(1)
    return (torch.exp(-log_ratio) - 1 + log_ratio).sum(1)


def accumulate_gradients(model, turn, rows, args) -> float:
    """Adds the gradient of one turn's loss over `rows`, an optimiser batch, to .grad; returns the loss without the KL.

    The weights of the responses follow from the whole of `rows`, so micro_batch_size is a memory knob only.
    """  # differs: supervised
    total_loss = 0.0
    weights = torch.zeros(len(turn["response_mask"]), device=model.device)  # (B,)
    weights[rows] = loss_weights(turn["response_mask"][rows], args.loss_reduction, args.max_new_tokens)
    model.train(args.gradient_checkpointing)  # Hugging Face recomputes layers in train mode only; dropout is zero
    for mb in runs.micro_batches(turn, rows, args):
        hidden = hidden_states(model, turn, mb)  # (b, L, C)
        new_logprobs = token_logprobs(model, hidden, turn, mb, args)
        loss = -(new_logprobs * turn["response_mask"][mb]).sum(1)  # (b,)
        total_loss += (weights[mb] * loss).sum().item()
        if args.kl_coef:
            loss = loss + args.kl_coef * kl_penalty(new_logprobs, turn["ref_logprobs"][mb], "k3_loss")
        (weights[mb] * loss).sum().backward()
    return runs.total(total_loss)


# ---- evaluation and main loop --------------------------------------------------------------------------------------


def evaluate(run, iteration: int, models, tokenizers, problems: list[common.Problem], args: Args) -> dict:
    """The eval/ metrics on held-out problems; saves the episodes.

    Sampled as in training, but from a seed of its own that leaves training's random numbers as they were.
    """  # differs: one turn, sampled and greedy
    with torch.random.fork_rng([run.device] * (run.device != "cpu")):
        torch.manual_seed(args.eval_seed)
        episodes = run_episodes(models, tokenizers, problems, args)
        metrics = {"accuracy_1": float(np.mean(episodes["rewards_1"].tolist()))}
        if args.greedy_eval:
            greedy = run_episodes(models, tokenizers, problems, replace(args, temperature=0.0))
            metrics["greedy_accuracy_1"] = float(np.mean(greedy["rewards_1"].tolist()))
    runs.log_episodes(run, iteration, "eval", problems, episodes)
    return {f"eval/{key}": value for key, value in metrics.items()}


def main(args: Args) -> None:
    run = runs.find(args, __file__)
    rollout_size = args.groups_per_batch * args.group_size  # responses of one round of sampling
    train_problems, eval_problems = runs.from_first(common.load_problems_for, args)
    policy_lm = args.policy_lm or runs.embedded_model(train_problems)
    solver, solver_tokenizer = runs.load_lm(run, policy_lm, "--policy-lm", "solver")
    reference = runs.load_lm(run, policy_lm, "--policy-lm")[0] if args.kl_coef else None  # the initial policy
    models, tokenizers = (solver, reference), (solver_tokenizer,)
    problems = train_problems + eval_problems
    template = common.load_template(args.prompt_template, problems)
    prompts = [common.attempt_messages(p, template) for p in problems]
    room = args.max_new_tokens
    runs.check_prompts(run, solver, solver_tokenizer, prompts, problems, room, "--policy-lm")

    solver_optimizer = runs.Adam(solver, lr=args.learning_rate, betas=args.adam_betas)
    counters = {"rounds": 0}  # of sampling
    state = {"solver_optimizer": solver_optimizer, "counters": counters}
    start = runs.begin(run, state, train_problems, eval_problems)
    if start == 0:
        metrics = evaluate(run, 0, models, tokenizers, eval_problems, args)
        runs.log(run, {"iteration": 0, "charts/episodes": 0} | metrics)

    progress = tqdm(range(start + 1, args.iterations + 1), initial=start, total=args.iterations, disable=None)
    for iteration in progress:
        iteration_time = time.time()
        solver_optimizer.lr = args.learning_rate * common.lr_scale(args, iteration, args.iterations)

        # ---- ROLLOUT
        sampled, kept = [], []  # of each round: the episodes, the rows to train on
        for _ in range(args.sampling_rounds):
            counters["rounds"] += 1
            rows = common.problem_rows(counters["rounds"], args.groups_per_batch, len(train_problems), args.seed)
            problems = [train_problems[row] for row in rows for _ in range(args.group_size)]
            episodes = run_episodes(models, tokenizers, problems, args)
            keep = episodes["rewards_1"] == 1  # (B,)
            sampled.append(episodes)
            kept.append(keep.nonzero().squeeze(1)[: rollout_size - sum(map(len, kept))])
            if sum(map(len, kept)) == rollout_size:
                break

        # ---- REWARDS AND ADVANTAGES: 1 for what is kept
        turn, trained = select([episodes["attempt"] for episodes in sampled], kept), sum(map(len, kept))
        if trained and args.kl_coef:
            turn["ref_logprobs"] = rollout_logprobs(reference, turn, args)  # (B, T)
            kl = (turn["logprobs"] - turn["ref_logprobs"]).sum(1)  # (B,) of each response, for the log

        # ---- UPDATE
        losses = defaultdict(list)  # of each optimiser step
        shuffles = [torch.randperm(trained, device=run.device) for _ in range(args.update_epochs)]
        batches = [batch for shuffle in shuffles for batch in shuffle.tensor_split(args.num_minibatches) if len(batch)]
        for batch in batches:
            losses["policy_solver"].append(accumulate_gradients(solver, turn, batch, args))
            losses["grad_norm_solver"].append(solver_optimizer.step(args.max_grad_norm, losses))

        # ---- LOG
        verdicts = torch.cat([e["rewards_1"] for e in sampled])
        lengths = torch.cat([e["attempt"]["response_mask"].sum(1) for e in sampled]).float()
        undecided = [e["verdict_log"]["rollout/undecided"] for e in sampled]
        metrics = {
            "iteration": iteration,
            "rollout/accuracy_1": verdicts.mean().item(),
            "rollout/reward": verdicts.mean().item(),
            "rollout/trained_responses": trained,
            "rollout/response_length_1": lengths.mean().item(),
            "rollout/truncated": torch.cat([e["attempt"]["truncated"] for e in sampled]).float().mean().item(),
            "rollout/undecided": common.mean(undecided),
            "losses/policy_solver": common.mean(losses["policy_solver"]),
            "losses/kl_solver": kl.mean().item() if trained and args.kl_coef else None,
            "losses/entropy": (turn["entropies"].sum() / turn["response_mask"].sum()).item() if trained else None,
            "losses/grad_norm_solver": common.mean(losses["grad_norm_solver"]),
            "charts/episodes": counters["rounds"] * rollout_size,
            "charts/verify_seconds": sum(e["verdict_log"]["charts/verify_seconds"] for e in sampled),
            "charts/tokens_per_second": lengths.sum().item() / (time.time() - iteration_time),
            "charts/learning_rate": solver_optimizer.lr,
        }
        progress.set_postfix_str(f"accuracy {metrics['rollout/accuracy_1']:.2f}, trained on {trained}")

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
