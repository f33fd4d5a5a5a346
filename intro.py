"""InTRO: a model that is shown the answer teaches itself without it, token by token, on its own correct rationales.

    x -> z ~ pi(.|x), G times; those with a wrong answer are dropped
    q_t = pi(.|x, z_<t), the student
    p_t = pi(.|x (+) y, z_<t), the teacher: y, the gold answer, is shown
maximises over N kept rationales, with n candidates a_t^1 = z_t and a_t^2 .. a_t^n ~ q_t at each position (eq. 7)
    J = 1/N sum_z 1/(|z| n) sum_t sum_i w_t^i log q_t(a_t^i)
    w_t^i = sg[min(p_t(a_t^i) / q_t(a_t^i), c)]
A draw's gradient is on average that of -KL(p_t || q_t), position by position, on prefixes that the student wrote: not
the KL between whole rationales (eq. 3) that it is derived from. z_t, kept because z is right, is no draw but imitated.
    --estimator exact: the KLs alone, 1/N sum_z 1/|z| sum_t sum_a p_t(a) log q_t(a)

Paper: InTRO (https://arxiv.org/abs/2511.09865). Run: python intro.py. Departures from the paper:
1. w is a constant (section 2.2); --no-stop-weight-gradients lets the gradient flow through it, as in the authors' code.
2. y follows the question in the user's message; the authors' code puts it behind the whole prompt.
3. p and q are those of the sampling temperature, as in the code; the paper names none.
4. The learning rate changes once a rollout, not once a step.

B responses (b of a micro-batch); P prompt, T response tokens, L both, M of all b, m of a chunk; C hidden, W vocabulary.
"""

import json
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import common
import runs

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

LOGITS_CHUNK = 1024  # response tokens whose logits, (m, W) in float32, exist at once (memory only)


@dataclass
class Args:
    # ---- experiment
    exp_name: str = "intro"  # name of the experiment, part of the run folder's name
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
    include_test_split: bool = False  # also train on the data set's test split, as the authors did: no fair evaluation
    prepare: str | None = None  # write the training problems to this .json file (problem, solution, answer) and exit
    answer_template: str = common.ANSWERED  # text behind the question that shows the answer to the teacher
    prompt_template: str = "none"  # none, baseline, step_by_step, concise, or a .json file: a list of messages

    # ---- rollout
    groups_per_batch: int = 8  # problems of one iteration (N)
    group_size: int = 8  # responses to each problem (G)
    max_new_tokens: int = 40  # longest response of the solver, in tokens
    temperature: float = 1.0  # sampling temperature; the log-probabilities in training use the same
    top_p: float = 1.0  # nucleus sampling; below 1 the sampler is no longer exactly the policy that is trained
    generation_batch_size: int = 0  # most responses sampled at once (memory only); 0: as many as memory allows
    strict_answers: bool = False  # a mathematical answer counts only in \boxed{}
    code_timeout: float = 5.0  # time limit of a program in seconds; unfinished tests fail
    unsafe_code: bool = False  # if no sandbox can be set up, run programs with limits of time and memory alone

    # ---- algorithm
    estimator: Literal["sampled", "exact"] = "sampled"  # candidates at each position, or the whole vocabulary
    n_candidates: int = 5  # n: the rationale's own token and n - 1 draws from q
    candidate_top_k: int = 0  # draw from the k likeliest tokens only (the authors' code: 20), which is biased; 0: all
    weight_clip: float = 200.0  # c, the largest w
    stop_weight_gradients: bool = True  # treat w as a constant in the gradient
    only_correct: bool = True  # learn from correct rationales only
    loss_norm: Literal["sequence", "token"] = "sequence"  # mean over rationales of their means, or over all tokens

    # ---- optimisation
    iterations: int = 40  # rollouts, each followed by its updates
    learning_rate: float = 1e-4  # learning rate of the solver (Adam)
    lr_warmup_iterations: int = 5  # the language models' learning rates rise linearly over these iterations
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine"  # after the warm-up
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


def run_episodes(models, tokenizers, problems: list[common.Problem], args: Args, answered: bool = False) -> dict:
    """A response to each problem and its verdict, (B,); answered: the prompt shows the answer."""  # differs: one turn
    prompts = [common.encode_prompt(tokenizers[0], messages) for messages in solve_messages(problems, args, answered)]
    turn_1 = generate(models[0], tokenizers[0], prompts, args.max_new_tokens, args)
    rewards, verdict_log = runs.from_first(common.verify_turns, [turn_1["texts"]], problems, args)
    return {"attempt": turn_1, "rewards_1": torch.tensor(rewards[0], device=models[0].device)} | verdict_log


