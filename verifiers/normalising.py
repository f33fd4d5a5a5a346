r"""One spelling for answers that mean the same, their units, and how they split into items.

    normalise(r"\left( 0.5,\; 3\text{ cm} \right)")  # '( 0.5, 3 "cm" )'
    split_unit('5 "square feet"')  # ("5", {"ft^2"})

Double quotes mark what stood in \text{}: it is prose, never a product of variables.
"""

import itertools
import re

# One spelling for what has several: the first of each line stands for the others.
SPELLINGS = r"""
    \frac       \dfrac \tfrac \cfrac \nicefrac \sfrac
    \binom      \dbinom \tbinom
    \overline   \bar
    \ge         \geq \geqslant ≥ >=
    \le         \leq \leqslant ≤ <=
    \ne         \neq ≠ !=
    <           \lt
    >           \gt
    *           \cdot \times × · ⋅ \ast
    /           \div ÷ ⁄
    ^           **
    -           − – — ‐ ‑
    |           \lvert \rvert \vert \mid
    \{          \lbrace
    \}          \rbrace
    \floor{     \lfloor
    \ceil{      \lceil
    }           \rfloor \rceil
    ...         \ldots \dots \cdots
    \emptyset   \varnothing ∅
    ;           \lor \vee ∨
    \setminus   \backslash \smallsetminus ∖
    \sqrt       √
    \approx     ≈
    \pi         π
    \theta      θ
    \infty      ∞ \infin
    \pm         ±
    \cup        ∪
    \cap        ∩
    \in         ∈
    \deg        ° \degree
    \arcsin     \asin
    \arccos     \acos
    \arctan     \atan
    %           \%
    \frac{1}{2}         ½
    \frac{1}{4}         ¼
    \frac{3}{4}         ¾
    \frac{1}{3}         ⅓
    \frac{2}{3}         ⅔
    (-\infty,\infty)    \R ℝ
    (           \langle ⟨
    )           \rangle ⟩
    "$"         \$
    "€"         € \euro
    "£"         £ \pounds
    "¢"         ¢ \cent
"""
SPELLING_OF = {other: line.split()[0] for line in SPELLINGS.strip().splitlines() for other in line.split()[1:]}
LAYOUT = r"""
    \left \right \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl \biggr \displaystyle \textstyle \large \Large
    \quad \qquad \, \; \: \! \( \) \[ \] $ ~
"""
DROPPED = {*LAYOUT.split(), "\\ ", "\u200b", "\ufeff"}
SYMBOL = re.compile(r"\\\\|\\[A-Za-z]+|\\[^A-Za-z]|[<>!]=|\*\*|[^\x00-\x7f]|[$~]")  # \\ is a row break, not a blank
# A separator of thousands that cannot be a comma of a list, and an answer whose commas all separate thousands.
THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!|\\[,! ])\s*(?=\d{3}(?!\d))")
THOUSANDS_COMMAS = re.compile(r"(?:[A-Za-z] ?= ?)?[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?%?")
TEXT = "text|textbf|textrm|textit|textnormal|textsf|texttt|mbox"
WRAPPER = rf"\\({TEXT}|mathrm|mathbf|mathit|mathsf|operatorname|boldsymbol|bm|underline|boxed|fbox)\s*"
WRAPPED = re.compile(WRAPPER + r"\{((?:[^{}]|\{[^{}]*\})*)\}")  # with at most one level of braces inside
JOINING_WORD = re.compile(
    r"\\(?:text|textbf|textrm|mbox|mathrm)\s*\{\s*,?\s*(and|or)\s*\}|(?<![A-Za-z\\]),?\s*\b(and|or)\b"
)
DEGREES = re.compile(r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\bdegrees?\b")
PERCENT = re.compile(r'(?i)(?<=[\d}])\s*(?:%|"?percent(?:age)?"?|"?pct"?)\s*\Z')
CHOOSE = re.compile(r"\{([^{}]{1,50})\\(choose|over)(?![A-Za-z])([^{}]{1,50})\}")
BASE = re.compile(r'\(?(\w+)\)?\s*,?\s*\(?"?\s*(?:in )?base(?: |-)?"?\s*(\d+)\)?')  # 2516 (base 8)
ORDINAL = re.compile(r"(?<=\d) ?(?:\^ ?)?\{?(?:\\text ?\{ ?)?(?:st|nd|rd|th) ?\}{0,2}\Z")
BASES = dict(two=2, three=3, four=4, five=5, six=6, seven=7, eight=8, nine=9, ten=10, twelve=12, sixteen=16)
BASE_WORD = re.compile(rf'_ ?\{{? ?"({"|".join(BASES)})" ?\}}?')
OPEN_AT_START = re.compile(r"(\A|\\(?:cup|cap|in) ?)\](?=[^\[\](),]+,)")  # ]1,2[ is (1,2)
OPEN_AT_END = re.compile(r"(,[^\[\](),]+)\[(?= ?(?:\Z|\\(?:cup|cap)(?![A-Za-z])))")
POWER_OF_TEN = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
LARGE = re.compile(rf'(?<=\d)\s*"?\s*({"|".join(POWER_OF_TEN)})\b"?')
FUNCTION_WORDS = "sqrt pi sin cos tan sec csc cot sinh cosh tanh arcsin arccos arctan ln lg log exp abs floor ceil"
COMMAND_OF = {name: rf"\{name} " for name in FUNCTION_WORDS.split()} | {"infinity": r"\infty ", "infty": r"\infty "}
COMMAND_OF |= {"asin": r"\arcsin ", "acos": r"\arccos ", "atan": r"\arctan "}
REAL_NUMBERS = re.compile(r'"?\b[Aa]ll"? "?real"? "?numbers"?')
RATE = re.compile(r"(?<=\d)(?: ?(km|mi|cm|ft)| (m))/(h|s)(?![A-Za-z])")  # bare letters that are no variables
NAMED_TUPLE = re.compile(r"\(((?:[A-Za-z] ?, ?)+[A-Za-z])\) ?= ?(\(.+\))")  # (x,y)=(1,2)
BARE_LOG = re.compile(r"(?<![A-Za-z\\])log_?(10|2) ?\(")  # log10(100)
TIMES_TEN = re.compile(r"(?<=\d) ?x ?(?=10 ?\^)")  # 4.5 x 10^33
SUPERSCRIPT, PLAIN = re.compile("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+"), str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
# √14 is the root of 14, where LaTeX's \sqrt14 is \sqrt{1}4
BARE_ROOT = re.compile(r"(?:√|(?<![\\A-Za-z])sqrt)\s*(\d+(?:,\d{3})*(?:\.\d+)?)")
BARE_COMMAND = re.compile(rf'(?<![\\A-Za-z"])({"|".join(sorted(COMMAND_OF, reverse=True))})(?![A-Za-z"])')
FULL_STOP = re.compile(r"(?<!\.)\.\Z")  # and not the last of three dots


def normalise(answer: str) -> str:
    """The answer in one spelling: without layout and outer braces, with prose in double quotes."""
    answer = BARE_ROOT.sub(lambda m: rf"\sqrt{{{m[1].replace(',', '')}}}", THOUSANDS.sub("", answer))
    answer = SUPERSCRIPT.sub(lambda m: f"^{{{m[0].translate(PLAIN)}}}", answer)
    answer = re.sub(r"\\mathbb\s?\{?\s?R\s?\}?", r"\\R ", one_blank(answer.replace('"', " ")))
    s = one_blank(SYMBOL.sub(replacement, answer)).strip()
    s = OPEN_AT_END.sub(r"\1)", OPEN_AT_START.sub(r"\1(", s))
    s = ORDINAL.sub("", s)
    s = CHOOSE.sub(lambda m: rf"\{'binom' if m[2] == 'choose' else 'frac'}{{{m[1]}}}{{{m[3]}}}", f"{{{s}}}")
    s = s[1:-1].strip() if s.startswith("{") else s
    for _ in range(8):  # outer braces
        s = s[1:-1].strip() if s.startswith("{") and closes_at_end(s) else s
    s = one_blank(JOINING_WORD.sub(joined, one_blank(DEGREES.sub(r" \\deg ", s))))
    for _ in range(4):  # wrappers inside wrappers
        s = WRAPPED.sub(unwrapped, s)
    s = REAL_NUMBERS.sub(r"(-\\infty,\\infty)", one_blank(s))
    s = RATE.sub(lambda m: f' "{m[1] or m[2]}"/"{m[3]}"', s)
    s = PERCENT.sub("%", one_blank(s).strip())
    s = FULL_STOP.sub("", s).removeprefix(r"\approx").strip()
    s = LARGE.sub(lambda m: f"*10^{{{POWER_OF_TEN[m[1]]}}}", s)
    s = f"{base[1]}_{{{base[2]}}}" if (base := BASE.fullmatch(s)) else s
    s = BASE_WORD.sub(lambda m: f"_{{{BASES[m[1]]}}}", s)
    if THOUSANDS_COMMAS.fullmatch(split_unit(s)[0]):
        s = s.replace(",", "")
    s = TIMES_TEN.sub("*", BARE_LOG.sub(r"\\log_{\1}(", s))
    named = NAMED_TUPLE.fullmatch(s)
    if named and closes_at_end(named[2]) and len(values := inside_brackets(named[2])[1]) == len(named[1].split(",")):
        names = [name.strip() for name in named[1].split(",")]
        in_order = names == sorted(names)  # (y,x)=(2,1) is the point (2,1) of its question
        s = ", ".join(f"{name}={value}" for name, value in zip(names, values)) if in_order else named[2]
    s = BARE_COMMAND.sub(lambda m: COMMAND_OF[m[1]], s)
    return re.sub(r"\\\{ ?\\\}", r"\\emptyset ", one_blank(s)).replace(r"+\infty", r"\infty").strip()


def one_blank(s: str) -> str:
    """With one blank for several: a pattern that looks for blanks in two places would try every way to share them."""
    return re.sub(r"\s+", " ", s)


def replacement(symbol: re.Match) -> str:
    """What stands for a symbol; a blank keeps a new command apart from a letter after it."""
    if symbol[0] in DROPPED:
        return " "
    new = SPELLING_OF.get(symbol[0], symbol[0])
    return new + " " if new != symbol[0] and new[-1].isalpha() else new


def joined(word: re.Match) -> str:
    """Both words part the items of a list, but the items of a tuple are not joined by "or"."""
    return " ; " if "or" in word.groups() else " , "


def unwrapped(wrapper: re.Match) -> str:
    r"""What stands in \text{} or \mathrm{}, with quotes around its words and units."""
    kind, content = wrapper[1], FULL_STOP.sub("", wrapper[2].replace('"', "").strip())
    if kind not in TEXT.split("|"):
        after_number = re.search(r"(?:[\d)}]|\\deg) ?\Z", wrapper.string[: wrapper.start()][-6:])
        if not after_number or unit_of(content) is None:
            return f" {content} "
    return f" {WORD.sub(lambda word: word[0] if word[0] in COMMAND_OF else quoted(word), content)} "


def quoted(word: re.Match) -> str:
    return f'"{word[0]}"'


def spelling(s: str) -> str:
    """A normalised answer as it is compared letter by letter: no needless blanks, no braces around one character."""
    s = re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", re.sub(r"(\\[A-Za-z]+) (?=\d)", r"\1", s.replace('"', "")))
    return re.sub(r"\{(\w)\}(?!\w)", r"\1", s)


# -------------------- units

# The first of each line stands for the others; a plural s may be added to any.
UNITS = r"""
    m meter metre, cm centimeter centimetre, mm millimeter millimetre, km kilometer kilometre, in inch inches
    ft foot feet, yd yard, mi mile, g gram gm, kg kilogram kilo, mg milligram, lb pound, oz ounce, t ton tonne
    s sec second, min minute, h hr hour, day, week wk, month, year yr, ms millisecond, am a.m, pm p.m
    l liter litre, ml milliliter millilitre, gal gallon, qt quart, pt pint, cup
    $ dollar usd buck, € euro eur, £ gbp, ¢ cent, yuan rmb, yen, rupee
    n newton, j joule, kj, w watt, kw, v volt, hz hertz, pa pascal, k kelvin, mol mole, c celsius, f fahrenheit
    nm nanometer nanometre, å angstrom, kev, gev, parsec, kpc, erg, arcsec arcsecond, atm, kpa, khz, mhz, ghz, rpm
    \deg, rad radian, unit, person people, child children, man men, woman women, mouse mice, sheep, fish, dice
"""
UNIT_OF = {name: line.split()[0] for line in UNITS.replace("\n", ",").split(",") for name in line.split()}
UNIT_OF = {f"{name}s": unit for name, unit in UNIT_OF.items()} | UNIT_OF
MEASURES = set(UNIT_OF.values()) - set("$€£¢")
UNIT_OF |= {"mph": "mi /h", "kph": "km /h", "kmh": "km /h"}
# Words that are no nouns behind a number, although they end in s, or that change its value.
NO_UNIT = re.compile(
    r".*(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|teen|tie|hundred|thousand|illion)ths?|hal(?:f|ves)|thirds?|"
    r"quarters?|hundreds?|thousands?|.*illions?|.*illiards?|dozens?|lakhs?|crores?|scores?|gross|tens|zeros?|zeroes|"
    r"one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|.*teen|.*ty|pi|root|roots|over|times|time|point|"
    r"plus|minus|negative.*|inverse.*|reciprocal.*|square|squared|cubed|cube|power.*|raised|divided|divides|"
    r"multipl.*|mod.*|choose|factorials?|log|base|percent.*|double|triple|twice|per|less|more|most|least|fewer|than|"
    r"greater|below|above|under|about|approximately|almost|nearly|between|except|excluding|without|unless|if|not|no|"
    r"non|never|none|neither|nor|wrong|false|incorrect|is|isn.*|are|aren.*|was|has|does|doesn.*|this|thus|its|his|yes|"
    r"perhaps|sometimes|always|maybe|else|equals?|means|gives|makes|cos|.*wards|across|versus"
)
UNIT_WORD = re.compile(r"[a-z$€£¢][a-z.'’]*|\\deg|/|\^ ?\{?-?[123]\}?")
WORD = re.compile(r"(?<![\\A-Za-z\"])[A-Za-z][A-Za-z.'’]*|[$€£¢]")
PART = re.compile(r'"[^"]*"|\\?[A-Za-z][A-Za-z.]*|\d+|\S')  # of what may be a unit at the end of an answer
MONEY = re.compile(r'([-+]? ?)"([$€£])" ?(.+)', re.DOTALL)
TRIGONOMETRY = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)")
PRODUCT = re.compile(r"[mgL]|m[gilms]|gm|am|pm")  # units that are variables beside other variables
LONE_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
MAX_UNIT = 10  # parts of a unit, in the last 100 characters


