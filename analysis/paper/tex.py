"""Unicode text to LaTeX: the ledger's names and formulas as mathematics, everything else escaped."""

import re
from collections.abc import Iterable, Sequence

# Whole words of the ledger's notation.
_WORDS = {
    "zᵀHz": r"z^{\top}Hz",
    "zᵀGz": r"z^{\top}Gz",
    "zᵀRz": r"z^{\top}Rz",
    "εᵀHε": r"\varepsilon^{\top}H\varepsilon",
    "Δᵀ∇²ℓΔ": r"\Delta^{\top}\nabla^2\ell\,\Delta",
    "tr H": r"\operatorname{tr}H",
    "tr G": r"\operatorname{tr}G",
    "tr R": r"\operatorname{tr}R",
    "f̄": r"\bar f",
}
_SYMBOLS = {
    **{"α": r"\alpha", "ε": r"\varepsilon", "κ": r"\kappa", "λ": r"\lambda", "μ": r"\mu", "ρ": r"\rho", "σ": r"\sigma"},
    **{"Δ": r"\Delta", "Σ": r"\Sigma", "ℓ": r"\ell", "∇": r"\nabla", "∂": r"\partial", "∞": r"\infty"},
    **{"‖": r"\Vert", "⟨": r"\langle", "⟩": r"\rangle", "|": "|", "<": "<", ">": ">", "−": "-", "·": r"\cdot"},
    **{"×": r"\times", "±": r"\pm", "≈": r"\approx", "≤": r"\le", "≥": r"\ge", "≠": r"\ne", "∝": r"\propto"},
    **{"→": r"\to", "⪰": r"\succeq", "½": r"\tfrac12", "⅛": r"\tfrac18", "√": r"\surd"},
    **{"○": r"\circ", "●": r"\bullet", "▾": r"\blacktriangledown"},
}
_PLAIN = {
    **{"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
    **{"\u00a0": "~", "\u2009": r"\,", "\u202f": r"\,", "–": "--", "—": "---", "’": "'", "“": "``", "”": "''"},
    **{"†": r"\dag{}", "…": r"\dots{}"},
}
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻ᵀ"
_LOWERED = str.maketrans(_RAISED, "0123456789-⊤")
_TOKEN = re.compile(
    "|".join(
        [
            r"(?P<file>\w[\w.-]*\.(?:jsonl?|parquet|csv|gguf)\b)",
            f"(?P<word>{'|'.join(map(re.escape, _WORDS))})",
            r"√(?P<root>\d+|[a-z])",
            r"_\{(?P<under>[^}]*)\}|_(?P<index>[A-Za-z]+)",
            f"(?P<raised>[{_RAISED}]+)",
            # A letter on its own that is one of the notation's; in "ROUGE-L" and "(b–d)" it is none.
            r"(?<![A-Za-z–-])(?P<letter>[XTCLdgHGRKnvz])(?![A-Za-z0-9])",
            r"(?P<other>.)",
        ]
    ),
    flags=re.DOTALL,
)


def tex(text: str) -> str:
    """`text` as LaTeX in pure ASCII; `ValueError` for a character that has no LaTeX here, which would go missing."""
    parts: list[tuple[bool, str]] = []  # is it mathematics, LaTeX
    for match in _TOKEN.finditer(text):
        kind, found = str(match.lastgroup), match[str(match.lastgroup)]
        if kind == "word":
            parts.append((True, _WORDS[found]))
        elif kind == "file":
            parts.append((False, escaped(found)))
        elif kind == "root":
            parts.append((True, rf"\sqrt{{{found}}}"))
        elif kind in ("under", "index"):
            parts.append((True, f"_{{{' '.join(_SYMBOLS.get(c, c) for c in found)}}}"))
        elif kind == "raised":
            parts.append((True, f"^{{{found.translate(_LOWERED)}}}".replace("⊤", r"\top")))
        elif kind == "letter" or found in _SYMBOLS:
            parts.append((True, _SYMBOLS.get(found, found)))
        elif found in _PLAIN or found.isascii():
            parts.append((False, _PLAIN.get(found, found)))
        else:
            raise ValueError(f"no LaTeX for {found!r} (U+{ord(found):04X}) in {text!r}; add it to analysis.paper.tex")
    made, open_ = [], False
    for mathematics, latex in parts:
        made.append(" " if mathematics and open_ else r"\ensuremath{" if mathematics else "}" if open_ else "")
        made.append(latex)
        open_ = mathematics
    return "".join(made) + ("}" if open_ else "")


def escaped(text: str) -> str:
    """A name (a path, an identifier) as it stands, in typewriter type, breakable at slashes and hyphens."""
    plain = "".join(_PLAIN.get(c, c) for c in text)
    return r"\texttt{" + re.sub(r"([/])", r"\1\\allowbreak{}", plain) + "}"


def rows_of(cells: Iterable[Sequence[str]]) -> str:
    """Lines of a table, one per row."""
    return "\n".join(" & ".join(row) + r" \\" for row in cells)


def table(columns: str, head: Sequence[str], body: str, caption: str, label: str, *, wide: bool) -> str:
    """A floating table with rules above, below and under its head. body: lines, by `rows_of`."""
    place = "table*" if wide else "table"
    return (
        f"\\begin{{{place}}}[t]\n\\centering\n\\footnotesize\n\\setlength{{\\tabcolsep}}{{4pt}}\n\\caption{{{caption}}}\n\\label{{{label}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{' & '.join(head)} \\\\\n\\midrule\n{body}\n\\bottomrule\n"
        f"\\end{{tabular}}\n\\end{{{place}}}\n"
    )