# new in InTRO
def solve_messages(problems: list[common.Problem], args: Args, answered: bool) -> list[common.Messages]:
    """x of each problem, or x (+) y."""
    template = common.load_template(args.prompt_template, problems)
    if answered:
        return [common.answered_messages(problem, args.answer_template, template) for problem in problems]
    return [common.attempt_messages(problem, template) for problem in problems]


# new in InTRO
def teacher_turn(turn: dict, model, tokenizer, problems: list[common.Problem], args: Args) -> dict:
    """The same responses, token for token, behind prompts that show the answer."""
    prompts = [common.encode_prompt(tokenizer, messages) for messages in solve_messages(problems, args, answered=True)]
    prompts, _ = common.fit_prompts(prompts, model.config, args.max_new_tokens)
    prompt_ids, prompt_mask = runs.pad_left([ids for ids, _ in prompts], model.device)  # (B, P)
    return turn | {"prompt_ids": prompt_ids, "prompt_mask": prompt_mask}


# ---- log-probabilities ----------------------------------------------------------------------------------------------


def hidden_states(model, turn: dict, rows: torch.Tensor) -> torch.Tensor:
    """The backbone's final states over these rows, each a prompt and its response, padded on the right: (b, L, C)."""
    return runs.final_states(model, turn, rows)


# ---- the method ----------------------------------------------------------------------------------------------------


# new in InTRO
def position_losses(log_q, log_p, own, uniforms, args: Args) -> tuple[torch.Tensor, ...]:
    """-1/n sum_i w^i log q(a^i), eq. 7, or -sum_a p(a) log q(a) at each of m positions, and what is logged of w.

    log_q, log_p: (m, W), float32; own: the rationale's tokens, (m,); uniforms: what the other candidates are drawn by,
    (m, n-1). Returns 3 x (m,): loss, mean w, its clipped share.
    """
    if args.stop_weight_gradients:
        log_p = log_p.detach()
    with torch.no_grad():
        top = log_q.topk(args.candidate_top_k).values[:, -1:] if args.candidate_top_k else log_q.min()
        pool = log_q.exp() * (log_q >= top)  # (m, W)
        candidates = torch.cat([own[:, None], runs.draw(pool, uniforms)], 1)  # (m, n)
        weights = (log_p - log_q).gather(1, candidates).exp()  # (m, n)
        stats = weights.clamp(max=args.weight_clip).mean(1), (weights > args.weight_clip).float().mean(1)
    if args.estimator == "exact" and args.stop_weight_gradients:
        return -(log_p.exp() * log_q).sum(1), *stats
    if args.estimator == "sampled":
        log_q, log_p = log_q.gather(1, candidates), log_p.gather(1, candidates)  # (m, n)
        share = 1 / args.n_candidates
    else:
        share = log_q.exp().detach()  # (m, W): how often a token is drawn
    w = torch.exp(log_p - log_q).clamp(max=args.weight_clip)
    w = w.detach() if args.stop_weight_gradients else w
    return -(share * w * log_q).sum(1), *stats


# new in InTRO
def states_before(hidden: torch.Tensor, turn: dict, rows: torch.Tensor) -> torch.Tensor:
    """The state before each response token, which predicts it: (M, C)."""
    t = torch.arange(1, hidden.shape[1] + 1, device=hidden.device) - turn["prompt_mask"][rows].sum(1, keepdim=True)
    return hidden[(t >= 0) & (t < turn["response_mask"][rows].sum(1, keepdim=True))]


# new in InTRO
def token_losses(model, hidden_q, hidden_p, turn, answered, uniforms, rows, args) -> tuple[torch.Tensor, torch.Tensor]:
    """position_losses of all response tokens, zero elsewhere: (b, T); and the sums over the tokens of what is logged.

    hidden_q, hidden_p: the states (b, L, C) behind the student's prompt, of turn, and the teacher's, of answered.
    Logits of both are made a chunk at a time, and again in the backward pass: (b, T, W) in float32 never exists at
    once.
    Logged: w, its clipped share, KL(p || q), the entropies of q and p, tokens: (6,).
    """
    mask = turn["response_mask"][rows]  # (b, T)
    own = turn["response_ids"][rows][mask]  # (M,)
    states = [states_before(*pair, rows) for pair in ((hidden_q, turn), (hidden_p, answered))]  # 2 x (M, C)

    def chunk(states_q, states_p, own, uniforms):  # (m, C), (m, C), (m,), (m, n-1) -> (m,), (m, 6)
        log_q, log_p = (
            (model.get_output_embeddings()(states).float() / args.temperature).log_softmax(-1)  # (m, W)
            for states in (states_q, states_p)
        )
        losses, weight, clipped = position_losses(log_q, log_p, own, uniforms, args)
        with torch.no_grad():
            p, q = log_p.exp(), log_q.exp()
            measured = (p * (log_p - log_q)).sum(1), -(q * log_q).sum(1), -(p * log_p).sum(1)
            return losses, torch.stack([weight, clipped, *measured, torch.ones_like(weight)], 1)

    parts = [
        checkpoint(chunk, *piece, use_reentrant=False, preserve_rng_state=False)  # nothing random is made again
        for piece in zip(*(part.split(LOGITS_CHUNK) for part in (*states, own, uniforms[rows][mask])))
    ]
    losses, logged = (torch.cat(part) for part in zip(*parts))  # (M,), (M, 6)
    zeros = torch.zeros(mask.shape, device=losses.device)
    return zeros.masked_scatter(mask, losses), logged.sum(0)


