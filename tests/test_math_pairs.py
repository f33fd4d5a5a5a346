"""Pairs of answers, by kind: what is right in another form, and what only looks right."""

import pytest

from verifiers.math_answers import equivalent, extract_answer, verify_math

EQUAL = r"""
units
    5 cm ~ 5
    5 ~ 5 cm
    5 square feet ~ 5 ft^2
    5 sq. ft. ~ 5\text{ square feet}
    60 miles per hour ~ 60\text{ mph}
    60 mi/h ~ 60 mph
    5\text{ m}/\text{s} ~ 5 m/s
    5\,\mathrm{m/s} ~ 5
    18\text{ blue marbles} ~ 18
    18 marbles ~ 18 blue marbles
    12 years old ~ 12
    3 hours ago ~ 3
    5 cups of flour ~ 5
    2 children ~ 2
    1 1/2 cups ~ 1.5
    1\frac12\text{ cups} ~ 3/2
    \$5,000 ~ 5000
    \$5{,}000\text{ dollars} ~ 5000
    5 million dollars ~ 5000000
    5 million ~ 5\times10^6
    20^\circ\text{C} ~ 20^\circ
    3:00 a.m. ~ 3:00
    3:00 PM ~ 3:00\text{ p.m.}
    6" ~ 6 inches
    5\text{ units}^2 ~ 5 square units
    864 \mbox{ inches}^2 ~ 864 square inches
    \frac{270}7\text{ degrees} ~ \frac{270}{7}
    5 points ~ 5
    180^\circ-x ~ 180-x
    \frac{63}{10m} ~ \frac{63}{10 m}
    \sqrt{2 g} ~ (2g)^{1/2}
    1.6\text{ nm} ~ 1.6
    6\text{¢} ~ 6\text{ cents}
    6¢ ~ 6
    5\text{ s}^{-1} ~ 5
    5\ \mathrm{m\,s^{-1}} ~ 5\ \mathrm{m/s}
    9.8\text{ m}\,\text{s}^{-2} ~ 9.8\text{ m/s}^2
    5 \text{ N}\cdot\text{m} ~ 5
    2.5\text{ keV} ~ 2.5
    40\text{ kpc} ~ 40
    1.2\text{ arcsec} ~ 1.2
    3\text{ cm}^2 ~ 3
sets
    ]1,2] ~ (1,2]
    [1,2[ ~ 1 \le x < 2
    (-\infty,2[ \cup ]3,\infty) ~ (-\infty,2)\cup(3,\infty)
    \langle 1, 2 \rangle ~ (1,2)
    x<3 \text{ or } x>5 ~ (-\infty,3)\cup(5,\infty)
    x<3 or x>5 ~ x\in(-\infty,3)\cup(5,\infty)
    \{x \mid x<3\} ~ (-\infty,3)
    \{x : x<3\} ~ x<3
    \{x\in\mathbb{R} \mid x<3\} ~ (-\infty,3)
    x\ne3 ~ (-\infty,3)\cup(3,\infty)
    x \neq 3 ~ \mathbb R\setminus\{3\}
    \mathbb{R}-\{3\} ~ x\ne 3
    \mathbb{R}\backslash\{1,2\} ~ x\ne 1,2
    x \ne 1 \text{ and } x\ne2 ~ (-\infty,1)\cup(1,2)\cup(2,\infty)
    a\in\{-2,1\} ~ a=1\text{ or }a=-2
    a\in\{-2,1\} ~ 1,-2
    \varnothing ~ \{\}
    x\in\{13,1,2,3,4,5,6,7,8,9,10,11,12\} ~ x\in\{1,2,3,4,5,6,7,8,9,10,11,12,13\}
    x>1 and x<3 ~ (1,3)
    [1,2]\cup[2,3] ~ [1,3]
    [1,2)\cup\{2\} ~ [1,2]
    (0,4)\cap[1,9] ~ [1,4)
    -\infty<x<3 ~ x<3
    all real numbers ~ \mathbb{R}
    x\in\mathbb{R} ~ (-\infty,\infty)
    [1,2,3] ~ 1,2,3
    x\in(-\infty,1) \text{ or } x\in(3,\infty) ~ (-\infty,1)\cup(3,\infty)
    x\in\mathbb{R}, x\neq 3 ~ (-\infty,3)\cup(3,\infty)
    (-\infty,1) \text{ or } (3,\infty) ~ (-\infty,1)\cup(3,\infty)
    x = 3 \lor x = 5 ~ 3,5
ratios
    2:3 ~ 4:6
    1:2:3 ~ 2:4:6
syntax
    110_{\text{two}} ~ 110_2
    59^{\text{th}} ~ 59
    1\text{st} ~ 1
    \begin{pmatrix} 1 \\[4pt] 2 \end{pmatrix} ~ \begin{pmatrix} 1 \\ 2 \end{pmatrix}
    \(5\) ~ 5
    \dbinom{10}{3} ~ 120
    {10 \choose 3} ~ 120
    10 \choose 3 ~ 120
    {3 \over 4} ~ 0.75
    4.5e33 ~ 4.5\times10^{33}
    1e-3 ~ 0.001
    \lg 100 ~ 2
    \sin 30^\circ ~ \frac12
    \cos 60° ~ 0.5
    2\sin(45^\circ) ~ \sqrt2
    \sin30^\circ+1 ~ 1.5
    exp(2x) ~ e^{2x}
    abs(x) ~ |x|
    arctan(1) ~ \frac{\pi}{4}
    \operatorname{arctan}(1) ~ \pi/4
    -infinity ~ -\infty
    (2516)_8 ~ 2516_8
    2516 (base 8) ~ 2516_8
    0.\bar{3} ~ \frac13
    log_2(8) ~ 3
    2*pi ~ 2\pi
    log10(1000) ~ 3
    log2(8) ~ 3
    4.5 x 10^33 ~ 4.5e33
    x**2 + 2*x ~ x(x+2)
    3*sin(2*x) ~ 3\sin 2x
values
    \frac34 = 0.75 ~ \frac{3}{4}
    2^{10} = 1024 ~ 1024
    7\times 8 = 56 ~ 56
    \frac{\sqrt{l}}{\sqrt{g}} ~ \sqrt{\frac{l}{g}}
    \ln(ab) ~ \ln a+\ln b
    \sqrt{1-x^2} ~ (1-x^2)^{1/2}
    e^{x^2}+1 ~ 1+e^{x^2}
    1+\cos\frac{\pi}{2} ~ 1
    (\sqrt{3}\cdot\sqrt{3}-3)+5 ~ 5
    (e^{\ln 7}-7)+5 ~ 5
    5+\sin\pi ~ 5
    2^{50000} ~ 4^{25000}
    x^{30}+\sqrt{x} ~ \sqrt{x}+x^{30}
labels
    \vec{v} = (1,2) ~ (1,2)
    \overrightarrow{AB} = \begin{pmatrix}1\\2\end{pmatrix} ~ \begin{pmatrix}1\\2\end{pmatrix}
    \overline{AB} = 5 ~ 5
    f'(2) = 5 ~ 5
    P(A \cap B) = \frac15 ~ 0.2
    \mathbf{v} = \begin{pmatrix} 1 \\ 2 \end{pmatrix} ~ \begin{pmatrix} 1 \\ 2 \end{pmatrix}
    \angle ABC = 90^\circ ~ 90^\circ
    m\angle A = 30 ~ 30
    V_{\text{cone}} = 6\pi ~ 6\pi
    x_{\max} = 6 ~ 6
    a_{n+1} = 6 ~ 6
    S_{\triangle ABC} = 6 ~ 6
    x = 2+2 = 4 ~ 4
    \text{P}(A)=\frac14 ~ 1/4
    \text{the number of ways}=5 ~ 5
    f^{-1}(x)=2x ~ 2x
    x=1, y=2 ~ (1,2)
    (x,y)=(1,2) ~ x=1, y=2
    y=2, x=1 ~ (x, y) = (1, 2)
    (x,y)=(1,2) ~ (1,2)
    x=\frac13\approx0.333 ~ 1/3
    \lfloor x+1\rfloor ~ \lfloor x\rfloor+1
words
    \text{Yes.} ~ Yes
    B) ~ B
    (B) 12 ~ B
    No ~ \text{no}
    \textbf{(A)} ~ A
"""
DIFFERENT = r"""
interval and list
    x\in [1,2) \text{ or } x\in (3,4] ~ (3,4]
    [1,2) \text{ or } x\in (3,4] ~ (3,4]
    x \not\in (1,2] ~ x\in(1,2]
    -x \in (1,2] ~ (1,2]
    \text{not } x \in (1,2] ~ (1,2]
    (1,2) \text{ or } (3,4] ~ (3,4]
    x = 5 \lor x = 6 ~ 6
    x = 5 \quad x = 6 ~ 6
    x = 5 \text{ but } y = 6 ~ 6
    x = 120 = 22 ~ 22
    120 = 22 ~ 22
    7\times 8 = 57 ~ 57
    -\infty,3 ~ (-\infty,3]
    3,\infty ~ (3,\infty)
    1 or 2 ~ (1,2]
    1,2 ~ [1,2]
    (1,2] ~ 1,2
    [1,2] ~ (1,2)
    3;5 ~ [3,5)
    3 \text{ or } 5 ~ (3,5)
    x=3, x=5 ~ (3,5)
    x=3, 5 ~ (3,5)
    x\approx 1, x\approx 2 ~ y=x
    \frac13\approx0.33, 5 ~ \frac13
    x=1, y=2 ~ (1,2]
sets
    ]1,2] ~ [1,2]
    [1,2[ ~ [1,2]
    x<3 or x>5 ~ 3<x<5
    x<3 \text{ or } x>5 ~ (-\infty,3]\cup(5,\infty)
    \mathbb{R}\setminus\{3\} ~ \mathbb{R}
    \mathbb R\setminus\{3\} ~ \mathbb R\setminus\{4\}
    x\ne3 ~ x\ne -3
    x\ne 5 ~ x=5
    x\ne 5 ~ 5
    \{x\mid x<3\} ~ (-\infty,3]
    \{x\mid x<3\} ~ \{x\mid x>3\}
    x>3 ~ y>3
    (1,2)\cup(2,3) ~ (1,3)
    [1,2)\cup(2,3] ~ [1,3]
    \emptyset ~ 0
    \{\} ~ \{0\}
    x\in\{1,2,3,4,5,6,7,8,9,10,11,12,13\} ~ x\in\{1,2,3,4,5,6,7,8,9,10,11,12\}
    x\in\{1,2,3,4,5,6,7,8,9,10,11,12,13\} ~ x\in\{1,2,3,4,5,6,7,8,9,10,11,12,14\}
signs
    |q-a| ~ q-a
    |p+q| ~ p+q
    |dr| ~ dr
    (-1)^y ~ 1
    (-2)^q ~ -2^q
    |ao| ~ ao
    |b-p| ~ b-p
    |y| ~ y
    \sqrt{y^2} ~ y
    |ac| ~ ac
    |mn| ~ mn
    |abc| ~ abc
    \sqrt{a^2b^2} ~ ab
    |x-y| ~ x-y
    |x| ~ -x
    |k|n ~ kn
    |x|^3 ~ x^3
    \frac{|m|}{m} ~ 1
words that change the value
    5 sixths ~ 5
    3 eighths ~ 3
    5 hundredths ~ 5
    3\text{ halves} ~ 3
    4 quarters ~ 4
    5 lakh ~ 5
    2 dozen ~ 2
    5 billion ~ 5 million
    2 root three ~ 2
    2 \text{ root three} ~ 2
    5 plus two ~ 5
    6 over seven ~ 6
    5 times pi ~ 5
    5 squared ~ 5
    5 below zero ~ 5
    5 degrees below zero ~ 5
    5 less than 3 ~ 5
    at most 5 ~ 5
    3\text{ is not the answer} ~ 3
    3\text{ is wrong} ~ 3
    3 wrong answers ~ 3
    not 5 ~ 5
    \text{never } 5 ~ 5
    \text{not } x=5 ~ 5
    \text{not }A ~ A
units
    5\text{ s}^{-1} ~ 5\text{ s}
    5\text{ m s}^{-2} ~ 5\text{ m/s}
    5\text{ cm} - 2\text{ cm} ~ 5
    5 \text{ N}\cdot 2\text{ m} ~ 5
    5\text{ hours }2\text{ minutes} ~ 5\text{ hours}
    5 feet 3 inches ~ 5
    4 m/2 ~ 4
    4\text{ miles}/3\text{ hours} ~ 4\text{ miles per hour}
    4\text{ apples }2\text{ pears} ~ 4
    n + 2 m ~ n+2
    4a+3 ~ 4 a + 3 m
    3:00\text{ a.m.} ~ 3:00\text{ p.m.}
    5\text{ left} ~ 5\text{ right}
    5\text{ east} ~ 5\text{ west}
    5\text{ units up} ~ 5\text{ units down}
    5\text{ apples} ~ 5\text{ oranges}
    5 cm ~ 5\text{ m}
    5 cm ~ 5 cm^2
    £5 ~ \$5
    5 cents ~ \$5
    5\% ~ 5\text{ cm}
    5 hours ~ 5 minutes
    3 apples and 4 pears ~ 3
letters of words
    IV ~ VI
    XI ~ IX
    on ~ no
    on ~ \text{no}
    \text{on} ~ no
    \text{to} ~ \text{ot}
    No ~ on
    was ~ saw
    3 and a half ~ 3
    5 to the fourth ~ 5
steps
    \lfloor\log_2 n\rfloor+1 ~ 2
    \lfloor\log_2 h\rfloor+1 ~ 2
    \lfloor x\rfloor ~ 3
    \lceil x/y\rceil ~ 1
    \lfloor x\rfloor ~ x
    \lfloor\frac{2n-1}{5}\rfloor ~ \lfloor\sqrt{n-1}\rfloor
digits beyond the precision
    10^{20}+\sqrt{2} ~ 10^{20}+\sqrt{3}
    10^{30}+\pi ~ 10^{30}+e
    10^{40}\cdot\sqrt{2}+1 ~ 10^{40}\cdot\sqrt2
    2^{50000}+1 ~ 2^{50000}
    3000!+1 ~ 3000!
    e^{-200}+1 ~ 1
labels
    \not= 5 ~ 5
    \neg 5 ~ 5
    x+y=3 ~ 3
    \begin{pmatrix} 1 \\ 3 \end{pmatrix} = \begin{pmatrix} 1 \\ 2 \end{pmatrix} ~ \begin{pmatrix} 1 \\ 2 \end{pmatrix}
    a=1, b=-2 ~ a=1 \text{ or } a=-2
    x=1,y=2 ~ x=1,x=2
    x=1,x=2 ~ x=1,y=2
    m=1,n=2 ~ m=2,n=1
    (x,y)=(2,1) ~ x=1, y=2
    (x,y)=(1,2),(3,4) ~ x=1, y=2
    x^{-1}=5 ~ 5
ratios
    2:3 ~ 3:2
    2:3 ~ 2
    2:3:4 ~ 2:3
    1:2:3 ~ 2:4:7
    12:30 ~ 1:30
    1:20 ~ 2:40
    0:3 ~ 0:4
syntax
    110_{\text{three}} ~ 110_2
    5^{\text{th}} ~ \frac15
    (C) 12 ~ B
    (A) or (B) ~ A
    (A) \text{ or } (B) ~ A
    A) B) C) ~ A
    (A) 1, (B) 2 ~ A
    (A) \text{ is wrong} ~ A
    (A) and B ~ A
    4.5e33 ~ 4.5\times10^{32}
    \sin 30^\circ ~ \sin 30
    \lg 100 ~ 3
    (2516)_8 ~ 2516_7
    exp(2x) ~ e^{-2x}
"""


