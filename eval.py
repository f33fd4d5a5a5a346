"""Evaluates a causal language model or a checkpoint of a run on any problems: one attempt or two, k samples of each.

    python eval.py --solver runs/RUN Qwen/Qwen2.5-1.5B-Instruct --dataset math500 gsm8k --samples 4
    python eval.py --solver runs/RUN --as-in-training       # repeats the run's last evaluation exactly
    python eval.py --compare evals/ONE evals/OTHER          # two saved evaluations, paired by problem

The second turn follows a feedback model or a fixed instruction. figures.py defines every figure. Episodes are written
to episodes.jsonl block by block, figures to eval.json at the end; --if-run-exists resume continues after a stop.
"""

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import common
import figures
import runs

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer


@dataclass
class Args:
    # ---- experiment
    compare: tuple[str, str] | None = None  # compare two saved evaluations; FOLDER#2: the second solver of one
    as_in_training: bool = False  # use the settings and seed of the checkpoint's run; other flags override them
    device: Literal["auto", "cuda", "cpu"] = "auto"  # auto: a GPU if there is one, otherwise the CPU
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"  # of the weights; auto: bfloat16 on a GPU, else float32
    run_dir: str | None = None  # folder of the results; by default evals/{dataset}__{eval_seed}__{time}
    if_run_exists: Literal["raise", "resume", "delete"] = "raise"  # stop, continue where it stopped, or start over

    # ---- models and data
    solver: tuple[str, ...] = ()  # folders, hub names, run folders, checkpoints; by default the embedded model
    feedback: str = "own"  # for turn 2: folder or hub name; own: the checkpoint's, if any; none: a fixed instruction
    use_smart_corrections: bool = True  # turn 2 reads the feedback; otherwise the fixed instruction alone
    chat_template: bool = True  # render prompts with the tokenizer's chat template, if it has one
    solve_prompt: str | None = None  # instruction for the first attempt: a text or a .txt file; "" for none
    feedback_prompt: str | None = None  # instruction for the feedback, likewise; by default that of problems/prompts.py
    refine_prompt: str | None = None  # instruction for the second attempt, likewise, with or without feedback
    system_prompt: str | None = None  # system message before every prompt, likewise; by default none
    prompt_template: str = "none"  # none, baseline, step_by_step, concise, or a .json file: a list of messages
    dataset: tuple[str, ...] = ("arithmetic",)  # names from the README's table of data, or files
    split: str = "test"  # split to evaluate on; a file has train, test (one question in ten, by its text) and all
    limit: int | None = None  # most problems of each data set; by default all
    tests_in_prompt: int = 1  # tests of a code problem that the models see; the others stay hidden
    test_results: Literal["none", "verdict", "shown", "all"] = "none"  # what the feedback model is told of the attempt
    feedback_control: Literal["none", "shuffled", "verdict", "fixed"] = "none"  # what turn 2 reads instead of feedback

    # ---- rollout
    turns: Literal[1, 2] = 2  # attempts at each problem
    samples: int = 4  # independent episodes of each problem (k)
    temperature: float = 0.6  # sampling temperature; 0 is greedy
    top_p: float = 0.95  # nucleus sampling: the likeliest tokens with this total probability
    max_new_tokens: int = 1024  # longest response of the solver, in tokens
    max_feedback_tokens: int = 512  # longest feedback, in tokens
    eval_seed: int = 0  # seeds the sampling
    stop_strings: tuple[str, ...] = ()  # texts that end a response (a base model's next question)
    block_size: int = 200  # most episodes sampled, judged and written together; a stop loses one block
    generation_batch_size: int = 0  # most responses sampled at once (memory only); 0: as many as memory allows
    strict_answers: bool = False  # a mathematical answer counts only in \boxed{}
    code_timeout: float = 5.0  # time limit of a program in seconds; unfinished tests fail
    unsafe_code: bool = False  # if no sandbox can be set up, run programs with limits of time and memory alone

    # ---- figures
    feedback_quality: bool = False  # utility, specificity, utilisation, leakage (two more second turns)
    bootstrap_samples: int = 10000  # resampled sets of problems behind each interval


