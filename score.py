"""SCoRe: a language model learns to correct its own answer, in two turns, from the verifier's reward alone.

    y_1 ~ pi(.|x_1)    x_2 = (x_1, y_1, "there may be a mistake ...")    y_2 ~ pi(.|x_2)    r_i = verify(y_i) in {0, 1}

maximises, in two stages, with KL_i = KL(pi(.|x_i) || pi_0(.|x_i)) to the initial policy,
    Stage I   E[ r_2 ] - beta1 (KL_1 + KL_2) - beta2 KL_1
    Stage II  E[ r_1 + r_2 + alpha (r_2 - r_1) ] - beta1 (KL_1 + KL_2)

by REINFORCE, where the first attempt is credited with gamma times what the second one earns:
    -mean[ A_1 log pi(y_1|x_1) + A_2 log pi(y_2|x_2) ]                        KL penalties are subtracted in `credit`
    Stage I   A_1 = gamma R_2 - b           A_2 = R_2 - b       R_2 = r_2
    Stage II  A_1 = r_1 + gamma R_2 - b     A_2 = R_2 - b       R_2 = r_2 + alpha (r_2 - r_1)       b: a baseline

Paper: SCoRe (https://arxiv.org/abs/2409.12917, eq. 2 to 4). Run: python score.py

Departures from the paper:
1. gamma = 0 by default, one reading of eq. 4: each attempt is credited with its own reward and KL. Then -alpha r_1 is
   only a baseline, and the bonus a weight 1 + alpha on r_2. --gamma 1 with k1_reward follows both objectives exactly;
   but alpha > 1 then pays for wrong first attempts, and the model learns to make mistakes (docs/methods/score.md).
2. The paper names no estimator of the KL and no baseline; the defaults are KL in the return, and none.
3. Evaluation samples at --temperature, so that it can be compared with training; the paper evaluates greedily.
4. The best checkpoint has the highest mean r_2 in training, not the highest shaped reward, which alpha dominates.

B episodes (b of a micro-batch); P prompt, T response tokens, L both, M of all b, m of a chunk; C hidden, W vocabulary.
"""

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, Literal

import common
import runs

import torch
import tyro
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

LOGITS_CHUNK = 1024  # response tokens whose logits, (m, W) in float32, exist at once (memory only)


@dataclass
class Args:
    # ---- experiment
    exp_name: str = "score"  # name of the experiment, part of the run folder's name
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
    refine_prompt: str | None = None  # instruction for the second attempt, likewise, with or without feedback
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

    # ---- rollout
    rollout_size: int = 64  # episodes of one iteration (B), all sampled from the same policies
    max_new_tokens: int = 40  # longest response of the solver, in tokens
    temperature: float = 1.0  # sampling temperature; the log-probabilities in training use the same
    top_p: float = 1.0  # nucleus sampling; below 1 the sampler is no longer exactly the policy that is trained
    generation_batch_size: int = 0  # most responses sampled at once (memory only); 0: as many as memory allows
    strict_answers: bool = False  # a mathematical answer counts only in \boxed{}
    code_timeout: float = 5.0  # time limit of a program in seconds; unfinished tests fail
    unsafe_code: bool = False  # if no sandbox can be set up, run programs with limits of time and memory alone

    # ---- algorithm
    kl_coef: Annotated[float, tyro.conf.arg(aliases=["--beta1"])] = 0.01  # beta1 (MLMT-RL: beta_L): weight of the KL
    kl_estimator: Literal["k1_reward", "k2_loss", "k3_loss"] = "k1_reward"  # k1: in the return; k2, k3: a loss
    alpha: float = 10.0  # SCoRe's bonus: after Stage I, alpha (r2 - r1) is added to the second turn's reward
    stage1_iterations: int = 10  # Stage I: initial iterations without a reward for turn 1, its KL at beta1 + beta2
    beta2: float = 0.1  # additional weight of the KL of the first attempt in Stage I
    gamma: float = 0.0  # share of the second attempt's return that counts for the first; 1: all of it
    baseline: Literal["none", "batch", "leave-one-out"] = "none"  # b: none, the mean, or the mean of the others
    offline_first_turn: float = 0.0  # share of Stage II's first attempts that the initial model writes; not trained on
    trained_turns: Literal["both", "first", "second"] = "both"  # turns with a reward; the other has only its KL

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
    clip_coef: float = 0.2  # epsilon of the clipped ratio, which is 1 at the first step of a rollout
    micro_batch_size: int = 16  # most sequences in one forward and backward pass (memory only)
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