def split_unit(s: str) -> tuple[str, frozenset[str]]:
    r"""(value, unit) of a normalised answer such as "5 cm^2", '\sqrt2 "square" "feet"', '"$"5' or "12 apples".

    A unit is a set, {"mi", "/h"} for miles per hour, and empty where there is none.
    """
    unit: frozenset[str] = frozenset()
    if money := MONEY.fullmatch(s):
        s, unit = money[1] + money[3], frozenset({money[2]})
    if not re.search(r"[A-Za-z.\"}23]\Z", s):
        return s, unit
    starts = []  # where a unit at the end may begin
    for part in reversed(list(PART.finditer(s, max(0, len(s) - 100)))[-MAX_UNIT:]):
        text, before = part[0], s[: part.start()][-2:]
        if text == r"\deg" and TRIGONOMETRY.search(s):
            break
        if text[0] == '"' or re.fullmatch(r"[A-Za-z.]{2,}|\\deg", text) or re.fullmatch(r"[mgL]\d ", text + before):
            starts.append(part.start())
        elif text == "/" and starts and not s[part.end() : starts[-1]].strip():
            starts[-1] = part.start()
        elif (text == "-" and re.search(r"\^[ {]*\Z", s[: part.start()])) or (text == "*" and starts):
            continue  # s^{-1}, N*m
        elif text in ("1", "2", "3") and not re.search(r"\^[ {-]*\Z|[A-Za-z]\Z", s[: part.start()][-4:]):
            break  # 5 feet 3 inches
        elif text not in ("^", "{", "}", "1", "2", "3", ".", "/"):
            break
    for start in reversed(starts):
        value, phrase = s[:start].strip(), s[start:]
        if phrase.count("}") > phrase.count("{") or (PRODUCT.fullmatch(phrase) and LONE_LETTER.search(value)):
            continue  # the g of \frac{v}{2 g}, the m of n + 2 m
        if found := unit_of(phrase):
            return value, found | unit
    return s, unit