# ---- models and episodes -------------------------------------------------------------------------------------------


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
    """One whole episode for each problem: one or two turns, and the verdicts on the attempts."""
    # differs: one turn or two, with or without a feedback model
    solver, feedback = models
    template = common.load_template(args.prompt_template, problems)
    # TURN 1: z ~ L(.|x)
    prompts = [common.encode_prompt(tokenizers[0], common.attempt_messages(p, template)) for p in problems]
    turns = {"attempt": generate(solver, tokenizers[0], prompts, args.max_new_tokens, args)}
    runs.cut_at_stops(turns["attempt"], tokenizers[0], args.stop_strings)
    attempts = turns["attempt"]["texts"]
    if args.turns == 2:
        messages = [common.self_correct_messages(p, z, template) for p, z in zip(problems, attempts)]
        if feedback is not None:
            # FEEDBACK: g ~ H(.|x,z)
            results = common.test_results(attempts, problems, args)
            asked = [common.feedback_messages(p, z, r) for p, z, r in zip(problems, attempts, results)]
            prompts = [common.encode_prompt(tokenizers[1], m, p.statement) for m, p in zip(asked, problems)]
            turns["feedback"] = generate(feedback, tokenizers[1], prompts, args.max_feedback_tokens, args)
            if args.use_smart_corrections:
                texts = common.feedback_read(turns["feedback"]["texts"], attempts, problems, args)
                turns["feedback"]["texts"], texts = texts, zip(problems, attempts, texts)
                messages = [common.refine_messages(p, z, g, template) for p, z, g in texts]
        # TURN 2: y ~ L(.|x,z,g), on the same problem
        prompts = [common.encode_prompt(tokenizers[0], m) for m in messages]
        turns["refinement"] = generate(solver, tokenizers[0], prompts, args.max_new_tokens, args)
        runs.cut_at_stops(turns["refinement"], tokenizers[0], args.stop_strings)
    answers = [turns[name]["texts"] for name in ("attempt", "refinement") if name in turns]
    rewards, _ = common.verify_turns(answers, problems, args)
    return turns | {f"rewards_{turn}": verdicts for turn, verdicts in enumerate(rewards, 1)}


@torch.no_grad()
def response_logprobs(model, prompts: list[list[int]], turn: dict, args: Args) -> list[float]:
    """log pi(response | prompt) at the sampling temperature (greedy: 1), summed over the response, end token included.

    prompts: token ids that the responses of `turn` are read after, which need not be those that they were sampled from.
    """
    sums = []
    for ids, response_ids, mask in zip(prompts, turn["response_ids"], turn["response_mask"]):
        response = response_ids[mask]  # (T,)
        tokens = torch.cat([torch.tensor(ids, device=model.device), response])[None]  # (1, P+T)
        states = model.base_model(tokens).last_hidden_state[0, len(ids) - 1 : -1]  # (T, C)
        logits = model.get_output_embeddings()(states).float() / (args.temperature or 1.0)  # (T, W)
        sums.append(logits.log_softmax(-1).gather(-1, response[:, None]).sum().item())
    return sums


def evaluate_block(models, tokenizers, problems: list[common.Problem], args: Args) -> list[dict]:
    """One episode of each problem, as rows of episodes.jsonl."""
    episodes = run_episodes(models, tokenizers, problems, args)
    rows = common.episode_rows(0, "eval", problems, episodes, len(problems))
    for i, (row, problem) in enumerate(zip(rows, problems)):
        del row["iteration"]  # a matter of training
        row |= {"level": problem.level, "subject": problem.subject, "code": bool(problem.tests)}
        for name in figures.TURNS:
            if name in episodes:
                row[f"{name}_length"] = int(episodes[name]["response_mask"][i].sum())
    if args.feedback_quality and models[1] is not None:
        columns = quality_columns(models, tokenizers, problems, episodes, args)
        rows = [row | more for row, more in zip(rows, columns)]
    return rows


def states_answer(feedback: str, problem: common.Problem) -> bool:
    """Whether feedback gives the gold answer away: states it as it is written, or would be judged right itself."""
    if problem.numbers:  # countdown: any right expression
        texts = [f"\\boxed{{{text}}}" for text in re.findall(r"[\d(][\d+*/() -]*", feedback)]
        return any(common.verify(text, problem) for text in [*texts, feedback])
    stated = re.search(rf"(?<![\w.]){re.escape(problem.answer)}(?!\w|\.\d)", feedback) if problem.answer else None
    return stated is not None or common.verify(feedback, problem) == 1.0


