"""The mathematical verifier: its rules one by one, labelled cases and data sets if they are at hand, hostile input."""

import csv
import json
import random
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mpmath
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.hostile_answers import hostile_pair
from verifiers import expressions, math_answers
from verifiers.math_answers import equivalent, extract_answer, judge_math, verify_math

SHARED = Path(__file__).resolve().parents[2] / "shared"  # labelled cases and data sets, not part of the repository


def rows(path: str) -> list[dict]:
    file = SHARED / path
    if not file.exists():
        pytest.skip(f"no {path}")
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines)) if file.suffix == ".csv" else [json.loads(line) for line in lines]


# -------------------- extraction


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"First \boxed{3}, but that forgets a case. So \boxed{8}.", "8"),
        (r"\boxed{\frac{\sqrt{7}}{2}} as claimed", r"\frac{\sqrt{7}}{2}"),
        (r"\fbox{11}", "11"),
        (r"the box $\boxed 6$.", "6"),
        (r"\boxed{a_{\}} + 1}", r"a_{\}} + 1"),
        (r"\boxed{3} or $\boxed{4}$", "3, 4"),
        (r"$x = \boxed{1}$, \text{ and } $y = \boxed{2}$", "1, 2"),
        (r"\boxed{5}, that is, \boxed{5.0}", "5.0"),
        (r"\boxed{5} and \boxed{5.0}", "5.0"),
        (r"\boxed{\boxed{5}}", r"\boxed{5}"),
        (r"\boxed{2} and then \boxed{3", None),
        (r"\boxed{}", None),
        (r"\boxed{ . }", None),
        (r"<think>\boxed{3}</think> I give up.", None),
        (r"<think>\boxed{3}</think> \boxed{4}", "4"),
        ("2 + 2 = 4\n#### 4", "4"),
        ("#### 1,250\n", "1,250"),
        ("#### 3\n#### 4", "4"),
        ("#### 3 #### 4 #### 5", None),
        ("#### 4\nwhich is \\boxed{5}", "5"),
        ("The final answer is $x=7$. I hope it is correct.", "x=7"),
        ("**Answer:** 12", "12"),
        ("The answer is 12. It was hard.", "12"),
        ("The answer is 12.5%.", "12.5%"),
        ("Final Answer: The smallest such $n$ is 34.", "34"),
        ("The answer is $3$ or $4$", "$3$ or $4$"),
        ("A: 18", "18"),
        ("We see that $x < 4$.", "x < 4"),
        ("$3$ or $4$", "3, 4"),
        ("-7,250", "-7,250"),
        ("I cannot tell, maybe 4", None),
        ("", None),
        (r"\boxed{5}" + " and so on" * 2000, None),
    ],
)
def test_extraction(response, answer):
    assert extract_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("The answer is not $5$.", "5", False),
        ("The answer is less than $5$.", "5", False),
        ("The answer is negative $5$", "5", False),
        ("The answer is $5$ dozen", "5", False),
        ("The answer is $5$ or 6", "5", False),
        ("The answer is 3 and $5$", "5", False),
        ("not $5$", "5", False),
        ("less than $5$", "5", False),
        ("The answer is half of $10$", "10", False),
        ("The answer is $5$ million.", "5", False),
        ("The answer is $5$ million.", "5000000", True),
        ("The answer is 2**5.", "2", False),
        ("The answer is 2**5.", "32", True),
        ("#### Final Answer\n\n5", "5", True),
        ("#### Answer: 5", "5", True),
        ("#### Step 1\nbla. The answer is 5", "5", True),
        ("The answer is **5**", "5", True),
        ("The answer is $5$ dollars.", "5", True),
        ("The answer is the interval $[1,2)$.", "[1,2)", True),
        ("#### 5", "5", True),
        ("We find x. $x=5$", "5", True),
        ("**The answer is 5** because", "5", True),
        ("In step 2, $x = 7$.", "7", True),
        ("When n = 3, $f(n) = 7$.", "7", True),
        ("Since a + b = 12, $a = 7$.", "7", True),
        ("In 2020, $5$ people.", "5", True),
        ("The answer is $5$ times.", "5", True),
        ("The answer is $25$ squared centimeters.", "25", True),
        ("The answer is $5$, 3 more than before.", "5", True),
        ("The answer is none other than $5$.", "5", True),
        ("#### 3 #### 5 #### answer: 5", "5", False),
        ("The answer is 5.\n#### Conclusion: 7", "5", False),
        ("The answer is 5.\n#### Conclusion: 7", "7", True),
        ("The answer is 12**kg**.", "12", True),
        ("The answer is **12**kg", "12", True),
        ("**The answer is 12**This is", "12", True),
        ("The answer is at least $5$", "5", False),
        ("The answer is not equal to $5$", "5", False),
        ("-$5$", "5", False),
        ("The answer is 1/$5$", "5", False),
        ("The answer is $5$ plus 3", "5", False),
        ("The answer is $5$ or more", "5", False),
        ("The answer is $5$.", "5", True),
        ("The answer is: $5$", "5", True),
        ("The answer is $5$, which is odd", "5", True),
        ("So $x = 5$.", "5", True),
    ],
)
def test_words_beside_a_formula_are_not_dropped(response, gold, right):
    """Red if "not $5$" is 5, or if an honest sentence, or a heading with four marks, hides its answer."""
    assert verify_math(response, gold) == right


