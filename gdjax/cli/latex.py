r"""Convert LaTeX formulas to Unicode text: `$\hat m \leftarrow m / (1 - \beta_1^t)$` to m̂ ← m / (1 - β₁ᵗ)."""

import re
from collections.abc import Mapping

GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
SYMBOLS: Mapping[str, str] = {
    **dict(zip(GREEK.split(), "αβγδεζηθικλμνξπρστφχψωΓΔΘΛΞΠΣΦΨΩ", strict=True)),
    **{"varepsilon": "ε", "ell": "ℓ", "infty": "∞", "nabla": "∇", "partial": "∂", "top": "ᵀ", "star": "*"},  # noqa: RUF001
    **{"leftarrow": "←", "rightarrow": "→", "to": "→", "in": "∈", "ni": "∋", "forall": "∀", "le": "≤", "leq": "≤"},
    **{"ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "approx": "≈", "pm": "±", "cdot": "·", "times": "×", "odot": "⊙"},  # noqa: RUF001
    **{"sum": "Σ", "prod": "Π", "dots": "…", "ldots": "…", "lVert": "‖", "rVert": "‖", "langle": "⟨", "rangle": "⟩"},
    **{"quad": "  ", "left": "", "right": "", "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉"},
}
"""Text for each LaTeX command; every other command (max, log, ...) is written as its name."""
ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303"}
SUBSCRIPTS = dict(zip("0123456789+-=()aehijklmnoprstuvxβφχ", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵩᵪ", strict=True))
SUPERSCRIPTS = dict(
    zip("0123456789+-=()abcdefghijklmnoprstuvwxyzᵀβδ", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀᵝᵟ", strict=True)
)
FONT_COMMANDS = ("mathrm", "mathbf", "text", "texttt", "operatorname")
COMMANDS_WITH_GROUPS = (*FONT_COMMANDS, "frac", "dfrac", "sqrt")
"""Commands that are converted together with the groups after them."""
PLACEHOLDERS = str.maketrans({"\ue000": "{", "\ue001": "}", "\ue002": "_", "\ue003": "^"})
"""Private characters for literal braces, `_` and `^`, which the conversion must not touch."""
GROUP = r"\{([^{}]*)\}"
ARGUMENT = rf"(?:{GROUP}|(\\[A-Za-z]+|[^\s\\{{}}]))"
"""Argument of a command: a group, or the next character or command."""


def docstring_to_text(docstring: str) -> str:
    r"""Convert the formulas and cross-references of a docstring to text.

    >>> docstring_to_text(r"$\hat m_t = \frac{m_t}{1 - \beta_1^t}$ and $x^{-1/2}$")
    'm̂ₜ = mₜ / (1 - β₁ᵗ) and x^(-1/2)'
    """
    text = re.sub(r"\$([^$]+)\$", lambda match: formula_to_text(match[1]), docstring)
    text = re.sub(r":math:(?:`([^`]+)`|([^\s`,]+))", lambda match: formula_to_text(match[1] or match[2]), text)
    text = re.sub(r"\.\. version\w+::.*", "", text)
    text = re.sub(r"\.\. (\w+)::", lambda match: f"{match[1].capitalize()}:", text)
    text = re.sub(r":(?:\w+:)?\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def formula_to_text(formula: str) -> str:
    """Convert one formula to text."""
    text = re.sub(r"\\(?:begin|end)\{[^{}]*\}(?:\{[^{}]*\})?|&", "", formula)
    text = re.sub(r"\\[,;: ]|~", " ", text).replace("\\!", "").replace("\\|", "‖").replace("\\\\", "\n")
    text = re.sub(r"\\([{}])", lambda match: {"{": "\ue000", "}": "\ue001"}[match[1]], text)
    text = re.sub(r"\\([#%&])", r"\1", text.replace("\\_", "\ue002"))
    before = None
    while text != before:  # each pass converts the innermost groups
        before = text
        text = re.sub(rf"\\(?:{'|'.join(FONT_COMMANDS)})\s*" + GROUP, r"\1", text)
        text = re.sub(r"\\d?frac\s*" + GROUP + r"\s*" + GROUP + r"(?=\s*([\w(\\‖√])?)", _fraction, text)
        text = re.sub(r"\\(hat|bar|tilde)\s*" + ARGUMENT, lambda match: _accented(match[1], match[2] or match[3]), text)
        text = re.sub(r"\\sqrt\s*" + ARGUMENT, lambda match: f"√{_in_brackets(match[1] or match[2])}", text)
        text = re.sub(r"\\([A-Za-z]+)(?![A-Za-z])", _symbol, text)
        text = re.sub(r"_" + ARGUMENT, lambda match: _script(match[1] or match[2], SUBSCRIPTS, "\ue002"), text)
        text = re.sub(r"\^" + ARGUMENT, lambda match: _script(match[1] or match[2], SUPERSCRIPTS, "\ue003"), text)
    text = text.replace("{", "").replace("}", "").translate(PLACEHOLDERS)
    text = re.sub(r"‖\s*([^‖]+?)\s*‖", r"‖\1‖", text)
    return re.sub(r"  +", " ", text).strip() if "\n" not in text else text


def _symbol(match: re.Match[str]) -> str:
    """Return the text of a command; commands whose groups are not converted yet stay."""
    name = match[1]
    return match[0] if name in (*COMMANDS_WITH_GROUPS, *ACCENTS) else SYMBOLS.get(name, name)


def _fraction(match: re.Match[str]) -> str:
    """Return a fraction on one line, in brackets if a factor follows."""
    line = f"{_in_brackets(match[1])} / {_in_brackets(match[2])}"
    return f"({line})" if match[3] else line


def _in_brackets(text: str) -> str:
    """Return a numerator, denominator or radicand in brackets, unless it is a single term."""
    text = text.strip()
    is_name = re.fullmatch(r"\\?[\w\u0300-\u036f₀-₉ᵢⱼₖₜ²ᵗ']+", text)
    is_enclosed = re.fullmatch(r"[√\w₀-ₜ]*\([^()]*\)|‖[^‖]*‖²?", text)
    return text if is_name or is_enclosed else f"({text})"


def _accented(accent: str, text: str) -> str:
    text = SYMBOLS.get(text.removeprefix("\\"), text) if text.startswith("\\") else text
    return text[:1] + ACCENTS[accent] + text[1:]


def _script(text: str, letters: Mapping[str, str], sign: str) -> str:
    """Return a subscript or superscript in Unicode letters if all of its characters have one, else after its sign."""
    text = SYMBOLS.get(text.removeprefix("\\"), text.removeprefix("\\")) if text.startswith("\\") else text
    bare = text.replace(" ", "")
    is_word = len(bare) > 2 and bare.isalpha()
    if bare and not is_word and all(letter in letters for letter in bare):
        return "".join(letters[letter] for letter in bare)
    return f"{sign}{text}" if is_word or len(text) == 1 else f"{sign}({text})"