def quality_columns(models, tokenizers, problems: list[common.Problem], episodes: dict, args: Args) -> list[dict]:
    """What feedback quality needs of each episode: two more second turns from the same first attempt z."""
    template = common.load_template(args.prompt_template, problems)
    attempts, feedback = episodes["attempt"]["texts"], episodes["feedback"]["texts"]
    others = [*feedback[1:], feedback[0]]  # g': every problem gets the next one's
    without = [common.self_correct_messages(p, z, template) for p, z in zip(problems, attempts)]
    shuffled = [common.refine_messages(p, z, g, template) for p, z, g in zip(problems, attempts, others)]
    texts, prompts = [], []
    for messages in (without, shuffled):
        prompts.append([common.encode_prompt(tokenizers[0], m) for m in messages])
        turn = generate(models[0], tokenizers[0], prompts[-1], args.max_new_tokens, args)
        runs.cut_at_stops(turn, tokenizers[0], args.stop_strings)
        texts.append(turn["texts"])
    rewards_without, rewards_shuffled = common.verify_turns(texts, problems, args)[0]
    turn = episodes["refinement"]
    logprobs = response_logprobs(models[0], [ids for ids, _ in turn["prompts"]], turn, args)
    logprobs_without = response_logprobs(models[0], [ids for ids, _ in prompts[0]], turn, args)
    leaked = [states_answer(g, p) for g, p in zip(feedback, problems)]
    by_chance = [states_answer(g, p) for g, p in zip(others, problems)]
    columns = (rewards_without, rewards_shuffled, logprobs, logprobs_without, leaked, by_chance)
    return [dict(zip(figures.QUALITY_COLUMNS, values)) for values in zip(*columns)]


# ---- command line --------------------------------------------------------------------------------------------------


def find_checkpoint(name: str) -> Path | None:
    """The checkpoint that a name stands for: a run's newest, itself, or the one that a solver folder is a part of."""
    folder = Path(name)
    if (folder / "metrics.jsonl").is_file():
        newest = common.last_checkpoint(folder)
        if newest is None:
            raise common.InputError(f"--solver {name}: this run has no checkpoint yet")
        return newest
    folder = folder.parent if folder.name == "solver" else folder
    return folder if common.is_checkpoint(folder) and (folder / "solver").is_dir() else None


def weights(solver: str) -> str:
    """The model to load for a solver: of a checkpoint, its folder solver/."""
    return str(Path(solver) / "solver") if (Path(solver) / "solver").is_dir() else solver


def training_settings(args: Args) -> Args:
    """The flags with which a checkpoint's own run evaluates it. Raises InputError."""
    checkpoint = find_checkpoint(args.solver[0]) if len(args.solver) == 1 else None
    if checkpoint is None:
        raise common.InputError("--as-in-training needs one --solver that is a checkpoint or a run folder")
    try:
        config = json.loads((checkpoint.parent / "config.json").read_text(encoding="utf-8"))["args"]
        first_row = common.read_rows(checkpoint.parent / "metrics.jsonl")[0]
        stop_strings = ()
        if "reward_dir" in config:  # sharedrep_grpo.py: its reward folder says what ends a response
            folder = config["reward_dir"] or f"runs/{Path(config['dataset']).stem}__sharedrep_reward__{config['seed']}"
            stop_strings = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["args"]["stop_strings"]
    except (OSError, ValueError, KeyError, IndexError) as error:
        reason = f"config.json or metrics.jsonl in {checkpoint.parent}, or its reward folder, cannot be read"
        raise common.InputError(f"--as-in-training: {reason}: {error}") from error
    same = ("dtype", "use_smart_corrections", "chat_template", "prompt_template", "tests_in_prompt", "test_results")
    same += ("feedback_control", "temperature", "solve_prompt", "feedback_prompt", "refine_prompt", "system_prompt")
    same += ("top_p", "max_new_tokens", "max_feedback_tokens", "eval_seed", "generation_batch_size", "strict_answers")
    settings = {name: config[name] for name in (*same, "code_timeout") if name in config}
    if "guidance_lr" in config and not (checkpoint / "feedback").is_dir():
        raise common.InputError(f"--as-in-training: {checkpoint / 'feedback'}, the run's feedback model, is gone")
    settings |= {"dataset": (config["eval_dataset"] or config["dataset"],), "split": config["eval_split"]}
    settings["chat_template"] = config["chat_template"] not in (False, "off")  # older runs have auto, on or off
    settings |= {"stop_strings": tuple(stop_strings), "limit": config["eval_size"], "samples": 1}
    settings["block_size"] = config["eval_size"]
    return replace(args, **settings, turns=2 if "eval/accuracy_2" in first_row else 1)