def accumulate_gradients(model, turn, answered, rows, args) -> tuple[float, torch.Tensor]:
    """Adds the gradient of -J over `rows`, an optimiser batch, to .grad; returns the loss and what token_losses logs.

    The weights of the rationales follow from the whole of `rows`, so micro_batch_size is a memory knob only.
    """  # differs: a teacher of the same weights
    total_loss, logged = 0.0, torch.zeros(6, device=model.device)
    lengths = turn["response_mask"].sum(1)  # (B,)
    weights = (
        1 / (len(rows) * lengths) if args.loss_norm == "sequence" else 1 / lengths[rows].sum().expand(len(lengths))
    )
    draws = (*turn["response_ids"].shape, args.n_candidates - 1)  # (B, T, n-1)
    uniforms = torch.rand(draws, dtype=torch.float64, device=model.device)  # so that no batch decides what is drawn
    model.train(args.gradient_checkpointing)  # Hugging Face recomputes layers in train mode only; dropout is zero
    for mb in runs.micro_batches(answered, rows, args):
        with torch.set_grad_enabled(not args.stop_weight_gradients):
            hidden_p = hidden_states(model, answered, mb)  # (b, L, C)
        hidden_q = hidden_states(model, turn, mb)  # (b, L, C)
        losses, sums = token_losses(model, hidden_q, hidden_p, turn, answered, uniforms, mb, args)
        loss = (weights[mb] * losses.sum(1)).sum()
        total_loss, logged = total_loss + loss.item(), logged + sums
        loss.backward()
    return runs.total(total_loss, logged)


# ---- evaluation and main loop --------------------------------------------------------------------------------------


def evaluate(run, iteration: int, models, tokenizers, problems: list[common.Problem], args: Args) -> dict:
    """The eval/ metrics on held-out problems; saves the episodes.

    Sampled as in training, but from a seed of its own that leaves training's random numbers as they were.
    """  # differs: one turn, sampled, greedy and with the answer shown
    with torch.random.fork_rng([run.device] * (run.device != "cpu")):
        torch.manual_seed(args.eval_seed)
        episodes = run_episodes(models, tokenizers, problems, args)
        shown = run_episodes(models, tokenizers, problems, args, answered=True)
        metrics = {"accuracy_1": float(np.mean(episodes["rewards_1"].tolist()))}
        metrics["accuracy_answered"] = float(np.mean(shown["rewards_1"].tolist()))
        if args.greedy_eval:
            greedy = run_episodes(models, tokenizers, problems, replace(args, temperature=0.0))
            metrics["greedy_accuracy_1"] = float(np.mean(greedy["rewards_1"].tolist()))
    runs.log_episodes(run, iteration, "eval", problems, episodes)
    return {f"eval/{key}": value for key, value in metrics.items()}


# new in InTRO
def training_problems(args: Args) -> tuple[list[common.Problem], list[common.Problem]]:
    """The problems to train on and the held-out ones. Raises InputError."""
    train_problems, eval_problems = common.load_problems_for(args)
    if args.include_test_split:
        test = common.load_problems(args.dataset, "test", min_level=args.min_level)
        common.say(f"warning: {len(test)} problems of the test split are trained on; MATH-500 has 367 from level 3 up")
        known = {problem.id for problem in train_problems}  # --split all has them already
        train_problems += common.instruct([problem for problem in test if problem.id not in known], args)
    if any(problem.tests for problem in train_problems + eval_problems):
        raise common.InputError(f"--dataset {args.dataset}: a program has no answer that a teacher could be shown")
    if not (args.policy_lm or args.prepare) and any(p.numbers for p in train_problems + eval_problems):
        reason = "the embedded model that reads answers knows sums only, not countdown"
        raise common.InputError(f"{reason}: give a model by --policy-lm")
    if "{answer}" not in args.answer_template:
        raise common.InputError("--answer-template must contain {answer}")
    return train_problems, eval_problems


