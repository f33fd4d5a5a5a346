"""The facts that are written in more than one place agree: scripts with each other, the README with the scripts."""

import ast
import dataclasses
import difflib
import importlib.metadata
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import tyro
from mutants import MUTANTS, ORIGINALS

import common

ROOT = Path(__file__).parents[1]
TOOLS = [ROOT / "eval.py", ROOT / "report.py", ROOT / "template_search.py"]
SHARED = [ROOT / "common.py", ROOT / "runs.py", ROOT / "figures.py"]
METHODS = [path for path in sorted(ROOT.glob("*.py")) if path not in (*SHARED, *TOOLS)]
SCRIPTS = [*METHODS, *TOOLS]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FLAGS = README + (ROOT / "docs/flags.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
IMPORTS = {"numpy", "torch", "transformers", "tyro", "tqdm", "common", "runs"}
REPORT_IMPORTS = {"matplotlib", "jinja2", "templates"}
OPTIONAL = {"wandb"}
STAGES = ["ORACLE", "GENERATE", "SCORE", "PAIRS", "TRAIN"]  # of sharedrep_reward.py, which has no loop
HEADINGS = ["ROLLOUT", "REWARDS AND ADVANTAGES", "UPDATE", "LOG", "EVAL", "CHECKPOINT"]


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def definitions(source: str) -> dict[str, str]:
    """Source of every top-level function of a script."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.get_source_segment(source, node) for node in functions if node.name != "main"}


def disagreements(scripts: dict[str, str]) -> list[str]:
    """What has one name and two texts in the sources of several scripts: functions, flags (type and description).

    A function whose text says `# differs: why` is left out, and so are the flags of the tools.
    """
    seen: dict[str, tuple[str, str]] = {}
    found = []
    for script, source in scripts.items():
        shared = {name: text for name, text in definitions(source).items() if "# differs: " not in text}
        flags = re.findall(r"^    (\w+): (.+?)(?: = .+?)?  # (.+)$", class_source(source), re.MULTILINE)
        flags = [] if script in [path.name for path in TOOLS] else flags
        for name, text in [*shared.items(), *((f"--{name}", f"{kind} {line}") for name, kind, line in flags)]:
            other, other_text = seen.setdefault(name, (script, text))
            if other_text != text:
                found.append(f"{name} in {script} is not the one in {other}")
    return found


def class_source(source: str) -> str:
    """The flags of a script."""
    return re.search(r"^class Args:\n(    .*\n|\n)*", source, re.MULTILINE)[0]


SOURCES = {path.name: path.read_text(encoding="utf-8") for path in SCRIPTS}


def test_shared_blocks_are_the_same_text():
    assert disagreements(SOURCES) == []


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("args.temperature, args.top_p", "1.0, args.top_p", "generate"),
        ("return -(torch.min", "return (torch.min", "policy_loss"),
        ("# what has ended leaves the batch", "# it leaves the batch", "generate"),
        ("temperature: float", "temperature: int", "--temperature"),
        ("# sampling temperature;", "# the sampling temperature;", "--temperature"),
        ("(loss.sum() / len(rows)).backward()", "(loss.sum() / len(mb)).backward()", "accumulate_gradients"),
    ],
)
def test_a_shared_block_that_is_edited_alone_is_found(old, new, name):
    assert SOURCES["score.py"].count(old) == 1
    edited = SOURCES | {"score.py": SOURCES["score.py"].replace(old, new)}
    assert [line.split()[0] for line in disagreements(edited)] == [name] * len(disagreements(edited)) != []


FAMILY = ["score.py", "rl_guided_score.py", "mlmt_rl.py"]


@pytest.mark.parametrize(("script", "sibling"), [*zip(FAMILY, FAMILY[1:]), *zip(FAMILY[1:], FAMILY)])
def test_most_lines_of_a_script_stand_in_its_sibling(script, sibling):
    """In the same order, blank lines left out."""
    lines, others = ([line for line in SOURCES[name].splitlines() if line.strip()] for name in (script, sibling))
    matches = difflib.SequenceMatcher(None, lines, others, autojunk=False).get_matching_blocks()
    share = sum(match.size for match in matches) / len(lines)
    print(f"{share:.0%} of the lines of {script} stand in {sibling}")
    assert share >= 0.6


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_keeps_its_shape(path):
    """Imports, length of the docstring, headings in order, no undone work: what a reader of any script relies on."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    top = {name for node in tree.body for name in imported(node)}
    allowed = IMPORTS | {"report.py": REPORT_IMPORTS, "eval.py": {"figures"}}.get(path.name, set())
    assert {name for name in top if name not in importlib_stdlib()} <= allowed
    nested = {name for node in ast.walk(tree) for name in imported(node)} - top
    assert nested <= OPTIONAL
    assert len(ast.get_docstring(tree).splitlines()) <= 25
    headings = STAGES if path.name == "sharedrep_reward.py" else HEADINGS if path in METHODS else []
    positions = [source.index(f"    # ---- {heading}") for heading in headings]
    assert positions == sorted(positions)
    assert not re.search(r"TODO|FIXME|XXX", source)


def imported(node) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    return [node.module.split(".")[0]] if isinstance(node, ast.ImportFrom) else []


def importlib_stdlib() -> frozenset[str]:
    import sys

    return sys.stdlib_module_names


def test_runs_knows_no_method():
    """Whoever reads a method never needs to open runs.py to understand it."""
    for path in (ROOT / "runs.py", ROOT / "running/folder.py", ROOT / "running/models.py", ROOT / "running/passes.py"):
        source = path.read_text(encoding="utf-8")
        words = r"advantage|log_?prob|\bturn_|\bturns?\b|credit|\bloss"
        if path.name != "folder.py":  # checkpoints are compared by the mean of a metric of that name
            words += "|reward"
        assert not re.search(words, source), path.name
        assert {name for node in ast.parse(source).body for name in imported(node)} & {p.stem for p in SCRIPTS} == set()


def test_common_does_not_import_torch():
    """Problems, prompts and verifiers are usable without it."""
    for path in (
        ROOT / "common.py",
        ROOT / "report.py",
        ROOT / "running/folder.py",
        ROOT / "running/command_line.py",
        *(ROOT / "problems").glob("*.py"),
        *(ROOT / "verifiers").glob("*.py"),
    ):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not {"torch", "runs"} & {name for node in ast.walk(tree) for name in imported(node)}, path.name


def test_figures_needs_numpy_and_common_alone():
    """Saved evaluations are summarised and compared without torch."""
    tree = ast.parse((ROOT / "figures.py").read_text(encoding="utf-8"))
    assert {name for node in ast.walk(tree) for name in imported(node)} - importlib_stdlib() == {"numpy", "common"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_flag_is_read_documented_and_in_the_readme(path):
    """A flag says what it is, something reads it, and docs/flags.md states its default."""
    module, source = load(path), path.read_text(encoding="utf-8")
    shared = "".join(
        path.read_text(encoding="utf-8")
        for path in (*SHARED, *(ROOT / "running").glob("*.py"), *(ROOT / "problems").glob("*.py"))
    )
    flags = class_source(source)
    for field in dataclasses.fields(module.Args):
        assert re.search(rf"^    {field.name}: .+(  # .+|\n    \"\"\".+\"\"\")$", flags, re.MULTILINE), field.name
        assert f"args.{field.name}" in source.replace(flags, "") + shared, f"nothing reads {field.name}"
        stated = "python report.py runs/*" if field.name == "runs" else f"`--{flag(field)}`"  # runs has no --
        assert stated in FLAGS, f"docs/flags.md: {stated}"


def flag(field: dataclasses.Field) -> str:
    """A flag with its default, as docs/flags.md writes it."""
    name, default = field.name.replace("_", "-"), field.default
    if isinstance(default, bool):
        return f"{'' if not default else 'no-'}{name}"
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    return name if default in (None, "", dataclasses.MISSING) else f"{name} {default}"


def test_every_metric_is_explained():
    """The glossary has every key of metrics.jsonl, and none that no script writes."""
    glossary = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    in_glossary = set(re.findall(r"`((?:rollout|losses|eval|charts)/\w+)`", glossary))
    written = set()
    for path in (*METHODS, ROOT / "common.py", ROOT / "runs.py"):
        source = path.read_text(encoding="utf-8")
        written |= set(re.findall(r'"((?:rollout|losses|charts)/\w+)"', source))
        figures = re.findall(r'metrics(?: = \{|\[)"(\w+)"', definitions(source).get("evaluate", ""))
        written |= {f"eval/{name}" for name in figures}
    written |= {f"{phase}/{name}" for phase in ("rollout", "eval") for name in common.outcomes([1.0], [1.0])}
    turn, rewards = {"texts": ["z"]}, np.array([1.0])
    episodes = {"attempt": turn, "refinement": turn, "rewards_1": rewards, "rewards_2": rewards}
    written |= common.second_turn_metrics(episodes).keys()
    groups = list(load(ROOT / "sharedrep_reward.py").GROUPS)
    names = (*groups, "worst_group", "concise", "socratic", *common.win_rates([], {}, groups, 0))
    written |= {f"eval/{name}" for name in names}
    assert in_glossary == written


def test_readme_commands():
    """The first bash block is two one-line commands; the scripts, flags and paths that the README names exist."""
    block = re.search(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1]
    assert len(block.splitlines()) == 2
    for path in re.findall(r"`((?:tests|verifiers|benchmarks|tiny)/[\w./]*)`", README):
        assert (ROOT / path).exists(), path
    programs = [load(path) for path in (*SCRIPTS, *(ROOT / "benchmarks").glob("*.py"))]
    arguments = [module.Args for module in programs if hasattr(module, "Args")]
    flags = {field.name.replace("_", "-") for args in arguments for field in dataclasses.fields(args)} | {"beta1"}
    texts = FLAGS.replace(block, "") + RESULTS
    named = {name.removeprefix("no-") for name in re.findall(r"--([a-z][a-z0-9-]+)", texts)}
    assert named - flags - {"help", "check", "nproc-per-node"} == set()  # the last one is torchrun's


PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links(page):
    """Files, headings, lines and tests that a page points to exist: a link to a line names what is defined there."""
    text = page.read_text(encoding="utf-8")
    for name, target in re.findall(r"\[([^\[\]]*)\]\(([^)\s]+)\)", text):
        file, _, heading = target.partition("#")
        if file.startswith("https://"):
            continue
        found = page.parent / file if file else page
        assert found.is_file(), target
        if re.fullmatch(r"L\d+", heading):
            lines = found.read_text(encoding="utf-8").splitlines()
            (place,) = (n for n, line in enumerate(lines, 1) if re.match(rf"(def|class) {name.strip('`')}\b", line))
            assert heading == f"L{place}", f"{target}: {name} is in line {place}"
            continue
        titles = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.M) if heading else []
        anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
        assert not heading or heading in anchors, target
    for file, name in re.findall(r"`(test_\w+\.py)::(\w+)`", text):
        assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.M), name


