"""MLMT-RL: a solver tries, a feedback writer critiques, the solver refines; one reward trains both models.

    x -> z ~ L(.|x) -> g ~ H(.|x,z) -> y ~ L(.|x,z,g) -> R = verify(y) in {0, 1}        L solver, H feedback model

The solver follows the gradient of E[R] - beta_L KL(L || L_0), the feedback model that of E[R] - beta_H KL(H || H_0).
Each action has a prefix value as its baseline:
    solver    -mean[ A_1 log L(z|x) + A_2 log L(y|x,z,g) ]
    feedback  -mean[ A_g log H(g|x,z) ] + c_v mean[ (V - R)^2 ]      V is read from H's trunk in one pass over (x,z,g)
    A_1 = R - V(x)      A_g = R - V(x,z)      A_2 = R - V(x,z,g)     KL penalties are subtracted in `credit`

Paper: MLMT-RL (https://openreview.net/forum?id=u1RjV99DPu). Run: python mlmt_rl.py --stop-value-gradients

Departures from the paper, whose text and code leave these open or contradict each other:
1. Each action has its own baseline. One V(x,z,g) for all (--shared-baseline) biases z: an exact V knows what z led to.
2. V is a linear head on H's final states; "full-grad" lets its loss into H's trunk, --stop-value-gradients does not.
3. Every value's target is the episode's R: the episode ends after y, there is no next state to bootstrap from.
4. The bilevel term (--value-shaping) uses R*, the mean reward of fresh y's of the updated solver, not a second network.
5. Each model answers for its own KL: what z does to H's and g to L's is left out. --joint-kl follows E[R] - both KLs.
6. SCoRe's Stage I and its bonus alpha are off by default.

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
    exp_name: str = "mlmt_rl"  # name of the experiment, part of the run folder's name
    seed: int = 1  # seeds the sampling of responses and the order of the problems
    device: Literal["auto", "cuda", "cpu"] = "auto"  # auto: a GPU if there is one, otherwise the CPU
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"  # of the weights; auto: bfloat16 on a GPU, else float32
    run_dir: str | None = None  # run folder; by default runs/{dataset}__{exp_name}__{seed}__{time}
    if_run_exists: Literal["raise", "resume", "delete"] = "raise"  # stop, resume its last checkpoint, or start over
    track: bool = False  # also send the metrics to Weights & Biases (needs wandb)
    wandb_project: str = "textual-feedback-rl"  # project of --track

    # ---- model and data
    policy_lm: str | None = None  # solver: a folder or hub name; by default an embedded one
    feedback_lm: str | None = None  # feedback model, of any family; by default another copy of policy_lm
    chat_template: bool = True  # render prompts with the tokenizer's chat template, if it has one
    solve_prompt: str | None = None  # instruction for the first attempt: a text or a .txt file; "" for none
    feedback_prompt: str | None = None  # instruction for the feedback, likewise; by default that of problems/prompts.py
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
    test_results: Literal["none", "verdict", "shown", "all"] = "none"  # what the feedback model is told of the attempt
    feedback_control: Literal["none", "shuffled", "verdict", "fixed"] = "none"  # what turn 2 reads instead of feedback

    # ---- rollout
    rollout_size: int = 64  # episodes of one iteration (B), all sampled from the same policies
    max_new_tokens: int = 40  # longest response of the solver, in tokens
    max_feedback_tokens: int = 40  # longest feedback, in tokens
    temperature: float = 1.0  # sampling temperature; the log-probabilities in training use the same
    top_p: float = 1.0  # nucleus sampling; below 1 the sampler is no longer exactly the policy that is trained
    generation_batch_size: int = 0  # most responses sampled at once (memory only); 0: as many as memory allows
    strict_answers: bool = False  # a mathematical answer counts only in \boxed{}
    code_timeout: float = 5.0  # time limit of a program in seconds; unfinished tests fail
    unsafe_code: bool = False  # if no sandbox can be set up, run programs with limits of time and memory alone

    # ---- algorithm
    kl_coef: Annotated[float, tyro.conf.arg(aliases=["--beta1"])] = 0.01  # beta1 (MLMT-RL: beta_L): weight of the KL
    guidance_kl_coef: float = 0.01  # beta_H, the same for the feedback model
    joint_kl: bool = False  # each action also answers for the other model's later KL (k1_reward only)
    kl_estimator: Literal["k1_reward", "k2_loss", "k3_loss"] = "k1_reward"  # k1: in the return; k2, k3: a loss
    gae_lambda: float = 1.0  # lambda of generalised advantage estimation with turns as time steps; 1: no value bias
    shared_baseline: bool = False  # one baseline V(x,z,g) for z and y, as in the paper's README: biased, for teaching
    value_coef: float = 0.5  # c_v, the weight of the value loss
    stop_value_gradients: bool = False  # the value loss trains only the value head, not the feedback model's trunk
    value_shaping: float = 0.0  # lambda of the bilevel term, which adds lambda (R - R*) to A_g; 0: off
    star_samples: int = 4  # fresh refinements whose mean reward is R*; with one alone, R - R* is mostly noise
    alpha: float = 0.0  # SCoRe's bonus: after Stage I, alpha (r2 - r1) is added to the second turn's reward
    stage1_iterations: int = 0  # Stage I: initial iterations without a reward for turn 1, its KL at beta1 + beta2
    beta2: float = 0.1  # additional weight of the KL of the first attempt in Stage I
    feedback_every: int = 1  # update the feedback model every n-th iteration (0: never); its value head always learns

    # ---- optimisation
    iterations: int = 40  # rollouts, each followed by its updates
    learning_rate: float = 2e-4  # learning rate of the solver (Adam)
    guidance_lr: float = 2e-4  # learning rate of the feedback model
    value_lr: float = 1e-3  # learning rate of the value head, constant; a step moves a value by about 100 times this
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


def run_episodes(models, tokenizers, problems: list[common.Problem], args: Args) -> dict:
    """One whole episode for each problem: three turns, and the verdicts on both attempts, each (B,)."""
    solver, feedback = models
    # TURN 1: z ~ L(.|x)
    prompts = [common.encode_prompt(tokenizers[0], common.attempt_messages(p)) for p in problems]
    turn_1 = generate(solver, tokenizers[0], prompts, args.max_new_tokens, args)
    # FEEDBACK: g ~ H(.|x,z)
    results = runs.from_first(common.test_results, turn_1["texts"], problems, args)
    messages = [common.feedback_messages(p, z, r) for p, z, r in zip(problems, turn_1["texts"], results)]
    prompts = [common.encode_prompt(tokenizers[1], m, p.statement) for m, p in zip(messages, problems)]
    turn_g = generate(feedback, tokenizers[1], prompts, args.max_feedback_tokens, args)
    turn_g["texts"] = runs.from_first(common.feedback_read, turn_g["texts"], turn_1["texts"], problems, args)
    # TURN 2: y ~ L(.|x,z,g), on the same problem
    messages = [common.refine_messages(p, z, g) for p, z, g in zip(problems, turn_1["texts"], turn_g["texts"])]
    prompts = [common.encode_prompt(tokenizers[0], m) for m in messages]
    turn_2 = generate(solver, tokenizers[0], prompts, args.max_new_tokens, args)
    rewards, verdict_log = runs.from_first(common.verify_turns, [turn_1["texts"], turn_2["texts"]], problems, args)
    rewards_1, rewards_2 = torch.tensor(rewards, device=solver.device)
    episodes = {"attempt": turn_1, "feedback": turn_g, "refinement": turn_2}
    return episodes | {"rewards_1": rewards_1, "rewards_2": rewards_2, "verdict_log": verdict_log}


# ---- log-probabilities and values ----------------------------------------------------------------------------------


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


# new in MLMT-RL
def prefix_values(value_head, hidden: torch.Tensor, turn: dict, rows: torch.Tensor) -> torch.Tensor:
    """V(x), V(x,z), V(x,z,g) from one pass of the feedback model: (b, 3).

    A causal model's state at the last token of a prefix has seen that prefix and nothing after it. States are scaled to
    sum_i |h_i| = 100: a step of Adam then moves a value by about 100 value_lr at most, however large a model's states.
    """
    end_z = turn["prompt_mask"][rows].sum(1) - 1  # (b,) last token of the prompt
    end_g = end_z + turn["response_mask"][rows].sum(1)  # last token of the feedback
    ends = torch.stack([turn["prefix_length"][rows] - 1, end_z, end_g], 1)  # (b, 3)
    features = hidden.gather(1, ends[:, :, None].expand(-1, -1, hidden.shape[2]))  # (b, 3, C)
    return value_head(100 * torch.nn.functional.normalize(features.float(), p=1, dim=2)).squeeze(-1)


@torch.no_grad()
def rollout_logprobs(model, turn: dict, args: Args) -> torch.Tensor:
    """Log-probabilities of all responses of a turn, without gradient: (B, T)."""
    logprobs = torch.zeros(turn["response_mask"].shape, device=model.device)  # (B, T)
    for rows in runs.micro_batches(turn, torch.arange(len(logprobs), device=model.device), args):
        logprobs[rows] = token_logprobs(model, hidden_states(model, turn, rows), turn, rows, args)
    return runs.total(logprobs)


# new in MLMT-RL
@torch.no_grad()
def rollout_values(model, value_head, turn: dict, args: Args) -> torch.Tensor:
    """V(x), V(x,z), V(x,z,g) of all episodes, without gradient: (B, 3)."""
    values = torch.zeros(len(turn["response_mask"]), 3, device=model.device)  # (B, 3)
    for rows in runs.micro_batches(turn, torch.arange(len(values), device=model.device), args):
        values[rows] = prefix_values(value_head, hidden_states(model, turn, rows), turn, rows)
    return runs.total(values)


# ---- the method ----------------------------------------------------------------------------------------------------


# new in MLMT-RL
def turn_advantages(rewards: torch.Tensor, values: torch.Tensor, gae_lambda: float, shared: bool) -> torch.Tensor:
    """Advantages of z, g, y: (B, 3), by generalised advantage estimation over the three turns, undiscounted.

    delta_z = V(x,z) - V(x)    delta_g = V(x,z,g) - V(x,z)    delta_y = R - V(x,z,g)    A_i = delta_i + lambda A_(i+1)
    With lambda = 1 that is R - V(x), R - V(x,z), R - V(x,z,g). shared: A_1 = A_2 = R - V(x,z,g).
    """
    advantages = torch.cat([values[:, 1:], rewards[:, None]], 1) - values  # (B, 3)
    for turn in (1, 0):
        advantages[:, turn] += gae_lambda * advantages[:, turn + 1]
    if shared:
        advantages[:, 0] = advantages[:, 2]
    return advantages


def credit(args: Args, stage1: bool, rewards_1, rewards_2, values, kl_1, kl_g, kl_2, rewards_star=None):
    """What multiplies log pi of each action: A_1, A_g, A_2, each (B,).

    kl_*: sum over a response's tokens of log pi - log pi_ref; zero unless kl_estimator is k1_reward. An action's return
    carries its own and the later penalties of its own model (--joint-kl: of both): then the expected gradient is that
    of E[R] - beta KL(pi || pi_ref). Stage I leaves z its own penalty alone.
    rewards_star: R* of the bilevel term R + lambda (R - R*).
    """  # differs: one reward for all three actions, each with a value as its baseline
    advantages = turn_advantages(rewards_2, values, args.gae_lambda, args.shared_baseline)  # (B, 3)
    A_1 = advantages[:, 0] - args.kl_coef * (kl_1 + kl_2)
    A_g = advantages[:, 1] - args.guidance_kl_coef * kl_g
    A_2 = advantages[:, 2] - args.kl_coef * kl_2
    if args.joint_kl:
        A_1 = A_1 - args.guidance_kl_coef * kl_g
        A_g = A_g - args.kl_coef * kl_2
    if stage1:
        A_1 = -(args.kl_coef + args.beta2) * kl_1
    else:
        A_2 = A_2 + args.alpha * (rewards_2 - rewards_1)
    if rewards_star is not None:
        A_g = A_g + args.value_shaping * (rewards_2 - rewards_star)
    return A_1, A_g, A_2


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


def accumulate_gradients(model, turn, rows, advantages, kl_coef, args, value_head=None, rewards=None) -> tuple:
    """Adds the gradient of one turn's loss over `rows`, an optimiser batch, to .grad; returns policy and value loss.

    Sums over tokens are divided by the number of episodes in `rows`, so micro_batch_size is a memory knob only.
    advantages None: the policy is not trained and its trunk gets no gradient, only the value head does.
    """  # differs: the value loss, over the same states
    total_loss = total_value_loss = 0.0
    trained = advantages is not None
    model.train(args.gradient_checkpointing)  # Hugging Face recomputes layers in train mode only; dropout is zero
    for mb in runs.micro_batches(turn, rows, args):
        with torch.set_grad_enabled(trained):
            hidden = hidden_states(model, turn, mb)  # (b, L, C)
        loss = torch.zeros(len(mb), device=hidden.device)
        if trained:
            new_logprobs = token_logprobs(model, hidden, turn, mb, args)
            logprobs = turn["old_logprobs"][mb] if "old_logprobs" in turn else new_logprobs.detach()
            loss = policy_loss(new_logprobs, logprobs, advantages[mb], turn["response_mask"][mb], args.clip_coef)
            total_loss += loss.sum().item() / len(rows)
            if kl_coef and args.kl_estimator != "k1_reward":
                loss = loss + kl_coef * kl_penalty(new_logprobs, turn["ref_logprobs"][mb], args.kl_estimator)
        if value_head is not None:
            states = hidden.detach() if args.stop_value_gradients else hidden
            errors = prefix_values(value_head, states, turn, mb) - rewards[mb, None]  # (b, 3)
            value_loss = errors.pow(2).mean(1)
            total_value_loss += value_loss.sum().item() / len(rows)
            loss = loss + args.value_coef * value_loss
        (loss.sum() / len(rows)).backward()
    return runs.total(total_loss, total_value_loss)


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
    feedback_lm = args.feedback_lm or policy_lm
    feedback, feedback_tokenizer = runs.load_lm(run, feedback_lm, "--feedback-lm", "feedback")
    models, tokenizers = (solver, feedback), (solver_tokenizer, feedback_tokenizer)
    # The KL reference is the initial policy; one copy serves both models where they start from the same weights.
    reference = feedback_reference = runs.load_lm(run, policy_lm, "--policy-lm")[0]
    if feedback_lm != policy_lm:
        feedback_reference, _ = runs.load_lm(run, feedback_lm, "--feedback-lm")
    value_head = torch.nn.Linear(feedback.get_output_embeddings().in_features, 1, device=run.device)  # new in MLMT-RL
    torch.nn.init.zeros_(value_head.weight)
    problems, room = train_problems + eval_problems, args.max_new_tokens + args.max_feedback_tokens
    prompts = [common.refine_messages(p, "", "") for p in problems]
    runs.check_prompts(run, solver, solver_tokenizer, prompts, problems, room + args.max_new_tokens, "--policy-lm")
    results = common.test_results([""] * len(problems), problems, args)  # of no program, to measure the prompts
    prompts = [common.feedback_messages(p, "", r) for p, r in zip(problems, results)]
    runs.check_prompts(run, feedback, feedback_tokenizer, prompts, problems, room, "--feedback-lm")
    common.encode_prompt(feedback_tokenizer, prompts[0], problems[0].statement)  # fails here, not in the first rollout

    solver_optimizer = runs.Adam(solver, lr=args.learning_rate, betas=args.adam_betas)
    feedback_optimizer = runs.Adam(feedback, lr=args.guidance_lr, betas=args.adam_betas)
    value_optimizer = runs.Adam(value_head, lr=args.value_lr, betas=args.adam_betas)
    state = {"solver_optimizer": solver_optimizer, "feedback_optimizer": feedback_optimizer}
    state |= {"value_head": value_head, "value_optimizer": value_optimizer}
    start = runs.begin(run, state, train_problems, eval_problems)
    if start == 0:
        metrics = evaluate(run, 0, models, tokenizers, eval_problems, args)
        runs.log(run, {"iteration": 0, "charts/episodes": 0} | metrics)

    progress = tqdm(range(start + 1, args.iterations + 1), initial=start, total=args.iterations, disable=None)
    for iteration in progress:
        iteration_time = time.time()
        stage1 = iteration <= args.stage1_iterations
        train_feedback = args.feedback_every > 0 and iteration % args.feedback_every == 0
        lr_scale = common.lr_scale(args, iteration, args.iterations)
        solver_optimizer.lr, feedback_optimizer.lr = args.learning_rate * lr_scale, args.guidance_lr * lr_scale

        # ---- ROLLOUT: TURN 1, FEEDBACK, TURN 2
        rows = common.problem_rows(iteration, args.rollout_size, len(train_problems), args.seed)
        problems = [train_problems[row] for row in rows]
        episodes = run_episodes(models, tokenizers, problems, args)
        turn_1, turn_g, turn_2 = episodes["attempt"], episodes["feedback"], episodes["refinement"]
        rewards_1, rewards_2 = episodes["rewards_1"], episodes["rewards_2"]  # (B,), R is rewards_2

        # ---- REWARDS AND ADVANTAGES
        if iteration == 1:  # values start at the mean reward; it holds an episode's own R: gradients shrink by 1 - 1/B
            value_head.bias.data.fill_(rewards_2.mean())
        values = rollout_values(feedback, value_head, turn_g, args)  # (B, 3)
        kl = []  # KL of z, g, y: sum over a response's tokens of log pi - log pi_ref, each (B,)
        for turn, model in ((turn_1, reference), (turn_g, feedback_reference), (turn_2, reference)):
            turn["ref_logprobs"] = rollout_logprobs(model, turn, args)  # (B, T)
            kl.append((turn["logprobs"] - turn["ref_logprobs"]).sum(1))
        penalties = kl if args.kl_estimator == "k1_reward" else [torch.zeros_like(rewards_2)] * 3
        A_1, _, A_2 = credit(args, stage1, rewards_1, rewards_2, values, *penalties)  # (B,)
        if args.update_epochs * args.num_minibatches > 1:  # otherwise they are the new ones
            for turn, model in ((turn_1, solver), (turn_g, feedback), (turn_2, solver)):
                turn["old_logprobs"] = rollout_logprobs(model, turn, args)  # (B, T)

        # ---- UPDATE: the solver, then the feedback model
        losses = defaultdict(list)  # of each optimiser step
        shuffles = [torch.randperm(args.rollout_size, device=run.device) for _ in range(args.update_epochs)]
        batches = [batch for shuffle in shuffles for batch in shuffle.tensor_split(args.num_minibatches)]
        kl_coef_1 = args.kl_coef + args.beta2 * stage1
        for batch in batches:
            loss_1, _ = accumulate_gradients(solver, turn_1, batch, A_1, kl_coef_1, args)
            loss_2, _ = accumulate_gradients(solver, turn_2, batch, A_2, args.kl_coef, args)
            losses["policy_solver"].append(loss_1 + loss_2)
            losses["grad_norm_solver"].append(solver_optimizer.step(args.max_grad_norm, losses))
        # new in MLMT-RL: the bilevel term, and the value loss beside the feedback model's
        rewards_star, star_tokens = None, 0  # R*: what the solver, after its update, makes of the same (x,z,g)
        if args.value_shaping and train_feedback:
            prompts, asked = turn_2["prompts"] * args.star_samples, problems * args.star_samples
            turn_star = generate(solver, solver_tokenizer, prompts, args.max_new_tokens, args)
            star_tokens = turn_star["response_mask"].sum().item()
            (verdicts,), _ = runs.from_first(common.verify_turns, [turn_star["texts"]], asked, args)
            rewards_star = torch.tensor(verdicts, device=run.device).view(args.star_samples, -1).mean(0)  # (B,)
        _, A_g, _ = credit(args, stage1, rewards_1, rewards_2, values, *penalties, rewards_star)  # (B,)
        for batch in batches:
            A, beta = A_g if train_feedback else None, args.guidance_kl_coef
            loss_g, value_loss = accumulate_gradients(feedback, turn_g, batch, A, beta, args, value_head, rewards_2)
            losses["value"].append(value_loss)
            losses["grad_norm_value"].append(value_optimizer.step(args.max_grad_norm, losses))
            if train_feedback:
                losses["policy_feedback"].append(loss_g)
                losses["grad_norm_feedback"].append(feedback_optimizer.step(args.max_grad_norm, losses))

        # ---- LOG
        length_1, length_g, length_2 = (turn["response_mask"].sum(1).float() for turn in (turn_1, turn_g, turn_2))
        tokens = (length_1 + length_g + length_2).sum().item() + star_tokens
        metrics = {
            "iteration": iteration,
            **{f"rollout/{k}": v for k, v in common.outcomes(rewards_1.tolist(), rewards_2.tolist()).items()},
            "rollout/repeated": common.repeated(turn_1["texts"], turn_2["texts"]),
            "rollout/reward": rewards_2.mean().item(),
            "rollout/reward_star": None if rewards_star is None else rewards_star.mean().item(),
            "rollout/response_length_1": length_1.mean().item(),
            "rollout/response_length_2": length_2.mean().item(),
            "rollout/feedback_length": length_g.mean().item(),
            "rollout/truncated": sum(turn["truncated"].float().mean().item() for turn in (turn_1, turn_g, turn_2)) / 3,
            **episodes["verdict_log"],
            "losses/policy_solver": common.mean(losses["policy_solver"]),
            "losses/policy_feedback": common.mean(losses["policy_feedback"]),
            "losses/value": common.mean(losses["value"]),
            "losses/explained_variance": runs.explained_variance(values, rewards_2[:, None].expand_as(values)),
            "losses/kl_solver": (kl[0] + kl[2]).mean().item(),
            "losses/kl_feedback": kl[1].mean().item(),
            "losses/entropy": ((turn_1["entropies"] + turn_2["entropies"]).sum() / (length_1 + length_2).sum()).item(),
            "losses/entropy_feedback": (turn_g["entropies"].sum() / length_g.sum()).item(),
            "losses/grad_norm_solver": common.mean(losses["grad_norm_solver"]),
            "losses/grad_norm_feedback": common.mean(losses["grad_norm_feedback"]),
            "losses/grad_norm_value": common.mean(losses["grad_norm_value"]),
            "charts/episodes": iteration * args.rollout_size,
            "charts/tokens_per_second": tokens / (time.time() - iteration_time),
            "charts/learning_rate": args.learning_rate * lr_scale,
        }
        progress.set_postfix_str(f"accuracy {metrics['rollout/accuracy_1']:.2f} -> {metrics['rollout/accuracy_2']:.2f}")

        # ---- EVAL
        if iteration == args.iterations or iteration % args.eval_every == 0:
            runs.log_episodes(run, iteration, "rollout", problems, episodes)
            metrics |= evaluate(run, iteration, models, tokenizers, eval_problems, args)
        runs.log(run, metrics)

        # ---- CHECKPOINT
        folders = {"solver": (solver, solver_tokenizer), "feedback": (feedback, feedback_tokenizer)}
        runs.checkpoint(run, iteration, folders, state)
    runs.finish(run)


if __name__ == "__main__":
    common.run(main, common.parse(Args, __doc__), __file__)
