r"""Formulas as text: `$\hat m \leftarrow m / (1 - \beta_1^t)$` as m̂ ← m / (1 - β₁ᵗ)."""

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
"""Commands of LaTeX by what stands for them; every other one (max, log, ...) is its own name."""
ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303"}
LOWERED = dict(zip("0123456789+-=()aehijklmnoprstuvxβφχ", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵩᵪ", strict=True))
RAISED = dict(
    zip("0123456789+-=()abcdefghijklmnoprstuvwxyzᵀβδ", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀᵝᵟ", strict=True)
)
NAMING = ("mathrm", "mathbf", "text", "texttt", "operatorname")
TAKING = (*NAMING, "frac", "dfrac", "sqrt")
"""Commands that wait for the group behind them to be read."""
HELD = str.maketrans({"\ue000": "{", "\ue001": "}", "\ue002": "_", "\ue003": "^"})
"""What stands for signs that are to stay, while their like is looked for."""
GROUP = r"\{([^{}]*)\}"
ONE = rf"(?:{GROUP}|(\\[A-Za-z]+|[^\s\\{{}}]))"
"""What a command takes: a group, or the next character or command."""


def plain(text: str) -> str:
    r"""A docstring with its formulas as text.

    >>> plain(r"$\hat m_t = \frac{m_t}{1 - \beta_1^t}$ and $x^{-1/2}$")
    'm̂ₜ = mₜ / (1 - β₁ᵗ) and x^(-1/2)'
    """
    text = re.sub(r"\$([^$]+)\$", lambda found: formula(found[1]), text)
    text = re.sub(r":math:(?:`([^`]+)`|([^\s`,]+))", lambda found: formula(found[1] or found[2]), text)
    text = re.sub(r"\.\. (\w+)::", lambda found: f"{found[1].capitalize()}:", re.sub(r"\.\. version\w+::.*", "", text))
    text = re.sub(r":(?:\w+:)?\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def formula(text: str) -> str:
    """One formula as text."""
    text = re.sub(r"\\(?:begin|end)\{[^{}]*\}(?:\{[^{}]*\})?|&", "", text)
    text = re.sub(r"\\[,;: ]|~", " ", text).replace("\\!", "").replace("\\|", "‖").replace("\\\\", "\n")
    text = re.sub(r"\\([{}])", lambda brace: {"{": "\ue000", "}": "\ue001"}[brace[1]], text)
    text = re.sub(r"\\([#%&])", r"\1", text.replace("\\_", "\ue002"))
    before = None
    while text != before:  # from the innermost group outwards
        before = text
        text = re.sub(rf"\\(?:{'|'.join(NAMING)})\s*" + GROUP, r"\1", text)
        text = re.sub(r"\\d?frac\s*" + GROUP + r"\s*" + GROUP + r"(?=\s*([\w(\\‖√])?)", _fraction, text)
        text = re.sub(r"\\(hat|bar|tilde)\s*" + ONE, lambda of: _accented(of[1], of[2] or of[3]), text)
        text = re.sub(r"\\sqrt\s*" + ONE, lambda of: f"√{_part(of[1] or of[2])}", text)
        text = re.sub(r"\\([A-Za-z]+)(?![A-Za-z])", _symbol, text)
        text = re.sub(r"_" + ONE, lambda of: _set(of[1] or of[2], LOWERED, "\ue002"), text)
        text = re.sub(r"\^" + ONE, lambda of: _set(of[1] or of[2], RAISED, "\ue003"), text)
    text = text.replace("{", "").replace("}", "").translate(HELD)
    text = re.sub(r"‖\s*([^‖]+?)\s*‖", r"‖\1‖", text)
    return re.sub(r"  +", " ", text).strip() if "\n" not in text else text


def _symbol(found: re.Match[str]) -> str:
    name = found[1]
    return found[0] if name in (*TAKING, *ACCENTS) else SYMBOLS.get(name, name)


def _fraction(found: re.Match[str]) -> str:
    """A fraction on one line, in brackets where something follows it."""
    line = f"{_part(found[1])} / {_part(found[2])}"
    return f"({line})" if found[3] else line


def _part(text: str) -> str:
    """What is divided, or under a root: in brackets unless it is one thing."""
    text = text.strip()
    one = re.fullmatch(r"\\?[\w\u0300-\u036f₀-₉ᵢⱼₖₜ²ᵗ']+", text) or re.fullmatch(r"[√\w₀-ₜ]*\([^()]*\)|‖[^‖]*‖²?", text)
    return text if one else f"({text})"


def _accented(accent: str, text: str) -> str:
    text = SYMBOLS.get(text.removeprefix("\\"), text) if text.startswith("\\") else text
    return text[:1] + ACCENTS[accent] + text[1:]


def _set(text: str, letters: Mapping[str, str], sign: str) -> str:
    """A subscript or superscript in letters of its own, if there are such for all of it."""
    text = SYMBOLS.get(text.removeprefix("\\"), text.removeprefix("\\")) if text.startswith("\\") else text
    bare = text.replace(" ", "")
    word = len(bare) > 2 and bare.isalpha()
    if bare and not word and all(letter in letters for letter in bare):
        return "".join(letters[letter] for letter in bare)
    return f"{sign}{text}" if word or len(text) == 1 else f"{sign}({text})"