def test_commands_of_the_readme_are_understood():
    """Every `python SCRIPT.py ...` of a block parses, and its sizes divide."""
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    modules = {path.name: load(path) for path in SCRIPTS}
    commands = [
        line.split() for line in blocks.splitlines() if line.startswith("python ") and line.split()[1] in modules
    ]
    assert {command[1] for command in commands} == set(modules)
    for _, script, *flags in commands:
        args = tyro.cli(modules[script].Args, args=flags)
        if script == "report.py":
            continue
        common.check_args(args)
        assert script == "eval.py" or args.policy_lm


SIZES = {
    "score": 450,
    "grpo": 450,
    "expert_iteration": 450,
    "intro": 450,
    "sharedrep_reward": 450,
    "sharedrep_grpo": 450,
    "rl_guided_score": 500,
    "mlmt_rl": 500,
    "archer": 500,
}
SIZES |= {"common": 280, "runs": 350, "figures": 260, "eval": 400, "report": 260}


def test_sizes_are_kept():
    """A script is read in one sitting; README and help are read at all."""
    lengths = {name: len((ROOT / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in SIZES}
    assert not {name: length for name, length in lengths.items() if length > SIZES[name]}
    assert 200 <= len(README.splitlines()) <= 280


def test_method_table_of_the_readme():
    """It states the length of each script, and links its page."""
    for path in METHODS:
        row = next(line for line in README.splitlines() if line.startswith(f"| `{path.name}`"))
        assert f"| {len(path.read_text(encoding='utf-8').splitlines())} |" in row
        assert f"(docs/methods/{path.stem}.md)" in row or "docs/sharedrep.md" in row or "both" in row, path.name


def test_every_mutant_can_be_made():
    """A mistake whose text has moved is noticed here, not in the hours that tests/mutants.py takes."""
    for script, old, new, *_ in [*MUTANTS, *ORIGINALS]:
        assert (ROOT / script).read_text(encoding="utf-8").count(old) == 1 and new != old, (script, old)
    page = (ROOT / "docs/originals.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+\.py::test_\w+)`", page))  # attacks are not let loose to see a test fail
    assert {test for *_, test in ORIGINALS} == named - {"test_sandbox.py::test_attacks_fail_and_do_no_harm"}


def test_requirements_are_exact_and_installed():
    """Each pin is exact, is the version these tests run on, and has its reason in the README."""
    for line in (ROOT / "requirements.txt").read_text().split():
        name, version = line.split("==")
        assert importlib.metadata.version(name).split("+")[0] == version
        assert re.search(rf"^\| [^|]*\b{name}\b", README, re.MULTILINE), f"README: why {name}?"


def test_no_path_of_one_machine_in_the_repository():
    """Nothing that is committed names a home, work or temporary folder of the machine it was written on."""
    for path in ROOT.rglob("*"):
        if (
            path.suffix in (".py", ".md", ".toml", ".txt", ".json")
            and ".venv" not in path.parts
            and not {"runs", "evals"} & set(path.parts)
        ):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?<![\w.])/(?:home|root|work|tmp|Users)/\w", text), path
