"""What a problem is; arithmetic.py generates problems, loading.py reads them. Scripts get all of it through common."""

from dataclasses import dataclass


class InputError(ValueError):
    """A mistake of the person who started the run, in one sentence that names the flag, the file or the row.

    Scripts print it and end with exit code 2.
    """


@dataclass(frozen=True)
class Instructions:
    """What a run's flags put in the place of the texts of prompts.py; None keeps those, "" goes without."""

    solve: str | None = None
    feedback: str | None = None
    refine: str | None = None
    system: str | None = None


@dataclass(frozen=True)
class Problem:
    question: str
    answer: str  # the gold final answer, as verify_math compares it
    solution: str = ""  # a worked solution where the data set has one, never shown to a model under training
    tests: tuple[str, ...] = ()  # asserts of a code problem; empty for maths
    setup_code: str = ""  # code that the asserts need
    tests_in_prompt: int = 0  # number of tests shown to the model, from the first
    numbers: tuple[int, ...] = ()  # of a countdown problem: any expression that uses each once
    target: int = 0  # and has this value is right; answer is one of them
    level: int | None = None  # difficulty: MATH's 1 to 5, or the number of steps of an arithmetic problem
    subject: str = ""
    id: str = ""  # "<data set>/<split>/<row>", rows counted from 1
    instructions: Instructions = Instructions()

    @property
    def statement(self) -> str:
        """What a model reads of the problem: the question and, for code, the tests that it is shown."""
        shown = "\n".join(self.tests[: self.tests_in_prompt])
        return f"{self.question}\n\n{shown}" if shown else self.question
