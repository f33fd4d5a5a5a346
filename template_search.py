"""Chooses a prompt template: successive halving over a folder of them, by a model's accuracy on training problems.

    python template_search.py --templates FOLDER --output best.json
    python grpo.py --prompt-template best.json

Each .json file of the folder is a list of chat messages that precede every problem (problems/prompts.py). All of them
answer the first problems, the better half twice as many further ones, and so on. They are ranked by their accuracy over
all problems so far, ties by name. Every measurement is printed; no problem of the evaluation is used.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import common
import runs

import numpy as np
import torch


@dataclass
class Args:
    # ---- experiment
    templates: str  # folder of .json files
    output: str = "best_template.json"  # where the best one is written, for --prompt-template
    search_size: int = 50  # problems of round one; each further one: half the templates, twice the problems
    seed: int = 1  # seeds the choice of the problems and the sampling
    device: Literal["auto", "cuda", "cpu"] = "auto"  # auto: a GPU if there is one, otherwise the CPU
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"  # of the weights; auto: bfloat16 on a GPU, else float32

    # ---- model and data
    policy_lm: str | None = None  # solver: a folder or hub name; by default an embedded one
    chat_template: bool = True  # render prompts with the tokenizer's chat template, if it has one
    solve_prompt: str | None = None  # instruction for the first attempt: a text or a .txt file; "" for none
    system_prompt: str | None = None  # system message before every prompt, likewise; by default none
    dataset: str = "arithmetic"  # arithmetic, countdown, functions, conventions, math, gsm8k, mbpp(-sanitized), a file
    split: str = "train"  # split to train on; a file has train, test (one question in ten, by its text) and all
    eval_dataset: str | None = None  # data set to evaluate on, never trained on; by default dataset
    eval_split: str = "test"  # split to evaluate on
    tests_in_prompt: int = 1  # tests of a code problem that the models see; the others stay hidden

    # ---- rollout
    max_new_tokens: int = 40  # longest response of the solver, in tokens
    temperature: float = 1.0  # sampling temperature; the log-probabilities in training use the same
    top_p: float = 1.0  # nucleus sampling; below 1 the sampler is no longer exactly the policy that is trained
    generation_batch_size: int = 0  # most responses sampled at once (memory only); 0: as many as memory allows
    strict_answers: bool = False  # a mathematical answer counts only in \boxed{}
    code_timeout: float = 5.0  # time limit of a program in seconds; unfinished tests fail
    unsafe_code: bool = False  # if no sandbox can be set up, run programs with limits of time and memory alone


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


def accuracy(model, tokenizer, problems: list[common.Problem], messages: list, args: Args) -> float:
    """The share of problems that the model gets right after these messages, one response each, always from one seed."""
    torch.manual_seed(args.seed)
    prompts = [common.encode_prompt(tokenizer, common.attempt_messages(p, messages)) for p in problems]
    texts = generate(model, tokenizer, prompts, args.max_new_tokens, args)["texts"]
    (rewards,), _ = common.verify_turns([texts], problems, args)
    return float(np.mean(rewards))


def search(names: list[str], size: int, problems: list[common.Problem], measure) -> str:
    """The best name; measure(name, problems) is its accuracy on them."""
    alive, used, right = sorted(names), 0, dict.fromkeys(names, 0.0)
    while len(alive) > 1:
        part, used = problems[used : used + size], used + size
        for name in alive:
            right[name] += measure(name, part) * len(part)
        alive = sorted(alive, key=lambda name: -right[name])  # stable: equal ones stay in the order of their names
        print(f"{used} problems: " + ", ".join(f"{Path(name).name} {right[name] / used:.3f}" for name in alive))
        alive, size = alive[: (len(alive) + 1) // 2], 2 * size
    return alive[0]


def main(args: Args) -> None:
    common.check_args(args)
    run = runs.place(args, __file__)
    names = sorted(str(path) for path in Path(args.templates).glob("*.json"))
    if not names:
        raise common.InputError(f"--templates {args.templates} is no folder with .json files")
    if Path(args.output).exists():
        raise common.InputError(f"--output {args.output} exists: name another file")
    if not Path(args.output).parent.is_dir():
        raise common.InputError(f"--output {args.output}: there is no folder {Path(args.output).parent}")
    problems, _ = common.load_train_and_eval(
        args.dataset, args.split, args.eval_dataset or args.dataset, args.eval_split, 1, None, args.tests_in_prompt
    )
    problems = common.instruct(common.solvable(problems, args.unsafe_code), args)
    needed = args.search_size * (2 ** (len(names) - 1).bit_length() - 1)  # n, 2 n, 4 n ..., for ever fewer templates
    if needed > len(problems):
        available = f"{len(names)} templates need {needed} problems, and here are {len(problems)}"
        raise common.InputError(f"--search-size {args.search_size}: {available}")
    order = np.random.default_rng(args.seed).permutation(len(problems))[:needed]
    problems = [problems[i] for i in order]
    templates = {name: common.load_template(name, problems) for name in names}
    policy_lm = args.policy_lm or runs.embedded_model(problems)
    model, tokenizer = runs.load_lm(run, policy_lm, "--policy-lm")
    for messages in templates.values():
        prompts = [common.attempt_messages(p, messages) for p in problems]
        common.check_lengths(tokenizer, prompts, problems, args.max_new_tokens, model.config, "--policy-lm")
    print(f"{len(names)} templates, {needed} problems; {run.placed}{common.sandbox_for(problems, args.unsafe_code)}")
    best = search(
        names, args.search_size, problems, lambda name, part: accuracy(model, tokenizer, part, templates[name], args)
    )
    common.write_file(Path(args.output), json.dumps(templates[best], indent=2, ensure_ascii=False) + "\n")
    print(f"the best is {best}; train with it: --prompt-template {args.output}")


if __name__ == "__main__":
    common.run(main, common.parse(Args, __doc__), __file__)