def unit_of(phrase: str) -> frozenset[str] | None:
    r"""{"cm^2"} for 'square centimeters', {"apples"} for "red apples"; None for what is no unit.

    A word that is not known must be part of a phrase with a plural, such as "years ago", and not change the value.
    """
    if re.search(r'\b(?:binary|octal|hexadecimal)"?\s*\Z', phrase):  # 10 in binary; but 7 binary strings
        return None
    words: list[str] = []
    per = power = ""
    plural = False
    for word in UNIT_WORD.findall(phrase.lower().replace('"', "")):
        word = word.rstrip(".") or word
        if word in ("/", "per") or (word in ("a", "an") and words):
            per = "/"
        elif word in ("square", "sq", "cubic", "cu"):
            power = "^2" if word[0] == "s" else "^3"
        elif word[0] == "^" or (word in ("squared", "cubed") and words):
            if not words:
                return None
            words[-1] = ("/" if "-" in word else "") + words[-1]
            words[-1] += "^3" if "3" in word or word == "cubed" else "^2" if "1" not in word else ""
        elif word in UNIT_OF:
            words += f"{per}{UNIT_OF[word]}{power}".split()
            per, power, plural = "", "", True
        elif NO_UNIT.fullmatch(word):
            return None
        else:
            words.append(per + word.removesuffix("s") + power)
            plural |= len(word) > 3 and word.endswith("s") and not word.endswith("ss")
            per = power = ""
    return frozenset(words) if plural and not power else None


