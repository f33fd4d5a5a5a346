"""Hostile answers for the mathematical verifier, built from a seed: expensive, deep, long, broken, in any mixture."""

import random

ATOMS = r"""
    0 1 2 7 9 10 99 2999 3000 3001 0.1 0.333 12345678901234567890 1,000 x y z e i \pi \infty \theta x_1 a_{12} \frac12
    \sqrt2 ½ π ² − 0.1\overline{6} 50\% 90^\circ \$5 \emptyset \text{cm} 3\text{m} 5feet abc A (B)
""".split()
ATOMS += ["\ud800", "\0"]
UNARY = r"""
    -@ (@) [@] {@} \{@\} |@| @! @!! \sqrt{@} \sqrt[3]{@} \sin(@) \cos{@} \tan@ \ln(@) \log_2(@) \exp(@) \arctan(@)
    \lfloor@\rfloor \text{@} \boxed{@} \left(@\right) @^2 @^{-1} 2^{@} 9^{9^{@}} @\% @\text{cm} x=@ x\in@ \overline{@}
    @,\ldots \pm@ \sum_{n=1}^{@}n
""".split()
BINARY = r"""
    @+@ @-@ @*@ @/@ @@ @^{@} \frac{@}{@} \binom{@}{@} (@,@) [@,@) \{@,@\} @,@ @\text{or}@ @=@ @<@ @\le@ @\cup@ @\pm@ @:@
    @\approx@ \begin{pmatrix}@\\@\end{pmatrix} \begin{pmatrix}@&@\end{pmatrix} @_{@} @\in@ @;@
""".split()
REPEATED = r"""
    ( { [ \{ | - ! ^ _ , \frac \sqrt \boxed{ \text{ \left( $ \pm 1, 9^ x< x= \cup \sin \ln 1/ (1, \begin{pmatrix} & \\
    </think> #### answer~is~ \approx ... 1_ 5feet 0.3\overline{3} 2999!* 1/2999!+ \sqrt{2}+ x^{99}* (x+1)^{40}+
    \binom{2999}{1500}*
""".split()
JOINTS = ["", ",", "+", "*", "^", " ", "/", ";", "\\cup", "!", "\\\\", "&", "\\text{ and }"]
GOLDS = r"5 x+1 1,2 \{1,2\} x<5 (1,2)\cup(3,4) \begin{pmatrix}1\\2\end{pmatrix} no".split()
WRAPPERS = ["\\boxed{@}", "#### @", "The answer is @", "$\\boxed{@}$ or \\boxed{7}", "@", "\\boxed{@}" * 3]
LENGTHS = (100, 390, 400, 1590, 1600)  # around the bounds of expressions and answers


def expression(rng: random.Random, depth: int) -> str:
    kind = rng.random()
    if depth == 0 or kind < 0.2:
        return rng.choice(ATOMS)
    if kind < 0.9:
        text = rng.choice(UNARY if kind < 0.5 else BINARY)
        while "@" in text:
            text = text.replace("@", expression(rng, depth - 1).replace("@", ""), 1)
        return text
    return rng.choice(JOINTS).join([expression(rng, depth - 1)] * rng.choice([3, 24, 25, 60]))[: rng.choice(LENGTHS)]


def hostile_answer(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return expression(rng, rng.randint(1, 6))[:1600]
    if kind < 0.7:
        return (rng.choice(REPEATED) * 1600)[: rng.choice(LENGTHS)] + rng.choice(["", "1", "1}", ")" * 60])
    if kind < 0.9:  # expensive items side by side
        items = [expression(rng, rng.randint(1, 3)) for _ in range(rng.choice([2, 12, 24]))]
        return rng.choice([",", ";", "\\cup", "&", "\\\\"]).join(items)[:1600]
    return "".join(rng.choice(ATOMS + UNARY + BINARY + REPEATED) for _ in range(rng.randint(1, 40)))[:1600]


def hostile_pair(rng: random.Random) -> tuple[str, str]:
    """(response, gold answer); the gold answer is hostile too, and often like the response's."""
    answer = hostile_answer(rng)
    kind = rng.random()
    if kind < 0.3:
        gold = rng.choice(GOLDS)
    elif kind < 0.6:  # the same items in another order, so that no item finds its partner at once
        gold = ",".join(reversed(answer.split(",")))
    elif kind < 0.8:
        gold = answer + rng.choice(["+0", "1", "*1", ",1", " x", "!"])
    else:
        gold = hostile_answer(rng)
    response = rng.choice(WRAPPERS).replace("@", answer)
    if rng.random() < 0.02:  # a megabyte before it
        response = (rng.choice(REPEATED) * 1_000_000)[:1_000_000] + response
    return response, gold