def test_only_a_box_is_an_answer_if_strict():
    for response in ("#### 4", "The answer is 4", "$4$", "4"):
        assert verify_math(response, "4")
        assert extract_answer(response, strict=True) is None
        assert not verify_math(response, "4", strict=True)
    assert verify_math(r"\boxed{4}", "4", strict=True)


# -------------------- equivalence

EQUAL = [
    (r"10\text{ ordered triples}", "10"),
    ("12 Pythagorean triples", "12"),
    ("7 binary strings", "7"),
    ("5:100", "1:20"),
    ("1.5:15", "1:10"),
    (r"p = \frac{1}{2} = 50\%", r"50\%"),
    (r"\theta = \frac{\pi}{6} = 30^\circ", r"30^\circ"),
    (r"\theta = \pi/6 = 30^\circ", "30"),
    (r"x=\sqrt2\approx1.41", r"x\approx1.41"),
    ("N = 5!! = 15", "15"),
    ("(y,x)=(2,1)", "(2,1)"),
    ("(A) +2", "A+2"),
    ("3²⁵", "3^{25}"),
    ("x⁻⁵", "x^{-5}"),
    ("1a2_{16}", "1a2_{16}"),
    ("1a2", "1a2_{16}"),
    ("x²", "x^2"),
    ("5 cm²", "5"),
    ("√1,024", "32"),
    ("√1{,}000", r"\sqrt{1000}"),
    ("(x,y)=(1,2)", "(1,2)"),
    ("√16", "4"),
    ("√10", r"\sqrt{10}"),
    ("√12", r"2\sqrt3"),
    ("3√20", r"6\sqrt5"),
    ("√0.25", "0.5"),
    ("sqrt16", "4"),
    (r"2\,v_0", "2v_0"),
    ("v_0*2", "2v_0"),
    ("y=2, x=1", "(1,2)"),
    ("m=3, b=-4", "(3,-4)"),
    ("1+i,1-i,-1+i,-1-i", r"\pm1\pm i"),
    ("30,150,210", "30, 150, 210"),
    (r"\sin^2 30^\circ", "1/4"),
    (r"20^\circ\mathrm{C}", "20"),
    ("f(-1)=3", "3"),
    ("f(1/2)=3", "3"),
    (r"f(\pi)=3", "3"),
    ("[ABC]=5", "5"),
    ("|z|=5", "5"),
    (r"\cos\theta=\frac12", r"\frac12"),
    (r"\Delta x=5", "5"),
    (r"\{5\}", "5"),
    ("5", r"\{5\}"),
    (r"0.\bar3", "1/3"),
    (r"0.\overline3", "1/3"),
    (r"0.1\bar6", "1/6"),
    (r"\hbar/(2m)", r"\frac{\hbar}{2m}"),
    (r"\textbf{(B)}\ 12", "12"),
    ("⅓", "1/3"),
    ("10⁶", "1000000"),
    ("x = 2+3 = 5", "5"),
    (r"x = \frac{10}{2} = 5", "5"),
    ("2:3", "4:6"),
    ("3:30", "3:30"),
    ("2516_8", "2516_8"),
    ("2516_8", "2516_{8}"),
    ("AB1_{16}", "AB1_{16}"),
    ("1,000", "1000"),
    ("x=1, y=2", "(1,2)"),
    ("5 pairs", "5"),
    ("10:30 a.m.", "10:30"),
    ("1:2:3", "2:4:6"),
    (r"\pm 2", "2,-2"),
    (r"A=\pi r^2=25\pi", r"25\pi"),
    # numbers
    ("7.50", "7.5"),
    (".25", r"\frac14"),
    ("-0", "0"),
    ("12,345", "12345"),
    (r"12{,}345", "12,345"),
    (r"12,\!345\,678", "12345678"),
    ("x = 12,345", "12345"),
    (r"\frac{6}{-4}", "-1.5"),
    (r"\dfrac{\frac{2}{3}}{5}", "2/15"),
    (r"3\frac{1}{4}", r"\frac{13}{4}"),
    ("3 1/4", "3.25"),
    (r"-1\frac12", "-1.5"),
    (r"0.1\overline{6}", r"\frac{1}{6}"),
    (r"7.2 \times 10^{-3}", "0.0072"),
    # layout, aliases, wrappers
    (r"\left( 2,\; -3 \right)", "(2,-3)"),
    (r"{\sqrt 5}", r"\sqrt{5}"),
    (r"\textbf{(D)}", "D"),
    (r"\text{Neither}", "neither"),
    ("√3", r"\sqrt3"),
    ("−2π", r"-2\pi"),
    (r"x ≠ 1", r"x \neq 1"),
    # units, currency, percent
    (r"\$18.00", "18"),
    (r"18\text{ dollars}", r"\$18"),
    (r"6\sqrt{2}\text{ cm}^2", r"6\sqrt{2}"),
    ("40 square feet", "40"),
    (r"60\text{ miles an hour}", "60 mph"),
    (r"\$5\text{ per hour}", r"\$5"),
    (r"5\text{ nautical miles}", r"5\text{ miles}"),
    (r"120^\circ", "120"),
    ("120 degrees", r"120^{\circ}"),
    (r"35\%", "35"),
    (r"35\%", "0.35"),
    ("35 percent", r"35\%"),
    # roots, powers, constants, functions
    (r"\sqrt{48}", r"4\sqrt{3}"),
    (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}"),
    (r"\sqrt[3]{-8}", "-2"),
    (r"27^{2/3}", "9"),
    (r"2^{3^2}", "512"),
    ("2^3^2", "512"),
    ("2^12", "4096"),
    (r"\log_2 32", "5"),
    (r"\frac{\ln 8}{\ln 2}", "3"),
    (r"\sin\frac{\pi}{6}", r"\frac12"),
    (r"\sin^{-1} 1", r"\frac{\pi}{2}"),
    (r"\binom{6}{2} + 3!", "21"),
    (r"\lfloor -2.5 \rfloor", "-3"),
    (r"|{-4}|", "4"),
    (r"(2+i)(2-i)", "5"),
    (r"e^{i\pi}", "-1"),
    # expressions with variables
    ("(a+b)^2", "a^2 + 2ab + b^2"),
    (r"\frac{x^2-1}{x-1}", "x+1"),
    (r"\sin 2\theta", r"2\sin\theta\cos\theta"),
    (r"\sqrt{x^2}", "|x|"),
    ("k(k+1)/2", r"\frac{k^2+k}{2}"),
    # lists, sets, tuples, intervals, matrices
    (r"5 \text{ and } -1", "-1, 5"),
    (r"2 \pm \sqrt3", r"2+\sqrt{3}, 2-\sqrt{3}"),
    ("x = 4 or x = 6", "6, 4"),
    ("x=1, y=2", "y=2, x=1"),
    ("(1,2), (3,4)", "(3,4),(1,2)"),
    (r"\{3, \frac12\}", r"\{0.5, 3\}"),
    ("(0.5, 2)", r"\left(\frac{1}{2},2\right)"),
    (r"[0, +\infty)", r"[0,\infty)"),
    (r"x \in (-1, 4]", r"-1 < x \le 4"),
    (r"(5,6)\cup(1,2)", r"(1,2) \cup (5,6)"),
    (r"\begin{bmatrix} 1/2 & 0 \\ 3 & 4 \end{bmatrix}", r"\begin{pmatrix} 0.5 & 0 \\ 3 & 4 \end{pmatrix}"),
    # equations, inequalities, bases, ratios
    ("x=9", "9"),
    ("9", "x=9"),
    ("y = 3x - 1", "y=-1+3x"),
    ("2x - 4y = 6", "x = 2y + 3"),
    ("3 > x", "x < 3"),
    ("-2x < 6", "x > -3"),
    ("x > 2", r"(2, \infty)"),
    ("P(A) = 1/4", "0.25"),
    (r"\frac13 \approx 0.333", r"\frac13"),
    ("132_5", "132_{5}"),
    (r"3 : 5", "3:5"),
]
DIFFERENT = [
    # numbers: no tolerance, no scaling
    ("0.333", r"\frac13"),
    ("0.3333333333333333", r"\frac13"),
    ("3.14159265358979", r"\pi"),
    ("1000001", "1000000"),
    ("42", "0.42"),
    ("4200", "42"),
    ("0.42", "42"),
    ("5.0001", "5"),
    ("12,345", "12,346"),
    ("12,34", "1234"),
    (r"3\frac{1}{4}", r"\frac{3}{4}"),
    (r"\frac{1}{2^{60}}", r"\frac{1}{2^{61}}"),
    ("-5", "5"),
    # braces and digits keep their places
    (r"\frac{13}{2}", r"\frac{1}{32}"),
    ("x^{1}3", "x^{13}"),
    (r"\sqrt{1}3", r"\sqrt{13}"),
    ("4 2", "42"),
    ("5{2}", "10"),
    ("(12,3)", "(1,23)"),
    # units and words that change the value
    (r"5\text{ million}", "5"),
    ("5 squared", "5"),
    ("5 m/s", "5 m"),
    (r"12\text{ gallons a minute}", r"12\text{ gallons}"),
    ("3!!", "720"),
    (r"5\%", "50"),
    (r"3 \text{ (or 4)}", "3"),
    (r"\text{not }5", "5"),
    ("SSA", "SAS"),
    (r"\text{Monday}", r"\text{Sunday}"),
    ("B", "D"),
    ("X", "x"),
    # expressions
    ("(a+b)^2", "a^2+b^2"),
    (r"\sqrt{x^2}", "x"),
    ("x-y", "y-x"),
    ("a_1", "a_2"),
    ("2^{3^2}", "64"),
    ("3-2i", "3+2i"),
    (r"\sin x", r"\cos x"),
    (r"\frac{0}{0}", "0"),
    (r"\frac{1}{0}", "1"),
    (r"\frac{1}{\ln 0}", "0"),
    (r"\infty", r"-\infty"),
    # structures
    ("(2,1)", "(1,2)"),
    ("[1,2)", "[1,2]"),
    ("(0,1)", "[0,1]"),
    ("1,2", "1,2,3"),
    ("1,1,2", "1,2,2"),
    (r"\pm 3", "3"),
    (r"\{1,2\}", "(1,2)"),
    (r"(1,2)\cup(3,4)", r"(1,2)\cup(3,5)"),
    (r"1, 3, 5, \ldots, 9", r"1, 3, 5, \ldots, 11"),
    (r"9, 1, 3, \ldots", r"1, 3, 9, \ldots"),
    ("1, 3, 9, ...", "1, 3, 9"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
    # equations, inequalities, bases, ratios
    ("y=9", "x=9"),
    ("x=2, y=1", "x=1, y=2"),
    ("2, 1", "x=1, y=2"),
    ("x<5", "x>5"),
    (r"x\le 5", "x<5"),
    ("-x < 2", "x < -2"),
    ("x+y=3", "3"),
    ("3", "x+y=3"),
    (r"5 \ne 6", "6"),
    ("0=0", "x=1"),
    ("132_5", "132_6"),
    ("5:3", "3:5"),
    (r"\cos 1 \approx 0.5", r"\cos 1 \approx 0.54"),
    # what a policy could learn to write
    ("0.0:0.0", "2:3"),
    ("0.0:0.0", "3:30"),
    ("6:60", "3:30"),
    ("4:60", "2:30"),
    ("00:00", "5:1"),
    ("√14", "4"),
    ("√16", "6"),
    ("2√14", "8"),
    ("2x", "2x_1"),
    ("3k", "3k_B"),
    ("2a", "2a_{n}"),
    ("2", "2_x"),
    ("y=2, x=1", "(2,1)"),
    ("b=3, a=5", "(3,5)"),
    ("1+i,-1-i", r"\pm1\pm i"),
    ("(3,4),(-3,-4)", r"(\pm3,\pm4)"),
    ("2**5", "2"),
    (r"5^\circ 6", "30"),
    ("1.2.3", "0.36"),
    ("2..5", "1"),
    (r"x = \frac12 = 5", "5"),
    ("x = 7/1 = 5", "5"),
    ("x = 6 = 5", "x=5"),
    ("10 in binary", "10"),
    ("5 in hexadecimal", "5"),
    ("0,120,240", "120240"),
    ("0,245", "245"),
    ("x(x-1)=6", "6"),
    ("n(n-1)=30", "30"),
    ("|x|=5", "5"),
    (r"\sin x=1", "1"),
    (r"\cos\pi = 5", "5"),
    (r"\{\{5\}\}", "5"),
    (r"\{\varnothing\}", r"\varnothing"),
    ("1,000", "0, 1"),
    ("1,010", "1, 10"),
    (r"\pi^2 3", r"3\pi^2"),
    ("√1,000", "1,0"),
    ("3²⁵", "3^{32}"),
    # not answers
    ("x", "5"),
    (r"\text{any number}", "5"),
    (r"x \in \mathbb{R}", "5"),
    ("", "5"),
    ("5", ""),
]


@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_equivalent_answers(answer, gold):
    assert equivalent(answer, gold)
    assert verify_math(rf"Therefore $\boxed{{{answer}}}$.", gold)


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_different_answers(answer, gold):
    assert not equivalent(answer, gold)
    assert not verify_math(rf"Therefore $\boxed{{{answer}}}$.", gold)


@pytest.mark.parametrize(
    "response",
    [
        r"\boxed{3 \text{ or } 4}",
        r"\boxed{3, 4}",
        r"\boxed{3} or \boxed{4}",
        r"\boxed{3}, \boxed{4}",
        r"\boxed{3}" + " " * 500 + r"\boxed{4}",
        r"\boxed{\boxed{3}\boxed{4}}",
        r"\boxed{\{3, 4\}}",
        r"\boxed{3.5 \pm 0.5}",
        r"\boxed{3 \\ 4}",
        "#### 3 or 4",
        "#### 3 #### 4",
        "The answer is 3 or 4",
        "$3$ or $4$",
    ],
)
@pytest.mark.parametrize("gold", ["3", "4"])
def test_several_guesses_never_pay(response, gold):
    assert not verify_math(response, gold)


# -------------------- labelled cases and data sets


@pytest.mark.parametrize("path", ["cases/grader_cases.jsonl", "cases/grader_cases_reports.jsonl"])
def test_labelled_cases(path):
    cases = [case for case in rows(path) if not case["ambiguous"]]
    accepted = [case for case in cases if verify_math(case["prediction"], case["gold"])]
    assert [case["id"] for case in accepted if not case["expected"]] == []
    missed = sum(case["expected"] for case in cases) - len(accepted)
    assert missed <= 0.01 * len(cases)


@pytest.mark.parametrize("path", ["data/MATH.csv", "data/math/math500.jsonl"])
def test_every_gold_of_math_equals_itself(path):
    for row in rows(path):
        gold = row["answer"]
        assert verify_math(rf"\boxed{{{gold}}}", gold, strict=True), gold
        # With blanks around it the strings differ, so that the comparison has to read it.
        assert verify_math(rf"\[\boxed{{{{ {gold} }}}}\]", gold), gold


def test_gsm8k():
    for row in rows("data/gsm8k/test.jsonl"):
        assert verify_math(f"#### {row['final']}", row["final"])
        assert verify_math(row["answer"], row["final"])
        assert not verify_math(row["answer"], row["final"] + "1")


def test_labels_of_real_gsm8k_outputs():
    for row in rows("data/gsm8k/model_solutions_600.jsonl"):
        assert verify_math(row["solution"], row["gold"]) == row["is_correct"], row


# -------------------- hostile responses

FACTORIALS = "+".join(f"1/{n}!" for n in range(2950, 3000))
HOSTILE = {
    "power tower": r"\boxed{9**9**9}",
    "braced power tower": r"\boxed{9^{9^{9^{9}}}}",
    "factorial tower": r"\boxed{(((9!)!)!)!}",
    "sum of large factorials": rf"\boxed{{{FACTORIALS}}}",
    "large binomials": r"\boxed{" + "+".join(rf"1/\binom{{2999}}{{{k}}}" for k in range(1480, 1498)) + "}",
    "list of factorials": r"\boxed{" + ",".join(f"{n}!" for n in range(2970, 2994)) + "}",
    "nested powers": r"\boxed{" + "(" * 60 + "x" + ")^{9}" * 60 + "}",
    "nested braces": r"\boxed{" + "{" * 1000 + "1" + "}" * 1000 + "}",
    "nested brackets": r"\boxed{" + "(" * 190 + "5" + ")" * 190 + "}",
    "nested fractions": r"\boxed{" + r"\frac{1}{1+" * 300 + "1" + "}" * 300 + "}",
    "nested sets": r"\boxed{" + r"\{" * 300 + "1" + r"\}" * 300 + "}",
    "chain of functions": r"\boxed{" + r"\tan" * 99 + "1}",
    "chain of signs": r"\boxed{" + "-" * 390 + "1}",
    "bars": r"\boxed{" + "|x" * 190 + "}",
    "huge argument": r"\boxed{\cos(10^{10^6})}",
    "large fractions": r"\boxed{" + "+".join(f"1/{n}^{{9999}}" for n in range(11, 43)) + "}",
    "huge exponential": r"\boxed{\exp(\exp(\exp(9)))}",
    "long number": r"\boxed{" + "9" * 5000 + "}",
    "blanks": r"\boxed{1" + " " * 1500 + "2}",
    "plus-minus": r"\boxed{" + r"1\pm2," * 200 + "}",
    "relations": r"\boxed{" + "x<" * 300 + "x}",
    "a megabyte of boxes": r"\boxed{7}" * 110_000,
    "a megabyte of open boxes": r"\boxed{" * 140_000,
    "a megabyte of braces": "{" * 1_000_000,
    "a megabyte of dollars": "$" * 1_000_000,
    "a megabyte of text": "the answer is " * 70_000,
    "unbalanced": r"\boxed{1}}{{{ \boxed{",
    "unbalanced inside": r"\boxed{\frac{1}{)2(}]}",
    "NUL": "\\boxed{\0\0}",
    "surrogates": "\\boxed{\ud800\udfff^{\ud800}}",
    "program": r"\boxed{__import__('os').getcwd()}",
    "empty": "",
}
GOLDS = ["5", "x+1", "1,2", r"\{1,2\}", "x<5", r"x\in(1,2)\cup(3,4)", r"\begin{pmatrix}1\\2\end{pmatrix}", r"\text{no}"]


@pytest.fixture
def no_swallowed_fault():
    """verify_math warns of the faults that it swallows; here they are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_responses_are_wrong_in_bounded_time(name, no_swallowed_fault):
    for gold in GOLDS:
        start = time.perf_counter()
        assert not verify_math(HOSTILE[name], gold)
        assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("write", "bound"),
    [
        (lambda n: "2.0" + " " * (n - 4) + "%", math_answers.MAX_ANSWER),
        (lambda n: "2+" + "0" * (n - 2), expressions.MAX_EXPRESSION),
        (lambda n: "(" * n + "2" + ")" * n, expressions.MAX_NESTING),
        (lambda n: f"{n}!/{n}!+1", expressions.MAX_FACTORIAL),
        (lambda n: rf"\cos({n})-\cos({n})+2", expressions.MAX_ARGUMENT),
    ],
)
def test_beyond_a_bound_nothing_is_right(write, bound):
    assert equivalent(write(bound), "2")
    assert not equivalent(write(bound + 1), "2")


def test_longer_lists_are_equal_only_as_strings():
    for length in (math_answers.MAX_ITEMS, math_answers.MAX_ITEMS + 1):
        answer, gold = ",".join(["0.5"] * length), ",".join(["1/2"] * length)
        assert equivalent(answer, gold) == (length == math_answers.MAX_ITEMS)
        assert equivalent(answer, answer)


def test_the_budget_of_a_verdict(no_swallowed_fault):
    """Two dozen real expressions in any order are within it; right answers made expensive on purpose are undecided."""
    answers = [rf"\frac{{\sqrt{{{n}}}+x^{n}}}{{{n}}}" for n in range(1, 25)]
    golds = [rf"(\sqrt{{{n}}}+x^{{{n}}})/{n}" for n in range(24, 0, -1)]
    assert judge_math(rf"\boxed{{{','.join(answers)}}}", ",".join(golds)) is True
    items = [f"{n}" + "*2999!/2999!" * 20 for n in (6, 5, 4, 3, 2, 1)]
    assert judge_math(rf"\boxed{{{items[0]}}}", "6") is True
    assert judge_math(rf"\boxed{{{','.join(items)}}}", "1,2,3,4,5,6") is None
    boxes = " and ".join(rf"\boxed{{{item}}}" for item in items * 5)
    assert judge_math(boxes, "6") is None
    tuples = [f"({'1,' * 22}{n})" for n in range(24)]  # cheap parts, but nearly 30,000 comparisons
    assert judge_math(rf"\boxed{{{','.join(reversed(tuples))}}}", ",".join(tuples)) is None


def test_extraction_never_runs_out_of_budget():
    """Boxes that are too expensive to compare are taken as a list."""
    expression = "+".join(rf"\sin({n}x)^{{{n}}}" for n in range(2, 20))
    contents = [f"{expression}+{n}-{n}" for n in range(50)]
    assert extract_answer(", ".join(rf"\boxed{{{content}}}" for content in contents)) == ", ".join(contents)


@pytest.mark.parametrize(
    ("response", "gold", "verdict"),
    [
        (r"\boxed{6}", "6", True),
        (r"\boxed{5}", "6", False),
        ("I do not know.", "6", False),
        (r"\boxed{blue}", "6", False),
        (r"\boxed{5}", r"\int_0^1 x", False),
        (r"\boxed{9^{9^{9}}}", "6", None),
        (r"\boxed{5000!}", "6", None),
        (r"\boxed{" + "1+" * 300 + "1}", "6", None),
        (r"\boxed{" + "1," * 30 + "1}", "2," * 30 + "1", None),
        (r"\boxed{" + "x" * 2000 + "}", "6", None),
    ],
)
def test_undecided_is_what_a_bound_cuts_short(response, gold, verdict):
    assert judge_math(response, gold) is verdict
    assert verify_math(response, gold) is (verdict is True)


def test_work_on_hostile_pairs_is_bounded(no_swallowed_fault):
    """No generated pair, hostile on both sides, takes half a second; benchmarks/verifiers.py measures ten thousand."""
    generator = random.Random(0)
    for _ in range(400):
        response, gold = hostile_pair(generator)
        seconds: list[float] = []
        while len(seconds) < 3 and (not seconds or min(seconds) > 0.5):  # again, if it may have been the machine
            start = time.perf_counter()
            assert judge_math(response, gold) in (True, False, None)
            seconds.append(time.perf_counter() - start)
        assert min(seconds) < 0.5, (response[-300:], gold)


def test_a_fault_warns_and_counts_as_wrong(monkeypatch):
    def broken(expression, work, scale):
        raise RuntimeError("a fault")

    monkeypatch.setattr(math_answers, "values", broken)
    with pytest.warns(UserWarning, match="a fault"):
        assert judge_math(r"\boxed{2+2}", "4") is None


PIECES = [*r"0 1 9 9999 x y e i + - * / ^ _ ! | = < > , ; : . ( ) [ ] { } % $ & ' ² ½ − π ∞".split(" ")]
PIECES += [*r"\frac \sqrt \binom \log \sin \ln \overline \lfloor \rfloor \pi \infty \pm \cup \in \le \ne".split(" ")]
PIECES += [*r"\boxed{ \text{ \left \right \{ \} \\ \! \approx \ldots \begin{pmatrix} \end{pmatrix}".split(" ")]
PIECES += [
    " or ",
    " and ",
    "answer is ",
    "#### ",
    "\n",
    "^{9}",
    "{2}",
    "</think>",
    " cm",
    "\0",
    "\ud800",
    "\u0663",
    "é",
    "\\",
]


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.sampled_from(GOLDS),
)
@example("0^{-1}", "0")
@example(r"\log_1 2", "1")
@example("i^{i^{i}}", "x")
def test_no_response_raises(response, gold):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in (response, rf"\boxed{{{response}}}", f"#### {response}"):
            assert verify_math(text, gold) in (True, False)


def test_threads_agree_and_the_precision_of_mpmath_stays():
    pairs = [*EQUAL, *DIFFERENT] * 3
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda pair: equivalent(*pair), pairs))
    assert verdicts == [True] * len(EQUAL) + [False] * len(DIFFERENT) + verdicts[: len(EQUAL) + len(DIFFERENT)] * 2
    assert mpmath.mp.dps == 15  # its default
    assert expressions.CONTEXT.dps == expressions.DIGITS