# -------------------- splitting

PIECE = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)  # a command, an escaped character or a character
BRACKETS = {"(": 1, "[": 1, "{": 1, r"\{": 1, ")": -1, "]": -1, "}": -1, r"\}": -1}  # ( and ] may pair, as in (0, 1]
PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")


def split_outside_brackets(s: str, *separators: str) -> list[str]:
    if not any(separator in s for separator in separators):
        return [s.strip()]
    parts, depth = [""], 0
    for piece in PIECE.findall(s):
        depth += BRACKETS.get(piece, 0)
        if depth == 0 and piece in separators:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts]


def closes_at_end(s: str) -> bool:
    """True if the last piece of s closes the bracket that opens s."""
    if not s.endswith((")", "]", "}")):
        return False
    depth, pieces = 0, PIECE.findall(s)
    for position, piece in enumerate(pieces):
        depth += BRACKETS.get(piece, 0)
        if depth == 0:
            return 0 < position == len(pieces) - 1
    return False


def list_items(s: str) -> list[str]:
    r"""The items of "a, b; c"; one with \pm stands for its two values, with a second \pm for four, with \mp for two."""
    items = []
    for item in filter(None, split_outside_brackets(s, ",", ";")):
        signs = PLUS_MINUS.findall(item)
        if signs in (["pm"] * 2, ["pm"] * 3):
            for choice in itertools.product("+-", repeat=len(signs)):
                left = iter(choice)
                items.append(PLUS_MINUS.sub(lambda _, left=left: next(left), item))
            continue
        upper = PLUS_MINUS.sub(lambda sign: "+" if sign[1] == "pm" else "-", item)
        lower = PLUS_MINUS.sub(lambda sign: "-" if sign[1] == "pm" else "+", item)
        items += [upper] if upper == lower else [upper, lower]
    return items


def inside_brackets(s: str) -> tuple[str, list[str], str] | None:
    r"""(opening bracket, items, closing bracket) of a tuple, an interval or a set \{...\}; None for anything else."""
    width = 2 if s.startswith(r"\{") else 1
    if s[:width] not in ("(", "[", r"\{") or not closes_at_end(s):
        return None
    return s[:width], list_items(s[width:-width]), s[-width:]