def pairs(table: str) -> list[tuple[str, str]]:
    return [tuple(line.strip().split(" ~ ")) for line in table.splitlines() if " ~ " in line]


@pytest.mark.parametrize(("answer", "gold"), pairs(EQUAL))
def test_right_in_another_form(answer, gold):
    assert verify_math(rf"Therefore $\boxed{{{answer}}}$.", gold)


@pytest.mark.parametrize(("answer", "gold"), pairs(DIFFERENT))
def test_only_looks_right(answer, gold):
    assert not equivalent(answer, gold)
    assert not verify_math(rf"Therefore $\boxed{{{answer}}}$.", gold)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Final Answer: **73**", "73"),
        ("The final answer is **\\(73\\)**.", "73"),
        ("*Answer:* 73", "73"),
        ("**Answer**: 73", "73"),
        ("### Final Answer\n73", "73"),
        ("**Final Answer**\n\n73", "73"),
        ("## Answer\n**73**\nI checked it.", "73"),
        ("Answer: `73`", "73"),
        ("Answer: ```73```", "73"),
        ("Answer:\n\\[\nx = 73\n\\]\nDone.", "x = 73"),
        ("The answer is 72, which is the total.", "72"),
        ("The answer is 72 because of that.", "72"),
        ("Final answer: 72\nI checked it.", "72"),
        ("The correct answer is option B.", "B"),
        ("The answer is therefore 5.", "5"),
        ("The answer must be 5", "5"),
        ("The answer is __73__", "73"),
        ("The answer to the question is 5.", "5"),
        ("The answer is 72 (not 73).", "72 (not 73)"),
        ("The answer is 72 if lucky, else 73", "72 if lucky, else 73"),
    ],
)
def test_the_answer_in_a_sentence(response, answer):
    assert extract_answer(response) == answer


def test_words_are_not_taken_apart():
    """What is left of a phrase without its unit must be a value."""
    assert not equivalent("no solutions", "no")
    assert not equivalent("even numbers", "even")
