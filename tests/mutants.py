"""One-line mistakes in the training loops, and the test that notices each.

    python tests/mutants.py             # every mistake, two at a time; exit code 1 if one survives
    python tests/mutants.py archer.py   # those whose line holds this text
    python tests/mutants.py originals   # the defects of docs/originals.md, each with the test that the page names

Each mistake is made in a copy of the repository, where the replay of its script runs first and, if that is green, every
other test of the loops. A text that is not found exactly once has moved: its line here must follow.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPLAYS = {"mlmt_rl.py": "mlmt_rl-", "score.py": "[score-", "rl_guided_score.py": "rl_guided_score-"}
REPLAYS |= {
    "intro.py": "test_intro_is",
    "grpo.py": "test_grpo_is",
    "archer.py": "test_archer_is",
    "expert_iteration.py": "test_expert",
}
REPLAYS |= dict.fromkeys(("sharedrep_grpo.py", "sharedrep_reward.py", "running/passes.py"), "test_sharedrep_grpo_is")
OTHERS = "archer conventions countdown expert_iteration intro sharedrep episodes gradients grpo logprobs models".split()
OTHERS += "processes resume run_folder score".split()

# script, text, text with the mistake
MUTANTS = [
    # ---- the decode loop and what it notes
    ("running/passes.py", "logits.float() / (temperature or 1.0)", "logits.float()"),
    ("running/passes.py", "draw(kept, uniforms", "draw(pi, uniforms"),
    ("running/passes.py", "ordered.cumsum(-1) - ordered >= top_p", "ordered.cumsum(-1) >= top_p"),
    ("running/passes.py", "log_pi.gather(-1, tokens)[:, 0]", "kept.log().gather(-1, tokens)[:, 0]"),
    ("mlmt_rl.py", "sampled = runs.sample(logits[places],", "sampled = runs.sample(logits,"),
    ("mlmt_rl.py", "decoder.keep(places)", "pass"),
    ("running/passes.py", "self.rows = self.rows[places]", "pass"),
    ("running/passes.py", "layer.reorder_cache(self.rows)", "pass"),
    ("running/passes.py", "layer.grow(before, before)", "layer.grow(before - 1, before)"),
    ("running/passes.py", '["attention_mask"][..., place] = True', '["attention_mask"][..., place - 1] = True'),
    ("running/passes.py", "self.place.fill_(place)", "self.place.fill_(place - 1)"),
    ("running/passes.py", "seen[:, : before + 1] = mask.bool()", "seen[:, : before + 1] = True"),
    ("mlmt_rl.py", "position_ids[:, -1:] + 1  # (b, 1)", "position_ids[:, -1:]  # (b, 1)"),
    ("mlmt_rl.py", "if t == 0 or not going.all():", "if not going.all():"),
    ("grpo.py", 'if "old_logprobs" in turn else', "if False else"),
    ("running/passes.py", "(1 - uniforms) * cumulated", "uniforms * cumulated"),
    ("mlmt_rl.py", "t = torch.arange(1, hidden.shape[1] + 1,", "t = torch.arange(0, hidden.shape[1],"),
    ("grpo.py", "t = torch.arange(1, hidden.shape[1] + 1,", "t = torch.arange(2, hidden.shape[1] + 2,"),
    ("running/passes.py", "torch.cat([before[places], states], 1)", "torch.cat([before[places.flip(0)], states], 1)"),
    ("running/passes.py", "positions[places, -1:] + 1 + torch", "positions[places, -1:] + torch"),
    ("running/passes.py", "[seen[places], response_mask", "[torch.ones_like(seen[places]), response_mask"),
    ("running/passes.py", "\n    cache.reorder_cache(places)\n", "\n    cache.reorder_cache(places.flip(0))\n"),
    ("running/passes.py", "cost(by_prompt) < cost(by_length)", "cost(by_prompt) > cost(by_length)"),
    ("running/passes.py", "tensor_split(ranks.world_size())[ranks.rank()]", "tensor_split(ranks.world_size())[0]"),
    ("running/passes.py", "by_length[ranks.rank() :: ranks.world_size()]", "by_length"),
    ("running/passes.py", "room[..., :kept, :] = old[..., :kept, :]", "pass"),
    ("running/passes.py", "room.index_select(0, places) for room", "room[: len(places)] for room"),
    ("runs.py", "(found - predicted).var()", "predicted.var()"),
    ("mlmt_rl.py", "runs.explained_variance(values, ", "runs.explained_variance(values.flip(0), "),
    # ---- what the feedback model is told, and what turn 2 reads
    ("common.py", "[*feedback[1:], *feedback[:1]]", "feedback"),
    ("common.py", "stated_verdicts(attempts, problems, args),", "stated_verdicts(feedback, problems, args),"),
    ("common.py", "VERDICTS[verdict is True] for", "VERDICTS[verdict is not True] for"),
    (
        "mlmt_rl.py",
        'turn_g["texts"] = runs.from_first(common.feedback_read,',
        "_ = runs.from_first(common.feedback_read,",
    ),
    ("eval.py", "texts = common.feedback_read(", "texts = (lambda texts, *_: texts)("),
    ("eval.py", 'runs.cut_at_stops(turns["attempt"], tokenizers[0], args.stop_strings)', "pass"),
    ("eval.py", 'runs.cut_at_stops(turns["refinement"], tokenizers[0], args.stop_strings)', "pass"),
    ("eval.py", '"stop_strings": tuple(stop_strings),', ""),
    # countdown: which numbers an expression has used, what it is worth, what counts as given away
    ("common.py", "if problem.numbers:", "if not problem:"),
    ("verifiers/countdown.py", "any(sorted(used) == sorted(numbers)", "any(set(used) == set(numbers)"),
    ("verifiers/countdown.py", "all(value == target for value", "any(value == target for value"),
    ("verifiers/countdown.py", "return -value(operand)", "return value(operand)"),
    ("eval.py", "for text in [*texts, feedback])", "for text in [feedback])"),
    ("problems/countdown.py", 'in_test_split(question) == (split == "test")', "(split and True)"),
    ("mlmt_rl.py", "common.feedback_messages(p, z, r)", "common.feedback_messages(p, z)"),
    ("rl_guided_score.py", "common.feedback_messages(p, z, r)", "common.feedback_messages(p, z)"),
    ("common.py", "problem.tests[: problem.tests_in_prompt] if", "problem.tests if"),
    ("common.py", "VERDICTS[verdict is True]", "VERDICTS[verdict is not True]"),
    ("verifiers/sandbox_child.py", "errors[i] if i in errors else repr(values[i])", "repr(values[i])"),
    # ---- adapters and several processes
    ("running/models.py", "lora_alpha=alpha", "lora_alpha=rank"),
    ("running/models.py", "model.load_adapter(str(saved), is_trainable=True)", "model.load_adapter(str(saved))"),
    ("running/models.py", "{id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}", "{}"),
    ("running/ranks.py", "rows[rank() :: world_size()]", "rows[rank() + 1 :: world_size()]"),
    ("running/optimizer.py", "self.adam.consolidate_state_dict(to=0)", "pass"),
    ("running/optimizer.py", "ranks.total(*[master.grad for master in self.masters])", "pass"),
    ("mlmt_rl.py", "    runs.total(response_ids, response_mask, logprobs, entropies, truncated)", "    pass"),
    ("mlmt_rl.py", "return runs.total(total_loss, total_value_loss)", "return total_loss, total_value_loss"),
    ("mlmt_rl.py", "return runs.total(values)", "return values"),
    ("intro.py", "return runs.total(total_loss, logged)", "return total_loss, logged"),
    ("archer.py", " / runs.world_size()", ""),
    # ---- which tensor
    ("mlmt_rl.py", "solver, turn_1, batch, A_1,", "solver, turn_1, batch, A_2,"),
    ("mlmt_rl.py", "solver, turn_2, batch, A_2,", "solver, turn_2, batch, A_1,"),
    ("mlmt_rl.py", "rewards_1, rewards_2, values, *penalties)", "rewards_1, rewards_1, values, *penalties)"),
    ("mlmt_rl.py", "rewards_2, values, *penalties, rewards_star)", "rewards_1, values, *penalties, rewards_star)"),
    (
        "mlmt_rl.py",
        "((turn_1, solver), (turn_g, feedback), (turn_2, solver))",
        "((turn_1, solver), (turn_g, solver), (turn_2, solver))",
    ),
    (
        "mlmt_rl.py",
        "((turn_1, solver), (turn_g, feedback), (turn_2, solver))",
        "((turn_1, solver), (turn_g, feedback), (turn_2, reference))",
    ),
    ("mlmt_rl.py", "values = rollout_values(feedback,", "values = rollout_values(feedback_reference,"),
    ("mlmt_rl.py", "(turn_g, feedback_reference)", "(turn_g, reference)"),
    ("mlmt_rl.py", "encode_prompt(tokenizers[1], m, p.statement)", "encode_prompt(tokenizers[0], m, p.statement)"),
    ("mlmt_rl.py", "generate(feedback, tokenizers[1]", "generate(feedback, tokenizers[0]"),
    ("mlmt_rl.py", "args, value_head, rewards_2)", "args, value_head, rewards_1)"),
    ("mlmt_rl.py", 'turn_2["prompts"] * args', 'turn_1["prompts"] * args'),
    ("mlmt_rl.py", ".view(args.star_samples, -1).mean(0)", ".view(-1, args.star_samples).mean(1)"),
    ("mlmt_rl.py", "A_g = A_g - args.kl_coef * kl_2", "A_g = A_g - args.kl_coef * kl_1"),
    ("mlmt_rl.py", "A, beta = A_g if train_feedback else None, args", "A, beta = A_g, args"),
    ("mlmt_rl.py", "hidden.detach() if args.stop_value_gradients", "hidden.detach() if True"),
    ("mlmt_rl.py", "hidden.detach() if args.stop_value_gradients", "hidden if args.stop_value_gradients"),
    ("mlmt_rl.py", 'prefix_length"][rows] - 1', 'prefix_length"][rows] - 2'),
    ("mlmt_rl.py", "generate(solver, solver_tokenizer, prompts, ", "generate(reference, solver_tokenizer, prompts, "),
    (
        "mlmt_rl.py",
        "ratio = torch.exp(new_logprobs - logprobs)",
        "ratio = torch.exp(new_logprobs - logprobs.detach() * 0)",
    ),
    ("rl_guided_score.py", "solver, turn_1, batch, A_1,", "solver, turn_1, batch, A_2,"),
    ("rl_guided_score.py", "feedback, turn_g, batch, A_g,", "feedback, turn_g, batch, A_2,"),
    (
        "rl_guided_score.py",
        "((turn_1, solver), (turn_g, feedback), (turn_2, solver))",
        "((turn_1, solver), (turn_g, solver), (turn_2, solver))",
    ),
    ("rl_guided_score.py", "(turn_g, feedback_reference)", "(turn_g, reference)"),
    ("rl_guided_score.py", "rewards_1, rewards_2, *penalties)", "rewards_2, rewards_1, *penalties)"),
    ("rl_guided_score.py", "generate(feedback, tokenizers[1]", "generate(feedback, tokenizers[0]"),
    (
        "rl_guided_score.py",
        "if not args.use_smart_corrections:\n        messages",
        "if args is None:\n        messages",
    ),
    (
        "score.py",
        '("response_ids", "response_mask", "logprobs", "entropies", "truncated", "texts")',
        '("response_ids", "logprobs", "entropies", "truncated", "texts")',
    ),
    (
        "score.py",
        '("response_ids", "response_mask", "logprobs", "entropies", "truncated", "texts")',
        '("response_ids", "logprobs", "entropies", "response_mask", "truncated")',
    ),
    ("score.py", "own = batch[batch >= offline]", "own = batch"),
    ("score.py", "turn_0 = generate(reference,", "turn_0 = generate(solver,"),
    ("score.py", "((turn_1, solver), (turn_2, solver))", "((turn_1, reference), (turn_2, solver))"),
    ("score.py", "solver, turn_2, batch, A_2,", "solver, turn_2, batch, A_1,"),
    ("score.py", "((turn_1, reference), (turn_2, reference))", "((turn_1, reference), (turn_2, solver))"),
    ("grpo.py", '["old_logprobs"] = rollout_logprobs(solver,', '["old_logprobs"] = rollout_logprobs(reference,'),
    ("grpo.py", '["ref_logprobs"] = rollout_logprobs(reference,', '["ref_logprobs"] = rollout_logprobs(solver,'),
    ("grpo.py", 'episodes["rewards"][rows] for', 'episodes["rewards_1"][rows] for'),
    ("archer.py", "self.encode(states, actions) if", "self.encode(actions, actions) if"),
    ("archer.py", "target_q, _ = grade(target,", "target_q, _ = grade(critic,"),
    ("mlmt_rl.py", "prompts, args.max_feedback_tokens, args)", "prompts, args.max_new_tokens, args)"),
    (
        "mlmt_rl.py",
        '{"solver": (solver, solver_tokenizer), "feedback": (feedback,',
        '{"solver": (feedback, solver_tokenizer), "feedback": (feedback,',
    ),
    ("score.py", "logprobs[rows] = token_logprobs", "logprobs[rows.sort().values] = token_logprobs"),
    ("grpo.py", "(P - part.shape[1], 0)", "(0, P - part.shape[1])"),
    ("score.py", "models, tokenizers = (solver, reference),", "models, tokenizers = (solver, solver),"),
    ("grpo.py", "replace(args, temperature=0.0)", "args"),
    # ---- which coefficient
    (
        "mlmt_rl.py",
        "A_g if train_feedback else None, args.guidance_kl_coef",
        "A_g if train_feedback else None, args.kl_coef",
    ),
    ("mlmt_rl.py", "kl_coef_1 = args.kl_coef + args.beta2 * stage1", "kl_coef_1 = args.kl_coef"),
    ("mlmt_rl.py", "A_1 = -(args.kl_coef + args.beta2) * kl_1", "A_1 = -args.kl_coef * kl_1"),
    ("mlmt_rl.py", "iteration <= args.stage1_iterations", "iteration < args.stage1_iterations"),
    (
        "mlmt_rl.py",
        "args.learning_rate * lr_scale, args.guidance_lr * lr_scale",
        "args.learning_rate * lr_scale, args.learning_rate * lr_scale",
    ),
    ("mlmt_rl.py", "lr=args.value_lr", "lr=args.guidance_lr"),
    ("mlmt_rl.py", "100 * torch.nn.functional.normalize(features.float(), p=1, dim=2)", "features.float()"),
    (
        "archer.py",
        "100 * torch.nn.functional.normalize(states.detach().float(), p=1, dim=2)",
        "states.detach().float()",
    ),
    ("common.py", "return max(0, iteration) / max", "return max(0, iteration + 1) / max"),
    (
        "mlmt_rl.py",
        "solver_optimizer.step(args.max_grad_norm, losses)",
        "solver_optimizer.step(1e9)",
    ),
    (
        "mlmt_rl.py",
        "value_optimizer.step(args.max_grad_norm, losses)",
        "value_optimizer.step(1e9)",
    ),
    (
        "mlmt_rl.py",
        "feedback_optimizer.step(args.max_grad_norm, losses)",
        "feedback_optimizer.step(1e9)",
    ),
    ("mlmt_rl.py", "torch.clamp(ratio, 1 - clip_coef,", "torch.clamp(ratio, 1 / (1 + clip_coef),"),
    ("mlmt_rl.py", "shuffle.tensor_split(args.num_minibatches)", "shuffle.tensor_split(1)"),
    ("mlmt_rl.py", "for _ in range(args.update_epochs)", "for _ in range(1)"),
    ("mlmt_rl.py", "loss = loss + args.value_coef * value_loss", "loss = loss + value_loss"),
    ("mlmt_rl.py", "A_1 = A_1 - args.guidance_kl_coef * kl_g", "A_1 = A_1 - args.kl_coef * kl_g"),
    ("mlmt_rl.py", "A_g = advantages[:, 1] - args.guidance_kl_coef", "A_g = advantages[:, 1] - args.kl_coef"),
    ("mlmt_rl.py", "iteration % args.feedback_every == 0", "iteration % 1 == 0"),
    ("mlmt_rl.py", "return (0.5 * log_ratio**2).sum(1)", "return (log_ratio**2).sum(1)"),
    ("mlmt_rl.py", "return (torch.exp(-log_ratio) - 1 + log_ratio)", "return (torch.exp(log_ratio) - 1 - log_ratio)"),
    (
        "mlmt_rl.py",
        ".float() / args.temperature).log_softmax(-1)  # (m, W)\n        return",
        ".float()).log_softmax(-1)  # (m, W)\n        return",
    ),
    ("mlmt_rl.py", "(loss.sum() / len(rows)).backward()", "(loss.sum() / len(mb)).backward()"),
    ("mlmt_rl.py", "    else:\n        A_2 = A_2 + args.alpha", "    if True:\n        A_2 = A_2 + args.alpha"),
    ("rl_guided_score.py", "batch, A_g, args.guidance_kl_coef", "batch, A_g, args.kl_coef"),
    (
        "rl_guided_score.py",
        "kl_coef_1 = args.kl_coef + args.beta2 * stage1\n        for",
        "kl_coef_1 = args.kl_coef\n        for",
    ),
    ("rl_guided_score.py", "iteration <= args.stage1_iterations", "iteration < args.stage1_iterations"),
    (
        "rl_guided_score.py",
        "args.learning_rate * lr_scale, args.guidance_lr * lr_scale",
        "args.learning_rate * lr_scale, args.learning_rate * lr_scale",
    ),
    ("rl_guided_score.py", "args.gamma * args.kl_coef * kl_2", "args.kl_coef * kl_2"),
    ("score.py", "share * A_1, share * kl_coef_1", "A_1, share * kl_coef_1"),
    ("score.py", "share * A_1, share * kl_coef_1", "share * A_1, share * args.kl_coef"),
    ("score.py", "iteration <= args.stage1_iterations", "iteration < args.stage1_iterations"),
    ("score.py", "offline = 0 if stage1 else round", "offline = round"),
    ("score.py", "+ args.gamma * shaped)", "+ args.gamma * rewards_2)"),
    ("grpo.py", "torch.clamp(ratio, 1 - args.clip_low,", "torch.clamp(ratio, 1 / (1 + args.clip_low),"),
    ("grpo.py", "1 + args.clip_high)", "1 + args.clip_low)"),
    ("grpo.py", "shuffle.tensor_split(args.num_minibatches) if", "shuffle.tensor_split(1) if"),
    ("grpo.py", "objective = clipped.detach() * A * new_logprobs", "objective = ratio.detach() * A * new_logprobs"),
    ("grpo.py", "return 1 / (len(lengths) * lengths)", "return 1 / (len(lengths) * lengths.max() + 0 * lengths)"),
    ("grpo.py", "args.overlong_coef * (over", "(over"),
    (
        "grpo.py",
        'args.kl_coef * group_advantages(kl, args.group_size, "none")',
        'args.kl_coef * group_advantages(kl, args.group_size, "std")',
    ),
    (
        "archer.py",
        "critic_optimizer.step(args.max_grad_norm, losses)",
        "critic_optimizer.step(1e9)",
    ),
    ("archer.py", "polyak_step(target, critic, args.tau)", "polyak_step(target, critic, 0.1)"),
    ("archer.py", "iteration > args.warmup_iterations else", "iteration >= args.warmup_iterations else"),
    ("archer.py", "iteration - args.warmup_iterations, args", "iteration, args"),
    ("common.py", "(1 - math.cos(math.pi * done)) / 2", "done"),
    ("archer.py", "range(args.actor_epochs if", "range(1 if"),
    # ---- which baseline
    ("score.py", "A_1 = reward_1 - baseline(reward_1,", "A_1 = reward_1 - baseline(rewards_1,"),
    ("score.py", "A_2 = reward_2 - baseline(reward_2,", "A_2 = reward_2 - baseline(rewards_2,"),
    ("rl_guided_score.py", "A_1 = reward_1 - baseline(reward_1,", "A_1 = reward_1 - baseline(rewards_1,"),
    ("rl_guided_score.py", "A_2 = reward_2 - baseline(reward_2,", "A_2 = reward_2 - baseline(rewards_2,"),
    ("rl_guided_score.py", "A_g = rewards_2 - baseline(rewards_2,", "A_g = rewards_2 - baseline(rewards_1,"),
    ("rl_guided_score.py", "A_g = rewards_2 - baseline(rewards_2,", "A_g = reward_2 - baseline(reward_2,"),
    ("mlmt_rl.py", "        if iteration == 1:", "        if iteration:"),
    ("mlmt_rl.py", "fill_(rewards_2.mean())", "fill_(rewards_1.mean())"),
    ("mlmt_rl.py", "for turn in (1, 0):", "for turn in (0, 1):"),
    ("archer.py", "A = A - b.detach()", "A = A - b"),
    ("archer.py", ".sum(1, keepdim=True) - 1  # (b, T)", ".sum(1, keepdim=True)  # (b, T)"),
    # ---- which sample
    (
        "archer.py",
        'torch.randint(len(buffer["problems"]), (args.critic_epochs',
        "torch.randint(len(rows), (args.critic_epochs",
    ),
    (
        "archer.py",
        'torch.randint(len(buffer["problems"]), (args.actor_batch',
        "torch.randint(len(rows), (args.actor_batch",
    ),
    (
        "archer.py",
        'prompts = [train_prompts[buffer["problems"][i]] for i in draws]',
        "prompts = [train_prompts[rows[i % len(rows)]] for i in draws]",
    ),
    ("archer.py", 'actions = [buffer["responses"][i] for i in batch]', "actions = fresh_actions"),
    ("archer.py", "            critic.train()\n", "            critic.eval()\n"),
    (
        "archer.py",
        "((q_loss + v_loss).sum() / len(batch) /",
        "((q_loss + v_loss).sum() / len(mb) /",
    ),
    ("archer.py", "+ new)[-args.capacity :]", "+ new)"),
    ("expert_iteration.py", 'keep = episodes["rewards_1"] == 1', 'keep = episodes["rewards_1"] >= 0'),
    (
        "grpo.py",
        "groups = verdicts.view(-1, args.group_size)",
        'groups = episodes["rewards"].view(-1, args.group_size)',
    ),
    ("grpo.py", 'well_formed.bool() & ~turn_1["truncated"]', "well_formed.bool()"),
    ("grpo.py", 'common.problem_rows(counters["rounds"], args', "common.problem_rows(iteration, args"),
    ("mlmt_rl.py", "common.problem_rows(iteration, args.rollout_size", "common.problem_rows(1, args.rollout_size"),
    ("mlmt_rl.py", "response_mask[rows, t] = 1", "response_mask[rows, t] = (~torch.isin(sampled[0], end_ids)).long()"),
    ("expert_iteration.py", "loss = -(new_logprobs *", 'loss = -(turn["logprobs"][mb] * new_logprobs *'),
    ("expert_iteration.py", "loss + args.kl_coef * kl_penalty", "loss + kl_penalty"),
    # ---- runs.py
    ("running/optimizer.py", 'self.adam.param_groups[0]["lr"] = self.lr', "pass"),
    ("running/optimizer.py", "clip_grad_norm_(self.masters, max_norm)", "clip_grad_norm_(self.masters, 1e9)"),
    ("running/optimizer.py", '"masters": masters}', '"masters": []}'),
    ("running/optimizer.py", "                    weight.copy_(master)", "                    pass"),
    ("runs.py", 'torch.set_rng_state(trainer["rng"])', "pass"),
    ("running/optimizer.py", '"betas": betas', '"betas": (0.9, 0.999)'),
    ("running/models.py", "run.resumed / trained_as if", 'run.resumed / "solver" if'),
    # ---- whose folder, which model
    ("running/optimizer.py", "if not math.isfinite(norm):", "if False:"),
    ("running/optimizer.py", "if values and not math.isfinite(values[-1]):", "if False:"),
    ("runs.py", "if isinstance(value, float) and not math.isfinite(value):", "if False:"),
    ("runs.py", "if run.stop.signal or iteration == run", "if iteration == run"),
    ("running/models.py", '("drop" in key or "jitter" in key)', '"drop" in key'),
    ("running/models.py", "            switch_off_noise(value)", "            pass"),
    ("running/models.py", "(2, 0)) for part in", "(0, 2)) for part in"),
    ("running/folder.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),
    ("running/folder.py", "if run.resumed != found:", "if False:"),
    ("running/folder.py", 'r"checkpoint-\\d{6}"', 'r"checkpoint-\\d{6}.*"'),
    ("running/folder.py", "os.truncate(path, size)", "pass"),
    ("problems/prompts.py", '"split_special_tokens": is_mark}', '"split_special_tokens": False}'),
    ("problems/prompts.py", "return whole[: starts[0]] if starts else []", "return whole[: starts[0]] + whole[-1:]"),
    ("problems/prompts.py", "max(1, length - max(0, len(ids) - most))", "length"),
    # ---- which mean
    ("mlmt_rl.py", "(kl[0] + kl[2]).mean()", "kl[2].mean()"),
    ("mlmt_rl.py", "kl[1].mean().item()", "(kl[1] / length_g).mean().item()"),
    (
        "mlmt_rl.py",
        '(turn_1["entropies"] + turn_2["entropies"]).sum()',
        '(turn_1["entropies"] + turn_1["entropies"]).sum()',
    ),
    ("mlmt_rl.py", '(turn_g["entropies"].sum() / length_g.sum())', 'turn_g["entropies"].mean()'),
    ("mlmt_rl.py", '["policy_solver"].append(loss_1 + loss_2)', '["policy_solver"].append(loss_2)'),
    ("common.py", "float(np.mean(parts)) if parts", "float(parts[-1]) if parts"),
    ("mlmt_rl.py", ".sum().item() + star_tokens", ".sum().item()"),
    ("mlmt_rl.py", "for turn in (turn_1, turn_g, turn_2)) / 3", "for turn in (turn_1, turn_2)) / 3"),
    ("mlmt_rl.py", "value_loss = errors.pow(2).mean(1)", "value_loss = errors.pow(2).sum(1)"),
    ("rl_guided_score.py", "(kl[0] + kl[2]).mean()", "(kl[0] + kl[1]).mean()"),
    ("score.py", "kl[0][offline:].sum() / max(1, args.rollout_size - offline)", "kl[0].mean()"),
    ("score.py", 'turn_1["entropies"][offline:].sum()', 'turn_1["entropies"].sum()'),
    ("score.py", '.sum().item() + episodes["replaced_tokens"]', ".sum().item()"),
    ("score.py", '["policy_solver"].append(loss_1 + loss_2)', '["policy_solver"].append(loss_1)'),
    (
        "grpo.py",
        "kl.mean().item() if",
        '(kl / turn["response_mask"].sum(1)).mean().item() if',
    ),
    ("grpo.py", '(turn["entropies"].sum() / turn["response_mask"].sum())', 'turn["entropies"].mean()'),
    (
        "grpo.py",
        'verdict_log"]["rollout/undecided"] for e in sampled',
        'verdict_log"]["rollout/undecided"] for e in sampled[-1:]',
    ),
    ("grpo.py", 'counters["rounds"] * rollout_size', "iteration * rollout_size"),
    (
        "archer.py",
        'losses["critic_q"].append(q_sum / len(batch))',
        'losses["critic_q"].append(q_loss.mean().item())',
    ),
    ("archer.py", 'tokens += turn["response_mask"].sum().item()', "pass"),
    # ---- InTRO
    ("intro.py", "(hidden_p, answered))]", "(hidden_p, turn))]"),
    ("intro.py", "w = w.detach() if args.stop_weight_gradients else w", "pass"),
    ("intro.py", "keep = verdicts == 1 if", "keep = verdicts >= 0 if"),
    ("intro.py", "hidden_p = hidden_states(model, answered, mb)", "hidden_p = hidden_states(model, turn, mb)"),
    ("intro.py", "with torch.set_grad_enabled(not args.stop_weight_gradients)", "with torch.no_grad()"),
    ("intro.py", "1 / (len(rows) * lengths) if", "1 / (len(lengths) * lengths) if"),
    ("intro.py", "1 / lengths[rows].sum()", "1 / lengths.sum()"),
    ("intro.py", ".float() / args.temperature).log_softmax(-1)", ".float()).log_softmax(-1)"),
    (
        "intro.py",
        "runs.draw(pool, uniforms)",
        "runs.draw(log_q.exp(), uniforms)",
    ),
    ("intro.py", "share = log_q.exp().detach()", "share = log_q.exp()"),
    ("intro.py", "(weights > args.weight_clip)", "(weights < args.weight_clip)"),
    ("intro.py", "(p * (log_p - log_q)).sum(1), -(q", "(q * (log_q - log_p)).sum(1), -(q"),
    ("intro.py", "/ logged[5]).tolist()", "/ len(kept)).tolist()"),
    ("intro.py", "shown = run_episodes(models, tokenizers, problems, args, answered=True)", "shown = episodes"),
    ("intro.py", "args.learning_rate * common.lr_scale(args, iteration, args.iterations)", "args.learning_rate"),
    # ---- SharedRep-RLHF
    ("sharedrep_grpo.py", "r[:, r.mean(0).argmin()]", "r[:, r.mean(0).argmax()]"),
    ("sharedrep_grpo.py", "return r.min(1).values", "return r.mean(1)"),
    ("sharedrep_grpo.py", ".log() - lr * r", ".log() + lr * r"),
    ("sharedrep_grpo.py", "worst_group_rewards(r, args", 'worst_group_rewards(episodes["gold"], args'),
    ("sharedrep_grpo.py", 'counters["weights"] = weights.tolist()', "pass"),
    ("sharedrep_grpo.py", 'phi([""] * len(texts), texts)', "phi([p.statement for p in problems], texts)"),
    ("sharedrep_grpo.py", "[len(text.split()) for text in texts]", "[len(text) for text in texts]"),
    (
        "sharedrep_grpo.py",
        '"rollout/worst_group": gold.mean(0).min()',
        '"rollout/worst_group": gold.min(1).values.mean()',
    ),
    ("sharedrep_grpo.py", '{"worst_group": gold.mean(0).min().item()}', '{"worst_group": gold.min().item()}'),
    ("sharedrep_grpo.py", "A = A - args.kl_coef", "A = A + args.kl_coef"),
    (
        "sharedrep_grpo.py",
        '["ref_logprobs"] = rollout_logprobs(reference,',
        '["ref_logprobs"] = rollout_logprobs(solver,',
    ),
    ("sharedrep_grpo.py", "runs.cut_at_stops(turn_1", "(lambda *_: None)(turn_1"),
    ("sharedrep_reward.py", '(-z("words", words))', '(z("words", words))'),
    ("sharedrep_reward.py", "(r_chosen - r_rejected)", "(r_rejected - r_chosen)"),
    ("sharedrep_reward.py", "gather(1, groups[:, None])", "gather(1, 1 - groups[:, None])"),
    ("sharedrep_reward.py", "(0,) if minority else (1,)", "(1,) if minority else (0,)"),
    ("sharedrep_reward.py", "scores[i + 1, group] > scores[i, group]", "scores[i + 1, group] < scores[i, group]"),
    ("sharedrep_reward.py", 'if row["question"] not in held_out', 'if row["question"] in held_out'),
    ("sharedrep_reward.py", "if args.calibrate_heads:", "if not args.calibrate_heads:"),
    ("sharedrep_reward.py", "torch.manual_seed(args.seed + 1_000_003 * start)", "pass"),
    ("sharedrep_reward.py", "len(rows) // size * size", "len(rows)"),
    ("sharedrep_reward.py", '"split": "test" if held_out else "train"', '"split": "train" if held_out else "test"'),
    ("running/passes.py", "(place >= ends - read)", "(place > ends - read)"),
    ("running/passes.py", '["response_mask"][i, n:] = False', '["response_mask"][i, n - 1 :] = False'),
    ("archer.py", "auc(q.min(1).values, rewards_1)", "auc(q[:, 0], rewards_1)"),
    (
        "running/folder.py",
        'key=lambda row: (row["mean_reward"], row["iteration"])',
        'key=lambda row: row["mean_reward"]',
    ),
    # ---- what a run with usual flags does not show
    (
        "archer.py",
        "critic.tokenize(*part).attention_mask",
        "critic.tokenize(*part, max_length=critic.max_length).attention_mask",
        "test_wiring.py::test_texts_that_the_critic_reads_in_part_are_counted",
    ),
    (
        "archer.py",
        'common.attempt_messages(p)[-1]["content"]',
        'common.attempt_messages(p)[0]["content"]',
        "test_wiring.py::test_the_critic_reads_the_problem_behind_a_system_message",
    ),
    (
        "archer.py",
        '    with torch.random.fork_rng([run.device] * (run.device != "cpu")):\n',
        "    if True:\n",
        "test_wiring.py::test_evaluations_leave_training_as_it_was",
    ),
    (
        "expert_iteration.py",
        "kept.append(keep.nonzero().squeeze(1)[: rollout_size - sum(map(len, kept))])",
        "kept.append(keep.nonzero().squeeze(1))",
        "test_wiring.py::test_rounds_end_with_a_full_batch",
    ),
    (
        "expert_iteration.py",
        "            if sum(map(len, kept)) == rollout_size:\n                break\n",
        "",
        "test_wiring.py::test_rounds_end_with_a_full_batch",
    ),
    (
        "expert_iteration.py",
        "torch.manual_seed(args.eval_seed)",
        "torch.manual_seed(args.seed)",
        "test_wiring.py::test_evaluations_have_their_own_seed",
    ),
    (
        "grpo.py",
        'sum(e["verdict_log"]["charts/verify_seconds"] for e in sampled)',
        'sum(e["verdict_log"]["charts/verify_seconds"] for e in sampled[-1:])',
        "test_wiring.py::test_the_time_of_all_rounds_is_counted",
    ),
    (
        "intro.py",
        'common.load_problems(args.dataset, "test", min_level=args.min_level)',
        'common.load_problems(args.dataset, "test")',
        "test_wiring.py::test_the_test_split_is_chosen_and_asked_as_the_training_split_is",
    ),
    (
        "intro.py",
        "common.instruct([problem for problem in test if problem.id not in known], args)",
        "[problem for problem in test if problem.id not in known]",
        "test_wiring.py::test_the_test_split_is_chosen_and_asked_as_the_training_split_is",
    ),
    (
        "intro.py",
        "prompts = solve_messages(problems, args, answered=True)  # the longer ones",
        "prompts = solve_messages(problems, args, answered=False)",
        "test_wiring.py::test_there_is_room_for_the_answer",
    ),
    (
        "mlmt_rl.py",
        "with torch.set_grad_enabled(trained):",
        "with torch.enable_grad():",
        "test_wiring.py::test_a_value_loss_leaves_no_gradient_for_the_next_step_of_the_trunk",
    ),
    (
        "score.py",
        "A_2 = reward_2 - baseline(reward_2, args.baseline)",
        "A_2 = reward_2 - baseline(shaped, args.baseline)",
        "test_wiring.py::test_a_turn_without_reward_has_no_baseline_either",
    ),
    (
        "score.py",
        "round(args.offline_first_turn * args.rollout_size)",
        "int(args.offline_first_turn * args.rollout_size)",
        "test_wiring.py::test_the_share_of_offline_attempts_is_rounded",
    ),
    (
        "mlmt_rl.py",
        'problems, room + args.max_new_tokens, "--policy-lm"',
        'problems, room, "--policy-lm"',
        "test_wiring.py::test_there_is_room_for_all_that_a_last_turn_reads_and_writes",
    ),
    (
        "score.py",
        "train_problems + eval_problems, 2 * args.max_new_tokens",
        "train_problems + eval_problems, args.max_new_tokens",
        "test_wiring.py::test_there_is_room_for_all_that_a_last_turn_reads_and_writes",
    ),
    (
        "rl_guided_score.py",
        'problems, room + args.max_new_tokens, "--policy-lm"',
        'problems, room, "--policy-lm"',
        "test_wiring.py::test_there_is_room_for_all_that_a_last_turn_reads_and_writes",
    ),
    (
        "mlmt_rl.py",
        'prompts, problems, room, "--feedback-lm"',
        'prompts, problems, args.max_feedback_tokens, "--feedback-lm"',
        "test_wiring.py::test_there_is_room_for_all_that_a_last_turn_reads_and_writes",
    ),
    (
        "eval.py",
        "attempts, written = args.turns * args.max_new_tokens",
        "attempts, written = args.max_new_tokens",
        "test_wiring.py::test_room_in_an_evaluation",
    ),
    (
        "common.py",
        "    verdicts = judge_all(responses, problems, args.strict_answers, args.code_timeout)\n    return [VERDICTS",
        "    verdicts = judge_all(responses, problems, False, args.code_timeout)\n    return [VERDICTS",
        "test_wiring.py::test_the_flags_reach_every_verdict",
    ),
    (
        "common.py",
        "judge_all(responses, problems, args.strict_answers, args.code_timeout) for responses in turns",
        "judge_all(responses, problems, args.strict_answers) for responses in turns",
        "test_wiring.py::test_the_flags_reach_every_verdict",
    ),
    (
        "common.py",
        "problem.solution, args.code_timeout)",
        "problem.solution, TIMEOUT)",
        "test_wiring.py::test_the_flags_reach_every_verdict",
    ),
    (
        "eval.py",
        "seed = args.eval_seed + 1_000_003",
        "seed = 1_000_003",
        "test_wiring.py::test_the_seed_of_an_evaluation",
    ),
    (
        "eval.py",
        '"max_feedback_tokens", "eval_seed", "generation',
        '"max_feedback_tokens", "generation',
        "test_wiring.py::test_training_settings_are_all_of_the_runs_own",
    ),
    (
        "eval.py",
        '"generation_batch_size", "strict_answers")',
        '"generation_batch_size")',
        "test_wiring.py::test_training_settings_are_all_of_the_runs_own",
    ),
    (
        "eval.py",
        '"prompt_template", "tests_in_prompt", "test_results")',
        '"prompt_template")',
        "test_wiring.py::test_training_settings_are_all_of_the_runs_own",
    ),
    (
        "eval.py",
        '(config["eval_dataset"] or config["dataset"],), "split": config["eval_split"]}',
        '(config["dataset"],)}',
        "test_wiring.py::test_training_settings_are_all_of_the_runs_own",
    ),
    (
        "eval.py",
        '    settings["block_size"] = config["eval_size"]\n',
        "",
        "test_wiring.py::test_training_settings_are_all_of_the_runs_own",
    ),
    (
        "eval.py",
        "rewards_without, rewards_shuffled = common.verify_turns",
        "rewards_shuffled, rewards_without = common.verify_turns",
        "test_wiring.py::test_columns_of_feedback_quality",
    ),
    (
        "eval.py",
        "columns = (rewards_without, rewards_shuffled, logprobs, logprobs_without,",
        "columns = (rewards_without, rewards_shuffled, logprobs_without, logprobs,",
        "test_wiring.py::test_columns_of_feedback_quality",
    ),
    (
        "eval.py",
        "without = [common.self_correct_messages(p, z, template) for",
        "without = [common.self_correct_messages(p, z) for",
        "test_wiring.py::test_columns_of_feedback_quality",
    ),
    (
        "eval.py",
        "shuffled = [common.refine_messages(p, z, g, template) for",
        "shuffled = [common.refine_messages(p, z, g) for",
        "test_wiring.py::test_columns_of_feedback_quality",
    ),
    (
        "eval.py",
        "prompts, args.max_feedback_tokens, args)",
        "prompts, args.max_new_tokens, args)",
        "test_wiring.py::test_columns_of_feedback_quality",
    ),
    (
        "eval.py",
        "logprobs = response_logprobs(models[0],",
        "logprobs = response_logprobs(models[1],",
        "test_wiring.py::test_columns_of_feedback_quality",
    ),
    (
        "eval.py",
        "logprobs_without = response_logprobs(models[0],",
        "logprobs_without = response_logprobs(models[1],",
        "test_wiring.py::test_columns_of_feedback_quality",
    ),
    (
        "eval.py",
        "turn = generate(models[0], tokenizers[0], prompts[-1]",
        "turn = generate(models[1], tokenizers[0], prompts[-1]",
        "test_wiring.py::test_columns_of_feedback_quality",
    ),
    (
        "eval.py",
        'int(episodes[name]["response_mask"][i].sum())',
        'int(episodes[name]["response_mask"][i].numel())',
        "test_wiring.py::test_lengths_are_those_of_the_responses",
    ),
    (
        "eval.py",
        "common.encode_prompt(tokenizers[1], m, p.statement)",
        "common.encode_prompt(tokenizers[0], m, p.statement)",
        "test_wiring.py::test_the_feedback_model_reads_by_its_own_tokenizer",
    ),
    (
        "eval.py",
        "generate(feedback, tokenizers[1],",
        "generate(feedback, tokenizers[0],",
        "test_wiring.py::test_the_feedback_model_reads_by_its_own_tokenizer",
    ),
    (
        "eval.py",
        "common.instruct(common.solvable(problems, args.unsafe_code), args)",
        "common.solvable(problems, args.unsafe_code)",
        "test_wiring.py::test_tools_read_the_prompt_flags_too",
    ),
    (
        "sharedrep_reward.py",
        "    problems = common.instruct(problems, args)\n",
        "",
        "test_wiring.py::test_tools_read_the_prompt_flags_too",
    ),
    (
        "template_search.py",
        "common.instruct(common.solvable(problems, args.unsafe_code), args)",
        "common.solvable(problems, args.unsafe_code)",
        "test_wiring.py::test_tools_read_the_prompt_flags_too",
    ),
    (
        "figures.py",
        "ks = sorted({2**i for i in range(k.bit_length())} | {k})",
        "ks = sorted({2**i for i in range(k.bit_length())})",
        "test_wiring.py::test_pass_at_every_sample_is_told",
    ),
    (
        "figures.py",
        'for key in ("fixed", "broken", "accuracy_2_oracle_gated"))]',
        'for key in ("broken", "fixed", "accuracy_2_oracle_gated"))]',
        "test_wiring.py::test_tables_stand_under_their_headings",
    ),
    (
        "figures.py",
        'r[f"majority_{turn}"], r[f"{text}_length"]]',
        'r["majority_1"], r[f"{text}_length"]]',
        "test_wiring.py::test_tables_stand_under_their_headings",
    ),
    (
        "common.py",
        "(1000, len(wins))).mean(1)",
        "(1000, 1)).mean(1)",
        "test_wiring.py::test_the_interval_of_a_win_rate",
    ),
    (
        "common.py",
        "np.quantile(resampled, (0.025, 0.975))",
        "np.quantile(resampled, (0.25, 0.75))",
        "test_wiring.py::test_the_interval_of_a_win_rate",
    ),
    (
        "common.py",
        'row["iteration"] == rows[-1]["iteration"]',
        'row["iteration"] == rows[0]["iteration"]',
        "test_wiring.py::test_the_last_evaluation_is_the_one_to_beat",
    ),
    (
        "template_search.py",
        "    torch.manual_seed(args.seed)\n",
        "    pass\n",
        "test_wiring.py::test_templates_are_measured_with_the_same_random_numbers",
    ),
    (
        "running/passes.py",
        "                    part[i, n:] = 0\n",
        "                    pass\n",
        "test_wiring.py::test_nothing_is_known_of_a_token_behind_a_stop_string",
    ),
    (
        "running/passes.py",
        "[-context_length(model.config) :]",
        "[: context_length(model.config)]",
        "test_wiring.py::test_a_text_beyond_the_context_loses_its_beginning",
    ),
    (
        "runs.py",
        'for name, value in recent[-1].items() if name.startswith("eval/")',
        'for name, value in recent[0].items() if name.startswith("eval/")',
        "test_wiring.py::test_a_checkpoint_is_noted_with_its_own_evaluation",
    ),
    (
        "running/folder.py",
        'RESUME_MAY_CHANGE += ("gradient_checkpointing",)',
        'RESUME_MAY_CHANGE += ("gradient_checkpointing", "num_minibatches")',
        "test_wiring.py::test_what_a_resumed_run_may_change",
    ),
    (
        "running/folder.py",
        "[[p.answer, *p.tests, p.setup_code] for p in problems]",
        "[[p.answer] for p in problems]",
        "test_wiring.py::test_all_that_responses_are_judged_by_is_in_the_fingerprint",
    ),
    (
        "runs.py",
        "checkpoint is {newest.name}, the best in training {best.name}",
        "checkpoint is {best.name}, the best in training {newest.name}",
        "test_wiring.py::test_the_end_names_the_newest_and_the_best",
    ),
    (
        "rl_guided_score.py",
        '"feedback": (feedback, feedback_tokenizer)}',
        '"feedback": (feedback, solver_tokenizer)}',
        "test_wiring.py::test_two_families_resume_under_guidance",
    ),
    (
        "rl_guided_score.py",
        'feedback_reference, _ = runs.load_lm(run, feedback_lm, "--feedback-lm")',
        'feedback_reference, _ = runs.load_lm(run, feedback_lm, "--feedback-lm", "feedback")',
        "test_wiring.py::test_two_families_resume_under_guidance",
    ),
    (
        "expert_iteration.py",
        '{"solver": (solver, solver_tokenizer)}',
        '{"solver": (reference or solver, solver_tokenizer)}',
        "test_wiring.py::test_expert_iteration_resumes",
    ),
    (
        "expert_iteration.py",
        'state = {"solver_optimizer": solver_optimizer, "counters": counters}',
        'state = {"solver_optimizer": solver_optimizer}',
        "test_wiring.py::test_expert_iteration_resumes",
    ),
    (
        "expert_iteration.py",
        'runs.load_lm(run, policy_lm, "--policy-lm")[0] if',
        'runs.load_lm(run, policy_lm, "--policy-lm", "solver")[0].requires_grad_(False) if',
        "test_wiring.py::test_expert_iteration_resumes",
    ),
    (
        "sharedrep_grpo.py",
        'flags["args"]["backbone"] or flags["args"]["policy_lm"]',
        'flags["args"]["policy_lm"]',
        "test_wiring.py::test_another_backbone_and_pooling_reach_every_score",
    ),
    (
        "sharedrep_grpo.py",
        '"the backbone of --reward-dir"), flags["args"]["pooling"]',
        '"the backbone of --reward-dir"), "mean"',
        "test_wiring.py::test_another_backbone_and_pooling_reach_every_score",
    ),
    (
        "sharedrep_reward.py",
        "runs.features(*backbone, questions, texts, args.pooling, CHUNK // 2)",
        'runs.features(solver, tokenizer, questions, texts, "mean", CHUNK // 2)',
        "test_wiring.py::test_another_backbone_and_pooling_reach_every_score",
    ),
    (
        "sharedrep_reward.py",
        "runs.features(*backbone, questions, texts, args.pooling,",
        "runs.features(solver, tokenizer, questions, texts, args.pooling,",
        "test_wiring.py::test_another_backbone_and_pooling_reach_every_score",
    ),
    (
        "sharedrep_reward.py",
        'reward_lr=args.oracle_lr, epochs=args.oracle_epochs, squash="none")',
        'squash="none")',
        "test_wiring.py::test_what_the_fits_are_of",
    ),
    (
        "sharedrep_reward.py",
        "fit(chosen[:m], rejected[:m], groups[:m], 1, flags)",
        "fit(chosen, rejected, groups, 1, flags)",
        "test_wiring.py::test_what_the_fits_are_of",
    ),
    (
        "sharedrep_reward.py",
        "right[groups == u, u].tolist()",
        "right[:, u].tolist()",
        "test_wiring.py::test_what_the_fits_are_of",
    ),
    (
        "sharedrep_reward.py",
        "lr=args.reward_lr, betas=args.adam_betas)",
        "lr=args.reward_lr)",
        "test_wiring.py::test_what_the_fits_are_of",
    ),
    (
        "sharedrep_grpo.py",
        '    with torch.random.fork_rng([run.device] * (run.device != "cpu")):\n',
        "    if True:\n",
        "test_wiring.py::test_evaluations_leave_training_on_rewards_as_it_was",
    ),
    (
        "eval.py",
        '"tests_in_prompt": args.tests_in_prompt, "leave_out"',
        '"leave_out"',
        "test_wiring.py::test_the_number_of_shown_tests_reaches_the_problems",
    ),
    (
        "template_search.py",
        "order = np.random.default_rng(args.seed).permutation(len(problems))[:needed]",
        "order = np.random.default_rng(0).permutation(len(problems))[:needed]",
        "test_wiring.py::test_the_seed_chooses_the_problems",
    ),
]

# docs/originals.md: script, text, text with the defect of the authors' code, the test that the page names for it
REPLAY, FORMULAS = "test_replay_two_turns.py::test_the_run_is_what_its_formulas_say", "test_gradients.py::test_"
ORIGINALS = [
    (
        "mlmt_rl.py",
        "log_ratio = new_logprobs - ref",
        "log_ratio = new_logprobs.detach() - ref",
        FORMULAS + "kl_losses_vanish_at_the_reference_only",
    ),
    (
        "mlmt_rl.py",
        "return (0.5 * log_ratio**2).sum(1)",
        "return (torch.exp(-log_ratio) - 1 + log_ratio).sum(1)",
        FORMULAS + "k2_follows_kl_without_later_tokens",
    ),
    (
        "mlmt_rl.py",
        "t = torch.arange(1, hidden.shape[1] + 1,",
        "t = torch.arange(2, hidden.shape[1] + 2,",
        "test_logprobs.py::test_only_response_tokens_are_trained",
    ),
    (
        "running/passes.py",
        "torch.cat([prompt_ids, response_ids], 1)[mask]",
        "torch.cat([prompt_ids * 0, response_ids], 1)[mask]",
        "test_logprobs.py::test_logprobs_equal_a_plain_forward_pass",
    ),
    (
        "score.py",
        "shaped = rewards_2 + bonus * (rewards_2 - rewards_1)",
        "shaped = rewards_2",
        "test_score.py::test_stage_2_trains_both_with_the_bonus_on_the_second",
    ),
    (
        "score.py",
        "reward_1 = (rewards_1 * (not stage1)",
        "reward_1 = (rewards_2 * (not stage1)",
        "test_score.py::test_stage_2_trains_both_with_the_bonus_on_the_second",
    ),
    (
        "mlmt_rl.py",
        '[turn_1["texts"], turn_2["texts"]], problems, args)',
        '[turn_1["texts"], turn_2["texts"]], problems[1:] + problems[:1], args)',
        "test_episodes.py::test_verdicts_are_those_of_the_row",
    ),
    (
        "mlmt_rl.py",
        "tokenizer.batch_decode(responses,",
        "tokenizer.batch_decode([ids[:-2] for ids in responses],",
        "test_episodes.py::test_the_texts_are_those_of_the_tokens_under_training",
    ),
    (
        "mlmt_rl.py",
        "messages = [common.refine_messages(p, z, g) for",
        'messages = [common.refine_messages(p, "", g) for',
        "test_episodes.py::test_each_turn_reads_its_own_episode",
    ),
    (
        "running/passes.py",
        """[[0] * (P - len(prompt)) + prompt for prompt in prompts], device=device)
    return ids, torch.tensor([[0] * (P - len(prompt)) + [1] * len(prompt) for""",
        """[prompt + [0] * (P - len(prompt)) for prompt in prompts], device=device)
    return ids, torch.tensor([[1] * len(prompt) + [0] * (P - len(prompt)) for""",
        "test_logprobs.py::test_sampler_is_trainer",
    ),
    (
        "mlmt_rl.py",
        "response_mask[rows, t] = 1",
        "response_mask[rows, t] = (~torch.isin(sampled[0], end_ids)).long()",
        "test_logprobs.py::test_only_response_tokens_are_trained",
    ),
    (
        "mlmt_rl.py",
        ".float() / args.temperature).log_softmax(-1)  # (m, W)\n        return",
        ".float()).log_softmax(-1)  # (m, W)\n        return",
        "test_logprobs.py::test_sampler_is_trainer",
    ),
    ("rl_guided_score.py", "runs.Adam(feedback, lr", "runs.Adam(feedback_reference, lr", REPLAY),
    (
        "mlmt_rl.py",
        "        # ---- UPDATE: the solver, then",
        """        p, t = turn_g["prompts"], args.max_feedback_tokens
        turn_g |= generate(feedback, feedback_tokenizer, p, t, args) | {"ref_logprobs": turn_g["ref_logprobs"]}
        # ---- UPDATE: the solver, then""",
        REPLAY,
    ),
    (
        "mlmt_rl.py",
        "ratio = torch.exp(new_logprobs - logprobs)",
        "ratio = torch.exp((new_logprobs - logprobs).detach().requires_grad_())",
        FORMULAS + "policy_gradient_is_exact_for_any_values",
    ),
    (
        "mlmt_rl.py",
        '[turn["prefix_length"][rows] - 1, end_z, end_g]',
        "[end_g, end_g, end_g]",
        FORMULAS + "values_see_their_prefix_and_nothing_after_it",
    ),
    (
        "mlmt_rl.py",
        "    if shared:\n",
        "    if shared is not None:\n",
        FORMULAS + "policy_gradient_is_exact_for_any_values",
    ),
    (
        "mlmt_rl.py",
        "(loss.sum() / len(rows)).backward()",
        "loss.mean().backward()",
        "test_logprobs.py::test_micro_batch_size_is_a_memory_knob",
    ),
    (
        "mlmt_rl.py",
        "clipped = torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)",
        "clipped = ratio",
        FORMULAS + "ratio_is_clipped_on_the_side_that_matters",
    ),
    (
        "archer.py",
        "    critic.eval()\n",
        "    critic.train()\n",
        "test_archer.py::test_the_critic_learns_with_dropout_and_grades_without",
    ),
    (
        "running/optimizer.py",
        "if values and not math.isfinite(values[-1]):",
        "if False:",
        "test_run_folder.py::test_a_loss_that_is_not_finite_stops_before_the_step",
    ),
    (
        "mlmt_rl.py",
        '"losses/kl_feedback": kl[1].mean().item(),',
        '"losses/kl_feedback": None,',
        "test_episodes.py::test_every_row_has_every_key",
    ),
    (
        "verifiers/code_answers.py",
        'block = "\\n".join(line',
        'block = block or "\\n".join(line',
        "test_code_answers.py::test_extraction",
    ),
    (
        "verifiers/code_answers.py",
        "return all(passed) or",
        "return any(passed) or",
        "test_code_answers.py::test_a_response_is_right_only_if_every_test_passes",
    ),
    (
        "problems/loading.py",
        'tests = text_list(row, "test_list", where)',
        'tests = [str(text_list(row, "test_list", where))]',
        "test_code_problems.py::test_real_files",
    ),
    (
        "verifiers/sandbox_child.py",
        "exec(code, namespace)",
        "exec(code, namespace, {})",
        "test_sandbox.py::test_references",
    ),
    (
        "verifiers/math_answers.py",
        "return bare_answer(text) if len(text) <= MAX_SHORT else None",
        'return (re.findall(r"[0-9]+", text) or [None])[-1]',
        "test_math_answers.py::test_labelled_cases",
    ),
    (
        "eval.py",
        "uniforms[rows, t], args.temperature, args.top_p)",
        "uniforms[rows, t], 0.7, args.top_p)",
        "test_eval.py::test_training_settings_reproduce_the_last_evaluation_of_training",
    ),
    (
        "figures.py",
        '= figures["accuracy_1"] + figures["fixed"]',
        '= figures["accuracy_2"]',
        "test_figures.py::test_figures_by_hand",
    ),
    (
        "intro.py",
        "t = torch.arange(1, hidden.shape[1] + 1, device=hidden.device) - turn",
        "t = torch.arange(0, hidden.shape[1], device=hidden.device) - turn",
        "test_intro.py::test_each_token_meets_the_logits_that_predict_it",
    ),
    (
        "intro.py",
        "        log_p = log_p.detach()\n",
        "        pass\n",
        "test_intro.py::test_the_exact_gradient_is_q_minus_p",
    ),
    (
        "intro.py",
        "torch.cat([own[:, None], runs.draw(pool, uniforms)], 1)",
        "torch.cat([runs.draw(pool, uniforms), runs.draw(pool, uniforms)[:, :1]], 1)",
        "test_intro.py::test_candidates_are_the_own_token_and_draws",
    ),
    (
        "intro.py",
        "(weights[mb] * losses.sum(1)).sum()",
        'losses.sum() / turn["response_mask"][mb].sum()',
        "test_intro.py::test_micro_batches_change_nothing",
    ),
    (
        "intro.py",
        '[turn_1["texts"]], problems, args)',
        '[[f"\\\\boxed{{{p.answer}}}. {t}" for p, t in zip(problems, turn_1["texts"])]], problems, args)',
        "test_replay_one_turn.py::test_intro_is_what_its_formulas_say",
    ),
    (
        "intro.py",
        "    if args.include_test_split:",
        "    if True:",
        "test_intro.py::test_the_test_split_is_trained_on_only_if_asked",
    ),
    (
        "runs.py",
        "(part.update if isinstance(part, dict) else part.load_state_dict)",
        "(part.update if isinstance(part, dict) else id)",
        "test_resume.py::test_two_iterations_and_two_more_are_four",
    ),
    (
        "common.py",
        "positions = range((iteration - 1) * rollout_size, iteration * rollout_size)",
        "positions = range(rollout_size)",
        "test_episodes.py::test_each_problem_comes_once_an_epoch",
    ),
    (
        "sharedrep_reward.py",
        "- reference[name][0]) / reference[name][1]",
        ")",
        "test_sharedrep.py::test_traits_by_hand",
    ),
    (
        "verifiers/normalising.py",
        's = s.replace(",", "")',
        "s = s",
        "test_sharedrep.py::test_all_answers_of_gsm8k_are_read_in_three_forms",
    ),
    ("runs.py", "    torch.manual_seed(args.seed)\n", "    pass\n", "test_resume.py::test_a_seed_fixes_the_run"),
    (
        "sharedrep_reward.py",
        '.replace(" ** ", " ")',
        "",
        "test_sharedrep.py::test_socratic_solutions_are_told_by_no_mark",
    ),
    (
        "sharedrep_reward.py",
        "return (r - head[",
        "return r + 0 * (r - head[",
        "test_sharedrep.py::test_a_shift_that_bradley_terry_cannot_see_does_not_move_the_calibrated_minimum",
    ),
    (
        "sharedrep_grpo.py",
        "return r[:, r.mean(0).argmin()] if",
        "return r.min(1).values if",
        "test_sharedrep.py::test_the_mean_of_minima_is_not_the_minimum_of_means",
    ),
    ("mlmt_rl.py", "if shared:", "if False:", "test_gradients.py::test_shared_baseline_biases_the_first_attempt"),
    (
        "verifiers/math_answers.py",
        "end = closing[box.end()] + 1",
        'end = text.index("}", box.end()) + 1',
        "test_math_answers.py::test_every_gold_of_math_equals_itself",
    ),
    (
        "README.md",
        "--critic-input separate --dataset",
        "--critic-inputs separate --dataset",
        "test_project.py::test_commands_of_the_readme_are_understood",
    ),
    ("runs.py", 'torch.set_rng_state(trainer["rng"])', "pass", "test_sharedrep.py::test_resumed_is_uninterrupted"),
]


def killer(mutant: tuple[str, ...]) -> str | None:
    """The first test that fails on this mistake; None: it survives. Of ORIGINALS the named test alone is run."""
    script, old, new, *named = mutant
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "evals", "__pycache__"))
        if (ROOT.parent / "shared").is_dir():  # real data, for tests that skip without it
            (Path(place) / "shared").symlink_to(ROOT.parent / "shared")
        source = (copy / script).read_text(encoding="utf-8")
        if source.count(old) != 1:
            return f"NOT FOUND: it stands {source.count(old)} times in {script}"
        (copy / script).write_text(source.replace(old, new), encoding="utf-8")
        replays = [
            *(f"tests/{path.name}" for path in (ROOT / "tests").glob("test_replay_*.py")),
            "-k",
            REPLAYS.get(script, "test"),
        ]
        others = sorted(OTHERS, key=lambda name: not script.startswith(name))
        runs = [[f"tests/{named[0]}"]] if named else [replays, [f"tests/test_{name}.py" for name in others]]
        for tests in runs:
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
            for line in result.stdout.splitlines():
                if line.startswith(("FAILED ", "ERROR ")):
                    return line.split(" ", 1)[1].split(" - ")[0].removeprefix("tests/")
    return None


def main() -> None:
    listed = ORIGINALS if sys.argv[1:2] == ["originals"] else MUTANTS
    words = sys.argv[1 + (listed is ORIGINALS) :]
    wanted = [mutant for mutant in listed if all(word in " ".join(mutant) for word in words)]
    survivors = 0
    with ThreadPoolExecutor(2) as pool:
        for (script, old, new, *_), test in zip(wanted, pool.map(killer, wanted)):
            survivors += test is None or test.startswith("NOT FOUND")
            print(f"{script}: {old!r} -> {new!r}\n    {test or 'SURVIVES'}", flush=True)
    print(f"{len(wanted)} mistakes, {survivors} of them unnoticed")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