def run_episodes(models, tokenizers, problems: list[common.Problem], args: Args, offline: int = 0) -> dict:
    """One whole episode for each problem: two turns, and the verdicts on both attempts, each (B,).

    offline: at the first `offline` problems the initial model writes the first attempt instead.
    """  # differs: the model's own instruction stands in the feedback's place
    solver, reference = models
    # TURN 1: y_1 ~ pi(.|x_1)
    prompts = [common.encode_prompt(tokenizers[0], common.attempt_messages(p)) for p in problems]
    turn_1 = generate(solver, tokenizers[0], prompts, args.max_new_tokens, args)
    replaced_tokens = turn_1["response_mask"][:offline].sum().item()  # sampled, then overwritten
    if offline:
        turn_0 = generate(reference, tokenizers[0], prompts[:offline], args.max_new_tokens, args)
        for key in ("response_ids", "response_mask", "logprobs", "entropies", "truncated", "texts"):
            turn_1[key][:offline] = turn_0[key]
    # TURN 2: y_2 ~ pi(.|x_2), on the same problem
    messages = [common.self_correct_messages(p, y) for p, y in zip(problems, turn_1["texts"])]
    prompts = [common.encode_prompt(tokenizers[0], m) for m in messages]
    turn_2 = generate(solver, tokenizers[0], prompts, args.max_new_tokens, args)
    rewards, verdict_log = runs.from_first(common.verify_turns, [turn_1["texts"], turn_2["texts"]], problems, args)
    rewards_1, rewards_2 = torch.tensor(rewards, device=solver.device)
    episodes = {"attempt": turn_1, "refinement": turn_2, "replaced_tokens": replaced_tokens}
    return episodes | {"rewards_1": rewards_1, "rewards_2": rewards_2, "verdict_log": verdict_log}


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


def evaluate(run, iteration: int, models, tokenizers, problems: list[common.Problem], args: Args) -> dict:
    """The eval/ metrics on held-out problems; saves the episodes.

    Sampled as in training, but from a seed of its own that leaves training's random numbers as they were.
    """
    with torch.random.fork_rng([run.device] * (run.device != "cpu")):
        torch.manual_seed(args.eval_seed)
        episodes = run_episodes(models, tokenizers, problems, args)
    runs.log_episodes(run, iteration, "eval", problems, episodes)
    return common.second_turn_metrics(episodes)