def check_models(solver: str, feedback: str | None, problems: list[common.Problem], args: Args) -> None:
    """Raises InputError if a model does not exist or cannot read the prompts; reads no weights."""
    attempts, written = args.turns * args.max_new_tokens, args.max_feedback_tokens if feedback else 0
    template = common.load_template(args.prompt_template, problems)
    prompts = [common.refine_messages(p, "", "", template) for p in problems]
    checks = [("--solver", solver, prompts, attempts + written)]
    if feedback:
        results = common.test_results([""] * len(problems), problems, args)
        prompts = [common.feedback_messages(p, "", r) for p, r in zip(problems, results)]
        checks.append(("--feedback", feedback, prompts, args.max_new_tokens + written))
    for flag, name, prompts, room in checks:
        try:
            source = runs.model_source(name)
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            while base := runs.base_model(source):  # of an adapter, which may stand on another one
                source = runs.model_source(base)
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            if Path(source).is_dir() and not [*Path(source).glob("*.safetensors"), *Path(source).glob("*.bin")]:
                raise FileNotFoundError("its folder holds no weights")
        except Exception as error:  # a missing folder, no network: each library raises its own types
            raise runs.not_loaded(flag, name, error) from error
        tokenizer.chat_template = tokenizer.chat_template if args.chat_template else None
        common.check_lengths(tokenizer, prompts, problems, room, config, f"{flag} {name}")