def main(args: Args) -> None:
    run = runs.find(args, __file__)
    train_problems, eval_problems = runs.from_first(training_problems, args)
    if args.prepare:
        rows = [{"problem": p.question, "solution": p.solution, "answer": p.answer} for p in train_problems]
        if Path(args.prepare).exists() or Path(args.prepare).suffix != ".json":
            raise common.InputError(f"--prepare {args.prepare} exists, or is no .json file: name another file")
        common.write_file(Path(args.prepare), json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
        return print(f"{len(rows)} problems in {args.prepare}")
    policy_lm = args.policy_lm or "tiny/answered"
    solver, solver_tokenizer = runs.load_lm(run, policy_lm, "--policy-lm", "solver")
    if args.candidate_top_k > (rows := len(solver.get_output_embeddings().weight)):
        raise common.InputError(f"--candidate-top-k {args.candidate_top_k}: {policy_lm} has {rows} tokens")
    models, tokenizers = (solver,), (solver_tokenizer,)
    problems = train_problems + eval_problems
    prompts = solve_messages(problems, args, answered=True)  # the longer ones
    runs.check_prompts(run, solver, solver_tokenizer, prompts, problems, args.max_new_tokens, "--policy-lm")

    solver_optimizer = runs.Adam(solver, lr=args.learning_rate, betas=args.adam_betas)
    state = {"solver_optimizer": solver_optimizer}
    start = runs.begin(run, state, train_problems, eval_problems)
    if start == 0:
        metrics = evaluate(run, 0, models, tokenizers, eval_problems, args)
        runs.log(run, {"iteration": 0, "charts/episodes": 0} | metrics)

    progress = tqdm(range(start + 1, args.iterations + 1), initial=start, total=args.iterations, disable=None)
    for iteration in progress:
        iteration_time = time.time()
        solver_optimizer.lr = args.learning_rate * common.lr_scale(args, iteration, args.iterations)

        # ---- ROLLOUT
        rows = common.problem_rows(iteration, args.groups_per_batch, len(train_problems), args.seed)
        problems = [train_problems[row] for row in rows for _ in range(args.group_size)]
        episodes = run_episodes(models, tokenizers, problems, args)
        turn, verdicts = episodes["attempt"], episodes["rewards_1"]  # (B,)
        lengths = turn["response_mask"].sum(1).float()  # (B,)
        answered = teacher_turn(turn, solver, solver_tokenizer, problems, args)

        # ---- REWARDS AND ADVANTAGES
        keep = verdicts == 1 if args.only_correct else torch.ones_like(verdicts, dtype=torch.bool)  # (B,)
        kept = keep.nonzero().squeeze(1)  # (N,)

        # ---- UPDATE
        losses = defaultdict(list)  # of each optimiser step
        logged = torch.zeros(6, device=run.device)  # sums over the tokens
        shuffles = [kept[torch.randperm(len(kept), device=run.device)] for _ in range(args.update_epochs)]
        batches = [batch for shuffle in shuffles for batch in shuffle.tensor_split(args.num_minibatches) if len(batch)]
        for batch in batches:
            loss, sums = accumulate_gradients(solver, turn, answered, batch, args)
            losses["policy_solver"].append(loss)
            losses["grad_norm_solver"].append(solver_optimizer.step(args.max_grad_norm, losses))
            logged += sums
        weight, clipped, kl, entropy, teacher_entropy = (logged[:5] / logged[5]).tolist() if batches else [None] * 5

        # ---- LOG
        metrics = {
            "iteration": iteration,
            "rollout/accuracy_1": verdicts.mean().item(),
            "rollout/reward": verdicts.mean().item(),
            "rollout/kept": keep.float().mean().item(),
            "rollout/response_length_1": lengths.mean().item(),
            "rollout/truncated": turn["truncated"].float().mean().item(),
            "rollout/undecided": episodes["rollout/undecided"],
            "losses/policy_solver": common.mean(losses["policy_solver"]),
            "losses/weight": weight,
            "losses/weight_clipped": clipped,
            "losses/kl_teacher": kl,
            "losses/entropy": entropy,
            "losses/entropy_teacher": teacher_entropy,
            "losses/grad_norm_solver": common.mean(losses["grad_norm_solver"]),
            "charts/episodes": iteration * args.groups_per_batch * args.group_size,
            "charts/verify_seconds": episodes["charts/verify_seconds"],
            "charts/tokens_per_second": lengths.sum().item() / (time.time() - iteration_time),
            "charts/learning_rate": solver_optimizer.lr,
        }
        progress.set_postfix_str(f"accuracy {verdicts.mean():.2f}, KL(p || q) {kl or 0:.3f}")

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