def main(args: Args) -> None:
    run = runs.find(args, __file__)
    train_problems, eval_problems = runs.from_first(common.load_problems_for, args)
    policy_lm = args.policy_lm or runs.embedded_model(train_problems)
    solver, solver_tokenizer = runs.load_lm(run, policy_lm, "--policy-lm", "solver")
    reference, _ = runs.load_lm(run, policy_lm, "--policy-lm")  # the KL reference is the initial policy
    models, tokenizers = (solver, reference), (solver_tokenizer,)
    problems, room = train_problems + eval_problems, 2 * args.max_new_tokens
    prompts = [common.self_correct_messages(p, "") for p in problems]
    runs.check_prompts(run, solver, solver_tokenizer, prompts, problems, room, "--policy-lm")

    solver_optimizer = runs.Adam(solver, lr=args.learning_rate, betas=args.adam_betas)
    state = {"solver_optimizer": solver_optimizer}
    start = runs.begin(run, state, train_problems, eval_problems)
    if start == 0:
        metrics = evaluate(run, 0, models, tokenizers, eval_problems, args)
        runs.log(run, {"iteration": 0, "charts/episodes": 0} | metrics)

    progress = tqdm(range(start + 1, args.iterations + 1), initial=start, total=args.iterations, disable=None)
    for iteration in progress:
        iteration_time = time.time()
        stage1 = iteration <= args.stage1_iterations
        solver_optimizer.lr = args.learning_rate * common.lr_scale(args, iteration, args.iterations)

        # ---- ROLLOUT: TURN 1, TURN 2
        rows = common.problem_rows(iteration, args.rollout_size, len(train_problems), args.seed)
        problems = [train_problems[row] for row in rows]
        offline = 0 if stage1 else round(args.offline_first_turn * args.rollout_size)
        episodes = run_episodes(models, tokenizers, problems, args, offline)
        turn_1, turn_2 = episodes["attempt"], episodes["refinement"]
        rewards_1, rewards_2 = episodes["rewards_1"], episodes["rewards_2"]  # (B,)

        # ---- REWARDS AND ADVANTAGES
        kl = []  # KL of y_1, y_2: sum over a response's tokens of log pi - log pi_ref, each (B,)
        for turn, model in ((turn_1, reference), (turn_2, reference)):
            turn["ref_logprobs"] = rollout_logprobs(model, turn, args)  # (B, T)
            kl.append((turn["logprobs"] - turn["ref_logprobs"]).sum(1))
        penalties = kl if args.kl_estimator == "k1_reward" else [torch.zeros_like(rewards_2)] * 2
        A_1, A_2 = credit(args, stage1, rewards_1, rewards_2, *penalties)  # (B,)
        if args.update_epochs * args.num_minibatches > 1:  # otherwise they are the new ones
            for turn, model in ((turn_1, solver), (turn_2, solver)):
                turn["old_logprobs"] = rollout_logprobs(model, turn, args)  # (B, T)

        # ---- UPDATE
        losses = defaultdict(list)  # of each optimiser step
        shuffles = [torch.randperm(args.rollout_size, device=run.device) for _ in range(args.update_epochs)]
        batches = [batch for shuffle in shuffles for batch in shuffle.tensor_split(args.num_minibatches)]
        kl_coef_1 = args.kl_coef + args.beta2 * stage1
        for batch in batches:
            own = batch[batch >= offline]  # a first attempt of the initial model is no action of the policy
            share = len(own) / len(batch)
            loss_1 = 0.0
            if len(own):
                loss_1 = accumulate_gradients(solver, turn_1, own, share * A_1, share * kl_coef_1, args)
            loss_2 = accumulate_gradients(solver, turn_2, batch, A_2, args.kl_coef, args)
            losses["policy_solver"].append(loss_1 + loss_2)
            losses["grad_norm_solver"].append(solver_optimizer.step(args.max_grad_norm, losses))

        # ---- LOG
        length_1, length_2 = (turn["response_mask"].sum(1).float() for turn in (turn_1, turn_2))
        tokens = (length_1 + length_2).sum().item() + episodes["replaced_tokens"]
        # KL and entropy are of the policy's own samples alone.
        kl_solver = kl[0][offline:].sum() / max(1, args.rollout_size - offline) + kl[1].mean()
        entropy = turn_1["entropies"][offline:].sum() + turn_2["entropies"].sum()
        entropy = entropy / (length_1[offline:].sum() + length_2.sum())
        metrics = {
            "iteration": iteration,
            **{f"rollout/{k}": v for k, v in common.outcomes(rewards_1.tolist(), rewards_2.tolist()).items()},
            "rollout/repeated": common.repeated(turn_1["texts"], turn_2["texts"]),
            "rollout/reward": rewards_2.mean().item(),
            "rollout/response_length_1": length_1.mean().item(),
            "rollout/response_length_2": length_2.mean().item(),
            "rollout/truncated": torch.cat([turn_1["truncated"], turn_2["truncated"]]).float().mean().item(),
            **episodes["verdict_log"],
            "losses/policy_solver": common.mean(losses["policy_solver"]),
            "losses/kl_solver": kl_solver.item(),
            "losses/entropy": entropy.item(),
            "losses/grad_norm_solver": common.mean(losses["grad_norm_solver"]),
            "charts/episodes": iteration * args.rollout_size,
            "charts/tokens_per_second": tokens / (time.time() - iteration_time),
            "charts/learning_rate": solver_optimizer.lr,
        }
        progress.set_postfix_str(f"accuracy {metrics['rollout/accuracy_1']:.2f} -> {metrics['rollout/accuracy_2']:.2f}")

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