def main(args: Args) -> None:
    common.check_args(args)
    if args.compare:
        return figures.compare(args.compare, args.bootstrap_samples)
    # What is wrong with the flags, the files or the models is found before anything is written.
    if args.temperature == 0 and args.samples > 1:
        raise common.InputError("--temperature 0 makes all samples of a problem the same: add --samples 1")
    run = runs.place(args, __file__)
    sets, blocks = {}, {}  # problems of each data set, and which of them are sampled together
    for dataset in args.dataset:
        flags = {"limit": args.limit, "tests_in_prompt": args.tests_in_prompt, "leave_out": True}
        problems = common.load_problems(dataset, args.split, **flags)
        sets[dataset] = common.instruct(common.solvable(problems, args.unsafe_code), args)
        common.load_template(args.prompt_template, sets[dataset])
        n = len(sets[dataset])
        if n == 0:
            raise common.InputError(f"no reference solution of {dataset} passes its own tests")
        blocks[dataset] = np.array_split(np.arange(n), math.ceil(n / args.block_size))
        if (args.feedback_quality or args.feedback_control == "shuffled") and len(blocks[dataset][-1]) < 2:
            name = "quality" if args.feedback_quality else "control shuffled"
            alone = f"but --block-size {args.block_size} leaves one of {n} alone: choose another one or another --limit"
            raise common.InputError(f"--feedback-{name} takes feedback of another problem of the same block, {alone}")
    sandbox = common.sandbox_for([problem for problems in sets.values() for problem in problems], args.unsafe_code)
    plan = {}  # (solver, feedback model or None, data set), each once
    for solver in dict.fromkeys(args.solver) or (None,):
        checkpoint = find_checkpoint(solver) if solver else None
        own = str(checkpoint / "feedback") if checkpoint and (checkpoint / "feedback").is_dir() else None
        feedback = {"own": own, "none": None}.get(args.feedback, args.feedback) if args.turns == 2 else None
        for dataset, problems in sets.items():
            name = str(checkpoint or solver or runs.embedded_model(problems))
            plan[name, feedback, dataset] = None
            check_models(weights(name), feedback, problems, args)
    if args.turns == 1 and args.feedback not in ("own", "none"):
        raise common.InputError(f"--feedback {args.feedback} is written for a second turn: it needs --turns 2")
    control = args.feedback_control != "none"
    flag = "--feedback-quality" if args.feedback_quality else f"--feedback-control {args.feedback_control}"
    is_read = args.use_smart_corrections and any(feedback for _, feedback, _ in plan)
    if (args.feedback_quality or control) and not is_read:
        raise common.InputError(f"{flag} needs --turns 2 and a --feedback model whose feedback is read")
    if args.test_results != "none" and not any(feedback for _, feedback, _ in plan):
        raise common.InputError(f"--test-results {args.test_results} tells a --feedback model, and here is none")
    heard = {"--refine-prompt": args.turns == 2, "--feedback-prompt": any(feedback for _, feedback, _ in plan)}
    for flag, read in heard.items():
        if getattr(args, flag[2:].replace("-", "_")) is not None and not read:
            raise common.InputError(f"{flag} is read by no model here: it needs --turns 2, for feedback a --feedback")
    if args.feedback_quality and control:
        raise common.InputError("--feedback-quality measures what was written: it needs --feedback-control none")
    runs.find_folder(run, f"evals/{'+'.join(Path(dataset).stem for dataset in sets)}__{args.eval_seed}")
    prompts = {name: runs.fingerprint([[p.statement for p in problems]], problems) for name, problems in sets.items()}
    runs.open_folder(run, None, prompts)
    run_dir = run.folder

    # Rows of a block that a kill cut short are left out: the block is sampled again, from its own seed.
    done: dict[tuple, list[dict]] = {}
    try:
        for row in common.read_rows(run_dir / "episodes.jsonl"):
            *key, _ = (row[name] for name in ("solver", "dataset", "sample", "block", "reward_1"))
            done.setdefault(tuple(key), []).append(row)
            if not any((solver, dataset) == tuple(key[:2]) for solver, _, dataset in plan):  # the run has gone on
                raise common.InputError(f"{run_dir} began with {key[0]}: start over with --if-run-exists delete")
        done = {key: rows for key, rows in done.items() if len(rows) == len(blocks[key[1]][key[3]])}
    except (KeyError, IndexError, TypeError) as error:
        reason = f"{run_dir / 'episodes.jsonl'} is damaged, so the evaluation cannot be resumed"
        raise common.InputError(f"{reason}: start over with --if-run-exists delete") from error
    text = "".join(json.dumps(row) + "\n" for rows in done.values() for row in rows)
    common.write_file(run_dir / "episodes.jsonl", text)
    print(f"run folder {run_dir}: {run.placed}{sandbox}")

    results, loaded, models, tokenizers = [], None, (), ()
    total = sum(len(blocks[dataset]) for _, _, dataset in plan) * args.samples
    progress = tqdm(total=total, initial=len(done), unit="block", disable=None)
    for solver, feedback, dataset in plan:
        rows = []
        for sample in range(args.samples):
            for number, block in enumerate(blocks[dataset]):
                key = (solver, dataset, sample, number)
                if key not in done:
                    if loaded != (solver, feedback):
                        models = tokenizers = ()  # the memory of one solver is free before the next one comes
                        pairs = [runs.load_lm(run, weights(solver), "--solver"), (None, None)]
                        if feedback:
                            pairs[1] = runs.load_lm(run, feedback, "--feedback")
                        loaded, (models, tokenizers) = (solver, feedback), zip(*pairs)
                    seed = args.eval_seed + 1_000_003 * (sample * len(blocks[dataset]) + number)
                    torch.manual_seed(seed % 2**32)  # each block's own; the first is that of training's evaluations
                    problems = [sets[dataset][i] for i in block]
                    done[key] = evaluate_block(models, tokenizers, problems, args)
                    names = {"solver": solver, "feedback_model": feedback, "dataset": dataset, "sample": sample}
                    done[key] = [names | {"block": number} | row for row in done[key]]
                    common.write_rows(run_dir / "episodes.jsonl", done[key])
                    progress.update()
                rows += done[key]
                progress.set_postfix_str(f"{dataset} accuracy {np.mean([row['reward_1'] for row in rows]):.3f}")
        results.append({"solver": solver, "feedback": feedback, "dataset": dataset} | figures.summarise(rows, args))
        accuracies = [f"{name} {results[-1][name]:.3f}" for name in ("accuracy_1", "accuracy_2") if name in results[-1]]
        tqdm.write(f"{solver} on {dataset}: {'  '.join(accuracies)}")
    progress.close()
    common.write_file(run_dir / "eval.json", json.dumps({"args": asdict(args), "results": results}, indent=2) + "\n")
    figures.print_tables(results)
    runs.release(run)
    print(f"\nall figures: {run_dir / 'eval.json'}; every text and verdict: {run_dir / 'episodes.jsonl'}")


if __name__ == "__main__":
    args = common.parse(Args, __doc__)
    if args.as_in_training:
        args = common.parse(Args, __doc__, default=common.run(training_settings, args, __file__))
    common.run(main, args, __file__)
